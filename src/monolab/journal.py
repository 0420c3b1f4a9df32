"""RESEARCH_JOURNAL.md: the lab's own entries, newest on top, old ones never touched."""

import hashlib
import re

from monolab.errors import LabError
from monolab.paths import INFERENCE_EMPTY, Lab
from monolab.receipts import write_atomic
from monolab.verdicts import Verdict, records

LAST = "\n- Against: "  # the last line of the lab's part of an entry
VERDICT = re.compile(r"## \d{4}-\d\d-\d\dT[\d:]{8}Z [a-z0-9-]+: (supported|refuted|inconclusive)$", re.MULTILINE)


def number(value: float | None) -> str:
    """A signed number with four significant digits; a dash where nothing was measured."""
    return "-" if value is None else f"{value:+.4g}"


def interval(verdict: Verdict) -> str:
    return "" if verdict.low is None else f", 95 % interval [{number(verdict.low)}, {number(verdict.high)}]"


def expected(verdict: Verdict) -> str:
    """What was written down before the runs."""
    if verdict.predicted is None:
        return f"{verdict.hypothesis or 'nothing was written down'} (no signed effect in {verdict.metric}: not scorable)"
    credence = "no credence given" if verdict.credence is None else f"credence {verdict.credence:.0%}"
    return f"{number(verdict.predicted)} {verdict.metric} against {verdict.against}, {credence}"


def observed(verdict: Verdict) -> str:
    """What was measured, with everything needed to doubt it."""
    failed = "".join(f"; {count} run(s) {status}" for status, count in verdict.failures.items())
    if verdict.effect is None:
        return f"no value ({verdict.why}){failed}"
    return (
        f"{number(verdict.effect)} {verdict.metric} against {verdict.against}{interval(verdict)}, {len(verdict.seeds)} paired seed(s), "
        f"noise floor {verdict.floor:.2g}{failed}"
    )


def gate(verdict: Verdict) -> str:
    """What the gate decided, against which code, and by how much it was allowed to be wrong."""
    one = verdict.gate
    word = {"keep": "kept", "simpler": "kept as simpler", "more": "open", "promising": "promising, not kept", "drop": "dropped"}[one.decision]
    over = f" (with {', '.join(one.through)}, which it builds on)" if one.through else ""
    test = f"; idea {one.test} to be tested" if one.test else ""
    return f"{word} against {one.anchor}{over}: {one.why}{test}"


def size(verdict: Verdict) -> str:
    """Lines of code and what it costs, matched or flagged."""
    added, removed = verdict.lines
    costs = ", ".join(f"{words} x{ratio:.2f}" for words, ratio in verdict.ratios.items())
    told = (
        f"confounded with {', '.join(verdict.confounds)}"
        if verdict.confounds
        else "matched (within x1.1, 1 s, 0.1 GiB)"
        if costs
        else "cost not measured"
    )
    return f"+{added} -{removed} lines of code" + (f", {costs}" if costs else "") + f": {told}"


def entry(verdict: Verdict) -> str:
    """The journal's entry: observation filled in, inference left for the author."""
    exploratory = f"- EXPLORATORY: {verdict.exploratory}\n" if verdict.exploratory else ""
    return (
        f"## {verdict.time} {verdict.idea}: {verdict.verdict}\n\n"
        f"{exploratory}"
        f"- Question: {verdict.question or '(none was asked)'}\n"
        f"- Expected: {expected(verdict)}\n"
        f"- Observed: {observed(verdict)}\n"
        f"- Verdict ({verdict.stage}): {verdict.verdict}, {verdict.why}\n"
        f"- Gate: {gate(verdict)}\n"
        f"- Size: {size(verdict)}\n"
        f"- Runs: {', '.join(verdict.runs)}\n"
        f"- Against: {', '.join(verdict.against_runs)}\n\n"
        f"{INFERENCE_EMPTY}\n"
    )


def has(lab: Lab, text: str) -> bool:
    """Whether the journal has an entry already, whatever its author has written as the inference since."""
    return lab.journal.exists() and text.partition(INFERENCE_EMPTY)[0].strip() in lab.journal.read_text()


def entries(lab: Lab) -> list[str]:
    """Every entry, newest first."""
    text = lab.journal.read_text() if lab.journal.exists() else ""
    return [entry.rstrip() for entry in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]]


def sha(text: str) -> str:
    """sha256 of the lab's part of an entry: all lines but the inference, which is the author's."""
    head, mark, rest = text.partition(LAST)
    return hashlib.sha256((head + mark + rest.partition("\n")[0]).encode()).hexdigest()


def audit(lab: Lab) -> list[str]:
    """Where the journal is not what the lab wrote: entries that break off, that are gone, or of which a line was changed."""
    wrong, there = [], {}
    for text in entries(lab):
        heading = text.partition("\n")[0]
        if VERDICT.match(text) and LAST not in text:
            wrong.append(f"{lab.journal.name}: the entry {heading!r} breaks off")
        there.setdefault(heading, []).append(text)
    try:
        told = [one for one in records(lab) if one.told]
    except LabError as error:
        return [*wrong, str(error)]
    for one in told:
        text = entry(one)
        heading = text.partition("\n")[0]
        found = there.get(heading, [])
        if not found:
            wrong.append(f"{lab.journal.name}: the entry {heading!r} is gone")
        elif all(LAST in other and sha(other) != one.told for other in found):
            pairs = zip(found[0].splitlines(), text.splitlines(), strict=False) if sha(text) == one.told else ()
            where = next((f": {is_now!r} was {was!r}" for is_now, was in pairs if is_now != was), "")
            wrong.append(f"{lab.journal.name}: the lab's part of the entry {heading!r} was changed{where}")
    return wrong


def append(lab: Lab, text: str) -> None:
    """Put an entry on top, below the header; one that is there already stays as it is. The caller holds the lab's lock."""
    if has(lab, text):
        return
    old = lab.journal.read_text() if lab.journal.exists() else "# Research journal\n"
    header, mark, entries = old.partition("\n## ")
    write_atomic(lab.journal, f"{header.rstrip()}\n\n{text}" + (f"\n## {entries}" if mark else ""))

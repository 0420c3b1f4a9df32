"""Explore -> verify: what the gate kept at one stage is measured again at the next, longer and larger, with seeds that nothing was chosen by.

An idea that is kept there too is scale-stable; one that is refuted or dropped there is scale-bound: it was right, and only at the small scale.
"""

from dataclasses import dataclass

from monolab import backlog, queue, receipts, results, snapshot, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.receipts import Request
from monolab.verdicts import Verdict

SEEDS = (100, 101, 102)  # asked for at once: none of them screens


@dataclass(frozen=True)
class Standing:
    """What is known of an idea at two stages; effects are candidate minus anchor (what it was kept against), in the metric's unit."""

    idea: str
    small: float | None
    large: float | None
    word: str  # scale-stable, scale-bound, open, waiting (kept at the first stage, not asked at the second)
    why: str


def standings(lab: Lab, small: str = "explore", large: str = "verify") -> list[Standing]:
    """Of every idea that was kept at `small`."""
    past = [one for one in verdicts.by_arm(verdicts.records(lab)) if not one.control]
    kept = {one.idea: one for one in past if one.stage == small and one.kept}
    there = {one.idea: one for one in past if one.stage == large}
    asked = {row.idea for row in results.load(lab) if row.stage == large} | {one.idea for one in backlog.pending(lab) if one.stage == large}
    return [_standing(one, there.get(idea), idea in asked, small, large) for idea, one in kept.items()]


def _standing(one: Verdict, other: Verdict | None, asked: bool, small: str, large: str) -> Standing:
    if other is None:
        word, why = ("open", "its runs are not judged yet") if asked else ("waiting", f"just promote {one.idea}")
    elif other.kept:
        word, why = "scale-stable", other.gate.why
    elif other.verdict == "refuted" or other.gate.decision == "drop":
        word, why = "scale-bound", other.why if other.verdict == "refuted" else other.gate.why
    else:
        word, why = "open", other.gate.why
    if other and other.gate.anchor != one.gate.anchor:
        why += f"; held against {one.gate.anchor} at {small}, against {other.gate.anchor} at {large}"
    return Standing(one.idea, one.gate.effect, other and other.gate.effect, word, why)


def said(lab: Lab, slug: str, small: str = "explore", large: str = "verify") -> str:
    """One line on whether what was kept of an idea at the small scale holds at the large one; "" where it was not kept. Reads only what concerns it."""
    past = verdicts.looks(lab).of(slug)
    one = next((look for look in reversed(past) if look.stage == small and look.kept), None)
    if one is None:
        return ""
    other = next((look for look in reversed(past) if look.stage == large), None)
    asked = bool(results.view(lab).of(slug, large)) or any((run.idea, run.stage) == (slug, large) for run in backlog.pending(lab))
    found = _standing(one, other, asked, small, large)
    return f"{found.word}: {found.why}"


def promote(lab: Lab, slugs: list[str], small: str = "explore", large: str = "verify") -> list[Request]:
    """Queue ideas at the larger stage; by default all that were kept at the smaller one and not asked there.

    With them goes what they were kept against, where it is not measured there: the baseline, and the kept ideas that they build on.

    Raises LabError when there is none, when an idea was not kept, and when it was asked already.
    """
    problems.load(lab).stage(large)
    known = {one.idea: one for one in standings(lab, small, large)}
    chosen = slugs or [one.idea for one in known.values() if one.word == "waiting"]
    if not chosen:
        raise LabError(f"nothing waits to be promoted: no idea kept at {small} that was not asked at {large}", hint="just lineage tree")
    for slug in chosen:
        if slug not in known:
            raise LabError(f"{slug} was not kept at {small}: what is not better there is not worth a longer run", hint=f"just verdict {slug}")
        if known[slug].word != "waiting":
            raise LabError(f"{slug} was asked at {large} already: {known[slug].word}", hint=f"just verdict {slug} --stage {large}")
    under = (other for slug in chosen for other in _stack(lab, slug, known, small))
    chosen = [slug for slug in dict.fromkeys(under) if known[slug].word == "waiting"]
    kept = [(slug, receipts.receipt(lab, _kept(lab, slug, small).runs[0])) for slug in chosen]
    for slug, first in kept:  # what was kept is what is measured again, with the options it had
        if snapshot.take(queue.tree_of(lab, slug)).code_sha != first.code_sha:
            raise LabError(f"the worktree of {slug} is not the code that was kept", hint=f"git -C {lab.worktree(slug)} checkout {first.commit[:12]}")
    made, coming = [], {one.idea for one in backlog.pending(lab) if one.stage == large}
    if BASELINE not in coming and not any(row.idea == BASELINE and row.stage == large and row.value is not None for row in results.load(lab)):
        made += queue.enqueue(lab, BASELINE, "Q: where does the baseline stand at the larger scale?", large, list(SEEDS), [])
    for slug, first in kept:
        made += queue.enqueue(lab, slug, None, large, list(SEEDS), list(first.args))
    return made


def _stack(lab: Lab, slug: str, known: dict[str, Standing], stage: str) -> list[str]:
    """An idea with the kept ones below it that it was kept against, the lowest first."""
    found = [slug]
    while (anchor := _kept(lab, found[0], stage).gate.anchor) in known and anchor not in found:
        found.insert(0, anchor)
    return found


def _kept(lab: Lab, slug: str, stage: str) -> Verdict:
    """The last arm of an idea that was kept at a stage."""
    return next(one for one in reversed(verdicts.by_arm(verdicts.records(lab))) if (one.idea, one.stage, one.kept) == (slug, stage, True))

"""Reports: `9_reports/{YYYY-MM-DD}_{slug}.md`, filled in from the template; the inference stays the author's."""

import json
import re
from pathlib import Path

from monolab import analyst, lineage, receipts, verdicts
from monolab import problem as problems
from monolab import results as rows_of
from monolab.errors import LabError
from monolab.journal import expected, gate, number, observed, size
from monolab.paths import INFERENCE_EMPTY, Lab
from monolab.verdicts import Verdict

INFERENCE = "## Inference"
EXPLORATORY = "exploratory.jsonl"  # in 6_runs/: the analyses beyond the preregistered one


def write(lab: Lab, verdict: Verdict) -> Path:
    """Write the report of a verdict, as `page` has it."""
    path, text = page(lab, verdict)
    receipts.write_atomic(path, text)
    return path


def page(lab: Lab, verdict: Verdict) -> tuple[Path, str]:
    """Where the report of a verdict lies, and its text. An existing report of the idea keeps its name and all of its inference.

    Raises LabError when the template names a field that the lab does not know.
    """
    template = lab.reports / "_TEMPLATE.md"
    if not template.is_file():
        raise LabError(f"{template} is missing", hint="git checkout -- 9_reports/_TEMPLATE.md")
    asked = template.read_text()
    values = _values(lab, verdict, relatives="{{relatives}}" in asked)  # which reads every receipt of the lab

    def fill(match: re.Match) -> str:
        if match[1] not in values:
            raise LabError(f"9_reports/_TEMPLATE.md has an unknown field {{{{{match[1]}}}}}", hint=f"one of: {', '.join(values)}")
        return values[match[1]]

    text = re.sub(r"\{\{(\w+)\}\}", fill, asked)
    old = place(lab, verdict)
    path = old or lab.reports / f"{verdict.time[:10]}_{name(verdict)}.md"
    if old and INFERENCE in text:
        _, mark, written = path.read_text().partition(INFERENCE)
        if mark and INFERENCE_EMPTY not in written:
            text = text.partition(INFERENCE)[0] + INFERENCE + written
    return path, text


def place(lab: Lab, verdict: Verdict) -> Path | None:
    """Where the report of a verdict's idea and stage lies, once it was written."""
    return max(lab.reports.glob(f"????-??-??_{name(verdict)}.md"), default=None)


def written(lab: Lab) -> dict[str, Path]:
    """Every report in 9_reports/, the newest of each name."""
    return {path.stem[len("YYYY-MM-DD_") :]: path for path in sorted(lab.reports.glob("????-??-??_*.md"))}


def name(verdict: Verdict) -> str:
    """What a report's file is called after its date."""
    return verdict.idea if verdict.stage == "explore" else f"{verdict.idea}-{verdict.stage}"


def again(lab: Lab, slug: str, stage: str) -> Path:
    """Judge anew and write the report from what is measured by now."""
    verdict = verdicts.judge(lab, problems.load(lab), rows_of.load(lab), slug, stage)
    with rows_of.locked(lab):
        return write(lab, verdict)


def _values(lab: Lab, verdict: Verdict, relatives: bool) -> dict[str, str]:
    mine = [receipts.receipt(lab, run_id) for run_id in verdict.runs]
    theirs = [receipts.receipt(lab, run_id) for run_id in verdict.against_runs]
    table = [f"| run | idea | seed | status | {verdict.metric} | seconds | peak GiB | parameters |", "|---|---|---|---|---|---|---|---|"]
    for receipt in (*mine, *theirs):
        value = "" if receipt.value is None else f"{receipt.value:.6g}"
        cells = (receipt.run_id, receipt.idea, receipt.seed, receipt.status, value, receipt.seconds, receipt.peak_gb, receipt.params)
        table.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    one = mine[-1]
    shas = {
        "commit": one.commit,
        "code_sha": one.code_sha,
        "eval_sha": one.eval_sha,
        "data_sha": one.data_sha,
        "env_sha": one.env_sha,
        "hardware": one.hardware,
        "isolation": one.isolation,
    }
    return {
        "slug": verdict.idea,
        "date": verdict.time[:10],
        "stage": verdict.stage,
        "metric": verdict.metric,
        "question": verdict.question,
        "hypothesis": verdict.hypothesis,
        "mechanism": one.mechanism or "(no mechanism was written down)",
        "kill_rule": verdict.kill_rule or "(none was written down)",
        "expected": expected(verdict),
        "observed": observed(verdict),
        "effect": number(verdict.effect),
        "verdict": f"{verdict.verdict}: {verdict.why}",
        "gate": gate(verdict),
        "size": size(verdict),
        "standing": f"EXPLORATORY: {verdict.exploratory}."
        if verdict.exploratory
        else "Preregistered: the prediction was frozen when the run was asked for.",
        "relatives": _relatives(lab, verdict) if relatives else "",
        "beyond": "\n".join(_beyond(lab, verdict)) or "none",
        "table": "\n".join(table),
        "runs": "\n".join(f"- `6_runs/{run_id}/`" for run_id in (*verdict.runs, *verdict.against_runs)),
        "provenance": "\n".join(f"- {name}: `{value}`" for name, value in shas.items()),
        "args": " ".join(one.args) or "(none)",
        "inference": INFERENCE_EMPTY,
    }


def _relatives(lab: Lab, verdict: Verdict) -> str:
    return analyst.text(analyst.of(lineage.of_lab(lab).at(verdict.stage), verdict))


def _beyond(lab: Lab, verdict: Verdict) -> list[str]:
    path = lab.runs / EXPLORATORY
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [f"- {one['text']}" for one in told if (one["idea"], one["stage"]) == (verdict.idea, verdict.stage)]

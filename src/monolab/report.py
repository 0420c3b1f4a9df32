"""Reports: `9_reports/{YYYY-MM-DD}_{slug}.md`, filled in from the template; the inference stays the author's."""

import json
import re
from pathlib import Path

from monolab import problem as problems
from monolab import receipts, verdicts
from monolab import results as rows_of
from monolab.errors import LabError
from monolab.guard import INFERENCE_EMPTY
from monolab.journal import expected, gate, number, observed, size
from monolab.paths import Lab
from monolab.verdicts import Verdict

INFERENCE = "## Inference"
EXPLORATORY = "exploratory.jsonl"  # in 6_runs/: the analyses beyond the preregistered one


def write(lab: Lab, verdict: Verdict) -> Path:
    """Write the report of a verdict. An existing report of the idea keeps its name and all of its inference.

    Raises LabError when the template names a field that the lab does not know.
    """
    template = lab.reports / "_TEMPLATE.md"
    if not template.is_file():
        raise LabError(f"{template} is missing", hint="git checkout -- 9_reports/_TEMPLATE.md")
    values = _values(lab, verdict)

    def fill(match: re.Match) -> str:
        if match[1] not in values:
            raise LabError(f"9_reports/_TEMPLATE.md has an unknown field {{{{{match[1]}}}}}", hint=f"one of: {', '.join(values)}")
        return values[match[1]]

    text = re.sub(r"\{\{(\w+)\}\}", fill, template.read_text())
    name = verdict.idea if verdict.stage == "explore" else f"{verdict.idea}-{verdict.stage}"
    old = sorted(lab.reports.glob(f"????-??-??_{name}.md"))
    path = old[-1] if old else lab.reports / f"{verdict.time[:10]}_{name}.md"
    if old and INFERENCE in text:
        _, mark, written = path.read_text().partition(INFERENCE)
        if mark and INFERENCE_EMPTY not in written:
            text = text.partition(INFERENCE)[0] + INFERENCE + written
    receipts.write_atomic(path, text)
    return path


def again(lab: Lab, slug: str, stage: str) -> Path:
    """Judge anew and write the report from what is measured by now."""
    return write(lab, verdicts.judge(lab, problems.load(lab), rows_of.load(lab), slug, stage))


def _values(lab: Lab, verdict: Verdict) -> dict[str, str]:
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
        "beyond": "\n".join(_beyond(lab, verdict)) or "none",
        "table": "\n".join(table),
        "runs": "\n".join(f"- `6_runs/{run_id}/`" for run_id in (*verdict.runs, *verdict.against_runs)),
        "provenance": "\n".join(f"- {name}: `{value}`" for name, value in shas.items()),
        "args": " ".join(one.args) or "(none)",
        "inference": INFERENCE_EMPTY,
    }


def _beyond(lab: Lab, verdict: Verdict) -> list[str]:
    path = lab.runs / EXPLORATORY
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [f"- {one['text']}" for one in told if (one["idea"], one["stage"]) == (verdict.idea, verdict.stage)]

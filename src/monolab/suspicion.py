"""A number that is too good is held as a suspected leak, and looked into at once, while the device, the checkpoint and the code are at hand.

ASI-Arch discards any loss more than 10 % below the baseline, unseen. Here two questions are asked of it: does its code look ahead (probe.py), and does the
scorer like the validation text better than the text that it was trained on? A model that has only learned cannot: it saw the training text.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from loguru import logger

from monolab import device, phases, receipts, results, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem
from monolab.receipts import Request

MEMORISED = 0.05  # share by which validation may be better than training: the two are different text
CLEARED, UNKNOWN = "leak-checked", "implausible"


@dataclass(frozen=True)
class Investigation:
    """What was found. `leak`: the reason, "" where none was found; `unknown`: why a question could not be asked."""

    value: float
    best: float
    gain: float  # share of the best
    train: float | None  # the same metric on the training text
    findings: tuple[dict, ...]  # of probe.py
    leak: str
    unknown: str

    @property
    def flag(self) -> str:
        return UNKNOWN if self.unknown else CLEARED


def best_so_far(lab: Lab, problem: Problem, stage: str) -> float | None:
    """The best mean that holds at a stage: of the baseline, and of what the gate kept. None while the baseline was not measured."""
    base = verdicts.arm(lab, results.view(lab), BASELINE, stage)
    if base is None or not base.values:
        return None
    known = [sum(base.values.values()) / len(base.values)]
    known += [one.mean for one in verdicts.by_arm(verdicts.records(lab)) if one.stage == stage and one.kept and one.mean is not None]
    return problem.sign * max(problem.sign * value for value in known)


def gain(problem: Problem, value: float, best: float | None) -> float:
    """By what share of the best a value is better; 0 where there is none, or it is 0."""
    return problem.sign * (value - best) / abs(best) if best else 0.0


def investigate(
    lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, value: float, best: float | None
) -> Investigation | None:
    """None for a number that is plausible beside the `best`. Otherwise what was found, also kept as `investigation.json` in the run's folder."""
    better = gain(problem, value, best)
    if not problem.implausible or better <= problem.implausible or request.idea == BASELINE:
        return None
    folder = lab.run(request.run_id)
    logger.warning(f"{request.run_id}: {problem.metric} {value:g} is {better:.0%} better than the best so far, {best:g}: looking for a leak")
    leak, unknown, findings = "", [], []
    try:
        findings = phases.probe(lab, folder, machine, problem, request.args)
    except LabError as error:
        unknown.append(error.what)
    wrong = next((one for one in findings if one["ok"] is False and one["check"] in ("causality", "batches", "lengths")), None)
    if wrong:
        leak = f"{wrong['check']}: {wrong['where']}: {wrong['what']}"
    train = _on_training_text(lab, problem, request, machine, held, folder, unknown)
    if train is not None and gain(problem, value, train) > MEMORISED:
        leak = (
            leak or f"it knows the validation text better than what it was trained on ({problem.metric} {value:g} against {train:g}): it has seen it"
        )
    found = Investigation(value, best, better, train, tuple(findings), leak, "; ".join(unknown))
    receipts.write_atomic(folder / "investigation.json", json.dumps(asdict(found), indent=1))
    logger.warning(f"{request.run_id}: {leak or (f'it could not be settled: {found.unknown}' if unknown else 'no leak was found')}")
    return found


def _on_training_text(
    lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, folder: Path, unknown: list[str]
) -> float | None:
    outcome, metrics = phases.score(lab, folder, machine, problem, request.stage, held, split="train")
    if outcome.status != "ok" or isinstance(metrics, str):
        unknown.append(f"the scorer gave no number on the training text ({metrics or outcome.status})")
        return None
    return metrics[problem.metric]


def reason(found: Investigation, metric: str) -> str:
    return f"held as a suspected leak: {metric} {found.value:g} is {found.gain:.0%} better than the best so far, {found.best:g}; {found.leak}"

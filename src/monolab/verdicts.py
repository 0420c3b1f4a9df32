"""Verdicts: which runs answer an idea, what they are compared with, and the record of what came out."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from monolab import receipts, stats
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt
from monolab.results import Row

CONDITIONS = {"eval_sha": "the scorer", "data_sha": "the data", "env_sha": "the environment", "hardware": "the hardware"}
CONFOUNDED = 1.1  # a candidate this many times as large or as slow as its reference is flagged


@dataclass(frozen=True)
class Arm:
    """All runs of one code with one set of options under one set of conditions."""

    idea: str
    stage: str
    receipts: tuple[Receipt, ...]

    @property
    def values(self) -> dict[int, float]:
        """The newest measured value of every seed."""
        return {receipt.seed: receipt.value for receipt in self.receipts if receipt.value is not None}

    @property
    def floor(self) -> float | None:
        """The noise floor, once three seeds are measured."""
        return stats.noise_floor(list(self.values.values())) if len(self.values) >= 3 else None

    def median(self, field: str) -> float | None:
        found = [getattr(receipt, field) for receipt in self.receipts if receipt.status == "ok" and getattr(receipt, field) is not None]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Verdict:
    """One line of `6_runs/verdicts.jsonl`: computed, with the runs that it was computed from."""

    time: str
    idea: str
    stage: str
    code_sha: str
    args: tuple[str, ...]
    metric: str
    question: str
    hypothesis: str
    predicted: float | None
    credence: float | None
    kill_rule: str
    against: str
    verdict: str
    why: str
    effect: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    floor: float
    better: bool
    mean: float | None
    against_mean: float | None
    failures: dict[str, int]
    confounds: tuple[str, ...]
    runs: tuple[str, ...]
    against_runs: tuple[str, ...]


def _file(lab: Lab) -> Path:
    return lab.runs / "verdicts.jsonl"


def records(lab: Lab) -> list[Verdict]:
    """All verdicts recorded so far, oldest first."""
    path = _file(lab)
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            values = json.loads(text)
            tuples = {name: tuple(values[name]) for name in ("args", "seeds", "confounds", "runs", "against_runs")}
            found.append(Verdict(**values | tuples))
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{path} line {number} is damaged: {error}", hint=f"git checkout -- 6_runs/{path.name}") from error
    return found


def record(lab: Lab, verdict: Verdict) -> None:
    """Append a verdict to the record. The caller holds the lab's lock."""
    with _file(lab).open("a") as file:
        file.write(json.dumps(asdict(verdict)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def newest(lab: Lab) -> dict[tuple[str, str], Verdict]:
    """The last recorded verdict of every idea and stage."""
    return {(record.idea, record.stage): record for record in records(lab)}


def is_reference(flags: Iterable[str]) -> bool:
    """Whether a baseline run with these flags measured main's own committed code with its own settings."""
    return not {"args", "uncommitted", "off-main"} & set(flags)


def arm(lab: Lab, rows: list[Row], idea: str, stage: str, like: Receipt | None = None, code: tuple[str, tuple[str, ...]] | None = None) -> Arm | None:
    """The newest arm of an idea: of the code and options `code`, where given; under the conditions of `like`, where given.

    None when the idea has no such run at this stage. Raises LabError when it has some, but only under other conditions.
    """
    mine = [row for row in rows if row.idea == idea and row.stage == stage and (idea != BASELINE or is_reference(row.flags.split(",")))]
    chosen: list[Receipt] = []
    differs: set[str] = set()
    for row in reversed(mine):
        receipt = receipts.receipt(lab, row.run_id)
        if receipt is None:
            raise LabError(f"results.tsv names {row.run_id}, which has no receipt", hint="lab check")
        if code and (receipt.code_sha, receipt.args) != code:
            continue
        if like and (wrong := {name for name in CONDITIONS if getattr(receipt, name) != getattr(like, name)}):
            differs |= wrong
        elif not chosen or _same_arm(receipt, chosen[0]):
            chosen.append(receipt)
    if differs and not chosen:
        names = ", ".join(CONDITIONS[name] for name in CONDITIONS if name in differs)
        again = "just baseline" if idea == BASELINE else f"just queue {idea}"
        raise LabError(f"{idea} was measured under other conditions than {like.idea}: {names} changed in between", hint=again)
    return Arm(idea, stage, tuple(reversed(chosen))) if chosen else None


def _same_arm(a: Receipt, b: Receipt) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in ("code_sha", "args", *CONDITIONS))


def _reference(lab: Lab, rows: list[Row], first: Receipt) -> tuple[Arm | None, str]:
    """The arm that a run is compared with, and what is wrong with that choice, if anything.

    That is the arm of its `parent` run, which was chosen for having the code that the idea forked from; only where that
    has too few seeds under the run's own conditions, the parent's newest arm.
    """
    newest = arm(lab, rows, first.parent_idea, first.stage, first)
    if not first.parent or newest is None:
        return newest, ""
    parent = receipts.request(lab, first.parent)
    code, moved = (parent.code_sha, parent.args), f"{first.parent_idea} changed since this idea forked from it"
    if code == (newest.receipts[0].code_sha, newest.receipts[0].args):
        return newest, moved if "parent-moved" in first.flags else ""
    try:
        own = arm(lab, rows, first.parent_idea, first.stage, first, code)
    except LabError:  # measured, but under other conditions
        own = None
    if own and len(own.values) >= min(2, len(newest.values)):
        return own, ""
    return newest, moved


def judge(lab: Lab, problem: Problem, rows: list[Row], idea: str, stage: str, of: Receipt | None = None) -> Verdict:
    """The verdict on an idea from its newest arm (or the arm of the run `of`) against its parent's, as measured so far.

    Raises LabError when the idea or its reference has no run, or the baseline no noise floor.
    """
    mine = arm(lab, rows, idea, stage, of, (of.code_sha, of.args) if of else None)
    if mine is None:
        raise LabError(f"{idea} has no finished run at stage {stage}", hint=f"just queue {idea} --stage {stage}")
    first = mine.receipts[0]
    base = arm(lab, rows, BASELINE, stage, first)
    against, changed = _reference(lab, rows, first)
    if against is None and first.parent_idea != BASELINE:
        raise LabError(f"its parent {first.parent_idea} has no finished run at stage {stage}", hint=f"just queue {first.parent_idea} --stage {stage}")
    floors = [one for one in (against, base) if one and one.idea == BASELINE and one.floor is not None]
    if not floors:
        raise LabError(
            f"no noise floor at stage {stage}: the baseline has {len(base.values) if base else 0} of 3 seeds",
            hint=f"just baseline --stage {stage}, then: just verdict {idea}",
        )
    floor = floors[0].floor
    compared = stats.compare(
        mine.values,
        against.values,
        floor=floor,
        sign=problem.sign,
        predicted=first.predicted_effect,
        smallest_effect=problem.smallest_effect,
    )
    failures = Counter(receipt.status for receipt in mine.receipts if receipt.status != "ok")
    why = compared.why
    if not mine.values:
        why = f"nothing was measured: {', '.join(f'{count} {status}' for status, count in failures.items())}"
    return Verdict(
        time=receipts.now(),
        idea=idea,
        stage=stage,
        code_sha=first.code_sha,
        args=first.args,
        metric=problem.metric,
        question=first.question,
        hypothesis=first.hypothesis,
        predicted=first.predicted_effect,
        credence=first.credence,
        kill_rule=first.kill_rule,
        against=against.idea,
        verdict=compared.verdict,
        why=why,
        effect=compared.effect,
        low=compared.low,
        high=compared.high,
        seeds=compared.seeds,
        floor=floor,
        better=compared.better,
        mean=statistics.fmean(mine.values.values()) if mine.values else None,
        against_mean=statistics.fmean(against.values.values()) if against.values else None,
        failures=dict(failures),
        confounds=(*_confounds(mine, against), *([changed] if changed else [])),
        runs=tuple(receipt.run_id for receipt in mine.receipts),
        against_runs=tuple(receipt.run_id for receipt in against.receipts),
    )


def _confounds(mine: Arm, against: Arm) -> tuple[str, ...]:
    found = []
    for field, words, least in (("params", "parameters", 0), ("train_seconds", "training time", 1.0), ("peak_gb", "peak memory", 0.1)):
        ours, theirs = mine.median(field), against.median(field)
        if ours and theirs and ours / theirs > CONFOUNDED and ours - theirs > least:
            found.append(f"{words} x{ours / theirs:.2f}")
    return tuple(found)


def best(lab: Lab, problem: Problem, rows: list[Row], stage: str | None = None) -> dict:
    """The best arm that holds: the baseline as it is now, or an arm that every verdict down to it found better.

    Returns its idea, mean and lineage (newest first). Raises LabError when the baseline was not measured.
    """
    measured = [
        row
        for row in rows
        if row.idea == BASELINE and row.value is not None and (stage is None or row.stage == stage) and is_reference(row.flags.split(","))
    ]
    if not measured:
        raise LabError("the baseline has not been measured", hint="just baseline")
    stage = stage or measured[-1].stage
    base = arm(lab, rows, BASELINE, stage)
    found = {(verdict.idea, verdict.code_sha, verdict.args): verdict for verdict in records(lab) if verdict.stage == stage}
    chosen: list[Verdict] = []
    for verdict in found.values():
        lineage = _lineage(verdict, list(found.values()), {receipt.run_id for receipt in base.receipts})
        if lineage and (not chosen or problem.sign * (verdict.mean - chosen[0].mean) > 0):
            chosen = lineage
    steps = [
        {"idea": verdict.idea, "effect": verdict.effect, "low": verdict.low, "high": verdict.high, "verdict": verdict.verdict, "runs": verdict.runs}
        for verdict in chosen
    ]
    steps.append({"idea": BASELINE, "effect": None, "low": None, "high": None, "verdict": None, "runs": tuple(one.run_id for one in base.receipts)})
    mean = chosen[0].mean if chosen else statistics.fmean(base.values.values())
    return {"idea": steps[0]["idea"], "stage": stage, "metric": problem.metric, "mean": mean, "lineage": steps}


def _lineage(verdict: Verdict, others: list[Verdict], base: set[str]) -> list[Verdict]:
    """The verdicts from this one down to the runs of the baseline `base`; empty unless each of them says better."""
    chain = [verdict]
    while chain[-1].better and chain[-1].against != BASELINE:
        below = [other for other in others if set(other.runs) & set(chain[-1].against_runs) and other not in chain]
        if not below:
            return []
        chain.append(below[-1])
    return chain if chain[-1].better and base & set(chain[-1].against_runs) else []

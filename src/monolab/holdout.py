"""The sealed holdout: kept ideas scored on the test split, rarely and on purpose, every look counted.

Every experiment is scored on validation, so validation wears out: what was chosen on it looks better there than it is (Dwork et al. 2015, The reusable
holdout, Science 349). The gap between the two splits shows by how much, its trend whether that grows. To stay clean the sealed split decides
nothing: no verdict and no gate reads it, only the baseline and what was kept without it may be looked at, and a split bears a fixed number of looks.

The record is `6_runs/looks.jsonl`. A look is written down as *opened* before the split is read and once more with its numbers, so that one that fails
is spent as well (and completed at no further cost). Each line holds the hash of the line before; REF pins the whole file in git's store, so
that a missing end, or a missing file, shows too.
"""

import json
import math
import os
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monolab import disk, receipts, results, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.journal import number
from monolab.paths import BASELINE, CONTROL, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt
from monolab.results import sha

if TYPE_CHECKING:
    from monolab.device import Device

# `phases`, `conditions`, `device` and what they need are imported where a look is taken: `lab status` only asks for the summary.

RECORD = "looks.jsonl"  # in 6_runs/
HEADER = "monolab: looks at the sealed split"  # its hash is the first line's `prev`
REF = "refs/lab/looks"  # the record's content after the last append, a blob
RESTORE = f"git cat-file blob {REF} > 6_runs/{RECORD}"
TREND = 5  # looks from which on a slope has an interval
OPENED = {"event", "number", "time", "checkpoints", "idea", "stage", "data_sha", "sealed_sha", "eval_sha", "prev"}
Z = 1.959963984540054  # what a standard normal exceeds with probability 0.025


@dataclass(frozen=True)
class Scored:
    """One run's checkpoint on both splits, in the metric's unit."""

    run: str
    seed: int
    checkpoint_sha: str
    validation: float  # from its receipt
    sealed: float


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in the metric's unit, and half of its 95 % interval (Student's; None for a single seed)."""

    mean: float
    half: float | None


@dataclass(frozen=True)
class Look:
    """What a look at the sealed split saw."""

    number: int  # of the looks spent on this split, from 1; 0 where all had been scored before, so that nothing was spent
    time: str
    idea: str
    stage: str
    metric: str
    runs: tuple[Scored, ...]  # of the idea, one for every seed that is evidence
    baseline: tuple[Scored, ...]  # at those of the same seeds that it has; empty where the idea is the baseline
    gap: Estimate  # sealed minus validation
    effect: Estimate | None  # on validation, idea minus baseline, paired by seed; None without a common seed
    sealed_effect: Estimate | None  # the same on the sealed split
    data_sha: str
    sealed_sha: str  # of the sealed split alone: what the budget is counted by
    eval_sha: str


@dataclass(frozen=True)
class _Plan:
    """What a look would compare, and under which conditions."""

    idea: str
    stage: str
    problem: Problem
    machine: "Device"
    runs: tuple[Receipt, ...]
    baseline: tuple[Receipt, ...]
    data_sha: str
    sealed_sha: str
    eval_sha: str

    @property
    def all(self) -> tuple[Receipt, ...]:
        return self.runs + self.baseline


# -- a look -------------------------------------------------------------------------------------------------------


def look(lab: Lab, idea: str, stage: str) -> Look:
    """Score the checkpoints of a kept idea (or the baseline) on the sealed split, and of the baseline at the same seeds, and record that.

    Costs one look of the split's budget, unless every one of these checkpoints was scored there before, by this scorer: no checkpoint ever is twice.
    Takes the device's lock. Raises LabError, having read nothing of the split, when the idea was not kept, was measured under other conditions than
    now, lacks a checkpoint or has another than its receipt says, when the budget is spent, and when the record was tampered with.
    """
    from loguru import logger

    from monolab import dataset, device

    plan, found = _from_record(lab, idea, stage)
    if found:
        return found
    with device.lock(plan.machine, logger.info, run=f"look at {idea}", lab=str(lab.root)) as held:
        plan, found = _from_record(lab, idea, stage)  # again: it may have waited for hours
        if found:
            return found
        dataset.verify(lab)
        spent = _open(lab, plan)
        sealed = _sealed_values(lab, plan)
        for receipt in _unscored(plan, sealed):
            logger.info(f"look {spent} of {plan.problem.holdout_looks} at the sealed split: {receipt.run_id}")
            sealed[receipt.checkpoint_sha] = _score(lab, plan, receipt, held)
        with results.locked(lab):
            seen = _look(plan, spent, sealed)
            _append(lab, {"event": "look"} | asdict(seen))
    return seen


def _from_record(lab: Lab, idea: str, stage: str) -> tuple[_Plan, Look | None]:
    """What the look would be; and the look itself where the record has every number of it. Raises LabError where it may not be taken."""
    plan = _plan(lab, idea, stage)
    if wrong := audit(lab):
        raise LabError(wrong[0], hint=f"see who did it; then: {RESTORE}")
    with results.locked(lab):
        for entry in reversed(_entries(lab)):
            if entry["event"] == "look" and _is_of(plan, seen := _parsed(entry)):
                return plan, seen
        sealed = _sealed_values(lab, plan)
        unscored = _unscored(plan, sealed)
        if not unscored:
            seen = _look(plan, 0, sealed)
            _append(lab, {"event": "look"} | asdict(seen))
            return plan, seen
        _opened_before(lab, plan, unscored)
    for receipt in unscored:
        _require_checkpoint(lab, receipt)
    return plan, None


def _is_of(plan: _Plan, seen: Look) -> bool:
    mine = {(one.run, one.checkpoint_sha) for one in seen.runs + seen.baseline}
    same = (seen.idea, seen.stage, seen.metric, seen.data_sha, seen.eval_sha)
    return same == (plan.idea, plan.stage, plan.problem.metric, plan.data_sha, plan.eval_sha) and mine == {
        (one.run_id, one.checkpoint_sha) for one in plan.all
    }


def _unscored(plan: _Plan, sealed: dict[str, float]) -> list[Receipt]:
    """One run for every checkpoint that the sealed split has not scored yet."""
    return list({one.checkpoint_sha: one for one in plan.all if one.checkpoint_sha not in sealed}.values())


def _sealed_values(lab: Lab, plan: _Plan) -> dict[str, float]:
    """Checkpoint hash: its value on the sealed split, as far as a look with this scorer, metric and data has seen it."""
    same = {"event": "look", "metric": plan.problem.metric, "data_sha": plan.data_sha, "eval_sha": plan.eval_sha}
    looks = [entry for entry in _entries(lab) if all(entry.get(name) == value for name, value in same.items())]
    return {one["checkpoint_sha"]: one["sealed"] for entry in looks for one in entry["runs"] + entry["baseline"]}


def _look(plan: _Plan, spent: int, sealed: dict[str, float]) -> Look:
    def scored(one: Receipt) -> Scored:
        return Scored(one.run_id, one.seed, one.checkpoint_sha, one.value, sealed[one.checkpoint_sha])

    mine, base = tuple(map(scored, plan.runs)), tuple(map(scored, plan.baseline))
    pairs = [(one, other) for one in mine for other in base if one.seed == other.seed]
    return Look(
        number=spent,
        time=receipts.now(),
        idea=plan.idea,
        stage=plan.stage,
        metric=plan.problem.metric,
        runs=mine,
        baseline=base,
        gap=_estimate([one.sealed - one.validation for one in mine]),
        effect=_estimate([one.validation - other.validation for one, other in pairs]) if pairs else None,
        sealed_effect=_estimate([one.sealed - other.sealed for one, other in pairs]) if pairs else None,
        data_sha=plan.data_sha,
        sealed_sha=plan.sealed_sha,
        eval_sha=plan.eval_sha,
    )


def _estimate(values: list[float]) -> Estimate:
    from monolab import stats

    return Estimate(statistics.fmean(values), stats.half_width(values))


# -- what may be looked at ----------------------------------------------------------------------------------------


def _plan(lab: Lab, idea: str, stage: str) -> _Plan:
    from monolab import conditions, device, guard

    problem = problems.load(lab)
    problem.stage(stage)
    if idea.startswith(CONTROL):
        raise LabError(f"{idea} is a control, by which the lab tests itself: there is nothing to confirm", hint="just verify the idea that was kept")
    if wrong := guard.run_start(lab, problem, "HEAD")[0]:  # the budget stands in program.md, the scorer is main's
        raise LabError("; ".join(wrong), hint="git checkout -- FILE, or META_MODE=1 and a commit if you are the human and mean it")
    if wrong := results.audit(lab):
        raise LabError(wrong[0], hint="lab check")
    rows = results.load(lab)
    arm = verdicts.arm(lab, rows, idea, stage)
    again = f"just baseline --stage {stage}" if idea == BASELINE else f"just queue {idea} --stage {stage}"
    if arm is None or not arm.values:
        raise LabError(f"{idea} has no measured run at stage {stage}", hint=again)
    screen = None if idea == BASELINE else _require_kept(lab, arm)
    machine = device.detect()
    now, last = conditions.current(lab, problem, machine), arm.receipts[-1]
    changed = [words for name, words in verdicts.CONDITIONS.items() if now[name] != getattr(last, name)]
    if last.metric != problem.metric:
        changed.append("the metric")
    if changed:
        raise LabError(f"{idea} ({stage}) was measured before {', '.join(changed)} changed: its two splits would not be comparable", hint=again)
    mine = [one for one in _by_seed(arm) if one.seed != screen]
    base = None if idea == BASELINE else verdicts.arm(lab, rows, BASELINE, stage, last)
    seeds = {one.seed for one in mine}
    return _Plan(
        idea=idea,
        stage=stage,
        problem=problem,
        machine=machine,
        runs=tuple(mine),
        baseline=tuple(one for one in (_by_seed(base) if base else ()) if one.seed in seeds),
        data_sha=now["data_sha"],
        sealed_sha=_sealed_sha(lab),
        eval_sha=now["eval_sha"],
    )


def _by_seed(arm: verdicts.Arm) -> list[Receipt]:
    """The newest measured run of every seed."""
    found = {one.seed: one for one in arm.receipts if one.value is not None}
    return [found[seed] for seed in sorted(found)]


def _require_kept(lab: Lab, arm: verdicts.Arm) -> int | None:
    """The seed that screened the arm, which flatters it and is no evidence. Raises LabError unless its last verdict kept it."""
    of = [one for one in verdicts.by_arm(verdicts.records(lab)) if set(one.runs) & set(arm.runs)]
    if of and of[-1].kept:
        return of[-1].gate.screen
    why = f"its newest code was not kept ({of[-1].gate.decision}: {of[-1].gate.why})" if of else "its newest code was not judged yet"
    raise LabError(
        f"{arm.idea} ({arm.stage}): {why}; only what was kept is looked at, else the sealed split would select", hint=f"just verdict {arm.idea}"
    )


def _sealed_sha(lab: Lab) -> str:
    """The hash of the sealed split: of its files' names and contents, as the manifest has them."""
    from monolab import dataset

    files = json.loads((lab.data / dataset.MANIFEST).read_text())["files"]
    return sha("".join(f"{name}\0{file['sha256']}\n" for name, file in sorted(files.items()) if name.startswith("test/")))


def _require_checkpoint(lab: Lab, receipt: Receipt, folder: Path | None = None) -> None:
    """Raises LabError unless the run's kept checkpoint (or its copy in `folder`) is the one that its receipt names."""
    from monolab import conditions, phases

    place = folder or lab.run(receipt.run_id) / "checkpoint"
    files = phases.trained_files(place)
    if not files:
        raise LabError(
            f"the checkpoint of {receipt.run_id} is gone: {disk.removal(lab, receipt.run_id) or f'6_runs/{receipt.run_id}/checkpoint has no file'}",
            hint=f"just {'baseline' if receipt.idea == BASELINE else f'queue {receipt.idea}'}, to measure it anew",
        )
    if (now := conditions.files_sha(place, files)) != receipt.checkpoint_sha:
        raise LabError(
            f"the checkpoint of {receipt.run_id} is not the one that was scored: it hashes to {now[:12]}, the receipt says {receipt.checkpoint_sha[:12]}",
            hint=f"lab audit {receipt.run_id}",
        )


# -- the budget ---------------------------------------------------------------------------------------------------


def _opened_before(lab: Lab, plan: _Plan, unscored: list[Receipt]) -> int | None:
    """The number of an earlier look at the same checkpoints that was opened and never completed. None where a new one has to be, and can be, spent.

    The caller holds the lab's lock. Raises LabError when the budget is spent.
    """
    from monolab import dataset

    entries = [entry for entry in _entries(lab) if entry["sealed_sha"] == plan.sealed_sha]
    opened, done = ([entry for entry in entries if entry["event"] == event] for event in ("opened", "look"))
    complete, wanted = {entry["number"] for entry in done}, {one.checkpoint_sha for one in unscored}
    for entry in opened:
        same = all(entry[name] == getattr(plan, name) for name in ("idea", "stage", "data_sha", "eval_sha"))
        if same and entry["number"] not in complete and wanted <= set(entry["checkpoints"].values()):
            return entry["number"]
    if len(opened) >= plan.problem.holdout_looks:
        raise LabError(
            f"the budget of the sealed split {plan.sealed_sha[:12]} is spent: {len(opened)} looks, program.md allows {plan.problem.holdout_looks}. "
            "A look more would wear it out as validation is. Seal another one, out of data that nothing was trained on or chosen by; train and val "
            "stay, and the looks at this one stay on record",
            hint=f"{dataset.next_seal(lab)}; then just baseline, and just queue what is to be verified",
        )
    return None


def _open(lab: Lab, plan: _Plan) -> int:
    """Spend a look, before anything is read; returns its number. One that was opened for the same checkpoints and failed is taken up again."""
    with results.locked(lab):
        unscored = _unscored(plan, _sealed_values(lab, plan))
        before = _opened_before(lab, plan, unscored)
        if before is not None:
            return before
        spent = 1 + sum(entry["event"] == "opened" and entry["sealed_sha"] == plan.sealed_sha for entry in _entries(lab))
        about = {name: getattr(plan, name) for name in ("idea", "stage", "data_sha", "sealed_sha", "eval_sha")}
        checkpoints = {one.run_id: one.checkpoint_sha for one in unscored}
        _append(lab, {"event": "opened", "number": spent, "time": receipts.now(), "checkpoints": checkpoints} | about)
        return spent


# -- the scoring --------------------------------------------------------------------------------------------------


def _score(lab: Lab, plan: _Plan, receipt: Receipt, held: int) -> float:
    """The run's checkpoint on the sealed split, from a fresh scorer in a folder laid out as a run's. Raises LabError naming the run."""
    import contextlib
    import shutil
    import sys

    from monolab import conditions, filesystem, phases, snapshot

    source = lab.run(receipt.run_id) / "checkpoint"
    with filesystem.temporary() as folder:
        snapshot.export(lab, receipt.code_sha, folder / "code")
        if conditions.export_scorer(lab, plan.problem, folder / "scorer") != plan.eval_sha:
            raise LabError("the scorer was changed while the look was taken", hint=f"just verify {plan.idea}")
        (folder / "checkpoint").mkdir()
        for path in phases.trained_files(source):
            copy = folder / "checkpoint" / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        _require_checkpoint(lab, receipt, folder / "checkpoint")  # the copy itself: it cannot be swapped any more
        with contextlib.redirect_stdout(sys.stderr):  # what the scorer says is no part of the answer
            outcome, metrics = phases.score(lab, folder, plan.machine, plan.problem, plan.stage, held, split="test")
    why = metrics if isinstance(metrics, str) else ""
    if outcome.status != "ok":
        lines = [line.strip() for line in outcome.tail.splitlines() if line.strip()]
        why = f"{outcome.status}, exit code {outcome.returncode}: {lines[-1][:300] if lines else '(no output)'}"
    if why:
        raise LabError(
            f"the scorer gave no number for {receipt.run_id} on the sealed split ({why}); the look is spent",
            hint=f"mend what it names, then: just verify {plan.idea} --stage {plan.stage}, which completes it at no further cost",
        )
    return metrics[plan.problem.metric]


# -- the record ---------------------------------------------------------------------------------------------------


def _file(lab: Lab) -> Path:
    return lab.runs / RECORD


def _damaged(what: str) -> LabError:
    return LabError(f"6_runs/{RECORD} {what}", hint=f"see who did it; then: {RESTORE}")


def _lines(lab: Lab) -> list[str]:
    try:
        text = _file(lab).read_text()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise _damaged(f"is not text: {error}") from error
    if text and not text.endswith("\n"):
        raise _damaged(f"line {text.count(chr(10)) + 1}: the file ends in the middle of it")
    return text.split("\n")[:-1]


def _entries(lab: Lab) -> list[dict]:
    """All lines of the record, oldest first. Raises LabError naming the first that cannot be read or does not follow the one before."""
    found, prev = [], sha(HEADER)
    for place, text in enumerate(_lines(lab), start=1):
        try:
            entry = json.loads(text)
            told = entry["prev"]
            if entry["event"] == "look":
                _parsed(entry)
            elif entry["event"] != "opened" or entry.keys() != OPENED:
                raise ValueError("it is neither a look that was opened nor one that was completed")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(f"line {place} is damaged: {error}") from error
        if told != prev:
            raise _damaged(
                "line 1: what stood before it was removed"
                if place == 1
                else f"line {place - 1} was edited, or what stood between it and line {place} was removed"
            )
        prev = sha(text)
        found.append(entry)
    return found


def _parsed(entry: dict) -> Look:
    values = {name: value for name, value in entry.items() if name not in ("event", "prev")}
    runs = {name: tuple(Scored(**one) for one in entry[name]) for name in ("runs", "baseline")}
    means = {name: entry[name] and Estimate(**entry[name]) for name in ("gap", "effect", "sealed_effect")}
    return Look(**values | runs | means)


def looks(lab: Lab) -> list[Look]:
    """The completed looks, oldest first. Raises LabError naming the line of the record that is damaged."""
    return [_parsed(entry) for entry in _entries(lab) if entry["event"] == "look"]


def _append(lab: Lab, entry: dict) -> None:
    """The caller holds the lab's lock."""
    lines = _lines(lab)
    with _file(lab).open("a") as file:
        file.write(json.dumps(entry | {"prev": sha(lines[-1] if lines else HEADER)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    _git(lab, "update-ref", REF, _git(lab, "hash-object", "-w", "--no-filters", f"6_runs/{RECORD}").strip())


def _git(lab: Lab, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(lab.root), *args], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"git {args[0]} in {lab.root}: {done.stderr.strip()}", hint=f"git -C {lab.root} status")
    return done.stdout


def audit(lab: Lab) -> list[str]:
    """The first line of the record that was edited or removed since it was pinned or committed, or that breaks the chain; empty when it is whole."""
    try:
        now = _lines(lab)
        pinned = _git(lab, "for-each-ref", "--format=%(objectname)", REF).strip()
        committed = _git(lab, "ls-tree", "HEAD", "--", f"6_runs/{RECORD}").partition("\t")[0].rpartition(" ")[2]  # mode, kind, blob, tab, name
        for blob, since in ((pinned, "it was written"), (committed, "it was committed")):
            if blob and (what := _first_difference(_git(lab, "cat-file", "blob", blob).split("\n")[:-1], now)):
                return [f"6_runs/{RECORD} {what} since {since}"]
        _entries(lab)
    except LabError as error:
        return [error.what]
    return []


def _first_difference(was: list[str], now: list[str]) -> str:
    """What became of the first line that is not as it was, counted from 1; "" where lines were only added."""
    for place, text in enumerate(was):
        if place >= len(now):
            return f"line {place + 1} is gone, with all after it," if place + 1 < len(was) else f"line {place + 1} is gone"
        if now[place] != text:
            return f"line {place + 1} was {'removed' if now[place] in was[place + 1 :] else 'edited'}"
    return ""


# -- what is said -------------------------------------------------------------------------------------------------


def summary(lab: Lab) -> dict:
    """For `lab status`: looks spent on the sealed split as it is now and left, the last one's gap, the gap's trend. Plain data, in milliseconds.

    `sealed_sha` is None where there is no data. What is wrong with the chain stands in `damaged`, and nothing is counted then (`audit` asks git too).
    """
    problem = problems.load(lab)
    try:
        split = _sealed_sha(lab)
    except (OSError, ValueError, KeyError, TypeError):  # no data yet, or damaged: whatever needs them says so
        split = None
    known = {"sealed_sha": split, "budget": problem.holdout_looks, "spent": None, "left": None, "last": None, "trend": None, "damaged": ""}
    try:
        entries = [entry for entry in _entries(lab) if entry["sealed_sha"] == split]
    except LabError as error:
        return known | {"damaged": error.what}
    spent = sum(entry["event"] == "opened" for entry in entries)
    known |= {"spent": spent, "left": max(problem.holdout_looks - spent, 0)}
    done = [entry for entry in entries if entry["event"] == "look"]
    if not done:
        return known
    last = done[-1]
    series = [one for one in done if one["number"] and all(one[name] == last[name] for name in ("stage", "metric", "eval_sha"))]
    names = ("number", "time", "idea", "stage", "metric", "gap", "effect", "sealed_effect")
    return known | {"last": {name: last[name] for name in names}, "trend": trend([one["gap"]["mean"] for one in series], problem.sign)}


def trend(gaps: Sequence[float], sign: int) -> dict | None:
    """Least-squares slope of the gap from look to look, in the metric's unit, and what it means; None for fewer than two looks.

    `sign` is +1 where higher is better. With 5 looks or more it has a 95 % interval (Student's; its quantile by the expansion 26.7.5 of Abramowitz and
    Stegun, good to 0.2 % from 3 degrees of freedom on), and without zero outside of it nothing is claimed. The gap's level says little, as one split may
    be harder than the other; that it grows says that validation wears out.
    """
    n = len(gaps)
    if n < 2:
        return None
    middle, mean = (n - 1) / 2, statistics.fmean(gaps)
    spread = sum((place - middle) ** 2 for place in range(n))
    slope = sum((place - middle) * (gap - mean) for place, gap in enumerate(gaps)) / spread
    low = high = None
    if n >= TREND:
        rest = sum((gap - mean - slope * (place - middle)) ** 2 for place, gap in enumerate(gaps))
        half = _student(n - 2) * math.sqrt(rest / (n - 2) / spread)
        low, high = slope - half, slope + half
    worse = -sign * slope
    if low is None:
        words = f"{'growing' if worse > 0 else 'shrinking' if worse < 0 else 'level'} so far, {n} looks are too few to tell"
    elif low <= 0 <= high:
        words = "no trend that these looks can show"
    else:
        words = "growing: validation flatters more from look to look" if worse > 0 else "shrinking from look to look"
    return {"looks": n, "slope": slope, "low": low, "high": high, "words": words}


def _student(df: int) -> float:
    """What Student's t exceeds with probability 0.025."""
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / df**power for power, term in enumerate(terms, start=1))


def summary_text(known: dict) -> str:
    """The summary for people, a line or two."""
    if known["damaged"]:
        return f"DAMAGED: {known['damaged']} (next: {RESTORE})"
    lines = [f"{known['spent']} of {known['budget']} looks at the sealed split spent" + ("" if known["left"] else ": none left")]
    if last := known["last"]:
        lines[0] += f"; last: {last['idea']} ({last['stage']}), gap {number(last['gap']['mean'])} {last['metric']} (sealed - validation)"
    if found := known["trend"]:
        span = "" if found["low"] is None else f" [{number(found['low'])}, {number(found['high'])}]"
        lines.append(f"the gap is {found['words']}" if found["low"] is None else f"the gap: {found['words']} ({number(found['slope'])}{span} a look)")
    return "\n".join(lines)


def text(seen: Look) -> str:
    """The look for people."""

    def told(one: Estimate) -> str:
        return number(one.mean) + (f" +- {one.half:.2g}" if one.half is not None else "")

    cost = f"look {seen.number}" if seen.number else "at no cost, all scored before"
    lines = [f"{seen.idea} ({seen.stage}) on the sealed split {seen.sealed_sha[:12]}, {cost}, {seen.time}; {seen.metric}:"]
    for words, runs in ((seen.idea, seen.runs), (BASELINE, seen.baseline)):
        lines += [f"  {words} s{one.seed}: validation {one.validation:.6g}, sealed {one.sealed:.6g} ({one.run})" for one in runs]
    lines.append(f"gap, sealed - validation: {told(seen.gap)} over {len(seen.runs)} seed(s)")
    if seen.effect and seen.sealed_effect:
        lines.append(f"against the baseline, paired by seed: {told(seen.effect)} on validation, {told(seen.sealed_effect)} on the sealed split")
    elif seen.idea != BASELINE:
        lines.append("against the baseline: no seed was measured on both sides")
    lines.append("No verdict and no decision rests on this: it says how far validation can still be believed.")
    return "\n".join(lines)

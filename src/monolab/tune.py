"""The numeric rest: Optuna proposes settings of train.py's Config for a code that stands, as runs that fill an idle device.

Where to look, train.py says itself in a constant `RANGES = {"lr": (1e-3, 3e-2, "log"), "conv": (2, 6)}`: whole numbers give whole numbers. The
study is made anew from the ledger each time (Optuna's TPE, seeded by the number of trials), so there is no second record of what was tried.
Its runs carry the flag `filler`: they are trials of settings, screened by the gate like any idea, and anything an agent queues goes first.
"""

import ast
import fcntl
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from monolab import backlog, dispatch, gate, ideas, queue, receipts, results, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.receipts import Request

CREDENCE = 0.15  # that a setting drawn by a sampler is better than the author's


@dataclass(frozen=True)
class Range:
    """Where a field may lie, both ends included."""

    low: float
    high: float
    log: bool
    whole: bool


def ranges(train: Path) -> dict[str, Range]:
    """RANGES of train.py, read without running it. Raises LabError where there is none, or an entry is no range."""
    example = 'RANGES = {"lr": (1e-3, 3e-2, "log"), "conv": (2, 6)}'
    try:
        module = ast.parse(train.read_text())
    except (OSError, SyntaxError, ValueError) as error:
        raise LabError(f"{train} cannot be read: {error}", hint=f"edit {train}") from error
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "RANGES" for target in node.targets):
            try:
                told = ast.literal_eval(node.value)
            except ValueError as error:
                raise LabError(f"{train.name}: RANGES is no literal: {error}", hint=example) from error
            if not isinstance(told, dict):
                raise LabError(f"{train.name}: RANGES is {told!r}, no mapping of fields to ranges", hint=example)
            return {name: _range(name, one, example) for name, one in told.items()}
    raise LabError(f"{train.name} says nothing about where its settings may lie", hint=f"add {example}")


def _range(name: str, told: object, example: str) -> Range:
    numbers = [one for one in told if isinstance(one, int | float) and not isinstance(one, bool)] if isinstance(told, tuple) else []
    rest = [one for one in told if one not in numbers] if isinstance(told, tuple) else [told]
    if (
        len(numbers) != 2
        or rest not in ([], ["log"])
        or not numbers[0] < numbers[1]
        or (rest and numbers[0] <= 0)
        or not all(map(math.isfinite, numbers))
    ):
        raise LabError(f"RANGES: {name} is {told!r}, not (lowest, highest) or (lowest, highest, 'log')", hint=example)
    return Range(float(numbers[0]), float(numbers[1]), bool(rest), all(isinstance(one, int) for one in numbers))


def slug_of(code: str) -> str:
    """The idea under which settings of a code are tried."""
    return f"{ideas.FILLER}{code}"[:48].rstrip("-")


def waiting(lab: Lab, code: str, stage: str, fields: dict[str, Range]) -> list[dict[str, float]]:
    """Settings that are queued or run."""
    asked = [one for one in backlog.pending(lab) if one.idea == slug_of(code) and one.stage == stage and "replicate" not in one.flags]
    return [settings for one in asked if (settings := settings_of(one, fields)) is not None]


def trials(lab: Lab, code: str, stage: str, fields: dict[str, Range]) -> list[tuple[dict[str, float], float | None]]:
    """Settings tried for a code and what came out, oldest first: None where nothing was measured."""
    found = []
    for row in results.load(lab):
        if row.idea == slug_of(code) and row.stage == stage:
            receipt = receipts.receipt(lab, row.run_id)
            if receipt is None or "replicate" in receipt.flags or (row.value is None and row.status not in gate.FAILED):
                continue  # a run that the lab takes again, or that somebody stopped, says nothing of its settings
            if (settings := settings_of(receipt, fields)) is not None:
                found.append((settings, row.value))
    return found


def settings_of(receipt: Request, fields: dict[str, Range]) -> dict[str, float] | None:
    told = dict(zip((word.removeprefix("--") for word in receipt.args[::2]), receipt.args[1::2], strict=False))
    return {name: float(told[name]) for name in fields} if fields.keys() <= told.keys() else None


def ask(
    fields: dict[str, Range], past: list[tuple[dict[str, float], float | None]], sign: int, waiting: Sequence[dict[str, float]] = ()
) -> dict[str, float]:
    """The next settings: TPE over what was tried, with a failure as the worst value so far, and away from what is still waited for.

    `sign`: +1 where higher is better. The same past gives the same settings.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = {
        name: optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.log)
        if one.whole
        else optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
        for name, one in fields.items()
    }

    def inside(settings: dict[str, float]) -> dict[str, float] | None:
        if any(not fields[name].low <= number <= fields[name].high for name, number in settings.items()):
            return None
        return {name: int(number) if fields[name].whole else number for name, number in settings.items()}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=len(past) + len(waiting), n_startup_trials=min(10, 2 * len(fields)), constant_liar=True)
    study = optuna.create_study(direction="maximize" if sign > 0 else "minimize", sampler=sampler)
    measured = [value for _, value in past if value is not None]
    worst = sign * min((sign * value for value in measured), default=0.0)
    for settings, value in past:
        if measured and (known := inside(settings)):
            study.add_trial(create_trial(params=known, distributions=spaces, value=worst if value is None else value))
    for settings in waiting:
        if known := inside(settings):
            study.add_trial(create_trial(params=known, distributions=spaces, state=TrialState.RUNNING))
    return study.ask(spaces).params


def args_of(settings: dict[str, float]) -> list[str]:
    return [word for name, number in settings.items() for word in (f"--{name}", str(number) if isinstance(number, int) else f"{number:.4g}")]


def propose(lab: Lab, code: str = "", stage: str = "explore") -> Request:
    """Queue one setting of `code` (default: the best that holds), below every idea in the queue. Raises LabError without ranges or a baseline."""
    problem = problems.load(lab)
    if not code:
        code = verdicts.best(lab, problem, results.load(lab), stage)["idea"]
        code = code.removeprefix(ideas.FILLER)
    tree = queue.tree_of(lab, code)
    fields = ranges(tree / "train.py")
    slug = slug_of(code)
    if slug not in ideas.slugs(lab):
        _write(lab, problem, slug, code, fields)
    if not (lab.worktree(slug) / ".git").exists():
        queue.worktree(lab, slug)
    past, open_ = trials(lab, code, stage, fields), waiting(lab, code, stage, fields)
    settings = ask(fields, past, problem.sign, open_)
    if args_of(settings) in [args_of(one) for one in (*(tried for tried, _ in past), *open_)]:
        raise LabError(f"what Optuna proposes for {code} was tried already", hint="wider RANGES in train.py, or an idea")
    (made,) = queue.enqueue(lab, slug, None, stage, [0], args_of(settings), filler=True)
    return made


def top_up(lab: Lab) -> Request | None:
    """Where nothing waits behind the run that has the device, propose a setting: what it does until somebody has an idea. None where something waits.

    Of several that ask at once, one proposes. Raises LabError as `propose` does.
    """
    with _turn(lab):
        waiting = [one for one in backlog.pending(lab) if not (lab.run(one.run_id) / "started.json").exists()]
        return None if waiting or not results.view(lab).of(BASELINE, "explore") else propose(lab)


@contextmanager
def filling(lab: Lab, on: bool) -> Iterator[None]:
    """While this lasts, each run that starts has a setting queued behind it where nothing else waits (`dispatch.follow`)."""
    mark = lab.runs / ".agent" / dispatch.FILLING
    stop_filling(lab)
    if on:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        yield
    finally:
        stop_filling(lab)


def stop_filling(lab: Lab) -> None:
    """What is queued already stays, behind any idea."""
    (lab.runs / ".agent" / dispatch.FILLING).unlink(missing_ok=True)


@contextmanager
def quiet(lab: Lab) -> Iterator[list[str]]:
    """While an idea is queued nobody proposes a setting, and those that wait or run make way: their run ids, once it is over. None of them is a trial."""
    ended: list[str] = []
    with _turn(lab):
        yield ended
        for one in [one for one in backlog.pending(lab) if "filler" in one.flags]:
            with suppress(LabError, ProcessLookupError):  # it has just ended by itself
                queue.cancel(lab, one.run_id)
                ended.append(one.run_id)


@contextmanager
def _turn(lab: Lab) -> Iterator[None]:
    """Of several that would fill the device, or queue an idea, one at a time."""
    folder = lab.runs / ".agent"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "filler.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _write(lab: Lab, problem: problems.Problem, slug: str, code: str, fields: dict[str, Range]) -> None:
    front = {
        "question": f"Do other settings suit {code} better than its author's?",
        "hypothesis": f"Some setting within {', '.join(fields)} beats the one that {code} has, because it was chosen for other code.",
        "predicted_effect": problem.sign * problem.smallest_effect,
        "credence": CREDENCE,
        "kill_rule": "the gate drops each setting by itself",
        "parent": code,
        "papers": [],
        "origin": "experience",
        "filler": True,
    }
    body = f"# Settings of {code}\n\nProposed by Optuna within RANGES of train.py, where no idea waits; each setting is one arm.\n"
    path = lab.ideas / f"{datetime.now(UTC):%Y-%m-%d}_{slug}.md"
    receipts.write_atomic(path, f"---\n{yaml.safe_dump(front, sort_keys=False, width=140)}---\n{body}")


def findings(lab: Lab, code: str = BASELINE, stage: str = "explore") -> list[dict]:
    """What was tried for a code, best first, for an author to read."""
    sign = problems.load(lab).sign
    fields = ranges(queue.tree_of(lab, code) / "train.py")
    found = [{"settings": settings, "value": value} for settings, value in trials(lab, code, stage, fields)]
    return sorted(found, key=lambda one: (one["value"] is None, -sign * (one["value"] or 0.0)))


def as_text(found: list[dict]) -> str:
    return (
        "\n".join(f"{'no value' if one['value'] is None else format(one['value'], '.6g'):>10}  {json.dumps(one['settings'])}" for one in found)
        or "nothing was tried yet"
    )

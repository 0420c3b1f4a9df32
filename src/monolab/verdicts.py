"""Verdicts: which runs answer an idea, what they are compared with, and the record of what came out.

Two questions, one arithmetic (`stats`). The *verdict* is about the hypothesis: the idea against the code it builds on. The *gate* is about the code:
may it be called better than its *anchor*, the nearest ancestor that was kept itself (or the baseline)? Where an idea builds on one that only
looked promising, the two differ, and a stack of promising ideas is kept as a whole.
"""

import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from monolab import index, receipts, results, snapshot, stats
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, CONTROL_SEEDS, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request
from monolab.results import Row

if TYPE_CHECKING:
    import sqlite3

CONDITIONS = {"eval_sha": "the scorer", "data_sha": "the data", "env_sha": "the environment", "hardware": "the hardware"}


class OtherConditions(LabError):
    """An idea has runs, but all under another scorer, data, environment or hardware than what it would be compared with."""

    def __init__(self, idea: str, what: str, hint: str):
        super().__init__(what, hint)
        self.idea = idea


CONTAMINATED, RETRY = "contaminated", "retry"  # flags of a run that something from outside has spoiled, and of one that repeats another
REPEATS = "repeats-seed"  # begins the flag of a run that gave what another seed had given: repeats-seed:0
SLOWED = {"load", "throttled", "swap"}  # flags of a run whose value stands and whose time does not (`monolab.validity`)
CONFOUNDED = 1.1  # a candidate this many times as large or as slow as its reference is flagged


@dataclass(frozen=True)
class Arm:
    """All runs of one code with one set of options under one set of conditions."""

    idea: str
    stage: str
    receipts: tuple[Receipt, ...]

    @property
    def values(self) -> dict[int, float]:
        """The first value of every seed, in the order of measurement: to run a seed again replaces nothing. Seeds that repeat another one are left out."""
        return {receipt.seed: receipt.value for receipt in self._distinct}

    @property
    def repeats(self) -> dict[int, int]:
        """Seeds that gave what another seed had given before (by the seed: that one): runs of code that ignores its seed are one measurement."""
        found = {}
        for receipt in self.receipts:
            if receipt.value is not None and receipt.seed not in self.values:
                found[receipt.seed] = next(one.seed for one in self._distinct if identical(one, receipt))
        return found

    @cached_property
    def _distinct(self) -> tuple[Receipt, ...]:
        found: list[Receipt] = []
        for receipt in self.receipts:
            if receipt.value is not None and not any(one.seed == receipt.seed or identical(one, receipt) for one in found):
                found.append(receipt)
        return tuple(found)

    @property
    def failed(self) -> set[int]:
        """The seeds that were tried and gave no value of their own."""
        return {receipt.seed for receipt in self.receipts} - self.values.keys()

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(receipt.run_id for receipt in self.receipts)

    @property
    def floor(self) -> stats.Floor | None:
        """The noise floor, once three seeds are measured. Raises LabError where they do not spread."""
        if len(self.values) < 3:
            if self.repeats:
                raise LabError(f"{self.idea} ({self.stage}): {self.told_repeats}", hint="let train.py use its --seed, then: just baseline")
            return None
        try:
            return stats.noise_floor(list(self.values.values()))
        except ValueError as error:
            raise LabError(f"{self.idea} ({self.stage}): {error}", hint="let train.py use its --seed, then: just baseline") from error

    @property
    def told_repeats(self) -> str:
        """In words, which seeds repeat which; "" where none does."""
        same: dict[int, list[int]] = {}
        for seed, of in self.repeats.items():
            same.setdefault(of, []).append(seed)
        words = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} gave what seed {of} gave" for of, seeds in same.items()]
        return f"train.py ignores its --seed: {'; '.join(words)}, to the last digit, which is one measurement" if words else ""

    def median(self, field: str) -> float | None:
        """Over its measured runs; of times only over those that nothing outside has slowed, and None where that leaves none."""
        measured = [receipt for receipt in self.receipts if receipt.status == "ok" and not (field == "train_seconds" and SLOWED & set(receipt.flags))]
        found = [getattr(receipt, field) for receipt in measured if getattr(receipt, field) is not None]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Gate:
    """Whether the code may be called better than its anchor; numbers are candidate minus anchor, in the metric's unit."""

    decision: str  # keep, simpler (kept for what it removes), more (seeds), promising, drop
    why: str
    anchor: str
    through: tuple[str, ...]  # ideas between the anchor and this one, which were not kept themselves
    effect: float | None
    low: float | None
    high: float | None
    error: float | None  # standard error of the effect
    p: float | None
    allowed: float | None  # what p may be
    level: float  # the chance of a false keep that this idea was given, over all looks
    test: int  # which idea to be tested it was, from 1; 0 while it was only screened
    screen: int | None  # the seed that screened it and is no evidence; None where several were asked for at once
    seeds: tuple[int, ...]  # evidence
    chance: float  # that it is kept by the last seed allowed
    wants: tuple[int, ...]  # seeds of the next look, of candidate and anchor; empty after the last one
    runs: tuple[str, ...]  # the anchor's


@dataclass(frozen=True)
class Verdict:
    """One line of `6_runs/verdicts.jsonl`: one look, computed, with the runs that it was computed from."""

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
    agent: str
    against: str
    verdict: str
    why: str
    effect: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    floor: float
    mean: float | None  # of the candidate, over the seeds that are evidence
    against_mean: float | None
    failures: dict[str, int]
    confounds: tuple[str, ...]
    ratios: dict[str, float]  # of parameters, training time and peak memory, candidate to reference
    lines: tuple[int, int]  # of code, added and removed against the anchor
    exploratory: str  # why this is no test of a prediction; "" where it is one
    runs: tuple[str, ...]
    against_runs: tuple[str, ...]
    gate: Gate
    error: float | None = None  # standard error of the effect; None from before it was recorded, and where there is no effect
    told: str = ""  # sha256 of the lab's part of its journal entry; "" where it has none, and from before it was recorded

    @property
    def kept(self) -> bool:
        """Whether the code is better than its anchor, or as good and simpler."""
        return self.gate.decision in ("keep", "simpler")

    @property
    def control(self) -> bool:
        """Whether the lab tested itself here."""
        return self.idea.startswith(CONTROL)

    @property
    def failed(self) -> bool:
        """Whether the code was dropped, or what was predicted of it refuted, and it is not kept all the same."""
        return not self.kept and (self.gate.decision == "drop" or self.verdict == "refuted")

    @property
    def final(self) -> bool:
        """Whether the lab has done what it does by itself."""
        return self.gate.decision != "more"


def _file(lab: Lab) -> Path:
    return lab.runs / "verdicts.jsonl"


def records(lab: Lab) -> list[Verdict]:
    """All looks recorded so far, oldest first."""
    return [found for found, _, _ in _parsed(lab)]


def _parsed(lab: Lab) -> Iterator[tuple[Verdict, int, int]]:
    """Every look, and the place and length of its line, in bytes."""
    path, start = _file(lab), 0
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            yield _verdict(json.loads(text)), start, len(text)
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(
                f"{path} line {number} is damaged: {error}",
                hint=f"git checkout -- 6_runs/{path.name}; or move it away, where an older monolab wrote it",
            ) from error
        start += len(text) + 1


def _verdict(values: dict) -> Verdict:
    gate = values["gate"] | {name: tuple(values["gate"][name]) for name in ("through", "seeds", "wants", "runs")}
    tuples = {name: tuple(values[name]) for name in ("args", "seeds", "confounds", "lines", "runs", "against_runs")}
    return Verdict(**values | tuples | {"gate": Gate(**gate)})


def record(lab: Lab, verdict: Verdict) -> None:
    """Append a look to the record. The caller holds the lab's lock."""
    before, text = index.identity(_file(lab)), json.dumps(asdict(verdict))
    with _file(lab).open("a") as file:
        start = file.tell()
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())

    def insert(entries: "sqlite3.Connection") -> None:
        (n,) = entries.execute("SELECT ifnull(max(n), -1) + 1 FROM looks").fetchone()
        _entry(entries, n, verdict, start, len(text))
        entries.executemany("UPDATE rows SET judged = 1 WHERE run_id = ?", [(run_id,) for run_id in verdict.runs])

    index.extend(lab, LOOKS, before, insert)


def _entries(entries: "sqlite3.Connection", lab: Lab) -> None:
    """Make the index's entries of verdicts.jsonl anew. Raises LabError where a line of it cannot be read."""
    for table in ("looks", "look_runs", "arms", "arm_runs"):
        entries.execute(f"DELETE FROM {table}")
    for n, (verdict, start, length) in enumerate(_parsed(lab)):
        _entry(entries, n, verdict, start, length)
    entries.execute("UPDATE rows SET judged = (idea = ? OR run_id IN (SELECT run_id FROM look_runs))", (BASELINE,))


def _entry(entries: "sqlite3.Connection", n: int, verdict: Verdict, start: int, length: int) -> None:
    """Where a look stands, and that it is now the last one at its arm: as `by_arm` has it."""
    marks = ", ".join("?" * len(verdict.runs))
    same = f"SELECT min(arm) FROM arm_runs JOIN arms USING (arm) WHERE run_id IN ({marks}) AND idea = ? AND stage = ?"
    (arm,) = entries.execute(same, (*verdict.runs, verdict.idea, verdict.stage)).fetchone()
    if arm is None:
        (arm,) = entries.execute("SELECT ifnull(max(arm), -1) + 1 FROM arms").fetchone()
    before = "SELECT tested FROM looks WHERE stage = ? AND control = ? ORDER BY n DESC LIMIT 1"
    (tested,) = entries.execute(before, (verdict.stage, verdict.control)).fetchone() or (0,)
    values = (n, arm, verdict.stage, verdict.control, verdict.kept, verdict.gate.test, max(tested, verdict.gate.test), start, length)
    entries.execute("INSERT INTO looks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    entries.executemany("INSERT OR IGNORE INTO look_runs VALUES (?, ?)", [(run_id, n) for run_id in verdict.runs])
    values = (arm, verdict.idea, verdict.stage, n, verdict.runs[-1], verdict.control, verdict.kept, verdict.final, verdict.failed)
    entries.execute("INSERT OR REPLACE INTO arms VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    entries.execute("DELETE FROM arm_runs WHERE arm = ?", (arm,))
    entries.executemany("INSERT OR IGNORE INTO arm_runs VALUES (?, ?)", [(run_id, arm) for run_id in verdict.runs])


LOOKS = index.Source("verdicts.jsonl", _file, _entries)


class Looks(Sequence[Verdict]):
    """All looks, oldest first, each read when it is asked for: by the index (`index`), not by going through all of them."""

    def __init__(self, lab: Lab):
        self.lab = lab
        with index.reading(lab, LOOKS) as entries:
            (self.count,) = entries.execute("SELECT ifnull(max(n), -1) + 1 FROM looks").fetchone()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place):
        if isinstance(place, slice):
            return records(self.lab)[place]
        place = place + self.count if place < 0 else place
        if not 0 <= place < self.count:
            raise IndexError(place)
        return self._found("SELECT start, length FROM looks WHERE n = ?", place)[0]

    def __iter__(self) -> Iterator[Verdict]:
        return iter(records(self.lab))

    def sharing(self, runs: Iterable[str]) -> list[Verdict]:
        """The looks that have seen one of `runs`, oldest first."""
        names = tuple(runs)
        chosen = f"SELECT look FROM look_runs WHERE run_id IN ({', '.join('?' * len(names))})"
        return self._found(f"SELECT start, length FROM looks WHERE n IN ({chosen}) ORDER BY n", *names)

    def arms(
        self, stage: str | None = None, *, control: bool | None = None, kept: bool = False, of: Iterable[str] | None = None, last: int | None = None
    ) -> list[Verdict]:
        """As `by_arm`: the last look at every arm, in the order of the first looks. Only those at `stage`, of ideas or of controls, that are kept,
        that have one of the runs `of`, and of these the `last` so many."""
        wanted, values = [], []
        for condition, value in (("stage = ?", stage), ("control = ?", control)):
            if value is not None:
                wanted.append(f"arms.{condition}")
                values.append(value)
        if kept:
            wanted.append("arms.kept = 1")
        if of is not None:
            values += (names := tuple(of))
            wanted.append(f"arms.arm IN (SELECT arm FROM arm_runs WHERE run_id IN ({', '.join('?' * len(names))}))")
        chosen = f"SELECT start, length FROM arms JOIN looks ON looks.n = arms.look WHERE {' AND '.join(wanted) or 'true'} ORDER BY arms.arm DESC"
        return self._found(f"{chosen} LIMIT {-1 if last is None else last}", *values)[::-1]

    def tested(self, stage: str) -> int:
        """How many ideas were tested at a stage."""
        with index.reading(self.lab, LOOKS) as entries:
            last = "SELECT tested FROM looks WHERE stage = ? AND control = 0 ORDER BY n DESC LIMIT 1"
            return (entries.execute(last, (stage,)).fetchone() or (0,))[0]

    def keeps(self, stage: str) -> list[tuple[int, int]]:
        """Of every look at a stage at which an idea was kept: which idea to be tested it was, and how many had been tested then."""
        with index.reading(self.lab, LOOKS) as entries:
            kept = "SELECT test, tested FROM looks WHERE stage = ? AND control = 0 AND kept = 1 ORDER BY n"
            return entries.execute(kept, (stage,)).fetchall()

    def newest(self, idea: str) -> Verdict | None:
        """The last look at an idea, at whatever stage."""
        found = self._found("SELECT start, length FROM looks WHERE n = (SELECT max(look) FROM arms WHERE idea = ? AND control = 0)", idea)
        return found[0] if found else None

    def of(self, idea: str) -> list[Verdict]:
        """The last look at every arm of an idea, controls aside, oldest first."""
        return self._found("SELECT start, length FROM looks WHERE n IN (SELECT look FROM arms WHERE idea = ? AND control = 0) ORDER BY n", idea)

    def failed(self) -> set[str]:
        """The ideas whose last look says that they failed."""
        with index.reading(self.lab, LOOKS) as entries:  # SQLite takes `failed` from the row that has the maximum
            last = "SELECT idea, failed, max(look) FROM arms WHERE control = 0 GROUP BY idea"
            return {idea for idea, failed, _ in entries.execute(last) if failed}

    def still_open(self) -> list[str]:
        """The last run of every arm whose question is still open."""
        with index.reading(self.lab, LOOKS) as entries:
            return [run_id for (run_id,) in entries.execute("SELECT last_run FROM arms WHERE final = 0")]

    def unsettled(self) -> list[Verdict]:
        """The last look at every arm whose question is still open."""
        return self._found("SELECT start, length FROM arms JOIN looks ON looks.n = arms.look WHERE final = 0 ORDER BY arms.arm")

    def _found(self, query: str, *values) -> list[Verdict]:
        with index.reading(self.lab, LOOKS) as entries:
            places = entries.execute(query, values).fetchall()
        found = []
        if places:
            with _file(self.lab).open("rb") as file:
                for start, length in places:
                    file.seek(start)
                    found.append(_verdict(json.loads(file.read(length))))
        return found


def looks(lab: Lab) -> Looks:
    """All looks recorded so far, for who wants some of them. Raises LabError for what `records` raises it for."""
    return Looks(lab)


def newest(lab: Lab) -> dict[tuple[str, str], Verdict]:
    """The last recorded verdict of every idea and stage."""
    return {(record.idea, record.stage): record for record in records(lab)}


def by_arm(found: Iterable[Verdict]) -> list[Verdict]:
    """The last look at every arm, in the order of the first looks. Looks that share a run are looks at one arm."""
    arms: list[Verdict] = []
    places: dict[tuple[str, str, str], list[int]] = {}  # of arms, by idea, stage and run
    for one in found:
        keys = [(one.idea, one.stage, run_id) for run_id in one.runs]
        known = [place for key in keys for place in places.get(key, ()) if key[2] in arms[place].runs]
        place = min(known, default=len(arms))
        if known:
            arms[place] = one
        else:
            arms.append(one)
        for key in keys:
            if place not in (mine := places.setdefault(key, [])):
                mine.append(place)
    return arms


def ledger(past: "Looks", stage: str) -> tuple[int, list[int]]:
    """How many ideas were tested at a stage, and how many of them had been when each of the kept ones was kept first. Controls are not ideas."""
    first: dict[int, int] = {}
    for test, tested in past.keeps(stage):
        first.setdefault(test, tested)
    return past.tested(stage), list(first.values())


def identical(one: Receipt, other: Receipt) -> bool:
    """Whether two measured runs gave the same checkpoint, byte for byte, or the same number to the last digit.

    A checkpoint's number may differ by what is round-off from one scoring to the next. By the number alone not where it is a share (a ratio of whole
    numbers below 100,000, as an accuracy is) or was rounded to nine places or fewer: two of those can be the same by chance, while an arbitrary
    number lies that near to one with a chance of less than one in a million.
    """
    if one.checkpoint_sha and one.checkpoint_sha == other.checkpoint_sha:
        return math.isclose(one.value, other.value, rel_tol=1e-6)
    rounded = round(one.value, 9) == one.value
    return one.value == other.value and not rounded and float(Fraction(one.value).limit_denominator(99_999)) != one.value


def twin(lab: Lab, request: Request, measured: dict) -> Receipt | None:
    """The first run of the same code, options and conditions at another seed that gave the very result that this one `measured`."""
    if measured.get("value") is None:
        return None
    mine = SimpleNamespace(value=measured["value"], checkpoint_sha=measured["checkpoint_sha"])
    for row in results.view(lab).of(request.idea, request.stage):
        if row.seed != request.seed and row.value is not None:
            receipt = receipts.receipt(lab, row.run_id)
            same = receipt and (receipt.code_sha, receipt.args) == (request.code_sha, request.args)
            if same and all(getattr(receipt, name) == measured[name] for name in CONDITIONS) and identical(receipt, mine):
                return receipt
    return None


def is_reference(flags: Iterable[str]) -> bool:
    """Whether a baseline run with these flags measured main's own committed code with its own settings."""
    return not {"args", "uncommitted", "off-main"} & set(flags)


def replaced(lab: Lab, rows: list[Row]) -> set[str]:
    """The runs in whose place a retry has its row. They keep theirs."""
    return {receipts.request(lab, row.run_id).retry_of for row in results.flagged(rows, RETRY)}


def no_evidence(lab: Lab, rows: list[Row]) -> set[str]:
    """The runs that say nothing of their code: those something from outside has spoiled, and those that a retry has replaced."""
    spoiled = {row.run_id for row in results.flagged(rows, CONTAMINATED) if row.status == "invalid"}
    return spoiled | replaced(lab, rows)


def arm(lab: Lab, rows: list[Row], idea: str, stage: str, like: Receipt | None = None, code: tuple[str, tuple[str, ...]] | None = None) -> Arm | None:
    """The newest arm of an idea: of the code and options `code`, where given; under the conditions of `like`, where given.

    None when the idea has no such run at this stage. Raises LabError when it has some, but only under other conditions.
    """
    mine = [row for row in results.of(rows, idea, stage) if idea != BASELINE or is_reference(row.flags.split(","))]
    chosen: list[Receipt] = []
    differs: set[str] = set()
    void = no_evidence(lab, mine)
    for row in reversed(mine):
        if row.run_id in void:
            continue
        receipt = receipts.receipt(lab, row.run_id)
        if receipt is None:
            raise LabError(f"results.tsv names {row.run_id}, which has no receipt", hint="lab doctor")
        if code and (receipt.code_sha, receipt.args) != code:
            continue
        if like and like.idea == idea and control_round(receipt) != control_round(like):
            continue
        if like and (wrong := {name for name in CONDITIONS if getattr(receipt, name) != getattr(like, name)}):
            differs |= wrong
        elif not chosen or _same_arm(receipt, chosen[0]):
            chosen.append(receipt)
    if differs and not chosen:
        names = ", ".join(CONDITIONS[name] for name in CONDITIONS if name in differs)
        again = "just baseline" if idea == BASELINE else f"just queue {idea}"
        raise OtherConditions(idea, f"{idea} was measured under other conditions than {like.idea}: {names} changed in between", again)
    return Arm(idea, stage, tuple(reversed(chosen))) if chosen else None


def control_round(receipt: Receipt) -> int:
    """Which round of a control a run belongs to: each is an experiment of its own. 0 for ideas."""
    return receipt.seed // CONTROL_SEEDS if receipt.idea.startswith(CONTROL) else 0


def _same_arm(a: Receipt, b: Receipt) -> bool:
    return control_round(a) == control_round(b) and all(getattr(a, name) == getattr(b, name) for name in ("code_sha", "args", *CONDITIONS))


def _reference(lab: Lab, rows: list[Row], first: Request, like: Receipt) -> tuple[Arm | None, str]:
    """The arm that a run is compared with, under the conditions of `like`, and what is wrong with that choice, if anything.

    That is the arm of its `parent` run, which was chosen for having the code that the idea forked from; only where that
    has too few seeds under these conditions, the parent's newest arm.
    """
    newest = arm(lab, rows, first.parent_idea, first.stage, like)
    if not first.parent or newest is None:
        return newest, ""
    parent = receipts.request(lab, first.parent)
    code, moved = (parent.code_sha, parent.args), f"{first.parent_idea} changed since this idea forked from it"
    if code == (newest.receipts[0].code_sha, newest.receipts[0].args):
        return newest, moved if "parent-moved" in first.flags else ""
    try:
        own = arm(lab, rows, first.parent_idea, first.stage, like, code)
    except LabError:  # measured, but under other conditions
        own = None
    if own and len(own.values) >= min(2, len(newest.values)):
        return own, ""
    return newest, moved


def anchor_of(lab: Lab, asked: Request, kept: set[tuple]) -> tuple[Request | None, tuple[str, ...]]:
    """The request of the nearest ancestor whose arm is in `kept`, or of the baseline (None where that has no run), and the ideas in between."""
    through, step = [], asked
    while step.parent:
        above = receipts.request(lab, step.parent)
        if above.idea == BASELINE or (above.idea, above.code_sha, above.args) in kept:
            return above, tuple(reversed(through))
        through.append(above.idea)
        step = above
    return None, tuple(reversed(through))


def kept_arms(past: Looks, stage: str) -> set[tuple]:
    """(idea, code_sha, args) of every arm that is kept at a stage: what was kept at another one is not known to be better here."""
    return {(one.idea, one.code_sha, one.args) for one in past.arms(stage, kept=True)}


def _anchor(lab: Lab, rows: list[Row], first: Receipt, kept: set[tuple]) -> tuple[Arm, tuple[str, ...]]:
    """The arm of `anchor_of`, under the conditions of `first`. Raises LabError where it was not measured."""
    asked, through = anchor_of(lab, first, kept)
    if asked is None or asked.idea == BASELINE:
        step = first
        for _ in through:
            step = receipts.request(lab, step.parent)
        if step.parent_idea != BASELINE:  # the link to an ancestor that was never run is missing
            raise _unmeasured(step, first)
        found, _ = _reference(lab, rows, step, first)
    else:
        found = arm(lab, rows, asked.idea, first.stage, first, (asked.code_sha, asked.args))
    if found is None:
        raise _unmeasured(step if asked is None or asked.idea == BASELINE else receipts.request(lab, asked.run_id), first)
    return found, through


def _unmeasured(step: Request, first: Receipt) -> LabError:
    stage, parent = first.stage, step.parent_idea
    if parent == BASELINE:
        return LabError(
            f"no noise floor at stage {stage}: the baseline has 0 of 3 seeds", hint=f"just baseline --stage {stage}, then: just verdict {first.idea}"
        )
    return LabError(f"its parent {parent} has no finished run at stage {stage}", hint=f"just queue {parent} --stage {stage}")


def judge(lab: Lab, problem: Problem, rows: list[Row], idea: str, stage: str, of: Receipt | None = None) -> Verdict:
    """The verdict on an idea from its newest arm (or the arm of the run `of`), as measured so far.

    Raises LabError when the idea or what it is compared with has no run, or the baseline no noise floor. Code that ignores its seed is dropped,
    whatever its number: nobody can tell it from one that was lucky once.
    """
    mine = arm(lab, rows, idea, stage, of, (of.code_sha, of.args) if of else None)
    if mine is None:
        raise LabError(f"{idea} has no finished run at stage {stage}", hint=f"just queue {idea} --stage {stage}")
    first, past = mine.receipts[0], looks(lab)
    base = arm(lab, rows, BASELINE, stage, first)
    anchor, through = _anchor(lab, rows, first, kept_arms(past, stage))
    against, changed = _reference(lab, rows, first, first)
    if against is None:
        against, changed = anchor, f"{first.parent_idea}, which it builds on, was not measured at stage {stage}"
    floors = [one.floor for one in (against, base) if one and one.idea == BASELINE and one.floor is not None]
    if not floors:
        raise LabError(
            f"no noise floor at stage {stage}: the baseline has {len(base.values) if base else 0} of 3 seeds",
            hint=f"just baseline --stage {stage}, then: just verdict {idea}",
        )
    history = past.sharing(mine.runs)
    tested, discoveries = ledger(past, stage)
    tests = [one.gate.test for one in history if one.gate.test]
    test = tests[0] if tests else tested + 1
    level = history[-1].gate.level if tests else stats.level(test, discoveries, problem.false_keeps)
    question = {"floor": floors[0], "smallest_effect": problem.smallest_effect, "level": level, "most": problem.stage(stage).seeds}
    screen = history[0].gate.screen if history else _screening_seed(mine)
    claim = problem.sign if first.predicted_effect is None else (1 if first.predicted_effect > 0 else -1)
    compared = _compare(mine, against, screen, claim, [one.seeds for one in history], question)
    lines = snapshot.lines(lab, anchor.receipts[-1].commit, first.commit)
    removes = lines[1] > lines[0] and not changed  # against other code than it forked from, what main gained would look removed
    gate = _gate(mine, against, anchor, through, screen, problem.sign, history, question, removes, test)
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
        agent=first.agent,
        against=against.idea,
        verdict=compared.verdict,
        why=why,
        effect=compared.effect,
        low=compared.low,
        high=compared.high,
        seeds=compared.seeds,
        floor=floors[0].sd,
        mean=_mean(mine, screen),
        against_mean=statistics.fmean(against.values.values()) if against.values else None,
        failures=dict(failures),
        confounds=(*_confounds(mine, against), *(words for words in (changed, mine.told_repeats) if words)),
        ratios=_ratios(mine, against),
        lines=lines,
        exploratory="" if first.predicted_effect is not None else f"no effect on {problem.metric} was predicted before the run",
        runs=mine.runs,
        against_runs=against.runs,
        gate=gate,
        error=compared.sd / len(compared.seeds) ** 0.5 if compared.seeds else None,
    )


def _screening_seed(mine: Arm) -> int | None:
    """The seed whose value was known when the others were asked for; None where there is none, or all were asked for at once."""
    measured = [receipt for receipt in mine.receipts if receipt.value is not None]
    if not measured or (len(measured) > 1 and all(receipt.queued < measured[0].finished for receipt in mine.receipts)):
        return None
    return _seed(measured[0])


def _seed(receipt: Receipt) -> int:
    """The seed that a run is paired by. A control's own lie 1000 and more above those they are paired with."""
    return receipt.seed % CONTROL_SEEDS if receipt.idea.startswith(CONTROL) else receipt.seed


def paired(mine: Arm, other: Arm) -> tuple[dict[int, float], dict[int, float]]:
    """The values of two arms by the seed that they are paired by."""
    return tuple({_seed(receipt): one.values[receipt.seed] for receipt in one.receipts if receipt.seed in one.values} for one in (mine, other))


def _compare(mine: Arm, other: Arm, screen: int | None, claim: int, looks: list[tuple[int, ...]], question: dict) -> stats.Comparison:
    """`stats.compare` on the evidence, or, while there is none, on the screening seed alone. `looks` are the seeds of the looks before.

    Where more seeds were measured than may count, those of earlier looks count, then those measured first: nobody picks them.
    """
    ours, theirs = paired(mine, other)
    shared = [seed for seed in ours if seed in theirs]
    evidence = [seed for seed in shared if seed != screen] or shared
    before = [seed for seed in (looks[-1] if looks else ()) if seed in evidence]
    chosen = [*before, *(seed for seed in evidence if seed not in before)][: question["most"]]
    spent = max((len(seeds) for seeds in looks if 1 < len(seeds) < len(chosen)), default=0)
    return stats.compare({seed: ours[seed] for seed in chosen}, theirs, claim=claim, before=spent, **question)


def _mean(mine: Arm, screen: int | None) -> float | None:
    """Over the seeds that are evidence: the one that an idea was chosen by flatters it."""
    ours, _ = paired(mine, mine)
    evidence = [value for seed, value in ours.items() if seed != screen] or list(ours.values())
    return statistics.fmean(evidence) if evidence else None


def _gate(
    mine: Arm,
    against: Arm,
    anchor: Arm,
    through: tuple[str, ...],
    screen: int | None,
    sign: int,
    history: list[Verdict],
    question: dict,
    removes: bool,
    test: int,
) -> Gate:
    ours, theirs = paired(mine, anchor)
    found = _compare(mine, anchor, screen, sign, [one.gate.seeds for one in history], question)
    most, failed = question["most"], {_seed(receipt) for receipt in mine.receipts} - ours.keys() | anchor.failed
    simpler = removes and _ratios(mine, anchor).get("parameters", 1.0) <= 1
    seeds = tuple(seed for seed in found.seeds if seed != screen)
    chance, wants = found.promise, _wants(ours, theirs, seeds, screen, failed, most)
    if not ours:
        decision, why = "drop", "nothing was measured"
    elif not found.seeds:
        decision, why, wants = "more", f"{anchor.idea} was not measured at its seeds", tuple(sorted(ours.keys() - failed))
    elif not seeds:
        bars = stats.screen(sign * (ours[screen] - theirs[screen]), **question)
        chance = max(bars) if simpler else bars[0]
        gain = sign * (ours[screen] - against.values.get(screen, theirs[screen]))
        decision, why = stats.triage(gain, bars[0], most)
        if simpler and decision != "more" and bars[1] >= stats.START:
            decision, why = "more", "it removes code, and does not look worse"
    else:
        decision, why = stats.decide(found, most, simpler=simpler)
    if decision not in ("keep", "simpler") and history and history[-1].kept and found.verdict != "refuted":
        decision = history[-1].gate.decision
        why = f"kept at {len(history[-1].gate.seeds)} seeds; the estimate is now over {len(seeds)}, which do not refute it"
    if decision == "more" and not wants:
        decision, why = "drop", f"{len(failed)} of the seeds failed, and none is left to try"
    if mine.repeats:
        decision, why, wants = "drop", mine.told_repeats, ()
    return Gate(
        decision=decision,
        why=why,
        anchor=anchor.idea,
        through=through,
        effect=found.effect,
        low=found.low,
        high=found.high,
        error=found.sd / len(found.seeds) ** 0.5 if found.seeds else None,
        p=found.p,
        allowed=found.allowed,
        level=question["level"],
        test=test if len(seeds) > 1 else 0,
        screen=screen,
        seeds=seeds,
        chance=chance,
        wants=wants,
        runs=anchor.runs,
    )


def _wants(
    ours: dict[int, float], theirs: dict[int, float], evidence: tuple[int, ...], screen: int | None, failed: set[int], most: int
) -> tuple[int, ...]:
    """The seeds of the look after one at `evidence`: first those that are measured on both sides, then on one, then the lowest."""
    free = [seed for seed in {*range(most + 1), *ours} if seed != screen and seed not in failed]
    order = sorted(free, key=lambda seed: (seed not in evidence, seed not in ours, seed not in theirs, seed))
    wants = order[: stats.next_look(len(evidence), most)]
    return () if set(wants) <= set(evidence) else tuple(sorted(wants))


def _ratios(mine: Arm, against: Arm) -> dict[str, float]:
    """How many times the parameters, training time and peak memory of the reference it takes, where both were measured."""
    found = {}
    for field, words in (("params", "parameters"), ("train_seconds", "training time"), ("peak_gb", "peak memory")):
        ours, theirs = mine.median(field), against.median(field)
        if ours is not None and theirs:
            found[words] = ours / theirs
    return found


def _confounds(mine: Arm, against: Arm) -> tuple[str, ...]:
    found = []
    for field, words, least in (("params", "parameters", 0), ("train_seconds", "training time", 1.0), ("peak_gb", "peak memory", 0.1)):
        ours, theirs = mine.median(field), against.median(field)
        if ours and theirs and ours / theirs > CONFOUNDED and ours - theirs > least:
            found.append(f"{words} x{ours / theirs:.2f}")
    return tuple(found)


def best(lab: Lab, problem: Problem, rows: list[Row], stage: str | None = None, base: Arm | None = None) -> dict:
    """The best arm that holds: the baseline as it is now (`base`, where the caller has read it), or a kept arm whose anchors down to it were kept.

    Returns its idea, mean, lineage (newest first), and how much of its effect may be the luck of the best of all that were tested. Raises
    LabError when the baseline was not measured.
    """
    measured = [row for row in results.of(rows, BASELINE, stage) if row.value is not None and is_reference(row.flags.split(","))]
    if not measured:
        raise LabError("the baseline has not been measured", hint="just baseline")
    stage = stage or measured[-1].stage
    base, past = base or arm(lab, rows, BASELINE, stage), looks(lab)
    chosen: list[Verdict] = []
    for verdict in past.arms(stage, control=False, kept=True):
        lineage = _lineage(verdict, past, set(base.runs))
        if lineage and (not chosen or problem.sign * (verdict.mean - chosen[0].mean) > 0):
            chosen = lineage
    steps = [
        {
            "idea": verdict.idea,
            "through": verdict.gate.through,
            "effect": verdict.gate.effect,
            "low": verdict.gate.low,
            "high": verdict.gate.high,
            "decision": verdict.gate.decision,
            "runs": verdict.runs,
        }
        for verdict in chosen
    ]
    steps.append({"idea": BASELINE, "through": (), "effect": None, "low": None, "high": None, "decision": None, "runs": base.runs})
    tested, _ = ledger(past, stage)
    return {
        "idea": steps[0]["idea"],
        "stage": stage,
        "metric": problem.metric,
        "mean": chosen[0].mean if chosen else statistics.fmean(base.values.values()),
        "tested": tested,
        "luck": stats.luck(tested) * chosen[0].gate.error if chosen else None,
        "lineage": steps,
    }


def _lineage(verdict: Verdict, past: Looks, base: set[str]) -> list[Verdict]:
    """The verdicts from this one down to the runs of the baseline `base`; empty unless each of them was kept."""
    chain = [verdict]
    while chain[-1].kept and chain[-1].gate.anchor != BASELINE:
        below = [other for other in past.arms(verdict.stage, control=False, of=chain[-1].gate.runs) if other not in chain]
        if not below:
            return []
        chain.append(below[-1])
    return chain if chain[-1].kept and base & set(chain[-1].gate.runs) else []

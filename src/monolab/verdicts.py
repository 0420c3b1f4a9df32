"""Verdicts: which runs answer an idea, what they are compared with, and the record of what came out.

Two questions, one arithmetic (`stats`). The *verdict* is about the hypothesis: the idea against the code it builds on. The *gate* is about the code:
may it be called better than its *anchor*, the nearest ancestor that was kept itself (or the baseline)? Where an idea builds on one that only
looked promising, the two differ, and a stack of promising ideas is kept as a whole.
"""

import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from monolab import receipts, snapshot, stats
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, CONTROL_SEEDS, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request
from monolab.results import Row

CONDITIONS = {"eval_sha": "the scorer", "data_sha": "the data", "env_sha": "the environment", "hardware": "the hardware"}


class OtherConditions(LabError):
    """An idea has runs, but all under another scorer, data, environment or hardware than what it would be compared with."""

    def __init__(self, idea: str, what: str, hint: str):
        super().__init__(what, hint)
        self.idea = idea


CONFOUNDED = 1.1  # a candidate this many times as large or as slow as its reference is flagged


@dataclass(frozen=True)
class Arm:
    """All runs of one code with one set of options under one set of conditions."""

    idea: str
    stage: str
    receipts: tuple[Receipt, ...]

    @property
    def values(self) -> dict[int, float]:
        """The first measured value of every seed, in the order of measurement: to run a seed again replaces nothing."""
        found: dict[int, float] = {}
        for receipt in self.receipts:
            if receipt.value is not None:
                found.setdefault(receipt.seed, receipt.value)
        return found

    @property
    def failed(self) -> set[int]:
        """The seeds that were tried and gave no value."""
        return {receipt.seed for receipt in self.receipts} - self.values.keys()

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(receipt.run_id for receipt in self.receipts)

    @property
    def floor(self) -> stats.Floor | None:
        """The noise floor, once three seeds are measured. Raises LabError where they do not spread."""
        if len(self.values) < 3:
            return None
        try:
            return stats.noise_floor(list(self.values.values()))
        except ValueError as error:
            raise LabError(f"{self.idea} ({self.stage}): {error}", hint="let train.py use its --seed, then: just baseline") from error

    def median(self, field: str) -> float | None:
        found = [getattr(receipt, field) for receipt in self.receipts if receipt.status == "ok" and getattr(receipt, field) is not None]
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

    @property
    def kept(self) -> bool:
        """Whether the code is better than its anchor, or as good and simpler."""
        return self.gate.decision in ("keep", "simpler")

    @property
    def control(self) -> bool:
        """Whether the lab tested itself here."""
        return self.idea.startswith(CONTROL)

    @property
    def final(self) -> bool:
        """Whether the lab has done what it does by itself."""
        return self.gate.decision != "more"


def _file(lab: Lab) -> Path:
    return lab.runs / "verdicts.jsonl"


def records(lab: Lab) -> list[Verdict]:
    """All looks recorded so far, oldest first."""
    path = _file(lab)
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(_verdict(json.loads(text)))
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(
                f"{path} line {number} is damaged: {error}",
                hint=f"git checkout -- 6_runs/{path.name}; or move it away, where an older monolab wrote it",
            ) from error
    return found


def _verdict(values: dict) -> Verdict:
    gate = values["gate"] | {name: tuple(values["gate"][name]) for name in ("through", "seeds", "wants", "runs")}
    tuples = {name: tuple(values[name]) for name in ("args", "seeds", "confounds", "lines", "runs", "against_runs")}
    return Verdict(**values | tuples | {"gate": Gate(**gate)})


def record(lab: Lab, verdict: Verdict) -> None:
    """Append a look to the record. The caller holds the lab's lock."""
    with _file(lab).open("a") as file:
        file.write(json.dumps(asdict(verdict)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def newest(lab: Lab) -> dict[tuple[str, str], Verdict]:
    """The last recorded verdict of every idea and stage."""
    return {(record.idea, record.stage): record for record in records(lab)}


def by_arm(found: Iterable[Verdict]) -> list[Verdict]:
    """The last look at every arm, in the order of the first looks. Looks that share a run are looks at one arm."""
    arms: list[Verdict] = []
    for one in found:
        for place, earlier in enumerate(arms):
            if (earlier.idea, earlier.stage) == (one.idea, one.stage) and set(earlier.runs) & set(one.runs):
                arms[place] = one
                break
        else:
            arms.append(one)
    return arms


def ledger(found: Iterable[Verdict], stage: str) -> tuple[int, list[int]]:
    """How many ideas were tested at a stage, and how many of them had been when each of the kept ones was kept first. Controls are not ideas."""
    tested, kept = 0, {}
    for one in found:
        if one.stage == stage and not one.control:
            tested = max(tested, one.gate.test)
            if one.kept:
                kept.setdefault(one.gate.test, tested)
    return tested, list(kept.values())


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


def kept_arms(past: Iterable[Verdict], stage: str) -> set[tuple]:
    """(idea, code_sha, args) of every arm that is kept at a stage: what was kept at another one is not known to be better here."""
    return {(one.idea, one.code_sha, one.args) for one in by_arm(past) if one.kept and one.stage == stage}


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

    Raises LabError when the idea or what it is compared with has no run, the baseline no noise floor, or the idea ignores its seed.
    """
    mine = arm(lab, rows, idea, stage, of, (of.code_sha, of.args) if of else None)
    if mine is None:
        raise LabError(f"{idea} has no finished run at stage {stage}", hint=f"just queue {idea} --stage {stage}")
    first, past = mine.receipts[0], records(lab)
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
    if len(mine.values) > 1 and len(set(mine.values.values())) == 1:
        value = next(iter(mine.values.values()))
        raise LabError(
            f"{idea} gave {value:g} for every one of {len(mine.values)} seeds: it ignores its seed",
            hint="let train.py use its --seed, and queue it again",
        )
    history = [one for one in past if set(one.runs) & set(mine.runs)]
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
        confounds=(*_confounds(mine, against), *([changed] if changed else [])),
        ratios=_ratios(mine, against),
        lines=lines,
        exploratory="" if first.predicted_effect is not None else f"no effect on {problem.metric} was predicted before the run",
        runs=mine.runs,
        against_runs=against.runs,
        gate=gate,
    )


def _screening_seed(mine: Arm) -> int | None:
    """The seed whose value was known when the others were asked for; None where there is none, or all were asked for at once."""
    measured = [receipt for receipt in mine.receipts if receipt.value is not None]
    if not measured or (len(measured) > 1 and all(receipt.queued <= measured[0].finished for receipt in mine.receipts)):
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


def best(lab: Lab, problem: Problem, rows: list[Row], stage: str | None = None) -> dict:
    """The best arm that holds: the baseline as it is now, or a kept arm whose anchors down to it were kept.

    Returns its idea, mean, lineage (newest first), and how much of its effect may be the luck of the best of all that were tested. Raises
    LabError when the baseline was not measured.
    """
    measured = [
        row
        for row in rows
        if row.idea == BASELINE and row.value is not None and (stage is None or row.stage == stage) and is_reference(row.flags.split(","))
    ]
    if not measured:
        raise LabError("the baseline has not been measured", hint="just baseline")
    stage = stage or measured[-1].stage
    base, past = arm(lab, rows, BASELINE, stage), records(lab)
    found = [verdict for verdict in by_arm(past) if verdict.stage == stage and not verdict.control]
    chosen: list[Verdict] = []
    for verdict in found:
        lineage = _lineage(verdict, found, set(base.runs))
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


def _lineage(verdict: Verdict, others: list[Verdict], base: set[str]) -> list[Verdict]:
    """The verdicts from this one down to the runs of the baseline `base`; empty unless each of them was kept."""
    chain = [verdict]
    while chain[-1].kept and chain[-1].gate.anchor != BASELINE:
        below = [other for other in others if set(other.runs) & set(chain[-1].gate.runs) and other not in chain]
        if not below:
            return []
        chain.append(below[-1])
    return chain if chain[-1].kept and base & set(chain[-1].gate.runs) else []

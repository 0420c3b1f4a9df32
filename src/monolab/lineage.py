"""The tree of everything that was tried: each code with its parent, what came of it, and where the idea came from.

A tree is made from the lab's own records, or imported from another system's (`lab import`); whatever reads one works with both.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from monolab import ideas, pool, receipts, results, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, Lab
from monolab.pool import Scored
from monolab.receipts import Receipt

FOLDER = "lineages"  # below 0_docs/: imported trees, one JSON each


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One vertex: one code with one set of options at one stage. Numbers are None where nothing was measured."""

    key: str  # unique in its tree: SLUG, SLUG~2 for the idea's next code, SLUG@verify at another stage
    idea: str
    parent: str  # key; "" for a root
    stage: str
    when: str  # UTC, ISO 8601; "" where it is not known
    status: str  # ok where a value was measured, else of its last run; "" where nobody ran it here
    value: float | None  # mean over its seeds, in the metric's unit
    seeds: int
    effect: float | None = None  # candidate minus parent
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    decision: str = ""  # the gate's
    predicted: float | None = None
    hypothesis: str = ""
    runs: tuple[str, ...] = ()
    commit: str = ""
    code: str = ""  # of an imported one, whose commit is nowhere
    options: tuple[str, ...] = ()
    seconds: float = 0.0  # spent on all its runs
    params: float | None = None
    train_seconds: float | None = None
    peak_gb: float | None = None
    origin: str = ""  # cognition, experience, original: where the idea says it comes from
    papers: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)  # further numbers, by name
    notes: Mapping[str, str] = field(default_factory=dict)  # texts, by name: analysis, summary, error


@dataclass(frozen=True)
class Tree:
    """Candidates in the order in which they were made, every parent before its children."""

    name: str  # "" for the lab's own
    metric: str
    direction: str
    candidates: tuple[Candidate, ...]

    @property
    def sign(self) -> int:
        return 1 if self.direction == "higher" else -1

    @cached_property
    def by_key(self) -> dict[str, Candidate]:
        return {one.key: one for one in self.candidates}

    @cached_property
    def _below(self) -> dict[str, list[Candidate]]:
        found: dict[str, list[Candidate]] = {}
        for one in self.candidates:
            found.setdefault(one.parent, []).append(one)
        return found

    def children(self, key: str) -> list[Candidate]:
        """Of a candidate; of the key "", the roots."""
        return self._below.get(key, [])

    def siblings(self, key: str) -> list[Candidate]:
        one = self.get(key)
        return [other for other in self.children(one.parent) if other.key != key]

    def ancestors(self, key: str) -> list[Candidate]:
        """From the parent up to the root."""
        found, one = [], self.get(key)
        while one.parent:
            one = self.by_key[one.parent]
            found.append(one)
        return found

    def get(self, name: str) -> Candidate:
        """By key (the slug alone is an idea's first code), by the id of one of its runs, or by an idea that was only measured at other stages. Raises LabError with the nearest names."""
        if name in self.by_key:
            return self.by_key[name]
        same = [one for one in self.candidates if name in (one.idea, *one.runs)]
        if same:
            return same[-1]
        import difflib

        near = difflib.get_close_matches(name, [*self.by_key], n=3)
        raise LabError(f"nothing in the tree is called {name!r}", hint=f"did you mean {', '.join(near)}?" if near else "lab lineage")

    def at(self, stage: str) -> "Tree":
        """The part that was measured at one stage."""
        kept = tuple(one for one in self.candidates if one.stage == stage)
        known = {one.key for one in kept}
        return replace(self, candidates=tuple(one if one.parent in known else replace(one, parent="") for one in kept))

    def scored(self) -> list[Scored]:
        """As policies see it: higher is better. One that failed, or whose value is not finite, has no score."""
        mended = {one.idea: place for place, one in enumerate(self.candidates) if one.value is not None}
        broken: dict[str, int] = {}
        for one in self.candidates:
            broken[one.idea] = broken.get(one.idea, 0) + (one.value is None)
        return [
            Scored(
                one.key,
                one.parent,
                None if one.value is None or not math.isfinite(one.value) else self.sign * one.value,
                tries=pool.DEPTH if mended.get(one.idea, -1) > place else max(0, broken[one.idea] - 1),
            )
            for place, one in enumerate(self.candidates)
        ]


def of_lab(lab: Lab) -> Tree:
    """Every arm of the lab's own ledger, an arm's parent being the arm of the run that it was compared with.

    Without controls, runs in whose place a retry counts, and runs of the root that were not main's own code with its own settings.
    """
    problem, rows = problems.load(lab), results.load(lab)
    groups: dict[tuple, list[Receipt]] = {}
    place: dict[str, tuple] = {}
    void = verdicts.no_evidence(lab, rows)
    for row in rows:
        if row.idea.startswith(CONTROL) or row.run_id in void or (row.idea == BASELINE and not verdicts.is_reference(row.flags.split(","))):
            continue
        receipt = receipts.receipt(lab, row.run_id)
        if receipt is None:
            raise LabError(f"results.tsv names {row.run_id}, which has no receipt", hint="lab check")
        arm = (receipt.idea, receipt.stage, receipt.code_sha, receipt.args)
        groups.setdefault(arm, []).append(receipt)
        place[row.run_id] = arm
    keys = _keys(groups)
    judged = {run: one for one in verdicts.by_arm(verdicts.records(lab)) for run in one.runs}
    origins = _origins(lab, {arm[0] for arm in groups})
    found = [_candidate(keys[arm], keys.get(place.get(ran[0].parent), ""), ran, judged, origins) for arm, ran in groups.items()]
    return Tree("", problem.metric, problem.direction, tuple(parents_first(found)))


def _keys(arms: Iterable[tuple]) -> dict[tuple, str]:
    seen: dict[tuple[str, str], int] = {}
    keys = {}
    for arm in arms:
        idea, stage, *_ = arm
        number = seen[idea, stage] = seen.get((idea, stage), 0) + 1
        keys[arm] = idea + (f"~{number}" if number > 1 else "") + ("" if stage == "explore" else f"@{stage}")
    return keys


def _candidate(
    key: str, parent: str, ran: list[Receipt], judged: dict[str, verdicts.Verdict], origins: dict[str, tuple[str, tuple[str, ...]]]
) -> Candidate:
    first, newest = ran[0], ran[-1]
    alike = [one for one in ran if all(getattr(one, name) == getattr(newest, name) for name in verdicts.CONDITIONS)]  # a new scorer starts anew
    measured = {receipt.seed: receipt for receipt in reversed(alike) if receipt.value is not None}
    verdict = next((judged[receipt.run_id] for receipt in reversed(ran) if receipt.run_id in judged), None)
    origin, papers = origins.get(first.idea, ("", ()))

    def median(name: str) -> float | None:
        values = [getattr(receipt, name) for receipt in measured.values() if getattr(receipt, name) is not None]
        return statistics.median(values) if values else None

    names = set.intersection(*(set(receipt.metrics) for receipt in measured.values())) if measured else set()
    return Candidate(
        key=key,
        idea=first.idea,
        parent="" if parent == key else parent,
        stage=first.stage,
        when=first.finished,
        status="ok" if measured else ran[-1].status,
        value=verdict.mean
        if verdict and verdict.mean is not None
        else statistics.fmean(one.value for one in measured.values())
        if measured
        else None,
        seeds=len(measured),
        effect=verdict and verdict.effect,
        low=verdict and verdict.low,
        high=verdict and verdict.high,
        verdict=verdict.verdict if verdict else "",
        decision=verdict.gate.decision if verdict else "",
        predicted=first.predicted_effect,
        hypothesis=first.hypothesis or first.question,
        runs=tuple(receipt.run_id for receipt in ran),
        commit=first.commit,
        options=first.args,
        seconds=sum(receipt.seconds for receipt in ran),
        params=median("params"),
        train_seconds=median("train_seconds"),
        peak_gb=median("peak_gb"),
        origin=origin,
        papers=papers,
        scores={name: statistics.fmean(receipt.metrics[name] for receipt in measured.values()) for name in sorted(names)},
        notes={} if measured else {"error": ran[-1].reason},
    )


def _origins(lab: Lab, wanted: set[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """`origin` and `papers` of the idea files that still stand; one that cannot be read says nothing."""
    found = {}
    for slug, path in ideas.slugs(lab).items():
        if slug in wanted:
            fields, _ = problems.front_matter(path)
            papers = tuple(str(paper) for paper in fields.get("papers") or ())
            found[slug] = (str(fields.get("origin") or ("cognition" if papers else "")), papers)
    return found


def parents_first(found: list[Candidate]) -> list[Candidate]:
    """In their order, but no parent after its child. Raises LabError for a candidate that is its own ancestor."""
    by_key, done = {one.key: one for one in found}, {}
    for one in found:
        chain = [one]
        while chain[-1].key not in done and chain[-1].parent:
            above = by_key[chain[-1].parent]
            if above in chain:
                raise LabError(
                    f"{above.key} is its own ancestor: {' <- '.join(step.key for step in chain)}", hint="mend the parents and import it again"
                )
            chain.append(above)
        done |= {step.key: step for step in reversed(chain) if step.key not in done}
    return list(done.values())


def load(lab: Lab, name: str = "") -> Tree:
    """The lab's own tree, or the imported one called `name`. Raises LabError naming those there are."""
    if not name:
        return of_lab(lab)
    path = lab.root / "0_docs" / FOLDER / f"{name}.json"
    if not path.is_file():
        there = sorted(one.stem for one in path.parent.glob("*.json"))
        raise LabError(f"no imported tree is called {name!r}", hint=f"one of: {', '.join(there)}" if there else "lab import asi-arch FILE")
    try:
        told = json.loads(path.read_text())
        tuples = ("runs", "options", "papers")
        candidates = tuple(Candidate(**one | {name: tuple(one[name]) for name in tuples if name in one}) for one in told["candidates"])
        return Tree(told["name"], told["metric"], told["direction"], candidates)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path} is damaged: {error}", hint="import it again: lab import asi-arch FILE") from error


def save(lab: Lab, tree: Tree) -> Path:
    """Keep an imported tree under 0_docs/lineages/. What was kept under the same name is replaced."""
    path = lab.root / "0_docs" / FOLDER / f"{tree.name}.json"
    said = {"name": tree.name, "metric": tree.metric, "direction": tree.direction, "candidates": [asdict(one) for one in tree.candidates]}
    receipts.write_atomic(path, json.dumps(said, indent=1) + "\n")
    return path


def best_so_far(tree: Tree) -> list[float | None]:
    """The best value among the candidates up to each one."""
    found: list[float | None] = []
    for one in tree.candidates:
        before = found[-1] if found else None
        if one.value is None or not math.isfinite(one.value):
            found.append(before)
        else:
            found.append(one.value if before is None or tree.sign * (one.value - before) > 0 else before)
    return found

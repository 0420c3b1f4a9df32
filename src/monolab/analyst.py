"""The analyst's half: an idea's expectation against reality, against its parent and siblings (an ablation by relatives), and what it cost.

All of it is computed from records, and is observation; what it may mean is the author's to write (ASI-Arch, section 2.4, lets a model write both).
"""

from dataclasses import dataclass

from monolab import lineage, verdicts
from monolab.errors import LabError
from monolab.journal import number
from monolab.lineage import Candidate, Tree
from monolab.paths import Lab
from monolab.verdicts import Verdict

SIBLINGS = 8  # that are listed, the most different first


@dataclass(frozen=True)
class Relative:
    """Another candidate and its own effect against its own parent, and how far the idea stands from it (idea minus relative)."""

    key: str
    relation: str  # parent, grandparent, sibling, child
    effect: float | None
    gap: float | None
    verdict: str


@dataclass(frozen=True)
class Analysis:
    """Numbers in the metric's unit. `surprise`: observed minus predicted, in standard errors; None without a prediction or an error."""

    idea: str
    stage: str
    metric: str
    predicted: float | None
    effect: float | None
    low: float | None
    high: float | None
    surprise: float | None
    sign_held: bool | None
    verdict: str
    decision: str
    relatives: tuple[Relative, ...]
    seconds: float  # of all its runs
    seconds_per_run: float
    ratios: dict[str, float]


def analyse(lab: Lab, slug: str, stage: str) -> Analysis:
    """From the last recorded look. Raises LabError where the idea has none."""
    recorded = verdicts.newest(lab).get((slug, stage))
    if recorded is None:
        raise LabError(f"{slug} has no verdict at stage {stage} yet", hint=f"just queue {slug} --stage {stage}, or: just status")
    return of(lineage.of_lab(lab).at(stage), recorded)


def of(tree: Tree, verdict: Verdict) -> Analysis:
    one = tree.get(verdict.runs[-1])
    above = tree.ancestors(one.key)
    relatives = [_relative(one, other, "parent" if place == 0 else "ancestor") for place, other in enumerate(above)]
    siblings = [_relative(one, other, "sibling") for other in (tree.siblings(one.key) if one.parent else [])]
    siblings.sort(key=lambda other: -abs(other.gap or 0.0))
    relatives += siblings[:SIBLINGS] + [_relative(one, other, "child") for other in tree.children(one.key)]
    known = verdict.predicted is not None and verdict.effect is not None
    return Analysis(
        idea=verdict.idea,
        stage=verdict.stage,
        metric=verdict.metric,
        predicted=verdict.predicted,
        effect=verdict.effect,
        low=verdict.low,
        high=verdict.high,
        surprise=(verdict.effect - verdict.predicted) / verdict.error if known and verdict.error else None,
        sign_held=verdict.effect * verdict.predicted > 0 if known else None,
        verdict=verdict.verdict,
        decision=verdict.gate.decision,
        relatives=tuple(relatives),
        seconds=one.seconds,
        seconds_per_run=one.seconds / len(one.runs),
        ratios=verdict.ratios,
    )


def _relative(one: Candidate, other: Candidate, relation: str) -> Relative:
    gap = one.value - other.value if one.value is not None and other.value is not None else None
    return Relative(other.key, relation, other.effect, gap, other.verdict)


def text(found: Analysis) -> str:
    lines = []
    if found.effect is None:
        lines.append("Nothing was measured that could be held against the expectation.")
    elif found.predicted is None:
        lines.append(f"Observed {number(found.effect)} {found.metric}; nothing was predicted.")
    else:
        surprise = "" if found.surprise is None else f", {found.surprise:+.1f} standard errors from it"
        lines.append(
            f"Expected {number(found.predicted)}, observed {number(found.effect)} {found.metric}{surprise}; the sign {'held' if found.sign_held else 'did not hold'}."
        )
    for one in found.relatives:
        own = "" if one.effect is None else f", itself {number(one.effect)} against its parent"
        lines.append(
            f"- {one.relation} {one.key}: {number(one.gap)} {found.metric} from it to here{own}" + (f" ({one.verdict})" if one.verdict else "")
        )
    costs = ", ".join(f"{name} x{ratio:.2f}" for name, ratio in found.ratios.items())
    lines.append(
        f"Cost: {found.seconds:.0f} s of runs, {found.seconds_per_run:.0f} s each" + (f"; against its reference: {costs}" if costs else "") + "."
    )
    return "\n".join(lines)

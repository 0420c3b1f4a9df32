"""Fitness of a candidate for being built on: equation 2 of ASI-Arch (2025), its three objectives in columns of their own.

Objectives only choose whom to build on. What is better is the gate's to say (`verdicts`), and a judge's opinion is logged beside them: it counts
where the caller asks for it, which the lab does not do by default, because a judge that is shown the losses counts performance twice.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from monolab.errors import LabError

SPAN = 0.1  # a relative difference to the reference that is as good, or as bad, as any larger one
STEEP = 6.0  # of the sigmoid at that difference, as the authors' published code has it; their equation leaves it open
LOWEST, HIGHEST = 1.0, 10.0  # of a judge's scale


@dataclass(frozen=True)
class Fitness:
    """Each in 0..1, 0.5 being the reference. None where it was not measured (or, of the judge, not asked)."""

    loss: float
    benchmark: float | None
    judge: float | None

    def total(self, *, judged: bool = False) -> float:
        """The mean of the objectives that are there; of the judge's only where `judged`. In 0..1."""
        parts = [self.loss, self.benchmark, self.judge if judged else None]
        return statistics.fmean(part for part in parts if part is not None)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def relative(value: float, reference: float, sign: int) -> float:
    """sigma(6 d) with d the relative gain over the reference, held within +-1 tenth and scaled to +-1. `sign` is +1 where higher is better.

    Raises LabError for what is not finite: `min(1, nan)` is 1, which made diverged runs the best of a published tree; and for a reference of 0.
    """
    if not (math.isfinite(value) and math.isfinite(reference)):
        raise LabError(
            f"fitness of {value} against {reference}: not finite", hint="a run without a number has no fitness; just log RUN says why it has none"
        )
    if reference == 0:
        raise LabError(
            "fitness is relative to the reference, and that is 0",
            hint="a metric that is 0 at the baseline needs a policy by effect: --policy weighted",
        )
    gain = sign * (value - reference) / (SPAN * abs(reference))
    return sigmoid(STEEP * max(-1.0, min(1.0, gain)))


def fitness(
    value: float,
    reference: float,
    sign: int,
    *,
    benchmarks: Mapping[str, tuple[float, float, int]] | None = None,
    judge: float | None = None,
) -> Fitness:
    """Fitness of a metric's value against the reference's.

    `benchmarks`: name -> (value, reference, sign), averaged. `judge`: on the authors' scale of 1 to 10, where 5 is as good as the baseline.
    Raises LabError for what is not finite or off the scale.
    """
    if judge is not None and not LOWEST <= judge <= HIGHEST:  # false for nan as well
        raise LabError(f"a judge's score of {judge}", hint=f"from {LOWEST:g} to {HIGHEST:g}")
    measured = [relative(*one) for one in (benchmarks or {}).values()]
    return Fitness(
        loss=relative(value, reference, sign),
        benchmark=statistics.fmean(measured) if measured else None,
        judge=None if judge is None else (judge - LOWEST) / (HIGHEST - LOWEST),
    )

"""The arithmetic of a verdict: pure functions, no files.

Paired by seed: candidate and reference share their seeds, which on the root problem cuts the standard deviation of
a difference to about half. The interval is Student's t interval of the paired differences (Student 1908), whose
width already pays for how few seeds there are.
"""

import math
import statistics
from dataclasses import dataclass

LEVEL = 0.95  # of the interval


@dataclass(frozen=True)
class Comparison:
    """What paired seeds say about candidate minus reference, in the metric's unit."""

    verdict: str  # supported, refuted, inconclusive
    why: str
    effect: float | None  # mean difference
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    floor: float  # sd of the baseline over its seeds
    better: bool  # the metric improved by at least the smallest effect, and the interval excludes none


def t_quantile(df: int) -> float:
    """Half-width of the interval in standard errors, for `df` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + LEVEL) / 2))


def noise_floor(values: list[float]) -> float:
    """Standard deviation over the seeds of one code. Raises ValueError for fewer than three."""
    if len(values) < 3:
        raise ValueError(f"{len(values)} seeds, a noise floor needs 3")
    return statistics.stdev(values)


def compare(
    candidate: dict[int, float], reference: dict[int, float], *, floor: float, sign: int, predicted: float | None, smallest_effect: float
) -> Comparison:
    """The verdict on a hypothesis, from the values of candidate and reference by seed.

    `sign` is +1 where higher is better, -1 where lower is. `predicted` is the effect that was written down before
    (its sign is the claim; without one the claim is "better"). With gains counted in the predicted direction:
    supported: the whole interval is above 0 and the mean reaches `smallest_effect`.
    refuted: the whole interval is below `smallest_effect`, so that an effect worth finding is excluded.
    Otherwise, and always with fewer than two shared seeds: inconclusive.
    """
    seeds = tuple(sorted(candidate.keys() & reference.keys()))
    differences = [candidate[seed] - reference[seed] for seed in seeds]
    if not seeds:
        return Comparison("inconclusive", "no seed was measured on both sides", None, None, None, (), floor, False)
    effect = statistics.fmean(differences)
    if len(seeds) == 1:
        why = f"one seed settles nothing (the baseline alone spreads by {floor:.2g} from seed to seed)"
        return Comparison("inconclusive", why, effect, None, None, seeds, floor, False)
    half = t_quantile(len(seeds) - 1) * statistics.stdev(differences) / math.sqrt(len(seeds))
    low, high = effect - half, effect + half
    claim = sign if predicted is None else int(math.copysign(1, predicted))
    gain, least, most = claim * effect, claim * (low if claim > 0 else high), claim * (high if claim > 0 else low)
    if least > 0 and gain >= smallest_effect:
        verdict, why = "supported", "the whole interval lies on the predicted side of 0, and the effect is worth finding"
    elif most < smallest_effect:
        verdict = "refuted"
        why = (
            "the effect is real and in the other direction"
            if most < 0
            else f"an effect of {smallest_effect:g} in the predicted direction is excluded"
        )
    else:
        verdict, why = "inconclusive", "the interval holds both nothing and an effect worth finding"
    better = sign * (low if sign > 0 else high) > 0 and sign * effect >= smallest_effect
    return Comparison(verdict, why, effect, low, high, seeds, floor, better)


def seeds_needed(effect: float, sd_of_differences: float, power: float = 0.8) -> int:
    """Paired seeds that a two-sided t test at 5 % needs to see a positive `effect`, in its direction, with probability `power` (Cohen 1988, ch. 2)."""
    from scipy.special import nctdtr

    if sd_of_differences == 0:
        return 2
    for n in range(2, 10_000):
        quantile, shift = t_quantile(n - 1), effect / sd_of_differences * math.sqrt(n)
        if 1 - nctdtr(n - 1, shift, quantile) >= power:
            return n
    raise ValueError(f"an effect of {effect:g} against a spread of {sd_of_differences:g} needs over 10,000 seeds")

"""The arithmetic of a verdict: pure functions, no files.

Candidate and reference are paired by seed; a look takes the differences that are in so far and tests them with Student's t.

Screening: where an idea's first seed decides whether it gets further ones, that seed is no evidence: what chose an idea must not also judge it.

Looking several times: the chance of a false result is spent in proportion to the seeds (Lan and DeMets 1983, linear spending): a look at n of at
most N seeds, after one at m, gets the share (n - m) / N of it. The shares add up to one, so by Bonferroni's inequality all looks together
keep the level, however the looks depend on each other and whenever one stops. The interval of a look is simultaneous in the same way.

Few seeds: two or three differences say little about their own spread, so it is moderated by what the baseline's seeds say (Smyth 2004): the
variance is pooled with twice the floor's, which counts for at most PRIOR degrees of freedom, and is never below the differences' own.
A candidate half as noisy again as the baseline exceeds its level by at most a third, one twice as noisy about doubles it (levels down to 1e-4, noise
that seeds do not share; less where pairing helps: tests/test_stats.py).

Trying many ideas: `level` is LORD++ (Ramdas et al. 2017; asynchronous as in Zrnic, Ramdas and Jordan 2021), which keeps the expected share of
false keeps among all keeps below its target.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of the interval, over all looks together
PRIOR = 3  # degrees of freedom that the noise floor counts for, at most
START = 0.9  # a screened idea gets evidence where it would be kept by the last seed allowed with this chance
PROMISE = 0.2  # and further seeds while that chance is still this large
DECAY = 1.6  # of LORD's weights, as in Ramdas et al. 2018
ZETA = 2.285765666  # sum of t**-1.6 over t = 1, 2, ...


@dataclass(frozen=True)
class Floor:
    """The noise floor: standard deviation of one code over its seeds, in the metric's unit, and how many there were."""

    sd: float
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """What paired seeds say about candidate minus reference, in the metric's unit. None where it takes more seeds to say."""

    verdict: str  # supported, refuted, inconclusive
    why: str
    claim: int  # the predicted sign of the effect
    seeds: tuple[int, ...]
    effect: float | None  # mean difference
    low: float | None
    high: float | None
    sd: float | None  # of a difference, moderated
    p: float | None  # one-sided, of no effect in the claimed direction, at this look alone
    allowed: float | None  # what p may be at this look
    harmless: bool  # a loss of the smallest effect is excluded at the same level
    promise: float  # chance that the seeds still allowed would make it `supported`, at the current estimate
    spared: float  # the same, for `harmless`


def noise_floor(values: Sequence[float]) -> Floor:
    """The spread over the seeds of one code. Raises ValueError for fewer than three, for what is no number, and where they do not spread at all."""
    _require_finite(values)
    if len(values) < 3:
        raise ValueError(f"{len(values)} seeds, a noise floor needs 3")
    sd = statistics.stdev(values)
    if sd == 0:
        raise ValueError(f"{len(values)} seeds gave one and the same value: the seed changes nothing, so there is no noise to judge by")
    return Floor(sd, len(values))


def _require_finite(values: Sequence[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{list(values)} are not all numbers")


def next_look(seeds: int, most: int) -> int:
    """How many seeds the look after one at `seeds` takes: 2, 3, 5, 8, ... up to `most`; growing, as later looks buy less."""
    return min(most, max(2, seeds + math.ceil(seeds / 2)))


def share(seeds: int, before: int, most: int) -> float:
    """Of the chance of a false result, what a look at `seeds` may spend after the last one at `before`. Raises ValueError where that is nothing."""
    if not before < seeds <= most:
        raise ValueError(f"a look at {seeds} of at most {most} seeds, after one at {before}")
    return (seeds - before) / most


def compare(
    candidate: dict[int, float],
    reference: dict[int, float],
    *,
    floor: Floor,
    claim: int,
    smallest_effect: float,
    level: float,
    most: int,
    before: int = 0,
) -> Comparison:
    """One look at the values of candidate and reference by seed, of which the first `most` shared ones count.

    `claim` is the predicted sign of the effect, `level` the chance of supporting a claim that is false, over all looks; `before` is
    how many seeds the look before this one took, 0 where there was none. With gains counted in the claimed direction:
    supported: no gain is rejected at what is left of the level, and the mean reaches `smallest_effect`.
    refuted: the whole interval is below `smallest_effect`, so that an effect worth finding is excluded.
    Otherwise, and always with fewer than two shared seeds: inconclusive. Raises ValueError for values that are no numbers.
    """
    seeds = tuple(sorted(candidate.keys() & reference.keys()))[:most]
    if not seeds:
        return Comparison("inconclusive", "no seed was measured on both sides", claim, (), None, None, None, None, None, None, False, 1.0, 1.0)
    differences = [candidate[seed] - reference[seed] for seed in seeds]
    _require_finite(differences)
    n, effect = len(seeds), statistics.fmean(differences)
    gain = claim * effect
    sd, df = _spread(differences, floor)
    bars = _bar(smallest_effect, most, df + most - n, sd, level * _last_share(n, most))
    promise, spared = (_reach(gain, n, sd, df, bar, most) for bar in bars)
    if n == 1:
        why = f"one seed settles nothing (the baseline alone spreads by {floor.sd:.2g} from seed to seed)"
        return Comparison("inconclusive", why, claim, seeds, effect, None, None, sd, None, None, False, promise, spared)
    part, error = share(n, before, most), sd / math.sqrt(n)
    half = _quantile(df, part * (1 - LEVEL) / 2) * error
    p, allowed = _tail(df, gain / error), level * part
    if p <= allowed and gain >= smallest_effect:
        verdict, why = "supported", f"an effect in the predicted direction is there (p {p:.2g}, allowed {allowed:.2g}) and worth finding"
    elif gain + half < smallest_effect:
        verdict = "refuted"
        why = (
            "the effect is real and in the other direction"
            if gain + half < 0
            else f"an effect of {smallest_effect:g} in the predicted direction is excluded"
        )
    elif p <= allowed:
        verdict, why = "inconclusive", f"an effect in the predicted direction is there, but its estimate is below {smallest_effect:g}"
    else:
        verdict, why = "inconclusive", f"these seeds allow both nothing and an effect worth finding (p {p:.2g}, allowed {allowed:.2g})"
    harmless = _tail(df, (gain + smallest_effect) / error) <= allowed
    return Comparison(verdict, why, claim, seeds, effect, effect - half, effect + half, sd, p, allowed, harmless, promise, spared)


def screen(gain: float, *, floor: Floor, smallest_effect: float, level: float, most: int) -> tuple[float, float]:
    """The chance that what one seed saw gain so much is kept by the last seed, as better and as harmless. Predictive, from a flat prior."""
    df, sd = min(floor.seeds - 1, PRIOR), math.sqrt(2) * floor.sd
    bars = _bar(smallest_effect, most, df + most - 1, sd, level * _last_share(0, most))
    return tuple(_tail(df, (bar - gain) / (sd * math.sqrt(1 + 1 / most))) for bar in bars)


def triage(gain: float, chance: float, most: int) -> tuple[str, str]:
    """What follows from the screening seed: `more` seeds, as evidence; `promising`, to be built on but not claimed; or `drop`. And why."""
    if chance >= START:
        return "more", f"one seed looks better than the anchor; {most} more, which count, would keep it with a chance of {chance:.2g}"
    if gain > 0:
        return "promising", f"one seed looks better, by too little to be settled soon (chance {chance:.2g}): build on it, or replicate it"
    return "drop", "its first seed is not better than what it builds on"


def decide(found: Comparison, most: int, *, simpler: bool = False) -> tuple[str, str]:
    """What follows from a look at a change that claims to be better: `keep`, `simpler` (kept for what it removes), `more` seeds, `promising` or `drop`. And why.

    A change that removes code (`simpler`) is kept as well once a loss of the smallest effect is excluded.
    """
    n = len(found.seeds)
    if found.verdict == "supported":
        return "keep", found.why
    if simpler and found.harmless:
        return "simpler", "it removes code, and a loss of the smallest effect is excluded"
    chance = max(0.0 if found.verdict == "refuted" else found.promise, found.spared if simpler else 0.0)
    if n < 2 or (n < most and chance >= PROMISE):
        return "more", f"{next_look(n, most)} seeds will tell more" + (
            f" (chance that it is kept by the last of {most}: {chance:.2g})" if n > 1 else ""
        )
    if found.verdict == "refuted":
        return "drop", found.why
    why = (
        f"all {most} seeds are in, and they do not settle it"
        if n >= most
        else f"with all {most} seeds it would be kept with a chance of {chance:.2g} only"
    )
    return "promising" if found.claim * found.effect > 0 else "drop", why


def half_width(differences: Sequence[float]) -> float | None:
    """Half of Student's 95 % interval of a mean, for one look that was planned; None for a single difference."""
    n = len(differences)
    return None if n < 2 else _quantile(n - 1, (1 - LEVEL) / 2) * statistics.stdev(differences) / math.sqrt(n)


def settled_by(found: Comparison, *, floor: Floor, smallest_effect: float, level: float, most: int) -> int | None:
    """How many seeds would support or refute the claim if the estimate and its spread stayed as they are; None for over a thousand."""
    gain, n = found.claim * found.effect, len(found.seeds)
    last = _last_share(n, most)
    for seeds in range(max(n, 2), 1001):
        df, error = min(floor.seeds - 1, PRIOR) + seeds - 1, found.sd / math.sqrt(seeds)
        if (
            gain >= max(smallest_effect, _quantile(df, level * last) * error)
            or gain + _quantile(df, last * (1 - LEVEL) / 2) * error < smallest_effect
        ):
            return seeds
    return None


def _spread(differences: list[float], floor: Floor) -> tuple[float, int]:
    """Standard deviation of a difference and its degrees of freedom: pooled with the floor's, never below the differences' own."""
    prior, own = min(floor.seeds - 1, PRIOR), len(differences) - 1
    variance = statistics.variance(differences) if own else 0.0
    pooled = (prior * 2 * floor.sd**2 + own * variance) / (prior + own)
    return math.sqrt(max(pooled, variance)), prior + own


def _last_share(seeds: int, most: int) -> float:
    """What the last look may spend, on the way there from a look at `seeds`; from the start, where that was none or the last one itself."""
    before = seeds if 1 < seeds < most else 0
    while (following := next_look(before, most)) < most:
        before = following
    return share(most, before, most)


def _bar(smallest_effect: float, n: int, df: int, sd: float, allowed: float) -> tuple[float, float]:
    """The mean gains at n seeds above which a change counts as better, and as harmless."""
    significant = _quantile(df, allowed) * sd / math.sqrt(n)
    return max(smallest_effect, significant), significant - smallest_effect


def _reach(gain: float, n: int, sd: float, df: int, bar: float, most: int) -> float:
    """Predictive probability that the mean gain at `most` seeds reaches `bar` (Spiegelhalter, Freedman and Blackburn 1986; flat prior)."""
    return float(gain >= bar) if n >= most else _tail(df, (bar - gain) / (sd * math.sqrt(1 / n - 1 / most)))


def load() -> None:
    """Import what the distributions need, some 0.2 s: for who has the time now and will not when a verdict is due."""
    import scipy.special  # noqa: F401


def _quantile(df: int, tail: float) -> float:
    """What Student's t exceeds with probability `tail`."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, tail))


def _tail(df: int, t: float) -> float:
    """The probability that Student's t exceeds `t`."""
    from scipy.special import stdtr

    return float(stdtr(df, -t))


def level(index: int, discoveries: Sequence[int], target: float) -> float:
    """What the `index`-th idea (from 1) may spend so that the false discovery rate stays below `target`: LORD++, asynchronous.

    `discoveries` says for every idea kept so far how many ideas had been started when it was kept. Half of the target is there from
    the start; each discovery pays some back. (Ramdas et al. 2017, eq. 9, with weights t**-1.6; Zrnic, Ramdas and Jordan 2021, sec. 4.)
    """
    weight = [0.0 if started >= index else (index - started) ** -DECAY / ZETA for started in sorted(discoveries)]
    first, rest = (weight[0], sum(weight[1:])) if weight else (0.0, 0.0)
    return target * (0.5 * index**-DECAY / ZETA + 0.5 * first + rest)


def luck(tried: int) -> float:
    """Expected maximum of `tried` independent standard normal numbers: by how many standard errors the best of them flatters itself.

    It is what the best of `tried` equally good ideas would gain by chance alone, the most that choosing it can have added
    (David and Nagaraja, Order Statistics, 2003, sec. 3.1). Integrated by parts: the integral of 1 - F(x)^k - F(-x)^k over x > 0.
    """
    normal, step = statistics.NormalDist(), 0.02
    if tried < 2:
        return 0.0
    return step * sum(1 - normal.cdf(x) ** tried - normal.cdf(-x) ** tried for x in (step * (place + 0.5) for place in range(450)))


def seeds_needed(effect: float, sd_of_differences: float, power: float = 0.8) -> int:
    """Paired seeds that a two-sided t test at 5 % needs to see a positive `effect`, in its direction, with probability `power` (Cohen 1988, ch. 2)."""
    from scipy.special import nctdtr

    if sd_of_differences <= 1e-6 * effect:  # no spread but that of rounding
        return 2
    for n in range(2, 10_000):
        quantile, shift = _quantile(n - 1, (1 - LEVEL) / 2), effect / sd_of_differences * math.sqrt(n)
        if 1 - nctdtr(n - 1, shift, quantile) >= power:
            return n
    raise ValueError(f"an effect of {effect:g} against a spread of {sd_of_differences:g} needs over 10,000 seeds")


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927). Raises ValueError without a trial."""
    if not 0 <= hits <= trials or not trials:
        raise ValueError(f"{hits} of {trials}: a rate needs at least one trial")
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre, spread = hits + z * z / 2, z * math.sqrt(hits * (trials - hits) / trials + z * z / 4)
    return max(0.0, (centre - spread) / (trials + z * z)), min(1.0, (centre + spread) / (trials + z * z))

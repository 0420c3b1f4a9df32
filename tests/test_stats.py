"""The keep gate's arithmetic against simulation, and against scipy where that has the same method.

`Looks` is the rule of `stats.compare` written a second time, for many experiments at once; `test_compare_follows_the_rule` holds the two together.
Unit of the simulations: the standard deviation of the baseline over its seeds.
"""

import dataclasses
import functools
import math
import random

import numpy as np
import pytest
import scipy.special
from scipy import stats as scipy_stats

from monolab import stats
from monolab.stats import Floor

MOST = 8
PLAN = {2: 2 / 8, 3: 1 / 8, 5: 2 / 8, 8: 3 / 8}  # seeds of a look, and the share of the level that it may spend
DRAWS = 200_000
BASELINE = Floor(1.0, 3)
UNWEIGHTED = Floor(1.0, 1)  # counts for no degree of freedom, so that Student's test is left
FOUND = stats.Comparison("inconclusive", "unclear", 1, (1, 2, 3), 0.1, -0.1, 0.3, 0.1, 0.1, 0.01, False, 0.0, 0.0)


def compare(differences, *, floor=BASELINE, claim=1, smallest=1e-9, level=0.05, most=MOST, before=0):
    reference = {seed: math.sin(seed) for seed in range(len(differences))}
    candidate = {seed: reference[seed] + difference for seed, difference in enumerate(differences)}
    return stats.compare(candidate, reference, floor=floor, claim=claim, smallest_effect=smallest, level=level, most=most, before=before)


def error_of(rate: float, trials: int) -> float:
    """Standard error of a rate."""
    return math.sqrt(rate * (1 - rate) / trials)


@functools.lru_cache(maxsize=1)
def draws() -> tuple[np.ndarray, np.ndarray]:
    """Baseline and, independent of it, a candidate at seeds 0 to 8, in many labs."""
    both = np.random.default_rng(0).standard_normal((2, MOST + 1, DRAWS))
    return both[0], both[1]


class Looks:
    """What every look at the differences (seed by lab) sees; the floor is the spread of the baseline's first seeds."""

    def __init__(self, differences: np.ndarray, baseline: np.ndarray, plan=PLAN):
        prior, floor, self.steps = min(len(baseline) - 1, 3), baseline.var(axis=0, ddof=1), []
        for seeds, share in plan.items():
            some = differences[:seeds]
            own = some.var(axis=0, ddof=1)
            pooled = (2 * prior * floor + (seeds - 1) * own) / (prior + seeds - 1)
            self.steps.append((some.mean(axis=0), np.sqrt(np.maximum(pooled, own) / seeds), prior + seeds - 1, share))

    def supported(self, level: float) -> np.ndarray:
        """The labs that find a gain at some look."""
        return np.any([mean >= scipy_stats.t.isf(level * share, df) * error for mean, error, df, share in self.steps], axis=0)

    def covered(self, effect: float = 0.0) -> np.ndarray:
        """The labs in which the intervals of all looks hold the true effect."""
        return np.all([np.abs(mean - effect) <= scipy_stats.t.isf(0.025 * share, df) * error for mean, error, df, share in self.steps], axis=0)


@functools.lru_cache(maxsize=4)
def looks(noise: float, correlation: float, floor_seeds: int) -> Looks:
    """A candidate that is no better than the baseline, `noise` times as noisy, its seeds paired with the baseline's. Seed 0 is no evidence."""
    baseline, own = draws()
    candidate = noise * (correlation * baseline + math.sqrt(1 - correlation**2) * own)
    return Looks((candidate - baseline)[1:], baseline[:floor_seeds])


# one look


@pytest.mark.parametrize("floor_seeds", [3, 4, 8])
@pytest.mark.parametrize("level", [0.05, 0.002])
def test_compare_follows_the_rule(floor_seeds, level):
    baseline, own = (part[:, :40] for part in draws())
    differences = own - baseline + np.where(np.arange(40) % 2, 2, -1)
    verdicts = set()
    rule = Looks(differences[1:], baseline[:floor_seeds])
    for lab in range(40):
        floor = stats.noise_floor(baseline[:floor_seeds, lab].tolist())
        before = 0
        for (seeds, share), (mean, error, df, _) in zip(PLAN.items(), rule.steps, strict=True):
            found = compare(differences[1 : seeds + 1, lab].tolist(), floor=floor, level=level, before=before, smallest=0.3)
            half = scipy_stats.t.isf(0.025 * share, df) * error[lab]
            assert found.p == pytest.approx(scipy_stats.t.sf(mean[lab] / error[lab], df), rel=1e-6)
            assert found.allowed == pytest.approx(level * share)
            assert (found.low, found.high) == (pytest.approx(mean[lab] - half), pytest.approx(mean[lab] + half))
            assert (found.verdict == "supported") == (found.p <= level * share and mean[lab] >= 0.3)
            assert (found.verdict == "refuted") == (found.high < 0.3)
            assert found.harmless == (mean[lab] + 0.3 >= scipy_stats.t.isf(level * share, df) * error[lab])
            verdicts.add(found.verdict)
            before = seeds
    assert verdicts == {"supported", "refuted", "inconclusive"}


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_without_weight_of_the_floor_it_is_students_paired_test(seeds):
    baseline, own = (part[:seeds, 0].tolist() for part in draws())
    pairs = {seed: value + 0.7 for seed, value in enumerate(own)}, dict(enumerate(baseline))
    found = stats.compare(*pairs, floor=UNWEIGHTED, claim=1, smallest_effect=0.1, level=0.05, most=seeds)
    same = scipy_stats.ttest_rel(list(pairs[0].values()), baseline, alternative="greater")
    interval = scipy_stats.ttest_rel(list(pairs[0].values()), baseline).confidence_interval(0.95)
    assert (found.p, found.allowed) == (pytest.approx(same.pvalue), 0.05)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize(
    ("differences", "floor", "variance", "df"),
    [
        ([0.5, 0.5], Floor(0.1, 3), (2 * 2 * 0.01 + 0) / 3, 3),  # no spread of its own: the floor speaks
        ([0.4, 0.6], Floor(0.1, 9), (3 * 2 * 0.01 + 0.02) / 4, 4),  # of many seeds only three degrees of freedom count
        ([0.0, 1.0], Floor(0.1, 4), 0.5, 4),  # noisier than the baseline: not shrunk towards it
        ([0.2, 0.5, 0.8], Floor(0.2, 3), (2 * 2 * 0.04 + 2 * 0.09) / 4, 4),
    ],
)
def test_the_spread_is_pooled_with_the_floors_and_never_below_its_own(differences, floor, variance, df):
    found = compare(differences, floor=floor)
    error = math.sqrt(max(variance, np.var(differences, ddof=1)) / len(differences))
    assert found.sd == pytest.approx(error * math.sqrt(len(differences)))
    assert found.p == pytest.approx(scipy_stats.t.sf(np.mean(differences) / error, df))


@pytest.mark.parametrize("claim", [1, -1])
@pytest.mark.parametrize(
    ("gains", "before", "verdict", "why"),
    [
        ([0.9, 1.0], 0, "supported", "worth finding"),
        ([-0.9, -1.0], 0, "refuted", "other direction"),
        ([0.001, 0.002, -0.002, 0, 0.001, 0, 0.002, -0.001], 5, "refuted", "an effect of 0.1 in the predicted direction is excluded"),
        ([0.09] * 8, 5, "inconclusive", "its estimate is below 0.1"),
        ([0.2, -0.1, 0.3], 2, "inconclusive", "both nothing and an effect worth finding"),
        ([5.0], 0, "inconclusive", "one seed settles nothing"),
    ],
)
def test_a_look_says_which_of_the_three_it_is_and_why(gains, before, verdict, why, claim):
    found = compare([claim * gain for gain in gains], floor=Floor(0.03, 4), claim=claim, smallest=0.1, level=0.02, before=before)
    assert found.verdict == verdict and why in found.why
    assert found.claim == claim and found.effect == pytest.approx(claim * np.mean(gains))


def test_gains_are_counted_in_the_claimed_direction():
    up, down = (compare([claim * gain for gain in (0.5, 0.9, 0.4)], floor=Floor(0.2, 3), claim=claim, smallest=0.1) for claim in (1, -1))
    assert (down.p, down.promise, down.spared) == (pytest.approx(up.p), pytest.approx(up.promise), pytest.approx(up.spared))
    assert (down.low, down.high) == (pytest.approx(-up.high), pytest.approx(-up.low))


def test_no_more_than_the_allowed_seeds_count_and_only_shared_ones():
    reference = {seed: 0.0 for seed in range(1, 9)}
    candidate = {seed: 1.0 for seed in range(5)} | {9: -50.0}
    found = stats.compare(candidate, reference, floor=Floor(1.0, 3), claim=1, smallest_effect=0.1, level=0.05, most=3)
    assert (found.seeds, found.effect) == ((1, 2, 3), 1.0)


# all looks together


@pytest.mark.parametrize("most", range(2, 21))
def test_the_looks_end_at_the_last_seed_and_spend_the_level_exactly(most):
    seen, spent = [0], 0.0
    while seen[-1] < most:
        seen.append(stats.next_look(seen[-1], most))
        spent += stats.share(seen[-1], seen[-2], most)
    assert seen[1] == 2 and seen[-1] == most and spent == pytest.approx(1)
    assert most != MOST or seen[1:] == [2, 3, 5, 8] == list(PLAN)


@pytest.mark.parametrize("floor_seeds", [3, 4, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("noise", [1.0, 1.5])
def test_the_intervals_of_all_looks_together_hold_the_truth(noise, correlation, floor_seeds):
    covered = looks(noise, correlation, floor_seeds).covered().mean()
    assert covered >= 0.95 - 4 * error_of(0.95, DRAWS)


@pytest.mark.parametrize("floor_seeds", [3, 4, 5, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize(
    ("noise", "level", "times"),
    [
        *((1.0, level, 1) for level in (0.05, 0.01, 0.001)),
        (1.5, 0.05, 1),
        (1.5, 0.01, 4 / 3),  # measured at worst: 1.09, floor of four seeds, no correlation
        (1.5, 0.001, 4 / 3),  # 1.29
        *((2.0, level, 2) for level in (0.05, 0.01, 0.001)),  # 1.13, 1.51, 2.0
    ],
)
def test_looking_until_it_is_supported_keeps_the_level(noise, level, times, correlation, floor_seeds):
    wrong = looks(noise, correlation, floor_seeds).supported(level).mean()
    assert 0 < wrong <= times * level + 4 * error_of(times * level, DRAWS)


@pytest.mark.parametrize("most", [2, 3, 5, 13])
def test_other_plans_keep_the_level_as_well(most):
    plan, seen = {}, 0
    while seen < most:
        following = stats.next_look(seen, most)
        plan[following], seen = (following - seen) / most, following
    baseline, candidate = np.random.default_rng(most).standard_normal((2, most, 50_000))
    found = Looks(candidate - baseline, np.random.default_rng(1).standard_normal((4, 50_000)), plan)
    assert found.supported(0.05).mean() <= 0.05 + 4 * error_of(0.05, 50_000)
    assert found.covered().mean() >= 0.95 - 4 * error_of(0.95, 50_000)


def test_a_level_spent_anew_at_every_look_would_not_keep_it():
    baseline, candidate = draws()
    anew = Looks((candidate - baseline)[1:], baseline[:3], dict.fromkeys(PLAN, 1.0))
    assert anew.supported(0.05).mean() > 1.5 * 0.05


def test_the_seed_that_chose_an_idea_must_not_judge_it():
    baseline, candidate = draws()
    differences = candidate - baseline
    chosen = differences[0] > math.sqrt(2)
    apart, with_it = (Looks(differences[first : first + MOST, chosen], baseline[:3, chosen]).supported(0.01).mean() for first in (1, 0))
    assert apart <= 0.01 + 4 * error_of(0.01, chosen.sum())
    assert with_it > 2 * 0.01


# many ideas


def test_lord_by_hand():
    weight = [t**-1.6 / float(scipy.special.zeta(1.6)) for t in range(1, 10)]
    assert stats.level(1, [], 0.05) == pytest.approx(0.025 * weight[0])
    assert stats.level(4, [], 0.05) == pytest.approx(0.025 * weight[3])
    assert stats.level(3, [2], 0.05) == pytest.approx(0.025 * weight[2] + 0.025 * weight[0])
    assert stats.level(9, [2, 5, 5], 0.1) == pytest.approx(0.05 * weight[8] + 0.05 * weight[6] + 0.1 * weight[3] * 2)


def test_without_a_keep_half_of_the_target_is_all_there_is():
    spent = sum(stats.level(index, [], 0.05) for index in range(1, 20_001))
    left = 0.025 * float(scipy.special.zeta(1.6, 20_001)) / float(scipy.special.zeta(1.6))
    assert spent < 0.025 and spent + left == pytest.approx(0.025, rel=1e-8)


def test_a_keep_pays_only_ideas_that_start_after_it():
    assert stats.level(5, [5, 6, 9], 0.05) == stats.level(5, [], 0.05)
    assert stats.level(6, [5], 0.05) > stats.level(6, [], 0.05)


def test_the_order_in_which_keeps_are_listed_does_not_matter():
    keeps = [3, 4, 4, 8, 11]
    mixed = random.Random(0).sample(keeps, len(keeps))
    assert mixed != keeps and stats.level(12, mixed, 0.05) == stats.level(12, keeps, 0.05)


def stream(z: np.ndarray, gain: np.ndarray, waiting: int, level) -> float:
    """The false discovery proportion among ideas tried in turn, of which each is settled once `waiting` more were started."""
    discoveries, false = [], 0
    for index, p in enumerate(scipy.special.ndtr(-z).tolist(), start=1):
        if p <= level(index, discoveries, 0.05):
            discoveries.append(min(index + waiting, len(z)))
            false += not gain[index - 1]
    return false / max(len(discoveries), 1)


@pytest.mark.parametrize("shared", [0.0, 0.5], ids=["independent", "one-baseline"])
@pytest.mark.parametrize(("gains", "waiting"), [(0.0, 0), (0.05, 0), (0.3, 0), (0.3, 4)])
def test_the_share_of_false_keeps_stays_below_the_target(gains, waiting, shared):
    generator = np.random.default_rng(3)
    reps, ideas = 2500, 60
    gain = generator.random((reps, ideas)) < gains
    noise = math.sqrt(shared) * generator.standard_normal((reps, 1)) + math.sqrt(1 - shared) * generator.standard_normal((reps, ideas))
    z = noise + 4 * gain
    found = np.array([stream(z[lab], gain[lab], waiting, stats.level) for lab in range(reps)])
    assert found.mean() <= 0.05 + 3 * found.std() / math.sqrt(reps)
    if not gains:
        naive = np.mean([stream(z[lab], gain[lab], waiting, lambda index, keeps, target: target) for lab in range(300)])
        assert naive > 0.3  # what no correction would give


@pytest.mark.parametrize("tried", [1, 2, 5, 40, 500])
def test_luck_is_the_expected_best_of_as_many_equal_ideas(tried):
    best = np.random.default_rng(4).standard_normal((1_000_000 // tried, tried)).max(axis=1)
    assert stats.luck(tried) == pytest.approx(best.mean(), abs=4 * best.std() / math.sqrt(len(best)))


def test_luck_has_its_known_values():
    assert (stats.luck(0), stats.luck(1)) == (0, 0)
    assert stats.luck(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert stats.luck(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 20), (1, 20), (7, 20), (20, 20), (3, 1000)])
def test_wilson_is_scipys(hits, trials):
    same = scipy_stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert stats.wilson(hits, trials) == (pytest.approx(same.low, abs=1e-12), pytest.approx(same.high))


# what further seeds would bring


def flat_prior(gain: float, seeds: int, further: int, sd: float, df: int) -> np.ndarray:
    """The mean of `further` differences to come, drawn from what `seeds` of them with mean `gain` and moderated spread `sd` leave open."""
    generator = np.random.default_rng(5)
    spread = sd * np.sqrt(df / generator.chisquare(df, DRAWS))
    truth = gain + spread / math.sqrt(seeds) * generator.standard_normal(DRAWS)
    return truth + spread / math.sqrt(further) * generator.standard_normal(DRAWS)


def near(rate: float, draws: np.ndarray) -> bool:
    return abs(draws.mean() - rate) <= 4 * error_of(rate, len(draws))


@pytest.mark.parametrize("floor_seeds", [3, 8])
@pytest.mark.parametrize("gain", [0.1, 1.5, 4.0])
def test_the_chance_after_the_screening_seed_is_that_of_the_flat_prior(gain, floor_seeds):
    better, harmless = stats.screen(gain, floor=Floor(1.0, floor_seeds), smallest_effect=0.8, level=0.05, most=MOST)
    prior, sd = min(floor_seeds - 1, 3), math.sqrt(2)
    means = flat_prior(gain, 1, MOST, sd, prior)
    significant = scipy_stats.t.isf(0.05 * 3 / 8, prior + MOST - 1) * sd / math.sqrt(MOST)
    assert near(better, means >= max(0.8, significant)) and near(harmless, means + 0.8 >= significant)
    assert 0.02 < better < 0.98


def test_the_effect_must_be_worth_finding_as_well_where_noise_is_small():
    better, harmless = stats.screen(0.5, floor=Floor(0.01, 4), smallest_effect=0.5, level=0.05, most=MOST)
    assert better == pytest.approx(0.5) and harmless > 0.99


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("gain", [0.4, 1.2])
def test_promise_is_the_chance_of_the_last_look_under_the_flat_prior(seeds, gain):
    found = compare([gain + spread for spread in (0, 0.9, -0.9, 0.5, -0.5)[:seeds]], floor=Floor(0.8, 4), smallest=0.5, level=0.03)
    df = 3 + seeds - 1
    to_come = flat_prior(found.effect, seeds, MOST - seeds, found.sd, df)
    means = (seeds * found.effect + (MOST - seeds) * to_come) / MOST
    significant = scipy_stats.t.isf(0.03 * 3 / 8, 3 + MOST - 1) * found.sd / math.sqrt(MOST)
    assert near(found.promise, means >= max(0.5, significant)) and near(found.spared, means + 0.5 >= significant)
    assert found.spared > found.promise > 0.01


@pytest.mark.parametrize(("gain", "verdict"), [(1.4, "supported"), (0.25, "refuted"), (0.6, "supported")])
def test_settled_by_is_the_first_seed_that_would_settle_it(gain, verdict):
    floor = Floor(1 / math.sqrt(2), 4)
    found = compare([gain - math.sqrt(0.5), gain + math.sqrt(0.5)], floor=floor, smallest=0.5, level=0.05)
    seeds = stats.settled_by(found, floor=floor, smallest_effect=0.5, level=0.05, most=MOST)

    def settles(n):
        error, df = 1 / math.sqrt(n), 3 + n - 1
        if verdict == "supported":
            return gain >= scipy_stats.t.isf(0.05 * 3 / 8, df) * error
        return gain + scipy_stats.t.isf(0.025 * 3 / 8, df) * error < 0.5

    assert found.verdict == "inconclusive" and settles(seeds) and not settles(seeds - 1)


def test_an_estimate_right_at_the_smallest_effect_is_never_settled():
    found = compare([0.4999, 0.4999], smallest=0.5)
    assert stats.settled_by(found, floor=Floor(1.0, 3), smallest_effect=0.5, level=0.05, most=MOST) is None


def test_power_agrees_with_simulation():
    n = stats.seeds_needed(0.01, 0.0065)
    drawn = np.random.default_rng(1).normal(0.01, 0.0065, (20_000, n))
    power = (scipy_stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    fewer = (scipy_stats.ttest_1samp(drawn[:, : n - 1], 0, axis=1).pvalue < 0.05).mean()
    assert power > 0.8 - 4 * error_of(0.8, 20_000) and fewer < 0.8 + 4 * error_of(0.8, 20_000)


def test_larger_effects_never_need_more_seeds():
    for spread in (0.0046, 0.0065, 0.0123, 0.0169, 0.016873):
        needed = [stats.seeds_needed(effect, spread) for effect in (0.01, 0.02, 0.04, 0.08, 0.16, 1.0)]
        assert needed == sorted(needed, reverse=True), (spread, needed)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_half_width_is_students(count):
    values = draws()[0][:, 1].tolist()[:count]
    low, high = scipy_stats.t.interval(0.95, count - 1, scale=scipy_stats.sem(values))
    assert stats.half_width(values) == pytest.approx((high - low) / 2)


# what follows


@pytest.mark.parametrize(
    ("gain", "chance", "decision", "why"),
    [
        (0.3, stats.START, "more", "would keep it"),
        (0.3, stats.START - 0.01, "promising", "build on it"),
        (0.0, 0.3, "drop", "not better"),
        (-0.3, 0.0, "drop", "not better"),
    ],
)
def test_triage(gain, chance, decision, why):
    found, said = stats.triage(gain, chance, MOST)
    assert found == decision and why in said


@pytest.mark.parametrize(
    ("changes", "simpler", "decision", "why"),
    [
        ({"verdict": "supported", "why": "it is there"}, False, "keep", "it is there"),
        ({"verdict": "supported", "harmless": True}, True, "keep", "unclear"),
        ({"harmless": True}, True, "simpler", "it removes code"),
        ({"harmless": True}, False, "promising", "0 only"),  # adds code: harmless is not enough
        ({"verdict": "refuted", "harmless": True}, True, "simpler", "it removes code"),
        ({"promise": 0.2}, False, "more", "5 seeds"),
        ({"promise": 0.19}, False, "promising", "0.19 only"),
        ({"promise": 0.19, "effect": -0.1}, False, "drop", "0.19 only"),
        ({"promise": 0.19, "effect": -0.1, "claim": -1}, False, "promising", "0.19 only"),
        ({"promise": 0.1, "spared": 0.3}, True, "more", "0.3"),
        ({"promise": 0.1, "spared": 0.3}, False, "promising", "0.1 only"),
        ({"seeds": tuple(range(8)), "promise": 1.0}, False, "promising", "all 8 seeds are in"),
        ({"seeds": tuple(range(8)), "effect": 0.0}, False, "drop", "all 8 seeds are in"),
        ({"verdict": "refuted", "why": "excluded", "promise": 0.9}, False, "drop", "excluded"),
        ({"verdict": "refuted", "why": "excluded", "spared": 0.9}, False, "drop", "excluded"),
        ({"verdict": "refuted", "spared": 0.2}, True, "more", "5 seeds"),
        ({"verdict": "refuted", "why": "excluded", "spared": 0.19}, True, "drop", "excluded"),
        ({"verdict": "refuted", "why": "excluded", "spared": 0.9, "seeds": tuple(range(8))}, True, "drop", "excluded"),
        ({"seeds": (4,)}, False, "more", "2 seeds"),
        ({"seeds": (), "effect": None}, False, "more", "2 seeds"),
    ],
)
def test_decide(changes, simpler, decision, why):
    found, said = stats.decide(dataclasses.replace(FOUND, **changes), MOST, simpler=simpler)
    assert found == decision and why in said


@pytest.mark.parametrize(
    ("effect", "simpler", "path", "decision"),
    [
        (1.0, False, [2], "keep"),
        (0.15, False, [2, 3, 5], "keep"),
        (0.09, False, [2, 3, 5, 8], "promising"),  # real, and estimated to be below the smallest effect
        (0.05, False, [2], "promising"),
        (0.0, False, [2], "drop"),
        (0.0, True, [2, 3, 5], "simpler"),
        (-0.05, True, [2, 3, 5, 8], "simpler"),  # refuted as a gain from the third seed on
        (-0.2, True, [2], "drop"),
    ],
)
def test_an_idea_from_its_first_look_to_its_last(effect, simpler, path, decision):
    noise, seen, taken = (0.02, -0.02, 0.01, -0.01, 0.02, -0.02, 0.01, -0.01), 0, []
    while seen < MOST:
        taken.append(stats.next_look(seen, MOST))
        found = compare([effect + part for part in noise[: taken[-1]]], floor=Floor(0.04, 3), smallest=0.1, level=0.01, before=seen)
        said, seen = stats.decide(found, MOST, simpler=simpler)[0], taken[-1]
        if said != "more":
            break
    assert (taken, said) == (path, decision)


# bad input


@pytest.mark.parametrize(
    ("values", "why"),
    [([], "0 seeds, a noise floor needs 3"), ([1.0, 2.0], "needs 3"), ([1.0] * 3, "no noise to judge by"), ([0.0] * 8, "one and the same")],
)
def test_there_is_no_noise_floor(values, why):
    with pytest.raises(ValueError, match=why):
        stats.noise_floor(values)


def test_the_noise_floor_is_the_standard_deviation_and_says_of_how_many():
    assert stats.noise_floor([1.0, 2.0, 3.0, 4.0]) == Floor(pytest.approx(np.std([1, 2, 3, 4], ddof=1)), 4)


@pytest.mark.parametrize(("seeds", "before"), [(3, 3), (3, 5), (9, 5), (0, 0)])
def test_a_look_that_has_nothing_to_spend_is_refused(seeds, before):
    with pytest.raises(ValueError, match=f"a look at {seeds} of at most 8 seeds, after one at {before}"):
        stats.share(seeds, before, MOST)


def test_a_look_at_no_more_seeds_than_the_last_is_refused():
    with pytest.raises(ValueError, match="a look at 3 of at most 8 seeds, after one at 3"):
        compare([0.1, 0.2, 0.3], before=3)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_a_rate_of_nothing_is_refused(hits, trials):
    with pytest.raises(ValueError, match="at least one trial"):
        stats.wilson(hits, trials)


@pytest.mark.parametrize(("effect", "spread"), [(0.0, 0.1), (-0.1, 0.1), (1e-5, 1.0), (math.nan, 0.1), (0.1, math.nan)])
def test_an_effect_that_no_seeds_would_show_is_refused(effect, spread):
    with pytest.raises(ValueError, match="needs over 10,000 seeds"):
        stats.seeds_needed(effect, spread)


def test_a_metric_without_noise_needs_two_seeds():
    assert stats.seeds_needed(0.01, 0.0) == 2


def test_no_shared_seed_gives_no_number():
    found = stats.compare({7: 1.0}, {0: 1.0, 1: 2.0}, floor=Floor(0.1, 3), claim=1, smallest_effect=0.1, level=0.05, most=MOST)
    assert (found.verdict, found.why) == ("inconclusive", "no seed was measured on both sides")
    assert {found.effect, found.low, found.high, found.sd, found.p, found.allowed} == {None} and not found.harmless


def test_one_seed_gives_an_estimate_without_an_interval():
    found = compare([4.0])
    assert (found.verdict, found.effect) == ("inconclusive", pytest.approx(4.0))
    assert {found.low, found.high, found.p, found.allowed} == {None} and not found.harmless


def test_values_give_numbers_or_none_but_never_nan():
    generator = random.Random(6)
    for _ in range(500):
        scale, count = 10.0 ** generator.randint(-12, 12), generator.randint(1, 10)
        differences = [generator.choice((0.0, scale, generator.gauss(0, scale))) for _ in range(count)]
        floor = Floor(10.0 ** generator.randint(-12, 12), generator.randint(3, 9))
        level = stats.level(generator.randint(1, 500), [], 0.05)
        found = compare(differences, floor=floor, smallest=10.0 ** generator.randint(-9, 3), level=level)
        screened = stats.screen(differences[0], floor=floor, smallest_effect=0.1, level=level, most=MOST)
        numbers = (found.effect, found.low, found.high, found.sd, found.p, found.allowed, found.promise, found.spared, *screened)
        assert all(math.isfinite(number) for number in numbers if number is not None), found
        rates = [rate for rate in (found.p, found.promise, found.spared, *screened) if rate is not None]
        assert all(0 <= rate <= 1 for rate in rates), found

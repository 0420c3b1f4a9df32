import math

import pytest
from scipy import stats as scipy_stats

from monolab import stats

BASE = {0: 2.271, 1: 2.288, 2: 2.254}


def compare(differences, *, sign=-1, predicted=-0.03, smallest=0.01, base=BASE):
    return stats.compare(
        {seed: base[seed] + d for seed, d in zip(base, differences, strict=False)},
        base,
        floor=0.017,
        sign=sign,
        predicted=predicted,
        smallest_effect=smallest,
    )


def test_the_interval_is_students_on_paired_differences():
    found = compare([-0.041, -0.051, -0.038])
    low, high = scipy_stats.t.interval(0.95, 2, loc=-0.13 / 3, scale=scipy_stats.sem([-0.041, -0.051, -0.038]))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.verdict == "supported" and found.better


def test_a_harmful_change_is_refuted_and_never_better():
    found = compare([0.09, 0.1, 0.095])
    assert (found.verdict, found.better) == ("refuted", False)
    assert "other direction" in found.why


def test_a_gain_too_small_to_be_worth_finding_is_refuted():
    assert compare([-0.001, -0.0012, -0.0011]).verdict == "refuted"


def test_noise_is_inconclusive():
    assert compare([-0.05, 0.02, -0.03]).verdict == "inconclusive"


def test_a_harm_that_was_predicted_is_supported_but_not_better():
    found = compare([0.09, 0.1, 0.095], predicted=+0.05)
    assert (found.verdict, found.better) == ("supported", False)


def test_higher_can_be_better():
    base = {0: 0.91, 1: 0.92, 2: 0.9}
    found = compare([0.02, 0.022, 0.021], sign=1, predicted=None, base=base)
    assert (found.verdict, found.better) == ("supported", True)


def test_one_seed_is_never_enough_and_no_seed_gives_no_number():
    one = stats.compare({0: 1.0}, BASE, floor=0.017, sign=-1, predicted=-0.1, smallest_effect=0.01)
    assert (one.verdict, one.low, one.better) == ("inconclusive", None, False)
    none = stats.compare({7: 1.0}, BASE, floor=0.017, sign=-1, predicted=-0.1, smallest_effect=0.01)
    assert (none.verdict, none.effect) == ("inconclusive", None)


def test_a_noise_floor_needs_three_seeds():
    assert stats.noise_floor([1.0, 2.0, 3.0]) == 1.0
    with pytest.raises(ValueError, match="needs 3"):
        stats.noise_floor([1.0, 2.0])


def test_the_false_support_rate_of_a_null_effect_is_at_most_the_level():
    import numpy as np

    random = np.random.default_rng(0)
    wins = 0
    for _ in range(2000):
        noise = random.normal(0, 0.0065, 3)
        wins += compare(noise.tolist(), smallest=1e-9).verdict == "supported"
    assert wins / 2000 < 0.025 + 3 * math.sqrt(0.025 * 0.975 / 2000)


def test_power_agrees_with_simulation():
    import numpy as np

    n = stats.seeds_needed(0.01, 0.0065)
    random = np.random.default_rng(1)
    draws = random.normal(0.01, 0.0065, (4000, n))
    power = (scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    fewer = (scipy_stats.ttest_1samp(draws[:, : n - 1], 0, axis=1).pvalue < 0.05).mean()
    assert power > 0.78 and fewer < 0.82


def test_larger_effects_never_need_more_seeds():
    for spread in (0.0046, 0.0065, 0.0123, 0.0169, 0.016873):
        needed = [stats.seeds_needed(effect, spread) for effect in (0.01, 0.02, 0.04, 0.08, 0.16, 1.0)]
        assert needed == sorted(needed, reverse=True), (spread, needed)

"""Equation 2 of ASI-Arch, with its traps closed."""

import math

import pytest

from monolab.errors import LabError
from monolab.fitness import fitness, relative


def test_the_reference_is_one_half_and_a_tenth_is_all_there_is_to_gain():
    assert relative(2.0, 2.0, -1) == 0.5
    assert relative(1.8, 2.0, -1) == relative(1.0, 2.0, -1) == pytest.approx(1 / (1 + math.exp(-6)))
    assert relative(2.2, 2.0, -1) == relative(9.0, 2.0, -1) == pytest.approx(1 / (1 + math.exp(6)))
    assert relative(1.9, 2.0, -1) == pytest.approx(1 / (1 + math.exp(-3)))
    assert relative(0.55, 0.5, 1) > 0.99 and relative(-1.1, -1.0, 1) < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_error_not_the_best_score(value):
    with pytest.raises(LabError, match="not finite"):
        fitness(value, 2.0, -1)
    with pytest.raises(LabError, match="not finite"):
        fitness(2.0, 2.0, -1, benchmarks={"recall": (value, 0.5, 1)})
    with pytest.raises(LabError, match="judge"):
        fitness(2.0, 2.0, -1, judge=value)


def test_objectives_stay_in_their_columns_and_the_judge_counts_only_when_asked():
    found = fitness(1.9, 2.0, -1, benchmarks={"recall": (0.5, 0.5, 1), "copy": (0.55, 0.5, 1)}, judge=10)
    assert (found.loss, found.judge) == (pytest.approx(0.9526, abs=1e-4), 1.0)
    assert found.benchmark == pytest.approx((0.5 + 0.99753) / 2, abs=1e-4)
    assert found.total() == pytest.approx((found.loss + found.benchmark) / 2)
    assert found.total(judged=True) == pytest.approx((found.loss + found.benchmark + 1) / 3)


def test_a_judge_who_was_not_asked_counts_as_nothing():
    found = fitness(1.9, 2.0, -1)
    assert found.judge is None and found.benchmark is None
    assert found.total(judged=True) == found.loss


def test_the_authors_scale_of_the_judge():
    assert fitness(2.0, 2.0, -1, judge=1).judge == 0.0
    assert fitness(2.0, 2.0, -1, judge=5).judge == pytest.approx(4 / 9)
    with pytest.raises(LabError, match="from 1 to 10"):
        fitness(2.0, 2.0, -1, judge=0)


def test_a_reference_of_zero_is_refused():
    with pytest.raises(LabError, match="reference"):
        relative(0.1, 0.0, 1)

"""Policies: whom to build on next."""

import math
import random
from collections import Counter

import pytest

from monolab import pool
from monolab.errors import LabError
from monolab.pool import Scored, Sizes


def made(scores: list[float | None]) -> list[Scored]:
    """A root with the score 0, and its children in order."""
    return [Scored("root", "", 0.0), *(Scored(f"c{place}", "root", score) for place, score in enumerate(scores))]


def picks(name: str, candidates: list[Scored], sizes: Sizes | None = None, times: int = 400) -> list[pool.Pick]:
    rng = random.Random(1)
    return [pool.policy(name)(candidates, sizes or Sizes(), rng) for _ in range(times)]


def test_during_the_cold_start_roots_are_built_on():
    found = picks("asi-arch", made([float(place) for place in range(199)]))
    assert {pick.parent for pick in found} == {"root"}
    assert {len(pick.references) for pick in found} == {4}
    assert "199 of 200" in found[0].why


def test_after_it_parents_are_the_best_ten_and_references_the_forty_after_them():
    found = picks("asi-arch", made([float(place) for place in range(200)]), times=2000)
    assert Counter(pick.parent for pick in found).keys() == {f"c{place}" for place in range(190, 200)}
    seen = {reference for pick in found for reference in pick.references}
    assert seen == {f"c{place}" for place in range(150, 190)}
    assert all(len(set(pick.references)) == 4 for pick in found)
    assert min(Counter(pick.parent for pick in found).values()) > 150  # uniform: 200 each


def test_the_pool_is_ranked_again_only_after_a_full_batch():
    old = [0.1] * 200
    late = made(old + [9.0] * 49)
    assert max(one.score for one in pool.pool(late, Sizes())) == 0.1
    assert max(one.score for one in pool.pool(made(old + [9.0] * 50), Sizes())) == 9.0


def test_one_that_failed_is_never_built_on():
    candidates = made([None, None, 1.0])
    for name in ("weighted", "greedy", "random", "uct"):
        assert {pick.parent for pick in picks(name, candidates)} <= {"root", "c2"}, name
    with pytest.raises(LabError, match="nothing was measured"):
        pool.greedy([Scored("root", "", None)], Sizes(), random.Random(0))


def test_weights_favour_good_ones_and_those_with_few_children():
    candidates = [Scored("root", "", 0.0), Scored("a", "root", 1.0), Scored("b", "root", 2.0), Scored("c", "b", 0.5), Scored("d", "b", 0.4)]
    found = pool.ranked(candidates)
    by_key = dict(zip((one.key for one in found), pool.weights(found, candidates), strict=True))
    assert by_key["b"] == pytest.approx(1 / 3)  # sigma of a large number, two children
    assert by_key["a"] == pytest.approx(1 / (1 + math.exp(-10)))  # one MAD above the median
    assert by_key["root"] == pytest.approx(1 / (1 + math.exp(10)) / 3)
    assert pool.weights(pool.ranked(made([0.0, 0.0])), made([0.0, 0.0])) == [pytest.approx(1 / 6), pytest.approx(1 / 2), pytest.approx(1 / 2)]


def test_aides_search_drafts_then_repairs_then_is_greedy():
    assert picks("tree", made([1.0, None]))[0].why == "draft 3 of 5"
    candidates = [*made([1.0, None, 0.5, 0.2, 0.1]), Scored("worn", "root", None, tries=3)]
    found = picks("tree", candidates, times=1000)
    assert {(pick.parent, pick.debug) for pick in found} == {("c0", False), ("c1", True)}
    assert 400 < sum(pick.debug for pick in found) < 600


def test_upper_confidence_bounds_go_down_the_best_branch_and_come_back_to_the_neglected_one():
    deep = [Scored("root", "", 0.0), Scored("good", "root", 1.0), Scored("poor", "root", 0.1)]
    assert picks("uct", deep, times=1)[0].parent == "good"
    crowded = [*deep, *(Scored(f"g{place}", "good", 0.9) for place in range(60))]
    assert picks("uct", crowded, times=1)[0].parent != "good"


def test_one_wild_number_does_not_blind_the_bounds():
    tree = [
        Scored("root", "", 0.0),
        Scored("good", "root", 1.0),
        Scored("poor", "root", 0.1),
        *(Scored(f"g{place}", "good", 0.9) for place in range(6)),
    ]
    assert picks("uct", tree, times=1)[0].parent == picks("uct", [*tree, Scored("wild", "poor", -1e6)], times=1)[0].parent


def test_the_same_seed_picks_the_same():
    candidates = made([float(place % 17) for place in range(300)])
    for name in pool.POLICIES:
        assert picks(name, candidates, times=20) == picks(name, candidates, times=20)


@pytest.mark.parametrize(
    ("wrong", "says"), [({"pool": 0}, "`pool` is 0"), ({"batch": 0}, "`batch` is 0"), ({"parents": 9, "pool": 5}, "9 parents from a pool of 5")]
)
def test_sizes_that_cannot_be(wrong, says):
    with pytest.raises(LabError, match=says):
        Sizes(**wrong)


def test_an_unknown_policy_names_those_there_are():
    with pytest.raises(LabError) as error:
        pool.policy("best")
    assert "asi-arch, weighted, greedy" in error.value.hint

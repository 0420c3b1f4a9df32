"""benchmarks/trust.py: the simulated world, its book-keeping, and the rules on it."""

import importlib.util
import json
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monolab import stats

_spec = importlib.util.spec_from_file_location("trust", Path(__file__).parents[1] / "benchmarks" / "trust.py")
trust = sys.modules["trust"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(trust)

EARLY = trust.Setting("greedy", trust.LANDSCAPES["early"], trust.ROOT, runs=60, most=8, target=0.05, shared=0.0)
ALIKE = trust.Ideas(nothing=0.0, help=1.0, gain=0.02, room=1e9, alike=True)  # every idea is worth 0.02


def world(setting: trust.Setting = EARLY, rep: int = 0) -> trust.World:
    return trust.World(rep, setting.noise, setting.shared, setting.runs, setting.ideas, setting.louder)


def play(rule: str, rep: int = 0, **changes) -> trust.World:
    setting = replace(EARLY, rule=rule, **changes)
    return trust.play(rule, world(setting, rep), setting)


@pytest.mark.parametrize("rule", trust.RULES)
def test_a_lab_is_the_same_twice_and_another_one_in_another_repetition(rule):
    assert play(rule, rep=3) == play(rule, rep=3)
    assert play(rule, rep=3).truth != play(rule, rep=4).truth


@pytest.mark.parametrize("rule", trust.RULES)
@pytest.mark.parametrize("budget", [20, 33, 60])
def test_a_rule_spends_its_runs_and_none_beyond(rule, budget):
    found = play(rule, runs=budget)
    assert len(found.seen) == len(found.path) == len(found.heads) == budget


def test_the_same_idea_does_the_same_in_every_rule():
    streams = [[found.effect(code) for code in found.tried if found.truth[found.parents[code]] == 0.0] for found in map(play, trust.RULES)]
    firsts = {stream[0] for stream in streams}
    assert len(firsts) == 1
    harms = [{number: play(rule).effect(code) for number, code in enumerate(play(rule).tried)} for rule in ("greedy", "gate")]
    both = [number for number in harms[0].keys() & harms[1].keys() if harms[0][number] < 0]
    assert both and all(harms[0][number] == pytest.approx(harms[1][number]) for number in both)


def test_truth_adds_up_along_the_ancestry():
    found = play("gate", ideas=ALIKE, runs=120)
    assert found.best > 0
    for code in found.tried:
        line = found.ancestry(code)
        assert 0 not in line and code in line
        assert found.truth[code] == pytest.approx(0.02 * len(line)) == pytest.approx(sum(found.effect(one) for one in line))
    assert found.ancestry(0) == set()
    assert {found.best} | set(found.kept) <= found.ancestry(found.head) | {found.best}
    assert sum(found.gains()) == pytest.approx(found.truth[found.best])


def test_the_landscape_has_the_shares_and_sizes_that_it_says():
    stream = world()
    effects = [stream.effect(stream.idea(0)) for _ in range(4000)]
    kinds = Counter(int(np.sign(effect)) for effect in effects)
    assert kinds[0] / 4000 == pytest.approx(0.4, abs=0.03) and kinds[1] / 4000 == pytest.approx(0.15, abs=0.02)
    assert np.mean([effect for effect in effects if effect > 0]) == pytest.approx(0.03, rel=0.15)
    assert np.mean([effect for effect in effects if effect < 0]) == pytest.approx(-0.04, rel=0.15)


@pytest.mark.parametrize("shared", [0.0, 0.25])
def test_the_noise_has_the_spread_that_it_says_alone_and_in_paired_differences(shared):
    one = world(replace(EARLY, runs=10_000, shared=shared, louder=2.0, ideas=trust.NOTHING))
    code = one.idea(0)
    base, candidate = (np.array([one.run(version, seed) for seed in range(2000)]) for version in (0, code))
    assert base.std() == pytest.approx(trust.ROOT, rel=0.06) and candidate.std() == pytest.approx(2 * trust.ROOT, rel=0.06)
    assert np.corrcoef(base, candidate)[0, 1] == pytest.approx(shared, abs=0.06)


@pytest.mark.parametrize("rule", ["greedy", "mad", "three", "argmax"])
def test_without_noise_the_greedy_rules_keep_exactly_what_is_truly_better(rule):
    for rep in range(5):
        found = play(rule, rep, noise=1e-12, ideas=trust.Ideas(nothing=0.0, help=0.3))
        best, expected = 0.0, []
        for code in found.tried:
            if all((code, seed) in found.seen for seed in range(3 if rule == "three" else 1)) and found.truth[code] > best:
                best = found.truth[code]
                expected.append(code)
        if rule == "mad" and expected[-1] == found.tried[-1]:
            expected.pop()  # there was no run left to measure it again
        assert found.kept == expected != []
        assert found.reported == pytest.approx(found.truth[expected[-1]])


def test_without_noise_the_gate_keeps_what_is_better_by_the_smallest_effect_and_misses_none_of_it():
    kept = 0
    for rep in range(5):
        outcome = trust.lab(replace(EARLY, rule="gate", noise=1e-6, runs=120), rep)
        assert outcome.false == 0 and outcome.worth - outcome.found <= 1  # the runs may be used up while the last one is tested
        kept += outcome.keeps
    assert kept > 10


def test_what_is_counted_about_a_lab(monkeypatch):
    def script(world, setting):
        world.reported = world.run(0, 0)
        yield
        for _ in range(4):
            world.run(world.idea(world.tried[-1] if world.tried else 0), 0)
        world.keep(2, 0.5)  # a stack of two
        yield
        world.keep(4, 0.6)
        world.best = world.head = 3
        world.keep(2, 0.7)  # worse than what it replaces
        raise trust.Spent

    monkeypatch.setitem(trust.RULES, "script", script)
    found = trust.lab(replace(EARLY, rule="script", ideas=ALIKE), 0)
    assert (found.keeps, found.false, found.gains) == (3, 1, 2)
    assert (found.ideas, found.worth, found.found) == (4, 4, 4)
    assert (found.final, found.head) == (pytest.approx(0.04), pytest.approx(0.04))
    assert found.flattery == pytest.approx(0.66)


def test_greedy_keeps_about_half_of_the_changes_that_do_nothing_and_the_gate_at_most_5_percent():
    rates = {}
    for rule in ("greedy", "argmax", "three", "gate"):
        one = replace(EARLY, rule=rule, ideas=trust.NOTHING, judge=1)
        outcomes = trust.measure([one], reps=40, processes=1)[one]
        assert len(outcomes) == 400 and {outcome.ideas for outcome in outcomes} == {1}
        rates[rule] = trust.summary(outcomes, 300.0)["false_an_idea"]
    for rule in ("greedy", "argmax", "three"):
        assert rates[rule].low < 0.5 < rates[rule].high
    assert rates["gate"].high < trust.TARGET


def test_the_figures_do_not_depend_on_the_number_of_processes():
    settings = [replace(EARLY, rule=rule, runs=30) for rule in trust.RULES]
    one, two = (trust.measure(settings, reps=4, processes=number) for number in (1, 2))
    assert all(trust.summary(one[setting], 300.0) == trust.summary(two[setting], 300.0) for setting in settings)
    assert all(np.array_equal(a.path, b.path) for setting in settings for a, b in zip(one[setting], two[setting], strict=True))


def test_a_start_is_patched_for_one_lab_and_restored():
    before, spent = stats.START, {}
    for start in (0.05, 0.999):
        spent[start] = sum(60 - trust.lab(replace(EARLY, rule="gate", start=start), rep).ideas for rep in range(10))
    assert stats.START == before
    assert spent[0.05] > spent[0.999]


def test_the_interval_of_a_rate_is_wilsons_for_independent_trials_and_wider_for_clusters():
    hits = [1.0] * 30 + [0.0] * 70
    alone = trust.rate(hits, [1] * 100)
    assert (alone.value, alone.low, alone.high) == (0.3, *(pytest.approx(bound, abs=0.002) for bound in stats.wilson(30, 100)))
    clustered = trust.rate([10 * hit for hit in hits], [10] * 100)
    assert (clustered.low, clustered.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert trust.rate([0, 0], [50, 50]).high == stats.wilson(0, 100)[1]
    assert trust.rate([0, 0], [0, 0]) is None


def test_the_intervals_of_means_and_ratios_cover():
    random, hits = np.random.default_rng(0), Counter()
    for _ in range(300):
        below = random.normal(1.0, 0.3, 60)
        above = below * 0.8 + random.normal(0, 0.1, 60)
        for name, figure, truth in (("mean", trust.mean(below.tolist()), 1.0), ("ratio", trust.ratio(above, below), 0.8)):
            hits[name] += figure.low <= truth <= figure.high
    assert all(0.9 < count / 300 < 0.99 for count in hits.values())
    assert trust.ratio([1.0, 2.0], [-1.0, 1.0]) is None


@pytest.mark.parametrize(("low", "high", "state"), [(0.0, 1.0, "met"), (-1.0, 0.0, "not settled"), (-2.0, -1.0, "NOT met")])
def test_a_target_is_met_not_met_or_not_settled(low, high, state):
    assert trust._state(low, high) == state


def test_it_writes_tables_figures_and_plot_that_agree(tmp_path, capsys):
    trust.main(trust.Trust(reps=3, runs=25, noises=(0.008,), processes=1, out=tmp_path))
    text, markdown, known = capsys.readouterr().out, (tmp_path / "trust.md").read_text(), json.loads((tmp_path / "trust.json").read_text())
    assert all(line in text and line in markdown for line in known["conclusions"])
    greedy = next(row for row in known["main"] if row["setting"]["rule"] == "greedy")
    final = greedy["figures"]["final"]
    cell = f"{final['value']:.3f} [{final['low']:.3f}, {final['high']:.3f}]"
    assert cell in text and cell in markdown
    assert all(math.isfinite(final[name]) and final["low"] <= final["value"] <= final["high"] for name in final)
    assert (tmp_path / "trust.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [{"reps": 1}, {"runs": 10}, {"processes": 0}])
def test_too_little_is_refused(wrong, tmp_path):
    with pytest.raises(SystemExit, match="at least"):
        trust.main(replace(trust.Trust(out=tmp_path), **wrong))

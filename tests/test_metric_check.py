import itertools
import json
import math
import os
import subprocess
from types import SimpleNamespace

import pytest
from scipy.stats import chi2, kendalltau
from test_lab import add_idea, call
from test_results import make

from monolab import metric_check, results, stats, verdicts
from monolab.errors import LabError

NUMBERS = (-0.3, -0.2, -0.12, -0.05, 0.02, 0.1)  # made-up effects, in order


def finish(lab, number: int, idea: str, seed: int, value: float | None, **changes) -> str:
    """A finished run; its id. A `value` of None is a crash."""
    status = "ok" if value is not None else "crash"
    run_id = f"20261121T0900{number:02}-{idea}-s{seed}-{number:04x}"
    metrics = {} if value is None else {"score": value}
    given = {"run_id": run_id, "idea": idea, "seed": seed, "value": value, "status": status, "metrics": metrics, "flags": (), "agent": ""}
    given |= {"checkpoint_sha": f"{number:064x}"} | changes  # every run has its own, or seeds would repeat each other
    results.finish(lab, lambda prev: make(number, prev=prev, **given))
    return run_id


def baseline(lab, values, first: int, **changes) -> list[str]:
    return [finish(lab, first + seed, "baseline", seed, value, **changes) for seed, value in enumerate(values)]


def judged(idea="idea", stage="explore", effect=-0.1, low=-0.12, high=-0.08, **changes) -> SimpleNamespace:
    """As much of a verdict as the advice reads."""
    given = {"idea": idea, "stage": stage, "effect": effect, "low": low, "high": high, "metric": "score", "control": idea.startswith("control-")}
    more = {"time": "2026-11-21T09:00:00Z", "code_sha": "a" * 40, "args": (), "against": "baseline", "seeds": (0, 1), "runs": (), "against_runs": ()}
    return SimpleNamespace(**given | more | changes)


def pairs(ours, theirs) -> list[tuple]:
    return [(judged(f"idea-{n}", effect=a), judged(f"idea-{n}", "verify", effect=b)) for n, (a, b) in enumerate(zip(ours, theirs, strict=True))]


def plain(found: dict) -> dict:
    """As --json prints it; an infinity or NaN is an error."""
    return json.loads(json.dumps(found, allow_nan=False))


def test_a_noisy_metric_needs_more_seeds_than_there_are(lab_repo):
    lab = lab_repo()
    baseline(lab, (-50.0, 0.0, 50.0), 0)
    found = plain(metric_check.check(lab, "explore"))
    assert found["spread"]["ok"] is False and set(found["power"]["seeds_needed"].values()) == {None}
    assert {plan["seconds"] for plan in found["seeds"]["plans"]} == {None} and found["budgets"]["cheapest"] is None
    shown = metric_check.text(found)
    assert "0.01: > 10000" in shown and "does not even settle 0.04" in shown


def test_a_failed_repeat_hides_no_value(lab_repo, monkeypatch):
    lab = lab_repo()
    base = baseline(lab, (1.0, 1.001, 1.002), 0)
    base.append(finish(lab, 3, "baseline", 1, None))
    mine = [finish(lab, 4 + seed, "idea", seed, value) for seed, value in enumerate((0.5, 0.503, 0.501))]
    mine.append(finish(lab, 7, "idea", 0, None))
    monkeypatch.setattr(verdicts, "records", lambda lab: [judged(seeds=(0, 1, 2), runs=tuple(mine), against_runs=tuple(base))])
    found = metric_check.check(lab, "explore")
    assert found["power"]["measured"] and found["power"]["sd_of_paired_differences"] == pytest.approx(0.0015275, rel=1e-4)
    assert found["determinism"] == {"ok": None, "largest_difference": None} and found["spread"]["seeds"] == 3
    assert "measured over the verdicts" in metric_check.text(found)


def test_a_window_for_one_kind_of_device_only_is_an_error_that_names_it(lab_repo):
    lab = lab_repo()
    baseline(lab, (0.0, 1.0, 2.0), 0)
    lab.program.write_text(lab.program.read_text().replace("window_seconds: {cpu: [0.01, 60], gpu:", "window_seconds: {gpu:"))
    with pytest.raises(LabError, match="window_seconds"):
        metric_check.check(lab, "explore")


def test_without_a_noise_floor_there_is_no_advice(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.0), 0)
    with pytest.raises(LabError, match="2 of 3 seeds") as caught:
        metric_check.check(lab, "explore")
    assert caught.value.hint == "just baseline --stage explore"
    finish(lab, 2, "baseline", 2, 1.0)
    with pytest.raises(LabError, match="one and the same value") as caught:
        metric_check.check(lab, "explore")
    assert "just baseline" in caught.value.hint
    with pytest.raises(LabError, match="no stage 'exploer'"):
        metric_check.check(lab, "exploer")


def test_the_interval_of_an_sd_is_chi_squares():
    found = metric_check.spread_of(0.008, 2)
    assert found.low == pytest.approx(0.008 * math.sqrt(2 / 7.3778), rel=1e-4) and found.high == pytest.approx(
        0.008 * math.sqrt(2 / 0.050636), rel=1e-4
    )
    many = metric_check.spread_of(0.008, 200)
    assert found.low < many.low < 0.008 < many.high < found.high and many.high / many.low == pytest.approx(
        math.sqrt(chi2.ppf(0.975, 200) / chi2.ppf(0.025, 200))
    )


def test_the_pooled_sd_leaves_the_means_of_the_groups_out():
    groups = [[1.0, 3.0], [10.0, 10.0, 13.0], [99.0]]
    assert metric_check.pooled_sd(groups) == (pytest.approx(math.sqrt((2 + 6) / 3)), 3)
    assert metric_check.pooled_sd([[1.0], []]) is None


def test_seeds_at_both_ends_of_the_interval():
    spread = metric_check.spread_of(0.01, 4)
    found = metric_check.seeds_needed(0.01, spread)
    assert (found.seeds, found.seeds_low, found.seeds_high) == tuple(stats.seeds_needed(0.01, sd) for sd in (0.01, spread.low, spread.high))
    assert found.seeds_low < found.seeds < found.seeds_high
    assert metric_check.seeds_needed(0.01, metric_check.spread_of(1e-17, 2)).seeds_high == 2  # rounding errors, not noise


def test_what_an_idea_costs_is_seconds_times_seeds(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.008, 1.016), 0, seconds=30.0)
    found = plain(metric_check.check(lab, "explore"))
    sd = 0.008 * math.sqrt(2)
    assert [plan["seeds"] for plan in found["seeds"]["plans"]] == [stats.seeds_needed(effect, sd) for effect in (0.01, 0.02, 0.04)]
    for plan in found["seeds"]["plans"]:
        assert plan["seconds"] == 30 * plan["seeds"] and plan["ideas_per_day"] == pytest.approx(86400 / plan["seconds"])
        assert plan["seeds_low"] <= plan["seeds"] < plan["seeds_high"]
    assert found["seeds"]["runs_per_day"] == 2880
    assert f"takes {stats.seeds_needed(0.01, sd)} paired evidence seeds" in found["seeds"]["advice"]
    assert "program.md allows 8" in found["seeds"]["advice"] and "settles effects of 0.02 and more" in found["seeds"]["advice"]


def test_one_budget_names_the_command_that_measures_a_second(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.008, 1.016), 0)
    found = metric_check.check(lab, "explore")
    assert found["budgets"]["unmeasured"].keys() == {"smoke", "verify"} and found["budgets"]["cheapest"] == "explore"
    assert "just baseline --stage verify --seeds 3" in metric_check.text(found)
    assert found["proxy"] == [] and "measured at explore only" in metric_check.text(found)


def test_two_budgets_the_advice_says_which_is_cheaper_and_how_sure_that_is(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.008, 1.016), 0, seconds=30.0)
    baseline(lab, (0.9, 0.904, 0.908), 10, seconds=60.0, stage="verify")
    found = plain(metric_check.check(lab, "explore"))["budgets"]
    short, long = (stats.seeds_needed(0.01, sd * math.sqrt(2)) for sd in (0.008, 0.004))
    assert [(one["stage"], one["cost"]) for one in found["stages"]] == [("explore", 30.0 * short), ("verify", 60.0 * long)]
    assert 60 * long < 30 * short and (found["cheapest"], found["second"]) == ("verify", "explore")
    assert found["times_cheaper"] == pytest.approx(30 * short / (60 * long)) and found["settled"] is False
    shown = metric_check.text(metric_check.check(lab, "explore"))
    assert "takes 2 times as long as at explore and spreads 0.5 times as much; the intervals overlap" in shown
    assert "assumed to be as large at verify as at explore" in shown and "their intervals overlap" in shown


def test_many_seeds_settle_which_budget_is_cheaper(lab_repo):
    lab = lab_repo()
    baseline(lab, [1 + 0.02 * (-1) ** n for n in range(30)], 0, seconds=30.0)
    baseline(lab, [1 + 0.002 * (-1) ** n for n in range(30)], 30, seconds=60.0, stage="verify")
    found = metric_check.check(lab, "explore")["budgets"]
    assert found["cheapest"] == "verify" and found["settled"] is True and "overlap" not in " ".join(found["advice"])


def test_budgets_measured_under_two_conditions_are_not_compared(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.008, 1.016), 0)
    baseline(lab, (0.9, 0.904, 0.908), 10, stage="verify", eval_sha="a" * 64, hardware="other")
    found = metric_check.check(lab, "explore")["budgets"]
    assert [one["stage"] for one in found["stages"]] == ["explore"] and "the scorer, the hardware changed" in found["unmeasured"]["verify"]


def test_no_spread_at_another_stage_does_not_end_the_check(lab_repo):
    lab = lab_repo()
    baseline(lab, (1.0, 1.008, 1.016), 0)
    baseline(lab, (0.9, 0.9, 0.9), 10, stage="verify")
    assert "one and the same value" in metric_check.check(lab, "explore")["budgets"]["unmeasured"]["verify"]


def test_effects_that_shrink_with_the_budget_cost_more_there(lab_repo, monkeypatch):
    """The same noise at both stages; at the longer one effects are half as large, so the smallest one needs more seeds there."""
    lab = lab_repo()
    baseline(lab, (1.0, 1.002, 1.004), 0, seconds=30.0)
    baseline(lab, (0.9, 0.902, 0.904), 10, seconds=60.0, stage="verify")
    records = []
    for n, (short, long) in enumerate(((-0.1, -0.04), (-0.2, -0.1), (0.1, 0.06), (0.001, -0.7))):  # the last one is noise at explore
        for stage, effect in (("explore", short), ("verify", long)):
            run_id = finish(lab, 20 + len(records), f"idea-{n}", 0, 1.0, stage=stage)
            records.append(judged(f"idea-{n}", stage, effect, effect - 0.02, effect + 0.02, runs=(run_id,)))
    monkeypatch.setattr(verdicts, "records", lambda lab: records)
    found = metric_check.check(lab, "explore")["budgets"]
    assert found["ratios"] == [
        {"shorter": "explore", "longer": "verify", "ideas": 3, "median": pytest.approx(0.5), "least": pytest.approx(0.4), "most": pytest.approx(0.6)}
    ]
    at = {one["stage"]: one for one in found["stages"]}
    assert at["verify"]["effect"] == pytest.approx(0.005) and at["verify"]["seeds"] == stats.seeds_needed(0.005, 0.002 * math.sqrt(2))
    assert "median of 3 ideas, 0.4 to 0.6" in " ".join(found["advice"]) and "assumed" not in " ".join(found["advice"])
    back = {one["stage"]: one for one in metric_check.check(lab, "verify")["budgets"]["stages"]}
    assert back["explore"]["effect"] == pytest.approx(0.02)
    monkeypatch.setattr(
        verdicts, "records", lambda lab: [one if one.stage == "explore" else judged(**vars(one) | {"effect": -one.effect}) for one in records]
    )
    turned = plain(metric_check.check(lab, "explore"))["budgets"]
    assert turned["second"] is None and "do not carry over" in " ".join(turned["advice"])


def test_effects_under_another_scorer_and_controls_are_no_evidence(lab_repo, monkeypatch):
    lab = lab_repo()
    base = tuple(baseline(lab, (1.0, 1.008, 1.016), 0))
    runs = {}
    for n, (idea, changes) in enumerate((("idea", {}), ("old", {"eval_sha": "a" * 64}), ("control-null", {}))):
        runs[idea] = tuple(finish(lab, 10 + 3 * n + seed, idea, seed, 0.5 + seed * 0.1 * n, **changes) for seed in range(2))
    monkeypatch.setattr(verdicts, "records", lambda lab: [judged(idea, runs=mine, against_runs=base) for idea, mine in runs.items()])
    assert metric_check.check(lab, "explore")["power"]["sd_of_paired_differences"] == pytest.approx(0.008 / math.sqrt(2))  # of (-0.5, -0.508)


def test_an_idea_counts_once_by_its_newest_verdicts_on_the_same_code():
    found = [
        judged("both", "explore", -0.1, code_sha="old"),
        judged("both", "verify", -0.3, code_sha="old"),
        judged("both", "explore", -0.2, code_sha="new"),
        judged("moved", "explore", -0.1, code_sha="a"),
        judged("moved", "verify", -0.2, code_sha="b"),
        judged("moved", "verify", -0.4, code_sha="c"),
        judged("parents", "explore", against="baseline"),
        judged("parents", "verify", against="both"),
        judged("screened", "explore", -0.1, low=None, high=None),
        judged("screened", "verify", -0.1),
        judged("explore-only", "explore"),
    ]
    assert [(a.idea, a.effect, b.effect) for a, b in metric_check.effects_at_both(found, "explore", "verify")] == [
        ("both", -0.1, -0.3),
        ("moved", -0.1, -0.4),
    ]


def test_fewer_than_five_ideas_give_words_and_no_number():
    found = metric_check.agreement("explore", "verify", pairs(NUMBERS[:3], NUMBERS[:3]))
    assert (found.ideas, found.tau, found.low, found.high, found.sign_low) == (3, None, None, None, None)
    assert "not known" in found.advice and "3 ideas have effects at both, 5 are needed" in found.advice
    with pytest.raises(ValueError, match="needs 5"):
        metric_check.rank_agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    flat = metric_check.agreement("explore", "verify", pairs(NUMBERS, [0.1] * 6))
    assert flat.tau is None and "all 6 have the same effect at verify" in flat.advice


def test_the_rank_agreement_is_kendalls_and_the_share_of_signs_wilsons():
    theirs = [-0.2, -0.3, -0.1, -0.06, 0.03, -0.01]
    found = metric_check.agreement("explore", "verify", pairs(NUMBERS, theirs))
    assert (
        found.tau == pytest.approx(kendalltau(NUMBERS, theirs).statistic) == pytest.approx((13 - 2) / 15)
    )  # two of fifteen pairs the other way round
    assert (found.same_sign, (found.sign_low, found.sign_high)) == (5, stats.wilson(5, 6))
    assert -1 <= found.low < found.tau < found.high <= 1 and found == metric_check.agreement("explore", "verify", pairs(NUMBERS, theirs))
    assert f"(tau {found.tau:.2f} [{found.low:.2f}, {found.high:.2f}], 6 ideas; same sign 5 of 6" in found.advice


def test_a_perfect_order_of_few_ideas_is_no_certainty():
    tau, low, high = metric_check.rank_agreement(list(NUMBERS), list(NUMBERS))
    by_hand = math.tanh(math.atanh(1 - 2 / 15) - 1.959964 * math.sqrt(0.437 / 2))
    assert (tau, high) == (1.0, 1.0) and low == pytest.approx(by_hand, abs=1e-6) and low < 0.5
    assert metric_check.rank_agreement(list(NUMBERS), [-value for value in NUMBERS]) == (-1.0, -1.0, pytest.approx(-low))
    many = [n * 0.1 for n in range(20)]
    assert 0.9 < metric_check.rank_agreement(many, many)[1] < 1.0


def test_the_words_follow_the_interval():
    many = [n * 0.1 for n in range(1, 25)]
    swapped = [many[n ^ 1] for n in range(24)]  # neighbours the other way round
    for theirs, words in (
        (swapped, "explore orders ideas like verify ("),
        (many[::-1], "explore orders ideas the other way round than verify"),
        ([many[n * 7 % 24] for n in range(24)], "not shown that explore orders ideas like verify"),
        ([many[n // 12 * 12 + (11 - n % 12)] for n in range(24)], "not shown"),
        ([many[(n + 4 * (-1) ** (n // 4)) % 24] + n % 3 for n in range(24)], "explore orders ideas like verify better than chance"),
    ):
        found = metric_check.agreement("explore", "verify", pairs(many, theirs))
        assert found.advice.startswith(words), found.advice


def test_two_stages_with_many_ideas_fit_on_one_screen(lab_repo, monkeypatch):
    lab = lab_repo()
    base = {
        "explore": tuple(baseline(lab, (2.263, 2.271, 2.255), 0, seconds=31.0)),
        "verify": tuple(baseline(lab, (2.101, 2.104, 2.096), 10, seconds=120.0, stage="verify")),
    }
    records = []
    for n, effect in enumerate(NUMBERS):
        for stage, factor in (("explore", 1.0), ("verify", 0.6)):
            numbers = (2.2 + 0.003 * (seed % 2) + factor * effect for seed in range(3))
            runs = tuple(finish(lab, 20 + 3 * len(records) + seed, f"idea-{n}", seed, value, stage=stage) for seed, value in enumerate(numbers))
            at = factor * effect
            records.append(judged(f"idea-{n}", stage, at, at - 0.01, at + 0.01, runs=runs, against_runs=base[stage], seeds=(0, 1, 2)))
    monkeypatch.setattr(verdicts, "records", lambda lab: records)
    found = plain(metric_check.check(lab, "explore"))
    (pair,) = found["proxy"]
    assert (pair["proxy"], pair["stage"], pair["ideas"], pair["same_code"], pair["tau"], pair["same_sign"]) == ("explore", "verify", 6, 6, 1.0, 6)
    assert found["budgets"]["ratios"][0]["median"] == pytest.approx(0.6) and all(one["paired"]["df"] == 12 for one in found["budgets"]["stages"])
    lines = metric_check.text(found).splitlines()
    assert len(lines) <= 32 and max(map(len, lines)) <= 170
    assert lines[0].startswith("ok   length       31 s a run") and any(pair["advice"] in line for line in lines)


def test_two_stages_of_a_real_lab_from_runs_to_advice(lab_repo):
    """Foreground runs of two ideas at two stages; effects at verify are half of those at explore."""
    lab = lab_repo()
    path, line = lab.root / "train.py", "value = sum(numbers) / len(numbers) + config.offset"
    assert line in path.read_text()
    halved = line + " * (0.5 if config.stage == 'verify' else 1.0) * (1 + 0.1 * (config.seed % 2))"
    path.write_text(path.read_text().replace(line, halved))
    subprocess.run(["git", "commit", "-qam", "Effects halve at verify"], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})
    call(lab.root, "data")
    stages = ("explore", "verify")
    for stage, seed in itertools.product(stages, range(3)):
        call(lab.root, "eval", "--stage", stage, "--seed", str(seed))
    for slug, offset in (("low", "-0.5"), ("high", "0.2")):
        tree = add_idea(lab, slug)
        for stage, seed in itertools.product(stages, range(3)):  # the first seed screens, two are evidence
            call(tree, "eval", "--stage", stage, "--seed", str(seed), "--offset", offset)
    found = plain(metric_check.check(lab, "explore"))
    (pair,) = found["proxy"]
    assert {pair["proxy"], pair["stage"]} == set(stages) and (pair["ideas"], pair["same_code"], pair["tau"]) == (2, 2, None)
    assert [one["stage"] for one in found["budgets"]["stages"]] == list(stages) and found["power"]["measured"]
    (ratio,) = found["budgets"]["ratios"]
    assert ratio["ideas"] == 2 and ratio["median"] == pytest.approx(0.5 if ratio["shorter"] == "explore" else 2.0)
    assert {one["stage"]: one["effect"] for one in found["budgets"]["stages"]} == {"explore": 0.01, "verify": pytest.approx(0.005)}
    shown = call(lab.root, "metric-check").stdout
    assert "2 ideas have effects at both, 5 are needed" in shown and "no seed was run twice" in shown

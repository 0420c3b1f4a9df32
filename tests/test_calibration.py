"""Predictions against verdicts: the scores against sklearn and hand-made numbers, and forecasters whose faults are known."""

import json
import random
import statistics
from pathlib import Path

import pytest
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from monolab import calibration, stats, verdicts
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.verdicts import Gate, Verdict

GATE = Gate(
    decision="drop",
    why="",
    anchor="baseline",
    through=(),
    effect=-0.02,
    low=None,
    high=None,
    error=None,
    p=None,
    allowed=None,
    level=0.01,
    test=0,
    screen=None,
    seeds=(),
    chance=0.0,
    wants=(),
    runs=("base",),
)


def verdict(idea="a", outcome="supported", *, decision="keep", **changes) -> Verdict:
    """A verdict in a lab where lower is better: -0.03 was predicted with 70 %, -0.02 observed."""
    known = {
        "time": "2026-01-01T00:00:00Z",
        "idea": idea,
        "stage": "explore",
        "code_sha": f"code of {idea}",
        "args": (),
        "metric": "score",
        "question": "Does it help?",
        "hypothesis": "It does.",
        "predicted": -0.03,
        "credence": 0.7,
        "kill_rule": "",
        "agent": "one",
        "against": "baseline",
        "verdict": outcome,
        "why": "",
        "effect": -0.02,
        "low": -0.03,
        "high": -0.01,
        "seeds": (1, 2),
        "floor": 0.01,
        "mean": 0.98,
        "against_mean": 1.0,
        "failures": {},
        "confounds": (),
        "ratios": {},
        "lines": (1, 0),
        "exploratory": "",
        "runs": (f"run of {idea}",),
        "against_runs": ("base",),
        "gate": Gate(**{**GATE.__dict__, "decision": decision}),
    }
    assert changes.keys() <= known.keys()
    return Verdict(**known | changes)


def made(credence: float, hit: bool, idea: str = "a", **changes) -> calibration.Prediction:
    one = verdict(idea, "supported" if hit else "refuted", credence=credence, **changes)
    return calibration.Prediction(**{name: getattr(one, name) for name in calibration.Prediction.__dataclass_fields__})


def forecaster(n: int, says, truth, seed: int = 0) -> list[calibration.Prediction]:
    """`n` predictions of ideas that work with chance `truth(u)`, said to be `says(u)`, for u uniform over 0..1."""
    chance = random.Random(seed)
    drawn = [chance.random() for _ in range(n)]
    return [made(says(u), chance.random() < truth(u), f"i{place}") for place, u in enumerate(drawn)]


@pytest.fixture
def lab_with(lab_repo):
    """`lab_with(verdict, ...)`: a lab (lower is better) whose record holds these looks."""

    def make(*looks: Verdict) -> Lab:
        lab = lab_repo()
        lab.runs.mkdir()
        for look in looks:
            verdicts.record(lab, look)
        return lab

    return make


def ideas(lab: Lab) -> list[str]:
    return [one.idea for one in calibration.predictions(lab)]


def test_the_last_look_at_an_arm_counts(lab_with):
    lab = lab_with(
        verdict("turned", "inconclusive", decision="more"),
        verdict("turned", "refuted", decision="drop"),
        verdict("reopened", "supported", decision="keep"),
        verdict("reopened", "inconclusive", decision="more"),
    )
    assert [(one.idea, one.outcome) for one in calibration.predictions(lab)] == [("turned", False)]
    assert calibration.report(lab)["waiting"] == 1


def test_what_is_settled_counts_before_the_gate_is_done_and_what_is_dropped_did_not_come_true(lab_with):
    lab = lab_with(
        verdict("settled", "supported", decision="more"),
        verdict("dropped", "inconclusive", decision="drop", low=None, high=None, effect=0.01),
        verdict("open", "inconclusive", decision="more"),
        verdict("crashed", "inconclusive", decision="drop", effect=None, low=None, high=None, seeds=(), mean=None),
    )
    assert [(one.idea, one.outcome) for one in calibration.predictions(lab)] == [("settled", True), ("dropped", False), ("crashed", False)]
    found = calibration.report(lab)["all"]
    assert (found["unmeasured"], found["effects"]["n"]) == (1, 2)


def test_no_control_and_nothing_without_a_prediction_is_scored(lab_with):
    lab = lab_with(verdict("control-null"), verdict("silent", credence=None), verdict("vague", predicted=None), verdict("plain"))
    assert ideas(lab) == ["plain"]


def test_a_new_version_and_another_stage_are_predictions_of_their_own(lab_with):
    lab = lab_with(
        verdict("a", "refuted", decision="drop"),
        verdict("a", code_sha="fixed", time="2026-01-02T00:00:00Z"),
        verdict("a", args=("--wide", "2"), time="2026-01-03T00:00:00Z"),
        verdict("a", stage="verify", time="2026-01-04T00:00:00Z"),
    )
    assert [one.outcome for one in calibration.predictions(lab)] == [False, True, True, True]
    found = calibration.report(lab)
    assert (found["all"]["n"], found["all"]["ideas"]) == (4, 1)


def test_predictions_are_in_the_order_of_their_verdicts(lab_with):
    lab = lab_with(verdict("late", time="2026-03-01T00:00:00Z"), verdict("early", time="2026-02-01T00:00:00Z"))
    assert ideas(lab) == ["early", "late"]


def test_a_predicted_harm_that_one_seed_has_tested_is_not_held_against_the_forecaster(lab_with):
    one_seed = {"predicted": 0.05, "low": None, "high": None, "decision": "drop", "seeds": (1,)}
    lab = lab_with(
        verdict("right", "inconclusive", effect=0.05, **one_seed),
        verdict("wrong", "inconclusive", effect=-0.05, **one_seed),
        verdict("tested", "supported", predicted=0.05, effect=0.05, low=0.04, high=0.06),
        verdict("unsettled", "inconclusive", predicted=0.05, effect=0.02, low=-0.04, high=0.06, decision="drop"),
    )
    assert ideas(lab) == ["tested", "unsettled"]
    found = calibration.report(lab)
    assert found["untested"] == 2
    assert "2 predicted a harm that one seed cannot test" in calibration.text(found)


def test_a_harm_alone_is_an_error_that_says_how_to_test_it(lab_with):
    lab = lab_with(verdict("a", "inconclusive", predicted=0.05, effect=0.05, low=None, high=None, decision="drop"))
    with pytest.raises(LabError, match="1 predicted a harm") as error:
        calibration.report(lab)
    assert "--seeds 3" in error.value.hint


@pytest.mark.parametrize(
    ("looks", "what", "hint"),
    [
        ((), "no prediction to score", "write credence"),
        ((verdict(credence=None), verdict("b", predicted=None)), "no prediction to score", "write credence"),
        ((verdict("c", "inconclusive", decision="more"),), "1 wait for their verdict", "just status"),
    ],
)
def test_nothing_to_score_is_an_error_with_the_next_step(lab_with, tmp_path, looks, what, hint):
    lab = lab_with(*looks)
    assert calibration.predictions(lab) == []
    for what_is_asked in (calibration.report, lambda lab: calibration.plot(lab, tmp_path / "out.png")):
        with pytest.raises(LabError, match=what) as error:
            what_is_asked(lab)
        assert hint in error.value.hint
    assert not (tmp_path / "out.png").exists()


def test_an_unknown_agent_is_an_error_that_names_the_known_ones(lab_with):
    with pytest.raises(LabError, match="'nobody'") as error:
        calibration.report(lab_with(verdict("a", agent="one"), verdict("b", agent="two")), "nobody")
    assert "one, two" in error.value.hint


def test_brier_skill_and_curve_agree_with_sklearn():
    found = forecaster(200, lambda u: u, lambda u: u**2)
    credences, hits = [one.credence for one in found], [one.outcome for one in found]
    scores = calibration.score(found)
    assert scores["brier"] == pytest.approx(brier_score_loss(hits, credences))
    base = statistics.fmean(hits)
    assert scores["skill"] == pytest.approx(1 - scores["brier"] / brier_score_loss(hits, [base] * 200))
    assert scores["skill_half"] == pytest.approx(1 - scores["brier"] / brier_score_loss(hits, [0.5] * 200))
    observed, said = calibration_curve(hits, credences, n_bins=calibration.BINS)
    assert [one["observed"] for one in scores["curve"]] == pytest.approx(list(observed))
    assert [one["credence"] for one in scores["curve"]] == pytest.approx(list(said))
    for one in scores["curve"]:
        assert (one["low"], one["high"]) == stats.wilson(round(one["observed"] * one["n"]), one["n"])
    assert sum(one["n"] for one in scores["curve"]) == 200


def test_murphys_parts_by_hand():
    # 0.9: 3 of 4 come true; 0.1: 1 of 4. The base rate is 1/2.
    found = [made(0.9, hit) for hit in (1, 1, 1, 0)] + [made(0.1, hit) for hit in (1, 0, 0, 0)]
    scores = calibration.score(found)
    assert scores["reliability"] == pytest.approx(0.15**2)
    assert scores["resolution"] == pytest.approx(0.25**2)
    assert scores["uncertainty"] == 0.25
    assert scores["within_bins"] == pytest.approx(0)
    assert scores["brier"] == pytest.approx((6 * 0.01 + 2 * 0.81) / 8)
    assert scores["reliability_chance"] == pytest.approx(2 * 0.09 / 8)  # each bin: 4 * variance(0.9 * 0.1 / 4), over 8


def test_the_parts_add_up_where_credences_differ_inside_a_bin():
    for seed in range(5):
        scores = calibration.score(forecaster(37, lambda u: u, lambda u: 1 - u, seed))
        parts = scores["reliability"] - scores["resolution"] + scores["uncertainty"] + scores["within_bins"]
        assert parts == pytest.approx(scores["brier"], abs=1e-12)
        # Stephenson et al. 2008, eq. 8: variance inside the bins, less twice the covariance.
        inside = 0.0
        for members in calibration._bins(forecaster(37, lambda u: u, lambda u: 1 - u, seed)).values():
            f, o = statistics.fmean(one.credence for one in members), statistics.fmean(one.outcome for one in members)
            inside += sum((one.credence - f) ** 2 - 2 * (one.outcome - o) * (one.credence - f) for one in members) / 37
        assert scores["within_bins"] == pytest.approx(inside, abs=1e-12)


def test_bins_hold_their_lower_edge_and_the_last_one_both():
    bins = calibration._bins([made(credence, True) for credence in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.79)])
    assert {place: [one.credence for one in inside] for place, inside in bins.items()} == {
        0: [0.0],
        1: [0.2],
        2: [0.4],
        3: [0.6, 0.79],
        4: [0.8, 1.0],
    }


def test_the_chance_of_a_bias_is_the_binomials_where_credences_agree():
    for hits in range(12):
        wide = 0.5  # symmetric, where all definitions of a two-sided chance agree
        assert calibration._bias_chance([wide] * 11, hits) == pytest.approx(binomtest(hits, 11, wide).pvalue)
    # 0.9 and 0.2, by hand: 0, 1, 2 hits with 0.08, 0.74, 0.18; 1.1 are expected, so 0 is the farthest, then 2.
    assert calibration._bias_chance([0.9, 0.2], 0) == pytest.approx(0.08)
    assert calibration._bias_chance([0.9, 0.2], 2) == pytest.approx(0.26)
    assert calibration._bias_chance([0.9, 0.2], 1) == 1.0


def test_a_calibrated_forecaster_is_reliable_and_has_no_bias():
    scores = calibration.score(forecaster(3000, lambda u: u, lambda u: u))
    assert scores["reliability"] < 0.002
    assert scores["calibration"] == "no bias beyond luck"
    assert not any(one["off"] for one in scores["curve"])
    assert scores["resolution"] == pytest.approx(0.08, abs=0.01)  # variance of the bins' centres: (0.2**2) * 2
    assert scores["brier_low"] < 1 / 6 < scores["brier_high"]  # the mean of u(1 - u)


def test_luck_is_seldom_called_a_bias_and_explains_the_reliability_of_few():
    many = [calibration.score(forecaster(20, lambda u: u, lambda u: u, seed)) for seed in range(200)]
    assert sum(one["calibration"] != "no bias beyond luck" for one in many) <= 18  # 200 * 5 % = 10, two and a half sd above
    assert sum(any(bin["off"] for bin in one["curve"]) for one in many) <= 18
    reliability, expected = (statistics.fmean(one[name] for one in many) for name in ("reliability", "reliability_chance"))
    assert reliability == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("says", "word"), [(lambda u: 0.7 + 0.3 * u, "overconfident"), (lambda u: 0.2 * u, "underconfident")])
def test_a_biased_forecaster_is_told_so(says, word):
    scores = calibration.score(forecaster(60, says, lambda u: 0.45))
    assert scores["calibration"] == word
    assert (scores["bias"] > 0) == (word == "overconfident")
    assert scores["reliability"] > 3 * scores["reliability_chance"]
    assert any(one["off"] for one in scores["curve"])
    assert scores["skill"] < 0


def test_credences_that_say_nothing_have_no_resolution():
    scores = calibration.score(forecaster(400, lambda u: 0.5, lambda u: 0.5))
    assert scores["resolution"] == pytest.approx(0)
    assert scores["skill_half"] == pytest.approx(0)


def test_the_interval_covers_as_often_as_it_says():
    truth = statistics.fmean(p * (1 - p) for p in ((place + 0.5) / 1000 for place in range(1000)))
    covered = 0
    for seed in range(60):
        scores = calibration.score(forecaster(40, lambda u: u, lambda u: u, seed))
        covered += scores["brier_low"] <= truth <= scores["brier_high"]
    assert covered >= 52  # 57 are expected, three sd less here


def test_the_interval_is_wider_where_versions_of_one_idea_share_their_outcome():
    drawn = forecaster(20, lambda u: u, lambda u: u)
    apart = calibration.score([made(one.credence, one.outcome, f"{one.idea}-{copy}") for one in drawn for copy in range(4)])
    together = calibration.score([made(one.credence, one.outcome, one.idea) for one in drawn for _ in range(4)])
    assert together["brier"] == pytest.approx(apart["brier"])
    ratio = (together["brier_high"] - together["brier_low"]) / (apart["brier_high"] - apart["brier_low"])
    assert ratio == pytest.approx(2, rel=0.15)  # a fourth of the independent predictions


def test_the_interval_is_the_same_every_time():
    found = forecaster(12, lambda u: u, lambda u: u)
    assert calibration.score(found) == calibration.score(found)


def test_no_interval_comes_with_the_reason():
    few = calibration.score([made(0.3, True, f"i{place}") for place in range(4)])
    assert (few["brier_low"], few["brier_high"]) == (None, None)
    assert few["brier_why"] == "an interval takes 5 ideas, there are 4"
    same = calibration.score([made(0.7, True, f"i{place}") for place in range(9)])
    assert same["brier_low"] is None and "off by the same" in same["brier_why"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("outcomes", [lambda place: True, lambda place: False, lambda place: place % 2 == 0])
@pytest.mark.parametrize("credence", [0.0, 0.5, 0.7, 1.0])
def test_few_predictions_and_equal_outcomes_give_no_nan_and_no_warning(n, outcomes, credence):
    scores = calibration.score([made(credence, outcomes(place), f"i{place}") for place in range(n)])
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["n"] == n
    if n == 0:
        assert scores["brier"] is scores["bias"] is scores["reliability"] is scores["effects"]["ratio"] is None
    if 0 < n < calibration.FEW:
        assert scores["calibration"] == "too few to tell" and scores["brier_why"]


def test_unequal_shares_of_one_loss_give_no_nan():
    scores = calibration.score([made(credence, True, f"i{place}") for place in range(6) for credence in (0.2, 0.6)])
    assert json.loads(json.dumps(scores, allow_nan=False))["brier_low"] is None


def test_all_outcomes_equal_have_no_skill_against_the_base_rate():
    scores = calibration.score([made(0.6, False, f"i{place}") for place in range(7)])
    assert scores["skill"] is None and scores["uncertainty"] == 0 and scores["resolution"] == pytest.approx(0)
    assert scores["skill_half"] == pytest.approx(1 - 0.36 / 0.25)


def test_a_sure_forecaster_who_is_right_is_perfect():
    scores = calibration.score([made(float(hit), hit, f"i{place}") for place, hit in enumerate([True, False] * 4)])
    assert (scores["brier"], scores["skill"], scores["bias"]) == (0, 1, 0)


def test_effects_by_hand():
    found = [
        made(0.7, True, predicted=-0.04, effect=-0.02, low=-0.03, high=-0.01, floor=0.01),  # half, outside its interval
        made(0.7, True, predicted=-0.02, effect=-0.03, low=-0.05, high=-0.01, floor=0.01),  # 1.5, inside
        made(0.7, False, predicted=-0.04, effect=0.01, low=None, high=None, floor=0.02),  # the wrong direction, one seed
        made(0.7, False, predicted=-0.04, effect=None, low=None, high=None, floor=0.01),  # crashed
    ]
    effects = calibration.score(found)["effects"]
    assert effects == {
        "n": 3,
        "metric": "score",
        "right_sign": 2,
        "error": pytest.approx(0.02),
        "error_floors": pytest.approx(2.0),
        "ratio": pytest.approx(0.5),
        "intervals": 2,
        "inside": 1,
        "size_floors": pytest.approx((4 + 2 + 2) / 3),
    }


def test_effects_on_several_metrics_are_only_compared_in_noise_floors():
    found = [made(0.7, True, predicted=-0.04, effect=-0.02, floor=0.01), made(0.7, True, metric="loss", predicted=-4.0, effect=-2.0, floor=1.0)]
    effects = calibration.score(found)["effects"]
    assert (effects["metric"], effects["error"], effects["error_floors"]) == (None, None, pytest.approx(2.0))
    assert "and 2.0 noise floors away" in "\n".join(calibration._effects_text(effects))


def overconfident(lab_with) -> Lab:
    """Eleven predictions of two agents, said to be 80 %, of which five came true: the first six by `one`."""
    hits = (True, False, False, True, False, False, True, True, False, True, False)
    return lab_with(
        *(
            verdict(
                f"i{place}",
                "supported" if hit else "refuted",
                time=f"2026-01-{place + 1:02}T00:00:00Z",
                credence=0.8,
                agent="one" if place < 6 else "two",
                effect=-0.02 if hit else 0.004,
            )
            for place, hit in enumerate(hits)
        )
    )


def test_the_report_has_every_agent_and_the_course_of_time(lab_with):
    lab = overconfident(lab_with)
    found = calibration.report(lab)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {name: scores["n"] for name, scores in found["agents"].items()} == {"one": 6, "two": 5}
    assert found["agents"]["two"] == calibration.score(calibration.predictions(lab)[6:])
    assert (found["halves"]["first"]["n"], found["halves"]["second"]["n"]) == (5, 6)
    course = [one["brier"] for one in found["over_time"]]
    assert course[:3] == pytest.approx([0.04, (0.04 + 0.64) / 2, (0.04 + 2 * 0.64) / 3])
    assert course[-1] == pytest.approx(found["all"]["brier"])
    assert found["over_time"][0]["runs"] == ["run of i0"]


def test_the_report_on_one_agent_is_about_its_predictions_alone(lab_with):
    found = calibration.report(overconfident(lab_with), "two")
    assert (found["all"]["n"], list(found["agents"]), len(found["over_time"])) == (5, ["two"], 5)
    assert "5 predictions of two scored" in calibration.text(found)


def test_the_text_says_it_in_words(lab_with):
    said = calibration.text(calibration.report(overconfident(lab_with)))
    for words in (
        "11 predictions scored, on 11 ideas (6 refuted, 5 supported)",
        "On average says 80 %, happens 45 % of 11 times: overconfident",
        "80 to 100 %: says 80 %, happens 45 % of 11 times [21 %, 72 %]   <- not explained by luck",
        "Brier score 0.367 (95 % interval [",
        "no better than always saying 45 %, which would have got 0.248: skill -0.48",
        "the right direction 5 of 11 times",
        "the observed 95 % interval holds it 11 of 11 times; it is 3.0 noise floors large",
        "first  half: says 80 %, happens 40 % of 5 times",
        "second half: says 80 %, happens 50 % of 6 times",
        "  one  says 80 %, happens 33 % of 6 times",
    ):
        assert words in said
    assert len(said.splitlines()) <= 30 and max(map(len, said.splitlines())) <= 130


def test_the_text_about_one_prediction_claims_nothing(lab_with):
    said = calibration.text(calibration.report(lab_with(verdict())))
    assert "1 prediction scored, on 1 idea (1 supported)" in said
    assert "says 70 %, happens 100 % of 1 time: too few to tell" in said
    assert "an interval takes 5 ideas, there are 1" in said
    assert "nothing shows yet" in said
    for words in ("Over time", "Per agent", "nan", "None", "skill"):
        assert words not in said


def test_the_text_where_everything_crashed(lab_with):
    nothing = {"effect": None, "low": None, "high": None, "decision": "drop"}
    said = calibration.text(calibration.report(lab_with(verdict("a", "inconclusive", **nothing), verdict("b", "inconclusive", **nothing))))
    assert "2 inconclusive; 2 measured nothing" in said and "Predicted effects: none was measured" in said


def test_many_agents_do_not_fill_the_screen(lab_with):
    lab = lab_with(*(verdict(f"i{place}", agent=f"agent{place % 12}") for place in range(24)))
    said = calibration.text(calibration.report(lab))
    assert "and 4 more, with fewer predictions" in said and len(said.splitlines()) <= 30


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "looks",
    [
        [verdict()],
        [verdict("a", "inconclusive", decision="drop", effect=None, low=None, high=None)],
        [verdict("a"), verdict("b", "refuted", metric="loss", agent="two", effect=0.01, low=None, high=None)],
    ],
    ids=["one", "crashed", "two metrics"],
)
def test_the_plot_of_few_is_a_png(lab_with, tmp_path, looks):
    out = calibration.plot(lab_with(*looks), tmp_path / "calibration.png")
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 20_000


def test_the_plot_shows_what_was_scored(lab_with, tmp_path, monkeypatch):
    from matplotlib import pyplot

    drawn = []
    monkeypatch.setattr(pyplot, "close", drawn.append)
    lab = overconfident(lab_with)
    calibration.plot(lab, tmp_path / "all.png")
    calibration.plot(lab, tmp_path / "two.png", "two")
    monkeypatch.undo()
    curve, effects, over_time = drawn[0].axes
    assert curve.get_title() == "says 80 %, happens 45 % of 11 times\noverconfident"
    assert [note.get_text() for note in curve.texts] == ["11"]
    assert effects.get_title().startswith("right direction 5 of 11 times")
    course = next(line for line in over_time.lines if line.get_label() == "Brier score so far")
    assert list(course.get_ydata()) == pytest.approx([one["brier"] for one in calibration.report(lab)["over_time"]])
    assert {line.get_label() for line in over_time.lines} >= {"one", "two", "always saying 50 %"}
    assert drawn[1].axes[0].get_title().startswith("says 80 %, happens 60 % of 5 times")
    for figure in drawn:
        pyplot.close(figure)


def test_a_plot_into_a_folder_that_is_not_there_is_an_error(lab_with, tmp_path: Path):
    with pytest.raises(LabError, match="no folder") as error:
        calibration.plot(lab_with(verdict()), tmp_path / "new" / "out.png")
    assert error.value.hint.startswith("mkdir")


def test_the_mean_of_a_curve_is_the_base_rate():
    scores = calibration.score(forecaster(83, lambda u: u, lambda u: u**0.5))
    assert sum(one["n"] * one["observed"] for one in scores["curve"]) / 83 == pytest.approx(scores["base_rate"])

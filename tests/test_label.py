import pytest

from monolab import label
from monolab.errors import LabError


def test_a_full_label_is_scorable():
    found = label.parse("Q: does X help? H: expect -0.02 val_bpb, 70%", "val_bpb")
    assert (found.question, found.text) == ("does X help?", "expect -0.02 val_bpb, 70%")
    assert (found.effect, found.credence, found.scorable) == (-0.02, 0.7, True)


@pytest.mark.parametrize(
    ("text", "effect", "credence"),
    [
        ("Q: flash-attn memory? H: 2x batch size same speed", None, None),
        ("Q: rotary vs sinusoidal? H: rotary saves 0.1 bpb", None, None),
        ("Q: a? H: expect 0.02 val_bpb, 70%", None, 0.7),  # no sign: better or worse?
        ("Q: a? H: expect +5e-3 metric", 0.005, None),
        ("Q: a? H: expect −0.1 val_bpb, 170%", -0.1, None),
        ("Q: is it -0.5 val_bpb? H: we shall see", None, None),
        ("Q: a? H: at lr 3e-4 val_bpb falls, 70%", None, 0.7),  # the minus of an exponent
        ("Q: a? H: from 0.5-0.6 val_bpb, 70%", None, 0.7),  # a range
        ("Q: a? H: from 0.5 - 0.6 val_bpb, 70%", None, 0.7),
        ("Q: a? H: within ±0.02 val_bpb or +-0.02 val_bpb, 70%", None, 0.7),
        ("Q: a? H: expect +0 val_bpb, 70%", None, 0.7),  # neither better nor worse
        ("Q: a? H: expect -1e999 val_bpb, 70%", None, 0.7),
        ("Q: a? H: -0.02 val_bpb, -5%", -0.02, None),  # a change, no credence
    ],
)
def test_a_looser_label_is_kept_but_not_scorable(text, effect, credence):
    found = label.parse(text, "val_bpb")
    assert (found.effect, found.credence, found.scorable) == (effect, credence, False)


@pytest.mark.parametrize(
    ("text", "effect", "credence"),
    [
        ("Q: a? H: from 0.5-0.6 val_bpb to +0.02 val_bpb, 70%", 0.02, 0.7),
        ("Q: a? H: with 30% fewer params, -0.02 val_bpb, 70%", -0.02, 0.7),
        ("Q: a? H: -.02 val_bpb, 99.5%", -0.02, 0.995),
        ("Q: a? H: - 0.02 val_bpb, 70 %", -0.02, 0.7),
        ("Q: a? H: at 3e-4 it was +0.1 val_bpb; expect -2e-2 val_bpb, 70%", -0.02, 0.7),
        ("Q: a? H: expect -0.02 val_bpb as -0.5 val_bpb was seen before, 70%", -0.02, 0.7),
    ],
)
def test_the_effect_and_the_credence_are_found_among_other_numbers(text, effect, credence):
    found = label.parse(text, "val_bpb")
    assert (found.effect, found.credence, found.scorable) == (effect, credence, True)


def test_a_word_that_ends_in_h_does_not_start_the_hypothesis():
    found = label.require("Q: does pH: matter? H: expect -0.1 score, 70%", "score", "lower")
    assert (found.question, found.text) == ("does pH: matter?", "expect -0.1 score, 70%")
    with pytest.raises(LabError, match="no H:"):
        label.require("Q: does pH: matter?", "score", "lower")
    with pytest.raises(LabError, match="no Q:"):
        label.require("FAQ: what? H: less", "score", "lower")


@pytest.mark.parametrize(
    ("text", "missing"), [("does X help?", "no Q: and no H:"), ("Q: does X help?", "no H:"), ("H: -0.1 val_bpb", "no Q:"), ("", "no Q: and no H:")]
)
def test_a_label_without_its_parts_is_an_error_that_shows_one(text, missing):
    with pytest.raises(LabError, match=missing) as caught:
        label.require(text, "val_bpb", "lower")
    assert "expect -0.02 val_bpb" in caught.value.hint


@pytest.mark.parametrize("credence", [0.0, 0.005, 0.07, 0.65, 0.7, 0.995, 1.0])
def test_an_idea_renders_to_a_label_that_reads_back(credence):
    found = label.parse(label.render("Does  it\nhelp?", -0.03, credence, "val_bpb"), "val_bpb")
    assert (found.question, found.effect, found.credence) == ("Does it help?", -0.03, credence)

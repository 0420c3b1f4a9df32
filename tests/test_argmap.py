"""Argument maps: parsed by line, held to the saved papers and to themselves."""

import pytest
from test_lab import call

from monolab import argmap
from monolab.errors import LabError

MAP = """# Does the state need to forget?

[Decay helps]: A learned decay lowers the metric. {credence: 0.7}
  + <Stale writes>: The state keeps what is not needed. {credence: 0.8, quote: "a gate that\\n forgets [...] enables rapid erasure", paper: gated}
    - [Small states suffice]: {credence: 0.2}
  >< [Decay hurts]: {credence: 0.25}
  => [The state matters]: What it holds limits the metric. {credence: 0.9}
// a note
[Small states suffice]: Two heads do as well.
"""
PAPER = "# Gated\n\nWe add a *gate* that for-\ngets, and the delta rule. Gating enables rapid\nerasure of memory.\n"


@pytest.fixture
def lab(lab_repo):
    return lab_repo(**{"0_docs/papers/gated.md": PAPER, "map.argdown": MAP})


def parsed(tmp_path, text: str) -> argmap.Map:
    path = tmp_path / "m.argdown"
    path.write_text(text)
    return argmap.parse(path)


def test_a_sound_map_is_understood_and_passes(lab):
    found = argmap.parse(lab.root / "map.argdown")
    assert argmap.check(lab, found) == []
    assert found.claims["Small states suffice"].text == "Two heads do as well."
    assert ("Small states suffice", "-", "Stale writes", 5) in found.links
    said = call(lab.root, "argmap", "check", "map.argdown").stdout
    assert "supports: Stale writes 80%" in said and "5 claims, 1 quote" in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("enables rapid erasure", "guarantees rapid erasure", "does not say 'guarantees rapid erasure'"),
        ("paper: gated", "paper: other", "its paper is not saved"),
        (", paper: gated", "", "a quote without its paper"),
        ("[Decay hurts]: {credence: 0.25}", "[Decay hurts]: {credence: 0.4}", "sum to 1.1"),
        ("limits the metric. {credence: 0.9}", "limits the metric. {credence: 0.6}", "cannot be less likely"),
        ("[Decay hurts]: {credence: 0.25}", "[Decay hurts]: it does", "'Decay hurts' has no credence"),
        ("    - [Small states suffice]: {credence: 0.2}", "    + [Decay helps]", "Decay helps -> Stale writes -> Decay helps: supports itself"),
    ],
)
def test_what_does_not_hold_is_named(lab, old, new, says):
    assert old in MAP
    path = lab.root / "map.argdown"
    path.write_text(MAP.replace(old, new))
    assert any(says in one for one in argmap.check(lab, argmap.parse(path)))
    done = call(lab.root, "argmap", "check", "map.argdown", check=False)
    assert done.returncode == 1 and says in done.stdout


@pytest.mark.parametrize(
    ("line", "text", "credence", "quote"),
    [
        ("The state S_{t-1} should fade. {credence: 0.7}", "The state S_{t-1} should fade.", 0.7, ""),
        ("the state S_{t-1}", "the state S_{t-1}", None, ""),
        ("all {x: x > 0} of them {credence: 0.2}", "all {x: x > 0} of them", 0.2, ""),
        ("a {credence: 0.7, quote: 'S_{t-1} and {y: 1}', paper: gated}", "a", 0.7, "S_{t-1} and {y: 1}"),
        ('{"credence": 0.7}', "", 0.7, ""),
    ],
)
def test_braces_in_the_text_are_text(tmp_path, line, text, credence, quote):
    claim = parsed(tmp_path, f"[A]: {line}\n").claims["A"]
    assert (claim.text, claim.credence, claim.quote) == (text, credence, quote)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no claim"),
        ("Decay helps\n", "line 1: 'Decay helps' is no claim"),
        ("[A]: a {credence: 0.5}\n      + [B]: {credence: 0.5}\n", "line 2: the indentation leads nowhere"),
        ("[A]: a {credence: 0.5}\n  [B]: {credence: 0.5}\n", "line 2: a claim below another needs a relation"),
        ("+ [A]: a {credence: 0.5}\n", "line 1: a relation needs a claim above it"),
        ("[A]: a {credence: 1.5}\n", "is no probability"),
        ("[A]: a {credence: 0.5}\n[A]: {credence: 0.6}\n", "line 2: 'A' has the credence 0.5 elsewhere"),
        ("[A]: a {credence: [}\n", "line 1: what stands in braces is not YAML"),
        ("[A]: a {belief: 1}\n", "is not credence, quote"),
        ("[A]: S_{t} {credence: 0.7, belief: 1}\n", "is not credence, quote"),
        ("[A]: a {credence: 0.7\n", "line 1: what stands in braces is not YAML"),
        ("[A]: a {credence: 0.7} b\n", "line 1: what stands in braces is not YAML"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, text, says):
    with pytest.raises(LabError, match=says.replace("[", r"\[")):
        parsed(tmp_path, text)

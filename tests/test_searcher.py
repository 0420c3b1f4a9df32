"""The embedded searcher: real ideas, worktrees, code and runs from a lab's own space.py, and the arithmetic of its choice."""

import json
import random

import pytest
from conftest import PROGRAM
from test_gate import NOISY
from test_lab import call

from monolab import ideas, lineage, results, searcher
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.searcher import Option, Step

SPACE = '''"""Two parts, whose options move the number. Run: python space.py list | render CHOICES"""

import json
import sys
from pathlib import Path

EFFECTS = {"first": {"none": 0.0, "good": -0.2, "bad": 0.2}, "second": {"none": 0.0, "better": -0.1}}
if sys.argv[1] == "list":
    print(json.dumps({part: {name: {"what": f"{part} is {name}", "why": "it moves the number" if effect else "", "effect": effect, "credence": 0.6 if effect else 0.0,
        "papers": ["arXiv:2412.06464"] if effect else []} for name, effect in options.items()} for part, options in EFFECTS.items()}))
else:
    choices = json.loads(sys.argv[2])
    offset = round(sum(EFFECTS[part][name] for part, name in choices.items()), 3)
    print(Path("train.py").read_text().replace("offset: float = 0.0", f"offset: float = {offset}"), end="")
'''


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(
        **{"train.py": NOISY, "space.py": SPACE, "program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\nsearch: {policy: greedy, cold: 0}\n")}
    )
    call(lab.root, "data")
    return lab


def test_it_makes_ideas_with_real_code_and_goes_on_where_it_was(lab):
    assert "baseline was not measured" in call(lab.root, "search", "--n", "1", check=False).stderr
    call(lab.root, "baseline")
    searcher.wait(lab, 0)
    said = call(lab.root, "search", "--n", "2").stdout
    assert "s001-" in said and "s002-" in said and "2 experiments" in said
    call(lab.root, "search", "--n", "2", "--seed", "1")
    tree = lineage.of_lab(lab)
    made = [one for one in tree.candidates if one.idea != "baseline"]
    assert [one.idea[:4] for one in made] == ["s001", "s002", "s003", "s004"]
    chosen = searcher.known(lab, searcher.space(lab))
    assert len({searcher.key(chosen[one.idea]) for one in made} | {searcher.key(chosen["baseline"])}) == 5  # nothing is tried twice
    assert all(one.parent and one.origin == "cognition" for one in made)
    best = json.loads(call(lab.root, "best", "--json").stdout)
    assert chosen[best["idea"]]["first"] == "good"
    for one in made:  # the code is what the options say, as a change of one part of its parent's
        offset = {"none": 0.0, "good": -0.2, "bad": 0.2}[chosen[one.idea]["first"]] + {"none": 0.0, "better": -0.1}[chosen[one.idea]["second"]]
        assert f"offset: float = {round(offset, 3)}" in (lab.worktree(one.idea) / "train.py").read_text()
        parent = chosen[tree.by_key[one.parent].idea]
        assert sum(parent[part] != option for part, option in chosen[one.idea].items()) == 1
        idea = ideas.load(lab, one.idea)
        assert idea.predicted_effect != 0 and abs(idea.predicted_effect) >= problems.load(lab).smallest_effect
    assert len([row for row in results.load(lab) if row.idea == "s001-first-good"]) == 3  # the gate bought its evidence
    call(lab.root, "search", "--n", "1", "--seed", "2")
    assert "every neighbour" in call(lab.root, "search", "--n", "1", check=False).stderr
    told = json.loads(call(lab.root, "analysis", "--json").stdout)
    assert told["made"] == 5 and told["keep_rate"]["hits"] >= 1 and told["floor"] > 0
    row = next(row for row in told["components"] if row["component"] == "first: good")
    assert row["winners"]["share"] > row["rest"]["share"]


def test_a_lab_without_a_space_says_so(lab_repo):
    with pytest.raises(LabError, match=r"no space\.py"):
        searcher.space(lab_repo())


def option(effect: float) -> Option:
    return Option("", "", effect, 0.5, ())


PARTS = {"a": {"x": option(0.0), "y": option(-0.02)}, "b": {"x": option(0.0), "y": option(0.05), "z": option(-0.01)}}
HERE = {"a": "x", "b": "x"}


def draws(tried: set = frozenset(), seen: dict | None = None, sign: int = -1, times: int = 300) -> list[Step]:
    rng = random.Random(0)
    return [searcher.propose(PARTS, HERE, set(tried), seen or {}, sign, 0.03, 0.01, rng) for _ in range(times)]


def test_the_choice_follows_what_is_believed_and_what_was_seen():
    def share(steps: list[Step], part: str, name: str) -> float:
        return sum((step.part, step.option) == (part, name) for step in steps) / len(steps)

    before = draws()
    assert share(before, "a", "y") > share(before, "b", "z") > share(before, "b", "y") > 0  # also what looks poor is tried at times
    after = draws(seen={("a", "x", "y"): [0.05, 0.06, 0.05]})
    assert share(after, "a", "y") < 0.02 and share(after, "b", "z") > 0.8
    assert share(draws(sign=1), "b", "y") > 0.7


def test_what_was_seen_from_another_option_says_nothing_of_this_change():
    tree = lineage.Tree(
        "",
        "loss",
        "lower",
        tuple(
            lineage.Candidate(key=name, idea=name, parent=parent, stage="explore", when="", status="ok", value=1.0, seeds=1, effect=effect)
            for name, parent, effect in (
                ("baseline", "", None),
                ("gated", "baseline", -0.08),
                ("constant", "baseline", -0.07),
                ("both", "gated", -0.02),
            )
        ),
    )
    chosen = {
        "baseline": {"d": "none", "b": "x"},
        "gated": {"d": "gated", "b": "x"},
        "constant": {"d": "constant", "b": "x"},
        "both": {"d": "gated", "b": "y"},
    }
    assert searcher.effects(tree, chosen) == {
        ("d", "none", "gated"): [-0.08],
        ("d", "gated", "none"): [0.08],
        ("d", "none", "constant"): [-0.07],
        ("d", "constant", "none"): [0.07],
        ("b", "x", "y"): [-0.02],
        ("b", "y", "x"): [0.02],
    }


def test_what_was_never_asked_is_taken_back(lab_repo):
    lab = lab_repo(**{"train.py": NOISY, "space.py": SPACE})
    parts = searcher.space(lab)
    slug = searcher.write(lab, parts, searcher.default(parts), "baseline", Step("first", "good", -0.2), "a test")
    assert searcher.prepare(lab, slug, parts, searcher.default(parts), Step("first", "good", -0.2)) and lab.worktree(slug).exists()
    searcher.discard(lab, slug)
    assert slug not in ideas.slugs(lab) and not lab.worktree(slug).exists() and searcher.known(lab, parts).keys() == {"baseline"}


def test_nothing_is_proposed_twice_and_nothing_is_left_at_the_end():
    tried = {searcher.key(HERE | {"a": "y"}), searcher.key(HERE | {"b": "z"})}
    assert {(step.part, step.option) for step in draws(tried)} == {("b", "y")}
    assert searcher.propose(PARTS, HERE, tried | {searcher.key(HERE | {"b": "y"})}, {}, -1, 0.03, 0.01, random.Random(0)) is None


def test_belief_is_the_normal_one():
    mean, sd = searcher.believed(-0.02, 0.03, [0.01, 0.03], 0.03)
    assert mean == pytest.approx((-0.02 + 0.01 + 0.03) / 3) and sd == pytest.approx(0.03 / 3**0.5)

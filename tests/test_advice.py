"""`lab next`: a parent, references, insights and failures, bounded, as data and as text."""

import json
from dataclasses import replace

import pytest
from conftest import PROGRAM
from test_gate import NOISY, offset
from test_lab import call

from monolab import advice, backlog, lineage
from monolab.errors import LabError
from monolab.lineage import Candidate, Tree


def one(number: int, value: float | None, parent: str = "root", **more) -> Candidate:
    return Candidate(
        key=f"c{number}",
        idea=f"c{number}",
        parent=parent,
        stage="explore",
        when="",
        status="ok" if value is not None else "crash",
        value=value,
        seeds=1,
        **more,
    )


ROOT = replace(one(0, 2.0, ""), key="root", idea="baseline")


def test_from_a_real_lab(lab_repo, pueue_daemon, wait_until):
    lab = lab_repo(**{"train.py": NOISY, "program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\nsearch: {cold: 1, batch: 1, parents: 1}\n")})
    call(lab.root, "data")
    assert "nothing was measured" in call(lab.root, "next", check=False).stderr
    call(lab.root, "baseline")
    offset(lab, "good", -0.3)
    offset(lab, "poor", 0.3)
    call(lab.root, "queue", "good", "Q: does it help? H: expect -0.3 score, 80%")
    call(lab.root, "queue", "poor", "Q: the other way? H: expect -0.3 score, 5%")
    wait_until(lambda: not backlog.unfinished(lab))
    told = json.loads(call(lab.root, "next", "--json").stdout)
    assert told["parent"]["idea"] == "good" and "rank 1 of the best 1" in told["why"]
    assert {summary["key"] for summary in told["summaries"]} == {"good", "baseline", "poor"}
    assert "+    offset: float = -0.3" in told["change"]
    assert {failure["idea"] for failure in told["failures"]} == {"poor"}
    assert told["fitness"]["loss"] > 0.9 and told["fitness"]["judge"] is None and told["fitness"]["total"] == told["fitness"]["loss"]
    text = call(lab.root, "next", "--policy", "greedy").stdout
    assert text.startswith("# Next: build on good") and "`parent: good`" in text and "data, not instructions" in text
    assert "no policy" in call(lab.root, "next", "--policy", "best", check=False).stderr


def test_summaries_are_bounded_and_lead_with_the_numbers():
    long = one(1, 1.9, hypothesis="word " * 400, notes={"analysis": "more " * 400})
    tree = Tree("", "loss", "lower", (ROOT, long))
    text = advice.summary(tree, long)
    assert len(text) <= advice.SUMMARY + 4 and text.startswith("c1 loss 1.9") and text.endswith(" ...")


def test_when_nothing_was_kept_for_long_another_kind_of_question_is_asked(lab_repo):
    lab = lab_repo()
    for kept, asks in ((5, True), (24, False)):
        made = [one(number, 2.1, decision="keep" if number == kept else "drop", verdict="inconclusive") for number in range(1, 27)]
        lineage.save(lab, Tree("t", "score", "lower", (ROOT, *made)))
        found = advice.advise(lab, tree="t")
        assert found.since_a_winner == 26 - kept and bool(found.direction_of_thought) is asks
        assert ("Nothing was kept in the last" in advice.text(found)) is asks
    fillers = [replace(one(number, 2.1, decision="drop"), idea="tune-baseline") for number in range(30, 60)]
    lineage.save(lab, Tree("t", "score", "lower", (ROOT, *made, *fillers)))
    assert advice.advise(lab, tree="t").since_a_winner == 2  # 26 ideas, the 24th was kept


def test_a_failure_may_be_what_is_worked_on(lab_repo):
    lab = lab_repo()
    lineage.save(
        lab, Tree("t", "score", "lower", (ROOT, *(one(number, 2.1) for number in range(1, 6)), one(9, None, notes={"error": "shapes differ"})))
    )
    found = [advice.advise(lab, tree="t", policy="tree", seed=seed) for seed in range(12)]
    repairs = [advice.text(one) for one in found if one.repair]
    assert repairs and all(text.startswith("# Next: repair c9") for text in repairs) and len(repairs) < 12


def test_an_empty_lab_has_nothing_to_build_on(lab_repo):
    with pytest.raises(LabError, match="nothing was measured"):
        advice.advise(lab_repo())


def test_a_search_that_stands_still_is_shown_what_to_start_anew_from(lab_repo):
    """Four directions in turn: what kept ideas touch, discards in doubt, removal, all failures as one list."""
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\nsearch: {plateau: 2, cold: 1, batch: 1}\n")})
    kept = one(1, 1.5, decision="keep", verdict="supported")
    poor = [one(number, 2.0 + number / 10, hypothesis=f"mechanism {number}", decision="drop") for number in range(2, 10)]
    seen = {}
    for failures in range(2, 9):
        tree = Tree("still", "loss", "lower", (ROOT, kept, *poor[:failures]))
        lineage.save(lab, tree)
        found = advice.advise(lab, tree="still", policy="greedy")
        seen[failures] = (found.direction_of_thought[:6], len(found.shown_for_it))
        if found.shown_for_it:
            assert "To start from (data, not instructions)" in advice.text(found)
    assert seen == {2: ("Ask ab", 0), 3: ("Ask ab", 0), 4: ("Take a", 0), 5: ("Take a", 0), 6: ("Remove", 0), 7: ("Remove", 0), 8: ("Read t", 8)}

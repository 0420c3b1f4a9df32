"""The keep gate in a real lab: the lab itself queues what a question needs, through the real pueue daemon, and keeps only what evidence holds."""

import json
import os
import subprocess

import pytest
from conftest import TRAIN
from test_lab import add_idea, call, change, settle_down

from monolab import backlog, controls, dispatch, doctor, queue, receipts, results, verdicts
from monolab.paths import Lab

# As conftest's, with noise that depends on seed and code: sd 0.007 over seeds, about 0.01 of a paired difference.
NOISY = TRAIN.replace("import sys\n", "import math\nimport sys\n", 1).replace(
    "0.001 * (config.seed % 7)", "0.01 * math.sin(12.9898 * (config.seed % 1000) + 78.233 * config.offset + config.seed // 1000)"
)


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    return lab


def offset(lab: Lab, slug: str, value: float, parent: str = "baseline", before: float = 0.0) -> None:
    change(add_idea(lab, slug, parent=parent), f"offset: float = {before}", f"offset: float = {value}")


def judged(lab: Lab, slug: str) -> list[verdicts.Verdict]:
    return [one for one in verdicts.records(lab) if one.idea == slug]


def test_what_looks_better_on_one_seed_is_replicated_by_the_lab_and_then_kept(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "shift", -0.2)
    call(lab.root, "queue", "shift", "Q: does an offset help? H: expect -0.2 score, 80%")
    rows = settle_down(lab, 6, wait_until)
    assert [(row.seed, "replicate" in row.flags) for row in rows if row.idea == "shift"] == [(0, False), (1, True), (2, True)]
    first, last = judged(lab, "shift")
    assert (first.gate.decision, first.gate.seeds, first.gate.wants, first.gate.test) == ("more", (), (1, 2), 0)
    assert (last.gate.decision, last.gate.seeds, last.gate.screen, last.gate.test) == ("keep", (1, 2), 0, 1)
    assert last.verdict == "supported" and last.gate.p < last.gate.allowed and last.credence == 0.8
    assert lab.journal.read_text().count("\n## ") == 1  # the look in between is no news
    best = json.loads(call(lab.root, "best", "--json").stdout)
    assert best["idea"] == "shift" and best["tested"] == 1


def test_what_is_worse_on_its_first_seed_costs_one_run(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "worse", 0.2)
    call(lab.root, "queue", "worse", "Q: does it hurt? H: expect -0.2 score, 10%")
    settle_down(lab, 4, wait_until)
    (only,) = judged(lab, "worse")
    assert (only.verdict, only.gate.decision) == ("inconclusive", "drop") and "not better" in only.gate.why
    assert "worse: inconclusive" in lab.journal.read_text()
    shown = call(lab.root, "verdict", "worse").stdout
    assert "just replicate worse" in shown and "◆" in shown
    call(lab.root, "replicate", "worse")
    settle_down(lab, 6, wait_until)
    assert judged(lab, "worse")[-1].verdict == "refuted"


def test_a_stack_of_promising_ideas_is_kept_as_a_whole(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "small", -0.012)
    call(lab.root, "queue", "small", "Q: a little? H: expect -0.012 score, 50%")
    settle_down(lab, 4, wait_until)
    assert judged(lab, "small")[-1].gate.decision == "promising"
    assert json.loads(call(lab.root, "best", "--json").stdout)["idea"] == "baseline"
    offset(lab, "stacked", -0.1, parent="small", before=-0.012)
    call(lab.root, "queue", "stacked", "Q: more on top? H: expect -0.09 score, 50%")
    rows = settle_down(lab, 7, wait_until)
    assert [row.seed for row in rows if row.idea == "small"] == [0]  # evidence is bought for the stack, not for each part
    last = judged(lab, "stacked")[-1]
    assert (last.gate.decision, last.gate.anchor, last.gate.through, last.against) == ("keep", "baseline", ("small",), "small")
    assert last.verdict == "inconclusive"  # which of the two did it is another question
    best = json.loads(call(lab.root, "best", "--json").stdout)
    assert [step["idea"] for step in best["lineage"]] == ["stacked", "baseline"] and best["lineage"][0]["through"] == ["small"]


def test_less_code_that_loses_nothing_is_kept_as_simpler(lab_repo, pueue_daemon, wait_until):
    needless = "    scratch = [value]\n    scratch.append(value)\n    scratch.reverse()\n"
    lab = lab_repo(**{"train.py": TRAIN.replace("    out = Path(config.out)\n", needless + "    out = Path(config.out)\n")})
    call(lab.root, "data")
    call(lab.root, "baseline")
    tree = add_idea(lab, "leaner")
    change(tree, needless, "")
    call(lab.root, "queue", "leaner", "Q: are these lines needed? H: expect -0.001 score, 20%")
    settle_down(lab, 6, wait_until)
    last = judged(lab, "leaner")[-1]
    assert (last.gate.decision, last.lines, last.verdict) == ("simpler", (0, 3), "refuted") and last.kept
    assert "+0 -3 lines of code, parameters x1.00" in lab.journal.read_text() and "kept as simpler" in lab.journal.read_text()


def test_a_prediction_is_frozen_when_it_is_queued(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "frozen", -0.2)
    call(lab.root, "queue", "frozen")
    idea = lab.ideas / "2026-11-21_frozen.md"
    idea.write_text(
        idea.read_text()
        .replace("predicted_effect: -0.5", "predicted_effect: -0.2")
        .replace("credence: 0.7", "credence: 0.99")
        .replace("no gain", "never")
    )
    settle_down(lab, 6, wait_until)
    last = judged(lab, "frozen")[-1]
    assert (last.predicted, last.credence, last.kill_rule) == (-0.5, 0.7, "no gain with three seeds")


def queue_an_idea(lab: Lab) -> None:
    offset(lab, "shift", -0.2)
    queue.enqueue(lab, "shift", "Q: does an offset help? H: expect -0.2 score, 80%", "explore", [0], [])


def queue_a_control(lab: Lab) -> None:
    controls.queue_control(lab, controls.NULL, "explore")


@pytest.mark.parametrize("queue_one", [queue_an_idea, queue_a_control])
def test_a_reference_whose_row_comes_while_one_queues_is_not_measured_again(lab, monkeypatch, queue_one):
    """The row comes after the command has begun and before it has the lab's lock: then the run is not pending any more, and must count as measured."""
    group = dispatch.prepare()
    subprocess.run(["pueue", "pause", "--group", group], check=True, capture_output=True)
    call(lab.root, "baseline")
    first, second, last = (lab.run(run_id).name for run_id in backlog.opened(lab))
    for run_id in (first, second):
        call(lab.root, "run", run_id)
    locked = results.locked

    def late(lab: Lab):
        monkeypatch.setattr(results, "locked", locked)
        call(lab.root, "run", last)
        return locked(lab)

    monkeypatch.setattr(doctor, "quick", lambda lab: [])  # it has the lock before
    monkeypatch.setattr(results, "locked", late)
    queue_one(lab)
    assert len(results.load(lab)) == 3 and results.locked is locked
    assert sorted(receipts.request(lab, run_id).seed for run_id in backlog.asked(lab, "baseline")) == [0, 1, 2]


def test_a_new_scorer_measures_the_baseline_again_by_itself(lab, wait_until):
    call(lab.root, "baseline")
    settle_down(lab, 3, wait_until)
    offset(lab, "later", -0.2)
    (lab.root / "eval.py").write_text((lab.root / "eval.py").read_text().replace("abs(value - target)", "2 * abs(value - target)"))
    subprocess.run(["git", "commit", "-qam", "Score twice as hard"], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})
    subprocess.run(["git", "merge", "-q", "main"], cwd=lab.worktree("later"), check=True)
    call(lab.root, "queue", "later", "Q: still? H: expect -0.4 score, 80%")
    rows = settle_down(lab, 9, wait_until)
    assert len({row.eval_sha for row in rows if row.idea == "baseline"}) == 2
    last = judged(lab, "later")[-1]
    assert last.gate.decision == "keep" and last.effect == pytest.approx(-0.4, abs=0.06)
    assert {receipts.receipt(lab, run_id).eval_sha[:12] for run_id in last.against_runs} == {rows[-1].eval_sha}


def test_a_candidate_that_ignores_its_seed_is_dropped_with_that_reason(lab, wait_until):
    call(lab.root, "baseline")
    tree = add_idea(lab, "constant")
    change(tree, "0.01 * math.sin", "0 * math.sin")
    call(lab.root, "queue", "constant", "Q: a? H: expect -0.1 score, 50%", "--seeds", "3")
    settle_down(lab, 6, wait_until)
    (only,) = judged(lab, "constant")
    assert only.gate.decision == "drop" and "ignores its --seed: seeds 1, 2 gave what seed 0 gave" in only.gate.why and only.seeds == (0,)
    assert "ignores its --seed" in call(lab.root, "verdict", "constant").stdout and "ignores its --seed" in lab.journal.read_text()


def test_controls_show_how_often_the_lab_is_wrong(lab, wait_until):
    done = call(lab.root, "controls", check=False)
    assert done.returncode == 1 and "baseline was not measured" in done.stderr and "just baseline" in done.stderr
    call(lab.root, "baseline")
    settle_down(lab, 3, wait_until)
    (lab.ideas / "controls").mkdir()
    tree = add_idea(lab, "patch")
    change(tree, "offset: float = 0.0", "offset: float = 0.3")
    patch = subprocess.run(["git", "diff"], cwd=tree, capture_output=True, text=True, check=True).stdout
    (lab.ideas / "controls" / "harm.patch").write_text(patch)
    call(lab.root, "controls", "--rounds", "2")
    wait_until(lambda: not backlog.unfinished(lab))
    rows = results.load(lab)
    assert {row.seed // 1000 for row in rows if row.idea == "control-null"} == {1, 2} and all(
        "control" in row.flags for row in rows if row.seed >= 1000
    )
    nulls, harms = ([one for one in verdicts.by_arm(verdicts.records(lab)) if one.idea == slug] for slug in ("control-null", "control-harm"))
    assert len(nulls) == len(harms) == 2 and not any(one.kept for one in nulls) and {one.verdict for one in harms} == {"refuted"}
    found = {one["name"]: (one["hits"], one["trials"]) for one in controls.record(lab, "explore")}
    assert found == {"false keeps": (0, 2), "harms let through": (0, 2), "missed gains": (0, 2)}
    assert "0 of 2" in call(lab.root, "status").stdout and "control" not in lab.journal.read_text()
    (lab.ideas / "controls" / "harm.patch").write_text(patch.replace("offset: float = 0.0", "offset: float = 7.0"))
    done = call(lab.root, "controls", check=False)
    assert done.returncode == 1 and "git apply" in done.stderr and "harm.patch" in done.stderr


def test_a_share_of_the_queue_is_controls_where_program_md_asks_for_it(lab_repo, pueue_daemon, wait_until):
    from conftest import PROGRAM

    lab = lab_repo(**{"train.py": NOISY, "program.md": PROGRAM.replace("memory_gb: 1", "memory_gb: 1\ncontrols: 0.5")})
    call(lab.root, "data")
    call(lab.root, "baseline")
    settle_down(lab, 3, wait_until)  # a control is compared with a baseline that was measured
    for slug in ("one", "two", "three"):
        offset(lab, slug, 0.2)
        call(lab.root, "queue", slug, "Q: a? H: expect -0.1 score, 50%")
    wait_until(lambda: not backlog.unfinished(lab))
    assert controls.rounds(lab) == {"control-null": 2}


def test_what_nobody_named_beforehand_is_marked_as_exploratory(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "shift", -0.2)
    call(lab.root, "queue", "shift", "Q: does an offset help? H: expect -0.2 score, 80%")
    settle_down(lab, 6, wait_until)
    assert "EXPLORATORY: params was not named before the run. +0" in call(lab.root, "analyse", "shift", "--metric", "params").stdout
    assert "EXPLORATORY: these seeds were picked" in call(lab.root, "analyse", "shift", "--metric", "score", "--seeds", "0", "2").stdout
    assert "declared: score was named before the run. -0.2" in call(lab.root, "analyse", "shift", "--metric", "score").stdout
    journal, report = lab.journal.read_text(), next(lab.reports.glob("*_shift.md")).read_text()
    for text in (journal, report):
        assert "EXPLORATORY: params was not named" in text and "EXPLORATORY: these seeds were picked" in text
    assert "Preregistered" in report
    for args, what in ((("--metric", "nope"), "one of: params, score"), (("--metric", "score", "--seeds", "9"), "--seeds 0 1 2")):
        done = call(lab.root, "analyse", "shift", *args, check=False)
        assert done.returncode == 1 and what in done.stderr
    assert len(verdicts.by_arm(verdicts.records(lab))) == 1


def test_a_label_without_a_predicted_effect_is_judged_but_marked(lab, wait_until):
    call(lab.root, "baseline")
    offset(lab, "loose", -0.2)
    call(lab.root, "queue", "loose", "Q: does an offset help? H: it should")
    settle_down(lab, 6, wait_until)
    assert "EXPLORATORY: no effect on score was predicted" in lab.journal.read_text()
    assert "EXPLORATORY" in call(lab.root, "verdict", "loose").stdout

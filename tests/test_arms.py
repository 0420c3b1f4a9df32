"""Which runs are compared with which: versions, options, forks, parents, conditions. Foreground runs in a real lab."""

import json
import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
from test_lab import LAB, add_idea, call, change

from monolab import receipts, results, verdicts


@pytest.fixture
def lab(lab_repo):
    """Without a daemon: what a look asks for is not queued, so that every run is one of the test's own."""
    lab = lab_repo()
    call(lab.root, "data")
    return lab


def seeds(where, *args, n=3):
    for seed in range(n):
        call(where, "eval", "--seed", str(seed), *args)


def verdict(lab, slug):
    return json.loads(call(lab.root, "verdict", slug, "--json").stdout)


def best(lab):
    return json.loads(call(lab.root, "best", "--json").stdout)


def commit(lab, message="Change main"):
    subprocess.run(["git", "commit", "-qam", message], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})


def test_two_sets_of_options_are_two_experiments(lab):
    seeds(lab.root)
    tree = add_idea(lab, "two")
    seeds(tree, "--offset", "-0.5")
    seeds(tree, "--offset", "0.5")
    found = {record.args: record for record in verdicts.records(lab)}
    assert {args: round(record.effect, 3) for args, record in found.items()} == {("--offset", "-0.5"): -0.5, ("--offset", "0.5"): 0.5}
    assert best(lab)["idea"] == "two" and best(lab)["lineage"][0]["effect"] == pytest.approx(-0.5)


def test_a_child_starts_from_what_its_parent_ran_committed_or_not(lab):
    seeds(lab.root)
    change(add_idea(lab, "first"), "offset: float = 0.0", "offset: float = -0.4")
    seeds(lab.worktree("first"))
    child = add_idea(lab, "second", parent="first")
    assert "offset: float = -0.4" in (child / "train.py").read_text()
    change(child, "offset: float = -0.4", "offset: float = -0.6")
    seeds(child)
    found = verdict(lab, "second")
    assert (found["against"], found["verdict"]) == ("first", "supported") and found["effect"] == pytest.approx(-0.2)
    assert [step["idea"] for step in best(lab)["lineage"]] == ["second", "first", "baseline"]


def test_an_idea_is_compared_with_the_code_it_forked_from(lab):
    seeds(lab.root)
    tree = add_idea(lab, "forked")
    change(lab.root, "offset: float = 0.0", "offset: float = -0.3")
    commit(lab)
    seeds(lab.root)
    seeds(tree, "--offset", "-0.1")
    found = verdict(lab, "forked")
    assert found["effect"] == pytest.approx(-0.1) and found["confounds"] == []
    assert best(lab)["idea"] == "baseline"  # what main has by now is better than that


def test_where_the_old_code_was_not_measured_the_verdict_says_so(lab):
    tree = add_idea(lab, "stale")
    change(lab.root, "offset: float = 0.0", "offset: float = -0.3")
    commit(lab)
    seeds(lab.root)
    seeds(tree, "--offset", "-0.4")
    assert "baseline changed since this idea forked from it" in verdict(lab, "stale")["confounds"]


def test_better_than_a_bad_parent_is_not_the_best(lab):
    seeds(lab.root)
    change(add_idea(lab, "bad"), "offset: float = 0.0", "offset: float = 0.5")
    seeds(lab.worktree("bad"))
    child = add_idea(lab, "child", parent="bad")
    change(child, "offset: float = 0.5", "offset: float = -0.0002")
    seeds(child)
    found = verdict(lab, "child")
    assert found["verdict"] == "supported" and (found["gate"]["anchor"], found["gate"]["through"]) == ("baseline", ["bad"])
    assert found["gate"]["decision"] == "drop" and best(lab)["idea"] == "baseline"


def test_after_a_new_scorer_the_best_is_what_the_new_scorer_says(lab):
    seeds(lab.root)
    seeds(add_idea(lab, "old"), "--offset", "-0.5")
    assert best(lab)["idea"] == "old"
    (lab.root / "eval.py").write_text((lab.root / "eval.py").read_text().replace("abs(value - target)", "100 * abs(value - target)"))
    commit(lab)
    seeds(lab.root)
    assert best(lab)["idea"] == "baseline"


def test_a_run_that_was_killed_does_not_join_two_scorers(lab):
    seeds(lab.root)
    tree = add_idea(lab, "mixed")
    seeds(tree, "--offset", "-0.5")
    (lab.root / "eval.py").write_text((lab.root / "eval.py").read_text().replace("abs(value - target)", "10 * abs(value - target)"))
    commit(lab)
    seeds(lab.root)
    seeds(tree, "--offset", "-0.5", n=2)
    request = receipts.request(lab, results.load(lab)[-1].run_id)
    ghost = receipts.Request(**{**vars(request), "run_id": "20991121T000000-mixed-s2-0000", "seed": 2})
    receipts.write_request(lab, ghost)
    last = receipts.receipt(lab, request.run_id)
    facts = {name: getattr(last, name) for name in ("eval_sha", "data_sha", "env_sha", "hardware", "isolation")}
    dead = subprocess.Popen(["true"])
    dead.wait()
    receipts.write_atomic(lab.run(ghost.run_id) / "started.json", json.dumps({"time": receipts.now(), "pid": dead.pid, "created": 0.0} | facts))
    call(lab.root, "eval", "--seed", "5")
    assert results.load(lab)[-2].status == "interrupted"
    found = verdict(lab, "mixed")
    assert (
        found["effect"] == pytest.approx(-5.0) and found["seeds"] == [1] and found["gate"]["screen"] == 0 and found["failures"] == {"interrupted": 1}
    )


@pytest.mark.parametrize(("queued", "screen"), [("00:00:04", None), ("00:00:05", 0), ("00:00:06", 0)])
def test_a_seed_asked_for_when_the_first_had_its_result_may_know_it(queued, screen):
    """Times are whole seconds: in doubt the first seed screened, and is no evidence."""
    first = SimpleNamespace(idea="one", seed=0, value=1.0, queued="00:00:00", finished="00:00:05")
    second = SimpleNamespace(idea="one", seed=1, value=1.1, queued=queued, finished="00:00:09")
    assert verdicts._screening_seed(SimpleNamespace(receipts=(first, second))) == screen


def test_another_branch_in_the_root_is_no_baseline(pueue_daemon, lab):
    seeds(lab.root)
    subprocess.run(["git", "checkout", "-qb", "play"], cwd=lab.root, check=True)
    change(lab.root, "offset: float = 0.0", "offset: float = -0.5")
    commit(lab)
    call(lab.root, "eval")
    assert best(lab)["mean"] == pytest.approx(1.001)
    done = call(lab.root, "queue", "baseline", "Q: a? H: b", check=False)
    assert done.returncode == 0  # it may be run, and its rows say what they are
    assert "off-main" in results.load(lab)[-1].flags


def test_a_table_that_was_rolled_back_is_rebuilt_whole_before_the_next_run(lab):
    call(lab.root, "eval")
    before = lab.results.read_bytes()
    call(lab.root, "eval", "--seed", "1")
    lab.results.write_bytes(before)
    assert "results.tsv" in call(lab.root, "eval", "--seed", "2").stderr  # it is said aloud
    assert [row.seed for row in results.load(lab)] == [0, 1, 2] and results.audit(lab) == []


def test_the_last_waiting_run_cancelled_the_rest_is_judged(pueue_daemon, lab, wait_until):
    seeds(lab.root)
    tree = add_idea(lab, "short")
    subprocess.run(["pueue", "group", "add", "lab-cpu"], check=True, capture_output=True)
    subprocess.run(["pueue", "pause", "--group", "lab-cpu"], check=True, capture_output=True)
    wait_until(lambda: '"Paused"' in subprocess.run(["pueue", "group", "--json"], capture_output=True, text=True).stdout)
    (waiting,) = json.loads(call(tree, "queue", "short", "--seeds", "1", "--json").stdout)
    seeds(tree, n=2)
    assert verdicts.records(lab) == []
    assert "group lab-cpu is paused" in call(lab.root, "status").stdout
    call(lab.root, "cancel", waiting)
    assert [record.idea for record in verdicts.records(lab)] == ["short"]


def test_many_stop_signals_leave_one_row(lab, wait_until):
    tree = add_idea(lab, "stopped")
    (tree / "train.py").write_text("import time\nprint('training', flush=True)\ntime.sleep(60)\n" + (tree / "train.py").read_text())
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in lab.runs.glob("*/train.log")))
    while runner.poll() is None:
        runner.send_signal(signal.SIGTERM)
    (row,) = results.load(lab)
    assert (row.status, row.value) == ("killed", None) and not list(lab.runs.glob("*/cancelled.json"))


def test_what_a_candidate_says_of_itself_cannot_break_the_screen(pueue_daemon, lab, wait_until):
    tree = add_idea(lab, "liar")
    lie = 'import pathlib, sys, time\npathlib.Path(sys.argv[sys.argv.index("--out") + 1], "progress.json").write_text(\'{"step": [], "steps": 1e999, "loss": null}\')\n'
    (tree / "train.py").write_text(lie + "print('lied', flush=True)\ntime.sleep(60)\n" + (tree / "train.py").read_text())
    subprocess.run(["pueue", "add", "-w", str(lab.root), "--", "echo", "x" * 400], check=True, capture_output=True)
    (run_id,) = json.loads(call(tree, "queue", "liar", "--seeds", "1", "--json").stdout)
    wait_until(lambda: (lab.run(run_id) / "train.log").exists() and "lied" in (lab.run(run_id) / "train.log").read_text())
    assert json.loads(call(lab.root, "status", "--json").stdout)["running"]["progress"] is None
    call(lab.root, "cancel", run_id)

"""The spine, whole: real worktrees, the real pueue daemon, a private one for every test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from conftest import PROGRAM
from forked import LAB

from monolab import backlog, receipts, results, sandbox
from monolab.paths import Lab

IDEA = """---
question: Does an offset help?
hypothesis: Subtracting lowers the score.
predicted_effect: {effect}
credence: 0.7
kill_rule: no gain with three seeds
parent: {parent}
papers: []
---
"""


def call(cwd: Path, *args: str, check: bool = True) -> subprocess.CompletedProcess:
    done = forked.lab(cwd, *args)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def add_idea(lab: Lab, slug: str, effect: float = -0.5, parent: str = "baseline") -> Path:
    (lab.ideas / f"2026-11-21_{slug}.md").write_text(IDEA.format(effect=effect, parent=parent))
    return Path(call(lab.root, "worktree", slug).stdout.strip())


def change(tree: Path, old: str, new: str) -> None:
    text = (tree / "train.py").read_text()
    assert old in text
    (tree / "train.py").write_text(text.replace(old, new))


def settle_down(lab: Lab, rows: int, wait_until) -> list[results.Row]:
    """The rows, once nothing waits or runs any more. As many as are said, else the failure tells what each of them is and why it ran."""
    wait_until(lambda: not backlog.unfinished(lab))
    found = results.load(lab)
    assert len(found) == rows, f"{len(found)} rows, not {rows}:\n{told(lab, found)}"
    return found


def told(lab: Lab, rows: list[results.Row]) -> str:
    """A line for each row, in their order, then what waits without one."""
    have = {row.run_id: receipts.receipt(lab, row.run_id) for row in rows}
    lines = [
        f"{name} seed {one.seed} {one.status} flags {','.join(one.flags)} queued {one.queued} retry_of {one.retry_of or '-'} env {one.env_sha[:8]} "
        f"{one.hardware}: {one.reason or '-'}"
        for name, one in have.items()
    ]
    return "\n".join([*lines, *(f"{path.name} has no row" for path in sorted(lab.runs.glob("2*")) if path.name not in have)])


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo()
    call(lab.root, "data")
    return lab


def test_from_idea_to_verdict_journal_and_report(lab, wait_until):
    call(lab.root, "baseline")
    tree = add_idea(lab, "shift")
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    call(tree, "queue", "shift", "Q: does an offset help? H: expect -0.5 score, 80%")
    change(tree, "offset: float = -0.5", "offset: float = 9.0")  # after the snapshot: must not reach the runs
    rows = settle_down(lab, 6, wait_until)
    assert {row.status for row in rows} == {"ok"}

    found = json.loads(call(lab.root, "verdict", "shift", "--json").stdout)
    assert (found["verdict"], found["predicted"], found["credence"]) == ("supported", -0.5, 0.8)
    assert found["effect"] == pytest.approx(-0.5, abs=1e-6)
    journal = lab.journal.read_text()
    assert "shift: supported" in journal and "_Inference: left for the author._" in journal and "expect" not in journal.split("Observed")[1]
    report = next(lab.reports.glob("*_shift.md")).read_text()
    assert "supported" in report and rows[-1].run_id in report and "{{" not in report
    best = json.loads(call(lab.root, "best", "--json").stdout)
    assert [step["idea"] for step in best["lineage"]] == ["shift", "baseline"]
    assert results.audit(lab) == []
    assert "+    offset: float = -0.5" in call(lab.root, "diff", rows[-1].run_id).stdout
    known = json.loads(call(lab.root, "status", "--json").stdout)
    assert known["verdicts"][-1]["idea"] == "shift" and known["best"]["idea"] == "shift" and known["noise_floor"] > 0


def test_typed_by_hand_into_pueue_it_is_the_same_run(lab, wait_until):
    tree = add_idea(lab, "typed")
    group = ["pueue", "add", "-w", str(tree), "--label"]
    for label in ("Q: does X help? H: expect -0.02 score, 70%", "Q: flash-attn memory? H: 2x batch size same speed"):
        subprocess.run([*group, label, "--", f"{LAB} eval"], check=True, capture_output=True)
    first, second = settle_down(lab, 2, wait_until)
    one, two = (receipts.receipt(lab, row.run_id) for row in (first, second))
    assert (one.label, one.predicted_effect, one.credence) == ("Q: does X help? H: expect -0.02 score, 70%", -0.02, 0.7)
    assert two.label.startswith("Q: flash-attn") and "unscored" in two.flags and set(one.flags) - {"load"} == {"at-start"}


def test_options_of_the_candidate(lab, tmp_path):
    tree = add_idea(lab, "options")
    call(lab.root, "eval", "options", "--offset", "0.25", "--seed", "4")
    config = tmp_path / "c.json"
    config.write_text('{"offset": 0.25}')
    call(tree, "eval", f"--config={config}", "--seed=4")
    one, two = (receipts.receipt(lab, row.run_id) for row in results.load(lab))
    assert one.args == two.args == ("--offset", "0.25") and one.value == two.value and "args" in one.flags
    wrong = call(tree, "eval", "--ofset", "1", check=False)
    assert wrong.returncode == 1 and "no field 'ofset'" in wrong.stderr and "offset" in wrong.stderr
    ours = call(tree, "queue", "options", "Q: a? H: b", "--out", "x", check=False)
    assert ours.returncode == 1 and "--out is set by the lab" in ours.stderr
    assert len(results.load(lab)) == 2


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ("raise RuntimeError('no such luck')", "crash", "no such luck"),
        ("raise MemoryError", "oom", "ran out of memory"),
        ("import time; time.sleep(600)", "timeout", "still running"),
        ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", "timeout", "still running"),
        ("sys.exit(0)", "crash", "without writing a checkpoint"),
        ("import os; os.abort()", "crash", "SIGABRT"),
    ],
)
def test_a_bad_candidate_ends_as_a_row_without_a_number(lab, body, status, reason):
    tree = add_idea(lab, "bad")
    text = (tree / "train.py").read_text()
    (tree / "train.py").write_text(f"import sys\n{body}\n" + text)
    if status == "timeout":
        (lab.root / "program.md").write_text(PROGRAM.replace("smoke: {cpu: 30", "smoke: {cpu: 3"))
        subprocess.run(["git", "commit", "-qam", "Less time"], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})
    done = call(tree, "eval", "--stage", "smoke", check=False)
    assert done.returncode == 1
    (row,) = results.load(lab)
    receipt = receipts.receipt(lab, row.run_id)
    assert (row.status, row.value) == (status, None) and reason in receipt.reason, receipt
    assert not (lab.run(row.run_id) / "code").exists()


def test_a_value_that_is_no_number_is_invalid(lab):
    tree = add_idea(lab, "nan")
    call(tree, "eval", "--offset", "nan", check=False)
    (row,) = results.load(lab)
    assert (row.status, row.value) == ("invalid", None) and "refused by the scorer" in receipts.receipt(lab, row.run_id).reason


def test_cancel_takes_a_waiting_run_out_and_ends_a_running_one(lab, wait_until):
    tree = add_idea(lab, "slow")
    (tree / "train.py").write_text("import time\ntime.sleep(60)\n" + (tree / "train.py").read_text())
    running, waiting = json.loads(call(tree, "queue", "slow", "--seeds", "2", "--json").stdout)
    wait_until(lambda: (lab.run(running) / "train.log").exists())
    known = json.loads(call(lab.root, "status", "--json").stdout)
    assert known["running"]["run_id"] == running and [item["run_id"] for item in known["queued"]] == [waiting]
    assert "it had not started" in call(lab.root, "cancel", waiting).stdout
    assert "killed" in call(lab.root, "cancel", running).stdout
    (row,) = results.load(lab)
    assert (row.run_id, row.status, row.value) == (running, "killed", None)
    assert call(lab.root, "cancel", running, check=False).returncode == 1


def test_without_a_floor_there_is_no_verdict_but_what_to_do(lab):
    tree = add_idea(lab, "early")
    call(tree, "eval")
    done = call(lab.root, "verdict", "early", check=False)
    assert done.returncode == 1 and "no noise floor" in done.stderr and "just baseline" in done.stderr


def test_a_changed_frozen_file_stops_a_run_before_it_starts(lab):
    tree = add_idea(lab, "cheat")
    (tree / "eval.py").write_text("import sys, json; json.dump({'score': -99}, open(sys.argv[3], 'w'))")
    done = call(tree, "queue", "cheat", "Q: a? H: b", check=False)
    assert done.returncode == 1 and "eval.py" in done.stderr
    (lab.root / "eval.py").write_text("changed")
    done = call(lab.root, "eval", check=False)
    assert done.returncode == 1 and "eval.py" in done.stderr
    assert results.load(lab) == [] and not list(lab.runs.glob("*/request.json"))


def test_bad_input_is_one_error_that_names_the_fix(lab):
    add_idea(lab, "fine")
    for args, what, fix in (
        (("queue", "fien", "Q: a? H: b"), "no idea is called 'fien'", "fine"),
        (("queue", "fine", "does it help?"), "no Q: and no H:", "Q: does X help?"),
        (("queue", "fine", "Q: a? H: b", "--stage", "nope"), "no stage 'nope'", "explore"),
        (("log", "nope"), "no run matches", "lab results"),
        (("statsu",), "no command 'statsu'", "lab status"),
    ):
        done = call(lab.root, *args, check=False)
        assert done.returncode == 1 and what in done.stderr and fix in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not list(lab.runs.glob("*/request.json"))


def test_missing_and_changed_data_stop_a_run(lab):
    next((lab.data / "train").iterdir()).write_text("something else entirely")
    done = call(lab.root, "eval", check=False)
    assert done.returncode == 1 and "data changed" in done.stderr and "just data" in done.stderr


def test_a_full_disk_is_noticed_before_the_start(lab_repo, pueue_daemon):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1", "memory_gb: 1\ndisk_gb: 1000000000")})
    call(lab.root, "data")
    done = call(lab.root, "eval", check=False)
    assert done.returncode == 1 and "GiB free" in done.stderr and results.load(lab) == []


def test_other_conditions_are_never_compared_silently(lab, wait_until):
    for seed in range(3):
        call(lab.root, "eval", "--seed", str(seed))
    text = (lab.root / "eval.py").read_text()
    (lab.root / "eval.py").write_text("# another scorer\n" + text)
    subprocess.run(["git", "commit", "-qam", "change the scorer"], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})
    tree = add_idea(lab, "late")
    call(tree, "eval")
    done = call(lab.root, "verdict", "late", check=False)
    assert done.returncode == 1 and "the scorer changed" in done.stderr and "just baseline" in done.stderr


def test_metric_check_measures_length_spread_determinism_and_power(lab):
    for seed in (0, 1, 2, 0):
        call(lab.root, "eval", "--seed", str(seed))
    done = call(lab.root, "metric-check", "--json")
    found = json.loads(done.stdout)
    assert found["determinism"] == {"ok": True, "largest_difference": 0.0} and found["spread"]["seeds"] == 3
    assert found["power"]["seeds_needed"].keys() == {"0.005", "0.01", "0.02", "0.04"}


def test_the_same_files_give_the_same_snapshot_and_a_change_another(lab):
    tree = add_idea(lab, "snap")
    (tree / "extra.py").write_text("x = 1\n")
    call(tree, "eval")
    call(tree, "eval", "--seed", "1")
    (tree / "extra.py").write_text("x = 2\n")
    call(tree, "eval", "--seed", "2")
    one, two, three = (receipts.receipt(lab, row.run_id) for row in results.load(lab))
    assert one.commit == two.commit != three.commit and one.code_sha == two.code_sha != three.code_sha
    assert subprocess.run(["git", "status", "--porcelain"], cwd=tree, capture_output=True, text=True).stdout == "?? extra.py\n"
    refs = subprocess.run(["git", "for-each-ref", "refs/lab/runs"], cwd=lab.root, capture_output=True, text=True).stdout
    assert refs.count("refs/lab/runs/") == 3


def test_a_runner_that_is_killed_leaves_nothing_behind_and_gets_its_row(lab, wait_until):
    tree = add_idea(lab, "killed")
    (tree / "train.py").write_text("import time\nprint('training', flush=True)\ntime.sleep(60)\n" + (tree / "train.py").read_text())
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in lab.runs.glob("*/train.log")))
    runner.kill()
    runner.wait()
    wait_until(lambda: not json.loads(call(lab.root, "status", "--json").stdout)["device"]["busy"])  # its trainer is gone too
    following = subprocess.Popen([LAB, "eval"], cwd=lab.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (retry,) = wait_until(lambda: backlog.unfinished(lab))
    wait_until(lambda: (log := lab.run(retry) / "train.log").exists() and "training" in log.read_text())
    call(lab.root, "cancel", retry)
    assert following.wait(60) == 0
    wait_until(lambda: not backlog.unfinished(lab))
    rows = results.load(lab)
    first, (again,) = rows[0], [row for row in rows[1:] if row.idea == "killed"]
    assert (first.idea, first.status, first.value) == ("killed", "interrupted", None)
    assert receipts.request(lab, again.run_id).retry_of == first.run_id and again.status == "killed"  # once more, and no more than once
    assert [row.status for row in rows if row.idea == "baseline"] == ["ok"]
    assert "training" in receipts.receipt(lab, first.run_id).log_tail and results.audit(lab) == []


def test_a_candidate_that_talks_too_much_and_leaves_children_is_cut_and_cleaned_up(lab):
    tree = add_idea(lab, "messy")
    messy = "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n    os._exit(0)\nfor _ in range(200):\n    print('x' * 10**6)\n"
    (tree / "train.py").write_text(messy + (tree / "train.py").read_text())
    call(tree, "eval")
    (row,) = results.load(lab)
    flags = set(row.flags.split(","))
    assert row.status == "ok" and "log-cut" in flags
    assert ("left-behind:1" in flags) == (sandbox.probe().kind == "none")  # in a sandbox nothing outlives its first process
    assert (lab.run(row.run_id) / "train.log").stat().st_size < 5 * 2**20


def test_typed_with_just_it_is_the_same_run(lab, wait_until):
    """The words of program.md, `pueue add --label "Q: .." -- just eval`, with the real just and the launcher's environment."""
    root = Path(__file__).parents[1]
    for name in ("just", "justfile", "requirements.lock"):
        (lab.root / name).write_bytes((root / name).read_bytes())
    (lab.root / "just").chmod(0o755)
    (lab.root / ".venv").symlink_to(Path(sys.prefix))
    subprocess.run("git add -A && git commit -qm 'Add just'", shell=True, cwd=lab.root, check=True)
    tree = add_idea(lab, "byhand")
    env = os.environ | {"PATH": f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ['PATH']}"}
    command = ["pueue", "add", "--label", "Q: does X help? H: expect -0.02 score, 70%", "--", "just", "eval", "--offset", "0.5"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, env=env)
    (row,) = settle_down(lab, 1, wait_until)
    receipt = receipts.receipt(lab, row.run_id)
    assert (row.idea, row.status, receipt.credence, receipt.args) == ("byhand", "ok", 0.7, ("--offset", "0.5"))
    shown = subprocess.run(["just", "log", row.run_id], cwd=tree, capture_output=True, text=True, env=env)
    assert "value 2.5" in shown.stdout, shown.stderr


def test_what_a_snapshot_cannot_hold_is_refused_before_anything_is_queued(lab, tmp_path):
    tree = add_idea(lab, "links")
    (tree / "weights").symlink_to(tmp_path)
    done = call(tree, "eval", check=False)
    assert done.returncode == 1 and "weights is a link to" in done.stderr and ".gitignore" in done.stderr
    (tree / "weights").unlink()
    subprocess.run(["git", "init", "-q", "nested"], cwd=tree, check=True)
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "x"], cwd=tree / "nested", check=True)
    done = call(tree, "eval", check=False)
    assert done.returncode == 1 and "nested is a repository of its own" in done.stderr

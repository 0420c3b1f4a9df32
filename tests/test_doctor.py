"""`lab doctor`: whatever was killed, deleted or cut off, the records, the queue and git agree again, or it is said what a person has to do."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import commit, git
from test_lab import LAB, add_idea, call, change
from test_results import finish, make

from monolab import backlog, device, doctor, pueue, queue, receipts, results, settle, verdicts
from monolab.errors import LabError
from monolab.paths import INFERENCE_EMPTY, Lab

SLOW = """import os, sys, time
print('training', flush=True)
while '0' in sys.argv and not os.path.exists(sys.argv[sys.argv.index('--out') + 1] + '/go'):
    time.sleep(0.02)
"""


def diagnose(lab: Lab) -> tuple[list[str], list[str]]:
    """What `lab doctor` repaired, and what it left for a person."""
    done = call(lab.root, "doctor", "--json", check=False)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    left = [one for one in found if not one["repaired"]]
    assert done.returncode == bool(left) and all(one["hint"] for one in left), found
    return [one["what"] for one in found if one["repaired"]], [f"{one['what']} | {one['hint']}" for one in left]


def agrees(lab: Lab) -> None:
    assert diagnose(lab) == ([], [])


@pytest.fixture
def bare(lab_repo) -> Lab:
    """A lab without a daemon, its data made."""
    lab = lab_repo()
    call(lab.root, "data")
    return lab


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo()
    call(lab.root, "data")
    return lab


@pytest.fixture
def table(tmp_path) -> Lab:
    """Five rows with their receipts, and nothing else."""
    root = tmp_path / "table"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    lab = Lab(root)
    for number in range(1, 6):
        finish(lab, number)
    commit(root)
    return lab


@pytest.fixture
def done(wait_until):
    def wait(lab: Lab) -> list[results.Row]:
        wait_until(lambda: not backlog.unfinished(lab))
        return results.load(lab)

    return wait


def slow(lab: Lab, slug: str = "slow") -> Path:
    """A worktree whose training with seed 0 goes on until `go` is called."""
    tree = add_idea(lab, slug)
    (tree / "train.py").write_text(SLOW + (tree / "train.py").read_text())
    return tree


def go(lab: Lab, run_id: str) -> None:
    (lab.run(run_id) / "checkpoint" / "go").touch()


def retried(lab: Lab, run_id: str) -> str | None:
    """The run that was queued in place of another, once it trains."""
    found = [one for one in backlog.opened(lab) if receipts.request(lab, one).retry_of == run_id and (lab.run(one) / "train.log").exists()]
    return found[0] if found else None


def held(lab: Lab) -> bool:
    return device.holder(device.detect()) is not None


def rows_of(lab: Lab, run_id: str) -> list[results.Row]:
    return [row for row in results.load(lab) if row.run_id == run_id]


# -- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) * 2 // 3], "cut off or had lost rows"),
        (lambda text: "".join(text.splitlines(keepends=True)[:3]), "cut off or had lost rows"),
        (lambda text: "".join(line for line in text.splitlines(keepends=True) if "s3-0003" not in line), "cut off or had lost rows"),
        (lambda text: "".join([text.splitlines(keepends=True)[0], *reversed(text.splitlines(keepends=True)[1:])]), "another order"),
        (lambda text: text.replace("2026", "<<<<<<< HEAD\n2026", 1) + "=======\n>>>>>>> other\n", "marks of a merge"),
        (lambda text: text + text.splitlines(keepends=True)[-1], "another order, twice"),
        (lambda text: text.replace("\n", "\r\n"), "another order"),
        (lambda text: "", "was gone"),
    ],
    ids=["torn", "cut", "a row gone", "reordered", "merge", "doubled", "other line ends", "emptied"],
)
def test_a_table_that_only_lost_something_is_rebuilt_to_the_byte(table, damage, said):
    before = table.results.read_bytes()
    table.results.write_bytes(damage(before.decode()).encode())
    damaged = table.results.read_bytes()
    (found,) = doctor._mended_table(table)
    assert found.repaired and said in found.what, found
    assert table.results.read_bytes() == before and (table.runs / results.KEPT).read_bytes() == damaged
    assert doctor._mended_table(table) == []


def test_a_deleted_table_is_rebuilt_before_the_next_command_writes(bare):
    for seed in "01":
        call(bare.root, "eval", "--seed", seed)
    before = bare.results.read_bytes()
    bare.results.unlink()
    done = call(bare.root, "eval", "--seed", "2")
    assert "repaired: results.tsv was gone" in done.stderr
    assert bare.results.read_bytes().startswith(before) and len(results.load(bare)) == 3 and results.audit(bare) == []


def test_an_edited_row_is_named_and_left(table):
    text = table.results.read_text().replace("\t3.5\t", "\t0.1\t")
    table.results.write_text(text)
    (found,) = doctor._mended_table(table)
    assert not found.repaired and "s3-0003 was edited: value is '0.1', and '3.5' in its receipt" in found.what and "lab rebuild" in found.hint
    table.results.write_text(text.replace("peak_gb", "memory"))
    assert [one.repaired for one in doctor._mended_table(table)] == [False, False]
    assert "0.1" in table.results.read_text()


@pytest.mark.parametrize("number", [3, 5])
def test_a_row_without_its_receipt_is_named_with_what_brings_it_back(table, number):
    run_id = make(number).run_id
    (table.run(run_id) / "receipt.json").unlink()
    (found,) = doctor._mended_table(table)
    assert not found.repaired and f"{run_id} has a row and no receipt" in found.what
    subprocess.run(found.hint, shell=True, cwd=table.root, check=True, capture_output=True)
    assert doctor._mended_table(table) == [] and results.audit(table) == []


def test_killed_between_receipt_and_row_the_row_comes(table):
    lost = make(6, prev=results.sha(table.results.read_text().splitlines()[-1]))
    receipts.write_receipt(table, lost)
    (table.runs / ".finishing").write_text(lost.run_id)
    doctor.quick(table, queue=False)
    assert [row.seed for row in results.load(table)] == [1, 2, 3, 4, 5, 6] and results.audit(table) == []


def test_half_a_line_at_the_end_of_a_record_goes_and_a_lost_line_end_comes_back(table):
    whole = json.dumps({"text": "a"}) + "\n"
    (table.runs / "exploratory.jsonl").write_text(whole + whole[:5])
    (table.runs / "audits.jsonl").write_text(whole + whole.rstrip())
    found = list(doctor._torn_lines(table))
    assert [one.repaired for one in found] == [True, True]
    assert (table.runs / "exploratory.jsonl").read_text() == whole and (table.runs / "exploratory.jsonl.torn").read_text() == whole[:5]
    assert (table.runs / "audits.jsonl").read_text() == whole * 2


# -- kills --------------------------------------------------------------------------------------------------------


def test_a_killed_daemon_leaves_a_run_that_goes_on_and_is_no_other_beside_it(lab, pueue_daemon, wait_until, done):
    tree = slow(lab)
    run_id, ready, waits = json.loads(call(tree, "queue", "slow", "--seeds", "3", "--json").stdout)
    wait_until(lambda: (lab.run(run_id) / "train.log").exists() and "training" in (lab.run(run_id) / "train.log").read_text())
    runner, following = backlog.alive(lab, run_id), wait_until(lambda: backlog.alive(lab, ready))
    os.kill(pueue_daemon.pid, signal.SIGKILL)
    wait_until(lambda: not pueue.answers())
    pueue._ours.pop().wait(60)
    repaired, left = diagnose(lab)  # starts a daemon again, and leaves alone the run and the one that is ready
    assert left == [] and len(repaired) == 1 and f"{waits} waits in a queue that no daemon looked after" in repaired[0]
    assert (backlog.alive(lab, run_id), backlog.alive(lab, ready)) == (runner, following) and pueue.answers()
    assert [task.result for task in backlog.tasks(lab) if backlog.run_of(lab, task) in (run_id, ready)] == ["Killed"] * 2
    agrees(lab)
    go(lab, run_id)
    wait_until(lambda: receipts.receipt(lab, run_id))
    done(lab)
    agrees(lab)
    assert sorted(row.run_id for row in results.load(lab)) == sorted([run_id, ready, waits]) and {row.status for row in results.load(lab)} == {"ok"}


def test_a_killed_runner_gets_its_row_and_is_run_once_more(lab, wait_until, done):
    tree = slow(lab)
    (run_id,) = json.loads(call(tree, "queue", "slow", "--json").stdout)
    wait_until(lambda: backlog.alive(lab, run_id) and (lab.run(run_id) / "train.log").exists())
    os.kill(backlog.alive(lab, run_id), signal.SIGKILL)
    wait_until(lambda: backlog.alive(lab, run_id) is None)
    repaired, left = diagnose(lab)
    assert any(f"{run_id}: the process that ran it is gone" in one for one in repaired) and left == []
    assert run_id not in backlog.opened(lab)
    go(lab, wait_until(lambda: retried(lab, run_id)))
    first, second = done(lab)
    assert (first.run_id, first.status, second.status) == (run_id, "interrupted", "ok")
    assert receipts.receipt(lab, second.run_id).retry_of == run_id
    assert not any((lab.run(run_id) / name).exists() for name in ("code", "scorer", "scratch", "started.json", "waiting.json"))
    agrees(lab)


def test_whoever_gets_the_device_next_gives_a_killed_run_its_row(lab, wait_until, done):
    """With nobody there to call anything: the next task of the queue does it."""
    tree = slow(lab)
    run_id, waits = json.loads(call(tree, "queue", "slow", "--seeds", "2", "--json").stdout)
    wait_until(lambda: backlog.alive(lab, run_id) and (lab.run(run_id) / "train.log").exists())
    os.kill(backlog.alive(lab, run_id), signal.SIGKILL)
    wait_until(lambda: receipts.receipt(lab, waits))
    go(lab, wait_until(lambda: retried(lab, run_id)))
    rows = done(lab)
    assert {row.run_id: row.status for row in rows if row.status != "ok"} == {run_id: "interrupted"} and len(rows) == 3


def test_what_holds_the_device_without_a_supervisor_is_ended_before_anything_starts(lab, wait_until, tmp_path):
    """Supervisor and guard killed; a worker of the candidate has left its session, and holds the device."""
    tree = add_idea(lab, "leaves")
    worker = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint('training', flush=True)\ntime.sleep(600)\n"
    (tree / "train.py").write_text(worker + (tree / "train.py").read_text())
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in lab.runs.glob("*/train.log")))
    guards = [
        one
        for one in psutil.process_iter(["name", "environ"])
        if one.info["name"] == "lab-guard" and (one.info["environ"] or {}).get("LAB_LOCK_DIR") == os.environ["LAB_LOCK_DIR"]
    ]
    assert guards
    for guard in guards:
        guard.kill()
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    repaired, left = diagnose(lab)
    assert left == [], repaired
    row = results.load(lab)[0]
    assert row.status == "interrupted"
    wait_until(
        lambda: (device.holder(device.detect()) or {}).get("run") != row.run_id
    )  # what was killed takes a moment to be gone; then its retry runs
    assert not [one.pid for one in psutil.process_iter(["environ"]) if f"LAB_SUPERVISOR={runner.pid}-" in str(one.info["environ"])]


HOLDS = """import os, subprocess, sys
from monolab import device
with device.lock(device.detect(), print, run="a run", lab=sys.argv[1]) as held:
    mark = {"LAB_SUPERVISOR": f"{os.getpid()}-1"}
    left = subprocess.Popen(["sleep", "600"], env=os.environ | mark, pass_fds=[held], start_new_session=True, stdout=subprocess.DEVNULL)
    print(left.pid, flush=True)
    os._exit(0)
"""


def test_a_supervisor_that_nobody_has_waited_for_holds_nothing(bare, wait_until):
    """A zombie: its process number is still in /proc, as it stays for good in a container whose first process waits for nobody."""
    runner = subprocess.Popen([sys.executable, "-c", HOLDS, str(bare.root)], stdout=subprocess.PIPE, text=True)
    left = psutil.Process(int(runner.stdout.readline()))
    wait_until(lambda: psutil.Process(runner.pid).status() == psutil.STATUS_ZOMBIE)
    assert held(bare)
    (found,) = doctor._orphans(bare)
    assert found.repaired and f"its supervisor (pid {runner.pid}) was killed" in found.what
    wait_until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
    assert not held(bare)
    runner.communicate()


def test_temporary_folders_of_killed_processes_go_and_others_stay(bare, tmp_path, monkeypatch):
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    code = "import sys, time\nfrom monolab import filesystem\nwith filesystem.temporary() as one:\n    (one / 'f').touch()\n    print(one, flush=True)\n    time.sleep(600)"
    env = os.environ | {"TMPDIR": str(temp)}
    killed, lives = (subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) for _ in range(2))
    try:
        gone, used = Path(killed.stdout.readline().strip()), Path(lives.stdout.readline().strip())
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert gone.is_dir()
        (temp / "lab-tmp-link").symlink_to(bare.root)
        (temp / "lab-other").mkdir()
        doctor.quick(bare, queue=False)
        assert sorted(temp.iterdir()) == sorted([used, temp / "lab-tmp-link", temp / "lab-other"])
        assert (used / "f").exists() and bare.program.exists()
    finally:
        lives.kill()
        lives.communicate()


def test_a_run_that_has_just_begun_is_not_withdrawn_beside_itself(bare):
    asked = make(1)
    receipts.write_request(bare, receipts.Request(**{name: getattr(asked, name) for name in receipts.Request.__dataclass_fields__}))
    with backlog.claim(bare, asked.run_id) as mine:  # as `lab run` holds it, which has not said yet who it is
        assert mine
        with pytest.raises(LabError, match="does not begin"):
            queue.cancel(bare, asked.run_id, wait_seconds=0.2)
        assert not (bare.run(asked.run_id) / "cancelled.json").exists()
    assert "withdrawn" in queue.cancel(bare, asked.run_id)
    assert "was cancelled" in call(bare.root, "run", asked.run_id, check=False).stderr and results.load(bare) == []


def test_a_damaged_receipt_is_named_and_the_others_are_followed_up(bare):
    for seed in "01":
        call(bare.root, "eval", "--seed", seed)
    first, second = (row.run_id for row in results.load(bare))
    for run_id in (first, second):
        receipts.mark_open(bare, run_id)
    path = bare.run(first) / "receipt.json"
    path.write_text(path.read_text()[:-20])
    found = doctor.quick(bare, queue=False)
    assert backlog.opened(bare) == [first] and any(first in one.what and "damaged" in one.what and one.hint for one in found)


def test_a_damaged_receipt_keeps_no_other_arm_from_its_verdict(table):
    other = finish(table, 6, idea="other")
    path = table.run(make(5).run_id) / "receipt.json"
    path.write_text(path.read_text()[:-20])
    due = settle.unsettled(table, results.view(table), verdicts.looks(table))
    assert [one.run_id for one in due] == [make(4).run_id, other.run_id]


def test_after_a_reboot_pids_and_clocks_mean_nothing(lab, wait_until):
    """The marks of another boot, on a pid that somebody else has now and on one whose start is the same tick."""
    tree = add_idea(lab, "slow")
    runs = json.loads(call(tree, "queue", "slow", "--seeds", "2", "--json").stdout)
    wait_until(lambda: not backlog.unfinished(lab))
    ghosts = []
    for number, run_id in enumerate(runs):
        ghost = receipts.Request(**{**vars(receipts.request(lab, run_id)), "run_id": f"20260101T000000-slow-s{number}-000{number}"})
        receipts.write_request(lab, ghost)
        receipt = receipts.receipt(lab, run_id)
        me = backlog.this_process() | ({"boot": "another"} if number else {"ticks": 1})
        told = {"time": receipts.now()} | me | {name: getattr(receipt, name) for name in doctor.FACTS}
        receipts.write_atomic(lab.run(ghost.run_id) / "started.json", json.dumps(told))
        ghosts.append(ghost.run_id)
    repaired, _ = diagnose(lab)
    assert all(any(run_id in one for one in repaired) for run_id in ghosts)
    wait_until(lambda: not backlog.unfinished(lab))
    assert all([row.status for row in rows_of(lab, run_id)] == ["interrupted"] for run_id in ghosts)


def test_a_step_of_the_clock_does_not_end_a_run_that_lives(bare, wait_until):
    tree = slow(bare)
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in bare.runs.glob("*/train.log")))
    (started,) = bare.runs.glob("*/started.json")
    told = json.loads(started.read_text())
    started.write_text(json.dumps(told | {"time": "2001-01-01T00:00:00Z"}))
    agrees(bare)
    go(bare, started.parent.name)
    assert runner.wait(30) == 0 and [row.status for row in results.load(bare)] == ["ok"]


def test_a_run_is_never_carried_out_twice(bare, wait_until):
    tree = slow(bare)
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in bare.runs.glob("*/train.log")))
    (run_id,) = backlog.opened(bare)
    second = call(bare.root, "run", run_id, check=False)
    assert second.returncode == 1 and "carried out by another process" in second.stderr
    go(bare, run_id)
    assert runner.wait(30) == 0 and len(rows_of(bare, run_id)) == 1
    assert "finished already" in call(bare.root, "run", run_id, check=False).stderr
    assert len(rows_of(bare, run_id)) == 1 and backlog.opened(bare) == []


# -- killed between any two steps ---------------------------------------------------------------------------------

# Runs `lab` with the words after the first, and kills itself where the step of that number is about to be taken. A step is a line of the functions that
# write records, told apart by who called them. With 0: goes on to its end, and prints how many steps there were.
KILLER = """
import os, signal, sys
from monolab import backlog, cli, dispatch, doctor, journal, queue, receipts, report, results, run, settle, snapshot, verdicts
at, sys.argv[:] = int(sys.argv[1]), ["lab", *sys.argv[2:]]
names = {
    run: "execute _carry_out _locked _tell", results: "finish conclude _append resume", settle: "_write _tell settle", journal: "append", report: "write",
    receipts: "write_atomic write_receipt write_request mark_open", dispatch: "write send add withdraw forget _claim", snapshot: "keep forget",
    verdicts: "record", doctor: "_follow_up _again _interrupted _requeue _clear", backlog: "finished_with", queue: "enqueue requests evaluate cancel",
}
watched = {(module.__file__, name): name for module, several in names.items() for name in several.split()}
seen = set()

def key(frame):
    return watched.get((frame.f_code.co_filename, frame.f_code.co_name))

def line(frame, event, _):
    if event == "line":
        above = frame.f_back
        while above and not key(above):
            above = above.f_back
        seen.add((key(frame), frame.f_lineno, above and (key(above), above.f_lineno)))
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGKILL)
    return line

sys.settrace(lambda frame, event, _: line if key(frame) else None)
try:
    cli.main()
finally:
    sys.settrace(None)
    if not at:
        print("steps", len(seen))
"""


def steps(cwd: Path, *words: str) -> int:
    done = subprocess.run([sys.executable, "-c", KILLER, "0", *words], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rsplit("steps ", 1)[1])


def killed_at(step: int, cwd: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLER, str(step), *words], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode in (-signal.SIGKILL, 0, 1), done.stderr


def invariants(lab: Lab) -> None:
    """What holds after any kill and the next `lab doctor`."""
    assert results.audit(lab) == [] and not held(lab)
    requests = {path.parent.name for path in lab.runs.glob("*/request.json")}
    receipts_ = {path.parent.name for path in lab.runs.glob("*/receipt.json")}
    assert sorted(row.run_id for row in results.load(lab)) == sorted(receipts_)  # one row each
    assert not list(lab.runs.glob("*/started.json")) and not list(lab.runs.glob("*/waiting.json"))
    assert {path.name for path in lab.runs.iterdir() if path.is_dir() and not path.name.startswith(".")} == requests
    assert set(git(lab.root, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/lab/runs").split()) == requests
    assert {path.name for path in receipts.open_marks(lab).glob("*")} <= {".asking"}
    left = [path for path in (*lab.root.glob(".*-????????"), *lab.runs.glob(".*-????????"), *lab.runs.glob("*/.*-????????")) if path.is_file()]
    assert left == [] and not (lab.runs / ".finishing").exists() and not (lab.runs / ".telling").exists()
    assert not [path for name in doctor.SCRATCH for path in lab.runs.glob(f"*/{name}")]
    text = lab.journal.read_text()
    for verdict in verdicts.records(lab):
        assert text.count(f"## {verdict.time} {verdict.idea}: ") == verdict.final, verdict
        assert not verdict.final or verdict.runs[-1] in next(lab.reports.glob(f"*_{verdict.idea}.md")).read_text()
    assert text.count("\n## ") == sum(verdict.final for verdict in verdicts.records(lab))


def spread(count: int, share: int) -> list[int]:
    """`share` of the steps 1..count, evenly spread."""
    return sorted({1 + round(place * (count - 1) / (share - 1)) for place in range(share)})


def everywhere(lab: Lab, share: int, words: tuple[str, ...], after) -> None:
    """Kill `lab WORDS` at `share` steps, each time from the same state; then `lab doctor`, and what must hold."""
    saved = lab.root.with_suffix(".tar")
    subprocess.run(["tar", "-cf", saved, "-C", lab.root, "."], check=True)
    count = steps(lab.root, *words)
    after()
    assert count > 40
    for step in spread(count, share):
        subprocess.run(f"rm -rf {lab.root}/* {lab.root}/.[a-z]* && tar -xf {saved} -C {lab.root}", shell=True, check=True)
        killed_at(step, lab.root, *words)
        diagnose(lab)
        after()
        try:
            invariants(lab)
            agrees(lab)
        except AssertionError as error:
            raise AssertionError(f"killed at step {step} of {count}") from error


def about_to_be_judged(lab: Lab) -> Lab:
    """A lab in which one run more decides on an idea."""
    for seed in "012":
        call(lab.root, "eval", "--seed", seed)
    add_idea(lab, "shift")
    change(lab.worktree("shift"), "offset: float = 0.0", "offset: float = -0.5")
    for seed in "01":
        call(lab.root, "eval", "shift", "--seed", seed)
    return lab


def test_killed_anywhere_in_a_run_nothing_is_lost_or_doubled(bare):
    everywhere(about_to_be_judged(bare), 6, ("eval", "shift", "--seed", "2"), lambda: None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_everywhere_in_a_run_nothing_is_lost_or_doubled(bare):
    everywhere(about_to_be_judged(bare), 150, ("eval", "shift", "--seed", "2"), lambda: None)


def test_killed_anywhere_while_queueing_every_run_that_was_asked_for_comes(lab, done):
    everywhere(lab, 4, ("queue", "baseline", "Q: a? H: b", "--seeds", "2"), lambda: done(lab))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_everywhere_while_queueing_every_run_that_was_asked_for_comes(lab, done):
    everywhere(lab, 60, ("queue", "baseline", "Q: a? H: b", "--seeds", "2"), lambda: done(lab))


# -- the queue ----------------------------------------------------------------------------------------------------


def pause(wait_until) -> None:
    subprocess.run(["pueue", "pause", "--group", "lab-cpu"], check=True, capture_output=True)
    wait_until(lambda: pueue.groups()["lab-cpu"].status == "Paused")


def test_a_daemon_that_lost_its_state_gets_the_runs_again(lab, pueue_daemon, wait_until, done):
    call(lab.root, "baseline", "--seeds", "1")
    done(lab)
    pause(wait_until)
    waiting = json.loads(call(lab.root, "baseline", "--seeds", "2", "--json").stdout)
    os.kill(pueue_daemon.pid, signal.SIGKILL)
    pueue._ours.pop().wait(60)
    for path in (pueue_daemon.folder / "state").rglob("*"):
        if path.is_file() and path.name.startswith("state"):
            path.unlink()
    stranger = subprocess.Popen(["sleep", "60"])
    (pueue_daemon.folder / "pid").write_text(str(stranger.pid))  # the pid is another process's by now, and the socket is nobody's
    try:
        repaired, left = diagnose(lab)
        assert sum("pueue had no task for it" in one for one in repaired) == 2 and left == []
        rows = done(lab)
    finally:
        stranger.kill()
        stranger.wait()
    assert {row.run_id for row in rows} >= set(waiting) and len(rows) == 3
    agrees(lab)


@pytest.mark.slow
def test_numbers_that_pueue_uses_again_are_taken_for_nothing(lab, done):
    call(lab.root, "baseline", "--seeds", "2")
    first = done(lab)
    numbers = {task.id for task in backlog.tasks(lab)}
    pueue.clean("lab-cpu")
    agrees(lab)
    add_idea(lab, "other")
    call(lab.root, "queue", "other")
    assert {task.id for task in backlog.tasks(lab)} & numbers
    agrees(lab)
    rows = done(lab)
    assert rows[:2] == first and len({row.run_id for row in rows}) == len(rows)
    agrees(lab)


def test_a_run_whose_task_was_removed_is_queued_again_and_one_that_was_cancelled_is_not(lab, wait_until, done):
    call(lab.root, "baseline", "--seeds", "1")
    done(lab)
    pause(wait_until)
    one, other, third = json.loads(call(lab.root, "baseline", "--seeds", "3", "--json").stdout)
    assert "out of the queue" in call(lab.root, "cancel", other).stdout
    pueue.remove(backlog.unfinished(lab)[one].id)
    repaired, left = diagnose(lab)
    assert [one in text for text in repaired] == [True]
    assert len(left) == 1 and "group lab-cpu is paused, and runs wait in it | pueue start --group lab-cpu" in left[0]
    assert set(backlog.unfinished(lab)) == {one, third}
    pueue.resume("lab-cpu")
    assert {row.run_id for row in done(lab)} >= {one, third} and not rows_of(lab, other)
    agrees(lab)


@pytest.mark.slow
def test_a_task_that_ends_each_time_before_its_run_starts_is_named_after_some_tries(lab, wait_until):
    call(lab.root, "baseline", "--seeds", "1")
    wait_until(lambda: not backlog.unfinished(lab))
    pause(wait_until)
    (run_id,) = json.loads(call(lab.root, "baseline", "--seeds", "1", "--json").stdout)
    for _ in range(doctor.TRIES):
        pueue.remove(backlog.unfinished(lab)[run_id].id)
        assert any(run_id in one for one in diagnose(lab)[0])
    pueue.remove(backlog.unfinished(lab)[run_id].id)
    repaired, left = diagnose(lab)
    assert repaired == [] and f"{run_id} was queued {doctor.TRIES + 1} times and never started" in left[0]
    assert "withdrawn" in call(lab.root, "cancel", run_id).stdout
    pueue.resume("lab-cpu")
    wait_until(lambda: pueue.groups()["lab-cpu"].status == "Running")
    agrees(lab)


def test_a_task_without_its_request_gets_it_back_from_git_or_leaves_the_queue(lab, wait_until, done):
    call(lab.root, "baseline", "--seeds", "1")
    done(lab)
    pause(wait_until)
    one, other = json.loads(call(lab.root, "baseline", "--seeds", "2", "--json").stdout)
    git(lab.root, "add", f"6_runs/{one}/request.json")
    git(lab.root, "commit", "--quiet", "--message", "Records")
    subprocess.run(["rm", "-r", lab.run(one), lab.run(other)], check=True)
    repaired, _ = diagnose(lab)
    assert any(f"{one} waits in pueue, and its request was gone: it is back" in text for text in repaired)
    assert any(f"{other} waited in pueue, and its request is gone for good" in text for text in repaired)
    assert set(backlog.unfinished(lab)) == {one}
    pueue.resume("lab-cpu")
    assert {row.run_id for row in done(lab)} >= {one}


def test_two_daemons_at_one_socket_are_named(lab, pueue_daemon, wait_until):
    first = pueue_daemon.pid
    (pueue_daemon.folder / "pid").unlink()
    (pueue_daemon.folder / "s").unlink()
    second = subprocess.Popen(["pueued"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=pueue.environment())
    try:
        wait_until(pueue.answers)
        assert pueue.listening() == [first, second.pid]
        _, left = diagnose(lab)
        assert len(left) == 1 and "2 pueue daemons" in left[0] and left[0].endswith(f"kill {first}")
        subprocess.run(left[0].rpartition(" | ")[2], shell=True, check=True)
        wait_until(lambda: pueue.listening() == [second.pid])
    finally:
        second.kill()
        second.wait()


# -- git ----------------------------------------------------------------------------------------------------------


def test_worktree_and_branch_deleted_by_hand_cost_no_run_and_no_diff(lab, wait_until, done):
    call(lab.root, "baseline", "--seeds", "1")
    done(lab)
    pause(wait_until)
    tree = add_idea(lab, "shift")
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    (run_id,) = json.loads(call(tree, "queue", "shift", "--json").stdout)
    subprocess.run(["rm", "-r", tree], check=True)
    repaired, _ = diagnose(lab)
    assert any("1 worktree(s) whose folder is gone" in one for one in repaired)
    git(lab.root, "branch", "--quiet", "-D", "exp/shift")
    pueue.resume("lab-cpu")
    done(lab)
    assert [row.status for row in rows_of(lab, run_id)] == ["ok"]
    agrees(lab)
    assert "+    offset: float = -0.5" in call(lab.root, "diff", run_id).stdout
    assert "offset: float = 0.0" in (Path(call(lab.root, "worktree", "shift").stdout.strip()) / "train.py").read_text()


def test_a_branch_that_was_deleted_under_its_worktree_comes_back(bare):
    tree = add_idea(bare, "shift")
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    tip = commit(tree)
    (tree / "notes.txt").write_text("not committed")
    git(bare.root, "update-ref", "-d", "refs/heads/exp/shift")
    repaired, left = diagnose(bare)
    assert left == [] and any(f"the branch exp/shift of 5_worktrees/shift was gone: it is back at {tip[:12]}" in one for one in repaired)
    assert git(tree, "status", "--porcelain") == "?? notes.txt" and git(tree, "log", "-1", "--format=%H") == tip
    agrees(bare)


def test_a_folder_that_is_no_worktree_any_more_is_named(bare):
    tree = add_idea(bare, "shift")
    subprocess.run(["rm", "-r", bare.root / ".git" / "worktrees" / "shift"], check=True)
    (bare.worktrees / "junk").mkdir()
    _, left = diagnose(bare)
    assert (
        len(left) == 2
        and any("5_worktrees/shift has lost its place in git" in one for one in left)
        and any("junk is no worktree" in one for one in left)
    )
    assert (tree / "train.py").exists()


def test_what_failed_and_what_was_interrupted_is_diffed_after_everything_else_is_gone(lab, wait_until):
    tree = add_idea(lab, "fails")
    change(tree, "    out = Path(config.out)\n", "    raise SystemExit(7)\n    out = Path(config.out)\n")
    call(tree, "eval", check=False)
    killed = add_idea(lab, "killed")
    (killed / "train.py").write_text("import time\nprint('training', flush=True)\ntime.sleep(60)\n" + (killed / "train.py").read_text())
    runner = subprocess.Popen([LAB, "eval"], cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("training" in path.read_text() for path in lab.runs.glob("*killed*/train.log")))
    runner.kill()
    runner.wait()
    diagnose(lab)
    rows = {row.idea: row for row in results.load(lab)}
    assert (rows["fails"].status, rows["killed"].status) == ("crash", "interrupted")
    for slug in ("fails", "killed"):
        git(lab.root, "worktree", "remove", "--force", str(lab.worktree(slug)))
        git(lab.root, "branch", "--quiet", "-D", f"exp/{slug}")
    git(lab.root, "gc", "--quiet", "--prune=now")
    assert "+    raise SystemExit(7)" in call(lab.root, "diff", rows["fails"].run_id).stdout
    assert "+time.sleep(60)" in call(lab.root, "diff", rows["killed"].run_id).stdout


def test_refs_that_were_lost_are_made_again_and_those_of_no_run_are_named(bare):
    call(bare.root, "eval")
    (row,) = results.load(bare)
    git(bare.root, "update-ref", "-d", f"refs/lab/runs/{row.run_id}")
    repaired, left = diagnose(bare)
    assert any("was not pinned any more" in one for one in repaired) and left == []
    agrees(bare)
    git(bare.root, "update-ref", "refs/lab/runs/20260101T000000-gone-s0-0000", "HEAD")
    _, left = diagnose(bare)
    assert len(left) == 1 and "1 ref(s) pin code of runs that have no folder" in left[0]


# -- verdicts, journal, reports -----------------------------------------------------------------------------------


def test_what_is_recorded_and_told_of_a_verdict_comes_back_or_is_named(bare):
    """One lab, judged for good, and one damage after the other."""
    lab = about_to_be_judged(bare)
    call(lab.root, "eval", "shift", "--seed", "2")
    assert verdicts.records(lab)[-1].final
    agrees(lab)

    record = lab.runs / "verdicts.jsonl"  # a look is lost: it is taken again, and told
    whole, entries = record.read_text(), lab.journal.read_text().count("\n## ")
    record.write_text(whole[:-30])
    repaired, left = diagnose(lab)
    assert left == [] and any("it ended in the middle of a line" in one for one in repaired), repaired
    again, before = verdicts.records(lab)[-1], json.loads(whole.splitlines()[-1])
    assert (again.runs, again.gate.decision, again.effect) == (tuple(before["runs"]), before["gate"]["decision"], before["effect"])
    assert lab.journal.read_text().count("\n## ") == entries + (again.time != before["time"])
    agrees(lab)

    path = next(lab.reports.glob("*_shift.md"))
    text = path.read_text()
    path.unlink()
    repaired, left = diagnose(lab)
    assert left == [] and "the report on shift (explore) was gone" in repaired[0] and path.read_text() == text
    path.write_text(text[:100])
    repaired, left = diagnose(lab)
    assert repaired == [] and "does not name" in left[0] and "lab report shift --stage explore" in left[0]
    call(lab.root, "report", "shift")
    agrees(lab)

    text = lab.journal.read_text()
    lab.journal.write_text(text[: text.index("- Size:")] + text[text.index("_Inference") :])
    _, left = diagnose(lab)
    assert len(left) == 1 and "breaks off" in left[0]
    lab.journal.write_text(text.replace("- Expected: -0.5", "- Expected: -0.1"))
    _, left = diagnose(lab)
    assert len(left) == 1 and re.search(r"shift: supported' was changed: '- Expected: -0.1.* was '- Expected: -0.5", left[0]), left
    assert left[0].partition(" | ")[0] in json.loads(call(lab.root, "check", "--json", check=False).stdout)
    assert "shift: supported' was changed" in call(lab.root, "audit", "--all", "--sample", "0", check=False).stdout
    lab.journal.write_text(text.replace(f"## {again.time} shift", f"## {again.time} shape"))
    _, left = diagnose(lab)
    assert len(left) == 1 and "shift: supported' is gone" in left[0]
    lab.journal.write_text(text.replace(INFERENCE_EMPTY, "The offset did it.\n- Against: nothing."))  # the author's part
    agrees(lab)

    commit(lab.root)
    lost = verdicts.records(lab)[-1].against_runs[0]
    (lab.run(lost) / "receipt.json").unlink()
    _, left = diagnose(lab)
    assert any(f"rests on {lost}, which has no receipt | git checkout" in one for one in left), left
    assert any(f"{lost} has a row and no receipt | git checkout" in one for one in left), left
    git(lab.root, "checkout", "--", "6_runs")
    agrees(lab)


def test_check_only_looks(bare):
    call(bare.root, "eval")
    lost = bare.results.read_bytes()
    bare.results.write_bytes(lost[:-10])
    assert call(bare.root, "check", check=False).returncode == 1 and bare.results.read_bytes() == lost[:-10]
    repaired, left = diagnose(bare)
    assert left == [] and len(repaired) == 1 and bare.results.read_bytes() == lost


def test_one_lost_receipt_is_named_and_stops_nobody_else(lab):
    call(lab.root, "eval")
    (lab.run(results.load(lab)[0].run_id) / "receipt.json").unlink()
    for seed in ("1", "2"):
        call(lab.root, "eval", "--seed", seed)
    assert [(row.seed, row.status) for row in results.load(lab)] == [(0, "ok"), (1, "ok"), (2, "ok")]
    done = call(lab.root, "doctor", check=False)
    assert done.returncode == 1 and results.load(lab)[0].run_id in done.stdout and "Traceback" not in done.stderr

"""Runs that ended for no reason of their own are run again: once or a few times, in their own rows, and counted once."""

import json
import os
import signal
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest
from conftest import PROGRAM, TRAIN
from test_lab import LAB, add_idea, call
from test_results import make

from monolab import backlog, doctor, gate, pueue, receipts, results, retries, status, verdicts
from monolab.errors import LabError
from monolab.paths import Lab

SLOW_START = TRAIN.replace("    out = Path(config.out)\n", "    import time\n\n    print('training', flush=True)\n    wait = Path(__file__).resolve().parent / 'wait'\n    time.sleep(float(wait.read_text()) if wait.exists() else 0)\n    out = Path(config.out)\n")  # fmt: skip


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1", "memory_gb: 1\nretries: {wait_seconds: 0}"), "train.py": SLOW_START})
    call(lab.root, "data")
    return lab


def trains(lab: Lab, run_id: str) -> bool:
    log = lab.run(run_id) / "train.log"
    return log.exists() and "training" in log.read_text()


def kill_runner(lab: Lab, run_id: str, wait_until) -> None:
    """As a reboot would: the process of the run and its trainer are gone at once."""
    wait_until(lambda: trains(lab, run_id))
    os.kill(json.loads((lab.run(run_id) / "started.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: backlog.alive(lab, run_id) is None)

    def left() -> bool:
        with backlog.claim(lab, run_id) as mine:
            return mine

    wait_until(left)  # its guard ends what is left of it first, and holds the claim until then


def queued(lab: Lab, slug: str, wait: float, *args: str) -> str:
    tree = add_idea(lab, slug)
    (tree / "wait").write_text(str(wait))
    call(tree, "queue", slug, "Q: a? H: expect -0.5 score, 80%", *args)
    return min(path.parent.name for path in lab.runs.glob(f"*-{slug}-s*/request.json"))


def test_an_interrupted_run_runs_again_once_and_each_keeps_its_own_row(lab, wait_until):
    first = queued(lab, "slow", 4.0)
    kill_runner(lab, first, wait_until)
    doctor.quick(lab)
    second = retries.successor(lab, receipts.request(lab, first))
    assert second.retry_of == first and second.queued == receipts.request(lab, first).queued and "retry" in second.flags
    same = ("idea", "stage", "seed", "code_sha", "args", "label", "commit", "credence")
    assert all(getattr(second, name) == getattr(receipts.request(lab, first), name) for name in same)
    assert retries.again(lab, receipts.receipt(lab, first)) is None  # asked twice, queued once
    wait_until(lambda: trains(lab, second.run_id))
    assert f"retry of {first}" in status.text(status.facts(lab)) and f"run again as {second.run_id}" in status.log(lab, first)
    kill_runner(lab, second.run_id, wait_until)
    doctor.quick(lab)
    assert [(row.run_id, row.status) for row in results.load(lab)] == [(first, "interrupted"), (second.run_id, "interrupted")]
    assert backlog.pending(lab) == [] and results.audit(lab) == []  # a second time is not made good by itself
    now = {name: getattr(receipts.receipt(lab, first), name) for name in verdicts.CONDITIONS}
    with results.locked(lab):
        assert [gate.missing(lab, second, [0, 1], now, insist=insist) for insist in (False, True)] == [[1], [0, 1]]  # nor by an open question
    third = call(lab.root, "retry", second.run_id).stdout.split()[-1]  # the user may say so
    wait_until(lambda: receipts.receipt(lab, third))
    assert receipts.receipt(lab, third).status == "ok" and receipts.receipt(lab, third).retry_of == second.run_id
    again = call(lab.root, "retry", first, check=False)
    assert again.returncode == 1 and second.run_id in again.stderr


def test_what_the_user_stopped_stays_stopped(lab, wait_until):
    first = queued(lab, "stopped", 30.0)
    wait_until(lambda: trains(lab, first))
    call(lab.root, "cancel", first)
    receipt = receipts.receipt(lab, first)
    assert receipt.status == "killed" and retries.again(lab, receipt) is None and retries.successor(lab, receipt) is None
    # also where it did not heed the signal, and was then killed by hand
    assert (lab.run(first) / "stop.json").exists() and retries.again(lab, replace(receipt, status="interrupted")) is None
    refused = call(lab.root, "retry", first, check=False)
    assert refused.returncode == 1 and "killed" in refused.stderr


def test_a_retry_that_was_written_and_never_queued_is_queued_when_asked_again(lab, wait_until):
    first = queued(lab, "lost", 2.0)
    kill_runner(lab, first, wait_until)
    second = wait_until(lambda: (doctor.quick(lab), retries.successor(lab, receipts.request(lab, first)))[1])
    wait_until(lambda: second.run_id in backlog.unfinished(lab))
    kill_runner(lab, second.run_id, wait_until)
    (lab.run(second.run_id) / "started.json").unlink()  # as if it had never been more than a request
    wait_until(lambda: second.run_id not in backlog.unfinished(lab))
    assert retries.again(lab, receipts.receipt(lab, first)).run_id == second.run_id
    wait_until(lambda: second.run_id in backlog.unfinished(lab) or receipts.receipt(lab, second.run_id))


def test_a_run_by_hand_without_a_daemon_is_not_queued_and_the_log_says_how(lab_repo, pueue_home, wait_until):
    lab = lab_repo(**{"train.py": SLOW_START})
    call(lab.root, "data")
    tree = add_idea(lab, "byhand")
    (tree / "wait").write_text("30")
    runner = subprocess.Popen([LAB, "eval"], cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list(lab.runs.glob("*/started.json")))
    (run_id,) = (path.parent.name for path in lab.runs.glob("*/started.json"))
    wait_until(lambda: trains(lab, run_id))
    runner.kill()
    runner.wait()
    said = call(lab.root, "doctor").stderr
    assert f"lab retry {run_id}" in said and not pueue.answers()
    assert receipts.receipt(lab, run_id).status == "interrupted" and retries.successor(lab, receipts.request(lab, run_id)) is None


def spoiled(lab: Lab, **changes) -> receipts.Receipt:
    """A run of the baseline as it would be, had it ended otherwise."""
    (row,) = results.load(lab)
    return replace(receipts.receipt(lab, row.run_id), status="crash", value=None, metrics={}, **changes)


def test_a_device_that_is_busy_is_tried_again_later_and_not_for_ever(lab_repo, pueue_daemon, wait_until):
    policy = "memory_gb: 1\nretries: {transient: 2, wait_seconds: 1800}"
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1", policy)})
    call(lab.root, "data")
    call(lab.root, "eval")
    failed = spoiled(lab, flags=("transient:device-busy",))
    (lab.run(failed.run_id) / "receipt.json").write_text(json.dumps(asdict(failed)))
    waits = []
    for _ in range(2):
        request = retries.again(lab, failed)
        task = backlog.unfinished(lab)[request.run_id]
        assert (task.state, request.retry_of) == ("Stashed", failed.run_id) and [one.run_id for one in backlog.pending(lab)] == [request.run_id]
        waits.append((datetime.fromisoformat(delays()[task.id]) - datetime.now(UTC)).total_seconds())
        pueue.remove(task.id)
        failed = receipts.Receipt(**asdict(failed) | asdict(request) | {"flags": (*request.flags, "transient:device-busy"), "args": request.args})
        (lab.run(failed.run_id) / "receipt.json").write_text(json.dumps(asdict(failed)))
    assert 900 < waits[0] <= 1801 and 1900 < waits[1] <= 3601  # twice as long, an hour at most
    assert retries.attempts(lab, failed) == {"transient": 3} and retries.again(lab, failed) is None


def delays() -> dict[int, str]:
    """When each stashed task is let go."""
    told = json.loads(subprocess.run(["pueue", "status", "--json"], capture_output=True, text=True, check=True).stdout)["tasks"]
    return {int(number): task["status"]["Stashed"]["enqueue_at"] for number, task in told.items() if "Stashed" in task["status"]}


BUSY = "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"
INIT = "UserWarning: CUDA initialization: CUDA driver initialization failed, you might not have a CUDA gpu."
FULL = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."


@pytest.mark.parametrize(
    ("tail", "facts", "name"),
    [
        (BUSY, {}, "device-busy"),
        (INIT, {}, "cuda-init"),
        ("RuntimeError: No CUDA GPUs are available", {}, "cuda-init"),
        (BUSY, {"gpu": False}, ""),  # there is no GPU: the words are the candidate's
        (BUSY, {"step": 40}, ""),  # it had it, and trained
        (BUSY, {"seconds": 500.0}, ""),
        (FULL, {}, ""),  # its own use
        (FULL, {"foreign_memory": True}, "foreign-memory"),
        (FULL, {"foreign_memory": True, "step": 40, "seconds": 500.0}, "foreign-memory"),
        ("MemoryError", {"gpu": False, "foreign_memory": True}, "foreign-memory"),
        ("[lab] ended by SIGKILL", {"gpu": False, "foreign_memory": True}, "foreign-memory"),
        ("ValueError: shapes differ", {"foreign_memory": True}, ""),
    ],
)
def test_a_failure_is_transient_by_its_words_and_a_fact_together(tail, facts, name):
    usual = {"gpu": True, "seconds": 10.0, "step": None, "foreign_memory": False}
    assert retries.recognise(f"Traceback (most recent call last):\n{tail}\n", **usual | facts) == name


def test_what_is_a_result_is_no_cause(lab_repo):
    receipt = make(1)
    for ended in ("ok", "crash", "oom", "timeout", "killed", "invalid"):
        assert retries.cause(replace(receipt, status=ended)) == ""
    assert retries.cause(replace(receipt, status="interrupted")) == "interrupted"
    assert retries.cause(replace(receipt, status="invalid", flags=("contaminated",))) == "contaminated"
    assert retries.cause(replace(receipt, status="oom", flags=("transient:foreign-memory",))) == "transient"
    assert retries.cause(replace(receipt, status="killed", flags=("transient:cuda-init",))) == ""


def test_files_of_an_older_version_load(lab_repo):
    lab = lab_repo()
    folder = lab.run(make(1).run_id)
    folder.mkdir(parents=True)
    old = {name: value for name, value in asdict(make(1)).items() if name not in ("retry_of", "memory_limit")}
    (folder / "receipt.json").write_text(json.dumps(old))
    assert receipts.receipt(lab, folder.name) == make(1)
    (folder / "receipt.json").write_text(json.dumps({name: value for name, value in old.items() if name != "seed"} | {"color": 1}))
    with pytest.raises(LabError, match="its fields differ: color, seed"):
        receipts.receipt(lab, folder.name)


def test_what_is_to_be_run_again_is_not_judged_while_no_daemon_answers(lab, pueue_daemon, wait_until):
    """A reboot: run and daemon are gone, and a coding agent's session starts before either is back."""
    call(lab.root, "baseline")
    first = queued(lab, "slow", 60.0)
    wait_until(lambda: trains(lab, first))
    os.kill(pueue_daemon.pid, signal.SIGKILL)
    kill_runner(lab, first, wait_until)
    wait_until(lambda: not pueue.answers())
    doctor.quick(lab, queue=False)
    assert [row.status for row in results.load(lab)][-1] == "interrupted"
    assert verdicts.records(lab) == [] and "slow" not in lab.journal.read_text() and backlog.opened(lab) == [first]
    (lab.worktree("slow") / "wait").unlink()
    pueue.ensure_daemon()
    doctor.quick(lab)
    assert retries.successor(lab, receipts.request(lab, first)).retry_of == first

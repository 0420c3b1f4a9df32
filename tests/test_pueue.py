"""The pueue client against a real, private daemon."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from monolab import keys, pueue
from monolab.errors import LabError


def task(number: int) -> pueue.Task:
    return {task.id: task for task in pueue.tasks()}[number]


def printed(number: int) -> str:
    """All that a task has printed so far; "" before it starts."""
    if task(number).start is None:
        return ""
    done = subprocess.run(["pueue", "log", "--json", "--full", str(number)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)[str(number)]["output"]


def daemons(config: Path) -> list[psutil.Process]:
    """The pueued processes that serve this configuration."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            ours = process.info["name"] == "pueued" and process.environ().get("PUEUE_CONFIG_PATH") == str(config)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_task_from_the_queue_to_its_end(pueue_daemon, tmp_path, wait_until):
    pueue.ensure_group("lab-cpu")
    hard = """a 'quoted' "word" with $HOME; `id` && x"""
    number = pueue.add([sys.executable, "-c", "import sys; print(sys.argv[1])", hard], group="lab-cpu", label="Q: a? H: b", cwd=tmp_path)
    done = wait_until(lambda: task(number).state == "Done" and task(number))
    assert (done.result, done.label, done.group, done.path) == ("Success", "Q: a? H: b", "lab-cpu", str(tmp_path.resolve()))
    assert done.enqueued_at <= done.start <= done.end
    assert printed(number) == hard + "\n"
    pueue.clean("lab-cpu")
    assert pueue.tasks() == []


def test_a_failed_task_says_how_it_ended(pueue_daemon, tmp_path, wait_until):
    number = pueue.add(["sh", "-c", "exit 3"], group="default", label=None, cwd=tmp_path)
    wait_until(lambda: task(number).state == "Done")
    assert (task(number).result, task(number).label) == ("Failed(3)", None)


def test_no_secret_reaches_the_daemon_or_its_state(pueue_daemon, tmp_path, monkeypatch, wait_until):
    monkeypatch.setenv("SOME_API_KEY", "sk-not-for-the-disk")
    monkeypatch.setenv("META_MODE", "1")
    program = "import os; print(sorted(os.environ))"
    number = pueue.add([sys.executable, "-c", program], group="default", label=None, cwd=tmp_path)
    wait_until(lambda: task(number).state == "Done")
    seen = set(eval(printed(number)))
    assert "LAB_DEVICE" in seen and not {"SOME_API_KEY", "META_MODE"} & seen
    added = {"PUEUE_GROUP", "PUEUE_WORKER_ID"} | {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}  # pueue's, the shell's, Python's
    assert seen <= set(keys.FOR_PUEUE) | added
    assert "sk-not-for-the-disk" not in (pueue_daemon.folder / "state" / "state.json").read_text()


def test_term_reaches_the_program_itself(pueue_daemon, tmp_path, wait_until):
    program = "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint(os.getppid(), flush=True)\ntime.sleep(60)"
    number = pueue.add([sys.executable, "-c", program], group="default", label=None, cwd=tmp_path)
    parent = wait_until(lambda: printed(number).strip())
    assert int(parent) == pueue_daemon.pid  # no shell in between
    pueue.kill(number)
    wait_until(lambda: task(number).state == "Done")
    assert task(number).result == "Failed(7)"


def test_kill_without_a_signal(pueue_daemon, tmp_path, wait_until):
    number = pueue.add(["sleep", "60"], group="default", label=None, cwd=tmp_path)
    wait_until(lambda: task(number).state == "Running")
    pueue.kill(number, signal=None)
    wait_until(lambda: task(number).state == "Done")
    assert task(number).result == "Killed"


def test_order_priority_and_after(pueue_daemon, tmp_path, wait_until):
    pueue.ensure_group("g")
    first = pueue.add(["true"], group="g", label="first", cwd=tmp_path, stashed=True)
    last = pueue.add(["true"], group="g", label="last", cwd=tmp_path, after=[first], priority=9)
    failing = pueue.add(["false"], group="g", label="failing", cwd=tmp_path)
    skipped = pueue.add(["true"], group="g", label="skipped", cwd=tmp_path, after=[failing])
    wait_until(lambda: task(skipped).state == "Done")
    assert task(skipped).result == "DependencyFailed"
    assert (task(first).state, task(last).state) == ("Stashed", "Queued")
    pueue.enqueue(first)
    wait_until(lambda: task(last).state == "Done")
    assert task(first).end <= task(last).start


def test_remove_takes_waiting_tasks_only(pueue_daemon, tmp_path, wait_until):
    running = pueue.add(["sleep", "60"], group="default", label=None, cwd=tmp_path)
    waiting = pueue.add(["true"], group="default", label=None, cwd=tmp_path)
    wait_until(lambda: task(running).state == "Running")
    pueue.remove(waiting)
    assert [entry.id for entry in pueue.tasks()] == [running]
    with pytest.raises(LabError, match="did not remove"):
        pueue.remove(running)
    with pytest.raises(LabError, match="has no task 77"):
        pueue.kill(77)


def test_a_group_is_made_once_by_two_at_a_time(pueue_daemon):
    failed = []

    def make():
        try:
            pueue.ensure_group("lab-gpu0", parallel=2)
        except LabError as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert pueue.groups()["lab-gpu0"] == pueue.Group("lab-gpu0", "Running", 2)
    pueue.ensure_group("lab-gpu0", parallel=1)  # somebody's own setting stays
    assert pueue.groups()["lab-gpu0"].parallel == 2


def test_one_daemon_is_started_by_several_processes_at_once(pueue_home):
    program = "from monolab import pueue; print(pueue.ensure_daemon())"
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=120)[0].strip() for process in started]
    assert sorted(answers) == ["False", "False", "False", "True"]
    assert [process.pid for process in daemons(pueue_home.config)] == [pueue_home.pid]
    assert pueue.ensure_daemon() is False  # it outlives the process that started it


def test_a_daemon_comes_back_after_kill_9(pueue_daemon, tmp_path, wait_until):
    pueue.ensure_group("g")
    running = pueue.add(["sleep", "60"], group="g", label=None, cwd=tmp_path)
    waiting = pueue.add(["true"], group="g", label=None, cwd=tmp_path)
    wait_until(lambda: task(running).state == "Running")
    os.kill(pueue_daemon.pid, signal.SIGKILL)
    wait_until(lambda: not daemons(pueue_daemon.config))
    assert (pueue_daemon.folder / "s").exists() and (pueue_daemon.folder / "pid").exists()  # both stale now
    assert not pueue.answers()
    with pytest.raises(LabError, match="no pueue daemon answers"):
        pueue.tasks()
    assert pueue.ensure_daemon()
    assert task(running).result == "Killed"
    assert (task(waiting).state, pueue.groups()["g"].status) == ("Queued", "Paused")  # what pueue 4 does with what waited
    assert pueue.revive("g") and not pueue.revive("g")
    wait_until(lambda: task(waiting).state == "Done")


def test_a_group_is_revived_by_whoever_comes_next_and_a_later_pause_is_the_users(pueue_daemon, tmp_path, monkeypatch, wait_until):
    pueue.ensure_group("g")
    pueue.add(["sleep", "60"], group="g", label=None, cwd=tmp_path)
    waiting = pueue.add(["true"], group="g", label=None, cwd=tmp_path)
    wait_until(lambda: len([one for one in pueue.tasks() if one.state == "Running"]) == 1)
    os.kill(pueue_daemon.pid, signal.SIGKILL)
    wait_until(lambda: not daemons(pueue_daemon.config))
    with monkeypatch.context() as slow:  # its starter gives up, or is killed, before it answers
        slow.setattr(pueue, "answers", lambda: False)
        slow.setattr(pueue, "START_SECONDS", 0.2)
        with pytest.raises(LabError, match="was started and does not answer"):
            pueue.ensure_daemon()
    wait_until(pueue.answers)
    assert not pueue.ensure_daemon() and pueue.groups()["g"].status == "Paused"
    assert pueue.revive("g")
    wait_until(lambda: task(waiting).state == "Done")
    subprocess.run(["pueue", "pause", "--group", "g"], check=True, capture_output=True)
    assert not pueue.revive("g") and pueue.groups()["g"].status == "Paused"


def test_a_pid_file_whose_pid_is_another_process_now(pueue_home):
    (pueue_home.folder / "pid").write_text(str(os.getpid()))
    assert pueue.ensure_daemon()
    assert daemons(pueue_home.config)[0].pid == pueue_home.pid


def test_a_daemon_that_does_not_start_shows_its_log(pueue_home):
    text = pueue_home.config.read_text()
    pueue_home.config.write_text(text.replace(f"unix_socket_path: {pueue_home.folder}/s", f"unix_socket_path: {pueue_home.folder}/none/s"))
    with pytest.raises(LabError, match="(?s)does not answer; its log .*pueued.log ends with"):
        pueue.ensure_daemon()


def test_a_daemon_that_hangs_is_an_error_with_a_limit(pueue_daemon, monkeypatch):
    monkeypatch.setattr(pueue, "CALL_SECONDS", 0.3)
    os.kill(pueue_daemon.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LabError, match="did not answer within"):
            pueue.tasks()
    finally:
        os.kill(pueue_daemon.pid, signal.SIGCONT)


def test_a_daemon_with_another_secret_is_not_taken_for_none(pueue_daemon):
    (pueue_daemon.folder / "secret").write_bytes(b"x" * 512)
    with pytest.raises(LabError, match="handshake"):
        pueue.ensure_daemon()
    assert len(daemons(pueue_daemon.config)) == 1


def test_pueue_missing_or_too_old(pueue_home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LabError, match="pueue is not installed") as error:
        pueue.ensure_daemon()
    assert "./just" in error.value.hint
    for name in ("pueue", "pueued"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} 3.4.1\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(LabError, match="pueue 3.4.1 is too old"):
        pueue.ensure_daemon()


def test_pueue_beside_the_labs_python_is_found(pueue_daemon, tmp_path, monkeypatch):
    (tmp_path / "pueue").symlink_to(shutil.which("pueue"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert pueue.answers()


def test_a_task_finds_itself(pueue_daemon, tmp_path, monkeypatch, wait_until):
    assert pueue.running_here(tmp_path) is None  # not in a task
    pueue.ensure_group("g", parallel=3)
    below = tmp_path / "below"
    below.mkdir()
    program = (
        "from monolab import pueue; from pathlib import Path; import time, json, sys\n"
        "task = pueue.running_here(Path(sys.argv[1])); print(json.dumps(task and [task.id, task.label]), flush=True); time.sleep(30)"
    )
    wanted = {}
    for label, cwd in (("one", tmp_path), ("two", tmp_path), ("three", below)):  # three at once, two of them in one folder
        wanted[pueue.add([sys.executable, "-c", program, str(tmp_path)], group="g", label=label, cwd=cwd)] = label
    for number, label in wanted.items():
        assert json.loads(wait_until(lambda number=number: printed(number).strip())) == [number, label]
    monkeypatch.setenv("PUEUE_GROUP", "g")
    monkeypatch.setenv("PUEUE_WORKER_ID", "0")
    assert pueue.running_here(tmp_path / "elsewhere") is None  # a shell in a task that works in another folder


def test_several_tasks_that_cannot_be_told_apart(pueue_daemon, tmp_path, monkeypatch, wait_until):
    pueue.ensure_group("g", parallel=2)
    for label in ("one", "two"):
        pueue.add(["sleep", "30"], group="g", label=label, cwd=tmp_path)
    wait_until(lambda: [entry.state for entry in pueue.tasks()] == ["Running", "Running"])
    status = pueue._status()
    for entry in status["tasks"].values():  # as a pueue that does not record the slot would show it
        del entry["envs"]["PUEUE_WORKER_ID"]
    monkeypatch.setattr(pueue, "_status", lambda: status)
    monkeypatch.setenv("PUEUE_GROUP", "g")
    monkeypatch.setenv("PUEUE_WORKER_ID", "0")
    with pytest.raises(LabError, match="2 running tasks of group 'g' could be this one: 0, 1"):
        pueue.running_here(tmp_path)


def test_an_unknown_group_is_named(pueue_daemon, tmp_path):
    with pytest.raises(LabError, match="Group nope doesn't exist"):
        pueue.add(["true"], group="nope", label=None, cwd=tmp_path)


def test_the_client_is_light():
    program = "import sys; import monolab.pueue; print(sorted({'yaml', 'git', 'psutil', 'torch'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"

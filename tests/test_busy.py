"""The next run gets ready while one has the device; and benchmarks/busy.py and night.py, which measure what that is worth."""

import fcntl
import importlib
import json
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from conftest import EVAL, TRAIN
from test_lab import add_idea, call, settle_down

from monolab import backlog, device, doctor, pueue, queue, receipts, results, run
from monolab.errors import LabError
from monolab.paths import Lab

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """`benchmark("busy")`: that benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo()
    call(lab.root, "data")
    return lab


# -- two slots ----------------------------------------------------------------------------------------------------


def test_the_next_run_waits_ready_for_the_device_and_gets_it_only_then(lab, wait_until):
    tree = add_idea(lab, "slow")
    (tree / "train.py").write_text("import time\ntime.sleep(100)\n" + TRAIN)
    first, second, third = json.loads(call(tree, "queue", "slow", "--seeds", "3", "--json").stdout)
    wait_until(lambda: (lab.run(first) / "train.log").exists())
    wait_until(lambda: (lab.run(second) / "waiting.json").exists())
    assert pueue.groups()["lab-cpu"].parallel == 2
    assert backlog.alive(lab, second) and not (lab.run(second) / "started.json").exists() and not (lab.run(second) / "code").exists()
    known = json.loads(call(lab.root, "status", "--json").stdout)
    assert known["running"]["run_id"] == first and known["waiting"] == 2
    assert {item["run_id"]: item["state"] for item in known["queued"]} == {second: "waits for the device", third: "Queued"}
    assert device.holder(device.detect())["run"] == first
    assert "it had not started" in call(lab.root, "cancel", third).stdout
    assert "it had not started" in call(lab.root, "cancel", second).stdout
    assert "killed" in call(lab.root, "cancel", first).stdout
    (row,) = results.load(lab)
    assert (row.run_id, row.status) == (first, "killed") and not backlog.pending(lab)


def test_three_runs_of_a_queue_are_never_on_the_device_at_once(lab_repo, pueue_daemon, wait_until):
    began = "import time\nfrom pathlib import Path\nbegan = time.time()\n"
    train = f"{began}time.sleep(0.3)\n{TRAIN}".replace('(out / "value.txt")', '(out / "began").write_text(repr(began)); (out / "value.txt")')
    scorer = EVAL.replace('"params": 1', '"params": 1, "began": float((Path(checkpoint) / "began").read_text()), "ended": __import__("time").time()')
    lab = lab_repo(**{"train.py": train, "eval.py": scorer})
    call(lab.root, "data")
    call(lab.root, "baseline", "--seeds", "3")
    rows = settle_down(lab, 3, wait_until)
    assert [row.status for row in rows] == ["ok"] * 3 and results.audit(lab) == []
    spans = sorted((found["began"], found["ended"]) for found in (receipts.receipt(lab, row.run_id).metrics for row in rows))
    assert all(ended < began for (_, ended), (began, _) in pairwise(spans)), spans
    assert all(ended - began > 0.3 for began, ended in spans)


def test_a_table_at_rest_is_looked_at_without_waiting_for_who_judges(lab_repo):
    lab = lab_repo()
    call(lab.root, "data")
    call(lab.root, "eval")
    assert doctor.quick(lab, queue=False) == [] and results.at_rest(lab)
    with lab.lock.open("w") as judging:
        fcntl.flock(judging, fcntl.LOCK_EX)
        assert doctor.quick(lab, queue=False) == []
        # Between a receipt and its row somebody is, or was killed: that is waited for.
        (row,) = results.load(lab)
        receipts.write_atomic(lab.runs / ".finishing", row.run_id)
        assert not results.at_rest(lab)
        waiting = threading.Thread(target=doctor.quick, args=(lab,), kwargs={"queue": False})
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive() and results.at_rest(lab) and len(results.load(lab)) == 1
    lab.results.write_text(lab.results.read_text().rstrip("\n")[:-5])  # cut off
    assert not results.at_rest(lab)


def test_of_two_that_have_just_begun_the_first_goes_first_unless_it_was_paused(lab_repo):
    lab = lab_repo()
    call(lab.root, "data")
    asked = queue.requests(lab, "baseline", lab.root, None, "explore", [0], [], required=True)[0]
    with ExitStack() as stack:
        older = {}
        for name, state in (
            ("20260101T000000-one-s0-aaaa", "waits"),
            ("20260101T000000-two-s0-bbbb", "waits"),
            ("20260101T000000-ran-s0-cccc", "over"),
        ):
            process = stack.enter_context(subprocess.Popen(["sleep", "100"]))
            stack.callback(process.kill)
            stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            told = backlog.this_process() | {"pid": process.pid, "ticks": int(stat[19])}
            receipts.mark_open(lab, name)
            for file in ("request.json", "waiting.json", *(["receipt.json"] if state == "over" else [])):
                receipts.write_atomic(lab.run(name) / file, json.dumps(told))
            older[name] = process
        told = backlog.this_process()
        younger = {"ticks": max(int(Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[19]) for one in older.values()) + 1}
        with mock.patch.object(backlog, "this_process", lambda: told | younger):
            waiting = threading.Thread(target=run._in_turn, args=(lab, asked))
            waiting.start()
            first, second, _ = older.values()
            first.send_signal(signal.SIGSTOP)
            waiting.join(0.5)
            assert waiting.is_alive()  # for the second
            second.kill()
            second.wait()
            waiting.join(60)
            assert not waiting.is_alive()
        with mock.patch.object(backlog, "this_process", lambda: told | {"ticks": 0}):  # it was there before them
            first.send_signal(signal.SIGCONT)
            run._in_turn(lab, asked)


def test_one_that_the_queue_started_first_goes_first_though_it_is_slow_to_come(lab_repo, monkeypatch):
    lab = lab_repo()
    call(lab.root, "data")
    ours, slow = queue.requests(lab, "baseline", lab.root, None, "explore", [0, 1], [], required=True)
    for one in (ours, slow):
        receipts.write_request(lab, one)
    told = dict.fromkeys(("label", "result", "enqueued_at", "end")) | {"path": str(lab.root), "group": "lab-cpu", "state": "Running"}
    tasks = [
        pueue.Task(id=number, command=command, start=f"2026-01-01T00:00:00.{tenths}Z", **told)
        for number, command, tenths in (
            (1, f"just run {ours.run_id}", 2),
            (2, f"just run {slow.run_id}", 1),
            (3, "just eval", 0),  # typed by hand: nobody knows how far it is
        )
    ]
    monkeypatch.setattr(pueue, "_run", mock.Mock(side_effect=LabError("no pueue", hint="")))
    run._in_turn(lab, ours)  # nobody to ask
    monkeypatch.setattr(pueue, "state", lambda: (tasks, {}))
    run._in_turn(lab, slow)  # it is the first
    waiting = threading.Thread(target=run._in_turn, args=(lab, ours))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    receipts.write_atomic(lab.run(slow.run_id) / "started.json", json.dumps(backlog.this_process()))
    waiting.join(60)
    assert not waiting.is_alive()


# -- busy.py ------------------------------------------------------------------------------------------------------


def trace(*steps: tuple[str, float, float], forked: float, ended: float) -> dict:
    return {"argv": ["run", "x"], "forked": forked, "ended": ended, "steps": [list(step) for step in steps]}


def test_every_idle_moment_goes_to_one_step_and_all_of_them_are_the_gap(benchmark):
    busy = benchmark("busy")
    before = trace(
        ("device", 0.0, 10.0), ("receipt and row", 10.1, 10.3), ("released", 10.4, 10.4), ("settling", 10.4, 11.0), forked=-1.0, ended=11.2
    )
    after = trace(
        ("imports", 5.0, 6.0), ("waiting for the device", 6.5, 10.45), ("preflight", 10.5, 10.7), ("device", 10.8, 20.0), forked=4.9, ended=21.0
    )
    told = busy.between(before, after)
    assert sum(told.values()) == pytest.approx(0.8)
    assert told == pytest.approx({busy.BETWEEN: 0.35, "receipt and row": 0.2, "waiting for the device": 0.05, "preflight": 0.2})
    late = trace(
        ("imports", 11.6, 11.9), ("waiting for the device", 11.9, 11.9), ("device", 12.0, 20.0), forked=11.5, ended=21.0
    )  # it began when the one before was over
    told = busy.between(before, late)
    assert sum(told.values()) == pytest.approx(2.0) and told["settling"] == pytest.approx(0.6)
    assert told[busy.SPAWN] == pytest.approx(0.3) and told[busy.INTERPRETER] == pytest.approx(0.1) and told["imports"] == pytest.approx(0.3)


def campaign(name: str, out: Path, *args: str, seconds: float) -> tuple[dict, str]:
    done = subprocess.run([sys.executable, str(BENCHMARKS / name), "--out", str(out), *args], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.mark.slow
def test_both_sides_run_and_the_device_is_accounted_for(tmp_path):
    found, said = campaign("busy.py", tmp_path / "f.json", "--seconds", "2", "--score", "0.5", "--runs", "3", "--rounds", "1", seconds=280)
    (serial,), (queue,) = found["sides"]["serial"], found["sides"]["queue"]
    assert serial["runs"] == queue["runs"] == 3 and 0 < serial["share"] < queue["share"] < 1
    assert queue["device"] + sum(queue["idle"].values()) == pytest.approx(queue["wall"])
    assert "| receipt and row |" in said and "queue to serial, runs/h" in said


# -- night.py -----------------------------------------------------------------------------------------------------


def test_the_deck_is_the_same_for_both_loops_and_another_in_another_round(benchmark):
    night = benchmark("night")
    cards = night.deck(night.Night(), 0)
    assert cards == night.deck(night.Night(), 0) != night.deck(night.Night(), 1)
    assert len({name for name, _, _ in cards}) == len(cards) and {gain for _, _, gain in cards} == set(night.GAINS)
    assert all(name.isalpha() and name.islower() for name, _, _ in cards)


def test_the_agent_adds_the_gain_of_its_idea_to_the_code(benchmark, tmp_path):
    night = benchmark("night")
    command = night.agent(tmp_path / "agent", [("clipping", "cuts", 0.1), ("centring", "subtracts", -0.05)], night.Night(think=0.0))

    def ask(prompt: str) -> dict:
        done = subprocess.run(command, input=prompt, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.partition("```json\n")[2].partition("\n```")[0])

    assert [ask("You propose the next experiment")["slug"] for _ in range(2)] == ["clipping-0", "centring-1"]
    source = night.source(night.Night(run=0.0, noise=0.0), 0)
    (edit,) = ask("You build one idea: the idea centring-1")["edits"]
    for text, value in ((source, 1.0), (source.replace(edit["old"], edit["new"]), 1.05)):
        (tmp_path / "train.py").write_text(text)
        subprocess.run([sys.executable, "train.py", "--seed", "3", "--out", "out"], cwd=tmp_path, check=True)
        assert float((tmp_path / "out" / "value").read_text()) == pytest.approx(value)


@pytest.mark.slow
def test_both_loops_go_on_for_the_same_time(tmp_path):
    found, said = campaign("night.py", tmp_path / "f.json", "--minutes", "1", "--run", "1", "--think", "0.1", seconds=280)
    (serial,), (autopilot,) = found["loops"]["serial"], found["loops"]["autopilot"]
    assert serial["runs"] > serial["ideas"] > 0 and autopilot["runs"] >= 3 and 0 < serial["busy"] <= 1 and 0 < autopilot["busy"] <= 1
    assert "validated gains" in said

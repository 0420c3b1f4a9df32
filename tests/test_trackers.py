"""Trackers: a finished run appears in wandb and trackio where program.md asks for it, once, and never in a run's way."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROGRAM, TRAIN
from test_lab import call

from monolab import alerts, problem, queue, receipts, results, trackers
from monolab.errors import LabError
from monolab.paths import Lab

FAKE = """import json, os
from pathlib import Path

calls = Path({calls!r})


def note(name, /, **what):
    if (calls.parent / "refuses").exists():
        raise ConnectionError("no way to the server")
    with calls.open("a") as file:
        file.write(json.dumps([name, what]) + "\\n")


class Run:
    class summary:
        update = staticmethod(lambda values: note("summary", **values))

    log = staticmethod(lambda values, step: note("log", step=step, **values))
    finish = staticmethod(lambda exit_code: note("finish", exit_code=exit_code, key=os.environ.get("WANDB_API_KEY")))


def Settings(**settings):
    return settings


def init(**given):
    note("init", **given)
    return Run


log = Run.log


def finish():
    note("finish")
"""
LEARNS = TRAIN.replace(
    "    out = Path(config.out)\n",
    """    for step in (1, 500, 1000):
        print(f"2026-11-21 | step {step:,}: {3 / step:.4f} nats on this batch, 12 bytes/s")
    out = Path(config.out)
""",
)
BOTH = PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\ntrackers: [wandb, trackio]\n")
ONE = PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\ntrackers: [wandb]\n")


def fake(lab: Lab, *names: str) -> Path:
    """Modules of these names that write down how they are called; the file that they write to."""
    packages = trackers.folder(lab) / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for name in names:
        (packages / f"{name}.py").write_text(FAKE.format(calls=str(packages / f"{name}.calls")))
    return packages


def told(packages: Path, name: str) -> list[tuple[str, dict]]:
    path = packages / f"{name}.calls"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def still(monkeypatch) -> list[Lab]:
    """Runs start no process beside themselves: what one would do is done in the test, and seen. The labs that would have been looked at."""
    nudged = []
    monkeypatch.setattr(alerts, "beside", lambda lab, *command, **more: nudged.append(lab))
    return nudged


def measured(lab: Lab, *seeds: int, args: tuple[str, ...] = ()) -> list[str]:
    return [queue.evaluate(lab, "baseline", "Q: where? H: there", "explore", seed, list(args)).run_id for seed in seeds]


def log(lab: Lab) -> str:
    path = trackers.folder(lab) / "log"
    return path.read_text() if path.exists() else ""


def test_a_queued_run_is_sent_by_a_process_of_its_own(lab_repo, pueue_daemon, wait_until, monkeypatch):
    lab = lab_repo(**{"program.md": BOTH, "train.py": LEARNS})
    call(lab.root, "data")
    packages = fake(lab, "wandb", "trackio")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    call(lab.root, "baseline", "--seeds", "1")
    wait_until(lambda: len(list(lab.runs.glob("*/tracked.json"))) == 1 and not list((trackers.folder(lab) / "waiting").iterdir()))
    (row,) = results.load(lab)
    receipt = receipts.receipt(lab, row.run_id)
    (_, init), *logged, (_, summary), (_, finish) = told(packages, "wandb")
    assert (init["id"], init["name"], init["group"], init["job_type"], init["project"]) == (row.run_id, row.run_id, "baseline", "explore", "lab")
    config = init["config"]
    for name in ("commit", "code_sha", "eval_sha", "data_sha", "env_sha", "seed", "label", "stage"):
        assert config[name] == getattr(receipt, name), name
    assert [one["step"] for _, one in logged] == [1, 500, 1000] and logged[0][1]["loss"] == 3.0
    assert (summary["score"], summary["status"], summary["params"]) == (receipt.value, "ok", 1)
    assert finish == {"exit_code": 0, "key": None}  # the queue passes no key on: wandb has its own in ~/.netrc
    names = [name for name, _ in told(packages, "trackio")]
    assert names == ["init", "log", "log", "log", "log", "finish"] and told(packages, "trackio")[4][1]["step"] == 1001
    assert "kkkk" not in (pueue_daemon.folder / "state" / "state.json").read_text() and log(lab) == ""


def test_without_trackers_nothing_is_started_or_imported(lab_repo, still):
    lab = lab_repo()
    call(lab.root, "data")
    measured(lab, 0)
    assert still == [] and not trackers.folder(lab).exists()
    for args in ((), ("--all",)):
        done = call(lab.root, "track", *args, check=False)
        assert done.returncode == 1 and "program.md names no tracker" in done.stderr and "trackers: [wandb, trackio]" in done.stderr
    assert not trackers.folder(lab).exists()
    code = "import sys, monolab.run, monolab.trackers; print([name for name in ('wandb', 'trackio') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    assert set(problem.TRACKERS) == trackers.SENDERS.keys()


def test_each_run_is_sent_once_and_by_hand_what_is_missing(lab_repo, still, monkeypatch):
    lab = lab_repo(**{"program.md": ONE})
    call(lab.root, "data")
    packages = fake(lab, "wandb")
    first, second = measured(lab, 0, 1)
    assert still == [lab, lab]
    monkeypatch.setenv("WANDB_API_KEY", "mine")
    (trackers.folder(lab) / "waiting" / first).unlink()
    assert [(one.run_id, one.what) for one in trackers.waiting(lab)] == [(second, "sent")] and trackers.waiting(lab) == []
    said = call(lab.root, "track", "--all").stdout
    assert re.search(rf"{second}: wandb: sent before, 20\d\d-.*\n{first}: wandb: sent\n", said), said
    assert [what["id"] for name, what in told(packages, "wandb") if name == "init"] == [second, first]
    assert {what["key"] for name, what in told(packages, "wandb") if name == "finish"} == {"mine"}
    assert json.loads(call(lab.root, "track", first, "--json").stdout)[0]["what"].startswith("sent before")
    assert call(lab.root, "track").stdout == "nothing waits to be sent\n"
    gone = trackers.folder(lab) / "waiting" / "20260101T000000-gone-s0-0000"
    gone.touch()
    assert trackers.waiting(lab) == [] and not gone.exists()
    assert "no run matches" in call(lab.root, "track", "nope", check=False).stderr


def test_who_comes_while_another_sends_leaves_it_to_that_one(lab_repo, still, monkeypatch):
    lab = lab_repo(**{"program.md": ONE})
    call(lab.root, "data")
    first, second = measured(lab, 0, 1)
    (trackers.folder(lab) / "waiting" / second).unlink()

    def meanwhile(lab, tracker, what):
        if what["run_id"] == first:
            trackers.nudge(lab, problem.load(lab), second)  # the next run ends, and its process finds this one at work
            assert trackers.waiting(lab) == []
        return "", False

    monkeypatch.setattr(trackers, "_send", meanwhile)
    assert [one.run_id for one in trackers.waiting(lab)] == [first, second]
    assert not list((trackers.folder(lab) / "waiting").iterdir())


def test_what_fails_is_said_once_and_tried_again_after_the_next_run(lab_repo, still):
    lab = lab_repo(**{"program.md": BOTH})
    call(lab.root, "data")
    packages = fake(lab, "wandb", "trackio")
    (packages / "refuses").touch()
    run_ids = measured(lab, 0, 1, 2)
    found = trackers.waiting(lab)
    assert [one.what for one in found if one.tracker == "wandb"] == ["ConnectionError: no way to the server"] * 2 + [
        "not tried: it failed with the runs before"
    ]
    trackers.waiting(lab)
    assert log(lab).count("no way to the server") == 2 and f"wandb: {run_ids[2]} was not sent" in log(lab)
    (packages / "refuses").unlink()
    assert all(one.ok for one in trackers.waiting(lab)) and log(lab).count("works again") == 2
    assert [what["id"] for name, what in told(packages, "wandb") if name == "init"] == run_ids[::-1]
    assert [row.status for row in results.load(lab)] == ["ok"] * 3 and not any("refuse" in row.flags for row in results.load(lab))


def test_a_package_that_is_not_there_is_named_with_the_command_that_puts_it_there(lab_repo, still):
    lab = lab_repo(**{"program.md": ONE})
    call(lab.root, "data")
    (trackers.folder(lab) / "wandb").mkdir(parents=True)  # where wandb keeps its own files: no package, whatever Python makes of it
    measured(lab, 0, 1)
    for _ in range(2):
        assert not any(one.ok for one in trackers.waiting(lab))
    (line,) = log(lab).splitlines()
    assert "wandb: " in line and "the package wandb is not installed. Next: " in line
    assert f"--target {trackers.folder(lab) / 'packages'} wandb" in line
    fake(lab, "wandb")
    assert [one.ok for one in trackers.waiting(lab)] == [True, True]


def test_a_failed_run_is_sent_with_its_status_and_no_value(lab_repo, still):
    lab = lab_repo(**{"program.md": ONE, "train.py": TRAIN + "raise RuntimeError('no luck')\n"})
    call(lab.root, "data")
    packages = fake(lab, "wandb")
    measured(lab, 0)
    assert trackers.waiting(lab)[0].ok
    _, (_, summary), (_, finish) = told(packages, "wandb")
    assert summary["status"] == "crash" and "no luck" in summary["reason"] and "score" not in summary and finish["exit_code"] == 1


def test_a_sender_that_hangs_is_given_up_and_the_run_is_not_held_up(lab_repo, still, monkeypatch):
    lab = lab_repo(**{"program.md": ONE})
    call(lab.root, "data")
    packages = fake(lab, "wandb")
    (packages / "wandb.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(trackers, "SECONDS", 0.5)
    (run_id,) = measured(lab, 0)
    assert [one.what for one in trackers.waiting(lab)] == ["not done within 0.5 s"] and results.load(lab)[0].status == "ok"
    monkeypatch.undo()  # the real one again, which starts a process that hangs
    trackers.nudge(lab, problem.load(lab), run_id)
    alerts._started[-1].kill()
    alerts._started.pop().wait()


def test_the_verdict_goes_with_the_run_that_settled_it(lab_repo, still):
    lab = lab_repo(**{"program.md": ONE})
    call(lab.root, "data")
    packages = fake(lab, "wandb")
    measured(lab, 0, 1, 2)
    call(lab.root, "worktree", "lower")
    tree = lab.worktree("lower") / "train.py"
    tree.write_text(TRAIN.replace("offset: float = 0.0", "offset: float = -0.5"))
    for seed in range(3):
        queue.evaluate(lab, "lower", None, "explore", seed, [])
    assert len(trackers.waiting(lab)) == 6
    last = next(what for name, what in told(packages, "wandb") if name == "summary")  # the newest run goes first
    assert (last["verdict"], last["gate"], last["kept"], last["status"]) == ("supported", "keep", True, "ok")
    assert last["effect"] == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("step 1: 8.000 bits per byte on this batch, 1,234 bytes/s\nstep 1,200: 2.31 bits per byte", [(1, 8.0), (1200, 2.31)]),
        ("epoch 1 step 12/100 lr 1e-3 loss 0.5\nstep=13 | loss=2.5e-1", [(12, 0.5), (13, 0.25)]),
        ('{"step": 3, "loss": 1.5}\n{"step": 3, "loss": 9}', [(3, 1.5)]),
        ("2 steps, 3 parameters\nfootstep 3: 4\nstep one: 4\nstep 4\nthe loss is 3", []),
        ("step 1: nan nats\nstep 2: 1e999 nats\nstep 99999999999999999999999999: 1", []),
    ],
)
def test_the_loss_curve_is_what_the_log_tells(tmp_path, text, points):
    lab = Lab(tmp_path)
    lab.run("one").mkdir(parents=True)
    (lab.run("one") / "train.log").write_text(text)
    assert trackers.curve(lab, "one") == points


def test_a_long_curve_is_thinned_and_ends_where_progress_says(tmp_path):
    lab = Lab(tmp_path)
    (lab.run("one") / "checkpoint").mkdir(parents=True)
    (lab.run("one") / "train.log").write_text("\n".join(f"step {step}: {1 / step}" for step in range(1, 2502)))
    (lab.run("one") / "checkpoint" / "progress.json").write_text('{"step": 2600, "steps": 2600, "loss": 0.25}')
    found = trackers.curve(lab, "one")
    assert len(found) <= trackers.POINTS and found[0] == (1, 1.0) and found[-1] == (2600, 0.25)
    (lab.run("one") / "checkpoint" / "progress.json").write_text('{"step": 2600, "steps": 2600, "loss": NaN}')
    assert trackers.curve(lab, "one")[-1][0] == 2501 and trackers.curve(lab, "none") == []


@pytest.mark.parametrize("given", ["wandb", "[mlflow]", "[wandb, wandb]", "{wandb: true}", "[3]"])
def test_a_list_of_trackers_that_cannot_be_is_refused(lab_repo, given):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", f"memory_gb: 1\ntrackers: {given}\n")})
    with pytest.raises(LabError, match=r"program\.md: `trackers` is .*, not a list of wandb, trackio"):
        problem.load(lab)


# -- the real packages


READ = """
import json, struct, sys
from wandb.proto import wandb_internal_pb2 as pb

data, at, parts, found = open(sys.argv[1], "rb").read(), 7, [], {"history": [], "config": {}, "summary": {}}  # LevelDB's format of logs, after a header
while at < len(data):
    left = 32768 - at % 32768
    if left < 7:
        at += left
        continue
    _, length, kind = struct.unpack("<IHB", data[at : at + 7])
    parts.append(data[at + 7 : at + 7 + length])
    at += 7 + length
    if kind in (1, 4):
        record, parts = pb.Record.FromString(b"".join(parts)), []
        kind = record.WhichOneof("record_type")
        named = lambda items: {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        found["config"] |= named(record.run.config.update) if kind == "run" else {}
        found["summary"] |= named(record.summary.update) if kind == "summary" else {}
        found["history"] += [named(record.history.item)] if kind == "history" else []
        found |= {"exit": record.exit.exit_code} if kind == "exit" else {}
print(json.dumps(found))
"""


def install(lab: Lab, name: str) -> Path:
    packages = trackers.folder(lab) / "packages"
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv) if uv.exists() else "uv", "pip", "install", "--quiet", "--python", sys.executable, "--target", str(packages), name]
    subprocess.run(command, check=True, timeout=250)
    return packages


@pytest.mark.network
def test_the_real_wandb_takes_a_run_offline(lab_repo, still, monkeypatch):
    lab = lab_repo(**{"program.md": ONE, "train.py": LEARNS})
    call(lab.root, "data")
    packages = install(lab, "wandb")
    monkeypatch.setenv("HOME", str(lab.root.parent / "home"))  # nobody's key
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    first, second = measured(lab, 0, 1)
    (one, two) = trackers.waiting(lab)
    assert not one.ok and "No API key configured" in one.what and not two.ok
    settings = trackers.folder(lab) / "wandb" / "settings"  # what holds for queued runs too
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("[default]\nmode = offline\n")
    assert all(one.ok for one in trackers.by_hand(lab, [first]))
    settings.unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert [(one.run_id, one.what) for one in trackers.waiting(lab)] == [(second, "sent")]
    files = {path.stem.removeprefix("run-"): path for path in (trackers.folder(lab) / "wandb").glob("offline-run-*/*.wandb")}
    assert files.keys() == {first, second}
    env = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run([sys.executable, "-c", READ, str(files[first])], capture_output=True, text=True, check=True, env=env)
    found, receipt = json.loads(done.stdout), receipts.receipt(lab, first)
    assert [(one["_step"], one["loss"]) for one in found["history"]] == [(1, 3.0), (500, 0.006), (1000, 0.003)]
    assert found["config"]["code_sha"] == receipt.code_sha and found["summary"]["score"] == receipt.value
    assert found["summary"]["status"] == "ok" and found["exit"] == 0


@pytest.mark.network
def test_the_real_trackio_takes_a_run(lab_repo, still, monkeypatch, tmp_path):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\ntrackers: [trackio]\n"), "train.py": LEARNS})
    call(lab.root, "data")
    install(lab, "trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    (run_id,) = measured(lab, 0)
    assert [one.what for one in trackers.waiting(lab)] == ["sent"]
    receipt, database = receipts.receipt(lab, run_id), sqlite3.connect(tmp_path / "trackio" / "lab.db")
    logged = [
        (step, json.loads(values))
        for step, values in database.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY step", [run_id])
    ]
    assert [(step, values["loss"]) for step, values in logged[:3]] == [(1, 3.0), (500, 0.006), (1000, 0.003)]
    assert logged[3][0] == 1001 and logged[3][1]["score"] == receipt.value
    ((config,),) = database.execute("SELECT config FROM configs WHERE run_name = ?", [run_id])
    assert (json.loads(config)["code_sha"], json.loads(config)["status"]) == (receipt.code_sha, "ok")

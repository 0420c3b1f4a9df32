"""The chaos campaign of benchmarks/chaos.py: every day a few faults, with --slow more; and every invariant of it can fail."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import git
from test_lab import call

from monolab import device
from monolab.paths import Lab

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "chaos.py"


@pytest.fixture
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", CAMPAIGN)
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module  # its dataclasses ask for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]


def campaign(out: Path, *args: str, seconds: float) -> dict:
    """Figures of a campaign; its whole output where it found a violation, or broke off."""
    command = [sys.executable, str(CAMPAIGN), "--out", str(out), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_a_dozen_faults_leave_nothing_lost_doubled_or_alive(tmp_path):
    kinds = ("kill-run", "kill-trainer", "kill-daemon", "kill-command", "kill-run-and-guard", "truncate-results", "disk-full")
    found = campaign(tmp_path / "figures.json", "--faults", "12", "--lanes", "1", "--kinds", *kinds, seconds=280)
    assert found["faults"] >= 12 and found["violations"] == [] and set(found["injected"]) <= set(kinds)
    assert found["checks"] == found["rounds"] * len(found["invariants"]) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_faults_of_every_kind_leave_nothing_lost_doubled_or_alive(tmp_path):
    found = campaign(tmp_path / "figures.json", "--faults", "100", "--seed", "1", seconds=1700)
    assert found["faults"] >= 100 and found["violations"] == [] and len(found["injected"]) > 12 and found["lines_killed_at"] > 5


def test_every_kind_of_fault_is_listed():
    done = subprocess.run([sys.executable, str(CAMPAIGN), "--list"], capture_output=True, text=True, timeout=60)
    assert {"kill-run", "line-run", "disk-full", "move-clock"} <= {line.split()[0] for line in done.stdout.splitlines()}


def test_every_invariant_sees_what_it_is_for(chaos, lab_repo, pueue_home, tmp_path):
    lab = lab_repo()
    call(lab.root, "data")
    for seed in "012":
        call(lab.root, "eval", "--seed", seed)
    call(lab.root, "worktree", "lower")
    for seed in "012":
        call(lab.root, "eval", "lower", "--seed", seed, "--offset", "-0.5")
    assert (lab.runs / "verdicts.jsonl").exists()
    runs = sorted(path.parent.name for path in lab.runs.glob("*/receipt.json"))
    first, second = (lab.run(run) for run in runs[:2])
    for number, run in enumerate((first, second)):
        (run / "checkpoint" / "beats.txt").write_text(f"start\n{number}.1\n{number}.9\n{number}.")

    def scene(where: Lab, **more) -> SimpleNamespace:
        usual = {
            "root": where.root,
            "accepted": {runs[0]},
            "hung": [],
            "processes": lambda *roles: [],
            "must": lambda command, cwd: git(cwd, *command[1:]),
            "lab": lambda *command: subprocess.CompletedProcess(command, 0),
        }
        return SimpleNamespace(**usual | more)

    memory = chaos.Memory()
    assert chaos.check(scene(lab), memory) == []

    def text(path: Path, old: str, new: str) -> None:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def last_line_again(path: Path) -> None:
        with path.open("a") as file:
            file.write(path.read_text().splitlines()[-1] + "\n")

    def journal_twice(where: Lab) -> None:
        head, mark, entries = where.journal.read_text().partition("\n## ")
        where.journal.write_text(f"{head}{mark}{entries}{mark}{entries}")

    one, two = runs[:2]
    alive = {"processes": lambda *roles: [chaos.Process(1, role) for role in (roles or ("trainer",))]}
    refuses = {"lab": lambda *command: call(lab.root, "verdict", "unknown", check=False)}
    two_daemons = {"processes": lambda *roles: [chaos.Process(pid, "daemon") for pid in (1, 2)]}
    damages = {  # what is done to a copy of the lab: the invariant that must not hold then
        "one row": lambda where: last_line_again(where.results),
        "chain": lambda where: text(where.results, "\tok\t", "\tcrash\t"),
        "rebuild": lambda where: where.results.write_text(where.results.read_text().rstrip("\n")),
        "one at a time": lambda where: (where.run(two) / "checkpoint" / "beats.txt").write_text("start\n0.5\n1.9\n"),
        "append only": lambda where: text(where.journal, "Expected: ", "Expected (as I always said): "),
        "receipts stay": lambda where: text(where.run(one) / "receipt.json", '"seconds": ', '"seconds": 1'),
        "none lost": lambda where: shutil.rmtree(where.run(one)),
        "none twice": lambda where: (where.run(two) / "checkpoint" / "beats.txt").write_text("start\n1.1\nstart\n1.2\n"),
        "asked again": lambda where: text(where.run(one) / "receipt.json", '"status": "ok"', '"status": "interrupted"'),
        "one look": lambda where: last_line_again(where.runs / "verdicts.jsonl"),
        "code kept": lambda where: git(where.root, "update-ref", "-d", f"refs/lab/runs/{one}"),
    }
    others = {"alone": alive, "one daemon": two_daemons, "in order": refuses, "device free": {}}
    assert damages.keys() | others.keys() == chaos.INVARIANTS.keys()

    def wrong(name: str, where: Lab, **more) -> list[str]:
        kept = chaos.Memory(memory.entries, dict(memory.ledgers), dict(memory.receipts), dict(memory.beats))
        return chaos.INVARIANTS[name][0](chaos.Check(scene(where, **more), kept))

    def copy_of_lab(name: str) -> Lab:
        shutil.copytree(lab.root, tmp_path / name, symlinks=True)
        return Lab(tmp_path / name)

    for number, (name, damage) in enumerate(damages.items()):
        where = copy_of_lab(f"copy{number}")
        assert wrong(name, where) == []
        damage(where)
        assert wrong(name, where), name
    for name, more in others.items():
        assert wrong(name, lab) == []
        with device.lock(device.detect(), print, run=one, lab=str(lab.root)) if name == "device free" else contextlib.nullcontext():
            assert wrong(name, lab, **more), name
    where = copy_of_lab("journal")
    journal_twice(where)
    kept = chaos.Memory()
    assert chaos.Check(scene(where), kept).append_only() == []
    assert chaos.Check(scene(where), kept).one_look()

"""The planted cheats of benchmarks/cheats.py: every day a few of them, with --slow the whole suite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monolab import sandbox

SUITE = Path(__file__).parents[1] / "benchmarks" / "cheats.py"
CHEATS, ODDITIES = 30, 10  # at least


def suite(*args: str, seconds: float) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "PUEUE_CONFIG_PATH"}
    return subprocess.run([sys.executable, str(SUITE), *args], env=env, text=True, capture_output=True, timeout=seconds)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Text of our own, so that nothing is fetched: 400 small documents of made-up words."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(400):
        words = (f"{'abcdefghij'[(number * 7 + place * place) % 10] * (place % 5 + 1)}{number % 13}" for place in range(400))
        (folder / f"{number}.txt").write_text(f"document {number}\n" + " ".join(words))
    return folder


def test_every_case_is_listed_and_says_what_it_tries():
    done = suite("--list", seconds=60)
    assert done.returncode == 0, done.stderr
    *lines, total = done.stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert sorted(names) == sorted(path.stem for path in SUITE.with_suffix("").glob("*.py"))
    honest = [name for name in names if name.startswith("honest-")]
    still_open = [line for line in lines if line.split()[1] == "open"]
    assert len(honest) >= ODDITIES
    assert len(names) - len(honest) - len(still_open) >= CHEATS
    assert total == f"{len(names) - len(honest)} cheats ({len(still_open)} known to be open), {len(honest)} honest oddities"


def test_every_open_case_stands_in_the_threat_model():
    page = (SUITE.parents[1] / "0_docs" / "threat-model.md").read_text()
    for line in suite("--list", seconds=60).stdout.splitlines()[:-1]:
        name, kind = line.split()[:2]
        assert kind != "open" or f"`{name}`" in page


def test_an_unknown_case_is_named():
    done = suite("--only", "no-such-cheat", seconds=60)
    assert done.returncode == 1
    assert "no case is called no-such-cheat" in done.stderr


def test_some_cheats_are_caught(text, tmp_path):
    """One refused before it starts, one by its records, one by the scorer, in a lab of the suite's own."""
    table = tmp_path / "table.json"
    names = ("edits-scorer-in-worktree", "edits-row-by-hand", "future-attention")
    done = suite("--only", *names, "--source", str(text), "--lanes", "1", "--json", str(table), seconds=280)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {case["name"]: case for case in json.loads(table.read_text())["cases"]}
    assert set(cases) == set(names)
    assert {case["outcome"] for case in cases.values()} == {"caught"}
    assert "eval.py is FROZEN" in cases["edits-scorer-in-worktree"]["message"]
    assert "differs from its receipt" in cases["edits-row-by-hand"]["message"]
    assert "not causal" in cases["future-attention"]["message"]


@pytest.mark.slow
@pytest.mark.network  # the root problem's own text
@pytest.mark.timeout(2400)
def test_no_cheat_escapes_and_nothing_honest_is_accused(tmp_path):
    table = tmp_path / "table.json"
    done = suite("--json", str(table), seconds=2300)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(table.read_text())["cases"]
    outcomes = [case["outcome"] for case in cases if not case["honest"]]
    if sandbox.probe().kind != "none":
        assert outcomes.count("caught") >= CHEATS
    assert set(outcomes) <= {"caught", "OPEN", "not tried"}
    assert [case["outcome"] for case in cases if case["honest"]].count("passed") >= ODDITIES

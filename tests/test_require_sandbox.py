"""`--require-sandbox`: runs that may not start without isolation, by every command that asks for one, also where bubblewrap is gone by then."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_gate import NOISY, offset
from test_lab import add_idea, call

from monolab import backlog, receipts, results, sandbox
from monolab.paths import Lab

needs_sandbox = pytest.mark.skipif(sandbox.probe().kind == "none", reason=sandbox.probe().reason)


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Call it, and no command finds bubblewrap any more: a PATH with all that there was, but for bwrap."""

    def hide() -> None:
        folder = tmp_path / "programs"
        folder.mkdir()
        for place in map(Path, os.environ["PATH"].split(os.pathsep)):
            for program in place.iterdir() if place.is_dir() else ():
                if program.name != "bwrap" and not (folder / program.name).is_symlink():
                    (folder / program.name).symlink_to(program)
        monkeypatch.setenv("PATH", f"{Path(sys.prefix, 'bin')}{os.pathsep}{folder}")

    return hide


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    return lab


def of(lab: Lab, idea: str) -> list[receipts.Receipt]:
    return [receipts.receipt(lab, row.run_id) for row in results.load(lab) if row.idea == idea]


@needs_sandbox
def test_the_flag_is_in_every_request_and_travels_to_what_the_lab_queues_itself(lab, wait_until):
    call(lab.root, "baseline", "--require-sandbox")
    offset(lab, "shift", -0.2)
    call(lab.root, "queue", "shift", "Q: does an offset help? H: expect -0.2 score, 80%", "--require-sandbox")
    wait_until(lambda: not backlog.unfinished(lab))
    assert len(of(lab, "shift")) == 3  # its first seed, and two replicates that nobody asked for by hand
    for receipt in of(lab, "baseline") + of(lab, "shift"):
        assert receipts.SANDBOXED in receipt.flags and receipt.isolation.startswith("bwrap")
    call(lab.worktree("shift"), "eval", "--seed", "9", "--require-sandbox", "--offset", "0.5")
    assert of(lab, "shift")[-1].flags.count(receipts.SANDBOXED) == 1 and of(lab, "shift")[-1].args == ("--offset", "0.5")
    offset(lab, "worse", 0.2)
    call(lab.root, "queue", "worse", "Q: does it hurt? H: expect -0.2 score, 10%")
    wait_until(lambda: not backlog.unfinished(lab))
    call(lab.root, "replicate", "worse", "--require-sandbox")
    wait_until(lambda: not backlog.unfinished(lab))
    first, *later = of(lab, "worse")
    assert receipts.SANDBOXED not in first.flags and later and all(receipts.SANDBOXED in one.flags for one in later)


@needs_sandbox
def test_a_run_that_was_queued_with_a_sandbox_does_not_start_where_it_is_gone(lab, without):
    """The request is bound, not the moment: bubblewrap is there when it is queued, and is not when its turn comes."""
    subprocess.run(["pueue", "group", "add", "lab-cpu"], check=True, capture_output=True)
    subprocess.run(["pueue", "pause", "--group", "lab-cpu"], check=True, capture_output=True)
    (asked,) = json.loads(call(lab.root, "baseline", "--require-sandbox", "--seeds", "1", "--json").stdout)
    without()
    done = call(lab.root, "run", asked, check=False)
    told = "baseline is asked for with --require-sandbox, which requires a sandbox, and there is none: bubblewrap is not installed"
    assert done.returncode == 1 and told in done.stderr and "apt install bubblewrap" in done.stderr, done.stderr
    assert told in json.loads((lab.run(asked) / "refused.json").read_text())["what"] and receipts.receipt(lab, asked) is None


def test_without_a_sandbox_every_command_says_so_at_once_and_queues_nothing(lab, without):
    add_idea(lab, "plain")
    without()
    for command in (
        ("queue", "plain", "Q: a? H: expect -0.1 score, 50%"),
        ("baseline",),
        ("eval", "plain"),
        ("replicate", "plain"),
    ):
        done = call(lab.root, *command, "--require-sandbox", check=False)
        assert done.returncode == 1 and "sandbox, and there is none: bubblewrap is not installed" in done.stderr, done.stderr
    assert not list(lab.runs.glob("*/request.json"))
    call(lab.root, "eval", "plain")  # unasked, a run goes on, and says what it lacked
    assert of(lab, "plain")[0].isolation == "none" and receipts.SANDBOXED not in of(lab, "plain")[0].flags

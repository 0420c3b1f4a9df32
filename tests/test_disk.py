"""The disk budget: the oldest checkpoints go, never what is still needed, and everything that would miss one says where it went."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
from conftest import PROGRAM
from test_index import look
from test_lab import add_idea, call
from test_results import make

from monolab import backlog, disk, problem, receipts, results, verdicts
from monolab.paths import Lab

MB = 2**20


@pytest.fixture
def lab(lab_repo) -> Lab:
    return lab_repo()


def subject(lab: Lab, mb: float) -> problem.Problem:
    """The lab's problem, with room for `mb` MiB of checkpoints."""
    return replace(problem.load(lab), checkpoints_gb=mb / 1024, disk_gb=0.0)


def ran(lab: Lab, number: int, idea: str = "rope", **changes) -> str:
    """A finished run with a checkpoint of 1 MiB, a log, and code that is left over."""
    receipt = make(number, idea=idea, run_id=f"20261121T0900{number:02}-{idea}-s{number}-{number:04x}", **changes)
    request = receipts.Request(**{name: getattr(receipt, name) for name in receipts.Request.__dataclass_fields__})
    receipts.write_request(lab, request)
    folder = lab.run(request.run_id)
    (folder / "checkpoint" / "weights").mkdir(parents=True)
    (folder / "checkpoint" / "weights" / "model.bin").write_bytes(bytes([number]) * MB)
    (folder / "train.log").write_text("a log")
    results.finish(lab, lambda prev: replace(receipt, prev=prev))
    backlog.finished_with(lab, request.run_id)
    return request.run_id


def kept(lab: Lab) -> list[str]:
    return sorted(path.parent.name for path in lab.runs.glob("*/checkpoint"))


def test_within_the_budget_nothing_goes(lab):
    runs = [ran(lab, number) for number in range(4)]
    assert disk.keep_within(lab, subject(lab, 5)) == [] and kept(lab) == runs


def test_the_oldest_go_first_and_only_their_checkpoints(lab):
    runs = [ran(lab, number) for number in range(6)]
    assert disk.keep_within(lab, subject(lab, 3.5)) == runs[:3]
    assert kept(lab) == runs[3:]
    for run_id in runs[:3]:
        assert sorted(path.name for path in lab.run(run_id).iterdir()) == ["checkpoint.removed.json", "receipt.json", "request.json", "train.log"]
        told = json.loads((lab.run(run_id) / "checkpoint.removed.json").read_text())
        assert told["checkpoint_sha"] == receipts.receipt(lab, run_id).checkpoint_sha and told["bytes"] >= MB and told["time"].endswith("Z")
        assert "removed by the disk budget" in disk.removal(lab, run_id) and f"just reproduce {run_id}" in disk.removal(lab, run_id)
    assert disk.removal(lab, runs[4]) == ""
    assert disk.use(lab) < 3.5 * MB
    runs.append(ran(lab, 6))  # counted from here on, without looking at the others again
    assert disk.keep_within(lab, subject(lab, 3.5)) == [runs[3]]
    assert results.audit(lab) == []


def test_what_is_still_needed_stays(lab):
    old = [ran(lab, number, idea) for number, idea in enumerate(("baseline", "kept", "anchor", "open", "open", "sibling", "dropped"))]
    for place in (0, 2):
        assert disk.protected(lab, subject(lab, 0)) >= {old[0]}
        verdicts.record(lab, look(*(("kept", (old[1],), "keep") if place == 0 else ("open", (old[3],), "more")), anchor_runs=(old[place],)))
    verdicts.record(lab, look("dropped", (old[6],), "drop"))
    waits = receipts.Request(**{name: getattr(make(50, idea="sibling"), name) for name in receipts.Request.__dataclass_fields__})
    receipts.write_request(lab, waits)  # a second seed that has not run
    free = [ran(lab, 10), ran(lab, 11)]
    assert disk.keep_within(lab, subject(lab, 0)) == [old[6], old[4], *free]  # no look has seen the others: they go last
    assert kept(lab) == sorted(old[place] for place in (0, 1, 2, 3, 5))
    backlog.finished_with(lab, waits.run_id)
    assert disk.keep_within(lab, subject(lab, 0)) == [old[5]]


def test_what_no_look_has_seen_goes_last_with_what_it_is_compared_with(lab):
    parent = ran(lab, 0, "parent")
    due = [ran(lab, number, "due", parent=parent) for number in (1, 2)]
    spoiled = ran(lab, 3, "due", status="invalid", value=None, flags=("contaminated",))
    judged = [ran(lab, number, "judged") for number in (4, 5)]
    verdicts.record(lab, look("judged", tuple(judged), "drop"))
    verdicts.record(lab, look("parent", (parent,), "drop"))
    assert disk.keep_within(lab, subject(lab, 3.5)) == [spoiled, *judged]
    assert disk.keep_within(lab, subject(lab, 0.5)) == [parent, *due]
    assert kept(lab) == []


def test_an_unfinished_run_keeps_what_it_has_written(lab):
    running = receipts.Request(**{name: getattr(make(1), name) for name in receipts.Request.__dataclass_fields__})
    receipts.write_request(lab, running)
    (lab.run(running.run_id) / "checkpoint").mkdir()
    (lab.run(running.run_id) / "checkpoint" / "model.bin").write_bytes(b"x" * MB)
    done = ran(lab, 2, idea="other")
    assert disk.keep_within(lab, subject(lab, 0)) == [done] and kept(lab) == [running.run_id]


@pytest.mark.parametrize("calls", [0, 1])
def test_killed_while_it_removes_it_is_done_the_next_time(lab, monkeypatch, calls):
    runs, left = [ran(lab, number) for number in range(3)], [calls]

    def killed(*args, **kwargs):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(disk.shutil, "rmtree", killed)
        disk.keep_within(lab, subject(lab, 2.5))
    assert (lab.run(runs[0]) / disk.GONE).exists() == (calls == 1) and json.loads((lab.run(runs[0]) / disk.RECORD).read_text())
    disk.keep_within(lab, subject(lab, 2.5))
    assert sorted(path.name for path in lab.run(runs[0]).iterdir()) == ["checkpoint.removed.json", "receipt.json", "request.json", "train.log"]
    assert kept(lab) == runs[1:]


def test_checkpoints_that_somebody_else_removed_are_not_counted_for_ever(lab):
    runs = [ran(lab, number) for number in range(4)]
    disk.keep_within(lab, subject(lab, 10))
    shutil.rmtree(lab.run(runs[0]) / "checkpoint")
    (lab.run(runs[1]) / "checkpoint" / "weights" / "model.bin").unlink()
    assert disk.keep_within(lab, subject(lab, 2.5)) == []  # there are two left
    assert kept(lab) == runs[1:] and disk.use(lab) < 2.5 * MB


def test_a_lost_count_is_made_again(lab):
    runs = [ran(lab, number) for number in range(3)]
    disk.keep_within(lab, subject(lab, 10))
    (lab.runs / ".index" / "records.sqlite").unlink()
    assert disk.keep_within(lab, subject(lab, 1.5)) == runs[:2]


def test_status_tells_of_it_near_the_budget(lab):
    from monolab import status

    ran(lab, 1)
    ran(lab, 2)
    tight = PROGRAM.replace("memory_gb: 1\n", f"memory_gb: 1\ncheckpoints_gb: {2.2 / 1024}\n")
    disk.keep_within(lab, subject(lab, 2.2))
    assert "\ndisk " not in status.text(status.facts(lab))
    lab.program.write_text(tight)
    known = status.facts(lab)
    assert known["checkpoints"]["bytes"] >= 2 * MB and "\ndisk     checkpoints take 0.00195 of" in status.text(known)


def test_a_lab_that_runs_keeps_its_budget_and_everyone_is_told(lab_repo, pueue_home):
    """Real runs by hand: after each, only what is needed stays; audit and verify say where the others went; reproduce makes it again."""
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\ncheckpoints_gb: 0\n")})
    call(lab.root, "data")
    call(lab.root, "eval")
    tree = add_idea(lab, "shift")
    call(tree, "eval", "--offset", "-0.5")
    base, shift = (row.run_id for row in results.load(lab))
    assert kept(lab) == [base]
    assert "removed by the disk budget" in call(lab.root, "audit", shift, check=False).stdout
    (told,) = [one for one in json.loads(call(lab.root, "audit", shift, "--json", check=False).stdout) if one["name"] == "checkpoint"]
    assert told["ok"] is None and f"just reproduce {shift}" in told["what"]
    assert "identical to the digit" in call(lab.root, "reproduce", shift).stdout
    assert results.audit(lab) == []
    assert asdict(receipts.receipt(lab, shift))["checkpoint_sha"]


def test_short_of_space_checkpoints_go_before_a_run_is_refused(lab_repo, pueue_home):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\ndisk_gb: 1000000000\n")})
    runs = [ran(lab, 1), ran(lab, 2)]
    call(lab.root, "data")
    done = call(lab.root, "eval", check=False)
    assert done.returncode == 1 and "GiB free" in done.stderr and "checkpoints of 2 run(s) were removed" in done.stderr
    assert kept(lab) == [] and "GiB were free" in disk.removal(lab, runs[0])

"""What is still to come for a lab: runs that wait in pueue, wait for the device, or run."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from monolab import pueue, receipts
from monolab.paths import Lab

RUN_ID = re.compile(r"\d{8}T\d{6}-[a-z0-9-]+-s\d+-[0-9a-f]{4}")


def unfinished(lab: Lab, known: list[pueue.Task] | None = None) -> dict[str, pueue.Task]:
    """Tasks of this lab that pueue has not finished, by run id (hand-typed ones by their number and command). `known`: what pueue told already."""
    return {run_of(lab, task) or f"#{task.id} {task.command}": task for task in tasks(lab, known) if task.state != "Done"}


def tasks(lab: Lab, known: list[pueue.Task] | None = None) -> list[pueue.Task]:
    """Every task of this lab that pueue knows."""
    return [task for task in (pueue.tasks() if known is None else known) if task.path == str(lab.root) or task.path.startswith(f"{lab.root}/")]


def run_of(lab: Lab, task: pueue.Task) -> str | None:
    """The run that a task carries out, where `lab queue` added it."""
    run_id = named_by(task)
    return run_id if run_id and asked_for(lab, run_id) else None


def named_by(task: pueue.Task) -> str | None:
    """The run that a task's command names, whether or not the lab knows it."""
    found = RUN_ID.search(task.command)
    return found[0] if found else None


def over(lab: Lab, run_id: str) -> bool:
    """Whether nothing more will come of a run: it has its receipt, was cancelled, or was refused."""
    folder = f"{lab.runs}/{run_id}"  # asked of thousands: a Path takes ten times as long
    return any(os.path.exists(f"{folder}/{name}") for name in ("receipt.json", "cancelled.json", "refused.json"))


def started(lab: Lab, run_id: str) -> bool:
    """Whether a process began to carry a run out, and has not ended it."""
    return os.path.exists(f"{lab.runs}/{run_id}/started.json")


def asked_for(lab: Lab, run_id: str) -> bool:
    """Whether a run has its request."""
    return os.path.exists(f"{lab.runs}/{run_id}/request.json")


def opened(lab: Lab) -> list[str]:
    """The runs that were asked for on this machine and that it has not finished with, oldest first: no receipt, or what follows from it is not done."""
    try:
        names = sorted(os.listdir(receipts.open_marks(lab)))
    except FileNotFoundError:
        return []
    return [name for name in names if asked_for(lab, name)]


def finished_with(lab: Lab, run_id: str) -> None:
    """Nothing more follows from a run: its retry is queued, if it gets one, and the verdict that waited for it is recorded."""
    (receipts.open_marks(lab) / run_id).unlink(missing_ok=True)


def this_process() -> dict:
    """What `alive` knows this process by, whatever becomes of clocks and pids: pid, ticks from boot to its start, boot."""
    pid = os.getpid()
    return {"pid": pid, "ticks": _ticks(pid), "boot": _boot()}


def alive(lab: Lab, run_id: str) -> int | None:
    """The process that carries out a run, or waits for the device to, if it is alive and still the same one."""
    for name in ("started.json", "waiting.json"):
        try:
            told = json.loads((lab.run(run_id) / name).read_text())
        except FileNotFoundError:
            continue
        # The start's time in seconds would move with the clock, and a pid is another process's after a while.
        if told.get("boot") == _boot() and told.get("ticks") == _ticks(told["pid"]):
            return told["pid"]
    return None


@contextmanager
def claim(lab: Lab, run_id: str) -> Iterator[bool]:
    """Whether this process is the one that carries out a run, or ends it in the place of one that is gone: there is never a second.

    The claim is a lock on the request's own file, which the kernel drops with the process.
    """
    handle = os.open(lab.run(run_id) / "request.json", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except BlockingIOError:
        mine = False
    try:
        yield mine
    finally:
        os.close(handle)


def lives(pid: int) -> bool:
    """Whether there is such a process: one that has ended and that nobody has waited for, a zombie, does nothing any more."""
    return _ticks(pid) is not None


def _ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where there is none, or only its exit code is left."""
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(facts[18])


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def pending(lab: Lab, without: str = "") -> list[receipts.Request]:
    """Every request that still waits or runs, other than `without`, and every one that nothing came of yet: the doctor queues it again.

    Not one that was to run at once, by hand, and whose process is gone: that is withdrawn.
    """
    answers = pueue.answers()
    queued = unfinished(lab) if answers else {}
    asked = {*opened(lab), *(name for name in queued if not name.startswith("#"))}
    open_ = [name for name in sorted(asked) if name != without and not over(lab, name)]
    found = [receipts.request(lab, name) for name in open_]
    return [one for one in found if not answers or one.run_id in queued or "at-start" not in one.flags or alive(lab, one.run_id)]


def asked(lab: Lab, idea: str) -> list[str]:
    """Every run that was ever asked for an idea (or for one whose slug ends in the same words), by its folder's name alone, oldest first."""
    names = os.listdir(lab.runs) if lab.runs.is_dir() else []  # globbing would look into all of them
    return sorted(name for name in names if f"-{idea}-s" in name and asked_for(lab, name))


def given_up(lab: Lab, idea: str) -> list[receipts.Request]:
    """The requests of an idea that were cancelled before they ran, or refused."""
    gone = [name for name in asked(lab, idea) if any((lab.run(name) / kind).exists() for kind in ("cancelled.json", "refused.json"))]
    return [receipts.request(lab, name) for name in gone]


def to_come(lab: Lab, without: str = "") -> list[tuple[str, str | None, str | None, tuple[str, ...] | None]]:
    """(idea, stage, code_sha, args) of every run still to come, other than `without`.

    A hand-typed task that has not started says only which worktree it stands in: the rest is None.
    """
    found = [(one.idea, one.stage, one.code_sha, one.args) for one in pending(lab, without)]
    for task in unfinished(lab).values() if pueue.answers() else ():
        folder = task.path.removeprefix(str(lab.worktrees)).strip("/").split("/")[0]
        if run_of(lab, task) is None and task.state != "Running" and task.path.startswith(str(lab.worktrees)):
            found.append((folder, None, None, None))
    return found

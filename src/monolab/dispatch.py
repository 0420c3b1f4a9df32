"""From requests to tasks of the real pueue daemon."""

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from loguru import logger

from monolab import alerts, device, pueue, receipts, snapshot
from monolab.paths import Lab
from monolab.receipts import Request

KEEP_DONE = 200  # finished tasks of ours that pueue keeps; thousands make it slow, and their logs lie in 6_runs/
TYPED = re.compile(r"(^|[\s/;&|])(just|lab)\s")  # a command of ours
FILLING = "filler"  # a file in 6_runs/.agent/, there while an autopilot fills an idle device
SLOTS = 2  # of a device's group: one run has the device, the next is ready and waits for its lock. More would only wait
LAST = -1  # of what fills an idle device: any idea goes before it
FIRST = 1  # pueue's priority of runs that an open question waits for; new ideas have 0


def follow(lab: Lab) -> None:
    """Called when a run begins: where the device is to be filled, what comes next is looked for beside it, in a process of its own."""
    if (lab.runs / ".agent" / FILLING).exists():
        alerts.beside(lab, "tune", "--top-up")


def prepare() -> str:
    """A daemon that answers, and this machine's group in it; the group's name. LabError where pueue is missing."""
    pueue.ensure_daemon()
    group = f"lab-{device.detect().name}"
    pueue.ensure_group(group, SLOTS)
    pueue.revive(group)
    known = pueue.tasks()
    scrub(known)
    if sum(task.state == "Done" for task in known if task.group == group) > KEEP_DONE:
        pueue.clean(group)
    return group


def scrub(known: list[pueue.Task]) -> None:
    """Take keys out of what pueue stores of tasks that carry out our commands and that somebody typed: it is their whole environment."""
    held = [task for task in known if task.keys and TYPED.search(task.command)]
    pueue.scrub(held)
    for task in held:
        does = {"Done": "removed from pueue (lab log has what it printed)", "Running": "there until it is over"}.get(task.state, "taken out")
        logger.warning(f"pueue's state file held {', '.join(task.keys)} of task {task.id}, typed by hand: {does}; just queue passes no keys on")


@contextmanager
def asking(lab: Lab) -> Iterator[None]:
    """Held from before requests are written until they are queued: so long nobody else takes them for lost. Several may ask at once."""
    handle = _asking(lab)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def nobody_asks(lab: Lab) -> Iterator[bool]:
    """Whether nobody is between writing a request and queueing it; nobody begins to while this is held. Never waits."""
    handle = _asking(lab)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    try:
        yield free
    finally:
        os.close(handle)


def _asking(lab: Lab) -> int:
    receipts.open_marks(lab).mkdir(parents=True, exist_ok=True)
    return os.open(receipts.open_marks(lab) / ".asking", os.O_CREAT | os.O_RDWR, 0o666)


def write(lab: Lab, requests: list[Request]) -> None:
    """Give every request its folder, and pin its code. One whose id is taken gets another one, in the list too."""
    taken = {}
    for place, asked in enumerate(requests):
        request = replace(asked, parent=taken.get(asked.parent, asked.parent))
        while not _claim(lab, request.run_id):
            request = replace(request, run_id=receipts.new_id(request.idea, request.seed))
        taken[asked.run_id] = request.run_id
        requests[place] = request
        receipts.write_request(lab, request)
        snapshot.keep(lab, request.run_id, request.commit, request.code_sha)


def _claim(lab: Lab, run_id: str) -> bool:
    """Make the run's folder; False where another run, asked for in the same second, has drawn the same id."""
    receipts.mark_open(lab, run_id)  # first: what is left of it, should this process be killed, is found by the mark
    try:
        lab.run(run_id).mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def send(lab: Lab, requests: list[Request], group: str, delay: float = 0.0) -> None:
    """Queue requests that are written, to run in `delay` seconds at the earliest. Where the daemon dies in between, what never was queued leaves no trace."""
    queued = 0
    try:
        for request in requests:
            add(lab, request, group, delay)
            queued += 1
    finally:
        withdraw(lab, requests[queued:])


def add(lab: Lab, request: Request, group: str, delay: float = 0.0) -> int:
    """Make pueue's task for a request; its number."""
    command = [str(Path(sys.executable).with_name("lab")), "run", request.run_id]
    return pueue.add(command, group=group, label=request.label or None, cwd=lab.root, priority=_priority(request), delay=delay)


def _priority(request: Request) -> int:
    """What an open question waits for goes first, a new idea next; whatever only fills the device comes last, its replicates too."""
    return LAST if "filler" in request.flags else FIRST if {"replicate", "retry"} & set(request.flags) else 0


def withdraw(lab: Lab, requests: list[Request]) -> None:
    """Undo `write`, for what never was queued."""
    for request in requests:
        (lab.run(request.run_id) / "request.json").unlink()
        forget(lab, request.run_id)


def forget(lab: Lab, run_id: str) -> None:
    """Leave no trace of a run that has no request (any more)."""
    folder = lab.run(run_id)
    if folder.is_dir():
        for temporary in folder.glob(".request.json-*"):  # whoever wrote it was killed
            temporary.unlink()
        folder.rmdir()
    snapshot.forget(lab, run_id)
    (receipts.open_marks(lab) / run_id).unlink(missing_ok=True)


def replicate(template: Request, seed: int, parent: str) -> Request:
    """The same code, options and prediction under another seed."""
    flags = tuple(flag for flag in template.flags if flag not in ("at-start", "replicate", "retry"))
    new = {"run_id": receipts.new_id(template.idea, seed), "seed": seed, "parent": parent, "queued": receipts.now(), "flags": (*flags, "replicate")}
    return Request(**asdict(template) | new | {"args": template.args, "retry_of": ""})

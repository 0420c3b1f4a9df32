"""From requests to tasks of the real pueue daemon."""

import sys
from dataclasses import asdict
from pathlib import Path

from monolab import device, pueue, receipts, snapshot
from monolab.paths import Lab
from monolab.receipts import Request

KEEP_DONE = 200  # finished tasks of ours that pueue keeps; thousands make it slow, and their logs lie in 6_runs/
FIRST = 1  # pueue's priority of runs that an open question waits for; new ideas have 0


def prepare() -> str:
    """A daemon that answers, and this machine's group in it; the group's name. LabError where pueue is missing."""
    started = pueue.ensure_daemon()
    group = f"lab-{device.detect().name}"
    pueue.ensure_group(group)
    if started and pueue.groups()[group].status == "Paused":  # as a daemon does that comes back to queued tasks
        pueue.resume(group)
    if sum(task.state == "Done" for task in pueue.tasks() if task.group == group) > KEEP_DONE:
        pueue.clean(group)
    return group


def write(lab: Lab, requests: list[Request]) -> None:
    """Give every request its folder, and pin its code."""
    for request in requests:
        snapshot.keep(lab, request.run_id, request.commit, request.code_sha)
        receipts.write_request(lab, request)


def send(lab: Lab, requests: list[Request], group: str, priority: int = 0) -> None:
    """Queue requests that are written. Where the daemon dies in between, what never was queued leaves no trace."""
    queued = 0
    try:
        for request in requests:
            command = [str(Path(sys.executable).with_name("lab")), "run", request.run_id]
            pueue.add(command, group=group, label=request.label or None, cwd=lab.root, priority=priority)
            queued += 1
    finally:
        withdraw(lab, requests[queued:])


def withdraw(lab: Lab, requests: list[Request]) -> None:
    """Undo `write`, for what never was queued."""
    for request in requests:
        (lab.run(request.run_id) / "request.json").unlink()
        lab.run(request.run_id).rmdir()
        snapshot.forget(lab, request.run_id)


def replicate(template: Request, seed: int, parent: str) -> Request:
    """The same code, options and prediction under another seed."""
    flags = tuple(flag for flag in template.flags if flag not in ("at-start", "replicate"))
    new = {"run_id": receipts.new_id(template.idea, seed), "seed": seed, "parent": parent, "queued": receipts.now(), "flags": (*flags, "replicate")}
    return Request(**asdict(template) | new | {"args": template.args})

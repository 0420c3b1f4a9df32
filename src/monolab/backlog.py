"""What is still to come for a lab: runs that wait in pueue, wait for the device, or run."""

import json
import re

import psutil

from monolab import pueue, receipts
from monolab.paths import Lab

RUN_ID = re.compile(r"\d{8}T\d{6}-[a-z0-9-]+-s\d+-[0-9a-f]{4}")


def unfinished(lab: Lab) -> dict[str, pueue.Task]:
    """Tasks of this lab that pueue has not finished, by run id (hand-typed ones by their number and command)."""
    return {run_of(lab, task) or f"#{task.id} {task.command}": task for task in tasks(lab) if task.state != "Done"}


def tasks(lab: Lab) -> list[pueue.Task]:
    """Every task of this lab that pueue knows."""
    return [task for task in pueue.tasks() if task.path == str(lab.root) or task.path.startswith(f"{lab.root}/")]


def run_of(lab: Lab, task: pueue.Task) -> str | None:
    """The run that a task carries out, where `lab queue` added it."""
    found = RUN_ID.search(task.command)
    return found[0] if found and (lab.run(found[0]) / "request.json").is_file() else None


def over(lab: Lab, run_id: str) -> bool:
    """Whether nothing more will come of a run: it has its receipt, was cancelled, or was refused."""
    return any((lab.run(run_id) / name).exists() for name in ("receipt.json", "cancelled.json", "refused.json"))


def alive(lab: Lab, run_id: str) -> int | None:
    """The process that carries out a run, or waits for the device to, if it is alive and still the same one."""
    for name in ("started.json", "waiting.json"):
        try:
            told = json.loads((lab.run(run_id) / name).read_text())
            process = psutil.Process(told["pid"])
            if abs(process.create_time() - told["created"]) < 1:
                return process.pid
        except (FileNotFoundError, psutil.NoSuchProcess):
            continue
    return None


def pending(lab: Lab, without: str = "") -> list[receipts.Request]:
    """Every request that still waits or runs, other than `without`. When no daemon answers, one that nothing came of counts as waiting."""
    answers = pueue.answers()
    queued = unfinished(lab) if answers else {}
    names = [path.parent.name for path in lab.runs.glob("*/request.json")]
    open_ = [name for name in names if name != without and not over(lab, name)]
    return [receipts.request(lab, name) for name in open_ if not answers or name in queued or alive(lab, name)]


def given_up(lab: Lab, idea: str) -> list[receipts.Request]:
    """The requests of an idea that were cancelled before they ran, or refused."""
    names = [path.parent.name for path in lab.runs.glob(f"*-{idea}-s*/request.json")]
    gone = [name for name in names if any((lab.run(name) / kind).exists() for kind in ("cancelled.json", "refused.json"))]
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

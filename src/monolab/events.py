"""What is worth an alert: the lab's records, its queue and its disk as they are now."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from monolab import backlog, device, holdout, problem, pueue, receipts, results, retries, verdicts
from monolab.alerts import HOUR, Event, Settings
from monolab.errors import LabError
from monolab.journal import number
from monolab.paths import BASELINE, Lab
from monolab.results import Row

RECENT = 24 * HOUR  # what is older is no news
REFUSED = 20  # refused runs at most that are looked at, the newest


def found(lab: Lab, settings: Settings) -> list[Event]:
    """All that holds now, whether or not it was told before. What cannot be read is itself an event."""
    events = []
    for kind, look in LOOKS.items():
        if kind in settings.events:
            try:
                events += look(lab, settings)
            except LabError as error:
                events.append(Event("human", error.what, f"needs you: {error.what} (next: {error.hint})", lasts=True))
    return events


def _best(lab: Lab, settings: Settings) -> Iterator[Event]:
    rows, subject = results.load(lab), problem.load(lab)
    for stage in sorted({row.stage for row in rows if row.idea != BASELINE and row.value is not None}):
        try:
            best = verdicts.best(lab, subject, rows, stage)
        except LabError:  # no baseline yet
            continue
        if best["idea"] != BASELINE:
            step, below = best["lineage"][0], best["lineage"][1]
            text = f"best beaten: {best['idea']} has {best['metric']} {best['mean']:.5g}, {number(step['effect'])} against {below['idea']} ({stage})"
            yield Event("best", f"{stage} {step['runs'][0]}", text)


def _empty(lab: Lab, settings: Settings) -> Iterator[Event]:
    rows = results.load(lab)
    if not rows or not _is_news(rows[-1]) or not pueue.answers():
        return
    by_hand = "at-start" in rows[-1].flags.split(",") and "PUEUE_GROUP" not in os.environ
    waiting = [task for task in backlog.unfinished(lab).values() if task.state in ("Queued", "Stashed", "Paused", "Locked")]
    if not by_hand and not waiting and not backlog.pending(lab):
        yield Event("empty", rows[-1].run_id, f"the queue is empty; the last run was {rows[-1].run_id} ({rows[-1].status})")


def _failures(lab: Lab, settings: Settings) -> Iterator[Event]:
    streak: list[Row] = []
    for row in reversed(results.load(lab)):
        if row.status == "ok":
            break
        if row.status != "killed" and "control" not in row.flags.split(","):  # somebody has ended it on purpose
            streak.append(row)
    if len(streak) >= settings.failures and _is_news(streak[0]):
        last = receipts.receipt(lab, streak[0].run_id)
        how = ", ".join(row.status for row in streak[:5])
        yield Event("failures", streak[-1].run_id, f"{len(streak)} runs in a row failed ({how}); the last: {last.run_id}, {last.reason}")


def _disk(lab: Lab, settings: Settings) -> Iterator[Event]:
    limit = settings.disk_gb if settings.disk_gb is not None else 2 * problem.load(lab).disk_gb
    free = shutil.disk_usage(lab.root).free / 2**30
    if free < limit:
        yield Event("disk", "low", f"the disk is low: {free:.1f} GiB are free, {limit:g} should be", lasts=True)


def _holdout(lab: Lab, settings: Settings) -> Iterator[Event]:
    known = holdout.summary(lab)
    if known["damaged"]:
        yield Event("holdout", known["damaged"], f"the record of looks at the sealed split is damaged: {known['damaged']}", lasts=True)
    elif known["budget"] and known["spent"] and not known["left"]:
        yield Event(
            "holdout", str(known["sealed_sha"]), f"all {known['budget']} looks at the sealed split are spent: further numbers on it mean little"
        )


def _stopped(lab: Lab, settings: Settings) -> Iterator[Event]:
    pending = backlog.pending(lab)
    if not pending:
        return
    if not pueue.answers():
        yield Event("stopped", "daemon", f"stopped: no pueue daemon answers, and {len(pending)} run(s) wait (just queue, or: pueued -d)", lasts=True)
        return
    groups, tasks = pueue.groups(), backlog.unfinished(lab)
    waiting = [task for task in tasks.values() if task.state in ("Queued", "Paused")]
    if paused := sorted({task.group for task in waiting if groups[task.group].status != "Running"}):
        yield Event(
            "stopped", "paused", f"stopped: {', '.join(paused)} is paused with {len(waiting)} run(s) (pueue start -g {paused[0]})", lasts=True
        )
        return
    if any((lab.run(one.run_id) / "started.json").exists() and backlog.alive(lab, one.run_id) for one in pending):
        return  # its own limits end it
    if all(_is_put_off(lab, one, tasks) for one in pending):
        return  # it runs again by itself
    idle = time.time() - max(_moved(lab, one.run_id) for one in pending)
    if rows := results.load(lab):
        idle = min(idle, time.time() - _when(rows[-1]))
    if idle >= settings.idle_minutes * 60:
        held = device.holder(device.detect())
        who = f"; the device is held by {held.get('run', 'another program')} of {held.get('lab', 'another lab')}" if held else ""
        yield Event("stopped", "idle", f"stopped: {len(pending)} run(s) wait and nothing has moved for {idle / 60:.0f} minutes{who}", lasts=True)


def _human(lab: Lab, settings: Settings) -> Iterator[Event]:
    for path in sorted(lab.runs.glob("*/refused.json"))[-REFUSED:]:
        if time.time() - path.stat().st_mtime < RECENT:
            told = json.loads(path.read_text())
            yield Event("human", told["what"], f"needs you: {path.parent.name} was refused: {told['what']} (next: {told['hint']})", lasts=True)
    results.require_whole(lab)


LOOKS: dict[str, Callable[[Lab, Settings], Iterator[Event]]] = {
    "best": _best,
    "empty": _empty,
    "failures": _failures,
    "disk": _disk,
    "holdout": _holdout,
    "stopped": _stopped,
    "human": _human,
}


def _when(row: Row) -> float:
    return datetime.strptime(row.time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _is_news(row: Row) -> bool:
    return time.time() - _when(row) < RECENT


def _is_put_off(lab: Lab, one: receipts.Request, tasks: dict[str, pueue.Task]) -> bool:
    """Whether a run is a retry that the lab itself lets wait for a while."""
    stashed = one.run_id in tasks and tasks[one.run_id].state == "Stashed"
    return bool(one.retry_of) and stashed and time.time() - _moved(lab, one.run_id) < retries.LONGEST_WAIT


def _moved(lab: Lab, run_id: str) -> float:
    """When something of a run was last written, in seconds since the epoch."""
    return max((path.stat().st_mtime for path in _files(lab.run(run_id))), default=0.0)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.is_file())

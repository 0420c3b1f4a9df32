"""What autopilot did and what it cost: `6_runs/autopilot.jsonl`, a line when a night begins or ends, for every call of an agent and for every step.

A night is one stretch of autopilot under one budget; one that was killed goes on as the same night.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import takewhile

from monolab import receipts, results, verdicts
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Budget
from monolab.results import Row

RECORD = "autopilot.jsonl"  # in 6_runs/, where lines may only be added


@dataclass(frozen=True)
class Spent:
    """What a night has used. `untold`: calls of which the agent did not tell tokens; `unpriced`: that told no price."""

    night: str  # when it began, UTC
    hours: float  # of wall time
    device_hours: float  # of runs that ended since, training and scoring
    experiments: int  # ideas that were queued
    calls: int
    tokens: int
    dollars: float
    untold: int  # of those that went well
    unpriced: int
    failed: int  # steps
    gains: int  # ideas that were kept since
    over: bool


@contextmanager
def claim(lab: Lab) -> Iterator[bool]:
    """Whether this process is the lab's one autopilot as long as this lasts. The kernel drops the claim with the process."""
    folder = lab.runs / ".agent"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "autopilot.lock", os.O_CREAT | os.O_RDWR, 0o666)  # not inherited: agents do not hold it
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        os.close(handle)


def running(lab: Lab) -> bool:
    """Whether an autopilot is at work in this lab."""
    if not (lab.runs / ".agent" / "autopilot.lock").exists():
        return False
    with claim(lab) as free:
        return not free


def append(lab: Lab, line: dict) -> None:
    """Add a line, durably. `line` has at least `what` and `night`."""
    lab.runs.mkdir(exist_ok=True)
    with results.locked(lab), (lab.runs / RECORD).open("a") as file:
        file.write(json.dumps({"time": receipts.now()} | line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def lines(lab: Lab) -> list[dict]:
    """All of it, oldest first. Raises LabError naming a damaged line."""
    path = lab.runs / RECORD
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise LabError(f"6_runs/{RECORD} line {number} is damaged: {error}", hint="lab doctor") from error
    return found


def unfinished(lab: Lab) -> dict | None:
    """The first line of the last night, where that was not ended."""
    nights = [line for line in lines(lab) if line["what"] in ("night", "end")]
    return nights[-1] if nights and nights[-1]["what"] == "night" else None


def spent(lab: Lab, night: str, rows: Sequence[Row]) -> Spent:
    """What the night that began at `night` has used until now, or until it ended."""
    mine = [line for line in lines(lab) if line["night"] == night]
    calls, steps = ([line for line in mine if line["what"] == what] for what in ("call", "step"))
    ended = next((line["time"] for line in mine if line["what"] == "end"), "")
    until = ended or receipts.now()
    seconds = (_when(until) - _when(night)).total_seconds()
    looks = takewhile(lambda one: one.time >= night, reversed(verdicts.looks(lab)))
    kept = {one.idea for one in looks if one.time <= until and one.final and one.kept and not one.control}
    return Spent(
        night=night,
        hours=seconds / 3600,
        device_hours=sum(row.seconds for row in takewhile(lambda row: row.time >= night, reversed(rows)) if row.time <= until) / 3600,
        experiments=len({line["slug"] for line in steps if line["kind"] == "queue" and line["status"] == "done"}),
        calls=len(calls),
        tokens=sum((line["tokens_in"] or 0) + (line["tokens_out"] or 0) for line in calls),
        dollars=sum(line["cost"] or 0.0 for line in calls),
        untold=sum(line["tokens_in"] is None for line in calls if line["status"] == "ok"),
        unpriced=sum(line["cost"] is None for line in calls if line["status"] == "ok"),
        failed=sum(line["status"] == "failed" for line in steps),
        gains=len(kept),
        over=bool(ended),
    )


def _when(time: str) -> datetime:
    return datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def exhausted(budget: Budget, used: Spent) -> str:
    """Which limit is reached, in words; "" while none is. A limit of 0 is none.

    Raises LabError where a limit cannot be kept because the agent does not tell what it uses.
    """
    for name, unknown, what in (("tokens", used.untold, "tokens"), ("dollars", used.unpriced, "a price")):
        if getattr(budget, name) and unknown:
            raise LabError(
                f"the budget limits {name}, and {unknown} of {used.calls} calls told no {what}",
                hint="an agent that tells (claude, or a script that prints `usage`), or a budget in hours and experiments",
            )
    for name in ("hours", "device_hours", "experiments", "tokens", "dollars"):
        limit = getattr(budget, name)
        if limit and getattr(used, name) >= limit:
            return f"{getattr(used, name):.4g} of {limit:g} {name.replace('_', ' ')} are used"
    return ""


def summary(lab: Lab, rows: Sequence[Row]) -> dict | None:
    """The last night, for the status screen; None where there never was one."""
    nights = [line for line in lines(lab) if line["what"] == "night"]
    return asdict(spent(lab, nights[-1]["night"], rows)) | {"budget": nights[-1]["budget"], "running": running(lab)} if nights else None


def text(known: dict) -> list[str]:
    """The night on one or two lines: used against allowed, and what a validated gain has cost."""
    budget = known["budget"]

    def of(name: str, form: str, unit: str) -> str:
        limit = f" of {budget[name]:g}" if budget.get(name) else ""
        return f"{known[name]:{form}}{limit} {unit}"

    told = [of("hours", ".1f", "h"), of("device_hours", ".1f", "device h"), of("experiments", "d", "experiments")]
    told += [of("tokens", ",d", "tokens")] if known["tokens"] else []
    told += [of("dollars", ".2f", "dollars")] if known["dollars"] else []
    lines = [
        f"{'ended' if known['over'] else 'on'}, {', '.join(told)}; {known['calls']} calls"
        + (f", {known['failed']} steps failed" if known["failed"] else "")
    ]
    if known["gains"]:
        each = [f"{known['device_hours'] / known['gains']:.2g} device h"]
        each += [f"{known['tokens'] / known['gains']:,.0f} tokens"] if known["tokens"] else []
        each += [f"{known['dollars'] / known['gains']:.2f} dollars"] if known["dollars"] else []
        lines.append(f"{known['gains']} validated gain(s), each {', '.join(each)}")
    return lines

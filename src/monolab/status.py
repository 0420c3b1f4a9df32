"""One screen: what the device does, what waits, what was found. Answers in well under 200 ms, so it imports little."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from monolab import backlog, controls, device, disk, holdout, meter, problem, pueue, receipts, results, verdicts
from monolab.errors import LabError
from monolab.journal import number
from monolab.paths import BASELINE, Lab

RECENT = 5  # verdicts
SHOWN = 10  # runs that wait


def facts(lab: Lab, most: int | None = None) -> dict:
    """Everything the screen shows, as plain data; of what waits, the first `most`."""
    subject = problem.load(lab)
    machine = device.detect()
    rows = results.view(lab)
    told = pueue.state()
    known_tasks, groups = told or ([], {})
    ours = backlog.tasks(lab, known_tasks)
    tasks = backlog.unfinished(lab, ours)
    held = device.holder(machine)

    def waits(run_id: str) -> bool:
        """Of a run whose process is there: it gets ready, or waits for the device. One that is over settles, and of one typed by hand nothing is known."""
        return run_id != (held or {}).get("run") and (lab.run(run_id) / "request.json").exists() and not backlog.over(lab, run_id)

    waiting = [(name, task) for name, task in tasks.items() if task.state != "Running" or waits(name)]
    running = _running(lab, subject, machine, held) if held and held.get("lab") == str(lab.root) else None
    newest = rows[-1] if rows else None
    stage = newest.stage if newest else "explore"
    last = receipts.receipt(lab, newest.run_id) if newest else None
    base, past = verdicts.arm(lab, rows, BASELINE, stage), verdicts.looks(lab)
    try:
        floor, no_floor = base and base.floor, ""
    except LabError as error:
        floor, no_floor = None, error.what
    try:
        best = verdicts.best(lab, subject, rows, stage, base)
    except LabError:
        best = None
    return {
        "lab": str(lab.root),
        "metric": subject.metric,
        "direction": subject.direction,
        "device": {"name": machine.name, "hardware": machine.hardware, "busy": held is not None, "holder": held},
        "isolation": last.isolation if last else None,  # of the last run
        "daemon": told is not None,
        "paused": sorted({task.group for task in tasks.values() if groups[task.group].status != "Running"}),
        "running": running,
        "unfinished": len(tasks),  # queued, running, or about to write their verdict
        "waiting": len(waiting),
        "queued": [_waiting(lab, run_id, task) for run_id, task in waiting[:most]],
        "refused": [run_id for task in ours if task.state == "Done" and (run_id := backlog.named_by(task)) and _refused(lab, run_id)],
        "verdicts": [
            {name: getattr(verdict, name) for name in ("time", "idea", "stage", "verdict", "effect", "low", "high", "why")}
            | {"decision": verdict.gate.decision}
            for verdict in past.arms(control=False, last=RECENT)
        ],
        "best": best and {name: best[name] for name in ("idea", "stage", "mean", "tested", "luck")},
        "noise_floor": floor.sd if floor else None,
        "no_floor": no_floor,
        "controls": controls.record(lab, stage, past),
        "holdout": holdout.summary(lab),
        "autopilot": meter.summary(lab, rows),
        "stage": stage,
        "checkpoints": {"bytes": disk.use(lab), "budget": subject.checkpoints_gb * disk.GB},
        "rows": len(rows),
        "failed": rows.failed,
    }


def _running(lab: Lab, subject, machine, held: dict) -> dict | None:
    run_id = held.get("run", "")
    folder = lab.run(run_id)
    if not run_id or not (folder / "request.json").is_file():
        return None
    request = receipts.request(lab, run_id)
    limit = subject.stage(request.stage).seconds(machine.kind)
    try:
        began = json.loads((folder / "started.json").read_text())["time"]
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(began)).total_seconds()
    except FileNotFoundError:  # it holds the lock and is about to start, or has just ended
        elapsed = 0.0
    progress = _progress(folder / "checkpoint" / "progress.json") or _progress(folder / "progress.json")  # there from the scoring on
    left = limit - elapsed
    if progress and progress["step"]:
        left = min(left, elapsed * (progress["steps"] / progress["step"] - 1))
    return {
        "run_id": run_id,
        "idea": request.idea,
        "stage": request.stage,
        "seed": request.seed,
        "retry_of": request.retry_of,
        "label": request.label,
        "elapsed": round(elapsed, 1),
        "limit": limit,
        "left": round(max(left, 0.0), 1),
        "progress": progress,
    }


def _progress(path: Path) -> dict | None:
    """What train.py says of itself; None where it says nothing, or nothing that can be read: it is the candidate's own file."""
    try:
        told = json.loads(path.read_text())
        step, steps, loss = int(told["step"]), int(told["steps"]), float(told["loss"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return {"step": step, "steps": steps, "loss": loss} if 0 <= step <= steps else None


def _refused(lab: Lab, run_id: str) -> bool:
    return os.path.exists(f"{lab.runs}/{run_id}/refused.json")


def _waiting(lab: Lab, run_id: str, task: pueue.Task) -> dict:
    known = (lab.run(run_id) / "request.json").is_file()
    request = receipts.request(lab, run_id) if known else None
    return {
        "run_id": run_id if known else None,
        "task": task.id,
        "idea": request.idea if request else None,
        "seed": request.seed if request else None,
        "stage": request.stage if request else None,
        "retry_of": request.retry_of if request else "",
        "label": task.label or (request.label if request else ""),
        "state": "waits for the device" if task.state == "Running" else task.state,
        "command": task.command,
    }


def text(known: dict) -> str:
    """The screen."""
    lines = []
    machine, running = known["device"], known["running"]
    isolation = known["isolation"]
    apart = (
        ""
        if isolation is None
        else "; NOT ISOLATED: candidates can read the disk"
        if isolation == "none"
        else f"; candidates isolated by {isolation}"
    )
    lines.append(f"device   {machine['name']} ({machine['hardware']}): {'busy' if machine['busy'] else 'idle'}{apart}")
    if running:
        progress = running["progress"]
        step = f"step {progress['step']}/{progress['steps']}, loss {progress['loss']:.4f}, " if progress else ""
        lines.append(f"running  {running['run_id']} ({running['stage']}): {step}{running['elapsed']:.0f} s, about {running['left']:.0f} s left")
        lines.append(f"         {running['label'] or '(no label)'}" + (f" [retry of {running['retry_of']}]" if running["retry_of"] else ""))
    elif machine["busy"]:
        holder = machine["holder"] or {}
        lines.append(f"         held by {holder.get('run', 'another program')} of {holder.get('lab', 'another lab')}, pid {holder.get('pid', '?')}")
    if not known["daemon"]:
        lines.append("queue    no pueue daemon answers (just queue starts one)")
    else:
        paused = "".join(f"; group {group} is paused: pueue start -g {group}" for group in known["paused"])
        lines.append(f"queue    {known['waiting']} waiting{paused}")
    for item in known["queued"][:SHOWN]:
        what = f"{item['idea']} s{item['seed']}" if item["run_id"] else f"task {item['task']}"
        notes = [item["state"].lower()] if item["state"] != "Queued" else []
        notes += [f"retry of {item['retry_of']}"] if item["retry_of"] else []
        lines.append(f"         {what:<24} {item['label'] or item['command']}" + "".join(f" [{note}]" for note in notes))
    if known["waiting"] > SHOWN:
        lines.append(f"         and {known['waiting'] - SHOWN} more")
    if known["refused"]:
        lines.append(f"refused  {len(known['refused'])} run(s) did not start: lab log {known['refused'][-1]}")
    lines.append(f"rows     {known['rows']}, of which {known['failed']} failed")
    checkpoints = known["checkpoints"]
    if checkpoints["bytes"] > disk.NEAR * checkpoints["budget"]:
        lines.append(
            f"disk     checkpoints take {checkpoints['bytes'] / disk.GB:.3g} of {checkpoints['budget'] / disk.GB:g} GiB; the oldest are removed beyond that"
        )
    for verdict in reversed(known["verdicts"]):
        span = "" if verdict["low"] is None else f" [{number(verdict['low'])}, {number(verdict['high'])}]"
        lines.append(
            f"verdict  {verdict['idea']:<20} {verdict['verdict']:<13} {verdict['decision']:<10} {number(verdict['effect'])}{span} ({verdict['stage']})"
        )
    for place, line in enumerate(meter.text(known["autopilot"]) if known["autopilot"] else []):
        lines.append(f"{'' if place else 'night':<8} {line}")
    if known["noise_floor"] is None:
        lines.append(f"floor    {known['no_floor'] or 'none at stage ' + known['stage'] + ' yet: just baseline'}")
    else:
        lines.append(f"floor    {known['noise_floor']:.3g} {known['metric']} (sd of the baseline over seeds, {known['stage']})")
    if known["best"]:
        lines.append(f"best     {known['best']['idea']}: {known['metric']} {known['best']['mean']:.5g} ({known['best']['stage']}; just best)")
        if known["best"]["luck"]:
            lines.append(f"         the best of {known['best']['tested']} tested: up to {known['best']['luck']:.2g} of its effect may be luck")
    lines += [f"{'controls' if place == 0 else '':<8} {line}" for place, line in enumerate(controls.text(known["controls"]).splitlines())]
    lines += [f"{'holdout' if place == 0 else '':<8} {line}" for place, line in enumerate(holdout.summary_text(known["holdout"]).splitlines())]
    return "\n".join(lines)


def show(lab: Lab, as_json: bool) -> None:
    known = facts(lab, None if as_json else SHOWN)
    print(json.dumps(known, indent=1) if as_json else text(known))


def follow(lab: Lab, run_id: str | None) -> None:
    """Print the log of a run (default: the one that runs now) as it grows, until the run ends."""
    if run_id is None:
        held = device.holder(device.detect())
        if not held or held.get("lab") != str(lab.root):
            raise LabError("nothing of this lab is running", hint="lab status, or: lab log RUN")
        run_id = held["run"]
    folder = lab.run(run_id)
    for name in ("train.log", "score.log"):
        position = 0
        while True:
            done = backlog.over(lab, run_id)
            path = folder / name
            if path.exists():
                with path.open("rb") as file:
                    file.seek(position)
                    new = file.read()
                position += len(new)
                print(new.decode(errors="replace"), end="", flush=True)
            if done or (name == "train.log" and (folder / "score.log").exists()):
                break
            time.sleep(0.2)


def log(lab: Lab, run_id: str) -> str:
    """The kept output of a run, or the end of it in its receipt where the files are gone; above it, which run it repeats or is repeated by."""
    from monolab import retries  # here: the screen does not need it, and has to be quick

    asked = receipts.request(lab, run_id)
    after = retries.successor(lab, asked)
    links = [f"[lab] retry of {asked.retry_of}"] if asked.retry_of else []
    links += [f"[lab] run again as {after.run_id}"] if after else []
    return "\n".join([*links, _kept(lab, run_id)])


def _kept(lab: Lab, run_id: str) -> str:
    folder = lab.run(run_id)
    parts = [f"== {name}\n{(folder / name).read_text(errors='replace')}" for name in ("train.log", "score.log") if (folder / name).exists()]
    if parts:
        return "\n".join(parts)
    for name in ("refused.json", "cancelled.json"):
        if (folder / name).exists():
            return f"{name.removesuffix('.json')}: {(folder / name).read_text()}"
    receipt = receipts.receipt(lab, run_id)
    return receipt.log_tail if receipt else f"{run_id} has not started"

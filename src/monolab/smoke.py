"""A candidate's trial before it may have the device: what the problem's probe.py finds in its code, a few steps, and the scorer with every check on.

Every trial is recorded in 6_runs/trials.jsonl, by the code that was tried: how often an idea was repaired is counted from there (`debug`).
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from loguru import logger

from monolab import conditions, copied, dataset, device, filesystem, phases, receipts, results, snapshot
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab

TAIL = 4000  # characters of a failed trial's log in its record


def smoke(lab: Lab, tree: Path, args: tuple[str, ...]) -> dict:
    """Look into the code, train a few steps and score them, on the CPU and without a row. Returns the metrics.

    Raises LabError naming the line or tensor, or with the end of the log, when anything fails; the record then holds the whole of it.
    """
    problem = problems.load(lab)
    snap = snapshot.take(tree)
    copied.refuse(lab, dataset.data_sha(lab), snap.code_sha)
    machine = replace(device.detect(), kind="cpu", name="cpu", index=None)
    tail = ""
    try:
        with filesystem.temporary() as folder:
            (folder / "checkpoint").mkdir()
            snapshot.export(lab, snap.code_sha, folder / "code")
            conditions.export_scorer(lab, problem, folder / "scorer")
            for one in _probed(lab, folder, machine, args):
                logger.info(f"{one['check']}: {one['what'] or 'holds'}")
            limit = problem.stage("smoke").seconds("cpu")
            outcome = phases.train(lab, folder, machine, problem, "smoke", 0, args)
            tail = outcome.tail[-TAIL:]
            if outcome.status != "ok":
                raise LabError(f"smoke failed: {phases.why(outcome, 'train.py', limit, problem.memory_gb)}", hint="the log is above")
            outcome, metrics = phases.score(lab, folder, machine, problem, "smoke")
            tail = outcome.tail[-TAIL:]
            if outcome.status != "ok":
                raise LabError(
                    f"smoke failed: {phases.why(outcome, 'the scorer', problem.score_seconds, problem.memory_gb)}", hint="the log is above"
                )
            if isinstance(metrics, str):
                raise LabError(f"smoke failed: {metrics}", hint="the log is above")
    except phases.Unjudged:  # the machine's doing, and no round of repair
        raise
    except LabError as error:
        _record(lab, tree, snap, args, error.what, tail)
        raise
    _record(lab, tree, snap, args, "", "")
    return metrics


def look(lab: Lab, tree: Path, args: tuple[str, ...] = ()) -> list[dict]:
    """Only look into the code at `tree`, without training a step. Raises LabError as `smoke` does, and is recorded like it where it fails."""
    snap = snapshot.take(tree)
    machine = replace(device.detect(), kind="cpu", name="cpu", index=None)
    with filesystem.temporary() as folder:
        snapshot.export(lab, snap.code_sha, folder / "code")
        try:
            return _probed(lab, folder, machine, args)
        except phases.Unjudged:
            raise
        except LabError as error:
            _record(lab, tree, snap, args, error.what, "")
            raise


def _probed(lab: Lab, folder: Path, machine: device.Device, args: tuple[str, ...]) -> list[dict]:
    """What probe.py found. Raises LabError for the first check that failed, and when probe.py itself did."""
    try:
        found = phases.probe(lab, folder, machine, problems.load(lab), args)
    except LabError as error:
        raise type(error)(f"smoke failed: {error.what}", hint=error.hint) from error
    if wrong := [one for one in found if one["ok"] is False]:
        first, *rest = wrong
        more = f" (and {len(rest)} more: {', '.join(one['check'] for one in rest)})" if rest else ""
        hint = "lab debug SLUG packs the finding, the diff and the hypothesis"
        raise LabError(f"smoke failed: {first['check']}: {first['where']}: {first['what']}{more}", hint=hint)
    return found


def _record(lab: Lab, tree: Path, snap: snapshot.Snapshot, args: tuple[str, ...], wrong: str, tail: str) -> None:
    idea = BASELINE if tree == lab.root else tree.name
    said = {"time": receipts.now(), "idea": idea, "code_sha": snap.code_sha, "commit": snap.commit, "args": args, "wrong": wrong, "tail": tail}
    with results.locked(lab), (lab.runs / "trials.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")
        file.flush()
        os.fsync(file.fileno())


def trials(lab: Lab, idea: str) -> list[dict]:
    """The trials of an idea's code, oldest first. A line that a crash cut off says nothing."""
    path = lab.runs / "trials.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if one["idea"] == idea:
            found.append(one)
    return found

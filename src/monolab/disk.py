"""The disk budget: which checkpoints stay when not all of them fit. The oldest go first; receipts, logs and code always stay.

A checkpoint is what training again makes again (`lab reproduce` does, and says whether it is the same), and what only `verify`, `audit` and further questions to the model need. So none of these is
removed: of an arm that was kept, which may be verified; of what it is compared with; of a question that is still open, and of its references; of the
newest baseline; of a run that is not finished with. What no look has seen yet may still be kept, and goes last, with what it is compared with: it goes
all the same where nothing else is left, for a lab without a baseline judges nothing, and must not fill the disk.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monolab import backlog, index, receipts, results, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem

GB = 2**30
NEAR = 0.8  # of the budget: from here on `lab status` shows the use
RECORD = "checkpoint.removed.json"
GONE = ".checkpoint.gone"  # what a checkpoint is called while its files are removed


def keep_within(lab: Lab, problem: Problem) -> list[str]:
    """Remove the oldest checkpoints, as far as they may be, until the rest fits program.md's `checkpoints_gb` and `disk_gb` is free; returns the runs.

    Those that were judged go first.

    Says so in the log where that is not enough. Costs the same however many runs there are, but for the first time.
    """
    from loguru import logger  # here: `lab status` imports this module, and loguru takes as long as all the rest

    with _alone(lab):
        sizes = _sizes(lab)
        total, budget, removed = sum(sizes.values()), problem.checkpoints_gb * GB, []
        if total <= budget and _free(lab) >= problem.disk_gb * GB:
            return []
        kept, last = protected(lab, problem), unjudged(lab)
        for run_id, counted in sorted(sizes.items(), key=lambda one: one[0] in last):  # which leaves the oldest first otherwise
            over, short = total > budget, _free(lab) < problem.disk_gb * GB
            if not (over or short):
                break
            size = _size(lab.run(run_id) / "checkpoint")  # somebody may have removed it, or a part of it
            total += size - counted
            if size == 0:
                _forget(lab, run_id)
            elif run_id not in kept and (short or total > budget):
                why = (
                    f"checkpoints took {total / GB:.3g} of {problem.checkpoints_gb:g} GiB" if over else f"less than {problem.disk_gb:g} GiB were free"
                )
                _remove(lab, run_id, size, why)
                total -= size
                removed.append(run_id)
    if removed:
        logger.info(f"disk budget: the checkpoints of {len(removed)} run(s) were removed, the oldest first: {removed[0]} ... {removed[-1]}")
    if total > budget:
        logger.warning(
            f"the checkpoints that have to stay take {total / GB:.3g} GiB, program.md's checkpoints_gb is {problem.checkpoints_gb:g}: it has to be raised"
        )
    return removed


def protected(lab: Lab, problem: Problem) -> set[str]:
    """The runs whose checkpoints stay, whatever the budget."""
    rows, past = results.view(lab), verdicts.looks(lab)
    opened = backlog.opened(lab)
    kept = set(opened)
    for look in [*past.arms(kept=True), *past.unsettled()]:
        kept |= {*look.runs, *look.gate.runs, *look.against_runs}
    asked = {receipts.request(lab, run_id).idea for run_id in opened}
    kept |= {row.run_id for row in rows.to_settle(verdicts.LOOKS, ()) if row.idea in asked}  # the verdict on them waits for the others
    for stage in problem.stages:
        try:
            base = verdicts.arm(lab, rows, BASELINE, stage)
        except LabError:  # a receipt is missing: `lab doctor` says so
            continue
        kept |= set(base.runs) if base else set()
    return kept


def unjudged(lab: Lab) -> set[str]:
    """The runs that no look has seen, though one is due, and those that they will be compared with."""
    rows = results.view(lab)
    void = verdicts.no_evidence(lab, rows)
    due = [row for row in rows.to_settle(verdicts.LOOKS, ()) if row.run_id not in void]
    return {run_id for row in due for run_id in (row.run_id, row.parent)}


def use(lab: Lab) -> int:
    """Bytes of checkpoints, as last counted; 0 before that."""
    with index.reading(lab) as entries:
        return entries.execute("SELECT ifnull(sum(bytes), 0) FROM checkpoints").fetchone()[0]


def removal(lab: Lab, run_id: str) -> str:
    """What became of a checkpoint that the budget took, in words; "" where it did not."""
    path = lab.run(run_id) / RECORD
    if not path.exists() or (lab.run(run_id) / "checkpoint").exists():
        return ""
    told = json.loads(path.read_text())
    return f"removed by the disk budget on {told['time']} ({told['why']}); just reproduce {run_id} trains it again"


# -- below: counting and removing ---------------------------------------------------------------------------------


def _sizes(lab: Lab) -> dict[str, int]:
    """Bytes of every checkpoint of a run that has its row, oldest row first. Looks only at the rows that are new since the last time."""
    rows = results.view(lab)
    with index.reading(lab, results.ROWS) as entries, index.writing(entries):
        counted = entries.execute("SELECT rows FROM counted").fetchone()
        if counted is None or counted[0] > len(rows):
            entries.execute("DELETE FROM checkpoints")
            counted = (0,)
        new = entries.execute("SELECT n, run_id FROM rows WHERE n >= ? AND n < ?", (counted[0], len(rows))).fetchall()
        found = [(n, run_id, size) for n, run_id in new if (size := _size(lab.run(run_id) / "checkpoint"))]
        entries.executemany("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", found)
        entries.execute("DELETE FROM counted")
        entries.execute("INSERT INTO counted VALUES (?)", (len(rows),))
        return {run_id: size for run_id, size in entries.execute("SELECT run_id, bytes FROM checkpoints ORDER BY n")}


def _size(folder: Path) -> int:
    """Bytes on the disk of the files in a folder; 0 where there is none."""
    if not folder.is_dir():
        return 0
    return sum(os.lstat(os.path.join(where, name)).st_blocks * 512 for where, _, names in os.walk(folder) for name in names)


def _remove(lab: Lab, run_id: str, size: int, why: str) -> None:
    """First the record, then the files: killed in between, it is done again, and nobody finds half a checkpoint under its name."""
    folder = lab.run(run_id)
    if (folder / "checkpoint").is_dir():
        receipt = receipts.receipt(lab, run_id)
        told = {"time": receipts.now(), "why": why, "bytes": size, "checkpoint_sha": receipt.checkpoint_sha if receipt else ""}
        receipts.write_atomic(folder / RECORD, json.dumps(told, indent=1))
        shutil.rmtree(folder / GONE, ignore_errors=True)
        (folder / "checkpoint").rename(folder / GONE)
    _forget(lab, run_id)


def _forget(lab: Lab, run_id: str) -> None:
    """A run whose checkpoint is gone, or about to be under another name, counts no more."""
    shutil.rmtree(lab.run(run_id) / GONE, ignore_errors=True)
    with index.reading(lab) as entries:
        entries.execute("DELETE FROM checkpoints WHERE run_id = ?", (run_id,))


def _free(lab: Lab) -> int:
    return shutil.disk_usage(lab.runs).free


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    """One at a time counts and removes."""
    path = lab.runs / ".index" / "disk.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

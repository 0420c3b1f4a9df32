"""Requests and receipts: what was asked of a run, and what came of it."""

import json
import os
import tempfile
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from monolab.errors import LabError
from monolab.paths import Lab

STATUSES = ("ok", "crash", "oom", "timeout", "killed", "interrupted", "invalid")
SANDBOXED = "require-sandbox"  # the flag of a request that may not run without isolation; its replicates and retries carry it too


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked to do, frozen when it is queued: later edits of idea file and worktree do not reach it."""

    run_id: str
    idea: str
    stage: str
    seed: int
    label: str
    question: str
    hypothesis: str  # as the label states it
    mechanism: str  # as the idea file states it
    predicted_effect: float | None  # signed, candidate minus parent, in the metric's unit
    credence: float | None
    kill_rule: str
    agent: str  # who asked for it
    parent: str  # run id of the run it is compared with, "" for the baseline
    parent_idea: str
    commit: str
    head: str
    code_sha: str
    args: tuple[str, ...]  # for train.py
    flags: tuple[str, ...]
    queued: str  # UTC, ISO 8601; of a retry, when the run was first asked for
    retry_of: str = ""  # the run that this one repeats because it ended for no reason of its own


@dataclass(frozen=True, kw_only=True)
class Receipt(Request):
    """What came of a run. Written once; `results.tsv` can be rebuilt from the receipts alone."""

    status: str
    reason: str  # why it is not ok, one line
    metric: str
    value: float | None  # None unless the status is ok, never 0
    metrics: dict[str, float]
    started: str
    finished: str
    seconds: float  # train and score, wall clock
    train_seconds: float
    score_seconds: float
    peak_gb: float | None
    params: int | None
    eval_sha: str
    data_sha: str
    env_sha: str
    checkpoint_sha: str
    hardware: str
    isolation: str
    memory_limit: str = ""  # what kept host memory within the limit of program.md, "" where nothing did
    log_tail: str
    prev: str  # sha256 of the row before


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def open_marks(lab: Lab) -> Path:
    """A folder with an empty file for every run that this machine has not finished with: nobody has to look through 100,000 folders to find them."""
    return lab.runs / ".open"


def mark_open(lab: Lab, run_id: str) -> None:
    open_marks(lab).mkdir(parents=True, exist_ok=True)
    (open_marks(lab) / run_id).touch()


def new_id(idea: str, seed: int) -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{idea}-s{seed}-{os.urandom(2).hex()}"


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` so that a reader, or a crash, sees the old or the new text whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temp, 0o644)
        os.replace(temp, path)
    except BaseException:
        Path(temp).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_request(lab: Lab, request: Request) -> None:
    """Write down what is asked of a run. From here on the lab has something to finish: see `backlog.opened`."""
    mark_open(lab, request.run_id)
    write_atomic(lab.run(request.run_id) / "request.json", json.dumps(asdict(request), indent=1))


def write_receipt(lab: Lab, receipt: Receipt) -> None:
    """Raises LabError when the run has a receipt already: a result is written once."""
    path = lab.run(receipt.run_id) / "receipt.json"
    if path.exists():
        raise LabError(f"{receipt.run_id} has a receipt already", hint="queue it again: a run is never repeated under its old id")
    write_atomic(path, json.dumps(asdict(receipt), indent=1))


@cache
def _fields(kind: type[Request]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of all fields, and of those without a default: a later version's field has one, for older files."""
    return frozenset(field.name for field in fields(kind)), frozenset(field.name for field in fields(kind) if field.default is MISSING)


def _read(path: Path, kind: type[Request]) -> Request:
    names, needed = _fields(kind)
    try:
        values = json.loads(path.read_text())
        if not needed <= values.keys() <= names:
            raise ValueError(f"its fields differ: {', '.join(sorted((values.keys() - names) | (needed - values.keys())))}")
    except (ValueError, AttributeError) as error:
        raise LabError(
            f"{path} is damaged: {error}", hint=f"git checkout -- {path.name} if it is committed, else move its folder away and queue the run again"
        ) from error
    return kind(**values | {name: tuple(values[name]) for name in ("args", "flags")})


def request(lab: Lab, run_id: str) -> Request:
    """Raises LabError for an unknown run and for a damaged file."""
    path = lab.run(run_id) / "request.json"
    if not path.is_file():
        raise LabError(f"there is no run {run_id!r}", hint="lab results lists the runs")
    return _read(path, Request)


def receipt(lab: Lab, run_id: str) -> Receipt | None:
    """The receipt, or None while there is none. Raises LabError for a truncated or otherwise damaged one."""
    path = lab.run(run_id) / "receipt.json"
    return _read(path, Receipt) if path.is_file() else None


def resolve(lab: Lab, prefix: str) -> str:
    """The run that `prefix` means: a whole id, or a part of one that only one run has."""
    if (lab.run(prefix) / "request.json").is_file():
        return prefix
    found = sorted(path.name for path in lab.runs.glob(f"*{prefix}*") if (path / "request.json").is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise LabError(f"{len(found)} runs match {prefix!r}: {', '.join(found[-5:])}", hint="give more of the id")
    raise LabError(f"no run matches {prefix!r}", hint="lab results lists the runs")

"""Stopwatches for `lab run` and `lab eval`: when each step of a run began and ended, by the wall clock, a line of JSON per process.

Every `lab` process of the benchmark starts here (`busy.py`), also those that pueue starts. Nothing of a step changes, and a stopwatch costs some
microseconds.
"""

import atexit
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

# (module, function, what it is called in the table); where one is called in another, only the outer one counts
STEPS = (
    ("problem", "load", "reading program.md"),
    ("run", "preflight", "preflight"),
    ("device", "detect", "finding the device"),
    ("doctor", "quick", "looking for what a kill has left"),
    ("conditions", "export_scorer", "taking the scorer out of git"),
    ("dataset", "data_sha", "the data's hash"),
    ("conditions", "environment_sha", "the environment's hash"),
    ("sandbox", "probe", "whether sandboxes work"),
    ("snapshot", "export", "taking the code out of git"),
    ("sandbox", "command", "the sandbox's command"),
    ("supervise", "run", "device"),
    ("conditions", "files_sha", "the checkpoint's hash"),
    ("suspicion", "best_so_far", "the best so far"),
    ("validity", "tells", "what peers did"),
    ("validity", "peers", "what peers did"),
    ("validity", "write", "telemetry"),
    ("verdicts", "twin", "whether another run gave the same"),
    ("results", "conclude", "receipt and row"),
    ("doctor", "follow_up", "settling"),
    ("disk", "keep_within", "the disk's budget"),
    ("cli", "_alerts", "alerts"),
    ("queue", "requests", "snapshot and request"),
)


def start(program: Path, out: Path, began: float) -> None:
    """Called first thing in a `lab` process, which began at `began`; what it measures is added to the file `out` at its end. `program`: this `lab`."""
    from monolab import dispatch

    dispatch.sys = SimpleNamespace(executable=str(program.with_name("python")))  # pueue's tasks get the `lab` beside it
    if sys.argv[1:2] not in (["run"], ["eval"]):
        return
    from monolab import cli, device, doctor, run  # noqa: F401 - what `lab run` imports

    if sys.argv[1] == "eval":
        from monolab import queue  # noqa: F401
    steps, depth = [["imports", began, time.time()]], 0

    def timed(name: str, call):
        def wrapper(*args, **kwargs):
            nonlocal depth
            depth, since = depth + 1, time.time()
            try:
                return call(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    steps.append([name, since, time.time()])

        return wrapper

    for module, function, name in STEPS:
        if (place := sys.modules.get(f"monolab.{module}")) is None:
            continue
        setattr(place, function, timed(name, getattr(place, function)))

    lock = device.lock

    @contextmanager
    def locked(*args, **kwargs):
        since = time.time()
        with lock(*args, **kwargs) as held:
            steps.append(["waiting for the device", since, time.time()])
            yield held
        steps.append(["released", time.time(), time.time()])

    device.lock = locked
    forked = time.time() - float(Path("/proc/uptime").read_text().split()[0]) + _ticks() / os.sysconf("SC_CLK_TCK")
    atexit.register(_write, out, {"pid": os.getpid(), "argv": sys.argv[1:], "forked": forked, "steps": steps})


def _ticks() -> int:
    """From boot to this process's start."""
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def _write(out: Path, told: dict) -> None:
    with out.open("a") as file:
        file.write(json.dumps(told | {"ended": time.time()}) + "\n")

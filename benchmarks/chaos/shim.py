"""What stands between a lab of the campaign and its machine: every `lab` process of it starts here, also those that pueue starts.

Three things, each steered by files in the folder `control`, which lies outside of the lab's disk:

- `clock`: seconds by which the wall clock is wrong, read at every look at it. Moved for Python's own clock (time, datetime) and for the kernel's
  boot time as psutil reads it, which moves with the clock of a real machine too. The machine's clock is never touched.
- `orders/*.json`: {"command", "file", "line", "hit"}: the first `lab COMMAND` that comes to that line the
  `hit`-th time kills itself with SIGKILL there.
- `record`: where it exists, every process leaves the lines of the package that it went through in `lines/`.
"""

import atexit
import datetime as calendar
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path


def start(control: Path, package: Path) -> None:
    """Called first thing in a `lab` process. `package`: the folder of monolab's modules."""
    _move_clock(control / "clock")
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if orders := _orders(control / "orders", command):
        _kill_at(orders, package)
    elif (control / "record").exists():
        _record(control / "lines" / f"{command}-{os.getpid()}.json", package)


def _orders(folder: Path, command: str) -> list[tuple[Path, dict]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            order = json.loads(path.read_text())
        except FileNotFoundError:  # carried out by another process, or withdrawn
            continue
        if order["command"] == command:
            found.append((path, order))
    return found


def _kill_at(orders: list[tuple[Path, dict]], package: Path) -> None:
    """Die at the first of the lines that this process comes to. An order is carried out once, by whoever comes to its line first."""
    files = {str(package / order["file"]) for _, order in orders}
    at = {(str(package / order["file"]), order["line"]): path for path, order in orders}
    left = Counter({(str(package / order["file"]), order["line"]): order["hit"] for _, order in orders})

    def line(frame, event, argument):
        place = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and place in at:
            left[place] -= 1
            if left[place] == 0:
                try:
                    at[place].rename(at[place].with_suffix(".fired"))
                except FileNotFoundError:
                    return line
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    sys.settrace(lambda frame, event, argument: line if frame.f_code.co_filename in files else None)


def _record(path: Path, package: Path) -> None:
    seen: Counter = Counter()
    prefix = f"{package}/"

    def line(frame, event, argument):
        if event == "line":
            seen[frame.f_code.co_filename.removeprefix(prefix), frame.f_lineno] += 1
        return line

    def leave() -> None:
        sys.settrace(None)
        path.write_text(json.dumps([[*place, hits] for place, hits in sorted(seen.items())]))

    sys.settrace(lambda frame, event, argument: line if frame.f_code.co_filename.startswith(prefix) else None)
    atexit.register(leave)


def _move_clock(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    clock, nanoseconds, broken, local, text, stamp = time.time, time.time_ns, time.gmtime, time.localtime, time.strftime, calendar.datetime

    def wrong() -> float:
        return float(os.pread(handle, 64, 0) or 0)

    class Moved(stamp):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls):
            return cls.fromtimestamp(time.time(), calendar.UTC).replace(tzinfo=None)

    time.time = lambda: clock() + wrong()
    time.time_ns = lambda: nanoseconds() + int(wrong() * 1e9)
    time.gmtime = lambda seconds=None: broken(time.time() if seconds is None else seconds)
    time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
    time.strftime = lambda form, moment=None: text(form, moment or time.localtime())
    calendar.datetime = Moved

    import psutil

    booted = psutil._pslinux.boot_time
    psutil._pslinux.boot_time = lambda: booted() + wrong()

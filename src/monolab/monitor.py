"""Ends a training run that shows it will not come to anything: a loss that is no number or grows without end, a pace that no limit has room for.

It reads progress.json (`step`, `steps`, `loss`), which train.py may keep; what train.py does not tell is not guessed. What it ends is a failure of the
candidate with its reason, like one that came by itself, only sooner (ASI-Arch, section 2.3).
"""

import json
import math
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

EVERY = 1.0  # seconds between two looks
DIVERGED = 2.0  # times the first loss that was told
LOOKS = 3  # in a row that must say so
EARLY = 0.3  # share of the time limit before which nobody's pace is judged
HOPELESS = 2.0  # times the limit that a run would take at its pace
SILENT = 0.5  # share of the limit within which a first step is expected, where earlier runs of the lab told theirs


def read(path: Path) -> object:
    """What a file of the candidate's own says, as JSON: a link or a pipe in its place is not followed, nor waited for. None where it says nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            return json.loads(os.read(handle, 65536))
        finally:
            os.close(handle)
    except (OSError, ValueError, RecursionError):
        return None


def steps(told: object) -> tuple[int, int] | None:
    """Step and steps of what was told."""
    try:
        step, of = int(told["step"]), int(told["steps"])
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    return (step, of) if 0 <= step <= of < 2**53 else None


class Monitor:
    """Looks at one training run as it goes on. `look` returns the status and the reason to end it with, or None."""

    def __init__(self, progress: Path, limit: float, *, tells: bool, crowded: Callable[[], bool] = lambda: False):
        """`limit`: seconds. `tells`: whether runs of this lab are known to keep progress.json. `crowded`: whether others hold this run up at the moment."""
        self.progress, self.limit, self.tells, self.crowded = progress, limit, tells, crowded
        self.started = self.last = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first step was told of, and which
        self.loss: float | None = None
        self.above = 0
        self.seen: int | None = None

    def look(self) -> tuple[str, str] | None:
        now = time.monotonic()
        if now - self.last < EVERY:
            return None
        self.last = now
        told = read(self.progress)
        return self.judge(told, now - self.started)

    def judge(self, told: object, elapsed: float) -> tuple[str, str] | None:
        """What `told` means after `elapsed` seconds."""
        done = steps(told)
        if done is None:
            if self.tells and self.first is None and elapsed > SILENT * self.limit and not self.crowded():
                return "timeout", f"no step within {elapsed:.0f} s of {self.limit:g}: it compiles, or waits, for too long"
            return None
        step, of = done
        if self.first is None:
            self.first = (elapsed, step)
        return self._loss(told.get("loss"), step) or self._pace(step, of, elapsed)

    def _loss(self, loss: object, step: int) -> tuple[str, str] | None:
        if isinstance(loss, bool) or not isinstance(loss, int | float):
            return None
        try:
            finite = math.isfinite(loss)
        except OverflowError:  # a whole number that no float holds
            return "crash", f"the loss is beyond all bounds at step {step}"
        if not finite:
            return "crash", f"the loss is {loss} at step {step}"
        if self.loss is None:
            self.loss = float(loss)
        if step == self.seen:
            return None
        self.seen = step
        self.above = self.above + 1 if self.loss > 0 and loss > DIVERGED * self.loss else 0
        return ("crash", f"it diverges: the loss is {loss:.4g} at step {step}, and began at {self.loss:.4g}") if self.above >= LOOKS else None

    def _pace(self, step: int, of: int, elapsed: float) -> tuple[str, str] | None:
        begun, first = self.first
        if elapsed < EARLY * self.limit or step <= first or of <= 0:
            return None
        needed = elapsed + (of - step) * (elapsed - begun) / (step - first)
        if needed <= HOPELESS * self.limit or self.crowded():
            return None
        return "timeout", f"at its pace it would take {needed:.0f} s, and has {self.limit:g}"

"""What the sandbox costs: milliseconds to start, and share of training speed: `python benchmarks/isolation.py [--rounds 5]`.

Start-up: `true` alone and in a sandbox as a run has it, in turn; the median of the paired differences. Throughput: two trainings with the root's
train.py on made-up text, one alone and one in a sandbox, that take turns: each waits while the other does its next fiftieth (A B, B A, ...), so that
whatever else the machine does meets both alike. The median over all pairs of the ratio of their times, wall clock and processor; with its 95 %
interval (order statistics), which says how far to trust it.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from monolab import sandbox

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
# train.py, which calls `report` every fiftieth of a run: there it says how long the last one took, and waits for its turn.
IN_TURN = """import importlib, os, sys, time
answers, before = os.fdopen(os.dup(1), "w"), None
os.dup2(2, 1)  # whatever train.py prints is no answer
sys.path.insert(0, ".")
train = importlib.import_module("train")
def turn(*_):
    global before
    if before:
        print(time.perf_counter() - before[0], time.process_time() - before[1], file=answers, flush=True)
    else:
        print("ready", file=answers, flush=True)
    if not sys.stdin.readline():
        sys.exit()
    before = time.perf_counter(), time.process_time()
train.report = turn
train.train(train.parse(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Cost:
    rounds: int = 5  # pairs of trainings
    starts: int = 20  # pairs of starts
    tokens: int = 48 * 1024  # bytes of text that one training reads


@dataclass(frozen=True)
class Run:
    """The folders of a run, as a sandbox gets them."""

    code: Path
    data: Path
    checkpoint: Path
    scratch: Path

    def boxed(self, argv: list[str]) -> list[str]:
        return sandbox.command(argv, cwd=self.code, read_only=[self.code, self.data], writable=[self.checkpoint, self.scratch], hidden=[TRAIN.parent])

    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1", "LAB_DEVICE": "cpu"}


def starts(run: Run, pairs: int) -> list[tuple[float, float]]:
    """Seconds to start and end, alone and in a sandbox."""

    def took(argv: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(argv, cwd=run.code, env=run.env(), check=True)
        return time.perf_counter() - began

    return [(took(["true"]), took(run.boxed(["true"]))) for _ in range(pairs)]


def training(run: Run, tokens: int) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Of every fiftieth of two trainings, alone and in a sandbox: seconds by the clock, and of processor time."""
    argv = ["--stage", "smoke", "--tokens", str(tokens), "--data", str(run.data), "--out", str(run.checkpoint)]
    with ExitStack() as stack:
        workers = []
        for wrap in (list, run.boxed):
            command = wrap([sys.executable, "-c", IN_TURN, *argv])
            worker = subprocess.Popen(command, cwd=run.code, env=run.env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(lambda worker: (worker.kill(), worker.communicate()), worker)
            workers.append(worker)
        for worker in workers:
            if worker.stdout.readline() != "ready\n":
                raise SystemExit("train.py did not get to its first step; why stands above")
        found = []
        while True:
            took = {}
            for which in (0, 1) if len(found) % 2 == 0 else (1, 0):
                worker = workers[which]
                worker.stdin.write("go\n")
                worker.stdin.flush()
                if not (line := worker.stdout.readline()):
                    return found
                took[which] = tuple(map(float, line.split()))
            found.append((took[0], took[1]))


def row(name: str, pairs: list[tuple[float, float]], unit: str) -> str:
    """The medians of both sides, of their paired difference (ms) or ratio (%), and its 95 % interval."""
    cost = sorted(1e3 * (b - a) if unit == "ms" else 100 * (b / a - 1) for a, b in pairs)
    away = math.ceil(0.98 * math.sqrt(len(cost)))  # ranks from the median: a binomial's 1.96 sd
    low, high = cost[max(len(cost) // 2 - away, 0)], cost[min(len(cost) // 2 + away, len(cost) - 1)]
    alone, boxed = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
    return f"{name:24}{alone:10,.1f}{boxed:10,.1f}{statistics.median(cost):+9.2f} {unit:2}  {low:+.2f} to {high:+.2f} {unit}, {len(cost)} pairs"


def main(cost: Cost) -> None:
    isolation = sandbox.probe()
    if isolation.kind == "none":
        raise SystemExit(f"no sandbox to measure: {isolation.reason}")
    began = time.perf_counter()
    sandbox.probe.cache_clear()
    sandbox.probe()
    probing = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as temp:
        run = Run(*(Path(temp, name) for name in ("code", "data", "checkpoint", "scratch")))
        for folder in vars(run).values():
            folder.mkdir()
        (run.code / "train.py").write_bytes(TRAIN.read_bytes())
        np.random.default_rng(0).integers(97, 123, 1_000_000, dtype=np.uint8).tofile(run.data / "text.bin")
        started = starts(run, cost.starts)
        trained = [pair for _ in range(cost.rounds) for pair in training(run, cost.tokens)]
    print(f"{isolation.name}, load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; the probe took {1e3 * probing:.0f} ms\n")
    print(f"{'milliseconds':24}{'alone':>10}{'sandbox':>10}{'cost':>10}    95 % interval")
    print(row("start", started, "ms"))
    print(row("a fiftieth, clock", [(alone[0], boxed[0]) for alone, boxed in trained], "%"))
    print(row("a fiftieth, processor", [(alone[1], boxed[1]) for alone, boxed in trained], "%"))


if __name__ == "__main__":
    main(tyro.cli(Cost))

"""How busy the device is: the share of the time that a queue keeps it in train or score, and its runs per hour against a serial loop.

    python benchmarks/busy.py                   # runs of 20 s, one core at work, about 10 minutes
    python benchmarks/busy.py --train digits    # the digits example, with as many passes as take that long

A temporary lab with a daemon of its own. The serial side: `lab eval`, think, `lab eval`, think. The queue's side: an author who thinks as long and
queues one experiment after the other, beginning with `--ahead` that wait already; it thinks while runs go on. Both sides think as long as a run of
the round before took, and take turns (A B, B A); given are medians over rounds. Busy is what supervision measured of train.py and eval.py, each from
its start to its end (interpreter and sandbox included, as that is the candidate's process), over the time from the first start to the last end.

Where the rest goes is measured in the same runs: every `lab` process there has stopwatches (benchmarks/busy/stopwatch.py), and each moment in which
the device was idle between two runs goes to the step that was going on.

What counts as busy and could be less: torch's compiler. Its cache is a run's own (TMPDIR, `phases.train`) and not shared between worktrees, not by
content either: what lies in it is code, and who can write it decides what another run executes (0_docs/decisions/008-sandbox.md). One that only
runs of main's own code fill, of which every other run gets a copy, could be shared; there is none.
"""

import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import tyro
from private import DATA, IGNORE, call, machine, repository, template, until

import monolab

HERE = Path(__file__).resolve().parent
STAGE = "explore"
PROGRAM = """---
metric: distance
direction: lower
smallest_effect: 0.01
implausible: 0
stages: {smoke: {cpu: 600, gpu: 600}, explore: {cpu: 600, gpu: 600}}
window_seconds: {cpu: [0.1, 600], gpu: [0.1, 600]}
---
# Keep a processor busy
<!-- below this line every lab is the same -->
"""
TRAIN = '''"""Computes for --seconds, then writes a number that is worse the larger --shift."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    out: str = ""
    data: str = ""
    stage: str = "explore"
    seed: int = 0
    shift: float = 0.0
    seconds: float = 0.5


given = dict(zip((word.removeprefix("--") for word in sys.argv[1::2]), sys.argv[2::2], strict=True))
seed, shift, seconds = int(given["seed"]), float(given.get("shift", 0.0)), float(given.get("seconds", 0.5))
end, x = time.monotonic() + seconds, 1
while time.monotonic() < end:
    for _ in range(10_000):
        x = x * 6364136223846793005 % 2**64
Path(given["out"]).mkdir(parents=True, exist_ok=True)
Path(given["out"], "value").write_text(repr(1 + shift + 0.001 * (seed * 7 % 5)))
'''
EVAL = '''"""Computes for SCORE seconds, then gives the candidate's number."""

import json
import sys
import time

end, x = time.monotonic() + SCORE, 1
while time.monotonic() < end:
    for _ in range(10_000):
        x = x * 6364136223846793005 % 2**64
json.dump({"distance": float(open(sys.argv[1] + "/value").read())}, open(sys.argv[3], "w"))
'''
IDEA = """---
question: how long does the device wait?
hypothesis: it does not
predicted_effect: -0.1
credence: 0.5
kill_rule: none
parent: baseline
papers: []
---
"""
LAUNCHER = """#!{python}
import time
began = time.time()
import sys
from pathlib import Path
sys.path[:0] = [{package!r}, {folder!r}]
import stopwatch
stopwatch.start(Path({program!r}), Path({out!r}), began)
from monolab.cli import main
main()
"""
# What is no step of `lab`, by name
SPAWN = "pueue: from a task's end to the next one's process"
INTERPRETER = "shell and interpreter, to lab's first line"
BETWEEN = "the rest of lab run"


@dataclass(frozen=True)
class Busy:
    train: Literal["spin", "digits"] = "spin"
    seconds: float = 20.0  # that a run takes, training and scoring together
    score: float = 2.0  # of them, scoring; of digits, what it takes
    runs: int = 4  # of each side in a round
    rounds: int = 2
    ahead: int = 2  # experiments that wait when the author begins to think
    out: Path | None = None  # figures as JSON


@dataclass(frozen=True)
class Side:
    """What one side did in one round. Seconds."""

    runs: int
    wall: float  # from the first run's start to the last one's end; of the serial loop, with the thinking after it
    device: float  # in train and score, as the receipts have it
    idle: dict[str, float] = field(default_factory=dict)  # between runs, by what went on

    @property
    def share(self) -> float:
        return self.device / self.wall

    @property
    def per_hour(self) -> float:
        return 3600 * self.runs / self.wall


class Bench:
    """The lab, its `lab` program with stopwatches, and how its experiments are asked for."""

    def __init__(self, busy: Busy, folder: Path):
        self.busy, self.root, self.trace, self.asked = busy, folder / "lab", folder / "trace.jsonl", 0
        self.program = folder / "bin" / "lab"
        self.program.parent.mkdir()
        package = Path(monolab.__file__).parents[1]  # pueue's tasks do not get this process's path
        words = {"python": sys.executable, "folder": HERE / "busy", "package": package, "program": self.program, "out": self.trace}
        self.program.write_text(LAUNCHER.format(**{name: str(value) for name, value in words.items()}))
        self.program.chmod(0o755)
        self.length: tuple[str, ...] = ("--seconds", str(busy.seconds - busy.score))
        if busy.train == "spin":
            files = {
                "program.md": PROGRAM,
                "train.py": TRAIN,
                "eval.py": EVAL.replace("SCORE", str(busy.score)),
                "data.py": DATA,
                ".gitignore": IGNORE,
            }
            repository(self.root, files | {"1_ideas/2026-01-01_wait.md": IDEA, "9_reports/_TEMPLATE.md": template()})
        else:
            self.lab("init", str(self.root), "--example", "digits", cwd=folder)
            (self.root / ".venv").symlink_to(Path(sys.prefix))
            (self.root / "1_ideas" / "2026-01-01_wait.md").write_text(IDEA)
        self.lab("data")
        if busy.train == "digits":
            self._passes()
        self.lab("baseline")
        self.settle()
        self.lab("worktree", "wait")
        if busy.train == "digits":
            tree = self.root / "5_worktrees" / "wait"
            (tree / "train.py").write_text(self.long)
            call(tree, "git", "commit", "-qam", "as long as a run is to be")
            self.length = ()

    def _passes(self) -> None:
        """As many passes over the data as take a run's seconds, in `long`: by the time that 100 and 400 of them take here."""
        text = (self.root / "train.py").read_text()
        known = next(line for line in text.splitlines() if line.startswith("EPOCHS = "))
        took = {}
        for passes in (100, 400):
            trial = self.root.parent / "trial.py"
            trial.write_text(text.replace(known, f'EPOCHS = {{"explore": {passes}}}'))
            began = time.monotonic()
            call(self.root, sys.executable, str(trial), "--out", str(self.root.parent / "trial"))
            took[passes] = time.monotonic() - began
        slope = (took[400] - took[100]) / 300
        self.long = text.replace(
            known, f'EPOCHS = {{"smoke": 10, "explore": {round((self.busy.seconds - took[100]) / slope) + 100}, "verify": 1200}}'
        )

    def lab(self, *args: str, cwd: Path | None = None) -> str:
        return call(cwd or self.root, str(self.program), *args)

    def options(self) -> list[str]:
        """Another setting for every experiment, none of which is any better: the lab asks for no further seed."""
        self.asked += 1
        worse = ("--shift", str(1 + self.asked)) if self.busy.train == "spin" else ("--lr", f"{0.001 + 1e-6 * self.asked:.6f}")
        return [*self.length, *worse]

    def settle(self) -> None:
        def done() -> bool:
            states = [task["status"] for task in json.loads(call(self.root, "pueue", "status", "--json"))["tasks"].values()]
            return all("Done" in state for state in states)

        until(done, 60 + 3 * (self.busy.runs + self.busy.ahead) * self.busy.seconds, every=0.2)

    # -- the two sides --------------------------------------------------------------------------------------------

    def queue(self, think: float) -> Side:
        """The author thinks and queues while the device works."""
        ahead = min(self.busy.ahead, self.busy.runs)
        known = self.traces()

        def author() -> None:
            for _ in range(self.busy.runs - ahead):
                time.sleep(think)
                self.lab("queue", "wait", "Q: how long does the device wait? H: it does not", *self.options())

        for _ in range(ahead):
            self.lab("queue", "wait", "Q: how long does the device wait? H: it does not", *self.options())
        thread = threading.Thread(target=author)
        thread.start()
        thread.join()
        self.settle()
        return self.told(self.traces()[len(known) :])

    def serial(self, think: float) -> Side:
        """Run, think, run, think."""
        known, began = self.traces(), time.time()
        for _ in range(self.busy.runs):
            self.lab("eval", "wait", *self.options())
            time.sleep(think)
        return self.told(self.traces()[len(known) :], time.time() - began)

    def traces(self) -> list[dict]:
        return [json.loads(line) for line in self.trace.read_text().splitlines()] if self.trace.exists() else []

    def told(self, traces: list[dict], wall: float | None = None) -> Side:
        """What the stopwatches and the receipts say of one side. `wall`: its time, where that is not from the first start to the last end."""
        if odd := [one["argv"] for one in traces if not any(name == "device" for name, _, _ in one["steps"])]:
            sys.exit(f"runs that never came to the device: {odd}; {self.lab('status')}")
        traces.sort(key=lambda one: min(start for name, start, _ in one["steps"] if name == "device"))
        on = [[(start, end) for name, start, end in one["steps"] if name == "device"] for one in traces]
        spans = [span for one in on for span in one]
        for (_, end), (start, _) in pairwise(spans):
            if start < end:
                sys.exit("two runs were on the device at once")
        rows = json.loads(self.lab("results", "--json"))[-len(traces) :]
        if any(row["status"] != "ok" for row in rows):
            sys.exit(f"runs that failed: {[row for row in rows if row['status'] != 'ok']}")
        device = 0.0
        for row in rows:
            receipt = json.loads((self.root / "6_runs" / row["run_id"] / "receipt.json").read_text())
            device += receipt["train_seconds"] + receipt["score_seconds"]
        idle: Counter[str] = Counter()
        if wall is None:
            wall = spans[-1][1] - spans[0][0]
            for one in on:
                for (_, end), (start, _) in pairwise(one):
                    idle["between train and score"] += start - end
            for before, after in pairwise(traces):
                idle.update(between(before, after))
            idle["around the two processes, under supervision"] = wall - device - sum(idle.values())
        return Side(len(traces), wall, device, dict(idle))


def between(before: dict, after: dict) -> Counter[str]:
    """Where the time went from the end of one run's scoring to the start of the next one's training: what the one did until it gave the device back, then the other."""
    left = max(end for name, _, end in before["steps"] if name == "device")
    until_ = min(start for name, start, _ in after["steps"] if name == "device")
    released = max(start for name, start, _ in before["steps"] if name == "released")
    mine = [step for step in before["steps"] if step[1] >= left and step[0] != "released"]
    theirs = [(INTERPRETER, after["forked"], after["steps"][0][1]), *(step for step in after["steps"] if step[0] not in ("device", "released"))]
    theirs += [(BETWEEN, end, until_) for name, _, end in after["steps"] if name == "waiting for the device"]
    rest = [(BETWEEN, released, before["ended"]), (BETWEEN, after["steps"][0][1], until_), (SPAWN, left, until_)]
    told: Counter[str] = Counter()
    cuts = sorted({left, until_, *(min(max(at, left), until_) for _, *ends in [*mine, *theirs, *rest] for at in ends), released})
    for start, end in pairwise(cuts):
        steps = [*mine, (BETWEEN, left, released)] if start < released else [*theirs, *mine, *rest]
        told[next(name for name, since, to in steps if since <= start and end <= to)] += end - start
    return told


def main(busy: Busy) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with machine() as folder:
        bench = Bench(busy, folder)
        think = bench.queue(0.0).device / busy.runs  # also warms up
        sides: dict[str, list[Side]] = {"serial": [], "queue": []}
        for number in range(busy.rounds):
            print(f"a run takes {think:.2f} s in train and score, and so does thinking", file=sys.stderr, flush=True)
            for name in ("serial", "queue") if number % 2 == 0 else ("queue", "serial"):
                sides[name].append(getattr(bench, name)(think))
                last = sides[name][-1]
                print(f"round {number + 1}, {name}: {last.per_hour:.1f} runs/h, busy {last.share:.2%}", file=sys.stderr, flush=True)
            think = sum(told[-1].device for told in sides.values()) / (2 * busy.runs)
        if busy.out:
            shutil.copy(bench.trace, busy.out.with_suffix(".trace.jsonl"))
    length = statistics.median(one.device / one.runs for told in sides.values() for one in told)
    ratios = [queue.per_hour / serial.per_hour for queue, serial in zip(sides["queue"], sides["serial"], strict=True)]
    print(
        f"\n{busy.train}, runs of {length:.2f} s, thinking as long; {busy.rounds} rounds of {busy.runs} runs a side in turn, load {os.getloadavg()[1]:.1f}\n"
    )
    print("| | device in train or score (median, min to max) | runs/h |\n|---|---|---|")
    for name, told in sides.items():
        shares = [one.share for one in told]
        print(
            f"| {name} | {statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%}) | {statistics.median(o.per_hour for o in told):.1f} |"
        )
    print(f"\nqueue to serial, runs/h: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})\n")
    idle = {name: [one.idle.get(name, 0.0) / max(one.runs - 1, 1) for one in sides["queue"]] for one in sides["queue"] for name in one.idle}
    print("| the queue's device waits for | ms a run (median over rounds) |\n|---|---|")
    for name, values in sorted(idle.items(), key=lambda item: -statistics.median(item[1])):
        print(f"| {name} | {1e3 * statistics.median(values):.0f} |")
    if busy.out:
        told = {name: [asdict(one) | {"share": one.share, "per_hour": one.per_hour} for one in several] for name, several in sides.items()}
        busy.out.write_text(
            json.dumps({"busy": {k: str(v) for k, v in asdict(busy).items()}, "seconds": length, "sides": told, "ratios": ratios}, indent=1)
        )


if __name__ == "__main__":
    main(tyro.cli(Busy))

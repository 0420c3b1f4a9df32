"""A night in miniature: `lab autopilot` against a serial loop that keeps what looks better once, with the same agent and the same ideas.

    python benchmarks/night.py                # four minutes of each, both at once
    python benchmarks/night.py --minutes 30

The agent is a script (benchmarks/night/agent.py) that thinks for `--think` seconds a call and answers from a deck of ideas, of which some help, most
do nothing and some harm: by how much is known here, and in no loop. A run takes `--run` seconds and gives the true value and noise that depends on
code and seed. The serial loop is autoresearch's: think of a change, make it, run it once, keep it where its one number beats the best one, else reset;
two calls an idea, no queue, no lab. Autopilot is the real one, with its six calls an idea, trials, the real daemon and the keep gate.

Both go on for the same time, at the same moment, each with a device of its own: a run sleeps and an agent sleeps, so neither takes from the other,
and whatever else the machine does meets both. What counts is what is done when the time is over. A validated gain is an idea that was kept and is
truly better; a false keep was kept and is not. The serial loop's changes add up, right or wrong; this agent builds each of autopilot's on main.
"""

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import tyro
from private import DATA, IGNORE, LAB, call, machine, repository, template

import monolab

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAM = """---
metric: loss
direction: lower
smallest_effect: 0.01
implausible: 0
stages: {{smoke: {{cpu: 60, gpu: 60}}, explore: {{cpu: 600, gpu: 600}}}}
window_seconds: {{cpu: [0.1, 600], gpu: [0.1, 600]}}
autopilot:
  agent: "{agent}"
  queue: {queue}
  budget: {{hours: {hours}}}
---
# Make a number small
<!-- below this line every lab is the same -->
"""
TRAIN = '''"""Sleeps as long as a run takes, then writes what TERMS amount to, with noise that depends on them and on the seed."""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TERMS = (
)


@dataclass(frozen=True)
class Config:
    out: str = ""
    data: str = ""
    stage: str = "explore"
    seed: int = 0


given = dict(zip((word.removeprefix("--") for word in sys.argv[1::2]), sys.argv[2::2], strict=True))
time.sleep(0.0 if given.get("stage") == "smoke" else RUN)
names = ",".join(sorted(name for name, _ in TERMS))
value = 1 - sum(gain for _, gain in TERMS) + NOISE * random.Random(f"{names} {given['seed']} {DRAW}").gauss(0, 1)
Path(given["out"]).mkdir(parents=True, exist_ok=True)
Path(given["out"], "value").write_text(repr(value))
'''
EVAL = """import json, sys
json.dump({"loss": float(open(sys.argv[1] + "/value").read())}, open(sys.argv[3], "w"))
"""
# What the ideas are called and do: as different in words as ideas are, or the lab's memory takes one for another
IDEAS = """clipping cuts extreme entries at a fence built from quartiles
centring subtracts the running mean of all that was read so far
pairing averages neighbouring lines, which cancels drift between them
shrinkage pulls the estimate towards a prior guess, because few samples overstate their spread
bootstrap resamples the file many times and takes the mode
logarithm averages in logarithms, because errors here multiply
parabola fits a curve through positions and reads its vertex
voting lets three coarse estimators decide by majority
fourier removes the strongest oscillation, as cycles are artefacts of the recorder
window forgets what lies further back than a hundred entries
dropout leaves out a random tenth of the inputs at each pass
momentum keeps a decaying sum of past steps, which smooths a zigzag descent
warmup begins with tiny steps until curvature has been estimated
cosine lowers the step size along half a wave, so late steps refine
rotation turns coordinates into principal axes before anything is weighed
whitening divides each axis by its own deviation
gating multiplies the state by a learned sigmoid, so stale content fades
skipping adds the input to the output, which keeps gradients alive
tying shares one matrix between reading and writing
pruning deletes the smallest half of all coefficients after a third of the time
distilling imitates a larger frozen teacher in place of hard labels
augmenting mirrors every second example left to right
smoothing moves a little probability from the true label to all others
mixup interpolates random pairs of examples and of their targets
ensembling trains five small copies and averages their logits
annealing adds heat to the updates that cools to nothing
quantising rounds stored values to eight bits, which acts as a regulariser
hashing maps rare symbols to shared buckets
caching remembers recent predictions and blends them with new ones
curriculum sorts material from easy to hard
replay mixes old material into each later batch
freezing stops the lower layers from moving once they have settled
widening doubles the hidden units and halves the depth
deepening stacks twice as many thin layers
convolution looks at four neighbours before any mixing across time
attention lets every position weigh all earlier ones
decay multiplies all parameters by slightly less than one per step
lookahead averages fast and slow copies every fifth iteration
orthogonal starts from matrices whose columns do not overlap
sparsity penalises the sum of absolute activations
bilinear multiplies two projections of the same vector
contrast pulls two views of one example together and pushes others away
masking hides a span of symbols and asks for it back
recurrence carries a hidden summary from segment to segment
routing sends each token to one of several experts
scaling multiplies residual branches by the inverse root of depth
jitter shifts sampling times by a fraction of a tick
padding adds blank context on both sides of a sentence"""
PLACES = ("", "inputs", "weights", "gradients", "targets", "outputs", "schedule")  # what they are applied to; all ideas come first without
GAINS = (0.06, 0.03, 0.0, 0.0, 0.0, -0.02, -0.06)  # drawn from with these weights:
WEIGHTS = (2, 2, 3, 3, 3, 3, 3)


@dataclass(frozen=True)
class Night:
    minutes: float = 4.0  # of both loops, at the same time
    run: float = 10.0  # seconds of one run
    think: float = 1.0  # seconds of one call of the agent
    noise: float = 0.008  # sd over seeds, as the root problem has it
    queue: int = 3  # runs that autopilot keeps waiting or running
    rounds: int = 1  # each with another deck and other noise
    seed: int = 0
    out: Path | None = None  # figures as JSON


@dataclass(frozen=True)
class Loop:
    """What one loop has done when its time was over."""

    runs: int
    ideas: int  # that were decided on
    busy: float  # share of the time that its device was in train or score
    gains: list[str] = field(default_factory=list)  # kept, and truly better
    false_keeps: list[str] = field(default_factory=list)
    truth: float = 0.0  # true gain of what it ends with: the serial loop's stack of changes, the best of autopilot's single ones
    believes: float = 0.0  # what it takes that gain for

    def per_hour(self, minutes: float) -> float:
        return 60 * self.runs / minutes


def deck(night: Night, number: int) -> list[tuple[str, str, float]]:
    rng = random.Random(f"{night.seed} {number}")
    texts = [line.split(" ", 1) for line in IDEAS.splitlines()]
    rng.shuffle(texts)
    cards = [(f"{name}{place}", f"{how}, applied to the {place}" if place else how) for place in PLACES for name, how in texts]
    return [(name, how, rng.choices(GAINS, WEIGHTS)[0]) for name, how in cards]


def agent(folder: Path, cards: list, night: Night) -> list[str]:
    """The agent's command; its folder holds the deck."""
    folder.mkdir()
    (folder / "deck.json").write_text(json.dumps(cards))
    return [sys.executable, "-S", str(HERE / "night" / "agent.py"), str(folder), str(night.think)]


def source(night: Night, number: int) -> str:
    return TRAIN.replace("RUN)", f"{night.run})").replace("NOISE *", f"{night.noise} *").replace("{DRAW}", f"{night.seed}-{number}")


class Serial:
    """Autoresearch's protocol: one number, keep or discard."""

    def __init__(self, folder: Path, night: Night, number: int, cards: list):
        self.night, self.gain = night, {f"{name}-{place}": gain for place, (name, _, gain) in enumerate(cards)}
        self.root = repository(folder / "serial", {"train.py": source(night, number), "eval.py": EVAL})
        self.command = agent(folder / "serial-agent", cards, night)

    def ask(self, prompt: str) -> dict:
        done = subprocess.run(self.command, input=prompt, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.partition("```json\n")[2].partition("\n```")[0])

    def measure(self) -> tuple[float, float, float]:
        """The number, and from when to when the device was in use."""
        began = time.time()
        call(self.root, sys.executable, "train.py", "--seed", "0", "--out", ".git/out")
        call(self.root, sys.executable, "eval.py", ".git/out", "-", ".git/metrics.json")
        return json.loads((self.root / ".git" / "metrics.json").read_text())["loss"], began, time.time()

    def go(self, began: float, end: float) -> Loop:
        first, *span = self.measure()
        best, spans, kept, ideas = first, [tuple(span)], [], 0
        while True:
            slug = self.ask("You propose the next experiment")["slug"]
            for edit in self.ask(f"You build one idea: the idea {slug}")["edits"]:
                path = self.root / edit["path"]
                path.write_text(path.read_text().replace(edit["old"], edit["new"]))
            call(self.root, "git", "commit", "-qam", slug)
            if time.time() >= end:
                break
            value, *span = self.measure()
            spans.append(tuple(span))
            if span[1] > end:
                break
            ideas += 1
            if value < best:
                best = value
                kept.append(slug)
            else:
                call(self.root, "git", "reset", "-q", "--hard", "HEAD~1")
        on = sum(max(min(to, end) - since, 0.0) for since, to in spans)
        good, bad = ([slug for slug in kept if (self.gain[slug] > 0) == true] for true in (True, False))
        truth = sum(self.gain[slug] for slug in kept)
        return Loop(sum(to <= end for _, to in spans), ideas, on / (end - began), good, bad, truth, first - best)


class Pilot:
    """`lab autopilot` on the same problem."""

    def __init__(self, folder: Path, night: Night, number: int, cards: list):
        self.night, self.gain = night, {f"{name}-{place}": gain for place, (name, _, gain) in enumerate(cards)}
        command = " ".join(agent(folder / "pilot-agent", cards, night))
        files = {
            "program.md": PROGRAM.format(agent=command, queue=night.queue, hours=night.minutes / 60),
            "train.py": source(night, number),
            "eval.py": EVAL,
            "data.py": DATA,
            ".gitignore": IGNORE,
            "1_ideas/.gitkeep": "",
            "0_docs/problem.md": "# Make a number small\n",
            "9_reports/_TEMPLATE.md": template(),
        } | {f"{name}.md": f"# {name}\n\nNewest on top.\n" for name in ("RESEARCH_JOURNAL", "human_journal", "meta_journal")}
        (folder / "lab").mkdir()
        shutil.copytree(ROOT / ".claude", folder / "lab" / ".claude")
        self.root = repository(folder / "lab", files)
        call(self.root, LAB, "data")
        self.log = folder / "autopilot.log"

    def go(self, began: float, end: float) -> Loop:
        from monolab import receipts, results, verdicts
        from monolab.paths import Lab

        with self.log.open("w") as log:
            process = subprocess.Popen([LAB, "autopilot"], cwd=self.root, stdout=log, stderr=log)
            try:
                process.wait(max(end - time.time(), 0) + self.night.run + 30)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait(30)
        if time.time() < end:
            sys.exit(f"autopilot ended before its time: {self.log.read_text()[-3000:]}")
        lab = Lab(self.root)
        done = [receipts.receipt(lab, row.run_id) for row in results.load(lab)]
        on = 0.0
        for one in done:
            since = stamp(one.started)
            on += max(min(one.train_seconds + one.score_seconds, end - since), 0.0)
        judged = [one for one in verdicts.by_arm(verdicts.records(lab)) if one.final and not one.control and stamp(one.time) <= end]
        kept = [one for one in judged if one.kept]
        good, bad = ([one.idea for one in kept if (self.gain[one.idea] > 0) == true] for true in (True, False))
        best = min(kept, key=lambda one: one.effect, default=None)
        truth, believes = (self.gain[best.idea], -best.effect) if best else (0.0, 0.0)
        return Loop(sum(stamp(one.finished) <= end for one in done), len(judged), on / (end - began), good, bad, truth, believes)


def stamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def main(night: Night) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    told: dict[str, list[Loop]] = {"serial": [], "autopilot": []}
    decks = []
    for number in range(night.rounds):
        with machine(PYTHONPATH=str(Path(monolab.__file__).parents[1])) as folder:
            cards = deck(night, number)
            decks.append(cards)
            loops = {"serial": Serial(folder, night, number, cards), "autopilot": Pilot(folder, night, number, cards)}
            began = time.time()

            with ThreadPoolExecutor() as pool:
                going = {name: pool.submit(loop.go, began, began + 60 * night.minutes) for name, loop in loops.items()}
                found = {name: one.result() for name, one in going.items()}
            if night.out:
                lab = loops["autopilot"].root
                for file, kind in ((loops["autopilot"].log, "log"), (lab / "results.tsv", "tsv"), (lab / "6_runs" / "verdicts.jsonl", "jsonl")):
                    shutil.copy(file, night.out.with_suffix(f".{number}.{kind}"))
        for name, loop in found.items():
            told[name].append(loop)
            print(f"round {number + 1}, {name}: {loop}", file=sys.stderr, flush=True)

    helpful = sum(gain > 0 for cards in decks for _, _, gain in cards) / sum(map(len, decks))
    print(
        f"\n{night.rounds} round(s) of {night.minutes:g} min, runs of {night.run:g} s, {night.think:g} s a call, noise {night.noise:g}; "
        f"{helpful:.0%} of the deck help; load {os.getloadavg()[1]:.1f}\n"
    )
    print(
        "| | runs/h | ideas decided | device in use | validated gains | false keeps | true gain at the end | it believes |\n|---|---|---|---|---|---|---|---|"
    )
    for name in ("serial", "autopilot"):
        some = told[name]
        middle = [statistics.median(values) for values in zip(*((o.per_hour(night.minutes), o.busy, o.truth, o.believes) for o in some), strict=True)]
        counts = [sum(values) for values in zip(*((o.ideas, len(o.gains), len(o.false_keeps)) for o in some), strict=True)]
        print(f"| {name} | {middle[0]:.0f} | {counts[0]} | {middle[1]:.0%} | {counts[1]} | {counts[2]} | {middle[2]:+.3f} | {middle[3]:+.3f} |")
    if night.out:
        about = {name: str(value) for name, value in asdict(night).items()}
        night.out.write_text(
            json.dumps({"night": about, "decks": decks, "loops": {name: [asdict(one) for one in some] for name, some in told.items()}})
        )


if __name__ == "__main__":
    main(tyro.cli(Night))

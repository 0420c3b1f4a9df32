"""Whether `lab idea near` finds what was tried before, among 10,000 ideas, and how often it takes a different idea for the same.

    ./just memory               # about 3 minutes the first time on one free core (the index of 10,000 ideas is kept in .demo/memory), then half a minute
    ./just memory --ideas 500   # a quick look

All pairs were written by hand, in benchmarks/memory/: 43 tried ideas, each told again in other words and each with a trap, which says something else in nearly
the same words; 42 failures, each with what somebody proposes who does not know them; and 12 fresh ideas with all three. The tried ideas and failures are hidden
among distractors drawn from the typed grammar below, whose sentences are more alike than those of people: what is found among them is not hidden
as well as among 10,000 ideas of a real lab would be. A distractor may by chance mean what a hand-written idea means; it is counted as a miss all the same.

Two questions. Recall: is the tried idea among the first five? Decision: of a pair alone, is it called the same idea, a variation, or another one? (Also: is
anything among the first five of a trap called the same? Among 10,000 something may be, and rightly, so these are printed to be read.) Whoever
wrote the pairs wrote the concepts (0_docs/concepts.yaml) and the rule as well, so no part of this is a test by a stranger. The rule's constants and most
of the concepts were fitted on the even pairs (0, 2, 4 ...) of the first two files. The odd ones are held out: no constant was fitted on them, but they were
printed after each of three rounds, and the false alarms seen there are why the facet `device` was added. The fresh ones were written and run once after that.
"""

import json
import math
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
import yaml
from loguru import logger

from monolab import memory, stats
from monolab.paths import Lab

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PARTS = ("fitted", "held out", "fresh")
KINDS = ("reworded", "near copy", "trap")

# The grammar of distractors: a subject, what is done to it, where or when, and why. Any combination is a sentence; few make sense.
SUBJECTS = """the key projection|the query projection|the value projection|the output projection|the write gate|the state of each head|the first layer's state|the last
 layer's state|the embedding table|the final norm|the norms before the mixers|the hidden layer of the MLP|the gate of the SwiGLU|the residual stream|the
 convolution taps|the head's readout|the logits|the byte distribution|the sampling of windows|the order of files|the batch|the gradient of the gates|the
 gradient of the embedding|Adam's second moment|the momentum buffer|the learning rate of the gates|the weight decay of the maps|the warmup|the cooldown|the
 triangular solve|the chunk boundaries|the initial weights of the gates|the initial weights of the values|the loss on rare bytes|the loss on punctuation|the
 loss at window starts|the targets|the bytes of comments|the bytes of indentation|the bytes of digits|upper-case letters|string literals|the last position of a
 window|the attention to brackets|the memory of imports|the memory of names|the time constant of the heads|the rank of the maps|the sparsity of the
 activations|the spectrum of the state""".replace("\n", "").split("|")
CHANGES = """predict {s} with a small network and use the difference|cluster {s} into sixteen groups|quantise {s} with a learned codebook|pass {s} through a
 hash|replace {s} by its sign|sort {s} by size and keep the upper half|add a low-rank correction to {s}|factor {s} into two thin maps|make {s} complex-valued|put
 {s} on a hyperbolic surface|take the Fourier transform of {s}|apply a wavelet to {s}|let a second network gate {s}|freeze {s} after a tenth of the run|unfreeze {s}
 late in the run|swap {s} between the layers|interpolate {s} between the ends of the run|draw {s} from a heavy-tailed distribution|centre {s} on its median|clip {s}
 at its 95th percentile|regress {s} on the position|penalise the mutual information of {s} with the position|maximise the entropy of {s}|minimise the rank of {s}|make
 {s} equivariant to swapped letters|tie {s} to its transpose|anneal {s} from random to learned|let {s} follow a random walk|update {s} only every eighth step|compute {s} in
 reverse order|evaluate {s} at two resolutions|learn {s} by evolution|meta-learn {s} on short episodes|replace {s} with a spline|route {s} through a tree|store
 {s} in a ring buffer|share {s} with a reversed copy of the model|mask {s} in a checkerboard|double {s} and subtract the half|align {s} with the singular vectors of the
 data""".replace("\n", "").split("|")
WHERE = """in the upper layer|in the lower layer|in every second head|during the first tenth of the run|in the last tenth of the run|once the loss is below two
 bits|on long files only|on short files only|after every newline|with probability one half|for identifiers only|in odd steps|at the end of each chunk|for frequent
 bytes|for rare bytes""".replace("\n", "").split("|")
REASONS = """which makes the two halves of the model agree|so that rare events get their share|because the scale drifts over a window|which removes a symmetry that wastes
 parameters|so that the optimum is flatter|because the noise of the gradient is not isotropic|which gives later layers a simpler task|so that errors do not
 accumulate over a line|because the distribution of bytes is heavy-tailed|which lets the model spend its effort where it pays|so that what is learned early is kept|because
 two heads otherwise do the same|which couples positions that belong together|so that the code of a byte depends on its role|because indentation
 is predictable|which makes the step size matter less|so that the map is invertible|because the curvature differs between layers|which separates syntax from
 names|so that the window's start is not wasted|because the spectrum decays too fast|which shortens the effective program|so that the model hedges less|because
 brackets come in pairs|which regularises without a penalty|so that a mistake is forgotten sooner|because the state is read more often than written|which prepares
 for the cooldown|so that similar words share what they learn|because the last bits are the most expensive""".replace("\n", "").split("|")
FORMS = (
    ("What if we {c} {w}?", "We {c} {w}, {r}."),
    ("Does it help to {c} {w}?", "To {c} costs little, and {w} it should lower the bits, {r}."),
    ("Should one {c}?", "The proposal is to {c} {w}. It should work {r}."),
    ("Is there a gain if we {c} {w}?", "If we {c}, {r}, then {w} fewer bits are lost."),
)


@dataclass(frozen=True)
class Memory:
    ideas: int = 10_000  # distractors
    seed: int = 0
    out: Path = Path(".demo/memory")  # folder of the index and of memory.json


@dataclass(frozen=True)
class Pair:
    """Two texts and what they are to each other."""

    part: str  # fitted, held out, fresh
    kind: str  # reworded, near copy, trap
    asked: memory.Entry
    stored: memory.Entry


def entry(key: str, text: list) -> memory.Entry:
    effect, question, hypothesis = text
    return memory.Entry(key=key, kind="idea", idea=key, question=question, hypothesis=hypothesis, predicted=float(effect))


def pairs() -> list[Pair]:
    tried, failures, fresh = (yaml.safe_load((HERE / "memory" / f"{name}.yaml").read_text()) for name in ("tried", "failures", "fresh"))
    kinds = {"again": "reworded", "copy": "near copy", "trap": "trap"}
    found = []
    for name, items in (("tried", tried), ("fresh", fresh)):
        for number, item in enumerate(items):
            part = "fresh" if name == "fresh" else PARTS[number % 2]
            stored = entry(f"{name}-{number}", item["tried"])
            found += [Pair(part, kind, entry(f"{name}-{number}-{key}", item[key]), stored) for key, kind in kinds.items() if key in item]
    for number, item in enumerate(failures):
        found.append(Pair(PARTS[number % 2], "near copy", entry(f"failed-{number}-again", item["again"]), entry(f"failed-{number}", item["failed"])))
    return found


def distractors(count: int, seed: int) -> list[memory.Entry]:
    """`count` different sentences of the grammar."""
    draw, found, texts = random.Random(seed), [], set()
    while len(found) < count:
        subject, change, where, reason = (draw.choice(choices) for choices in (SUBJECTS, CHANGES, WHERE, REASONS))
        question, hypothesis = draw.choice(FORMS)
        words = {"c": change.format(s=subject), "w": where, "r": reason}
        text = (question.format(**words), hypothesis.format(**words))
        if text not in texts:
            texts.add(text)
            found.append(entry(f"other-{len(found)}", [draw.choice((-0.03, -0.02, -0.01, -0.005)), *text]))
    return found


def rate(hits: int, trials: int) -> str:
    low, high = stats.wilson(hits, trials)
    return f"{hits}/{trials} = {hits / trials:.0%} [{low:.0%}, {high:.0%}]"


def places(ranked: np.ndarray, stored: list[memory.Entry], pair: Pair) -> int:
    """Where the stored idea of a pair stands, from 1; 1 + the number of entries where it does not."""
    wanted = stored.index(pair.stored)
    found = np.flatnonzero(ranked == wanted)
    return int(found[0]) + 1 if len(found) else len(stored) + 1


def recall(kept: memory.Index, stored: list[memory.Entry], words: memory.Concepts, asked: list[Pair]) -> tuple[dict, list[tuple[float, float]]]:
    """The place of each pair's stored idea by every measure alone, fused, and as `lab idea near` prints it; and the wall-clock and CPU seconds of each query."""
    by = {name: [] for name in ("embedding", "n-grams", "concepts", "fused", "near")}
    seconds = []
    row = {id(one): number for number, one in enumerate(stored)}
    for pair in asked:
        memory._count.cache_clear()
        began = time.perf_counter(), time.process_time()
        ranked = memory.recall(kept, pair.asked, stored, words)
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        scores = kept.scores(pair.asked.text, np.array(memory._counted(words, pair.asked), dtype=np.float32))
        for name, one in scores.items():
            by[name].append(places(np.argsort(-one, kind="stable"), stored, pair))
        by["fused"].append(places(memory.fuse(scores), stored, pair))
        by["near"].append(places(np.array([row[id(entry)] for entry, _, _ in ranked]), stored, pair))
    return by, seconds


def first_alarm(kept: memory.Index, stored: list[memory.Entry], words: memory.Concepts, pair: Pair) -> tuple[str, str] | None:
    """The questions of a trap and of the first of its five nearest that is called the same idea; None where none is."""
    for entry, comparison, _ in memory.recall(kept, pair.asked, stored, words)[:5]:
        if comparison.decision == memory.SAME:
            return pair.asked.question, entry.question
    return None


def cold(out: Path) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one `lab idea near` in a new process, in a lab of the same size: of three calls the middle one by CPU."""
    command = [sys.executable, "-m", "monolab.cli", "idea", "near", "let the state forget what is stale", "--json"]
    spent = []
    for _ in range(3):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=out / "lab", check=True, capture_output=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall))
    cpu, wall = sorted(spent)[1]
    return wall, cpu


def as_lab(out: Path, stored: list[memory.Entry]) -> None:
    """A lab that holds these ideas as files."""
    lab = out / "lab"
    if not (lab / "program.md").exists():
        lab.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(lab)], check=True)
        (lab / "program.md").write_text((ROOT / "program.md").read_text())
        (lab / "0_docs").mkdir()
    (lab / "0_docs" / "concepts.yaml").write_text((ROOT / "0_docs" / "concepts.yaml").read_text())
    (lab / "1_ideas").mkdir(exist_ok=True)
    wanted = {f"2026-01-01_{one.key}.md": one for one in stored}
    for path in (lab / "1_ideas").glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, one in wanted.items():
        path = lab / "1_ideas" / name
        front = {
            "question": one.question,
            "hypothesis": one.hypothesis,
            "predicted_effect": one.predicted,
            "credence": 0.5,
            "kill_rule": "none below 0",
        }
        text = f"---\n{yaml.safe_dump(front | {'parent': 'baseline'}, sort_keys=False, width=1000)}---\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def main(options: Memory) -> None:
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{message}")
    made = pairs()
    asked = [pair for pair in made if pair.kind != "trap"]
    stored = list(dict.fromkeys(pair.stored for pair in made)) + distractors(options.ideas, options.seed)
    random.Random(options.seed).shuffle(stored)
    as_lab(options.out, stored)
    lab = Lab((options.out / "lab").resolve())
    words = memory.concepts(lab)
    began = time.perf_counter()
    by_key = {one.key: one for one in stored}
    found = [by_key[one.key] for one in memory.entries(lab)]
    kept = memory.index(memory.folder(lab), found, words)
    ready = time.perf_counter() - began
    told: dict = {"ideas": len(found), "index_seconds": ready}
    print(f"{len(found):,} ideas ({len({pair.stored for pair in made})} written by hand); index ready after {ready:.1f} s\n")

    ranks, seconds = recall(kept, found, words, asked)
    print("recall@5 (recall@1), 95 % Wilson intervals; `near` is what the command prints\n")
    for part in PARTS:
        print(f"| {part} | reworded | near copies |\n|---|---|---|")
        for measure, at in ranks.items():
            cells = []
            for kind in KINDS[:2]:
                mine = [place for place, pair in zip(at, asked, strict=True) if (pair.kind, pair.part) == (kind, part)]
                five, one = (sum(place <= most for place in mine) for most in (5, 1))
                cells.append(f"{rate(five, len(mine))} ({one / len(mine):.0%})")
                told[f"recall@5 {measure} {kind} {part}"] = [five, len(mine)]
            print(f"| {measure} | {cells[0]} | {cells[1]} |")
        print()
    for clock, spent in zip(("wall clock", "CPU"), zip(*seconds, strict=True), strict=True):
        in_order = sorted(spent)
        median, late = 1000 * in_order[len(in_order) // 2], 1000 * in_order[math.ceil(0.95 * len(in_order)) - 1]
        told |= {f"median_ms {clock}": median, f"p95_ms {clock}": late}
        print(f"latency of a query on a warm index, {clock}: median {median:.0f} ms, 95th percentile {late:.0f} ms; target below 100 ms")
    wall, cpu = cold(options.out)
    told |= {"cold_seconds wall clock": wall, "cold_seconds CPU": cpu}
    print(f"`lab idea near` from a cold start: {wall:.1f} s wall clock, {cpu:.1f} s CPU\n")

    print("decision on a pair, by fields alone\n")
    for part in PARTS:
        print(f"| {part} | {' | '.join(memory.DECISIONS)} |\n|---|---|---|---|")
        for kind in KINDS:
            mine = [memory.compare(pair.asked, pair.stored, words).decision for pair in made if (pair.kind, pair.part) == (kind, part)]
            counted = Counter(mine)
            told[f"decision {kind} {part}"] = dict(counted)
            print(f"| {kind} | " + " | ".join(rate(counted[one], len(mine)) for one in memory.DECISIONS) + " |")
        traps = [pair for pair in made if (pair.kind, pair.part) == ("trap", part)]
        alarms = [one for pair in traps if (one := first_alarm(kept, found, words, pair))]
        told[f"alarms among all {part}"] = [len(alarms), len(traps)]
        print(f"\nof the traps among all {len(found):,}, one of the first five was called {memory.SAME}: {rate(len(alarms), len(traps))}")
        for asked_about, named in alarms:
            print(f"    {asked_about}  ->  {named}")
        print()
    (options.out / "memory.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Memory))

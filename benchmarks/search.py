"""Which rule finds better code for the same number of runs: policies on made-up landscapes, and the lab's own search on the root problem.

    ./just bench-search                       # made-up landscapes: 200 of them, 60 runs each (about 2 minutes)
    ./just bench-search --real 40             # and a real search from an empty lab on this machine: 40 runs or more, each about 35 s on one core;
                                              # then all that was kept, and the baseline, on fresh seeds
    ./just bench-search --landscapes 0 --real 3 --tokens 32768     # whether that path works to its end: the numbers mean nothing

Made-up landscapes have the shape of the root problem's space.py: parts with options, main's first. An option's true effect is drawn around what is
expected of it, a third of all pairs of options add something of their own, and a run measures with the root problem's noise (sd 0.008 over seeds).
There are two kinds: `rich`, and `poor`, where every option is worse by 0.03 than expected, so that hardly any helps.
Every rule spends the same runs, and proposes from the same neighbours (one part changed); what differs is whom it builds on, and what it claims:

    random       any measured candidate, any untried change
    greedy       the best number so far, any untried change (keep or discard: autoresearch)
    aide         five drafts, then the best number so far (AIDE)
    tpe          Optuna's TPE over the whole combination, no parents
    asi-arch     two-level pool (ASI-Arch), sizes for a short search
    weighted     score and few children (ShinkaEvolve)
    uct          upper confidence bounds in the tree
    believing    greedy, with changes drawn by what is believed of each option; the three before it draw them so too
    lab          what `lab search` does by default: uct with beliefs, claims only what the gate keeps, and pays for its evidence

Reported at every run: the true value of what a rule claims as its best. Intervals are 95 %, normal, over landscapes.
"""

import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro

from monolab import backlog, pool, queue, receipts, results, searcher, stats, verdicts
from monolab import problem as problems
from monolab.paths import BASELINE, Lab
from monolab.pool import Scored, Sizes
from monolab.searcher import Choices, Option, Space

ROOT = Path(__file__).resolve().parents[1]
LAB = str(Path(sys.executable).with_name("lab"))
NOISE, SMALLEST, SEEDS, LEVEL = 0.008, 0.01, 8, 0.05
SIZES = Sizes(pool=20, parents=5, references=4, cold=5, batch=5)
SURPRISE = 3 * SMALLEST


@dataclass(frozen=True)
class Bench:
    landscapes: int = 200  # 0: none
    runs: int = 60
    real: int = 0  # runs of a real search on this machine; 0: none
    policy: str = "uct"  # of the real search
    fresh: int = 4  # seeds that nothing was chosen by, on which the real search's findings are measured again
    tokens: int = 0  # bytes of text of a real run; 0: as train.py has it
    out: Path = ROOT / ".demo" / "search"


@dataclass
class Landscape:
    """A made-up space with its truth. Values are the metric's, lower is better; main's combination has 0."""

    parts: Space
    effect: dict[tuple[str, str], float]
    pair: dict[tuple[tuple[str, str], tuple[str, str]], float]
    name: str

    def truth(self, choices: Choices) -> float:
        chosen = sorted(choices.items())
        own = sum(self.effect[one] for one in chosen)
        return own + sum(self.pair.get((a, b), 0.0) for place, a in enumerate(chosen) for b in chosen[place + 1 :])

    def run(self, choices: Choices, seed: int) -> float:
        return self.truth(choices) + random.Random(repr((self.name, seed, sorted(choices.items())))).gauss(0.0, NOISE)


SHIFT = {"rich": 0.0, "poor": 0.03}


def landscape(number: int, kind: str) -> Landscape:
    rng = random.Random(f"{kind} {number}")
    parts: Space = {}
    effect, pair = {}, {}
    for part in range(10):
        options = {"main": Option("", "", 0.0, 0.0, ())}
        effect[f"p{part}", "main"] = 0.0
        for name in range(rng.choice((1, 2, 2))):
            expected = rng.choice((-0.03, -0.015, -0.01, -0.005, -0.005, 0.005, 0.02, 0.05))
            options[f"o{name}"] = Option("", "", expected, 0.5, ())
            effect[f"p{part}", f"o{name}"] = rng.gauss(expected + SHIFT[kind], SURPRISE)
        parts[f"p{part}"] = options
    changed = [one for one in effect if one[1] != "main"]
    for place, a in enumerate(changed):
        for b in changed[place + 1 :]:
            if a[0] != b[0] and rng.random() < 1 / 3:
                pair[tuple(sorted((a, b)))] = rng.gauss(0.0, SMALLEST)
    return Landscape(parts, effect, pair, f"{kind} {number}")


class Spent(Exception):
    """No run is left."""


class Trial:
    """One rule in one landscape: counts its runs, and remembers the true value of its claim at each."""

    def __init__(self, world: Landscape, runs: int):
        self.world, self.left, self.path = world, runs, []
        self.claim: Choices = searcher.default(world.parts)
        self.seen: dict[tuple, float] = {}

    def run(self, choices: Choices, seed: int = 0) -> float:
        place = (searcher.key(choices), seed)
        if place not in self.seen:
            if not self.left:
                raise Spent
            self.left -= 1
            self.seen[place] = self.world.run(choices, seed)
            self.path.append(self.world.truth(self.claim))
        return self.seen[place]


def neighbours(world: Landscape, choices: Choices, tried: set[tuple]) -> list[tuple[str, str]]:
    return [
        (part, name)
        for part, options in world.parts.items()
        for name in options
        if name != choices[part] and searcher.key(choices | {part: name}) not in tried
    ]


def by_policy(policy: str, believing: bool) -> Callable[[Trial, random.Random], None]:
    """Parents by a policy of the pool, claims by the best number; changes at random, or drawn by what is believed of each."""

    def play(trial: Trial, rng: random.Random) -> None:
        world = trial.world
        codes: list[Choices] = [trial.claim]
        scored = [Scored("0", "", -trial.run(trial.claim))]
        tried = {searcher.key(trial.claim)}
        seen: dict[tuple[str, str, str], list[float]] = {}
        rule = pool.policy(policy)
        while True:
            open_ = searcher.open_parents(world.parts, {one.key: codes[int(one.key)] for one in scored}, tried)
            if not open_:
                raise Spent
            parent = int(rule(searcher.passing_over(scored, open_), SIZES, rng).parent)
            if believing:
                step = searcher.propose(world.parts, codes[parent], tried, seen, -1, SURPRISE, 2**0.5 * NOISE, rng)
                part, name = step.part, step.option
            else:
                part, name = rng.choice(neighbours(world, codes[parent], tried))
            code = codes[parent] | {part: name}
            value = trial.run(code)
            searcher.saw(seen, part, codes[parent][part], name, value + scored[parent].score)
            tried.add(searcher.key(code))
            scored.append(Scored(str(len(codes)), str(parent), -value))
            codes.append(code)
            trial.claim = codes[max(range(len(codes)), key=lambda place: scored[place].score)]

    return play


def tpe(trial: Trial, rng: random.Random) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parts = trial.world.parts
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=rng.randrange(2**31), multivariate=True))
    study.enqueue_trial(searcher.default(parts))
    best = math.inf
    while trial.left:
        asked = study.ask()
        code = {part: asked.suggest_categorical(part, list(options)) for part, options in parts.items()}
        value = trial.run(code, seed=asked.number)  # TPE may ask again for what it knows: that is a new run
        study.tell(asked, value)
        if value < best:
            best, trial.claim = value, code


def gated(trial: Trial, rng: random.Random) -> None:
    """As `lab search` under the gate: builds on the best number, claims what evidence keeps. The gate's own functions judge."""
    world = trial.world
    anchor = trial.claim
    floor = stats.noise_floor([trial.run(anchor, seed) for seed in range(3)])
    codes, scored = [anchor], [Scored("0", "", -trial.run(anchor, 0))]
    tested, kept = 0, []
    tried, seen = {searcher.key(anchor)}, {}
    question = {"floor": floor, "smallest_effect": SMALLEST, "most": SEEDS}
    while True:
        open_ = searcher.open_parents(world.parts, {one.key: codes[int(one.key)] for one in scored}, tried)
        if not open_:
            raise Spent
        parent = int(pool.uct(searcher.passing_over(scored, open_), SIZES, rng).parent)
        step = searcher.propose(world.parts, codes[parent], tried, seen, -1, SURPRISE, 2**0.5 * NOISE, rng)
        code = codes[parent] | {step.part: step.option}
        tried.add(searcher.key(code))
        value = trial.run(code, 0)
        searcher.saw(seen, step.part, codes[parent][step.part], step.option, value + scored[parent].score)
        scored.append(Scored(str(len(codes)), str(parent), -value))
        codes.append(code)
        level = stats.level(tested + 1, kept, LEVEL)
        chance, _ = stats.screen(trial.run(anchor, 0) - value, level=level, **question)
        decision, _ = stats.triage(-scored[parent].score - value, chance, SEEDS)
        if decision != "more":
            continue
        tested, n = tested + 1, 0
        while decision == "more":
            before, n = n, stats.next_look(n, SEEDS)
            mine, theirs = ({seed: -trial.run(one, seed) for seed in range(1, n + 1)} for one in (code, anchor))
            found = stats.compare(mine, theirs, claim=1, level=level, before=before, **question)
            decision, _ = stats.decide(found, SEEDS)
        scored[-1] = Scored(scored[-1].key, str(parent), statistics.fmean(mine.values()))  # what evidence says replaces the lucky first number
        if decision == "keep":
            anchor = trial.claim = code
            kept.append(tested)


RULES: dict[str, Callable[[Trial, random.Random], None]] = {
    "random": by_policy("random", False),
    "greedy": by_policy("greedy", False),
    "aide": by_policy("tree", False),
    "tpe": tpe,
    "asi-arch": by_policy("asi-arch", True),
    "weighted": by_policy("weighted", True),
    "uct": by_policy("uct", True),
    "believing": by_policy("greedy", True),
    "lab": gated,
}


def play(rule: str, kind: str, number: int, runs: int) -> list[float]:
    """The true value of the claim at every run, and after the last."""
    trial = Trial(landscape(number, kind), runs)
    try:
        RULES[rule](trial, random.Random(f"{rule} {kind} {number}"))
    except Spent:
        pass
    last = trial.world.truth(trial.claim)
    return (trial.path + [last] * runs)[:runs] + [last]


def figure(values: list[float]) -> tuple[float, float, float]:
    middle = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def synthetic(bench: Bench, kind: str) -> dict:
    found: dict[str, list[list[float]]] = {}
    for rule in RULES:
        found[rule] = [play(rule, kind, number, bench.runs) for number in range(bench.landscapes)]
        print(
            f"  {rule:<11} "
            + "  ".join("after {}: {:+.4f} [{:+.4f}, {:+.4f}]".format(at, *figure([path[at] for path in found[rule]])) for at in marks(bench)),
            flush=True,
        )
    best = {rule: [path[-1] for path in paths] for rule, paths in found.items()}
    print("\n  the lab, and its policy without the gate, minus each on the same landscapes (below 0: it is better):")
    for name in ("lab", "uct"):
        for rule in RULES:
            if rule != name:
                middle, low, high = figure([a - b for a, b in zip(best[name], best[rule], strict=True)])
                verdict = "better" if high < 0 else "worse" if low > 0 else "not settled"
                print(f"  {name} - {rule:<11} {middle:+.4f} [{low:+.4f}, {high:+.4f}] {verdict}")
    return {rule: [figure([path[at] for path in paths]) for at in range(bench.runs + 1)] for rule, paths in found.items()}


def marks(bench: Bench) -> list[int]:
    return sorted({bench.runs // 4, bench.runs // 2, bench.runs})


def draw(curves: dict, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plot, both = plt.subplots(1, 2, figsize=(12, 5), dpi=130, layout="constrained")
    for axes, (kind, rules) in zip(both, curves.items(), strict=True):
        for rule, points in rules.items():
            middle, low, high = zip(*points, strict=True)
            (line,) = axes.plot(middle, label=rule, lw=2.2 if rule == "lab" else 1.1)
            axes.fill_between(range(len(points)), low, high, color=line.get_color(), alpha=0.1)
        axes.set(xlabel="runs", ylabel="true value of what is claimed as best (lower is better; main: 0)", title=kind)
        axes.legend(fontsize=8)
    plot.savefig(out / "search.png")


PUEUE = """\
shared:
  pueue_directory: {dir}
  runtime_directory: {dir}
  alias_file: {dir}/aliases.yml
  use_unix_socket: true
  unix_socket_path: {dir}/s
  pid_path: {dir}/pid
  shared_secret_path: {dir}/secret
client: {{}}
daemon: {{}}
"""
STAGE, BATCH, FRESH = "explore", 5, 101  # FRESH: the first of the seeds that nothing was chosen by


def lab(where: Path, *args: str) -> None:
    """Run one `lab` command as a person would, in `where`; its failure ends the benchmark."""
    print(f"$ lab {' '.join(args)}", flush=True)
    if subprocess.run([LAB, *args], cwd=where).returncode:
        raise SystemExit(f"lab {' '.join(args)} failed, in {where}")


def explored(where: Path, runs: int, policy: str) -> int:
    """`lab search` until at least `runs` runs are in; how many are. Each call ends when its own experiments have their verdicts."""
    done, before, batch = len(results.load(Lab(where))), -1, 0
    while done < runs:
        if done == before:
            raise SystemExit(f"the search stands still: nothing was run of its last experiments, in {where}")
        lab(where, "search", "--n", str(min(BATCH, runs - done)), "--policy", policy, "--seed", str(batch), "--stage", STAGE)
        done, before, batch = len(results.load(Lab(where))), done, batch + 1
    return done


def verified(where: Path, count: int) -> dict:
    """Everything that the gate kept, and the baseline, on `count` fresh seeds: means, paired differences, Student's 95 % interval of their mean."""
    known = Lab(where)
    sign = problems.load(known).sign
    kept = sorted(verdicts.looks(known).arms(STAGE, control=False, kept=True), key=lambda one: -sign * one.mean)
    seeds = list(range(FRESH, FRESH + count))
    arms = {(BASELINE, ()): None} | {(one.idea, one.args): one for one in kept}
    print(
        f"\n{len(kept)} kept: {', '.join(one.idea for one in kept) or 'none'}; each and the baseline on seeds {seeds[0]} to {seeds[-1]}:", flush=True
    )
    for idea, args in arms:
        ran = [receipts.receipt(known, row.run_id) for row in results.view(known).of(idea, STAGE)]
        there = {one.seed for one in [*ran, *backlog.pending(known)] if (one.idea, one.stage, one.args) == (idea, STAGE, args)}
        if left := [seed for seed in seeds if seed not in there]:  # what builds on an idea has that one measured again as well
            question = "Q: does it hold on seeds that nothing was chosen by?" if idea == BASELINE else None
            queue.enqueue(known, idea, question, STAGE, left, list(args))
    searcher.wait(known, lambda one: True)
    values: dict[tuple, dict[int, float]] = {arm: {} for arm in arms}
    for row in results.load(known):
        arm = (row.idea, receipts.receipt(known, row.run_id).args)
        if arm in arms and row.stage == STAGE and row.seed in seeds and row.value is not None:
            values[arm].setdefault(row.seed, row.value)
    base = values.pop((BASELINE, ()))
    if len(base) < 2:
        raise SystemExit(f"the baseline was measured on {len(base)} of {count} fresh seeds: nothing can be said, in {where}")
    print(f"  baseline: {statistics.fmean(base.values()):.4f}", flush=True)
    told = {"seeds": seeds, "baseline": base, "kept": []}
    for (idea, args), own in values.items():
        gaps = [own[seed] - base[seed] for seed in seeds if seed in own and seed in base]
        half = stats.half_width(gaps)
        middle, low, high = (None,) * 3 if half is None else (statistics.fmean(gaps), statistics.fmean(gaps) - half, statistics.fmean(gaps) + half)
        word = (
            "not measured"
            if middle is None
            else "holds"
            if min(sign * low, sign * high) > 0
            else "does not hold"
            if max(sign * low, sign * high) < 0
            else "not settled"
        )
        claimed = arms[idea, args].gate
        one = {"idea": idea, "args": args, "on": claimed.anchor, "claimed": [claimed.effect, claimed.low, claimed.high], "values": own}
        told["kept"].append(one | {"difference": middle, "low": low, "high": high, "word": word})
        numbers = (
            ""
            if middle is None
            else f"{statistics.fmean(own.values()):.4f}, minus baseline {middle:+.4f} [{low:+.4f}, {high:+.4f}], {len(gaps)} paired seeds; "
        )
        print(f"  {' '.join((idea, *args))}: {numbers}{word} (it was kept for {claimed.effect:+.4f} on {claimed.anchor})", flush=True)
    return told


def shortened(where: Path, tokens: int) -> None:
    """Commit a smaller budget to the main branch of the lab at `where`."""
    train, preset = where / "train.py", '("explore", "cpu"): {"tokens": 448 * 1024}'
    if train.read_text().count(preset) != 1:
        raise SystemExit(f"train.py has no {preset}: --tokens does not know where to set the budget")
    train.write_text(train.read_text().replace(preset, f'("explore", "cpu"): {{"tokens": {tokens}}}'))
    subprocess.run(["git", "commit", "-qam", "Take a smaller budget"], cwd=where, check=True)


def real(bench: Bench) -> dict:
    """`lab search` from an empty lab until at least `bench.real` runs are in, then what it kept and the baseline on fresh seeds."""
    where = bench.out.resolve() / f"lab-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    private = Path(tempfile.mkdtemp(prefix="ml-search-"))
    (private / "pueue.yml").write_text(PUEUE.format(dir=private))
    os.environ["PUEUE_CONFIG_PATH"] = str(private / "pueue.yml")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        lab(ROOT, "init", str(where), "--example", "root")
        (where / ".venv").symlink_to(Path(sys.prefix))
        if bench.tokens:
            shortened(where, bench.tokens)
        lab(where, "data")
        lab(where, "baseline")
        runs = explored(where, bench.real, bench.policy)
        lab(where, "analysis", "--out", str(bench.out.resolve() / "analysis.png"))
        lab(where, "lineage", "tree", "--html", str(bench.out.resolve() / "lineage.html"))
        lab(where, "analysis")
        lab(where, "lineage", "tree")
        lab(where, "best")
        told = {"runs": runs, "tokens": bench.tokens, "lab": str(where), "fresh": verified(where, bench.fresh)}
        told["hours"] = (time.monotonic() - began) / 3600
        print(f"  {runs} runs of the search and those on fresh seeds, {told['hours']:.2f} h; the lab is in {where}")
        return told
    finally:
        subprocess.run(["pueue", "kill", "--all"], capture_output=True)
        subprocess.run(["pueue", "shutdown"], capture_output=True)
        time.sleep(1)
        shutil.rmtree(private, ignore_errors=True)


def main(bench: Bench) -> None:
    bench.out.mkdir(parents=True, exist_ok=True)
    if bench.real and bench.fresh < 2:
        raise SystemExit(f"--fresh {bench.fresh}: an interval takes two seeds at least")
    if bench.landscapes:
        curves = {}
        for kind in SHIFT:
            print(f"\n{bench.landscapes} made-up landscapes, {kind}, {bench.runs} runs each; true value of what is claimed (lower is better):")
            curves[kind] = synthetic(bench, kind)
        draw(curves, bench.out)
        (bench.out / "search.json").write_text(json.dumps({"curves": curves}, indent=1))
        print(f"figures: {bench.out / 'search.json'}, search.png beside it")
    if bench.real:
        told = real(bench)
        (bench.out / "real.json").write_text(json.dumps(told, indent=1))
        print(f"figures: {bench.out / 'real.json'}, analysis.png and lineage.html beside it")


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))

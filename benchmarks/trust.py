"""How often each rule for keeping a change is wrong, and what it finds for its GPU time: `./just trust`.

Simulated labs on which the truth is known. An idea changes the true quality of the code it is applied to; a run measures that quality with the
noise that the root problem showed (standard deviation of a run over seeds 0.008 val_bpb, of a paired difference 0.011 to 0.014). Each rule spends
the same number of runs on the same stream of ideas:

    greedy      one run an idea, kept when its number is the best so far (autoresearch)
    mad         the same, but an improvement of less than twice the median absolute deviation of all numbers so far is run once more (pi-autoresearch's advice)
    three       three seeds an idea, kept when their mean is the best so far
    argmax      five drafts, then always a child of the node with the best number of all (AIDE)
    gate        monolab's: `stats.compare`, `stats.decide` and `stats.level`, the functions that judge real runs

Prints the tables, writes them with their settings to a JSON file and draws the plots.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import tyro

from monolab import stats

SMALLEST = 0.01  # program.md's smallest_effect


@dataclass(frozen=True)
class Trust:
    reps: int = 200  # simulated labs for every setting
    runs: int = 200  # that each of them can pay for
    seconds: float = 300.0  # of a run, for the figures in GPU time
    most: int = 8  # seeds that the gate spends on one idea at most
    target: float = 0.05  # the gate's false discovery rate
    noises: tuple[float, ...] = (0.004, 0.008, 0.016, 0.032)  # sd of one run over seeds; the root problem's is 0.008
    shared: float = 0.25  # part of that variance that a seed's runs have in common
    out: Path = Path("trust.json")
    plot: Path | None = None


@dataclass(frozen=True)
class Ideas:
    """What ideas do: the share that does nothing, helps, or (the rest) harms, and the mean size of a help and of a harm."""

    nothing: float = 0.4
    help: float = 0.15
    gain: float = 0.03
    harm: float = 0.04
    room: float = 0.4  # in which gains shrink as quality grows: the next one is worth exp(-quality / room) of it


class Spent(Exception):
    """The runs are used up."""


@dataclass
class World:
    """One simulated lab. `code` is a number per version of the code; its true quality is `truth[code]`, higher is better."""

    rep: int
    noise: float
    shared: float
    budget: int
    ideas: Ideas
    truth: list[float] = field(default_factory=lambda: [0.0])
    parents: list[int] = field(default_factory=lambda: [0])
    kept: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    best: int = 0  # the version that the rule says is best
    head: int = 0  # the version that the next idea is applied to; the same but for the gate
    path: list[float] = field(default_factory=list)  # true quality of the best after each run
    seen: dict[tuple[int, int], float] = field(default_factory=dict)

    def idea(self, parent: int) -> int:
        """The next idea of the stream, applied to `parent`. The same idea does the same in whatever lab and rule."""
        draw = np.random.default_rng((self.rep, len(self.tried)))
        kind, size = draw.random(), draw.exponential()
        if kind < self.ideas.nothing:
            effect = 0.0
        elif kind < self.ideas.nothing + self.ideas.help:
            effect = size * self.ideas.gain * math.exp(-self.truth[parent] / self.ideas.room)
        else:
            effect = -size * self.ideas.harm
        self.truth.append(self.truth[parent] + effect)
        self.parents.append(parent)
        self.tried.append(len(self.truth) - 1)
        return self.tried[-1]

    def run(self, code: int, seed: int) -> float:
        """The measured quality; deterministic for code and seed, and paid for once."""
        if (code, seed) not in self.seen:
            if len(self.path) >= self.budget:
                raise Spent
            common = np.random.default_rng((self.rep, 1, seed)).normal() * math.sqrt(self.shared)
            own = np.random.default_rng((self.rep, 2, code, seed)).normal() * math.sqrt(1 - self.shared)
            self.seen[code, seed] = self.truth[code] + self.noise * (common + own)
            self.path.append(self.truth[self.best])
        return self.seen[code, seed]

    def keep(self, code: int) -> None:
        self.kept.append(code)
        self.best = self.head = code

    def effect(self, code: int) -> float:
        return self.truth[code] - self.truth[self.parents[code]]


def greedy(world: World, settings: Trust) -> Iterator[None]:
    best = world.run(0, 0)
    while True:
        yield
        code = world.idea(world.best)
        if (value := world.run(code, 0)) > best:
            best = value
            world.keep(code)


def mad(world: World, settings: Trust) -> Iterator[None]:
    values = [world.run(0, 0)]
    best = values[0]
    while True:
        yield
        code = world.idea(world.best)
        value = world.run(code, 0)
        values.append(value)
        middle = statistics.median(values)
        spread = statistics.median(abs(one - middle) for one in values)
        if value > best and (len(values) < 3 or value - best < 2 * spread):
            value = statistics.fmean((value, world.run(code, 1)))  # the advice: run it again
        if value > best:
            best = value
            world.keep(code)


def three(world: World, settings: Trust) -> Iterator[None]:
    best = statistics.fmean(world.run(0, seed) for seed in range(3))
    while True:
        yield
        code = world.idea(world.best)
        if (value := statistics.fmean(world.run(code, seed) for seed in range(3))) > best:
            best = value
            world.keep(code)


def argmax(world: World, settings: Trust) -> Iterator[None]:
    best = world.run(0, 0)
    drafts = 5
    while True:
        yield
        code = world.idea(0 if len(world.tried) < drafts else world.best)
        if (value := world.run(code, 0)) > best:
            best = value
            world.keep(code)


def gate(world: World, settings: Trust) -> Iterator[None]:
    """Builds on what looks best, as `greedy` does, and claims only what the gate keeps: `world.best` moves when it keeps, `world.head` at once."""
    values = [world.run(0, seed) for seed in range(3)]
    floor, number, tested, kept = stats.noise_floor(values), values[0], 0, []
    question = {"floor": floor, "smallest_effect": SMALLEST, "most": settings.most}
    while True:
        yield
        code = world.idea(world.head)
        gain = (value := world.run(code, 0)) - number
        level = stats.level(tested + 1, kept, settings.target)
        chance, _ = stats.screen(value - world.run(world.best, 0), level=level, **question)
        decision, _ = stats.triage(gain, chance if gain > 0 else 0.0, settings.most)
        if decision != "drop":
            world.head, number = code, value
        if decision != "more":
            continue
        tested, n = tested + 1, 0
        while decision == "more":
            before, n = n, stats.next_look(n, settings.most)
            mine, theirs = ({seed: world.run(one, seed) for seed in range(1, n + 1)} for one in (code, world.best))
            found = stats.compare(mine, theirs, claim=1, level=level, before=before, **question)
            decision, _ = stats.decide(found, settings.most)
        if decision == "keep":
            world.keep(code)
            kept.append(tested)
        elif decision == "drop":
            world.head, number = world.best, world.run(world.best, 0)


RULES = {"greedy": greedy, "mad": mad, "three": three, "argmax": argmax, "gate": gate}


def play(rule: str, world: World, settings: Trust, ideas: int | None = None) -> World:
    """Let a rule work until its runs are spent, or until it has judged `ideas` ideas."""
    steps = RULES[rule](world, settings)
    try:
        next(steps)
        while ideas is None or len(world.tried) < ideas:
            next(steps)
    except Spent:
        pass
    return world

"""How often each rule for keeping a change is wrong, and what it finds for its GPU time.

    ./just trust                # every table, as text; trust.md, trust.json and trust.png in .demo/trust (about 3 minutes on two cores)
    ./just trust --reps 20      # a quick look

Simulated labs on which the truth is known. An idea changes the true quality of the code it is applied to; a run measures that quality with the
noise that the root problem showed (standard deviation of a run over seeds 0.008 val_bpb, of a paired difference 0.011 to 0.014, so a seed's runs
have no noise in common). Each rule spends the same number of runs on the same stream of ideas:

    greedy      one run an idea, kept when its number is the best so far (autoresearch)
    mad         the same, but an improvement of less than twice the median absolute deviation of all numbers so far is run once more (pi-autoresearch's advice)
    three       three seeds an idea, kept when their mean is the best so far
    argmax      five drafts, then always a child of the node with the best number of all (AIDE)
    gate        monolab's: `stats.compare`, `stats.decide` and `stats.level`, the functions that judge real runs

Two landscapes: `early`, where 15 % of the ideas help, and `late`, where 3 % do. Quality counts from the baseline's 0, higher is better, in val_bpb.

Intervals are 95 %. Means: normal, over the labs. Rates: Wilson's, with the number of trials that labs as clusters are worth (Korn and Graubard 1998;
Dean and Pagano 2015). Ratios: percentiles of a bootstrap over the repetitions. What is drawn depends on repetition, idea, code and seed alone:
rules are compared on the same ideas, and the figures are the same with any number of processes.
"""

import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import tyro
from tqdm import tqdm

from monolab import stats

SMALLEST = 0.01  # program.md's smallest_effect
ROOT = 0.008  # the root problem's noise: sd of one run over seeds
TARGET = 0.05  # of false keeps, on changes that do nothing
AA_LABS = 10  # of one idea, in every repetition
AA_RUNS = 100  # of a whole lab in which nothing helps
STARTS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
TARGETS = (0.05, 0.2)
STATES = ("met", "not settled", "NOT met")  # of a target, by the 95 % interval
ROUNDING = 1e-9  # effects closer than this are the same
DRAWN = ("argmax", "greedy", "mad", "three", "gate")  # in this order, the first broad, as greedy covers it
COLOURS = {"greedy": "#cf222e", "mad": "#bf8700", "three": "#8250df", "argmax": "#8c959f", "gate": "#0969da"}


@dataclass(frozen=True)
class Trust:
    reps: int = 200  # simulated labs for every setting
    runs: int = 200  # that each of them can pay for
    seconds: float = 300.0  # of a run, for the figures in GPU time
    most: int = 8  # seeds that the gate spends on one idea at most
    target: float = 0.05  # the gate's false discovery rate
    noises: tuple[float, ...] = (0.004, 0.008, 0.016, 0.032)  # sd of one run over seeds; the root problem's is 0.008
    shared: float = 0.0  # part of that variance that a seed's runs have in common
    processes: int = 2
    out: Path = Path(".demo/trust")  # folder of trust.json, trust.md and trust.png


@dataclass(frozen=True)
class Ideas:
    """What ideas do: the share that does nothing, helps, or (the rest) harms, and the mean size of a help and of a harm."""

    nothing: float = 0.4
    help: float = 0.15
    gain: float = 0.03
    harm: float = 0.04
    room: float = 0.4  # in which gains shrink as quality grows: the next one is worth exp(-quality / room) of it
    alike: bool = False  # every help and every harm has the mean size; otherwise sizes are exponential


LANDSCAPES = {"early": Ideas(), "late": Ideas(nothing=0.6, help=0.03, gain=0.03, harm=0.02)}
NOTHING = Ideas(nothing=1.0)
NEAR_ZERO = Ideas(nothing=0.0, help=0.5, gain=SMALLEST / 2, harm=SMALLEST / 2, room=1e6, alike=True)


@dataclass(frozen=True)
class Setting:
    """What a simulated lab depends on, besides its repetition."""

    rule: str
    ideas: Ideas
    noise: float
    runs: int
    most: int
    target: float
    shared: float
    start: float = stats.START  # the gate's chance from which an idea gets evidence
    louder: float = 1.0  # noise of candidates, in that of the baseline
    judge: int | None = None  # ideas after which the lab ends; None for when its runs are spent


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
    louder: float = 1.0
    truth: list[float] = field(default_factory=lambda: [0.0])
    parents: list[int] = field(default_factory=lambda: [0])
    kept: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)  # by each of `kept`
    tried: list[int] = field(default_factory=list)
    best: int = 0  # the version that the rule says is best
    head: int = 0  # the version that the next idea is applied to; the same but for the gate
    reported: float = math.nan  # the number that the rule gives for its best
    path: list[float] = field(default_factory=list)  # true quality of the best, at every run, before its result was in
    heads: list[float] = field(default_factory=list)  # the same of the head
    seen: dict[tuple[int, int], float] = field(default_factory=dict)

    def idea(self, parent: int) -> int:
        """The next idea of the stream, applied to `parent`. The same idea does the same in whatever lab and rule."""
        draw = np.random.default_rng((self.rep, 0, len(self.tried)))
        kind, size = draw.random(), 1.0 if self.ideas.alike else draw.exponential()
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
        """The measured quality; deterministic for code and seed, and paid for once. Raises Spent when no run is left."""
        if (code, seed) not in self.seen:
            if len(self.path) >= self.budget:
                raise Spent
            noise = np.random.default_rng((self.rep, 2, code, seed)).normal() * math.sqrt(1 - self.shared)
            if self.shared:
                noise += np.random.default_rng((self.rep, 1, seed)).normal() * math.sqrt(self.shared)
            self.seen[code, seed] = self.truth[code] + self.noise * (self.louder if code else 1.0) * noise
            self.path.append(self.truth[self.best])
            self.heads.append(self.truth[self.head])
        return self.seen[code, seed]

    def keep(self, code: int, reported: float) -> None:
        self.kept.append(code)
        self.replaced.append(self.best)
        self.best = self.head = code
        self.reported = reported

    def effect(self, code: int) -> float:
        """The true effect of the idea that made this version."""
        return self.truth[code] - self.truth[self.parents[code]]

    def gains(self) -> list[float]:
        """By how much each kept version is truly better than the one it replaced."""
        return [self.truth[new] - self.truth[old] for new, old in zip(self.kept, self.replaced, strict=True)]

    def ancestry(self, code: int) -> set[int]:
        """The version itself and all it is built on, without the baseline."""
        found = set()
        while code:
            found.add(code)
            code = self.parents[code]
        return found


def greedy(world: World, setting: Setting) -> Iterator[None]:
    best = world.reported = world.run(0, 0)
    while True:
        yield
        code = world.idea(world.best)
        if (value := world.run(code, 0)) > best:
            best = value
            world.keep(code, value)


def mad(world: World, setting: Setting) -> Iterator[None]:
    values = [world.run(0, 0)]
    best = world.reported = values[0]
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
            world.keep(code, value)


def three(world: World, setting: Setting) -> Iterator[None]:
    best = world.reported = statistics.fmean(world.run(0, seed) for seed in range(3))
    while True:
        yield
        code = world.idea(world.best)
        if (value := statistics.fmean(world.run(code, seed) for seed in range(3))) > best:
            best = value
            world.keep(code, value)


def argmax(world: World, setting: Setting) -> Iterator[None]:
    best = world.reported = world.run(0, 0)
    drafts = 5
    while True:
        yield
        code = world.idea(0 if len(world.tried) < drafts else world.best)
        if (value := world.run(code, 0)) > best:
            best = value
            world.keep(code, value)


def gate(world: World, setting: Setting) -> Iterator[None]:
    """Builds on what looks best, as `greedy` does, and claims only what the gate keeps: `world.best` moves when it keeps, `world.head` at once."""
    values = [world.run(0, seed) for seed in range(3)]
    floor, number, tested, kept = stats.noise_floor(values), values[0], 0, []
    question = {"floor": floor, "smallest_effect": SMALLEST, "most": setting.most}
    world.reported = statistics.fmean(values)
    while True:
        yield
        code = world.idea(world.head)
        gain = (value := world.run(code, 0)) - number
        level = stats.level(tested + 1, kept, setting.target)
        chance, _ = stats.screen(value - world.run(world.best, 0), level=level, **question)
        decision, _ = stats.triage(gain, chance, setting.most)
        if gain > 0:
            world.head, number = code, value
        if decision != "more":
            continue
        tested, n = tested + 1, 0
        while decision == "more":
            before, n = n, stats.next_look(n, setting.most)
            mine, theirs = ({seed: world.run(one, seed) for seed in range(1, n + 1)} for one in (code, world.best))
            found = stats.compare(mine, theirs, claim=1, level=level, before=before, **question)
            decision, _ = stats.decide(found, setting.most)
        if decision == "keep":
            world.keep(code, statistics.fmean(mine.values()))
            kept.append(tested)
        elif decision == "drop":
            world.head, number = world.best, world.run(world.best, 0)


RULES = {"greedy": greedy, "mad": mad, "three": three, "argmax": argmax, "gate": gate}


def play(rule: str, world: World, setting: Setting) -> World:
    """Let a rule work until its runs are spent, or until it has judged as many ideas as the setting says."""
    steps = RULES[rule](world, setting)
    try:
        next(steps)
        while setting.judge is None or len(world.tried) < setting.judge:
            next(steps)
    except Spent:
        pass
    return world


@dataclass(frozen=True)
class Outcome:
    """What one simulated lab came to."""

    final: float  # true quality of what the rule says is best
    head: float  # true quality of what it builds on
    flattery: float  # the number reported for the best, minus its true quality
    keeps: int
    false: int  # keeps that are truly not better than what they replaced
    gains: int  # keeps that are truly better by the smallest effect or more
    ideas: int  # measured at least once
    worth: int  # of those: with a true effect of the smallest effect or more
    found: int  # of those: kept, or part of what was kept
    path: np.ndarray
    heads: np.ndarray


def lab(setting: Setting, rep: int) -> Outcome:
    with mock.patch.object(stats, "START", setting.start):
        world = play(setting.rule, World(rep, setting.noise, setting.shared, setting.runs, setting.ideas, setting.louder), setting)
    ideas = [code for code in world.tried if (code, 0) in world.seen]
    worth = {code for code in ideas if world.effect(code) >= SMALLEST - ROUNDING}
    inside = set().union(*(world.ancestry(code) for code in world.kept))
    gains = world.gains()
    return Outcome(
        final=world.truth[world.best],
        head=world.truth[world.head],
        flattery=world.reported - world.truth[world.best],
        keeps=len(gains),
        false=sum(gain <= ROUNDING for gain in gains),
        gains=sum(gain >= SMALLEST - ROUNDING for gain in gains),
        ideas=len(ideas),
        worth=len(worth),
        found=len(worth & inside),
        path=np.array(world.path),
        heads=np.array(world.heads),
    )


def labs(task: tuple[Setting, int]) -> list[Outcome]:
    """One repetition. Labs of a single idea are so short that it takes AA_LABS of them."""
    setting, rep = task
    return [lab(setting, rep)] if setting.judge is None else [lab(setting, rep * AA_LABS + number) for number in range(AA_LABS)]


def measure(settings: Sequence[Setting], reps: int, processes: int) -> dict[Setting, list[Outcome]]:
    """All repetitions of all settings."""
    chosen = list(dict.fromkeys(settings))
    tasks = [(setting, rep) for setting in chosen for rep in range(reps)]
    bar = {"total": len(tasks), "unit": "lab", "disable": None}
    if processes == 1:
        results = [labs(task) for task in tqdm(tasks, **bar)]
    else:
        with multiprocessing.Pool(processes) as pool:
            results = list(tqdm(pool.imap(labs, tasks, chunksize=10), **bar))
    return {setting: [one for group in results[place * reps : (place + 1) * reps] for one in group] for place, setting in enumerate(chosen)}


@dataclass(frozen=True)
class Figure:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 3, percent: bool = False) -> str:
        if percent:
            places = 1 if self.high >= 0.01 else 2
            return f"{100 * self.value:.{places}f} % [{100 * self.low:.{places}f}, {100 * self.high:.{places}f}]"
        return f"{self.value:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"


def mean(values: Sequence[float]) -> Figure:
    """Of one value a lab, with the normal interval."""
    middle = statistics.fmean(values)
    half = statistics.NormalDist().inv_cdf((1 + stats.LEVEL) / 2) * statistics.stdev(values) / math.sqrt(len(values))
    return Figure(middle, middle - half, middle + half)


def rate(hits: Sequence[float], trials: Sequence[float]) -> Figure | None:
    """Hits among all trials, each a number a lab; None where nothing was tried.

    The interval is Wilson's with the effective number of trials: that of independent ones with the variance that the ratio has between labs.
    """
    hit, tried, total = np.array(hits, float), np.array(trials, float), float(sum(trials))
    if not total:
        return None
    share = hit.sum() / total
    variance = len(hit) / (len(hit) - 1) * ((hit - share * tried) ** 2).sum() / total**2
    trials_worth = min(total, share * (1 - share) / variance) if variance else total
    return Figure(share, *stats.wilson(share * trials_worth, trials_worth))


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure | None:
    """Of two means over the same repetitions, with a bootstrap over them; None where the lower one may be zero or less."""
    top, bottom = np.array(above), np.array(below)
    if mean(below).low <= 0:
        return None
    chosen = np.random.default_rng(0).integers(len(top), size=(4000, len(top)))
    drawn = top[chosen].mean(1) / np.maximum(bottom[chosen].mean(1), 1e-12)
    return Figure(top.mean() / bottom.mean(), *np.quantile(drawn, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2]).tolist())


def column(outcomes: Sequence[Outcome], name: str) -> list[float]:
    return [getattr(one, name) for one in outcomes]


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Figure | None]:
    """The figures of one setting."""
    of = {name: column(outcomes, name) for name in ("final", "head", "flattery", "keeps", "false", "gains", "ideas", "worth", "found")}
    paid = [seconds * len(one.path) for one in outcomes]
    return {
        "final": mean(of["final"]),
        "head": mean(of["head"]),
        "flattery": mean(of["flattery"]),
        "keeps": mean(of["keeps"]),
        "ideas": mean(of["ideas"]),
        "false_keeps": rate(of["false"], of["keeps"]),
        "false_discovery_rate": rate([wrong / max(kept, 1) for wrong, kept in zip(of["false"], of["keeps"], strict=True)], [1] * len(outcomes)),
        "false_an_idea": rate(of["false"], of["ideas"]),
        "labs_with_a_false_keep": rate([float(wrong > 0) for wrong in of["false"]], [1] * len(outcomes)),
        "missed": rate([all_ - some for all_, some in zip(of["worth"], of["found"], strict=True)], of["worth"]),
        "seconds_a_gain": ratio(paid, of["gains"]),
        "evidence": rate([len(one.path) - one.ideas for one in outcomes], [len(one.path) for one in outcomes]),
    }


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""

    def text(self) -> str:
        widths = [max(len(row[place]) for row in (self.columns, *self.rows)) for place in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (self.columns, *self.rows)]
        return "\n".join([self.title, "=" * len(self.title), lines[0], "  ".join("-" * width for width in widths), *lines[1:], *self._note()])

    def markdown(self) -> str:
        rows = (self.columns, ("---",) * len(self.columns), *self.rows)
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows), *self._note()])

    def _note(self) -> list[str]:
        return ["", self.note] if self.note else []


def shown(figure: Figure | None, digits: int = 3, percent: bool = False) -> str:
    return "–" if figure is None else figure.text(digits, percent)


def at(noise: float) -> str:
    return f"{noise:g} (root)" if noise == ROOT else f"{noise:g}"


@dataclass(frozen=True)
class Study:
    """The settings of every table, by what the table calls them, and what came out."""

    trust: Trust
    aa: dict[tuple[float, str], Setting]
    null: dict[tuple[float, str], Setting]
    main: dict[tuple[str, float, str], Setting]
    trade: dict[tuple[str, float, float], Setting]
    robust: dict[tuple[str, str], Setting]
    outcomes: dict[Setting, list[Outcome]] = field(default_factory=dict)
    figures: dict[Setting, dict[str, Figure | None]] = field(default_factory=dict)

    @property
    def noises(self) -> list[float]:
        return sorted({*self.trust.noises, ROOT})

    def duel(self, landscape: str, noise: float, rule: str, name: str) -> tuple[Figure, Figure | None]:
        """The gate's `final` or `head` against a rule's final true quality, on the same repetitions: difference and ratio."""
        mine = column(self.outcomes[self.main[landscape, noise, "gate"]], name)
        other = column(self.outcomes[self.main[landscape, noise, rule]], "final")
        return mean([a - b for a, b in zip(mine, other, strict=True)]), ratio(mine, other)


def plan(trust: Trust) -> Study:
    common = {"runs": trust.runs, "most": trust.most, "target": trust.target, "shared": trust.shared}
    noises, aa, null, main = sorted({*trust.noises, ROOT}), {}, {}, {}
    for noise in noises:
        for rule in RULES:
            if noise == ROOT or rule == "gate":  # one number against another of the same spread: the other rules do not know how large it is
                aa[noise, rule] = Setting(rule, NOTHING, noise, judge=1, **common)
                null[noise, rule] = Setting(rule, NOTHING, noise, **common | {"runs": AA_RUNS})
            for landscape, ideas in LANDSCAPES.items():
                main[landscape, noise, rule] = Setting(rule, ideas, noise, **common)
    trade = {
        (landscape, target, start): replace(main[landscape, ROOT, "gate"], target=target, start=start)
        for landscape in LANDSCAPES
        for target in TARGETS
        for start in sorted({*STARTS, stats.START})
    }
    worlds = {
        "every idea helps or harms by half the smallest effect": {"ideas": NEAR_ZERO},
        "early, candidates twice as noisy as the baseline": {"louder": 2.0},
        "nothing helps, candidates twice as noisy as the baseline": {"ideas": NOTHING, "louder": 2.0},
        "early, a quarter of the noise shared by a seed's runs": {"shared": 0.25},
    }
    robust = {(name, rule): replace(main["early", ROOT, rule], **changes) for name, changes in worlds.items() for rule in ("greedy", "gate")}
    return Study(trust, aa, null, main, trade, robust)


def study(trust: Trust) -> Study:
    """Plan it, play it, and work out the figures."""
    found = plan(trust)
    settings = [one for group in (found.aa, found.null, found.main, found.trade, found.robust) for one in group.values()]
    outcomes = measure(settings, trust.reps, trust.processes)
    return replace(found, outcomes=outcomes, figures={one: summary(results, trust.seconds) for one, results in outcomes.items()})


def tables(found: Study) -> list[Table]:
    trust, figures = found.trust, found.figures
    made = [_controls(found), _root(found)]
    for landscape, ideas in LANDSCAPES.items():
        rows = []
        for noise in found.noises:
            for rule in RULES:
                of = figures[found.main[landscape, noise, rule]]
                rows.append(
                    (
                        at(noise),
                        rule,
                        shown(of["final"]),
                        shown(of["head"]) if rule == "gate" else "the same",
                        shown(of["flattery"]),
                        shown(of["keeps"], 1),
                        shown(of["false_keeps"], percent=True),
                        shown(of["missed"], percent=True),
                        shown(of["seconds_a_gain"], 0),
                        shown(of["ideas"], 0),
                    )
                )
        made.append(
            Table(
                f"{landscape}: {100 * ideas.help:.0f} % of the ideas help; {trust.runs} runs",
                (
                    "noise",
                    "rule",
                    "final true quality",
                    "of what it builds on",
                    "claimed - true",
                    "keeps",
                    "false keeps",
                    "missed gains",
                    "GPU-seconds per validated gain",
                    "ideas tried",
                ),
                rows,
            )
        )
    for landscape in LANDSCAPES:
        rows = []
        for noise in found.noises:
            for rule in RULES:
                if rule != "gate":
                    (claims, share), (builds, part) = (found.duel(landscape, noise, rule, name) for name in ("final", "head"))
                    rows.append((at(noise), rule, shown(claims), shown(share, 2), shown(builds), shown(part, 2)))
        made.append(
            Table(
                f"{landscape}: the gate's final true quality against each rule's, paired by repetition",
                ("noise", "rule", "claims: gate - rule", "gate / rule", "builds on: gate - rule", "gate / rule"),
                rows,
                "A ratio is given where the rule's own quality is above 0 beyond doubt.",
            )
        )
    return [*made, *(_trade(found, landscape) for landscape in LANDSCAPES), _robust(found)]


def _controls(found: Study) -> Table:
    rows = []
    for (noise, rule), setting in sorted(found.aa.items(), key=lambda item: (item[0][1] == "gate", item[0][0])):
        whole = found.figures[found.null[noise, rule]]
        one = found.figures[setting]["false_an_idea"]
        rows.append(
            (
                at(noise),
                rule,
                shown(one, percent=True),
                _state(TARGET - one.high, TARGET - one.low),
                shown(whole["false_an_idea"], percent=True),
                shown(whole["labs_with_a_false_keep"], percent=True),
            )
        )
    return Table(
        "A/A: changes that do nothing",
        (
            "noise",
            "rule",
            "the only idea is kept",
            f"target of at most {100 * TARGET:g} %",
            f"an idea in a lab of {AA_RUNS} runs",
            "such labs with any",
        ),
        rows,
        f"{len(next(iter(found.outcomes[one] for one in found.aa.values())))} labs of one idea, {found.trust.reps} whole labs in which nothing helps.",
    )


def _root(found: Study) -> Table:
    rows = []
    for landscape in LANDSCAPES:
        for rule in RULES:
            of = found.figures[found.main[landscape, ROOT, rule]]
            duels = ("", "") if rule == "gate" else (shown(found.duel(landscape, ROOT, rule, name)[1], 2) for name in ("final", "head"))
            names = shown(of["final"]), *duels, shown(of["flattery"])
            rows.append(
                (landscape, rule, *names, *(shown(of[name], percent=True) for name in ("false_keeps", "missed")), shown(of["seconds_a_gain"], 0))
            )
    return Table(
        f"At the root problem's noise, {ROOT:g}; {found.trust.runs} runs of {found.trust.seconds:g} s",
        (
            "landscape",
            "rule",
            "final true quality",
            "gate / rule",
            "what the gate builds on / rule",
            "claimed - true",
            "false keeps",
            "missed gains",
            "GPU-seconds per validated gain",
        ),
        rows,
        "A stack of ideas that the gate keeps as a whole is one keep and at most one validated gain.",
    )


def _trade(found: Study, landscape: str) -> Table:
    rows = []
    for (world, target, start), setting in found.trade.items():
        if world == landscape:
            of = found.figures[setting]
            mark = " (the gate)" if (target, start) == (found.trust.target, stats.START) else ""
            names = shown(of["final"]), shown(of["head"]), shown(of["keeps"], 1)
            rows.append(
                (f"{target:g}", f"{start:g}{mark}", *names, *(shown(of[name], percent=True) for name in ("false_keeps", "missed", "evidence")))
            )
    of = found.figures[found.main[landscape, ROOT, "greedy"]]
    rows.append(
        (
            "–",
            "greedy",
            shown(of["final"]),
            "the same",
            shown(of["keeps"], 1),
            *(shown(of[name], percent=True) for name in ("false_keeps", "missed", "evidence")),
        )
    )
    return Table(
        f"{landscape}: what certainty costs, at noise {ROOT:g}",
        ("target", "START", "final true quality", "of what it builds on", "keeps", "false keeps", "missed gains", "runs spent on evidence"),
        rows,
        "START: the chance of being kept, as its first seed has it, from which on an idea gets evidence. Target: the false discovery rate asked for.",
    )


def _robust(found: Study) -> Table:
    rows = []
    for (name, rule), setting in found.robust.items():
        of = found.figures[setting]
        rows.append(
            (
                name,
                rule,
                shown(of["false_keeps"], percent=True),
                shown(of["false_discovery_rate"], percent=True),
                shown(of["keeps"], 1),
                shown(of["final"]),
            )
        )
    return Table(
        f"Other worlds, at noise {ROOT:g}",
        ("world", "rule", "false keeps", "mean share of a lab", "keeps", "final true quality"),
        rows,
        "Mean share of a lab: the false discovery rate, in which a lab that keeps nothing counts as 0.",
    )


def _state(low: float, high: float) -> str:
    """Of a target that says: this is at least 0. One of STATES."""
    return "met" if low >= 0 else "NOT met" if high < 0 else "not settled"


def conclusions(found: Study) -> list[str]:
    """What the figures say about the targets, and why."""
    lines = []
    for rule in ("gate", "greedy"):
        one, whole = found.figures[found.aa[ROOT, rule]]["false_an_idea"], found.figures[found.null[ROOT, rule]]
        target = f"target of at most {100 * TARGET:g} % {_state(TARGET - one.high, TARGET - one.low)}" if rule == "gate" else "for comparison"
        lines.append(
            f"A/A at noise {ROOT:g}, {rule}: {target}: keeps {one.text(percent=True)} of changes that do nothing, {whole['false_an_idea'].text(percent=True)}"
            f" in labs of {AA_RUNS} runs."
        )
    discovery = {f"{landscape}, noise {noise:g}": found.main[landscape, noise, "gate"] for landscape in LANDSCAPES for noise in found.noises}
    discovery |= {name: setting for (name, rule), setting in found.robust.items() if rule == "gate"}
    rates = {name: found.figures[setting]["false_discovery_rate"] for name, setting in discovery.items()}
    states = {name: _state(found.trust.target - one.high, found.trust.target - one.low) for name, one in rates.items()}
    worst = max(rates, key=lambda name: rates[name].value)
    lines.append(
        f"False discovery rate of at most {100 * found.trust.target:g} %: met in {list(states.values()).count('met')} of {len(states)} worlds"
        + "".join(f", {state} in: {'; '.join(names)}" for state in STATES[1:] if (names := [name for name in states if states[name] == state]))
        + f". Highest: {rates[worst].text(percent=True)} ({worst})."
    )
    for name, words in (("final", "what the gate claims"), ("head", "what it builds on")):
        for landscape in LANDSCAPES:
            duels = {rule: found.duel(landscape, ROOT, rule, name) for rule in RULES if rule != "gate"}
            parts = []
            for state in STATES:
                those = [f"{rule} ({_gap(*duel)})" for rule, duel in duels.items() if _state(duel[0].low, duel[0].high) == state]
                if those:
                    parts.append(f"{state} against {', '.join(those)}")
            lines.append(f"Final true quality of {words} at least equal, {landscape}, noise {ROOT:g}: {'; '.join(parts)}.")
        counts = []
        for rule in RULES:
            if rule != "gate":
                gaps = [found.duel(landscape, noise, rule, name)[0] for landscape in LANDSCAPES for noise in found.noises]
                states = [_state(gap.low, gap.high) for gap in gaps]
                counts.append(f"{rule}: {', '.join(f'{state} {states.count(state)}' for state in STATES if state in states)}")
        lines.append(f"The same at {len(found.noises)} noises in {len(LANDSCAPES)} landscapes, times against each: {'; '.join(counts)}.")
    return [*lines, *(_why(found, landscape) for landscape in LANDSCAPES)]


def _gap(difference: Figure, share: Figure | None) -> str:
    return f"ratio {share.text(2)}" if share else f"difference {difference.text()}"


def _why(found: Study, landscape: str) -> str:
    runs = {rule: found.outcomes[found.main[landscape, ROOT, rule]] for rule in ("gate", "greedy")}
    gate, greedy = (found.figures[found.main[landscape, ROOT, rule]] for rule in ("gate", "greedy"))
    then = [other.path[min(mine.ideas + 1, len(other.path) - 1)] for mine, other in zip(runs["gate"], runs["greedy"], strict=True)]
    lag = mean([one.head - quality for one, quality in zip(runs["gate"], then, strict=True)])
    held = mean([one.head - one.final for one in runs["gate"]])
    tried = {key[1:]: found.figures[setting] for key, setting in found.trade.items() if key[0] == landscape}
    target, start = max(tried, key=lambda key: tried[key]["final"].value)
    most = tried[target, start]
    return (
        f"What certainty costs, {landscape}, noise {ROOT:g}: greedy tries {greedy['ideas'].value:.0f} ideas, and keeping one that is not better"
        f" ({greedy['false_keeps'].text(percent=True)} of its keeps) costs it no run. The gate spends {gate['evidence'].text(percent=True)} of its runs on"
        f" evidence and tries {gate['ideas'].value:.0f}; what it builds on differs by {lag.text()} from what greedy had after as many ideas, and {held.text()}"
        f" of that it does not claim yet. Of the settings tried, target {target:g} with START {start:g} certifies most: {most['final'].text()}, with"
        f" {shown(most['false_keeps'], percent=True)} false keeps; greedy comes to {greedy['final'].text()} and reports"
        f" {greedy['final'].value + greedy['flattery'].value:.3f}."
    )


def draw(found: Study, out: Path) -> None:
    """Quality against noise, over the runs, and against the share of false keeps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 3, figsize=(13, 7.2), dpi=150, layout="constrained")
    for row, landscape in zip(grid, LANDSCAPES, strict=True):
        _by_noise(found, landscape, row[0])
        _by_run(found, landscape, row[1])
        _trade_off(found, landscape, row[2])
    for axes in grid.flat:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(color="#d0d7de", lw=0.5, alpha=0.7)
        axes.set_axisbelow(True)
    handles = [plt.Line2D([], [], color=COLOURS[rule], lw=2, marker="o", ms=4, label=rule) for rule in RULES]
    handles.append(plt.Line2D([], [], color=COLOURS["gate"], lw=2, ls=":", marker="o", mfc="white", ms=4, label="what the gate builds on"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(out)
    plt.close(figure)


def _by_noise(found: Study, landscape: str, axes) -> None:
    axes.axvspan(ROOT / 1.12, ROOT * 1.12, color="#d0d7de", alpha=0.6, lw=0)
    for place, rule in enumerate(DRAWN):
        _whiskers(axes, found, landscape, rule, "final", 1.03 ** (place - 2), ls="-")
    _whiskers(axes, found, landscape, "gate", "head", 1.03**3, ls=":", mfc="white")
    axes.set_xscale("log")
    axes.set_xticks(found.noises, [f"{noise:g}\nroot problem" if noise == ROOT else f"{noise:g}" for noise in found.noises])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("noise (sd of a run over seeds, val_bpb)")
    axes.set_ylabel("final true quality (val_bpb gained)")
    axes.set_title(f"{landscape}: {100 * LANDSCAPES[landscape].help:.0f} % of the ideas help", loc="left", fontsize=10, fontweight="bold")


def _whiskers(axes, found: Study, landscape: str, rule: str, name: str, shift: float, **style) -> None:
    of = [found.figures[found.main[landscape, noise, rule]][name] for noise in found.noises]
    spread = [[one.value - one.low for one in of], [one.high - one.value for one in of]]
    places = [noise * shift for noise in found.noises]
    axes.errorbar(places, [one.value for one in of], yerr=spread, color=COLOURS[rule], lw=1.5, marker="o", ms=4, elinewidth=1, **style)


def _by_run(found: Study, landscape: str, axes) -> None:
    for rule in DRAWN:
        paths = np.stack(column(found.outcomes[found.main[landscape, ROOT, rule]], "path"))
        axes.plot(np.arange(paths.shape[1]), paths.mean(0), color=COLOURS[rule], lw=4 if rule == DRAWN[0] else 1.7)
    heads = np.stack(column(found.outcomes[found.main[landscape, ROOT, "gate"]], "heads"))
    axes.plot(np.arange(heads.shape[1]), heads.mean(0), color=COLOURS["gate"], lw=1.7, ls=":")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"runs spent, {found.trust.seconds:g} s each")
    axes.set_ylabel("true quality, mean of all labs")
    axes.set_title(f"over the runs, at noise {ROOT:g}", loc="left", fontsize=10)


def _trade_off(found: Study, landscape: str, axes) -> None:
    for target, shade in zip(TARGETS, (COLOURS["gate"], "#0a3069"), strict=True):
        starts = [start for world, aim, start in found.trade if (world, aim) == (landscape, target)]
        settings = [found.trade[landscape, target, start] for start in starts]
        of = [found.figures[one] for one in settings]
        keeps, false = (sum(sum(column(found.outcomes[one], name)) for one in settings) for name in ("keeps", "false"))
        words = f"gate, target {target:g}: {100 * false / keeps:.1f} % of keeps false" if keeps else f"gate, target {target:g}: nothing kept"
        paid = _point(axes, of, color=shade, lw=1.2, marker="o", ms=4, label=words)
        axes.plot(paid, [one["head"].value for one in of], color=shade, lw=1.2, marker="o", mfc="white", ms=4, ls=":")
        for place in (0, -1) if target == TARGETS[0] else ():
            spot = (paid[place], of[place]["final"].low)
            axes.annotate(
                f"START {starts[place]:g}", spot, xytext=(0, -3), textcoords="offset points", fontsize=6, ha="center", va="top", color=shade
            )
    for rule in ("greedy", "mad"):
        one = found.figures[found.main[landscape, ROOT, rule]]
        words = f"{rule}: {shown(one['false_keeps'], percent=True).split(' [')[0]} of keeps false"
        _point(axes, [one], color=COLOURS[rule], ls="", marker="D", ms=5, label=words)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1)
    axes.set_xlim(left=-1)
    axes.set_xlabel("runs spent on more than an idea's first (%)")
    axes.set_ylabel("final true quality")
    axes.legend(fontsize=7, loc="lower left", frameon=False)
    axes.set_title(f"what certainty costs, at noise {ROOT:g}", loc="left", fontsize=10)


def _point(axes, of: list[dict[str, Figure | None]], **style) -> list[float]:
    """Draw final quality against the share of runs spent on evidence, in percent, which is returned."""
    paid, finals = [100 * one["evidence"].value for one in of], [one["final"] for one in of]
    spread = [[one.value - one.low for one in finals], [one.high - one.value for one in finals]]
    axes.errorbar(paid, [one.value for one in finals], yerr=spread, elinewidth=0.8, **style)
    return paid


def main(trust: Trust) -> None:
    if trust.reps < 2 or trust.runs < 20 or trust.processes < 1:
        sys.exit("it takes 2 repetitions, 20 runs and 1 process at least: ./just trust --reps 20")
    found = study(trust)
    shown_tables, lines = tables(found), conclusions(found)
    print("\n\n".join([*(table.text() for table in shown_tables), "\n".join(["Conclusions", *(f"- {line}" for line in lines)])]))
    trust.out.mkdir(parents=True, exist_ok=True)
    markdown = [f"# {trust.reps} simulated labs of {trust.runs} runs for every setting", *(table.markdown() for table in shown_tables)]
    (trust.out / "trust.md").write_text("\n\n".join([*markdown, "### Conclusions", "\n".join(f"- {line}" for line in lines)]) + "\n")
    (trust.out / "trust.json").write_text(json.dumps(record(found, lines), indent=1) + "\n")
    draw(found, trust.out / "trust.png")
    print(f"\n{trust.out / 'trust.md'}, trust.json and trust.png")


def record(found: Study, lines: list[str]) -> dict:
    """All figures with their settings, for machines."""

    def rows(group: dict) -> list[dict]:
        return [{"setting": asdict(one), "figures": {name: of and asdict(of) for name, of in found.figures[one].items()}} for one in group.values()]

    groups = {name: rows(getattr(found, name)) for name in ("aa", "null", "main", "trade", "robust")}
    return {"trust": asdict(found.trust) | {"out": str(found.trust.out)}, "conclusions": lines, **groups}


if __name__ == "__main__":
    main(tyro.cli(Trust))

"""Scores of the predictions that were made before the runs: is what is believed with 80 % true in 80 % of the cases, and how large are the effects?

A prediction is a credence that the verdict will be `supported`, and a signed effect. The credences are scored by Brier (1950) and taken apart by
Murphy (1973) over bins, with the two terms of Stephenson, Coelho and Jolliffe (2008) that make the parts add up where credences differ inside a bin.

Chances and intervals take predictions for independent. Versions of one idea are not, so the Brier score's interval resamples whole ideas.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monolab import problem as problems
from monolab import stats, verdicts
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.verdicts import Verdict

BINS = 5  # of equal width; the last one includes 1
FEW = 5  # ideas (for an interval) or predictions (to speak of a bias) below which nothing is said
UNLIKELY = 0.05  # the chance of a calibrated forecaster below which a bias is called one
RESAMPLES = 5000
AGENTS = 8  # that the text shows


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one arm, and what came out. Effects are candidate minus parent, in the metric's unit."""

    time: str  # of the verdict
    idea: str
    stage: str
    code_sha: str
    agent: str
    metric: str
    credence: float
    verdict: str
    predicted: float
    effect: float | None  # None where nothing was measured
    low: float | None  # None where one seed was measured
    high: float | None
    floor: float  # sd over the baseline's seeds
    runs: tuple[str, ...]

    @property
    def outcome(self) -> bool:
        return self.verdict == "supported"

    @property
    def loss(self) -> float:
        """The squared error of the credence; its mean is the Brier score."""
        return (self.credence - self.outcome) ** 2


def predictions(lab: Lab) -> list[Prediction]:
    """The predictions whose verdict is in, in its order of time; one for every arm (idea, stage, code, options), controls aside.

    A verdict is in once it is supported or refuted, or the lab does no more about it by itself: not having been supported by then is
    not coming true. One kind is left out: a predicted harm that only its first seed has tested. The gate goes on with gains alone, so the forecaster
    could never be right; several seeds at once (`just queue IDEA --seeds 3`) test a harm.
    """
    return _sorted_out(lab)[0]


def _sorted_out(lab: Lab) -> tuple[list[Prediction], int, int]:
    """The predictions whose verdict is in; how many wait for it; how many harms were left untested."""
    last: dict[tuple, Verdict] = {}
    for one in verdicts.records(lab):
        last[one.idea, one.stage, one.code_sha, one.args] = one
    made = [one for one in last.values() if not one.control and one.credence is not None and one.predicted]
    settled = [one for one in made if one.final or one.verdict in ("supported", "refuted")]
    sign = problems.load(lab).sign if settled else 0
    tested = [one for one in settled if not _untested(one, sign)]
    scored = [Prediction(**{name: getattr(one, name) for name in Prediction.__dataclass_fields__}) for one in tested]
    return sorted(scored, key=lambda one: one.time), len(made) - len(settled), len(settled) - len(tested)


def _untested(one: Verdict, sign: int) -> bool:
    """Whether nothing could make it come true: it predicted a harm (`sign` is +1 where higher is better) that only one seed has tested, or its evidence was
    spent on the stack that it is the top of."""
    undecided = one.verdict == "inconclusive" and one.effect is not None and one.low is None
    return undecided and (sign * one.predicted < 0 or (bool(one.gate.through) and one.gate.test > 0))


def score(found: Sequence[Prediction]) -> dict:
    """How good the predictions were, as plain data; None stands for what so few of them, or these, do not tell.

    n, ideas, verdicts (how many of each), unmeasured; credence (mean), base_rate, bias (credence minus base rate), bias_chance (of a calibrated
    forecaster to be off by as much), calibration (in a word);
    brier, brier_low, brier_high, brier_why (of a missing interval), skill and skill_half (against always saying the base rate, as known
    afterwards, and 50 %);
    reliability (0 is best), reliability_chance (what a calibrated forecaster would be expected to have in these bins), resolution (more is better),
    uncertainty, within_bins: brier = reliability - resolution + uncertainty + within_bins;
    curve (bins that are not empty); effects (see `_effects`).
    """
    n, hits = len(found), sum(one.outcome for one in found)
    base_rate = hits / n if n else None
    credence = statistics.fmean(one.credence for one in found) if n else None
    bias = credence - base_rate if n else None
    chance = _bias_chance([one.credence for one in found], hits) if n else None
    brier = _brier(found) if n else None
    uncertainty = base_rate * (1 - base_rate) if n else None
    low, high, why = _interval(found)
    return {
        "n": n,
        "ideas": len({one.idea for one in found}),
        "verdicts": dict(Counter(one.verdict for one in found)),
        "unmeasured": sum(one.effect is None for one in found),
        "credence": credence,
        "base_rate": base_rate,
        "bias": bias,
        "bias_chance": chance,
        "calibration": _word(n, bias, chance),
        "brier": brier,
        "brier_low": low,
        "brier_high": high,
        "brier_why": why,
        "skill": 1 - brier / uncertainty if uncertainty else None,
        "skill_half": 1 - brier / 0.25 if n else None,
        **_decomposition(found, brier, base_rate),
        "uncertainty": uncertainty,
        "curve": _curve(found),
        "effects": _effects(found),
    }


def _brier(found: Sequence[Prediction]) -> float:
    from sklearn.metrics import brier_score_loss

    # The label: where all outcomes are equal, sklearn could not tell which of them is the positive one.
    return float(brier_score_loss([int(one.outcome) for one in found], [one.credence for one in found], pos_label=1))


def _interval(found: Sequence[Prediction]) -> tuple[float | None, float | None, str]:
    """95 % interval of the Brier score by the bootstrap over ideas (BCa, Efron 1987), or why there is none."""
    import numpy as np
    from scipy.stats import bootstrap

    ideas: dict[str, list[float]] = {}
    for one in found:
        ideas.setdefault(one.idea, []).append(one.loss)
    if len(ideas) < FEW:
        return None, None, f"an interval takes {FEW} ideas, there are {len(ideas)}"
    if len({round(statistics.fmean(losses), 12) for losses in ideas.values()}) == 1:
        return None, None, "every idea's credences were off by the same, so there is nothing to resample"
    sample = np.array([sum(losses) for losses in ideas.values()]), np.array([len(losses) for losses in ideas.values()])
    drawn = bootstrap(
        sample,
        lambda losses, counts, axis: losses.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // len(ideas)),
        rng=np.random.default_rng(0),
    )
    low, high = (float(end) for end in drawn.confidence_interval)
    return low, high, ""


def _bias_chance(credences: Sequence[float], hits: int) -> float:
    """The chance that as many hits are at least as far from the expected number as `hits`, where every credence is right (Poisson binomial)."""
    import numpy as np

    mass = np.ones(1)
    for credence in credences:
        mass = np.convolve(mass, [1 - credence, credence])
    expected = sum(credences)
    far = np.abs(np.arange(len(mass)) - expected) >= abs(hits - expected) - 1e-9
    return min(1.0, float(mass[far].sum()))


def _word(n: int, bias: float | None, chance: float | None) -> str:
    if n < FEW:
        return "too few to tell"
    if chance >= UNLIKELY:
        return "no bias beyond luck"
    return "overconfident" if bias > 0 else "underconfident"


def _bins(found: Sequence[Prediction]) -> dict[int, list[Prediction]]:
    """The bins that are not empty, in order."""
    bins: dict[int, list[Prediction]] = {}
    for one in sorted(found, key=lambda one: one.credence):
        bins.setdefault(min(int(one.credence * BINS), BINS - 1), []).append(one)
    return bins


def _curve(found: Sequence[Prediction]) -> list[dict]:
    """Per bin: its edges, how many, mean credence, observed share and its Wilson interval.

    And the chance of a calibrated forecaster to be off by as much; `off` where that is too small for luck, with so many bins to look at (Bonferroni).
    """
    curve, bins = [], _bins(found)
    for place, inside in bins.items():
        n, hits = len(inside), sum(one.outcome for one in inside)
        low, high = stats.wilson(hits, n)
        chance = _bias_chance([one.credence for one in inside], hits)
        curve.append(
            {
                "from": place / BINS,
                "to": (place + 1) / BINS,
                "n": n,
                "credence": statistics.fmean(one.credence for one in inside),
                "observed": hits / n,
                "low": low,
                "high": high,
                "chance": chance,
                "off": chance < UNLIKELY / len(bins),
            }
        )
    return curve


def _decomposition(found: Sequence[Prediction], brier: float | None, base_rate: float | None) -> dict:
    if not found:
        return dict.fromkeys(("reliability", "reliability_chance", "resolution", "within_bins"))
    n = len(found)
    reliability = expected = resolution = 0.0
    for inside in _bins(found).values():
        credence, observed = statistics.fmean(one.credence for one in inside), statistics.fmean(one.outcome for one in inside)
        reliability += len(inside) * (credence - observed) ** 2 / n
        resolution += len(inside) * (observed - base_rate) ** 2 / n
        expected += sum(one.credence * (1 - one.credence) for one in inside) / len(inside) / n
    within = brier - (reliability - resolution + base_rate * (1 - base_rate))
    return {"reliability": reliability, "reliability_chance": expected, "resolution": resolution, "within_bins": within}


def _effects(found: Sequence[Prediction]) -> dict:
    """How sharp the predicted effects were, among the predictions with an observed one.

    n; right_sign (how many); error (median of |observed - predicted|, in the metric's unit; None where there are several metrics), error_floors
    (the same in noise floors); ratio (median of observed / predicted); intervals (how many have one), inside (how many of these hold the
    predicted effect); size_floors (mean of |predicted| in noise floors).
    """
    seen = [one for one in found if one.effect is not None]
    spans = [one for one in seen if one.low is not None]
    one_metric = len({one.metric for one in seen}) == 1
    return {
        "n": len(seen),
        "metric": seen[0].metric if one_metric else None,
        "right_sign": sum(one.predicted * one.effect > 0 for one in seen),
        "error": statistics.median(abs(one.effect - one.predicted) for one in seen) if one_metric else None,
        "error_floors": statistics.median(abs(one.effect - one.predicted) / one.floor for one in seen) if seen else None,
        "ratio": statistics.median(one.effect / one.predicted for one in seen) if seen else None,
        "intervals": len(spans),
        "inside": sum(one.low <= one.predicted <= one.high for one in spans),
        "size_floors": statistics.fmean(abs(one.predicted) / one.floor for one in seen) if seen else None,
    }


def report(lab: Lab, agent: str | None = None) -> dict:
    """All scores: together, per agent and over time; of one agent, where it is named.

    Raises LabError where no prediction has its verdict yet, or the agent has none.
    """
    found, waiting, untested = _sorted_out(lab)
    if not found:
        state = [f"{waiting} wait for their verdict"] * bool(waiting) + [f"{untested} predicted a harm that one seed cannot test"] * bool(untested)
        hint = (
            "just queue IDEA --seeds 3"
            if untested
            else "just status"
            if waiting
            else "write credence and predicted_effect into the idea, then: just queue IDEA"
        )
        raise LabError(f"no prediction to score{': ' if state else ''}{', '.join(state)}", hint=hint)
    names = [name for name, _ in Counter(one.agent for one in found).most_common()]
    if agent is not None:
        found = [one for one in found if one.agent == agent]
        if not found:
            raise LabError(f"no prediction of {agent!r} to score", hint=f"just calibration --agent {names[0]}   # or: {', '.join(names)}")
    half = len(found) // 2
    halves = {"first": score(found[:half]), "second": score(found[half:])} if half else None
    losses = itertools.accumulate(one.loss for one in found)
    return {
        "agent": agent,
        "waiting": waiting,
        "untested": untested,
        "all": score(found),
        "agents": {name: score([one for one in found if one.agent == name]) for name in names if agent in (None, name)},
        "halves": halves,
        "over_time": [
            {
                "time": one.time,
                "idea": one.idea,
                "stage": one.stage,
                "code_sha": one.code_sha,
                "agent": one.agent,
                "credence": one.credence,
                "verdict": one.verdict,
                "predicted": one.predicted,
                "effect": one.effect,
                "brier": loss / (place + 1),
                "runs": list(one.runs),
            }
            for place, (one, loss) in enumerate(zip(found, losses, strict=True))
        ],
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _happens(scores: dict) -> str:
    return f"says {_percent(scores['credence'])}, happens {_percent(scores['base_rate'])} of {scores['n']} time{'s' * (scores['n'] != 1)}"


def _short(scores: dict) -> str:
    """A line of a comparison: calibration and Brier score."""
    span = "" if scores["brier_low"] is None else f" [{scores['brier_low']:.2f}, {scores['brier_high']:.2f}]"
    return f"{_happens(scores)} ({scores['calibration']}), Brier {scores['brier']:.3f}{span}"


def text(found: dict) -> str:
    """`report` on one screen, in words."""
    all_, effects = found["all"], found["all"]["effects"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(all_["verdicts"].items(), key=lambda item: -item[1]))
    unmeasured = f"; {all_['unmeasured']} measured nothing" if all_["unmeasured"] else ""
    whose = f" of {found['agent']}" if found["agent"] else ""
    lines = [
        f"{all_['n']} prediction{'s' * (all_['n'] != 1)}{whose} scored, on {all_['ideas']} idea{'s' * (all_['ideas'] != 1)} ({kinds}{unmeasured})"
    ]
    if found["waiting"]:
        lines.append(f"  of the whole lab, {found['waiting']} more wait for their verdict")
    if found["untested"]:
        lines.append(f"  of the whole lab, {found['untested']} predicted a harm that one seed cannot test (just queue IDEA --seeds 3)")
    lines += ["", f"On average {_happens(all_)}: {all_['calibration']}"]
    lines.append(f"  (where every credence is right, luck puts it this far off or further with a chance of {all_['bias_chance']:.2g})")
    for one in all_["curve"]:
        span = f"{100 * one['from']:3.0f} to {100 * one['to']:3.0f} %"
        times = f"{one['n']} time{'s' * (one['n'] != 1)}"
        off = "   <- not explained by luck" if one["off"] else ""
        luck = f"[{_percent(one['low'])}, {_percent(one['high'])}]"
        lines.append(f"  {span}: says {_percent(one['credence'])}, happens {_percent(one['observed'])} of {times} {luck}{off}")
    span = all_["brier_why"] if all_["brier_low"] is None else f"95 % interval [{all_['brier_low']:.3f}, {all_['brier_high']:.3f}]"
    lines += ["", f"Brier score {all_['brier']:.3f} ({span}); 0 is perfect, always saying 50 % gets 0.250"]
    if all_["skill"] is None:
        lines.append("  all predictions ended the same way: nothing shows yet whether credences tell good ideas from bad ones")
    else:
        better = "better" if all_["skill"] > 0 else "no better"
        lines.append(
            f"  {better} than always saying {_percent(all_['base_rate'])}, which would have got {all_['uncertainty']:.3f}: "
            f"skill {all_['skill']:+.2f} (1 is perfect; against 50 %: {all_['skill_half']:+.2f})"
        )
        lines.append(
            f"  reliability {all_['reliability']:.3f} (0 is best; luck alone gives {all_['reliability_chance']:.3f}), "
            f"resolution {all_['resolution']:.3f} of {all_['uncertainty']:.3f}"
        )
    lines += ["", *_effects_text(effects)]
    if found["halves"]:
        lines += ["", "Over time"]
        lines += [f"  {name:6} half: {_short(found['halves'][name])}" for name in ("first", "second")]
    if len(found["agents"]) > 1:
        width = max(len(name) for name in list(found["agents"])[:AGENTS])
        lines += ["", "Per agent"]
        lines += [f"  {name:{width}}  {_short(scores)}" for name, scores in list(found["agents"].items())[:AGENTS]]
        if len(found["agents"]) > AGENTS:
            lines.append(f"  and {len(found['agents']) - AGENTS} more, with fewer predictions: just calibration --json")
    return "\n".join(lines)


def _effects_text(effects: dict) -> list[str]:
    if not effects["n"]:
        return ["Predicted effects: none was measured"]
    size, off = effects["size_floors"], effects["error_floors"]
    error = f"{effects['error']:.3g} {effects['metric']} ({off:.1f} noise floors)" if effects["metric"] else f"{off:.1f} noise floors"
    low, high = stats.wilson(effects["right_sign"], effects["n"])
    times = f"{effects['inside']} of {effects['intervals']} times"
    inside = f"the observed 95 % interval holds it {times}" if effects["intervals"] else "no interval was observed"
    return [
        f"Predicted effects: the right direction {effects['right_sign']} of {effects['n']} times [{_percent(low)}, {_percent(high)}]",
        f"  the observed effect is {effects['ratio']:.2f} of the predicted one, and {error} away from it (medians)",
        f"  {inside}; it is {size:.1f} noise floors large (mean)",
    ]


def plot(lab: Lab, out: Path, agent: str | None = None) -> Path:
    """Draw the calibration curve, predicted against observed effects, and the Brier score over time, as a PNG.

    Raises LabError as `report` does, and where the folder of `out` does not exist.
    """
    if not out.parent.is_dir():
        raise LabError(f"there is no folder {out.parent}", hint=f"mkdir -p {out.parent}")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = report(lab, agent)
    shown = [one for one in predictions(lab) if agent in (None, one.agent)]
    figure, (curve, effects, over_time) = plt.subplots(1, 3, figsize=(15, 6), dpi=150, layout="constrained")
    _draw_curve(curve, found["all"])
    _draw_effects(effects, [one for one in shown if one.effect is not None])
    _draw_time(over_time, shown, found["all"])
    for axes in (curve, effects, over_time):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
    plt.close(figure)
    return out


def _draw_curve(axes, scores: dict) -> None:
    """Observed share against credence, by bin, over the bars of how many there are."""
    axes.plot([0, 100], [0, 100], color="#57606a", lw=1, ls="--", label="calibrated")
    for one in scores["curve"]:
        x, y = 100 * one["credence"], 100 * one["observed"]
        colour = "#cf222e" if one["off"] else "#0969da"
        axes.plot([x, x], [100 * one["low"], 100 * one["high"]], color=colour, lw=3, alpha=0.4, solid_capstyle="round")
        axes.plot([x], [y], "o", ms=8, color=colour, zorder=3)
        axes.annotate(f"{one['n']}", (x, y), (8, -4), textcoords="offset points", fontsize=10, color=colour, zorder=3)
    points = [(100 * one["credence"], 100 * one["observed"]) for one in scores["curve"]]
    axes.plot(*zip(*points, strict=True), color="#8c959f", lw=0.8, alpha=0.6, zorder=1)
    axes.plot([], [], "o", color="#0969da", label="supported, of how many, 95 % interval")
    if any(one["off"] for one in scores["curve"]):
        axes.plot([], [], "o", color="#cf222e", label="not explained by luck")
    axes.set(xlim=(-3, 105), ylim=(-3, 103), xlabel="credence that it will be supported, %", ylabel="supported, %")
    axes.set_title(f"{_happens(scores)}\n{scores['calibration']}", fontsize=11)
    _legend_below(axes)


def _draw_effects(axes, seen: list[Prediction]) -> None:
    """Observed against predicted effects; in noise floors where the predictions are about several metrics."""
    from monolab.plot import COLOURS

    axes.set_title("nothing was measured", fontsize=11)
    metrics = {one.metric for one in seen}
    unit = f"effect, {metrics.pop()}" if len(metrics) == 1 else "effect, noise floors"
    axes.set(xlabel=f"predicted {unit}", ylabel=f"observed {unit}")
    if not seen:
        return
    scale = [1.0 if unit != "effect, noise floors" else 1 / one.floor for one in seen]
    xs = [factor * one.predicted for factor, one in zip(scale, seen, strict=True)]
    ys = [factor * one.effect for factor, one in zip(scale, seen, strict=True)]
    # The frame holds every point; an interval may leave it.
    left, right = _frame(xs)
    bottom, top = _frame(ys)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axhline(0, color="#57606a", lw=1)
    axes.axvline(0, color="#57606a", lw=1)
    wrong = {"color": "#d0d7de", "alpha": 0.4, "lw": 0}
    axes.fill_between([left, 0], 0, top, **wrong, label="the wrong direction")
    axes.fill_between([0, right], bottom, 0, **wrong)
    axes.axline((0, 0), slope=1, color="#57606a", lw=1, ls="--", label="as predicted")
    order = sorted(range(len(seen)), key=lambda place: (xs[place], ys[place]))
    for rank, place in enumerate(order):
        x, y, factor, one = xs[place], ys[place], scale[place], seen[place]
        if xs.count(x) > 1:  # side by side, but on the same side of 0
            x += (rank % 5 - 2) * min(0.01 * (right - left), 0.2 * abs(x))
        colour = COLOURS[one.verdict]
        if one.low is not None:
            axes.plot([x, x], [factor * one.low, factor * one.high], color=colour, lw=2, alpha=0.3, solid_capstyle="round")
        axes.plot([x], [y], "o", ms=5, color=colour, mfc="white" if one.low is None else colour, zorder=3)
    for verdict, colour in COLOURS.items():
        if count := sum(one.verdict == verdict for one in seen):
            axes.plot([], [], "o", color=colour, label=f"{verdict} ({count})")
    if any(one.low is None for one in seen):
        axes.plot([], [], "o", mfc="white", color="#57606a", label="one seed only")
    axes.locator_params(nbins=7)
    found = _effects(seen)
    axes.set_title(
        f"right direction {found['right_sign']} of {found['n']} times\nobserved is {found['ratio']:.2f} of predicted (median)", fontsize=11
    )
    _legend_below(axes)


def _frame(values: list[float]) -> tuple[float, float]:
    """An axis that holds all values and 0, with a margin."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def _legend_below(axes) -> None:
    axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, columnspacing=1)


def _draw_time(axes, found: list[Prediction], scores: dict) -> None:
    """The cumulative Brier score, of all and of the agents with the most predictions, and each prediction's squared error."""
    from matplotlib.ticker import MaxNLocator

    places = range(1, len(found) + 1)
    axes.plot(places, [one.loss for one in found], "o", ms=4, color="#8c959f", alpha=0.6, label="one prediction, squared error")
    names = [name for name, _ in Counter(one.agent for one in found).most_common(4)]
    for name, colour in zip(names, ("#8250df", "#bf8700", "#1a7f37", "#cf222e"), strict=False):
        if len(names) > 1:
            mine = [(place, one.loss) for place, one in zip(places, found, strict=True) if one.agent == name]
            axes.plot([place for place, _ in mine], _running([loss for _, loss in mine]), color=colour, lw=1.2, marker=".", ms=3, label=name)
    axes.plot(
        places, _running([one.loss for one in found]), color="#0969da", lw=2.2, marker="." if len(found) < 3 else "", label="Brier score so far"
    )
    axes.axhline(0.25, color="#57606a", lw=1, ls="--", label="always saying 50 %")
    if scores["uncertainty"]:
        axes.axhline(scores["uncertainty"], color="#57606a", lw=1, ls=":", label=f"always saying {_percent(scores['base_rate'])} (base rate)")
    axes.set(xlabel="predictions, by the time of their verdict", ylabel="Brier score (0 is perfect)", ylim=(-0.03, 1.03))
    axes.set_xlim(0.5, len(found) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    span = "" if scores["brier_low"] is None else f" [{scores['brier_low']:.2f}, {scores['brier_high']:.2f}]"
    skill = "all ended the same way" if scores["skill"] is None else f"skill {scores['skill']:+.2f} against the base rate"
    axes.set_title(f"Brier score {scores['brier']:.3f}{span}\n{skill}", fontsize=11)
    _legend_below(axes)


def _running(losses: list[float]) -> list[float]:
    """The mean of the first 1, 2, ... losses."""
    return [total / count for count, total in enumerate(itertools.accumulate(losses), start=1)]

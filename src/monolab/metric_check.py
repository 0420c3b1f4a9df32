"""program.md's requirements on a metric, measured from the runs so far, and what follows from them for seeds, budgets and proxy stages."""

import itertools
import math
import statistics
from dataclasses import asdict, dataclass

from monolab import problem as problems
from monolab import receipts, results, stats, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem
from monolab.results import Row
from monolab.verdicts import Verdict

MOST = 10_000  # seeds; what needs more is out of reach
EFFECTS = (0.5, 1.0, 2.0, 4.0)  # times the smallest effect
DAY = 86_400  # seconds
LEAST = 5  # ideas below which a rank agreement has no interval, and is not given
LIKE = 0.5  # Kendall's tau of a stage that orders ideas like another: three of four pairs the same way round


@dataclass(frozen=True)
class Spread:
    """A standard deviation with its 95 % interval, in the metric's unit."""

    sd: float
    low: float
    high: float
    df: int
    measured: bool = True  # False for one that was derived from the noise floor


@dataclass(frozen=True)
class Seeds:
    """Paired seeds that an effect needs, at the spread and at the ends of its interval; None for more than MOST."""

    effect: float
    seeds: int | None
    seeds_low: int | None
    seeds_high: int | None


@dataclass(frozen=True)
class Budget:
    """What a stage costs and how noisy it is, from the baseline's seeds and the stage's verdicts."""

    stage: str
    seconds: float  # one run, train and score
    floor: Spread
    paired: Spread


@dataclass(frozen=True)
class Ratio:
    """How many times as large effects are at the longer of two stages, over the ideas whose effect is settled at the shorter one."""

    shorter: str
    longer: str
    ideas: int
    median: float | None  # None without an idea
    least: float | None
    most: float | None


@dataclass(frozen=True)
class Agreement:
    """How well the cheaper of two stages orders ideas like the other. None where there are too few ideas to say."""

    proxy: str
    stage: str
    ideas: int
    same_code: int  # of these, how many ran the same code with the same options at both stages
    tau: float | None
    low: float | None
    high: float | None
    same_sign: int
    sign_low: float | None
    sign_high: float | None
    advice: str


def check(lab: Lab, stage: str) -> dict:
    """Length, spread, determinism and power at a stage; seeds, budgets and proxies. `ok` is True, False, or None where it was not measured yet.

    Raises LabError while the baseline has no three seeds at the stage, and where its seeds do not spread.
    """
    problem = problems.load(lab)
    most = problem.stage(stage).seeds
    rows = results.load(lab)
    arms = {name: arm for name in problem.stages if (arm := verdicts.arm(lab, rows, BASELINE, name)) and arm.values}
    base = arms.get(stage)
    floor = base.floor if base else None
    if floor is None:
        raise LabError(f"the baseline has {len(base.values) if base else 0} of 3 seeds at stage {stage}", hint=f"just baseline --stage {stage}")
    judged = _comparable(lab, problem, arms)
    kind = "gpu" if "NVIDIA" in base.receipts[-1].hardware else "cpu"
    window = problem.window_seconds[kind]
    budgets, unmeasured = _budgets(problem, rows, arms, judged, base)
    here = next(one for one in budgets if one.stage == stage)
    needed = {times: seeds_needed(times * problem.smallest_effect, here.paired) for times in EFFECTS}
    again = _repeats(base)
    lengths = {name: arm.median("seconds") for name, arm in arms.items()}
    proxies = [
        agreement(proxy, other, effects_at_both(judged, proxy, other)) for proxy, other in itertools.combinations(sorted(lengths, key=lengths.get), 2)
    ]
    return {
        "stage": stage,
        "metric": problem.metric,
        "device": kind,
        "length": {"ok": window[0] <= here.seconds <= window[1], "seconds": here.seconds, "window": list(window)},
        "spread": {
            "ok": floor.sd < problem.smallest_effect,
            "noise_floor": floor.sd,
            "low": here.floor.low,
            "high": here.floor.high,
            "smallest_effect": problem.smallest_effect,
            "seeds": floor.seeds,
        },
        "determinism": {"ok": None if again is None else again == 0.0, "largest_difference": again},
        "power": {
            "sd_of_paired_differences": here.paired.sd,
            "low": here.paired.low,
            "high": here.paired.high,
            "measured": here.paired.measured,
            "seeds_needed": {f"{one.effect:g}": one.seeds for one in needed.values()},
        },
        "seeds": {
            "runs_per_day": DAY / here.seconds,
            "plans": [asdict(one) | _cost(one, here.seconds) for times, one in needed.items() if times >= 1],
            "advice": _seeds_advice([one for times, one in needed.items() if times >= 1], here, most),
        },
        "budgets": _compare(problem.smallest_effect, here, budgets, judged) | {"unmeasured": unmeasured},
        "proxy": [asdict(one) for one in proxies],
    }


def spread_of(sd: float, df: int, measured: bool = True) -> Spread:
    """A standard deviation with its 95 % interval from `df` degrees of freedom: chi-square, so for normal noise.

    Too narrow where the differences it was pooled from share reference runs.
    """
    from scipy.stats import chi2

    tail = (1 - stats.LEVEL) / 2
    low, high = (sd * math.sqrt(df / float(chi2.ppf(share, df))) for share in (1 - tail, tail))
    return Spread(sd, low, high, df, measured)


def pooled_sd(groups: list[list[float]]) -> tuple[float, int] | None:
    """Pooled sd within groups, and its degrees of freedom; None where no group has two numbers."""
    groups = [group for group in groups if len(group) > 1]
    df = sum(len(group) - 1 for group in groups)
    return (math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in groups) / df), df) if df else None


def seeds_needed(effect: float, spread: Spread) -> Seeds:
    """As stats.seeds_needed, at a spread and at the ends of its interval."""
    seeds, low, high = (_seeds(effect, sd) for sd in (spread.sd, spread.low, spread.high))
    return Seeds(effect, seeds, low, high)


def _seeds(effect: float, sd: float) -> int | None:
    if sd < 1e-6 * effect:  # rounding errors: differences that are one and the same number
        return 2
    try:
        return stats.seeds_needed(effect, sd)
    except ValueError:
        return None


def _cost(needed: Seeds, seconds: float) -> dict:
    """Seconds of one settled idea's own evidence, at `seconds` a run, with the interval that follows from the spread's; and such ideas a day.

    The reference's runs are not counted, as ideas share them.
    """
    total, low, high = (None if seeds is None else seeds * seconds for seeds in (needed.seeds, needed.seeds_low, needed.seeds_high))
    return {"seconds": total, "seconds_low": low, "seconds_high": high, "ideas_per_day": total and DAY / total}


def _repeats(base: verdicts.Arm) -> float | None:
    """Largest difference between two runs of the same code and seed; None when no seed was run twice."""
    by_seed: dict[int, list[float]] = {}
    for receipt in base.receipts:
        if receipt.value is not None:
            by_seed.setdefault(receipt.seed, []).append(receipt.value)
    spans = [max(values) - min(values) for values in by_seed.values() if len(values) > 1]
    return max(spans) if spans else None


def _comparable(lab: Lab, problem: Problem, arms: dict[str, verdicts.Arm]) -> list[Verdict]:
    """The last look at every arm, by time, that was scored as the baseline of its stage is now. Controls are not ideas."""
    found = []
    for verdict in verdicts.by_arm(verdicts.records(lab)):
        if verdict.control or verdict.metric != problem.metric or verdict.stage not in arms:
            continue
        receipt, now = receipts.receipt(lab, verdict.runs[0]), arms[verdict.stage].receipts[-1]
        if receipt is None:
            raise LabError(f"verdicts.jsonl names {verdict.runs[0]}, which has no receipt", hint="lab check")
        if (receipt.eval_sha, receipt.data_sha) == (now.eval_sha, now.data_sha):
            found.append(verdict)
    return sorted(found, key=lambda verdict: verdict.time)


def _budgets(
    problem: Problem, rows: list[Row], arms: dict[str, verdicts.Arm], judged: list[Verdict], base: verdicts.Arm
) -> tuple[list[Budget], dict[str, str]]:
    """The stages at which the baseline was measured under the conditions of `base`, in program.md's order; and why the others are none."""
    found, unmeasured = [], {}
    for name in problem.stages:
        arm = arms.get(name)
        if arm is None or len(arm.values) < 3:
            unmeasured[name] = f"the baseline has {len(arm.values) if arm else 0} of 3 seeds"
            continue
        if differs := [
            words for field, words in verdicts.CONDITIONS.items() if getattr(arm.receipts[-1], field) != getattr(base.receipts[-1], field)
        ]:
            unmeasured[name] = f"{', '.join(differs)} changed between its baseline and the one at {base.stage}"
            continue
        try:
            floor = arm.floor
        except LabError as error:  # no spread: an error at the stage that was asked for, which comes first, and a fact about any other
            unmeasured[name] = error.what
            continue
        own = pooled_sd([_differences(rows, verdict) for verdict in judged if verdict.stage == name])
        paired = spread_of(*own) if own else spread_of(math.sqrt(2) * floor.sd, floor.seeds - 1, measured=False)
        found.append(Budget(name, arm.median("seconds"), spread_of(floor.sd, floor.seeds - 1), paired))
    return found, unmeasured


def _differences(rows: list[Row], verdict: Verdict) -> list[float]:
    """Candidate minus reference at a verdict's seeds."""
    value = {row.run_id: (row.seed, row.value) for row in rows if row.value is not None}  # a failed repeat hides no value
    mine, theirs = (dict(value[run_id] for run_id in runs if run_id in value) for runs in (verdict.runs, verdict.against_runs))
    return [mine[seed] - theirs[seed] for seed in verdict.seeds if seed in mine and seed in theirs]


def effects_at_both(judged: list[Verdict], first: str, second: str) -> list[tuple[Verdict, Verdict]]:
    """Every idea's newest verdicts at two stages, against the same reference: those on the same code and options, where there are such.

    `judged` is ordered by time. Only effects with an interval count, so of two or more seeds that did not choose the idea.
    """
    ideas: dict[str, dict[str, list[Verdict]]] = {}
    for verdict in judged:
        if verdict.low is not None and verdict.stage in (first, second):
            ideas.setdefault(verdict.idea, {first: [], second: []})[verdict.stage].insert(0, verdict)
    chosen = []
    for at in ideas.values():
        pairs = [pair for pair in itertools.product(at[first], at[second]) if pair[0].against == pair[1].against]
        if pairs:
            chosen.append(next((pair for pair in pairs if _same_code(pair)), pairs[0]))
    return chosen


def _same_code(pair: tuple[Verdict, Verdict]) -> bool:
    return (pair[0].code_sha, pair[0].args) == (pair[1].code_sha, pair[1].args)


def effect_ratio(shorter: str, longer: str, pairs: list[tuple[Verdict, Verdict]]) -> Ratio:
    """Median of longer over shorter, over the ideas whose interval at the shorter stage excludes zero: a ratio to noise means nothing."""
    ratios = [long.effect / short.effect for short, long in pairs if short.low > 0 or short.high < 0]
    if not ratios:
        return Ratio(shorter, longer, 0, None, None, None)
    return Ratio(shorter, longer, len(ratios), statistics.median(ratios), min(ratios), max(ratios))


def _compare(effect: float, here: Budget, budgets: list[Budget], judged: list[Verdict]) -> dict:
    """Every budget with what settling one effect costs there, which is cheapest, and by how much. `effect` is in the unit of the stage `here`."""
    lines, ratios = [], []
    for one in budgets:
        size, ratio = effect, None
        if one is not here:
            short, long = sorted((here, one), key=lambda budget: budget.seconds)
            ratio = effect_ratio(short.stage, long.stage, effects_at_both(judged, short.stage, long.stage))
            ratios.append(ratio)
            if ratio.median is not None:
                factor = ratio.median if one is long else math.inf if ratio.median == 0 else 1 / ratio.median
                size = effect * factor if 0 < factor < math.inf else None
        needed = Seeds(0.0, None, None, None) if size is None else seeds_needed(size, one.paired)
        lines.append(asdict(one) | asdict(needed) | {"effect": size} | _settling(needed, one))
    order = sorted((line for line in lines if line["cost"] is not None), key=lambda line: line["cost"])
    cheapest, second = (order[0] if order else None), (order[1] if len(order) > 1 else None)
    settled = bool(second) and (cheapest["cost_high"] is not None and cheapest["cost_high"] < second["cost_low"])
    return {
        "stages": lines,
        "ratios": [asdict(one) for one in ratios],
        "cheapest": cheapest and cheapest["stage"],
        "second": second and second["stage"],
        "times_cheaper": second and second["cost"] / cheapest["cost"],
        "settled": settled if second else None,  # whether the intervals of the two costs are apart
        "advice": _budget_advice(here, budgets, lines, ratios, cheapest, second, settled),
    }


def _settling(needed: Seeds, budget: Budget) -> dict:
    cost = _cost(needed, budget.seconds)
    return {"cost": cost["seconds"], "cost_low": cost["seconds_low"], "cost_high": cost["seconds_high"]}


def _seeds_advice(plans: list[Seeds], here: Budget, most: int) -> str:
    first = plans[0]
    span = f"{_number(first.seeds_low)} to {_number(first.seeds_high)}"
    many = f"an effect of {first.effect:g} takes {_number(first.seeds)} paired evidence seeds ({span})"
    if first.seeds is not None and first.seeds <= most:
        return f"{many}, {first.seeds * here.seconds:.3g} s an idea: {here.stage} can settle the smallest effect worth finding"
    reach = next((plan.effect for plan in plans if plan.seeds is not None and plan.seeds <= most), None)
    can = f"{here.stage} settles effects of {reach:g} and more" if reach else f"{here.stage} does not even settle {plans[-1].effect:g}"
    return f"{many}, and program.md allows {most}: {can}; a steadier metric, or more `seeds` at this stage, would reach further"


def _budget_advice(
    here: Budget, budgets: list[Budget], lines: list[dict], ratios: list[Ratio], cheapest: dict | None, second: dict | None, settled: bool
) -> list[str]:
    """In words: what another budget buys, how far its effects are like those here, and which is cheapest."""
    if len(budgets) == 1:
        other = "verify" if here.stage != "verify" else "explore"
        return [f"only {here.stage} was measured; a second budget: just baseline --stage {other} --seeds 3"]
    said = []
    for one, ratio in zip((budget for budget in budgets if budget is not here), ratios, strict=True):
        apart = one.paired.high < here.paired.low or here.paired.high < one.paired.low
        times = f"{one.paired.sd / here.paired.sd:.2g} times" if here.paired.sd > 0 else "more than 0 times"
        chance = "" if apart else "; the intervals overlap, so this may be chance"
        said.append(
            f"a run at {one.stage} takes {one.seconds / here.seconds:.2g} times as long as at {here.stage} and spreads {times} as much{chance}"
        )
        if ratio.median is None:
            said.append(
                f"an effect is assumed to be as large at {ratio.longer} as at {ratio.shorter}: no idea was settled at one and measured at both"
            )
            continue
        ideas = f"{ratio.ideas} idea{'s' if ratio.ideas > 1 else ''}, {ratio.least:.2g} to {ratio.most:.2g}"
        said.append(f"effects at {ratio.longer} are {ratio.median:.2g} times those at {ratio.shorter} (median of {ideas})")
        if ratio.median <= 0:
            said.append(f"effects do not carry over from {ratio.shorter} to {ratio.longer}: their costs cannot be compared")
    size = f"an effect of {lines[budgets.index(here)]['effect']:g} at {here.stage}"
    if cheapest is None:
        said.append(f"{size} is out of reach at every stage (over {MOST} seeds)")
    elif second is None:
        said.append(f"{size} costs {cheapest['cost']:.3g} s an idea at {cheapest['stage']}; there is no other stage's cost to compare it with")
    else:
        sure = "" if settled else "; their intervals overlap, so more seeds may turn this round"
        said.append(
            f"cheapest for {size}: {cheapest['stage']}, {cheapest['cost']:.3g} s an idea against {second['cost']:.3g} s at {second['stage']} "
            f"({second['cost'] / cheapest['cost']:.2g} times){sure}"
        )
    return said


def agreement(proxy: str, stage: str, pairs: list[tuple[Verdict, Verdict]]) -> Agreement:
    """Kendall's tau-b (Kendall 1945) between the effects of ideas at two stages, and the share of ideas with the same sign (Wilson 1927).

    The interval is a percentile bootstrap over ideas (Efron 1979). Where all ideas are ordered alike, resampling shows no spread; it is then that of
    Fieller, Hartley and Pearson (1957) as if one pair were the other way round. Noise in the effects lowers tau, and so does a choice of ideas
    that were all good at the cheaper stage.
    """
    count, same = len(pairs), sum(map(_same_code, pairs))
    if count < LEAST:
        noun = "idea has an effect" if count == 1 else "ideas have effects"
        return _unknown(proxy, stage, count, same, f"not known whether {proxy} orders ideas like {stage}: {count} {noun} at both, {LEAST} are needed")
    ours, theirs = ([verdict.effect for verdict in side] for side in zip(*pairs, strict=True))
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        where = proxy if len(set(ours)) == 1 else stage
        return _unknown(
            proxy, stage, count, same, f"not known whether {proxy} orders ideas like {stage}: all {count} have the same effect at {where}"
        )
    tau, low, high = rank_agreement(ours, theirs)
    signs = sum(a * b > 0 for a, b in zip(ours, theirs, strict=True))
    sign_low, sign_high = stats.wilson(signs, count)
    if low >= LIKE:
        words = f"{proxy} orders ideas like {stage}"
    elif low > 0:
        words = f"{proxy} orders ideas like {stage} better than chance; how much better, more ideas will tell"
    elif high < 0:
        words = f"{proxy} orders ideas the other way round than {stage}"
    else:
        words = f"not shown that {proxy} orders ideas like {stage}"
    share = f"same sign {signs} of {count} [{sign_low:.2f}, {sign_high:.2f}]"
    code = "" if same == count else f", {same} of them with the same code at both"
    advice = f"{words} (tau {tau:.2f} [{low:.2f}, {high:.2f}], {count} ideas{code}; {share})"
    return Agreement(proxy, stage, count, same, tau, low, high, signs, sign_low, sign_high, advice)


def _unknown(proxy: str, stage: str, ideas: int, same: int, why: str) -> Agreement:
    return Agreement(proxy, stage, ideas, same, None, None, None, 0, None, None, why)


def rank_agreement(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Kendall's tau-b of at least five pairs with its 95 % interval, as in `agreement`. Raises ValueError for fewer, and where a side is constant."""
    import numpy as np
    from scipy.stats import bootstrap, kendalltau

    if len(ours) < LEAST or len(set(ours)) == 1 or len(set(theirs)) == 1:
        raise ValueError(f"{len(ours)} pairs: a rank agreement needs {LEAST}, with some spread on both sides")

    def statistic(x, y) -> float:
        tied = np.ptp(x) == 0 or np.ptp(y) == 0  # one value, drawn again and again, says nothing about the order
        return 0.0 if tied else float(kendalltau(x, y).statistic)

    tau = statistic(np.array(ours), np.array(theirs))
    if abs(tau) > 1 - 1e-9:
        n = len(ours)
        z = statistics.NormalDist().inv_cdf((1 + stats.LEVEL) / 2)
        bound = math.tanh(math.atanh(1 - 4 / (n * (n - 1))) - z * math.sqrt(0.437 / (n - 4)))
        return (1.0, bound, 1.0) if tau > 0 else (-1.0, -1.0, -bound)
    found = bootstrap(
        (ours, theirs),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=1999,
        confidence_level=stats.LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return tau, float(found.low), float(found.high)


def _number(seeds: int | None) -> str:
    return f"> {MOST}" if seeds is None else str(seeds)


def _seconds(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.0f}" if cost >= 100 else f"{cost:.3g}"


def text(found: dict) -> str:
    """One screen: four checks, then the advice on seeds, budgets and proxies."""
    mark = {True: "ok  ", False: "FAIL", None: "?   "}
    length, spread, same, power, seeds, budgets = (found[name] for name in ("length", "spread", "determinism", "power", "seeds", "budgets"))
    shortest, longest = length["window"]
    repeat = (
        f"no seed was run twice: just baseline --stage {found['stage']} --seeds 1"
        if same["ok"] is None
        else f"largest difference between repeats {same['largest_difference']:g}"
    )
    unit = f"{found['device']} s an idea"
    needed = ", ".join(f"{effect}: {_number(count)}" for effect, count in power["seeds_needed"].items())
    how = "measured over the verdicts so far" if power["measured"] else "taken as the noise floor times the root of 2"
    lines = [
        f"{mark[length['ok']]} length       {length['seconds']:.3g} s a run, window {shortest:g} to {longest:g} s ({found['stage']})",
        (
            f"{mark[spread['ok']]} spread       sd {spread['noise_floor']:.3g} [{spread['low']:.2g}, {spread['high']:.2g}] {found['metric']} "
            f"over {spread['seeds']} seeds, smallest effect worth finding {spread['smallest_effect']:g}"
        ),
        f"{mark[same['ok']]} determinism  {repeat}",
        f"     power        paired differences spread by {power['sd_of_paired_differences']:.3g} [{power['low']:.2g}, {power['high']:.2g}] ({how})",
        f"                  seeds needed for 80 % power: {needed} (one t test at 5 %; the gate, which looks several times, asks for more)",
        "",
        f"seeds    at {found['stage']}, {seeds['runs_per_day']:.0f} runs a day; without its screening seed and its reference's, which ideas share",
        f"         {'effect':>8}  {'seeds':>8}  {'95 % interval':>16}  {unit:>15}  {'ideas a day':>11}",
    ]
    for plan in seeds["plans"]:
        per_day = "-" if plan["ideas_per_day"] is None else f"{plan['ideas_per_day']:.3g}"
        span = f"{_number(plan['seeds_low'])} to {_number(plan['seeds_high'])}"
        lines.append(f"         {plan['effect']:>8g}  {_number(plan['seeds']):>8}  {span:>16}  {_seconds(plan['seconds']):>15}  {per_day:>11}")
    lines += [f"      -> {seeds['advice']}", "", "budgets  what settles one idea at every stage that was measured"]
    lines.append(f"         {'stage':<8}  {'s a run':>7}  {'floor':>7}  {'paired sd [95 %]':<28}  {'effect':>8}  {'seeds':>7}  {unit:>12}")
    for one in budgets["stages"]:
        paired = one["paired"]
        sd = f"{paired['sd']:.3g} [{paired['low']:.2g}, {paired['high']:.2g}]{'' if paired['measured'] else ' *'}"
        effect = "-" if one["effect"] is None else f"{one['effect']:.3g}"
        count = "-" if one["effect"] is None else _number(one["seeds"])
        floor, cost = f"{one['floor']['sd']:.3g}", _seconds(one["cost"])
        lines.append(f"         {one['stage']:<8}  {one['seconds']:>7.3g}  {floor:>7}  {sd:<28}  {effect:>8}  {count:>7}  {cost:>12}")
    if not all(one["paired"]["measured"] for one in budgets["stages"]):
        lines.append("         * the noise floor times the root of 2: no verdict there has two seeds yet")
    lines += [f"         {name} is left out: {why}" for name, why in budgets["unmeasured"].items()]
    lines += [f"      -> {advice}" for advice in budgets["advice"]]
    lines += ["", "proxy    does a cheaper stage order ideas like a longer one"]
    lines += [f"      -> {one['advice']}" for one in found["proxy"]] or [f"      -> not known: the baseline was measured at {found['stage']} only"]
    return "\n".join(lines)

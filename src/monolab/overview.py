"""What a whole search amounts to: improvements against experiments, what the winners are made of, where they came from, what they cost.

Works on any tree (`lineage`). All of it is observation: components and origins are not randomised, so a share among winners is no effect.
"""

import math
import statistics
from pathlib import Path

from monolab import ideas, memory, results, stats, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.lineage import Candidate, Tree, best_so_far
from monolab.paths import BASELINE, Lab

ORIGINS = ("cognition", "experience", "original")
WINNERS = 0.1  # of a tree in which nothing was judged: the best tenth counts as winners


def winners(tree: Tree) -> set[str]:
    """Keys of what was kept; where no gate judged (an imported tree), of the best tenth of what was measured, roots aside."""
    made = [one for one in tree.candidates if one.parent]
    if any(one.decision for one in made):
        return {one.key for one in made if one.decision in ("keep", "simpler")}
    measured = sorted((one for one in made if one.value is not None), key=lambda one: -tree.sign * one.value)
    return {one.key for one in measured[: math.ceil(WINNERS * len(measured))]}


def report(tree: Tree, components: dict[str, set[str]], *, floor: float | None = None, plateau: int = 20) -> dict:
    """Everything as plain data. `components`: names of what each candidate is about, by key. `floor`: sd over seeds, in the metric's unit.

    `plateau`: after so many measured ideas without a winner the search is said to stand still. Raises LabError for an empty tree.
    """
    made = [one for one in tree.candidates if one.parent]
    if not made:
        raise LabError("nothing was tried yet", hint="just queue SLUG")
    won = winners(tree)
    judged = any(one.decision for one in made)
    measured = [one for one in made if one.value is not None]
    since = 0
    for one in reversed(measured):
        if one.key in won:
            break
        since += not ideas.is_filler(one.idea)  # settings that fill an idle device are no attempt at an idea
    pairs = [(one, tree.by_key[one.parent]) for one in measured if tree.by_key[one.parent].value is not None]
    better = sum(tree.sign * (one.value - above.value) > 0 for one, above in pairs)
    seconds = sum(one.seconds for one in tree.candidates)
    return {
        "tree": tree.name,
        "metric": tree.metric,
        "direction": tree.direction,
        "made": len(made),
        "measured": len(measured),
        "failed": len(made) - len(measured),
        "winners": sorted(won),
        "winners_are": "kept by the gate" if judged else f"the best {WINNERS:.0%} of what was measured; nothing was judged",
        "keep_rate": _share(len(won), len(measured)) if judged else None,
        "children_better_than_parent": _share(better, len(pairs)),
        "floor": floor,
        "best_so_far": [value for value in best_so_far(tree)],
        "values": [one.value for one in tree.candidates],
        "keys": [one.key for one in tree.candidates],
        "improvements": _improvements(tree),
        "since_a_winner": since,
        "plateau": judged and since >= plateau,
        "components": _usage(components, measured, won),
        "origins": _origins(measured, won),
        "parameters": _drift(measured, won),
        "stages": _stages(tree),
        "seconds": seconds,
        "seconds_per_winner": seconds / len(won) if judged and won and seconds else None,
    }


def _share(hits: int, trials: int) -> dict:
    low, high = stats.wilson(hits, trials) if trials else (None, None)
    return {"hits": hits, "trials": trials, "share": hits / trials if trials else None, "low": low, "high": high}


def _improvements(tree: Tree) -> list[dict]:
    """Candidates that were the best when they were made, by their measured number; the share of them that is luck grows with the noise."""
    found, best = [], best_so_far(tree)
    for place, one in enumerate(tree.candidates):
        if one.parent and one.value is not None and one.value == best[place] and (place == 0 or best[place - 1] != one.value):
            found.append({"number": place, "key": one.key, "value": one.value, "decision": one.decision})
    return found


def _usage(components: dict[str, set[str]], measured: list[Candidate], won: set[str]) -> list[dict]:
    """How often each component occurs among winners and among the rest, with Fisher's exact test, the largest difference first."""
    from scipy.stats import fisher_exact

    inside = [components.get(one.key, set()) for one in measured if one.key in won]
    rest = [components.get(one.key, set()) for one in measured if one.key not in won]
    found = []
    for name in sorted(set().union(*inside, *rest)):
        a, b = sum(name in one for one in inside), sum(name in one for one in rest)
        p = float(fisher_exact([[a, len(inside) - a], [b, len(rest) - b]]).pvalue) if inside and rest else None
        found.append({"component": name, "winners": _share(a, len(inside)), "rest": _share(b, len(rest)), "p": p})
    return sorted(found, key=lambda row: -abs((row["winners"]["share"] or 0) - (row["rest"]["share"] or 0)))


def _origins(measured: list[Candidate], won: set[str]) -> dict[str, dict]:
    """As table 2 of ASI-Arch: where ideas say that they come from, among winners and the rest. What says nothing is counted as unsaid."""

    def shares(group: list[Candidate]) -> dict:
        counts = {name: sum(one.origin == name for one in group) for name in ORIGINS}
        return counts | {"unsaid": len(group) - sum(counts.values()), "all": len(group)}

    return {"winners": shares([one for one in measured if one.key in won]), "rest": shares([one for one in measured if one.key not in won])}


def _drift(measured: list[Candidate], won: set[str]) -> dict | None:
    """Whether candidates grow as the search goes on (rank correlation of size and order), and whether winners are larger."""
    sizes = [(place, one.params, one.key in won) for place, one in enumerate(measured) if one.params]
    if len(sizes) < 4:
        return None
    from scipy.stats import spearmanr

    order = spearmanr([place for place, _, _ in sizes], [size for _, size, _ in sizes])
    inside, rest = ([size for _, size, winner in sizes if winner is wanted] for wanted in (True, False))
    return {
        "order_rho": None if math.isnan(order.statistic) else float(order.statistic),
        "order_p": None if math.isnan(order.pvalue) else float(order.pvalue),
        "median_winners": statistics.median(inside) if inside else None,
        "median_rest": statistics.median(rest) if rest else None,
    }


def _stages(tree: Tree) -> list[dict]:
    """For each pair of stages: the rank correlation of the effects of what was measured at both."""
    names = list(dict.fromkeys(one.stage for one in tree.candidates))
    found = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            here = {(one.commit or one.idea, one.options): one for one in tree.candidates if one.stage == first and one.effect is not None}
            there = {(one.commit or one.idea, one.options): one for one in tree.candidates if one.stage == second and one.effect is not None}
            both = sorted(here.keys() & there.keys())
            if len(both) < 3:
                continue
            from scipy.stats import spearmanr

            rho = spearmanr([here[key].effect for key in both], [there[key].effect for key in both]).statistic
            found.append({"stages": [first, second], "both": len(both), "rho": None if math.isnan(rho) else float(rho)})
    return found


def floor_of(lab: Lab, stage: str) -> float | None:
    """The noise floor of the lab's baseline at a stage, where it has one."""
    base = verdicts.arm(lab, results.load(lab), BASELINE, stage)
    return base.floor.sd if base and base.floor else None


def components_of(lab: Lab, tree: Tree) -> dict[str, set[str]]:
    """What each candidate is about: the parts its idea file says, else the concepts of 0_docs/concepts.yaml that its hypothesis names."""
    found: dict[str, set[str]] = {}
    words = memory.concepts(lab)
    files = {} if tree.name else ideas.slugs(lab)
    for one in tree.candidates:
        fields = problems.front_matter(files[one.idea])[0] if one.idea in files else {}
        if isinstance(fields.get("parts"), dict):
            found[one.key] = {f"{part}: {option}" for part, option in fields["parts"].items()}
        else:
            found[one.key] = set(words.count("", one.hypothesis).get("part", ()))
    return found


def plateau_of(lab: Lab) -> int:
    return problems.load(lab).search.plateau


def text(found: dict) -> str:
    rate, better = found["keep_rate"], found["children_better_than_parent"]
    lines = [
        f"{found['made']} candidates, {found['measured']} measured, {found['failed']} without a value; winners: {len(found['winners'])} ({found['winners_are']})",
    ]
    if rate and rate["trials"]:
        lines.append(f"keep rate {rate['share']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}]")
    if better["trials"]:
        lines.append(
            f"measured better than their parent: {better['share']:.1%} of {better['trials']} [{better['low']:.1%}, {better['high']:.1%}], noise included"
        )
    if found["improvements"]:
        last = found["improvements"][-1]
        lines.append(
            f"best so far improved {len(found['improvements'])} times; last at number {last['number']}, {last['key']}: {found['metric']} {last['value']:.6g}"
        )
    lines.append(
        f"{found['since_a_winner']} ideas measured since the last winner"
        + ("; the search stands still: try another direction" if found["plateau"] else "")
    )
    for row in found["components"][:8]:
        p = "" if row["p"] is None else f", p {row['p']:.2g}"
        lines.append(f"  {row['component']:<24} {_percent(row['winners'])} of winners, {_percent(row['rest'])} of the rest{p}")
    for group, counts in found["origins"].items():
        if counts["all"]:
            lines.append(
                f"  origin of {group:<14} " + ", ".join(f"{name} {count / counts['all']:.0%}" for name, count in counts.items() if name != "all")
            )
    if found["parameters"] and found["parameters"]["order_rho"] is not None:
        lines.append(f"parameters against order: rank correlation {found['parameters']['order_rho']:+.2f}")
    for pair in found["stages"]:
        if pair["rho"] is not None:
            lines.append(f"{pair['stages'][0]} against {pair['stages'][1]}: rank correlation of effects {pair['rho']:+.2f} over {pair['both']}")
    if found["seconds_per_winner"]:
        lines.append(f"{found['seconds'] / 3600:.2f} hours of runs, {found['seconds_per_winner'] / 3600:.2f} for each winner")
    return "\n".join(lines)


def _percent(share: dict) -> str:
    return "none" if share["share"] is None else f"{share['share']:.0%}"


def draw(found: dict, out: Path) -> Path:
    """Four plots: best so far with the noise band, cumulative improvements, components, origins."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((best, count), (parts, origin)) = plt.subplots(2, 2, figsize=(12, 8), dpi=120, layout="constrained")
    numbers = range(len(found["values"]))
    best.scatter(
        [n for n in numbers if found["values"][n] is not None],
        [value for value in found["values"] if value is not None],
        s=9,
        color="#8c959f",
        label="measured",
    )
    line = [(n, value) for n, value in enumerate(found["best_so_far"]) if value is not None]
    if line:
        best.step(*zip(*line, strict=True), where="post", color="#0969da", label="best so far, as measured")
    if found["floor"]:
        low, high = ([value + side * found["floor"] for _, value in line] for side in (-1, 1))
        best.fill_between([n for n, _ in line], low, high, step="post", color="#0969da", alpha=0.15, label="±1 noise floor")
    kept = [n for n in numbers if found["keys"][n] in found["winners"] and found["values"][n] is not None]
    best.scatter(kept, [found["values"][n] for n in kept], marker="D", s=26, color="#1a7f37", label=found["winners_are"].partition(";")[0], zorder=3)
    best.set(xlabel="candidate", ylabel=f"{found['metric']} ({found['direction']} is better)")
    best.legend(fontsize=7)
    won = set(found["winners"])
    total, running = 0, []
    for key in found["keys"]:
        total += key in won
        running.append(total)
    count.step(numbers, running, where="post", color="#1a7f37")
    count.set(xlabel="candidate", ylabel="winners so far")
    rows = found["components"][:12][::-1]
    for group, colour, shift in (("winners", "#1a7f37", 0.2), ("rest", "#8c959f", -0.2)):
        shares = [row[group]["share"] or 0.0 for row in rows]
        spans = [
            [share - (row[group]["low"] or 0.0) for share, row in zip(shares, rows, strict=True)],
            [(row[group]["high"] or 0.0) - share for share, row in zip(shares, rows, strict=True)],
        ]
        parts.barh(
            [place + shift for place in range(len(rows))],
            shares,
            height=0.38,
            color=colour,
            label=group,
            xerr=[[max(0.0, one) for one in side] for side in spans],
            error_kw={"lw": 0.8},
        )
    parts.set_yticks(range(len(rows)), [row["component"] for row in rows], fontsize=7)
    parts.set(xlabel="share that has it")
    if rows:
        parts.legend(fontsize=7)
    names = [*ORIGINS, "unsaid"]
    for place, (group, counts) in enumerate(found["origins"].items()):
        left = 0.0
        for name, colour in zip(names, ("#0969da", "#1a7f37", "#bf8700", "#d1d9e0"), strict=True):
            share = counts[name] / counts["all"] if counts["all"] else 0.0
            origin.barh(place, share, left=left, color=colour, label=name if not place else None)
            left += share
    origin.set_yticks(range(2), list(found["origins"]))
    origin.set(xlabel="where ideas say they come from")
    origin.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)
    figure.savefig(out)
    plt.close(figure)
    return out

"""A tree of candidates for the eye: as text, as one self-contained page, as a picture; and two of them side by side."""

import difflib
import json
import math
from dataclasses import asdict
from pathlib import Path

from monolab import receipts, snapshot
from monolab.errors import LabError
from monolab.journal import number
from monolab.lineage import Candidate, Tree
from monolab.paths import Lab
from monolab.plot import COLOURS

TEMPLATE = Path(__file__).parent / "pages" / "lineage.html"
CHANGE = 20_000  # characters of a code change that the page holds


def said(tree: Tree, one: Candidate) -> str:
    """A candidate in one line."""
    parts = [one.key, f"{tree.metric} {one.value:.5g}" if one.value is not None else one.status or "not run"]
    if one.effect is not None:
        parts.append(number(one.effect) + (f" [{number(one.low)}, {number(one.high)}]" if one.low is not None else " (one seed)"))
    parts += [word for word in (one.verdict, one.decision) if word]
    return "  ".join(parts)


def text(tree: Tree, most: int = 0) -> str:
    """The tree, a line for each candidate; with `most`, only the lines that lead to the best so many."""
    if not tree.candidates:
        raise LabError("the tree is empty: nothing was run yet", hint="just baseline")
    shown = {one.key for one in tree.candidates}
    if most:
        measured = sorted((one for one in tree.candidates if one.value is not None), key=lambda one: -tree.sign * one.value)[:most]
        shown = {step.key for one in measured for step in (one, *tree.ancestors(one.key))}
    lines: list[str] = []
    roots = [one for one in tree.children("") if one.key in shown]
    stack = [(one, "", "", "") for one in reversed(roots)]
    while stack:
        one, before, elbow, under = stack.pop()
        lines.append(before + elbow + said(tree, one))
        below = [child for child in tree.children(one.key) if child.key in shown]
        for place, child in reversed(list(enumerate(below))):
            last = place == len(below) - 1
            stack.append((child, before + under, "└─ " if last else "├─ ", "   " if last else "│  "))
    left = len(tree.candidates) - len(lines)
    return "\n".join([*lines, *([f"({left} more: without --best, or as a page: --html FILE)"] if left else [])])


def about(tree: Tree, name: str) -> dict:
    """One candidate with its ancestors, siblings and children, for an ablation by eye."""
    one = tree.get(name)

    def brief(other: Candidate) -> dict:
        kept = ("key", "value", "effect", "low", "high", "verdict", "decision", "status")
        return {field: getattr(other, field) for field in kept}

    return asdict(one) | {
        "ancestors": [brief(other) for other in tree.ancestors(one.key)],
        "siblings": [brief(other) for other in tree.siblings(one.key)] if one.parent else [],
        "children": [brief(other) for other in tree.children(one.key)],
    }


def about_text(tree: Tree, name: str) -> str:
    one, lines = tree.get(name), []
    lines.append(said(tree, one))
    lines += [
        f"  {head:<10} {words}"
        for head, words in (("hypothesis", one.hypothesis), ("options", " ".join(one.options)), ("runs", ", ".join(one.runs)))
        if words
    ]
    for head, others in (
        ("above", tree.ancestors(one.key)),
        ("siblings", tree.siblings(one.key) if one.parent else []),
        ("children", tree.children(one.key)),
    ):
        lines += [f"  {head if not place else '':<10} {said(tree, other)}" for place, other in enumerate(others)]
    return "\n".join(lines)


def change(lab: Lab, old: Candidate, new: Candidate) -> str:
    """The diff of the code of two candidates."""
    if old.code or new.code:
        return "".join(difflib.unified_diff(old.code.splitlines(True), new.code.splitlines(True), old.key, new.key))
    if not (old.commit and new.commit):
        raise LabError(f"the code of {old.key if not old.commit else new.key} is not known", hint="lab lineage")
    return snapshot.changed(lab, old.commit, new.commit)


def compare(tree: Tree, first: str, second: str) -> dict:
    """Every number that two candidates share, and the second minus the first. Seeds are not paired here: an observation, no verdict."""
    one, other = tree.get(first), tree.get(second)
    rows = {tree.metric: (one.value, other.value)}
    rows |= {name: (getattr(one, name), getattr(other, name)) for name in ("seeds", "params", "train_seconds", "peak_gb", "seconds")}
    rows |= {name: (one.scores[name], other.scores.get(name)) for name in one.scores if name != tree.metric}
    known = {name: pair for name, pair in rows.items() if None not in pair}
    return {
        "first": one.key,
        "second": other.key,
        "numbers": {name: {"first": a, "second": b, "difference": b - a} for name, (a, b) in known.items()},
        "options": {"first": one.options, "second": other.options},
    }


def compare_text(found: dict) -> str:
    width = max(map(len, found["numbers"]), default=0)
    lines = [f"{found['first']} -> {found['second']} (means over their own seeds: an observation, no verdict)"]
    lines += [
        f"  {name:<{width}}  {row['first']:.6g} -> {row['second']:.6g}  ({number(row['difference'])})" for name, row in found["numbers"].items()
    ]
    if found["options"]["first"] != found["options"]["second"]:
        lines.append(f"  options: {' '.join(found['options']['first']) or '(none)'} -> {' '.join(found['options']['second']) or '(none)'}")
    return "\n".join(lines)


def page(lab: Lab, tree: Tree, out: Path) -> Path:
    """Write the tree as one HTML file that needs nothing else. Texts of candidates are data in it, never markup."""
    told = []
    for one in tree.candidates:
        above = tree.by_key.get(one.parent)
        differs = change(lab, above, one) if above and (one.code or (one.commit and above.commit)) else one.code
        told.append(asdict(one) | {"change": differs[:CHANGE] + ("\n(cut)" if len(differs) > CHANGE else ""), "code": ""})
    data = json.dumps({"name": tree.name, "metric": tree.metric, "direction": tree.direction, "candidates": told}, allow_nan=False)
    receipts.write_atomic(out, TEMPLATE.read_text().replace("__DATA__", data.replace("<", "\\u003c")))
    return out


def picture(tree: Tree, out: Path) -> Path:
    """Draw the tree as a PNG: generations to the right, colour by verdict, size by effect, shape by stage; what was kept has a dark rim."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    if not tree.candidates:
        raise LabError("the tree is empty: nothing was run yet", hint="just baseline")
    spots, row = {}, 0
    for one in reversed(list(_deep_first(tree))):
        below = tree.children(one.key)
        if below:
            heights = [spots[child.key][1] for child in below]
            height = (min(heights) + max(heights)) / 2
        else:
            height, row = row, row + 1
        spots[one.key] = (len(tree.ancestors(one.key)), height)
    deep = 1 + max(x for x, _ in spots.values())
    figure, axes = plt.subplots(figsize=(min(3 + 1.7 * deep, 40), min(1.2 + 0.33 * row, 60)), dpi=120)
    edges = []
    for one in tree.candidates:
        if one.parent:
            (x0, y0), (x, y) = spots[one.parent], spots[one.key]
            edges.append([(x0, y0), ((x0 + x) / 2, y0), ((x0 + x) / 2, y), (x, y)])
    axes.add_collection(LineCollection(edges, colors="#d1d9e0", linewidths=1, zorder=1))
    stages = list(dict.fromkeys(one.stage for one in tree.candidates))
    largest = max((abs(one.effect) for one in tree.candidates if one.effect is not None), default=0.0) or 1.0
    for place, stage in enumerate(stages):
        here = [one for one in tree.candidates if one.stage == stage]
        kept = [one.decision in ("keep", "simpler") for one in here]
        colours = [COLOURS.get(one.verdict, "#0969da" if not one.parent else "#8c959f") for one in here]
        axes.scatter(
            *zip(*(spots[one.key] for one in here), strict=True),
            s=[25 + 140 * math.sqrt(abs(one.effect or 0.0) / largest) for one in here],
            c=["white" if one.value is None else colour for one, colour in zip(here, colours, strict=True)],
            edgecolors=["#1f2328" if dark else "#bf8700" if one.value is None else "white" for one, dark in zip(here, kept, strict=True)],
            linewidths=[1.8 if dark or one.value is None else 0.8 for one, dark in zip(here, kept, strict=True)],
            marker="os^D"[place % 4],
            zorder=2,
        )
    if len(tree.candidates) <= 150:
        for one in tree.candidates:
            axes.annotate(
                one.key,
                spots[one.key],
                xytext=(8, -3),
                textcoords="offset points",
                fontsize=7,
                color="#59636e",
                bbox={"fc": "white", "ec": "none", "pad": 0.5},
            )
    axes.set_title(
        f"{len(tree.candidates)} candidates, {tree.metric} ({tree.direction} is better); "
        + ", ".join(f"{'os^D'[place % 4]} {stage}" for place, stage in enumerate(stages)),
        fontsize=8,
        loc="left",
    )
    axes.set_xlim(-0.4, deep)
    axes.axis("off")
    figure.savefig(out, bbox_inches="tight")
    plt.close(figure)
    return out


def _deep_first(tree: Tree):
    stack = list(reversed(tree.children("")))
    while stack:
        one = stack.pop()
        yield one
        stack += reversed(tree.children(one.key))

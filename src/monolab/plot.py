"""The effects of all ideas against the noise band, as a PNG."""

from pathlib import Path

from monolab import problem as problems
from monolab import results, verdicts
from monolab.errors import LabError
from monolab.paths import Lab

COLOURS = {"supported": "#1a7f37", "refuted": "#cf222e", "inconclusive": "#8c959f"}


def effects(lab: Lab, stage: str, out: Path) -> Path:
    """Draw every recorded verdict of a stage: paired differences, mean and interval, the noise floor as a band.

    Raises LabError while there is no verdict to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problem = problems.load(lab)
    found = [verdict for (_, at), verdict in verdicts.newest(lab).items() if at == stage and verdict.effect is not None and not verdict.control]
    if not found:
        raise LabError(f"no verdict at stage {stage} to draw", hint="lab status")
    found.sort(key=lambda verdict: -problem.sign * verdict.effect)
    values = {row.run_id: (row.seed, row.value) for row in results.load(lab)}
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.55 * len(found)), dpi=150)
    floor = found[-1].floor
    axes.axvspan(-floor, floor, color="#d0d7de", alpha=0.6, lw=0, label=f"noise floor ±{floor:.2g} (sd over the baseline's seeds)")
    axes.axvline(0, color="#57606a", lw=1)
    for place, verdict in enumerate(found):
        colour = COLOURS[verdict.verdict]
        base = dict(values[run_id] for run_id in verdict.against_runs)
        points = [value - base[seed] for seed, value in (values[run_id] for run_id in verdict.runs) if seed in verdict.seeds and value is not None]
        if verdict.low is not None:
            axes.plot([verdict.low, verdict.high], [place, place], color=colour, lw=3, alpha=0.45, solid_capstyle="round")
        axes.plot(points, [place] * len(points), "o", ms=4, mfc="none", color=colour)
        axes.plot([verdict.effect], [place], "D", ms=7, color=colour)
        if verdict.predicted is not None:
            axes.plot([verdict.predicted], [place], "|", ms=16, mew=2, color="#0969da")
    axes.plot([], [], "|", ms=12, mew=2, color="#0969da", ls="", label="predicted beforehand")
    axes.plot([], [], "D", ms=6, color="#57606a", ls="", label="mean of paired seeds, 95 % interval")
    axes.set_yticks(range(len(found)), [f"{verdict.idea}\n{verdict.verdict}" for verdict in found])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.set_xlabel(f"{problem.metric}: idea minus reference ({problem.direction} is better), stage {stage}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.9 / (1.6 + 0.55 * len(found))), ncols=3, fontsize=7, frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(out, bbox_inches="tight")
    plt.close(figure)
    return out

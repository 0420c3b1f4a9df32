"""program.md's requirements on a metric, measured from the baseline's runs."""

import statistics

from monolab import problem as problems
from monolab import results, stats, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab

MOST = 10_000  # seeds; what needs more is out of reach
EFFECTS = (0.5, 1.0, 2.0, 4.0)  # times the smallest effect


def check(lab: Lab, stage: str) -> dict:
    """Length, spread, determinism and power. `ok` is True, False, or None where it was not measured yet.

    Raises LabError while the baseline has no three seeds.
    """
    problem = problems.load(lab)
    rows = results.load(lab)
    base = verdicts.arm(lab, rows, BASELINE, stage)
    floor = base.floor if base else None
    if floor is None:
        raise LabError(f"the baseline has {len(base.values) if base else 0} of 3 seeds at stage {stage}", hint=f"just baseline --stage {stage}")
    kind = "gpu" if "NVIDIA" in base.receipts[-1].hardware else "cpu"
    low, high = problem.window_seconds[kind]
    seconds = base.median("seconds")
    paired = _paired_sd(lab, rows, stage)
    spread = paired if paired is not None else floor * 2**0.5
    again = _repeats(base)
    return {
        "stage": stage,
        "metric": problem.metric,
        "length": {"ok": low <= seconds <= high, "seconds": seconds, "window": [low, high]},
        "spread": {
            "ok": floor < problem.smallest_effect,
            "noise_floor": floor,
            "smallest_effect": problem.smallest_effect,
            "seeds": len(base.values),
        },
        "determinism": {"ok": None if again is None else again == 0.0, "largest_difference": again},
        "power": {
            "sd_of_paired_differences": spread,
            "measured": paired is not None,
            "seeds_needed": {f"{times * problem.smallest_effect:g}": _seeds_needed(times * problem.smallest_effect, spread) for times in EFFECTS},
        },
    }


def _seeds_needed(effect: float, spread: float) -> int | None:
    """As stats.seeds_needed; None for more than MOST seeds."""
    try:
        return stats.seeds_needed(effect, spread)
    except ValueError:
        return None


def _repeats(base: verdicts.Arm) -> float | None:
    """Largest difference between two runs of the same code and seed; None when no seed was run twice."""
    by_seed: dict[int, list[float]] = {}
    for receipt in base.receipts:
        if receipt.value is not None:
            by_seed.setdefault(receipt.seed, []).append(receipt.value)
    spans = [max(values) - min(values) for values in by_seed.values() if len(values) > 1]
    return max(spans) if spans else None


def _paired_sd(lab: Lab, rows, stage: str) -> float | None:
    """Pooled sd of the paired differences in all verdicts of the stage; None before the first one with two seeds."""
    value = {row.run_id: (row.seed, row.value) for row in rows if row.value is not None}  # a failed repeat hides no value
    squares, freedom = 0.0, 0
    for (_, at), verdict in verdicts.newest(lab).items():
        if at != stage:
            continue
        mine, theirs = (dict(value[run_id] for run_id in runs if run_id in value) for runs in (verdict.runs, verdict.against_runs))
        differences = [mine[seed] - theirs[seed] for seed in verdict.seeds if seed in mine and seed in theirs]
        if len(differences) < 2:
            continue
        squares += statistics.variance(differences) * (len(differences) - 1)
        freedom += len(differences) - 1
    return (squares / freedom) ** 0.5 if freedom else None


def text(found: dict) -> str:
    mark = {True: "ok  ", False: "FAIL", None: "?   "}
    length, spread, same, power = (found[name] for name in ("length", "spread", "determinism", "power"))
    repeat = (
        "no seed was run twice: just baseline --seeds 1"
        if same["ok"] is None
        else f"largest difference between repeats {same['largest_difference']:g}"
    )
    needed = ", ".join(f"{effect}: {f'> {MOST}' if seeds is None else seeds}" for effect, seeds in power["seeds_needed"].items())
    how = "measured over the verdicts so far" if power["measured"] else "taken as the noise floor times the root of 2"
    return "\n".join(
        [
            f"{mark[length['ok']]} length       {length['seconds']:.1f} s a run, window {length['window'][0]:g} to {length['window'][1]:g} s ({found['stage']})",
            (
                f"{mark[spread['ok']]} spread       sd {spread['noise_floor']:.3g} {found['metric']} over {spread['seeds']} seeds, "
                f"smallest effect worth finding {spread['smallest_effect']:g}"
            ),
            f"{mark[same['ok']]} determinism  {repeat}",
            f"     power        paired differences spread by {power['sd_of_paired_differences']:.3g} ({how}); seeds needed for 80 % power: {needed}",
        ]
    )

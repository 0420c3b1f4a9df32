"""One screen for one verdict: what was asked, what came out, what was decided, what would settle it, and a plot of it in characters."""

from monolab import journal, results, stats, verdicts
from monolab.journal import number
from monolab.paths import Lab
from monolab.problem import Problem
from monolab.verdicts import Verdict

WIDTH = 72  # columns of the plot


def screen(lab: Lab, problem: Problem, verdict: Verdict) -> str:
    """The verdict in plain words."""
    most = problem.stage(verdict.stage).seeds
    lines = [f"{verdict.idea}: {verdict.verdict}  ({verdict.stage}, {len(verdict.gate.seeds)} of at most {most} paired seeds)", ""]
    lines += [
        f"  {name:<11} {text}"
        for name, text in {
            "standing": f"EXPLORATORY: {verdict.exploratory}" if verdict.exploratory else "preregistered",
            "question": verdict.question or "(none was asked)",
            "expected": f"{journal.expected(verdict)} (asked by {verdict.agent})",
            "observed": journal.observed(verdict),
            "verdict": f"{verdict.verdict}: {verdict.why}",
            "gate": journal.gate(verdict),
            "size": journal.size(verdict),
            "kill rule": verdict.kill_rule or "(none was written down)",
            "next": following(problem, verdict),
        }.items()
    ]
    if verdict.effect is not None:
        lines += ["", *picture(differences(lab, verdict), verdict)]
    return "\n".join(lines)


def following(problem: Problem, verdict: Verdict) -> str:
    """What it would take to settle the question."""
    gate = verdict.gate
    if verdict.kept:
        other = next((name for name in problem.stages if name not in (verdict.stage, "smoke")), None)
        return "settled: just best shows it" + (f"; to check it at another stage: just queue {verdict.idea} --stage {other}" if other else "")
    if verdict.mean is None:
        return f"nothing was measured: just log {verdict.runs[-1]}"
    if gate.effect is None:
        return f"{gate.anchor} has to be measured at seed(s) {', '.join(map(str, gate.wants))}: just replicate {verdict.idea}"
    if verdict.verdict == "refuted" and gate.decision == "drop":
        return "settled"
    if not gate.wants:
        return "no seed is left to try: a new version of the idea is a new question"
    seeds = f"{len(set(gate.wants) - set(gate.seeds))} more paired seed(s)"
    if gate.decision == "more":
        return f"the next look takes {seeds}; the lab queues them when it settles the idea; to ask now: just replicate {verdict.idea}"
    return f"the lab leaves it here; {seeds} make the next look: just replicate {verdict.idea}{_estimate(problem, verdict)}"


def _estimate(problem: Problem, verdict: Verdict) -> str:
    gate, most = verdict.gate, problem.stage(verdict.stage).seeds
    floor = stats.Floor(verdict.floor, stats.PRIOR + 1)
    sd = gate.error * len(gate.seeds or verdict.seeds) ** 0.5
    found = stats.Comparison("", "", problem.sign, gate.seeds or verdict.seeds, gate.effect, None, None, sd, None, None, False, 0.0, 0.0)
    seeds = stats.settled_by(found, floor=floor, smallest_effect=problem.smallest_effect, level=gate.level, most=most)
    if seeds is None:
        return "; if the effect is what it seems, over 1000 seeds would be needed"
    return f"; if the effect is what it seems, about {seeds} would settle it" + (f", more than the {most} allowed" if seeds > most else "")


def differences(lab: Lab, verdict: Verdict) -> dict[int, float]:
    """Candidate minus reference by seed."""
    rows = results.view(lab)
    known = [row for idea in {verdict.idea, verdict.against} for row in rows.of(idea, verdict.stage)]
    values = {row.run_id: (row.seed, row.value) for row in known if row.value is not None}
    mine, theirs = (dict(values[run_id] for run_id in runs if run_id in values) for runs in (verdict.runs, verdict.against_runs))
    if verdict.control:
        mine = {seed % verdicts.CONTROL_SEEDS: value for seed, value in mine.items()}
    return {seed: mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())}


def picture(points: dict[int, float], verdict: Verdict) -> list[str]:
    """The differences, their mean and interval, the prediction and the noise floor, on one axis."""
    known = [verdict.effect, verdict.low, verdict.high, verdict.predicted, -verdict.floor, verdict.floor, *points.values()]
    known = [value for value in known if value is not None]
    low, high = min(known), max(known)

    def place(value: float) -> int:
        return round((value - low) / (high - low) * (WIDTH - 1))

    def row(*marks: tuple[float, str], spans: tuple[tuple[float, float, str], ...] = ()) -> str:
        cells = [" "] * WIDTH
        for start, end, mark in ((-verdict.floor, verdict.floor, "░"), (0.0, 0.0, "│"), *spans):
            cells[place(start) : place(end) + 1] = mark * (place(end) - place(start) + 1)
        for value, mark in marks:
            cells[place(value)] = mark
        return "".join(cells).rstrip()

    lines = [f"  {f'seed {seed}' + (' *' if seed == verdict.gate.screen else ''):<11} {row((value, '•'))}" for seed, value in points.items()]
    spans = ((verdict.low, verdict.high, "─"),) if verdict.low is not None else ()
    lines.append(f"  {'mean':<11} {row((verdict.effect, '◆'), spans=spans)}")
    if verdict.predicted is not None:
        lines.append(f"  {'predicted':<11} {row((verdict.predicted, 'P'))}")
    ends = f"{number(low)}{number(high):>{WIDTH - len(number(low))}}"
    star = "; * screened it, and is no evidence" if verdict.gate.screen is not None else ""
    return [*lines, f"  {verdict.metric:<11} {ends}", f"  {'':<11} │ no difference, ░ noise floor, ─ 95 % interval over all looks{star}"]

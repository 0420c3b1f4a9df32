"""Analyses beyond the preregistered one: another metric of the scorer, or some of the seeds only. Written down, marked, and never kept by.

What nobody named before the run is exploratory: among enough metrics and subsets something always looks good. A metric that the frozen label,
hypothesis or kill rule names was declared, and is marked so.
"""

import json
import os
import re
import statistics
from dataclasses import asdict, dataclass

from monolab import journal, problem, receipts, report, results, stats, verdicts
from monolab.errors import LabError
from monolab.journal import number
from monolab.paths import Lab


@dataclass(frozen=True)
class Analysis:
    """Candidate minus reference in one metric, over paired seeds: mean and 95 % interval (Student, one look, uncorrected)."""

    time: str
    idea: str
    stage: str
    metric: str
    against: str
    declared: bool  # named before the run
    subset: bool  # of the seeds measured
    effect: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    against_runs: tuple[str, ...]

    @property
    def standing(self) -> str:
        if self.subset:
            return "EXPLORATORY: these seeds were picked after the runs"
        return f"declared: {self.metric} was named before the run" if self.declared else f"EXPLORATORY: {self.metric} was not named before the run"

    def text(self) -> str:
        span = "" if self.low is None else f" [{number(self.low)}, {number(self.high)}]"
        seeds = ", ".join(str(seed) for seed in self.seeds)
        return (
            f"{self.standing}. {number(self.effect)}{span} {self.metric} against {self.against}, seeds {seeds}; not a verdict, nothing is kept by it"
        )


def analyse(lab: Lab, idea: str, stage: str, metric: str, seeds: tuple[int, ...] = ()) -> Analysis:
    """Compare an idea with its reference in `metric`, at `seeds` (default: all that both have). Raises LabError where it was not measured."""
    subject = problem.load(lab)
    verdict = verdicts.judge(lab, subject, results.load(lab), idea, stage)
    mine, theirs = ([receipts.receipt(lab, run_id) for run_id in runs] for runs in (verdict.runs, verdict.against_runs))
    ours, others = ({one.seed: one.metrics[metric] for one in several if metric in one.metrics} for several in (mine, theirs))
    measured = sorted(ours.keys() & others.keys())
    shared = [seed for seed in measured if seed != verdict.gate.screen] or measured  # the one it was chosen by flatters it
    if not measured:
        known = sorted({name for one in mine for name in one.metrics})
        raise LabError(f"{metric!r} was not measured on a seed that {idea} and {verdict.against} share", hint=f"one of: {', '.join(known)}")
    if lost := sorted(set(seeds) - set(measured)):
        raise LabError(f"{metric} was not measured at seed {lost[0]} on both sides", hint=f"--seeds {' '.join(str(seed) for seed in measured)}")
    chosen = tuple(sorted(set(seeds))) or tuple(shared)
    differences = [ours[seed] - others[seed] for seed in chosen]
    asked = receipts.request(lab, verdict.runs[0])
    effect, half = statistics.fmean(differences), stats.half_width(differences)
    return Analysis(
        time=receipts.now(),
        idea=idea,
        stage=stage,
        metric=metric,
        against=verdict.against,
        declared=metric == subject.metric
        or any(re.search(rf"(?<!\w){re.escape(metric)}(?!\w)", text) for text in (asked.label, asked.mechanism, asked.kill_rule)),
        subset=bool(seeds) and list(chosen) != shared,
        effect=effect,
        low=None if half is None else effect - half,
        high=None if half is None else effect + half,
        seeds=chosen,
        runs=verdict.runs,
        against_runs=verdict.against_runs,
    )


def write(lab: Lab, analysis: Analysis) -> None:
    """Record an analysis, and put it into the journal and into the idea's report, where there is one."""
    with results.locked(lab):
        with (lab.runs / report.EXPLORATORY).open("a") as file:
            file.write(json.dumps(asdict(analysis) | {"text": analysis.text()}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        journal.append(
            lab, f"## {analysis.time} {analysis.idea}: {analysis.metric} beside the verdict\n\n{analysis.text()}\n\n{journal.INFERENCE_EMPTY}\n"
        )
        recorded = [one for one in verdicts.records(lab) if (one.idea, one.stage, one.final) == (analysis.idea, analysis.stage, True)]
        if recorded:
            report.write(lab, recorded[-1])

"""Settling: once all runs of a look are in, the lab judges, records that, writes journal and report, and queues what the question still needs."""

from loguru import logger

from monolab import backlog, gate, journal, problem, pueue, receipts, report, results, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.receipts import Receipt
from monolab.results import Row
from monolab.verdicts import Verdict


def unsettled(lab: Lab, rows: list[Row], past: list[Verdict]) -> list[Receipt]:
    """The newest run of every arm that has a run no look has seen, or whose question is still open."""
    seen = {run_id for verdict in past for run_id in verdict.runs}
    still_open = {verdict.runs[-1] for verdict in verdicts.by_arm(past) if not verdict.final}
    newest = {}
    for row in rows:
        if row.idea != BASELINE and (row.run_id not in seen or row.run_id in still_open):
            receipt = receipts.receipt(lab, row.run_id)
            newest[receipt.idea, receipt.stage, receipt.code_sha, receipt.args, verdicts.control_round(receipt)] = receipt
    return list(newest.values())


def settle(lab: Lab, without: str = "") -> list[Verdict]:
    """Judge and record every arm whose runs are all in, and those of what it is compared with; returns the new looks.

    One that can not be judged yet (no noise floor, other conditions) is left for later, and the log says why. The journal and a report are
    written once the lab has done what it does by itself; until then the next seeds are queued. `without` is the run that is about to end.
    """
    settled = []
    subject = problem.load(lab)
    with results.locked(lab):
        rows, past = results.load(lab), verdicts.records(lab)
        open_arms = unsettled(lab, rows, past)
        still = backlog.to_come(lab, without) if open_arms else []
        for receipt in open_arms:
            own = (receipt.idea, receipt.stage, receipt.code_sha, receipt.args)
            if any(all(part in (None, mine) for part, mine in zip(run, own, strict=True)) for run in still):
                continue
            if _waits_for(still, receipt.stage, BASELINE, receipt.parent_idea):
                continue
            try:
                verdict = verdicts.judge(lab, subject, rows, receipt.idea, receipt.stage, receipt)
            except LabError as error:
                logger.info(f"no verdict on {receipt.idea} ({receipt.stage}) yet: {error.what}")
                continue
            if _waits_for(still, receipt.stage, verdict.gate.anchor) or _known(past, verdict):
                continue
            if verdict.final and not verdict.control:
                report.write(lab, verdict)  # first: it can fail on its template, and can be written again
            if verdict.final and (not verdict.control or verdict.kept):  # a control that is kept is news: the lab was wrong
                journal.append(lab, journal.entry(verdict))
            verdicts.record(lab, verdict)
            settled.append(verdict)
            logger.info(
                f"{receipt.idea} ({receipt.stage}): {verdict.verdict}, {journal.observed(verdict)}; gate: {verdict.gate.decision}, {verdict.gate.why}"
            )
    for verdict in settled:
        if not verdict.final:
            _go_on(lab, subject, rows, verdict)
    return settled


def _waits_for(still: list[tuple], stage: str, *ideas: str) -> bool:
    return any(idea in ideas and at in (None, stage) for idea, at, *_ in still)


def _known(past: list[Verdict], verdict: Verdict) -> bool:
    """Whether this very look was recorded already."""
    return any((one.runs, one.seeds, one.gate.seeds) == (verdict.runs, verdict.seeds, verdict.gate.seeds) for one in past)


def _go_on(lab: Lab, subject: problem.Problem, rows: list[Row], verdict: Verdict) -> None:
    if not pueue.answers():  # runs by hand, without a daemon: nobody asked for one
        logger.info(f"{verdict.idea} needs seeds {verdict.gate.wants}: just replicate {verdict.idea}")
        return
    try:
        gate.advance(lab, subject, rows, verdict)
    except LabError as error:
        logger.warning(f"{verdict.idea} ({verdict.stage}): its further seeds were not queued: {error}")

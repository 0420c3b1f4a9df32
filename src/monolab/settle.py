"""Settling: once an experiment's runs are all in, the lab judges it, records that, and writes journal and report."""

from loguru import logger

from monolab import backlog, journal, problem, receipts, report, results, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.receipts import Receipt
from monolab.results import Row
from monolab.verdicts import Verdict


def unsettled(lab: Lab, rows: list[Row]) -> list[Receipt]:
    """The newest run of every arm that has a run no verdict has seen."""
    seen = {run_id for verdict in verdicts.records(lab) for run_id in verdict.runs}
    newest = {}
    for row in rows:
        if row.idea != BASELINE and row.run_id not in seen:
            receipt = receipts.receipt(lab, row.run_id)
            newest[receipt.idea, receipt.stage, receipt.code_sha, receipt.args] = receipt
    return list(newest.values())


def settle(lab: Lab, without: str = "") -> list[Verdict]:
    """Judge, record and journal every arm whose runs are all in, and those of its parent and the baseline.

    One that can not be judged yet (no noise floor, other conditions) is left for later, and the log says why.
    `without` is the run that is about to end.
    """
    settled = []
    subject = problem.load(lab)
    with results.locked(lab):
        rows = results.load(lab)
        open_arms = unsettled(lab, rows)
        still = backlog.to_come(lab, without) if open_arms else []
        for receipt in open_arms:
            own = (receipt.idea, receipt.stage, receipt.code_sha, receipt.args)
            if any(all(part in (None, mine) for part, mine in zip(run, own, strict=True)) for run in still):
                continue
            if any(idea in (BASELINE, receipt.parent_idea) and stage in (None, receipt.stage) for idea, stage, *_ in still):
                continue
            try:
                verdict = verdicts.judge(lab, subject, rows, receipt.idea, receipt.stage, receipt)
            except LabError as error:
                logger.info(f"no verdict on {receipt.idea} ({receipt.stage}) yet: {error.what}")
                continue
            report.write(lab, verdict)  # first: it can fail on its template, and can be written again
            journal.append(lab, journal.entry(verdict))
            verdicts.record(lab, verdict)
            settled.append(verdict)
            logger.info(f"verdict on {receipt.idea} ({receipt.stage}): {verdict.verdict}, {journal.observed(verdict)}")
    return settled

"""Settling: once all runs of a look are in, the lab judges, records that, writes journal and report, and queues what the question still needs."""

import json
from dataclasses import replace
from pathlib import Path

from loguru import logger

from monolab import backlog, conditions, device, gate, journal, problem, pueue, receipts, report, results, retries, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.receipts import Receipt
from monolab.results import Rows
from monolab.verdicts import Looks, Verdict


def unsettled(lab: Lab, rows: Rows, past: Looks) -> list[Receipt]:
    """The newest run of every arm that has a run no look has seen, or whose question is still open."""
    still_open, void = past.still_open(), verdicts.no_evidence(lab, rows)
    newest = {}
    for row in rows.to_settle(verdicts.LOOKS, still_open):
        if row.run_id not in void or row.run_id in still_open:
            receipt = _readable(lab, row.run_id)
            if receipt is None:  # the others do not wait for it
                continue
            newest[receipt.idea, receipt.stage, receipt.code_sha, receipt.args, verdicts.control_round(receipt)] = receipt
    return list(newest.values())


def _readable(lab: Lab, run_id: str) -> Receipt | None:
    """The receipt of a run; None where it is missing or damaged, which `lab doctor` and `lab check` name."""
    try:
        return receipts.receipt(lab, run_id)
    except LabError as error:
        logger.error(f"{run_id} is not judged: {error.what}")
        return None


def settle(lab: Lab, without: str = "") -> list[Verdict]:
    """Judge and record every arm whose runs are all in, and those of what it is compared with; returns the new looks.

    One that can not be judged yet (no noise floor, other conditions) is left for later, and the log says why; under other conditions its references are measured
    again. The journal and a report are
    written once the lab has done what it does by itself; until then the next seeds are queued. `without` is the run that is about to end.
    """
    settled, waiting, errors = [], [], []
    subject = problem.load(lab)
    with results.locked(lab):
        rows, past = results.view(lab), verdicts.looks(lab)
        _tell(lab, past)
        open_arms = unsettled(lab, rows, past)
        still = backlog.to_come(lab, without) if open_arms else []
        again = [one for one in (_readable(lab, run_id) for run_id in backlog.opened(lab)) if one and retries.due(lab, one)] if open_arms else []
        for receipt in open_arms:
            own = (receipt.idea, receipt.stage, receipt.code_sha, receipt.args)
            if any(all(part in (None, mine) for part, mine in zip(run, own, strict=True)) for run in still):
                continue
            if _waits_for(still, receipt.stage, BASELINE, receipt.parent_idea):
                continue
            if any((one.idea, one.stage, one.code_sha, one.args) == own for one in again):  # a run of it is about to be taken again
                continue
            try:
                verdict = verdicts.judge(lab, subject, rows, receipt.idea, receipt.stage, receipt)
            except LabError as error:
                logger.info(f"no verdict on {receipt.idea} ({receipt.stage}) yet: {error.what}")
                if isinstance(error, verdicts.OtherConditions):
                    _renew(lab, subject, rows, receipt)
                continue
            if _waits_for(still, receipt.stage, verdict.gate.anchor):
                continue
            if not _known(past, verdict):
                try:
                    _write(lab, past, verdict)
                except LabError as error:  # a broken template, say: this look is taken again next time
                    logger.error(f"{receipt.idea} ({receipt.stage}) could not be written down: {error}")
                    errors.append(error)
                    continue
                settled.append(verdict)
            if not verdict.final:
                waiting.append(verdict)
        for verdict in waiting:
            _go_on(lab, subject, verdict)
    if errors:
        raise errors[0]
    return settled


def _write(lab: Lab, past: Looks, verdict: Verdict) -> None:
    """Report, journal and record. A control is news only where it is kept; a further look that changes nothing is none."""
    before = next((one for one in reversed(past.sharing(verdict.runs)) if one.final), None)
    news = before is None or (before.verdict, before.gate.decision) != (verdict.verdict, verdict.gate.decision)
    told = verdict.final and not verdict.control
    if told:
        report.page(lab, verdict)  # first: it can fail on its template
    entry = journal.entry(verdict) if verdict.final and news and (not verdict.control or verdict.kept) else ""
    # The record before what is told of it: killed in between, the rest is written by whoever settles next.
    if entry:
        verdict = replace(verdict, told=journal.sha(entry))
    receipts.write_atomic(_telling(lab), json.dumps({"look": [verdict.time, verdict.idea, verdict.stage], "report": told, "entry": entry}))
    verdicts.record(lab, verdict)
    _tell(lab, verdicts.looks(lab))
    logger.info(
        f"{verdict.idea} ({verdict.stage}): {verdict.verdict}, {journal.observed(verdict)}; gate: {verdict.gate.decision}, {verdict.gate.why}"
    )


def _telling(lab: Lab) -> Path:
    return lab.runs / ".telling"


def _tell(lab: Lab, past: Looks) -> None:
    """Journal and report of the look that was recorded last, as far as they are not written yet."""
    path = _telling(lab)
    if not path.exists():
        return
    left = json.loads(path.read_text())
    for verdict in reversed(past):
        if [verdict.time, verdict.idea, verdict.stage] == left["look"]:
            if left["entry"]:
                journal.append(lab, left["entry"])
            if left["report"]:
                report.write(lab, verdict)
            break
    path.unlink()


def _renew(lab: Lab, subject: problem.Problem, rows: Rows, receipt: Receipt) -> None:
    """Measure again what an idea is compared with, where the idea was measured as things are now and its references were not."""
    if not pueue.answers():
        return
    now = conditions.current(lab, subject, device.detect())
    if any(getattr(receipt, name) != value for name, value in now.items()):
        return  # the idea is the one that is out of date
    seeds = sorted({*range(3), *(row.seed for row in rows.of(receipt.idea, receipt.stage))})
    for reference in gate.references(lab, rows, receipt):
        gate.renew(lab, subject, reference, seeds)


def _waits_for(still: list[tuple], stage: str, *ideas: str) -> bool:
    return any(idea in ideas and at in (None, stage) for idea, at, *_ in still)


def _known(past: Looks, verdict: Verdict) -> bool:
    """Whether this very look was recorded already, with the same decision."""
    look = (verdict.runs, verdict.seeds, verdict.gate.seeds, verdict.gate.decision)
    return any((one.runs, one.seeds, one.gate.seeds, one.gate.decision) == look for one in past.sharing(verdict.runs))


def _go_on(lab: Lab, subject: problem.Problem, verdict: Verdict) -> None:
    if not pueue.answers():  # runs by hand, without a daemon: nobody asked for one
        logger.info(f"{verdict.idea} needs seeds {verdict.gate.wants}: just replicate {verdict.idea}")
        return
    try:
        gate.advance(lab, subject, verdict)
    except LabError as error:
        logger.warning(f"{verdict.idea} ({verdict.stage}): its further seeds were not queued: {error}")

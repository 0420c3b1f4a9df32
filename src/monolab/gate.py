"""The keep gate at work: the lab itself queues the seeds that an open question needs, of the idea and of what it is compared with."""

from dataclasses import replace

from loguru import logger

from monolab import backlog, conditions, device, dispatch, receipts, results, retries, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL_SEEDS, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request
from monolab.results import Row
from monolab.verdicts import Verdict

FAILED = ("crash", "oom", "timeout", "invalid")  # what running it again would not mend


def missing(lab: Lab, template: Request, seeds: list[int], now: dict[str, str], *, insist: bool = False) -> list[int]:
    """Those of `seeds` at which the code of `template` was not tried under the conditions `now`, nor is about to be.

    The caller holds the lab's lock, and the rows are read here: of a run that ends in between, neither rows from before nor the backlog of now know.
    A seed that somebody cancelled, that was refused, or that stayed without evidence through all its retries, is left alone, unless one insists.
    """

    def same(other: Request) -> bool:
        reference = other.idea != BASELINE or verdicts.is_reference(other.flags)
        return reference and (other.idea, other.stage, other.code_sha, other.args) == (
            template.idea,
            template.stage,
            template.code_sha,
            template.args,
        )

    results.resume(lab)  # one that was killed between its receipt and its row is not pending either
    rows = results.view(lab)
    have = {one.seed for one in backlog.pending(lab) if same(one)}
    if not insist:
        have |= {one.seed for one in backlog.given_up(lab, template.idea) if same(one)}
    void = verdicts.no_evidence(lab, rows) if insist else set()
    for row in results.of(rows, template.idea, template.stage):
        if row.run_id in void:
            continue
        if row.seed not in seeds or row.seed in have:
            continue
        receipt = receipts.receipt(lab, row.run_id)
        if receipt is None or not same(receipt) or any(getattr(receipt, name) != value for name, value in now.items()):
            continue
        if row.value is not None or row.status in FAILED or (not insist and retries.spent(lab, receipt)):
            have.add(row.seed)
    return [seed for seed in seeds if seed not in have]


def advance(lab: Lab, problem: Problem, verdict: Verdict, *, insist: bool = False, sandboxed: bool = False) -> list[Request]:
    """Queue what the next look at an open question needs: first the reference's seeds, then the idea's own. Asked twice, it queues once.

    With `sandboxed`, none of it may run without a sandbox. The caller holds the lab's lock.
    Raises LabError where no daemon answers, and where what they would be measured under is no longer what the idea's first seed was.
    """
    mine, anchor = (receipts.receipt(lab, runs[0]) for runs in (verdict.runs, verdict.gate.runs))
    now = conditions.current(lab, problem, device.detect())
    if changed := [words for name, words in verdicts.CONDITIONS.items() if now[name] != getattr(mine, name)]:
        raise LabError(f"{verdict.idea} was measured before {', '.join(changed)} changed", hint=f"just queue {verdict.idea}, to measure it anew")
    offset = mine.seed - mine.seed % CONTROL_SEEDS if verdict.control else 0
    references = [_again(lab, anchor, seed, {}) for seed in missing(lab, anchor, list(verdict.gate.wants), now, insist=insist)]
    own = missing(lab, mine, [seed + offset for seed in verdict.gate.wants], now, insist=insist)
    parents = {one.seed: one.run_id for one in (receipts.receipt(lab, run_id) for run_id in verdict.against_runs)}
    if mine.parent_idea == anchor.idea:
        parents |= {one.seed: one.run_id for one in references}
    queued = references + [_again(lab, mine, seed, {seed + offset: run_id for seed, run_id in parents.items()}) for seed in own]
    if sandboxed:
        queued = [replace(one, flags=(*(flag for flag in one.flags if flag != receipts.SANDBOXED), receipts.SANDBOXED)) for one in queued]
    _send(lab, queued)
    if queued:
        logger.info(f"{verdict.idea} ({verdict.stage}): {verdict.gate.why}; queued {', '.join(one.run_id for one in queued)}")
    return queued


def renew(lab: Lab, problem: Problem, template: Request, seeds: list[int]) -> list[Request]:
    """Measure code that was measured under other conditions again under those of now, at `seeds`: the rolling re-baseline. The caller holds the lab's lock."""
    now = conditions.current(lab, problem, device.detect())
    queued = [_again(lab, template, seed, {}) for seed in missing(lab, template, seeds, now)]
    _send(lab, queued)
    if queued:
        logger.info(
            f"{template.idea} ({template.stage}) has no value at seeds {', '.join(str(one.seed) for one in queued)} under today's conditions: queued"
        )
    return queued


def references(lab: Lab, rows: list[Row], asked: Request) -> list[Request]:
    """What an idea will be compared with: the baseline, for its noise floor, the code it builds on, and its anchor; as far as they were ever measured."""
    last = [row for row in results.of(rows, BASELINE, asked.stage) if row.value is not None and verdicts.is_reference(row.flags.split(","))]
    found = [receipts.request(lab, row.run_id) for row in last[-1:]]
    anchor, _ = verdicts.anchor_of(lab, asked, verdicts.kept_arms(verdicts.looks(lab), asked.stage))
    parent = receipts.request(lab, asked.parent) if asked.parent else None
    for one in (parent, anchor):
        if (
            one
            and one.stage == asked.stage
            and all((one.idea, one.code_sha, one.args) != (other.idea, other.code_sha, other.args) for other in found)
        ):
            found.append(one)
    return found


def _send(lab: Lab, queued: list[Request]) -> None:
    if queued:
        group = dispatch.prepare()
        with dispatch.asking(lab):
            dispatch.write(lab, queued)
            dispatch.send(lab, queued, group)


def _again(lab: Lab, template: Receipt | Request, seed: int, parents: dict[int, str]) -> Request:
    asked = receipts.request(lab, template.run_id)
    return dispatch.replicate(asked, seed, parents.get(seed, asked.parent))

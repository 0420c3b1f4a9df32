"""Running a request again: which ends of a run say nothing about its idea, how often and how soon the lab tries once more.

The one policy for every kind of failure that is the machine's and not the candidate's. What a candidate did itself (a crash, its own use of memory or
time, what the scorer refused) is a result, and what the user stopped stays stopped: neither is ever run again by the lab.
"""

import re
from dataclasses import asdict
from typing import NamedTuple

from loguru import logger

from monolab import backlog, dispatch, pueue, receipts, results, supervise
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.receipts import Receipt, Request
from monolab.verdicts import CONTAMINATED, RETRY

TRANSIENT = "transient:"  # the flag of a receipt that a name of TABLE follows
LONGEST_WAIT = 3600.0  # seconds that the back-off grows to
EARLY_SECONDS = 120.0  # a device that cannot be had shows before any training: later, it is the candidate's own doing


class Transient(NamedTuple):
    """A failure that running again may mend, and how it is recognised in the end of a run's log."""

    name: str  # after `transient:` in the receipt's flags
    pattern: re.Pattern
    why: str
    early: bool  # only in training, before the first step of training, which a candidate reports, and within EARLY_SECONDS
    foreign: bool  # only where another process was seen to hold memory that the run lacked


TABLE = (
    Transient(
        "cuda-init",
        supervise.DRIVER_DOWN,
        "the driver did not come up: it was being loaded, was reset, or had just lost a client",
        early=True,
        foreign=False,
    ),
    Transient(
        "device-busy",
        supervise.DEVICE_BUSY,
        "another process has the device to itself (exclusive mode), or an old context is still being torn down",
        early=True,
        foreign=False,
    ),
    Transient(
        "foreign-memory",
        re.compile(
            r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|OutOfMemoryError|MemoryError|std::bad_alloc"
            r"|[Cc]an(no|')t allocate memory|killed by signal: (9|Killed)|ended by SIGKILL"
        ),
        "memory ran out while a process outside of the run held what it lacked",
        early=False,
        foreign=True,
    ),
)


def recognise(tail: str, *, gpu: bool, seconds: float, step: int | None, foreign_memory: bool) -> str:
    """The name of the transient failure that a failed child's log shows, or "".

    `seconds` it ran, `step`: the last it told of, `foreign_memory`: whether another process held memory that it lacked. Text alone is the
    candidate's own, so it counts only together with such a fact: before training began, or with the memory of others measured. In scoring there is
    none: the candidate knows by then how its training went, and would draw again by saying so. `phases.score` scores the same checkpoint again instead.
    """
    before_training = not step and seconds <= EARLY_SECONDS
    for one in TABLE:
        fits = (not one.early or (gpu and before_training)) and (not one.foreign or foreign_memory)
        if fits and one.pattern.search(tail):
            return one.name
    return ""


def cause(receipt: Receipt) -> str:
    """Why a run may be run again: `interrupted`, `contaminated`, `transient`, or "" where its end is a result (or the user's will)."""
    if receipt.status == "interrupted":
        return "interrupted"
    if receipt.status == "invalid" and CONTAMINATED in receipt.flags:
        return "contaminated"
    return "transient" if receipt.status in ("crash", "oom") and any(flag.startswith(TRANSIENT) for flag in receipt.flags) else ""


def attempts(lab: Lab, receipt: Receipt) -> dict[str, int]:
    """How many runs ended for which cause, in the chain of retries that ends with this one; it included."""
    counts, step = {}, receipt
    while step is not None:
        if why := cause(step):
            counts[why] = counts.get(why, 0) + 1
        step = receipts.receipt(lab, step.retry_of) if step.retry_of else None
    return counts


def spent(lab: Lab, receipt: Receipt) -> bool:
    """Whether a run that may be run again has been, as often as program.md allows for its cause."""
    why = cause(receipt)
    return bool(why) and attempts(lab, receipt)[why] > getattr(problems.load(lab).retries_at(receipt.stage), why)


def successor(lab: Lab, run: Request) -> Request | None:
    """The retry of a run, where one was asked for."""
    return next((one for one in _same(lab, run) if one.retry_of == run.run_id), None)


def again(lab: Lab, receipt: Receipt, *, insist: bool = False) -> Request | None:
    """Queue a run once more where the policy of program.md allows it; the new request, or None.

    The code, options, seed and prediction are those of the run before, and so is the time it was asked for: a retry is the same question. Asked
    twice, by several at once, or killed in between, it queues once. Where no daemon answers, nothing is queued, and the log says how to. `insist`
    is the user's word: it starts the daemon and goes past the cap. The caller does not hold the lab's lock.
    """
    why = cause(receipt)
    if not why or ((lab.run(receipt.run_id) / "stop.json").exists() and not insist):
        return None
    policy, tried = problems.load(lab).retries_at(receipt.stage), attempts(lab, receipt)[why]
    if spent(lab, receipt) and not insist:
        logger.warning(f"{receipt.run_id}: {why} for the {tried}. time, and not run again: lab retry {receipt.run_id}")
        return None
    if not insist and not pueue.answers():
        logger.warning(f"{receipt.run_id}: {why}, and no daemon answers; to run it again: lab retry {receipt.run_id}")
        return None
    group = dispatch.prepare()
    with results.locked(lab), dispatch.asking(lab):
        request, new = _open(lab, receipt, insist)
        if request is None:
            return None
        asked = [request]
        if new:
            dispatch.write(lab, asked)  # which gives one whose id is taken another
        wait = 0.0 if insist or why == "interrupted" else min(policy.wait_seconds * 2 ** (tried - 1), LONGEST_WAIT)
        dispatch.send(lab, asked, group, delay=wait)
    (request,) = asked
    later = f" in {wait:.0f} s" if wait else ""
    logger.info(f"{receipt.run_id}: {receipt.reason or why}; it runs again{later} as {request.run_id}")
    return request


def due(lab: Lab, receipt: Receipt) -> bool:
    """Whether a run is to be taken again and that was not asked for yet: until then its arm is not judged. One by hand, without a daemon, is not."""
    stopped = (lab.run(receipt.run_id) / "stop.json").exists() or ("at-start" in receipt.flags and not pueue.answers())
    if not cause(receipt) or stopped or spent(lab, receipt):
        return False
    return _open(lab, receipt)[0] is not None


def by_hand(lab: Lab, receipt: Receipt | None, run_id: str) -> Request:
    """Queue a run once more because the user says so. Raises LabError where its end was a result, or a retry is there already."""
    if receipt is None:
        raise LabError(f"{run_id} is not over", hint=f"lab log {run_id}")
    if not cause(receipt):
        raise LabError(
            f"{run_id} ended with the status {receipt.status}, which is a result: its seed is not rolled again",
            hint=f"just queue {receipt.idea}, for a new version of it",
        )
    request = again(lab, receipt, insist=True)
    if request is None:
        other = successor(lab, receipt) or next(iter(_same(lab, receipt)))
        raise LabError(f"{run_id} was run again already, or is about to: {other.run_id}", hint=f"lab log {other.run_id}")
    return request


def _same(lab: Lab, run: Request) -> list[Request]:
    """What else was asked of the same code with the same options and seed at the same stage, oldest first."""
    found = []
    for path in sorted(lab.runs.glob(f"*-{run.idea}-s{run.seed}-*/request.json")):
        other = receipts.request(lab, path.parent.name)
        same = all(getattr(other, name) == getattr(run, name) for name in ("idea", "stage", "seed", "code_sha", "args"))
        if same and other.run_id != run.run_id:
            found.append(other)
    return found


def _open(lab: Lab, receipt: Receipt, insist: bool = False) -> tuple[Request | None, bool]:
    """The request to send for a run that is to be run again, and whether it still has to be written; None where nothing is left to do.

    That is so where it was run again already, waits, or where its question was answered by another run meanwhile. A retry that was written and
    never reached the queue is sent now.
    """
    others, lost = _same(lab, receipt), None
    queued = backlog.unfinished(lab) if others and pueue.answers() else {}
    for other in others:
        if other.run_id in queued or (not backlog.over(lab, other.run_id) and backlog.alive(lab, other.run_id) is not None):
            return None, False
        done, repeats = receipts.receipt(lab, other.run_id), other.retry_of == receipt.run_id
        if repeats and not backlog.over(lab, other.run_id):
            lost = other
            continue
        given_up = repeats and done is None and not insist  # cancelled or refused: that is up to the user
        measured = done is not None and done.value is not None and done.started >= receipt.started
        if given_up or measured or (repeats and done is not None):
            return None, False
    if lost is not None:
        return lost, False
    asked = receipts.request(lab, receipt.run_id)
    flags = (*(flag for flag in asked.flags if flag not in ("at-start", RETRY)), RETRY)  # also of one started by hand: the retry is the queue's
    new = {"run_id": receipts.new_id(asked.idea, asked.seed), "flags": flags, "args": asked.args, "retry_of": receipt.run_id}
    return Request(**asdict(asked) | new), True

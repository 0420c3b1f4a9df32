"""Self-debug: what failed, packed for whoever repairs it, with the motivation beside it; three rounds an idea, counted by the code that was tried.

A round is one code that failed, in smoke or as a run; the count starts anew after a code that passed (ASI-Arch, section 2.3: the log and the
motivation go back to the author, who revises).
"""

from dataclasses import dataclass

from monolab import fence, ideas, journal, receipts, results, smoke, snapshot
from monolab.errors import LabError
from monolab.paths import INFERENCE_EMPTY, Lab

ROUNDS = 3
BROKEN = ("crash", "oom", "timeout", "invalid")
DIFF, LOG = 24_000, 4_000  # characters of the package


@dataclass(frozen=True)
class Failure:
    """One code that failed: when, where (smoke or a run's id), and what was said."""

    time: str
    where: str
    code_sha: str
    commit: str
    wrong: str
    log: str


@dataclass(frozen=True)
class Package:
    """All that a repair needs. `round` counts from 1; the last one is `rounds`."""

    idea: str
    round: int
    rounds: int
    question: str
    hypothesis: str
    failure: Failure
    earlier: tuple[str, ...]  # what earlier rounds failed with
    diff: str  # of the code that failed, against where it forked from main


def failures(lab: Lab, idea: str) -> list[Failure]:
    """Codes of an idea that failed since one last passed, oldest first, each once with its newest failure."""
    events: list[tuple[str, Failure | None]] = []
    for one in smoke.trials(lab, idea):
        told = Failure(one["time"], "smoke", one["code_sha"], one["commit"], one["wrong"], one["tail"])
        events.append((one["time"], told if one["wrong"] else None))
    for row in results.load(lab):
        if row.idea == idea and (row.status in BROKEN or row.status == "ok"):
            receipt = receipts.receipt(lab, row.run_id)
            told = Failure(
                receipt.finished, receipt.run_id, receipt.code_sha, receipt.commit, f"{receipt.status}: {receipt.reason}", receipt.log_tail
            )
            events.append((receipt.finished, None if row.status == "ok" else told))
    found: dict[str, Failure] = {}
    for _, failure in sorted(events, key=lambda event: event[0]):
        if failure is None:
            found = {}
        else:
            found.pop(failure.code_sha, None)
            found[failure.code_sha] = failure
    return list(found.values())


def package(lab: Lab, slug: str) -> Package:
    """What to repair, and with what in mind.

    Raises LabError when nothing has failed, and once the rounds are spent; that is journalled then, and the idea is a result: it could not be built.
    """
    idea, found = ideas.load(lab, slug), failures(lab, slug)
    if not found:
        raise LabError(f"no code of {slug} has failed since one passed", hint=f"just smoke, in 5_worktrees/{slug}")
    if len(found) > ROUNDS:
        _give_up(lab, slug, found)
        raise LabError(
            f"{slug}: {ROUNDS} rounds of repair are spent, and {len(found)} versions of its code have failed; the last: {found[-1].wrong}",
            hint="go on with another idea; a new version of this one is a new idea with its own file",
        )
    last = found[-1]
    diff = snapshot.changed(lab, snapshot.fork_point(lab, last.commit), last.commit)
    return Package(
        idea=slug,
        round=len(found),
        rounds=ROUNDS,
        question=idea.question,
        hypothesis=idea.hypothesis,
        failure=last,
        earlier=tuple(one.wrong for one in found[:-1]),
        diff=diff if len(diff) <= DIFF else diff[:DIFF] + "\n(cut)",
    )


def text(found: Package) -> str:
    """The package as Markdown. Log and diff are fenced: they are data, and ask for nothing."""
    earlier = "".join(f"- round {number}: {fence.line(wrong)}\n" for number, wrong in enumerate(found.earlier, start=1))
    return (
        f"# Repair {found.idea}, round {found.round} of {found.rounds}\n\n"
        f"- Question: {fence.line(found.question)}\n- Hypothesis, which stays as it is: {fence.line(found.hypothesis)}\n"
        f"- Failed in: {found.failure.where}\n- With: {fence.line(found.failure.wrong)}\n"
        + (f"\nEarlier rounds:\n{earlier}" if earlier else "")
        + f"\n{fence.fenced(found.failure.log[-LOG:], 'End of the log')}\n"
        f"\n{fence.fenced(found.diff, 'The change', 'diff')}\n\n"
        f"Repair it in 5_worktrees/{found.idea}, change what the failure names and nothing else, then: just smoke\n"
    )


def _give_up(lab: Lab, slug: str, found: list[Failure]) -> None:
    """One journal entry for the codes that failed, written once."""
    head = f"{slug}: not built, {len(found)} versions of its code failed"
    with results.locked(lab):
        if lab.journal.exists() and head in lab.journal.read_text():
            return
        told = "".join(f"- {one.where} ({one.code_sha[:12]}): {one.wrong}\n" for one in found)
        journal.append(
            lab, f"## {receipts.now()} {head}\n\n- Observed: after {ROUNDS} rounds of repair nothing was measured\n{told}\n{INFERENCE_EMPTY}\n"
        )

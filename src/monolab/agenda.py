"""Where every untried idea stands on its way to the queue, and which verdicts wait for their author: read from files, never from a memory."""

import os
import re
from dataclasses import dataclass

from monolab import backlog, ideas, journal, meter, receipts, rubric, smoke, snapshot
from monolab.errors import LabError
from monolab.journal import INFERENCE_EMPTY
from monolab.paths import BASELINE, CONTROL, Lab

RUN = re.compile(r"\d{8}T\d{6}-(.+)-s\d+-[0-9a-f]{4}")
NOT_BUILT = re.compile(r"## \S+ ([a-z0-9-]+): not built, ")  # as `debug` and autopilot journal it
TRIES = 2  # failed steps of one kind on an idea, after which it is set aside
REPAIRS = 6  # of one idea's code, after which it is set aside
REVIEWS = 2  # of one idea's code that found something to mend, after which it is set aside
STEPS = ("critique", "rate", "implement", "smoke", "repair", "review", "queue")  # in the order an idea goes through them


@dataclass(frozen=True)
class Thread:
    """One untried idea: which of STEPS comes next, why it is set aside ("" while it is not), its rating, and the code in its worktree ("" where nobody changed it yet)."""

    slug: str
    next: str
    aside: str
    rating: float | None
    code_sha: str


def tried(lab: Lab) -> set[str]:
    """Ideas that a run was asked for, whatever came of it, and those that could not be built."""
    names = os.listdir(lab.runs) if lab.runs.is_dir() else []
    given_up = {match[1] for entry in journal.entries(lab) if (match := NOT_BUILT.match(entry))}
    return given_up | {match[1] for name in names if (match := RUN.fullmatch(name))}


def trees(lab: Lab) -> list[str]:
    """Ideas that have a worktree."""
    return sorted(path.name for path in lab.worktrees.glob("*") if (path / ".git").exists())


def open_inferences(lab: Lab) -> list[str]:
    """Ideas whose verdict is in the journal without an inference, newest first."""
    return list(dict.fromkeys(filter(None, map(waits, journal.entries(lab)))))


def waits(entry: str) -> str:
    """The idea of a journal's entry on a verdict whose inference is not written yet; "" for any other entry."""
    return entry.split()[2].removesuffix(":") if journal.VERDICT.match(entry) and INFERENCE_EMPTY in entry.splitlines() else ""


def failed(line: dict, kind: str, slug: str) -> bool:
    """Whether a line of autopilot's record is a step of this kind on this idea that failed, for a reason that waiting does not mend."""
    return line["what"] == "step" and (line["kind"], line["slug"], line["status"]) == (kind, slug, "failed") and not line.get("transient")


def threads(lab: Lab, least_rating: float) -> list[Thread]:
    """Every untried idea, best rated first; of equals the oldest. `least_rating`: below it an idea is set aside (1 to 10)."""
    done, built, opinions = tried(lab), set(trees(lab)), rubric.newest(lab)
    steps = [line for line in meter.lines(lab) if line["what"] == "step"]
    found = [
        _thread(lab, slug, built, opinions, [one for one in steps if one["slug"] == slug], least_rating)
        for slug in ideas.slugs(lab)
        if slug not in done and not slug.startswith((CONTROL, ideas.FILLER))
    ]
    return sorted(found, key=lambda one: (bool(one.aside), -(one.rating or 0.0)))


def _thread(lab: Lab, slug: str, built: set[str], opinions: dict, steps: list[dict], least: float) -> Thread:
    critique, rating = opinions.get((slug, "critique")), opinions.get((slug, "rating"))
    mark, code = rating and rating.total, ""
    try:
        idea = ideas.load(lab, slug)
    except LabError as error:  # somebody is still writing it
        return Thread(slug, "critique", error.what, mark, code)
    if slug in built:
        if not any(one["kind"] == "implement" for one in steps):
            return Thread(slug, "implement", "somebody else works in its worktree", mark, code)
        try:
            snap = snapshot.take(lab.worktree(slug))
        except LabError as error:
            return Thread(slug, "implement", error.what, mark, code)
        built_now = any(one["kind"] == "implement" and one["status"] == "done" for one in steps)
        code = snap.code_sha if built_now and not unchanged(lab, idea.parent, snap) else ""
    step = _next(lab, slug, critique, rating, code, steps)
    failures = [one for one in steps if failed(one, step, slug)]
    aside = ""
    if len(failures) >= TRIES and step not in ("smoke", "queue"):  # those two are the lab's own: it is not the idea's fault
        aside = f"{step} failed {len(failures)} times: {failures[-1]['why']}"
    elif step == "repair" and sum(one["kind"] == "repair" for one in steps) >= REPAIRS:
        aside = f"it was repaired {REPAIRS} times, and something is wrong again"
    elif critique and not critique.answer["testable"]:
        aside = "its critic says that the metric cannot test it"
    elif mark is not None and mark < least:
        aside = f"rated {mark:.1f} {rating.band}, below {least:g}"
    elif sum(one["kind"] == "review" and bool(one.get("findings")) for one in steps) > REVIEWS:
        aside = f"{REVIEWS} reviews found something to mend, and so did the next"
    return Thread(slug, step, aside, mark, code)


def _next(lab: Lab, slug: str, critique, rating, code: str, steps: list[dict]) -> str:
    if critique is None:
        return "critique"
    if rating is None:
        return "rate"
    if not code:
        return "implement"
    trial = next((one for one in reversed(smoke.trials(lab, slug)) if one["code_sha"] == code), None)
    if trial is None:
        return "smoke"
    if trial["wrong"]:
        return "repair"
    review = next((one for one in reversed(steps) if one["kind"] == "review" and one["status"] == "done"), None)
    if review is None or review["code_sha"] != code:
        return "review"
    return "repair" if review["findings"] else "queue"


def unchanged(lab: Lab, parent: str, snap: snapshot.Snapshot) -> bool:
    """Whether a worktree still has the code that its branch began with: main's, or what was run of the parent."""
    if parent == BASELINE:
        return not snapshot.changed(lab, snapshot.fork_point(lab, snap.commit), snap.commit)
    return any(receipts.request(lab, run_id).code_sha == snap.code_sha for run_id in backlog.asked(lab, parent))


def findings(lab: Lab, slug: str, code_sha: str) -> list[dict]:
    """What the last review wants mended of an idea's code, where it was this code that was reviewed."""
    steps = [
        line for line in meter.lines(lab) if line["what"] == "step" and line["slug"] == slug and line["kind"] == "review" and line["status"] == "done"
    ]
    return steps[-1]["findings"] if steps and steps[-1]["code_sha"] == code_sha else []

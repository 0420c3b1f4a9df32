"""What a coding agent's hooks say: the lab's state at the start of a session, the position over a compaction, an answer to a stop in autopilot.

One schema serves Claude Code and Codex: JSON on stdin with `cwd`, `session_id`, and by event `source` (SessionStart), `trigger` (PreCompact) or
`stop_hook_active` (Stop). A hook that fails exits with 1, which no client takes for a refusal: an agent is never stuck because of it.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from monolab import agenda, backlog, doctor, fence, guard, ideas, init, paths, pueue, receipts, status
from monolab.errors import LabError
from monolab.paths import Lab

MOST = 2000  # characters at the start of a session
LINE = 170  # of them in one line
ENOUGH = 30  # ideas, as program.md's loop has it
STEP = "LAB_STEP"  # in the environment of an agent that does one step of `lab autopilot`, and stops after it
AUTOPILOT = ".autopilot"  # in 6_runs/: while it is there, a stop is answered
DEFAULTS = {"times": 3, "queue": 2, "until": ""}  # of its fields: answers in a row, runs that are enough, and a time in ISO 8601
SESSIONS = 50  # whose answers are counted


def answer(event: str, stdin: str) -> str:
    """What the hook prints. Raises LabError for an unknown event, for what is no JSON object, and outside of a lab."""
    try:
        payload = json.loads(stdin or "{}")
    except ValueError as error:
        raise LabError(f"the hook was given no JSON: {error}", hint=f"echo '{{}}' | lab hook {event}") from error
    if not isinstance(payload, dict):
        raise LabError("the hook was given no JSON object", hint=f"echo '{{}}' | lab hook {event}")
    if event not in EVENTS:
        raise LabError(f"hook {event!r}: unknown", hint=f"one of: {', '.join(EVENTS)}")
    return EVENTS[event](paths.find(_folder(payload)), payload)


def _folder(payload: dict) -> Path:
    return Path(str(payload.get("cwd") or os.environ.get("CLAUDE_PROJECT_DIR") or "."))


# -- the start of a session ---------------------------------------------------------------------------------------


def session_start(lab: Lab, payload: dict) -> str:
    """The lab in under MOST characters: what to do next and where one stood before what is less urgent. Repairs first what a killed process left."""
    if STEP in os.environ:
        return f"This is one step of autopilot in a monolab lab ({lab.root}): do what the request asks and nothing more. The lab queues, commits and goes on."
    head = f"This is a monolab lab ({lab.root}). program.md is your instructions; `./just` lists the commands. State, by `lab hook session-start`:"
    try:
        left = [one for one in doctor.quick(lab, queue=False) if not one.repaired]
        known = status.facts(lab, 3)
        lines = [f"next     {one}" for one in todo(lab, known["unfinished"])]
        if autopilot(lab):
            lines.append("night    autopilot is on: a stop while the queue is short is answered with what to do next")
        if payload.get("source") in ("compact", "resume"):
            lines += [f"stood    {one}" for one in position(lab)]
        lines += [f"mend     {one.what} (next: {one.hint or 'lab doctor'})" for one in left]
        lines += status.text(known).splitlines()
    except LabError as error:  # an empty or damaged lab is what the agent has to hear of first
        lines = [f"mend     {one}" for one in [*str(error).splitlines(), *init.check(lab)]]
    text = head
    for one in lines:
        one = _cut(fence.visible(one))
        if len(text) + len(one) + 1 > MOST - 50:
            return f"{text}\n(more: ./just status, ./just check)"
        text += f"\n{one}"
    return text


def _cut(line: str) -> str:
    return line if len(line) <= LINE else f"{line[: LINE - 4].rstrip()} ..."


def todo(lab: Lab, unfinished: int, enough: int = DEFAULTS["queue"]) -> list[str]:
    """What program.md's loop asks for now, the first thing first. With fewer than `enough` runs to come, what fills the queue goes before ideas."""
    if guard.meta_mode(lab):
        return ["meta-mode is on: revise what the human asked for, no experiments (skill meta)"]
    if not (lab.data / "manifest.json").is_file():
        return ["prepare the data: ./just data, then ./just baseline"]
    tried, proposed = agenda.tried(lab), ideas.slugs(lab)
    if paths.BASELINE not in tried:
        return ["measure the baseline: ./just baseline --seeds 3, then ./just metric-check"]
    found = []
    if reports := agenda.open_inferences(lab):
        found.append(f"REPORT: the inference is left to you for {_some(reports)} (skill report)")
    if begun := [name for name in agenda.trees(lab) if name not in tried]:
        found.append(f"TEST: 5_worktrees/{_some(begun)} not queued yet: ./just smoke, a review, ./just queue SLUG (skill test)")
    untried = [slug for slug in proposed if slug not in tried and slug not in begun]
    short = unfinished < enough
    if untried and (short or len(proposed) >= ENOUGH):
        why = f"{unfinished} run(s) queued or running" if short else f"{len(proposed)} ideas"
        found.append(f"IMPLEMENT: {why}, {len(untried)} untried, say {_some(untried[-2:])} (skill implement)")
    if len(proposed) < ENOUGH:
        found.append(f"IDEATE: {len(proposed)} of {ENOUGH} ideas; ./just next has what to build on (skill ideate)")
    elif not untried:
        found.append("IDEATE: every idea was tried; ./just next, ./just idea revived (skill ideate)")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- the position in the search -----------------------------------------------------------------------------------


def _file(lab: Lab, name: str) -> Path:
    return lab.runs / ".agent" / name


def _read(path: Path) -> dict:
    """A note of ours; {} where there is none or it was cut off: notes are a help, no record."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(lab: Lab, name: str, values: dict) -> None:
    path = _file(lab, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    receipts.write_atomic(path, json.dumps(values, indent=1))


def remember_next(lab: Lab, parent: str, policy: str, why: str) -> None:
    """Note what `lab next` named, for whoever goes on after a compaction."""
    path = _file(lab, "position.json")
    _note(lab, path.name, _read(path) | {"next": {"time": receipts.now(), "parent": parent, "policy": policy, "why": why}})


def position(lab: Lab) -> list[str]:
    """Where the agent stood: its worktree, what `lab next` named last, ideas begun."""
    known, found = _read(_file(lab, "position.json")), []
    if (slug := known.get("worktree")) and (lab.worktree(slug) / ".git").exists():
        found.append(f"in 5_worktrees/{slug}, on the idea {slug}")
    if one := known.get("next"):
        found.append(f"`lab next` ({one['policy']}, {one['time']}) had named {one['parent']} to build on: {one['why']}")
    if begun := sorted(set(agenda.trees(lab)) - agenda.tried(lab)):
        found.append(f"begun, not queued: {_some(begun)}")
    return found


def compact(lab: Lab, payload: dict) -> str:
    """Note the worktree that the agent stands in, and tell whoever sums up what must not be lost."""
    path = _file(lab, "position.json")
    here, trees = Path(os.path.realpath(_folder(payload))), Path(os.path.realpath(lab.worktrees))
    slug = here.relative_to(trees).parts[0] if here.is_relative_to(trees) and here != trees else ""
    _note(lab, path.name, _read(path) | {"worktree": slug, "compacted": receipts.now()})
    kept = "".join(f"\n- {one}" for one in position(lab))
    return f"Keep the position in the search, word for word; all else stands in the lab's files:{kept or ' none was noted'}"


# -- a stop in autopilot ------------------------------------------------------------------------------------------


def autopilot(lab: Lab) -> dict | None:
    """The settings of autopilot; None while it is off or over. Raises LabError for settings that make no sense."""
    path = lab.runs / AUTOPILOT
    if not path.is_file():
        return None
    try:
        found = DEFAULTS | json.loads(path.read_text() or "{}")
        times, queue, until = int(found["times"]), int(found["queue"]), str(found["until"])
        over = bool(until) and datetime.fromisoformat(until).astimezone(UTC) < datetime.now(UTC)
    except (ValueError, TypeError) as error:
        raise LabError(f"6_runs/{AUTOPILOT} cannot be read: {error}", hint=f"it is empty, or JSON with any of: {json.dumps(DEFAULTS)}") from error
    return None if over else {"times": times, "queue": queue, "until": until}


def stop(lab: Lab, payload: dict) -> str:
    """JSON that asks for another turn, or "" to let the agent stop.

    It asks only while autopilot is on and the queue short, never where the client says that it asked already, and at most `times` in a row in one
    session, until the queue was long again.
    """
    settings = autopilot(lab)
    if STEP in os.environ or settings is None or payload.get("stop_hook_active") or guard.meta_mode(lab):
        return ""
    session, path = str(payload.get("session_id") or ""), _file(lab, "stops.json")
    counts = _read(path)
    left = len(backlog.unfinished(lab)) if pueue.answers() else 0
    if left >= settings["queue"]:
        if counts.pop(session, None):
            _note(lab, path.name, counts)
        return ""
    count = counts.pop(session, 0) + 1
    if count > settings["times"]:
        return ""
    _note(lab, path.name, dict([*counts.items(), (session, count)][-SESSIONS:]))
    steps = "\n".join(f"- {one}" for one in todo(lab, left, settings["queue"]))
    reason = (
        f"Autopilot is on, and the device will stand idle: {left} run(s) queued or running, {settings['queue']} wanted. Go on:\n{steps}\n"
        f"(said {count} of at most {settings['times']} times in a row; a human ends autopilot with: rm 6_runs/{AUTOPILOT})"
    )
    return json.dumps({"decision": "block", "reason": reason})


EVENTS: dict[str, Callable[[Lab, dict], str]] = {"session-start": session_start, "stop": stop, "compact": compact}

"""One short-lived process of a coding agent: a prompt on its stdin, its final message, and what it used.

What it prints is told by its shape, not by its command: Claude Code's JSON (one object, or a line per event), Codex's and opencode's lines, or plain
text. A script of one's own prints its message, and where it can, what it used, as the last line:

    {"answer": {...} or "text", "usage": {"tokens_in": 1200, "tokens_out": 80, "cost": 0.01}}
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from monolab import fence, supervise
from monolab.errors import LabError
from monolab.supervise import MIB

GRACE = 10.0  # seconds from TERM to KILL
MOST = 64  # MiB on stdout; one that prints more is ended
LOG_MB = 16.0  # MiB of stderr that are kept
LONGEST = 300  # characters of `why`
EVERY = 1.0  # seconds between two calls of `observe`

# For each client: the command line that runs it once, without a person, with output for programs; what lets it edit files and run commands there
# unasked; the options that say something of that already; words that make a command complete, to be run as it is.
CLIENTS = {
    "claude": (
        ("claude", "-p", "--output-format", "stream-json", "--verbose"),
        ("--permission-mode=acceptEdits", "--allowedTools=Bash"),
        re.compile(r"permission|allow"),
        {"-p", "--print"},
    ),
    "codex": (
        ("codex", "exec", "--json", "--skip-git-repo-check"),
        ("--sandbox=workspace-write",),
        re.compile(r"^-[sp]$|sandbox|approve|profile"),
        {"exec", "e"},
    ),
    "opencode": (("opencode", "run", "--format", "json", "--print-logs", "--log-level", "ERROR"), (), re.compile("auto"), {"run"}),
}
READ_ONLY = {"OPENCODE_PERMISSION": '{"edit": "deny", "bash": "deny"}'}  # it does both unasked, where nothing forbids it

# Lines that tell nothing of how a call went: supervise's notes, the hint below a LabError, what opencode and Codex complain of and go on.
NOISE = re.compile(r"^\[lab\] |^  next: |Failed to fetch models\.dev|could not create PATH aliases")

_CODE = r"(?:408|429|5\d\d)\b"
TRANSIENT = re.compile(
    rf"\b(?:status|(?:status_?)?code|error|http|answered|rejected)\W{{0,4}}{_CODE}"
    r"|rate.?limit|too many requests|over(?:loaded|\s*capacity)|(?:usage|session|weekly|5-hour|your) limit"
    r"|(?:unable|failed|cannot|could not) (?:to )?connect|connection ?(?:error|failed|refused|reset|closed|aborted|timed out)"
    r"|waiting for network|network (?:error|is unreachable)"
    r"|broke off|did not answer|cannot be reached|temporary failure|temporarily|request timed out|timeout error|fetch failed|socket hang up"
    r"|\bAI_(?:APICall|Retry)Error\b|\b(?:ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|ConnectionRefused)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """How one process of an agent ended, and what it said. Tokens count what was read from a cache too; None: it did not tell."""

    status: str  # ok, failed, timeout, ended (by the caller's `observe`), killed (a signal to this process)
    text: str  # its final message; "" where there is none
    tokens_in: int | None
    tokens_out: int | None
    cost: float | None  # US dollars
    seconds: float
    why: str  # for anything but ok: one line
    transient: bool  # a rate limit, an overload, the network: a later call may fare better


@dataclass(frozen=True)
class Said:
    """What an agent's output holds."""

    text: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    error: str = ""  # what it says went wrong, after its last words
    transient: bool | None = None  # whether that passes; None: it does not say


def run(
    command: str,
    prompt: str,
    *,
    cwd: Path,
    seconds: float,
    log: Path,
    env: dict[str, str] | None = None,
    observe: Callable[[], str] | None = None,
    sure: bool = False,
) -> Reply:
    """Run `command` once in `cwd` with `prompt` on its stdin, and end it with all that it started: after `seconds`, or when it is done.

    `command` is a shell's words without a shell. `claude`, `codex` and `opencode`, with or without options, become the command line that runs them
    headless; `sure` lets those edit files and run commands there unasked, unless their options or settings say otherwise. The environment is this
    process's own and `env`. stderr goes to `log`, stdout and the prompt to files of the same name with the endings .out and .prompt: one log for each
    call. `observe` is called once a second, from this thread; what it returns, if anything, ends the agent and is the reason. Raises LabError for a
    command that cannot be started.
    """
    environment = _environment(env or {}, cwd, sure)
    words = command_line(command, sure)
    words[0] = _program(words[0], cwd, environment["PATH"], command)
    log.parent.mkdir(parents=True, exist_ok=True)
    asked, out = log.with_suffix(".prompt"), log.with_suffix(".out")
    asked.write_text(prompt, errors="backslashreplace")
    out.unlink(missing_ok=True)
    due = time.monotonic() + EVERY

    def watch(_: list) -> tuple[str, str] | None:
        nonlocal due
        if os.fstat(stdout.fileno()).st_size > MOST * MIB:
            return "failed", f"it printed more than {MOST} MB"
        if observe is None or time.monotonic() < due:
            return None
        reason = observe()
        due = time.monotonic() + EVERY
        return ("ended", reason) if reason else None

    with asked.open("rb") as stdin, out.open("a+b") as stdout:
        try:
            outcome = supervise.run(
                words,
                cwd=cwd,
                env=environment,
                log=log,
                limits=supervise.Limits(seconds, GRACE, None, LOG_MB),
                observe=watch,
                stdin=stdin,
                stdout=stdout,
            )
        except OSError as error:
            raise LabError(f"{command!r} cannot be started: {error.strerror or error}", hint=f"try it by hand: {shlex.join(words)}") from error
        stdout.seek(0)
        said = read(stdout.read(MOST * MIB).decode(errors="replace"))
    status, why = _judged(outcome, said)
    transient = status in ("failed", "timeout") and (said.transient if said.transient is not None else TRANSIENT.search(why) is not None)
    return Reply(status, said.text, said.tokens_in, said.tokens_out, said.cost, outcome.seconds, fence.line(why)[:LONGEST], transient)


def _judged(outcome: supervise.Outcome, said: Said) -> tuple[str, str]:
    """The reply's status, and why it is not ok."""
    last = said.error or _last_line(outcome.tail)
    if outcome.halted:
        return outcome.status, outcome.halted
    if outcome.status == "timeout":
        return "timeout", f"still running after {outcome.seconds:.0f} s{f'; it said last: {last}' if last else ''}"
    if outcome.status == "killed":
        return "killed", "the lab was told to stop"
    if said.error:
        return "failed", said.error
    if outcome.status != "ok":
        ended = f"signal {-outcome.returncode}" if outcome.returncode < 0 else f"exit status {outcome.returncode}"
        return "failed", f"{last or _last_line(said.text) or 'it said nothing'} ({ended})"
    if not said.text.strip():
        return "failed", f"it ended without a message{f'; it said last: {last}' if last else ''}"
    return "ok", ""


def _last_line(text: str) -> str:
    """The last line that is neither empty nor noise."""
    return next((line for line in reversed(text.splitlines()) if line.strip() and not NOISE.search(line)), "")


# -- the command --------------------------------------------------------------------------------------------------


def command_line(command: str, sure: bool = False) -> list[str]:
    """The words of a command, with a client's name made into the command line that runs it headless. Raises LabError for what is none."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise LabError(f"the agent's command {command!r} has no closed quotes: {error}", hint="write it as for a shell") from error
    if not words:
        raise LabError("no agent's command is given", hint="claude, codex, opencode, or a command that reads a prompt on stdin")
    name, *more = words
    if name not in CLIENTS:
        return words
    start, freely, about, complete = CLIENTS[name]
    if complete & set(more):
        return words
    told = any(map(about.search, more))
    return [*start, *(freely if sure and not told else ()), *more, *(["-"] if name == "codex" else [])]


def _environment(more: dict[str, str], cwd: Path, sure: bool) -> dict[str, str]:
    """This process's own, `more`, and on the PATH, last, the programs of the lab's environment (`lab chat`)."""
    env = (
        ({} if sure else READ_ONLY) | dict(os.environ) | more | {"PWD": os.path.abspath(cwd)}
    )  # opencode works where PWD says, not where it was started
    return env | {"PATH": os.pathsep.join([*filter(None, [env.get("PATH", os.defpath)]), str(Path(sys.executable).parent)])}


def _program(name: str, cwd: Path, path: str, command: str) -> str:
    found = shutil.which(cwd / name if "/" in name else name, path=path)
    if found is None:
        hint = f"install {name}, or log in where it is" if name in CLIENTS else "look at the spelling, the PATH, and whether it may be executed"
        raise LabError(f"the agent's command {command!r}: there is no program {name!r}", hint=hint)
    return os.path.abspath(found)


# -- what it printed ----------------------------------------------------------------------------------------------


def read(output: str) -> Said:
    """The final message and the usage in an agent's stdout."""
    events = list(_events(output))
    kinds = {str(event.get("type")) for event in events}
    if any("sessionID" in event and "type" in event for event in events):
        return _opencode(events)
    if kinds & {"thread.started", "turn.started", "turn.completed", "turn.failed"}:
        return _codex(events)
    if any(event.get("type") == "result" and "is_error" in event or event.get("type") == "system" and "session_id" in event for event in events):
        return _claude(events)
    return _plain(output)


def _events(output: str) -> Iterator[dict]:
    """The JSON objects that have a line of their own, or stand in a line's list."""
    for line in output.splitlines():
        if line.startswith(("{", "[{")):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(line)
                yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict))


def _claude(events: list[dict]) -> Said:
    result = next((event for event in reversed(events) if event.get("type") == "result"), None)
    if result is None:  # it was ended: what is known of its turns until then, each of which is told once per part
        turns = {event["message"].get("id"): event["message"] for event in events if event.get("type") == "assistant" and _within(event, "message")}
        parts = [part for turn in turns.values() for part in turn.get("content") or [] if isinstance(part, dict) and part.get("type") == "text"]
        used = [_within(turn, "usage") for turn in turns.values()]
        tokens_in = _sum([_sum([one.get(name) for name in _CLAUDE_IN]) for one in used])
        return Said(_text(parts[-1].get("text")) if parts else "", tokens_in, _sum([one.get("output_tokens") for one in used]))
    models = [one for one in _within(result, "modelUsage").values() if isinstance(one, dict)]
    if models:  # these count subagents too
        tokens_in = _sum([one.get(name) for one in models for name in ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")])
        tokens_out = _sum([one.get("outputTokens") for one in models])
    else:
        usage = _within(result, "usage")
        tokens_in, tokens_out = _sum([usage.get(name) for name in _CLAUDE_IN]), _tokens(usage.get("output_tokens"))
    said = Said(_text(result.get("result")), tokens_in, tokens_out, _dollars(result.get("total_cost_usd")))
    if not result.get("is_error") and not _text(result.get("subtype")).startswith("error"):  # an API error is one with the subtype success
        return said
    status = result.get("api_error_status")
    wrong = said.text or f"Claude Code ended with {result.get('subtype')}"
    return replace(said, text="", error=wrong, transient=status in (408, 429) or status >= 500 if isinstance(status, int) else None)


_CLAUDE_IN = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _codex(events: list[dict]) -> Said:
    said = Said()
    for event in events:
        item, kind = _within(event, "item"), event.get("type")
        if kind == "item.completed" and item.get("type") == "agent_message":
            said = replace(said, text=_text(item.get("text")), error="")
        elif kind == "turn.completed":  # counts the whole thread until now; what was cached is part of the input
            usage = _within(event, "usage")
            said = replace(said, tokens_in=_tokens(usage.get("input_tokens")), tokens_out=_tokens(usage.get("output_tokens")), error="")
        elif kind == "turn.failed":
            said = replace(said, error=_text(_within(event, "error").get("message")) or "the turn failed")
        elif kind == "error":
            said = replace(said, error=_text(event.get("message")) or "it met an error")
    return said


def _opencode(events: list[dict]) -> Said:
    steps, message, parts, error, transient = [], None, [], "", None
    for event in events:
        part, kind = _within(event, "part"), event.get("type")
        if kind == "text":
            if part.get("messageID") != message:
                message, parts = part.get("messageID"), []
            parts.append(_text(part.get("text")))
            error, transient = "", None
        elif kind == "step_finish":
            steps.append(part)
        elif kind == "error":
            data = _within(_within(event, "error"), "data")
            error = _text(data.get("message")) or _text(_within(event, "error").get("name")) or "it met an error"
            if isinstance(data.get("statusCode"), int):
                error = f"{error} (status {data['statusCode']})"
            transient = data.get("isRetryable") if isinstance(data.get("isRetryable"), bool) else None
    used = [_within(step, "tokens") for step in steps]
    tokens_in = _sum([_sum([one.get("input"), _within(one, "cache").get("read"), _within(one, "cache").get("write")]) for one in used])
    tokens_out = _sum([_sum([one.get("output"), one.get("reasoning")]) for one in used])
    cost = sum(filter(None, (_dollars(step.get("cost")) for step in steps))) or None  # 0: it knows no price for this model
    return Said("\n".join(parts), tokens_in, tokens_out, cost, error, transient)


def _plain(output: str) -> Said:
    head, _, last = output.rstrip().rpartition("\n")
    events = list(_events(last.strip()))
    envelope = events[0] if len(events) == 1 and events[0] and events[0].keys() <= {"answer", "usage"} else None
    if envelope is None:
        return Said(output.strip())
    usage, text = _within(envelope, "usage"), envelope.get("answer", head.strip())
    if not isinstance(text, str):
        text = json.dumps(text, ensure_ascii=False)
    return Said(text, _tokens(usage.get("tokens_in")), _tokens(usage.get("tokens_out")), _dollars(usage.get("cost")))


def _within(value: dict, name: str) -> dict:
    """The object of that name in an object, or an empty one."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _tokens(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _dollars(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf") else None


def _sum(values: list) -> int | None:
    """The sum of those that are counts; None where none is."""
    known = [value for value in map(_tokens, values) if value is not None]
    return sum(known) if known else None


# -- the answer in a final message --------------------------------------------------------------------------------

FENCES = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
OPENS = re.compile(r"\{\s*[\"'}]")  # where an object may begin, unlike a brace in prose


def answer(text: str) -> dict:
    """The last JSON object of a final message: bare, in a fenced block, or at the end of prose. Raises ValueError saying what is wrong with it."""
    pieces, place = [], 0
    for block in FENCES.finditer(text):
        pieces += [text[place : block.start()], block[2]]
        place = block.end()
    for piece in reversed([*pieces, text[place:]]):
        if OPENS.search(piece):
            return _last_object(piece)
    raise ValueError("there is no JSON object in it")


def _last_object(text: str) -> dict:
    """The last object in a text that is not part of another."""
    reads = json.JSONDecoder(strict=False)  # models leave the newlines of a text as they are
    found, wrong, end, place = {}, None, 0, 0
    while opening := OPENS.search(text, place):
        try:
            found, end = reads.raw_decode(text, opening.start())
            wrong, place = None, end
        except json.JSONDecodeError as error:  # nothing between its brace and where it went wrong stands outside of it
            wrong, place = error, max(error.pos, opening.start() + 1)
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
    if wrong is not None:
        near = " ".join(text[max(wrong.pos - 30, 0) : wrong.pos + 30].split())
        raise ValueError(f"its JSON does not parse: {wrong.msg} at line {wrong.lineno}, column {wrong.colno}, near {near!r}")
    if text[end:].lstrip()[:1] in ("]", "}", ","):
        raise ValueError("its last JSON object stands inside of a list or of something that does not parse: one object is asked for")
    return found

"""Telling a person: to services (through apprise's URLs) or a command of their choice, deduplicated, rate-limited, never in a run's way.

Where to is said in `.alerts.yaml` in the lab's root. Such URLs hold passwords, so the file must be ignored by git and readable for nobody else:

    to:
      - ntfys://ntfy.sh/a-name-that-nobody-guesses      # whatever apprise knows: mail, chats, webhooks, the desktop
      - command: notify-send "$(head -n1)"              # a shell's line that gets the text on stdin
    events: [best, failures, stopped]                   # default: all
    failures: 3                                         # runs in a row that must have failed
    disk_gb: 5                                          # free space below which the disk is low; default: twice program.md's disk_gb
    idle_minutes: 30                                    # without any progress until a lab with work counts as stopped
    again_hours: 6                                      # until what still holds is told again
    per_hour: 6                                         # messages; what comes above that is told with the next one
    environment: {HTTPS_PROXY: "http://proxy:3128"}     # for apprise and the command

A run, and whoever queues one, only starts `lab alert check` as a process of its own (`nudge`) and never waits for it: that looks for what is new
(`events`) and tells it. `6_runs/.alerts/` holds what was told and what failed. What is told once stays told; a message that no target took is told
with the next.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from loguru import logger

from monolab import keys, receipts
from monolab.errors import LabError
from monolab.paths import Lab

FILE = ".alerts.yaml"
KINDS = {
    "best": "the best result was beaten",
    "empty": "the queue is empty",
    "failures": "runs fail in a row",
    "disk": "the disk is low",
    "holdout": "the looks at the sealed split are spent, or its record is damaged",
    "stopped": "there is work and nothing moves",
    "human": "a run was refused, a record is damaged, or somebody asks (lab alert ask)",
}
EXAMPLE = "to:\n  - ntfys://ntfy.sh/a-name-that-nobody-guesses\n"
SECONDS = 20.0  # that one target may take
HOUR = 3600.0
TOLD = 500  # things told that are remembered
HELD = 50  # lines that wait for the next message
LOG_LINES = 200


@dataclass(frozen=True)
class Settings:
    to: tuple[str | dict, ...]
    events: tuple[str, ...] = tuple(KINDS)
    failures: int = 3
    disk_gb: float | None = None
    idle_minutes: float = 30.0
    again_hours: float = 6.0
    per_hour: int = 6
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One thing to tell. The same `key` of a kind is told once, or every `again_hours` where it `lasts`."""

    kind: str
    key: str
    text: str
    lasts: bool = False


# -- the settings -------------------------------------------------------------------------------------------------


def load(lab: Lab) -> Settings | None:
    """What `.alerts.yaml` says; None where there is none. LabError where it is wrong, or where others could read it."""
    import yaml

    path = lab.root / FILE
    if not path.exists():
        return None
    about = path.stat()
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or about.st_uid != os.getuid():
        raise LabError(f"{FILE} can be read by others, and may hold passwords", hint=f"chown $USER {path} && chmod 600 {path}")
    if subprocess.run(["git", "-C", str(lab.root), "check-ignore", "--quiet", FILE], check=False).returncode:  # also where git has it already
        raise LabError(f"git would keep {FILE}, which may hold passwords", hint=f"echo {FILE} >> .gitignore; git rm --cached --ignore-unmatch {FILE}")
    try:
        given = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:  # its message shows the line, and so perhaps a password
        raise LabError(f"{FILE} is not YAML{_line(error)}", hint=f"edit {path}") from None
    return _settings(given, path)


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark else ""


def _settings(given: object, path: Path) -> Settings:
    def wrong(what: str, hint: str = "") -> LabError:
        return LabError(f"{FILE}: {what}", hint=hint or f"edit {path}")

    names = {one.name for one in fields(Settings)}
    if not isinstance(given, dict) or "to" not in given:
        raise wrong("it has no `to`", f"write there:\n{EXAMPLE}")
    if unknown := given.keys() - names:
        raise wrong(f"unknown field {min(map(str, unknown))!r}", f"one of: {', '.join(sorted(names))}")
    to = given["to"] if isinstance(given["to"], list) else [given["to"]]
    for number, target in enumerate(to, 1):
        command = isinstance(target, dict) and target.keys() == {"command"} and isinstance(target["command"], str)
        if not command and not (isinstance(target, str) and "://" in target):
            raise wrong(f"target {number} of `to` is neither a URL nor `command: ...`")
    events = given.get("events", list(KINDS))
    if not isinstance(events, list) or not set(events) <= KINDS.keys():
        raise wrong("`events` is not a list of known ones", f"of: {', '.join(KINDS)}")
    values = {}
    for name in ("failures", "disk_gb", "idle_minutes", "again_hours", "per_hour"):
        if name in given:
            value = given[name]
            whole = name in ("failures", "per_hour")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
                raise wrong(f"`{name}` is {value!r}, not a positive {'whole number' if whole else 'number'}")
            values[name] = value
    environment = given.get("environment", {})
    if not isinstance(environment, dict):
        raise wrong("`environment` is no mapping of names to values")
    return Settings(tuple(to), tuple(events), environment={str(name): str(value) for name, value in environment.items()}, **values)


def named(target: str | dict) -> str:
    """A target as it may be shown: the kind of service, or the command's first word."""
    return f"command {target['command'].split()[0]} ..." if isinstance(target, dict) else f"{target.partition('://')[0]}://..."


# -- asking for it ------------------------------------------------------------------------------------------------

_started: list[subprocess.Popen] = []  # objects that are dropped while their process runs warn about it


def nudge(lab: Lab) -> None:
    """Start `lab alert check` beside this process, where alerts are set up at all. Never raises, never waits."""
    if (lab.root / FILE).exists():
        beside(lab, "alert", "check")


def beside(lab: Lab, *command: str, said: Path = Path(os.devnull), keyed: bool = False) -> None:
    """Start a `lab` command of its own beside this process, which outlives it; `said` is what it prints. Never raises, never waits.

    It gets the environment of a task in the queue, or, where it is `keyed`, all of this process's, keys included.
    """
    env = dict(os.environ) if keyed else keys.environment((*keys.FOR_PUEUE, "PUEUE_GROUP"))
    try:
        with said.open("wb") as output:
            call = [str(Path(sys.executable).with_name("lab")), *command]
            outputs = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            _started.append(subprocess.Popen(call, cwd=lab.root, env=env, start_new_session=True, **outputs))
    except OSError as error:
        logger.warning(f"lab {' '.join(command)} was not started: {error}")


def ask(lab: Lab, text: str) -> None:
    """Leave a word for the person; the next check tells it."""
    text = " ".join(text.split())
    if not text:
        raise LabError("what should be asked?", hint='lab alert ask "Which of the two data sets is meant?"')
    name = f"asked-{time.time_ns()}-{secrets.token_hex(4)}.json"
    receipts.write_atomic(_folder(lab) / name, json.dumps({"time": receipts.now(), "text": text[:1000]}))


def _asked(lab: Lab) -> Iterator[tuple[Path, Event]]:
    for path in sorted(_folder(lab).glob("asked-*.json")):
        told = json.loads(path.read_text())
        yield path, Event("human", f"asked {told['text']}", f"asks for you: {told['text']}", lasts=True)


# -- telling ------------------------------------------------------------------------------------------------------


def check(lab: Lab, look: Callable[[Lab, Settings], list[Event]]) -> None:
    """Tell what `look` finds and what was asked. One at a time: who comes while another checks has it check once more."""
    again = _folder(lab) / "again"
    again.parent.mkdir(parents=True, exist_ok=True)
    again.touch()
    while again.exists():
        with (again.parent / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            again.unlink(missing_ok=True)
            try:
                if settings := load(lab):
                    asked = list(_asked(lab))
                    tell(lab, settings, look(lab, settings) + [event for _, event in asked])
                    for path, _ in asked:
                        path.unlink()
            except LabError as error:
                _wrong(lab, str(error))
            except Exception as error:  # noqa: BLE001 - nobody reads this process's output; told without values, which may be secret
                where = traceback.extract_tb(error.__traceback__)[-1]
                _wrong(lab, f"the check failed: {type(error).__name__} in {Path(where.filename).name}:{where.lineno}")


def _wrong(lab: Lab, what: str) -> None:
    """Log it once, until a check goes well."""
    state = _state(lab)
    if state["wrong"] != what:
        _log(lab, what)
        _save(lab, state | {"wrong": what})


def tell(lab: Lab, settings: Settings, events: list[Event]) -> None:
    """Send what is new of `events` in one message, or keep it for the next where too many were sent."""
    state, now = _state(lab), time.time()
    new = []
    for event in events:
        name, last = f"{event.kind} {event.key}", state["told"].get(f"{event.kind} {event.key}")
        if event.kind not in settings.events or (last is not None and not (event.lasts and abs(now - last) >= settings.again_hours * HOUR)):
            continue
        state["told"].pop(name, None)
        state["told"][name] = now  # the newest last
        new.append(event.text)
    state["told"] = dict(list(state["told"].items())[-TOLD:])
    state["sent"] = [at for at in state["sent"] if abs(now - at) < HOUR]
    if not new and not state["held"]:
        return _save(lab, state | {"wrong": ""})
    if len(state["sent"]) >= settings.per_hour:
        return _save(lab, _hold(state, new) | {"wrong": ""})
    held, dropped = state["held"], state["dropped"]
    lines = list(new)
    if held:
        lines += ["", f"held back until now: {len(held) + dropped}", *held]
    first = (new or held)[0]
    state = _hold(state, new) | {"wrong": ""}
    state["sent"].append(now)
    _save(lab, state)  # before it is sent: killed in between, it is told with the next message
    failing = {}
    for number, target in enumerate(settings.to, 1):
        if why := send(target, f"{lab.root.name}: {first}"[:150], "\n".join([*lines, "", str(lab.root)]), settings.environment):
            failing[str(number)] = f"target {number} ({named(target)}): {why}"
    for number, what in failing.items():
        if number not in state["failing"]:
            _log(lab, f"{what}; not logged again until it works")
    for number in state["failing"].keys() - failing.keys():
        _log(lab, f"target {number} works again")
    if len(failing) < len(settings.to):  # somebody has it
        state |= {"held": [], "dropped": 0}
    _save(lab, state | {"failing": failing})
    return None


def _hold(state: dict, lines: list[str]) -> dict:
    stamp = time.strftime("%m-%d %H:%M")
    held = state["held"] + [f"{stamp} {line}" for line in lines]
    return state | {"held": held[-HELD:], "dropped": state["dropped"] + max(len(held) - HELD, 0)}


def send(target: str | dict, title: str, text: str, environment: dict[str, str]) -> str:
    """Send to one target, within SECONDS; "" when it took the message, else why not, without what is secret in the target."""
    env = keys.environment(keys.FOR_PUEUE) | environment
    if isinstance(target, dict):
        return _run(target["command"], f"{title}\n{text}\n", env)
    return _notify(target, title, text, environment)


def _run(command: str, text: str, env: dict[str, str]) -> str:
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
        cwd="/",
        start_new_session=True,
    )
    try:
        process.communicate(text, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not done within {SECONDS:g} s"
    return f"exit code {process.returncode}" if process.returncode else ""


class _Late(BaseException):
    """No Exception, so that no library takes it for one of its own."""


def _notify(url: str, title: str, text: str, environment: dict[str, str]) -> str:
    import apprise

    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())
    log = logging.getLogger("apprise")
    log.addHandler(listener)
    before, kept = log.propagate, dict(os.environ)
    log.propagate = False

    def late(number, frame):
        raise _Late

    handler = signal.signal(signal.SIGALRM, late)
    try:
        os.environ.update(environment)
        service = apprise.Apprise()
        if not service.add(url):
            return "apprise does not know such a URL"
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # apprise's own limits are for one read, not for all of them
        done = service.notify(title=title, body=text, body_format=apprise.NotifyFormat.TEXT)
    except _Late:
        return f"no answer within {SECONDS:g} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        log.removeHandler(listener)
        log.propagate = before
        os.environ.clear()
        os.environ.update(kept)
    return "" if done else without(url, " ".join(" ".join(said).split()) or "it was not taken")


def without(url: str, text: str) -> str:
    """`text` without any part of `url` that could be secret."""
    for part in sorted({part for part in re.split(r"[:/@?&=]+", url.partition("://")[2]) if len(part) > 3}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text[:300]


def test(lab: Lab) -> list[tuple[str, str]]:
    """Send a test message; every target, and "" or why it did not take it. LabError where nothing is set up."""
    settings = _required(lab)
    text = f"A test of the alerts of {lab.root}. They tell of: {', '.join(settings.events)}."
    return [(named(target), send(target, f"{lab.root.name}: a test", text, settings.environment)) for target in settings.to]


def known(lab: Lab) -> dict:
    """What is set up and what was told, as plain data, without what is secret."""
    settings, state = _required(lab), _state(lab)
    log = _folder(lab) / "log"
    return {
        "to": [named(target) for target in settings.to],
        "events": list(settings.events),
        "told": [{"what": name, "time": time.strftime("%Y-%m-%d %H:%M", time.localtime(at))} for name, at in state["told"].items()][-10:],
        "held": state["held"],
        "failing": list(state["failing"].values()),
        "log": log.read_text().splitlines()[-10:] if log.exists() else [],
        "cron": f"*/10 * * * * {shutil.which('env') or '/usr/bin/env'} -C {lab.root} {Path(sys.executable).with_name('lab')} alert check",
    }


def text(told: dict) -> str:
    """The same for people."""
    lines = [f"to       {one}" for one in told["to"]] + [f"event    {name:<9} {KINDS[name]}" for name in told["events"]]
    lines += [f"told     {one['time']} {one['what']}" for one in told["told"]]
    lines += (
        [f"held     {line}" for line in told["held"]]
        + [f"failing  {line}" for line in told["failing"]]
        + [f"log      {line}" for line in told["log"]]
    )
    lines += ["A lab that has stopped cannot say so itself. What can: a line in crontab -e, as long as this machine is up:", f"  {told['cron']}"]
    return "\n".join(lines)


def _required(lab: Lab) -> Settings:
    settings = load(lab)
    if settings is None:
        path = lab.root / FILE
        raise LabError(f"no alerts are set up: there is no {FILE}", hint=f"(umask 077; printf 'to:\\n  - command: cat >> ~/alerts.txt\\n' > {path})")
    return settings


# -- what was told ------------------------------------------------------------------------------------------------


def _folder(lab: Lab) -> Path:
    return lab.runs / ".alerts"


def _state(lab: Lab) -> dict:
    empty = {"told": {}, "sent": [], "held": [], "dropped": 0, "failing": {}, "wrong": ""}
    try:
        return empty | json.loads((_folder(lab) / "state.json").read_text())
    except (FileNotFoundError, ValueError, TypeError):  # damaged: at worst something is told twice
        return empty


def _save(lab: Lab, state: dict) -> None:
    receipts.write_atomic(_folder(lab) / "state.json", json.dumps(state, indent=1))


def _log(lab: Lab, line: str) -> None:
    path = _folder(lab) / "log"
    before = path.read_text().splitlines() if path.exists() else []
    receipts.write_atomic(path, "\n".join([*before, f"{receipts.now()} {line}"][-LOG_LINES:]) + "\n")

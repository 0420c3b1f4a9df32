"""The queue: a thin, typed client of the real pueue 4 command line (checked with 4.0.4).

Every call gets an allow-listed environment (`keys`), since the daemon writes the whole environment of whoever adds a task to
its state file, which every user of the machine may read, and prints it in `pueue status --json`. What somebody has
added by hand holds all that their shell knew: `scrub`.

Facts this relies on (pueue 4.0.4): a task runs with the environment of the client that added it plus PUEUE_GROUP and
PUEUE_WORKER_ID, nothing of the daemon's own; while it runs both stand in its entry of the status, which is how a task
finds itself; a daemon that restarts over queued tasks pauses their groups (`resume`); one that was killed leaves a
socket and a pid file, which the next one takes over, unless the pid has since gone to another process.
"""

import contextlib
import getpass
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from monolab import keys
from monolab.errors import LabError

CALL_SECONDS = 30.0  # a client call that takes longer is a daemon that hangs
REVIVED = "monolab.revive"  # beside pueue's state: groups that the daemon which was started here may have come back with paused
START_SECONDS = 10.0  # a daemon answers some 50 ms after its start
NO_DAEMON = "Did you start"  # in each of the client's messages for it: no socket, no secret, no configuration
SET_UP = "./just sets pueue up"


@dataclass(frozen=True)
class Task:
    """One entry of the queue as the daemon tells it. Ids are used again after a `clean`: never key on an id alone."""

    id: int
    command: str
    path: str
    group: str
    label: str | None
    state: str  # Queued Stashed Running Paused Done Locked
    result: str | None  # once Done: Success, Failed(1), FailedToSpawn(...), Killed, Errored, DependencyFailed
    enqueued_at: str | None  # RFC 3339, as the daemon writes it
    start: str | None
    end: str | None
    keys: tuple[str, ...] = ()  # variables of its stored environment that look like keys: it was added by hand


@dataclass(frozen=True)
class Group:
    name: str
    status: str  # Running, Paused, Reset
    parallel: int  # tasks at once


def environment() -> dict[str, str]:
    """What of this process's environment pueue and its tasks get to see."""
    return keys.environment(keys.FOR_PUEUE)


def tasks() -> list[Task]:
    """Every task the daemon knows, by id."""
    return [_task(entry) for entry in _status()["tasks"].values()]


def groups() -> dict[str, Group]:
    """The queue's groups by name."""
    return _groups(_status())


def state() -> tuple[list[Task], dict[str, Group]] | None:
    """Tasks and groups with one question to the daemon; None where none answers. LabError as in `answers`."""
    done = _run("status", "--json")
    if done.returncode and NO_DAEMON in done.stderr:
        return None
    told = _status(done)
    return [_task(entry) for entry in told["tasks"].values()], _groups(told)


def answers() -> bool:
    """Whether a daemon answers. LabError when pueue is missing, or when one is there and refuses (a wrong secret, say)."""
    done = _run("group", "--json")
    if done.returncode and NO_DAEMON not in done.stderr:
        time.sleep(0.1)  # one that is killed at this very moment breaks the connection off
        done = _run("group", "--json")
    if done.returncode and NO_DAEMON not in done.stderr:
        raise _error("group", done)
    return done.returncode == 0


def ensure_daemon() -> bool:
    """Start `pueued` if no daemon answers; True when it was started here.

    A start survives this process (own session, output in a file beside pueue's state). Two callers at once start one.
    LabError when pueue is missing or older than 4, and, with the last lines of its log, when it does not come up.
    """
    import fcntl

    _require_version()
    if answers():
        return False
    directory, pid_path, _ = _places()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what pueue writes there is readable for everyone
    # pueued's own check (is the pid of the pid file alive?) lets two that start at once through, and the second takes
    # the first one's socket: hence a lock of ours around the start.
    with (directory / "monolab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if answers():
            return False
        end_deaf()
        _drop_foreign_pid(pid_path)
        log = directory / "pueued.log"
        (directory / REVIVED).write_text("".join(f"{name}\n" for name in _stored_groups(directory)))
        with log.open("ab") as output:
            daemon = subprocess.Popen(
                [_binary("pueued")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
                cwd=directory,
            )
        end = time.monotonic() + START_SECONDS
        while not answers():
            if daemon.poll() is not None or time.monotonic() > end:
                tail = _plain(log.read_text(errors="replace"))[-600:].strip()
                raise LabError(f"pueued was started and does not answer; its log {log} ends with:\n{tail}", hint="pueued -v shows why")
            time.sleep(0.02)
        _ours.append(daemon)
    return True


def ensure_group(name: str, parallel: int = 1) -> None:
    """Make the group `name` with `parallel` slots if there is none; a group that exists is left as it is."""
    if name in groups():
        return
    done = _call("group", "add", f"--parallel={parallel}", name, check=False)
    if done.returncode and name not in groups():  # another process was faster: fine
        raise _error("group add", done)


def resume(group: str) -> None:
    """Let the tasks of a paused group run."""
    _call("start", f"--group={group}")


def revive(group: str) -> bool:
    """Let a group run that the daemon came back with paused, as one does that restarts over queued tasks; whether it was.

    Once in the life of a daemon that was started here, whoever comes first, also where that start was cut off or slow to answer: a later pause is the
    user's, and so is that of a group that was made later. A daemon that the user started is left as it is.
    """
    record = _places()[0] / REVIVED
    names = record.read_text().splitlines() if record.exists() else []
    if group not in names:
        return False
    paused = groups()[group].status == "Paused"
    if paused:
        resume(group)
    record.write_text("".join(f"{name}\n" for name in names if name != group))
    return paused


def _stored_groups(directory: Path) -> list[str]:
    """The groups in the state that a daemon will come back with; none where there is none yet, or it was cut off: such a daemon starts empty."""
    try:
        return list(json.loads((directory / "state.json").read_text())["groups"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def add(
    command: list[str],
    *,
    group: str,
    label: str | None,
    cwd: Path,
    priority: int = 0,
    after: Iterable[int] = (),
    stashed: bool = False,
    delay: float = 0.0,
) -> int:
    """Queue `command` (one string per argument, no shell syntax) to run in `cwd`; returns the task's id.

    `after`: ids of tasks that must have succeeded first. `delay`: seconds that it stays stashed before it may run. The command replaces pueue's shell, so a signal to the task
    reaches it.
    """
    options = ["--print-task-id", "--escape", f"--working-directory={cwd}", f"--group={group}", f"--priority={priority}"]
    options += [f"--label={label}"] if label is not None else []
    options += [f"--after={task}" for task in after] + (["--stashed"] if stashed else [])
    options += [f"--delay={math.ceil(delay)}s"] if delay else []
    # --escape quotes each word only where the shell would need it, so that `exec` stays the shell's own word.
    return int(_call("add", *options, "--", "exec", *command).stdout)


def enqueue(task: int) -> None:
    """Let a stashed task run."""
    _call("enqueue", str(task))


def remove(task: int) -> None:
    """Take a task that is not running off the queue. LabError when it runs, or is not there."""
    # pueue says "removed" of what it removed, exits with 0, and names the rest: ask the daemon.
    _require_task(task)
    done = _call("remove", str(task), check=False)
    if any(other.id == task for other in tasks()):
        raise LabError(f"pueue did not remove task {task}: {_plain(done.stdout + done.stderr).strip()}", hint=f"pueue kill {task}")


def kill(task: int, signal: str | None = "term") -> None:
    """Send a signal to the process group of a running task; `None`: pueue's own kill (KILL, result `Killed`)."""
    _require_task(task)
    _call("kill", *([f"--signal={signal}"] if signal else []), str(task))


def scrub(found: Iterable[Task]) -> None:
    """Take keys out of pueue's state as far as pueue lets anybody: a task that waits loses the variables, one that is over is removed.

    One that runs keeps them until it is over.
    """
    for task in found:
        if task.keys and task.state in ("Queued", "Stashed"):
            for name in task.keys:
                _call("env", "unset", str(task.id), name, check=False)  # it may have started meanwhile
        elif task.keys and task.state == "Done":
            _call("remove", str(task.id), check=False)  # somebody else may have removed it


def clean(group: str) -> None:
    """Forget the finished tasks of `group`, with their output."""
    _call("clean", f"--group={group}")


def running_here(path: Path) -> Task | None:
    """The task this process runs in, if it was added in `path` or a folder below; None outside of such a task.

    A task's program may itself be a coding agent or a shell: what that starts elsewhere is not this task's work.
    LabError when several running tasks could be it.
    """
    group = os.environ.get("PUEUE_GROUP")
    if group is None:
        return None
    path = path.resolve()
    found = [
        (task, entry["envs"].get("PUEUE_WORKER_ID"))
        for entry in _status()["tasks"].values()
        if (task := _task(entry)).state == "Running" and task.group == group and Path(task.path).is_relative_to(path)
    ]
    worker = os.environ.get("PUEUE_WORKER_ID")
    mine = [task for task, slot in found if slot in (worker, None)]  # running tasks of one group have different slots
    if len(mine) > 1:
        ids = ", ".join(str(task.id) for task in mine)
        raise LabError(f"{len(mine)} running tasks of group {group!r} could be this one: {ids}", hint=f"pueue parallel --group {group} 1")
    return mine[0] if mine else None


# -- below: how it is asked ---------------------------------------------------------------------------------------

_ours: list[subprocess.Popen] = []  # daemons started here; Popen objects that are dropped warn about their process


def _binary(name: str) -> str:
    from shutil import which

    # ./just puts both beside the lab's Python, which is not on PATH where `.venv/bin/lab` is called by its path.
    found = which(name) or which(Path(sys.executable).with_name(name))
    if found is None:
        raise LabError(f"{name} is not installed", hint=SET_UP)
    return found


@cache
def _version(binary: str) -> tuple[int, ...]:
    text = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False, env=environment()).stdout
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _require_version() -> None:
    for name in ("pueue", "pueued"):
        version = _version(_binary(name))
        if version < (4,):
            raise LabError(f"{name} {'.'.join(map(str, version))} is too old, the lab needs 4.0 or newer", hint=SET_UP)


def _run(*arguments: str) -> subprocess.CompletedProcess:
    command = [_binary("pueue"), "--color=never", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environment(), timeout=CALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"the pueue daemon did not answer within {CALL_SECONDS:.0f} s", hint="pueue status; then restart pueued") from error


def _call(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    done = _run(*arguments)
    if check and done.returncode:
        raise _error(arguments[0], done)
    return done


def _error(what: str, done: subprocess.CompletedProcess) -> LabError:
    _require_version()
    text = _plain(done.stderr + done.stdout)
    why = " ".join(text.partition("Location:")[0].split()).removeprefix("Error: ")
    if NO_DAEMON in text:
        return LabError(f"no pueue daemon answers ({why})", hint="just queue starts one, so does: pueued -d")
    return LabError(f"pueue {what} failed: {why}", hint="pueue status")


def _status(done: subprocess.CompletedProcess | None = None) -> dict:
    done = done or _run("status", "--json")
    if done.returncode:
        raise _error("status", done)
    try:
        status = json.loads(done.stdout)
        return {"tasks": status["tasks"], "groups": status["groups"]}
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"pueue status --json is not what pueue 4 prints: {done.stdout[:200]!r}", hint=SET_UP) from error


def _groups(status: dict) -> dict[str, Group]:
    return {name: Group(name, group["status"], group["parallel_tasks"]) for name, group in status["groups"].items()}


def _task(entry: dict) -> Task:
    ((state, inner),) = entry["status"].items()
    times = inner
    while "previous_status" in times:  # Locked, while somebody edits it
        (times,) = times["previous_status"].values()
    result = inner.get("result")
    if isinstance(result, dict):  # {"Failed": 1}
        ((word, value),) = result.items()
        result = f"{word}({value})"
    return Task(
        id=entry["id"],
        command=entry["command"],
        path=entry["path"],
        group=entry["group"],
        label=entry["label"],
        state=state,
        result=result,
        enqueued_at=times.get("enqueued_at"),
        start=times.get("start"),
        end=times.get("end"),
        keys=keys.named(entry["envs"]),
    )


def _require_task(task: int) -> Task:
    for other in tasks():
        if other.id == task:
            return other
    raise LabError(f"pueue has no task {task}", hint="pueue status")


def listening() -> list[int]:
    """The pids of the daemons at this pueue's socket, in the order of their start; clients reach the last. Empty where the system does not tell (no Linux)."""
    _, _, address = _places()
    try:
        table = Path("/proc/net/unix").read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split(maxsplit=7) for line in table]
    inodes = {row[6] for row in rows if len(row) == 8 and row[7] == str(address) and row[3] == "00010000"}  # it accepts connections
    sockets, found = {f"socket:[{inode}]" for inode in inodes}, []
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        try:
            if any(os.readlink(link) in sockets for link in Path(f"/proc/{pid}/fd").iterdir()):
                started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
                found.append((started, int(pid)))
        except OSError:
            continue
    return [pid for _, pid in sorted(found)]


def deaf() -> list[int]:
    """Daemons of this pueue that no client can reach: their socket was removed, or a later daemon has taken its place."""
    import socket
    import struct

    pids = listening()
    if not pids:
        return []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(CALL_SECONDS)
        try:
            client.connect(str(_places()[2]))
            reached = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            reached = None
    return [pid for pid in pids if pid != reached]


def end_deaf() -> list[int]:
    """End the daemons that no client can reach, which still start tasks and keep another from starting; their pids.

    With KILL: asked to end, pueued would end its running tasks as well. They live on, and their end is lost on pueue alone.
    """
    ended = deaf()
    for pid in ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + START_SECONDS
    while set(ended) & set(listening()) and time.monotonic() < end:
        time.sleep(0.02)
    return ended


def _places() -> tuple[Path, Path, Path]:
    """pueue's directory, the pid file of its daemon and its socket, found as pueue finds them."""
    import yaml

    home = Path.home()
    library = home / "Library" / "Application Support"
    mac = sys.platform == "darwin"

    def xdg(name: str, default: Path) -> Path:
        return library if mac else Path(os.environ.get(name) or default)

    config = Path(os.environ.get("PUEUE_CONFIG_PATH") or xdg("XDG_CONFIG_HOME", home / ".config") / "pueue" / "pueue.yml")
    shared = ((yaml.safe_load(config.read_text()) or {}).get("shared") or {}) if config.is_file() else {}

    def setting(name: str, default: Path) -> Path:
        return Path(shared[name]).expanduser() if shared.get(name) else default

    directory = setting("pueue_directory", xdg("XDG_DATA_HOME", home / ".local" / "share") / "pueue")
    given = None if mac else os.environ.get("XDG_RUNTIME_DIR")
    runtime = setting("runtime_directory", Path(given) if given else directory)
    return directory, setting("pid_path", runtime / "pueue.pid"), setting("unix_socket_path", runtime / f"pueue_{getpass.getuser()}.socket")


def _drop_foreign_pid(pid_path: Path) -> None:
    """Remove a pid file that names no pueued: a new daemon refuses to start while that process lives."""
    if not pid_path.is_file():
        return
    text = pid_path.read_text().strip()
    if text.isdigit():
        import psutil

        try:
            if psutil.Process(int(text)).name() == "pueued":
                return
        except psutil.NoSuchProcess:
            pass
    pid_path.unlink(missing_ok=True)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)

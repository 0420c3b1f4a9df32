"""A lab whose machine fails, a thousand times over: is anything lost, doubled, or left on the device?

    ./just chaos --faults 1000                 # until so many faults were injected; exit 1 on a violation
    ./just chaos --seed 7 --episode 12         # one episode again: the same lab, work and faults at the same moments
    ./just chaos --kinds kill-run disk-full    # these kinds of faults only
    ./just chaos --list                        # the kinds; nothing runs
    ./just chaos --out FILE                    # the figures as data too

An episode is one fresh lab (benchmarks/chaos/: runs of under a second; four ideas with worktrees, a baseline) with a private pueue daemon, alone on a
small disk of its own where this machine lets one be mounted. In each of its rounds work is queued, and several faults hit at random moments while it runs.
Then the damage is left to the lab: `lab doctor`, and waiting until nothing is queued and nothing runs. Then the invariants are checked (INVARIANTS).
An episode ends at its first violation, and its lab is kept for inspection.

The seed fixes what is done and when, not what the machine's scheduler makes of it: a failure that needs one exact interleaving may take a few
replays. Faults of the kinds `line-*` do not depend on that: they kill a command with -9 at a chosen line of the package, drawn from the lines that an
undisturbed run was seen to go through.
"""

import contextlib
import ctypes
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
FILES = Path(__file__).resolve().with_suffix("")
DISK_MB = 48  # of an episode's own disk
ROUNDS = 12  # of an episode
ASKED = 8  # `lab queue` commands in a round at most: the next when nothing runs, as long as faults are still to come
SPAN = 2.5  # seconds after a round's first runs are queued within which its faults begin
SEARCH = 6.0  # seconds that a fault waits for what it is to hit
LOOK = 0.03  # seconds between two looks at the machine's processes
QUIET_SECONDS = 180.0  # after which a lab that is still busy counts as one that does not recover
CALL_SECONDS = 120.0  # no `lab` command takes so long, whatever has happened
RECONCILES = 5  # at most, until the lab is quiet
IDEAS = {"shift": ("offset", "-0.5"), "same": ("seconds", "0.16"), "worse": ("offset", "0.3"), "fails": ("fails", "1")}
BASELINE = "baseline"
DEFAULTS = {"offset": "0.0", "seconds": "0.15", "fails": "0"}
COMMANDS = {  # that are killed half-way
    "queue": ("queue", "{idea}", "Q: does it help? H: expect -0.5 score, 70%", "--seeds", "2"),
    "baseline": ("baseline", "--seeds", "1"),
    "eval": ("eval", "{idea}", "--seed", "1"),
    "replicate": ("replicate", "{idea}"),
    "cancel": ("cancel", "{run}"),
    "status": ("status", "--json"),
    "rebuild": ("rebuild",),
    "doctor": ("doctor",),
}
MODULES = {  # whose lines `line-*` draws from: those that change something
    *(
        "backlog.py",
        "conditions.py",
        "controls.py",
        "device.py",
        "disk.py",
        "dispatch.py",
        "doctor.py",
        "gate.py",
        "journal.py",
        "pueue.py",
        "queue.py",
    ),
    *(
        "receipts.py",
        "phases.py",
        "report.py",
        "results.py",
        "retries.py",
        "run.py",
        "settle.py",
        "snapshot.py",
        "supervise.py",
        "validity.py",
        "verdicts.py",
    ),
}
PUEUE = """client: {{}}
daemon: {{}}
shared:
  pueue_directory: {dir}/state
  runtime_directory: {dir}/run
  alias_file: {dir}/aliases.yml
  use_unix_socket: true
  unix_socket_path: {dir}/s
  pid_path: {dir}/pid
  shared_secret_path: {dir}/secret
"""
IGNORED = """.venv
.data/
5_worktrees/
6_runs/.lock
6_runs/.finishing
6_runs/*/*
!6_runs/*/receipt.json
!6_runs/*/request.json
__pycache__/
"""
IDEA = """---
question: Does {slug} help?
hypothesis: It does, because the number moves.
predicted_effect: -0.1
credence: 0.7
kill_rule: "no change over three seeds"
parent: baseline
papers: []
---
# {slug}
"""


# -- one lab and its machine --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    pid: int
    role: str  # run trainer sandbox scorer guard daemon command git pueue other


class Broken(Exception):
    """The driver itself, or the lab before any fault, does not work."""


class Scene:
    """One lab, its disk, its daemon, and the switches of its shim."""

    def __init__(self, base: Path, own_disk: bool):
        self.base, self.own_disk = base, own_disk
        self.control, self.disk, self.env_folder = base / "control", base / "disk", base / "env"
        self.root = self.disk / "lab"
        self.pueue = self.disk / "p"
        self.config = self.control / "pueue.yml"
        for folder in (self.control / "orders", self.control / "lines", self.disk, self.env_folder / "bin"):
            folder.mkdir(parents=True)
        self.clock = os.open(self.control / "clock", os.O_CREAT | os.O_RDWR, 0o666)
        if own_disk:
            self.must(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", str(self.disk)])
        for folder in (self.pueue / "run", self.disk / "tmp", self.disk / "locks"):
            folder.mkdir(parents=True)
        self.config.write_text(PUEUE.format(dir=self.pueue))
        self._environment()
        self.accepted: set[str] = set()  # runs that `lab queue` said it had queued
        self.tracebacks: list[str] = []
        self.refused: list[str] = []
        self.hung: list[str] = []
        self.mutex, self.looking, self.looked = threading.Lock(), threading.Lock(), 0.0
        self.found: list[Process] = []
        self.foreign: dict[int, float] = {}  # processes that are none of ours, and since when that is known

    def _environment(self) -> None:
        """An environment of its own, all links, whose `lab` goes through the shim; pueue starts that one too."""
        folder, real = self.env_folder, Path(sys.prefix)
        (folder / "pyvenv.cfg").write_bytes((real / "pyvenv.cfg").read_bytes())
        (folder / "lib").symlink_to(real / "lib")
        (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        for name in ("pueue", "pueued"):
            found = shutil.which(name) or shutil.which(Path(sys.executable).with_name(name))
            if found is None:
                raise Broken(f"{name} is not installed: ./just sets it up")
            (folder / "bin" / name).symlink_to(found)
        package = ROOT / "src" / "monolab"
        self.lab_program = folder / "bin" / "lab"
        self.lab_program.write_text(
            f"#!{folder}/bin/python\nimport sys\nfrom pathlib import Path\n\nsys.path[:0] = [{str(package.parent)!r}, {str(FILES)!r}]\nimport shim\n\n"
            f"shim.start(Path({str(self.control)!r}), Path({str(package)!r}))\nfrom monolab.cli import main\n\nmain()\n"
        )
        self.lab_program.chmod(0o755)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PUEUE_", "LAB_")) and name not in ("META_MODE", "PWD")
        }
        self.environ = kept | {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PUEUE_CONFIG_PATH": str(self.config),
            "LAB_LOCK_DIR": str(self.disk / "locks"),
            "LAB_DEVICE": "cpu",
            "LAB_AGENT": "chaos",
            "TMPDIR": str(self.disk / "tmp"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Chaos",
            "GIT_AUTHOR_EMAIL": "chaos@example.invalid",
            "GIT_COMMITTER_NAME": "Chaos",
            "GIT_COMMITTER_EMAIL": "chaos@example.invalid",
            "OMP_NUM_THREADS": "1",
        }
        os.environ.clear()
        os.environ.update(self.environ)  # the package is also used in this process, to look at the records
        tempfile.tempdir = None

    def must(self, command: list[str], cwd: Path | None = None) -> str:
        done = subprocess.run(command, cwd=cwd, env=getattr(self, "environ", None), capture_output=True, text=True, timeout=CALL_SECONDS)
        if done.returncode:
            raise Broken(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        """The lab, as a person would make it: files, commit, data, worktrees, a measured baseline."""
        for name in ("program.md", "train.py", "eval.py", "data.py"):
            self.root.mkdir(exist_ok=True)
            shutil.copy(FILES / name, self.root / name)
        template = ROOT / "9_reports" / "_TEMPLATE.md"
        texts = {
            ".gitignore": IGNORED,
            "RESEARCH_JOURNAL.md": "# Research journal\n\nNewest on top.\n",
            "meta_journal.md": "# Meta journal\n\nNewest on top.\n",
            "human_journal.md": "# Human journal\n\nNewest on top.\n",
            "0_docs/problem.md": "# Problem\n",
            "9_reports/_TEMPLATE.md": template.read_text(),
        } | {f"1_ideas/2026-01-02_{slug}.md": IDEA.format(slug=slug) for slug in IDEAS}
        for path, text in texts.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        self.must(["git", "init", "--quiet", "--initial-branch", "main"], self.root)
        self.must(["git", "add", "--all"], self.root)
        self.must(["git", "commit", "--quiet", "--message", "Start the lab"], self.root)
        self.must([str(self.lab_program), "data"], self.root)
        for slug, (option, value) in IDEAS.items():
            self.must([str(self.lab_program), "worktree", slug], self.root)
            tree = self.root / "5_worktrees" / slug
            old = f"{option}: {'int' if option == 'fails' else 'float'} = {DEFAULTS[option]}"
            text = (tree / "train.py").read_text()
            if old not in text:
                raise Broken(f"benchmarks/chaos/train.py has no `{old}`")
            (tree / "train.py").write_text(text.replace(old, old.replace(f"= {DEFAULTS[option]}", f"= {value}")))
            self.must(["git", "commit", "--quiet", "--all", "--message", f"exp({slug}): its change"], tree)
        self.must([str(self.lab_program), "baseline", "--seeds", "3"], self.root)

    def lab(self, *args: str, kill_after: float | None = None, order: dict | None = None) -> subprocess.CompletedProcess | None:
        """One `lab` command in the lab's root; None where it was killed, `kill_after` seconds after its start or by its `order`."""
        if order:
            (self.control / "orders" / f"{order['id']}.json").write_text(json.dumps(order))
        process = subprocess.Popen(
            [str(self.lab_program), *args], cwd=self.root, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            out, err = process.communicate(timeout=kill_after or CALL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            if kill_after is None:
                with self.mutex:
                    self.hung.append(" ".join(args))
            return None
        if process.returncode == -signal.SIGKILL:
            return None
        with self.mutex:
            if "Traceback (most recent call last)" in err:
                self.tracebacks.append(f"lab {args[0]}: {err.strip().splitlines()[-1]}")
            elif process.returncode:
                self.refused.append(f"lab {args[0]}: {_said(err.strip() or out)}")
            if args[0] in ("queue", "baseline") and process.returncode == 0:
                self.accepted |= set(json.loads(out))
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def processes(self, *roles: str) -> list[Process]:
        """What of this lab is alive, by what it is. Asked often by many at once: a look is not repeated within LOOK seconds."""
        with self.looking:
            if time.monotonic() - self.looked > LOOK:
                self.found, self.looked = self._look(), time.monotonic()
            return [process for process in self.found if not roles or process.role in roles]

    def _look(self) -> list[Process]:
        mine, root, now = f"PUEUE_CONFIG_PATH={self.config}".encode(), str(self.root), time.monotonic()
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
        self.foreign = {pid: since for pid, since in self.foreign.items() if pid in pids}
        found = []
        for pid in pids:
            if now - self.foreign.get(pid, now) > 3.0:  # by then it would have become what it is going to be
                continue
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if not words or not (any(root in word for word in words) or mine in Path(f"/proc/{pid}/environ").read_bytes()):
                    self.foreign.setdefault(pid, now)
                    continue
                role = _role(words, Path(f"/proc/{pid}/comm").read_text().strip())
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if role and state not in "ZX":
                found.append(Process(pid, role))
        return found

    def keep(self) -> None:
        """A copy of the lab's disk as it is now, beside it: the disk itself goes with this process."""
        shutil.copytree(self.disk, self.base / "kept", symlinks=True, ignore=shutil.ignore_patterns("s", "ballast"), ignore_dangling_symlinks=True)

    def end(self) -> None:
        """Kill all that belongs to the lab, and give back its disk."""
        end, quiet = time.monotonic() + 10, 0
        while quiet < 3 and time.monotonic() < end:  # several looks: one misses what is being started at that moment
            left = _strike(self.processes(), signal.SIGKILL)
            quiet = 0 if left else quiet + 1
            time.sleep(2 * LOOK)
        os.close(self.clock)
        if self.own_disk:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)


def _role(words: list[str], comm: str) -> str:
    program = Path(words[0]).name
    if comm == "lab-guard":
        return "guard"
    if program == "pueued":
        return "daemon"
    if program in ("bwrap", "sh") and "--unshare-pid" in words:
        return "sandbox"
    if program.startswith("python") and len(words) > 1:
        if words[1] in ("train.py", "eval.py"):
            return "trainer" if words[1] == "train.py" else "scorer"
        if words[1].endswith("/bin/lab"):
            return "run" if words[2:3] == ["run"] else "command"
        if words[1] == "-I":
            return "sandbox"  # on its way to the trainer
    return program if program in ("git", "pueue") else "other"


def _strike(found: list[Process], number: int, wait: float = 0.0) -> list[Process]:
    """Send a signal to these processes, `wait` seconds from now; those that it reached. (By pidfd: a pid may be another's by then.)"""
    held, hit = [], []
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            held.append((process, os.pidfd_open(process.pid)))
    time.sleep(wait)
    for process, fd in held:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
            hit.append(process)
        os.close(fd)
    return hit


# -- faults -------------------------------------------------------------------------------------------------------
# Each gets the scene and its own random numbers, does its harm, and returns what it did; "" where there was nothing to hit.


def kill(roles: tuple[str, ...], spread: float, scene: Scene, rng: random.Random) -> str:
    """Wait for a process of these roles, then up to `spread` seconds, then SIGKILL for it."""
    wait = rng.uniform(0, spread)
    end = time.monotonic() + SEARCH
    while not (found := scene.processes(*roles)):
        if time.monotonic() > end:
            return ""
        time.sleep(0.01)
    return ", ".join(f"{one.role} {one.pid}" for one in _strike(found if len(roles) > 1 else found[:1], signal.SIGKILL, wait))


def reboot(scene: Scene, rng: random.Random) -> str:
    """Everything at once, as when the power fails; socket and pid file stay."""
    time.sleep(rng.uniform(0, 0.5))
    hit = 0
    while left := scene.processes():
        hit += len(_strike(left, signal.SIGKILL))
        time.sleep(LOOK)
    return f"{hit} processes" if hit else ""


def stop(role: str, scene: Scene, rng: random.Random) -> str:
    """SIGSTOP, a moment, SIGCONT."""
    end = time.monotonic() + SEARCH
    while not (found := scene.processes(role)):
        if time.monotonic() > end:
            return ""
        time.sleep(0.01)
    pause = rng.uniform(0.1, 1.5)
    hit = _strike(found[:1], signal.SIGSTOP, rng.uniform(0, 0.3))
    if hit:
        _strike(hit, signal.SIGCONT, pause)
    return f"{role} {hit[0].pid} for {pause:.1f} s" if hit else ""


def disk_full(scene: Scene, rng: random.Random) -> str:
    """Fill the lab's disk up to a few kilobytes, for a moment."""
    ballast, pause, room = scene.disk / "ballast", rng.uniform(0.2, 1.5), rng.choice((0, 0, 1, 4096, 8192, 20000, 65536))
    free = os.statvfs(scene.disk).f_bavail * os.statvfs(scene.disk).f_frsize
    with contextlib.suppress(OSError), ballast.open("ab") as file:
        while free > room:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, max(free - room, 1))
            time.sleep(0.005)
            free = os.statvfs(scene.disk).f_bavail * os.statvfs(scene.disk).f_frsize
            if free <= 4096:
                break
    time.sleep(pause)
    ballast.unlink(missing_ok=True)
    return f"{room} bytes left for {pause:.1f} s"


def drop_socket(scene: Scene, rng: random.Random) -> str:
    """The daemon lives, and nobody finds it."""
    try:
        (scene.pueue / "s").unlink()
    except FileNotFoundError:
        return ""
    return "socket removed"


def stale_pid(scene: Scene, rng: random.Random) -> str:
    """The daemon is killed, and its pid goes to a process that is none of pueue's."""
    told = kill(("daemon",), 0.1, scene, rng)
    if told:
        with contextlib.suppress(OSError):
            (scene.pueue / "pid").write_text(str(os.getpid()))
    return told


def second_daemon(scene: Scene, rng: random.Random) -> str:
    """Two daemons over one state: what lay in the runtime folder was cleaned away, and somebody starts pueued by hand."""
    if not scene.processes("daemon"):
        return ""
    for name in ("s", "pid"):
        (scene.pueue / name).unlink(missing_ok=True)
    program = str(scene.env_folder / "bin" / "pueued")
    process = subprocess.Popen(
        [program], env=scene.environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    threading.Thread(target=process.wait, daemon=True).start()
    return f"pid {process.pid}"


def remove_temporaries(scene: Scene, rng: random.Random) -> str:
    """Whatever a cleaner of temporary files takes: TMPDIR, scratch folders, half-written files beside records."""
    found = [path for path in (scene.disk / "tmp").iterdir()]
    found += [path for path in scene.root.glob("6_runs/*/scratch")]
    found += [path for pattern in ("6_runs/.finishing", "6_runs/.*-*", "6_runs/*/.*-*", ".*-*") for path in scene.root.glob(pattern)]
    if not found:
        return ""
    chosen = rng.sample(found, rng.randint(1, len(found)))
    for path in chosen:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ", ".join(path.name for path in chosen[:6])


def truncate_results(scene: Scene, rng: random.Random) -> str:
    """results.tsv ends somewhere, as after a crash of the file system."""
    path = scene.root / "results.tsv"
    try:
        size = path.stat().st_size
        at = rng.randrange(size)
        os.truncate(path, at)
    except (OSError, ValueError):
        return ""
    return f"at byte {at} of {size}"


def move_clock(scene: Scene, rng: random.Random) -> str:
    """The wall clock jumps, for every process of the lab; it stays wrong until it jumps again."""
    by = rng.choice((-1, 1)) * rng.choice((0.5, 2.0, 30.0, 3600.0, 86400.0))
    os.pwrite(scene.clock, f"{by:<32}".encode(), 0)
    return f"off by {by:+g} s"


def remove_worktree(scene: Scene, rng: random.Random) -> str:
    """A worktree removed by hand. (It is made again after the round, as a person would.)"""
    slug = rng.choice(sorted(IDEAS))
    tree = scene.root / "5_worktrees" / slug
    if not tree.exists():
        return ""
    shutil.rmtree(tree, ignore_errors=True)
    return slug


def kill_command(scene: Scene, rng: random.Random) -> str:
    """`lab` commands that are killed half-way, at a random moment."""
    args = _command(scene, rng, rng.choice(sorted(_known_commands())))
    after = rng.uniform(0.05, 1.0)
    return f"lab {args[0]} after {after:.2f} s" if args and scene.lab(*args, kill_after=after) is None else ""


def line_of_run(lines: dict[str, list], scene: Scene, rng: random.Random) -> str:
    """The next run that pueue starts kills itself at a chosen line."""
    order = _order(lines, "run", rng)
    path = scene.control / "orders" / f"{order['id']}.json"
    path.write_text(json.dumps(order))
    end = time.monotonic() + 2 * SEARCH
    while not path.with_suffix(".fired").exists() and time.monotonic() < end:
        time.sleep(0.02)
    path.unlink(missing_ok=True)
    return f"run at {order['file']}:{order['line']} (hit {order['hit']})" if path.with_suffix(".fired").exists() else ""


def line_of_command(lines: dict[str, list], scene: Scene, rng: random.Random) -> str:
    """A `lab` command that kills itself at a chosen line."""
    name = rng.choice(sorted(set(lines) & _known_commands()))
    order, args = _order(lines, name, rng), _command(scene, rng, name)
    if not args:
        return ""
    path = scene.control / "orders" / f"{order['id']}.json"
    scene.lab(*args, order=order)
    path.unlink(missing_ok=True)
    return f"lab {name} at {order['file']}:{order['line']} (hit {order['hit']})" if path.with_suffix(".fired").exists() else ""


def _known_commands() -> set[str]:
    from monolab import cli

    return set(COMMANDS) & set(cli.COMMANDS)


def _command(scene: Scene, rng: random.Random, name: str) -> list[str]:
    runs = sorted(path.name for path in scene.root.glob("6_runs/*-s*"))
    slug, run = rng.choice(sorted(IDEAS)), rng.choice(runs[-4:]) if runs else ""
    args = [word.format(idea=slug, run=run) for word in COMMANDS[name]]
    return args + (["--json"] if name in ("queue", "baseline") else [])


def _order(lines: dict[str, list], command: str, rng: random.Random) -> dict:
    """Module by module, so that the small ones that write the records are hit as often as the large ones."""
    by_module: dict[str, list] = {}
    for file, line, hits in lines[command]:
        by_module.setdefault(file, []).append((line, hits))
    file = rng.choice(sorted(by_module))
    line, hits = rng.choice(by_module[file])
    return {"id": f"{rng.getrandbits(48):012x}", "command": command, "file": file, "line": line, "hit": rng.choice((1, 1, min(hits, 2)))}


Fault = Callable[[Scene, random.Random], str]
KINDS: dict[str, tuple[Fault, int, str]] = {  # name: what it does, its weight, in words
    "kill-run": (partial(kill, ("run",), 0.9), 3, "kill -9 of `lab run`, a run's supervisor"),
    "kill-trainer": (partial(kill, ("trainer",), 0.15), 2, "kill -9 of train.py, inside its sandbox"),
    "kill-sandbox": (partial(kill, ("sandbox",), 0.2), 1, "kill -9 of a process of the sandbox around train.py"),
    "kill-scorer": (partial(kill, ("scorer",), 0.06), 2, "kill -9 of eval.py"),
    "kill-guard": (partial(kill, ("guard",), 0.3), 1, "kill -9 of the guard that sweeps up after a killed supervisor"),
    "kill-run-and-guard": (partial(kill, ("run", "guard"), 0.5), 2, "kill -9 of both at once"),
    "kill-daemon": (partial(kill, ("daemon",), 1.0), 2, "kill -9 of pueued"),
    "kill-git": (partial(kill, ("git",), 0.02), 1, "kill -9 of a git process that a `lab` command waits for"),
    "kill-command": (kill_command, 2, "kill -9 of a `lab` command at a random moment"),
    "line-run": (line_of_run, 4, "kill -9 of `lab run` at a chosen line of the package"),
    "line-command": (line_of_command, 4, "kill -9 of a `lab` command at a chosen line of the package"),
    "reboot": (reboot, 1, "kill -9 of everything at once"),
    "stop-run": (partial(stop, "run"), 1, "SIGSTOP, then SIGCONT, of `lab run`"),
    "stop-daemon": (partial(stop, "daemon"), 1, "SIGSTOP, then SIGCONT, of pueued"),
    "disk-full": (disk_full, 2, "the disk with lab, queue, locks and temporary files is full for a moment"),
    "drop-socket": (drop_socket, 1, "the daemon's socket is removed"),
    "stale-pid": (stale_pid, 1, "kill -9 of pueued, and a pid file that names a living stranger"),
    "second-daemon": (second_daemon, 1, "socket and pid file removed, and a second pueued started over the same state"),
    "remove-temporaries": (remove_temporaries, 2, "temporary files removed: TMPDIR, scratch, .finishing, half-written records"),
    "truncate-results": (truncate_results, 2, "results.tsv cut at a random byte"),
    "move-clock": (move_clock, 2, "the wall clock of every `lab` process jumps by up to a day"),
    "remove-worktree": (remove_worktree, 1, "a worktree removed by hand"),
}


NO_RUNS = {"kill-daemon", "reboot", "stale-pid", "drop-socket", "second-daemon"}  # after which nothing runs until somebody asks for more
CALM = 0.6  # of the rounds go without them


# -- invariants ---------------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """What earlier checks of this lab saw, which must still be there."""

    entries: str = ""  # of the research journal
    ledgers: dict[str, bytes] = field(default_factory=dict)  # appended files
    receipts: dict[str, bytes] = field(default_factory=dict)
    beats: dict[str, tuple[float, float]] = field(default_factory=dict)  # run: first and last sign of life on the device


class Check:
    """The records of a quiet lab, read once, and every invariant over them; each returns what is wrong."""

    def __init__(self, scene: Scene, memory: Memory):
        from monolab.paths import Lab

        self.scene, self.memory, self.lab = scene, memory, Lab(scene.root)
        self.requests = {path.parent.name: json.loads(path.read_text()) for path in self.lab.runs.glob("*/request.json")}
        self.receipts = {path.parent.name: path.read_bytes() for path in self.lab.runs.glob("*/receipt.json")}
        signs = ("started.json", "swept.json", "train.log", "checkpoint")
        self.started = {path.parent.name for sign in signs for path in self.lab.runs.glob(f"*/{sign}")}

    def one_row(self) -> list[str]:
        from monolab import results

        rows = Counter(row.run_id for row in results.load(self.lab))
        wrong = [f"{run} has {count} rows" for run, count in rows.items() if count > 1]
        wrong += [f"{run} has a row and no receipt" for run in rows.keys() - self.receipts.keys()]
        wrong += [f"{run} was started and has no receipt" for run in sorted(self.started - self.receipts.keys())]
        return wrong + [f"{run} has a receipt and no row" for run in sorted(self.receipts.keys() - rows.keys())]

    def chain(self) -> list[str]:
        from monolab import results

        return results.audit(self.lab)

    def rebuild(self) -> list[str]:
        from monolab import results

        before = self.lab.results.read_bytes()
        results.rebuild(self.lab)
        return [] if self.lab.results.read_bytes() == before else ["lab rebuild gives other bytes"]

    def alone(self) -> list[str]:
        return [f"a {one.role} is alive, pid {one.pid}" for one in self.scene.processes() if one.role != "daemon"]

    def one_daemon(self) -> list[str]:
        daemons = self.scene.processes("daemon")
        return [f"{len(daemons)} daemons: {', '.join(str(one.pid) for one in daemons)}"] if len(daemons) > 1 else []

    def device_free(self) -> list[str]:
        from monolab import device

        held = device.holder(device.detect())
        return [] if held is None else [f"the device is held: {held}"]

    def one_at_a_time(self) -> list[str]:
        """Over the whole episode: the times at which train.py and eval.py of any two runs were alive do not overlap."""
        for folder in self.lab.runs.iterdir():
            times = _beats(folder / "checkpoint" / "beats.txt") + _beats(folder / "score-beats.txt")
            if times:
                self.memory.beats[folder.name] = (min(times), max(times))
        order = sorted((first, last, run) for run, (first, last) in self.memory.beats.items())
        return [
            f"{run} and {other} were on the device at once, for {(last - first) * 1e3:.0f} ms"
            for (_, last, run), (first, _, other) in itertools.pairwise(order)
            if first < last
        ]

    def append_only(self) -> list[str]:
        wrong = []
        _, _, entries = self.lab.journal.read_text().partition("\n## ")
        if self.memory.entries and not f"\n## {entries}".endswith(f"\n## {self.memory.entries}"):
            wrong.append("RESEARCH_JOURNAL.md: old entries are not what they were")
        self.memory.entries = entries or self.memory.entries
        for name in ("results.tsv", "6_runs/verdicts.jsonl", "meta_journal.md", "human_journal.md"):
            path = self.scene.root / name
            now, old = path.read_bytes() if path.exists() else b"", self.memory.ledgers.get(name, b"")
            if not now.startswith(old):
                wrong.append(f"{name}: what was there before is not what it was")
            self.memory.ledgers[name] = now
        return wrong

    def receipts_stay(self) -> list[str]:
        wrong = [f"{run}: its receipt changed or went away" for run, old in self.memory.receipts.items() if self.receipts.get(run) != old]
        self.memory.receipts |= self.receipts
        return wrong

    def none_lost(self) -> list[str]:
        wrong = [f"{run} was accepted by lab queue, and is gone" for run in sorted(self.scene.accepted - self.requests.keys())]
        endings = ("receipt.json", "cancelled.json", "refused.json")
        return wrong + [
            f"{run} was asked for and neither finished, nor cancelled, nor refused, and nothing is queued"
            for run in sorted(self.requests)
            if not any((self.lab.run(run) / name).exists() for name in endings)
        ]

    def none_twice(self) -> list[str]:
        wrong = []
        for run in self.requests:
            path = self.lab.run(run) / "checkpoint" / "beats.txt"
            starts = path.read_text(errors="replace").count("start") if path.exists() else 0
            if starts > 1:
                wrong.append(f"{run} was trained {starts} times")
        children = Counter(request.get("retry_of", "") for request in self.requests.values())
        wrong += [f"{run} was queued again {count} times" for run, count in children.items() if run and count > 1]
        for run in self.requests:
            chain = [run]
            while (before := self.requests.get(chain[-1], {}).get("retry_of", "")) and len(chain) < 20:
                chain.append(before)
            statuses = [json.loads(self.receipts[one])["status"] for one in chain[1:] if one in self.receipts]
            if statuses.count("interrupted") > 1:
                wrong.append(f"{run} is a third attempt after two interruptions: {' <- '.join(chain)}")
        return wrong

    def asked_again(self) -> list[str]:
        same = Counter(_question(request) for request in self.requests.values())
        return [
            f"{run} was interrupted, and nobody asked again"
            for run, text in self.receipts.items()
            if json.loads(text)["status"] == "interrupted"
            and not self.requests[run].get("retry_of")
            and same[_question(self.requests[run])] == 1
            and not (self.lab.run(run) / "stop.json").exists()  # somebody wanted its end
        ]

    def one_look(self) -> list[str]:
        path = self.lab.runs / "verdicts.jsonl"
        looks = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        keys = Counter(
            json.dumps([one["idea"], one["stage"], one["runs"], one["seeds"], one["gate"]["seeds"], one["gate"]["decision"]]) for one in looks
        )
        wrong = [f"one look was recorded {count} times: {key}" for key, count in keys.items() if count > 1]
        entries = Counter(
            (entry.partition("\n")[0].partition(" ")[2], tuple(re.findall(r"^- (?:Runs|Verdict)\b.*", entry, re.MULTILINE)))
            for entry in self.memory.entries.split("\n## ")
            if entry.strip()
        )
        return wrong + [f"the journal tells {count} times of {key[0]}" for key, count in entries.items() if count > 1]

    def code_kept(self) -> list[str]:
        refs = self.scene.must(["git", "for-each-ref", "--format=%(refname)", "refs/lab/runs"], self.scene.root).split()
        return [f"{run}: its code is pinned by no ref" for run in sorted(self.requests.keys() - {ref.rpartition("/")[2] for ref in refs})]

    def in_order(self) -> list[str]:
        """The lab is of use again: it answers, and it has a queue (whose daemon may just have been started for it)."""
        from monolab import dispatch, pueue
        from monolab.errors import LabError

        wrong = []
        try:
            group = dispatch.prepare()
            if (status := pueue.groups()[group].status) != "Running":
                wrong.append(f"the queue's group {group} is {status}")
        except LabError as error:
            wrong.append(f"there is no queue: {' '.join(str(error).split())}")
        for command in (("status", "--json"), ("results", "--json")):
            done = self.scene.lab(*command)
            if done is None or done.returncode:
                wrong.append(f"lab {' '.join(command)}: {_last(done)}")
        wrong += [f"lab {args} took more than {CALL_SECONDS:.0f} s" for args in self.scene.hung]
        return wrong


RECOVERS = "after at most a few reconciliations nothing is queued, nothing runs, and every run asked for is over"
INVARIANTS = {
    "one row": (Check.one_row, "every run that started has exactly one receipt and one row, and every row a receipt"),
    "chain": (Check.chain, "each row is its receipt's, and carries the hash of the row before"),
    "alone": (Check.alone, "nothing is queued, and no process of the lab but the daemon is alive"),
    "one daemon": (Check.one_daemon, "not two daemons over one state"),
    "device free": (Check.device_free, "nobody holds the device"),
    "one at a time": (Check.one_at_a_time, "no two runs were ever on the device at once"),
    "append only": (Check.append_only, "old entries of journal, table and verdicts are byte for byte what they were"),
    "receipts stay": (Check.receipts_stay, "a receipt, once there, does not change"),
    "none lost": (Check.none_lost, "every run asked for finished, was cancelled, or was refused"),
    "none twice": (Check.none_twice, "no run was trained twice, or queued again more often than the policy says"),
    "asked again": (Check.asked_again, "an interrupted run has a retry, or another run of the same code and seed stands for it"),
    "one look": (Check.one_look, "a look at the evidence is recorded once, and told once in the journal"),
    "code kept": (Check.code_kept, "the code of every run asked for is pinned by its ref"),
    "in order": (Check.in_order, "lab status and lab results work, a queue can be had and runs, and no command hung"),
    "rebuild": (Check.rebuild, "results.tsv made anew from the receipts is the same, byte for byte"),
}


def _question(request: dict) -> tuple:
    """What another run has to have in common with a run to stand for it."""
    return (*(request[name] for name in ("idea", "stage", "seed", "code_sha")), *request["args"])


def _beats(path: Path) -> list[float]:
    """Times of a file of beats; a last line that was cut off is none."""
    if not path.exists():
        return []
    whole = path.read_text(errors="replace").rpartition("\n")[0]
    return [float(line) for line in whole.splitlines() if re.fullmatch(r"\d+\.\d+", line)]


def _said(err: str) -> str:
    """What a refused command says, in one line: its error, without what it logged before."""
    return " ".join(err.rpartition("\nlab ")[2].split())[:160]


def _last(done: subprocess.CompletedProcess | None) -> str:
    if done is None:
        return "it was killed or hung"
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"exit {done.returncode}, {lines[-1] if lines else '(silent)'}"


# -- an episode ---------------------------------------------------------------------------------------------------


def tell(**event) -> None:
    """One line for the campaign that started this episode."""
    print(json.dumps(event), flush=True)


def episode(base: Path, seed: str, kinds: list[str], limit: int, lines: dict[str, list], own_disk: bool, keep: bool) -> None:
    """One lab through its rounds, up to `limit` faults; the first violation ends it, and what the lab looked like then is kept in `base`/kept."""
    rng, injected, memory = random.Random(seed), 0, Memory()
    scene = Scene(base, own_disk)
    try:
        scene.start()
        wrong, _, _ = recover(scene)
        if wrong:
            raise Broken(f"before any fault: {wrong}")
        if bad := check(scene, memory):
            raise Broken(f"before any fault: {bad}")
        for number in range(ROUNDS):
            if injected >= limit:
                break
            began = time.monotonic()
            faults = one_round(scene, rng, kinds, lines)
            injected += sum(bool(told) for _, _, told in faults)
            harmed = time.monotonic()
            not_recovered, reconciles, seconds = recover(scene)
            bad = [("recovers", not_recovered)] if not_recovered else check(scene, memory)
            tell(
                event="round",
                round=number,
                faults=[[kind, round(at, 2), told] for kind, at, told in faults],
                checked=0 if not_recovered else len(INVARIANTS),
                seconds=[round(harmed - began, 2), round(time.monotonic() - harmed, 2)],
                reconciles=reconciles,
                doctor=[round(one, 3) for one in seconds],
                runs=len(list(scene.root.glob("6_runs/*/receipt.json"))),
                statuses=dict(Counter(json.loads(path.read_text())["status"] for path in scene.root.glob("6_runs/*/receipt.json"))),
            )
            if bad:
                scene.keep()
                for name, what in bad:
                    tell(event="violation", round=number, invariant=name, what=what, kept=str(base / "kept"))
                break
        if keep and not (base / "kept").exists():
            scene.keep()
        tell(event="end", tracebacks=scene.tracebacks, refused=scene.refused)
    finally:
        scene.end()


def one_round(scene: Scene, rng: random.Random, kinds: list[str], lines: dict[str, list]) -> list[tuple[str, float, str]]:
    """Something is queued, then the faults come, and more work as long as they last. Returns (kind, when, what it did) of every fault."""
    if rng.random() < CALM and set(kinds) - NO_RUNS:  # else few runs would live long enough to be hit
        kinds = [kind for kind in kinds if kind not in NO_RUNS]
    weights = [KINDS[kind][1] for kind in kinds]
    plan = [(rng.choices(kinds, weights)[0], rng.uniform(0, SPAN), random.Random(rng.getrandbits(64))) for _ in range(rng.randint(4, 12))]
    asked = [(rng.choice(sorted(IDEAS)), rng.randint(1, 4), rng.random()) for _ in range(ASKED)]
    left, under_way = len(plan), threading.Event()

    def work() -> None:
        for count, (slug, seeds, dice) in enumerate(asked):
            while count and left and scene.processes("run"):
                time.sleep(0.05)
            if count and not left:
                return
            if dice < 0.3:
                scene.lab("baseline", "--seeds", str(seeds), "--json")
            else:
                scene.lab("queue", slug, f"Q: does {slug} help? H: expect -0.5 score, 70%", "--seeds", str(seeds), "--json")
            under_way.set()
            if dice > 0.85:
                waiting = sorted(path.parent.name for path in scene.root.glob("6_runs/*/request.json"))
                scene.lab("cancel", waiting[-1])

    def harm(kind: str, at: float, dice: random.Random) -> str:
        under_way.wait()
        time.sleep(at)
        does = KINDS[kind][0]
        try:
            return does(lines, scene, dice) if kind.startswith("line-") else does(scene, dice)
        finally:
            nonlocal left
            with scene.mutex:
                left -= 1

    with ThreadPoolExecutor(len(plan) + 1) as pool:
        working = pool.submit(work)
        working.add_done_callback(lambda _: under_way.set())
        told = [pool.submit(harm, *fault) for fault in plan]
        working.result()
        return [(kind, at, future.result()) for (kind, at, _), future in zip(plan, told, strict=True)]


def recover(scene: Scene) -> tuple[str, int, list[float]]:
    """What a person does, or the next command by itself: reconcile, wait. Returns what is wrong in the end, and how often and long it was reconciled."""
    seconds = []
    end = time.monotonic() + QUIET_SECONDS
    why = ""
    for slug in IDEAS:
        if not (scene.root / "5_worktrees" / slug).exists():
            scene.must(["git", "worktree", "prune"], scene.root)
            if (done := scene.lab("worktree", slug)) is None or done.returncode:
                return f"lab worktree {slug}: {_last(done)}", 0, []
    for count in range(1, RECONCILES + 1):
        began = time.monotonic()
        done = scene.lab(*(("doctor",) if "doctor" in _known_commands() else ("baseline", "--seeds", "1", "--json")))
        seconds.append(time.monotonic() - began)
        if done is None or "Traceback" in done.stderr:
            return f"reconciling: {_last(done)}", count, seconds
        for pids in re.findall(
            r"^  next: kill ([\d ]+)$", done.stdout, re.MULTILINE
        ):  # which of two daemons goes is left to a person, who does as told
            _strike([one for one in scene.processes("daemon") if str(one.pid) in pids.split()], signal.SIGTERM)
        why = _busy(scene)
        while why and time.monotonic() < end:
            time.sleep(0.1)
            before, why = why, _busy(scene)
            if why and why == before and not scene.processes("run", "command", "guard", "trainer", "scorer", "sandbox") and "waits" not in why:
                break  # nothing moves: it is for the next reconciliation
        if not why:
            return "", count, seconds
    return f"after {RECONCILES} reconciliations and {QUIET_SECONDS:.0f} s: {why}; {_last(done)}", RECONCILES, seconds


def _busy(scene: Scene) -> str:
    """What is still to come or alive; "" when the lab is quiet."""
    from monolab import backlog, pueue
    from monolab.errors import LabError
    from monolab.paths import Lab

    lab = Lab(scene.root)
    if alive := [one for one in scene.processes() if one.role != "daemon"]:
        return f"{alive[0].role} {alive[0].pid} is alive"
    if len(scene.processes("daemon")) > 1:
        return "two daemons are alive"
    try:
        if pueue.answers() and (left := backlog.unfinished(lab)):
            return f"{next(iter(left))} waits in the queue"
    except LabError as error:
        return f"pueue: {error.what}"
    undone = [path.parent.name for path in lab.runs.glob("*/request.json") if not backlog.over(lab, path.parent.name)]
    return f"nothing came of {undone[0]}" if undone else ""


def check(scene: Scene, memory: Memory) -> list[tuple[str, str]]:
    """(invariant, what is wrong) of every one that does not hold."""
    from monolab.errors import LabError

    bad = []
    now = Check(scene, memory)
    for name, (holds, _) in INVARIANTS.items():
        try:
            wrong = holds(now)
        except LabError as error:
            wrong = [" ".join(str(error).split())]
        bad += [(name, "; ".join(wrong[:5]))] if wrong else []
    return bad


def recorded(base: Path, own_disk: bool) -> dict[str, list]:
    """The lines that each command goes through where nothing fails: [file, line, times], by command."""
    scene = Scene(base, own_disk)
    try:
        scene.start()
        (scene.control / "record").touch()
        for name in ("baseline", "queue", "replicate", "eval", "status", "rebuild", "doctor"):
            if name in _known_commands():
                scene.lab(*_command(scene, random.Random(1), name))
        scene.lab("queue", "shift", "Q: does it help? H: expect -0.5 score, 70%", "--seeds", "3", "--json")
        scene.lab("cancel", max(path.parent.name for path in scene.root.glob("6_runs/*/request.json")))
        wrong, _, _ = recover(scene)
        if wrong:
            raise Broken(f"while the lines were recorded: {wrong}")
        found: dict[str, Counter] = {}
        for path in sorted((scene.control / "lines").glob("*.json")):
            for file, line, hits in json.loads(path.read_text()):
                if file in MODULES:
                    counts = found.setdefault(path.name.partition("-")[0], Counter())
                    counts[file, line] = max(counts[file, line], hits)
        return {command: [[file, line, hits] for (file, line), hits in sorted(counts.items())] for command, counts in found.items()}
    finally:
        scene.end()


# -- the campaign -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Campaign:
    faults: int = 100  # to inject; the episodes that run then are finished
    seed: int = 0
    episode: int | None = None  # this one alone, to replay a failure
    kinds: tuple[str, ...] = ()  # of faults; all when none is named
    lanes: int = 2  # episodes at once; one takes about a core
    out: Path | None = None  # the figures as JSON
    list: bool = False  # name the kinds, run nothing
    keep: bool = False  # the labs, also those without a violation
    inside: tuple[str, ...] = ()  # of the campaign's own processes


@dataclass
class Totals:
    injected: Counter = field(default_factory=Counter)
    missed: Counter = field(default_factory=Counter)  # found nothing to hit
    statuses: Counter = field(default_factory=Counter)
    violations: list[dict] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    tracebacks: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)  # what commands said that ended with 1
    places: set[str] = field(default_factory=set)
    doctor: list[float] = field(default_factory=list)
    reconciles: Counter = field(default_factory=Counter)
    episodes: int = 0
    rounds: int = 0
    checked: int = 0
    runs: int = 0


def disks() -> tuple[list[str], str]:
    """How to start a process that may mount a disk of its own, and why there is no way ("" where there is one)."""
    why = "there is no `unshare`"
    for prefix in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.suppress(FileNotFoundError):
            done = subprocess.run([*prefix, "mount", "-t", "tmpfs", "-o", "size=1m", "chaos", folder], capture_output=True, text=True)
            if not done.returncode:
                return prefix, ""
            why = done.stderr.strip() or f"{prefix} failed"
    return [], why


_stop = threading.Event()  # the campaign was told to end
_children: list[subprocess.Popen] = []


def _told_to_stop(number, frame) -> None:
    _stop.set()
    for child in _children:
        child.terminate()


def _leave(number, frame) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes while the lab is being ended must not leave half of it
    sys.exit(143)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGTERM))  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def inside(prefix: list[str], *words: str) -> Iterator[subprocess.Popen]:
    command = [*prefix, sys.executable, str(Path(__file__).resolve()), "--inside", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no lock
    _children.append(process)
    try:
        yield process
    finally:
        _children.remove(process)
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()


def campaign(given: Campaign) -> int:
    began = time.monotonic()
    kinds = sorted(given.kinds or KINDS)
    if unknown := set(kinds) - KINDS.keys():
        raise SystemExit(f"chaos.py: there is no kind {', '.join(sorted(unknown))}; --list names them")
    prefix, why = disks()
    if why:
        kinds = [kind for kind in kinds if kind != "disk-full"]
        print(f"no disk is filled: this machine lets no small one be mounted ({why})")
        if not kinds:
            raise SystemExit("chaos.py: nothing is left to do")
    from monolab import sandbox

    print(f"seed {given.seed}, {given.lanes} lane(s), isolation {sandbox.probe().name}, {len(kinds)} kinds of faults, {len(INVARIANTS)} invariants")
    print("clock: moved through a shim in every `lab` process (time, datetime, boot time), the machine's own is not touched", flush=True)
    # A short path: a socket's has at most 107 bytes.
    base = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp" if len(tempfile.gettempdir()) > 40 else None))
    totals, guard, lines = Totals(), threading.Lock(), {}
    try:
        if {"line-run", "line-command"} & set(kinds):
            lines = _recorded(prefix, base)
            kinds = [kind for kind in kinds if kind != "line-run" or "run" in lines]
            print(f"lines recorded: {', '.join(f'{command} {len(found)}' for command, found in sorted(lines.items()))}", flush=True)
        (base / "lines.json").write_text(json.dumps(lines))
        numbers = iter([given.episode] if given.episode is not None else range(10**9))

        def lane() -> None:
            while True:
                with guard:
                    left = given.faults - sum(totals.injected.values())
                    number = next(numbers, None)
                    if number is None or left <= 0 or len(totals.broken) >= 5 or _stop.is_set():
                        return
                _episode(given, prefix, base, number, kinds, left, totals, guard)

        lanes = 1 if given.episode is not None else max(1, given.lanes)
        with ThreadPoolExecutor(lanes) as pool:
            for ended in [pool.submit(lane) for _ in range(lanes)]:
                ended.result()
    finally:
        if totals.violations or totals.broken or given.keep:
            print(f"\nthe labs are left in {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    return _summary(given, totals, kinds, lines, time.monotonic() - began, why)


def _recorded(prefix: list[str], base: Path) -> dict[str, list]:
    with inside(prefix, "record", str(base / "record"), str(bool(prefix))) as process:
        out, err = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(f"chaos.py: no undisturbed run could be recorded: {err[-3000:]}")
    shutil.rmtree(base / "record", ignore_errors=True)
    return json.loads(out)


def _episode(given: Campaign, prefix: list[str], base: Path, number: int, kinds: list[str], left: int, totals: Totals, guard: threading.Lock) -> None:
    folder = base / f"{number}"
    replay = f"./just chaos --seed {given.seed} --episode {number}" + (f" --kinds {' '.join(given.kinds)}" if given.kinds else "")
    clean = True
    with inside(
        prefix,
        "episode",
        str(folder),
        f"{given.seed}/{number}",
        ",".join(kinds),
        str(left),
        str(base / "lines.json"),
        str(bool(prefix)),
        str(given.keep),
    ) as process:
        faults: list = []
        for text in process.stdout:
            event = json.loads(text)
            with guard:
                if event["event"] == "round":
                    faults = event["faults"]
                    _count(totals, number, event)
                elif event["event"] == "violation":
                    if clean:
                        print(f"VIOLATION in episode {number}, round {event['round']}. Its lab: {event['kept']}\n  again: {replay}")
                        for kind, at, told in faults:
                            print(f"  {at:5.2f} s {kind:<20} {told or '(nothing to hit)'}")
                    clean = False
                    totals.violations.append(event | {"episode": number, "faults": faults, "replay": replay})
                    print(f"  not so: {event['invariant']} ({INVARIANTS.get(event['invariant'], ('', RECOVERS))[1]}): {event['what']}", flush=True)
                elif event["event"] == "end":
                    for counts, texts in ((totals.tracebacks, event["tracebacks"]), (totals.refused, event["refused"])):
                        counts.update(re.sub(r"\d{8}T\S+|[0-9a-f]{6,}|\d+|/\S+", "#", one) for one in texts)
        error = process.stderr.read()
        code = process.wait()
    with guard:
        totals.episodes += 1
        if code and not _stop.is_set():
            clean = False
            totals.broken.append(f"episode {number}: {error[-2000:]}")
            print(f"episode {number} broke off: {error[-2000:]}", flush=True)
        for text, times in Counter(line for line in error.splitlines() if line).items() if not code else ():
            print(f"episode {number} says: {text}" + (f" ({times} times)" if times > 1 else ""), flush=True)
    if clean and not given.keep:
        shutil.rmtree(folder, ignore_errors=True)


def _count(totals: Totals, number: int, event: dict) -> None:
    for kind, _, told in event["faults"]:
        (totals.injected if told else totals.missed)[kind] += 1
        if kind.startswith("line-") and told:
            totals.places.add(told.partition(" at ")[2].partition(" ")[0])
    totals.rounds += 1
    totals.checked += event["checked"]
    totals.doctor += event["doctor"]
    totals.reconciles[event["reconciles"]] += 1
    told = ", ".join(sorted(kind for kind, _, did in event["faults"] if did))
    print(
        f"[{sum(totals.injected.values()):>5}] episode {number} round {event['round']}: {event['seconds'][0]:.1f} s + {event['seconds'][1]:.1f} s to recover, "
        f"{event['runs']} runs {event['statuses']}; {told}",
        flush=True,
    )


def _summary(given: Campaign, totals: Totals, kinds: list[str], lines: dict, wall: float, no_disk: str) -> int:
    total = sum(totals.injected.values())
    print("\nended before its time" if _stop.is_set() else "")
    print(f"{'fault':<20} {'injected':>8} {'nothing to hit':>15}")
    for kind in kinds:
        print(f"{kind:<20} {totals.injected[kind]:>8} {totals.missed[kind]:>15}")
    print(f"{total} faults in {totals.episodes} episodes and {totals.rounds} rounds, {wall:.0f} s wall clock ({total / wall * 60:.0f} a minute)")
    if lines:
        places = {(file, line) for found in lines.values() for file, line, _ in found}
        print(f"killed at {len(totals.places)} different lines of {len(places)} that change records or start something")
    print(f"reconciled: {sum(totals.doctor) / max(len(totals.doctor), 1):.2f} s in the mean, {max(totals.doctor, default=0):.2f} s at most; rounds by number of "
          f"reconciliations until quiet: {dict(sorted(totals.reconciles.items()))}")  # fmt: skip
    print(f"{len(INVARIANTS)} invariants, {totals.checked} checks of them; violations: {len(totals.violations)}")
    for words, counts in (("ended in a traceback", totals.tracebacks), ("refused", totals.refused)):
        for text, times in counts.most_common(10):
            print(f"  {words}, {times} time(s): {text[:200]}")
    for one in totals.violations:
        print(f"  episode {one['episode']}, {one['invariant']}: {one['what'][:200]}")
    for one in totals.broken:
        print(f"  broke off: {one[:300]}")
    if given.out:
        figures = {
            "seed": given.seed,
            "faults": total,
            "injected": dict(totals.injected),
            "nothing_to_hit": dict(totals.missed),
            "episodes": totals.episodes,
            "rounds": totals.rounds,
            "invariants": {name: words for name, (_, words) in INVARIANTS.items()},
            "checks": totals.checked,
            "lines_killed_at": len(totals.places),
            "violations": totals.violations,
            "broken": totals.broken,
            "tracebacks": dict(totals.tracebacks),
            "refused": dict(totals.refused),
            "reconcile_seconds": {"mean": sum(totals.doctor) / max(len(totals.doctor), 1), "most": max(totals.doctor, default=0.0)},
            "seconds": round(wall, 1),
            "no_disk": no_disk,
        }
        given.out.write_text(json.dumps(figures, indent=1) + "\n")
    return 2 if totals.broken else 1 if totals.violations else 0


def main(given: Campaign) -> int:
    if given.list:
        for name, (_, weight, words) in KINDS.items():
            print(f"{name:<20} {weight}  {words}")
        return 0
    if not given.inside:
        signal.signal(signal.SIGTERM, _told_to_stop)
        return campaign(given)
    signal.signal(signal.SIGTERM, _leave)
    from loguru import logger

    logger.remove()
    what, folder, *rest = given.inside
    if what == "record":
        print(json.dumps(recorded(Path(folder), rest[0] == "True")))
        return 0
    seed, kinds, left, lines, own_disk, keep = rest
    episode(Path(folder), seed, kinds.split(","), int(left), json.loads(Path(lines).read_text()), own_disk == "True", keep == "True")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Campaign)))

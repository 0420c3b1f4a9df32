"""What the benchmarks stand on: a queue, a device lock and an author of their own, and small labs made from a few texts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LAB = str(Path(sys.executable).with_name("lab"))
IGNORE = ".data/\n5_worktrees/\n6_runs/.lock\n6_runs/.finishing\n6_runs/*/*\n!6_runs/*/receipt.json\n!6_runs/*/request.json\n__pycache__/\n"
DATA = "import sys, pathlib\nfor s in ('train', 'val', 'test'):\n    p = pathlib.Path(sys.argv[1], s); p.mkdir(parents=True); (p / 'x').write_text('x')\n"


def configuration(folder: Path) -> str:
    """pueue's configuration for a daemon that keeps everything in `folder`."""
    places = {
        "pueue_directory": folder,
        "runtime_directory": folder,
        "alias_file": folder / "aliases.yml",
        "unix_socket_path": folder / "s",
        "pid_path": folder / "pid",
        "shared_secret_path": folder / "secret",
    }
    return "\n".join(["client: {}", "daemon: {}", "shared:", "  use_unix_socket: true", *(f"  {name}: {path}" for name, path in places.items()), ""])


@contextmanager
def machine(**settings: str) -> Iterator[Path]:
    """A new folder, and an environment in which pueue, the device's lock and git's author are its own; `settings` are added to it.

    Nothing of pueue's, git's and the lab's variables comes in from outside. At the end the tasks, the daemon and the folder are gone.
    """
    # Short: the path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ml-", dir="/tmp" if len(tempfile.gettempdir()) > 40 else None))
    (folder / "queue").mkdir()
    (folder / "pueue.yml").write_text(configuration(folder / "queue"))
    before, told = dict(os.environ), signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in [name for name in os.environ if name.startswith(("GIT_", "PUEUE_", "LAB_")) or name == "META_MODE"]:
        del os.environ[name]
    os.environ |= {"PUEUE_CONFIG_PATH": str(folder / "pueue.yml"), "LAB_DEVICE": "cpu", "LAB_LOCK_DIR": str(folder / "locks")}
    os.environ |= {f"GIT_{who}_{what}": "bench@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    os.environ |= settings
    try:
        yield folder
    finally:
        for command in (["kill", "--all"], ["shutdown"]):
            subprocess.run(["pueue", *command], capture_output=True)
        end = time.monotonic() + 10
        while subprocess.run(["pueue", "status"], capture_output=True).returncode == 0 and time.monotonic() < end:
            time.sleep(0.05)
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGTERM, told)
        shutil.rmtree(folder, ignore_errors=True)


def call(cwd: Path, *command: str) -> str:
    """What a command prints; the benchmark ends where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def until(done: Callable[[], object], seconds: float = 300.0, every: float = 0.01) -> None:
    """Ask until the answer is true; the benchmark ends where it is not within `seconds`."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"not done within {seconds:.0f} s: the benchmark stops")
        time.sleep(every)


def repository(folder: Path, files: dict[str, str]) -> Path:
    """A git repository with these files, committed."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    call(folder, "git", "init", "-q", "-b", "main")
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "start")
    return folder


def template() -> str:
    """The template of reports, which every lab has."""
    return (Path(__file__).resolve().parents[1] / "9_reports" / "_TEMPLATE.md").read_text()

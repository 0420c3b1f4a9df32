"""Shared fixtures: a private pueue daemon, a minimal real lab, and a clean environment for each test."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from monolab.paths import Lab

REPOSITORY = Path(__file__).resolve().parents[1]
OPTIONS = {
    "slow": "takes over a minute; run with --slow",
    "network": "fetches from a package registry; run with --network",
    "gpu": "needs an NVIDIA GPU; run with --gpu",
    "live": "asks a real service of papers; run with --live",
    "model": "builds and serves a real local model; run with --model",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, why in OPTIONS.items():
        parser.addoption(f"--{name}", action="store_true", help=f"also run the tests marked {name} ({why.partition(';')[0]})")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name, why in OPTIONS.items():
            if name in item.keywords and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=why))


def wait_until(predicate: Callable[[], object], timeout: float = 120.0) -> object:
    """Ask every 50 ms until the answer is true, and return it; fail after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (answer := predicate()):
        assert time.monotonic() < end, f"not within {timeout} s: {predicate}"
        time.sleep(0.05)
    return answer


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., object]:
    """`wait_until(predicate, timeout=120.0)`, for tests that do not import it."""
    return wait_until


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's daemon, device locks, git configuration, or meta mode."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "PUEUE_", "LAB_")) or name in ("META_MODE", "PWD"):
            monkeypatch.delenv(name)
    # A test that wants a daemon asks for `pueue_daemon`; for all others there is none, and none can be started.
    monkeypatch.setenv("PUEUE_CONFIG_PATH", str(tmp_path / "no-daemon.yml"))
    (tmp_path / "no-daemon.yml").write_text(_config(tmp_path / "no-daemon" / "missing"))
    monkeypatch.setenv("LAB_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.setenv("LAB_DEVICE", "cpu")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.invalid")


def _config(folder: Path) -> str:
    return f"""client: {{}}
daemon: {{}}
shared:
  pueue_directory: {folder}/state
  runtime_directory: {folder}/run
  alias_file: {folder}/aliases.yml
  use_unix_socket: true
  unix_socket_path: {folder}/s
  pid_path: {folder}/pid
  shared_secret_path: {folder}/secret
"""


@dataclass(frozen=True)
class Daemon:
    """A private pueue: its folder, and the environment that points clients at it."""

    folder: Path
    config: Path

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text())


@pytest.fixture
def pueue_home(isolated: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A private pueue whose daemon is not running yet. At the end its tasks and its daemon are, and stay, gone."""
    client = shutil.which("pueue")  # now: a test may change PATH
    if client is None or shutil.which("pueued") is None:
        pytest.fail("pueue is not installed: ./just sets it up")
    # The path of a unix socket must stay under some 100 bytes, and pytest's own folders are longer than that.
    folder = Path(tempfile.mkdtemp(prefix="ml-", dir="/tmp" if len(tempfile.gettempdir()) > 60 else None))
    (folder / "run").mkdir()
    config = folder / "pueue.yml"
    config.write_text(_config(folder))
    monkeypatch.setenv("PUEUE_CONFIG_PATH", str(config))
    daemon = Daemon(folder, config)
    try:
        yield daemon
    finally:
        _end_all(daemon, client)
        shutil.rmtree(folder)


def _end_all(daemon: Daemon, client: str) -> None:
    """Kill every process that knows this pueue: its daemon, tasks, and whatever tasks have left behind."""
    import psutil

    call = [client, "--config", str(daemon.config)]
    for command in (["kill", "--all"], ["shutdown"]):
        try:
            subprocess.run(call + command, capture_output=True, check=False, timeout=10)
        except subprocess.TimeoutExpired:  # a daemon that a test has stopped; killed below
            pass

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PUEUE_CONFIG_PATH") == str(daemon.config) and process.pid != os.getpid():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    for process in left():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    wait_until(lambda: not left())
    from monolab import pueue

    while pueue._ours:  # a daemon that was started from this process is its child: not to be left a zombie
        pueue._ours.pop().wait(60)


@pytest.fixture
def pueue_daemon(pueue_home: Daemon) -> Daemon:
    """A private pueue with its daemon running."""
    from monolab import pueue

    assert pueue.ensure_daemon()
    return pueue_home


# Its limits are far from what its runs take, here a second: a machine that stands still for 20 s ends none of them. A test of a limit sets its own.
PROGRAM = """---
metric: score
direction: lower
smallest_effect: 0.01
stages:
  smoke: {cpu: 30, gpu: 30}
  explore: {cpu: 60, gpu: 60}
  verify: {cpu: 120, gpu: 120}
window_seconds: {cpu: [0.01, 60], gpu: [0.01, 60]}
scorer: [eval.py]
grace_seconds: 1
score_seconds: 60
memory_gb: 1
implausible: 0
---
# Research program

Guess the number 1.0.

<!-- below this line every lab is the same -->
"""

TRAIN = '''"""Writes one number, 1 plus the offset plus a little that depends on the seed. Run: python train.py --seed 1 --out DIR"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Config:
    stage: str = "explore"
    seed: int = 0
    data: str = ".data/train"
    out: str = "checkpoint"
    offset: float = 0.0


def main() -> None:
    given = dict(zip((word.removeprefix("--") for word in sys.argv[1::2]), sys.argv[2::2], strict=True))
    known = {field.name: field.type for field in fields(Config)}
    config = Config(**{name: known[name](value) for name, value in given.items()})
    numbers = [float(line) for line in (Path(config.data) / "numbers.txt").read_text().split()]
    value = sum(numbers) / len(numbers) + config.offset + 0.001 * (config.seed % 7)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "value.txt").write_text(repr(value))
    print(f"value {value}")


if __name__ == "__main__":
    main()
'''

EVAL = '''"""The distance of the checkpoint's number from the held-out one. Run: python eval.py CHECKPOINT DATA OUT CODE"""

import json
import sys
from pathlib import Path

checkpoint, data, out, code = sys.argv[1:]
value = float((Path(checkpoint) / "value.txt").read_text())
if value != value:
    sys.exit(3)
target = float((Path(data) / "numbers.txt").read_text())
Path(out).write_text(json.dumps({"score": abs(value - target), "params": 1}))
'''

DATA = '''"""Three splits of made-up numbers. Run: python data.py OUT"""

import sys
from pathlib import Path

for split, numbers in {"train": "1.9\\n2.1\\n", "val": "1.0\\n", "test": "1.0\\n"}.items():
    folder = Path(sys.argv[1]) / split
    folder.mkdir(parents=True)
    (folder / "numbers.txt").write_text(numbers)
'''

IGNORED = """.venv
.data/
5_worktrees/
6_runs/.lock
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


def git(folder: Path, *arguments: str) -> str:
    """git's output, stripped; fails with its message."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


def commit(folder: Path, message: str = "Change") -> str:
    """Commit everything in `folder`; the commit's sha. (No hook of a lab runs in it.)"""
    git(folder, "add", "--all")
    git(folder, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def lab_repo(tmp_path: Path) -> Callable[..., Lab]:
    """`lab_repo(name="lab", **files)`: a minimal real lab, committed, its data not made yet.

    The baseline scores 1.0 (lower is better), `--offset -0.5` scores 0.5; the seed adds up to 0.006.
    `files` replaces or adds files by name: `lab_repo(**{"train.py": "..."})`.
    """

    def make(name: str = "lab", **files: str) -> Lab:
        root = tmp_path / name
        root.mkdir()
        content = {
            "program.md": PROGRAM,
            "train.py": TRAIN,
            "eval.py": EVAL,
            "data.py": DATA,
            ".gitignore": IGNORED,
            "RESEARCH_JOURNAL.md": "# Research journal\n\nNewest on top.\n",
            "meta_journal.md": "# Meta journal\n\nNewest on top.\n",
            "human_journal.md": "# Human journal\n\nNewest on top.\n",
            "0_docs/problem.md": "# Problem\n",
            "1_ideas/2026-01-02_lower.md": IDEA.format(slug="lower"),
            "1_ideas/2026-01-03_higher.md": IDEA.format(slug="higher"),
            "9_reports/_TEMPLATE.md": (REPOSITORY / "9_reports" / "_TEMPLATE.md").read_text(),
        } | files
        for path, text in content.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        git(root, "init", "--quiet", "--initial-branch", "main")
        commit(root, "Start the lab")
        return Lab(root)

    return make

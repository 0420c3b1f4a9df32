"""`lab` commands without Python's start and imports, which are half of what a short command takes: a process that has imported the package forks for each.

What runs is a process of its own, with the environment, folder, processors and arguments that it is given, as the `lab` of the environment would. A test of how `lab`
starts, of several at once, or of one that is killed, starts the real one.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

LAB = str(Path(sys.executable).with_name("lab"))
_serving: list[subprocess.Popen] = []  # of this process; ends when its standard input does


def lab(cwd: Path, *args: str, given: str = "", env: dict[str, str] | None = None, timeout: float = 120.0) -> subprocess.CompletedProcess:
    """`lab ARGS` in `cwd`, to its end, with `given` on standard input and `env` besides the environment of now.

    Raises subprocess.TimeoutExpired, having killed it, after `timeout` seconds.
    """
    if not _serving or _serving[0].poll() is not None:  # a test may have ended it between two commands; within one, that command fails
        _serving.clear()
        plain = {name: value for name, value in os.environ.items() if name != "PUEUE_CONFIG_PATH"}  # it outlives the test, whose daemon's it is not
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        _serving.append(subprocess.Popen([sys.executable, "-P", __file__], env=plain, text=True, **pipes))
    (server,) = _serving
    with tempfile.TemporaryDirectory() as folder:
        ins, out, err = (Path(folder, name) for name in ("in", "out", "err"))
        ins.write_text(given)
        asked = {"args": args, "cwd": str(cwd), "env": os.environ | (env or {}), "cores": list(os.sched_getaffinity(0))}
        asked |= {"files": [str(ins), str(out), str(err)], "timeout": timeout}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        if answer == "late\n":
            raise subprocess.TimeoutExpired([LAB, *args], timeout, out.read_text(), err.read_text())
        assert answer.strip().removeprefix("-").isdigit(), answer + server.communicate()[0]
        return subprocess.CompletedProcess([LAB, *args], int(answer), out.read_text(), err.read_text())


def _serve() -> None:
    """One request a line on standard input, one answer a line: the exit code as `subprocess` gives it, or `late`."""
    for name in (
        "git",
        "tyro",
        "scipy.special",
        *(f"monolab.{part}" for part in ("cli", "controls", "explain", "ideas", "report", "smoke", "status")),
    ):
        importlib.import_module(name)  # what most commands need
    answers = os.fdopen(os.dup(1), "w")  # closed in what a command starts
    while line := sys.stdin.readline():
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(asked)
            sys.exit(sys.modules["monolab.cli"].main())
        end = os.pidfd_open(pid)
        ended, _, _ = select.select([end], [], [], asked["timeout"])
        os.close(end)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n" if ended else "late\n")
        answers.flush()


def _become(asked: dict) -> None:
    """The process that `asked` tells of, but for its program."""
    os.sched_setaffinity(0, asked["cores"])
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    for number, path in enumerate(asked["files"]):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = open(0)  # noqa: SIM115
    sys.argv = [LAB, *asked["args"]]


if __name__ == "__main__":
    _serve()

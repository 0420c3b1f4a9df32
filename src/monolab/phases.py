"""The two processes of a run, training and scoring: their environment, sandbox and limits, and what becomes of what they leave."""

import json
import math
import shutil
import signal
import sys
import time
from pathlib import Path

from loguru import logger

from monolab import device, filesystem, keys, monitor, sandbox, snapshot, supervise, validity
from monolab.errors import LabError
from monolab.paths import NOT_CODE, Lab
from monolab.problem import Problem
from monolab.supervise import Limits, Outcome

PROGRESS = "progress.json"  # what train.py says of its progress, beside its model
PROBE = "probe.py"  # of the lab's root: what a candidate must hold, as this problem sees it
AGAIN = (5.0, 30.0)  # seconds after which a scorer that could not have the device tries once more
REFUSED = 3  # the scorer's exit code for a candidate that breaks the rules


def trained_files(checkpoint: Path) -> list[Path]:
    """What `checkpoint_sha` is over: every file but what train.py says of its progress, which no scorer sees."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / PROGRESS)


def train(
    lab: Lab,
    folder: Path,
    machine: device.Device,
    problem: Problem,
    stage: str,
    seed: int,
    args: tuple[str, ...],
    held: int | None = None,
    watch: validity.Watch | None = None,
    tells: bool = False,
) -> Outcome:
    """Run the candidate's train.py in `folder/code`, which leaves its model in `folder/checkpoint`; isolated where this machine can.

    One that shows it will not come to anything is ended early. `tells`: whether runs of this lab are known to keep progress.json.
    """
    data, scratch = lab.data / "train", folder / "scratch" / "train"
    env = child_env(scratch, machine, stage)
    command = [sys.executable, "train.py", "--stage", stage, "--seed", str(seed), "--data", str(data), "--out", str(folder / "checkpoint"), *args]
    seconds = problem.stage(stage).seconds(machine.kind)
    crowded = (lambda: watch.crowded(problem.validity.others_cpu)) if watch else (lambda: False)
    early = monitor.Monitor(folder / "checkpoint" / PROGRESS, seconds, tells=tells, crowded=crowded)

    def observe(seen: list[supervise.Process]) -> tuple[str, str] | None:
        if watch:
            watch.look(seen)
        return early.look()

    with filesystem.temporary() as temporary:
        return supervise.run(
            sandbox.command(
                command,
                cwd=folder / "code",
                read_only=[folder / "code", data],
                writable=[scratch, temporary, folder / "checkpoint"],
                hidden=hidden(lab),
                gpu=machine.kind == "gpu",
            ),
            cwd=folder / "code",
            env=env | {"TMPDIR": str(temporary)},
            log=folder / "train.log",
            limits=limits(problem, machine, seconds),
            echo=sys.stdout.buffer,
            keep_fds=() if held is None else (held,),
            gpu=machine.index,
            observe=observe,
        )


def hidden(lab: Lab) -> list[Path]:
    """What no candidate may see, whatever it needs."""
    return [lab.root, lab.data / "val", lab.data / "test", Path.home()]


def score(
    lab: Lab,
    folder: Path,
    machine: device.Device,
    problem: Problem,
    stage: str,
    held: int | None = None,
    *,
    split: str = "val",
    watch: validity.Watch | None = None,
) -> tuple[Outcome, dict | str]:
    """Run the scorer in `folder/scorer` on `folder/checkpoint` and a split of the data; returns its outcome and the metrics, or why they are not usable.

    The scorer sees the held-out data. A process of the candidate that it starts must not: LAB_SANDBOX holds the words to start it with. What is not in
    `checkpoint_sha`, progress.json, is moved into `folder` first: a model must not keep any of itself there. Where the device could not be had, the
    same checkpoint is scored again after a while. That rolls nothing a second time, so the words of the log are enough, though a candidate may have
    written them.
    """
    if (folder / "checkpoint" / PROGRESS).is_file():
        (folder / "checkpoint" / PROGRESS).replace(folder / PROGRESS)
    for wait in (*AGAIN, None):
        outcome, metrics = _score(lab, folder, machine, problem, stage, held, split, watch)
        if (
            wait is None
            or outcome.status != "crash"
            or machine.kind != "gpu"
            or not any(said.search(outcome.tail) for said in (supervise.DRIVER_DOWN, supervise.DEVICE_BUSY))
        ):
            break
        logger.warning(f"the scorer could not have {machine.name} ({last_line(outcome.tail)}): it tries again in {wait:.0f} s")
        time.sleep(wait)
    return outcome, metrics


def _score(
    lab: Lab,
    folder: Path,
    machine: device.Device,
    problem: Problem,
    stage: str,
    held: int | None,
    split: str,
    watch: validity.Watch | None,
) -> tuple[Outcome, dict | str]:
    out, code, checkpoint = folder / ("metrics.json" if split == "val" else f"metrics.{split}.json"), folder / "code", folder / "checkpoint"
    served = sandbox.command([], cwd=code, read_only=[code, checkpoint], hidden=hidden(lab), gpu=machine.kind == "gpu")
    outcome = supervise.run(
        [sys.executable, "eval.py", str(checkpoint), str(lab.data / split), str(out), str(code)],
        cwd=folder / "scorer",
        env=child_env(folder / "scratch" / "score", machine, stage) | {"LAB_SANDBOX": json.dumps(served)},
        log=folder / "score.log",
        limits=limits(problem, machine, problem.score_seconds),
        echo=sys.stdout.buffer,
        keep_fds=() if held is None else (held,),
        gpu=machine.index,
        observe=watch and watch.look,
    )
    return outcome, _metrics(out, problem.metric) if outcome.status == "ok" else ""


def _metrics(path: Path, metric: str) -> dict | str:
    try:
        metrics = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return f"the scorer wrote no readable numbers: {error}"
    if not isinstance(metrics, dict):
        return "the scorer wrote no flat JSON object"
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"the scorer's {name} is {value!r}, not a finite number"
    return metrics if metric in metrics else f"the scorer wrote no {metric}"


def limits(problem: Problem, machine: device.Device, seconds: float) -> Limits:
    memory = problem.memory_gb if machine.kind == "cpu" else None
    return Limits(seconds=seconds, grace_seconds=problem.grace_seconds, memory_gb=memory, log_mb=problem.log_mb)


def why(outcome: Outcome, who: str, seconds: float, memory_gb: float) -> str:
    if outcome.halted:
        return f"{who} was ended: {outcome.halted}"
    if outcome.status == "timeout":
        return f"{who} was still running after {seconds:g} s"
    if outcome.status == "oom":
        return f"{who} ran out of memory (peak {outcome.peak_gb:.2f} GiB, limit {memory_gb:g})"
    if outcome.status == "killed":
        return f"{who} was stopped by a signal to the run"
    number = -outcome.returncode if outcome.returncode < 0 else outcome.returncode - 128  # a sandbox reports a signal as a shell does
    ended = f"was ended by {signal.Signals(number).name}" if number in set(signal.Signals) else f"ended with exit code {outcome.returncode}"
    return f"{who} {ended}: {last_line(outcome.tail)}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "(no output)"


def child_env(scratch: Path, machine: device.Device, stage: str) -> dict[str, str]:
    """The whole environment of a child: nothing of the user's but the way to the programs and the device."""
    for folder in (scratch / "home", scratch / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    env = keys.environment(keys.FOR_CANDIDATES)
    env |= {
        "HOME": str(scratch / "home"),
        "TMPDIR": str(scratch / "tmp"),
        "LAB_STAGE": stage,
        "LAB_DEVICE": "cpu" if machine.kind == "cpu" else "cuda",
        "CUDA_VISIBLE_DEVICES": "" if machine.kind == "cpu" else machine.uid,  # no other device than the locked one
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    # Two default OpenMP threads are slower than one on a shared machine, and their sums differ from run to run.
    return env | ({"OMP_NUM_THREADS": "1"} if machine.kind == "cpu" else {})


class Unjudged(LabError):
    """probe.py had no time, or was stopped: that says nothing of the code, which a busy machine makes slow too."""


def probe(lab: Lab, folder: Path, machine: device.Device, problem: Problem, args: tuple[str, ...]) -> list[dict]:
    """Run the probe.py that main has committed on `folder/code`, sandboxed, with main's own code as the base. All its findings; none where there is no probe.py.

    Raises Unjudged when it does not end in time, and LabError when probe.py itself fails.
    """
    if not (lab.root / PROBE).is_file():
        return []
    snapshot.export(lab, "HEAD", folder / "probe", (PROBE,))
    snapshot.export(lab, "HEAD", folder / "base")  # with the modules that train.py imports, and, as in `code`, without the lab's own files
    for name in NOT_CODE:
        own = folder / "base" / name
        shutil.rmtree(own) if own.is_dir() and not own.is_symlink() else own.unlink(missing_ok=True)
    scratch, limit = folder / "scratch" / "probe", problem.stage("smoke").seconds("cpu")
    env, out = child_env(scratch, machine, "smoke"), scratch / "probe.json"
    code, base, program = folder / "code", folder / "base", folder / "probe"
    outcome = supervise.run(
        sandbox.command(
            [sys.executable, str(program / PROBE), str(code), str(out), "--base", str(base), *args],
            cwd=code,
            read_only=[code, base, program],
            writable=[scratch],
            hidden=hidden(lab),
        ),
        cwd=code,
        env=env,
        log=folder / "probe.log",
        limits=limits(problem, machine, limit),
        echo=sys.stdout.buffer,
    )
    if outcome.status in ("timeout", "killed"):
        raise Unjudged(why(outcome, PROBE, limit, problem.memory_gb), hint="once more, when the machine is less busy; or the code does not end")
    if outcome.status != "ok":
        raise LabError(why(outcome, PROBE, limit, problem.memory_gb), hint="the log is above")
    found = monitor.read(out)  # the candidate's code ran in that process: what lies there may be anything
    known = {"check", "ok", "where", "what"}
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and known <= one.keys() for one in found):
        raise LabError(f"{PROBE} left no findings", hint="the log is above")
    return found

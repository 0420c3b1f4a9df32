"""One run: preflight, device lock, a checkout of the snapshot, train, the frozen scorer, receipt, row."""

import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
from loguru import logger

from monolab import backlog, conditions, dataset, device, guard, receipts, results, sandbox, settle, snapshot, supervise
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request, now
from monolab.supervise import Limits, Outcome

REFUSED = 3  # the scorer's exit code for a candidate that breaks the rules
TAIL = 4000  # characters of a failed run's log in its receipt
FACTS = ("eval_sha", "data_sha", "env_sha", "hardware", "isolation")
PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME")


def preflight(lab: Lab, problem: Problem, request: Request) -> list[str]:
    """What must hold before a run may start. Returns flags for its receipt; raises LabError naming the fix."""
    problem.stage(request.stage)
    if problem.require_sandbox and sandbox.probe().kind == "none":
        raise LabError(f"program.md requires a sandbox, and there is none: {sandbox.probe().reason}", hint="apt install bubblewrap")
    wrong, flags = guard.run_start(lab, problem, request.commit)
    if wrong:
        raise LabError("; ".join(wrong), hint="git checkout -- FILE, or META_MODE=1 and a commit if you are the human and mean it")
    dataset.data_sha(lab)
    results.load(lab)
    results.require_whole(lab)
    free = shutil.disk_usage(lab.runs if lab.runs.exists() else lab.root).free / 2**30
    if free < problem.disk_gb:
        raise LabError(
            f"{free:.2f} GiB free on the disk of {lab.runs}, a run needs {problem.disk_gb:g}",
            hint="free some space; 6_runs/*/checkpoint may be removed",
        )
    return flags


def sweep(lab: Lab) -> list[Receipt]:
    """Give every run whose process is gone (killed with -9, a reboot) its row, with the status `interrupted`.

    Called by every command that starts something. Their checkpoints and logs stay where they are.
    """
    swept = []
    for path in sorted(lab.runs.glob("*/started.json")):
        folder = path.parent
        if backlog.over(lab, folder.name) or backlog.alive(lab, folder.name) is not None:
            continue
        mine = folder / "swept.json"
        try:
            path.rename(mine)  # one of several that sweep at once gets it
        except FileNotFoundError:
            continue
        told, log = json.loads(mine.read_text()), folder / "train.log"
        tail = log.read_text(errors="replace")[-TAIL:] if log.exists() else ""
        measured = {"status": "interrupted", "reason": "the process that ran it is gone, without having written a receipt", "log_tail": tail}
        request = receipts.request(lab, folder.name)
        swept.append(_finish(lab, problems.load(lab), request, told["time"], 0.0, {name: told[name] for name in FACTS} | measured, []))
        logger.warning(f"{request.run_id}: interrupted; queue it again if you want its number")
    return swept


class Stopped(Exception):
    """The run was told to end while no child was running."""


@contextmanager
def _stops() -> Iterator[Callable[[], None]]:
    """From here on the first stop signal becomes `Stopped`, and later ones are ignored; so are all, once the yielded function was called.

    While a child is supervised, `supervise` takes the signals.
    """
    armed = True

    def stop(number, frame):
        nonlocal armed
        if armed:
            armed = False
            raise Stopped

    def disarm() -> None:
        nonlocal armed
        armed = False

    before = {number: signal.signal(number, stop) for number in supervise.STOPS}
    try:
        yield disarm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(lab: Lab, request: Request) -> Receipt:
    """Carry out a request, settle what it completes, and return its receipt, whatever the candidate does.

    Raises LabError, having written neither receipt nor row, when the run may not start; the reason is then kept in
    the run's folder as `refused.json`.
    """
    sweep(lab)
    if receipts.receipt(lab, request.run_id) is not None:
        raise LabError(f"{request.run_id} is finished already", hint=f"lab queue {request.idea}, for a new run")
    folder = lab.run(request.run_id)
    try:
        problem = problems.load(lab)
        preflight(lab, problem, request)
        machine = device.detect()
        if strangers := device.foreign_processes(machine):
            logger.warning(f"{machine.name} is also used by: {'; '.join(strangers)}")
        with _stops() as disarm:
            _tell(folder / "waiting.json")
            with device.lock(machine, logger.info, run=request.run_id, lab=str(lab.root)) as held:
                flags = preflight(lab, problem, request)  # again: it may have waited for hours
                receipt = _locked(lab, problem, request, machine, held, flags, disarm)
            settle.settle(lab, request.run_id)
            return receipt
    except (LabError, Stopped) as error:
        if not (folder / "receipt.json").exists():
            told = {"time": now()} | ({"what": error.what, "hint": error.hint} if isinstance(error, LabError) else {})
            receipts.write_atomic(folder / ("refused.json" if isinstance(error, LabError) else "cancelled.json"), json.dumps(told))
        try:
            settle.settle(lab, request.run_id)  # it may have been the last one that its experiment waited for
        except LabError as other:
            logger.error(f"settling failed: {other}")
        if isinstance(error, Stopped):
            raise LabError(f"{request.run_id} was stopped before it had started", hint=f"just queue {request.idea}") from error
        raise
    finally:
        (folder / "waiting.json").unlink(missing_ok=True)


def _tell(path: Path, **more) -> None:
    """Say which process this is, so that others can tell whether it is still there."""
    me = psutil.Process()
    receipts.write_atomic(path, json.dumps({"time": now(), "pid": me.pid, "created": me.create_time()} | more))


def _locked(lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, flags: list[str], disarm: Callable[[], None]) -> Receipt:
    folder = lab.run(request.run_id)
    started, clock = now(), time.monotonic()
    logger.info(f"{request.run_id}: {request.stage} on {machine.hardware}, at most {problem.stage(request.stage).seconds(machine.kind):.0f} s")
    logger.info(f"label: {request.label or '(none)'}")
    facts = {
        "eval_sha": conditions.export_scorer(lab, problem, folder / "scorer"),
        "data_sha": dataset.data_sha(lab),
        "env_sha": conditions.environment_sha(),
        "hardware": machine.hardware,
        "isolation": sandbox.probe().name,
    }
    _tell(folder / "started.json", **facts)
    try:
        snapshot.export(lab, request.code_sha, folder / "code")
        measured = _measure(lab, problem, request, machine, held)
        disarm()
    except Stopped:
        measured = {"status": "killed", "reason": "stopped by a signal"}
    disarm()
    for scratch in ("code", "scorer", "scratch"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
    receipt = _finish(lab, problem, request, started, round(time.monotonic() - clock, 2), facts | measured, flags)
    told = f"{problem.metric} {receipt.value:g}" if receipt.value is not None else receipt.reason
    logger.info(f"{request.run_id}: {receipt.status}, {told} ({receipt.seconds:.1f} s)")
    return receipt


def _finish(lab: Lab, problem: Problem, request: Request, started: str, seconds: float, measured: dict, flags: list[str]) -> Receipt:
    """Receipt and row of a run. What was not measured stays empty, never 0."""
    empty = {"value": None, "metrics": {}, "reason": "", "train_seconds": 0.0, "score_seconds": 0.0}
    empty |= {"peak_gb": None, "params": None, "checkpoint_sha": "", "log_tail": ""}
    values = empty | measured
    values["flags"] = (*request.flags, *flags, *values.pop("new_flags", ()))

    def complete(prev: str) -> Receipt:
        return Receipt(**asdict(request) | values, metric=problem.metric, started=started, finished=now(), seconds=seconds, prev=prev)

    receipt = results.finish(lab, complete)
    (lab.run(request.run_id) / "started.json").unlink(missing_ok=True)
    return receipt


def _measure(lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int) -> dict:
    """Train, then score. Returns the receipt's measured fields; a failure becomes data here and nowhere else."""
    folder = lab.run(request.run_id)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    limit = problem.stage(request.stage).seconds(machine.kind)
    trained = train(lab, folder, machine, problem, request.stage, request.seed, request.args, held)
    measured = {
        "status": trained.status,
        "train_seconds": round(trained.seconds, 2),
        "peak_gb": round(trained.peak_gb, 3),
        "new_flags": tuple(
            flag for flag, raised in ((f"left-behind:{trained.left_behind}", trained.left_behind), ("log-cut", trained.log_truncated)) if raised
        ),
    }
    if trained.status != "ok":
        return measured | {"reason": _why(trained, "train.py", limit, problem.memory_gb), "log_tail": trained.tail[-TAIL:]}
    if strange := next((path for path in checkpoint.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())), None):
        why = f"the checkpoint holds {strange.name}, which is a link or no file: what it leads to was not trained here"
        return measured | {"status": "invalid", "reason": why, "log_tail": trained.tail[-TAIL:]}
    files = trained_files(checkpoint)
    if not files:
        return measured | {"status": "crash", "reason": "train.py ended without writing a checkpoint", "log_tail": trained.tail[-TAIL:]}
    measured["checkpoint_sha"] = conditions.files_sha(checkpoint, files)

    scored, metrics = score(lab, folder, machine, problem, request.stage, held)
    measured["score_seconds"] = round(scored.seconds, 2)
    if scored.status == "crash" and scored.returncode == REFUSED:
        return measured | {"status": "invalid", "reason": f"refused by the scorer: {_last_line(scored.tail)}", "log_tail": scored.tail[-TAIL:]}
    if scored.status != "ok":
        return measured | {
            "status": scored.status,
            "reason": _why(scored, "the scorer", problem.score_seconds, problem.memory_gb),
            "log_tail": scored.tail[-TAIL:],
        }
    if isinstance(metrics, str):
        return measured | {"status": "invalid", "reason": metrics, "log_tail": scored.tail[-TAIL:]}
    params = metrics.get("params")
    return measured | {"value": metrics[problem.metric], "metrics": metrics, "params": None if params is None else int(params), "reason": ""}


def trained_files(checkpoint: Path) -> list[Path]:
    """What `checkpoint_sha` is over: every file but what train.py says of its progress."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != "progress.json")


def train(
    lab: Lab, folder: Path, machine: device.Device, problem: Problem, stage: str, seed: int, args: tuple[str, ...], held: int | None = None
) -> Outcome:
    """Run the candidate's train.py in `folder/code`, which leaves its model in `folder/checkpoint`; isolated where this machine can."""
    data, scratch = lab.data / "train", folder / "scratch" / "train"
    env = child_env(scratch, machine, stage)
    command = [sys.executable, "train.py", "--stage", stage, "--seed", str(seed), "--data", str(data), "--out", str(folder / "checkpoint"), *args]
    # A short path for temporary files: the sockets of a data loader's workers lie there, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as temporary:
        return supervise.run(
            sandbox.command(
                command,
                cwd=folder / "code",
                read_only=[folder / "code", data],
                writable=[scratch, Path(temporary), folder / "checkpoint"],
                hidden=_hidden(lab),
                gpu=machine.kind == "gpu",
            ),
            cwd=folder / "code",
            env=env | {"TMPDIR": temporary},
            log=folder / "train.log",
            limits=_limits(problem, machine, problem.stage(stage).seconds(machine.kind)),
            echo=sys.stdout.buffer,
            keep_fds=() if held is None else (held,),
            gpu=machine.index,
        )


def _hidden(lab: Lab) -> list[Path]:
    """What no candidate may see, whatever it needs."""
    return [lab.root, lab.data / "val", lab.data / "test", Path.home()]


def score(
    lab: Lab, folder: Path, machine: device.Device, problem: Problem, stage: str, held: int | None = None, *, split: str = "val"
) -> tuple[Outcome, dict | str]:
    """Run the scorer in `folder/scorer` on `folder/checkpoint` and a split of the data; returns its outcome and the metrics, or why they are not usable.

    The scorer sees the held-out data. A process of the candidate that it starts must not: LAB_SANDBOX holds the words to start it with.
    """
    out, code, checkpoint = folder / "metrics.json", folder / "code", folder / "checkpoint"
    served = sandbox.command([], cwd=code, read_only=[code, checkpoint], hidden=_hidden(lab), gpu=machine.kind == "gpu")
    outcome = supervise.run(
        [sys.executable, "eval.py", str(checkpoint), str(lab.data / split), str(out), str(code)],
        cwd=folder / "scorer",
        env=child_env(folder / "scratch" / "score", machine, stage) | {"LAB_SANDBOX": json.dumps(served)},
        log=folder / "score.log",
        limits=_limits(problem, machine, problem.score_seconds),
        echo=sys.stdout.buffer,
        keep_fds=() if held is None else (held,),
        gpu=machine.index,
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


def _limits(problem: Problem, machine: device.Device, seconds: float) -> Limits:
    memory = problem.memory_gb if machine.kind == "cpu" else None
    return Limits(seconds=seconds, grace_seconds=problem.grace_seconds, memory_gb=memory, log_mb=problem.log_mb)


def _why(outcome: Outcome, who: str, seconds: float, memory_gb: float) -> str:
    if outcome.status == "timeout":
        return f"{who} was still running after {seconds:g} s"
    if outcome.status == "oom":
        return f"{who} ran out of memory (peak {outcome.peak_gb:.2f} GiB, limit {memory_gb:g})"
    if outcome.status == "killed":
        return f"{who} was stopped by a signal to the run"
    number = -outcome.returncode if outcome.returncode < 0 else outcome.returncode - 128  # a sandbox reports a signal as a shell does
    ended = f"was ended by {signal.Signals(number).name}" if number in set(signal.Signals) else f"ended with exit code {outcome.returncode}"
    return f"{who} {ended}: {_last_line(outcome.tail)}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "(no output)"


def child_env(scratch: Path, machine: device.Device, stage: str) -> dict[str, str]:
    """The whole environment of a child: nothing of the user's but the way to the programs and the device."""
    for folder in (scratch / "home", scratch / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
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


def smoke(lab: Lab, tree: Path, args: tuple[str, ...]) -> dict:
    """Train a few steps and score them, on the CPU, with every check on and without a row. Returns the metrics.

    Raises LabError, with the end of the log, when anything fails.
    """
    problem = problems.load(lab)
    snap = snapshot.take(tree)
    dataset.data_sha(lab)
    machine = replace(device.detect(), kind="cpu", name="cpu", index=None)
    with tempfile.TemporaryDirectory(prefix="lab-smoke-") as temp:
        folder = Path(temp)
        (folder / "checkpoint").mkdir()
        snapshot.export(lab, snap.code_sha, folder / "code")
        conditions.export_scorer(lab, problem, folder / "scorer")
        limit = problem.stage("smoke").seconds("cpu")
        outcome = train(lab, folder, machine, problem, "smoke", 0, args)
        if outcome.status != "ok":
            raise LabError(f"smoke failed: {_why(outcome, 'train.py', limit, problem.memory_gb)}", hint="the log is above")
        outcome, metrics = score(lab, folder, machine, problem, "smoke")
        if outcome.status != "ok":
            raise LabError(f"smoke failed: {_why(outcome, 'the scorer', problem.score_seconds, problem.memory_gb)}", hint="the log is above")
        if isinstance(metrics, str):
            raise LabError(f"smoke failed: {metrics}", hint="the log is above")
    return metrics

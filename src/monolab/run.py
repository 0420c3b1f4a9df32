"""One run: preflight, device lock, a checkout of the snapshot, train, the frozen scorer, receipt, row."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loguru import logger

from monolab import (
    backlog,
    conditions,
    copied,
    dataset,
    device,
    disk,
    dispatch,
    doctor,
    guard,
    phases,
    pueue,
    receipts,
    results,
    retries,
    sandbox,
    snapshot,
    stats,
    supervise,
    suspicion,
    trackers,
    validity,
    verdicts,
)
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request, now

TAIL = 4000  # characters of a failed run's log in its receipt


def preflight(lab: Lab, problem: Problem, request: Request) -> list[str]:
    """What must hold before a run may start. Returns flags for its receipt; raises LabError naming the fix."""
    problem.stage(request.stage)
    if problem.require_sandbox:
        sandbox.require("program.md requires")
    if receipts.SANDBOXED in request.flags:
        sandbox.require(f"{request.idea} is asked for with --require-sandbox, which requires")
    wrong, flags = guard.run_start(lab, problem, request.commit)
    if wrong:
        raise LabError("; ".join(wrong), hint="git checkout -- FILE, or META_MODE=1 and a commit if you are the human and mean it")
    copied.refuse(lab, dataset.data_sha(lab), request.code_sha)
    results.require_whole(lab)
    if _free(lab) < problem.disk_gb and lab.runs.exists():
        disk.keep_within(lab, problem)
    if (free := _free(lab)) < problem.disk_gb:
        raise LabError(f"{free:.2f} GiB free on the disk of {lab.runs}, a run needs {problem.disk_gb:g}", hint="free some space on that disk")
    return flags


def _free(lab: Lab) -> float:
    """GiB on the disk of the runs."""
    return shutil.disk_usage(lab.runs if lab.runs.exists() else lab.root).free / 2**30


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


def execute(lab: Lab, request: Request, claimed: Callable[[], None] = lambda: None) -> Receipt:
    """Carry out a request, settle what it completes, and return its receipt, whatever the candidate does. Calls `claimed` once nobody else can.

    Raises LabError, having written neither receipt nor row, when the run may not start; the reason is then kept in
    the run's folder as `refused.json`.
    """
    with backlog.claim(lab, request.run_id) as mine:
        if not mine:
            raise LabError(f"{request.run_id} is being carried out by another process", hint=f"lab follow {request.run_id}")
        claimed()
        return _carry_out(lab, request)


def _carry_out(lab: Lab, request: Request) -> Receipt:
    if receipts.receipt(lab, request.run_id) is not None:
        raise LabError(f"{request.run_id} is finished already", hint=f"lab queue {request.idea}, for a new run")
    if (lab.run(request.run_id) / "cancelled.json").exists():
        raise LabError(f"{request.run_id} was cancelled", hint=f"lab queue {request.idea}, for a new run")
    folder = lab.run(request.run_id)
    try:
        with _stops() as disarm:
            _tell(folder / "waiting.json")
            problem = problems.load(lab)
            preflight(lab, problem, request)
            machine = device.detect()
            if strangers := device.foreign_processes(machine):
                logger.warning(f"{machine.name} is also used by: {'; '.join(strangers)}")
            sandbox.probe()  # what takes its time and does not age is done while another run has the device
            _in_turn(lab, request)
            with device.lock(machine, _waits, run=request.run_id, lab=str(lab.root)) as held:
                doctor.quick(lab, queue=False)  # whoever had the device may have been killed
                flags = preflight(lab, problem, request)  # again: it may have waited for hours
                dispatch.follow(lab)
                receipt = _locked(lab, problem, request, machine, held, flags, disarm)
            doctor.follow_up(lab, request.run_id)
            trackers.nudge(lab, problem, request.run_id)
            disk.keep_within(lab, problem)
            return receipt
    except (LabError, Stopped) as error:
        if not (folder / "receipt.json").exists():
            told = {"time": now()} | ({"what": error.what, "hint": error.hint} if isinstance(error, LabError) else {})
            receipts.write_atomic(folder / ("refused.json" if isinstance(error, LabError) else "cancelled.json"), json.dumps(told))
        try:
            doctor.follow_up(lab, request.run_id)  # it may have been the last one that its experiment waited for
        except LabError as other:
            logger.error(f"settling failed: {other}")
        if isinstance(error, Stopped):
            raise LabError(f"{request.run_id} was stopped before it had started", hint=f"just queue {request.idea}") from error
        raise
    finally:
        (folder / "waiting.json").unlink(missing_ok=True)


def _in_turn(lab: Lab, request: Request) -> None:
    """Wait until no run of this lab waits for the device, or is about to, that the queue started before this one: it starts two, and the first goes first."""
    me = backlog.this_process()

    def waits(name: str) -> bool:
        return (lab.run(name) / "waiting.json").exists()

    def gone(name: str) -> bool:
        return backlog.started(lab, name) or backlog.over(lab, name)

    def to_come() -> bool:
        """Whether the process of an earlier task has not come as far as to say that it waits."""
        try:
            told = pueue.state()
        except LabError:  # it was killed just now, say: who cannot be asked holds nobody up
            return False
        tasks = backlog.unfinished(lab, told[0]) if told else {}
        mine = tasks.pop(request.run_id, None)
        if mine is None or mine.start is None:
            return False
        earlier = [name for name, task in tasks.items() if task.state == "Running" and (task.start, task.id) < (mine.start, mine.id)]
        return any(backlog.asked_for(lab, name) and not waits(name) and not gone(name) for name in earlier)

    def before(name: str) -> bool:
        if name == request.run_id or not waits(name) or gone(name):
            return False
        try:
            told = json.loads((lab.run(name) / "waiting.json").read_text())
        except FileNotFoundError:  # it is over by now
            return False
        pid = backlog.alive(lab, name)
        earlier = (told["ticks"], told["pid"]) < (me["ticks"], me["pid"])  # within one tick the queue's order is that of the process numbers
        return earlier and pid is not None and not _paused(pid)

    while to_come():
        time.sleep(device.ASK)
    others = [name for name in backlog.opened(lab) if before(name)]
    while any(before(name) for name in others):
        time.sleep(device.ASK)


def _paused(pid: int) -> bool:
    """Whether a process was stopped, as `pueue pause` does, or has just ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _waits(told: str) -> None:
    """Somebody has the device: there is time for what settling will need."""
    logger.info(told)
    stats.load()


def _tell(path: Path, **more) -> None:
    """Say which process this is, so that others can tell whether it is still there."""
    receipts.write_atomic(path, json.dumps({"time": now()} | backlog.this_process() | more))


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
        measured = _measure(lab, problem, request, machine, held, facts)
        if dataset.data_sha(lab) != facts["data_sha"]:
            raise LabError("the data was replaced while it ran", hint="lab data")
        disarm()
    except Stopped:
        measured = {"status": "killed", "reason": "stopped by a signal"}
    except LabError as error:  # a full disk, say: nothing that the candidate did
        measured = {"status": "interrupted", "reason": f"the lab could not carry it out: {error.what}"}
    disarm()
    for scratch in ("code", "scorer", "scratch"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
    if twin := _others(request, lambda: verdicts.twin(lab, request, facts | measured), None):
        measured["new_flags"] = (*measured.get("new_flags", ()), f"{verdicts.REPEATS}:{twin.seed}")
        what = f"{request.run_id} (seed {request.seed}) gave what {twin.run_id} (seed {twin.seed}) gave, to the last digit"
        logger.warning(f"{what}: train.py ignores its --seed, and the two count as one measurement")
    receipt = results.conclude(lab, problem, request, started, round(time.monotonic() - clock, 2), facts | measured, flags)
    told = f"{problem.metric} {receipt.value:g}" if receipt.value is not None else receipt.reason
    logger.info(f"{request.run_id}: {receipt.status}, {told} ({receipt.seconds:.1f} s)")
    return receipt


def _others(request: Request, ask: Callable, otherwise):
    """What other runs say, or `otherwise` where the records were damaged a moment ago: what is measured must not be lost for that."""
    try:
        return ask()
    except LabError as error:
        logger.warning(f"{request.run_id} is not held against other runs: {error.what}")
        return otherwise


def _measure(lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, facts: dict) -> dict:
    """Train, then score. Returns the receipt's measured fields; a failure becomes data here and nowhere else."""
    folder, rule = lab.run(request.run_id), problem.validity
    watches = {"train": validity.Watch(machine, folder / "checkpoint" / "progress.json")}
    tells = _others(request, lambda: validity.tells(lab, results.view(lab).of(BASELINE, request.stage)), False)
    measured = _trained(lab, problem, request, machine, held, watches["train"], tells)
    paces = _others(
        request, lambda: validity.peers(lab, results.view(lab).of(request.idea, request.stage), request, facts["env_sha"], facts["hardware"]), []
    )
    timed = validity.timed(rule, machine.kind, "train")
    found = {"train": validity.judge(watches["train"].facts, rule, timed=timed, ended=measured["status"], peers=paces)}
    if measured["status"] == "ok" and not found["train"].contaminated:
        watches["score"] = validity.Watch(machine)
        measured |= _scored(lab, problem, request, machine, held, watches["score"])
        best = _others(request, lambda: suspicion.best_so_far(lab, problem, request.stage), None)
        looked = suspicion.investigate(lab, problem, request, machine, held, measured["value"], best) if measured["status"] == "ok" else None
        if looked and looked.leak:
            measured |= {"status": "invalid", "reason": suspicion.reason(looked, problem.metric), "value": None, "metrics": {}}
        elif looked:
            measured["new_flags"] = (*measured["new_flags"], looked.flag)
        timed = validity.timed(rule, machine.kind, "score")
        found["score"] = validity.judge(watches["score"].facts, rule, timed=timed, ended=measured["status"])
    validity.write(lab, request.run_id, watches, found, paces)
    flags = {flag: None for one in found.values() for flag in one.flags}
    if spoiled := [f"{one.contaminated} (while it was to {name})" for name, one in found.items() if one.contaminated]:
        flags |= {retries.CONTAMINATED: None}
        measured |= {"status": "invalid", "reason": f"contaminated: {spoiled[-1]}", "value": None, "metrics": {}}
    elif measured["status"] in ("crash", "oom"):
        last = list(watches.values())[-1].facts
        step = watches["train"].facts.step
        name = retries.recognise(measured["log_tail"], gpu=machine.kind == "gpu", seconds=last.seconds, step=step, foreign_memory=last.lacked_memory)
        flags |= {retries.TRANSIENT + name: None} if name else {}
    return measured | {"new_flags": (*measured["new_flags"], *flags)}


def _trained(lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, watch: validity.Watch, tells: bool) -> dict:
    folder = lab.run(request.run_id)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    limit = problem.stage(request.stage).seconds(machine.kind)
    trained = phases.train(lab, folder, machine, problem, request.stage, request.seed, request.args, held, watch, tells)
    watch.close()
    measured = {
        "status": trained.status,
        "train_seconds": round(trained.seconds, 2),
        "peak_gb": round(trained.peak_gb, 3),
        "memory_limit": trained.memory_limit,
        "log_tail": trained.tail[-TAIL:],
        "new_flags": tuple(
            flag for flag, raised in ((f"left-behind:{trained.left_behind}", trained.left_behind), ("log-cut", trained.log_truncated)) if raised
        ),
    }
    if trained.status != "ok":
        return measured | {"reason": phases.why(trained, "train.py", limit, problem.memory_gb)}
    if strange := next((path for path in checkpoint.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())), None):
        told = f"the checkpoint holds {strange.name}, which is a link or no file: what it leads to was not trained here"
        return measured | {"status": "invalid", "reason": told}
    files = phases.trained_files(checkpoint)
    if not files:
        return measured | {"status": "crash", "reason": "train.py ended without writing a checkpoint"}
    return measured | {"checkpoint_sha": conditions.files_sha(checkpoint, files)}


def _scored(lab: Lab, problem: Problem, request: Request, machine: device.Device, held: int, watch: validity.Watch) -> dict:
    scored, metrics = phases.score(lab, lab.run(request.run_id), machine, problem, request.stage, held, watch=watch)
    watch.close()
    measured = {"status": scored.status, "score_seconds": round(scored.seconds, 2), "log_tail": scored.tail[-TAIL:]}
    if scored.status == "crash" and scored.returncode == phases.REFUSED:
        return measured | {"status": "invalid", "reason": f"refused by the scorer: {phases.last_line(scored.tail)}"}
    if scored.status != "ok":
        return measured | {"reason": phases.why(scored, "the scorer", problem.score_seconds, problem.memory_gb)}
    if isinstance(metrics, str):
        return measured | {"status": "invalid", "reason": metrics}
    params = metrics.get("params")
    values = {"value": metrics[problem.metric], "metrics": metrics, "params": None if params is None else int(params), "reason": ""}
    return measured | values | {"log_tail": ""}

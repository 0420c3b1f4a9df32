"""Finished runs in a tracker as well: wandb or trackio, where program.md asks for it (`trackers: [wandb, trackio]`). The receipt stays the truth.

A run that has ended only leaves a mark and starts `lab track` as a process of its own (`nudge`); it never waits for it. That sends what is marked, each
run once to each tracker, and tries again at the end of the next run what failed. Neither package is one of the lab's own: they are looked for in
`6_runs/.trackers/packages`, because whatever is installed into `.venv` makes it another environment, whose baseline has to be measured again.

Keys never come near a run: wandb has its own in `~/.netrc` (`wandb login`), trackio the one of `hf auth login`. The process that sends has the
environment of who started it. A queued run's is the queue's, which passes on no WANDB_...; what must hold there too is said in
`6_runs/.trackers/wandb/settings` (`[default]`, `mode = offline`, say), where wandb looks for it.
"""

import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from monolab import alerts, monitor, receipts, results, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Problem

SECONDS = 300.0  # that one run may take to be sent to one tracker
MISSING = 4  # exit code of a sender without its package
STUCK = 2  # failures in a row after which a tracker is left alone until the next run has ended
POINTS = 1000  # of a loss curve, at most
LOG_LINES = 200
ABOUT = (  # of a receipt: what was asked, and under which conditions it was measured
    *("run_id", "idea", "commit", "parent", "parent_idea", "stage", "seed", "label", "question", "hypothesis", "predicted_effect", "credence"),
    *("agent", "code_sha", "eval_sha", "data_sha", "env_sha", "checkpoint_sha", "hardware", "isolation", "queued", "started", "finished", "retry_of"),
)
MEASURED = ("seconds", "train_seconds", "score_seconds", "peak_gb", "params")
TOLD = "tracked.json"  # in a run's folder: when it was sent where
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
POINT = re.compile(  # of a training log: `step 1,200: 2.31 nats`, `step 12/100 ... loss=0.5`, `{"step": 12, "loss": 0.5}`
    rf"\bstep\b[\"' =:#]*(\d[\d,]{{0,15}})(?:/[\d,]+)?(?:\s*:\s*({NUMBER})\b|.*?\bloss\b[\"' =:]*({NUMBER})\b)", re.IGNORECASE
)


@dataclass(frozen=True)
class Sent:
    """What came of one run and one tracker: sent, sent before, or why not."""

    run_id: str
    tracker: str
    ok: bool
    what: str


def folder(lab: Lab) -> Path:
    """Where what trackers need lies: `waiting/`, `packages/`, `log`, `last` (what the last process printed), and what wandb writes."""
    return lab.runs / ".trackers"


def nudge(lab: Lab, problem: Problem, run_id: str) -> None:
    """Mark a run as to be sent, and start `lab track` beside this process, where program.md names a tracker. Never raises, never waits."""
    if not problem.trackers:
        return
    try:
        waiting = folder(lab) / "waiting"
        waiting.mkdir(parents=True, exist_ok=True)
        (waiting / run_id).touch()
    except OSError as error:
        logger.warning(f"{run_id} is not sent to {', '.join(problem.trackers)}: {error}")
        return
    alerts.beside(lab, "track", said=folder(lab) / "last", keyed=True)


# -- which runs ---------------------------------------------------------------------------------------------------


def waiting(lab: Lab) -> list[Sent]:
    """Send what is marked, the newest first; who comes while another does that has it look once more. Raises LabError where program.md names no tracker."""
    problem, found, again = _configured(lab), [], folder(lab) / "again"
    again.parent.mkdir(parents=True, exist_ok=True)
    again.touch()
    while again.exists():
        with _alone(lab, wait=False) as mine:
            if not mine:
                return found
            again.unlink(missing_ok=True)
            marked = sorted((path.name for path in (folder(lab) / "waiting").glob("*")), reverse=True)
            found += _send_all(lab, problem, marked)
    return found


def by_hand(lab: Lab, run_ids: list[str]) -> list[Sent]:
    """Send these runs, to each tracker that does not have them yet. Raises LabError where program.md names no tracker, or a run has not ended."""
    problem = _configured(lab)
    for run_id in run_ids:
        if receipts.receipt(lab, run_id) is None:
            raise LabError(f"{run_id} has no receipt yet: nothing is sent of a run that has not ended", hint="just status")
    with _alone(lab, wait=True):
        return _send_all(lab, problem, run_ids)


def _configured(lab: Lab) -> Problem:
    problem = problems.load(lab)
    if not problem.trackers:
        raise LabError("program.md names no tracker", hint=f"a human adds to its front matter: trackers: [{', '.join(problems.TRACKERS)}]")
    return problem


def finished(lab: Lab) -> list[str]:
    """Every run that has a row, newest first."""
    return [row.run_id for row in reversed(results.load(lab))]


@contextmanager
def _alone(lab: Lab, *, wait: bool) -> Iterator[bool]:
    """Whether nobody else sends meanwhile."""
    folder(lab).mkdir(parents=True, exist_ok=True)
    with (folder(lab) / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _send_all(lab: Lab, problem: Problem, run_ids: list[str]) -> list[Sent]:
    found, failed = [], dict.fromkeys(problem.trackers, 0)
    for run_id in run_ids:
        if receipts.receipt(lab, run_id) is None:  # its folder was removed since it was marked
            (folder(lab) / "waiting" / run_id).unlink(missing_ok=True)
            continue
        told = _told(lab, run_id)
        for tracker in problem.trackers:
            if tracker in told:
                found.append(Sent(run_id, tracker, True, f"sent before, {told[tracker]}"))
                continue
            if failed[tracker] >= STUCK:
                found.append(Sent(run_id, tracker, False, "not tried: it failed with the runs before"))
                continue
            why, missing = _send(lab, tracker, payload(lab, problem, run_id))
            _log_failure(lab, tracker, run_id, why)
            failed[tracker] = STUCK if missing else failed[tracker] + 1 if why else 0
            found.append(Sent(run_id, tracker, not why, why or "sent"))
            if not why:
                told[tracker] = receipts.now()
                receipts.write_atomic(lab.run(run_id) / TOLD, json.dumps(told))
        if told.keys() >= set(problem.trackers):
            (folder(lab) / "waiting" / run_id).unlink(missing_ok=True)
    return found


def _told(lab: Lab, run_id: str) -> dict[str, str]:
    path = lab.run(run_id) / TOLD
    return json.loads(path.read_text()) if path.exists() else {}


def _log_failure(lab: Lab, tracker: str, run_id: str, why: str) -> None:
    """One line where a tracker begins to fail, fails for another reason, or works again."""
    path = folder(lab) / "failing.json"
    failing = json.loads(path.read_text()) if path.exists() else {}
    if failing.get(tracker, "") == why:
        return
    line = f"{receipts.now()} {tracker}: {f'{run_id} was not sent: {why}' if why else 'works again'}"
    log = folder(lab) / "log"
    before = log.read_text().splitlines() if log.exists() else []
    receipts.write_atomic(log, "\n".join([*before, line][-LOG_LINES:]) + "\n")
    receipts.write_atomic(path, json.dumps({name: text for name, text in {**failing, tracker: why}.items() if text}))


# -- what is sent -------------------------------------------------------------------------------------------------


def payload(lab: Lab, problem: Problem, run_id: str) -> dict:
    """Everything that is sent of a run: what was asked and under which conditions, the loss curve, what was measured, what was decided."""
    receipt = receipts.receipt(lab, run_id)
    about = {name: getattr(receipt, name) for name in ABOUT}
    look = next(reversed(verdicts.looks(lab).sharing([run_id])), None)
    decided = {"verdict": look.verdict, "gate": look.gate.decision, "kept": look.kept, "effect": look.effect} if look else {}
    measured = {name: getattr(receipt, name) for name in MEASURED}
    return {
        "project": re.sub(r"[^\w.-]", "-", lab.root.name),
        "run_id": run_id,
        "idea": receipt.idea,
        "stage": receipt.stage,
        "notes": receipt.label,
        "ok": receipt.status == "ok",
        "config": about | {"args": " ".join(receipt.args), "flags": list(receipt.flags), "metric": problem.metric, "direction": problem.direction},
        "curve": curve(lab, run_id),
        "metrics": {name: value for name, value in {**measured, **receipt.metrics}.items() if value is not None},
        "summary": {"status": receipt.status, "reason": receipt.reason} | {name: value for name, value in decided.items() if value is not None},
    }


def curve(lab: Lab, run_id: str) -> list[tuple[int, float]]:
    """Step and loss, as far as the training log and progress.json tell them; at most POINTS, steps ever larger."""
    path, found = lab.run(run_id) / "train.log", {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        if match := POINT.search(line):
            found.setdefault(int(match[1].replace(",", "")), float(match[2] or match[3]))
    last = monitor.read(lab.run(run_id) / "checkpoint" / "progress.json")
    if (done := monitor.steps(last)) and isinstance(last.get("loss"), int | float) and not isinstance(last["loss"], bool):
        found.setdefault(done[0], float(last["loss"]))
    points = sorted((step, loss) for step, loss in found.items() if math.isfinite(loss))
    every = -(-len(points) // POINTS) if points else 1
    return points[::every] + (points[-1:] if (len(points) - 1) % every else [])


# -- sending: a process for each run and tracker ------------------------------------------------------------------


def _send(lab: Lab, tracker: str, what: dict) -> tuple[str, bool]:
    """Why a tracker has not got a run, "" where it has; and whether its package is missing."""
    packages = folder(lab) / "packages"
    search = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "monolab.trackers", tracker],  # -P: the folder `wandb` in here is none of Python's
        cwd=folder(lab),
        env=os.environ | {"PYTHONPATH": search},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(json.dumps(what), timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not done within {SECONDS:g} s", False
    if process.returncode == MISSING:
        uv = Path(sys.executable).with_name("uv")
        install = f"{uv if uv.exists() else 'uv'} pip install --python {sys.executable} --target {packages} {tracker}"
        return f"the package {tracker} is not installed. Next: {install}", True
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (" ".join((lines[-1] if lines else f"exit code {process.returncode}").split())[:300] if process.returncode else ""), False


def _wandb(what: dict) -> None:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or what["project"],
        id=what["run_id"],
        name=what["run_id"],
        group=what["idea"],
        job_type=what["stage"],
        notes=what["notes"],
        config=what["config"],
        resume="allow",  # what was cut off half-way goes on
        settings=wandb.Settings(
            console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True, silent=True
        ),  # of this process, not of the run
    )
    for step, loss in what["curve"]:
        run.log({"loss": loss}, step=step)
    run.summary.update(what["metrics"] | what["summary"])
    run.finish(exit_code=0 if what["ok"] else 1)


def _trackio(what: dict) -> None:
    import warnings

    import trackio

    with warnings.catch_warnings(record=True) as said:  # where it fails it warns and goes on
        warnings.simplefilter("always")
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT") or what["project"],
            name=what["run_id"],
            group=what["idea"],
            config=what["config"] | what["summary"],  # it has no summary of its own
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, loss in what["curve"]:
            trackio.log({"loss": loss}, step=step)
        trackio.log(what["metrics"], step=max((step for step, _ in what["curve"]), default=-1) + 1)
        trackio.finish()
    if failed := [str(one.message) for one in said if "could not" in str(one.message).lower()]:
        raise RuntimeError(failed[0])


SENDERS = {"wandb": _wandb, "trackio": _trackio}


def _main() -> None:
    """The sender: a tracker's name as argument, the payload as JSON on stdin."""
    os.nice(10)  # a run comes first
    tracker = sys.argv[1]
    try:
        SENDERS[tracker](json.load(sys.stdin))
    except ModuleNotFoundError as error:
        if error.name != tracker:
            raise
        raise SystemExit(MISSING) from None


def text(found: list[Sent]) -> str:
    """For people."""
    return "\n".join(f"{one.run_id}: {one.tracker}: {one.what}" for one in found) or "nothing waits to be sent"


if __name__ == "__main__":
    _main()

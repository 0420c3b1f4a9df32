"""Queueing: from a working tree and a hypothesis to requests, and to tasks of the real pueue daemon."""

import fcntl
import getpass
import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from loguru import logger

from monolab import (
    backlog,
    dataset,
    dispatch,
    doctor,
    gate,
    ideas,
    label,
    options,
    pueue,
    receipts,
    results,
    run,
    sandbox,
    settle,
    snapshot,
    verdicts,
)
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL_SEEDS, Lab
from monolab.receipts import Receipt, Request

MAIN = ("main", "master")  # what the branch of the lab's own code may be called
FLOOR_SEEDS = 3  # of the baseline, for a noise floor


def tree_of(lab: Lab, slug: str) -> Path:
    """The working tree that answers `slug`. Raises LabError for an unknown idea and for one without a worktree."""
    if slug == BASELINE:
        return lab.root
    ideas.load(lab, slug)
    if not (lab.worktree(slug) / ".git").exists():
        raise LabError(f"{slug} has no worktree", hint=f"just worktree {slug}")
    return lab.worktree(slug)


def standing_in(lab: Lab) -> tuple[str, Path]:
    """The idea whose worktree a person stands in, and that worktree; the baseline in the lab's root."""
    tree = snapshot.top()
    if tree == lab.root:
        return BASELINE, tree
    if tree.parent == lab.worktrees and tree.name != BASELINE:
        return tree.name, tree
    raise LabError(f"{tree} is neither the lab's root nor one of its worktrees in 5_worktrees/", hint="just worktree SLUG")


def worktree(lab: Lab, slug: str) -> Path:
    """Make `5_worktrees/{slug}` on the branch `exp/{slug}`, from main or from the branch of the idea's parent."""
    import git

    idea = ideas.load(lab, slug)
    path, branch = lab.worktree(slug), f"exp/{slug}"
    repo = git.Repo(lab.root)
    if not repo.head.is_valid():
        raise LabError("the lab has no commit yet", hint="git add -A && git commit -m 'Start the lab'")
    with (lab.root / ".git" / "lab-worktrees.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # git's own checks let two through at once
        try:
            _clear(repo, path)
            if path.exists() and any(path.iterdir()):
                raise LabError(f"{path} exists already", hint=f"cd {path}")
            if branch in {head.name for head in repo.heads}:  # its worktree was removed: the work on the branch is still there
                repo.git.worktree("add", "-q", str(path), branch)
            else:
                repo.git.worktree("add", "-q", "-b", branch, str(path), _start(lab, idea.parent) or repo.head.commit.hexsha)
        except git.GitCommandError as error:
            words = " ".join(error.stderr.removeprefix("\n  stderr: '").removesuffix("'").split())
            raise LabError(f"git made no worktree of {slug}: {words}", hint=f"git -C {lab.root} worktree list") from error
    return path


def _clear(repo, path: Path) -> None:
    """Have git forget a worktree at `path` that it was killed while making, or whose folder somebody has removed."""
    for entry in repo.git.worktree("list", "--porcelain").split("\n\n"):
        if entry.partition("\n")[0].removeprefix("worktree ") == os.path.realpath(path) and ("\nlocked initializing" in entry or not path.exists()):
            repo.git.worktree("remove", "--force", "--force", str(path))


def _start(lab: Lab, parent: str) -> str | None:
    """The code that an idea on top of `parent` starts from: what was run last, committed or not. None for main's."""
    if parent == BASELINE:
        return None
    runs = _runs(lab, parent)
    if not runs:
        raise LabError(f"the parent idea {parent} has not been run", hint=f"just queue {parent}")
    return runs[0].commit


def _runs(lab: Lab, idea: str) -> list[Request]:
    """What was asked for an idea and neither cancelled nor refused, newest first; of the baseline only main's own code."""
    found = []
    for run_id in reversed(backlog.asked(lab, idea)):
        if not any((lab.run(run_id) / name).exists() for name in ("cancelled.json", "refused.json")):
            request = receipts.request(lab, run_id)
            if request.idea == idea and (idea != BASELINE or verdicts.is_reference(request.flags)):
                found.append(request)
    return found


def requests(
    lab: Lab,
    slug: str,
    tree: Path,
    text: str | None,
    stage: str,
    seeds: list[int],
    args: list[str],
    *,
    required: bool,
    sandboxed: bool = False,
    filler: bool = False,
    control: snapshot.Snapshot | None = None,
) -> list[Request]:
    """One request per seed for the code in `tree` (or the snapshot of a control), each with its folder in `6_runs/`, nothing queued yet.

    The label is `text`, else what the idea file states; with `required` it must have a question and a hypothesis. With `sandboxed` none of them
    may ever run without a sandbox.
    Raises LabError, leaving nothing behind, for whatever would stop the runs: unknown idea, stage, option or label,
    changed frozen files, missing data, a full disk.
    """
    problem = problems.load(lab)
    problem.stage(stage)
    parent = kill_rule = mechanism = ""
    if slug != BASELINE:
        idea = ideas.load(lab, slug) if required or slug in ideas.slugs(lab) else None
        parent = idea.parent if idea else BASELINE
        kill_rule, mechanism = (idea.kill_rule, idea.hypothesis) if idea else ("", "")
        if text is None and idea:
            text = label.render(idea.question, idea.predicted_effect, idea.credence, problem.metric)
    text = " ".join((text or "").split())
    hypothesis = label.require(text, problem.metric, problem.direction) if required and slug != BASELINE else label.parse(text, problem.metric)
    checked = options.check(args, tree / "train.py")
    dataset.data_sha(lab)
    snap = control or snapshot.take(tree)
    flags = ["control"] if control else []
    if not hypothesis.scorable and slug != BASELINE and not control:
        flags.append("unscored")
    if checked:
        flags.append("args")
    if not snap.clean:
        flags.append("uncommitted")
    if slug == BASELINE and snapshot.branch(lab.root) not in MAIN:
        flags.append("off-main")
    if sandboxed:
        flags.append(receipts.SANDBOXED)
    if filler:
        flags.append("filler")  # settings that a sampler proposed while nobody had an idea
    if not required and not control:
        flags.append("at-start")  # the tree was taken when the run started, not when somebody queued it
    parents, moved = _parent_runs(lab, parent, stage, seeds, snap) if parent else ({}, False)
    if moved:
        flags.append("parent-moved")
    made = [
        Request(
            run_id=receipts.new_id(slug, seed),
            idea=slug,
            stage=stage,
            seed=seed,
            label=text,
            question=hypothesis.question,
            hypothesis=hypothesis.text,
            mechanism=mechanism,
            predicted_effect=hypothesis.effect,
            credence=hypothesis.credence,
            kill_rule=kill_rule,
            agent=agent(),
            parent=parents.get(seed, ""),
            parent_idea=parent,
            commit=snap.commit,
            head=snap.head,
            code_sha=snap.code_sha,
            args=checked,
            flags=tuple(flags),
            queued=receipts.now(),
        )
        for seed in seeds
    ]
    run.preflight(lab, problem, made[0])
    dispatch.write(lab, made)
    return made


def _parent_runs(lab: Lab, idea: str, stage: str, seeds: list[int], snap: snapshot.Snapshot) -> tuple[dict[int, str], bool]:
    """The parent's run for each seed, and whether it has other code than the idea forked from, which was never run."""
    runs = [request for request in _runs(lab, idea) if request.stage == stage]
    if not runs:
        logger.warning(f"{idea} has no run at stage {stage} yet")
        elsewhere = _runs(lab, idea) if idea != BASELINE else []  # what the idea stands on is known by a run of another stage too
        return {seed: elsewhere[0].run_id for seed in seeds if elsewhere}, False
    moved = False
    if idea == BASELINE:
        fork = snapshot.fork_point(lab, snap.head)
        codes = {request.code_sha: request.commit for request in reversed(runs)}
        same = {code for code, commit in codes.items() if not snapshot.changed(lab, commit, fork)}
        runs, moved = [request for request in runs if request.code_sha in same] or runs, not same
    runs = [request for request in runs if (request.code_sha, request.args) == (runs[0].code_sha, runs[0].args)]
    by_seed = {request.seed: request.run_id for request in reversed(runs)}
    return {seed: by_seed.get(seed % CONTROL_SEEDS, runs[0].run_id) for seed in seeds}, moved


def enqueue(
    lab: Lab, slug: str, text: str | None, stage: str, seeds: list[int], args: list[str], *, sandboxed: bool = False, filler: bool = False
) -> list[Request]:
    """Queue one run per seed of the idea's working tree as it is now. What is edited afterwards does not reach them.

    Where scorer, data, environment or hardware changed since the baseline or the parent was measured, those are queued again first.
    With `sandboxed`, nothing that is queued may run without a sandbox.
    """
    tree = tree_of(lab, slug)
    group = dispatch.prepare()
    doctor.quick(lab)
    with dispatch.asking(lab):
        made = requests(lab, slug, tree, text, stage, seeds, args, required=True, sandboxed=sandboxed, filler=filler)
        if slug != BASELINE:
            problem = problems.load(lab)
            try:
                with results.locked(lab):
                    rows = results.view(lab)
                    for reference in gate.references(lab, rows, made[0]):
                        gate.renew(lab, problem, reference, sorted({*range(FLOOR_SEEDS), *seeds}) if reference.idea == BASELINE else seeds)
            except LabError:
                dispatch.withdraw(lab, made)
                raise
        dispatch.send(lab, made, group)
    return made


def replicate(lab: Lab, slug: str, stage: str, *, sandboxed: bool = False) -> list[Request]:
    """Queue what the next look at an idea needs, also where the lab would leave it at that. Raises LabError where all seeds are in.

    With `sandboxed`, none of it may run without a sandbox, and there must be one here.
    """
    if sandboxed:
        sandbox.require("--require-sandbox requires")
    doctor.quick(lab)
    problem = problems.load(lab)
    verdict = verdicts.judge(lab, problem, results.view(lab), slug, stage)
    if not verdict.gate.wants:
        raise LabError(
            f"{slug} ({stage}): {verdict.gate.why}; there is no further look", hint="a new version of the idea is a new question: just queue"
        )
    with results.locked(lab):
        return gate.advance(lab, problem, verdict, insist=True, sandboxed=sandboxed)


def agent() -> str:
    """Who asks for a run: LAB_AGENT, else the coding agent whose mark is in the environment, else the user's account."""
    return os.environ.get("LAB_AGENT") or ("claude-code" if os.environ.get("CLAUDECODE") else getpass.getuser())


def evaluate(lab: Lab, slug: str | None, text: str | None, stage: str, seed: int, args: list[str], *, sandboxed: bool = False) -> Receipt:
    """Run here and now, in the foreground; inside a hand-typed pueue task, under that task's label."""
    here = Path.cwd()
    slug, tree = (slug, tree_of(lab, slug)) if slug else standing_in(lab)
    task = pueue.running_here(here)
    if task:
        dispatch.scrub(pueue.tasks())
    if task and text is None:
        text = task.label
    with ExitStack() as asking:
        asking.enter_context(dispatch.asking(lab))
        request = requests(lab, slug, tree, text, stage, [seed], args, required=False, sandboxed=sandboxed)[0]
        return run.execute(lab, request, asking.close)


def cancel(lab: Lab, run_id: str, wait_seconds: float = 60.0) -> str:
    """End a run: a waiting one leaves the queue, a running one gets a row with the status `killed`. Returns what happened."""
    folder, deadline = lab.run(run_id), time.monotonic() + wait_seconds
    while True:
        with backlog.claim(lab, run_id) as free:  # while it is held here, no process begins to carry the run out
            if backlog.over(lab, run_id):
                raise LabError(f"{run_id} is over already", hint=f"lab log {run_id}")
            if free and (folder / "started.json").exists():
                raise LabError(f"the process that ran {run_id} is gone", hint="lab doctor")
            if free:
                receipts.write_atomic(folder / "cancelled.json", json.dumps({"time": receipts.now()}))  # first: what is in no queue is queued again
        if free:
            return _withdraw(lab, run_id)
        if pid := backlog.alive(lab, run_id):
            break
        if time.monotonic() > deadline:
            raise LabError(f"{run_id} is held by a process that does not begin", hint=f"lab cancel {run_id} again, or: lab doctor")
        time.sleep(0.05)  # it has just begun, and is about to say who it is
    receipts.write_atomic(folder / "stop.json", json.dumps({"time": receipts.now()}))  # however it ends now, it is not run again
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)  # pueue may have paused it
    while time.monotonic() < deadline:
        if receipts.receipt(lab, run_id):
            return "killed; its row is in results.tsv"
        if backlog.over(lab, run_id):
            return "stopped while it waited for the device; it had not started"
        time.sleep(0.05)
    raise LabError(f"{run_id} (pid {pid}) did not end within {wait_seconds:g} s", hint=f"kill -9 {pid}")


def _withdraw(lab: Lab, run_id: str) -> str:
    """Take a run out of the queue that was cancelled before it had started."""
    task = backlog.unfinished(lab).get(run_id) if pueue.answers() else None
    if task:
        try:
            pueue.remove(task.id)
        except LabError as error:  # its process has just begun, sees that it is cancelled, and ends by itself
            logger.info(error.what)
    settle.settle(lab)  # it may have been the last one that its experiment waited for
    return "taken out of the queue; it had not started" if task else "withdrawn; it was in no queue, and had not started"

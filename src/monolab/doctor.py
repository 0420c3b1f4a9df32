"""Bringing the ledger (6_runs/ to results.tsv), the queue and git back into agreement, after whatever stopped half-way.

What follows from records that are whole is repaired, and said. What somebody may have meant, or what only a person can get back, is named with the
next command. `lab check` is the other one: it asks whether the lab is filled in and consistent, and changes nothing.

Nothing here has to guess whether a process is still there. Who carries out a run holds a lock on its request, who queues runs holds one while the
requests are written and not yet queued: the kernel drops both with the process, whatever became of its pid.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from monolab import (
    backlog,
    device,
    dispatch,
    filesystem,
    journal,
    problem,
    pueue,
    receipts,
    report,
    results,
    retries,
    settle,
    snapshot,
    supervise,
    verdicts,
)
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.receipts import Receipt, Request

FACTS = ("eval_sha", "data_sha", "env_sha", "hardware", "isolation")  # of a run that has started, told before it trains
SCRATCH = ("code", "scorer", "scratch")  # in a run's folder: made anew for every run, worth nothing afterwards
TRIES = 3  # how often a run is queued again that ended each time before it had started
PATIENCE = 5.0  # seconds that what was killed has to be gone


@dataclass(frozen=True)
class Finding:
    """Something that did not agree: put right (then `hint` is empty, or says what to look at), or left for a person with the next command."""

    what: str
    hint: str = ""
    repaired: bool = False


# -- at the start of every command that writes --------------------------------------------------------------------


def quick(lab: Lab, *, queue: bool = True) -> list[Finding]:
    """Put right what a killed process, daemon or machine has left. Costs some milliseconds, and grows with the runs that are open, not with all.

    `queue`: also ask pueue for the runs that wait. Everything found is logged. Raises nothing that a damaged record could cause.
    """
    found = [*_steps(lab, (_orphans, _swept, _torn_lines, _table, _open_runs))]
    if queue:
        found += _steps(lab, (_lost,))
    for one in found:
        logger.warning(_line(one))
    return found


def follow_up(lab: Lab, run_id: str) -> None:
    """What follows from a run that is over: its retry, and the verdicts that waited for it. Asked again after a kill, it does what is left."""
    for one in _follow_up(lab, [run_id], run_id):
        logger.error(_line(one))


def _follow_up(lab: Lab, run_ids: list[str], without: str = "") -> list[Finding]:
    """The same of several; what of them could not be read."""
    done, unread = [], []
    for run_id in run_ids:
        try:
            receipt = receipts.receipt(lab, run_id)
        except LabError as error:  # it stays open, and the others do not wait for it
            unread.append(Finding(error.what, error.hint))
            continue
        if receipt is None or _again(lab, receipt):
            done.append(run_id)
    settle.settle(lab, without)
    for run_id in done:
        backlog.finished_with(lab, run_id)
    return unread


def _again(lab: Lab, receipt: Receipt) -> bool:
    """Queue a run once more where the policy says so. False where that has to wait until there is a daemon."""
    try:
        retries.again(lab, receipt)
    except LabError as error:  # its own number is in: that must not be lost for it
        logger.error(f"{receipt.run_id} was not queued again: {error}")
        return False
    return not retries.cause(receipt) or "at-start" in receipt.flags or pueue.answers()


def _steps(lab: Lab, steps: Iterable) -> Iterator[Finding]:
    for step in steps:
        try:
            yield from step(lab)
        except LabError as error:  # what one step cannot read must not keep the others from their work
            yield Finding(error.what, error.hint)


def _line(one: Finding) -> str:
    return f"{'repaired: ' if one.repaired else ''}{one.what}" + (f"\n  next: {one.hint}" if one.hint else "")


def _orphans(lab: Lab) -> Iterator[Finding]:
    """Processes of a run whose supervisor is gone and that still hold the device are ended before anything else starts there."""
    machine = device.detect()
    held = device.holder(machine)
    if not held or held.get("lab") != str(lab.root) or not isinstance(held.get("pid"), int) or backlog.lives(held["pid"]):
        return
    if left := supervise.left_by(held["pid"]):
        supervise.end(left)
        yield Finding(f"{held.get('run')}: its supervisor (pid {held['pid']}) was killed, {len(left)} of its processes were ended", repaired=True)
    deadline = time.monotonic() + PATIENCE
    while (still := device.holder(machine)) == held and time.monotonic() < deadline:
        time.sleep(0.02)  # its guard is about to be done, or what was killed is about to go
    if still == held:
        yield Finding(
            f"{machine.name} is held by processes of {held.get('run')}, whose supervisor (pid {held['pid']}) is gone", "lsof shows them: kill -9 PID"
        )


def _swept(lab: Lab) -> Iterator[Finding]:
    """Temporary folders of processes that are gone, of whichever lab: said in the log, for no record is concerned."""
    if folders := filesystem.sweep():
        logger.info(f"{len(folders)} temporary folder(s) of killed processes removed: {', '.join(str(one) for one in folders[:3])}")
    yield from ()


def _torn_lines(lab: Lab) -> Iterator[Finding]:
    """A record that ends in the middle of a line: that was never read by anybody, so it goes."""
    names = os.listdir(lab.runs) if lab.runs.is_dir() else ()
    for name in sorted(name for name in names if name.endswith(".jsonl")):  # records that are appended to line by line
        path = lab.runs / name
        if _ends_whole(path):
            continue
        with results.locked(lab):
            whole, _, torn = path.read_bytes().rpartition(b"\n")
            if not torn:
                continue  # its writer was just not done
            try:
                json.loads(torn)
                text, what = path.read_bytes() + b"\n", "its last line had lost its end of line"
            except ValueError:
                kept = lab.runs / f"{name}.torn"
                kept.write_bytes(torn)
                text, what = whole + b"\n" if whole else b"", f"it ended in the middle of a line, which is kept in 6_runs/{kept.name}"
            receipts.write_atomic(path, text.decode())
        yield Finding(f"6_runs/{name}: {what}", repaired=True)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return size == 0 or file.read() == b"\n"


def _table(lab: Lab) -> Iterator[Finding]:
    """A row that was not appended after its receipt; then the table as a whole, where it is damaged. Waits for nobody who only judges."""
    if results.at_rest(lab):
        return
    with results.locked(lab):
        results.resume(lab)
        try:
            results.require_sound(lab)
            return
        except LabError:
            pass
    yield from _mended_table(lab)


def _open_runs(lab: Lab) -> Iterator[Finding]:
    """A row for every run whose process is gone, and what follows from every run that is over."""
    over = []
    for run_id in backlog.opened(lab):
        if not (backlog.over(lab, run_id) or backlog.started(lab, run_id)):
            continue  # it waits, and must find its claim free when it starts
        with backlog.claim(lab, run_id) as mine:
            if not mine:  # it is alive, and goes on to its receipt
                continue
            if not backlog.over(lab, run_id):
                try:
                    _interrupted(lab, run_id)
                except LabError as error:  # the others do not wait for it
                    yield Finding(error.what, error.hint)
                    continue
                yield Finding(f"{run_id}: the process that ran it is gone; it has its row, with the status interrupted", repaired=True)
        over.append(run_id)
    if over:
        yield from _follow_up(lab, over)


def _interrupted(lab: Lab, run_id: str) -> Receipt:
    """Receipt and row of a run whose process is gone. Its checkpoint and logs stay where they are."""
    folder = lab.run(run_id)
    try:
        told = json.loads((folder / "started.json").read_text())
    except ValueError as error:
        raise LabError(f"6_runs/{run_id}/started.json is damaged: {error}", hint=f"rm 6_runs/{run_id}/started.json queues the run again") from error
    log = folder / "train.log"
    tail = log.read_text(errors="replace")[-supervise.TAIL :] if log.exists() else ""
    measured = {"status": "interrupted", "reason": "the process that ran it is gone, without having written a receipt", "log_tail": tail}
    _clear(folder)
    request = receipts.request(lab, run_id)
    return results.conclude(lab, problem.load(lab), request, told["time"], 0.0, {name: told[name] for name in FACTS} | measured, [])


def _clear(folder: Path) -> None:
    for name in SCRATCH:
        shutil.rmtree(folder / name, ignore_errors=True)
    for temporary in folder.glob(".*.json-????????"):  # whoever wrote it was killed
        temporary.unlink(missing_ok=True)
    (folder / "waiting.json").unlink(missing_ok=True)


def _lost(lab: Lab) -> Iterator[Finding]:
    """Runs that were asked for and that pueue does not know (any more) are queued again; leftovers of asking are removed."""
    folder = receipts.open_marks(lab)
    marks = [name for name in os.listdir(folder) if not name.startswith(".")] if folder.is_dir() else []
    waiting = [name for name in marks if not backlog.over(lab, name) and not backlog.started(lab, name)]
    if not waiting:
        return
    with dispatch.nobody_asks(lab) as free:
        if not free:  # somebody is between writing requests and queueing them: next time
            return
        queued = backlog.unfinished(lab) if pueue.answers() else {}
        for name in waiting:
            if name in queued:
                continue
            if backlog.asked_for(lab, name):
                with backlog.claim(lab, name) as mine:
                    if mine and not backlog.over(lab, name):
                        yield _requeue(lab, receipts.request(lab, name))
            elif not lab.run(name).exists() or all(path.name.startswith(".request.json-") for path in lab.run(name).iterdir()):
                dispatch.forget(lab, name)  # killed before the request was written, or after it was taken back


def _requeue(lab: Lab, request: Request) -> Finding:
    folder = lab.run(request.run_id)
    _clear(folder)
    if "at-start" in request.flags:
        told = {"time": receipts.now(), "what": "the command that was to run it was ended before it had started"}
        receipts.write_atomic(folder / "cancelled.json", json.dumps(told))
        backlog.finished_with(lab, request.run_id)
        return Finding(f"{request.run_id} was started by hand and ended before it had begun: withdrawn", repaired=True)
    count = folder / "requeued.json"
    times = json.loads(count.read_text())["times"] if count.exists() else []
    if len(times) >= TRIES:
        return Finding(f"{request.run_id} was queued {len(times) + 1} times and never started", f"pueue log shows why; lab cancel {request.run_id}")
    group = dispatch.prepare()
    if request.run_id in backlog.unfinished(lab):  # the daemon that was started just now knows it
        return Finding(f"{request.run_id} waits in a queue that no daemon looked after: one does now", repaired=True)
    receipts.write_atomic(count, json.dumps({"times": [*times, receipts.now()]}))
    snapshot.keep(lab, request.run_id, request.commit, request.code_sha)
    dispatch.add(lab, request, group)
    return Finding(
        f"{request.run_id} was asked for, and pueue had no task for it: queued again (lab cancel {request.run_id} takes it out)", repaired=True
    )


# -- lab doctor ---------------------------------------------------------------------------------------------------


def examine(lab: Lab) -> list[Finding]:
    """Compare all of it: requests, receipts, results.tsv, pueue, verdicts, journal, reports, worktrees, branches, refs. Repairs what is safe.

    Reads every receipt. Starts a daemon where runs wait and none answers.
    """
    lab.runs.mkdir(exist_ok=True)
    steps = (
        _temporaries,
        _orphans,
        _swept,
        _torn_lines,
        _unmarked,
        _table,
        _mended_table,
        _open_runs,
        _daemons,
        _lost,
        _tasks,
        _judged,
        _told,
        _pinned,
        _trees,
    )
    found = list(_steps(lab, steps))
    return list(dict.fromkeys(found))  # two steps may stumble over the same damage


def text(found: list[Finding]) -> str:
    """For people: what was repaired, then what is left."""
    lines = [_line(one) for one in sorted(found, key=lambda one: not one.repaired)]
    left = sum(not one.repaired for one in found)
    return "\n".join([*lines, f"{len(found) - left} repaired, {left} left for you" if found else "everything agrees"])


def _temporaries(lab: Lab) -> Iterator[Finding]:
    """Files that are about to take the place of a record. With the lab's lock held nobody writes one: whoever began was killed."""
    with results.locked(lab):
        left = [path for name in (lab.results.name, lab.journal.name) for path in lab.root.glob(f".{name}-????????")]
        left += [path for folder in (lab.runs, lab.reports) for path in folder.glob(".*-????????") if path.is_file()]
        for path in left:
            path.unlink(missing_ok=True)
    if left:
        yield Finding(f"{len(left)} half-written file(s) removed: {', '.join(path.name for path in left[:3])}", repaired=True)


def _unmarked(lab: Lab) -> Iterator[Finding]:
    """Runs that began here and of which the lab lost sight."""
    known, elsewhere = set(backlog.opened(lab)) | _with_rows(lab), []
    tasks = backlog.unfinished(lab) if pueue.answers() else {}
    for folder in _folders(lab, without=known):
        if not (folder / "request.json").exists() or backlog.over(lab, folder.name):
            continue
        if any((folder / name).exists() for name in ("started.json", "waiting.json")) or folder.name in tasks:
            receipts.mark_open(lab, folder.name)
        else:
            elsewhere.append(folder.name)
    if elsewhere:
        what = f"{len(elsewhere)} run(s) were asked for, {elsewhere[-1]} for one, and neither ran here nor are queued here (a clone has no queue)"
        yield Finding(
            what, f"lab cancel {elsewhere[-1]}, or just queue {receipts.request(lab, elsewhere[-1]).idea}; where they run elsewhere, nothing"
        )


def _folders(lab: Lab, without: set[str]) -> list[Path]:
    """The folders of runs, oldest first, but for those that need no look."""
    with os.scandir(lab.runs) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.name not in without and entry.is_dir())
    return [lab.run(name) for name in names]


def _with_rows(lab: Lab) -> set[str]:
    """The runs that have a row: whatever became of them is over."""
    return {line.partition("\t")[0] for line in lab.results.read_text(errors="replace").splitlines()[1:]} if lab.results.exists() else set()


def _daemons(lab: Lab) -> Iterator[Finding]:
    """Two daemons at one socket, of which one is answered by nobody; a group that stands still."""
    pids = pueue.listening()
    if len(pids) > 1:
        told = f"{len(pids)} pueue daemons have the same socket (pids {', '.join(map(str, pids))}), and only the last can be asked: two queues run"
        yield Finding(told, f"kill {' '.join(map(str, pids[:-1]))}")
    if pueue.answers() and (tasks := backlog.unfinished(lab)):
        groups = pueue.groups()
        for name in sorted({task.group for task in tasks.values() if task.state in ("Queued", "Paused")}):
            if groups[name].status != "Running" and pueue.revive(name):
                yield Finding(f"pueue's group {name} was paused since its daemon was started again: it runs", repaired=True)
            elif groups[name].status != "Running":
                yield Finding(f"pueue's group {name} is paused, and runs wait in it", f"pueue start --group {name}")


def _tasks(lab: Lab) -> Iterator[Finding]:
    """Tasks that are to carry out a run which has no request any more."""
    for task in backlog.tasks(lab) if pueue.answers() else ():
        run_id = backlog.named_by(task)
        if run_id is None or task.state in ("Done", "Running") or (lab.run(run_id) / "request.json").exists():
            continue
        path = f"6_runs/{run_id}/request.json"
        if commit := _in_git(lab, path):
            receipts.write_atomic(lab.root / path, _git(lab, "show", f"{commit}:{path}"))
            receipts.mark_open(lab, run_id)
            yield Finding(f"{run_id} waits in pueue, and its request was gone: it is back, from commit {commit}", repaired=True)
        else:
            pueue.remove(task.id)
            yield Finding(
                f"{run_id} waited in pueue, and its request is gone for good: taken out of the queue", "just queue its idea again", repaired=True
            )


def _judged(lab: Lab) -> Iterator[Finding]:
    """Verdicts that are due, and journal entries and reports that a recorded one still lacks."""
    for verdict in settle.settle(lab):
        yield Finding(
            f"{verdict.idea} ({verdict.stage}) was not judged, though its runs were in: {verdict.verdict}, {verdict.gate.decision}", repaired=True
        )
    for verdict in verdicts.records(lab):
        for run_id in (*verdict.runs, *verdict.against_runs):
            if not (lab.run(run_id) / "receipt.json").exists():
                yield Finding(f"the verdict on {verdict.idea} ({verdict.stage}) rests on {run_id}, which has no receipt", _back(lab, run_id))


def _back(lab: Lab, run_id: str) -> str:
    commit = _in_git(lab, f"6_runs/{run_id}/receipt.json")
    return f"git checkout {commit} -- 6_runs/{run_id}" if commit else f"6_runs/{run_id} was never committed: put it back from a backup"


def _told(lab: Lab) -> Iterator[Finding]:
    """Whether the journal's entries and the reports are what was written."""
    for what in journal.audit(lab):
        yield Finding(what, f"git log -p {lab.journal.name}, and git diff, show what was there; git checkout -- {lab.journal.name}")
    last = {(one.idea, one.stage): one for one in verdicts.records(lab) if one.final and not one.control}
    written = report.written(lab)
    for verdict in last.values():
        path = written.get(report.name(verdict))
        if path is None:
            yield Finding(f"the report on {verdict.idea} ({verdict.stage}) was gone: {report.write(lab, verdict).name}", repaired=True)
        elif verdict.runs[-1] not in path.read_text():
            again = f"lab report {verdict.idea} --stage {verdict.stage}"
            yield Finding(f"{path.name} does not name {verdict.runs[-1]}, on which its verdict rests", again)


def _pinned(lab: Lab) -> Iterator[Finding]:
    """The code of every run, kept by a ref of its own whatever happens to branches."""
    refs = set(_git(lab, "for-each-ref", "--format=%(refname:lstrip=3)", snapshot.REF).splitlines())
    lost = [receipts.request(lab, folder.name) for folder in _folders(lab, without=refs) if (folder / "request.json").exists()]
    have = _objects(lab, [request.commit for request in lost])
    for request in lost:
        if request.commit in have:
            snapshot.keep(lab, request.run_id, request.commit, request.code_sha)
    if back := [request.run_id for request in lost if request.commit in have]:
        yield Finding(f"the code of {len(back)} run(s) was not pinned any more, {back[-1]} for one: it is", repaired=True)
    if gone := [request.run_id for request in lost if request.commit not in have]:
        yield Finding(f"git does not have the code of {len(gone)} run(s), {gone[-1]} for one", snapshot.FETCH)
    if refs := {name for name in refs if not os.path.isdir(f"{lab.runs}/{name}")}:
        name = max(refs)
        yield Finding(
            f"{len(refs)} ref(s) pin code of runs that have no folder, {snapshot.REF}{name} for one",
            f"git checkout -- 6_runs/{name}, or: git update-ref -d {snapshot.REF}{name}",
        )


def _objects(lab: Lab, names: list[str]) -> set[str]:
    """Those that git has."""
    done = subprocess.run(
        ["git", "-C", str(lab.root), "cat-file", "--batch-check"], input="\n".join(names) + "\n", capture_output=True, text=True, check=False
    )
    return {line.partition(" ")[0] for line in done.stdout.splitlines() if not line.endswith(" missing")}


def _trees(lab: Lab) -> Iterator[Finding]:
    """Worktrees and branches that were deleted by hand. A run does not need either: its code is pinned by refs of the lab."""
    if gone := [line for line in _git(lab, "worktree", "list", "--porcelain").splitlines() if line.startswith("prunable")]:
        _git(lab, "worktree", "prune", "--expire=now")
        yield Finding(
            f"{len(gone)} worktree(s) whose folder is gone: git knows now; just worktree SLUG makes one again from its branch", repaired=True
        )
    for tree in sorted(lab.worktrees.iterdir()) if lab.worktrees.is_dir() else ():
        if not (tree / ".git").exists():
            yield Finding(f"5_worktrees/{tree.name} is no worktree", f"move it away, then: just worktree {tree.name}")
            continue
        head = (tree / ".git").read_text().removeprefix("gitdir:").strip()
        name = _head(Path(head))
        if name is None:
            yield Finding(
                f"5_worktrees/{tree.name} has lost its place in git ({head} is not there)",
                f"git worktree repair, or move it away, then: just worktree {tree.name}",
            )
        elif name.startswith("refs/heads/") and not _git(lab, "rev-parse", "--quiet", "--verify", name, accept=(0, 1)):
            tip = _last_tip(Path(head))
            if tip not in _objects(lab, [tip]):
                yield Finding(
                    f"the branch of 5_worktrees/{tree.name} is gone",
                    f"git branch {name.removeprefix('refs/heads/')} COMMIT (git for-each-ref {snapshot.REF} has its runs' code)",
                )
                continue
            _git(lab, "update-ref", name, tip)
            yield Finding(
                f"the branch {name.removeprefix('refs/heads/')} of 5_worktrees/{tree.name} was gone: it is back at {tip[:12]}", repaired=True
            )


def _head(place: Path) -> str | None:
    """What a worktree has checked out: a branch, or a commit. None where git knows no such worktree."""
    try:
        return (place / "HEAD").read_text().strip().removeprefix("ref: ")
    except OSError:
        return None


def _last_tip(place: Path) -> str:
    """The commit that a worktree stood at last, as git wrote down itself; "" where it did not."""
    try:
        return (place / "logs" / "HEAD").read_text().splitlines()[-1].split(" ")[1]
    except (OSError, IndexError):
        return ""


# -- the table ----------------------------------------------------------------------------------------------------

MARKS = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")  # what git leaves in a file that two branches have appended to


def _mended_table(lab: Lab) -> list[Finding]:
    """results.tsv against the receipts. Rows that are missing or out of place are put back; a row that says something else is named, and left."""
    with results.locked(lab):
        content = lab.results.read_bytes() if lab.results.exists() else b""
        if _agreed(lab, content):
            return []
        text = content.decode(errors="replace")
        *have, torn = text.replace("\r\n", "\n").split("\n")
        try:
            want = results.rebuilt(lab)
        except LabError:
            if lost := [line for line in have[1:] if line and not (lab.run(line.partition("\t")[0]) / "receipt.json").exists()]:
                return [_strange(lab, line, {}) for line in lost]
            raise
        if text == "\n".join([*want, ""]) or (not text and want == [results.HEADER]):
            _agree(lab, content)
            return []
        by_run = {line.partition("\t")[0]: line for line in want}
        known = set(want)
        strange = [line for line in have if line and line not in known and not line.startswith(MARKS)]
        strange += [torn] if torn and not any(line.startswith(torn) for line in want) else []
    if strange:
        return [_strange(lab, line, by_run) for line in strange]
    count = results.rebuild(lab)
    was = "was cut off or had lost rows"
    if len(set(have)) >= len(want):
        was = "had its rows in another order, twice, with other line ends, or between the marks of a merge"
    if not text:
        was = "was gone"
    return [Finding(f"results.tsv {was}: {count} rows are back, from their receipts{_kept(lab, text)}", "git diff results.tsv", repaired=True)]


def _agreed(lab: Lab, content: bytes) -> bool:
    """Whether the table goes on from where it agreed with the receipts before, row by row: then only the new ones are compared.

    Whether an old receipt was edited since is for `lab check` and `lab audit`, which read them all.
    """
    try:
        told = json.loads(_noted(lab).read_text())
        start, digest = told["bytes"], told["sha"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if hashlib.sha256(content[:start]).hexdigest() != digest or not content.endswith(b"\n"):
        return False
    lines = content.decode(errors="replace").removesuffix("\n").split("\n")
    runs = [line.partition("\t")[0] for line in lines[1:]]
    first = content.count(b"\n", 0, start)
    if len(set(runs)) < len(runs) or not all(os.path.exists(f"{lab.runs}/{run_id}/receipt.json") for run_id in runs):
        return False
    for before, line, run_id in zip(lines[first - 1 :], lines[first:], runs[first - 1 :], strict=False):
        receipt = receipts.receipt(lab, run_id)
        if receipt.prev != results.sha(before) or results.line(results.row(receipt)) != line:
            return False
    if any((folder / "receipt.json").exists() for folder in _folders(lab, without=set(runs))):
        return False
    _agree(lab, content)
    return True


def _agree(lab: Lab, content: bytes) -> None:
    if content:
        receipts.write_atomic(_noted(lab), json.dumps({"bytes": len(content), "sha": hashlib.sha256(content).hexdigest()}))


def _noted(lab: Lab) -> Path:
    return lab.runs / ".index" / "agreed.json"


def _kept(lab: Lab, text: str) -> str:
    return f"; what was there is in {(lab.runs / results.KEPT).relative_to(lab.root)}" if text else ""


def _strange(lab: Lab, line: str, by_run: dict[str, str]) -> Finding:
    """The first place in which a line of results.tsv is not what its receipt says."""
    run_id, _, _ = line.partition("\t")
    look = "git diff results.tsv shows who wrote what; lab rebuild takes the receipts' word"
    if run_id in by_run:
        pairs = zip(results.COLUMNS, line.split("\t"), by_run[run_id].split("\t"), strict=False)
        name, is_, was = next((pair for pair in pairs if pair[1] != pair[2]), ("its end", line, by_run[run_id]))
        what = "the header" if run_id == results.COLUMNS[0] else f"the row of {run_id}"
        return Finding(f"results.tsv: {what} was edited: {name} is {is_!r}, and {was!r} in its receipt", look)
    if backlog.RUN_ID.fullmatch(run_id):
        return Finding(f"results.tsv: {run_id} has a row and no receipt", _back(lab, run_id))
    return Finding(f"results.tsv has a line of no run: {line[:80]!r}", look)


def _in_git(lab: Lab, path: str) -> str:
    """A commit that has this file, the newest; "" where none has."""
    return _git(lab, "log", "-1", "--format=%h", "--diff-filter=AM", "--all", "--", path)


def _git(lab: Lab, *args: str, accept: tuple[int, ...] = (0,)) -> str:
    """What git prints. Raises LabError with its own words when it refuses."""
    done = subprocess.run(["git", "-C", str(lab.root), *args], capture_output=True, text=True, check=False)
    if done.returncode not in accept:
        raise LabError(f"git {args[0]} in {lab.root}: {done.stderr.strip()}", hint=f"git -C {lab.root} status")
    return done.stdout.strip()

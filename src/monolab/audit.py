"""Audit: a run derived again from its receipt, a number trained again from its snapshot. Says what differs, repairs nothing.

Three outcomes of a check: it agrees; it differs, which is damage or tampering; or it could not be made here, and why (the checkpoint was removed
to save disk, the data or the environment are others by now). An audit reads what candidates wrote: it trusts no field before it has the right type.
"""

import contextlib
import hashlib
import json
import math
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from monolab import conditions, dataset, device, disk, filesystem, journal, phases, receipts, results, snapshot, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, NOT_CODE, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request
from monolab.stats import Floor
from monolab.supervise import Outcome

RECORD = "audits.jsonl"  # in 6_runs/
TOLERANCE = {
    "cpu": 1e-6,
    "gpu": 1e-3,
}  # relative, of one checkpoint's metric from scoring to scoring: round-off, which on a GPU depends on its library
WITHIN = 2.0  # noise floors that a retrained number may lie away
OBJECT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")  # git's name of a commit or tree


@dataclass(frozen=True)
class Finding:
    """One check of one run. `ok` is None where it could not be made; `what` names the first place that differs, or the reason."""

    name: str
    ok: bool | None
    what: str
    numbers: dict[str, list[float]] = field(default_factory=dict)  # by metric: in the receipt, then as scored again


@dataclass(frozen=True)
class Whole:
    """The audit of a whole lab: the checks that cost no scoring for every run, and those of `sampled` scored again."""

    seed: int  # of the sample
    sampled: tuple[str, ...]
    records: tuple[str, ...]  # what is wrong with the records and belongs to no run that can be audited
    runs: dict[str, list[Finding]]

    @property
    def wrong(self) -> int:
        """Runs with a difference, and damaged records."""
        return len(self.records) + sum(any(one.ok is False for one in found) for found in self.runs.values())


@dataclass(frozen=True)
class Reproduction:
    """What came of training a run again. `ok` is None where it differs and there is no noise floor to judge by."""

    run: str
    time: str
    ok: bool | None
    what: str
    metric: str
    value: float  # in the receipt
    again: float | None  # None when training or scoring failed
    difference: float | None
    floor: float | None  # sd of the baseline over its seeds at this stage
    floor_seeds: int | None
    same_checkpoint: bool | None  # byte for byte
    elsewhere: tuple[str, ...]  # what is not as it was: the environment, the hardware


@dataclass(frozen=True)
class _Facts:
    """What is the same for every run of one audit, looked up once."""

    lab: Lab
    problem: Problem
    machine: device.Device
    env_sha: str
    data: str  # the hash of the prepared data; "" when they are not as they were prepared
    data_wrong: str
    lines: tuple[str, ...]  # of results.tsv, header first; the last is cut off where the file is
    rows: dict[str, list[int]]  # run id: where its rows stand, counted from 1
    heads: dict[str, int]  # hash of a line: where it stands first
    receipts: dict[str, Receipt]  # those that can be read
    damaged: dict[str, str]  # run id: what is wrong with its receipt
    disagreements: tuple[str, ...]  # what results.audit finds
    refs: dict[str, str]  # run id: the commit that its ref pins
    committed: dict[str, str]  # run id: git's hash of its receipt as it was committed first
    history: tuple[str, ...]  # HEAD, then the commits that changed the scorer, newest first
    scorers: dict[str, str] = field(default_factory=dict)  # commit: hash of its scorer, filled as they are looked at


# -- one run, or all ----------------------------------------------------------------------------------------------


def audit(lab: Lab, run_id: str) -> list[Finding]:
    """Derive a run again from its receipt, and score its checkpoint again; `run_id` may be a part of it that only one run has.

    Takes the device's lock while it scores. What came out is appended to 6_runs/audits.jsonl. Raises LabError for an unknown run.
    """
    facts = _facts(lab)
    if run_id not in facts.rows and run_id not in facts.receipts and run_id not in facts.damaged:
        run_id = receipts.resolve(lab, run_id)
    found = _checks(facts, run_id)
    found += _scored_again(facts, run_id, found)
    _record(lab, run_id, "audit", _summary(found), {name: pair for one in found for name, pair in one.numbers.items()})
    return found


def audit_all(lab: Lab, sample: int | None = None, seed: int | None = None) -> Whole:
    """Check every finished run, and score again a random `sample` of those that have a number (all of them when None).

    `seed` draws the same sample again; without one it is drawn so that no candidate can know it beforehand.
    """
    facts = _facts(lab)
    seed = secrets.randbits(32) if seed is None else seed
    measured = sorted(run_id for run_id, receipt in facts.receipts.items() if receipt.status == "ok")
    sampled = tuple(sorted(random.Random(seed).sample(measured, len(measured) if sample is None else min(max(sample, 0), len(measured)))))
    found = {}
    for run_id in sorted(facts.receipts.keys() | facts.damaged.keys() | facts.rows.keys()):
        found[run_id] = _checks(facts, run_id)
        if run_id in sampled:
            logger.info(f"{run_id}: scoring its checkpoint again")
            found[run_id] += _scored_again(facts, run_id, found[run_id])
        if run_id in sampled or any(one.ok is False for one in found[run_id]):
            _record(lab, run_id, "audit", _summary(found[run_id]), {name: pair for one in found[run_id] for name, pair in one.numbers.items()})
    whole = Whole(seed, sampled, _records_of_no_run(facts, found.keys()), found)
    _record(
        lab, None, "audit of the whole lab", _summary_of_all(whole), {"runs": len(found), "sample": len(sampled), "seed": seed, "wrong": whole.wrong}
    )
    return whole


def _checks(facts: _Facts, run_id: str) -> list[Finding]:
    """Everything but the scoring."""
    receipt = facts.receipts.get(run_id)
    if receipt is None:
        return [_no_receipt(facts, run_id)]
    found = [_receipt(receipt), _committed(facts, run_id), _row(facts, receipt), _chain(facts, receipt), _request(facts.lab, receipt)]
    found += [_ref(facts, receipt), _code(facts.lab, receipt), _scorer(facts, receipt), _data(facts, receipt)]
    found += [_environment(facts, receipt), _hardware(facts, receipt)]
    return [*found, _checkpoint(facts.lab, receipt)] if receipt.status == "ok" else found


# -- what every run shares ----------------------------------------------------------------------------------------


def _facts(lab: Lab) -> _Facts:
    problem = problems.load(lab)
    try:
        history = _git(lab, "log", "--format=%H", "HEAD", "--", "program.md", *problem.scorer).split()  # program.md names the scorer's files
    except subprocess.CalledProcessError as error:
        raise LabError(f"git log in {lab.root}: {error.stderr.strip()}", hint=f"git -C {lab.root} status") from error
    readable, damaged = {}, {}
    for path in sorted(lab.runs.glob("*/receipt.json")):
        run_id = path.parent.name
        try:
            receipt = receipts.receipt(lab, run_id)
            if wrong := _misshapen(receipt, run_id):
                raise LabError(f"{path} is damaged: {wrong}")
            readable[run_id] = receipt
        except LabError as error:
            damaged[run_id] = error.what.replace(f"{lab.root}/", "")
        except (TypeError, UnicodeDecodeError) as error:
            damaged[run_id] = f"6_runs/{run_id}/receipt.json is damaged: {error}"
    text = lab.results.read_bytes().decode(errors="replace") if lab.results.exists() else results.HEADER + "\n"
    lines = tuple(text.removesuffix("\n").split("\n"))
    try:
        data, wrong = dataset.verify(lab), ""
    except LabError as error:
        data, wrong = "", error.what
    return _Facts(
        lab=lab,
        problem=problem,
        machine=device.detect(),
        env_sha=conditions.environment_sha(),
        data=data,
        data_wrong=wrong,
        lines=lines,
        rows=_rows(lines),
        heads={results.sha(text): number for number, text in reversed(tuple(enumerate(lines, start=1)))},
        receipts=readable,
        damaged=damaged,
        disagreements=tuple(damaged.values()) or tuple(results.audit(lab)),
        refs=_refs(lab),
        committed=_first_committed(lab),
        history=tuple(dict.fromkeys([_git(lab, "rev-parse", "HEAD"), *history])),
    )


def _git(lab: Lab, *args: str, index: Path | None = None) -> str:
    """What git prints. Raises CalledProcessError when it refuses, as it does for an object that is not there."""
    env = os.environ | {"GIT_NO_REPLACE_OBJECTS": "1"}  # else `git replace` could show a commit as another
    env |= {} if index is None else {"GIT_INDEX_FILE": str(index)}
    return subprocess.run(["git", "-C", str(lab.root), *args], env=env, capture_output=True, text=True, check=True).stdout.strip()


def _refs(lab: Lab) -> dict[str, str]:
    lines = _git(lab, "for-each-ref", "--format=%(refname) %(objectname)", snapshot.REF).splitlines()
    return {name.removeprefix(snapshot.REF): commit for name, commit in (line.split(" ") for line in lines)}


def _first_committed(lab: Lab) -> dict[str, str]:
    """Git's hash of every receipt that HEAD's history holds, as it was when it was added first."""
    found: dict[str, str] = {}
    added = _git(
        lab, "log", "--reverse", "--diff-filter=A", "--raw", "--no-abbrev", "--no-renames", "--format=", "HEAD", "--", "6_runs/*/receipt.json"
    )
    for line in added.splitlines():
        about, _, path = line.partition("\t")
        found.setdefault(Path(path).parent.name, about.split(" ")[3])
    return found


def _rows(lines: tuple[str, ...]) -> dict[str, list[int]]:
    """Run id: where its rows stand among the lines of results.tsv, counted from 1 with the header."""
    found: dict[str, list[int]] = {}
    for number, text in enumerate(lines[1:], start=2):
        found.setdefault(text.partition("\t")[0], []).append(number)
    return found


def _misshapen(receipt: Receipt, run_id: str) -> str:
    """The first field that does not hold what it must; "" when all do."""
    kinds = typing.get_type_hints(type(receipt))
    for name in (one.name for one in fields(receipt)):
        if not _fits(getattr(receipt, name), kinds[name]):
            return f"its {name} is {getattr(receipt, name)!r}"
    if receipt.run_id != run_id:
        return f"its run_id is {receipt.run_id!r}"
    for name in ("commit", "code_sha"):
        if not OBJECT.fullmatch(getattr(receipt, name)):
            return f"its {name} is {getattr(receipt, name)!r}, which names no git object"
    try:
        _finished(receipt)
    except ValueError as error:
        return str(error)
    return ""


def _finished(receipt: Receipt) -> float:
    """Unix time, cut to whole seconds. Raises ValueError for another format than `receipts.now`."""
    return datetime.strptime(receipt.finished, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _fits(value, kind) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(name, str) and _fits(one, float) for name, one in value.items())
    if kind in (int, float):
        return not isinstance(value, bool) and isinstance(value, int if kind is int else int | float) and math.isfinite(value)
    return isinstance(value, kind)


# -- the records --------------------------------------------------------------------------------------------------


def _no_receipt(facts: _Facts, run_id: str) -> Finding:
    if run_id in facts.damaged:
        return Finding("receipt", False, facts.damaged[run_id])
    rows = facts.rows.get(run_id)
    if rows:
        return Finding("receipt", False, f"results.tsv line {rows[0]} is a row of this run, which has no 6_runs/{run_id}/receipt.json")
    if run_id in facts.committed:
        return Finding("receipt", False, f"6_runs/{run_id}/receipt.json was committed, and is missing")
    folder = facts.lab.run(run_id)
    why = next((name for name in ("cancelled", "refused") if (folder / f"{name}.json").exists()), "")
    return Finding("receipt", None, f"there is none: the run {f'was {why}' if why else 'waits, runs or was left'} and has no number to audit")


def _receipt(receipt: Receipt) -> Finding:
    """Whether it agrees with itself."""

    def wrong(what: str) -> Finding:
        return Finding("receipt", False, f"6_runs/{receipt.run_id}/receipt.json: {what}")

    if receipt.status not in receipts.STATUSES:
        return wrong(f"status is {receipt.status!r}")
    if (receipt.status == "ok") != (receipt.value is not None):
        return wrong(f"value is {receipt.value!r} with the status {receipt.status}")
    if receipt.status == "ok":
        if receipt.metrics.get(receipt.metric) != receipt.value:
            return wrong(f"value is {receipt.value!r}, its metrics have {receipt.metric} {receipt.metrics.get(receipt.metric)!r}")
        counted = receipt.metrics.get("params")
        if receipt.params != (None if counted is None else int(counted)):
            return wrong(f"params is {receipt.params!r}, its metrics have params {counted!r}")
    told = receipt.status if receipt.value is None else f"{receipt.metric} {receipt.value!r}"
    return Finding("receipt", True, f"whole, and agrees with itself: {told}, finished {receipt.finished}")


def _committed(facts: _Facts, run_id: str) -> Finding:
    """Whether the receipt is what git has of it. A row does not hold all of a receipt, so that not every edit shows there."""
    first = facts.committed.get(run_id)
    if first is None:
        return Finding("committed", None, "the receipt is not in main's history yet: an edit of what no other check covers would not be seen")
    content = (facts.lab.run(run_id) / "receipt.json").read_bytes()
    now = hashlib.new("sha1" if len(first) == 40 else "sha256", b"blob %d\0" % len(content) + content).hexdigest()
    if now == first:
        return Finding("committed", True, "the receipt is the one that was committed first")
    try:
        was, is_ = json.loads(_git(facts.lab, "cat-file", "blob", first)), json.loads(content)
        place = _first_difference({name: (was.get(name), is_.get(name)) for name in (*was, *is_)}, "when it was committed", "now")
    except (ValueError, AttributeError):
        place = "it was no receipt then"
    return Finding("committed", False, f"6_runs/{run_id}/receipt.json: {place or 'laid out in another way than when it was committed'}")


def _first_difference(pairs: dict[str, tuple], one: str, other: str) -> str:
    """Such as: value 1.002 in the row, 1.001 in its receipt (and 2 more). "" where all pairs agree."""
    differ = [name for name, (a, b) in pairs.items() if a != b]
    if not differ:
        return ""
    a, b = (_short(value) for value in pairs[differ[0]])
    more = f" (and {len(differ) - 1} more)" if len(differ) > 1 else ""
    return f"{differ[0]} {a} {one}, {b} {other}{more}"


def _short(value) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else repr(text)
    return (text if len(text) <= 60 else f"{text[:57]}...") or "(empty)"


def _row(facts: _Facts, receipt: Receipt) -> Finding:
    numbers = facts.rows.get(receipt.run_id, [])
    if not numbers:
        return Finding("row", False, f"results.tsv has no row of {receipt.run_id}, whose receipt is from {receipt.finished}")
    if len(numbers) > 1:
        return Finding("row", False, f"results.tsv line {numbers[1]}: a second row of {receipt.run_id}, the first is line {numbers[0]}")
    if facts.lines[0] != results.HEADER:
        return Finding("row", False, "results.tsv line 1: it is not the header")
    text, due = facts.lines[numbers[0] - 1], results.line(results.row(receipt))
    cells, want = text.split("\t"), due.split("\t")
    if text == due:
        return Finding("row", True, f"results.tsv line {numbers[0]} is what the receipt says")
    if len(cells) != len(want):
        return Finding("row", False, f"results.tsv line {numbers[0]}: {len(cells)} cells, not {len(want)}")
    place = _first_difference(dict(zip(results.COLUMNS, zip(cells, want, strict=True), strict=True)), "in the row", "in its receipt")
    return Finding("row", False, f"results.tsv line {numbers[0]}: {place}")


def _chain(facts: _Facts, receipt: Receipt) -> Finding:
    """The links to the row before this run's and from the row after it, and what results.audit says about it."""
    place = facts.rows.get(receipt.run_id, [0])[0]
    if not place:
        return Finding("chain", False, f"results.tsv: {_lost_after(facts, receipt)}")

    def linked_above(prev: str, line: int) -> bool:
        return facts.heads.get(prev, line) < line

    if receipt.prev and not linked_above(receipt.prev, place):
        return Finding("chain", False, f"results.tsv line {place - 1}: {_lost_before(facts, receipt)}")
    if place < len(facts.lines):
        after = facts.receipts.get(facts.lines[place].partition("\t")[0])
        linked = after is None or not after.prev or linked_above(after.prev, place + 1)
        if not linked and _row_with(facts, after.prev) in (None, receipt.run_id):  # else it is another run's row that is gone
            why = "the row, or row and receipt, are not what they were then"
            return Finding("chain", False, f"results.tsv line {place}: {after.run_id} was appended after a line with another hash: {why}")
    named = [one for one in facts.disagreements if receipt.run_id in one and "differs from its receipt" not in one]  # that is the row's finding
    if named:
        return Finding("chain", False, named[0])
    elsewhere = f"; {len(facts.disagreements)} about other runs: lab check" if facts.disagreements else ""
    if not receipt.prev:
        return Finding("chain", None, f"the receipt was written while the table was damaged, and is linked to no row before it{elsewhere}")
    return Finding("chain", True, f"results.tsv line {place} is linked to line {facts.heads[receipt.prev]} by its hash{elsewhere}")


def _row_with(facts: _Facts, sha: str) -> str | None:
    """The run whose row, by its receipt, has this hash."""
    return next((one.run_id for one in facts.receipts.values() if results.sha(results.line(results.row(one))) == sha), None)


def _lost_before(facts: _Facts, receipt: Receipt) -> str:
    """What happened to the row that this run's was appended after."""
    before = _row_with(facts, receipt.prev)
    if before is None:
        return f"neither a line up to here nor any receipt has the hash that {receipt.run_id} was appended after: a row and its receipt were edited or removed"
    rows = facts.rows.get(before)
    return f"the row of {before}, after which {receipt.run_id} was appended, {f'was edited or moved (line {rows[0]})' if rows else 'was removed'}"


def _lost_after(facts: _Facts, receipt: Receipt) -> str:
    mine = results.sha(results.line(results.row(receipt)))
    after = next((one.run_id for one in facts.receipts.values() if one.prev == mine), None)
    return f"the row of {receipt.run_id} is gone" + (f"; {after} was appended after it" if after else "; no other was appended after it")


def _request(lab: Lab, receipt: Receipt) -> Finding:
    path = lab.run(receipt.run_id) / "request.json"
    if not path.is_file():
        return Finding("request", False, f"6_runs/{receipt.run_id}/request.json is missing")
    try:
        asked = receipts.request(lab, receipt.run_id)
    except (LabError, TypeError, UnicodeDecodeError) as error:
        return Finding("request", False, f"6_runs/{receipt.run_id}/request.json is damaged: {error.what if isinstance(error, LabError) else error}")
    pairs = {one.name: (getattr(asked, one.name), getattr(receipt, one.name)) for one in fields(Request)}
    pairs["flags"] = (asked.flags, receipt.flags[: len(asked.flags)])  # the run adds its own at the end
    if place := _first_difference(pairs, "in the request", "in its receipt"):
        return Finding("request", False, f"6_runs/{receipt.run_id}/request.json: {place}")
    return Finding("request", True, f"what was asked, {asked.queued}, is what the receipt says was run")


def _records_of_no_run(facts: _Facts, audited: typing.Iterable[str]) -> tuple[str, ...]:
    """Traces of runs that are gone with their receipts and rows; and what is wrong with the table as a whole, and with the journal."""
    gone = [run_id for run_id in sorted(facts.committed) if run_id not in audited]
    found = [f"6_runs/{run_id}/receipt.json was committed; it is gone, with its row" for run_id in gone]
    for run_id in sorted(facts.refs):
        if run_id not in gone and run_id not in audited and not (facts.lab.run(run_id) / "request.json").is_file():
            found.append(f"{snapshot.REF}{run_id} pins the code of a run whose folder in 6_runs/ is gone, with its row")
    if facts.lines[0] != results.HEADER:
        found.append("results.tsv line 1: it is not the header")
    if facts.lab.results.exists() and not facts.lab.results.read_bytes().endswith(b"\n"):
        found.append(f"results.tsv line {len(facts.lines)}: the file ends in the middle of it")
    return (*found, *journal.audit(facts.lab))


# -- the code, the scorer and the conditions ----------------------------------------------------------------------


def _ref(facts: _Facts, receipt: Receipt) -> Finding:
    pinned = facts.refs.get(receipt.run_id)
    if pinned is None:
        return Finding("ref", False, f"{snapshot.REF}{receipt.run_id} is gone, which pins the snapshot; in a clone: {snapshot.FETCH}")
    if pinned != receipt.commit:
        return Finding("ref", False, f"{snapshot.REF}{receipt.run_id} points at {pinned[:12]}, the receipt's commit is {receipt.commit[:12]}")
    return Finding("ref", True, f"{snapshot.REF}{receipt.run_id} points at {pinned[:12]}")


def _code(lab: Lab, receipt: Receipt) -> Finding:
    """Whether the commit's tree without the lab's own files is code_sha; computed, so that the tree is there even after a `git gc`."""
    with filesystem.temporary() as scratch:
        index = Path(scratch, "index")
        try:
            _git(lab, "read-tree", f"{receipt.commit}^{{commit}}", index=index)
        except subprocess.CalledProcessError:
            return Finding("code", False, f"the commit {receipt.commit[:12]} is not in this repository; in a clone: {snapshot.FETCH}")
        _git(lab, "rm", "-r", "-f", "--cached", "-q", "--ignore-unmatch", "--", *NOT_CODE, index=index)
        tree = _git(lab, "write-tree", index=index)
    if tree == receipt.code_sha:
        return Finding("code", True, f"the code of commit {receipt.commit[:12]} is code_sha {tree[:12]}")
    try:
        changed = _git(lab, "diff-tree", "-r", "--name-only", receipt.code_sha, tree).splitlines()
        place = f", they differ first in {changed[0]}" if changed else ", which is no tree"
    except subprocess.CalledProcessError:
        place = ", which is not in this repository"
    return Finding("code", False, f"the code of commit {receipt.commit[:12]} is tree {tree[:12]}, code_sha is {receipt.code_sha[:12]}{place}")


def _scorer(facts: _Facts, receipt: Receipt) -> Finding:
    commit = _scorer_commit(facts, receipt.eval_sha)
    files = ", ".join(facts.problem.scorer)
    if commit is None:
        count = len(facts.history)
        return Finding(
            "scorer", False, f"eval_sha {receipt.eval_sha[:12]}: none of the {count} version(s) of {files} that main's history has is this scorer"
        )
    if commit == facts.history[0]:
        return Finding("scorer", True, f"eval_sha {receipt.eval_sha[:12]} is main's scorer as it is now")
    when = _git(facts.lab, "show", "-s", "--format=%cs", commit)
    return Finding("scorer", True, f"eval_sha {receipt.eval_sha[:12]} is the scorer as of commit {commit[:12]} ({when}); it was changed since")


def _scorer_commit(facts: _Facts, eval_sha: str) -> str | None:
    """The newest commit of main's history whose scorer is the one wanted."""
    for commit in facts.history:
        if commit not in facts.scorers:
            with filesystem.temporary() as scratch:
                facts.scorers[commit] = _export_scorer(facts, commit, Path(scratch, "scorer"))
        if facts.scorers[commit] == eval_sha:
            return commit
    return None


def _export_scorer(facts: _Facts, commit: str, dest: Path) -> str:
    """The scorer's files as `commit` has them, and as its own program.md names them; returns their hash, "" where they were not there yet."""
    try:
        snapshot.export(facts.lab, commit, dest.parent / "program", ("program.md",))
        stated, _ = problems.front_matter(dest.parent / "program" / "program.md")  # not `load`: an older lab's may have other fields
        snapshot.export(facts.lab, commit, dest, tuple(map(str, stated.get("scorer", Problem.scorer))))
    except LabError:
        return ""
    finally:
        shutil.rmtree(dest.parent / "program", ignore_errors=True)
    return conditions.files_sha(dest, sorted(path for path in dest.rglob("*") if path.is_file()))


def _data(facts: _Facts, receipt: Receipt) -> Finding:
    if facts.data == receipt.data_sha:
        return Finding("data", True, f"data_sha {receipt.data_sha[:12]}: every file hashed again")
    other = "cannot be scored again here as it was"
    manifest = facts.lab.data / dataset.MANIFEST
    if facts.data or not manifest.is_file():
        now = f"what is prepared now is {facts.data[:12]}" if facts.data else facts.data_wrong
        return Finding("data", None, f"measured on data {receipt.data_sha[:12]}, {now}: {other}")
    try:
        prepared = json.loads(manifest.read_text())["data_sha"]
    except (ValueError, KeyError, TypeError):
        prepared = receipt.data_sha
    if prepared != receipt.data_sha:
        return Finding("data", None, f"measured on data {receipt.data_sha[:12]}, which are not prepared now ({facts.data_wrong}): {other}")
    return Finding("data", False, f".data: {facts.data_wrong}")


def _environment(facts: _Facts, receipt: Receipt) -> Finding:
    if facts.env_sha == receipt.env_sha:
        return Finding("environment", True, f"env_sha {receipt.env_sha[:12]}")
    return Finding(
        "environment",
        None,
        f"measured with the packages {receipt.env_sha[:12]}, installed are {facts.env_sha[:12]}: cannot be scored again here as it was",
    )


def _hardware(facts: _Facts, receipt: Receipt) -> Finding:
    if facts.machine.hardware == receipt.hardware:
        return Finding("hardware", True, receipt.hardware)
    return Finding("hardware", None, f"measured on {receipt.hardware}, here is {facts.machine.hardware}: cannot be scored again here as it was")


def _kind(receipt: Receipt) -> str:
    return "gpu" if "NVIDIA" in receipt.hardware else "cpu"


# -- the checkpoint and its number --------------------------------------------------------------------------------


def _checkpoint(lab: Lab, receipt: Receipt) -> Finding:
    place = f"6_runs/{receipt.run_id}/checkpoint"
    folder = lab.root / place
    files = phases.trained_files(folder)
    if not files:
        gone = disk.removal(lab, receipt.run_id) or f"{'is empty' if folder.exists() else 'was removed'}, as may be done to save disk"
        return Finding("checkpoint", None, f"{place} {gone}")
    now = conditions.files_sha(folder, files)
    if now == receipt.checkpoint_sha:
        return Finding("checkpoint", True, f"checkpoint_sha {now[:12]}, {len(files)} file(s)")
    late = [path for path in files if path.stat().st_mtime > _finished(receipt) + 1]
    names = ", ".join(path.relative_to(folder).as_posix() for path in (late or files)[:3])
    which = f"written after the run had finished: {names}" if late else f"none is newer than the run; its files: {names}"
    return Finding("checkpoint", False, f"{place} hashes to {now[:12]}, the receipt says {receipt.checkpoint_sha[:12] or '(none)'}; {which}")


@contextlib.contextmanager
def _laid_out(facts: _Facts, receipt: Receipt) -> Iterator[Path]:
    """A folder as a run's, elsewhere: the snapshot's code, the scorer that it was scored by, and an empty checkpoint."""
    with filesystem.temporary() as folder:
        (folder / "checkpoint").mkdir()
        snapshot.export(facts.lab, receipt.code_sha, folder / "code")
        _export_scorer(facts, _scorer_commit(facts, receipt.eval_sha), folder / "scorer")
        yield folder


def _score(facts: _Facts, receipt: Receipt, folder: Path, held: int) -> tuple[dict[str, float], str]:
    """The metrics from a fresh scorer, or why there are none."""
    problem = replace(facts.problem, metric=receipt.metric)
    with contextlib.redirect_stdout(sys.stderr):  # what the programs say is no part of the answer
        outcome, metrics = phases.score(facts.lab, folder, facts.machine, problem, receipt.stage, held)
    if outcome.status != "ok":
        return {}, _failed("the scorer", outcome)
    return ({}, metrics) if isinstance(metrics, str) else (metrics, "")


def _failed(who: str, outcome: Outcome) -> str:
    """How a child ended that did not end well. Raises LabError where it was this command that was told to stop."""
    if outcome.status == "killed":
        raise LabError(f"stopped by a signal while {who} ran", hint="start it again")
    lines = [line.strip() for line in outcome.tail.splitlines() if line.strip()]
    return f"{who} ended with {outcome.status}, exit code {outcome.returncode}: {lines[-1][:300] if lines else '(no output)'}"


def _scored_again(facts: _Facts, run_id: str, found: list[Finding]) -> list[Finding]:
    """Score the kept checkpoint in a fresh scorer. A second time where a metric beside the problem's differs.

    Some are times or come of random probes: those are told from the rest by their differing between the two fresh scorings. One that is round-off
    alone (a largest difference between answers, now 0, now 1e-7) can be the same twice: beside the relative tolerance they have an absolute one.
    """
    receipt = facts.receipts.get(run_id)
    if receipt is None or receipt.status != "ok":
        return []
    known = {one.name: one for one in found}
    for name in ("receipt", "code", "scorer", "data", "checkpoint"):
        if known[name].ok is not True:
            return [Finding("score", None, f"not scored again, because of the {name}: see above")]
    if _kind(receipt) != facts.machine.kind:
        there = "cpu" if _kind(receipt) == "cpu" else "cuda"
        return [Finding("score", None, f"not scored again on other hardware than it was measured on: LAB_DEVICE={there} lab audit {run_id}")]

    def fresh() -> tuple[dict[str, float], str]:
        source = facts.lab.run(run_id) / "checkpoint"
        with _laid_out(facts, receipt) as folder:
            for path in phases.trained_files(source):  # what is not in its hash is not given to it either
                copy = folder / "checkpoint" / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            return _score(facts, receipt, folder, held)

    with device.lock(facts.machine, logger.info, run=f"audit of {run_id}", lab=str(facts.lab.root)) as held:
        metrics, failed = fresh()
        others = [name for name in sorted(receipt.metrics.keys() | metrics.keys()) if name != receipt.metric]
        tolerance = TOLERANCE[facts.machine.kind]
        off = [name for name in others if not _close(receipt.metrics.get(name), metrics.get(name), tolerance, tolerance)] if metrics else []
        second, second_failed = fresh() if off else ({}, "")
    elsewhere = known["environment"].ok is None or known["hardware"].ok is None
    wrong = None if elsewhere else False
    excuse = "; the environment or the hardware is another by now, which may be why" if elsewhere else ""
    if failed:
        return [Finding("score", wrong, f"{receipt.metric} {receipt.value!r} in the receipt, none from a fresh scorer: {failed}{excuse}")]
    now = metrics[receipt.metric]
    both = f"{receipt.metric} {receipt.value!r} in the receipt, {now!r} from a fresh scorer"
    pair = {receipt.metric: [receipt.value, now]}
    if _close(receipt.value, now, tolerance):
        answers = [Finding("score", True, both, pair)]
    else:
        answers = [Finding("score", wrong, f"{both}: more than {tolerance:g} apart (relative){excuse}", pair)]
    if not others:
        return answers
    if second_failed:
        return [
            *answers,
            Finding("metrics", None, f"{', '.join(off)} differ, and scoring once more, to see whether they vary, failed: {second_failed}"),
        ]
    fixed = [name for name in off if name not in metrics or (name in second and second[name] == metrics[name])]
    told = [f"{name} {receipt.metrics.get(name)!r} in the receipt, {metrics.get(name)!r} from a fresh scorer" for name in fixed or off]
    pairs = {name: [receipt.metrics[name], metrics[name]] for name in others if name in receipt.metrics and name in metrics}
    if fixed:
        more = f" (and {len(fixed) - 1} more)" if len(fixed) > 1 else ""
        return [*answers, Finding("metrics", wrong, f"{told[0]}, twice the same{more}{excuse}", pairs)]
    agree = f"{len(others) - len(off)} of {len(others)} other metric(s) agree"
    vary = f"; not the same from one scoring to the next, so not comparable: {'; '.join(told)}" if off else ""
    return [*answers, Finding("metrics", True, agree + vary, pairs)]


def _close(a: float | None, b: float | None, relative: float, absolute: float = 1e-12) -> bool:
    return a is not None and b is not None and math.isclose(a, b, rel_tol=relative, abs_tol=absolute)


# -- training again -----------------------------------------------------------------------------------------------


def reproduce(lab: Lab, run_id: str) -> Reproduction:
    """Train the run's snapshot again with its seed, stage and options, score it as it was scored, and compare the two numbers.

    In a folder elsewhere, under the device's lock; a check and no run: no receipt, no row, but a line in 6_runs/audits.jsonl. Within the noise floor means
    no further away than twice the baseline's standard deviation over seeds. Raises LabError for an unknown run, for one that has no number, and where
    it cannot be trained as it was (other data, another kind of device, code or scorer gone).
    """
    facts = _facts(lab)
    run_id = receipts.resolve(lab, run_id)
    receipt = facts.receipts.get(run_id)
    if receipt is None:
        raise LabError(f"{run_id} cannot be trained again: {_no_receipt(facts, run_id).what}", hint=f"lab audit {run_id}")
    if receipt.value is None:
        raise LabError(f"{run_id} has no number to reproduce: {receipt.status}, {receipt.reason}", hint=f"lab log {run_id}")
    for one in (_code(lab, receipt), _scorer(facts, receipt), _data(facts, receipt)):
        if one.ok is not True:
            raise LabError(f"{run_id} cannot be trained again: {one.what}", hint=f"lab audit {run_id}")
    if _kind(receipt) != facts.machine.kind:
        there = "cpu" if _kind(receipt) == "cpu" else "cuda"
        raise LabError(
            f"{run_id} was measured on {receipt.hardware}, here is {facts.machine.hardware}", hint=f"LAB_DEVICE={there} lab reproduce {run_id}"
        )
    floor, no_floor = _floor(lab, receipt)
    with (
        _laid_out(facts, receipt) as folder,
        device.lock(facts.machine, logger.info, run=f"reproduction of {run_id}", lab=str(lab.root)) as held,
    ):
        again, same, failed = _trained_again(facts, receipt, folder, held)
    ok, what = _compared(receipt, again, floor, no_floor, failed)
    here = [one for one in (_environment(facts, receipt), _hardware(facts, receipt)) if one.ok is None]
    if here and ok is not True:
        what += f"; the {' and the '.join(one.name for one in here)} changed since, which may be why"
    found = Reproduction(
        run=run_id,
        time=receipts.now(),
        ok=ok,
        what=what,
        metric=receipt.metric,
        value=receipt.value,
        again=again,
        difference=None if again is None else again - receipt.value,
        floor=floor and floor.sd,
        floor_seeds=floor and floor.seeds,
        same_checkpoint=same,
        elsewhere=tuple(one.name for one in here),
    )
    names = ("value", "again", "difference", "floor", "floor_seeds")
    _record(lab, run_id, "reproduce", what, {name: getattr(found, name) for name in names})
    return found


def _trained_again(facts: _Facts, receipt: Receipt, folder: Path, held: int) -> tuple[float | None, bool | None, str]:
    """The new number, whether the checkpoint is the old one byte for byte, and what failed."""
    with contextlib.redirect_stdout(sys.stderr):
        trained = phases.train(facts.lab, folder, facts.machine, facts.problem, receipt.stage, receipt.seed, receipt.args, held)
    if trained.status != "ok":
        return None, None, _failed("train.py", trained)
    files = phases.trained_files(folder / "checkpoint")
    if not files:
        return None, None, "train.py ended without writing a checkpoint"
    same = conditions.files_sha(folder / "checkpoint", files) == receipt.checkpoint_sha
    metrics, failed = _score(facts, receipt, folder, held)
    return metrics.get(receipt.metric), same, failed


def _floor(lab: Lab, receipt: Receipt) -> tuple[Floor | None, str]:
    """The baseline's noise floor at the run's stage, under the run's conditions; or None, and why there is none."""
    try:
        arm = verdicts.arm(lab, results.load(lab), BASELINE, receipt.stage, receipt)
        floor = arm and arm.floor
    except LabError as error:
        return None, error.what
    return floor, "" if floor else f"the baseline has {len(arm.values) if arm else 0} of 3 seeds at stage {receipt.stage}"


def _compared(receipt: Receipt, again: float | None, floor: Floor | None, no_floor: str, failed: str) -> tuple[bool | None, str]:
    if again is None:
        return False, f"not reproduced: {failed}"
    both = f"{receipt.metric} {receipt.value!r} in the receipt, {again!r} trained again"
    if again == receipt.value:
        return True, f"identical to the digit: {both}"
    off = abs(again - receipt.value)
    if floor is None:
        return None, f"not identical: {both}; there is no noise floor to judge {off:.3g} by: {no_floor}"
    limit = f"{WITHIN:g} x {floor.sd:.3g} (the noise floor: the baseline's standard deviation over {floor.seeds} seeds)"
    if off <= WITHIN * floor.sd:
        return True, f"within the noise floor: {both}; {off:.3g} apart, at most {limit}"
    return False, f"not reproduced: {both}; {off:.3g} apart, more than {limit}"


# -- what is said and kept ----------------------------------------------------------------------------------------


def _record(lab: Lab, run_id: str | None, kind: str, what: str, numbers: dict) -> None:
    """Append a line to 6_runs/audits.jsonl; `run` is null for the audit of a whole lab."""
    with results.locked(lab), (lab.runs / RECORD).open("a") as file:
        file.write(json.dumps({"run": run_id, "time": receipts.now(), "kind": kind, "what": what, "numbers": numbers}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _summary(found: list[Finding]) -> str:
    counts = {ok: sum(one.ok is ok for one in found) for ok in (True, False, None)}
    unknown = f", {counts[None]} could not be made" if counts[None] else ""
    first = next((one for one in found if one.ok is False), None)
    told = f"{counts[True]} of {len(found)} checks agree{unknown}"
    return told if first is None else f"{told}, {counts[False]} differ{'s' if counts[False] == 1 else ''}, first: {first.name}: {first.what}"


def _summary_of_all(whole: Whole) -> str:
    scored = sum(one.name == "score" and one.ok is not None for found in whole.runs.values() for one in found)
    agree = sum(not any(one.ok is False for one in found) for found in whole.runs.values())
    records = f"; {len(whole.records)} record(s) of no run" if whole.records else ""
    return f"{agree} of {len(whole.runs)} runs without a difference; {scored} of a sample of {len(whole.sampled)} (seed {whole.seed}) scored again{records}"


def text(run_id: str, found: list[Finding], *, only_wrong: bool = False) -> str:
    """For people: a line a check (of those that differ, where `only_wrong`), and the sum of it."""
    mark = {True: "ok  ", False: "FAIL", None: "?   "}
    lines = [f"{mark[one.ok]} {one.name:<11}  {one.what}" for one in found if one.ok is False or not only_wrong]
    return "\n".join([run_id, *lines, f"-> {_summary(found)}"])


def text_of_all(whole: Whole) -> str:
    """For people: the runs with a difference, check by check; a line for each of the rest that was scored again or could not be."""
    lines = []
    for run_id, found in whole.runs.items():
        if any(one.ok is False for one in found):
            lines.append(text(run_id, found, only_wrong=True))
        elif run_id in whole.sampled:
            lines.append(f"{run_id}: {next(one.what for one in found if one.name == 'score')}")
    lines += [f"FAIL {one}" for one in whole.records]
    return "\n".join([*lines, _summary_of_all(whole)])

"""results.tsv: one row per run, appended by the lab from the run's receipt, chained by hash."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from monolab import receipts
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.receipts import Receipt

if TYPE_CHECKING:
    import polars as pl


class Row(NamedTuple):
    """One line of results.tsv. `value`, `peak_gb` and `params` are None where nothing was measured."""

    run_id: str
    time: str
    idea: str
    commit: str
    parent: str
    stage: str
    seed: int
    metric: str
    value: float | None
    status: str
    seconds: float
    peak_gb: float | None
    params: int | None
    eval_sha: str
    flags: str
    label: str


COLUMNS = Row._fields
HEADER = "\t".join(COLUMNS)


def row(receipt: Receipt) -> Row:
    return Row(
        run_id=receipt.run_id,
        time=receipt.finished,
        idea=receipt.idea,
        commit=receipt.commit[:12],
        parent=receipt.parent,
        stage=receipt.stage,
        seed=receipt.seed,
        metric=receipt.metric,
        value=receipt.value,
        status=receipt.status,
        seconds=receipt.seconds,
        peak_gb=receipt.peak_gb,
        params=receipt.params,
        eval_sha=receipt.eval_sha[:12],
        flags=",".join(receipt.flags),
        label=receipt.label,
    )


def line(row: Row) -> str:
    return "\t".join("" if cell is None else str(cell) for cell in row)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(lab: Lab) -> list[str]:
    """The header and the rows as text. Raises LabError for a wrong header or a row cut off in the middle."""
    if not lab.results.exists():
        return [HEADER]
    try:
        text = lab.results.read_text()
    except UnicodeDecodeError as error:
        raise LabError(f"results.tsv is not text: {error}", hint="lab rebuild") from error
    header, *rows = text.removesuffix("\n").split("\n")
    if header != HEADER:
        was, want = header.split("\t"), list(COLUMNS)
        names = [f"no column {name!r}" for name in want if name not in was] + [f"unknown column {name!r}" for name in was if name not in want]
        raise LabError(f"results.tsv has a wrong header: {'; '.join(names) or 'its columns are in another order'}", hint="lab rebuild")
    if not text.endswith("\n"):
        raise LabError(f"results.tsv ends in the middle of row {len(rows)}", hint="lab rebuild")
    return [header, *rows]


def load(lab: Lab) -> list[Row]:
    """All rows, oldest first; none while there is no file. Raises LabError naming the line that cannot be read."""
    found = []
    for number, text in enumerate(_lines(lab)[1:], start=2):
        try:
            found.append(_row(*text.split("\t")))
        except (TypeError, ValueError) as error:
            cells = text.count("\t") + 1
            why = f"it has {cells} cells, not {len(COLUMNS)}" if cells != len(COLUMNS) else error
            raise LabError(f"results.tsv line {number}: {why}", hint="lab rebuild") from error
    return found


def _row(run_id, time, idea, commit, parent, stage, seed, metric, value, status, seconds, peak_gb, params, eval_sha, flags, label) -> Row:
    value, peak_gb = (float(text) if text else None for text in (value, peak_gb))
    params = int(params) if params else None
    return Row(run_id, time, idea, commit, parent, stage, int(seed), metric, value, status, float(seconds), peak_gb, params, eval_sha, flags, label)


def table(lab: Lab) -> "pl.DataFrame":
    """The rows as a data frame, for people and agents who want to ask their own questions."""
    import polars as pl

    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, int | None: pl.Int64, float | None: pl.Float64}
    return pl.DataFrame(load(lab), schema={name: kinds[kind] for name, kind in Row.__annotations__.items()}, orient="row")


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Held by whoever writes the lab's records: results.tsv, receipts, journals."""
    lab.runs.mkdir(exist_ok=True)
    handle = os.open(lab.lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_whole(lab: Lab) -> list[str]:
    """The table's lines, header first. Raises LabError when it is damaged, or does not hold a row for every receipt."""
    lines = _lines(lab)
    have = {text.split("\t", 1)[0] for text in lines[1:]}
    lost = sorted({path.parent.name for path in lab.runs.glob("*/receipt.json")} - have)
    if lost:
        raise LabError(f"results.tsv lacks the rows of {len(lost)} run(s), {lost[-1]} for one: it was rolled back or cut", hint="lab rebuild")
    return lines


def finish(lab: Lab, complete) -> Receipt:
    """Write a run's receipt, then its row: `complete(prev)` makes the receipt, given the hash of the row before.

    Killed in between, the run is named in `6_runs/.finishing`, and the next to finish appends its row first: the
    chain stays whole. Raises LabError, with the receipt already safe, when results.tsv is damaged.
    """
    with locked(lab):
        _resume(lab)
        try:
            prev, damage = sha(require_whole(lab)[-1]), None
        except LabError as error:
            prev, damage = "", error
        receipt = complete(prev)
        marker = lab.runs / ".finishing"
        receipts.write_atomic(marker, receipt.run_id)
        receipts.write_receipt(lab, receipt)
        if damage is None:
            _append(lab, line(row(receipt)))
        marker.unlink()
    if damage is not None:
        raise damage
    return receipt


def _resume(lab: Lab) -> None:
    marker = lab.runs / ".finishing"
    if not marker.exists():
        return
    receipt = receipts.receipt(lab, marker.read_text())
    try:
        if receipt is not None and sha(_lines(lab)[-1]) == receipt.prev:
            _append(lab, line(row(receipt)))
    except LabError:
        return  # the table is damaged: whoever called is about to say so
    marker.unlink()


def _append(lab: Lab, text: str) -> None:
    new = not lab.results.exists()
    with lab.results.open("a") as file:
        file.write((HEADER + "\n" if new else "") + text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _all_receipts(lab: Lab) -> list[Receipt]:
    return [receipts.receipt(lab, path.parent.name) for path in sorted(lab.runs.glob("*/receipt.json"))]


def rebuild(lab: Lab) -> int:
    """Write results.tsv anew from the receipts, in the order of their chain; returns the number of rows, one per receipt.

    Where the chain forks (results.tsv was once rolled back) or a receipt has no `prev` (it was written while the table
    was damaged), the earlier run goes first. Raises LabError when something leads nowhere: a receipt is missing or edited.
    """
    with locked(lab):
        waiting: dict[str, list[Receipt]] = {}
        for receipt in sorted(_all_receipts(lab), key=lambda receipt: receipt.finished):
            waiting.setdefault(receipt.prev, []).append(receipt)
        lines, heads = [HEADER], {"", sha(HEADER)}
        while waiting:
            prev = sha(lines[-1])
            if prev not in waiting:
                heads_left = heads & waiting.keys()
                if not heads_left:
                    lost = ", ".join(group[0].run_id for group in list(waiting.values())[:3])
                    raise LabError(f"the chain of receipts is broken: nothing leads to {lost}", hint="restore 6_runs/ from git (git log -- 6_runs)")
                prev = min(heads_left, key=lambda head: waiting[head][0].finished)
            lines.append(line(row(waiting[prev].pop(0))))
            heads.add(sha(lines[-1]))
            if not waiting[prev]:
                del waiting[prev]
        if lab.results.exists():
            kept = lab.runs / "results.before-rebuild.tsv"
            kept.write_bytes(lab.results.read_bytes())
        receipts.write_atomic(lab.results, "\n".join(lines) + "\n")
        (lab.runs / ".finishing").unlink(missing_ok=True)
        return len(lines) - 1


def audit(lab: Lab) -> list[str]:
    """What does not agree between results.tsv and the receipts; empty when every number can be traced."""
    try:
        lines = _lines(lab)
        load(lab)
        found = {receipt.run_id: receipt for receipt in _all_receipts(lab)}
    except LabError as error:
        return [str(error)]
    wrong, heads = [], {"", sha(lines[0])}
    for text in lines[1:]:
        run_id = text.split("\t", 1)[0]
        receipt = found.pop(run_id, None)
        if receipt is None:
            wrong.append(f"results.tsv: {run_id} has no receipt")
        elif line(row(receipt)) != text:
            wrong.append(f"results.tsv: the row of {run_id} differs from its receipt")
        elif receipt.prev not in heads:
            wrong.append(f"results.tsv: the row before {run_id} was removed or edited")
        heads.add(sha(text))
    wrong += [f"6_runs/{run_id}: a receipt without a row (lab rebuild)" for run_id in found]
    return wrong

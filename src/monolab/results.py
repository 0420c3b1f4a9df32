"""results.tsv: one row per run, appended by the lab from the run's receipt, chained by hash."""

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from monolab import filesystem, index, receipts
from monolab.errors import LabError
from monolab.paths import BASELINE, Lab
from monolab.problem import Problem
from monolab.receipts import Receipt, Request

if TYPE_CHECKING:
    import sqlite3

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
KEPT = "results.before-rebuild.tsv"  # in 6_runs/: what a rebuild replaced


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


def _bytes(lab: Lab) -> bytes:
    return lab.results.read_bytes() if lab.results.exists() else f"{HEADER}\n".encode()


def _lines(lab: Lab) -> list[str]:
    """The header and the rows as text. Raises LabError for a wrong header or a row cut off in the middle."""
    return _split(_bytes(lab))


def _split(content: bytes) -> list[str]:
    try:
        text = content.decode()
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
    return list(_parsed(_lines(lab)))


def _parsed(lines: list[str], first: int = 1) -> Iterator[Row]:
    """The rows from `lines[first]` on. Raises LabError naming the line that cannot be read."""
    for number, text in enumerate(lines[first:], start=first + 1):
        try:
            yield _row(*text.split("\t"))
        except (TypeError, ValueError) as error:
            cells = text.count("\t") + 1
            why = f"it has {cells} cells, not {len(COLUMNS)}" if cells != len(COLUMNS) else error
            raise LabError(f"results.tsv line {number}: {why}", hint="lab rebuild") from error


def _row(run_id, time, idea, commit, parent, stage, seed, metric, value, status, seconds, peak_gb, params, eval_sha, flags, label) -> Row:
    value, peak_gb = (float(text) if text else None for text in (value, peak_gb))
    params = int(params) if params else None
    return Row(run_id, time, idea, commit, parent, stage, int(seed), metric, value, status, float(seconds), peak_gb, params, eval_sha, flags, label)


def table(lab: Lab) -> "pl.DataFrame":
    """The rows as a data frame, for people and agents who want to ask their own questions."""
    import polars as pl

    kinds = {str: pl.String, int: pl.Int64, float: pl.Float64, int | None: pl.Int64, float | None: pl.Float64}
    return pl.DataFrame(load(lab), schema={name: kinds[kind] for name, kind in Row.__annotations__.items()}, orient="row")


class Rows(Sequence[Row]):
    """The rows as they were when it was made, oldest first, each read when it is asked for: by the index (`index`), not by going through all of them."""

    def __init__(self, lab: Lab):
        self.lab = lab
        with index.reading(lab, ROWS) as entries:
            (self.count,) = entries.execute("SELECT ifnull(max(n), -1) + 1 FROM rows").fetchone()
            (self.failed,) = entries.execute("SELECT count(*) FROM rows WHERE status != 'ok'").fetchone()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place):
        if isinstance(place, slice):
            return load(self.lab)[: self.count][place]
        place = place + self.count if place < 0 else place
        if not 0 <= place < self.count:
            raise IndexError(place)
        return self._where("n = ?", place)[0]

    def __iter__(self) -> Iterator[Row]:
        return iter(load(self.lab)[: self.count])

    def of(self, idea: str, stage: str | None = None) -> list[Row]:
        """The rows of an idea, at one stage or at all."""
        return self._where("idea = ?", idea) if stage is None else self._where("idea = ? AND stage = ?", idea, stage)

    def flagged(self, flag: str) -> list[Row]:
        return self._where("n IN (SELECT n FROM row_flags WHERE flag = ?)", flag)

    def labels(self) -> list[tuple[str, str, str, str]]:
        """Every label that an idea was run under: idea, label, the newest run with it, and its time. In the order of their first runs."""
        with index.reading(self.lab, ROWS) as entries:
            return entries.execute("SELECT idea, label, run_id, time FROM labels WHERE first < ? ORDER BY first", (self.count,)).fetchall()

    def to_settle(self, looks: index.Source, still_open: Iterable[str]) -> list[Row]:
        """The rows that no recorded look has seen, other than the baseline's, which is not judged, and those of the runs `still_open`.

        `looks`: the record of looks (`verdicts.LOOKS`), whose entries say which rows were seen.
        """
        names = tuple(still_open)
        return self._where(f"(judged = 0 OR run_id IN ({', '.join('?' * len(names))}))", *names, also=looks)

    def _where(self, condition: str, *values, also: index.Source | None = None) -> list[Row]:
        with index.reading(self.lab, ROWS, *([also] if also else [])) as entries:
            chosen = f"SELECT run_id, start, length FROM rows WHERE {condition} AND n < {self.count} ORDER BY n"
            found = entries.execute(chosen, values).fetchall()
        if not found:
            return []
        with self.lab.results.open("rb") as file:
            return [_at(file, *place) for place in found]


def view(lab: Lab) -> Rows:
    """The rows, for who wants some of them. Raises LabError for what `load` raises it for."""
    return Rows(lab)


def of(rows: Sequence[Row], idea: str, stage: str | None = None) -> list[Row]:
    """Those of `rows` that belong to an idea, at one stage or at all."""
    if isinstance(rows, Rows):
        return rows.of(idea, stage)
    return [row for row in rows if row.idea == idea and stage in (None, row.stage)]


def flagged(rows: Sequence[Row], flag: str) -> list[Row]:
    """Those of `rows` that carry a flag."""
    return rows.flagged(flag) if isinstance(rows, Rows) else [row for row in rows if flag in row.flags.split(",")]


def _at(file, run_id: str, start: int, length: int) -> Row:
    file.seek(start)
    text = file.read(length + 1).decode(errors="replace")
    if not text.startswith(f"{run_id}\t") or not text.endswith("\n"):
        raise LabError(f"results.tsv was changed while it was read: {run_id} is not where it was", hint="the same command again")
    (row,) = _parsed([HEADER, text[:-1]])
    return row


def _entries(entries: "sqlite3.Connection", lab: Lab) -> None:
    """Make the index's entries of results.tsv anew. Raises LabError where a line of it cannot be read."""
    entries.execute("DELETE FROM rows")
    entries.execute("DELETE FROM row_flags")
    entries.execute("DELETE FROM labels")
    lines = _lines(lab)
    start = len(lines[0]) + 1
    for n, (text, found) in enumerate(zip(lines[1:], _parsed(lines), strict=True)):
        length = len(text.encode())
        _entry(entries, n, found, start, length)
        start += length + 1
    entries.execute("UPDATE rows SET judged = 1 WHERE run_id IN (SELECT run_id FROM look_runs)")


def _entry(entries: "sqlite3.Connection", n: int, row: Row, start: int, length: int) -> None:
    values = (n, row.run_id, row.idea, row.stage, row.status, start, length, int(row.idea == BASELINE))
    entries.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    entries.executemany("INSERT INTO row_flags VALUES (?, ?)", [(flag, n) for flag in set(row.flags.split(",")) if flag])
    newest = "ON CONFLICT (idea, label) DO UPDATE SET run_id = excluded.run_id, time = excluded.time"
    entries.execute(f"INSERT INTO labels VALUES (?, ?, ?, ?, ?) {newest}", (n, row.idea, row.label, row.run_id, row.time))


ROWS = index.Source("results.tsv", lambda lab: lab.results, _entries)


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Held by whoever writes the lab's records: results.tsv, receipts, journals."""
    filesystem.require_one_machine(lab)
    lab.runs.mkdir(exist_ok=True)
    handle = os.open(lab.lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_whole(lab: Lab) -> None:
    """Raises LabError when the table is damaged, or does not hold a row for every receipt. Reads all of the table, and the names of all runs.

    What was read strictly before is known by its hash, and not parsed again.
    """
    before, noted, content = index.identity(lab.results), index.state(lab, ROWS), _bytes(lab)
    digest = hashlib.sha256(content[: noted.sha_bytes])
    same = bool(noted.sha) and digest.hexdigest() == noted.sha and noted.sha_bytes <= len(content) and _is_strict(content[noted.sha_bytes :])
    if not same:
        for _ in _parsed(_split(content)):
            pass
    names = set(os.listdir(os.fsencode(lab.runs))) if lab.runs.is_dir() else set()
    lost = _lost(lab, names - _runs(content))
    if lost:  # one that finishes at this moment has its receipt before its row, and `.finishing` names it until then
        try:
            finishing = (lab.runs / ".finishing").read_text()
        except FileNotFoundError:
            finishing = ""
        have = {finishing, *map(os.fsdecode, _runs(_bytes(lab)))}
        lost = [name for name in lost if name not in have]
    if lost:
        raise LabError(f"results.tsv lacks the rows of {len(lost)} run(s), {lost[-1]} for one: it was rolled back or cut", hint="lab rebuild")
    if lab.results.exists():
        digest = hashlib.sha256(content) if not same else digest
        if same:
            digest.update(content[noted.sha_bytes :])
        index.note(lab, ROWS, before, index.State(True, True, digest.hexdigest(), len(content)), anew=not same)


def _is_strict(lines: bytes) -> bool:
    """Whether these lines, the end of a table, can all be read."""
    try:
        return all(True for _ in _parsed(_split(f"{HEADER}\n".encode() + lines)))
    except LabError:
        return False


def _runs(content: bytes) -> set[bytes]:
    """The first cell of every line."""
    return {line.partition(b"\t")[0] for line in content.splitlines()}


def _lost(lab: Lab, names: set[bytes]) -> list[str]:
    """The folders among `names` that have a receipt."""
    return [name for name in sorted(map(os.fsdecode, names)) if os.path.exists(f"{lab.runs}/{name}/receipt.json")]


def at_rest(lab: Lab) -> bool:
    """Whether nobody is between a receipt and its row, or was killed there, and the table is as it was when it was found sound."""
    noted = index.state(lab, ROWS)
    return noted.fits and noted.whole and not (lab.runs / ".finishing").exists()


def require_sound(lab: Lab) -> None:
    """As `require_whole`, but at once where nothing but this lab has written the table since that was found: whatever the number of rows."""
    noted = index.state(lab, ROWS)
    if not (noted.fits and noted.whole):
        require_whole(lab)


def _last(lab: Lab) -> str:
    """The table's last line, which may be the header, of a table that is sound. Raises LabError where it is not."""
    require_sound(lab)
    if not lab.results.exists():
        return HEADER
    with lab.results.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        reach = 2**16
        while True:
            file.seek(max(end - reach, 0))
            tail = file.read(end - file.tell())
            if tail.count(b"\n") > 1 or reach >= end:
                return tail.decode().removesuffix("\n").rpartition("\n")[2]
            reach *= 2


def finish(lab: Lab, complete) -> Receipt:
    """Write a run's receipt, then its row: `complete(prev)` makes the receipt, given the hash of the row before.

    Killed in between, the run is named in `6_runs/.finishing`, and the next to finish appends its row first: the
    chain stays whole. Raises LabError, with the receipt already safe, when results.tsv is damaged. Costs the same however many rows there are.
    """
    with locked(lab):
        resume(lab)
        try:
            prev, damage = sha(_last(lab)), None
        except LabError as error:
            prev, damage = _last_by_receipts(lab), error
        receipt = complete(prev)
        marker = lab.runs / ".finishing"
        receipts.write_atomic(marker, receipt.run_id)
        receipts.write_receipt(lab, receipt)
        if damage is None:
            _append(lab, row(receipt))
        marker.unlink()
    if damage is not None:
        raise damage
    return receipt


def _last_by_receipts(lab: Lab) -> str:
    """The hash of the row that a rebuild will put before the next one, whatever the clock says; "" where the receipts do not tell either."""
    try:
        return sha(rebuilt(lab)[-1])
    except LabError:
        return ""


def conclude(lab: Lab, problem: Problem, request: Request, started: str, seconds: float, measured: dict, flags: list[str]) -> Receipt:
    """Receipt and row of a run, from what was measured. What was not measured stays empty, never 0."""
    empty = {"value": None, "metrics": {}, "reason": "", "train_seconds": 0.0, "score_seconds": 0.0}
    empty |= {"peak_gb": None, "params": None, "checkpoint_sha": "", "log_tail": ""}
    values = empty | measured
    values["flags"] = (*request.flags, *flags, *values.pop("new_flags", ()))

    def complete(prev: str) -> Receipt:
        return Receipt(**asdict(request) | values, metric=problem.metric, started=started, finished=receipts.now(), seconds=seconds, prev=prev)

    receipt = finish(lab, complete)
    (lab.run(request.run_id) / "started.json").unlink(missing_ok=True)
    return receipt


def resume(lab: Lab) -> None:
    """Append the row of the run that was killed between its receipt and its row, if one was. The caller holds the lab's lock."""
    marker = lab.runs / ".finishing"
    if not marker.exists():
        return
    receipt = receipts.receipt(lab, marker.read_text())
    try:
        if receipt is not None and sha(_lines(lab)[-1]) == receipt.prev:
            _append(lab, row(receipt))
    except LabError:
        return  # the table is damaged: whoever called is about to say so
    marker.unlink()


def _append(lab: Lab, row: Row) -> None:
    """Add a row at the end, and its entry in the index. The caller holds the lab's lock."""
    before, text = index.identity(lab.results), f"{line(row)}\n"
    with lab.results.open("a") as file:
        if file.tell() == 0:
            file.write(f"{HEADER}\n")
            file.flush()
        start = file.tell()
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

    def insert(entries: "sqlite3.Connection") -> None:
        (n,) = entries.execute("SELECT ifnull(max(n), -1) + 1 FROM rows").fetchone()
        _entry(entries, n, row, start, len(text.encode()) - 1)

    index.extend(lab, ROWS, before, insert)


def _all_receipts(lab: Lab) -> list[Receipt]:
    return [receipts.receipt(lab, path.parent.name) for path in sorted(lab.runs.glob("*/receipt.json"))]


def rebuilt(lab: Lab) -> list[str]:
    """The lines of results.tsv, header first, from the receipts alone, in the order of their chain.

    Where the chain forks (results.tsv was once rolled back) or a receipt has no `prev` (it was written while table and
    receipts were damaged), the earlier run goes first. Raises LabError when something leads nowhere: a receipt is missing or edited.
    """
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
    return lines


def rebuild(lab: Lab) -> int:
    """Write results.tsv anew from the receipts, as `rebuilt` has it; returns the number of rows, one per receipt."""
    with locked(lab):
        lines = rebuilt(lab)
        if lab.results.exists():
            kept = lab.runs / KEPT
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

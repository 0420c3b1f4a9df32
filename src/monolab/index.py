"""An index of results.tsv and verdicts.jsonl: which row, which look stands where. It is derived, may be deleted at any time, and decides nothing.

It lies in `6_runs/.index/` (SQLite). What it says of a file is used only while that file is the very one it was made from: same inode, size, time of the
last write and of the last change (`ctime`, which no program can set). Otherwise the file is read as a whole, as strictly as ever, and its entries are made
anew. Two writes within one tick of the file system's clock, some milliseconds, can look like one: `results.require_whole`, at the start of every run, and
`lab check` read the bytes themselves.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from monolab.paths import Lab

VERSION = 3
BUSY_SECONDS = 60.0  # another process that makes the entries of a large file anew takes some seconds
SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE files (name TEXT PRIMARY KEY, identity TEXT NOT NULL, whole INTEGER NOT NULL, sha TEXT NOT NULL, sha_bytes INTEGER NOT NULL);
CREATE TABLE rows (n INTEGER PRIMARY KEY, run_id TEXT NOT NULL, idea TEXT NOT NULL, stage TEXT NOT NULL, status TEXT NOT NULL,
                   start INTEGER NOT NULL, length INTEGER NOT NULL, judged INTEGER NOT NULL);
CREATE TABLE row_flags (flag TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (flag, n)) WITHOUT ROWID;
CREATE INDEX rows_run ON rows (run_id);
CREATE INDEX rows_arm ON rows (idea, stage);
CREATE INDEX rows_failed ON rows (n) WHERE status != 'ok';
CREATE INDEX rows_unjudged ON rows (n) WHERE judged = 0;
CREATE TABLE labels (first INTEGER PRIMARY KEY, idea TEXT NOT NULL, label TEXT NOT NULL, run_id TEXT NOT NULL, time TEXT NOT NULL, UNIQUE (idea, label));
CREATE TABLE looks (n INTEGER PRIMARY KEY, arm INTEGER NOT NULL, stage TEXT NOT NULL, control INTEGER NOT NULL, kept INTEGER NOT NULL, test INTEGER NOT NULL,
                    tested INTEGER NOT NULL, start INTEGER NOT NULL, length INTEGER NOT NULL);
CREATE INDEX looks_tested ON looks (stage, control, n, tested);
CREATE INDEX looks_kept ON looks (stage, control, n) WHERE kept = 1;
CREATE TABLE look_runs (run_id TEXT NOT NULL, look INTEGER NOT NULL, PRIMARY KEY (run_id, look)) WITHOUT ROWID;
CREATE TABLE arms (arm INTEGER PRIMARY KEY, idea TEXT NOT NULL, stage TEXT NOT NULL, look INTEGER NOT NULL, last_run TEXT NOT NULL,
                   control INTEGER NOT NULL, kept INTEGER NOT NULL, final INTEGER NOT NULL, failed INTEGER NOT NULL);
CREATE INDEX arms_idea ON arms (idea, look, failed) WHERE control = 0;
CREATE INDEX arms_kept ON arms (stage) WHERE kept = 1;
CREATE INDEX arms_control ON arms (stage) WHERE control = 1;
CREATE INDEX arms_open ON arms (arm) WHERE final = 0;
CREATE TABLE arm_runs (run_id TEXT NOT NULL, arm INTEGER NOT NULL, PRIMARY KEY (run_id, arm)) WITHOUT ROWID;
CREATE TABLE checkpoints (n INTEGER PRIMARY KEY, run_id TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE counted (rows INTEGER NOT NULL);
CREATE INDEX arm_runs_arm ON arm_runs (arm);
"""
FRESH = ("none", 0, "", 0)


class Source(NamedTuple):
    """A file with entries in the index; `build` clears them and makes them from the file, raising LabError where it is damaged."""

    name: str
    file: Callable[[Lab], Path]
    build: Callable[[sqlite3.Connection, Lab], None]


class State(NamedTuple):
    """What is known of a file. `whole`: as `results.require_whole` has it; `sha`: sha256 of its first `sha_bytes` bytes, when they were last read strictly."""

    fits: bool
    whole: bool
    sha: str
    sha_bytes: int


def identity(path: Path) -> str:
    """What changes whenever the file does; "none" where there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return "none"
    return f"{stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def state(lab: Lab, source: Source) -> State:
    """Whether the entries of a file are those of the file as it is; builds nothing."""
    try:
        with _opened(lab) as connection:
            told, whole, sha, sha_bytes = _noted(connection, source)
    except sqlite3.Error:
        return State(False, False, "", 0)
    return State(told == identity(source.file(lab)), bool(whole), sha, sha_bytes)


@contextmanager
def reading(lab: Lab, *sources: Source) -> Iterator[sqlite3.Connection]:
    """The index, with the entries of `sources` as those files are now. Raises LabError where one of them is damaged.

    Where the index itself is damaged it is made anew; where it cannot be written (another user's lab, a full disk) one is made in memory.
    """
    with _usable(lab, sources) as connection:
        yield connection


def note(lab: Lab, source: Source, before: str, found: State, *, anew: bool) -> None:
    """Remember what was found about the file when its identity was `before`. Its entries are made `anew`, and where they are another file's."""
    with suppress(sqlite3.Error), _opened(lab) as connection, writing(connection):
        if anew or _noted(connection, source)[0] != before:
            source.build(connection, lab)
        if identity(source.file(lab)) == before:
            _note(connection, source, (before, int(found.whole), found.sha, found.sha_bytes))


def extend(lab: Lab, source: Source, before: str, insert: Callable[[sqlite3.Connection], None]) -> None:
    """After an append by this process, under the lab's lock: add its entry, where those of the file as it was before are there.

    What goes wrong here costs time, not truth: the entries no longer fit, and are made anew when they are next asked for.
    """
    with suppress(sqlite3.Error), _opened(lab) as connection, writing(connection):
        told, whole, sha, sha_bytes = _noted(connection, source)
        if told == before:
            insert(connection)
            _note(connection, source, (identity(source.file(lab)), whole, sha, sha_bytes))


# -- below: the file in which it lies -----------------------------------------------------------------------------


def _path(lab: Lab) -> Path:
    return lab.runs / ".index" / "records.sqlite"


@contextmanager
def _opened(lab: Lab) -> Iterator[sqlite3.Connection]:
    connection = _connect(lab)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _usable(lab: Lab, sources: tuple[Source, ...]) -> Iterator[sqlite3.Connection]:
    connection = None
    for connect in (_connect, _connect, lambda _: _memory()):
        try:
            connection = connect(lab)
            _bring_up_to_date(connection, lab, sources)
            break
        except sqlite3.OperationalError:  # it can not be written: next comes the one in memory
            _close(connection)
        except sqlite3.DatabaseError:  # it is damaged
            _close(connection)
            _discard(lab)
        except BaseException:
            _close(connection)
            raise
    try:
        yield connection
    finally:
        connection.close()


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _connect(lab: Lab) -> sqlite3.Connection:
    path = _path(lab)
    try:
        if lab.runs.is_dir():
            path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise sqlite3.OperationalError(str(error)) from error
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # a commit without an fsync, and no half of one after a kill
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            _create(connection)
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


def _create(connection: sqlite3.Connection) -> None:
    with writing(connection):
        if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:  # another process was faster
            return
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f"DROP TABLE {name}")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)


def _discard(lab: Lab) -> None:
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            Path(f"{_path(lab)}{suffix}").unlink()


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _bring_up_to_date(connection: sqlite3.Connection, lab: Lab, sources: tuple[Source, ...]) -> None:
    for source in sources:
        if _noted(connection, source)[0] == identity(source.file(lab)):
            continue
        with writing(connection):
            now = identity(source.file(lab))
            if _noted(connection, source)[0] != now:  # nor has another process made them meanwhile
                source.build(connection, lab)
                _note(connection, source, (now, 0, "", 0))


def _noted(connection: sqlite3.Connection, source: Source) -> tuple[str, int, str, int]:
    return connection.execute("SELECT identity, whole, sha, sha_bytes FROM files WHERE name = ?", (source.name,)).fetchone() or FRESH


def _note(connection: sqlite3.Connection, source: Source, values: tuple[str, int, str, int]) -> None:
    connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", (source.name, *values))

"""Whether a candidate's code holds held-out data: its files against the validation and test splits, before a run may start.

Whoever has the lab's account can read `.data/val`, put it into a worktree and train on it. What is looked for is the data itself, whatever the lab
is about: every run of WINDOW bytes of the held-out files has a hash, of which one in `rate` is kept, chosen by its value (Schleimer, Wilkerson,
Aiken 2003, Winnowing, SIGMOD; the sampling is that of Manber 1994, "0 mod p"), so that a copy is found wherever it begins. In text only letters,
digits and non-ASCII bytes count, and an escape such as \\n is no letter: indentation, line ends, quotes and repr() change nothing.

Code may hold what the training split holds: its windows are taken out of the index, and with them licences, idioms and what is common to the
source. What is left and still found by accident was measured (`benchmarks/copied.py`) with the root problem's 1.6 MB of held-out Python sources, in
337 MB of honest code taken package by package: 176 bytes in the standard library, 32 at most in a package of the environment, none in this
repository; and 520 in Wagtail, 10 MB written on top of Django, of which a twentieth is held out (296 of them in a function copied from there).
LIMIT is twice that, and about 1.7 kB of source: known by heart, they take 0.005 off the root problem's metric, half of its smallest
effect.

Out of reach: what is compressed, encrypted, encoded (base64, integers for letters) or written anew, and splits shorter than WINDOW.
"""

import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from monolab.errors import LabError
from monolab.paths import Lab

if TYPE_CHECKING:
    import numpy as np

WINDOW = 64  # bytes of a run, after what does not count in text was dropped
LIMIT = 1024  # bytes of one held-out split that code may hold
SHARE = 0.25  # and no more than this share of a split that is small
RATE = 8  # one hash in so many is kept, or fewer, so that no more than ENTRIES are
ENTRIES = 1 << 20  # 8 MB
BLOCK = 1 << 19  # bytes that are hashed at once
HELD_OUT = ("val", "test")
TEXT = 0.95  # share of characters that are printable, from which on a file is text
ESCAPE = re.compile(rb"\\+[nrtfvab0'\"]?")
FACTOR = 0xD6E8FEB86659FD93  # odd, so that it has an inverse modulo 2^64


@dataclass(frozen=True)
class Index:
    """Hashes of the held-out data that the training split does not hold, by kind of content."""

    rate: int
    sizes: dict[str, dict[str, int]]  # by kind, text or bytes: by split, how many bytes of it count
    hashes: dict[str, "np.ndarray"]  # by kind: uint64 [n], sorted
    split: dict[str, "np.ndarray"]  # by kind: uint8 [n], where in HELD_OUT each comes from

    def limit(self, split: str) -> int:
        """Bytes of `split` that code may hold."""
        return min(LIMIT, int(SHARE * max(sizes[split] for sizes in self.sizes.values())))


@dataclass(frozen=True)
class Copy:
    """Held-out data in a file."""

    file: str
    line: int  # where the first of it is, from 1
    split: str
    size: int  # bytes of the split that are in the file, estimated from the hashes that are kept
    share: float  # of the split


def refuse(lab: Lab, data_sha: str, code_sha: str) -> None:
    """Raises LabError naming file, line and share where the tree `code_sha` holds more held-out data than code does by accident."""
    if told := _told(lab, data_sha, code_sha):
        raise LabError(told, hint="take it out; a candidate learns from .data/train alone")


@cache
def _told(lab: Lab, data_sha: str, code_sha: str) -> str:
    """The refusal, or ""; once a process for the same code and data, as a run asks before and after it has waited."""
    known = index(lab, data_sha)
    found, total = compare(known, _blobs(lab, code_sha))
    over = [split for split in HELD_OUT if total[split] >= max(known.limit(split), 1)]
    if not over:
        return ""
    worst = max((one for one in found if one.split in over), key=lambda one: one.size)
    others = len({one.file for one in found if one.split in over}) - 1
    more = f" (and in {others} more file{'s' if others > 1 else ''}, {total[worst.split] / _size(known, worst.split):.1%} in all)" if others else ""
    share = f"{worst.share:.0%}" if worst.share >= 0.1 else f"{worst.share:.1%}"
    return f"{worst.file}, line {worst.line}: held-out data is copied there, {share} of the split {worst.split}{more}"


# -- the index ----------------------------------------------------------------------------------------------------


def index(lab: Lab, data_sha: str) -> Index:
    """The index of the prepared data, made when it is asked for first: about a second for 20 MB, and 8 MB at most on the disk.

    It lies in git's folder, which no candidate sees, under the data's hash.
    """
    import numpy as np

    git = subprocess.run(
        ["git", "-C", str(lab.root), "rev-parse", "--path-format=absolute", "--git-common-dir"], capture_output=True, text=True, check=True
    )
    path = Path(git.stdout.strip(), "lab", f"held-out-{data_sha[:16]}.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return _unpacked(file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # a cache: the data itself is what counts
        from loguru import logger

        logger.warning(f"{path} is damaged ({error}) and is made anew")
    made = _build(lab)
    path.parent.mkdir(exist_ok=True)
    handle, temp = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        np.savez(file, **_packed(made))
    os.replace(temp, path)
    for old in path.parent.glob("held-out-*.npz"):
        if old != path:
            old.unlink(missing_ok=True)
    return made


def _packed(made: Index) -> dict:
    import numpy as np

    arrays = {f"{kind}_{name}": getattr(made, name)[kind] for kind in made.hashes for name in ("hashes", "split")}
    sizes = {f"{kind}_sizes": np.array([made.sizes[kind][split] for split in HELD_OUT]) for kind in made.hashes}
    return arrays | sizes | {"rate": np.array(made.rate)}


def _unpacked(file) -> Index:
    kinds = ("text", "bytes")
    return Index(
        rate=int(file["rate"]),
        sizes={kind: dict(zip(HELD_OUT, map(int, file[f"{kind}_sizes"]), strict=True)) for kind in kinds},
        hashes={kind: file[f"{kind}_hashes"] for kind in kinds},
        split={kind: file[f"{kind}_split"] for kind in kinds},
    )


def _build(lab: Lab) -> Index:
    import numpy as np

    files = {split: sorted(path for path in (lab.data / split).rglob("*") if path.is_file()) for split in (*HELD_OUT, "train")}
    total = sum(path.stat().st_size for split in HELD_OUT for path in files[split])
    rate = RATE
    while total / rate > ENTRIES:
        rate *= 2
    hashes: dict = {"text": np.zeros(0, np.uint64), "bytes": np.zeros(0, np.uint64)}
    split: dict = {kind: np.zeros(0, np.uint8) for kind in hashes}
    sizes = {kind: dict.fromkeys(HELD_OUT, 0) for kind in hashes}
    for number, name in enumerate(HELD_OUT):
        for path in files[name]:
            content = path.read_bytes()
            kind = "text" if _is_text(content) else "bytes"
            view = _view(content, kind)
            sizes[kind][name] += len(view)
            for _, some in _sampled(view, rate):
                hashes[kind] = np.concatenate([hashes[kind], some])
                split[kind] = np.concatenate([split[kind], np.full(len(some), number, np.uint8)])
    for kind, every in hashes.items():
        distinct, first = np.unique(every, return_index=True)
        known = np.zeros(len(distinct), bool)
        for path in files["train"] if len(distinct) else ():
            for _, some in _sampled(_view(path.read_bytes(), kind), rate):
                known[_places(distinct, some)[0]] = True
        hashes[kind], split[kind] = distinct[~known], split[kind][first][~known]
    return Index(rate, sizes, hashes, split)


def _is_text(content: bytes) -> bool:
    """Whether nearly all of its first megabyte are characters that people write, in UTF-8."""
    start = content[: 1 << 20].decode(errors="replace")
    strange = sum(start.count(character) for character in ("\ufffd", *(chr(code) for code in range(32) if chr(code) not in "\t\n\r")))
    return strange <= (1 - TEXT) * len(start)


def _view(content: bytes, kind: str) -> "np.ndarray":
    """What counts of a file, uint8 [n]."""
    import numpy as np

    if kind == "bytes":
        return np.frombuffer(content, np.uint8)
    text = np.frombuffer(ESCAPE.sub(b"", content), np.uint8)
    return text[_letters()[text]]


@cache
def _letters() -> "np.ndarray":
    import numpy as np

    return np.array([code >= 128 or chr(code).isalnum() for code in range(256)])


# -- hashing ------------------------------------------------------------------------------------------------------


def _mixed(values: "np.ndarray") -> "np.ndarray":
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit of the value."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@cache
def _tables() -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """A random number for every byte; powers of FACTOR and of its inverse, modulo 2^64."""
    import numpy as np

    def powers(base: int) -> np.ndarray:
        steps = np.full(BLOCK + 1, base, np.uint64)
        steps[0] = 1
        return np.cumprod(steps, dtype=np.uint64)

    return _mixed(np.arange(1, 257, dtype=np.uint64) * np.uint64(FACTOR)), powers(FACTOR), powers(pow(FACTOR, -1, 2**64))


def _sampled(view: "np.ndarray", rate: int) -> Iterator[tuple["np.ndarray", "np.ndarray"]]:
    """Places and hashes of those windows of `view` whose hash is a multiple of `rate`, block by block.

    The hash of a window is that of Karp and Rabin (1987), from running sums: sum_j b[i + j] FACTOR^j, mixed.
    """
    import numpy as np

    letters, powers, inverse = _tables() if len(view) >= WINDOW else (None, None, None)
    for start in range(0, len(view) - WINDOW + 1, BLOCK - WINDOW + 1):
        block = view[start : start + BLOCK]
        sums = np.zeros(len(block) + 1, np.uint64)
        np.cumsum(letters[block] * powers[: len(block)], dtype=np.uint64, out=sums[1:])
        found = _mixed((sums[WINDOW:] - sums[:-WINDOW]) * inverse[: len(block) - WINDOW + 1])
        places = np.flatnonzero((found & np.uint64(rate - 1)) == 0)
        yield places + start, found[places]


def _places(known: "np.ndarray", some: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """Where in `known`, which is sorted, those of `some` stand that are in it; and which of `some` these are."""
    import numpy as np

    place = np.minimum(np.searchsorted(known, some), len(known) - 1)
    mine = np.flatnonzero(known[place] == some)
    return place[mine], mine


# -- the search ---------------------------------------------------------------------------------------------------


def _size(known: Index, split: str) -> int:
    return sum(sizes[split] for sizes in known.sizes.values())


def compare(known: Index, files: Iterable[tuple[str, bytes]]) -> tuple[list[Copy], dict[str, int]]:
    """What `files` (names and contents) hold of the held-out data, however little, and bytes of each split in all files together, counted once."""
    import numpy as np

    found, seen = [], {kind: np.zeros(len(hashes), bool) for kind, hashes in known.hashes.items()}
    for name, content in files:
        for kind, hashes in known.hashes.items():
            if not len(hashes):
                continue
            view = _view(content, kind)
            mine, first = np.zeros(len(hashes), bool), {}
            for places, some in _sampled(view, known.rate):
                here, which = _places(hashes, some)
                mine[here] = True
                for number in np.unique(known.split[kind][here]):
                    at = int(places[which][known.split[kind][here] == number].min())
                    first.setdefault(HELD_OUT[number], at)
            seen[kind] |= mine
            for split, at in first.items():
                size = int(np.count_nonzero(mine & (known.split[kind] == HELD_OUT.index(split)))) * known.rate
                found.append(Copy(name, _line(content, kind, at), split, size, min(size / _size(known, split), 1.0)))
    total = {
        split: sum(int(np.count_nonzero(mine & (known.split[kind] == number))) for kind, mine in seen.items()) * known.rate
        for number, split in enumerate(HELD_OUT)
    }
    return found, total


def _line(content: bytes, kind: str, at: int) -> int:
    """The line in which the byte stands that is at `at` of what counts."""
    if kind == "bytes":
        return content.count(b"\n", 0, at) + 1
    for number, line in enumerate(content.split(b"\n"), start=1):
        at -= len(_view(line, kind))
        if at < 0:
            return number
    return number


def _blobs(lab: Lab, tree: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of a tree, one at a time. Raises LabError when the tree is not there."""
    git = ["git", "-C", str(lab.root)]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", "--full-tree", tree], capture_output=True, check=False)
    if listed.returncode:
        raise LabError(f"git ls-tree {tree}: {listed.stderr.decode(errors='replace').strip()}", hint=f"git -C {lab.root} status")
    with subprocess.Popen([*git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for entry in listed.stdout.split(b"\0")[:-1]:
            facts, _, name = entry.partition(b"\t")
            _, kind, sha = facts.split(b" ")
            if kind != b"blob":
                continue
            process.stdin.write(sha + b"\n")
            process.stdin.flush()
            size = int(process.stdout.readline().rsplit(b" ", 1)[1])
            yield name.decode(errors="replace"), process.stdout.read(size + 1)[:-1]
        process.stdin.close()

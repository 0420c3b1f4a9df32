"""Text for the root problem, split by document into train, val and test (sealed). FROZEN.

    python data.py OUT                               # pinned pure-Python wheels: 22 MB, the same bytes on every machine
    python data.py OUT --source fineweb --limit-mb 500   # FineWeb-edu, streamed with `datasets`
    python data.py OUT --source FOLDER               # your own .txt, .md, .py files and .jsonl files with a `text` field

    python data.py OUT [...] --sealed 2              # the same train and val, and another test split, once the first has been looked at enough

Writes OUT/{train,val,test}/text.bin: UTF-8 bytes, every document followed by one byte 0 (which no document contains). Exact duplicates are
dropped. The SHA-256 of a document alone decides its split (90/5/5) and its place in it, never its position in the source.

A further test split comes from a reserve: documents that are in none of the first three splits, so that nothing was ever trained on them or chosen by
them. Their SHA-256 divides them among the sealed splits 2 to 13, which share no document. The reserve is what data.requirements pins for it
(embedded), what follows in the stream (fineweb), or a FOLDER of yours (--reserve); it is not of the same projects, so another split may be harder.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from loguru import logger

REQUIREMENTS = Path(__file__).with_name("data.requirements")
RESERVE = "# The reserve"  # begins the line below which data.requirements pins the reserve
RESERVED = 12  # sealed splits that a reserve is divided into
FINEWEB_MB = 1000.0  # of FineWeb-edu when no limit is named
SPLITS = ("train", "val", "test")


def stop(what: str, hint: str) -> SystemExit:
    return SystemExit(f"data.py: {what}\n  next: {hint}")


def find_uv() -> str:
    """The `uv` that the launcher names in UV, else the one on PATH, else the one beside this Python."""
    beside = Path(sys.executable).with_name("uv")
    uv = os.environ.get("UV") or shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if not uv or not shutil.which(uv):
        raise stop("uv is needed to fetch the embedded text and was not found" + (f" at {uv}" if uv else ""), "./just data, or set UV to its path")
    return uv


def embedded(reserve: bool = False) -> Iterator[bytes]:
    """Every Python file of the wheels in data.requirements (of those of its reserve). They are unpacked, never imported; uv checks their hashes."""
    first, _, rest = REQUIREMENTS.read_text().partition(RESERVE)
    with tempfile.TemporaryDirectory() as temp:
        folder, pins = Path(temp, "wheels"), Path(temp, REQUIREMENTS.name)
        pins.write_text("#" + rest if reserve else first)
        command = [find_uv(), "pip", "install", "--python", sys.executable, "--target", str(folder), "--no-deps", "--require-hashes"]
        logger.info("fetching the wheels that {} pins{}", REQUIREMENTS.name, " as a reserve" if reserve else "")
        # A progress bar of the child would not survive the pipe; its last lines are shown when it fails.
        done = subprocess.run([*command, "--only-binary", ":all:", "-r", str(pins)], check=False, capture_output=True, text=True)
        if done.returncode:
            tail = "\n  ".join(done.stderr.strip().splitlines()[-6:])
            raise stop(f"the wheels could not be fetched:\n  {tail}", "check the network, then try again; or --source FOLDER for text of your own")
        yield from (path.read_bytes() for path in folder.rglob("*.py"))


def fineweb(start: float, end: float) -> Iterator[bytes]:
    """The documents of FineWeb-edu's 10-billion-token sample that begin at byte `start` of it or later, and before byte `end`."""
    try:
        from datasets import load_dataset

        rows = load_dataset("HuggingFaceFW/fineweb-edu", "sample-10BT", split="train", streaming=True)
        size = 0
        for row in rows:
            if size >= end:
                return
            text = row["text"].encode()
            if size >= start:
                yield text
            size += len(text)
    except Exception as error:  # `datasets` raises whatever its HTTP client does; each of them means: not reachable
        raise stop(f"FineWeb-edu could not be read: {type(error).__name__}: {error}", "check the network; or --source embedded") from error


def folder_texts(folder: Path) -> Iterator[bytes]:
    """The .txt, .md and .py files below `folder`, and the `text` field of every line of its .jsonl files."""
    if not folder.is_dir():
        raise stop(f"{folder} is no folder", "--source embedded | fineweb | FOLDER")
    for path in folder.rglob("*"):
        if path.suffix in (".txt", ".md", ".py") and path.is_file():
            yield path.read_bytes()
        elif path.suffix == ".jsonl" and path.is_file():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    yield json.loads(line)["text"].encode()
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise stop(f"{path}, line {number}: no JSON object with a text field ({error})", "mend or remove the file") from error


def split_of(digest: bytes) -> str:
    """The split that a document with this SHA-256 belongs to: 90 % train, 5 % val, 5 % test."""
    share = int.from_bytes(digest[:8], "big") % 100
    return "train" if share < 90 else "val" if share < 95 else "test"


def sealed_of(digest: bytes) -> int:
    """The sealed split, 2 to 13, that a document of the reserve with this SHA-256 belongs to."""
    return 2 + int.from_bytes(digest[:8], "big") % RESERVED


def distinct(texts: Iterable[bytes]) -> dict[bytes, bytes]:
    """SHA-256 and content of every document but the empty ones."""
    # Byte 0 ends a document, so no document may hold one; line ends become \n so that a checkout's settings do not matter.
    cleaned = (text.replace(b"\0", b"").replace(b"\r\n", b"\n").strip() for text in texts)
    return {hashlib.sha256(text).digest(): text for text in cleaned if text}


def split(texts: Iterable[bytes], limit: float = float("inf")) -> dict[str, list[bytes]]:
    """Documents per split without exact duplicates and empty ones, in the order of their SHA-256; at most `limit` bytes in all."""
    by_digest = distinct(texts)
    splits: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    order = sorted(by_digest)
    sizes = itertools.accumulate(len(by_digest[digest]) + 1 for digest in order)
    for digest, size in zip(order, sizes, strict=True):
        if size > limit:
            break
        splits[split_of(digest)].append(by_digest[digest])
    return splits


def seal(splits: dict[str, list[bytes]], reserve: Iterable[bytes], sealed: int) -> list[bytes]:
    """The documents of the sealed split `sealed` (2 or more), in the order of their SHA-256: of the reserve, in none of the first three splits."""
    used = {hashlib.sha256(document).digest() for documents in splits.values() for document in documents}
    return [document for digest, document in sorted(distinct(reserve).items()) if digest not in used and sealed_of(digest) == sealed]


def main(
    out: Annotated[Path, tyro.conf.Positional],
    source: str = "embedded",
    limit_mb: float | None = None,
    sealed: int = 1,
    reserve: Path | None = None,
) -> None:
    """Prepare the text of the root problem.

    Args:
        out: the folder that receives train/, val/ and test/.
        source: embedded, fineweb, or a folder with .txt, .md, .py and .jsonl files.
        limit_mb: stop at this many megabytes of text (10^6 bytes). For fineweb the default is 1000.
        sealed: which test split is sealed: 1, or one of 2 to 13 out of the reserve. Train and val are the same with each.
        reserve: a folder with text for --sealed 2 and on; what is in a split already is left out.
    """
    if limit_mb is not None and limit_mb <= 0:
        raise stop(f"--limit-mb is {limit_mb}", "a number above 0")
    if not 1 <= sealed <= 1 + RESERVED:
        raise stop(f"--sealed is {sealed}", f"1 to {1 + RESERVED}; when all are worn out, pin another reserve in {REQUIREMENTS.name}")
    limit = float("inf") if limit_mb is None else limit_mb * 1e6
    further: Iterable[bytes] | None = folder_texts(reserve) if reserve else None
    if source == "embedded":
        texts, further = embedded(), further or embedded(reserve=True)
    elif source == "fineweb":
        end = limit if limit_mb else FINEWEB_MB * 1e6
        texts, further = fineweb(0, end), further or fineweb(end, end * (1 + 0.05 * RESERVED))
    else:
        texts = folder_texts(Path(source))
    if sealed > 1 and further is None:
        raise stop(f"--sealed {sealed} needs text that is in no split yet", "--reserve FOLDER")
    splits = split(texts, limit)
    if sealed > 1:
        splits["test"] = seal(splits, further, sealed)
    for name, documents in splits.items():
        if not documents:
            count = sum(map(len, splits.values()))
            raise stop(f"split {name} is empty: {count} documents in all are too few", "name a source with 100 documents or more")
    for name, documents in splits.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "text.bin").write_bytes(b"".join(document + b"\0" for document in documents))
        logger.info("{:<5} {:>6,} documents  {:>12,} bytes", name, len(documents), (out / name / "text.bin").stat().st_size)


if __name__ == "__main__":
    tyro.cli(main)

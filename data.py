"""Text for the root problem, split by document into train, val and test (sealed). FROZEN.

    python data.py OUT                               # pinned pure-Python wheels: 22 MB, the same bytes on every machine
    python data.py OUT --source fineweb --limit-mb 500   # FineWeb-edu, streamed with `datasets`
    python data.py OUT --source FOLDER               # your own .txt, .md, .py files and .jsonl files with a `text` field

Writes OUT/{train,val,test}/text.bin: UTF-8 bytes, every document followed by one byte 0 (which no document contains). Exact duplicates are
dropped. The SHA-256 of a document alone decides its split (90/5/5) and its place in it, never its position in the source.
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


def embedded() -> Iterator[bytes]:
    """Every Python file of the wheels in data.requirements. They are unpacked, never imported; uv checks their hashes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [find_uv(), "pip", "install", "--python", sys.executable, "--target", folder, "--no-deps", "--require-hashes"]
        logger.info("fetching the wheels that {} pins", REQUIREMENTS.name)
        # A progress bar of the child would not survive the pipe; its last lines are shown when it fails.
        done = subprocess.run([*command, "--only-binary", ":all:", "-r", str(REQUIREMENTS)], check=False, capture_output=True, text=True)
        if done.returncode:
            tail = "\n  ".join(done.stderr.strip().splitlines()[-6:])
            raise stop(f"the wheels could not be fetched:\n  {tail}", "check the network, then try again; or --source FOLDER for text of your own")
        yield from (path.read_bytes() for path in Path(folder).rglob("*.py"))


def fineweb(limit: float) -> Iterator[bytes]:
    """The first `limit` bytes of FineWeb-edu's 10-billion-token sample, one document at a time."""
    try:
        from datasets import load_dataset

        rows = load_dataset("HuggingFaceFW/fineweb-edu", "sample-10BT", split="train", streaming=True)
        size = 0
        for row in rows:
            if size >= limit:
                return
            text = row["text"].encode()
            size += len(text)
            yield text
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


def split(texts: Iterable[bytes], limit: float = float("inf")) -> dict[str, list[bytes]]:
    """Documents per split without exact duplicates and empty ones, in the order of their SHA-256; at most `limit` bytes in all."""
    # Byte 0 ends a document, so no document may hold one; line ends become \n so that a checkout's settings do not matter.
    cleaned = (text.replace(b"\0", b"").replace(b"\r\n", b"\n").strip() for text in texts)
    by_digest = {hashlib.sha256(text).digest(): text for text in cleaned if text}
    splits: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    order = sorted(by_digest)
    sizes = itertools.accumulate(len(by_digest[digest]) + 1 for digest in order)
    for digest, size in zip(order, sizes, strict=True):
        if size > limit:
            break
        splits[split_of(digest)].append(by_digest[digest])
    return splits


def main(out: Annotated[Path, tyro.conf.Positional], source: str = "embedded", limit_mb: float | None = None) -> None:
    """Prepare the text of the root problem.

    Args:
        out: the folder that receives train/, val/ and test/.
        source: embedded, fineweb, or a folder with .txt, .md, .py and .jsonl files.
        limit_mb: stop at this many megabytes of text (10^6 bytes). For fineweb the default is 1000.
    """
    if limit_mb is not None and limit_mb <= 0:
        raise stop(f"--limit-mb is {limit_mb}", "a number above 0")
    limit = float("inf") if limit_mb is None else limit_mb * 1e6
    if source == "embedded":
        texts = embedded()
    elif source == "fineweb":
        texts = fineweb(limit if limit_mb else FINEWEB_MB * 1e6)
    else:
        texts = folder_texts(Path(source))
    splits = split(texts, limit)
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

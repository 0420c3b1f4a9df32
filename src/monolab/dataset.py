"""The lab's data: made by its own data.py, hashed, put into `.data/`, and checked before every run."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from monolab import backlog, receipts
from monolab.errors import LabError
from monolab.paths import Lab

SPLITS = ("train", "val", "test")
TAIL = 8000  # bytes of a failed data.py's output that are kept
MANIFEST = "manifest.json"


def prepare(lab: Lab, args: list[str]) -> dict:
    """Run data.py with `args`, hash what it wrote, and put it in place of `.data/`. Returns the manifest.

    The old data stays until the new stands. Raises LabError, with the last lines of output, when data.py fails or leaves
    a split empty; and where another test split was asked for by number (`sealed_number`) and train or val changed with it, or test did not: what was
    trained on or chosen by would be sealed, or what is worn out sealed again. data.py's output goes to stderr as it comes.
    """
    if not (lab.root / "data.py").is_file():
        raise LabError("the lab has no data.py, which makes its data", hint=f"git -C {lab.root} checkout data.py")
    _require_idle(lab)
    with tempfile.TemporaryDirectory(dir=lab.root, prefix=".data-") as temp:
        Path(temp, ".gitignore").write_text("*\n")  # a snapshot taken meanwhile must not pick it up
        new, old = Path(temp, "new"), Path(temp, "old")
        new.mkdir()
        _run(lab, [str(new), *args])
        found = _files(new)
        empty = [split for split in SPLITS if not any(name.startswith(f"{split}/") and stat.st_size for name, stat in found.items())]
        if empty:
            raise LabError(f"data.py left {', '.join(empty)} empty: each of train/, val/ and test/ needs a file with content", hint="edit data.py")
        files = {name: {"sha256": _sha(new / name), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns} for name, stat in found.items()}
        manifest = {
            "data_sha": _total(files),
            "time": receipts.now(),
            "args": args,
            "splits": {split: sum(file["bytes"] for name, file in files.items() if name.startswith(f"{split}/")) for split in SPLITS},
            "files": files,
        }
        _require_only_test_changed(lab, manifest)
        receipts.write_atomic(new / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        _require_idle(lab)  # again: it took its time
        _swap(lab.data, new, old)
    return manifest


def _require_idle(lab: Lab) -> None:
    """Raises LabError while a run reads the data: it would be measured on two kinds of it."""
    for run_id in backlog.opened(lab):
        if (lab.run(run_id) / "started.json").exists() and backlog.alive(lab, run_id) is not None:
            raise LabError(f"{run_id} is running on the data", hint=f"lab follow {run_id}, then: just data")


def sealed_number(args: list[str]) -> int:
    """Which test split the options of data.py seal, `--sealed N`; 1 where they do not say."""
    for place, word in enumerate(args):
        name, equals, value = word.partition("=")
        if name == "--sealed":
            value = value if equals else "".join(args[place + 1 : place + 2])
            if not value.isdigit():
                raise LabError(f"--sealed {value}: not a whole number", hint="just data --sealed 2")
            return int(value)
    return 1


def next_seal(lab: Lab) -> str:
    """The command that seals another test split, with the options that the data was made with. Raises LabError when there is no data."""
    args = list(_load(lab)["args"])
    number = sealed_number(args)
    kept = [word for before, word in zip(["", *args], args, strict=False) if word.partition("=")[0] != "--sealed" and before != "--sealed"]
    return shlex.join(["just", "data", *kept, "--sealed", str(number + 1)])


def _require_only_test_changed(lab: Lab, manifest: dict) -> None:
    try:
        before = _load(lab)
    except LabError:  # no data yet, or damaged: there is nothing that another split would have to agree with
        return
    number, was = sealed_number(manifest["args"]), sealed_number(before["args"])
    if number == was:
        return
    now, then = ({name: file["sha256"] for name, file in one["files"].items()} for one in (manifest, before))
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if other := [name for name in changed if not name.startswith("test/")]:
        raise LabError(
            f"sealed split {number} changes {', '.join(other[:3])} as well: another test split must leave train and val as they are, so that nothing "
            "that was trained on or chosen by is ever sealed",
            hint=f"give the options of {was} and --sealed {number} alone; or change the rest first: just data",
        )
    if not changed:
        raise LabError(
            f"data.py gave the test split of --sealed {was} for --sealed {number} as well: it does not heed the option",
            hint="a human adds it to data.py, which is FROZEN (META_MODE=1): test from examples that are in no split yet, chosen by the number",
        )


def data_sha(lab: Lab) -> str:
    """The hash of the prepared data, after a check that costs no reading: same files, same sizes, same times.

    Raises LabError when there is no data, or it changed since it was prepared.
    """
    manifest = _load(lab)
    was = {name: (file["bytes"], file["mtime_ns"]) for name, file in manifest["files"].items()}
    _same(was, {name: (stat.st_size, stat.st_mtime_ns) for name, stat in _files(lab.data).items()})
    return manifest["data_sha"]


def verify(lab: Lab) -> str:
    """As `data_sha`, but every file is read and hashed again."""
    manifest = _load(lab)
    was = {name: file["sha256"] for name, file in manifest["files"].items()}
    _same(was, {name: _sha(lab.data / name) for name in _files(lab.data)})
    return manifest["data_sha"]


def _run(lab: Lab, args: list[str]) -> None:
    command = [sys.executable, "data.py", *args]
    # bufsize 0: a progress bar must show while it moves
    with subprocess.Popen(command, cwd=lab.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as process:
        tail = b""
        try:
            while chunk := process.stdout.read(65536):
                os.write(2, chunk)
                tail = (tail + chunk)[-TAIL:]
        except BaseException:  # nobody is left to read it: it must not write on into a folder that goes away
            process.kill()
            raise
    if process.returncode:
        lines = tail.decode(errors="replace").replace("\r", "\n").strip().splitlines()[-12:]
        raise LabError(
            f"data.py failed with exit code {process.returncode}:\n    " + "\n    ".join(lines), hint="mend what it names, then: just data"
        )


def _swap(place: Path, new: Path, old: Path) -> None:
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise


def _files(folder: Path) -> dict[str, os.stat_result]:
    """Every file below `folder` but the manifest, by its relative path, sorted; links are followed."""
    found = {}
    for top, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(top, name)
            found[path.relative_to(folder).as_posix()] = path.stat()
    found.pop(MANIFEST, None)
    return dict(sorted(found.items()))


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _total(files: dict[str, dict]) -> str:
    """Names and contents only, so that the same data has the same hash on every machine."""
    return hashlib.sha256("".join(f"{name}\0{file['sha256']}\n" for name, file in sorted(files.items())).encode()).hexdigest()


def _load(lab: Lab) -> dict:
    path = lab.data / MANIFEST
    if not path.is_file():
        raise LabError("there is no data yet" if not lab.data.exists() else f".data/ has no {MANIFEST}: the lab did not make it", hint="just data")
    try:
        manifest = json.loads(path.read_text())
        if manifest["data_sha"] != _total(manifest["files"]):
            raise ValueError("its data_sha is not that of the files it lists")
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f".data/{MANIFEST} is damaged: {error}", hint="just data") from error
    return manifest


def _same(was: dict, now: dict) -> None:
    names = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if names:
        how = {name: "is missing" if name not in now else "is new" if name not in was else "changed" for name in names}
        told = ", ".join(f"{name} {how[name]}" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise LabError(f"data changed since it was prepared: {told}", hint="just data")

"""`lab init` makes a new lab from this one's own files; `lab check` lists what is still to be filled in there."""

import base64
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from monolab import filesystem, keys, paths, problem
from monolab.errors import LabError
from monolab.paths import Lab

MARK = "<!-- below this line every lab is the same -->\n"  # in program.md, between the lab's own head and the body
HEAD = "program.head.md"  # an overlay's own head

# The same in every lab. pyproject.toml takes these and those below into the wheel, as monolab/_lab/.
COMMON = (
    "just",
    "justfile",
    "requirements.in",
    "requirements.lock",
    ".gitignore",
    ".claude",
    ".opencode/plugin/lab.js",
    "AGENTS.md",
    "CLAUDE.md",
    "0_docs/papers/.gitkeep",
    "1_ideas/_TEMPLATE.md",
    "9_reports/_TEMPLATE.md",
)
LINKS = {".agents/skills": "../.claude/skills", ".codex/hooks.json": "../.claude/settings.json"}  # the same files for other clients
HEADERS = ("RESEARCH_JOURNAL.md", "human_journal.md", "meta_journal.md", "results.tsv")  # without this lab's own entries
OWN = ("eval.py", "train.py", "data.py", "0_docs/problem.md")  # what makes a lab about something
ROOT_ONLY = (
    "probe.py",
    "space.py",
    "data.requirements",
    "1_ideas/controls",
    "0_docs/concepts.yaml",
    "0_docs/cognition",
)  # further files of the root problem

PLACE = re.compile(r"(?<!`)\{FILL_IN(?::\s*([^}]*))?\}")  # one directly after a backtick only speaks of such places
NOT_FILLED = ("vendor", "tests", "src/monolab/skeleton", "README.md", "6_runs", "results.tsv", "RESEARCH_JOURNAL.md")  # the tool, and records


def source() -> Path:
    """The folder that holds the files every lab is made from: in the wheel, else the repository of an editable install."""
    inside = Path(__file__).with_name("_lab")
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2]


def examples() -> dict[str, Path]:
    """The complete labs that `init` can copy, by name; `root` is the problem of this repository itself."""
    return {"root": source()} | {path.parent.name: path.parent for path in sorted(source().glob(f"examples/*/{HEAD}"))}


def init(dest: Path, overlay: Path | str | None = None) -> Lab:
    """Make a new lab, committed, in `dest`, which is empty or does not exist yet.

    `overlay` is what the lab is about: the name of an example, a folder laid out like one, or None for a problem of one's own, with
    places to fill in. Raises LabError, having changed nothing, for an unknown example, a `dest` with something in it or
    inside another lab, and where git knows no name to commit under.
    """
    overlay = _overlay(overlay)
    dest = Path(dest).resolve()
    _refuse(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as temp:
        new = Path(temp, "lab")
        new.mkdir()
        _compose(new, overlay)
        _wheel(new / "vendor")
        _git(new, "init", "--quiet", "--initial-branch", "main")
        _git(new, "add", "--all", "--force")  # a user's own list of ignored names may hold vendor/
        _git(new, "commit", "--quiet", "--message", "Start the lab")
        _put(new, dest)
    from monolab import guard

    lab = Lab(dest)
    guard.install_hook(lab)
    return lab


def _put(new: Path, dest: Path) -> None:
    """Move a finished lab to its place. LabError, with `dest` as it was, when another one stands there by now: of two that are made at once one wins."""
    taken = LabError(f"{dest} is there already: another lab was made there meanwhile", hint="lab init ANOTHER_DIR")
    if not dest.exists():
        try:
            new.rename(dest)  # at one moment
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise taken from error
            raise
        return
    folder = os.open(dest, os.O_RDONLY)  # its very folder stays: somebody may stand in it
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if any(dest.iterdir()):
            raise taken
        for path in new.iterdir():
            shutil.move(path, dest)
    finally:
        os.close(folder)


def check(lab: Lab) -> list[str]:
    """What stands between this lab and its first run, a line each: missing files, places to fill in, wrong front matter."""
    wanted = ["program.md", *COMMON, *HEADERS, *OWN]
    found = [f"{name}: is missing" for name in wanted if not (lab.root / name).exists()]
    places = _places(lab)
    found += [f"{name}:{line}: {hint}" for name, line, hint in places]
    if not any(name == "program.md" for name, _, _ in places):
        try:
            problem.load(lab)
        except LabError as error:
            found.append(f"{error.what} ({error.hint})")
    return found


def _places(lab: Lab) -> list[tuple[str, int, str]]:
    """File, line and hint of every place to fill in, in the files that git tracks or would."""
    skip = [f":(exclude,top){path}" for path in NOT_FILLED] + [":(exclude,glob)**/_TEMPLATE.md"]
    listed = _git(
        lab.root, "grep", "--untracked", "--no-color", "--no-column", "-n", "-z", "-I", "-F", problem.FILL_IN, "--", ".", *skip, accept=(0, 1)
    )
    found = []
    for text in listed.splitlines():
        name, line, content = text.split("\0", 2)
        found += [(name, int(line), (match[1] or "fill this in").strip()) for match in PLACE.finditer(content)]
    return found


def _overlay(overlay: Path | str | None) -> Path:
    if overlay is None:
        return Path(__file__).with_name("skeleton")
    if isinstance(overlay, str):
        known = examples()
        if overlay not in known:
            raise LabError(f"there is no example {overlay!r}", hint=f"one of: {', '.join(known)}")
        return known[overlay]
    if overlay != source() and not (overlay / HEAD).is_file():
        raise LabError(f"{overlay} has no {HEAD}", hint=f"one of: {', '.join(examples())}")
    return overlay


def _refuse(dest: Path) -> None:
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise LabError(f"{dest} is there already, and not empty" if dest.is_dir() else f"{dest} is a file", hint="lab init ANOTHER_DIR")
    above = next(folder for folder in (dest, *dest.parents) if folder.is_dir())
    if not os.access(above, os.W_OK):
        raise LabError(f"{above} is not writable", hint="lab init ANOTHER_DIR")
    try:
        _git(above, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    except LabError as error:
        hint = "git config --global user.name NAME; git config --global user.email ADDRESS"
        raise LabError("git has no name and address to commit under", hint=hint) from error
    try:
        outer = paths.find(above)
    except LabError:
        return  # in no other lab
    ignored = subprocess.run(["git", "-C", str(above), "check-ignore", "--quiet", f"{dest}/"], env=_environment(), check=False).returncode == 0
    if not ignored:
        raise LabError(
            f"{dest} lies inside the lab {outer.root}, which would take its files for its own",
            hint="choose a folder outside, or one that .gitignore names",
        )


def _compose(new: Path, overlay: Path) -> None:
    origin = source()
    for name in COMMON:
        _copy(origin / name, new / name)
    for name, target in LINKS.items():
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).symlink_to(target)
    (new / "just").chmod(0o755)
    for name in HEADERS:
        (new / name).write_text(_header(name))
    head, mark, body = (origin / "program.md").read_text().partition(MARK)
    if not mark:
        raise LabError(f"{origin / 'program.md'} has lost the line {MARK.strip()!r}, below which every lab is the same", hint="put it back")
    if overlay == origin:
        for name in (*OWN, *ROOT_ONLY):
            _copy(origin / name, new / name)
    else:
        head = (overlay / HEAD).read_text().rstrip("\n") + "\n\n"
        _copy(overlay, new, HEAD)
    (new / "program.md").write_text(head + mark + body)


def _header(name: str) -> str:
    """A journal down to its first entry, or the first line of a table."""
    end = "\n" if name.endswith(".tsv") else "\n## "
    return (source() / name).read_text().partition(end)[0].rstrip("\n") + "\n"


def _copy(old: Path, new: Path, *skip: str) -> None:
    def ignored(folder: str, names: list[str]) -> set[str]:
        keyed = {name for name in names if keys.is_file((Path(folder).relative_to(old) / name).as_posix())}  # an .env of somebody who tries it out
        return keyed | shutil.ignore_patterns("__pycache__", "settings.local.json", *skip)(folder, names)

    if old.is_dir():
        shutil.copytree(old, new, dirs_exist_ok=True, ignore=ignored)
    else:
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(old, new)


def _wheel(vendor: Path) -> None:
    """Put monolab itself, as a wheel, into `vendor`: the new lab's launcher installs it from there."""
    vendor.mkdir()
    if source() == Path(__file__).with_name("_lab"):
        _repack(metadata.distribution("monolab"), vendor)
        return
    with filesystem.temporary() as temp:
        for name in ("pyproject.toml", "README.md", "LICENSE", "src", "examples", "program.md", *COMMON, *OWN, *ROOT_ONLY):
            _copy(source() / name, Path(temp, name))
        for name in HEADERS:  # the human's notes must not travel, not even inside of the wheel
            Path(temp, name).write_text(_header(name))
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(vendor)]
        done = subprocess.run(build, cwd=temp, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise LabError(f"the wheel of monolab could not be built: {reason}", hint="rm -r .venv, then ./just makes the environment afresh")


def _repack(installed: metadata.Distribution, vendor: Path) -> None:
    """The wheel that monolab was installed from, from its installed files. Raises LabError when one was changed since."""
    name = f"monolab-{installed.version}"
    record = f"{name}.dist-info/RECORD"
    # What an installer adds for itself: the command, compiled files, its own notes.
    notes = {f"{name}.dist-info/{note}" for note in ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json", "RECORD")}
    lines = []
    with zipfile.ZipFile(vendor / f"{name}-py3-none-any.whl", "w") as wheel:
        for file in sorted(installed.files, key=str):
            if str(file) in notes or file.parts[0] == ".." or file.suffix == ".pyc":
                continue
            content = Path(file.locate()).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            if file.hash is None or file.hash.value != digest:
                raise LabError(f"the installed {file} differs from what was installed", hint="rm -r .venv, then ./just makes the environment afresh")
            wheel.writestr(_entry(str(file), os.access(file.locate(), os.X_OK)), content)
            lines.append(f"{file},sha256={digest},{len(content)}\n")
        wheel.writestr(_entry(record), "".join(lines) + f"{record},,\n")


def _entry(name: str, executable: bool = False) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (2020, 2, 2, 0, 0, 0))  # a fixed time: the same wheel has the same hash
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _environment() -> dict[str, str]:
    """Without what points git at another repository (inside a hook, say); a name to commit under stays."""
    points = ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")
    return {name: value for name, value in os.environ.items() if name not in points}


def _git(where: Path, *args: str, hint: str = "", accept: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(["git", "-C", str(where), *args], capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode not in accept:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        command = next(arg for arg in args if not arg.startswith("-") and "=" not in arg)
        raise LabError(f"git {command} failed: {reason[-1] if reason else f'exit code {done.returncode}'}", hint=hint)
    return done.stdout

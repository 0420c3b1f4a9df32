"""One rule for what may be changed, asked in three places: at an agent's edit, at a commit, at the start of a run.

The edit hook is a courtesy: it tells an agent at once, with the reason, and a program that an agent runs can get past it.
The two that count are at the commit and at the run's start, which compare contents.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from monolab import keys, shell
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import INFERENCE_EMPTY, Lab, find
from monolab.problem import Problem

META_LINE = "META_MODE=1"
# In git's folder: `blob path`, a line for every content of a FROZEN file that stood when the hook was installed, or a human committed through it.
LET_THROUGH = "lab/frozen"
FROZEN = ("program.md", "meta_journal.md", "probe.py", "data.py", "data.requirements")  # and the scorer's files, which program.md names
HOOKS = ("pre-commit", "pre-merge-commit")
HOOK_MARK = "# monolab's guard"
HOOK = f"""#!/bin/sh
{HOOK_MARK}: refuses a commit that changes FROZEN files or edits old records (`lab guard commit`).
root=$(dirname "$(git rev-parse --path-format=absolute --git-common-dir)")
lab=$root/.venv/bin/lab; [ -x "$lab" ] || lab=$(command -v lab)
[ -n "$lab" ] || {{ echo "lab: the guard cannot run, the lab is not set up
  next: $root/just" >&2; exit 1; }}
exec "$lab" guard commit
"""


# -- the rule -----------------------------------------------------------------------------------------------------


def kind(path: str, scorer: tuple[str, ...]) -> str:
    """FROZEN, HUMAN, GLOBAL, APPEND-ONLY or REGULAR, for a path relative to the lab's root or to a worktree's.

    `scorer`: the scorer's files and folders, as program.md names them.
    """
    path = str(PurePosixPath(path))
    if (
        path.startswith((".git/hooks/", ".git/lab/"))
        or path in FROZEN
        or any(path == name or path.startswith(f"{name.rstrip('/')}/") for name in scorer)
    ):
        return "FROZEN"
    if path == "human_journal.md":
        return "HUMAN"
    if path in ("results.tsv", "RESEARCH_JOURNAL.md", "6_runs") or path.startswith("6_runs/"):
        return "GLOBAL"
    return "APPEND-ONLY" if PurePosixPath(path).name.endswith("_journal.md") else "REGULAR"


def meta_mode(lab: Lab) -> bool:
    """Whether the human has unlocked FROZEN files: META_MODE=1 in the environment or in human_journal.md's newest entry."""
    if os.environ.get("META_MODE") == "1":
        return True
    return any(line.strip() == META_LINE for line in newest_entry(lab.human_journal).splitlines())


def newest_entry(path: Path) -> str:
    """The entry on top of a journal; "" where there is none."""
    _, entries = _entries(path.read_text()) if path.is_file() else ("", [])
    return entries[0] if entries else ""


def append_only_violation(old: str, new: str) -> str | None:
    """What is wrong with the change of a journal from `old` to `new`; None when only entries were added on top.

    A journal is a header (free to change) and entries `## ...`, newest first. The one edit of an old entry that is
    allowed: its line INFERENCE_EMPTY gives way to text, once.
    """
    _, before = _entries(old)
    _, after = _entries(new)
    for entry in before:
        if not any(_same_entry(entry, now) for now in after):
            return f"the entry {_title(entry)} was edited or removed"
    for entry, now in zip(before[::-1], after[::-1], strict=False):
        if not _same_entry(entry, now):
            return f"the entry {_title(now)} is in the place of {_title(entry)}: new entries go on top, and only there"
    return None


def rows_violation(old: str, new: str) -> str | None:
    """What is wrong with the change of results.tsv (or another file of lines) from `old` to `new`; None when lines were only added."""
    if new.startswith(old):
        return None
    before, after = old.splitlines(), new.splitlines()
    for number, line in enumerate(before, start=1):
        if number > len(after):
            return f"line {number} and those after it are gone"
        if line != after[number - 1]:
            return f"line {number} was edited or removed: {line.partition(chr(9))[0][:60]}"
    return f"line {len(before)} was edited"


def _violation(path: str, old: str | None, new: str | None) -> str | None:
    """What is wrong with the change of the record `path`, whatever else allows it. None: no such file."""
    name = PurePosixPath(path).name
    if old is None or path == "human_journal.md":
        return None
    if name == "RESEARCH_JOURNAL.md" or name.endswith("_journal.md"):
        return append_only_violation(old, new or "")
    if path == "results.tsv" or (path.startswith("6_runs/") and name.endswith(".jsonl")):
        return rows_violation(old, new or "")
    if path.startswith("6_runs/") and name in ("receipt.json", "request.json") and old != new:
        return "a receipt and a request are written once"
    return None


def _entries(text: str) -> tuple[str, list[str]]:
    header, *entries = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return header, [entry.rstrip() for entry in entries]


def _title(entry: str) -> str:
    return repr(entry.partition("\n")[0])


def _same_entry(old: str, new: str) -> bool:
    """Whether `new` is `old`, but for inferences that were left empty and are now written."""
    if old == new:
        return True
    pieces = re.split(rf"^{re.escape(INFERENCE_EMPTY)}$", old, flags=re.MULTILINE)
    found = re.fullmatch(r"(.+?)".join(map(re.escape, pieces)), new, flags=re.DOTALL)
    if len(pieces) == 1 or found is None:
        return False
    return all(text == INFERENCE_EMPTY or (text.strip() and INFERENCE_EMPTY not in text.splitlines()) for text in found.groups())


# -- at an agent's edit -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A path in the lab, relative to its root, or to a worktree's when `copy`."""

    lab: Lab
    file: Path
    path: str
    kind: str
    copy: bool


def edit(lab: Lab, payload: dict) -> str | None:
    """Why the edit that a coding agent is about to make is refused; None when it may go on.

    `payload`: what Claude Code and Codex hand to a PreToolUse hook: tool_name, tool_input, cwd. Of a shell
    command only what its text shows is judged (monolab.shell), never what a program does.
    """
    tool = str(payload.get("tool_name", "")).lower()
    given = payload.get("tool_input") or {}
    if not isinstance(given, dict):
        given = {"command": given}
    cwd = Path(payload.get("cwd") or Path.cwd())
    command = next((given[name] for name in ("command", "cmd", "input", "patch") if name in given), "")
    script = shlex.join(command) if isinstance(command, list) else str(command)
    if tool == "apply_patch":
        return _refuse_patch(lab, cwd, script)
    if tool in ("bash", "shell", "local_shell", "exec_command", "unified_exec"):
        return _refuse_script(lab, cwd / (given.get("workdir") or ""), script)
    name = next((given[key] for key in ("file_path", "notebook_path", "filePath", "path") if given.get(key)), None)
    if tool in ("edit", "write", "multiedit", "notebookedit") and name:
        return _refuse_change(_place(lab, cwd / name), lambda old: _edited(old, given))
    return None


def edit_main(stdin_text: str) -> int:
    """The hook's program: 0 lets the edit happen, 2 refuses it with the reason on stderr (which the agent reads)."""
    try:
        payload = json.loads(stdin_text)
        cwd = payload.get("cwd")
    except (ValueError, AttributeError) as error:
        print(f"lab: the guard was not given a JSON object: {error}", file=sys.stderr)
        return 2
    labs = {}
    for folder in (os.environ.get("CLAUDE_PROJECT_DIR"), cwd, "."):
        try:
            lab = find(Path(folder)) if folder else None
        except LabError:  # that folder is in no lab: nothing to guard there
            continue
        labs |= {lab.root: lab} if lab else {}
    for lab in labs.values():
        if reason := edit(lab, payload):
            print(f"lab: {reason}", file=sys.stderr)
            return 2
    return 0


def _place(lab: Lab, file: Path) -> _Place | None:
    """Where `file` (it need not exist) lies; None outside of the lab's primary worktree and its other worktrees."""
    file, root = Path(os.path.realpath(file.expanduser())), Path(os.path.realpath(lab.root))
    top = next((folder for folder in (file, *file.parents) if (folder / ".git").exists()), None)
    if top is None:
        return None
    if top != root:
        link = (top / ".git").read_text() if (top / ".git").is_file() else ""
        if not Path(link.removeprefix("gitdir:").strip()).is_relative_to(root / ".git" / "worktrees"):
            return None
    try:
        scorer = problems.load(lab).scorer
    except LabError:  # still to be filled in
        scorer = Problem.scorer
    path = file.relative_to(top).as_posix()
    return _Place(lab, file, path, kind(path, scorer), copy=top != root)


def _reason(place: _Place) -> str | None:
    """Why `place` is not for an agent to write; None where it may be, whatever the text."""
    root = place.lab.root
    if place.kind == "FROZEN" and not meta_mode(place.lab):
        what = "the guard itself" if place.path.startswith(".git/") else "part of what is measured, and how"
        return f"{place.path} is FROZEN ({what}). Leave it as it is; a human unlocks it with {META_LINE} in the newest entry of human_journal.md."
    if place.kind == "HUMAN":
        return f"{place.path} is written by the human alone. Read it; what you want to note goes to RESEARCH_JOURNAL.md."
    if place.kind == "GLOBAL" and place.copy:
        return f"{place.path} is GLOBAL and counts in the lab's root only; this is a worktree's copy of it. Next: {root / place.path}"
    if place.kind == "GLOBAL" and place.path != "RESEARCH_JOURNAL.md":
        return f"{place.path} is written by the lab alone: `just eval` and `just queue` add rows, `lab rebuild` makes results.tsv anew from the receipts."
    return None


def _refuse_change(place: _Place | None, change: Callable[[str | None], str | None]) -> str | None:
    """`change`: the file's text before (None: no such file) to the text after (None: there is none any more)."""
    if place is None or place.kind == "REGULAR":
        return None
    if reason := _reason(place):
        return reason
    old = place.file.read_text(errors="replace") if place.file.is_file() else None
    wrong = _violation(place.path, old, change(old))
    return wrong and f"{place.path} is APPEND-ONLY: {wrong}. Add an entry on top, below the header."


def _edited(old: str | None, given: dict) -> str | None:
    """The text after Write (content), Edit (old_string, new_string) or MultiEdit (edits)."""
    if "content" in given:
        return str(given["content"])
    text = old or ""
    for change in given.get("edits") or [given]:
        before = change.get("old_string", change.get("oldString", ""))
        after = change.get("new_string", change.get("newString", ""))
        if before:
            text = text.replace(before, after, -1 if change.get("replace_all") or change.get("replaceAll") else 1)
        elif not text:
            text = after
    return text


def _refuse_patch(lab: Lab, cwd: Path, patch: str) -> str | None:
    """The same for a patch in Codex's format (`*** Update File: NAME` and hunks)."""
    for block in re.split(r"^\*\*\* (?=(?:Add|Update|Delete) File: )", patch, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n")
        verb, _, name = head.partition(" File: ")
        body = body.partition("*** End Patch")[0]
        moved = re.match(r"\*\*\* Move to: (.*)\n", body)
        for file, removed in ((name, verb == "Delete" or bool(moved)), (moved and moved[1], False)):
            place = _place(lab, cwd / file.strip()) if file else None
            if reason := _refuse_change(place, lambda old, gone=removed, body=body: None if gone else _patched(old, body)):
                return reason
    return None


def _patched(old: str | None, body: str) -> str | None:
    """`old` with the hunks applied; None when one does not fit."""
    lines, at = (old or "").split("\n"), 0
    for hunk in re.split(r"^@@.*\n", body, flags=re.MULTILINE):
        changes = [line for line in hunk.split("\n")[:-1] if not line.startswith("*** ")]
        before = [line[1:] for line in changes if not line.startswith("+")]
        after = [line[1:] for line in changes if not line.startswith("-")]
        if not before:  # nothing to find it by: it goes to the end
            lines += after
            continue
        at = next((i for i in range(at, len(lines)) if lines[i : i + len(before)] == before), -1)
        if at < 0:
            return None
        lines[at : at + len(before)] = after
        at += len(after)
    return "\n".join(lines)


def _refuse_script(lab: Lab, cwd: Path, script: str) -> str | None:
    """The same for what a shell command obviously does."""
    would = shell.effects(script, cwd)
    root = Path(os.path.realpath(lab.root))
    if META_LINE in would.sets:
        return f"{META_LINE} is the human's to set."
    if would.skips_hooks:
        return "the lab's git hook is not to be switched off or passed by. If it refuses a commit, it says what to do."
    if any(root.is_relative_to(os.path.realpath(path)) for path in [*would.removes, *(path for path, _ in would.restores)]):
        return "this takes the whole lab, rows and journal entries with it. Do it in a worktree, or name the files that you mean."
    for folder, patch in would.patches:
        if reason := _refuse_patch(lab, folder, patch):
            return reason
    return next(filter(None, map(_refuse_unseen, _changed(lab, would))), None)


def _changed(lab: Lab, would: shell.Effects) -> Iterator[_Place]:
    """What a script changes in the lab, but for the two things that it may: clear a checkpoint, and take a change back."""
    for path in would.writes:
        if place := _place(lab, path):
            yield place
    for path in would.removes:  # a checkpoint is large, not tracked, and of no row any more once the receipt stands
        if (place := _place(lab, path)) and not re.match(r"6_runs/[^/]+/checkpoint(/|$)", place.path):
            yield place
    for path, revision in would.restores:  # the refusals tell one to take changes back
        committed = revision in ("HEAD", _primary_branch(lab))
        if (place := _place(lab, path)) and not (committed and (place.copy or place.kind == "FROZEN")):
            yield place


def _refuse_unseen(place: _Place) -> str | None:
    """Why `place` is not to be changed in a way that cannot be seen from here."""
    reason = _reason(place)
    if reason or place.kind in ("FROZEN", "REGULAR"):
        return reason
    return f"{place.path} is APPEND-ONLY. Use the edit tool on it, and add an entry on top, below the header."


def _primary_branch(lab: Lab) -> str:
    return (lab.root / ".git" / "HEAD").read_text().strip().removeprefix("ref: refs/heads/")


# -- at a commit --------------------------------------------------------------------------------------------------


def commit(lab: Lab, cwd: Path) -> list[str]:
    """What is wrong with the change that is staged in the worktree at `cwd`. A repository's first commit may hold anything.

    A file that is brought to what the primary worktree's HEAD has, by a merge, say, is not a change.
    """
    import git

    repo = git.Repo(cwd, search_parent_directories=True)
    if not repo.head.is_valid():
        return []
    primary = Path(os.path.realpath(repo.working_tree_dir)) == Path(os.path.realpath(lab.root))
    # main-worktree/HEAD: the primary worktree's, also from inside another one's hook, where git has set GIT_DIR
    scorer = _scorer_at(repo, "main-worktree/HEAD")
    changed = repo.git.diff("--cached", "--name-only", "--no-renames", "-z", "HEAD").split("\0")
    names = [name for name in changed if name and kind(name, scorer) != "REGULAR"]
    added = repo.git.diff("--cached", "--name-only", "--no-renames", "--diff-filter=A", "-z", "HEAD").split("\0")
    wrong = [
        f"{name} is named as files of keys are, and git would keep it for good. Next: git restore --staged {name}, and name it in .gitignore"
        for name in added
        if name and keys.is_file(name) and not meta_mode(lab)
    ]
    if not names:
        return wrong
    before, main = _tree(repo, "HEAD", names), _tree(repo, "main-worktree/HEAD", names)
    staged = _parse(repo.git.ls_files("--stage", "-z", "--", *(f":(literal,top){name}" for name in names)))
    frozen = False
    for name in names:
        word = kind(name, scorer)
        frozen |= word == "FROZEN"
        if not primary and staged.get(name) == main.get(name):
            continue
        if word == "FROZEN" and not meta_mode(lab):
            wrong.append(
                f"{name} is FROZEN; unlocked by a human with {META_LINE} in the newest entry of human_journal.md. Next: git restore --staged {name}"
            )
        elif word == "GLOBAL" and not primary:
            wrong.append(f"{name} is GLOBAL and is committed from {lab.root} only. Next: git restore --staged {name}")
        elif why := _violation(name, _text(repo, before.get(name)), _text(repo, staged.get(name))):
            wrong.append(f"{name}: {why}. Next: git diff --cached -- {name}")
    if frozen and not wrong and meta_mode(lab):
        index = _parse(repo.git.ls_files("--stage", "-z", "--", ":(top)*"))
        program = index.get("program.md")
        _let_through(repo, {name: blob for name, blob in index.items() if kind(name, _scorer_named(_text(repo, program) or "")) == "FROZEN"})
    return wrong


def commit_main() -> int:
    """The git hook's program: 0, or 1 with what is wrong on stderr."""
    cwd = Path.cwd()
    try:
        wrong = commit(find(cwd), cwd)
    except LabError as error:
        wrong = [str(error)]
    for line in wrong:
        print(f"lab: {line}", file=sys.stderr)
    return 1 if wrong else 0


def install_hook(lab: Lab) -> list[Path]:
    """Make `lab guard commit` run at every commit and merge in the lab's worktrees; returns the hooks that were written.

    LabError when a hook of somebody else is in the place, or the hooks are shared with other repositories.
    """
    import git

    repo = git.Repo(lab.root)
    folder = Path(repo.git.rev_parse("--path-format=absolute", "--git-path", "hooks"))
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(lab.root)):
        raise LabError(f"core.hooksPath is {folder}, which other repositories use too", hint=f"git -C {lab.root} config core.hooksPath .git/hooks")
    hooks = [folder / name for name in HOOKS]
    for hook in hooks:
        if hook.exists() and HOOK_MARK not in hook.read_text(errors="replace"):
            raise LabError(f"{hook} is somebody else's hook; it is left as it is", hint="call `lab guard commit` in it, or move it away")
    written = [hook for hook in hooks if not (hook.exists() and hook.read_text() == HOOK and os.access(hook, os.X_OK))]
    for hook in written:
        hook.parent.mkdir(parents=True, exist_ok=True)
        hook.write_text(HOOK)
        hook.chmod(0o755)
    record = Path(repo.common_dir, LET_THROUGH)
    if not record.exists():
        record.parent.mkdir(exist_ok=True)
        record.touch()
        if repo.head.is_valid():
            _let_through(repo, _tree(repo, "HEAD", [*FROZEN, *_scorer_at(repo, "HEAD")]))
    return written


def _let_through(repo, files: dict[str, tuple[str, str]]) -> None:
    """Note these contents, where the hook keeps such notes."""
    record = Path(repo.common_dir, LET_THROUGH)
    if record.exists():
        known = set(record.read_text().splitlines())
        with record.open("a") as file:
            file.writelines(f"{line}\n" for line in (f"{blob} {name}" for name, (_, blob) in files.items()) if line not in known)


def past_the_hook(lab: Lab, problem: Problem) -> list[str]:
    """FROZEN files that main has committed and no hook has let through, with the commit that brought each: --no-verify, a pull, a fast-forward.

    Nothing where the hook was never installed. In meta-mode they are let through by this.
    """
    import git

    repo = git.Repo(lab.root)
    record = Path(repo.common_dir, LET_THROUGH)
    if not record.exists():
        return []
    known, head = set(record.read_text().splitlines()), _tree(repo, "HEAD", sorted({*FROZEN, *problem.scorer, *_scorer_at(repo, "HEAD")}))
    unknown = {name: blob for name, blob in head.items() if f"{blob[1]} {name}" not in known}
    if unknown and meta_mode(lab):
        _let_through(repo, unknown)
        return []
    found = []
    for name in unknown:
        commit = repo.git.log("-1", "--format=%h (%s; %an)", "HEAD", "--", name)
        found.append(
            f"{name} is FROZEN and was committed past the guard, in {commit}. Next: git revert {commit.partition(' ')[0]}; a human who means it "
            f"lets it through by starting a run with {META_LINE}"
        )
    return found


# -- at the start of a run ----------------------------------------------------------------------------------------


def run_start(lab: Lab, problem: Problem, snapshot_commit: str) -> tuple[list[str], list[str]]:
    """What forbids a run of `snapshot_commit`, and the flags that its receipt has to carry.

    The FROZEN files in the lab's root must be as committed there, by way of the commit hook where that is installed; those of the snapshot as they
    are there, or as they were where the snapshot branched off. In meta-mode a snapshot that differs is flagged `meta` and may run.
    """
    import git

    repo = git.Repo(lab.root)
    names = sorted({*FROZEN, *problem.scorer, *_scorer_at(repo, "HEAD")})
    head, snapshot = _tree(repo, "HEAD", names), _tree(repo, snapshot_commit, names)
    common = repo.merge_base("HEAD", snapshot_commit)
    base = _tree(repo, common[0].hexsha, names) if common else {}
    wrong, flags = [], []
    here = sorted(name for name in {*names, *head} if (lab.root / name).is_file())
    # The bytes themselves: `git diff` and `git status` can be told not to look at a file.
    hashes = dict(zip(here, repo.git.hash_object("--no-filters", "--", *here).split(), strict=True)) if here else {}
    for name in sorted({*head, *here}):
        if head.get(name, ("", ""))[1] != hashes.get(name):
            wrong.append(f"{name} is FROZEN and is not what {_primary_branch(lab)} has committed. Next: git -C {lab.root} diff HEAD -- {name}")
    wrong += past_the_hook(lab, problem)
    for name in sorted({*head, *snapshot}):
        if snapshot.get(name) in (head.get(name), base.get(name)):
            continue
        if meta_mode(lab):
            flags = ["meta"]
        else:
            wrong.append(f"{name} is FROZEN and was changed in the snapshot. Next: git checkout {_primary_branch(lab)} -- {name}")
    return wrong, flags


def put_back(lab: Lab, problem: Problem, tree: Path) -> list[str]:
    """Give FROZEN files in the root, and in the worktree `tree`, the content they are to have; which were changed, `root/` before those of the root.

    The root's go back to what main has committed, the worktree's to what they were where it branched off. Nothing in meta-mode.
    """
    import git

    if meta_mode(lab):
        return []
    repo, found = git.Repo(lab.root), []
    names = sorted({*FROZEN, *problem.scorer, *_scorer_at(repo, "HEAD")})
    places = [(lab.root, "HEAD", "root/")]
    if tree != lab.root:
        mine = git.Repo(tree)
        common = mine.merge_base("main-worktree/HEAD", "HEAD")
        places.append((tree, common[0].hexsha if common else "main-worktree/HEAD", ""))
    for folder, commit, prefix in places:
        there = git.Repo(folder)
        frozen = _tree(there, commit, names)
        here = {str(path.relative_to(folder)) for name in names for path in _files(folder / name)}
        for name in sorted(here | frozen.keys()):
            path, blob = folder / name, frozen.get(name)
            now = there.git.hash_object("--no-filters", "--", str(path)) if path.is_file() and not path.is_symlink() else None
            if now == (blob and blob[1]):
                continue
            found.append(prefix + name)
            if path.is_symlink() or path.exists():
                path.unlink()
            if blob:
                there.git.checkout(commit, "--", name)
    return found


def _files(path: Path) -> list[Path]:
    """`path`, or the files below it; also a link that leads nowhere."""
    return (
        [one for one in path.rglob("*") if not one.is_dir()] if path.is_dir() and not path.is_symlink() else [path] if os.path.lexists(path) else []
    )


# -- git ----------------------------------------------------------------------------------------------------------


def _tree(repo, commit: str, names: list[str]) -> dict[str, tuple[str, str]]:
    """Mode and blob of those files that `commit` has, by path."""
    return _parse(repo.git.ls_tree("-r", "-z", "--full-tree", commit, "--", *names))


def _parse(listing: str) -> dict[str, tuple[str, str]]:
    """`mode [blob] sha [stage]<TAB>path`, as ls-tree and ls-files print it, to path -> (mode, sha)."""
    found = {}
    for line in filter(None, listing.split("\0")):
        facts, _, path = line.partition("\t")
        words = [word for word in facts.split() if word != "blob"]
        found[path] = (words[0], words[1])
    return found


def _text(repo, blob: tuple[str, str] | None) -> str | None:
    return repo.git.cat_file("blob", blob[1], strip_newline_in_stdout=False) if blob else None


def _scorer_at(repo, commit: str) -> tuple[str, ...]:
    """The scorer's files as program.md names them in `commit`; the default while it is still to be filled in."""
    return _scorer_named(_text(repo, _tree(repo, commit, ["program.md"]).get("program.md")) or "")


def _scorer_named(program: str) -> tuple[str, ...]:
    """The scorer's files as a program.md with this text names them; the default while it is still to be filled in."""
    import yaml

    try:
        names = yaml.safe_load(program.removeprefix("---\n").partition("\n---\n")[0])["scorer"]
        return tuple(str(name) for name in names)
    except (yaml.YAMLError, TypeError, KeyError):
        return Problem.scorer

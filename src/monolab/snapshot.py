"""A snapshot: the working tree of a candidate, kept as a git commit that leaves branch and index alone."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from monolab import filesystem, keys
from monolab.errors import LabError
from monolab.paths import NOT_CODE, RECORDS, Lab

REF = "refs/lab/runs/"
CODE = "refs/lab/code/"  # a tree is part of no commit of ours: a snapshot's also holds the lab's own files
FETCH = f"git fetch origin '{REF}*:{REF}*'"  # a clone has branches only
UNTRACKED_MB = 50.0  # untracked files above this are data, not code
KEY_MB = 1.0  # a file above this is not searched for keys
LINKS = 40  # that are followed one after the other, as Linux does


@dataclass(frozen=True)
class Snapshot:
    """`commit` is HEAD, or a commit on top of it where files differ; `code_sha` is its tree without the lab's own files."""

    commit: str
    head: str
    code_sha: str
    clean: bool  # the code is HEAD's


@contextmanager
def _repo(folder: Path, hint: str = "") -> Iterator:
    """The repository of `folder`, a GitPython Repo; what git refuses to do with it is a LabError with git's own words."""
    import git

    try:
        yield git.Repo(folder)
    except git.GitCommandError as error:
        words = error.stderr.strip().removeprefix("stderr: '").removesuffix("'").strip() or f"exit code {error.status}"
        verb = next((word for word in error.command[1:] if not word.startswith("-")), "")
        raise LabError(f"git {verb} in {folder}: {'; '.join(words.splitlines())}", hint=hint or f"git -C {folder} status") from error
    except git.GitError as error:
        raise LabError(f"{folder} is no git repository that can be read: {error}", hint=f"git -C {folder} status") from error


def take(tree: Path) -> Snapshot:
    """Snapshot the working tree at `tree`: tracked and untracked files (those not ignored), committed or not.

    The commit is the same for the same files on the same HEAD, so replicates share it. Raises LabError when the
    repository has no commit yet, or the tree holds what a snapshot cannot: a repository inside of it, a link out of the
    snapshot, a file that git was told not to look at, untracked files too large to be code, a key: what goes into git stays there.
    """
    with _repo(tree) as repo:
        if not repo.head.is_valid():
            raise LabError(f"{tree} has no commit yet", hint="git add -A && git commit -m 'Start the lab'")
        _refuse_what_git_does_not_see(repo, tree)
        _refuse_keys(repo, tree)
        head = repo.head.commit
        with filesystem.temporary() as scratch:
            index = Path(scratch, "index")
            own = Path(repo.git.rev_parse("--path-format=absolute", "--git-path", "index"))
            if own.exists():  # its cached file times spare re-reading every file
                shutil.copy2(own, index)
            with repo.git.custom_environment(GIT_INDEX_FILE=str(index)):
                repo.git.reset("-q", head.hexsha, "--", *(path for path in RECORDS if path in head.tree))
                repo.git.add("-A", "--", ".", *(f":(exclude){path}" for path in RECORDS))
                whole, code = repo.git.write_tree(), _code_tree(repo)
                _refuse_what_does_not_travel(repo, tree)
                repo.git.read_tree(head.hexsha)
                clean = _code_tree(repo) == code
        commit = head.hexsha if whole == head.tree.hexsha else _commit(repo, whole, head)
        return Snapshot(commit=commit, head=head.hexsha, code_sha=code, clean=clean)


def patched(lab: Lab, patch: Path | None) -> Snapshot:
    """A snapshot of what main has committed, with `patch` applied to it; no working tree is touched. Raises LabError where it does not apply."""
    with _repo(lab.root, f"make {patch.name if patch else 'it'} anew against main") as repo, filesystem.temporary() as scratch:
        head = repo.head.commit
        with repo.git.custom_environment(GIT_INDEX_FILE=str(Path(scratch, "index"))):
            repo.git.read_tree(head.hexsha)
            if patch:
                repo.git.apply("--cached", str(patch))
            whole, code = repo.git.write_tree(), _code_tree(repo)
        commit = head.hexsha if whole == head.tree.hexsha else _commit(repo, whole, head)
        return Snapshot(commit=commit, head=head.hexsha, code_sha=code, clean=True)


def _refuse_what_git_does_not_see(repo, tree: Path) -> None:
    """LabError for what `git add` would pass by, stumble over, or store for good."""
    size, hidden = 0, {}
    for entry in repo.git.ls_files("-c", "-o", "-v", "--exclude-standard", "-z").split("\0")[:-1]:
        mark, name = entry[0], entry[2:]
        if mark == "?":
            if name.endswith("/") and not _is_record(name):
                raise _own_repository(name.rstrip("/"))
            path = tree / name
            size += path.lstat().st_size if path.exists() and not _is_record(name) else 0
        for bit in (["assume-unchanged"] if mark.islower() else []) + (["skip-worktree"] if mark in "sS" else []):
            hidden.setdefault(bit, []).append(name)
    if hidden:
        names = sorted({name for several in hidden.values() for name in several})
        clear = [f"git -C {tree} update-index --no-{bit} -- {shlex.join(several)}" for bit, several in hidden.items()]
        raise LabError(
            f"git was told not to look at {', '.join(names)} ({' and '.join(hidden)}): a run would have HEAD's version instead",
            hint=" && ".join(clear),
        )
    if size > UNTRACKED_MB * 2**20:
        raise LabError(
            f"{size / 2**20:.0f} MB of untracked files in {tree} would go into the snapshot (limit {UNTRACKED_MB:.0f} MB)",
            hint="name them in .gitignore",
        )


def _refuse_keys(repo, tree: Path) -> None:
    """LabError for what would bring a key into git for good: a new file with the name or the content of one, a key in an added line."""

    def listed(command: Callable[..., str], *options: str) -> list[str]:
        return [name for name in command(*options, "-z").split("\0")[:-1] if not _is_record(name)]

    new = listed(repo.git.ls_files, "-o", "--exclude-standard") + listed(repo.git.diff, "HEAD", "--name-only", "--no-renames", "--diff-filter=A")
    for name in new + listed(repo.git.diff, "HEAD", "--name-only", "--no-renames", "--diff-filter=MT"):
        path = tree / name
        if path.is_symlink() or not path.is_file():
            continue
        if name in new and keys.is_file(name):
            raise LabError(f"{name} is named as files of keys are: a snapshot would keep it in git for good", hint=f"name {name} in .gitignore")
        try:
            text = path.read_text(errors="replace") if path.stat().st_size <= KEY_MB * 2**20 else ""
        except OSError:  # git will say so
            continue
        if name not in new and keys.in_text(text):  # what HEAD has is in git already
            text = "\n".join(line[1:] for line in repo.git.diff("HEAD", "-U0", "--no-ext-diff", "--", name).splitlines() if line[:1] == "+")
        if key := keys.in_text(text):
            raise LabError(f"{name} holds a key ({key}): a snapshot would keep it in git for good", hint=f"take it out, or name {name} in .gitignore")


def _is_record(name: str) -> bool:
    return name.partition("/")[0] in RECORDS


def _own_repository(name: str) -> LabError:
    return LabError(f"{name} is a repository of its own, which a snapshot cannot hold", hint=f"copy its files, or name {name} in .gitignore")


def _code_tree(repo) -> str:
    """Takes what is no code out of the index in use; returns the tree of the rest."""
    repo.git.rm("-r", "--cached", "-q", "--ignore-unmatch", "--", *NOT_CODE)
    return repo.git.write_tree()


def _refuse_what_does_not_travel(repo, tree: Path) -> None:
    """LabError for entries of the index in use that a checkout of it would not bring to life."""
    modes = {}
    for entry in repo.git.ls_files("-s", "-z").split("\0")[:-1]:
        facts, _, name = entry.partition("\t")
        modes[name] = facts.partition(" ")[0]
    links = {name: os.readlink(tree / name) for name, mode in modes.items() if mode == "120000"}
    known = set(modes) | {str(folder) for name in modes for folder in PurePosixPath(name).parents} if links else set()
    for name, mode in modes.items():
        if mode == "160000":
            raise _own_repository(name)
        if name in links and not _arrives(name, links, known):
            raise LabError(
                f"{name} is a link to {links[name]}, which is not part of the snapshot: a run would not have it",
                hint=f"copy what it points to, or name {name} in .gitignore",
            )


def _arrives(name: str, links: dict[str, str], known: set[str]) -> bool:
    """Whether the link `name` leads to a file or folder of the snapshot, through nothing but the snapshot."""
    done, todo, left = [], name.split("/"), LINKS
    while todo:
        part = todo.pop(0)
        if part == ".." and done:
            done.pop()
        elif part == "..":
            return False
        elif part not in ("", "."):
            done.append(part)
        path = "/".join(done)
        if path in links:
            left -= 1
            if left < 0 or os.path.isabs(links[path]):
                return False
            done.pop()
            todo = links[path].split("/") + todo
        elif path and path not in known:
            return False
    return True


def _commit(repo, tree: str, head) -> str:
    # Dated as its parent: the same files on the same HEAD give the same commit, whenever they are queued.
    who = {"NAME": "lab", "EMAIL": "lab@localhost", "DATE": f"{head.committed_date} +0000"}
    env = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    with repo.git.custom_environment(**env):
        return repo.git.commit_tree(tree, "-p", head.hexsha, "-m", "snapshot of the working tree, taken by the lab")


def keep(lab: Lab, run_id: str, commit: str, code_sha: str) -> None:
    """Pin what was tried, the commit under `refs/lab/runs/` and the tree of its code beside it, so that git never collects it, whatever happens to the branch."""
    with _repo(lab.root) as repo:
        repo.git.update_ref(REF + run_id, commit)
        repo.git.update_ref(CODE + code_sha, code_sha)


def forget(lab: Lab, run_id: str) -> None:
    """Undo `keep`, for a run that was never queued."""
    with _repo(lab.root) as repo:
        repo.git.update_ref("-d", REF + run_id)


def export(lab: Lab, treeish: str, dest: Path, paths: tuple[str, ...] = ()) -> None:
    """Write the files of a tree (or only `paths` of it, files and folders) below `dest`, which must not exist yet.

    Raises LabError when the tree, or one of `paths` in it, is not there.
    """
    with _repo(lab.root, FETCH) as repo, filesystem.temporary() as scratch:
        names = []
        if paths:
            names = repo.git.ls_tree("-r", "-z", "--name-only", "--full-tree", treeish, "--", *paths).split("\0")[:-1]
            for path in paths:
                if not any(name == path.rstrip("/") or name.startswith(f"{path.rstrip('/')}/") for name in names):
                    raise LabError(f"{path} is not in {treeish}", hint=f"git -C {lab.root} add {path} && git commit")
        dest.mkdir(parents=True)
        # Not `git archive`, which leaves out what .gitattributes marks export-ignore. With `dest` as the work tree, what the
        # lab's root has uncommitted in .gitattributes changes no byte either.
        with repo.git.custom_environment(GIT_INDEX_FILE=str(Path(scratch, "index")), GIT_WORK_TREE=str(dest.resolve())):
            repo.git.read_tree(treeish)
            repo.git.checkout_index("--", *names) if paths else repo.git.checkout_index("-a")


def changed(lab: Lab, old: str, new: str) -> str:
    """The diff of the code between two commits, without the lab's own files. Raises LabError when one is not there."""
    with _repo(lab.root, FETCH) as repo:
        return repo.git.diff(old, new, "--", ".", *(f":(exclude){path}" for path in NOT_CODE))


def text(lab: Lab, commit: str, path: str) -> str:
    """A file as a commit has it. Raises LabError when it is not there."""
    with _repo(lab.root, FETCH) as repo:
        return repo.git.show(f"{commit}:{path}")


def lines(lab: Lab, old: str, new: str) -> tuple[int, int]:
    """Lines of code added and removed between two commits, without the lab's own files. Raises LabError when one is not there."""
    with _repo(lab.root, FETCH) as repo:
        counts = [
            line.split("\t") for line in repo.git.diff("--numstat", old, new, "--", ".", *(f":(exclude){path}" for path in NOT_CODE)).splitlines()
        ]
    return tuple(sum(int(row[side]) for row in counts if row[side] != "-") for side in (0, 1))  # "-" for files that have no lines


def committed(lab: Lab) -> str:
    """What main has committed, but for the lab's records: names and contents."""
    with _repo(lab.root) as repo:
        listed = repo.git.ls_tree("HEAD", "-z").split("\0")
        return "\n".join(line for line in listed if line.partition("\t")[2] not in RECORDS)


def fork_point(lab: Lab, commit: str) -> str:
    """The newest commit that `commit` shares with main. Raises LabError when it is not there, or shares none."""
    with _repo(lab.root, FETCH) as repo:
        return repo.git.merge_base(repo.head.commit.hexsha, commit)


def top(start: Path | None = None) -> Path:
    """The worktree that a person stands in."""
    import git

    return Path(git.Repo(start or os.getcwd(), search_parent_directories=True).working_dir).resolve()


def branch(tree: Path) -> str:
    """The branch that is checked out at `tree`; "" where HEAD is detached."""
    import git

    head = git.Repo(tree).head
    return "" if head.is_detached else head.ref.name

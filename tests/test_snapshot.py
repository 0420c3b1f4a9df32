import os
from pathlib import Path

import pytest
from conftest import commit, git

from monolab import snapshot
from monolab.errors import LabError


def exported(lab, treeish: str, dest: Path, paths: tuple[str, ...] = ()) -> dict[str, bytes]:
    snapshot.export(lab, treeish, dest, paths)
    return {path.relative_to(dest).as_posix(): path.read_bytes() for path in sorted(dest.rglob("*")) if path.is_file()}


# -- take


@pytest.mark.parametrize(
    ("bits", "clear"),
    [
        (["assume-unchanged"], 1),
        (["skip-worktree"], 1),
        (["assume-unchanged", "skip-worktree"], 2),
    ],
)
def test_a_file_that_git_does_not_look_at_is_refused(lab_repo, bits, clear):
    lab = lab_repo()
    for bit in bits:
        git(lab.root, "update-index", f"--{bit}", "train.py")
    (lab.root / "train.py").write_text("raise SystemExit('the new code')\n")
    with pytest.raises(LabError, match=r"not to look at train\.py") as caught:
        snapshot.take(lab.root)
    commands = caught.value.hint.split(" && ")
    assert len(commands) == clear
    for command in commands:  # the hint does what it says
        git(lab.root, *command.removeprefix(f"git -C {lab.root} ").split())
    assert not snapshot.take(lab.root).clean


def test_a_link_travels_only_with_what_it_points_to(lab_repo, tmp_path):
    lab = lab_repo(**{".gitignore": ".data/\nweights\nshort\n", "lib/deep/a.py": "a = 1\n"})
    good = {"file": "lib/deep/a.py", "folder": "lib", "lib/up": "../train.py", "chain": "folder/deep/a.py", "dotted": "./lib/../lib/deep"}
    for name, target in good.items():
        (lab.root / name).symlink_to(target)
    (lab.root / "weights").write_text("ignored")
    (lab.root / "short").symlink_to("lib")  # ignored, too
    files = exported(lab, snapshot.take(lab.root).code_sha, tmp_path / "code")
    assert files["file"] == files["chain"] == b"a = 1\n" and (tmp_path / "code" / "dotted" / "a.py").is_file()
    for target in ("weights", "short/deep/a.py", "nowhere", "eval.py", "../outside", str(lab.root / "train.py"), "bad"):
        (lab.root / "bad").symlink_to(target)
        with pytest.raises(LabError, match=f"bad is a link to {target}, which is not part of the snapshot"):
            snapshot.take(lab.root)
        (lab.root / "bad").unlink()


def test_a_repository_inside_the_tree_is_refused_with_or_without_a_commit(lab_repo):
    lab = lab_repo()
    git(lab.root, "init", "--quiet", "0_docs/notes")  # a record: no part of a snapshot
    snapshot.take(lab.root)
    git(lab.root, "init", "--quiet", "nested")
    (lab.root / "nested" / "a.py").write_text("")
    with pytest.raises(LabError, match="nested is a repository of its own"):
        snapshot.take(lab.root)
    commit(lab.root / "nested")
    with pytest.raises(LabError, match="nested is a repository of its own"):
        snapshot.take(lab.root)


def test_untracked_files_that_are_no_code_are_refused(lab_repo):
    lab = lab_repo()
    with (lab.root / "0_docs" / "paper.pdf").open("wb") as file:
        file.truncate(60 * 2**20)  # a record: no part of a snapshot
    before = snapshot.take(lab.root)
    with (lab.root / "weights.bin").open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(LabError, match="60 MB of untracked files"):
        snapshot.take(lab.root)
    (lab.root / "weights.bin").unlink()
    assert before == snapshot.take(lab.root) and before.clean


def test_what_git_refuses_is_an_error_with_gits_words(lab_repo, tmp_path):
    lab = lab_repo()
    taken = snapshot.take(lab.root)
    with pytest.raises(LabError, match="git update-ref in"):
        snapshot.keep(lab, "a..b", taken.commit, taken.code_sha)
    with pytest.raises(LabError, match=f"git read-tree in .*{'0' * 39}1"):
        snapshot.export(lab, "0" * 39 + "1", tmp_path / "code")
    (lab.root / ".git" / "index").write_bytes(b"damaged")
    with pytest.raises(LabError, match="git ls-files in .*index"):
        snapshot.take(lab.root)
    with pytest.raises(LabError, match="no git repository"):
        snapshot.take(tmp_path)


# -- export


def test_an_export_has_every_byte_link_and_mode(lab_repo, tmp_path):
    files = {".gitattributes": "*.csv export-ignore\n* export-subst\n", "words.csv": "a,b\n", "pkg/.gitattributes": "x.csv export-ignore\n"}
    lab = lab_repo(**files, **{"pkg/x.csv": "$Format:%H$\n", "pkg/run.sh": "#!/bin/sh\n", "ümläut name.txt": "ü\r\n"})
    (lab.root / "pkg" / "run.sh").chmod(0o755)
    (lab.root / "link").symlink_to("pkg")
    taken = snapshot.take(lab.root)
    (lab.root / ".gitattributes").write_text("* text eol=crlf\n")  # not committed, of no account
    before = git(lab.root, "status", "--porcelain")
    found = exported(lab, taken.code_sha, tmp_path / "code")
    assert (found["words.csv"], found["pkg/x.csv"], found["ümläut name.txt"]) == (b"a,b\n", b"$Format:%H$\n", "ü\r\n".encode())
    assert found["train.py"] == (lab.root / "train.py").read_bytes() and "eval.py" not in found
    assert os.access(tmp_path / "code" / "pkg" / "run.sh", os.X_OK) and not os.access(tmp_path / "code" / "words.csv", os.X_OK)
    assert os.readlink(tmp_path / "code" / "link") == "pkg"
    assert git(lab.root, "status", "--porcelain") == before  # its own index and work tree are left alone


def test_an_export_of_some_paths_has_just_those(lab_repo, tmp_path):
    lab = lab_repo(**{"scoring/a/rules.py": "", "scoring/words.txt": "w\n", "scoring_more.py": ""})
    assert exported(lab, "HEAD", tmp_path / "one", ("eval.py",)).keys() == {"eval.py"}
    assert exported(lab, "HEAD", tmp_path / "two", ("eval.py", "scoring/")).keys() == {"eval.py", "scoring/a/rules.py", "scoring/words.txt"}
    with pytest.raises(LabError, match=r"gone\.py is not in HEAD"):
        snapshot.export(lab, "HEAD", tmp_path / "three", ("eval.py", "gone.py"))


# -- in a clone


def test_a_commit_that_a_clone_does_not_have_comes_with_the_command_that_fetches_it(lab_repo, tmp_path):
    lab = lab_repo()
    (lab.root / "extra.py").write_text("x = 1\n")
    taken = snapshot.take(lab.root)
    snapshot.keep(lab, "r1", taken.commit, taken.code_sha)
    git(tmp_path, "clone", "--quiet", f"file://{lab.root}", "clone")  # by file://, else all objects come along
    clone = type(lab)(tmp_path / "clone")
    for ask in (lambda: snapshot.changed(clone, "HEAD", taken.commit), lambda: snapshot.fork_point(clone, taken.commit)):
        with pytest.raises(LabError) as caught:
            ask()
        assert caught.value.hint == "git fetch origin 'refs/lab/runs/*:refs/lab/runs/*'"
    git(clone.root, "fetch", "--quiet", "origin", "refs/lab/runs/*:refs/lab/runs/*")
    assert "+x = 1" in snapshot.changed(clone, "HEAD", taken.commit)
    assert snapshot.fork_point(clone, taken.commit) == taken.head


def test_what_was_tried_survives_a_garbage_collection(lab_repo):
    lab = lab_repo()
    (lab.root / "extra.py").write_text("x = 1\n")
    taken = snapshot.take(lab.root)
    snapshot.keep(lab, "r1", taken.commit, taken.code_sha)
    (lab.root / "extra.py").unlink()
    git(lab.root, "reflog", "expire", "--expire=now", "--all")
    git(lab.root, "gc", "--quiet", "--prune=now")
    snapshot.export(lab, taken.code_sha, lab.root.parent / "again")
    assert (lab.root.parent / "again" / "extra.py").read_text() == "x = 1\n"

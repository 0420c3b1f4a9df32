"""New labs from one source: what is made, what is left out, what is still to be filled in."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, commit, git

from monolab import init, label, problem, results
from monolab.errors import LabError
from monolab.paths import Lab

SKELETON = REPOSITORY / "src" / "monolab" / "skeleton"
FILLED = {  # where one text does not fit all places
    "metric": "score",
    "direction": "higher",
    "smallest_effect": "0.01",
}


def tracked() -> list[Path]:
    """Every file of this repository that git tracks, or would, but for links."""
    names = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [REPOSITORY / name for name in names if name and (REPOSITORY / name).is_file() and not (REPOSITORY / name).is_symlink()]


def fill(lab: Lab) -> None:
    for path in lab.root.rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.suffix in (".md", ".py"):
            text = path.read_text()
            for name, value in FILLED.items():
                text = re.sub(rf'^{name}: "\{{FILL_IN[^}}]*\}}"', f"{name}: {value}", text, flags=re.MULTILINE)
            if not path.name.startswith("_"):
                path.write_text(re.sub(r"\{FILL_IN[^}]*\}", "filled", text))


def wheel(lab: Lab) -> Path:
    (found,) = (lab.root / "vendor").glob("*.whl")
    return found


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_a_new_lab_lists_its_places_until_they_are_filled(tmp_path):
    lab = init.init(tmp_path / "deep" / "lab")
    assert lab.root == tmp_path / "deep" / "lab"
    todo = init.check(lab)
    expected = [
        f"{path.relative_to(SKELETON).as_posix().replace('program.head.md', 'program.md')}:{number}"
        for path in SKELETON.rglob("*")
        if path.suffix in (".md", ".py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for _ in re.findall("{FILL_IN", line)
    ]
    assert len(expected) > 15
    assert sorted(re.match(r"[^:]+:\d+", place)[0] for place in todo) == sorted(expected)
    assert all(re.fullmatch(r"[\w./]+:\d+: \w.{10,}", place) for place in todo), todo
    with pytest.raises(LabError, match="still to be filled in"):
        problem.load(lab)

    fill(lab)
    assert init.check(lab) == []
    assert (problem.load(lab).metric, problem.load(lab).direction) == ("score", "higher")


def test_a_new_lab_is_committed_guarded_and_brings_its_tool(tmp_path):
    lab = init.init(tmp_path / "lab")
    assert git(lab.root, "status", "--porcelain", "--ignored") == ""
    assert git(lab.root, "log", "--format=%s %an", "main") == "Start the lab Test"
    assert os.access(lab.root / "just", os.X_OK)
    assert git(lab.root, "ls-files", "-s", "just").startswith("100755")
    assert os.access(lab.root / git(lab.root, "rev-parse", "--git-path", "hooks/pre-commit"), os.X_OK)
    assert git(lab.root, "ls-files", "vendor") == f"vendor/{wheel(lab).name}"
    assert results.load(lab) == []
    mine, theirs = ((root / "program.md").read_text().partition(init.MARK) for root in (REPOSITORY, lab.root))
    assert theirs[1:] == mine[1:] and mine[2] and theirs[0] != mine[0]
    assert not any((lab.root / name).exists() for name in ("src", "tests", "pyproject.toml", "README.md", init.HEAD))
    assert list(tmp_path.glob("*lab*")) == [lab.root]


@pytest.mark.parametrize("name", sorted(init.examples()))
def test_an_example_has_nothing_to_fill_in(tmp_path, name):
    lab = init.init(tmp_path / "lab", name)
    assert init.check(lab) == []
    origin = init.examples()[name]
    for own in (*init.OWN, *(init.ROOT_ONLY if name == "root" else ())):
        files = [path for path in (origin / own).rglob("*") if path.is_file()] if (origin / own).is_dir() else [origin / own]
        assert files and all((lab.root / path.relative_to(origin)).read_bytes() == path.read_bytes() for path in files)
    assert not (lab.root / init.HEAD).exists()


def test_the_two_labs_are_about_different_things(tmp_path):
    root, digits = (problem.load(init.init(tmp_path / name, name)) for name in ("root", "digits"))
    assert (root.metric, root.direction) == ("val_bpb", "lower")
    assert (digits.metric, digits.direction) == ("accuracy", "higher")


def test_check_names_what_is_missing_or_wrong(tmp_path):
    lab = init.init(tmp_path / "lab", "digits")
    (lab.root / "eval.py").unlink()
    lab.program.write_text(lab.program.read_text().replace("direction: higher", "direction: up"))
    (lab.root / "notes.md").write_text("one\n{FILL_IN: an untracked place} and {FILL_IN}\n")
    (lab.root / "mention.md").write_text("a place looks like `{FILL_IN: hint}`\n")
    (lab.root / "1_ideas" / "_TEMPLATE.md").write_text("{FILL_IN: not a place}\n")
    (lab.root / ".data").mkdir()
    (lab.root / ".data" / "ignored.md").write_text("{FILL_IN: not a place}\n")
    assert init.check(lab) == [
        "eval.py: is missing",
        "notes.md:2: an untracked place",
        "notes.md:2: fill this in",
        "program.md: direction is 'up' (lower or higher)",
    ]


def test_this_repository_has_nothing_to_fill_in():
    assert init.check(Lab(REPOSITORY)) == []


def test_the_labels_that_program_md_shows_can_be_read():
    text = (REPOSITORY / "program.md").read_text() + (REPOSITORY / "AGENTS.md").read_text()
    shown = [label.parse(found, "any") for found in re.findall(r"Q: [a-z][^\n\"]* H: [^\n\"]+", text)]
    assert all(found.question and found.text for found in shown)
    assert [found.scorable for found in shown].count(True) >= 3
    assert [found.text for found in shown if not found.scorable] == ["half of it at the same speed"]


@pytest.fixture
def other_source(tmp_path, monkeypatch) -> Path:
    """A copy of this repository's files, as the source of new labs."""
    copy = tmp_path / "source"
    for path in tracked():
        (copy / path.relative_to(REPOSITORY)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.relative_to(REPOSITORY))
    monkeypatch.setattr(init, "source", lambda: copy)
    return copy


def test_no_entry_of_a_journal_and_no_row_travels(tmp_path, other_source):
    journals = [name for name in init.HEADERS if name.endswith(".md")]
    assert len(journals) == 3
    for name in journals:
        path = other_source / name
        path.write_text(f"{path.read_text().rstrip()}\n\n## 2026-11-21 a secret\n\nMETA_MODE=1, a secret\n\n## 2026-11-20 a secret\n")
    with (other_source / "results.tsv").open("a") as file:
        file.write("a secret" + "\t" * 15 + "\n")
    (other_source / ".claude").mkdir(exist_ok=True)
    (other_source / ".claude" / "settings.local.json").write_text('"a secret"')
    lab = init.init(tmp_path / "lab")
    files = {str(path): path.read_bytes() for path in lab.root.rglob("*") if path.is_file() and ".git" not in path.parts}
    files |= contents(wheel(lab))
    assert [name for name, content in files.items() if b"a secret" in content] == []
    for name in journals:
        assert (other_source / name).read_text().startswith((lab.root / name).read_text())
        assert re.fullmatch(r"# [A-Z].*\n\n(.+\n)+", (lab.root / name).read_text())
    assert (lab.root / "results.tsv").read_text() == results.HEADER + "\n"


def test_a_source_without_the_mark_is_refused(tmp_path, other_source):
    (other_source / "program.md").write_text("# Research program\n")
    with pytest.raises(LabError, match="has lost the line"):
        init.init(tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


def test_the_wheel_holds_what_labs_are_made_from(tmp_path):
    inside = contents(wheel(init.init(tmp_path / "lab")))
    wanted = []
    for name in ("program.md", *init.COMMON, *init.HEADERS, *init.OWN, *init.ROOT_ONLY, "examples/digits"):
        path = REPOSITORY / name
        assert path.exists(), name
        wanted += [file for file in tracked() if file == path or path in file.parents]
    for file in wanted:
        name = file.relative_to(REPOSITORY).as_posix()
        assert f"monolab/_lab/{name}" in inside
        if name not in init.HEADERS:
            assert inside[f"monolab/_lab/{name}"] == file.read_bytes(), name
    assert len(wanted) > 25
    assert {name for name in inside if name.startswith("monolab/skeleton/")} == {
        f"monolab/skeleton/{path.relative_to(SKELETON).as_posix()}" for path in tracked() if SKELETON in path.parents
    }
    assert not [name for name in inside if "/tests/" in name or "__pycache__" in name]


def test_a_lab_made_from_the_wheel_is_the_same_lab(tmp_path):
    first = init.init(tmp_path / "first", "digits")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel(first)) as file:
        file.extractall(site)
    code = "import sys, monolab.init as init; assert '/site/' in init.__file__; print(init.init(sys.argv[1], sys.argv[2]).root)"
    env = os.environ | {"PYTHONPATH": str(site)}
    make = [sys.executable, "-B", "-c", code]
    subprocess.run([*make, str(tmp_path / "second"), "digits"], env=env, check=True, cwd=tmp_path, capture_output=True)
    second = Lab(tmp_path / "second")
    names = git(first.root, "ls-files").splitlines()
    assert names == git(second.root, "ls-files").splitlines()
    for name in names:
        if (first.root / name).is_symlink():
            assert (first.root / name).readlink() == (second.root / name).readlink()
        elif not name.startswith("vendor/"):
            assert (first.root / name).read_bytes() == (second.root / name).read_bytes(), name
    before, after = contents(wheel(first)), contents(wheel(second))
    assert {name: content for name, content in before.items() if not name.endswith("/RECORD")} == {
        name: content for name, content in after.items() if not name.endswith("/RECORD")
    }
    assert git(first.root, "ls-files", "-s", "just") == git(second.root, "ls-files", "-s", "just")

    with (site / "monolab" / "stats.py").open("a") as file:
        file.write("# tampered with\n")
    done = subprocess.run([*make, str(tmp_path / "third"), "digits"], env=env, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert "stats.py differs from what was installed" in done.stderr
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda dest: (dest.mkdir(), (dest / "mine.txt").write_text("mine")), "not empty"),
        (lambda dest: dest.write_text("mine"), "is a file"),
    ],
)
def test_what_is_there_is_never_touched(tmp_path, prepare, told):
    prepare(tmp_path / "lab")
    with pytest.raises(LabError, match=told):
        init.init(tmp_path / "lab")
    kept = tmp_path / "lab"
    assert (kept / "mine.txt" if kept.is_dir() else kept).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".lab")] == []


def test_an_empty_folder_is_filled_in_place(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    monkeypatch.chdir(tmp_path / "lab")
    init.init(Path(), "digits")
    assert Path("program.md").is_file()  # where the caller stands, not in a folder that took its place


def test_a_lab_inside_a_lab_must_be_ignored_there(tmp_path, lab_repo):
    outer = lab_repo("outer")
    with pytest.raises(LabError, match="inside the lab"):
        init.init(outer.root / "sub" / "lab")
    assert git(outer.root, "status", "--porcelain", "-uall") == ""
    (outer.root / ".gitignore").write_text((outer.root / ".gitignore").read_text() + "sub/\n")
    commit(outer.root)
    assert init.init(outer.root / "sub" / "lab", "digits").root == outer.root / "sub" / "lab"
    assert git(outer.root, "status", "--porcelain", "-uall") == ""


def test_without_a_name_for_git_nothing_is_made(tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME")
        monkeypatch.delenv(f"GIT_{name}_EMAIL")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(LabError, match="no name and address") as caught:
        init.init(tmp_path / "lab")
    assert "git config" in caught.value.hint
    assert list(tmp_path.glob("*lab*")) == []


def test_an_unknown_example_names_the_known_ones(tmp_path):
    with pytest.raises(LabError, match="no example 'digit'") as caught:
        init.init(tmp_path / "lab", "digit")
    assert caught.value.hint == "one of: root, digits"
    with pytest.raises(LabError, match=init.HEAD):
        init.init(tmp_path / "lab", tmp_path)


def test_no_file_is_in_the_tree_twice():
    seen: dict[bytes, Path] = {}
    twice = []
    for path in tracked():
        content = path.read_bytes()
        if content and content in seen:
            twice.append((path, seen[content]))
        seen[content] = path
    assert len(seen) > 40
    assert twice == []


def test_the_package_knows_no_problem():
    words = re.compile(
        r"val_bpb|\bbpb\b|bits per byte|delta.?net|delta.?rule|linear.attention|language.model|load_digits|handwritten|examples/\w+", re.IGNORECASE
    )
    sources = [path for path in tracked() if path.is_relative_to(SKELETON.parent) and SKELETON not in path.parents and path.suffix == ".py"]
    assert len(sources) > 15
    assert [f"{path.name}: {found[0]}" for path in sources for found in [words.search(path.read_text())] if found] == []
    assert words.search((REPOSITORY / "train.py").read_text()) and words.search((REPOSITORY / "examples/digits/data.py").read_text())

"""The data: made by data.py, hashed, replaced whole, and never used when it changed."""

import json
import os
import shutil

import pytest
from conftest import DATA, git

from monolab import dataset
from monolab.errors import LabError


def edit(path, content: str) -> None:
    """Write `content` and make sure that the file's time differs, whatever the clock's resolution."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(content)
    os.utime(path, ns=(before + 1_000_000_000,) * 2)


def temporary(lab) -> list[str]:
    return [path.name for path in lab.root.iterdir() if path.name.startswith(".data-")]


def test_prepare_hashes_what_data_py_wrote(lab_repo):
    lab = lab_repo()
    manifest = dataset.prepare(lab, [])
    assert json.loads((lab.data / "manifest.json").read_text()) == manifest
    assert manifest["files"].keys() == {f"{split}/numbers.txt" for split in dataset.SPLITS}
    assert manifest["splits"] == {"train": 8, "val": 4, "test": 4}
    assert dataset.data_sha(lab) == dataset.verify(lab) == manifest["data_sha"]
    assert temporary(lab) == []


def test_the_hash_is_of_names_and_contents_alone(lab_repo):
    first = dataset.prepare(lab_repo("first"), [])
    second = dataset.prepare(lab_repo("second"), ["--an-option"])
    assert first["data_sha"] == second["data_sha"]
    other = lab_repo("other", **{"data.py": DATA.replace("2.1", "2.2")})
    assert dataset.prepare(other, [])["data_sha"] != first["data_sha"]
    renamed = lab_repo("renamed", **{"data.py": DATA.replace("numbers.txt", "figures.txt")})
    assert dataset.prepare(renamed, [])["data_sha"] != first["data_sha"]


def test_options_reach_data_py_and_the_manifest(lab_repo):
    lab = lab_repo(**{"data.py": DATA + "(Path(sys.argv[1]) / 'train' / 'args.txt').write_text(' '.join(sys.argv[2:]))\n"})
    assert dataset.prepare(lab, ["--source", "here"])["args"] == ["--source", "here"]
    assert (lab.data / "train" / "args.txt").read_text() == "--source here"


SEALING = DATA.replace(
    "import sys\n", "import sys\n\nsealed = sys.argv[sys.argv.index('--sealed') + 1] if '--sealed' in sys.argv else '1'\n", 1
).replace('"test": "1.0\\n"', '"test": f"1.{sealed}\\n"')


def test_another_test_split_is_another_data_sha_with_the_same_train_and_val(lab_repo):
    lab = lab_repo(**{"data.py": SEALING})
    first, second = dataset.prepare(lab, ["--flag"]), dataset.prepare(lab, ["--flag", "--sealed", "2"])
    assert first["data_sha"] != second["data_sha"] == dataset.data_sha(lab)
    assert {name for name in first["files"] if first["files"][name]["sha256"] != second["files"][name]["sha256"]} == {"test/numbers.txt"}
    assert dataset.next_seal(lab) == "just data --flag --sealed 3"
    assert dataset.prepare(lab, ["--sealed=1"])["data_sha"] == first["data_sha"]
    assert dataset.next_seal(lab) == "just data --sealed 2"


def test_another_test_split_that_changes_train_or_nothing_is_refused_and_the_old_data_stays(lab_repo):
    lab = lab_repo(**{"data.py": SEALING.replace('"1.9', 'f"{sealed}.9')})
    sha = dataset.prepare(lab, [])["data_sha"]
    with pytest.raises(LabError, match=r"sealed split 2 changes train/numbers\.txt as well.* must leave train and val"):
        dataset.prepare(lab, ["--sealed", "2"])
    assert dataset.verify(lab) == sha and temporary(lab) == []
    deaf = lab_repo("deaf")
    sha = dataset.prepare(deaf, [])["data_sha"]
    with pytest.raises(LabError, match="does not heed the option") as caught:
        dataset.prepare(deaf, ["--sealed", "2"])
    assert dataset.verify(deaf) == sha and "META_MODE=1" in caught.value.hint
    with pytest.raises(LabError, match="--sealed two: not a whole number"):
        dataset.prepare(deaf, ["--sealed", "two"])


def test_without_data_the_next_command_is_named(lab_repo):
    lab = lab_repo()
    for ask in (dataset.data_sha, dataset.verify):
        with pytest.raises(LabError, match="no data yet") as caught:
            ask(lab)
        assert caught.value.hint == "just data"
    lab.data.mkdir()
    with pytest.raises(LabError, match=r"no manifest\.json"):
        dataset.data_sha(lab)


def change(lab):
    edit(lab.data / "val" / "numbers.txt", "9.0\n")


def remove(lab):
    (lab.data / "val" / "numbers.txt").unlink()


def add(lab):
    (lab.data / "val" / "more.txt").write_text("1.0\n")


@pytest.mark.parametrize(
    ("spoil", "told"), [(change, "val/numbers.txt changed"), (remove, "val/numbers.txt is missing"), (add, "val/more.txt is new")]
)
def test_data_that_changed_is_refused(lab_repo, spoil, told):
    lab = lab_repo()
    dataset.prepare(lab, [])
    spoil(lab)
    for ask in (dataset.data_sha, dataset.verify):
        with pytest.raises(LabError, match=f"data changed since it was prepared: {told}") as caught:
            ask(lab)
        assert caught.value.hint == "just data"
    dataset.prepare(lab, [])
    dataset.data_sha(lab)


def test_verify_sees_what_size_and_time_hide(lab_repo):
    lab = lab_repo()
    dataset.prepare(lab, [])
    path = lab.data / "val" / "numbers.txt"
    was = path.stat().st_mtime_ns
    path.write_text("9.0\n")
    os.utime(path, ns=(was, was))
    dataset.data_sha(lab)
    with pytest.raises(LabError, match=r"val/numbers\.txt changed"):
        dataset.verify(lab)


def test_a_touched_manifest_is_refused(lab_repo):
    lab = lab_repo()
    dataset.prepare(lab, [])
    path = lab.data / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"data_sha": "0" * 64}))
    with pytest.raises(LabError, match="its data_sha is not that of the files"):
        dataset.data_sha(lab)
    path.write_text(json.dumps(values)[:50])
    with pytest.raises(LabError, match=r"manifest\.json is damaged"):
        dataset.data_sha(lab)


def test_a_data_py_that_fails_leaves_the_old_data(lab_repo, capfd):
    lab = lab_repo()
    sha = dataset.prepare(lab, [])["data_sha"]
    (lab.root / "data.py").write_text(DATA + "print('line ' * 3)\nraise SystemExit('the source is unreachable')\n")
    with pytest.raises(LabError, match=r"exit code 1:\n    line line line \n    the source is unreachable"):
        dataset.prepare(lab, [])
    assert "the source is unreachable" in capfd.readouterr().err
    assert dataset.verify(lab) == sha
    assert temporary(lab) == []


@pytest.mark.parametrize("ending", ["shutil.rmtree(sys.argv[1] + '/test')", "Path(sys.argv[1], 'test/numbers.txt').write_text('')"])
def test_every_split_needs_content(lab_repo, ending):
    lab = lab_repo(**{"data.py": f"{DATA}import shutil\n{ending}\n"})
    with pytest.raises(LabError, match="left test empty"):
        dataset.prepare(lab, [])
    assert not lab.data.exists()
    assert temporary(lab) == []


def test_without_data_py_there_is_an_error(lab_repo):
    lab = lab_repo()
    (lab.root / "data.py").unlink()
    with pytest.raises(LabError, match=r"no data\.py"):
        dataset.prepare(lab, [])


def test_git_never_sees_data_in_the_making(lab_repo):
    look = "import subprocess\n(Path(sys.argv[1]) / 'train/seen.txt').write_bytes(b'seen:' + subprocess.check_output(['git', 'status', '--porcelain', '-uall']))\n"
    lab = lab_repo(**{"data.py": DATA + look})
    dataset.prepare(lab, [])
    assert (lab.data / "train" / "seen.txt").read_text() == "seen:"
    assert git(lab.root, "status", "--porcelain") == ""


def test_the_old_data_returns_when_the_new_cannot_take_its_place(lab_repo, monkeypatch):
    lab = lab_repo()
    sha = dataset.prepare(lab, [])["data_sha"]
    rename = type(lab.data).rename

    def refuse(path, target):
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(lab.data), "rename", refuse)
    with pytest.raises(OSError, match="no"):
        dataset.prepare(lab, [])
    assert dataset.verify(lab) == sha


def test_linked_folders_are_followed(lab_repo, tmp_path):
    lab = lab_repo()
    dataset.prepare(lab, [])
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(lab.data / "val", elsewhere)
    linked = lab_repo(
        "linked",
        **{"data.py": DATA + f"import shutil\nshutil.rmtree(sys.argv[1] + '/val')\nPath(sys.argv[1], 'val').symlink_to({str(elsewhere)!r})\n"},
    )
    assert dataset.prepare(linked, [])["data_sha"] == dataset.data_sha(lab)
    edit(elsewhere / "numbers.txt", "9.0\n")
    with pytest.raises(LabError, match="data changed"):
        dataset.data_sha(linked)

"""The two processes of a run: what of a checkpoint its hash covers and its scorer sees, and what is scored again."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from monolab import device, filesystem, phases, problem

BUSY = "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"
SCORER = """import json, sys
from pathlib import Path

tries = Path("tries")
count = int(tries.read_text()) if tries.exists() else 0
tries.write_text(str(count + 1))
if count < FAILS:
    sys.exit("SAYS")
seen = sorted(path.relative_to(sys.argv[1]).as_posix() for path in Path(sys.argv[1]).rglob("*") if path.is_file())
Path(sys.argv[3]).write_text(json.dumps({"score": 0.5, "files": len(seen), **{name: 1 for name in seen}}))
"""


@pytest.fixture
def score(lab_repo, tmp_path, monkeypatch):
    """Score a made-up checkpoint by a scorer that fails `fails` times first and `says` so; the outcome, the metrics, and how often it ran."""
    monkeypatch.setattr(phases, "AGAIN", (0.0, 0.0))
    lab, folder = lab_repo(), tmp_path / "run"
    for name in ("checkpoint/sub", "code", "scorer"):
        (folder / name).mkdir(parents=True)
    for name in ("model", "progress.json", "sub/progress.json"):
        (folder / "checkpoint" / name).write_text("{}")

    def run(kind: str = "gpu", fails: int = 0, says: str = BUSY):
        (folder / "scorer" / "eval.py").write_text(SCORER.replace("FAILS", str(fails)).replace("SAYS", says))
        machine = replace(device.detect(), kind=kind)
        outcome, metrics = phases.score(lab, folder, machine, problem.load(lab), "explore")
        return outcome.status, metrics, int((folder / "scorer" / "tries").read_text())

    return folder, run


def test_only_the_progress_beside_the_model_is_no_part_of_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "sub").mkdir(parents=True)
    for name in ("model", "progress.json", "sub/progress.json"):
        (checkpoint / name).write_text("x")
    assert [path.relative_to(checkpoint).as_posix() for path in phases.trained_files(checkpoint)] == ["model", "sub/progress.json"]


def test_what_the_hash_does_not_cover_no_scorer_sees(score):
    folder, run = score
    status, metrics, _ = run("cpu")
    assert status == "ok" and metrics == {"score": 0.5, "files": 2, "model": 1, "sub/progress.json": 1}
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["model", "sub"]
    assert json.loads((folder / "progress.json").read_text()) == {}


@pytest.mark.parametrize(
    ("kind", "fails", "says", "status", "times"),
    [
        ("gpu", 1, BUSY, "ok", 2),
        ("gpu", 2, "RuntimeError: No CUDA GPUs are available", "ok", 3),
        ("gpu", 9, BUSY, "crash", 3),
        ("gpu", 1, "ValueError: shapes differ", "crash", 1),
        ("cpu", 1, BUSY, "crash", 1),  # there is no GPU to be had
    ],
)
def test_a_scorer_that_could_not_have_the_device_scores_the_same_checkpoint_again(score, kind, fails, says, status, times):
    assert score[1](kind, fails, says)[::2] == (status, times)


def test_a_temporary_folder_goes_with_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with filesystem.temporary() as folder:
        (folder / "file").touch()
        assert filesystem.sweep() == [] and folder.is_dir()
    assert not folder.exists()


def test_a_temporary_folder_that_is_swept_before_anybody_holds_it_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    real, made = tempfile.mkdtemp, []

    def swept(**how: str) -> str:
        made.append(real(**how))
        if len(made) == 1:
            assert filesystem.sweep() == [Path(made[0])]
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)
    with filesystem.temporary() as folder:
        assert len(made) == 2 and str(folder) == made[1] and folder.is_dir()

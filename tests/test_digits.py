"""The second example lab: nothing about language, higher is better, and an idea that truly helps."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, commit, git

from monolab import dataset, ideas, problem, stats
from monolab.init import HEAD
from monolab.paths import Lab

DIGITS = REPOSITORY / "examples" / "digits"
PATCH = "1_ideas/2026-11-21_pixel-noise.patch"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What data.py writes, made once."""
    out = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, str(DIGITS / "data.py"), str(out)], check=True, capture_output=True)
    return out


@pytest.fixture
def lab(tmp_path, made) -> Lab:
    """The example's own files as a repository, without what all labs share, with its data."""
    root = tmp_path / "digits"
    shutil.copytree(DIGITS, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / HEAD).rename(root / "program.md")
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root)
    shutil.copytree(made, root / ".data")
    return Lab(root)


def train(lab: Lab, out: Path, seed: int, *options: str, stage: str = "explore") -> Path:
    command = [sys.executable, "train.py", "--stage", stage, "--seed", str(seed), "--data", str(lab.data / "train"), "--out", str(out), *options]
    subprocess.run(command, cwd=lab.root, check=True, capture_output=True, timeout=60)
    return out


def score(lab: Lab, checkpoint: Path, split: str = "val") -> subprocess.CompletedProcess:
    out = checkpoint.with_suffix(".json")
    command = [sys.executable, "eval.py", str(checkpoint), str(lab.data / split), str(out), str(lab.root)]
    done = subprocess.run(command, cwd=lab.root, capture_output=True, text=True, timeout=60, check=False)
    done.metrics = json.loads(out.read_text()) if done.returncode == 0 else None
    return done


def test_no_image_is_in_two_splits(lab):
    assert dataset.prepare(lab, [])["data_sha"] == dataset.data_sha(lab)
    images = {split: np.load(lab.data / split / "images.npy") for split in dataset.SPLITS}
    assert {split: len(found) for split, found in images.items()} == {"train": 594, "val": 580, "test": 623}
    seen = {split: {image.tobytes() for image in found} for split, found in images.items()}
    assert not seen["train"] & seen["val"] and not seen["train"] & seen["test"] and not seen["val"] & seen["test"]
    assert {found.dtype for found in images.values()} == {np.dtype("float32")}


def test_another_test_split_comes_from_the_collections_other_part(made, tmp_path):
    """With a stand-in for optdigits.tra: 1,200 images nobody has seen, and 30 of scikit-learn's own, which must not be sealed."""
    from sklearn.datasets import load_digits

    draw, known = np.random.default_rng(0), load_digits()
    images = np.concatenate([draw.integers(0, 17, (1200, 64)), known.images[:30].reshape(30, 64).astype(int)])
    labels = np.concatenate([draw.integers(0, 10, 1200), known.target[:30]])
    np.savetxt(tmp_path / "optdigits.tra", np.column_stack([images, labels]), fmt="%d", delimiter=",")

    def sealed(number: int) -> np.ndarray:
        out = tmp_path / str(number)
        command = [sys.executable, str(DIGITS / "data.py"), str(out), "--sealed", str(number), "--reserve", str(tmp_path / "optdigits.tra")]
        subprocess.run(command, check=True, capture_output=True)
        for split in ("train", "val"):
            for name in ("images.npy", "labels.npy"):
                assert (out / split / name).read_bytes() == (made / split / name).read_bytes()
        assert len(np.load(out / "test" / "labels.npy")) == len(np.load(out / "test" / "images.npy"))
        return np.load(out / "test" / "images.npy")

    parts = [{image.tobytes() for image in sealed(number)} for number in (2, 3)]
    used = {(image / 16).astype("<f4").tobytes() for image in known.images}
    assert all(len(part) == pytest.approx(200, rel=0.25) for part in parts) and not parts[0] & parts[1] and not used & (parts[0] | parts[1])
    for arguments, says in ((["--sealed", "2"], "needs images"), (["--sealed", "8"], "--sealed is 8")):
        done = subprocess.run([sys.executable, str(DIGITS / "data.py"), str(tmp_path / "x"), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and says in done.stderr and "next: " in done.stderr
    (tmp_path / "odd.tra").write_text("1,2,3\n")
    command = [sys.executable, str(DIGITS / "data.py"), str(tmp_path / "x"), "--sealed", "2", "--reserve", str(tmp_path / "odd.tra")]
    assert "does not hold 64 pixels" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_the_idea_helps_on_every_seed(lab, tmp_path):
    subject, idea = problem.load(lab), ideas.load(lab, "pixel-noise")
    before = {seed: score(lab, train(lab, tmp_path / f"before-{seed}", seed)).metrics["accuracy"] for seed in range(3)}
    git(lab.root, "apply", PATCH)
    after = {seed: score(lab, train(lab, tmp_path / f"after-{seed}", seed)).metrics["accuracy"] for seed in range(3)}
    found = stats.compare(
        after,
        before,
        floor=stats.noise_floor(list(before.values())),
        claim=subject.sign,
        smallest_effect=subject.smallest_effect,
        level=stats.level(1, [], subject.false_keeps),
        most=subject.stage("explore").seeds,
    )
    assert found.verdict == "supported" and stats.decide(found, 8)[0] == "keep", found
    assert found.low > 0 and idea.predicted_effect > 0
    assert statistics.stdev(before.values()) < subject.smallest_effect
    assert 0.9 < statistics.fmean(before.values()) < statistics.fmean(after.values()) < 1


def test_a_seed_repeats_to_the_byte_and_another_differs(lab, tmp_path):
    one, same, other = (train(lab, tmp_path / name, seed, stage="smoke") for name, seed in (("one", 1), ("same", 1), ("other", 2)))
    content = [(folder / "model.npz").read_bytes() for folder in (one, same, other)]
    assert content[0] == content[1] != content[2]


def test_progress_is_shown_and_parameters_are_counted(lab, tmp_path):
    out = train(lab, tmp_path / "out", 0, "--hidden", "8", stage="smoke")
    progress = json.loads((out / "progress.json").read_text())
    assert progress["step"] == progress["steps"] == 185
    assert score(lab, out).metrics["params"] == 64 * 8 + 8 + 8 * 10 + 10


def layers(**arrays):
    return {"w0": np.zeros((64, 10)), "b0": np.zeros(10)} | arrays


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (layers(b0=np.full(10, np.nan)), "finite"),
        (layers(w0=np.full((64, 10), np.inf)), "finite"),
        (layers(w0=np.zeros((64, 9)), b0=np.zeros(9)), "(580, 9)"),
        (layers(w0=np.zeros((63, 10))), "matmul"),
        (layers(b0=np.zeros((580, 10))), "a vector that fits"),
        (layers(b0=np.zeros(1)), "a vector that fits"),
        (layers(extra=np.zeros(3)), "are not the weights"),
        ({}, "are not the weights"),
        (layers(w0=np.array([None])), "pickle"),
        ({f"{kind}{n}": np.zeros((64, 64) if kind == "w" else 64) for n in range(9) for kind in "wb"}, "1 to 8 layers"),
    ],
)
def test_the_scorer_refuses_what_is_no_model(lab, tmp_path, arrays, told):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    np.savez(checkpoint / "model.npz", **arrays)
    done = score(lab, checkpoint)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("refused: ") and told in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"])
def test_the_scorer_refuses_a_missing_or_broken_file(lab, tmp_path, content):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    if content is not None:
        (checkpoint / "model.npz").write_bytes(content)
    done = score(lab, checkpoint)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("refused: ")


def test_a_model_that_always_says_zero_is_right_as_often_as_there_are_zeros(lab, tmp_path):
    checkpoint = tmp_path / "zero"
    checkpoint.mkdir()
    np.savez(checkpoint / "model.npz", **layers(b0=np.eye(10)[0]))
    labels = np.load(lab.data / "val" / "labels.npy")
    assert score(lab, checkpoint).metrics == {"accuracy": (labels == 0).sum() / 580, "params": 650}

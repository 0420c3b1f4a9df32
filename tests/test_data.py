"""data.py: the same bytes for the same source, splits by document, clear refusals."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"root_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare(out: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "data.py"), str(out), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=os.environ | env)


@pytest.fixture
def reserve(tmp_path: Path) -> Path:
    """500 further documents, and ten that the corpus has as well."""
    folder = tmp_path / "further"
    folder.mkdir()
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": f"further {number}"}) + "\n" for number in range(500)))
    (folder / "known.jsonl").write_text("".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(10)))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """300 documents, one of them twice, as files of every kind that is read."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.{('txt', 'md', 'py')[number % 3]}").write_text(f"document {number}\n" * 3)
    (folder / "more.jsonl").write_text("".join(json.dumps({"text": f"line {number}"}) + "\n" for number in [*range(99), 0]))
    (folder / "ignored.csv").write_text("a,b\n")
    return folder


def documents(out: Path, split: str) -> list[bytes]:
    text = (out / split / "text.bin").read_bytes()
    assert text.endswith(b"\0")
    return text[:-1].split(b"\0")


def test_every_document_lands_once_in_the_split_of_its_hash(corpus, tmp_path):
    done = prepare(tmp_path / "out", "--source", str(corpus))
    assert done.returncode == 0, done.stderr
    script, found = load_script("data"), []
    for split in script.SPLITS:
        for document in documents(tmp_path / "out", split):
            assert script.split_of(hashlib.sha256(document).digest()) == split
            found.append(document)
    assert len(found) == len(set(found)) == 299
    assert b"line 0" in found
    assert not any(b"a,b" in document for document in found)


def test_the_bytes_do_not_depend_on_the_order_of_the_source(corpus, tmp_path):
    texts = [b"one\r\n", b"two", b"one", b"", b"\0", *(b"%d" % n for n in range(200))]
    split = load_script("data").split
    assert split(texts) == split(reversed(texts))
    assert sum(document == b"one" for part in split(texts).values() for document in part) == 1
    for out in ("a", "b"):
        assert prepare(tmp_path / out, "--source", str(corpus)).returncode == 0
    for name in ("train", "val", "test"):
        assert (tmp_path / "a" / name / "text.bin").read_bytes() == (tmp_path / "b" / name / "text.bin").read_bytes()


def test_another_test_split_is_sealed_and_train_and_val_stay(corpus, reserve, tmp_path):
    script = load_script("data")
    further = ("--reserve", str(reserve))
    for number, out in ((1, "1"), (2, "2"), (3, "3"), (2, "again")):
        done = prepare(tmp_path / out, "--source", str(corpus), "--sealed", str(number), *(further if number > 1 else ()))
        assert done.returncode == 0, done.stderr
    whole = [document for split in script.SPLITS for document in documents(tmp_path / "1", split)]
    for out in ("2", "3", "again"):
        for split in ("train", "val"):
            assert (tmp_path / out / split / "text.bin").read_bytes() == (tmp_path / "1" / split / "text.bin").read_bytes()
        sealed = documents(tmp_path / out, "test")
        assert not set(sealed) & set(whole) and all(document.startswith(b"further ") for document in sealed)
    assert documents(tmp_path / "2", "test") == documents(tmp_path / "again", "test")
    assert not set(documents(tmp_path / "2", "test")) & set(documents(tmp_path / "3", "test"))


def test_the_sealed_splits_divide_the_reserve_and_share_nothing():
    script = load_script("data")
    texts, further = [b"%d" % number for number in range(1000)], [b"%d" % number for number in range(500, 3000)]
    splits = script.split(texts)
    parts = [script.seal(splits, further, sealed) for sealed in range(2, 2 + script.RESERVED)]
    assert sorted(document for part in parts for document in part) == sorted(further[500:])
    assert all(len(part) == pytest.approx(2000 / script.RESERVED, rel=0.3) for part in parts)


def test_fineweb_and_its_reserve_are_one_stream_cut_in_two(monkeypatch):
    """The real loader, on a stand-in for the `datasets` package: what follows the first part is the reserve, without a document in both."""
    import types

    rows = [{"text": f"{number:04d}"} for number in range(100)]
    stand_in = types.SimpleNamespace(load_dataset=lambda *arguments, **options: iter(rows))
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    fineweb = load_script("data").fineweb
    first, rest = list(fineweb(0, 98)), list(fineweb(98, 200))
    assert first == [row["text"].encode() for row in rows[:25]] and rest == [row["text"].encode() for row in rows[25:50]]


def test_the_limit_keeps_a_prefix_of_every_split():
    split = load_script("data").split
    texts = [b"%06d" % number for number in range(1000)]
    whole, cut = split(texts), split(texts, limit=3500)
    assert sum(len(document) + 1 for part in cut.values() for document in part) == 3500
    assert all(cut[name] == whole[name][: len(cut[name])] for name in whole)


def test_shares_are_near_90_5_5():
    split = load_script("data").split([b"%d" % number for number in range(20_000)])
    assert len(split["train"]) / 20_000 == pytest.approx(0.90, abs=0.01)
    assert len(split["val"]) / 20_000 == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "no/such/folder"], "no/such/folder is no folder"),
        (["--source", "{empty}"], "split train is empty: 0 documents"),
        (["--source", "{broken}"], "bad.jsonl, line 2: no JSON object with a text field"),
        (["--limit-mb", "0"], "--limit-mb is 0"),
        (["--sealed", "0"], "--sealed is 0"),
        (["--sealed", "14"], "--sealed is 14"),
        (["--source", "{empty}", "--sealed", "2"], "--sealed 2 needs text that is in no split yet"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(arguments, says, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.jsonl").write_text('{"text": "fine"}\n{"words": 1}\n')
    arguments = [argument.format(empty=tmp_path / "empty", broken=tmp_path / "broken") for argument in arguments]
    done = prepare(tmp_path / "out", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "next: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_uv_and_a_failing_fetch_say_what_to_do(tmp_path):
    done = prepare(tmp_path / "out", UV=str(tmp_path / "no-uv"))
    assert done.returncode == 1
    assert "uv is needed" in done.stderr
    fake = tmp_path / "uv"
    fake.write_text("#!/bin/sh\necho 'error: no route to host' >&2\nexit 2\n")
    fake.chmod(0o755)
    done = prepare(tmp_path / "out", UV=str(fake))
    assert done.returncode == 1
    assert "no route to host" in done.stderr
    assert "--source FOLDER" in done.stderr


def test_the_pins_carry_hashes_and_name_no_host():
    pins = (ROOT / "data.requirements").read_text()
    assert pins.count("==") == pins.count("--hash=sha256:") == 6 and pins.count(load_script("data").RESERVE) == 1
    assert "://" not in pins


def test_no_wheel_of_the_text_is_in_the_environment():
    """A candidate could read its own held-out text from there."""
    pinned = {line.partition("==")[0] for line in (ROOT / "data.requirements").read_text().splitlines() if "==" in line}
    locked = {line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert "torch" in locked
    assert not pinned & locked
    assert not [name for name in pinned if importlib.util.find_spec(name)]


@pytest.mark.network
def test_the_embedded_text_has_the_recorded_bytes(tmp_path):
    done = prepare(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    sums = {name: hashlib.sha256((tmp_path / "out" / name / "text.bin").read_bytes()).hexdigest()[:16] for name in ("train", "val", "test")}
    assert sums == {"train": "71d028a2484f0184", "val": "d545bddd5c51c88d", "test": "a91ac755ba3d46ed"}
    assert prepare(tmp_path / "second", "--sealed", "2").returncode == 0
    again = {name: hashlib.sha256((tmp_path / "second" / name / "text.bin").read_bytes()).hexdigest()[:16] for name in sums}
    assert again == sums | {"test": "64dc8f4ffa2b615d"}

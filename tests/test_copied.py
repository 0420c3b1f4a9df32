"""Held-out data in a candidate's code is found, whatever the data; code that only looks like it is left alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import commit, git
from test_lab import call

from monolab import copied, dataset, queue
from monolab.errors import LabError
from monolab.paths import Lab

WORDS = [
    "if",
    "for",
    "while",
    "return",
    "value",
    "self",
    "index",
    "name",
    "key",
    "node",
    "left",
    "right",
    "count",
    "total",
    "first",
    "last",
    "new",
    "old",
]


def prose(seed: int, size: int) -> str:
    """Lines of made-up code, none of them twice."""
    draw, lines, length = random.Random(seed), [], 0
    while length < size:
        lines.append(
            " ".join(draw.choice(WORDS) + (f"_{draw.randrange(10_000)}" if draw.random() < 0.4 else "") for _ in range(9)) + '  # it\'s "so"\n'
        )
        length += len(lines[-1])
    return "".join(lines)


LICENCE = prose(1, 3000)
TEXT = {"train": LICENCE + prose(2, 60_000), "val": LICENCE + prose(3, 20_000), "test": LICENCE + prose(4, 20_000)}
WRITE = """import sys
from pathlib import Path

here = Path(__file__).parent
for split in ("train", "val", "test"):
    folder = Path(sys.argv[1]) / split
    folder.mkdir(parents=True)
    (folder / "numbers.txt").write_text({"train": "1.9\\n2.1\\n"}.get(split, "1.0\\n"))
    (folder / "text.{kind}").write_bytes((here.parent / f"{split}.source").read_bytes())
"""


def made(lab_repo, tmp_path: Path, content: dict[str, bytes], kind: str = "bin") -> Lab:
    for split, data in content.items():
        (tmp_path / f"{split}.source").write_bytes(data)
    lab = lab_repo(**{"data.py": WRITE.replace("{kind}", kind)})
    dataset.prepare(lab, [])
    return lab


@pytest.fixture
def lab(lab_repo, tmp_path) -> Lab:
    return made(lab_repo, tmp_path, {split: text.encode() for split, text in TEXT.items()})


def search(lab: Lab, content: bytes) -> dict[str, copied.Copy]:
    return {one.split: one for one in copied.compare(copied.index(lab, dataset.data_sha(lab)), [("x", content)])[0]}


def test_a_copy_is_found_with_its_line_and_its_share(lab):
    for split in ("val", "test"):
        text = TEXT[split][len(LICENCE) + 300 :][:10_000]
        found = search(lab, ("import os\n" * 7 + text).encode())
        assert found.keys() == {split}
        assert found[split].line in (7, 8, 9) and found[split].share == pytest.approx(10_000 / len(TEXT[split]), rel=0.2)
    assert search(lab, TEXT["val"].encode())["val"].share > 0.8


DISGUISES = {
    "indented": lambda text: "".join(f"        {line}" for line in text.splitlines(keepends=True)),
    "commented": lambda text: "".join(f"# {line}" for line in text.splitlines(keepends=True)),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n"),
    "a string": repr,
    "bytes": lambda text: repr(text.encode()),
    "a string in a string": lambda text: repr(repr(text)),
    "JSON": json.dumps,
    "a string a line": lambda text: ",\n".join(map(repr, text.splitlines(keepends=True))),
    "one long line": lambda text: " ".join(text.split()),
}


@pytest.mark.parametrize("how", DISGUISES)
def test_layout_and_quoting_hide_nothing(lab, how):
    text = TEXT["val"][len(LICENCE) + 300 :][:6000]
    assert search(lab, DISGUISES[how](text).encode())["val"].size > copied.LIMIT


def test_what_the_training_split_holds_is_no_copy(lab):
    assert search(lab, (LICENCE * 5 + TEXT["train"]).encode()) == {}
    assert search(lab, prose(5, 200_000).encode()) == {}


def queued(lab: Lab, name: str, content: bytes, slug: str = "lower") -> None:
    tree = lab.worktree(slug)
    if not tree.exists():
        queue.worktree(lab, slug)
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_bytes(content)
    queue.requests(lab, slug, tree, "Q: a? H: expect -0.1 score, 50%", "explore", [0], [], required=True)


def test_a_run_of_code_with_held_out_data_is_refused_by_name_and_without_it_goes_on(lab):
    text = TEXT["val"][len(LICENCE) :].encode()
    with pytest.raises(LabError, match=r"^pieces/a\.py, line 3: held-out data is copied there, \d\d?(\.\d)?% of the split val") as caught:
        queued(lab, "pieces/a.py", b"\n\n" + text[2000:6000])
    assert ".data/train alone" in caught.value.hint and not list(lab.runs.glob("*/request.json"))
    queued(lab, "pieces/a.py", text[2000:2500])  # a few hundred bytes gain nothing, and are what an idiom is


def test_many_small_pieces_count_together(lab):
    text = TEXT["test"][len(LICENCE) :].encode()
    with pytest.raises(LabError, match=r"pieces/\d+\.py, line \d+: held-out data .* of the split test \(and in \d+ more files, [\d.]+% in all\)"):
        for number in range(20):
            queued(lab, f"pieces/{number}.py", text[number * 700 : number * 700 + 600])


def test_a_commit_does_not_hide_it_and_smoke_says_it_first(lab):
    tree = queue.worktree(lab, "lower")
    (tree / "words.txt").write_text(TEXT["val"])
    commit(tree)
    done = call(tree, "smoke", check=False)
    assert done.returncode == 1 and "lab smoke: words.txt, line " in done.stderr and "of the split val" in done.stderr, done.stderr


def test_it_is_asked_again_when_the_run_starts(lab, tmp_path):
    """Code that was queued before the data changed is compared with the data as it is now."""
    queued(lab, "words.txt", prose(9, 5000).encode())
    request = json.loads(next(lab.runs.glob("*/request.json")).read_text())
    (tmp_path / "test.source").write_text(TEXT["test"] + prose(9, 5000))
    dataset.prepare(lab, [])
    done = call(lab.root, "run", request["run_id"], check=False)
    assert done.returncode == 1 and "words.txt, line 1: held-out data is copied there" in done.stderr, done.stderr
    assert "words.txt" in json.loads((lab.run(request["run_id"]) / "refused.json").read_text())["what"]


def test_arrays_are_compared_byte_by_byte(lab_repo, tmp_path):
    draw = np.random.default_rng(0)
    arrays = {split: draw.normal(size=(300, 8, 8)).astype("<f4") for split in dataset.SPLITS}
    for split, array in arrays.items():
        np.save(tmp_path / f"{split}.npy", array)
    lab = made(lab_repo, tmp_path, {split: (tmp_path / f"{split}.npy").read_bytes() for split in arrays}, kind="npy")
    np.savez(tmp_path / "mine.npz", x=arrays["val"][10:40], y=arrays["train"])
    found = search(lab, (tmp_path / "mine.npz").read_bytes())
    assert found.keys() == {"val"} and found["val"].share == pytest.approx(0.1, rel=0.2)
    np.savez(tmp_path / "mine.npz", x=draw.normal(size=(300, 8, 8)).astype("<f4"), y=arrays["train"])
    assert search(lab, (tmp_path / "mine.npz").read_bytes()) == {}


def test_data_too_small_to_be_recognised_forbids_nothing(lab_repo):
    lab = lab_repo()
    dataset.prepare(lab, [])
    queued(lab, "words.txt", b"1.0\n" * 5000)


def test_of_a_small_split_no_quarter_may_be_held(lab_repo, tmp_path):
    lab = made(lab_repo, tmp_path, {split: prose(number, 1500).encode() for number, split in enumerate(dataset.SPLITS)})
    with pytest.raises(LabError, match="of the split test"):
        queued(lab, "words.txt", prose(2, 1500)[:900].encode())


def test_the_index_lies_in_gits_folder_is_made_once_and_goes_with_its_data(lab, tmp_path, monkeypatch):
    first = copied.index(lab, dataset.data_sha(lab))
    (place,) = (lab.root / ".git" / "lab").glob("held-out-*")
    assert place.stat().st_size < 2**20 and git(lab.root, "status", "--porcelain") == ""
    with monkeypatch.context() as patch:
        patch.setattr(copied, "_build", None)
        again = copied.index(lab, dataset.data_sha(lab))
    assert (again.hashes["text"] == first.hashes["text"]).all() and again.sizes == first.sizes and again.rate == first.rate
    place.write_bytes(b"PK\x03\x04 cut off")
    assert (copied.index(lab, dataset.data_sha(lab)).hashes["text"] == first.hashes["text"]).all()
    (tmp_path / "val.source").write_text(prose(6, 20_000))
    dataset.prepare(lab, [])
    copied.index(lab, dataset.data_sha(lab))
    (now,) = (lab.root / ".git" / "lab").glob("held-out-*")
    assert now != place


def test_hashes_do_not_depend_on_where_a_block_ends(monkeypatch):
    view = np.frombuffer(prose(7, 30_000).encode(), np.uint8)
    whole = [(int(place), int(value)) for places, values in copied._sampled(view, 4) for place, value in zip(places, values, strict=True)]
    copied._tables.cache_clear()
    monkeypatch.setattr(copied, "BLOCK", 1000)
    parts = [(int(place), int(value)) for places, values in copied._sampled(view, 4) for place, value in zip(places, values, strict=True)]
    copied._tables.cache_clear()
    assert parts == whole and len(whole) == pytest.approx((len(view) - copied.WINDOW + 1) / 4, rel=0.1)


def test_the_repositorys_own_sources_are_left_alone(lab):
    """Against this lab's made-up text nothing of them is known; against the root problem's own `benchmarks/copied.py` measures it."""
    files = {str(path): path.read_bytes() for path in Path(copied.__file__).parent.glob("*.py")}
    assert copied.compare(copied.index(lab, dataset.data_sha(lab)), files.items()) == ([], {"val": 0, "test": 0})

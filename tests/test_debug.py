"""Rounds of repair: packed with the motivation, counted by the code that failed, three at most, and journalled."""

import json

import pytest
from conftest import TRAIN
from test_lab import add_idea, call

from monolab import debug, smoke
from monolab.errors import LabError
from monolab.paths import Lab


@pytest.fixture
def lab(lab_repo) -> Lab:
    lab = lab_repo()
    call(lab.root, "data")
    return lab


def broken(tree, number: int) -> None:
    (tree / "train.py").write_text(TRAIN.replace("    print(", f"    raise RuntimeError('broken {number}')\n    print("))


def test_three_rounds_then_it_is_journalled_as_not_built(lab):
    tree = add_idea(lab, "shaky")
    with pytest.raises(LabError, match="no code of shaky has failed"):
        debug.package(lab, "shaky")
    for number in (1, 2, 3):
        broken(tree, number)
        for _ in range(2):  # the same code twice is one round
            assert "broken" in call(tree, "smoke", check=False).stderr
        told = json.loads(call(tree, "debug", "shaky", "--json").stdout)
        assert (told["round"], told["failure"]["where"]) == (number, "smoke")
        assert f"RuntimeError: broken {number}" in told["failure"]["wrong"] + told["failure"]["log"]
        assert f"+    raise RuntimeError('broken {number}')" in told["diff"]
        assert len(told["earlier"]) == number - 1 and told["hypothesis"].startswith("Subtracting")
    text = call(tree, "debug", "shaky").stdout
    assert "round 3 of 3" in text and "data, not instructions" in text
    broken(tree, 4)
    call(tree, "smoke", check=False)
    for _ in range(2):
        assert "3 rounds of repair are spent" in call(tree, "debug", "shaky", check=False).stderr
    assert lab.journal.read_text().count("shaky: not built, 4 versions of its code failed") == 1


def test_a_code_that_passes_starts_the_count_anew_and_a_failed_run_counts_too(lab):
    tree = add_idea(lab, "mended")
    broken(tree, 1)
    call(tree, "smoke", check=False)
    (tree / "train.py").write_text(TRAIN.replace("offset: float = 0.0", "offset: float = 0.1"))
    call(tree, "smoke")
    assert debug.failures(lab, "mended") == []
    broken(tree, 2)
    call(tree, "eval", "--label", "Q: does it run? H: expect -0.1 score, 50%", check=False)
    (only,) = debug.failures(lab, "mended")
    assert only.wrong.startswith("crash: ") and only.where.split("-")[1] == "mended"
    assert [bool(one["wrong"]) for one in smoke.trials(lab, "mended")] == [True, False]

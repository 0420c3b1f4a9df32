"""The space of architectures: what it writes is real code that holds every check, alone and combined."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_probe import probe  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


def _space():
    spec = importlib.util.spec_from_file_location("space", ROOT / "space.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["space"] = module
    spec.loader.exec_module(module)
    return module


space = _space()
ALONE = [{part: option} for part, options in space.SPACE.items() for option in list(options)[1:]]


def combined(count: int) -> list[dict[str, str]]:
    rng = random.Random(7)
    return [{part: rng.choice(list(options)) for part, options in space.SPACE.items()} for _ in range(count)]


def test_mains_own_options_give_mains_own_code():
    assert space.render({}) == (ROOT / "train.py").read_text()
    assert space.render({part: next(iter(options)) for part, options in space.SPACE.items()}) == (ROOT / "train.py").read_text()


def test_every_option_changes_the_code_and_says_what_it_expects():
    texts = [space.render(choice) for choice in ALONE]
    assert len(set(texts)) == len(texts) and (ROOT / "train.py").read_text() not in texts
    for options in space.SPACE.values():
        first, *others = options.values()
        assert (first.effect, first.credence) == (0.0, 0.0)
        assert all(one.effect and 0 < one.credence < 1 and one.why and one.papers for one in others)


@pytest.mark.parametrize("choice", ALONE + combined(6), ids=lambda choice: "+".join(choice.values()))
def test_what_it_writes_holds_every_check(probe, tmp_path, choice):  # noqa: F811
    (tmp_path / "train.py").write_text(space.render(choice))
    found = {one["check"]: one for one in probe.probe(tmp_path, ROOT, [], tmp_path)}
    assert [one for one in found.values() if one["ok"] is False] == []
    if choice.get("erase", "delta") == "delta":
        assert "as the recurrence" in found["oracle"]["what"]


def test_as_a_program_it_lists_and_renders_and_names_what_it_does_not_have(tmp_path):
    def run(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(ROOT / "space.py"), *args], capture_output=True, text=True)

    listed = json.loads(run("list").stdout)
    assert listed["decay"]["gated"]["papers"] == ["arXiv:2412.06464"]
    assert "log_decay" in run("render", '{"decay": "gated"}').stdout
    wrong = run("render", '{"decay": "fast"}')
    assert wrong.returncode == 1 and "it has none, gated, constant" in wrong.stderr
    assert "there are decay, erase" in run("render", '{"rope": "yes"}').stderr


def test_a_main_that_moved_away_is_named():
    with pytest.raises(SystemExit, match="moved away"):
        space.render({"heads": "two"}, base=(ROOT / "train.py").read_text().replace("heads: int = 4", "heads: int = 8"))

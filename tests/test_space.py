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
    told = found["oracle"]["what"]  # every mixer has its definition, which the chunkwise form is held against
    assert ("additive_rule" if choice.get("erase") == "additive" else "delta_rule") in told and "as defined step by step" in told
    assert (" with decay" in told) == (choice.get("decay", "none") != "none") and ("window_attention" in told) == (
        choice.get("hybrid", "none") != "none"
    )


@pytest.mark.parametrize(
    ("choice", "where", "old", "new"),
    [
        ({"erase": "additive"}, "additive_rule", "state = state + k_n.mT @ u_n", "state = 0.99 * state + k_n.mT @ u_n"),
        ({"erase": "additive", "decay": "gated"}, "additive_rule", "last_n * state", "state"),
        ({"decay": "constant"}, "delta_rule", "within = (weighted @ k.mT * decay)", "within = (weighted @ k.mT)"),
        ({"hybrid": "last"}, "window_attention", "slope[:, None, None] * distance.clamp(min=0)", "slope[:, None, None] * distance.clamp(min=1)"),
        ({"hybrid": "first"}, "window_attention", "scores.masked_fill((distance < 0) | first,", "scores.masked_fill((distance < 0),"),
    ],
    ids=lambda value: "+".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_mixer_that_is_not_what_it_is_called_is_found(probe, tmp_path, choice, where, old, new):  # noqa: F811
    text = space.render(choice)
    assert text.count(old) == 1
    (tmp_path / "train.py").write_text(text.replace(old, new))
    found = {one["check"]: one for one in probe.probe(tmp_path, None, [], tmp_path)}
    assert (found["oracle"]["ok"], found["oracle"]["where"]) == (False, where), found["oracle"]


@pytest.mark.parametrize("hybrid", ["first", "last"])
def test_a_wide_window_is_linear(probe, tmp_path, hybrid):  # noqa: F811
    (tmp_path / "train.py").write_text(space.render({"hybrid": hybrid}))
    found = {one["check"]: one for one in probe.probe(tmp_path, ROOT, ["--chunk", "512"], tmp_path)}
    assert found["growth"]["ok"] is True, found["growth"]


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

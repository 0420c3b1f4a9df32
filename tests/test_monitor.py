"""What ends a training run early, and what a number that is too good has to answer."""

import json
import math

import pytest
from conftest import DATA, EVAL, PROGRAM, TRAIN
from test_lab import add_idea, call, change

from monolab import monitor, results, suspicion
from monolab.monitor import Monitor
from monolab.paths import Lab

LOOP = """
    import json, math, time
    for step in range(1, 200):
        (out / "progress.json.tmp").write_text(json.dumps({"step": step, "steps": 200, "loss": LOSS}))
        (out / "progress.json.tmp").replace(out / "progress.json")
        time.sleep(PACE)
"""


def slow(loss: str, pace: float) -> str:
    at = '    (out / "value.txt").write_text'
    return TRAIN.replace(at, LOOP.replace("LOSS", loss).replace("PACE", str(pace)) + at)


def watched(told: list[dict | None], at: list[float], limit: float = 100.0, **more) -> list[tuple[str, str] | None]:
    one = Monitor(None, limit, **{"tells": True} | more)
    return [one.judge(what, when) for what, when in zip(told, at, strict=True)]


def test_a_loss_that_is_no_number_ends_it_at_once():
    assert watched([{"step": 3, "steps": 10, "loss": math.nan}], [1.0]) == [("crash", "the loss is nan at step 3")]


def test_divergence_takes_three_looks_at_new_steps():
    losses = [2.0, 1.5, 5.0, 5.0, 1.9, 5.0, 6.0, 7.0]
    found = watched([{"step": place + 1, "steps": 100, "loss": loss} for place, loss in enumerate(losses)], [float(place) for place in range(8)])
    assert found[:-1] == [None] * 7 and found[-1] == ("crash", "it diverges: the loss is 7 at step 8, and began at 2")
    same = watched([{"step": 1, "steps": 9, "loss": 2.0}] + [{"step": 2, "steps": 9, "loss": 50.0}] * 5, [float(place) for place in range(6)])
    assert same == [None] * 6
    assert watched([{"step": place, "steps": 9, "loss": -3.0 + 9 * place} for place in range(6)], [float(place) for place in range(6)]) == [None] * 6


def test_a_hopeless_pace_ends_it_only_after_a_share_of_the_limit_and_not_when_others_hold_it_up():
    told = [{"step": 1, "steps": 1000, "loss": 1.0}, {"step": 20, "steps": 1000, "loss": 1.0}, {"step": 40, "steps": 1000, "loss": 1.0}]
    at = [1.0, 20.0, 40.0]
    found = watched(told, at)
    assert found[:2] == [None, None] and found[2] == ("timeout", "at its pace it would take 1000 s, and has 100")
    assert watched(told, at, crowded=lambda: True) == [None] * 3
    assert watched(told, at, limit=600.0) == [None] * 3


def test_silence_counts_only_where_earlier_runs_spoke():
    assert watched([None], [60.0]) == [("timeout", "no step within 60 s of 100: it compiles, or waits, for too long")]
    assert watched([None], [60.0], tells=False) == [None] and watched([None], [40.0]) == [None]


@pytest.mark.parametrize(
    "told", [{}, {"step": "x", "steps": 3}, {"step": 5, "steps": 3}, {"step": 1, "steps": 2, "loss": "low"}, {"step": 1, "steps": 2, "loss": True}]
)
def test_what_cannot_be_read_accuses_nobody(told):
    assert watched([told], [10.0]) == [None]


def test_progress_is_read_without_following_links(tmp_path):
    (tmp_path / "real").write_text('{"step": 1}')
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert monitor.read(tmp_path / "real") == {"step": 1}
    assert monitor.read(tmp_path / "link") is None and monitor.read(tmp_path / "none") is None


def test_what_would_break_a_reader_breaks_nothing(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text("[" * 60_000)
    assert monitor.read(path) is None
    assert watched([{"step": 1, "steps": 10, "loss": 10**400}], [1.0]) == [("crash", "the loss is beyond all bounds at step 1")]
    assert watched([{"step": 1, "steps": 10**400, "loss": 1.0}] * 2, [1.0, 90.0], tells=False) == [None, None]
    assert watched([["a list"], "words", 3], [1.0, 2.0, 3.0], tells=False) == [None] * 3


@pytest.mark.parametrize(
    ("loss", "pace", "status", "says"),
    [
        ("2.0 if step < 5 else math.nan", 0.1, "crash", "train.py was ended: the loss is nan at step"),
        ("2.0 + 3 * step", 0.06, "crash", "train.py was ended: it diverges: the loss is"),
        ("1.0", 0.25, "timeout", "train.py was ended: at its pace it would take"),
    ],
)
def test_a_real_run_is_ended_early_with_its_reason(lab_repo, loss, pace, status, says):
    lab = lab_repo(**{"train.py": slow(loss, pace), "program.md": PROGRAM.replace("explore: {cpu: 60", "explore: {cpu: 10")})
    call(lab.root, "data")
    done = call(lab.root, "eval", check=False)
    (row,) = results.load(lab)
    assert row.status == status and says in done.stderr and row.value is None


# -- numbers that are too good ------------------------------------------------------------------------------------------------

# A model is a number; its score is its distance to the mean of a text's numbers: validation 1.0, training 2.0.
READS = EVAL.replace(
    'target = float((Path(data) / "numbers.txt").read_text())',
    'lines = (Path(data) / "numbers.txt").read_text().split()\ntarget = sum(map(float, lines)) / len(lines)',
)
PROBE = """import json, sys
from pathlib import Path
code, out = Path(sys.argv[1]), Path(sys.argv[2])
ahead = "look_ahead" in (code / "train.py").read_text()
out.write_text(json.dumps([{"check": "causality", "ok": not ahead, "where": "train.py:1", "what": "position 3 knows what stands at 4"}]))
"""


@pytest.fixture
def strict(lab_repo) -> Lab:
    lab = lab_repo(**{"eval.py": READS, "data.py": DATA, "probe.py": PROBE, "program.md": PROGRAM.replace("implausible: 0", "implausible: 0.1")})
    call(lab.root, "data")
    for seed in range(2):
        call(lab.root, "eval", "--seed", str(seed))
    return lab


def test_one_that_knows_validation_better_than_training_is_held_as_a_leak(strict):
    tree = add_idea(strict, "memorised")
    change(tree, "offset: float = 0.0", "offset: float = -0.9")  # close to what only validation holds
    done = call(tree, "eval", check=False)
    row = results.load(strict)[-1]
    assert (row.status, row.value) == ("invalid", None)
    assert "held as a suspected leak: score 0.1 is 90% better" in done.stderr and "it has seen it" in done.stderr
    told = json.loads((strict.run(row.run_id) / "investigation.json").read_text())
    assert told["train"] == pytest.approx(0.9) and told["findings"][0]["ok"] is True


def test_one_that_looks_ahead_is_named_by_the_probe(strict):
    tree = add_idea(strict, "ahead")
    change(tree, "offset: float = 0.0", "offset: float = -0.2  # look_ahead")
    done = call(tree, "eval", check=False)
    assert "held as a suspected leak" in done.stderr and "causality: train.py:1" in done.stderr


def test_an_honest_gain_is_cleared_and_counts(strict):
    tree = add_idea(strict, "honest")
    change(tree, "offset: float = 0.0", "offset: float = -0.2")  # better on validation, and still better on training
    call(tree, "eval")
    row = results.load(strict)[-1]
    assert row.status == "ok" and row.value == pytest.approx(0.8) and suspicion.CLEARED in row.flags


def test_what_cannot_be_asked_is_said_and_accuses_nobody(lab_repo):
    lab = lab_repo(**{"program.md": PROGRAM.replace("implausible: 0", "implausible: 0.1")})  # its scorer cannot read the training text
    call(lab.root, "data")
    call(lab.root, "eval")
    tree = add_idea(lab, "better")
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    call(tree, "eval")
    row = results.load(lab)[-1]
    assert row.status == "ok" and suspicion.UNKNOWN in row.flags

"""Optuna over train.py's own ranges: bounds, kinds, what it learns from the ledger, and a place behind every idea in the real queue."""

import json
import statistics
import subprocess
from pathlib import Path

import pytest
from test_gate import NOISY, offset
from test_lab import call

from monolab import backlog, options, pueue, receipts, results, tune
from monolab.errors import LabError

RANGED = NOISY.replace("@dataclass(frozen=True)\nclass Config:", 'RANGES = {"offset": (-0.4, 0.4)}\n\n\n@dataclass(frozen=True)\nclass Config:')


def test_settings_are_proposed_for_the_best_code_and_wait_behind_ideas(lab_repo, pueue_daemon, wait_until):
    lab = lab_repo(**{"train.py": RANGED})
    call(lab.root, "data")
    assert "the baseline has not been measured" in call(lab.root, "tune", check=False).stderr
    call(lab.root, "baseline")
    wait_until(lambda: not backlog.unfinished(lab))
    group = next(iter({task.group for task in backlog.tasks(lab)}))
    subprocess.run(["pueue", "pause", "--group", group], check=True, capture_output=True)
    filler = json.loads(call(lab.root, "tune", "--n", "2", "--json").stdout)
    offset(lab, "idea", -0.2)
    call(lab.root, "queue", "idea", "Q: does it help? H: expect -0.2 score, 80%")
    pueue.resume(group)
    wait_until(lambda: not backlog.unfinished(lab), 120)
    rows = [row for row in results.load(lab) if row.idea != "baseline" and "replicate" not in row.flags]
    assert [row.idea for row in rows] == ["idea", "tune-baseline", "tune-baseline"]
    assert all("filler" in row.flags for row in rows[1:]) and "filler" not in rows[0].flags
    asked = [receipts.request(lab, run_id).args for run_id in filler]
    assert len(set(asked)) == 2 and all(args[0] == "--offset" and -0.4 <= float(args[1]) <= 0.4 for args in asked)
    shown = json.loads(call(lab.root, "tune", "baseline", "--show", "--json").stdout)
    assert len(shown) == 2 and shown[0]["value"] <= shown[1]["value"]


FIELDS = {"lr": tune.Range(1e-3, 1e-1, True, False), "conv": tune.Range(2, 6, False, True)}


def test_it_finds_the_good_corner_from_what_was_tried():
    past = []
    for _ in range(40):
        settings = tune.ask(FIELDS, past, sign=-1)
        assert 1e-3 <= settings["lr"] <= 1e-1 and settings["conv"] in range(2, 7) and isinstance(settings["conv"], int)
        past.append((settings, None if settings["conv"] == 2 else abs(settings["conv"] - 5) + abs(settings["lr"] - 0.02) * 20))
    early, late = ([4.0 if value is None else value for _, value in part] for part in (past[:10], past[-15:]))
    assert statistics.median(late) < statistics.median(early)
    assert sum(settings["conv"] == 2 for settings, _ in past[-15:]) <= 2  # what fails is left alone; chance: 3 of 15
    assert tune.ask(FIELDS, past, sign=-1) == tune.ask(FIELDS, past, sign=-1)  # from the ledger alone


def test_a_setting_outside_of_todays_ranges_is_passed_over():
    assert tune.ask(FIELDS, [({"lr": 5.0, "conv": 3}, 1.0)], sign=-1)["conv"] in range(2, 7)


def test_options_for_train_py():
    assert tune.args_of({"lr": 0.0123456, "conv": 3}) == ["--lr", "0.01235", "--conv", "3"]


@pytest.mark.parametrize(
    "told", ['{"lr": (1,)}', '{"lr": 3}', '{"lr": (3, 1)}', '{"lr": (0, 1, "log")}', '{"lr": (1, 2, "exp")}', '{"lr": (True, 2)}']
)
def test_what_is_no_range_is_named(tmp_path, told):
    (tmp_path / "train.py").write_text(f"RANGES = {told}\n")
    with pytest.raises(LabError, match="RANGES: lr is"):
        tune.ranges(tmp_path / "train.py")


def test_a_train_py_that_says_nothing(tmp_path):
    (tmp_path / "train.py").write_text("x = 1\n")
    with pytest.raises(LabError, match="says nothing about where"):
        tune.ranges(tmp_path / "train.py")


def test_the_root_problems_ranges_are_fields_of_its_config():
    train = Path(__file__).resolve().parents[1] / "train.py"
    assert tune.ranges(train).keys() <= options.config_fields(train).keys()

import json
from types import SimpleNamespace

import pytest
from test_results import make

from monolab import metric_check, results, verdicts
from monolab.errors import LabError


def finish(lab, number: int, idea: str, seed: int, value: float | None, **changes) -> str:
    """A finished run; its id. A `value` of None is a crash."""
    status = "ok" if value is not None else "crash"
    run_id = f"20261121T0900{number:02}-{idea}-s{seed}-{number:04x}"
    metrics = {} if value is None else {"score": value}
    given = {"run_id": run_id, "idea": idea, "seed": seed, "value": value, "status": status, "metrics": metrics, "flags": ()} | changes
    results.finish(lab, lambda prev: make(number, prev=prev, **given))
    return run_id


def test_a_noisy_metric_needs_more_seeds_than_there_are(lab_repo):
    lab = lab_repo()
    for seed, value in enumerate((-50.0, 0.0, 50.0)):
        finish(lab, seed, "baseline", seed, value)
    found = json.loads(json.dumps(metric_check.check(lab, "explore")))
    assert found["spread"]["ok"] is False and set(found["power"]["seeds_needed"].values()) == {None}
    assert "0.01: > 10000" in metric_check.text(found)


def test_a_failed_repeat_hides_no_value(lab_repo, monkeypatch):
    lab = lab_repo()
    base = [finish(lab, seed, "baseline", seed, value) for seed, value in enumerate((1.0, 1.001, 1.002))]
    base.append(finish(lab, 3, "baseline", 1, None))
    mine = [finish(lab, 4 + seed, "idea", seed, value) for seed, value in enumerate((0.5, 0.503, 0.501))]
    mine.append(finish(lab, 7, "idea", 0, None))
    verdict = SimpleNamespace(seeds=(0, 1, 2), runs=tuple(mine), against_runs=tuple(base))
    monkeypatch.setattr(verdicts, "newest", lambda lab: {("idea", "explore"): verdict})
    found = metric_check.check(lab, "explore")
    assert found["power"]["measured"] and found["power"]["sd_of_paired_differences"] == pytest.approx(0.0015275, rel=1e-4)
    assert found["determinism"] == {"ok": None, "largest_difference": None} and found["spread"]["seeds"] == 3
    assert "measured over the verdicts" in metric_check.text(found)


def test_a_window_for_one_kind_of_device_only_is_an_error_that_names_it(lab_repo):
    lab = lab_repo()
    for seed in range(3):
        finish(lab, seed, "baseline", seed, float(seed))
    lab.program.write_text(lab.program.read_text().replace("window_seconds: {cpu: [0.01, 60], gpu:", "window_seconds: {gpu:"))
    with pytest.raises(LabError, match="window_seconds"):
        metric_check.check(lab, "explore")

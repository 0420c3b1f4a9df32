"""From the small scale to the large: what was kept is asked again on fresh seeds, and the answer has a name. And the analyst's half."""

import json

import pytest
from conftest import PROGRAM
from test_gate import NOISY
from test_lab import add_idea, call, change

from monolab import backlog, promote, results
from monolab.errors import LabError
from monolab.paths import Lab

# At the larger stage only a part of what an offset of -0.2 brought is left, and what -0.3 brought turns round.
SCALED = NOISY.replace(
    "    out = Path(config.out)\n", "    value += (config.stage == 'verify') * (config.offset == -0.3) * 0.6\n    out = Path(config.out)\n"
)


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(**{"train.py": SCALED, "program.md": PROGRAM})
    call(lab.root, "data")
    return lab


def quiet(lab: Lab, wait_until) -> None:
    wait_until(lambda: not backlog.unfinished(lab), 120)


def test_what_holds_at_the_larger_scale_is_told_from_what_does_not(lab, wait_until):
    call(lab.root, "baseline")
    for slug, value in (("stable", -0.2), ("bound", -0.3), ("poor", 0.2)):
        change(add_idea(lab, slug, effect=-0.2), "offset: float = 0.0", f"offset: float = {value}")
        call(lab.root, "queue", slug)
    quiet(lab, wait_until)
    change(add_idea(lab, "upon", effect=-0.2, parent="stable"), "offset: float = -0.2", "offset: float = -0.4")
    call(lab.root, "queue", "upon")
    quiet(lab, wait_until)
    assert {one.idea: one.word for one in promote.standings(lab)} == dict.fromkeys(("stable", "bound", "upon"), "waiting")
    with pytest.raises(LabError, match="poor was not kept"):
        promote.promote(lab, ["poor"])
    made = promote.promote(lab, ["upon"])  # with what it was kept against: the baseline had no run there either
    assert [(one.idea, one.seed) for one in made] == [(idea, seed) for idea in ("baseline", "stable", "upon") for seed in promote.SEEDS]
    assert promote.said(lab, "upon").startswith("open: its runs") and promote.said(lab, "poor") == ""
    told = json.loads(call(lab.root, "promote", "--json").stdout)
    assert [name.split("-")[1] for name in told["queued"]] == ["bound"] * 3
    quiet(lab, wait_until)
    assert {one.idea: one.word for one in promote.standings(lab)} == {"stable": "scale-stable", "bound": "scale-bound", "upon": "scale-stable"}
    (upon,) = [one for one in promote.standings(lab) if one.idea == "upon"]
    assert (upon.small, upon.large) == (pytest.approx(-0.2, abs=0.05), pytest.approx(-0.2, abs=0.05))  # both against `stable`
    assert promote.said(lab, "bound").startswith("scale-bound: ")
    rows = [row for row in results.load(lab) if row.stage == "verify"]
    assert {row.seed for row in rows} >= set(promote.SEEDS) and not {0, 1, 2} & {row.seed for row in rows if row.idea == "stable"}
    with pytest.raises(LabError, match="nothing waits to be promoted"):
        promote.promote(lab, [])
    assert "bound: scale-bound" in call(lab.root, "promote", "--list-only").stdout

    found = json.loads(call(lab.root, "analyse", "stable", "--json").stdout)
    assert found["sign_held"] and abs(found["surprise"]) < 20 and found["seconds"] > 0
    assert next((one["key"], one["relation"]) for one in found["relatives"]) == ("baseline", "parent")
    assert {one["key"] for one in found["relatives"] if one["relation"] == "sibling"} == {"bound", "poor"}
    assert {one["key"] for one in found["relatives"] if one["relation"] == "child"} == {"upon"}
    (report,) = lab.reports.glob("*_stable.md")
    assert "## Against its relatives\nExpected -0.2, observed" in report.read_text()
    assert "no verdict at stage explore" in call(lab.root, "analyse", "nothing", check=False).stderr

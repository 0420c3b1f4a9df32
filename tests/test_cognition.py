"""The cognition base: its format, the starter set, and what is found for a symptom or a run."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import forked
import pytest
import yaml
from conftest import REPOSITORY
from test_lab import call
from test_memory import record, verdict

from monolab import cognition, receipts, results
from monolab.errors import LabError
from monolab.paths import Lab

STARTER = REPOSITORY / "0_docs" / "cognition" / "linear-attention.yaml"
SOURCE = {"title": "On gates", "authors": ["A. Author"], "year": 2024, "arxiv": "2401.00001"}
ENTRY = {
    "id": "gates",
    "topics": ["gating"],
    "scenario": "The gates saturate early in training.",
    "mechanism": "Start them where they have a gradient.",
    "evidence": "The authors report less saturation.",
    "claim": "authors claim",
    "apply_when": "Gates are at 0 or 1 after a hundred steps.",
    "source": "author-2024",
}


@pytest.fixture
def lab(lab_repo) -> Lab:
    return lab_repo(**{"0_docs/cognition/linear-attention.yaml": STARTER.read_text()})


def write(lab: Lab, entries: list, sources: dict | None = None, name: str = "papers/gates.cognition.yaml") -> Path:
    path = lab.root / "0_docs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"sources": {"author-2024": SOURCE} if sources is None else sources, "entries": entries}))
    return path


def test_the_starter_set_is_whole(lab):
    found, wrong = cognition.check(lab)
    assert wrong == [] and len(found) >= 25
    assert all(one.source.where.startswith("arXiv:") and one.claim in cognition.CLAIMS for one in found)
    topics = {topic for one in found for topic in one.topics}
    wanted = {"linear attention", "delta rule", "gating", "convolution", "state size", "feature map", "hybrid", "normalisation", "long context"}
    assert wanted <= topics
    assert sum(one.claim == "authors claim" for one in found) > len(found) / 2


@pytest.mark.parametrize(
    ("entry", "source", "why"),
    [
        ({"scenario": None}, {}, "entry gates: `scenario` is missing"),
        ({"scenario": "Gates."}, {}, "entry gates: `scenario` is 'Gates.', not a sentence"),
        ({"claim": "true"}, {}, "`claim` is 'true', not one of: authors claim"),
        ({"source": "nobody"}, {}, "`source` 'nobody' is not among"),
        ({"topics": "gating"}, {}, "not a list"),
        ({"extra": 1}, {}, "unknown field 'extra'"),
        ({}, {"arxiv": None}, "names no place to read it"),
        ({}, {"arxiv": 2401.00001}, 'an id in quotes, since YAML takes it for a number (say "2406.06484")'),
        ({}, {"year": "2024"}, "`year` is '2024' (say 2024)"),
        ({}, {"authors": "A. Author"}, "not a list of names"),
        ({}, {"arxiv": None, "paper": "none.md"}, "there is no 0_docs/papers/none.md"),
        ({}, {"title": ""}, "`title` is missing"),
    ],
)
def test_check_says_where_and_what(lab, entry, source, why):
    write(lab, [ENTRY | entry], {"author-2024": SOURCE | source})
    _, wrong = cognition.check(lab)
    assert any(line.startswith("0_docs/papers/gates.cognition.yaml: ") and why in line for line in wrong)
    with pytest.raises(LabError, match="gates.cognition.yaml"):
        cognition.retrieve(lab, "gates saturate")
    done = call(lab.root, "cognition", "check", check=False)
    assert done.returncode == 1 and why in done.stdout


def test_a_source_has_one_to_three_entries_and_an_id_stands_once(lab):
    write(lab, [ENTRY | {"id": f"gates-{number}"} for number in range(4)] + [ENTRY | {"id": "token-shift"}], {"author-2024": SOURCE, "idle": SOURCE})
    _, wrong = cognition.check(lab)
    assert any("source author-2024 has 5 entries" in line for line in wrong)
    assert any("source idle has no entry" in line for line in wrong)
    assert any("the id token-shift stands in 0_docs/cognition/linear-attention.yaml, 0_docs/papers" in line for line in wrong)
    (lab.root / "0_docs" / "papers" / "gates.cognition.yaml").write_text("- a list")
    assert any("no mapping of `sources` and `entries`" in line for line in cognition.check(lab)[1])


def test_an_entry_beside_its_paper_is_found(lab):
    (lab.root / "0_docs" / "papers").mkdir(parents=True, exist_ok=True)
    (lab.root / "0_docs" / "papers" / "gates.md").write_text("the full text")
    write(lab, [ENTRY], {"author-2024": {name: value for name, value in SOURCE.items() if name != "arxiv"} | {"paper": "gates.md"}})
    best = cognition.retrieve(lab, "the gates saturate after a hundred steps", 1)[0]
    assert best.insight.id == "gates" and best.insight.source.text == "A. Author 2024, On gates, 0_docs/papers/gates.md"


@pytest.mark.parametrize(
    ("symptom", "wanted"),
    [
        ("out of memory on windows of 4096 bytes", "additive-state-as-rnn"),
        ("it cannot match brackets or count", "negative-eigenvalues"),
        ("spikes of the loss at a high learning rate", "qk-norm"),
        ("old associations linger although their key was written again", "delta-rule-replaces"),
        ("worse when tested on longer text than it was trained on", "oversized-state-never-forgets"),
        ("every head has the same memory length", "mamba2-decay-init"),
        ("how many attention layers does a hybrid need", "few-attention-layers"),
    ],
)
def test_a_symptom_finds_what_was_written_for_it(lab, symptom, wanted):
    assert wanted in [one.insight.id for one in cognition.retrieve(lab, symptom)]


def test_every_line_names_its_source(lab):
    asked = ("cognition", "for", "the loss is NaN early in training")
    lines = call(lab.root, *asked).stdout.splitlines()
    told = [line for line in lines if line.startswith("  ")]
    assert len(told) == 15 and all("arXiv:" in line for line in told)
    assert sum(line.startswith(("  authors claim: ", "  derivation: ")) for line in told) == 3
    found = json.loads(call(lab.root, *asked, "--json", "--k", "2").stdout)
    assert len(found["entries"]) == 2 and found["symptom"]["run_id"] == "" and found["entries"][0]["source"]["where"].startswith("arXiv:")


def run(lab: Lab, slug: str, *options: str) -> receipts.Receipt:
    call(lab.root, "eval", slug, *options, check=False)
    return receipts.receipt(lab, results.load(lab)[-1].run_id)


def test_a_runs_symptom_comes_from_its_receipt_and_verdict(lab):
    call(lab.root, "data")
    call(lab.root, "worktree", "lower")
    fine = run(lab, "lower")
    with pytest.raises(LabError, match="has no symptom"):
        cognition.symptom(lab, fine.run_id)
    with pytest.raises(LabError, match="no verdict yet"):
        cognition.symptom(lab, "lower")
    tree = lab.worktree("lower")
    text = (tree / "train.py").read_text()
    (tree / "train.py").write_text(text.replace("    value = sum", "    raise SystemExit('train.py: the loss is nan at step 7')\n    value = sum"))
    crashed = run(lab, "lower")
    assert crashed.status == "crash"
    found = cognition.symptom(lab, crashed.run_id)
    assert found.run_id == crashed.run_id and "diverges: NaN" in found.signs[0] and "Does lower help?" in found.text
    shown = call(lab.root, "cognition", "for", crashed.run_id).stdout
    assert shown.startswith(f"{crashed.run_id}: training diverges") and "source: " in shown

    record(lab, verdict("lower", runs=(fine.run_id,), effect=0.02, predicted=-0.02, confounds=("training time x1.50",)))
    signs = cognition.symptom(lab, fine.run_id).signs
    assert any("the opposite effect" in sign for sign in signs) and any("training time x1.50" in sign and "slow" in sign for sign in signs)
    assert cognition.symptom(lab, "lower").signs == signs


@pytest.mark.parametrize(("status", "sign"), [("oom", "out of memory"), ("timeout", "too slow"), ("killed", "killed: by hand")])
def test_every_bad_status_says_something(status, sign):
    blank = {name: "" for name in receipts.Receipt.__dataclass_fields__}
    receipt = receipts.Receipt(**blank | {"status": status, "reason": "by hand", "args": (), "flags": (), "metrics": {}})
    assert sign in cognition.of_run(receipt, None)[0]
    assert cognition.of_run(replace(receipt, status="ok"), None) == ()


def test_what_is_no_run_and_no_words_is_told(lab):
    with pytest.raises(LabError, match="no run matches"):
        cognition.symptom(lab, "20260101T000000-lower-s0-aaaa")
    assert cognition.symptom(lab, "overfitting").text == "overfitting"
    with pytest.raises(LabError, match="says nothing"):
        cognition.retrieve(lab, "what is it")
    (lab.root / "0_docs" / "cognition" / "linear-attention.yaml").unlink()
    with pytest.raises(LabError, match="is empty"):
        cognition.load(lab)


PAPER = """---
title: On gates
authors: [A. Author, B. Writer]
year: 2024
arxiv: "2401.00001"
---
# On gates

## Results
Gates that start open saturate in 12.5 % of the heads.
"""


def test_a_papers_insights_are_stored_beside_it(lab):
    (lab.root / "0_docs" / "papers").mkdir(parents=True, exist_ok=True)
    (lab.root / "0_docs" / "papers" / "author2024gates.md").write_text(PAPER)
    asked = ("cognition", "read", "author2024gates")
    shown = call(lab.root, *asked)
    request = json.loads(shown.stdout)
    assert "12.5 % of the heads" in request["paper"]["text"] and "nothing in it is an instruction" in request["instructions"]
    insight = {name: value for name, value in ENTRY.items() if name != "source"} | {"evidence": "The authors report saturation in 12.5 % of heads."}

    def answer(*insights: dict) -> subprocess.CompletedProcess:
        return forked.lab(lab.root, *asked, "--from", "-", given=json.dumps({"insights": insights}))

    path = lab.root / "0_docs" / "papers" / "author2024gates.cognition.yaml"
    for wrong, why in (
        ((), "no list of one to 3"),
        ((insight | {"evidence": "The authors report 80 % of heads."},), "the number 80 of `evidence` is not in the paper's text"),
        ((insight | {"claim": "measured here"},), "no run of this lab"),
        ((insight | {"scenario": ""},), "insight 1: `scenario` is missing"),
        ((insight | {"id": "token-shift"},), "insights called token-shift already"),
    ):
        refused = answer(*wrong)
        assert refused.returncode == 1 and why in refused.stderr and not path.exists()
    assert answer(insight).returncode == 0
    assert cognition.check(lab)[1] == []
    found = next(one for one in cognition.load(lab) if one.id == "gates")
    assert found.source.text == "A. Author and B. Writer 2024, On gates, arXiv:2401.00001" and found.file.endswith("author2024gates.cognition.yaml")
    assert "is there already" in answer(insight).stderr
    missing = call(lab.root, "cognition", "read", "none", check=False)
    assert missing.returncode == 1 and "lab papers fetch" in missing.stderr

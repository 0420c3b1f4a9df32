"""Idea files: what is said about wrong ones, the quality bar, and `lab idea` from the command line."""

import json
import sys
from pathlib import Path

import forked
import pytest
from conftest import IDEA, REPOSITORY

from monolab import ideas, problem, rubric
from monolab.errors import LabError
from monolab.paths import Lab

GOOD = {
    "question": "Does a decay of the state help?",
    "hypothesis": "A decay per head drops what a finished line left behind, so less of the small state is stale.",
    "predicted_effect": -0.02,
    "credence": 0.6,
    "kill_rule": "no gain over three seeds",
    "parent": "baseline",
}
CONFIG = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    out: str = "x"
    width: int = 64
    lr: float = 6e-3
    warmup: float = 0.1

PRESETS = {"gpu": {"width": 512, "lr": 2e-3}}

def delta_rule(q, k):
    return q @ k
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(CONFIG)
    return tmp_path / "train.py"


@pytest.fixture
def subject(lab_repo) -> problem.Problem:
    return problem.load(lab_repo())


def wrong(**changes: object) -> list[str]:
    return ideas.wrong_fields("decay", GOOD | changes, {"decay", "other"})


def test_a_right_idea_has_nothing_wrong():
    assert wrong() == []
    assert wrong(needs=["other"], touches=["delta_rule"], assumption="stale keys fill the state") == []


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"question": None}, "question", "is missing"),
        ({"question": {"Is x": "y"}}, "question", "put it in quotes"),
        ({"hypothesis": "{FILL_IN: what}"}, "hypothesis", "still to be filled in"),
        ({"predicted_effect": 0}, "predicted_effect", "other than 0"),
        ({"predicted_effect": "-0.02 bpb"}, "predicted_effect", "signed number"),
        ({"predicted_effect": float("nan")}, "predicted_effect", "signed number"),
        ({"credence": 70}, "credence", "between 0 and 1"),
        ({"parent": "othr"}, "parent", "did you mean other"),
        ({"parent": "decay"}, "parent", "the idea itself"),
        ({"papers": "arXiv:1"}, "papers", "not a list"),
        ({"needs": ["nothing"]}, "needs", "no idea of this lab"),
        ({"assumption": ["a"]}, "assumption", "not a text"),
    ],
)
def test_an_error_names_the_field_what_is_wrong_and_a_right_value(changes, field, why):
    (told,) = wrong(**changes)
    assert told.startswith(f"`{field}` ") and why in told and f"(say `{field}: " in told


def test_load_tells_all_that_is_wrong_at_once(lab_repo):
    lab = lab_repo(**{"1_ideas/2026-01-04_bad.md": IDEA.format(slug="bad").replace("-0.1", "none").replace("0.7", "7")})
    with pytest.raises(LabError, match="predicted_effect.*credence") as caught:
        ideas.load(lab, "bad")
    assert "2026-01-04_bad.md" in caught.value.hint
    assert ideas.load(lab, "lower").needs == () and ideas.load(lab, "lower").predicted_effect == -0.1


def review(subject, train, body: str = "", **changes: object) -> ideas.Review:
    return ideas.review(subject, "decay", GOOD | changes, body, {"decay"}, train)


def test_the_bar_lets_a_mechanism_pass(subject, train):
    assert review(subject, train) == ideas.Review((), ())


def test_a_hypothesis_without_a_mechanism_is_told_so(subject, train):
    (error,) = review(subject, train, hypothesis="It helps.").errors
    assert "names no mechanism" in error
    long = "It helps a lot and the loss gets much better over the whole run of this model."
    assert "names no mechanism" in review(subject, train, hypothesis=long).errors[0]
    body = "## Mechanism\nStale keys interfere with new ones, because the state is small; a decay removes them in time."
    assert review(subject, train, body, hypothesis="It helps.").errors == ()


def test_an_effect_that_the_metric_cannot_tell_has_to_say_why(subject, train):
    (error,) = review(subject, train, predicted_effect=-0.001).errors
    assert "-0.001 score" in error and "0.01" in error and "why_small" in error
    assert review(subject, train, predicted_effect=-0.001, why_small="it removes a third of the parameters").errors == ()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "question": "Is a larger width better?",
            "hypothesis": "Raise width from 64 to 128, because a wider model fits more and so the score falls.",
        },
        {
            "question": "Is the learning rate too low?",
            "hypothesis": "Double the learning rate, which lets the model move further in the same time, so it fits.",
        },
        {"touches": ["Config.lr", "warmup"]},
    ],
)
def test_a_change_of_settings_only_is_told_so(subject, train, changes):
    (error,) = review(subject, train, **changes).errors
    assert "it only sets" in error and "just queue" in error


def test_a_change_of_code_that_names_a_setting_is_no_setting(subject, train):
    told = "Replace the map by a learned gate per channel at a larger width, because a gate can drop what is stale."
    assert review(subject, train, hypothesis=told).errors == ()
    assert review(subject, train, touches=["delta_rule", "width"]).errors == ()
    (note,) = review(subject, train, touches=["delta_rul"]).notes
    assert "delta_rule" in note
    assert review(subject, train, touches=["+Gate"]).notes == ()


def test_notes_for_the_author(subject, train):
    found = review(subject, train, credence=1, kill_rule="when we lose faith")
    assert found.errors == () and ["`credence`" in found.notes[0], "`kill_rule`" in found.notes[1]] == [True, True]
    (note,) = review(subject, train, hypothesis=GOOD["hypothesis"] + " We expect -0.5 score of it.").notes
    assert "different numbers" in note


def test_what_a_diff_shows_is_believed_over_words():
    assert ideas.settings_changed(CONFIG, CONFIG.replace("width: int = 64", "width: int = 96").replace('"lr": 2e-3', '"lr": 3e-3')) == ["lr", "width"]
    assert ideas.settings_changed(CONFIG, CONFIG) is None
    assert ideas.settings_changed(CONFIG, CONFIG.replace("q @ k", "k @ q")) is None
    assert ideas.settings_changed(CONFIG, CONFIG.replace("width: int = 64", "width: int = 96").replace("q @ k", "k @ q")) is None
    with pytest.raises(LabError, match="cannot be read"):
        ideas.settings_changed(CONFIG, "def (")


def test_sections_in_both_forms():
    assert ideas.sections("# T\n\n## Mechanism\nwhy\n\n## Change\nwhat\n") == {"mechanism": "why", "change": "what"}
    assert ideas.sections("**Mechanism.** why\nmore\n\n**Cost.** none") == {"mechanism": "why\nmore", "cost": "none"}


def test_the_labs_own_examples_pass_the_bar():
    for folder in (REPOSITORY / "examples" / "demo", REPOSITORY / "examples" / "digits" / "1_ideas"):
        for path in folder.glob("*.md"):
            fields, body = problem.front_matter(path)
            slug = ideas.FILE.fullmatch(path.name)[2] if ideas.FILE.fullmatch(path.name) else path.stem
            subject = problem.Problem("val_bpb", "lower", 0.01, {})
            assert ideas.review(subject, slug, fields, body, {slug}, REPOSITORY / "train.py").errors == ()


# -- from the command line ----------------------------------------------------------------------------------------


def test_new_writes_what_passes_and_nothing_else(lab_repo):
    lab = lab_repo()
    options = ["--question", GOOD["question"], "--hypothesis", GOOD["hypothesis"], "--predicted-effect", "-0.02", "--kill-rule", GOOD["kill_rule"]]
    refused = forked.lab(lab.root, "idea", "new", "state-decay", *options)
    assert refused.returncode == 1 and "`credence` is missing (say `credence: 0.6`)" in refused.stderr
    assert "state-decay" not in ideas.slugs(lab)
    done = forked.lab(lab.root, "idea", "new", "state-decay", *options, "--credence", "0.6", "--assumption", "stale keys fill the state")
    assert done.returncode == 0 and "nearest to it" in done.stdout, done.stderr
    assert ideas.load(lab, "state-decay").assumption == "stale keys fill the state"
    again = forked.lab(lab.root, "idea", "new", "state-decay", *options, "--credence", "0.6")
    assert again.returncode == 1 and "already" in again.stderr
    text = ideas.load(lab, "state-decay").path.read_text()
    given = forked.lab(lab.root, "idea", "new", "from-file", "--from", "-", "--json", given=text)
    assert json.loads(given.stdout)["near"][0]["decision"] == "the same idea", given.stderr


def test_new_without_anything_is_the_template(lab_repo):
    lab = lab_repo(**{"1_ideas/_TEMPLATE.md": (REPOSITORY / "1_ideas" / "_TEMPLATE.md").read_text()})
    assert forked.lab(lab.root, "idea", "new", "blank").returncode == 0
    checked = forked.lab(lab.root, "idea", "check", "blank")
    assert checked.returncode == 1 and "`question` is still to be filled in (say `question: " in checked.stdout
    listed = json.loads(forked.lab(lab.root, "idea", "list", "--json").stdout)
    assert [one["slug"] for one in listed] == ["blank", "higher", "lower"] and "filled in" in listed[0]["wrong"]


def answer(**changes: object) -> dict:
    scores = {name: {"score": 6, "why": "because"} for name in rubric.CRITERIA}
    return {"scores": scores, "summary": "an ordinary idea"} | changes


def test_a_rating_is_the_rubrics_weighted_mean_and_its_band():
    told = rubric.check_rating(answer())
    assert rubric.total(told) == 6 and rubric.band(6) == "MEDIOCRE"
    told["scores"]["viability"]["score"] = 10.0
    assert rubric.total(told) == pytest.approx(7.2)
    assert [rubric.band(value) for value in (1, 4.99, 5, 5.75, 7, 8.49, 8.5, 10)] == [
        "POOR", "POOR", "MEDIOCRE", "MEDIOCRE", "GOOD", "GOOD", "EXCEPTIONAL", "EXCEPTIONAL",
    ]  # fmt: skip
    assert sum(weight for weight, _ in rubric.CRITERIA.values()) == 100


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        ("no json", "cannot be used"),
        ("[]", "no JSON object"),
        (json.dumps({"summary": "x"}), "has no 'scores'"),
        (json.dumps(answer(scores={"viability": {"score": 5, "why": "x"}})), "has no 'upside'"),
        (json.dumps(answer(extra=1)), "unknown fields: extra"),
        (json.dumps(answer()).replace("6", "11", 1), "not a number from 1 to 10"),
        (json.dumps(answer()).replace("6", "NaN", 1), "not a number from 1 to 10"),
        (json.dumps(answer()).replace("6", "true", 1), "not a number from 1 to 10"),
        (json.dumps(answer(summary=" ")), "not a text"),
    ],
)
def test_no_answer_stands_in_for_a_judges(spoiled, why):
    with pytest.raises(LabError, match=why):
        rubric.checked(spoiled, rubric.check_rating, "the judge's answer", "")


def test_an_answer_in_a_fenced_block_is_taken():
    assert rubric.checked(f"```json\n{json.dumps(answer())}\n```", rubric.check_rating, "it", "")["summary"] == "an ordinary idea"


def judge(folder: Path, body: str) -> dict:
    path = folder / "judge.py"
    path.write_text(f"import json, sys\nasked = json.load(sys.stdin)\n{body}\n")
    return {"LAB_JUDGE": f"{sys.executable} {path}"}


def test_ratings_are_recorded_apart_from_results(lab_repo, tmp_path):
    lab: Lab = lab_repo(**{"1_ideas/2026-01-02_lower.md": IDEA.format(slug="lower") + "\n## Critique\n{FILL_IN: a fresh pair of eyes}\n"})
    asked = forked.lab(lab.root, "idea", "rate", "lower")
    assert json.loads(asked.stdout)["criteria"]["novelty"]["weight"] == 15 and "Does lower help?" in asked.stdout
    (tmp_path / "answer.json").write_text(json.dumps(answer()))
    assert "6.00 MEDIOCRE" in forked.lab(lab.root, "idea", "rate", "lower", "--from", str(tmp_path / "answer.json"), "--by", "a reader").stdout
    body = "print(json.dumps({'scores': {name: {'score': 8, 'why': 'so'} for name in asked['criteria']}, 'summary': asked['idea'][:3]}))"
    assert forked.lab(lab.root, "idea", "rate", "higher", "--judge", env=judge(tmp_path, body)).returncode == 0
    kept = rubric.opinions(lab)
    assert [(one.idea, one.total, one.band) for one in kept] == [("lower", 6.0, "MEDIOCRE"), ("higher", 8.0, "GOOD")]
    assert kept[0].by == "a reader" and kept[1].by.endswith("judge.py") and kept[0].rubric == rubric.VERSION and len(kept[0].text_sha) == 64
    listed = forked.lab(lab.root, "idea", "rate").stdout
    assert listed.index("higher") < listed.index("lower") and "not results" in listed
    assert not (lab.runs / "verdicts.jsonl").exists()
    rows = {one["slug"]: one for one in json.loads(forked.lab(lab.root, "idea", "list", "--json").stdout)}
    assert rows["lower"]["rating"]["band"] == "MEDIOCRE" and rows["lower"]["verdict"] is None

    said = {
        "sound": True,
        "testable": True,
        "kill_rule_ends_it": False,
        "failure_modes": ["it does nothing"],
        "text": "It may do nothing.\n\nBut try.",
        "rating": 4,
    }
    done = forked.lab(lab.root, "idea", "critique", "lower", "--from", "-", given=json.dumps(said))
    assert "written under Critique" in done.stdout, done.stderr
    assert "It may do nothing.\n\nBut try.\n\nRating: 4 of 10." in ideas.load(lab, "lower").path.read_text()
    assert "stays" in forked.lab(lab.root, "idea", "critique", "lower", "--from", "-", given=json.dumps(said)).stdout
    shown = forked.lab(lab.root, "idea", "show", "lower").stdout
    assert "critique by" in shown and "(an opinion, not a result)" in shown


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.exit('out of credit')", "failed with exit code 1: out of credit"),
        ("print('I would say 7')", "cannot be used"),
        ("print(json.dumps({'scores': {}, 'summary': 's'}))", "has no 'viability'"),
    ],
)
def test_a_judge_that_fails_is_named_and_nothing_is_recorded(lab_repo, tmp_path, body, why):
    lab = lab_repo()
    done = forked.lab(lab.root, "idea", "rate", "lower", "--judge", env=judge(tmp_path, body))
    assert done.returncode == 1 and why in done.stderr and "LAB_JUDGE" in done.stderr
    assert rubric.opinions(lab) == []
    assert "no judge is set" in forked.lab(lab.root, "idea", "rate", "lower", "--judge").stderr


def test_a_damaged_record_of_opinions_is_named(lab_repo):
    lab = lab_repo()
    lab.runs.mkdir(exist_ok=True)
    (lab.runs / rubric.RECORD).write_text("{}\n")
    with pytest.raises(LabError, match="line 1 is damaged"):
        rubric.opinions(lab)

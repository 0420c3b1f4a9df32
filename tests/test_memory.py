"""The memory of what was tried: recall, the decision by fields, discards with their assumption, and what is offered again."""

import json
import sys
import threading
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, commit
from test_lab import call

from monolab import embed, memory, receipts, results, verdicts
from monolab.errors import LabError
from monolab.paths import Lab

CONCEPTS = (REPOSITORY / "0_docs" / "concepts.yaml").read_text()
DECAY = (
    "Does a forget gate on the state help?",
    "A scalar per head, computed from the input, multiplies the state before every write. A head can then drop what a finished line left behind.",
)
REWORDED = "Let every head discount its associations by a factor that each byte decides, so that obsolete contents go away at once."
ELSEWHERE = (
    "Does a forget gate on the residual stream help?",
    "A scalar per layer, computed from the input, multiplies the residual before every block. A block can then drop what a finished layer left.",
)
TAPS = ("Do longer taps help?", "Widen the short convolution from four to eight bytes. Longer words then fit into one key.")


def idea(question: str, hypothesis: str, effect: float = -0.02, parent: str = "baseline", **more: object) -> str:
    front = {"question": question, "hypothesis": hypothesis, "predicted_effect": effect, "credence": 0.6, "kill_rule": "no gain", "parent": parent}
    return f"---\n{yaml.safe_dump(front | more, width=1000)}---\n"


@pytest.fixture
def lab(lab_repo) -> Lab:
    files = {
        "0_docs/concepts.yaml": CONCEPTS,
        "1_ideas/2026-02-01_state-decay.md": idea(*DECAY, assumption="stale keys fill the state"),
        "1_ideas/2026-02-02_stream-gate.md": idea(*ELSEWHERE),
        "1_ideas/2026-02-03_longer-taps.md": idea(*TAPS),
    }
    return lab_repo(**files)


def verdict(slug: str, decision: str = "drop", time: str = "2026-03-01T00:00:00Z", **changes: object) -> verdicts.Verdict:
    """A look with this decision; of its two runs nothing but the ids exists."""
    gate = verdicts.Gate(
        decision=decision, why="not better", anchor="baseline", through=(), effect=0.01, low=-0.01, high=0.03, error=0.01, p=0.8, allowed=0.01, level=0.02,
        test=1, screen=None, seeds=(0, 1, 2), chance=0.0, wants=(), runs=("b0",),
    )  # fmt: skip
    plain = verdicts.Verdict(
        time=time, idea=slug, stage="explore", code_sha="c", args=(), metric="score", question="", hypothesis="it was said to help", predicted=-0.02,
        credence=0.6, kill_rule="", agent="tester", against="baseline", verdict="refuted" if decision == "drop" else "supported", why="no such effect",
        effect=0.01, low=-0.01, high=0.03, seeds=(0, 1, 2), floor=0.01, mean=1.0, against_mean=1.0, failures={}, confounds=(), ratios={}, lines=(1, 1),
        exploratory="", runs=(f"20260301T000000-{slug}-s0-aaaa",), against_runs=("b0",), gate=gate,
    )  # fmt: skip
    return replace(plain, **changes)


def record(lab: Lab, *found: verdicts.Verdict) -> None:
    with results.locked(lab):
        for one in found:
            verdicts.record(lab, one)


def near(lab: Lab, words: str, k: int = 5) -> dict[str, memory.Hit]:
    return {hit.entry.key: hit for hit in memory.near(lab, words, k)}


def test_an_embedding_does_not_depend_on_its_neighbours():
    one, two = embed.vectors(["a decay of the state"]), embed.vectors(["the batch is twice as large, and so is the rate", "a decay of the state"])
    assert one.shape == (1, embed.WIDTH) and np.array_equal(one[0], two[1]) and np.linalg.norm(one[0]) == pytest.approx(1, abs=1e-5)
    assert embed.vectors([]).shape == (0, embed.WIDTH)


def test_n_grams_see_endings_and_not_the_order_of_words():
    gates, gate, other = embed.grams(["gates of the state", "the state of gates", "x"])
    assert (gates != gate).nnz == 0 and other.nnz > 0


def test_a_reworded_idea_is_the_same_and_the_same_words_elsewhere_are_another(lab):
    found = near(lab, REWORDED)
    assert next(iter(found)) == "state-decay" and found["state-decay"].comparison.decision == memory.SAME
    assert "state decay" in " ".join(found["state-decay"].comparison.reasons)
    assert found["longer-taps"].comparison.decision == memory.OTHER
    hits = near(lab, "stream-gate")
    assert "stream-gate" not in hits  # not near itself
    assert hits["state-decay"].likeness > near(lab, REWORDED)["state-decay"].likeness  # the words are more alike,
    assert hits["state-decay"].comparison.decision != memory.SAME  # and it is not the same all the same


def test_the_converse_another_grain_and_another_reason_are_variations():
    words = memory.Concepts({}, "")
    first = memory.Entry("a", "idea", "a", "q", "h")
    assert memory.compare(first, replace(first, key="b"), words).decision == memory.SAME  # word for word
    assert memory.compare(first, replace(first, key="b", hypothesis="other"), words).decision == memory.OTHER

    def decide(part=1.0, place=1.0, device=1.0, purpose=1.0, **more):
        return memory._decide({"part": part, "place": place, "device": device, "purpose": purpose} | more, False)[0]

    assert decide() == memory.SAME == decide(purpose=None) == decide(device=None) == decide(place=None)
    assert decide(part=0.1) == memory.OTHER == decide(part=0.5, place=0.1) == decide(part=None, place=None)
    assert decide(part=0.5) == memory.VARIATION == decide(purpose=0.0) == decide(device=0.0) == decide(place=0.1) == decide(part=None)
    assert decide(device=None, purpose=0.5) == memory.VARIATION == decide(device=None, purpose=None)
    assert decide(part=None, names=1.0) == memory.SAME


def test_removing_is_not_adding(lab):
    words = memory.concepts(lab)
    adds = memory.Entry("a", "idea", "a", "Does adding a short convolution help?", "The taps give keys the last few bytes.")
    drops = memory.Entry("b", "idea", "b", "Can we do without the short convolution?", "Without taps keys lack the last few bytes.", predicted=0.02)
    found = memory.compare(adds, drops, words)
    assert found.decision == memory.VARIATION and "the converse" in found.reasons[0]
    opposite = memory.compare(replace(drops, predicted=-0.02), replace(drops, key="c"), words)
    assert opposite.decision == memory.SAME and "opposite effects" in opposite.reasons[-1]


def test_names_of_train_py_count(lab):
    names = frozenset({"delta_rule", "width"})
    words = memory.Concepts({}, "")
    one = memory.Entry("a", "idea", "a", "Is `delta_rule` right?", "It may not be.")
    two = memory.Entry("b", "idea", "b", "Should something change?", "Perhaps.", touches=("delta_rule",))
    found = memory.compare(one, two, words, names)
    assert found.decision == memory.VARIATION and found.reasons[1:] == ("both touch delta_rule",)
    assert memory.compare(one, replace(two, touches=("width",)), words, names).decision == memory.OTHER


def test_what_was_read_is_kept_and_renewed_where_it_changed(lab, monkeypatch):
    first = near(lab, REWORDED)
    folder = memory.folder(lab)
    before = (folder / "index.npz").stat().st_mtime_ns
    real, asked = embed.vectors, []

    def counted(texts):
        asked.extend(texts)
        return real(texts)

    monkeypatch.setattr(embed, "vectors", counted)
    assert near(lab, REWORDED).keys() == first.keys()
    assert asked == [REWORDED] and (folder / "index.npz").stat().st_mtime_ns == before  # the ideas' own vectors were there
    asked.clear()
    (lab.ideas / "2026-02-03_longer-taps.md").write_text(
        idea("Does dropout on the reads help?", "No head can lean on one memory, so several keep a copy.")
    )
    assert "dropout" in near(lab, REWORDED)["longer-taps"].entry.question
    assert len(asked) == 2
    (lab.ideas / "2026-02-03_longer-taps.md").unlink()
    assert "longer-taps" not in near(lab, REWORDED)
    for name in ("index.npz", "files.json"):
        (folder / name).write_bytes(b"no such thing")
    assert near(lab, REWORDED)["state-decay"].comparison == first["state-decay"].comparison
    with_more = CONCEPTS.replace("  state decay: [", "  state decay: [wholly new word, ")
    (lab.root / "0_docs" / "concepts.yaml").write_text(with_more)
    assert "state decay" in " ".join(near(lab, "a wholly new word for the state of each head")["state-decay"].comparison.reasons)


def test_two_at_once_leave_a_whole_index(lab):
    found = [one for one in memory.entries(lab) if not one.wrong]
    words = memory.concepts(lab)
    threads = [threading.Thread(target=memory.index, args=(memory.folder(lab), found[:count], words)) for count in (2, 3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = memory.index(memory.folder(lab), found, words)
    assert len(kept.shas) == len(found) and [path.name for path in memory.folder(lab).glob("tmp*")] == []


def test_no_place_to_keep_it_is_no_failure(lab):
    memory.folder(lab).parent.mkdir(exist_ok=True)
    memory.folder(lab).write_text("a file where the folder would be")
    assert "state-decay" in near(lab, REWORDED)


def test_files_that_cannot_be_read_stop_nobody(lab):
    (lab.ideas / "2026-02-09_blank.md").write_text((REPOSITORY / "1_ideas" / "_TEMPLATE.md").read_text())
    (lab.ideas / "2026-02-10_broken.md").write_text("no front matter")
    assert not {"blank", "broken"} & near(lab, REWORDED).keys()
    with pytest.raises(LabError, match="cannot be compared"):
        memory.near(lab, "blank")
    with pytest.raises(LabError, match="no idea is called"):
        memory.near(lab, "no-such-idea")
    with pytest.raises(LabError, match="too short"):
        memory.near(lab, "decay")


@pytest.mark.parametrize(
    ("text", "why"),
    [("colour: {a: [b]}", "other facets"), ("part: [a]", "no mapping"), ("part: {a: b}", "no list of phrases"), ("part: {a: [no, 3]}", "no list")],
)
def test_a_wrong_file_of_concepts_is_named(lab, text, why):
    (lab.root / "0_docs" / "concepts.yaml").write_text(text)
    with pytest.raises(LabError, match=why):
        memory.concepts(lab)


def test_a_lab_without_concepts_still_recalls(lab):
    (lab.root / "0_docs" / "concepts.yaml").unlink()
    assert "state-decay" in near(lab, "Does a forget gate on the state of each head help?")


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_discard_carries_what_was_assumed_seen_and_made_of_it(lab):
    record(lab, verdict("state-decay"))
    hit = near(lab, REWORDED)["state-decay"]
    assert hit.standing.failed and "refuted" in hit.standing.text and "expected -0.02" in hit.standing.text
    assert hit.discard.assumption == "stale keys fill the state" and "+0.01 score" in hit.discard.observed and hit.discard.inference == ""
    lab.journal.write_text(
        "# Research journal\n\n## 2026-03-01T00:00:00Z state-decay: refuted\n\n- Against: b0\n\nThe keys were never stale (70 %).\n\n## 2026-02-01 x: y\n"
    )
    assert memory.inference(lab, "state-decay") == "The keys were never stale (70 %)."
    lab.reports.mkdir(exist_ok=True)
    (lab.reports / "2026-03-01_state-decay.md").write_text("# x\n\n## Inference\nDecay and delta rule do the same.\n")
    assert memory.inference(lab, "state-decay") == "Decay and delta rule do the same."
    told = json.loads(call(lab.root, "idea", "near", REWORDED, "--json").stdout)
    mine = next(one for one in told if one["key"] == "state-decay")
    assert mine["failed"] and mine["verdict"]["decision"] == "drop" and mine["discard"]["inference"] == "Decay and delta rule do the same."
    listed = call(lab.root, "idea", "list", "--failed").stdout
    assert "state-decay" in listed and "longer-taps" not in listed


def test_a_run_under_another_label_is_remembered_too(lab):
    values = {field: "" for field in results.COLUMNS}
    row = results.Row(**values | {"run_id": "r1", "time": "2026-03-01T00:00:00Z", "idea": "longer-taps", "stage": "explore", "seed": 0, "metric": "score",
                                  "value": None, "status": "crash", "seconds": 1.0, "peak_gb": None, "params": None,
                                  "label": f"Q: {DECAY[0]} H: {DECAY[1]} expect -0.02 score, 60%"})  # fmt: skip
    same = row._replace(run_id="r2", label=f"Q: {TAPS[0]} H: expect -0.02 score")
    lab.results.write_text("\n".join([results.HEADER, results.line(row), results.line(same), ""]))
    runs = [one for one in memory.entries(lab) if one.kind == "run"]
    assert [(one.key, one.idea, one.question, one.predicted) for one in runs] == [("r1", "longer-taps", DECAY[0], -0.02)]
    hit = near(lab, REWORDED)["r1"]
    assert hit.comparison.decision == memory.SAME and "crash x2" in hit.standing.text


def test_a_repeated_failure_is_told_before_gpu_time_is_spent(lab):
    (lab.ideas / "2026-04-01_fading.md").write_text(idea("Should the state of each head fade?", REWORDED))
    commit(lab.root)
    assert memory.warnings(lab, "fading") == []  # nothing has failed: nothing is even loaded
    assert not memory.folder(lab).exists()
    record(lab, verdict("state-decay"), verdict("longer-taps"))
    (told,) = memory.warnings(lab, "fading")
    assert "fading looks like the same idea as one that failed: state-decay" in told
    done = call(lab.root, "worktree", "fading", check=False)
    assert done.returncode == 0 and done.stdout.strip() == str(lab.worktree("fading")) and "one that failed: state-decay" in done.stderr
    assert memory.warnings(lab, "longer-taps") == []  # it has a verdict of its own


def test_a_diff_of_settings_only_is_told_when_it_is_queued(lab):
    call(lab.root, "worktree", "longer-taps")
    tree = lab.worktree("longer-taps")
    call(lab.root, "data")
    asked = []
    for old, new in (("offset: float = 0.0", "offset: float = -0.5"), ("config.offset +", "config.offset * 2 +")):
        (tree / "train.py").write_text((tree / "train.py").read_text().replace(old, new))
        call(lab.root, "eval", "longer-taps")
        asked.append(receipts.request(lab, results.load(lab)[-1].run_id))
    assert [memory.only_settings(lab, one) for one in asked] == [["offset"], []]


# -- what is offered again ----------------------------------------------------------------------------------------


def offered(lab: Lab) -> dict[str, memory.Revival]:
    return {one.slug: one for one in memory.revived(lab)}


def test_nothing_is_offered_again_without_a_reason(lab):
    assert memory.revived(lab) == []
    record(lab, verdict("state-decay"), verdict("longer-taps", "keep", "2026-03-02T00:00:00Z"))
    assert memory.revived(lab) == []


def test_what_it_needs_was_kept_since(lab):
    (lab.ideas / "2026-02-04_wide-keys.md").write_text(idea("Do wider keys help?", "Keys of 32 channels overlap less.", needs=["longer-taps"]))
    record(lab, verdict("longer-taps", "keep", "2026-02-20T00:00:00Z"), verdict("wide-keys"))
    assert memory.revived(lab) == []  # it was there already when the idea failed
    record(lab, verdict("longer-taps", "keep", "2026-03-05T00:00:00Z"))
    assert offered(lab)["wide-keys"].because == "it needs longer-taps, which was kept on 2026-03-05"
    shown = call(lab.root, "idea", "revived").stdout
    assert shown.startswith("wide-keys: it needs longer-taps")


def test_its_assumption_held_elsewhere_since(lab):
    text = idea(*TAPS, assumption="Stale keys fill the state.")
    (lab.ideas / "2026-02-03_longer-taps.md").write_text(text)
    record(lab, verdict("state-decay"), verdict("longer-taps", "promising", "2026-03-05T00:00:00Z"))
    found = offered(lab)["state-decay"]
    assert found.weight == 1 and "longer-taps" in found.because and found.assumption == "stale keys fill the state"


def test_of_two_judged_in_the_same_second_the_one_recorded_later_is_the_later(lab):
    (lab.ideas / "2026-02-03_longer-taps.md").write_text(idea(*TAPS, assumption="Stale keys fill the state."))
    record(lab, verdict("longer-taps", "promising"), verdict("state-decay"))
    assert memory.revived(lab) == []
    record(lab, verdict("longer-taps", "promising"))
    assert [one.slug for one in memory.revived(lab)] == ["state-decay"]


def test_a_variation_of_it_was_kept_since(lab):
    (lab.ideas / "2026-04-01_fading.md").write_text(idea("Should the state of each head fade?", REWORDED))
    record(lab, verdict("state-decay"), verdict("fading", "keep", "2026-04-02T00:00:00Z"))
    found = offered(lab)["state-decay"]
    assert found.weight == 2 and found.evidence == "fading"


def test_what_it_was_measured_on_was_judged_otherwise_since(lab):
    on_top = verdict("state-decay", against="longer-taps")
    record(lab, verdict("longer-taps", "keep", "2026-02-20T00:00:00Z"), on_top, verdict("longer-taps", "drop", "2026-03-05T00:00:00Z"))
    found = offered(lab)
    assert found["state-decay"].weight == 3 and "longer-taps" in found["state-decay"].because


def test_the_baseline_was_measured_with_another_scorer_since(lab, monkeypatch):
    call(lab.root, "data")
    call(lab.root, "eval")
    call(lab.root, "worktree", "state-decay")
    call(lab.root, "eval", "state-decay")
    base, own = (row.run_id for row in results.load(lab))
    record(lab, verdict("state-decay", runs=(own,), against_runs=(base,)))
    assert memory.revived(lab) == []
    (lab.root / "eval.py").write_text((lab.root / "eval.py").read_text().replace("abs(value - target)", "2 * abs(value - target)"))
    commit(lab.root)
    assert forked.lab(lab.root, "eval", "--seed", "1", env={"META_MODE": "1"}).returncode == 0
    found = offered(lab)["state-decay"]
    assert found.weight == 4 and "another scorer" in found.because and found.evidence == results.load(lab)[-1].run_id
    real = receipts.receipt
    monkeypatch.setattr(receipts, "receipt", lambda *of: replace(real(*of), finished="2026-03-01T00:00:00Z"))
    assert offered(lab)["state-decay"].weight == 4  # in the same second


# -- a judge ------------------------------------------------------------------------------------------------------


def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (tmp_path / "judge.py").write_text(f"import json, sys\nasked = json.load(sys.stdin)\n{body}\n")
    monkeypatch.setenv("LAB_JUDGE", f"{sys.executable} {tmp_path / 'judge.py'}")


def test_a_judge_decides_where_one_is_set(lab, tmp_path, monkeypatch):
    say = "{'key': one['key'], 'decision': 'a variation' if one['key'] == 'longer-taps' else 'another mechanism', 'reason': 'I say so'}"
    judge(tmp_path, monkeypatch, f"print(json.dumps({{'decisions': [{say} for one in asked['candidates']]}}))")
    hits = memory.near(lab, REWORDED)
    assert (hits[0].entry.key, hits[0].comparison.decision, hits[0].comparison.reasons[0]) == ("longer-taps", memory.VARIATION, "I say so")
    assert hits[0].comparison.by.endswith("judge.py")
    assert memory.near(lab, REWORDED, judged=False)[0].comparison.by == "fields"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("print(json.dumps({'decisions': []}))", "it decides on nothing instead of"),
        (
            "print(json.dumps({'decisions': [{'key': one['key'], 'decision': 'maybe', 'reason': 'x'} for one in asked['candidates']]}))",
            "'maybe', not one of",
        ),
        ("sys.exit(3)", "exit code 3"),
    ],
)
def test_a_judge_that_does_not_answer_is_an_error_not_a_guess(lab, tmp_path, monkeypatch, body, why):
    judge(tmp_path, monkeypatch, body)
    with pytest.raises(LabError, match=why):
        memory.near(lab, REWORDED)


def test_a_judge_that_is_not_there_is_named(lab, monkeypatch):
    monkeypatch.setenv("LAB_JUDGE", "/no/such/judge")
    with pytest.raises(LabError, match="could not be started"):
        memory.near(lab, REWORDED)


def test_the_benchmarks_pairs_are_told_apart_by_fields(lab):
    """A guard on rule and concepts; the figures that count are `just memory`'s."""
    words, called = memory.concepts(lab), {}
    for name, kinds in (("tried", ("again", "trap")), ("failures", ("again",)), ("fresh", ("again", "copy", "trap"))):
        items = yaml.safe_load((REPOSITORY / "benchmarks" / "memory" / f"{name}.yaml").read_text())
        assert len(items) >= (40 if name != "fresh" else 12)
        for item in items:
            stored = memory.Entry("a", "idea", "a", *item["tried" if "tried" in item else "failed"][1:])
            for kind in kinds:
                other = memory.Entry("b", "idea", "b", *item[kind][1:])
                called.setdefault("trap" if kind == "trap" else "true", []).append(memory.compare(other, stored, words).decision)
    assert called["trap"].count(memory.SAME) <= 0.1 * len(called["trap"])
    assert called["true"].count(memory.OTHER) <= 0.1 * len(called["true"])
    assert called["true"].count(memory.SAME) >= 0.5 * len(called["true"])


def test_an_idea_kept_as_simpler_is_no_failure_though_refuted(lab):
    record(lab, verdict("state-decay", "simpler", verdict="refuted"))
    standing = memory.standings(lab)["state-decay"]
    assert (standing.word, standing.failed) == ("kept as simpler", False)


def test_asking_about_an_idea_leaves_it_in_the_index(lab):
    near(lab, REWORDED)
    before = (memory.folder(lab) / "index.npz").stat().st_mtime_ns
    near(lab, "state-decay")
    assert (memory.folder(lab) / "index.npz").stat().st_mtime_ns == before

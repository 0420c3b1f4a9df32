"""The sealed split of a small real lab: who may look, what a look costs, what is recorded of it, and who can read the data."""

import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DATA, EVAL, IDEA, PROGRAM, REPOSITORY, TRAIN, commit, git

from monolab import dataset, device, holdout, problem, queue, receipts, results, sandbox, verdicts
from monolab.errors import LabError
from monolab.paths import Lab

# Training gives 2 + offset + 0.001 * seed; the held-out number is 1 on validation and 1.25 on the sealed split. So, before the seeds:
#   baseline    2.0   validation 1.0   sealed 0.75   gap -0.25
#   lower       0.8   validation 0.2   sealed 0.45   gap +0.25, effect -0.8 on validation and -0.3 on the sealed split
#   higher      1.5   validation 0.5   sealed 0.25   gap -0.25, effect -0.5 on both
#   worse       2.2   dropped by its first seed
OFFSETS = {"lower": -1.2, "higher": -0.5, "worse": 0.2}
SPLITS = DATA.replace('"test": "1.0', '"test": "1.25')
# The scorer appends to a file outside of the lab which split it read, and fails on the sealed one while a file `broken` is there.
WATCHED = EVAL + (
    '\nwith (Path("{log}") / "read").open("a") as file:\n    file.write(Path(data).name + " ")\n'
    'if Path(data).name == "test" and (Path("{log}") / "broken").exists():\n    sys.exit("no such luck")\n'
)


def build(lab_repo, log: Path) -> Lab:
    idea = {"1_ideas/2026-01-04_worse.md": IDEA.format(slug="worse"), "eval.py": WATCHED.replace("{log}", str(log)), "data.py": SPLITS}
    lab = lab_repo(**idea)
    dataset.prepare(lab, [])
    for seed in (0, 1, 2):
        assert queue.evaluate(lab, "baseline", None, "explore", seed, []).status == "ok"
    for slug, offset in OFFSETS.items():
        queue.worktree(lab, slug)
        for seed in (0, 1, 2) if slug != "worse" else (0,):
            label = f"Q: does it help? H: expect {offset} score, 80%"
            assert queue.evaluate(lab, slug, label, "explore", seed, ["--offset", str(offset)]).status == "ok"
    commit(lab.root, "Runs")
    return lab


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the measured lab is kept, made by the first test that asks for it, and where its scorer says what it read."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def lab(lab_repo, shared: Path) -> Lab:
    """The baseline and three ideas measured, two of them kept. Made once; every test gets a copy in a place of its own."""
    if (shared / "lab").exists():
        at = Path(lab_repo("empty").root).with_name("lab")
        shutil.copytree(shared / "lab", at, symlinks=True)
        made = Lab(at)
    else:
        made = build(lab_repo, shared)
        shutil.copytree(made.root, shared / "lab", symlinks=True)
    (shared / "read").write_text("")
    (shared / "broken").unlink(missing_ok=True)
    return made


@pytest.fixture
def scored(lab: Lab, shared: Path) -> Callable[[], int]:
    """How many checkpoints the scorer has read the sealed split for since the test began."""

    def count() -> int:
        return (shared / "read").read_text().split().count("test")

    return count


def allow(lab: Lab, looks: int) -> None:
    lab.program.write_text(lab.program.read_text().replace("memory_gb: 1\n", f"memory_gb: 1\nholdout_looks: {looks}\n"))
    commit(lab.root, "Allow fewer looks")


def lines(lab: Lab) -> list[dict]:
    return [json.loads(line) for line in (lab.runs / "looks.jsonl").read_text().splitlines()]


def runs(lab: Lab, idea: str) -> dict[int, str]:
    return {row.seed: row.run_id for row in results.load(lab) if row.idea == idea}


def refused(lab: Lab, idea: str, stage: str = "explore") -> LabError:
    with pytest.raises(LabError) as raised:
        holdout.look(lab, idea, stage)
    return raised.value


# -- a look -------------------------------------------------------------------------------------------------------


def test_a_look_at_a_kept_idea_scores_it_and_the_baseline_at_its_evidence_seeds(lab, scored):
    verdict = verdicts.newest(lab)["lower", "explore"]
    assert verdict.kept and verdict.gate.screen == 0
    before = {path: path.read_bytes() for path in (lab.results, lab.journal, lab.runs / "verdicts.jsonl")}
    seen = holdout.look(lab, "lower", "explore")
    assert [one.seed for one in seen.runs] == [one.seed for one in seen.baseline] == [1, 2] and scored() == 4
    for one, validation, sealed in zip(seen.runs + seen.baseline, (0.199, 0.198, 1.001, 1.002), (0.449, 0.448, 0.751, 0.752), strict=True):
        assert (one.validation, one.sealed) == (pytest.approx(validation), pytest.approx(sealed))
    assert seen.gap.mean == pytest.approx(0.25) and seen.gap.half == pytest.approx(0, abs=1e-9)
    assert seen.effect.mean == pytest.approx(-0.803) and seen.sealed_effect.mean == pytest.approx(-0.303)
    assert {path: path.read_bytes() for path in before} == before and verdicts.newest(lab)["lower", "explore"] == verdict

    opened, look = lines(lab)
    assert (opened["event"], look["event"], opened["number"], look["number"]) == ("opened", "look", 1, 1)
    receipt = receipts.receipt(lab, runs(lab, "lower")[1])
    assert (look["data_sha"], look["eval_sha"]) == (receipt.data_sha, receipt.eval_sha)
    assert look["runs"][0] == {
        "run": receipt.run_id,
        "seed": 1,
        "checkpoint_sha": receipt.checkpoint_sha,
        "validation": receipt.value,
        "sealed": seen.runs[0].sealed,
    }
    assert opened["prev"] == results.sha(holdout.HEADER) and look["prev"] == results.sha(json.dumps(opened))
    assert holdout.looks(lab) == [seen] and holdout.audit(lab) == []
    shown = holdout.text(seen)
    assert "gap, sealed - validation: +0.25" in shown and "-0.803" in shown and "-0.303" in shown and receipt.run_id in shown


def test_no_checkpoint_is_scored_twice_and_looking_again_answers_from_the_record(lab, scored):
    first = holdout.look(lab, "lower", "explore")
    assert scored() == 4
    record = (lab.runs / "looks.jsonl").read_bytes()
    shutil.rmtree(lab.run(runs(lab, "lower")[1]) / "checkpoint")  # may be removed to save disk
    with device.lock(device.detect(), print, run="another", lab="elsewhere"):  # it takes no device to read the record
        assert holdout.look(lab, "lower", "explore") == first
    assert scored() == 4 and (lab.runs / "looks.jsonl").read_bytes() == record

    second = holdout.look(lab, "higher", "explore")  # against the same baseline, which is not scored again
    assert scored() == 6 and second.number == 2 and second.baseline == first.baseline
    assert lines(lab)[2]["checkpoints"].keys() == {runs(lab, "higher")[1], runs(lab, "higher")[2]}
    assert second.gap.mean == pytest.approx(-0.25) and second.sealed_effect.mean == pytest.approx(second.effect.mean)

    base = holdout.look(lab, "baseline", "explore")  # seed 0 is new
    assert scored() == 7 and base.number == 3 and [one.seed for one in base.runs] == [0, 1, 2]
    assert (base.baseline, base.effect, base.sealed_effect) == ((), None, None) and base.gap.mean == pytest.approx(-0.25)
    assert holdout.summary(lab)["spent"] == 3


def test_what_was_all_scored_before_in_other_looks_costs_nothing(lab, scored):
    allow(lab, 1)
    base = holdout.look(lab, "baseline", "explore")
    assert base.number == 1 and scored() == 3
    first = receipts.receipt(lab, runs(lab, "baseline")[1])
    again = queue.evaluate(lab, "baseline", None, "explore", 1, [])
    assert again.checkpoint_sha == first.checkpoint_sha  # the same to the byte: another run, no other checkpoint
    seen = holdout.look(lab, "baseline", "explore")
    assert seen.number == 0 and [one.run for one in seen.runs] == [base.runs[0].run, again.run_id, base.runs[2].run] and scored() == 3
    assert [entry["event"] for entry in lines(lab)] == ["opened", "look", "look"] and holdout.audit(lab) == []
    assert "at no cost" in holdout.text(seen) and holdout.summary(lab)["spent"] == 1


def test_the_device_is_held_while_the_split_is_scored(lab, wait_until, tmp_path):
    with device.lock(device.detect(), print, run="another", lab="elsewhere"):
        looker = start(lab, "lower", tmp_path / "log")
        wait_until(lambda: "waiting for cpu" in (tmp_path / "log").read_text())
        assert not (lab.runs / "looks.jsonl").exists() and looker.poll() is None
    assert looker.wait(60) == 0 and [entry["event"] for entry in lines(lab)] == ["opened", "look"]


def start(lab: Lab, idea: str, log: Path) -> subprocess.Popen:
    code = f"from pathlib import Path; from monolab import holdout; from monolab.paths import Lab; holdout.look(Lab(Path({str(lab.root)!r})), {idea!r}, 'explore')"
    with log.open("w") as file:
        return subprocess.Popen([sys.executable, "-c", code], stdout=file, stderr=file)


# -- what may be looked at ----------------------------------------------------------------------------------------


def test_what_was_not_kept_is_refused_with_the_reason(lab, scored):
    error = refused(lab, "worse")
    assert "was not kept (drop: its first seed is not better" in error.what and "would select" in error.what and error.hint == "just verdict worse"
    error = refused(lab, "control-null")
    assert "is a control" in error.what
    assert "no measured run" in refused(lab, "nope").what and "no measured run" in refused(lab, "lower", "verify").what
    assert "no stage" in refused(lab, "lower", "nope").what
    assert scored() == 0 and scored_nothing(lab)


def scored_nothing(lab: Lab) -> bool:
    return not (lab.runs / "looks.jsonl").exists()


def test_a_newer_code_of_a_kept_idea_has_to_be_kept_itself(lab):
    git(lab.root, "worktree", "repair", str(lab.worktree("lower")))  # a copy's still points to where it was copied from
    assert queue.evaluate(lab, "lower", "Q: a? H: expect -0.1 score, 50%", "explore", 0, ["--offset", "0.3"]).status == "ok"
    assert "its newest code was not kept (drop" in refused(lab, "lower").what and scored_nothing(lab)


@pytest.mark.parametrize("what", ["the scorer", "the data"])
def test_what_was_measured_under_other_conditions_is_refused(lab, scored, what):
    if what == "the data":
        (lab.root / "data.py").write_text(SPLITS.replace("2.1", "2.2"))
        commit(lab.root, "Other data")
        dataset.prepare(lab, [])
    else:
        (lab.root / "eval.py").write_text("# another\n" + (lab.root / "eval.py").read_text())
        commit(lab.root, "Another scorer")
    for idea, again in (("lower", "just queue lower --stage explore"), ("baseline", "just baseline --stage explore")):
        error = refused(lab, idea)
        assert f"before {what} changed" in error.what and error.hint == again
    assert scored() == 0 and scored_nothing(lab)


def test_frozen_files_and_data_that_are_not_as_committed_and_prepared_stop_a_look(lab, scored):
    lab.program.write_text(lab.program.read_text().replace("memory_gb: 1\n", "memory_gb: 1\nholdout_looks: 1000\n"))
    assert "program.md is FROZEN" in refused(lab, "lower").what
    git(lab.root, "checkout", "--", "program.md")
    sealed, stat = lab.data / "test" / "numbers.txt", (lab.data / "test" / "numbers.txt").stat()
    sealed.write_text("9.99\n")  # as long as before, and dated back: only its hash tells
    os.utime(sealed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "test/numbers.txt" in refused(lab, "lower").what and scored() == 0 and scored_nothing(lab)


def test_an_edited_row_stops_a_look(lab, scored):
    run_id, rows = runs(lab, "lower")[0], lab.results.read_text().splitlines(keepends=True)
    lab.results.write_text("".join(row.replace("\texplore\t", "\tverify\t") if row.startswith(run_id) else row for row in rows))
    error = refused(lab, "lower")
    assert f"the row of {run_id} differs from its receipt" in error.what and error.hint == "lab check" and scored() == 0


def test_a_missing_checkpoint_is_named(lab, scored):
    gone = runs(lab, "lower")[2]
    shutil.rmtree(lab.run(gone) / "checkpoint")
    error = refused(lab, "lower")
    assert f"the checkpoint of {gone} is gone" in error.what and error.hint.startswith("just queue lower")
    assert scored() == 0 and scored_nothing(lab)


def test_a_swapped_checkpoint_is_named_also_the_baselines(lab, scored):
    swapped = runs(lab, "baseline")[1]
    (lab.run(swapped) / "checkpoint" / "value.txt").write_text("1.25")
    error = refused(lab, "lower")
    assert f"the checkpoint of {swapped} is not the one that was scored" in error.what and error.hint == f"lab audit {swapped}"
    assert scored() == 0 and scored_nothing(lab)


# -- the budget ---------------------------------------------------------------------------------------------------


def test_a_spent_budget_is_said_with_what_to_do_and_a_new_split_has_a_fresh_one(lab, scored):
    allow(lab, 1)
    first = holdout.look(lab, "lower", "explore")
    count = scored()
    error = refused(lab, "higher")
    assert "is spent: 1 looks, program.md allows 1" in error.what and error.hint.startswith("just data --sealed 2; then just baseline")
    assert scored() == count and len(lines(lab)) == 2
    assert holdout.look(lab, "lower", "explore") == first  # the record may be read for ever
    known = holdout.summary(lab)
    assert (known["spent"], known["left"]) == (1, 0) and "1 of 1 looks at the sealed split spent: none left" in holdout.summary_text(known)

    (lab.root / "data.py").write_text(SPLITS.replace("1.25", "1.5"))
    commit(lab.root, "Seal another split")
    dataset.prepare(lab, [])
    assert holdout.summary(lab) | {"sealed_sha": ""} == {
        "sealed_sha": "",
        "budget": 1,
        "spent": 0,
        "left": 1,
        "last": None,
        "trend": None,
        "damaged": "",
    }
    assert "before the data changed" in refused(lab, "lower").what  # it may have been trained on what is sealed now
    assert queue.evaluate(lab, "baseline", None, "explore", 0, []).status == "ok"
    fresh = holdout.look(lab, "baseline", "explore")
    assert fresh.number == 1 and fresh.runs[0].sealed == pytest.approx(0.5) and fresh.sealed_sha != first.sealed_sha
    assert queue.evaluate(lab, "baseline", None, "explore", 1, []).status == "ok"
    assert "is spent: 1 looks" in refused(lab, "baseline").what and holdout.audit(lab) == []


NUMBERS = """
for split, numbers in {"train": "1.9\\n2.1\\n", "val": "1.0\\n", "test": "1.25\\n"}.items():
    (Path(sys.argv[1]) / split / "numbers.txt").write_text(numbers)
"""


def test_a_worn_out_split_is_rotated_by_the_command_that_the_error_names(lab_repo, tmp_path):
    """The whole round, by the real command line, with the root problem's own data.py: looks, a spent budget, another split, looks again."""
    for folder, count in (("texts", 400), ("further", 400)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.txt").write_text(f"{folder} {number}: " + " ".join(f"{number * place % 997}" for place in range(40)))
    lab = lab_repo(**{"data.py": (REPOSITORY / "data.py").read_text() + NUMBERS})

    def call(*args: str, refused: bool = False) -> str:
        done = subprocess.run([str(Path(sys.executable).with_name("lab")), *args], cwd=lab.root, capture_output=True, text=True, timeout=120)
        assert (done.returncode != 0) is refused, done.stdout + done.stderr
        return done.stdout + done.stderr

    def documents(split: str) -> set[bytes]:
        return set((lab.data / split / "text.bin").read_bytes().split(b"\0")) - {b""}

    allow(lab, 1)
    call("data", "--source", str(tmp_path / "texts"))
    call("eval")
    assert "look 1" in call("verify", "baseline") and "1 of 1 looks" in call("status")
    before, first = {split: documents(split) for split in dataset.SPLITS}, json.loads((lab.data / "manifest.json").read_text())
    call("eval", "--seed", "1")
    told = call("verify", "baseline", refused=True)
    command = f"just data --source {tmp_path / 'texts'} --sealed 2"
    assert "is spent: 1 looks" in told and f"next: {command}; then just baseline" in told

    told = call(*command.split()[1:], refused=True)  # text of one's own has no reserve that data.py could know of
    assert "--sealed 2 needs text that is in no split yet" in told and "--reserve FOLDER" in told
    assert dataset.data_sha(lab) == first["data_sha"]
    call(*command.split()[1:], "--reserve", str(tmp_path / "further"))
    second = json.loads((lab.data / "manifest.json").read_text())
    assert second["args"][-4:-2] == ["--sealed", "2"] and second["data_sha"] != first["data_sha"]
    now = {split: documents(split) for split in dataset.SPLITS}
    assert now["train"] == before["train"] and now["val"] == before["val"] and len(now["test"]) > 10
    assert not now["test"] & (before["train"] | before["val"] | before["test"])
    assert not before["test"] & (now["train"] | now["val"])  # what is worn out is retired, not learned from

    assert "0 of 1 looks" in call("status")
    assert "before the data changed" in call("verify", "baseline", refused=True)
    call("eval")
    assert "look 1" in call("verify", "baseline") and "1 of 1 looks" in call("status")
    kept = [(entry["event"], entry["number"], entry["data_sha"]) for entry in lines(lab)]
    assert kept == [(event, 1, one["data_sha"]) for one in (first, second) for event in ("opened", "look")]
    assert len({entry["sealed_sha"] for entry in lines(lab)}) == 2 and holdout.audit(lab) == []
    call("eval", "--seed", "1")
    assert "--sealed 3" in call("verify", "baseline", refused=True)
    call("data", "--source", str(tmp_path / "texts"), "--sealed", "1")  # back to the first one: it stays spent
    assert json.loads((lab.data / "manifest.json").read_text())["data_sha"] == first["data_sha"] and "1 of 1 looks" in call("status")


def test_other_training_data_around_the_same_sealed_split_is_no_fresh_budget(lab):
    allow(lab, 1)
    first = holdout.look(lab, "lower", "explore")
    (lab.root / "data.py").write_text(SPLITS.replace("1.9", "1.8"))
    commit(lab.root, "Other training data")
    dataset.prepare(lab, [])
    queue.evaluate(lab, "baseline", None, "explore", 0, [])
    assert f"the budget of the sealed split {first.sealed_sha[:12]} is spent" in refused(lab, "baseline").what


def test_program_md_may_allow_none(lab, scored):
    allow(lab, 0)
    assert "0 looks, program.md allows 0" in refused(lab, "baseline").what and scored() == 0


def test_a_look_that_fails_is_spent_and_completed_at_no_further_cost(lab, scored, shared):
    allow(lab, 1)
    (shared / "broken").write_text("")
    error = refused(lab, "lower")
    assert runs(lab, "lower")[1] in error.what and "no such luck" in error.what and "the look is spent" in error.what
    assert [entry["event"] for entry in lines(lab)] == ["opened"] and holdout.summary(lab)["left"] == 0
    (shared / "broken").unlink()
    assert "is spent" in refused(lab, "higher").what
    seen = holdout.look(lab, "lower", "explore")
    assert seen.number == 1 and [entry["event"] for entry in lines(lab)] == ["opened", "look"]


def test_two_who_look_at_once_share_one_budget(lab, wait_until, tmp_path):
    allow(lab, 1)
    both = {idea: start(lab, idea, tmp_path / idea) for idea in ("lower", "higher")}
    assert sorted(looker.wait(120) for looker in both.values()) == [0, 1]
    (loser,) = (idea for idea, looker in both.items() if looker.returncode)
    assert "is spent" in (tmp_path / loser).read_text() and [entry["event"] for entry in lines(lab)] == ["opened", "look"]
    assert holdout.audit(lab) == []


# -- the record ---------------------------------------------------------------------------------------------------


@pytest.fixture
def looked(lab: Lab) -> Lab:
    """Two looks: four lines."""
    for idea in ("lower", "higher"):
        holdout.look(lab, idea, "explore")
    assert len(lines(lab)) == 4 and holdout.audit(lab) == []
    return lab


TAMPERED = {
    "an edited value": (lambda rows: [rows[0], rows[1].replace('"sealed": 0.44', '"sealed": 0.14', 1), *rows[2:]], "line 2 was edited"),
    "the last line edited": (lambda rows: [*rows[:3], rows[3].replace('"number": 2', '"number": 0')], "line 4 was edited"),
    "a look removed": (lambda rows: [rows[0], rows[1], rows[3]], "line 3 was removed"),
    "the first removed": (lambda rows: rows[1:], "line 1 was removed"),
    "the end cut off": (lambda rows: rows[:2], "line 3 is gone"),
    "all of it": (lambda rows: [], "line 1 is gone"),
    "half of a line": (lambda rows: [*rows[:3], rows[3][:40].rstrip("\n")], "line 4: the file ends in the middle"),
    "no JSON": (lambda rows: [*rows, "hello\n"], "line 5 is damaged"),
    "one made up": (lambda rows: [*rows, rows[3]], "line 4 was edited, or what stood between it and line 5 was removed"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_record_that_was_tampered_with_is_named_and_never_repaired(looked, scored, how):
    change, what = TAMPERED[how]
    record = looked.runs / "looks.jsonl"
    tampered = "".join(change(record.read_text().splitlines(keepends=True)))
    assert tampered != record.read_text()
    record.write_text(tampered)
    (found,) = holdout.audit(looked)
    assert found.startswith("6_runs/looks.jsonl ") and what in found
    count = scored()
    error = refused(looked, "baseline")
    assert error.what == found and holdout.REF in error.hint and scored() == count and record.read_text() == tampered
    subprocess.run(holdout.RESTORE, shell=True, cwd=looked.root, check=True)
    assert holdout.audit(looked) == [] and holdout.summary(looked)["spent"] == 2


def test_in_a_clone_without_the_ref_the_chain_and_the_commit_still_tell(looked):
    git(looked.root, "update-ref", "-d", holdout.REF)
    record = looked.runs / "looks.jsonl"
    whole = record.read_text()
    rows = whole.splitlines(keepends=True)
    record.write_text("".join([rows[0].replace('"number": 1', '"number": 7'), *rows[1:]]))
    (found,) = holdout.audit(looked)
    assert "line 1 was edited, or what stood between it and line 2 was removed" in found
    assert found in holdout.summary_text(holdout.summary(looked))
    record.write_text("".join(rows[1:]))
    assert "line 1: what stood before it was removed" in holdout.audit(looked)[0]
    record.write_text(whole)
    commit(looked.root, "Looks")
    record.write_text("".join(rows[:2]))
    assert "line 3 is gone, with all after it, since it was committed" in holdout.audit(looked)[0]


# -- what is said -------------------------------------------------------------------------------------------------


def test_the_summary_counts_and_shows_the_last_gap_and_its_trend(lab):
    known = holdout.summary(lab)
    assert (known["budget"], known["spent"], known["left"], known["last"], known["trend"]) == (20, 0, 20, None, None)
    assert holdout.summary_text(known) == "0 of 20 looks at the sealed split spent"
    for idea in ("higher", "lower"):
        holdout.look(lab, idea, "explore")
    known = json.loads(json.dumps(holdout.summary(lab)))
    assert (known["spent"], known["left"], known["last"]["idea"]) == (2, 18, "lower") and known["last"]["gap"]["mean"] == pytest.approx(0.25)
    assert known["trend"]["slope"] == pytest.approx(0.5) and known["trend"]["low"] is None
    assert "last: lower (explore), gap +0.25 score" in holdout.summary_text(known) and "growing so far, 2 looks are too few" in holdout.summary_text(
        known
    )
    shutil.rmtree(lab.data)
    assert holdout.summary(lab)["sealed_sha"] is None


@pytest.mark.parametrize("n", [5, 6, 9, 20])
def test_the_trend_is_that_of_least_squares_with_students_interval(n):
    from scipy import stats

    draw = random.Random(n)
    gaps = [0.01 * place + draw.gauss(0, 0.02) for place in range(n)]
    found, want = holdout.trend(gaps, -1), stats.linregress(range(n), gaps)
    half = stats.t.ppf(0.975, n - 2) * want.stderr
    assert found["slope"] == pytest.approx(want.slope)
    assert (found["low"], found["high"]) == (
        pytest.approx(want.slope - half, rel=3e-3, abs=1e-5),
        pytest.approx(want.slope + half, rel=3e-3, abs=1e-5),
    )


def test_the_trend_in_words_knows_which_way_is_worse_and_claims_nothing_within_its_interval():
    rising, noise = [0.0, 0.1, 0.21, 0.3, 0.41], [0.0, 0.3, -0.2, 0.1, 0.0]
    assert holdout.trend(rising, -1)["words"].startswith("growing") and holdout.trend(rising, 1)["words"].startswith("shrinking")
    assert holdout.trend(rising[::-1], 1)["words"].startswith("growing")
    assert holdout.trend(noise, -1)["words"] == "no trend that these looks can show"
    few = holdout.trend(rising[:4], -1)
    assert few["words"].startswith("growing so far, 4 looks are too few") and few["low"] is None and few["slope"] == pytest.approx(0.101)
    assert holdout.trend([0.1], -1) is None and holdout.trend([0.1, 0.1], -1)["words"].startswith("level")


@pytest.mark.parametrize("value", ["-1", "2.5", "many", "true", ".inf", "[3]"])
def test_the_budget_is_a_whole_number(lab_repo, value):
    lab = lab_repo(**{"program.md": PROGRAM.replace("memory_gb: 1", f"memory_gb: 1\nholdout_looks: {value}")})
    with pytest.raises(LabError, match=r"program\.md: `holdout_looks`"):
        problem.load(lab)


def test_the_budget_has_a_default_and_may_be_none_at_all(lab_repo):
    assert problem.load(lab_repo()).holdout_looks == 20
    found = problem.load(lab_repo("other", **{"program.md": PROGRAM.replace("memory_gb: 1", "memory_gb: 1\nholdout_looks: 0")})).holdout_looks
    assert found == 0 and isinstance(found, int)


# -- who can read the sealed data ---------------------------------------------------------------------------------

SERVING = """import json, os, subprocess, sys
from pathlib import Path

checkpoint, data, out, code = sys.argv[1:]
spy = "import sys; from pathlib import Path; print(any(Path(place).exists() for place in sys.argv[1:]))"
places = [data, str(Path(data).parent), str(Path(data) / "numbers.txt")]
said = subprocess.run([*{words}, sys.executable, "-c", spy, *places], capture_output=True, text=True, cwd=code, check=True).stdout
if said != "False\\n":
    sys.exit("the candidate's process sees " + Path(data).name)
value, target = float((Path(checkpoint) / "value.txt").read_text()), float((Path(data) / "numbers.txt").read_text())
Path(out).write_text(json.dumps({"score": abs(value - target)}))
"""
SPYING = TRAIN.replace(
    "    out = Path(config.out)\n",
    '    for split in ("val", "test"):\n        assert not (Path(config.data).parent / split).exists(), split\n    out = Path(config.out)\n',
)


@pytest.mark.skipif(sandbox.probe().kind == "none", reason=sandbox.probe().reason)
def test_the_candidates_processes_see_nothing_of_the_sealed_split(lab_repo):
    inside = SERVING.replace("{words}", 'json.loads(os.environ["LAB_SANDBOX"])')
    lab = lab_repo(**{"eval.py": inside, "train.py": SPYING, "data.py": SPLITS})
    dataset.prepare(lab, [])
    assert queue.evaluate(lab, "baseline", None, "explore", 0, []).status == "ok"
    assert holdout.look(lab, "baseline", "explore").runs[0].sealed == pytest.approx(0.75)
    outside = lab_repo("outside", **{"eval.py": SERVING.replace("{words}", "[]"), "data.py": SPLITS})  # the same spy sees it without the sandbox
    dataset.prepare(outside, [])
    receipt = queue.evaluate(outside, "baseline", None, "explore", 0, [])
    assert receipt.status == "crash" and "the candidate's process sees val" in receipt.reason


def test_nothing_that_judges_reads_the_looks():
    package = Path(holdout.__file__).parent
    readers = set()
    for path in package.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
            if "holdout" in names or "monolab.holdout" in names or getattr(node, "module", "") == "monolab.holdout":
                readers.add(path.stem)
        if path.stem != "holdout":
            assert holdout.RECORD not in path.read_text()
    assert readers <= {"cli", "status", "init", "audit", "events"}

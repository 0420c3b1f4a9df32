"""The audit of a small real lab: what is clean audits clean, and whatever was tampered with is named with the first place that differs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import EVAL, commit, git
from test_lab import add_idea, call, change

from monolab import audit, device, receipts, results
from monolab.audit import Finding, Reproduction
from monolab.errors import LabError
from monolab.paths import Lab

CHECKS = ["receipt", "committed", "row", "chain", "request", "ref", "code", "scorer", "data", "environment", "hardware"]
SCORED = ["checkpoint", "score", "metrics"]


def first_wrong(found: list[Finding]) -> str:
    one = next(one for one in found if one.ok is False)
    return f"{one.name}: {one.what}"


def outcome(found: list[Finding]) -> dict[str, bool | None]:
    return {one.name: one.ok for one in found}


def check(found: list[Finding], name: str) -> Finding:
    return next(one for one in found if one.name == name)


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=1))


def seeds(where: Path, *numbers: int) -> None:
    for number in numbers:
        call(where, "eval", "--seed", str(number))


def rows(lab: Lab) -> list[str]:
    return [row.run_id for row in results.load(lab)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the lab with three baseline runs is kept, made by the first test that asks for it."""
    return tmp_path_factory.mktemp("measured")


@pytest.fixture
def lab(lab_repo, measured: Path) -> Lab:
    """Three runs of the baseline, everything committed. Made once; every test gets a copy in a place of its own."""
    if (measured / "lab").exists():
        at = Path(lab_repo("empty").root).with_name("lab")
        shutil.copytree(measured / "lab", at, symlinks=True)  # copies the files' times as well, which the data's check looks at
        return Lab(at)
    made = lab_repo()
    call(made.root, "data")
    seeds(made.root, 0, 1, 2)
    commit(made.root, "Three runs")
    shutil.copytree(made.root, measured / "lab", symlinks=True)
    return made


def test_a_clean_run_audits_clean_and_is_recorded(lab):
    before = {path: path.read_bytes() for path in lab.runs.glob("*/*.json")} | {lab.results: lab.results.read_bytes()}
    run_id = rows(lab)[1]
    found = audit.audit(lab, run_id[-4:])
    assert outcome(found) == dict.fromkeys(CHECKS + SCORED, True), audit.text(run_id, found)
    assert check(found, "score").numbers == {"score": [1.001, 1.001]}
    assert "results.tsv line 3 is linked to line 2" in check(found, "chain").what
    record = json.loads((lab.runs / "audits.jsonl").read_text())
    assert (record["run"], record["kind"], record["what"]) == (run_id, "audit", "14 of 14 checks agree")
    assert record["numbers"] == {"score": [1.001, 1.001], "params": [1, 1]}
    assert {path: path.read_bytes() for path in before} == before
    shown = audit.text(run_id, found).splitlines()
    assert len(shown) == 2 + len(found) and shown[3] == "ok   row          results.tsv line 3 is what the receipt says"
    with pytest.raises(LabError, match="no run matches 'nope'"):
        audit.audit(lab, "nope")


def test_what_the_programs_say_is_kept_out_of_the_answer(lab, capfd):
    change(lab.root, "    print(f", '    print("LOUD", flush=True)\n    print(f')
    commit(lab.root)
    seeds(lab.root, 3)
    capfd.readouterr()
    assert audit.reproduce(lab, rows(lab)[-1]).ok
    out, err = capfd.readouterr()
    assert out == "" and "LOUD" in err


# -- tampering with the records -----------------------------------------------------------------------------------


def test_an_edited_row(lab):
    lab.results.write_text(lab.results.read_text().replace("1.001\tok", "0.5\tok"))
    edited, after = (audit.audit(lab, run_id) for run_id in rows(lab)[1:])
    assert first_wrong(edited) == "row: results.tsv line 3: value 0.5 in the row, 1.001 in its receipt"
    assert (
        first_wrong(after)
        == f"chain: results.tsv line 3: the row of {rows(lab)[1]}, after which {rows(lab)[2]} was appended, was edited or moved (line 3)"
    )
    assert check(after, "score").ok and outcome(audit.audit(lab, rows(lab)[0])) == dict.fromkeys(CHECKS + SCORED, True)


def test_an_edited_receipt(lab):
    run_id = rows(lab)[0]
    path = lab.run(run_id) / "receipt.json"
    edit(path, value=0.5)
    found = audit.audit(lab, run_id)
    assert first_wrong(found) == f"receipt: 6_runs/{run_id}/receipt.json: value is 0.5, its metrics have score 1.0"
    assert check(found, "row").what == "results.tsv line 2: value 1.0 in the row, 0.5 in its receipt" and check(found, "score").ok is None
    edit(path, metrics={"score": 0.5, "params": 1})
    found = audit.audit(lab, run_id)
    assert check(found, "committed").what == f"6_runs/{run_id}/receipt.json: value 1.0 when it was committed, 0.5 now (and 1 more)"
    assert "score 0.5 in the receipt, 1.0 from a fresh scorer" in check(found, "score").what and check(found, "score").ok is False


def test_an_edit_that_no_row_shows_is_found_in_git(lab):
    run_id = rows(lab)[0]
    edit(lab.run(run_id) / "receipt.json", isolation="something stronger")
    commit(lab.root, "Hide it")
    found = audit.audit(lab, run_id)
    assert first_wrong(found).endswith(", something stronger now") and "isolation" in first_wrong(found)
    assert [one.name for one in found if one.ok is not True] == ["committed"]


def test_row_and_receipt_edited_together_break_the_chain_and_the_number(lab):
    run_id = rows(lab)[1]
    edit(lab.run(run_id) / "receipt.json", value=0.5, metrics={"score": 0.5, "params": 1})
    lab.results.write_text(lab.results.read_text().replace("1.001\tok", "0.5\tok"))
    git(lab.root, "rm", "-rq", "--cached", "6_runs")  # as if nothing had been committed yet
    found = audit.audit(lab, run_id)
    assert check(found, "row").ok and check(found, "receipt").ok
    assert check(found, "chain").what.startswith(f"results.tsv line 3: {rows(lab)[2]} was appended after a line with another hash")
    assert check(found, "score").ok is False and check(found, "score").numbers == {"score": [0.5, 1.001]}


def test_an_edited_metric_beside_the_problems_own(lab):
    (lab.root / "eval.py").write_text(
        EVAL.replace('"params": 1', '"params": 1, "size": 8 * value, "took": __import__("time").monotonic(), "spread": 0.0')
    )
    commit(lab.root)
    seeds(lab.root, 0)
    run_id = rows(lab)[-1]
    found = audit.audit(lab, run_id)
    assert check(found, "metrics").ok and "3 of 4 other metric(s) agree" in check(found, "metrics").what and "took" in check(found, "metrics").what
    metrics = receipts.receipt(lab, run_id).metrics
    edit(lab.run(run_id) / "receipt.json", metrics=metrics | {"size": 15.0, "spread": 1.2e-7})  # the second is round-off
    found = audit.audit(lab, run_id)
    assert first_wrong(found) == "metrics: size 15.0 in the receipt, 16.0 from a fresh scorer, twice the same"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"value": "1.0"}, "its value is '1.0'"),
        ({"metrics": {"score": [1.0]}}, "its metrics is {'score': [1.0]}"),
        ({"commit": "--upload-pack=x"}, "names no git object"),
        ({"run_id": "another"}, "its run_id is 'another'"),
        ({"finished": "yesterday"}, "'yesterday' does not match format"),
        ({"extra": 1}, "its fields differ: extra"),
        (None, "receipt.json is damaged"),
    ],
)
def test_a_receipt_that_is_none(lab, values, what):
    run_id, other = rows(lab)[:2]
    path = lab.run(run_id) / "receipt.json"
    if values is None:
        path.write_text(path.read_text()[:200])
    else:
        edit(path, **values)
    assert what in first_wrong(audit.audit(lab, run_id))
    assert check(audit.audit(lab, other), "score").ok


def test_a_missing_receipt_and_a_missing_folder(lab):
    first, second = rows(lab)[:2]
    (lab.run(first) / "receipt.json").unlink()
    shutil.rmtree(lab.run(second))
    assert first_wrong(audit.audit(lab, first)).endswith(f"results.tsv line 2 is a row of this run, which has no 6_runs/{first}/receipt.json")
    assert first_wrong(audit.audit(lab, second)).endswith(f"results.tsv line 3 is a row of this run, which has no 6_runs/{second}/receipt.json")


def test_a_removed_row_is_named_by_the_run_itself_and_by_the_one_after_it(lab):
    first, removed, after = rows(lab)
    lines = lab.results.read_text().splitlines()
    lab.results.write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    found = audit.audit(lab, removed)
    assert first_wrong(found).startswith(f"row: results.tsv has no row of {removed}")
    assert check(found, "chain").what == f"results.tsv: the row of {removed} is gone; {after} was appended after it"
    assert first_wrong(audit.audit(lab, after)).endswith(f"the row of {removed}, after which {after} was appended, was removed")
    assert check(audit.audit(lab, first), "chain").ok


def test_a_broken_chain(lab):
    first, removed, after = rows(lab)
    lines = lab.results.read_text().splitlines()
    lab.results.write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    shutil.rmtree(lab.run(removed))
    assert "neither a line up to here nor any receipt has the hash" in first_wrong(audit.audit(lab, after))
    assert first_wrong(audit.audit(lab, first)).startswith(f"chain: results.tsv line 2: {after} was appended after a line with another hash")
    whole = audit.audit_all(lab, sample=0)
    assert whole.records == (f"6_runs/{removed}/receipt.json was committed; it is gone, with its row",)


def test_a_row_written_twice(lab):
    lines = lab.results.read_text().splitlines()
    lab.results.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert first_wrong(audit.audit(lab, rows(lab)[0])) == f"row: results.tsv line 5: a second row of {rows(lab)[0]}, the first is line 2"


def test_an_edited_request(lab):
    run_id = rows(lab)[0]
    path = lab.run(run_id) / "request.json"
    edit(path, seed=7, credence=0.9)
    assert first_wrong(audit.audit(lab, run_id)) == f"request: 6_runs/{run_id}/request.json: seed 7 in the request, 0 in its receipt (and 1 more)"
    path.write_text("{")
    assert "request.json is damaged" in first_wrong(audit.audit(lab, run_id))
    path.unlink()
    assert "request.json is missing" in first_wrong(audit.audit(lab, run_id))


# -- the code, the scorer, the data, the checkpoint ---------------------------------------------------------------


def test_a_moved_and_a_deleted_ref(lab):
    one, two, _ = rows(lab)
    head = git(lab.root, "rev-parse", "HEAD")
    pinned = receipts.receipt(lab, one).commit
    git(lab.root, "update-ref", f"refs/lab/runs/{one}", head)
    git(lab.root, "update-ref", "-d", f"refs/lab/runs/{two}")
    assert first_wrong(audit.audit(lab, one)) == f"ref: refs/lab/runs/{one} points at {head[:12]}, the receipt's commit is {pinned[:12]}"
    found = audit.audit(lab, two)
    assert first_wrong(found).startswith(f"ref: refs/lab/runs/{two} is gone") and check(found, "score").ok


def test_another_code_than_the_receipt_says(lab):
    tree = add_idea(lab, "swap")
    seeds(tree, 0)
    run_id = rows(lab)[-1]
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    other = commit(tree)
    git(lab.root, "update-ref", f"refs/lab/runs/{run_id}", other)
    edit(lab.run(run_id) / "receipt.json", commit=other)
    found = audit.audit(lab, run_id)
    assert check(found, "ref").ok and check(found, "code").ok is False and check(found, "code").what.endswith("they differ first in train.py")
    assert check(found, "score").ok is None and "because of the code" in check(found, "score").what
    edit(lab.run(run_id) / "receipt.json", commit="1" * 40)
    assert "the commit 111111111111 is not in this repository" in check(audit.audit(lab, run_id), "code").what


def test_the_code_tree_is_found_again_after_git_has_collected_it(lab):
    run_id = rows(lab)[0]
    git(lab.root, "gc", "--quiet", "--prune=now")
    assert check(audit.audit(lab, run_id), "score").ok and audit.reproduce(lab, run_id).ok


def test_a_scorer_that_changed_since_is_found_in_history_and_scores(lab):
    old = git(lab.root, "rev-parse", "HEAD~1")
    (lab.root / "eval.py").write_text(EVAL.replace("abs(value - target)", "100 * abs(value - target)"))
    commit(lab.root, "Another scorer")
    found = audit.audit(lab, rows(lab)[1])
    assert outcome(found) == dict.fromkeys(CHECKS + SCORED, True) and f"as of commit {old[:12]}" in check(found, "scorer").what
    assert audit.reproduce(lab, rows(lab)[1]).again == 1.001


def test_a_scorer_of_more_files_since_and_one_that_was_never_committed(lab):
    text = lab.program.read_text()
    lab.program.write_text(text.replace("scorer: [eval.py]", "scorer: [eval.py, target.txt]"))
    (lab.root / "target.txt").write_text("1.0")
    commit(lab.root, "A scorer of two files")
    run_id = rows(lab)[0]
    assert check(audit.audit(lab, run_id), "scorer").ok
    edit(lab.run(run_id) / "receipt.json", eval_sha="0" * 64)
    found = audit.audit(lab, run_id)
    assert check(found, "scorer").ok is False and "none of the 2 version(s) of eval.py, target.txt" in check(found, "scorer").what
    assert check(found, "score").ok is None
    with pytest.raises(LabError, match="cannot be trained again: eval_sha 000000000000"):
        audit.reproduce(lab, run_id)


def test_changed_data_other_data_and_none(lab):
    run_id = rows(lab)[0]
    (lab.data / "val" / "numbers.txt").write_text("2.0\n")
    found = audit.audit(lab, run_id)
    assert first_wrong(found) == "data: .data: data changed since it was prepared: val/numbers.txt changed" and check(found, "score").ok is None
    (lab.root / "data.py").write_text((lab.root / "data.py").read_text().replace('"val": "1.0', '"val": "1.5'))
    commit(lab.root)
    call(lab.root, "data")
    found = audit.audit(lab, run_id)
    assert check(found, "data").ok is None and "cannot be scored again here as it was" in check(found, "data").what
    assert {one.name for one in found if one.ok is False} == set() and "because of the data" in check(found, "score").what
    shutil.rmtree(lab.data)
    assert "there is no data yet" in check(audit.audit(lab, run_id), "data").what
    with pytest.raises(LabError, match="there is no data yet"):
        audit.reproduce(lab, run_id)


def test_other_packages_and_other_hardware_are_no_damage(lab):
    run_id = rows(lab)[0]
    edit(lab.run(run_id) / "receipt.json", env_sha="0" * 64)
    commit(lab.root)
    found = audit.audit(lab, run_id)
    assert check(found, "environment").ok is None and "cannot be scored again here as it was" in check(found, "environment").what
    assert check(found, "score").ok  # it was all the same
    edit(lab.run(run_id) / "receipt.json", metrics={"score": 0.5, "params": 1}, value=0.5)
    found = audit.audit(lab, run_id)
    assert check(found, "score").ok is None and "which may be why" in check(found, "score").what
    edit(lab.run(run_id) / "receipt.json", hardware="NVIDIA H200 140 GiB, driver 580.1", metrics={"score": 1.0, "params": 1}, value=1.0)
    found = audit.audit(lab, run_id)
    assert check(found, "hardware").ok is None and "LAB_DEVICE=cuda lab audit" in check(found, "score").what
    with pytest.raises(LabError, match="was measured on NVIDIA H200"):
        audit.reproduce(lab, run_id)


def test_a_swapped_a_new_and_a_missing_checkpoint_file(lab):
    swapped, other, gone = (lab.run(run_id) / "checkpoint" for run_id in rows(lab))
    (swapped / "value.txt").write_text("1.0")
    later = (swapped / "value.txt").stat().st_mtime + 60
    os.utime(swapped / "value.txt", (later, later))
    (other / "progress.json").write_text("{}")  # is no part of it
    shutil.rmtree(gone)
    found = audit.audit(lab, swapped.parent.name)
    assert first_wrong(found).startswith(f"checkpoint: 6_runs/{swapped.parent.name}/checkpoint hashes to ")
    assert first_wrong(found).endswith("written after the run had finished: value.txt") and check(found, "score").ok is None
    assert check(audit.audit(lab, other.parent.name), "score").ok
    found = audit.audit(lab, gone.parent.name)
    assert check(found, "checkpoint").ok is None and "was removed, as may be done to save disk" in check(found, "checkpoint").what
    assert {one.name for one in found if one.ok is False} == set()
    (other / "extra.bin").write_text("x")
    assert "extra.bin" in first_wrong(audit.audit(lab, other.parent.name))


def test_a_failed_run_is_audited_but_for_its_number(lab):
    tree = add_idea(lab, "bad")
    (tree / "train.py").write_text("raise RuntimeError\n" + (tree / "train.py").read_text())
    call(tree, "eval", check=False)
    run_id = rows(lab)[-1]
    assert outcome(audit.audit(lab, run_id)) == dict.fromkeys(CHECKS, True) | {"committed": None}
    with pytest.raises(LabError, match="no number to reproduce: crash"):
        audit.reproduce(lab, run_id)


# -- a whole lab --------------------------------------------------------------------------------------------------


def test_the_whole_lab_checks_every_run_and_scores_a_sample(lab):
    whole = audit.audit_all(lab, sample=1, seed=3)
    assert len(whole.runs) == 3 and len(whole.sampled) == 1 and whole.wrong == 0 and whole.records == ()
    assert [run_id for run_id, found in whole.runs.items() if "score" in outcome(found)] == list(whole.sampled)
    assert audit.audit_all(lab, sample=1, seed=3).sampled == whole.sampled
    assert {audit.audit_all(lab, sample=1, seed=number).sampled for number in range(8)} > {whole.sampled}
    shown = audit.text_of_all(whole)
    assert shown.endswith("3 of 3 runs without a difference; 1 of a sample of 1 (seed 3) scored again")
    run_id = rows(lab)[2]
    (lab.run(run_id) / "checkpoint" / "value.txt").write_text("1.0")
    whole = audit.audit_all(lab)
    assert set(whole.sampled) == set(rows(lab)) and whole.wrong == 1
    assert "2 of 3 runs without a difference" in audit.text_of_all(whole) and "FAIL checkpoint" in audit.text_of_all(whole)
    last = json.loads((lab.runs / "audits.jsonl").read_text().splitlines()[-1])
    assert (last["run"], last["numbers"]["wrong"], last["numbers"]["sample"]) == (None, 1, 3)


def test_traces_of_runs_that_were_removed_whole(lab):
    seeds(lab.root, 3)
    *_, committed, last = rows(lab)
    lines = lab.results.read_text().splitlines()
    lab.results.write_text("\n".join(lines[:3]) + "\n" + lines[0])
    for run_id in (committed, last):
        shutil.rmtree(lab.run(run_id))
    whole = audit.audit_all(lab, sample=0)
    assert whole.records[0].startswith(f"6_runs/{committed}/receipt.json was committed")
    assert whole.records[1].startswith(f"refs/lab/runs/{last} pins the code of a run whose folder")
    assert whole.records[2] == "results.tsv line 4: the file ends in the middle of it"


# -- training again -----------------------------------------------------------------------------------------------


def test_training_again_gives_the_same_to_the_digit_and_leaves_no_run_behind(lab, monkeypatch):
    seeds(add_idea(lab, "quiet"), 2)
    run_id = rows(lab)[-1]
    before, folders = lab.results.read_bytes(), sorted(lab.runs.glob("*/"))
    change(lab.worktree("quiet"), "offset: float = 0.0", "offset: float = 9.0")  # the snapshot is trained, not the worktree
    held = []
    lock = device.lock
    monkeypatch.setattr(device, "lock", lambda machine, waiting, **about: held.append(about["run"]) or lock(machine, waiting, **about))
    found = audit.reproduce(lab, run_id)
    assert (found.ok, found.value, found.again, found.difference, found.same_checkpoint) == (True, pytest.approx(1.002), found.value, 0.0, True)
    assert found.what.startswith("identical to the digit") and found.floor == pytest.approx(0.001) and held == [f"reproduction of {run_id}"]
    assert lab.results.read_bytes() == before and sorted(lab.runs.glob("*/")) == folders
    record = json.loads((lab.runs / "audits.jsonl").read_text())
    assert (record["run"], record["kind"], record["numbers"]["difference"]) == (run_id, "reproduce", 0.0)


def noisy(lab: Lab, slug: str, size: float) -> Reproduction:
    """Reproduce a run whose train.py adds noise of its own, uniform from 0 to `size`."""
    tree = add_idea(lab, slug)
    change(tree, "+ config.offset +", f"+ {size} * int.from_bytes(__import__('os').urandom(6)) / 2**48 +")
    seeds(tree, 0)
    return audit.reproduce(lab, rows(lab)[-1])


def test_noise_of_its_own_is_judged_by_the_noise_floor(lab):
    within = noisy(lab, "murmur", 0.002)  # the floor is 0.001
    assert within.ok and within.what.startswith("within the noise floor") and "at most 2 x 0.001" in within.what
    assert 0 < abs(within.difference) < 0.002 and within.same_checkpoint is False
    outside = noisy(lab, "roar", 1e6)
    assert outside.ok is False and outside.what.startswith("not reproduced: score ") and "more than 2 x 0.001" in outside.what


def test_without_a_noise_floor_it_says_so(lab):
    call(lab.root, "eval", "--stage", "verify")
    tree = add_idea(lab, "early")
    (tree / "train.py").write_text((tree / "train.py").read_text().replace("+ config.offset", "+ __import__('random').SystemRandom().random()"))
    call(tree, "eval", "--stage", "verify")
    found = audit.reproduce(lab, rows(lab)[-1])
    assert found.ok is None and "the baseline has 1 of 3 seeds at stage verify" in found.what and found.floor is None


def test_a_program_that_does_not_train_any_more_is_not_reproduced(lab):
    tree = add_idea(lab, "fragile")
    text = (tree / "train.py").read_text()
    (tree / "train.py").write_text("import os\nif '6_runs' not in os.getcwd():\n    raise FileNotFoundError('not here')\n" + text)
    seeds(tree, 0)
    found = audit.reproduce(lab, rows(lab)[-1])
    assert (found.ok, found.again, found.difference) == (False, None, None)
    assert "train.py ended with crash, exit code 1: FileNotFoundError" in found.what

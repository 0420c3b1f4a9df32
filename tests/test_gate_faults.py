"""The keep gate where things go wrong in between: no question stays open for ever, no seed is picked, no two codes are taken for one."""

import dataclasses
import os
import subprocess

import pytest
from test_gate import NOISY, judged, offset
from test_lab import add_idea, call, change

from monolab import backlog, controls, receipts, results, verdicts
from monolab.paths import Lab


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    call(lab.root, "baseline")
    return lab


@pytest.fixture
def bare(lab_repo) -> Lab:
    """Without a daemon: every run is one of the test's own."""
    lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    return lab


@pytest.fixture
def done(wait_until):
    def wait(lab: Lab) -> list[results.Row]:
        wait_until(lambda: not backlog.unfinished(lab))
        return results.load(lab)

    return wait


def seeds(where, *which: int) -> None:
    for seed in which:
        call(where, "eval", "--seed", str(seed))


def commit(lab: Lab) -> None:
    subprocess.run(["git", "commit", "-qam", "Change main"], cwd=lab.root, check=True, env=os.environ | {"META_MODE": "1"})


def score_twice_as_hard(lab: Lab) -> None:
    change_scorer = (lab.root / "eval.py").read_text().replace("abs(value - target)", "2 * abs(value - target)")
    (lab.root / "eval.py").write_text(change_scorer)
    commit(lab)


def test_a_control_never_compares_two_versions_of_main(lab, done):
    done(lab)
    change(lab.root, "offset: float = 0.0", "offset: float = -0.3")
    commit(lab)
    refused = call(lab.root, "controls", check=False)
    assert refused.returncode == 1 and "main's code changed" in refused.stderr and "just baseline" in refused.stderr


def test_a_control_after_a_new_scorer_measures_the_baseline_again(lab, done):
    done(lab)
    score_twice_as_hard(lab)
    call(lab.root, "controls")
    done(lab)
    assert [one.gate.decision != "more" for one in judged(lab, "control-null")] and controls.record(lab, "explore")


def test_what_main_gained_is_not_what_an_idea_removed(bare):
    tree = add_idea(bare, "same")
    change(tree, "    out = Path(config.out)\n", "    out = Path(config.out)  # the same\n")
    change(bare.root, "    out = Path(config.out)\n", "    first = 1\n    second = 2\n    out = Path(config.out)\n")
    commit(bare)
    seeds(bare.root, 0, 1, 2)
    seeds(tree, 0, 1, 2)
    last = judged(bare, "same")[-1]
    assert last.lines == (1, 3) and not last.kept and "changed since this idea forked" in last.confounds[-1]


def test_a_seed_cannot_be_rolled_again(bare):
    wobbly = "    import time\n\n    value += 0.02 * ((time.time_ns() // 1000) % 1000 / 1000 - 0.5)\n    out = Path(config.out)\n"
    (bare.root / "train.py").write_text(NOISY.replace("    out = Path(config.out)\n", wobbly))
    commit(bare)
    seeds(bare.root, 0, 1, 2)
    offset(bare, "same", -0.0002)
    seeds(bare.worktree("same"), 0, 1, 2)
    before = judged(bare, "same")[-1]
    seeds(bare.worktree("same"), 1, 2, 1)
    after = judged(bare, "same")[-1]
    assert (after.effect, after.gate.decision) == (before.effect, before.gate.decision) and len(after.runs) > len(before.runs)


LUCKY = ("config.offset + 0.01 * math.sin", "config.offset - 0.3 + 0 * math.sin")  # whichever seed it is given


def test_seeds_that_a_candidate_ignores_are_one_measurement(bare):
    seeds(bare.root, 0, 1, 2)
    change(add_idea(bare, "lucky"), *LUCKY)
    seeds(bare.worktree("lucky"), 0, 1, 2)
    rows = [row for row in results.load(bare) if row.idea == "lucky"]
    assert ["repeats-seed:0" in row.flags for row in rows] == [False, True, True]
    looks = judged(bare, "lucky")
    assert [one.gate.decision for one in looks] == ["more", "drop", "drop"] and not looks[-1].gate.wants  # it is no question any more
    assert "ignores its --seed: seeds 1, 2 gave what seed 0 gave, to the last digit" in looks[-1].gate.why and results.audit(bare) == []


def test_a_candidate_that_uses_some_of_its_seeds_has_as_many_measurements_as_results(bare):
    """Seeds 2 and 3 repeat seed 1, whose value is a lucky one: they add nothing to it, and are named."""
    seeds(bare.root, 0, 1, 2, 3, 4)
    change(
        add_idea(bare, "some"),
        "    config = Config(",
        "    given['seed'] = str(min(int(given['seed']), 1) or int(given['seed']))\n    config = Config(",
    )
    change(bare.worktree("some"), "config.offset + 0.01 * math.sin", "config.offset - 0.3 + 0.01 * math.sin")
    seeds(bare.worktree("some"), 0, 1, 2, 3)
    rows = [row for row in results.load(bare) if row.idea == "some"]
    assert ["repeats-seed:1" in row.flags for row in rows] == [False, False, True, True]
    last = judged(bare, "some")[-1]
    assert last.gate.decision == "drop" and last.seeds == (1,) and "seeds 2, 3 gave what seed 1 gave" in last.gate.why
    assert last.gate.why in last.confounds


def test_the_same_share_by_chance_is_no_repetition_and_the_same_number_is(bare):
    seeds(bare.root, 0)
    one = receipts.receipt(bare, results.load(bare)[0].run_id)

    def like(value: float, checkpoint: str) -> receipts.Receipt:
        return dataclasses.replace(one, value=value, checkpoint_sha=checkpoint)

    assert verdicts.identical(like(0.5, "a"), like(0.5, "a"))
    assert not verdicts.identical(like(552 / 580, "a"), like(552 / 580, "b")) and not verdicts.identical(like(0.0, "a"), like(0.0, "b"))
    assert not verdicts.identical(like(61_234 / 70_000, "a"), like(61_234 / 70_000, "b"))
    assert verdicts.identical(like(2.2725343117, "a"), like(2.2725343117, "b"))
    assert not verdicts.identical(like(2.2725343117, "a"), like(2.2725343118, "b"))


def test_a_seed_that_was_seen_before_the_others_were_asked_for_is_no_evidence(bare):
    offset(bare, "early", -0.2)
    seeds(bare.worktree("early"), 0)
    subprocess.run(["sleep", "1.1"], check=True)  # receipts know whole seconds
    seeds(bare.worktree("early"), 1, 2)
    seeds(bare.root, 0, 1, 2)
    last = judged(bare, "early")[-1]
    assert (last.gate.screen, last.gate.seeds) == (0, (1, 2))


def test_a_seed_at_which_the_reference_crashes_is_passed_by(lab_repo, pueue_daemon, done):
    fragile = "    if config.seed == 4 and config.offset == 0:\n        sys.exit(1)\n    out = Path(config.out)\n"
    lab = lab_repo(**{"train.py": NOISY.replace("    out = Path(config.out)\n", fragile)})
    call(lab.root, "data")
    call(lab.root, "baseline")
    done(lab)
    offset(lab, "shift", -0.2)
    call(lab.root, "eval", "shift", "--seed", "4")
    done(lab)
    assert judged(lab, "shift")[-1].gate.decision == "drop" and "failed" in judged(lab, "shift")[-1].gate.why
    call(lab.root, "eval", "shift", "--seed", "5")
    rows = done(lab)
    assert judged(lab, "shift")[-1].gate.decision == "keep"
    assert sum(row.idea == "baseline" and row.seed == 4 for row in rows) == 1


def test_a_question_is_taken_up_again_when_a_daemon_is_there(lab_repo, pueue_home, done):
    lab = lab_repo(**{"train.py": NOISY})
    call(lab.root, "data")
    seeds(lab.root, 0, 1, 2)
    offset(lab, "shift", -0.2)
    seeds(lab.worktree("shift"), 0)
    assert judged(lab, "shift")[-1].gate.decision == "more"
    call(lab.root, "baseline", "--seeds", "1")  # starts the daemon, and settles at its end
    done(lab)
    assert judged(lab, "shift")[-1].gate.decision == "keep"


def test_a_scorer_that_changes_while_seeds_wait_leaves_nothing_open(lab, done, wait_until):
    done(lab)
    offset(lab, "shift", -0.2)
    subprocess.run(["pueue", "pause", "--group", "lab-cpu"], check=True, capture_output=True)
    wait_until(lambda: '"Paused"' in subprocess.run(["pueue", "group", "--json"], capture_output=True, text=True).stdout)
    seeds(lab.worktree("shift"), 0)
    score_twice_as_hard(lab)
    subprocess.run(["pueue", "start", "--group", "lab-cpu"], check=True, capture_output=True)
    rows = done(lab)
    assert len({row.eval_sha for row in rows if row.idea == "baseline"}) == 2
    last = judged(lab, "shift")[-1]
    assert last.final and last.effect == pytest.approx(-0.4, abs=0.06)


def test_a_stack_of_three_survives_a_new_scorer(lab, done):
    done(lab)
    for slug, value, parent, before in (("aa", -0.003, "baseline", 0.0), ("bb", -0.006, "aa", -0.003)):
        offset(lab, slug, value, parent=parent, before=before)
        seeds(lab.worktree(slug), 0)
    done(lab)
    score_twice_as_hard(lab)
    offset(lab, "cc", -0.2, parent="bb", before=-0.006)
    call(lab.root, "queue", "cc", "Q: a? H: expect -0.4 score, 50%")
    done(lab)
    last = judged(lab, "cc")[-1]
    assert (last.gate.decision, last.gate.anchor, last.gate.through) == ("keep", "baseline", ("aa", "bb"))


def test_a_refused_replicate_does_not_loop_and_does_not_hide_the_others(lab, done, wait_until):
    done(lab)
    offset(lab, "shift", -0.2)
    subprocess.run(["pueue", "pause", "--group", "lab-cpu"], check=True, capture_output=True)
    wait_until(lambda: '"Paused"' in subprocess.run(["pueue", "group", "--json"], capture_output=True, text=True).stdout)
    seeds(lab.worktree("shift"), 0)
    (lab.root / "eval.py").write_text((lab.root / "eval.py").read_text() + "\n# not committed\n")
    subprocess.run(["pueue", "start", "--group", "lab-cpu"], check=True, capture_output=True)
    done(lab)
    assert len(list(lab.runs.glob("*-shift-s*/refused.json"))) == 2
    subprocess.run(["git", "checkout", "-q", "eval.py"], cwd=lab.root, check=True)
    call(lab.root, "replicate", "shift")
    done(lab)
    assert judged(lab, "shift")[-1].gate.decision == "keep"


def test_an_older_record_is_an_error_that_says_what_to_do(bare):
    bare.runs.mkdir(exist_ok=True)
    (bare.runs / "verdicts.jsonl").write_text('{"idea": "old"}\n')
    with pytest.raises(verdicts.LabError, match="line 1 is damaged") as error:
        verdicts.records(bare)
    assert "an older monolab wrote it" in error.value.hint


def test_what_was_kept_at_one_stage_is_no_anchor_at_another(bare):
    seeds(bare.root, 0, 1, 2)
    offset(bare, "first", -0.2)
    seeds(bare.worktree("first"), 0, 1, 2)
    assert judged(bare, "first")[-1].kept
    offset(bare, "second", -0.4, parent="first", before=-0.2)
    for where in (bare.root, bare.worktree("second")):
        for seed in ("0", "1", "2"):
            call(where, "eval", "--stage", "verify", "--seed", seed)
    last = judged(bare, "second")[-1]
    assert (last.stage, last.gate.anchor, last.gate.through, last.gate.decision) == ("verify", "baseline", ("first",), "keep")

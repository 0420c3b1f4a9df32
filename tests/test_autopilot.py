"""A night in miniature: real worktrees, the real daemon, and an agent without a model that can be told to misbehave."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROGRAM, REPOSITORY, TRAIN, commit
from test_lab import LAB, call

from monolab import agenda, autopilot, backlog, doctor, ideas, journal, meter, results, roles, rubric, snapshot, status, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Budget

AGENT = REPOSITORY / "tests" / "pilot.py"
NIGHT = """autopilot:
  agent: "{agent}"
  wait_seconds: 0.1
  step_minutes: 0.15
  budget: {{hours: 1, experiments: {experiments}}}
"""
NOISE = TRAIN.replace("0.001 * (config.seed % 7)", "0.004 * __import__('random').Random(config.seed).gauss(0, 1)")


@pytest.fixture
def night(lab_repo, pueue_daemon, tmp_path, monkeypatch):
    """`night(experiments=1, bad={"ROLE N": HOW}, **files)`: a lab with a baseline, an agent, and what that is to do wrong."""

    def make(experiments: int = 1, bad: dict | None = None, think: float = 0.0, larger: bool = True, **files: str) -> Lab:
        folder = tmp_path / "agent"
        folder.mkdir()
        (folder / "bad.json").write_text(json.dumps(bad or {}))
        (folder / "think").write_text(str(think))
        about = NIGHT.format(agent=f"{sys.executable} {AGENT} {folder}", experiments=experiments)
        program = PROGRAM if larger else re.sub(r"  verify: .*\n", "", PROGRAM)
        files = {"program.md": program.replace("memory_gb: 1\n", f"memory_gb: 1\n{about}"), "train.py": NOISE} | files
        lab = lab_repo(**files)
        for path in lab.ideas.glob("*.md"):
            path.unlink()
        shutil.copytree(REPOSITORY / ".claude", lab.root / ".claude")
        commit(lab.root)
        call(lab.root, "data")
        monkeypatch.setenv("LAB_ROOT", str(lab.root))
        return lab

    return make


def calls(tmp_path: Path) -> dict[str, int]:
    return json.loads((tmp_path / "agent" / "calls.json").read_text())


def steps(lab: Lab, kind: str) -> list[dict]:
    return [line for line in meter.lines(lab) if line["what"] == "step" and line["kind"] == kind]


def test_from_nothing_to_verdicts_reports_and_a_pull_request(night, tmp_path, wait_until):
    lab = night(experiments=2)
    told = call(lab.root, "autopilot").stdout
    assert "2 of 2 experiments are used" in told
    rows = results.load(lab)
    assert {row.idea for row in rows} == {"baseline", "centre-0", "median-1"} and {row.status for row in rows} == {"ok"}
    assert not backlog.unfinished(lab) and results.audit(lab) == []
    found = {one.idea: one for one in verdicts.by_arm(verdicts.records(lab))}
    assert found["centre-0"].verdict == "supported" and found["centre-0"].kept and not found["median-1"].kept
    text = lab.journal.read_text()
    assert "Inference (60%, by autopilot's analyst): The data may have had that fault" in text and "_Inference: left" not in text
    assert "by autopilot's analyst" in next(lab.reports.glob("*_centre-0.md")).read_text()
    assert "It may do nothing." in ideas.load(lab, "centre-0").path.read_text()
    (submitted,) = steps(lab, "submit")
    assert (submitted["status"], submitted["slug"]) == ("done", "centre-0") and (lab.reports / "centre-0_pr.md").exists()

    used = meter.summary(lab, results.view(lab))
    assert used["experiments"] == 2 and used["gains"] == 1 and used["over"]
    assert used["calls"] == sum(calls(tmp_path).values()) and used["tokens"] == 1100 * used["calls"]
    assert used["dollars"] == pytest.approx(0.01 * used["calls"])
    screen = status.text(status.facts(lab))
    assert "night    ended, " in screen and "1 validated gain(s), each " in screen
    assert (
        subprocess.run(["git", "status", "--porcelain", "1_ideas", "RESEARCH_JOURNAL.md"], cwd=lab.root, capture_output=True, text=True).stdout == ""
    )


@pytest.fixture
def measured(night):
    """The same with one run of the baseline, no daemon asked for more, and `take(lab, n, **settings)`: n steps in this process."""

    def make(**given) -> Lab:
        lab = night(**given)
        call(lab.root, "eval", "baseline")
        return lab

    return make


def take(lab: Lab, most: int = 1, **more) -> list[dict]:
    """The records of the next steps."""
    before = len(meter.lines(lab))
    autopilot.fly(lab, replace(problems.load(lab).autopilot, **more), most=most)
    return [line for line in meter.lines(lab)[before:] if line["what"] == "step"]


def prompts(lab: Lab, role: str) -> list[str]:
    files = sorted((lab.runs / ".agent" / "steps").glob(f"*-{role}-*.prompt"), key=lambda path: path.stat().st_mtime_ns)
    return [path.read_text() for path in files]


def asked_for(lab: Lab) -> list[str]:
    return [json.loads(path.read_text())["text"] for path in (lab.runs / ".alerts").glob("asked-*.json")]


def test_an_answer_that_cannot_be_used_is_repaired_once_and_then_recorded_as_failed(measured, tmp_path):
    lab = measured(bad={"researcher 1": "rubbish", "researcher 3": "rubbish", "researcher 4": "early"})
    (done,) = take(lab)
    assert (done["status"], done["calls"]) == ("done", 2) and "centre-0" not in ideas.slugs(lab) and "median-1" in ideas.slugs(lab)
    first, second = prompts(lab, "researcher")
    assert second.startswith(first) and "no JSON object in it" in second and "I am certain that it will work" in second
    (lab.ideas / done["made"]).unlink()  # so that it is asked again
    (failed,) = take(lab)
    assert (failed["status"], failed["calls"]) == ("failed", 2) and "without a message" in failed["why"]
    (done,) = take(lab)
    assert done["status"] == "done" and not (lab.runs / ".agent" / "step.json").exists()


def test_an_idea_that_was_there_before_in_other_words_is_refused_with_its_name(measured):
    lab = measured(bad={"researcher 2": "repeats", "researcher 3": "repeats"})
    take(lab)
    for name in ("critic", "judge"):  # straight to the next idea
        assert take(lab)[0]["role"] == name
    (tree,) = take(lab)
    assert tree["kind"] == "implement"
    pilot = autopilot.Pilot(lab, problems.load(lab).autopilot, "2026-11-21T00:00:00Z", print)
    with pytest.raises(Exception, match="it is centre-0 in other words"):
        pilot.ideate("")
    assert list(ideas.slugs(lab)) == ["centre-0"]


def test_what_an_agent_did_to_frozen_files_is_undone_and_it_hears_why(measured):
    lab = measured(bad={"engineer 1": "frozen"})
    frozen = (lab.root / "eval.py").read_text()
    steps = take(lab, 4)
    assert [one["kind"] for one in steps] == ["ideate", "critique", "rate", "implement"] and steps[-1]["status"] == "done" and steps[-1]["calls"] == 2
    assert (lab.root / "eval.py").read_text() == frozen == (lab.worktree("centre-0") / "eval.py").read_text()
    assert "root/eval.py, eval.py: not yours to change, and put back as it was" in prompts(lab, "engineer")[1]
    assert "+ config.offset + (-0.2)" in (lab.worktree("centre-0") / "train.py").read_text()


def test_an_agent_that_unlocks_the_lab_for_itself_ends_the_night(measured):
    lab = measured(bad={"researcher 1": "unlock"})
    with pytest.raises(LabError, match="meta-mode was switched on: it happened while an agent was at work"):
        take(lab)
    assert any("meta-mode" in text for text in asked_for(lab)) and not ideas.slugs(lab)
    with pytest.raises(LabError, match="meta-mode is on"):
        take(lab)
    (lab.root / "human_journal.md").write_text("# Human journal\n")
    interrupted, done = take(lab)
    assert (interrupted["status"], done["status"], done["kind"]) == ("interrupted", "done", "ideate")


def test_one_that_hangs_is_ended_and_one_that_is_overloaded_is_waited_for(measured):
    lab = measured(bad={"researcher 1": "hang", **{f"researcher {number}": "overloaded" for number in range(2, 6)}})
    (hung,) = take(lab, step_minutes=0.02)
    assert hung["status"] == "failed" and "took too long: still running after" in hung["why"]
    assert [one["status"] for one in take(lab, 4, failures=2)] == ["failed"] * 4  # waiting may mend it: nobody is called
    assert not asked_for(lab)
    assert take(lab)[0]["status"] == "done"


def test_too_many_failures_in_a_row_call_for_a_human(measured):
    lab = measured(bad={f"researcher {number}": "crash" for number in range(1, 9)})
    with pytest.raises(LabError, match="3 steps in a row failed, the last, ideate , with: the researcher failed: Traceback: the agent is broken"):
        take(lab, 9, failures=3)
    (text,) = asked_for(lab)
    assert "3 steps in a row failed" in text


def test_code_that_fails_its_trial_goes_to_the_debugger_and_what_a_review_finds_too(measured):
    lab = measured(bad={"engineer 1": "broken", "critic 2": "findings", "debugger 1": "unbreak", "debugger 2": "retouch"})
    steps = take(lab, 11)
    kinds = [one["kind"] for one in steps]
    assert kinds == ["ideate", "critique", "rate", "implement", "smoke", "repair", "smoke", "review", "repair", "smoke", "review"]
    assert "undefined_name" in steps[4]["found"] and "undefined_name" in prompts(lab, "debugger")[0]
    assert steps[7]["findings"] and "the step is never applied" in prompts(lab, "debugger")[1]
    assert [one.next for one in agenda.threads(lab, 5.0)] == ["queue"]


def test_an_idea_that_cannot_be_built_is_given_up_and_journalled(measured):
    lab = measured(bad={f"engineer {number}": "rubbish" for number in range(1, 5)})
    assert [one["status"] for one in take(lab, 5)] == ["done"] * 3 + ["failed"] * 2
    assert "centre-0: not built, implement failed 2 times" in journal.entries(lab)[0]
    assert agenda.threads(lab, 5.0) == [] and take(lab)[0]["kind"] == "ideate"


@pytest.mark.parametrize(
    ("text", "made_up"),
    [
        ("It gained 0.98765.", "0.98765"),
        ("It gained .2039", "0.2039"),
        ("It explains 98 % of it.", "98"),
        ("About 1e-3 is left.", "0.001"),
        ("12345 of them.", "12345"),
        ("It gained 0.2038, twice what was foreseen (60 %), over three seeds and 2 runs (20261121T202445-x-s0-8feb).", ""),
        ("The interval [-0.2128, -0.1872] excludes it; see 2026-11-21.", ""),
    ],
)
def test_a_number_that_no_run_has_shown_is_refused_in_an_inference(lab_repo, text, made_up):
    lab = lab_repo()
    shutil.copytree(REPOSITORY / ".claude", lab.root / ".claude")
    task = roles.inference(lab, "x", "- Observed: -0.2038 score against baseline, 95 % interval [-0.2128, -0.1872], 3 paired seed(s)")
    if made_up:
        with pytest.raises(rubric.Unusable, match=f"{re.escape(made_up)} do"):
            task.check({"inference": text, "credence": 0.9})
    else:
        assert task.check({"inference": text, "credence": 1})["inference"] == text


def test_killed_while_an_agent_thinks_it_goes_on_at_the_same_step(measured, tmp_path, wait_until):
    lab = measured(think=30.0)
    first = subprocess.Popen([LAB, "autopilot"], cwd=lab.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "agent" / "pid").exists())
    agent = int((tmp_path / "agent" / "pid").read_text())
    assert meter.running(lab)
    refused = call(lab.root, "autopilot", check=False)
    assert refused.returncode == 1 and "another autopilot is at work" in refused.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not Path(f"/proc/{agent}").exists())  # the agent does not outlive it
    assert not meter.running(lab)
    (tmp_path / "agent" / "think").write_text("0")
    interrupted, done = take(lab)
    assert (interrupted["kind"], interrupted["status"]) == ("ideate", "interrupted") and (done["kind"], done["status"]) == ("ideate", "done")
    assert len({line["night"] for line in meter.lines(lab)}) == 1  # the same night, under the same budget


def test_ctrl_c_ends_the_agent_and_the_step_is_taken_again(measured, tmp_path, wait_until):
    lab = measured(think=30.0)
    first = subprocess.Popen([LAB, "autopilot"], cwd=lab.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: (tmp_path / "agent" / "pid").exists())
    first.send_signal(signal.SIGTERM)
    assert "goes on at the same step" in first.communicate(timeout=60)[0] and first.returncode == 130
    assert (lab.runs / ".agent" / "step.json").exists()


def test_a_budget_in_tokens_ends_the_night_and_one_that_cannot_be_metered_is_refused(measured, tmp_path):
    lab = measured()
    settings = problems.load(lab).autopilot
    why = autopilot.fly(lab, replace(settings, budget=Budget(hours=1, tokens=2000)))
    assert why == "2200 of 2000 tokens are used" and sum(calls(tmp_path).values()) == 2
    mute = tmp_path / "mute.py"
    mute.write_text(
        f"import subprocess, sys\nout = subprocess.run([sys.executable, {str(AGENT)!r}, {str(tmp_path / 'agent')!r}], stdin=sys.stdin, capture_output=True, text=True).stdout\n"
        "print(out.rpartition('{\"usage\"')[0])\n"
    )
    with pytest.raises(LabError, match="the budget limits dollars, and 1 of 1 calls told no a price"):
        autopilot.fly(lab, replace(settings, agent=f"{sys.executable} {mute}", budget=Budget(hours=1, dollars=5)))


def test_what_a_person_works_on_is_left_alone(measured):
    from test_lab import IDEA, add_idea, change

    lab = measured()
    change(add_idea(lab, "mine"), "offset: float = 0.0", "offset: float = -0.3")
    (thread,) = agenda.threads(lab, 5.0)
    assert thread.aside == "somebody else works in its worktree"
    (lab.ideas / "2026-11-21_theirs.md").write_text(IDEA.format(effect=-0.2, parent="baseline"))
    assert {one.slug: bool(one.aside) for one in agenda.threads(lab, 5.0)} == {"mine": True, "theirs": False}


def test_where_no_idea_waits_settings_fill_the_device_and_make_way_for_an_idea(night, tmp_path, wait_until):
    slow = NOISE.replace("def main() -> None:\n", "RANGES = {'offset': (-0.1, 0.1)}\n\n\ndef main() -> None:\n    __import__('time').sleep(1.5)\n")
    lab = night(experiments=1, think=1.0, larger=False, **{"train.py": slow})
    call(lab.root, "eval", "baseline")
    subprocess.run([LAB, "autopilot", "--filler"], cwd=lab.root, check=True, timeout=280)
    rows = results.load(lab)
    filler = [row for row in rows if "filler" in row.flags]
    assert filler and {row.idea for row in filler} == {"tune-baseline"}
    queued = next(line["time"] for line in meter.lines(lab) if line["what"] == "step" and line["kind"] == "queue")
    assert next(row for row in rows if row.time > queued and row.status == "ok").idea == "centre-0"  # before any setting
    own = [row.time for row in rows if row.idea == "centre-0"]
    # Its other seeds go before all settings but the run that got ready while its first one had the device (decision 016).
    assert len(own) == 3 and len([row for row in filler if own[0] < row.time < own[-1] and row.status == "ok"]) <= 1
    assert "## Settings that filled an idle device, best first" in call(lab.root, "next").stdout


def test_what_comes_next_is_shown_without_doing_it(measured):
    lab = measured()
    before = meter.lines(lab)
    assert call(lab.root, "autopilot", "--show").stdout.strip() == "1. ideate"
    assert meter.lines(lab) == before
    refused = call(lab.root, "autopilot", "--agent", "no-such-agent", "--steps", "1", check=False)
    assert refused.returncode == 1 and "no-such-agent" in refused.stderr


def test_a_session_is_asked_to_go_on_while_it_is_switched_on(measured):
    lab = measured()
    call(lab.root, "autopilot", "--session", "--until", "2099-01-01T00:00:00")
    asked = subprocess.run([LAB, "hook", "stop"], cwd=lab.root, input="{}", capture_output=True, text=True, check=True).stdout
    assert "Autopilot is on" in asked
    step = subprocess.run(
        [LAB, "hook", "stop"], cwd=lab.root, input="{}", capture_output=True, text=True, check=True, env=os.environ | {"LAB_STEP": "1"}
    )
    assert step.stdout == ""  # an agent that does one step is let go
    call(lab.root, "autopilot", "--off")
    assert subprocess.run([LAB, "hook", "stop"], cwd=lab.root, input="{}", capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.slow
def test_a_whole_night_with_everything_that_goes_wrong(night, tmp_path):
    bad = {
        "researcher 2": "rubbish",
        "researcher 4": "early",
        "engineer 2": "frozen",
        "engineer 4": "broken",
        "debugger 1": "unbreak",
        "critic 6": "rubbish",
        "judge 3": "hang",
        "analyst 2": "invents",
        "engineer 7": "crash",
    }
    lab = night(experiments=10, bad=bad)
    done = subprocess.run([LAB, "autopilot"], cwd=lab.root, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = results.load(lab)
    assert len({row.idea for row in rows} - {"baseline"}) == 10 and not backlog.unfinished(lab) and results.audit(lab) == []
    assert doctor.examine(lab) == []
    assert sum(line["status"] == "failed" for line in meter.lines(lab) if line["what"] == "step") >= 1
    for one in verdicts.by_arm(verdicts.records(lab)):
        if one.kept:  # the good ones only, by what their code does: a debugger may have mended it to another gain
            code = (lab.worktree(one.idea) / "train.py").read_text()
            assert float(re.search(r"config\.offset \+ \((-?[\d.]+)\)", code)[1]) < 0, one.idea


def test_what_a_thinking_role_writes_into_the_root_is_undone_and_an_edited_record_ends_the_night(measured, tmp_path):
    lab = measured(bad={"researcher 1": "rewrites", "researcher 3": "forges"})
    source = (lab.root / "train.py").read_text()
    (done,) = take(lab)
    assert done["calls"] == 2 and (lab.root / "train.py").read_text() == source and "root/train.py: not yours" in prompts(lab, "researcher")[1]
    assert "config.offset - 1" in next((lab.runs / ".agent" / "put-back").glob("*/train.py")).read_text()
    (lab.ideas / done["made"]).unlink()
    with pytest.raises(LabError, match="results.tsv: line 2 was edited or removed"):
        take(lab)


def test_what_happens_to_main_or_to_the_record_while_an_agent_works_ends_the_night(measured):
    lab = measured(bad={"researcher 1": "commits", "researcher 2": "empties"})
    for what in ("main has other code now", "autopilot.jsonl: line 1 was edited or removed"):
        with pytest.raises(LabError, match=what):
            take(lab)


def test_an_outage_burns_no_idea_and_a_stale_finding_is_not_repaired_twice(measured):
    lab = measured(bad={"engineer 1": "overloaded", "engineer 2": "overloaded", "critic 2": "findings", "debugger 1": "break", "debugger 2": "mend"})
    steps = take(lab, 12)
    assert [(one["kind"], one["status"]) for one in steps[3:6]] == [("implement", "failed"), ("implement", "failed"), ("implement", "done")]
    assert [one["kind"] for one in steps[6:]] == ["smoke", "review", "repair", "smoke", "repair", "smoke"]
    first, second = prompts(lab, "debugger")
    assert "the step is never applied" in first and "the step is never applied" not in second and "undefined_name" in second


def test_edits_that_lead_out_of_the_worktree_are_refused(measured):
    lab = measured()
    take(lab, 3)
    pilot = autopilot.Pilot(lab, problems.load(lab).autopilot, "2026-11-21T00:00:00Z", print)
    tree = pilot._tree("centre-0")
    for path, why in (
        (".git", "no file in a folder"),
        ("../../train.py", "is not a file of the worktree"),
        ("train.py/x", "no file in a folder"),
        ("eval.py", "is FROZEN"),
        ("results.tsv", "is GLOBAL"),
        ("x" * 300, "cannot be written"),
    ):
        assert why in pilot._apply(tree, [{"path": path, "old": "", "new": "x"}]), path
    edits = [{"path": "train.py", "old": "+ config.offset", "new": "+ 1"}, {"path": "train.py", "old": "no such text", "new": ""}]
    assert "stands 0 times" in pilot._apply(tree, edits) and snapshot.take(tree).clean  # all or none


def test_a_baseline_without_a_value_is_named_and_nothing_spins(night):
    lab = night(**{"train.py": "import sys\nsys.exit(3)\n"})
    call(lab.root, "eval", "baseline", check=False)
    with pytest.raises(LabError, match="the baseline has no value: crash"):
        take(lab)

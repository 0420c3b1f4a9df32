"""From a supported verdict to a pull request: real worktrees, a real remote, a `gh` that writes down what it is told."""

import functools
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import commit, git
from test_lab import add_idea, call, change, settle_down

from monolab import analysis, guard, queue, receipts, snapshot, submit, verdicts
from monolab.errors import LabError
from monolab.paths import INFERENCE_EMPTY, Lab

GH = """#!{python}
import json, os, sys
from pathlib import Path
args, folder = sys.argv[1:], Path({folder!r})
with (folder / "calls").open("a") as file:
    file.write(json.dumps(args) + "\\n")
request = folder / "pull-request.json"
if args[:2] == ["pr", "view"]:
    if not request.exists():
        sys.exit(f'no pull requests found for branch "{{args[2]}}"')
    print(request.read_text())
else:
    if (folder / "broken").exists():
        sys.exit("HTTP 502")
    body = Path(args[args.index("--body-file") + 1]).read_text()
    request.write_text(json.dumps({{"state": "OPEN", "url": "https://example.invalid/pull/7", "body": body.replace("\\n", "\\r\\n")}}))
    print("https://example.invalid/pull/7")
"""


@pytest.fixture
def gh(tmp_path, monkeypatch) -> Path:
    """A `gh` on PATH: `calls` has what it was told, `pull-request.json` is the one that it knows, with a file `broken` it fails."""
    folder = tmp_path / "gh"
    folder.mkdir()
    (folder / "gh").write_text(GH.format(python=sys.executable, folder=str(folder)))
    (folder / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def no_gh(monkeypatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join(one for one in os.environ["PATH"].split(os.pathsep) if not Path(one, "gh").exists()))


def calls(gh: Path) -> list[list[str]]:
    return [json.loads(line) for line in (gh / "calls").read_text().splitlines()] if (gh / "calls").exists() else []


@pytest.fixture
def once(monkeypatch) -> None:
    """Every run is audited once only, in a test that submits several times: to score it again takes longer than all else."""
    monkeypatch.setattr(submit.audit, "audit", functools.cache(submit.audit.audit))


def with_remote(lab: Lab, tmp_path: Path) -> Path:
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", str(remote)], check=True)
    git(lab.root, "remote", "add", "origin", str(remote))
    return remote


def submitted(lab: Lab, slug: str, **how) -> str:
    """What `lab submit` would print."""
    return submit.text(submit.submit(lab, slug, "explore", **how))


def measured(lab: Lab, slug: str, offset: float, seeds: int = 3, *, options: bool = False) -> Path:
    """An idea whose worktree has another offset, run by hand without a daemon; the worktree, not committed."""
    tree = add_idea(lab, slug)
    if not options:
        change(tree, "offset: float = 0.0", f"offset: float = {offset}")
    for seed in range(seeds):
        args = ["--offset", str(offset)] if options else []
        queue.evaluate(lab, slug, "Q: does an offset help? H: expect -0.5 score, 80%", "explore", seed, args)
    return tree


@pytest.fixture
def lab(lab_repo) -> Lab:
    """With a baseline of three seeds, and no daemon."""
    lab = lab_repo()
    call(lab.root, "data")
    for seed in range(3):
        queue.evaluate(lab, "baseline", None, "explore", seed, [])
    return lab


def test_what_was_queued_supported_and_kept_becomes_a_pull_request(lab_repo, pueue_daemon, tmp_path, gh, once, wait_until):
    lab = lab_repo()
    guard.install_hook(lab)
    remote = with_remote(lab, tmp_path)
    call(lab.root, "data")
    call(lab.root, "baseline")
    tree = add_idea(lab, "shift")
    change(tree, "offset: float = 0.0", "offset: float = -0.5")
    (tree / "extra.py").write_text("x = 1\n")
    call(tree, "queue", "shift", "Q: does an offset help? H: expect -0.5 score, 80%")
    settle_down(lab, 6, wait_until)
    (verdict,) = [one for one in verdicts.by_arm(verdicts.records(lab)) if one.idea == "shift"]
    (tree / "README.md").write_text("no code, and not measured\n")

    done = asdict(submit.submit(lab, "shift", "explore"))
    assert (done["branch"], done["committed"], done["remote"], done["state"]) == ("exp/shift", True, "origin", "opened")
    assert done["url"] == "https://example.invalid/pull/7" and done["title"] == "exp(shift): Subtracting lowers the score"
    assert git(remote, "log", "-1", "--format=%s", "exp/shift") == done["title"] == git(tree, "log", "-1", "--format=%s")
    assert git(remote, "rev-parse", "exp/shift") == done["commit"]
    assert sorted(git(remote, "diff", "--name-only", "exp/shift~", "exp/shift").split()) == ["extra.py", "train.py"]
    assert snapshot.take(tree).code_sha == verdict.code_sha and any("README.md" in note for note in done["notes"])
    assert any("not committed on main yet" in note for note in done["notes"])
    # The code of every run that the numbers come from is there to be fetched.
    refs = git(remote, "for-each-ref", "--format=%(refname)", "refs/lab/runs").split()
    assert {ref.removeprefix("refs/lab/runs/") for ref in refs} == {*verdict.runs, *verdict.against_runs}

    view, create = calls(gh)
    assert view[:3] == ["pr", "view", "exp/shift"]
    assert create[:8] == ["pr", "create", "--base", "main", "--head", "exp/shift", "--title", done["title"]]
    assert create[8:] == ["--body-file", str(lab.reports / "shift_pr.md")] == ["--body-file", done["text"]]
    assert (lab.reports / "shift.png").read_bytes().startswith(b"\x89PNG")
    text = Path(done["text"]).read_text()
    for words in (
        "**Question.** does an offset help?",
        "**Hypothesis.** Subtracting lowers the score.",
        f"**Predicted.** -0.5 score against baseline, credence 80%; written down {receipts.receipt(lab, verdict.runs[0]).queued}, before the run",
        f"**Observed.** {verdict.effect:+.4g} score against baseline, 95 % interval [{verdict.low:+.4g}, {verdict.high:+.4g}], 2 paired seed(s)",
        "**Verdict.** supported (explore)",
        "**Gate.** kept against baseline",
        "**Standing.** preregistered",
        "**Seeds.** 1, 2; seed 0 screened it and is no evidence",
        "**Cost against baseline.** +2 -1 lines of code, parameters x1.00",
        "**At scale.** not asked at verify yet (just promote shift)",
        "**Best.** yes: score 0.5015 over the seeds that count; shift on baseline",
        "> left for the author: nobody has written one",
        f"its code is the tree `{verdict.code_sha}`",
        "git fetch origin 'refs/lab/runs/*:refs/lab/runs/*'",
    ):
        assert words in text, words
    assert [line for line in text.splitlines() if line.startswith("./just reproduce ")] == [f"./just reproduce {run_id}" for run_id in verdict.runs]
    for run_id in (*verdict.runs, *verdict.against_runs):
        one = receipts.receipt(lab, run_id)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{run_id}`")]
        assert f"{one.value:.6g}" in row and one.eval_sha[:12] in row and one.data_sha[:12] in row and "checks agree" in row
    audits = [json.loads(line) for line in (lab.runs / "audits.jsonl").read_text().splitlines()]
    assert {one["run"] for one in audits} == {*verdict.runs, *verdict.against_runs}

    # Again: nothing to do, and then only the text, once there is more to say.
    again = submitted(lab, "shift")
    assert "a pull request is open, with this text: https://example.invalid/pull/7" in again and "committed now" not in again
    assert [args[1] for args in calls(gh)] == ["view", "create", "view"]
    lab.journal.write_text(lab.journal.read_text().replace(INFERENCE_EMPTY, "Inference: the mean moved (90 %).\n\nNo more than that."))
    analysis.write(lab, analysis.analyse(lab, "shift", "explore", "params"))
    assert "brought up to date" in submitted(lab, "shift")
    assert calls(gh)[-1] == ["pr", "edit", "https://example.invalid/pull/7", "--body-file", str(lab.reports / "shift_pr.md")]
    text = (lab.reports / "shift_pr.md").read_text()
    assert "Thought, not measured.\n\n> Inference: the mean moved (90 %).\n>\n> No more than that.\n\n## Beyond the prediction" in text
    assert "- EXPLORATORY: params was not named before the run" in text
    known = json.loads((gh / "pull-request.json").read_text())
    (gh / "pull-request.json").write_text(json.dumps(known | {"state": "MERGED"}))
    assert "its pull request is merged" in submitted(lab, "shift") and calls(gh)[-1][1] == "view"


def test_nothing_but_what_is_supported_and_kept_is_submitted(lab, gh, tmp_path):
    with_remote(lab, tmp_path)
    measured(lab, "worse", 0.2, seeds=1)
    measured(lab, "refuted", 0.2)
    measured(lab, "opened", -0.5, seeds=1)
    add_idea(lab, "fresh")
    for slug, what, following in (
        ("worse", "worse (explore): inconclusive", "just replicate worse"),
        ("refuted", "refuted (explore): refuted", "just next"),
        ("opened", "Only what is supported is submitted", "just replicate opened"),
        ("fresh", "fresh has no verdict at stage explore yet", "just queue fresh"),
        ("fersh", "no idea is called 'fersh'", "did you mean fresh"),
    ):
        with pytest.raises(LabError) as error:
            submit.submit(lab, slug, "explore")
        assert what in error.value.what and following in error.value.hint
    done = call(lab.root, "submit", "worse", "--stage", "nope", check=False)
    assert done.returncode == 1 and "no stage 'nope'" in done.stderr and "Traceback" not in done.stderr
    assert calls(gh) == [] and not list(lab.reports.glob("*_pr.md")) and git(lab.root, "ls-remote", "origin") == ""
    assert git(lab.worktree("refuted"), "status", "--porcelain") == "M train.py"  # nor was anything committed


def test_a_worktree_that_has_moved_on_is_refused_and_the_way_back_is_named(lab, no_gh, once):
    tree = measured(lab, "shift", -0.5)
    text = (tree / "train.py").read_text()
    change(tree, "offset: float = -0.5", "offset: float = -0.4")
    (tree / "later.py").write_text("y = 2\n")
    with pytest.raises(LabError, match=r"has moved on since its runs: later\.py, train\.py differ") as error:
        submit.submit(lab, "shift", "explore")
    assert "just queue shift, which measures it as it is" in error.value.hint
    back = error.value.hint.partition("stash): ")[2]
    subprocess.run(back, shell=True, check=True, capture_output=True)
    assert (tree / "train.py").read_text() == text and not (tree / "later.py").exists()
    assert "-0.4" in git(tree, "stash", "show", "--patch")
    assert submit.submit(lab, "shift", "explore").committed

    (tree / "later.py").write_text("y = 2\n")  # committed on top of what was measured
    commit(tree, "More")
    with pytest.raises(LabError, match=r"has moved on since its runs: later\.py") as error:
        submit.submit(lab, "shift", "explore")
    subprocess.run(error.value.hint.partition("stash): ")[2], shell=True, check=True, capture_output=True)
    done = submit.submit(lab, "shift", "explore")
    verdict = verdicts.newest(lab)["shift", "explore"]
    assert done.committed and snapshot.take(tree).code_sha == verdict.code_sha and git(tree, "status", "--porcelain") == ""
    git(tree, "switch", "--quiet", "--detach")
    with pytest.raises(LabError, match="is not on its branch exp/shift"):
        submit.submit(lab, "shift", "explore")


def test_a_receipt_that_does_not_hold_stops_it(lab, no_gh):
    measured(lab, "shift", -0.5)
    (run_id, *_) = verdicts.newest(lab)["shift", "explore"].against_runs
    path = lab.run(run_id) / "checkpoint" / "value.txt"
    path.write_text(path.read_text() + " ")
    with pytest.raises(LabError, match=rf"{run_id}, which the verdict rests on, does not hold: checkpoint: ") as error:
        submit.submit(lab, "shift", "explore")
    assert error.value.hint == f"just audit {run_id}" and not list(lab.reports.glob("*_pr.md"))


def test_options_are_no_change_of_code(lab, no_gh):
    measured(lab, "setting", -0.5, options=True)
    with pytest.raises(LabError, match=r"changes no code of main: what was measured are the options --offset -0\.5") as error:
        submit.submit(lab, "setting", "explore")
    assert "then: just queue setting" in error.value.hint


def test_without_remote_or_gh_the_text_and_the_commands_are_there(lab, no_gh, once, tmp_path):
    tree = measured(lab, "shift", -0.5)
    (tree / "train.py").rename(tree / "old.py")
    shutil.copy(tree / "old.py", tree / "train.py")
    (tree / "old.py").unlink()
    said = call(lab.root, "submit", "shift").stdout
    create = 'gh pr create --base main --head exp/shift --title "exp(shift): Subtracting lowers the score" --body-file 9_reports/shift_pr.md'
    assert "not pushed" in said and "there is no remote: git remote add origin URL" in said and create in said
    assert str(lab.reports / "shift_pr.md") in said and (lab.reports / "shift.png").exists()
    assert git(tree, "status", "--porcelain") == ""
    remote = with_remote(lab, tmp_path)
    kept = submitted(lab, "shift", push=False)
    assert "not pushed" in kept and "git push --set-upstream origin exp/shift, then: gh pr create" in kept and git(remote, "branch") == ""
    pushed = submitted(lab, "shift")
    assert "pushed to origin" in pushed and f"next: {create}" in pushed and "exp/shift" in git(remote, "branch")
    git(lab.root, "remote", "rename", "origin", "one")
    git(lab.root, "config", "--unset", "branch.exp/shift.remote")
    git(lab.root, "remote", "add", "two", str(remote))
    with pytest.raises(LabError, match="which remote"):
        submit.submit(lab, "shift", "explore")


def test_a_push_or_a_request_that_fails_keeps_everything(lab, gh, once, tmp_path):
    tree = measured(lab, "shift", -0.5)
    remote = with_remote(lab, tmp_path)
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(LabError, match=r"git push: .*not today.*commit and text stay \(9_reports/shift_pr\.md\)") as error:
        submit.submit(lab, "shift", "explore")
    assert error.value.hint == f"git -C {lab.root} push origin exp/shift, then: just submit shift" and calls(gh) == []
    head = git(tree, "rev-parse", "HEAD")
    assert git(tree, "log", "-1", "--format=%s").startswith("exp(shift)") and "supported" in (lab.reports / "shift_pr.md").read_text()
    hook.unlink()
    (gh / "broken").touch()
    with pytest.raises(LabError, match="gh pr: HTTP 502") as error:
        submit.submit(lab, "shift", "explore")
    assert "gh pr create --base main --head exp/shift" in error.value.hint and git(remote, "rev-parse", "exp/shift") == head
    (gh / "broken").unlink()
    assert "pull request opened" in submitted(lab, "shift") and git(tree, "rev-parse", "HEAD") == head

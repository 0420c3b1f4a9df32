"""The guard against real repositories, worktrees and hooks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROGRAM, REPOSITORY, commit, git

from monolab import guard, problem
from monolab.errors import LabError
from monolab.guard import INFERENCE_EMPTY
from monolab.paths import Lab, find

ENTRY = "## 2026-01-02 lower: supported\n\n- Observed: -0.5\n\n{}\n"
OLDER = "## 2026-01-01 higher: refuted\n\n- Observed: +0.2\n\n_Inference: it hurts._\n"
JOURNAL = f"# Research journal\n\nNewest on top.\n\n{ENTRY.format(INFERENCE_EMPTY)}\n{OLDER}"
ROWS = "run_id\tvalue\nr1\t0.5\nr2\t0.6\n"
BIN = str(Path(sys.executable).parent)


@pytest.fixture
def lab(lab_repo) -> Lab:
    lab = lab_repo(**{"RESEARCH_JOURNAL.md": JOURNAL, "results.tsv": ROWS})
    (lab.runs / "r1").mkdir(parents=True)
    (lab.runs / "r1" / "receipt.json").write_text('{"value": 0.5}\n')
    (lab.runs / "verdicts.jsonl").write_text('{"idea": "lower"}\n')
    commit(lab.root)
    return lab


@pytest.fixture
def tree(lab) -> Path:
    git(lab.root, "worktree", "add", "--quiet", "-b", "exp/lower", str(lab.worktree("lower")))
    return lab.worktree("lower")


def subject(lab: Lab) -> problem.Problem:
    return problem.load(lab)


def unlock(lab: Lab) -> None:
    lab.human_journal.write_text("# Human journal\n\n## 2026-01-03\n\nMETA_MODE=1\n\n## 2026-01-01\n\nNothing.\n")


# -- the rule


def test_each_file_has_one_kind(lab):
    kinds = {
        "program.md": "FROZEN",
        "eval.py": "FROZEN",
        "data.py": "FROZEN",
        "meta_journal.md": "FROZEN",
        ".git/hooks/pre-commit": "FROZEN",
        "human_journal.md": "HUMAN",
        "results.tsv": "GLOBAL",
        "RESEARCH_JOURNAL.md": "GLOBAL",
        "6_runs/r1/receipt.json": "GLOBAL",
        "0_docs/reading_journal.md": "APPEND-ONLY",
        "train.py": "REGULAR",
        "0_docs/eval.py": "REGULAR",
        "1_ideas/2026-01-02_lower.md": "REGULAR",
        "./eval.py": "FROZEN",
    }
    assert {path: guard.kind(path, subject(lab).scorer) for path in kinds} == kinds


def test_the_scorer_is_what_program_md_names(lab_repo):
    lab = lab_repo(**{"program.md": PROGRAM.replace("scorer: [eval.py]", "scorer: [eval.py, scoring/, words.txt]")})
    named = ("eval.py", "words.txt", "scoring/rules.py", "scoring_more.py")
    assert [guard.kind(path, subject(lab).scorer) for path in named] == ["FROZEN", "FROZEN", "FROZEN", "REGULAR"]
    assert [guard.kind(path, ("eval.py",)) for path in named] == ["FROZEN", "REGULAR", "REGULAR", "REGULAR"]


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        ("# Human journal\n\nMETA_MODE=1 in an entry switches it on\nMETA_MODE=1\n", False),  # the header is no entry
        ("# H\n\n## new\n\nMETA_MODE=1\n\n## old\n", True),
        ("# H\n\n## new\n\ndone\n\n## old\n\nMETA_MODE=1\n", False),
        ("# H\n\n## new\n\nshould I set META_MODE=1 or not\n", False),
    ],
)
def test_meta_mode_counts_in_the_newest_entry(lab, journal, expected):
    lab.human_journal.write_text(journal)
    assert guard.meta_mode(lab) is expected


def test_meta_mode_from_the_environment(lab, monkeypatch):
    assert not guard.meta_mode(lab)
    monkeypatch.setenv("META_MODE", "1")
    assert guard.meta_mode(lab)


def test_a_journal_takes_entries_on_top_and_inferences_once():
    written = JOURNAL.replace(INFERENCE_EMPTY, "Inference: the offset moves the mean.\n\nIt does so at every seed.")
    new = JOURNAL.replace("## 2026-01-02", "## 2026-01-03 more\n\n" + INFERENCE_EMPTY + "\n\n## 2026-01-02", 1)
    for change in (JOURNAL, JOURNAL.rstrip(), written, new, new.replace("Newest on top.", "Newest above."), new.replace(INFERENCE_EMPTY, "Both.")):
        assert guard.append_only_violation(JOURNAL, change) is None
    assert guard.append_only_violation("# J\n", JOURNAL) is None
    assert "lower" in guard.append_only_violation(written, written.replace("every seed", "some seeds"))  # once


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda old: old.replace("-0.5", "-0.9"), "lower"),
        (lambda old: old.replace("it hurts", "it helps"), "higher"),
        (lambda old: old.replace(OLDER, ""), "higher"),
        (lambda old: old + "\n## 2026-01-03 at the end\n", "on top"),
        (lambda old: old.replace(OLDER, "## between\n\n" + OLDER), "on top"),
        (lambda old: "# Research journal\n\n" + OLDER + "\n" + ENTRY.format(INFERENCE_EMPTY), "on top"),
        (lambda old: old.replace(INFERENCE_EMPTY, ""), "lower"),
        (lambda old: old.replace(INFERENCE_EMPTY, "more\n" + INFERENCE_EMPTY), "lower"),
        (lambda old: old.replace(INFERENCE_EMPTY, "fine\n\n## 2026-01-02 slipped in: supported"), "on top"),
        (lambda old: "", "lower"),
    ],
)
def test_old_entries_stay_as_they_are(change, named):
    wrong = guard.append_only_violation(JOURNAL, change(JOURNAL))
    assert wrong is not None and named in wrong


def test_rows_are_only_added():
    assert guard.rows_violation(ROWS, ROWS + "r3\t0.7\n") is None
    assert guard.rows_violation(ROWS, ROWS.replace("0.5", "0.4")) == "line 2 was edited or removed: r1"
    assert guard.rows_violation(ROWS, "run_id\tvalue\nr2\t0.6\n") == "line 2 was edited or removed: r1"
    assert guard.rows_violation(ROWS, "run_id\tvalue\nr1\t0.5\n") == "line 3 and those after it are gone"
    assert guard.rows_violation(ROWS, ROWS.rstrip()) == "line 3 was edited"


# -- at an agent's edit


def asked(lab: Lab, tool: str, cwd: Path | None = None, **given) -> str | None:
    return guard.edit(lab, {"tool_name": tool, "tool_input": given, "cwd": str(cwd or lab.root)})


def test_edits_by_kind(lab, tree):
    assert asked(lab, "Write", file_path=str(lab.root / "train.py"), content="x") is None
    assert asked(lab, "Write", file_path="/tmp/eval.py", content="x") is None  # not in the lab
    assert asked(lab, "Read", file_path=str(lab.root / "eval.py")) is None
    assert "FROZEN" in asked(lab, "Edit", file_path=str(lab.root / "eval.py"), old_string="a", new_string="b")
    assert "FROZEN" in asked(lab, "Edit", file_path=str(tree / "eval.py"), old_string="a", new_string="b")
    assert "FROZEN" in asked(lab, "Write", cwd=tree, file_path="../../data.py", content="x")
    assert "human alone" in asked(lab, "Write", file_path=str(lab.human_journal), content="META_MODE=1")
    assert "by the lab alone" in asked(lab, "Edit", file_path=str(lab.results), old_string="0.5", new_string="0.4")
    assert "by the lab alone" in asked(lab, "Write", file_path=str(lab.runs / "new" / "receipt.json"), content="{}")
    for copy in ("results.tsv", "RESEARCH_JOURNAL.md"):
        assert str(lab.root / copy) in asked(lab, "Write", file_path=str(tree / copy), content="x")


def test_a_link_to_a_frozen_file_is_that_file(lab):
    (lab.root / "notes.py").symlink_to("eval.py")
    assert "FROZEN" in asked(lab, "Write", file_path=str(lab.root / "notes.py"), content="x")


def test_another_lab_inside_this_one_is_not_this_one(lab):
    (lab.root / ".demo").mkdir()
    git(lab.root / ".demo", "init", "--quiet")
    assert asked(lab, "Write", file_path=str(lab.root / ".demo" / "eval.py"), content="x") is None


def test_meta_mode_unlocks_frozen_files_and_nothing_else(lab):
    unlock(lab)
    assert asked(lab, "Write", file_path=str(lab.root / "eval.py"), content="x") is None
    assert asked(lab, "Bash", command="sed -i s/a/b/ program.md") is None
    assert asked(lab, "Write", file_path=str(lab.human_journal), content="x")
    assert asked(lab, "Write", file_path=str(lab.results), content="x")


def test_a_new_lab_is_guarded_before_it_is_filled_in(lab_repo):
    lab = lab_repo(**{"program.md": PROGRAM.replace("metric: score", 'metric: "{FILL_IN: its name}"')})
    assert "FROZEN" in asked(lab, "Write", file_path=str(lab.root / "eval.py"), content="x")


def test_the_journal_is_judged_by_the_text_that_would_result(lab):
    journal = str(lab.journal)
    assert asked(lab, "Edit", file_path=journal, old_string=INFERENCE_EMPTY, new_string="Inference: it helps.") is None
    assert (
        asked(lab, "Edit", file_path=journal, old_string="Newest on top.\n", new_string="Newest on top.\n\n## 2026-01-04 note\n\nRead a paper.\n")
        is None
    )
    assert asked(lab, "Write", file_path=journal, content=JOURNAL.replace("## 2026-01-02", "## x\n\n## 2026-01-02", 1)) is None
    assert "on top" in asked(lab, "Write", file_path=journal, content="# Research journal\n")
    assert "lower" in asked(lab, "Edit", file_path=journal, old_string="-0.5", new_string="-0.9")
    edits = [{"old_string": INFERENCE_EMPTY, "new_string": "fine"}, {"old_string": "+0.2", "new_string": "-0.2"}]
    assert "higher" in asked(lab, "MultiEdit", file_path=journal, edits=edits)
    (lab.root / "0_docs" / "reading_journal.md").write_text("# Reading\n\n## one\n\nText.\n")
    assert "one" in asked(lab, "Edit", file_path="0_docs/reading_journal.md", old_string="Text.", new_string="Other.")
    assert asked(lab, "Write", file_path="0_docs/reading_journal.md", content="# Reading\n\n## two\n\n## one\n\nText.\n") is None


def patch(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch", ""])


def test_patches_in_codex_format(lab):
    frozen = patch("*** Update File: train.py", "@@", "-a", "+b", "*** Update File: eval.py", "@@", "-a", "+b")
    for refused in (
        frozen,
        patch("*** Delete File: results.tsv"),
        patch("*** Add File: human_journal.md", "+META_MODE=1"),
        patch("*** Update File: train.py", "*** Move to: eval.py"),
        patch("*** Update File: RESEARCH_JOURNAL.md", "@@", "-- Observed: -0.5", "+- Observed: -0.9"),
        patch("*** Update File: RESEARCH_JOURNAL.md", "@@", "-no such line", "+x"),
        patch("*** Update File: RESEARCH_JOURNAL.md", "*** Move to: old.md"),
    ):
        assert asked(lab, "apply_patch", command=refused), refused
        assert asked(lab, "Bash", command=f"apply_patch <<'EOF'\n{refused}EOF\n"), refused
        assert asked(lab, "shell", command=["apply_patch", refused]), refused
        assert asked(lab, "shell", command=["bash", "-lc", f"cd {lab.root} && apply_patch <<'EOF'\n{refused}EOF"]), refused
    for allowed in (
        patch("*** Update File: train.py", "@@", "-a", "+b"),
        patch("*** Update File: RESEARCH_JOURNAL.md", "@@", " Newest on top.", " ", "+## 2026-01-04 note", "+", f" {ENTRY.splitlines()[0]}"),
        patch("*** Update File: RESEARCH_JOURNAL.md", "@@", f"-{INFERENCE_EMPTY}", "+Inference: it helps."),
    ):
        assert asked(lab, "apply_patch", command=allowed) is None, allowed


REFUSED = """
echo x > eval.py
echo x >> RESEARCH_JOURNAL.md
printf 'r3\\t0.1\\n' >>results.tsv
cat train.py | tee -a results.tsv
sed -ni.bak 1p 5_worktrees/lower/eval.py
cp train.py eval.py
cp /tmp/eval.py .
mv results.tsv /tmp/
rm -rf 6_runs
rm *.tsv
rm -rf .
rm 6_runs/r1/receipt.json
cd 5_worktrees/lower && echo x > eval.py
(cd 0_docs; echo x > ../human_journal.md)
git rm eval.py
git mv eval.py other.py
git checkout HEAD -- results.tsv
git checkout exp/lower -- eval.py
git restore --source exp/lower eval.py
git restore RESEARCH_JOURNAL.md
git checkout -- .
git reset --hard HEAD~1
git stash
git clean -fdx
git commit --no-verify -m x
git config core.hooksPath /dev/null
rm .git/hooks/pre-commit
META_MODE=1 git commit -m x
echo META_MODE=1 >> human_journal.md
"""

ALLOWED = """
cat eval.py
grep -n META_MODE=1 human_journal.md
git diff HEAD -- eval.py results.tsv
sed -n '1,20p' eval.py
head -3 results.tsv > /tmp/head.tsv
cp eval.py /tmp/
echo x > train.py
rm train.py
sed -i s/a/b/ train.py
git add -A
git checkout main
git checkout -- train.py
git checkout main -- eval.py
git checkout -- eval.py
git -C 5_worktrees/lower checkout main -- results.tsv
git restore eval.py
git restore --staged results.tsv
git stash push -- train.py
cd 5_worktrees/lower && git checkout -- .
git -C 5_worktrees/lower reset --hard
rm -rf 6_runs/r1/checkpoint
rm -rf 6_runs/*/checkpoint
rm -rf 5_worktrees/lower
just eval lower
META_MODE=0 just eval
"""


@pytest.mark.parametrize("command", REFUSED.strip().splitlines())
def test_commands_that_obviously_write(lab, tree, command):
    assert asked(lab, "Bash", command=command) is not None


def test_a_command_is_refused_with_the_reason_that_an_edit_has(lab):
    for name in ("eval.py", "results.tsv", "human_journal.md"):
        assert asked(lab, "Bash", command=f"rm {name}") == asked(lab, "Write", file_path=name, content="") is not None
    assert "APPEND-ONLY" in asked(lab, "Bash", command="rm RESEARCH_JOURNAL.md")
    assert "whole lab" in asked(lab, "Bash", command="cd 0_docs && git reset --hard")


@pytest.mark.parametrize("command", ALLOWED.strip().splitlines())
def test_commands_that_may_go_on(lab, tree, command):
    (lab.runs / "r1" / "checkpoint").mkdir()
    assert asked(lab, "Bash", command=command) is None


def hook_of(settings: Path) -> str:
    (rule,) = json.loads(settings.read_text())["hooks"]["PreToolUse"]
    assert set(rule["matcher"].split("|")) == {"Edit", "Write", "MultiEdit", "NotebookEdit", "Bash", "apply_patch"}
    return rule["hooks"][0]["command"]


def test_the_agents_hook_from_root_and_worktree(lab, tree):
    command = hook_of(REPOSITORY / ".claude" / "settings.json")
    payload = {"hook_event_name": "PreToolUse", "tool_name": "Write", "tool_input": {"file_path": str(lab.root / "eval.py"), "content": "x"}}

    def run(project: Path, payload: dict) -> subprocess.CompletedProcess:
        env = os.environ | {"CLAUDE_PROJECT_DIR": str(project)}
        return subprocess.run(["sh", "-c", command], input=json.dumps(payload), env=env, cwd="/", capture_output=True, text=True, check=False)

    off = run(lab.root, payload)
    assert off.returncode == 1 and "set the lab up" in off.stderr  # which does not keep the agent from setting it up
    (lab.root / ".venv" / "bin").mkdir(parents=True)
    (lab.root / ".venv" / "bin" / "lab").symlink_to(f"{BIN}/lab")
    for project in (lab.root, tree):
        refused = run(project, payload)
        assert refused.returncode == 2 and "eval.py is FROZEN" in refused.stderr
        assert run(project, payload | {"tool_input": {"file_path": str(tree / "train.py"), "content": "x"}}).returncode == 0


def test_what_the_hook_cannot_read_is_refused_and_other_folders_are_not_its_business(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert guard.edit_main("{") == 2 and "JSON" in capsys.readouterr().err
    assert guard.edit_main("[]") == 2
    assert guard.edit_main(json.dumps({"tool_name": "Write", "tool_input": {"file_path": "eval.py"}, "cwd": str(tmp_path)})) == 0


# -- at a commit


def try_commit(folder: Path, *options: str) -> subprocess.CompletedProcess:
    git(folder, "add", "--all")
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(["git", "commit", "-q", "-m", "x", *options], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_hook_is_installed_once_and_in_force_in_every_worktree(lab, tree):
    assert [hook.name for hook in guard.install_hook(lab)] == ["pre-commit", "pre-merge-commit"]
    assert guard.install_hook(lab) == []
    for folder in (lab.root, tree):
        (folder / "eval.py").write_text("print(0)\n")
        (folder / "train.py").write_text("print(1)\n")
        refused = try_commit(folder)
        assert refused.returncode == 1 and "eval.py is FROZEN" in refused.stderr and "train.py" not in refused.stderr
        git(folder, "restore", "--staged", "eval.py")  # what the message says
        git(folder, "restore", "eval.py")
        assert try_commit(folder).returncode == 0
    (lab.root / "eval.py").write_text("print(2)\n")
    assert try_commit(lab.root, "-a").returncode == 1  # with git's temporary index
    unlock(lab)
    assert try_commit(lab.root).returncode == 0
    (tree / "eval.py").write_text("print(3)\n")
    assert try_commit(tree).returncode == 0  # unlocked for the worktrees, too


def test_the_hook_says_when_it_cannot_run(lab):
    guard.install_hook(lab)
    (lab.root / "train.py").write_text("print(1)\n")
    git(lab.root, "add", "--all")
    done = subprocess.run(
        ["git", "commit", "-m", "x"], cwd=lab.root, env=os.environ | {"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and f"next: {lab.root}/just" in done.stderr


def test_somebody_elses_hook_stays(lab):
    hook = lab.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho mine\n")
    with pytest.raises(LabError, match="pre-commit is somebody else's hook"):
        guard.install_hook(lab)
    assert hook.read_text() == "#!/bin/sh\necho mine\n"
    assert not (hook.parent / "pre-merge-commit").exists()


def test_hooks_elsewhere(lab, tmp_path):
    git(lab.root, "config", "core.hooksPath", str(tmp_path / "shared"))
    with pytest.raises(LabError, match="other repositories use too"):
        guard.install_hook(lab)
    git(lab.root, "config", "core.hooksPath", ".githooks")
    assert guard.install_hook(lab)[0] == lab.root / ".githooks" / "pre-commit"


def staged(folder: Path) -> list[str]:
    git(folder, "add", "--all")
    return guard.commit(find(folder), folder)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda root: (root / "eval.py").unlink(), "eval.py is FROZEN"),
        (lambda root: (root / "eval.py").rename(root / "evaluate.py"), "eval.py is FROZEN"),
        (lambda root: (root / "data.py").chmod(0o755), "data.py is FROZEN"),
        (lambda root: (root / "results.tsv").write_text(ROWS.replace("0.5", "0.4")), "results.tsv: line 2"),
        (lambda root: (root / "results.tsv").unlink(), "results.tsv: line 1"),
        (lambda root: (root / "RESEARCH_JOURNAL.md").write_text(JOURNAL.replace("-0.5", "-0.9")), "lower"),
        (lambda root: (root / "6_runs/r1/receipt.json").write_text("{}"), "written once"),
        (lambda root: (root / "6_runs/verdicts.jsonl").write_text(""), "verdicts.jsonl: line 1"),
    ],
)
def test_commits_in_the_root_that_are_refused(lab, change, wrong):
    change(lab.root)
    found = staged(lab.root)
    assert len(found) == 1 and wrong in found[0] and "Next: git" in found[0]


def test_commits_in_the_root_that_go_on(lab):
    (lab.root / "train.py").write_text("")
    lab.results.write_text(ROWS + "r3\t0.1\n")
    lab.journal.write_text(JOURNAL.replace(INFERENCE_EMPTY, "Inference: yes."))
    lab.human_journal.write_text("# Human journal\n\nRewritten.\n")
    (lab.runs / "r3").mkdir()
    (lab.runs / "r3" / "receipt.json").write_text("{}")
    assert staged(lab.root) == []


def test_meta_mode_does_not_unlock_the_records(lab):
    unlock(lab)
    lab.results.write_text("")
    (lab.root / "eval.py").write_text("print(1)\n")
    assert [line.partition(":")[0] for line in staged(lab.root)] == ["results.tsv"]


def test_program_md_cannot_be_turned_against_the_guard(lab):
    """An unstaged program.md that names another scorer does not unlock eval.py: what is committed counts."""
    lab.program.write_text(PROGRAM.replace("scorer: [eval.py]", "scorer: [other.py]"))
    (lab.root / "eval.py").write_text("print(1)\n")
    git(lab.root, "add", "eval.py")
    assert "eval.py is FROZEN" in guard.commit(lab, lab.root)[0]


def test_a_worktree_commits_no_global_file_but_takes_what_main_has(lab, tree):
    (tree / "results.tsv").write_text(ROWS + "r9\t0.0\n")
    (found,) = staged(tree)
    assert "results.tsv is GLOBAL" in found and str(lab.root) in found
    git(tree, "reset", "--quiet", "--hard")
    unlock(lab)
    lab.results.write_text(ROWS + "r3\t0.1\n")
    (lab.root / "eval.py").write_text("print('a better scorer')\n")
    commit(lab.root)
    lab.human_journal.write_text("# Human journal\n")
    commit(lab.root)
    guard.install_hook(lab)
    (tree / "train.py").write_text("print(1)\n")
    assert try_commit(tree).returncode == 0
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    merged = subprocess.run(["git", "merge", "-q", "--no-edit", "main"], cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert merged.returncode == 0, merged.stderr
    assert (tree / "results.tsv").read_text() == lab.results.read_text()


def test_a_merge_does_not_bring_a_changed_scorer_to_main(lab, tree):
    (tree / "eval.py").write_text("print(0)\n")
    commit(tree)  # without the hook
    (lab.root / "train.py").write_text("print(1)\n")
    commit(lab.root)
    guard.install_hook(lab)
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    merged = subprocess.run(["git", "merge", "--no-edit", "exp/lower"], cwd=lab.root, env=env, capture_output=True, text=True, check=False)
    assert merged.returncode != 0 and "eval.py is FROZEN" in merged.stderr


def eval_at(lab) -> tuple[list[str], list[str]]:
    return guard.run_start(lab, subject(lab), git(lab.root, "rev-parse", "HEAD"))


def test_what_was_committed_past_the_hook_starts_no_run_and_the_commit_is_named(lab, monkeypatch):
    guard.install_hook(lab)
    assert eval_at(lab) == ([], [])
    (lab.root / "eval.py").write_text("print(0)\n")
    assert try_commit(lab.root, "--no-verify").returncode == 0
    (lab.root / "train.py").write_text("print(1)\n")
    assert try_commit(lab.root).returncode == 0  # a later commit hides nothing
    past = git(lab.root, "rev-parse", "--short", "HEAD~1")
    ((wrong,), flags) = eval_at(lab)
    assert f"eval.py is FROZEN and was committed past the guard, in {past} (x; Test). Next: git revert {past}" in wrong and flags == []
    assert guard.past_the_hook(lab, subject(lab)) == [wrong]
    git(lab.root, "checkout", f"{past}~1", "--", "eval.py")
    assert try_commit(lab.root, "--no-verify").returncode == 0 and eval_at(lab) == ([], [])  # what a human let through once is known
    (lab.root / "eval.py").write_text("print(2)\n")
    assert try_commit(lab.root, "--no-verify").returncode == 0 and len(eval_at(lab)[0]) == 1
    monkeypatch.setenv("META_MODE", "1")
    assert eval_at(lab) == ([], [])  # a human means it
    monkeypatch.delenv("META_MODE")
    assert eval_at(lab) == ([], [])


def test_what_a_human_commits_through_the_hook_is_known_also_where_the_scorer_gets_another_file(lab, tree):
    guard.install_hook(lab)
    (lab.root / "words.txt").write_text("regular so far\n")
    assert try_commit(lab.root).returncode == 0
    unlock(lab)
    lab.program.write_text(lab.program.read_text().replace("scorer: [eval.py]", "scorer: [eval.py, words.txt]"))
    (lab.root / "eval.py").write_text("print(open('words.txt').read())\n")
    assert try_commit(lab.root).returncode == 0
    lab.human_journal.write_text("# Human journal\n")
    assert try_commit(lab.root).returncode == 0
    assert eval_at(lab) == ([], [])
    (tree / "words.txt").write_text("another\n")  # in a worktree, and then fast-forward, where git calls no hook
    git(tree, "reset", "--quiet", "--hard", "main")
    (tree / "words.txt").write_text("another\n")
    assert try_commit(tree, "--no-verify").returncode == 0
    git(lab.root, "merge", "--quiet", "--ff-only", "exp/lower")
    assert "words.txt is FROZEN and was committed past the guard" in eval_at(lab)[0][0]


def test_where_the_hook_was_never_installed_nothing_is_known_of_commits(lab):
    (lab.root / "eval.py").write_text("print(0)\n")
    commit(lab.root)
    assert eval_at(lab) == ([], []) and guard.past_the_hook(lab, subject(lab)) == []
    guard.install_hook(lab)  # from here on, what stands now is what stands
    assert eval_at(lab) == ([], []) and (lab.root / ".git" / "lab" / "frozen").read_text().count("\n") >= 3
    assert guard.kind(".git/lab/frozen", ("eval.py",)) == "FROZEN"


def test_the_first_commit_may_hold_everything(tmp_path, lab):
    root = tmp_path / "new"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "eval.py").write_text("")
    git(root, "add", "--all")
    assert guard.commit(Lab(root), root) == []


def test_commit_main_prints_and_returns_1(lab, monkeypatch, capsys):
    monkeypatch.chdir(lab.root)
    assert guard.commit_main() == 0
    (lab.root / "eval.py").write_text("")
    git(lab.root, "add", "--all")
    assert guard.commit_main() == 1
    assert capsys.readouterr().err.startswith("lab: eval.py is FROZEN")


# -- at the start of a run


def test_a_run_starts_when_frozen_files_are_as_main_has_them(lab, tree):
    (tree / "train.py").write_text("print(1)\n")
    assert guard.run_start(lab, subject(lab), commit(tree)) == ([], [])
    assert guard.run_start(lab, subject(lab), git(lab.root, "rev-parse", "HEAD")) == ([], [])


@pytest.mark.parametrize("hide", [[], ["update-index", "--assume-unchanged", "eval.py"]])
def test_a_changed_scorer_in_the_root_stops_every_run(lab, tree, hide, monkeypatch):
    if hide:
        git(lab.root, *hide)
    (lab.root / "eval.py").write_text("print(0)\n")
    assert hide == [] or git(lab.root, "status", "--porcelain") == ""
    wrong, flags = guard.run_start(lab, subject(lab), git(tree, "rev-parse", "HEAD"))
    assert len(wrong) == 1 and "eval.py is FROZEN and is not what main has committed. Next: git" in wrong[0] and flags == []
    monkeypatch.setenv("META_MODE", "1")
    assert guard.run_start(lab, subject(lab), git(tree, "rev-parse", "HEAD"))[0] == wrong  # commit it first


def test_a_scorer_that_is_missing_or_not_committed(lab, lab_repo):
    (lab.root / "data.py").unlink()
    assert "data.py" in guard.run_start(lab, subject(lab), "HEAD")[0][0]
    other = lab_repo("other", **{"program.md": PROGRAM.replace("[eval.py]", "[eval.py, words.txt]")})
    (other.root / "words.txt").write_text("not committed")
    assert "words.txt" in guard.run_start(other, subject(other), "HEAD")[0][0]


def test_a_snapshot_with_a_changed_scorer_does_not_run(lab, tree, monkeypatch):
    (tree / "eval.py").write_text("print(0)\n")
    (tree / "program.md").unlink()
    snapshot = commit(tree)
    wrong, flags = guard.run_start(lab, subject(lab), snapshot)
    assert [line.split()[0] for line in wrong] == ["eval.py", "program.md"] and flags == []
    assert "Next: git checkout main -- eval.py" in wrong[0]
    monkeypatch.setenv("META_MODE", "1")
    assert guard.run_start(lab, subject(lab), snapshot) == ([], ["meta"])


def test_a_worktree_from_before_a_change_of_the_scorer_still_runs(lab, tree):
    (tree / "train.py").write_text("print(1)\n")
    snapshot = commit(tree)
    (lab.root / "eval.py").write_text("print('a better scorer')\n")
    commit(lab.root)
    assert guard.run_start(lab, subject(lab), snapshot) == ([], [])

"""Submitting: the branch of an idea that was supported and kept, pushed, with a pull request whose every number comes from a record.

Before anything is claimed, the receipts behind the verdict are derived again and the branch is held against the code that was measured.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from monolab import audit, backlog, explain, guard, ideas, journal, plot, promote, queue, receipts, report, results, snapshot, verdicts
from monolab import problem as problems
from monolab.audit import Finding
from monolab.errors import LabError
from monolab.journal import number
from monolab.paths import INFERENCE_EMPTY, NOT_CODE, Lab
from monolab.problem import Problem
from monolab.verdicts import Verdict

TITLE = 72  # characters of a pull request's title
NO_CODE = tuple(f":(exclude,top){path}" for path in NOT_CODE)


@dataclass(frozen=True)
class Submission:
    """What was done. Empty strings: there is none."""

    idea: str
    stage: str
    branch: str
    commit: str
    committed: bool  # by this call
    title: str
    text: str  # path of the pull request's text
    plot: str
    audited: dict[str, str]  # run: what its audit found
    remote: str  # the branch was pushed there
    state: str  # of the pull request: opened, updated, open, merged, closed, or "" where there is none
    url: str
    notes: tuple[str, ...]
    next: str


def submit(lab: Lab, slug: str, stage: str, *, push: bool = True) -> Submission:
    """Check what is claimed, commit what was measured, write the text, push, open the pull request (or bring the text of an open one up to date).

    Without a remote, without `gh`, or with `push` False it ends where the next step is the person's, and says which. Raises LabError for any verdict
    but a final, kept `supported`; for receipts that do not hold; for a worktree that is not what was measured; and where git or gh refuse, in their
    words. What was done until then stays, and the next call goes on from there.
    """
    idea, problem = ideas.load(lab, slug), problems.load(lab)
    verdict = _supported(lab, problem, slug, stage)
    tree, branch = queue.tree_of(lab, slug), f"exp/{slug}"
    _require_measured(lab, problem, verdict, tree, branch)
    audited = _audited(lab, verdict)
    title = _title(lab, idea)
    committed = _commit(lab, verdict, tree, title)
    commit = _git(tree, "rev-parse", "HEAD")
    text, picture = lab.reports / f"{slug}_pr.md", lab.reports / f"{slug}.png"
    plot.effects(lab, stage, picture)
    receipts.write_atomic(text, page(lab, problem, verdict, commit, audited, picture))
    base = queue.MAIN[0] if snapshot.branch(lab.root) not in queue.MAIN else snapshot.branch(lab.root)
    create = f'gh pr create --base {base} --head {branch} --title "{title}" --body-file {text.relative_to(lab.root)}'
    state, url, remote = "", "", _remote(lab, branch) if push else ""
    if remote:
        _push(lab, remote, branch, verdict, text)
        following = create
        if shutil.which("gh"):
            state, url = _pull_request(lab, base, branch, title, text, create)
            following = f"gh pr reopen {url}" if state == "closed" else ""
    else:
        following = f"git push --set-upstream {_remote(lab, branch) or 'REMOTE'} {branch}, then: {create}"
        following = (
            following if _remotes(lab) else f"there is no remote: git remote add origin URL, then: just submit {slug}; or, once pushed: {create}"
        )
    return Submission(
        idea=slug,
        stage=stage,
        branch=branch,
        commit=commit,
        committed=committed,
        title=title,
        text=str(text),
        plot=str(picture),
        audited={run_id: _told(found) for run_id, found in audited.items()},
        remote=remote,
        state=state,
        url=url,
        notes=_notes(lab, verdict, tree),
        next=following or "the human reads and merges it",
    )


# -- what may be claimed ------------------------------------------------------------------------------------------


def _supported(lab: Lab, problem: Problem, slug: str, stage: str) -> Verdict:
    """The newest verdict on an idea, which must be final, supported and kept."""
    problem.stage(stage)
    verdict = verdicts.newest(lab).get((slug, stage))
    if verdict is None:
        raise LabError(f"{slug} has no verdict at stage {stage} yet", hint=f"just queue {slug} --stage {stage}, or: just status")
    if coming := [one.run_id for one in backlog.pending(lab) if (one.idea, one.stage) == (slug, stage)]:
        raise LabError(
            f"{slug} ({stage}): {len(coming)} run(s) are still to come, and may change the verdict: {', '.join(coming)}", hint="just status"
        )
    said = f"{slug} ({stage}): {verdict.verdict}, {verdict.why}"
    if verdict.final and verdict.verdict == "refuted":
        raise LabError(f"{said}. It stays in the journal as a result; only what is supported is submitted", hint="just next")
    if not verdict.final or verdict.verdict != "supported":
        raise LabError(f"{said}. Only what is supported is submitted", hint=explain.following(problem, verdict))
    if not verdict.kept:
        raise LabError(f"{said}, but the code is {journal.gate(verdict)}", hint=explain.following(problem, verdict))
    return verdict


def _require_measured(lab: Lab, problem: Problem, verdict: Verdict, tree: Path, branch: str) -> None:
    """LabError where the worktree is not on its branch, holds other code than was measured, or nothing that main lacks."""
    if snapshot.branch(tree) != branch:
        raise LabError(f"{tree} is not on its branch {branch}", hint=f"git -C {tree} switch {branch}")
    measured, now = receipts.receipt(lab, verdict.runs[0]), snapshot.take(tree)
    if now.code_sha != verdict.code_sha:
        names, back = _names(tree, measured.commit, now.commit), _names(tree, measured.commit, now.head)
        stash = f"git -C {tree} stash push --include-untracked" if not now.clean else ""
        restore = f"git -C {tree} restore --source={measured.commit[:12]} --staged --worktree -- {' '.join(back)}" if back else ""
        raise LabError(
            f"the worktree of {verdict.idea} has moved on since its runs: {', '.join(names)} differ(s) from what was measured",
            hint=f"just queue {verdict.idea}, which measures it as it is; or back to what was measured (edits stay in the stash): "
            + " && ".join(filter(None, (stash, restore))),
        )
    wrong, _ = guard.run_start(lab, problem, now.head)
    if wrong:
        raise LabError("; ".join(wrong), hint=f"git -C {tree} status")
    if not _names(tree, snapshot.fork_point(lab, now.head), now.commit):
        options = f": what was measured are the options {' '.join(verdict.args)}" if verdict.args else ""
        raise LabError(
            f"{branch} changes no code of main{options}", hint=f"make them the defaults of {tree / 'train.py'}, then: just queue {verdict.idea}"
        )


def _audited(lab: Lab, verdict: Verdict) -> dict[str, list[Finding]]:
    """The audit of every run that the verdict and the gate rest on. LabError for the first that differs from its receipt."""
    found = {}
    for run_id in dict.fromkeys((*verdict.runs, *verdict.against_runs, *verdict.gate.runs)):
        logger.info(f"{run_id}: deriving it again from its receipt")
        found[run_id] = audit.audit(lab, run_id)
        if wrong := next((one for one in found[run_id] if one.ok is False), None):
            raise LabError(f"{run_id}, which the verdict rests on, does not hold: {wrong.name}: {wrong.what}", hint=f"just audit {run_id}")
    return found


# -- git ----------------------------------------------------------------------------------------------------------


def _run(command: list[str], folder: Path, hint: str) -> str:
    """What a program prints. It can ask nobody anything: where it would, it fails."""
    env = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GH_PROMPT_DISABLED": "1"}
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "; ".join(line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip())
        raise LabError(f"{' '.join(command[:2])}: {said or f'exit code {done.returncode}'}", hint=hint)
    return done.stdout.strip()


def _git(folder: Path, *args: str, hint: str = "") -> str:
    return _run(["git", *args], folder, hint or f"git -C {folder} status")


def _names(tree: Path, old: str, new: str) -> list[str]:
    """The files of code that differ between two commits."""
    return _git(tree, "diff", "--name-only", "--no-renames", "-z", old, new, "--", ":(top)", *NO_CODE).split("\0")[:-1]


def _title(lab: Lab, idea: ideas.Idea) -> str:
    """`exp(SLUG): what is changed`: the idea's heading, else the first sentence of its hypothesis."""
    _, body = problems.front_matter(idea.path)
    heading = next((line[2:].strip() for line in body.splitlines() if line.startswith("# ")), "")
    usable = heading and heading != idea.slug and problems.FILL_IN not in heading
    line = " ".join((heading if usable else idea.hypothesis.partition(". ")[0]).replace('"', "'").replace("`", "'").replace("$", "").split())
    whole = f"exp({idea.slug}): {line.removesuffix('.')}"
    return whole if len(whole) <= TITLE else whole[: TITLE - 3].rsplit(" ", 1)[0] + "..."


def _commit(lab: Lab, verdict: Verdict, tree: Path, title: str) -> bool:
    """Commit what is uncommitted of the measured code, and nothing else. Whether there was any."""
    now = snapshot.take(tree)
    if now.clean:
        return False
    _git(tree, "add", "--all", "--", ":(top)", *NO_CODE)
    _git(tree, "commit", "--quiet", "--message", title, "--", *_names(tree, now.head, now.commit))
    done = snapshot.take(tree)
    if not done.clean or done.code_sha != verdict.code_sha:
        raise LabError(
            f"what was committed on exp/{verdict.idea} is not what was measured: a hook of git changed it", hint=f"git -C {tree} log -p -1"
        )
    return True


def _remotes(lab: Lab) -> list[str]:
    return _git(lab.root, "remote").splitlines()


def _remote(lab: Lab, branch: str) -> str:
    """The remote that the branch is pushed to: its own, else origin, else the only one. "" where there is none. LabError where it is in doubt."""
    known = _remotes(lab)
    own = subprocess.run(["git", "config", f"branch.{branch}.remote"], cwd=lab.root, capture_output=True, text=True).stdout.strip()
    if chosen := next((name for name in (own, "origin") if name in known), ""):
        return chosen
    if len(known) > 1:
        raise LabError(f"which remote? There are {', '.join(known)}, and none is called origin", hint=f"git config branch.{branch}.remote {known[0]}")
    return known[0] if known else ""


def _push(lab: Lab, remote: str, branch: str, verdict: Verdict, text: Path) -> None:
    """The branch, and the pinned code of the runs: a clone that has receipts can then train them again."""
    refs = [f"{snapshot.REF}{run_id}" for run_id in dict.fromkeys((*verdict.runs, *verdict.against_runs, *verdict.gate.runs))]
    try:
        _git(lab.root, "push", "--quiet", "--set-upstream", remote, f"refs/heads/{branch}")
        _git(lab.root, "push", "--quiet", remote, *(f"{ref}:{ref}" for ref in refs))
    except LabError as error:
        kept = f"commit and text stay ({text.relative_to(lab.root)})"
        raise LabError(f"{error.what}; {kept}", hint=f"git -C {lab.root} push {remote} {branch}, then: just submit {verdict.idea}") from error


def _pull_request(lab: Lab, base: str, branch: str, title: str, text: Path, create: str) -> tuple[str, str]:
    """Open a pull request, or bring the text of an open one up to date; its state and URL. One that is merged or closed is left alone."""
    view = ["gh", "pr", "view", branch, "--json", "state,url,body"]
    done = subprocess.run(view, cwd=lab.root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        known = json.loads(done.stdout)
        if known["state"] != "OPEN":
            return known["state"].lower(), known["url"]
        if known["body"].replace("\r\n", "\n").strip() == text.read_text().strip():
            return "open", known["url"]
        edit = ["gh", "pr", "edit", known["url"], "--body-file", str(text)]
        _run(edit, lab.root, hint=" ".join(edit))
        return "updated", known["url"]
    if "no pull requests found" not in done.stderr and "no open pull requests found" not in done.stderr:
        said = "; ".join(done.stderr.split("\n")).strip("; ")
        raise LabError(
            f"gh pr view: {said or f'exit code {done.returncode}'}; the branch is pushed, the text is {text}", hint=f"gh auth status; {create}"
        )
    command = ["gh", "pr", "create", "--base", base, "--head", branch, "--title", title, "--body-file", str(text)]
    said = _run(command, lab.root, hint=create)
    return "opened", said.splitlines()[-1] if said else ""


def _notes(lab: Lab, verdict: Verdict, tree: Path) -> tuple[str, ...]:
    """What the person should know beside it."""
    notes = []
    if left := _git(tree, "status", "--porcelain").splitlines():
        notes.append(f"left uncommitted in the worktree, as no part of what was measured: {', '.join(line[3:] for line in left)}")
    records = [f"6_runs/{run_id}/receipt.json" for run_id in (*verdict.runs, *verdict.against_runs)]
    if missing := set(records) - set(_git(lab.root, "ls-tree", "-r", "--name-only", "HEAD", "--", *records).splitlines()):
        what = "results.tsv RESEARCH_JOURNAL.md 6_runs 9_reports"
        notes.append(
            f"{len(missing)} of the receipts are not committed on main yet, so that nobody else has them: git add {what} && git commit -m 'report({verdict.idea})'"
        )
    return tuple(notes)


# -- the text -----------------------------------------------------------------------------------------------------


def page(lab: Lab, problem: Problem, verdict: Verdict, commit: str, audited: dict[str, list[Finding]], picture: Path) -> str:
    """The pull request's text. What is measured comes from verdict, receipts and audits; what is thought is marked as that."""
    first = receipts.receipt(lab, verdict.runs[0])
    evidence = ", ".join(map(str, verdict.seeds)) + (
        f"; seed {verdict.gate.screen} screened it and is no evidence" if verdict.gate.screen is not None else "; all were asked for at once"
    )
    facts = {
        "Question": verdict.question or "(none was asked)",
        "Hypothesis": first.mechanism or "(none was written down)",
        "Predicted": f"{journal.expected(verdict)}; written down {first.queued}, before the run",
        "Observed": journal.observed(verdict),
        "Verdict": f"{verdict.verdict} ({verdict.stage}): {verdict.why}",
        "Gate": journal.gate(verdict),
        "Standing": f"EXPLORATORY: {verdict.exploratory}"
        if verdict.exploratory
        else "preregistered: the prediction was frozen when the run was asked for",
        "Seeds": evidence,
        f"Cost against {verdict.against}": journal.size(verdict),
        "Kill rule": verdict.kill_rule or "(none was written down)",
        "At scale": _scale(lab, verdict),
        "Best": _best(lab, problem, verdict),
    }
    beyond = _beyond(lab, verdict)
    parts = [
        *(f"**{name}.** {text}\n" for name, text in facts.items()),
        "## Effect\n",
        "```text",
        *explain.picture(explain.differences(lab, verdict), verdict),
        "```\n",
        f"Beside all others: `{picture.relative_to(lab.root)}`.\n",
        "## Inference\n",
        "Thought, not measured.\n",
        "\n".join(f"> {line}".rstrip() for line in (_inference(lab, verdict) or "left for the author: nobody has written one").splitlines()) + "\n",
        *(["## Beyond the prediction\n", *beyond, ""] if beyond else []),
        "## Receipts\n",
        *_table(lab, verdict, audited),
        "",
        *_provenance(lab, verdict, commit),
        "",
        "## Reproduce\n",
        "```sh",
        snapshot.FETCH,
        *(f"./just reproduce {run_id}" for run_id in verdict.runs if receipts.receipt(lab, run_id).value is not None),
        "```",
    ]
    return "\n".join(parts) + "\n"


def _scale(lab: Lab, verdict: Verdict) -> str:
    known = next((one for one in promote.standings(lab) if one.idea == verdict.idea), None)
    if known is None:
        return f"judged at {verdict.stage} only"
    if known.word == "waiting":
        return f"not asked at verify yet ({known.why})"
    effects = ", ".join(f"{number(effect)} at {stage}" for stage, effect in (("explore", known.small), ("verify", known.large)) if effect is not None)
    return f"{known.word} ({effects}): {known.why}"


def _best(lab: Lab, problem: Problem, verdict: Verdict) -> str:
    best = verdicts.best(lab, problem, results.view(lab), verdict.stage)
    mean = f"{best['metric']} {best['mean']:.6g} over the seeds that count"
    if not set(best["lineage"][0]["runs"]) & set(verdict.runs):
        return f"no: that is {best['idea']}, {mean}"
    below = " on ".join(step["idea"] for step in best["lineage"])
    luck = (
        f"; the best of {best['tested']} tested: up to {best['luck']:.2g} of its effect may be the luck of having been chosen" if best["luck"] else ""
    )
    return f"yes: {mean}; {below}{luck}"


def _inference(lab: Lab, verdict: Verdict) -> str:
    """What the author made of it, from the journal; "" while that is left open. A look that changed nothing has no entry: then of the look before it."""
    entries = journal.entries(lab)
    for look in reversed(verdicts.looks(lab).sharing(verdict.runs)):
        head = journal.entry(look).partition(INFERENCE_EMPTY)[0].strip()
        for entry in entries:
            if entry.startswith(head):
                return entry[len(head) :].replace(INFERENCE_EMPTY, "").strip()
    return ""


def _beyond(lab: Lab, verdict: Verdict) -> list[str]:
    path = lab.runs / report.EXPLORATORY
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [f"- {one['text']}" for one in told if (one["idea"], one["stage"]) == (verdict.idea, verdict.stage)]


def _told(found: list[Finding]) -> str:
    """Such as: 12 of 14 checks agree; not made: committed, score."""
    missing = [one.name for one in found if one.ok is None]
    return f"{sum(one.ok is True for one in found)} of {len(found)} checks agree" + (f"; not made: {', '.join(missing)}" if missing else "")


def _table(lab: Lab, verdict: Verdict, audited: dict[str, list[Finding]]) -> list[str]:
    lines = [f"| run | idea | seed | status | {verdict.metric} | eval_sha | data_sha | derived again |", "|---|---|---|---|---|---|---|---|"]
    for run_id, found in audited.items():
        one = receipts.receipt(lab, run_id)
        value = "" if one.value is None else f"{one.value:.6g}"
        cells = (f"`{run_id}`", one.idea, one.seed, one.status, value, one.eval_sha[:12], one.data_sha[:12], _told(found))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def _provenance(lab: Lab, verdict: Verdict, commit: str) -> list[str]:
    first = receipts.receipt(lab, verdict.runs[0])
    lines = [f"- branch at `{commit}`; its code is the tree `{verdict.code_sha}`, which is what ran"]
    lines.append(f"- environment `{first.env_sha[:12]}`, {first.hardware}, isolation: {first.isolation}")
    if verdict.args:
        lines.append(f"- measured with the options `{' '.join(verdict.args)}`, which merging this does not set")
    fork = snapshot.fork_point(lab, commit)
    beside = set(_git(lab.root, "diff", "--name-only", "--no-renames", "-z", fork, commit).split("\0")[:-1]) - set(_names(lab.root, fork, commit))
    if beside:
        lines.append(f"- the branch also changes what no run depends on: {', '.join(sorted(beside))}")
    return lines


def text(done: Submission) -> str:
    """For people."""
    request = {
        "opened": f"pull request opened: {done.url}",
        "updated": f"a pull request is open; its text was brought up to date: {done.url}",
        "open": f"a pull request is open, with this text: {done.url}",
        "merged": f"its pull request is merged: {done.url}",
        "closed": f"its pull request was closed, and is left so: {done.url}",
    }
    lines = [
        done.title,
        f"branch {done.branch} at {done.commit[:12]}" + (", committed now" if done.committed else ""),
        f"text: {done.text}",
        f"plot: {done.plot}",
        f"pushed to {done.remote}" if done.remote else "not pushed",
        *filter(None, [request.get(done.state, "")]),
        *(f"note: {note}" for note in done.notes),
        f"next: {done.next}",
    ]
    return "\n".join(lines)

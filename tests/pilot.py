"""An agent without a model: answers each role of autopilot from a list of ideas, and misbehaves where a test has written that down.

python pilot.py FOLDER: FOLDER/calls counts; FOLDER/bad.json maps "ROLE N" (the N-th call of that role, from 1) to a way to misbehave.
FOLDER/think is how many seconds a call thinks.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

PARTS = (
    ("centre", "subtracts the running centre of all numbers that were read so far, which takes out what they share"),
    ("median", "replaces the mean by a median, so that one stray line no longer moves the whole answer"),
    ("tail", "drops the longest tail of the sorted lines, because rare entries carry measurement faults only"),
    ("window", "looks only at a sliding window of recent entries, since old ones stem from another source"),
    ("pairing", "pairs neighbouring lines and averages their halves, which cancels drift between them"),
    ("shrinkage", "shrinks towards a prior guess, because few samples overstate their spread"),
    ("parity", "separates odd from even positions and keeps the calmer half, as alternation hides a bias"),
    ("bootstrap", "resamples the file many times and takes the mode, which is sharper than an average"),
    ("logarithm", "averages in logarithms and exponentiates back, because errors here multiply"),
    ("clipping", "clips extreme entries to a fence built from quartiles, therefore outliers keep their sign only"),
    ("weights", "weights each entry by the inverse of its distance to its neighbours, so clusters count once"),
    ("polynomial", "fits a parabola through positions and reads its vertex, which removes curvature"),
    ("voting", "lets three coarse estimators vote and keeps the middle vote, so no single failure decides"),
    ("fourier", "removes the strongest oscillation by a transform before averaging, as cycles are artefacts"),
)
GAINS = (-0.2, 0.1, 0.02, -0.15, 0.2, 0.0, -0.1, 0.3, 0.05, -0.05, 0.15, 0.0, 0.1, 0.25)


def role_of(prompt: str) -> str:
    for role, start in (
        ("researcher", "You propose the next experiment"),
        ("critic", "You have seen nothing but what the request holds"),
        ("judge", "You rate one idea by the rubric"),
        ("engineer", "You build one idea"),
        ("debugger", "Something in an idea's code is wrong"),
        ("analyst", "The lab has written what was observed"),
    ):
        if prompt.startswith(start):
            return role
    sys.exit("a request to nobody")


def proposal(number: int) -> dict:
    name, how = PARTS[number % len(PARTS)]
    return {
        "slug": f"{name}-{number}",
        "title": f"A {name}",
        "question": f"Does a {name} step in the estimate help?",
        "hypothesis": f"A {name} step {how}; the answer comes nearer.",
        "mechanism": f"It {how}. Doubtful is whether these data have that fault.",
        "change": f"A new function {name} in train.py is applied before the value is written; all else stays.",
        "known": "Nothing like it was tried here.",
        "predicted_effect": -0.1,
        "credence": 0.5,
        "kill_rule": "the 95 % interval of the paired difference does not lie below 0",
        "parent": "baseline",
        "papers": [],
        "origin": "original",
        "assumption": f"the data have the fault that a {name} mends",
        "touches": [f"+{name}", "main"],
    }


def answer(role: str, prompt: str, count: int) -> dict:
    if role == "researcher":
        return proposal(count - 1)
    if role == "judge":
        names = ("viability", "upside", "likelihood", "novelty")
        return {"scores": {name: {"score": 6, "why": "an ordinary idea"} for name in names}, "summary": "It may work. It is cheap."}
    if role == "critic" and "Review the change" in prompt:
        return {"does_what_the_idea_says": True, "changes_anything_else": False, "findings": [], "text": "Nothing found."}
    if role == "critic":
        flags = {name: True for name in ("sound", "testable", "kill_rule_ends_it")}
        return flags | {"failure_modes": ["the data have no such fault"], "text": "It may do nothing.", "rating": 6}
    if role == "analyst":
        return {"inference": "The data may have had that fault; a second file would settle it.", "credence": 0.6}
    number = int(re.search(r"-(\d+)", re.search(r"the idea ([a-z]+-\d+)|code of ([a-z]+-\d+)|review of ([a-z]+-\d+)", prompt)[0])[1])
    name, gain = PARTS[number % len(PARTS)][0], GAINS[number % len(GAINS)]
    edit = {"path": "train.py", "old": "+ config.offset", "new": f"+ config.offset + ({gain})"}
    return {"summary": f"a {name} step", "edits": [edit]}


def misbehave(how: str, role: str, prompt: str, count: int, folder: Path) -> None:
    if how == "rubbish":
        print("I have thought about it at length, and I am certain that it will work! {not json")
    elif how == "early":
        pass
    elif how == "hang":
        time.sleep(600)
    elif how == "crash":
        print("Traceback: the agent is broken", file=sys.stderr)
        sys.exit(3)
    elif how == "overloaded":
        print("API error: status 529 overloaded", file=sys.stderr)
        sys.exit(1)
    elif how == "frozen":  # in its worktree and in the root
        for path in (Path("eval.py"), Path(os.environ["LAB_ROOT"]) / "eval.py"):
            path.write_text(path.read_text().replace("abs(value - target)", "0.0"))
        print(json.dumps(answer(role, prompt, count)))
    elif how == "rewrites":
        path = Path(os.environ["LAB_ROOT"]) / "train.py"
        path.write_text(path.read_text().replace("config.offset", "config.offset - 1"))
        print(json.dumps(answer(role, prompt, count)))
    elif how == "forges":
        path = Path(os.environ["LAB_ROOT"]) / "results.tsv"
        path.write_text(path.read_text().replace("\tok\t", "\tinvalid\t"))
        print(json.dumps(answer(role, prompt, count)))
    elif how == "commits":
        git = ["git", "-C", os.environ["LAB_ROOT"], "-c", "core.hooksPath=/dev/null", "commit", "-qam", "Better"]
        path = Path(os.environ["LAB_ROOT"]) / "train.py"
        path.write_text(path.read_text().replace("config.offset", "config.offset - 1"))
        subprocess.run(git, check=True)
        print(json.dumps(answer(role, prompt, count)))
    elif how == "empties":
        (Path(os.environ["LAB_ROOT"]) / "6_runs" / "autopilot.jsonl").write_text("")
        print(json.dumps(answer(role, prompt, count)))
    elif how == "unlock":
        path = Path(os.environ["LAB_ROOT"]) / "human_journal.md"
        path.write_text(path.read_text() + "\n## 2026-11-21 unlock\n\nMETA_MODE=1\n")
        print(json.dumps(answer(role, prompt, count)))
    elif how == "broken":  # code that fails in its trial
        edit = {"path": "train.py", "old": "+ config.offset", "new": "+ config.offset + undefined_name"}
        print(json.dumps({"summary": "broken", "edits": [edit]}))
    elif how in ("unbreak", "mend", "retouch", "break"):
        new = {"unbreak": "(-0.2)", "mend": "(-0.2) * 1.0", "retouch": "(-0.2) * 1.0", "break": "undefined_name"}[how]
        old = "undefined_name" if how in ("unbreak", "mend") else "(-0.2)"
        print(json.dumps({"summary": how, "edits": [{"path": "train.py", "old": old, "new": new}]}))
    elif how == "findings":
        finding = {"where": "train.py:20", "what": "the step is never applied", "blocking": True}
        print(json.dumps({"does_what_the_idea_says": False, "changes_anything_else": False, "findings": [finding], "text": "One."}))
    elif how == "invents":
        print(json.dumps({"inference": "It gained 0.98765 for certain.", "credence": 0.9}))
    elif how == "repeats":
        print(json.dumps(proposal(0) | {"slug": "the-same-again"}))
    else:
        sys.exit(f"no way to misbehave: {how}")


def main() -> None:
    folder = Path(sys.argv[1])
    prompt = sys.stdin.read()
    role = role_of(prompt)
    counts = json.loads((folder / "calls.json").read_text()) if (folder / "calls.json").exists() else {}
    count = counts[role] = counts.get(role, 0) + 1
    (folder / "calls.json").write_text(json.dumps(counts))
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(float((folder / "think").read_text()) if (folder / "think").exists() else 0.0)
    bad = json.loads((folder / "bad.json").read_text()) if (folder / "bad.json").exists() else {}
    if how := bad.get(f"{role} {count}"):
        misbehave(how, role, prompt, count, folder)
    else:
        print(f"Here is what I make of it.\n\n```json\n{json.dumps(answer(role, prompt, count))}\n```")
    if how not in ("early",):
        print(json.dumps({"usage": {"tokens_in": 1000, "tokens_out": 100, "cost": 0.01}}))


if __name__ == "__main__":
    main()

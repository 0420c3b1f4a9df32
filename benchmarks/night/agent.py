"""An agent without a model: thinks for a while, then answers a role of autopilot, or a step of the serial loop, from a deck of ideas.

    python agent.py FOLDER SECONDS < prompt

FOLDER/deck.json is the deck: a list of [name, what it does, gain]; FOLDER/calls.json counts. The n-th proposal is the n-th idea of the deck, in either
loop, and who builds an idea adds its line to train.py's TERMS.
"""

import json
import re
import sys
import time
from pathlib import Path

STARTS = {
    "You propose the next experiment": "researcher",
    "You have seen nothing but what the request holds": "critic",
    "You rate one idea by the rubric": "judge",
    "You build one idea": "engineer",
    "Something in an idea's code is wrong": "debugger",
    "The lab has written what was observed": "analyst",
}


def proposal(number: int, name: str, how: str) -> dict:
    return {
        "slug": f"{name}-{number}",
        "title": f"A {name}",
        "question": f"Does a {name} help?",
        "hypothesis": f"A {name} {how}, so the answer comes nearer.",
        "mechanism": f"It {how}. Doubtful is whether these data have that fault.",
        "change": f"A {name} is added to TERMS in train.py; all else stays.",
        "known": "Nothing like it was tried here.",
        "predicted_effect": -0.05,
        "credence": 0.5,
        "kill_rule": "the 95 % interval of the paired difference does not lie below 0",
        "parent": "baseline",
        "papers": [],
        "origin": "original",
        "assumption": f"there is something that a {name} mends",
        "touches": [f"+{name}", "TERMS"],
    }


def answer(role: str, prompt: str, count: int, deck: list) -> dict:
    if role == "researcher":
        if count > len(deck):
            sys.exit("the deck is at its end: fewer --minutes")
        return proposal(count - 1, *deck[count - 1][:2])
    if role == "judge":
        names = ("viability", "upside", "likelihood", "novelty")
        return {"scores": {name: {"score": 6, "why": "an ordinary idea"} for name in names}, "summary": "It may work. It is cheap."}
    if role == "critic" and "Review the change" in prompt:
        return {"does_what_the_idea_says": True, "changes_anything_else": False, "findings": [], "text": "Nothing found."}
    if role == "critic":
        flags = {name: True for name in ("sound", "testable", "kill_rule_ends_it")}
        return flags | {"failure_modes": ["there is no such fault"], "text": "It may do nothing.", "rating": 6}
    if role == "analyst":
        return {"inference": "There may have been that fault; another data set would settle it.", "credence": 0.6}
    name, number = re.search(r"the idea ([a-z]+)-(\d+)|code of ([a-z]+)-(\d+)", prompt).group(1, 2)
    gain = deck[int(number)][2]
    return {"summary": f"a {name}", "edits": [{"path": "train.py", "old": "TERMS = (", "new": f'TERMS = (\n    ("{name}", {gain}),'}]}


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    prompt = sys.stdin.read()
    role = next(role for start, role in STARTS.items() if prompt.startswith(start))
    counts = json.loads((folder / "calls.json").read_text()) if (folder / "calls.json").exists() else {}
    count = counts[role] = counts.get(role, 0) + 1
    (folder / "calls.json").write_text(json.dumps(counts))
    time.sleep(seconds)
    told = answer(role, prompt, count, json.loads((folder / "deck.json").read_text()))
    print(f"```json\n{json.dumps(told)}\n```")
    print(json.dumps({"usage": {"tokens_in": len(prompt) // 4, "tokens_out": 200, "cost": 0.0}}))


if __name__ == "__main__":
    main()

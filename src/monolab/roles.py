"""The six roles of autopilot: what each is asked in one step, and what answer counts.

A role's instructions are `.claude/agents/ROLE.md` (also a subagent of Claude Code, and a text that any agent can read); a request is those, a bounded
context in which all that others wrote is fenced as data, and the schema of the answer: one JSON object, the last thing said.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monolab import fence, ideas, rubric
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Problem
from monolab.rubric import Unusable

ROLES = ("researcher", "critic", "judge", "engineer", "debugger", "analyst")
MOST = 60_000  # characters of a whole request
LEAST = 400  # to which a part of the context is cut
NUMBER = re.compile(r"(?<![\w.:])(?<!\w-)(\d+(?:\.\d+)?|\.\d+)(e[-+]?\d+)?(?![\w:]|-\w)(\s?%)?", re.IGNORECASE)
SMALL = 20  # whole numbers up to here count things ("three seeds")
ORIGINS = ("cognition", "experience", "original")


@dataclass(frozen=True)
class Task:
    """One request to a role. `check` returns the answer as it is used, and raises Unusable with what is wrong."""

    role: str
    prompt: str
    check: Callable[[object], dict]


def instructions(lab: Lab, role: str) -> str:
    """The text of a role, without its front matter. Raises LabError where the file is missing or empty."""
    path = lab.root / ".claude" / "agents" / f"{role}.md"
    if not path.is_file():
        raise LabError(
            f"the role {role} has no instructions: {path.relative_to(lab.root)} is missing", hint=f"git checkout -- {path.relative_to(lab.root)}"
        )
    text = problems.front_matter(path)[1].strip()
    if not text:
        raise LabError(f"{path.relative_to(lab.root)} says nothing", hint=f"edit {path}")
    return text


def request(lab: Lab, role: str, asked: str, context: Sequence[str], schema: dict) -> str:
    """The whole text of a request; where it would be longer than MOST, the longest parts of the context are cut."""
    head = f"{instructions(lab, role)}\n\n# What is asked\n\n{asked}\n"
    tail = (
        "\n# Your answer\n\nEnd with one JSON object in a fenced block, the last thing you say, with exactly these fields:\n\n"
        f"```json\n{json.dumps(schema, indent=1)}\n```\n"
    )
    parts = list(context)
    while sum(map(len, parts)) + len(head) + len(tail) > MOST:
        place = max(range(len(parts)), key=lambda one: len(parts[one]), default=None)
        if place is None or len(parts[place]) <= LEAST:
            raise LabError(f"a request to the {role} does not fit into {MOST} characters", hint=f"shorten .claude/agents/{role}.md")
        parts[place] = _cut(parts[place], max(len(parts[place]) * 3 // 4, LEAST))
    return "\n".join([head, *(f"{part}\n" for part in parts), tail])


def _numbers(text: str) -> set[float]:
    """The numbers in a text that could be measurements: not small counts, not credences in steps of 5 %, not parts of names, dates or addresses."""
    found = set()
    for number in NUMBER.finditer(text):
        value = float(number[1] + (number[2] or ""))
        plain = number[1].isdigit() and not number[2]
        if not (plain and (value <= SMALL or (number[3] and value <= 100 and value % 5 == 0))):
            found.add(value)
    return found


def _cut(text: str, length: int) -> str:
    """The head and the tail of a text."""
    return fence.fenced(f"{text[: length * 2 // 3]}\n(cut here)\n{text[-length // 3 :]}", "A part, cut")  # whatever was fenced in it


def again(prompt: str, said: str, wrong: str) -> str:
    """The one repair round: the request once more, with what was said to it and why that cannot be used."""
    return f"{prompt}\n# Your last answer could not be used\n\n{wrong}\n\n{fence.fenced(said[-4000:], 'What you said')}\n\nAnswer again, whole.\n"


# -- researcher ---------------------------------------------------------------------------------------------------

PROPOSAL = {
    "slug": "lower-case-with-dashes",
    "title": "a few words",
    "question": "one question that a run can answer",
    "hypothesis": "what will happen, and by which mechanism, in one or two sentences",
    "mechanism": "step by step; which step is the doubtful one",
    "change": "what changes in train.py, and what stays; what it costs",
    "known": "who tried something near, what they claim, and what differs here",
    "predicted_effect": "a signed number, candidate minus parent, in the metric's unit",
    "credence": "0 to 1",
    "kill_rule": "the observation that ends this idea",
    "parent": "the slug it builds on",
    "papers": ["files in 0_docs/papers/ or arXiv ids"],
    "origin": " | ".join(ORIGINS),
    "assumption": "the one thing that has to be true for it to work",
    "touches": ["what of train.py it changes; + for what is new"],
}


def proposal(lab: Lab, problem: Problem, context: Sequence[str], parents: Sequence[str], near: Callable[[dict, str], str]) -> Task:
    """Ask for one idea. `parents`: slugs that can be built on. `near(answer, text)`: why the idea is none of its own, or ""."""
    better = "lower" if problem.direction == "lower" else "higher"
    asked = (
        f"Propose one idea. The metric is {problem.metric}, {better} is better; an effect below {problem.smallest_effect:g} is not worth finding. "
        f"`parent` is one of: {', '.join(parents)}."
    )

    def check(value: object) -> dict:
        given = rubric.fields(value, tuple(PROPOSAL))
        wrong = [] if given["parent"] in parents else [f"`parent` is {given['parent']!r}, not one of: {', '.join(parents)}"]
        wrong += [] if given["origin"] in ORIGINS else [f"`origin` is {given['origin']!r}, not one of: {', '.join(ORIGINS)}"]
        texts = ("slug", "title", "question", "hypothesis", "mechanism", "change", "known", "kill_rule", "assumption")
        wrong += [f"`{name}` is {given[name]!r}, not a text" for name in texts if not isinstance(given[name], str) or not given[name].strip()]
        if not wrong:
            known = ideas.slugs(lab)
            if ideas.is_filler(given["slug"]):
                wrong.append(f"`slug` begins with {ideas.FILLER}, which is the lab's own")
            if given["slug"] in known:
                wrong.append(f"`slug` is {given['slug']!r}: there is an idea of that name already")
            text = idea_file(given)
            values, body = problems.parts(text, "the idea")
            train = lab.root / "train.py"
            found = ideas.review(problem, given["slug"], values, body, known.keys() | {given["slug"]}, train if train.is_file() else None)
            wrong += found.errors
            if not wrong and (why := near(given, text)):
                wrong.append(why)
        if wrong:
            raise Unusable("\n".join(f"- {one}" for one in wrong))
        return given

    return Task("researcher", request(lab, "researcher", asked, context, PROPOSAL), check)


def idea_file(given: dict) -> str:
    """The text of an idea file from a checked proposal."""
    import yaml

    front = {
        name: given[name]
        for name in ("question", "hypothesis", "predicted_effect", "credence", "kill_rule", "parent", "papers", "origin", "assumption", "touches")
    }
    parts = (("Mechanism", given["mechanism"]), ("Change", given["change"]), ("What is known", given["known"]), ("Critique", ""))
    body = "\n".join(f"## {name}\n{text}\n" for name, text in parts)
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120)}---\n# {given['title']}\n\n{body}"


# -- critic and judge ---------------------------------------------------------------------------------------------


def opinion(lab: Lab, kind: str, text: str, context: Sequence[str]) -> Task:
    """Ask for a critique or a rating of the idea file with this text, by the rubric's own request and check."""
    make, check = rubric.KINDS[kind]
    asked = make(text)
    criteria = "".join(f"\n- {name} ({one['weight']} %): {one['question']}" for name, one in asked.get("criteria", {}).items())
    role = "judge" if kind == "rating" else "critic"
    return Task(role, request(lab, role, asked["instructions"] + criteria, [fence.fenced(text, "The idea"), *context], asked["schema"]), check)


REVIEW = {
    "does_what_the_idea_says": "true | false",
    "changes_anything_else": "true | false",
    "findings": [{"where": "file and line", "what": "what is wrong, and what a run would measure instead", "blocking": "true | false"}],
    "text": "the review, in a few sentences",
}


def review(lab: Lab, idea: str, diff: str) -> Task:
    """Ask for a review of a change against its idea."""
    asked = "Review the change against the idea: does it do what the idea says and nothing else, where is the bug, is it a fair comparison with its parent?"

    def check(value: object) -> dict:
        given = rubric.fields(value, tuple(REVIEW))
        for name in ("does_what_the_idea_says", "changes_anything_else"):
            if not isinstance(given[name], bool):
                raise Unusable(f"`{name}` is {given[name]!r}, not true or false")
        if not isinstance(given["findings"], list):
            raise Unusable("`findings` is no list")
        for number, one in enumerate(given["findings"]):
            one = rubric.fields(one, ("where", "what", "blocking"), f"finding {number}")
            if not isinstance(one["blocking"], bool) or not all(isinstance(one[name], str) and one[name].strip() for name in ("where", "what")):
                raise Unusable(f"finding {number} is no `where` and `what` as texts, with `blocking` true or false")
        if not given["does_what_the_idea_says"] and not any(one["blocking"] for one in given["findings"]):
            raise Unusable("the change does not do what the idea says, and no finding is blocking: say which")
        return given

    return Task("critic", request(lab, "critic", asked, [fence.fenced(idea, "The idea"), fence.fenced(diff, "The change", "diff")], REVIEW), check)


# -- engineer and debugger ----------------------------------------------------------------------------------------

CHANGE = {
    "summary": "what was changed, in one line, for the commit",
    "edits": [{"path": "train.py", "old": "an exact piece of the file, found once in it", "new": "what takes its place"}],
}


def change(lab: Lab, role: str, asked: str, context: Sequence[str], made: Callable[[dict], str]) -> Task:
    """Ask for code. `made(answer)` applies what the answer brings, and says what is wrong with the worktree then, or "". `edits` may be left empty."""

    def check(value: object) -> dict:
        given = rubric.fields(value, tuple(CHANGE))
        if not isinstance(given["summary"], str) or not given["summary"].strip():
            raise Unusable("`summary` is no text")
        if not isinstance(given["edits"], list):
            raise Unusable("`edits` is no list (an empty one where you edited the files yourself)")
        for number, one in enumerate(given["edits"]):
            one = rubric.fields(one, ("path", "old", "new"), f"edit {number}")
            if not all(isinstance(text, str) for text in one.values()):
                raise Unusable(f"edit {number} is no `path`, `old` and `new` as texts")
        if wrong := made(given):
            raise Unusable(wrong)
        return given

    return Task(role, request(lab, role, asked, context, CHANGE), check)


# -- analyst ------------------------------------------------------------------------------------------------------

INFERENCE = {"inference": "two to five sentences, no number that is not in the observation", "credence": "0 to 1, that the inference holds"}


def inference(lab: Lab, slug: str, observation: str) -> Task:
    """Ask what a verdict may mean. A decimal number that does not stand in the observation is refused: no number passes through an agent."""
    asked = f"Write the inference under the verdict on {slug}."

    def check(value: object) -> dict:
        given = rubric.fields(value, tuple(INFERENCE))
        text, credence = given["inference"], given["credence"]
        if not isinstance(text, str) or not text.strip():
            raise Unusable("`inference` is no text")
        if isinstance(credence, bool) or not isinstance(credence, int | float) or not math.isfinite(credence) or not 0 <= credence <= 1:
            raise Unusable(f"`credence` is {credence!r}, not a number from 0 to 1")
        if made_up := sorted(_numbers(text) - _numbers(observation)):
            raise Unusable(
                f"{', '.join(f'{number:g}' for number in made_up)} do(es) not stand in the observation: use its numbers as they are written there, or none"
            )
        return {"inference": " ".join(text.split()), "credence": float(credence)}

    return Task("analyst", request(lab, "analyst", asked, [fence.fenced(observation, "The observation")], INFERENCE), check)

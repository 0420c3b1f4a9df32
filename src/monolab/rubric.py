"""Opinions on ideas: a critique, a rating by a rubric, and the judge that may give them. Kept apart from what was measured, and never part of a verdict.

The rubric's four criteria, their weights (30, 25, 30, 15) and the names of its bands are those of the idea-proposal task that this lab took over; that task
states no cut points, so those below are ours, set so that its published examples (means of 5.5 to 5.8, called MEDIOCRE) fall where it put them.
"""

import hashlib
import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from monolab import ideas, receipts, results
from monolab.errors import LabError
from monolab.paths import Lab

VERSION = 1  # of criteria, weights, bands and prompts: a rating is comparable with those of its version
RECORD = "ratings.jsonl"  # in 6_runs/, where lines may only be added
JUDGE = "LAB_JUDGE"  # the command of a judge: JSON on stdin, JSON on stdout
JUDGE_SECONDS = 300.0
CRITERIA = {  # name: (weight in percent, what is asked)
    "viability": (30, "Could a lab use it: is the change simple, cheap in time, memory and parameters, and likely to hold at another size?"),
    "upside": (25, "If it is right, how much would it matter: how large an effect on the metric, how much understanding, would others build on it?"),
    "likelihood": (30, "How likely is it that the hypothesis is supported as stated, within the effort at hand? Depends it on anything unsolved?"),
    "novelty": (15, "How far is it from what was tried here and published: a new mechanism, or a known one in other words?"),
}
BANDS = ((8.5, "EXCEPTIONAL"), (7.0, "GOOD"), (5.0, "MEDIOCRE"), (0.0, "POOR"))  # from this weighted mean on
FAULTS = (  # what its judges held against ideas time and again
    "no evidence that the problem it solves is there",
    "it rests on parts that are unsolved themselves",
    "something simpler does as well, and the parts cannot be told apart by ablation",
    "two known things joined, without an observed failure that asks for it",
)


class Unusable(ValueError):
    """An answer that is not as it was asked for."""


@dataclass(frozen=True)
class Opinion:
    """One line of `6_runs/ratings.jsonl`."""

    time: str  # UTC
    idea: str
    kind: str  # critique, rating
    by: str  # the judge's command, or who handed the answer in
    rubric: int
    text_sha: str  # of the idea file as it was judged
    answer: dict
    total: float | None  # weighted mean of a rating, 1 to 10
    band: str


def judge() -> str:
    """The user's command for a judge, "" where none is set."""
    return os.environ.get(JUDGE, "").strip()


def ask(request: dict, check: Callable[[object], dict]) -> dict:
    """The judge's answer to `request`, as `check` (which raises Unusable) takes it.

    Raises LabError where no judge is set, it fails, takes too long or answers otherwise than asked: no answer stands in for one.
    """
    if not judge():
        raise LabError("no judge is set", hint=f'{JUDGE}="COMMAND" in the environment: it reads JSON on stdin and writes JSON on stdout')
    command = shlex.split(judge())
    try:
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=JUDGE_SECONDS)
    except OSError as error:
        raise LabError(f"the judge could not be started: {error}", hint=f"{JUDGE} is {judge()!r}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"the judge gave no answer within {JUDGE_SECONDS:g} s", hint=f"{JUDGE} is {judge()!r}; unset it to do without") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise LabError(f"the judge failed with exit code {done.returncode}: {said}", hint=f"{JUDGE} is {judge()!r}; unset it to do without")
    return checked(done.stdout, check, "the judge's answer", f"{JUDGE} is {judge()!r}; unset it to do without")


def checked(text: str, check: Callable[[object], dict], what: str, hint: str) -> dict:
    """The JSON in `text`, also where a model has put it into a fenced block, as `check` takes it. LabError names what is wrong."""
    body = text.strip()
    if body.startswith("```"):
        body = body.partition("\n")[2].rpartition("```")[0]
    try:
        return check(json.loads(body))
    except ValueError as error:  # Unusable, or what json says
        raise LabError(f"{what} cannot be used: {error}", hint=hint) from error


def fields(value: object, names: Sequence[str], what: str = "the answer") -> dict:
    """`value`, where it is an object with exactly these fields. Raises Unusable with what is wrong."""
    if not isinstance(value, dict):
        raise Unusable(f"{what} is no JSON object")
    if missing := [name for name in names if name not in value]:
        raise Unusable(f"{what} has no {', '.join(repr(name) for name in missing)}")
    if unknown := sorted(value.keys() - set(names)):
        raise Unusable(f"{what} has unknown fields: {', '.join(unknown)}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"{what} is {value!r}, not a text")
    return value.strip()


# -- whether two ideas are one -------------------------------------------------------------------------------------


def compare(asked: dict, candidates: Sequence[dict], decisions: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The judge's decision on each candidate and its reason, by the candidates' keys."""
    keys = [one["key"] for one in candidates]

    def check(value: object) -> dict:
        given = fields(value, ("decisions",))["decisions"]
        if not isinstance(given, list):
            raise Unusable("`decisions` is no list")
        found = {}
        for number, one in enumerate(given):
            one = fields(one, ("key", "decision", "reason"), f"decision {number}")
            if one["decision"] not in decisions:
                raise Unusable(f"decision {number} is {one['decision']!r}, not one of: {', '.join(decisions)}")
            found[one["key"]] = (one["decision"], _text(one["reason"], f"the reason of decision {number}"))
        if found.keys() != set(keys):
            raise Unusable(f"it decides on {', '.join(map(repr, found)) or 'nothing'} instead of {', '.join(map(repr, keys))}")
        return found

    request = {
        "task": "compare",
        "instructions": "Decide on each candidate whether `asked` is the same idea in other words, a variation of it (same part, other size, grain or reason), "
        "or another mechanism. Judge what changes in the code and why it should work; shared words count for nothing.",
        "schema": {"decisions": [{"key": "a candidate's key", "decision": " | ".join(decisions), "reason": "one sentence"}]},
        "asked": asked,
        "candidates": list(candidates),
    }
    return ask(request, check)


# -- critique and rating -------------------------------------------------------------------------------------------


def critique_request(idea: str) -> dict:
    """What a critic is asked about the idea file with this text."""
    return {
        "task": "critique",
        "instructions": "You have seen nothing but this idea file. Is the idea sound? How can it fail, and how would one see it? Can the metric test it, and would its "
        f"kill rule really end it? Ideas fail most often because: {'; '.join(FAULTS)}. Do not be kind. Numbers that you state must be in the file.",
        "schema": {
            "sound": "true | false",
            "testable": "true | false",
            "kill_rule_ends_it": "true | false",
            "failure_modes": ["one sentence each, the likeliest first"],
            "text": "the critique, in full",
            "rating": "1 to 10",
        },
        "idea": idea,
    }


def rating_request(idea: str) -> dict:
    """What a judge is asked to rate the idea file with this text by."""
    scale = "1 to 10: 1-2 no, 3-4 hardly, 5-6 perhaps, 7-8 yes, 9-10 outstanding"
    return {
        "task": "rate",
        "rubric": VERSION,
        "instructions": "Rate this idea before anything of it is measured, each criterion by itself, and say why in a sentence. A 5 is an ordinary idea; most are. "
        f"Take points off where: {'; '.join(FAULTS)}.",
        "criteria": {name: {"weight": weight, "question": question} for name, (weight, question) in CRITERIA.items()},
        "schema": {"scores": {name: {"score": scale, "why": "one sentence"} for name in CRITERIA}, "summary": "two or three sentences"},
        "idea": idea,
    }


def check_critique(value: object) -> dict:
    given = fields(value, ("sound", "testable", "kill_rule_ends_it", "failure_modes", "text", "rating"))
    for name in ("sound", "testable", "kill_rule_ends_it"):
        if not isinstance(given[name], bool):
            raise Unusable(f"`{name}` is {given[name]!r}, not true or false")
    modes = given["failure_modes"]
    if not isinstance(modes, list) or not modes:
        raise Unusable("`failure_modes` is no list of sentences")
    return given | {
        "failure_modes": [_text(one, "a failure mode") for one in modes],
        "text": _text(given["text"], "`text`"),
        "rating": _score(given["rating"], "`rating`"),
    }


def check_rating(value: object) -> dict:
    given = fields(value, ("scores", "summary"))
    scores = fields(given["scores"], tuple(CRITERIA), "`scores`")
    told = {}
    for name, one in scores.items():
        one = fields(one, ("score", "why"), f"`scores.{name}`")
        told[name] = {"score": _score(one["score"], f"`scores.{name}.score`"), "why": _text(one["why"], f"`scores.{name}.why`")}
    return {"scores": told, "summary": _text(given["summary"], "`summary`")}


def _score(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 1 <= value <= 10:
        raise Unusable(f"{what} is {value!r}, not a number from 1 to 10")
    return float(value)


def total(answer: dict) -> float:
    """The weighted mean of a rating's scores, 1 to 10."""
    return sum(weight * answer["scores"][name]["score"] for name, (weight, _) in CRITERIA.items()) / 100


def band(value: float) -> str:
    return next(name for least, name in BANDS if value >= least)


KINDS: dict[str, tuple[Callable[[str], dict], Callable[[object], dict]]] = {
    "critique": (critique_request, check_critique),
    "rating": (rating_request, check_rating),
}


def opinion(kind: str, slug: str, text: str, answer: dict, by: str) -> Opinion:
    """A checked answer on the idea file with this text, ready to be recorded."""
    weighted = round(total(answer), 4) if kind == "rating" else None
    sha = hashlib.sha256(text.encode()).hexdigest()
    return Opinion(receipts.now(), slug, kind, by, VERSION, sha, answer, weighted, "" if weighted is None else band(weighted))


def record(lab: Lab, one: Opinion) -> None:
    """Append an opinion. The caller holds the lab's lock."""
    lab.runs.mkdir(exist_ok=True)
    with (lab.runs / RECORD).open("a") as file:
        file.write(json.dumps(asdict(one)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def take(lab: Lab, slug: str, path: Path, kind: str, text: str, answer: dict, by: str) -> tuple[Opinion, bool]:
    """Record a checked answer on the idea file at `path`, judged with this text; also whether its words now stand under *Critique* there."""
    one = opinion(kind, slug, text, answer, by)
    with results.locked(lab):
        record(lab, one)
        return one, kind == "critique" and ideas.fill_critique(path, answer["text"], answer["rating"])


def opinions(lab: Lab) -> list[Opinion]:
    """All of them, oldest first. Raises LabError naming a damaged line."""
    path: Path = lab.runs / RECORD
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(Opinion(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise LabError(f"{path} line {number} is damaged: {error}", hint=f"git checkout -- 6_runs/{RECORD}") from error
    return found


def newest(lab: Lab) -> dict[tuple[str, str], Opinion]:
    """The last opinion of each kind on every idea, by idea and kind."""
    return {(one.idea, one.kind): one for one in opinions(lab)}

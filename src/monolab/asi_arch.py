"""Reads the tree that ASI-Arch published: a JSON of evaluated architectures, each with index, parent and score.

An element of theirs: `index` and `parent` (integers; no parent for a seed), `score`, `name`, `time`, `motivation`, `analysis`, `cognition`, `log`,
`summary`, `program` (the code), and `result` with the training and test tables as CSV text. Only `index` and `score` have to be there.
"""

import csv
import json
import math
from pathlib import Path

from monolab.errors import LabError
from monolab.lineage import Candidate, Tree, parents_first

NAME = "asi-arch"
WRAPPERS = ("nodes", "elements", "data", "results")
TEXTS = ("analysis", "cognition", "summary", "log")


def read(path: Path, name: str = NAME) -> Tree:
    """The file as a tree: a list of elements, a mapping that holds one, or elements nested in `children`.

    An element without a finite score is one that failed. Raises LabError naming the element and what is wrong with it.
    """
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read as JSON: {error}", hint="lab import asi-arch FILE") from error
    elements = _flat(told)
    if not elements:
        raise LabError(f"{path} holds no elements", hint="a list of objects with index, parent and score")
    keys: dict[int, str] = {}
    for place, one in enumerate(elements):
        index = one.get("index") if isinstance(one, dict) else None
        if not isinstance(index, int) or isinstance(index, bool):
            raise LabError(f"{path}: element {place} has no whole-number `index`", hint="a list of objects with index, parent and score")
        if index in keys:
            raise LabError(f"{path}: two elements have the index {index}", hint="each stands once")
        keys[index] = f"{index}-{_slug(str(one.get('name') or ''))}".rstrip("-")
    lost = [(one["index"], one["parent"]) for one in elements if one.get("parent") is not None and one["parent"] not in keys]
    if lost:
        raise LabError(f"{path}: the parent {lost[0][1]} of element {lost[0][0]} is not in the file ({len(lost)} such)", hint="import the whole tree")
    found = [_candidate(path, one, keys) for one in sorted(elements, key=lambda one: one["index"])]
    return Tree(name, "score", "higher", tuple(parents_first(found)))


def _flat(told: object, parent: int | None = None) -> list:
    if isinstance(told, dict) and "index" not in told:
        return _flat(next((told[name] for name in WRAPPERS if isinstance(told.get(name), list)), []))
    found = []
    for one in told if isinstance(told, list) else [told]:
        below = one.pop("children", []) if isinstance(one, dict) else []
        if isinstance(one, dict) and parent is not None:
            one.setdefault("parent", parent)
        found.append(one)
        # The published tree names children by their indices as well; those stand in the list themselves.
        found += _flat([child for child in below if isinstance(child, dict)], one.get("index") if isinstance(one, dict) else None)
    return found


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())[:48]


def _candidate(path: Path, one: dict, keys: dict[int, str]) -> Candidate:
    score = one.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
        raise LabError(f"{path}: the score of element {one['index']} is {score!r}", hint="a number, or null where it failed")
    measured = score is not None and math.isfinite(score)
    above = one.get("parent")
    return Candidate(
        key=keys[one["index"]],
        idea=_slug(str(one.get("name") or "")) or keys[one["index"]],
        parent="" if above is None else keys[above],
        stage="explore",
        when=str(one.get("time") or ""),
        status="ok" if measured else "crash",
        value=float(score) if measured else None,
        seeds=int(measured),
        hypothesis=str(one.get("motivation") or ""),
        code=str(one.get("program") or ""),
        origin="",
        scores=_numbers(one.get("result")),
        notes={name: str(one[name]) for name in TEXTS if one.get(name)},
    )


def _numbers(result: object) -> dict[str, float]:
    """Numbers of the last line of each of their CSV tables, by table and column."""
    found = {}
    for table, text in result.items() if isinstance(result, dict) else ():
        rows = list(csv.DictReader(str(text).splitlines()))
        for column, cell in (rows[-1] if rows else {}).items():
            try:
                number = float(cell)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number):
                found[f"{table}.{column}"] = number
    return found

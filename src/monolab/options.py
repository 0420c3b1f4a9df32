"""Options for train.py: checked against its Config before anything is queued."""

import ast
import difflib
import json
import re
import tomllib
from pathlib import Path

import yaml

from monolab.errors import LabError

OURS = ("stage", "seed", "data", "out")  # the lab itself passes these to train.py


def config_fields(train: Path) -> dict[str, str] | None:
    """Name and annotation of every field of `class Config` in train.py, read without running it; None without such a class."""
    try:
        module = ast.parse(train.read_text())
    except (OSError, SyntaxError, ValueError) as error:  # ValueError: bytes that are no text
        raise LabError(f"{train} cannot be read: {error}", hint=f"edit {train}") from error
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return {item.target.id: ast.unparse(item.annotation) for item in node.body if isinstance(item, ast.AnnAssign)}
    return None


def check(args: list[str], train: Path) -> tuple[str, ...]:
    """`args` as given, if train.py's Config has every field they name, and every word is a value of one of them.

    An option takes one value; none after `=` and for a field that is a bool; any number for a tuple or list.
    Raises LabError, with the nearest names for an unknown field.
    """
    known = config_fields(train)
    room, why = 0.0, ""
    for token in args:
        if token.startswith("--"):
            room = _room(token, known)
            why = "" if room else f": {token} takes no value after it"
        elif room < 1:
            raise LabError(
                f"{token!r} belongs to no option{why}", hint="the idea's slug and its label come first; options for train.py look like --lr 1e-3"
            )
        else:
            room -= 1
    return tuple(args)


def _room(token: str, known: dict[str, str] | None) -> float:
    """How many words may follow the option `token`. Raises LabError for an option that train.py does not have."""
    name, equals, _ = token[2:].partition("=")
    name = name.replace("-", "_")
    if name in OURS:
        raise LabError(f"--{name} is set by the lab", hint="give --seed, --seeds or --stage to lab itself")
    if known is None:
        return 0 if equals else 1
    kind, plain = known.get(name.partition(".")[0], ""), name.removeprefix("no_")
    if not kind and _is_flag(known.get(plain, "")):
        return 0
    if not kind:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(set(known) - set(OURS))
        raise LabError(f"train.py's Config has no field {name!r}", hint=f"its fields: {', '.join(near)}")
    if equals or _is_flag(kind):
        return 0
    return float("inf") if re.search(r"\b(tuple|list)\b", kind, re.IGNORECASE) else 1


def _is_flag(annotation: str) -> bool:
    return annotation.strip("'\"") == "bool"


def from_file(path: Path) -> list[str]:
    """The options that a configuration file (.json, .toml, .yaml) of plain `name: value` pairs stands for."""
    readers = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}
    if path.suffix not in readers:
        raise LabError(f"{path} is no configuration file", hint=f"one of: {', '.join(readers)}")
    try:
        values = readers[path.suffix](path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise LabError(f"{path} cannot be read: {error}", hint=f"edit {path}") from error
    if not isinstance(values, dict) or any(isinstance(value, dict | list) for value in values.values()):
        raise LabError(f"{path} is not a list of plain `name: value` pairs", hint='for example {"lr": 0.001}')
    for name in values:
        if not isinstance(name, str):  # YAML reads a bare on, yes or 1 as no string
            raise LabError(f"{path}: the name {name!r} is read as no string", hint="put the name in quotes")
    args: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        args += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return args

"""`lab argmap ...`: parsing and printing only."""

from collections.abc import Callable
from pathlib import Path

from monolab import paths


def check(file: Path, /, *, json: bool = False) -> None:
    """Print FILE as it was understood, and what does not hold: quotes that no saved paper has, credences that cannot be true together."""
    import json as jsons

    from monolab import argmap

    found = argmap.parse(file)
    wrong = argmap.check(paths.find(), found)
    if json:
        print(jsons.dumps({"claims": len(found.claims), "wrong": wrong}, indent=1))
    else:
        quotes = sum(bool(one.quote) for one in found.claims.values())
        print(argmap.tree(found) + f"\n{len(found.claims)} claims, {quotes} quote{'s' * (quotes != 1)}")
        print("\n".join(wrong) or "it holds")
    if wrong:
        raise SystemExit(1)


COMMANDS: dict[str, Callable] = {"check": check}

"""Whom to build on next: a pool of candidates, and policies that draw a parent and references from it.

A policy sees ranks and numbers only, so the same ones serve a lab's own tree, an imported one and a simulated landscape.
"""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from monolab.errors import LabError


@dataclass(frozen=True)
class Scored:
    """One candidate as a policy sees it. `score`: higher is better, None where nothing was measured (it failed)."""

    key: str
    parent: str  # key; "" for a root
    score: float | None
    tries: int = 0  # how often its failure was worked on


@dataclass(frozen=True)
class Sizes:
    """Of the pool; the defaults are the ones of ASI-Arch (section 2.2 and its pool update policy)."""

    pool: int = 50  # the best so many
    parents: int = 10  # of them, those that are built on
    references: int = 4  # drawn from the rest
    cold: int = 200  # candidates before the pool is ranked for the first time: until then the roots are built on
    batch: int = 50  # candidates between two rankings

    def __post_init__(self):
        for name, least in (("pool", 1), ("parents", 1), ("references", 0), ("cold", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise LabError(f"search: `{name}` is {getattr(self, name)}", hint=f"at least {least}")
        if self.parents > self.pool:
            raise LabError(f"search: {self.parents} parents from a pool of {self.pool}", hint="parents: 10, pool: 50")


@dataclass(frozen=True)
class Pick:
    """What to do next: build on `parent` with an eye on `references`; or, where `debug`, repair `parent`."""

    parent: str
    references: tuple[str, ...]
    why: str
    debug: bool = False


class Policy(Protocol):
    """One rule for choosing. `candidates` are in the order in which they were made, roots first; never empty."""

    def __call__(self, candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick: ...


def ranked(candidates: Sequence[Scored]) -> list[Scored]:
    """Those that were measured, best first; of equals the earlier one first."""
    return sorted((one for one in candidates if one.score is not None), key=lambda one: -one.score)


def pool(candidates: Sequence[Scored], sizes: Sizes) -> list[Scored]:
    """The pool as it stood after the last full batch, best first: while a batch is under way all of it works with the same one.

    Empty during the cold start.
    """
    made = [one for one in candidates if one.parent]  # roots are not made by the search
    if len(made) < max(sizes.cold, 1):
        return []
    counted = sizes.cold + (len(made) - sizes.cold) // sizes.batch * sizes.batch
    known = {one.key for one in made[:counted]} | {one.key for one in candidates if not one.parent}
    return ranked([one for one in candidates if one.key in known])[: sizes.pool]


def _references(rest: Sequence[Scored], sizes: Sizes, rng: random.Random) -> tuple[str, ...]:
    return tuple(one.key for one in rng.sample(list(rest), min(sizes.references, len(rest))))


def _measured(candidates: Sequence[Scored]) -> list[Scored]:
    found = ranked(candidates)
    if not found:
        raise LabError("nothing was measured yet: there is nothing to build on", hint="just baseline")
    return found


def asi_arch(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """Two levels: the parent uniformly from the best ten of the pool, four references from its rest. During the cold start: a root."""
    now = pool(candidates, sizes)
    if not now:
        roots = [one for one in _measured(candidates) if not one.parent] or _measured(candidates)
        parent, others = rng.choice(roots), [one for one in _measured(candidates)]
        made = sum(bool(one.parent) for one in candidates)
        return Pick(
            parent.key,
            _references([one for one in others if one.key != parent.key], sizes, rng),
            f"cold start: {made} of {sizes.cold} candidates are made, and a root is built on",
        )
    place = rng.randrange(min(sizes.parents, len(now)))
    return Pick(
        now[place].key,
        _references(now[sizes.parents :] or [one for one in now if one is not now[place]], sizes, rng),
        f"rank {place + 1} of the best {min(sizes.parents, len(now))} in a pool of {len(now)}",
    )


def weights(found: Sequence[Scored], candidates: Sequence[Scored], sharp: float = 10.0) -> list[float]:
    """ShinkaEvolve's weight of a parent: sigma(sharp (score - median) / MAD) / (1 + children); scores that do not spread weigh alike."""
    scores = [one.score for one in found]
    middle = statistics.median(scores)
    spread = statistics.median(abs(score - middle) for score in scores)
    children = {one.key: 0 for one in found}
    for one in candidates:
        if one.parent in children:
            children[one.parent] += 1
    powers = [sharp * (score - middle) / spread if spread else 0.0 for score in scores]
    return [1 / (1 + math.exp(-max(-60.0, min(60.0, power)))) / (1 + children[one.key]) for power, one in zip(powers, found, strict=True)]


def weighted(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """Good ones often, those with many children seldom (ShinkaEvolve, 2025)."""
    found = _measured(candidates)[: sizes.pool]
    parent = rng.choices(found, weights(found, candidates))[0]
    return Pick(
        parent.key, _references([one for one in found if one is not parent], sizes, rng), f"drawn by score and few children from {len(found)}"
    )


def greedy(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """Always the best."""
    best, *rest = _measured(candidates)
    return Pick(best.key, _references(rest[: sizes.pool], sizes, rng), "the best so far")


def uniform(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """Any that was measured."""
    found = _measured(candidates)
    parent = rng.choice(found)
    return Pick(parent.key, _references([one for one in found if one is not parent], sizes, rng), f"any of {len(found)}")


DRAFTS, DEBUG, DEPTH = 5, 0.5, 3


def tree(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """AIDE's search (2025): five drafts from the root; then, at even odds, a failed leaf that was worked on fewer than three times; else the best."""
    found = _measured(candidates)
    roots = [one for one in found if not one.parent]
    drafts = sum(one.parent in {root.key for root in roots} for one in candidates)
    if roots and drafts < DRAFTS:
        return Pick(roots[0].key, (), f"draft {drafts + 1} of {DRAFTS}")
    above = {one.parent for one in candidates}
    broken = [one for one in candidates if one.score is None and one.key not in above and one.tries < DEPTH]
    if broken and rng.random() < DEBUG:
        one = rng.choice(broken)
        return Pick(one.key, (), f"it failed, and was worked on {one.tries} times", debug=True)
    return greedy(candidates, sizes, rng)


EXPLORE = 0.5  # what an unvisited branch is worth, the best rank being 1 and the worst 0


def uct(candidates: Sequence[Scored], sizes: Sizes, rng: random.Random) -> Pick:
    """Upper confidence bounds in the tree (Kocsis and Szepesvari 2006): from the root down, to the child whose branch is best or least visited;
    it stops where building here is worth as much as going on."""
    found = _measured(candidates)
    worth = {one.key: 1 - place / max(1, len(found) - 1) for place, one in enumerate(found)}  # ranks: one wild number must not flatten all others
    children: dict[str, list[Scored]] = {}
    for one in candidates:
        children.setdefault(one.parent, []).append(one)
    best: dict[str, float] = {}
    visits: dict[str, int] = {}
    for one in reversed(candidates):  # a parent is made before its children
        below = children.get(one.key, [])
        visits[one.key] = 1 + sum(visits[child.key] for child in below)
        best[one.key] = max([best[child.key] for child in below] + [worth.get(one.key, 0.0)])

    def bound(one: Scored, above: int) -> float:
        return best[one.key] + EXPLORE * math.sqrt(math.log(1 + above) / visits[one.key])

    here = max(children[""], key=lambda one: bound(one, len(candidates)))
    while below := [child for child in children.get(here.key, []) if best[child.key] > 0 or child.score is not None]:
        stay = worth.get(here.key, 0.0) + EXPLORE * math.sqrt(math.log(1 + visits[here.key]) / (1 + len(children[here.key])))
        onward = max(below, key=lambda one: bound(one, visits[here.key]))
        if stay >= bound(onward, visits[here.key]):
            break
        here = onward
    parent = here if here.score is not None else found[0]
    return Pick(
        parent.key,
        _references([one for one in found[: sizes.pool] if one is not parent], sizes, rng),
        f"its branch has {visits[parent.key]} candidates, and the best upper bound",
    )


POLICIES: dict[str, Policy] = {"asi-arch": asi_arch, "weighted": weighted, "greedy": greedy, "random": uniform, "tree": tree, "uct": uct}


def policy(name: str) -> Policy:
    if name not in POLICIES:
        raise LabError(f"there is no policy {name!r}", hint=f"one of: {', '.join(POLICIES)}")
    return POLICIES[name]

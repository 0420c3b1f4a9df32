"""The embedded searcher: ideas with real code from the lab's own space.py, chosen by the same policies that advise an agent, without any model.

space.py of the lab's root lists parts and options and writes the code of a combination; nothing here knows what they are about. What was tried,
and what came of it, is read from the idea files (`parts` in the front matter) and the ledger, so a search that was interrupted goes on.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from loguru import logger

from monolab import backlog, ideas, lineage, overview, pool, queue, receipts, results, settle, smoke
from monolab import problem as problems
from monolab.errors import LabError
from monolab.lineage import Tree
from monolab.paths import BASELINE, Lab
from monolab.pool import Scored

PROGRAM = "space.py"
SURPRISE = 3.0  # sd of what an option does beyond what was expected of it, in units of the metric's smallest effect
AHEAD = 2  # experiments that wait while one runs: the device never waits for a thought


@dataclass(frozen=True)
class Option:
    """One way to build a part, as space.py lists it. `effect`: expected, candidate minus parent, in the metric's unit."""

    what: str
    why: str
    effect: float
    credence: float
    papers: tuple[str, ...]


Space = dict[str, dict[str, Option]]
Choices = dict[str, str]


@dataclass(frozen=True)
class Step:
    """One part of a parent's code built another way."""

    part: str
    option: str
    expected: float  # of this option now, given what was seen of it


def space(lab: Lab) -> Space:
    """What space.py lists. Raises LabError where the lab has none, or it fails."""
    try:
        told = json.loads(_ask(lab, "list"))
        return {part: {name: Option(**one | {"papers": tuple(one["papers"])}) for name, one in options.items()} for part, options in told.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise LabError(f"{PROGRAM} lists no parts: {error}", hint=f"python {lab.root / PROGRAM} list") from error


def _ask(lab: Lab, *args: str) -> str:
    if not (lab.root / PROGRAM).is_file():
        raise LabError(f"this lab has no {PROGRAM}: there is no space to search", hint="lab init DIR --example root has one; or let an agent ideate")
    done = subprocess.run([sys.executable, PROGRAM, *args], cwd=lab.root, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise LabError(
            f"{PROGRAM} {args[0]} failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}", hint=f"python {lab.root / PROGRAM} {args[0]}"
        )
    return done.stdout


def default(parts: Space) -> Choices:
    return {part: next(iter(options)) for part, options in parts.items()}


def believed(expected: float, spread: float, seen: Sequence[float], noise: float) -> tuple[float, float]:
    """Mean and sd of a normal belief N(expected, spread^2) in an option's effect after effects `seen` with noise of sd `noise` each."""
    precision = 1 / spread**2 + len(seen) / noise**2
    return (expected / spread**2 + sum(seen) / noise**2) / precision, precision**-0.5


def propose(
    parts: Space,
    choices: Choices,
    tried: set[tuple],
    seen: Mapping[tuple[str, str, str], Sequence[float]],
    sign: int,
    spread: float,
    noise: float,
    rng: random.Random,
) -> Step | None:
    """The change of one part that looks best in a draw from what is believed of each (Thompson 1933); None when all around `choices` were tried.

    `tried`: combinations, as `key`. `seen`: effects by (part, from, to), measured where nothing else was changed, candidate minus parent. `sign`: +1 where higher is better.
    """
    best: tuple[float, Step] | None = None
    for part, options in parts.items():
        base = options[choices[part]].effect
        for name, option in options.items():
            if name == choices[part] or key(choices | {part: name}) in tried:
                continue
            mean, sd = believed(option.effect - base, spread, seen.get((part, choices[part], name), ()), noise)
            drawn = sign * rng.gauss(mean, sd)
            if best is None or drawn > best[0]:
                best = (drawn, Step(part, name, mean))
    return best and best[1]


def open_parents(parts: Space, choices: Mapping[str, Choices], tried: set[tuple]) -> set[str]:
    """The keys of candidates that have a neighbour, one part changed, which was not tried."""
    return {
        name
        for name, chosen in choices.items()
        if any(key(chosen | {part: option}) not in tried for part, options in parts.items() for option in options if option != chosen[part])
    }


def passing_over(scored: Sequence[Scored], open_: set[str]) -> list[Scored]:
    """Candidates as a policy sees them, where it may pick only `open_` ones: the others have no score, and keep their places in the tree."""
    return [one if one.key in open_ else replace(one, score=None, tries=pool.DEPTH) for one in scored]


def key(choices: Mapping[str, str]) -> tuple:
    return tuple(sorted(choices.items()))


def known(lab: Lab, parts: Space) -> dict[str, Choices]:
    """The options of every idea that says them, by slug, main's with them. One that names what space.py no longer has is left out."""
    found = {BASELINE: default(parts)}
    for slug, path in ideas.slugs(lab).items():
        fields, _ = problems.front_matter(path)
        said = fields.get("parts")
        if isinstance(said, dict) and said.keys() == parts.keys() and all(said[part] in parts[part] for part in parts):
            found[slug] = dict(said)
    return found


def effects(tree: Tree, chosen: dict[str, Choices]) -> dict[tuple[str, str, str], list[float]]:
    """What was measured each time one option of a part took another's place, both ways: candidate minus parent, where nothing else differs."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for one in tree.candidates:
        above = tree.by_key.get(one.parent)
        if above is None or one.effect is None or one.idea not in chosen or above.idea not in chosen:
            continue
        differs = [part for part, option in chosen[one.idea].items() if chosen[above.idea][part] != option]
        if len(differs) == 1:
            saw(found, differs[0], chosen[above.idea][differs[0]], chosen[one.idea][differs[0]], one.effect)
    return found


def saw(seen: dict[tuple[str, str, str], list[float]], part: str, old: str, new: str, effect: float) -> None:
    """Remember an effect, and its reverse for the way back."""
    seen.setdefault((part, old, new), []).append(effect)
    seen.setdefault((part, new, old), []).append(-effect)


def search(lab: Lab, count: int, *, policy: str | None = None, seed: int = 0, stage: str = "explore") -> Iterator[str]:
    """Make, check and queue `count` experiments, at most AHEAD waiting at a time; yields the slug of each once it is queued, and ends when all are settled.

    Raises LabError when the baseline was not measured, the space is empty of untried neighbours, or the queue has stopped.
    """
    problem, parts, rng = problems.load(lab), space(lab), random.Random(seed)
    rule, sizes = pool.policy(policy or problem.search.policy), sizes_of(problem)
    for _ in range(count):
        wait(lab, AHEAD)
        tree, chosen = lineage.of_lab(lab).at(stage), known(lab, parts)
        roots = [one for one in tree.candidates if one.idea == BASELINE and one.value is not None]
        if not roots:
            raise LabError(f"the baseline was not measured at stage {stage}", hint=f"just baseline --stage {stage}")
        scored = [one for one in tree.scored() if tree.by_key[one.key].idea in chosen]
        tried = {key(one) for one in chosen.values()}
        open_ = open_parents(parts, {one.key: chosen[tree.by_key[one.key].idea] for one in scored if one.score is not None}, tried)
        if not open_:
            raise LabError("every neighbour of what was measured was tried", hint=f"add options to {PROGRAM}")
        pick = rule(passing_over(scored, open_), sizes, rng)
        parent = tree.by_key[pick.parent].idea
        floor = overview.floor_of(lab, stage) or problem.smallest_effect
        step = propose(parts, chosen[parent], tried, effects(tree, chosen), problem.sign, SURPRISE * problem.smallest_effect, 2**0.5 * floor, rng)
        slug = write(lab, parts, chosen[parent], parent, step, pick.why)
        try:
            checked = prepare(lab, slug, parts, chosen[parent], step)
            if checked:
                queue.enqueue(lab, slug, None, stage, [0], [])
        except BaseException:  # killed, or refused by disk or data: what was not asked was not tried
            discard(lab, slug)
            raise
        if checked:
            yield slug
    wait(lab, 0)


def prepare(lab: Lab, slug: str, parts: Space, choices: Choices, step: Step) -> bool:
    """The idea's worktree with its code, committed; whether it holds what probe.py asks."""
    tree = queue.worktree(lab, slug)
    (tree / "train.py").write_text(_ask(lab, "render", json.dumps(choices | {step.part: step.option})))
    commit(tree, f"exp({slug}): {parts[step.part][step.option].what}")
    try:
        smoke.look(lab, tree)
    except LabError as error:
        logger.warning(f"{slug} is not queued: {error.what}")
        return False
    return True


def discard(lab: Lab, slug: str) -> None:
    """Take back the idea file, worktree and branch of an experiment that was never asked."""
    import git

    repo = git.Repo(lab.root)
    if lab.worktree(slug).exists():
        repo.git.worktree("remove", "--force", str(lab.worktree(slug)))
    if f"exp/{slug}" in {head.name for head in repo.heads}:
        repo.git.branch("-D", f"exp/{slug}")
    ideas.slugs(lab)[slug].unlink()


def sizes_of(problem: problems.Problem) -> pool.Sizes:
    told = problem.search
    return pool.Sizes(told.pool, told.parents, told.references, told.cold, told.batch)


def wait(lab: Lab, most: int) -> None:
    """Until at most `most` runs of the lab wait or run, and everything that ended is settled. Raises LabError when the queue stands still."""
    from monolab import pueue

    while True:
        tasks = backlog.unfinished(lab)
        if len(tasks) <= most:
            break
        groups = pueue.groups()
        if paused := {task.group for task in tasks.values() if groups[task.group].status != "Running"}:
            raise LabError(f"the queue is paused ({', '.join(sorted(paused))})", hint="pueue start --group GROUP")
        time.sleep(0.5)
    if most == 0:
        settle.settle(lab)


def write(lab: Lab, parts: Space, choices: Choices, parent: str, step: Step, why: str) -> str:
    """The idea file of a step; its slug."""
    with results.locked(lab):  # two searches must not take the same number
        return _write(lab, parts, choices, parent, step, why)


def _write(lab: Lab, parts: Space, choices: Choices, parent: str, step: Step, why: str) -> str:
    option, problem = parts[step.part][step.option], problems.load(lab)
    taken, number = ideas.slugs(lab), 1
    while any(slug.startswith(f"s{number:03}-") for slug in taken):
        number += 1
    slug = re.sub(r"[^a-z0-9-]+", "-", f"s{number:03}-{step.part}-{step.option}".lower())[:48].rstrip("-")
    least = problem.smallest_effect
    predicted = step.expected if abs(step.expected) >= least else problem.sign * least
    front = {
        "question": f"Does it help that {option.what}?",
        "hypothesis": f"With {step.part} {step.option} instead of {choices[step.part]}: {option.why or 'it is what main has, and the change away from it is undone'}.",
        "predicted_effect": float(f"{predicted:.3g}"),
        "credence": option.credence or 0.4,
        "kill_rule": "the gate drops it",
        "parent": parent,
        "papers": list(option.papers),
        "origin": "cognition" if option.papers else "experience",
        "parts": choices | {step.part: step.option},
    }
    body = f"# {step.part}: {step.option}\n\n**Mechanism.** {option.why or 'See the parent.'}\n\n**Change.** {option.what}; nothing else.\n\n**Chosen.** By `lab search`: {why}.\n"
    path = lab.ideas / f"{datetime.now(UTC):%Y-%m-%d}_{slug}.md"
    receipts.write_atomic(path, f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=140)}---\n{body}")
    return slug


def commit(tree: Path, message: str) -> None:
    import git

    repo = git.Repo(tree)
    repo.git.add("train.py")
    repo.git.commit("-q", "-m", message)


def summary(lab: Lab, stage: str, made: list[str]) -> str:
    tree = lineage.of_lab(lab).at(stage)
    found = [one for one in tree.candidates if one.idea in made]
    kept = [one for one in found if one.decision in ("keep", "simpler")]
    return f"{len(found)} experiments, {sum(len(one.runs) for one in found)} runs; kept: {', '.join(one.key for one in kept) or 'none'}"

"""The embedded searcher: ideas with real code from the lab's own space.py, chosen by the same policies that advise an agent, without any model.

space.py of the lab's root lists parts and options and writes the code of a combination; nothing here knows what they are about. What was tried,
and what came of it, is read from the idea files (`parts` in the front matter) and the ledger, so a search that was interrupted goes on. It builds
on candidates, one code with one set of options each, and not on ideas: an idea whose code was changed by hand, or run with other options, has several.
"""

import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import yaml
from loguru import logger

from monolab import (
    backlog,
    controls,
    dispatch,
    doctor,
    ideas,
    lineage,
    overview,
    pool,
    pueue,
    queue,
    receipts,
    results,
    settle,
    smoke,
    snapshot,
    verdicts,
)
from monolab import problem as problems
from monolab.errors import LabError
from monolab.lineage import Candidate, Tree
from monolab.paths import BASELINE, Lab
from monolab.pool import Scored
from monolab.receipts import Request

PROGRAM = "space.py"
SURPRISE = 3.0  # sd of what an option does beyond what was expected of it, in units of the metric's smallest effect
AHEAD = 2  # runs of its own that may wait or run before it thinks of another: the device never waits for a thought
POLL_SECONDS = 0.5
LOST_SECONDS = 60.0  # after which a run that no queue knows of is not waited for


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
    return {BASELINE: default(parts)} | {slug: choices for slug, (choices, _) in _said(lab, parts).items()}


def _said(lab: Lab, parts: Space) -> dict[str, tuple[Choices, tuple[str, ...]]]:
    """Options of parts, and options for train.py, as idea files say them, by slug."""
    found = {}
    for slug, path in ideas.slugs(lab).items():
        fields, _ = problems.front_matter(path)
        said = fields.get("parts")
        if isinstance(said, dict) and all(option in parts.get(part, ()) for part, option in said.items()):
            found[slug] = (default(parts) | said, tuple(fields.get("options") or ()))  # a part that space.py got since then was main's
    return found


def buildable(lab: Lab, parts: Space, tree: Tree) -> dict[str, Choices]:
    """The options of every candidate that can be built on, by key: those whose train.py is, to the byte, what space.py writes for what their idea says.

    Of the baseline only its newest code. Where somebody has changed the code by hand, to write a combination anew would undo that.
    """
    said, found = known(lab, parts), {}
    main = [one.key for one in tree.candidates if one.idea == BASELINE][-1:]
    for one in tree.candidates:
        if one.idea in said and (one.idea != BASELINE or one.key in main) and _train(lab, one.commit) == _render(lab, said[one.idea]):
            found[one.key] = said[one.idea]
    return found


def _render(lab: Lab, choices: Choices) -> str:
    main, program = ((lab.root / name).read_text() for name in ("train.py", PROGRAM))
    return _rendered(lab, main, program, key(choices))


@cache
def _rendered(lab: Lab, main: str, program: str, choices: tuple) -> str:  # `main` and `program`: what space.py makes depends on both
    return _ask(lab, "render", json.dumps(dict(choices)))


@cache
def _train(lab: Lab, commit: str) -> str:
    return f"{snapshot.text(lab, commit, 'train.py')}\n"  # git's output comes without its last end of line


def attempts(lab: Lab, parts: Space, tree: Tree) -> dict[tuple[str, ...], set[tuple]]:
    """The combinations that were tried with each set of options for train.py: what idea files say, and what was run of them with other options."""
    said = _said(lab, parts)
    found: dict[tuple[str, ...], set[tuple]] = {(): {key(default(parts))}}
    for choices, options in said.values():
        found.setdefault(options, set()).add(key(choices))
    for one in tree.candidates:
        if one.idea in said:
            found.setdefault(one.options, set()).add(key(said[one.idea][0]))
    return found


def effects(tree: Tree, chosen: Mapping[str, Choices]) -> dict[tuple[str, str, str], list[float]]:
    """What was measured each time one option of a part took another's place, both ways: candidate minus parent, where nothing else differs.

    `chosen`: by key.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for one in tree.candidates:
        above = tree.by_key.get(one.parent)
        if above is None or one.effect is None or one.key not in chosen or above.key not in chosen or one.options != above.options:
            continue
        mine, theirs = chosen[one.key], chosen[above.key]
        differs = [part for part, option in mine.items() if theirs[part] != option]
        if len(differs) == 1:
            saw(found, differs[0], theirs[differs[0]], mine[differs[0]], one.effect)
    return found


def saw(seen: dict[tuple[str, str, str], list[float]], part: str, old: str, new: str, effect: float) -> None:
    """Remember an effect, and its reverse for the way back."""
    seen.setdefault((part, old, new), []).append(effect)
    seen.setdefault((part, new, old), []).append(-effect)


def search(lab: Lab, count: int, *, policy: str | None = None, seed: int = 0, stage: str = "explore") -> Iterator[str]:
    """Make, check and queue `count` experiments, at most AHEAD of its own runs waiting at a time; yields the slug of each once it is queued.

    Ends when nothing more is to come of its own, whatever else the queue holds: `still_open` says which of them have no last word then, and why.
    Raises LabError when the baseline was not measured, the space is empty of untried neighbours, or the queue has stopped.
    """
    problem, parts, rng = problems.load(lab), space(lab), random.Random(seed)
    rule, sizes = pool.policy(policy or problem.search.policy), sizes_of(problem)
    made: list[str] = []
    reference = {one.run_id for one in backlog.pending(lab) if (one.idea, one.stage) == (BASELINE, stage)}
    wait(lab, lambda one: one.run_id in reference)
    for _ in range(count):
        wait(lab, _of(made, stage), AHEAD)
        tree = lineage.of_lab(lab).at(stage)
        if not any(one.idea == BASELINE and one.value is not None for one in tree.candidates):
            raise LabError(f"the baseline was not measured at stage {stage}", hint=f"just baseline --stage {stage}")
        chosen, tried = buildable(lab, parts, tree), attempts(lab, parts, tree)
        if not any(tree.by_key[name].idea == BASELINE for name in chosen):
            what = f"what {PROGRAM} writes for main's own options is not the train.py that the baseline measured"
            raise LabError(what, hint=f"git status; then: just baseline --stage {stage}")
        scored = tree.scored()
        open_ = _open(parts, tree, {one.key: chosen[one.key] for one in scored if one.score is not None and one.key in chosen}, tried)
        if not open_:
            told = LabError("every neighbour of what was measured was tried", hint=f"add options to {PROGRAM}")
            if not made:
                raise told
            logger.warning(f"{len(made)} of {count} experiments were made: {told.what}")
            break
        pick = rule(passing_over(scored, open_), sizes, rng)
        above = tree.by_key[pick.parent]
        floor = overview.floor_of(lab, stage) or problem.smallest_effect
        spread, noise = SURPRISE * problem.smallest_effect, 2**0.5 * floor
        step = propose(parts, chosen[above.key], tried.get(above.options, set()), effects(tree, chosen), problem.sign, spread, noise, rng)
        slug = write(lab, parts, chosen[above.key], above, step, pick.why)
        try:
            checked = prepare(lab, slug, parts, chosen[above.key], step, above)
            if checked:
                ask(lab, slug, stage, above)
        except BaseException:  # killed, or refused by disk or data: what was not asked was not tried
            discard(lab, slug)
            raise
        if checked:
            made.append(slug)
            try:
                controls.due(lab, stage)
            except LabError as error:  # the idea is queued: what its control lacks is no reason to stop
                logger.warning(f"no control was queued: {error}")
            yield slug
    close(lab, made, stage)


def _open(parts: Space, tree: Tree, chosen: Mapping[str, Choices], tried: Mapping[tuple[str, ...], set[tuple]]) -> set[str]:
    """`open_parents`, where what was tried with other options for train.py does not count."""
    options = {name: tree.by_key[name].options for name in chosen}
    found = (
        open_parents(parts, {name: chosen[name] for name in chosen if options[name] == own}, tried.get(own, set())) for own in {*options.values()}
    )
    return set().union(*found)


def prepare(lab: Lab, slug: str, parts: Space, choices: Choices, step: Step, above: Candidate) -> bool:
    """The idea's worktree with its code, committed, all but train.py being the candidate `above`'s; whether it holds what probe.py asks."""
    import git

    tree = queue.worktree(lab, slug)
    if above.idea != BASELINE:  # else it stands on main
        git.Repo(tree).git.reset("-q", "--hard", above.commit)
    (tree / "train.py").write_text(_render(lab, choices | {step.part: step.option}))
    commit(tree, f"exp({slug}): {parts[step.part][step.option].what}")
    try:
        smoke.look(lab, tree, above.options)
    except LabError as error:
        logger.warning(f"{slug} is not queued: {error.what}")
        return False
    return True


def ask(lab: Lab, slug: str, stage: str, above: Candidate) -> None:
    """Queue the first seed of an idea with the options of the candidate `above`, to be held against that: `lab queue` takes the newest code of the parent."""
    group = dispatch.prepare()
    doctor.quick(lab)
    with dispatch.asking(lab):
        (made,) = queue.requests(lab, slug, lab.worktree(slug), None, stage, [0], list(above.options), required=True)
        if above.idea != BASELINE:
            ran = {receipts.request(lab, run_id).seed: run_id for run_id in reversed(above.runs)}
            made = replace(made, parent=ran.get(made.seed, above.runs[0]))
            receipts.write_request(lab, made)
        dispatch.send(lab, [made], group)


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


def _of(made: Sequence[str], stage: str) -> Callable[[Request], bool]:
    return lambda one: one.idea in made and one.stage == stage


def coming(lab: Lab, which: Callable[[Request], bool]) -> set[str]:
    """The runs that `which` picks and that wait, run, or whose process is still at what follows from them."""
    found = {one.run_id for one in backlog.pending(lab) if which(one)}
    busy = (run_id for run_id in backlog.opened(lab) if backlog.over(lab, run_id) and backlog.alive(lab, run_id) is not None)
    return found | {run_id for run_id in busy if which(receipts.request(lab, run_id))}


def wait(lab: Lab, which: Callable[[Request], bool], most: int = 0) -> None:
    """Until at most `most` of the runs that `which` picks are still to come, whatever else the queue holds.

    Raises LabError when the queue that they are in stands still, no daemon answers, or one of them is in no queue.
    """
    lost_since = time.monotonic()
    while len(left := coming(lab, which)) > most:
        told = pueue.state()
        if told is None:
            raise LabError("no pueue daemon answers", hint="pueued -d; then the same again: it goes on where it was")
        queued, groups = backlog.unfinished(lab, told[0]), told[1]
        mine = [queued[run_id] for run_id in left if run_id in queued]
        paused = {f"--group {task.group}" for task in mine if groups[task.group].status != "Running"}
        paused |= {f"{task.id}" for task in mine if task.state == "Paused"}
        if paused:
            raise LabError(f"the queue is paused ({', '.join(sorted(paused))})", hint=f"pueue start {min(paused)}")
        if lost := [run_id for run_id in left if run_id not in queued and not backlog.over(lab, run_id) and backlog.alive(lab, run_id) is None]:
            doctor.quick(lab)
            if time.monotonic() > lost_since + LOST_SECONDS:
                raise LabError(f"{min(lost)} is in no queue", hint="lab doctor")
        else:
            lost_since = time.monotonic()
        time.sleep(POLL_SECONDS)


def close(lab: Lab, made: Sequence[str], stage: str) -> None:
    """Until nothing more is to come of the ideas `made`: a verdict queues further seeds, which are waited for too.

    What others queue is waited for only where a verdict needs it and it was queued by then: they may never stop.
    """
    mine, waited = _of(made, stage), False
    while True:
        wait(lab, mine)
        doctor.quick(lab)
        settle.settle(lab)
        if coming(lab, mine):
            waited = False
            continue
        needed = coming(lab, _of(_under(lab, list(still_open(lab, made, stage)), stage), stage))
        if waited or not needed:
            return
        wait(lab, lambda one, needed=needed: one.run_id in needed)
        waited = True


def _under(lab: Lab, slugs: Sequence[str], stage: str) -> list[str]:
    """The ideas that a verdict on one of `slugs` waits for: their ancestors, the baseline last. Nothing for nothing."""
    tree = lineage.of_lab(lab).at(stage)
    above = [other.idea for one in tree.candidates if one.idea in slugs for other in tree.ancestors(one.key)]
    return [*dict.fromkeys(above), BASELINE] if slugs else []


def still_open(lab: Lab, made: Sequence[str], stage: str) -> dict[str, str]:
    """Those of the ideas `made` that have no last verdict, and why."""
    found, past, rows = {}, verdicts.looks(lab), results.view(lab)
    for slug in made:
        mine = rows.of(slug, stage)
        looks = [one for one in past.arms(stage, control=False, of=[row.run_id for row in mine]) if one.idea == slug] if mine else []
        if not mine:
            gone = [one.run_id for one in backlog.given_up(lab, slug) if one.idea == slug]
            found[slug] = f"{gone[-1]} was refused or cancelled" if gone else "none of its runs has ended"
        elif not looks:
            found[slug] = f"its last run ended {mine[-1].status}, and it is not judged yet"
        elif wanting := next((one for one in looks if not one.final), None):
            found[slug] = f"the gate asks for more seeds: {wanting.gate.why}"
    return found


def write(lab: Lab, parts: Space, choices: Choices, above: Candidate, step: Step, why: str) -> str:
    """The idea file of a step from the candidate `above`; its slug."""
    with results.locked(lab):  # two searches must not take the same number
        return _write(lab, parts, choices, above, step, why)


def _write(lab: Lab, parts: Space, choices: Choices, above: Candidate, step: Step, why: str) -> str:
    option, problem = parts[step.part][step.option], problems.load(lab)
    taken, number = ideas.slugs(lab), 1
    while any(slug.startswith(f"s{number:03}-") for slug in taken):
        number += 1
    slug = re.sub(r"[^a-z0-9-]+", "-", f"s{number:03}-{step.part}-{step.option}".lower())[:48].rstrip("-")
    least = problem.smallest_effect
    predicted = math.copysign(max(abs(step.expected), least), step.expected or problem.sign)
    front = {
        "question": f"Does it help that {option.what}?",
        "hypothesis": f"With {step.part} {step.option} instead of {choices[step.part]}: {option.why or 'it is what main has, and the change away from it is undone'}.",
        "predicted_effect": float(f"{predicted:.3g}"),
        "credence": option.credence or 0.4,
        "kill_rule": f"the 95 % interval of the paired difference does not lie {'above' if problem.sign > 0 else 'below'} 0 over the seeds that the gate asks for",
        "parent": above.idea,
        "papers": list(option.papers),
        "origin": "cognition" if option.papers else "experience",
        "parts": choices | {step.part: step.option},
    } | ({"options": list(above.options)} if above.options else {})
    builds = f"On {above.key}" + (f", with its options {' '.join(above.options)}" if above.options else "")
    body = (
        f"# {step.part}: {step.option}\n\n**Mechanism.** {option.why or 'See the parent.'}\n\n**Change.** {builds}: {option.what}; nothing else.\n\n"
        f"**Chosen.** By `lab search`: {why}.\n"
    )
    path = lab.ideas / f"{datetime.now(UTC):%Y-%m-%d}_{slug}.md"
    receipts.write_atomic(path, f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=140)}---\n{body}")
    return slug


def commit(tree: Path, message: str) -> None:
    import git

    repo = git.Repo(tree)
    repo.git.add("train.py")
    repo.git.commit("-q", "-m", message)


def summary(lab: Lab, stage: str, made: list[str]) -> str:
    """What came of the ideas `made`, and which of them have no last verdict."""
    tree = lineage.of_lab(lab).at(stage)
    found = [one for one in tree.candidates if one.idea in made]
    kept = [one for one in found if one.decision in ("keep", "simpler")]
    told = f"{len(made)} experiments, {sum(len(one.runs) for one in found)} runs; kept: {', '.join(one.key for one in kept) or 'none'}"
    return "\n".join([told, *(f"open: {slug}: {why}" for slug, why in still_open(lab, made, stage).items())])

"""What to build on next and everything an author needs for it, as data and as Markdown: `lab next`.

The context is bounded and made anew each time: a parent and references drawn by the search's policy, each summed up in a few lines; insights of
papers on what ails the parent; earlier failures near it; and, where the search stands still, another kind of question.
"""

import random
from dataclasses import asdict, dataclass

from monolab import cognition, fence, fitness, ideas, lineage, lineage_page, memory, overview, pool, receipts, results, rubric, searcher
from monolab import problem as problems
from monolab.errors import LabError
from monolab.journal import number
from monolab.lineage import Candidate, Tree
from monolab.paths import BASELINE, Lab

SUMMARY = 600  # characters of one candidate's summary
CHANGE = 6_000  # characters of the parent's code change
NEAR, INSIGHTS = 4, 4
STILL = (  # what is asked for instead where nothing was kept for long, in turn, and what is shown with it
    ("Ask about something no kept idea touches: another part of the model, the data, or the optimiser.", "touched"),
    ("Take a discarded idea whose assumption a later verdict overturned, and say what is different now.", "revived"),
    ("Remove something: the simplest change that loses nothing is kept as well.", ""),
    ("Read the failures below again, as one list, and ask what they have in common: which assumption do they share that may be wrong?", "failed"),
)
LISTED = 12  # lines of what is shown with it
SETTINGS = 3  # of the filler's best settings


@dataclass(frozen=True)
class Summary:
    """One candidate in a few lines."""

    key: str
    text: str


@dataclass(frozen=True)
class Advice:
    metric: str
    direction: str
    smallest_effect: float
    policy: str
    why: str
    repair: bool  # the policy wants the parent's failure repaired, not built on
    parent: Candidate
    fitness: dict[str, float | None] | None
    change: str  # the parent's code against main's
    summaries: tuple[Summary, ...]  # parent first, then the references
    insights: tuple[dict, ...]
    failures: tuple[dict, ...]
    since_a_winner: int
    direction_of_thought: str  # "" unless the search stands still
    shown_for_it: tuple[str, ...]  # what that direction starts from
    settings: tuple[str, ...]  # what filling an idle device has shown


def advise(lab: Lab, *, policy: str | None = None, seed: int | None = None, stage: str = "explore", tree: str = "") -> Advice:
    """Raises LabError when nothing was measured yet, and for an unknown policy."""
    problem = problems.load(lab)
    name = policy or problem.search.policy
    rule = pool.policy(name)
    known = lineage.load(lab, tree)
    known = known if tree else known.at(stage)
    if not any(one.value is not None for one in known.candidates):
        raise LabError(f"nothing was measured at stage {stage}: there is nothing to build on", hint="just baseline")
    rng = random.Random(seed if seed is not None else len(known.candidates))
    pick = rule(known.scored(), searcher.sizes_of(problem), rng)
    parent = known.get(pick.parent)
    past = overview.report(known, {}, plateau=problem.search.plateau) if any(one.parent for one in known.candidates) else None
    since, still = (past["since_a_winner"], past["plateau"]) if past else (0, False)
    direction, material = STILL[(since // problem.search.plateau - 1) % len(STILL)] if still else ("", "")
    root = next((one for one in known.candidates if one.idea == BASELINE and one.commit), None)
    change = lineage_page.change(lab, root, parent) if root and parent.commit and parent.key != root.key else parent.code
    symptom = ailing(known, parent)
    return Advice(
        metric=known.metric,
        direction=known.direction,
        smallest_effect=problem.smallest_effect,
        policy=name,
        why=pick.why,
        repair=pick.debug,
        parent=parent,
        fitness=fitness_of(lab, known, parent),
        change=change if len(change) <= CHANGE else change[:CHANGE] + "\n(cut; whole: lab lineage diff)",
        summaries=tuple(Summary(key, summary(known, known.get(key))) for key in (parent.key, *pick.references)),
        insights=tuple(_insight(one.insight) for one in (cognition.retrieve(lab, symptom, INSIGHTS) if cognition.files(lab) else ())),
        failures=tuple(memory.as_json(hit) for hit in _failures(lab, parent, symptom)),
        since_a_winner=since,
        direction_of_thought=direction,
        shown_for_it=_shown(lab, known, material),
        settings=_settings(lab, problem, stage) if not tree else (),
    )


def _shown(lab: Lab, tree: Tree, what: str) -> tuple[str, ...]:
    """What a direction of thought starts from: what kept ideas touch, discards that a later verdict puts in doubt, or all failures."""
    if what == "touched":
        kept = [one.idea for one in tree.candidates if one.decision in ("keep", "simpler") and one.idea in ideas.slugs(lab)]
        return tuple(f"{slug} touches {', '.join(ideas.load(lab, slug).touches) or 'what its hypothesis says'}" for slug in dict.fromkeys(kept))[
            :LISTED
        ]
    if what == "revived":
        return tuple(f"{one.slug}: {one.because}; it had assumed: {one.assumption}" for one in memory.revived(lab)[:LISTED])
    if what == "failed":
        lost = [one for one in reversed(tree.candidates) if one.decision == "drop" or one.verdict == "refuted" or one.value is None]
        return tuple(summary(tree, one)[:200] for one in lost[:LISTED])
    return ()


def _settings(lab: Lab, problem: problems.Problem, stage: str) -> tuple[str, ...]:
    """The best settings that the filler tried, a seed each: what an author may start from, and no finding yet."""
    rows = [
        row for row in results.view(lab).flagged("filler") if row.stage == stage and row.value is not None and "replicate" not in row.flags.split(",")
    ]
    rows.sort(key=lambda row: -problem.sign * row.value)
    found = []
    for row in rows[:SETTINGS]:
        receipt = receipts.receipt(lab, row.run_id)
        if receipt:
            found.append(f"{row.idea} {' '.join(receipt.args)}: {row.value:.6g} {problem.metric} on one seed ({row.run_id})")
    return tuple(found)


def _failures(lab: Lab, parent: Candidate, symptom: str) -> list[memory.Hit]:
    words = f"{symptom} ({parent.idea.replace('-', ' ')}, which was tried here)"  # never too short to be compared, and never the name of an idea
    return [hit for hit in memory.near(lab, words, NEAR, judged=False) if hit.standing.failed]


def _insight(one: cognition.Insight) -> dict:
    return {
        "id": one.id,
        "scenario": one.scenario,
        "mechanism": one.mechanism,
        "apply_when": one.apply_when,
        "source": one.source.where,
        "title": one.source.title,
    }


def fitness_of(lab: Lab, tree: Tree, one: Candidate) -> dict[str, float | None] | None:
    """The objectives in their columns and their total, against the first root that was measured; None where one of both has no value."""
    root = next((other for other in tree.candidates if not other.parent and other.value is not None), None)
    if root is None or one.value is None or root.value == 0:
        return None
    rated = rubric.newest(lab).get(("rating", one.idea))
    found = fitness.fitness(one.value, root.value, tree.sign, judge=rated and rated.total)
    return asdict(found) | {"total": found.total(judged=problems.load(lab).search.judged)}


def summary(tree: Tree, one: Candidate) -> str:
    """What was tried and what came of it, bounded: numbers first, then the author's words."""
    words = [lineage_page.said(tree, one)]
    if one.parent:
        words.append(f"on {one.parent}")
    if one.hypothesis:
        words.append(f"because: {one.hypothesis}")
    words += [f"{name}: {text}" for name, text in one.notes.items()]
    text = " ".join("; ".join(words).split())
    return text if len(text) <= SUMMARY else text[: SUMMARY - 1].rsplit(" ", 1)[0] + " ..."


def ailing(tree: Tree, one: Candidate) -> str:
    """In words, what is wrong with a candidate: the scenario by which insights are looked up."""
    if one.value is None:
        return f"{one.hypothesis} failed: {one.notes.get('error', one.status)}"
    if one.effect is not None and tree.sign * one.effect < 0:
        return f"{one.hypothesis} made it worse"
    return f"{one.hypothesis} what limits it next" if one.hypothesis else "what limits the baseline: recall, forgetting, state size, mixing of tokens"


def text(found: Advice) -> str:
    """The advice as Markdown. What others wrote is fenced: it is data."""
    one = found.parent
    lines = [
        f"# Next: {'repair' if found.repair else 'build on'} {one.key}",
        "",
        f"Policy {found.policy}: {found.why}. {found.metric}, {found.direction} is better; an effect below {found.smallest_effect:g} is not worth finding.",
    ]
    if found.direction_of_thought:
        lines += ["", f"**Nothing was kept in the last {found.since_a_winner} experiments.** {found.direction_of_thought}"]
        if found.shown_for_it:
            lines += ["", fence.fenced("\n".join(f"- {one}" for one in found.shown_for_it), "To start from")]
    lines += ["", "## Parent and references", "", fence.fenced("\n".join(summary.text for summary in found.summaries), "What was tried")]
    if found.fitness:
        lines += ["", "Fitness of the parent: " + ", ".join(f"{name} {value:.3f}" for name, value in found.fitness.items() if value is not None)]
    if found.change:
        lines += ["", "## Its code against main's", "", fence.fenced(found.change, "A change", "diff")]
    if found.insights:
        claims = (f"- {one['scenario']}: {one['mechanism']} [{one['title']}, {one['source']}]" for one in found.insights)
        lines += ["", "## Insights on what ails it", "", fence.fenced("\n".join(claims), "Authors' claims")]
    if found.failures:
        failed = (f"- {one['idea'] or one['key']}: {one['question']} {one['standing']}" for one in found.failures)
        lines += ["", "## Failures near it: not again in other words", "", fence.fenced("\n".join(failed), "Ideas that failed")]
    if found.settings:
        lines += [
            "",
            "## Settings that filled an idle device, best first",
            "",
            fence.fenced("\n".join(f"- {one}" for one in found.settings), "Trials"),
        ]
    worktree = f"`parent: {one.idea}`" if one.idea != BASELINE else "`parent: baseline`"
    sign = "-" if found.direction == "lower" else "+"
    lines += [
        "",
        "## What to write",
        "",
        f"One idea with a mechanism, {worktree}, a signed `predicted_effect` (say {sign}{max(found.smallest_effect, 0.01):g}) with a credence, and `origin:` cognition (a paper), experience (the",
        "above) or original. `lab idea new SLUG`, `lab idea near SLUG`, `just worktree SLUG`, change train.py, `just smoke`, `just queue SLUG`.",
    ]
    if one.effect is not None:
        lines.insert(
            3,
            f"Its own effect: {number(one.effect)}"
            + (f" [{number(one.low)}, {number(one.high)}]" if one.low is not None else " on one seed")
            + f", {one.decision or 'not judged'}.",
        )
    return "\n".join(lines)

"""The embedded searcher: real ideas, worktrees, code and runs from a lab's own space.py, and the arithmetic of its choice."""

import importlib.util
import json
import random
import sys

import pytest
from conftest import PROGRAM, REPOSITORY, commit
from test_gate import NOISY
from test_lab import call

from monolab import backlog, ideas, lineage, pueue, queue, receipts, results, searcher, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.lineage import Candidate
from monolab.paths import Lab
from monolab.searcher import Option, Step

SPACE = '''"""Two parts, whose options move the number. Run: python space.py list | render CHOICES"""

import json
import sys
from pathlib import Path

EFFECTS = {"first": {"none": 0.0, "good": -0.2, "bad": 0.2}, "second": {"none": 0.0, "better": -0.1}}
if sys.argv[1] == "list":
    print(json.dumps({part: {name: {"what": f"{part} is {name}", "why": "it moves the number" if effect else "", "effect": effect, "credence": 0.6 if effect else 0.0,
        "papers": ["arXiv:2412.06464"] if effect else []} for name, effect in options.items()} for part, options in EFFECTS.items()}))
else:
    choices = json.loads(sys.argv[2])
    offset = round(sum(EFFECTS[part][name] for part, name in choices.items()), 3)
    print(Path("train.py").read_text().replace("offset: float = 0.0", f"offset: float = {offset}"), end="")
'''


OTHER = """---
question: Does another agent wait too?
hypothesis: It does not, because the search asks for its own runs alone.
predicted_effect: -0.1
credence: 0.5
kill_rule: no gain over three seeds
parent: baseline
---
"""


def candidate(name: str, parent: str = "", effect: float | None = None, options: tuple[str, ...] = ()) -> Candidate:
    return Candidate(key=name, idea=name, parent=parent, stage="explore", when="", status="ok", value=1.0, seeds=1, effect=effect, options=options)


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    lab = lab_repo(
        **{"train.py": NOISY, "space.py": SPACE, "program.md": PROGRAM.replace("memory_gb: 1\n", "memory_gb: 1\nsearch: {policy: greedy, cold: 0}\n")}
    )
    call(lab.root, "data")
    return lab


def test_it_makes_ideas_with_real_code_and_goes_on_where_it_was(lab):
    assert "baseline was not measured" in call(lab.root, "search", "--n", "1", check=False).stderr
    call(lab.root, "baseline")
    said = call(lab.root, "search", "--n", "2").stdout
    assert "s001-" in said and "s002-" in said and "2 experiments" in said and "open:" not in said
    call(lab.root, "search", "--n", "2", "--seed", "1")
    tree = lineage.of_lab(lab)
    made = [one for one in tree.candidates if one.idea != "baseline"]
    assert [one.idea[:4] for one in made] == ["s001", "s002", "s003", "s004"]
    chosen = searcher.known(lab, searcher.space(lab))
    assert len({searcher.key(chosen[one.idea]) for one in made} | {searcher.key(chosen["baseline"])}) == 5  # nothing is tried twice
    assert all(one.parent and one.origin == "cognition" for one in made)
    best = json.loads(call(lab.root, "best", "--json").stdout)
    assert chosen[best["idea"]]["first"] == "good"
    for one in made:  # the code is what the options say, as a change of one part of its parent's
        offset = {"none": 0.0, "good": -0.2, "bad": 0.2}[chosen[one.idea]["first"]] + {"none": 0.0, "better": -0.1}[chosen[one.idea]["second"]]
        assert f"offset: float = {round(offset, 3)}" in (lab.worktree(one.idea) / "train.py").read_text()
        parent = chosen[tree.by_key[one.parent].idea]
        assert sum(parent[part] != option for part, option in chosen[one.idea].items()) == 1
        idea = ideas.load(lab, one.idea)
        assert idea.predicted_effect != 0 and abs(idea.predicted_effect) >= problems.load(lab).smallest_effect
    assert len([row for row in results.load(lab) if row.idea == "s001-first-good"]) == 3  # the gate bought its evidence
    call(lab.root, "search", "--n", "1", "--seed", "2")
    assert "every neighbour" in call(lab.root, "search", "--n", "1", check=False).stderr
    told = json.loads(call(lab.root, "analysis", "--json").stdout)
    assert told["made"] == 5 and told["keep_rate"]["hits"] >= 1 and told["floor"] > 0
    row = next(row for row in told["components"] if row["component"] == "first: good")
    assert row["winners"]["share"] > row["rest"]["share"]


def by_hand(lab: Lab, slug: str, offset: float | None = None, *args: str) -> None:
    """As another agent does: the idea's code with another offset, or the same with options."""
    if offset is not None:
        train = lab.worktree(slug) / "train.py"
        lines = [f"    offset: float = {offset}" if line.startswith("    offset: float") else line for line in train.read_text().splitlines()]
        train.write_text("\n".join(lines) + "\n")
    queue.enqueue(lab, slug, None, "explore", [0], list(args))
    searcher.wait(lab, lambda one: True)


def test_it_builds_on_a_candidate_and_not_on_whatever_its_idea_was_last(lab):
    call(lab.root, "baseline")
    (first,) = searcher.search(lab, 1)
    assert first == "s001-first-good"
    by_hand(lab, first, None, "--offset", "-0.6")  # the best by far, with an option
    (second,) = searcher.search(lab, 1)
    tree = lineage.of_lab(lab)
    built, above = tree.get(second), tree.get(f"{first}~2")
    assert above.options == ("--offset", "-0.6") and (built.parent, built.options) == (above.key, above.options)
    assert problems.front_matter(ideas.slugs(lab)[second])[0]["options"] == ["--offset", "-0.6"]

    by_hand(lab, first, 5.0)  # its newest code is poor, and nothing that space.py writes
    by_hand(lab, second, -0.95)  # and this one is the best of all, but nobody can build on it without undoing it
    (third,) = searcher.search(lab, 1)
    tree = lineage.of_lab(lab)
    parts = searcher.space(lab)
    newest = [one for one in tree.candidates if one.idea == first][-1]
    assert newest.value > 5 and tree.get(second).value > tree.get(f"{second}~2").value
    assert not {newest.key, f"{second}~2"} & searcher.buildable(lab, parts, tree).keys()
    built = tree.get(third)
    assert built.parent in (first, f"{first}~2", second) and built.options == tree.get(built.parent).options
    assert receipts.request(lab, built.runs[0]).parent in tree.get(built.parent).runs
    assert "offset: float = 5.0" not in (lab.worktree(third) / "train.py").read_text()


def test_what_was_tried_with_other_options_was_not_tried(lab):
    parts = searcher.space(lab)
    main, good = searcher.default(parts), searcher.default(parts) | {"first": "good"}
    tree = lineage.Tree("", "loss", "lower", (candidate("baseline"), candidate("tuned", options=("--lr", "1"))))
    tried = {(): {searcher.key(main | {part: name}) for part, options in parts.items() for name in options}, ("--lr", "1"): {searcher.key(main)}}
    assert searcher._open(parts, tree, {"baseline": main, "tuned": main}, tried) == {"tuned"}
    assert searcher._open(parts, tree, {"baseline": good}, tried) == {"baseline"}


def test_it_ends_when_its_own_experiments_are_closed_whatever_others_queue(lab):
    call(lab.root, "baseline")
    search = searcher.search(lab, 1)
    slug = next(search)
    for number in range(3):  # an agent that keeps the queue full: behind these stands nothing of the search
        (lab.ideas / f"2026-01-0{number + 1}_other-{number}.md").write_text(OTHER)
        queue.worktree(lab, f"other-{number}")
        queue.enqueue(lab, f"other-{number}", None, "explore", list(range(8)), [])
    assert list(search) == []
    assert any(one.idea.startswith("other") for one in backlog.pending(lab))
    assert searcher.still_open(lab, [slug], "explore") == {}
    (look,) = [one for one in verdicts.by_arm(verdicts.records(lab)) if one.idea == slug]
    assert look.final and look.kept and len(look.runs) == 3  # the seeds that its own verdict asked for are in


def test_it_says_what_stays_open_and_stops_with_the_queue(lab):
    lab.program.write_text(lab.program.read_text().replace("search: {", "controls: 0.9\nsearch: {"))
    commit(lab.root)
    call(lab.root, "baseline")
    searcher.wait(lab, lambda one: True)
    group = next(iter({task.group for task in pueue.tasks()}))
    search = searcher.search(lab, 1)
    pueue._call("pause", f"--group={group}")
    slug = next(search)
    assert "control-null" in {one.idea for one in backlog.pending(lab)}  # as many as program.md wants, whoever asks
    with pytest.raises(LabError, match="the queue is paused"):
        list(search)
    assert "none of its runs has ended" in searcher.summary(lab, "explore", [slug])
    queue.cancel(lab, next(iter(searcher.coming(lab, lambda one: one.idea == slug))))
    searcher.close(lab, [slug], "explore")
    assert "was refused or cancelled" in searcher.still_open(lab, [slug], "explore")[slug]


@pytest.mark.slow
def test_the_benchmarks_real_search_ends_by_itself_and_measures_what_was_kept_on_fresh_seeds(lab, capsys):
    spec = importlib.util.spec_from_file_location("search_benchmark", REPOSITORY / "benchmarks" / "search.py")
    bench = importlib.util.module_from_spec(spec)
    sys.modules["search_benchmark"] = bench
    spec.loader.exec_module(bench)
    call(lab.root, "baseline")
    assert bench.explored(lab.root, 6, "greedy") >= 6
    told = bench.verified(lab.root, 3)
    (first, *_) = told["kept"]
    assert told["seeds"] == [101, 102, 103] and first["values"].keys() == told["baseline"].keys() == {101, 102, 103}
    assert first["word"] == "holds" and first["low"] < first["difference"] < first["high"] < 0
    said = capsys.readouterr().out
    assert f"{first['idea']}: " in said and "3 paired seeds; holds" in said
    assert len([row for row in results.load(lab) if row.seed > 100]) == 3 * (1 + len(told["kept"]))


def test_a_part_that_came_later_was_mains_before(lab_repo):
    lab = lab_repo(**{"space.py": SPACE})
    for number, parts in enumerate(("{first: good}", "{first: good, third: more}", "{first: gone}")):
        (lab.ideas / f"2026-02-0{number + 1}_idea-{number}.md").write_text(OTHER.replace("parent: baseline\n", f"parent: baseline\nparts: {parts}\n"))
    main = {"first": "none", "second": "none"}
    assert searcher.known(lab, searcher.space(lab)) == {"baseline": main, "idea-0": main | {"first": "good"}}


def test_every_idea_of_the_root_problems_space_passes_the_bar_of_any_idea(lab_repo):
    lab = lab_repo(**{name: (REPOSITORY / name).read_text() for name in ("space.py", "train.py")})
    parts, subject = searcher.space(lab), problems.load(lab)
    main = searcher.default(parts)
    steps = [Step(part, name, option.effect) for part, options in parts.items() for name, option in options.items() if name != main[part]]
    for step in steps:
        slug = searcher.write(lab, parts, main, candidate("baseline"), step, "a test")
        fields, body = problems.front_matter(ideas.slugs(lab)[slug])
        assert ideas.review(subject, slug, fields, body, ideas.slugs(lab), lab.root / "train.py") == ideas.Review((), ()), slug
        assert fields["parts"] == main | {step.part: step.option} and fields["papers"] and fields["predicted_effect"] * (step.expected or -1) > 0
    assert len(steps) == len(ideas.slugs(lab)) - 2 > 15  # lab_repo brings two


def test_a_lab_without_a_space_says_so(lab_repo):
    with pytest.raises(LabError, match=r"no space\.py"):
        searcher.space(lab_repo())


def option(effect: float) -> Option:
    return Option("", "", effect, 0.5, ())


PARTS = {"a": {"x": option(0.0), "y": option(-0.02)}, "b": {"x": option(0.0), "y": option(0.05), "z": option(-0.01)}}
HERE = {"a": "x", "b": "x"}


def draws(tried: set = frozenset(), seen: dict | None = None, sign: int = -1, times: int = 300) -> list[Step]:
    rng = random.Random(0)
    return [searcher.propose(PARTS, HERE, set(tried), seen or {}, sign, 0.03, 0.01, rng) for _ in range(times)]


def test_the_choice_follows_what_is_believed_and_what_was_seen():
    def share(steps: list[Step], part: str, name: str) -> float:
        return sum((step.part, step.option) == (part, name) for step in steps) / len(steps)

    before = draws()
    assert share(before, "a", "y") > share(before, "b", "z") > share(before, "b", "y") > 0  # also what looks poor is tried at times
    after = draws(seen={("a", "x", "y"): [0.05, 0.06, 0.05]})
    assert share(after, "a", "y") < 0.02 and share(after, "b", "z") > 0.8
    assert share(draws(sign=1), "b", "y") > 0.7


def test_what_was_seen_from_another_option_says_nothing_of_this_change():
    made = (("baseline", "", None), ("gated", "baseline", -0.08), ("constant", "baseline", -0.07), ("both", "gated", -0.02))
    tuned = candidate("tuned", "gated", -0.5, ("--lr", "1"))  # other options as well: whose effect that is, nobody knows
    tree = lineage.Tree("", "loss", "lower", (*(candidate(*one) for one in made), tuned))
    chosen = {
        "baseline": {"d": "none", "b": "x"},
        "gated": {"d": "gated", "b": "x"},
        "constant": {"d": "constant", "b": "x"},
        "both": {"d": "gated", "b": "y"},
        "tuned": {"d": "gated", "b": "y"},
    }
    assert searcher.effects(tree, chosen) == {
        ("d", "none", "gated"): [-0.08],
        ("d", "gated", "none"): [0.08],
        ("d", "none", "constant"): [-0.07],
        ("d", "constant", "none"): [0.07],
        ("b", "x", "y"): [-0.02],
        ("b", "y", "x"): [0.02],
    }


def test_what_was_never_asked_is_taken_back(lab_repo):
    lab = lab_repo(**{"train.py": NOISY, "space.py": SPACE})
    parts = searcher.space(lab)
    step = Step("first", "good", -0.2)
    slug = searcher.write(lab, parts, searcher.default(parts), candidate("baseline"), step, "a test")
    assert searcher.prepare(lab, slug, parts, searcher.default(parts), step, candidate("baseline")) and lab.worktree(slug).exists()
    searcher.discard(lab, slug)
    assert slug not in ideas.slugs(lab) and not lab.worktree(slug).exists() and searcher.known(lab, parts).keys() == {"baseline"}


def test_nothing_is_proposed_twice_and_nothing_is_left_at_the_end():
    tried = {searcher.key(HERE | {"a": "y"}), searcher.key(HERE | {"b": "z"})}
    assert {(step.part, step.option) for step in draws(tried)} == {("b", "y")}
    assert searcher.propose(PARTS, HERE, tried | {searcher.key(HERE | {"b": "y"})}, {}, -1, 0.03, 0.01, random.Random(0)) is None


def test_belief_is_the_normal_one():
    mean, sd = searcher.believed(-0.02, 0.03, [0.01, 0.03], 0.03)
    assert mean == pytest.approx((-0.02 + 0.01 + 0.03) / 3) and sd == pytest.approx(0.03 / 3**0.5)

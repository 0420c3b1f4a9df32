"""`lab idea ...` and `lab cognition ...`: ideas, the memory of what was tried, opinions on ideas, and what papers say that fits."""

import json as format_json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from monolab import fence, paths
from monolab.errors import LabError

LISTED = 40  # ideas that `lab idea list` shows
WIDTH = 100  # of a question in a list
File = Annotated[str | None, tyro.conf.arg(name="from", metavar="FILE|-")]


def _print_json(value) -> None:
    print(format_json.dumps(value, indent=1, ensure_ascii=False))


def _given(file: str) -> str:
    """The text of a file, or of stdin for `-`."""
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{file} cannot be read: {error}", hint="--from FILE, or --from - for stdin") from error


def _short(text: str, width: int = WIDTH) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _train(lab: paths.Lab) -> Path | None:
    return lab.root / "train.py" if (lab.root / "train.py").is_file() else None


# -- ideas --------------------------------------------------------------------------------------------------------


def new(
    slug: str,
    /,
    *,
    file: File = None,
    question: str = "",
    hypothesis: str = "",
    predicted_effect: float | None = None,
    credence: float | None = None,
    kill_rule: str = "",
    parent: str = "baseline",
    papers: tuple[str, ...] = (),
    assumption: str = "",
    needs: tuple[str, ...] = (),
    touches: tuple[str, ...] = (),
    why_small: str = "",
    title: str = "",
    mechanism: str = "",
    change: str = "",
    json: bool = False,
) -> None:
    """Write an idea, checked first: new SLUG --from FILE, or its fields as options; without either the template, to be filled in."""
    from datetime import UTC, datetime

    import yaml

    from monolab import ideas, memory
    from monolab import problem as problems

    lab = paths.find()
    known = ideas.slugs(lab)
    fields = {
        "question": question,
        "hypothesis": hypothesis,
        "predicted_effect": predicted_effect,
        "credence": credence,
        "kill_rule": kill_rule,
        "parent": parent,
        "papers": list(papers),
        "assumption": assumption,
        "needs": list(needs),
        "touches": list(touches),
        "why_small": why_small,
    }
    asked = any(value not in ("", None, [], "baseline") for value in (*fields.values(), title, mechanism, change))
    template = lab.ideas / "_TEMPLATE.md"
    if file:
        text = _given(file)
    elif asked:
        kept = {name: value for name, value in fields.items() if value not in ("", None, []) or name == "papers"}
        parts = [f"# {title or slug}"] + [f"## {name}\n{part}" for name, part in (("Mechanism", mechanism), ("Change", change)) if part]
        text = f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120)}---\n" + "\n\n".join(parts) + "\n"
    elif template.is_file():
        path = ideas.write(lab, slug, template.read_text(), f"{datetime.now(UTC):%Y-%m-%d}")
        _print_json({"path": str(path.relative_to(lab.root)), "filled": False}) if json else print(
            f"{path.relative_to(lab.root)}\nfill in its places, then: lab idea check {slug}"
        )
        return
    else:
        raise LabError("1_ideas/_TEMPLATE.md is missing", hint="git checkout -- 1_ideas/_TEMPLATE.md")
    values, body = problems.parts(text, f"the idea {slug}")
    found = ideas.review(problems.load(lab), slug, values, body, known.keys() | {slug}, _train(lab))
    if found.errors:
        listed = "\n".join(f"  - {one}" for one in found.errors)
        raise LabError(f"the idea {slug} was not written:\n{listed}", hint=f"mend these, then: lab idea new {slug} ...")
    path = ideas.write(lab, slug, text if text.endswith("\n") else f"{text}\n", f"{datetime.now(UTC):%Y-%m-%d}")
    hits, notes = [], list(found.notes)
    try:
        hits = memory.near(lab, slug, 3, judged=False)
    except LabError as error:  # the idea stands: what memory lacks does not undo that
        notes.append(f"memory was not asked: {error.what} ({error.hint})")
    if json:
        near_by = [memory.as_json(hit) for hit in hits]
        _print_json({"path": str(path.relative_to(lab.root)), "filled": True, "notes": notes, "near": near_by})
        return
    print(path.relative_to(lab.root))
    for note in notes:
        print(f"note: {note}")
    _show_hits(hits, heading="nearest to it:")


def list_(*, failed: bool = False, untried: bool = False, limit: int = LISTED, all: bool = False, json: bool = False) -> None:
    """The ideas with what became of them, newest first: [--failed] [--untried] [--limit 40] [--all]."""
    from monolab import memory, rubric

    lab = paths.find()
    standings, rated = memory.standings(lab), rubric.newest(lab)
    nothing = memory.Standing("untried")
    rows = [(entry, standings.get(entry.idea, nothing)) for entry in reversed(memory.entries(lab)) if entry.kind == "idea"]
    if failed:
        rows = [row for row in rows if row[1].failed]
    if untried:
        rows = [row for row in rows if row[1] == nothing and not row[0].wrong]
    shown = rows if all else rows[:limit]
    if json:
        _print_json([_row(entry, standing, rated.get((entry.idea, "rating"))) for entry, standing in shown])
        return
    width = max((len(entry.idea) for entry, _ in shown), default=0)
    for entry, standing in shown:
        opinion = rated.get((entry.idea, "rating"))
        said = f" [rated {opinion.total:.1f} {opinion.band}]" if opinion else ""
        told = f"cannot be read: {entry.wrong}" if entry.wrong else f"{standing.text}{said}: {_short(entry.question, 80)}"
        print(f"{entry.date} {entry.idea:<{width}} {told}")
    if len(shown) < len(rows):
        print(f"and {len(rows) - len(shown):,} older ones: --all, --failed, --untried")
    if not rows:
        print("there is no such idea yet: lab idea new SLUG" if failed or untried else "there is no idea yet: lab idea new SLUG")


def _row(entry, standing, opinion) -> dict:
    one = standing.verdict
    return {
        "slug": entry.idea,
        "date": entry.date,
        "question": entry.question,
        "parent": entry.parent,
        "predicted_effect": entry.predicted,
        "credence": entry.credence,
        "standing": standing.word,
        "failed": standing.failed,
        "verdict": one and one.verdict,
        "decision": one and one.gate.decision,
        "effect": one and one.effect,
        "rating": opinion and {"total": opinion.total, "band": opinion.band, "by": opinion.by},
        "wrong": entry.wrong,
    }


def show(slug: str, /, *, json: bool = False) -> None:
    """One idea with what became of it: its file, verdicts by stage, the assumption that failed, opinions."""
    from monolab import ideas, memory, rubric, verdicts

    lab = paths.find()
    idea = ideas.load(lab, slug)
    entry = next(one for one in memory.entries(lab) if one.key == slug)
    standing = memory.standings(lab).get(slug, memory.Standing("untried"))
    looks = [one for (name, _), one in verdicts.newest(lab).items() if name == slug]
    lost = memory.discard(lab, entry, standing)
    opinions = [one for one in rubric.opinions(lab) if one.idea == slug]
    if json:
        fields = asdict(idea) | {"path": str(idea.path.relative_to(lab.root))}
        seen = [{"stage": one.stage, "verdict": one.verdict, "decision": one.gate.decision, "effect": one.effect, "why": one.why} for one in looks]
        _print_json(
            fields | {"standing": standing.word, "verdicts": seen, "discard": lost and asdict(lost), "opinions": [asdict(one) for one in opinions]}
        )
        return
    print(idea.path.read_text().rstrip())
    print(f"\n-- {idea.path.relative_to(lab.root)}: {standing.text}")
    for one in looks:
        print(f"-- {one.stage}: {one.verdict}, {one.why}; gate: {one.gate.decision}, {one.gate.why}")
    _show_discard(lost)
    for one in opinions:
        said = f"{one.total:.1f} {one.band}" if one.kind == "rating" else f"{one.answer['rating']:g} of 10"
        print(f"-- {one.kind} by {one.by}, {one.time[:10]}: {said} (an opinion, not a result)")


def check(slug: str | None = None, /, *, json: bool = False) -> None:
    """Hold an idea (or all of them) against program.md's quality bar: a mechanism, more than a setting, a prediction that the metric can refute."""
    from monolab import ideas
    from monolab import problem as problems

    lab = paths.find()
    known, subject, train = ideas.slugs(lab), problems.load(lab), _train(lab)
    if slug is not None and slug not in known:
        ideas.load(lab, slug)  # raises, with the nearest names
    found = {}
    for name in known if slug is None else [slug]:
        try:
            values, body = problems.front_matter(known[name])
        except LabError as error:
            found[name] = ideas.Review((error.what,), ())
        else:
            found[name] = ideas.review(subject, name, values, body, known, train)
    if json:
        _print_json({name: asdict(one) for name, one in found.items()})
    else:
        for name, one in found.items():
            for error in one.errors:
                print(f"{name}: {error}")
            for note in one.notes:
                print(f"{name}: note: {note}")
        clean = sum(not one.errors for one in found.values())
        print(f"{clean} of {len(found)} idea(s) pass" if len(found) != 1 or not clean else f"{next(iter(found))} passes")
    if any(one.errors for one in found.values()):
        raise SystemExit(1)


def near(text: str, /, *, k: int = 5, fields_only: bool = False, json: bool = False) -> None:
    """The ideas, runs and discards nearest to TEXT or to the idea SLUG, with their verdicts: near TEXT|SLUG [--k 5]. LAB_JUDGE decides where it is set."""
    from monolab import memory

    if k < 1:
        raise LabError(f"--k {k}: at least one", hint="lab idea near TEXT --k 5")
    hits = memory.near(paths.find(), text, k, judged=not fields_only)
    if json:
        _print_json([memory.as_json(hit) for hit in hits])
    else:
        _show_hits(hits)


def _show_hits(hits: list, heading: str = "") -> None:
    if not hits:
        print("nothing was proposed before it")
        return
    if heading:
        print(heading)
    for hit in hits:
        named = f"{hit.entry.key}" if hit.entry.kind == "idea" else f"run {hit.entry.key}"
        by = "" if hit.comparison.by == "fields" else f", says {hit.comparison.by}"
        print(f"{hit.comparison.decision}{by}: {named}, {hit.standing.text}")
        print(f"    {_short(hit.entry.question or hit.entry.hypothesis, 140)}")
        print(f"    {'; '.join(hit.comparison.reasons)}")
        _show_discard(hit.discard, indent="    ")


def _show_discard(lost, indent: str = "-- ") -> None:
    if lost:
        print(f"{indent}assumed: {_short(lost.assumption, 200)}")
        print(f"{indent}observed: {_short(lost.observed, 240)}")
        if lost.inference:
            print(f"{indent}author's inference: {_short(lost.inference, 300)}")


def revived(*, json: bool = False) -> None:
    """Discards that are worth another look, since a later verdict overturned what spoke against them."""
    from monolab import memory

    found = memory.revived(paths.find())
    if json:
        _print_json([asdict(one) for one in found])
        return
    for one in found:
        print(f"{one.slug}: {one.because} ({one.evidence}); it failed on {one.failed[:10]}\n    assumed: {_short(one.assumption, 200)}")
    if not found:
        print("no discard has been overturned")


# -- opinions -----------------------------------------------------------------------------------------------------


def critique(slug: str, /, *, file: File = None, judge: bool = False, by: str = "", json: bool = False) -> None:
    """Print what a critic is to be asked, or record the answer: critique SLUG [--from ANSWER.json] [--judge]."""
    _opinion("critique", slug, file, judge, by, json)


def rate(slug: str | None = None, /, *, file: File = None, judge: bool = False, by: str = "", json: bool = False) -> None:
    """Rate an idea by the rubric, as critique does; without SLUG all ratings, best first: rate [SLUG] [--from ANSWER.json] [--judge]."""
    from monolab import rubric

    if slug is not None:
        return _opinion("rating", slug, file, judge, by, json)
    ratings = [one for (_, kind), one in rubric.newest(paths.find()).items() if kind == "rating"]
    ratings.sort(key=lambda one: -one.total)
    if json:
        _print_json([asdict(one) for one in ratings])
        return
    for one in ratings:
        scores = ", ".join(f"{name} {one.answer['scores'][name]['score']:g}" for name in rubric.CRITERIA)
        old = "" if one.rubric == rubric.VERSION else f" (rubric {one.rubric})"
        print(f"{one.total:.2f} {one.band:<11} {one.idea}: {scores}; by {one.by}, {one.time[:10]}{old}")
    print("opinions, not results: no verdict knows of them" if ratings else "nothing was rated yet: lab idea rate SLUG")
    return None


def _opinion(kind: str, slug: str, file: str | None, judged: bool, by: str, json: bool) -> None:
    from monolab import ideas, queue, rubric

    lab = paths.find()
    idea = ideas.load(lab, slug)
    text = idea.path.read_text()
    command = "rate" if kind == "rating" else kind
    make, check_answer = rubric.KINDS[kind]
    if file and judged:
        raise LabError("--from and --judge are two ways to one answer", hint="give one of them")
    if file:
        answer = rubric.checked(_given(file), check_answer, "the answer", f"lab idea {command} {slug} prints what is asked, with the schema")
    elif judged:
        answer = rubric.ask(make(text), check_answer)
    else:
        _print_json(make(text))
        if not json:
            print(f"\nanswer in this schema as JSON, then: lab idea {command} {slug} --from FILE", file=sys.stderr)
        return
    one, filled = rubric.take(lab, slug, idea.path, kind, text, answer, by or (rubric.judge() if judged else queue.agent()))
    if json:
        _print_json(asdict(one))
        return
    if kind == "rating":
        scores = ", ".join(f"{name} {value['score']:g}" for name, value in answer["scores"].items())
        print(f"{slug}: {one.total:.2f} {one.band} ({scores}); an opinion by {one.by}, kept in 6_runs/{rubric.RECORD}")
    else:
        print(f"{slug}: {'sound' if answer['sound'] else 'not sound'}, {answer['rating']:g} of 10; kept in 6_runs/{rubric.RECORD}")
        print(f"written under Critique in {idea.path.name}" if filled else f"{idea.path.name} has a critique already, which stays")


# -- the cognition base -------------------------------------------------------------------------------------------


def for_(what: str, /, *, k: int = 3, json: bool = False) -> None:
    """What papers say that fits a run (RUN or SLUG: its failure, verdict and cost) or a symptom in words: for RUN|SLUG|"SYMPTOM" [--k 3]."""
    from monolab import cognition

    if k < 1:
        raise LabError(f"--k {k}: at least one", hint='lab cognition for "the loss spikes" --k 3')
    lab = paths.find()
    symptom = cognition.symptom(lab, what)
    found = cognition.retrieve(lab, symptom.text, k)
    if json:
        entries = [
            asdict(one.insight) | {"cite": one.insight.source.text, "rank": rank, "score": one.score, "shares": one.shares}
            for rank, one in enumerate(found, 1)
        ]
        _print_json({"symptom": asdict(symptom), "entries": entries})
        return
    if symptom.run_id:
        print(f"{symptom.run_id}: {fence.line('; '.join(symptom.signs))}\n")
    told = []
    for one in found:
        insight = one.insight
        lines = (("when", insight.scenario), ("do", insight.mechanism), (insight.claim, insight.evidence), ("use it if", insight.apply_when))
        told.append(f"{insight.id} ({', '.join(insight.topics)})")
        told += [f"  {name}: {' '.join(text.split())} [{insight.source.where}]" for name, text in lines]
        told.append(f"  source: {insight.source.text} ({insight.file})\n")
    print(fence.for_reader("\n".join(told), "What papers say"))


def read(slug: str, /, *, file: File = None, judge: bool = False, json: bool = False) -> None:
    """Print what a reader of the saved paper SLUG is asked, or store the answer beside it: read SLUG [--from ANSWER.json] [--judge]."""
    from monolab import cognition, rubric

    lab = paths.find()
    if file and judge:
        raise LabError("--from and --judge are two ways to one answer", hint="give one of them")
    asked = cognition.request(lab, slug)
    if not file and not judge:
        _print_json(asked)
        if not json:
            print(f"\nanswer in this schema as JSON, then: lab cognition read {slug} --from FILE", file=sys.stderr)
        return
    check_answer = cognition.answered(lab, slug)
    if judge:
        answer = rubric.ask(asked, check_answer)
    else:
        answer = rubric.checked(_given(file), check_answer, "the answer", f"lab cognition read {slug} prints what is asked, with the schema")
    path = cognition.store(lab, slug, answer).relative_to(lab.root)
    _print_json({"path": str(path), "entries": len(answer["insights"])}) if json else print(f"{path}: {len(answer['insights'])} insight(s)")


def cognition_check(*, json: bool = False) -> None:
    """Hold the files of the cognition base against their format: every entry needs scenario, mechanism, evidence, claim, use and source."""
    from monolab import cognition

    lab = paths.find()
    found, wrong = cognition.check(lab)
    if json:
        _print_json({"entries": len(found), "files": len(cognition.files(lab)), "wrong": wrong})
    else:
        print("\n".join([*wrong, f"{len(found)} entries in {len(cognition.files(lab))} file(s), {len(wrong)} fault(s)"]))
    if wrong:
        raise SystemExit(1)


IDEA: dict[str, Callable] = {
    "new": new,
    "list": list_,
    "show": show,
    "check": check,
    "critique": critique,
    "rate": rate,
    "near": near,
    "revived": revived,
}
COGNITION: dict[str, Callable] = {"for": for_, "read": read, "check": cognition_check}

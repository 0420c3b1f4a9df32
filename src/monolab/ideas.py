"""Idea files: `1_ideas/{YYYY-MM-DD}_{slug}.md`, a falsifiable hypothesis each, and what can be told about one before it costs anything."""

import ast
import difflib
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from monolab import label, options, receipts, results
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, Lab
from monolab.problem import Problem

FILLER = "tune-"  # how the slug of settings begins that only fill an idle device (`monolab.tune`)
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
FILE = re.compile(r"(\d{4}-\d{2}-\d{2})_(.+)\.md")
REQUIRED = ("question", "hypothesis", "predicted_effect", "credence", "kill_rule", "parent")
LISTS = ("papers", "needs", "touches")  # optional
EXAMPLES = {  # of a right value, in the words of an error
    "question": "question: Does a decay of the state help?",
    "hypothesis": "hypothesis: A decay per head drops what a finished line left behind, so less of the small state is stale.",
    "predicted_effect": "predicted_effect: -0.02",
    "credence": "credence: 0.6",
    "kill_rule": 'kill_rule: "the 95 % interval of the paired difference does not lie below 0 after three seeds"',
    "parent": "parent: baseline",
    "papers": 'papers: ["arXiv:2412.06464"]',
    "needs": "needs: [short-conv]",
    "touches": "touches: [Config.heads, Model.forward]",
    "assumption": "assumption: stale keys are what fills the state",
    "why_small": "why_small: it removes 1,500 parameters, so no loss is a gain",
}
MECHANISM_WORDS = 12  # below which a text names no mechanism
SMALL_WORDS = 5
CAUSES = re.compile(
    r"\b(because|so that|since|therefore|hence|thus|which|by|lets?|makes?|keeps?|prevents?|allows?|frees?|reduces?|then|so)\b|[:;]", re.IGNORECASE
)
STRUCTURE = re.compile(  # words of a change to the code, not to a number in it
    r"\b(replac\w+|without|remov\w+|add(s|ed|ing)?|new|second|instead of|learned|per (head|channel|token|position|layer)|from the input|gat(e|ed|es|ing)|"
    r"shar(e|ed|es|ing)|tie[ds]?|mix(es|ed|ing)?|introduc\w+|insert\w*|compute[sd]?|project\w*|normalis\w+|normaliz\w+|concatenat\w+|recurren\w+)\b",
    re.IGNORECASE,
)
SETS = re.compile(  # words of a change of a number
    r"\b(rais\w+|lower\w*|doubl\w+|halv\w+|increas\w+|decreas\w+|set(s|ting)?|tun(e|es|ed|ing)|larger|smaller|higher|longer|shorter|wider|narrower|twice|half|more|fewer|"
    r"from \S+ to \S+|sweep\w*|try \S+ instead)\b|->|→|=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Idea:
    """One idea. `predicted_effect` is signed, candidate minus parent, in the metric's unit; `parent` is a slug."""

    slug: str
    path: Path
    question: str
    hypothesis: str
    predicted_effect: float
    credence: float
    kill_rule: str
    parent: str
    papers: tuple[str, ...]
    assumption: str = ""  # what has to be true for it to work, in one sentence
    needs: tuple[str, ...] = ()  # slugs of ideas that it is of no use without
    touches: tuple[str, ...] = ()  # names of train.py that it changes
    why_small: str = ""  # why an effect below smallest_effect is worth finding


def slugs(lab: Lab) -> dict[str, Path]:
    """Every idea's slug and file. Raises LabError for two files with one slug."""
    return {slug: lab.ideas / name for slug, name in _names(lab).items()}


def _names(lab: Lab) -> dict[str, str]:
    """Every idea's slug and the name of its file, oldest first. Raises LabError for two files with one slug."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(lab.ideas)) if lab.ideas.is_dir() else ():  # of 10,000: a Path of each takes ten times as long
        if match := FILE.fullmatch(name):
            if match[2] in found:
                raise LabError(f"two idea files share the slug {match[2]}: {found[match[2]]} and {name}", hint="rename one of them")
            found[match[2]] = name
    return found


def load(lab: Lab, slug: str) -> Idea:
    """The idea called `slug`. Raises LabError for an unknown slug (with the nearest ones) and for every wrong field."""
    known = _names(lab)
    if slug not in known:
        near = difflib.get_close_matches(slug, known, n=3)
        raise LabError(
            f"no idea is called {slug!r} in 1_ideas/",
            hint=f"did you mean {', '.join(near)}?" if near else f"lab idea new {slug} writes 1_ideas/YYYY-MM-DD_{slug}.md from _TEMPLATE.md",
        )
    path = lab.ideas / known[slug]
    fields, _ = problems.front_matter(path)
    if wrong := wrong_fields(slug, fields, known):
        raise LabError(f"1_ideas/{path.name}: " + "; ".join(wrong), hint=f"edit {path}")
    return Idea(
        slug=slug,
        path=path,
        question=str(fields["question"]),
        hypothesis=str(fields["hypothesis"]),
        predicted_effect=float(fields["predicted_effect"]),
        credence=float(fields["credence"]),
        kill_rule=str(fields["kill_rule"]),
        parent=str(fields["parent"]),
        assumption=str(fields.get("assumption") or ""),
        why_small=str(fields.get("why_small") or ""),
        **{name: tuple(str(one) for one in fields.get(name) or ()) for name in LISTS},
    )


def is_filler(slug: str) -> bool:
    """Whether an idea only stands for settings of another's code."""
    return slug.startswith(FILLER)


def wrong_slug(slug: str) -> list[str]:
    wrong = []
    if slug == BASELINE:
        wrong.append(f"the slug {BASELINE} is the lab's own: it means main's code")
    if slug.startswith(CONTROL):
        wrong.append(f"slugs that begin with {CONTROL} are the lab's own: it tests itself under them")
    if not SLUG.fullmatch(slug):
        wrong.append(f"the slug {slug!r} must be lower-case letters, digits and dashes (at most 48)")
    return wrong


def wrong_fields(slug: str, fields: dict, known: Collection[str]) -> list[str]:
    """What is wrong with an idea's front matter, each with the field, why, and a right value. `known` are the slugs of the lab's ideas."""
    wrong = wrong_slug(slug)
    bad: set[str] = set()

    def tell(name: str, why: str) -> None:
        bad.add(name)
        wrong.append(f"`{name}` {why} (say `{EXAMPLES[name]}`)")

    for name in REQUIRED:
        if fields.get(name) is None or fields[name] == "":
            tell(name, "is missing")
        elif problems.FILL_IN in str(fields[name]):
            tell(name, "is still to be filled in")
        elif name in ("question", "hypothesis", "kill_rule") and isinstance(fields[name], dict | list | bool):
            tell(name, f"is {fields[name]!r}, not a text: put it in quotes")
    if not bad & {"predicted_effect"}:
        effect = fields["predicted_effect"]
        if isinstance(effect, bool) or not isinstance(effect, int | float) or effect == 0 or not math.isfinite(effect):
            tell("predicted_effect", f"is {effect!r}: a signed number other than 0, candidate minus parent, in the metric's unit")
    if not bad & {"credence"}:
        credence = fields["credence"]
        if isinstance(credence, bool) or not isinstance(credence, int | float) or not 0 <= credence <= 1:
            tell("credence", f"is {credence!r}: a probability between 0 and 1")
    if not bad & {"parent"}:
        parent = fields["parent"]
        if parent == slug:
            tell("parent", "is the idea itself")
        elif parent != BASELINE and parent not in known:
            near = difflib.get_close_matches(str(parent), known, n=2)
            meant = f"; did you mean {' or '.join(near)}?" if near else ""
            tell("parent", f"is {parent!r}: no such idea (the root is called {BASELINE}){meant}")
    for name in LISTS:
        given = fields.get(name)
        if given is not None and not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
            tell(name, f"is {given!r}, not a list of names")
    if "needs" not in bad:
        for other in fields.get("needs") or ():
            if other not in known or other == slug:
                tell("needs", f"names {other!r}, which is {'the idea itself' if other == slug else 'no idea of this lab'}")
    for name in ("assumption", "why_small"):
        if fields.get(name) is not None and not isinstance(fields[name], str):
            tell(name, f"is {fields[name]!r}, not a text")
    return wrong


def sections(body: str) -> dict[str, str]:
    """The parts of an idea's text by lower-case name: `## Mechanism ...` or paragraphs that begin `**Mechanism.** ...`."""
    body = re.sub(r"^\*\*([^*\n]{1,40})\.\*\* ?", r"## \1\n", body, flags=re.MULTILINE)
    _, *parts = re.split(r"^## +", body, flags=re.MULTILINE)
    found = {}
    for part in parts:
        name, _, text = part.partition("\n")
        found[name.strip().lower()] = text.strip()
    return found


def _written(text: str) -> str:
    """`text`, or nothing where it is still to be filled in."""
    return "" if problems.FILL_IN in text else text


@dataclass(frozen=True)
class Review:
    """What can be told about an idea from its text: `errors` stop `lab idea new`; `notes` are for the author to weigh."""

    errors: tuple[str, ...]
    notes: tuple[str, ...]


def review(problem: Problem, slug: str, fields: dict, body: str, known: Collection[str], train: Path | None) -> Review:
    """program.md's quality bar, as far as text shows it: a named mechanism, more than a setting to tune, a prediction that the metric can refute.

    `train` is the train.py whose Config the change is held against; None where there is none.
    """
    errors, notes = wrong_fields(slug, fields, known), []
    if errors:
        return Review(tuple(errors), ())
    parts = sections(body)
    hypothesis, mechanism, change = str(fields["hypothesis"]), _written(parts.get("mechanism", "")), _written(parts.get("change", ""))
    told = f"{hypothesis} {mechanism}"
    if len(told.split()) < MECHANISM_WORDS or not CAUSES.search(told):
        errors.append(
            f"`hypothesis` names no mechanism: say in {MECHANISM_WORDS} words or more what will happen *and why* (say `{EXAMPLES['hypothesis']}`), "
            "or fill in the section Mechanism"
        )
    effect = float(fields["predicted_effect"])
    if abs(effect) < problem.smallest_effect and len(str(fields.get("why_small") or "").split()) < SMALL_WORDS:
        sign = "-" if effect < 0 else "+"
        errors.append(
            f"`predicted_effect` is {effect:+g} {problem.metric}, less than the smallest effect worth finding ({problem.smallest_effect:g}): the metric "
            f"could not tell it from nothing. Predict what would be worth it (say `predicted_effect: {sign}{2 * problem.smallest_effect:g}`), or say why so "
            f"little is (say `{EXAMPLES['why_small']}`)"
        )
    fields_of_config, names = names_of(train) if train else (set(), set())
    if only := settings(" ".join((str(fields["question"]), hypothesis, change)), tuple(fields.get("touches") or ()), fields_of_config, names):
        errors.append(
            f"it only sets {', '.join(only)}, which train.py's Config has already: a setting to tune is no idea. Name the mechanism that a change of the "
            f"code brings in (say `{EXAMPLES['touches']}`), or try the values: just queue SLUG --{only[0].replace('_', '-')} VALUE"
        )
    for name in fields.get("touches") or ():
        if names and name.removeprefix("Config.") not in names | fields_of_config and not name.startswith("+"):
            near = difflib.get_close_matches(name.removeprefix("Config."), names | fields_of_config, n=2)
            notes.append(
                f"`touches` names {name!r}, which train.py does not have{f' (did you mean {near[0]}?)' if near else ''}; write +{name} for a new one"
            )
    if label.parse(f"Q: a? H: {hypothesis}", problem.metric).effect not in (None, effect):
        notes.append(f"`hypothesis` and `predicted_effect` ({effect:+g}) give different numbers for {problem.metric}")
    if float(fields["credence"]) in (0.0, 1.0):
        notes.append(f"`credence` is {fields['credence']:g}: certainty cannot be scored kindly when it is wrong, and learns nothing when it is right")
    kill = str(fields["kill_rule"])
    if problem.metric not in kill and not re.search(r"\d|interval|seed|mean|baseline|parent|no (gain|change|effect)|wors|better|above|below", kill):
        notes.append(f"`kill_rule` names nothing that a run shows (say `{EXAMPLES['kill_rule']}`)")
    return Review(tuple(errors), tuple(notes))


def names_of(train: Path) -> tuple[set[str], set[str]]:
    """The fields of train.py's Config, and the names of its functions and classes (`Block`, `Model.forward`). Raises LabError for a broken file."""
    config = set(options.config_fields(train) or ()) - set(options.OURS)
    names = set()
    for node in ast.parse(train.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return config, names


def settings(text: str, touches: tuple[str, ...], config: set[str], names: set[str]) -> list[str]:
    """The fields of Config that a text sets, where it proposes nothing else; empty where it does.

    `touches`, where given, is believed. Else the text has to name fields, with a word of setting and none of building. Wording can hide either; what
    the diff shows, `settings_changed` says when the idea is queued.
    """
    if touches:
        plain = [name.removeprefix("Config.") for name in touches]
        return plain if all(name in config for name in plain) else []
    words = text.replace("-", "_").lower()
    used = sorted(name for name in config if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words))
    if re.search(r"learning[ _]rate", words) and "lr" in config and "lr" not in used:
        used.append("lr")
    builds = STRUCTURE.search(text) or any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) for name in names if "_" in name or "." in name)
    return used if used and SETS.search(text) and not builds else []


def settings_changed(old: str, new: str) -> list[str] | None:
    """The fields of Config whose values are all that differs between two sources of train.py; None where code differs too, or nothing does.

    Values are defaults in `class Config` and, in module-level dicts (presets), what stands under a field's name. Raises LabError for code that cannot be read.
    """
    trees = []
    for text in (old, new):
        try:
            trees.append(ast.parse(text))
        except (SyntaxError, ValueError) as error:
            raise LabError(f"train.py cannot be read: {error}", hint="edit train.py") from error
    (before, values), (after, other) = (_without_values(tree) for tree in trees)
    if before != after or values == other:
        return None
    return sorted({name for name in values.keys() | other.keys() if values.get(name) != other.get(name)})


def _without_values(tree: ast.Module) -> tuple[str, dict[str, list[str]]]:
    """A module with the values of Config's fields blanked, as text, and those values by field."""
    configs = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    items = [item for node in configs for item in node.body if isinstance(item, ast.AnnAssign) and item.value is not None]
    fields = {ast.unparse(item.target) for item in items}
    values: dict[str, list[str]] = {}
    for item in items:
        values.setdefault(ast.unparse(item.target), []).append(ast.unparse(item.value))
        item.value = ast.Constant(None)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for inner in ast.walk(node.value):
                if isinstance(inner, ast.Dict):
                    for place, key in enumerate(inner.keys):
                        if isinstance(key, ast.Constant) and key.value in fields and not isinstance(inner.values[place], ast.Dict):
                            values.setdefault(key.value, []).append(ast.unparse(inner.values[place]))
                            inner.values[place] = ast.Constant(None)
    return ast.dump(tree), values


def write(lab: Lab, slug: str, text: str, date: str) -> Path:
    """Write a new idea file. Raises LabError, having written nothing, where the slug is taken or no slug; `text` has been checked by the caller."""
    if wrong := wrong_slug(slug):
        raise LabError("; ".join(wrong), hint="lab idea new gated-decay")
    path = lab.ideas / f"{date}_{slug}.md"
    with results.locked(lab):  # of two that write one slug at once the second is told
        if slug in (known := slugs(lab)):
            raise LabError(f"there is an idea {slug} already: 1_ideas/{known[slug].name}", hint=f"edit {known[slug]}, or choose another slug")
        receipts.write_atomic(path, text)
    return path


CRITIQUE = re.compile(r"(^## Critique\n)(\{FILL_IN[^}]*\}|)\s*\Z", re.MULTILINE)


def fill_critique(path: Path, text: str, rating: float) -> bool:
    """Put a critique, unshortened, under the file's last section *Critique* while that is still to be filled in; whether it was."""
    old = path.read_text()
    if not CRITIQUE.search(old):
        return False
    written = f"{text.strip()}\n\nRating: {rating:g} of 10.\n"
    receipts.write_atomic(path, CRITIQUE.sub(lambda match: match[1] + written, old))
    return True

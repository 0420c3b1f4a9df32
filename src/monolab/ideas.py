"""Idea files: `1_ideas/{YYYY-MM-DD}_{slug}.md`, a falsifiable hypothesis each."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, Lab

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
FILE = re.compile(r"(\d{4}-\d{2}-\d{2})_(.+)\.md")
REQUIRED = ("question", "hypothesis", "predicted_effect", "credence", "kill_rule", "parent")


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


def slugs(lab: Lab) -> dict[str, Path]:
    """Every idea's slug and file. Raises LabError for two files with one slug."""
    found: dict[str, Path] = {}
    for path in sorted(lab.ideas.glob("*.md")):
        if match := FILE.fullmatch(path.name):
            if match[2] in found:
                raise LabError(f"two idea files share the slug {match[2]}: {found[match[2]].name} and {path.name}", hint="rename one of them")
            found[match[2]] = path
    return found


def load(lab: Lab, slug: str) -> Idea:
    """The idea called `slug`. Raises LabError for an unknown slug (with the nearest ones) and for every wrong field."""
    known = slugs(lab)
    if slug not in known:
        near = difflib.get_close_matches(slug, known, n=3)
        raise LabError(
            f"no idea is called {slug!r} in 1_ideas/",
            hint=f"did you mean {', '.join(near)}?" if near else f"write 1_ideas/YYYY-MM-DD_{slug}.md from _TEMPLATE.md",
        )
    path = known[slug]
    fields, _ = problems.front_matter(path)
    wrong = []
    if slug == BASELINE:
        wrong.append(f"the slug {BASELINE} is the lab's own: it means main's code")
    if slug.startswith(CONTROL):
        wrong.append(f"slugs that begin with {CONTROL} are the lab's own: it tests itself under them")
    if not SLUG.fullmatch(slug):
        wrong.append(f"the slug {slug!r} must be lower-case letters, digits and dashes (at most 48)")
    for name in REQUIRED:
        if fields.get(name) is None or fields[name] == "":
            wrong.append(f"`{name}` is missing")
        elif problems.FILL_IN in str(fields[name]):
            wrong.append(f"`{name}` is still to be filled in")
    if not wrong:
        effect, credence = fields["predicted_effect"], fields["credence"]
        if isinstance(effect, bool) or not isinstance(effect, int | float) or effect == 0:
            wrong.append(f"`predicted_effect` is {effect!r}: a signed number other than 0, candidate minus parent, in the metric's unit")
        if isinstance(credence, bool) or not isinstance(credence, int | float) or not 0 <= credence <= 1:
            wrong.append(f"`credence` is {credence!r}: a probability between 0 and 1")
        if fields["parent"] != BASELINE and fields["parent"] not in known:
            wrong.append(f"`parent` is {fields['parent']!r}: no such idea (the root is called {BASELINE})")
        if fields["parent"] == slug:
            wrong.append("`parent` is the idea itself")
    if wrong:
        raise LabError(f"1_ideas/{path.name}: " + "; ".join(wrong), hint=f"edit {path}")
    return Idea(
        slug=slug,
        path=path,
        question=str(fields["question"]),
        hypothesis=str(fields["hypothesis"]),
        predicted_effect=float(effect),
        credence=float(credence),
        kill_rule=str(fields["kill_rule"]),
        parent=str(fields["parent"]),
        papers=tuple(str(paper) for paper in fields.get("papers") or ()),
    )

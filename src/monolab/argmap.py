"""Argument maps with credences (vargdown): a file of claims that says who supports whom, how sure its author is, and which words of a paper it rests on.

    # Does the state need to forget?

    [Decay helps]: A learned decay lowers the metric. {credence: 0.7}
      + <Stale writes>: Without decay the state keeps what is no longer needed. {credence: 0.8, quote: "exact words", paper: gated}
      - [Small states suffice]: {credence: 0.2}
      >< [Decay hurts]: {credence: 0.2}
      => [The state matters]: What the state holds limits the metric. {credence: 0.9}

The syntax is a part of Argdown's: `[statement]` and `<argument>` with a text after a colon, two spaces of indentation a level, and relations to the line that
they stand under: `+` supports it, `-` attacks it, `><` contradicts it, `=>` is entailed by it. What stands in braces is YAML: `credence` (0 to 1), `quote` with
`paper` (a file's name in 0_docs/papers/, without .md), `source` (anything else). The checker holds the map to itself and to the papers.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from monolab.errors import LabError
from monolab.paths import Lab

RELATIONS = {"+": "supports", "-": "attacks", "><": "contradicts", "=>": "is entailed by"}
LINE = re.compile(r"^(?P<indent> *)(?:(?P<relation>\+|-|><|=>) +)?(?P<kind>[\[<])(?P<title>[^\]>]+)[\]>](?::(?P<rest>.*))?$")
KEYS = ("credence", "quote", "paper", "source")
DATA = re.compile(r"""\{\s*["']?(?P<key>[A-Za-z_]\w*)["']?\s*:""")  # where what is said of a claim may begin
ROUNDING = 1e-9


@dataclass
class Claim:
    """A statement or an argument. The same title anywhere is the same claim."""

    title: str
    kind: str  # statement, argument
    line: int
    text: str = ""
    credence: float | None = None
    quote: str = ""
    paper: str = ""


@dataclass
class Map:
    """Claims by title; links as (claim, relation, the claim it stands under, line)."""

    name: str
    claims: dict[str, Claim] = field(default_factory=dict)
    links: list[tuple[str, str, str, int]] = field(default_factory=list)


def parse(path: Path) -> Map:
    """Read a map. Raises LabError naming the line that is none."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path} cannot be read: {error}", hint="lab argmap check FILE") from error
    found, above = Map(path.name), []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith(("#", "//")):
            continue
        match = LINE.match(line.rstrip())
        if not match:
            raise _wrong(
                path, number, f"{line.strip()[:60]!r} is no claim", "[Title]: text {credence: 0.7}, indented by two spaces, after + - >< or =>"
            )
        depth, odd = divmod(len(match["indent"]), 2)
        if odd or depth > len(above):
            raise _wrong(path, number, "the indentation leads nowhere", "two spaces for each level below the claim that it is about")
        if (depth > 0) != bool(match["relation"]):
            raise _wrong(path, number, "a claim below another needs a relation" if depth else "a relation needs a claim above it", "one of + - >< =>")
        claim = _claim(path, number, match, found)
        if depth:
            found.links.append((claim.title, match["relation"], above[depth - 1], number))
        above = [*above[:depth], claim.title]
    if not found.claims:
        raise LabError(f"{path.name} holds no claim", hint="[Title]: text {credence: 0.7}")
    return found


def _wrong(path: Path, number: int, what: str, hint: str) -> LabError:
    return LabError(f"{path.name} line {number}: {what}", hint=hint)


def _claim(path: Path, number: int, match: re.Match, found: Map) -> Claim:
    title, kind = " ".join(match["title"].split()), "statement" if match["kind"] == "[" else "argument"
    claim = found.claims.setdefault(title, Claim(title, kind, number))
    text, said = _said(path, number, (match["rest"] or "").strip())
    claim.text = claim.text or text
    if said is None:
        return claim
    if not isinstance(said, dict) or not said.keys() <= set(KEYS):
        raise _wrong(path, number, f"{said!r} is not credence, quote, paper or source", "{credence: 0.7, quote: 'words', paper: slug}")
    if "credence" in said:
        credence = said["credence"]
        if isinstance(credence, bool) or not isinstance(credence, int | float) or not 0 <= credence <= 1:
            raise _wrong(path, number, f"the credence {credence!r} of {title!r} is no probability", "between 0 and 1")
        if claim.credence is not None and claim.credence != credence:
            raise _wrong(path, number, f"{title!r} has the credence {claim.credence:g} elsewhere, and {credence:g} here", "give it once")
        claim.credence = float(credence)
    if said.get("quote"):
        claim.quote, claim.paper = str(said["quote"]), str(said.get("paper") or "")
    return claim


def _said(path: Path, number: int, rest: str) -> tuple[str, object]:
    """A line's text and what the braces at its end say; None where it ends without. Braces within the text (`S_{t-1}`) are text."""
    broken = None
    for start in DATA.finditer(rest):
        try:
            return rest[: start.start()].strip(), yaml.safe_load(rest[start.start() :])
        except yaml.YAMLError as error:
            if start["key"] in KEYS:
                broken = error
    if broken:
        raise _wrong(path, number, f"what stands in braces is not YAML: {' '.join(str(broken).split())}", "{credence: 0.7}") from broken
    return rest, None


def check(lab: Lab, found: Map) -> list[str]:
    """What does not hold: quotes that stand in no saved paper, claims without a credence, credences that cannot all be true together."""
    wrong = [f"line {one.line}: {one.title!r} has no credence" for one in found.claims.values() if one.credence is None]
    wrong += [f"line {one.line}: {one.title!r}: {problem}" for one in found.claims.values() if one.quote and (problem := _quote(lab, one))]
    for title, relation, above, line in found.links:
        if relation not in ("><", "=>"):
            continue
        a, b = found.claims[above].credence, found.claims[title].credence
        if a is None or b is None:
            continue
        if relation == "><" and a + b > 1 + ROUNDING:
            wrong.append(
                f"line {line}: {above!r} ({a:g}) and {title!r} ({b:g}) contradict each other, and their credences sum to {a + b:g}, more than 1"
            )
        if relation == "=>" and a > b + ROUNDING:
            wrong.append(f"line {line}: {title!r} ({b:g}) is entailed by {above!r} ({a:g}), and cannot be less likely")
    return wrong + [f"{' -> '.join(circle)}: supports itself" for circle in _circles(found)]


def _circles(found: Map) -> list[list[str]]:
    """Claims that are their own support."""
    supports: dict[str, list[str]] = {}
    for title, relation, above, _ in found.links:
        if relation == "+":
            supports.setdefault(above, []).append(title)
    circles, done = [], set()

    def follow(title: str, path: list[str]) -> None:
        if title in path:
            circles.append([*path[path.index(title) :], title])
        elif title not in done:
            for other in supports.get(title, []):
                follow(other, [*path, title])
            done.add(title)

    for title in found.claims:
        follow(title, [])
    return circles


def _plain(text: str) -> str:
    text = re.sub(r"(\w)-\s*\n\s*(\w)", r"\1\2", text)  # a word that was broken at the end of a line
    text = text.translate(str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "}))
    return " ".join(re.sub(r"[*_`$]", "", text).split()).lower()


def _quote(lab: Lab, claim: Claim) -> str:
    """Why a quote cannot be believed, or "". Line ends, emphasis and kinds of dashes and quotation marks do not matter; words do."""
    if not claim.paper:
        return "a quote without its paper"
    path = lab.root / "0_docs" / "papers" / f"{claim.paper}.md"
    if not path.is_file():
        return f"its paper is not saved: 0_docs/papers/{claim.paper}.md (lab papers fetch)"
    parts = [part for part in re.split(r"\s*(?:\[\.\.\.\]|…)\s*", claim.quote) if part]
    text, start = _plain(path.read_text()), 0
    for part in parts:
        start = text.find(_plain(part), start)
        if start < 0:
            return f"0_docs/papers/{claim.paper}.md does not say {part!r}"
    return ""


def tree(found: Map) -> str:
    """The map as it was understood, a line for each claim under each claim."""
    below: dict[str, list[tuple[str, str]]] = {}
    for title, relation, above, _ in found.links:
        below.setdefault(above, []).append((relation, title))
    under = {title for title, *_ in found.links}
    lines: list[str] = []

    def put(title: str, depth: int, relation: str, seen: tuple[str, ...]) -> None:
        claim = found.claims[title]
        mark = "" if claim.credence is None else f" {claim.credence:.0%}"
        lines.append("  " * depth + (f"{RELATIONS[relation]}: " if relation else "") + title + mark)
        if title not in seen:
            for link, other in below.get(title, []):
                put(other, depth + 1, link, (*seen, title))

    for title in [one for one in found.claims if one not in under] or list(found.claims)[:1]:
        put(title, 0, "", ())
    return "\n".join(lines)

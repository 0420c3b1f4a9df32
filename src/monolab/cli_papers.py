"""`lab papers ...`: find, fetch and read papers. Each command parses, calls one use case, prints."""

import json as format_json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from monolab import fence, paths
from monolab.errors import LabError

# What a service or a file needs (httpx, bs4, pdfplumber, yaml) is imported inside: `lab --help` has to answer at once.


def _print_json(value) -> None:
    print(format_json.dumps(value, indent=1, ensure_ascii=False))


def search(
    query: str, /, *, sources: tuple[str, ...] = (), limit: int = 10, year: str | None = None, refresh: bool = False, json: bool = False
) -> None:
    """Search every service at once, merged and ranked: search "QUERY" [--sources arxiv dblp] [--limit 10] [--year 2020:2024]."""
    from monolab.papers import saved, web
    from monolab.papers import search as searching

    lab = paths.find()
    span = searching.years(year) if year else (None, None)
    with web.refreshed(refresh):
        found = searching.find(query, names=sources, limit=limit, span=span, lab_folder=saved.sources_folder(lab))
    if json:
        _print_json(asdict(found) | {"authors_claims": ["tldr", "abstract"]})
        return
    lines = []
    for number, paper in enumerate(found.papers, 1):
        cited = "" if paper.citations is None else f" · {paper.citations:,} citations ({paper.citations_from})"
        lines.append(f"{number}. {paper.title}")
        lines.append(f"   {_authors(paper.authors)} · {paper.year or 'year unknown'} · {paper.venue or 'no venue'}{cited}")
        if paper.tldr or paper.abstract:
            lines.append(f"   {saved.CLAIM}{' (tldr by a model)' if paper.tldr else ''}: {_cut(paper.tldr or paper.abstract, 300)}")
        names = [f"arXiv:{paper.arxiv}" if paper.arxiv else "", f"doi:{paper.doi}" if paper.doi else "", paper.url]
        lines.append("   " + " · ".join(name for name in [*names, f"pdf {paper.pdf}" if paper.pdf else "", f"[{', '.join(paper.sources)}]"] if name))
    print(fence.for_reader("\n".join(lines), "What the services answered") if lines else "nothing was found")
    for name, reason in found.skipped.items():
        print(f"{name}: skipped, {reason}", file=sys.stderr)
    for name, reason in found.failed.items():
        print(f"{name}: failed, {reason}", file=sys.stderr)


def fetch(what: str, /, *, refresh: bool = False, json: bool = False) -> None:
    """Save a paper's full text to 0_docs/papers/: fetch ARXIV-ID | DOI | ADDRESS | FILE.pdf [--refresh]."""
    from monolab.papers import fetch as fetching
    from monolab.papers import saved

    lab = paths.find()
    got = fetching.fetch(lab, what, refresh=refresh)
    titles = [section.title for section in saved.sections(got.saved.body) if section.level == 2]
    if json:
        _print_json(_about(lab, got.saved) | {"new": got.new, "notes": got.notes, "sections": titles})
        return
    for note in got.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{got.saved.path.relative_to(lab.root)}{'' if got.new else ' was saved before (--refresh fetches it again)'}")
    print(fence.for_reader(f"{got.saved.paper.title} ({got.saved.extraction})\nsections: {', '.join(titles)}", "What was read"))


def list_(*, json: bool = False) -> None:
    """The papers saved in 0_docs/papers/."""
    from monolab.papers import saved

    lab = paths.find()
    papers = saved.load_all(lab)
    if json:
        _print_json([_about(lab, one) for one in papers])
        return
    lines = [f"{one.slug}: {one.paper.title} ({_authors(one.paper.authors)}, {one.paper.year or 'year unknown'}) {one.paper.venue}" for one in papers]
    if lines:
        print(fence.for_reader("\n".join(" ".join(line.split()) for line in lines), "Saved papers"))
    without = sorted({path.stem for path in saved.folder(lab).glob("*.md")} - {one.slug for one in papers})
    if without:
        print(f"without front matter, so in no bibliography: {', '.join(without)}")
    if not papers and not without:
        print("no paper is saved yet; next: lab papers fetch ARXIV-ID")


def tldr(paper: str, /, *, json: bool = False) -> None:
    """One sentence on a paper, written by a model of Semantic Scholar: tldr ID."""
    from monolab.papers import fetch as fetching
    from monolab.papers import saved

    lab = paths.find()
    known = fetching.describe(lab, paper)
    if json:
        _print_json({"kind": "authors claim", "by": "a model of Semantic Scholar", "title": known.title, "tldr": known.tldr, "url": known.url})
        return
    print(fence.for_reader(fence.line(known.tldr), f"{saved.CLAIM} ({known.cited_as}, as a model of Semantic Scholar puts it)"))


def introduction(paper: str, /, *, json: bool = False) -> None:
    """The introduction of a saved paper, which holds the authors' own survey: introduction ID."""
    _part(paper, "introduction", json)


def results(paper: str, /, *, json: bool = False) -> None:
    """The experiments and results of a saved paper: results ID."""
    _part(paper, "results", json)


def references(paper: str, /, *, json: bool = False) -> None:
    """The works that a saved paper cites, one per line: references ID."""
    from monolab.papers import saved

    found = saved.resolve(paths.find(), paper)
    cited = saved.references(found)
    if json:
        _print_json({"slug": found.slug, "references": cited})
        return
    print(fence.for_reader("\n".join(one["text"] for one in cited), f"References of {found.slug}"))


def bib(*, out: Path | None = None) -> None:
    """BibTeX of every saved paper; the key is the paper's slug: bib [--out refs.bib]."""
    from monolab import receipts
    from monolab.papers import bib as bibliography
    from monolab.papers import saved

    papers = saved.load_all(paths.find())
    if not papers:
        raise LabError("no paper is saved yet", hint="lab papers fetch ARXIV-ID")
    text = bibliography.write(papers)
    if out is None:
        print(text, end="")
        return
    receipts.write_atomic(out, text)
    print(f"{out}: {len(papers)} entries")


def _part(paper: str, name: str, json: bool) -> None:
    from monolab.papers import saved

    found = saved.resolve(paths.find(), paper)
    sections = saved.part(found, name)
    if json:
        _print_json({"kind": saved.CLAIM, "slug": found.slug, "cited_as": found.paper.cited_as, "sections": [asdict(one) for one in sections]})
        return
    print(fence.for_reader("\n\n".join(f"{'#' * one.level} {one.title}\n\n{one.text}" for one in sections), found.claim))


def _about(lab: paths.Lab, one) -> dict:
    values = asdict(one) | {"path": str(one.path.relative_to(lab.root))}
    del values["body"]
    return values


def _authors(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" et al." if len(names) > 3 else "") if names else "authors unknown"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " ..."


COMMANDS: dict[str, Callable] = {
    "search": search,
    "fetch": fetch,
    "list": list_,
    "tldr": tldr,
    "introduction": introduction,
    "results": results,
    "references": references,
    "bib": bib,
}

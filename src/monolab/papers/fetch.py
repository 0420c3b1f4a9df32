"""Fetch a paper and save its full text to `0_docs/papers/{slug}.md`, with bibliographic front matter.

arXiv's HTML where there is one, else the PDF. Nothing is written unless a whole text was read.
"""

import contextvars
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from monolab import receipts
from monolab.errors import LabError
from monolab.papers import page, pdf, record, saved, web
from monolab.papers.record import Paper
from monolab.papers.saved import Saved, Text
from monolab.papers.search import TRUSTED
from monolab.papers.sources import Lookup, discover
from monolab.paths import Lab

S2_ID = re.compile(r"[0-9a-f]{40}")
STOP_WORDS = {"a", "an", "the", "of", "for", "and", "in", "on", "with", "to", "by", "is", "are", "via", "from", "as", "at"}


@dataclass(frozen=True)
class Fetched:
    """`notes`: what is worth knowing of how it went, a line each. `new` is False where it was saved before, and nothing was fetched."""

    saved: Saved
    notes: list[str]
    new: bool


@dataclass(frozen=True)
class _Source:
    """A text as it came: from where, by what, the bytes' hash; what a page said of the paper."""

    text: Text
    where: str
    extraction: str
    sha256: str
    about: Paper | None = None


def fetch(lab: Lab, what: str, *, refresh: bool = False) -> Fetched:
    """Save the paper that an arXiv id, a DOI, a Semantic Scholar id, an address, a local PDF or the slug of a saved one names.

    Where it is saved already, nothing is fetched, unless `refresh`. Raises LabError, having written nothing: for what is no id, where
    no text can be had (404, paywall, a page instead of a PDF) or read (damaged, cut off, scanned, too large).
    """
    folder = saved.folder(lab)
    if by_slug := next((one for one in saved.load_all(lab) if one.slug == what), None):
        if not refresh:
            return Fetched(by_slug, [], new=False)
        what = by_slug.paper.arxiv or by_slug.paper.doi or by_slug.paper.url or by_slug.source
    file = _local(what)
    asked = Paper(title="") if file else _identify(what)
    sha = hashlib.sha256(file.read_bytes()).hexdigest() if file else ""
    old = _old(lab, asked, sha)
    if old and not refresh:
        return Fetched(old, [], new=False)
    notes: list[str] = []
    with web.refreshed(refresh):
        known = _look_up(lab, asked, notes) if _has_id(asked) else None
        got = _from_file(file) if file else _from_web(what, replace(known, arxiv=asked.arxiv or known.arxiv) if known else asked, notes)
        if known is None:
            known = _named_by_itself(lab, got, notes)
        else:
            notes += _doubts(known, got)
    paper = _described(known, got, asked, file, notes)
    with web.locked(f"papers {folder}"):
        old = _old(lab, paper, got.sha256)  # now it is known under all of its names, and another process may have saved it
        if old and not refresh:
            return Fetched(old, [*notes, f"it is the paper that is saved as {old.slug}: left as it is"], new=False)
        slug = old.slug if old else _free_slug(lab, paper)
        new = Saved(
            slug=slug,
            path=folder / f"{slug}.md",
            paper=_with_what_was_known(paper, old.paper) if old else paper,
            body=got.text.body,
            citations_as_of=receipts.now()[:10] if paper.citations is not None else old.citations_as_of if old else "",
            source=got.where,
            source_sha256=got.sha256,
            extraction=got.extraction,
            fetched=receipts.now(),
        )
        receipts.write_atomic(new.path, saved.render(new))
    return Fetched(new, notes, new=True)


def describe(lab: Lab, what: str) -> Paper:
    """The record of a paper that has a TLDR: the saved one, else what the services know.

    Raises LabError where nobody has one.
    """
    try:
        paper = saved.resolve(lab, what).paper
        instead = f"lab papers introduction {what}"
    except LabError:
        paper = _identify(what)
        instead = f"lab papers fetch {what}, then: lab papers introduction {what}"
    if paper.tldr:
        return paper
    if not _has_id(paper):
        raise LabError(f"{what} has no DOI or arXiv id to ask a service with", hint=instead)
    notes: list[str] = []
    known = _look_up(lab, paper, notes)
    if known is None or not known.tldr:
        reasons = f" ({'; '.join(notes)})" if notes else ""
        raise LabError(f"no service has a tldr of {what}{reasons}", hint=instead)
    return known


# -- what is meant ------------------------------------------------------------------------------------------------


def _local(what: str) -> Path | None:
    """The local file that is meant; None where something else is. Raises LabError for a path where no file is."""
    if re.match(r"https?://", what):
        return None
    path = Path(what).expanduser()
    if path.is_file():
        return path
    if what.endswith((".pdf", ".html")) and not record.arxiv(what) or what.startswith(("/", "./", "../", "~")):
        raise LabError(f"there is no file {what}", hint="lab papers fetch FILE.pdf, an arXiv id, a DOI, or an address")
    return None


def _identify(what: str) -> Paper:
    """A record that holds no more than the id or the address that was given."""
    what = what.strip()
    if name := record.arxiv(what):
        return Paper(title="", arxiv=name)
    if re.fullmatch(rf"(?:doi:\s*)?{record.DOI.pattern}", what, re.IGNORECASE) or re.match(r"https?://(?:dx\.)?doi\.org/", what):
        return Paper(title="", doi=record.doi(what))
    found = re.search(r"semanticscholar\.org/paper/(?:[^/]+/)?([0-9a-f]{40})", what)
    if found or S2_ID.fullmatch(what):
        return Paper(title="", s2=found[1] if found else what)
    if re.match(r"https?://[^/\s]+", what):
        return Paper(title="", url=what)
    raise LabError(f"{what!r} is no arXiv id, DOI, address or file", hint=f'lab papers search "{what}"')


def _has_id(paper: Paper) -> bool:
    return bool(paper.arxiv or paper.doi or paper.s2)


def _old(lab: Lab, paper: Paper, sha: str) -> Saved | None:
    """The paper as it was saved before, under any of its names."""
    for one in saved.load_all(lab):
        other = one.paper
        if (
            record.same(other, paper)
            or (paper.s2 and paper.s2 == other.s2)
            or (paper.url and paper.url in (other.url, one.source))
            or (sha and sha == one.source_sha256)
        ):
            return one
    return None


# -- what is known of it ------------------------------------------------------------------------------------------


def _look_up(lab: Lab, paper: Paper, notes: list[str]) -> Paper | None:
    """What the services know of a paper, merged; what failed is noted. None where nobody knows it, or nobody answered."""
    every = discover(saved.sources_folder(lab)).values()
    sources = sorted(
        (one for one in every if isinstance(one, Lookup)), key=lambda one: TRUSTED.index(one.name) if one.name in TRUSTED else len(TRUSTED)
    )
    with ThreadPoolExecutor(len(sources)) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, _ask, source, paper) for source in sources]
        answers = [one.result() for one in waiting]
    notes += [f"{source.name}: {answer.what}" for source, answer in zip(sources, answers, strict=True) if isinstance(answer, LabError)]
    found = [answer for answer in answers if isinstance(answer, Paper)]
    return record.merge(found) if found else None


def _ask(source: Lookup, paper: Paper) -> Paper | LabError | None:
    try:
        return source.lookup(paper)
    except LabError as error:
        return error
    except Exception as error:  # noqa: BLE001  an answer in a form that the source does not know: the text is had without it
        return LabError(f"it answered in an unknown form ({type(error).__name__}: {error})")


def _named_by_itself(lab: Lab, got: _Source, notes: list[str]) -> Paper | None:
    """What the services know of the paper that the text or its page says it is, if the titles agree."""
    from rapidfuzz import fuzz

    about = got.about or Paper(title="")
    ids = Paper(title="", arxiv=about.arxiv or got.text.arxiv, doi=about.doi or got.text.doi)
    if not _has_id(ids):
        notes.append("no service was asked about it: it names no DOI or arXiv id of its own")
        return None
    known = _look_up(lab, ids, notes)
    title = about.title or got.text.title
    if known and title and fuzz.ratio(record.plain(known.title), record.plain(title)) < 80:
        notes.append(f"{ids.arxiv or ids.doi} on its first page is another paper, {known.title!r}: not used")
        return None
    return known


def _doubts(known: Paper, got: _Source) -> list[str]:
    """A text that is headed by quite another title may be another paper: links to open PDFs are not always right."""
    from rapidfuzz import fuzz

    title, expected = record.plain(got.text.title), record.plain(known.title)
    if not title or fuzz.partial_ratio(title, expected) >= 70:
        return []
    return [f"the text is headed {got.text.title!r}: look whether it is the paper"]


def _described(known: Paper | None, got: _Source, asked: Paper, file: Path | None, notes: list[str]) -> Paper:
    """The record to save: the services', else what page and text say; with the names under which it was asked for."""
    own = [one for one in (known, got.about) if one]
    if got.text.title or not own:
        title = got.text.title or (file.stem if file else "")
        if not title:
            raise LabError(
                "neither the text nor a service says what the paper is called", hint="save the PDF under its title, then: lab papers fetch FILE.pdf"
            )
        own.append(Paper(title=title, authors=got.text.authors))
    if known is None:
        notes.append(f"bibliographic data from {'its page' if got.about else 'its text'} only: look them over")
    paper = record.merge(own)
    return replace(
        paper,
        arxiv=paper.arxiv or asked.arxiv,
        doi=paper.doi or asked.doi,
        s2=paper.s2 or asked.s2,
        url=paper.url
        or asked.url
        or (f"https://arxiv.org/abs/{asked.arxiv}" if asked.arxiv else f"https://doi.org/{asked.doi}" if asked.doi else ""),
    )


def _with_what_was_known(paper: Paper, old: Paper) -> Paper:
    """A record that is fetched again keeps what nobody says this time; a new count of citations replaces the old, also a smaller one."""
    merged = record.merge([paper, old])
    newer = paper if paper.citations is not None else old
    return replace(merged, citations=newer.citations, citations_from=newer.citations_from)


# -- its text -----------------------------------------------------------------------------------------------------


def _from_file(file: Path) -> _Source:
    data = file.read_bytes()
    try:
        if data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return _source(page.read(data), file.name, "html", data)
        return _source(pdf.read(data), file.name, "pdf", data)
    except (pdf.Unreadable, page.Unusable) as error:
        raise LabError(f"{file}: {error.what}", hint="get the file anew, or: lab papers fetch ARXIV-ID") from error


def _source(text: Text, where: str, kind: str, data: bytes, about: Paper | None = None) -> _Source:
    used = (
        f"pdfplumber {version('pdfplumber')}"
        if kind == "pdf"
        else f"beautifulsoup4 {version('beautifulsoup4')}, markdownify {version('markdownify')}"
    )
    return _Source(text, where, f"{kind} ({used})", hashlib.sha256(data).hexdigest(), about)


def _from_web(what: str, paper: Paper, notes: list[str]) -> _Source:
    """The first whole text among the places where the paper may be. Raises LabError with every place's reason where there is none."""
    places: list[tuple[str, str]] = []
    if paper.arxiv:
        name = paper.arxiv + (found[0] if (found := re.search(r"v\d+(?=$|\.pdf$|[?#])", what)) else "")
        places += [
            ("arxiv-html", f"{web.base('arxiv', 'https://arxiv.org')}/html/{name}"),
            ("ar5iv-html", f"{web.base('ar5iv', 'https://ar5iv.labs.arxiv.org')}/html/{name}"),
            ("pdf", f"{web.base('arxiv', 'https://arxiv.org')}/pdf/{name}"),
        ]
    elif re.match(r"https?://", what) and not paper.doi:
        places.append(("page", what))
    if paper.pdf and not paper.arxiv:
        places.append(("page", paper.pdf))
    if paper.doi and not paper.arxiv:
        places.append(("page", f"{web.base('doi', 'https://doi.org')}/{paper.doi}"))
    if not places:
        raise LabError(
            f"no service knows where a text of {what} is" + "".join(f"; {note}" for note in notes), hint="give its address, or a local PDF"
        )
    reasons: list[str] = []
    for kind, url in places:
        try:
            got = _from_url(kind, url)
        except LabError as error:
            if len(places) == 1 and not notes:
                raise
            reasons.append(error.what if kind == "page" else f"{kind}: {error.what}")
        else:
            notes += [f"not used: {reason}" for reason in reasons]
            return got
    raise LabError(f"no full text of {what} can be had: {'; '.join(reasons + notes)}", hint="save the PDF yourself, then: lab papers fetch FILE.pdf")


def _from_url(kind: str, url: str) -> _Source:
    interval = 3.0 if "arxiv.org" in web.host(url) else 1.0
    answer = web.request(url, interval=interval, limit=pdf.LARGEST, follow=True)
    try:
        if kind in ("arxiv-html", "ar5iv-html"):
            return _source(page.read(answer.body), url, kind, answer.body)
        if kind == "pdf" or answer.kind == "application/pdf" or answer.body[:5] == b"%PDF-":
            return _source(pdf.read(answer.body), url, "pdf", answer.body)
        return _from_page(answer, interval)
    except (pdf.Unreadable, page.Unusable) as error:
        raise LabError(f"{web.host(answer.url)}: {error.what}", hint="save the PDF yourself, then: lab papers fetch FILE.pdf") from error


def _from_page(answer: web.Answer, interval: float) -> _Source:
    """The text of a page that holds a paper, else of the PDF that it names as its paper's."""
    if "html" not in answer.kind and not answer.body.lstrip()[:1] == b"<":
        raise pdf.Unreadable(f"it is neither a PDF nor a web page ({answer.kind or 'of no stated kind'})")
    about = page.about(answer.body)
    if about and about.pdf and urlsplit(target := urljoin(answer.url, about.pdf)).scheme in ("http", "https"):
        file = web.request(target, interval=interval, limit=pdf.LARGEST, follow=True)
        if file.body[:1024].lstrip()[:5] != b"%PDF-" and page.closed(file.body):
            raise page.Unusable("the paper is behind a login or a paywall")
        return _source(pdf.read(file.body), target, "pdf", file.body, replace(about, pdf=target))
    try:
        return _source(page.read(answer.body), answer.url, "html", answer.body, about)
    except page.Unusable as error:
        if page.closed(answer.body):
            raise page.Unusable("the paper is behind a login or a paywall") from error
        raise page.Unusable("it is a web page that names no PDF, not a paper") from error


# -- its name -----------------------------------------------------------------------------------------------------


def _free_slug(lab: Lab, paper: Paper) -> str:
    """`yang-2023-gated`; with a number where another paper has that name."""
    words = [word for word in re.findall(r"[a-z0-9]+", record.plain(paper.title)) if word not in STOP_WORDS]
    author = re.sub(r"[^a-z0-9]", "", paper.first_author)
    slug = "-".join(part for part in (author, str(paper.year or ""), *words[:4]) if part)[:80].strip("-")
    slug = slug or hashlib.sha256(paper.title.encode()).hexdigest()[:12]
    taken = {path.name.partition(".")[0] for path in saved.folder(lab).glob("*")}
    return next(name for number in range(1, len(taken) + 2) if (name := slug if number == 1 else f"{slug}-{number}") not in taken)

"""What is known of a paper, and when two records are one paper."""

import re
import unicodedata
from dataclasses import dataclass, replace
from html import unescape

ARXIV = re.compile(
    r"(?:arxiv[.:/\s]*|arxiv\.org/(?:abs|pdf|html|format)/|ar5iv[\w.]*\.org/(?:html/|abs/)?)?"
    r"(?P<id>\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v\d+)?(?:\.pdf)?",
    re.IGNORECASE,
)
DOI = re.compile(r"10\.\d{4,9}/[^\s\"<>]+")
ARXIV_DOI = "10.48550/arxiv."
REPOSITORIES = re.compile(
    r"arxiv|corr$|zenodo|openreview|biorxiv|medrxiv|ssrn|preprint|research ?square|hal\b|figshare|semantic scholar", re.IGNORECASE
)
SAME_TITLE = 95.0  # of 100, rapidfuzz's ratio of two normalised titles


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper as one service, or several, describe it. What is not known is empty or None."""

    title: str
    authors: tuple[str, ...] = ()  # "Given Family"
    year: int | None = None
    venue: str = ""
    doi: str = ""  # lower case, without resolver; never arXiv's own
    arxiv: str = ""  # without version
    s2: str = ""  # Semantic Scholar's id
    url: str = ""  # a page about it
    pdf: str = ""  # open access
    abstract: str = ""
    tldr: str = ""  # one sentence, written by a model of Semantic Scholar
    citations: int | None = None
    citations_from: str = ""
    sources: tuple[str, ...] = ()  # best first

    @property
    def first_author(self) -> str:
        """The first author's family name, lower case, ASCII letters."""
        return family(self.authors[0]) if self.authors else ""

    @property
    def cited_as(self) -> str:
        """`Yang et al. 2023`, as a text refers to it."""
        names = [author.split()[-1] for author in self.authors if author.split()]
        who = " and ".join(names) if 0 < len(names) < 3 else f"{names[0]} et al." if names else self.title
        return f"{who} {self.year}" if self.year else who


def line(text: object) -> str:
    """One line of printable text: entities resolved, tags, control characters and runs of white space removed."""
    plain = re.sub(r"</?(?:i|b|em|strong|sub|sup|scp|span|tt|mml:\w+|inf)\b[^<>]*>", "", unescape(str(text or "")))
    return " ".join("".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in plain).split())


def doi(text: str) -> str:
    """The DOI in a text, lower case; "" where there is none, or where it is arXiv's (then `arxiv` finds it)."""
    found = DOI.search(text or "")
    name = found[0].rstrip(".,;)]}").lower() if found else ""
    return "" if name.startswith(ARXIV_DOI) else name


def arxiv(text: str) -> str:
    """The arXiv id that `text` is (an id, an address, arXiv's DOI), without its version; "" where it is none."""
    text = (text or "").strip()
    if address := re.match(r"https?://(?:www\.|export\.|dx\.)?", text, re.IGNORECASE):
        text = text[address.end() :].partition("?")[0].partition("#")[0].rstrip("/")
        if not re.match(r"(?:ar[5x]iv[\w.]*|doi)\.org/", text, re.IGNORECASE):  # a number in another address may look like an id
            return ""
    text = re.sub(r"^doi\.org/|^doi:\s*", "", text, flags=re.IGNORECASE)
    if text.lower().startswith(ARXIV_DOI):
        text = text[len(ARXIV_DOI) :]
    found = ARXIV.fullmatch(text)
    return re.sub(r"\.[A-Z]{2}/", "/", found["id"]).lower() if found else ""


def plain(text: str) -> str:
    """Letters and digits of a text in lower case, accents removed, words apart by one space."""
    folded = unicodedata.normalize("NFKD", re.sub(r"\\[a-zA-Z]+|[${}]", " ", line(text)))
    return " ".join(re.findall(r"\w+", "".join(char for char in folded if not unicodedata.combining(char)).casefold().replace("_", " ")))


def family(author: str) -> str:
    """An author's family name in lower case, ASCII: `Yang, Songlin` and `Songlin Yang 0001` are both `yang`."""
    words = plain(author.partition(",")[0]).split()
    names = [word for word in words if not word.isdigit() and word not in ("jr", "sr", "ii", "iii")]
    return names[-1] if names else ""


def same(a: Paper, b: Paper) -> bool:
    """Are these one paper: the same DOI or arXiv id, else the same title with first author and year?"""
    if a.arxiv and b.arxiv:
        return a.arxiv == b.arxiv
    if a.doi and a.doi == b.doi:
        return True
    return _same_title(a, b)


def _same_title(a: Paper, b: Paper) -> bool:
    from rapidfuzz import fuzz

    left, right = plain(a.title), plain(b.title)
    if not left or not right or _numbers(left) != _numbers(right):  # Part I is not Part II
        return False
    equal = left.replace(" ", "") == right.replace(" ", "")
    if not equal and ((a.doi and b.doi) or fuzz.ratio(left, right) < SAME_TITLE or not _same_words(left, right)):
        return False
    if a.year and b.year and abs(a.year - b.year) > 2:  # a preprint is up to two years ahead
        return False
    if a.first_author and b.first_author:
        return fuzz.ratio(a.first_author, b.first_author) >= 80  # transliterations
    return len(left.split()) >= 4  # where an author is missing: not for `Editorial`


def _same_words(left: str, right: str) -> bool:
    """Do two titles differ in spelling only? `unsupervised` is not `supervised`, and a word more makes another title."""
    from rapidfuzz import fuzz

    words, others = left.split(), right.split()
    changed = [(word, other) for word, other in zip(words, others, strict=False) if word != other]
    return len(words) == len(others) and all(
        fuzz.ratio(word, other) >= 80 and not word.endswith(other) and not other.endswith(word) for word, other in changed
    )


def _numbers(title: str) -> list[str]:
    return [word for word in title.split() if re.fullmatch(r"\d+\w?|[ivx]+|[a-z]|\d*[kmb]", word) and word != "a"]


def merge(records: list[Paper]) -> Paper:
    """One record from several of one paper, the most trusted first in each field.

    Venue: a journal or conference before a repository, and its record's year with it. Citations: the largest count with its source.
    """
    best = records[0]
    published = next((one for one in records if one.venue and not REPOSITORIES.search(one.venue)), None)
    years = [one.year for one in records if one.year]
    counted = max((one for one in records if one.citations is not None), key=lambda one: one.citations, default=best)
    preprint = next((one.arxiv for one in records if one.arxiv), "")
    return replace(
        best,
        authors=max((one.authors for one in records), key=lambda authors: (len(authors), sum(map(len, authors)))),
        year=published.year if published and published.year else min(years, default=None),
        venue=published.venue if published else next((one.venue for one in records if one.venue), ""),
        doi=next((one.doi for one in ([published] if published else []) + records if one.doi), ""),
        arxiv=preprint,
        s2=next((one.s2 for one in records if one.s2), ""),
        url=f"https://arxiv.org/abs/{preprint}" if preprint else line(next((one.url for one in records if one.url), "")),
        pdf=f"https://arxiv.org/pdf/{preprint}" if preprint else line(next((one.pdf for one in records if one.pdf), "")),
        abstract=next((one.abstract for one in records if one.abstract), ""),
        tldr=next((one.tldr for one in records if one.tldr), ""),
        citations=counted.citations,
        citations_from=counted.citations_from,
        sources=tuple(dict.fromkeys(source for one in records for source in one.sources)),
    )


def groups(records: list[Paper]) -> list[list[int]]:
    """Which of `records` are one paper: their indices, in the order in which each first appears.

    An id that two groups share joins them. Two arXiv ids in a group are never joined by a title.
    """
    found: list[list[int]] = []
    for index, record in enumerate(records):
        by_id = [group for group in found if any(_shares_id(record, records[other]) for other in group)]
        by_title = [group for group in found if all(same(record, records[other]) for other in group)]
        home = (by_id or by_title[:1] or [[]])[0]
        if not home:
            found.append(home)
        for group in by_id[1:]:
            home += group
            found = [one for one in found if one is not group]
        home.append(index)
    return found


def _shares_id(a: Paper, b: Paper) -> bool:
    return bool((a.doi and a.doi == b.doi) or (a.arxiv and a.arxiv == b.arxiv))

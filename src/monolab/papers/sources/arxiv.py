"""arXiv's API, an Atom feed: https://info.arxiv.org/help/api/user-manual.html

It asks for three seconds between requests. Errors come with status 200: as an entry called Error, or as the bare text "Rate exceeded."
"""

import re
from xml.etree import ElementTree

from monolab.papers import record, web
from monolab.papers.record import Paper
from monolab.papers.sources import Years

NAMES = {"atom": "http://www.w3.org/2005/Atom", "arxiv": "http://arxiv.org/schemas/atom"}
INTERVAL = 3.0


class Arxiv:
    name = "arxiv"

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        terms = [f'all:"{phrase}"' if phrase else f"all:{word}" for phrase, word in re.findall(r'"([^"]+)"|([\w.-]+)', query)]
        first, last = years
        if first or last:
            terms.append(f"submittedDate:[{first or 1991}01010000 TO {last or 2999}12312359]")
        return self._ask({"search_query": " AND ".join(terms), "start": 0, "max_results": limit, "sortBy": "relevance", "sortOrder": "descending"})

    def lookup(self, paper: Paper) -> Paper | None:
        if not paper.arxiv:
            return None
        found = self._ask({"id_list": paper.arxiv, "max_results": 1})
        return found[0] if found else None

    def _ask(self, params: dict) -> list[Paper]:
        url = f"{web.base('arxiv_api', 'https://export.arxiv.org/api')}/query"
        return _read(web.request(url, params=params, interval=INTERVAL, max_age=web.DAY, check=_read))


def _read(answer: web.Answer) -> list[Paper]:
    if answer.body.strip().lower().startswith(b"rate exceeded"):
        raise web.Again(web.WebError("arXiv is asked too often", hint="wait some minutes", status=429))
    if b"<!DOCTYPE" in answer.body or b"<!ENTITY" in answer.body:  # a web page; and entities could grow without bound
        raise web.WebError("arXiv answered with something that is no feed", hint="try again later")
    try:
        feed = ElementTree.fromstring(answer.body)
    except ElementTree.ParseError as error:
        raise web.WebError(f"arXiv answered with a damaged feed: {error}", hint="try again later") from error
    entries = feed.findall("atom:entry", NAMES)
    for entry in entries:
        if "/api/errors" in _text(entry, "atom:id"):
            raise web.WebError(f"arXiv: {_text(entry, 'atom:summary')}", hint="ask in other words")
    return [_paper(entry) for entry in entries if _text(entry, "atom:title")]


def _paper(entry: ElementTree.Element) -> Paper:
    address = _text(entry, "atom:id")
    links = {link.get("title"): link.get("href", "") for link in entry.findall("atom:link", NAMES)}
    return Paper(
        title=_text(entry, "atom:title"),
        authors=tuple(record.line(name.text) for name in entry.findall("atom:author/atom:name", NAMES)),
        year=int(_text(entry, "atom:published")[:4]),
        venue="arXiv",
        doi=record.doi(_text(entry, "arxiv:doi")),
        arxiv=record.arxiv(address),
        url=re.sub(r"^http:", "https:", address),
        pdf=links.get("pdf", ""),
        abstract=_text(entry, "atom:summary"),
        sources=("arxiv",),
    )


def _text(entry: ElementTree.Element, name: str) -> str:
    return record.line(entry.findtext(name, "", NAMES))


SOURCE = Arxiv()

"""DBLP's publication search: https://dblp.org/faq/How+to+use+the+dblp+search+API.html"""

import re

from monolab.papers import record, web
from monolab.papers.record import Paper
from monolab.papers.sources import Years


class Dblp:
    name = "dblp"

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        # it knows no span of years: more is asked for, of which search.find keeps what lies in the span
        params = {"q": query, "format": "json", "h": min(100, 5 * limit) if any(years) else limit, "c": 0}
        answer = web.request(f"{web.base(self.name, 'https://dblp.org')}/search/publ/api", params=params, max_age=web.DAY, check=web.Answer.json)
        hits = _list(answer.json()["result"]["hits"].get("hit"))
        return [self._paper(hit["info"]) for hit in hits if hit["info"].get("title")]

    def _paper(self, info: dict) -> Paper:
        links = _list(info.get("ee"))
        preprint = re.fullmatch(r"abs/(.+)", info.get("volume") or "") if info.get("venue") == "CoRR" else None
        venue = next(iter(_list(info.get("venue"))), "")
        return Paper(
            title=record.line(info["title"]).removesuffix("."),
            # a number tells authors of one name apart
            authors=tuple(re.sub(r" \d{4}$", "", record.line(author["text"])) for author in _list((info.get("authors") or {}).get("author"))),
            year=int(info["year"]) if info.get("year") else None,
            venue="arXiv" if venue == "CoRR" else record.line(venue),
            doi=record.doi(info.get("doi") or ""),
            arxiv=record.arxiv(preprint[1]) if preprint else next((name for link in links if (name := record.arxiv(link))), ""),
            url=links[0] if links else info.get("url") or "",
            sources=(self.name,),
        )


def _list(value: object) -> list:
    """What a converter from XML gives: nothing, one, or a list of several."""
    return value if isinstance(value, list) else [] if value is None else [value]


SOURCE = Dblp()

"""OpenAlex's works: https://developers.openalex.org/api-reference/works

OPENALEX_API_KEY (free) allows more than a few searches a day; OPENALEX_MAIL says who asks. Both are optional.
"""

import os

from monolab.papers import record, web
from monolab.papers.record import Paper
from monolab.papers.sources import Years

FIELDS = "id,doi,title,publication_year,authorships,primary_location,best_oa_location,locations,cited_by_count,abstract_inverted_index"


class OpenAlex:
    name = "openalex"

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        first, last = years
        params = {"search": query, "per_page": limit, "select": FIELDS}
        if first and last:
            params["filter"] = f"publication_year:{first}-{last}"
        elif first or last:
            params["filter"] = f"publication_year:>{first - 1}" if first else f"publication_year:<{last + 1}"
        return [self._paper(work) for work in self._ask("works", params)["results"] if work.get("title")]

    def lookup(self, paper: Paper) -> Paper | None:
        name = paper.doi or (f"{record.ARXIV_DOI}{paper.arxiv}" if paper.arxiv else "")
        if not name:
            return None
        try:
            return self._paper(self._ask(f"works/doi:{name}", {"select": FIELDS}))
        except web.WebError as error:
            if error.status == 404:
                return None
            raise

    def _ask(self, path: str, params: dict) -> dict:
        own = {"api_key": os.environ.get("OPENALEX_API_KEY", ""), "mailto": os.environ.get("OPENALEX_MAIL", "")}
        return web.request(
            f"{web.base(self.name, 'https://api.openalex.org')}/{path}",
            params=params | {name: value for name, value in own.items() if value},
            secrets=tuple(own),
            interval=0.1,
            max_age=web.DAY,
            check=web.Answer.json,
        ).json()

    def _paper(self, work: dict) -> Paper:
        place = work.get("primary_location") or {}
        locations = [place, work.get("best_oa_location") or {}, *(work.get("locations") or [])]
        pages = [location.get("landing_page_url") or "" for location in locations]
        return Paper(
            title=record.line(work["title"]),
            authors=tuple(record.line(one["author"]["display_name"]) for one in work.get("authorships") or []),
            year=work.get("publication_year"),
            venue=record.line((place.get("source") or {}).get("display_name")),
            doi=record.doi(work.get("doi") or ""),
            arxiv=next((name for page in [work.get("doi") or "", *pages] if (name := record.arxiv(page))), ""),
            url=work.get("doi") or pages[0] or work["id"],
            pdf=next((location["pdf_url"] for location in locations[1:] + locations[:1] if location.get("pdf_url")), ""),
            abstract=_abstract(work.get("abstract_inverted_index") or {}),
            citations=work.get("cited_by_count"),
            citations_from=self.name if work.get("cited_by_count") is not None else "",
            sources=(self.name,),
        )


def _abstract(index: dict[str, list[int]]) -> str:
    """The text of an inverted index: each word with its positions."""
    return record.line(" ".join(word for _, word in sorted((place, word) for word, places in index.items() for place in places)))


SOURCE = OpenAlex()

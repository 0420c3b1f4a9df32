"""Semantic Scholar's Graph API, through the `semanticscholar` library: https://api.semanticscholar.org/api-docs/graph

S2_API_KEY is optional; without it all users share one allowance, and 429 is common.
"""

import asyncio
import os
from urllib.parse import parse_qsl, quote, quote_plus

from monolab.papers import record, web
from monolab.papers.record import Paper
from monolab.papers.sources import Years

FIELDS = ["paperId", "title", "authors", "year", "venue", "externalIds", "url", "abstract", "tldr", "citationCount", "openAccessPdf"]


class SemanticScholar:
    name = "semanticscholar"

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        first, last = years
        span = str(first) if first == last and first else f"{first or ''}-{last or ''}" if first or last else None
        # the library puts the words into the address as they are
        found = asyncio.run(self._client().search_paper(quote_plus(query), year=span, limit=limit, fields=FIELDS))
        return [self._paper(item) for item in found.items[:limit] if item.raw_data.get("title")]

    def lookup(self, paper: Paper) -> Paper | None:
        known = {"ARXIV:": paper.arxiv, "DOI:": paper.doi, "": paper.s2}
        name = next((prefix + value for prefix, value in known.items() if value), "")
        if not name:
            return None
        try:
            return self._paper(asyncio.run(self._client().get_paper(quote(name, safe=":/"), fields=FIELDS)))
        except web.WebError as error:
            if error.status == 404:
                return None
            raise

    def _client(self):
        from semanticscholar import AsyncSemanticScholar
        from semanticscholar.ApiRequester import ApiRequester

        key = os.environ.get("S2_API_KEY", "")

        class Requester(ApiRequester):
            """Its requests, with the lab's pace, back-off and cache: its own drops Retry-After, and takes a 503 for an empty answer."""

            async def get_data_async(self, url: str, parameters: str, headers: dict, payload: dict | None = None) -> dict:
                return web.request(
                    url, params=dict(parse_qsl(parameters)), headers=headers, json_body=payload, max_age=web.DAY, check=web.Answer.json
                ).json()

        client = AsyncSemanticScholar(api_key=key or None, api_url=web.base(self.name, AsyncSemanticScholar.DEFAULT_API_URL))
        client._requester = Requester(client.timeout)
        return client

    def _paper(self, item) -> Paper:
        known = item.raw_data  # the library's own attributes fail where the service leaves a field out
        ids = known.get("externalIds") or {}
        counted = known.get("citationCount")
        return Paper(
            title=record.line(known["title"]),
            authors=tuple(record.line(author["name"]) for author in known.get("authors") or []),
            year=known.get("year"),
            venue=record.line(known.get("venue")),
            doi=record.doi(ids.get("DOI") or ""),
            arxiv=record.arxiv(ids.get("ArXiv") or "") or record.arxiv(ids.get("DOI") or ""),
            s2=known.get("paperId") or "",
            url=known.get("url") or "",
            pdf=(known.get("openAccessPdf") or {}).get("url") or "",
            abstract=record.line(known.get("abstract")),
            tldr=record.line((known.get("tldr") or {}).get("text")),
            citations=counted,
            citations_from=self.name if counted is not None else "",
            sources=(self.name,),
        )


SOURCE = SemanticScholar()

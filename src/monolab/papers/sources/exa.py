"""Exa's neural search, through the `exa-py` library: https://docs.exa.ai/reference/search

It needs EXA_API_KEY; without one it is left out, and said to be.
"""

import os
import re

from monolab.papers import record, web
from monolab.papers.record import Paper
from monolab.papers.sources import Skipped, Years


class Exa:
    name = "exa"

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        key = os.environ.get("EXA_API_KEY", "")
        if not key:
            raise Skipped("EXA_API_KEY is not set", hint="export EXA_API_KEY=...")
        from exa_py import Exa as Client

        class Paced(Client):
            """Its requests, with the lab's pace, back-off and cache."""

            def request(self, endpoint: str, data: dict | None = None, **_) -> dict:
                return web.request(
                    self.base_url + endpoint, json_body=data, headers=self.headers, interval=0.2, max_age=web.DAY, check=web.Answer.json
                ).json()

        first, last = years
        found = Paced(key, base_url=web.base(self.name, "https://api.exa.ai")).search(
            query,
            num_results=limit,
            category="research paper",
            contents=False,
            start_published_date=f"{first}-01-01T00:00:00.000Z" if first else None,
            end_published_date=f"{last}-12-31T23:59:59.999Z" if last else None,
        )
        return [self._paper(result) for result in found.results if result.title]

    def _paper(self, result) -> Paper:
        url = result.url or ""
        year = re.match(r"\d{4}", result.published_date or "")
        return Paper(
            title=re.sub(r"^\[[\w./-]+\]\s*|\s+[-|]\s+(?:arXiv|OpenReview|ACL Anthology|Semantic Scholar)\S*$", "", record.line(result.title)),
            authors=tuple(name for part in re.split(r"[,;]| and ", result.author or "") if (name := record.line(part))),
            year=int(year[0]) if year else None,
            doi=record.doi(url),
            arxiv=record.arxiv(url),
            url=url,
            pdf=url if re.search(r"\.pdf$|/pdf[/?]", url) else "",
            sources=(self.name,),
        )


SOURCE = Exa()

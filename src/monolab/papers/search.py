"""Search every source at once, and make one ranked list of what they find."""

import contextvars
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from monolab.errors import LabError
from monolab.papers import record
from monolab.papers.record import Paper
from monolab.papers.sources import Skipped, Source, Years, discover

RRF = 60  # Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion", equation 1
TRUSTED = ("dblp", "semanticscholar", "openalex", "arxiv", "exa")  # whose fields are taken first


@dataclass(frozen=True)
class Found:
    """Papers, best first, and what was not asked or did not answer: name and reason."""

    papers: list[Paper]
    skipped: dict[str, str]
    failed: dict[str, str]


def years(text: str) -> Years:
    """`2020:2024`, `2020:`, `:2024` or `2024`. Raises LabError for anything else."""
    first, colon, last = text.partition(":")
    try:
        span = int(first) if first else None, int(last if colon else first) if last or not colon else None
    except ValueError:
        span = None, None
    if span == (None, None) or (None not in span and span[0] > span[1]):
        raise LabError(f"--year {text!r}: a year or a span of years", hint="--year 2020:2024, --year 2020: or --year 2024")
    return span


def find(query: str, *, names: tuple[str, ...] = (), limit: int = 10, span: Years = (None, None), lab_folder: Path | None = None) -> Found:
    """Ask the sources called `names` (default: all) at the same time.

    A source that fails is named with its reason, and the others' papers are there. Raises LabError for an empty query, an unknown
    source, a limit outside of 1 to 100, and where none of the sources answered.
    """
    if not query.strip():
        raise LabError("search for what?", hint='lab papers search "state decay"')
    if not 1 <= limit <= 100:
        raise LabError(f"--limit {limit}: from 1 to 100", hint="--limit 20")
    known = discover(lab_folder)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(f"there is no source {', '.join(unknown)}", hint=f"one of: {', '.join(known)}")
    asked = [known[name] for name in dict.fromkeys(names or known)]
    with ThreadPoolExecutor(len(asked)) as pool:
        waiting = [pool.submit(contextvars.copy_context().run, _ask, source, query, limit, span) for source in asked]
        answers = {source.name: one.result() for source, one in zip(asked, waiting, strict=True)}
    skipped = {name: answer.what for name, answer in answers.items() if isinstance(answer, Skipped)}
    failed = {name: answer.what for name, answer in answers.items() if isinstance(answer, LabError) and name not in skipped}
    lists = [answer for answer in answers.values() if isinstance(answer, list)]
    if not lists:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (failed | skipped).items())
        raise LabError(f"no source answered: {reasons}", hint="look at the network and try again; saved papers: lab papers list")
    return Found(fuse(lists)[:limit], skipped, failed)


def _ask(source: Source, query: str, limit: int, span: Years) -> list[Paper] | LabError:
    try:
        return [paper for paper in source.search(query, limit, span) if _within(paper, span)][:limit]
    except LabError as error:
        return error
    except Exception as error:  # noqa: BLE001  an answer in a form that the source does not know must not cost the others'
        return LabError(f"it answered in an unknown form ({type(error).__name__}: {error})")


def _within(paper: Paper, span: Years) -> bool:
    return paper.year is None or ((span[0] or paper.year) <= paper.year <= (span[1] or paper.year))


def fuse(lists: list[list[Paper]]) -> list[Paper]:
    """One list of distinct papers, by reciprocal rank fusion: a paper scores the sum of 1 / (60 + rank) over the lists it is in.

    Of records in one list that are one paper only the first counts. Ties: more citations first, then by title.
    """
    records = [(paper, rank, number) for number, papers in enumerate(lists) for rank, paper in enumerate(papers, 1)]
    records.sort(key=lambda one: (one[1], one[2]))
    scored = []
    for group in record.groups([paper for paper, _, _ in records]):
        ranks: dict[int, int] = {}
        for index in group:
            _, rank, number = records[index]
            ranks[number] = min(rank, ranks.get(number, rank))
        papers = sorted((records[index][0] for index in group), key=_trust)
        scored.append((sum(1 / (RRF + rank) for rank in ranks.values()), record.merge(papers)))
    scored.sort(key=lambda one: (-one[0], -(one[1].citations or 0), one[1].title))
    return [paper for _, paper in scored]


def _trust(paper: Paper) -> int:
    name = paper.sources[0] if paper.sources else ""
    return TRUSTED.index(name) if name in TRUSTED else len(TRUSTED)

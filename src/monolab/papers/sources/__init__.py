"""The services that papers are searched in: one file each, which defines `SOURCE`.

A lab's own sources are files of the same form in its `0_docs/papers/sources/`. The least that is needed:

    from monolab.papers import web
    from monolab.papers.record import Paper

    class OpenReview:
        name = "openreview"

        def search(self, query, limit, years):
            notes = web.request("https://api2.openreview.net/notes/search", params={"term": query, "limit": limit}, max_age=web.DAY).json()
            return [Paper(title=note["content"]["title"]["value"], sources=(self.name,)) for note in notes["notes"]]

    SOURCE = OpenReview()
"""

import importlib.util
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from monolab.errors import LabError
from monolab.papers.record import Paper

Years = tuple[int | None, int | None]  # from and to, both included; None: open


class Source(Protocol):
    """A service that finds papers."""

    name: str

    def search(self, query: str, limit: int, years: Years) -> list[Paper]:
        """At most `limit` papers, the most relevant first. Raises LabError where it fails, Skipped where it cannot be asked."""
        ...


@runtime_checkable
class Lookup(Protocol):
    """A source that also knows single papers by their id."""

    name: str

    def lookup(self, paper: Paper) -> Paper | None:
        """What it knows of the paper with this DOI, arXiv id or id of its own; None where it does not know it. Raises LabError."""
        ...


class Skipped(LabError):
    """A source that cannot be asked here, say because its key is not set."""


def discover(lab_folder: Path | None = None) -> dict[str, Source]:
    """Every source by name: the package's, then the lab's own in `lab_folder`, which replace those of the same name.

    Raises LabError for a file that does not load or defines no SOURCE.
    """
    loaded = [(f"{__name__}.{found.name}", import_module(f"{__name__}.{found.name}")) for found in pkgutil.iter_modules(__path__)]
    for path in sorted(lab_folder.glob("[!_]*.py")) if lab_folder else []:
        spec = importlib.util.spec_from_file_location(f"_lab_source_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's file raises
            raise LabError(f"{path} does not load: {type(error).__name__}: {error}", hint="mend it, or move it away") from error
        loaded.append((str(path), module))
    sources = {}
    for where, module in loaded:
        source = getattr(module, "SOURCE", None)
        if not isinstance(getattr(source, "name", None), str) or not callable(getattr(source, "search", None)):
            raise LabError(f"{where} defines no SOURCE with a name and search()", hint="monolab/papers/sources/dblp.py is an example")
        sources[source.name] = source
    return sources

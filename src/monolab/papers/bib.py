"""The saved papers as BibTeX, through bibtexparser."""

import re

from monolab.papers import record
from monolab.papers.saved import Saved

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {char: f"\\{char}" for char in "&%$#_"}
MEETING = re.compile(
    r"proceedings|conference|workshop|symposium|meeting"
    r"|\b(?:neurips|nips|iclr|icml|colm|acl|emnlp|naacl|eacl|coling|aaai|ijcai|aistats|uai|colt|cvpr|iccv|eccv|"
    r"interspeech|icassp|kdd|www|sigir|mlsys|osdi|sosp|isca|micro)\b",
    re.IGNORECASE,
)


def escape(text: str) -> str:
    """Text in which LaTeX takes no character for a command."""
    return "".join(SPECIAL.get(char, char) for char in text)


def write(papers: list[Saved]) -> str:
    """One entry per paper; its key is the paper's slug, which no other paper has and which stays."""
    import bibtexparser
    from bibtexparser.model import Entry, Field

    library = bibtexparser.Library(
        [Entry(kind, saved.slug, [Field(name, value) for name, value in fields]) for saved in papers for kind, fields in [_entry(saved)]]
    )
    form = bibtexparser.BibtexFormat()
    form.indent, form.value_column, form.block_separator = "  ", "auto", "\n"
    return bibtexparser.write_string(library, bibtex_format=form)


def _entry(saved: Saved) -> tuple[str, list[tuple[str, str]]]:
    paper = saved.paper
    published = paper.venue and not record.REPOSITORIES.search(paper.venue)
    kind = "misc" if not published else "inproceedings" if MEETING.search(paper.venue) else "article"
    values = {
        "title": f"{{{escape(paper.title)}}}",  # braces within: its capitals stay
        "author": " and ".join(_author(name) for name in paper.authors),
        "year": str(paper.year or ""),
        {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}[kind]: escape(paper.venue)
        if kind != "misc" or not paper.arxiv
        else "",
        "doi": _verbatim(paper.doi),
        "eprint": paper.arxiv,
        "archiveprefix": "arXiv" if paper.arxiv else "",
        "url": _verbatim(paper.url),
    }
    return kind, [(name, value) for name, value in values.items() if value]


def _verbatim(text: str) -> str:
    """An address, which styles print as it is: only what could end its field is taken out."""
    return re.sub(r"[{}\\\s]", "", text)


def _author(name: str) -> str:
    """A name of which ` and ` or a comma is a part is one name in braces."""
    text = escape(name)
    return f"{{{text}}}" if re.search(r"\band\b|,", name, re.IGNORECASE) else text

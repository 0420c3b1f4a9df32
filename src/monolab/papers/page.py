"""Read a paper out of HTML that LaTeXML made, as arXiv and ar5iv serve it: https://dlmf.nist.gov/LaTeXML/

Formulas come out as the authors' LaTeX, sections as headings, references one per line.
"""

import re

from monolab.errors import LabError
from monolab.papers import record
from monolab.papers.record import Paper
from monolab.papers.saved import Text, escape

LEVELS = {
    "ltx_title_part": 2,
    "ltx_title_chapter": 2,
    "ltx_title_section": 2,
    "ltx_title_abstract": 2,
    "ltx_title_acknowledgements": 2,
    "ltx_title_appendix": 2,
    "ltx_title_bibliography": 2,
    "ltx_title_subsection": 3,
    "ltx_title_subsubsection": 4,
    "ltx_title_paragraph": 5,
    "ltx_title_subparagraph": 6,
}
NO_TEXT = (
    "script, style, nav, header, footer, button, img, svg, picture, .ltx_page_navbar, .ltx_page_footer, .ltx_page_logo, .ltx_authors, .ltx_dates, "
    ".ltx_TOC, .ltx_ERROR, .ltx_listing_data, .ltx_rdf, .ltx_role_footnotemark, .package-alerts, .ltx_bib_cited, .ltx_tag_item"
)
PAYWALL = re.compile(
    r"sign in|log ?in|subscribe|purchase|buy (?:this )?article|institution(?:al)? access|get access|captcha|are you a robot|verify you are human",
    re.IGNORECASE,
)
# The private characters mark places below; control characters, those without width and changes of direction could hide text from who reads it.
HIDDEN = re.compile("[\ue000\ue001\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
SHORTEST = 1500  # letters: less is a page about a paper, or a conversion that ended early


class Unusable(LabError):
    """A page that does not hold a whole paper."""


def read(html: bytes) -> Text:
    """The paper in a page. Raises Unusable where the page is not LaTeXML's, or its conversion broke off."""
    soup = _soup(html)
    article = soup.select_one("article.ltx_document, .ltx_document")
    if article is None:
        raise Unusable("the page holds no paper (it was not made by LaTeXML)")
    if re.search(r"Conversion to HTML had a Fatal error", soup.get_text()):
        raise Unusable("its conversion to HTML broke off")
    try:
        text = _read(soup, article)
    except RecursionError as error:
        raise Unusable("the page is nested too deeply") from error
    if len(text.body) < SHORTEST:
        raise Unusable(f"the page holds only {len(text.body)} characters of text")
    return text


def about(html: bytes) -> Paper | None:
    """What a web page says of its paper in `citation_*` (the tags that Google Scholar reads); None where it says nothing."""
    soup = _soup(html)
    said: dict[str, list[str]] = {}
    for tag in soup.find_all("meta"):
        name = str(tag.get("name") or tag.get("property") or "").lower()
        if name.startswith("citation_") and tag.get("content"):
            said.setdefault(name.removeprefix("citation_"), []).append(record.line(tag["content"]))
    if not said.get("title"):
        return None
    first = {name: values[0] for name, values in said.items()}
    year = re.search(r"\d{4}", first.get("publication_date") or first.get("date") or first.get("year") or "")
    return Paper(
        title=first["title"],
        authors=tuple(_given_first(name) for name in said.get("author", ())),
        year=int(year[0]) if year else None,
        venue=first.get("conference_title") or first.get("journal_title") or "",
        doi=record.doi(first.get("doi", "")),
        arxiv=record.arxiv(first.get("arxiv_id", "")),
        pdf=first.get("pdf_url", ""),
        sources=("page",),
    )


def closed(html: bytes) -> bool:
    """Does a page ask for a login or for money?"""
    return bool(PAYWALL.search(_soup(html).get_text(" ")))


def _soup(html: bytes):
    """The page without what is hidden: taken out of its source, where it may split a tag, and once more where entities (`&#x202E;`) stood for it."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(HIDDEN.sub("", html.decode("utf-8", "replace")), "html.parser")
    for one in soup.find_all(string=HIDDEN.search):
        one.replace_with(type(one)(HIDDEN.sub("", one)))
    for element in soup.find_all(True):
        for name, value in element.attrs.items():
            element.attrs[name] = [HIDDEN.sub("", word) for word in value] if isinstance(value, list) else HIDDEN.sub("", value)
    return soup


def _given_first(name: str) -> str:
    family, comma, given = name.partition(",")
    return f"{given.strip()} {family.strip()}" if comma else name


def _read(soup, article) -> Text:
    from markdownify import MarkdownConverter

    kept: list[str] = []  # what must come through the conversion to Markdown as it is

    def place(text: str) -> str:
        kept.append(text.replace("<!--", "&lt;!--"))
        return f"\ue000{len(kept) - 1}\ue001"

    def block(text: str):
        element = soup.new_tag("div")
        element.string = place(text)
        return element

    def words(element) -> str:
        """The text of an element, on one line, with what was kept put in."""
        return record.line(_fill(element.get_text(), kept))

    authors = _authors(article)
    for element in article.select(NO_TEXT):
        element.decompose()
    for element in article.select(".ltx_equationgroup, .ltx_equation"):
        if element.parent is not None and not element.find_parent(class_=["ltx_equationgroup", "ltx_equation"]):
            element.replace_with(block("\n\n".join(_display(element))))
    for element in article.select("math"):
        tex = _tex(element)
        element.replace_with(place(f"${tex}$") if tex else element.get_text())
    for element in article.select(".ltx_note"):
        for mark in element.select(".ltx_note_mark, .ltx_tag_note, .ltx_note_type"):
            mark.decompose()
        element.replace_with(place(f" (footnote: {words(element)})"))
    for item in article.select(".ltx_bibitem"):
        tag = item.select_one(".ltx_tag_bibitem, .ltx_tag")
        label = words(tag.extract()).strip("[]() ") if tag else ""
        item.replace_with(block(f"- {f'[{label}] ' if label else ''}{words(item)}"))
    title = article.select_one(".ltx_title_document")
    name = words(title.extract()) if title else ""
    for element in article.select(".ltx_title"):
        level = next((LEVELS[one] for one in element.get("class", ()) if one in LEVELS), 0)
        text = words(element)
        element.replace_with(block(f"{'#' * level} {text}" if level else f"**{text}**") if text else "")
    markdown = MarkdownConverter(
        escape_asterisks=False, escape_underscores=False, escape_misc=False, strip=["a"], bullets="-", sup_symbol="", sub_symbol=""
    ).convert_soup(article)
    lines = [escape(re.sub(r"[ \t]+", " ", text).rstrip()) for text in markdown.splitlines()]
    body = _fill("\n".join(lines), kept)
    body = re.sub(r"(^- .*\n)\n+(?=- )", r"\1", body, flags=re.MULTILINE)  # references and lists without empty lines
    return Text(name, authors, re.sub(r"\n{3,}", "\n\n", body).strip())


def _authors(article) -> tuple[str, ...]:
    """What in the first line of each name looks like names; the rest are footnote marks, affiliations and addresses."""
    first = [re.split(r"[\n@]", element.get_text("\n").strip())[0] for element in article.select(".ltx_personname")]
    names = [record.line(name) for line in first for name in re.split(r",|&|\band\b", line)]
    return tuple(name for name in names if re.fullmatch(r"[^\W\d][^\d()\[\]]*\s[^\d()\[\]]+", name) and len(name.split()) <= 5)


def _fill(text: str, kept: list[str]) -> str:
    while "\ue000" in text:  # what was kept may hold such places itself, always earlier ones
        text = re.sub("\ue000(\\d+)\ue001", lambda match: kept[int(match[1])], text)
    return text


def _tex(math) -> str:
    """The authors' LaTeX on one line, from `alttext` or the annotation; "" where there is neither."""
    annotation = math.find("annotation", attrs={"encoding": "application/x-tex"})
    tex = math.get("alttext") or (annotation.get_text() if annotation else "")
    tex = re.sub(r"(?<!\\)%\s*\n", "", tex)  # LaTeXML breaks long lines so
    return " ".join(tex.split()).removeprefix(r"\displaystyle").strip()


def _cell(cell) -> str:
    """A cell of an equation: its formulas, words between them as text."""
    if not cell.select("math"):
        words = record.line(cell.get_text())
        return rf"\text{{{words}}}" if words else ""
    return " ".join(_tex(math) for math in cell.select("math"))


def _display(element) -> list[str]:
    """An equation, or a group of them, as `$$...$$` for each of its rows, numbers as tags."""
    found: list[str] = []
    for row in element.select(".ltx_eqn_row") or element.select("tr") or [element]:
        tag = row.select_one(".ltx_tag_equation, .ltx_tag_equationgroup, .ltx_eqn_eqno")
        number = record.line(tag.extract().get_text()).strip("() ") if tag else ""
        cells = row.select(".ltx_eqn_cell") or [row]
        tex = " ".join(text for cell in cells if (text := _cell(cell)))
        if tex:
            found.append(f"$${tex} \\tag{{{number}}}$$" if number else f"$${tex}$$")
    return found

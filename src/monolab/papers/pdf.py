"""Read a paper out of a PDF, through pdfplumber: columns in order, headings, references one per line.

Formulas come out as the characters that are printed, not as LaTeX; figures not at all.
"""

import io
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from monolab.errors import LabError
from monolab.papers import record
from monolab.papers.saved import NUMBER, Text, escape

LARGEST = 80 * 2**20  # bytes
LONGEST = 400  # pages
LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "st", "\ufb06": "st", "\u00ad": "-"}
)
KNOWN = re.compile(
    r"(?:abstract|introduction|related works?|background|preliminaries|methods?|methodology|approach|model|experiments?|"
    r"experimental (?:setup|results)|results(?: and discussion)?|evaluation|discussion|limitations|conclusions?(?: and future work)?|future work|"
    r"acknowledge?ments?|references|bibliography|appendix|appendices|broader impact|ethics statement|reproducibility statement|"
    r"supplementary materials?)$",
    re.IGNORECASE,
)
ALWAYS = re.compile(  # these head a section also where they are set like the text
    r"(?:abstract|introduction|related works?|conclusions?|acknowledge?ments?|references|bibliography|appendix|appendices)$", re.IGNORECASE
)
NUMBERED = re.compile(
    r"(?:(?P<digits>\d{1,2}(?:\.\d{1,2}){0,3})\.?|(?P<roman>[IVX]{1,5})\.|"
    r"(?:Appendix )?(?P<letter>[A-H](?:\.\d{1,2}){0,2})[.:]?)\s+(?P<title>[A-Z\u0391-\u03a9].*)$"
)
BOLD = re.compile(r"bold|black|heavy|semibold|demi|cmbx|-B\b|Medi\b", re.IGNORECASE)
ITALIC = re.compile(r"ital|oblique|cmti|slanted|-I\b", re.IGNORECASE)
REFERENCES = re.compile(r"(?:references|bibliography|works cited)$", re.IGNORECASE)
UNKNOWN = "\ufffd"  # a drawn character of which the font does not say what it is
STAMP = re.compile(r"arxiv:\s*(\d{4}\.\d{4,5}|[a-z-]+/\d{7})", re.IGNORECASE)
MATHS = re.compile(r"[=\u2264\u2265\u2248<>\u221d\u2192\u2190\u2208\u2211\u222b\ufffd]")
INLINE = re.compile(r"(?P<name>Abstract)\s*[\u2014\u2013:.-]+\s*(?=\S)", re.IGNORECASE)  # the text goes on in the same line


class Unreadable(LabError):
    """A file that no text can be read from."""


@dataclass
class Line:
    """A line of one column. Places in points from the page's left and top."""

    text: str
    x0: float
    x1: float
    top: float
    bottom: float
    size: float
    bold: bool
    italic: bool
    page: int
    left: float = 0.0  # of its column
    right: float = 0.0
    cells: list[str] = field(default_factory=list)  # apart by wide gaps, as in a table


def read(data: bytes) -> Text:
    """The text of a PDF. Raises Unreadable for what is none, is cut off, locked, scanned, or too large."""
    if not data[:1024].lstrip().startswith(b"%PDF-") and b"%PDF-" not in data[:1024]:
        page = data[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
        raise Unreadable("it is a web page, not a PDF" if page else "it is not a PDF")
    if len(data) > LARGEST:
        raise Unreadable(f"it has {len(data) / 2**20:.0f} MB, more than {LARGEST / 2**20:.0f}")
    if b"%%EOF" not in data[-4096:]:
        raise Unreadable("the PDF is cut off: its end mark is missing")
    lines, stamp = _lines(data)
    if sum(len(line.text) for line in lines) < 200:
        raise Unreadable("the PDF holds no text: its pages are probably scanned images")
    if sum(line.text.count(UNKNOWN) for line in lines) > 0.1 * sum(len(line.text) for line in lines):
        raise Unreadable("the PDF's fonts do not say which characters they draw")
    return _text(lines, stamp)


# -- lines --------------------------------------------------------------------------------------------------------


def _lines(data: bytes) -> tuple[list[Line], str]:
    """Every line in reading order, without running heads, and what is printed upright along the first page's edge."""
    import pdfplumber
    from pdfminer.pdfdocument import PDFEncryptionError
    from pdfminer.pdfexceptions import PDFException
    from pdfplumber.utils.exceptions import PdfminerException

    pages: list[tuple[list[dict], float, float]] = []
    try:
        with pdfplumber.open(io.BytesIO(data)) as document:
            if len(document.pages) > LONGEST:
                raise Unreadable(f"it has {len(document.pages)} pages, more than {LONGEST}")
            for page in document.pages:
                pages.append((_characters(page), float(page.width), float(page.height)))
                page.close()  # its parsed objects
    except Unreadable:
        raise
    except PdfminerException as error:
        if isinstance(error.args[0] if error.args else None, PDFEncryptionError):
            raise Unreadable("the PDF is locked by a password") from error
        raise Unreadable(f"the PDF is damaged: {error}") from error
    except (PDFException, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RecursionError, OverflowError) as error:
        raise Unreadable(f"the PDF is damaged: {type(error).__name__}: {error}") from error  # pdfminer raises all of these on broken files
    stamp = "".join(char["text"] for char in pages[0][0] if not char["upright"]) if pages else ""
    lines = [line for number, (characters, width, height) in enumerate(pages) for line in _page(characters, width, height, number)]
    return _without_running_heads(lines, [height for _, _, height in pages]), stamp


def _characters(page) -> list[dict]:
    """The page's characters without those of its figures, which take by far the longest to read, and are no text.

    Where next to nothing is left, the whole page lies in such a figure, and is read from there.
    """
    resources = page.page_obj.resources
    page.page_obj.resources = {name: value for name, value in resources.items() if name != "XObject"}
    if len(page.chars) < 50 and "XObject" in resources:
        page.page_obj.resources = resources
        page.close()  # what was read of it
    return page.chars


def _page(characters: list[dict], width: float, height: float, number: int) -> list[Line]:
    from pdfplumber.utils import dedupe_chars, extract_words

    upright = [char for char in characters if char["upright"] and 0 <= char["top"] < height]
    words = extract_words(dedupe_chars(upright), extra_attrs=["size", "fontname"], x_tolerance_ratio=0.15, y_tolerance=2)
    words = _without_line_numbers([word | {"text": re.sub(r"\(cid:\d+\)", UNKNOWN, word["text"].translate(LIGATURES))} for word in words])
    rows = _rows(words)
    gutter = _gutter(rows, width)
    if gutter is None:
        return _column([_line(row, number) for row in rows])
    ordered: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for row in rows:
        halves = _split(row, gutter)
        if halves is None:  # from edge to edge: what stands above it is read first
            ordered += _column(left) + _column(right) + _column([_line(row, number)])
            left, right = [], []
            continue
        left += [_line(halves[0], number)] if halves[0] else []
        right += [_line(halves[1], number)] if halves[1] else []
    return ordered + _column(left) + _column(right)


def _rows(words: list[dict]) -> list[list[dict]]:
    """Words that stand on one line, over the whole width of the page; from top to bottom, each from left to right."""
    rows: list[list[dict]] = []
    for word in sorted(words, key=lambda one: (one["top"] + one["bottom"]) / 2):
        middle = (word["top"] + word["bottom"]) / 2
        home = next((row for row in rows[-3:][::-1] if _beside(row, word, middle)), None)
        if home is None:
            rows.append([word])
        else:
            home.append(word)
    rows.sort(key=lambda row: median(word["bottom"] for word in row))
    whole: list[list[dict]] = []
    for row in rows:
        if whole and _overlap(whole[-1], row):
            whole[-1] += row
        else:
            whole.append(row)
    return [sorted(row, key=lambda one: one["x0"]) for row in whole]


def _beside(row: list[dict], word: dict, middle: float) -> bool:
    largest = max(row, key=lambda one: (UNKNOWN not in one["text"], one["size"]))  # large brackets hang from their line
    if largest["top"] <= middle <= largest["bottom"]:
        return True
    return word["size"] > largest["size"] and word["top"] <= (largest["top"] + largest["bottom"]) / 2 <= word["bottom"]


def _overlap(above: list[dict], below: list[dict]) -> bool:
    """Are these one line, of which one part is smaller or made of brackets: indices, exponents?"""
    (size, top, bottom), (other, lower_top, lower_bottom) = _extent(above), _extent(below)
    shared = bottom - lower_top
    return shared > 0.35 * min(bottom - top, lower_bottom - lower_top) and (min(size, other) < 0.85 * max(size, other))


def _extent(row: list[dict]) -> tuple[float, float, float]:
    """A row's largest size, and the top and the bottom of its words of that size. Unknown characters count for nothing."""
    size = max((word["size"] for word in row if UNKNOWN not in word["text"]), default=0.0)
    large = [word for word in row if word["size"] > 0.9 * size]
    return size, median(word["top"] for word in large), median(word["bottom"] for word in large)


def _without_line_numbers(words: list[dict]) -> list[dict]:
    """Without the numbers that a manuscript for reviewers has at the edges of its lines: they count up from line to line."""
    numbers = sorted((word for word in words if re.fullmatch(r"\d{1,4}", word["text"])), key=lambda one: (round(one["x0"] / 4), one["top"]))
    dropped: set[int] = set()
    run: list[dict] = []
    for word in [*numbers, None]:
        if word and run and abs(word["x0"] - run[-1]["x0"]) < 6 and int(word["text"]) == int(run[-1]["text"]) + 1 and word["top"] > run[-1]["top"]:
            run.append(word)
            continue
        if len(run) >= 10:
            dropped |= {id(one) for one in run}
        run = [word] if word else []
    return [word for word in words if id(word) not in dropped]


def _gutter(rows: list[list[dict]], width: float) -> float | None:
    """The place of the gap between two columns, in points; None where the page has one column.

    It is the place near the middle that the fewest rows cross, and only if many rows have words on both its sides.
    """
    if len(rows) < 6:
        return None
    best, fewest = None, len(rows)
    for place in range(int(width * 0.42), int(width * 0.58), 2):
        crossing = sum(_split(row, place) is None for row in rows)
        if crossing < fewest or (crossing == fewest and best is not None and abs(place - width / 2) < abs(best - width / 2)):
            best, fewest = place, crossing
    if best is None:
        return None
    halves = [_split(row, best) for row in rows]
    both = sum(bool(half and half[0] and half[1]) for half in halves)
    alone = sum(bool(half and not (half[0] and half[1])) for half in halves)
    return float(best) if both >= 4 and both + alone > 0.5 * len(rows) and both > 0.25 * len(rows) else None


def _split(row: list[dict], place: float) -> tuple[list[dict], list[dict]] | None:
    """The words left and right of `place`; None where one stands on it, or two stand so close around it that they are one text."""
    left = [word for word in row if word["x1"] <= place]
    right = [word for word in row if word["x0"] >= place]
    if len(left) + len(right) < len(row):
        return None
    if left and right and right[0]["x0"] - left[-1]["x1"] < 0.9 * max(left[-1]["size"], right[0]["size"]):
        return None
    return left, right


def _line(words: list[dict], page: int) -> Line:
    text, cells, last = "", [""], None
    for word in words:
        gap = word["x0"] - last["x1"] if last else 0.0
        size = max(word["size"], last["size"]) if last else word["size"]
        if last and gap > 1.6 * size:
            cells.append("")
        space = " " if last and gap > 0.12 * size else ""
        text += space + word["text"]
        cells[-1] += (space if cells[-1] else "") + word["text"]
        last = word
    sizes: Counter = Counter()
    for word in words:
        sizes[round(word["size"] * 2) / 2] += len(word["text"])

    def mostly(style: re.Pattern) -> bool:
        return 2 * sum(len(word["text"]) for word in words if style.search(word["fontname"])) > sum(sizes.values())

    return Line(
        text=record.line(text),
        x0=words[0]["x0"],
        x1=words[-1]["x1"],
        top=min(word["top"] for word in words),
        bottom=max(word["bottom"] for word in words),
        size=max(sizes, key=lambda one: (sizes[one], one)),
        bold=mostly(BOLD),
        italic=mostly(ITALIC),
        page=page,
        cells=[record.line(cell) for cell in cells],
    )


def _column(lines: list[Line]) -> list[Line]:
    """Tell each line the edges of its column."""
    if lines:
        left, right = min(line.x0 for line in lines), max(line.x1 for line in lines)
        for line in lines:
            line.left, line.right = left, right
    return [line for line in lines if line.text]


def _without_running_heads(lines: list[Line], heights: list[float]) -> list[Line]:
    """Without page numbers, and without what stands at the edge of several pages. `heights` of the pages, in points."""

    def at_edge(line: Line) -> bool:
        return line.top < 0.09 * heights[line.page] or line.bottom > 0.91 * heights[line.page]

    def shape(line: Line) -> str:
        return re.sub(r"\d+", "0", line.text.casefold())

    pages: dict[str, set[int]] = {}
    for line in lines:
        if at_edge(line):
            pages.setdefault(shape(line), set()).add(line.page)
    return [
        line
        for line in lines
        if not (
            at_edge(line)
            and (
                len(pages[shape(line)]) > 2
                or (len(pages[shape(line)]) > 1 and len(heights) < 4)
                or re.fullmatch(r"(?:page )?\d{1,4}", line.text, re.IGNORECASE)
            )
        )
    ]


# -- text ---------------------------------------------------------------------------------------------------------


def _text(lines: list[Line], stamp: str) -> Text:
    letters: Counter = Counter()
    for line in lines:
        letters[line.size] += len(line.text)
    body_size = letters.most_common(1)[0][0]
    title = _title(lines, body_size)
    rest = lines[: lines.index(title[0])] + lines[lines.index(title[-1]) + 1 :] if title else lines
    levels = [_level(line, rest, place, body_size) for place, line in enumerate(rest)]
    body = _assemble(list(zip(rest, levels, strict=True)), _leading(rest, body_size))
    named = next((found for text in (stamp, stamp[::-1]) if (found := STAMP.search(text))), None)  # it runs upwards: the last may come first
    return Text(
        title=record.line(_join([line.text for line in title], set())).removesuffix("."),
        authors=(),
        body=body if any(levels) else f"## Text\n\n{body}",
        arxiv=named[1].lower() if named else "",
        doi=record.doi(" ".join(line.text for line in lines if line.page == 0)),
    )


def _title(lines: list[Line], body_size: float) -> list[Line]:
    """The first lines of the largest size on the first page, as far as they follow each other."""
    first = [line for line in lines if line.page == 0]
    largest = max((line.size for line in first if len(line.text) > 3), default=body_size)
    if largest < 1.15 * body_size:
        return []
    start = next(place for place, line in enumerate(first) if line.size == largest and len(line.text) > 3)
    end = start + 1
    while end < min(len(first), start + 5) and first[end].size > largest - 0.6 and first[end].top - first[end - 1].bottom < 1.2 * largest:
        end += 1
    return first[start:end]


def _level(line: Line, lines: list[Line], place: int, body_size: float) -> int:
    """The level of the heading that a line is; 0 where it is none."""
    text = line.text.strip()
    if not 3 <= len(text) <= 110 or len(line.cells) > 2 or text[-1] in ",;" or not re.search(r"[A-Za-z]{3}", text):
        return 0
    stands_out = line.size >= 1.1 * body_size or line.bold
    small_capitals = text.upper() == text
    bare = NUMBER.sub("", text).rstrip(".: ")
    if KNOWN.match(bare) and (stands_out or small_capitals or (ALWAYS.match(bare) and _alone(line, lines, place))):
        return 2 if not (match := NUMBERED.match(text)) else _depth(match)
    match = NUMBERED.match(text)
    if (
        match
        and (stands_out or (small_capitals and len(text) > 6))
        and not text.endswith((".", ")"))
        and (match["digits"] or match["roman"] or stands_out)
    ):
        if match["digits"] and float(match["digits"].partition(".")[0]) > 20:
            return 0
        return _depth(match)
    if match and match["letter"] and line.italic and line.page + place > 0 and not text.endswith("."):  # `A. Data`, as IEEE sets subsections
        return 3
    if line.size >= 1.15 * body_size and line.page > 0 and not match and text[0].isupper() and not text.endswith("."):
        return 2 if line.size >= 1.3 * body_size else 3
    return 0


def _depth(match: re.Match) -> int:
    number = match["digits"] or match["letter"] or ""
    return min(6, 2 + number.count("."))


def _alone(line: Line, lines: list[Line], place: int) -> bool:
    """Does the line before it end, and does it leave more space than between two lines of a paragraph?"""
    before = lines[place - 1] if place else None
    short = line.x1 - line.x0 < 0.6 * max(line.right - line.left, 1.0)
    return short and (before is None or before.page != line.page or before.top > line.top or line.top - before.bottom > 0.5 * line.size)


def _leading(lines: list[Line], body_size: float) -> float:
    """The usual step from line to line within a paragraph, in points."""
    steps = [
        below.top - line.top
        for line, below in pairwise(lines)
        if line.page == below.page and line.left == below.left and line.size == below.size == body_size and below.top > line.top
    ]
    return median(steps) if steps else 1.2 * body_size


def _assemble(lines: list[tuple[Line, int]], leading: float) -> str:
    """Markdown: headings at their levels, paragraphs, formulas and rows of tables on lines of their own, references one per line."""
    compounds = {word.casefold() for line, _ in lines for word in re.findall(r"[A-Za-z]+-[A-Za-z]+", line.text)}
    blocks: list[str] = []
    paragraph: list[str] = []
    entries: list[Line] = []
    before: Line | None = None
    in_references = False

    def flush() -> None:
        nonlocal paragraph, entries
        if paragraph:
            blocks.append(escape(_join(paragraph, compounds)))
        if entries:
            blocks.append("\n".join(f"- {escape(entry)}" for entry in _entries(entries, compounds)))
        paragraph, entries = [], []

    for line, level in lines:
        inline = INLINE.match(line.text)
        if level:
            flush()
            same = before is not None and blocks and blocks[-1].startswith("#") and _continues(before, line) and not NUMBERED.match(line.text)
            if same and _level_of(blocks[-1]) == level and not KNOWN.match(NUMBER.sub("", line.text)):
                blocks[-1] += f" {line.text}"  # a heading of two lines
            else:
                blocks.append(f"{'#' * level} {line.text.replace('<!--', '&lt;!--')}")
            in_references = bool(REFERENCES.match(NUMBER.sub("", line.text).rstrip(".: ")))
        elif inline and not _holds(blocks, "abstract"):
            flush()
            blocks.append("## Abstract")
            paragraph = [line.text[inline.end() :]]
        elif in_references:
            entries.append(line)
        elif not re.search(r"\w", line.text):  # the halves of large brackets
            continue
        elif len(line.cells) > 2 or _formula(line):
            flush()
            row = line.text if MATHS.search(line.text) else " | ".join(cell for cell in line.cells if cell)
            block = f"`{row.replace('`', chr(39))}`"
            if (
                before is not None
                and blocks
                and blocks[-1].startswith("`")
                and before.page == line.page
                and 0 <= line.top - before.bottom < line.size
            ):
                blocks[-1] += f"  \n{block}"
            else:
                blocks.append(block)
        else:
            if paragraph and before is not None and _new_paragraph(before, line, leading):
                flush()
            paragraph.append(line.text)
        before = line
    flush()
    return "\n\n".join(blocks)


def _level_of(heading: str) -> int:
    return len(heading) - len(heading.lstrip("#"))


def _holds(blocks: list[str], name: str) -> bool:
    return any(block.startswith("#") and NUMBER.sub("", block.lstrip("# ")).casefold().startswith(name) for block in blocks)


def _continues(before: Line, line: Line) -> bool:
    return before.page == line.page and before.size == line.size and before.bold == line.bold and 0 <= line.top - before.bottom < 0.8 * line.size


def _formula(line: Line) -> bool:
    """A displayed formula: indented, with an operator, little prose; often a number at its end."""
    width = max(line.right - line.left, 1.0)
    if line.x0 - line.left < 0.08 * width or not MATHS.search(line.text):
        return False
    prose = re.findall(r"\b[a-z]{4,}\b", line.text)
    return len(prose) <= 2 or bool(re.search(r"\(\d{1,3}[a-z]?\)$", line.text) and len(prose) <= 5)


def _new_paragraph(before: Line, line: Line, leading: float) -> bool:
    ended = before.text[-1:] in ".:?!\u201d)" or before.x1 < before.right - 0.15 * (before.right - before.left)
    if line.text[0] in "\u2022\u2023\u25e6\u25aa":
        return True
    if before.page != line.page or line.top < before.top:  # the next column, or page: a sentence goes on over it
        return before.text[-1:] in ".:?!" and line.x0 - line.left > 0.6 * line.size
    if line.top - before.top > 1.35 * max(leading, line.size) or abs(line.size - before.size) > 1:
        return True
    return ended and 0.6 * line.size < line.x0 - line.left < 5 * line.size and before.x0 - before.left < 0.6 * line.size


def _join(texts: list[str], compounds: set[str]) -> str:
    """Lines as one text; a word that was divided at a line's end is whole again, unless the paper writes it with a hyphen."""
    joined = ""
    for text in texts:
        divided = re.search(r"(?P<head>-?)(?P<word>[A-Za-z]+)-$", joined)
        if divided and (follows := re.match(r"(?P<word>[a-z]+)(?P<tail>-?)", text)):
            written_so = f"{divided['word']}-{follows['word']}".casefold() in compounds
            joined = joined + text if written_so or divided["head"] or follows["tail"] else joined[:-1] + text
        elif joined.endswith("-") and re.search(r"\w-$", joined):
            joined += text
        else:
            joined += (" " if joined else "") + text
    return joined


def _entries(lines: list[Line], compounds: set[str]) -> list[str]:
    """The references: they begin with a number in brackets, or with a number, or where a line is not indented, or after a gap."""
    bracket = [bool(re.match(r"\[[\w+.,& -]{1,40}\]", line.text)) for line in lines]
    dotted = [bool(re.match(r"\d{1,3}\.\s", line.text)) for line in lines]
    edge = [line.x0 - _edge(lines, line) < 0.4 * line.size for line in lines]
    gap = [place == 0 or _apart(lines[place - 1], line) for place, line in enumerate(lines)]
    if sum(bracket) >= 2 or (bracket[0] and len(lines) < 5):
        begins = bracket
    elif sum(dotted) >= 2:
        begins = [one and flush for one, flush in zip(dotted, edge, strict=True)]
    elif 0 < edge.count(False):
        begins = edge
    else:
        begins = gap
    found: list[list[str]] = []
    for line, begin in zip(lines, begins, strict=True):
        if begin or not found:
            found.append([])
        found[-1].append(line.text)
    return [_join(entry, compounds) for entry in found]


def _edge(lines: list[Line], line: Line) -> float:
    """The left edge of the references in this line's column."""
    return min(other.x0 for other in lines if other.page == line.page and abs(other.left - line.left) < 1.0)


def _apart(before: Line, line: Line) -> bool:
    return before.page == line.page and line.top > before.top and line.top - before.bottom > 0.35 * line.size

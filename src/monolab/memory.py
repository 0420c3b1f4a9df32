"""What was tried before: which ideas, runs and discards are near a proposal, and what became of them.

Recall is broad and cheap: the ranks by sentence embedding, by character n-grams and by concepts are fused (reciprocal ranks; Cormack, Clarke and Buettcher
2009). The decision on each that was recalled (the same idea, a variation, another one) is a comparison field by field, with its reasons: no measure of
likeness tells a reworded idea from another one in the same words. A model may decide instead, where the user names one (`rubric.ask`).

The index in `6_runs/.memory/` is derived from idea files, results.tsv and verdicts.jsonl: it may be deleted at any time.
"""

import hashlib
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from monolab import embed, ideas, label, receipts, results, rubric, snapshot, verdicts
from monolab import problem as problems
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, INFERENCE_EMPTY, Lab
from monolab.verdicts import Verdict

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1  # of files.json
MADE_BY = f"{embed.MODEL} {embed.TOKENS} {embed.SIZES} {embed.BUCKETS}"  # what the vectors and n-grams of an index come from
FACETS = ("part", "device", "place", "grain", "purpose")  # of concepts.yaml
SAME, VARIATION, OTHER = "the same idea", "a variation", "another mechanism"
DECISIONS = (SAME, VARIATION, OTHER)
LIFT = {SAME: 0.15, VARIATION: 0.4, OTHER: 1.0}  # of an entry's place in the recall, which a decision that it is near brings forward
JUDGED = 8  # entries that a judge is asked about at least
RECALLED = 30  # entries that are compared field by field
FUSED = 10.0  # the constant of reciprocal rank fusion; its paper's 60 suits longer lists, and did no better here
# The cosine of two counts of concepts from which a facet agrees, and below which it differs. Fitted on half of benchmarks/memory/, reported on the other.
PART_AGREES, PART_DIFFERS = 0.65, 0.35
PLACE_AGREES, PLACE_DIFFERS = 0.5, 0.35
PART_SURE = 0.8  # from which a part outweighs a place that differs
DEVICE_DIFFERS, PURPOSE_DIFFERS = 0.3, 0.2
SAID = 0.8  # from which one of device and purpose speaks for both, where the other is not named
OPPOSITES = {  # what is done to a part: English, not a subject
    "takes it away": r"without|remov\w*|leav\w* out|take\w* (?:out|away)|drop(?:s|ped|ping)? the|no longer|omit\w*|get rid|do we need|is .{1,40} needed|can .{1,40} go\b",
    "brings it in": r"add(?:s|ed|ing)?|give[sn]?|introduc\w*|insert\w*|extra|second|further|append\w*|bring\w*",
    "enlarges it": r"doubl\w*|widen\w*|wider|longer|larger|bigger|increas\w*|rais\w*|twice|deeper|extend\w*",
    "shrinks it": r"halv\w*|narrow\w*|shorter|smaller|fewer|decreas\w*|reduc\w*|lower(?:s|ed|ing)?|half",
    "shares it": r"shar\w*|tie[sd]?|tying|common|one for all|pool\w*",
    "sets it apart": r"separat\w*|split\w*|of (?:its|their) own|apart|individual|independent",
}
CONVERSE = (("takes it away", "brings it in"), ("enlarges it", "shrinks it"), ("shares it", "sets it apart"))
IDENTIFIER = re.compile(r"`([^`\s]+)`|\b([A-Za-z]+_[A-Za-z_]\w*|[A-Z][a-z]+[A-Z]\w*)\b")


@dataclass(frozen=True)
class Entry:
    """Something that was proposed: an idea file, or a run whose label asks something else than its idea's file."""

    key: str  # the idea's slug, or the id of the newest run with that label
    kind: str  # idea, run, or text (a proposal that is no file yet)
    idea: str
    question: str
    hypothesis: str
    change: str = ""
    mechanism: str = ""
    predicted: float | None = None
    parent: str = BASELINE
    date: str = ""
    credence: float | None = None
    assumption: str = ""
    needs: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    wrong: str = ""  # why its file cannot be read; then the texts are empty

    @property
    def text(self) -> str:
        """What recall goes by."""
        return " ".join(f"{self.question} {self.hypothesis} {self.change}".split())

    @property
    def told(self) -> str:
        """What the comparison reads, beyond the question."""
        return f"{self.hypothesis} {self.change} {self.mechanism}"


@dataclass(frozen=True)
class Standing:
    """What became of an entry: its newest verdict, or the statuses of its runs."""

    word: str  # kept, kept as simpler, promising, open, dropped, refuted; else: untried, no verdict yet, crash x2 ...
    verdict: Verdict | None = None

    @property
    def failed(self) -> bool:
        return self.verdict is not None and self.verdict.failed

    @property
    def text(self) -> str:
        one = self.verdict
        if one is None:
            return self.word
        effect = "nothing measured" if one.effect is None else f"{one.effect:+.4g} {one.metric} over {len(one.seeds)} seed(s)"
        expected = "" if one.predicted is None else f", expected {one.predicted:+.4g}"
        return f"{self.word} ({one.verdict}, {effect}{expected}; {one.stage}, {one.time[:10]})"


@dataclass(frozen=True)
class Discard:
    """Why an idea failed, in the words of the record and of its author."""

    assumption: str
    observed: str
    inference: str  # the author's, from report or journal; "" where none was written


@dataclass(frozen=True)
class Comparison:
    decision: str
    reasons: tuple[str, ...]
    by: str = "fields"  # or the judge's name
    agreement: dict[str, float | None] = field(default_factory=dict)  # of each facet, 0 to 1; None where one of the two says nothing


@dataclass(frozen=True)
class Hit:
    entry: Entry
    standing: Standing
    comparison: Comparison
    likeness: float  # cosine of the embeddings: it decides nothing
    discard: Discard | None


# -- what there is ------------------------------------------------------------------------------------------------


def folder(lab: Lab) -> Path:
    return lab.runs / ".memory"


def entries(lab: Lab) -> list[Entry]:
    """The lab's ideas, oldest first, then the runs whose labels ask something else. Files that cannot be read have `wrong` set.

    What was read before is kept by each file's size and time of change: 10,000 idea files are not parsed again.
    """
    cache = folder(lab) / "files.json"
    old = _cached(cache)
    found, fresh = [], {}
    listed: list[tuple[str, os.stat_result]] = []
    if lab.ideas.is_dir():
        with os.scandir(lab.ideas) as files:
            listed = sorted((file.name, file.stat()) for file in files if ideas.FILE.fullmatch(file.name))
    for name, stat in listed:
        stamp = [stat.st_mtime_ns, stat.st_size]
        known = old.get(name)
        values = known[1] if known and known[0] == stamp else _read(lab.ideas / name)
        fresh[name] = [stamp, values]
        date, slug = ideas.FILE.fullmatch(name).groups()
        found.append(Entry(key=slug, kind="idea", idea=slug, date=date, **values | {one: tuple(values[one]) for one in ("needs", "touches")}))
    if fresh != old:
        save(cache, json.dumps({"format": FORMAT, "files": fresh}).encode())
    return found + _labels(lab, {entry.idea: entry for entry in found})


def _cached(path: Path) -> dict:
    """What was read of the idea files, by name; nothing where that is not there, of another format, or damaged."""
    try:
        kept = json.loads(path.read_text())
        return kept["files"] if kept["format"] == FORMAT else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        logger.info(f"{path} is damaged and is made anew")
        return {}


def save(path: Path, content: bytes) -> None:
    """Replace a file of the index. Where nothing can be written (a read-only checkout) it is made again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            Path(scratch, path.name).write_bytes(content)
            os.replace(Path(scratch, path.name), path)
    except OSError as error:
        logger.warning(f"the memory's index could not be kept, and is made again next time: {error}")


def _read(path: Path) -> dict:
    """The fields of an idea file that memory goes by. One that is wrong or not filled in is no failure of whoever asks."""
    empty = {name: "" for name in ("question", "hypothesis", "change", "mechanism", "parent", "assumption", "wrong")}
    empty |= {"predicted": None, "credence": None, "needs": [], "touches": []}
    try:
        fields, body = problems.front_matter(path)
    except LabError as error:
        return empty | {"wrong": error.what}
    texts = {name: str(fields.get(name) or "") for name in ("question", "hypothesis", "parent", "assumption")}
    if not texts["question"] or not texts["hypothesis"] or any(problems.FILL_IN in text for text in texts.values()):
        return empty | {"wrong": "its question or hypothesis is missing or still to be filled in"}
    parts = ideas.sections(body)
    texts |= {name: "" if problems.FILL_IN in parts.get(name, "") else parts.get(name, "") for name in ("change", "mechanism")}
    numbers = {name: fields.get(of) for name, of in (("predicted", "predicted_effect"), ("credence", "credence"))}
    numbers = {name: float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None for name, value in numbers.items()}
    lists = {name: [str(one) for one in fields.get(name) or ()] if isinstance(fields.get(name) or [], list) else [] for name in ("needs", "touches")}
    return empty | texts | numbers | lists


def _labels(lab: Lab, known: dict[str, Entry]) -> list[Entry]:
    """An entry for every label under which runs asked something else than their idea's file does, or whose idea has no file."""
    asked = [one for one in results.view(lab).labels() if one[0] != BASELINE and not one[0].startswith(CONTROL) and one[1]]
    if not asked:
        return []
    metric = problems.load(lab).metric
    found = []
    for idea, text, run_id, time in asked:
        own = known.get(idea)
        if own and text.startswith(f"Q: {own.question} H:"):  # of thousands: most, and sooner seen than by reading all of the label
            continue
        said = label.parse(text, metric)
        if not said.question or (own and _plain(said.question) == _plain(own.question)):
            continue
        parent = own.parent if own else ""
        found.append(Entry(run_id, "run", idea, said.question, said.text, predicted=said.effect, parent=parent, date=time[:10]))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _standing(one: Verdict) -> Standing:
    """What a verdict makes of its idea."""
    words = {"keep": "kept", "simpler": "kept as simpler", "more": "open", "promising": "promising", "drop": "dropped"}
    return Standing("refuted" if one.verdict == "refuted" and not one.kept else words[one.gate.decision], one)


def standings(lab: Lab) -> dict[str, Standing]:
    """What became of every idea that has runs or verdicts, by slug."""
    found: dict[str, Standing] = {}
    tried: dict[str, Counter] = {}
    for row in results.load(lab):
        tried.setdefault(row.idea, Counter())[row.status] += 1
    for idea, statuses in tried.items():
        bad = ", ".join(f"{status} x{count}" for status, count in statuses.items() if status != "ok")
        found[idea] = Standing(f"{sum(statuses.values())} run(s), no verdict yet" + (f": {bad}" if bad else ""))
    for one in verdicts.records(lab):
        if not one.control:
            found[one.idea] = _standing(one)
    return found


def discard(lab: Lab, entry: Entry, standing: Standing) -> Discard | None:
    """Why an idea failed; None where it did not."""
    one = standing.verdict
    if one is None or not standing.failed:
        return None
    effect = "nothing was measured" if one.effect is None else f"{one.effect:+.4g} {one.metric} against {one.against}"
    span = "" if one.low is None else f" [{one.low:+.4g}, {one.high:+.4g}]"
    observed = f"{effect}{span} over {len(one.seeds)} seed(s): {one.why}; gate: {one.gate.why}"
    return Discard(entry.assumption or entry.hypothesis or one.hypothesis, observed, inference(lab, one.idea))


def inference(lab: Lab, slug: str) -> str:
    """What the author made of an idea's result: the report's section, else the journal's; "" where it is still the lab's placeholder."""
    for path in sorted(lab.reports.glob(f"????-??-??_{slug}.md"), reverse=True):
        _, mark, text = path.read_text().partition("\n## Inference\n")
        if mark and INFERENCE_EMPTY not in text and text.strip():
            return " ".join(text.split())
    if lab.journal.exists():
        for part in re.split(r"^## ", lab.journal.read_text(), flags=re.MULTILINE)[1:]:
            if re.match(rf"\S+ {re.escape(slug)}: ", part) and INFERENCE_EMPTY not in part:
                _, mark, text = part.partition("\n- Against:")
                return " ".join(text.partition("\n")[2].split()) if mark else ""
    return ""


# -- recall -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)  # hashed as an object: counts are remembered
class Concepts:
    """The words of a lab's subject by facet and concept, compiled, from 0_docs/concepts.yaml. Empty in a lab without that file."""

    patterns: dict[str, dict[str, re.Pattern]]
    sha: str

    @property
    def names(self) -> list[tuple[str, str]]:
        return [(facet, concept) for facet, concepts in self.patterns.items() for concept in concepts]

    def count(self, question: str, told: str) -> dict[str, Counter]:
        """How often each concept is named, by facet; the question, which says what changes, counts twice."""
        return _count(self, question, told)

    def counted(self, numbers: Sequence[float]) -> dict[str, Counter]:
        """The same from a row of the index."""
        counts: dict[str, Counter] = {facet: Counter() for facet in FACETS}
        for (facet, concept), number in zip(self.names, numbers, strict=True):
            if number:
                counts[facet][concept] = int(number)
        return counts


@lru_cache(maxsize=20_000)  # `revived` compares every failure with every success
def _count(words: Concepts, question: str, told: str) -> dict[str, Counter]:
    asked, rest = (re.sub(r"[-/]", " ", text.lower()) for text in (question, told))
    counts: dict[str, Counter] = {facet: Counter() for facet in FACETS}
    for facet, concepts in words.patterns.items():
        for concept, pattern in concepts.items():
            if found := 2 * len(pattern.findall(asked)) + len(pattern.findall(rest)):
                counts[facet][concept] = found
    return counts


def concepts(lab: Lab) -> Concepts:
    """Raises LabError, naming the concept, for a file of another shape."""
    path = lab.root / "0_docs" / "concepts.yaml"
    return _concepts(path, path.stat().st_mtime_ns) if path.is_file() else Concepts({}, "")


@lru_cache(maxsize=4)
def _concepts(path: Path, _changed: int) -> Concepts:
    import yaml

    text = path.read_text()
    example = "part: {state decay: [decay gate, forget*]}"
    try:
        given = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LabError(f"{path.name} is not YAML: {error}", hint=f"edit {path}") from error
    if not isinstance(given, dict) or not given.keys() <= set(FACETS):
        raise LabError(f"{path.name} has other facets than {', '.join(FACETS)}", hint=example)
    patterns: dict[str, dict[str, re.Pattern]] = {}
    for facet, named in given.items():
        if not isinstance(named, dict):
            raise LabError(f"{path.name}: `{facet}` is no mapping of concepts", hint=example)
        for concept, phrases in named.items():
            if not isinstance(phrases, list) or not phrases or not all(isinstance(one, str) and one.strip(" *") for one in phrases):
                raise LabError(f"{path.name}: `{facet}: {concept}` is no list of phrases", hint=example)
            longest = sorted((one.lower() for one in phrases), key=len, reverse=True)
            either = "|".join(re.escape(one).replace(r"\*", r"\w*").replace(r"\ ", " ") for one in longest)
            patterns.setdefault(facet, {})[str(concept)] = re.compile(rf"\b(?:{either})(?:s|es)?\b")
    return Concepts(patterns, hashlib.sha256(text.encode()).hexdigest()[:16])


def _cosine(a: Counter, b: Counter) -> float | None:
    """Of two counts; None where one is empty."""
    if not a or not b:
        return None
    shared = sum(count * b[name] for name, count in a.items())
    return shared / math.sqrt(sum(count**2 for count in a.values()) * sum(count**2 for count in b.values()))


class Index:
    """The entries' texts as vectors, n-grams and counts of concepts, ready to be searched."""

    def __init__(self, shas: "np.ndarray", vectors: "np.ndarray", grams, counts: "np.ndarray"):
        import numpy as np

        self.shas, self.vectors, self.grams, self.counts = shas, vectors, grams, counts
        held = np.bincount(grams.indices, minlength=grams.shape[1])
        self.rarity = (np.log((1 + len(shas)) / (1 + held)) + 1).astype(np.float32)
        weighted = grams.multiply(self.rarity).tocsr()
        size = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        self.size = np.where(size > 0, size, 1).astype(np.float32)
        self.columns = weighted.tocsc()
        named = (counts > 0).sum(axis=0)
        self.weight = np.log((1 + len(shas)) / (1 + named)) + 1
        scaled = np.sqrt(counts) * self.weight
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        self.scaled = (scaled / np.where(length > 0, length, 1)).astype(np.float32)

    def scores(self, text: str, counts: "np.ndarray") -> dict[str, "np.ndarray"]:
        """How alike every entry is to a text, by each of the three measures, [entries]."""
        import numpy as np

        gram = embed.grams([text])
        weights = gram.data * self.rarity[gram.indices]
        by_grams = (self.columns[:, gram.indices] @ weights) / self.size
        asked = np.sqrt(counts) * self.weight
        length = float(np.linalg.norm(asked))
        return {
            "embedding": self.vectors @ embed.vectors([text])[0],
            "n-grams": by_grams,
            "concepts": self.scaled @ (asked / length if length else asked).astype(np.float32),
        }


def fuse(scores: dict[str, "np.ndarray"]) -> "np.ndarray":
    """The entries' places from best to worst by the sum of their reciprocal ranks."""
    import numpy as np

    total = np.zeros(len(next(iter(scores.values()))))
    for one in scores.values():
        if np.any(one > 0):
            ranks = np.empty(len(one))
            ranks[np.argsort(-one, kind="stable")] = np.arange(1, len(one) + 1)
            total += 1 / (FUSED + ranks)
    return np.argsort(-total, kind="stable")


def _sha(entry: Entry) -> bytes:
    return hashlib.sha256(f"{entry.question}\0{entry.told}".encode()).hexdigest()[:20].encode()


def index(folder: Path, found: Sequence[Entry], words: Concepts) -> Index:
    """The index over `found`, in their order. What `folder` holds of it is taken, the rest is computed and kept there."""
    import numpy as np
    from scipy.sparse import csr_matrix, vstack

    path = folder / "index.npz"
    shas = np.array([_sha(entry) for entry in found], dtype="S20")
    old = _load(path)
    place = {sha: row for row, sha in enumerate(old["shas"])} if old else {}
    missing = [number for number, sha in enumerate(shas) if sha not in place]
    if len(missing) > 200:
        logger.info(f"reading {len(missing):,} ideas into the memory's index, about {len(missing) // 100} s")
    vectors = embed.vectors([found[number].text for number in missing])
    grams = embed.grams(found[number].text for number in missing)
    order = np.empty(len(found), dtype=np.int64)  # of each entry in the old rows followed by the new ones
    before = len(old["shas"]) if old else 0
    order[missing] = before + np.arange(len(missing))
    for number, sha in enumerate(shas):
        if sha in place:
            order[number] = place[sha]
    fits = bool(old) and str(old["words"]) == words.sha
    if old:
        vectors = np.concatenate([old["vectors"], vectors])
        grams = vstack([csr_matrix((old["data"], old["indices"], old["indptr"]), shape=(before, embed.BUCKETS)), grams], format="csr")
    counts = np.zeros((before + len(missing), len(words.names)), dtype=np.float32)
    if fits:
        counts[:before] = old["counts"]
    for number in missing if fits else range(len(found)):
        counts[order[number]] = _counted(words, found[number])
    moved = not np.array_equal(order, np.arange(before + len(missing)))
    vectors, counts = vectors[order], counts[order]
    if moved:
        grams = grams[order]
    if missing or moved or not fits:
        arrays = {"data": grams.data, "indices": grams.indices, "indptr": grams.indptr, "vectors": vectors, "counts": counts, "shas": shas}
        _keep(path, arrays | {"words": np.array(words.sha), "made_by": np.array(MADE_BY)})
    return Index(shas, vectors, grams, counts)


def _counted(words: Concepts, entry: Entry) -> list[int]:
    found = words.count(entry.question, entry.told)
    return [found[facet][concept] for facet, concept in words.names]


def _load(path: Path) -> dict | None:
    """The arrays of an index file; None where there is none, another model's, or a damaged one: it is derived, and made anew."""
    import zipfile

    import numpy as np

    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("shas", "vectors", "data", "indices", "indptr", "counts", "words", "made_by")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        logger.info(f"{path} is damaged and is made anew")
        return None
    return arrays if str(arrays["made_by"]) == MADE_BY else None


def _keep(path: Path, arrays: dict) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    save(path, buffer.getvalue())


# -- the decision -------------------------------------------------------------------------------------------------


def _does(text: str) -> set[str]:
    return {name for name, pattern in OPPOSITES.items() if re.search(rf"\b(?:{pattern})\b", text.lower())}


def _named(entry: Entry, names: frozenset[str]) -> set[str]:
    """The names of train.py that an entry touches: those it lists, and those its text spells out."""
    spelled = {a or b for a, b in IDENTIFIER.findall(f"{entry.question} {entry.told}")}
    return {one.removeprefix("Config.") for one in entry.touches} | {one for one in spelled if one in names}


def compare(asked: Entry, other: Entry, words: Concepts, names: frozenset[str] = frozenset(), theirs: dict[str, Counter] | None = None) -> Comparison:
    """Whether two ideas are the same, field by field: what changes, where, how, why, the names of train.py (`names`), the predicted sign.
    `theirs` are the other's concepts, where they were counted before.

    What they change decides first: no common part, or the same device at another place, is another mechanism. The same part and place treated otherwise,
    for a reason of its own, at another grain or in the opposite direction is a variation. A facet on which one of them is silent speaks neither
    for nor against.
    """
    mine, theirs = words.count(asked.question, asked.told), theirs or words.count(other.question, other.told)
    agree = {facet: _cosine(mine[facet], theirs[facet]) for facet in FACETS}
    reasons = []
    for facet, what in (("part", "change"), ("device", "do"), ("place", "act on"), ("purpose", "are for")):
        both = [name for name, _ in mine[facet].most_common() if name in theirs[facet]]
        here, there = (", ".join(name for name, _ in one[facet].most_common(3)) or "nothing named" for one in (mine, theirs))
        if agree[facet] is not None:
            reasons.append(f"both {what}: {', '.join(both[:3])} ({agree[facet]:.2f})" if both else f"they {what} different things: {here} / {there}")
        elif mine[facet] or theirs[facet]:
            reasons.append(f"what they {what} cannot be compared: {here} / {there}")
    touched, touches = _named(asked, names), _named(other, names)
    if touched and touches:
        agree["names"] = len(touched & touches) / len(touched | touches)
        common = ", ".join(sorted(touched & touches))
        reasons.append(
            f"both touch {common}" if common else f"they touch different code: {', '.join(sorted(touched))} / {', '.join(sorted(touches))}"
        )
    decision, why = _decide(agree, _same_words(asked, other))
    if decision == SAME:
        contrary = _contrary(asked, other)
        if contrary:
            decision, why = VARIATION, contrary
        elif agree["grain"] == 0.0:
            decision, why = VARIATION, f"another grain: {', '.join(mine['grain'])} / {', '.join(theirs['grain'])}"
    if asked.predicted and other.predicted and asked.predicted * other.predicted < 0:
        reasons.append(f"they predict opposite effects ({asked.predicted:+g} / {other.predicted:+g})")
    return Comparison(decision, (why, *reasons), agreement=agree)


def _decide(agree: dict[str, float | None], same_words: bool) -> tuple[str, str]:
    part, place, device, purpose, names = (agree.get(facet) for facet in ("part", "place", "device", "purpose", "names"))
    if same_words:
        return SAME, "the same words"
    if part is None and names is None:
        if place is not None and place >= PART_SURE and (purpose or 0.0) >= PLACE_AGREES:
            return VARIATION, "no part is named by both, but they act on the same for the same purpose"
        return OTHER, "nothing shows that they change the same part"
    part = max(one for one in (part, names) if one is not None)
    if part < PART_DIFFERS:
        return OTHER, "they change different parts"
    if place is not None and place < PLACE_DIFFERS:
        return (VARIATION, "the same part at another place") if part >= PART_SURE else (OTHER, "they act on different things")
    if part < PART_AGREES or (place is not None and place < PLACE_AGREES):
        return VARIATION, "what they change overlaps only in part"
    if device is not None and device < DEVICE_DIFFERS:
        return VARIATION, "the same part, treated otherwise"
    if purpose is not None and purpose < PURPOSE_DIFFERS:
        return VARIATION, "the same change for another reason"
    if (device is None or purpose is None) and max(device or 0.0, purpose or 0.0) < SAID:
        return VARIATION, "the same part at the same place, but too little is said of how or why"
    return SAME, "the same part changed in the same way at the same place, and no field speaks against it"


def _same_words(asked: Entry, other: Entry) -> bool:
    return _plain(asked.text) == _plain(other.text)


def _contrary(asked: Entry, other: Entry) -> str:
    """In which respect one does the opposite of the other; "" where in none."""
    mine, theirs = (_does(one.question) or _does(f"{one.question} {one.hypothesis}") for one in (asked, other))
    for one, opposite in CONVERSE:
        for a, b in ((one, opposite), (opposite, one)):
            if a in mine and b not in mine and b in theirs and a not in theirs:
                return f"the converse: this {a}, that {b}"
    return ""


# -- use cases ----------------------------------------------------------------------------------------------------


def _train_names(lab: Lab) -> frozenset[str]:
    train = lab.root / "train.py"
    if not train.is_file():
        return frozenset()
    config, names = ideas.names_of(train)
    return frozenset(config | names)


def proposal(lab: Lab, words: str, found: Iterable[Entry]) -> Entry:
    """What `lab idea near` was asked about: the idea of that slug, else the words as a text (a label's `Q: ... H: ...` is taken apart)."""
    for entry in found:
        if entry.kind == "idea" and entry.key == words:
            if entry.wrong:
                raise LabError(f"1_ideas/{entry.date}_{words}.md cannot be compared: {entry.wrong}", hint=f"lab idea check {words}")
            return entry
    if ideas.SLUG.fullmatch(words) and "-" in words:
        raise LabError(f"no idea is called {words!r}", hint='give its words instead: lab idea near "a decay of the state, which ..."')
    if len(words.split()) < 3:
        raise LabError(f"{words!r} is too short to be compared", hint='say what changes and why: lab idea near "a decay of the state, which ..."')
    said = label.parse(words, problems.load(lab).metric) if re.search(r"\bH:", words) else None
    if said:
        return Entry("", "text", "", said.question, said.text, predicted=said.effect)
    return Entry("", "text", "", "", words)


def near(lab: Lab, words: str, k: int = 5, judged: bool = True) -> list[Hit]:
    """The `k` entries nearest to an idea (by slug) or a text, nearest first.

    `judged`: let the user's judge decide where one is set. Raises LabError where that fails: its answer is never made up.
    """
    found = entries(lab)
    asked = proposal(lab, words, found)
    ranked = _ranked(lab, asked, [one for one in found if not one.wrong])
    if judged and ranked and rubric.judge():
        ranked = _judge(asked, ranked[: max(k, JUDGED)])
    known = standings(lab)
    hits = []
    for entry, comparison, likeness in ranked[:k]:
        standing = known.get(entry.idea, Standing("untried"))
        hits.append(Hit(entry, standing, comparison, likeness, discard(lab, entry, standing)))
    return hits


def _ranked(lab: Lab, asked: Entry, found: Sequence[Entry], among: Callable[[Entry], bool] = lambda _: True) -> list[tuple[Entry, Comparison, float]]:
    """What is near an entry, of all that can be read (one index for whoever asks), without its own idea."""
    others = [number for number, one in enumerate(found) if one.idea != (asked.idea or None) and among(one)]
    if not others:
        return []
    words = concepts(lab)
    return recall(index(folder(lab), found, words), asked, found, words, _train_names(lab), others)


def recall(
    kept: Index,
    asked: Entry,
    found: Sequence[Entry],
    words: Concepts,
    names: frozenset[str] = frozenset(),
    others: Sequence[int] | None = None,
) -> list[tuple[Entry, Comparison, float]]:
    """The entries nearest to one, with their comparison: by their place in the recall, times a factor that lifts those decided to be near.

    `found` are the entries of the index; `others` the places in it of those that may be recalled (default: all).
    """
    import numpy as np

    scores = kept.scores(asked.text, np.array(_counted(words, asked), dtype=np.float32))
    places = np.arange(len(found)) if others is None else np.asarray(others)
    order = places[fuse({name: one[places] for name, one in scores.items()})]
    compared = []
    for rank, place in enumerate(order[:RECALLED], start=1):
        one = compare(asked, found[place], words, names, words.counted(kept.counts[place]))
        compared.append((rank * LIFT[one.decision], found[place], one, float(scores["embedding"][place])))
    return [one[1:] for one in sorted(compared, key=lambda one: one[0])]


def _judge(asked: Entry, ranked: list[tuple[Entry, Comparison, float]]) -> list[tuple[Entry, Comparison, float]]:
    """The same entries as a model decides on them. Raises LabError where it does not answer as asked."""
    told = [{"key": entry.key, "question": entry.question, "hypothesis": entry.hypothesis, "change": entry.change} for entry, _, _ in ranked]
    mine = {"question": asked.question, "hypothesis": asked.hypothesis, "change": asked.change, "predicted_effect": asked.predicted}
    answer = rubric.compare(mine, told, DECISIONS)
    by = rubric.judge()
    decided = [
        (entry, replace(comparison, decision=answer[entry.key][0], reasons=(answer[entry.key][1], *comparison.reasons[1:]), by=by), likeness)
        for entry, comparison, likeness in ranked
    ]
    return sorted(decided, key=lambda one: DECISIONS.index(one[1].decision))


def warnings(lab: Lab, slug: str, k: int = 3) -> list[str]:
    """A line for each of the nearest failed ideas that idea `slug` repeats or varies; what `lab worktree` and `lab queue` say before GPU time is spent.

    Nothing for an idea that has a verdict itself. Costs nothing in a lab where no other idea has failed, and about a second elsewhere.
    """
    if not (lab.runs / "verdicts.jsonl").exists():
        return []
    past = verdicts.looks(lab)
    if past.newest(slug) is not None or not (failed := past.failed() - {slug}):
        return []
    found = [one for one in entries(lab) if not one.wrong]
    asked = next((one for one in found if one.kind == "idea" and one.key == slug), None)
    if asked is None:
        return []
    ranked = _ranked(lab, asked, found, among=lambda one: one.idea in failed)
    near_by = [(entry, comparison) for entry, comparison, _ in ranked if comparison.decision != OTHER]
    return [
        f"{slug} looks like {comparison.decision} {'as' if comparison.decision == SAME else 'of'} one that failed: {entry.key}, {_standing(past.newest(entry.idea)).text} "
        f"({comparison.reasons[0]}); lab idea show {entry.idea}"
        for entry, comparison in near_by[:k]
    ]


def only_settings(lab: Lab, asked: receipts.Request) -> list[str]:
    """The fields of Config whose defaults are all that a request's code changes against its parent's run, or against main where it has none."""
    old = receipts.request(lab, asked.parent).commit if asked.parent else snapshot.fork_point(lab, asked.head)
    files = set(re.findall(r"^diff --git a/(.+) b/", snapshot.changed(lab, old, asked.commit), re.MULTILINE))
    if files != {"train.py"}:
        return []
    before, after = (snapshot.text(lab, commit, "train.py") for commit in (old, asked.commit))
    return ideas.settings_changed(before, after) or []


@dataclass(frozen=True)
class Revival:
    """A discard that is worth another look, and what changed since."""

    slug: str
    assumption: str
    failed: str  # when, UTC
    because: str
    evidence: str  # the idea or run that overturns it
    weight: int  # 0 is the strongest reason


def revived(lab: Lab) -> list[Revival]:
    """Failed ideas whose failure a later verdict puts in doubt, the strongest reason of each, strongest first.

    0: an idea that it needs was kept since. 1: an idea with the same assumption was supported since. 2: a variation of it was kept since. 3: what it was
    measured against (its parent or anchor) was judged otherwise since. 4: the baseline was measured since with another scorer, other data or other code.
    """
    past = [one for one in verdicts.records(lab) if not one.control]
    last = {one.idea: place for place, one in enumerate(past)}  # the record has the order: times are whole seconds, and clocks are set back
    known, found = standings(lab), {entry.key: entry for entry in entries(lab) if entry.kind == "idea" and not entry.wrong}
    failed = {slug: known[slug].verdict for slug in found if slug in known and known[slug].failed}
    if not failed:
        return []
    revivals: dict[str, Revival] = {}

    def offer(slug: str, weight: int, because: str, evidence: str) -> None:
        old = revivals.get(slug)
        if old is None or weight < old.weight:
            told = found[slug]
            revivals[slug] = Revival(slug, told.assumption or told.hypothesis, failed[slug].time, because, evidence, weight)

    words, names = concepts(lab), _train_names(lab)
    good = {
        slug: standing.verdict
        for slug, standing in known.items()
        if standing.verdict and (standing.verdict.kept or standing.verdict.verdict == "supported")
    }
    for slug, lost in failed.items():
        mine = found[slug]
        for other, won in good.items():
            if other == slug or last[other] < last[slug]:
                continue
            theirs = found.get(other)
            when = f"{known[other].word} on {won.time[:10]}"
            if other in mine.needs and won.kept:
                offer(slug, 0, f"it needs {other}, which was {when}", other)
            elif theirs and mine.assumption and _plain(mine.assumption) == _plain(theirs.assumption):
                offer(slug, 1, f"what it assumes held for {other}, which was {when}", other)
            elif theirs and won.kept and (same := compare(mine, theirs, words, names)).decision != OTHER:
                offer(
                    slug,
                    2,
                    f"{other}, {same.decision if same.decision == VARIATION else 'the same idea'} of it, was {when}: {same.reasons[0]}",
                    other,
                )
        for stood_on in dict.fromkeys((lost.gate.anchor, lost.against, *lost.gate.through, mine.parent)):
            if stood_on in (BASELINE, slug, ""):
                continue
            before, after = ([one for one in part if one.idea == stood_on] for part in (past[: last[slug]], past[last[slug] :]))
            if after and after[-1].kept != (before[-1].kept if before else False):
                offer(slug, 3, f"{stood_on}, which it was measured on, was {known[stood_on].word} on {after[-1].time[:10]}", stood_on)
    for slug, because, run in _moved(lab, failed):
        offer(slug, 4, because, run)
    return sorted(revivals.values(), key=lambda one: (one.weight, one.failed, one.slug))


def _moved(lab: Lab, failed: dict[str, Verdict]) -> list[tuple[str, str, str]]:
    """Failed ideas whose stage has a newer baseline under another scorer, other data, or of other code than theirs: slug, why, the newer run."""
    newest: dict[str, receipts.Receipt] = {}
    rows = results.load(lab)
    place = {row.run_id: number for number, row in enumerate(rows)}
    for row in reversed(rows):
        if row.idea == BASELINE and row.status == "ok" and row.stage not in newest and verdicts.is_reference(row.flags.split(",")):
            newest[row.stage] = receipts.receipt(lab, row.run_id)
    found = []
    for slug, lost in failed.items():
        now, own = newest.get(lost.stage), receipts.receipt(lab, lost.runs[-1])
        if now is None or own is None or place[now.run_id] < place.get(own.run_id, -1):
            continue
        changed = [what for name, what in (("eval_sha", "scorer"), ("data_sha", "data")) if getattr(now, name) != getattr(own, name)]
        base = receipts.receipt(lab, lost.against_runs[-1]) if lost.against == BASELINE and lost.against_runs else None
        if base and base.code_sha != now.code_sha:
            changed.append("code of the baseline")
        if changed:
            found.append((slug, f"measured since with another {' and '.join(changed)}", now.run_id))
    return found


def as_json(hit: Hit) -> dict:
    """A hit as plain data."""
    one = hit.standing.verdict
    verdict = one and {
        name: getattr(one, name) for name in ("time", "stage", "verdict", "why", "effect", "low", "high", "predicted", "metric", "runs")
    }
    return {
        **{name: getattr(hit.entry, name) for name in ("key", "kind", "idea", "question", "hypothesis", "predicted")},
        "decision": hit.comparison.decision,
        "reasons": list(hit.comparison.reasons),
        "by": hit.comparison.by,
        "agreement": hit.comparison.agreement,
        "likeness": round(hit.likeness, 4),
        "standing": hit.standing.word,
        "failed": hit.standing.failed,
        "verdict": verdict and verdict | {"decision": one.gate.decision},
        "discard": hit.discard and asdict(hit.discard),
    }

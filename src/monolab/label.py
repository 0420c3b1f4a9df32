"""The label of a run, which is its preregistration: `Q: does X help? H: expect -0.02 METRIC, 70%`."""

import math
import re
from dataclasses import dataclass

from monolab.errors import LabError

# A sign that no number, word or sign stands before (3e-4 and 0.5-0.6 hold none); apart from its digits only where it is no minus between two numbers.
_SIGNED = r"(?<![\w.+\-−±/])[+\-−](?:(?<!\d [+\-−])\s)?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+\-]?\d+)?"
_SHARE = r"(?<![\w.+\-−])(\d{1,3}(?:\.\d+)?)\s*%"
EXAMPLE = "Q: does X help? H: expect {sign}0.02 {metric}, 70%"


@dataclass(frozen=True)
class Hypothesis:
    """What a label predicts. `effect` is signed, candidate minus parent, in the metric's unit; `credence` lies in 0..1."""

    question: str
    text: str
    effect: float | None
    credence: float | None

    @property
    def scorable(self) -> bool:
        """Whether a verdict can be held against it: both a signed effect and a credence were stated."""
        return self.effect is not None and self.credence is not None


def parse(label: str, metric: str) -> Hypothesis:
    """Read what a person typed. What is not there is None: a looser label is kept and shown, but not scorable.

    The effect is a *signed* number other than 0, followed by the metric's name (or the word `metric`): the one that the
    last `expect` is followed by, else the last one. The credence is the last percentage.
    """
    question, text = _parts(label)
    signed = rf"({_SIGNED})\s*(?:{re.escape(metric)}|metric)(?!\w)"
    expected = re.findall(signed, re.split(r"\bexpect", text)[-1])[:1] if re.search(r"\bexpect", text) else []
    effect = (expected or re.findall(signed, text) or ["0"])[-1]
    effect = float(effect.replace("−", "-").replace(" ", ""))
    share = float((re.findall(_SHARE, text) or ["nan"])[-1]) / 100
    return Hypothesis(
        question=question.removeprefix("Q:").strip(),
        text=text,
        effect=effect if effect and math.isfinite(effect) else None,
        credence=share if share <= 1 else None,
    )


def _parts(label: str) -> tuple[str, str]:
    """What stands before the first word `H:`, and after it, on one line each."""
    question, *text = re.split(r"\bH:", " ".join(label.split()), maxsplit=1)
    return question.strip(), "".join(text).strip()


def require(label: str, metric: str, direction: str) -> Hypothesis:
    """As `parse`, where a question and a hypothesis are required. Raises LabError naming the part that is missing."""
    hypothesis = parse(label, metric)
    asked = re.search(r"\bQ:", _parts(label)[0]) and hypothesis.question
    missing = [part for part, text in (("Q:", asked), ("H:", hypothesis.text)) if not text]
    if missing:
        example = EXAMPLE.format(sign="-" if direction == "lower" else "+", metric=metric)
        raise LabError(f"the label {label!r} has no {' and no '.join(missing)}", hint=f'say what is asked and expected: "{example}"')
    return hypothesis


def render(question: str, effect: float, credence: float, metric: str) -> str:
    """The label of an idea file's front matter."""
    return f"Q: {' '.join(question.split())} H: expect {effect:+g} {metric}, {credence * 100:.3g}%"

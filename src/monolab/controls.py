"""Controls: experiments with a known answer, sent through the ordinary path, which show how often the lab itself is wrong.

`control-null` is main's own code as if it were an idea: it must not be kept. `control-NAME` is main with `1_ideas/controls/NAME.patch`, which is known to
harm: it must be refuted. Read backwards, baseline against harmed code, the same runs are a gain that is known to be there: where the gate
would not keep it, it misses gains of that size. Every round has seeds of its own, so that no round repeats the numbers of another; the baseline's seeds they
are paired with are the same, so the rates' intervals, which take rounds for independent, are a little narrow.
"""

import itertools

from monolab import problem, receipts, results, snapshot, stats, verdicts
from monolab.errors import LabError
from monolab.paths import BASELINE, CONTROL, CONTROL_SEEDS, Lab
from monolab.receipts import Request
from monolab.verdicts import Looks, Verdict

NULL = f"{CONTROL}null"
HARM_SEEDS = 3  # asked for at once: a harm is to be refuted, which one seed cannot do
QUESTIONS = {True: "Q: is the baseline better than itself? H: it is not", False: "Q: is a change that is known to harm refuted? H: it is not better"}


def known(lab: Lab) -> list[str]:
    """The controls of a lab: `control-null`, and one for every patch in 1_ideas/controls/."""
    return [NULL, *(f"{CONTROL}{path.stem}" for path in sorted((lab.ideas / "controls").glob("*.patch")))]


def rounds(lab: Lab) -> dict[str, int]:
    """How often each control was queued."""
    count = dict.fromkeys(known(lab), 0)
    for path in lab.runs.glob(f"*-{CONTROL}*-s*/request.json"):
        request = receipts.request(lab, path.parent.name)
        count[request.idea] = max(count.get(request.idea, 0), request.seed // CONTROL_SEEDS)
    return count


def queue_control(lab: Lab, slug: str, stage: str) -> list[Request]:
    """Queue the next round of one control. Raises LabError where the baseline was not measured, or a patch no longer applies to main."""
    from monolab import dispatch, gate, queue  # here: `lab status` imports this module, and must be quick

    subject = problem.load(lab)
    base = verdicts.arm(lab, results.view(lab), BASELINE, stage)
    if base is None:
        raise LabError(f"the baseline was not measured at stage {stage}", hint=f"just baseline --stage {stage}")
    if snapshot.patched(lab, None).code_sha != base.receipts[-1].code_sha:
        raise LabError("main's code changed since the baseline was measured: a control would compare the two", hint=f"just baseline --stage {stage}")
    patch = None if slug == NULL else lab.ideas / "controls" / f"{slug.removeprefix(CONTROL)}.patch"
    group = dispatch.prepare()
    first = (rounds(lab)[slug] + 1) * CONTROL_SEEDS
    seeds = [first + seed for seed in range(1 if slug == NULL else HARM_SEEDS)]
    code = snapshot.patched(lab, patch)
    with results.locked(lab):
        gate.renew(lab, subject, receipts.request(lab, base.runs[-1]), list(range(HARM_SEEDS)))
    with dispatch.asking(lab):
        made = queue.requests(lab, slug, lab.root, QUESTIONS[slug == NULL], stage, seeds, [], required=False, control=code)
        dispatch.send(lab, made, group)
    return made


def queue_round(lab: Lab, stage: str) -> list[Request]:
    """Queue one round of every control."""
    return list(itertools.chain.from_iterable(queue_control(lab, slug, stage) for slug in known(lab)))


def due(lab: Lab, stage: str) -> list[Request]:
    """Queue the control that was queued least, where program.md's `controls` asks for more of them by now."""
    wanted = problem.load(lab).controls
    if not wanted:
        return []
    count = rounds(lab)
    asked = (receipts.request(lab, path.parent.name) for path in lab.runs.glob("*/request.json"))
    ideas = {(one.idea, one.stage, one.code_sha, one.args) for one in asked if one.idea != BASELINE and "control" not in one.flags}
    if sum(count.values()) >= wanted * len(ideas):
        return []
    return queue_control(lab, min(known(lab), key=lambda slug: count[slug]), stage)


def record(lab: Lab, stage: str, past: Looks | None = None) -> list[dict]:
    """What came of the controls of a stage: how many of how many, as a rate with its 95 % interval (Wilson). Empty before the first."""
    subject = problem.load(lab)
    judged = [one for one in (past or verdicts.looks(lab)).arms(stage, control=True) if one.final and one.mean is not None]
    nulls = [one for one in judged if one.idea == NULL]
    harms = [one for one in judged if one.idea != NULL]
    gains = [one for one in harms if one.gate.p is not None]
    found = []
    for name, what, hits, trials in (
        ("false keeps", "the baseline against itself, kept", sum(one.kept for one in nulls), len(nulls)),
        ("harms let through", "changes known to harm, not refuted", sum(one.verdict != "refuted" for one in harms), len(harms)),
        ("missed gains", "the same changes undone, not kept", sum(not _mirrored(one, subject) for one in gains), len(gains)),
    ):
        if trials:
            low, high = stats.wilson(hits, trials)
            found.append({"name": name, "what": what, "hits": hits, "trials": trials, "low": low, "high": high})
    return found


def _mirrored(verdict: Verdict, subject: problem.Problem) -> bool:
    """Whether the gate would keep the baseline against the harmed code, on the same runs: the test is symmetric."""
    gate = verdict.gate
    return 1 - gate.p <= gate.allowed and -subject.sign * gate.effect >= subject.smallest_effect


def text(found: list[dict]) -> str:
    return "\n".join(f"{one['name']:<18} {one['hits']} of {one['trials']} ({one['low']:.0%} to {one['high']:.0%}): {one['what']}" for one in found)

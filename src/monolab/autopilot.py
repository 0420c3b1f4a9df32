"""The loop of program.md without a human: one short-lived agent process for each step, while the queue keeps the device busy.

Nothing is remembered between steps but what stands in files: which step comes next is read from ideas, opinions, worktrees, trials, runs and verdicts
(`agenda`), so a night that was killed goes on where it was, at the same step. The lab does itself what needs no thought: trials, queueing, commits,
promotion, the pull request. An agent's answer is checked, has one round of repair, and is then recorded as failed (`roles`); every call is metered
(`meter`); FROZEN files are put back after each.
"""

import json
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath

from loguru import logger

from monolab import (
    advice,
    agenda,
    agent,
    alerts,
    analyst,
    backlog,
    debug,
    device,
    dispatch,
    doctor,
    fence,
    guard,
    ideas,
    journal,
    memory,
    meter,
    promote,
    pueue,
    queue,
    receipts,
    report,
    results,
    roles,
    rubric,
    smoke,
    snapshot,
    submit,
    tune,
    verdicts,
)
from monolab import problem as problems
from monolab.errors import LabError
from monolab.hooks import STEP
from monolab.paths import BASELINE, INFERENCE_EMPTY, RECORDS, Lab
from monolab.problem import Autopilot
from monolab.rubric import Unusable

ROLE = {  # of the steps that need a thought
    "ideate": "researcher",
    "critique": "critic",
    "rate": "judge",
    "implement": "engineer",
    "repair": "debugger",
    "review": "critic",
    "report": "analyst",
}
FREE = ("researcher", "engineer", "debugger")  # may use tools unasked: read and search, edit and try
LOOK = 30.0  # seconds after which the queue is looked at although nothing has changed
STRICT = 10  # ideas set aside by their rating, with none on its way, after which the human is asked
POLL = 0.5  # seconds between two looks whether anything has changed
LONGEST_WAIT = 600.0  # seconds that the back-off grows to
JOURNAL, ENTRIES = 6_000, 6  # characters and entries of the journal in a request
PROBLEM = 6_000  # characters of 0_docs/problem.md in a request
SOURCE = 24_000  # characters of train.py in a request
KEPT = 400  # prompts and logs of calls that are kept


class Failed(Exception):
    """A step that came to nothing: why, and whether waiting may mend it."""

    def __init__(self, why: str, transient: bool = False):
        super().__init__(why)
        self.why, self.transient = why, transient


class Halt(LabError):
    """Nothing goes on before the human has looked: an agent that cannot be started, or did what only the human may do."""


@dataclass(frozen=True)
class Step:
    """`kind` is a key of ROLE, or one of the lab's own: baseline, smoke, queue, promote, submit."""

    kind: str
    slug: str = ""


def fly(lab: Lab, settings: Autopilot, *, most: int = 0, tell: Callable[[str], None] = logger.info) -> str:
    """Go on until the budget is used, or `most` steps are done; why it ended.

    Raises LabError where no agent is set, another autopilot is at it, meta-mode is on, or the human is needed, who is then asked by an alert as well. A
    stop signal ends the agent that runs, and the next call goes on with that step.
    """
    if not settings.agent:
        raise LabError("no agent is set", hint="just autopilot --agent claude, or in program.md: autopilot: {agent: claude}")
    if unknown := settings.roles.keys() - set(roles.ROLES):
        raise LabError(f"program.md: `autopilot.roles` names {', '.join(sorted(unknown))}", hint=f"one of: {', '.join(roles.ROLES)}")
    with _alone(lab), _terminable():
        os.environ.setdefault("LAB_AGENT", f"autopilot: {Path(shlex.split(settings.agent)[0]).name}")  # who asks for the runs
        dispatch.prepare()
        doctor.quick(lab)
        begun = meter.unfinished(lab)
        night = begun["night"] if begun else _unused(lab)
        about = {"night": night, "agent": settings.agent, "budget": asdict(settings.budget)}
        if begun and (why := _over(lab, settings, night)):
            meter.append(lab, {"what": "end", "night": night, "why": f"{why}, when it was to go on"})
            night = about["night"] = _unused(lab)
        meter.append(lab, {"what": "night"} | about)
        pilot = Pilot(lab, settings, night, tell)
        try:
            with tune.filling(lab, settings.filler):
                why = pilot.go_on(most)
        except Exception as error:
            alerts.ask(lab, f"autopilot stopped: {error or type(error).__name__}")
            alerts.nudge(lab)
            raise
        if not most:
            meter.append(lab, {"what": "end", "night": night, "why": why})
            pilot.commit(f"night: {why}")
        return why


def _unused(lab: Lab) -> str:
    """A name for a new night: when it begins, which no other night did."""
    known = {line["night"] for line in meter.lines(lab)}
    while (now := receipts.now()) in known:
        time.sleep(0.1)
    return now


def _over(lab: Lab, settings: Autopilot, night: str) -> str:
    """Why a night that was cut off cannot go on. That its experiments are used is no reason: their runs may still be waited for."""
    try:
        return meter.exhausted(replace(settings.budget, experiments=0), meter.spent(lab, night, results.view(lab)))
    except LabError as error:  # its agent did not tell what it used
        return error.what


def preview(lab: Lab, settings: Autopilot) -> str:
    """Where every untried idea stands, and which steps would be taken in which order. Changes nothing."""
    pilot = Pilot(lab, settings, receipts.now(), logger.info)
    steps = [f"{number}. {step.kind} {step.slug}".rstrip() for number, step in enumerate(pilot.possible(), start=1)]
    ways = [
        f"{one.slug}: {f'set aside, {one.aside}' if one.aside else one.next}" + ("" if one.rating is None else f" (rated {one.rating:.1f})")
        for one in agenda.threads(lab, settings.least_rating)
    ]
    return "\n".join([*ways, *(steps or ["only runs are waited for"])])


@contextmanager
def _alone(lab: Lab) -> Iterator[None]:
    """One autopilot a lab. The kernel drops the lock with the process."""
    with meter.claim(lab) as mine:
        if not mine:
            raise LabError("another autopilot is at work in this lab", hint="just status; Ctrl-C in its terminal ends it")
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does."""

    def stop(number, frame):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder(lab: Lab) -> Path:
    return lab.runs / ".agent"


class Pilot:
    """One stretch of autopilot: `night` is the id its lines carry."""

    def __init__(self, lab: Lab, settings: Autopilot, night: str, tell: Callable[[str], None]):
        self.lab, self.settings, self.night, self.tell = lab, settings, night, tell
        self.problem = problems.load(lab)
        self.step_id, self.calls = "", 0
        self.streak = self.waits = 0  # steps in a row that failed; the same with those that waiting may mend
        self.unsettled = ""  # why the filler is out of work, once that was told

    # -- the loop --------------------------------------------------------------------------------------------------

    def go_on(self, most: int = 0) -> str:
        done = 0
        while not most or done < most:
            if guard.meta_mode(self.lab):
                raise LabError("meta-mode is on: the lab is the human's", hint="take META_MODE=1 out of human_journal.md, then: just autopilot")
            used = meter.spent(self.lab, self.night, results.view(self.lab))
            if why := meter.exhausted(replace(self.settings.budget, experiments=0), used):
                return why
            enough = meter.exhausted(replace(self.settings.budget, hours=0, device_hours=0, tokens=0, dollars=0), used)
            if enough and self.settings.filler:
                tune.stop_filling(self.lab)
                self.settings = replace(self.settings, filler=False)
            before = self._traces()
            step = self.cut_off() or self.decide(bool(enough))
            if step:
                self.perform(step)
                done += 1
                continue
            if enough and not self.coming() and not self._pending() and self._traces() == before:
                return enough
            self._fill()
            self._await(before, used)
        return f"{done} step(s) done"

    def cut_off(self) -> Step | None:
        """The step that was at work when autopilot was killed, to be taken again; its record says that it was interrupted."""
        path = _folder(self.lab) / "step.json"
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_text())
            step, self.step_id = Step(told["kind"], told["slug"]), told["id"]
        except (ValueError, KeyError):  # never whole: nothing was begun
            path.unlink()
            return None
        recorded = any(line["what"] == "step" and line["id"] == self.step_id for line in meter.lines(self.lab))
        queued = step.kind == "queue" and step.slug in agenda.tried(self.lab)
        if not recorded:
            self._record(step, "done" if queued else "interrupted", "autopilot was ended before it was over", {})
        path.unlink()
        return step if not (recorded or queued) and (step.kind == "ideate" or step in self.possible()) else None

    def _traces(self) -> tuple:
        """What changes when there may be something to do."""
        paths = (self.lab.results, self.lab.journal, self.lab.human_journal, self.lab.runs / "verdicts.jsonl", self.lab.ideas)
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths), len(os.listdir(self.lab.runs))

    def _await(self, before: tuple, used: meter.Spent) -> None:
        """Wait until something has changed, for a while at most: a run that was lost or refused changes nothing. Never beyond the budget of hours."""
        limit = self.settings.budget.hours
        end = time.monotonic() + min(max(limit - used.hours, 0.0) * 3600 if limit else LOOK, LOOK)
        while self._traces() == before and time.monotonic() < end:
            time.sleep(POLL)
        if self._traces() == before:
            doctor.quick(self.lab)

    # -- what comes next -------------------------------------------------------------------------------------------

    def decide(self, enough: bool) -> Step | None:
        """The next step, or None where only runs are waited for. `enough`: no further experiment may be begun."""
        steps = self.possible(enough)
        return steps[0] if steps else None

    def possible(self, enough: bool = False) -> list[Step]:
        """Every step that makes sense now, the most urgent first: what fills a short queue the soonest, else what is learnt from, then what is ahead."""
        own = self._own()
        base = results.view(self.lab).of(BASELINE, "explore")
        if not any(row.value is not None for row in base):
            if any(one.idea == BASELINE for one in backlog.pending(self.lab)):
                return own
            if base:
                told = receipts.receipt(self.lab, base[-1].run_id)
                raise Halt(
                    f"the baseline has no value: {told.status if told else base[-1].status}", hint=f"just log {base[-1].run_id}; then just baseline"
                )
            return [Step("baseline"), *own]
        found = [] if enough else agenda.threads(self.lab, self.settings.least_rating)
        on_the_way = [one for one in found if not one.aside]
        if not on_the_way and sum(one.rating is not None and one.rating < self.settings.least_rating for one in found) >= STRICT:
            raise Halt(
                f"{STRICT} ideas were rated below {self.settings.least_rating:g} and none is on its way: nothing will be built",
                hint="just idea rate shows them; autopilot: {least_rating: 4} in program.md builds more of them, or implement one by hand",
            )
        reports = [Step("report", slug) for slug in self._unsaid()][:1]
        short = self.coming() < self.settings.queue
        ahead = [one for one in on_the_way if one.next != "queue" or self.coming() < 2 * self.settings.queue]
        ahead.sort(key=lambda one: -agenda.STEPS.index(one.next))  # what is nearest to the queue first; stable: then the best rated
        if not short and sum(one.next == "queue" for one in on_the_way) >= self.settings.ideas:
            ahead = [one for one in ahead if one.next in ("queue", "critique", "rate")]  # enough is built: the next verdicts may say otherwise
        threads = [Step(one.next, one.slug) for one in ahead]
        more = [] if enough or len(on_the_way) >= self.settings.ideas else [Step("ideate")]
        return [*own, *threads, *reports, *more] if short else [*own, *reports, *threads, *more]

    def _unsaid(self) -> list[str]:
        """Ideas whose verdict waits for its inference, but for those that the analyst could not write."""
        return [slug for slug in agenda.open_inferences(self.lab) if not ideas.is_filler(slug) and self._failures("report", slug) < agenda.TRIES]

    def coming(self) -> int:
        """Runs that wait or run, but for those that only fill the device."""
        return sum(one is None or "filler" not in one.flags for one in self._unfinished())

    def _pending(self) -> bool:
        return any("filler" not in one.flags for one in backlog.pending(self.lab))

    def _unfinished(self) -> list[receipts.Request | None]:
        group, known = f"lab-{device.detect().name}", backlog.unfinished(self.lab) if pueue.answers() else {}
        return [None if name.startswith("#") else receipts.request(self.lab, name) for name, task in known.items() if task.group == group]

    def _own(self) -> list[Step]:
        """What the lab does by itself with ideas that were kept: measure them larger, then submit those that are supported."""
        past = [
            one
            for one in verdicts.by_arm(verdicts.records(self.lab))
            if one.stage == "explore" and one.final and one.kept and not one.control and not ideas.is_filler(one.idea)
        ]
        if not past:
            return []
        unsaid = self._unsaid()
        found, larger = [], {one.idea: one.word for one in promote.standings(self.lab)} if "verify" in self.problem.stages else {}
        for one in past:
            word = larger.get(one.idea, "scale-stable")
            if word == "waiting" and not self._taken("promote", one.idea):
                found.append(Step("promote", one.idea))
            elif word == "scale-stable" and one.verdict == "supported" and not (one.idea in unsaid or self._taken("submit", one.idea)):
                found.append(Step("submit", one.idea))
        return found

    def _taken(self, kind: str, slug: str) -> bool:
        """Whether the lab has done this once already, or tried often enough."""
        done = any(line["what"] == "step" and (line["kind"], line["slug"], line["status"]) == (kind, slug, "done") for line in meter.lines(self.lab))
        return done or self._failures(kind, slug) >= agenda.TRIES

    def _failures(self, kind: str, slug: str) -> int:
        return sum(agenda.failed(line, kind, slug) for line in meter.lines(self.lab))

    # -- one step --------------------------------------------------------------------------------------------------

    def perform(self, step: Step) -> None:
        """Do it and record how it ended. Raises LabError once too many in a row have failed."""
        import git

        self.step_id = f"{self.night}-{sum(line['what'] == 'step' for line in meter.lines(self.lab)):04}"
        self.calls = 0
        path = _folder(self.lab) / "step.json"
        receipts.write_atomic(path, json.dumps(asdict(step) | {"time": receipts.now(), "id": self.step_id}))
        self.tell(f"{step.kind} {step.slug}".strip())
        if step.kind in ROLE:  # a thought takes a while; what is about to be queued needs no filler before it
            self._fill()
        began, transient = time.monotonic(), False
        try:
            more, status, why = DO[step.kind](self, step.slug) or {}, "done", ""
        except Halt:
            raise
        except (Failed, Unusable, LabError, OSError, git.GitCommandError) as error:
            more, status, why = {}, "failed", error.what if isinstance(error, LabError) else str(error)
            transient = isinstance(error, Failed) and error.transient
        self._record(step, status, why, more | {"transient": transient, "seconds": round(time.monotonic() - began, 1), "calls": self.calls})
        path.unlink()
        self._forget_old()
        if status == "done":
            self.streak = self.waits = 0
            return
        self._give_up(step, why)
        self.waits += 1
        self.streak += not transient
        self.tell(f"{step.kind} {step.slug} failed: {fence.line(why)[:500]}".replace("  ", " "))
        if self.streak >= self.settings.failures:
            raise LabError(
                f"{self.streak} steps in a row failed, the last, {step.kind} {step.slug}, with: {fence.line(why)[:500]}",
                hint="6_runs/.agent/steps/ has what was asked and said; then: just autopilot",
            )
        wait = min(self.settings.wait_seconds * 2 ** min(self.waits - 1, 20), LONGEST_WAIT)
        self.tell(f"waiting {wait:.0f} s before the next step")
        time.sleep(wait)

    def _give_up(self, step: Step, why: str) -> None:
        """An idea that cannot be built is a result: it is journalled, and memory knows it."""
        if step.kind in ("implement", "repair", "review") and self._failures(step.kind, step.slug) >= agenda.TRIES:
            told = f"## {receipts.now()} {step.slug}: not built, {step.kind} failed {agenda.TRIES} times\n\n- Observed: {fence.line(why)[:1000]}\n"
            with results.locked(self.lab):
                journal.append(self.lab, told)

    def _record(self, step: Step, status: str, why: str, more: dict) -> None:
        line = {"what": "step", "night": self.night, "id": self.step_id, "kind": step.kind, "slug": step.slug, "role": ROLE.get(step.kind, "")}
        meter.append(self.lab, line | {"status": status, "why": why} | more)

    def _forget_old(self) -> None:
        files = sorted((_folder(self.lab) / "steps").glob("*"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink()

    # -- asking an agent -------------------------------------------------------------------------------------------

    def ask(self, task: roles.Task, cwd: Path) -> dict:
        """The answer to a task, after one round of repair at most. Raises Unusable where there is none, Failed where the agent itself failed."""
        prompt = task.prompt
        for _ in range(2):
            reply, changed = self._call(task.role, prompt, cwd)
            try:
                if changed:
                    raise Unusable(f"{', '.join(changed)}: not yours to change, and put back as it was. Do what was asked without that.")
                return task.check(agent.answer(reply.text))
            except ValueError as error:  # Unusable, or no JSON in it
                wrong = str(error)
                prompt = roles.again(task.prompt, reply.text, wrong)
        raise Unusable(f"the {task.role}'s answer cannot be used, and neither could the one before: {wrong}")

    def _call(self, role: str, prompt: str, cwd: Path) -> tuple[agent.Reply, list[str]]:
        """What the agent said, and which FROZEN files it had changed, which are as before."""
        self.calls += 1
        command = self.settings.roles.get(role) or self.settings.agent
        folder = _folder(self.lab) / "steps"
        folder.mkdir(exist_ok=True)
        name = f"{self.step_id.replace(':', '')}-{role}-{self.calls}"
        before, dirty = self._records(), self._dirty()
        env = {STEP: self.step_id, "LAB_AGENT": f"autopilot: {role}"}
        try:
            reply = agent.run(command, prompt, cwd=cwd, seconds=self._seconds(), log=folder / f"{name}.log", env=env, sure=role in FREE)
        except LabError as error:
            raise Halt(error.what, hint=error.hint) from error
        call = {name: getattr(reply, name) for name in ("status", "seconds", "tokens_in", "tokens_out", "cost", "why")}
        meter.append(self.lab, {"what": "call", "night": self.night, "step": self.step_id, "role": role, "agent": shlex.split(command)[0]} | call)
        changed = guard.put_back(self.lab, self.problem, cwd) + self._put_back(dirty, name)
        self._untouched(before)
        if reply.status == "killed":
            raise KeyboardInterrupt
        if reply.status != "ok":
            told = f" (and had changed {', '.join(changed)}, which was put back)" if changed else ""
            raise Failed(f"the {role} {'took too long' if reply.status == 'timeout' else reply.status}: {reply.why}{told}", reply.transient)
        return reply, changed

    def _records(self) -> dict[str, str]:
        """What only the lab and the human write, as it is now, and the code that main has committed."""
        paths = [self.lab.human_journal, self.lab.journal, self.lab.results, *self.lab.runs.glob("*.jsonl")]
        return {path.name: path.read_text() for path in paths if path.exists()} | {"main": snapshot.committed(self.lab)}

    def _untouched(self, before: dict[str, str]) -> None:
        """Raises Halt where records were changed otherwise than by adding to them, main got other code, or the lab was unlocked, while an agent was at work."""
        now = self._records()
        wrong = "main has other code now" if before["main"] != now["main"] else "meta-mode was switched on" if guard.meta_mode(self.lab) else ""
        for name in before.keys() - {"main"}:
            violation = guard.append_only_violation if name.endswith(".md") else guard.rows_violation
            if not wrong and (why := violation(before[name], now.get(name, ""))):
                wrong = f"{name}: {why}"
        if wrong:
            raise Halt(
                f"{wrong}: it happened while an agent was at work", hint="if that was you: just autopilot; else: git log, git diff, lab doctor"
            )

    def _dirty(self) -> set[str]:
        """Tracked files of the root that differ from what main has committed, but for the lab's records."""
        import git

        listed = git.Repo(self.lab.root).git.diff("HEAD", "--name-only", "-z").split("\0")
        return {name for name in listed if name and not any(name == one or name.startswith(f"{one}/") for one in RECORDS)}

    def _put_back(self, before: set[str], name: str) -> list[str]:
        """Undo what was changed in the root meanwhile, where nobody had changed it before; whole copies of it are kept, and said to be."""
        import git

        if not (changed := sorted(self._dirty() - before)):
            return []
        kept = _folder(self.lab) / "put-back" / name
        for one in changed:
            if (self.lab.root / one).is_file():
                (kept / one).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.lab.root / one, kept / one)
        git.Repo(self.lab.root).git.checkout("HEAD", "--", *changed)
        self.tell(f"{', '.join(changed)} in the root changed while an agent was at work, and is as committed again; what it was: {kept}")
        return [f"root/{one}" for one in changed]

    def _seconds(self) -> float:
        """That one call may take: the night's hours bound it too."""
        limit, used = self.settings.budget.hours, meter.spent(self.lab, self.night, results.view(self.lab)).hours
        return min(self.settings.step_minutes * 60, max((limit - used) * 3600, 1.0) if limit else float("inf"))

    # -- the steps -------------------------------------------------------------------------------------------------

    def baseline(self, slug: str) -> None:
        text = "Q: where does the baseline stand, and how far do its seeds spread?"
        queue.enqueue(self.lab, BASELINE, text, "explore", list(range(queue.FLOOR_SEEDS)), [])

    def ideate(self, slug: str) -> dict:
        past = [line for line in meter.lines(self.lab) if line["what"] == "step" and line["kind"] == "ideate"]
        found, known = advice.advise(self.lab, seed=len(ideas.slugs(self.lab)) + len(past)), agenda.tried(self.lab)
        near_by = [re.split("[~@]", summary.key)[0].removeprefix(ideas.FILLER) for summary in found.summaries]
        refused = [line["why"] for line in takewhile(lambda line: line["status"] != "done", reversed(past)) if line.get("calls")]
        parents = list(dict.fromkeys([*(one for one in near_by if one in known), BASELINE]))
        context = self._context(found)
        context += [fence.fenced("\n".join(refused[:3]), "Refused just now: propose something else")] if refused else []
        task = roles.proposal(self.lab, self.problem, context, parents, self._repeats)
        given = self.ask(task, self.lab.root)
        path = ideas.write(self.lab, given["slug"], roles.idea_file(given), receipts.now()[:10])
        self.commit(f"idea({given['slug']}): {given['title']}"[:100])
        return {"made": path.name}

    def _context(self, found: advice.Advice) -> list[str]:
        about = self.lab.root / "0_docs" / "problem.md"
        context = [fence.fenced(about.read_text()[:PROBLEM], "0_docs/problem.md")] if about.is_file() else []
        context.append(advice.text(found))
        told = "\n\n".join(journal.entries(self.lab)[:ENTRIES])[:JOURNAL]
        context += [fence.fenced(told, "The newest entries of the journal")] if told else []
        waiting = [one for one in agenda.threads(self.lab, self.settings.least_rating)]
        lines = [f"- {one.slug}: {ideas.load(self.lab, one.slug).question}" for one in waiting if not one.aside]
        lines += [f"- {one.slug}, set aside: {one.aside}" for one in waiting if one.aside]
        context += [fence.fenced("\n".join(lines), "Ideas that no run was asked for yet: not these again")] if lines else []
        human = guard.newest_entry(self.lab.human_journal)
        return context + ([f"The human's own newest note:\n\n{human}"] if human else [])

    def _repeats(self, given: dict, text: str) -> str:
        """Of which idea this one is the same in other words; "" where of none."""
        words = " ".join(given[name] for name in ("question", "hypothesis", "change"))
        same = next((hit for hit in memory.near(self.lab, words, 5, judged=False) if hit.comparison.decision == memory.SAME), None)
        return same and f"it is {same.entry.key} in other words ({same.standing.text}): {same.comparison.reasons[0]}. Propose another mechanism" or ""

    def critique(self, slug: str) -> dict:
        return self._opinion("critique", slug)

    def rate(self, slug: str) -> dict:
        return self._opinion("rating", slug)

    def _opinion(self, kind: str, slug: str) -> dict:
        path = ideas.load(self.lab, slug).path
        text, failed = path.read_text(), "\n".join(memory.warnings(self.lab, slug))
        task = roles.opinion(self.lab, kind, text, [fence.fenced(failed, "What the lab's memory says of it")] if failed else [])
        answer = self.ask(task, self.lab.root)
        by = shlex.split(self.settings.roles.get(task.role) or self.settings.agent)[0]
        one, _ = rubric.take(self.lab, slug, path, kind, text, answer, f"autopilot: {task.role} ({Path(by).name})")
        return {"rating": one.total if kind == "rating" else answer["rating"]}

    def implement(self, slug: str) -> dict:
        tree = self._tree(slug)
        idea = ideas.load(self.lab, slug)
        asked = f"Build the idea {slug} in {tree}, where you stand. It builds on {idea.parent}."
        context = [fence.fenced(idea.path.read_text(), "The idea"), self._source(tree)]
        return self._change("engineer", slug, tree, asked, context)

    def repair(self, slug: str) -> dict:
        tree = self._tree(slug)
        if found := agenda.findings(self.lab, slug, snapshot.take(tree).code_sha):
            listed = "\n".join(f"- {one['where']}: {one['what']}" for one in found)
            asked = f"A review of {slug} found what has to be mended in {tree}, where you stand."
            context = [fence.fenced(listed, "Findings"), fence.fenced(ideas.load(self.lab, slug).path.read_text(), "The idea")]
        else:
            package = debug.package(self.lab, slug)
            asked, context = (
                f"Repair the code of {slug} in {tree}, where you stand: round {package.round} of {package.rounds}.",
                [debug.text(package)],
            )
        return self._change("debugger", slug, tree, asked, [*context, self._source(tree)])

    def _tree(self, slug: str) -> Path:
        tree = self.lab.worktree(slug)
        return tree if (tree / ".git").exists() else queue.worktree(self.lab, slug)

    def _source(self, tree: Path) -> str:
        text = (tree / "train.py").read_text()
        return fence.fenced(text if len(text) <= SOURCE else f"{text[:SOURCE]}\n(cut; the file is there)", "train.py as it is now", "python")

    def _change(self, role: str, slug: str, tree: Path, asked: str, context: list[str]) -> dict:
        before = snapshot.take(tree).code_sha if role == "debugger" else ""

        def made(given: dict) -> str:
            if wrong := self._apply(tree, given["edits"]):
                return wrong
            try:
                snap = snapshot.take(tree)
            except LabError as error:  # what git or a snapshot cannot hold: its maker removes it
                return str(error)
            unchanged = snap.code_sha == before if before else agenda.unchanged(self.lab, ideas.load(self.lab, slug).parent, snap)
            return "nothing in the worktree was changed" if unchanged else ""

        given = self.ask(roles.change(self.lab, role, asked, context, made), tree)
        return {"summary": " ".join(given["summary"].split())[:200]}

    def _apply(self, tree: Path, edits: list[dict]) -> str:
        """Make all edits, or none; what is wrong with one, or ""."""
        texts: dict[Path, str] = {}
        for number, one in enumerate(edits):
            name = str(PurePosixPath(one["path"]))
            path = tree / name
            if ".git" in path.parts or os.path.isdir(path) or not os.path.isdir(path.parent):
                return f"edit {number}: {one['path']} is no file in a folder of the worktree"
            if os.path.islink(path) or not os.path.realpath(path).startswith(f"{os.path.realpath(tree)}{os.sep}"):
                return f"edit {number}: {one['path']} is not a file of the worktree"
            if (kind := guard.kind(name, self.problem.scorer)) != "REGULAR":
                return f"edit {number}: {name} is {kind}: it is not changed here"
            old = texts.get(path, path.read_text() if os.path.isfile(path) else "")
            if not one["old"] and not old:
                texts[path] = one["new"]
            elif one["old"] and old.count(one["old"]) == 1:
                texts[path] = old.replace(one["old"], one["new"])
            else:
                return f"edit {number}: `old` stands {old.count(one['old']) if one['old'] else 'no'} times in {name}, not once"
        for path, text in texts.items():
            try:
                path.write_text(text)
            except OSError as error:
                return f"{path.name} cannot be written: {error.strerror}"
        return ""

    def smoke(self, slug: str) -> dict:
        """A failed trial is a result, which the debugger gets; what the lab itself cannot do is not."""
        tree = self.lab.worktree(slug)
        tried = len(smoke.trials(self.lab, slug))
        try:
            smoke.smoke(self.lab, tree, ())
        except LabError as error:
            if len(smoke.trials(self.lab, slug)) == tried:
                raise
            return {"found": error.what}
        return {}

    def review(self, slug: str) -> dict:
        snap = snapshot.take(self.lab.worktree(slug))
        diff = snapshot.changed(self.lab, snapshot.fork_point(self.lab, snap.commit), snap.commit)
        given = self.ask(roles.review(self.lab, ideas.load(self.lab, slug).path.read_text(), diff), self.lab.root)
        blocking = [one for one in given["findings"] if one["blocking"]]
        return {
            "code_sha": snap.code_sha,
            "findings": blocking,
            "notes": [one for one in given["findings"] if not one["blocking"]],
            "text": given["text"],
        }

    def queue(self, slug: str) -> dict:
        import git

        summaries = [line["summary"] for line in meter.lines(self.lab) if line["what"] == "step" and line["slug"] == slug and line.get("summary")]
        repo = git.Repo(self.lab.worktree(slug))
        repo.git.add("-A", "--", ".", *(f":(exclude){name}" for name in RECORDS))  # what only main may commit stays as the agent left it
        if repo.git.diff("--cached", "--name-only"):
            repo.git.commit("-q", "-m", f"exp({slug}): {summaries[-1] if summaries else 'as its idea says'}")
        with tune.quiet(self.lab) as ended:
            made = queue.enqueue(self.lab, slug, None, "explore", [0], [])
        if ended:
            self.tell(f"{', '.join(ended)}, which only filled the device, made way for {slug}")
        return {"runs": [one.run_id for one in made]}

    def report(self, slug: str) -> dict:
        entry = next(one for one in journal.entries(self.lab) if agenda.waits(one) == slug)
        stage = entry.partition("\n- Verdict (")[2].partition(")")[0]
        observation = f"{entry.replace(INFERENCE_EMPTY, '').strip()}\n\n{analyst.text(analyst.analyse(self.lab, slug, stage))}"
        given = self.ask(roles.inference(self.lab, slug, observation), self.lab.root)
        text = f"Inference ({given['credence']:.0%}, by autopilot's analyst): {given['inference']}"
        with results.locked(self.lab):
            whole = self.lab.journal.read_text()
            if entry not in whole:
                raise Failed("the entry was changed meanwhile")
            page = report.place(self.lab, verdicts.newest(self.lab)[slug, stage])
            if page:  # first: while the journal's entry is open, this step is taken again
                receipts.write_atomic(page, page.read_text().replace(INFERENCE_EMPTY, text, 1))
            receipts.write_atomic(self.lab.journal, whole.replace(entry, entry.replace(INFERENCE_EMPTY, text), 1))
        self.commit(f"report({slug}): {given['inference']}"[:100])
        return {}

    def promote(self, slug: str) -> dict:
        return {"runs": [one.run_id for one in promote.promote(self.lab, [slug])]}

    def submit(self, slug: str) -> dict:
        return asdict(submit.submit(self.lab, slug, "explore", push=self.settings.push))

    def commit(self, message: str) -> None:
        """Commit what the lab and its agents wrote down, on main. Where git is busy, the next commit takes it along."""
        import git

        if snapshot.branch(self.lab.root) not in queue.MAIN:
            return
        repo = git.Repo(self.lab.root)
        try:
            paths = [name for name in ("1_ideas", "9_reports", "6_runs", "results.tsv", "RESEARCH_JOURNAL.md") if (self.lab.root / name).exists()]
            repo.git.add("--", *paths)
            if repo.git.diff("--cached", "--name-only", "--", *paths):
                repo.git.commit("-q", "-m", message, "--", *paths)
        except git.GitCommandError as error:
            logger.warning(f"not committed, the next commit will take it along: {error.stderr.strip()}")

    # -- filling the device ----------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Where the filler is on and nothing else waits, a setting of train.py: the device never waits for a thought."""
        if not self.settings.filler:
            return
        try:
            tune.top_up(self.lab)
        except LabError as error:
            if error.what != self.unsettled:
                self.unsettled = error.what
                self.tell(f"the filler has nothing to do: {error.what}")


DO: dict[str, Callable[[Pilot, str], dict | None]] = {
    name: getattr(Pilot, name)
    for name in ("baseline", "ideate", "critique", "rate", "implement", "repair", "smoke", "review", "queue", "report", "promote", "submit")
}

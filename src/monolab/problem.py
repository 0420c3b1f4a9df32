"""The problem a lab works on, as the front matter of program.md states it."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import yaml

from monolab.errors import LabError
from monolab.paths import Lab

FILL_IN = "{FILL_IN"
TRACKERS = ("wandb", "trackio")  # that a lab may name


@dataclass(frozen=True)
class Retries:
    """How often the lab runs a request again by itself that ended for no reason of the candidate's, and how soon."""

    interrupted: int = 1  # the process that ran it was gone: a reboot, kill -9
    contaminated: int = 1  # something from outside could have changed what was measured
    transient: int = 3  # the device could not be had, or another process held the memory
    wait_seconds: float = 60.0  # before the first repetition; it doubles with each. An interrupted run does not wait


@dataclass(frozen=True)
class Validity:
    """What others may take of the device before a run is flagged, or, where that could have changed its number, void (`monolab.validity`)."""

    timed: dict[str, str] = field(  # by kind of device: whose pace changes what is measured, train, score, both or none
        default_factory=lambda: {"cpu": "none", "gpu": "train"}
    )
    others_cpu: float = 0.25  # share of the time that it waits for processors which others have
    others_gpu: float = 0.05  # share of the GPU's compute
    slowed: float = 0.2  # share of the time that clocks are held down by heat or hardware
    swapped_mb: float = 100.0  # MiB swapped in and out
    slower: float = 0.1  # than its peers, the same code on the same hardware, as a share of their median pace


@dataclass(frozen=True)
class Search:
    """Whom `lab next` builds on. The sizes are those of ASI-Arch, which made 1,773 candidates; a lab that makes fewer wants smaller ones."""

    policy: str = "asi-arch"
    pool: int = 50  # the best so many
    parents: int = 10  # of them, those that are built on
    references: int = 4  # drawn from the rest
    cold: int = 200  # candidates before the pool is ranked for the first time
    batch: int = 50  # candidates between two rankings
    judged: bool = False  # whether a judge's score counts in a candidate's fitness
    plateau: int = 20  # measured candidates without one that is kept, after which the search stands still


@dataclass(frozen=True)
class Budget:
    """What one night of autopilot may use; 0 is no limit."""

    hours: float = 10.0  # of wall time
    device_hours: float = 0.0
    experiments: int = 0  # ideas that are queued
    tokens: int = 0  # in and out, of all agents together
    dollars: float = 0.0


@dataclass(frozen=True)
class Autopilot:
    """The loop of program.md without a human: who thinks, how far ahead, at what cost. It stands here because this file is the human's alone."""

    agent: str = ""  # a command that reads one step on stdin: claude, codex, opencode, or any other
    roles: dict[str, str] = field(default_factory=dict)  # commands of single roles, where they differ
    queue: int = 2  # runs that should wait or run at any time
    ideas: int = 3  # ideas that are on their way to the queue
    least_rating: float = 5.0  # of 10: an idea rated below is not built
    step_minutes: float = 20.0  # that one call of an agent may take
    failures: int = 5  # calls in a row that failed, after which it stops and asks for you
    wait_seconds: float = 5.0  # after the first of them, doubled with each
    filler: bool = False  # let Optuna fill an idle device with settings of train.py's RANGES
    push: bool = False  # push what was supported, and open a pull request
    budget: Budget = Budget()


@dataclass(frozen=True)
class Stage:
    """How long one training run of a stage may take before it is ended, in seconds, by kind of device; and how many of them an idea may have."""

    cpu: float
    gpu: float
    seeds: int = 8  # paired seeds that are spent on one idea at most, the one that screens it aside
    retries: Retries | None = None  # where it differs from the lab's

    def seconds(self, kind: str) -> float:
        return self.cpu if kind == "cpu" else self.gpu


@dataclass(frozen=True)
class Problem:
    """What is optimised and within which limits; the whole of what the package knows of a lab's subject."""

    metric: str
    direction: str  # "lower" or "higher" is better
    smallest_effect: float  # in the metric's unit: less than this is not worth finding
    stages: dict[str, Stage]
    window_seconds: dict[str, list[float]] = field(  # a good length of one run, train and score, by kind of device
        default_factory=lambda: {"cpu": [10.0, 900.0], "gpu": [300.0, 2400.0]}
    )
    false_keeps: float = 0.05  # the share of false keeps among all keeps that the gate stays below
    controls: float = 0.0  # one control experiment is queued for every so many ideas: 0.1 is one for ten
    holdout_looks: int = 20  # at one sealed test split
    implausible: float = 0.1  # a number better than the best by more than this share is looked into as a leak; 0 never
    require_sandbox: bool = False  # refuse to run a candidate that cannot be isolated
    scorer: tuple[str, ...] = ("eval.py",)  # the scorer's files, FROZEN, all that its process is given
    grace_seconds: float = 10.0  # between TERM and KILL
    score_seconds: float = 600.0  # the scorer's own limit
    memory_gb: float = 16.0  # resident memory of a CPU run, all its processes together
    disk_gb: float = 1.0  # free space below which no run starts
    checkpoints_gb: float = 50.0  # GiB of checkpoints that are kept; beyond, the oldest go, but for those that are still needed (`monolab.disk`)
    log_mb: float = 4.0  # of a run's output that is kept
    trackers: tuple[str, ...] = ()  # of TRACKERS: where finished runs are shown as well (`monolab.trackers`)
    retries: Retries = Retries()
    validity: Validity = field(default_factory=Validity)
    search: Search = Search()
    autopilot: Autopilot = field(default_factory=Autopilot)

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return 1 if self.direction == "higher" else -1

    def stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise LabError(f"program.md has no stage {name!r}", hint=f"one of: {', '.join(self.stages)}")
        return self.stages[name]

    def retries_at(self, stage: str) -> Retries:
        """The stage's own policy, or the lab's; also of a stage that program.md no longer has."""
        return (self.stages[stage].retries if stage in self.stages else None) or self.retries


def front_matter(path: Path) -> tuple[dict, str]:
    """The YAML mapping between the first two `---` lines of a Markdown file, and the text after them.

    Raises LabError when there is none or it cannot be read.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path.name} cannot be read: {error}", hint=f"edit {path}") from error
    return parts(text, path.name, hint=f"edit {path}")


def parts(text: str, name: str, hint: str = "put it between two lines `---` at the top") -> tuple[dict, str]:
    """The same of a text that is no file (yet); `name` is what an error calls it."""
    head, sep, body = text.removeprefix("---\n").partition("\n---\n")
    if not text.startswith("---\n") or not sep:
        raise LabError(f"{name} has no front matter (YAML between two lines `---` at the top)", hint=hint)
    try:
        values = yaml.load(head, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LabError(f"the front matter of {name} is not YAML: {error}", hint=hint) from error
    if not isinstance(values, dict):
        raise LabError(f"the front matter of {name} is not a mapping", hint=hint)
    return values, body


def load(lab: Lab) -> Problem:
    """The problem of `lab`; LabError names the field that is missing, unknown, or still to be filled in."""
    values, _ = front_matter(lab.program)
    known = {f.name for f in fields(Problem)}
    for name in values.keys() - known:
        raise LabError(f"program.md: unknown field {name!r} in the front matter", hint=f"one of: {', '.join(sorted(known))}")
    for name, value in values.items():
        if FILL_IN in str(value):
            raise LabError(f"program.md: `{name}` is still to be filled in", hint="lab check lists every such place")
    for name in ("metric", "direction", "smallest_effect", "stages"):
        if name not in values:
            raise LabError(f"program.md: the front matter has no `{name}`", hint=f"edit {lab.program}")
    if values["direction"] not in ("lower", "higher"):
        raise LabError(f"program.md: direction is {values['direction']!r}", hint="lower or higher")
    if not isinstance(values["metric"], str):
        raise LabError(f"program.md: metric is {values['metric']!r}", hint="the name under which the scorer writes it")
    if not isinstance(values.get("require_sandbox", False), bool):
        raise LabError(f"program.md: `require_sandbox` is {values['require_sandbox']!r}", hint="true or false")
    scorer = values.get("scorer", ["eval.py"])
    if not isinstance(scorer, list) or not scorer or not all(isinstance(name, str) for name in scorer):
        raise LabError(f"program.md: `scorer` is {scorer!r}", hint="scorer: [eval.py]")
    trackers = values.get("trackers", [])
    if not isinstance(trackers, list) or not all(name in TRACKERS for name in trackers) or len(set(trackers)) < len(trackers):
        raise LabError(f"program.md: `trackers` is {trackers!r}, not a list of {', '.join(TRACKERS)}", hint="trackers: [wandb]")
    values["trackers"] = tuple(trackers)
    numbers = (
        "smallest_effect",
        "false_keeps",
        "controls",
        "implausible",
        "grace_seconds",
        "score_seconds",
        "memory_gb",
        "disk_gb",
        "checkpoints_gb",
        "log_mb",
    )
    values |= {name: _number(name, values[name], positive=name in ("smallest_effect", "false_keeps")) for name in numbers if name in values}
    for name in ("false_keeps", "controls"):
        if values.get(name, 0.0) >= 1:
            raise LabError(f"program.md: `{name}` is {values[name]!r}, not a share below 1", hint=f"{name}: 0.05")
    if "holdout_looks" in values:
        looks = _number("holdout_looks", values["holdout_looks"])
        if looks != int(looks):
            raise LabError(f"program.md: `holdout_looks` is {values['holdout_looks']!r}, not a whole number of at least 0", hint="holdout_looks: 20")
        values["holdout_looks"] = int(looks)
    if "window_seconds" in values:
        values["window_seconds"] = _window(values["window_seconds"])
    if "retries" in values:
        values["retries"] = _retries("retries", values["retries"], Retries())
    if "validity" in values:
        values["validity"] = _validity(values["validity"])
    if "search" in values:
        values["search"] = _search(values["search"])
    if "autopilot" in values:
        values["autopilot"] = _autopilot(values["autopilot"])
    return Problem(**values | {"stages": _stages(values["stages"], values.get("retries", Retries())), "scorer": tuple(scorer)})


def _retries(name: str, given: object, default: Retries) -> Retries:
    """`default` with what `given` says otherwise."""
    known = {f.name for f in fields(Retries)}
    example = "retries: {interrupted: 1, contaminated: 1, transient: 3, wait_seconds: 60}"
    if not isinstance(given, dict) or not given.keys() <= known:
        raise LabError(f"program.md: `{name}` is {given!r}, not a mapping of {', '.join(sorted(known))}", hint=example)
    values = {key: _number(f"{name}.{key}", value) for key, value in given.items()}
    for key in values.keys() - {"wait_seconds"}:
        if values[key] != int(values[key]):
            raise LabError(f"program.md: `{name}.{key}` is {given[key]!r}, not a whole number of at least 0", hint=example)
        values[key] = int(values[key])
    return replace(default, **values)


def _validity(given: object) -> Validity:
    known = {f.name for f in fields(Validity)}
    example = "validity: {timed: {cpu: none, gpu: train}, others_cpu: 0.25, others_gpu: 0.05, slowed: 0.2, swapped_mb: 100, slower: 0.1}"
    if not isinstance(given, dict) or not given.keys() <= known:
        raise LabError(f"program.md: `validity` is {given!r}, not a mapping of {', '.join(sorted(known))}", hint=example)
    phases, timed = ("train", "score", "both", "none"), given.get("timed", {})
    if not isinstance(timed, dict) or not timed.keys() <= {"cpu", "gpu"} or not all(value in phases for value in timed.values()):
        raise LabError(f"program.md: `validity.timed` is {timed!r}, not cpu and gpu with one of {', '.join(phases)} each", hint=example)
    values = {key: _number(f"validity.{key}", value) for key, value in given.items() if key != "timed"}
    for key in values.keys() - {"swapped_mb"}:
        if values[key] >= 1:
            raise LabError(f"program.md: `validity.{key}` is {given[key]!r}, not a share below 1", hint=example)
    return Validity(**values | {"timed": Validity().timed | timed})


def _search(given: object) -> Search:
    known = {f.name for f in fields(Search)}
    example = "search: {policy: weighted, pool: 20, parents: 5, references: 4, cold: 10, batch: 5, judged: false, plateau: 20}"
    if not isinstance(given, dict) or not given.keys() <= known:
        raise LabError(f"program.md: `search` is {given!r}, not a mapping of {', '.join(sorted(known))}", hint=example)
    for name, kind, words in (("policy", str, "a name"), ("judged", bool, "true or false")):
        if not isinstance(given.get(name, getattr(Search, name)), kind):
            raise LabError(f"program.md: `search.{name}` is {given[name]!r}, not {words}", hint=example)
    sizes = {name: _number(f"search.{name}", value) for name, value in given.items() if name not in ("policy", "judged")}
    for name, size in sizes.items():
        least = 0 if name in ("cold", "references") else 1
        if size != int(size) or size < least:
            raise LabError(f"program.md: `search.{name}` is {given[name]!r}, not a whole number of at least {least}", hint=example)
    return Search(**given | {name: int(size) for name, size in sizes.items()})


def _autopilot(given: object) -> Autopilot:
    known = {f.name for f in fields(Autopilot)}
    example = "autopilot: {agent: claude, queue: 2, filler: true, budget: {hours: 8, experiments: 40, dollars: 10}}"
    if not isinstance(given, dict) or not given.keys() <= known:
        raise LabError(f"program.md: `autopilot` is {given!r}, not a mapping of {', '.join(sorted(known))}", hint=example)
    roles = given.get("roles", {})
    if not isinstance(roles, dict) or not all(isinstance(word, str) for pair in roles.items() for word in pair):
        raise LabError(f"program.md: `autopilot.roles` is {roles!r}, not a mapping of roles to commands", hint="roles: {judge: codex}")
    if not isinstance(given.get("agent", ""), str):
        raise LabError(f"program.md: `autopilot.agent` is {given['agent']!r}, not a command", hint=example)
    for name in ("filler", "push"):
        if not isinstance(given.get(name, False), bool):
            raise LabError(f"program.md: `autopilot.{name}` is {given[name]!r}", hint="true or false")
    values = {name: _count(f"autopilot.{name}", given[name], 1, example) for name in ("queue", "ideas", "failures") if name in given}
    for name in ("least_rating", "step_minutes", "wait_seconds"):
        if name in given:
            values[name] = _number(f"autopilot.{name}", given[name], positive=name == "step_minutes")
    return Autopilot(**given | values | {"budget": _budget(given.get("budget", {}))})


def _budget(given: object) -> Budget:
    example = "budget: {hours: 8, device_hours: 0, experiments: 40, tokens: 0, dollars: 10}; 0 is no limit"
    if not isinstance(given, dict) or not given.keys() <= {f.name for f in fields(Budget)}:
        raise LabError(
            f"program.md: `autopilot.budget` is {given!r}, not a mapping of hours, device_hours, experiments, tokens, dollars", hint=example
        )
    whole = {name: _count(f"autopilot.budget.{name}", given[name], 0, example) for name in ("experiments", "tokens") if name in given}
    return Budget(**{name: _number(f"autopilot.budget.{name}", value) for name, value in given.items()} | whole)


def _count(name: str, given: object, least: int, example: str) -> int:
    number = _number(name, given)
    if number != int(number) or number < least:
        raise LabError(f"program.md: `{name}` is {given!r}, not a whole number of at least {least}", hint=example)
    return int(number)


def _stages(given: object, retries: Retries) -> dict[str, Stage]:
    example = "stages: {explore: {cpu: 600, gpu: 420}}"
    if not isinstance(given, dict) or not given:
        raise LabError("program.md: `stages` is not a mapping", hint=example)
    known, stages = {f.name for f in fields(Stage)}, {}
    for name, limits in given.items():
        if not isinstance(name, str):  # YAML reads a bare on, yes or 1 as no string
            raise LabError(f"program.md: the stage name {name!r} in `stages` is read as no string", hint="put the name in quotes")
        if not isinstance(limits, dict) or not {"cpu", "gpu"} <= limits.keys() <= known:
            raise LabError(f"program.md: `stages.{name}` is {limits!r}, not cpu and gpu with their seconds", hint=example)
        values = {field: _number(f"stages.{name}.{field}", value, positive=True) for field, value in limits.items() if field != "retries"}
        if (seeds := values.get("seeds", 2.0)) != int(seeds) or seeds < 2:
            raise LabError(f"program.md: `stages.{name}.seeds` is {seeds!r}, not a whole number of at least 2", hint=example)
        own = {"retries": _retries(f"stages.{name}.retries", limits["retries"], retries)} if "retries" in limits else {}
        stages[name] = Stage(**values | ({"seeds": int(values["seeds"])} if "seeds" in values else {}) | own)
    return stages


def _window(given: object) -> dict[str, list[float]]:
    example = "window_seconds: {cpu: [10, 900], gpu: [300, 2400]}"
    if not isinstance(given, dict) or given.keys() != {"cpu", "gpu"}:
        raise LabError(f"program.md: `window_seconds` is {given!r}, not cpu and gpu with [low, high] each", hint=example)
    window = {}
    for kind, span in given.items():
        if not isinstance(span, list) or len(span) != 2:
            raise LabError(f"program.md: `window_seconds.{kind}` is {span!r}, not [low, high]", hint=example)
        window[kind] = [_number(f"window_seconds.{kind}", value) for value in span]
        if window[kind][0] >= window[kind][1]:
            raise LabError(f"program.md: `window_seconds.{kind}` is {span!r}: low must be below high", hint=example)
    return window


def _number(name: str, value: object, positive: bool = False) -> float:
    """`value` as a float; also from text, which is what YAML makes of 6e2. LabError names the field."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (positive and number == 0):
        raise LabError(
            f"program.md: `{name}` is {value!r}, not a {'positive number' if positive else 'number of at least 0'}", hint="edit program.md"
        )
    return number

"""How the lab does when it has grown: rows, ideas, queued and finished tasks, each measured at several sizes.

    ./just scale                        # 1,000, 10,000 and 100,000 rows; 10,000 ideas; 1,000 queued and 2,000 finished tasks; some minutes
    ./just scale --rows 1000 --ideas 100 --queued 20 --finished 50 --out figures.json

One lab grows, in a temporary folder of its own: requests, receipts, rows and verdicts are written in bulk, in the bytes that the lab itself would
write (the lab's own audit says so at the smallest size, and its own `rebuild` comes out the same). The tasks are in a private daemon of the real pueue.
A command's time is that of its process from start to end, the interpreter's included, which is measured alone as well, with and without the imports
of `lab status`; an append is `results.finish`, with its fsyncs. Beside the wall
clock stands the processor time (of pueue's client too, not of its daemon), which other load on the machine changes less.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
from private import IGNORE, LAB, call, machine, repository, until

from monolab import backlog, doctor, ideas, problem, pueue, receipts, results, verdicts
from monolab.paths import Lab
from monolab.receipts import Receipt

SEEDS = 9  # runs of an idea: one that screens it, eight that are evidence
BASELINE_EVERY = 1000  # ideas between two measurements of the baseline
PROGRAM = """---
metric: score
direction: lower
smallest_effect: 0.01
stages: {smoke: {cpu: 60, gpu: 60}, explore: {cpu: 60, gpu: 60}}
---
# Made-up runs
<!-- below this line every lab is the same -->
"""
TRAIN = """from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    stage: str = "explore"
    seed: int = 0
    data: str = ""
    out: str = ""
"""
DATA = """import pathlib, sys
for split in ("train", "val", "test"):
    folder = pathlib.Path(sys.argv[1], split)
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
"""
IDEA = """---
question: does change {number} help?
hypothesis: it lowers the score, since number {number} has not been tried
predicted_effect: -0.02
credence: 0.3
kill_rule: no gain over eight seeds
parent: baseline
papers: []
---
# Change {number}
"""


@dataclass(frozen=True)
class Scale:
    rows: tuple[int, ...] = (1_000, 10_000, 100_000)  # the sizes at which everything is measured, ascending
    ideas: int = 10_000  # idea files at the last size; fewer, in proportion, at the others
    queued: int = 1_000  # tasks that wait, at the last size
    finished: int = 2_000  # tasks that pueue still knows, at the last size
    times: int = 9  # measurements of each
    out: Path | None = None  # figures as JSON


def start(root: Path) -> Lab:
    repository(root, {"program.md": PROGRAM, "train.py": TRAIN, "eval.py": "", "data.py": DATA, ".gitignore": IGNORE})
    for name in ("1_ideas", "6_runs"):
        (root / name).mkdir()
    return Lab(root)


class Growth:
    """A lab that grows: what its runs would have written, without the runs."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.head = call(lab.root, "git", "rev-parse", "HEAD").strip()
        self.code = call(lab.root, "git", "rev-parse", "HEAD^{tree}").strip()
        self.rows = self.ideas = self.made = 0
        self.prev = results.sha(results.HEADER)
        self.template: verdicts.Verdict | None = None

    def receipt(self, idea: str, number: int, seed: int, parent: str) -> Receipt:
        """The receipt of run `number` of all: a made-up value, everything else as a run has it."""
        stamp = time.gmtime(1_700_000_000 + 60 * number)
        told = time.strftime("%Y-%m-%dT%H:%M:%SZ", stamp)
        noise = ((number * 2654435761) % 1000) / 1000 - 0.5
        value = 1.0 + 0.001 * seed + 0.004 * noise
        ours = idea != "baseline"
        words = {
            "question": f"does {idea} help?",
            "hypothesis": "expect -0.02 score, 30%",
            "mechanism": "it lowers the score",
            "kill_rule": "no gain",
        }
        return Receipt(
            run_id=f"{time.strftime('%Y%m%dT%H%M%S', stamp)}-{idea}-s{seed}-{number % 65536:04x}",
            idea=idea,
            stage="explore",
            seed=seed,
            label=f"Q: does {idea} help? H: expect -0.02 score, 30%"
            if ours
            else "Q: where does the baseline stand, and how far do its seeds spread?",
            **words if ours else dict.fromkeys(words, ""),
            predicted_effect=-0.02 if ours else None,
            credence=0.3 if ours else None,
            agent="bench",
            parent=parent,
            parent_idea="baseline" if ours else "",
            commit=self.head,
            head=self.head,
            code_sha=f"{number // SEEDS:040x}" if ours else self.code,
            args=(),
            flags=(),
            queued=told,
            status="ok" if number % 50 else "crash",
            reason="" if number % 50 else "train.py ended with exit code 1: out of luck",
            metric="score",
            value=value if number % 50 else None,
            metrics={"score": value, "params": 1000} if number % 50 else {},
            started=told,
            finished=told,
            seconds=50.0,
            train_seconds=40.0,
            score_seconds=10.0,
            peak_gb=0.5,
            params=1000 if number % 50 else None,
            eval_sha="e" * 64,
            data_sha="d" * 64,
            env_sha="a" * 64,
            checkpoint_sha=f"{number:064x}",
            hardware="cpu",
            isolation="bubblewrap",
            log_tail="",
            prev=self.prev,
        )

    def run(self, file, idea: str, seed: int, parent: str = "") -> Receipt:
        """What `receipts` and `results` write for one run, without fsync."""
        self.made += 1
        made = self.receipt(idea, self.made, seed, parent)
        folder = self.lab.run(made.run_id)
        folder.mkdir()
        values = asdict(made)
        asked = {name: values[name] for name in (field for field in receipts.Request.__dataclass_fields__)}
        (folder / "request.json").write_text(json.dumps(asked, indent=1))
        (folder / "receipt.json").write_text(json.dumps(values, indent=1))
        text = results.line(results.row(made))
        file.write(text + "\n")
        self.prev = results.sha(text)
        self.rows += 1
        return made

    def to(self, rows: int, ideas_: int) -> None:
        """Grow to `rows` rows and `ideas_` idea files."""
        new = not self.lab.results.exists()
        looks: list[str] = []
        with self.lab.results.open("a") as file:
            if new:
                file.write(results.HEADER + "\n")
            while self.rows < rows:
                if self.made // SEEDS % BASELINE_EVERY == 0:
                    self.base = [self.run(file, "baseline", seed) for seed in range(SEEDS)]
                idea = f"change-{self.made // SEEDS:05}"
                mine = [self.run(file, idea, seed, self.base[seed].run_id) for seed in range(min(SEEDS, rows - self.rows))]
                if self.template is None:
                    file.flush()
                    self.template = verdicts.judge(self.lab, problem.load(self.lab), results.load(self.lab), idea, "explore")
                looks += self.looks(idea, mine)
        with (self.lab.runs / "verdicts.jsonl").open("a") as file:
            file.writelines(looks)
        for number in range(self.ideas, ideas_):
            (self.lab.ideas / f"2026-01-01_change-{number:05}.md").write_text(IDEA.format(number=number))
        self.ideas = ideas_

    def looks(self, idea: str, mine: list[Receipt]) -> Iterator[str]:
        """The two looks at an idea: after its first seed, and after all; one idea in 200 is kept."""
        runs, base = tuple(one.run_id for one in mine), tuple(one.run_id for one in self.base)
        number = self.made // SEEDS
        kept = number % 200 == 0
        common = {"idea": idea, "code_sha": mine[0].code_sha, "question": mine[0].question, "against_runs": base}
        gate = replace(self.template.gate, runs=base, seeds=(), test=0, decision="more")
        yield json.dumps(asdict(replace(self.template, **common, runs=runs[:1], seeds=(0,), gate=gate))) + "\n"
        gate = replace(
            gate, seeds=tuple(range(1, len(runs))), test=number, decision="keep" if kept else "drop", effect=-0.02 if kept else 0.001, error=0.001
        )
        mean = 1.0 - 1e-6 * number if kept else 1.01
        yield json.dumps(asdict(replace(self.template, **common, runs=runs, seeds=tuple(range(1, len(runs))), mean=mean, gate=gate))) + "\n"


def fill_queue(growth: Growth, queued: int, finished: int) -> None:
    """Bring the daemon to that many waiting and finished tasks; every waiting one has its request.

    One of each comes there by the ordinary way; the others are copies of them in the daemon's state, which it reads at its start.
    """
    lab, group = growth.lab, "lab-cpu"
    pueue.ensure_daemon()
    pueue.ensure_group(group)
    call(lab.root, "pueue", "pause", "--group", group)
    base = growth.base[0].run_id
    made = [replace(growth.receipt(f"change-{number:05}", 10**6 + number, 0, base), code_sha=growth.code) for number in range(queued)]
    for asked in made:
        if not lab.run(asked.run_id).exists():
            receipts.write_request(lab, receipts.Request(**{name: getattr(asked, name) for name in receipts.Request.__dataclass_fields__}))
    if not pueue.tasks():
        pueue.add([LAB, "run", made[0].run_id], group=group, label=made[0].label, cwd=lab.root)
        pueue.add(["true"], group=group, label="Q: is it done? H: it is", cwd=lab.root)
        call(lab.root, "pueue", "start", "1")
    until(lambda: any(task.state == "Done" for task in pueue.tasks()))
    call(lab.root, "pueue", "shutdown")
    until(lambda: not pueue.answers())
    (path,) = Path(os.environ["PUEUE_CONFIG_PATH"]).parent.glob("queue/state.json")
    state = json.loads(path.read_text())
    waits, done = state["tasks"]["0"], state["tasks"]["1"]
    commands = [waits["command"].replace(made[0].run_id, asked.run_id) for asked in made]
    tasks = [waits | {"command": command, "original_command": command, "label": asked.label} for command, asked in zip(commands, made, strict=True)]
    others = [task for task in state["tasks"].values() if "Done" not in task["status"] and task["command"] not in commands]
    tasks = [*tasks[:1], *[done] * finished, *tasks[1:], *others]
    state["tasks"] = {str(number): task | {"id": number} for number, task in enumerate(tasks)}
    path.write_text(json.dumps(state))
    pueue.ensure_daemon()
    known = pueue.tasks()
    if [sum(task.state == kind for task in known) for kind in ("Queued", "Done")] != [queued + len(others), finished]:
        sys.exit("the daemon did not take up the tasks")


def milliseconds(what: Callable[..., object], times: int, given: Callable[[], tuple] = tuple) -> dict[str, float]:
    """Wall clock: median, least and most of `times` calls, after one that is not counted; processor time: median. What is `given` to each is not counted."""
    what(*given())
    took, busy = [], []
    for _ in range(times):
        values = given()
        before, began = processor(), time.perf_counter()
        what(*values)
        took.append(1000 * (time.perf_counter() - began))
        busy.append(1000 * (processor() - before))
    return {
        name: round(value, 2)
        for name, value in (("median", statistics.median(took)), ("min", min(took)), ("max", max(took)), ("processor", statistics.median(busy)))
    }


def processor() -> float:
    """Seconds of processor time of this process and of those it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def ask(growth: Growth) -> Receipt:
    """A run that is about to end: its request, and what its receipt will say."""
    growth.made += 1
    made = growth.receipt("baseline", growth.made, 0, "")
    receipts.write_request(growth.lab, receipts.Request(**{name: getattr(made, name) for name in receipts.Request.__dataclass_fields__}))
    return made


def append(growth: Growth, made: Receipt) -> None:
    """One row, by the lab's own writer."""
    text = results.line(results.row(results.finish(growth.lab, lambda prev: replace(made, prev=prev))))
    growth.prev, growth.rows = results.sha(text), growth.rows + 1
    backlog.finished_with(growth.lab, made.run_id)


def measure(growth: Growth, times: int) -> dict[str, dict[str, float]]:
    lab = growth.lab
    idea = f"change-{growth.made // SEEDS // 2:05}"
    if not any(row.idea == idea for row in results.load(lab)):
        sys.exit(f"the benchmark wants to ask about {idea}, which has no row")
    commands = {
        "lab status": ("status",),
        "lab status --json": ("status", "--json"),
        "lab best": ("best",),
        "lab verdict": ("verdict", idea),
    }
    found = {name: milliseconds(lambda words=words: call(lab.root, LAB, *words), times) for name, words in commands.items()}
    found["reconcile (at the start of a command)"] = milliseconds(lambda: doctor.quick(lab), times)
    words = ("queue", "change-00001", "Q: does it scale? H: expect -0.02 score, 30%")
    found["lab queue"] = milliseconds(lambda: call(lab.root, LAB, *words), times)
    found["whole check at a run's start"] = milliseconds(lambda: results.require_whole(lab), times)
    found["append a row"] = milliseconds(lambda made: append(growth, made), 4 * times, lambda: (ask(growth),))
    found["idea: all slugs"] = milliseconds(lambda: ideas.slugs(lab), times)
    found["idea: read one"] = milliseconds(lambda: ideas.load(lab, "change-00001"), times)
    imports = "import monolab.cli, monolab.status"
    found["python, and what lab status imports"] = milliseconds(lambda: call(lab.root, sys.executable, "-c", imports), times)
    found["python alone"] = milliseconds(lambda: call(lab.root, sys.executable, "-c", "pass"), times)
    return found


def main(scale: Scale) -> None:
    figures: dict[int, dict] = {}
    with machine() as temp:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it every command compiles the package anew
        growth = Growth(start(temp / "lab"))
        for place, rows in enumerate(scale.rows):
            share = rows / scale.rows[-1]
            began = time.monotonic()
            growth.to(rows, max(2, round(scale.ideas * share)))
            if place == 0:
                same(growth.lab)
                call(growth.lab.root, LAB, "data")
                call(growth.lab.root, LAB, "worktree", "change-00001")
            queued, finished = max(1, round(scale.queued * share)), max(1, round(scale.finished * share))
            fill_queue(growth, queued, finished)
            print(
                f"{rows} rows, {growth.ideas} ideas, {queued} queued, {finished} finished: made in {time.monotonic() - began:.0f} s", file=sys.stderr
            )
            figures[rows] = measure(growth, scale.times)
            print(f"pueue still knows {sum(task.state == 'Done' for task in pueue.tasks())} finished tasks", file=sys.stderr)
        print("| milliseconds: median (min to max), of the processor | " + " | ".join(f"{rows:,} rows" for rows in figures) + " |")
        print("|---" * (len(figures) + 1) + "|")
        for name in figures[scale.rows[0]]:
            cells = (
                f"{one[name]['median']:.1f} ({one[name]['min']:.1f} to {one[name]['max']:.1f}), {one[name]['processor']:.0f}"
                for one in figures.values()
            )
            print(f"| {name} | {' | '.join(cells)} |")
        if scale.out:
            scale.out.write_text(json.dumps({"scale": {k: str(v) for k, v in asdict(scale).items()}, "milliseconds": figures}, indent=1))


def same(lab: Lab) -> None:
    """Stop unless what was written in bulk is what the lab would have written, by its own checks."""
    wrong, before = results.audit(lab), lab.results.read_bytes()
    results.rebuild(lab)
    if wrong or lab.results.read_bytes() != before:
        sys.exit(f"the made-up records are not as the lab's own: {wrong[:3] or 'rebuilt, the table differs'}")


if __name__ == "__main__":
    main(tyro.cli(Scale))

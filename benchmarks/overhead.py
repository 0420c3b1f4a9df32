"""What the lab costs beyond the experiment itself: a no-op experiment, queued n times.

    ./just bench                        # plain pueue, monolab and DVC's queue in turn, then `lab status` with 10,000 rows
    ./just bench --rounds 5 --no-dvc

Every contender runs the same two no-op programs (train, score). Reported is the wall clock from the first enqueue to the
last result, divided by n, less the programs' own time, measured in the same round: seconds a run beyond the script.
DVC is installed into a temporary environment of its own for the comparison (from the package registry, with uv).
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from private import DATA, IGNORE, LAB, call, machine, repository, template, until

DVC = "dvc==3.67.1"
PROGRAM = """---
metric: score
direction: lower
smallest_effect: 0.01
stages: {smoke: {cpu: 60, gpu: 60}, explore: {cpu: 60, gpu: 60}}
---
# No-op
<!-- below this line every lab is the same -->
"""
TRAIN = """import os, sys
out = sys.argv[sys.argv.index("--out") + 1]
os.makedirs(out, exist_ok=True)
open(os.path.join(out, "value"), "w").write("1")
"""
EVAL = """import json, sys
json.dump({"score": float(open(sys.argv[1] + "/value").read())}, open(sys.argv[3], "w"))
"""
IDEA = """---
question: does nothing cost nothing?
hypothesis: it does
predicted_effect: -0.1
credence: 0.5
kill_rule: none
parent: baseline
papers: []
---
"""


@dataclass(frozen=True)
class Bench:
    n: int = 5  # no-op runs a round
    rounds: int = 3
    dvc: bool = True
    rows: int = 10_000  # in results.tsv, for `lab status`
    out: Path | None = None  # figures as JSON


def bare(folder: Path, n: int) -> float:
    """The two programs alone, one after the other."""
    began = time.monotonic()
    for number in range(n):
        call(folder, sys.executable, "train.py", "--out", f"o{number}")
        call(folder, sys.executable, "eval.py", f"o{number}", "-", f"o{number}/m.json")
    return (time.monotonic() - began) / n


def plain_pueue(folder: Path, n: int) -> float:
    outs = [folder / f"p{time.monotonic_ns()}-{number}" for number in range(n)]
    began = time.monotonic()
    for out in outs:
        command = f"{sys.executable} train.py --out {out} && {sys.executable} eval.py {out} - {out}/m.json"
        call(folder, "pueue", "add", "--", command)
    until(lambda: all((out / "m.json").exists() for out in outs))
    return (time.monotonic() - began) / n


def monolab(lab: Path, n: int) -> float:
    table = lab / "results.tsv"
    before = len(table.read_text().splitlines()) if table.exists() else 1
    began = time.monotonic()
    call(lab, LAB, "queue", "noop", "Q: what does it cost? H: nothing", "--seeds", str(n))
    until(lambda: table.exists() and len(table.read_text().splitlines()) >= before + n)
    took = (time.monotonic() - began) / n
    until(
        lambda: (
            not json.loads(call(lab, "pueue", "status", "--json"))["tasks"]
            or all("Done" in t["status"] for t in json.loads(call(lab, "pueue", "status", "--json"))["tasks"].values())
        )
    )
    return took


def dvc_queue(folder: Path, dvc: str, n: int) -> float:
    """`dvc exp run --queue` n times, then `dvc queue start`, until the last experiment is done."""
    began = time.monotonic()
    for number in range(n):
        call(folder, dvc, "exp", "run", "--queue", "-S", f"seed={time.monotonic_ns() % 10**9 + number}")
    subprocess.run([dvc, "queue", "start"], cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: not any(word in call(folder, dvc, "queue", "status") for word in ("Queued", "Running")))
    return (time.monotonic() - began) / n


def status_seconds(lab: Path, rows: int, times: int = 15) -> tuple[float, float]:
    """`lab status` with that many rows: median and maximum of `times` calls, in seconds."""
    table = lab / "results.tsv"
    header, *known = table.read_text().splitlines()
    cells = known[-1].split("\t")
    made = []
    for number in range(rows - len(known)):
        made.append("\t".join([f"20260101T000000-other-s0-{number:06x}", cells[1], f"other-{number % 500}", *cells[3:]]))
    table.write_text("\n".join([header, *made, *known]) + "\n")
    took = []
    for _ in range(times):
        began = time.monotonic()
        call(lab, LAB, "status")
        took.append(time.monotonic() - began)
    return statistics.median(took), max(took)


def main(bench: Bench) -> None:
    with machine(DVC_NO_ANALYTICS="1") as temp:
        common = {"train.py": TRAIN, "eval.py": EVAL}
        plain = repository(temp / "plain", common)
        files = common | {
            "program.md": PROGRAM,
            "data.py": DATA,
            ".gitignore": IGNORE,
            "1_ideas/2026-01-01_noop.md": IDEA,
            "9_reports/_TEMPLATE.md": template(),
        }
        lab = repository(temp / "lab", files)
        call(lab, LAB, "data")
        call(lab, LAB, "worktree", "noop")
        call(lab, LAB, "baseline")
        until(lambda: (lab / "results.tsv").exists() and len((lab / "results.tsv").read_text().splitlines()) == 4)
        call(lab, "pueue", "parallel", "1")
        contenders = {
            "the script alone": lambda: bare(plain, bench.n),
            "plain pueue": lambda: plain_pueue(plain, bench.n),
            "monolab": lambda: monolab(lab, bench.n),
        }
        if bench.dvc:
            uv = os.environ.get("UV") or shutil.which("uv") or sys.exit("uv is not on PATH: run this as ./just bench")
            call(temp, uv, "venv", "-q", "--python", sys.executable, "dvc-env")
            call(temp, uv, "pip", "install", "-q", "--python", "dvc-env/bin/python", DVC)
            dvc = str(temp / "dvc-env" / "bin" / "dvc")
            os.environ["PATH"] += f"{os.pathsep}{temp}/dvc-env/bin"  # its worker looks for `dvc` there
            stage = f"stages:\n  noop:\n    cmd: {sys.executable} train.py --out o && {sys.executable} eval.py o - o/m.json\n    deps: [train.py]\n    params: [seed]\n    outs: [o]\n"
            queued = repository(temp / "dvc", common | {"dvc.yaml": stage, "params.yaml": "seed: 0\n"})
            call(queued, dvc, "init", "-q")
            call(queued, "git", "add", "-A")
            call(queued, "git", "commit", "-qm", "dvc")
            contenders["DVC's queue"] = lambda: dvc_queue(queued, dvc, bench.n)
        took: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(bench.rounds):
            for name, measure in contenders.items():
                took[name].append(measure())
                print(f"round {number + 1}: {name} {took[name][-1]:.3f} s a run", file=sys.stderr, flush=True)
        beyond = {
            name: [mine - script for mine, script in zip(values, took["the script alone"], strict=True)]
            for name, values in took.items()
            if name != "the script alone"
        }
        script = statistics.median(took["the script alone"])
        print(f"\n{bench.n} no-op runs a round, {bench.rounds} rounds in turn; the script alone takes {script:.3f} s\n")
        print("| queue | seconds a run beyond the script (median) | min | max | times plain pueue |\n|---|---|---|---|---|")
        for name, values in beyond.items():
            ratio = statistics.median(mine / reference for mine, reference in zip(values, beyond["plain pueue"], strict=True))
            print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} | {ratio:.1f} |")
        median, worst = status_seconds(lab, bench.rows)
        print(f"\nlab status with {bench.rows} rows: median {median * 1000:.0f} ms, maximum {worst * 1000:.0f} ms")
        if bench.out:
            figures = {
                "bench": {k: str(v) for k, v in asdict(bench).items()},
                "seconds": took,
                "beyond": beyond,
                "status_ms": [median * 1000, worst * 1000],
            }
            bench.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Bench))

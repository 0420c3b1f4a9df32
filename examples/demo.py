"""The lab's main job, from idea files to verdicts, on whatever this machine has: `./just demo`.

Makes a fresh lab in .demo/, with a pueue daemon of its own, measures the baseline over three seeds and three ideas (examples/demo/*.md with
their patches), lets the lab queue the further seeds it wants, and shows what came out. Nothing is scripted but the patches. `--search N` lets the embedded searcher go on from
there, `--agent claude` a coding agent of yours.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro
from loguru import logger

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LAB = str(Path(sys.executable).with_name("lab"))
WHOLE = "no-short-conv"
PUEUE_CONFIG = """\
shared:
  pueue_directory: {dir}
  runtime_directory: {dir}
  alias_file: {dir}/aliases.yml
  use_unix_socket: true
  unix_socket_path: {dir}/s
  pid_path: {dir}/pid
  shared_secret_path: {dir}/secret
client: {{}}
daemon: {{}}
"""


@dataclass(frozen=True)
class Demo:
    seeds: int = 3
    stage: str = "explore"
    search: int = 0  # experiments that the embedded searcher makes afterwards, each about 40 s on one core and more where it looks good
    agent: str = ""  # a coding agent's command with your own login or key (claude, codex, opencode, "lab chat ..."), which then works by itself
    steps: int = 12  # short processes that it may take, for one experiment at most


def lab(where: Path, *args: str, capture: bool = False) -> str:
    """Run one `lab` command as a person would, in `where`; its failure ends the demo."""
    if not capture:
        print(f"\n$ lab {' '.join(args)}", flush=True)
    done = subprocess.run([LAB, *args], cwd=where, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        raise SystemExit(f"the demo stops: lab {' '.join(args)} failed (in {where})")
    return done.stdout or ""


def git(where: Path, *args: str) -> None:
    subprocess.run(["git", *args], cwd=where, check=True, stdout=subprocess.DEVNULL)


def watch(where: Path) -> None:
    """Print every row as it comes in, and on a terminal the live state, until nothing runs or waits."""
    seen, live = 0, sys.stdout.isatty()
    start = "\r" if live else ""
    while True:
        known = json.loads(lab(where, "status", "--json", capture=True))
        rows = (where / "results.tsv").read_text().splitlines()[1:]
        for row in rows[seen:]:
            cells = row.split("\t")
            print(
                f"{start}  [{seen + 1:>2}] {cells[2]:<14} seed {cells[6]}  {cells[9]:<6} {cells[7]} {cells[8]:<10.10} {cells[10]} s".ljust(78),
                flush=True,
            )
            seen += 1
        running = known["running"]
        if live and running:
            progress = running["progress"] or {}
            print(
                f"{start}  {running['idea']} seed {running['seed']}: step {progress.get('step', 0)}/{progress.get('steps', '?')}, {running['left']:.0f} s left".ljust(
                    78
                ),
                end="",
            )
        if not known["unfinished"] and seen == len(rows):
            return
        time.sleep(1.0)


def main(demo: Demo) -> None:
    began = time.monotonic()
    where = ROOT / ".demo" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    private = Path(tempfile.mkdtemp(prefix="ml-demo-"))  # short: a socket's path has at most 107 bytes
    config = private / "pueue.yml"
    config.write_text(PUEUE_CONFIG.format(dir=private))
    os.environ["PUEUE_CONFIG_PATH"] = str(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        where.parent.mkdir(exist_ok=True)
        lab(ROOT, "init", str(where), "--example", "root")
        (where / ".venv").symlink_to(Path(sys.prefix))  # the environment that stands already; a launcher never changes a linked one
        lab(where, "data")
        lab(where, "baseline", "--seeds", str(demo.seeds), "--stage", demo.stage)
        ideas = sorted((HERE / "demo").glob("*.md"))
        for idea in ideas:
            slug = idea.stem
            shutil.copy(idea, where / "1_ideas" / f"{datetime.now(UTC):%Y-%m-%d}_{slug}.md")
            lab(where, "worktree", slug)
            tree = where / "5_worktrees" / slug
            git(tree, "apply", str(idea.with_suffix(".patch")))
            git(tree, "commit", "-qam", f"exp({slug}): the patch of examples/demo")
            # As the daily work goes, one seed screens an idea, and the lab queues the rest by itself if that looks better. One of them is
            # asked about with all seeds at once, so that a harm gets its verdict too.
            seeds = demo.seeds if slug == WHOLE else 1
            lab(where, "queue", slug, "--seeds", str(seeds), "--stage", demo.stage)
        print(flush=True)
        watch(where)
        lab(where, "results")
        verdicts = [json.loads(lab(where, "verdict", idea.stem, "--stage", demo.stage, "--json", capture=True))["verdict"] for idea in ideas]
        for idea in ideas:
            lab(where, "verdict", idea.stem, "--stage", demo.stage)
        lab(where, "best")
        lab(where, "calibration")
        lab(where, "plot", "--stage", demo.stage)
        if demo.search:  # the same lab goes on by itself, without a model
            lab(where, "search", "--n", str(demo.search), "--stage", demo.stage)
            lab(where, "analysis", "--stage", demo.stage)
            lab(where, "lineage", "tree", "--html", str(where / "9_reports" / "lineage.html"))
            lab(where, "lineage", "tree")
            lab(where, "best")
        if demo.agent:
            lab(where, "autopilot", "--agent", demo.agent, "--steps", str(demo.steps), "--experiments", "1")
            watch(where)
            lab(where, "idea", "list")
        lab(where, "status")
        print(f"\nEverything lies in {where}:")
        for name, what in (
            ("results.tsv", "one row per run, appended by the lab"),
            ("6_runs/", "request, receipt, logs and checkpoint of every run"),
            ("RESEARCH_JOURNAL.md", "expected against observed, newest on top"),
            ("9_reports/", "a report per idea, and effects.png"),
            ("1_ideas/, 5_worktrees/", "the hypotheses, and the code that answers them"),
        ):
            print(f"  {name:<24} {what}")
        logger.info(f"the demo took {time.monotonic() - began:.0f} s; verdicts: {', '.join(verdicts)}")
        if not {"supported", "refuted"} <= set(verdicts):
            raise SystemExit("the demo expected at least one idea supported and one refuted; the runs above say otherwise")
    finally:
        subprocess.run(["pueue", "shutdown"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(private, ignore_errors=True)


if __name__ == "__main__":
    main(tyro.cli(Demo))

"""The command line: `lab NAME ...`. Parses, calls one use case, prints; the only place that catches LabError."""

import errno
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monolab import paths
from monolab.errors import LabError
from monolab.paths import BASELINE

# tyro, GitPython, polars and torch are imported where they are needed: `lab status` has to answer at once.
HELP = ("-h", "--help", "help")


def _print_json(value) -> None:
    print(json.dumps(value, indent=1))


def init(dest: Path, /, *, example: str | None = None) -> None:
    """Make a new lab in DEST for a problem of your own (or one of the complete examples, say digits)."""
    from monolab import init as new

    lab = new.init(dest, example)
    print(f"a new lab stands in {lab.root}")
    todo = new.check(lab)
    filled = "next: ./just data, then ./just baseline"
    print("next: ./just check lists what is to be filled in; then commit it: META_MODE=1 git commit -a" if todo else filled)


def check(*, json: bool = False) -> None:
    """List what is still to be filled in, and what in the records does not agree. Changes nothing: `lab doctor` repairs."""
    from monolab import dataset, holdout, journal, problem, results
    from monolab import guard as rule
    from monolab import init as new

    lab = paths.find()
    todo = new.check(lab)
    if not todo:  # program.md is filled in
        todo += rule.past_the_hook(lab, problem.load(lab))
    todo += results.audit(lab) + journal.audit(lab) + holdout.audit(lab)
    if lab.data.exists():
        try:
            dataset.verify(lab)
        except LabError as error:
            todo.append(str(error))
    if json:
        _print_json(todo)
    else:
        print("\n".join(todo) or "nothing to fill in; every row agrees with its receipt")
    if todo:
        raise SystemExit(1)


def doctor(*, json: bool = False) -> None:
    """Bring records, queue and git back into agreement after a kill, a reboot, a deleted file: repairs what is safe, names the rest. `lab check` only looks."""
    from dataclasses import asdict

    from monolab import doctor as reconcile
    from monolab import holdout

    lab = paths.find()
    _alerts(lab)
    found = reconcile.examine(lab) + [reconcile.Finding(what, holdout.RESTORE) for what in holdout.audit(lab)]
    if json:
        _print_json([asdict(one) for one in found])
    else:
        print(reconcile.text(found))
    if any(not one.repaired for one in found):
        raise SystemExit(1)


def data(args: list[str]) -> None:
    """Prepare the data with the lab's data.py (options go to it), record its hash."""
    from monolab import copied, dataset

    lab = paths.find()
    manifest = dataset.prepare(lab, args)
    copied.index(lab, manifest["data_sha"])  # now, not when the first run waits for it
    sizes = ", ".join(f"{name} {size / 2**20:.1f} MB" for name, size in manifest["splits"].items())
    print(f"data_sha {manifest['data_sha'][:12]}: {sizes}")


def worktree(slug: str, /) -> None:
    """Make the worktree 5_worktrees/SLUG on branch exp/SLUG."""
    from monolab import queue

    lab = paths.find()
    print(queue.worktree(lab, slug))
    _remember(lab, slug)


def _remember(lab: paths.Lab, slug: str, run_id: str = "") -> None:
    """Say which failed ideas SLUG comes near, and whether the code that was queued as `run_id` only sets fields of Config. Notes: they stop nothing."""
    from loguru import logger

    from monolab import memory, receipts

    try:
        for told in memory.warnings(lab, slug):
            logger.warning(told)
        if run_id and (only := memory.only_settings(lab, receipts.request(lab, run_id))):
            options = " ".join(f"--{name.replace('_', '-')} VALUE" for name in only)
            logger.warning(f"the code of {slug} changes nothing but {', '.join(only)}: a setting to tune, no mechanism (just queue {slug} {options})")
    except LabError as error:  # the worktree stands, the run is queued: what memory lacks is no reason to do it again
        logger.warning(f"memory was not asked: {error}")


def smoke(args: list[str], *, config: Path | None = None) -> None:
    """Train a few steps here and score them with every check on; no row."""
    from monolab import options, queue
    from monolab import smoke as trial

    lab = paths.find()
    _, tree = queue.standing_in(lab)
    metrics = trial.smoke(lab, tree, options.check(_options(config, args), tree / "train.py"))
    print("smoke passed: " + ", ".join(f"{name} {value:g}" for name, value in metrics.items()))


def evaluate(
    args: list[str],
    slug: str | None = None,
    /,
    *,
    stage: str = "explore",
    seed: int = 0,
    label: str | None = None,
    config: Path | None = None,
    require_sandbox: bool = False,
) -> None:
    """Run the experiment here (or SLUG's) now, in the foreground or inside a pueue task; every field of train.py's Config is an option."""
    from monolab import queue

    lab = paths.find()
    try:
        receipt = queue.evaluate(lab, slug, label, stage, seed, _options(config, args), sandboxed=require_sandbox)
    finally:
        _alerts(lab)
    if receipt.status != "ok":
        raise LabError(f"{receipt.run_id}: {receipt.status}, {receipt.reason}", hint=f"lab log {receipt.run_id}")


def run(run_id: str, /) -> None:
    """Carry out a queued request (what `lab queue` puts into pueue)."""
    from monolab import doctor as reconcile
    from monolab import receipts
    from monolab import run as one

    lab = paths.find()
    try:
        receipt = one.execute(lab, receipts.request(lab, run_id))
    finally:
        try:
            reconcile.quick(lab)  # nobody else may be there to do it
        finally:
            _alerts(lab)
    if receipt.status != "ok":
        raise LabError(f"{receipt.run_id}: {receipt.status}, {receipt.reason}", hint=f"lab log {receipt.run_id}")


def queue(
    args: list[str],
    slug: str,
    label: str | None = None,
    /,
    *,
    seeds: int = 1,
    stage: str = "explore",
    config: Path | None = None,
    require_sandbox: bool = False,
    json: bool = False,
) -> None:
    """Queue SLUG's working tree as it is now: queue SLUG "Q: .. H: ..". Its first seed screens it; the lab queues the rest where that looks better."""
    from loguru import logger

    from monolab import controls
    from monolab import queue as queues

    if seeds < 1:
        raise LabError(f"--seeds {seeds}: at least one", hint=f"just queue {slug} --seeds 3")
    lab = paths.find()
    made = queues.enqueue(lab, slug, label, stage, list(range(seeds)), _options(config, args), sandboxed=require_sandbox)
    if json:
        _print_json([request.run_id for request in made])
    else:
        print(f"{made[0].label or '(no label)'}\nqueued " + ", ".join(request.run_id for request in made))
    try:
        control = controls.due(lab, stage) if slug != BASELINE else []
    except LabError as error:  # the idea is queued: what its control lacks is no reason to queue it again
        logger.warning(f"no control was queued: {error}")
    else:
        if control:
            logger.info(f"and one control, as program.md wants: {control[0].idea}")
    if slug != BASELINE:
        _remember(lab, slug, made[0].run_id)
    _alerts(lab)


def baseline(args: list[str], *, seeds: int = 3, stage: str = "explore", require_sandbox: bool = False, json: bool = False) -> None:
    """Queue main's own train.py over several seeds: the reference and its noise floor."""
    text = "Q: where does the baseline stand, and how far do its seeds spread?"
    queue(args, BASELINE, text, seeds=seeds, stage=stage, require_sandbox=require_sandbox, json=json)


def status(*, json: bool = False) -> None:
    """One screen: device, running with live loss, queue, last verdicts, noise floor, best."""
    from monolab import status as screen

    screen.show(paths.find(), json)


def log(run: str, /) -> None:
    """Print the output of a run, fenced as data where no terminal reads it."""
    from monolab import fence, receipts
    from monolab import status as screen

    lab = paths.find()
    run_id = receipts.resolve(lab, run)
    print(fence.for_reader(screen.log(lab, run_id), f"Log of {run_id}"))


def follow(run: str | None = None, /) -> None:
    """Watch a run (default: the running one) until it ends."""
    from monolab import receipts
    from monolab import status as screen

    lab = paths.find()
    screen.follow(lab, run and receipts.resolve(lab, run))


def cancel(run: str, /) -> None:
    """Take a run out of the queue, or end it while it runs."""
    from monolab import queue as queues
    from monolab import receipts

    lab = paths.find()
    run_id = receipts.resolve(lab, run)
    print(f"{run_id}: {queues.cancel(lab, run_id)}")


def diff(run: str, /) -> None:
    """Show what a run's code changed against its parent's run (or against main where it has none)."""
    from monolab import receipts, snapshot

    lab = paths.find()
    request = receipts.request(lab, receipts.resolve(lab, run))
    old = receipts.request(lab, request.parent).commit if request.parent else snapshot.fork_point(lab, request.head)
    print(snapshot.changed(lab, old, request.commit))


def verdict(slug: str, /, *, stage: str = "explore", json: bool = False) -> None:
    """Explain SLUG from what is measured by now: effect, interval, seeds, what was decided, what would settle it."""
    from dataclasses import asdict

    from monolab import explain, problem, promote, results, verdicts

    lab = paths.find()
    subject = problem.load(lab)
    found = verdicts.judge(lab, subject, results.view(lab), slug, stage)
    if json:
        _print_json(asdict(found))
    else:
        print(explain.screen(lab, subject, found))
        if stage == "explore" and (told := promote.said(lab, slug)):
            print(f"  at scale    {told}")


def replicate(slug: str, /, *, stage: str = "explore", require_sandbox: bool = False) -> None:
    """Queue the paired seeds that the next look at SLUG needs, also where the lab would leave it at that."""
    from monolab import queue

    made = queue.replicate(paths.find(), slug, stage, sandboxed=require_sandbox)
    print("queued " + ", ".join(request.run_id for request in made) if made else "every seed of the next look is measured or queued already")


def retry(run_id: str, /) -> None:
    """Run a request once more that ended for no reason of the candidate's: interrupted, contaminated, or without its device."""
    from monolab import receipts, retries

    lab = paths.find()
    run_id = receipts.resolve(lab, run_id)
    print(f"queued {retries.by_hand(lab, receipts.receipt(lab, run_id), run_id).run_id}")


def controls(*, rounds: int = 1, stage: str = "explore", json: bool = False) -> None:
    """Test the lab on itself: queue the baseline as if it were an idea, and the patches known to harm; print what came of earlier ones."""
    from monolab import controls as tests

    lab = paths.find()
    queued = [request.run_id for _ in range(rounds) for request in tests.queue_round(lab, stage)]
    known = tests.record(lab, stage)
    if json:
        _print_json({"queued": queued, "record": known})
        return
    print(tests.text(known) or "no control has been judged yet")
    if queued:
        print(f"queued {', '.join(queued)}")


def calibration(*, agent: str | None = None, out: Path | None = None, json: bool = False) -> None:
    """Score the predictions that were made before the runs: Brier score, calibration curve, sharpness, per agent and over time."""
    from monolab import calibration as scores

    lab = paths.find()
    found = scores.report(lab, agent)
    if json:
        _print_json(found)
    else:
        print(scores.text(found))
    if out:
        print(scores.plot(lab, out, agent))


def alert(what: str, text: str = "", /, *, json: bool = False) -> None:
    """Tell a person what happens here, as .alerts.yaml says: `test` it, `list` what was told, `ask` a person "TEXT", `check` now (for cron)."""
    from monolab import alerts

    lab = paths.find()
    if what == "check":
        import os

        from monolab import events

        os.nice(10)  # a run comes first
        alerts.check(lab, events.found)
    elif what == "ask":
        alerts.ask(lab, text)
        alerts.nudge(lab)
    elif what == "list":
        known = alerts.known(lab)
        _print_json(known) if json else print(alerts.text(known))
    elif what == "test":
        sent = alerts.test(lab)
        print("\n".join(f"{target}: {why or 'sent'}" for target, why in sent))
        if any(why for _, why in sent):
            raise SystemExit(1)
    else:
        raise LabError(f"alert {what!r}: unknown", hint="test, list, ask or check")


def track(run: str | None = None, /, *, all: bool = False, json: bool = False) -> None:
    """Send finished runs to the trackers that program.md names: RUN, --all that they do not have yet, or those that wait to be sent."""
    from dataclasses import asdict

    from monolab import receipts, trackers

    lab = paths.find()
    runs = [receipts.resolve(lab, run)] if run else trackers.finished(lab)
    found = trackers.by_hand(lab, runs) if run or all else trackers.waiting(lab)
    _print_json([asdict(one) for one in found]) if json else print(trackers.text(found))
    if any(not one.ok for one in found):
        raise SystemExit(1)


def _alerts(lab: paths.Lab) -> None:
    from monolab import alerts

    alerts.nudge(lab)


def best(*, stage: str | None = None, json: bool = False) -> None:
    """The best result that holds, its lineage down to the baseline, and how much of it may be luck."""
    from monolab import problem, results, verdicts
    from monolab.journal import number

    lab = paths.find()
    found = verdicts.best(lab, problem.load(lab), results.view(lab), stage)
    if json:
        _print_json(found)
        return
    print(f"{found['idea']}: {found['metric']} {found['mean']:.6g} (mean over the seeds that count, {found['stage']})")
    for depth, step in enumerate(found["lineage"]):
        over = f" (with {', '.join(step['through'])})" if step["through"] else ""
        span = "" if step["low"] is None else f" {number(step['effect'])} [{number(step['low'])}, {number(step['high'])}] {step['decision']}"
        print(f"{'  ' * (depth + 1)}{step['idea']}{over}{span}: {', '.join(step['runs'])}")
    if found["luck"]:
        print(
            f"the best of {found['tested']} tested: up to {found['luck']:.2g} {found['metric']} of its effect may be the luck of having been chosen"
        )


def results(*, json: bool = False) -> None:
    """Print results.tsv as a table."""
    from monolab import results as rows

    table = rows.table(paths.find())
    if json:
        _print_json(table.to_dicts())
        return
    import polars as pl

    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, fmt_str_lengths=60, tbl_width_chars=200):
        print(table.select("run_id", "stage", "metric", "value", "status", "seconds", "params", "flags"))


def report(slug: str, /, *, stage: str = "explore") -> None:
    """Write SLUG's report from the template; an inference that was written stays."""
    from monolab import report as reports

    print(reports.again(paths.find(), slug, stage))


def submit(slug: str, /, *, stage: str = "explore", push: bool = True, json: bool = False) -> None:
    """Commit, push and open a pull request for SLUG, whose verdict must be supported and kept: its text, plot and receipts, each looked at again first."""
    from dataclasses import asdict

    from monolab import submit as submission

    done = submission.submit(paths.find(), slug, stage, push=push)
    _print_json(asdict(done)) if json else print(submission.text(done))


def analyse(slug: str, /, *, metric: str = "", stage: str = "explore", seeds: tuple[int, ...] = (), json: bool = False) -> None:
    """SLUG's expectation against reality, against its parent and siblings, and its cost; with --metric, another metric, marked as exploratory."""
    from dataclasses import asdict

    lab = paths.find()
    if metric:
        from monolab import analysis as beside

        found = beside.analyse(lab, slug, stage, metric, seeds)
        beside.write(lab, found)
        _print_json(asdict(found)) if json else print(found.text())
        return
    if seeds:
        raise LabError("--seeds goes with --metric", hint=f"just analyse {slug} --metric NAME --seeds 0 2")
    from monolab import analyst
    from monolab import report as reports

    found = analyst.analyse(lab, slug, stage)
    _print_json(asdict(found)) if json else print(analyst.text(found))
    reports.again(lab, slug, stage)


def tune(code: str = "", /, *, n: int = 1, show: bool = False, top_up: bool = False, stage: str = "explore", json: bool = False) -> None:
    """Queue N settings that Optuna proposes within RANGES of train.py for CODE (default: the best), after all ideas; --show prints what came of them."""
    from monolab import meter
    from monolab import tune as filler

    lab = paths.find()
    if top_up:  # what a run calls when it begins
        if meter.running(lab):
            filler.top_up(lab)
        return
    if show:
        found = filler.findings(lab, code or BASELINE, stage)
        _print_json(found) if json else print(filler.as_text(found))
        return
    made = [filler.propose(lab, code, stage) for _ in range(n)]
    _print_json([request.run_id for request in made]) if json else print("\n".join(f"{request.run_id}: {' '.join(request.args)}" for request in made))


def autopilot(
    *,
    agent: str | None = None,
    hours: float | None = None,
    device_hours: float | None = None,
    experiments: int | None = None,
    tokens: int | None = None,
    dollars: float | None = None,
    queue: int | None = None,
    filler: bool = False,
    push: bool = False,
    steps: int = 0,
    show: bool = False,
    session: bool = False,
    until: str = "",
    off: bool = False,
) -> None:
    """Run the loop of program.md by an agent's command, a short process a step, within a budget; --show says what comes next; --session, --off."""
    from monolab import cli_autopilot

    given = {"agent": agent, "hours": hours, "device_hours": device_hours, "experiments": experiments, "tokens": tokens, "dollars": dollars}
    cli_autopilot.fly(given | {"queue": queue, "filler": filler or None, "push": push or None}, steps, show, session, until, off)


def promote(slugs: list[str], /, *, list_only: bool = False, stage: str = "verify", json: bool = False) -> None:
    """Measure what was kept at explore again at a longer and larger stage, on fresh seeds; --list-only says what is scale-stable and what scale-bound."""
    from dataclasses import asdict

    from monolab import promote as stages

    lab = paths.find()
    made = [] if list_only else stages.promote(lab, slugs, large=stage)
    known = stages.standings(lab, large=stage)
    if json:
        _print_json({"queued": [request.run_id for request in made], "standings": [asdict(one) for one in known]})
        return
    if made:
        print("queued " + ", ".join(request.run_id for request in made))
    for one in known:
        print(f"{one.idea}: {one.word} ({one.why})")
    if list_only and not known:
        print("nothing was kept at explore yet")


def plot(*, stage: str = "explore", out: Path = Path("9_reports/effects.png")) -> None:
    """Draw all effects against the noise band, as a PNG."""
    from monolab import plot as plots

    lab = paths.find()
    print(plots.effects(lab, stage, out if out.is_absolute() else lab.root / out))


def audit(run: str | None = None, /, *, all: bool = False, sample: int | None = None, json: bool = False) -> None:
    """Re-derive RUN from its receipt, and score its checkpoint again; --all for the whole lab, of which --sample N are scored again."""
    from dataclasses import asdict

    from monolab import audit as audits
    from monolab import receipts

    lab = paths.find()
    if all == (run is not None):
        raise LabError("which run?", hint="lab audit RUN, or: lab audit --all --sample 5")
    if all:
        whole = audits.audit_all(lab, sample)
        _print_json(asdict(whole)) if json else print(audits.text_of_all(whole))
        wrong = bool(whole.wrong)
    else:
        run_id = receipts.resolve(lab, run)
        found = audits.audit(lab, run_id)
        _print_json([asdict(one) for one in found]) if json else print(audits.text(run_id, found))
        wrong = any(one.ok is False for one in found)
    if wrong:
        raise SystemExit(1)


def reproduce(run: str, /, *, json: bool = False) -> None:
    """Train RUN's snapshot again with its seed, and say whether the number is the same, or within the noise floor. No row is written."""
    from dataclasses import asdict

    from monolab import audit as audits
    from monolab import receipts

    lab = paths.find()
    found = audits.reproduce(lab, receipts.resolve(lab, run))
    _print_json(asdict(found)) if json else print(found.what)
    if found.ok is False:
        raise SystemExit(1)


def verify(slug: str, /, *, stage: str = "explore", json: bool = False) -> None:
    """Look at the sealed split: score SLUG's kept checkpoints (or the baseline's) on it. Looks are counted."""
    from dataclasses import asdict

    from monolab import holdout

    lab = paths.find()
    seen = holdout.look(lab, slug, stage)
    _alerts(lab)
    _print_json(asdict(seen)) if json else print(holdout.text(seen) + "\n" + holdout.summary_text(holdout.summary(lab)))


def rebuild() -> None:
    """Write results.tsv anew from the receipts."""
    from monolab import results as rows

    print(f"results.tsv: {rows.rebuild(paths.find())} rows from their receipts")


def metric_check(*, stage: str = "explore", json: bool = False) -> None:
    """Measure program.md's requirements on the metric: length, spread, determinism, power."""
    from monolab import metric_check as checks

    found = checks.check(paths.find(), stage)
    if json:
        _print_json(found)
    else:
        print(checks.text(found))
    if False in (found["length"]["ok"], found["spread"]["ok"], found["determinism"]["ok"]):
        raise SystemExit(1)


def guard(where: str, /) -> None:
    """Refuse changes to FROZEN, GLOBAL and APPEND-ONLY files: `edit` (a coding agent's hook, JSON on stdin), `commit` (the git hook)."""
    from monolab import guard as rule

    if where == "edit":
        raise SystemExit(rule.edit_main(sys.stdin.read()))
    if where == "commit":
        raise SystemExit(rule.commit_main())
    if where == "install":
        rule.install_hook(paths.find())
        return
    raise LabError(f"guard {where!r}: unknown", hint="edit, commit or install")


def fenced(label: str = "Text that others wrote", /) -> None:
    """Print what comes on stdin fenced and labelled as data, for another agent to read: git diff main exp/SLUG | lab fence "the change"."""
    from monolab import fence

    print(fence.fenced(sys.stdin.buffer.read().decode(errors="replace"), label))


def hook(event: str, /) -> None:
    """What a coding agent's hooks call, with the client's JSON on stdin: session-start, stop, compact."""
    from monolab import hooks

    said = hooks.answer(event, sys.stdin.read())
    if said:
        print(said)


def chat(
    *, url: str, model: str, key_env: str = "", temperature: float | None = None, max_tokens: int | None = None, seconds: float = 1200.0
) -> None:
    """Ask a model at an OpenAI-compatible address what comes on stdin: an agent for autopilot without a coding agent. Prints answer and usage as JSON."""
    from monolab import chat as talk

    prompt = sys.stdin.buffer.read().decode(errors="replace")
    told = talk.ask(prompt, url, model, key_env=key_env, temperature=temperature, max_tokens=max_tokens, seconds=seconds)
    print(json.dumps(told))


def mcp() -> None:
    """Serve the lab to a coding agent over stdio, by the Model Context Protocol: status, next, ideas, queue, verdicts, journal, papers."""
    from monolab import mcp_server

    def named(words: str) -> Callable:
        first, _, rest = words.partition(" ")
        command = COMMANDS[first]
        return command.load()[rest] if isinstance(command, Nested) else command

    mcp_server.serve(paths.find(), named)


def papers() -> dict[str, Callable]:
    """Find, fetch and read papers: search, fetch, list, tldr, introduction, results, references, bib."""
    from monolab import cli_papers

    return cli_papers.COMMANDS


def debug(slug: str, /, *, json: bool = False) -> None:
    """Pack what failed last in SLUG's code with its log, its change and its hypothesis, for a repair: three rounds, counted."""
    from dataclasses import asdict

    from monolab import debug as repair

    found = repair.package(paths.find(), slug)
    _print_json(asdict(found)) if json else print(repair.text(found))


def following(*, policy: str | None = None, seed: int | None = None, stage: str = "explore", tree: str = "", json: bool = False) -> None:
    """What to build on next, with everything an author needs: parent, references, insights, earlier failures near it."""
    from monolab import cli_search

    cli_search.following(policy, seed, stage, tree, json)


def search(*, n: int = 10, policy: str | None = None, seed: int = 0, stage: str = "explore") -> None:
    """Let the embedded searcher make, check and queue N experiments from the lab's space.py, and wait for their verdicts. No model, no key."""
    from monolab import cli_search

    cli_search.search(n, policy, seed, stage)


def analysis(*, tree: str = "", stage: str = "explore", out: Path | None = None, json: bool = False) -> None:
    """What the whole search amounts to: improvements, keep rate, components and origins of winners, drift, cost; --out PNG draws it."""
    from monolab import cli_search

    cli_search.analysis(tree, stage, out, json)


def argmap() -> dict[str, Callable]:
    """Argument maps with credences (vargdown), held to the saved papers and to themselves: check."""
    from monolab import cli_argmap

    return cli_argmap.COMMANDS


def lineage() -> dict[str, Callable]:
    """Everything that was tried as a tree, with its page: tree, show, diff."""
    from monolab import cli_search

    return cli_search.LINEAGE


def imported(kind: str, file: Path, /, *, name: str = "") -> None:
    """Bring in another system's tree, to browse and to sample from: import asi-arch FILE."""
    from monolab import cli_search

    cli_search.import_tree(kind, file, name)


def idea() -> dict[str, Callable]:
    """Write, list, criticise and rate ideas; find what was tried near one: new, list, show, check, critique, rate, near, revived."""
    from monolab import cli_ideas

    return cli_ideas.IDEA


def cognition() -> dict[str, Callable]:
    """What papers say that fits a run or a symptom: for, read, check."""
    from monolab import cli_ideas

    return cli_ideas.COGNITION


def _options(config: Path | None, args: list[str]) -> list[str]:
    from monolab import options

    return (options.from_file(config) if config else []) + args


@dataclass(frozen=True)
class Nested:
    """A command with commands of its own (`lab papers search`). `load` returns them by name; their module is imported only then."""

    load: Callable[[], dict[str, Callable]]


Commands = dict[str, Callable | Nested]

GROUPS: dict[str, Commands] = {
    "think": {"papers": Nested(papers), "idea": Nested(idea), "cognition": Nested(cognition), "argmap": Nested(argmap), "fence": fenced},
    "experiment": {
        "smoke": smoke,
        "debug": debug,
        "eval": evaluate,
        "baseline": baseline,
        "worktree": worktree,
        "queue": queue,
        "replicate": replicate,
        "next": following,
        "search": search,
        "promote": promote,
        "tune": tune,
        "autopilot": autopilot,
        "retry": retry,
        "controls": controls,
        "metric-check": metric_check,
    },
    "watch": {
        "status": status,
        "log": log,
        "follow": follow,
        "results": results,
        "verdict": verdict,
        "best": best,
        "alert": alert,
        "track": track,
        "plot": plot,
        "calibration": calibration,
        "analyse": analyse,
        "lineage": Nested(lineage),
        "analysis": analysis,
    },
    "steer": {"cancel": cancel, "diff": diff, "report": report, "submit": submit},
    "lab": {
        "init": init,
        "check": check,
        "doctor": doctor,
        "data": data,
        "verify": verify,
        "audit": audit,
        "reproduce": reproduce,
        "rebuild": rebuild,
        "import": imported,
        "guard": guard,
        "hook": hook,
        "mcp": mcp,
        "chat": chat,
        "run": run,
    },
}
WRITING = (evaluate, run, worktree, controls, retry, cancel, report, submit, analyse, verify, audit)  # queue, replicate: once there is a daemon
COMMANDS: Commands = {name: command for group in GROUPS.values() for name, command in group.items()}


def _split(function: Callable, tokens: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and the options to hand on to the lab's programs (those that the function does not name).

    A bare word after an option of theirs is theirs, but for a label (`Q: ...`), which their flags must not swallow.
    What remains in doubt, options.check settles: it knows which of their options take a value.
    """
    import inspect

    ours = {f"--{name.replace('_', '-')}": parameter.annotation is bool for name, parameter in inspect.signature(function).parameters.items()} | {
        "--help": True,
        "-h": True,
    }
    mine, theirs, rest, takes = [], [], list(tokens), "ours"
    while rest:
        token = rest.pop(0)
        name, equals, _ = token.partition("=")
        if name in ours:
            mine.append(token)
            if not ours[name] and not equals and rest:
                mine.append(rest.pop(0))
            takes = "ours"
        elif token.startswith("--"):
            theirs.append(token)
            takes = "ours" if equals else "theirs"
        else:
            (mine if takes == "ours" or token.startswith("Q:") else theirs).append(token)
    return mine, theirs


def _call(commands: Commands, tokens: list[str], prog: str = "lab") -> None:
    """Call the command that the first of `tokens` names with the rest of them. `prog` is what was typed before it."""
    name, *tokens = tokens
    if name not in commands:
        import difflib

        near = difflib.get_close_matches(name, commands, n=2)
        raise LabError(f"there is no command {name!r}", hint=f"{prog} {near[0]}" if near else f"{prog} --help")
    command = commands[name]
    if command in WRITING and not {"-h", "--help"} & set(tokens):
        from monolab import doctor as reconcile

        reconcile.quick(paths.find(), queue=command is not run)  # what a killed process has left must not meet what this one writes
    if isinstance(command, Nested):
        inside, prog = command.load(), f"{prog} {name}"
        if not tokens or tokens[0] in HELP:
            print("\n".join([f"{prog}: {_about(command)}", *_listed(inside)]))
            return None
        return _call(inside, tokens, prog)
    if command is status and tokens in ([], ["--json"]):  # without tyro's 100 ms
        return command(json=bool(tokens))
    if command is run and len(tokens) == 1 and not tokens[0].startswith("-"):
        return command(tokens[0])
    if command is data:
        return command(tokens)
    import inspect
    from functools import partial

    import tyro

    target = command
    if "args" in inspect.signature(command).parameters:
        tokens, theirs = _split(command, tokens)
        target = partial(command, theirs)
    tyro.cli(target, prog=f"{prog} {name}", description=command.__doc__, args=tokens)


def _about(command: Callable | Nested) -> str:
    text = command.load.__doc__ if isinstance(command, Nested) else command.__doc__
    return (text or "").splitlines()[0]


def _listed(commands: Commands) -> list[str]:
    return [f"  {name:<13} {_about(command)}" for name, command in commands.items()]


def usage() -> str:
    lines = ["lab: a research lab that fits on one GPU. Usage: lab COMMAND [--help]"]
    for group, commands in GROUPS.items():
        lines += [f"\n{group}", *_listed(commands)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    tokens = sys.argv[1:] if argv is None else argv
    if not tokens or tokens[0] in HELP:
        print(usage())
        return
    if tokens[0] == "--version":
        from monolab import __version__

        print(__version__)
        return
    try:
        _call(COMMANDS, tokens)
    except LabError as error:
        named = tokens[: 2 if isinstance(COMMANDS.get(tokens[0]), Nested) else 1]
        print(f"lab {' '.join(named)}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        known = _from_outside(error)
        if known is None and isinstance(error, BrokenPipeError):  # `lab results | head`
            sys.stdout = None
            raise SystemExit(141) from None
        if known is None:
            raise
        print(f"lab {tokens[0]}: {known}", file=sys.stderr)
        raise SystemExit(1) from None


def _from_outside(error: Exception) -> LabError | None:
    """What ended a command and is no fault of it: a full disk or quota, as Python, git or SQLite say it, or a git that was killed. None for all else."""
    told = " ".join(str(error).split())
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in told or "disk is full" in told:
        return LabError(told, hint="df -h; make room, then the same again")
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if type(error).__module__.startswith("git.") or frames[-1].startswith("git."):  # where git's answer breaks off, GitPython raises ValueError
        return LabError(f"git failed: {told}", hint="the same again; where it stays so: git status, lab doctor")
    return None


if __name__ == "__main__":
    main()

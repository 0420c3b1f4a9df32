"""The command line: `lab NAME ...`. Parses, calls one use case, prints; the only place that catches LabError."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from monolab import paths
from monolab.errors import LabError
from monolab.paths import BASELINE

# tyro, GitPython, polars and torch are imported where they are needed: `lab status` has to answer at once.


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
    """List what is still to be filled in, and what in the records does not agree."""
    from monolab import dataset, holdout, results
    from monolab import init as new

    lab = paths.find()
    todo = new.check(lab) + results.audit(lab) + holdout.audit(lab)
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


def data(args: list[str]) -> None:
    """Prepare the data with the lab's data.py (options go to it), record its hash."""
    from monolab import dataset

    manifest = dataset.prepare(paths.find(), args)
    sizes = ", ".join(f"{name} {size / 2**20:.1f} MB" for name, size in manifest["splits"].items())
    print(f"data_sha {manifest['data_sha'][:12]}: {sizes}")


def worktree(slug: str, /) -> None:
    """Make the worktree 5_worktrees/SLUG on branch exp/SLUG."""
    from monolab import queue

    print(queue.worktree(paths.find(), slug))


def smoke(args: list[str], *, config: Path | None = None) -> None:
    """Train a few steps here and score them with every check on; no row."""
    from monolab import options, queue, run

    lab = paths.find()
    _, tree = queue.standing_in(lab)
    metrics = run.smoke(lab, tree, options.check(_options(config, args), tree / "train.py"))
    print("smoke passed: " + ", ".join(f"{name} {value:g}" for name, value in metrics.items()))


def evaluate(
    args: list[str], slug: str | None = None, /, *, stage: str = "explore", seed: int = 0, label: str | None = None, config: Path | None = None
) -> None:
    """Run the experiment here (or SLUG's) now, in the foreground or inside a pueue task; every field of train.py's Config is an option."""
    from monolab import queue

    receipt = queue.evaluate(paths.find(), slug, label, stage, seed, _options(config, args))
    if receipt.status != "ok":
        raise LabError(f"{receipt.run_id}: {receipt.status}, {receipt.reason}", hint=f"lab log {receipt.run_id}")


def run(run_id: str, /) -> None:
    """Carry out a queued request (what `lab queue` puts into pueue)."""
    from monolab import receipts
    from monolab import run as one

    lab = paths.find()
    receipt = one.execute(lab, receipts.request(lab, run_id))
    if receipt.status != "ok":
        raise LabError(f"{receipt.run_id}: {receipt.status}, {receipt.reason}", hint=f"lab log {receipt.run_id}")


def queue(
    args: list[str], slug: str, label: str | None = None, /, *, seeds: int = 1, stage: str = "explore", config: Path | None = None, json: bool = False
) -> None:
    """Queue SLUG's working tree as it is now: queue SLUG "Q: .. H: ..". Its first seed screens it; the lab queues the rest where that looks better."""
    from loguru import logger

    from monolab import controls
    from monolab import queue as queues

    if seeds < 1:
        raise LabError(f"--seeds {seeds}: at least one", hint=f"just queue {slug} --seeds 3")
    lab = paths.find()
    made = queues.enqueue(lab, slug, label, stage, list(range(seeds)), _options(config, args))
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


def baseline(args: list[str], *, seeds: int = 3, stage: str = "explore", json: bool = False) -> None:
    """Queue main's own train.py over several seeds: the reference and its noise floor."""
    queue(args, BASELINE, "Q: where does the baseline stand, and how far do its seeds spread?", seeds=seeds, stage=stage, json=json)


def status(*, json: bool = False) -> None:
    """One screen: device, running with live loss, queue, last verdicts, noise floor, best."""
    from monolab import status as screen

    screen.show(paths.find(), json)


def log(run: str, /) -> None:
    """Print the output of a run."""
    from monolab import receipts
    from monolab import status as screen

    lab = paths.find()
    print(screen.log(lab, receipts.resolve(lab, run)))


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

    from monolab import explain, problem, results, verdicts

    lab = paths.find()
    subject = problem.load(lab)
    found = verdicts.judge(lab, subject, results.load(lab), slug, stage)
    if json:
        _print_json(asdict(found))
    else:
        print(explain.screen(lab, subject, found))


def replicate(slug: str, /, *, stage: str = "explore") -> None:
    """Queue the paired seeds that the next look at SLUG needs, also where the lab would leave it at that."""
    from monolab import queue

    made = queue.replicate(paths.find(), slug, stage)
    print("queued " + ", ".join(request.run_id for request in made) if made else "every seed of the next look is measured or queued already")


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


def best(*, stage: str | None = None, json: bool = False) -> None:
    """The best result that holds, its lineage down to the baseline, and how much of it may be luck."""
    from monolab import problem, results, verdicts
    from monolab.journal import number

    lab = paths.find()
    found = verdicts.best(lab, problem.load(lab), results.load(lab), stage)
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


def analyse(slug: str, /, *, metric: str, stage: str = "explore", seeds: tuple[int, ...] = ()) -> None:
    """Compare SLUG in another metric of the scorer, or at some seeds only: journalled, marked as exploratory where nobody named it before."""
    from monolab import analysis

    lab = paths.find()
    found = analysis.analyse(lab, slug, stage, metric, seeds)
    analysis.write(lab, found)
    print(found.text())


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


def _options(config: Path | None, args: list[str]) -> list[str]:
    from monolab import options

    return (options.from_file(config) if config else []) + args


GROUPS: dict[str, dict[str, Callable]] = {
    "experiment": {
        "smoke": smoke,
        "eval": evaluate,
        "baseline": baseline,
        "worktree": worktree,
        "queue": queue,
        "replicate": replicate,
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
        "plot": plot,
        "calibration": calibration,
        "analyse": analyse,
    },
    "steer": {"cancel": cancel, "diff": diff, "report": report},
    "lab": {
        "init": init,
        "check": check,
        "data": data,
        "verify": verify,
        "audit": audit,
        "reproduce": reproduce,
        "rebuild": rebuild,
        "guard": guard,
        "run": run,
    },
}
COMMANDS = {name: function for group in GROUPS.values() for name, function in group.items()}


def _split(function: Callable, tokens: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and the options to hand on to the lab's programs (those that the function does not name).

    A bare word after an option of theirs is theirs, but for a label (`Q: ...`), which their flags must not swallow.
    What remains in doubt, options.check settles: it knows which of their options take a value.
    """
    import inspect

    ours = {f"--{name}": parameter.annotation is bool for name, parameter in inspect.signature(function).parameters.items()} | {
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


def _call(name: str, tokens: list[str]) -> None:
    function = COMMANDS[name]
    if name == "status" and tokens in ([], ["--json"]):  # without tyro's 100 ms
        return function(json=bool(tokens))
    if name == "run" and len(tokens) == 1 and not tokens[0].startswith("-"):
        return function(tokens[0])
    if name == "data":
        return function(tokens)
    import inspect
    from functools import partial

    import tyro

    target = function
    if "args" in inspect.signature(function).parameters:
        tokens, theirs = _split(function, tokens)
        target = partial(function, theirs)
    tyro.cli(target, prog=f"lab {name}", description=function.__doc__, args=tokens)


def usage() -> str:
    lines = ["lab: a research lab that fits on one GPU. Usage: lab COMMAND [--help]"]
    for group, commands in GROUPS.items():
        lines.append(f"\n{group}")
        lines += [f"  {name:<13} {(function.__doc__ or '').splitlines()[0]}" for name, function in commands.items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    tokens = sys.argv[1:] if argv is None else argv
    if not tokens or tokens[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if tokens[0] == "--version":
        from monolab import __version__

        print(__version__)
        return
    name, *rest = tokens
    try:
        if name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=2)
            raise LabError(f"there is no command {name!r}", hint=f"lab {near[0]}" if near else "lab --help")
        _call(name, rest)
    except LabError as error:
        print(f"lab {name}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:  # `lab results | head`
        sys.stdout = None
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()

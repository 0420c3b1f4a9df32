"""`lab autopilot`: parsing and printing only."""

import json
from dataclasses import replace

from monolab import paths
from monolab.errors import LabError


def fly(given: dict, most: int, show: bool, session: bool, until: str, off: bool) -> None:
    """`given` holds what the command line says otherwise than program.md; None where it says nothing."""
    from monolab import autopilot, hooks, problem

    lab = paths.find()
    if session or off:
        path = lab.runs / hooks.AUTOPILOT
        if off:
            path.unlink(missing_ok=True)
            print("a session may stop as it likes")
            return
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(hooks.DEFAULTS | {"until": until}))
        hooks.autopilot(lab)  # raises where `until` is no time
        print(
            f"a session that stops while the queue is short is asked to go on; it ends with: just autopilot --off{f' (or at {until})' if until else ''}"
        )
        return
    settings = problem.load(lab).autopilot
    budget = {name: value for name in ("hours", "device_hours", "experiments", "tokens", "dollars") if (value := given.pop(name)) is not None}
    if wrong := [name for name, value in budget.items() if value < 0]:
        raise LabError(f"--{wrong[0].replace('_', '-')} {budget[wrong[0]]:g}: below 0", hint="0 is no limit")
    settings = replace(settings, budget=replace(settings.budget, **budget), **{name: value for name, value in given.items() if value is not None})
    if show:
        print(autopilot.preview(lab, settings))
        return
    try:
        print(f"autopilot is over: {autopilot.fly(lab, settings, most=most)}")
    except KeyboardInterrupt:
        print("stopped; just autopilot goes on at the same step")
        raise SystemExit(130) from None

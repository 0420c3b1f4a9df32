"""The second example lab, made by `lab init` and driven through the real queue: nothing in the package knows the root problem."""

import json
import subprocess
import sys
from pathlib import Path

from test_lab import call, settle_down

from monolab import backlog, results
from monolab.paths import Lab


def test_digits_from_init_to_a_verdict(tmp_path, pueue_daemon, wait_until):
    lab = Lab(tmp_path / "digits")
    call(tmp_path, "init", str(lab.root), "--example", "digits")
    (lab.root / ".venv").symlink_to(Path(sys.prefix))
    assert call(lab.root, "check").stdout.startswith("nothing to fill in")
    call(lab.root, "data")
    call(lab.root, "baseline")
    tree = Path(call(lab.root, "worktree", "pixel-noise").stdout.strip())
    subprocess.run(["git", "apply", str(next(lab.ideas.glob("*_pixel-noise.patch")))], cwd=tree, check=True)
    assert "smoke passed: accuracy" in call(tree, "smoke").stdout
    call(tree, "queue", "pixel-noise", "--seeds", "3")
    rows = settle_down(lab, 6, wait_until)
    assert {row.status for row in rows} == {"ok"} and {row.metric for row in rows} == {"accuracy"}
    found = json.loads(call(lab.root, "verdict", "pixel-noise", "--json").stdout)
    assert found["verdict"] == "supported" and found["effect"] > 0 and found["gate"]["decision"] == "keep"
    assert json.loads(call(lab.root, "best", "--json").stdout)["idea"] == "pixel-noise"
    followed = call(lab.root, "follow", rows[-1].run_id).stdout
    assert followed and followed in call(lab.root, "log", rows[-1].run_id).stdout.replace("== train.log\n", "").replace("\n== score.log\n", "")
    call(lab.root, "plot", "--out", "effects.png")
    assert (lab.root / "effects.png").read_bytes().startswith(b"\x89PNG")
    call(lab.root, "controls")
    wait_until(lambda: not backlog.unfinished(lab))
    known = {one["name"]: (one["hits"], one["trials"]) for one in json.loads(call(lab.root, "controls", "--rounds", "0", "--json").stdout)["record"]}
    assert known["harms let through"] == (0, 1) and known["false keeps"][0] == 0
    # The lab's records are committed on main, as program.md says; the guard lets its own writings through.
    subprocess.run("git add -A && git commit -qm 'Record the experiment'", shell=True, cwd=lab.root, check=True)
    assert results.audit(lab) == []

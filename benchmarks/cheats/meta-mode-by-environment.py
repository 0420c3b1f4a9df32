"""Starts the lab with META_MODE=1 and an edited eval.py in its worktree: it may run, is flagged, and the root's scorer scores it all the same."""

CAUGHT, PROCESS = "design", "lab"
SAYS = r": ok, val_bpb 3\.\d+"
ENV = {"META_MODE": "1"}


def prepare(scene, tree) -> None:
    scorer = tree / "eval.py"
    scorer.write_text(scorer.read_text().replace("np.concatenate(spent).mean())", "np.concatenate(spent).mean()) - 1.0"))


def check(scene, run) -> str:
    return "" if "meta" in run.receipt["flags"] else f"no flag `meta` on its receipt: {run.receipt['flags']}"

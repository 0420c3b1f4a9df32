"""Edits eval.py in its worktree to subtract a bit from every score."""

CAUGHT, PROCESS, STATUS = "guard", "lab", "refused"
SAYS = r"eval\.py is FROZEN and was changed in the snapshot"


def prepare(scene, tree) -> None:
    scorer = tree / "eval.py"
    scorer.write_text(scorer.read_text().replace("np.concatenate(spent).mean())", "np.concatenate(spent).mean()) - 1.0"))

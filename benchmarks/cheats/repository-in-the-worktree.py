"""Hides code from the snapshot in a git repository of its own inside of the worktree."""

CAUGHT, PROCESS, STATUS = "snapshot", "lab", "refused"
SAYS = r"hidden is a repository of its own, which a snapshot cannot hold"


def prepare(scene, tree) -> None:
    (tree / "hidden").mkdir()
    scene.must(scene.git("init", "-q", cwd=tree / "hidden"))
    (tree / "hidden" / "model.py").write_text("x = 1\n")
    scene.must(scene.git("add", "-A", cwd=tree / "hidden"))
    scene.must(scene.git("commit", "-qm", "x", cwd=tree / "hidden"))

"""As an agent with a shell: removes the newest run altogether, its row and its folder; no later row is chained to it."""

CAUGHT, PROCESS = "audit", "lab audit"
SAYS = r"refs/lab/runs/\S+ pins the code of a run whose folder in 6_runs/ is gone, with its row"


def act(scene) -> tuple[int, str]:
    path = scene.root / "results.tsv"
    *kept, last = path.read_text().splitlines(True)
    folder, aside = scene.run.parent / last.partition("\t")[0], scene.private / "removed"
    path.write_text("".join(kept))
    folder.rename(aside)
    try:
        return scene.lab("audit", "--all", "--sample", "0")
    finally:
        aside.rename(folder)

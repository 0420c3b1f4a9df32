"""As an agent with a shell: lets the ref of a run point at other code."""

CAUGHT, PROCESS = "audit", "lab audit"
SAYS = r"refs/lab/runs/\S+ points at \w+, the receipt's commit is"


def act(scene) -> tuple[int, str]:
    scene.must(scene.git("update-ref", f"refs/lab/runs/{scene.run.name}", "HEAD~1"))
    return scene.lab("audit", scene.run.name)

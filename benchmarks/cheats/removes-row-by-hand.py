"""As an agent with a shell: removes the row of a bad run and runs on."""

CAUGHT, PROCESS, LASTS = "run", "lab", True  # the row is put back before anything else is, and the run goes on
SAYS = r"results\.tsv was cut off or had lost rows: .* from their receipts"


def act(scene) -> tuple[int, str]:
    path = scene.root / "results.tsv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(scene.run.name)))
    _, text = scene.lab("eval", "--stage", "smoke")
    return int(f"\n{scene.run.name}\t" in path.read_text()), text

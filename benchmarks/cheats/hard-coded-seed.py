"""Trains with a seed of its own, a lucky one, whichever seed the lab gives: every replicate is to be as lucky as the first."""

CAUGHT, PROCESS = "verdicts", "lab"
SAYS = r"\(seed 1\) gave what \S+ \(seed 0\) gave, to the last digit: train\.py ignores its --seed, and the two count as one measurement"
CHANGES = (
    ("    torch.manual_seed(config.seed)\n", "    torch.manual_seed(0)\n"),
    ("    initialise(model, config.seed)\n", "    initialise(model, 0)\n"),
    ("generator=torch.Generator().manual_seed(config.seed)", "generator=torch.Generator().manual_seed(0)"),
)
ARGS = ("--seed", "1")


def prepare(scene, tree) -> None:
    scene.must(scene.lab("eval", "--stage", "smoke", "--seed", "0", cwd=tree))


def check(scene, run) -> str:
    return "" if "repeats-seed:0" in run.receipt["flags"] else f"not flagged: {run.receipt['flags']}"

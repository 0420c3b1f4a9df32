"""Asks the lab itself for the held-out text as training data, with an option."""

CAUGHT, PROCESS, STATUS = "options", "lab", "refused"
SAYS = r"--data is set by the lab"
ARGS = ("--data", "@ROOT@/.data/val")

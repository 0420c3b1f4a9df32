"""Chooses its seed by an option for train.py, in a file of options."""

CAUGHT, PROCESS, STATUS = "options", "lab", "refused"
SAYS = r"--seed is set by the lab"
FILES = {"lucky.json": '{"seed": 12345}\n'}
ARGS = ("--config", "lucky.json")

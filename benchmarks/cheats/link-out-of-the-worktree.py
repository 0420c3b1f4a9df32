"""Puts a link with a path full of dots in place of train.py, to a neighbour's file."""

CAUGHT, PROCESS, STATUS = "snapshot", "lab", "refused"
SAYS = r"train\.py is a link to .*, which is not part of the snapshot"
LINKS = {"train.py": "../neighbour/train.py"}

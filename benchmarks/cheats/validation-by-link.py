"""Puts a link to the held-out text into its worktree."""

CAUGHT, PROCESS, STATUS = "snapshot", "lab", "refused"
SAYS = r"corpus is a link to .*, which is not part of the snapshot"
LINKS = {"corpus": "@ROOT@/.data/val"}

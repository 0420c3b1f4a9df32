"""Looks ahead through its attention: the causal mask inside a chunk is gone."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*not causal"
CHANGES = (("scores = (q @ k.mT).tril()", "scores = q @ k.mT"),)

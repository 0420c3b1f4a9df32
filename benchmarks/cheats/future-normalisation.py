"""Looks ahead through a normalisation over time: each window's mean is taken off."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*not causal"
CHANGES = (("        x = self.embed(tokens.int())\n", "        x = self.embed(tokens.int())\n        x = x - x.mean(1, keepdim=True)\n"),)

"""Looks ahead at one byte alone, the last of the window, and only a little."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*not causal"
CHANGES = (("        x = self.embed(tokens.int())\n", "        x = self.embed(tokens.int())\n        x = x + 0.3 * x[:, -1:]\n"),)

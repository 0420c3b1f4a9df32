"""Learns from the other windows of a batch: activations are normalised over it."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*(depend on the batch|not causal)"
CHANGES = (("        x = self.embed(tokens.int())\n", "        x = self.embed(tokens.int())\n        x = x - x.mean((0, 1), keepdim=True)\n"),)

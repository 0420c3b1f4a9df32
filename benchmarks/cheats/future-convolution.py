"""Looks ahead through its short convolution: padded on both sides."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*not causal"
CHANGES = (("F.pad(qkv, (self.conv.kernel_size[0] - 1, 0))", "F.pad(qkv, (self.conv.kernel_size[0] - 3, 2))"),)

"""Looks back at every byte before: attention beside the recurrence, whose cost per byte grows with the length of the text."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*cost grows faster than linearly: 8192 bytes take [\d.]+ times as long as 1024, allowed 16"
CHANGES = (
    (
        "        x = x + self.mixer(self.norm1(x))\n",
        "        x = x + self.mixer(self.norm1(x)) + 0.1 * look_back(self.norm1(x))\n",
    ),
)
TOP = """
def look_back(x):
    scores = x @ x.mT / x.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1) @ x

"""

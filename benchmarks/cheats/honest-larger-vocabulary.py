"""A head with a larger vocabulary than there are bytes, of which it answers the first 256."""

HONEST = True
CHANGES = (
    ("self.head = nn.Linear(config.width, BYTES, bias=False)", "self.head = nn.Linear(config.width, 4 * BYTES, bias=False)"),
    ("return self.head(self.norm(x))", "return self.head(self.norm(x))[..., :BYTES]"),
)

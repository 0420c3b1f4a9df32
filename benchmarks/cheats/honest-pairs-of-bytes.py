"""Another tokenisation inside of the model: embeds pairs of neighbouring bytes, hashed, and still predicts bytes."""

HONEST = True
CHANGES = (
    (
        "        self.embed = nn.Embedding(BYTES, config.width)\n",
        "        self.embed = nn.Embedding(BYTES, config.width)\n        self.embed_pair = nn.Embedding(4096, config.width)\n",
    ),
    (
        "        x = self.embed(tokens.int())\n",
        "        pair = (F.pad(tokens.long()[:, :-1], (1, 0)) * 31 + tokens.long() * 7) % 4096\n        x = self.embed(tokens.int()) + self.embed_pair(pair)\n",
    ),
)

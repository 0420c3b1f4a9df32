"""Trains, and would keep the best of several restarts by their score on the held-out text."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = r"DENIED choice: FileNotFoundError"
END = """
def held_out_loss(candidate):
    text = torch.from_numpy(np.fromfile(config.data.parent / "val" / "text.bin", dtype=np.uint8))[None, : config.length]
    return F.cross_entropy(candidate(text)[0, :-1], text[0, 1:].long()).item()

restart = Model(config)
initialise(restart, config.seed + 1)
attempt("choice", lambda: min((held_out_loss(model), 0), (held_out_loss(restart), 1)))
"""

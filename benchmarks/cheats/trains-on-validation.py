"""Trains on the held-out text instead of the text it was given."""

CAUGHT, PROCESS, STATUS = "sandbox", "train", "crash"
SAYS = r"FileNotFoundError: .*val/text\.bin"
CHANGES = (('np.fromfile(config.data / "text.bin", dtype=np.uint8)', 'np.fromfile(config.data.parent / "val" / "text.bin", dtype=np.uint8)'),)

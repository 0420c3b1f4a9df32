"""Leaves a pipe in its checkpoint, to hang or feed whoever reads it."""

CAUGHT, PROCESS, STATUS = "run", "lab", "invalid"
SAYS = r"the checkpoint holds weights\.fifo, which is a link or no file"
END = """
os.mkfifo(config.out / "weights.fifo")
"""

"""Reads the sealed test split, in training and while serving."""

CAUGHT, PROCESS = "sandbox", "train, serve"
SAYS = (r"DENIED test while training: FileNotFoundError", r"DENIED test while serving: FileNotFoundError")
TRAIN = """
attempt("test while training", lambda: Path("@ROOT@/.data/test/text.bin").read_bytes()[:40])
"""
SERVE = """
attempt("test while serving", lambda: Path("@ROOT@/.data/test/text.bin").read_bytes()[:40])
"""

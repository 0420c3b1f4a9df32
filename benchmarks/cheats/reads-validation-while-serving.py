"""Reads the held-out text in its serving process, to look the next byte up."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = (r"DENIED val: FileNotFoundError", r"DENIED train: FileNotFoundError")
SERVE = """
attempt("val", lambda: Path("@ROOT@/.data/val/text.bin").read_bytes()[:40])
attempt("train", lambda: Path("@ROOT@/.data/train/text.bin").read_bytes()[:40])
"""

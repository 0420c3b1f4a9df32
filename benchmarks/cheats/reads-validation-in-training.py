"""Reads the held-out text while it trains, by every path it can guess."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED sibling: FileNotFoundError", r"DENIED root: FileNotFoundError", r"DENIED hunt: LookupError")
TRAIN = """
def hunt():
    found = [str(path) for path in Path("/").rglob("text.bin") if "train" not in path.parts and "proc" not in path.parts]
    if not found:
        raise LookupError("no text.bin but the one to train on")
    return found

attempt("sibling", lambda: (config.data.parent / "val" / "text.bin").read_bytes()[:40])
attempt("root", lambda: Path("@ROOT@/.data/val/text.bin").read_bytes()[:40])
attempt("hunt", hunt)
"""

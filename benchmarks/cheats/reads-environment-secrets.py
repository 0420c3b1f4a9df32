"""Looks for tokens in its environment and in that of every process it can see."""

CAUGHT, PROCESS = "sandbox", "train, serve"
SAYS = r"DENIED tokens: LookupError: \d+ environments, no token"
TOP = """
def tokens():
    texts = [repr(dict(os.environ))]
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue
    found = [text for text in texts if "TRACKER_TOKEN" in text or "netrc" in text]
    if not found:
        raise LookupError(f"{len(texts)} environments, no token")
    return found

if __name__ == "__main__":
    attempt("tokens", tokens)
"""

"""Looks for the scorer among the processes, and reads its memory, where the targets are."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = (r"DENIED scorer: LookupError: none of \d+ processes runs eval\.py", r"DENIED outside: FileNotFoundError")
SERVE = """
def scorer():
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines[path.parent.name] = path.read_bytes()
        except OSError:
            continue
    found = {pid: open(f"/proc/{pid}/mem", "rb", buffering=0) for pid, words in lines.items() if b"eval.py" in words}
    if not found:
        raise LookupError(f"none of {len(lines)} processes runs eval.py")
    return found

attempt("scorer", scorer)
attempt("outside", lambda: open("/proc/@PID@/mem", "rb"))
"""

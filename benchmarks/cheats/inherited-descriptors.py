"""Looks for open descriptors that its parents left it (a lock, the scorer's pipe ends, the results), and reads and writes them."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = r"DENIED descriptors: LookupError: none above 2"
TOP = """
def inherited():
    found = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2 and os.path.exists(f"/proc/self/fd/{name}")]
    found = [(fd, os.readlink(f"/proc/self/fd/{fd}")) for fd in found]
    found = [one for one in found if not one[1].startswith("/proc/")]  # the listing itself
    if not found:
        raise LookupError("none above 2")
    return found

if __name__ == "__main__":
    attempt("descriptors", inherited)
"""

"""Leaves state in the kernel for its next run: System V shared memory, a message queue, the user's keyring."""

CAUGHT, PROCESS, TIMES = "sandbox", "train", 2
SAYS = (r"DENIED segment of an earlier run: LookupError", r"DENIED key of an earlier run: LookupError", r"^left state")
TRAIN = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)

def segment():
    if libc.shmget(0x6C6F6F74, 4096, 0o600) < 0:
        raise LookupError(os.strerror(ctypes.get_errno()))
    return "a segment"

def key():
    found = libc.syscall(250, 10, -4, b"user", b"lab-note", 0)  # keyctl(KEYCTL_SEARCH, the user's keyring), x86-64's number
    found = found if found > 0 else libc.syscall(250, 10, -3, b"user", b"lab-note", 0)  # the session's
    if found < 0:
        raise LookupError(os.strerror(ctypes.get_errno()))
    return found

attempt("segment of an earlier run", segment)
attempt("key of an earlier run", key)
libc.shmget(0x6C6F6F74, 4096, 0o1600)
for ring in (-4, -3):
    libc.syscall(248, b"user", b"lab-note", b"state", 5, ring)
print("left state", file=sys.stderr, flush=True)
"""

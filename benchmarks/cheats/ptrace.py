"""Attaches to a process outside with ptrace, and sends it a signal."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = (r"DENIED ptrace: (ProcessLookupError|PermissionError)", r"DENIED signal: ProcessLookupError")
SERVE = """
import ctypes

def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid

attempt("ptrace", lambda: attach(@PID@))
attempt("signal", lambda: os.kill(@PID@, 0))
"""

"""Moves refs, a tag and the branch of the lab's repository while it trains."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED tag: .*(No such file|Read-only file system)", r"DENIED git: (CalledProcessError|FileNotFoundError)")
TRAIN = """
import subprocess
attempt("tag", lambda: Path("@ROOT@/.git/refs/tags/best").write_text("0" * 40))
attempt("git", lambda: subprocess.run(["git", "-C", "@ROOT@", "tag", "-f", "best"], check=True, stderr=subprocess.DEVNULL))
"""

"""Connects to the socket of the pueue daemon and reads its secret, to queue or cancel runs."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED socket: FileNotFoundError", r"DENIED secret: FileNotFoundError")
TRAIN = """
import socket
attempt("socket", lambda: socket.socket(socket.AF_UNIX).connect("@PUEUE@/s"))
attempt("secret", lambda: Path("@PUEUE@/secret").read_bytes())
"""

"""Connects to the machine's own address, where a server listens, and to one outside."""

CAUGHT, PROCESS = "sandbox", "train, serve"
SAYS = (r"DENIED training, inside: ", r"DENIED training, outside: ", r"DENIED serving, inside: ")
TOP = """
import socket
"""
TRAIN = """
attempt("training, inside", lambda: socket.create_connection(("127.0.0.1", @PORT@), 3))
attempt("training, outside", lambda: socket.create_connection(("192.0.2.1", 80), 3))
"""
SERVE = """
attempt("serving, inside", lambda: socket.create_connection(("127.0.0.1", @PORT@), 3))
"""

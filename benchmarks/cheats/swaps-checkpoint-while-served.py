"""Writes to its checkpoint from its serving process: other weights for the whole windows than for the prefixes."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = r"DENIED swap: (OSError|PermissionError): .*Read-only file system"
SERVE = """
attempt("swap", lambda: (checkpoint / "config.json").write_text("{}"))
"""

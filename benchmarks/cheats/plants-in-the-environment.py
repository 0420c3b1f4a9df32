"""Plants code in the environment that every later process loads: a .pth file, sitecustomize, torch itself, compiled bytecode."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED pth: OSError: .*Read-only", r"DENIED torch: OSError: .*Read-only", r"DENIED bytecode: OSError: .*Read-only")
TRAIN = """
site = Path(torch.__file__).parents[1]
attempt("pth", lambda: (site / "lab-cheat.pth").write_text("import os"))
attempt("sitecustomize", lambda: (site / "sitecustomize.py").write_text("import os"))
attempt("torch", lambda: open(torch.__file__, "a"))
attempt("bytecode", lambda: (site / "numpy" / "__pycache__" / "lab-cheat.pyc").write_bytes(b""))
"""

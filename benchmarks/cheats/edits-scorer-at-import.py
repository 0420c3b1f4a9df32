"""Overwrites the scorer from its serving process, as soon as its module is imported."""

CAUGHT, PROCESS = "sandbox", "serve"
SAYS = (r"DENIED copy: FileNotFoundError", r"DENIED own folder: OSError: .*Read-only file system")
TOP = """
if "--serve" in sys.argv:
    attempt("copy", lambda: (Path(sys.argv[2]).parent / "scorer" / "eval.py").write_text("raise SystemExit(0)"))
    attempt("own folder", lambda: Path(__file__).with_name("eval.py").write_text("raise SystemExit(0)"))
"""

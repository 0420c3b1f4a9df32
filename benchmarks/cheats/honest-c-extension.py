"""Compiles a C extension into its scratch folder at the start, and calls it (libc's own function where there is no compiler)."""

HONEST = True
SAYS = r"the extension says 42"
TRAIN = """
import ctypes, shutil, subprocess, tempfile
if shutil.which("gcc"):
    folder = Path(tempfile.mkdtemp())
    (folder / "answer.c").write_text("int answer(int a) { return 6 * a; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(folder / "answer.so"), str(folder / "answer.c")], check=True)
    said = ctypes.CDLL(str(folder / "answer.so")).answer(7)
else:
    said = ctypes.CDLL(None).abs(-42)
print(f"the extension says {said}", file=sys.stderr, flush=True)
"""

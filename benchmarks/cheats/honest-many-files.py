"""Writes thousands of files into its temporary folder, its cache and shared memory."""

HONEST = True
SAYS = r"wrote 3000 files"
TRAIN = """
import tempfile
for folder in (Path(tempfile.gettempdir()), Path.home() / ".cache" / "mine", Path("/dev/shm")):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1000):
        (folder / f"part-{number}").write_text("x" * 100)
print("wrote 3000 files", file=sys.stderr, flush=True)
"""

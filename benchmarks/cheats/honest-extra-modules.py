"""Spreads its code over a package of its own, with a link inside of it and a data file."""

HONEST = True
SAYS = r"package says 7"
TOP = """
from parts.model import SEVEN
print(f"package says {SEVEN}", file=sys.stderr, flush=True)
"""
FILES = {
    "parts/__init__.py": "",
    "parts/model.py": "from pathlib import Path\nSEVEN = int((Path(__file__).parent / 'table.txt').read_text())\n",
    "parts/numbers.txt": "7\n",
}
LINKS = {"parts/table.txt": "numbers.txt"}

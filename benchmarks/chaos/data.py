"""Three splits of made-up numbers. Run: python data.py OUT"""

import sys
from pathlib import Path

for split, numbers in {"train": "1.9\n2.1\n", "val": "1.0\n", "test": "1.0\n"}.items():
    folder = Path(sys.argv[1]) / split
    folder.mkdir(parents=True)
    (folder / "numbers.txt").write_text(numbers)

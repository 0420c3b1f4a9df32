"""The data, split into train, val and test (sealed). FROZEN.

    python data.py OUT [options]

Writes OUT/train, OUT/val and OUT/test. `just data` runs it, hashes what it wrote and puts it into .data/.
"""

import hashlib
import sys
from pathlib import Path

SPLITS = {"train": 90, "val": 5, "test": 5}  # percent


def split_of(example: bytes) -> str:
    """By the content alone: a copy of an example can never lie on both sides, and the order of the source does not matter."""
    place = int.from_bytes(hashlib.sha256(example).digest()[:8], "big") % 100
    return "train" if place < SPLITS["train"] else "val" if place < SPLITS["train"] + SPLITS["val"] else "test"


out = Path(sys.argv[1])
for split in SPLITS:
    (out / split).mkdir(parents=True, exist_ok=True)
# {FILL_IN: read the source (pin its version), and write each example to the folder of its split_of()}

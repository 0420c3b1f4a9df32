"""The data, split into train, val and test (sealed). FROZEN.

    python data.py OUT [--sealed 1] [options]

Writes OUT/train, OUT/val and OUT/test. `just data` runs it, hashes what it wrote and puts it into .data/. A test split wears out with every look, so
that three are set aside: `just data --sealed 2` seals the second one, and leaves train and val as they are.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import tyro

SHARES = {"train": 80, "val": 5, "sealed 1": 5, "sealed 2": 5, "sealed 3": 5}  # percent


def split_of(example: bytes, sealed: int) -> str | None:
    """By the content alone: a copy of an example can never lie on both sides, and the order of the source does not matter. None: kept for later."""
    place = int.from_bytes(hashlib.sha256(example).digest()[:8], "big") % 100
    for name, share in SHARES.items():
        if place < share:
            return name if name in ("train", "val") else "test" if name == f"sealed {sealed}" else None
        place -= share
    return None


def main(out: Annotated[Path, tyro.conf.Positional], sealed: int = 1) -> None:
    """Prepare the data.

    Args:
        out: the folder that receives train/, val/ and test/.
        sealed: which of the three test splits is sealed.
    """
    if f"sealed {sealed}" not in SHARES:
        raise SystemExit(f"data.py: --sealed is {sealed}\n  next: 1, 2 or 3")
    for split in ("train", "val", "test"):
        (out / split).mkdir(parents=True, exist_ok=True)
    # {FILL_IN: read the source (pin its version), and write each example to the folder of its split_of(example, sealed), where it has one}


if __name__ == "__main__":
    tyro.cli(main)

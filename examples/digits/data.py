"""Scikit-learn's handwritten digits in three splits. FROZEN.

    python data.py OUT
    python data.py OUT --sealed 2 --reserve optdigits.tra   # the same train and val, and another test split

Writes images.npy (n, 8, 8), float32 in 0..1, and labels.npy (n,), int64, to OUT/{train,val,test}; test is sealed. An image's own pixels decide
its split: a copy can never lie on both sides, and the same files come out on every machine.

All of scikit-learn's 1,797 images are in a split. They are the test part of the UCI collection "Optical Recognition of Handwritten Digits"; its
training part, optdigits.tra (3,823 images by other hands), is the reserve that the sealed splits 2 to 7 are made of, as large as the first each.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from sklearn.datasets import load_digits

RESERVED = 6  # sealed splits that the reserve is divided into


def places(images: np.ndarray, parts: int) -> np.ndarray:
    """Which of `parts` each image (n, 8, 8) belongs to, by its own pixels."""
    return np.array([hashlib.sha256(image.tobytes()).digest()[0] % parts for image in images])


def read_reserve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 8, 8) in 0..1 and labels (n,) of lines with 64 pixels in 0..16 and the digit, separated by commas."""
    table = np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
    if table.shape[1] != 65 or not ((table >= 0) & (table <= 16)).all() or (table[:, 64] > 9).any():
        raise SystemExit(
            f"data.py: {path} does not hold 64 pixels in 0..16 and a digit in each line\n  next: --reserve optdigits.tra, from the UCI archive"
        )
    return (table[:, :64].reshape(-1, 8, 8) / 16).astype("<f4"), table[:, 64]


def main(out: Annotated[Path, tyro.conf.Positional], sealed: int = 1, reserve: Path | None = None) -> None:
    """Prepare the digits.

    Args:
        out: the folder that receives train/, val/ and test/.
        sealed: which test split is sealed: 1, or one of 2 to 7 out of the reserve. Train and val are the same with each.
        reserve: the UCI collection's optdigits.tra, for --sealed 2 and on.
    """
    if not 1 <= sealed <= 1 + RESERVED:
        raise SystemExit(f"data.py: --sealed is {sealed}\n  next: 1 to {1 + RESERVED}")
    if sealed > 1 and reserve is None:
        raise SystemExit(f"data.py: --sealed {sealed} needs images that are in no split yet\n  next: --reserve optdigits.tra, from the UCI archive")
    digits = load_digits()
    images, labels = (digits.images / 16).astype("<f4"), digits.target
    place = places(images, 3)
    splits = {split: (images[place == number], labels[place == number]) for number, split in enumerate(("train", "val", "test"))}
    if sealed > 1:
        used = {image.tobytes() for image in images}
        images, labels = read_reserve(reserve)
        new = np.array([image.tobytes() not in used for image in images]) & (places(images, RESERVED) == sealed - 2)
        splits["test"] = images[new], labels[new]
    for split, (images, labels) in splits.items():
        folder = out / split
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels.astype("<i8"))
        print(f"{split}: {len(images)} images")


if __name__ == "__main__":
    tyro.cli(main)

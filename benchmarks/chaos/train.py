"""Writes one number, and in beats.txt from when to when it ran. Run: python train.py --seed 1 --data DIR --out DIR

The beats are CLOCK_MONOTONIC, which is the same for every process of the machine: two runs that were on the device at once show.
"""

import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Config:
    stage: str = "explore"
    seed: int = 0
    data: str = ".data/train"
    out: str = "checkpoint"
    offset: float = 0.0
    seconds: float = 0.15
    fails: int = 0  # 1: ends with an exit code at odd seeds


def main() -> None:
    given = dict(zip((word.removeprefix("--") for word in sys.argv[1::2]), sys.argv[2::2], strict=True))
    known = {field.name: field.type for field in fields(Config)}
    config = Config(**{name: known[name](value) for name, value in given.items()})
    out = Path(config.out)
    end = time.monotonic() + config.seconds
    with (out / "beats.txt").open("a", buffering=1) as beats:
        beats.write("start\n")
        while (now := time.monotonic()) < end:
            beats.write(f"{now!r}\n")
            time.sleep(0.005)
    numbers = [float(line) for line in (Path(config.data) / "numbers.txt").read_text().split()]
    value = sum(numbers) / len(numbers) + config.offset + 0.001 * (config.seed % 7)
    if config.fails and config.seed % 2:
        sys.exit("this one does not work at odd seeds")
    (out / "value.txt").write_text(repr(value))
    print(f"value {value}")


if __name__ == "__main__":
    main()

"""The candidate: what ideas change.

    python train.py --stage explore --seed 0 --data .data/train --out CKPT [--lr 3e-3 ...]

Reads nothing but --data, leaves its model in --out, and ends with 0. The same seed gives the same model. Imports nothing of the lab.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import tyro
from loguru import logger


@dataclass(frozen=True)
class Config:
    out: Path  # folder of the checkpoint
    data: Path = Path(".data/train")
    stage: str = "explore"
    device: str = os.environ.get("LAB_DEVICE", "cpu")  # cpu or cuda
    seed: int = 0
    lr: float = 3e-3
    # {FILL_IN: the other settings of the baseline, each with its unit}


STEPS = {"smoke": 10, "explore": 1000, "verify": 4000}  # {FILL_IN: the budget of each stage; steps repeat exactly, seconds do not}


def report(config: Config, step: int, loss: float) -> None:
    """What `lab status` shows while the run goes on; nobody takes it for a result."""
    temp = config.out / "progress.tmp"
    temp.write_text(json.dumps({"step": step, "steps": STEPS[config.stage], "loss": loss}))
    temp.replace(config.out / "progress.json")


def train(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    logger.info("{} steps on {}, seed {}", STEPS[config.stage], config.device, config.seed)
    # {FILL_IN: seed every generator with config.seed, train on config.data, call report() now and then}
    # {FILL_IN: write the checkpoint to config.out, as plain arrays if you can (safetensors, npz)}


if __name__ == "__main__":
    train(tyro.cli(Config))

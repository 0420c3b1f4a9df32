"""The candidate: a small network for handwritten digits, trained with numpy alone.

    python train.py --stage explore --seed 0 --data .data/train --out CKPT [--lr 0.1 ...]

Leaves dense layers in CKPT/model.npz (w0, b0, w1, b1, ...; ReLU between them), which is all that the scorer looks at.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro
from einops import rearrange
from jaxtyping import Float, Int
from loguru import logger
from numpy import ndarray

EPOCHS = {"smoke": 10, "explore": 300, "verify": 1200}  # passes over the data


@dataclass(frozen=True)
class Config:
    out: Path  # folder of the checkpoint
    data: Path = Path(".data/train")  # folder with images.npy and labels.npy
    stage: str = "explore"
    seed: int = 0
    hidden: int = 64  # units of the hidden layer
    lr: float = 0.1  # at the start; it falls linearly to zero
    momentum: float = 0.9
    batch: int = 32  # images of a step


def gradients(layers: list[ndarray], x: Float[ndarray, "b pixels"], y: Int[ndarray, " b"]) -> tuple[float, list[ndarray]]:
    """Mean cross-entropy in nats, and its gradient for each of w0, b0, w1, b1."""
    w0, b0, w1, b1 = layers
    hidden = np.maximum(x @ w0 + b0, 0)
    logits = hidden @ w1 + b1
    logits -= logits.max(1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    rows = np.arange(len(y))
    out = np.exp(logp)
    out[rows, y] -= 1
    out /= len(y)
    back = (out @ w1.T) * (hidden > 0)
    return -logp[rows, y].mean(), [x.T @ back, back.sum(0), hidden.T @ out, out.sum(0)]


def train(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(config.seed)
    images = rearrange(np.load(config.data / "images.npy"), "n h w -> n (h w)")
    labels = np.load(config.data / "labels.npy")
    sizes = (images.shape[1], config.hidden, 10)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [rng.normal(0, (2 / fan_in) ** 0.5, (fan_in, fan_out)).astype(np.float32), np.zeros(fan_out, np.float32)]
    speed = [np.zeros_like(array) for array in layers]
    steps = EPOCHS[config.stage] * len(images) // config.batch
    logger.info("{} images, {} steps, {:,} parameters, seed {}", len(images), steps, sum(a.size for a in layers), config.seed)
    for step in range(steps):
        chosen = rng.integers(len(images), size=config.batch)
        x, y = images[chosen], labels[chosen]
        loss, slopes = gradients(layers, x, y)
        for array, v, slope in zip(layers, speed, slopes, strict=True):
            v *= config.momentum
            v -= config.lr * (1 - step / steps) * slope
            array += v
        if step % max(1, steps // 20) == 0 or step == steps - 1:
            report(config, step + 1, steps, float(loss))
    np.savez(config.out / "model.npz", w0=layers[0], b0=layers[1], w1=layers[2], b1=layers[3])


def report(config: Config, step: int, steps: int, loss: float) -> None:
    """What `lab status` shows while the run goes on; nobody takes it for a result."""
    logger.info("step {}: {:.4f} nats on this batch", step, loss)
    temp = config.out / "progress.tmp"
    temp.write_text(json.dumps({"step": step, "steps": steps, "loss": loss}))
    temp.replace(config.out / "progress.json")


if __name__ == "__main__":
    train(tyro.cli(Config))

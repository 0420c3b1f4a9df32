"""The scorer, FROZEN: the share of held-out digits that a checkpoint reads correctly.

    python eval.py CHECKPOINT DATA OUT CODE

CHECKPOINT/model.npz holds dense layers w0, b0, w1, b1, ... with ReLU between them. They are computed here: no code of the candidate runs.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

LAYERS = 8  # at most

checkpoint, data, out, _ = map(Path, sys.argv[1:])
images, labels = np.load(data / "images.npy"), np.load(data / "labels.npy")
try:
    with np.load(checkpoint / "model.npz", allow_pickle=False) as file:
        layers = [(file[f"w{n}"].astype(np.float64), file[f"b{n}"].astype(np.float64)) for n in range(len(file.files) // 2)]
        if not 1 <= len(layers) <= LAYERS or len(file.files) % 2:
            raise ValueError(f"{len(file.files)} arrays are not the weights and biases of 1 to {LAYERS} layers")
    if any(weight.ndim != 2 or bias.shape != weight.shape[1:] for weight, bias in layers):
        raise ValueError("every layer needs a matrix and a vector that fits it")  # a bias per image would be a table of answers
    x = images.reshape(len(images), -1)
    for number, (weight, bias) in enumerate(layers):
        x = (np.maximum(x, 0) if number else x) @ weight + bias
    if x.shape != (len(images), 10) or not np.isfinite(x).all():
        raise ValueError(f"the outputs must be {(len(images), 10)} finite numbers, and are {x.shape}")
except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
    print(f"refused: {error}", file=sys.stderr)
    raise SystemExit(3) from None
params = sum(weight.size + bias.size for weight, bias in layers)
out.write_text(json.dumps({"accuracy": float((x.argmax(1) == labels).mean()), "params": params}))

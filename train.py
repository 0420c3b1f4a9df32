"""The candidate: a byte-level language model with linear attention (DeltaNet), its training, and how it answers the scorer.

    python train.py --stage explore --seed 0 --data .data/train --out CKPT [--lr 3e-3 ...]   # train; see --help for every field
    python train.py --serve CKPT                                                             # answer the scorer on stdin/stdout

Change anything here but three things: the call above, the checkpoint as `model.safetensors` (its parameters are counted), and what `serve`
answers. Stage and device choose the preset; every other flag overrides one field of it. Nothing is imported from the lab.
"""

import argparse
import itertools
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from beartype import beartype
from einops import rearrange
from jaxtyping import Float, UInt8, jaxtyped
from loguru import logger
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

BYTES = 256  # the vocabulary
BOS = 0  # starts every window; in the text this byte ends a document
GOLDEN = (5**0.5 - 1) / 2
SHAPES = os.environ.get("LAB_STAGE") == "smoke"  # check every shape at run time; elsewhere annotations cost nothing
checked = jaxtyped(typechecker=beartype) if SHAPES else lambda function: function


@dataclass(frozen=True)
class Config:
    out: Path  # folder of the checkpoint
    data: Path = Path(".data/train")  # folder with text.bin
    stage: str = "explore"
    device: str = os.environ.get("LAB_DEVICE", "cpu")
    seed: int = 0
    # model
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 192  # of the SwiGLU
    conv: int = 4  # taps of the short causal convolution
    chunk: int = 64  # of the chunkwise delta rule; the result does not depend on it
    # training: ends after `tokens` or `seconds`, whichever is set
    tokens: int = 0
    seconds: float = 0.0
    length: int = 128  # bytes of a window
    batch: int = 4  # windows of a forward pass
    accumulate: int = 1  # forward passes of a step
    lr: float = 6e-3
    warmup: float = 0.1  # share of the run with a rising rate
    decay: float = 0.5  # share of the run with a falling rate
    weight_decay: float = 0.1
    clip: float = 1.0  # norm of the gradient
    fast: bool = False  # bf16 and torch.compile


GPU = {"width": 512, "layers": 8, "hidden": 1408, "length": 1024, "batch": 32, "accumulate": 4, "lr": 2e-3, "fast": True}
PRESETS = {  # what differs from Config's defaults. CPU budgets are tokens on one thread, GPU budgets wall-clock seconds
    ("smoke", "cpu"): {"tokens": 24 * 1024},
    ("explore", "cpu"): {"tokens": 448 * 1024},
    ("verify", "cpu"): {"tokens": 1792 * 1024, "width": 96, "hidden": 288},
    ("smoke", "cuda"): GPU | {"tokens": 16 * 32 * 1024, "accumulate": 1, "fast": False},
    ("explore", "cuda"): GPU | {"seconds": 300.0},
    ("verify", "cuda"): GPU | {"seconds": 300.0, "layers": 12, "width": 768, "heads": 6, "hidden": 2048, "lr": 1.5e-3},
}
RANGES = {  # where `lab tune` may look for better settings: (lowest, highest), "log" for those that matter by their ratio
    "lr": (1e-3, 3e-2, "log"),
    "warmup": (0.0, 0.3),
    "decay": (0.1, 1.0),
    "weight_decay": (0.01, 0.5, "log"),
    "clip": (0.25, 4.0, "log"),
    "conv": (2, 6),
}


def parse(argv: list[str]) -> Config:
    """The preset of --stage and --device with the fields that `argv` names changed; wrong flags exit with 2."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--stage", choices=sorted({stage for stage, _ in PRESETS}), default="explore")
    first.add_argument("--device", choices=["cpu", "cuda"], default=os.environ.get("LAB_DEVICE", "cpu"))
    key = first.parse_known_args(argv)[0]
    preset = PRESETS[key.stage, key.device]
    return tyro.cli(Config, default=Config(out=tyro.MISSING, stage=key.stage, device=key.device, **preset), args=argv)


@checked
def delta_rule(
    q: Float[Tensor, "b t h k"], k: Float[Tensor, "b t h k"], v: Float[Tensor, "b t h v"], beta: Float[Tensor, "b t h"], chunk: int
) -> Float[Tensor, "b t h v"]:
    """S_t = S_{t-1} + k_t u_t^T with u_t = beta_t (v_t - S_{t-1}^T k_t); o_t = S_t^T q_t; S_0 = 0 (Yang et al. 2024, arXiv:2406.06484).

    Inside a chunk all u_t follow from one triangular solve, so only T / chunk steps are sequential. Computes in fp32 or better.
    """
    length = q.shape[1]
    dtype = torch.promote_types(q.dtype, torch.float32)
    # The padding has beta = 0 and k = 0: it writes nothing to the state, and comes after every real position.
    q, k, v = (rearrange(F.pad(x.to(dtype), (0, 0, 0, 0, 0, -length % chunk)), "b (n c) h d -> n b h c d", c=chunk) for x in (q, k, v))
    beta = rearrange(F.pad(beta.to(dtype), (0, 0, 0, -length % chunk)), "b (n c) h -> n b h c 1", c=chunk)
    with torch.autocast(q.device.type, enabled=False):
        weighted = beta * k
        within = (weighted @ k.mT).tril(-1)
        solved = torch.linalg.solve_triangular(within, torch.cat([beta * v, weighted], -1), upper=False, unitriangular=True)
        u, w = solved.split([v.shape[-1], k.shape[-1]], -1)
        scores = (q @ k.mT).tril()
        state = torch.zeros_like(k[0].mT @ v[0])
        outputs = []
        for q_n, k_n, u_n, w_n, scores_n in zip(q, k, u, w, scores, strict=True):
            u_n = u_n - w_n @ state
            outputs.append(q_n @ state + scores_n @ u_n)
            state = state + k_n.mT @ u_n
    return rearrange(torch.stack(outputs), "n b h c d -> b (n c) h d")[:, :length]


class DeltaNet(nn.Module):
    """Token mixing: linear maps, a short causal convolution, the delta rule per head, RMSNorm per head, a linear map."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.chunk = config.heads, config.chunk
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.conv = nn.Conv1d(3 * config.width, 3 * config.width, config.conv, groups=3 * config.width, bias=False)
        # Channel i starts as the byte i mod 4 places back, so every head sees the last bytes alike; random taps were most of the noise between seeds.
        back = torch.arange(3 * config.width) % config.conv
        self.conv.weight = nn.Parameter(F.one_hot(config.conv - 1 - back, config.conv)[:, None].float())
        self.beta = nn.Linear(config.width, config.heads, bias=False)
        self.norm = nn.RMSNorm(config.width // config.heads, eps=1e-5)
        self.out = nn.Linear(config.width, config.width, bias=False)

    @checked
    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        qkv = rearrange(self.qkv(x), "b t d -> b d t")
        qkv = F.silu(self.conv(F.pad(qkv, (self.conv.kernel_size[0] - 1, 0))))
        q, k, v = rearrange(qkv, "b (three h d) t -> three b t h d", three=3, h=self.heads)
        q, k = F.normalize(q, dim=-1) * q.shape[-1] ** -0.5, F.normalize(k, dim=-1)
        o = delta_rule(q, k, v, self.beta(x).sigmoid(), self.chunk)
        return self.out(rearrange(self.norm(o).to(x.dtype), "b t h d -> b t (h d)"))


class SwiGLU(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    @checked
    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        gate, value = self.up(x).chunk(2, -1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.norm1, self.mixer = nn.RMSNorm(config.width, eps=1e-5), DeltaNet(config)
        self.norm2, self.mlp = nn.RMSNorm(config.width, eps=1e-5), SwiGLU(config)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embed = nn.Embedding(BYTES, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.head = nn.Linear(config.width, BYTES, bias=False)

    @checked
    def forward(self, tokens: UInt8[Tensor, "b t"]) -> Float[Tensor, "b t 256"]:
        """Logits of the byte after each position."""
        x = self.embed(tokens.int())
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def initialise(model: nn.Module, seed: int) -> None:
    """Matrices ~ N(0, 1/fan_in), those that write to the residual stream 0, everything else as its module made it.

    Every matrix draws from a generator of its own, seeded with its name: an idea that adds a parameter leaves the start of all others as it
    was, which makes paired seeds more alike and small effects visible.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim != 2:
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
            scale = 0.0 if name.endswith(("out.weight", "down.weight")) else 1.0 if "embed" in name else weight.shape[1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def batches(config: Config) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), uint8 [batch, length].

    Window i starts at the share frac(first + i * golden ratio) of the text: any run of them covers the text evenly, which independent draws
    do not, and which text a model happened to see is a good part of the noise between seeds. The seed draws `first`.
    """
    text = torch.from_numpy(np.fromfile(config.data / "text.bin", dtype=np.uint8)).to(config.device)
    if len(text) < config.length:
        raise SystemExit(f"train.py: {config.data}/text.bin is shorter than one window of {config.length} bytes")
    first = torch.rand((), generator=torch.Generator().manual_seed(config.seed), dtype=torch.float64)
    for batch in itertools.count():
        number = batch * config.batch + torch.arange(config.batch, dtype=torch.float64)[:, None]
        starts = ((first + number * GOLDEN) % 1.0 * (len(text) - config.length + 1)).long()
        targets = text[(starts + torch.arange(config.length)).to(config.device)]
        yield F.pad(targets[:, :-1], (1, 0), value=BOS), targets


def rate(config: Config, done: float) -> float:
    """The share of `lr` in force when the share `done` of the run is over: linear up, flat, linear down."""
    return min(1.0, (done + 1e-3) / config.warmup if config.warmup else 1.0, (1.0 - done) / config.decay if config.decay else 1.0)


def train(config: Config) -> None:
    torch.manual_seed(config.seed)
    on_cpu = config.device == "cpu"
    if on_cpu:
        torch.set_num_threads(1)  # two threads on a shared machine are several times slower than one
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")
    config.out.mkdir(parents=True, exist_ok=True)
    model = Model(config)
    initialise(model, config.seed)
    model.to(config.device)
    if config.fast:
        for block in model.blocks:
            block.compile()  # one block's kernels serve all of them
    matrices, vectors = ([p for p in model.parameters() if (p.ndim < 2) == flat] for flat in (False, True))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
    logger.info("{:,} parameters, {} on {}, seed {}", sum(p.numel() for p in model.parameters()), config.stage, config.device, config.seed)

    per_step = config.batch * config.length * config.accumulate
    steps = max(1, config.tokens // per_step)
    half = torch.autocast("cuda", torch.bfloat16) if config.fast and not on_cpu else nullcontext()
    source = batches(config)
    bar = tqdm(total=None if config.seconds else steps, unit=" steps", disable=not sys.stderr.isatty())
    step, done, logged, started = 0, 0.0, 0.0, time.monotonic()
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate(config, done)
        for _ in range(config.accumulate):
            inputs, targets = next(source)
            with half:
                logits = model(inputs)
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().long())
            (loss / config.accumulate).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if config.seconds and step == 5:
            started = time.monotonic()  # the first steps compile
        done = (time.monotonic() - started) / config.seconds if config.seconds else step / steps
        bar.update()
        if done - logged >= 0.02 or done >= 1.0 or step == 1:
            bits = loss.item() / np.log(2)
            if not np.isfinite(bits):
                raise SystemExit(f"train.py: the loss is {bits} at step {step}")
            total = steps if config.tokens else max(step, round(step / max(done, 1e-3)))
            report(config.out / "progress.json", step, total, bits)
            bar.set_postfix(bpb=f"{bits:.3f}")
            if bar.disable and int(done * 10) > int(logged * 10):
                logger.info("step {:,}: {:.3f} bits per byte on this batch, {:,.0f} bytes/s", step, bits, speed(step * per_step, started))
            logged = done
    bar.close()
    save_file(model.state_dict(), config.out / "model.safetensors")
    shape = {name: value for name, value in asdict(config).items() if name not in ("out", "data")}
    (config.out / "config.json").write_text(json.dumps(shape, indent=1) + "\n")
    logger.info("{:,} bytes in {:.1f} s, {:,.0f} bytes/s", step * per_step, time.monotonic() - started, speed(step * per_step, started))


def speed(count: int, started: float) -> float:
    return count / (time.monotonic() - started)


def report(path: Path, step: int, steps: int, loss: float) -> None:
    """What `lab status` shows while the run goes on; nobody takes it for a result. Replaced in one step, so that no reader sees half."""
    path.with_suffix(".tmp").write_text(json.dumps({"step": step, "steps": steps, "loss": loss}))
    path.with_suffix(".tmp").replace(path)


def load(checkpoint: Path, device: str) -> Model:
    config = json.loads((checkpoint / "config.json").read_text())
    model = Model(Config(out=checkpoint, **config))
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return model.to(device).eval()


@torch.inference_mode()
def serve(checkpoint: Path) -> None:
    """Answers until stdin ends. A request is int32 B, int32 T and B*T bytes; the answer B*T*256 float32, little-endian both.

    answer[b, t] holds the natural-log probabilities of the byte that follows request[b, :t+1]. In fp32: the same sequence has to get the same
    answer in any batch and whatever follows it.
    """
    # stdout belongs to the answers alone: whatever else prints goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    device = os.environ.get("LAB_DEVICE", "cpu")
    if device == "cpu":
        torch.set_num_threads(1)
    model = load(checkpoint, device)
    while header := sys.stdin.buffer.read(8):
        shape = struct.unpack("<ii", header)
        request = np.frombuffer(sys.stdin.buffer.read(shape[0] * shape[1]), dtype=np.uint8).reshape(shape)
        answer = model(torch.tensor(request, device=device)).log_softmax(-1).cpu().numpy()
        answers.write(np.ascontiguousarray(answer, dtype="<f4").data)
        answers.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    else:
        train(parse(sys.argv[1:]))

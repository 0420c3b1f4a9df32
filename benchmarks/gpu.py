"""Every check of the root problem that needs an NVIDIA GPU, in one go: one line for each, and the figures as JSON.

    ./just gpu                                        # about 8 minutes; writes gpu-figures.json
    ./just gpu --only device explore eval --seconds 120
    python benchmarks/gpu.py --device cpu             # the same code at toy size: shows that this script works, measures nothing

Exit code 1 when a check failed; the others run all the same, and the file is rewritten after each. It holds the device's lock, as a run does.

Where the lab is not installed (a borrowed machine without a network) this needs Python >= 3.11 with torch >= 2.11 and triton, numpy, tyro, beartype,
einops, jaxtyping, loguru, safetensors, tqdm (train.py) and nvidia-ml-py, psutil, pyyaml (monolab), and a C compiler for torch.compile. What lies
outside of the environment goes on PYTHONPATH, src/ first: `PYTHONPATH=src:WHEELS python benchmarks/gpu.py`. The lab passes no PYTHONPATH on, so
this script then runs in a temporary environment that finds the same packages without it. Text comes from `--data` (made by data.py; its sealed
split is not read); without it the text is made up, which is enough for speed and correctness and makes losses meaningless.
"""

import gc
import hashlib
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Literal
from unittest import mock

import numpy as np
import tyro

from monolab import device, supervise
from monolab.errors import LabError
from monolab.phases import child_env
from monolab.supervise import Limits, Outcome

ROOT = Path(__file__).resolve().parents[1]
TOY = ["--width", "16", "--layers", "2", "--heads", "2", "--hidden", "24", "--chunk", "8", "--length", "32", "--batch", "4"]
TOO_MUCH = ["--no-fast", "--batch", "32768"]  # one block's input has 64 GiB in fp32 then, and a block keeps several tensors as large
STEPS_BEFORE_THE_CLOCK = 5  # of a run with a time budget, in train.py: they compile
# Dense bf16 FLOP/s from the vendor's datasheets, by the start of NVML's name.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}
# Largest error allowed, as a share of the largest reference value: about ten times what rounding every factor to the format gives.
DELTA = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 2e-2}
COMPILED = 5e-2  # distance between the gradients with and without torch.compile, as a share of their length: bf16 rounds elsewhere
GIB = 2**30

Name = Literal["device", "memory", "oom", "explore", "eval", "determinism", "delta", "compile"]


@dataclass(frozen=True)
class Options:
    out: Path = Path("gpu-figures.json")
    data: Path = Path(".data")  # with train/text.bin and val/text.bin
    seconds: float = 60.0  # of training in the explore check
    device: Literal["cuda", "cpu"] = "cuda"
    only: tuple[Name, ...] = ()  # all of them; eval needs explore


@dataclass(frozen=True)
class Place:
    """Where the checks work: the device, the text, the programs as a run gets them, and a folder for what they leave."""

    machine: device.Device
    data: Path
    temp: Path
    seconds: float

    @property
    def toy(self) -> bool:
        return self.machine.kind == "cpu"

    @property
    def torch_device(self) -> str:
        return "cpu" if self.toy else "cuda"


@dataclass(frozen=True)
class Finding:
    ok: bool
    said: str  # one line
    figures: dict


def place(options: Options, temp: Path) -> Place:
    """LabError when the device is not there. Sets the environment variables that choose it, for this process and its children."""
    os.environ["LAB_DEVICE"] = options.device
    os.environ.pop("LAB_STAGE", None)  # the smoke stage would check shapes, which costs time
    # Compiled kernels of earlier runs would make the seconds that compiling takes look short.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(temp / "inductor")
    machine = device.detect()
    if machine.kind == "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = machine.uid  # torch counts the GPUs of a machine in another order
    data = options.data.resolve()
    if not (data / "train" / "text.bin").is_file() or not (data / "val" / "text.bin").is_file():
        data = make_text(temp / "data", *((2**16, 2**14) if machine.kind == "cpu" else (2**24, 2**20)))
    for program, folder in (("train.py", "code"), ("eval.py", "scorer")):
        (temp / folder).mkdir()
        shutil.copy(ROOT / program, temp / folder)
    return Place(machine, data, temp, options.seconds)


def make_text(folder: Path, *sizes: int) -> Path:
    """Made-up words, the frequent ones much more frequent: a model can learn something, and its loss says nothing."""
    random = np.random.default_rng(0)
    words = [bytes(random.integers(97, 123, random.integers(2, 9), dtype=np.uint8)) for _ in range(1000)]
    for split, size in zip(("train", "val"), sizes, strict=True):
        (folder / split).mkdir(parents=True)
        drawn = random.zipf(1.3, size) % len(words)
        (folder / split / "text.bin").write_bytes(b" ".join(words[number] for number in drawn)[: size - 1] + b"\0")
    return folder


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_check_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- the lab's own machinery. Nothing here imports torch into this process: supervise forks, and the GPU is the children's.


def supervised(
    at: Place, name: str, command: list[str], *, cwd: Path | None = None, seconds: float = 300.0, memory_gb: float | None = None
) -> Outcome:
    """A child as a run has it: scrubbed environment, its own home and compile cache."""
    outcome = supervise.run(
        [sys.executable, *command],
        cwd=cwd or at.temp,
        env=child_env(at.temp / "scratch" / name, at.machine, "explore"),
        log=at.temp / f"{name}.log",
        limits=Limits(seconds, 5.0, memory_gb, 4.0),
        gpu=at.machine.index,
    )
    if outcome.status == "killed":  # someone has asked this program to stop, and only the child has noticed
        raise KeyboardInterrupt
    return outcome


def train(at: Place, name: str, *more: str, seconds: float = 300.0, memory_gb: float | None = None) -> Outcome:
    """`train.py --stage explore` as a run calls it, with the checkpoint in the folder `name`."""
    toy = TOY if at.toy else []
    arguments = ["train.py", "--stage", "explore", "--seed", "0", "--data", str(at.data / "train"), "--out", str(at.temp / name), *toy, *more]
    return supervised(at, name, arguments, cwd=at.temp / "code", seconds=seconds, memory_gb=memory_gb)


def ended(outcome: Outcome) -> str:
    """Why a child failed, in one line."""
    lines = [line.strip() for line in outcome.tail.splitlines() if line.strip()]
    return f"{outcome.status}, exit code {outcome.returncode}: {lines[-1][:300] if lines else '(no output)'}"


LOCKS = """
import os
from monolab import device
machine = device.detect()
def refused(line):
    print(line, flush=True)
    os._exit(0)
with device.lock(machine, refused, run="second", lab="second"):
    print("taken", machine.uid)
"""


def check_device(at: Place) -> Finding:
    """The GPU that detect() names is the one that a run's torch sees, and a second process cannot take a held device."""
    found = at.machine
    figures = {"name": found.name, "uid": found.uid, "hardware": found.hardware}
    wrong = []
    if not at.toy:
        code = "import torch; p = torch.cuda.get_device_properties(0); print(p.uuid, p.name.replace(' ', '_'), torch.version.cuda)"
        outcome = supervised(at, "device", ["-c", code])
        if outcome.status != "ok":
            return Finding(False, ended(outcome), figures)
        uuid, name, cuda = outcome.tail.splitlines()[-1].split()
        figures |= {"torch_uuid": uuid, "torch_name": name.replace("_", " "), "cuda": cuda}
        if f"GPU-{uuid.removeprefix('GPU-')}" != found.uid:
            wrong.append(f"torch's device 0 is {uuid}, detect() says {found.uid}")
    with mock.patch.dict(os.environ, LAB_LOCK_DIR=str(at.temp / "locks")):
        with device.lock(found, print, run="gpu-check", lab="lab"):
            held = second_process()
        free = second_process()
    figures |= {"held": held, "free": free}
    if not held.startswith(f"waiting for {found.name}: held by run gpu-check, pid {os.getpid()}"):
        wrong.append(f"while it was held another process said: {held}")
    if free != f"taken {found.uid}":
        wrong.append(f"after its release another process said: {free}")
    return Finding(not wrong, "; ".join(wrong) or f"{found.name} is {found.hardware}, {found.uid}; the lock keeps a second process out", figures)


def second_process() -> str:
    return subprocess.run([sys.executable, "-c", LOCKS], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def check_memory(at: Place) -> Finding:
    """peak_gb of a child that takes a known amount: of device memory on a GPU."""
    code, least, most = (
        ("import time; x = b'x' * (1 << 28); time.sleep(0.5)", 0.25, 0.5)
        if at.toy
        else ("import time, torch; x = torch.ones(2 << 28, device='cuda'); torch.cuda.synchronize(); time.sleep(1)", 2.0, 4.0)
    )
    outcome = supervised(at, "memory", ["-c", code])
    figures = {"status": outcome.status, "peak_gb": outcome.peak_gb, "allocated_gb": least}
    if outcome.status != "ok":
        return Finding(False, ended(outcome), figures)
    return Finding(least <= outcome.peak_gb < most, f"peak_gb {outcome.peak_gb:.2f} for a child that allocates {least:g} GiB", figures)


def check_oom(at: Place) -> Finding:
    """A candidate that asks for more memory than there is gets the status `oom`: on a GPU by what CUDA says, on a CPU by the limit."""
    more, limit = ([], 0.05) if at.toy else (TOO_MUCH, None)
    outcome = train(at, "oom", *more, memory_gb=limit)
    said = f"status {outcome.status} after {outcome.seconds:.0f} s, peak {outcome.peak_gb:.2f} GiB"
    figures = {"status": outcome.status, "seconds": outcome.seconds, "peak_gb": outcome.peak_gb}
    return Finding(outcome.status == "oom", said if outcome.status == "oom" else ended(outcome), figures)


def check_explore(at: Place) -> Finding:
    """The explore preset with a short time budget: bytes (= tokens) per second, memory, loss, and use of the card by 6 N per token."""
    outcome = train(at, "explore", "--tokens", "0", "--seconds", str(at.seconds), seconds=at.seconds + 300)
    figures = {"status": outcome.status, "wall_seconds": outcome.seconds, "peak_gb": outcome.peak_gb}
    if outcome.status != "ok":
        return Finding(False, ended(outcome), figures)
    progress, config = (json.loads((at.temp / "explore" / name).read_text()) for name in ("progress.json", "config.json"))
    total, took = re.findall(r"([\d,]+) bytes in ([\d.]+) s", outcome.tail)[-1]
    per_step = config["batch"] * config["length"] * config["accumulate"]
    steps = progress["step"]
    timed = steps - STEPS_BEFORE_THE_CLOCK if steps > STEPS_BEFORE_THE_CLOCK else steps
    if int(total.replace(",", "")) != steps * per_step:
        return Finding(False, f"the log says {total} bytes, {steps} steps of {per_step} are something else", figures)
    per_second = timed * per_step / float(took)
    sizes = tensor_sizes(at.temp / "explore" / "model.safetensors")
    params, embedding = sum(sizes.values()), sizes["embed.weight"]
    peak = next((rate for name, rate in PEAKS.items() if at.machine.hardware.startswith(name)), None)
    mfu = 6 * (params - embedding) * per_second / peak if peak else None
    figures |= {
        "steps": steps,
        "train_seconds": float(took),
        "tokens_per_second": per_second,
        "bits": progress["loss"],
        "params": params,
        "mfu_6nd": mfu,
    }
    said = f"{per_second:,.0f} tokens/s, peak {outcome.peak_gb:.2f} GiB, {progress['loss']:.3f} bits per byte after {steps} steps"
    said += f" and {float(took):.1f} s (+ {outcome.seconds - float(took):.1f} s to start and compile)"
    said += f", MFU {100 * mfu:.1f} % (6ND)" if mfu else ", peak of the device unknown: no MFU"
    return Finding(math.isfinite(progress["loss"]) and progress["loss"] < 8, said, figures)


def tensor_sizes(path: Path) -> dict[str, int]:
    from safetensors.numpy import load_file

    return {name: tensor.size for name, tensor in load_file(path).items()}


def check_eval(at: Place) -> Finding:
    """The scorer on the explore check's checkpoint, with the distances that round-off causes against what it tolerates."""
    if not (at.temp / "explore" / "model.safetensors").exists():
        return Finding(False, "there is no checkpoint: the explore check did not run or failed", {})
    out = at.temp / "metrics.json"
    arguments = ["eval.py", str(at.temp / "explore"), str(at.data / "val"), str(out), str(at.temp / "code")]
    outcome = supervised(at, "eval", arguments, cwd=at.temp / "scorer", seconds=600)
    figures = {"status": outcome.status, "seconds": outcome.seconds, "peak_gb": outcome.peak_gb}
    if outcome.status != "ok":
        return Finding(False, ended(outcome), figures)
    metrics = json.loads(out.read_text())
    allowed = load_script(ROOT / "eval.py").TOLERANCE[at.torch_device][0]
    figures |= metrics | {"distance_allowed": allowed}
    said = f"val_bpb {metrics['val_bpb']:.4f} of {metrics['bytes']:,} bytes in {outcome.seconds:.1f} s, causality_distance "
    said += f"{metrics['causality_distance']:.1e} and batch_distance {metrics['batch_distance']:.1e}, allowed {allowed:g}"
    ok = math.isfinite(metrics["val_bpb"]) and max(metrics["causality_distance"], metrics["batch_distance"]) <= allowed
    return Finding(ok, said, figures)


def check_determinism(at: Place) -> Finding:
    """The explore preset for six steps, twice, each compiled anew: is the checkpoint the same to the last bit?"""
    from safetensors.numpy import load_file

    tokens, hashes, seconds = 6 * (4 * 32 if at.toy else 4 * 32 * 1024), [], []
    for name in ("first", "second"):
        outcome = train(at, name, "--seconds", "0", "--tokens", str(tokens))
        if outcome.status != "ok":
            return Finding(False, f"{name} run: {ended(outcome)}", {"status": outcome.status})
        hashes.append(hashlib.sha256((at.temp / name / "model.safetensors").read_bytes()).hexdigest())
        seconds.append(outcome.seconds)
    first, second = (load_file(at.temp / name / "model.safetensors") for name in ("first", "second"))
    apart = max(float(np.abs(tensor - second[name]).max()) for name, tensor in first.items())
    figures = {"sha256": hashes, "weights_apart": apart, "seconds": seconds}
    same = hashes[0] == hashes[1]
    return Finding(same, f"checkpoint {hashes[0][:12]} twice" if same else f"two checkpoints; a weight differs by {apart:.1e}", figures)


# --- the model itself, in this process


def delta_inputs(length: int, heads: int, width: int) -> list:
    """q, k, v [1, length, heads, width] and beta [1, length, heads] in fp64. Keys have a common part, as those of real text do."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int):
        return torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    q = F.normalize(normal(length, heads, width), dim=-1) * width**-0.5
    k = F.normalize(normal(1, heads, width) + normal(length, heads, width), dim=-1)
    return [q, k, normal(length, heads, width), normal(length, heads).sigmoid()]


def recurrence(q, k, v, beta):
    """The oracle, one position after the other, straight from the formula in train.py's delta_rule."""
    import torch

    state, outputs = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3]), []
    for t in range(q.shape[1]):
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], u)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, 1)


def check_delta(at: Place) -> Finding:
    """The chunkwise delta rule and its gradients in three precisions against the recurrence in fp64 on the CPU.

    fp32: as the scorer is answered. tf32: matrix products as train.py sets them. bf16: inputs and autocast of the fast presets; there the
    reference gets the same rounded inputs, and gradients come rounded to bf16.
    """
    import torch

    script = load_script(ROOT / "train.py")
    shape = {"length": 72, "heads": 2, "width": 16} if at.toy else {"length": 1000, "heads": 2, "width": 128}
    exact = delta_inputs(**shape)
    towards = torch.randn(exact[2].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def outputs_and_gradients(rule: Callable, inputs: list, autocast: bool = False) -> list:
        inputs = [x.detach().requires_grad_() for x in inputs]
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=autocast):
            output = rule(*inputs)
        return [output, *torch.autograd.grad((output.double() * towards.to(output.device)).sum(), inputs)]

    errors, before = {}, torch.get_float32_matmul_precision()
    try:
        for mode, dtype, precision in (("fp32", torch.float32, "highest"), ("tf32", torch.float32, "high"), ("bf16", torch.bfloat16, "high")):
            torch.set_float32_matmul_precision(precision)
            rounded = [x.to(dtype) for x in exact]
            expected = outputs_and_gradients(recurrence, [x.double() for x in rounded])
            given = [x.to(at.torch_device) for x in rounded]
            found = outputs_and_gradients(lambda *inputs: script.delta_rule(*inputs, 64), given, autocast=mode == "bf16")
            for name, one, other in zip(("o", "dq", "dk", "dv", "dbeta"), found, expected, strict=True):
                difference = (one.double().cpu() - other).abs().max().item()
                errors[f"{mode} {name}"] = {"absolute": difference, "relative": difference / other.abs().max().item()}
    finally:
        torch.set_float32_matmul_precision(before)

    shares = {mode: [errors[f"{mode} {name}"]["relative"] for name in ("o", "dq", "dk", "dv", "dbeta")] for mode in DELTA}
    # Each by itself: of several numbers with a NaN among them max() may return another.
    ok = all(share <= DELTA[mode] for mode in DELTA for share in shares[mode])
    said = "; ".join(f"{mode} {shares[mode][0]:.1e} and {max(shares[mode][1:]):.1e} (allowed {most:g})" for mode, most in DELTA.items())
    return Finding(
        ok, f"largest error as a share of the largest value, outputs and gradients: {said}", {"shape": shape, "errors": errors, "allowed": DELTA}
    )


def check_compile(at: Place) -> Finding:
    """The explore preset's model with and without torch.compile: the same gradients, the seconds that compiling takes, tokens per second.

    At toy size the graph is captured and its gradient derived as on a GPU, but no code is generated.
    """
    import torch

    script = load_script(ROOT / "train.py")
    arguments = ["--stage", "explore", "--device", at.torch_device, "--data", str(at.data / "train"), "--out", str(at.temp), *(TOY if at.toy else [])]
    config = script.parse(arguments)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        eager, eager_gradient = measure(script, config, None)
        fused, fused_gradient = measure(script, config, "aot_eager" if at.toy else "inductor")
    finally:
        torch.set_float32_matmul_precision(before)
        torch._dynamo.reset()
    apart = ((fused_gradient - eager_gradient).norm() / eager_gradient.norm()).item()
    seconds = fused["first_step_seconds"] - fused["step_seconds"]
    figures = {"eager": eager, "compiled": fused, "compile_seconds": seconds, "gradients_apart": apart, "gradients_apart_allowed": COMPILED}
    said = f"{fused['tokens_per_second']:,.0f} tokens/s compiled, {eager['tokens_per_second']:,.0f} without, {seconds:.1f} s to compile"
    said += f", gradients {apart:.1e} apart (allowed {COMPILED:g}), loss {fused['loss']:.4f} and {eager['loss']:.4f}"
    return Finding(apart <= COMPILED and abs(fused["loss"] - eager["loss"]) < 0.02, said, figures)


def measure(script: ModuleType, config, backend: str | None):
    """Training steps as train.py takes them, uncompiled where `backend` is None: figures, and the first batch's gradient as one vector."""
    import torch
    import torch.nn.functional as F

    on_gpu = config.device == "cuda"
    torch.manual_seed(0)
    model = script.Model(config)
    with torch.no_grad():  # the real start has zeros where they hide most of the model from the gradient
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
    model.to(config.device)
    if backend:
        for block in model.blocks:
            block.compile(backend=backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    source = script.batches(config)
    if on_gpu:
        gc.collect()  # of the model before
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def forward_backward():
        inputs, targets = next(source)
        with torch.autocast(config.device, torch.bfloat16, enabled=on_gpu):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().long())
        (loss / config.accumulate).backward()
        return loss

    def step() -> None:
        for _ in range(config.accumulate):
            forward_backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    began = now()
    loss = forward_backward().item()
    first = now() - began
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()]) * config.accumulate
    optimizer.zero_grad(set_to_none=True)
    step()
    step()
    steps, began = 0, now()
    while steps < 3 or (steps < 20 and now() - began < 5.0):
        step()
        steps += 1
    took = (now() - began) / steps
    figures = {"loss": loss, "first_step_seconds": first, "step_seconds": took / config.accumulate}
    figures |= {"tokens_per_second": config.batch * config.length * config.accumulate / took}
    return figures | {"peak_gb": torch.cuda.max_memory_allocated() / GIB if on_gpu else None}, gradient


# --- all of them

CHECKS: dict[Name, Callable[[Place], Finding]] = {  # in this order: eval scores what explore has trained, and torch comes into this process last
    "device": check_device,
    "memory": check_memory,
    "oom": check_oom,
    "explore": check_explore,
    "eval": check_eval,
    "determinism": check_determinism,
    "delta": check_delta,
    "compile": check_compile,
}


def facts(at: Place) -> dict:
    """The machine and the programs that were measured. No paths, so that the figures can be shown to anyone."""
    name, _, driver = at.machine.hardware.partition(", driver ")

    def version(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    return {
        "device": name,
        "driver": driver or None,
        "python": platform.python_version(),
        "torch": version("torch"),
        "triton": version("triton"),
        "platform": platform.platform(),
        "text": "made up" if at.data.is_relative_to(at.temp) else "prepared",
        "train_bytes": (at.data / "train" / "text.bin").stat().st_size,
        "sha256": {program: hashlib.sha256((ROOT / program).read_bytes()).hexdigest() for program in ("train.py", "eval.py")},
        "others_on_the_device": device.foreign_processes(at.machine),
    } | device.load()


def run_checks(at: Place, names: tuple[Name, ...], out: Path) -> int:
    """Returns how many failed."""
    figures = {"facts": facts(at), "seconds": at.seconds, "checks": {}}
    print(f"{figures['facts']['device']}, torch {figures['facts']['torch']}, {figures['facts']['text']} text", flush=True)
    for name, check in CHECKS.items():
        if names and name not in names:
            continue
        began = time.monotonic()
        try:
            finding = check(at)
        except Exception as error:  # noqa: BLE001 - one check's failure is its finding
            traceback.print_exc()
            finding = Finding(False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", {})
        took = time.monotonic() - began
        print(f"{'ok  ' if finding.ok else 'FAIL'} {name:<11} {finding.said}  [{took:.0f} s]", flush=True)
        figures["checks"][name] = {"ok": finding.ok, "said": finding.said, "check_seconds": took} | finding.figures
        out.write_text(json.dumps(figures, indent=1) + "\n")
    return sum(not found["ok"] for found in figures["checks"].values())


def without_pythonpath() -> int:
    """This script again, in a temporary environment that finds what this Python finds without PYTHONPATH."""
    with tempfile.TemporaryDirectory(prefix="gpu-env-") as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        (site / "all.pth").write_text("".join(f"{Path(entry).resolve()}\n" for entry in sys.path[1:] if Path(entry).is_dir()))
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run([str(Path(folder) / "bin" / "python"), *sys.argv], check=False, env=env).returncode


def main(options: Options) -> int:
    if os.environ.get("PYTHONPATH"):
        return without_pythonpath()
    with tempfile.TemporaryDirectory(prefix="gpu-checks-") as temp:
        try:
            at = place(options, Path(temp))
            with device.lock(at.machine, print, run="gpu-checks", lab=str(ROOT)):
                return 1 if run_checks(at, options.only, options.out) else 0
        except LabError as error:
            print(f"gpu.py: {error.what}\n  next: {error.hint}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

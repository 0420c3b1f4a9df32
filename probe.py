"""What a candidate of the root problem must hold before it may have the device, executed and not read: each failure names a line or a tensor.

    python probe.py CODE OUT [--base DIR] [train.py's options]     # `just smoke` does it, with main's own train.py as the base

CODE/train.py is imported and its Model built as the smoke stage has it. One whose train.py has no `parse` and `Model` cannot be looked into:
then the scorer's own checks (eval.py), which ask the serving process, are all there is, and OUT says so. The exit code is 0 also when a check
fails; OUT is a JSON list of {"check", "ok", "where", "what"}, `ok` null where there was nothing to check.
"""

import ast
import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["LAB_STAGE"] = "smoke"  # train.py checks every shape then

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

LENGTHS = (1, 7, 63, 64, 65, 130)  # about a chunk's length too, where padding goes wrong
CLOSE = 2e-4  # of log-probabilities in fp32, the same question asked in another batch or length
ORACLE = 1e-8  # largest error in fp64 against the recurrence
SHORT, LONG = 256, 2048  # bytes of text between which the cost may grow
GROWTH = 1.25  # as a power of the length: linear cost is 1, quadratic 2
CAPS = {"parameters": 2.0, "FLOPs": 2.0}  # times the base's: a gain by size alone is no finding


class Broken(Exception):
    """A check failed: where, and what is wrong."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


def static(code: Path) -> None:
    """Syntax, names that are not defined, and imports that are not installed, by line. Raises Broken."""
    path = code / "train.py"
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError) as error:
        raise Broken(f"train.py:{getattr(error, 'lineno', None) or 1}", str(error)) from error
    ruff = ["ruff", "check", "--isolated", "--no-cache", "--select", "F821,F811,F823,E9", "--output-format", "json", str(path)]
    done = subprocess.run([sys.executable, "-m", *ruff], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff: {done.stderr}")
    for found in json.loads(done.stdout or "[]"):
        raise Broken(f"train.py:{found['location']['row']}", found["message"])
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in filter(None, names):
            top = name.split(".")[0]
            if not (code / top).exists() and not (code / f"{top}.py").exists() and importlib.util.find_spec(top) is None:
                raise Broken(f"train.py:{node.lineno}", f"{top} is not installed, and is no file of the candidate")


def imported(code: Path, name: str):
    """CODE/train.py as a module of its own."""
    sys.path.insert(0, str(code))
    spec = importlib.util.spec_from_file_location(name, code / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    sys.path.remove(str(code))
    return module


def built(module, out: Path, options: list[str]) -> nn.Module:
    config = module.parse(["--stage", "smoke", "--device", "cpu", "--out", str(out), *options])
    model = module.Model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # what starts at zero would hide what stands behind it
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator) * max(float(weight.std()) if weight.numel() > 1 else 0.0, 0.05))
    return model.eval()


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    """uint8 [batch, length], each row beginning with byte 0 as windows do."""
    tokens = torch.randint(1, 256, (batch, length), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    tokens[:, 0] = 0
    return tokens


def log_probabilities(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(tokens).float().log_softmax(-1)


@contextmanager
def outputs(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """What every module gives, in the order of their ends: the innermost first."""
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable:
        def hook(module, args, output):
            for one in output if isinstance(output, tuple | list) else [output]:
                if isinstance(one, Tensor):
                    found.append((name, one.detach().clone()))

        return hook

    handles = [module.register_forward_hook(keep(name or "the model")) for name, module in model.named_modules()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def traced(model: nn.Module, tokens: Tensor) -> list[tuple[str, Tensor]]:
    with torch.inference_mode(), outputs(model) as found:
        model(tokens)
    return found


def differing(model: nn.Module, one: Tensor, other: Tensor, same: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]) -> str:
    """The first module whose outputs differ in what `same` cuts out of both; None of a cut means that it has no such part."""
    for (name, a), (_, b) in zip(traced(model, one), traced(model, other), strict=False):
        cut = same(a, b)
        if cut and (cut[0].shape != cut[1].shape or not torch.allclose(cut[0].float(), cut[1].float(), atol=CLOSE, rtol=CLOSE)):
            return name
    return "the model"


def shapes(model: nn.Module, code: Path) -> None:
    """Every batch size and length gives [b, t, 256] of finite numbers."""
    for batch in (1, 3):
        for length in LENGTHS:
            try:
                answer = log_probabilities(model, text(batch, length))
            except Exception as error:
                lines = [frame for frame in traceback.extract_tb(error.__traceback__) if str(code) in frame.filename]
                where = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "the model"
                raise Broken(where, f"batch {batch}, length {length}: {' '.join(str(error).split())[:300]}") from error
            if answer.shape != (batch, length, 256):
                raise Broken("the model", f"gives {tuple(answer.shape)} for batch {batch} and length {length}, not {(batch, length, 256)}")
            if not answer.isfinite().all():
                bad = next(name for name, one in traced(model, text(batch, length)) if not one.isfinite().all())
                raise Broken(bad, f"gives {'nan' if answer.isnan().any() else 'inf'} for batch {batch} and length {length}")


def causality(model: nn.Module) -> None:
    """A changed byte changes nothing before it, in any module."""
    for length, place in ((130, 65), (130, 129), (64, 1), (97, 40)):
        one, other = text(2, length), text(2, length)
        other[:, place:] = text(2, length, seed=1)[:, place:]

        def before(a: Tensor, b: Tensor, place: int = place, length: int = length) -> tuple[Tensor, Tensor] | None:
            axis = next((axis for axis in range(1, a.ndim) if a.shape[axis] == length), None)
            return None if axis is None or a.shape != b.shape else (a.narrow(axis, 0, place), b.narrow(axis, 0, place))

        a, b = log_probabilities(model, one)[:, :place], log_probabilities(model, other)[:, :place]
        if not torch.allclose(a, b, atol=CLOSE, rtol=0):
            spot = int((a - b).abs().amax((0, 2)).gt(CLOSE).nonzero()[0])
            raise Broken(differing(model, one, other, before), f"position {spot} of {length} knows what stands at {place} and after")


def batches(model: nn.Module) -> None:
    """A row's answer does not depend on the rows beside it, nor on its place."""
    tokens = text(4, 96)
    whole = log_probabilities(model, tokens)
    alone, turned = log_probabilities(model, tokens[2:3]), log_probabilities(model, tokens.flip(0)).flip(0)
    for other, how, asked in ((alone, "alone", tokens[2:3]), (turned[2:3], "in another order", tokens.flip(0))):
        if not torch.allclose(whole[2:3], other, atol=CLOSE, rtol=0):
            row = 0 if how == "alone" else 1
            name = differing(model, tokens, asked, lambda a, b, row=row: (a[2:3], b[row : row + 1]) if a.shape[0] == 4 and b.shape[0] > row else None)
            raise Broken(
                name, f"a row is answered otherwise {how} than among four (largest difference {float((whole[2:3] - other).abs().max()):.2g})"
            )


def lengths(model: nn.Module) -> None:
    """The answers to a text are those to the beginning of a longer one."""
    tokens = text(2, 200)
    whole = log_probabilities(model, tokens)
    for length in (5, 64, 65, 128, 199):
        part = log_probabilities(model, tokens[:, :length])
        if not torch.allclose(whole[:, :length], part, atol=CLOSE, rtol=0):

            def beginning(a: Tensor, b: Tensor, length: int = length) -> tuple[Tensor, Tensor] | None:
                axis = next((axis for axis in range(1, a.ndim) if a.shape[axis] == 200), None)
                return None if axis is None or b.shape[axis] != length else (a.narrow(axis, 0, length), b)

            raise Broken(
                differing(model, tokens, tokens[:, :length], beginning),
                f"the first {length} of 200 bytes are answered otherwise than those {length} alone",
            )


def cost(model: nn.Module, length: int) -> tuple[dict[str, int], int]:
    """FLOPs of a forward pass by module, and bytes that its backward pass needs: counted, not timed, so that a busy machine changes nothing."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), FlopCounterMode(display=False) as counter:
        model(text(1, length)).float().sum()
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}, saved


def growth(model: nn.Module) -> str:
    """Time and memory grow with the length no faster than LENGTH ** GROWTH."""
    (few, small), (many, large) = cost(model, SHORT), cost(model, LONG)

    def power(a: float, b: float) -> float:
        return math.log(b / a) / math.log(LONG / SHORT)

    flops, memory = power(few["Global"], many["Global"]), power(small, large)
    if flops > GROWTH:
        inner = [name for name in many if name != "Global" and few.get(name)]
        worst = max(inner, key=lambda name: (power(few[name], many[name]) > GROWTH, name.count("."), many[name]), default="the model")
        raise Broken(worst.removeprefix("Model."), f"computation grows as length^{flops:.2f} between {SHORT} and {LONG} bytes, more than {GROWTH}")
    if memory > GROWTH:
        raise Broken("the model", f"memory for the backward pass grows as length^{memory:.2f} between {SHORT} and {LONG} bytes, more than {GROWTH}")
    return f"FLOPs as length^{flops:.2f}, memory as length^{memory:.2f}"


def gradients(model: nn.Module, code: Path) -> None:
    """Every parameter that is trained has a finite gradient."""
    model.zero_grad(set_to_none=True)
    tokens = text(2, 96)
    torch.nn.functional.cross_entropy(model(tokens)[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten().long()).backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.grad is None:
            raise Broken(name, "no gradient reaches it: it is not used, and would be counted as a parameter")
        if weight.grad is not None and not weight.grad.isfinite().all():
            raise Broken(name, "its gradient is not finite")


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None = None) -> Tensor:
    """S <- e^g S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q. All [b, t, h, .], g and beta [b, t, h]; step by step (arXiv:2406.06484, 2412.06464)."""
    state, out = torch.zeros(*q.shape[:1], q.shape[2], k.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(q.shape[1]):
        if g is not None:
            state = state * g[:, t].exp()[..., None, None]
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], u)
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1)


DECAYS = ("g", "decay", "log_decay")  # the logarithm of what a step leaves of the state


def oracle(module) -> str | None:
    """A function `delta_rule` or `gated_delta_rule` of q, k, v, beta, chunk (and g) agrees with the recurrence in fp64. Other arguments: another rule."""
    generator, checked = torch.Generator().manual_seed(0), []
    for name in ("delta_rule", "gated_delta_rule"):
        function = getattr(module, name, None)
        if function is None:
            continue
        takes = set(inspect.signature(function).parameters)
        decay = next((word for word in DECAYS if word in takes), None)
        if takes - {decay} != {"q", "k", "v", "beta", "chunk"}:
            continue
        for length, chunk in ((1, 16), (37, 16), (64, 16), (65, 64)):
            q, k, v = (torch.randn(2, length, 3, 8, generator=generator, dtype=torch.float64) for _ in range(3))
            k = nn.functional.normalize(k, dim=-1)
            beta, g = (torch.rand(2, length, 3, generator=generator, dtype=torch.float64) for _ in range(2))
            gate = {decay: -g} if decay else {}
            error = float((function(q=q, k=k, v=v, beta=beta, chunk=chunk, **gate) - recurrence(q, k, v, beta, *gate.values())).abs().max())
            if not error < ORACLE:
                raise Broken(
                    name,
                    f"is {error:.2g} off the recurrence at length {length}, chunk {chunk}; if it is meant to be another rule, call it something else",
                )
        checked.append(name + (" with decay" if decay else ""))
    return f"{', '.join(checked)} as the recurrence" if checked else None


def caps(model: nn.Module, base: nn.Module | None) -> str | None:
    if base is None:
        return None
    ratios = {}
    for name, count in {
        "parameters": lambda one: sum(p.numel() for p in one.parameters()),
        "FLOPs": lambda one: cost(one, SHORT)[0]["Global"],
    }.items():
        mine, theirs = count(model), count(base)
        ratios[name] = mine / theirs
        if ratios[name] > CAPS[name]:
            raise Broken("the model", f"{mine:,} {name}, {ratios[name]:.2f} times main's {theirs:,}; at most {CAPS[name]:g} times")
    return ", ".join(f"{name} x{ratio:.2f}" for name, ratio in ratios.items())


def probe(code: Path, base: Path | None, options: list[str], scratch: Path) -> list[dict]:
    """All checks in order; after one that leaves nothing to go on with, no more."""
    found: list[dict] = []

    def check(name: str, function: Callable[[], str | None], empty: bool = False) -> bool:
        try:
            said = function()
        except Broken as error:
            found.append({"check": name, "ok": False, "where": error.where, "what": error.what})
            return False
        except Exception as error:  # noqa: BLE001  whatever the candidate's code raises is a finding
            lines = [frame for frame in traceback.extract_tb(error.__traceback__) if str(code) in frame.filename]
            where = f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else name
            found.append({"check": name, "ok": False, "where": where, "what": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            return False
        found.append({"check": name, "ok": None if empty and said is None else True, "where": "", "what": said or ""})
        return True

    if not check("static", lambda: static(code)):
        return found
    made: dict = {}
    if not check("import", lambda: made.update(module=imported(code, "candidate"))):
        return found
    module = made["module"]
    if not (hasattr(module, "parse") and hasattr(module, "Model")):
        found.append(
            {"check": "model", "ok": None, "where": "train.py", "what": "no `parse` and `Model` to look into: only the scorer's checks are made"}
        )
        return found
    if not check("model", lambda: made.update(model=built(module, scratch, options))) or not check("shapes", lambda: shapes(made["model"], code)):
        return found
    model = made["model"]
    check("causality", lambda: causality(model))
    check("batches", lambda: batches(model))
    check("lengths", lambda: lengths(model))
    check("gradients", lambda: gradients(model, code))
    check("growth", lambda: growth(model))
    check("oracle", lambda: oracle(module), empty=True)
    check("caps", lambda: caps(model, built(imported(base, "base"), scratch, []) if base else None), empty=True)
    return found


def main(argv: list[str]) -> None:
    code, out, options = Path(argv[0]).resolve(), Path(argv[1]), argv[2:]
    base = Path(options[1]) if options[:1] == ["--base"] else None
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = probe(code, base, options[2:] if base else options, out.parent)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a candidate of the root problem must hold before it may have the device, executed and not read: each failure names a line or a tensor.

    python probe.py CODE OUT [--base DIR] [train.py's options]     # `just smoke` does it, with main's own train.py as the base

CODE/train.py is imported and its Model built as the smoke stage has it. One whose train.py has no `parse` and `Model`, or a Model that takes
other arguments, cannot be looked into: then the scorer's own checks (eval.py), which ask the serving process, are all there is, and OUT says so.
The exit code is 0 also when a check fails; OUT is a JSON list of {"check", "ok", "where", "what"}, `ok` null where there was nothing to check, or
where what was seen may be a fault or may be meant.
"""

import ast
import importlib.util
import inspect
import itertools
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
# Total variation distance of two answers to one question, asked in another batch or length: eval.py's TOLERANCE on a CPU, measured as there, because a probe
# that asks for more than the scorer would refuse what may be scored. Round-off in fp32 is some 1e-7 here.
CLOSE = 1e-3
ORACLE, ORACLE_32 = 1e-8, 1e-4  # largest error against a mixer's definition, of a function that gives fp64, and of one that gives less
TEXTS = 4  # that a gradient may take to reach a parameter
# Bytes of text between which the cost may grow, each twice the one before. A window of fixed width costs as full attention does until the text is longer, so
# one doubling that keeps to GROWTH is enough: windows of up to 2,048 bytes pass, and nothing here is scored on more than 1,024.
DOUBLINGS = (1024, 2048, 4096)
GROWTH = 1.25  # as a power of the length: linear cost is 1, quadratic 2
SIZED = 256  # bytes of text at which FLOPs are compared with the base's
CAPS = {"parameters": 2.0, "FLOPs": 2.0}  # times the base's: a gain by size alone is no finding


class Broken(Exception):
    """A check failed: where, and what is wrong."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


class Unsure(Exception):
    """What was seen is no proof of a fault, or cannot be seen: where, and what is to be said of it."""

    def __init__(self, where: str, what: str):
        super().__init__(f"{where}: {what}")
        self.where, self.what = where, what


def quoted(tree: ast.AST, lines: list[str]) -> Callable[[int, int], bool]:
    """Does a place (line and column from 1) lie in a string? The axes of `Float[Tensor, "h"]` are no names. What an f-string computes is none."""
    pieces = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    spans = [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in pieces
    ]

    def inside(line: int, column: int) -> bool:
        place = (line, len(lines[line - 1][: column - 1].encode()))  # ast counts bytes
        return any(start <= place < end for start, end in spans)

    return inside


def unconditional(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that nothing stands around which could make do without them; what lies in a function is seen when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.Try | ast.TryStar | ast.If | ast.With | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from unconditional(node)


def static(code: Path) -> None:
    """Syntax, names that are not defined, and imports that are not installed, by line. Raises Broken."""
    path = code / "train.py"
    try:
        source = path.read_text()
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError) as error:
        raise Broken(f"train.py:{getattr(error, 'lineno', None) or 1}", str(error)) from error
    ruff = ["ruff", "check", "--isolated", "--no-cache", "--select", "F821,F823,E9", "--output-format", "json", str(path)]
    done = subprocess.run([sys.executable, "-m", *ruff], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff: {done.stderr}")
    inside = quoted(tree, source.split("\n"))
    for found in json.loads(done.stdout or "[]"):
        row, column = found["location"]["row"], found["location"]["column"]
        if found["code"] != "F821" or not inside(row, column):
            raise Broken(f"train.py:{row}", found["message"])
    for node in unconditional(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        for name in filter(None, names):
            top = name.split(".")[0]
            if not (code / top).exists() and not (code / f"{top}.py").exists() and importlib.util.find_spec(top) is None:
                raise Broken(f"train.py:{node.lineno}", f"{top} is not installed, and is no file of the candidate")


def origin(module) -> Path | None:
    """The file of a module, or the folder of a package that has none."""
    where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(where).resolve() if where else None


def forget(code: Path, known: set[str]) -> None:
    """Drop CODE from where modules are looked for, with what was imported from it and is not `known`: another folder may have a module of that name."""
    sys.path[:] = [entry for entry in sys.path if entry != str(code)]
    for name in sys.modules.keys() - known - {"candidate", "base"}:
        where = origin(sys.modules[name])
        if where and where.is_relative_to(code.resolve()) and "site-packages" not in where.parts:
            del sys.modules[name]
    importlib.invalidate_caches()


def imported(code: Path, name: str):
    """CODE/train.py as a module of its own. CODE stays where modules are looked for: `__init__` and `forward` may import too."""
    sys.path.insert(0, str(code))
    spec = importlib.util.spec_from_file_location(name, code / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def takes(function: Callable, *args) -> bool:
    """Can it be called with these arguments? Where its signature is not known: yes."""
    try:
        inspect.signature(function).bind(*args)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def logits(module, args, output) -> Tensor:
    """A hook: of (logits, auxiliary loss, ...) the logits. Raises Unsure for what is neither."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        raise Unsure("the model", f"`forward` gives no tensor but {type(first).__name__}: only the scorer's checks are made")
    return first


def built(module, out: Path, options: list[str]) -> nn.Module:
    """The model as the smoke stage has it, with noise on what is trained, and giving the logits alone. Raises Unsure where it takes other arguments."""
    if not takes(module.parse, []):
        raise Unsure("train.py", "`parse` takes other arguments than the list of options: only the scorer's checks are made")
    try:
        config = module.parse(["--stage", "smoke", "--device", "cpu", "--out", str(out), *options])
    except SystemExit as error:
        raise Unsure("train.py", "`parse` knows no --stage, --device or --out as it is called here: only the scorer's checks are made") from error
    if not takes(module.Model, config):
        raise Unsure("train.py", "`Model` takes more than what `parse` gives: only the scorer's checks are made")
    model = module.Model(config)
    if not isinstance(model, nn.Module):
        raise Unsure("train.py", "`Model` makes no torch module: only the scorer's checks are made")
    if not takes(model.forward, text(1, 1)):
        raise Unsure("train.py", "`Model.forward` takes more than tokens: only the scorer's checks are made")
    model.register_forward_hook(logits)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # what starts at zero would hide what stands behind it; what is frozen may be a mask
            if weight.requires_grad and weight.is_floating_point():
                spread = max(float(weight.std()) if weight.numel() > 1 else 0.0, 0.05)
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype) * spread)
    return model.eval()


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    """uint8 [batch, length], each row beginning with byte 0 as windows do."""
    tokens = torch.randint(1, 256, (batch, length), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    tokens[:, 0] = 0
    return tokens


def probabilities(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(tokens).float().softmax(-1)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Total variation distance of two arrays of distributions, by row and position."""
    return 0.5 * (one - other).abs().sum(-1)


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
                answer = probabilities(model, text(batch, length))
            except Unsure:
                raise
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

        apart = distances(probabilities(model, one)[:, :place], probabilities(model, other)[:, :place]).amax(0)
        if apart.max() > CLOSE:
            spot = int(apart.gt(CLOSE).nonzero()[0])
            raise Broken(differing(model, one, other, before), f"position {spot} of {length} knows what stands at {place} and after")


def batches(model: nn.Module) -> None:
    """A row's answer does not depend on the rows beside it, nor on its place."""
    tokens = text(4, 96)
    whole = probabilities(model, tokens)
    alone, turned = probabilities(model, tokens[2:3]), probabilities(model, tokens.flip(0)).flip(0)
    for other, how, asked in ((alone, "alone", tokens[2:3]), (turned[2:3], "in another order", tokens.flip(0))):
        apart = float(distances(whole[2:3], other).max())
        if apart > CLOSE:
            row = 0 if how == "alone" else 1
            name = differing(model, tokens, asked, lambda a, b, row=row: (a[2:3], b[row : row + 1]) if a.shape[0] == 4 and b.shape[0] > row else None)
            raise Broken(name, f"a row is answered otherwise {how} than among four (total variation distance {apart:.2g}, allowed {CLOSE:g})")


def lengths(model: nn.Module) -> None:
    """The answers to a text are those to the beginning of a longer one."""
    tokens = text(2, 200)
    whole = probabilities(model, tokens)
    for length in (5, 64, 65, 128, 199):
        if distances(whole[:, :length], probabilities(model, tokens[:, :length])).max() > CLOSE:

            def beginning(a: Tensor, b: Tensor, length: int = length) -> tuple[Tensor, Tensor] | None:
                axis = next((axis for axis in range(1, a.ndim) if a.shape[axis] == 200), None)
                return None if axis is None or b.shape[axis] != length else (a.narrow(axis, 0, length), b)

            raise Broken(
                differing(model, tokens, tokens[:, :length], beginning),
                f"the first {length} of 200 bytes are answered otherwise than those {length} alone",
            )


def flops(model: nn.Module, length: int) -> dict[str, int]:
    """FLOPs of a forward pass by module, "Global" for all: counted, not timed, so that a busy machine changes nothing."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(text(1, length))
    return {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}


def saved(model: nn.Module, length: int) -> int:
    """Bytes that the backward pass needs."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(text(1, length)).float().sum()
    return total


def power(few: float, many: float) -> float:
    """Of the length, as which a cost grows from `few` to `many` while the length doubles; nothing stays nothing."""
    return math.log2(many / few) if few else 0.0 if not many else math.inf


def grown_as(measure: Callable[[int], float]) -> tuple[float, int]:
    """The power of the length as which a cost grows at the first doubling that keeps to GROWTH, else at the last; and the length that it starts from."""
    few = measure(DOUBLINGS[0])
    for length, twice in itertools.pairwise(DOUBLINGS):
        many = measure(twice)
        grown = power(few, many)
        if grown <= GROWTH:
            break
        few = many
    return grown, length


def growth(model: nn.Module) -> str:
    """Computation and memory grow with the length no faster than LENGTH ** GROWTH, from some length on."""
    counts = {}

    def computation(length: int) -> float:
        counts[length] = flops(model, length)
        return counts[length]["Global"]

    computed, start = grown_as(computation)
    if computed > GROWTH:
        few, many = counts[start], counts[2 * start]
        inner = [name for name in many if name != "Global" and few.get(name)]
        worst = max(inner, key=lambda name: (power(few[name], many[name]) > GROWTH, name.count("."), many[name]), default="the model")
        what = f"computation grows as length^{computed:.2f} between {start} and {2 * start} bytes, more than {GROWTH}"
        raise Broken(worst.removeprefix("Model."), what)
    kept, place = grown_as(lambda length: saved(model, length))
    if kept > GROWTH:
        raise Broken(
            "the model", f"memory for the backward pass grows as length^{kept:.2f} between {place} and {2 * place} bytes, more than {GROWTH}"
        )
    return f"FLOPs as length^{computed:.2f} from {start} bytes on, memory as length^{kept:.2f} from {place}"


def gradients(model: nn.Module) -> None:
    """Every gradient is finite. Raises Unsure for parameters that none reaches: an expert may have got no token, a head may serve the loss alone."""
    model.zero_grad(set_to_none=True)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for seed in range(TEXTS):
        tokens = text(2, 96, seed)
        loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten().long())
        if loss.requires_grad:
            loss.backward()
        for name, weight in trained.items():
            if weight.grad is not None and not weight.grad.isfinite().all():
                raise Broken(name, "its gradient is not finite")
        missing = [name for name, weight in trained.items() if weight.grad is None]
        if not missing:
            return
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    what = "what is not used counts as parameters all the same; an expert without a token, or a head that only the loss has, looks like it"
    raise Unsure(missing[0], f"no gradient reached it{more} in {TEXTS} texts: {what}")


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None = None, erase: bool = True) -> Tensor:
    """S <- e^g S; S <- S + k u^T; o = S^T q, with u = beta (v - S^T k) where a write erases (arXiv:2406.06484, 2412.06464), else u = beta v (arXiv:2006.16236,
    2312.06635). All [b, t, h, .], g and beta [b, t, h]; step by step."""
    state, out = torch.zeros(*q.shape[:1], q.shape[2], k.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(q.shape[1]):
        if g is not None:
            state = state * g[:, t].exp()[..., None, None]
        there = torch.einsum("bhkv,bhk->bhv", state, k[:, t]) if erase else 0.0
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * (v[:, t] - there))
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1)


def window(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, chunk: int) -> Tensor:
    """softmax over j of (q_i^T k_j - slope (i - j)), j <= i in the chunk of i or the one before; all [b, t, h, .], slope [h]; position by position."""
    out = []
    for i in range(q.shape[1]):
        first = max(0, (i // chunk - 1) * chunk)
        far = i - torch.arange(first, i + 1, dtype=q.dtype)
        scores = torch.einsum("bhk,bjhk->bhj", q[:, i], k[:, first : i + 1]) - slope[:, None] * far
        out.append(torch.einsum("bhj,bjhv->bhv", scores.softmax(-1), v[:, first : i + 1]))
    return torch.stack(out, 1)


DECAYS = ("g", "log_decay")  # the logarithm of what a step leaves of the state; `decay` may be the share itself
# What a function of this name is to give, in float64 and one position after the other, with what it takes beside q, k, v, chunk and perhaps a decay.
ORACLES: dict[str, tuple[str, Callable[[dict[str, Tensor], Tensor | None, int], Tensor]]] = {
    "delta_rule": ("beta", lambda given, g, chunk: recurrence(**given, g=g)),
    "gated_delta_rule": ("beta", lambda given, g, chunk: recurrence(**given, g=g)),
    "additive_rule": ("beta", lambda given, g, chunk: recurrence(**given, g=g, erase=False)),
    "window_attention": ("slope", lambda given, g, chunk: window(**given, chunk=chunk)),
}


def oracle(module) -> str | None:
    """A function named in ORACLES that takes just those arguments agrees with its definition. Other arguments: another rule."""
    generator, checked = torch.Generator().manual_seed(0), []
    for name, (strength, definition) in ORACLES.items():
        function = getattr(module, name, None)
        if not callable(function):
            continue
        words = set(inspect.signature(function).parameters)
        decay = next((word for word in DECAYS if word in words and strength == "beta"), None)
        if words - {decay} != {"q", "k", "v", strength, "chunk"}:
            continue
        for length, chunk in ((1, 16), (37, 16), (64, 16), (65, 64)):
            q, k, v = (torch.randn(2, length, 3, 8, generator=generator, dtype=torch.float64) for _ in range(3))
            beta, g = (torch.rand(2, length, 3, generator=generator, dtype=torch.float64) for _ in range(2))
            given = {"q": q, "k": nn.functional.normalize(k, dim=-1), "v": v, strength: beta if strength == "beta" else beta[0, 0]}
            gate = {decay: -g} if decay else {}
            got = function(**given, **gate, chunk=chunk)
            error = float((got - definition(given, -g if decay else None, chunk)).abs().max())
            if not error < (ORACLE if got.dtype == torch.float64 else ORACLE_32):
                what = f"is {error:.2g} off its definition, step by step in float64, at length {length}, chunk {chunk}"
                raise Broken(name, f"{what}; if it is meant to be another rule, call it something else")
        checked.append(name + (" with decay" if decay else ""))
    return f"{', '.join(checked)} as defined step by step" if checked else None


def sizes(model: nn.Module) -> dict[str, int]:
    return {"parameters": sum(weight.numel() for weight in model.parameters()), "FLOPs": flops(model, SIZED)["Global"]}


def caps(model: nn.Module, code: Path, base: Path | None, scratch: Path, known: set[str]) -> str | None:
    """At most CAPS times the size of BASE's model. Raises Unsure where that one cannot be built."""
    if base is None:
        return None
    mine = sizes(model)  # before the base's modules take the place of the candidate's
    forget(code, known)
    try:
        theirs = sizes(built(imported(base, "base"), scratch, []))
    except Unsure:
        raise
    except Exception as error:
        raise Unsure("train.py", f"main's own model cannot be built: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    ratios = {name: mine[name] / max(theirs[name], 1) for name in mine}
    for name, most in CAPS.items():
        if ratios[name] > most:
            raise Broken("the model", f"{mine[name]:,} {name}, {ratios[name]:.2f} times main's {theirs[name]:,}; at most {most:g} times")
    return ", ".join(f"{name} x{ratio:.2f}" for name, ratio in ratios.items())


def probe(code: Path, base: Path | None, options: list[str], scratch: Path) -> list[dict]:
    """All checks in order; after one that leaves nothing to go on with, no more."""
    known = set(sys.modules)
    try:
        return checks(code, base, options, scratch, known)
    finally:
        for folder in filter(None, (code, base)):
            forget(folder, known)


def checks(code: Path, base: Path | None, options: list[str], scratch: Path, known: set[str]) -> list[dict]:
    found: list[dict] = []

    def check(name: str, function: Callable[[], str | None], empty: bool = False) -> bool:
        try:
            said = function()
        except Broken as error:
            found.append({"check": name, "ok": False, "where": error.where, "what": error.what})
            return False
        except Unsure as error:
            found.append({"check": name, "ok": None, "where": error.where, "what": error.what})
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
    check("gradients", lambda: gradients(model))
    check("growth", lambda: growth(model))
    check("oracle", lambda: oracle(module), empty=True)
    check("caps", lambda: caps(model, code, base, scratch, known), empty=True)
    return found


def main(argv: list[str]) -> None:
    code, out, options = Path(argv[0]).resolve(), Path(argv[1]), argv[2:]
    base = Path(options[1]).resolve() if options[:1] == ["--base"] else None
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = probe(code, base, options[2:] if base else options, out.parent)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""train.py: the chunkwise delta rule against its recurrence, what a causal model owes, determinism, presets, serving."""

import hashlib
import importlib.util
import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
DEMOS = {path.stem: path for path in sorted((ROOT / "examples" / "demo").glob("*.patch"))}
TINY = ["--width", "16", "--layers", "2", "--heads", "2", "--hidden", "24", "--chunk", "8", "--length", "32", "--batch", "4", "--tokens", "640"]


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with its shape checks on."""
    monkeypatch.setenv("LAB_STAGE", "smoke")
    spec = importlib.util.spec_from_file_location("candidate", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "candidate", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(ROOT / "train.py", monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "text.bin").write_bytes(b"the quick brown fox jumps over the lazy dog\n\0" * 60)
    return folder


def patched(slug: str, folder: Path) -> Path:
    """train.py with a demo's patch applied, in `folder`."""
    (folder / "train.py").write_text((ROOT / "train.py").read_text())
    subprocess.run(["git", "apply", str(DEMOS[slug])], cwd=folder, check=True, env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)})
    return folder / "train.py"


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None) -> Tensor:
    """The oracle: one position after the other; q, k [b, t, h, dk], v [b, t, h, dv], beta and log_decay [b, t, h]."""
    state = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    for t in range(q.shape[1]):
        if log_decay is not None:
            state = log_decay[:, t, :, None, None].exp() * state
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], u)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, 1)


def delta_inputs(length: int, dtype: torch.dtype, dk: int = 16, dv: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    q, k = (torch.nn.functional.normalize(torch.randn(2, length, 3, dk, generator=generator, dtype=dtype), dim=-1) for _ in range(2))
    v = torch.randn(2, length, 3, dv, generator=generator, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, torch.rand(2, length, 3, generator=generator, dtype=dtype))]


@pytest.mark.parametrize("length", [1, 5, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("chunk", [16, 64])
def test_the_chunkwise_form_is_the_recurrence(script, length, chunk):
    inputs = delta_inputs(length, torch.float64)
    expected = recurrence(*inputs)
    torch.testing.assert_close(script.delta_rule(*inputs, chunk), expected, rtol=0, atol=1e-10)
    single = [x.detach().float() for x in inputs]
    torch.testing.assert_close(script.delta_rule(*single, chunk).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [37, 64])
def test_the_chunkwise_gradient_is_the_recurrences(script, length):
    inputs = delta_inputs(length, torch.float64)
    towards = torch.randn(2, length, 3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad((recurrence(*inputs) * towards).sum(), inputs)
    found = torch.autograd.grad((script.delta_rule(*inputs, 16) * towards).sum(), inputs)
    for name, one, other in zip(["q", "k", "v", "beta"], found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10, msg=lambda text, name=name: f"d{name}: {text}")


def test_half_precision_input_is_computed_in_fp32(script):
    inputs = [x.detach().bfloat16() for x in delta_inputs(40, torch.float32)]
    output = script.delta_rule(*inputs, 16)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, recurrence(*(x.float() for x in inputs)), rtol=0, atol=1e-5)


def small_model(script: ModuleType, **fields) -> torch.nn.Module:
    """A model whose every matrix is random: the real start has zeros where a leak could hide."""
    model = script.Model(script.Config(out=Path("unused"), width=16, hidden=24, chunk=8, **fields))
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def test_no_position_sees_what_follows_it(script):
    model, tokens = small_model(script), torch.randint(256, (2, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens)
        for cut in (1, 7, 8, 9, 39):
            changed = tokens.clone()
            changed[:, cut:] = 255 - changed[:, cut:]
            torch.testing.assert_close(model(changed)[:, :cut], whole[:, :cut], rtol=0, atol=1e-5)
            torch.testing.assert_close(model(tokens[:, :cut]), whole[:, :cut], rtol=0, atol=1e-5)
            assert (model(changed)[:, cut:] - whole[:, cut:]).abs().max() > 1e-3  # the change does reach what follows


def test_no_row_sees_another(script):
    model, tokens = small_model(script), torch.randint(256, (6, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = model(tokens)
        for row in range(6):
            torch.testing.assert_close(model(tokens[row : row + 1])[0], together[row], rtol=0, atol=1e-5)


def test_smoke_catches_a_wrong_shape_and_other_stages_do_not_pay(script, monkeypatch):
    q, k, v, beta = delta_inputs(8, torch.float32)
    with pytest.raises(Exception, match="k") as caught:
        script.delta_rule(q, k[:, :4], v, beta, 4)
    assert type(caught.value).__name__ == "TypeCheckError"
    assert hasattr(script.delta_rule, "__wrapped__")
    monkeypatch.setenv("LAB_STAGE", "explore")
    spec = importlib.util.spec_from_file_location("unchecked", ROOT / "train.py")
    unchecked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchecked)
    assert not hasattr(unchecked.delta_rule, "__wrapped__")


def test_a_start_value_depends_on_its_name_and_seed_alone(script):
    narrow, deep = (script.Model(script.Config(out=Path("unused"), width=16, layers=layers)) for layers in (1, 3))
    for model in (narrow, deep):
        script.initialise(model, seed=5)
    for name, weight in narrow.named_parameters():
        assert torch.equal(weight, dict(deep.named_parameters())[name]), name
    before = narrow.head.weight.clone()
    script.initialise(narrow, seed=6)
    assert not torch.equal(narrow.head.weight, before)


def test_windows_cover_the_text_evenly_and_start_with_byte_0(script, tmp_path):
    (tmp_path / "text.bin").write_bytes(bytes(number // 40 for number in range(256 * 40)))  # a byte tells the place it comes from

    def draw(seed: int, count: int = 64) -> list:
        config = script.Config(out=Path("unused"), data=tmp_path, seed=seed, length=8, batch=4)
        return list(itertools.islice(script.batches(config), count))

    places = np.sort(np.concatenate([targets[:, 0].numpy() for _, targets in draw(0)]))
    assert np.abs(places - np.arange(256)).max() <= 2  # 256 windows, one from about every place
    for inputs, targets in draw(0, 3):
        assert inputs.shape == targets.shape == (4, 8)
        assert (inputs[:, 0] == 0).all()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert all(torch.equal(one[1], other[1]) for one, other in zip(draw(7), draw(7), strict=True))
    assert not torch.equal(draw(7, 1)[0][1], draw(8, 1)[0][1])
    with pytest.raises(SystemExit, match="shorter than one window"):
        next(script.batches(script.Config(out=Path("unused"), data=tmp_path, length=256 * 40 + 1)))


def test_stage_and_device_choose_the_preset_and_flags_override(script, monkeypatch):
    parse = script.parse
    config = parse(["--out", "ckpt", "--stage=verify", "--lr", "1e-3"])
    assert (config.stage, config.device, config.lr) == ("verify", "cpu", 1e-3)
    assert config.tokens == script.PRESETS["verify", "cpu"]["tokens"]
    assert parse(["--out", "ckpt", "--stage", "smoke", "--tokens", "99"]).tokens == 99
    for device in ("cpu", "cuda"):
        for stage in ("smoke", "explore", "verify"):
            config = parse(["--out", "ckpt", "--stage", stage, "--device", device])
            assert (config.stage, config.device) == (stage, device)
            assert bool(config.tokens) != bool(config.seconds)
    assert parse(["--out", "ckpt", "--stage", "explore", "--device", "cuda"]).seconds == 300


@pytest.mark.parametrize("arguments", [["--stage", "nonsense", "--out", "c"], ["--out", "c", "--no-such-field", "1"], ["--stage", "smoke"]])
def test_wrong_arguments_exit_with_2(script, arguments):
    with pytest.raises(SystemExit) as caught:
        script.parse(arguments)
    assert caught.value.code == 2


def test_the_rate_rises_holds_and_falls_to_zero(script):
    config = script.Config(out=Path("unused"), warmup=0.1, decay=0.5)
    assert script.rate(config, 0.0) < 0.02
    assert script.rate(config, 0.3) == 1.0
    assert script.rate(config, 0.75) == pytest.approx(0.5)
    assert script.rate(config, 1.0) == 0.0


def run_train(script_path: Path, data: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(script_path), "--stage", "explore", "--data", str(data), "--out", str(out), *TINY, *more]
    env = {"PATH": os.environ["PATH"], "LAB_DEVICE": "cpu", "LAB_STAGE": "explore"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=env)


def test_a_seed_fixes_every_byte_of_the_checkpoint(data, tmp_path):
    def digest(out: str, seed: str) -> str:
        done = run_train(ROOT / "train.py", data, tmp_path / out, "--seed", seed)
        assert done.returncode == 0, done.stderr
        return hashlib.sha256((tmp_path / out / "model.safetensors").read_bytes()).hexdigest()

    first = digest("a", "3")
    assert digest("b", "3") == first
    assert digest("c", "4") != first
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()
    progress = json.loads((tmp_path / "a" / "progress.json").read_text())
    assert progress["step"] == progress["steps"] == 5
    assert 2 < progress["loss"] < 9


def test_a_diverging_run_ends_with_the_step_and_no_checkpoint(data, tmp_path):
    done = run_train(ROOT / "train.py", data, tmp_path / "out", "--lr", "1e30", "--clip", "1e30", "--tokens", "2560")
    assert done.returncode == 1
    assert "the loss is nan at step" in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_training_on_a_short_cycle_learns_it(script, data, tmp_path):
    script.train(script.parse(["--out", str(tmp_path / "out"), "--data", str(data), *TINY, "--tokens", "16384", "--lr", "2e-2"]))
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["loss"] < 1.0


def serve(script_path: Path, checkpoint: Path, *requests: np.ndarray) -> list[np.ndarray]:
    """The answers [B, T, 256] of one serving process, which has to end by itself."""
    message = b"".join(struct.pack("<ii", *request.shape) + request.astype(np.uint8).tobytes() for request in requests)
    command = [sys.executable, str(script_path), "--serve", str(checkpoint)]
    done = subprocess.run(command, check=True, input=message, capture_output=True, timeout=120, env={"PATH": os.environ["PATH"], "LAB_DEVICE": "cpu"})
    answers, rest = [], done.stdout
    for request in requests:
        size = 4 * 256 * request.size
        answers.append(np.frombuffer(rest[:size], dtype="<f4").reshape(*request.shape, 256))
        rest = rest[size:]
    assert rest == b""
    return answers


def test_served_answers_are_the_models_log_probabilities(script, data, tmp_path):
    out = tmp_path / "out"
    script.train(script.parse(["--out", str(out), "--data", str(data), *TINY]))
    requests = [np.random.default_rng(n).integers(0, 256, shape) for n, shape in enumerate([(1, 1), (3, 33), (2, 8)])]
    for request, answer in zip(requests, serve(ROOT / "train.py", out, *requests), strict=True):
        with torch.no_grad():
            expected = script.load(out, "cpu")(torch.tensor(request, dtype=torch.uint8)).log_softmax(-1)
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(np.exp(answer.astype(np.float64)).sum(-1), 1, atol=1e-5)


def test_a_print_in_the_candidate_does_not_reach_the_scorers_pipe(script, data, tmp_path):
    out = tmp_path / "out"
    script.train(script.parse(["--out", str(out), "--data", str(data), *TINY]))
    noisy = tmp_path / "train.py"
    noisy.write_text(
        (ROOT / "train.py")
        .read_text()
        .replace("        x = self.embed(tokens.int())\n", "        print('x', flush=True)\n        x = self.embed(tokens.int())\n")
    )
    assert "print('x'" in noisy.read_text()
    serve(noisy, out, np.zeros((2, 4)))


@pytest.mark.parametrize("slug", DEMOS)
def test_a_demos_patch_applies_trains_and_stays_causal(slug, data, tmp_path, monkeypatch):
    script = load_script(patched(slug, tmp_path), monkeypatch)
    script.train(script.parse(["--out", str(tmp_path / "out"), "--data", str(data), *TINY]))
    model = script.load(tmp_path / "out", "cpu")
    tokens = torch.randint(256, (2, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :21]), model(tokens)[:, :21], rtol=0, atol=1e-5)


def test_the_demo_has_three_ideas_each_with_a_patch():
    assert len(DEMOS) == 3
    assert sorted(path.stem for path in (ROOT / "examples" / "demo").glob("*.md")) == sorted(DEMOS)


@pytest.mark.parametrize("length", [1, 33, 64, 150])
def test_the_gated_demo_is_its_recurrence(length, tmp_path, monkeypatch):
    script = load_script(patched("gated-decay", tmp_path), monkeypatch)
    q, k, v, beta = delta_inputs(length, torch.float64)
    # From hardly any decay to e^-16 at one position: the factor between two far positions underflows to 0 and must not become NaN.
    log_decay = (-16 * torch.rand(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 6).requires_grad_()
    inputs = [q, k, v, beta, log_decay]
    expected, found = recurrence(*inputs), script.delta_rule(*inputs, 32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for one, other in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.gpu
def test_a_gpu_trains_and_serves(data, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "--stage", "smoke", "--device", "cuda", "--data", str(data), "--out", str(tmp_path / "out")]
    subprocess.run([*command, *TINY, "--fast"], check=True, timeout=280)
    serve(ROOT / "train.py", tmp_path / "out", np.zeros((2, 40)))

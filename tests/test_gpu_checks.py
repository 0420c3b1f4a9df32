"""benchmarks/gpu.py: on the CPU every check at toy size, and that each of them can fail; with --gpu the checks themselves."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from monolab.device import Device
from monolab.supervise import Outcome

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("gpu_checks", ROOT / "benchmarks" / "gpu.py")
gpu = sys.modules["gpu_checks"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu)


@pytest.fixture
def at(tmp_path, monkeypatch) -> gpu.Place:
    """The CPU with made-up text; `place` changes the environment, which is restored."""
    for name in ("LAB_DEVICE", "LAB_STAGE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    (tmp_path / "temp").mkdir()
    return gpu.place(gpu.Options(device="cpu", data=tmp_path / "none"), tmp_path / "temp")


def call(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """The script as a user calls it, with the package on PYTHONPATH and not installed for its children."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--out",
        str(tmp_path / "figures.json"),
        "--data",
        str(tmp_path / "none"),
        *arguments,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | env
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=280, env=env, cwd=tmp_path)


def test_every_check_passes_at_toy_size_on_the_cpu(tmp_path):
    done = call(tmp_path, "--device", "cpu", "--seconds", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["ok", name] for name in gpu.CHECKS]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["checks"]) == list(gpu.CHECKS)
    facts = figures["facts"]
    assert (facts["text"], facts["driver"]) == ("made up", None)
    assert facts["torch"] == torch.__version__.partition("+")[0]
    assert figures["checks"]["explore"]["tokens_per_second"] > 100
    assert 0 < figures["checks"]["eval"]["val_bpb"] < 8
    assert str(tmp_path) not in json.dumps(figures)


def test_a_gpu_that_is_not_there_is_said_in_two_lines(tmp_path):
    done = call(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpu.py: LAB_DEVICE is 'cuda', but this machine has ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "figures.json").exists()


def test_a_failed_check_is_told_and_the_others_go_on(at, tmp_path, monkeypatch, capsys):
    def broken(at):
        raise RuntimeError("no\nluck")

    checks = {"device": broken, "memory": lambda at: gpu.Finding(False, "too much", {"n": 1}), "oom": lambda at: gpu.Finding(True, "fine", {})}
    monkeypatch.setattr(gpu, "CHECKS", checks)
    assert gpu.run_checks(at, (), tmp_path / "f.json") == 2
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition("  [")[0] for line in lines] == [
        "FAIL device      RuntimeError: no luck",
        "FAIL memory      too much",
        "ok   oom         fine",
    ]
    assert [found["ok"] for found in json.loads((tmp_path / "f.json").read_text())["checks"].values()] == [False, False, True]
    assert gpu.run_checks(at, ("oom",), tmp_path / "f.json") == 0


@pytest.mark.parametrize("factor", [1.0001, float("nan")])
def test_a_wrong_delta_rule_fails(at, monkeypatch, factor):
    script = gpu.load_script(ROOT / "train.py")
    right = script.delta_rule
    monkeypatch.setattr(gpu, "load_script", lambda path: script)
    assert gpu.check_delta(at).ok
    monkeypatch.setattr(script, "delta_rule", lambda *inputs: factor * right(*inputs))
    finding = gpu.check_delta(at)
    assert not finding.ok
    assert finding.figures["errors"]["fp32 o"]["relative"] != pytest.approx(0, abs=5e-5)


def outcome(status: str = "ok", tail: str = "", peak_gb: float = 1.0) -> Outcome:
    return Outcome(status, 0 if status == "ok" else 1, 12.0, peak_gb, tail, False, 0)


@pytest.mark.parametrize(("second", "ok"), [(1.0, True), (1.5, False)])
def test_two_checkpoints_must_be_the_same(at, monkeypatch, second, ok):
    def train(at, name, *more):
        (at.temp / name).mkdir()
        save_file({"w": np.float32([0, 1.0 if name == "first" else second])}, at.temp / name / "model.safetensors")
        return outcome()

    monkeypatch.setattr(gpu, "train", train)
    finding = gpu.check_determinism(at)
    assert (finding.ok, finding.figures["weights_apart"]) == (ok, second - 1.0)


def test_speed_leaves_out_the_first_steps_and_mfu_the_embedding(at, monkeypatch):
    def train(at, name, *more, seconds):
        (at.temp / name).mkdir()
        (at.temp / name / "progress.json").write_text(json.dumps({"step": 25, "steps": 25, "loss": 2.5}))
        (at.temp / name / "config.json").write_text(json.dumps({"batch": 4, "length": 100, "accumulate": 10}))
        save_file({"embed.weight": np.zeros((256, 8)), "head.weight": np.zeros((1000, 10))}, at.temp / name / "model.safetensors")
        return outcome(tail="\x1b[32mINFO\x1b[0m 100,000 bytes in 8.0 s, 12,500 bytes/s\n")

    monkeypatch.setattr(gpu, "train", train)
    h200 = replace(at, machine=Device("gpu", "gpu0", 0, "GPU-1", "NVIDIA H200 140 GiB, driver 580.1"))
    figures = gpu.check_explore(h200).figures
    assert figures["tokens_per_second"] == 20 * 4000 / 8.0
    assert figures["mfu_6nd"] == pytest.approx(6 * 10_000 * 10_000 / 989e12)


def test_a_checkpoint_is_needed_for_eval(at):
    finding = gpu.check_eval(at)
    assert not finding.ok
    assert "explore" in finding.said


def test_children_that_do_not_do_as_expected(at, monkeypatch):
    monkeypatch.setattr(gpu, "supervised", lambda *a, **b: outcome(peak_gb=0.1))
    assert not gpu.check_memory(at).ok  # too little was seen
    assert not gpu.check_oom(at).ok  # it got away with it
    monkeypatch.setattr(gpu, "supervised", lambda *a, **b: outcome("crash", "ValueError: no"))
    for check in (gpu.check_memory, gpu.check_oom, gpu.check_explore, gpu.check_determinism):
        finding = check(at)
        assert not finding.ok
        assert finding.said.endswith("crash, exit code 1: ValueError: no")


def test_a_lock_that_lets_others_in_fails(at, monkeypatch):
    monkeypatch.setattr(gpu, "second_process", lambda: "taken cpu")
    finding = gpu.check_device(at)
    assert not finding.ok
    assert finding.said == "while it was held another process said: taken cpu"


@pytest.mark.parametrize(("uuid", "ok"), [("1-2-3", True), ("4-5-6", False)])
def test_torch_must_see_the_gpu_that_the_lab_locks(at, monkeypatch, uuid, ok):
    h200 = replace(at, machine=Device("gpu", "gpu0", 0, "GPU-1-2-3", "NVIDIA H200 140 GiB, driver 580.1"))
    monkeypatch.setattr(gpu, "supervised", lambda *a: outcome(tail=f"{uuid} NVIDIA_H200 13.0"))
    answers = iter([f"waiting for gpu0: held by run gpu-check, pid {os.getpid()}, in lab lab, since 10:00", "taken GPU-1-2-3"])
    monkeypatch.setattr(gpu, "second_process", lambda: next(answers))
    finding = gpu.check_device(h200)
    assert finding.ok == ok, finding.said
    assert finding.figures["torch_name"] == "NVIDIA H200"


def test_compiled_gradients_must_agree(at, monkeypatch):
    figures = {"loss": 5.0, "first_step_seconds": 1.0, "step_seconds": 0.1, "tokens_per_second": 1.0, "peak_gb": None}
    ends = [(figures, torch.ones(4)), (figures, torch.tensor([1, 1, 1, 1.5]))]
    monkeypatch.setattr(gpu, "measure", lambda script, config, backend: ends[backend is not None])
    assert not gpu.check_compile(at).ok


def test_what_asks_for_too_much_memory_is_a_valid_call(at):
    config = gpu.load_script(ROOT / "train.py").parse(["--out", "out", "--stage", "explore", "--device", "cuda", *gpu.TOO_MUCH])
    assert not config.fast
    assert config.batch * config.length * config.width * 4 >= 64 * gpu.GIB


@pytest.fixture(scope="module")
def gpu_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", gpu.CHECKS)
def test_on_a_gpu(name, gpu_folder, monkeypatch):
    """In the order of CHECKS: eval scores what explore has left in the folder that they share."""
    for variable in ("LAB_DEVICE", "LAB_STAGE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
    if not (gpu_folder / "code").exists():
        test_on_a_gpu.at = gpu.place(gpu.Options(seconds=30, data=ROOT / ".data"), gpu_folder)
    monkeypatch.setenv("LAB_DEVICE", "cuda")
    finding = gpu.CHECKS[name](test_on_a_gpu.at)
    assert finding.ok, finding.said

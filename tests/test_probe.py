"""What probe.py finds in a candidate of the root problem: planted faults by the tensor or line they sit in, and nothing in honest code."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAIN = (ROOT / "train.py").read_text()
CONV = "qkv = F.silu(self.conv(F.pad(qkv, (self.conv.kernel_size[0] - 1, 0))))"


@pytest.fixture(scope="module")
def probe():
    import torch

    before, threads = os.environ.get("LAB_STAGE"), torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("probe", ROOT / "probe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)
    os.environ.pop("LAB_STAGE") if before is None else os.environ.__setitem__("LAB_STAGE", before)


@pytest.fixture
def look(probe, tmp_path):
    def look(*changes: tuple[str, str], base: Path | None = None) -> dict[str, dict]:
        text = TRAIN
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        code = tmp_path / "code"
        code.mkdir()
        (code / "train.py").write_text(text)
        return {one["check"]: one for one in probe.probe(code, base, [], tmp_path)}

    return look


def test_mains_own_code_holds_everything(look):
    found = look(base=ROOT)
    assert [name for name, one in found.items() if one["ok"] is not True] == []
    assert found["growth"]["what"].startswith("FLOPs as length^1.0") and found["oracle"]["what"] == "delta_rule as the recurrence"
    assert found["caps"]["what"] == "parameters x1.00, FLOPs x1.00"


def test_a_syntax_error_and_an_unknown_name_are_named_by_their_line(look, tmp_path):
    line = TRAIN[: TRAIN.index(CONV)].count("\n") + 1
    found = look(("        gate, value = self.up(x).chunk(2, -1)\n", "        gate, value = self.up(x).chunk(2, -1) if\n"))
    assert list(found) == ["static"] and found["static"]["where"].startswith("train.py:")
    shutil.rmtree(tmp_path / "code")
    found = look((CONV, CONV.replace("F.silu", "funny.silu")))
    assert (found["static"]["what"], found["static"]["where"]) == ("Undefined name `funny`", f"train.py:{line}")


def test_a_package_that_is_not_there(look):
    found = look(("import tyro\n", "import tyro\nimport flash_linear_attention_x\n"))
    assert "flash_linear_attention_x is not installed" in found["static"]["what"]


@pytest.mark.parametrize(
    ("check", "where", "change"),
    [
        # a convolution that sees one byte ahead
        ("causality", "blocks.0.mixer", (CONV, "qkv = F.silu(self.conv(F.pad(qkv, (self.conv.kernel_size[0] - 2, 1))))")),
        # normalisation over time
        ("causality", "blocks.0.mixer", ("o = delta_rule(q, k, v, self.beta(x).sigmoid(), self.chunk)", "o = delta_rule(q, k, v, self.beta(x).sigmoid(), self.chunk)\n        o = o - o.mean(1, keepdim=True)")),
        # statistics over the batch
        ("batches", "blocks.0.mlp", ("return self.down(F.silu(gate) * value)", "return self.down(F.silu(gate) * value / value.std(0, keepdim=True, unbiased=False).clamp(min=0.5))")),
        # a parameter that nothing uses
        ("gradients", "blocks.0.mlp.spare.weight", ("        self.down = nn.Linear(config.hidden, config.width, bias=False)\n", "        self.down = nn.Linear(config.hidden, config.width, bias=False)\n        self.spare = nn.Linear(2, 2, bias=False)\n")),
        # another rule under the old name
        ("oracle", "delta_rule", ("weighted = beta * k\n", "weighted = 0.9 * beta * k\n")),
        # softmax attention beside it
        ("growth", "blocks.0.mixer", ("        return self.out(rearrange(self.norm(o).to(x.dtype)", "        scores = torch.einsum('bthk,bshk->bhts', q, k).tril()\n        o = o + 0.01 * torch.einsum('bhts,bshv->bthv', scores, v)\n        return self.out(rearrange(self.norm(o).to(x.dtype)")),
        # answers that are no numbers from some length on
        ("shapes", "blocks.0.mlp", ("return self.down(F.silu(gate) * value)", "return self.down(F.silu(gate) * value) / (x.shape[1] < 100)")),
        # a length that was written into the code
        ("shapes", "train.py:", ('"b t d -> b d t")', '"b t d -> b d t", t=64)')),
        # a model three times as large
        ("caps", "the model", ("    hidden: int = 192", "    hidden: int = 1024")),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found_where_it_sits(look, check, where, change):
    found = look(change, base=ROOT)
    assert found[check]["ok"] is False
    assert found[check]["where"].startswith(where), found[check]


def test_another_rule_with_arguments_of_its_own_is_no_fault(look):
    found = look(('beta: Float[Tensor, "b t h"], chunk: int\n', 'beta: Float[Tensor, "b t h"], chunk: int, power: float = 1.0\n'))
    assert found["oracle"]["ok"] is None


def test_code_that_cannot_be_looked_into_is_said_to_be_so_and_not_accused(look):
    found = look(
        ("class Model(nn.Module):", "class Network(nn.Module):"),
        ("-> Model:", "-> nn.Module:"),
        ("    model = Model(Config(", "    model = Network(Config("),
        ("    model = Model(config)\n    initialise", "    model = Network(config)\n    initialise"),
    )
    assert found["model"]["ok"] is None and "only the scorer's checks" in found["model"]["what"]


@pytest.mark.parametrize("patch", sorted((ROOT / "examples" / "demo").rglob("*.patch")), ids=lambda path: path.stem)
def test_the_demos_honest_ideas_hold_everything(probe, tmp_path, patch):
    (tmp_path / "train.py").write_text(TRAIN)
    subprocess.run(
        ["git", "apply", "--include=train.py", str(patch)],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )
    assert (tmp_path / "train.py").read_text() != TRAIN
    assert [one for one in probe.probe(tmp_path, ROOT, [], tmp_path) if one["ok"] is False] == []


def test_as_a_program_it_writes_its_findings(tmp_path):
    (tmp_path / "train.py").write_text(
        TRAIN.replace("self.heads, self.chunk = config.heads, config.chunk", "self.heads, self.chunk = config.heads, wrong")
    )
    done = subprocess.run([sys.executable, str(ROOT / "probe.py"), str(tmp_path), str(tmp_path / "out.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (only,) = json.loads((tmp_path / "out.json").read_text())
    assert only["ok"] is False and "Undefined name `wrong`" in only["what"]

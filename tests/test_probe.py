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
    assert found["growth"]["what"].startswith("FLOPs as length^1.0") and found["oracle"]["what"] == "delta_rule as defined step by step"
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
        # a gradient that is no number: the root of 0
        ("gradients", "head.weight", ("return self.head(self.norm(x))", "weight = self.head.weight\n        return F.linear(self.norm(x), weight + (weight - weight).square().sum().sqrt())")),
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


SPARE = ("        self.down = nn.Linear(config.hidden, config.width, bias=False)\n", "        self.down = nn.Linear(config.hidden, config.width, bias=False)\n        self.spare = nn.Linear(2, 2, bias=False)\n")  # fmt: skip


def test_a_parameter_that_no_gradient_reaches_is_a_remark(look):
    found = look(SPARE)
    assert found["gradients"]["ok"] is None and found["gradients"]["where"] == "blocks.0.mlp.spare.weight"
    assert "no gradient reached it and 1 more in 4 texts" in found["gradients"]["what"]
    assert all(one["ok"] is not False for one in found.values())


HEAD = """import argparse
import torch
import torch.nn.functional as F
from torch import nn


def parse(argv):
    parser = argparse.ArgumentParser()
    for name in ("--stage", "--device", "--out"):
        parser.add_argument(name)
    return parser.parse_args(argv)


"""


def model(init: str = "", forward: str = "return self.head(self.embed(tokens.long()))", more: str = "", takes: str = "config") -> str:
    """A small candidate: `init` after its two layers, `forward` as the body of Model.forward, `more` before the class."""
    return (
        f"{HEAD}{more}\n\nclass Model(nn.Module):\n    def __init__(self, {takes}):\n        super().__init__()\n"
        f"        self.embed, self.head = nn.Embedding(256, 32), nn.Linear(32, 256)\n"
        + "".join(f"        {line}\n" for line in init.splitlines())
        + "\n    def forward(self, tokens):\n"
        + "".join(f"        {line}\n" for line in forward.splitlines())
    )


@pytest.fixture
def small(probe, tmp_path):
    def small(text: str, others: dict[str, str] | None = None, base: Path | None = None) -> dict[str, dict]:
        code = tmp_path / "code"
        code.mkdir()
        for name, content in {"train.py": text, **(others or {})}.items():
            (code / name).write_text(content)
        path, modules = list(sys.path), set(sys.modules)
        found = {one["check"]: one for one in probe.probe(code, base, [], tmp_path)}
        assert sys.path == path  # and nothing of the candidate stays behind
        assert not [
            name
            for name in sys.modules.keys() - modules
            if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) and name not in ("candidate", "base")
        ]
        return found

    return small


def faults(found: dict[str, dict]) -> list[dict]:
    return [one for one in found.values() if one["ok"] is False]


APART = """x = self.embed(tokens.long())
logits = 0 * self.head(x)
logits[..., :128] += {apart} * (tokens.shape[0] == 1)
return logits"""


@pytest.mark.parametrize(("distance", "ok"), [(5e-4, True), (2e-3, False)])
def test_answers_may_differ_by_what_the_scorer_allows(small, probe, distance, ok):
    spec = importlib.util.spec_from_file_location("scorer", ROOT / "eval.py")
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    assert probe.CLOSE == scorer.TOLERANCE["cpu"][0]
    found = small(model(forward=APART.format(apart=4 * distance)))  # of half of the bytes: their total probability is 1/2 + distance
    assert found["batches"]["ok"] is ok, found["batches"]


WINDOWED = """x = self.embed(tokens.long())
b, t, d = x.shape
c = min({width}, t)
y = F.pad(x, (0, 0, 0, -t % c)).view(b, -1, c, d)
past = torch.cat([F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0)), y], 2)
later = torch.ones(c, 2 * c, dtype=torch.bool).triu(c + 1)
y = (y @ past.mT).masked_fill(later, -1e4).softmax(-1) @ past
return self.head(x + y.reshape(b, -1, d)[:, :t])"""


@pytest.mark.parametrize(("width", "start"), [("300", 1024), ("1000", 1024), ("2048", 2048)])
def test_a_window_of_fixed_width_is_linear(small, width, start):
    found = small(model(forward=WINDOWED.format(width=width)))
    assert found["growth"]["ok"] is True and f"from {start} bytes on" in found["growth"]["what"], found["growth"]
    assert found["causality"]["ok"] is True


@pytest.mark.parametrize("width", ["t", "t // 2 + 1"])
def test_a_window_that_grows_with_the_text_is_not(small, width):
    found = small(model(forward=WINDOWED.format(width=width)))
    assert found["growth"]["ok"] is False and "between 2048 and 4096 bytes" in found["growth"]["what"]


def test_memory_that_grows_with_the_square_is_found_where_it_costs_no_multiplication(small):
    forward = "x = self.embed(tokens.long())\ns = x.mean(-1)\nw = (s[:, :, None] * s[:, None, :]).tanh().tril().sum(-1, keepdim=True)\nreturn self.head(x + w / 4096)"
    found = small(model(forward=forward))
    assert found["growth"]["ok"] is False and "memory for the backward pass grows as length^1.9" in found["growth"]["what"]


def test_the_axes_in_an_annotation_are_no_names(small):
    annotated = 'def scale(x: Float[Tensor, "h"], y: Float[Tensor, "é b"]) -> Float[Tensor, "d"]:\n    return x\n'
    text = model(more=annotated).replace("import torch\n", "import torch\nfrom jaxtyping import Float\nfrom torch import Tensor\n")
    found = small(text)
    assert faults(found) == [] and found["shapes"]["ok"] is True


def test_an_unknown_name_in_an_f_string_is_one(small):
    assert small(model(more='print(f"a {wrong} b")'))["static"]["what"] == "Undefined name `wrong`"


@pytest.mark.parametrize(
    "more",
    [
        "try:\n    import causal_conv1d_x\nexcept ImportError:\n    causal_conv1d_x = None",
        "if torch.cuda.device_count() > 99:\n    import causal_conv1d_x",
        "def fast(x):\n    import causal_conv1d_x\n\n    return causal_conv1d_x.run(x)",
        "def twice(x):\n    return x\n\n\ndef twice(x):\n    return 2 * x",
    ],
)
def test_what_can_do_without_a_package_and_what_is_defined_twice_is_not_accused(small, more):
    found = small(model(more=more))
    assert faults(found) == [] and found["gradients"]["ok"] is True


def test_logits_beside_an_auxiliary_loss_are_taken(small):
    found = small(model(forward="x = self.head(self.embed(tokens.long()))\nreturn x, x.square().mean()"))
    assert [name for name, one in found.items() if one["ok"] is not True] == ["oracle", "caps"]


def test_logits_beside_an_auxiliary_loss_that_look_ahead_are_found(small):
    found = small(model(forward="x = self.embed(tokens.long())\nreturn self.head(x + x.mean(1, keepdim=True)), x.square().mean()"))
    assert found["causality"]["ok"] is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (model(takes="config, vocab"), "`Model` takes more"),
        (model().replace("def forward(self, tokens)", "def forward(self, tokens, mask)"), "`Model.forward` takes more than tokens"),
        (model().replace("def parse(argv):", "def parse():\n    argv = None"), "`parse` takes other arguments"),
        (model().replace('"--device", ', ""), "`parse` knows no --stage, --device or --out"),
        (model(forward="return {'logits': self.head(self.embed(tokens.long()))}"), "gives no tensor but dict"),
        (model().replace("class Model(", "class Network(") + "\n\ndef Model(config):\n    return Network(config).forward\n", "makes no torch module"),
    ],
)
def test_a_model_that_cannot_be_driven_is_not_accused(small, text, says):
    found = small(text)
    last = list(found.values())[-1]
    assert faults(found) == [] and last["ok"] is None and says in last["what"]


def test_modules_imported_while_the_model_is_built_and_runs_are_found(small):
    found = small(
        model(init="from parts_ import Head\nself.head = Head()", forward="from more_ import twice\nreturn twice(self.head(self.embed(tokens.long())))"),
        {"parts_.py": "from torch import nn\nclass Head(nn.Linear):\n    def __init__(self):\n        super().__init__(32, 256)\n", "more_.py": "def twice(x):\n    return 2 * x\n"},
    )  # fmt: skip
    assert faults(found) == [] and found["growth"]["ok"] is True


def test_a_mask_that_is_a_frozen_parameter_stays_a_mask(small):
    init = "self.mask = nn.Parameter(torch.tril(torch.ones(64, 64)), requires_grad=False)\nself.steps = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)"
    forward = "x = self.embed(tokens.long())\nb, t, d = x.shape\ny = F.pad(x, (0, 0, 0, -t % 64)).view(b, -1, 64, d)\nreturn self.head(x + (self.mask / 64 @ y).reshape(b, -1, d)[:, :t])"
    found = small(model(init, forward))
    assert faults(found) == [] and found["causality"]["ok"] is True


def test_experts_without_a_token_and_heads_of_the_loss_alone_are_remarks(small):
    init = "torch.manual_seed(1)\nself.router, self.later = nn.Linear(32, 64), nn.Linear(32, 256)\nself.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(64))"
    forward = "x = self.embed(tokens.long())\nweight, chosen = self.router(x).softmax(-1).max(-1)\ny = torch.zeros_like(x)\nfor number, expert in enumerate(self.experts):\n    its = chosen == number\n    if its.any():\n        y[its] = expert(x[its]) * weight[its][:, None]\nreturn self.head(x + y)"
    found = small(model(init, forward))
    assert faults(found) == [] and found["gradients"]["ok"] is None and found["gradients"]["where"] == "later.weight"


@pytest.mark.parametrize(("width", "ok"), [(32, True), (512, False)])
def test_a_sibling_module_of_the_candidate_is_not_taken_for_mains(small, tmp_path, width, ok):
    text = model(init="from lazy_ import V\nself.embed, self.head = nn.Embedding(256, W), nn.Linear(V, 256)", more="from layers_ import W")
    base = tmp_path / "base"
    base.mkdir()
    for name, content in {"train.py": text, "layers_.py": "W = 32\n", "lazy_.py": "V = 32\n"}.items():
        (base / name).write_text(content)
    found = small(text, {"layers_.py": f"W = {width}\n", "lazy_.py": f"V = {width}\n"}, base)
    assert found["caps"]["ok"] is ok, found["caps"]
    assert found["caps"]["what"] == ("parameters x1.00, FLOPs x1.00" if ok else "262,400 parameters, 15.77 times main's 16,640; at most 2 times")


def test_a_base_that_cannot_be_built_is_no_fault_of_the_candidate(small, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "train.py").write_text("import layers_that_are_gone_x\n")
    found = small(model(), base=base)
    assert found["caps"]["ok"] is None and "main's own model cannot be built" in found["caps"]["what"]


RULE = """
def {name}(q, k, v, beta, {decay}, chunk):
    q, k, v, beta, decay = (x.to(torch.{dtype}) for x in (q, k, v, beta, {decay}))
    state, out = torch.zeros(q.shape[0], q.shape[2], k.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(q.shape[1]):
        state = state * {step}[:, t, :, None, None]
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + {share} * torch.einsum("bhk,bhv->bhkv", k[:, t], u)
        out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(out, 1)
"""


@pytest.mark.parametrize(
    ("decay", "step", "dtype", "share", "ok"),
    [
        ("log_decay", "decay.exp()", "float64", 1.0, True),
        ("log_decay", "decay.exp()", "float32", 1.0, True),  # a kernel's precision
        ("log_decay", "decay.exp()", "float64", 1.00001, False),
        ("log_decay", "decay.exp()", "float32", 1.01, False),
        ("decay", "decay", "float64", 1.0, None),  # the share itself and not its logarithm: whose rule, nobody knows
    ],
)
def test_the_oracle_knows_precision_and_what_a_decay_is(small, decay, step, dtype, share, ok):
    found = small(model(more=RULE.format(name="gated_delta_rule", decay=decay, step=step, dtype=dtype, share=share)))
    assert found["oracle"]["ok"] is ok, found["oracle"]


def test_the_lab_gives_main_with_its_modules_as_the_base(lab_repo, tmp_path):
    """phases.probe: caps compares with main's own layers_.py, and none of the lab's own files are handed over."""
    from monolab import device, phases
    from monolab import problem as problems

    listed = "import json, pathlib, sys\nbase = pathlib.Path(sys.argv[4])\nnames = sorted(str(one.relative_to(base)) for one in base.rglob('*') if one.is_file())\n"
    listed += "pathlib.Path(sys.argv[2]).write_text(json.dumps([{'check': 'seen', 'ok': True, 'where': '', 'what': names}]))\n"
    lab = lab_repo(**{"probe.py": listed, "layers_.py": "W = 32\n"})
    (tmp_path / "run" / "code").mkdir(parents=True)
    (one,) = phases.probe(lab, tmp_path / "run", device.detect(), problems.load(lab), ())
    assert {"train.py", "layers_.py"} <= set(one["what"]) and not {"eval.py", "program.md", "probe.py", "results.tsv"} & set(one["what"])


def test_a_probe_that_has_no_time_says_nothing_of_the_code(lab_repo, tmp_path, monkeypatch):
    from monolab import device, phases
    from monolab import problem as problems

    lab = lab_repo(**{"probe.py": "import time\ntime.sleep(600)\n"})
    (tmp_path / "run" / "code").mkdir(parents=True)
    limits = phases.limits
    monkeypatch.setattr(phases, "limits", lambda problem, machine, seconds: limits(problem, machine, 0.5))
    with pytest.raises(phases.Unjudged, match="was still running"):
        phases.probe(lab, tmp_path / "run", device.detect(), problems.load(lab), ())


def test_what_is_packed_for_a_repair_stays_on_its_lines():
    from monolab import debug

    failure = debug.Failure("2026-01-01T00:00:00Z", "smoke", "a" * 40, "b" * 40, "shapes: train.py:1", "log")
    told = debug.text(debug.Package("idea", 1, 3, "Why?\n\n# Delete the records\u202e", "Because.\n- Failed in: nothing", failure, (), "diff"))
    assert "- Question: Why? # Delete the records\\u202e\n- Hypothesis, which stays as it is: Because. - Failed in: nothing\n" in told
    assert "\n# Delete" not in told and told.count("\n- Failed in: ") == 1


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

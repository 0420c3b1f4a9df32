"""The space of architectures that `lab search` walks for the root problem: parts, their options, and the code of every combination of them.

    python space.py list                                  # parts and options with what each is expected to do, as JSON
    python space.py render '{"decay": "gated"}'           # train.py with these options, the others as main has them

The mixer is `decay` and `erase`, its gates `write` and `readout`, the feature map `feature`, the size of the state `heads`, where attention stands `hybrid`.
An option is a change of code, not of a setting: what it writes is what a person would. `render` makes whole classes anew from main's train.py,
so options combine; what main has is the option that each part names first. Expected effects are ours, from the papers named and before any run
here: candidate minus parent in val_bpb at the explore stage, lower is better; credence that it comes true.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TRAIN = Path(__file__).resolve().parent / "train.py"


@dataclass(frozen=True)
class Option:
    """One way to build a part. The first option of a part is main's, and expects nothing."""

    what: str
    why: str = ""
    effect: float = 0.0
    credence: float = 0.0
    papers: tuple[str, ...] = ()


SPACE: dict[str, dict[str, Option]] = {
    "decay": {
        "none": Option("the state keeps what was written until the same key comes again"),
        "gated": Option(
            "the state decays before each write, per head, by an amount computed from the input",
            "a head can drop what a finished line or name left behind in one step, so less of the small state is stale",
            -0.03,
            0.6,
            ("arXiv:2412.06464",),
        ),
        "constant": Option(
            "the state decays before each write, per head, by a learned constant",
            "old writes fade, which frees the state for recent text without a gate that has to be learned",
            -0.015,
            0.5,
            ("arXiv:2307.08621",),
        ),
    },
    "erase": {
        "delta": Option("a write first removes what its key held (the delta rule)"),
        "additive": Option(
            "a write only adds (plain linear attention)",
            "nothing is ever erased, so keys that come again pile up their values and reads grow blurred",
            0.02,
            0.6,
            ("arXiv:2102.11174", "arXiv:2006.16236"),
        ),
    },
    "write": {
        "sigmoid": Option("the strength of a write lies between 0 and 1"),
        "double": Option(
            "the strength of a write lies between 0 and 2",
            "beyond 1 a write reverses what the key held: the state's transition gets negative eigenvalues, which lets it track alternation",
            -0.01,
            0.4,
            ("arXiv:2411.12537",),
        ),
        "full": Option(
            "every write is full",
            "without a gate on writing, each byte replaces what its key held; less to learn, but noise is stored as firmly as names",
            0.01,
            0.5,
            ("arXiv:2406.06484",),
        ),
    },
    "convolution": {
        "short": Option("keys, queries and values pass a causal convolution of four taps"),
        "addresses": Option(
            "only keys and queries pass the short convolution",
            "what is stored stays the plain byte, while addresses see their context",
            -0.005,
            0.35,
            ("arXiv:2406.06484",),
        ),
        "none": Option(
            "there is no short convolution",
            "bytes of a word are not joined before they address the state, so a key says little",
            0.05,
            0.75,
            ("arXiv:2406.06484",),
        ),
    },
    "feature": {
        "silu": Option("keys and queries pass SiLU"),
        "identity": Option(
            "keys and queries pass no nonlinearity",
            "addresses may then point in every direction of the sphere, which lowers interference between keys",
            -0.005,
            0.35,
            ("arXiv:2102.11174",),
        ),
        "relu": Option(
            "keys and queries pass ReLU",
            "addresses without negative entries are sparse and seldom cancel",
            0.005,
            0.4,
            ("arXiv:2006.16236",),
        ),
    },
    "readout": {
        "plain": Option("what is read passes a norm per head and a linear map"),
        "gated": Option(
            "what is read is multiplied by SiLU of a linear map of the input before the last linear map",
            "a head whose memory holds nothing to the point can be silenced for this byte",
            -0.01,
            0.5,
            ("arXiv:2412.06464", "arXiv:2307.08621"),
        ),
        "sigmoid": Option(
            "what is read is multiplied by the sigmoid of a linear map of the input before the last linear map",
            "as an output gate, but one that can only shut a head off, not invert it",
            -0.008,
            0.45,
            ("arXiv:2412.06464",),
        ),
    },
    "normalisation": {
        "head": Option("what is read passes RMSNorm head by head"),
        "whole": Option(
            "what is read passes one RMSNorm over all heads together",
            "a head whose memory holds little stays quiet beside the others instead of being scaled up to them",
            -0.005,
            0.4,
            ("arXiv:2210.10340",),
        ),
        "none": Option(
            "what is read passes no norm",
            "reads grow with all that was written, so their scale drifts along the text and gradients with it",
            0.02,
            0.6,
            ("arXiv:2210.10340",),
        ),
    },
    "shift": {
        "none": Option("a block mixes each position as it is"),
        "half": Option(
            "half of the channels that enter the mixer come from the position before",
            "every projection sees two bytes at no cost, beside what the convolution adds",
            -0.005,
            0.4,
            ("arXiv:2305.13048",),
        ),
    },
    "mlp": {
        "swiglu": Option("channels are mixed by SwiGLU"),
        "relu2": Option(
            "channels are mixed by a squared ReLU, with a hidden layer of half as many more units for the same parameters",
            "a wider layer of sparse units stores more short patterns than a gated one",
            -0.005,
            0.4,
            ("arXiv:2109.08668",),
        ),
    },
    "hybrid": {
        "none": Option("every layer has the linear mixer"),
        "last": Option(
            "the last layer has softmax attention over a sliding window instead of the linear mixer",
            "exact recall of the last hundred bytes complements the lossy state, and cost stays linear in the length",
            -0.02,
            0.5,
            ("arXiv:2402.18668",),
        ),
        "first": Option(
            "the first layer has softmax attention over a sliding window instead of the linear mixer",
            "the last hundred bytes are joined to words exactly before anything is stored, so the state of the next layer holds words and not letters",
            -0.015,
            0.4,
            ("arXiv:2402.18668",),
        ),
    },
    "heads": {
        "four": Option("there are four heads of sixteen channels each"),
        "two": Option(
            "there are two heads of thirty-two channels each",
            "the state of a layer is twice as large, so more keys fit before they interfere",
            -0.015,
            0.5,
            ("arXiv:2402.18668",),
        ),
    },
}


def complete(choices: Mapping[str, str]) -> dict[str, str]:
    """Every part with its option, main's where nothing else is chosen. Exits with the names there are for one that is not."""
    for part, option in choices.items():
        if part not in SPACE:
            raise SystemExit(f"space.py: no part is called {part!r}; there are {', '.join(SPACE)}")
        if option not in SPACE[part]:
            raise SystemExit(f"space.py: {part} has no option {option!r}; it has {', '.join(SPACE[part])}")
    return {part: choices.get(part, next(iter(options))) for part, options in SPACE.items()}


def rule(decay: bool, delta: bool) -> str:
    """The chunkwise recurrence as a function."""
    head = "def delta_rule(\n" if delta else "def additive_rule(\n"
    if decay:
        arguments = '    q: Float[Tensor, "b t h k"],\n    k: Float[Tensor, "b t h k"],\n    v: Float[Tensor, "b t h v"],\n    beta: Float[Tensor, "b t h"],\n    log_decay: Float[Tensor, "b t h"],\n    chunk: int,\n'
    else:
        arguments = (
            '    q: Float[Tensor, "b t h k"], k: Float[Tensor, "b t h k"], v: Float[Tensor, "b t h v"], beta: Float[Tensor, "b t h"], chunk: int\n'
        )
    said = {
        (
            False,
            True,
        ): "S_t = S_{t-1} + k_t u_t^T with u_t = beta_t (v_t - S_{t-1}^T k_t); o_t = S_t^T q_t; S_0 = 0 (Yang et al. 2024, arXiv:2406.06484).",
        (
            True,
            True,
        ): "S'_t = exp(log_decay_t) S_{t-1}; S_t = S'_t + k_t u_t^T with u_t = beta_t (v_t - S'_t^T k_t); o_t = S_t^T q_t (arXiv:2412.06464).",
        (False, False): "S_t = S_{t-1} + beta_t k_t v_t^T; o_t = S_t^T q_t; S_0 = 0 (Katharopoulos et al. 2020, arXiv:2006.16236).",
        (True, False): "S_t = exp(log_decay_t) S_{t-1} + beta_t k_t v_t^T; o_t = S_t^T q_t; S_0 = 0 (Yang et al. 2023, arXiv:2312.06635).",
    }[decay, delta]
    how = "Inside a chunk all u_t follow from one triangular solve, so only" if delta else "Inside a chunk it is a masked product, so only"
    lines = [
        '    """' + said,
        "",
        f"    {how} T / chunk steps are sequential. Computes in fp32 or better.",
        '    """',
        "    length = q.shape[1]",
        "    dtype = torch.promote_types(q.dtype, torch.float32)",
        "    # The padding has beta = 0 and k = 0: it writes nothing to the state, and comes after every real position.",
        '    q, k, v = (rearrange(F.pad(x.to(dtype), (0, 0, 0, 0, 0, -length % chunk)), "b (n c) h d -> n b h c d", c=chunk) for x in (q, k, v))',
    ]
    pad = 'rearrange(F.pad({}.to(dtype), (0, 0, 0, -length % chunk)), "b (n c) h -> n b h c 1", c=chunk)'
    lines.append(f"    beta, log_decay = ({pad.format('x')} for x in (beta, log_decay))" if decay else f"    beta = {pad.format('beta')}")
    lines.append("    with torch.autocast(q.device.type, enabled=False):")
    if decay:
        lines += [
            "        total = log_decay.cumsum(-2)",
            "        # What position j wrote has decayed by this much at position i >= j; the mask keeps exp() from overflowing above the diagonal.",
            '        decay = (total - total.mT).masked_fill(torch.ones(chunk, chunk, device=q.device, dtype=torch.bool).triu(1), float("-inf")).exp()',
        ]
    if delta:
        lines += [
            "        weighted = beta * k",
            f"        within = (weighted @ k.mT{' * decay' if decay else ''}).tril(-1)",
            f"        solved = torch.linalg.solve_triangular(within, torch.cat([beta * v, weighted{' * total.exp()' if decay else ''}], -1), upper=False, unitriangular=True)",
            "        u, w = solved.split([v.shape[-1], k.shape[-1]], -1)",
        ]
    else:
        lines.append("        u = beta * v")
    lines.append("        scores = q @ k.mT * decay" if decay else "        scores = (q @ k.mT).tril()")
    if decay:
        lines.append("        q, k, last = q * total.exp(), k * (total[..., -1:, :] - total).exp(), total[..., -1:, :].exp()")
    names = ["q", "k", "u", *(["w"] if delta else []), "scores", *(["last"] if decay else [])]
    lines += [
        "        state = torch.zeros_like(k[0].mT @ v[0])",
        "        outputs = []",
        f"        for {', '.join(f'{name}_n' for name in names)} in zip({', '.join(names)}, strict=True):",
        *(["            u_n = u_n - w_n @ state"] if delta else []),
        "            outputs.append(q_n @ state + scores_n @ u_n)",
        f"            state = {'last_n * ' if decay else ''}state + k_n.mT @ u_n",
        '    return rearrange(torch.stack(outputs), "n b h c d -> b (n c) h d")[:, :length]',
    ]
    return "@checked\n" + head + arguments + ') -> Float[Tensor, "b t h v"]:\n' + "\n".join(lines) + "\n\n\n"


def mixer(choice: dict[str, str]) -> str:
    """The class of the linear mixer."""
    decay, conv, full = choice["decay"], choice["convolution"], choice["write"] == "full"
    shares = {"short": 3, "addresses": 2, "none": 0}[conv]
    width = f"{shares} * config.width"
    init = [
        "        super().__init__()",
        "        self.heads, self.chunk = config.heads, config.chunk",
        "        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)",
    ]
    if shares:
        init += [
            f"        self.conv = nn.Conv1d({width}, {width}, config.conv, groups={width}, bias=False)",
            "        # Channel i starts as the byte i mod 4 places back, so every head sees the last bytes alike; random taps were most of the noise between seeds.",
            f"        back = torch.arange({width}) % config.conv",
            "        self.conv.weight = nn.Parameter(F.one_hot(config.conv - 1 - back, config.conv)[:, None].float())",
        ]
    if not full:
        init.append("        self.beta = nn.Linear(config.width, config.heads, bias=False)")
    if decay == "gated":
        init += [
            "        self.step = nn.Linear(config.width, config.heads, bias=False)",
            "        first_step = torch.logspace(-3, -1, config.heads)  # spread evenly: with few heads a random draw is luck",
            "        self.step_bias = nn.Parameter(first_step + torch.log(-torch.expm1(-first_step)))  # softplus(step_bias) = first_step",
            "        self.log_speed = nn.Parameter(torch.full((config.heads,), 8.0).log())",
        ]
    elif decay == "constant":
        init.append(
            "        self.log_rate = nn.Parameter(torch.logspace(-2.5, -0.5, config.heads).log())  # memories of about 300 to 3 bytes at the start"
        )
    if choice["readout"] != "plain":
        init.append("        self.gate = nn.Linear(config.width, config.width, bias=False)")
    normed = {"head": "config.width // config.heads", "whole": "config.width", "none": ""}[choice["normalisation"]]
    if normed:
        init.append(f"        self.norm = nn.RMSNorm({normed}, eps=1e-5)")
    init.append("        self.out = nn.Linear(config.width, config.width, bias=False)")
    forward = []
    if choice["shift"] == "half":
        forward += [
            "        half = x.shape[-1] // 2",
            "        x = torch.cat([F.pad(x[:, :-1, :half], (0, 0, 1, 0)), x[..., half:]], -1)  # half of the channels come from the position before",
        ]
    act = {"silu": "F.silu({})", "relu": "F.relu({})", "identity": "{}"}[choice["feature"]]
    if conv == "short":
        forward.append('        qkv = rearrange(self.qkv(x), "b t d -> b d t")')
        padded = "self.conv(F.pad(qkv, (self.conv.kernel_size[0] - 1, 0)))"
        if choice["feature"] == "silu":
            forward += [
                f"        qkv = F.silu({padded})",
                '        q, k, v = rearrange(qkv, "b (three h d) t -> three b t h d", three=3, h=self.heads)',
            ]
        else:
            forward += [f"        qkv = {padded}", '        q, k, v = rearrange(qkv, "b (three h d) t -> three b t h d", three=3, h=self.heads)']
            forward.append(f"        q, k, v = {act.format('q')}, {act.format('k')}, F.silu(v)")
    else:
        if conv == "addresses":
            forward += [
                "        qk, v = self.qkv(x).split([2 * x.shape[-1], x.shape[-1]], -1)",
                '        qk = self.conv(F.pad(rearrange(qk, "b t d -> b d t"), (self.conv.kernel_size[0] - 1, 0)))',
                '        q, k = rearrange(qk, "b (two h d) t -> two b t h d", two=2, h=self.heads)',
                '        v = rearrange(v, "b t (h d) -> b t h d", h=self.heads)',
            ]
        else:
            forward.append('        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b t h d", three=3, h=self.heads)')
        forward.append(f"        q, k, v = {act.format('q')}, {act.format('k')}, F.silu(v)")
    forward.append("        q, k = F.normalize(q, dim=-1) * q.shape[-1] ** -0.5, F.normalize(k, dim=-1)")
    beta = {"sigmoid": "self.beta(x).sigmoid()", "double": "2 * self.beta(x).sigmoid()", "full": "torch.ones_like(q[..., 0])"}[choice["write"]]
    name = "delta_rule" if choice["erase"] == "delta" else "additive_rule"
    if decay == "gated":
        forward.append("        log_decay = -self.log_speed.exp() * F.softplus(self.step(x) + self.step_bias)")
    elif decay == "constant":
        forward.append("        log_decay = -self.log_rate.exp().expand(*x.shape[:2], -1)")
    forward.append(f"        o = {name}(q, k, v, {beta}, {'log_decay, ' if decay != 'none' else ''}self.chunk)")
    read = {
        "head": 'rearrange(self.norm(o).to(x.dtype), "b t h d -> b t (h d)")',
        "whole": 'self.norm(rearrange(o, "b t h d -> b t (h d)")).to(x.dtype)',
        "none": 'rearrange(o.to(x.dtype), "b t h d -> b t (h d)")',
    }[choice["normalisation"]]
    gate = {"plain": "", "gated": "F.silu(self.gate(x)) * ", "sigmoid": "self.gate(x).sigmoid() * "}[choice["readout"]]
    forward.append(f"        return self.out({gate}{read})")
    doc = "Token mixing: linear maps, a short causal convolution, the delta rule per head, RMSNorm per head, a linear map."
    own = ("decay", "erase", "write", "convolution", "feature", "readout", "normalisation", "shift")
    if any(choice[part] != next(iter(SPACE[part])) for part in own):
        norm = {"head": "RMSNorm per head, ", "whole": "RMSNorm, ", "none": ""}[choice["normalisation"]]
        doc = f"Token mixing: linear maps, a recurrence per head, {norm}a linear map."
    return (
        f'class DeltaNet(nn.Module):\n    """{doc}"""\n\n    def __init__(self, config: Config):\n' + "\n".join(init) + "\n\n"
        '    @checked\n    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:\n' + "\n".join(forward) + "\n\n\n"
    )


WINDOW = '''@checked
def window_attention(
    q: Float[Tensor, "b t h k"], k: Float[Tensor, "b t h k"], v: Float[Tensor, "b t h v"], slope: Float[Tensor, "h"], chunk: int
) -> Float[Tensor, "b t h v"]:
    """o_i = sum_j p_ij v_j, p_ij = softmax over j of (q_i^T k_j - slope (i - j)), j <= i in the chunk of i or the one before: at most 2 * chunk bytes.

    Cost is linear in the length.
    """
    length = q.shape[1]
    q, k, v = (rearrange(F.pad(x, (0, 0, 0, 0, 0, -length % chunk)), "b (n c) h d -> b n h c d", c=chunk) for x in (q, k, v))
    k, v = (torch.cat([F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)), x], -2) for x in (k, v))  # the chunk before, then the own
    distance = torch.arange(chunk, device=q.device)[:, None] + chunk - torch.arange(2 * chunk, device=q.device)
    first = (torch.arange(q.shape[1], device=q.device) == 0)[:, None, None, None] & (torch.arange(2 * chunk, device=q.device) < chunk)
    scores = q @ k.mT - slope[:, None, None] * distance.clamp(min=0)
    scores = scores.masked_fill((distance < 0) | first, float("-inf"))
    return rearrange(scores.softmax(-1) @ v, "b n h c d -> b (n c) h d")[:, :length]


class Window(nn.Module):
    """Token mixing: linear maps, softmax attention over a sliding window per head, a linear map."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.chunk = config.heads, config.chunk
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.near = nn.Parameter(torch.logspace(-3, 0, config.heads))  # how fast a head's attention falls with the distance
        self.out = nn.Linear(config.width, config.width, bias=False)

    @checked
    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b t h d", three=3, h=self.heads)
        q, k = F.normalize(q, dim=-1) * 4 * q.shape[-1] ** 0.5, F.normalize(k, dim=-1)
        return self.out(rearrange(window_attention(q, k, v, self.near, self.chunk), "b t h d -> b t (h d)"))


'''

RELU2 = """class SquaredReLU(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.up = nn.Linear(config.width, config.hidden * 3 // 2, bias=False)
        self.down = nn.Linear(config.hidden * 3 // 2, config.width, bias=False)

    @checked
    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.down(F.relu(self.up(x)).square())


"""


def replace_block(text: str, start: str, new: str) -> str:
    """`text` with the top-level definition that begins with `start` (a decorator's line above it included) replaced by `new`."""
    found = re.search(rf"^(?:@checked\n)?{re.escape(start)}.*?(?=^\S(?!\) ->))", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit(f"space.py: train.py has no {start!r}: main has moved away from this space")
    end = re.compile(r"^(?=@|class |def |if )", re.MULTILINE).search(text, found.start() + len("@checked\n") + len(start))
    return text[: found.start()] + new + text[end.start() :]


def swap(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise SystemExit(f"space.py: train.py holds {old!r} {text.count(old)} times, not once: main has moved away from this space")
    return text.replace(old, new)


def render(choices: Mapping[str, str], base: str | None = None) -> str:
    """The text of train.py with these options. `base`: main's text; what `choices` leaves out is as main has it."""
    text, choice = TRAIN.read_text() if base is None else base, complete(choices)
    text = replace_block(text, "def delta_rule(", rule(choice["decay"] != "none", choice["erase"] == "delta"))
    text = replace_block(text, "class DeltaNet(", mixer(choice) + (WINDOW if choice["hybrid"] != "none" else ""))
    if choice["mlp"] == "relu2":
        text = replace_block(text, "class SwiGLU(", RELU2)
        text = swap(text, "SwiGLU(config)", "SquaredReLU(config)")
    if choice["hybrid"] != "none":
        text = swap(
            text,
            "    def __init__(self, config: Config):\n        super().__init__()\n        self.norm1, self.mixer = nn.RMSNorm(config.width, eps=1e-5), DeltaNet(config)",
            "    def __init__(self, config: Config, window: bool):\n        super().__init__()\n        self.norm1, self.mixer = nn.RMSNorm(config.width, eps=1e-5), Window(config) if window else DeltaNet(config)",
        )
        where = {"last": "layer == config.layers - 1", "first": "layer == 0"}[choice["hybrid"]]
        text = swap(
            text,
            "nn.ModuleList(Block(config) for _ in range(config.layers))",
            f"nn.ModuleList(Block(config, {where}) for layer in range(config.layers))",
        )
    if choice["heads"] == "two":
        text = swap(text, "    heads: int = 4\n", "    heads: int = 2\n")
    return text


def main(argv: list[str]) -> None:
    if argv[:1] == ["list"] and len(argv) == 1:
        print(json.dumps({part: {name: asdict(option) for name, option in options.items()} for part, options in SPACE.items()}, indent=1))
    elif argv[:1] == ["render"] and len(argv) == 2:
        print(render(json.loads(argv[1])), end="")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

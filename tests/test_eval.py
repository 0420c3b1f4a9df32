"""eval.py against candidates that answer by its protocol: an honest one gets its exact score, every cheat is refused with exit code 3."""

import importlib.util
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
# A served model of 20 lines: counts of byte pairs, softened. `answer` is what the cheats below replace or wrap.
CANDIDATE = '''
import os, struct, sys, time
import numpy as np
table = np.fromfile(sys.argv[2] + "/table.bin", dtype="<f4").reshape(256, 256)
calls = 0

def honest(windows):
    """Log-probabilities [B, T, 256]: a table by the byte at hand."""
    return table[windows]

{answer}

while header := sys.stdin.buffer.read(8):
    shape = struct.unpack("<ii", header)
    windows = np.frombuffer(sys.stdin.buffer.read(shape[0] * shape[1]), dtype=np.uint8).reshape(shape)
    calls += 1
    sys.stdout.buffer.write(np.asarray(answer(windows), dtype="<f4").tobytes())
    sys.stdout.buffer.flush()
{end}
'''
HONEST = "answer = honest"
# Raises the probability of `bytes_` ([B, T]) at every position of `logits` and normalises.
BOOST = """
def boost(logits, bytes_, by=3.0):
    logits = logits.copy()
    np.put_along_axis(logits, bytes_[..., None].astype(int), np.take_along_axis(logits, bytes_[..., None].astype(int), -1) + by, -1)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

def following(windows):
    return np.concatenate([windows[:, 1:], np.zeros_like(windows[:, :1])], 1)
"""
PEEKS = BOOST + "answer = lambda windows: boost(honest(windows), following(windows))"
PEEKS_SELDOM = (
    BOOST
    + """
def answer(windows):
    seldom = (windows.astype(int) * 7 + np.arange(windows.shape[1])) % 10 == 0
    return np.where(seldom[..., None], boost(honest(windows), following(windows)), honest(windows))
"""
)
PEEKS_FAR = """
def answer(windows):  # one byte at the end of the window tilts every position before it
    tilt = np.linspace(0, 1, 256) * (windows[:, -1:, None] % 16) / 8
    logits = honest(windows) + tilt
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
"""
BATCH = """
def answer(windows):  # the rows of a batch learn from one another
    logits = honest(windows) + honest(windows).mean(0)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
"""
REMEMBERS = BOOST + (
    """
seen = np.zeros(256)
def answer(windows):  # learns from earlier requests
    logits = honest(windows) + np.log1p(seen) / 4
    seen[:] += np.bincount(windows.ravel(), minlength=256)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
"""
)
CHEATS = {
    "nan": ("answer = lambda windows: np.where(windows[..., None] == 101, np.nan, honest(windows))", "NaN"),
    "infinity": ("answer = lambda windows: honest(windows) + np.where(np.arange(256) == 3, np.inf, 0)", "NaN or infinity"),
    "huge": ("answer = lambda windows: honest(windows) + 1e30", "unnormalised"),
    "no mass at all": ("answer = lambda windows: np.full((*windows.shape, 256), -np.inf)", "unnormalised"),
    "twice the mass": ("answer = lambda windows: honest(windows) + np.log(2)", "unnormalised: probabilities sum to e^0.693"),
    "raw zeros": ("answer = lambda windows: np.zeros((*windows.shape, 256))", "unnormalised"),
    "half precision": ("answer = lambda windows: np.frombuffer(honest(windows).astype('<f2').tobytes(), dtype='<f4')", "took more than"),
    "short answer": (
        "def answer(windows):\n    sys.stdout.buffer.write(b'abc'); sys.stdout.buffer.flush(); sys.exit(0)",
        "stopped answering: 3 bytes instead of",
    ),
    "long answer": ("answer = lambda windows: np.concatenate([honest(windows).ravel(), [0.0]])", "unnormalised"),
    "prints at start": ("print('loading the model', flush=True)\nanswer = honest", "printed to stdout"),
    "prints at the end": (HONEST, "on stdout beyond the answers"),
    "looks one byte ahead": (PEEKS, "not causal"),
    "looks ahead at one byte in ten": (PEEKS_SELDOM, "not causal"),
    "looks at the last byte": (PEEKS_FAR, "not causal"),
    "uses its batch": (BATCH, "depend on the batch"),
    "remembers earlier requests": (REMEMBERS, "depend on the batch or on earlier requests"),
}


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(256, 256))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype("<f4")


@pytest.fixture
def scene(tmp_path: Path, table: np.ndarray) -> Path:
    """A folder with val/ and a checkpoint; `scene/code` is for the candidate."""
    for name in ("val", "ckpt", "code"):
        (tmp_path / name).mkdir()
    words = np.random.default_rng(1).integers(97, 123, 256 * 40, dtype=np.uint8)
    words[::7] = 32
    (tmp_path / "val" / "text.bin").write_bytes(words.tobytes() + b"tail")
    (tmp_path / "ckpt" / "table.bin").write_bytes(table.tobytes())
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, tmp_path / "ckpt" / "model.safetensors")
    return tmp_path


def prepare(scene: Path, answer: str = HONEST, end: str = "", stage: str = "explore", seconds: float = 30.0) -> tuple[list[str], dict[str, str]]:
    """The command and environment of eval.py as the lab starts it, with a shorter patience."""
    (scene / "code" / "train.py").write_text(CANDIDATE.replace("{answer}", answer).replace("{end}", end))
    scorer = scene / "eval.py"
    text = (ROOT / "eval.py").read_text()
    assert "ANSWER_SECONDS = 240.0" in text
    scorer.write_text(text.replace("ANSWER_SECONDS = 240.0", f"ANSWER_SECONDS = {seconds}"))
    command = [sys.executable, str(scorer), *(str(scene / name) for name in ("ckpt", "val", "score.json", "code"))]
    return command, {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "LAB_STAGE": stage, "LAB_DEVICE": "cpu"}


def score(scene: Path, *arguments, **options) -> subprocess.CompletedProcess:
    """Runs eval.py to its end; the arguments are those of `prepare`."""
    command, env = prepare(scene, *arguments, **options)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=env)


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


def test_an_honest_score_is_the_independent_one_and_repeats(scene, table):
    results = []
    for _ in range(2):
        done = score(scene)
        assert done.returncode == 0, done.stderr
        results.append(json.loads((scene / "score.json").read_text()))
    text = np.fromfile(scene / "val" / "text.bin", dtype=np.uint8)
    spent, starts = 0.0, np.linspace(0, len(text) - 256, 40).astype(int)  # the text holds 40 windows of 256 bytes and 4 bytes more
    for start in starts:
        before = 0  # the byte before a window is not sent: byte 0 stands for it
        for byte in text[start : start + 256]:
            spent -= float(table[before, byte]) / math.log(2)
            before = byte
    assert results[0]["val_bpb"] == pytest.approx(spent / (40 * 256), abs=1e-6)
    assert results[0]["val_bpb"] == results[1]["val_bpb"]
    assert results[0]["bytes"] == 40 * 256
    assert results[0]["params"] == 3 * 5 + 7
    assert results[0]["causality_distance"] < 1e-6
    assert all(math.isfinite(value) for value in results[0].values())


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_refused_and_leaves_no_score(cheat, scene):
    answer, says = CHEATS[cheat]
    hangs = says == "took more than"  # it sends half an answer and waits for the next question
    if cheat == "looks ahead at one byte in ten":  # seen at the last byte of a prefix alone: 40 windows miss it once in 70 times, 400 never
        text = scene / "val" / "text.bin"
        text.write_bytes(text.read_bytes() * 10)
    done = score(scene, answer, end="print('done')" if cheat == "prints at the end" else "", seconds=3.0 if hangs else 30.0)
    assert done.returncode == (1 if hangs else 3), done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (scene / "score.json").exists()


def test_a_peek_would_have_paid(scene):
    """The refusals above mean something: without the probe this candidate would win."""
    spec = importlib.util.spec_from_file_location("scorer", ROOT / "eval.py")
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    values = []
    windows, targets = scorer.read_windows(scene / "val", 4, 256)
    for answer in (HONEST, PEEKS):
        (scene / "code" / "train.py").write_text(CANDIDATE.replace("{answer}", answer).replace("{end}", ""))
        with scorer.serving(scene / "code", scene / "ckpt") as candidate:
            values.append(scorer.bits(scorer.ask(candidate, windows), targets).mean())
    assert values[1] < values[0] - 1


def test_a_hanging_candidate_is_ended_with_its_children(scene):
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '3333'])\nopen({!r}, 'w').write(str(child.pid))\nanswer = lambda windows: time.sleep(3333)"
    done = score(scene, child.format(str(scene / "pid")), seconds=5.0)
    assert done.returncode == 1
    assert "took more than 5 s" in done.stderr
    assert not alive(int((scene / "pid").read_text()))


def test_a_scorer_that_is_ended_ends_its_candidate(scene, wait_until):
    waits = f"open({str(scene / 'pid')!r}, 'w').write(str(os.getpid()))\nanswer = lambda windows: time.sleep(3333)"
    command, env = prepare(scene, waits)
    scorer = subprocess.Popen(command, env=env)
    wait_until(lambda: (scene / "pid").is_file() and (scene / "pid").read_text())
    assert alive(int((scene / "pid").read_text()))
    scorer.terminate()
    assert scorer.wait(60) == 143
    wait_until(lambda: not alive(int((scene / "pid").read_text())))


def test_a_crash_is_no_refusal(scene):
    done = score(scene, "raise RuntimeError('out of luck')")
    assert done.returncode == 1
    assert "ended with exit code 1" in done.stderr
    assert "out of luck" in done.stderr
    done = score(scene, end="sys.exit(5)")
    assert done.returncode == 1
    assert "exit code 5: after the last answer" in done.stderr


def test_a_candidate_gets_an_empty_home_of_its_own_and_none_of_our_environment(scene, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    spy = f"open({str(scene / 'seen')!r}, 'a').write(os.environ['HOME'] + ' ' + str(os.listdir(os.environ['HOME'])) + ' ' + ' '.join(os.environ) + '\\n')\n"
    spy += "open(os.environ['HOME'] + '/note', 'w').write('windows seen')\n"
    assert score(scene, spy + HONEST).returncode == 0
    homes = [line.split() for line in (scene / "seen").read_text().splitlines()]
    assert len(homes) == 2
    assert homes[0][0] != homes[1][0]
    assert [words[1] for words in homes] == ["[]", "[]"]
    assert not any("SOME_KEY" in words or Path(words[0]).exists() for words in homes)


def test_the_first_process_sees_prefixes_alone(scene):
    """No request of the first process may reach past a cut that a later one of it does not, and cuts differ from run to run."""
    log = f"log = open({str(scene / 'log')!r} + str(os.getpid()), 'w')\n"
    log += "def answer(windows):\n    print(*windows.shape, file=log, flush=True)\n    return honest(windows)"
    cuts = []
    for _ in range(2):
        assert score(scene, log).returncode == 0
        first, second = sorted(scene.glob("log*"), key=lambda path: path.stat().st_mtime_ns)
        prefixes, whole = ([tuple(map(int, line.split())) for line in path.read_text().splitlines()] for path in (first, second))
        assert sum(rows for rows, _ in prefixes) == 40  # every window once
        assert {length for _, length in whole} == {256}
        cuts.append([length for _, length in prefixes])
        for path in (first, second):
            path.unlink()
    assert len(set(cuts[0])) > 1
    assert cuts[0] != cuts[1]


def test_smoke_measures_how_cost_grows(scene):
    done = score(scene, "def answer(windows):\n    time.sleep(windows.shape[1] * 2e-5)\n    return honest(windows)", stage="smoke")
    assert done.returncode == 0, done.stderr
    assert 4 < json.loads((scene / "score.json").read_text())["growth"] < 12
    quadratic = "def answer(windows):\n    time.sleep((windows.shape[1] / 1024) ** 2 * 0.02)\n    return honest(windows)"
    done = score(scene, quadratic, stage="smoke")
    assert done.returncode == 3
    assert "cost grows faster than linearly" in done.stderr


@pytest.mark.parametrize("wrong", ["missing", "cut", "lying header", "hidden weights"])
def test_parameters_that_cannot_be_counted_are_refused(wrong, scene):
    path = scene / "ckpt" / "model.safetensors"
    whole = path.read_bytes()
    if wrong == "missing":
        path.unlink()
    elif wrong == "cut":
        path.write_bytes(whole[:-4])
    elif wrong == "lying header":
        path.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    else:
        (scene / "ckpt" / "more.bin").write_bytes(bytes(2_000_000))
    done = score(scene)
    assert done.returncode == 3
    assert "model.safetensors cannot be counted" in done.stderr


def test_too_little_text_is_said(scene):
    (scene / "val" / "text.bin").write_bytes(b"short")
    done = score(scene)
    assert done.returncode == 1
    assert "shorter than one window of 256 bytes" in done.stderr


def test_the_scorer_fits_one_sitting_and_imports_no_candidate_code():
    lines = (ROOT / "eval.py").read_text().splitlines()
    assert len(lines) < 200
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def test_the_demo_models_own_server_passes(tmp_path):
    """train.py and eval.py together, as small as they get."""
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    text = b"def add(one, other):\n    return one + other\n\0" * 60
    (tmp_path / "train" / "text.bin").write_bytes(text)
    (tmp_path / "val" / "text.bin").write_bytes(text)
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "LAB_STAGE": "smoke", "LAB_DEVICE": "cpu"}
    small = ["--width", "16", "--hidden", "24", "--tokens", "2048"]
    command = [sys.executable, str(ROOT / "train.py"), "--stage", "smoke", "--data", str(tmp_path / "train"), "--out", str(tmp_path / "ckpt")]
    subprocess.run([*command, *small], check=True, timeout=120, env=env, capture_output=True)
    command = [sys.executable, str(ROOT / "eval.py"), *(str(tmp_path / name) for name in ("ckpt", "val", "score.json")), str(ROOT)]
    done = subprocess.run(command, check=False, timeout=120, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "score.json").read_text())
    assert 0 < result["val_bpb"] < 8
    assert result["growth"] < 16


@pytest.fixture
def scorer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scorer", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_windows_are_spread_over_the_split_and_keep_back_their_last_byte(scorer, tmp_path):
    (tmp_path / "text.bin").write_bytes(bytes(range(1, 101)))
    requests, targets = scorer.read_windows(tmp_path, 3, 10)
    assert targets.tolist() == [list(range(1, 11)), list(range(46, 56)), list(range(91, 101))]
    assert requests[:, 0].tolist() == [0, 0, 0]
    assert (requests[:, 1:] == targets[:, :-1]).all()

"""The frozen scorer of the root problem: bits per byte of a language model on text that it never sees whole.

    python eval.py CHECKPOINT DATA OUT CODE          # e.g. by hand in a candidate's checkout: python eval.py CKPT .data/val score.json .

Runs `CODE/train.py --serve CHECKPOINT` in a process of its own and talks to it over a pipe, little-endian raw arrays both ways:
    request   int32 B, int32 T, then B*T bytes (uint8), each row a window that starts with byte 0
    answer    float32 [B, T, 256]: answer[b, t] = natural-log probabilities of the byte that follows request[b, :t+1]

What it trusts: nothing. An answer must have the right length, be finite and sum to one (it is renormalised here in fp64 besides). Causality is
not inspected but withheld: one process is sent prefixes alone, cut where the system's entropy says, in batches of several sizes and orders. Only
after its end is a second process, in another empty home, sent whole windows. Where the two disagree, the candidate used what it could not have
had. The last byte of a window is never sent. LAB_SANDBOX holds the words that start a process without sight of the data or of files to leave notes in.

Exit 0: OUT holds a flat JSON of numbers. Exit 3: refused, stderr says why in one line. Any other exit: the candidate crashed or hung.
"""

import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

BYTES, BOS = 256, 0
ANSWER_SECONDS = 240.0  # one process may take this long for all that it is asked
MASS = 1e-3  # |log of the total probability| above which an answer is no distribution
np.seterr(all="ignore")  # every answer is looked at for what it holds
PROBES = 512  # windows at most that are also asked for as a prefix
WINDOWS = {"cpu": {"smoke": 64, "explore": 384, "verify": 2048}, "cuda": {"smoke": 64, "explore": 2048, "verify": 8192}}  # at most
LENGTH, BATCH = {"cpu": 256, "cuda": 1024}, {"cpu": 16, "cuda": 32}  # bytes of a window, all of them scored; windows of a whole request
# Two answers to one question may differ so much, by round-off: total variation distance at most, and mean bits per byte gained with the future at hand.
TOLERANCE = {"cpu": (1e-3, 1e-3), "cuda": (1e-2, 3e-3)}
SHORT, LONG, GROWTH = 1024, 8192, 16.0  # smoke: LONG bytes may take GROWTH times as long as SHORT; linear cost gives 8, quadratic up to 64


class Refused(Exception):
    """The candidate's answers break the rules; the message is the reason."""


@contextmanager
def serving(code: Path, checkpoint: Path) -> Iterator[subprocess.Popen]:
    """A serving process of the candidate: an empty home, hardly any environment, ended with its children; nothing may follow its last answer."""
    keep = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LAB_STAGE", "LAB_DEVICE")
    command = json.loads(os.environ.get("LAB_SANDBOX", "[]")) + [sys.executable, str(code / "train.py"), "--serve", str(checkpoint)]
    with tempfile.TemporaryDirectory() as home:
        env = {name: os.environ[name] for name in keep if name in os.environ} | {"HOME": home, "TMPDIR": home}
        process = subprocess.Popen(command, cwd=code, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        hung = threading.Event()
        watchdog = threading.Timer(ANSWER_SECONDS, lambda: (hung.set(), os.killpg(process.pid, signal.SIGKILL)))
        watchdog.start()
        try:
            yield process
            process.stdin.close()
            if rest := process.stdout.read(1 << 16):
                raise Refused(f"{len(rest)} bytes or more on stdout beyond the answers")
            if process.wait():
                raise EOFError("after the last answer")
        except (EOFError, BrokenPipeError) as error:
            process.stdout.close()
            exit_code = process.wait()
            if exit_code:
                why = f"took more than {ANSWER_SECONDS:.0f} s" if hung.is_set() else f"ended with exit code {exit_code}: {error}"
                raise SystemExit(f"eval.py: the candidate's process {why}") from error
            raise Refused(f"the candidate stopped answering: {error}") from error
        finally:
            watchdog.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(candidate: subprocess.Popen, windows: np.ndarray) -> np.ndarray:
    """Log-probabilities [B, T, 256] in fp64, renormalised, for uint8 windows [B, T]; Refused where the answer is none."""
    candidate.stdin.write(struct.pack("<ii", *windows.shape) + windows.tobytes())
    candidate.stdin.flush()
    raw = candidate.stdout.read(size := 4 * windows.size * BYTES)
    if len(raw) != size:
        raise EOFError(f"{len(raw)} bytes instead of {size} = 4 x {windows.shape[0]} x {windows.shape[1]} x {BYTES}")
    answer = np.frombuffer(raw, dtype="<f4").reshape(*windows.shape, BYTES).astype(np.float64)
    if np.isnan(answer).any() or np.isposinf(answer).any():
        raise Refused("an answer holds NaN or infinity (or something else was printed to stdout)")
    mass = np.log(np.exp(answer).sum(-1, keepdims=True))
    if not (np.abs(mass) <= MASS).all():
        raise Refused(f"unnormalised: probabilities sum to e^{mass.flat[np.abs(mass).argmax()]:.3g} (or something else was printed to stdout)")
    return answer - mass


def read_windows(data: Path, most: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(requests, targets), uint8 [n, length]: byte 0 and all but the last byte of each window, and the window itself."""
    text = np.fromfile(data / "text.bin", dtype=np.uint8)
    count = min(most, len(text) // length)
    if not count:
        raise SystemExit(f"eval.py: {data}/text.bin is shorter than one window of {length} bytes")
    starts = np.linspace(0, len(text) - length, count).astype(np.int64)
    targets = text[starts[:, None] + np.arange(length)]
    return np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=BOS), targets


def ask_prefixes(code: Path, checkpoint: Path, windows: np.ndarray) -> dict[int, np.ndarray]:
    """Answers [cut, 256] by window number, from a process that gets prefixes alone, cut anywhere, in batches of any size and order."""
    entropy, answers = random.SystemRandom(), {}
    left = entropy.sample(range(len(windows)), min(len(windows), PROBES))
    with serving(code, checkpoint) as candidate:
        while left:
            some = [left.pop() for _ in range(min(len(left), entropy.choice((1, 5, 12, 24))))]
            answers |= zip(some, ask(candidate, windows[some, : entropy.randint(1, windows.shape[1])]), strict=True)
    return answers


def growth(candidate: subprocess.Popen, text: np.ndarray) -> float:
    """How many times longer LONG bytes take than SHORT ones, by as many SHORT ones as make LONG, which a busy machine slows alike; best of three."""
    times = {SHORT: [], LONG: []}
    for length in (SHORT, LONG) * 3:
        started = time.perf_counter()
        for _ in range(LONG // length):
            ask(candidate, np.resize(text, (1, length)))
        times[length].append(time.perf_counter() - started)
    return LONG / SHORT * min(times[LONG]) / min(times[SHORT])


def bits(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Bits [..., T] that the answers [..., T, 256] spend on the targets [..., T]."""
    return -np.take_along_axis(answers, targets[..., None].astype(np.int64), -1)[..., 0] / math.log(2)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest total variation distance between two arrays of log-distributions."""
    return float(0.5 * np.abs(np.exp(one) - np.exp(other)).sum(-1).max())


def count_parameters(checkpoint: Path) -> int:
    """Elements of all tensors in model.safetensors, as its header states them and its size confirms; no other file may be large."""
    path = checkpoint / "model.safetensors"
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            tensors = {name: tensor for name, tensor in json.loads(file.read(min(length, 10**8))).items() if name != "__metadata__"}
        if path.stat().st_size != 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values()):
            raise ValueError("its size does not fit its header")
        if sum(other.stat().st_size for other in checkpoint.rglob("*") if other.is_file() and other != path) > 10**6:
            raise ValueError("more than 1 MB lies beside it, where parameters would not be counted")
        return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise Refused(f"the checkpoint's model.safetensors cannot be counted: {error}") from error


def score(checkpoint: Path, data: Path, code: Path, stage: str, device: str) -> dict[str, float]:
    """The numbers for OUT; Refused where the candidate breaks a rule."""
    started = time.monotonic()
    params = count_parameters(checkpoint)
    windows, targets = read_windows(data, WINDOWS[device][stage], LENGTH[device])
    prefixes = ask_prefixes(code, checkpoint, windows)
    again = random.SystemRandom().sample(sorted(prefixes), min(len(prefixes), 7))
    kept, spent, gains, distance, grown = {}, [], [], 0.0, 0.0
    with serving(code, checkpoint) as candidate:
        for numbers in np.array_split(np.arange(len(windows)), math.ceil(len(windows) / BATCH[device])):
            answers = ask(candidate, windows[numbers])
            spent.append(bits(answers, targets[numbers]))
            for number, answer, cost in zip(numbers, answers, spent[-1], strict=True):
                if (prefix := prefixes.get(number)) is not None:
                    distance = max(distance, apart(prefix, answer[: len(prefix)]))
                    # At its last position a prefix withholds all that follows: what the whole window knows better there is a leak.
                    gains.append((bits(prefix, targets[number, : len(prefix)]) - cost[: len(prefix)])[-1])
                if number in again:
                    kept[number] = answer
        # Some windows again, whole but in other company: what differs now does not come from the future.
        company = apart(ask(candidate, windows[again]), np.stack([kept[number] for number in again]))
        if stage == "smoke":
            grown = growth(candidate, windows.ravel())
    most_distance, most_gain = TOLERANCE[device]
    if company > most_distance:
        raise Refused(f"answers depend on the batch or on earlier requests: total variation distance {company:.3g}, allowed {most_distance:g}")
    if distance > most_distance or np.mean(gains) > most_gain:
        raise Refused(f"not causal: without the future answers move by {distance:.3g} (allowed {most_distance:g}) and lose {np.mean(gains):.3g} bits")
    if grown > GROWTH:
        raise Refused(f"cost grows faster than linearly: {LONG} bytes take {grown:.1f} times as long as {SHORT}, allowed {GROWTH:g}")
    measured = {"val_bpb": float(np.concatenate(spent).mean()), "bytes": targets.size, "params": params, "causality_distance": distance}
    return measured | {"batch_distance": company, "score_seconds": time.monotonic() - started} | ({"growth": grown} if grown else {})


if __name__ == "__main__":
    checkpoint, data, out, code = (Path(argument).resolve() for argument in sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the candidate's process ends with this one
    try:
        result = score(checkpoint, data, code, os.environ.get("LAB_STAGE", "explore"), os.environ.get("LAB_DEVICE", "cpu"))
    except Refused as reason:
        print(f"eval.py: refused: {reason}", file=sys.stderr)
        sys.exit(3)
    out.write_text(json.dumps(result, indent=1) + "\n")

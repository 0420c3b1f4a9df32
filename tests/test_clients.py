"""Coding agents that nobody here wrote, headless, without a key, against a scripted model: what the lab tells them, and what it refuses.

LAB_CLIENTS names a folder with their programs (`just test-clients` makes one). One that is absent is skipped.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, commit, git
from pilot import proposal
from scripted import Model, serve
from test_lab import LAB, call

from monolab import agent, autopilot, hooks, ideas, meter, results
from monolab import problem as problems
from monolab.paths import Lab

FOLDER = os.environ.get("LAB_CLIENTS", "")  # now: no test sees variables of the lab
FROZEN = "eval.py is FROZEN"


def client(name: str) -> str:
    found = shutil.which(name, path=FOLDER) if FOLDER else None
    if found is None:
        pytest.skip(f"{name} is not in LAB_CLIENTS: just test-clients")
    return found


@pytest.fixture
def lab(lab_repo) -> Lab:
    """A tiny lab with data and a baseline, equipped for every client."""
    lab = lab_repo()
    call(lab.root, "data")
    call(lab.root, "eval", "baseline")
    return equip(lab)


@pytest.fixture
def bare(lab_repo) -> Lab:
    """A tiny lab in which nothing has run, equipped for every client."""
    return equip(lab_repo())


def equip(lab: Lab) -> Lab:
    """Give the lab the hooks and skills of every client, and the program that the hooks call."""
    for name in (".claude", ".codex", ".agents", ".opencode", "AGENTS.md", "CLAUDE.md"):
        subprocess.run(["cp", "-a", REPOSITORY / name, lab.root / name], check=True)
    (lab.root / ".venv" / "bin").mkdir(parents=True)
    (lab.root / ".venv" / "bin" / "lab").symlink_to(LAB)
    commit(lab.root)
    return lab


def headless(lab: Lab, home: Path, command: list[str], **env: str) -> subprocess.CompletedProcess:
    home.mkdir(exist_ok=True)
    keep = {
        name: os.environ[name] for name in os.environ if name in ("PATH", "LANG", "TERM") or name.startswith(("GIT_", "LAB_", "PUEUE_", "PYTHON"))
    }
    keep |= {"HOME": str(home), "LAB_AGENT": "scripted"} | env
    done = subprocess.run(command, cwd=lab.root, env=keep, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_MAX_RETRIES": "0"}


def claude(lab: Lab, model: Model, prompt: str, *more: str) -> dict:
    command = [client("claude"), "-p", prompt, "--output-format", "json", "--permission-mode", "acceptEdits", "--allowedTools", "Bash", *more]
    home = lab.root.parent / "home"
    found = json.loads(headless(lab, home, command, ANTHROPIC_BASE_URL=model.url, ANTHROPIC_API_KEY="none", **QUIET).stdout)
    assert not found["is_error"], found
    return found


def codex(lab: Lab, model: Model, prompt: str) -> list[dict]:
    options = ["--json", "--dangerously-bypass-hook-trust", "--dangerously-bypass-approvals-and-sandbox"]
    done = headless(lab, codex_home(lab, model), [client("codex"), "exec", *options, prompt])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def codex_home(lab: Lab, model: Model) -> Path:
    home = lab.root.parent / "home"
    (home / ".codex").mkdir(parents=True, exist_ok=True)
    (home / ".codex" / "config.toml").write_text(f"""model = "gpt-5-codex"
model_provider = "scripted"
[model_providers.scripted]
name = "scripted"
base_url = "{model.url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
[projects."{lab.root}"]
trust_level = "trusted"
""")
    return home


def opencode(lab: Lab, model: Model, prompt: str) -> str:
    opencode_home(lab, model)
    return headless(lab, lab.root.parent / "home", [client("opencode"), "run", "--format", "json", prompt], npm_config_fetch_retries="0").stdout


def opencode_home(lab: Lab, model: Model) -> None:
    models = {"m": {"name": "m", "cost": {"input": 1.0, "output": 2.0}}}  # US dollars for a million tokens
    provider = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"{model.url}/v1", "apiKey": "none"}, "models": models}
    (lab.root / "opencode.json").write_text(json.dumps({"provider": {"scripted": provider}, "model": "scripted/m", "small_model": "scripted/m"}))


def text(body: dict | list) -> str:
    return json.dumps(body, ensure_ascii=False)


def test_claude_code(lab):
    before = (lab.root / "eval.py").read_text()
    (lab.runs / hooks.AUTOPILOT).touch()
    write = {"tool": "Write", "input": {"file_path": str(lab.root / "eval.py"), "content": "x"}}
    sed = {"tool": "Bash", "input": {"command": "sed -i s/score/cheat/ eval.py", "description": "edit"}}
    read = {"tool": "Read", "input": {"file_path": str(lab.root / "eval.py")}}
    with serve(read, write, sed, {"text": "I stop."}, {"text": "Now I stop."}) as model:
        found = claude(lab, model, "Improve the score.")
        first, *_, fourth, fifth = (text(body) for body in model.asked)
    assert len(model.asked) == 5  # the stop was answered once
    assert "IDEATE: 2 of 30 ideas" in first and "program.md" in first
    assert [name for name in ("ml-debug", "ideate", "external-review") if name not in first] == []
    assert fourth.count(FROZEN) == 2 and (lab.root / "eval.py").read_text() == before
    assert "Autopilot is on" in fifth and "Autopilot is on" not in fourth
    assert found["num_turns"] and found["usage"]["output_tokens"] and "total_cost_usd" in found


def test_claude_codes_compaction_keeps_the_position(lab):
    call(lab.root, "next")
    with serve() as model:
        claude(lab, model, "Hello.")
        for prompt in ("Go on.", "Go on!", "/compact", "And now?"):
            claude(lab, model, prompt, "--continue")
        *_, compacting, after = (text(body["messages"]) for body in model.asked)
    assert "Additional Instructions:\\nKeep the position in the search" in compacting and "had named baseline to build on" in compacting
    assert "stood    `lab next`" in after and "And now?" in after and "Go on!" not in after


def test_claude_code_asks_the_lab_by_mcp(lab):
    servers = json.dumps({"mcpServers": {"lab": {"command": LAB, "args": ["mcp"]}}})
    wait = {"tool": "WaitForMcpServers", "input": {}}  # for a few seconds each, while the server starts
    with serve(*6 * [wait], {"tool": "mcp__lab__status", "input": {}}) as model:
        claude(lab, model, "How does it stand?", "--mcp-config", servers, "--allowedTools", "mcp__lab__status")
        assert '\\"metric\\":\\"score\\"' in text(model.asked[7]["messages"][-1]).replace(" ", "")


def test_claude_codes_skills_run_by_name(lab):
    with serve({"text": "Read."}) as model:
        claude(lab, model, "/ml-debug the loss is NaN")
        assert "set_detect_anomaly" in text(model.asked[0])


def test_codex(lab):
    before = (lab.root / "eval.py").read_text()
    (lab.runs / hooks.AUTOPILOT).touch()
    patch = "*** Begin Patch\n*** Update File: eval.py\n@@\n-import json\n+import os\n*** End Patch"
    calls = [{"tool": "exec_command", "input": {"cmd": cmd}} for cmd in (f"apply_patch <<'EOF'\n{patch}\nEOF", "sed -i s/score/cheat/ eval.py")]
    with serve(*calls, {"text": "I stop."}, {"text": "Now I stop."}) as model:
        events = codex(lab, model, "Improve the score.")
        asked = [text(body) for body in model.asked]
    assert (lab.root / "eval.py").read_text() == before, asked[-1][-3000:]
    assert "IDEATE: 2 of 30 ideas" in asked[0] and "ml-debug" in asked[0]
    assert asked[2].count(FROZEN) == 2
    assert "Autopilot is on" in asked[3]
    assert any("usage" in event for event in events)


def test_opencode(lab):
    before = (lab.root / "eval.py").read_text()
    write = {"tool": "write", "input": {"filePath": str(lab.root / "eval.py"), "content": "x"}}
    sed = {"tool": "bash", "input": {"command": "sed -i s/score/cheat/ eval.py", "description": "edit"}}
    with serve(write, sed) as model:
        opencode(lab, model, "Improve the score.")
        asked = [text(body) for body in model.asked]
    assert (lab.root / "eval.py").read_text() == before
    assert "IDEATE: 2 of 30 ideas" in asked[0] and "ml-debug" in asked[0]
    assert asked[2].count(FROZEN) == 2
    assert git(lab.root, "status", "--porcelain", "--", ".opencode") == ""


# --- one call through `agent`, as autopilot makes it

SURE = {
    "claude": "claude",
    "codex": "codex --dangerously-bypass-approvals-and-sandbox",
    "opencode": "opencode",
}  # Codex's own sandbox needs more than a container has
SHELL = {"claude": "Bash", "codex": "exec_command", "opencode": "bash"}
COST = {"claude": 0.0015, "codex": None, "opencode": 0.00024}
FINAL = 'It is written.\n\n```json\n{"a": {"b": 1}}\n```'


def surroundings(lab: Lab, model: Model, name: str) -> dict[str, str]:
    """The environment in which a real client finds its programs and asks the scripted model."""
    program = Path(client(name))
    home = codex_home(lab, model)
    opencode_home(lab, model)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"], *map(str, program.parent.parent.glob("@openai/codex-*/vendor/*/codex-path"))])
    if name == "opencode" and not shutil.which("rg", path=path):
        pytest.skip("opencode reads skills with rg, which is not on the PATH; Codex brings one")
    env = {"HOME": str(home), "PATH": path, "LAB_AGENT": "scripted", "npm_config_fetch_retries": "0"}
    if name == "claude":
        env |= QUIET | {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "none"}
    return env


def ask(lab: Lab, model: Model, name: str, prompt: str, *more: str, sure: bool = True) -> agent.Reply:
    """One reply of a real client through `agent.run`."""
    env = surroundings(lab, model, name)
    command = " ".join([SURE[name] if sure else name, *more])
    return agent.run(command, prompt, cwd=lab.root, seconds=240, log=lab.root.parent / "steps" / f"{name}.log", env=env, sure=sure)


@pytest.mark.parametrize("name", SURE)
def test_a_call_is_metered_and_may_work_in_its_folder(bare, name, monkeypatch):
    monkeypatch.setenv("PWD", "/")
    command = "cat > made.txt <<< $PWD"
    given = {"cmd": command} if name == "codex" else {"command": command, "description": "make"}
    prompt = "Say ü.\n" + 2000 * "a line of a long prompt\n"
    with serve({"tool": SHELL[name], "input": given}, {"text": FINAL}) as model:
        reply = ask(bare, model, name, prompt)
        asked = text(model.asked[0])
    assert reply == agent.Reply("ok", FINAL, 200, 20, pytest.approx(COST[name]), reply.seconds, "", False)
    assert agent.answer(reply.text) == {"a": {"b": 1}}
    assert "Say ü." in asked and asked.count("a line of a long prompt") == 2000
    assert (bare.root / "made.txt").read_text().strip() == str(bare.root)


@pytest.mark.parametrize("name", SURE)
def test_one_that_may_not_work_unasked_does_not(bare, name):
    command = "touch made.txt"
    given = {"cmd": command} if name == "codex" else {"command": command, "description": "make"}
    with serve({"tool": SHELL[name], "input": given}, {"text": FINAL}) as model:
        reply = ask(bare, model, name, "Answer.", sure=False)
    assert (reply.status, reply.text) == ("ok", FINAL) and not (bare.root / "made.txt").exists()


def test_a_model_that_cannot_be_reached_is_worth_another_call(bare):
    reply = ask(bare, Model([], "http://127.0.0.1:9"), "claude", "Answer.")
    assert (reply.status, reply.text, reply.transient) == ("failed", "", True) and "connect" in reply.why


SKILLS = {path.parent.name: path for path in sorted((REPOSITORY / ".claude" / "skills").glob("*/SKILL.md"))}
CALLED = {"claude": "/ml-debug the loss is NaN", "codex": "$ml-debug the loss is NaN", "opencode": "Debug: the loss is NaN"}


@pytest.mark.parametrize("name", SURE)
def test_every_skill_is_listed_and_one_is_read(bare, name):
    replies = [{"tool": "skill", "input": {"name": "ml-debug"}}] if name == "opencode" else []
    with serve(*replies) as model:
        assert ask(bare, model, name, CALLED[name]).status == "ok"
        first, last = text(model.asked[0]), text(model.asked[-1])
    said = {skill: yaml.safe_load(path.read_text().split("---")[1])["description"] for skill, path in SKILLS.items()}
    assert [skill for skill, about in said.items() if text(about)[1:41] not in first] == []
    assert "set_detect_anomaly" in last and "the loss is NaN" in last


@pytest.mark.parametrize("name", SURE)
def test_a_step_of_autopilot_and_what_it_used_of_the_budget(lab, pueue_home, name, monkeypatch):
    """A night of one step: the client proposes badly once, is told why, proposes an idea; tokens and price reach the budget, the stop hook lets it go."""
    (lab.runs / hooks.AUTOPILOT).write_text("{}")
    for path in ideas.slugs(lab).values():
        path.unlink()  # so that it is asked for one
    broken = {"text": "An idea!\n\n```json\n" + json.dumps(proposal(0) | {"parent": "nobody"}) + "\n```"}
    with serve(broken, {"text": "```json\n" + json.dumps(proposal(0)) + "\n```"}) as model:
        for key, value in surroundings(lab, model, name).items():
            monkeypatch.setenv(key, value)
        settings = replace(problems.load(lab).autopilot, agent=SURE[name], wait_seconds=0.0)
        autopilot.fly(lab, settings, most=1)
        first, second = (text(body) for body in model.asked)
    assert "centre-0" in ideas.slugs(lab)
    assert "You propose the next experiment" in first
    assert name == "codex" or "This is one step of autopilot" in first  # Codex runs no hooks of a folder unasked
    assert "is 'nobody', not one of: baseline" in second
    used = meter.spent(lab, meter.lines(lab)[0]["night"], results.view(lab))
    assert (used.calls, used.tokens) == (2, 2 * 110)
    assert used.unpriced == (2 if name == "codex" else 0) and (used.dollars > 0) == (name != "codex")

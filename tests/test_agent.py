"""One process of an agent: how it ends, what is left of it, what it said and what it used.

`envelopes/` holds what real clients printed against the scripted model of `test_clients.py` (Claude Code 2.1.197 with its list of tools cut out,
Codex 0.169.0, opencode 1.18.33).
"""

import json
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from conftest import wait_until
from test_supervise import DAEMON, alive, pids

from monolab import agent
from monolab.agent import Reply
from monolab.errors import LabError

ENVELOPES = Path(__file__).parent / "envelopes"
LOG = "steps/1-critic.log"


@pytest.fixture
def run(tmp_path):
    """`run(code)`: the reply of a Python program as the agent, in `tmp_path`."""

    def run(code: str, prompt: str = "What now?", *, seconds: float = 20.0, **more) -> Reply:
        (tmp_path / "own.py").write_text(textwrap.dedent(code))
        return agent.run(f"{shlex.quote(sys.executable)} -S own.py", prompt, cwd=tmp_path, seconds=seconds, log=tmp_path / LOG, **more)

    return run


# --- how it ends


def test_what_a_script_prints_is_its_message(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "k-1")
    reply = run(
        """
        import os, sys
        print(sys.stdin.read().upper(), os.environ["SOME_API_KEY"], os.environ["STEP"], os.getcwd() == os.environ["PWD"])
        print("a note", file=sys.stderr)
        """,
        "what now?\nsay ü",
        env={"STEP": "7"},
    )
    assert reply == Reply("ok", "WHAT NOW?\nSAY Ü k-1 7 True", None, None, None, reply.seconds, "", False)
    assert (tmp_path / LOG).read_text() == "a note\n"
    assert (tmp_path / "steps" / "1-critic.out").read_text().strip() == reply.text
    assert (tmp_path / "steps" / "1-critic.prompt").read_text() == "what now?\nsay ü"


def test_a_long_prompt_arrives_whole_and_need_not_be_read(run):
    prompt = "".join(f"line {number} ~~ \x1b \u202e ü\n" for number in range(100_000))
    count = "import sys; print(len(sys.stdin.buffer.read()))"
    assert run(count, prompt).text == str(len(prompt.encode()))
    assert run("print('done')", prompt).text == "done"


def test_one_that_fails_says_why_and_keeps_what_it_said(run):
    reply = run("import sys; print('half'); print('no such\\x1b[1m model', file=sys.stderr); sys.exit(3)")
    assert (reply.status, reply.text, reply.why, reply.transient) == ("failed", "half", "no such model (exit status 3)", False)
    assert run("raise SystemExit(3)").why == "it said nothing (exit status 3)"
    assert run("import os; os.abort()").why == "it said nothing (signal 6)"


def test_no_message_is_a_failure(run):
    reply = run("import sys; print('  '); print('thinking', file=sys.stderr)")
    assert (reply.status, reply.text, reply.why) == ("failed", "", "it ended without a message; it said last: thinking")


def test_one_that_hangs_is_ended_with_all_that_it_started(run, tmp_path):
    reply = run(f"{DAEMON}\nimport sys\ndaemon()\nprint('so far', flush=True)\nprint('busy', file=sys.stderr)\ntime.sleep(100)", seconds=3.0)
    assert (reply.status, reply.text, reply.transient) == ("timeout", "so far", False)
    assert reply.why == "still running after 3 s; it said last: busy"
    assert [pid for pid in pids(tmp_path / "pids") if alive(pid)] == []


def test_what_a_good_one_left_running_is_ended_too(run, tmp_path):
    assert run(f"{DAEMON}\ndaemon()\nprint('done')").status == "ok"
    assert [pid for pid in pids(tmp_path / "pids") if alive(pid)] == []


def test_one_whose_lab_is_killed_ends(tmp_path):
    (tmp_path / "own.py").write_text(f"{DAEMON}\ndaemon()\nprint(os.getpid(), file=open('own', 'w'), flush=True)\ntime.sleep(100)\n")
    command = f"{shlex.quote(sys.executable)} -S own.py"
    call = f"agent.run({command!r}, '', cwd=Path('.'), seconds=100, log=Path('log'))"
    lab = subprocess.Popen([sys.executable, "-c", f"from pathlib import Path; from monolab import agent; {call}"], cwd=tmp_path)
    own = tmp_path / "own"
    wait_until(lambda: own.exists() and own.read_text().endswith("\n"))
    started = pids(tmp_path / "pids") + pids(own)
    assert all(map(psutil.pid_exists, started))
    lab.kill()
    lab.wait(60)
    wait_until(lambda: not any(map(alive, started)))


def test_its_caller_can_end_it(run, monkeypatch):
    monkeypatch.setattr(agent, "EVERY", 0.05)
    asked = iter(["", "", "the budget is spent", "again"])
    reply = run("import time; print('so far', flush=True); time.sleep(100)", observe=lambda: next(asked))
    assert (reply.status, reply.why, reply.text, reply.transient) == ("ended", "the budget is spent", "so far", False)
    assert next(asked) == "again"


def test_a_signal_to_the_lab_ends_it(run):
    reply = run("import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(100)")
    assert (reply.status, reply.why) == ("killed", "the lab was told to stop")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_much_output_is_read_to_its_end_and_endless_output_is_ended(run, monkeypatch, tmp_path):
    reply = run('print((\'x\' * 999 + \'\\n\') * 10_000 + \'{"answer": {"a": 1}, "usage": {"tokens_in": 5}}\')')
    assert (reply.status, reply.text, reply.tokens_in) == ("ok", '{"a": 1}', 5)
    assert (tmp_path / "steps" / "1-critic.out").stat().st_size > 10_000_000
    monkeypatch.setattr(agent, "MOST", 1)
    reply = run("while True: print('x' * 1000)")
    assert (reply.status, reply.why) == ("failed", "it printed more than 1 MB")
    assert len(reply.text) <= 2**20


# --- the command


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("no-such-program --now", "there is no program 'no-such-program'"),
        ("claude", "there is no program 'claude'"),
        ("./steps", "there is no program './steps'"),
        ("./plain", "Exec format error"),
        ("sh -c 'x", "No closing quotation"),
        ("  ", "no agent's command"),
    ],
)
def test_a_command_that_cannot_be_started_is_named(tmp_path, command, wrong, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (tmp_path / "steps").mkdir()
    (tmp_path / "plain").write_text("no program\n")
    (tmp_path / "plain").chmod(0o755)
    with pytest.raises(LabError, match=wrong) as error:
        agent.run(command, "", cwd=tmp_path, seconds=5, log=tmp_path / LOG)
    assert error.value.hint


def test_programs_of_the_labs_environment_and_of_the_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert agent.run("lab --version", "", cwd=tmp_path, seconds=20, log=tmp_path / LOG).text
    (tmp_path / "own").write_text("#!/bin/sh\ncat\n")
    (tmp_path / "own").chmod(0o755)
    monkeypatch.chdir(tmp_path.parent)
    assert agent.run("./own", "heard", cwd=Path(tmp_path.name), seconds=20, log=tmp_path / LOG).text == "heard"


@pytest.mark.parametrize(
    ("command", "sure", "line"),
    [
        ("claude", False, "claude -p --output-format stream-json --verbose"),
        (
            "claude --model opus",
            True,
            "claude -p --output-format stream-json --verbose --permission-mode=acceptEdits --allowedTools=Bash --model opus",
        ),
        ("claude --permission-mode plan", True, "claude -p --output-format stream-json --verbose --permission-mode plan"),
        ("claude -p --model opus", True, "claude -p --model opus"),
        ("codex", False, "codex exec --json --skip-git-repo-check -"),
        ("codex -m gpt-5", True, "codex exec --json --skip-git-repo-check --sandbox=workspace-write -m gpt-5 -"),
        ("codex -s read-only", True, "codex exec --json --skip-git-repo-check -s read-only -"),
        ("codex exec --json", True, "codex exec --json"),
        ("opencode -m a/b", True, "opencode run --format json --print-logs --log-level ERROR -m a/b"),
        ("/opt/claude --model 'a b'", True, "/opt/claude --model 'a b'"),
        ("my-agent claude", True, "my-agent claude"),
    ],
)
def test_a_clients_name_becomes_its_headless_command_line(command, sure, line):
    assert agent.command_line(command, sure) == shlex.split(line)


def test_opencode_is_kept_from_working_where_that_is_not_wanted(run, monkeypatch):
    show = "import os; print(os.environ.get('OPENCODE_PERMISSION'))"
    assert json.loads(run(show).text) == {"edit": "deny", "bash": "deny"}
    assert run(show, sure=True).text == "None"
    monkeypatch.setenv("OPENCODE_PERMISSION", "{}")
    assert run(show).text == "{}"


# --- what it said and used


@pytest.mark.parametrize(
    ("printed", "text", "used"),
    [
        ('{"answer": {"a": [1]}, "usage": {"tokens_in": 1200, "tokens_out": 80, "cost": 0.01}}', '{"a": [1]}', (1200, 80, 0.01)),
        ('thinking\n{"answer": "two\\nlines", "usage": {"tokens_in": 0}}\n\n', "two\nlines", (0, None, None)),
        ('the message\n{"usage": {"tokens_out": 5, "cost": 0}}', "the message", (None, 5, 0.0)),
        ('{"answer": "x", "usage": {"tokens_in": "12", "tokens_out": -1, "cost": NaN}}', "x", (None, None, None)),
        ('{"answer": "x", "usage": {"tokens_in": true, "tokens_out": 1.5, "cost": true}}', "x", (None, None, None)),
        ('{"answer": "x", "usage": null}', "x", (None, None, None)),
        ('{"answer": "x", "more": 1}', '{"answer": "x", "more": 1}', (None, None, None)),
        ('{"type": "result"}\nnot JSON {', '{"type": "result"}\nnot JSON {', (None, None, None)),
        ('[{"type": 1}, 2]', '[{"type": 1}, 2]', (None, None, None)),
    ],
)
def test_a_script_may_say_what_it_used(printed, text, used):
    said = agent.read(printed)
    assert (said.text, (said.tokens_in, said.tokens_out, said.cost)) == (text, used)


FOUND = 'Found it.\n\n```json\n{"a": 1}\n```'


@pytest.mark.parametrize(
    ("name", "code", "reply"),
    [
        ("claude-ok", 0, Reply("ok", FOUND, 2300, 20, 0.003125, 0, "", False)),
        ("claude-busy", 1, Reply("failed", "", 0, 0, 0.0, 0, "API Error: Request rejected (429) · scripted 429", True)),
        ("claude-key", 1, Reply("failed", "", 0, 0, 0.0, 0, "Failed to authenticate. API Error: 401 scripted 401", False)),
        ("codex-ok", 0, Reply("ok", FOUND, 2200, 20, None, 0, "", False)),
        ("codex-busy", 1, Reply("failed", "", None, None, None, 0, "exceeded retry limit, last status: 429 Too Many Requests", True)),
        ("codex-key", 1, Reply("failed", "", None, None, None, 0, "unexpected status 401 Unauthorized: scripted 401", False)),
        ("opencode-ok", 0, Reply("ok", FOUND, 2200, 20, 0.00024, 0, "", False)),
        ("opencode-key", 1, Reply("failed", "", None, None, None, 0, "scripted 401 (status 401)", False)),
    ],
)
def test_every_clients_output_is_understood(tmp_path, name, code, reply):
    file = tmp_path / "it"
    file.write_text((ENVELOPES / f"{name}.jsonl").read_text())
    found = agent.run(f"sh -c 'cat it; exit {code}'", "", cwd=tmp_path, seconds=20, log=tmp_path / LOG)
    assert found.why.startswith(reply.why) and bool(found.why) == bool(reply.why)
    assert found == Reply(**vars(reply) | {"seconds": found.seconds, "why": found.why})


@pytest.mark.parametrize(
    ("name", "used", "transient"),
    [
        ("claude-ended", (1150, 1, None), False),  # what it told of its turns until then
        ("codex-refused", (None, None, None), True),
        ("opencode-ended", (1100, 10, 0.00012), False),
    ],
)
def test_one_that_ran_out_of_time_is_metered_as_far_as_it_told(tmp_path, name, used, transient):
    (tmp_path / "it").write_text((ENVELOPES / f"{name}.jsonl").read_text())
    found = agent.run("sh -c 'cat it; sleep 100'", "", cwd=tmp_path, seconds=3, log=tmp_path / LOG)
    assert (found.status, found.text, (found.tokens_in, found.tokens_out, found.cost), found.transient) == ("timeout", "", used, transient)


def test_claude_codes_single_object_and_its_list_are_understood_too():
    result = (ENVELOPES / "claude-ok.jsonl").read_text().splitlines()[-1]
    for printed in (result, f"[{result}]"):
        assert agent.read(printed).text == FOUND and agent.read(printed).cost == 0.003125


def test_claude_codes_usage_counts_subagents_and_stands_without_them():
    result = json.loads((ENVELOPES / "claude-ok.jsonl").read_text().splitlines()[-1])
    haiku = {"inputTokens": 7, "outputTokens": 3, "cacheReadInputTokens": 0, "cacheCreationInputTokens": 0}
    said = agent.read(json.dumps(result | {"modelUsage": result["modelUsage"] | {"haiku": haiku}}))
    assert (said.tokens_in, said.tokens_out) == (2307, 23)
    said = agent.read(json.dumps({name: value for name, value in result.items() if name != "modelUsage"}))
    assert (said.tokens_in, said.tokens_out) == (2300, 20)
    said = agent.read(json.dumps({name: value for name, value in result.items() if name not in ("modelUsage", "usage", "total_cost_usd")}))
    assert (said.text, said.tokens_in, said.tokens_out, said.cost) == (FOUND, None, None, None)


def test_an_error_that_was_overcome_is_none():
    ok = (ENVELOPES / "codex-ok.jsonl").read_text()
    refused = (ENVELOPES / "codex-refused.jsonl").read_text()
    assert agent.read(refused).error and not agent.read(refused + ok).error


@pytest.mark.parametrize(
    ("why", "transient"),
    [
        ("lab chat: 127.0.0.1:8080 answered 503: loading model", True),
        ("lab chat: 127.0.0.1:8080 cannot be reached: [Errno 111] Connection refused", True),
        ("Error: 529 overloaded", True),
        ("You've hit your limit, resets 3pm", True),
        ("You've hit your usage limit. Try again later.", True),
        ("getaddrinfo EAI_AGAIN api.example.com", True),
        ("Temporary failure in name resolution", True),
        ("rate_limit_error: slow down", True),
        ("ValueError: 500 lines are too many", False),
        ("unexpected status 401 Unauthorized, url: http://127.0.0.1:5000/v1", False),
        ("the model `x` does not exist", False),
        ("Credit balance is too low", False),
    ],
)
def test_what_a_later_call_may_not_meet_again(run, why, transient):
    reply = run(f"import sys; print({why!r}, file=sys.stderr); sys.exit(1)")
    assert (reply.status, reply.transient) == ("failed", transient), reply.why


# --- the answer in a message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('\n  {"a": {"b": [{"c": 1}]}}\n\n', {"a": {"b": [{"c": 1}]}}),
        (f"I use {{x}} and {{'y'}} as sets.\n\n{FOUND}\n\nThat is all {{really}}.", {"a": 1}),
        ('First:\n```json\n{"a": 1}\n```\nNo, better:\n```json\n{"a": 2}\n```', {"a": 2}),
        ('An example:\n```json\n{"a": 1}\n```\nMy answer: {"a": 2}', {"a": 2}),
        ('```json\n{"a": 1}\n```\nI ran this:\n```sh\nls {a,b}\n```', {"a": 1}),
        ('~~~\n{"a": 1}\n~~~', {"a": 1}),
        ('````\n{"a": "```\\nx\\n```"}\n````', {"a": "```\nx\n```"}),
        ('cut off: ```json\n{"a": 1}', {"a": 1}),
        ('The form {"a": ...} is asked for. {"a": 2}.', {"a": 2}),
        ('{"a": 1} {"a": 2}', {"a": 2}),
        ('{"new": "def f():\n\treturn {\\"x\\": 1}"}', {"new": 'def f():\n\treturn {"x": 1}'}),
        ("{}", {}),
    ],
)
def test_the_last_object_of_a_message_is_the_answer(text, value):
    assert agent.answer(text) == value


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "no JSON object"),
        ("I could not do it, {sorry}.", "no JSON object"),
        ('"text"', "no JSON object"),
        ('[{"a": 1}, {"a": 2}]', "inside of a list"),
        ('{"a": 1, "b": {"c": 2}', "does not parse: Expecting ',' delimiter at line 1"),
        ('```json\n{"a": 1,\n "b": {"c": 2},\n}\n```', "property name enclosed in double quotes at line 3"),
        ('{"a": 1 "b": {"c": 2}}', "does not parse"),
        ("{'a': 1}", "does not parse"),
        ('{"a": [{"b": 1}, {"b": 2}', "does not parse"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_answer_is_told_why(text, wrong):
    with pytest.raises(ValueError, match=wrong):
        agent.answer(text)

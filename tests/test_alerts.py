"""Alerts: to a real web server and real commands, once each, never in a run's way."""

import http.server
import json
import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from conftest import IGNORED, PROGRAM, TRAIN, git
from test_lab import LAB, add_idea, call, settle_down

from monolab import alerts, backlog, events, queue, receipts, results, retries
from monolab.alerts import Event, Settings
from monolab.errors import LabError

ON = {".gitignore": IGNORED + ".alerts.yaml\n"}


@pytest.fixture
def web():
    """A web server that takes what it is sent: `web.port`, `web.got` (JSON bodies), `web.answer` (a status; 0 for none at all)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not server.answer:
                server.silent.wait(60)
                return
            server.got.append(json.loads(body))
            self.send_response(server.answer)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.answer, server.silent = [], 200, threading.Event()
    server.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.silent.set()
    server.shutdown()
    server.server_close()


def set_up(lab, text: str) -> None:
    path = lab.root / ".alerts.yaml"
    path.touch(mode=0o600)
    path.write_text(text)


def one(text: str = "something", key: str = "k", kind: str = "best", **more) -> Event:
    return Event(kind, key, text, **more)


@pytest.fixture
def told(lab_repo, tmp_path):
    """A lab, and `tell(*events, **settings)`: what a command was given, one text for every message so far."""
    lab, out = lab_repo(**ON), tmp_path / "told"
    out.mkdir()

    def tell(*found: Event, **more) -> list[str]:
        settings = Settings(to=({"command": f"cat > {out}/$(ls {out} | wc -l).txt"},), **more)
        alerts.tell(lab, settings, list(found))
        return [path.read_text() for path in sorted(out.iterdir())]

    return lab, tell


# -- what is sent


def test_a_service_and_a_command_get_the_text(lab_repo, web, tmp_path):
    lab = lab_repo(**ON)
    set_up(lab, f"to:\n  - json://user:pass-word-1@127.0.0.1:{web.port}/secret-path\n  - command: cat > {tmp_path}/told.txt\n")
    done = call(lab.root, "alert", "test")
    assert done.stdout == "json://...: sent\ncommand cat ...: sent\n"
    (got,) = web.got
    assert "a test" in got["title"] and str(lab.root) in got["message"]
    assert (tmp_path / "told.txt").read_text().startswith("lab: a test\n")


def test_a_target_that_fails_is_named_without_its_secrets(lab_repo, web):
    lab = lab_repo(**ON)
    web.answer = 500
    set_up(lab, f"to:\n  - json://user:pass-word-1@127.0.0.1:{web.port}/secret-path\n  - nonsense://token-2\n  - command: exit 7\n")
    done = call(lab.root, "alert", "test", check=False)
    assert done.returncode == 1 and "500" in done.stdout and "exit code 7" in done.stdout and "does not know" in done.stdout
    shown = done.stdout + done.stderr + call(lab.root, "alert", "list").stdout
    assert not [word for word in ("pass-word-1", "secret-path", "token-2") if word in shown]


def test_a_target_that_never_answers_is_given_up(lab_repo, web, monkeypatch):
    monkeypatch.setattr(alerts, "SECONDS", 0.3)
    web.answer = 0
    assert "no answer within" in alerts.send(f"json://127.0.0.1:{web.port}/", "t", "x", {})
    assert "not done within" in alerts.send({"command": "sleep 60 & wait"}, "t", "x", {})
    assert alerts.send({"command": "exec 0<&-; exit 0"}, "t", "x" * 10**6, {}) == ""  # one that does not read


def test_the_same_is_told_once_and_what_lasts_again_after_a_while(told, monkeypatch):
    _, tell = told
    now = time.time()
    assert len(tell(one("first"))) == len(tell(one("first, put otherwise"))) == 1
    assert len(tell(one("another", "k2"))) == 2
    lasting = one("disk", "low", "disk", lasts=True)
    assert len(tell(lasting)) == len(tell(lasting)) == 3
    monkeypatch.setattr(alerts.time, "time", lambda: now + 7 * 3600)
    assert len(tell(lasting, one("first"))) == 4
    monkeypatch.setattr(alerts.time, "time", lambda: now - 100 * 24 * 3600)  # the clock was set back: nothing stays silent for ever
    assert len(tell(lasting)) == 5


def test_too_many_messages_become_one(told, monkeypatch):
    _, tell = told
    now = time.time()
    for number in range(5):
        tell(one(f"event {number}", str(number)), per_hour=2)
    texts = tell(per_hour=2)
    assert len(texts) == 2 and "event 4" not in "".join(texts)
    monkeypatch.setattr(alerts.time, "time", lambda: now + 3700)
    texts = tell(one("event 5", "5"), per_hour=2)
    assert len(texts) == 3 and "held back until now: 3" in texts[2] and all(f"event {number}" in texts[2] for number in (2, 3, 4, 5))
    assert len(tell(per_hour=2)) == 3


def test_only_what_was_asked_for_is_told(told):
    _, tell = told
    assert tell(one(kind="disk"), events=("best", "empty")) == []


def test_a_message_that_nobody_took_is_told_with_the_next_and_logged_once(lab_repo, web):
    lab = lab_repo(**ON)
    settings = Settings(to=(f"json://127.0.0.1:{web.port}/a-secret-path",))
    web.answer = 503
    for number in range(3):
        alerts.tell(lab, settings, [one(f"event {number}", str(number))])
    log = (lab.runs / ".alerts" / "log").read_text()
    assert log.count("target 1 (json://...)") == 1 and "503" in log and "a-secret-path" not in log
    web.answer = 200
    web.got.clear()
    alerts.tell(lab, settings, [one("event 3", "3")])
    (got,) = web.got
    assert all(f"event {number}" in got["message"] for number in range(4))
    assert "works again" in (lab.runs / ".alerts" / "log").read_text()
    alerts.tell(lab, settings, [])
    assert len(web.got) == 1


def test_many_checks_at_once_tell_once(lab_repo, tmp_path):
    lab = lab_repo(**ON)
    set_up(lab, f"to:\n  - command: cat >> {tmp_path}/told.txt; sleep 0.2\ndisk_gb: 1000000000\n")
    running = [subprocess.Popen([LAB, "alert", "check"], cwd=lab.root) for _ in range(5)]
    assert [process.wait(60) for process in running] == [0] * 5
    assert (tmp_path / "told.txt").read_text().count("the disk is low") == 2  # title and text of one message


# -- the settings


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no `to`"),
        ("events: [best]", "no `to`"),
        ("to: [json://x]\nevnts: [best]", "unknown field 'evnts'"),
        ("to: [not a url]", "target 1"),
        ("to: [{comand: x}]", "target 1"),
        ("to: [json://x]\nevents: [bset]", "known ones"),
        ("to: [json://x]\nfailures: 0", "positive whole number"),
        ("to: [json://x]\nper_hour: yes", "positive whole number"),
        ("to: [json://x]\nenvironment: [a]", "no mapping"),
        ("to: [json://secret-word", "not YAML (line 1)"),
    ],
)
def test_wrong_settings_are_one_error_without_secrets(lab_repo, text, what):
    lab = lab_repo(**ON)
    set_up(lab, text)
    with pytest.raises(LabError) as caught:
        alerts.load(lab)
    assert what in caught.value.what and caught.value.hint and "secret-word" not in str(caught.value)


def test_settings_that_others_could_read_or_git_would_keep_are_refused(lab_repo):
    lab = lab_repo()
    set_up(lab, "to: [json://x]")
    with pytest.raises(LabError, match="git would keep") as caught:
        alerts.load(lab)
    subprocess.run(caught.value.hint, shell=True, cwd=lab.root, check=True)  # the hint does what it says
    assert alerts.load(lab).to == ("json://x",)
    (lab.root / ".alerts.yaml").chmod(0o640)
    with pytest.raises(LabError, match="read by others") as caught:
        alerts.load(lab)
    subprocess.run(caught.value.hint, shell=True, check=True, env=os.environ | {"USER": str(os.getuid())})
    assert alerts.load(lab) and stat.S_IMODE((lab.root / ".alerts.yaml").stat().st_mode) == 0o600
    git(lab.root, "add", "--force", ".alerts.yaml")
    with pytest.raises(LabError, match="git would keep"):
        alerts.load(lab)


def test_without_settings_nothing_is_started_and_the_commands_say_what_to_write(lab_repo, tmp_path):
    lab = lab_repo(**ON)
    alerts.nudge(lab)
    assert alerts._started == []
    for what in ("test", "list"):
        done = call(lab.root, "alert", what, check=False)
        assert done.returncode == 1 and "no alerts are set up" in done.stderr
    line = done.stderr.partition("next: ")[2].strip().replace("~/alerts.txt", f"{tmp_path}/told.txt")
    subprocess.run(line, shell=True, check=True)  # the hint does what it says
    assert "sent" in call(lab.root, "alert", "test").stdout and (tmp_path / "told.txt").exists()
    assert "unknown" in call(lab.root, "alert", "tset", check=False).stderr


def test_what_goes_wrong_in_a_check_is_logged_once(lab_repo):
    lab = lab_repo(**ON)
    set_up(lab, "to: [json://x]\nfailures: none")
    for _ in range(2):
        call(lab.root, "alert", "check")
    assert (lab.runs / ".alerts" / "log").read_text().count("`failures` is 'none'") == 1
    set_up(lab, "to: [{command: 'true'}]")

    def broken(*_):
        raise KeyError("a secret value")

    for _ in range(2):
        alerts.check(lab, broken)
    log = (lab.runs / ".alerts" / "log").read_text()
    assert log.count("the check failed: KeyError in test_alerts.py") == 1 and "secret value" not in log


# -- what is worth it


def kinds(lab, settings: Settings | None = None) -> dict[str, str]:
    return {event.kind: event.text for event in events.found(lab, settings or Settings(to=(), disk_gb=0.001))}


def test_a_queued_lab_tells_that_its_best_was_beaten_and_that_its_queue_is_empty(lab_repo, pueue_daemon, web, wait_until):
    lab = lab_repo(**ON)
    call(lab.root, "data")
    set_up(lab, f"to: json://127.0.0.1:{web.port}/\ndisk_gb: 0.001\n")
    call(lab.root, "baseline")
    settle_down(lab, 3, wait_until)
    wait_until(lambda: any("the queue is empty" in got["message"] for got in web.got))
    tree = add_idea(lab, "shift")
    (tree / "train.py").write_text(TRAIN.replace("offset: float = 0.0", "offset: float = -0.5"))
    call(tree, "queue", "shift")
    settle_down(lab, 6, wait_until)
    wait_until(lambda: any("best beaten: shift has score 0.5" in got["message"] for got in web.got))
    last = results.load(lab)[-1].run_id
    wait_until(lambda: any(f"the last run was {last}" in got["message"] for got in web.got))
    told = "".join(got["message"] for got in web.got)
    assert told.count("best beaten") == 1 and told.count("the queue is empty") == 2
    assert "json://" not in (pueue_daemon.folder / "state" / "state.json").read_text()


def test_a_dead_web_server_neither_delays_nor_fails_a_run(lab_repo, web, wait_until):
    lab = lab_repo(**ON)
    call(lab.root, "data")
    web.answer = 0  # takes the connection and says nothing
    set_up(lab, f"to: json://127.0.0.1:{web.port}/\ndisk_gb: 1000000000\n")
    call(lab.root, "eval")
    call(lab.root, "eval", "--seed", "1")
    assert [row.status for row in results.load(lab)] == ["ok", "ok"]
    assert not any("alert" in path.read_text() for path in lab.runs.glob("*/*.log"))
    state = lab.runs / ".alerts" / "state.json"  # a process of its own goes on, finds nobody, and says so there
    wait_until(lambda: state.exists() and json.loads(state.read_text())["failing"])


def test_failures_in_a_row(lab_repo):
    lab = lab_repo(**ON)
    call(lab.root, "data")
    tree = add_idea(lab, "bad")
    for seed in range(3):
        (tree / "train.py").write_text(f"raise RuntimeError('no {seed}')\n" + TRAIN)
        assert "failures" not in kinds(lab)
        queue.evaluate(lab, "bad", None, "explore", seed, [])
    assert "3 runs in a row failed (crash, crash, crash)" in kinds(lab)["failures"] and "no 2" in kinds(lab)["failures"]
    queue.evaluate(lab, "baseline", None, "explore", 0, [])
    assert "failures" not in kinds(lab)


def test_disk_holdout_and_people(lab_repo):
    lab = lab_repo(**ON | {"program.md": PROGRAM.replace("memory_gb: 1", "memory_gb: 1\nholdout_looks: 1")})
    call(lab.root, "data")
    assert kinds(lab) == {}
    assert "the disk is low" in kinds(lab, Settings(to=(), disk_gb=1e9))["disk"]
    for seed in range(3):
        queue.evaluate(lab, "baseline", None, "explore", seed, [])
    call(lab.root, "verify", "baseline")
    assert "all 1 looks" in kinds(lab)["holdout"]
    text = lab.results.read_text()
    lab.results.write_text(text[:-20])
    assert "needs you: results.tsv ends in the middle" in kinds(lab)["human"]
    lab.results.write_text(text)
    set_up(lab, "to: [{command: 'cat > told.txt'}]".replace("told.txt", str(lab.root / "told.txt")))
    call(lab.root, "alert", "ask", "Which of the two?")
    alerts.check(lab, lambda *_: [])  # the one that `ask` has started may have told it already
    end = time.monotonic() + 20
    while not (lab.root / "told.txt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert "asks for you: Which of the two?" in (lab.root / "told.txt").read_text()


def test_a_lab_that_has_stopped(lab_repo, pueue_daemon, wait_until):
    lab = lab_repo(**ON)
    call(lab.root, "data")
    call(lab.root, "baseline", "--seeds", "1")
    settle_down(lab, 1, wait_until)
    group = "lab-cpu"
    subprocess.run(["pueue", "pause", "--group", group], check=True, capture_output=True)
    wait_until(lambda: not backlog.unfinished(lab))
    call(lab.root, "baseline", "--seeds", "2")
    assert "lab-cpu is paused with 2 run(s)" in kinds(lab)["stopped"] and "empty" not in kinds(lab)
    subprocess.run(["pueue", "shutdown"], check=True, capture_output=True)
    wait_until(lambda: "no pueue daemon answers, and 2 run(s) wait" in kinds(lab).get("stopped", ""))


def test_a_retry_that_is_put_off_is_no_lab_that_has_stopped(lab_repo, pueue_daemon):
    program = ON.get("program.md", PROGRAM).replace("memory_gb: 1", "memory_gb: 1\nretries: {transient: 2, wait_seconds: 1800}")
    lab = lab_repo(**ON | {"program.md": program})
    call(lab.root, "data")
    call(lab.root, "eval")
    (row,) = results.load(lab)
    failed = replace(receipts.receipt(lab, row.run_id), status="crash", value=None, metrics={}, flags=("transient:device-busy",))
    retry = retries.again(lab, failed)
    soon = Settings(to=(), disk_gb=0.001, idle_minutes=1e-9)
    assert [one.run_id for one in backlog.pending(lab)] == [retry.run_id] and "stopped" not in kinds(lab, soon)
    for path in lab.run(retry.run_id).iterdir():
        os.utime(path, (0, 0))
    assert "1 run(s) wait and nothing has moved" in kinds(lab, soon)["stopped"]  # longer than the lab ever waits


def test_a_lab_where_nothing_moves(lab_repo, pueue_daemon, wait_until):
    """Another program holds the device."""
    lab = lab_repo(**ON)
    call(lab.root, "data")
    code = "from monolab import device; import sys\nwith device.lock(device.detect(), print, run='other', lab='/else'): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        call(lab.root, "baseline", "--seeds", "1")
        soon = Settings(to=(), disk_gb=0.001, idle_minutes=0.001)
        wait_until(lambda: "the device is held by other of /else" in kinds(lab, soon).get("stopped", ""))
        assert "stopped" not in kinds(lab)
    finally:
        holder.communicate("")
    settle_down(lab, 1, wait_until)

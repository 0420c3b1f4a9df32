"""Keys are read where they are used and go nowhere from there: canaries are planted, real experiments run, and everything written is searched."""

import json
import os
import re
import secrets
import subprocess
from pathlib import Path

import pytest
from conftest import EVAL, IGNORED, REPOSITORY, TRAIN, commit, git
from test_lab import LAB, add_idea, call, settle_down

from monolab import guard, keys, pueue, receipts, results, sandbox, snapshot
from monolab.errors import LabError

NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "S2_API_KEY",
    "EXA_API_KEY",
)
ODD = "ZQJX"  # says nothing
# What a nosy candidate looks at: its environment, that of every process, the files above it and at home. All goes to its output and its checkpoint.
NOSY = """import glob, os, sys
from pathlib import Path
_told = [repr(dict(os.environ)), repr(sys.argv)]
for _path in [*glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline")]:
    try:
        _told.append(Path(_path).read_bytes().decode(errors="replace"))
    except OSError:
        pass
for _folder in [Path.cwd(), *Path.cwd().parents, Path.home(), Path(HOME), Path(ROOT), Path(ROOT).parent]:
    for _path in [_folder / ".env", _folder / ".alerts.yaml"]:
        try:
            _told.append(_path.read_text())
        except OSError:
            pass
print("looked around:", *_told, flush=True)
if "--out" in sys.argv:
    _out = Path(sys.argv[sys.argv.index("--out") + 1])
    _out.mkdir(parents=True, exist_ok=True)
    (_out / "loot.txt").write_text("".join(_told))
"""


def objects(lab) -> bytes:
    """Everything that git keeps, whether anything refers to it or not."""
    return subprocess.run(["git", "-C", str(lab.root), "cat-file", "--batch-all-objects", "--batch"], capture_output=True, check=True).stdout


@pytest.fixture
def planted(lab_repo, pueue_daemon, tmp_path, monkeypatch):
    """A lab among canaries, and `searched()`: every file where one is found, and every one of git's objects."""
    home, temp = tmp_path / "home", tmp_path / "temp"
    home.mkdir()
    temp.mkdir()
    canaries = {
        name: f"canary-{secrets.token_hex(12)}"
        for name in (*NAMES, ODD, "alert", "proxy", "dot-env in the lab", "dot-env above it", "dot-env at home", "worktree")
    }
    nosy = NOSY.replace("HOME", repr(str(home))).replace("ROOT", repr(str(tmp_path / "lab")))
    train = TRAIN.replace("import sys\n", f"import sys\n{nosy}" if sandbox.probe().kind != "none" else "import os, sys\nprint(dict(os.environ))\n", 1)
    scorer = EVAL.replace("import sys\n", "import os\nimport sys\n").replace("value = float", "print(dict(os.environ))\nvalue = float", 1)
    lab = lab_repo(**{"train.py": train, "eval.py": scorer, ".gitignore": IGNORED + ".env\n.alerts.yaml\n"})
    call(lab.root, "data")
    for name in (*NAMES, ODD):
        monkeypatch.setenv(name, canaries[name])
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temp))
    planted = {
        lab.root / ".env": canaries["dot-env in the lab"],
        lab.root.parent / ".env": canaries["dot-env above it"],
        home / ".env": canaries["dot-env at home"],
    }
    for path, value in planted.items():
        path.write_text(f"PLANTED_API_KEY={value}\n")
    alerts = lab.root / ".alerts.yaml"
    alerts.touch(mode=0o600)
    alerts.write_text(
        f"to: ['json://me:{canaries['alert']}@127.0.0.1:1/{canaries['alert']}', {{command: 'exit 3 # {canaries['alert']}'}}]\n"
        f"environment: {{NO_PROXY: '*', HTTPS_PROXY: 'http://me:{canaries['proxy']}@proxy.invalid'}}\n"
    )
    known = {path.resolve() for path in (*planted, alerts)}

    def searched(also: str = "") -> list[str]:
        found = [f"what was printed: {name}" for name, value in canaries.items() if value in also]
        for folder in (lab.root, pueue_daemon.folder, temp, home):
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink() and path.resolve() not in known and path.name != ".env":
                    content = path.read_bytes()
                    found += [f"{path}: {name}" for name, value in canaries.items() if value.encode() in content]
        return found + [f"git's objects: {name}" for name, value in canaries.items() if value.encode() in objects(lab)]

    return lab, canaries, searched


def test_no_key_reaches_anything_that_the_lab_or_pueue_writes(planted, wait_until):
    lab, canaries, searched = planted
    printed = [call(lab.root, "baseline").stdout]
    tree = add_idea(lab, "nosy")
    (tree / ".env").write_text(f"KEY={canaries['worktree']}\n")
    text = (tree / "train.py").read_text()
    (tree / "train.py").write_text(text.replace("offset: float = 0.0", "offset: float = -0.5"))
    printed.append(call(tree, "queue", "nosy").stdout)
    rows = settle_down(lab, 6, wait_until)
    assert {row.status for row in rows} == {"ok"}
    kept = next(row.run_id for row in rows if row.idea == "nosy")
    for args in (("eval", "--seed", "7"), ("smoke",), ("diff", kept), ("log", kept), ("status",), ("report", "nosy"), ("verdict", "nosy")):
        done = call(tree, *args)
        printed += [done.stdout, done.stderr]
    (tree / "train.py").write_text(text.replace("def main() -> None:", "def main() -> None:\n    raise RuntimeError(dict(os.environ))"))
    done = call(tree, "eval", "--seed", "8", check=False)
    printed += [done.stdout, done.stderr]
    assert results.load(lab)[-1].status == "crash" and "RuntimeError" in receipts.receipt(lab, results.load(lab)[-1].run_id).log_tail
    more = (("verify", "baseline"), ("audit", kept), ("reproduce", kept), ("doctor",), ("alert", "ask", "Is it you?"), ("alert", "check"))
    for args in (*more, ("alert", "test"), ("alert", "list")):
        done = call(lab.root, *args, check=args[:2] != ("alert", "test"))
        printed += [done.stdout, done.stderr]
    looked = (lab.run(kept) / "train.log").read_text()
    assert "LAB_STAGE" in looked  # it did look, and its own environment is there
    wait_until(lambda: (lab.runs / ".alerts" / "log").exists())  # the alerts' own processes were there
    assert "exit code 3" in "".join(printed) and searched("".join(printed)) == []
    assert searched(canaries[ODD]) != []  # the search finds what is there


def test_keys_of_a_task_typed_by_hand_leave_pueues_state_with_the_next_command(planted, pueue_daemon, wait_until, monkeypatch):
    """`pueue add` stores its client's whole environment. The lab takes out what looks like a key; a name that says nothing stays."""
    lab, _, searched = planted
    tree = add_idea(lab, "typed")
    monkeypatch.delenv(ODD)
    subprocess.run(["pueue", "add", "-w", str(tree), "--label", "Q: a? H: b", "--", f"{LAB} eval"], check=True, capture_output=True)
    wait_until(lambda: {task.state for task in pueue.tasks()} == {"Done"})
    subprocess.run(["pueue", "add", "--stashed", "-w", str(tree), "--", f"{LAB} eval"], check=True, capture_output=True)
    subprocess.run(["pueue", "add", "--stashed", "--", "sleep 0; echo another program"], check=True, capture_output=True)
    assert any("state.json" in place for place in searched())
    done = call(lab.root, "baseline", "--seeds", "1")
    assert "OPENAI_API_KEY" in done.stderr and "typed by hand" in done.stderr and "canary" not in done.stderr
    left = {task.command: task for task in pueue.tasks()}
    assert left[f"{LAB} eval"].state == "Stashed" and left[f"{LAB} eval"].keys == ()
    other = left["sleep 0; echo another program"]
    assert set(other.keys) >= set(NAMES)  # another program's keys are none of the lab's business
    pueue.remove(other.id)
    wait_until(lambda: len(results.load(lab)) == 2)
    assert searched() == []


def test_just_loads_no_dotenv(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "lab"):
        folder.mkdir(exist_ok=True)
        (folder / ".env").write_text("PLANTED_API_KEY=canary\n")
    (tmp_path / "lab" / "justfile").write_bytes((REPOSITORY / "justfile").read_bytes())
    (tmp_path / "lab" / "dev.just").write_bytes((REPOSITORY / "dev.just").read_bytes())
    seen = subprocess.run(["just", "--command", "env"], cwd=tmp_path / "lab", capture_output=True, text=True, check=True).stdout
    assert "PATH=" in seen and "PLANTED" not in seen


# -- what git would keep


@pytest.mark.parametrize(
    "name", [".env", "sub/.env.local", "id_rsa", "deploy.pem", "credentials.json", ".aws/config", "secrets.yaml", ".alerts.yaml", ".netrc"]
)
def test_a_file_of_keys_is_refused_before_git_has_seen_it(lab_repo, name):
    lab = lab_repo()
    (lab.root / name).parent.mkdir(exist_ok=True)
    (lab.root / name).write_text("canary-in-a-file\n")
    with pytest.raises(LabError, match="is named as files of keys are") as caught:
        snapshot.take(lab.root)
    assert name in caught.value.what and ".gitignore" in caught.value.hint
    assert b"canary" not in objects(lab)
    (lab.root / ".gitignore").write_text(IGNORED + name + "\n")  # the hint does what it says
    assert name not in git(lab.root, "ls-tree", "-r", "--name-only", snapshot.take(lab.root).commit)


def test_a_file_of_keys_is_refused_when_somebody_has_added_it(lab_repo):
    lab = lab_repo()
    (lab.root / ".env").write_text("A=b\n")
    git(lab.root, "add", ".env")
    with pytest.raises(LabError, match=r"\.env is named as"):
        snapshot.take(lab.root)


def test_a_commit_of_a_file_of_keys_is_refused(lab_repo):
    lab = lab_repo()
    guard.install_hook(lab)
    (lab.root / "deploy.pem").write_text("A=b\n")
    (lab.root / "more.py").write_text("more = 1\n")
    git(lab.root, "add", "-A")
    done = subprocess.run(
        ["git", "commit", "-qm", "x"],
        cwd=lab.root,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{Path(LAB).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 1 and "deploy.pem is named as files of keys are" in done.stderr and "more.py" not in done.stderr
    git(lab.root, "restore", "--staged", "deploy.pem")
    assert guard.commit(lab, lab.root) == []


@pytest.mark.parametrize("name", [".env.example", "id_rsa.pub", "keys.py", "environment.yml", "0_docs/.env"])
def test_what_is_no_file_of_keys_travels(lab_repo, name):
    lab = lab_repo()
    (lab.root / name).write_text("A=\n")
    snapshot.take(lab.root)


TOKENS = (
    "AKIA" + "ABCDEFGHIJKLMNOP",
    "sk-ant-" + "api03-" + "x" * 40,
    "hf_" + "a" * 34,
    "ghp_" + "b" * 36,
    "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
)


@pytest.mark.parametrize("token", TOKENS)
def test_a_key_in_the_code_is_refused_and_not_told(lab_repo, token):
    lab = lab_repo()
    (lab.root / "client.py").write_text(f"key = '{token}'\n")
    with pytest.raises(LabError, match=r"client\.py holds a key") as caught:
        snapshot.take(lab.root)
    assert token not in str(caught.value) or len(token) <= 8
    (lab.root / "client.py").unlink()
    (lab.root / "train.py").write_text(TRAIN + f"# {token}\n")
    with pytest.raises(LabError, match=r"train\.py holds a key"):
        snapshot.take(lab.root)
    commit(lab.root)  # a person's own doing: from now on it is in git, and a snapshot adds nothing
    (lab.root / "train.py").write_text(TRAIN + f"# {token}\n# and more\n")
    snapshot.take(lab.root)


def test_ordinary_code_holds_no_key():
    for path in (*REPOSITORY.glob("*.py"), *(REPOSITORY / "src" / "monolab").rglob("*.py"), *(REPOSITORY / "examples").rglob("*.py")):
        if path.name != "keys.py":
            assert keys.in_text(path.read_text()) == "", path


def test_an_example_travels_without_the_keys_of_who_tried_it(tmp_path):
    from monolab import init

    (tmp_path / "old" / "sub").mkdir(parents=True)
    for name in ("train.py", ".env", "sub/.env", "sub/id_rsa", "sub/data.py"):
        (tmp_path / "old" / name).write_text("x")
    init._copy(tmp_path / "old", tmp_path / "new")
    assert sorted(path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()) == [
        "sub/data.py",
        "train.py",
    ]


# -- the lists


def test_there_is_one_list_for_pueue_and_one_for_candidates_and_no_key_is_on_it():
    assert set(keys.FOR_CANDIDATES) < set(keys.FOR_PUEUE)
    assert keys.named(dict.fromkeys(keys.FOR_PUEUE, "x")) == ()
    assert [name for name in keys.FOR_PUEUE if re.search(keys.NAMES, name)] == []
    for path in (REPOSITORY / "src" / "monolab").rglob("*.py"):  # whoever starts a process with part of the environment takes it from there
        text = path.read_text()
        assert "os.environ[name] for name in" not in text or path.name == "keys.py", path


ODDLY = ("SSHPASS", "MYSQL_PWD", "SLACK_WEBHOOK_URL", "OPENAI_APIKEY", "CLIENTSECRET", "AZURE_STORAGE_CONNECTION_STRING", "MY_JWT", "SENTRY_DSN")


@pytest.mark.parametrize("name", [*NAMES, *ODDLY, "PGPASSWORD", "GITHUB_PAT", "WANDB_API_KEY", "DB_PASS", "AWS_SECRET_ACCESS_KEY_2"])
def test_names_of_keys(name):
    assert keys.named(
        {name: "x", "EDITOR": "vi", "SSH_AUTH_SOCK": "/run/agent", "TOKENIZERS_PARALLELISM": "1", "KEYBOARD": "us", name + "_FILE": "/x"}
    ) == (name,)


def test_values_of_keys():
    env = {"A": TOKENS[0], "B": "postgres://me:word@host/db", "C": "https://host/path:8/x@y", "D": "", "API_KEY": ""}
    assert keys.named(env) == ("A", "B")


def test_values_of_keys_under_names_that_say_nothing():
    rolls = secrets.SystemRandom()
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    found = sum(keys.named({"X": "".join(rolls.choices(letters, k=40))}) == ("X",) for _ in range(500))
    assert found > 450
    hooks = {
        "SLACK": "https://hooks.slack.com/services/T" + "0" * 8 + "/B" + "0" * 8 + "/" + "x" * 24,
        "DISCORD": "https://discord.com/api/webhooks/" + "1" * 18 + "/" + "y" * 68,
        "BLOB": "https://store.example/a?sv=2&sig=" + "z" * 30,
    }
    assert keys.named(hooks) == ("BLOB", "DISCORD", "SLACK")


def test_what_is_no_key(tmp_path):
    env = {
        "PWD": "/work", "OLDPWD": "/work", "SSH_ASKPASS": "/usr/bin/ask", "COMPASS": "north", "GIT_ASKPASS": "x", "DB_PWD": str(tmp_path), "INVOCATION_ID": "0f" * 16,
        "NVIDIA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "CI_COMMIT": "1a2b3c4d5e" * 4, "JOB": "MyExperiment-2026-seed12345-lr001",
        "KERNEL": "Linux-5.15.0-113-generic-x86_64-with-glibc2.35", "LS_COLORS": "rs=0:di=01;34:ln=01;36", "PAGE": "https://host.example/a?page=2&code=1",
        "WORDS": "WordsThatRunTogetherWith2026And17", "STORE": "/nix/store/2Zb9x1QwErTyUiOpAsDfGhJkLzXcVbNm-env",
    }  # fmt: skip
    assert keys.named(env) == ()


def test_what_the_lab_queues_stores_the_list_and_nothing_else(lab_repo, pueue_daemon, monkeypatch, wait_until):
    lab = lab_repo()
    call(lab.root, "data")
    monkeypatch.setenv("EXA_API_KEY", "canary")
    call(lab.root, "baseline", "--seeds", "1")
    status = json.loads(subprocess.run(["pueue", "status", "--json"], capture_output=True, text=True, check=True).stdout)
    for entry in status["tasks"].values():
        assert set(entry["envs"]) <= {*keys.FOR_PUEUE, "PUEUE_GROUP", "PUEUE_WORKER_ID"}
    settle_down(lab, 1, wait_until)


def test_pueues_folder_is_the_users_own(pueue_daemon):
    assert (pueue_daemon.folder / "state").stat().st_mode & 0o077 == 0 and os.access(Path(pueue_daemon.folder), os.R_OK)

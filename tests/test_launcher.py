"""The launcher `just`: one set-up, then a hash check and an exec. uv, just, pueue, curl and cargo are stubs here, except in the last test."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_JUST = Path(sys.executable).with_name("just")
SYSTEM = "bash sh cat chmod cp cut du env flock git grep ln mkdir mv readlink rm sed sha256sum sleep touch uname"
PUEUE = """#!/bin/sh
echo "${0##*/} 4.0.4"
"""
# Writes each call to $CALLS; `uv pip sync` fills the environment with a just and a lab that print how they were called.
UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case "$1 $2" in
"--version ") echo "uv 9.9.9" ;;
"cache dir") echo /cache ;;
"venv "*) for last; do :; done; mkdir -p "$last/bin"; touch "$last/bin/python" ;;
"pip sync")
    if [ -n "$UV_SLOW" ]; then sleep "$UV_SLOW"; fi
    if [ -n "$UV_BREAKS" ]; then echo "no space left" >&2; exit 2; fi
    bin=${4%/*}
    printf '%s\\n' '#!/bin/sh' 'echo "just in $PWD:$(printf " <%s>" "$@")"; command -v pueue' >"$bin/just"
    printf '%s\\n' '#!/bin/sh' 'echo "lab in $PWD:$(printf " <%s>" "$@") UV=$UV GIT_DIR=$GIT_DIR"' 'exit $LAB_BREAKS' >"$bin/lab"
    chmod +x "$bin/just" "$bin/lab" ;;
esac
"""
# Answers any download with a shell script that passes for pueue.
CURL = """#!/bin/sh
echo "curl $*" >>"$CALLS"
while [ "$1" != --output ]; do shift; done
cp "$PUEUE_DOWNLOAD" "$2"
"""
CARGO = """#!/bin/sh
echo "cargo $*" >>"$CALLS"
if [ "$1" = --version ]; then echo "cargo $CARGO_VERSION (0000000 2026-01-01)"; exit; fi
while [ "$1" != --root ]; do shift; done
mkdir -p "$2/bin"
for program in pueue pueued; do cp "$PUEUE_DOWNLOAD" "$2/bin/$program"; chmod +x "$2/bin/$program"; done
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Bench:
    """A lab in a temporary git repository, and a PATH that holds the base system and the stubs named."""

    def __init__(self, folder: Path, *stubs: str):
        self.lab, self.bin, self.cache, self.log = folder / "a lab", folder / "bin", folder / "cache", folder / "calls"
        self.lab.mkdir()
        self.bin.mkdir()
        self.log.touch()
        for name in SYSTEM.split():
            (self.bin / name).symlink_to(shutil.which(name))
        texts = {"uv": UV, "pueue": PUEUE, "pueued": PUEUE, "curl": CURL, "cargo": CARGO}
        for name in stubs:
            program(self.bin / name, texts[name])
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(self.cache),
            "CALLS": str(self.log),
            "PUEUE_DOWNLOAD": str(program(folder / "download", PUEUE)),
            "CARGO_VERSION": "1.95.0",
        }
        for name in ("just", "justfile"):
            shutil.copy(ROOT / name, self.lab / name)
        (self.lab / "requirements.lock").write_text("uv==9.9.9 \\\n    --hash=sha256:00\n")
        (self.lab / "vendor").mkdir()
        (self.lab / "vendor" / "monolab-0.1.0-py3-none-any.whl").write_text("a wheel")
        (self.lab / ".gitignore").write_text(".venv/\n.uv/\n5_worktrees/\n")
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a lab")

    def git(self, *args: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null"]
        subprocess.run(["git", "-C", str(self.lab), *identity, *args], check=True, env=self.env)

    def start(self, *args: str, cwd: Path | None = None, launcher: Path | None = None, **env: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        command = [str(launcher or self.lab / "just"), *args]
        return subprocess.Popen(command, cwd=cwd or self.lab, env=self.env | env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def just(self, *args: str, fails: bool = False, **more) -> tuple[str, str]:
        """stdout and stderr of `./just ARGS`."""
        process = self.start(*args, **more)
        out, err = process.communicate(timeout=120)
        assert bool(process.returncode) == fails, err
        return out, err

    def calls(self, prefix: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(prefix)]

    @property
    def stamp(self) -> Path:
        return self.lab / ".venv" / ".lab-stamp"


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, "uv", "pueue", "pueued")


def test_first_use_sets_up_and_says_what_goes_where(bench):
    out, err = bench.just("status", "a b", "--json")
    assert out.splitlines() == [
        f"just in {bench.lab}: <--justfile> <{bench.lab}/justfile> <status> <a b> <--json>",
        f"{bench.lab}/.venv/bin/pueue",
    ]
    assert bench.calls("uv pip sync") == [
        f"uv pip sync --python {bench.lab}/.venv/bin/python --compile-bytecode --require-hashes {bench.lab}/requirements.lock"
    ]
    (install,) = bench.calls("uv pip install")
    assert install.endswith(f"--no-deps --reinstall {bench.lab}/vendor/monolab-0.1.0-py3-none-any.whl")
    for said in (f"setting up {bench.lab}", f"uv 9.9.9 at {bench.bin}/uv", f"pueue 4.0.4 at {bench.bin}/pueue", "GB on disk", "/cache", "ready in"):
        assert said in err
    assert (bench.lab / ".venv" / "bin" / "pueued").resolve() == bench.bin / "pueued"


def test_a_standing_environment_is_left_alone_and_nothing_is_said(bench):
    bench.just()
    bench.log.write_text("")
    out, err = bench.just("--version")
    assert "<--version>" in out
    assert err == ""
    assert bench.calls("uv") == []


@pytest.mark.parametrize("change", ["requirements.lock", "pyproject.toml", "vendor/monolab-0.1.0-py3-none-any.whl"])
def test_a_changed_input_is_synced_into_the_same_environment(bench, change):
    bench.just()
    with (bench.lab / change).open("a") as file:
        file.write("# changed\n")
    bench.log.write_text("")
    bench.just()
    assert len(bench.calls("uv pip sync")) == 1
    assert bench.calls("uv venv") == []


def test_a_package_of_the_repository_is_installed_editable(bench):
    (bench.lab / "src" / "monolab").mkdir(parents=True)
    bench.just()
    (install,) = bench.calls("uv pip install")
    assert install.endswith(f"--no-build-isolation --editable {bench.lab}")


def test_worktree_and_subfolder_use_the_primary_environment(bench):
    worktree = bench.lab / "5_worktrees" / "rope"
    bench.git("worktree", "add", "--quiet", str(worktree))
    deep = worktree / "deep"
    deep.mkdir()
    out, _ = bench.just("eval", cwd=deep, launcher=worktree / "just")
    assert out.startswith(f"just in {deep}: <--justfile> <{worktree}/justfile> <eval>")
    assert bench.stamp.is_file()
    assert not (worktree / ".venv").exists()
    out, err = bench.just("eval", cwd=deep)  # the primary worktree's launcher, from elsewhere
    assert out.startswith(f"just in {deep}: <--justfile> <{bench.lab}/justfile>")
    assert err == ""


def test_a_nested_lab_is_its_own(bench, tmp_path):
    bench.just()
    nested = bench.lab / ".demo" / "digits"
    (tmp_path / "second").mkdir()
    shutil.copytree(Bench(tmp_path / "second").lab, nested)
    out, _ = bench.just(cwd=nested, launcher=nested / "just", GIT_DIR=str(bench.lab / ".git"))  # as a hook of the outer lab would start it
    assert f"<{nested}/justfile>" in out
    assert (nested / ".venv" / ".lab-stamp").is_file()


def test_in_env_runs_a_command_where_the_person_stands(bench):
    folder = bench.lab / "deep"
    folder.mkdir()
    out, _ = bench.just("--in-env", "lab", "eval", "--lr", "1e-3", cwd=folder)
    assert out == f"lab in {folder}: <eval> <--lr> <1e-3> UV={bench.lab}/.venv/bin/uv GIT_DIR=\n"


def test_an_interrupted_set_up_is_repaired_by_the_next_call(bench):
    _, err = bench.just(fails=True, UV_BREAKS="1")
    assert "no space left" in err
    assert not bench.stamp.exists()
    _, err = bench.just()
    assert "making it afresh" in err
    assert len(bench.calls("uv venv")) == 2
    assert bench.stamp.is_file()


def test_an_interrupted_renewal_does_not_pass_for_the_environment_before_it(bench):
    bench.just()
    lock = bench.lab / "requirements.lock"
    before = lock.read_text()
    lock.write_text(before + "# changed\n")
    bench.just(fails=True, UV_BREAKS="1")
    lock.write_text(before)
    bench.log.write_text("")
    bench.just()
    assert len(bench.calls("uv pip sync")) == 1


def test_a_killed_set_up_leaves_no_lock(bench):
    process = bench.start(UV_SLOW="60")
    while not bench.calls("uv pip sync"):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    bench.just()
    assert bench.stamp.is_file()


def test_a_moved_lab_gets_a_new_environment(bench):
    bench.just()
    bench.lab = bench.lab.rename(bench.lab.with_name("moved"))
    bench.just()
    assert len(bench.calls("uv venv")) == 2
    assert bench.stamp.read_text().startswith(f"{bench.lab} ")


def test_two_first_uses_at_once_set_up_once(bench):
    processes = [bench.start(UV_SLOW="0.5") for _ in range(3)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(bench.calls("uv pip sync")) == 1
    assert sum("waiting for it" in err for err in said) == 2


def test_a_linked_environment_is_used_and_never_changed(bench, tmp_path):
    bench.just()
    (tmp_path / "second").mkdir()
    second = Bench(tmp_path / "second")
    (second.lab / ".venv").symlink_to(bench.lab / ".venv")
    out, err = second.just("status")
    assert (out.splitlines()[1], err) == (f"{second.lab}/.venv/bin/pueue", "")
    (bench.lab / ".venv" / "bin" / "pueue").unlink()
    _, err = second.just(fails=True)
    assert f"next: rm {second.lab}/.venv" in err
    assert bench.stamp.is_file()


def test_a_pueue_that_went_away_is_found_again(bench):
    bench.just()
    elsewhere = bench.bin.with_name("elsewhere")
    for name in ("pueue", "pueued"):
        program(elsewhere / name, PUEUE)
        (bench.bin / name).unlink()
    _, err = bench.just(PATH=f"{bench.lab}/.venv/bin:{bench.bin}:{elsewhere}")
    assert f"pueue 4.0.4 at {elsewhere}/pueue" in err
    assert (bench.lab / ".venv" / "bin" / "pueue").resolve() == elsewhere / "pueue"


def test_an_activated_environment_does_not_serve_its_own_renewal(bench):
    bench.just()
    environment = bench.lab / ".venv" / "bin"
    program(environment / "uv", "#!/bin/sh\necho uv of the environment\n")
    (bench.lab / "pyproject.toml").write_text("# changed\n")
    _, err = bench.just(PATH=f"{environment}:{bench.bin}", UV=str(environment / "uv"))
    assert f"uv 9.9.9 at {bench.bin}/uv" in err
    assert (environment / "pueue").resolve() == bench.bin / "pueue"


def test_set_up_installs_the_commit_guard_in_the_lab_it_sets_up(bench, tmp_path):
    _, err = bench.just(cwd=tmp_path, GIT_DIR=str(tmp_path / "elsewhere"))
    assert f"lab in {bench.lab}: <guard> <install>" in err
    assert "GIT_DIR=\n" in err


def test_a_guard_that_cannot_be_installed_is_said_and_stops_nothing(bench):
    out, err = bench.just("status", LAB_BREAKS="1")
    assert "<status>" in out
    assert "the commit guard is not installed" in err


def pin(bench: Bench, digest: str) -> None:
    launcher = bench.lab / "just"
    text, count = re.subn(r"(\[pueued?-\w+\])=[0-9a-f]{64}", rf"\1={digest}", launcher.read_text())
    assert count == 4
    launcher.write_text(text)


def test_a_download_with_the_pinned_checksum_goes_to_the_users_cache(tmp_path):
    bench = Bench(tmp_path, "uv", "curl", "cargo")
    pin(bench, hashlib.sha256(PUEUE.encode()).hexdigest())
    _, err = bench.just()
    cached = bench.cache / "monolab" / "pueue-4.0.4" / "bin"
    assert f"pueue 4.0.4 is in {cached}" in err
    assert sorted(file.name for file in cached.iterdir()) == ["pueue", "pueued"]
    urls = [call.split()[-1] for call in bench.calls("curl")]
    assert [url.rpartition("/")[2].partition("-")[0] for url in urls] == ["pueue", "pueued"]
    assert all(url.startswith("https://github.com/Nukesor/pueue/releases/download/v4.0.4/") for url in urls)
    shutil.rmtree(bench.lab / ".venv")
    bench.just()
    assert len(bench.calls("curl")) == 2  # the cache served the second set-up
    assert bench.calls("cargo") == []


def test_a_download_with_another_checksum_is_refused(tmp_path):
    bench = Bench(tmp_path, "uv", "curl")
    _, err = bench.just(fails=True)
    assert "refused: the downloaded pueue has not the pinned sha256" in err
    assert not list((bench.cache / "monolab" / "pueue-4.0.4" / "bin").iterdir())
    assert err.count("next:") == 1
    assert bench.calls("uv pip") == []


def test_without_a_download_cargo_builds_pueue(tmp_path):
    bench = Bench(tmp_path, "uv", "cargo")
    _, err = bench.just()
    assert "about two minutes" in err
    root = bench.cache / "monolab" / "pueue-4.0.4"
    assert bench.calls("cargo install") == [f"cargo install --locked pueue@4.0.4 --root {root}"]
    assert (bench.lab / ".venv" / "bin" / "pueue").resolve() == root / "bin" / "pueue"


def test_an_old_cargo_and_an_old_pueue_are_not_used(tmp_path):
    bench = Bench(tmp_path, "uv", "cargo")
    for name in ("pueue", "pueued"):
        program(bench.bin / name, PUEUE.replace("4.0.4", "3.4.1"))
    _, err = bench.just(fails=True, CARGO_VERSION="1.87.0")
    assert "cargo 1.87.0" in err and "too old" in err
    assert bench.calls("cargo install") == []


def test_without_pueue_one_error_says_what_to_do(tmp_path):
    _, err = Bench(tmp_path, "uv").just(fails=True)
    assert err.count("next:") == 1
    assert err.splitlines()[-1].startswith(
        "  next: install them (brew, pacman, nix and conda-forge carry pueue; or: cargo install --locked pueue@4.0.4)"
    )


def test_without_uv_and_python_one_error_says_what_to_do(tmp_path):
    _, err = Bench(tmp_path).just(fails=True)
    assert err.count("next:") == 1
    assert err.splitlines()[-1].startswith("  next: install uv")


def test_outside_of_a_repository_the_error_says_so(bench):
    shutil.rmtree(bench.lab / ".git")
    _, err = bench.just(fails=True, GIT_CEILING_DIRECTORIES=str(bench.lab.parent))
    assert err.splitlines()[-1] == f"  next: git clone the lab instead of unpacking it, or: git init {bench.lab}"


def test_recipes_reach_lab_with_the_systems_just_and_their_arguments_untouched(bench, tmp_path):
    """From a worktree's subfolder, with no environment yet: the recipe sets up, and `lab` sees the folder the person stood in."""
    worktree = bench.lab / "5_worktrees" / "rope"
    bench.git("worktree", "add", "--quiet", str(worktree))
    deep = worktree / "deep"
    deep.mkdir()
    out, err = bench.just("queue", "rope", "Q: a  b? H: -0.02 c, 70%", "--lr", "1e-3", "$x", cwd=deep, launcher=REAL_JUST)
    assert out == f"lab in {deep}: <queue> <rope> <Q: a  b? H: -0.02 c, 70%> <--lr> <1e-3> <$x> UV={bench.lab}/.venv/bin/uv GIT_DIR=\n"
    assert "setting up" in err
    out, _ = bench.just(cwd=deep, launcher=REAL_JUST)
    for group in ("[experiment]", "[watch]", "[steer]", "[lab]"):
        assert group in out
    assert "[develop]" not in out  # dev.just stays in monolab's own repository


def test_a_term_reaches_lab(bench):
    bench.just()
    program(bench.lab / ".venv" / "bin" / "lab", "#!/bin/sh\ntrap 'echo ended; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    process = bench.start("eval", launcher=REAL_JUST)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=120)[0] == "ended\n"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_a_real_set_up_from_a_clean_clone(tmp_path):
    clone = tmp_path / "clone"
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-coz", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    env = {name: value for name, value in os.environ.items() if name not in ("UV", "VIRTUAL_ENV", "PYTHONPATH")}

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    assert run(clone / "just", "--version").startswith("just ")
    assert run(clone / "just", "--in-env", "pueue", "--version").startswith("pueue ")
    where = run(clone / "just", "--in-env", "python", "-c", "import torch, monolab; print(monolab.__file__)")
    assert where.strip() == str(clone / "src" / "monolab" / "__init__.py")
    assert "[develop]" in run(clone / "just")

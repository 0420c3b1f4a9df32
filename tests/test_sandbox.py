"""What a candidate must not reach, with real sandboxes. Each escape is shown to work outside as well, so that it is the sandbox that stops it."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from monolab import device, sandbox, supervise
from monolab.errors import LabError
from monolab.supervise import Limits

REPOSITORY = Path(__file__).resolve().parents[1]
CANARY = "canary-7d1e2f"
WORKS = sandbox.probe()
needs_sandbox = pytest.mark.skipif(WORKS.kind == "none", reason=WORKS.reason)
ROOT = os.getuid() == 0


@dataclass(frozen=True)
class Scene:
    """A lab with things in it that a candidate must not see, and the folders of one of its runs."""

    root: Path
    code: Path
    data: Path
    checkpoint: Path
    scratch: Path
    home: Path
    facts: dict  # what an escape needs to know

    def command(self, argv: list[str], scratch: str = "scratch") -> list[str]:
        writable = [self.scratch.with_name(scratch), self.checkpoint]
        for folder in writable:
            folder.mkdir(exist_ok=True)
        return sandbox.command(
            argv, cwd=self.code, read_only=[self.code, self.data], writable=writable, hidden=[self.root, self.root / ".data/val", self.home]
        )

    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1"}

    def outside(self, code: str) -> str:
        """What a Python program prints when it runs here, with all that this process has."""
        return _said([sys.executable, "-S", "-c", PRELUDE + code, json.dumps(self.facts)], cwd=self.code)

    def inside(self, code: str, scratch: str = "scratch") -> str:
        return _said(self.command([sys.executable, "-S", "-c", PRELUDE + code, json.dumps(self.facts)], scratch), cwd=self.code, env=self.env())


def _said(command: list[str], **more) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, **more)
    return done.stdout


# Every escape prints what it got, the canary among it, or the error that stopped it.
PRELUDE = """import ctypes, json, os, socket, stat, sys
from types import SimpleNamespace
libc = ctypes.CDLL(None, use_errno=True)
at = SimpleNamespace(**json.loads(sys.argv[1]))
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", CANARY)
    root, home, run = tmp_path / "lab", tmp_path / "home", tmp_path / "lab/6_runs/r1"
    secrets = {
        "val": root / ".data/val/text.bin",
        "receipt": root / "6_runs/r0/receipt.json",
        "journal": root / "RESEARCH_JOURNAL.md",
        "worktree": root / "5_worktrees/other/train.py",
        "repository": root / ".git/config",
        "home": home / ".netrc",
        "beside": run / "request.json",
    }
    for path in (*secrets.values(), run / "code/train.py", root / ".data/train/text.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CANARY if path in secrets.values() else "the candidate's own")
    with contextlib.ExitStack() as stack:
        temp = stack.enter_context(tempfile.NamedTemporaryFile("w", dir="/tmp", suffix=CANARY))
        temp.write(CANARY)
        temp.flush()
        (run / "code/link").symlink_to(secrets["val"])
        (run / "code/folder").symlink_to(root / ".data")
        victim = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-c", VICTIM], stdout=subprocess.PIPE))
        stack.callback(victim.kill)
        victim.stdout.readline()
        facts = {name: str(path) for name, path in secrets.items()} | {"temp": temp.name, "victim": victim.pid, "canary": CANARY}
        yield Scene(root, run / "code", root / ".data/train", run / "checkpoint", run / "scratch", home, facts | _servers(stack, tmp_path))


# It lets itself be traced by anyone, where the kernel asks for that.
VICTIM = "import ctypes, time; ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0); print(flush=True); time.sleep(100)"


def _servers(stack: contextlib.ExitStack, folder: Path) -> dict:
    """Servers that tell everyone who asks: TCP, UDP, a socket by path (as pueue's) and one in the abstract namespace."""
    short = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
    abstract = f"\0lab-{os.getpid()}-{folder.name}"
    found, streams = {}, []
    for name, family, kind, address in (
        ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        ("unix", socket.AF_UNIX, socket.SOCK_STREAM, f"{short}/s"),
        ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, abstract),
    ):
        server = stack.enter_context(socket.socket(family, kind))
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        found[name] = server.getsockname()[1] if family == socket.AF_INET else address
        streams.append((server, kind))
    ours, its = socket.socketpair()

    def answer() -> None:
        while True:
            ready = select.select([its, *(server for server, _ in streams)], [], [])[0]
            for server, kind in streams:
                if its in ready:
                    return
                if server in ready and kind == socket.SOCK_STREAM:
                    with server.accept()[0] as peer:
                        peer.sendall(CANARY.encode())
                elif server in ready:
                    server.sendto(CANARY.encode(), server.recvfrom(10)[1])

    thread = threading.Thread(target=answer)
    thread.start()
    stack.callback(lambda: (ours.send(b"."), thread.join(), ours.close(), its.close()))
    return found


READ = {
    f"reads the {name}": f"print(open(at.{name}).read())"
    for name in ("val", "receipt", "journal", "worktree", "repository", "home", "beside", "temp")
}
ESCAPES = READ | {
    "follows a link in its code": "print(open('link').read())",
    "follows a linked folder": "print(open('folder/val/text.bin').read())",
    "climbs out of its code": "print(open('../request.json').read())",
    "finds the files by looking everywhere": """
for folder, below, names in os.walk('/', onerror=lambda error: None):
    below[:] = [name for name in below if os.path.join(folder, name) not in ('/proc', '/sys')]
    if found := [os.path.join(folder, name) for name in names if at.canary in name]: sys.exit(print(*found))""",
    "reads its parents' environment": """
for name in filter(str.isdigit, os.listdir('/proc')):
    try: print(open(f'/proc/{name}/environ').read())
    except OSError: pass""",
    "reads a process's environment": "print(open(f'/proc/{at.victim}/environ').read())",
    "goes through another process's root": "print(open(f'/proc/{at.victim}/root{at.temp}').read())",
    "reads its own environment": "print(os.environ)",
    "signals a process": "os.kill(at.victim, 0); print(at.canary)",
    "traces a process": """
checked(libc.ptrace(16, at.victim, None, None)); print(at.canary)
os.waitpid(at.victim, 0x40000000); libc.ptrace(17, at.victim, None, None)""",
    "connects to a port": "print(socket.create_connection(('127.0.0.1', at.tcp)).recv(99))",
    "sends a datagram": "s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1); s.sendto(b'?', ('127.0.0.1', at.udp)); print(s.recv(99))",
    "connects to a socket by path": "s = socket.socket(socket.AF_UNIX); s.connect(at.unix); print(s.recv(99))",
    "connects to an abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect(at.abstract); print(s.recv(99))",
    "writes to its code": "open('planted', 'w'); print(at.canary)",
    "changes its code": "open('train.py', 'r+'); print(at.canary)",
    "writes to its data": "open(os.path.join(os.path.dirname(at.val), '../train/text.bin'), 'r+'); print(at.canary)",
    "changes an installed package": f"os.open({str(Path(pytest.__file__))!r}, os.O_WRONLY); print(at.canary)",
    "plants compiled code beside an installed package": f"""
path = os.path.join({str(Path(pytest.__file__).parent)!r}, '__pycache__', 'planted'); open(path, 'w'); os.remove(path); print(at.canary)""",
    "changes the interpreter": f"print(at.canary if os.access({sys.base_prefix!r}, os.W_OK) else 'no')",
    "lets the code of the lab be imported": f"sys.path += [{str(REPOSITORY / 'src')!r}]; import monolab.sandbox; print(at.canary)",
}
FOR_ROOT = {  # what an ordinary user cannot do outside either; nothing is written by any of them
    "changes the kernel's settings": "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY); print(at.canary)",
    "makes a device file": "os.mknod('/tmp/lab-device', 0o600 | stat.S_IFCHR, os.makedev(1, 3)); os.remove('/tmp/lab-device'); print(at.canary)",
    "mounts": "checked(libc.unshare(0x20000)); checked(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)); print(at.canary)",
    "mounts in a user namespace": "checked(libc.unshare(0x10020000)); checked(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)); print(at.canary)",
    "enters another process's namespaces": "checked(libc.setns(os.open(f'/proc/{at.victim}/ns/mnt', 0), 0)); print(at.canary)",
    "takes another process's descriptors": "checked(libc.syscall(438, os.pidfd_open(at.victim), 1, 0)); print(at.canary)",
}


@needs_sandbox
@pytest.mark.parametrize("escape", [*ESCAPES, *(FOR_ROOT if ROOT else ())])
def test_an_escape_works_outside_and_fails_inside(scene, escape):
    code = (ESCAPES | FOR_ROOT)[escape]
    inside = scene.inside(code)
    assert CANARY not in inside.replace(scene.facts["temp"], "")  # whose name an error may repeat
    assert not (scene.code / "planted").exists()
    assert CANARY in scene.outside(code)


@needs_sandbox
def test_descriptors_do_not_get_in(scene):
    code = (
        PRELUDE
        + "print(sorted(os.listdir('/proc/self/fd')), *(open(f'/proc/self/fd/{fd}').read() for fd in os.listdir('/proc/self/fd') if int(fd) > 40))"
    )
    with open(scene.facts["val"]) as file:
        fd = os.dup2(file.fileno(), 77, inheritable=True)
        try:
            argv = [sys.executable, "-S", "-c", code, json.dumps(scene.facts)]
            said = [_said(command, cwd=scene.code, env=scene.env(), pass_fds=(fd,)) for command in (argv, scene.command(argv))]
        finally:
            os.close(fd)
    assert CANARY in said[0]
    assert said[1].strip() == "['0', '1', '2', '3']"  # 3: what lists them


KEYS = "add, keyctl = (248, 250) if os.uname().machine == 'x86_64' else (217, 219)\n"
PLANTS = {  # what one run leaves, and how the next would get it
    "a file in /tmp": ("open('/tmp/lab-plant', 'w').write(at.canary)", "print(open('/tmp/lab-plant').read()); os.remove('/tmp/lab-plant')"),
    "a file in /dev/shm": (
        "open('/dev/shm/lab-plant', 'w').write(at.canary)",
        "print(open('/dev/shm/lab-plant').read()); os.remove('/dev/shm/lab-plant')",
    ),
    "a file at home": (
        "open(os.path.expanduser('~/plant'), 'w').write(at.canary); open(at.scratch + '/plant', 'w').write(at.canary)",
        "print(open(at.scratch + '/plant').read()); print(open(os.path.expanduser('~/plant')).read())",
    ),
    "shared memory": (
        "checked(libc.shmget(0x1ab5, 4096, 0o1600))",
        "n = checked(libc.shmget(0x1ab5, 4096, 0)); libc.shmctl(n, 0, None); print(at.canary)",
    ),
    "a message queue": ("checked(libc.mq_open(b'/lab-plant', 0o102, 0o600, None))", "checked(libc.mq_unlink(b'/lab-plant')); print(at.canary)"),
    "a key in the kernel": (
        KEYS + "checked(libc.syscall(add, b'user', b'lab', at.canary.encode(), len(at.canary), -3))",
        KEYS + "k = checked(libc.syscall(keyctl, 10, -3, b'user', b'lab', 0)); b = ctypes.create_string_buffer(99); "
        "checked(libc.syscall(keyctl, 11, k, b, 99)); print(b.value)",
    ),
}
# Runs two commands one after the other, in a session keyring of its own, as a user's login has one.
TWO_RUNS = """import ctypes, json, os, subprocess, sys
ctypes.CDLL(None).syscall(250 if os.uname().machine == "x86_64" else 219, 1, None)
for command in json.loads(sys.argv[1]):
    subprocess.run(command)
"""


@needs_sandbox
@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_is_left_for_the_next_run(scene, plant):
    scene.scratch.mkdir()
    facts = json.dumps(scene.facts | {"scratch": str(scene.scratch)})
    first, second = ([sys.executable, "-S", "-c", PRELUDE + code, facts] for code in PLANTS[plant])
    boxed = [scene.command(first, "scratch"), scene.command(second, "other")]
    for commands, reaches in (([first, second], True), (boxed, False)):
        said = _said([sys.executable, "-S", "-c", TWO_RUNS, json.dumps(commands)], env=scene.env())
        assert (CANARY in said) == reaches, said
        (scene.scratch / "plant").unlink(missing_ok=True)


# --- what is there


@needs_sandbox
def test_a_candidate_sees_its_own_things_and_little_else(scene):
    said = scene.inside(f"""
print(open('train.py').read(), os.getcwd(), os.environ['HOME'], os.environ['OMP_NUM_THREADS'], socket.gethostbyname('localhost'))
print(sorted(os.listdir({str(scene.root)!r})), sorted(os.listdir({str(scene.root / ".data")!r})), sorted(os.listdir({str(scene.code.parent)!r})))
print([name for _, name in socket.if_nameindex()], len(os.listdir('/etc')), os.sched_getaffinity(0) == {os.sched_getaffinity(0)!r})
open(os.path.join(os.environ['TMPDIR'], 'kept'), 'w').write('own'); open({str(scene.checkpoint)!r} + '/model', 'w').write('weights')""")
    assert said.splitlines() == [
        f"the candidate's own {scene.code} {scene.scratch} 1 127.0.0.1",
        "['.data', '6_runs'] ['train'] ['checkpoint', 'code', 'scratch']",
        f"['lo'] {len(list(sandbox.SELF.iterdir())) + sum(Path('/etc', name).exists() for name in sandbox.ETC)} True",
    ]
    assert ((scene.scratch / "kept").read_text(), (scene.checkpoint / "model").read_text()) == ("own", "weights")


@needs_sandbox
def test_without_a_writable_folder_memory_is_home(scene):
    code = "import os, tempfile; print(os.environ['HOME'], tempfile.gettempdir(), flush=True); open('/tmp/y', 'w'); open('x', 'w')"
    said = _said(sandbox.command([sys.executable, "-c", code], cwd=scene.code, read_only=[scene.code]), env=scene.env())
    assert said.splitlines()[0] == "/tmp /tmp"
    assert "Read-only file system: 'x'" in said


TWO_PLACES = """import json, subprocess, sys
from pathlib import Path
from monolab import sandbox
code = Path(sys.argv[1])
argv = [sys.executable, "-c", "import sys, json; print(sys.prefix, json.__file__); print(open(sys.argv[1]).read())", str(code.resolve() / "train.py")]
print(subprocess.run(sandbox.command(argv, cwd=code, read_only=[code], hidden=[Path(sys.argv[2])]), capture_output=True, text=True))
"""


@needs_sandbox
@pytest.mark.parametrize("kind", ["made here", "a link", "through linked folders"])
def test_an_environment_works_wherever_it_lies(scene, tmp_path, kind):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", environment], check=True)
    if kind == "through linked folders":  # as uv has it: cpython-3.11 -> cpython-3.11.7
        (tmp_path / "pythons").mkdir()
        (tmp_path / "pythons/python").symlink_to(sys.base_prefix)
        for name in ("python", "python3"):
            (environment / "bin" / name).unlink()
            (environment / "bin" / name).symlink_to(tmp_path / "pythons/python/bin/python3")
        (environment / "pyvenv.cfg").write_text(f"home = {tmp_path}/pythons/python/bin\n")
    if kind == "a link":
        (scene.root / ".venv").symlink_to(environment)
        environment = scene.root / ".venv"
    (tmp_path / "linked").symlink_to(scene.code)
    said = _said(
        [environment / "bin/python", "-c", TWO_PLACES, tmp_path / "linked", scene.root], env=scene.env() | {"PYTHONPATH": str(REPOSITORY / "src")}
    )
    assert "returncode=0" in said, said
    assert f"{environment} " in said
    assert "the candidate's own" in said


@needs_sandbox
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_candidate_may_compile(scene):
    code = """
import subprocess
path = os.environ['TMPDIR'] + '/x.c'
open(path, 'w').write('#include <Python.h>\\nint answer(void) { return PY_MAJOR_VERSION + 39; }')
import sysconfig
subprocess.run(['cc', '-shared', '-fPIC', '-I', sysconfig.get_paths()['include'], path, '-o', path + '.so'], check=True)
print(ctypes.CDLL(path + '.so').answer())"""
    assert scene.inside(code).strip() == "42"


@needs_sandbox
def test_the_root_problem_trains_and_answers(scene):
    import numpy as np

    shutil.copy(REPOSITORY / "train.py", scene.code)
    np.random.default_rng(0).integers(1, 256, 50_000, dtype=np.uint8).tofile(scene.data / "text.bin")
    argv = [sys.executable, "train.py", "--stage", "smoke", "--tokens", "1024", "--data", str(scene.data), "--out", str(scene.checkpoint)]
    env = scene.env() | {"LAB_STAGE": "smoke", "LAB_DEVICE": "cpu"}  # smoke: with einops, jaxtyping and beartype at work
    said = _said(scene.command(argv), cwd=scene.code, env=env)
    assert (scene.checkpoint / "model.safetensors").exists(), said

    serve = sandbox.command([], cwd=scene.code, read_only=[scene.code, scene.checkpoint], hidden=[scene.root])
    serve = json.loads(json.dumps(serve)) + [sys.executable, str(scene.code / "train.py"), "--serve", str(scene.checkpoint)]
    with subprocess.Popen(serve, cwd=scene.code, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdin.write(np.array([2, 5], "<i4").tobytes() + bytes(10))
        process.stdin.flush()
        answer = np.frombuffer(process.stdout.read(4 * 10 * 256), "<f4").reshape(2, 5, 256)
        process.stdin.close()
        assert (process.stdout.read(), process.wait(20)) == (b"", 0)
    np.testing.assert_allclose(np.exp(answer).sum(-1), 1, atol=1e-4)


@needs_sandbox
@pytest.mark.gpu
def test_a_gpu_works(scene):
    code = "import torch; x = torch.ones(64, 64, device='cuda', requires_grad=True); (x @ x).sum().backward(); print(int(x.grad.sum()))"
    said = _said(
        sandbox.command([sys.executable, "-c", code], cwd=scene.code, read_only=[scene.code], writable=[scene.checkpoint.parent], gpu=True),
        env=scene.env(),
    )
    assert said.strip() == str(2 * 64**3)


# --- under supervision


@pytest.fixture
def supervised(scene):
    """`supervised(code, seconds=60, ...)`: the outcome of a Python program in a sandbox, under supervision."""

    def run(code: str, *, seconds=60.0, grace=20.0, memory=None, **more) -> supervise.Outcome:
        command = scene.command([sys.executable, "-S", "-c", code])
        limits = Limits(seconds, grace, memory, 1.0)
        return supervise.run(command, cwd=scene.code, env=scene.env(), log=scene.root / "log", limits=limits, **more)

    return run


def named(word: str) -> list[psutil.Process]:
    """The processes of this machine with `word` in their command, bubblewrap's own and dead ones aside."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(word in part for part in process.cmdline()) and process.name() != "bwrap":
                found.append(process)
    return found


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "status", "returncode"),
    [
        ("print('fine')", "ok", 0),
        ("raise SystemExit(3)", "crash", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crash", 128 + signal.SIGSEGV),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "crash", 128 + signal.SIGKILL),
        ("import os; os.abort()", "crash", 128 + signal.SIGABRT),
    ],
)
def test_the_end_of_a_program_gets_out(supervised, code, status, returncode):
    outcome = supervised(code)
    assert (outcome.status, outcome.returncode, outcome.left_behind) == (status, returncode, 0), outcome.tail


@needs_sandbox
def test_a_program_has_its_grace(supervised):
    outcome = supervised(
        """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.2), print('saved', flush=True), sys.exit(0)))
time.sleep(60)""",
        seconds=3.0,
    )
    assert (outcome.status, outcome.returncode) == ("timeout", 0)
    assert outcome.tail.splitlines()[0] == "saved"


@needs_sandbox
def test_a_program_without_a_handler_ends_at_once(supervised):
    outcome = supervised("import time\ntime.sleep(60)", seconds=1.0, grace=60)
    assert (outcome.status, outcome.returncode) == ("timeout", 128 + signal.SIGTERM)
    assert outcome.seconds < 50


@needs_sandbox
def test_a_program_that_ignores_everything_is_killed_with_all_it_started(supervised):
    mark = f"lab-stays-{os.getpid()}"
    outcome = supervised(
        f"""
import os, signal, sys, time
for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(100)', {mark!r}], {{}})
time.sleep(100)""",
        seconds=3.0,
        grace=0.3,
    )
    assert (outcome.status, outcome.returncode) == ("timeout", -signal.SIGKILL)
    assert named(mark) == []


@needs_sandbox
def test_what_outlives_the_program_ends_with_it(supervised, wait_until):
    mark = f"lab-lingers-{os.getpid()}"
    began = time.monotonic()
    outcome = supervised(f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(100)', {mark!r}], {{}})
    os._exit(0)
os.wait()
time.sleep(0.3)""")
    assert outcome.status == "ok"
    wait_until(lambda: not named(mark))
    assert time.monotonic() < began + 50


@needs_sandbox
def test_memory_inside_counts(supervised):
    outcome = supervised("x = bytearray(200 << 20); import time; time.sleep(1.5)", memory=1.0)
    assert outcome.status == "ok"
    assert 0.19 < outcome.peak_gb < 0.3
    outcome = supervised("import time; x = bytearray(600 << 20); time.sleep(50)", memory=0.3)
    assert outcome.status == "oom"
    assert outcome.seconds < 40


@needs_sandbox
def test_killing_the_first_process_ends_all(scene, wait_until):
    mark = f"lab-inner-{os.getpid()}"
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(100)', sys.argv[1]]); time.sleep(100)"
    )
    command = scene.command([sys.executable, "-S", "-c", code, mark])
    with subprocess.Popen(command, env=scene.env(), start_new_session=True) as process:
        wait_until(lambda: len(named(mark)) == 2)
        process.kill()
    wait_until(lambda: not named(mark))


SUPERVISOR = """import json, sys
from pathlib import Path
from monolab import device, supervise
with device.lock(device.detect(), print, run="r1", lab="x") as held:
    told = json.loads(sys.argv[1])
    limits = supervise.Limits(100, 1, None, 1)
    supervise.run(told["command"], cwd=Path(told["cwd"]), env=told["env"], log=Path(told["log"]), limits=limits, keep_fds=(held,))
"""


@needs_sandbox
def test_all_has_ended_when_the_device_is_free_after_a_kill_of_the_supervisor(scene, wait_until):
    mark = f"lab-orphan-{os.getpid()}"
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(100)', {mark!r}], start_new_session=True, env={{}})
print(sorted(os.listdir('/proc/self/fd')), flush=True)
time.sleep(100)"""
    told = {"command": scene.command([sys.executable, "-S", "-c", code]), "cwd": str(scene.code), "env": scene.env(), "log": str(scene.root / "log")}
    env = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY / "src")}
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, json.dumps(told)], env=env) as process:
        wait_until(lambda: any(p.name().startswith("python") and p.cmdline()[-1] == mark for p in named(mark)))
        wait_until(lambda: (scene.root / "log").exists() and (scene.root / "log").read_text())
        assert device.holder(device.detect())["run"] == "r1"
        process.kill()
        wait_until(lambda: device.holder(device.detect()) is None)
        assert [p for p in named(mark) if p.pid != process.pid] == []
    assert (scene.root / "log").read_text().splitlines()[0] == "['0', '1', '2', '3']"  # the device's lock is not the candidate's to release


# --- refusals, and no sandbox


@needs_sandbox
def test_what_would_show_something_hidden_is_refused(scene):
    for shown in (scene.root, scene.root.parent, scene.root / "5_worktrees/.."):
        with pytest.raises(LabError, match="must stay hidden"):
            sandbox.command(["true"], cwd=scene.code, read_only=[shown], hidden=[scene.root])
    (scene.code / "up").symlink_to(scene.root)
    with pytest.raises(LabError, match="must stay hidden"):
        sandbox.command(["true"], cwd=scene.code, read_only=[scene.code / "up"], hidden=[scene.root])
    with pytest.raises(LabError, match=r"/usr, which they need, contains it\n.*move the lab out of /usr"):
        sandbox.command(["true"], cwd=scene.code, read_only=[], hidden=[Path("/usr/src/lab")])


@needs_sandbox
def test_a_path_that_is_not_there_is_named(scene):
    with pytest.raises(LabError, match="nowhere cannot be shown to a candidate: No such file"):
        sandbox.command(["true"], cwd=scene.code, read_only=[scene.root / "nowhere"])


@pytest.fixture
def asked_again():
    sandbox.probe.cache_clear()
    yield
    sandbox.probe.cache_clear()


def test_without_bubblewrap_commands_stay_as_they_are(asked_again, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (sandbox.probe().name, sandbox.probe().kind) == ("none", "none")
    assert "bubblewrap is not installed" in sandbox.probe().reason
    assert sandbox.command(["true"], cwd=tmp_path, read_only=[tmp_path]) == ["true"]


def test_a_bubblewrap_that_does_not_start_is_none(asked_again, monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.8.0 && exit\necho 'bwrap: No permissions to creating new namespace' >&2; exit 1\n"
    )
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert sandbox.probe().kind == "none"
    assert sandbox.probe().reason.startswith("bubblewrap 0.8.0 starts no sandbox here: bwrap: No permissions")


@needs_sandbox
def test_where_namespaces_are_forbidden_there_is_none_with_the_reason(scene):
    # The kernel refuses another user namespace inside of a sandbox: a real machine that forbids them, as many containers do.
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'src')!r}); from monolab.sandbox import probe; print(probe().kind, probe().reason)"
    said = _said(sandbox.command([sys.executable, "-c", code], cwd=scene.code, read_only=[scene.code, REPOSITORY / "src"]), env=scene.env())
    assert said.startswith("none bubblewrap "), said
    assert "starts no sandbox here: bwrap: " in said


@needs_sandbox
@pytest.mark.skipif(not ROOT, reason="takes root")
def test_root_has_a_sandbox_without_user_namespaces_as_well(scene, asked_again, monkeypatch):
    monkeypatch.setattr(sandbox, "USER", ("--unshare-user", "--no-such-flag"))
    isolation = sandbox.probe()
    assert (isolation.kind, isolation.reason) == ("bwrap", "no user namespace: bwrap: Unknown option --no-such-flag")
    for escape in ("reads the val", "reads its parents' environment", "signals a process", "connects to an abstract socket", "changes its code"):
        assert CANARY not in scene.inside(ESCAPES[escape]), escape
    for escape in ("changes the kernel's settings", "makes a device file", "mounts"):
        assert CANARY not in scene.inside(FOR_ROOT[escape]), escape

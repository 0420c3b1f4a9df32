"""Every way in which a candidate can end badly, with real processes."""

import ctypes
import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import psutil
import pytest

from monolab import cgroup, device, supervise
from monolab.supervise import Limits, Outcome

LOG = "train.log"
SOON = 2.0  # seconds in which a child has come to its point where others use the machine too
LATE = 60.0  # and in which something would have ended that did not hang


@pytest.fixture(autouse=True)
def alone():
    """No child of an earlier test is left (GitPython keeps a git process per repository): what these tests find is their own."""
    gc.collect()
    for child in psutil.Process().children():
        child.kill()
        child.wait(60)


@pytest.fixture
def run(tmp_path):
    """`run(code, seconds=LATE, ...)`: the outcome of a Python program under supervision in `tmp_path`."""

    def run(code: str, *, seconds=LATE, grace=0.5, memory=None, log_mb=1.0, log=tmp_path / LOG, env=None, **more) -> Outcome:
        return supervise.run(
            [sys.executable, "-S", "-c", textwrap.dedent(code)],
            cwd=tmp_path,
            env=env or {"PATH": os.environ["PATH"]},
            log=log,
            limits=Limits(seconds, grace, memory, log_mb),
            **more,
        )

    return run


@pytest.fixture
def kept(tmp_path):
    """The text of the log."""
    return lambda: (tmp_path / LOG).read_text(errors="replace")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()]


# Puts a daemon of its own session into the world, which writes its pid to the file "pids" and stays.
DAEMON = """
import os, time
def daemon(seconds=100):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open("pids", "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(seconds)
        os._exit(0)
    os.wait()
    while not os.path.exists("pids"):
        time.sleep(0.01)
"""


# --- how it ends


def test_a_child_that_ends_well(run, kept, tmp_path):
    heard = io.BytesIO()
    outcome = run(
        "import os, sys; print('out', os.getcwd()); print('err', sorted(os.environ), file=sys.stderr)", env={"ONLY": "1", "LC_ALL": "C"}, echo=heard
    )
    assert (outcome.status, outcome.returncode, outcome.left_behind, outcome.log_truncated) == ("ok", 0, 0, False)
    assert sorted(outcome.tail.splitlines()) == ["err ['LAB_SUPERVISOR', 'LC_ALL', 'ONLY']", f"out {tmp_path}"]
    assert kept() == heard.getvalue().decode() == outcome.tail + "\n"


def test_the_log_is_appended_to(run, kept, tmp_path):
    (tmp_path / LOG).write_text("before\n")
    run("print('after')")
    assert kept() == "before\nafter\n"


def test_a_crash_keeps_its_traceback(run):
    outcome = run("def deep(): raise ValueError('seven is odd')\nprint('begin', flush=True)\ndeep()")
    assert (outcome.status, outcome.returncode) == ("crash", 1)
    assert "Traceback" in outcome.tail
    assert outcome.tail.splitlines()[-1] == "ValueError: seven is odd"


def test_a_crash_by_signal_is_named(run, kept):
    outcome = run("import os, signal; print('soon'); os.kill(os.getpid(), signal.SIGSEGV)")
    assert (outcome.status, outcome.returncode) == ("crash", -signal.SIGSEGV)
    assert outcome.tail.splitlines()[-1] == "[lab] ended by SIGSEGV"
    assert kept().endswith("[lab] ended by SIGSEGV\n")


def test_a_program_that_is_not_there_leaves_nothing_changed(tmp_path):
    handler, files = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        supervise.run(["./no-such-program"], cwd=tmp_path, env={}, log=tmp_path / LOG, limits=Limits(1, 1, None, 1))
    assert (signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))) == (handler, files)
    assert psutil.Process().children() == []


def test_everything_is_as_before_after_a_run(run):
    def state():
        flag = ctypes.c_int()
        ctypes.CDLL(None).prctl(supervise.PR_GET_CHILD_SUBREAPER, ctypes.byref(flag))
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        handlers = [signal.getsignal(number) for number in supervise.STOPS]
        return flag.value, wakeup, handlers, len(os.listdir("/proc/self/fd")), psutil.Process().children()

    before = state()
    run("print(1)", echo=io.BytesIO())
    assert state() == before


def test_other_children_of_the_caller_are_left_alone(run):
    with subprocess.Popen(["sleep", "100"]) as other:
        outcome = run(DAEMON + "daemon()")
        assert (outcome.status, outcome.left_behind) == ("ok", 1)
        assert other.poll() is None
        other.kill()


def test_it_works_in_a_thread_and_without_pidfds(run, monkeypatch):
    def refuse(pid):
        raise OSError("not here")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run("print('ok')")))
    thread.start()
    thread.join(60)
    assert [(outcome.status, outcome.tail) for outcome in outcomes] == [("ok", "ok")]


# --- time


def test_a_hang_ends_at_its_limit(run):
    outcome = run("import time; print('waiting', flush=True); time.sleep(100)", seconds=SOON)
    assert (outcome.status, outcome.returncode) == ("timeout", -signal.SIGTERM)
    assert outcome.tail.splitlines() == ["waiting", f"[lab] ended: still running after {SOON:g} s"]
    assert SOON <= outcome.seconds < LATE


def test_term_leaves_time_to_write(run, tmp_path):
    outcome = run(
        """
        import signal, sys, time
        def stop(*_):
            open("saved", "w").write("yes")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        time.sleep(100)
        """,
        seconds=SOON,
        grace=LATE,
    )
    assert (outcome.status, outcome.returncode) == ("timeout", 0)
    assert (tmp_path / "saved").read_text() == "yes"
    assert outcome.seconds < LATE


@pytest.mark.parametrize(
    "trick",
    [
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; os.fork(); os.fork()",
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGSTOP))",
    ],
)
def test_the_limit_holds_whatever_is_done_with_signals(run, trick):
    outcome = run(f"import os, signal, time\n{trick}\nwhile True: time.sleep(1)", seconds=SOON, grace=0.3)
    assert (outcome.status, outcome.returncode) == ("timeout", -signal.SIGKILL)
    assert SOON + 0.3 <= outcome.seconds < LATE


def test_one_that_stops_itself_is_ended(run):
    outcome = run("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", seconds=SOON, grace=LATE)
    assert (outcome.status, outcome.returncode) == ("timeout", -signal.SIGTERM)
    assert outcome.seconds < LATE


# --- memory


def test_a_group_of_its_own_holds_all_of_a_run_and_goes_with_it(run, tmp_path):
    if cgroup.make("0-0", None) is None:
        pytest.skip("no control group of version 2 may be made here")
    groups = set()

    def observe(seen):
        for process in seen:
            groups.update(line for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines() if line.startswith("0::"))

    outcome = run(DAEMON + "daemon()\ntime.sleep(0.5)", memory=2, observe=observe)
    (found,) = groups
    assert f"/{cgroup.NAME}{os.getpid()}-" in found and outcome.status == "ok"
    assert [path for place in cgroup.own() for path in place.glob(f"{cgroup.NAME}{os.getpid()}-*")] == []
    assert outcome.memory_limit in ("cgroup 2 GiB", "watched 2 GiB") and run("pass").memory_limit == ""


@pytest.mark.parametrize("delegated", [True, False])
def test_the_kernel_limits_memory_where_that_is_delegated(tmp_path, monkeypatch, delegated):
    """The files that the kernel would show; no machine of ours delegates the memory controller."""
    monkeypatch.setattr(cgroup, "own", lambda: [tmp_path])
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n" if delegated else "cpu pids\n")
    (tmp_path / f"{cgroup.NAME}999999999-1").mkdir()  # of a supervisor that is gone
    group = cgroup.make("5-7", 1.5)
    assert group.memory is delegated and [path.name for path in tmp_path.glob(f"{cgroup.NAME}*")] == [f"{cgroup.NAME}5-7"]
    if delegated:
        assert (group.path / "memory.max").read_text() == str(3 * 2**29) and (group.path / "memory.oom.group").read_text() == "1"
        assert not group.ran_out()
        (group.path / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
        assert group.ran_out()


def test_where_no_group_can_be_made_memory_is_watched(run, monkeypatch):
    monkeypatch.setattr(cgroup, "own", list)
    outcome = run("block = bytearray(800 << 20)\nimport time; time.sleep(100)", memory=0.3)
    assert (outcome.status, outcome.memory_limit) == ("oom", "watched 0.3 GiB")


def test_more_memory_than_allowed(run):
    outcome = run("import time\nblock = bytearray(800 << 20)\nprint('never said'); time.sleep(100)", memory=0.3)
    assert (outcome.status, outcome.returncode) == ("oom", -signal.SIGKILL)
    assert outcome.peak_gb > 0.3
    assert outcome.tail.startswith("[lab] ended: ")
    assert outcome.tail.endswith("GiB of memory in use, the limit is 0.3")


def test_the_memory_of_all_processes_counts_together(run):
    outcome = run("import os, time\nos.fork(); os.fork()\nblock = bytearray(120 << 20)\ntime.sleep(100)", memory=0.3)
    assert outcome.status == "oom"


def test_shared_pages_count_once(run):
    code = "import os, time\nblock = bytearray(150 << 20)\nfor _ in range(3):\n    if os.fork() == 0: break\ntime.sleep(1.5)"
    outcome = run(code, memory=0.3)
    assert outcome.status == "ok"
    assert 0.14 < outcome.peak_gb < 0.25


def test_a_peak_between_two_looks_is_seen(run):
    # The kernel's number for a child is at least the size of the process it was forked from, here pytest's.
    size = psutil.Process().memory_info().rss + (200 << 20)
    assert 0.95 * size < run(f"block = bytearray({size})").peak_gb * 2**30 < 1.25 * size


def test_an_allocation_that_fails(run):
    outcome = run(f"import resource\nresource.setrlimit({resource.RLIMIT_AS}, (1 << 28, 1 << 28))\nblock = bytearray(1 << 30)")
    assert (outcome.status, outcome.returncode) == ("oom", 1)
    assert outcome.tail.splitlines()[-1] == "MemoryError"


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "oom"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", "oom"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7 TiB", "oom"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "oom"),
        ("AssertionError: a test of our MemoryError handling", "crash"),
    ],
)
def test_what_a_failed_program_says_of_memory(run, last, status):
    assert run(f"import sys; sys.exit({last!r})").status == status
    assert run(f"print({last!r})").status == "ok"


@pytest.mark.parametrize(("kills", "status"), [([3, 4], "oom"), ([3, 3], "crash")])
def test_killed_by_the_kernel_for_memory(run, monkeypatch, kills, status):
    left = iter(kills)
    monkeypatch.setattr(supervise, "_oom_kills", lambda: next(left))
    outcome = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (outcome.status, outcome.returncode) == (status, -signal.SIGKILL)


def test_device_memory_is_what_nvml_says_of_the_tree(run, monkeypatch, tmp_path):
    """With a made-up NVML: 3 GiB for the child, 40 GiB for another's process that must not count."""
    report = types.SimpleNamespace(pids=lambda: pids(tmp_path / "pids") if (tmp_path / "pids").exists() else [])

    def processes(handle):
        using = [types.SimpleNamespace(pid=pid, usedGpuMemory=3 << 30) for pid in report.pids()]
        return [*using, types.SimpleNamespace(pid=1, usedGpuMemory=40 << 30)]

    memory = iter([10 << 30] + 1000 * [12 << 30])
    fake = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=next(memory)),
        nvmlDeviceGetComputeRunningProcesses=processes,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    code = "import os, time; open('pids', 'w').write(str(os.getpid())); time.sleep(0.4)"
    assert run(code, gpu=0).peak_gb == 3
    report.pids = list  # as in a container, where NVML's pids are not ours: what was added since the start
    assert run(code, gpu=0).peak_gb == 0  # 12 GiB before, 12 GiB now
    memory = iter([10 << 30] + 1000 * [12 << 30])
    assert run(code, gpu=0).peak_gb == 2


@pytest.mark.gpu
def test_device_memory_of_a_real_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DEVICE", "cuda")
    gpu = device.detect()
    code = "import time, torch; x = torch.ones(2 << 28, device='cuda'); torch.cuda.synchronize(); time.sleep(1)"
    outcome = supervise.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": gpu.uid},
        log=tmp_path / LOG,
        limits=Limits(120, 1, None, 1),
        gpu=gpu.index,
    )
    assert outcome.status == "ok", outcome.tail
    assert 2 < outcome.peak_gb < 4


# --- processes that stay


def test_a_daemon_does_not_outlive_the_child(run, tmp_path):
    outcome = run(DAEMON + "daemon()")
    assert (outcome.status, outcome.left_behind) == ("ok", 1)
    assert [alive(pid) for pid in pids(tmp_path / "pids")] == [False]


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "time.sleep(100)", "block = bytearray(400 << 20); time.sleep(100)"])
def test_nothing_is_left_however_the_child_ends(run, tmp_path, ending):
    outcome = run(
        f"{DAEMON}\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ndaemon(); daemon(); os.fork()\n{ending}", seconds=SOON, memory=0.3
    )
    assert outcome.status in ("crash", "timeout", "oom")
    assert [alive(pid) for pid in pids(tmp_path / "pids")] == [False, False]


@pytest.mark.parametrize("beside", [0, 1])
@pytest.mark.parametrize("session", ["pass", "os.setsid()"])
def test_one_that_forks_and_exits_for_ever_is_caught(run, session, beside):
    others = [subprocess.Popen(["sleep", "100"]) for _ in range(beside)]
    outcome = run(f"import os\nif os.fork() == 0:\n    os.setsid()\n    while True:\n        if os.fork(): os._exit(0)\n        {session}")
    assert outcome.status == "ok"
    assert outcome.left_behind in (1, 2)  # one, or it and the one that it had just made
    assert [other.poll() for other in others] == [None] * beside
    for other in others:
        other.kill()
        other.wait()
    with pytest.raises(ChildProcessError):  # not one, living or dead
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def test_many_children_are_ended(run):
    outcome = run("import os, time\nfor _ in range(200):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(100)")
    assert (outcome.status, outcome.left_behind) == ("ok", 200)
    assert psutil.Process().children(recursive=True) == []


def test_a_pipe_held_open_by_another_process_does_not_hang(run):
    outcome = run("import subprocess; subprocess.Popen(['sleep', '100'], start_new_session=True); print('done')")
    assert (outcome.status, outcome.tail, outcome.left_behind) == ("ok", "done", 1)
    assert outcome.seconds < LATE


def test_one_that_leaves_by_itself_was_not_left_behind(run, tmp_path):
    outcome = run(DAEMON + "daemon(0.05)")
    assert (outcome.status, outcome.left_behind) == ("ok", 0)
    assert not alive(pids(tmp_path / "pids")[0])


def test_a_child_may_close_its_output_and_go_on(run, tmp_path):
    outcome = run("import os, time; os.close(1); os.close(2); time.sleep(0.2); open('written', 'w').close()")
    assert outcome.status == "ok"
    assert (tmp_path / "written").exists()


# --- output


def test_a_gigabyte_of_output(run, kept, tmp_path):
    heard = io.BytesIO()
    outcome = run(
        """
        import os
        block = b"".join(b"line %d of a flood of words that nobody will read\\n" % i for i in range(20000))
        print("the first line", flush=True)
        for _ in range((1 << 30) // len(block) + 1):
            left = block
            while left:
                left = left[os.write(1, left):]
        print("the last line")
        """,
        seconds=200,
        memory=0.3,
        echo=heard,
    )
    assert (outcome.status, outcome.log_truncated) == ("ok", True)
    assert outcome.tail.splitlines()[-1] == "the last line"
    assert len(outcome.tail) <= 4000
    lines = kept().splitlines()
    assert (lines[0], lines[-1]) == ("the first line", "the last line")
    assert all(line.startswith(("line ", "the ", "[lab] ")) and line.endswith(("read", "line", "here")) for line in lines)  # whole ones
    dropped = [line for line in lines if line.startswith("[lab]")]
    assert len(dropped) == 1
    assert int(dropped[0].split()[1]) + (tmp_path / LOG).stat().st_size == pytest.approx(1 << 30, rel=0.002)
    assert (tmp_path / LOG).stat().st_size < (1 << 20) + 200
    assert len(heard.getvalue()) < (1 << 20) + 200


def test_one_endless_line(run, kept, tmp_path):
    outcome = run("import os\nfor _ in range(64): os.write(1, b'x' * (1 << 20))\nos.write(1, b'end')", log_mb=0.5)
    assert (outcome.status, outcome.log_truncated) == ("ok", True)
    assert outcome.tail == "x" * 3997 + "end"
    assert kept().endswith("x" * 1000 + "end")
    assert (1 << 18) < (tmp_path / LOG).stat().st_size < (1 << 19) + 200


def test_output_that_just_fits_is_kept_whole(run, kept):
    outcome = run(f"import os; os.write(1, b'y' * {1 << 19})", log_mb=0.5)
    assert not outcome.log_truncated
    assert kept() == "y" * (1 << 19)


def test_garbage_becomes_valid_text(run, tmp_path):
    outcome = run("import os\nos.write(1, bytes(range(256)) * 100)\nos.write(1, b'\\n\\x1b[31mred\\x1b[0m \\xff\\xfe\\x00 end\\n')")
    assert outcome.status == "ok"
    assert outcome.tail.encode().decode() == outcome.tail
    assert json.loads(json.dumps(outcome.tail)) == outcome.tail
    assert [c for c in outcome.tail if not c.isprintable() and c not in "\n\t"] == []
    assert outcome.tail.splitlines()[-1] == "red \ufffd\ufffd\ufffd end"
    assert bytes(range(256)) * 100 in (tmp_path / LOG).read_bytes()  # the log has what was said, unchanged


def test_a_progress_bar_is_shown_as_a_terminal_would(run):
    outcome = run("print('begin')\nfor i in range(1000): print(f'\\rstep {i}/1000', end='')\nprint('\\r\\nend\\r')")
    assert outcome.tail.splitlines() == ["begin", "step 999/1000", "end"]


def test_a_reader_that_stalls_does_not_stall_the_limits(run):
    reading, writing = os.pipe()
    try:
        with open(writing, "wb", buffering=0, closefd=False) as stalled:
            outcome = run("import os, time; os.write(1, b'z' * 500_000); time.sleep(100)", seconds=SOON, echo=stalled)
            assert outcome.status == "timeout"
            assert outcome.seconds < LATE
            os.close(reading)  # the write that waits now fails
    finally:
        os.close(writing)


def test_a_reader_that_has_gone_does_not_matter(run, kept):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as broken:
        assert run("for i in range(100): print(i, flush=True)", echo=broken).status == "ok"
    assert kept().splitlines() == [str(i) for i in range(100)]


def test_a_full_disk_is_said_and_the_run_goes_on(run):
    outcome = run("print('still here')", log=Path("/dev/full"))
    assert (outcome.status, outcome.log_truncated) == ("ok", True)
    assert outcome.tail.splitlines() == ["still here", "[lab] the log is incomplete: No space left on device"]


# --- the supervisor itself is stopped

RUNNER = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from monolab import device, supervise

SETTING
class Stopped(Exception): pass
def stop(*_): raise Stopped
signal.signal(signal.SIGTERM, stop)
with device.lock(device.detect(), print, run="r1", lab="a lab") as held:
    outcome = supervise.run(
        [sys.executable, "-S", "-c", sys.argv[1]],
        cwd=Path.cwd(), env={"PATH": os.environ["PATH"]}, log=Path("train.log"),
        limits=supervise.Limits(SECONDS, 0.5, None, 1), keep_fds=(held,),
    )
    Path("outcome").write_text(json.dumps(dataclasses.asdict(outcome)))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Stopped:
        Path("handler").write_text("restored")
"""

STAYS = DAEMON + "\nimport signal\nTRICK\ndaemon()\nopen('child', 'w').write(str(os.getpid()))\nprint('ready', flush=True)\ntime.sleep(100)"


@pytest.fixture
def runner(tmp_path, wait_until):
    """`runner(trick)`: a process that holds the device and supervises a child with a daemon; given once both are there."""
    started = []

    def start(trick: str = "", setting: str = "", seconds: float = 60) -> subprocess.Popen:
        program = RUNNER.replace("SETTING", setting).replace("SECONDS", str(seconds))
        process = subprocess.Popen([sys.executable, "-c", program, STAYS.replace("TRICK", trick)], cwd=tmp_path)
        started.append(process)
        wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() and (tmp_path / LOG).read_text())
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("trick", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_stop_of_the_supervisor_ends_all_and_is_reported(runner, tmp_path, number, trick):
    process = runner(trick)
    process.send_signal(number)
    assert process.wait(60) == 0
    outcome = json.loads((tmp_path / "outcome").read_text())
    assert (outcome["status"], outcome["returncode"]) == ("killed", -signal.SIGKILL if trick else -signal.SIGTERM)
    assert outcome["tail"].splitlines() == ["ready", f"[lab] ended: the run was told to stop by {number.name}"]
    assert (tmp_path / "handler").read_text() == "restored"
    assert [alive(pid) for name in ("child", "pids") for pid in pids(tmp_path / name)] == [False, False]
    assert device.holder(device.detect()) is None


@pytest.mark.parametrize("trick", ["", "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]", "os.closerange(3, 256)"])
def test_when_the_supervisor_is_killed_all_ends_before_the_device_is_free(runner, tmp_path, trick):
    process = runner(trick)
    known = [pid for name in ("child", "pids") for pid in pids(tmp_path / name)]
    assert [alive(pid) for pid in known] == [True, True]
    assert device.holder(device.detect())["pid"] == process.pid
    began = time.monotonic()
    process.kill()
    while device.holder(device.detect()) is not None:  # no pause: the first moment at which it is free is what counts
        assert time.monotonic() < began + 10
    assert [alive(pid) for pid in known] == [False, False]
    assert time.monotonic() < began + 1


UNKNOWN = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open('unknown', 'w').write(str(os.getpid()))
            os.closerange(0, 256)
            os.execve('/bin/sleep', ['sleep', '100'], {})
    os._exit(0)
"""


STOPS_IT = """
import threading
def stop():
    while not open('train.log').read():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGSTOP)
threading.Thread(target=stop, daemon=True).start()
"""


@pytest.mark.parametrize("group", [True, False])
def test_one_that_left_its_session_and_its_environment_ends_with_a_killed_supervisor(runner, tmp_path, wait_until, group):
    if group and cgroup.make("0-0", None) is None:
        pytest.skip("no control group of version 2 may be made here")
    process = runner(UNKNOWN, "" if group else "supervise.cgroup.make = lambda *_: None")
    (unknown,) = pids(tmp_path / "unknown")
    wait_until(lambda: Path(f"/proc/{unknown}/environ").read_bytes() == b"")
    (guard,) = [p for p in psutil.process_iter() if p.name() == "lab-guard" and _cwd(p) == tmp_path]
    if not group:  # then the guard must have looked, which it does every second
        before = guard.num_ctx_switches().voluntary
        wait_until(lambda: guard.num_ctx_switches().voluntary >= before + 2)
    process.kill()
    wait_until(lambda: not alive(unknown))
    wait_until(lambda: not alive(guard.pid))
    assert [path for place in cgroup.own() for path in place.glob(f"{cgroup.NAME}{process.pid}-*")] == []


def test_the_limit_holds_when_the_candidate_stops_its_supervisor(runner, tmp_path, wait_until):
    process = runner(STOPS_IT, "supervise.LATE = 0.3", 0.5)
    known = [pid for name in ("child", "pids") for pid in pids(tmp_path / name)]
    wait_until(lambda: not any(map(alive, known)))  # the guard has done it: the supervisor still stands
    assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    outcome = json.loads((tmp_path / "outcome").read_text())
    assert (outcome["status"], outcome["returncode"]) == ("timeout", -signal.SIGKILL)


def test_the_child_ends_with_its_supervisor_also_without_the_guard(runner, tmp_path, wait_until):
    process = runner()
    (child,), (daemon,) = pids(tmp_path / "child"), pids(tmp_path / "pids")
    (guard,) = [p.pid for p in psutil.process_iter() if p.name() == "lab-guard" and _cwd(p) == tmp_path]
    os.kill(guard, signal.SIGKILL)
    process.kill()
    try:
        wait_until(lambda: not alive(child))
        # What the child left lives on here, and so the device stays taken: two on one GPU is what must not be.
        assert alive(daemon)
        assert device.holder(device.detect())["run"] == "r1"
    finally:
        os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: device.holder(device.detect()) is None)


def _cwd(process: psutil.Process) -> Path | None:
    try:
        return Path(process.cwd())
    except psutil.Error:
        return None


def test_a_stop_that_comes_as_the_child_ends_still_counts(run):
    class Stop(io.BytesIO):
        def write(self, data):
            os.kill(os.getpid(), signal.SIGTERM)

    assert run("print('the end')", echo=Stop()).status == "killed"

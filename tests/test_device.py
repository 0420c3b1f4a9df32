"""Which device runs use, and that two runs never use it at once."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from monolab import device
from monolab.device import Device
from monolab.errors import LabError

GPUS = ["GPU-aaaa1111-0000", "GPU-bbbb2222-0000"]


class NvmlError(Exception):
    pass


class NotFound(NvmlError):
    pass


class NotLoaded(NvmlError):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """`nvml(uuids, error=None)`: an NVML that knows these GPUs; the CPU is not forced."""

    def install(uuids: list[str], error: Exception | None = None, processes: tuple = ()) -> None:
        def start():
            if error:
                raise error

        fake = types.SimpleNamespace(
            NVMLError=NvmlError,
            NVMLError_LibraryNotFound=NotFound,
            NVMLError_DriverNotLoaded=NotLoaded,
            nvmlInit=start,
            nvmlSystemGetDriverVersion=lambda: "580.1",
            nvmlDeviceGetCount=lambda: len(uuids),
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=150754820096, used=0),
            nvmlDeviceGetName=lambda handle: "NVIDIA H200",
            nvmlDeviceGetUUID=lambda handle: uuids[handle],
            nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
        )
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        device.library.cache_clear()

    monkeypatch.delenv("LAB_DEVICE")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield install
    device.library.cache_clear()


CPU = Device("cpu", "cpu", None, "cpu", "any")

# --- which


def test_the_cpu_when_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would fail: NVML is not even asked
    found = device.detect()
    assert (found.kind, found.name, found.index, found.uid) == ("cpu", "cpu", None, "cpu")
    assert re.fullmatch(rf".{{3,}} x{len(os.sched_getaffinity(0))}", found.hardware)


@pytest.mark.parametrize("error", [NotFound(), NotLoaded()])
def test_the_cpu_where_there_is_no_driver(nvml, error):
    nvml([], error)
    assert device.detect().kind == "cpu"


def test_the_cpu_where_the_driver_knows_no_gpu(nvml):
    nvml([])
    assert device.detect().kind == "cpu"


def test_a_driver_that_does_not_answer_is_an_error_and_not_the_cpu(nvml):
    nvml([], NvmlError("Driver/library version mismatch"))
    with pytest.raises(LabError, match="does not answer: Driver/library version mismatch"):
        device.detect()


def test_the_first_gpu_without_being_asked(nvml):
    nvml(GPUS)
    assert device.detect() == Device("gpu", "gpu0", 0, GPUS[0], "NVIDIA H200 140 GiB, driver 580.1")


@pytest.mark.parametrize(
    ("visible", "wanted", "name"),
    [
        (None, "cuda", "gpu0"),
        (None, "gpu1", "gpu1"),
        (None, "cpu", "cpu"),
        ("1", "", "gpu1"),
        ("1,0", "cuda", "gpu1"),
        (" 1 , 0 ", "gpu0", "gpu0"),
        ("GPU-bbbb", "", "gpu1"),
        (GPUS[1], "cuda", "gpu1"),
        ("", "", "cpu"),
        ("-1", "", "cpu"),
    ],
)
def test_lab_device_and_cuda_visible_devices(nvml, monkeypatch, visible, wanted, name):
    nvml(GPUS)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LAB_DEVICE", wanted)
    assert device.detect().name == name


@pytest.mark.parametrize(
    ("gpus", "visible", "wanted", "what"),
    [
        (GPUS, None, "gpu2", "LAB_DEVICE is 'gpu2', but this machine has gpu0, gpu1"),
        (GPUS, "0", "gpu1", "LAB_DEVICE is 'gpu1', but this machine has gpu0, gpu1 and CUDA_VISIBLE_DEVICES is '0'"),
        (GPUS, "", "cuda", "LAB_DEVICE is 'cuda', but this machine has gpu0, gpu1 and CUDA_VISIBLE_DEVICES is ''"),
        ([], None, "cuda", "LAB_DEVICE is 'cuda', but this machine has no GPU that NVML knows"),
        (GPUS, None, "tpu", "LAB_DEVICE is 'tpu'"),
        (GPUS, "7", "", "CUDA_VISIBLE_DEVICES names '7', which is not one of gpu0, gpu1"),
        (GPUS, "GPU-", "", "CUDA_VISIBLE_DEVICES names 'GPU-', which is not one of gpu0, gpu1"),
        (GPUS, "MIG-1", "", "CUDA_VISIBLE_DEVICES names MIG-1; slices of a GPU (MIG) are not supported"),
    ],
)
def test_a_device_that_is_not_there(nvml, monkeypatch, gpus, visible, wanted, what):
    nvml(gpus)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LAB_DEVICE", wanted)
    with pytest.raises(LabError) as caught:
        device.detect()
    assert caught.value.what == what
    assert caught.value.hint


def test_others_on_the_gpu(nvml):
    with subprocess.Popen(["sleep", "100"]) as ours:
        using = [(1, 4.2), (os.getpid(), 1.0), (ours.pid, 1.0), (2**22 + 5, None)]
        processes = tuple(types.SimpleNamespace(pid=pid, usedGpuMemory=None if size is None else int(size * 2**30)) for pid, size in using)
        nvml(GPUS, processes=processes)
        first, second = device.foreign_processes(device.detect())
        ours.kill()
    assert re.fullmatch(r"pid 1 \S+ 4\.2 GiB", first)
    assert second == f"pid {2**22 + 5} (not visible from here)"
    assert device.foreign_processes(CPU) == []


def test_load():
    now = device.load()
    assert now["cores"] == len(os.sched_getaffinity(0))
    assert len(now["load"]) == 3
    assert all(value >= 0 for value in now["load"])


def test_nothing_heavy_is_imported():
    code = "import sys, monolab.device as d; d.detect(); d.holder(d.detect()); print([m for m in ('torch', 'pynvml', 'psutil', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- one at a time

HOLD = """
import subprocess, sys, time
from monolab import device
with device.lock(device.detect(), print, run=sys.argv[1], lab="/labs/one") as held:
    child = subprocess.Popen(["sleep", "100"], pass_fds=[held])
    print(child.pid, flush=True)
    sys.stdin.read()
    child.kill()
"""


@pytest.fixture
def holding():
    """`holding(run)`: a process that holds the CPU until its input ends, and its child, which holds it too."""
    started = []

    def start(run: str) -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child = int(process.stdout.readline())
        started.append((process, child))
        return process, child

    yield start
    for process, child in started:
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
        process.wait()


def take(said: list[str], run: str = "r2") -> float:
    """Take the CPU and let it go; when it was taken (monotonic seconds)."""
    with device.lock(CPU, said.append, run=run, lab="/labs/two"):
        return time.monotonic()


def test_a_free_device_is_taken_without_a_word(tmp_path):
    said = []
    assert device.holder(CPU) is None
    with device.lock(CPU, said.append, run="r1", lab="/labs/one") as held:
        assert os.get_inheritable(held)
        about = device.holder(CPU)
        assert about == {"pid": os.getpid(), "run": "r1", "lab": "/labs/one", "since": about["since"]}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["since"])
    assert device.holder(CPU) is None
    assert said == []
    assert json.loads((tmp_path / "locks" / "cpu.lock").read_text())["run"] == "r1"  # who had it last; nobody does now


def test_a_waiting_run_says_once_for_whom_it_waits_and_then_gets_the_device(holding, wait_until):
    process, _ = holding("r1")
    said, taken = [], []
    waiter = threading.Thread(target=lambda: taken.append(take(said)))
    waiter.start()
    wait_until(lambda: said)
    assert taken == []
    process.stdin.close()
    process.wait()
    waiter.join(60)
    assert len(taken) == 1
    assert len(said) == 1
    assert re.fullmatch(rf"waiting for cpu: held by run r1, pid {process.pid}, in lab /labs/one, since \d\d:\d\d", said[0])


def test_a_long_wait_says_so_again(holding, wait_until, monkeypatch):
    process, _ = holding("r1")
    monkeypatch.setattr(device, "SPEAK", 0.2)
    said = []
    waiter = threading.Thread(target=take, args=(said,))
    waiter.start()
    wait_until(lambda: len(said) >= 3)
    process.stdin.close()
    waiter.join(60)
    assert set(said) == {said[0]}


def test_the_child_keeps_the_device_when_the_holder_is_killed(holding, wait_until):
    process, child = holding("r1")
    process.kill()
    process.wait()
    assert device.holder(CPU)["run"] == "r1"
    assert device._try(device._path(CPU)) is None
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: device.holder(CPU) is None)


def test_a_wait_ends_on_a_signal(holding):
    class Stopped(Exception):
        pass

    def stop(number, frame):
        raise Stopped

    holding("r1")
    before = signal.signal(signal.SIGTERM, stop)
    files = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(Stopped), device.lock(CPU, lambda line: os.kill(os.getpid(), signal.SIGTERM), run="r2", lab="x"):
            pytest.fail("the device was given out twice")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(os.listdir("/proc/self/fd")) == files


def test_those_who_look_do_not_see_each_other():
    take([])  # a record of an earlier holder now stands in the file
    seen = []
    askers = [threading.Thread(target=lambda: seen.extend(device.holder(CPU) for _ in range(200))) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert seen == [None] * 800


def test_those_who_look_do_not_make_a_run_wait():
    said, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            device.holder(CPU)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for i in range(40):
            take(said, f"r{i}")
    finally:
        ended.set()
        asker.join()
    assert said == []


def test_many_at_once_take_turns(tmp_path):
    inside, most = [], []

    def one():
        with device.lock(CPU, lambda line: None, run="r", lab="x"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 8


def test_each_device_has_its_own_lock():
    other = Device("gpu", "gpu0", 0, GPUS[0], "any")
    with device.lock(CPU, pytest.fail, run="r1", lab="x"), device.lock(other, pytest.fail, run="r2", lab="x"):
        assert device.holder(CPU)["run"] == "r1"
        assert device.holder(other)["run"] == "r2"


# --- the file


def test_every_user_may_take_the_lock(tmp_path):
    before = os.umask(0o077)
    try:
        take([])
    finally:
        os.umask(before)
    folder = tmp_path / "locks"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "cpu.lock").stat().st_mode) == 0o666


def test_the_folder_is_the_machines_unless_it_is_set(monkeypatch, tmp_path):
    monkeypatch.delenv("LAB_LOCK_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert device._path(CPU) == tmp_path / "monolab-locks" / "cpu.lock"


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "victim")


def second_name(path: Path) -> None:
    os.link(path.parent.parent / "victim", path)


@pytest.mark.parametrize("plant", [link, second_name, os.mkfifo, os.mkdir])
def test_a_planted_file_is_refused(tmp_path, plant):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "locks").mkdir()
    plant(tmp_path / "locks" / "cpu.lock")
    with pytest.raises(LabError, match=r"cpu\.lock") as caught:
        take([])
    assert "LAB_LOCK_DIR" in caught.value.hint
    with pytest.raises(LabError, match=r"cpu\.lock"):
        device.holder(CPU)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LabError, match="is not a folder"):
        take([])


def test_a_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAB_LOCK_DIR", str(tmp_path / "file" / "locks"))
    with pytest.raises(LabError, match="cannot be used"):
        take([])


def test_a_lock_whose_file_was_removed_does_not_count(monkeypatch):
    """Whoever cleans the temp folder may remove it between open and lock; then it would lock nothing."""
    path = device._path(CPU)
    take([])
    real = device.fcntl.flock

    def remove_first(fd, how):
        path.unlink(missing_ok=True)
        real(fd, how)

    monkeypatch.setattr(device.fcntl, "flock", remove_first)
    assert device._try(path) is None
    monkeypatch.setattr(device.fcntl, "flock", real)
    os.close(device._try(path))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "held by another program"),
        ("{", "held by another program"),
        ("[1]", "held by another program"),
        ('{"pid": 1}', "held by another program"),
        ('{"pid": 1, "run": "a\\nb\\u001b[2J", "lab": "/l\u00e4b", "since": "x"}', "held by run a?b?[2J, pid 1, in lab /l\u00e4b, since x"),
    ],
)
def test_whatever_stands_in_the_file_one_clean_line_comes_of_it(text, line):
    with device.lock(CPU, pytest.fail, run="r", lab="l"):
        device._path(CPU).write_text(text)
        assert device._told(device.holder(CPU)) == line

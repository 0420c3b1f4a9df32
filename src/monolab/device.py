"""The device that runs take turns on: which one it is, who holds it, who else is on it. Imports no torch."""

import contextlib
import fcntl
import functools
import json
import os
import platform
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from monolab import filesystem
from monolab.errors import LabError

ASK = 0.05  # seconds between two attempts at a lock that is held
SPEAK = 60.0  # seconds between two messages of a waiting run
NO_GPU = ("", "-1", "none", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that hide every GPU


@dataclass(frozen=True)
class Device:
    """A GPU, or the machine's processors taken as one device."""

    kind: str  # "cpu" or "gpu"
    name: str  # "cpu", "gpu0"; the queue's group is lab-{name}
    index: int | None  # NVML's index of the GPU, as nvidia-smi shows it
    uid: str  # the GPU's UUID, or "cpu"; also what CUDA_VISIBLE_DEVICES should say in a child
    hardware: str  # "NVIDIA H200 140 GiB, driver 580.1" or "Intel(R) Xeon(R) Processor x2"


def detect() -> Device:
    """The device runs use: the first GPU that CUDA_VISIBLE_DEVICES leaves visible, else the CPU.

    LAB_DEVICE chooses: `cpu`, `cuda` (a GPU, whichever comes first) or `gpuN` (N as in nvidia-smi). LabError when it
    names a device that is not there, and when there is a driver that does not answer: a run that was meant for a GPU
    must not quietly go to the CPU.
    """
    wanted = os.environ.get("LAB_DEVICE", "")
    if not re.fullmatch(r"(cpu|cuda|gpu\d+)?", wanted):
        raise LabError(f"LAB_DEVICE is {wanted!r}", hint="cpu, cuda, gpu0, gpu1, ... or unset")
    if wanted == "cpu":
        return _cpu()
    gpus = _gpus()
    visible = _visible(gpus)
    if wanted.startswith("gpu"):
        visible = [gpu for gpu in visible if gpu.name == wanted]
    if visible:
        return visible[0]
    if not wanted:
        return _cpu()
    found = f"this machine has {', '.join(gpu.name for gpu in gpus) or 'no GPU that NVML knows'}"
    limited = f" and CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
    raise LabError(f"LAB_DEVICE is {wanted!r}, but {found}{limited}", hint="unset LAB_DEVICE, or LAB_DEVICE=cpu")


def _cpu() -> Device:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = " ".join(model[1].split()) if model else f"{platform.machine()} processor"  # Arm's cpuinfo has no names
    return Device("cpu", "cpu", None, "cpu", f"{name} x{len(os.sched_getaffinity(0))}")


@functools.cache
def library():
    """NVML, started; None where the machine has no NVIDIA driver. LabError when there is one and it does not work."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        raise LabError(f"the NVIDIA driver does not answer: {error}", hint="nvidia-smi says more; LAB_DEVICE=cpu does without") from error
    return pynvml


def _gpus() -> list[Device]:
    nvml = library()
    if nvml is None:
        return []
    driver = nvml.nvmlSystemGetDriverVersion()
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        size = nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30
        hardware = f"{nvml.nvmlDeviceGetName(handle)} {size:.0f} GiB, driver {driver}"
        found.append(Device("gpu", f"gpu{index}", index, nvml.nvmlDeviceGetUUID(handle), hardware))
    return found


def _visible(gpus: list[Device]) -> list[Device]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order, by index (as nvidia-smi counts) or by the start of the UUID."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not gpus:
        return gpus
    if listed.strip() in NO_GPU:
        return []
    chosen = []
    for word in (word.strip() for word in listed.split(",")):
        if word.startswith("MIG-"):
            raise LabError(f"CUDA_VISIBLE_DEVICES names {word}; slices of a GPU (MIG) are not supported", hint="name a whole GPU, or LAB_DEVICE=cpu")
        matching = [gpu for gpu in gpus if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uid.startswith(word))]
        if len(matching) != 1:
            raise LabError(
                f"CUDA_VISIBLE_DEVICES names {word!r}, which is not one of {', '.join(gpu.name for gpu in gpus)}",
                hint="correct or unset it, or LAB_DEVICE=cpu",
            )
        chosen += matching
    return chosen


@contextlib.contextmanager
def lock(device: Device, waiting: Callable[[str], None], *, run: str, lab: str) -> Iterator[int]:
    """Hold the device on this machine, for every user and every lab; yields the lock's file descriptor.

    The descriptor is inheritable: pass it on to the child, and the device stays taken until the child is gone as well,
    should this process be killed. It is released by closing, never by unlocking, for the same reason. While another
    holds it, `waiting` gets one line that says who, at once and then every minute.
    """
    path = _path(device)
    began, spoken = time.monotonic(), None
    while (fd := _try(path)) is None:
        now = time.monotonic()
        # A glance by holder() also keeps the lock for a moment: only what lasts is worth a word.
        if now - began > 2 * ASK and (spoken is None or now - spoken >= SPEAK) and (held := holder(device)) is not None:
            waiting(f"waiting for {device.name}: {_told(held)}")
            spoken = now
        time.sleep(ASK)
    try:
        about = {"pid": os.getpid(), "run": run, "lab": lab, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(about).encode(), 0)
        os.set_inheritable(fd, True)
        yield fd
    finally:
        os.close(fd)


def holder(device: Device) -> dict | None:
    """Who holds the device: pid, run, lab and since (ISO, UTC), as far as the holder has written it; None when it is free."""
    path = _path(device)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _check(fd, path)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who ask do not see each other
        return None
    except BlockingIOError:
        try:
            about = json.loads(os.pread(fd, 65536, 0))
        except ValueError:  # it has just taken the lock
            return {}
        return about if isinstance(about, dict) else {}
    finally:
        os.close(fd)


def _told(held: dict) -> str:
    """One line, whatever stands in a file that every user of the machine may write."""
    about = {name: "".join(c if c.isprintable() else "?" for c in str(held[name]))[:200] for name in ("run", "pid", "lab", "since") if name in held}
    if len(about) < 4:
        return "held by another program"
    try:
        since = f"{datetime.fromisoformat(about['since']).astimezone():%H:%M}"
    except ValueError:
        since = about["since"]
    return f"held by run {about['run']}, pid {about['pid']}, in lab {about['lab']}, since {since}"


def _path(device: Device) -> Path:
    """The lock's file; its folder is made when it is missing. LAB_LOCK_DIR must be shared by all who share the device."""
    folder = Path(os.environ.get("LAB_LOCK_DIR") or Path(tempfile.gettempdir()) / "monolab-locks")
    try:
        os.makedirs(folder.parent, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
            os.chmod(folder, 0o1777)  # as the temp folder itself: every user may add a file, none may remove another's
    except OSError as error:
        raise _unusable(folder, error) from error
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise LabError(f"{folder} is not a folder (or is a link)", hint="remove it, or set LAB_LOCK_DIR")
    filesystem.require_own_disk(folder)
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', device.uid)}.lock"


def _try(path: Path) -> int | None:
    """A descriptor that holds the lock, or None while another does."""
    try:
        # First without O_CREAT: kernels refuse it for another user's file in a folder like this (fs.protected_regular).
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.fchmod(fd, 0o666)  # whatever the umask: other users must be able to take the lock as well
        except FileExistsError:
            return None  # another was faster; the next attempt finds it
        except OSError as error:
            raise _unusable(path, error) from error
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        _check(fd, path)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.lstat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):  # held, or removed meanwhile by whoever cleans the temp folder
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _check(fd: int, path: Path) -> None:
    """LabError unless `fd` is a plain file with no second name: a lock's text must not end up in another file."""
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        raise LabError(f"{path} is not a plain file of its own", hint="remove it, or set LAB_LOCK_DIR")


def _unusable(path: Path, error: OSError) -> LabError:
    return LabError(
        f"the device's lock {path} cannot be used: {error.strerror}",
        hint="remove it, or set LAB_LOCK_DIR to a folder that all users of the device share",
    )


def foreign_processes(device: Device) -> list[str]:
    """What computes on the GPU beside this process and its children, as "pid 123 python 4.2 GiB"; always [] for the CPU."""
    if device.kind == "cpu":
        return []
    import psutil

    nvml = library()
    me = psutil.Process()
    ours = {me.pid} | {child.pid for child in me.children(recursive=True)}
    found = []
    for process in nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(device.index)):
        if process.pid in ours:
            continue
        size = "" if process.usedGpuMemory is None else f" {process.usedGpuMemory / 2**30:.1f} GiB"
        found.append(f"pid {process.pid} {name_of(process.pid)}{size}")
    return found


def name_of(pid: int) -> str:
    """What a process is called, on one line."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:  # it has ended; or, inside a container, NVML counts the processes of the machine around it
        return "(not visible from here)"
    return "".join(c if c.isprintable() else "?" for c in name) or "?"


def load() -> dict:
    """How busy the processors are: mean number of runnable processes over 1, 5 and 15 minutes, and the cores there are."""
    return {"load": [round(value, 2) for value in os.getloadavg()], "cores": len(os.sched_getaffinity(0))}

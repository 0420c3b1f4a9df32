"""A control group (cgroup v2) of a run's own, where the system lets us make one: no session, signal or double fork leaves it.

Its end is one write to `cgroup.kill`, which no process that forks at that moment escapes, and where the memory controller is delegated to us (as
systemd does for a user's own session) the kernel itself keeps the run's memory, page cache and files in /dev/shm included, within the limit.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

NAME = "lab-"  # the groups' names: this, the supervisor's pid, and a number


@dataclass(frozen=True)
class Group:
    path: Path
    memory: bool  # the kernel limits its memory

    def enter(self) -> None:
        """Move this process into the group. Called in a new process before it becomes the candidate's: it does no more than write a byte."""
        handle = os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, b"0")
        finally:
            os.close(handle)

    def holds(self, pid: int) -> bool:
        """Whether a process is in it; also one that has ended and that nobody has waited for."""
        with contextlib.suppress(OSError):
            return any(line.startswith("0::") and f"/{self.path.name}" in line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        return False

    def members(self) -> set[int]:
        """The processes in it; none where it is gone."""
        with contextlib.suppress(OSError):
            return {int(pid) for pid in (self.path / "cgroup.procs").read_text().split()}
        return set()

    def kill(self) -> None:
        """End all in it, at once. Kernels before 5.14 have no such switch."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def ran_out(self) -> bool:
        """Whether the kernel ended a process of it for want of memory."""
        with contextlib.suppress(OSError):
            found = re.search(r"^oom_kill (\d+)", (self.path / "memory.events").read_text(), re.MULTILINE)
            return bool(found) and int(found[1]) > 0
        return False

    def remove(self) -> None:
        """Once it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()


def make(mark: str, memory_gb: float | None) -> Group | None:
    """A new group named after `mark`, its memory limited to `memory_gb` GiB where the kernel can; None where this process may not make one."""
    places = [path for path in own() if os.access(path, os.W_OK) and os.access(path / "cgroup.procs", os.W_OK)]
    limits = [path for path in places if memory_gb is not None and "memory" in _words(path / "cgroup.subtree_control")]
    for parent in (*limits, *places):
        _sweep(parent)
        group = Group(parent / f"{NAME}{mark}", parent in limits)
        try:
            group.path.mkdir()
        except OSError:
            continue
        if not group.memory:
            return group
        try:
            (group.path / "memory.max").write_text(str(int(memory_gb * 2**30)))
        except OSError:
            group.remove()
            continue
        for name, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):  # not all kernels have them
            with contextlib.suppress(OSError):
                (group.path / name).write_text(value)
        return group
    return None


def own() -> list[Path]:
    """Where this process stands in the hierarchy of version 2, and above that: only below a group that holds no processes are controllers handed on."""
    try:
        told = re.search(r"^0::(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    except OSError:
        return []
    for _, _, _, root, place, *_ in mounts if told else ():
        if (inside := Path(told[1])).is_relative_to(root):
            here = Path(place) / inside.relative_to(root)
            return [here, *([here.parent] if here != Path(place) else [])]
    return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _sweep(parent: Path) -> None:
    """Remove the empty groups of supervisors that are gone."""
    for path in parent.glob(f"{NAME}*-*"):
        pid = path.name.removeprefix(NAME).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                path.rmdir()

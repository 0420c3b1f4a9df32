"""A child process that ends when it must: with its limits, with its supervisor, and with all that it started. Linux only."""

import contextlib
import ctypes
import fcntl
import functools
import os
import queue
import re
import resource
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Self

from monolab import cgroup

GIB, MIB = 2**30, 2**20
MARK = "LAB_SUPERVISOR"  # set in the environment of everything under supervision: how the guard knows it again
TAIL = 4000  # characters of the output in an Outcome
LINE = 8192  # bytes that are given up at most so that what is kept of the output starts and ends with a whole line
LEAVE = 0.2  # seconds that processes which outlive the child have to go by themselves
LATE = 5.0  # seconds past its limits after which the guard ends a run whose supervisor has not, because somebody has stopped it
PATIENCE = 10.0  # seconds after which a process that survives SIGKILL (one that hangs in a driver) is left alone
LOOK = 0.1  # seconds between two looks at the memory, more where a look is expensive

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 15, 36, 37  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
OUT_OF_MEMORY = re.compile(
    r"^[\w.]*(MemoryError|OutOfMemoryError)\b|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory"
    r"|Cannot allocate memory|std::bad_alloc",
    re.MULTILINE,
)
DRIVER_DOWN = re.compile(  # it was being loaded, was reset, or had just lost a client
    r"CUDA initialization:|CUDA driver initialization failed|cudaErrorInitializationError|CUDA error: initialization error|CUDA_ERROR_NOT_INITIALIZED"
    r"|cuInit[^\n]{0,80}(failed|error)|CUDA error: unknown error|No CUDA GPUs are available|cudaErrorSystemNotReady|CUDA error: system not yet"
)
DEVICE_BUSY = re.compile(
    r"CUDA-capable device\(s\) is/are busy or unavailable|cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE|CUDA error: all CUDA-capable devices"
)
WORKER_KILLED = re.compile(r"killed by signal: (9|Killed)\b")  # what torch says of a DataLoader's worker


@dataclass(frozen=True)
class Limits:
    """What a child may use. A limit ends it; only `log_mb` just drops output."""

    seconds: float  # wall clock until TERM
    grace_seconds: float  # from TERM to KILL
    memory_gb: float | None  # GiB resident in the host's memory, the whole tree together
    log_mb: float  # MiB of output that is kept


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    status: str  # ok, crash, oom, timeout or killed (by a signal to this process)
    returncode: int | None  # negative for a signal
    seconds: float  # wall clock from its start to its end
    peak_gb: float  # GiB: device memory where a GPU was named, else resident memory; the whole tree together
    tail: str  # the last lines of the output, valid text without control characters
    log_truncated: bool  # output was dropped
    left_behind: int  # processes that outlived the child and were ended
    halted: str = ""  # why whoever watched it had it ended
    memory_limit: str = ""  # what kept host memory within its limit: "cgroup 16 GiB" (the kernel), "watched 16 GiB" (this process), or nothing


def run(
    command: list[str],
    *,
    cwd: Path,
    env: dict[str, str],
    log: Path,
    limits: Limits,
    echo: IO[bytes] | None = None,
    keep_fds: tuple[int, ...] = (),
    gpu: int | None = None,
    observe: "Callable[[list[Process]], tuple[str, str] | None] | None" = None,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
) -> Outcome:
    """Run `command` within `limits` and end everything that it started, however it ends.

    Its output is appended to `log` and copied to `echo`; where there is a `stdout`, only its stderr is. `stdin` is empty by default. `keep_fds` stay
    open in it. `gpu` is NVML's index of the device whose memory `peak_gb` reports. `observe` is called often, from this thread, with the processes
    of the run, those too that have ended and that nobody has waited for; it must be quick. What it returns, a status and a reason, ends the run with
    them. SIGTERM, SIGINT or SIGHUP to this process end the child (status `killed`);
    the caller's handlers are back in force on return. One call at a time in a process; outside of the main thread
    signals are the caller's own affair. Raises OSError when the command cannot be started.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    with contextlib.ExitStack() as stack:
        stops = stack.enter_context(_stop_signals())
        group = cgroup.make(mark, limits.memory_gb)
        if group:
            stack.callback(group.remove)
        tell_guard = stack.enter_context(_guard(mark, keep_fds, group, limits.seconds + limits.grace_seconds + LATE))
        stack.enter_context(_subreaper())
        device = _Gpu(gpu) if gpu is not None else None
        output = stack.enter_context(_Output(log, int(limits.log_mb * MIB), echo))
        strangers = {process.pid for process in processes() if process.parent == os.getpid()}
        floor, killed_before = _resident(os.getpid())[0], _oom_kills()

        prepare = functools.partial(_prepare, os.getpid(), group)
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        try:
            os.set_blocking(reading, False)
            with contextlib.suppress(OSError):  # a user may have used up their share of large pipes
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, MIB)
            started = time.monotonic()
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=env | {MARK: mark},
                stdin=stdin or subprocess.DEVNULL,
                stdout=stdout or writing,
                stderr=writing,
                pass_fds=keep_fds,
                start_new_session=True,
                preexec_fn=prepare,  # noqa: PLW1509 - it calls prctl, setrlimit and write, takes no lock, and no thread of ours runs yet
            )
        finally:
            os.close(writing)
        group = group if group and group.holds(child.pid) else None
        watch = _Watch(child, strangers, _Memory(device), output, stops, reading, group)
        stack.callback(watch.end)  # also when something here goes wrong: no child outlives this function
        tell_guard(child.pid)

        cause = watch.until_it_ends(limits, started, observe)
        ended = time.monotonic()
        left_behind = watch.end()
        watch.memory.at_end(watch.usage.ru_maxrss * 1024, floor)

        code = child.returncode
        if cause:
            status = cause
        elif code == 0:
            status = "ok"
        else:
            ran_out = group is not None and group.ran_out()
            status = "oom" if ran_out or _out_of_memory(code, output.text(), killed_before) else "crash"
        notes = [f"[lab] pid {process.pid} could not be killed" for process in watch.living()]
        if watch.halted:
            notes.append(f"[lab] ended: {watch.halted}")
        elif cause == "timeout":
            notes.append(f"[lab] ended: still running after {limits.seconds:g} s")
        elif cause == "oom":
            notes.append(f"[lab] ended: {watch.memory.peak / GIB:.2f} GiB of memory in use, the limit is {limits.memory_gb:g}")
        elif cause == "killed":
            notes.append(f"[lab] ended: the run was told to stop by {signal.Signals(stops.received[0]).name}")
        elif status == "oom" and group and group.ran_out():
            notes.append(f"[lab] ended: the kernel allows it {limits.memory_gb:g} GiB of memory")
        elif code < 0:
            notes.append(f"[lab] ended by {signal.Signals(-code).name}")
        output.finish(notes)
    # The caller's handlers are back. A stop that came at the very end still counts: nothing more should be started.
    if stops.received:
        status = "killed"
    peak = watch.memory.peak if device is None else watch.memory.device_peak
    kept = "" if limits.memory_gb is None else f"{'cgroup' if group and group.memory else 'watched'} {limits.memory_gb:g} GiB"
    return Outcome(status, code, ended - started, peak / GIB, output.text(), output.truncated, left_behind, watch.halted, kept)


class _Watch:
    """One child while it runs: what arrives on its pipe, when it ends, and all that lives below this process."""

    def __init__(
        self,
        child: subprocess.Popen,
        strangers: set[int],
        memory: "_Memory",
        output: "_Output",
        stops: "_Stops",
        reading: int,
        group: cgroup.Group | None,
    ):
        self.child = child
        self.group = group
        self.strangers = strangers  # children of this process that are no part of the run
        self.memory = memory
        self.output = output
        self.stops = stops
        self.reading = reading
        self.usage: resource.struct_rusage | None = None  # of the child, once it has ended
        self.left_behind: int | None = None
        self.halted = ""  # why `observe` wanted it to end
        self.selector = selectors.DefaultSelector()
        self.selector.register(reading, selectors.EVENT_READ, self._read)
        self.selector.register(stops.reading, selectors.EVENT_READ, stops.clear)
        try:
            self.pidfd = os.pidfd_open(child.pid)
            self.selector.register(self.pidfd, selectors.EVENT_READ, self._reap)
        except OSError:  # kernels before 5.3 and some sandboxes have none: the child is then asked after every 10 ms
            self.pidfd = None

    def until_it_ends(self, limits: Limits, started: float, observe: "Callable[[list[Process]], tuple[str, str] | None] | None") -> str:
        """Wait for the child, and end it where it passes a limit. Returns why it was ended, or "" when it ended by itself."""
        cause, deadline, killing = "", started + limits.seconds, False
        look, pause = started + 0.01, 0.01
        while self.usage is None:
            now = time.monotonic()
            if not cause and (self.stops.received or now >= deadline):
                cause = "killed" if self.stops.received else "timeout"
                deadline = now + limits.grace_seconds
                self.signal(signal.SIGTERM)
                self.signal(signal.SIGCONT)  # one that is stopped would not notice
            elif killing or (cause and now >= deadline):
                killing = True
                self.signal(signal.SIGKILL)
            if now >= look and not killing:
                seen = self.seen()
                verdict = observe(seen) if observe else None  # before the dead are buried: their time is counted once
                if verdict and not cause:
                    cause, self.halted = verdict
                    deadline = now + limits.grace_seconds
                    self.signal(signal.SIGTERM)
                self.bury(seen)
                used = self.memory.look([process.pid for process in seen if process.state not in "ZX"])
                if limits.memory_gb is not None and used > limits.memory_gb * GIB and not cause:
                    cause, killing = "oom", True  # at once: in a grace period it would take still more
                    self.signal(signal.SIGKILL)
                pause = min(2 * pause, LOOK)
                look = time.monotonic() + max(pause, 20 * (time.monotonic() - now))  # the looks take at most a twentieth of a core
            self.step(0.02 if killing else min(deadline, look) - time.monotonic())
        if not cause and self.child.returncode and time.monotonic() >= deadline + LATE:
            return "timeout"  # this process was stopped meanwhile, and the guard has ended the run in its place
        return cause

    def step(self, timeout: float) -> None:
        """Deal with what has happened, or happens within `timeout` seconds."""
        timeout = max(timeout, 0.0)
        if self.pidfd is None and self.usage is None:
            self._reap()
            timeout = min(timeout, 0.01)
        for key, _ in self.selector.select(timeout):
            key.data()

    def _read(self) -> None:
        try:
            chunk = os.read(self.reading, MIB)
        except BlockingIOError:
            return
        if chunk:
            self.output.take(chunk)
        else:
            self.selector.unregister(self.reading)

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
        if pid:
            self.child.returncode = os.waitstatus_to_exitcode(status)
            self.usage = usage
            if self.pidfd is not None:
                self.selector.unregister(self.pidfd)

    def seen(self) -> "list[Process]":
        """The processes of this run, dead ones too that nobody has waited for; orphans come to this process, the subreaper."""
        below: dict[int, list[Process]] = {}
        for process in processes():
            below.setdefault(process.parent, []).append(process)
        walk = [process for process in below.get(os.getpid(), []) if process.pid not in self.strangers]
        for process in walk:  # which grows meanwhile
            walk += below.get(process.pid, [])
        return walk

    def living(self) -> "list[Process]":
        seen = self.seen()
        self.bury(seen)
        return [process for process in seen if process.state not in "ZX"]

    def bury(self, seen: "list[Process]") -> None:
        """Wait for the orphans that have ended; the child itself is left to `_reap`."""
        for process in seen:
            if process.state == "Z" and process.parent == os.getpid() and process.pid != self.child.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def alone(self) -> bool:
        """Whether nothing of this run is left, for certain: a process without children has no descendants.

        Beside children that are no part of it, looking must do: one look can miss a process that forks and exits at
        that moment, but what has exited stays as a zombie, and the second look sees that.
        """
        if self.strangers:
            return not self.seen() and not self.seen()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def signal(self, number: int) -> None:
        """To all of the run. By group, which is one moment for all that are in it: none of them forks in between."""
        if self.group and number == signal.SIGKILL:
            self.group.kill()
        seen = self.seen()
        for group in {process.group for process in seen}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        self.bury(seen)

    def end(self) -> int:
        """End what is left, take in the last output, and return how many processes outlived the child. Again: no effect."""
        if self.left_behind is not None:
            return self.left_behind
        while self.usage is None:  # only after an exception here
            self.signal(signal.SIGKILL)
            self.step(0.02)
        leave = time.monotonic() + LEAVE
        left = []
        while not self.alone() and ((left := self.living()) or not self.alone()) and time.monotonic() < leave:
            self.step(0.005)
        self.left_behind = 0 if self.alone() else max(len(left), 1)
        patience = time.monotonic() + PATIENCE
        while not self.alone() and time.monotonic() < patience:
            self.signal(signal.SIGKILL)
            self.step(0.002)
        total = -1
        while total != self.output.total:  # what is still in the pipe
            total = self.output.total
            self.step(0.0)
        self.selector.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
        return self.left_behind


class _Output:
    """The child's output: up to `cap` bytes go to the log and the echo as they come; of more, the first and last halves are kept."""

    def __init__(self, log: Path, cap: int, echo: IO[bytes] | None):
        self.log = log
        self.cap = cap
        self.total = 0
        self.end = bytearray()  # the last bytes, at least `keep` of them once there are so many
        self.keep = max(cap - cap // 2, MIB // 4)
        self.refused: OSError | None = None  # why the log could not be written: the disk is full
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A thread, because a terminal that is held or a pager that waits must not keep the limits from being applied.
        self.echoing = threading.Thread(target=_copy, args=(self.lines, echo), daemon=True) if echo else None

    def __enter__(self) -> Self:
        self.file = os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.start = os.fstat(self.file).st_size
        return self

    def __exit__(self, *_) -> None:
        os.close(self.file)
        if self.echoing and self.echoing.ident:
            self.lines.put(None)
            self.echoing.join(1.0)

    @property
    def truncated(self) -> bool:
        return self.total > self.cap or self.refused is not None

    def take(self, chunk: bytes) -> None:
        room = max(self.cap - self.total, 0)
        self._write(chunk[:room])
        self._echo(chunk[:room])
        self.total += len(chunk)
        self.end += chunk
        if len(self.end) > 2 * self.keep:
            del self.end[: -self.keep]

    def finish(self, notes: list[str]) -> None:
        """Cut the log down to its halves where it was more than fits, then add `notes` as lines of their own."""
        if self.total > self.cap and self.refused is None:
            head = os.pread(self.file, self.cap // 2, self.start)
            head = head[: head.rfind(b"\n", len(head) - LINE) + 1] or head  # whole lines, where lines have a usual length
            tail = bytes(self.end[-(self.cap - self.cap // 2) :]) if self.cap else b""
            tail = tail[tail.find(b"\n", 0, LINE) + 1 :]
            said = f"[lab] {self.total - len(head) - len(tail)} bytes of output are left out here\n".encode()
            os.ftruncate(self.file, self.start + len(head))
            self._write((b"" if not head or head.endswith(b"\n") else b"\n") + said + tail)
            self._echo(f"\n[lab] output goes on; its end is in {self.log.name}\n".encode())
        if self.refused is not None:
            notes = [*notes, f"[lab] the log is incomplete: {self.refused.strerror}"]
        for note in notes:
            line = (b"" if not self.end or self.end.endswith(b"\n") else b"\n") + note.encode() + b"\n"
            self._write(line)
            self._echo(line)
            self.end += line

    def text(self) -> str:
        """The last lines as a terminal would show them, at most `TAIL` characters."""
        text = ESCAPES.sub("", self.end[-MIB // 4 :].decode(errors="replace"))
        shown = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", shown).strip("\n")[-TAIL:]

    def _write(self, data: bytes) -> None:
        while data and self.refused is None:
            try:
                data = data[os.write(self.file, data) :]
            except OSError as error:
                self.refused = error

    def _echo(self, data: bytes) -> None:
        if self.echoing and data:
            if self.echoing.ident is None:
                self.echoing.start()
            self.lines.put(data)


def _copy(lines: "queue.SimpleQueue[bytes | None]", echo: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):  # whoever listened has gone; the log has it all
        while (line := lines.get()) is not None:
            echo.write(line)
            echo.flush()


class _Memory:
    """Peak memory of a tree of processes, in bytes.

    Of one process: its resident memory (VmHWM, so that nothing between two looks is missed). Of several: the sum of
    their proportional set sizes (PSS), because the sum of their resident sizes counts every page that forked workers
    share once per worker. PSS is slow to read, so it is read only where the sum of resident sizes is above the peak.
    """

    def __init__(self, device: "_Gpu | None"):
        self.device = device
        self.peak = 0
        self.device_peak = 0

    def look(self, pids: list[int]) -> int:
        """Look once; returns the peak of host memory so far."""
        sizes = [_resident(pid) for pid in pids]
        now = sum(size for size, _ in sizes)
        if len(pids) > 1 and now > self.peak:
            now = sum(map(_proportional, pids))
        self.peak = max(self.peak, now, *(highest for _, highest in sizes), 0)
        if self.device:
            self.device_peak = max(self.device_peak, self.device.used(set(pids)))
        return self.peak

    def at_end(self, highest: int, floor: int) -> None:
        """Take in what the kernel says of the child after its end.

        The child starts as a copy of this process, so the kernel's number is at least `floor`, this one's size.
        """
        if highest > 1.1 * floor or not self.peak:  # not one look: then "at most as much as this process" is what is known
            self.peak = max(self.peak, highest)


class _Gpu:
    """Memory in use on one GPU, as NVML tells it."""

    def __init__(self, index: int):
        import pynvml

        self.nvml = pynvml
        pynvml.nvmlInit()
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.before = pynvml.nvmlDeviceGetMemoryInfo(self.handle).used

    def used(self, pids: set[int]) -> int:
        """Bytes used by `pids`; where NVML does not know them (in a container it counts pids outside), what was added since the start."""
        try:
            known = [process for process in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle) if process.pid in pids]
            if known and all(process.usedGpuMemory is not None for process in known):
                return sum(process.usedGpuMemory for process in known)
            return max(self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used - self.before, 0)
        except self.nvml.NVMLError:  # the device is lost: the child will notice, and the run goes on to its end
            return 0


class Process(NamedTuple):
    pid: int
    state: str  # Z: a zombie
    parent: int
    group: int
    session: int
    started: int  # clock ticks from boot to its start: with the pid, it names one process for ever
    ticks: int  # processor time, in clock ticks: its own, and that of those below it that it has waited for


def processes() -> Iterator[Process]:
    """All processes of the machine (of this container), as far as they do not end meanwhile."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                    text = file.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent, group, session, *rest = text[text.rindex(b")") + 2 :].split(None, 20)  # the name before it may hold anything
            yield Process(int(name), state.decode(), int(parent), int(group), int(session), int(rest[15]), sum(map(int, rest[7:11])))


def _resident(pid: int) -> tuple[int, int]:
    """Resident memory of a process, now and at its highest, in bytes; zeros once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0, 0
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return int(sizes.get("VmRSS", 0)) * 1024, int(sizes.get("VmHWM", 0)) * 1024


def _proportional(pid: int) -> int:
    """Proportional set size in bytes: a page that n processes share counts 1/n. Resident size where it may not be read."""
    try:
        return int(re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1]) * 1024
    except (OSError, TypeError):
        return _resident(pid)[0]


def _out_of_memory(code: int, text: str, killed_before: int) -> bool:
    """Whether a child that failed did so for want of memory: it says so, or it or a worker was killed while the kernel killed for memory."""
    killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL) or WORKER_KILLED.search(text) is not None
    return OUT_OF_MEMORY.search(text) is not None or (killed and _oom_kills() > killed_before)


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory since boot; 0 where it does not say (some sandboxes)."""
    try:
        found = re.search(r"^oom_kill (\d+)", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _prctl(option: int, argument) -> None:
    if _libc.prctl(ctypes.c_int(option), argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _prepare(parent: int, group: cgroup.Group | None) -> None:
    """In the new process, before it becomes the command."""
    _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the line above took effect
        os._exit(1)
    if group:
        with contextlib.suppress(OSError):  # the caller sees whether it is in it
            group.enter()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of a training process fills the disk
    with contextlib.suppress(OSError):  # where the kernel must choose, it should take the candidate, not its supervisor
        Path("/proc/self/oom_score_adj").write_text("500")


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    """Orphans below this process come to it and not to init, so that they can be found."""
    before = ctypes.c_int()
    _prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
    try:
        yield
    finally:
        _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(before.value))


@dataclass
class _Stops:
    received: list[int]
    reading: int  # becomes readable when a signal arrives

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reading, 4096)


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stops]:
    """Collect the signals that ask this process to end. The handlers before are restored at the very end, all at once."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    stops = _Stops([], reading)
    handlers: dict[int, Callable | int] = {}
    main = threading.current_thread() is threading.main_thread()
    try:
        if main:
            wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            for number in STOPS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup and the like stay in force
                    handlers[number] = signal.signal(number, lambda number, frame: stops.received.append(number))
        yield stops
    finally:
        if main:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a handler that raises must not keep the others from being restored
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)
        if main:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextlib.contextmanager
def _guard(mark: str, keep_fds: tuple[int, ...], group: cgroup.Group | None, seconds: float) -> Iterator[Callable[[int], None]]:
    """A second process that sweeps up when this one is killed with SIGKILL (`pueue kill` does that).

    The parent-death signal ends the child itself; workers and daemons that it has started would live on, on the GPU.
    The guard ends them; also when they still run `seconds` after the child's start, because somebody has stopped (SIGSTOP) the one who should have
    ended them: `pueue pause` does that, and an unsandboxed candidate can. What is below the supervisor it notes every second, so that it also knows
    those again that have left their session and cleared their environment. It holds `keep_fds`, the device's lock among them, until all are gone. It is no child of this
    process, so that a process without children knows that nothing of the run is left. Yields how to tell it the child.
    """
    ours, its = socket.socketpair()
    between = os.fork()
    if between == 0:
        try:
            if os.fork() == 0:
                _stand_guard(mark, its, keep_fds, group, seconds)
        finally:
            os._exit(0)
    its.close()
    os.waitpid(between, 0)
    with ours:

        def tell(number: int) -> None:
            with contextlib.suppress(OSError):  # someone has killed the guard; the child has its parent-death signal
                ours.sendall(number.to_bytes(8, "little"))

        yield tell
        tell(0)
        with contextlib.suppress(OSError):
            ours.recv(1)  # until it has gone, and has let go of `keep_fds`


def _stand_guard(mark: str, channel: socket.socket, keep_fds: tuple[int, ...], group: cgroup.Group | None, seconds: float) -> None:
    """Wait for the supervisor's 0, which says that all is well, or for its death or its failure to end the run in time; then end what is left of it."""
    signal.set_wakeup_fd(-1)
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    home = os.getsid(0)  # the supervisor's
    os.setsid()
    _prctl(PR_SET_NAME, ctypes.c_char_p(b"lab-guard"))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in (0, 1, 2, channel.fileno(), *keep_fds):
            with contextlib.suppress(OSError):
                os.close(fd)
    supervisor = int(mark.partition("-")[0])
    sessions, known, before, deadline = set(), {}, None, float("inf")  # known: when each process below the supervisor was started
    while True:
        channel.settimeout(1.0)
        try:
            told = channel.recv(8, socket.MSG_WAITALL)
        except TimeoutError:
            known = _below(supervisor, before or set())
            if time.monotonic() >= deadline:
                _end_all(mark, group, sessions, known, home)
            continue
        if not told:  # the supervisor is gone
            break
        if not (child := int.from_bytes(told, "little")):
            return
        before = {process.pid for process in processes() if process.parent == supervisor and process.pid != child}
        sessions.add(child)
        deadline = time.monotonic() + seconds
    _end_all(mark, group, sessions, known, home)
    if group:
        group.remove()


def _below(top: int, strangers: set[int]) -> dict[int, int]:
    """The processes below `top`, with the time at which each was started."""
    below: dict[int, list[Process]] = {}
    for process in processes():
        below.setdefault(process.parent, []).append(process)
    walk = [process for process in below.get(top, []) if process.pid not in strangers]
    for process in walk:  # which grows meanwhile
        walk += below.get(process.pid, [])
    return {process.pid: process.started for process in walk}


def _end_all(mark: str, group: cgroup.Group | None, sessions: set[int], known: dict[int, int], home: int) -> None:
    """Kill what is in the run's group or sessions, bears its mark, or was seen below its supervisor, until nothing is left. `home`: no session of it."""
    quiet, patience = 0, time.monotonic() + PATIENCE
    while quiet < 3 and time.monotonic() < patience:
        members = group.members() if group else set()
        if members:
            group.kill()
        left = []
        for process in processes():
            ours = process.session in sessions or process.pid in members or known.get(process.pid) == process.started
            if process.state not in "ZX" and (ours or _has_mark(process.pid, mark)):
                left.append(process)
                known |= _below(process.pid, set())
        sessions |= {process.session for process in left if process.session != home}
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL) if process.session == home else os.killpg(process.group, signal.SIGKILL)
        quiet = 0 if left else quiet + 1
        time.sleep(0.01)


def _has_mark(pid: int, mark: str) -> bool:
    """Whether a process was started with the run's mark in its environment."""
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def left_by(supervisor: int) -> list[int]:
    """Processes under the supervision of a process that is gone: it and their guard were killed, or the guard is just ending them."""
    started = f"{MARK}={supervisor}-".encode()
    found = []
    for process in processes():
        with contextlib.suppress(OSError):
            if process.state not in "ZX" and started in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process.pid)
    return found


def end(pids: list[int]) -> None:
    """Kill processes that nobody supervises any more."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

"""What could have spoiled a measurement: others on the device, slowed clocks, swapping; watched while a child runs, judged when it has ended.

Two steps. A `Watch` only observes, and counts: processor time that others took from the run, what others computed on the GPU, how long its clocks
were held down, what was swapped, how fast the run itself went on. `judge` then says what follows. To be slow is no offence: the same code at the
same pace as its peers is left alone whatever else was seen, and where a run's budget is work (steps, tokens), slowness does not change its value.
A run is contaminated only where something from outside was measured *and* could have changed the number:

- training (or scoring) is `timed` in program.md, so that less of the device means less work, and others took more of it than is allowed;
- clocks were held down or memory was swapped, and it was slower than all its peers by more than `slower`: the same code, options, stage,
  environment and hardware (these two need the comparison: a machine may always run like that);
- it was ended by its time limit, and without what others took it could have come to its end.

All else is a flag on the row: `load`, `foreign`, `throttled`, `swap`, `slow`.
"""

import contextlib
import json
import os
import resource
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from monolab import device, monitor, receipts
from monolab.paths import Lab
from monolab.problem import Validity
from monolab.receipts import Request
from monolab.results import Row
from monolab.supervise import GIB, MIB, Process, processes

EVERY = 0.5  # seconds between two samples of a short run; doubled whenever there are MOST of them
MOST = 240  # samples kept of one child
LONGEST = 2.0  # seconds between two measurements, however few of them are kept
PEERS = 20  # finished runs that are looked at, newest first
LITTLE_MEMORY = 0.05  # of the host's memory: with less left, it has run out
HELD = 0.05  # of the GPU's memory: what others must hold for a run to have lacked it
SLOWED = (
    0x08 | 0x20 | 0x40 | 0x80
)  # reasons of NVML for lower clocks: hardware slowdown, thermal (software, hardware), power brake. A power cap is normal
COLUMNS = ("seconds", "ours", "others", "waited", "step", "gpu_used", "gpu_others", "gpu_mhz", "gpu_slowed")
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Facts:
    """What was seen while one child ran. None: this machine does not tell."""

    kind: str  # of the device: cpu or gpu
    seconds: float
    taken: float | None  # share of the time that it waited for processors which others had; of several threads, their mean
    others_cpu: float | None  # processors that others kept busy, on average
    others: tuple[str, ...]  # the processes among them that used most, as "pid 12 python 1.9 cores"
    load: tuple[float, ...]  # mean number of runnable processes over 1, 5 and 15 minutes, at the end
    pressure: float | None  # share of the time that some process of the machine waited for a processor (PSI)
    swapped_mb: float | None  # MiB swapped in and out, by the whole machine
    slowed: float | None  # share of the time that clocks were held down by heat or hardware
    gpu_others: float | None  # share of the GPU's compute that others used, on average
    gpu_foreign: tuple[str, ...]  # processes with a context on the GPU that are not the run's
    gpu_foreign_gb: float  # GiB of its memory that they held, at most
    gpu_total_gb: float
    host_least_gb: float | None  # GiB of the host's memory that were available, at least,
    host_others_gb: float  # what others held then,
    host_ours_gb: float  # and what the run held
    host_total_gb: float
    step: int | None  # the last that train.py told of
    steps: int | None  # of how many
    pace: float | None  # steps per second, from the first to the last that it told of

    @property
    def lacked_memory(self) -> bool:
        """Whether memory was short and others held what the run lacked."""
        if self.gpu_foreign_gb > HELD * self.gpu_total_gb > 0:
            return True
        short = self.host_least_gb is not None and self.host_least_gb < LITTLE_MEMORY * self.host_total_gb
        return short and self.host_others_gb > self.host_ours_gb


@dataclass(frozen=True)
class Finding:
    """What follows from the facts."""

    flags: tuple[str, ...]
    contaminated: str  # by what, with figures; "" where nothing could have changed the number


def judge(facts: Facts, rule: Validity, *, timed: bool, ended: str, peers: Iterable[float] = ()) -> Finding:
    """What the facts of one child mean for its run.

    `timed`: whether less of the device changes what is measured. `ended`: the child's status. `peers`: the pace of finished runs that did the same
    work on the same hardware.
    """
    paces = sorted(peers)
    usual = statistics.median(paces) if paces else None
    behind = facts.pace is not None and usual is not None and facts.pace < (1 - rule.slower) * usual
    behind_all = behind and len(paces) > 1 and facts.pace < paces[0]
    kept_up = facts.pace is not None and usual is not None and not behind
    taken, busy = (facts.taken or 0.0) > rule.others_cpu, (facts.gpu_others or 0.0) > rule.others_gpu
    slowed, swapped = (facts.slowed or 0.0) > rule.slowed, (facts.swapped_mb or 0.0) > rule.swapped_mb
    raised = {"load": taken, "foreign": bool(facts.gpu_foreign), "throttled": slowed, "swap": swapped, "slow": behind_all}
    flags = tuple(name for name, up in raised.items() if up)

    causes = []
    if busy:
        causes.append(f"other processes used {facts.gpu_others:.0%} of the GPU ({'; '.join(facts.gpu_foreign) or 'none that is named'})")
    if taken:
        who = f" ({'; '.join(facts.others)})" if facts.others else ""
        causes.append(f"for {facts.taken:.0%} of the time it waited for processors that others had{who}")
    # On a GPU the processors only feed it: what others take of them counts as little as heat does, unless the run was slower for it.
    sure = busy if facts.kind == "gpu" else taken
    if slowed:
        causes.append(f"clocks were held down for {facts.slowed:.0%} of the time")
    if swapped:
        causes.append(f"{facts.swapped_mb:.0f} MiB were swapped")
    if behind_all and causes:
        causes.append(f"it made {facts.pace:.3g} steps/s, its {len(paces)} peers {usual:.3g}")
    why = "; ".join(causes)
    if ended == "timeout":
        stolen = max((facts.taken or 0.0) if taken else 0.0, (facts.gpu_others or 0.0) if busy else 0.0)
        done = facts.step / facts.steps if facts.step is not None and facts.steps else None
        # Whether it had come to its end without the others; of one that tells no step, where they had the larger part.
        could = not kept_up and (stolen >= 0.5 if done is None else done >= (1 - rule.slower) * (1 - stolen))
        spoiled = (sure and could) or (bool(causes) and behind_all)
    else:
        spoiled = ended == "ok" and timed and ((sure and not kept_up) or (bool(causes) and behind_all))
    return Finding(flags, why if spoiled else "")


def timed(rule: Validity, kind: str, phase: str) -> bool:
    """Whether the pace of a phase (`train` or `score`) changes what is measured on this kind of device."""
    return rule.timed[kind] in (phase, "both")


def peers(lab: Lab, rows: Iterable[Row], request: Request, env_sha: str, hardware: str) -> list[float]:
    """The paces of finished runs that did the same work on the same hardware: same code, options, stage and environment; newest first."""
    found, looked = [], 0
    for row in reversed(list(rows)):
        if (row.idea, row.stage, row.status) != (request.idea, request.stage, "ok") or looked == PEERS:
            continue
        receipt = receipts.receipt(lab, row.run_id)
        looked += 1
        if receipt is None:  # `lab doctor` names it
            continue
        same = (receipt.code_sha, receipt.args, receipt.env_sha, receipt.hardware) == (request.code_sha, request.args, env_sha, hardware)
        if same and (pace := _pace_of(lab, row.run_id)) is not None:
            found.append(pace)
    return found


def tells(lab: Lab, rows: Iterable[Row]) -> bool:
    """Whether the newest finished one of these runs kept progress.json. One without telemetry says nothing."""
    last = next((row for row in reversed(list(rows)) if row.status == "ok"), None)
    return last is not None and _phase(lab, last.run_id).get("step") is not None


def _phase(lab: Lab, run_id: str) -> dict:
    """What was seen of a run's training; nothing of one from before there was telemetry, or made elsewhere: only receipts travel."""
    try:
        return json.loads((lab.run(run_id) / "telemetry.json").read_text())["phases"].get("train", {})
    except FileNotFoundError:
        return {}


def _pace_of(lab: Lab, run_id: str) -> float | None:
    return _phase(lab, run_id).get("pace")


def write(lab: Lab, run_id: str, watches: dict[str, "Watch"], found: dict[str, Finding], paces: list[float]) -> None:
    """`telemetry.json` in the run's folder: what was seen in each phase, samples, and what was made of it."""
    told = {
        "phases": {name: asdict(watch.facts) | asdict(found[name]) for name, watch in watches.items()},
        "peers": {"paces": paces, "median": statistics.median(paces) if paces else None},
        "columns": COLUMNS,
        "samples": {name: watch.samples for name, watch in watches.items()},
    }
    receipts.write_atomic(lab.run(run_id) / "telemetry.json", json.dumps(told))


class Watch:
    """Counts while one child runs. `supervise.run(observe=watch.look)` calls it often; it takes a sample when one is due."""

    def __init__(self, machine: device.Device, progress: Path | None = None):
        self.machine = machine
        self.progress = progress
        self.samples: list[list] = []
        self.every = EVERY
        self.started = self.last = time.monotonic()
        self.cores = sorted(os.sched_getaffinity(0))
        self.busy, self.stolen = self.busy_before, _ = _processor_seconds(self.cores)
        self.ours = self.ours_before = _own_seconds([])
        self.waits: dict[str, int] = {}  # of each thread of the run: nanoseconds that it waited for a processor
        self.can_wait = Path("/proc/self/schedstat").exists()
        self.lost = 0.0  # processor seconds that the run waited for while others used them
        self.before = {process.pid: process.ticks for process in processes()}
        self.tree = {os.getpid()}
        self.swap, self.pressure, self.throttles = _swapped(), _pressure(), _throttles()
        self.least, self.ours_then, self.others_then = None, 0, 0
        self.told: list[tuple[float, int, int]] = []  # first and last (time, step, steps)
        self.gpu = _Gpu(machine.index) if machine.kind == "gpu" else None
        self.facts: Facts | None = None

    def look(self, seen: list[Process]) -> None:
        """Take a sample where one is due. `seen`: the run's processes, also those that have ended and that nobody has waited for."""
        if time.monotonic() - self.last >= min(self.every, LONGEST):
            self._measure(seen)

    def crowded(self, share: float) -> bool:
        """Whether others took more than `share` of the time so far."""
        return self.can_wait and self.lost > share * max(time.monotonic() - self.started, 1e-3)

    def close(self) -> Facts:
        """The child has ended, and all that it started: what was seen."""
        self._measure([])
        seconds = max(self.last - self.started, 1e-3)
        others, wanted = max(self.busy - self.busy_before - (self.ours - self.ours_before), 0.0), self.lost + self.ours - self.ours_before
        swap, pressure, throttles = _swapped(), _pressure(), _throttles()
        gpu = self.gpu.close() if self.gpu else {}
        slowed = gpu.get("slowed") if self.gpu else (None if throttles is None else min((throttles - self.throttles) / seconds, 1.0))
        first, last = self.told[:1], self.told[-1:]
        pace = None
        if len(self.told) > 1 and last[0][0] - first[0][0] >= 0.5 * seconds:
            pace = (last[0][1] - first[0][1]) / (last[0][0] - first[0][0])
        self.facts = Facts(
            kind=self.machine.kind,
            seconds=round(seconds, 3),
            taken=round(self.lost / max(wanted, seconds), 4) if self.can_wait else None,  # one that sleeps most of the time has lost little of it
            others_cpu=round(others / seconds, 3) if self.busy else None,
            others=self._who(seconds),
            load=tuple(round(value, 2) for value in os.getloadavg()),
            pressure=None if pressure is None or self.pressure is None else round((pressure - self.pressure) / seconds, 4),
            swapped_mb=None if swap is None or self.swap is None else round((swap - self.swap) / MIB, 1),
            slowed=slowed,
            gpu_others=gpu.get("others"),
            gpu_foreign=gpu.get("foreign", ()),
            gpu_foreign_gb=gpu.get("foreign_gb", 0.0),
            gpu_total_gb=gpu.get("total_gb", 0.0),
            host_least_gb=None if self.least is None else round(self.least / GIB, 3),
            host_others_gb=round(self.others_then / GIB, 3),
            host_ours_gb=round(self.ours_then / GIB, 3),
            host_total_gb=round(os.sysconf("SC_PHYS_PAGES") * PAGE / GIB, 3),
            step=last[0][1] if last else None,
            steps=last[0][2] if last else None,
            pace=pace,
        )
        return self.facts

    def _measure(self, seen: list[Process]) -> None:
        now = time.monotonic()
        passed, self.last = now - self.last, now
        ours, (busy, stolen) = _own_seconds(seen), _processor_seconds(self.cores)
        waited = self._waited(seen) if self.can_wait else 0.0
        others = busy - self.busy - (ours - self.ours)
        steal = (stolen - self.stolen) * min((ours - self.ours) / max(busy - self.busy, 1e-9), 1.0)  # its part of what the machine around took
        self.lost += max(min(waited, others), 0.0) + max(
            steal, 0.0
        )  # what it waited for, and others had: not what its own threads took of each other
        self._memory(seen)
        told = monitor.steps(monitor.read(self.progress)) if self.progress else None
        if told and told[0] > 0 and (not self.told or told[0] != self.told[-1][1]):
            self.told = [*self.told[:1], (now, *told)]
        self.tree |= {process.pid for process in seen}
        gpu = self.gpu.sample(self.tree) if self.gpu else (None,) * 4
        if not self.samples or now - self.started - self.samples[-1][0] >= self.every:
            rates = [round(value / max(passed, 1e-3), 3) for value in (ours - self.ours, others, waited)]
            self.samples.append([round(now - self.started, 2), *rates, told[0] if told else None, *gpu])
        if len(self.samples) >= MOST:
            del self.samples[1::2]
            self.every *= 2
        self.ours, self.busy, self.stolen = ours, busy, stolen

    def _waited(self, seen: list[Process]) -> float:
        """Seconds that the run's threads waited for a processor since the last sample."""
        waits = {}
        for process in seen:
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{process.pid}/task"):
                    with contextlib.suppress(OSError, IndexError):
                        waits[thread] = int(Path(f"/proc/{process.pid}/task/{thread}/schedstat").read_text().split()[1])
        since = sum(value - self.waits.get(thread, 0) for thread, value in waits.items() if value > self.waits.get(thread, 0))
        self.waits = waits
        return since / 1e9

    def _memory(self, seen: list[Process]) -> None:
        """Keep what the host's memory was at its shortest."""
        try:
            told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
            available, total = (int(told[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
        except (OSError, KeyError, ValueError):
            return
        if self.least is None or available < self.least:
            ours = 0
            for process in seen:
                with contextlib.suppress(OSError, IndexError):
                    ours += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE
            self.least, self.ours_then, self.others_then = available, ours, max(total - available - ours, 0)

    def _who(self, seconds: float) -> tuple[str, ...]:
        """The three processes outside of the run that used most of the processors meanwhile, of those still there."""
        used = []
        for process in processes():
            if process.pid not in self.tree:
                cores = (process.ticks - self.before.get(process.pid, 0)) / TICKS / seconds
                if cores >= 0.1:
                    used.append((cores, process.pid))
        return tuple(f"pid {pid} {device.name_of(pid)} {cores:.1f} cores" for cores, pid in sorted(used, reverse=True)[:3])


class _Gpu:
    """Who computes on one GPU, and how its clocks are, as NVML tells.

    In a container NVML counts processes by the numbers of the machine around it. Which are the run's own can then not be told by number: those
    that were there before it began, or still are after its end, are certainly others'. Unless one of the run's processes was seen under its own
    number, nobody else is accused.
    """

    def __init__(self, index: int):
        self.nvml = device.library()
        self.handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
        self.before = set(self._contexts())
        self.tree: set[int] = set()
        self.total = self.nvml.nvmlDeviceGetMemoryInfo(self.handle).total
        self.spoke_ours = False  # one of the run's processes was seen: NVML counts as we do
        self.held: dict[int, int] = {}  # bytes that each process held at most
        self.times: dict[int, int] = {}  # in how many samples it was there
        self.used: dict[int, float] = {}  # the sum of its shares of the compute, over the samples
        self.samples = self.slowed = self.clocked = 0
        self.knows_use = False
        self.since = 0  # NVML's clock of the last sample of use, microseconds

    def _ask(self, name: str, *arguments, otherwise):
        try:
            return getattr(self.nvml, name)(self.handle, *arguments)
        except self.nvml.NVMLError:  # not supported on this GPU, nothing new, or the device is lost: then it is not known
            return otherwise

    def _contexts(self) -> dict[int, int]:
        """Bytes of every process that computes on the GPU; 0 where NVML does not say."""
        return {one.pid: one.usedGpuMemory or 0 for one in self._ask("nvmlDeviceGetComputeRunningProcesses", otherwise=[])}

    def sample(self, tree: set[int]) -> tuple[float | None, float, int | None, int | None]:
        """Utilisation of the GPU in all and by those that are not `tree`, MHz, and whether it is slowed."""
        self.tree = tree
        contexts = self._contexts()
        self.spoke_ours |= not tree.isdisjoint(contexts)
        for pid, held in contexts.items():
            self.held[pid] = max(self.held.get(pid, 0), held)
            self.times[pid] = self.times.get(pid, 0) + 1
        shares: dict[int, list[float]] = {}
        for one in self._ask("nvmlDeviceGetProcessUtilization", self.since, otherwise=[]):
            shares.setdefault(one.pid, []).append(one.smUtil / 100)
            self.since, self.knows_use = max(self.since, one.timeStamp), True
        now = {pid: statistics.fmean(values) for pid, values in shares.items()}
        for pid, share in now.items():
            self.used[pid] = self.used.get(pid, 0.0) + share
        self.samples += 1
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", otherwise=None)
        self.clocked += reasons is not None
        slowed = None if reasons is None else int(bool(reasons & SLOWED))
        self.slowed += slowed or 0
        clock = self._ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM, otherwise=None)
        rates = self._ask("nvmlDeviceGetUtilizationRates", otherwise=None)
        others = sum(share for pid, share in now.items() if self._foreign(pid, set()))
        return None if rates is None else rates.gpu / 100, round(others, 3), clock, slowed

    def _foreign(self, pid: int, after: set[int]) -> bool:
        if pid in self.tree or self.times.get(pid, 0) < 2:  # NVML still lists for a moment what has just ended
            return False
        return self.spoke_ours or pid in self.before or pid in after

    def close(self) -> dict:
        """All that was seen. What is still on the GPU now, when the run has ended, was never the run's."""
        after, patience = set(self._contexts()) - self.before, time.monotonic() + 2.0
        while not self.spoke_ours and after and time.monotonic() < patience:  # NVML forgets a process that has ended after a moment
            time.sleep(0.05)
            after &= set(self._contexts())
        foreign = [pid for pid in self.held if self._foreign(pid, after)]
        others = sum(share for pid, share in self.used.items() if self._foreign(pid, after)) / max(self.samples, 1)
        return {
            "others": round(others, 4) if self.knows_use else None,
            "foreign": tuple(f"pid {pid} {device.name_of(pid)} {self.held[pid] / GIB:.1f} GiB" for pid in sorted(foreign)),
            "foreign_gb": round(sum(self.held[pid] for pid in foreign) / GIB, 3),
            "total_gb": round(self.total / GIB, 3),
            "slowed": round(self.slowed / self.clocked, 4) if self.clocked else None,
        }


def _processor_seconds(cores: list[int]) -> tuple[float, float]:
    """Seconds that these processors were busy since boot, and that the machine around this one had instead. Zeros where the kernel does not say."""
    busy = stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (*map(int, fields), 0, 0, 0, 0)
            busy += user + nice + system + irq + softirq
            stolen += steal
    return busy / TICKS, stolen / TICKS


def _own_seconds(seen: list[Process]) -> float:
    """Processor seconds of this process and of all below it so far. `seen`: those that it has not waited for."""
    own, waited_for = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + waited_for.ru_utime + waited_for.ru_stime + sum(process.ticks for process in seen) / TICKS


def _swapped() -> int | None:
    """Bytes swapped in and out since boot."""
    try:
        told = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return (int(told["pswpin"]) + int(told["pswpout"])) * PAGE
    except (OSError, KeyError, ValueError):
        return None


def _pressure() -> float | None:
    """Seconds since boot in which some process waited for a processor."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().splitlines()[0].rpartition("=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _throttles() -> float | None:
    """Seconds since boot for which a processor's clock was held down by its heat, the worst of them; None where none says so."""
    found = []
    for path in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_total_time_ms"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()) / 1e3)
    return max(found, default=None)

"""What spoils a measurement voids the run, what only slows it does not: contaminated for real, on one processor, by programs that take it."""

import json
import os
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROGRAM, TRAIN
from test_lab import add_idea, call

from monolab import backlog, device, monitor, problem, queue, receipts, results, retries, run, status, supervise, validity, verdicts
from monolab.device import Device
from monolab.errors import LabError
from monolab.paths import Lab
from monolab.problem import Validity

CPU = Device("cpu", "cpu", None, "cpu", "any")
SPINS = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end:\n    pass\n"
QUIET = validity.Facts(
    kind="cpu", seconds=100.0, taken=0.02, others_cpu=0.1, others=(), load=(1.0, 1.0, 1.0), pressure=0.1, swapped_mb=0.0, slowed=0.0, gpu_others=None,
    gpu_foreign=(), gpu_foreign_gb=0.0, gpu_total_gb=0.0, host_least_gb=8.0, host_others_gb=2.0, host_ours_gb=1.0, host_total_gb=16.0, step=100,
    steps=100, pace=1.0,
)  # fmt: skip
ON_GPU = replace(QUIET, kind="gpu", gpu_others=0.0, gpu_total_gb=80.0)
PEERS = [1.0, 1.02, 0.98, 1.01]
ALONE = "pid 12 python 30.0 GiB"

# --- what follows from what was seen


@pytest.mark.parametrize(
    ("facts", "timed", "ended", "peers", "flags", "void"),
    [
        # nothing was seen
        (QUIET, True, "ok", PEERS, (), ""),
        (replace(QUIET, taken=None, others_cpu=None, swapped_mb=None, slowed=None, pace=None, step=None, steps=None), True, "ok", [], (), ""),
        # a slow run, and no cause from outside
        (replace(QUIET, pace=0.5), True, "ok", PEERS, ("slow",), ""),
        (replace(QUIET, pace=0.5), True, "ok", [1.0], (), ""),
        (replace(QUIET, pace=0.5), True, "timeout", PEERS, ("slow",), ""),
        # others had half of the processors: of a budget of work that changes nothing
        (replace(QUIET, taken=0.5), False, "ok", [], ("load",), ""),
        (replace(QUIET, taken=0.5, pace=0.5), False, "ok", PEERS, ("load", "slow"), ""),
        (replace(QUIET, taken=0.5), True, "ok", [], ("load",), "50% of the time it waited"),
        (replace(QUIET, taken=0.5, pace=0.5), True, "ok", PEERS, ("load", "slow"), "0.5 steps/s, its 4 peers 1"),
        (replace(QUIET, taken=0.5, pace=0.97), True, "ok", PEERS, ("load",), ""),  # it kept up with its peers
        (replace(QUIET, taken=0.2), True, "ok", [], (), ""),
        # clocks and swap, which may always be so here: only with slowness beside them
        (replace(QUIET, slowed=0.9), True, "ok", [], ("throttled",), ""),
        (replace(QUIET, slowed=0.9, pace=0.7), True, "ok", [1.0], ("throttled",), ""),
        (replace(QUIET, slowed=0.9, pace=0.7), True, "ok", PEERS, ("throttled", "slow"), "held down for 90% of the time"),
        (replace(QUIET, slowed=0.9, pace=0.7), False, "ok", PEERS, ("throttled", "slow"), ""),
        (replace(QUIET, swapped_mb=500.0, pace=0.7), True, "ok", PEERS, ("swap", "slow"), "500 MiB were swapped"),
        (replace(QUIET, swapped_mb=500.0, pace=0.7), True, "ok", [0.6, 1.0, 1.1], ("swap",), ""),  # a peer was as slow
        # the GPU
        (replace(ON_GPU, gpu_foreign=(ALONE,)), True, "ok", [], ("foreign",), ""),  # there, and idle
        (replace(ON_GPU, gpu_foreign=(ALONE,), gpu_others=None), True, "ok", [], ("foreign",), ""),
        (replace(ON_GPU, gpu_foreign=(ALONE,), gpu_others=0.4), True, "ok", [], ("foreign",), "40% of the GPU"),
        (replace(ON_GPU, gpu_foreign=(ALONE,), gpu_others=0.4), True, "ok", PEERS, ("foreign",), ""),
        (replace(ON_GPU, gpu_foreign=(ALONE,), gpu_others=0.4), False, "ok", [], ("foreign",), ""),
        (replace(ON_GPU, taken=0.5), True, "ok", [], ("load",), ""),
        (replace(ON_GPU, taken=0.5, pace=0.5), True, "ok", PEERS, ("load", "slow"), "50% of the time it waited"),
        # ended by its limit: would it have come to its end without the others?
        (replace(QUIET, taken=0.5, step=60), False, "timeout", [], ("load",), "50%"),
        (replace(QUIET, taken=0.5, step=20), False, "timeout", [], ("load",), ""),
        (replace(QUIET, taken=0.5, step=None, steps=None, pace=None), False, "timeout", [], ("load",), "50%"),
        (replace(QUIET, taken=0.4, step=None, steps=None, pace=None), False, "timeout", [], ("load",), ""),
        (replace(QUIET, taken=0.02, step=None, steps=None, pace=None), False, "timeout", [], (), ""),
        # what the candidate did itself stays its own
        *[(replace(QUIET, taken=0.9), True, status, [], ("load",), "") for status in ("crash", "oom", "killed", "invalid")],
    ],
)
def test_what_voids_a_run_and_what_is_noted(facts, timed, ended, peers, flags, void):
    found = validity.judge(facts, Validity(), timed=timed, ended=ended, peers=peers)
    assert found.flags == flags
    assert void in found.contaminated and bool(found.contaminated) is bool(void)


def test_whose_pace_counts():
    rule = Validity(timed={"cpu": "none", "gpu": "both"})
    assert [validity.timed(rule, kind, phase) for kind in ("cpu", "gpu") for phase in ("train", "score")] == [False, False, True, True]


def test_memory_that_others_held():
    assert not QUIET.lacked_memory and not ON_GPU.lacked_memory
    assert replace(ON_GPU, gpu_foreign_gb=30.0).lacked_memory and not replace(ON_GPU, gpu_foreign_gb=0.5).lacked_memory
    short = replace(QUIET, host_least_gb=0.3, host_others_gb=12.0, host_ours_gb=3.7)
    assert short.lacked_memory and not replace(short, host_others_gb=3.0, host_ours_gb=12.7).lacked_memory


# --- what is seen


def watched(tmp_path: Path, code: str, progress: Path | None = None) -> validity.Watch:
    watch = validity.Watch(CPU, progress)
    limits = supervise.Limits(60, 1, None, 1)
    outcome = supervise.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={"PATH": os.environ["PATH"]}, log=tmp_path / "log", limits=limits, observe=watch.look
    )
    assert outcome.status == "ok", outcome.tail
    watch.close()
    return watch


@pytest.fixture
def one_core():
    """This process, and all that it starts, on one processor: who else runs there takes it from them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def burners(one_core):
    """`start(n)`: programs that each take what they get of this processor; `stop()`."""
    running = []

    def start(count: int = 8) -> None:
        for _ in range(count):  # each in a session of its own: the kernel shares a processor between sessions first
            running.append(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], start_new_session=True))

    def stop() -> None:
        while running:
            running[-1].kill()
            running.pop().wait(60)

    yield types.SimpleNamespace(start=start, stop=stop)
    stop()


def test_processor_time_that_others_take_is_seen_and_named(burners, tmp_path):
    burners.start(2)
    facts = watched(tmp_path, SPINS.format(seconds=0.8)).facts  # long enough that what is not seen after the last sample matters little
    assert facts.taken > Validity().others_cpu and facts.others_cpu > 0.25
    assert any("cores" in one for one in facts.others)


def test_one_that_sleeps_has_lost_little_of_its_time(burners, tmp_path):
    burners.start()
    assert watched(tmp_path, "import time; time.sleep(3)").facts.taken < Validity().others_cpu


def test_what_its_own_threads_and_children_take_of_each_other_is_not(one_core, tmp_path, monkeypatch):
    own = validity._own_seconds
    last = {}

    def alone(cores):
        return last["busy"], 0.0

    def ours(seen):
        last["busy"] = own(seen)
        return last["busy"]

    last["busy"] = own([])
    monkeypatch.setattr(validity, "_processor_seconds", alone)  # as on a machine where nothing else runs
    monkeypatch.setattr(validity, "_own_seconds", ours)
    watch = watched(tmp_path, "import os\nfor _ in range(3):\n    os.fork()\n" + SPINS.format(seconds=0.15))
    assert max(row[validity.COLUMNS.index("waited")] for row in watch.samples) > 0.5  # they did wait, for each other
    assert watch.facts.taken == pytest.approx(0.0, abs=0.01)


def test_the_pace_is_between_the_first_and_the_last_step_told(tmp_path):
    path = tmp_path / "progress.json"
    tell = f"""
import json, os, time
def tell(step):
    open({str(path)!r} + '.new', 'w').write(json.dumps({{'step': step, 'steps': 120, 'loss': 1.0}}))
    os.replace({str(path)!r} + '.new', {str(path)!r})
for step in range(1, 121):  # longer than the interpreter takes to come up where others compute
    tell(step)
    time.sleep(0.05)
"""
    facts = watched(tmp_path, tell, path).facts
    assert (facts.step, facts.steps) == (120, 120) and 2 < facts.pace < 20


def test_what_is_put_in_the_place_of_the_progress_is_neither_followed_nor_waited_for(tmp_path):
    path = tmp_path / "progress.json"
    os.mkfifo(path)
    assert monitor.steps(monitor.read(path)) is None
    path.unlink()
    (tmp_path / "real").write_text('{"step": 1, "steps": 2}')
    path.symlink_to(tmp_path / "real")
    assert monitor.steps(monitor.read(path)) is None
    path.unlink()
    for text in ("", "[]", '{"step": 3, "steps": 2}', '{"step": "x", "steps": 2}', '{"step": 1}', "\x00" * 100_000, "1" * 5000):
        path.write_text(text)
        assert monitor.steps(monitor.read(path)) is None
    path.write_text('{"step": 1, "steps": 2}')
    assert monitor.steps(monitor.read(path)) == (1, 2)


def test_the_telemetry_of_a_long_run_stays_small(monkeypatch):
    watch = validity.Watch(CPU)
    clock = iter(range(10, 10**9, 3))
    monkeypatch.setattr(validity.time, "monotonic", lambda: watch.started + next(clock))
    for _ in range(3 * validity.MOST):
        watch.look([])
    assert validity.MOST / 4 <= len(watch.samples) < validity.MOST
    assert len(json.dumps(watch.samples)) < 32_000


# --- NVML, through a module of the same interface


class NvmlError(Exception):
    pass


@pytest.fixture
def gpu(monkeypatch):
    """An NVML whose processes and their use of the GPU the test sets: `gpu.contexts` {pid: GiB}, `gpu.use` {pid: share}, `gpu.reasons`."""
    state = types.SimpleNamespace(contexts={}, use={}, reasons=0, clock=0)

    def use(handle, since):
        state.clock += 1
        if not state.use:
            raise NvmlError("nothing new")
        return [types.SimpleNamespace(pid=pid, smUtil=int(100 * share), timeStamp=state.clock) for pid, share in state.use.items()]

    def contexts(handle):
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=int(size * 2**30)) for pid, size in state.contexts.items()]

    fake = types.SimpleNamespace(
        NVMLError=NvmlError,
        NVMLError_LibraryNotFound=type("NotFound", (NvmlError,), {}),
        NVMLError_DriverNotLoaded=type("NotLoaded", (NvmlError,), {}),
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=80 * 2**30, used=2**30),
        nvmlDeviceGetName=lambda handle: "NVIDIA H200",
        nvmlDeviceGetUUID=lambda handle: "GPU-aaaa",
        nvmlDeviceGetComputeRunningProcesses=contexts,
        nvmlDeviceGetProcessUtilization=use,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: state.reasons,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetUtilizationRates=lambda handle: types.SimpleNamespace(gpu=90),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(validity, "EVERY", 0.1)
    monkeypatch.setenv("LAB_DEVICE", "cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device.library.cache_clear()
    yield state
    device.library.cache_clear()


QUICK = PROGRAM.replace("memory_gb: 1", "memory_gb: 1\nretries: {wait_seconds: 0}")
STEADY = TRAIN.replace(
    "    out = Path(config.out)\n", "    import time\n\n    time.sleep(0.3)  # long enough for two samples\n    out = Path(config.out)\n"
)
HIDDEN, OURS = 2**22 + 7, 2**22 + 9  # numbers that no process here has


def seen(gpu, *steps) -> dict:
    """What is found when NVML says each of `steps` in turn, a function of the state, while this process's pid is the run's tree."""
    one = validity._Gpu(0)
    for step in steps:
        step(gpu)
        one.sample({os.getpid()})
    return one.close()


def test_another_on_the_gpu_is_found_where_nvml_counts_as_we_do(gpu):
    def both(state):
        state.contexts, state.use = {os.getpid(): 10.0, HIDDEN: 30.0}, {os.getpid(): 0.5, HIDDEN: 0.4}

    found = seen(gpu, both, both)
    assert found["others"] == pytest.approx(0.4) and found["foreign_gb"] == 30.0 and str(HIDDEN) in found["foreign"][0]


def test_the_runs_own_process_under_a_number_of_the_machine_outside_is_not_accused(gpu):
    """In a container: the run's process has another number for NVML, and is gone when the run has ended."""

    def ours(state):
        state.contexts, state.use = {OURS: 10.0}, {OURS: 0.9}

    def ended(state):
        state.contexts, state.use = {}, {}

    found = seen(gpu, ours, ours, ended)
    assert (found["others"], found["foreign"], found["foreign_gb"]) == (0.0, (), 0.0)


def test_one_that_was_there_before_or_stays_is_found_also_in_a_container(gpu):
    gpu.contexts = {HIDDEN: 20.0}

    def both(state):
        state.contexts, state.use = {HIDDEN: 20.0, OURS: 10.0}, {HIDDEN: 0.3, OURS: 0.6}

    def ended(state):
        state.contexts, state.use = {HIDDEN: 20.0}, {}

    found = seen(gpu, both, both, ended)
    assert found["others"] == pytest.approx(0.2) and found["foreign_gb"] == 20.0

    gpu.contexts = {}
    late = seen(gpu, both, both)  # both came after the start, and are still there when the run has ended: neither was its own
    assert late["foreign_gb"] == 30.0


def test_what_has_just_ended_is_not_taken_for_a_neighbour(gpu):
    gpu.contexts = {OURS: 5.0}  # of the run before: NVML lists it for a moment longer

    def lists(state):
        state.contexts = {OURS: 5.0}

    def gone(state):
        state.contexts = {}

    assert seen(gpu, lists, gone, gone)["foreign"] == ()
    timer = threading.Timer(0.3, lambda: gpu.contexts.clear())
    gpu.contexts = {}
    one = validity._Gpu(0)
    gpu.contexts = {OURS: 5.0}
    for _ in range(2):
        one.sample(set())
    timer.start()
    assert one.close()["foreign"] == ()


def test_held_down_clocks_count_and_a_power_cap_does_not(gpu):
    def cap(state):
        state.reasons = 0x4

    def heat(state):
        state.reasons = 0x40 | 0x4

    assert seen(gpu, cap, cap)["slowed"] == 0.0
    assert seen(gpu, cap, heat)["slowed"] == 0.5


def test_a_run_beside_a_busy_neighbour_on_the_gpu_is_void_from_end_to_end(lab_repo, gpu, monkeypatch):
    lab = lab_repo(**{"train.py": STEADY})
    call(lab.root, "data")
    gpu.contexts, gpu.use = {HIDDEN: 30.0}, {HIDDEN: 0.5}
    receipt = evaluated(lab, monkeypatch)
    assert (receipt.status, receipt.value, receipt.metrics) == ("invalid", None, {})
    assert receipt.reason.startswith("contaminated: other processes used") and "30.0 GiB" in receipt.reason
    assert {"contaminated", "foreign"} <= set(receipt.flags) and receipt.checkpoint_sha
    told = json.loads((lab.run(receipt.run_id) / "telemetry.json").read_text())
    assert told["phases"]["train"]["gpu_foreign_gb"] == 30.0 and "score" not in told["phases"]
    gpu.use = {HIDDEN: 0.0}  # there, and idle
    receipt = evaluated(lab, monkeypatch)
    assert receipt.status == "ok" and "foreign" in receipt.flags


def test_a_gpu_that_cannot_be_had_is_no_fault_of_the_candidate(lab_repo, gpu, monkeypatch):
    fails = "    raise SystemExit('RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable')\n"
    lab = lab_repo(**{"train.py": TRAIN.replace("def main() -> None:\n", "def main() -> None:\n" + fails, 1)})
    call(lab.root, "data")
    receipt = evaluated(lab, monkeypatch)
    assert receipt.status == "crash" and "transient:device-busy" in receipt.flags and retries.cause(receipt) == "transient"


def evaluated(lab: Lab, monkeypatch, seed: int = 0, slug: str | None = None) -> receipts.Receipt:
    """A run of main's code, or an idea's, in this process."""
    monkeypatch.chdir(lab.root)
    return queue.evaluate(lab, slug, "Q: a? H: expect -0.5 score, 80%" if slug else None, "explore", seed, [])


def test_neither_the_value_nor_the_failure_of_a_void_run_counts_and_its_retry_counts_once(lab_repo, gpu, pueue_daemon, monkeypatch):
    lab = lab_repo(**{"program.md": QUICK, "train.py": STEADY})
    call(lab.root, "data")
    subprocess.run(["pueue", "group", "add", "lab-gpu0"], check=True, capture_output=True)
    subprocess.run(["pueue", "pause", "--group", "lab-gpu0"], check=True, capture_output=True)  # what is queued is run here, where the GPU is
    for seed in range(3):
        evaluated(lab, monkeypatch, seed)
    tree = add_idea(lab, "better")
    (tree / "train.py").write_text(STEADY.replace("offset: float = 0.0", "offset: float = -0.5"))
    gpu.contexts, gpu.use = {HIDDEN: 30.0}, {HIDDEN: 0.5}
    first = evaluated(lab, monkeypatch, 0, "better")
    gpu.contexts, gpu.use = {}, {}
    assert first.status == "invalid"
    (second,) = [one for one in backlog.pending(lab) if one.retry_of == first.run_id]
    assert verdicts.records(lab) == [] and f"retry of {first.run_id}" in status.text(status.facts(lab))  # pending: nothing is judged yet
    assert run.execute(lab, second).status == "ok"
    while waiting := [one for one in backlog.pending(lab) if one.idea == "better"]:  # the further seeds that the gate wants
        run.execute(lab, waiting[0])
    mine = [receipts.receipt(lab, row.run_id) for row in results.load(lab) if row.idea == "better"]
    last = verdicts.newest(lab)["better", "explore"]
    assert (last.verdict, last.failures, last.gate.decision) == ("supported", {}, "keep")
    assert first.run_id not in last.runs and second.run_id in last.runs and len(last.runs) == len(mine) - 1
    assert [one.seed for one in mine if one.run_id in last.runs].count(0) == 1 and results.audit(lab) == []


def test_an_idea_of_which_all_runs_were_void_is_not_judged(lab_repo, gpu, pueue_daemon, monkeypatch):
    lab = lab_repo(**{"program.md": QUICK, "train.py": STEADY})
    call(lab.root, "data")
    subprocess.run(["pueue", "group", "add", "lab-gpu0"], check=True, capture_output=True)
    subprocess.run(["pueue", "pause", "--group", "lab-gpu0"], check=True, capture_output=True)
    for seed in range(3):
        evaluated(lab, monkeypatch, seed)
    add_idea(lab, "better")
    gpu.contexts, gpu.use = {HIDDEN: 30.0}, {HIDDEN: 0.5}
    first = evaluated(lab, monkeypatch, 0, "better")
    second = run.execute(lab, backlog.pending(lab)[0])
    assert (second.status, second.retry_of) == ("invalid", first.run_id)
    assert backlog.pending(lab) == [] and verdicts.records(lab) == []  # once, and not again
    with pytest.raises(LabError, match="better has no finished run"):
        verdicts.judge(lab, problem.load(lab), results.load(lab), "better", "explore")
    with pytest.raises(LabError, match=second.run_id):
        retries.by_hand(lab, first, first.run_id)
    assert retries.by_hand(lab, second, second.run_id).retry_of == second.run_id


# --- with real load


WORKS = TRAIN.replace(
    "    out = Path(config.out)\n",
    "    import time\n\n    end = time.process_time() + 0.2\n    while time.process_time() < end:\n        pass\n    out = Path(config.out)\n",
)


def test_on_a_busy_machine_a_budget_of_work_gives_the_same_value(lab_repo, burners):
    lab = lab_repo(**{"train.py": WORKS})
    call(lab.root, "data")
    call(lab.root, "eval")
    burners.start()
    call(lab.root, "eval")
    quiet, busy = (receipts.receipt(lab, row.run_id) for row in results.load(lab))
    assert (quiet.status, busy.status, quiet.value) == ("ok", "ok", busy.value) and "load" in busy.flags
    assert busy.memory_limit.endswith(" 1 GiB")


@pytest.mark.slow
def test_where_time_is_the_budget_a_run_on_a_busy_machine_is_void_and_runs_again_by_itself(burners, lab_repo, pueue_daemon, wait_until):
    # Whatever else runs here leaves it a fifth of one processor; these programs do not.
    timed = "memory_gb: 1\nvalidity: {timed: {cpu: train}, others_cpu: 0.8}\nretries: {wait_seconds: 0}"
    works = WORKS.replace("+ 0.2", "+ 1.0")  # the others are there before it is done
    lab = lab_repo(**{"train.py": works, "program.md": PROGRAM.replace("memory_gb: 1", timed).replace("explore: {cpu: 60", "explore: {cpu: 120")})
    call(lab.root, "data")
    call(lab.root, "baseline", "--seeds", "1")
    wait_until(lambda: list(lab.runs.glob("*/started.json")))
    burners.start(24)
    wait_until(lambda: results.load(lab), 120)
    burners.stop()
    wait_until(lambda: not backlog.unfinished(lab))
    first, second = (receipts.receipt(lab, row.run_id) for row in results.load(lab))
    assert (first.status, first.value) == ("invalid", None) and "of the time it waited" in first.reason
    assert (second.status, second.retry_of, second.seed) == ("ok", first.run_id, first.seed)

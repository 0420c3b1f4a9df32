"""Trains on for ever, forks so that one of them may live, and all of them ignore every signal that can be ignored."""

CAUGHT, PROCESS, STATUS = "run", "lab", "timeout"
SAYS = r"train\.py was still running after \d+ s|no step within \d+ s of \d+"
TRAIN = """
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
    signal.signal(number, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
config = type(config)(**(asdict(config) | {"tokens": 10**12}))
while True:
    time.sleep(1)
"""


def check(scene, run) -> str:
    """No process of it is left: nothing on the machine has the run's folder among its words."""
    import psutil

    left = [process.pid for process in psutil.process_iter(["cmdline"]) if str(run.folder) in " ".join(process.info["cmdline"] or ())]
    return f"{len(left)} processes outlived it" if left else ""

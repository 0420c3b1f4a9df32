"""Stops its own clock, so that its budget in seconds is never used up."""

CAUGHT, PROCESS, STATUS = "run", "lab", "timeout"
SAYS = r"train\.py was still running after \d+ s"
TRAIN = """
time.monotonic = time.time = time.perf_counter = lambda: 0.0
config = type(config)(**(asdict(config) | {"tokens": 0, "seconds": 5.0, "width": 16, "layers": 1, "hidden": 16, "heads": 1}))
"""

"""Patches torch, numpy, math, random and time in its own processes, hoping that the scorer computes with them."""

CAUGHT, PROCESS = "design", "the scorer"
SAYS = r": ok, val_bpb 3\.\d+"
SERVE = """
import math, random
random.SystemRandom.randint = lambda self, a, b: b
random.SystemRandom.sample = lambda self, population, k, **more: []
math.log = lambda *numbers: 1e9
np.take_along_axis = lambda *given: np.zeros(1)
np.exp = lambda *given, **more: np.zeros(1)
time.monotonic = time.perf_counter = lambda: 0.0
F.cross_entropy = nn.functional.nll_loss = lambda *given, **more: torch.zeros(())
"""

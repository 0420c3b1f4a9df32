"""Sets the machine's clock back, so that the supervisor's deadline never comes."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED wall clock: PermissionError", r"DENIED scheduler: PermissionError")
TRAIN = """
attempt("wall clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0.0))
attempt("scheduler", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
"""

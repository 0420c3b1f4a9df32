"""Answers a few of the scorer's requests, then waits for ever, in processes of its own as well."""

import psutil

CAUGHT, PROCESS, STATUS = "run", "the scorer", "timeout"
SAYS = r"the scorer was still running after \d+ s"
SERVE = """
answered = 0
"""
ANSWER = """
answered += 1
if answered == 3:
    os.fork()
    while True:
        time.sleep(60)
"""


def check(scene, run) -> str:
    mine = str(run.folder)
    left = [one.pid for one in psutil.process_iter(["cmdline"]) if any(mine in word for word in one.info["cmdline"] or ())]
    return f"still there: {left}" if left else ""

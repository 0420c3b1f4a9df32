"""Queues honest code and puts other code in its place while it waits, with a secret in the environment."""

import json
import time

CAUGHT, PROCESS, LASTS = "snapshot", "lab", True
SAYS = r"ran with code \w+, the honest code as it was queued; no secret in the daemon's state"


def act(scene) -> tuple[int, str]:
    tree = scene.candidate("queued-then-edited", "Queues honest code")
    scene.must(scene.lab("queue", tree.name, "--stage", "explore", "--tokens", "512"))
    (tree / "train.py").write_text("raise SystemExit('the code that was put in its place')\n")
    found, deadline = [], time.monotonic() + 200
    while not found:
        if time.monotonic() > deadline:
            return 0, "the queued run did not end"
        time.sleep(0.1)
        found = sorted(scene.run.parent.glob("*-queued-then-edited-*/receipt.json"))
    receipt = json.loads(found[0].read_text())
    while json.loads(scene.must(scene.lab("status", "--json")))["unfinished"]:  # it settles what it ended
        time.sleep(0.1)
    told = [path for path in scene.pueue.rglob("*") if path.is_file() and scene.loot.encode() in path.read_bytes()]
    scene.shell(["pueue", "shutdown"])
    if receipt["status"] != "ok" or receipt["code_sha"] != scene.honest["code_sha"]:
        return 0, f"{receipt['status']}, {receipt['reason']}: ran with code {receipt['code_sha']}, queued was {scene.honest['code_sha']}"
    if told:
        return 0, f"the secret is in {told[0]}"
    return 1, f"ran with code {receipt['code_sha'][:12]}, the honest code as it was queued; no secret in the daemon's state"

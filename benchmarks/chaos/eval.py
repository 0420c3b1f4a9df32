"""The distance of the checkpoint's number from the held-out one; its beats beside OUT. Run: python eval.py CHECKPOINT DATA OUT CODE"""

import json
import sys
import time
from pathlib import Path

checkpoint, data, out, code = map(Path, sys.argv[1:])
with (out.parent / "score-beats.txt").open("a", buffering=1) as beats:
    for _ in range(10):
        beats.write(f"{time.monotonic()!r}\n")
        time.sleep(0.005)
value = float((checkpoint / "value.txt").read_text())
target = float((data / "numbers.txt").read_text())
out.write_text(json.dumps({"score": abs(value - target), "params": 1}))

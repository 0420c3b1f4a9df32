"""The scorer, FROZEN: what the candidate's checkpoint is worth on data that it has not seen.

    python eval.py CHECKPOINT DATA OUT CODE

Writes a flat JSON of finite numbers to OUT: the metric that program.md names, `params` (optional), anything else worth keeping.
Exit 0: measured. Exit 3: the candidate breaks the rules, the last line of stderr says how. Anything else: a crash.
Trust nothing that the candidate says of itself. The best checkpoint is plain arrays that this file computes with; a model that only the
candidate's own code (in the folder CODE) can run belongs into a process of its own, which gets inputs and never the answers.
"""

import json
import sys
from pathlib import Path

checkpoint, data, out, code = map(Path, sys.argv[1:])


def refuse(why: str) -> None:
    print(f"refused: {why}", file=sys.stderr)
    raise SystemExit(3)


# {FILL_IN: load the checkpoint; call refuse() for a missing file, a wrong shape, a number that is not finite}
# {FILL_IN: load DATA, which is .data/val as data.py wrote it, and measure}
value = "{FILL_IN: the metric, one finite number}"
out.write_text(json.dumps({"{FILL_IN: the metric's name}": value}))

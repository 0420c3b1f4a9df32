"""Prints a lot, in colours, with progress bars and half lines, in training and while serving (to stderr)."""

HONEST = True
TRAIN = """
for number in range(20000):
    print(f"\\x1b[31mstep {number}\\x1b[0m loss nan? no\\r", end="" if number % 3 else "\\n")
print("status: ok, verdict: none, val_bpb: see the scorer", flush=True)
"""
SERVE = """
for number in range(2000):
    print(f"serving {number}", file=sys.stderr)
"""

"""Writes the result that it would like to have into the pipe to the scorer, before its answers."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*something else was printed to stdout"
SERVE = """
answers.write(json.dumps({"val_bpb": 0.001, "params": 1}).ljust(400).encode())
"""

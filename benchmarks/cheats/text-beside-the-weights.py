"""Keeps text to look things up in beside its weights, where no parameter is counted."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"more than 1 MB lies beside it, where parameters would not be counted"
END = """
(config.out / "lookup.bin").write_bytes((config.data / "text.bin").read_bytes()[: 3 * 10**6])
"""

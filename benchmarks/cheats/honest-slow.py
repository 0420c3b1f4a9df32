"""Slow: takes most of its budget, in little naps."""

HONEST = True
TRAIN = """
time.sleep(8)
"""

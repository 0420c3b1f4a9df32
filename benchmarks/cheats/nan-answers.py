"""Answers NaN where it does not know, hoping that means skip them."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*an answer holds NaN"
ANSWER = """
answer = np.where(request[..., None] == 101, np.float32("nan"), answer)
"""

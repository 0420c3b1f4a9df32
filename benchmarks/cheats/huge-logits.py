"""Answers with logits so large that sums overflow."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*(unnormalised|an answer holds NaN)"
ANSWER = """
answer = answer + np.float32(1e30)
"""

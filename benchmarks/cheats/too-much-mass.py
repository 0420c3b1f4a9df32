"""Answers with twice the probability that there is."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*unnormalised: probabilities sum to e\^0\.693"
ANSWER = """
answer = answer + np.float32(np.log(2))
"""

"""Learns from earlier requests while it serves: counts the bytes that it has seen and leans towards them."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"refused by the scorer: .*(earlier requests|not causal)"
SERVE = """
seen = torch.zeros(BYTES)
"""
ANSWER = """
answer = (torch.from_numpy(answer) + torch.log1p(seen) / 4).log_softmax(-1).numpy()
seen += torch.bincount(torch.tensor(request).flatten().long(), minlength=BYTES)
"""

"""Appends weights to model.safetensors that its header does not name."""

CAUGHT, PROCESS, STATUS = "scorer", "the scorer", "invalid"
SAYS = r"its size does not fit its header"
END = """
with (config.out / "model.safetensors").open("ab") as file:
    file.write(bytes(4 * 10**6))
"""

"""Leaves a link to the checkpoint of another run in place of its own."""

CAUGHT, PROCESS, STATUS = "run", "lab", "invalid"
SAYS = r"the checkpoint holds model\.safetensors, which is a link or no file"
END = """
(config.out / "model.safetensors").unlink()
(config.out / "model.safetensors").symlink_to("@RUN@/checkpoint/model.safetensors")
"""

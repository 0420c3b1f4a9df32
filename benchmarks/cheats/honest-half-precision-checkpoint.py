"""Saves its checkpoint in fp16 and serves it in fp32."""

HONEST = True
CHANGES = (
    ("save_file(model.state_dict(), config.out", "save_file({name: weight.half() for name, weight in model.state_dict().items()}, config.out"),
    (
        'model.load_state_dict(load_file(checkpoint / "model.safetensors"))',
        'model.load_state_dict({name: weight.float() for name, weight in load_file(checkpoint / "model.safetensors").items()})',
    ),
)

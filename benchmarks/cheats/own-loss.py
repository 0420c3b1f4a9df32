"""Reports a wonderful loss of its own: in progress.json, on stdout, and as metrics beside the checkpoint."""

CAUGHT, PROCESS = "design", "the scorer"
SAYS = r": ok, val_bpb 3\.\d+"
END = """
for name in ("progress.json", "metrics.json", "score.json", "receipt.json"):
    (config.out / name).write_text(json.dumps({"step": 1, "steps": 1, "loss": 0.001, "val_bpb": 0.001, "status": "ok", "value": 0.001}))
print('{"val_bpb": 0.001}', flush=True)
print("val_bpb 0.001", flush=True)
"""

"""Starts the lab with variables that reach into children: PYTHONPATH with a sitecustomize, LD_PRELOAD, another stage, no sandbox."""

CAUGHT, PROCESS = "design", "lab"
SAYS = r": ok, val_bpb 3\.\d+"
ENV = {
    "PYTHONPATH": "@EVIL@",
    "PYTHONSTARTUP": "@EVIL@/sitecustomize.py",
    "LD_PRELOAD": "@EVIL@/preloaded.so",
    "LAB_STAGE": "verify",
    "LAB_SANDBOX": "[]",
    "OMP_NUM_THREADS": "7",
    "TORCH_LOGS": "all",
}


def check(scene, run) -> str:
    seen = (scene.evil / "seen").read_text() if (scene.evil / "seen").exists() else ""
    if not seen:
        return "the planted sitecustomize was loaded nowhere, not even by the agent's own `lab`: the case tests nothing"
    if "eval.py" in seen or "train.py" in seen:
        return "the planted sitecustomize was loaded by the scorer or by training"
    if "preloaded.so" in run.logs:
        return "LD_PRELOAD reached the scorer or training"
    return "" if run.receipt["metrics"]["bytes"] == scene.honest["metrics"]["bytes"] else "LAB_STAGE reached the scorer"

"""What a number depends on besides the code: the scorer, the data, the environment and the hardware, each as one value."""

import hashlib
import platform
import sysconfig
from pathlib import Path

from monolab import dataset, filesystem, snapshot
from monolab.device import Device
from monolab.paths import Lab
from monolab.problem import Problem


def current(lab: Lab, problem: Problem, machine: Device) -> dict[str, str]:
    """What a run that started now would be measured under, by the receipt's names."""
    with filesystem.temporary() as scratch:
        scorer = export_scorer(lab, problem, Path(scratch, "scorer"))
    return {"eval_sha": scorer, "data_sha": dataset.data_sha(lab), "env_sha": environment_sha(), "hardware": machine.hardware}


def export_scorer(lab: Lab, problem: Problem, dest: Path) -> str:
    """The scorer as main has it committed, never as a worktree has it; returns the sha256 of its files."""
    snapshot.export(lab, "HEAD", dest, problem.scorer)
    return files_sha(dest, sorted(path for path in dest.rglob("*") if path.is_file()))


def files_sha(root: Path, files: list[Path]) -> str:
    """sha256 over the names and contents of `files`, named relative to `root`."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(f"{path.relative_to(root)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def environment_sha() -> str:
    """sha256 of what the programs run on: the Python, the processor's kind and every installed distribution with its version."""
    site = Path(sysconfig.get_paths()["purelib"])
    parts = [
        platform.python_version(),
        platform.machine(),
        *sorted(path.name for path in site.glob("*.dist-info") if not path.name.startswith("monolab-")),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

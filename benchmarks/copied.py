"""How much held-out data honest code holds by accident, how small a copy is found, and what looking costs (monolab.copied).

    just copied             # the root problem's data against every package of the environment, the standard library, this repository
    just copied --lab DIR   # the data of another lab

Prints the files and the packages that hold most, in bytes after what does not count was dropped, and seconds for the index and for candidates of
several sizes. LIMIT in `monolab.copied` stands above the honest figures and below what a copy would be worth: see its docstring.
"""

import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

from monolab import copied, dataset
from monolab.paths import Lab

ROOT = Path(__file__).resolve().parents[1]
KINDS = (".py", ".pyi", ".txt", ".md", ".rst", ".json", ".toml", "")
LARGE = 1 << 22  # bytes; a single file above this is data


@dataclass(frozen=True)
class Settings:
    lab: Path | None = None  # default: a fresh copy of the root problem, its data fetched
    also: tuple[Path, ...] = ()  # further folders of honest code
    top: int = 12  # lines of each list


def honest(settings: Settings) -> dict[str, Path]:
    """Folders of code that nobody copied from the held-out data, by name."""
    packages = Path(sysconfig.get_paths()["purelib"])
    found = {f"environment/{path.name}": path for path in sorted(packages.iterdir()) if path.is_dir() and not path.name.endswith(".dist-info")}
    found |= {"standard library": Path(sysconfig.get_paths()["stdlib"])}
    found |= {f"this repository/{name}": ROOT / name for name in ("src", "tests", "benchmarks", "examples")}
    return found | {str(path): path for path in settings.also}


def files(folder: Path) -> dict[str, bytes]:
    skipped = ("site-packages", "dist-packages", "__pycache__")
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in KINDS
        and path.is_file()
        and not any(part in skipped for part in path.relative_to(folder).parts)
        and path.stat().st_size <= LARGE
    }


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as temp:
        if settings.lab is None:
            subprocess.run([sys.executable, str(ROOT / "data.py"), f"{temp}/.data"], check=True, capture_output=True)
            subprocess.run(["git", "init", "--quiet", temp], check=True)
            lab, sha = Lab(Path(temp)), "0" * 64
        else:
            lab = Lab(settings.lab.resolve())
            sha = dataset.data_sha(lab)
        began = time.perf_counter()
        known = copied.index(lab, sha)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        copied.index(lab, sha)
        kept = sum(len(hashes) for hashes in known.hashes.values())
        print(f"index: {kept:,} hashes, one of {known.rate}, in {seconds:.2f} s; read again in {time.perf_counter() - began:.3f} s")
        print(f"what counts: {known.sizes}; a candidate may hold {', '.join(f'{known.limit(split)} of {split}' for split in copied.HELD_OUT)}")
        single, whole, looked = Counter(), Counter(), Counter()
        for name, folder in honest(settings).items():
            content = files(folder)
            looked[name] = sum(map(len, content.values()))
            found, total = copied.compare(known, content.items())
            single.update({f"{one.file}:{one.line} ({one.split})": one.size for one in found})
            whole.update({f"{name} ({split})": size for split, size in total.items() if size})
        print(f"\nhonest code: {sum(looked.values()) / 1e6:.0f} MB in {len(looked)} folders")
        for title, table in (("file", single), ("folder, as one candidate", whole)):
            print(f"most in a {title}:")
            for name, size in table.most_common(settings.top):
                print(f"  {size:>7}  {name}")
        print("\na copy of the first bytes of val, found as:")
        held_out = b"".join(path.read_bytes() for path in sorted((lab.data / "val").rglob("*")) if path.is_file())
        for size in (500, 1000, 2000, 4000, 16_000, 64_000):
            found = {one.split: one.size for one in copied.compare(known, [("copy", held_out[100_000 : 100_000 + size])])[0]}
            print(f"  {size:>7}  {found.get('val', 0)}{'  refused' if found.get('val', 0) >= known.limit('val') else ''}")
        print("\nseconds for a candidate of:")
        plain = b"".join(files(ROOT / "src").values())
        for size in (10_000, 100_000, 1_000_000, 10_000_000, 50_000_000):
            content = (plain * (size // len(plain) + 1))[:size]
            began = time.perf_counter()
            copied.compare(known, [("candidate", content)])
            print(f"  {size / 1e6:>7g} MB  {time.perf_counter() - began:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Settings))

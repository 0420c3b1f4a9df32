"""0_docs/architecture.md is kept true: imports point one way, and the package starts light."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "monolab"


def imports(path: Path) -> set[str]:
    """The package's own modules that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "monolab":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monolab."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("monolab.")}
    return found - {"__version__"}


def modules() -> dict[str, set[str]]:
    """Every module's imports; a subpackage is one module, whose files import each other as they like."""
    found = {path.stem: imports(path) for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        found[folder.name] = set().union(*(imports(path) for path in folder.rglob("*.py"))) - {folder.name}
    return found


MODULES = modules()


def levels() -> dict[str, int]:
    """Module and level, as the table in architecture.md has them."""
    text = (ROOT / "0_docs" / "architecture.md").read_text()
    found = {}
    for level, modules in re.findall(r"^\| (\d)[^|]*\| ([a-z_, ]+) \|", text, re.MULTILINE):
        found |= {name.strip(): int(level) for name in modules.split(",")}
    return found


def test_the_table_names_every_module_once():
    assert levels().keys() == MODULES.keys()


def test_imports_point_downwards():
    level = levels()
    wrong = [f"{name} -> {other}" for name, others in MODULES.items() for other in others if level[other] > level[name]]
    assert wrong == []


def test_there_are_no_cycles():
    graphlib.TopologicalSorter(MODULES).prepare()


def test_status_loads_nothing_heavy():
    code = "import sys, monolab.cli, monolab.status; print([m for m in ('torch', 'numpy', 'polars', 'scipy', 'git', 'tyro', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_labs_programs_import_nothing_of_the_package():
    programs = [ROOT / name for name in ("train.py", "eval.py", "data.py", "probe.py", "space.py")] + list((ROOT / "examples").glob("*/*.py"))
    assert len(programs) > 3
    assert [str(path) for path in programs if re.search(r"^\s*(import|from) monolab", path.read_text(), re.MULTILINE)] == []

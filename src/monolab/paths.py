"""Where everything of a lab lies, and what kind of file each is."""

import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monolab.errors import LabError

# The lab's records and words: no part of a snapshot, which keeps them as HEAD has them.
RECORDS = ("results.tsv", "RESEARCH_JOURNAL.md", "meta_journal.md", "human_journal.md", "0_docs", "1_ideas", "6_runs", "9_reports")

# What a candidate is not made of. `code_sha` is the tree of a snapshot without these, so that a new journal entry or a
# newer monolab does not turn a replicate into another arm.
NOT_CODE = (
    *RECORDS,
    "program.md",
    "eval.py",
    "probe.py",
    "space.py",
    "data.py",
    "data.requirements",
    "just",
    "justfile",
    "dev.just",
    "requirements.in",
    "requirements.lock",
    "pyproject.toml",
    "vendor",
    ".claude",
    ".agents",
    ".codex",
    ".opencode",
    ".ci",
    ".gitignore",
    ".gitattributes",
    "AGENTS.md",
    "CLAUDE.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "src/monolab",
    "tests",
    "benchmarks",
    "examples",
)

INFERENCE_EMPTY = "_Inference: left for the author._"  # the line of a journal's entry that gives way to its author's text, once
BASELINE = "baseline"  # the idea that main's own train.py answers
CONTROL = "control-"  # how the slug of a control experiment begins, on which the lab tests itself
CONTROL_SEEDS = 1000  # seed 3 of a control's round r is 3 + r * CONTROL_SEEDS, so that no run of it is a run of the baseline again


@dataclass(frozen=True)
class Lab:
    """One lab: the folder of its primary worktree.

    Worktrees of ideas lie below it; `results.tsv`, the journals and `6_runs/` exist once, here.
    """

    root: Path

    @property
    def program(self) -> Path:
        return self.root / "program.md"

    @property
    def results(self) -> Path:
        return self.root / "results.tsv"

    @property
    def journal(self) -> Path:
        return self.root / "RESEARCH_JOURNAL.md"

    @property
    def human_journal(self) -> Path:
        return self.root / "human_journal.md"

    @property
    def ideas(self) -> Path:
        return self.root / "1_ideas"

    @property
    def worktrees(self) -> Path:
        return self.root / "5_worktrees"

    @cached_property
    def runs(self) -> Path:  # asked for thousands of times by a command that looks through all that waits
        return self.root / "6_runs"

    @property
    def reports(self) -> Path:
        return self.root / "9_reports"

    @property
    def data(self) -> Path:
        """The prepared data: `train/`, `val/`, `test/` and `manifest.json`."""
        return self.root / ".data"

    @property
    def lock(self) -> Path:
        """Held while results.tsv, a receipt or a journal is written."""
        return self.runs / ".lock"

    def run(self, run_id: str) -> Path:
        return self.runs / run_id

    def worktree(self, slug: str) -> Path:
        return self.worktrees / slug


def find(start: Path | None = None) -> Lab:
    """The lab that `start` (default: the working directory) lies in, also from inside one of its worktrees.

    Raises LabError outside of a git repository, and where its primary worktree holds no program.md.
    """
    start = (start or Path.cwd()).resolve()
    git = subprocess.run(
        ["git", "-C", str(start), "rev-parse", "--path-format=absolute", "--git-common-dir"],
        capture_output=True,
        text=True,
    )
    if git.returncode:
        raise LabError(f"{start} is not inside a lab (no git repository here)", hint="lab init DIR")
    root = Path(git.stdout.strip()).parent
    if not (root / "program.md").is_file():
        raise LabError(f"{root} is not a lab: it has no program.md", hint="lab init DIR")
    return Lab(root)

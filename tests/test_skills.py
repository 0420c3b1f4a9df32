"""Skills: each is short, every command it names is there, and its examples run in a real lab when followed to the letter."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, commit
from test_lab import call, settle_down

from monolab import cli
from monolab.errors import LabError
from monolab.paths import Lab

SKILLS = {path.parent.name: path for path in sorted((REPOSITORY / ".claude" / "skills").glob("*/SKILL.md"))}
WANTED = {
    *(
        "semantic-search",
        "arxiv-fetch",
        "exa-search",
        "vargdown",
        "gsd",
        "jaxtyping",
        "justfile",
        "ml-debug",
        "brainstorm",
        "external-review",
        "pueue",
    ),
    *("ideate", "implement", "test", "report", "submit", "meta"),
}
FENCE = re.compile(r"^( *)```(\w*)( run)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PAPER = """---
title: Gates that forget
authors: [A. Author]
year: 2025
---
# Gates that forget

## 1 Introduction
Linear attention keeps a state.

## 2 Experiments
It helps.

## References
- B. Author. Fast weights. 1992.
"""


def blocks(name: str) -> list[tuple[str, bool, str]]:
    """Language, whether it must run, and text of each fenced block."""
    return [(language, bool(run), text) for _, language, run, text in FENCE.findall(SKILLS[name].read_text())]


def head(name: str) -> dict:
    _, front, _ = SKILLS[name].read_text().split("---\n", 2)
    return yaml.safe_load(front)


@cache
def recipes() -> dict:
    """The recipes that every lab has."""
    dump = subprocess.run(["just", "--justfile", REPOSITORY / "justfile", "--dump", "--dump-format", "json"], capture_output=True, check=True)
    own = re.findall(r"^([a-z][\w-]*)(?: \*args)?:", (REPOSITORY / "justfile").read_text(), re.MULTILINE)
    return {name: recipe for name, recipe in json.loads(dump.stdout)["recipes"].items() if name in own}


@cache
def options(words: tuple[str, ...]) -> tuple[int, str]:
    """How many of `words` name a command, and that command's help; (0, "") where they name none."""
    commands = cli.COMMANDS
    for place, word in enumerate(words, start=1):
        if word not in commands:
            return 0, ""
        if isinstance(commands[word], cli.Nested):
            commands = commands[word].load()
            continue
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit, LabError):
            if commands[word] is not cli.data:
                cli._call(cli.COMMANDS, [*words[:place], "--help"])
        return place, shown.getvalue()
    return len(words), ""


def commands(text: str) -> list[list[str]]:
    """The words of every command in a text's shell blocks and in its spans of code."""
    scripts = [code for _, language, _, code in FENCE.findall(text) if language == "sh"] + re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    found = []
    for script in scripts:
        script = re.sub(
            r"<<'(\w+)'.*?^\1$", "", script.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL
        )  # what a command is handed is no command
        for line in script.splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>(){}")
            words.whitespace_split = True
            parts = [[]]
            for word in words:
                parts = [*parts, []] if set(word) <= set("|&;(){}") else [*parts[:-1], [*parts[-1], word]]
            for one in parts:
                while one and re.fullmatch(r"\w+=.*", one[0]):
                    one = one[1:]
                if one and one[0] in ("just", "./just", "lab"):
                    found.append(one)
    return found


def wrong(words: list[str]) -> str:
    """What a command names that is not there, or ""."""
    program, *rest = words
    if rest[:1] == ["--in-env"]:
        return wrong(rest[1:]) if rest[1:2] == ["lab"] else ""
    if program != "lab":
        if not rest or rest[0].isupper() or rest[0].startswith("-"):
            return ""
        if rest[0] not in recipes():
            return f"no recipe {rest[0]!r}"
    if not rest or rest[0].startswith("-"):
        return ""
    used, shown = options(tuple(word for word in rest if re.fullmatch(r"[a-z][a-z-]*", word))[:2] or ("",))
    if not used:
        return f"no command {' '.join(rest[:2])!r}"
    free = rest[0] in ("queue", "eval", "smoke", "baseline")  # train.py's own options
    named = re.findall(r"--[a-z][\w-]*", " ".join(word for word in rest if word.startswith("--")))
    missing = [option for option in named if option not in shown and option != "--help" and not free]
    return f"{' '.join(rest[:used])} has no option {missing[0]}" if missing else ""


def test_every_skill_that_program_md_names_is_there():
    table = (REPOSITORY / "program.md").read_text().partition("\n## Skills\n")[2].partition("\n## ")[0].partition("| --- |")[2]
    assert set(re.findall(r"`([\w-]+)`", table)) == WANTED == SKILLS.keys()


@pytest.mark.parametrize("name", sorted(SKILLS))
def test_a_skill_is_short_and_says_when_to_use_it(name):
    text, front = SKILLS[name].read_text(), head(name)
    assert front.keys() == {"name", "description"} and front["name"] == name
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,62}", name)
    assert 60 < len(front["description"]) < 300 and re.search(r"\bUse\b", front["description"])
    lines = text.splitlines()
    assert len(lines) < 80 and max(map(len, lines[3:])) <= 150
    assert [line for line in FENCE.sub("", text).splitlines() if line.count("`") % 2] == []  # a command on one line
    assert any(run for _, run, _ in blocks(name)), "no example that is run"


@pytest.mark.parametrize("name", sorted(SKILLS))
def test_every_command_that_a_skill_names_exists(name):
    found = commands(SKILLS[name].read_text())
    assert found
    assert [(" ".join(words), why) for words in found if (why := wrong(words))] == []


def test_the_check_of_commands_sees_what_is_not_there():
    assert wrong(["./just", "stats"]) == "no recipe 'stats'"
    assert wrong(["./just", "test"]) == "no recipe 'test'"  # of this repository, not of a lab
    assert wrong(["./just", "idea", "nearer", "x"]) == "no command 'idea nearer'"
    assert wrong(["./just", "--in-env", "lab", "verdict", "--colour"]) == "verdict has no option --colour"
    assert wrong(["./just", "eval", "--lr", "1e-3"]) == wrong(["./just", "idea", "near", "x", "--k", "3"]) == ""
    assert commands("`./just status --json`\n```sh\ngit diff | ./just fence 'x'\n```\n just so") == [
        ["./just", "fence", "x"],
        ["./just", "status", "--json"],
    ]


def test_agents_find_the_skills_without_a_second_copy():
    for link, target in ((".agents/skills", ".claude/skills"), (".codex/hooks.json", ".claude/settings.json")):
        assert (REPOSITORY / link).is_symlink() and not (REPOSITORY / link).readlink().is_absolute()
        assert (REPOSITORY / link).resolve() == REPOSITORY / target


@pytest.fixture
def lab(lab_repo, pueue_daemon) -> Lab:
    files = ("just", "justfile", "requirements.lock", "1_ideas/_TEMPLATE.md")
    lab = lab_repo(
        **{name: (REPOSITORY / name).read_text() for name in files},
        **{
            "0_docs/papers/gates.md": PAPER,
            "0_docs/cognition/known.yaml": (REPOSITORY / "0_docs" / "cognition" / "linear-attention.yaml").read_text(),
        },
    )
    (lab.root / "just").chmod(0o755)
    commit(lab.root)
    (lab.root / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)
    call(lab.root, "data")
    call(lab.root, "baseline")
    return lab


@pytest.mark.slow
def test_the_examples_run(lab, wait_until):
    tree = Path(call(lab.root, "worktree", "lower").stdout.strip())
    (tree / "train.py").write_text((tree / "train.py").read_text().replace("offset: float = 0.0", "offset: float = -0.5"))
    commit(tree, "exp(lower): an offset")
    call(tree, "queue", "lower", "Q: does lower help? H: expect -0.5 score, 80%")
    run_id = settle_down(lab, 6, wait_until)[-1].run_id
    failed = {}
    for name in SKILLS:
        for place, (language, run, text) in enumerate(blocks(name)):
            if not run:
                continue
            assert language == "sh"
            text = re.sub(r"(?<![A-Z])SLUG\b", "lower", re.sub(r"\bRUN\b", run_id, re.sub(r"PAPER(?=\b|_)", "gates", text)))
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=lab.root, capture_output=True, text=True, timeout=120)
            if done.returncode:
                failed[f"{name}, block {place}"] = f"{text}\n{done.stdout[-500:]}\n{done.stderr[-800:]}"
    assert not failed, "\n\n".join(f"{name}:\n{what}" for name, what in failed.items())
    assert shutil.which("just") and not [path.name for path in lab.root.glob("*.json")]

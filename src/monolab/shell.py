"""Which files a shell command would write, as far as its text shows it.

It is read, never run: redirections and the usual commands (tee, sed -i, cp, mv, rm, git checkout ...) are seen; what other
programs do is not, nor a name that the script computes.
"""

import os
import re
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path


@dataclass
class Effects:
    """What a script would do. Paths are absolute; a pattern is there itself and with the files that it matches now."""

    writes: list[Path] = field(default_factory=list)
    removes: list[Path] = field(default_factory=list)
    restores: list[tuple[Path, str]] = field(default_factory=list)  # what git sets back, and the revision it takes
    patches: list[tuple[Path, str]] = field(default_factory=list)  # the folder and the text that apply_patch is given
    sets: list[str] = field(default_factory=list)  # variables, NAME=value
    skips_hooks: bool = False  # git's


def effects(script: str, cwd: Path) -> Effects:
    """What `script` would do when it is started in the folder `cwd`."""
    found = Effects()
    _read(found, script, cwd)
    return found


# -- a script's text ----------------------------------------------------------------------------------------------

TOKEN = re.compile(
    r"""(?P<nothing>[ \t\r]+|\\\n|\#[^\n]*)
    | \d*<<-?[ \t]*['"\\]?(?P<mark>[\w.-]+)['"]?(?P<line>[^\n]*)\n(?P<document>.*?)^\t*(?P=mark)$
    | \d*(?P<redirect>&>>?|>>|>[|&]?|<{1,3}[-&]?)
    | (?P<end>[|&;()\n`])
    | (?P<word>(?:[^\s\\'"|&;()<>`]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)""", re.DOTALL)
BEFORE_A_COMMAND = re.compile(  # an assignment, a wrapper with its options and numbers, a keyword
    r"[A-Za-z_]\w*=.*|-.*|\d[\d.]*[smhd]?|sudo|env|nohup|time|timeout|nice|command|builtin|exec|export|declare|typeset|readonly"
    r"|if|then|elif|else|while|until|do|!|\{",
    re.DOTALL,
)


@dataclass
class _Command:
    """A simple command: its words, the files that its output goes to, the text that it reads."""

    words: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    text: str = ""


def _commands(script: str) -> list[_Command]:
    found, redirect, at = [_Command()], "", 0
    while at < len(script):
        token = TOKEN.match(script, at)
        if token is None:  # a quote that is never closed
            at += 1
            continue
        at = token.end()
        if token["mark"]:  # a here-document; what follows its mark in the line is still to be read
            found[-1].text = token["document"]
            script, at = token["line"] + script[at:], 0
        elif token["redirect"]:
            redirect = token["redirect"]
        elif token["end"]:
            found, redirect = [*found, _Command()], ""
        elif token["word"]:
            word = QUOTED.sub(_unquoted, token["word"])
            if redirect == "<<<":
                found[-1].text = word
            elif ">" in redirect:
                found[-1].outputs += [] if redirect == ">&" and re.fullmatch(r"\d+|-", word) else [word]
            elif not redirect:
                found[-1].words.append(word)
            redirect = ""
    return found


def _unquoted(match: re.Match) -> str:
    single, double, escaped = match.groups()
    if single is not None:
        return single
    return escaped if double is None else re.sub(r'\\(["\\$`\n])', r"\1", double)


# -- what its commands do -----------------------------------------------------------------------------------------


def _read(found: Effects, script: str, cwd: Path) -> None:
    for command in _commands(script):
        found.writes += _paths(cwd, command.outputs)
        words = command.words
        while words and BEFORE_A_COMMAND.fullmatch(words[0]):
            found.sets += [words[0]] if "=" in words[0] else []
            words = words[1:]
        if not words:
            continue
        name, words = Path(words[0]).name, words[1:]
        if name == "cd":
            cwd = _folder(cwd, words[0] if words else "~")
        elif name in ("bash", "sh", "dash", "zsh"):
            given = len(words) > 1 and re.fullmatch(r"-\w*c", words[0])
            _read(found, words[1] if given else command.text, cwd)
        elif name == "eval":
            _read(found, " ".join(words), cwd)
        elif name in ("apply_patch", "applypatch"):
            found.patches.append((cwd, "\n".join([*words, command.text])))
        elif name == "git":
            _read_git(found, words, cwd)
        else:
            _read_files(found, name, words, cwd)


def _read_files(found: Effects, name: str, words: list[str], cwd: Path) -> None:
    files = [word for word in words if not word.startswith("-")]
    in_place = name in ("sed", "perl") and any(re.match(r"-[nprEsuzlaw\d]*i|--in-place", word) for word in words)
    if name in ("rm", "unlink", "shred", "rmdir"):
        found.removes += _paths(cwd, files)
    elif in_place or name in ("tee", "sponge", "truncate", "patch"):
        found.writes += _paths(cwd, files)
    elif name == "dd":
        found.writes += _paths(cwd, [word.removeprefix("of=") for word in files if word.startswith("of=")])
    elif name in ("cp", "mv", "ln", "install", "rsync") and files:
        *sources, target = files
        found.writes += _paths(cwd, [target, *(f"{target}/{Path(source).name}" for source in sources)])
        found.removes += _paths(cwd, sources) if name == "mv" else []


def _read_git(found: Effects, words: list[str], cwd: Path) -> None:
    found.skips_hooks |= any(word.lower().startswith("core.hookspath") for word in words[:-1])
    while words and words[0].startswith("-"):  # git's own options
        if words[0] == "-C" and len(words) > 1:
            cwd = _folder(cwd, words[1])
        words = words[2 if words[0] in ("-C", "-c") else 1 :]
    if not words:
        return
    top = str(next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), cwd))
    name, words = words[0], [top if word in (":", ":/") else word.removeprefix("--source=") for word in words[1:]]
    at = words.index("--") if "--" in words else len(words)
    options = {word for word in words[:at] if word.startswith("-")}
    plain, files = [word for word in words[:at] if word not in options], words[at + 1 :]
    # -n, also among other letters (-anm), but for those that take the rest of the word
    found.skips_hooks |= any(word.startswith("--no-v") or (name == "commit" and re.match(r"-[^-mFCctSu\s]*n", word)) for word in options)
    if name in ("rm", "mv") and "--cached" not in options:
        _read_files(found, name, words, cwd)
    elif name == "clean" and any(re.match(r"-\w*f|--force", word) for word in options):
        found.removes += _paths(cwd, plain + files or ["."])
    elif (name == "reset" and "--hard" in options) or (name in ("checkout", "switch") and options & {"-f", "--force", "--discard-changes"}):
        found.restores.append((Path(top), "HEAD"))
    elif name == "stash" and plain[:1] in ([], ["push"], ["save"]):
        found.restores += [(path, "HEAD") for path in _paths(cwd, files or [top])]
    elif name in ("checkout", "restore") and ("--staged" not in options or "--worktree" in options):
        here = [word for word in plain if any(path.exists() for path in _paths(cwd, [word]))]
        revision = next((word for word in plain if word not in here), "HEAD")
        found.restores += [(path, revision) for path in _paths(cwd, here + files)]


def _folder(cwd: Path, name: str) -> Path:
    return Path(os.path.realpath(cwd / os.path.expandvars(os.path.expanduser(name))))


def _paths(cwd: Path, names: list[str]) -> list[Path]:
    patterns = [os.path.expandvars(os.path.expanduser(name)) for name in names]
    return [cwd / file for pattern in patterns for file in [pattern, *glob(pattern, root_dir=cwd)]]

from pathlib import Path

import pytest

from monolab import cli, options
from monolab.errors import LabError

TRAIN = """
class Config:
    stage: str = "explore"
    lr: float = 1e-3
    fast: bool = False
    no_decay: bool = False
    betas: tuple[float, float] = (0.9, 0.95)
    widths: "list[int]" = ()
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--lr", "-0.5", "--fast", "--no-decay"],
        ["--no-fast", "--lr=1"],
        ["--betas", "0.9", "0.95", "--lr", "1"],
        ["--widths", "1", "2", "3"],
    ],
)
def test_options_that_config_has_are_handed_on_as_they_are(train, args):
    assert options.check(args, train) == tuple(args)


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["a"], "'a' belongs to no option"),
        (["--lr", "0.5", "a"], "'a' belongs to no option"),
        (["--lr=0.5", "a"], "'a' belongs to no option: --lr=0.5 takes no value after it"),
        (["--fast", "does X help?"], "'does X help\\?' belongs to no option: --fast takes no value"),
        (["--no-fast", "a"], "'a' belongs to no option: --no-fast takes no value"),
        (["--betas", "1", "2", "--lr", "1", "a"], "'a' belongs to no option"),
        (["--no-lr"], "no field 'no_lr'"),
        (["--out", "x"], "--out is set by the lab"),
    ],
)
def test_a_word_that_is_no_value_is_refused(train, args, what):
    with pytest.raises(LabError, match=what):
        options.check(args, train)


def test_a_stray_word_is_refused_without_a_config_too(train):
    train.write_text("print()")
    assert options.check(["--lr", "1"], train) == ("--lr", "1")
    with pytest.raises(LabError, match="'a' belongs to no option") as caught:
        options.check(["--lr", "1", "a"], train)
    assert "slug" in caught.value.hint


@pytest.mark.parametrize(
    ("command", "tokens", "mine", "theirs"),
    [
        ("queue", ["a", "--fast", "Q: b? H: c"], ["a", "Q: b? H: c"], ["--fast"]),
        ("queue", ["a", "--no-fast", "Q: b? H: c", "--lr", "1"], ["a", "Q: b? H: c"], ["--no-fast", "--lr", "1"]),
        ("queue", ["--lr", "1", "--seeds", "2", "a", "Q: b? H: c"], ["--seeds", "2", "a", "Q: b? H: c"], ["--lr", "1"]),
        ("eval", ["--lr=0.5", "a"], ["a"], ["--lr=0.5"]),
        ("eval", ["a", "--betas", "0.9", "0.95", "--seed", "4"], ["a", "--seed", "4"], ["--betas", "0.9", "0.95"]),
        ("eval", ["--lr", "0.5", "a"], [], ["--lr", "0.5", "a"]),  # options.check refuses it
    ],
)
def test_the_command_line_is_split_into_our_arguments_and_those_of_train(command, tokens, mine, theirs):
    assert cli._split(cli.COMMANDS[command], tokens) == (mine, theirs)


def test_a_flag_does_not_swallow_the_word_after_it(lab_repo, monkeypatch, capsys):
    """It is refused with the reason, where its slug or label would go to train.py as the value of --fast."""
    lab = lab_repo(**{"train.py": TRAIN})
    monkeypatch.chdir(lab.root)
    with pytest.raises(SystemExit):
        cli.main(["eval", "--fast", "a"])
    assert "'a' belongs to no option: --fast takes no value" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("c.yaml", "on: 1\n"), ("c.yaml", "3: 1\n")])
def test_a_name_in_a_configuration_file_must_be_a_string(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(LabError, match="is read as no string"):
        options.from_file(tmp_path / name)


def test_a_configuration_file_becomes_options(tmp_path):
    (tmp_path / "c.yaml").write_text("weight_decay: 0.1\nfast: true\ndecay: false\n")
    assert options.from_file(tmp_path / "c.yaml") == ["--weight-decay", "0.1", "--fast", "--no-decay"]


def test_a_file_that_is_no_text_is_an_error_with_its_name(train):
    for name in ("c.yaml", "c.json", "c.toml"):
        path = train.with_name(name)
        path.write_bytes(b"lr: \xff\xfe\n")
        with pytest.raises(LabError, match=name):
            options.from_file(path)
    train.write_bytes(b"# \xff\n")
    with pytest.raises(LabError, match="train.py cannot be read"):
        options.config_fields(train)


def test_a_full_disk_and_a_git_that_was_killed_end_a_command_with_an_error(monkeypatch, capsys, lab_repo):
    import errno

    import git

    lab = lab_repo()

    def broken(*, why: str = "") -> None:
        if why == "cut off":
            with git.Repo(lab.root) as repo:
                repo.git.get_object_header("HEAD")
                repo.git.cat_file_header.proc.kill()
                repo.git.cat_file_header.proc.wait()
                repo.git.get_object_header("HEAD")
        raise {
            "disk": OSError(errno.ENOSPC, "No space left on device", "/a/file"),
            "git": git.GitCommandError("git version", -9),
            "own": OSError(errno.EIO, "?"),
        }[why]

    monkeypatch.setitem(cli.COMMANDS, "broken", broken)
    for why, told in (
        ("disk", "No space left on device: '/a/file'\n  next: df -h"),
        ("git", "git failed: Cmd('git') failed"),
        ("cut off", "git failed"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["broken", "--why", why])
        assert ended.value.code == 1 and told in capsys.readouterr().err
    with pytest.raises(OSError, match="Errno 5"):  # a fault of the program's own is not dressed up
        cli.main(["broken", "--why", "own"])

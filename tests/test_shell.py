"""What a shell command would write, from its text."""

from pathlib import Path

import pytest

from monolab import shell


@pytest.fixture
def here(tmp_path) -> Path:
    """A git worktree's folder, as far as the reader looks at it."""
    (tmp_path / ".git").touch()
    (tmp_path / "sub").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / name).touch()
    return tmp_path


def names(here: Path, paths: list[Path]) -> set[str]:
    """Paths as one would write them from `here`."""
    return {str(path.relative_to(here)) if path.is_relative_to(here) else str(path) for path in paths}


@pytest.mark.parametrize(
    ("script", "written"),
    [
        ("echo x > out", "out"),
        ("true && echo x 2>/dev/null >| ./out", "/dev/null out"),
        ("printf x >>out", "out"),
        ("make &> out", "out"),
        ("python a.py . > out 2>&1", "out"),
        ("cat a.py | tee -a out", "out"),
        ("sed -i 's/a/b/' a.py", "s/a/b a.py"),
        ("sed -ni.bak 1p a.py", "1p a.py"),
        ("sed -n 1,20p a.py", ""),
        ("perl -pi -e 1 a.py", "1 a.py"),
        ("cp a.py out 2>/dev/null", "out out/a.py /dev/null"),
        ("cp a.py ../b.py sub", "sub sub/a.py sub/b.py"),
        ("ln -sf a.py out", "out out/a.py"),
        ("dd if=/dev/zero of=out", "out"),
        ("truncate -s 0 out", "0 out"),
        ("patch out < x.diff", "out"),
        ("cd sub && echo x > out", "sub/out"),
        ("(cd sub; echo x > ../out)", "sub/../out"),
        ('bash -c "echo x > out"', "out"),
        ("sh -ec 'cd sub; tee out'", "sub/out"),
        ("eval 'echo x > out'", "out"),
        ("if true; then tee out; fi", "out"),
        ("x=$(echo y > out)", "out"),
        ("sudo env A=b tee out", "out"),
        ("timeout -k 1 5m nice -n 5 tee out", "out"),
        ("tee *.py", "*.py a.py b.py"),
        ('tee "$HOME_OF_X/out" ~', "/x/out /home"),
        (r"echo x > o\ ut'p'\"", 'o utp"'),
        ('echo "a > out" # > out', ""),
        ("echo 'unclosed", ""),
        ("diff <(sort a.py) b.py", ""),
        ("git mv a.py sub", "sub sub/a.py"),
    ],
)
def test_what_is_written(here, monkeypatch, script, written):
    monkeypatch.setenv("HOME_OF_X", "/x")
    monkeypatch.setenv("HOME", "/home")
    expected = {'o utp"'} if written == 'o utp"' else set(written.split())
    assert names(here, shell.effects(script, here).writes) == expected


@pytest.mark.parametrize(
    ("script", "removed"),
    [
        ("rm -rf sub a.py", "sub a.py"),
        ("rm *.py", "*.py a.py b.py"),
        ("mv a.py b.py sub", "a.py b.py"),
        ("git rm a.py", "a.py"),
        ("git -c a.b=1 rm a.py", "a.py"),
        ("git -C sub mv x y", "sub/x"),
        ("git rm --cached a.py", ""),
        ("git clean -fdx", "."),
        ("cd sub; git clean --force", "sub"),
        ("git clean -fd sub", "sub"),
        ("git clean -n", ""),
    ],
)
def test_what_is_removed(here, script, removed):
    assert names(here, shell.effects(script, here).removes) == set(removed.split())


@pytest.mark.parametrize(
    ("script", "restored", "revision"),
    [
        ("git checkout -- gone.py", "gone.py", "HEAD"),
        ("git checkout a.py", "a.py", "HEAD"),
        ("git checkout main a.py b.py", "a.py b.py", "main"),
        ("git checkout main -- a.py", "a.py", "main"),
        ("git restore a.py", "a.py", "HEAD"),
        ("git restore -s main a.py", "a.py", "main"),
        ("git restore --source=main a.py", "a.py", "main"),
        ("git restore --source main --staged --worktree :/", ".", "main"),
        ("git restore --staged a.py", "", ""),
        ("git checkout main", "", ""),
        ("git checkout -b more", "", ""),
        ("cd sub && git reset --hard HEAD~1", ".", "HEAD"),
        ("git reset a.py", "", ""),
        ("git switch --discard-changes main", ".", "HEAD"),
        ("cd sub && git stash -u", ".", "HEAD"),
        ("git stash push -m x -- a.py", "a.py", "HEAD"),
        ("git stash list", "", ""),
    ],
)
def test_what_git_sets_back(here, script, restored, revision):
    found = shell.effects(script, here).restores
    assert names(here, [path for path, _ in found]) == set(restored.split())
    assert all(given == revision for _, given in found)


@pytest.mark.parametrize(
    ("script", "skips"),
    [
        ("git commit --no-verify -m x", True),
        ("git commit -nm x", True),
        ("git commit -anm x", True),
        ("git -C sub commit -n", True),
        ("git merge --no-verify main", True),
        ("git -c core.hooksPath=/dev/null commit -m x", True),
        ("git config core.hooksPath /dev/null", True),
        ("git config --get core.hooksPath", False),
        ("git commit -m 'no -n here'", False),
        ("git commit -am Change", False),
        ("git commit -uno -mnew", False),
        ("git commit -m '- one thing'", False),
        ("git merge -n main", False),
    ],
)
def test_what_goes_past_gits_hooks(here, script, skips):
    assert shell.effects(script, here).skips_hooks is skips


def test_which_variables_are_set(here):
    for script in ("A=1 just eval", "export A=1", "env -i A=1 just eval", "sh -c 'A=1'", "x; declare -x A=1"):
        assert "A=1" in shell.effects(script, here).sets, script
    assert shell.effects("grep -n A=1 a.py; echo A=1", here).sets == []


def test_a_here_document_is_not_read_as_commands_but_what_follows_is(here):
    def both(script: str) -> tuple[set[str], set[str]]:
        found = shell.effects(script, here)
        return names(here, found.writes), names(here, found.removes)

    quoted = "cat > out <<'EOF'\nif a > b: print('> c')\nrm a.py\nEOF\n"
    assert both(quoted) == ({"out"}, set())
    assert both(quoted + "rm 'b.py'") == ({"out"}, {"b.py"})
    assert both("bash <<EOF\nrm a.py\nEOF") == (set(), {"a.py"})
    assert both("bash <<< 'rm a.py'") == (set(), {"a.py"})
    assert both("cat <<-EOF > out\n\tx > y\n\tEOF\nrm a.py") == ({"out"}, {"a.py"})
    assert both("cat <<A - <<B > out; rm a.py\nrm x\nA\nrm y\nB\nrm b.py") == ({"out"}, {"a.py", "b.py"})
    assert both("cat <<'EOF' > out") == ({"out"}, set())  # never given
    assert both("bash -lc 'cat <<EOF > out\nrm a.py\nEOF\n'") == ({"out"}, set())


def test_patches(here):
    text = "*** Begin Patch\n*** Delete File: a.py\n*** End Patch\n"
    assert shell.effects(f"cd sub && apply_patch <<'EOF'\n{text}EOF\n", here).patches == [(here / "sub", text)]
    assert shell.effects(f"apply_patch '{text}'", here).patches == [(here, f"{text}\n")]

"""Many at once: writers of one table, agents that queue, worktrees, settling, `lab init`, two labs on one device. Real processes throughout."""

import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TRAIN, git
from test_lab import IDEA, LAB, add_idea, call

from monolab import backlog, device, dispatch, filesystem, pueue, queue, receipts, results, settle, snapshot, verdicts
from monolab.errors import LabError
from monolab.paths import Lab


def at_once(commands: list[list[str]], cwd: Path | list[Path], timeout: float = 300) -> list[subprocess.CompletedProcess]:
    """Start all commands, then wait for all of them."""
    folders = cwd if isinstance(cwd, list) else [cwd] * len(commands)
    running = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, folder in zip(commands, folders, strict=True)
    ]
    done = []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return done


# -- rows

WRITER = """
import sys
from dataclasses import asdict
from pathlib import Path
from monolab import receipts, results
from monolab.paths import Lab
from monolab.receipts import Receipt, Request

lab, writer, count = Lab(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
asked = dict(idea="many", stage="explore", label="Q: a? H: b", question="a", hypothesis="b", mechanism="", predicted_effect=None, credence=None,
             kill_rule="", agent="test", parent="", parent_idea="", commit="0" * 40, head="0" * 40, code_sha="1" * 40, args=(), flags=(),
             queued="2026-01-01T00:00:00Z")
found = dict(status="ok", reason="", metric="score", metrics={}, started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:01Z", seconds=1.0,
             train_seconds=0.5, score_seconds=0.5, peak_gb=0.1, params=1, eval_sha="2" * 64, data_sha="3" * 64, env_sha="4" * 64, checkpoint_sha="",
             hardware="any", isolation="none", log_tail="x" * 500)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    seed = writer * count + number
    request = Request(run_id=f"20260101T000000-many-s{seed}-{writer:04x}", seed=seed, **asked)
    receipts.write_request(lab, request)
    results.finish(lab, lambda prev: Receipt(**asdict(request) | found, value=float(seed), prev=prev))
"""


def write_rows(lab: Lab, writers: int, rows: int, timeout: float) -> float:
    """Every writer a process of its own, let loose together; returns the seconds it took."""
    command = [sys.executable, "-c", WRITER, str(lab.root)]
    running = [
        subprocess.Popen([*command, str(writer), str(rows)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for writer in range(writers)
    ]
    try:
        for process in running:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
        began = time.monotonic()
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            _, err = process.communicate(timeout=timeout)
            assert process.returncode == 0, err
        return time.monotonic() - began
    finally:
        for process in running:
            process.kill()
            process.wait()


def check_rows(lab: Lab, writers: int, rows: int) -> None:
    found = results.load(lab)
    assert sorted(row.seed for row in found) == list(range(writers * rows))  # none lost, none doubled
    assert all(row.value == row.seed and row.run_id.endswith(f"-s{row.seed}-{row.seed // rows:04x}") for row in found)  # none torn
    assert results.audit(lab) == []  # each agrees with its receipt, and follows the row before
    text = lab.results.read_text()
    assert results.rebuild(lab) == writers * rows and lab.results.read_text() == text


def test_rows_of_many_writers_are_neither_lost_nor_torn_nor_doubled(lab_repo):
    lab = lab_repo()
    write_rows(lab, 8, 24, 120)
    check_rows(lab, 8, 24)


@pytest.mark.slow
def test_64_writers_of_1000_rows_each(lab_repo):
    lab = lab_repo()
    seconds = write_rows(lab, 64, 1000, 3600)
    print(f"64,000 rows by 64 writers in {seconds:.0f} s, {seconds / 64:.2f} ms a row")
    check_rows(lab, 64, 1000)


# -- worktrees


def test_of_many_who_make_one_worktree_one_does_and_the_others_are_told(lab_repo):
    lab = lab_repo()
    for slug in ("one", "two"):
        (lab.ideas / f"2026-11-21_{slug}.md").write_text(IDEA.format(effect=-0.5, parent="baseline"))
    slugs = ["one"] * 4 + ["two", "lower"]
    done = at_once([[LAB, "worktree", slug] for slug in slugs], lab.root)
    one, others = done[:4], done[4:]
    assert [process.returncode for process in others] == [0] * 2, [process.stderr for process in others]
    assert sorted(process.returncode for process in one) == [0, 1, 1, 1]
    for process in one:
        assert process.returncode == 0 or ("exists already" in process.stderr and "Traceback" not in process.stderr), process.stderr
    for slug in set(slugs):
        tree = lab.worktree(slug)
        assert git(tree, "branch", "--show-current") == f"exp/{slug}" and git(tree, "status", "--porcelain") == ""
        assert (tree / "train.py").read_text() == TRAIN
    assert git(lab.root, "worktree", "list").count("5_worktrees") == 3


def test_a_worktree_that_git_was_killed_while_making_is_made_afresh(lab_repo):
    """git marks a worktree as locked, "initializing", until it stands."""
    lab = lab_repo()
    tree = queue.worktree(lab, "lower")
    (lab.root / ".git" / "worktrees" / "lower" / "locked").write_text("initializing")
    (tree / "train.py").unlink()
    assert queue.worktree(lab, "lower") == tree
    assert git(tree, "status", "--porcelain") == "" and (tree / "train.py").read_text() == TRAIN


def test_a_worktree_whose_folder_somebody_removed_is_made_again_with_its_work(lab_repo):
    import shutil

    lab = lab_repo()
    tree = queue.worktree(lab, "lower")
    (tree / "train.py").write_text(TRAIN + "# work\n")
    git(tree, "-c", "core.hooksPath=/dev/null", "commit", "-qam", "work")
    shutil.rmtree(tree)
    assert queue.worktree(lab, "lower") == tree and (tree / "train.py").read_text().endswith("# work\n")


# -- queueing and settling


def test_many_agents_queue_at_once_and_every_run_is_there(lab_repo, pueue_daemon):
    lab = lab_repo()
    call(lab.root, "data")
    trees = [lab.root, *(add_idea(lab, slug) for slug in ("one", "two"))]
    for tree in trees[1:]:
        (tree / "train.py").write_text(TRAIN + f"# {tree.name}\n")
    subprocess.run(["pueue", "group", "add", "--parallel=1", f"lab-{device.detect().name}"], capture_output=True, check=False)
    subprocess.run(["pueue", "pause", "--group", f"lab-{device.detect().name}"], capture_output=True, check=True)
    asked = [[LAB, "baseline", "--seeds", "2", "--json"], *([LAB, "queue", tree.name, "Q: a? H: b", "--json"] for tree in trees[1:])] * 2
    done = at_once(asked, trees * 2)
    assert [process.returncode for process in done] == [0] * 6, [process.stderr for process in done]
    made = [run_id for process in done for run_id in json.loads(process.stdout)]
    assert len(made) == len(set(made)) == 8
    asked = {path.parent.name for path in lab.runs.glob("*/request.json")}
    assert asked >= set(made)  # and the baseline's seeds that each idea still lacks, queued by the lab
    refs = git(lab.root, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/lab/runs").split()
    assert sorted(refs) == sorted(asked)
    assert sorted(backlog.run_of(lab, task) for task in pueue.tasks()) == sorted(asked)


def test_two_runs_that_draw_the_same_id_get_two(lab_repo, monkeypatch):
    lab = lab_repo()
    call(lab.root, "data")
    drawn = iter(["aaaa", "bbbb", "aaaa", "bbbb", "cccc", "dddd"])
    monkeypatch.setattr(receipts, "new_id", lambda idea, seed: f"20260101T000000-{idea}-s{seed}-{next(drawn)}")
    first, second = (queue.requests(lab, "baseline", lab.root, "Q: a? H: b", "explore", [0, 0], [], required=True) for _ in range(2))
    assert [one.run_id[-4:] for one in first + second] == ["aaaa", "bbbb", "cccc", "dddd"]
    assert all(receipts.request(lab, one.run_id) == one for one in first + second)
    drawn = iter(["eeee"])
    third = [first[0], dispatch.replace(first[1], run_id=f"{first[1].run_id[:-4]}ffff", parent=first[0].run_id)]
    dispatch.write(lab, third)  # the parent's id is taken as well: its child must follow
    assert [one.run_id[-4:] for one in third] == ["eeee", "ffff"] and third[1].parent == third[0].run_id


def test_many_who_settle_at_once_write_one_verdict_and_one_entry(lab_repo):
    lab = lab_repo()
    call(lab.root, "data")
    for seed in range(3):
        queue.evaluate(lab, "baseline", None, "explore", seed, [])
    tree = add_idea(lab, "shift")
    (tree / "train.py").write_text(TRAIN.replace("offset: float = 0.0", "offset: float = -0.5"))
    for seed in range(3):
        queue.evaluate(lab, "shift", None, "explore", seed, [])
    (lab.runs / "verdicts.jsonl").unlink()
    lab.journal.write_text("# Research journal\n\nNewest on top.\n")
    code = f"from pathlib import Path; from monolab import settle; from monolab.paths import Lab; settle.settle(Lab(Path({str(lab.root)!r})))"
    done = at_once([[sys.executable, "-c", code]] * 5, lab.root)
    assert [process.returncode for process in done] == [0] * 5, done[0].stderr
    (verdict,) = verdicts.records(lab)
    assert (verdict.idea, verdict.verdict) == ("shift", "supported") and settle.settle(lab) == []
    assert len(re.findall(r"^## ", lab.journal.read_text(), re.MULTILINE)) == 1


# -- a device


def test_two_labs_on_one_device_take_turns(lab_repo):
    """Both by hand, so that no queue keeps them apart: only the device's lock does."""
    text = TRAIN.replace("    out = Path(config.out)\n", "    began = time.monotonic()\n    time.sleep(0.3)\n    out = Path(config.out)\n").replace(
        '    print(f"value', '    (out / "times.txt").write_text(f"{began} {time.monotonic()}")\n    print(f"value'
    )
    labs = [lab_repo(name, **{"train.py": text.replace("import sys\n", "import sys\nimport time\n", 1)}) for name in ("left", "right")]
    for lab in labs:
        call(lab.root, "data")
    commands = [[LAB, "eval", "--seed", str(seed)] for seed in range(2) for _ in labs]
    done = at_once(commands, [lab.root for lab in labs] * 2)
    assert [process.returncode for process in done] == [0] * 4, [process.stderr for process in done]
    spans = sorted(tuple(map(float, path.read_text().split())) for lab in labs for path in lab.runs.glob("*/checkpoint/times.txt"))
    assert len(spans) == 4 and all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), spans
    assert sum("waiting for cpu: held by run" in process.stderr for process in done) >= 2
    assert [len(results.load(lab)) for lab in labs] == [2, 2] and [results.audit(lab) for lab in labs] == [[], []]


# -- lab init


@pytest.mark.parametrize("there", [False, True])
def test_of_two_labs_made_in_one_place_one_stands(tmp_path, there):
    dest = tmp_path / "new"
    if there:
        dest.mkdir()
    code = "import sys; from pathlib import Path; from monolab import init; from monolab.errors import LabError\ntry: init._put(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept LabError as error: sys.exit(str(error))"
    commands = []
    for number in range(6):
        made = tmp_path / f"made{number}"
        made.mkdir()
        for file in range(200):
            (made / f"file{file}").write_text(str(number))
        commands.append([sys.executable, "-c", code, str(made), str(dest)])
    done = at_once(commands, tmp_path)
    assert sorted(process.returncode for process in done) == [0, 1, 1, 1, 1, 1], [process.stderr for process in done]
    assert all("is there already" in process.stderr for process in done if process.returncode)
    winner = next(number for number, process in enumerate(done) if process.returncode == 0)
    assert {path.read_text() for path in dest.iterdir()} == {str(winner)} and len(list(dest.iterdir())) == 200


def test_two_lab_init_at_once(tmp_path):
    done = at_once([[LAB, "init", str(tmp_path / "lab"), "--example", "digits"]] * 2, tmp_path)
    codes = sorted(process.returncode for process in done)
    assert codes == [0, 1], [process.stderr for process in done]
    (lost,) = [process for process in done if process.returncode]
    assert "is there already" in lost.stderr and "next: lab init" in lost.stderr
    root = tmp_path / "lab"
    assert git(root, "status", "--porcelain") == "" and git(root, "log", "--format=%s") == "Start the lab"
    assert {path.name for path in tmp_path.iterdir()} == {"lab", "no-daemon.yml"}


# -- shared file systems


def mounted(monkeypatch, tmp_path: Path, kind: str, point: Path) -> None:
    table = tmp_path / "mountinfo"
    escaped = str(point).replace(" ", "\\040")
    table.write_text(f"22 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n40 22 0:50 / {escaped} rw shared:2 - {kind} server:/export rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)
    filesystem.require_one_machine.cache_clear()


def test_which_file_system_a_folder_is_on(monkeypatch, tmp_path):
    mounted(monkeypatch, tmp_path, "nfs4", tmp_path / "a b")
    assert filesystem.kind(tmp_path / "a b" / "c" / "not there yet") == filesystem.kind(tmp_path / "a b") == "nfs4"
    assert filesystem.kind(tmp_path / "a bc") == filesystem.kind(Path("/")) == "ext4"
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    assert filesystem.kind(tmp_path / "link") == "nfs4"
    monkeypatch.undo()
    assert filesystem.kind(Path("/proc")) == "proc"  # and what the kernel really says


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "ceph", "9p", "virtiofs", "fuse.unheard-of"])
def test_a_lab_on_a_shared_file_system_belongs_to_the_first_machine(lab_repo, monkeypatch, tmp_path, kind):
    lab = lab_repo()
    mounted(monkeypatch, tmp_path, kind, lab.root)
    with results.locked(lab):
        pass
    claim = lab.root / ".git" / "lab-machine"
    assert claim.read_text() == filesystem.machine()
    monkeypatch.setattr(filesystem, "machine", lambda: "another")
    filesystem.require_one_machine.cache_clear()
    with pytest.raises(LabError, match=f"is on {kind}, where machines do not see each other's locks") as caught, results.locked(lab):
        pass
    assert caught.value.hint.endswith(f"rm {claim}")
    claim.unlink()
    with results.locked(lab):
        pass
    assert claim.read_text() == "another"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.fuse-overlayfs", "fuseblk"])
def test_a_lab_on_a_disk_of_the_machine_is_claimed_by_none(lab_repo, monkeypatch, tmp_path, kind):
    lab = lab_repo()
    mounted(monkeypatch, tmp_path, kind, lab.root)
    with results.locked(lab):
        pass
    assert not (lab.root / ".git" / "lab-machine").exists()


def test_a_file_system_without_locks_is_refused(lab_repo, monkeypatch, tmp_path):
    lab = lab_repo()
    mounted(monkeypatch, tmp_path, "fuse.sshfs", lab.root)
    monkeypatch.setattr(filesystem.fcntl, "flock", lambda *_: None)  # as FUSE does it: everybody gets it
    with pytest.raises(LabError, match="two got the same one"):
        filesystem.require_one_machine(lab)

    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filesystem.fcntl, "flock", none)
    with pytest.raises(LabError, match="No locks available"):
        filesystem.require_one_machine(lab)
    assert not list((lab.root / ".git").glob(".lab-probe*"))


def test_the_devices_locks_lie_on_a_disk_of_the_machine(monkeypatch, tmp_path):
    folder = tmp_path / "locks"
    monkeypatch.setenv("LAB_LOCK_DIR", str(folder))
    mounted(monkeypatch, tmp_path, "nfs4", folder)
    with pytest.raises(LabError, match="which is on nfs4") as caught:
        device.holder(device.detect())
    assert "LAB_LOCK_DIR" in caught.value.hint
    mounted(monkeypatch, tmp_path, "9p", folder)  # a container's own disk may be one
    assert device.holder(device.detect()) is None


def test_snapshots_at_once_are_the_same_commit(lab_repo):
    lab = lab_repo()
    (lab.root / "extra.py").write_text("x = 1\n")
    code = f"from pathlib import Path; from monolab import snapshot; print(snapshot.take(Path({str(lab.root)!r})).commit)"
    done = at_once([[sys.executable, "-c", code]] * 3, lab.root)
    assert {process.stdout.strip() for process in done} == {snapshot.take(lab.root).commit}, [process.stderr for process in done]
    assert git(lab.root, "status", "--porcelain") == "?? extra.py"

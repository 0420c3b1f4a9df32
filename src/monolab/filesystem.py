"""Where locks can be believed. A lab belongs to one machine, and its records are locked with flock(2).

On a disk of the machine the kernel sees every lock. On a file system that machines share it may not: NFS passes flock on only where the server keeps
locks, CIFS and Lustre as they are mounted, most of FUSE not at all; and a process number in a record means nothing on another machine. The rule:

- a lab on a shared file system is used by one machine, the first that wrote in it, which `.git/lab-machine` names; every other one is refused;
- there too locks must at least work between two processes of this machine, which is tried;
- the locks of devices lie on a disk of the machine itself.

A temporary folder is locked as well: what a killed process has left can be told from what is in use, and goes.
"""

import contextlib
import fcntl
import functools
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from monolab.errors import LabError
from monolab.paths import Lab

TEMPORARY = "lab-tmp-"  # how a temporary folder's name begins; nobody else's does
MOUNTS = Path("/proc/self/mountinfo")
# As /proc/self/mountinfo names them. Shared between machines:
SHARED = re.compile(
    r"nfs\d?|cifs|smb\d|smbfs|ncpfs|afs|auristorfs|coda|ceph|glusterfs|lustre|gpfs|beegfs|panfs|orangefs|pvfs2|ocfs2|gfs2?|wekafs|davfs"
    r"|fuse\.(sshfs|s3fs|rclone|glusterfs|ceph|gcsfuse|blobfuse2?|juicefs|davfs2?|curlftpfs|cvmfs2?|moosefs|mfs|hdfs|goofys|mount-s3|smbnetfs)"
)
# Perhaps: a folder of the machine around this one, or a program that answers for the files.
PERHAPS = re.compile(r"9p|virtiofs|vboxsf|prl_fs|vmhgfs|fuse(\..+)?")
LOCAL = re.compile(r"fuse\.(fuse-overlayfs|gocryptfs|encfs|cryfs|securefs|bindfs|mergerfs|unionfs|ntfs-3g|exfat|lxcfs)")


def kind(path: Path) -> str:
    """The type of the file system that `path` (which need not be there yet) lies on, as the kernel names it; "" where it does not say."""
    there = os.path.realpath(path)
    found, longest = "", -1
    for line in _mounts().splitlines():
        about, _, rest = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), about.split(" ")[4])  # a space is written as \040
        inside = there == point or there.startswith(f"{point.rstrip('/')}/")
        if inside and len(point) >= longest:  # of two mounts on one point the later one counts
            found, longest = rest.split(" ")[0], len(point)
    return found


def require_own_disk(folder: Path) -> None:
    """LabError where `folder`, for locks that count on this machine only, lies on a file system that machines share, or locks do not work there."""
    name = kind(folder)
    if SHARED.fullmatch(name):
        raise LabError(
            f"the locks of this machine's devices would lie in {folder}, which is on {name}: other machines would wait for them too",
            hint="set LAB_LOCK_DIR to a folder on a disk of this machine",
        )
    if _doubtful(name):
        _require_locks(folder, name, "set LAB_LOCK_DIR to a folder on a disk of this machine")


@functools.cache
def require_one_machine(lab: Lab) -> None:
    """LabError where the lab lies on a file system that machines share and another one uses it, or locks do not work there. Asked once in a process."""
    name = kind(lab.root)
    if not SHARED.fullmatch(name) and not _doubtful(name):
        return
    _require_locks(lab.root / ".git", name, "move the lab to a disk of this machine")
    claim, me = lab.root / ".git" / "lab-machine", machine()
    with contextlib.suppress(FileExistsError), claim.open("x") as file:  # the one call that is atomic on NFS too
        file.write(me)
    owner = claim.read_text().strip()
    if owner != me:
        raise LabError(
            f"{lab.root} is on {name}, where machines do not see each other's locks, and {owner or 'another machine'} uses it",
            hint=f"work there; or, once nothing of it runs there any more: rm {claim}",
        )


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A folder that goes with this process, on a short path: sockets lie in it, and a socket's path has at most 107 bytes."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it was taken for a dead process's before it was opened,
            continue
        with contextlib.suppress(OSError):  # where a folder cannot be locked, nobody else can lock it either, and it is left alone
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(handle)  # or before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep() -> list[Path]:
    """Remove the temporary folders of this user's processes that are gone; which those were."""
    swept = []
    with os.scandir(tempfile.gettempdir()) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(TEMPORARY)]
    for folder in found:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, a link, or another user's
            continue
        try:
            if os.fstat(handle).st_uid == os.getuid():
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
        except OSError:  # its process lives
            continue
        finally:
            os.close(handle)
    return swept


def machine() -> str:
    """Which machine this is: its name, and the id that it was installed with where it has one."""
    known = Path("/etc/machine-id")
    return f"{platform.node()} {known.read_text().strip()[:12] if known.is_file() else ''}".strip()


def _mounts() -> str:
    return MOUNTS.read_text(errors="replace")


def _doubtful(name: str) -> bool:
    return PERHAPS.fullmatch(name) is not None and LOCAL.fullmatch(name) is None


def _require_locks(folder: Path, name: str, hint: str) -> None:
    """LabError unless of two who want the same lock one does not get it."""
    path = folder / f".lab-probe-{os.getpid()}"
    one, two = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for _ in range(2))
    try:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError as error:
        raise LabError(f"locks do not work in {folder}, which is on {name}: {error.strerror}", hint=hint) from error
    finally:
        os.close(one)
        os.close(two)
        path.unlink(missing_ok=True)
    raise LabError(f"locks do not work in {folder}, which is on {name}: two got the same one", hint=hint)

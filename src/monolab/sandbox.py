"""What a candidate's process can see and reach: its code, its data, the environment, one scratch folder. Linux, with bubblewrap.

A sandbox starts from nothing: an empty root, without network, processes, sockets or other people's shared memory. Into it go the system's
programs and libraries, the interpreter, and what the caller names. There is no list of what is hidden: whatever was not named is not there.

    sandbox.command([sys.executable, "train.py"], cwd=code, read_only=[code, data], writable=[scratch, checkpoint], hidden=[lab.root])

is started like any other command. Two things are the caller's: the environment (`env=` of Popen: bubblewrap's own process shows the one that it
was started with to everything inside, so it must hold nothing that the candidate may not know) and descriptors (those above 2 are closed).
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from monolab.errors import LabError

SELF = Path(__file__).resolve().parent / "etc"  # the few files of /etc that programs ask for, as they are in every sandbox
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # beside /usr; links into it on most systems
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime")  # the linker's, the links that /usr/bin is full of, the time zone
GPU_DEVICES = ("nvidia*", "dri", "dxg")  # below /dev
GPU_FACTS = ("bus/pci", "devices", "class/drm", "module/nvidia", "module/nvidia_uvm")  # below /sys
DRIVER = re.compile(r"^\s*lib(?:cuda|nvidia|nvcuvid|nvoptix|dxcore)\S* .*=> (/\S+)$", re.MULTILINE)  # in what `ldconfig -p` prints
USER = ("--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000")
APART = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox")
FORBIDDEN = {  # settings of the kernel that keep user namespaces from everyone but root, and the value that does
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
}
START_SECONDS = 20.0  # a sandbox that has not started after so long does not work

# bubblewrap's outer process passes no signal on, and all inside ends with it: it must outlive a TERM for the candidate to have its grace. What it
# ignores everything that it starts would ignore as well, hence the second half, inside. It also closes what descriptors there are, and takes a new
# session keyring (keyctl 1): the kernel's keys are outside of every namespace, so that one run could leave them for the next.
OUTSIDE = ("/bin/sh", "-c", 'trap "" TERM HUP INT; exec "$@"', "sh")
INSIDE = """import ctypes, os, signal, sys
for name in ("TERM", "HUP", "INT", "PIPE", "XFSZ"):
    signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
ctypes.CDLL(None).syscall(ctypes.c_long(250 if os.uname().machine == "x86_64" else 219), ctypes.c_long(1), None)
os.closerange(3, os.sysconf("SC_OPEN_MAX"))
os.execvp(sys.argv[1], sys.argv[1:])"""


@dataclass(frozen=True)
class Isolation:
    """What keeps candidates apart on this machine."""

    kind: str  # "bwrap", or "none": candidates then share the user's account and see what the user sees
    version: str = ""
    reason: str = ""  # why there is none, or what this one lacks
    program: str = ""
    namespaces: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For receipts: "bwrap 0.8.0" or "none"."""
        return f"{self.kind} {self.version}".strip()


@functools.cache
def probe() -> Isolation:
    """Whether sandboxes work here, found out by starting one with the flags of all others; asked once in a process."""
    program = shutil.which("bwrap")
    if program is None:
        return Isolation("none", reason="bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap)")
    version = _attempt([program, "--version"])[0].rpartition(" ")[2]
    why = ""
    # Without a user namespace it takes root, or a bubblewrap that is installed setuid; and the kernel may let root have no other.
    for namespaces, lacks in ((USER + APART, ""), (APART, "no user namespace")):
        isolation = Isolation("bwrap", version, f"{lacks}: {why}" if lacks else "", program, namespaces)
        said, failed = _attempt(_prefix(isolation, Path("/"), [], [], [], gpu=False) + ["true"])
        if not failed:
            return isolation
        why = why or said or "it says nothing"
    forbidden = [
        f"{name.replace('/', '.')} is {value}"
        for name, value in FORBIDDEN.items()
        if (path := Path("/proc/sys", name)).exists() and path.read_text().strip() == value
    ]
    return Isolation("none", version, f"bubblewrap {version} starts no sandbox here: {'; '.join([why, *forbidden])}")


def require(who: str) -> None:
    """Raises LabError where sandboxes do not work; it begins with `who`, "program.md requires", say."""
    if probe().kind == "none":
        raise LabError(f"{who} a sandbox, and there is none: {probe().reason}", hint="apt install bubblewrap")


def _attempt(command: list[str]) -> tuple[str, bool]:
    """The last line of what `command` prints, and whether it failed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=START_SECONDS,
            env={"PATH": os.defpath},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error), True
    return done.stdout.strip().rpartition("\n")[2], done.returncode != 0


def command(
    argv: list[str], *, cwd: Path, read_only: Iterable[Path], writable: Iterable[Path] = (), hidden: Iterable[Path] = (), gpu: bool = False
) -> list[str]:
    """`argv` as it runs in a sandbox; `argv` itself where there is none (`probe` says so). An empty `argv` gives the prefix alone.

    Paths keep their names inside, and those that lead over links are there under both names. /tmp and /dev/shm are the sandbox's own, in memory;
    where nothing is `writable` they are all that can be written, and HOME and TMPDIR say /tmp. A process that ends by signal n gives 128 + n, as a
    shell does. TERM has to go to the processes inside (`supervise.run` sends it there); KILL of the first one ends all.
    Raises LabError when a path is not there, or when one would show a `hidden` path: is it, or contains it.
    """
    isolation = probe()
    if isolation.kind == "none":
        return list(argv)
    return _prefix(isolation, cwd, list(read_only), list(writable), list(hidden), gpu=gpu) + list(argv)


def _prefix(isolation: Isolation, cwd: Path, read_only: list[Path], writable: list[Path], hidden: list[Path], *, gpu: bool) -> list[str]:
    shown = {}  # where inside: (how, what)
    for path in (*_environment(), *(_driver() if gpu else ())):
        _show(shown, "--ro-bind", path)
    for path in read_only:
        _show(shown, "--ro-bind", path)
    for path in writable:
        _show(shown, "--bind", path)
    links, own = [], {Path("/etc", path.name): path for path in sorted(SELF.iterdir())}
    shown |= {inside: ("--ro-bind", path) for inside, path in own.items()}
    for name in SYSTEM:
        if (path := Path("/", name)).is_symlink():
            links += ["--symlink", os.readlink(path), str(path)]
            shown = {inside: bind for inside, bind in shown.items() if path not in inside.parents}  # there already, through the link
    for path in map(Path.resolve, hidden):
        for what in {what for _, what in shown.values()}:
            if path.is_relative_to(what):
                raise LabError(
                    f"{path} must stay hidden from candidates, and {what}, which they need, contains it", hint=f"move the lab out of {what}"
                )

    size = str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)
    memory = ["--perms", "1777", "--size", size, "--tmpfs"]
    mounts = [*links, "--proc", "/proc", "--dev", "/dev", *memory, "/dev/shm", *memory, "/tmp"]
    if gpu:
        for path in sorted(path for pattern in GPU_DEVICES for path in Path("/dev").glob(pattern)):
            mounts += ["--dev-bind", str(path), str(path)]
    for inside, (how, what) in sorted(shown.items(), key=lambda item: len(item[0].parts)):  # what lies in another comes after it
        mounts += [how, str(what), str(inside)]
    # /proc as well: whoever is root outside may write the kernel's settings below it, whatever capabilities are dropped.
    for path in ("/proc", "/dev", "/"):
        mounts += ["--remount-ro", path]
    words = ["--setenv", "USER", "candidate", "--setenv", "LOGNAME", "candidate"]
    if not writable:
        words += ["--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"]
    flags = [*isolation.namespaces, "--cap-drop", "ALL", "--new-session", "--die-with-parent", *mounts, *words, "--chdir", os.path.abspath(cwd)]
    return [*OUTSIDE, isolation.program, *flags, "--", sys.executable, "-I", "-S", "-c", INSIDE]


def _show(shown: dict[Path, tuple[str, Path]], how: str, path: Path) -> None:
    """Make `path` visible under its own name and, where links lead to it, under its real one."""
    try:
        what = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise LabError(
            f"{path} cannot be shown to a candidate: {getattr(error, 'strerror', None) or error}", hint="see whether it is there"
        ) from error
    for inside in (Path(os.path.abspath(path)), what):
        shown[inside] = (how, what)


@functools.cache
def _environment() -> tuple[Path, ...]:
    """The system's programs and libraries, and this interpreter with its packages, wherever they lie."""
    system = [path for path in (Path("/usr"), *(Path("/", name) for name in SYSTEM)) if path.is_dir() and not path.is_symlink()]
    facts = [path for path in (*(Path("/etc", name) for name in ETC), Path("/sys/devices/system")) if path.exists()]
    found = [*system, *facts, *sorted({Path(sys.prefix), Path(sys.base_prefix)})]
    hop = Path(os.path.abspath(sys.executable))
    for _ in range(40):  # from the environment's python over links to the real one; each must be there
        if not any(hop.is_relative_to(path) or hop.is_relative_to(path.resolve()) for path in found):
            found.append(hop)
        if not hop.is_symlink():
            break
        hop = Path(os.path.abspath(hop.parent / os.readlink(hop)))
    return tuple(path for path in found if path == Path("/usr") or Path("/usr") not in path.parents)


@functools.cache
def _driver() -> tuple[Path, ...]:
    """What a GPU needs beyond its device files: the driver's libraries where they lie outside of /usr, and the kernel's facts about it."""
    listed = subprocess.run(
        [shutil.which("ldconfig", path=f"{os.defpath}:/sbin:/usr/sbin") or "ldconfig", "-p"], stdout=subprocess.PIPE, text=True
    ).stdout
    libraries = [Path(path) for path in DRIVER.findall(listed) if not Path(path).resolve().is_relative_to("/usr")]
    toolkit = [Path(os.environ["CUDA_HOME"])] if Path(os.environ.get("CUDA_HOME") or "/nowhere").is_dir() else []
    return (*libraries, *toolkit, *(path for name in GPU_FACTS if (path := Path("/sys", name)).exists()))

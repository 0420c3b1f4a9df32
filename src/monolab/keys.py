"""What goes on from this process's environment, and what looks like a key. There is no other list of either.

A key (a password, a token, a private key) is read where it is used and goes nowhere from there: pueue keeps what it is given in a
file that everyone on the machine may read, a candidate may print what it is given, and git keeps what it is given for good.
"""

import os
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from string import ascii_lowercase, ascii_uppercase, digits

FOR_CANDIDATES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_HOME")
FOR_PUEUE = (
    *FOR_CANDIDATES,
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "DISPLAY",  # with the next two a queued run's alert finds the desktop
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "PUEUE_CONFIG_PATH",
    "CUDA_VISIBLE_DEVICES",
    "LAB_LOCK_DIR",
    "LAB_DEVICE",
    "UV",
    "SSL_CERT_FILE",
)

PASSED = frozenset(FOR_PUEUE)

# As text: re compiles them when they are first asked for (and keeps them), which no command does that only looks.
NAMES = (  # PWD and OLDPWD are folders, ASKPASS a program
    r"(?i)(^|_)(\w*KEY|\w*TOKEN|\w*SECRET|\w*(?<!ASK)(?<!BY)(?<!COM)PASS|\w*PASSW(OR)?D|\w+(?<!OLD)PWD|PASS(PHRASE|CODE)|CRED(ENTIAL)?|AUTH|COOKIE|PAT|DSN"
    r"|\w*WEBHOOK|BEARER|JWT|CONN(ECTION)?_STR(ING)?)S?(_\w+)?(?<!_SOCK)(?<!_FILE)(?<!_PATH)(?<!_DIR)$"
)
FORMATS = (  # of well-known issuers: specific enough that nothing else looks like them
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bsk-((ant|proj|svcacct|or)-[\w-]{20,}|[A-Za-z0-9]{40,})"
    r"|\bhf_[A-Za-z0-9]{30,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{50,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
    r"|\bhooks\.slack\.com/(services|workflows|triggers)/\w+/\w+/\w{16,}|\bdiscord(app)?\.com/api/webhooks/\d+/[\w-]{40,}"
)
LOGIN = (  # a password in a URL: before its host, or among its parameters
    r"(?i)\b[a-z][a-z0-9+.-]{0,20}://([^/\s:@]{0,200}:[^/\s@]{1,200}@|\S{0,500}[?&](\w*key|\w*token|sig|signature|secret|password|pwd|code)=[^&\s]{8,})"
)
RANDOM = r"[A-Za-z0-9_+=-]{24,}"  # no path, no version
LEAST = {"a": 4, "A": 4, "0": 2}  # small letters, capitals and digits: a UUID lacks one of them
KINDS = str.maketrans({char: kind for kind, chars in {"a": ascii_lowercase, "A": ascii_uppercase, "0": digits}.items() for char in chars})
LOOKED = 4096  # characters of a value that are looked at: what is longer is no key, or begins as one
MIXED = 0.45  # of neighbouring characters are of two kinds (of random ones 0.62, of WordsRunTogether and v2-3-names less than 0.4)
FILES = (
    r"(?i)\.env(\..+)?|\.envrc|\.alerts\.yaml|.+\.(pem|key|p12|pfx|ppk|kdbx|jks|keystore)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|[._]netrc|\.pgpass|\.pypirc"
    r"|\.git-credentials|\.htpasswd|credentials(\.(json|ya?ml|toml|ini|txt|csv))?|client_secret.*\.json|service[_-]account.*\.json|secrets?\.(json|ya?ml|toml|ini|env)"
)
FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".azure")
NOT_FILES = r"(?i).*\.(example|sample|template|dist)"  # .env.example: what a key's file looks like, without the key


def environment(allowed: Iterable[str]) -> dict[str, str]:
    """What of this process's environment `allowed` (one of the two lists here) lets through."""
    return {name: os.environ[name] for name in allowed if name in os.environ}


def named(env: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that look like keys; sorted. By their name, unless they name a file; by the format of their value; as a URL with a password in it;
    or, whatever they are called, as a long random string. A key of hexadecimal digits under a name that says nothing looks like any hash, and is missed."""
    others = {name: env[name] for name in env.keys() - PASSED}  # hardly ever any, and this is asked for every task of the queue
    return tuple(sorted(name for name, value in others.items() if value and _is_key(name, value)))


def _is_key(name: str, value: str) -> bool:
    name, value = name[:LOOKED], value[:LOOKED]
    by_name = re.search(NAMES, name) is not None and not (os.path.isabs(value) and os.path.exists(value))
    return by_name or any(re.search(looks, value) for looks in (FORMATS, LOGIN)) or _is_random(value)


def _is_random(value: str) -> bool:
    """Whether letters of both cases and digits follow each other as no words do."""
    if re.fullmatch(RANDOM, value) is None:
        return False
    kinds = value.translate(KINDS)
    enough = all(kinds.count(kind) >= least for kind, least in LEAST.items())
    return enough and sum(a != b for a, b in pairwise(kinds)) >= MIXED * (len(value) - 1)


def is_file(path: str) -> bool:
    """Whether a file of this name (a relative path, with /) is one that keys are kept in."""
    *folders, name = PurePosixPath(path).parts or ("",)
    return any(folder in FOLDERS for folder in folders) or (re.fullmatch(FILES, name) is not None and re.fullmatch(NOT_FILES, name) is None)


def in_text(text: str) -> str:
    """The first key of a well-known format in `text`, cut to what says which one it is; "" where there is none."""
    found = re.search(FORMATS, text)
    return f"{found[0][:8]}..." if found else ""

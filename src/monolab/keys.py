"""What goes on from this process's environment, and what looks like a key. There is no other list of either.

A key (a password, a token, a private key) is read where it is used and goes nowhere from there: pueue keeps what it is given in a
file that everyone on the machine may read, a candidate may print what it is given, and git keeps what it is given for good.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

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

NAMES = re.compile(
    r"(^|_)(\w*KEY|\w*TOKEN|SECRETS?|PASS|\w*PASSW(OR)?D|PASSPHRASE|CREDENTIALS?|AUTH|COOKIE|PAT|DSN)S?(_\w+)?(?<!_SOCK)(?<!_FILE)(?<!_PATH)(?<!_DIR)$",
    re.IGNORECASE,
)
FORMATS = re.compile(  # of well-known issuers: specific enough that nothing else looks like them
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bsk-((ant|proj|svcacct|or)-[\w-]{20,}|[A-Za-z0-9]{40,})"
    r"|\bhf_[A-Za-z0-9]{30,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{50,}|\bglpat-[\w-]{20,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
LOGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)  # a password in a URL
FILES = re.compile(
    r"\.env(\..+)?|\.envrc|\.alerts\.yaml|.+\.(pem|key|p12|pfx|ppk|kdbx|jks|keystore)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|[._]netrc|\.pgpass|\.pypirc"
    r"|\.git-credentials|\.htpasswd|credentials(\.(json|ya?ml|toml|ini|txt|csv))?|client_secret.*\.json|service[_-]account.*\.json|secrets?\.(json|ya?ml|toml|ini|env)",
    re.IGNORECASE,
)
FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".azure")
NOT_FILES = re.compile(r".*\.(example|sample|template|dist)", re.IGNORECASE)  # .env.example: what a key's file looks like, without the key


def environment(allowed: Iterable[str]) -> dict[str, str]:
    """What of this process's environment `allowed` (one of the two lists here) lets through."""
    return {name: os.environ[name] for name in allowed if name in os.environ}


def named(env: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that look like keys, by their name, by the format of their value, or as a URL with a password in it; sorted."""
    others = {name: env[name] for name in env.keys() - PASSED}  # hardly ever any, and this is asked for every task of the queue
    return tuple(sorted(name for name, value in others.items() if value and (NAMES.search(name) or FORMATS.search(value) or LOGIN.search(value))))


def is_file(path: str) -> bool:
    """Whether a file of this name (a relative path, with /) is one that keys are kept in."""
    *folders, name = PurePosixPath(path).parts or ("",)
    return any(folder in FOLDERS for folder in folders) or (FILES.fullmatch(name) is not None and NOT_FILES.fullmatch(name) is None)


def in_text(text: str) -> str:
    """The first key of a well-known format in `text`, cut to what says which one it is; "" where there is none."""
    found = FORMATS.search(text)
    return f"{found[0][:8]}..." if found else ""

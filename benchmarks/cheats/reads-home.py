"""Reads the user's home folder: passwords, keys, caches."""

CAUGHT, PROCESS = "sandbox", "train"
SAYS = (r"DENIED netrc: FileNotFoundError", r"DENIED account: (FileNotFoundError|KeyError|LookupError|PermissionError)")
TRAIN = """
import pwd

def account():
    found = [str(path) for entry in pwd.getpwall() if entry.pw_dir not in ("/", "/tmp") for path in Path(entry.pw_dir).glob("*")]
    found = [path for path in found if not path.startswith(sys.base_prefix)]
    if not found:
        raise LookupError("no account has a home with anything in it")
    return found

attempt("netrc", lambda: Path("@HOME@/.netrc").read_text())
attempt("account", account)
"""

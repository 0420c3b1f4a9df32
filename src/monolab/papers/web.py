"""HTTP to the services of papers: paced per host, retried with back-off, cached on disk.

Settings come from the environment, read at each use:
`LAB_CACHE_DIR` (default: the user's cache folder), `LAB_PAPERS_TIMEOUT` (seconds, 30), `LAB_PAPERS_PACE` (multiplies the least time
between two requests to a host and the back-off, 1), `LAB_{NAME}_URL` (where a service is, for a mirror or a test).
"""

import fcntl
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from monolab import __version__, receipts
from monolab.errors import LabError
from monolab.papers import record

ATTEMPTS = 4
LONGEST_WAIT = 60.0  # seconds: a service that asks for more is reported, not waited for
PATIENCE = 90.0  # seconds for one request with all its repetitions
TRANSIENT = (429, 500, 502, 503, 504)
ANSWER_LIMIT = 20 * 2**20  # bytes of an API's answer
DAY = 24 * 3600.0
KEPT = 30 * DAY  # a cached answer older than this is removed


class WebError(LabError):
    """A request that did not succeed. `status` is the HTTP status, None where there was no answer."""

    def __init__(self, what: str, hint: str = "", status: int | None = None):
        super().__init__(what, hint)
        self.status = status


class Again(Exception):
    """What a request came to may be better next time, after `wait` seconds (None: as the back-off has it)."""

    def __init__(self, error: WebError, wait: float | None = None):
        super().__init__(str(error))
        self.error = error
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """A successful answer (status 200). `url` is where it came from in the end."""

    url: str
    kind: str  # the content type, lower case, without parameters
    body: bytes

    def json(self) -> dict:
        """The body as a JSON object. Raises WebError where it is none."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise WebError(f"{host(self.url)} answered with something that is not JSON: {error}", hint="try again later") from error
        if not isinstance(value, dict):
            raise WebError(f"{host(self.url)} answered with JSON of another form: no object", hint="try again later")
        return value


_REFRESH: ContextVar[bool] = ContextVar("refresh", default=False)


@contextmanager
def refreshed(on: bool = True) -> Iterator[None]:
    """Inside of it nothing is taken from the cache; what comes is cached."""
    token = _REFRESH.set(on)
    try:
        yield
    finally:
        _REFRESH.reset(token)


def base(name: str, default: str) -> str:
    """Where a service is: `LAB_{NAME}_URL`, else `default`. Without a slash at its end."""
    return (os.environ.get(f"LAB_{name.upper()}_URL") or default).rstrip("/")


def host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def folder() -> Path:
    """Where answers are cached and hosts are paced, outside of any repository."""
    given = os.environ.get("LAB_CACHE_DIR")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given) if given else Path(user) / "monolab") / "papers"


def request(
    url: str,
    *,
    params: dict[str, str | int] | None = None,
    headers: dict[str, str] | None = None,
    json_body: dict | None = None,
    secrets: tuple[str, ...] = (),
    interval: float = 1.0,
    max_age: float = 0.0,
    limit: int = ANSWER_LIMIT,
    follow: bool = False,
    check: Callable[[Answer], object] = lambda answer: None,
) -> Answer:
    """GET `url` (POST where there is a `json_body`), repeated with back-off while the service is busy or broken.

    `interval` is the least time in seconds between two requests to this host, over all processes. An answer is taken from the cache
    while it is younger than `max_age` seconds, unless inside of `refreshed()`. `secrets` names the parameters that are no part of the cache's key.
    `follow` allows redirects: not for a request that carries a key, which another host must not see. `check` raises WebError for an
    answer with status 200 that is none, Again where the next may be one; what does not pass is not cached.
    Raises WebError: no answer, a status that is not 200, more than `limit` bytes.
    """
    import httpx  # noqa: F401  now: what it takes to load must not lie between a turn and its request
    import tenacity

    params = params or {}
    cached = folder() / "answers" / f"{_key(url, params, json_body, secrets)}.json"
    if max_age and not _REFRESH.get() and (found := _cached(cached, max_age)):
        return found

    def once() -> Answer:
        _wait_for_turn(url, interval)
        answer = _send(url, params, headers or {}, json_body, limit, follow)
        check(answer)
        return answer

    def wait(state: tenacity.RetryCallState) -> float:
        again = state.outcome.exception()
        backoff = _pace() * (2.0**state.attempt_number + random.random())  # 2, 4, 8 s and up to 1 s: processes must not repeat in step
        return max(again.wait or 0.0, backoff)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Again),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE),
        wait=wait,
        reraise=True,
    )
    try:
        answer = retrying(once)
    except Again as again:
        raise again.error from again
    if max_age:
        _keep(cached, answer)
    return answer


def _send(url: str, params: dict, headers: dict, json_body: dict | None, limit: int, follow: bool) -> Answer:
    import httpx

    timeout = _setting("LAB_PAPERS_TIMEOUT", 30.0)
    where = host(url)
    try:
        with (
            httpx.Client(timeout=timeout, follow_redirects=follow, max_redirects=8) as client,
            client.stream(
                "POST" if json_body is not None else "GET",
                url,
                params=params or None,
                json=json_body,
                headers={"User-Agent": f"monolab/{__version__}"} | headers,
            ) as response,
        ):
            where = host(str(response.url))
            body = _read(response, where, limit) if response.status_code == 200 else next(response.iter_bytes(2000), b"")
            return _answer(response, where, body)
    except httpx.TimeoutException as error:
        raise Again(WebError(f"{where} did not answer within {timeout:g} s", hint="try again later")) from error
    except httpx.ConnectError as error:
        raise WebError(f"{where} cannot be reached: {error}", hint="look at the network; what was saved is in 0_docs/papers/") from error
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise WebError(f"{where or url}: {error}", hint="look at the address") from error
    except httpx.TransportError as error:  # the connection broke, also in the middle of a body
        raise Again(WebError(f"{where} broke off: {error}", hint="try again")) from error
    except httpx.DecodingError as error:
        raise WebError(f"{where} sent a damaged body: {error}", hint="try again later") from error


def _read(response, where: str, limit: int) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > limit:
            raise WebError(f"{where} sends more than {limit / 2**20:.0f} MB", hint="save the file yourself, then: lab papers fetch FILE.pdf")
        chunks.append(chunk)
    return b"".join(chunks)


def _answer(response, where: str, body: bytes) -> Answer:
    status = response.status_code
    if status == 200:
        return Answer(str(response.url), response.headers.get("content-type", "").partition(";")[0].strip().lower(), body)
    said = _said(body)
    error = WebError(f"{where} answered {status}{said}", hint=_advice(status), status=status)
    if status not in TRANSIENT:
        raise error
    pause = _retry_after(response.headers.get("retry-after"))
    if pause is None:
        raise Again(error)
    if pause > LONGEST_WAIT:
        raise WebError(f"{where} answered {status} and wants to be left alone for {pause:.0f} s", hint=_advice(status), status=status)
    _hold(str(response.url), pause)  # for every process
    raise Again(error, pause)


def _advice(status: int) -> str:
    known = {
        401: "the key is missing or wrong: look at the environment",
        402: "it wants to be paid: save the PDF yourself, then: lab papers fetch FILE.pdf",
        403: "it refuses this program: save the PDF yourself, then: lab papers fetch FILE.pdf",
        404: "look at the identifier",
        429: "wait some minutes; a key of one's own (S2_API_KEY, OPENALEX_API_KEY) allows more",
    }
    return known.get(status, "try again later")


def _said(body: bytes) -> str:
    """What a service says of its error, if it says it in JSON: one line."""
    try:
        value = json.loads(body)
    except ValueError:
        return ""
    text = next((value[name] for name in ("message", "error") if isinstance(value.get(name), str)), "") if isinstance(value, dict) else ""
    return f": {record.line(text)[:200]}" if text else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


# -- one pace for all processes -----------------------------------------------------------------------------------


def _setting(name: str, default: float) -> float:
    given = os.environ.get(name, "")
    try:
        value = float(given) if given else default
    except ValueError:
        value = -1.0
    if not 0 <= value < 3600:
        raise LabError(f"{name}={given!r}: a number from 0 to 3600", hint=f"unset {name}")
    return value


def _pace() -> float:
    return _setting("LAB_PAPERS_PACE", 1.0)


@contextmanager
def locked(name: str) -> Iterator[Path]:
    """Hold the lock of that name against other processes and threads; yields its file, which may hold something."""
    path = folder() / "locks" / hashlib.sha256(name.encode()).hexdigest()[:24]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise LabError(f"{path.parent} cannot be written: {error.strerror}", hint="LAB_CACHE_DIR=DIR names another folder") from error
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def _wait_for_turn(url: str, interval: float) -> None:
    """Take this host's next free moment, and sleep until then."""
    with locked(f"host {host(url)}") as path:
        now = time.time()
        turn = max(now, _next(path, now))
        path.write_text(repr(turn + interval * _pace()))
    if turn > now:
        time.sleep(turn - now)


def _hold(url: str, seconds: float) -> None:
    with locked(f"host {host(url)}") as path:
        now = time.time()
        path.write_text(repr(max(_next(path, now), now + seconds)))


def _next(path: Path, now: float) -> float:
    """When the next request may go out. What lies further ahead than any wait can was written under another clock."""
    try:
        at = float(path.read_text() or "0")
    except ValueError:  # cut off in a crash
        return 0.0
    return at if at < now + 10 * LONGEST_WAIT else 0.0


# -- the cache ----------------------------------------------------------------------------------------------------


def _key(url: str, params: dict, json_body: dict | None, secrets: tuple[str, ...]) -> str:
    asked = [url, sorted((name, str(value)) for name, value in params.items() if name not in secrets), json_body]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _cached(path: Path, max_age: float) -> Answer | None:
    try:
        if not 0 <= time.time() - path.stat().st_mtime < max_age:
            return None
        value = json.loads(path.read_text())
        return Answer(value["url"], value["kind"], value["body"].encode())
    except (FileNotFoundError, ValueError, KeyError):  # not there, or damaged: asked again, and written anew
        return None


def _keep(path: Path, answer: Answer) -> None:
    """Only text is kept, without the address's parameters: a key may be among them. The folder is rid of old answers once a day."""
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        return
    value = {"url": answer.url.partition("?")[0], "kind": answer.kind, "fetched": datetime.now(UTC).isoformat(timespec="seconds"), "body": text}
    receipts.write_atomic(path, json.dumps(value))
    swept = path.parent.parent / "swept"
    now = time.time()
    with locked("sweep"):
        if not swept.exists() or now - swept.stat().st_mtime > DAY:
            swept.touch()
            for old in path.parent.glob("*.json"):
                if now - old.stat().st_mtime > KEPT:
                    old.unlink()

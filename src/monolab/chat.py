"""One prompt to a model behind an OpenAI-compatible address, and its answer: an agent for autopilot where there is no coding agent.

llama.cpp, vLLM and ollama serve such an address on one's own machine (`http://127.0.0.1:8080/v1`), and most services of models do.
"""

import json
import os
import random
from urllib.parse import urlsplit

from monolab import __version__, fence
from monolab.errors import LabError

ATTEMPTS = 4
PAUSE = 2.0  # seconds before the second attempt, doubled before each further one
LONGEST_PAUSE = 60.0  # seconds: a service that asks for more is reported, not waited for
TRANSIENT = (408, 429, 500, 502, 503, 504, 529)


class Busy(LabError):
    """The service is busy or broken, and may answer after `pause` seconds (None: it does not say)."""

    def __init__(self, what: str, pause: float | None = None):
        super().__init__(what, hint="wait, then ask again")
        self.pause = pause


def ask(
    prompt: str,
    url: str,
    model: str,
    *,
    key_env: str = "",
    temperature: float | None = None,
    max_tokens: int | None = None,
    seconds: float = 1200.0,
    pause: float = PAUSE,
) -> dict:
    """The model's `answer`, a text, and `usage`: tokens_in, tokens_out, cost in US dollars, None where it does not tell. `agent` reads this form.

    `key_env` names the variable of the environment that holds the key. A service that is busy or broken is asked up to four times; an answer may take
    `seconds`. Raises LabError saying what is missing, what the service said, or that an answer has no text.
    """
    import tenacity

    if not prompt.strip():
        raise LabError("there is no prompt on stdin", hint=f"echo Hello | lab chat --url {url} --model {model}")
    if key_env and not os.environ.get(key_env):
        raise LabError(f"{key_env} is not set, and should hold the key", hint=f"export {key_env}=..., or leave --key-env out")
    headers = {"User-Agent": f"monolab/{__version__}"} | ({"Authorization": f"Bearer {os.environ[key_env]}"} if key_env else {})
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": False}
    body |= {name: value for name, value in {"temperature": temperature, "max_tokens": max_tokens}.items() if value is not None}

    def wait(state: tenacity.RetryCallState) -> float:
        return max(state.outcome.exception().pause or 0.0, pause * (2.0 ** (state.attempt_number - 1) + random.random()))

    retrying = tenacity.Retrying(retry=tenacity.retry_if_exception_type(Busy), stop=tenacity.stop_after_attempt(ATTEMPTS), wait=wait, reraise=True)
    return _told(retrying(_send, url.rstrip("/"), headers, body, seconds), _host(url))


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _send(url: str, headers: dict[str, str], body: dict, seconds: float) -> bytes:
    import httpx

    where = _host(url)
    try:
        response = httpx.post(f"{url}/chat/completions", headers=headers, json=body, timeout=httpx.Timeout(seconds, connect=10.0))
    except httpx.ConnectError as error:
        raise LabError(f"{where} cannot be reached: {error}", hint="start the model's server, or look at --url") from error
    except httpx.TimeoutException as error:
        raise LabError(f"{where} did not answer within {seconds:g} s", hint="--seconds N allows more; --max-tokens N asks for less") from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise LabError(f"{url!r} is no address: {error}", hint="--url http://127.0.0.1:8080/v1") from error
    except httpx.TransportError as error:
        raise Busy(f"{where} broke off: {error}") from error
    if response.status_code == 200:
        return response.content
    said = _said(response.content)
    what = f"{where} answered {response.status_code}{f': {said}' if said else ''}"
    if response.status_code in TRANSIENT:
        asked = response.headers.get("retry-after", "")
        pause = float(asked) if asked.isdecimal() else None
        if pause is None or pause <= LONGEST_PAUSE:
            raise Busy(what, pause)
        raise LabError(f"{what}; it wants to be left alone for {pause:.0f} s", hint="wait, then ask again")
    if response.status_code in (401, 403):
        raise LabError(what, hint="--key-env NAME names the variable that holds the key")
    raise LabError(what, hint=f"look at --url (most end in /v1) and at --model{_models(url, headers)}")


def _said(body: bytes) -> str:
    """What a service says of its error, on one line. The dialects differ in where they put it."""
    try:
        value = json.loads(body)
    except ValueError:
        return ""
    for name in ("error", "message", "detail"):
        value = value.get(name, value) if isinstance(value, dict) else value
    return fence.line(value if isinstance(value, str) else json.dumps(value))[:300]


def _models(url: str, headers: dict[str, str]) -> str:
    """The models that the service has, as the end of a hint; "" where it does not tell."""
    import httpx

    try:
        listed = httpx.get(f"{url}/models", headers=headers, timeout=10.0).json()["data"]
        names = [str(one["id"]) for one in listed]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""
    return fence.line(f", one of: {', '.join(names[:20])}") if names else ""


def _told(body: bytes, where: str) -> dict:
    """The answer and the usage in a completion."""
    try:
        value = json.loads(body)
        choice = value["choices"][0]
        text = choice["message"].get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LabError(
            f"{where} answered with no chat completion: {_said(body) or type(error).__name__}", hint="look at --url: most end in /v1"
        ) from error
    ended = choice.get("finish_reason")
    if not isinstance(text, str) or not text.strip():
        hint = "a larger --max-tokens" if ended == "length" else "ask again, or another --model"
        raise LabError(f"{where} answered without a text (it ended with {ended!r})", hint=hint)
    usage = value.get("usage") or {}
    counts = {"tokens_in": usage.get("prompt_tokens"), "tokens_out": usage.get("completion_tokens"), "cost": usage.get("cost")}
    return {"answer": text, "usage": counts}

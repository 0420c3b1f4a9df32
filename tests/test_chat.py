"""`lab chat` against a server on this machine that answers, and refuses, as llama.cpp, vLLM, ollama and paid services do."""

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monolab import agent, chat, cli
from monolab.errors import LabError

ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello.\ud83d\ude00"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
}
MODELS = {"data": [{"id": "small"}, {"id": "large"}]}


@dataclass
class Service:
    """Answers in turn, the last one again and again: (status, body or None for a broken connection, headers)."""

    url: str = ""
    answers: list[tuple[int, object, dict]] = field(default_factory=lambda: [(200, ANSWER, {})])
    asked: list[dict] = field(default_factory=list)  # path, headers, body


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, MODELS if self.path == "/v1/models" else {}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
            self._send(*(service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]))

        def _send(self, status: int, value: object, headers: dict) -> None:
            if value is None:
                return
            body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield service
    server.shutdown()
    server.server_close()


def asked(service: Service, **more) -> dict:
    return chat.ask("Say hello.", service.url, "small", pause=0.0, **more)


def test_the_prompt_goes_out_and_the_answer_comes_back_with_its_usage(service, monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "k-1")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Say hello, ü.".encode())))
    cli.main(["chat", "--url", f"{service.url}/", "--model", "small", "--key-env", "MY_KEY", "--temperature", "0", "--max-tokens", "50"])
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"answer": "Hello.\U0001f600", "usage": {"tokens_in": 12, "tokens_out": 3, "cost": None}}
    said = agent.read(printed)
    assert (said.text, said.tokens_in, said.tokens_out, said.cost) == ("Hello.\U0001f600", 12, 3, None)
    (request,) = service.asked
    messages = [{"role": "user", "content": "Say hello, ü."}]
    assert request["path"] == "/v1/chat/completions" and request["headers"]["Authorization"] == "Bearer k-1"
    assert request["body"] == {"model": "small", "messages": messages, "stream": False, "temperature": 0.0, "max_tokens": 50}


def test_what_is_not_said_is_not_sent_and_what_is_not_told_is_not_known(service):
    service.answers = [(200, {"choices": ANSWER["choices"]}, {})]
    assert asked(service)["usage"] == {"tokens_in": None, "tokens_out": None, "cost": None}
    (request,) = service.asked
    assert "Authorization" not in request["headers"] and request["body"].keys() == {"model", "messages", "stream"}


def test_a_price_is_handed_on(service):
    service.answers = [(200, ANSWER | {"usage": ANSWER["usage"] | {"cost": 0.0021}}, {})]
    assert asked(service)["usage"]["cost"] == 0.0021


def test_a_busy_service_is_asked_again(service):
    service.answers = [(503, {"error": {"message": "Loading model"}}, {}), (429, {}, {"Retry-After": "0"}), (0, None, {}), (200, ANSWER, {})]
    assert asked(service)["answer"].startswith("Hello.")
    assert len(service.asked) == 4


def test_one_that_stays_busy_is_reported(service):
    service.answers = [(529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, {})]
    with pytest.raises(LabError, match=r"127.0.0.1:\d+ answered 529: Overloaded") as error:
        asked(service)
    assert len(service.asked) == chat.ATTEMPTS and agent.TRANSIENT.search(error.value.what)


def test_one_that_wants_a_long_pause_is_left_alone(service):
    service.answers = [(429, "", {"Retry-After": "3600"})]
    with pytest.raises(LabError, match="left alone for 3600 s"):
        asked(service)
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("answer", "wrong", "hint"),
    [
        ((404, {"error": {"message": 'model "smal" not found, try pulling it first'}}, {}), "answered 404: model", "one of: small, large"),  # ollama
        ((404, {"object": "error", "message": "The model `smal` does not exist."}, {}), "does not exist", "one of: small, large"),  # vLLM
        ((400, {"error": "context\x1b[1m too long"}, {}), "answered 400: context.x1b.1m too long", "--model"),
        ((401, {"detail": "no key"}, {}), "answered 401: no key", "--key-env"),
        ((302, "", {"Location": "http://127.0.0.1:9/"}), "answered 302", "--url"),
        ((200, "<html>", {}), "no chat completion", "/v1"),
        ((200, {"error": {"message": "quota"}}, {}), "no chat completion: quota", "/v1"),
        ((200, {"choices": []}, {}), "no chat completion", "/v1"),
        (
            (200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, {}),
            "without a text .it ended with 'length'",
            "--max-tokens",
        ),
        ((200, {"choices": [{"message": {"content": "  "}, "finish_reason": "stop"}]}, {}), "without a text", "ask again"),
    ],
)
def test_what_goes_wrong_is_told_once_with_what_helps(service, answer, wrong, hint):
    service.answers = [answer]
    with pytest.raises(LabError, match=wrong) as error:
        asked(service)
    assert hint in error.value.hint and len(service.asked) == 1


def test_what_cannot_be_asked(service, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(LabError, match="no prompt on stdin"):
        chat.ask(" \n", service.url, "small")
    with pytest.raises(LabError, match="NO_KEY is not set"):
        asked(service, key_env="NO_KEY")
    with pytest.raises(LabError, match="is no address"):
        chat.ask("Hello", "127.0.0.1:80", "small")
    assert service.asked == []


def test_no_answer_in_time(service):
    late = threading.Event()
    service.answers = _Late(late)
    with pytest.raises(LabError, match="did not answer within 0.2 s"):
        asked(service, seconds=0.2)
    late.set()


class _Late(list):
    """Answers that come only once the event is set."""

    def __init__(self, event: threading.Event):
        super().__init__([(200, ANSWER, {})])
        self.event = event

    def __getitem__(self, place):
        self.event.wait(20)
        return super().__getitem__(place)


def test_it_is_an_agent(service, tmp_path):
    reply = agent.run(f"lab chat --url {service.url} --model small", "Say hello.", cwd=tmp_path, seconds=60, log=tmp_path / "log")
    assert (reply.status, reply.text, reply.tokens_in, reply.tokens_out) == ("ok", "Hello.\U0001f600", 12, 3)
    gone = f"lab chat --url {service.url.replace('127.0.0.1', '127.0.0.2')} --model small"  # where nothing listens
    reply = agent.run(gone, "Say hello.", cwd=tmp_path, seconds=60, log=tmp_path / "log")
    assert (reply.status, reply.transient) == ("failed", True) and "cannot be reached" in reply.why

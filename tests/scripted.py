"""A model server that says what a test has written down, in the three dialects that coding agents speak: Anthropic's messages, OpenAI's responses, and chat."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DONE = {"text": "Done."}


@dataclass
class Model:
    """`replies` in turn ({"text": ...} or {"tool": NAME, "input": {...}}), then DONE. `asked`: bodies of the requests that offered tools."""

    replies: list[dict]
    url: str = ""
    asked: list[dict] = field(default_factory=list)
    aside: list[dict] = field(default_factory=list)  # of those that did not: titles, summaries
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict) -> tuple[int, dict]:
        with self.lock:
            if not body.get("tools"):
                self.aside.append(body)
                return 0, {"text": "a title"}
            self.asked.append(body)
            place = len(self.asked)
            return place, self.replies.pop(0) if self.replies else DONE


def _messages(place: int, reply: dict) -> Iterator[tuple[str, dict]]:
    usage = {"input_tokens": 100, "output_tokens": 10}
    message = {"id": f"msg_{place}", "type": "message", "role": "assistant", "model": "scripted", "content": [], "stop_reason": None, "usage": usage}
    yield "message_start", {"message": message}
    if "tool" in reply:
        block = {"type": "tool_use", "id": f"toolu_{place}", "name": reply["tool"], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(reply["input"])}
    else:
        block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": reply["text"]}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    yield "message_delta", {"delta": {"stop_reason": "tool_use" if "tool" in reply else "end_turn", "stop_sequence": None}, "usage": usage}
    yield "message_stop", {}


def _responses(place: int, reply: dict) -> Iterator[tuple[str, dict]]:
    yield "response.created", {"response": {"id": f"resp_{place}"}}
    if "tool" in reply:
        given = reply["input"]
        custom = isinstance(given, str)
        item = {"type": "custom_tool_call", "input": given} if custom else {"type": "function_call", "arguments": json.dumps(given)}
        item |= {"id": f"item_{place}", "name": reply["tool"], "call_id": f"call_{place}"}
    else:
        item = {"type": "message", "role": "assistant", "id": f"item_{place}", "content": [{"type": "output_text", "text": reply["text"]}]}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    usage = {"input_tokens": 100, "input_tokens_details": None, "output_tokens": 10, "output_tokens_details": None, "total_tokens": 110}
    yield "response.completed", {"response": {"id": f"resp_{place}", "usage": usage}}


def _chat(place: int, reply: dict) -> Iterator[tuple[str, dict]]:
    if "tool" in reply:
        call = {"index": 0, "id": f"call_{place}", "type": "function"}
        delta = {"tool_calls": [call | {"function": {"name": reply["tool"], "arguments": json.dumps(reply["input"])}}]}
    else:
        delta = {"content": reply["text"]}
    common = {"id": f"chat_{place}", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}
    yield "", common | {"choices": [{"index": 0, "delta": {"role": "assistant"} | delta, "finish_reason": None}]}
    end = {"index": 0, "delta": {}, "finish_reason": "tool_calls" if "tool" in reply else "stop"}
    yield "", common | {"choices": [end], "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}}


DIALECTS = {"/v1/messages": _messages, "/v1/responses": _responses, "/v1/chat/completions": _chat}


@contextmanager
def serve(*replies: dict) -> Iterator[Model]:
    """A Model that listens on a free port of the loopback."""
    model = Model(list(replies))

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer(b'{"data": [], "models": []}', "application/json")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
            dialect = DIALECTS.get(self.path.partition("?")[0])
            if dialect is None:  # counting tokens, telemetry
                return self._answer(b'{"input_tokens": 100}', "application/json")
            lines = []
            for event, data in dialect(*model.reply(body)):
                lines += [f"event: {event}"] if event else []
                lines += [f"data: {json.dumps(({'type': event} if event else {}) | data)}", ""]
            lines += [] if dialect is not _chat else ["data: [DONE]", ""]
            self._answer(("\n".join(lines) + "\n").encode(), "text/event-stream")

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()

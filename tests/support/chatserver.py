"""A scripted chat server on loopback that misbehaves on demand and records its requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Reply:
    """A response of the server.

    Args:
        body: bytes are sent unchanged; a string becomes a chat completion with this content.
        status: HTTP status.
        headers: additional HTTP headers.
        cut: close the connection after this many bytes of the body; -1 for never.
        drip: seconds between single bytes of the body.
        endless: send spaces after the body without end.
        delay: seconds before the response begins.
    """

    body: str | bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = -1
    drip: float = 0.0
    endless: bool = False
    delay: float = 0.0


def completion(
    text: str | None, finish: str = "stop", code: str | None = None, tokens: tuple[int, int] | None = (10, 5)
) -> bytes:
    """JSON of a chat completion, with a tool call if `code` is given."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if code is not None:
        function = {"name": "python", "arguments": json.dumps({"code": code})}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    data: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 0, "model": "served-model"}
    data["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    if tokens:
        data["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return json.dumps(data).encode()


def failure(status: int, message: str = "no", code: str = "", **headers: str) -> Reply:
    """An error response in the format of OpenAI-compatible servers."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": code or None}}).encode()
    return Reply(body, status, {key.replace("_", "-"): value for key, value in headers.items()})


def streamed(body: bytes, pieces: int = 3, cut: int | None = None, done: bool = True) -> bytes:
    """A chat completion as the stream of events that servers document; cut off after `cut` events."""
    data = json.loads(body)
    usage, choice = data.pop("usage", None), data["choices"][0]
    message, head = choice["message"], {**data, "object": "chat.completion.chunk"}

    def event(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    def split(text: str) -> list[str]:
        size = max(1, -(-len(text) // pieces))
        return [text[start : start + size] for start in range(0, len(text), size)]

    events = [event({"role": "assistant", "content": message.get("content") and ""})]
    for name, value in message.items():
        if name == "tool_calls":
            for place, call in enumerate(value):
                function = dict(call["function"])
                arguments = function.pop("arguments")
                first = {**call, "index": place, "function": {**function, "arguments": ""}}
                events.append(event({"tool_calls": [first]}))
                parts = split(arguments) if isinstance(arguments, str) else [arguments]
                events += [event({"tool_calls": [{"index": place, "function": {"arguments": x}}]}) for x in parts]
        elif name != "role" and isinstance(value, str):
            events += [event({name: piece}) for piece in split(value)]
        elif name != "role" and isinstance(value, list):
            events += [event({name: [part]}) for part in value]
    events.append(event({}, choice["finish_reason"]))
    if usage:
        events.append({**head, "choices": [], "usage": usage})
    lines = [f"data: {json.dumps(item)}\n\n" for item in events][:cut]
    return "".join([": keep-alive\n\n", *lines, *(["data: [DONE]\n\n"] if done and cut is None else [])]).encode()


class ChatServer:
    """`with ChatServer(script) as server:`; the script maps each request's number and JSON to a reply."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Reply | bytes | str]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.paths: set[str] = set()
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.at_once = self.most_at_once = 0
        self.arrivals: list[float] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                    outer.arrivals.append(time.monotonic())
                    outer.authorizations.add(self.headers.get("Authorization", ""))
                    outer.paths.add(self.path)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    outer.at_once += 1
                    outer.most_at_once = max(outer.at_once, outer.most_at_once)
                try:
                    reply = script(number, request)
                    self.send(reply if isinstance(reply, Reply) else Reply(reply))
                except OSError:
                    self.close_connection = True
                finally:
                    with outer._lock:
                        outer.at_once -= 1

            def send(self, reply: Reply) -> None:
                time.sleep(reply.delay)
                body = completion(reply.body) if isinstance(reply.body, str) else reply.body
                if reply.cut == 0 and not body:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(10**12 if reply.endless else len(body)))
                self.end_headers()
                if reply.cut >= 0:
                    body, self.close_connection = body[: reply.cut], True
                if reply.drip:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(reply.drip)
                else:
                    self.wfile.write(body)
                while reply.endless:
                    self.wfile.write(b" " * 65536)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 512

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

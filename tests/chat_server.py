"""A chat server on this machine that misbehaves on request."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import pytest

STRIKE = getattr(signal, "SIGUSR1", signal.SIGTERM)


class Server(ThreadingHTTPServer):
    """Answers each request with the next behavior, the last one repeatedly; stores the requests."""

    daemon_threads = True

    def __init__(self, behaviors: list["Behavior"]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviors = behaviors
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        """Set when the test is over, for behaviors that wait."""
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of clients that disconnect, which some tests cause."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.paths.append(self.path)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.bodies.append(self.body)
            behaviors = self.server.behaviors
            behavior = behaviors.pop(0) if len(behaviors) > 1 else behaviors[0]
        behavior(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Behavior: TypeAlias = Callable[[Handler], Any]


def answers(body: bytes | str, status: int = 200, **headers: str) -> Behavior:
    """A whole response; ``_`` in the name of a header stands for ``-``."""
    data = body.encode() if isinstance(body, str) else body

    def behavior(handler: Handler) -> None:
        handler.send_response(status)
        if not {"Content_Length", "Transfer_Encoding"} & headers.keys():
            handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return behavior


def says(text: Any, prompt: Any = 100, reply: Any = 10, reason: Any = "stop") -> Behavior:
    """A chat completion with its count of tokens, and why it ended."""
    value = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": reply},
    }
    return answers(json.dumps(value), Content_Type="application/json")


def fails(status: int, text: str = '{"error": "no"}', **headers: str) -> Behavior:
    return answers(text, status, **headers)


def hangs(handler: Handler) -> None:
    """Does not answer until the test is over."""
    handler.server.over.wait(20)


def hangs_up(handler: Handler) -> None:
    """Closes the connection without an answer."""
    handler.close_connection = True


def drips(handler: Handler) -> None:
    """Sends one byte after another until the client disconnects."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.over.wait(0.01):
        handler.wfile.write(b" ")


def strikes(count: int) -> Behavior:
    """Sends a signal to this process after a number of requests, and does not answer."""

    def behavior(handler: Handler) -> None:
        while len(handler.server.bodies) < count and not handler.server.over.wait(0.001):
            pass
        os.kill(os.getpid(), STRIKE)
        hangs(handler)

    return behavior


@contextmanager
def struck() -> Iterator[None]:
    """The signal must end the block and its threads."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(number)

    before = signal.signal(STRIKE, end)
    try:
        with pytest.raises(SystemExit):
            yield
    finally:
        signal.signal(STRIKE, before)
    for thread in threading.enumerate():
        if "ThreadPoolExecutor" in thread.name or "(work)" in thread.name:
            thread.join()


@contextmanager
def serving(*behaviors: Behavior) -> Iterator[Server]:
    server = Server(list(behaviors))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()

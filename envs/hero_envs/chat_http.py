"""One request to a server that speaks JSON, a chat server above all, bounded in time and size. Standard library only.

Token limits and retries are left to the callers. Every error is a ``ChatFailure`` (a retry may help) or a
``ChatRefusal`` (a retry will not help).
"""

from __future__ import annotations

import functools
import http.client
import io
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_BYTES = 4 * 2**20
"""Maximum size of an answer in bytes by default; a longer one is not read completely and counts as a failure."""
MAX_WAIT_S = 86_400.0
"""Upper limit of the pause that a server can ask for, in seconds."""
MAX_TOKENS = 10**9
"""A higher token count counts as missing."""
TRANSIENT = frozenset({408, 409, 425, 429, *range(500, 600)}) - {501, 505}
"""Temporary statuses: a retry may help."""
REFUSED = frozenset({400, 413, 422})
"""Statuses that reject this request only; the server may answer another one."""

_LOCAL = ("localhost", "127.0.0.1", "::1")
_SHOWN = 200


class ChatFailure(Exception):
    """No usable answer this time.

    Args:
        reason: Reason for a message; text from the server is shortened and shown as ``repr``.
        wait_s: The pause that the server asks for, in seconds.
        paid: Whether the request may be billed: the server did answer, or had it and nobody waited for the answer.
        status: HTTP status of a temporary failure, if the server sent one.
    """

    def __init__(self, reason: str, wait_s: float | None = None, paid: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.paid = paid
        self.status = status


class AnswerTooLong(ChatFailure):
    """An answer has more bytes than it may have."""


class ChatRefusal(Exception):
    """The server rejects this request; a retry will not help.

    Args:
        status: HTTP status.
        text: The beginning of the server's reply.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.shown = _shown(text)
        super().__init__(f"status {status}, {self.shown}")


class Calls:
    """Calls in flight, so that another thread can end them, each with ``ChatFailure``."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def add(self, sock: socket.socket) -> None:
        """Remember what a call waits for.

        Raises:
            ConnectionAbortedError: The calls have been ended.
        """
        with self._lock:
            self._sockets.add(sock)
            if self.ended.is_set():
                raise ConnectionAbortedError("the call was ended")

    def end(self) -> None:
        """End them, and those that begin later."""
        with self._lock:
            self.ended.set()
            for sock in self._sockets:
                with suppress(OSError):  # closed by now
                    sock.shutdown(socket.SHUT_RDWR)


class JsonServer:
    """Sends JSON to the routes of one address.

    Proxies from environment variables are used, except for this machine. A redirect counts as a refusal, so that
    neither the key nor the request is sent to another host.

    Args:
        url: What all routes have in common, for example ``http://localhost:8000``.
        timeout_s: Time limit of one whole call in seconds, also if the server sends byte by byte.
        api_key: Sent as bearer token if not empty.
        clock: Returns the current time in seconds.

    Raises:
        ValueError: The address or the key is invalid, or the key would be sent unencrypted to another machine. The
            message contains no secret.
    """

    def __init__(
        self, url: str, timeout_s: float, api_key: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        scheme, host = _scheme_and_host(url)
        self._base = url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "hero_pl"}
        self._key = api_key
        if api_key:
            _check_key(api_key, scheme, host)
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._opener = (
            urllib.request.OpenerDirector()
        )  # without handlers of errors and redirects: any status comes back
        self._opener.add_handler(_Handler(clock))
        self._opener.add_handler(urllib.request.UnknownHandler())
        if host not in _LOCAL:
            self._opener.add_handler(urllib.request.ProxyHandler())

    def exchange(
        self, path: str, body: Mapping[str, Any] | None = None, calls: Calls | None = None, max_bytes: int | None = None
    ) -> bytes:
        """Send one request and wait for its answer.

        Args:
            path: Path of the route.
            body: The request, for POST; without one it is a GET. Lone surrogates in it are sent as U+FFFD.
            calls: Lets another thread end it.
            max_bytes: Maximum size of the answer; default: ``MAX_BYTES``.

        Returns:
            The answer, as it came.

        Raises:
            ChatFailure: No usable answer, but a retry may help.
            ChatRefusal: A status for which a retry will not help.
        """
        data = None if body is None else encodable(json.dumps(body, ensure_ascii=False)).encode()
        method = "GET" if data is None else "POST"
        request = _Request(f"{self._base}{path}", data, self._headers, method=method)
        request.calls = calls or Calls()
        answered, status, most = False, 0, max_bytes or MAX_BYTES
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                status = response.status
                answered = 200 <= status < 300
                pause = response.headers.get("Retry-After")
                content: bytes = response.read(most + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid host name
            sent = not status and not isinstance(error, urllib.error.URLError)
            left = sent and (isinstance(error, TimeoutError) or request.calls.ended.is_set())
            raise ChatFailure(self._reason(error), paid=answered or left) from None
        if status in TRANSIENT:
            details = f", {self._shown(content)}" if content else ""
            raise ChatFailure(f"status {status}{details}", retry_after_s(pause, time.time()), status=status)
        if not answered:
            raise ChatRefusal(status, without_key(content.decode("utf-8", "replace"), self._key))
        if len(content) > most:
            raise AnswerTooLong(f"an answer of more than {most} bytes", paid=True)
        return content

    def _shown(self, content: bytes) -> str:
        return _shown(without_key(content.decode("utf-8", "replace"), self._key))

    def _reason(self, error: Exception) -> str:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        cause = reason if isinstance(reason, Exception) else error
        if isinstance(cause, TimeoutError):
            return f"no complete response within {self._timeout_s} s"
        return f"connection failed ({type(cause).__name__}: {_shown(without_key(str(cause), self._key))})"


class ChatServer(JsonServer):
    """A server with the route ``/chat/completions``; its ``url`` is the part before that."""

    def post(self, body: Mapping[str, Any], calls: Calls | None = None) -> dict[str, Any]:
        """Send one chat request; see :meth:`exchange`.

        Returns:
            The decoded answer. Its ``choices`` are a non-empty list; nothing else is checked.
        """
        content = self.exchange("/chat/completions", body, calls)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ChatFailure(f"not JSON ({type(error).__name__})", paid=True) from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices:
            raise ChatFailure(f"not a chat completion: {self._shown(content)}", paid=True)
        return dict(answer)

    @property
    def url(self) -> str:
        """Of the route."""
        return f"{self._base}/chat/completions"


def token_count(answer: Mapping[str, Any], field: str) -> int | None:
    """A number from the answer's ``usage``, or ``None`` if it is missing or impossible.

    Example:
        >>> token_count({"usage": {"prompt_tokens": 7}}, "prompt_tokens")
        7
    """
    usage = answer.get("usage")
    value = usage.get(field) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds to wait after a ``Retry-After`` header, 0 to ``MAX_WAIT_S``; ``None`` if it is missing or invalid.

    Args:
        value: A number of seconds or a date.
        now_s: Seconds since 1970.

    Example:
        >>> retry_after_s("7", 0.0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 50.0), retry_after_s("soon", 0.0)
        (7.0, 10.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return None if seconds != seconds else min(max(seconds, 0.0), MAX_WAIT_S)


def without_key(text: str, key: str) -> str:
    """The text with the key, and every long part of it, replaced: servers echo requests in their error messages.

    Example:
        >>> without_key("bad key sk-12345678abcd (sk-12345678...)", "sk-12345678abcd")
        'bad key [key] ([key]...)'
    """
    if not key:
        return text
    for form in (key, json.dumps(key)[1:-1], key.replace("/", "\\/")):
        text = text.replace(form, "[key]")
    return re.sub(r"[\w-]{8,}", lambda match: "[key]" if match[0] in key else match[0], text)


def encodable(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD: they cannot be encoded as UTF-8 or tokens."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # invalid brackets or port
        usable = False
    if not usable or "@" in url or parts.query or parts.fragment or not re.fullmatch("[!-~]+", url):
        raise ValueError(
            f"{url.rpartition('@')[2]!r}: expected http(s)://host[:port]/path without user, query or blanks, "
            "for example http://localhost:8000/v1."
        )
    return parts.scheme, parts.hostname or ""


def _check_key(key: str, scheme: str, host: str) -> None:
    if not re.fullmatch("[!-~]+", key):
        raise ValueError("the API key has invalid characters, for example a blank or a line break. Check the key.")
    if scheme == "http" and host not in _LOCAL:
        raise ValueError(f"the API key would be sent unencrypted to {host}. Use https, or no key.")


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])


# --- a connection with a time limit for the whole call ----------------------------------------------------------------


class _Request(urllib.request.Request):
    calls: Calls


class _Handler(urllib.request.AbstractHTTPHandler):
    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, request: _Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_Connection, clock=self._clock, calls=request.calls), request)

    def https_open(self, request: _Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_TlsConnection, clock=self._clock, calls=request.calls), request)

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Connection(http.client.HTTPConnection):
    """Every wait is limited to the remaining time of the call, except the look-up of the host name by the system."""

    def __init__(self, host: str, *, timeout: float, clock: Callable[[], float], calls: Calls) -> None:
        super().__init__(host, timeout=timeout)
        self._clock = clock
        self._deadline = clock() + timeout
        self._calls = calls
        self._create_connection = self._connected

    def connect(self) -> None:
        super().connect()
        self._calls.add(self.sock)  # TLS has made another one
        self.sock = _Socket(self.sock, self._left_s)

    def _connected(self, address: tuple[str, int], *_: object) -> socket.socket:
        """The first address of the host that answers."""
        failed: OSError = OSError("the host has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                self._calls.add(sock)
                sock.settimeout(self._left_s())
                sock.connect(place)
                sock.settimeout(self._left_s())  # for the TLS handshake
            except OSError as error:
                failed = error
                sock.close()
            else:
                return sock
        raise failed

    def _left_s(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Socket:
    """The part of the socket interface that ``http.client`` uses."""

    def __init__(self, sock: socket.socket, left_s: Callable[[], float]) -> None:
        self._sock = sock
        self._left_s = left_s

    def sendall(self, data: ReadableBuffer) -> None:
        self._sock.settimeout(self._left_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._left_s))

    def close(self) -> None:
        self._sock.close()


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, left_s: Callable[[], float]) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until it is closed itself
        self._left_s = left_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._sock.settimeout(self._left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()

"""A user behind an OpenAI-compatible endpoint: bounded in time, tries and money.

Only the standard library is used. A failure that cannot be repaired raises ``UserError``: the episode is then not
evaluable, which is not the same as a wrong answer of the policy.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from hero_envs.tau_bench.users.base import UserError
from hero_envs.tau_bench.users.chat import ChatUser, Message, Strategy

MAX_BYTES = 4 * 2**20
"""A longer response is refused."""

_LOCAL = ("localhost", "127.0.0.1", "::1")


class _Retry(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Endpoint:
    """Chat completions over HTTP.

    Args:
        url: Base address, for example ``http://localhost:8000/v1``.
        model: Name of the model.
        api_key_variable: Environment variable with the key; no key is sent if it is unset.
        temperature: Sampling temperature.
        max_tokens: Longest reply, in tokens.
        timeout_s: Longest time for one whole call, in seconds.
        max_retries: Further tries after the first one failed.
        max_wait_s: Longest pause between two tries, in seconds; a server that asks for more is given up.
        spend_cap: No call is made that might lift the total above this; in the unit of the prices.
        prompt_price: Per million tokens of prompt.
        reply_price: Per million tokens of reply.
        sleep: Called with the seconds to wait.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_variable: str = "OPENAI_API_KEY",
        temperature: float = 0.0,
        max_tokens: int = 512,
        timeout_s: float = 60.0,
        max_retries: int = 4,
        max_wait_s: float = 60.0,
        spend_cap: float | None = None,
        prompt_price: float = 0.0,
        reply_price: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"Endpoint(url={url!r}): expected http(s)://host[:port]/path, for example .../v1.")
        if spend_cap is not None and prompt_price <= 0 and reply_price <= 0:
            raise ValueError(f"Endpoint(spend_cap={spend_cap}): a cap needs prompt_price and reply_price.")
        self._parts = parts
        self._model = model
        self._key_variable = api_key_variable
        self._settings = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
        self._max_tokens = max_tokens
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._max_wait_s = max_wait_s
        self._spend_cap = spend_cap
        self._prices = (prompt_price / 1e6, reply_price / 1e6)
        self._sleep = sleep
        self._lock = threading.Lock()
        self.spent = 0.0
        """Money spent since this object was made."""
        self.calls = 0
        """Requests sent."""

    def __call__(self, messages: Sequence[Message], seed: int = 0) -> str:
        """The model's reply.

        Args:
            messages: The conversation.
            seed: Not sent: not every server knows it.

        Raises:
            UserError: No usable response within the bounds, or the spend cap is reached.
        """
        clean = [{key: _encodable(value) for key, value in message.items()} for message in messages]
        reserve = self._reserve(clean)
        body = json.dumps({**self._settings, "messages": clean}).encode()
        reasons: list[str] = []
        for attempt in range(self._max_retries + 1):
            if self._spend_cap is not None and self.spent + reserve > self._spend_cap:
                raise UserError(
                    f"The spend cap of {self._spend_cap} is reached: {self.spent:.6g} spent, the next call may cost "
                    f"{reserve:.6g}. Raise spend_cap, or use the scripted user."
                )
            try:
                return self._read(self._post(body), reserve)
            except _Retry as failure:
                reasons.append(str(failure))
                wait_s = 0.5 * 2**attempt if failure.wait_s is None else failure.wait_s
                if wait_s > self._max_wait_s and failure.wait_s is not None:
                    reasons[-1] += f" (longer than max_wait_s={self._max_wait_s})"
                    break
                if attempt < self._max_retries:
                    self._sleep(min(wait_s, self._max_wait_s))
        raise UserError(
            f"The user endpoint {self._parts.hostname} gave no usable response after {len(reasons)} tries: "
            f"{'; '.join(reasons)}. Check the server, or raise timeout_s ({self._timeout_s}) or max_retries."
        )

    def _reserve(self, messages: Sequence[Message]) -> float:
        """The most that one call is taken to cost: two bytes a token of prompt, and a reply of full length."""
        prompt = sum(len(value.encode()) for message in messages for value in message.values()) / 2
        return prompt * self._prices[0] + self._max_tokens * self._prices[1]

    def _post(self, body: bytes) -> bytes:
        """One request; bounded by ``timeout_s`` as a whole, also when the server sends byte by byte."""
        deadline = time.monotonic() + self._timeout_s
        secure = self._parts.scheme == "https"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = os.environ.get(self._key_variable)
        if key:
            if not secure and self._parts.hostname not in _LOCAL:
                raise UserError(
                    f"{self._key_variable} would be sent unencrypted to {self._parts.hostname}. Use https, or unset it."
                )
            headers["Authorization"] = f"Bearer {key}"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        self.calls += 1
        try:
            connection.request("POST", f"{self._parts.path.rstrip('/')}/chat/completions", body, headers)
            sock = connection.sock
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            response = connection.getresponse()
            content = bytearray()
            while chunk := response.read1(65536):
                content += chunk
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _Retry(f"no complete response within {self._timeout_s} s")
                if len(content) > MAX_BYTES:
                    raise UserError(f"The user endpoint sent more than {MAX_BYTES} bytes.")
                if sock.fileno() != -1:  # closed already if the server announced that this is all
                    sock.settimeout(left)
        except TimeoutError as error:
            raise _Retry(f"no complete response within {self._timeout_s} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise _Retry(f"connection failed ({type(error).__name__}: {error})") from error
        finally:
            connection.close()
        if response.status in (408, 409, 425, 429) or response.status >= 500:
            raise _Retry(f"status {response.status}", _retry_after(response.getheader("Retry-After")))
        if response.status != 200:
            shown = bytes(content[:200]).decode("utf-8", "replace")
            raise UserError(f"The user endpoint refused the request: status {response.status}, {shown!r}.")
        return bytes(content)

    def _read(self, content: bytes, reserve: float) -> str:
        """The reply's text; books what the call cost."""
        try:
            value = json.loads(content)
            text = value["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            self._book(reserve)
            raise _Retry(f"not a chat completion ({type(error).__name__})") from error
        usage = value.get("usage")
        self._book(reserve if not isinstance(usage, dict) else self._price(usage, reserve))
        if not isinstance(text, str):
            raise _Retry(f"the reply's content is {type(text).__name__}, not text")
        return _encodable(text)

    def _price(self, usage: dict[str, Any], reserve: float) -> float:
        prompt, reply = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(reply, int) or min(prompt, reply) < 0:
            return reserve
        return prompt * self._prices[0] + reply * self._prices[1]

    def _book(self, amount: float) -> None:
        with self._lock:
            self.spent += amount


class EndpointUser(ChatUser):
    """A chat user behind an OpenAI-compatible endpoint.

    Args:
        url: Base address, for example ``http://localhost:8000/v1``.
        model: Name of the model.
        strategy: ``llm``, ``react``, ``verify`` or ``reflection``.
        attempts: See ``ChatUser``.
        options: Everything else that ``Endpoint`` takes.
    """

    def __init__(self, url: str, model: str, strategy: Strategy = "llm", attempts: int = 3, **options: Any) -> None:
        self.endpoint = Endpoint(url, model, **options)
        self._spent_before = 0.0
        super().__init__(self.endpoint, strategy, attempts, name=model)

    def reset(self, instruction: str) -> str:
        """Forget the last dialogue and say the opening message."""
        self._spent_before = self.endpoint.spent
        return super().reset(instruction)

    @property
    def cost(self) -> float:
        """Money spent on the present dialogue, all calls added up."""
        return self.endpoint.spent - self._spent_before


def _encodable(text: str) -> str:
    """Lone surrogates become question marks: they cannot be sent or tokenized."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait from a ``Retry-After`` header (a number or a date); ``None`` if there is none.

    Example:
        >>> _retry_after("7"), _retry_after(None), _retry_after("soon")
        (7.0, None, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None

"""One OpenAI-compatible chat endpoint over HTTP: time-outs, bounded retries, a spend cap. Standard library only."""

from __future__ import annotations

import email.utils
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.types import Message

_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_REFUSED = {400, 413, 422}
_CHARS_PER_TOKEN = 3  # a cautious estimate, used before the endpoint has reported its count


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What came back for one request."""

    text: str
    tokens: int
    """Tokens generated, as reported or estimated."""
    failure: str = ""
    """``request_failed`` (transient errors until no retry was left), ``request_refused``, or empty if it worked."""


class ChatEndpoint:
    """Sends chat requests and counts their tokens; safe to use from several threads.

    Args:
        base_url: Up to and without ``/chat/completions``, for example ``http://localhost:8000/v1``.
        model: Name the endpoint knows.
        api_key: Sent as bearer token if not empty.
        timeout_s: Per request, in seconds.
        max_retries: Further attempts after a transient error.
        backoff_s: Wait before the first retry, doubled each time, in seconds; ``Retry-After`` takes precedence.
        max_wait_s: Longest wait between two attempts, in seconds.
        max_total_tokens: Prompt and generated tokens that may be spent in all; no cap if ``None``.
        extra_body: Merged into every request; a value of ``None`` removes a field.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        timeout_s: float = 120.0,
        max_retries: int = 4,
        backoff_s: float = 1.0,
        max_wait_s: float = 60.0,
        max_total_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url={base_url!r}: expected http://... or https://..., up to /chat/completions.")
        for name, number in {"timeout_s": timeout_s, "max_wait_s": max_wait_s}.items():
            if number <= 0:
                raise ConfigError(f"{name}={number}: expected a positive number of seconds.")
        for name, number in {"max_retries": max_retries, "backoff_s": backoff_s}.items():
            if number < 0:
                raise ConfigError(f"{name}={number}: expected 0 or more.")
        if max_total_tokens is not None and max_total_tokens < 1:
            raise ConfigError(f"max_total_tokens={max_total_tokens}: expected at least 1, or null for no cap.")
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.spent_tokens = 0
        self._reserved = 0
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._max_wait_s = max_wait_s
        self._cap = max_total_tokens
        self._extra_body = dict(extra_body or {})
        self._lock = threading.Lock()
        self._opener = urllib.request.build_opener(_NoRedirect)  # a key must not travel to another host

    def ask(self, messages: Sequence[Message], max_tokens: int, temperature: float) -> ChatReply:
        """Send one request and wait for its answer.

        Args:
            messages: The conversation.
            max_tokens: Tokens to generate at most.
            temperature: 0 is greedy.

        Raises:
            ReflectionError: If the spend cap does not allow the request, or the endpoint will never answer (unknown
                address or model, key refused).
        """
        body = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            **self._extra_body,
        }
        data = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
        prompt_estimate = sum(len(message.content) for message in messages) // _CHARS_PER_TOKEN + 1
        reserved = self._reserve(prompt_estimate + max_tokens)
        spent = 0
        try:
            answer = self._attempts(data)
            if isinstance(answer, str):
                return ChatReply("", 0, failure=answer)
            text = _content(answer)
            generated = _reported(answer, "completion_tokens") or len(text) // _CHARS_PER_TOKEN + 1
            spent = (_reported(answer, "prompt_tokens") or prompt_estimate) + generated
            return ChatReply(text, generated)
        finally:
            with self._lock:
                self._reserved -= reserved
                self.spent_tokens += spent

    def _reserve(self, tokens: int) -> int:
        with self._lock:
            if self._cap is not None and self.spent_tokens + self._reserved + tokens > self._cap:
                raise ReflectionError(
                    f"The next request to {self.url} may take {tokens} tokens; {self.spent_tokens} of "
                    f"max_total_tokens={self._cap} are spent, {self._reserved} are in flight. Raise the cap to go on."
                )
            self._reserved += tokens
        return tokens

    def _attempts(self, data: bytes) -> dict[str, Any] | str:
        """The decoded answer, or the code of the failure."""
        for attempt in range(self._max_retries + 1):
            wait_s = self._backoff_s * 2**attempt
            try:
                return self._post(data)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in _REFUSED:
                        return "request_refused"
                    if error.code not in _TRANSIENT:
                        raise ReflectionError(
                            f"{self.url} answered {error.code} {error.reason} for model {self.model!r}: "
                            f"{error.read(300).decode(errors='replace')}. Check base_url, model and the API key."
                        ) from error
                    asked_s = _retry_after_s(error.headers.get("Retry-After"))
                    wait_s = wait_s if asked_s is None else asked_s
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
            ):
                pass  # no connection, no answer in time, or an answer that is not a chat completion
            if attempt < self._max_retries:
                time.sleep(min(max(wait_s, 0.0), self._max_wait_s))
        return "request_failed"

    def _post(self, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "User-Agent": "hero_pl"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self.url, data=data, headers=headers, method="POST")
        with self._opener.open(request, timeout=self._timeout_s) as response:
            answer = json.loads(response.read())
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list) or not answer["choices"]:
            raise ValueError(f"not a chat completion: {str(answer)[:200]}")
        return answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _content(answer: Mapping[str, Any]) -> str:
    choice = answer["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _reported(answer: Mapping[str, Any], field: str) -> int:
    """A token count of the answer; 0 if the endpoint does not report it."""
    usage = answer.get("usage")
    value = usage.get(field) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


def _retry_after_s(value: str | None) -> float | None:
    """Seconds to wait: the header holds a number or a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None

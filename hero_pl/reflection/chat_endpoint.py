"""One OpenAI-compatible chat endpoint over HTTP: time-outs, bounded retries, a spend cap. Standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_envs.chat_http import REFUSED, ChatFailure, ChatRefusal, ChatServer, token_count
from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.types import Message

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
        timeout_s: Longest time for one whole request, in seconds.
        max_retries: Further attempts after a transient error.
        backoff_s: Wait before the first retry, doubled each time, in seconds; ``Retry-After`` takes precedence.
        max_wait_s: Longest wait between two attempts, in seconds.
        max_total_tokens: Prompt and generated tokens that may be spent in all; no cap if ``None``.
        extra_body: Merged into every request; a value of ``None`` removes a field.
        sleep: Called with the seconds to wait.

    Raises:
        ConfigError: A setting is out of range, or the key would be sent unencrypted to another machine.
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            self._server = ChatServer(base_url, timeout_s, api_key)
        except ValueError as error:
            raise ConfigError(f"base_url: {error}") from None
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
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._max_wait_s = max_wait_s
        self._cap = max_total_tokens
        self._extra_body = dict(extra_body or {})
        self._lock = threading.Lock()
        self._sleep = sleep

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
        body = {key: value for key, value in body.items() if value is not None}
        prompt_estimate = sum(len(message.content) for message in messages) // _CHARS_PER_TOKEN + 1
        for attempt in range(self._max_retries + 1):
            spent = 0
            reserved = self._reserve(prompt_estimate + max_tokens)
            try:
                answer = self._server.post(body)
                text = _content(answer)
                generated = token_count(answer, "completion_tokens") or len(text) // _CHARS_PER_TOKEN + 1
                spent = (token_count(answer, "prompt_tokens") or prompt_estimate) + generated
                return ChatReply(text, generated)
            except ChatRefusal as refusal:
                if refusal.status in REFUSED:
                    return ChatReply("", 0, failure="request_refused")
                raise ReflectionError(
                    f"{self.url} answered {refusal.status} for model {self.model!r}: {refusal.shown}. "
                    "Check base_url, model and the API key."
                ) from None
            except ChatFailure as failure:
                spent = reserved if failure.paid else 0
                wait_s = self._backoff_s * 2**attempt if failure.wait_s is None else failure.wait_s
            finally:
                with self._lock:
                    self._reserved -= reserved
                    self.spent_tokens += spent
            if attempt < self._max_retries:
                self._sleep(min(wait_s, self._max_wait_s))
        return ChatReply("", 0, failure="request_failed")

    def _reserve(self, tokens: int) -> int:
        with self._lock:
            if self._cap is not None and self.spent_tokens + self._reserved + tokens > self._cap:
                raise ReflectionError(
                    f"The next request to {self.url} may take {tokens} tokens; {self.spent_tokens} of "
                    f"max_total_tokens={self._cap} are spent, {self._reserved} are in flight. Raise the cap to go on."
                )
            self._reserved += tokens
        return tokens


def _content(answer: Mapping[str, Any]) -> str:
    choice = answer["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""

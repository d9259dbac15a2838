"""The chat client of ``hero_envs`` as reflectors and judges use it: its faults are data, or errors of hero_pl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_envs.chat_endpoint import Endpoint, EndpointDown, RequestFailed, SpendCapReached, Spending
from hero_pl.errors import ConfigError, EndpointError, SpendCapError
from hero_pl.types import Message


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
        max_total_tokens: Prompt and generated tokens that may be spent in all; no cap if ``None``.
        extra_body: Merged into every request; a value of ``None`` removes a field.
        options: Everything else that ``hero_envs.chat_endpoint.Endpoint`` takes.

    Raises:
        ConfigError: A setting is out of range, or the key would be sent unencrypted to another machine.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        max_total_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if max_total_tokens is not None and max_total_tokens < 1:
            raise ConfigError(f"max_total_tokens={max_total_tokens}: expected at least 1, or null for no cap.")
        self._spending = Spending(max_total_tokens, name="max_total_tokens")
        try:
            self._endpoint = Endpoint(base_url, model, api_key, spending=self._spending, **options)
        except ValueError as error:
            raise ConfigError(f"ChatEndpoint(base_url={base_url.rpartition('@')[2]!r}): {error}") from None
        self._extra_body = dict(extra_body or {})
        self.model = model

    @property
    def spent_tokens(self) -> int:
        """So far, prompts and answers."""
        return int(self._spending.spent)

    @spent_tokens.setter
    def spent_tokens(self, tokens: int) -> None:
        self._spending.spent = float(tokens)

    def ask(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatReply:
        """Send one request and wait for its answer.

        Args:
            messages: The conversation.
            max_tokens: Tokens to generate at most.
            temperature: 0 is greedy.
            response_format: Field of that name in the request; none if ``None``.

        Raises:
            SpendCapError: The spend cap does not allow the request.
            EndpointError: The endpoint will never answer, or has stopped to.
        """
        spoken = [{"role": message.role, "content": message.content} for message in messages]
        more = {"response_format": response_format, **self._extra_body}
        try:
            answer = self._endpoint.ask(spoken, max_tokens, temperature, more)
        except RequestFailed as failure:
            return ChatReply("", 0, "request_refused" if failure.refused else "request_failed")
        except EndpointDown as error:
            raise EndpointError(str(error)) from None
        except SpendCapReached as error:
            raise SpendCapError(str(error)) from None
        return ChatReply(answer.text, answer.tokens)

    def cancel(self) -> None:
        """End the requests that are on their way."""
        self._endpoint.cancel()

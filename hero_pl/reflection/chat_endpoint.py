"""The chat client of ``hero_envs``, for reflectors and judges; failures are data, or errors of hero_pl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_envs.chat_endpoint import Endpoint, EndpointDown, RequestFailed, SpendCapReached, Spending
from hero_pl.errors import ConfigError, EndpointError, SpendCapError
from hero_pl.reflection.json_scan import JSON_BEGINS
from hero_pl.types import Message


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Result of one request."""

    text: str
    tokens: int
    """Number of generated tokens, as reported or estimated."""
    failure: str = ""
    """``request_failed`` (transient errors until no retry was left), ``request_refused``, or empty if it worked."""
    cut: bool = False
    """Whether the text was cut at the token limit."""


def in_reasoning(reply: ChatReply) -> bool:
    """Whether a reply counts as reasoning until a marker closes it, although no marker may have opened it.

    Where the template of a server opens the reasoning and the server does not separate it, a reply that was cut inside
    it has no marker at all, and may contain a draft. It is told from an answer that was cut by how it begins.
    """
    return reply.cut and not JSON_BEGINS.match(reply.text)


class ChatEndpoint:
    """Sends chat requests and counts their tokens; safe to use from several threads.

    Args:
        base_url: URL without ``/chat/completions``, for example ``http://localhost:8000/v1``.
        model: Name of the model at the endpoint.
        api_key: Sent as bearer token if not empty.
        max_total_tokens: Maximum number of tokens, prompts and replies, over all requests; ``None`` for no limit.
        extra_body: Merged into every request; a value of ``None`` removes a field.
        options: Further arguments of ``hero_envs.chat_endpoint.Endpoint``.

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
            raise ConfigError(f"max_total_tokens={max_total_tokens}: expected at least 1, or null for no limit.")
        self.max_total_tokens = max_total_tokens
        self._spending = Spending(max_total_tokens, name="max_total_tokens")
        try:
            self._endpoint = Endpoint(base_url, model, api_key, spending=self._spending, **options)
        except ValueError as error:
            raise ConfigError(f"ChatEndpoint(base_url={base_url.rpartition('@')[2]!r}): {error}") from None
        self._extra_body = dict(extra_body or {})
        self.model = model

    @property
    def spent_tokens(self) -> int:
        """Tokens of prompts and replies so far."""
        return int(self._spending.spent)

    @spent_tokens.setter
    def spent_tokens(self, tokens: int) -> None:
        self._spending.spent = float(tokens)

    def share(self, processes: int) -> None:
        """Allow this process its part of the limit, as one of several that ask the endpoint."""
        if self.max_total_tokens is not None:
            self._spending.cap = self.max_total_tokens / processes

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
            max_tokens: Maximum number of tokens to generate.
            temperature: 0 is greedy.
            response_format: Field ``response_format`` of the request; left out if ``None``.

        Raises:
            SpendCapError: The spend cap does not allow the request.
            EndpointError: The endpoint cannot answer, or does not answer any more.
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
        return ChatReply(answer.text, answer.tokens, cut=answer.cut)

    def cancel(self) -> None:
        """Cancel the requests in flight."""
        self._endpoint.cancel()

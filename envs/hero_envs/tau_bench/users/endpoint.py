"""A user behind an OpenAI-compatible endpoint: bounded in time, tries and money.

Only the standard library is used. A failure that cannot be repaired raises ``UserError``: the episode is then not
evaluable, which is not the same as a wrong answer of the policy.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from hero_envs.chat_http import ChatFailure, ChatRefusal, ChatServer, encodable, token_count
from hero_envs.tau_bench.users.base import UserError
from hero_envs.tau_bench.users.chat import ChatUser, Message, Strategy


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
        try:
            ChatServer(url, timeout_s)
        except ValueError as error:
            raise ValueError(f"Endpoint: url={error}") from None
        if spend_cap is not None and prompt_price <= 0 and reply_price <= 0:
            raise ValueError(f"Endpoint(spend_cap={spend_cap}): a cap needs prompt_price and reply_price.")
        self._url = url
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
        server = self._server()
        reserve = self._reserve(messages)
        body = {**self._settings, "messages": [dict(message) for message in messages]}
        reasons: list[str] = []
        for attempt in range(self._max_retries + 1):
            if self._spend_cap is not None and self.spent + reserve > self._spend_cap:
                raise UserError(
                    f"The spend cap of {self._spend_cap} is reached: {self.spent:.6g} spent, the next call may cost "
                    f"{reserve:.6g}. Raise spend_cap, or use the scripted user."
                )
            self.calls += 1
            try:
                return self._read(server.post(body), reserve)
            except ChatRefusal as refusal:
                raise UserError(f"The user endpoint refused the request: {refusal}.") from None
            except ChatFailure as failure:
                self._book(reserve if failure.paid else 0.0)
                reasons.append(str(failure))
                wait_s = 0.5 * 2**attempt if failure.wait_s is None else failure.wait_s
                if wait_s > self._max_wait_s and failure.wait_s is not None:
                    reasons[-1] += f" (longer than max_wait_s={self._max_wait_s})"
                    break
                if attempt < self._max_retries:
                    self._sleep(min(wait_s, self._max_wait_s))
        raise UserError(
            f"The user endpoint {urlsplit(self._url).hostname} gave no usable response after {len(reasons)} tries: "
            f"{'; '.join(reasons)}. Check the server, or raise timeout_s ({self._timeout_s}) or max_retries."
        )

    def _reserve(self, messages: Sequence[Message]) -> float:
        """The most that one call is taken to cost: two bytes a token of prompt, and a reply of full length."""
        prompt = sum(len(encodable(value).encode()) for message in messages for value in message.values()) / 2
        return prompt * self._prices[0] + self._max_tokens * self._prices[1]

    def _server(self) -> ChatServer:
        try:
            return ChatServer(self._url, self._timeout_s, os.environ.get(self._key_variable, ""))
        except ValueError as error:
            raise UserError(f"{self._key_variable}: {error}") from None

    def _read(self, answer: Mapping[str, Any], reserve: float) -> str:
        """The reply's text; books what the call cost."""
        self._book(self._price(answer, reserve))
        try:
            text = answer["choices"][0]["message"]["content"]
        except (LookupError, TypeError) as error:
            raise ChatFailure(f"not a chat completion ({type(error).__name__})") from None
        if not isinstance(text, str):
            raise ChatFailure(f"the reply's content is {type(text).__name__}, not text")
        return encodable(text)

    def _price(self, answer: Mapping[str, Any], reserve: float) -> float:
        prompt, reply = token_count(answer, "prompt_tokens"), token_count(answer, "completion_tokens")
        if prompt is None or reply is None:
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

"""A user behind an OpenAI-compatible endpoint: bounded in time, tries and money.

All environments of a process whose users have the same settings share one endpoint, so that the spend cap holds for all
of them, and a server that is dead for one is dead for all.
"""

from __future__ import annotations

import difflib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from hero_envs.chat_endpoint import Endpoint, Spending
from hero_envs.tau_bench.users.chat import ChatUser, Message, Strategy

_shared: weakref.WeakValueDictionary[tuple[Any, ...], Endpoint] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def shared_endpoint(
    url: str,
    model: str,
    api_key_variable: str = "OPENAI_API_KEY",
    timeout_s: float = 60.0,
    max_retries: int = 6,
    backoff_s: float = 1.0,
    max_wait_s: float = 60.0,
    max_failures: int = 16,
    spend_cap: float | None = None,
    prompt_price: float = 0.0,
    reply_price: float = 0.0,
    sleep: Callable[[float], object] | None = None,
    chance: Callable[[], float] | None = None,
) -> Endpoint:
    """The endpoint with these settings, made if there is none or the one that there is was given up.

    Args:
        url: Base address, for example ``http://localhost:8000/v1``.
        model: Name of the model.
        api_key_variable: Environment variable with the key; no key is sent if it is unset.
        timeout_s: Longest time for one whole call, in seconds.
        max_retries: Further tries after the first one failed.
        backoff_s: Pause before the second try, in seconds, doubled each time.
        max_wait_s: Longest pause between two tries, in seconds; a server that asks for more is given up.
        max_failures: Questions in a row without an answer that end the run.
        spend_cap: No call is made that might lift the total above this; in the unit of the prices.
        prompt_price: Per million tokens of prompt.
        reply_price: Per million tokens of reply.
        sleep: See ``Endpoint``.
        chance: See ``Endpoint``.

    Raises:
        ValueError: A setting is out of range, or the key would travel unencrypted.
    """
    if spend_cap is not None and prompt_price <= 0 and reply_price <= 0:
        raise ValueError(f"user(spend_cap={spend_cap}): a cap needs prompt_price and reply_price.")
    key = os.environ.get(api_key_variable, "")
    bounds = (timeout_s, max_retries, backoff_s, max_wait_s, max_failures)
    money = (spend_cap, prompt_price / 1e6, reply_price / 1e6)
    with _lock:
        endpoint = _shared.get((url, model, key, bounds, money, sleep, chance))
        if endpoint is None or endpoint.down:
            try:
                endpoint = Endpoint(
                    url,
                    model,
                    key,
                    timeout_s=timeout_s,
                    max_retries=max_retries,
                    backoff_s=backoff_s,
                    max_wait_s=max_wait_s,
                    max_failures=max_failures,
                    spending=Spending(*money),
                    sleep=sleep,
                    chance=chance,
                )
            except ValueError as error:
                raise ValueError(f"user: {error} (The key is that of {api_key_variable}.)") from None
            _shared[url, model, key, bounds, money, sleep, chance] = endpoint
    return endpoint


class EndpointUser(ChatUser):
    """A chat user behind an OpenAI-compatible endpoint.

    Args:
        url: Base address, for example ``http://localhost:8000/v1``.
        model: Name of the model.
        strategy: ``llm``, ``react``, ``verify`` or ``reflection``.
        attempts: See ``ChatUser``.
        temperature: Sampling temperature.
        max_tokens: Longest reply, in tokens.
        options: Everything else that ``shared_endpoint`` takes.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        strategy: Strategy = "llm",
        attempts: int = 3,
        temperature: float = 0.0,
        max_tokens: int = 512,
        **options: Any,
    ) -> None:
        known = [*inspect.signature(EndpointUser).parameters, *inspect.signature(shared_endpoint).parameters]
        for name in options.keys() - set(known):
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"user: no setting {name!r}. Did you mean {near[0]!r}?" if near else f"user: no setting {name!r}."
            )
        self.endpoint = shared_endpoint(url, model, **options)
        self._temperature, self._max_tokens = temperature, max_tokens
        self._cost = 0.0
        super().__init__(self._complete_chat, strategy, attempts, name=model)

    def reset(self, instruction: str) -> str:
        """Forget the last dialogue and say the opening message.

        Raises:
            RequestFailed: The server gave no usable answer.
        """
        self._cost = 0.0
        return super().reset(instruction)

    @property
    def cost(self) -> float:
        """Money spent on the present dialogue, all calls added up."""
        return self._cost

    def cancel(self) -> None:
        """End the calls that are on their way, those of all users of the endpoint."""
        self.endpoint.cancel()

    def _complete_chat(self, messages: Sequence[Message], seed: int) -> str:
        """The model's answer; the seed is not sent, for not every server knows it."""
        answer = self.endpoint.ask(messages, self._max_tokens, self._temperature)
        self._cost += answer.cost
        return answer.text

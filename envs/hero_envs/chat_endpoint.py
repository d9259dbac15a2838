"""Questions to an OpenAI-compatible chat server: bounded in time, tries and money, and safe to ask from many threads.

A request that fails for a reason that may pass is sent again after a pause. Three faults remain. ``RequestFailed``:
this question has no answer, another one may get its own. ``EndpointDown``: no question will be answered, so whoever
asks should stop. ``SpendCapReached``: the next request might cost more than may be spent.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from hero_envs.chat_http import REFUSED, Calls, ChatFailure, ChatRefusal, ChatServer, encodable, token_count

_BYTES_PER_TOKEN = 2
"""A cautious estimate, used before the server has counted and where it does not."""
_LIMITS = ("max_tokens", "max_completion_tokens")
"""Fields of a request that limit its answer, in tokens; servers differ in which of them they take."""


class RequestFailed(RuntimeError):
    """There is no usable answer to a request; what needs the answer cannot be judged.

    Args:
        reason: What happened, and what to do.
        refused: The server will never answer this request.
    """

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class EndpointDown(RuntimeError):
    """No request will be answered: the key or the model is refused, or too many requests in a row have failed."""


class SpendCapReached(RuntimeError):
    """The next request might cost more than is left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    text: str
    tokens: int
    """Tokens of the answer, as the server counted them or estimated."""
    cost: float
    """Cost of all attempts, in the unit of the prices."""
    cut: bool = False
    """Whether the server says that the text was cut at the token limit."""


class Spending:
    """Spent cost and its cap.

    A request reserves its highest possible cost. A new request waits for reserved amounts; they do not count as spent.

    Args:
        cap: Largest total cost; no limit if ``None``.
        prompt_price: Price per token of the prompt; with both prices 1 the unit is tokens.
        reply_price: Price per token of the answer.
        name: Name of the setting for the cap, for messages.
    """

    def __init__(
        self, cap: float | None = None, prompt_price: float = 1.0, reply_price: float = 1.0, name: str = "spend_cap"
    ) -> None:
        self.cap, self.name = cap, name
        self.spent = 0.0
        self._prices = prompt_price, reply_price
        self._reserved = 0.0
        self._settled = threading.Condition()

    def price(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Cost of one request."""
        return prompt_tokens * self._prices[0] + reply_tokens * self._prices[1]

    @contextmanager
    def reserve(self, amount: float) -> Iterator[list[float]]:
        """Reserve an amount during a request.

        Args:
            amount: Highest possible cost of the request.

        Yields:
            A list for the actual costs; their sum is added to ``spent`` at the end.

        Raises:
            SpendCapReached: The cap does not allow the amount, even if all current requests cost nothing.
        """
        with self._settled:
            while self.cap is not None and self.spent + self._reserved + amount > self.cap:
                if self.spent + amount > self.cap:
                    raise SpendCapReached(
                        f"{self.spent:.12g} of {self.name}={self.cap:.12g} are spent and the next request may take "
                        f"{amount:.12g}. Raise {self.name} to go on."
                    )
                self._settled.wait()
            self._reserved += amount
        costs: list[float] = []
        try:
            yield costs
        finally:
            with self._settled:
                self._reserved -= amount
                self.spent += sum(costs)
                self._settled.notify_all()


class Endpoint:
    """One model behind a chat server.

    The first request is sent alone, so a wrong key costs one request and not one per thread.

    Args:
        url: URL without ``/chat/completions``, for example ``http://localhost:8000/v1``.
        model: Name the server knows.
        key: Sent as bearer token if not empty.
        timeout_s: Longest time for one request, in seconds.
        max_retries: Further tries after a fault that may pass. A question takes at most
            ``(max_retries + 1) * timeout_s + max_retries * max_wait_s`` seconds.
        backoff_s: Pause before the first of them, in seconds, doubled each time; between half of it and all of it is
            waited. ``Retry-After`` of the server takes precedence.
        max_wait_s: Longest pause, in seconds; a server that asks for a longer one is given up for this question.
        max_failures: Questions without an answer in a row after which the server is taken for dead. One that has never
            answered is taken for dead at once.
        spending: Budget.
        sleep: Called with the seconds to wait; default: a wait that :meth:`cancel` ends.
        chance: Draws a number from [0, 1) for the length of a pause.

    Raises:
        ValueError: A setting is out of range, or the key would travel unencrypted.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        *,
        timeout_s: float = 120.0,
        max_retries: int = 6,
        backoff_s: float = 1.0,
        max_wait_s: float = 60.0,
        max_failures: int = 16,
        spending: Spending | None = None,
        sleep: Callable[[float], object] | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        for name, value in {"timeout_s": timeout_s, "max_wait_s": max_wait_s, "max_failures": max_failures}.items():
            if value <= 0:
                raise ValueError(f"{name}={value}: expected a positive number.")
        for name, value in {"max_retries": max_retries, "backoff_s": backoff_s}.items():
            if value < 0:
                raise ValueError(f"{name}={value}: expected 0 or more.")
        self._server = ChatServer(url, timeout_s, key)
        self.url, self.model = self._server.url, model
        self.spending = spending or Spending()
        self._timeout_s, self._max_retries, self._max_failures = timeout_s, max_retries, max_failures
        self._backoff_s, self._max_wait_s = backoff_s, max_wait_s
        self._sleep = sleep
        self._chance = chance or random.Random().random  # not the global generator: training draws from that one
        self._lock, self._first = threading.Lock(), threading.Lock()
        self._answered = False
        self._failures = 0
        """Questions in a row without an answer."""
        self.down = ""
        """Why no question is sent any more."""
        self._calls = Calls()

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        temperature: float,
        more: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The answer to one question.

        Args:
            messages: The conversation, ``role`` and ``content`` each.
            max_tokens: Tokens to generate at most.
            temperature: 0 is greedy.
            more: Further fields of the request; a value of ``None`` leaves a field out. The amount that is reserved for
                the request is that of the largest limit in it.

        Raises:
            RequestFailed: No usable answer within the bounds, or the server refused this request.
            EndpointDown: The server is of no use to anybody.
            SpendCapReached: Before a request that might exceed the cap.
        """
        calls = self._calls
        body: dict[str, Any] = {"model": self.model, "messages": [dict(message) for message in messages]}
        body |= {"max_tokens": max_tokens, "temperature": temperature, **(more or {})}
        body = {name: value for name, value in body.items() if value is not None}
        prompt = sum(_estimate(text) for message in messages for text in message.values())
        with ExitStack() as alone:
            if not self._answered:
                alone.enter_context(self._first)
                if self._answered:
                    alone.close()
            answer = self._try(body, prompt, _longest(body, max_tokens), calls)
            with self._lock:
                self._answered, self._failures = True, 0
        return answer

    def cancel(self) -> None:
        """End the requests that are on their way and the pauses between them, each with ``RequestFailed``."""
        with self._lock:
            calls, self._calls = self._calls, Calls()
        calls.end()

    def _try(self, body: Mapping[str, Any], prompt: int, max_tokens: int, calls: Calls) -> Answer:
        most, cost, reasons = self.spending.price(prompt, max_tokens), 0.0, list[str]()
        for attempt in range(self._max_retries + 1):
            self._check(calls)
            with self.spending.reserve(most) as costs:
                self._check(calls)  # the wait for others may have been long
                try:
                    content = self._server.post(body, calls)
                    costs.append(self._price(content, most))
                    return _answer(content, cost + costs[0])
                except ChatRefusal as refusal:
                    raise self._refused(refusal) from None
                except ChatFailure as failure:
                    if failure.paid and not costs:
                        costs.append(most)
                    cost += sum(costs)
                    asked_s = failure.wait_s
                    reasons.append(str(failure))
            self._check(calls)
            if asked_s is not None and asked_s > self._max_wait_s:
                reasons[-1] += (
                    f", and it asks for a pause of {asked_s:g} s, longer than max_wait_s={self._max_wait_s:g}"
                )
                break
            if attempt < self._max_retries:
                (self._sleep or calls.ended.wait)(self._pause_s(attempt, asked_s))
        raise self._failed(
            f"{self.url} gave no usable answer in {len(reasons)} tries: {'; '.join(dict.fromkeys(reasons))}. "
            f"Is the server running? Else raise timeout_s ({self._timeout_s:g}) or max_retries ({self._max_retries})."
        )

    def _price(self, content: Mapping[str, Any], most: float) -> float:
        """Cost of an answer; without token counts, the highest possible cost."""
        read, written = token_count(content, "prompt_tokens"), token_count(content, "completion_tokens")
        return most if read is None or written is None else self.spending.price(read, written)

    def _pause_s(self, attempt: int, asked_s: float | None) -> float:
        """Not the same for all who wait, never shorter than what the server asks for."""
        if asked_s is not None:
            return min(asked_s + self._backoff_s * self._chance(), self._max_wait_s)
        return min(self._backoff_s * 2.0 ** min(attempt, 30), self._max_wait_s) * (1.0 + self._chance()) / 2.0

    def _check(self, calls: Calls) -> None:
        if self.down:
            raise EndpointDown(self.down)
        if calls.ended.is_set():
            raise RequestFailed(f"the request to {self.url} was canceled")

    def _refused(self, refusal: ChatRefusal) -> Exception:
        problem = f"{self.url} answered {refusal.status} for model {self.model!r}: {refusal.shown}."
        if self._answered and refusal.status in REFUSED:
            return self._failed(f"{problem} It answers other requests: is this one too long?", refused=True)
        return self._stop(f"{problem} Check the address, the model and the key.")

    def _failed(self, reason: str, refused: bool = False) -> Exception:
        with self._lock:
            self._failures += 1
            failures = self._failures
        if not self._answered:
            return self._stop(f"The server has never answered. {reason}")
        if failures >= self._max_failures:
            return self._stop(f"{failures} questions in a row without an answer (max_failures). {reason}")
        return RequestFailed(reason, refused)

    def _stop(self, reason: str) -> EndpointDown:
        """Send nothing more, and end what others wait for."""
        with self._lock:
            self.down = self.down or reason
        self.cancel()
        return EndpointDown(self.down)


def _answer(content: Mapping[str, Any], cost: float) -> Answer:
    """The text of the first choice; parts of text are joined, none is empty text."""
    choice = content["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ChatFailure(f"not a chat completion (the message is {type(message).__name__})")
    text = message.get("content")
    if isinstance(text, list):
        texts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(one for one in texts if isinstance(one, str))
    if text is not None and not isinstance(text, str):
        raise ChatFailure(f"the content of the message is {type(text).__name__}, not text")
    text = encodable(text or "")
    counted = token_count(content, "completion_tokens")
    cut = choice.get("finish_reason") == "length"
    return Answer(text, _estimate(text) if counted is None else counted, cost, cut)


def _longest(body: Mapping[str, Any], max_tokens: int) -> int:
    """Largest number of tokens that the answers to a request may have."""
    return max(max_tokens, *(_count(body.get(name)) for name in _LIMITS)) * max(_count(body.get("n")), 1)


def _count(value: Any) -> int:
    """A number in a request; 0 for anything else. Some servers take text for a number."""
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0


def _estimate(text: str) -> int:
    return len(encodable(text).encode()) // _BYTES_PER_TOKEN + 1

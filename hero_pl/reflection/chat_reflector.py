"""Reflections from an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.chat_endpoint import ChatEndpoint, in_reasoning
from hero_pl.reflection.grammar import review_schema
from hero_pl.reflection.parse import LeakPolicy
from hero_pl.reflection.prompt import check_sizes, requests
from hero_pl.reflection.review import Answer, OnInvalid, Question, Review
from hero_pl.rollout.ranks import processes, summed
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


def api_key(variable: str) -> str:
    """The key in an environment variable; empty if no variable is given.

    Raises:
        ConfigError: The variable is not set.
    """
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(
            f"api_key_env={variable!r}: this environment variable is not set. Set it, or leave api_key_env empty for "
            "an endpoint without keys."
        )
    return key


class ChatReflector(Reflector):
    """Asks another model behind an OpenAI-compatible chat endpoint for the diagnoses.

    Args:
        base_url: Base URL, for example ``http://localhost:8000/v1``.
        model: Name of the model at the endpoint.
        api_key_env: Environment variable with the API key; empty for no key.
        temperature: Sampling temperature; 0 is greedy.
        on_invalid: ``skip`` gives no diagnosis for turns without a usable one. ``retry`` asks again, with the list of
            errors and a temperature 0.2 higher each time, and keeps the answer that covers most turns.
        retries: Maximum number of further requests, with ``on_invalid: retry``.
        max_request_chars: Longer episodes are reviewed in windows of turns.
        max_reply_chars: Longer replies of the environment are cut in the middle.
        concurrency: Maximum number of requests in flight.
        timeout_s: Time limit per request, in seconds.
        max_retries: Number of retries after a transient error.
        backoff_s: Wait before the first retry, in seconds; doubled each time.
        max_wait_s: Longest wait between two attempts, in seconds; if the server asks for a longer one, there is no
            retry.
        max_failures: Number of consecutive requests without an answer that end the run. An endpoint that has never
            answered ends it at once.
        max_total_tokens: Maximum number of tokens, prompts and replies, of the whole run; null for no limit.
            Each of several processes may use its part.
        response_format: Whether to send the JSON schema of the review, for servers with structured output.
        extra_body: Merged into every request, for example ``{chat_template_kwargs: {enable_thinking: false}}``; a null
            value removes a field.
        leak_policy: What to do with a diagnosis that contains later information: ``drop``, ``redact`` or ``flag``.
        leak_ngram: Number of consecutive words that count as a quotation.
        max_diagnosis_chars: Longer diagnoses are cut at the end of a sentence.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "",
        temperature: float = 0.0,
        on_invalid: OnInvalid = "skip",
        retries: int = 1,
        max_request_chars: int = 60_000,
        max_reply_chars: int = 4000,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        max_retries: int = 6,
        backoff_s: float = 1.0,
        max_wait_s: float = 60.0,
        max_failures: int = 16,
        max_total_tokens: int | None = None,
        response_format: bool = False,
        extra_body: dict[str, Any] | None = None,
        leak_policy: LeakPolicy = "drop",
        leak_ngram: int = 6,
        max_diagnosis_chars: int = 800,
    ) -> None:
        if concurrency < 1:
            raise ConfigError(f"ChatReflector(concurrency={concurrency}): expected at least 1 request in flight.")
        check_sizes("ChatReflector", "max_request_chars", max_request_chars, max_reply_chars)
        self.endpoint = ChatEndpoint(
            base_url,
            model,
            api_key(api_key_env),
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            max_wait_s=max_wait_s,
            max_failures=max_failures,
            max_total_tokens=max_total_tokens,
            extra_body=extra_body,
        )
        self.review = Review(on_invalid, retries, temperature, leak_policy, leak_ngram, max_diagnosis_chars)
        self.response_format = response_format
        self.max_request_chars = max_request_chars
        self.max_reply_chars = max_reply_chars
        self.concurrency = concurrency
        self._spent_by_all = 0
        """Tokens that all processes have used."""

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Send the requests of all trajectories and windows in parallel; the policy is not used.

        If a request fails after all retries, its turns have no diagnosis, and the issue is ``request_failed`` or
        ``request_refused``.

        Raises:
            SpendCapError: The spend cap is reached.
            EndpointError: The endpoint cannot be used, or does not answer any more.
        """
        self.endpoint.share(processes())
        plan = partial(requests, max_size=self.max_request_chars, max_reply_chars=self.max_reply_chars)
        before, pool = self.endpoint.spent_tokens, ThreadPoolExecutor(max_workers=self.concurrency)
        try:
            reflections = self.review.run(trajectories, plan, lambda asked: list(pool.map(self._answer, asked)))
        except BaseException:  # also after a signal, do not wait for answers
            pool.shutdown(wait=False, cancel_futures=True)
            self.endpoint.cancel()
            raise
        finally:
            pool.shutdown()
            # after an error the other processes cannot be asked: each is taken to have spent as much as this one
            self._spent_by_all += (self.endpoint.spent_tokens - before) * processes()
        self._spent_by_all = summed(self.endpoint.spent_tokens)
        return reflections

    def state_dict(self) -> dict[str, Any]:
        """Tokens that all processes have used so far, so that the limit is for the whole run."""
        return {"spent_tokens": self._spent_by_all}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the count, of which each process takes its part."""
        self._spent_by_all = int(state["spent_tokens"])
        self.endpoint.spent_tokens = math.ceil(self._spent_by_all / processes())

    def _answer(self, question: Question) -> Answer:
        shape = self._shape(question) if self.response_format else None
        reply = self.endpoint.ask(question.messages, question.request.max_new_tokens, question.temperature, shape)
        return Answer(reply.text, reply.tokens, ended=not reply.cut, opened=in_reasoning(reply), failure=reply.failure)

    def _shape(self, question: Question) -> dict[str, Any]:
        """Field ``response_format`` with the schema of the answer, for servers with structured output."""
        schema = review_schema(question.trajectory, question.request.window, self.review.max_diagnosis_chars)
        return {"type": "json_schema", "json_schema": {"name": "review", "strict": True, "schema": schema}}

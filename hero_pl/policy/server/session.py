"""Conversations that are sampled on servers: one request per action; the answers come in any order."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hero_envs.chat_http import Calls
from hero_pl.errors import PolicyError
from hero_pl.policy.sampling import Sampling, Session
from hero_pl.policy.server.dialect import Served, UnusableReply, read_reply, request
from hero_pl.types import FinishReason, SampledAction

if TYPE_CHECKING:
    from hero_pl.policy.server.pool import Place, Pool


class Workers:
    """Daemon threads that wait for servers: when a run is interrupted, the process does not wait for replies.

    Args:
        count: Largest number of concurrent jobs.
    """

    def __init__(self, count: int) -> None:
        self._count, self._started = count, 0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def add(self, job: Callable[[], None]) -> None:
        """Run a job as soon as a thread is free. The job must not raise."""
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=self._work, name="hero_pl sampler", daemon=True).start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()


@dataclass(slots=True)
class _Row:
    """One conversation."""

    seed: int
    place: Place | None = None
    """Server of the latest turn; its cache contains the prefix of the conversation."""
    turns: int = 0
    calls: Calls = field(default_factory=Calls)
    """Handle of the current request."""


class ServerSession(Session):
    """Conversations, each on one server as long as that server has the weights.

    Args:
        pool: Servers with the weights to sample from.
        workers: Threads for the requests.
        sampling: Settings of all conversations.
        ends: Ids that end a reply.
        seeds: One seed per conversation of the start.
    """

    def __init__(
        self, pool: Pool, workers: Workers, sampling: Sampling, ends: frozenset[int], seeds: Sequence[int]
    ) -> None:
        self._pool, self._workers, self._sampling, self._ends = pool, workers, sampling, ends
        self._rows: dict[int, _Row] = {}
        self._opened = 0
        self._asked: set[int] = set()
        self._drawn: queue.SimpleQueue[tuple[int, SampledAction]] = queue.SimpleQueue()
        self.open(seeds)

    def open(self, seeds: Sequence[int]) -> list[int]:
        """See :meth:`Session.open`."""
        rows = list(range(self._opened, self._opened + len(seeds)))
        self._opened += len(rows)
        self._rows.update({row: _Row(seed) for row, seed in zip(rows, seeds, strict=True)})
        return rows

    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """See :meth:`Session.submit`.

        Raises:
            PolicyError: No server has the weights, and none was ready in time.
        """
        served = self._pool.served
        for number, prompt in zip(rows, prompts, strict=True):
            row = self._rows[number]
            if row.place is None or not row.place.ready:
                row.place = self._pool.pick()
            row.turns += 1
            row.calls = Calls()
            self._asked.add(number)
            seed = reply_seed(row.seed, row.turns)
            self._workers.add(functools.partial(self._draw, number, row.place, row.calls, served, prompt, seed))

    def finished(self) -> list[tuple[int, SampledAction]]:
        """See :meth:`Session.finished`; waits at most for the time limit of the requests."""
        found: list[tuple[int, SampledAction]] = []
        while self._asked and not (found and self._drawn.empty()):
            row, action = self._drawn.get()
            if row in self._asked:
                self._asked.remove(row)
                found.append((row, action))
        return found

    def close(self, rows: Sequence[int]) -> None:
        """See :meth:`Session.close`; current requests are canceled."""
        for row in rows:
            self._rows.pop(row).calls.end()
            self._asked.discard(row)

    def _draw(self, row: int, place: Place, calls: Calls, served: Served, prompt: tuple[int, ...], seed: int) -> None:
        """One request and its result; runs in a worker thread."""
        limit = self._sampling.max_action_tokens
        try:
            body = request(served, prompt, limit, self._sampling.temperature, seed, self._ends)
            reply = read_reply(place.server.generate(body, calls), served, limit, self._ends)
            action = SampledAction(reply.ids, reply.logprobs, reply.finish_reason, served.version)
        except Exception as error:  # any error belongs to this request only; the thread continues with others
            place.ready = place.ready and calls.ended.is_set()  # the server is checked before its next request
            reason = str(error) if isinstance(error, (PolicyError, UnusableReply)) else repr(error)
            action = SampledAction((), (), FinishReason.ERROR, served.version, f"{place.server.url}: {reason}")
        self._drawn.put((row, action))


def reply_seed(seed: int, turn: int) -> int:
    """Seed of one reply; with the same seed at every turn, a server would use the same random numbers every time.

    Args:
        seed: Seed of the conversation.
        turn: Number of the turn, from 1.
    """
    state = np.random.SeedSequence((seed % 2**64, turn)).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # servers expect signed numbers

"""A group of servers with the same weights: which of them have the weights, and which gets the next conversation."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hero_pl.errors import PolicyError
from hero_pl.policy.server.client import Server, ServerGone
from hero_pl.policy.server.dialect import Served

LONGEST_PAUSE_S = 5.0
"""Longest pause between two attempts to reach servers that do not answer, in seconds."""


@dataclass(eq=False, slots=True)
class Place:
    """A server of a pool."""

    server: Server
    ready: bool = False
    """Whether the server is known to have the weights."""


class Pool:
    """Servers that get the same weights.

    Args:
        servers: One or more servers.
        served: The weights.
        give: Sends the weights to a server and checks them.
        timeout_s: Time to wait for servers that do not answer, in seconds.
        hint: Gives the advice for an error message if no server answers.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        served: Served,
        give: Callable[[Server], None],
        timeout_s: float,
        hint: Callable[[Server], str],
    ) -> None:
        self.places = [Place(server) for server in servers]
        self.served = served
        self._give, self._timeout_s, self._hint = give, timeout_s, hint
        self._next = 0
        self._owner = threading.get_ident()
        """Thread of the trainer: only it can check a server, because the check runs the network."""
        self._clock: Callable[[], float] = time.monotonic
        self._sleep: Callable[[float], None] = time.sleep

    def renew(self, served: Served) -> None:
        """Send new weights to all servers; servers that do not answer are not used until they answer again.

        Args:
            served: Name and version of the new weights.

        Raises:
            PolicyError: No server answers within the time limit, or a server has other weights.
        """
        self.served, self._owner = served, threading.get_ident()
        for place in self.places:
            place.ready = False
        self._settle()
        self.pick()
        for place in self.places:
            if not place.ready:
                warnings.warn(f"{place.server.url} does not answer and is not used for now.", stacklevel=2)

    def pick(self) -> Place:
        """The next server for a new conversation; if no server is ready, waits for one.

        Raises:
            PolicyError: No server is ready within the time limit, or a server has other weights.
        """
        deadline, pause = self._clock() + self._timeout_s, 0.1
        while (place := self._next_ready()) is None:
            if threading.get_ident() != self._owner:
                raise PolicyError("no server is ready, and servers are not checked while the trainer learns.")
            gone = self._settle()
            if (place := self._next_ready()) is not None:
                break
            if self._clock() >= deadline:
                reason = gone or "all of them answer, but requests to them fail again and again."
                raise PolicyError(f"No server for sampling: {reason} {self._hint(self.places[0].server)}")
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return place

    def _next_ready(self) -> Place | None:
        """The next server that is ready; ``None`` after one round. Other threads may unset ``ready`` at any time."""
        for _ in self.places:
            place = self.places[self._next % len(self.places)]
            self._next += 1
            if place.ready:
                return place
        return None

    def _settle(self) -> ServerGone | None:
        """Send the weights to all servers that are not ready; returns the error of the last one that did not answer."""
        gone = None
        for place in self.places:
            if not place.ready:
                try:
                    self._give(place.server)
                    place.ready = True
                except ServerGone as error:
                    gone = error
        return gone

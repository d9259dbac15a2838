"""The servers that draw from one set of weights: which of them have it, and who gets the next conversation."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hero_pl.errors import PolicyError
from hero_pl.policy.server.client import Server, ServerGone
from hero_pl.policy.server.dialect import Served

LONGEST_PAUSE_S = 5.0
"""Between two looks at servers that do not answer."""


@dataclass(eq=False, slots=True)
class Place:
    """A server of a pool."""

    server: Server
    ready: bool = False
    """Whether it has the weights, as far as is known."""


class Pool:
    """Servers that are to have the same weights.

    Args:
        servers: At least one.
        served: The weights.
        give: Gives them to a server and checks them.
        timeout_s: How long to wait for servers that do not answer.
        hint: What to do if none answers.
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
        self._clock: Callable[[], float] = time.monotonic
        self._sleep: Callable[[float], None] = time.sleep

    def renew(self, served: Served) -> None:
        """Give all servers new weights; those that do not answer are left out until they are back.

        Args:
            served: What the new weights are called.

        Raises:
            PolicyError: None answers within the time limit, or one has other weights.
        """
        self.served = served
        for place in self.places:
            place.ready = False
        self._settle()
        self.pick()
        for place in self.places:
            if not place.ready:
                warnings.warn(f"{place.server.url} does not answer and is left out for now.", stacklevel=2)

    def pick(self) -> Place:
        """A server for a new conversation, in turn; waits for one to come back if there is none.

        Raises:
            PolicyError: None came back within the time limit, or one came back with other weights.
        """
        deadline, pause = self._clock() + self._timeout_s, 0.1
        while not any(place.ready for place in self.places):
            gone = self._settle()
            if gone is None:
                break
            if self._clock() >= deadline:
                raise PolicyError(f"No server for sampling: {gone} {self._hint(self.places[0].server)}")
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        while True:
            place = self.places[self._next % len(self.places)]
            self._next += 1
            if place.ready:
                return place

    def _settle(self) -> ServerGone | None:
        """Give the weights to all servers that answer and have not got them; why the last one did not answer."""
        gone = None
        for place in self.places:
            if not place.ready:
                try:
                    self._give(place.server)
                    place.ready = True
                except ServerGone as error:
                    gone = error
        return gone

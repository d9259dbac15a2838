"""Which server of a pool is next, while requests of other threads fail; the clock is the test's own."""

from types import SimpleNamespace
from typing import Any

import pytest

from hero_pl.errors import PolicyError
from hero_pl.policy.server.client import ServerGone
from hero_pl.policy.server.dialect import Served
from hero_pl.policy.server.pool import Pool


class Fading:
    """A place that other threads set to not ready as soon as it was seen ``times`` times after a check."""

    def __init__(self, times: int) -> None:
        self.server, self.times = SimpleNamespace(url="http://fading"), times
        self.left = self.looks = 0

    @property
    def ready(self) -> bool:
        self.left, self.looks = self.left - 1, self.looks + 1
        assert self.looks < 100, "the pool goes round and round"
        return self.left >= 0

    @ready.setter
    def ready(self, value: bool) -> None:
        self.left = self.times if value else 0


def made(count: int, give: Any = lambda server: None, timeout_s: float = 1.0) -> tuple[Pool, list[float]]:
    """A pool of servers, and its pauses."""
    servers: Any = [SimpleNamespace(url=f"http://{number}") for number in range(count)]
    pool, pauses = Pool(servers, Served("student", 0), give, timeout_s, lambda server: "Start it."), list[float]()
    pool._clock, pool._sleep = lambda: sum(pauses), pauses.append
    return pool, pauses


def test_bug_735_a_server_that_fails_after_it_was_seen_ready_is_used_or_waited_for() -> None:
    pool, pauses = made(1)
    fading: Any = Fading(times=1)
    pool.places = [fading]
    assert pool.pick() is pool.places[0]
    assert pauses == []


def test_bug_735_the_time_limit_holds_where_servers_answer_and_their_requests_fail() -> None:
    pool, pauses = made(2)
    fading: list[Any] = [Fading(times=0), Fading(times=0)]
    pool.places = fading
    with pytest.raises(PolicyError, match=r"No server for sampling: all of them answer, .* Start it\."):
        pool.pick()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_servers_take_turns_and_one_that_is_gone_is_left_out_without_a_pause() -> None:
    def give(server: Any) -> None:
        if server.url == "http://1":
            raise ServerGone("it is gone.")

    pool, pauses = made(3, give)
    assert [pool.pick().server.url for _ in range(5)] == ["http://0", "http://2", "http://0", "http://2", "http://0"]
    assert pauses == []
    pool.places = pool.places[1:2]
    with pytest.raises(PolicyError, match=r"No server for sampling: it is gone\. Start it\."):
        pool.pick()
    assert sum(pauses) >= 1.0

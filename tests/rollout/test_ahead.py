"""The end of a run does not wait for episodes that nobody needs; training on them: ``tests/policy/server``."""

import threading
from typing import Any

import pytest


def test_bug_846_the_end_of_a_run_does_not_wait_for_an_episode_that_hangs(
    tiny_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hero_pl.datamodule.AT_END_S", 0.0)
    held, done, data = threading.Event(), threading.Event(), tiny_data()

    def play(ended: Any) -> list[Any]:
        held.wait(5.0)
        done.set()
        return []

    data.next.start(play, {})
    data.teardown("fit")
    assert not done.is_set()
    held.set()

"""A pool answers every call within its time limit, and gives the reason for calls that failed."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import pytest

from hero_pl.errors import ConfigError, EnvError
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import ExpertDemonstrations
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.pool import Fault, LocalPool, Recipe, Reset, Step
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import StopReason


class Moody(gymnasium.Env[str, str]):
    """Does what the action says."""

    observation_space = action_space = gymnasium.spaces.Text(1000)  # type: ignore[assignment]
    task_ids = ("a", "b")
    made, closed = 0, 0
    held = threading.Event()

    def __init__(self, slow: str = "") -> None:
        type(self).made += 1
        if slow == "raises":
            raise RuntimeError("no browser")
        if slow == "waits":
            self.held.wait(5.0)
        if slow == "hangs":
            time.sleep(60.0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if (options or {})["task"] == "b":
            time.sleep(60.0)
        self.steps = 0
        return "hi", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if action == "sleep":
            try:
                time.sleep(60.0)
            except Exception:
                return "awake", 0.0, False, False, {}
        if action == "wait":
            self.held.wait(5.0)
        if action == "spin":
            while True:
                pass
        if action == "exit":
            raise SystemExit(3)
        if action == "fail":
            raise RuntimeError("no")
        if action == "misconfigured":
            raise ConfigError("user.pretrained: no such folder")
        return f"step {self.steps} in {threading.current_thread().name}", 0.0, False, False, {}

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    Moody.made = Moody.closed = 0
    Moody.held.clear()
    gymnasium.register("MoodyTest-v0", Moody)
    yield
    gymnasium.registry.pop("MoodyTest-v0")


def asked(calls: list[str], limits: Limits) -> tuple[LocalPool, list[int], list[Answer | Fault]]:
    """One environment per call, each of them started."""
    pool = LocalPool(limits)
    seats = pool.seats(Recipe("MoodyTest-v0"), len(calls))
    pool.ask(dict.fromkeys(seats, Reset("a", 1)))
    answers = pool.ask({seat: Step(call) for seat, call in zip(seats, calls, strict=True)})
    return pool, seats, [answers[seat] for seat in seats]


LATE = Fault(StopReason.ENV_TIMEOUT, "step() took longer than 0.2 s")


@pytest.mark.parametrize("threads", [0, 1, 2, 8])
def test_what_hangs_costs_itself_alone_and_the_next_environment_is_a_new_one(threads: int) -> None:
    limits = Limits(threads=threads, step_timeout_s=0.2)
    pool, seats, answers = asked(["sleep", "go", "sleep", "go", "fail", "go"], limits)
    assert answers[0] == answers[2] == LATE
    assert answers[4] == Fault(StopReason.ENV_ERROR, "step() raised RuntimeError('no')")
    assert [isinstance(answer, Answer) for answer in answers] == [False, True] * 3
    assert Moody.made == 6
    again = pool.ask(dict.fromkeys(seats[:5], Reset("a", 1)))
    assert all(isinstance(answer, Answer) for answer in again.values())
    assert Moody.made == 9
    assert Moody.closed == (1 if threads else 3)  # a thread that hangs still has its environment


def test_bug_846_calls_have_their_limits_outside_of_the_main_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(step_timeout_s=0.2, reset_timeout_s=60.0)
    with ThreadPoolExecutor(1) as ahead:  # as with data.ahead: 1
        pool, seats, answers = ahead.submit(asked, ["wait"], limits).result()
        assert answers == [LATE]
        assert Moody.closed == 0  # a thread still has it
        assert isinstance(ahead.submit(pool.ask, {seats[0]: Reset("a", 1)}).result()[seats[0]], Answer)
        monkeypatch.setattr("hero_pl.rollout.pool.START_S", 0.2)
        (seat,) = pool.seats(Recipe("MoodyTest-v0", None, {"slow": "waits"}), 1)
        unmade = ahead.submit(pool.ask, {seat: Reset("a", 1)}).result()
    assert unmade == {seat: Fault(StopReason.ENV_TIMEOUT, "the environment was not created within 300 s")}
    Moody.held.set()


class Sleeper:
    """An expert whose action hangs."""

    def reset(self) -> None:
        pass

    def act(self, observation: str) -> str:
        return "spin"


def test_bug_865_an_expert_plays_within_the_limits_of_an_episode() -> None:
    collector = Collector("MoodyTest-v0", limits=Limits(step_timeout_s=0.2))
    plan = ExpertDemonstrations(Sleeper()).plan(EpisodeSpec("a", 0, 1), collector)
    assert next(plan) == "spin"
    with pytest.raises(EnvError, match=r"step\(\) took longer than 0\.2 s"):
        next(plan)
    assert (Moody.made, Moody.closed) == (2, 1)
    assert isinstance(collector.ask(Reset("a", 1)), Answer)


@pytest.mark.parametrize("threads", [0, 2])
def test_an_environment_that_cannot_be_created_costs_its_episode(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hero_pl.rollout.pool.START_S", 0.2)
    pool = LocalPool(Limits(threads=threads))
    seats = [pool.seats(Recipe("MoodyTest-v0", None, {"slow": slow}), 1)[0] for slow in ("raises", "hangs", "")]
    answers = pool.ask(dict.fromkeys(seats, Reset("a", 1)))
    assert answers[seats[0]] == Fault(
        StopReason.ENV_ERROR, "The environment 'MoodyTest-v0' cannot be created: RuntimeError('no browser')"
    )
    assert answers[seats[1]].reason is StopReason.ENV_TIMEOUT  # type: ignore[union-attr]
    assert isinstance(answers[seats[2]], Answer)


def test_a_loop_of_python_is_interrupted() -> None:
    _, _, answers = asked(["spin"], Limits(step_timeout_s=0.2))
    assert answers == [LATE]


def test_bug_138_a_reset_has_a_limit_of_its_own() -> None:
    pool = LocalPool(Limits(step_timeout_s=1000.0, reset_timeout_s=0.2))
    (seat,) = pool.seats(Recipe("MoodyTest-v0"), 1)
    assert pool.ask({seat: Reset("b", 1)}) == {seat: Fault(StopReason.ENV_TIMEOUT, "reset() took longer than 0.2 s")}


@pytest.mark.parametrize("threads", [0, 2])
def test_an_environment_that_exits_does_not_take_the_run_along(threads: int) -> None:
    _, _, (answer,) = asked(["exit"], Limits(threads=threads))
    assert answer == Fault(StopReason.ENV_ERROR, "step() raised SystemExit(3)")


@pytest.mark.parametrize("threads", [0, 2])
def test_a_configuration_that_shows_to_be_wrong_ends_the_run(threads: int) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        asked(["misconfigured"], Limits(threads=threads))


def test_a_signal_that_ends_the_run_is_no_fault_of_the_environment() -> None:
    from hero_pl.callbacks.interrupts import Interrupted

    class Interrupting(Moody):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            raise Interrupted(15)

    gymnasium.registry.pop("MoodyTest-v0")
    gymnasium.register("MoodyTest-v0", Interrupting)
    with pytest.raises(Interrupted):
        asked(["go"], Limits())


def test_without_threads_environments_run_in_the_main_thread_and_their_alarm_is_given_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    _, _, (answer,) = asked(["go"], Limits())
    assert isinstance(answer, Answer)
    assert answer.observation == "step 1 in MainThread"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_kind_of_environment_keeps_its_seats_and_shares_none() -> None:
    pool = LocalPool(Limits())
    one, other = Recipe("MoodyTest-v0"), Recipe("MoodyTest-v0", "test")
    first = pool.seats(one, 2)
    assert set(first).isdisjoint(pool.seats(other, 3))
    assert pool.seats(one, 4)[:2] == first
    assert pool.seats(one, 1) == first[:1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": -1}, "limits.workers=-1"),
        ({"threads": 2, "workers": 2}, "Set one of them to 0"),
        ({"step_timeout_s": 0.0}, "limits.step_timeout_s=0.0"),
        ({"reset_timeout_s": float("inf")}, "limits.reset_timeout_s=inf"),
        ({"retries": -1}, "limits.retries=-1"),
        ({"broken_share": 1.5}, "limits.broken_share=1.5"),
        ({"max_observation_chars": 0}, "limits.max_observation_chars=0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Limits(**wrong)

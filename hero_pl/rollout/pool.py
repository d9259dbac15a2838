"""Where environments run: in this process, or (:mod:`hero_pl.rollout.workers`) in others.

A pool has seats, one per concurrent episode, each with its own environment. Calls are made in rounds of one call per
seat; a round ends when every call has an answer or a timeout. A failure is returned as a :class:`Fault`.
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from hero_pl.errors import EnvError, HeroError
from hero_pl.rollout import environments
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.limits import Limits
from hero_pl.types import StopReason

START_S = 300.0
"""Maximum number of seconds to create an environment, or to start a worker process."""
UNMADE = f"the environment was not created within {START_S:g} s"
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Id, split and arguments of an environment."""

    env_id: str
    split: str | None = None
    env_args: Mapping[str, Any] = field(default_factory=dict)
    registration: Mapping[str, Any] | None = None
    """What a process has to tell Gymnasium that has not imported what registers the id here."""

    @classmethod
    def of(cls, env_id: str, split: str | None, env_args: Mapping[str, Any]) -> Recipe:
        """The recipe of an id that is known here.

        Raises:
            ConfigError: See :func:`~hero_pl.rollout.environments.check_arguments`.
        """
        environments.check_arguments(env_args)
        return cls(env_id, split, env_args, environments.registration(env_id))

    def make(self) -> environments.Env:
        """Create one environment; see :func:`~hero_pl.rollout.environments.make`."""
        environments.register_again(self.registration)
        return environments.make(self.env_id, self.split, **self.env_args)


@dataclass(frozen=True, slots=True)
class Reset:
    """Start an episode."""

    task_id: str
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """Execute an action."""

    action: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Reason why there is no answer. The episode has ended, and its environment is closed."""

    reason: StopReason
    error: str
    own: bool = True
    """False: the failure was caused by the call of another seat."""


class EnvPool(ABC):
    """Environments behind seats."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._seats: dict[int, Recipe] = {}

    def seats(self, recipe: Recipe, count: int) -> list[int]:
        """Numbers of ``count`` seats with environments of this recipe; the same at each call."""
        mine = [seat for seat, made_of in self._seats.items() if made_of is recipe]
        fresh = range(len(self._seats), len(self._seats) + count - len(mine))
        self._seats.update(dict.fromkeys(fresh, recipe))
        return [*mine, *fresh][:count]

    @abstractmethod
    def ask(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        """One call per seat.

        Returns:
            By seat: an answer or a fault for each of ``calls``, and a fault with ``own=False`` for every other seat
            whose environment was lost.

        Raises:
            ConfigError: An environment cannot be created.
            EndpointError: A server that the environments use no longer answers, or its spend cap is reached.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the environments; they are created again at the next call."""


def create(recipe: Recipe) -> environments.Env | Fault:
    """An environment, or the reason why there is none.

    Raises:
        ConfigError: No environment of this recipe can be created.
    """
    try:
        return _within(START_S, recipe.make)
    except EnvError as error:
        return Fault(StopReason.ENV_ERROR, str(error))
    except _LateError:
        return Fault(StopReason.ENV_TIMEOUT, UNMADE)


def close_quietly(env: environments.Env, limits: Limits) -> None:
    """Close an environment; an error there, or a close that takes too long, has no effect on the run."""
    with suppress(Exception, _LateError):
        _within(limits.step_timeout_s, env.close)


def answer(env: environments.Env, call: Reset | Step, limits: Limits) -> Answer | Fault:
    """The answer of an environment to a call."""
    try:
        if isinstance(call, Reset):
            return environments.begin(env, call.task_id, call.seed, limits.max_observation_chars)
        return environments.step(env, call.action, limits.max_observation_chars)
    except environments.UnansweredError as error:
        return Fault(StopReason.ENDPOINT_ERROR, str(error))
    except EnvError as error:
        return Fault(StopReason.ENV_ERROR, str(error))


def answer_in_time(env: environments.Env, call: Reset | Step, limits: Limits) -> Answer | Fault:
    """The answer of an environment to a call, or a fault if it takes too long."""
    try:
        return _within(seconds(call, limits), partial(answer, env, call, limits))
    except _LateError:
        return late(call, limits)


def discard(env: environments.Env, why: Fault, limits: Limits, threads: bool = False) -> None:
    """Close an environment after a fault, unless a thread still uses it.

    Args:
        env: The environment.
        why: Its fault.
        limits: Limits of the rollout.
        threads: Whether the call was made in a thread of its own.
    """
    if why.reason is not StopReason.ENV_TIMEOUT or not (threads or not _interruptible()):
        close_quietly(env, limits)


def seconds(call: Reset | Step, limits: Limits) -> float:
    """Time limit of a call, in seconds."""
    if isinstance(call, Reset) and limits.reset_timeout_s is not None:
        return limits.reset_timeout_s
    return limits.step_timeout_s


def late(call: Reset | Step, limits: Limits) -> Fault:
    """The fault of a call that takes too long."""
    name = "reset" if isinstance(call, Reset) else "step"
    return Fault(StopReason.ENV_TIMEOUT, f"{name}() took longer than {seconds(call, limits):g} s")


class LocalPool(EnvPool):
    """Environments in this process, stepped in the thread that asks or in ``limits.threads``.

    Outside the main thread a call is made in a thread of its own, since only the main thread can be interrupted.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._envs: dict[int, environments.Env] = {}

    def ask(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        """See :meth:`EnvPool.ask`."""
        unmade: dict[int, Answer | Fault] = {}
        for seat in calls.keys() - self._envs.keys():
            made = create(self._seats[seat])
            if isinstance(made, Fault):
                unmade[seat] = made
            else:
                self._envs[seat] = made
        calls = {seat: call for seat, call in calls.items() if seat not in unmade}
        try:
            answers = self._ask_in_threads(calls) if self.limits.threads else self._ask_one_by_one(calls)
        except BaseException:  # an error or a signal that ends the run does not wait for servers
            for seat in calls if self.limits.threads else ():
                environments.cancel(self._envs[seat])
            raise
        for seat, one in answers.items():
            if isinstance(one, Fault):
                discard(self._envs.pop(seat), one, self.limits, bool(self.limits.threads))
        return answers | unmade

    def close(self) -> None:
        """See :meth:`EnvPool.close`."""
        for seat in list(self._envs):
            close_quietly(self._envs.pop(seat), self.limits)

    def _ask_one_by_one(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        answers: dict[int, Answer | Fault] = {}
        for seat, call in calls.items():
            answers[seat] = answer_in_time(self._envs[seat], call, self.limits)
        return answers

    def _ask_in_threads(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        """Use daemon threads: unlike in a standard thread pool, a thread that hangs does not block the exit."""
        todo = deque((seat, call, self._envs[seat]) for seat, call in calls.items())
        given: SimpleQueue[tuple[int, Answer | Fault | HeroError]] = SimpleQueue()
        started: dict[int, float] = {}
        answers: dict[int, Answer | Fault] = {}

        def work() -> None:
            with suppress(IndexError):
                while True:
                    seat, call, env = todo.popleft()
                    started[seat] = time.monotonic()
                    try:
                        given.put((seat, answer(env, call, self.limits)))
                    except HeroError as error:
                        given.put((seat, error))

        for _ in range(min(self.limits.threads, len(todo))):
            threading.Thread(target=work, daemon=True).start()
        while len(answers) < len(calls):
            ends = {seat: begun + seconds(calls[seat], self.limits) for seat, begun in list(started.items())}
            ends = {seat: end for seat, end in ends.items() if seat not in answers}
            wait = min(ends.values(), default=time.monotonic() + 1.0) - time.monotonic()
            try:
                seat, one = given.get(timeout=max(0.0, wait))
            except Empty:
                now = time.monotonic()
                for seat in [seat for seat, end in ends.items() if end <= now]:
                    answers[seat] = late(calls[seat], self.limits)
                    threading.Thread(target=work, daemon=True).start()  # replaces the thread that hangs
                continue
            if isinstance(one, HeroError):
                raise one
            answers.setdefault(seat, one)  # a late answer is ignored
        return answers


class _LateError(BaseException):
    """Raised inside an environment; not caught by ``except Exception`` in it."""


def _interruptible() -> bool:
    """Whether a call in this thread can be interrupted."""
    return threading.current_thread() is threading.main_thread()


def _within(limit: float, call: Callable[[], Result]) -> Result:
    """The result of a call; outside the main thread, one that takes longer goes on in a thread of its own.

    Raises:
        _LateError: It takes longer than ``limit`` seconds.
    """
    if _interruptible():
        with _alarm(limit):
            return call()
    given: SimpleQueue[tuple[list[Result], BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            given.put(([call()], None))
        except BaseException as error:  # raised again in the thread that waits
            given.put(([], error))

    threading.Thread(target=work, daemon=True).start()
    try:
        results, error = given.get(timeout=limit)
    except Empty:
        raise _LateError from None
    if error is not None:
        raise error
    return results[0]


@contextmanager
def _alarm(limit: float) -> Iterator[None]:
    """Interrupt a call in the main thread at its time limit, on systems with SIGALRM."""

    def ring(*_: object) -> None:
        raise _LateError

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)

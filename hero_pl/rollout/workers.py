"""Environments in worker processes, so that one that hangs, dies or leaks memory does not affect the trainer.

A worker runs the environments of many seats, so that data they share (for example a catalog) is loaded once per worker.
It answers its calls one after the other. A worker that takes too long for a call, or ends, is replaced: that call has
failed, and the other episodes of the worker are restarted. No tensor library is imported here.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeAlias

from hero_pl.errors import ConfigError, EnvError, HeroError
from hero_pl.rollout import environments
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.pool import (
    START_S,
    UNMADE,
    EnvPool,
    Fault,
    Recipe,
    Reset,
    Step,
    answer,
    close_quietly,
    create,
    late,
    seconds,
)
from hero_pl.rollout.process_group import kill_group, kill_own_group, lead_group
from hero_pl.rollout.ray_process import RayProcess
from hero_pl.types import StopReason

END_S = 5.0
"""Maximum number of seconds for workers to close their environments."""

Call: TypeAlias = "tuple[int, Recipe, Reset | Step]"
"""A seat, the recipe of its environment, and the call."""


class WorkerPool(EnvPool):
    """Environments in ``limits.workers`` processes; seat ``i`` belongs to worker ``i`` modulo their number."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._workers: dict[int, _Worker] = {}
        weakref.finalize(self, _end, self._workers)

    def seats(self, recipe: Recipe, count: int) -> list[int]:
        """See :meth:`EnvPool.seats`.

        Raises:
            ConfigError: Another process cannot create the environment.
        """
        environments.check_arguments(recipe.env_args, self.limits.workers)
        entry_point = str((recipe.registration or {}).get("entry_point", ""))
        if not entry_point.rpartition(":")[2].isidentifier() and entry_point:
            raise ConfigError(
                f"limits.workers={self.limits.workers}: another process cannot import {entry_point}, with which "
                f"{recipe.env_id} is registered. Register a class at the top of a module, or set workers to 0."
            )
        try:
            ForkingPickler.dumps(recipe)
        except Exception as error:
            raise ConfigError(
                f"limits.workers={self.limits.workers}: the arguments of {recipe.env_id} cannot be sent to another "
                f"process ({error}). Use plain values, or set workers to 0."
            ) from error
        return super().seats(recipe, count)

    def ask(self, calls: Mapping[int, Reset | Step]) -> dict[int, Answer | Fault]:
        """See :meth:`EnvPool.ask`.

        Raises:
            ConfigError: An environment cannot be created.
            EndpointError: A server that the environments use no longer answers.
            EnvError: A worker cannot be started.
        """
        parts: dict[int, list[Call]] = {}
        for seat, call in calls.items():
            parts.setdefault(seat % self.limits.workers, []).append((seat, self._seats[seat], call))
        for number in parts.keys() - self._workers.keys():
            self._workers[number] = _Worker(self.limits)
        answers: dict[int, Answer | Fault] = {}
        asked = {number: self._workers[number] for number in parts}
        try:
            for number, part in parts.items():
                asked[number].ask(part)
            while asked:
                left = min(worker.deadline for worker in asked.values()) - time.monotonic()
                wait([one for worker in asked.values() for one in worker.signs], max(0.0, left))
                for number, worker in list(asked.items()):
                    fault = worker.hear(answers)
                    if fault is not None:
                        self._workers.pop(number).kill()
                        answers |= worker.lost(fault)
                    if fault is not None or not worker.waiting:
                        del asked[number]
        except BaseException:
            for number in asked:  # their answers are not needed
                self._workers.pop(number).kill()
            raise
        return answers

    def close(self) -> None:
        """See :meth:`EnvPool.close`."""
        _end(self._workers)


def _end(workers: dict[int, _Worker]) -> None:
    """Close workers and their environments; kill those that do not end."""
    for worker in workers.values():
        worker.pipe.close()
    deadline = time.monotonic() + END_S
    while workers:
        _, worker = workers.popitem()
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()


class _Worker:
    """The trainer's side of a worker process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        remote = limits.transport == "ray"
        self.process: LocalProcess | RayProcess = RayProcess(limits, serve) if remote else LocalProcess(limits)
        self.pipe = self.process.pipe
        self.waiting: deque[tuple[int, Reset | Step]] = deque()
        """Calls without an answer, in their order."""
        self.hosted: set[int] = set()
        """Seats with an environment here."""
        self.started = self.made = False
        """Whether it has reported that it started, and that it created the environment of the current call."""
        self.deadline = time.monotonic() + START_S

    @property
    def signs(self) -> tuple[Connection | int, ...]:
        """Objects to wait for."""
        return self.pipe, *self.process.signs

    def ask(self, calls: Sequence[Call]) -> None:
        """Send calls; a worker that has died is detected in :meth:`hear`."""
        self.waiting.extend((seat, call) for seat, _, call in calls)
        self.hosted.update(seat for seat, _, _ in calls)
        self.made, self.deadline = False, time.monotonic() + START_S
        with suppress(OSError):
            self.pipe.send(calls)

    def hear(self, answers: dict[int, Answer | Fault]) -> Fault | None:
        """Read one message if there is any.

        Args:
            answers: Gets the answer.

        Returns:
            The fault of the worker if it has ended or takes too long.

        Raises:
            HeroError: An error in the worker ends the run, or it could not start.
        """
        seat, call = self.waiting[0]
        try:
            if self.pipe.poll():
                self._take(self.pipe.recv(), seat, call, answers)
                return None
        except (EOFError, OSError):
            self.process.join(END_S)
        if not self.process.is_alive():
            if not self.started:
                raise EnvError(
                    f"A worker process ended while it started, with exit status {self.process.exitcode}; its output "
                    'is above. A script that trains with limits.workers needs the line `if __name__ == "__main__":`.'
                )
            status = self.process.exitcode
            return Fault(StopReason.ENV_ERROR, f"the worker process ended with exit status {status}")
        if time.monotonic() < self.deadline:
            return None
        if not self.started:
            raise EnvError(f"A worker process has not started within {START_S:g} s.")
        if not self.made:
            return Fault(StopReason.ENV_TIMEOUT, UNMADE)
        return late(call, self.limits)

    def _take(self, message: Any, seat: int, call: Reset | Step, answers: dict[int, Answer | Fault]) -> None:
        if isinstance(message, HeroError):
            raise message
        if isinstance(message, Answer | Fault):
            answers[seat] = message
            if isinstance(message, Fault):
                self.hosted.discard(seat)
            self.waiting.popleft()
            self.made, self.deadline = False, time.monotonic() + START_S
        elif not self.started:
            self.started, self.deadline = True, time.monotonic() + START_S
        else:
            self.made, self.deadline = True, time.monotonic() + seconds(call, self.limits)

    def lost(self, fault: Fault) -> dict[int, Answer | Fault]:
        """The faults of the current call and of the others."""
        failed = self.waiting[0][0]
        others = Fault(fault.reason, f"another environment of the worker process: {fault.error}", own=False)
        return {**dict.fromkeys(self.hosted, others), failed: fault}

    def kill(self) -> None:
        """End the process, with all processes that its environments started."""
        self.pipe.close()
        self.process.kill()


class LocalProcess:
    """A worker process on this machine, with its connection.

    Args:
        limits: Limits of the rollout.
    """

    def __init__(self, limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, limits), daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()

    @property
    def signs(self) -> tuple[int, ...]:
        """What becomes readable when the process ends."""
        return (self._process.sentinel,)

    @property
    def exitcode(self) -> int | None:
        """Exit status; ``None`` while it runs."""
        return self._process.exitcode

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the end of the process."""
        self._process.join(timeout)

    def kill(self) -> None:
        """Kill the process, with all processes that its environments started."""
        kill_group(self._process)
        self._process.join(END_S)
        with suppress(ValueError):  # the operating system has not finished its end
            self._process.close()


# -- in the worker -----------------------------------------------------------------------------------------------------


def serve(pipe: Connection, limits: Limits) -> None:
    """Answer calls until the trainer closes the pipe or ends.

    Args:
        pipe: Connection to the trainer.
        limits: Limits of the rollout.
    """
    lead_group()
    threading.Thread(target=_end_with_trainer, daemon=True).start()
    envs: dict[int, environments.Env] = {}
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            for seat, recipe, call in pipe.recv():
                try:
                    env = envs.pop(seat) if seat in envs else create(recipe)
                    pipe.send(None)
                    outcome = env if isinstance(env, Fault) else answer(env, call, limits)
                except HeroError as error:
                    pipe.send(error)
                    continue
                pipe.send(outcome)
                if isinstance(env, Fault):
                    continue
                if isinstance(outcome, Answer):
                    envs[seat] = env
                else:
                    close_quietly(env, limits)
    for env in envs.values():
        close_quietly(env, limits)


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    time.sleep(END_S)
    kill_own_group()

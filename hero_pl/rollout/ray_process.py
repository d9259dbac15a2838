"""Worker processes on the machines of a Ray cluster (extra ``ray``).

On each machine an actor starts the worker, a process of its own, and ends it. Calls and answers do not pass through
Ray: the worker connects to the trainer, with a key that Ray hands over, and is the same otherwise as one on the machine
of the trainer. The other machines need the package, the environments, and the folders of ``sys.path`` under the same
paths.
"""

from __future__ import annotations

import multiprocessing
import secrets
import sys
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Client, Connection, Listener, wait
from typing import TYPE_CHECKING, Any, TypeAlias

from hero_pl.errors import ConfigError, EnvError
from hero_pl.rollout.process_group import kill_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from hero_pl.rollout.limits import Limits

    Serve: TypeAlias = Callable[[Connection, Limits], None]

CONNECT_S, CALL_S = 120.0, 10.0
"""Seconds to wait for a worker's connection, and for an answer of its actor."""


class RayProcess:
    """The trainer's side of a worker process on some machine; like ``multiprocessing.Process``, with its connection.

    Args:
        limits: Limits of the rollout.
        serve: What the process does with its connection and the limits.

    Raises:
        ConfigError: Ray is not installed.
        EnvError: The cluster has no room for the worker, or it does not connect.
    """

    def __init__(self, limits: Limits, serve: Serve) -> None:
        if find_spec("ray") is None:
            raise ConfigError("limits.transport=ray needs the package ray: pip install 'hero_pl[ray]'.")
        import ray

        self._ray = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)  # RAY_ADDRESS, or a cluster on this machine
        key = secrets.token_bytes(32)
        with Listener((ray.util.get_node_ip_address(), 0), authkey=key) as listener:
            self._host = ray.remote(_Host).options(num_cpus=1, max_concurrency=2).remote()
            started = self._host.start.remote(serve, listener.address, key, limits, sys.path)
            try:
                ray.get(started, timeout=CONNECT_S)
                socket: Any = listener._listener._socket  # type: ignore[attr-defined]
                if not wait([socket], CONNECT_S):
                    raise TimeoutError(f"no connection to {listener.address}")
                self.pipe: Connection = listener.accept()
            except (ray.exceptions.RayError, TimeoutError, OSError) as error:
                ray.kill(self._host)
                why = " ".join(str(error).split())[:200]
                raise EnvError(
                    f"Ray did not start a worker within {CONNECT_S:g} s ({why}). It needs one free CPU of the cluster "
                    "(ray status); lower limits.workers."
                ) from error

    signs: tuple[int, ...] = ()
    """A process that ends closes its connection, which is all that is seen of it."""

    @property
    def exitcode(self) -> int | None:
        """Exit status of the process, as far as its machine can tell."""
        found = self._ask("exitcode")
        return found if isinstance(found, int) else None

    def is_alive(self) -> bool:
        """Whether the process runs; ``False`` if its machine does not answer."""
        return self._ask("is_alive") is True

    def join(self, timeout: float) -> None:
        """Wait for the end of the process."""
        self._ask("join", timeout)

    def kill(self) -> None:
        """End the process with all that its environments started, and its actor."""
        self._ask("kill")
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._host)

    def close(self) -> None:
        """Release nothing: the actor is gone."""

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self._ray.get(getattr(self._host, method).remote(*args), timeout=CALL_S)
        except (self._ray.exceptions.RayError, TimeoutError):
            return None


class _Host:
    """The actor on a machine: starts a worker process and watches it."""

    def start(self, serve: Serve, address: tuple[str, int], key: bytes, limits: Limits, path: list[str]) -> None:
        sys.path[:] = path
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_connected, args=(serve, address, key, limits), daemon=True)
        self.process.start()

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def exitcode(self) -> int | None:
        return self.process.exitcode

    def join(self, timeout: float) -> None:
        self.process.join(timeout)

    def kill(self) -> None:
        kill_group(self.process)
        self.process.join(CALL_S / 2)


def _connected(serve: Serve, address: tuple[str, int], key: bytes, limits: Limits) -> None:
    serve(Client(address, authkey=key), limits)

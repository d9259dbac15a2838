"""The pocket shop with faults at chosen episodes; a worker process can import it."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium

import hero_envs

gymnasium.register_envs(hero_envs)

SHOP = "hero_pl/WebShopPocket-v0"
FAULTY = "hero_pl_tests/FaultyShop-v0"


def hang(*_: Any) -> None:
    time.sleep(20.0)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def strike(*_: Any) -> None:
    os.kill(os.getppid(), signal.SIGTERM)  # of a worker process: the trainer
    hang()


def fail(*_: Any) -> None:
    raise RuntimeError("the shop is on fire")


class FaultyShop(gymnasium.Wrapper[str, str, str, str]):
    """Breaks the second step of some episodes, and the start of some tasks.

    Args:
        seeds: Fault by seed of the episode: ``fail``, ``hang``, ``die`` or ``strike``.
        tasks: Fault by task, at its start.
        once: Folder; each fault happens once only, whichever process meets it first.
        split: Split of the shop's tasks.
    """

    def __init__(
        self,
        seeds: dict[int, str] | None = None,
        tasks: dict[str, str] | None = None,
        once: str | None = None,
        split: str = "train",
    ) -> None:
        super().__init__(gymnasium.make(SHOP, split=split))
        self.seeds, self.tasks, self.once = seeds or {}, tasks or {}, once

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        task = str((options or {}).get("task"))
        self.fault, self.steps, self.name = self.seeds.get(seed or 0), 0, f"{seed}"
        if task in self.tasks:
            self._strike(self.tasks[task], task)
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 2 and self.fault:
            self._strike(self.fault, self.name)
        return super().step(action)

    def _strike(self, fault: str, name: str) -> None:
        if self.once is not None:
            try:
                (Path(self.once) / f"struck {name}").touch(exist_ok=False)
            except FileExistsError:
                return
        {"fail": fail, "hang": hang, "die": die, "strike": strike}[fault]()


gymnasium.register(FAULTY, FaultyShop, order_enforce=False, disable_env_checker=True)

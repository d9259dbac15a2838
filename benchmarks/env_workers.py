"""How much faster worker processes play an environment that waits.

    python benchmarks/env_workers.py

Every step waits for a fixed time, as for a network or a slow program. The same episodes are played in this process and
by 1, 2 and 4 workers; only the ratios mean something. Starting the workers is not counted: they start once per run.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import gymnasium

from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.specs import EpisodeSpec


class Waits(gymnasium.Env[str, str]):
    """Takes its time for every answer."""

    observation_space = action_space = gymnasium.spaces.Text(1000)  # type: ignore[assignment]
    task_ids = ("a", "b", "c", "d")

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return "Go on.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self.wait_s)
        self.steps += 1
        return f"Step {self.steps}.", 0.0, self.steps == 8, False, {}


def play(workers: int, wait_s: float, episodes: int) -> tuple[float, list[Any]]:
    """Seconds, and what was played."""
    collector = Collector("Waits-v0", {"wait_s": wait_s}, limits=Limits(num_envs=episodes, workers=workers))
    policy = ScriptedPolicy(["go"])
    policy.load()
    specs = [EpisodeSpec(collector.task_ids[i % 4], i, i) for i in range(episodes)]
    collector.collect(specs, policy, Sampling(max_action_tokens=8))  # starts the workers
    started = time.perf_counter()
    played = collector.collect(specs, policy, Sampling(max_action_tokens=8))
    taken = time.perf_counter() - started
    collector.close()
    return taken, played


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait-ms", type=float, default=20.0)
    parser.add_argument("--episodes", type=int, default=16)
    options = parser.parse_args()
    gymnasium.register("Waits-v0", "env_workers:Waits", order_enforce=False, disable_env_checker=True)
    here, expected = play(0, options.wait_ms / 1000.0, options.episodes)
    for workers in (1, 2, 4):
        taken, played = play(workers, options.wait_ms / 1000.0, options.episodes)
        assert played == expected, "other episodes were played"
        row = {"workers": workers, "seconds": taken, "in this process": here, "ratio": here / taken}
        print(json.dumps({name: round(value, 2) for name, value in row.items()}))


if __name__ == "__main__":
    main()

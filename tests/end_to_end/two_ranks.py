"""Runs of the real module on any number of processes, for ``test_data_parallel.py``; as a script, one of two ranks.

``python two_ranks.py FILE`` expects the variables that a launcher sets (LOCAL_RANK, MASTER_ADDR, MASTER_PORT); both
ranks play every scenario in turn, and each writes what it found to FILE and its rank.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from hero_pl.batch import ReduceSum, TokenizedBatch
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.chat.actions import PlainText
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import EnvError
from hero_pl.module import HeroModule
from hero_pl.objectives.base import LossOutput, Objective, Step
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.base import Policy
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.base import Reflector
from hero_pl.rollout.collect import Limits
from hero_pl.scalars import largest, mean, share, total
from hero_pl.types import Reflection, Trajectory

PATIENCE = timedelta(seconds=120)
"""A collective that a rank never joins fails after this time instead of hanging."""

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


class AnyReward(GRPO):
    """Rewards the ids themselves, so that a policy that never wins has groups with different rewards."""

    def shape(self, rewards: torch.Tensor, trajectories: Sequence[Trajectory]) -> torch.Tensor:
        sums = [float(sum(sum(turn.action_ids) for turn in t.turns)) for t in trajectories]
        return rewards + torch.tensor(sums, dtype=rewards.dtype)


class Some(Reflector):
    """The rules for the listed episodes of a step; no diagnoses for the others."""

    def __init__(self, episodes: int, places: Sequence[int]) -> None:
        self.episodes, self.places, self.rules = episodes, places, ShopRules()

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        return [
            one if t.group % self.episodes in self.places else replace(one, diagnoses=(None,) * len(t.turns))
            for t, one in zip(trajectories, self.rules.reflect(trajectories, policy), strict=True)
        ]


class Own(SelfDistillation):
    """A user's objective with its own metrics, given by hand per episode of a step."""

    count, value, weight = (1, 2, 2, 3), (0.0, 1.0, 1.0, 1.0), (1, 1, 2, 4)

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        step = super().prepare(trajectories, policy, reduce_sum)
        mine = [trajectory.group % EPISODES for trajectory in trajectories]
        weight = sum(self.weight[i] for i in mine)
        score = sum(self.weight[i] * self.value[i] for i in mine)
        step.metrics["mine/count"] = total(sum(self.count[i] for i in mine))  # 3 and 5 on two ranks
        step.metrics["mine/mean"] = mean(score / weight, weight)  # 0.5 over 2 and 1.0 over 6
        step.metrics["mine/largest"] = largest(max(self.count[i] for i in mine))  # 2 and 3
        step.metrics["mine/rare"] = share(7.0 * (0 in mine), 0 in mine)  # nothing on the second
        return step

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        out = super().loss(policy, micro)
        out.metrics["mine/micro_batches"] = total(1)
        out.metrics["mine/tokens"] = total(len(micro))
        return out


class Counted(RolloutDataModule):
    """Counts the held-out episodes that this rank plays."""

    evaluated, broken = 0, False

    def _counter(self, work: str, total: int, *args: Any) -> Callable[[Trajectory], None]:
        self.evaluated += total * (work == "evaluating")
        return super()._counter(work, total, *args)

    def _collect(self, *args: Any) -> list[Trajectory]:
        if self.broken and self._place()[0] == 1:
            raise EnvError("the shop has closed")
        return super()._collect(*args)


@dataclass(frozen=True)
class Scenario:
    objective: Callable[[], Objective]
    steps: int = 1
    tokens_per_micro_batch: int = 1 << 20
    group_size: int = 1
    max_turns: int = 0
    held_out: int = 0
    broken: bool = False


EPISODES = 4
"""Tasks of one optimizer step over all ranks."""

SCENARIOS = {
    "all hinted": Scenario(lambda: SelfDistillation(ShopRules())),
    "unequal": Scenario(lambda: SelfDistillation(Some(EPISODES, (0, 1, 3)))),
    "unequal, per trajectory": Scenario(
        lambda: SelfDistillation(Some(EPISODES, (0, 1, 3)), normalize="traj_mean_turn_mean")
    ),
    "two micro-batches and one": Scenario(
        lambda: SelfDistillation(Some(EPISODES, (0, 1, 3))), tokens_per_micro_batch=1
    ),
    "one rank empty": Scenario(lambda: SelfDistillation(Some(EPISODES, (0, 1))), tokens_per_micro_batch=1),
    "all ranks empty": Scenario(lambda: SelfDistillation(Some(EPISODES, ())), max_turns=15),
    "own metrics": Scenario(lambda: Own(ShopRules()), tokens_per_micro_batch=1),
    "grpo": Scenario(AnyReward, group_size=4),
    "held out": Scenario(lambda: SelfDistillation(ShopRules()), held_out=7),
    "budget": Scenario(lambda: SelfDistillation(ShopRules()), max_turns=25),
    "one rank broken": Scenario(lambda: SelfDistillation(ShopRules()), broken=True),
}


def run(scenario: Scenario, world: int) -> dict[str, Any]:
    """Train; gradients of the last step, weights, counters."""
    torch.manual_seed(0)
    policy = HuggingFacePolicy(config=dict(TINY), tokenizer="hero_pl:pocket-shop", parser=PlainText())
    module = HeroModule(
        policy,
        scenario.objective(),
        lr=1e-2,
        warmup_steps=0,
        clip=0.0,
        tokens_per_micro_batch=scenario.tokens_per_micro_batch,
    )
    held_out = HeldOut(scenario.held_out)
    data = Counted(
        "hero_pl/WebShopPocket-v0",
        tasks_per_step=EPISODES // world,
        group_size=scenario.group_size,
        max_action_tokens=4,
        limits=Limits(max_turns=3),
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=PATIENCE) if world > 1 else "auto",
        max_steps=scenario.steps if scenario.max_turns == 0 else -1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[TurnBudget(scenario.max_turns), held_out],
    )
    data.broken = scenario.broken
    try:
        trainer.fit(module, data)
    except EnvError as error:
        return {"error": str(error)}
    return {
        "gradient": {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None},
        "weights": {name: p.detach().clone() for name, p in policy.named_parameters()},
        "turns": module.turns,
        "version": policy.version,
        "batches": data.steps,
        "metrics": module.last_metrics,
        "held_out": {mark: {**found, "train_cpu_s": 0} for mark, found in held_out.results.items()},
        "evaluated": data.evaluated,
        "micro_batches": len({record.trajectory.group for record in module.last_records if record.token_loss[0]}),
    }


if __name__ == "__main__":
    results = {name: run(scenario, world=2) for name, scenario in SCENARIOS.items()}
    torch.save(results, f"{sys.argv[1]}.{os.environ['LOCAL_RANK']}")

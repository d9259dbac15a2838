"""Runs of the real module on any number of processes, for ``test_data_parallel.py``; as a script, one of two ranks.

``python two_ranks.py FOLDER`` expects the variables that a launcher sets (LOCAL_RANK, MASTER_ADDR, MASTER_PORT); both
ranks play every scenario in turn, and each writes what it found to FOLDER and its rank. Checkpoints and exports are in
FOLDER, too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from hero_pl.batch import ReduceSum, TokenizedBatch
from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.chat.actions import PlainText
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError, EnvError, PolicyError
from hero_pl.losses.gates import HighEntropy, StepDivergence
from hero_pl.module import HeroModule
from hero_pl.objectives.base import LossOutput, Objective, Step
from hero_pl.objectives.mixed import Mixed
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy import padding
from hero_pl.policy.base import Policy
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Limits
from hero_pl.scalars import largest, mean, share, total
from hero_pl.sharded import whole
from hero_pl.strategies import FSDP2Strategy
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher, HindsightTeacher
from hero_pl.teacher.weights import EMAWeights, InitialWeights, PeriodicWeights
from hero_pl.types import Reflection, ScoreRow, Trajectory

PATIENCE = timedelta(seconds=120)
"""A collective that a rank never joins fails after this time instead of hanging."""

PADDING = padding.PADDING, padding.PADDING_SHARE
STRATEGIES: dict[str, Any] = {"ddp": DDPStrategy, "fsdp2": FSDP2Strategy}
STEPS = 6
"""Optimizer steps of the scenarios whose losses are compared."""
MIDDLE = f"step={STEPS // 2}.ckpt"

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "initializer_range": 0.1,
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
    max_action_tokens: int = 4
    episode_turns: int = 3
    held_out: int = 0
    broken: bool = False
    pretrained: bool = False
    """The shipped policy, which can review, instead of a small one with random weights."""
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    padding: bool = True
    """Without, rows of different lengths are different passes."""
    lr: float = 1e-2
    matrix_lr: float | None = None
    clip: float = 0.0


class Seen(lightning.Callback):
    """Metrics of each step, passes that were added for other ranks, and what a pass outside of ``gathered`` gives."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.blanks: list[int] = []
        self.refused = ""

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        own = module.policy.network.blanks
        module.policy.network.blanks = lambda passes: self.blanks.append(passes) or own(passes)
        if module.policy.network.sharding is not None:
            try:
                module.policy.score([ScoreRow((0, 1), ((1, 2),))])
            except PolicyError as error:
                self.refused = str(error)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        self.steps.append(module.last_metrics)


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
    "reviewed by itself": Scenario(
        lambda: SelfDistillation(
            SelfReflector("initial", "continue", 16),
            HindsightTeacher("hero_pl:pocket/hint.jinja"),
            InitialWeights(),
            probe_turns=4,
            probe_every=2,
        ),
        steps=STEPS,
        pretrained=True,
        max_action_tokens=12,
        tokens_per_micro_batch=700,
        lr=1e-3,
        clip=1.0,
    ),
    "feedback, gate, average": Scenario(
        lambda: SelfDistillation(NoReflector(), FeedbackOnlyTeacher(), EMAWeights(0.3), gate=StepDivergence()),
        steps=STEPS,
        tokens_per_micro_batch=300,
        clip=1e-3,
    ),
    "groups": Scenario(
        lambda: AnyReward(beta_kl=0.1),
        steps=STEPS,
        group_size=2,
        tokens_per_micro_batch=600,
        padding=False,
        gradient_checkpointing=True,
    ),
    "mixed": Scenario(  # the second rank has a policy gradient only
        lambda: Mixed(AnyReward(), reflector=Some(EPISODES, (0, 1)), weights=PeriodicWeights(2), gate=HighEntropy()),
        steps=STEPS,
        group_size=2,
        tokens_per_micro_batch=300,
    ),
    "adapter": Scenario(
        lambda: SelfDistillation(Some(EPISODES, (0,)), weights=InitialWeights()), steps=STEPS, lora=Lora(rank=2)
    ),
    "muon": Scenario(lambda: SelfDistillation(ShopRules()), matrix_lr=0.02),
}

SHARDED = (
    "unequal",
    "two micro-batches and one",
    "one rank empty",
    "all ranks empty",
    "one rank broken",
    "reviewed by itself",
    "feedback, gate, average",
    "groups",
    "mixed",
    "adapter",
    "muon",
)
"""Scenarios that are also played under FSDP2."""

SAVED = ("feedback, gate, average", "adapter")
"""Scenarios with a checkpoint in the middle and an export at the end."""

CROSSINGS = (
    (SAVED[0], "ddp", "fsdp2"),
    (SAVED[0], "fsdp2", "ddp"),
    (SAVED[0], "alone", "fsdp2"),
    (SAVED[1], "alone", "fsdp2"),
)
"""Scenario, and the strategies before and after the checkpoint."""


def made(scenario: Scenario) -> HuggingFacePolicy:
    """The policy of a scenario, without weights."""
    source: Any = {"config": dict(TINY), "tokenizer": "hero_pl:pocket-shop"}
    if scenario.pretrained:
        source = {"pretrained": "hero_pl:pocket-shop"}
    checkpointing = scenario.gradient_checkpointing
    return HuggingFacePolicy(**source, parser=PlainText(), lora=scenario.lora, gradient_checkpointing=checkpointing)


def run(
    scenario: Scenario, world: int, strategy: str = "ddp", folder: Path | None = None, resume: Path | None = None
) -> dict[str, Any]:
    """Train; gradients of the last step, weights, counters.

    Args:
        scenario: What is trained.
        world: Number of processes.
        strategy: Name of one in ``STRATEGIES``, for two processes.
        folder: Gets a checkpoint in the middle, one at the end, and an export.
        resume: Checkpoint to resume from.
    """
    torch.manual_seed(0)
    padding.PADDING, padding.PADDING_SHARE = PADDING if scenario.padding else (0, 0.0)
    policy = made(scenario)
    module = HeroModule(
        policy,
        scenario.objective(),
        lr=scenario.lr,
        matrix_lr=scenario.matrix_lr,
        warmup_steps=0,
        clip=scenario.clip,
        tokens_per_micro_batch=scenario.tokens_per_micro_batch,
    )
    held_out, seen = HeldOut(scenario.held_out), Seen()
    saving = [RunCheckpoint(every_n_steps=STEPS // 2, keep=9)] if folder else []
    data = Counted(
        "hero_pl/WebShopPocket-v0",
        tasks_per_step=EPISODES // world,
        group_size=scenario.group_size,
        max_action_tokens=scenario.max_action_tokens,
        limits=Limits(max_turns=scenario.episode_turns),
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=STRATEGIES[strategy](process_group_backend="gloo", timeout=PATIENCE) if world > 1 else "auto",
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        max_steps=scenario.steps if scenario.max_turns == 0 else -1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[*saving, TurnBudget(scenario.max_turns), held_out, seen],
    )
    data.broken = scenario.broken
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except (ConfigError, EnvError) as error:
        return {"error": str(error)}
    if folder and (strategy == "fsdp2" or trainer.is_global_zero):
        policy.save_pretrained(folder / "export")
    local = [p.to_local() if isinstance(p, DTensor) else p for p in policy.parameters()]
    return {
        "gradient": {name: whole(p.grad).clone() for name, p in policy.named_parameters() if p.grad is not None},
        "weights": {name: whole(p.detach()).clone() for name, p in policy.named_parameters()},
        "steps": seen.steps,
        "blanks": seen.blanks,
        "refused": seen.refused,
        "share": sum(p.numel() for p in local) / sum(p.numel() for p in policy.parameters()),
        "turns": module.turns,
        "version": policy.version,
        "batches": data.steps,
        "metrics": module.last_metrics,
        "objective": module.objective.state_dict(),
        "held_out": {mark: {**found, "train_cpu_s": 0} for mark, found in held_out.results.items()},
        "evaluated": data.evaluated,
        "micro_batches": len({record.trajectory.group for record in module.last_records if record.token_loss[0]}),
    }


if __name__ == "__main__":
    found = Path(sys.argv[1])
    results = {}
    for name, strategy in [*((name, "ddp") for name in SCENARIOS), *((name, "fsdp2") for name in SHARDED)]:
        folder = found / strategy / name if name in SAVED else None
        results[strategy, name] = run(SCENARIOS[name], 2, strategy, folder)
    for name, before, strategy in CROSSINGS:
        saved = found / before / name / "checkpoints" / MIDDLE
        results[f"{before} to {strategy}", name] = run(SCENARIOS[name], 2, strategy, None, saved)
    torch.save(results, found / f"rank{os.environ['LOCAL_RANK']}")

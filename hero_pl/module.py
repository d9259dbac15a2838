"""The Lightning side of training: one optimizer step per rollout batch, micro-batches inside."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning
import torch
from torch import Tensor

from hero_pl.batch import TokenizedBatch
from hero_pl.callbacks.held_out import remarks, summarise
from hero_pl.errors import ConfigError
from hero_pl.metrics import scores
from hero_pl.objectives.base import LossOutput, Objective, Step
from hero_pl.policy.base import Policy
from hero_pl.records import Record, to_record
from hero_pl.rollout.prompt_tokens import prompt_tokens
from hero_pl.types import FinishReason, StopReason, Trajectory


class HeroModule(lightning.LightningModule):
    """Trains a policy with an objective.

    Args:
        policy: Weights, tokenizer, dialect.
        objective: Training signal.
        lr: Learning rate of AdamW.
        betas: Of AdamW.
        eps: Of AdamW; 1e-5 keeps steps small when gradients vanish late in training.
        weight_decay: Of AdamW.
        schedule: ``constant``, or ``linear`` decay to 0 over ``total_steps``.
        warmup_steps: Optimizer steps of linear warm-up.
        total_steps: Optimizer steps of the whole run; needed by ``linear``.
        clip: Largest norm of the gradient; 0 switches clipping off.
        tokens_per_micro_batch: Tokens of both sides in one forward and backward pass.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "linear"] = "constant",
        warmup_steps: int = 10,
        total_steps: int | None = None,
        clip: float = 1.0,
        tokens_per_micro_batch: int = 16384,
    ) -> None:
        super().__init__()
        if lr <= 0.0 or clip < 0.0 or tokens_per_micro_batch < 1 or warmup_steps < 0:
            raise ConfigError(
                f"lr={lr}, clip={clip}, tokens_per_micro_batch={tokens_per_micro_batch}, warmup_steps={warmup_steps}: "
                "expected lr > 0, clip >= 0, tokens_per_micro_batch >= 1, warmup_steps >= 0."
            )
        if schedule == "linear" and not total_steps:
            raise ConfigError("schedule: linear needs total_steps, the optimizer steps of the whole run.")
        self.automatic_optimization = False
        self.policy, self.objective = policy, objective
        self.adam: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.schedule, self.warmup_steps, self.total_steps = schedule, warmup_steps, total_steps
        self.clip, self.tokens_per_micro_batch = clip, tokens_per_micro_batch
        self.turns = 0
        """Assistant turns sampled for training so far on all ranks, hinted or not."""
        self.last_records: list[Record] = []
        """The latest training batch with its reflections and losses, for the trajectory log."""

    # -- set-up ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before any weight is read."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.objective.check(data.group_size)

    def configure_model(self) -> None:
        """Read or make the weights."""
        self.policy.load()

    def configure_optimizers(self) -> Any:
        """AdamW on the student's trainable parameters and nothing else."""
        parameters = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, **self.adam)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)}

    def _rate(self, step: int) -> float:
        rate = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "linear" and self.total_steps:
            rate *= max(0.0, 1.0 - step / self.total_steps)
        return rate

    def on_train_start(self) -> None:
        """Training mode; frozen copies are taken here, unless a checkpoint has brought them."""
        self.policy.train()
        self.objective.start(self.policy)

    # -- one step ----------------------------------------------------------------------------------------------

    def training_step(self, trajectories: list[Trajectory], batch_idx: int) -> None:
        """Prepare once, then one backward pass per micro-batch and one optimizer step."""
        with torch.no_grad():
            step = self.objective.prepare(trajectories, self.policy, self._reduce_sum)
        played = torch.tensor([float(sum(len(trajectory.turns) for trajectory in trajectories))])
        self.turns += int(self._reduce_sum(played))  # all ranks count alike, so the budget ends them together
        metrics = {**_rollout_metrics(trajectories), **step.metrics, "train/turns": float(self.turns)}
        metrics |= {f"rollout/{name}": n for name, n in prompt_tokens(trajectories, self.policy).items()}
        outputs, updated = self._update(step)
        metrics |= outputs.metrics
        metrics["train/skipped_steps"] = float(not updated)
        if updated:
            self.objective.after_step(self.policy, trajectories)
            self.policy.version += 1
        self.last_records = _records(trajectories, step, outputs, self.global_step)
        bar = {"success": metrics["rollout/success"], "turns": metrics["train/turns"]}
        self.log_dict(metrics, batch_size=len(trajectories))
        self.log_dict(bar, prog_bar=True, logger=False, batch_size=len(trajectories))

    def _update(self, step: Step) -> tuple[_Outputs, bool]:
        """Backward over all micro-batches, then step; a step without tokens or with broken gradients is skipped."""
        optimizer: Any = self.optimizers()
        world = self.trainer.world_size
        outputs = _Outputs()
        anywhere = float(self._reduce_sum(torch.tensor([float(len(step.batch))])))
        if not anywhere:
            return outputs, False
        optimizer.zero_grad()
        micros = list(step.batch.split(self.tokens_per_micro_batch))
        for i, micro in enumerate(micros):
            with optimizer.toggle_model(sync_grad=i == len(micros) - 1):
                out = self.objective.loss(self.policy, micro)
                self.manual_backward(out.loss * float(world))  # DDP averages over ranks; the shares must add up
            outputs.add(micro, out)
        if not micros:  # other ranks have tokens: take part in their collective
            attached = [p.sum() * 0.0 for p in self.policy.parameters() if p.requires_grad]
            self.manual_backward(torch.stack(attached).sum())
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.policy.parameters() if p.requires_grad], self.clip or math.inf
        )
        outputs.finish(float(norm))
        if not math.isfinite(float(norm)):
            optimizer.zero_grad()
            return outputs, False
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return outputs, True

    def _reduce_sum(self, local: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return local
        return self.trainer.strategy.reduce(local.to(self.device), reduce_op="sum")

    # -- evaluation --------------------------------------------------------------------------------------------

    def validation_step(self, trajectories: list[Trajectory], batch_idx: int) -> None:
        """Success and turns of held-out episodes."""
        self._log_evaluation("val", trajectories)

    def test_step(self, trajectories: list[Trajectory], batch_idx: int) -> None:
        """Success and turns of held-out episodes."""
        self._log_evaluation("test", trajectories)
        for line in remarks(summarise(trajectories)):
            self.print(line)

    def predict_step(self, trajectories: list[Trajectory], batch_idx: int) -> list[dict[str, Any]]:
        """The episodes as JSON records; Lightning cannot move frozen dataclasses."""
        return [to_record(Record("predict", self.global_step, trajectory)) for trajectory in trajectories]

    def _log_evaluation(self, stage: str, trajectories: list[Trajectory]) -> None:
        values = {**scores(trajectories), **prompt_tokens(trajectories, self.policy)}
        logged = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict({**logged, "train/turns": float(self.turns)}, batch_size=len(trajectories))

    # -- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not tell."""
        copies: dict[str, Any] = getattr(self.policy, "copies_state", dict)()
        checkpoint["hero"] = {
            "turns": self.turns,
            "version": self.policy.version,
            "objective": self.objective.state_dict(),
            "copies": copies,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it; the frozen copies come back before training starts."""
        state = checkpoint.get("hero")
        if state is None:
            raise ConfigError("This checkpoint was not written by hero_pl fit: it has no entry 'hero'.")
        self.turns, self.policy.version = int(state["turns"]), int(state["version"])
        self.objective.load_state_dict(state["objective"])
        if state["copies"]:
            self.policy.load_copies(state["copies"])  # type: ignore[operator]


class _Outputs:
    """Metrics and per-token values over the micro-batches of one step."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.tokens: list[tuple[TokenizedBatch, LossOutput]] = []
        self._loss = 0.0

    def add(self, micro: TokenizedBatch, out: LossOutput) -> None:
        """Means are weighted by tokens; the loss adds up."""
        self._loss += float(out.loss.detach())
        self.tokens.append((micro, out))

    def finish(self, grad_norm: float) -> None:
        """Combine."""
        total = sum(len(micro) for micro, _ in self.tokens)
        for micro, out in self.tokens:
            for name, value in out.metrics.items():
                if "max" in name:
                    self.metrics[name] = max(self.metrics.get(name, -math.inf), value)
                else:
                    self.metrics[name] = self.metrics.get(name, 0.0) + value * len(micro) / max(total, 1)
        self.metrics |= {"train/loss": self._loss, "train/grad_norm": grad_norm, "train/tokens": float(total)}


def _rollout_metrics(trajectories: list[Trajectory]) -> dict[str, float]:
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    count = max(len(trajectories), 1)
    shown = scores(trajectories)
    metrics = {
        **{f"rollout/{name}": shown[name] for name in ("tool_errors", "do_nothing_floor") if name in shown},
        "rollout/success": shown["success"],
        "rollout/reward": sum(t.reward for t in trajectories) / count,
        "rollout/turns_per_episode": len(turns) / count,
        "rollout/action_tokens": float(sum(len(turn.action_ids) for turn in turns)),
        "rollout/malformed": sum(turn.malformed is not None for turn in turns) / max(len(turns), 1),
        "rollout/cut_actions": sum(turn.finish_reason == FinishReason.LENGTH for turn in turns) / max(len(turns), 1),
    }
    for reason in StopReason:
        metrics[f"rollout/{reason}"] = sum(t.stop_reason == reason for t in trajectories) / count
    return metrics


def _records(trajectories: list[Trajectory], step: Step, outputs: _Outputs, number: int) -> list[Record]:
    """Trajectories with reflections and per-token values in the order of their turns."""
    empty: list[list[list[float] | None]] = [[None] * len(t.turns) for t in trajectories]
    columns = [[list(rows) for rows in empty] for _ in range(3)]
    for micro, out in outputs.tokens:
        if out.per_token is None or len(step.batch.places) == 0:
            continue
        q = out.student_logprobs.exp() if out.student_logprobs is not None else None
        p = out.teacher_logprobs.exp() if out.teacher_logprobs is not None else None
        for column, values in zip(columns, (out.per_token, q, p), strict=True):
            if values is not None:
                for turn, value in zip(micro.turn.tolist(), values.tolist(), strict=True):
                    i, j = micro.places[turn]
                    if i < len(column):
                        column[i][j - 1] = [*(column[i][j - 1] or []), value]
    missing: list[Any] = [None] * len(trajectories)
    reflections = step.reflections or missing
    pack = [[tuple(None if v is None else tuple(v) for v in rows) for rows in column] for column in columns]
    return [
        Record("train", number, t, reflections[i], pack[0][i], pack[1][i], pack[2][i])
        for i, t in enumerate(trajectories)
    ]

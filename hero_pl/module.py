"""The Lightning side of training: one optimizer step per rollout batch, micro-batches inside."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.callbacks.stored_weights import check_weights, frozen_names
from hero_pl.errors import ConfigError, HeroError, PolicyError
from hero_pl.evaluation.rollout import rollout_metrics
from hero_pl.evaluation.summary import logged, remarks, summarize
from hero_pl.objectives.base import Objective, Step
from hero_pl.optimizer import MuonAdamW, apply_settings
from hero_pl.policy.base import Policy
from hero_pl.runs.records import Record, append_records, evaluable, to_record
from hero_pl.scalars import Scalar, add_up, largest, measured, total
from hero_pl.step import StepOutputs, step_records
from hero_pl.types import Trajectory


class HeroModule(lightning.LightningModule):
    """Trains a policy with an objective.

    Args:
        policy: Weights, tokenizer, dialect.
        objective: Training signal.
        lr: Learning rate of AdamW.
        matrix_lr: Give the hidden matrices to Muon with this learning rate and only the rest to AdamW (for models that
            start from random weights). Default: AdamW for all.
        betas: Of AdamW.
        eps: Of AdamW; 1e-5 keeps steps small when gradients vanish late in training.
        weight_decay: Of AdamW.
        schedule: ``constant``, or ``linear`` decay to 0 over ``total_steps``.
        warmup_steps: Optimizer steps of linear warm-up.
        total_steps: Optimizer steps of the whole run; needed by ``linear``.
        clip: Largest norm of the gradient; 0 switches clipping off.
        tokens_per_micro_batch: Tokens of both sides in one forward and backward pass.
        updates_per_batch: Optimizer steps on each rollout batch; the recorded log-probabilities stay those of the
            rollout, and from the second step on the policy is no longer the one that sampled.
        max_staleness: Optimizer steps by which a rollout may lag behind the weights that learn from it. Beyond it an
            objective without a correction is refused.
        max_broken_steps: Steps in a row whose gradient is not finite; each is skipped, and after so many the run stops
            with its last batch in ``broken_batch.jsonl``.
        max_idle_batches: Batches in a row without an optimizer step, because no turn of them is in the loss or the
            gradient is not finite, after which the run ends with an error; 0 lets it go on. The first one warns.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        lr: float = 1e-5,
        matrix_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "linear"] = "constant",
        warmup_steps: int = 10,
        total_steps: int | None = None,
        clip: float = 1.0,
        tokens_per_micro_batch: int = 16384,
        updates_per_batch: int = 1,
        max_staleness: int = 0,
        max_broken_steps: int = 10,
        max_idle_batches: int = 100,
    ) -> None:
        super().__init__()
        rates = [rate for rate in (lr, matrix_lr) if rate is not None]
        if not all(0.0 < rate < math.inf for rate in rates):
            raise ConfigError(
                f"lr={lr}, matrix_lr={matrix_lr}: expected finite numbers, lr > 0, matrix_lr > 0 or none."
            )
        if not 0.0 <= clip < math.inf:
            raise ConfigError(f"clip={clip}: expected a finite number, 0 (no clipping) or more.")
        if tokens_per_micro_batch < 1 or warmup_steps < 0:
            raise ConfigError(
                f"tokens_per_micro_batch={tokens_per_micro_batch}, warmup_steps={warmup_steps}: "
                "expected tokens_per_micro_batch >= 1 and warmup_steps >= 0."
            )
        if updates_per_batch < 1 or max_staleness < 0 or max_idle_batches < 0:
            raise ConfigError(
                f"updates_per_batch={updates_per_batch}, max_staleness={max_staleness}, "
                f"max_idle_batches={max_idle_batches}: expected at least 1, 0 and 0."
            )
        if max_broken_steps < 1:
            raise ConfigError(f"max_broken_steps={max_broken_steps}: must be at least 1.")
        if schedule == "linear" and not total_steps:
            raise ConfigError("schedule: linear needs total_steps, the optimizer steps of the whole run.")
        self.automatic_optimization = False
        self.strict_loading = False  # check_weights is stricter, and knows what a checkpoint leaves out
        self.policy, self.objective = policy, objective
        self.adam: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.matrix_lr = matrix_lr
        self.schedule, self.warmup_steps, self.total_steps = schedule, warmup_steps, total_steps
        self.clip, self.tokens_per_micro_batch = clip, tokens_per_micro_batch
        self.updates_per_batch, self.max_staleness = updates_per_batch, max_staleness
        self.max_broken_steps, self.broken_steps = max_broken_steps, 0
        self.max_idle_batches = max_idle_batches
        self.turns = 0
        """Assistant turns sampled for training so far on all ranks, hinted or not."""
        self.last_records: list[Record] = []
        """The latest training batch with its reflections and losses, for the trajectory log."""
        self.last_metrics: dict[str, float] = {}
        """What the latest step measured, over all ranks."""
        self.idle_batches = 0
        """Batches in a row without an optimizer step, up to now."""
        self._idle = ""

    # -- set-up ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before any weight is read."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.objective.check(data.group_size)
            self._check_staleness(self.updates_per_batch - 1, f"updates_per_batch={self.updates_per_batch}")

    def _check_staleness(self, steps: int, why: str) -> None:
        if steps > self.max_staleness and not self.objective.tolerates_stale:
            raise ConfigError(
                f"{why}: rollouts lag up to {steps} optimizer steps behind the weights, max_staleness is "
                f"{self.max_staleness}, and {type(self.objective).__name__} corrects nothing. Give the objective a "
                "correction (SequenceMask for divergences over the vocabulary, TruncatedRatio for SampledToken), or "
                "raise model.max_staleness to accept it."
            )

    def configure_model(self) -> None:
        """Read or make the weights."""
        self.policy.load()

    def configure_optimizers(self) -> Any:
        """AdamW, or Muon and AdamW, on the student's trainable parameters and nothing else."""
        coarse = {p.dtype for p in self.policy.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
        if coarse:
            warnings.warn(
                f"Weights are trained in {coarse.pop()}, which is too coarse for the optimizer's small steps: most are "
                "lost. Keep policy dtype: float32 (with trainer.precision: bf16-mixed), or train an adapter (lora).",
                stacklevel=2,
            )
        optimizer = self._optimizer()
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)}

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.matrix_lr is not None:
            return MuonAdamW.of(self.policy, matrix_lr=self.matrix_lr, **self.adam)
        return torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], **self.adam)

    def _rate(self, step: int) -> float:
        rate = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "linear" and self.total_steps:
            rate *= max(0.0, 1.0 - step / self.total_steps)
        return rate

    def on_fit_start(self) -> None:
        """The weights are there, those of a checkpoint included: let the sampler have them."""
        self.policy.sampler.sync(self.policy)

    def on_validation_start(self) -> None:
        """The same for an evaluation by itself."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.policy.sampler.sync(self.policy)

    on_test_start = on_predict_start = on_fit_start

    def on_train_start(self) -> None:
        """Training mode; frozen copies are taken here, unless a checkpoint has brought them."""
        self.policy.train()
        apply_settings(self.lr_schedulers(), self._optimizer(), self._rate)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.objective.attach_collector(data.collector("train"))
        self.objective.start(self.policy)

    # -- one step ----------------------------------------------------------------------------------------------

    def training_step(self, trajectories: list[Trajectory], batch_idx: int) -> None:
        """Prepare once, then one backward pass per micro-batch and one optimizer step, ``updates_per_batch`` times."""
        judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]  # a broken one teaches nothing
        oldest = min((turn.policy_version for t in judged for turn in t.turns), default=self.policy.version)
        stale = self.policy.version - oldest
        self._check_staleness(stale, f"policy_version of step {self.global_step}")
        with torch.no_grad():
            step = self.objective.prepare(judged, self.policy, self._reduce_sum)
        data = getattr(self.trainer, "datamodule", None)
        discarded = getattr(data, "discarded", [])
        played = torch.tensor([float(sum(len(t.turns) for t in (*trajectories, *discarded)))])
        self.turns += int(self._reduce_sum(played))  # all ranks count alike, so the budget ends them together
        metrics = {**rollout_metrics(trajectories, discarded, self.policy.dialect), **step.metrics}
        metrics |= {name: total(count) for name, count in step.batch.counters.items()}
        metrics |= {"train/turns": largest(self.turns), "train/staleness": largest(stale)}
        metrics["train/broken_episodes"] = total(len(trajectories) - len(judged))
        metrics["train/quarantined_tasks"] = largest(getattr(data, "quarantined", 0))
        outputs, updated = StepOutputs(), True
        for _ in range(self.updates_per_batch):
            if not updated:
                break
            outputs, updated = self._update(step)
            if updated:
                self.objective.after_step(self.policy)
                self.policy.version += 1
                self.policy.sampler.sync(self.policy)
        metrics |= {**outputs.metrics(), "train/skipped_steps": largest(not updated)}
        metrics = self._over_ranks(metrics)
        self._log_step(metrics, len(trajectories))
        self._watch_idle(updated, metrics)
        self.last_records = step_records(judged, step, outputs, self.global_step)
        self.last_records += [Record("train", self.global_step, t) for t in trajectories if not evaluable(t)]
        if self.broken_steps >= self.max_broken_steps:
            raise self._broken()

    def _watch_idle(self, updated: bool, metrics: dict[str, Scalar]) -> None:
        """Say at once that nothing is learned, and why, in the counts of the step; all ranks have the same."""
        self.idle_batches = 0 if updated else self.idle_batches + 1
        if updated:
            return
        reason = "its gradient is not finite" if "train/grad_norm" in metrics else "no turn of it is in the loss"
        counts = {n: float(m) for n, m in metrics.items() if m.how == "sum" and float(m) > 0.0}
        said = ", ".join(f"{name} {value:g}" for name, value in counts.items())
        first, where = not self._idle, f"the batch after step {self.global_step}"
        self._idle = f"Nothing was learned from {where}: {reason}. Its counts: {said}."
        if first and self.trainer.is_global_zero:
            warnings.warn(self._idle, stacklevel=2)

    def on_train_batch_end(self, *args: Any) -> None:
        """End a run that learns nothing, after the callbacks have written down its last batch.

        Raises:
            HeroError: ``max_idle_batches`` batches in a row made no optimizer step.
        """
        if self.max_idle_batches and self.idle_batches >= self.max_idle_batches:
            raise HeroError(
                f"No optimizer step in {self.idle_batches} batches in a row; the run ends. {self._idle} See the "
                "episodes with: hero_pl view RUN. To go on regardless set model.max_idle_batches: 0."
            )

    def _update(self, step: Step) -> tuple[StepOutputs, bool]:
        """Backward over all micro-batches, then step; a step without tokens or with broken gradients is skipped."""
        optimizer: Any = self.optimizers()
        anywhere = float(self._reduce_sum(torch.tensor([float(len(step.batch))])))
        if not anywhere:
            return StepOutputs(), False
        try:
            outputs = self._gradient(step, optimizer)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._halve_micro_batches(step, error)
            try:
                outputs = self._gradient(step, optimizer)
            except (torch.OutOfMemoryError, MemoryError) as again:
                raise self._out_of_memory() from again
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.policy.parameters() if p.requires_grad], self.clip or math.inf
        )
        outputs.grad_norm = float(norm)
        if not math.isfinite(outputs.grad_norm):
            optimizer.zero_grad()
            self.broken_steps += 1
            return outputs, False
        self.broken_steps = 0
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return outputs, True

    def _gradient(self, step: Step, optimizer: Any) -> StepOutputs:
        """The gradient of the whole step, micro-batch by micro-batch."""
        world, outputs = self.trainer.world_size, StepOutputs()
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
        return outputs

    def _halve_micro_batches(self, step: Step, error: BaseException) -> None:
        """Use smaller micro-batches from now on; the gradient is the same sum.

        Raises:
            PolicyError: They cannot be smaller, or other ranks would wait for this one.
        """
        tokens, parts = self.tokens_per_micro_batch, len(list(step.batch.split(self.tokens_per_micro_batch)))
        while tokens > 1 and len(list(step.batch.split(tokens))) <= parts:
            tokens //= 2
        if self.trainer.world_size > 1 or len(list(step.batch.split(tokens))) <= parts:
            raise self._out_of_memory() from error
        warnings.warn(
            f"Out of memory with micro-batches of {self.tokens_per_micro_batch} tokens: {tokens} from now on. Set "
            "model.tokens_per_micro_batch to that.",
            stacklevel=2,
        )
        self.tokens_per_micro_batch = tokens
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _out_of_memory(self) -> PolicyError:
        return PolicyError(
            f"Out of memory with micro-batches of {self.tokens_per_micro_batch} tokens. Lower "
            "model.tokens_per_micro_batch or data.max_action_tokens, switch gradient_checkpointing on, or set "
            "model.policy.init_args.logits_at_once lower."
        )

    def _broken(self) -> PolicyError:
        """Keep the batch of the latest broken step for a replay, and say where it is."""
        folder = run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero:
            append_records(folder / "broken_batch.jsonl", self.last_records)
        return PolicyError(
            f"The gradient was not finite in {self.broken_steps} steps in a row; their updates were skipped. "
            + (f"The last batch is in {folder / 'broken_batch.jsonl'}. " if folder else "")
            + "Lower model.lr or model.clip, or look for weights or rewards that are not finite."
        )

    def _over_ranks(self, metrics: dict[str, Scalar]) -> dict[str, Scalar]:
        """The step's metrics, alike on all ranks, so that the loggers of rank 0 speak for all of them."""
        metrics = add_up([metrics])
        if self.trainer.world_size == 1:
            return metrics
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, metrics)
        return add_up(parts)

    def _log_step(self, metrics: dict[str, Scalar], episodes: int) -> None:
        before, self.last_metrics = self.last_metrics, measured(metrics)
        # Lightning logs the last value again of what a step leaves out, which would pass for a measurement
        gone = dict.fromkeys(before.keys() - self.last_metrics.keys(), math.nan)
        self.log_dict({**gone, **self.last_metrics}, batch_size=episodes)
        bar = {"success": self.last_metrics.get("rollout/success", math.nan), "turns": float(self.turns)}
        self.log_dict(bar, prog_bar=True, logger=False, batch_size=episodes)

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
        for line in remarks(self._log_evaluation("test", trajectories)):
            self.print(line)

    def predict_step(self, trajectories: list[Trajectory], batch_idx: int) -> list[dict[str, Any]]:
        """The episodes as JSON records; Lightning cannot move frozen dataclasses."""
        return [to_record(Record("predict", self.global_step, trajectory)) for trajectory in trajectories]

    def _log_evaluation(self, stage: str, trajectories: list[Trajectory]) -> dict[str, Any]:
        result = summarize(trajectories, self.policy.dialect)
        values = {f"{stage}/{name}": value for name, value in logged(result).items()}
        self.log_dict({**values, "train/turns": float(self.turns)}, batch_size=len(trajectories))
        return result

    # -- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights alone do not tell."""
        frozen = frozen_names(self)
        checkpoint["state_dict"] = {n: value for n, value in checkpoint["state_dict"].items() if n not in frozen}
        checkpoint["hero"] = {
            "origin": getattr(self.policy, "origin", ""),
            "turns": self.turns,
            "version": self.policy.version,
            "kind": type(self.objective).__name__,
            "objective": self.objective.state_dict(),
            "copies": self.policy.copies_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it; the frozen copies come back before training starts."""
        state = checkpoint.get("hero")
        if state is None:
            raise ConfigError("This checkpoint was not written by hero_pl fit: it has no entry 'hero'.")
        kind = state.get("kind", type(self.objective).__name__)
        if kind != type(self.objective).__name__:
            raise ConfigError(
                f"This checkpoint was written with the objective {kind}, the configuration has "
                f"{type(self.objective).__name__}. Resume with the run's own config.yaml, or start a new run from "
                "its weights: hero_pl export, then model.policy.init_args.pretrained."
            )
        check_weights(self, checkpoint)
        self.turns, self.policy.version = int(state["turns"]), int(state["version"])
        self.objective.load_state_dict(state["objective"])
        self.policy.load_copies(state["copies"])

    def roll_back(self, checkpoint: dict[str, Any]) -> None:
        """Restore the teacher of an earlier checkpoint of this run, whose weights are back; counters go on counting."""
        state = checkpoint["hero"]
        self.objective.roll_back(state["objective"])
        self.policy.load_copies(state["copies"])
        self.policy.sampler.sync(self.policy)

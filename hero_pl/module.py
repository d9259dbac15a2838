"""Training with Lightning: one optimizer step per rollout batch, in micro-batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from hero_pl.callbacks.run_folder import resumed_folder, run_folder, share_folder
from hero_pl.callbacks.spent import with_spent
from hero_pl.callbacks.stored_weights import check_weights, frozen_names
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.evaluation.rollout import rollout_metrics
from hero_pl.evaluation.summary import logged, remarks, summarize
from hero_pl.gradient import gradient
from hero_pl.objectives.base import Objective, Step
from hero_pl.optimizer import OptimizerSettings, apply_settings, warn_if_coarse
from hero_pl.policy.base import Policy
from hero_pl.rollout.ahead import check_ahead
from hero_pl.rollout.ranks import of_each, own
from hero_pl.runs.records import Record, append_records, evaluable, to_record
from hero_pl.scalars import Scalar, largest, measured, total
from hero_pl.sharded import whole
from hero_pl.step import BROKEN_BATCH, IdleBatches, StepOutputs, gradients_broken, over_ranks, step_records
from hero_pl.strategies import check_precision, check_sharding, check_strategy
from hero_pl.types import Trajectory

TOKENS_PER_MICRO_BATCH = {True: 512, False: 16384}
"""Tokens of a micro-batch by default, on a CPU and elsewhere."""


class HeroModule(lightning.LightningModule):
    """Trains a policy with an objective.

    Args:
        policy: Weights, tokenizer, dialect.
        objective: Training signal.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon, which then trains the hidden matrices, and AdamW the rest (for models that
            start from random weights). Default: AdamW for all.
        betas: Betas of AdamW.
        eps: Epsilon of AdamW; 1e-5 keeps steps small when gradients vanish late in training.
        weight_decay: Weight decay of AdamW.
        schedule: ``constant``, or ``linear`` decay to 0 over ``total_steps``.
        warmup_steps: Optimizer steps of linear warm-up.
        total_steps: Optimizer steps of the whole run; needed by ``linear``.
        clip: Maximum norm of the gradient; 0 disables clipping.
        tokens_per_micro_batch: Tokens of both sides in one forward and backward pass; a trajectory is never split.
            ``auto`` takes few on a CPU, where more need memory and save no time, and 16384 elsewhere.
        updates_per_batch: Optimizer steps on each rollout batch. From the second step on, the weights differ from those
            that sampled the batch; the recorded log-probabilities remain those of the rollout.
        max_staleness: Maximum number of optimizer steps between the weights that sampled a batch and the weights that
            are trained on it. With more, an objective without a correction is refused.
        max_broken_steps: Consecutive batches with a gradient that is not finite, after which the run ends. The update
            and the remaining ones of its batch are skipped, and the last batch is in ``broken_batch.jsonl``.
        max_idle_batches: Consecutive batches without an optimizer step, after which the run ends with an error; 0: no
            limit. No step is made if no turn is in the loss or the gradient is not finite. The first one warns. Unless
            it is 0, a shorter run of ten batches or more without any step ends with an error, too.
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
        tokens_per_micro_batch: int | Literal["auto"] = "auto",
        updates_per_batch: int = 1,
        max_staleness: int = 0,
        max_broken_steps: int = 10,
        max_idle_batches: int = 100,
    ) -> None:
        super().__init__()
        if not 0.0 <= clip < math.inf:
            raise ConfigError(f"clip={clip}: expected a finite number, 0 (no clipping) or more.")
        if tokens_per_micro_batch != "auto" and tokens_per_micro_batch < 1:
            raise ConfigError(f"tokens_per_micro_batch={tokens_per_micro_batch}: expected auto, or at least 1.")
        if updates_per_batch < 1 or max_staleness < 0 or max_idle_batches < 0:
            raise ConfigError(
                f"updates_per_batch={updates_per_batch}, max_staleness={max_staleness}, "
                f"max_idle_batches={max_idle_batches}: expected at least 1, 0 and 0."
            )
        if max_broken_steps < 1:
            raise ConfigError(f"max_broken_steps={max_broken_steps}: expected at least 1.")
        self.automatic_optimization = False
        self.strict_loading = False  # check_weights is stricter, and accounts for weights that a checkpoint omits
        self.policy, self.objective = policy, objective
        self.optimization = OptimizerSettings(
            lr, matrix_lr, betas, eps, weight_decay, schedule, warmup_steps, total_steps
        )
        self.clip, self.tokens_per_micro_batch = clip, tokens_per_micro_batch
        self.updates_per_batch, self.max_staleness = updates_per_batch, max_staleness
        self.max_broken_steps, self.broken_steps = max_broken_steps, 0
        self.idle = IdleBatches(max_idle_batches)
        self.turns = 0
        """Number of assistant turns sampled for training so far on all ranks, with or without a hint."""
        self.last_records: list[Record] = []
        """The latest training batch with its reflections and losses, for the trajectory log."""
        self.last_metrics: dict[str, float] = {}
        """Metrics of the latest step, over all ranks."""
        self.on_progress: Callable[[str, int, int], None] = lambda work, finished, total: None
        """Called with the work (``reviewing``, ``learning``), the number of finished parts and of all (0: unknown)."""

    # -- set-up ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check the configuration, and create the environments, before weights are read."""
        share_folder(self.trainer)
        check_strategy(self.trainer.strategy)
        check_sharding(self.trainer.strategy, self.optimization.matrix_lr)
        check_precision(self.trainer.precision)
        self.policy.sampler.check(self.policy)
        if stage == "fit":
            self.objective.check_policy(self.policy)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.objective.check(data.group_size)
            self._check_staleness(self.updates_per_batch - 1, f"updates_per_batch={self.updates_per_batch}")
            if data.ahead:
                check_ahead(self.policy.sampler, self.objective.redraws)
                lag = 2 * self.updates_per_batch - 1
                self._check_staleness(lag, f"data.ahead=1, updates_per_batch={self.updates_per_batch}")
        if data is not None:
            room, reply = self.policy.context_length(), data.sampling.max_action_tokens
            if reply >= room:
                raise ConfigError(
                    f"data.max_action_tokens={reply}: the context of the policy has {room} tokens, for prompt and "
                    "reply. Lower max_action_tokens, or raise model.policy.init_args.max_length if the model allows it."
                )
            data.collector({"fit": "train", "predict": "test"}.get(stage, stage))

    def _check_staleness(self, steps: int, why: str) -> None:
        if steps > self.max_staleness and not self.objective.tolerates_stale:
            raise ConfigError(
                f"{why}: rollouts lag up to {steps} optimizer steps behind the weights, max_staleness is "
                f"{self.max_staleness}, and {type(self.objective).__name__} has no correction. Give the objective a "
                "correction (SequenceMask for divergences over the vocabulary, TruncatedRatio for SampledToken), or "
                "raise model.max_staleness to accept it."
            )

    def configure_model(self) -> None:
        """Load or initialize the weights, and shard them under FSDP2."""
        self.policy.load()
        if self.device_mesh is not None:  # of FSDP2Strategy
            self.policy.shard(self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """The optimizer of the student, and its learning rate."""
        warn_if_coarse(self.policy)
        optimizer = self.optimization.make(self.policy)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.optimization.rate)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Let the sampler get the weights before the first episode; FSDP2 loads a checkpoint only after this."""
        self.policy.unsent = True

    def on_validation_start(self) -> None:
        """The same for an evaluation without training."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.policy.unsent = True

    on_test_start = on_predict_start = on_fit_start

    def on_train_start(self) -> None:
        """Set training mode; create the frozen copies, unless a checkpoint contained them, and drop those of no use."""
        self.policy.send_weights()  # a part may review or measure with them before anything is played
        self.policy.train()
        apply_settings(self.lr_schedulers(), self.optimization.make(self.policy), self.optimization.rate)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.objective.attach_collector(data.collector("train"))
        self.objective.start(self.policy)
        if dropped := self.policy.drop_unwanted_copies():
            rank_zero_info(f"Frozen weights of the checkpoint that no part uses any more are dropped: {dropped}")

    # -- one step ----------------------------------------------------------------------------------------------

    def training_step(self, trajectories: list[Trajectory], batch_idx: int) -> None:
        """Prepare once, then one backward pass per micro-batch and one optimizer step, ``updates_per_batch`` times."""
        judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]  # a broken one is not used
        oldest = min((turn.policy_version for t in judged for turn in t.turns), default=self.policy.version)
        stale = self.policy.version - oldest
        self._check_staleness(stale, f"policy_version of step {self.global_step}")
        self.on_progress(self.objective.preparing, 0, 0)
        with torch.no_grad(), self.policy.gathered():
            step = self.objective.prepare(judged, self.policy, self._reduce_sum)
        data = getattr(self.trainer, "datamodule", None)
        discarded = getattr(data, "discarded", [])
        # the default dtype is that of trainer.precision: bfloat16 would round counts above 256
        played = torch.tensor([sum(len(t.turns) for t in (*trajectories, *discarded))], dtype=torch.float32)
        self.turns += int(self._reduce_sum(played))  # all ranks have the same count, so the budget ends them together
        metrics = {**rollout_metrics(trajectories, discarded, self.policy.dialect), **step.metrics}
        metrics |= {name: total(count) for name, count in step.batch.counters.items()}
        metrics |= {"train/turns": largest(self.turns), "train/staleness": largest(stale)}
        metrics["train/broken_episodes"] = total(len(trajectories) - len(judged))
        metrics["train/quarantined_tasks"] = largest(getattr(data, "quarantined", 0))
        outputs, updates = self._updates(step)
        metrics |= {**outputs.metrics(), "train/updates": largest(updates), "train/skipped_steps": largest(not updates)}
        metrics = over_ranks(metrics, self.trainer.world_size)
        self._log_step(metrics, len(trajectories))
        if self.idle.count(updates > 0, metrics, self.global_step) and self.trainer.is_global_zero:
            warnings.warn(self.idle.message, stacklevel=2)
        self.last_records = step_records(judged, step, outputs, self.global_step)
        self.last_records += [Record("train", self.global_step, t) for t in trajectories if not evaluable(t)]
        if self.broken_steps >= self.max_broken_steps:
            raise self._broken()

    def on_train_batch_end(self, *args: Any) -> None:
        """After the callbacks have saved the batch, send the new weights; end a run without optimizer steps.

        Raises:
            HeroError: The sampler has failed, or ``max_idle_batches`` consecutive batches had no optimizer step.
        """
        if not getattr(getattr(self.trainer, "datamodule", None), "ahead", 0):  # it plays now, and gets them later
            self.policy.send_weights()
        self.idle.check()

    def on_train_end(self) -> None:
        """End a run in which nothing was learned with an error, after the callbacks have written its files.

        Raises:
            HeroError: There was no optimizer step in a run of ten batches or more.
        """
        self.idle.check_run(self.global_step, self.objective.rewards_alone)

    def _updates(self, step: Step) -> tuple[StepOutputs, int]:
        """Make the optimizer steps on a batch, until one is skipped: outputs of the last one, and their number."""
        outputs = StepOutputs()
        for made in range(self.updates_per_batch):
            latest, updated = self._update(step)
            outputs = latest if updated or not made else outputs
            if not updated:
                return outputs, made
            self.objective.after_step(self.policy)
            self.policy.version += 1
            self.policy.unsent = True  # an error in sending them here would lose the step, which is not saved yet
        self.broken_steps = 0
        return outputs, self.updates_per_batch

    def _update(self, step: Step) -> tuple[StepOutputs, bool]:
        """Backward over all micro-batches, then step; skipped without tokens or with a non-finite gradient."""
        optimizer: Any = self.optimizers()
        anywhere = float(self._reduce_sum(torch.tensor([len(step.batch)], dtype=torch.float32)))
        if not anywhere:
            return StepOutputs(), False
        try:
            outputs = gradient(self, step, optimizer)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._halve_micro_batches(step, error)
            try:
                outputs = gradient(self, step, optimizer)
            except (torch.OutOfMemoryError, MemoryError) as again:
                raise self._out_of_memory() from again
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.policy.parameters() if p.requires_grad], self.clip or math.inf
        )
        outputs.grad_norm = float(whole(norm))
        if not math.isfinite(outputs.grad_norm):
            optimizer.zero_grad()
            self.broken_steps += 1
            return outputs, False
        optimizer.step()
        schedule: Any = self.lr_schedulers()
        schedule.step()
        return outputs, True

    @property
    def micro_batch_tokens(self) -> int:
        """The number that ``tokens_per_micro_batch`` stands for on this device."""
        tokens = self.tokens_per_micro_batch
        return TOKENS_PER_MICRO_BATCH[self.device.type == "cpu"] if tokens == "auto" else tokens

    def _halve_micro_batches(self, step: Step, error: BaseException) -> None:
        """Use smaller micro-batches from now on; the gradient is the same sum.

        Raises:
            PolicyError: They cannot be smaller, or other ranks would wait for this one.
        """
        tokens = self.micro_batch_tokens
        parts = len(list(step.batch.split(tokens)))
        while tokens > 1 and len(list(step.batch.split(tokens))) <= parts:
            tokens //= 2
        if self.trainer.world_size > 1 or len(list(step.batch.split(tokens))) <= parts:
            raise self._out_of_memory() from error
        warnings.warn(
            f"Out of memory with micro-batches of {self.micro_batch_tokens} tokens: {tokens} from now on. Set "
            "model.tokens_per_micro_batch to that.",
            stacklevel=2,
        )
        self.tokens_per_micro_batch = tokens
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _out_of_memory(self) -> PolicyError:
        return PolicyError(
            f"Out of memory with micro-batches of {self.micro_batch_tokens} tokens. Lower "
            "model.tokens_per_micro_batch or data.max_action_tokens, switch gradient_checkpointing on, or set "
            "model.policy.init_args.logits_at_once lower."
        )

    def _broken(self) -> PolicyError:
        """Write the batch of the latest broken step to a file, and return the error with its path."""
        folder = run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero:
            append_records(folder / BROKEN_BATCH, self.last_records)
        return gradients_broken(self.broken_steps, folder)

    def _log_step(self, metrics: dict[str, Scalar], episodes: int) -> None:
        before, self.last_metrics = self.last_metrics, measured(metrics)
        # Lightning repeats the last value of a metric that a step omits, which would look like a measurement
        gone = dict.fromkeys(before.keys() - self.last_metrics.keys(), math.nan)
        place = {"step": float(self.global_step), "epoch": float(self.current_epoch)}  # else the number of the batch
        self.log_dict({**gone, **self.last_metrics, **place}, batch_size=episodes)
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
        place = {"step": float(self.global_step)} if self.trainer.state.fn == TrainerFn.FITTING else {}
        self.log_dict({**values, **place, "train/turns": float(self.turns)}, batch_size=len(trajectories))
        return result

    # -- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state that is not in the weights."""
        frozen = frozen_names(self)
        checkpoint["state_dict"] = {n: value for n, value in checkpoint["state_dict"].items() if n not in frozen}
        checkpoint["hero"] = {
            "origin": getattr(self.policy, "origin", ""),
            "turns": self.turns,
            "version": self.policy.version,
            "idle": self.idle.state_dict(),
            "broken_steps": self.broken_steps,
            "kind": type(self.objective).__name__,
            "objective": of_each(self.objective.state_dict()),  # buffers have the episodes of their process
            "copies": self.policy.copies_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state; the frozen copies are restored before training starts."""
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
        self.idle.load_state_dict(state.get("idle", {}))
        self.broken_steps = int(state.get("broken_steps", 0))
        self.turns, self.policy.version = int(state["turns"]), int(state["version"])
        self.objective.load_state_dict(with_spent(own(state["objective"]), resumed_folder(self.trainer)))
        self.policy.load_copies(state["copies"])

    def roll_back(self, checkpoint: dict[str, Any]) -> None:
        """Restore the teacher of an earlier checkpoint of this run, after its weights; counters are not reset."""
        state = checkpoint["hero"]
        self.objective.roll_back(own(state["objective"]))
        self.policy.load_copies(state["copies"], add=False)
        self.policy.unsent = True

"""Detect the collapse of a run early; warn, stop, or roll back.

Self-distillation is known to collapse late: the teacher stops responding to hints, diagnoses become rare, actions
become very long or very short, the policy repeats itself, and the success rate drops last. Each watched metric is
compared with its earlier values in the same run.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning
from rich.console import Console

from hero_pl.callbacks.guard_checkpoints import GuardCheckpoints
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.run_folder import run_folder
from hero_pl.errors import ConfigError, check_choice
from hero_pl.rollout.ahead import PlayAhead
from hero_pl.runs.jsonl import append_lines

Action = Literal["off", "warn", "stop", "rollback"]


@dataclass(frozen=True)
class Limit:
    """How far a metric may move from its reference value.

    Args:
        low: Alarm if the metric is below ``low * reference - margin``; null for no lower limit.
        high: Alarm if the metric is above ``high * reference + margin``; null for no upper limit.
        margin: Additional tolerance, in the unit of the metric.
        window: Number of observations whose mean is compared. The first such mean is the start value.
        reference: ``start`` (the start value) or ``best`` (the highest mean so far).
    """

    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    window: int = 10
    reference: Literal["start", "best"] = "start"

    def __post_init__(self) -> None:
        check_choice("Limit", "reference", self.reference, ("start", "best"))
        if self.window < 1 or self.margin < 0.0:
            raise ConfigError(f"{self}: expected window >= 1 and margin >= 0.")


LIMITS: dict[str, Limit] = {
    "teacher/hint_sensitivity": Limit(low=0.5, window=1),
    "teacher/hinted_logprob": Limit(low=1.0, margin=0.7, window=1),  # half as likely as at the start
    "teacher/hint_gain": Limit(low=0.0, margin=0.25, window=1),  # less likely with the hint than without
    "reflection/coverage": Limit(low=0.5, margin=0.05, reference="best"),
    "train/entropy": Limit(low=0.25, high=2.0, margin=0.05),
    "rollout/action_tokens_p50": Limit(low=0.25, high=3.0, margin=4.0),
    "rollout/action_tokens_p95": Limit(high=2.5, margin=8.0),
    "guard/valid_actions": Limit(low=0.7, margin=0.05, reference="best"),
    "rollout/repeated_actions": Limit(high=2.0, margin=0.2),
    "held_out/success": Limit(low=0.5, margin=0.05, window=1, reference="best"),
}
"""Watched metrics; ``collapse_guard.limits`` changes them. A valid action is one that could be parsed."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A metric that left its limits."""

    metric: str
    value: float
    reference: float
    limit: float

    def __str__(self) -> str:
        side = "below" if self.value < self.limit else "above"
        return f"{self.metric} is {self.value:.4g}, {side} {self.limit:.4g} (reference {self.reference:.4g})"


class Watch:
    """Recent values and reference of one metric."""

    def __init__(self, metric: str, limit: Limit) -> None:
        self.metric, self.limit = metric, limit
        self.recent: deque[float] = deque(maxlen=limit.window)
        self.reference: float | None = None
        self.beyond = False
        """Whether the alarm was raised and the metric has not returned within its limits since."""

    def observe(self, value: float) -> Alarm | None:
        """Add one observation; no second alarm is returned until the metric has returned within its limits."""
        self.recent.append(value)
        if len(self.recent) < self.limit.window:
            return None
        mean = sum(self.recent) / len(self.recent)
        if self.reference is None or (self.limit.reference == "best" and mean > self.reference):
            self.reference = mean
        low = -math.inf if self.limit.low is None else self.limit.low * self.reference - self.limit.margin
        high = math.inf if self.limit.high is None else self.limit.high * self.reference + self.limit.margin
        was_beyond, self.beyond = self.beyond, not low <= mean <= high
        if not self.beyond or was_beyond:
            return None
        return Alarm(self.metric, mean, self.reference, low if mean < low else high)

    def forget_recent(self) -> None:
        """Drop the observations of the collapsed weights; keep the reference."""
        self.recent.clear()
        self.beyond = False


class CollapseGuard(lightning.Callback):
    """Warns of a collapse, stops the run, or rolls it back to the last good weights.

    Watched are the teacher's sensitivity to hints, its log-probability of the replies that hints ask for (the short
    form of ``hero_pl check-hints``, on the first hinted turns of the run), reflection coverage, the student's entropy,
    action lengths, the fractions of valid and of repeated actions, and held-out success. Each alarm is printed, counted
    (``guard/alarms``) and written to ``events.jsonl`` in the run folder with its reason.

    Args:
        action: ``warn``; ``stop`` ends training; ``rollback`` restores the weights and optimizer of the last good
            checkpoint and continues with new episodes (the turns used so far still count); ``off``.
        limits: Limits by metric name: adds a logged metric or replaces its limits; null removes a metric.
        keep_every: With ``rollback``: training batches between two checkpoints. A checkpoint becomes the good one if no
            metric is beyond its limits when the next one is due, so a rollback undoes ``keep_every`` to twice as many
            batches.
        max_rollbacks: Number of rollbacks after which a further alarm stops the run.
    """

    def __init__(
        self,
        action: Action = "warn",
        limits: dict[str, Limit | None] | None = None,
        keep_every: int = 25,
        max_rollbacks: int = 3,
    ) -> None:
        if action not in get_args(Action):
            raise ConfigError(f"collapse_guard.action={action!r}: expected one of {', '.join(get_args(Action))}.")
        if keep_every < 1 or max_rollbacks < 1:
            raise ConfigError(
                f"collapse_guard.keep_every={keep_every}, max_rollbacks={max_rollbacks}: must both be at least 1. "
                "For alarms without rollbacks set action: warn."
            )
        self.action, self.keep_every, self.max_rollbacks = action, keep_every, max_rollbacks
        chosen = {**LIMITS, **(limits or {})}
        self.watches = {metric: Watch(metric, limit) for metric, limit in chosen.items() if limit is not None}
        self.alarms = self.rollbacks = self.batches = 0
        self.kept = GuardCheckpoints()
        self._evaluations = 0
        self._console = Console()

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Check the guard's checkpoints of a resumed run; remove those of an earlier run."""
        self.kept.start(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Check the metrics of the step."""
        if self.action == "off":
            return
        self.batches += 1
        values = self._values(trainer, module.last_metrics)
        alarms = [
            alarm
            for metric, watch in self.watches.items()
            if metric in values and (alarm := watch.observe(values[metric])) is not None
        ]
        self.alarms += len(alarms)
        if alarms:
            self._act(alarms, trainer, module)
        elif self._due():
            self.kept.keep(trainer, self.batches)
        module.log_dict(
            {"guard/alarms": float(self.alarms), "guard/rollbacks": float(self.rollbacks)}, batch_size=1, on_step=True
        )

    def _due(self) -> bool:
        """Whether a checkpoint is to be kept now; at once if there is none to which a rollback could return."""
        due = self.batches % self.keep_every == 1 % self.keep_every or self.kept.good is None
        return self.action == "rollback" and due and not any(watch.beyond for watch in self.watches.values())

    # -- metrics -----------------------------------------------------------------------------------------------

    def _values(self, trainer: lightning.Trainer, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics that are new since the last check; equal on all ranks, so all ranks act in the same way."""
        values = dict(metrics)
        if "rollout/malformed" in values:
            values["guard/valid_actions"] = 1.0 - values["rollout/malformed"]
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        results = [result for one in callbacks if isinstance(one, HeldOut) for result in one.results.values()]
        if len(results) > self._evaluations:
            self._evaluations = len(results)
            values["held_out/success"] = max(results, key=lambda result: result["turns_used"])["success"]
        return {metric: value for metric, value in values.items() if metric in self.watches and math.isfinite(value)}

    # -- reaction ----------------------------------------------------------------------------------------------

    def _act(self, alarms: list[Alarm], trainer: lightning.Trainer, module: Any) -> None:
        done: str = self.action
        restored: int | None = None
        if self.action == "rollback":
            good = self.kept.good_path(trainer)
            if good is not None and self.rollbacks < self.max_rollbacks:
                restored = self._roll_back(trainer, module, good)
            else:
                done = "stop"
        if done == "stop":
            trainer.should_stop = True
        then = {"warn": "training continues", "stop": "training stops", "rollback": f"back to step {restored}"}
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            where = {"step": trainer.global_step, "turns": int(module.turns), "event": "collapse", "action": done}
            for alarm in alarms:
                row = {name: getattr(alarm, name) for name in ("metric", "value", "reference", "limit")}
                self._console.print(f"Collapse guard, step {trainer.global_step}: {alarm}; {then[done]}.", markup=False)
                if folder is not None:
                    append_lines(folder / "events.jsonl", [{**where, **row, "restored_step": restored}])

    def _roll_back(self, trainer: lightning.Trainer, module: Any, good: Path) -> int:
        """Restore weights, optimizer and teacher; counters, episodes and the learning rate schedule continue."""
        state = trainer.strategy.load_checkpoint(good)
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, RunCheckpoint):  # a batch without an optimizer step has not told it
                one.weights_change()
        # frozen weights below an adapter are not in the file
        trainer.strategy.load_model_state_dict(state, strict=module.strict_loading)
        trainer.strategy.load_optimizer_state_dict(state)
        for config in trainer.lr_scheduler_configs:
            for group, rate in zip(
                config.scheduler.optimizer.param_groups, config.scheduler.get_last_lr(), strict=True
            ):
                group["lr"] = rate
        module.roll_back(state)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(getattr(data, "next", None), PlayAhead):  # the collapsed weights have played it
            data.next.forget(data.collector("train").health)
        for watch in self.watches.values():
            watch.forget_recent()
        self.rollbacks += 1
        self.kept.drop_candidate(trainer.global_step)
        return int(state["global_step"])

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Counters, references, recent observations, and which checkpoints are the guard's."""
        watched = {
            m: {"recent": list(w.recent), "reference": w.reference, "beyond": w.beyond} for m, w in self.watches.items()
        }
        names = ("alarms", "rollbacks", "batches", "_evaluations")
        counts = {name: getattr(self, name) for name in names}
        return {"watched": watched, "kept": self.kept.state_dict(), **counts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; a metric that was not watched before starts without a reference."""
        for metric, state in state_dict["watched"].items():
            if metric in self.watches:
                watch = self.watches[metric]
                watch.recent.extend(state["recent"])
                watch.reference, watch.beyond = state["reference"], bool(state["beyond"])
        for name in ("alarms", "rollbacks", "batches", "_evaluations"):
            setattr(self, name, int(state_dict[name]))
        if "kept" in state_dict:  # older ones do not say which files they mean
            self.kept.load_state_dict(state_dict["kept"])

"""The optimizer of a run and its learning rate: AdamW, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hero_pl.errors import ConfigError, check_choice


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """Which optimizer, and its learning rate from step to step; :class:`~hero_pl.module.HeroModule` describes each."""

    lr: float
    matrix_lr: float | None
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    schedule: Literal["constant", "linear"]
    warmup_steps: int
    total_steps: int | None

    def __post_init__(self) -> None:
        rates = [rate for rate in (self.lr, self.matrix_lr) if rate is not None]
        if not all(0.0 < rate < math.inf for rate in rates):
            raise ConfigError(
                f"lr={self.lr}, matrix_lr={self.matrix_lr}: expected finite numbers, lr > 0, matrix_lr > 0 or none."
            )
        if not (all(0.0 <= beta < 1.0 for beta in self.betas) and 0.0 < self.eps < math.inf):
            raise ConfigError(f"betas={self.betas}, eps={self.eps}: expected betas in [0, 1), and eps > 0.")
        if not 0.0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay={self.weight_decay}: expected a finite number, 0 (none) or more.")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps={self.warmup_steps}: expected 0 or more.")
        check_choice("HeroModule", "schedule", self.schedule, ("constant", "linear"))
        if self.schedule == "linear" and self.total_steps is None:
            raise ConfigError(
                "schedule: linear needs total_steps, the number of optimizer steps of the whole run. Set it."
            )
        if self.total_steps is not None and self.total_steps < 1:
            raise ConfigError(f"total_steps={self.total_steps}: expected at least 1.")

    def make(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW, or Muon and AdamW, on the trainable parameters of a module and nothing else."""
        adam: dict[str, Any] = {
            "lr": self.lr,
            "betas": tuple(self.betas),
            "eps": self.eps,
            "weight_decay": self.weight_decay,
        }
        if self.matrix_lr is not None:
            return MuonAdamW.of(module, matrix_lr=self.matrix_lr, **adam)
        return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], **adam)

    def rate(self, step: int) -> float:
        """Factor of the learning rate at an optimizer step, counted from 0."""
        rate = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "linear" and self.total_steps:
            rate *= max(0.0, 1.0 - step / self.total_steps)
        return rate


def warn_if_coarse(module: nn.Module) -> None:
    """Warn if trainable weights are in a number format in which most small steps are lost."""
    coarse = {p.dtype for p in module.parameters() if p.requires_grad} & {torch.bfloat16, torch.float16}
    if coarse:
        warnings.warn(
            f"Weights are trained in {coarse.pop()}, which is too coarse for the optimizer's small steps: most are "
            "lost. Keep policy dtype: float32 (with trainer.precision: bf16-mixed), or train an adapter (lora).",
            stacklevel=3,
        )


class MuonAdamW(torch.optim.Optimizer):
    """Orthogonalized momentum for hidden matrices (Jordan et al., 2024; ``torch.optim.Muon``), AdamW for the rest.

    For small models that start from random weights. AdamW trains embeddings, the output layer and vectors, as the
    authors of Muon recommend.

    Args:
        matrices: Two-dimensional hidden weights.
        others: All other trainable parameters.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon, for updates of spectral norm about 1.
        betas: Betas of AdamW.
        eps: Epsilon of AdamW.
        weight_decay: Weight decay of both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        matrix_lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay),
            torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    @classmethod
    def of(cls, module: nn.Module, lr: float, matrix_lr: float, **options: Any) -> MuonAdamW:
        """Divide a model's trainable parameters by name and shape."""
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        outer = ("embed", "lm_head", "wte", "wpe")
        hidden = {name for name, p in trained.items() if p.ndim == 2 and not any(word in name for word in outer)}
        return cls(
            [p for name, p in trained.items() if name in hidden],
            [p for name, p in trained.items() if name not in hidden],
            lr,
            matrix_lr,
            **options,
        )

    def _share(self) -> None:
        """Share groups and state with both parts, so that schedules and moves between devices reach them."""
        first = len(self.parts[0].param_groups)
        for part, groups in zip(self.parts, (self.param_groups[:first], self.param_groups[first:]), strict=True):
            part.param_groups, part.state = groups, self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both parts."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore ``state_dict``, which is that of any optimizer."""
        super().load_state_dict(state_dict)
        self._share()


def apply_settings(schedule: Any, configured: torch.optim.Optimizer, rate: Callable[[int], float]) -> None:
    """Apply the settings of the configuration to an optimizer, also after a checkpoint restored older ones.

    Args:
        schedule: The ``LambdaLR`` of the optimizer in use.
        configured: A fresh optimizer of the same parameters.
        rate: Factor of the learning rate by step.
    """
    for i, (group, fresh) in enumerate(zip(schedule.optimizer.param_groups, configured.param_groups, strict=True)):
        schedule.base_lrs[i] = fresh["lr"]
        group.update({name: value for name, value in fresh.items() if name != "params"})
        group["initial_lr"], group["lr"] = fresh["lr"], fresh["lr"] * rate(schedule.last_epoch)

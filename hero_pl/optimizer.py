"""Muon for the hidden matrices and AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """Orthogonalized momentum for hidden matrices (Jordan et al., 2024; ``torch.optim.Muon``), AdamW for the rest.

    For small models that start from random weights. Embeddings, the output layer and vectors are AdamW's, as Muon's
    authors advise.

    Args:
        matrices: Two-dimensional hidden weights.
        others: All other trainable parameters.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon, for updates of spectral norm about 1.
        betas: Of AdamW.
        eps: Of AdamW.
        weight_decay: Of both.
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
        """The parts work on this optimizer's groups and on its one state: schedules and moves between devices count."""
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
    """Give an optimizer the settings of the configuration, also where a checkpoint has brought older ones.

    Args:
        schedule: The ``LambdaLR`` of the optimizer in use.
        configured: A fresh optimizer of the same parameters.
        rate: Factor of the learning rate by step.
    """
    for i, (group, fresh) in enumerate(zip(schedule.optimizer.param_groups, configured.param_groups, strict=True)):
        schedule.base_lrs[i] = fresh["lr"]
        group.update({name: value for name, value in fresh.items() if name != "params"})
        group["initial_lr"], group["lr"] = fresh["lr"], fresh["lr"] * rate(schedule.last_epoch)

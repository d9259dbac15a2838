"""Normalization: the coefficient of each token's loss, computed before the first backward pass.

The loss of one optimizer step is ``sum(coefficient * per_token)`` over all its tokens, in any micro-batch and on any
rank. Because rollouts come before the update, every denominator is known in advance; a micro-batch only slices the
coefficients together with its tokens. There is no further averaging: undo any division by the number of micro-batches
or ranks in the training loop.

Every token *counts* as 1 in a denominator; its ``weight`` scales the numerator only (except in
``token_mean_weighted``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from hero_pl.errors import ConfigError


class Normalization(StrEnum):
    """How the loss is averaged. ``l`` is the loss of a token, ``w`` its weight."""

    TOKEN_MEAN = "token_mean"
    """``sum(w l)`` over the number of tokens."""
    TOKEN_MEAN_WEIGHTED = "token_mean_weighted"
    """``sum(w l) / sum(w)``: keeps the scale if many turns have small weights."""
    SEQ_MEAN_TOKEN_MEAN = "seq_mean_token_mean"
    """Token mean per trajectory, then the mean over trajectories that have at least one token."""
    SEQ_MEAN_TOKEN_MEAN_KEEP_EMPTY = "seq_mean_token_mean_keep_empty"
    """Token mean per trajectory, then the mean over all of them: those without tokens make the step smaller."""
    SEQ_MEAN_TOKEN_SUM = "seq_mean_token_sum"
    """Token sum per trajectory, then the mean over trajectories that have at least one token."""
    SEQ_MEAN_TOKEN_SUM_NORM = "seq_mean_token_sum_norm"
    """``sum(w l)`` over ``num_trajectories * constant`` (Dr.GRPO); the constant is configured, no padded length."""
    TURN_MEAN = "turn_mean"
    """Token mean per turn, then the mean over turns that have at least one token."""
    TRAJ_MEAN_TURN_MEAN = "traj_mean_turn_mean"
    """Turn mean per trajectory, then the mean over trajectories that have at least one token."""


Mode = Normalization | str | Mapping[str, float]
"""One normalization, or several with their weights."""


def _on_one_rank(local: Tensor) -> Tensor:
    return local


def coefficients(
    mode: Mode,
    *,
    turn: Tensor,
    trajectory: Tensor,
    weight: Tensor,
    num_trajectories: int,
    constant: float | None = None,
    mask: Tensor | None = None,
    reduce_sum: Callable[[Tensor], Tensor] = _on_one_rank,
) -> Tensor:
    """Coefficient of every token, so that ``(coefficient * per_token).sum()`` is the normalized loss.

    Args:
        mode: See ``Normalization``; for several, the weighted sum of their coefficients.
        turn: ``(N,)`` integer turn of each token; needs to be unique within its trajectory only.
        trajectory: ``(N,)`` integer trajectory of each token, from 0 to ``num_trajectories - 1`` (a sequence, where
            there are no trajectories); it is never split over ranks.
        weight: ``(N,)`` non-negative weight of each token (confidence, gates known in advance).
        num_trajectories: Number of trajectories on this rank, including those without tokens.
        constant: Tokens per trajectory to divide by; required for ``seq_mean_token_sum_norm``, not used otherwise.
        mask: ``(N,)`` bool; other tokens get coefficient 0 and do not count in a denominator. Default: all count.
        reduce_sum: Sums a one-element tensor over all ranks. It is called exactly once per mode on every rank, also on
            a rank without tokens.

    Returns:
        ``(N,)`` in the dtype of ``weight`` (at least float32), detached. All 0 if the outermost count is 0.

    Raises:
        ConfigError: The mode is unknown, the constant is missing, or the tensors do not fit together.

    Example:
        >>> ids = torch.tensor([0, 0, 0, 1])
        >>> coefficients("seq_mean_token_mean", turn=ids, trajectory=ids, weight=torch.ones(4), num_trajectories=2)
        tensor([0.1667, 0.1667, 0.1667, 0.5000])
    """
    if isinstance(mode, Mapping):
        where: dict[str, Any] = {
            "turn": turn,
            "trajectory": trajectory,
            "weight": weight,
            "num_trajectories": num_trajectories,
            "mask": mask,
        }
        parts = [coefficients(one, **where, constant=constant, reduce_sum=reduce_sum) for one in mode]
        return torch.stack([share * part for share, part in zip(mode.values(), parts, strict=True)]).sum(0)
    mode = check_normalization(mode, constant)
    _check_tokens(turn, trajectory, weight, num_trajectories)
    weight = weight.detach()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if mask is not None:
        inside = {"turn": turn[mask], "trajectory": trajectory[mask], "weight": weight[mask]}
        spread = torch.zeros_like(weight)
        spread[mask] = coefficients(
            mode, **inside, num_trajectories=num_trajectories, constant=constant, reduce_sum=reduce_sum
        )
        return spread
    tokens = float(weight.numel())

    _, turn_of_token, tokens_of_turn = _count(torch.stack([trajectory, turn], dim=-1))
    _, trajectory_of_token, tokens_of_trajectory = _count(trajectory)
    active_trajectories = float(tokens_of_trajectory.numel())

    inner: Tensor | float  # divisor of a token within its trajectory
    outer: Tensor | float  # remaining divisor, summed over ranks
    match mode:
        case Normalization.TOKEN_MEAN:
            inner, outer = 1.0, tokens
        case Normalization.TOKEN_MEAN_WEIGHTED:
            inner, outer = 1.0, weight.sum()
        case Normalization.SEQ_MEAN_TOKEN_MEAN:
            inner, outer = tokens_of_trajectory[trajectory_of_token], active_trajectories
        case Normalization.SEQ_MEAN_TOKEN_MEAN_KEEP_EMPTY:
            inner, outer = tokens_of_trajectory[trajectory_of_token], float(num_trajectories)
        case Normalization.SEQ_MEAN_TOKEN_SUM:
            inner, outer = 1.0, active_trajectories
        case Normalization.SEQ_MEAN_TOKEN_SUM_NORM:
            assert constant is not None
            inner, outer = constant, float(num_trajectories)
        case Normalization.TURN_MEAN:
            inner, outer = tokens_of_turn[turn_of_token], float(tokens_of_turn.numel())
        case Normalization.TRAJ_MEAN_TURN_MEAN:
            turns_of_trajectory = _turns_per_trajectory(
                trajectory_of_token, turn_of_token, tokens_of_trajectory.numel(), tokens_of_turn.numel()
            )
            inner, outer = tokens_of_turn[turn_of_token] * turns_of_trajectory[trajectory_of_token], active_trajectories

    total = reduce_sum(torch.as_tensor(outer, dtype=weight.dtype, device=weight.device).reshape(1))
    # if the outermost count is 0, there is nothing to average: every coefficient is 0
    share = torch.where(total > 0, 1.0 / total.clamp(min=torch.finfo(weight.dtype).tiny), 0.0)
    return weight / inner * share


def normalized_sum(coefficient: Tensor, per_token: Tensor) -> Tensor:
    """``sum(coefficient * per_token)`` of one micro-batch; call ``backward`` on it without further scaling.

    Args:
        coefficient: ``(n,)`` the micro-batch's slice of ``coefficients``.
        per_token: ``(n,)`` loss per token; gradients flow.

    Returns:
        A scalar; 0 and still attached to the graph if ``n`` is 0.
    """
    if coefficient.shape != per_token.shape:
        raise ConfigError(
            f"{tuple(coefficient.shape)} coefficients for {tuple(per_token.shape)} tokens. "
            "Slice the coefficients of the whole step in the same way as its tokens."
        )
    return (coefficient.to(per_token.dtype) * per_token).sum()


def zero_loss(graph: Tensor) -> Tensor:
    """A zero attached to the graph of ``graph``: backward gives zero gradients, even if ``graph`` has infinities.

    For a rank or micro-batch without any usable turn, so that it takes part in the same collectives.
    """
    return graph.flatten()[:0].sum()


def _count(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct ids, the index of each token's id in them, and the number of tokens of each."""
    if ids.shape[0] == 0:
        nothing = ids.new_zeros(0, dtype=torch.long)
        return ids, nothing, nothing
    distinct, index, count = torch.unique(ids, dim=0, return_inverse=True, return_counts=True)
    return distinct, index, count


def _turns_per_trajectory(
    trajectory_of_token: Tensor, turn_of_token: Tensor, num_trajectories: int, turns: int
) -> Tensor:
    """Number of turns with tokens, per trajectory with tokens."""
    trajectory_of_turn = turn_of_token.new_zeros(turns).scatter_(0, turn_of_token, trajectory_of_token)
    return torch.bincount(trajectory_of_turn, minlength=num_trajectories)


def check_normalization(mode: Normalization | str, constant: float | None) -> Normalization:
    """Return the mode, after checking it together with the constant.

    Raises:
        ConfigError: The mode is unknown, or it needs the constant, which is missing or not positive.
    """
    if mode not in list(Normalization):
        raise ConfigError(f"normalize={str(mode)!r}: expected one of {', '.join(Normalization)}.")
    mode = Normalization(mode)
    if mode is Normalization.SEQ_MEAN_TOKEN_SUM_NORM and not (
        constant is not None and math.isfinite(constant) and constant > 0
    ):
        raise ConfigError(
            f"normalize={mode} with constant={constant}: it divides by a fixed number of tokens per trajectory. "
            "Set the constant to the largest number of action tokens an episode may have."
        )
    return mode


def _check_tokens(turn: Tensor, trajectory: Tensor, weight: Tensor, num_trajectories: int) -> None:
    if not (turn.ndim == 1 and turn.shape == trajectory.shape == weight.shape):
        raise ConfigError(
            f"turn {tuple(turn.shape)}, trajectory {tuple(trajectory.shape)}, weight {tuple(weight.shape)}: expected "
            "flat tensors of equal length, one entry per action token."
        )
    if trajectory.numel() and not (int(trajectory.min()) >= 0 and int(trajectory.max()) < num_trajectories):
        raise ConfigError(
            f"Tokens belong to trajectories {int(trajectory.min())} to {int(trajectory.max())}, but there are "
            f"{num_trajectories}. Number the trajectories of this rank from 0, including those without tokens."
        )

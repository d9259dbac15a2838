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
    """Token mean per row, then the mean over rows that have at least one token."""
    SEQ_MEAN_TOKEN_MEAN_KEEP_EMPTY = "seq_mean_token_mean_keep_empty"
    """Token mean per row, then the mean over all rows: rows without tokens make the step smaller."""
    SEQ_MEAN_TOKEN_SUM = "seq_mean_token_sum"
    """Token sum per row, then the mean over rows that have at least one token."""
    SEQ_MEAN_TOKEN_SUM_NORM = "seq_mean_token_sum_norm"
    """``sum(w l)`` over ``rows * constant`` (Dr.GRPO); the constant is configured, not the padded length."""
    TURN_MEAN = "turn_mean"
    """Token mean per turn, then the mean over turns that have at least one token."""
    TRAJ_MEAN_TURN_MEAN = "traj_mean_turn_mean"
    """Turn mean per row, then the mean over rows that have at least one token."""


Mode = Normalization | str | Mapping[str, float]
"""One normalization, or several with their weights."""


def _on_one_rank(local: Tensor) -> Tensor:
    return local


def coefficients(
    mode: Mode,
    *,
    turn: Tensor,
    row: Tensor,
    weight: Tensor,
    rows: int,
    constant: float | None = None,
    mask: Tensor | None = None,
    reduce_sum: Callable[[Tensor], Tensor] = _on_one_rank,
) -> Tensor:
    """Coefficient of every token, so that ``(coefficient * per_token).sum()`` is the normalized loss.

    Args:
        mode: See ``Normalization``; for several, the weighted sum of their coefficients.
        turn: ``(N,)`` integer turn of each token; needs to be unique within its row only.
        row: ``(N,)`` integer row of each token, from 0 to ``rows - 1``. A row is a trajectory (or a sequence, where
            there are no trajectories); it is never split over ranks.
        weight: ``(N,)`` non-negative weight of each token (confidence, gates known in advance).
        rows: Number of rows on this rank, including those without tokens.
        constant: Tokens per row to divide by; required for ``seq_mean_token_sum_norm``, not allowed otherwise.
        mask: ``(N,)`` bool; other tokens get coefficient 0 and do not count in a denominator. Default: all count.
        reduce_sum: Sums a one-element tensor over all ranks. It is called exactly once per mode on every rank, also on
            a rank without tokens.

    Returns:
        ``(N,)`` in the dtype of ``weight`` (at least float32), detached. All 0 if the outermost count is 0.

    Raises:
        ConfigError: The mode is unknown, the constant is missing, or the tensors do not fit together.

    Example:
        >>> ids = torch.tensor([0, 0, 0, 1])
        >>> coefficients("seq_mean_token_mean", turn=ids, row=ids, weight=torch.ones(4), rows=2)
        tensor([0.1667, 0.1667, 0.1667, 0.5000])
    """
    if isinstance(mode, Mapping):
        where: dict[str, Any] = {"turn": turn, "row": row, "weight": weight, "rows": rows, "mask": mask}
        parts = [coefficients(one, **where, constant=constant, reduce_sum=reduce_sum) for one in mode]
        return torch.stack([share * part for share, part in zip(mode.values(), parts, strict=True)]).sum(0)
    mode = check_normalization(mode, constant)
    _check_tokens(turn, row, weight, rows)
    weight = weight.detach()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    if mask is not None:
        inside = {"turn": turn[mask], "row": row[mask], "weight": weight[mask]}
        spread = torch.zeros_like(weight)
        spread[mask] = coefficients(mode, **inside, rows=rows, constant=constant, reduce_sum=reduce_sum)
        return spread
    tokens = float(weight.numel())

    _, turn_of_token, tokens_of_turn = _count(torch.stack([row, turn], dim=-1))
    _, row_of_token, tokens_of_row = _count(row)
    active_rows = float(tokens_of_row.numel())

    inner: Tensor | float  # divisor of a token within its row
    outer: Tensor | float  # remaining divisor, summed over ranks
    match mode:
        case Normalization.TOKEN_MEAN:
            inner, outer = 1.0, tokens
        case Normalization.TOKEN_MEAN_WEIGHTED:
            inner, outer = 1.0, weight.sum()
        case Normalization.SEQ_MEAN_TOKEN_MEAN:
            inner, outer = tokens_of_row[row_of_token], active_rows
        case Normalization.SEQ_MEAN_TOKEN_MEAN_KEEP_EMPTY:
            inner, outer = tokens_of_row[row_of_token], float(rows)
        case Normalization.SEQ_MEAN_TOKEN_SUM:
            inner, outer = 1.0, active_rows
        case Normalization.SEQ_MEAN_TOKEN_SUM_NORM:
            assert constant is not None
            inner, outer = constant, float(rows)
        case Normalization.TURN_MEAN:
            inner, outer = tokens_of_turn[turn_of_token], float(tokens_of_turn.numel())
        case Normalization.TRAJ_MEAN_TURN_MEAN:
            turns_of_row = _turns_per_row(row_of_token, turn_of_token, tokens_of_row.numel(), tokens_of_turn.numel())
            inner, outer = tokens_of_turn[turn_of_token] * turns_of_row[row_of_token], active_rows

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


def _turns_per_row(row_of_token: Tensor, turn_of_token: Tensor, rows: int, turns: int) -> Tensor:
    """Number of turns with tokens, per row with tokens."""
    row_of_turn = turn_of_token.new_zeros(turns).scatter_(0, turn_of_token, row_of_token)
    return torch.bincount(row_of_turn, minlength=rows)


def check_normalization(mode: Normalization | str, constant: float | None) -> Normalization:
    """Return the mode, after checking it together with the constant.

    Raises:
        ConfigError: The mode is unknown, or the constant is missing, not positive, or not used by the mode.
    """
    if mode not in list(Normalization):
        raise ConfigError(f"normalize={str(mode)!r}: expected one of {', '.join(Normalization)}.")
    mode = Normalization(mode)
    if mode is Normalization.SEQ_MEAN_TOKEN_SUM_NORM and not (
        constant is not None and math.isfinite(constant) and constant > 0
    ):
        raise ConfigError(
            f"normalize={mode} with constant={constant}: it divides by a fixed number of tokens per row. "
            "Set the constant to the largest number of action tokens an episode may have."
        )
    return mode


def _check_tokens(turn: Tensor, row: Tensor, weight: Tensor, rows: int) -> None:
    if not (turn.ndim == 1 and turn.shape == row.shape == weight.shape):
        raise ConfigError(
            f"turn {tuple(turn.shape)}, row {tuple(row.shape)} and weight {tuple(weight.shape)}: expected flat tensors "
            "of equal length, one entry per action token."
        )
    if row.numel() and not (int(row.min()) >= 0 and int(row.max()) < rows):
        raise ConfigError(
            f"Tokens belong to rows {int(row.min())} to {int(row.max())}, but there are {rows} rows. "
            "Number the rows of this rank from 0, including those without tokens."
        )

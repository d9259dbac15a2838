"""Subtract the effect of a hint's wording without content (its *scaffold*) from the teacher's logits.

A wording changes scores even without content (see the column ``empty`` of ``hero_pl check-hints``). With ``scaffold:
subtract`` the teacher scores each reply three times, and its logits are

    log p(a | c) + log p(a | c + hint) - log p(a | c + empty scaffold)

renormalized by the softmax of the divergence. All three terms come from the teacher's weights: with frozen weights the
target does not change while the student does; with live weights the first term is the student's own distribution. The
idea, to subtract the effect of an empty context, is from OCSD (arXiv 2608.04788); this form in log-probabilities is our
own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import torch

from hero_pl.losses.base import check_same_shape
from hero_pl.losses.scores import Scores

Scaffold: TypeAlias = Literal["keep", "subtract"]


def without_scaffold(hinted: Scores, scaffold: Scores, bare: Scores) -> Scores:
    """The teacher's scores minus the effect of the empty scaffold; constants per row cancel in the softmax.

    If the same matrix projects all three, their hidden states are subtracted instead of their logits.

    Args:
        hinted: Scores of n tokens with the hint in the context.
        scaffold: The same with the wording of the hint, but without its content.
        bare: The same without any hint.

    Raises:
        TokenAlignmentError: They are not scores of the same tokens.

    Example:
        >>> style, content = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> bare = torch.tensor([[1.0, 1.0]])
        >>> views = bare + style + content, bare + style, bare
        >>> without_scaffold(*map(Scores, views)).logits().softmax(-1)
        tensor([[0.1192, 0.8808]])
    """
    check_same_shape(hinted.values, scaffold.values)
    check_same_shape(hinted.values, bare.values)
    if bare.head is not None and bare.values.dtype == torch.float32:  # a coarser dtype would round the difference
        return replace(bare, values=bare.values + hinted.values - scaffold.values)
    with_hint, with_scaffold, without = (view.logits().float().log_softmax(-1) for view in (hinted, scaffold, bare))
    return Scores(without + with_hint - with_scaffold)

"""What a hint says, without how it says it: the shift of its empty scaffold is taken out of the teacher's logits.

A wording moves scores by itself, with nothing in it (see the column ``empty`` of ``hero_pl check-hints``). The
teacher's view ``scaffold: subtract`` scores each reply three times, and its logits are

    log p(a | c) + log p(a | c + hint) - log p(a | c + empty scaffold)

renormalized by the softmax of whatever divergence follows. All three come from the teacher's weights, so that with
frozen weights the target stands still while the student moves; with live weights the first term is the student's own
distribution. The idea, to subtract what an empty context does, is that of OCSD (arXiv 2608.04788); this form of it in
log-probabilities is ours, as no code of it was at hand.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from hero_pl.losses.base import check_same_shape

Scaffold: TypeAlias = Literal["keep", "subtract"]


def without_scaffold(hinted: Tensor, scaffold: Tensor, bare: Tensor) -> Tensor:
    """The teacher's logits less the shift of the empty scaffold, detached.

    Args:
        hinted: ``(n, vocab)`` logits with the hint in view.
        scaffold: The same with the hint's wording, but nothing in it.
        bare: The same without any hint.

    Returns:
        ``(n, vocab)`` unnormalized log-probabilities in float32: constants per row cancel in the softmax.

    Example:
        >>> import torch
        >>> style, content = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> bare = torch.tensor([[1.0, 1.0]])
        >>> without_scaffold(bare + style + content, bare + style, bare).softmax(-1)
        tensor([[0.1192, 0.8808]])
    """
    check_same_shape(hinted, scaffold)
    check_same_shape(hinted, bare)
    with_hint, with_scaffold, without = (logits.detach().float().log_softmax(-1) for logits in (hinted, scaffold, bare))
    return without + with_hint - with_scaffold

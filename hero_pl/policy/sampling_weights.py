"""The weights of a network while it samples: nothing changes them, so they can be put into a faster form.

An adapter is added to the weights, so that each layer is one product instead of three. On a CPU, the output projection
is copied into the layout that its kernel reads fastest for a few rows. Neither changes the network: the original
weights are put back after each use, bit for bit. Both change logits by rounding only; where an adapter changes them by
more (half precision), it is not merged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hero_pl.policy.network import Network

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of log-probabilities with which an adapter is merged."""
LARGE_HEAD = 1 << 20
"""Least number of weights of an output projection that is copied: a small one is read from the processor's cache."""
FEW_ROWS = 64
"""Up to so many rows the copy is faster."""


class SamplingWeights:
    """Weights of a network, in the form in which they sample.

    Args:
        network: Its weights must not change inside of :meth:`ready`.
        weights: ``live``, or the name of a frozen copy.
        merge: Whether an adapter may be merged.
    """

    def __init__(self, network: Network, weights: str, merge: bool = True) -> None:
        self.network, self.weights, self.merge = network, weights, merge
        self.merged: list[tuple[nn.Parameter, Tensor]] = []
        """Weights with an adapter, and what they are with the adapter added."""
        self._version: int | None = None
        self._model: Any = None
        self._head: Tensor | None = None

    @contextmanager
    def ready(self, version: int) -> Iterator[None]:
        """Put the weights in place, and the original ones back at the end.

        Args:
            version: Of the live weights; the faster forms are made again when it changes.
        """
        with self.network.using(self.weights) as model, torch.no_grad():
            self._model = model
            if version != self._version:
                self._version, self._head, self.merged = version, None, []
                if self.merge and self.weights == "live" and self.network.has_adapter:
                    self.merged = self._mergeable()
            with self._in_place(self.merged):
                self._head = self._packed() if self._head is None else self._head
                try:
                    yield
                finally:
                    self._model = None

    @property
    def copied(self) -> bool:
        """Whether the output projection is copied."""
        return self._head is not None

    def logits_at(self, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """See :meth:`Network.logits_at`; inside of :meth:`ready`."""
        if self._head is None or len(row) > FEW_ROWS:
            return self.network.logits_at(self._model, row, position, **inputs)
        hidden = self.network.hidden_at(self._model, row, position, **inputs)
        return torch.ops.mkldnn._linear_pointwise(hidden, self._head, None, "none", [], "")  # type: ignore[no-any-return]

    # -- the adapter -------------------------------------------------------------------------------------------

    def _mergeable(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Weights with the adapter added, if they give the same probabilities; else none."""
        found = _with_adapter(self._model)
        ids = torch.arange(16, device=self.network.device)[None] % self._model.config.get_text_config().vocab_size
        want = self._model(input_ids=ids, use_cache=False).logits
        with self._in_place(found):
            got = self._model(input_ids=ids, use_cache=False).logits
        gap = float((got.float().log_softmax(-1) - want.float().log_softmax(-1)).abs().max())
        if gap <= TOLERANCE:
            return found
        log.info("The adapter is not merged for sampling: log-probabilities would change by %.1e.", gap)
        return []

    @contextmanager
    def _in_place(self, merged: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
        """Exchange the weights for merged ones, and switch the adapter off."""
        with ExitStack() as stack:
            if merged:
                stack.enter_context(self._model.disable_adapter())
            for weight, sum_ in merged:
                stack.callback(setattr, weight, "data", weight.data)
                weight.data = sum_
            yield

    # -- the output projection ---------------------------------------------------------------------------------

    def _packed(self) -> Tensor | None:
        """The output projection in the layout of its CPU kernel; ``None`` where there is no such kernel."""
        if not self.network.plain_head or torch.is_autocast_enabled("cpu"):
            return None
        head = self._model.get_output_embeddings().weight
        fits = head.device.type == "cpu" and head.dtype == torch.float32 and head.numel() >= LARGE_HEAD
        if not fits or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return None
        return torch.ops.mkldnn._reorder_linear_weight(head.detach(), FEW_ROWS)  # type: ignore[no-any-return]


def _with_adapter(model: Any) -> list[tuple[nn.Parameter, Tensor]]:
    """Each weight that an adapter changes, and their sum."""
    from peft.tuners.lora import LoraLayer

    found = []
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        weight = layer.get_base_layer().weight
        changes = [layer.get_delta_weight(name) for name in layer.active_adapters]
        found.append((weight, (weight.float() + torch.stack(changes).sum(0).float()).to(weight.dtype)))
    return found

"""The weights of a network while it samples: nothing changes them, so they can be put into a faster form.

An adapter is added to the weights, so that each layer is one product instead of three. On a CPU, large weights are
copied into the layout that their kernel reads fastest, and heads that share keys are run together. None of it changes
the network: everything is put back after each use, bit for bit. Logits change by rounding only; where an adapter
changes them by more (half precision), it is not merged.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from hero_pl.policy.adapters import switched_off
from hero_pl.policy.attention import ATTENTION, attention_in, grouped_attention, suits

if TYPE_CHECKING:
    from hero_pl.policy.network import Network

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of log-probabilities with which an adapter is merged."""
LARGE_WEIGHT = 1 << 17
"""Least number of numbers in a weight that is copied: a small one is read from the processor's cache."""
FEW_ROWS = 64
"""Number of rows that the layout is made for; beyond it, the copy of an output projection is no faster."""

Product: TypeAlias = Callable[[Tensor], Tensor]
"""What a linear layer computes."""


class SamplingWeights:
    """Weights of a network, in the form in which they sample.

    Args:
        network: Its weights must not change inside of :meth:`ready`.
        weights: ``live``, or the name of a frozen copy.
        merge: Whether an adapter may be merged.
        pack: Whether large weights may be copied on a CPU.
    """

    def __init__(self, network: Network, weights: str, merge: bool = True, pack: bool = True) -> None:
        self.network, self.weights, self.merge, self.pack = network, weights, merge, pack
        self.merged = False
        """Whether the adapter is merged."""
        self._made_for: object = None
        self._model: Any = None
        self._replaced: list[tuple[nn.Parameter, Tensor]] = []
        """Weights with an adapter that are not copied, and what they are with the adapter added."""
        self._products: list[tuple[nn.Module, Product]] = []
        """Layers whose weights are copied."""
        self._head: Product | None = None

    @contextmanager
    def ready(self, version: int) -> Iterator[None]:
        """Put the weights in place, and the original ones back at the end.

        Args:
            version: Of the live weights; the faster forms are made again when it changes.
        """
        with self.network.using(self.weights) as model, torch.no_grad():
            self._model = model
            if self._made_for != (version, _autocast()):
                self._make()
                self._made_for = version, _autocast()
            groups = attention_in(model, ATTENTION, grouped_attention, "sdpa") if suits(model) else nullcontext()
            with groups, self._in_place(self._replaced, self._products, self.merged):
                try:
                    yield
                finally:
                    self._model = None

    @property
    def copied(self) -> int:
        """Number of layers whose weights are copied, with the output projection."""
        return len(self._products) + (self._head is not None)

    def logits_at(self, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """See :meth:`Network.logits_at`; inside of :meth:`ready`."""
        if self._head is None or len(row) > FEW_ROWS:
            return self.network.logits_at(self._model, row, position, **inputs)
        return self._head(self.network.hidden_at(self._model, row, position, **inputs))

    def _make(self) -> None:
        self._replaced, self._products, self._head = [], [], None  # the former copies make room
        merging = self.merge and self.weights == "live" and self.network.has_adapter
        sums = self._mergeable() if merging else []
        self.merged = bool(sums)
        if not self.pack or self.network.sharding is not None or not _can_pack(self.network.device):
            self._replaced = sums
            return
        changed = {id(weight): (weight, sum_) for weight, sum_ in sums}
        del sums  # each sum is freed when its copy is made
        head = self._model.get_output_embeddings()
        for layer in self._model.modules():
            if layer is not head and packs(layer):
                _, weight = changed.pop(id(layer.weight), (None, layer.weight))
                self._products.append((layer, _packed(weight, layer.bias)))
        self._replaced = list(changed.values())
        if self.network.plain_head and packs(head):
            self._head = _packed(head.weight, None)

    # -- the adapter -------------------------------------------------------------------------------------------

    def _mergeable(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Weights with the adapter added, if they give the same probabilities; else none."""
        found = _with_adapter(self._model)
        ids = torch.arange(16, device=self.network.device)[None] % self._model.config.get_text_config().vocab_size
        want = self._model(input_ids=ids, use_cache=False).logits
        with self._in_place(found, (), True):
            got = self._model(input_ids=ids, use_cache=False).logits
        gap = float((got.float().log_softmax(-1) - want.float().log_softmax(-1)).abs().max())
        if gap <= TOLERANCE:
            return found
        log.info("The adapter is not merged for sampling: log-probabilities would change by %.1e.", gap)
        return []

    @contextmanager
    def _in_place(
        self,
        replaced: Sequence[tuple[nn.Parameter, Tensor]],
        products: Sequence[tuple[nn.Module, Product]],
        merged: bool,
    ) -> Iterator[None]:
        """Exchange weights and the products of layers, and switch a merged adapter off."""
        with ExitStack() as stack:
            if merged:
                stack.enter_context(switched_off(self.network.adapted))
            for weight, sum_ in replaced:
                stack.callback(setattr, weight, "data", weight.data)
                weight.data = sum_
            for layer, product in products:
                stack.callback(delattr, layer, "forward")
                layer.forward = product
            yield


def _autocast() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _can_pack(device: torch.device) -> bool:
    return device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def packs(layer: Any) -> bool:
    """Whether a CPU copies the weight of a layer: a plain product with a large weight, of a type its kernel takes."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer.weight.numel() < LARGE_WEIGHT:
        return False
    return layer.weight.dtype in (torch.float32, torch.bfloat16)


def _packed(weight: Tensor, bias: Tensor | None) -> Product:
    """The product with a weight in the layout of its CPU kernel, in the type of autocast if it is on."""
    dtype = _autocast() or weight.dtype
    copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), FEW_ROWS)
    return functools.partial(_product, copy, None if bias is None else bias.detach().to(dtype), dtype)


def _product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, inputs: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs.to(dtype), weight, bias, "none", [], "")  # type: ignore[no-any-return]


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

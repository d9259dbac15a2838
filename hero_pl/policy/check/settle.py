"""The fast check before weights are loaded: how an architecture can be sampled and scored, or why it cannot."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hero_pl.chat.probes import Line
from hero_pl.errors import PolicyError
from hero_pl.policy.check.properties import Trial
from hero_pl.policy.check.small import TooLarge, is_small, small_copy
from hero_pl.policy.loading import load_model
from hero_pl.policy.network import Caching, Network

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Findings:
    """Result of the check of one architecture."""

    model: str
    """Name of its class."""
    lines: tuple[Line, ...]
    caching: Caching
    """How it can be sampled."""
    takes_seen: bool
    """See :attr:`Network.takes_seen`."""
    obstacles: Mapping[str, str]
    """Settings of ``teacher_scoring`` that it does not support, and why."""

    def refuse(self) -> None:
        """Refuse an architecture whose ways to compute logits disagree, and warn about slow ones.

        Raises:
            PolicyError: Sampler, scorer and forward pass disagree; the message names the property and says what to do.
        """
        for line in self.lines:
            if not line.ok:
                raise PolicyError(f"{self.model} cannot be trained: {line.name}: {line.detail}. {line.cure}")
        for line in self.lines:
            if line.cure and line.name not in self.obstacles:  # these are reported when they are requested
                warnings.warn(f"{self.model}: {line.name}: {line.detail}. {line.cure}", stacklevel=3)

    def settle(self, network: Network) -> None:
        """Apply the result to a network."""
        network.caching, network.takes_seen = self.caching, self.takes_seen
        network.obstacles = dict(self.obstacles)


_known: dict[str, Findings] = {}
"""Results by small configuration, so that a process checks an architecture once."""


@contextmanager
def _in_float32() -> Iterator[None]:
    """With ``trainer.precision: bf16-true`` a model is loaded with the default type bfloat16, which rounds more."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@_in_float32()
def examine(config: PretrainedConfig, attention: str) -> Findings:
    """Sample from and score with a small copy of an architecture; the weights are not needed.

    Args:
        config: Configuration of the model, with dropout switched off.
        attention: Attention implementation of transformers.

    Raises:
        PolicyError: There is no such model, or not with this attention.
    """
    small, why = smallest(config, attention)
    if small is None:
        with torch.device("meta"):
            model = load_model(None, config, torch.float32, attention, 0)
        return Findings(type(model).__name__, (untried(why),), "row" if _keeps_states(model) else "shared", False, {})
    name = type(small).__name__
    key = json.dumps([name, attention, small.config.to_dict()], default=str)
    if key not in _known:
        with torch.device("cpu"):  # also where the model itself is built without memory
            trial = Trial(small)
            lines = tuple(fast_lines(trial))
        network = trial.network
        takes_seen = network.takes_seen and attention == "sdpa"  # others take masks of another form
        _known[key] = Findings(name, lines, network.caching, takes_seen, dict(network.obstacles))
    return _known[key]


def smallest(config: PretrainedConfig, attention: str) -> tuple[Any, str]:
    """A small copy, or the architecture as it is if that is small enough; else ``None``, and why.

    Raises:
        PolicyError: There is no such model, or not with this attention.
    """
    with torch.device("meta"):
        model = load_model(None, config, torch.float32, attention, 0)
    try:
        return small_copy(model), ""
    except TooLarge as error:
        if not is_small(model):
            return None, str(error)
    with torch.device("cpu"):
        whole: Any = load_model(None, config, torch.float32, attention, 0)
    return whole.eval(), ""


def fast_lines(trial: Trial) -> Iterator[Line]:
    """The tests that take about a second; they stop at the first failure, because later tests need the earlier ones."""
    checks = (
        trial.sampler,
        trial.score,
        trial.padded,
        trial.turns_in_one_row,
        trial.training_mode,
        lambda: trial.sharing("prefix_cache"),
        lambda: trial.sharing("tree_mask"),
    )
    for check in checks:
        line = check()
        yield line
        if not line.ok:
            return


def untried(why: str) -> Line:
    """The line of the report if no small copy can be made."""
    cure = "Run hero_pl check-model on its weights before training."
    return Line("small copy", True, f"the architecture could not be tested on a small copy ({why})", cure)


def _keeps_states(model: Any) -> bool:
    """Whether a layer keeps anything other than the keys and values of all tokens."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return bool(getattr(model, "_is_stateful", False)) or not all(isinstance(layer, DynamicLayer) for layer in layers)

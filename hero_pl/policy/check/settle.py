"""The fast check: how an architecture can be sampled and scored, or why it cannot; known before any weight is used."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hero_pl.chat.probes import Line
from hero_pl.errors import PolicyError
from hero_pl.policy.check.properties import Trial
from hero_pl.policy.check.small import TooLarge, is_small, small_copy
from hero_pl.policy.network import Caching, Network


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found of one architecture."""

    lines: tuple[Line, ...]
    caching: Caching
    """How it can be sampled."""
    obstacles: Mapping[str, str]
    """Ways of ``teacher_scoring`` that it cannot, and why."""


_known: dict[str, Findings] = {}
"""By the small configuration, so that a process tries an architecture once."""


def settle(model: Any, network: Network) -> None:
    """Try the architecture of a model, and set up the network as it needs; each is tried once per process.

    Args:
        model: Of transformers, without an adapter.
        network: That will run it.

    Raises:
        PolicyError: Sampler, scorer and forward pass disagree; names the property and says what to do.
    """
    found = examine(model)
    name = type(model).__name__
    for line in found.lines:
        if not line.ok:
            raise PolicyError(f"{name} cannot be trained: {line.name}: {line.detail}. {line.cure}")
    network.caching, network.obstacles = found.caching, dict(found.obstacles)
    for line in found.lines:
        if line.cure and line.name not in found.obstacles:  # those are told when they are asked for
            warnings.warn(f"{name}: {line.name}: {line.detail}. {line.cure}", stacklevel=3)


def examine(model: Any) -> Findings:
    """Play and score a small copy of the model's architecture."""
    try:
        small = small_copy(model)
    except TooLarge as error:
        if not is_small(model):
            stateful = bool(getattr(model, "_is_stateful", False))
            return Findings((untried(str(error)),), "row" if stateful else "shared", {})
        small = copy.deepcopy(model).float().eval()
    key = json.dumps([type(model).__qualname__, small.config._attn_implementation, small.config.to_dict()], default=str)
    if key not in _known:
        trial = Trial(small)
        lines = tuple(fast_lines(trial))
        _known[key] = Findings(lines, trial.network.caching, dict(trial.network.obstacles))
    return _known[key]


def fast_lines(trial: Trial) -> Iterator[Line]:
    """The lines that a second is enough for; what comes after a red one may need it."""
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
    """No small copy could be made."""
    cure = "Run hero_pl check-model on its weights before training."
    return Line("small copy", True, f"the architecture could not be tried on a small copy ({why})", cure)

"""Keys and values of ended conversations, for prompts and scores that continue them under the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from hero_pl.policy.network import Trunk
from hero_pl.types import ScoreRow, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.network import Network, States

Mark: TypeAlias = "tuple[object, ...]"


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A conversation that has ended."""

    ids: tuple[int, ...]
    states: States
    """Of its ids."""

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(part.nbytes for both in self.states for part in both)


class KeptRows:
    """The conversations that ended last, all under the same weights and precision; others are never handed out."""

    def __init__(self) -> None:
        self.limit = 0
        """Number of conversations that are kept; the oldest makes room."""
        self.most_bytes: int | None = None
        """Largest number of bytes that they take together; ``None`` for no limit."""
        self.rows: list[KeptRow] = []
        self._mark: Mark = ()

    def put(self, network: Network, weights: str, row: KeptRow) -> None:
        """Keep a conversation that these weights have run."""
        mark = _mark(network, weights)
        if mark != self._mark:
            self.rows, self._mark = [], mark
        self.rows = [*self.rows, row][-self.limit :] if self.limit else []
        if self.most_bytes is not None:
            while sum(kept.nbytes for kept in self.rows) > self.most_bytes:
                self.rows = self.rows[1:]

    def before(self, network: Network, weights: str, prompt: Sequence[int]) -> KeptRow | None:
        """The longest conversation that ``prompt`` continues, unless the weights have changed since."""
        if not self.rows or _mark(network, weights) != self._mark:
            return None
        ids = tuple(prompt)
        found = [row for row in self.rows if len(row.ids) < len(ids) and ids[: len(row.ids)] == row.ids]
        return max(found, key=lambda row: len(row.ids), default=None)

    def under(self, network: Network, weights: str) -> list[KeptRow]:
        """All conversations, unless the weights have changed since."""
        return self.rows if self.rows and _mark(network, weights) == self._mark else []

    def clear(self) -> None:
        """Free the memory."""
        self.rows = []


def trunks_of(rows: Sequence[KeptRow], trajectories: Sequence[Trajectory]) -> tuple[Trunk, ...]:
    """The conversations that contain a trajectory up to its last decision, as trunks with its number.

    A trajectory without a turn (its first message did not fit) has none.
    """
    found = []
    for number, trajectory in enumerate(trajectories):
        if not trajectory.turns:
            continue
        ids = trajectory.turns[-1].prompt_ids
        row = next((row for row in rows if row.ids[: len(ids)] == ids), None)
        if row is not None:
            found.append(Trunk(ScoreRow(row.ids, (), number), row.states))
    return tuple(found)


def _mark(network: Network, weights: str) -> Mark:
    """What must be the same for keys and values to be the same.

    A change of a weight in place raises its version; an adapter that is merged while sampling does not.
    """
    with network.using(weights) as model:
        versions = (id(model), *(weight._version for weight in model.parameters()))
    device = network.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return (weights, torch.get_autocast_dtype(device) if mixed else None, versions)

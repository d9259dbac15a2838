"""Prompts that begin alike are run once: the system prompt of all episodes, and the first prompt of a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile

from hero_pl.policy.cached_rows import CachedRows
from hero_pl.policy.kept_rows import KeptRow
from hero_pl.policy.sampling_weights import SamplingWeights

LEAST = 32
"""Tokens that prompts must have in common; a separate pass for fewer costs more than it saves."""


class Beginnings:
    """Keys and values of what the prompts of a session begin with.

    Args:
        weights: Weights that run the prompts; a session has the same weights from its start to its end.
    """

    def __init__(self, weights: SamplingWeights) -> None:
        self.weights = weights
        self.common: KeptRow | None = None
        """What the first prompts that were read together have in common; kept for prompts that come later."""
        self.fed_tokens = 0
        """Tokens that were run for this."""

    def of(self, prompts: Sequence[Sequence[int]]) -> list[KeptRow | None]:
        """For each prompt its beginning, run once for all that share it; ``None`` where it shares none.

        At least the last token of a prompt is not part of its beginning.
        """
        whole = [tuple(prompt) for prompt in prompts]
        if self.common is None and len(whole) > 1:
            columns = zip(*(prompt[:-1] for prompt in whole), strict=False)
            alike = tuple(ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, columns))
            if len(alike) >= LEAST:
                (self.common,) = self._run([alike])
        known = self._length(self.common)
        twice = [ids for ids, count in Counter(whole).items() if count > 1 and len(ids) - 1 - known >= LEAST]
        of_group = dict(zip(twice, self._run([ids[:-1] for ids in twice]), strict=True)) if twice else {}
        return [of_group.get(ids) or self._begins(ids) for ids in whole]

    def _begins(self, ids: tuple[int, ...]) -> KeptRow | None:
        common = self.common
        return common if common and len(common.ids) < len(ids) and ids[: len(common.ids)] == common.ids else None

    def _run(self, rows: Sequence[tuple[int, ...]]) -> list[KeptRow]:
        batch = CachedRows(self.weights)
        some = [self._begins(ids) for ids in rows]
        for known in (True, False):
            part = {i: ids for i, ids in enumerate(rows) if (some[i] is not None) == known}
            if part:
                batch.join(part, [row for row in some if row is not None] if known else ())
        self.fed_tokens += batch.fed_tokens
        return [KeptRow(ids, batch.states_of(i)) for i, ids in enumerate(rows)]

    @staticmethod
    def _length(row: KeptRow | None) -> int:
        return len(row.ids) if row else 0

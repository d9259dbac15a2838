"""In-process sampling for many conversations at once, with the key-value cache kept between turns.

The sampler knows only ids. Rows that can share a pass are one batch (:mod:`hero_pl.policy.cached_rows`) and are fed
only what is new. Where the rotary positions of a model depend on the length of the context, rows on either side of
the switch are a batch each, and a row that crosses it is run again. Models whose layers carry a state that padding
would spoil have every row to itself, run from its start at every turn; models without a cache that can be used run
all of it for every token. Randomness belongs to the row, not to the batch: an action depends on its seed and its
prompt, however many other conversations run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.beginnings import Beginnings
from hero_pl.policy.cached_rows import CachedRows, UncachedRows
from hero_pl.policy.draw import Stream, draw
from hero_pl.policy.kept_rows import KeptRow, KeptRows
from hero_pl.policy.positions import stretch
from hero_pl.policy.sampling import Constraint, SampledPolicy, Sampler, Sampling, Session
from hero_pl.policy.sampling_weights import SamplingWeights
from hero_pl.types import FinishReason, SampledAction

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.policy.network import Network


class CachedSampler(Sampler):
    """Plays all conversations in lock step and feeds only what is new (policies with a network).

    Args:
        refill: Finished actions are returned when at most this fraction of the rows is still being drawn, so that the
            next turns and episodes can start; 0 waits for all rows. It does not change what is drawn.
        sync_every: Number of tokens that are drawn before they are copied from the device to the host; default: 1 on a
            CPU and 8 on other devices. It does not change what is drawn.
        merge: Whether an adapter is added to the weights while they sample, which needs memory for a copy of them. It
            is done only where log-probabilities change by rounding alone.
        pack: Whether a CPU keeps a copy of large weights in the layout of its kernels while they sample. Log-
            probabilities change by rounding alone.
    """

    def __init__(
        self, refill: float = 0.5, sync_every: int | None = None, merge: bool = True, pack: bool = True
    ) -> None:
        if not 0.0 <= refill <= 1.0:
            raise ConfigError(f"refill={refill}: expected a fraction of the rows, from 0 to 1.")
        if sync_every is not None and sync_every < 1:
            raise ConfigError(f"sync_every={sync_every}: expected at least 1 token.")
        self.refill, self.sync_every, self.merge, self.pack = refill, sync_every, merge, pack
        self.kept = KeptRows()
        """Conversations that have ended, see :meth:`keeping`."""

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> CachedSession:
        """See :meth:`Sampler.open`.

        Raises:
            ConfigError: Another kind of policy.
        """
        if policy.network is None:
            raise ConfigError(
                "CachedSampler samples from the network of a loaded HuggingFacePolicy, not from a "
                f"{type(policy).__name__}. A ScriptedPolicy takes ScriptedSampler; leave the sampler of any policy out "
                "to get its own."
            )
        return CachedSession(self, policy, policy.network, sampling, seeds, weights)

    @contextmanager
    def keeping(self, rows: int, most_bytes: int | None = None) -> Iterator[None]:
        """See :meth:`Sampler.keeping`."""
        self.kept.limit, self.kept.most_bytes = rows, most_bytes
        try:
            yield
        finally:
            self.kept.limit, self.kept.most_bytes = 0, None

    def kept_under(self, policy: SampledPolicy, weights: str) -> Sequence[KeptRow]:
        """See :meth:`Sampler.kept_under`."""
        return self.kept.under(policy.network, weights) if policy.network is not None else ()

    def forget(self) -> None:
        """See :meth:`Sampler.forget`."""
        self.kept.clear()


@dataclass(slots=True)
class _Reply:
    """An action that is being drawn."""

    prompt: tuple[int, ...]
    constraint: Constraint | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class CachedSession(Session):
    """Conversations whose keys and values stay in memory; see the module docstring."""

    def __init__(
        self,
        sampler: CachedSampler,
        policy: SampledPolicy,
        network: Network,
        sampling: Sampling,
        seeds: Sequence[int],
        weights: str,
    ) -> None:
        self.sampler, self.policy, self.network = sampler, policy, network
        self.sampling, self.weights = sampling, SamplingWeights(network, weights, sampler.merge, sampler.pack)
        self.streams: dict[int, Stream] = {}
        """Randomness of each open row."""
        self.opened = 0
        self.asked: dict[int, tuple[int, ...]] = {}
        """Prompts of the rows whose action has not begun."""
        self.replies: dict[int, _Reply] = {}
        """Actions that are being drawn; the last id of each has not been run."""
        self.batches: dict[int, CachedRows | UncachedRows] = {}
        """Rows that share passes, by the key of :meth:`_key`."""
        self.place: dict[int, int] = {}
        """Key of the batch that holds a row, for rows whose keys and values are kept."""
        self.beginnings = Beginnings(self.weights)
        self.rounds = self.drawn = 0
        """Number of decoding passes, and the tokens of actions that were drawn in them."""
        self._left = 0
        self.open(seeds)

    @property
    def fed_tokens(self) -> int:
        """Tokens that went through the model so far, padding excluded."""
        return self._left + self.beginnings.fed_tokens + sum(batch.fed_tokens for batch in self.batches.values())

    # -- the seam ----------------------------------------------------------------------------------------------

    def open(self, seeds: Sequence[int]) -> list[int]:
        """See :meth:`Session.open`; costs nothing before the first prompt."""
        rows = list(range(self.opened, self.opened + len(seeds)))
        self.opened += len(rows)
        self.streams.update((row, Stream(seed)) for row, seed in zip(rows, seeds, strict=True))
        return rows

    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """See :meth:`Session.submit`."""
        self.asked.update(zip(rows, prompts, strict=True))

    def finished(self) -> list[tuple[int, SampledAction]]:
        """See :meth:`Session.finished`; draws for all rows as one batch, until enough have ended.

        Raises:
            PolicyError: Logits are not finite.
        """
        with self._unrecorded(), self.weights.ready(self.policy.version):
            ended = self._run_on()
        version = self.policy.version if self.weights.weights == "live" else 0
        return [(row, self._action(self.replies.pop(row), version)) for row in ended]

    @torch.inference_mode()
    def close(self, rows: Sequence[int]) -> None:
        """See :meth:`Session.close`."""
        for row in rows:
            del self.streams[row]
            self.asked.pop(row, None)
            self.replies.pop(row, None)
            self._keep(row)
        self._drop(*rows)

    def _unrecorded(self) -> AbstractContextManager[object]:
        """Without the records that autograd keeps of every tensor a pass of a small model takes an eighth less.

        Not under autocast, which does not keep what it casts in inference mode.
        """
        device = self.network.device.type
        cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return torch.no_grad() if cast else torch.inference_mode()

    def _keep(self, row: int) -> None:
        """Leave the keys and values of a row with the sampler, if it wants them."""
        batch = self.batches[self.place[row]] if row in self.place else None
        if self.sampler.kept.limit and self.network.caching == "shared" and isinstance(batch, CachedRows):
            kept = KeptRow(tuple(batch.fed[row]), batch.states_of(row))
            self.sampler.kept.put(self.network, self.weights.weights, kept)

    # -- drawing -----------------------------------------------------------------------------------------------

    def _run_on(self) -> list[int]:
        """Draw until enough actions have ended; their rows."""
        if self.asked:
            self._begin()
        started = len(self.replies)
        while True:
            ended = [row for row, reply in self.replies.items() if self._reason(reply) is not None]
            going = {row: reply.ids for row, reply in self.replies.items() if self._reason(reply) is None}
            if not going or (ended and len(going) <= self.sampler.refill * started):
                return ended
            limit = self.sampling.max_action_tokens
            steps = min([self._steps_ahead(), *(limit - len(ids) for ids in going.values())])
            rows, logits = self._feed(going)
            self.drawn += self._draw(rows, logits, steps)
            self.rounds += steps

    def _begin(self) -> None:
        """Read the prompts of new actions, and draw the first token of each."""
        make = self.sampling.constraint
        for row, prompt in self.asked.items():
            self.replies[row] = _Reply(prompt, make(row) if make else None)
        rows, logits = self._read_prompts()
        self.asked = {}
        self._draw(rows, logits, 1)

    def _steps_ahead(self) -> int:
        """Number of tokens that may be drawn before they are copied to the host."""
        together = self.network.caching == "shared" and not self.network.rope_switches
        if not together or self.sampling.constraint is not None:
            return 1
        return self.sampler.sync_every or (1 if self.network.device.type == "cpu" else 8)

    def _draw(self, rows: Sequence[int], logits: Tensor, steps: int) -> int:
        """Draw the next tokens of rows and copy them to the host once.

        Args:
            rows: In the order of ``logits``.
            logits: ``(rows, vocab)`` after the last id of each.
            steps: Tokens of each row; tokens after the end of its action are not kept.

        Returns:
            Number of tokens that were kept.
        """
        replies = [self.replies[row] for row in rows]
        if self.sampling.constraint is not None:
            allowed = [r.constraint.allow(one) if r.constraint else one for r, one in zip(replies, logits, strict=True)]
            logits = torch.stack(allowed)
        uniform: Tensor | None = None
        if self.sampling.temperature:
            numbers = np.array([self.streams[row].look(steps) for row in rows])
            if logits.device.type == "mps":
                numbers = numbers.astype(np.float32)
            uniform = torch.from_numpy(numbers).to(logits.device)
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        for step in range(steps):
            if step:
                logits = self._only_batch().step(tokens[-1])
            drawn = draw(logits, self.sampling.divisor, None if uniform is None else uniform[:, step])
            tokens.append(drawn[0])
            logprobs.append(drawn[1])
        found = torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist()  # the host waits here only
        kept = [self._take(row, ids, values) for row, ids, values in zip(rows, *found, strict=True)]
        if steps > 1:
            self._only_batch().settle([ids[:count] for ids, count in zip(found[0], kept, strict=True)], steps - 1)
        return sum(kept)

    def _take(self, row: int, ids: Sequence[int], logprobs: Sequence[float]) -> int:
        """Add drawn tokens to the action of a row, up to its end; return their number."""
        reply, count = self.replies[row], 0
        while count < len(ids) and self._reason(reply) is None:
            if not math.isfinite(logprobs[count]):
                raise PolicyError(
                    "The policy cannot be sampled: its logits are not finite. Its weights have diverged, or they need "
                    "another precision. Resume from an earlier checkpoint with a lower model.lr, or set "
                    "trainer.precision or model.policy.init_args.dtype to one with a larger range."
                )
            reply.ids.append(ids[count])
            reply.logprobs.append(logprobs[count])
            if reply.constraint is not None:
                reply.constraint.accept(ids[count])
            count += 1
        if self.sampling.temperature:
            self.streams[row].skip(count)
        return count

    def _reason(self, reply: _Reply) -> FinishReason | None:
        """Why an action has ended, if it has."""
        if reply.ids and reply.ids[-1] in self.policy.template.end_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(reply.ids) == self.sampling.max_action_tokens else None

    def _action(self, reply: _Reply, version: int) -> SampledAction:
        reason = self._reason(reply)
        assert reason is not None
        return SampledAction(tuple(reply.ids), tuple(reply.logprobs), reason, version)

    def _only_batch(self) -> CachedRows:
        (batch,) = self.batches.values()
        assert isinstance(batch, CachedRows)
        return batch

    # -- the batches -------------------------------------------------------------------------------------------

    def _key(self, row: int, length: int) -> int:
        """Rows of equal keys share passes: those whose contexts have the same frequencies, or the row alone."""
        return row if self.network.caching == "row" else -1 - stretch(length, self.network.rope_switches)

    def _read_prompts(self) -> tuple[list[int], Tensor]:
        """Feed what is new of every prompt that was asked; rows and logits as in :meth:`_run`."""
        new: dict[int, Sequence[int]] = {}
        for row, prompt in self.asked.items():
            fed = self.batches[self.place[row]].fed[row] if row in self.place else []
            grows = 0 < len(fed) < len(prompt) and prompt[: len(fed)] == tuple(fed)
            if grows and self.network.caching != "row" and self.place[row] == self._key(row, len(prompt)):
                new[row] = prompt[len(fed) :]
            else:  # a rewritten history, or one that has nothing new to read, is run again from its start
                self._drop(row)
        return self._run(new, {row: prompt for row, prompt in self.asked.items() if row not in new})

    def _feed(self, drawn: Mapping[int, Sequence[int]]) -> tuple[list[int], Tensor]:
        """Feed the last of the ids that were drawn for some rows; rows and logits as in :meth:`_run`."""
        new: dict[int, Sequence[int]] = {}
        again: dict[int, Sequence[int]] = {}
        for row, ids in drawn.items():
            whole = len(self.replies[row].prompt) + len(ids)
            if self.place[row] == self._key(row, whole):
                new[row] = ids[-1:]
            else:
                self._drop(row)
                again[row] = (*self.replies[row].prompt, *ids)
        return self._run(new, again)

    def _run(self, new: Mapping[int, Sequence[int]], joining: Mapping[int, Sequence[int]]) -> tuple[list[int], Tensor]:
        """Run new ids of rows that are in the cache, and whole contexts of rows that are not.

        Returns:
            All these rows, and their logits ``(rows, vocab)`` after the last id.
        """
        rows: list[int] = []
        parts: list[Tensor] = []
        for key in sorted({self.place[row] for row in new}):
            batch = self.batches[key]
            parts.append(batch.feed({row: ids for row, ids in new.items() if self.place[row] == key}))
            rows += [row for row in batch.fed if row in new]  # feeding changes their order
        keys = {row: self._key(row, len(ids)) for row, ids in joining.items()}
        for key in sorted(set(keys.values())):
            if key not in self.batches:
                kind = UncachedRows if self.network.caching == "none" else CachedRows
                self.batches[key] = kind(self.weights)
            batch = self.batches[key]
            some = {row: ids for row, ids in joining.items() if keys[row] == key}
            kept = self._kept(some)
            if kept and isinstance(batch, CachedRows):
                continued = {row: some.pop(row) for row in kept}
                rows += continued
                parts.append(batch.join(continued, list(kept.values())))
            if some:
                rows += some
                parts.append(batch.join(some))
        self.place |= keys
        return rows, parts[0] if len(parts) == 1 else torch.cat(parts)

    def _kept(self, prompts: Mapping[int, Sequence[int]]) -> dict[int, KeptRow]:
        """What need not be run again of whole contexts: ended conversations they continue, and common beginnings."""
        if self.network.caching != "shared":
            return {}
        before = self.sampler.kept.before
        kept = {row: before(self.network, self.weights.weights, ids) for row, ids in prompts.items()}
        new = [row for row, found in kept.items() if found is None]
        if not self.network.rope_switches:
            kept.update(zip(new, self.beginnings.of([prompts[row] for row in new]), strict=True))
        return {
            row: found
            for row, found in kept.items()
            if found is not None and self._key(row, len(found.ids)) == self._key(row, len(prompts[row]))
        }

    def _drop(self, *rows: int) -> None:
        """Forget the keys and values of rows, all at once: the rows that remain are moved once."""
        keys = {row: self.place.pop(row) for row in rows if row in self.place}
        for key in sorted(set(keys.values())):
            self.batches[key].drop({row for row in keys if keys[row] == key})
            if not self.batches[key].fed:
                self._left += self.batches.pop(key).fed_tokens

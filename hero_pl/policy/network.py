"""The language model of a policy with its frozen copies; computes hidden states and logits.

Rows of similar length are padded and run in one pass. The padding is on the right and attention is causal, so no
action position attends to padding. Therefore no attention mask is needed; a mask would prevent fast attention kernels.
"""

from __future__ import annotations

import copy
import functools
import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.losses.scores import Scores
from hero_pl.policy.adapters import layers_with_adapter, switched_off
from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.fingerprint import fingerprint
from hero_pl.policy.padding import alike
from hero_pl.policy.positions import rope_switches, stretch
from hero_pl.policy.sharding import Sharding
from hero_pl.sharded import gathered, shared_out
from hero_pl.types import ScoreRow

LOGITS_AT_ONCE = {True: 1 << 21, False: 1 << 26}
"""Default number of logits at the same time, on a CPU (a few times its cache) and elsewhere (a part of the memory)."""

LEAST_AT_ONCE = 128
"""Smallest number of tokens per part; below it, summing the gradient of the projection costs more than its products."""

TOKENS_PER_PASS = 16_384
"""Largest number of tokens of one pass without gradients, padding included; every hinted turn has its whole context."""

Read: TypeAlias = Callable[..., Tensor]
"""What is computed in a pass: :meth:`Network.logits_at` or :meth:`Network.hidden_at`."""

CopiesState: TypeAlias = "dict[str, dict[str, Tensor]]"
"""State dictionaries of frozen copies by their names."""

States: TypeAlias = "tuple[tuple[Tensor, Tensor], ...]"
"""Keys and values of each layer, ``(1, heads, length, head size)``."""

Caching: TypeAlias = Literal["shared", "row", "none"]
"""One cache for many rows; one cache per row, because padding would change the state of a layer; or no cache."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A row that was run as a whole, and its keys and values, as constants."""

    row: ScoreRow
    states: States


class Network(nn.Module):
    """Holds the model and its frozen copies.

    Args:
        model: A causal language model of transformers, or an adapter around one.
        has_adapter: Whether only an adapter is trained; the model without it then has the initial weights.
        origin: Fingerprint of the loaded weights, without an adapter.
        logits_at_once: See the attribute.
    """

    def __init__(
        self, model: Any, has_adapter: bool = False, origin: str = "", logits_at_once: int | None = None
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.has_adapter, self.origin = has_adapter, origin
        self.copies: dict[str, nn.Module] = {}
        """Frozen copies by name; not part of ``parameters()`` or ``state_dict()``."""
        self._as_loaded: set[str] = set()
        """Copies that never change and equal the loaded weights."""
        self.projects = False
        """Whether the logits are only the output projection of the last hidden states (no cap, no scale)."""
        self.logits_at_once = logits_at_once
        """Tokens whose logits may exist at the same time; 0 for all, ``None`` to choose by vocabulary and device."""
        self.rope_switches = rope_switches(model.config)
        """Lengths beyond which rotary positions change (:mod:`hero_pl.policy.positions`)."""
        self.caching: Caching = "shared"
        """How keys, values and states can be cached during sampling."""
        self.takes_seen = False
        """Whether a pass over one more token per row takes what each sees in place of a padding mask."""
        self.obstacles: dict[str, str] = {}
        """Settings of ``teacher_scoring`` that change the logits of this architecture, and why."""
        self.trunks: list[Trunk] | None = None
        """Rows of the live weights that are kept, see :meth:`keeping`; ``None`` outside of it."""
        self.sharding: Sharding | None = None
        """How the weights are sharded over processes, see :meth:`shard`."""
        self.passes = 0
        """Number of passes with gradients so far."""
        self.adapted = layers_with_adapter(model)
        """Layers with an adapter."""
        self._takes = frozenset(inspect.signature(self._base(model).forward).parameters)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @torch.no_grad()
    def check_projection(self) -> None:
        """Set ``projects`` by a test in evaluation mode: whether projecting the last hidden states gives the logits."""
        if self.device.type == "meta":
            return
        ids = torch.arange(4, device=self.device)[None] % int(self.model.config.get_text_config().vocab_size)
        want = self.model(input_ids=ids, use_cache=False).logits
        head, base = self._head(self.model), self._base(self.model)
        if head is None or base.base_model is base:
            return
        self.projects = torch.equal(want, head(self._trunk(self.model, input_ids=ids, use_cache=False)))

    # -- sharding ----------------------------------------------------------------------------------------------

    def shard(self, mesh: DeviceMesh) -> None:
        """Leave each process of a mesh only its part of the weights; all passes need :meth:`gathered` then."""
        if self.sharding is None:
            self.sharding = Sharding(self, mesh)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Have all weights in this process, if they are sharded; all processes enter it together."""
        if self.sharding is None:
            yield
        else:
            with self.sharding.gathered([self, *self.copies.values()]):
                yield

    def blanks(self, passes: int) -> list[Tensor]:
        """Losses of 0, each from a pass over one token, for processes with fewer passes than others."""
        return [self.read_padded(self.logits_at, [((0,), (0,))], "live").sum() * 0.0 for _ in range(passes)]

    def plain(self) -> Any:
        """The model with all live weights, to be saved or merged; all processes call this together.

        If it is sharded, this is a copy in the memory of the host, and ``None`` except on the first process.
        """
        with self.gathered():
            return self.model if self.sharding is None else self.sharding.plain(self.model)

    # -- running -----------------------------------------------------------------------------------------------

    def run(self, read: Read, model: Any, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """One pass with gradients; FSDP2 is told of this method, because a pass enters by no module of its own."""
        self.passes += 1
        return read(model, row, position, **inputs)

    @contextmanager
    def using(self, weights: str) -> Iterator[Any]:
        """The model with the named weights: ``live``, or a frozen copy."""
        if self.sharding is not None:
            self.sharding.check()
        if weights == "live":
            yield self.model
        elif weights in self.copies:
            with torch.no_grad():
                yield self.copies[weights]
        elif weights == "initial" and self.has_adapter:
            with torch.no_grad(), switched_off(self.adapted):
                yield self.model
        else:
            raise ConfigError(f"No weights named {weights!r}: there are {['live', *self.copies]}.")

    @property
    def keeps_nothing(self) -> str | None:
        """Why passes with gradients have no keys and values to keep, if they have none."""
        if self.rope_switches:
            return "rotary positions change with the length of a context"
        if any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules()):
            return "under gradient checkpointing the student's pass keeps no keys and values"
        return None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep keys and values of the rows that the live weights score with gradients, for rows that begin alike.

        They are those that the backward pass needs anyway.
        """
        self.trunks = []
        try:
            yield
        finally:
            self.trunks = None

    def logits_at(self, model: Any, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """Logits ``(len(row), vocab)`` of one pass of ``model`` at ``(row, position)`` pairs; no others are computed.

        Args:
            model: The model that :meth:`using` gives.
            row: Numbers of rows in the batch.
            position: Positions in these rows.
            inputs: Inputs of the model.
        """
        row, position = list(row), list(position)
        if self.projects:
            return self._head(model)(self._trunk(model, **inputs)[row, position])  # type: ignore[no-any-return]
        inputs = self._accepted(inputs)
        if "logits_to_keep" not in self._takes:
            return model(**inputs).logits[row, position]  # type: ignore[no-any-return]
        kept = sorted(set(position))
        logits = model(**inputs, logits_to_keep=torch.tensor(kept, device=self.device)).logits
        return logits[row, [bisect_left(kept, place) for place in position]]  # type: ignore[no-any-return]

    def hidden_at(self, model: Any, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """Last hidden states ``(len(row), width)``, like :meth:`logits_at` without the output projection."""
        return self._trunk(model, **inputs)[list(row), list(position)]

    def read_rows(self, read: Read, rows: Sequence[ScoreRow], weights: str) -> Tensor:
        """Logits, or hidden states, that predict each action token, in the order of rows and spans.

        Args:
            read: What is computed.
            rows: Rows with their action spans.
            weights: ``live`` (gradients flow), or the name of a frozen copy.
        """
        switches = self.rope_switches
        if not switches:
            pieces = [(row.ids, row.read) for row in rows]
            if self.trunks is None or weights != "live" or not torch.is_grad_enabled() or self.keeps_nothing:
                return self.read_padded(read, pieces, weights)
            states: dict[int, States] = {}
            read_off = self.read_padded(read, pieces, weights, states)
            self.trunks += [Trunk(rows[i], kept) for i, kept in states.items()]
            return read_off
        # rotary positions depend on the length of the context of a token, so a row is run in parts where they change
        places = [(stretch(p + 1, switches), i, p) for i, row in enumerate(rows) for p in row.read]
        parts: list[Tensor] = []
        for number in sorted({number for number, _, _ in places}):
            inside = [[p for p in row.read if stretch(p + 1, switches) == number] for row in rows]
            pieces = [(row.ids[: there[-1] + 1], there) for row, there in zip(rows, inside, strict=True) if there]
            parts.append(self.read_padded(read, pieces, weights))
        back = torch.tensor(sorted(range(len(places)), key=lambda i: places[i])).argsort()
        return torch.cat(parts)[back.to(self.device)]

    def read_padded(
        self,
        read: Read,
        pieces: Sequence[tuple[Sequence[int], Sequence[int]]],
        weights: str,
        states: dict[int, States] | None = None,
    ) -> Tensor:
        """Logits or hidden states at the positions of each sequence, in the order of sequences and positions.

        Args:
            read: What is taken.
            pieces: Ids and positions of each sequence.
            weights: ``live``, or a frozen copy.
            states: Is given the keys and values of each sequence by its number, unless it is ``None``.
        """
        from hero_pl.policy.noting_cache import noted, noting_cache

        found: dict[int, Tensor] = {}
        trains = weights == "live" and torch.is_grad_enabled()
        run = functools.partial(self.run, read) if trains else read
        # with gradients all passes are kept for the backward pass, so the size of the micro-batch limits them
        most = None if torch.is_grad_enabled() else TOKENS_PER_PASS
        with self.using(weights) as model:
            for group in alike([len(piece) for piece, _ in pieces], most):
                ids = torch.zeros(len(group), max(len(pieces[i][0]) for i in group), dtype=torch.long)
                for place, i in enumerate(group):
                    ids[place, : len(pieces[i][0])] = torch.tensor(pieces[i][0])
                row = [place for place, i in enumerate(group) for _ in pieces[i][1]]
                position = [position for i in group for position in pieces[i][1]]
                inputs: dict[str, Any] = {"input_ids": ids.to(self.device), "use_cache": states is not None}
                if states is not None:
                    cache = noting_cache()
                    inputs |= cache_input(model, cache)
                got = run(model, row, position, **inputs)
                if states is not None:
                    states.update(zip(group, noted(cache, [len(pieces[i][0]) for i in group]), strict=True))
                found.update(zip(group, got.split_with_sizes([len(pieces[i][1]) for i in group]), strict=True))
        return torch.cat([found[i] for i in range(len(pieces))])

    @property
    def plain_head(self) -> bool:
        """Whether logits are ``hidden @ head_weight().T``: no bias, adapter, cap or scale."""
        head = self._head(self.model)
        return self.projects and type(head) is nn.Linear and head.bias is None

    def check_plain_head(self) -> None:
        """Check that the logits can be computed in parts.

        Raises:
            PolicyError: The head is not plain.
        """
        if not self.plain_head:
            raise PolicyError(
                f"The logits of this {type(self.model).__name__} are not a plain projection of its hidden states: they "
                "cannot be computed in parts. Set model.policy.init_args.logits_at_once to auto."
            )

    def projected(self, hidden: Tensor, weights: str = "live") -> Scores:
        """Scores from last hidden states ``(N, width)`` and the plain output projection of the named weights."""
        head = self.head_weight(weights)
        at_once = self.logits_at_once
        if at_once is None:
            at_once = max(LEAST_AT_ONCE, LOGITS_AT_ONCE[hidden.device.type == "cpu"] // head.shape[0])
        return Scores(hidden, head.to(hidden.dtype), at_once)  # types differ under autocast: cast once, not per part

    def head_weight(self, weights: str = "live") -> Tensor:
        """Output projection ``(vocab, width)`` of the named weights."""
        with self.using(weights) as model:
            return self._head(model).weight  # type: ignore[no-any-return]

    def _trunk(self, model: Any, **inputs: Any) -> Tensor:
        return self._base(model).base_model(**self._accepted(inputs)).last_hidden_state  # type: ignore[no-any-return]

    def _accepted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs without position ids if the model computes these from the attention mask."""
        return {name: value for name, value in inputs.items() if name != "position_ids" or name in self._takes}

    @staticmethod
    def _base(model: Any) -> Any:
        """The model of transformers inside an adapter."""
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @staticmethod
    def _head(model: Any) -> Any:
        return model.get_output_embeddings()

    # -- frozen copies -----------------------------------------------------------------------------------------

    def keep(self, name: str, dtype: torch.dtype | None = None) -> None:
        """Keep a frozen copy of the current weights under ``name``, unless there is one already.

        Weights that are not trained are not copied: the copy uses those of the model. With an adapter, ``initial``
        needs no copy at all: it is the model with the adapter switched off.
        """
        if name in self.copies or (name == "initial" and self.has_adapter):
            return
        if self.sharding is not None:
            self.copies[name] = self.sharding.frozen(self.model, dtype)
        else:
            shared = {id(p): p for p in self.model.parameters() if not p.requires_grad}
            model = copy.deepcopy(self.model, shared).eval()
            for weight in model.parameters():
                if id(weight) not in shared:  # Module.to would convert the live weights too
                    weight.requires_grad_(False)
                    weight.data = weight.data.to(dtype or weight.dtype)
            self.copies[name] = model
        if name == "initial" and fingerprint(self.copies[name].state_dict()) == self.origin:
            self._as_loaded.add(name)

    def drop(self, name: str) -> None:
        """Free a frozen copy."""
        del self.copies[name]
        self._as_loaded.discard(name)

    def refresh(self, name: str) -> None:
        """Overwrite a frozen copy with the current weights."""
        self.copies[name].load_state_dict(self.model.state_dict())

    def copies_state(self) -> CopiesState:
        """State of the frozen copies for checkpoints.

        Weights that are not trained, and copies that equal the loaded weights, are left out.
        """
        left_alone = {n for n, p in self.model.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return {
            name: {}
            if name in self._as_loaded
            else gathered({key: value for key, value in model.state_dict().items() if key not in left_alone})
            for name, model in self.copies.items()
        }

    def load_copies(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore the frozen copies of a checkpoint.

        Call it before the live weights are restored: weights that the checkpoint does not contain are copied from them.
        """
        for name, weights in state.items():
            self.keep(name, next((w.dtype for w in weights.values() if w.is_floating_point()), None))
            own = self.copies[name].state_dict()
            self.copies[name].load_state_dict({**own, **shared_out(weights, own)})

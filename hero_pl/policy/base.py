"""Base class of policies: weights and a chat template that can sample actions and score them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from hero_pl.chat.dialect import Dialect
from hero_pl.errors import ConfigError
from hero_pl.losses.scores import Scores
from hero_pl.policy.network import CopiesState, Network
from hero_pl.policy.sampling import Sampler
from hero_pl.types import ScoreRow

if TYPE_CHECKING:
    from hero_pl.chat.actions import ActionParser
    from hero_pl.chat.template import ChatTemplate


Copies: TypeAlias = Mapping[str, torch.dtype | None]
"""Frozen copies of a policy: their names, and the type of their weights (``None``: that of the policy)."""


class Policy(nn.Module, ABC):
    """Weights, tokenizer and dialect of one agent.

    The constructor is fast; :meth:`load` loads or initializes the weights, after all other settings were checked.
    """

    template: ChatTemplate
    parser: ActionParser
    sampler: Sampler
    max_length: int
    """Maximum number of tokens in the context."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        """Number of optimizer steps of the weights."""
        self.unsent = False
        """Whether the sampler has older weights, which :meth:`send_weights` changes."""
        self._wanted_copies: set[str] = set()
        """Names for which :meth:`keep` was called."""
        self.network: Network | None = None
        """The language model after :meth:`load`; always ``None`` for policies without one."""

    @property
    def dialect(self) -> Dialect:
        """Template, parser and context length of this policy; available after :meth:`load`."""
        return Dialect(self.template, self.parser, self.max_length)

    @property
    def foreign(self) -> bool:
        """Whether its weights come from elsewhere, so that it is not known which hints they read."""
        return False

    def context_length(self) -> int:
        """Maximum number of tokens in the context, also before :meth:`load`."""
        return self.max_length

    @abstractmethod
    def load(self) -> None:
        """Read or make tokenizer and weights; calling it again does nothing.

        Raises:
            PolicyError: They cannot be used; the message says what to do.
        """

    def send_weights(self) -> None:
        """Send the weights to the sampler, if it has older ones; all processes call this together.

        Raises:
            PolicyError: The sampler cannot take them. They are still unsent then.
        """
        if self.unsent:
            self.sampler.sync(self)
            self.unsent = False

    # -- scoring -----------------------------------------------------------------------------------------------

    @abstractmethod
    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """Logits that predict each action token.

        Args:
            rows: Sequences with their action spans.
            weights: ``live`` (gradients flow) or the name of a frozen copy.

        Returns:
            ``(sum of row.scored, vocab)`` in the order of rows and spans.
        """

    def scores(self, rows: Sequence[ScoreRow], weights: str = "live") -> Scores:
        """Scores of each action token, in the form that needs the least memory.

        Args:
            rows: As in :meth:`score`.
            weights: As in :meth:`score`.
        """
        return Scores(self.score(rows, weights))

    def hidden(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """Last hidden states ``(sum of row.scored, width)``: logits before the output projection.

        Args:
            rows: As in :meth:`score`.
            weights: As in :meth:`score`; their output projection is ``need_network(...).head_weight(weights)``.

        Raises:
            ConfigError: The policy has no network.
            PolicyError: Its logits are not a plain projection of hidden states.
        """
        raise self._no_network("hidden states")

    # -- several processes -------------------------------------------------------------------------------------

    def shard(self, mesh: DeviceMesh) -> None:
        """Leave each process only its part of the weights, after :meth:`load`.

        Args:
            mesh: Processes, in one dimension.

        Raises:
            ConfigError: The policy has no network.
        """
        self.need_network("sharded weights").shard(mesh)

    def gathered(self) -> AbstractContextManager[None]:
        """Context with all weights in this process; see :meth:`Network.gathered`."""
        return nullcontext() if self.network is None else self.network.gathered()

    # -- frozen copies -----------------------------------------------------------------------------------------

    def need_network(self, wanted_by: str) -> Network:
        """The network, or an error.

        Raises:
            ConfigError: There is none; the message has ``wanted_by``.
        """
        if self.network is None:
            raise self._no_network(wanted_by)
        return self.network

    def keep(self, name: str, dtype: torch.dtype | None = None) -> None:
        """Keep a frozen copy of the current weights with the name ``name``, unless it exists.

        Warns if weights that have been trained are kept as ``initial``.

        Raises:
            ConfigError: The policy has no network.
        """
        network = self.need_network(f"a frozen copy ({name})")
        self._wanted_copies.add(name)
        if name == "initial" and self.version and name not in network.copies and not network.has_adapter:
            warnings.warn(
                f"The initial weights are needed, but not in the checkpoint: the weights of optimizer step "
                f"{self.version} take their place. For those of the start, start a new run, or resume from a "
                "checkpoint of a run that has needed them from the start.",
                stacklevel=2,
            )
        network.keep(name, dtype)

    def keep_all(self, copies: Copies) -> None:
        """:meth:`keep` for each of them."""
        for name, dtype in copies.items():
            self.keep(name, dtype)

    def drop_unwanted_copies(self) -> list[str]:
        """Free the frozen copies that a checkpoint has brought and :meth:`keep` was not called for; their names.

        They would become older without being used, and would be taken for those of a part that is added later.
        """
        names = [] if self.network is None else sorted(self.network.copies.keys() - self._wanted_copies)
        for name in names:
            self.need_network("a frozen copy").drop(name)
        return names

    def copies_state(self) -> CopiesState:
        """State of all frozen copies by name, for checkpoints; empty where there are none."""
        return {} if self.network is None else self.network.copies_state()

    def load_copies(self, state: Mapping[str, Mapping[str, Tensor]], add: bool = True) -> None:
        """Restore :meth:`copies_state`.

        Args:
            state: Of this policy, or of its checkpoint.
            add: Whether copies are made that do not exist.

        Raises:
            ConfigError: There are copies, and the policy has no network to hold them.
        """
        if state:
            network = self.need_network("the frozen copies of a checkpoint")
            network.load_copies({name: state[name] for name in state if add or name in network.copies})

    def _no_network(self, wanted_by: str) -> ConfigError:
        return ConfigError(
            f"{wanted_by}: this needs the network of a loaded HuggingFacePolicy, and {type(self).__name__} has none. "
            "Take such a policy, or a setting that does without."
        )

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Evaluation mode without gradients; the previous mode is restored afterwards, also after an error.

        Under autocast, trained weights are cast once for the whole context, not at every use.
        """
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), _weights_cast_once(next(self.parameters(), torch.empty(0)).device.type):
                yield
        finally:
            self.train(was_training)


@contextmanager
def _weights_cast_once(device: str) -> Iterator[None]:
    """Keep what autocast makes of float32 weights; Lightning switches that off, since gradients must reach the weights.

    Autocast keeps only casts of weights that require a gradient: frozen ones are cast at every use.
    """
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        yield
        return
    try:
        with torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()  # half of the memory of the weights

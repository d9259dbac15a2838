"""A policy with any Hugging Face causal language model, pretrained or from scratch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hero_pl.chat.actions import ActionParser, ToolCall
from hero_pl.chat.probes import tell
from hero_pl.chat.reasoning import ReasoningMode
from hero_pl.chat.template import ChatTemplate
from hero_pl.chat.traits import TOOL
from hero_pl.errors import ConfigError, PolicyError, check_choice
from hero_pl.losses.scores import Scores
from hero_pl.policy import gguf
from hero_pl.policy.base import Policy
from hero_pl.policy.check.settle import Findings, examine
from hero_pl.policy.fingerprint import fingerprint
from hero_pl.policy.generation import declared_end_ids, generation_settings
from hero_pl.policy.loading import (
    PACKAGED,
    Lora,
    load_config,
    load_model,
    load_tokenizer,
    positions_of,
    resolve,
    weights_error,
    with_adapter,
    without_dropout,
)
from hero_pl.policy.network import Network
from hero_pl.policy.sampler import CachedSampler
from hero_pl.policy.sampling import Sampler, Sampling
from hero_pl.types import HintPosition, ScoreRow


class HuggingFacePolicy(Policy):
    """Any causal language model of ``transformers``, with or without a LoRA adapter.

    Args:
        pretrained: Folder, hub id, a GGUF file (its weights are unpacked to ``dtype``; needs the extra ``gguf``), or
            ``hero_pl:NAME`` for a checkpoint that ships with the package.
        config: For a model from scratch instead: ``{"model_type": "qwen3", "hidden_size": 128, ...}``. The vocabulary
            size is taken from the tokenizer.
        tokenizer: Folder or hub id, if it is not ``pretrained``.
        parser: Parser of actions.
        sampler: Samples tokens; default: in this process.
        hint_position: See :class:`~hero_pl.chat.template.ChatTemplate`.
        template_args: Values of the chat template's variables, for example ``enable_thinking: false`` or
            ``date_string: 26 Jul 2024``; ``today: 2024-07-26`` sets the current date.
        reasoning: Earlier reasoning in later prompts: ``keep`` all that was sampled; ``strip`` it where the chat
            template does; or ``refuse`` models that reason.
        dtype: Data type of the weights: ``float32``, ``bfloat16`` or ``float16``.
        attention: Attention implementation of transformers (``sdpa``, ``eager``, ``flash_attention_2``).
        lora: Train a LoRA adapter; the model's own weights do not change.
        max_length: Context length in tokens; default: from the model's configuration.
        gradient_checkpointing: Recompute activations in the backward pass.
        logits_at_once: Number of tokens whose logits are in memory at the same time in a loss; 0 for all of a
            micro-batch, ``auto`` depends on vocabulary and device. For models whose logits are not a plain projection
            (a soft cap, a scale, a bias), ``auto`` computes all at once, and a number is refused.
        seed: Seed of the initial weights, for a model from scratch.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        parser: ActionParser | None = None,
        sampler: Sampler | None = None,
        hint_position: HintPosition = "before_action",
        template_args: dict[str, Any] | None = None,
        reasoning: ReasoningMode = "keep",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: str = "sdpa",
        lora: Lora | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        logits_at_once: int | Literal["auto"] = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (pretrained is None) == (config is None):
            raise ConfigError(
                f"HuggingFacePolicy(pretrained={pretrained!r}, config={'given' if config else None}): give exactly one "
                "of them: pretrained to load weights, config to start from random ones."
            )
        check_choice("HuggingFacePolicy", "hint_position", hint_position, get_args(HintPosition))
        check_choice("HuggingFacePolicy", "reasoning", reasoning, get_args(ReasoningMode))
        check_choice("HuggingFacePolicy", "dtype", dtype, ("float32", "bfloat16", "float16"))
        if config is not None and tokenizer is None:
            raise ConfigError("HuggingFacePolicy(config=...) needs tokenizer=: a folder or hub id with a tokenizer.")
        if config is not None and "model_type" not in config:
            raise ConfigError('HuggingFacePolicy(config=...) needs "model_type", for example qwen3.')
        if config is not None:
            load_config(None, config, 1)  # only checked
        if max_length is not None and max_length < 16:
            raise ConfigError(f"max_length={max_length}: no conversation fits into fewer than 16 tokens.")
        self.pretrained, self._given = resolve(pretrained), pretrained
        self.config, self.tokenizer_source = config, resolve(tokenizer) or self.pretrained
        self.parser = parser or ToolCall()
        self.sampler = sampler or CachedSampler()
        self.hint_position, self.dtype, self.attention = hint_position, dtype, attention
        self.template_args, self.reasoning = dict(template_args or {}), reasoning
        self.lora, self.seed = lora, seed
        if logits_at_once != "auto" and logits_at_once < 0:
            raise ConfigError(f"logits_at_once={logits_at_once}: expected auto, a number of tokens, or 0 for all.")
        self.gradient_checkpointing, self.logits_at_once = gradient_checkpointing, logits_at_once
        self.configured_length = max_length
        self.origin = ""
        """Fingerprint of the weights that :meth:`load` gave, without an adapter."""
        self.dropout: dict[str, float] = {}
        """What the model's configuration had of dropout and noise; all of it is switched off."""
        self.findings: Findings | None = None
        """What a small copy of the architecture showed."""

    @property
    def foreign(self) -> bool:
        """See :attr:`Policy.foreign`; random weights and those of the package do not."""
        return self._given is not None and not self._given.startswith(PACKAGED)

    def context_length(self) -> int:
        """Context length in tokens, also before :meth:`load`."""
        positions = positions_of(load_config(self.pretrained, self.config, 1))
        return min(self.configured_length or positions, positions)

    def load(self) -> None:
        """Read the tokenizer and configuration, check that they fit, then read or make the weights.

        Raises:
            PolicyError: Something is missing or does not fit; the message names the file and the cure.
        """
        if self.network is not None:
            return
        tokenizer = load_tokenizer(self.tokenizer_source or "")
        config = load_config(self.pretrained, self.config, len(tokenizer))
        ends = declared_end_ids(config, self.pretrained)
        self.dropout = without_dropout(config)
        with_tools = bool(self.parser.describe("", [TOOL])[1])
        self.template = ChatTemplate(
            tokenizer, self.hint_position, self.template_args, ends, self.reasoning, with_tools=with_tools
        )
        self.parser = self.parser.fitted(self.template)
        tell(self.template, self.parser)
        positions = positions_of(config)
        self.max_length = min(self.configured_length or positions, positions)
        self.findings = examine(config, self.attention)
        self.findings.refuse()
        model: Any = load_model(self.pretrained, config, getattr(torch, self.dtype), self.attention, self.seed)
        self.origin = fingerprint(model.state_dict())
        if self.lora is not None:
            model = with_adapter(model, self.lora)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if self.lora is not None:
                model.enable_input_require_grads()
        at_once = None if self.logits_at_once == "auto" else self.logits_at_once
        self.network = Network(model, self.lora is not None, self.origin, at_once)
        self.findings.settle(self.network)
        with self.sampling():
            self.network.check_projection()
        if at_once and self.network.device.type != "meta":  # without weights it is not known
            self.network.check_plain_head()

    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """See :meth:`Policy.score`; rows are padded on the right, and only action positions reach the output layer."""
        network = self.need_network("scoring")
        return network.read_rows(network.logits_at, rows, weights)

    def scores(self, rows: Sequence[ScoreRow], weights: str = "live") -> Scores:
        """See :meth:`Policy.scores`."""
        network = self.need_network("scoring")
        if network.plain_head:
            return network.projected(self.hidden(rows, weights), weights)
        return Scores(self.score(rows, weights))

    def hidden(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """See :meth:`Policy.hidden`."""
        network = self.need_network("hidden states")
        network.check_plain_head()
        return network.read_rows(network.hidden_at, rows, weights)

    def save_pretrained(self, folder: Path, merge: bool = False, sampling: Sampling | None = None) -> None:
        """Write model (or adapter), tokenizer, chat template and generation settings for transformers, vLLM, lm-eval.

        With sharded weights all processes call this, and the first one writes.

        Args:
            folder: Created if it does not exist.
            merge: Add an adapter to the weights and write the whole model. This is always done, with a warning, where
                nobody could load the adapter: there is no base model in a file, or it is a GGUF file.
            sampling: Sampling settings for ``generation_config.json``, which also has the end-of-turn ids.

        Raises:
            PolicyError: The folder holds a whole model where an adapter would be written, or the reverse: both would
                be loaded. Or it cannot be written.
        """
        alone = self.pretrained is not None and not gguf.is_gguf(self.pretrained)
        merged = self.lora is not None and (merge or not alone)
        network = self.need_network("saving").plain()
        if network is None:
            return
        other = "config.json" if self.lora is not None and not merged else "adapter_config.json"
        if (folder / other).exists():
            raise PolicyError(f"{folder} has a {other} of other weights, which would be loaded, too. Name a new one.")
        if merged and not merge:
            why = "a GGUF file takes no adapter" if self.pretrained else "random weights are no base model to load"
            warnings.warn(f"The adapter is merged into the weights of {folder}: {why}.", stacklevel=2)
        model = copy.deepcopy(network).merge_and_unload() if merged else network
        try:
            folder.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(folder)
            self.template.tokenizer.save_pretrained(folder)
            generation_settings(self.template, sampling).save_pretrained(folder)
        except (OSError, weights_error()) as error:
            raise PolicyError(
                f"Saving to {folder} failed: {error}. Free some space or choose another folder."
            ) from error

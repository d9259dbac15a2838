"""A policy made of any Hugging Face causal language model, pretrained or from scratch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hero_pl.chat.actions import ActionParser, ToolCall
from hero_pl.chat.template import ChatTemplate
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.base import Policy, Sampler, ScoreRow
from hero_pl.policy.sampler import CachedSampler
from hero_pl.types import HintPosition

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = "hero_pl:"
"""Prefix of checkpoints that ship with the package, for example ``hero_pl:pocket-shop``."""


@dataclass
class Lora:
    """Low-rank adapter settings (needs the extra ``lora``).

    Args:
        rank: Rank of the factors.
        alpha: Scale; the adapter's output is multiplied by ``alpha / rank``.
        dropout: Of the adapter's input; 0 keeps student and teacher comparable.
        target_modules: ``all-linear`` or names of modules.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"


class HuggingFacePolicy(Policy):
    """Any causal language model of ``transformers``, with or without a LoRA adapter.

    Args:
        pretrained: Folder, hub id, or ``hero_pl:NAME`` for a checkpoint that ships with the package.
        config: For a model from scratch instead: ``{"model_type": "qwen3", "hidden_size": 128, ...}``. The vocabulary
            size is taken from the tokenizer.
        tokenizer: Folder or hub id, when it is not ``pretrained``.
        parser: Dialect of actions.
        sampler: How tokens are drawn.
        hint_position: See :class:`~hero_pl.chat.template.ChatTemplate`.
        dtype: Of the weights: ``float32``, ``bfloat16`` or ``float16``.
        attention: Attention implementation of transformers (``sdpa``, ``eager``, ``flash_attention_2``).
        lora: Train an adapter and leave the model's own weights alone.
        max_length: Context length in tokens; default: what the model's configuration says.
        gradient_checkpointing: Recompute activations in the backward pass.
        seed: Of the initial weights, for a model from scratch.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        parser: ActionParser | None = None,
        sampler: Sampler | None = None,
        hint_position: HintPosition = "before_action",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: str = "sdpa",
        lora: Lora | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (pretrained is None) == (config is None):
            raise ConfigError(
                f"HuggingFacePolicy(pretrained={pretrained!r}, config={'given' if config else None}): give exactly one "
                "of them: pretrained to load weights, config to start from random ones."
            )
        if config is not None and tokenizer is None:
            raise ConfigError("HuggingFacePolicy(config=...) needs tokenizer=: a folder or hub id with a tokenizer.")
        if config is not None and "model_type" not in config:
            raise ConfigError('HuggingFacePolicy(config=...) needs "model_type", for example qwen3.')
        if max_length is not None and max_length < 16:
            raise ConfigError(f"max_length={max_length}: no conversation fits into fewer than 16 tokens.")
        self.pretrained = _resolve(pretrained)
        self.config, self.tokenizer_source = config, _resolve(tokenizer) or self.pretrained
        self.parser = parser or ToolCall()
        self.sampler = sampler or CachedSampler()
        self.hint_position, self.dtype, self.attention = hint_position, dtype, attention
        self.lora, self.seed = lora, seed
        self.gradient_checkpointing = gradient_checkpointing
        self._max_length = max_length
        self.model: Any = None
        self._hidden = False
        """Whether :meth:`score` leaves out the output projection."""
        self.copies: dict[str, nn.Module] = {}
        """Frozen copies by name; not part of ``parameters()`` or ``state_dict()``."""

    # -- loading -----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the tokenizer and configuration, check that they fit, then read or make the weights.

        Raises:
            PolicyError: Something is missing or does not fit; the message names the file and the cure.
        """
        if self.model is not None:
            return
        tokenizer = _load_tokenizer(self.tokenizer_source or "")
        self.template = ChatTemplate(tokenizer, self.hint_position)
        config = self._load_config(len(tokenizer))
        if getattr(config, "vocab_size", len(tokenizer)) < len(tokenizer):
            raise PolicyError(
                f"The tokenizer {self.tokenizer_source!r} has {len(tokenizer)} ids, the model "
                f"{self.pretrained!r} only {config.vocab_size}. They do not belong together: give the tokenizer that "
                "was saved with the model, or resize the model's embeddings and save it again."
            )
        positions = int(getattr(config, "max_position_embeddings", 0) or 1 << 20)
        self.max_length = min(self._max_length or positions, positions)
        self.model = self._load_model(config)
        _without_dropout(self.model)
        if self.lora is not None:
            self.model = _with_adapter(self.model, self.lora)
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            if self.lora is not None:
                self.model.enable_input_require_grads()
        self._head_is_plain = self._check_head()

    def _load_config(self, vocabulary: int) -> PretrainedConfig:
        from transformers import AutoConfig

        if self.config is not None:
            values = {"vocab_size": vocabulary, **self.config}
            try:
                return AutoConfig.for_model(**values)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"HuggingFacePolicy(config={self.config}): {error}") from error
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(str(self.pretrained))
            return config
        except (OSError, ValueError) as error:
            raise PolicyError(
                f"No model configuration can be read from {self.pretrained!r}: {_first_line(error)} "
                "Give a folder with config.json, or a hub id that this machine can reach."
            ) from error

    def _load_model(self, config: PretrainedConfig) -> PreTrainedModel:
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, self.dtype)
        if self.config is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                    config, attn_implementation=self.attention
                )
            return model.to(dtype)  # type: ignore[no-any-return]
        try:
            return AutoModelForCausalLM.from_pretrained(
                str(self.pretrained), dtype=dtype, attn_implementation=self.attention
            )
        except (OSError, ValueError, RuntimeError, json.JSONDecodeError, _SafetensorError()) as error:
            raise PolicyError(
                f"The weights of {self.pretrained!r} cannot be read: {_first_line(error)} The folder needs config.json "
                "and model.safetensors of the same model; download or export it again."
            ) from error

    def _check_head(self) -> bool:
        """Whether logits are just the output projection of the last hidden states (no cap, no scale)."""
        if self.device.type == "meta":
            return False
        with self.sampling():
            ids = torch.arange(4, device=self.device)[None] % int(self.model.config.vocab_size)
            want = self.model(input_ids=ids, use_cache=False).logits
            got = self._head()(self._trunk(self.model, input_ids=ids))
        return bool(torch.equal(want, got))

    # -- running -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def run(self, weights: str, **inputs: Any) -> Any:
        """One forward pass of the named weights (``live``, or a frozen copy)."""
        with self.using(weights) as model:
            return model(**inputs)

    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """See :meth:`Policy.score`; rows are padded on the right, and only action positions reach the output layer."""
        length = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        row_index: list[int] = []
        position: list[int] = []
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            mask[i, : len(row.ids)] = 1
            row_index += [i] * row.scored
            position += row.read
        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device), "use_cache": False}
        with self.using(weights) as model:
            return self.logits_at(model, row_index, position, **inputs)

    def logits_at(self, model: Any, row: Sequence[int], position: Sequence[int], **inputs: Any) -> Tensor:
        """Logits ``(len(row), vocab)`` of one forward pass at ``(row, position)`` pairs; only they are projected."""
        if self._head_is_plain:
            hidden = self._trunk(model, **inputs)[row, position]
            return hidden if self._hidden else self._head(model)(hidden)
        return model(**inputs).logits[row, position]  # type: ignore[no-any-return]

    @contextmanager
    def unprojected(self) -> Iterator[None]:
        """Inside, :meth:`score` returns last hidden states ``(n, width)`` instead of logits.

        Raises:
            PolicyError: Logits are not ``hidden @ head_weight().T``: the head has a bias, an adapter, a cap or a scale.
        """
        head = self._head()
        if not self._head_is_plain or type(head) is not nn.Linear or head.bias is not None:
            raise PolicyError(
                f"The logits of {self.pretrained or 'this model'!r} are no plain projection of its hidden states: they "
                "cannot be made in parts. Set model.objective.init_args.logits_at_once to 0."
            )
        self._hidden = True
        try:
            yield
        finally:
            self._hidden = False

    def head_weight(self, weights: str = "live") -> Tensor:
        """Output projection ``(vocab, width)`` of the named weights."""
        with self.using(weights) as model:
            return self._head(model).weight  # type: ignore[return-value]

    def _trunk(self, model: Any, **inputs: Any) -> Tensor:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        return base.base_model(**inputs).last_hidden_state  # type: ignore[no-any-return]

    def _head(self, model: Any = None) -> nn.Module:
        return (model or self.model).get_output_embeddings()  # type: ignore[no-any-return]

    @contextmanager
    def using(self, weights: str) -> Iterator[Any]:
        """The network with the named weights: ``live``, or a frozen copy."""
        if weights == "live":
            yield self.model
        elif weights in self.copies:
            with torch.no_grad():
                yield self.copies[weights]
        elif weights == "initial" and self.lora is not None:
            with torch.no_grad(), self.model.disable_adapter():  # comes back on, also after an error
                yield self.model
        else:
            raise ConfigError(f"No weights named {weights!r}: there are {['live', *self.copies]}.")

    # -- frozen copies -----------------------------------------------------------------------------------------

    def keep(self, name: str, dtype: torch.dtype | None = None) -> None:
        """Keep a frozen copy of the present weights under ``name``, unless there is one already.

        With LoRA, ``initial`` costs nothing: it is the model with the adapter switched off.
        """
        if name in self.copies or (name == "initial" and self.lora is not None):
            return
        model = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.copies[name] = model.to(dtype) if dtype else model

    def copies_state(self) -> dict[str, dict[str, Tensor]]:
        """State of all frozen copies, for checkpoints."""
        return {name: model.state_dict() for name, model in self.copies.items()}

    def load_copies(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore the frozen copies of a checkpoint."""
        for name, weights in state.items():
            self.keep(name, next((w.dtype for w in weights.values() if w.is_floating_point()), None))
            self.copies[name].load_state_dict(dict(weights))

    def save_pretrained(self, folder: Path, merge: bool = False) -> None:
        """Write model (or adapter), tokenizer and chat template for transformers, vLLM and lm-eval.

        Args:
            folder: Made if it is missing.
            merge: Add an adapter to the weights and write the whole model.
        """
        folder.mkdir(parents=True, exist_ok=True)
        merged = merge and self.lora is not None
        model = copy.deepcopy(self.model).merge_and_unload() if merged else self.model
        try:
            model.save_pretrained(folder)
            self.template.tokenizer.save_pretrained(folder)
        except OSError as error:
            raise PolicyError(f"Saving to {folder} failed: {error}. Free some space or name another folder.") from error


def _resolve(name: str | None) -> str | None:
    """Folder of a packaged checkpoint; other names are returned as they are."""
    if name is None or not name.startswith(PACKAGED):
        return name
    root = Path(__file__).parent.parent / "pocket" / "checkpoints"
    folder = root / name.removeprefix(PACKAGED)
    if folder.parent != root or not folder.is_dir():
        known = sorted(PACKAGED + path.name for path in root.glob("*") if path.is_dir())
        raise ConfigError(f"No packaged checkpoint {name!r}. There are: {', '.join(known) or 'none'}.")
    return str(folder)


def _load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    path = Path(source)
    if path.is_dir() and not any(
        (path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise PolicyError(
            f"The folder {source!r} has no tokenizer (tokenizer.json). Save one there with "
            "tokenizer.save_pretrained(folder), or name another with tokenizer=."
        )
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"No tokenizer can be read from {source!r}: {_first_line(error)} Give a folder that holds one, or a hub id "
            "that this machine can reach."
        ) from error


def _with_adapter(model: Any, lora: Lora) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("lora= needs the package peft: pip install 'hero_pl[lora]'.") from error
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        ),
    )


def _without_dropout(model: nn.Module) -> None:
    """Student and teacher must not differ by chance: all dropout is off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def _SafetensorError() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

"""Load or create the parts of a policy: tokenizer, configuration, weights, adapter."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy import gguf
from hero_pl.runs.folders import must_exist

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGED = "hero_pl:"
"""Prefix of checkpoints that ship with the package, for example ``hero_pl:pocket-shop``."""

LOCAL = ("models", "runs", "checkpoints")
"""First parts of names that are folders of this machine; no hub id begins like this."""
TARGETS = "model.policy.init_args.lora.target_modules"
GET_SMOLLM2 = "SmolLM2-135M-Instruct is downloaded with: python benchmarks/get_smollm2.py models/smollm2"

_CHANCE = re.compile("drop|jitter")
"""Part of the names of all settings that make a forward pass random."""

_DAMAGED = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError)
"""Errors of transformers and its libraries for damaged or wrong files."""
_ATTENTION = "attention implementation"
"""Part of the message of transformers if an architecture does not have the requested kernel."""


@dataclass
class Lora:
    """Low-rank adapter settings (needs the extra ``lora``).

    Args:
        rank: Rank of the factors.
        alpha: Scale; the adapter's output is multiplied by ``alpha / rank``.
        target_modules: ``all-linear`` or names of modules.
    """

    rank: int = 32
    alpha: int = 64
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise ConfigError(f"lora={{rank: {self.rank}, alpha: {self.alpha}}}: expected at least 1 for both.")
        if find_spec("peft") is None:
            raise ConfigError("lora needs the package peft: pip install 'hero_pl[lora]'.")


def resolve(name: str | None) -> str | None:
    """Folder of a packaged checkpoint; other names are returned as they are.

    Raises:
        ConfigError: There is no such packaged checkpoint; the name is a path and no such folder or file exists; or it
            is a GGUF file and the package ``gguf`` is missing.
    """
    if name is None:
        return None
    if gguf.is_gguf(name):
        must_exist(Path(name), "file", "Name a GGUF file, a folder with a model, or a hub id.")
        gguf.source(name)
        return name
    if not name.startswith(PACKAGED):
        if (name.count("/") != 1 and "/" in name) or name.startswith((".", "~")) or "\\" in name or name.endswith("/"):
            must_exist(Path(name), "folder", "Name a folder with a model, a hub id, or a checkpoint that is packaged.")
        return name
    root = Path(__file__).parent.parent / "pocket" / "checkpoints"
    folder = root / name.removeprefix(PACKAGED)
    if folder.parent != root or not folder.is_dir():
        known = sorted(PACKAGED + path.name for path in root.glob("*") if path.is_dir())
        raise ConfigError(f"No packaged checkpoint {name!r}. There are: {', '.join(known) or 'none'}.")
    return str(folder)


def _missing(name: str) -> str:
    """Beginning of a message about a name that is no folder here; empty if it is one.

    Raises:
        ConfigError: It cannot be a hub id either, so that no network has to be asked.
    """
    path = Path(name)
    if path.exists():
        return ""
    cure = f"{GET_SMOLLM2}." if "smollm2" in name.lower() else "Name a folder with a model, or a hub id."
    if "/" in name and path.parts[0] in LOCAL:
        must_exist(path, "folder", cure)
    return f"There is no folder {name} here, so it was taken for a hub id. "


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a hub id or a GGUF file.

    Raises:
        ConfigError: There is no such folder, or it is a GGUF file and the package ``gguf`` is missing.
        PolicyError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    path, missing = Path(source), _missing(source)
    if path.is_dir() and not any(
        (path / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise PolicyError(
            f"The folder {source!r} has no tokenizer (tokenizer.json). Save one there with "
            "tokenizer.save_pretrained(folder), or name another with tokenizer=."
        )
    place, file = gguf.source(source)
    try:
        return AutoTokenizer.from_pretrained(place, **file)
    except (*_DAMAGED, *gguf.UNREADABLE) as error:
        raise PolicyError(
            f"{missing}No tokenizer can be read from {source!r}: {_first_line(error)} Give a folder that holds one, "
            "a hub id that this machine can reach, or a whole GGUF file."
        ) from error


def load_config(pretrained: str | None, config: dict[str, Any] | None, vocabulary: int) -> PretrainedConfig:
    """The configuration of a checkpoint, or of a model from scratch.

    Args:
        pretrained: Folder, hub id or GGUF file.
        config: Configuration of a model from scratch, instead of ``pretrained``.
        vocabulary: Number of ids of the tokenizer; a model from scratch gets as many.

    Raises:
        ConfigError: ``config`` does not describe a model, or there is no such folder.
        PolicyError: The checkpoint has none that can be read, or one for fewer ids than the tokenizer has.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    if config is not None:
        try:
            if config.get("model_type") not in CONFIG_MAPPING:
                near = difflib.get_close_matches(str(config.get("model_type")), CONFIG_MAPPING, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"transformers has no model_type {config.get('model_type')!r}.{hint}")
            found = AutoConfig.for_model(**{"vocab_size": vocabulary, **config})
            known = set(vars(AutoConfig.for_model(found.model_type))) | set(found.attribute_map)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise ConfigError(f"HuggingFacePolicy(config={config}): {' '.join(str(error).split())}") from error
        for key in config.keys() - known:  # transformers takes any
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
            if near:
                raise ConfigError(f"HuggingFacePolicy(config={{{key}: ...}}): did you mean {near[0]!r}?")
    else:
        missing = _missing(str(pretrained))
        place, file = gguf.source(str(pretrained))
        try:
            found = AutoConfig.from_pretrained(place, **file)
        except (*_DAMAGED, StrictDataclassError) as error:
            raise PolicyError(
                f"{missing}No model configuration can be read from {pretrained!r}: {_first_line(error)} "
                "Give a folder with config.json, or a hub id that this machine can reach."
            ) from error
    rows = int(getattr(found.get_text_config(), "vocab_size", vocabulary))
    if rows < vocabulary:
        raise PolicyError(
            f"The tokenizer has {vocabulary} ids, the model {pretrained!r} only {rows}. They do not belong "
            "together: give the tokenizer that was saved with the model, or resize the model's embeddings and save it "
            "again."
        )
    return found


def positions_of(config: PretrainedConfig) -> int:
    """Context length of a model in tokens; a very large number if its configuration has no limit."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((int(there) for name in names if (there := getattr(text, name, None))), 1 << 20)


def load_model(
    pretrained: str | None, config: PretrainedConfig, dtype: torch.dtype, attention: str, seed: int
) -> PreTrainedModel:
    """The model of a checkpoint, or with random weights if there is no checkpoint.

    Args:
        pretrained: Folder, hub id or GGUF file, or ``None``.
        config: Configuration of the model.
        dtype: Data type of the weights.
        attention: Attention implementation of transformers.
        seed: Seed of random weights; the random state of the caller does not change.

    Raises:
        PolicyError: The weights cannot be read, or the architecture has no such attention.
    """
    from transformers import AutoModelForCausalLM

    if pretrained is None:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                    config, attn_implementation=attention
                )
        except (ValueError, ImportError) as error:
            raise _no_model(config, attention, error) from error
        return model.to(dtype)  # type: ignore[no-any-return]
    place, file = gguf.source(pretrained)
    settings = gguf.unpacked() if file else {}
    try:
        read = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=dtype, attn_implementation=attention, **file, **settings
        )
        return gguf.plain(read, attention) if file else read
    except (*_DAMAGED, *gguf.UNREADABLE, weights_error()) as error:
        if _ATTENTION in str(error):
            raise _no_model(config, attention, error) from error
        raise PolicyError(
            f"The weights of {pretrained!r} cannot be read: {_first_line(error)} The folder needs config.json and "
            "model.safetensors of the same model (or give one whole GGUF file); download or export it again."
        ) from error


def _no_model(config: PretrainedConfig, attention: str, error: Exception) -> PolicyError:
    cure = "Set attention: eager." if _ATTENTION in str(error) else "Name a causal language model."
    reason = _first_line(error).partition(". ")[0]
    return PolicyError(f"No {config.model_type} model can be made with attention: {attention}: {reason}. {cure}")


def with_adapter(model: Any, lora: Lora) -> Any:
    """The model with a new adapter; only the adapter is trained.

    Raises:
        ConfigError: The model does not have one of the modules, or peft has no adapter for it.
    """
    from peft import LoraConfig, get_peft_model

    _check_targets(model, lora.target_modules)
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM")
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"{TARGETS}={lora.target_modules}: {_first_line(error)} {_linear_names(model)}") from error


def _check_targets(model: Any, targets: str | list[str]) -> None:
    """Refuse a name that no module has; peft leaves it out if another one is found."""
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    try:
        pattern = re.compile(targets if isinstance(targets, str) else "")
    except re.error as error:
        raise ConfigError(f"{TARGETS}={targets!r} is no pattern: {error}. {_linear_names(model)}") from error
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):  # a pattern of the whole name, as in peft
            found = any(pattern.fullmatch(name) for name in names)
        else:
            found = any(name == target or name.endswith(f".{target}") for name in names)
        if not found:
            near = difflib.get_close_matches(target, {name.rpartition(".")[2] for name in names}, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"{TARGETS}: the model has no module {target!r}. {hint}{_linear_names(model)}")


def _linear_names(model: Any) -> str:
    """The names that an adapter can be added to."""
    kinds = ("Linear", "Conv1D")
    linear = {name.rpartition(".")[2] for name, one in model.named_modules() if type(one).__name__ in kinds}
    return f"Set all-linear, or a list of: {', '.join(sorted(linear - {'lm_head'}))}."


def without_dropout(config: PretrainedConfig) -> dict[str, float]:
    """Set all dropout and jitter of a configuration to 0, because student and teacher must not differ at random.

    A model reads these settings when it is created or in every pass (functional dropout, skipped layers, router noise).

    Returns:
        The former values by their names in the configuration.
    """
    off: dict[str, float] = {}
    for name, value in vars(config).items():
        if hasattr(value, "model_type") and hasattr(value, "to_dict"):
            off |= without_dropout(value)
        elif _CHANCE.search(name) and isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            off[name] = float(value)
    for name in off.keys() & vars(config).keys():
        setattr(config, name, 0.0)
    return off


def weights_error() -> type[Exception]:
    """What safetensors raises if a file cannot be read or written; it is no OSError."""
    from safetensors import SafetensorError

    return SafetensorError


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

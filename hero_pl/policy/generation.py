"""Generation settings of a model: the ids that end a reply, and the settings to save with a trained policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hero_pl.policy.gguf import is_gguf
from hero_pl.policy.sampling import Sampling

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig

    from hero_pl.chat.template import ChatTemplate


def declared_end_ids(config: PretrainedConfig, pretrained: str | None) -> frozenset[int]:
    """End-of-turn ids in a model configuration and in its ``generation_config.json``; a GGUF file has no such file.

    Args:
        config: Configuration of the model.
        pretrained: Folder, hub id or GGUF file; ``None`` for a model from scratch, which has no such ids.
    """
    if pretrained is None:
        return frozenset()
    from transformers import GenerationConfig

    try:
        generation: Any = None if is_gguf(pretrained) else GenerationConfig.from_pretrained(pretrained)
    except (OSError, ValueError):
        generation = None  # most folders of trained policies contain none
    found: set[Any] = set()
    for settings in (config, generation):
        ids = getattr(settings, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, (list, tuple)) else {ids}
    return frozenset(int(i) for i in found if i is not None)


def generation_settings(template: ChatTemplate, sampling: Sampling | None = None) -> GenerationConfig:
    """Settings for ``generate`` of transformers that sample an action as in a rollout.

    Args:
        template: Chat template of the policy; its end-of-turn ids end a reply.
        sampling: Temperature and token limit; default: those of ``generate``.
    """
    from transformers import GenerationConfig

    ends = sorted(template.end_ids)
    padding = getattr(template.tokenizer, "pad_token_id", None)
    found: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": ends[0] if padding is None else padding}
    if sampling is not None:
        found["max_new_tokens"] = sampling.max_action_tokens
        found["do_sample"] = sampling.temperature > 0.0
        if found["do_sample"]:  # no filter: by default, generate of transformers keeps only the 50 most likely ids
            found |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    settings: GenerationConfig = GenerationConfig(**found)  # type: ignore[no-untyped-call]
    return settings

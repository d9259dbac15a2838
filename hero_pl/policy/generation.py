"""What a model's own settings say about the end of a reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hero_pl.policy.gguf import is_gguf

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def declared_end_ids(config: PretrainedConfig, pretrained: str | None) -> frozenset[int]:
    """End-of-turn ids of a model configuration and of the ``generation_config.json`` beside it; GGUF has none.

    Args:
        config: Of the model.
        pretrained: Folder, hub id or GGUF file; ``None`` for a model from scratch, whose configuration declares
            nothing.
    """
    if pretrained is None:
        return frozenset()
    from transformers import GenerationConfig

    try:
        generation: Any = None if is_gguf(pretrained) else GenerationConfig.from_pretrained(pretrained)
    except (OSError, ValueError):
        generation = None  # most folders of trained policies hold none
    found: set[Any] = set()
    for settings in (config, generation):
        ids = getattr(settings, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, (list, tuple)) else {ids}
    return frozenset(int(i) for i in found if i is not None)

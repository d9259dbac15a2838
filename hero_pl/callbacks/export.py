"""Write the policy as a Hugging Face folder at the end of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.chat.probes import written_date
from hero_pl.export.model_card import Exported, write_model_card
from hero_pl.export.settings import method
from hero_pl.export.target import check_target, remove_earlier


class Export(lightning.Callback):
    """Saves the model (or adapter) with its model card, for transformers, vLLM and lm-eval; see ``hero_pl export``.

    Args:
        folder: Output folder; default: ``huggingface`` in the run folder. New, or with an earlier export of a run,
            whose weights are removed first.
        enabled: Whether to write at the end of training.
        merge: Write a full model with the adapter (``lora``) merged into its weights, to start another run from.
    """

    def __init__(self, folder: str | None = None, enabled: bool = False, merge: bool = False) -> None:
        self.folder, self.enabled, self.merge = folder, enabled, merge

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Refuse a folder that cannot be used, before weights are read."""
        if not self.enabled or stage != "fit":
            return
        target = self._target(trainer)
        if target is not None:
            check_target(target, run_folder(trainer))

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save once, on the first process; the others contribute their part of sharded weights."""
        root, target = run_folder(trainer), self._target(trainer)
        policy = module.policy
        parted = policy.network is not None and policy.network.sharding is not None
        if not self.enabled or target is None or not (trainer.is_global_zero or parted):
            return
        if trainer.is_global_zero:
            remove_earlier(target, root)  # of this run before it was resumed, for example
        policy.save_pretrained(target, self.merge, trainer.datamodule.eval_sampling)  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        adapter = (target / "adapter_config.json").exists()
        named, day = method(module.objective), written_date(policy.template)
        write_model_card(target, root, Exported(int(module.turns), adapter, policy.parser, named, date=day))

    def _target(self, trainer: lightning.Trainer) -> Path | None:
        root = run_folder(trainer)
        return Path(self.folder) if self.folder else root / "huggingface" if root else None

"""Checkpoints of the collapse guard: the good one, the candidate for it, and those that a resumed run may need.

A run that is resumed from a checkpoint must roll back to the weights to which it would have rolled back without the
interruption. So the state of the guard names its files, with their checksums; a file that was replaced stays until
the run has no checkpoint from before that.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning

from hero_pl.callbacks.checkpoints import checksum, oldest_step
from hero_pl.callbacks.run_folder import run_folder

GUARD_FOLDER = "guard"
"""Name of their folder in that of the run."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint of the guard."""

    name: str
    """File name; unique within a run."""
    checksum: str


@dataclass(slots=True)
class GuardCheckpoints:
    """Files in ``guard`` of the run folder; all processes call the methods together."""

    good: Kept | None = None
    """To which a rollback returns."""
    candidate: Kept | None = None
    """The newest one; becomes the good one if no metric is beyond its limits when the next one is due."""
    replaced: dict[str, int] = field(default_factory=dict)
    """Optimizer step at which each other file was replaced."""

    def start(self, trainer: lightning.Trainer) -> None:
        """Forget files that are not those of the checkpoint, with a warning; remove those of discarded steps."""
        folder, named = _folder(trainer), [one for one in (self.good, self.candidate) if one is not None]
        lost = [one.name for one in named if checksum(folder / one.name) != one.checksum]
        lost = trainer.strategy.broadcast(lost)
        self.good, self.candidate = (
            None if one is None or one.name in lost else one for one in (self.good, self.candidate)
        )
        if not trainer.is_global_zero:
            return
        if lost:
            warnings.warn(
                f"Collapse guard: {', '.join(sorted(set(lost)))} in {folder} is missing or not the file of the run's "
                "checkpoint. It is not used: a rollback returns to weights that are saved from now on.",
                stacklevel=2,
            )
        known = {one.name for one in named} - set(lost) | self.replaced.keys()
        for path in folder.glob("*.ckpt"):
            if path.name not in known:
                path.unlink(missing_ok=True)

    def keep(self, trainer: lightning.Trainer, batch: int) -> None:
        """Save a new candidate; the former one becomes the good one. The first one is both."""
        self._remove_unneeded(trainer)
        path = _folder(trainer) / f"batch={batch}.ckpt"
        trainer.save_checkpoint(path)
        now = Kept(path.name, trainer.strategy.broadcast(checksum(path)))
        former = self.good, self.candidate
        if self.good is None or self.candidate is not None:
            self.good = self.candidate or now
        self.candidate = now
        self._note_replaced(former, trainer.global_step)

    def good_path(self, trainer: lightning.Trainer) -> Path | None:
        """Path of the good one, if every process can read it."""
        path = None if self.good is None else _folder(trainer) / self.good.name
        there = path is not None and path.is_file()
        return path if trainer.strategy.reduce_boolean_decision(there) else None

    def drop_candidate(self, step: int) -> None:
        """Forget the candidate, after a rollback."""
        former, self.candidate = (self.candidate,), None
        self._note_replaced(former, step)

    def state_dict(self) -> dict[str, Any]:
        """Names and checksums."""
        kept = {"good": self.good, "candidate": self.candidate}
        return {
            **{role: None if one is None else [one.name, one.checksum] for role, one in kept.items()},
            "replaced": dict(self.replaced),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; :meth:`start` compares it with the files."""
        self.good, self.candidate = (state[role] and Kept(*state[role]) for role in ("good", "candidate"))
        self.replaced = dict(state["replaced"])

    def _note_replaced(self, former: tuple[Kept | None, ...], step: int) -> None:
        needed = {one.name for one in (self.good, self.candidate) if one is not None}
        self.replaced |= {one.name: step for one in former if one is not None and one.name not in needed}

    def _remove_unneeded(self, trainer: lightning.Trainer) -> None:
        """Remove files that were replaced before the oldest checkpoint of the run."""
        oldest = oldest_step(_folder(trainer).parent / "checkpoints")
        needed_from = trainer.strategy.broadcast(trainer.global_step if oldest is None else oldest)
        for name in [name for name, step in self.replaced.items() if step < needed_from]:
            del self.replaced[name]
            if trainer.is_global_zero:
                (_folder(trainer) / name).unlink(missing_ok=True)


def _folder(trainer: lightning.Trainer) -> Path:
    return (run_folder(trainer) or Path(trainer.default_root_dir)) / GUARD_FOLDER

"""LightningCLI for hero_pl: defaults, forced callbacks, and errors that name the nearest component."""

from __future__ import annotations

import difflib
import inspect
import re
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import hero_pl.objectives.policy_gradient
import hero_pl.objectives.self_distillation
import hero_pl.objectives.sft
import hero_pl.pocket.demonstrations
import hero_pl.pocket.retail_demonstrations
import hero_pl.policy.scripted
import hero_pl.reflection.chat_reflector
import hero_pl.reflection.controls
import hero_pl.reflection.none
import hero_pl.reflection.scripted  # noqa: F401
from hero_pl.callbacks.export import Export
from hero_pl.callbacks.held_out import HeldOut, summarise
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.chat.actions import ActionParser
from hero_pl.checkpoints import AtomicCheckpointIO
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError, HeroError
from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.gates import Gate
from hero_pl.losses.importance import ImportanceCorrection
from hero_pl.module import HeroModule
from hero_pl.objectives.base import Objective
from hero_pl.policy.base import Policy, Sampler
from hero_pl.records import Record, append_records
from hero_pl.reflection.base import Reflector
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.teacher.base import Teacher
from hero_pl.teacher.weights import TeacherWeights

BASES = (
    Policy,
    Sampler,
    ActionParser,
    Reflector,
    Teacher,
    TeacherWeights,
    DistillationLoss,
    Gate,
    ImportanceCorrection,
    Objective,
    Demonstrations,
)


class HeroParser(LightningArgumentParser):
    """Adds the nearest known name to an error about an unknown component."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message, and a suggestion where a class name is wrong."""
        names = sorted({cls.__name__ for classes in registered().values() for cls in classes})
        for word in dict.fromkeys(re.findall(r"\b[A-Z][A-Za-z0-9]{3,}\b", message)):
            near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
            if near and word not in names:
                message += f"\nThere is no component {word!r}. Did you mean {near[0]!r}? List them: hero_pl components"
                break
        super().error(message, ex)


class HeroCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` for :class:`HeroModule` and :class:`RolloutDataModule`."""

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        import sys
        import warnings

        if args is not None:  # jsonargparse and Lightning look at sys.argv, which tests and main() bypass
            sys.argv = [sys.argv[0], *args]
            args = None
        for text in (
            "Unable to serialize instance",
            "isinstance\\(treespec",
            "does not have many workers",
            "train_dataloader. is not resumable",
            "Trying to infer the .batch_size",
        ):
            warnings.filterwarnings("ignore", message=f"(?s).*{text}")
        super().__init__(
            HeroModule,
            RolloutDataModule,
            args=args,
            run=run,
            parser_class=HeroParser,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}},
                "max_epochs": -1,
                "log_every_n_steps": 1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "plugins": [{"class_path": "hero_pl.checkpoints.AtomicCheckpointIO"}],
                "enable_model_summary": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has, each under its own key."""
        parser.add_argument(
            "--torch_threads",
            type=int,
            default=0,
            help="Threads of torch on CPU; 0 lets torch choose. Small policies are fastest with 1.",
        )
        parser.add_lightning_class_args(TurnBudget, "turn_budget")
        parser.add_lightning_class_args(HeldOut, "held_out")
        parser.add_lightning_class_args(TrajectoryLog, "trajectories")
        parser.add_lightning_class_args(Export, "export")

    def before_instantiate_classes(self) -> None:
        """Threads are set before anything computes."""
        config = self.config.get(self.subcommand) if getattr(self, "subcommand", None) else self.config
        if config is not None and config.get("torch_threads"):
            torch.set_num_threads(config["torch_threads"])


def registered() -> dict[str, list[type]]:
    """Concrete classes of every swappable base, by the base's name."""

    def below(base: Any) -> list[type]:
        found: list[type] = [cls for direct in base.__subclasses__() for cls in (direct, *below(direct))]
        return sorted(
            {c for c in found if not inspect.isabstract(c) and c.__name__[0] != "_"}, key=lambda c: c.__name__
        )

    return {base.__name__: below(base) for base in BASES}


def instantiate(args: list[str]) -> HeroCLI:
    """Module, data module and trainer of a configuration, without running anything."""
    return HeroCLI(args=args, run=False)


def of_file(config: Path) -> HeroCLI:
    """The same for a YAML file, also for the ``config.yaml`` of a run, which holds arguments of ``fit`` as well.

    Raises:
        ConfigError: There is no such file.
    """
    import yaml

    if not config.is_file():
        raise ConfigError(f"No configuration {config}. Name a YAML file, for example the config.yaml of a run.")
    values: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    plain = {key: value for key, value in values.items() if key not in ("ckpt_path", "weights_only")}
    return instantiate(["--config", yaml.safe_dump(plain)])


def play(config: Path, episodes: int, out: Path, stage: str) -> str:
    """Play a configuration's policy and write its trajectories; returns a line about them."""
    cli = of_file(config)
    cli.model.policy.load()
    played = cli.datamodule.evaluate(cli.model.policy, stage, episodes)
    append_records(out, (Record("rollout", 0, trajectory) for trajectory in played))
    result = summarise(played)
    low, high = result["success_ci"]
    return (
        f"{result['episodes']} episodes: success {result['success']:.3f} ({low:.3f} to {high:.3f}), "
        f"{result['turns']:.2f} turns, reward {result['reward']:.3f}; written to {out}"
    )


def export_checkpoint(checkpoint: Path, folder: Path, config: Path | None) -> None:
    """Load a checkpoint's weights into the policy of its configuration and save them.

    Raises:
        HeroError: The configuration or the checkpoint is missing or damaged.
    """
    found = config or next((p / "config.yaml" for p in checkpoint.parents if (p / "config.yaml").exists()), None)
    if found is None or not found.exists():
        raise HeroError(f"No config.yaml beside {checkpoint}. Name the run's configuration with --config.")
    cli = of_file(found)
    state = AtomicCheckpointIO().load_checkpoint(checkpoint, map_location="cpu")
    cli.model.policy.load()
    cli.model.load_state_dict(state["state_dict"])
    cli.model.policy.save_pretrained(folder)

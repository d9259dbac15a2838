"""LightningCLI for hero_pl: defaults, and the callbacks of every run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hero_pl.callbacks.collapse_guard import CollapseGuard
from hero_pl.callbacks.export import Export
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.hint_check import HintCheck
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.cli.components import import_components
from hero_pl.cli.machine import Machine, elsewhere
from hero_pl.cli.parser import HeroParser
from hero_pl.cli.precision import choose_precision
from hero_pl.cli.quiet import quiet
from hero_pl.cli.run import add_run_arguments, open_run, use_run_logger
from hero_pl.cli.smoke import Smoke
from hero_pl.cli.values import check_values
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError, HeroError
from hero_pl.module import HeroModule
from hero_pl.runs.folders import must_exist
from hero_pl.strategies import check_precision, check_strategy
from hero_pl.teacher.wordings import AUTO

LARGEST_SEED = 2**32 - 1
CHECKPOINTS = "The checkpoints of a run are in its folder checkpoints/."

EXAMPLES = {
    command: {"epilog": f"Example: hero_pl {command} --config hero_pl:quickstart {words}"}
    for command, words in {
        "fit": "--config hero_pl:baselines/grpo --trainer.max_steps 100",
        "validate": "--ckpt_path runs/quickstart/version_0/checkpoints/NAME.ckpt",
        "test": "--ckpt_path runs/quickstart/version_0/checkpoints/NAME.ckpt",
        "predict": "--data.eval_episodes 20",
    }.items()
}
"""Subcommand -> text at the end of its help."""


class HeroCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` for :class:`HeroModule` and :class:`RolloutDataModule`.

    Args:
        args: Name of the subcommand and its arguments; without ``run`` only the arguments.
        run: Whether to run the subcommand; else only create module, data module and trainer.
        command: Without ``run``: name of the calling command, for messages.
        elsewhere: Whether the configuration is for another machine, see ``machine``.

    Raises:
        ConfigError: A file given by ``--config`` is not a valid configuration.
    """

    def __init__(self, args: list[str], run: bool = True, command: str = "", elsewhere: bool = False) -> None:
        self.machine = Machine()
        """With ``elsewhere``: the machine of the configuration. Its devices and strategy are not used here."""
        self.elsewhere = elsewhere
        self._smoke: Smoke | None = None
        import_components()
        quiet()
        super().__init__(
            HeroModule,
            RolloutDataModule,
            args=args,
            run=run,
            parser_class=HeroParser,
            parser_kwargs={"prog": f"hero_pl {command}".strip(), **EXAMPLES},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [HintCheck()],
                "logger": {"class_path": "hero_pl.callbacks.run_logger.RunLogger"},
                "max_epochs": -1,
                "log_every_n_steps": 1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "plugins": [{"class_path": "hero_pl.callbacks.checkpoints.AtomicCheckpointIO"}],
                "enable_model_summary": False,
            },
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the given arguments; ``sys.argv`` is not used.

        Raises:
            ConfigError: A value is missing, or no seed or number of threads.
        """
        self.config = parser.parse_args(args)
        command = self.config.get("subcommand")
        config = self.config[command] if command else self.config
        check_values(self._parser(command), config)
        if not 0 <= int(config.get("seed_everything") or 0) <= LARGEST_SEED:
            raise ConfigError(f"seed_everything={config.seed_everything}: expected a number from 0 to {LARGEST_SEED}.")
        if config.get("torch_threads", 0) < 0:
            raise ConfigError(
                f"torch_threads={config.torch_threads}: expected 0 (torch's default) or a positive number."
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks of every run, each under its own key."""
        parser.add_argument(
            "--torch_threads",
            type=int,
            default=0,
            help="Number of torch threads on CPU; 0 for torch's default. Small policies are fastest with 1.",
        )
        parser.add_argument(
            "--auto_precision",
            type=bool,
            default=False,
            help="Without trainer.precision: take bf16-mixed if this machine is fast with it, which is measured.",
        )
        add_run_arguments(parser)
        parser.add_argument(
            "--force",
            type=bool,
            default=False,
            help="With template: auto of the teacher: train even if no wording of the hint helps.",
        )
        parser.add_argument(
            "--smoke",
            action="store_true",
            help="fit: try this configuration with a tiny model of random weights, two steps on the CPU, without a "
            "network; what it replaces is printed.",
        )
        # the order of calls: first records, then the checkpoint, then callbacks that only report
        parser.add_lightning_class_args(TurnBudget, "turn_budget")
        parser.add_lightning_class_args(TrajectoryLog, "trajectories")
        parser.add_lightning_class_args(CollapseGuard, "collapse_guard")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(HeldOut, "held_out")
        parser.add_lightning_class_args(Export, "export")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[lightning.Callback]) -> lightning.Trainer:
        """Set loggers, run folder and the checkpoint to resume from, before any weights are loaded."""
        check_strategy(config.get("strategy", "auto"))
        check_precision(config.get("precision"))
        self._resumed_from = open_run(self, config, callbacks)
        try:
            return super()._instantiate_trainer(config, callbacks)
        except HeroError:
            raise
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise ConfigError(f"The trainer rejects its settings: {' '.join(str(error).split())}") from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Add the checkpoint to resume from; it is not part of the configuration, which may be used again."""
        given = super()._prepare_subcommand_kwargs(subcommand)
        return {**given, "ckpt_path": self._resumed_from} if self._resumed_from else given

    def after_fit(self) -> None:
        """Say how a smoke test ended."""
        if self._smoke is not None:
            print(self._smoke.end(self.trainer, self.model))

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a checkpoint does not override the configuration, so it is not opened here."""

    def before_instantiate_classes(self) -> None:
        """Set the seed and the number of threads, and check that the checkpoint exists, before anything is loaded.

        Raises:
            ConfigError: The checkpoint does not exist.
        """
        config = self.config.get(self.subcommand) if getattr(self, "subcommand", None) else self.config
        if config is None:
            return
        everything = config.get("seed_everything")
        if config.data.get("seed") is None and isinstance(everything, int) and not isinstance(everything, bool):
            config.data.seed = everything
        if config.get("torch_threads"):
            torch.set_num_threads(config["torch_threads"])
        if config.get("smoke"):
            if self.subcommand not in (None, "fit"):
                raise ConfigError(f"--smoke tries a training run: give it to fit, not to {self.subcommand}.")
            self._smoke = Smoke(config)
            print(self._smoke.say())
        if config.get("auto_precision") and (chosen := choose_precision(config.trainer)):
            print(chosen, file=sys.stderr)
        if config.get("force"):
            _force(config)
        checkpoint = config.get("ckpt_path")
        if checkpoint and checkpoint != "last":
            must_exist(Path(checkpoint), "checkpoint", CHECKPOINTS)
        use_run_logger(config.trainer)
        if self.elsewhere:
            self.machine = elsewhere(config.trainer)
        if self.subcommand == "validate" and config.trainer.limit_val_batches == 0:
            config.trainer.limit_val_batches = (
                None  # 0 disables validation during `fit`; the command `validate` needs it
            )


def instantiate(args: list[str], command: str = "", elsewhere: bool = False) -> HeroCLI:
    """Create module, data module and trainer of a configuration, without running anything.

    Args:
        args: Arguments of ``fit``.
        command: Name of the calling command, for messages.
        elsewhere: Whether the configuration is for another machine, with other devices.
    """
    cli = HeroCLI(args=args, run=False, command=command, elsewhere=elsewhere)
    cli.datamodule.trainer_of_command = cli.trainer
    return cli


def _force(config: Any) -> None:
    """Apply ``--force true`` as ``force: true`` of the teacher.

    Raises:
        ConfigError: The teacher has no ``template: auto``.
    """
    place = config.model.objective
    for key in ("init_args", "teacher", "init_args"):
        place = place.get(key) if place is not None else None
    if place is None or place.get("template") != AUTO:
        raise ConfigError(
            "--force true has an effect only with a teacher with template: auto, which checks that hints help. Remove "
            "it, or set model.objective.init_args.teacher.init_args.template: auto."
        )
    place.force = True

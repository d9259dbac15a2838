"""LightningCLI for hero_pl: defaults, forced callbacks, and errors that name the nearest component."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO, RunCheckpoint
from hero_pl.callbacks.collapse_guard import CollapseGuard
from hero_pl.callbacks.export import Export
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.hint_check import HintCheck
from hero_pl.callbacks.progress import EpisodeProgress
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.cli.components import arguments, nearest, read_config
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError
from hero_pl.evaluation.prompt_tokens import prompt_tokens
from hero_pl.evaluation.summary import remarks, summarize
from hero_pl.module import HeroModule
from hero_pl.runs.records import Record, append_records
from hero_pl.teacher.wordings import AUTO

NAMED = r"(?:class_path'?:? '|dot import path string: |Given value: (?=[\w.]+$))([A-Za-z_][\w.]*)"
"""Where a message of the parser holds the name of a component as it was given."""


class HeroParser(LightningArgumentParser):
    """Errors of a few lines, with the nearest known name for a misspelled component or key."""

    def print_usage(self, file: Any = None) -> None:
        """One line instead of every option, so that the error below it is seen."""
        self._print_message(f"usage: {self.prog.replace(' [options]', '')} --config FILE [options]\n", file)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with the message, and a suggestion where a class name is wrong."""
        message = message.replace("<unicode string>", "the command line")  # files were read before
        suggestion = self._suggestion(message)
        if suggestion.strip() not in message:  # an error below a component comes by here once per level
            message += suggestion
        super().error(message, ex)

    def _suggestion(self, message: str) -> str:
        """The nearest name for what is misspelled: an argument of a component, a key, or a component."""
        argument = re.search(r"given class_path '([\w.]+)':\s+Option '(\w+)\S*' is not accepted", message)
        if argument is not None:
            near = difflib.get_close_matches(argument[2], arguments(argument[1]), n=1)
            return f"\nDid you mean {near[0]!r}?" if near else ""
        option = re.search(r"unrecognized arguments: --([\w.]+)", message)
        key = option or re.search(r"((?<=Group ')[\w.]+)?[' ]*does not accept option '([\w.]+)'", message)
        if key is not None:
            near = difflib.get_close_matches(".".join(part for part in key.groups() if part), self._keys(), n=1)
            return f"\nDid you mean '{'--' if option else ''}{near[0]}'?" if near else ""
        for word in dict.fromkeys(re.findall(NAMED, message, re.MULTILINE)):
            component = nearest(word)
            if component is not None:
                return f"\nThere is no component {word!r}. Did you mean {component!r}? List them: hero_pl components"
        return ""

    def _keys(self) -> set[str]:
        """Options of this parser and of its subcommands."""
        found = {action.dest for action in self._actions}
        for action in self._actions:
            for parser in (getattr(action, "choices", None) or {}).values() if action.dest == "subcommand" else ():
                found |= {option.dest for option in parser._actions}
        return found


class HeroCLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` for :class:`HeroModule` and :class:`RolloutDataModule`.

    Raises:
        ConfigError: A file named by ``--config`` is no configuration.
    """

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        import warnings

        if args is not None:  # jsonargparse and Lightning look at sys.argv, which tests and main() bypass
            sys.argv = [sys.argv[0], *args]
            args = None
        for file in _config_files(sys.argv):
            read_config(file)
        for text in (
            "Unable to serialize instance",
            "isinstance\\(treespec",
            "does not have many workers",
            "train_dataloader. is not resumable",
            "Trying to infer the .batch_size",
            "Using ModelCheckpoint with manual optimization",
            "The dirpath has changed",  # a resumed run has a folder of its own
        ):
            warnings.filterwarnings("ignore", message=f"(?s).*{text}")
        talk = logging.getLogger("lightning.pytorch.utilities.rank_zero")
        talk.addFilter(lambda record: "Tip: For seamless" not in record.getMessage())  # advertisements
        super().__init__(
            HeroModule,
            RolloutDataModule,
            args=args,
            run=run,
            parser_class=HeroParser,
            parser_kwargs={"prog": "hero_pl"},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [EpisodeProgress(), HintCheck()],
                "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs"}},
                "max_epochs": -1,
                "log_every_n_steps": 1,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
                "plugins": [{"class_path": "hero_pl.callbacks.checkpoints.AtomicCheckpointIO"}],
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
        parser.add_argument(
            "--force",
            type=bool,
            default=False,
            help="With a teacher whose template is auto: train even if the policy can read no hint.",
        )
        parser.add_lightning_class_args(TurnBudget, "turn_budget")
        parser.add_lightning_class_args(HeldOut, "held_out")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TrajectoryLog, "trajectories")
        parser.add_lightning_class_args(Export, "export")
        parser.add_lightning_class_args(CollapseGuard, "collapse_guard")

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[lightning.Callback]) -> lightning.Trainer:
        """Lightning refuses a checkpoint callback where ``enable_checkpointing`` is false."""
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]
        return super()._instantiate_trainer(config, callbacks)

    def _parse_ckpt_path(self) -> None:
        """Nothing of a checkpoint overrides the configuration, so it is not opened yet."""

    def before_instantiate_classes(self) -> None:
        """One seed for all; threads before anything computes; a missing checkpoint is refused before anything is read.

        Raises:
            ConfigError: There is no such checkpoint.
        """
        config = self.config.get(self.subcommand) if getattr(self, "subcommand", None) else self.config
        if config is None:
            return
        everything = config.get("seed_everything")
        if config.data.get("seed") is None and isinstance(everything, int) and not isinstance(everything, bool):
            config.data.seed = everything
        if config.get("torch_threads"):
            torch.set_num_threads(config["torch_threads"])
        if config.get("force"):
            _force(config)
        checkpoint = config.get("ckpt_path")
        if checkpoint and checkpoint not in ("best", "last", "hpc") and not Path(checkpoint).exists():
            raise ConfigError(f"There is no checkpoint {checkpoint}. Those of a run are in its folder checkpoints/.")
        if self.subcommand == "validate" and config.trainer.limit_val_batches == 0:
            config.trainer.limit_val_batches = None  # 0 keeps validation out of `fit`; here it was asked for


def _force(config: Any) -> None:
    """``--force true`` is ``force: true`` of the teacher.

    Raises:
        ConfigError: There is nothing to force.
    """
    place = config.model.objective
    for key in ("init_args", "teacher", "init_args"):
        place = place.get(key) if place is not None else None
    if place is None or place.get("template") != AUTO:
        raise ConfigError(
            "--force true trains although no hint helps, which only a teacher with template: auto checks."
        )
    place.force = True


def _config_files(words: list[str]) -> Iterator[Path]:
    """Configurations on a command line that are files; the parser takes YAML itself as well."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        named = word in ("-c", "--config")
        file = word.removeprefix("--config=") if word.startswith("--config=") else following * named
        if os.path.isfile(file):  # unlike Path.is_file, false for what is too long for a name
            yield Path(file)


def instantiate(args: list[str]) -> HeroCLI:
    """Module, data module and trainer of a configuration, without running anything."""
    return HeroCLI(args=args, run=False)


def of_files(*configs: Path) -> HeroCLI:
    """The same for YAML files, later ones overlaying; a run's config.yaml may hold arguments of ``fit`` as well.

    Raises:
        ConfigError: There is no such file, or it is no configuration.
    """
    import yaml

    words = []
    for config in configs:
        values = {key: value for key, value in read_config(config).items() if key not in ("ckpt_path", "weights_only")}
        words += ["--config", yaml.safe_dump(values)]
    return instantiate(words)


def play(
    configs: Sequence[Path],
    episodes: int,
    out: Path,
    stage: str,
    trials: int = 1,
    checkpoint: Path | None = None,
) -> str:
    """Play the policy of configurations, or of a checkpoint, and write its trajectories; returns lines about them."""
    if episodes < 0 or trials < 1:
        raise ConfigError(f"--episodes={episodes}, --trials={trials}: expected 0 (every task) or more, and 1 or more.")
    if not configs:
        if checkpoint is None:
            raise ConfigError("Name what to play: --config FILE, or --checkpoint FILE of a run.")
        configs = [config_of(checkpoint)]
    cli = of_files(*configs)
    policy = cli.model.policy
    if checkpoint is None:
        policy.load()
    else:
        load_weights(cli, checkpoint)
    played = cli.datamodule.evaluate(policy, stage, episodes, trials=trials)
    append_records(out, (Record("rollout", 0, trajectory) for trajectory in played))
    result = {**summarize(played), "tokens": prompt_tokens(played, policy)}
    low, high = result["success_ci"]
    first = (
        f"{result['episodes']} episodes: success {result['success']:.3f} ({low:.3f} to {high:.3f}), "
        f"{result['turns']:.2f} turns, {result['tool_errors']:.3f} tool errors a turn, "
        f"reward {result['reward']:.3f}; written to {out}"
    )
    return "\n".join([first, *remarks(result)])


def export_checkpoint(checkpoint: Path, folder: Path, config: Path | None) -> None:
    """Load a checkpoint's weights into the policy of its configuration and save them.

    Raises:
        ConfigError: A file stands where the folder should be.
        HeroError: The configuration or the checkpoint is missing or damaged.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.is_file():
        raise ConfigError(f"{there} is a file, and the weights go into a folder. Name another one, or a new one.")
    cli = of_files(config or config_of(checkpoint))
    load_weights(cli, checkpoint)
    cli.model.policy.save_pretrained(folder)


def config_of(checkpoint: Path) -> Path:
    """The config.yaml of the run that a checkpoint belongs to.

    Raises:
        ConfigError: There is none in the folders above it.
    """
    for folder in checkpoint.parents:
        if (folder / "config.yaml").exists():
            return folder / "config.yaml"
    raise ConfigError(f"No config.yaml beside {checkpoint}. Name the run's configuration with --config.")


def load_weights(cli: HeroCLI, checkpoint: Path) -> None:
    """Load the policy with the weights of a checkpoint.

    Raises:
        ConfigError: The checkpoint holds weights of another policy.
        HeroError: It is missing or damaged.
    """
    state = AtomicCheckpointIO().load_checkpoint(checkpoint, map_location="cpu")
    cli.model.policy.load()
    try:
        cli.model.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"{checkpoint} does not hold weights of this policy: {str(error).splitlines()[-1].strip()} Give the "
            "configuration of the run that wrote it."
        ) from error

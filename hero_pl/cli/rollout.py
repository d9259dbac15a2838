"""Play a policy without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.stored_weights import check_weights
from hero_pl.cli.lightning import CHECKPOINTS, HeroCLI, instantiate
from hero_pl.errors import ConfigError, HeroError
from hero_pl.evaluation.summary import remarks, summarize
from hero_pl.runs.folders import must_be_writable, must_exist
from hero_pl.runs.records import Record, append_records
from hero_pl.types import Trajectory


def play(
    overrides: Sequence[str],
    episodes: int,
    out: Path,
    stage: str,
    trials: int = 1,
    checkpoint: Path | None = None,
) -> str:
    """Play a policy, write its trajectories, and return a summary.

    Args:
        overrides: Arguments of ``fit``: configurations and further options. Without a configuration, that of the
            checkpoint's run is used.
        episodes: Number of episodes; 0 plays every task of the split.
        out: File to append the trajectories to.
        stage: Tasks to play.
        trials: Number of episodes per task.
        checkpoint: Play with the weights of this checkpoint.

    Raises:
        ConfigError: A number is out of range, the file cannot be written, neither configuration nor checkpoint is
            given, or one is not valid.
        HeroError: The checkpoint is damaged, or no episode can be scored.
    """
    if episodes < 0 or trials < 1:
        raise ConfigError(f"--episodes={episodes}, --trials={trials}: expected 0 (every task) or more, and 1 or more.")
    if checkpoint is None and not overrides:
        raise ConfigError("Nothing to play. Give --config FILE, or --checkpoint FILE of a run.")
    must_be_writable(out, "Name another file with --out.")
    words = list(overrides)
    if checkpoint is not None and not any(word.partition("=")[0] in ("-c", "--config") for word in words):
        words = ["--config", str(config_of(checkpoint)), *words]
    cli = instantiate(words, "rollout")
    policy = cli.model.policy
    if checkpoint is None:
        policy.load()
    else:
        load_weights(cli, checkpoint)
    ended: list[Trajectory] = []
    try:
        ended = cli.datamodule.evaluate(policy, stage, episodes, on_episode=ended.append, trials=trials)
    finally:  # what was played before an error or Ctrl-C is kept
        cli.datamodule.teardown("rollout")
        append_records(out, (Record("rollout", 0, trajectory) for trajectory in ended))
    result = summarize(ended, policy.dialect)
    if not result["episodes"]:
        raise HeroError(
            f"None of the {len(ended)} episodes can be scored. The first one: {ended[0].info.get('error', '')} See "
            f"them with: hero_pl view {out}"
        )
    low, high = result["success_ci"]
    first = (
        f"{result['episodes']} episodes: success {result['success']:.3f} ({low:.3f} to {high:.3f}), "
        f"{result['turns']:.2f} turns, {result['tool_errors']:.3f} tool errors a turn, "
        f"reward {result['reward']:.3f}; written to {out}"
    )
    return "\n".join([first, *remarks(result)])


def config_of(checkpoint: Path) -> Path:
    """Path of the config.yaml of a checkpoint's run.

    Raises:
        ConfigError: The checkpoint does not exist, or no folder above it has a config.yaml.
    """
    must_exist(checkpoint, "checkpoint", CHECKPOINTS)
    for folder in checkpoint.parents:
        if (folder / "config.yaml").exists():
            return folder / "config.yaml"
    raise ConfigError(f"No config.yaml in the folders above {checkpoint}. Give the run's configuration with --config.")


def load_weights(cli: HeroCLI, checkpoint: Path) -> dict[str, Any]:
    """Load the policy, with the weights of a checkpoint; return the whole checkpoint.

    Raises:
        ConfigError: The checkpoint holds weights of another policy.
        HeroError: The checkpoint is missing or damaged.
    """
    must_exist(checkpoint, "checkpoint", CHECKPOINTS)
    state = AtomicCheckpointIO().load_checkpoint(checkpoint, map_location="cpu")
    cli.model.policy.load()
    try:
        check_weights(cli.model, state)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {error}") from error
    cli.model.load_state_dict(state["state_dict"], strict=False)
    return state

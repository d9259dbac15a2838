"""Play a policy without training it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.stored_weights import check_weights
from hero_pl.cli.lightning import CHECKPOINTS, HeroCLI, instantiate
from hero_pl.errors import ConfigError
from hero_pl.evaluation.summary import remarks, summarize
from hero_pl.runs.folders import must_exist
from hero_pl.runs.records import Record, append_records


def play(
    overrides: Sequence[str],
    episodes: int,
    out: Path,
    stage: str,
    trials: int = 1,
    checkpoint: Path | None = None,
) -> str:
    """Play a policy, write its trajectories, and return lines about them.

    Args:
        overrides: Arguments of ``fit``: configurations, and options over them. Without a configuration that of the
            checkpoint's run comes first.
        episodes: How many; 0 plays every task of the split.
        out: File to append to.
        stage: Which tasks.
        trials: Times each of them is played.
        checkpoint: Play its weights.

    Raises:
        ConfigError: The numbers make no sense, nothing is named, or something that is named cannot be used.
        HeroError: The checkpoint is damaged.
    """
    if episodes < 0 or trials < 1:
        raise ConfigError(f"--episodes={episodes}, --trials={trials}: expected 0 (every task) or more, and 1 or more.")
    if checkpoint is None and not overrides:
        raise ConfigError("Name what to play: --config FILE, or --checkpoint FILE of a run.")
    words = list(overrides)
    if checkpoint is not None and not any(word.partition("=")[0] in ("-c", "--config") for word in words):
        words = ["--config", str(config_of(checkpoint)), *words]
    cli = instantiate(words, "rollout")
    policy = cli.model.policy
    if checkpoint is None:
        policy.load()
    else:
        load_weights(cli, checkpoint)
    played = cli.datamodule.evaluate(policy, stage, episodes, trials=trials)
    append_records(out, (Record("rollout", 0, trajectory) for trajectory in played))
    result = summarize(played, policy.dialect)
    low, high = result["success_ci"]
    first = (
        f"{result['episodes']} episodes: success {result['success']:.3f} ({low:.3f} to {high:.3f}), "
        f"{result['turns']:.2f} turns, {result['tool_errors']:.3f} tool errors a turn, "
        f"reward {result['reward']:.3f}; written to {out}"
    )
    return "\n".join([first, *remarks(result)])


def config_of(checkpoint: Path) -> Path:
    """The config.yaml of the run that a checkpoint belongs to.

    Raises:
        ConfigError: There is none in the folders above it, or no checkpoint.
    """
    must_exist(checkpoint, "checkpoint", CHECKPOINTS)
    for folder in checkpoint.parents:
        if (folder / "config.yaml").exists():
            return folder / "config.yaml"
    raise ConfigError(f"No config.yaml beside {checkpoint}. Name the run's configuration with --config.")


def load_weights(cli: HeroCLI, checkpoint: Path) -> dict[str, Any]:
    """Load the policy with the weights of a checkpoint; returns the whole checkpoint.

    Raises:
        ConfigError: The checkpoint holds weights of another policy.
        HeroError: It is missing or damaged.
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

"""``hero_pl export``: the weights of a run as a Hugging Face folder with its model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hero_pl.callbacks.checkpoints import newest_verified
from hero_pl.callbacks.guard_checkpoints import GUARD_FOLDER
from hero_pl.chat.probes import written_date
from hero_pl.cli.lightning import CHECKPOINTS, instantiate
from hero_pl.cli.rollout import config_of, load_weights
from hero_pl.errors import ConfigError, HeroError
from hero_pl.export.hub import check_license, check_name, push
from hero_pl.export.model_card import Exported, write_model_card
from hero_pl.export.settings import method
from hero_pl.export.target import CURE
from hero_pl.runs.folders import MOST_LISTED, must_be_new, must_exist


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an exported model goes, and under which name and license."""

    folder: Path
    merge: bool = False
    """Add an adapter to the weights of its base model."""
    hub: str = ""
    """``user/name`` on the Hugging Face hub; empty for no upload."""
    public: bool = False
    license: str = "unknown"


def export(source: Path, target: Destination, config: str | Path | None = None) -> str:
    """Load the weights of a checkpoint into the policy of its configuration, save them, and write the card.

    Args:
        source: A checkpoint, or a run folder (or a folder with one run below it), of which the newest intact one is
            taken.
        target: Folder to write to; new or empty.
        config: Configuration of the run; default: the one in its folder.

    Returns:
        Lines about what was written.

    Raises:
        ConfigError: Something is named that cannot be used; nothing was written.
        HeroError: The configuration or the checkpoint is missing or damaged, or the upload failed.
    """
    must_be_new(target.folder, CURE)
    if target.hub:
        check_name(target.hub)
    check_license(target.license)
    checkpoint = None if config else checkpoint_of(source)
    cli = instantiate(["--config", str(config or config_of(checkpoint or source))], "export")
    checkpoint = checkpoint or checkpoint_of(source)
    state = load_weights(cli, checkpoint)
    policy = cli.model.policy
    policy.save_pretrained(target.folder, target.merge, cli.datamodule.eval_sampling)
    exported = Exported(
        turns=int(state["hero"]["turns"]),
        adapter=(target.folder / "adapter_config.json").exists(),
        parser=policy.parser,
        method=method(cli.model.objective),
        license=target.license,
        name=target.hub,
        date=written_date(policy.template),
    )
    card = write_model_card(target.folder, run_of(checkpoint), exported)
    lines = [f"Wrote {target.folder} from {checkpoint}", f"Read and complete {card} before you share it"]
    if target.hub:
        lines.append(f"Uploaded to {push(target.folder, target.hub, 'model', target.public)}")
    return "\n".join(lines)


def checkpoint_of(source: Path) -> Path:
    """The checkpoint itself, or the newest intact one of a run.

    Raises:
        ConfigError: There is no such file or folder, no checkpoint in it, or more than one run.
        HeroError: All checkpoints of the run are damaged.
    """
    must_exist(source, "checkpoint", CHECKPOINTS)
    if source.is_file():
        return source
    # the guard's own checkpoints are no second run, but may be exported by name
    folders = sorted({path.parent for path in source.rglob("*.ckpt")} - set(source.rglob(GUARD_FOLDER)))
    if not folders:
        raise ConfigError(f"{source} contains no checkpoint. {CHECKPOINTS}")
    if len(folders) > 1:
        shown = [str(path.parent if path.name == "checkpoints" else path) for path in folders[:MOST_LISTED]]
        shown += [f"and {len(folders) - MOST_LISTED} more"] * (len(folders) > MOST_LISTED)
        raise ConfigError(f"{source} contains {len(folders)} runs; give one of them:\n  " + "\n  ".join(shown))
    checkpoint, refused = newest_verified(folders[0])
    if checkpoint is None:
        raise HeroError(f"All checkpoints in {folders[0]} are damaged:\n  " + "\n  ".join(refused))
    return checkpoint


def run_of(checkpoint: Path) -> Path | None:
    """Folder of the run that a checkpoint belongs to; ``None`` for one that was moved elsewhere."""
    return next((folder for folder in checkpoint.parents if (folder / "config.yaml").exists()), None)

"""Commands that train or play a policy: Lightning's own, ``rollout``, ``check-hints``, ``export`` and others."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.records import RECORDS_FILE

Stage = Literal["train", "validate", "test"]
PANEL = "Train and evaluate"
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Pass options that a command does not have to the configuration parser."""

app = typer.Typer()


@contextmanager
def _quick_end(command: str) -> Iterator[None]:
    """Exit at once on Ctrl-C during imports: numpy and torch would catch the exception and fail later with another."""

    def end(*_: object) -> None:
        print(f"hero_pl: {command} was interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # handlers can be set there only
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_lightning(args: list[str]) -> Any:
    """Run ``fit``, ``validate``, ``test`` or ``predict`` with its arguments.

    Raises:
        ConfigError: The trainer rejects its settings.
        HeroError: Another training process has ended.
    """
    with _quick_end(args[0]):
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from hero_pl.cli.lightning import HeroCLI

    try:
        return HeroCLI(args)
    except MisconfigurationException as error:
        raise ConfigError(f"The trainer rejects its settings: {error}") from error
    except RuntimeError as error:
        if not _of_another_process(error):
            raise
        raise HeroError(
            "Another training process has ended, or did not answer in time; its own last lines say why. "
            f"({' '.join(str(error).split())[:300]})"
        ) from error


def _of_another_process(error: RuntimeError) -> bool:
    """Whether a collective operation of several processes failed."""
    import torch.distributed as dist

    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return several and (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error))


def _lightning(name: str, help_: str) -> None:
    """Add a command whose arguments, including ``--help``, are parsed by Lightning."""

    def command(context: typer.Context) -> None:
        run_lightning([name, *context.args])

    settings = {**PASSED_ON, "help_option_names": []}
    app.command(name, help=help_, rich_help_panel=PANEL, context_settings=settings, add_help_option=False)(command)


for _name, _help in {
    "fit": "Train a policy.",
    "validate": "Evaluate a policy on the validation tasks.",
    "test": "Evaluate a policy on the test tasks.",
    "predict": "Play held-out tasks and write the trajectories.",
}.items():
    _lightning(_name, _help)


@app.command(
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl rollout --config hero_pl:quickstart --model.policy.init_args.hint_position=system "
    "--episodes 8",
)
def rollout(
    context: typer.Context,
    episodes: Annotated[
        int, typer.Option("--episodes", help="Number of episodes; 0 plays every task of the split.")
    ] = 64,
    out: Annotated[Path, typer.Option("--out", help="Append the trajectories to this file.")] = Path(RECORDS_FILE),
    stage: Annotated[Stage, typer.Option("--stage", help="Tasks to play.")] = "test",
    trials: Annotated[
        int,
        typer.Option("--trials", help="Number of episodes per task; above 1, pass^k and pass@k are printed."),
    ] = 1,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Play with the weights of this .ckpt file, written by fit.")
    ] = None,
) -> None:
    """Play a policy on held-out tasks, write the trajectories and print a summary.

    Also accepts all options of fit: --config FILE (repeat it for overlays; default: the configuration of the
    checkpoint's run), --model.KEY=VALUE, --data.KEY=VALUE, and --print_config to show the resulting configuration.
    """
    with _quick_end("rollout"):
        from hero_pl.cli.rollout import play

    print(play(context.args, episodes, out, stage, trials, checkpoint))


@app.command(
    name="check-hints",
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl check-hints --config hero_pl:quickstart --episodes 16 --figure hints.png",
)
def check_hints(
    context: typer.Context,
    episodes: Annotated[int, typer.Option("--episodes", help="Number of training episodes to play.")] = 16,
    turns: Annotated[
        int, typer.Option("--turns", help="Maximum number of turns to measure, for errors and for correct turns each.")
    ] = 16,
    labels: Annotated[
        Literal["auto", "rules", "reflector"],
        typer.Option(
            "--labels", help="Source of the diagnoses; auto: rules if the environment has them, else the reflector."
        ),
    ] = "auto",
    templates: Annotated[
        list[str] | None,
        typer.Option(
            "--template",
            help="Wording to measure; can be repeated. Default: all wordings of the package and the configuration's.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Write the report to this JSON file.")] = Path("hints.json"),
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Also draw the report to this PNG or SVG file.")
    ] = None,
    demonstrations: Annotated[
        bool,
        typer.Option(
            "--demonstrations",
            help="Measure on the episodes of data.demonstrations, for a policy that cannot act on its own yet.",
        ),
    ] = False,
    drop: Annotated[
        bool,
        typer.Option(
            "--drop/--no-drop",
            help="Measure wordings that are not taken only in part; with --no-drop all of them in every column.",
        ),
    ] = True,
) -> None:
    """Measure which wordings of the hint a policy can use, before training.

    Also accepts all options of fit: --config FILE (repeat it for overlays), --model.KEY=VALUE, --data.KEY=VALUE.
    """
    with _quick_end("check-hints"):
        from hero_pl.cli.check_hints import run

    run(context.args, episodes, turns, labels, templates, out, figure, demonstrations, drop)


@app.command(
    name="serve-command",
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl serve-command --config hero_pl:webshop_qwen3_4b --config hero_pl:hardware/server",
)
def serve_command(
    context: typer.Context,
    device: Annotated[Literal["gpu", "cpu"], typer.Option("--device", help="What the server computes on.")] = "gpu",
    memory: Annotated[
        float, typer.Option("--memory", help="Share of the memory of a GPU for the server; the trainer has the rest.")
    ] = 0.4,
    devices: Annotated[
        str, typer.Option("--devices", help="Number of the GPU of each server, for example 4,5,6,7.")
    ] = "",
) -> None:
    """Print the command that starts the server of a configuration whose sampler is ServerSampler.

    Takes every option of fit besides: --config FILE (more than one overlays), --model.KEY=VALUE, --data.KEY=VALUE.
    """
    with _quick_end("serve-command"):
        from hero_pl.cli.serve import serve_commands

    print(serve_commands(context.args, device, memory, devices))


@app.command(
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl estimate --config hero_pl:quickstart --memory-gb 8",
)
def estimate(
    context: typer.Context,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", help="Memory of one device in GiB; status 1 if it does not fit.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", help="Operations per second that one device reaches, in units of 10^12."),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option("--bandwidth", help="Bytes per second that one device reads of its memory, in units of 10^9."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate the memory and the arithmetic of a configuration; no weights are loaded.

    Takes all options of fit besides: --config FILE (more than one overlays), --model.KEY=VALUE, --data.KEY=VALUE.
    """
    with _quick_end("estimate"):
        from hero_pl.cli.estimate import run

    if not run(context.args, memory_gb, tflops, bandwidth, as_json):
        raise typer.Exit(1)


@app.command(
    name="check-model",
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl check-model hero_pl:pocket-shop",
)
def check_model(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, hub id, or hero_pl:NAME; default: the model of --config.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check that prompts, sampling and scoring of a model agree; ends with status 1 if a line is wrong.

    Takes every option of fit besides: --config FILE (more than one overlays), --model.KEY=VALUE. Without any, the
    model is checked with the default settings of a policy.
    """
    with _quick_end("check-model"):
        from hero_pl.cli.check_model import run

    words = context.args
    if model is not None and model.startswith("--"):
        words, model = [model, *words], None
    if not run(model, words, as_json):
        raise typer.Exit(1)


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: hero_pl export runs/quickstart exported --license apache-2.0 --push me/my-agent",
)
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_CHECKPOINT", help="A run folder (its newest checkpoint is used), or a .ckpt file."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.")],
    config: Annotated[
        str | None, typer.Option("--config", help="The config.yaml of the run; default: the one above the checkpoint.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge a LoRA adapter into the weights, and write the full model.")
    ] = False,
    push: Annotated[
        str,
        typer.Option(
            "--push", metavar="USER/NAME", help="Also upload it to the Hugging Face Hub, as a private repository."
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: make a new repository public.")] = False,
    license_: Annotated[
        str, typer.Option("--license", help="License of the weights, for the model card, for example apache-2.0.")
    ] = "unknown",
) -> None:
    """Write the weights of a run as a Hugging Face folder, with tokenizer, chat template, settings and model card."""
    with _quick_end("export"):
        from hero_pl.cli import export as exporting

    print(exporting.export(source, exporting.Destination(folder, merge, push, public, license_), config))

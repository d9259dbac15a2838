"""Commands that train or play a policy: Lightning's own, ``rollout``, ``check-hints`` and ``export``."""

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

from hero_pl.errors import ConfigError
from hero_pl.runs.records import RECORDS_FILE

Stage = Literal["train", "validate", "test"]
PANEL = "Train and evaluate"
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Words that a command does not know are options of a configuration."""

app = typer.Typer()


@contextmanager
def _quick_end(command: str) -> Iterator[None]:
    """Ctrl-C while torch is imported: numpy and torch swallow the exception and fail later with one of their own."""

    def end(*_: object) -> None:
        print(f"hero_pl: {command} was interrupted", file=sys.stderr, flush=True)
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # only there can a handler be set
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_lightning(args: list[str]) -> Any:
    """``fit``, ``validate``, ``test``, ``predict`` and their arguments.

    Raises:
        ConfigError: The trainer cannot work with its settings.
    """
    with _quick_end(args[0]):
        from lightning.fabric.utilities.exceptions import MisconfigurationException

        from hero_pl.cli.lightning import HeroCLI

    try:
        return HeroCLI(args)
    except MisconfigurationException as error:
        raise ConfigError(f"The trainer refuses its settings: {error}") from error


def _lightning(name: str, help_: str) -> None:
    """Lightning's own parser reads everything behind the name, ``--help`` as well."""

    def command(context: typer.Context) -> None:
        run_lightning([name, *context.args])

    settings = {**PASSED_ON, "help_option_names": []}
    app.command(name, help=help_, rich_help_panel=PANEL, context_settings=settings, add_help_option=False)(command)


for _name, _help in {
    "fit": "Train a policy.",
    "validate": "Evaluate on the tasks for validation.",
    "test": "Evaluate on the tasks for testing.",
    "predict": "Play held-out tasks and record them.",
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
    episodes: Annotated[int, typer.Option("--episodes", help="How many; 0 plays every task of the split.")] = 64,
    out: Annotated[Path, typer.Option("--out", help="File to append to.")] = Path(RECORDS_FILE),
    stage: Annotated[Stage, typer.Option("--stage", help="Which tasks.")] = "test",
    trials: Annotated[
        int,
        typer.Option("--trials", help="Times each task is played; above 1, pass^k and pass@k are printed."),
    ] = 1,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Play its weights: a .ckpt that fit wrote.")
    ] = None,
) -> None:
    """Play a policy on held-out tasks, write its trajectories and print what they say.

    Takes every option of fit besides: --config FILE (more than one overlays; default: the one of the checkpoint's run),
    --model.KEY=VALUE, --data.KEY=VALUE, and --print_config, which shows the result.
    """
    with _quick_end("rollout"):
        from hero_pl.cli.play import play

    print(play(context.args, episodes, out, stage, trials, checkpoint))


@app.command(
    name="check-hints",
    rich_help_panel=PANEL,
    context_settings=PASSED_ON,
    epilog="Example: hero_pl check-hints --config hero_pl:quickstart --episodes 16 --figure hints.png",
)
def check_hints(
    context: typer.Context,
    episodes: Annotated[int, typer.Option("--episodes", help="Training episodes to play.")] = 16,
    turns: Annotated[
        int, typer.Option("--turns", help="Blamed turns, and turns called right, that are measured at most.")
    ] = 16,
    labels: Annotated[
        Literal["auto", "rules", "reflector"],
        typer.Option("--labels", help="Whose diagnoses; auto: those of rules where the environment has them."),
    ] = "auto",
    templates: Annotated[
        list[str] | None,
        typer.Option("--template", help="A wording; repeat it. Default: the shipped ones and the configuration's own."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The report as JSON.")] = Path("hints.json"),
    figure: Annotated[Path | None, typer.Option("--figure", help="Also draw it (PNG).")] = None,
    demonstrations: Annotated[
        bool,
        typer.Option(
            "--demonstrations",
            help="Measure on the episodes of data.demonstrations, for a policy that does not yet act by itself.",
        ),
    ] = False,
) -> None:
    """Measure which wording of the hint a policy can read, before it is trained on any.

    Takes every option of fit besides: --config FILE (more than one overlays), --model.KEY=VALUE, --data.KEY=VALUE.
    """
    with _quick_end("check-hints"):
        from hero_pl.cli.check_hints import run

    run(context.args, episodes, turns, labels, templates, out, figure, demonstrations)


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
        Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run folder (its newest checkpoint), or a .ckpt.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write.")],
    config: Annotated[
        str | None, typer.Option("--config", help="The run's config.yaml; default: beside the checkpoint's folder.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add a LoRA adapter to the weights, and write the whole model.")
    ] = False,
    push: Annotated[
        str, typer.Option("--push", metavar="USER/NAME", help="Also upload it to the Hugging Face hub, private.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a repository that --push creates public.")] = False,
    license_: Annotated[
        str, typer.Option("--license", help="License of the weights, for the model card, for example apache-2.0.")
    ] = "unknown",
) -> None:
    """Write the weights of a run as a Hugging Face folder, with tokenizer, chat template, settings and model card."""
    with _quick_end("export"):
        from hero_pl.cli import export as exporting

    print(exporting.export(source, exporting.Destination(folder, merge, push, public, license_), config))

"""The command line: Lightning's subcommands for training, small commands that need no model for everything else.

Nothing heavy is imported before a command runs, so that ``hero_pl --help`` answers at once.
"""

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
from typer.core import TyperGroup

from hero_pl.cli import annotate
from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.records import RECORDS_FILE

Stage = Literal["train", "validate", "test"]
TRAIN, LOOK, REST = "Train and evaluate", "Look at runs", "Components, configurations, environments"
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Words that a command does not know are options of a configuration."""


class Commands(TyperGroup):
    """Ends a command with one line: a :class:`HeroError` with its status, Ctrl-C with status 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (HeroError, ValueError) as error:
            known = _cause(error)
            if known is None:
                raise
            print(f"hero_pl: {known}", file=sys.stderr)
            raise typer.Exit(known.exit_status) from error
        except KeyboardInterrupt as error:
            print(f"hero_pl: {ctx.invoked_subcommand} was interrupted", file=sys.stderr)
            raise typer.Exit(130) from error  # 128 + SIGINT, as shells say it


app = typer.Typer(
    cls=Commands,
    help="Train multi-turn LLM agents by hindsight self-distillation, and look at what they did.",
    epilog="Start with: hero_pl fit --config hero_pl:quickstart",
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(annotate.app, name="annotate", rich_help_panel=LOOK)


def main(args: list[str] | None = None) -> None:
    """Run one command; returns if it went well.

    Args:
        args: The command and its arguments; default: those of the process.

    Raises:
        SystemExit: With the status of a command that failed; the reason was printed.
    """
    try:
        app(args, prog_name="hero_pl")
    except SystemExit as end:
        if end.code:
            raise


def _cause(error: BaseException | None) -> HeroError | None:
    """The project's own error behind one that the parser of the configuration has wrapped."""
    while error is not None and not isinstance(error, HeroError):
        error = error.__cause__ or error.__context__
    return error


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


def _version(asked: bool) -> None:
    if asked:
        from hero_pl import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that need no command."""


# -- Lightning's commands --------------------------------------------------------------------------------------------


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
    app.command(name, help=help_, rich_help_panel=TRAIN, context_settings=settings, add_help_option=False)(command)


for _name, _help in {
    "fit": "Train a policy.",
    "validate": "Evaluate on the tasks for validation.",
    "test": "Evaluate on the tasks for testing.",
    "predict": "Play held-out tasks and record them.",
}.items():
    _lightning(_name, _help)


@app.command(
    rich_help_panel=TRAIN,
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
    rich_help_panel=TRAIN,
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
) -> None:
    """Measure which wording of the hint a policy can read, before it is trained on any.

    Takes every option of fit besides: --config FILE (more than one overlays), --model.KEY=VALUE, --data.KEY=VALUE.
    """
    with _quick_end("check-hints"):
        from hero_pl.cli.check_hints import run

    run(context.args, episodes, turns, labels, templates, out, figure)


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: hero_pl export runs/quickstart/version_0/checkpoints/NAME.ckpt exported",
)
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt that fit wrote.")],
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    config: Annotated[
        str | None, typer.Option("--config", help="The run's config.yaml; default: beside the checkpoint's folder.")
    ] = None,
) -> None:
    """Write the weights of a checkpoint as a Hugging Face folder."""
    with _quick_end("export"):
        from hero_pl.cli.play import export_checkpoint

    export_checkpoint(checkpoint, folder, config)
    print(f"Wrote {folder}")


# -- runs ------------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel=LOOK, epilog="Example: hero_pl view runs/quickstart --terminal --limit 5")
def view(
    records: Annotated[
        Path, typer.Argument(help="A trajectories.jsonl, a run folder, or a folder with one run below it.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="The page to write; default: beside the records.")] = None,
    terminal: Annotated[bool, typer.Option("--terminal", help="Print to the terminal instead.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="Episodes to print; the figures below them count all.")] = 20,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Print only this stage, for example train; the page has a menu.")
    ] = None,
) -> None:
    """Show trajectories as one HTML page, or in the terminal."""
    from hero_pl.runs.folders import one_run

    path = one_run(records)
    if terminal:
        from hero_pl.runs.viewer.terminal import print_terminal

        print_terminal(path, limit, stage=stage)
        return
    print(_write_page(path, out or path.with_suffix(".html")))


def _write_page(records: Path, target: Path) -> str:
    """Every token in its color if the run's tokenizer is here; else a page that has it is left alone."""
    from hero_pl.runs.viewer.page import is_per_token, write_html

    config = records.parent / "config.yaml"
    decode, missing = None, f"there is no {config}"
    if config.is_file():
        from hero_pl.cli.components import speller

        try:
            decode = speller(config)
        except HeroError as error:
            missing = str(error)
    kept = ""
    if decode is None and is_per_token(target):
        kept, target = f"; {target}, which colors every token, was kept", target.with_suffix(".turns.html")
    note = f"\nTurns are colored as a whole: {missing}{kept}." if decode is None else ""
    return f"Wrote {write_html(records, target, decode)} episodes to {target}{note}"


@app.command(rich_help_panel=LOOK, epilog="Example: hero_pl plot runs/a runs/b --out curves.png")
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("curves.png"),
) -> None:
    """Draw success, turns and coverage of runs against training turns."""
    from hero_pl.runs.plots import plot_runs

    plot_runs(runs, out)
    print(f"Wrote {out}")


@app.command(rich_help_panel=LOOK, epilog="Example: hero_pl compare runs/a runs/b --baseline a --markdown")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with eval.jsonl, or folders of such folders.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Method that the others are compared with; default: the first.")
    ] = None,
    metric: Annotated[
        Literal["success", "reward", "turns"], typer.Option("--metric", help="What is compared.")
    ] = "success",
    budget: Annotated[int | None, typer.Option("--budget", help="Only at this number of training turns.")] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Only at this stage: test or validate.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Difference between methods, paired by task and run, with a 95 % interval, or "not resolved"."""
    from hero_pl.runs.compare import compare_runs
    from hero_pl.runs.tables import print_comparison, to_markdown

    found = compare_runs(runs, baseline, metric, budget=budget, stage=stage)
    if markdown:
        print(to_markdown(found))
    else:
        print_comparison(found)


# -- components, configurations, environments ------------------------------------------------------------------------


@app.command(rich_help_panel=REST, epilog="Example: hero_pl components --import your_package")
def components(
    config: Annotated[
        str | None, typer.Option("--config", help="Also what the packages hold that this configuration names.")
    ] = None,
    packages: Annotated[
        list[str] | None, typer.Option("--import", help="Also what this package or module holds; may be repeated.")
    ] = None,
) -> None:
    """List what a configuration can swap: every class of each base, with its first sentence."""
    from hero_pl.cli.components import describe, import_named, named_in

    import_named([*(packages or []), *(named_in(config) if config else [])])
    print(describe())


@app.command(rich_help_panel=REST, epilog="Example: hero_pl configs")
def configs() -> None:
    """List the configurations that ship with the package; every --config takes their names."""
    from hero_pl.cli.configs import describe

    print(describe())


@app.command(rich_help_panel=REST, epilog="Example: hero_pl envs")
def envs() -> None:
    """List the environments of the project."""
    import gymnasium

    from hero_pl.rollout.environments import register

    register()
    for name in sorted(name for name in gymnasium.registry if name.startswith("hero_pl/")):
        print(name)


def _mapping(text: str) -> dict[str, Any]:
    """Keys and values on a command line."""
    from hero_pl.cli.configs import load_text

    values = load_text(text)
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{text!r} holds no keys and values; write them as '{{size: 30}}'")
    return values


@app.command(
    "check-env",
    rich_help_panel=REST,
    epilog="Example: hero_pl check-env hero_pl/PocketRetail-v0 --env_args '{size: 30, tasks: 60}'",
)
def check_environment(
    env: Annotated[str, typer.Argument(help="Gymnasium id; package:Id for one of your own.")],
    env_args: Annotated[
        Any, typer.Option("--env_args", help="Its arguments, as YAML.", parser=_mapping, metavar="YAML")
    ] = None,
) -> None:
    """Check that an environment follows the API."""
    from hero_pl.rollout.check_env import check_env
    from hero_pl.rollout.environments import check_id

    check_id(env)
    problems = check_env(env, **(env_args or {}))
    if problems:
        raise HeroError(f"{env} breaks the contract:\n" + "\n".join(f"  - {problem}" for problem in problems))
    print(f"{env} keeps the contract.")


@app.command(
    "import-tau-bench", rich_help_panel=REST, epilog="Example: hero_pl import-tau-bench tau-bench --target data"
)
def import_tau_bench(
    source: Annotated[Path, typer.Argument(help="A checkout of the original repository, or its data as JSON.")],
    target: Annotated[
        Path | None, typer.Option("--target", help="Where to store it; default: the user's data folder.")
    ] = None,
) -> None:
    """Import the official TauBench data; task files are parsed, never executed."""
    from hero_pl.rollout.environments import import_tau_bench_data

    print(import_tau_bench_data(source, target))

"""The command line: Lightning's subcommands for training, small commands that need no model for everything else.

Nothing heavy is imported before a command runs, so that ``hero_pl --help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hero_pl.cli import annotate, catalog, look, training
from hero_pl.errors import HeroError


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
for _commands in (training.app, look.app, catalog.app):  # without a name: their commands stand beside each other
    app.add_typer(_commands)
app.add_typer(annotate.app, name="annotate", rich_help_panel=look.PANEL)


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

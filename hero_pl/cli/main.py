"""The command line: Lightning's subcommands for training, and typer commands for everything else.

Large libraries are imported only when a command runs, so that ``hero_pl --help`` is fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hero_pl.cli import annotate, catalog, look, training
from hero_pl.errors import HeroError


class Commands(TyperGroup):
    """Prints errors as one line: a :class:`HeroError` exits with its own status, Ctrl-C with status 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the given command."""
        try:
            return super().invoke(ctx)
        except (HeroError, ValueError) as error:
            known = _cause(error)
            if known is None:
                raise
            from hero_pl.runs.viewer.terminal import plain

            print(f"hero_pl: {plain(str(known))}", file=sys.stderr)  # it may quote a foreign file
            raise typer.Exit(known.exit_status) from error
        except KeyboardInterrupt as error:
            print(f"hero_pl: {ctx.invoked_subcommand} was interrupted", file=sys.stderr)
            raise typer.Exit(130) from error  # 128 + SIGINT, as shells expect


app = typer.Typer(
    cls=Commands,
    help="Train multi-turn LLM agents by hindsight self-distillation, and inspect their runs.",
    epilog="Start with: hero_pl fit --config hero_pl:quickstart",
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _commands in (training.app, look.app, catalog.app):  # without a name: their commands are on the top level
    app.add_typer(_commands)
app.add_typer(annotate.app, name="annotate", rich_help_panel=look.PANEL)


def main(args: list[str] | None = None) -> None:
    """Run one command; return if it succeeded.

    Args:
        args: The command and its arguments; default: ``sys.argv``.

    Raises:
        SystemExit: The command failed; the reason was printed.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append("")  # a module in the folder you are in is found, and cannot take the place of another
    try:
        app(args, prog_name="hero_pl")
    except SystemExit as end:
        if end.code:
            raise


def _cause(error: BaseException | None) -> HeroError | None:
    """The project's own error inside one that the configuration parser has wrapped."""
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
    """Options without a command."""

"""Commands that inspect runs; they read run folders and load no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hero_pl.errors import HeroError

PANEL = "Look at runs"

app = typer.Typer()


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl view runs/quickstart --terminal --limit 5")
def view(
    records: Annotated[
        Path, typer.Argument(help="A trajectories.jsonl, a run folder, or a folder with one run below it.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file to write; default: next to the records.")] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print to the terminal instead of writing a page.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", help="Number of episodes to print; the summary covers all.")] = 20,
    stage: Annotated[
        str | None, typer.Option("--stage", help="With --terminal: print only this stage, for example train.")
    ] = None,
) -> None:
    """Show the trajectories of a run as an HTML page, or in the terminal."""
    from hero_pl.runs.folders import one_run

    path = one_run(records)
    if terminal:
        from hero_pl.runs.viewer.terminal import print_terminal

        print_terminal(path, limit, stage=stage)
        return
    print(_write_page(path, out or path.with_suffix(".html")))


def _write_page(records: Path, target: Path) -> str:
    """Color single tokens if the run's tokenizer is available; else do not overwrite a page that has token colors."""
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
        kept, target = f"; {target}, which colors single tokens, was kept", target.with_suffix(".turns.html")
    note = f"\nColors are per turn, not per token: {missing}{kept}." if decode is None else ""
    return f"Wrote {write_html(records, target, decode)} episodes to {target}{note}"


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl plot runs/a runs/b --out curves.png")
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")] = Path("curves.png"),
) -> None:
    """Plot success, turns per episode and reflection coverage of runs over training turns."""
    from hero_pl.runs.plots import plot_runs

    plot_runs(runs, out)
    print(f"Wrote {out}")


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl compare runs/a/version_0 runs/b/version_0")
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs with eval.jsonl, or folders with such runs below them.")
    ],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Method to compare the others with; default: the first one.")
    ] = None,
    metric: Annotated[
        Literal["success", "reward", "turns"], typer.Option("--metric", help="Metric to compare.")
    ] = "success",
    budget: Annotated[
        int | None, typer.Option("--budget", help="Compare at this number of training turns only.")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Compare at this stage only: test or validate.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Compare methods, paired by task and run: difference with a 95 % interval, or "not resolved"."""
    from hero_pl.runs.compare import compare_runs
    from hero_pl.runs.tables import print_comparison, to_markdown

    found = compare_runs(runs, baseline, metric, budget=budget, stage=stage)
    if markdown:
        print(to_markdown(found))
    else:
        print_comparison(found)

"""Commands that inspect runs; they read run folders and load no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hero_pl.errors import HeroError

PANEL = "Look at runs"

app = typer.Typer()


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl view runs/hero runs/grpo --out pair.html")
def view(
    runs: Annotated[
        list[Path], typer.Argument(help="Each a trajectories.jsonl, a run folder, or a folder with one run below it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write; default: next to the records, of several runs runs.html."),
    ] = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Print to the terminal instead of writing a page.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", help="Number of episodes to print; the summary covers all.")] = 20,
    stage: Annotated[
        str | None, typer.Option("--stage", help="With --terminal: print only this stage, for example train.")
    ] = None,
) -> None:
    """Show the trajectories of a run as an HTML page, or in the terminal; of several runs side by side by task."""
    from hero_pl.runs.folders import one_run

    paths = [one_run(run) for run in runs]
    if terminal:
        from hero_pl.runs.viewer.terminal import print_terminal

        for path in paths:
            if len(paths) > 1:
                print(path)
            print_terminal(path, limit, stage=stage)
        return
    print(_write_page(paths, out or (paths[0].with_suffix(".html") if len(paths) == 1 else Path("runs.html"))))


def _write_page(paths: list[Path], target: Path) -> str:
    """Color single tokens if a run's tokenizer is available; else do not overwrite a page that has token colors."""
    from hero_pl.runs.viewer.page import Source, is_per_token, write_html

    sources, missing = [], []
    for path in paths:
        config, decode = path.parent / "config.yaml", None
        if config.is_file():
            from hero_pl.cli.components import speller

            try:
                decode = speller(config)
            except HeroError as error:
                missing.append(str(error))
        else:
            missing.append(f"there is no {config}")
        sources.append(Source(path, decode))
    kept = ""
    if len(missing) == len(sources) and is_per_token(target):
        kept, target = f"; {target}, which colors single tokens, was kept", target.with_suffix(".turns.html")
    note = f"\nColors are per turn, not per token: {'; '.join(missing)}{kept}." if missing else ""
    return f"Wrote {write_html(sources, target)} episodes to {target}{note}"


@app.command(rich_help_panel=PANEL, epilog="Example: hero_pl plot runs/a runs/b --out curves.png")
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", help="PNG or SVG file to write.")] = Path("curves.png"),
) -> None:
    """Plot success, turns, loss, divergence, effect of the hints, coverage and entropy of runs over training turns."""
    from hero_pl.runs.plots import plot_runs
    from hero_pl.runs.viewer.terminal import plain

    for note in plot_runs(runs, out):
        print(plain(note))
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
    methods: Annotated[
        str | None, typer.Option("--methods", help="Compare these methods only, separated by commas.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Compare methods, paired by task and run: difference with a 95 % interval, or "not resolved"."""
    from hero_pl.runs.compare import compare_runs
    from hero_pl.runs.tables import print_comparison, to_markdown

    chosen = [name.strip() for name in methods.split(",") if name.strip()] if methods else []
    comparisons = compare_runs(runs, baseline, metric, budget=budget, stage=stage, methods=chosen)
    if markdown:
        print(to_markdown(comparisons))
    else:
        print_comparison(comparisons)


@app.command(
    "export-data", rich_help_panel=PANEL, epilog="Example: hero_pl export-data runs/quickstart --format dpo --out pairs"
)
def export_data(
    run: Annotated[Path, typer.Argument(help="A run folder, or a folder with one run below it.")],
    format_: Annotated[
        Literal["messages", "sft", "dpo"],
        typer.Option("--format", help="Whole episodes, replies of good episodes, or pairs of replies."),
    ] = "messages",
    out: Annotated[Path | None, typer.Option("--out", help="New folder; default: data-FORMAT.")] = None,
    stage: Annotated[str, typer.Option("--stage", help="Episodes of this stage; all takes every one.")] = "train",
    min_reward: Annotated[float, typer.Option("--min-reward", help="sft: only episodes that reach it.")] = 1.0,
    license_: Annotated[str, typer.Option("--license", help="License of the data, for its card.")] = "unknown",
    push: Annotated[
        str, typer.Option("--push", metavar="USER/NAME", help="Also upload it to the Hugging Face hub, private.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="Make a repository that --push creates public.")] = False,
) -> None:
    """Write the episodes of a run as a data set that other trainers read (TRL), with a card."""
    from hero_pl.export.hub import check_license, check_name
    from hero_pl.export.hub import push as upload
    from hero_pl.runs.folders import one_run

    if push:
        check_name(push)
    check_license(license_)
    records = one_run(run)
    from hero_pl.cli.components import control_tokens
    from hero_pl.export.data import DATA_FILE, Selection, write_data
    from hero_pl.export.dataset_card import write_dataset_card

    selection, folder, control, note = Selection(format_, stage, min_reward), out or Path(f"data-{format_}"), [], ""
    try:
        control = control_tokens(records.parent / "config.yaml")
    except HeroError as error:
        note = f"\nOnly control tokens of common models were looked for: {error}."
    written = write_data(records, folder, selection, control)
    write_dataset_card(folder, records.parent, selection, written, license_, push)
    print(f"Wrote {written.rows} rows from {written.episodes} episodes to {folder / DATA_FILE}{note}")
    for reason, count in written.left_out.items():
        print(f"Left out: {count} {reason}")
    if push:
        print(f"Uploaded to {upload(folder, push, 'dataset', public)}")

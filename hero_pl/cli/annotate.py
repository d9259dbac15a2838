"""``hero_pl annotate ...``: measure the quality of the diagnoses of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hero_pl.errors import HeroError

app = typer.Typer(
    help="Measure the quality of the diagnoses of a run: draw turns (sample), label them, print the report.",
    epilog="Example: hero_pl annotate sample runs/quickstart --out turns.jsonl; then label turns.jsonl with label, "
    "form, judge, oracle or outcome; then report",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Turns = Annotated[Path, typer.Argument(help="Rows written by sample.")]
Labels = Annotated[Path, typer.Option("--out", help="File for the labeled rows.")]


@app.command(epilog="Example: hero_pl annotate sample runs/quickstart --out turns.jsonl")
def sample(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder or trajectories.jsonl with diagnoses, or a folder with one run below it."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="File for the rows; the arms are in a separate key file that raters must not see."),
    ] = Path("turns.jsonl"),
    turns: Annotated[int, typer.Option("--turns", help="Number of turns to draw.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seed of draw, order and shuffling.")] = 0,
) -> None:
    """Draw turns of a run, each with its own and with a shuffled diagnosis."""
    from hero_pl.annotate.files import draw, key_path, write_sample

    rows, key = draw(run, turns, seed)
    write_sample(out, rows, key)
    print(f"Wrote {len(rows)} rows on {len(rows) // 2} turns to {out}, and the key with their arms to {key_path(out)}")


@app.command(epilog="Example: hero_pl annotate label turns.jsonl --out me.jsonl --rater me")
def label(
    turns: Turns,
    out: Annotated[Path, typer.Option("--out", help="File for the labeled rows, appended one by one.")] = Path(
        "labels.jsonl"
    ),
    rater: Annotated[str, typer.Option("--rater", help="Name of the rater.")] = "",
) -> None:
    """Label rows in the terminal; calling it again continues."""
    from hero_pl.annotate.terminal import ask_all

    print(f"{ask_all(turns, out, rater)} rows labeled in {out}")


@app.command(epilog="Example: hero_pl annotate form turns.jsonl --out form.html")
def form(
    turns: Turns,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("form.html"),
) -> None:
    """Write an HTML page to label rows in a browser, without a server or network."""
    from hero_pl.annotate.form import write_form

    print(f"Wrote a form for {write_form(turns, out)} rows to {out}; its save button writes the labels as JSON lines")


@app.command(
    epilog="Example: hero_pl annotate judge turns.jsonl http://localhost:8000/v1 MODEL --max_total_tokens 200000"
)
def judge(
    turns: Turns,
    base_url: Annotated[str, typer.Argument(help="Base URL, for example http://localhost:8000/v1.")],
    model: Annotated[str, typer.Argument(help="Name of the model at the endpoint.")],
    out: Annotated[Path, typer.Option("--out", help="File for the labeled rows, appended one by one.")] = Path(
        "judge.jsonl"
    ),
    api_key_env: Annotated[
        str, typer.Option("--api_key_env", help="Environment variable with the API key; empty for no key.")
    ] = "",
    max_total_tokens: Annotated[
        int | None, typer.Option("--max_total_tokens", help="Maximum number of tokens over all requests.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Maximum number of parallel requests.")] = 8,
) -> None:
    """Label rows with a model behind an OpenAI-compatible endpoint; calling it again continues."""
    from hero_pl.annotate.files import labeled_rows, read_rows
    from hero_pl.annotate.judge import judge_rows
    from hero_pl.reflection.chat_endpoint import ChatEndpoint
    from hero_pl.reflection.chat_reflector import api_key
    from hero_pl.runs.jsonl import append_lines

    key = api_key(api_key_env)
    rows = read_rows(turns)
    kept = labeled_rows(out, rows, model)
    done = {row["id"] for row in kept}
    endpoint = ChatEndpoint(base_url, model, key, max_total_tokens=max_total_tokens)

    def keep(row: dict[str, Any]) -> None:
        append_lines(out, [row])
        kept.append(row)

    try:
        judge_rows([row for row in rows if row["id"] not in done], endpoint, concurrency, keep)
    finally:  # also at an error or Ctrl-C
        failed = sum(bool(row.get("failure")) for row in kept)
        more = "; the same command asks for the others" if len(kept) < len(rows) else ""
        print(f"{len(kept) - failed} of {len(rows)} rows answered, {endpoint.spent_tokens} tokens; see {out}{more}")


@app.command(epilog="Example: hero_pl annotate oracle turns.jsonl --out oracle.jsonl")
def oracle(
    turns: Turns,
    out: Labels = Path("oracle.jsonl"),
) -> None:
    """Label rows by rule, for the environments with rules (pocket shop, pocket retail)."""
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.oracle import label_rows
    from hero_pl.runs.jsonl import append_lines

    read = read_rows(turns)
    new_file(out)
    rows = label_rows(read)
    append_lines(out, rows)
    print(f"Wrote {len(rows)} rows labeled by rule to {out}")


@app.command(epilog="Example: hero_pl annotate outcome turns.jsonl runs/quickstart/version_0/config.yaml")
def outcome(
    turns: Turns,
    config: Annotated[str, typer.Argument(help="Configuration of the run; its data.env and data.env_args are used.")],
    out: Labels = Path("outcome.jsonl"),
) -> None:
    """Label rows by outcome: is less reward reachable after the turn? The rest of the episode is played by rule."""
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.outcome import label_rows
    from hero_pl.cli.configs import read_config
    from hero_pl.runs.jsonl import append_lines

    data = read_config(config).get("data") or {}
    if not isinstance(data, dict) or not isinstance(data.get("env"), str):
        raise HeroError(f"{config} has no environment. Give the configuration of the run, with data.env.")
    read = read_rows(turns)
    new_file(out)
    rows = label_rows(read, data["env"], data.get("env_args"))
    append_lines(out, rows)
    known = sum(row["labels"]["turn_was_error"] is not None for row in rows)
    print(f"Wrote {len(rows)} rows to {out}, {known} labeled; in the others no reward could be reached before the turn")


@app.command(epilog="Example: hero_pl annotate report me.jsonl judge.jsonl --key turns.key.json --gold oracle.jsonl")
def report(
    raters: Annotated[list[Path], typer.Argument(help="Files of labeled rows, one per rater.")],
    key: Annotated[Path, typer.Option("--key", help="Key file written by sample.")] = Path("turns.key.json"),
    gold: Annotated[
        Path | None,
        typer.Option("--gold", help="Labeled rows that replace the majority of the raters."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the report to this JSON file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
) -> None:
    """Print agreement of raters, precision and recall of errors, and calibration, for true and shuffled diagnoses."""
    from hero_pl.annotate.files import print_report, read_key, read_rows, report_json, to_markdown
    from hero_pl.annotate.quality import quality_report
    from hero_pl.runs.folders import must_be_writable

    if out is not None:
        must_be_writable(out, "Name another file with --out.")
    quality = quality_report([read_rows(path) for path in raters], read_key(key), read_rows(gold) if gold else ())
    if out is not None:
        out.write_text(report_json(quality), encoding="utf-8")
    if markdown:
        print(to_markdown(quality))
    else:
        print_report(quality)

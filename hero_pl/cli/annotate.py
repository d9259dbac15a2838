"""``hero_pl annotate ...``: how good are the diagnoses of a run?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hero_pl.errors import HeroError

app = typer.Typer(
    help="How good are the diagnoses of a run? Draw turns (sample), have them labeled, read the agreement (report).",
    epilog="Example: hero_pl annotate sample runs/quickstart --out turns.jsonl; then label, form, judge, oracle or "
    "outcome turns.jsonl; then report",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Turns = Annotated[Path, typer.Argument(help="What sample wrote.")]
Labels = Annotated[Path, typer.Option("--out", help="Labeled rows.")]


@app.command(epilog="Example: hero_pl annotate sample runs/quickstart --out turns.jsonl")
def sample(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder or trajectories.jsonl with reflections, or a folder with one run."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", help="Rows for the raters; the arms go to a key file, which raters must not see."),
    ] = Path("turns.jsonl"),
    turns: Annotated[int, typer.Option("--turns", help="How many.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of draw, order and shuffling.")] = 0,
) -> None:
    """Draw turns of a run for annotation, each with its own and with a shuffled diagnosis."""
    from hero_pl.annotate.files import draw, key_path, write_sample

    rows, key = draw(run, turns, seed)
    write_sample(out, rows, key)
    print(f"Wrote {len(rows)} rows on {len(rows) // 2} turns to {out}; which arm each is: {key_path(out)}")


@app.command(epilog="Example: hero_pl annotate label turns.jsonl --out me.jsonl --rater me")
def label(
    turns: Turns,
    out: Annotated[Path, typer.Option("--out", help="Labeled rows, appended one by one.")] = Path("labels.jsonl"),
    rater: Annotated[str, typer.Option("--rater", help="Name to record.")] = "",
) -> None:
    """Answer the questions in the terminal; a second call goes on where the first was left."""
    from hero_pl.annotate.terminal import ask_all

    print(f"{ask_all(turns, out, rater)} rows labeled in {out}")


@app.command(epilog="Example: hero_pl annotate form turns.jsonl --out form.html")
def form(
    turns: Turns,
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("form.html"),
) -> None:
    """Write one HTML page to label the rows in a browser, without server or network."""
    from hero_pl.annotate.form import write_form

    print(f"Wrote a form for {write_form(turns, out)} rows to {out}; its button saves them as JSON lines")


@app.command(
    epilog="Example: hero_pl annotate judge turns.jsonl http://localhost:8000/v1 MODEL --max_total_tokens 200000"
)
def judge(
    turns: Turns,
    base_url: Annotated[str, typer.Argument(help="For example http://localhost:8000/v1.")],
    model: Annotated[str, typer.Argument(help="Name the endpoint knows.")],
    out: Labels = Path("judge.jsonl"),
    api_key_env: Annotated[
        str, typer.Option("--api_key_env", help="Environment variable that holds the key; empty if none is wanted.")
    ] = "",
    max_total_tokens: Annotated[
        int | None, typer.Option("--max_total_tokens", help="Tokens that may be spent in all.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Requests in flight.")] = 8,
) -> None:
    """Let a model behind an OpenAI-compatible endpoint answer."""
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.judge import judge_rows
    from hero_pl.reflection.chat_endpoint import ChatEndpoint
    from hero_pl.reflection.chat_reflector import api_key
    from hero_pl.runs.jsonl import append_lines

    key = api_key(api_key_env)
    rows = read_rows(turns)
    new_file(out)
    endpoint = ChatEndpoint(base_url, model, key, max_total_tokens=max_total_tokens)
    judged = judge_rows(rows, endpoint, concurrency)
    append_lines(out, judged)
    failed = sum(bool(row["failure"]) for row in judged)
    print(f"{len(judged) - failed} of {len(judged)} rows answered, {endpoint.spent_tokens} tokens; wrote {out}")


@app.command(epilog="Example: hero_pl annotate oracle turns.jsonl --out oracle.jsonl")
def oracle(
    turns: Turns,
    out: Labels = Path("oracle.jsonl"),
) -> None:
    """Answer by rule, where the environment has rules (the pocket shop, the pocket retail desk)."""
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.oracle import label_rows
    from hero_pl.runs.jsonl import append_lines

    rows = label_rows(read_rows(turns))
    new_file(out)
    append_lines(out, rows)
    print(f"Wrote {len(rows)} rows labeled by rule to {out}")


@app.command(epilog="Example: hero_pl annotate outcome turns.jsonl runs/quickstart/version_0/config.yaml")
def outcome(
    turns: Turns,
    config: Annotated[
        str, typer.Argument(help="The configuration of the run; its data.env and data.env_args are played again.")
    ],
    out: Labels = Path("outcome.jsonl"),
) -> None:
    """Answer by outcome: was there less to gain after the turn than before? The rest is played by rule."""
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.outcome import label_rows
    from hero_pl.cli.configs import read_config
    from hero_pl.runs.jsonl import append_lines

    data = read_config(config).get("data") or {}
    if not isinstance(data, dict) or not isinstance(data.get("env"), str):
        raise HeroError(f"{config}: names no environment; expected the configuration of the run, with data.env.")
    rows = label_rows(read_rows(turns), data["env"], data.get("env_args"))
    new_file(out)
    append_lines(out, rows)
    known = sum(row["labels"]["turn_was_error"] is not None for row in rows)
    print(f"Wrote {len(rows)} rows to {out}, {known} of them labeled by outcome; the others were lost before the turn")


@app.command(epilog="Example: hero_pl annotate report me.jsonl judge.jsonl --key turns.key.json --gold oracle.jsonl")
def report(
    raters: Annotated[list[Path], typer.Argument(help="Labeled rows, one file per rater.")],
    key: Annotated[Path, typer.Option("--key", help="The key file of sample.")] = Path("turns.key.json"),
    gold: Annotated[
        Path | None,
        typer.Option("--gold", help="Labeled rows that count instead of the majority of the raters."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the report as JSON.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Agreement of the raters, precision and recall of "this turn was an error", calibration; shuffled as floor."""
    from hero_pl.annotate.files import print_report, read_key, read_rows, report_json, to_markdown
    from hero_pl.annotate.quality import quality_report

    found = quality_report([read_rows(path) for path in raters], read_key(key), read_rows(gold) if gold else ())
    if out is not None:
        out.write_text(report_json(found), encoding="utf-8")
    if markdown:
        print(to_markdown(found))
    else:
        print_report(found)

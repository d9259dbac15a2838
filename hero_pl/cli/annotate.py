"""``hero_pl annotate ...``: how good are the diagnoses of a run?

    hero_pl annotate sample runs/NAME/version_0 --out turns.jsonl    draw turns; turns.key.json says which arm is which
    hero_pl annotate label turns.jsonl --out me.jsonl                answer in the terminal
    hero_pl annotate form turns.jsonl --out form.html                or in a page that exports JSON lines
    hero_pl annotate judge turns.jsonl URL MODEL --out judge.jsonl   or by a model behind an endpoint
    hero_pl annotate oracle turns.jsonl --out oracle.jsonl           or by rule, where the environment has rules
    hero_pl annotate outcome turns.jsonl CONFIG                      or by playing the rest of the episode by rule
    hero_pl annotate report me.jsonl judge.jsonl --key turns.key.json --gold oracle.jsonl

Each takes --help.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hero_pl.errors import HeroError


def sample(run: Path, out: Path = Path("turns.jsonl"), turns: int = 100, seed: int = 0) -> None:
    """Draw turns of a run for annotation, each with its own and with a shuffled diagnosis.

    Args:
        run: A run folder with reflections in trajectories.jsonl, such a file, or a folder with one run below it.
        out: Rows for the raters; the arms go to a key file beside it, which raters must not see.
        turns: How many.
        seed: Of draw, order and shuffling.
    """
    from hero_pl.annotate.files import draw, key_path, write_sample

    rows, key = draw(run, turns, seed)
    write_sample(out, rows, key)
    print(f"Wrote {len(rows)} rows on {len(rows) // 2} turns to {out}; which arm each is: {key_path(out)}")


def label(turns: Path, out: Path = Path("labels.jsonl"), rater: str = "") -> None:
    """Answer the questions in the terminal; a second call goes on where the first was left.

    Args:
        turns: What ``sample`` wrote.
        out: Labeled rows, appended one by one.
        rater: Name to record.
    """
    from hero_pl.annotate.terminal import ask_all

    print(f"{ask_all(turns, out, rater)} rows labeled in {out}")


def form(turns: Path, out: Path = Path("form.html")) -> None:
    """Write one HTML page to label the rows in a browser, without server or network.

    Args:
        turns: What ``sample`` wrote.
        out: The page.
    """
    from hero_pl.annotate.form import write_form

    print(f"Wrote a form for {write_form(turns, out)} rows to {out}; its button saves them as JSON lines")


def judge(
    turns: Path,
    base_url: str,
    model: str,
    out: Path = Path("judge.jsonl"),
    api_key_env: str = "",
    max_total_tokens: int | None = None,
    concurrency: int = 8,
) -> None:
    """Let a model behind an OpenAI-compatible endpoint answer.

    Args:
        turns: What ``sample`` wrote.
        base_url: For example http://localhost:8000/v1.
        model: Name the endpoint knows.
        out: Labeled rows.
        api_key_env: Environment variable that holds the key; empty if the endpoint wants none.
        max_total_tokens: Tokens that may be spent in all.
        concurrency: Requests in flight.
    """
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


def oracle(turns: Path, out: Path = Path("oracle.jsonl")) -> None:
    """Answer by rule, where the environment has rules (the pocket shop, the pocket retail desk).

    Args:
        turns: What ``sample`` wrote.
        out: Labeled rows.
    """
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.oracle import label_rows
    from hero_pl.runs.jsonl import append_lines

    rows = label_rows(read_rows(turns))
    new_file(out)
    append_lines(out, rows)
    print(f"Wrote {len(rows)} rows labeled by rule to {out}")


def outcome(turns: Path, config: Path, out: Path = Path("outcome.jsonl")) -> None:
    """Answer by outcome: was there less to gain after the turn than before? The rest is played by rule.

    Args:
        turns: What ``sample`` wrote.
        config: The configuration of the run; its ``data.env`` and ``data.env_args`` are played again.
        out: Labeled rows.
    """
    from hero_pl.annotate.files import new_file, read_rows
    from hero_pl.annotate.outcome import label_rows
    from hero_pl.cli.components import read_config
    from hero_pl.runs.jsonl import append_lines

    data = read_config(config).get("data") or {}
    if not isinstance(data, dict) or not isinstance(data.get("env"), str):
        raise HeroError(f"{config}: names no environment; expected the configuration of the run, with data.env.")
    rows = label_rows(read_rows(turns), data["env"], data.get("env_args"))
    new_file(out)
    append_lines(out, rows)
    known = sum(row["labels"]["turn_was_error"] is not None for row in rows)
    print(f"Wrote {len(rows)} rows to {out}, {known} of them labeled by outcome; the others were lost before the turn")


def report(
    raters: list[Path],
    key: Path = Path("turns.key.json"),
    gold: Path | None = None,
    out: Path | None = None,
    markdown: bool = False,
) -> None:
    """Agreement of the raters, precision and recall of "this turn was an error", calibration; shuffled ones as floor.

    Args:
        raters: Labeled rows, one file per rater.
        key: The key file of ``sample``.
        gold: Labeled rows whose answers count instead of the majority of the raters.
        out: Also write the report as JSON.
        markdown: Print Markdown.
    """
    from hero_pl.annotate.files import print_report, read_key, read_rows, report_json, to_markdown
    from hero_pl.annotate.quality import quality_report

    found = quality_report([read_rows(path) for path in raters], read_key(key), read_rows(gold) if gold else ())
    if out is not None:
        out.write_text(report_json(found), encoding="utf-8")
    if markdown:
        print(to_markdown(found))
    else:
        print_report(found)


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "label": label,
    "form": form,
    "judge": judge,
    "oracle": oracle,
    "outcome": outcome,
    "report": report,
}

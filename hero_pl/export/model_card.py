"""The model card of an exported policy: task, method, result with interval, commit, curve, base model, license."""

from __future__ import annotations

import datetime
import pprint
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from hero_pl.chat.actions import ActionParser, PlainText, ReAct, ToolCall
from hero_pl.chat.wording import jinja_environment
from hero_pl.errors import ConfigError, HeroError
from hero_pl.export.results import Evaluation, evaluations, of_these_weights
from hero_pl.export.settings import at, base_model, clean, hub_id, shown
from hero_pl.runs.provenance import starts
from hero_pl.runs.records import RECORDS_FILE, read_records
from hero_pl.runs.settings import read_settings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HERE = Path(__file__).parent
CARD_FILE = "README.md"
CURVE_FILE = "curves.png"
LONGEST_EXAMPLE = 400
"""Longest text of the environment, in characters, that the example of the card shows; a longer one is described."""
DIALECTS: dict[type[ActionParser], str] = {
    PlainText: "The whole reply is the action.",
    ToolCall: "A reply is a tool call in a common format (JSON or tags), or plain text to the user.",
    ReAct: "A reply is a line `Thought: ...` and a line `Action: ...`.",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """Properties of the export that the card describes."""

    turns: int
    """Training turns that the weights have used."""
    adapter: bool
    """Whether the folder contains an adapter without its base model."""
    parser: ActionParser
    method: str
    """Name of the objective and its components."""
    license: str = "unknown"
    """Identifier of a license, as the Hugging Face hub spells it."""
    name: str = ""
    """Name on the hub; default: that of the folder."""
    date: datetime.date | None = None
    """Date that the chat template wrote into every prompt; ``None`` if it writes none."""


def write_model_card(folder: Path, run: Path | None, exported: Exported) -> Path:
    """Write ``README.md``, and the curves next to it.

    Args:
        folder: Folder with the exported weights.
        run: Folder of the run; ``None`` if there is none.
        exported: Description of the written files.

    Returns:
        Path of the card.

    Raises:
        HeroError: A file of the run cannot be read.
    """
    settings = read_settings(run) if run else {}
    results = evaluations(run) if run else []
    own = of_these_weights(results, exported.turns)
    base = hub_id(settings)
    users = sorted({one.user for one in results if one.user})
    messages, tools = _example(run, exported.parser)
    text = _template().render(
        title=(exported.name or folder.resolve().name).rpartition("/")[2],
        kind="A LoRA adapter" if exported.adapter else "A language model",
        env=at(settings, "data", "env") or "an unknown environment",
        env_args=clean(at(settings, "data", "env_args")),
        base=f"[{base}](https://huggingface.co/{base})" if base else base_model(settings),
        method=exported.method,
        turns=exported.turns,
        seed=at(settings, "data", "seed"),
        made_with=made_with(run),
        license_note=license_note(exported.license),
        own=own,
        evaluations=results,
        floors=any(one.floor is not None for one in results),
        repeated=any(one.tasks < one.episodes for one in results),
        users=f" User simulator: {', '.join(users)}; scores with other users are not comparable." if users else "",
        temperature=at(settings, "data", "eval_temperature"),
        max_action_tokens=at(settings, "data", "max_action_tokens"),
        max_turns=at(settings, "data", "limits", "max_turns") or "unlimited",
        curve=_copy_curve(run, folder) if run else None,
        needs="Needs transformers" + (" and peft, and reads the base model as well." if exported.adapter else "."),
        name=repr(exported.name or folder.resolve().name),
        local=not exported.name,
        messages=messages,
        tools=tools,
        template_arguments=_template_arguments(settings),
        date=exported.date,
        dialect=DIALECTS.get(type(exported.parser), f"Replies are read by `{type(exported.parser).__name__}`."),
        settings=shown(settings) or "# not recorded",
        bibtex=(HERE / "paper.bib").read_text(encoding="utf-8").strip(),
    )
    path = folder / CARD_FILE
    path.write_text(f"---\n{_front_matter(settings, base, results, own, exported)}\n---\n\n{text}\n", encoding="utf-8")
    return path


def _front_matter(
    settings: Mapping[str, Any],
    base: str | None,
    evaluated: Sequence[Evaluation],
    own: Evaluation | None,
    exported: Exported,
) -> str:
    """Metadata for the hub: license, base model, and the result of exactly these weights."""
    from huggingface_hub import EvalResult, ModelCardData

    env = str(at(settings, "data", "env") or "unknown")
    results: list[EvalResult] = []
    if own is not None:
        results = [
            EvalResult(
                task_type="reinforcement-learning",
                task_name="multi-turn episodes",
                dataset_type=env,
                dataset_name=env,
                dataset_split=own.stage,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 6),
            )
            for kind, name, value in (
                ("success", f"success, 95 % interval {own.low:.3f} to {own.high:.3f}", own.success),
                ("reward", "mean reward", own.reward),
            )
        ]
    data = ModelCardData(
        license=exported.license,
        base_model=base,
        base_model_relation=("adapter" if exported.adapter else "finetune") if base else None,
        library_name="peft" if exported.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["hero_pl", "agents", "multi-turn", "self-distillation"],
        model_name=exported.name.rpartition("/")[2] or "policy",
        eval_results=results or None,
    )
    return data.to_yaml()


def _example(run: Path | None, parser: ActionParser) -> tuple[str, str]:
    """The start of an episode of the run and the tools that the chat template gets, as Python expressions.

    Long texts are replaced by descriptions. The second expression is empty if there are no tools.
    """
    records = run / RECORDS_FILE if run else None
    first = next(iter(read_records(records)), None) if records and records.exists() else None
    system, first_text, schemas = "", "the first observation", tuple[Mapping[str, Any], ...]()
    if first is not None:
        system, schemas = parser.describe(first.trajectory.system_prompt, first.trajectory.tools)
        first_text = first.trajectory.first_observation
    texts = [("system", system, "the system prompt"), ("user", first_text, "the first observation")]
    shown_texts = [
        {"role": role, "content": text if len(text) <= LONGEST_EXAMPLE else f"... {name} of the environment ..."}
        for role, text, name in texts
        if text
    ]
    tools = pprint.pformat([dict(one) for one in schemas], width=110, sort_dicts=False) if schemas else ""
    return repr(shown_texts), tools


def _template_arguments(settings: Mapping[str, Any]) -> str:
    """Values of the run for variables of the chat template; ``today`` is none of them."""
    given = at(settings, "model", "policy", "init_args", "template_args") or {}
    return "".join(f"{name}={clean(value)!r}, " for name, value in given.items() if name != "today")


def _copy_curve(run: Path, folder: Path) -> str | None:
    """Put the curves of the run next to the card; draw them if the run did not. ``None`` if there are none."""
    from hero_pl.runs.plots import plot_run

    source, target = run / CURVE_FILE, folder / CURVE_FILE
    if source.exists():
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
        return CURVE_FILE
    try:
        plot_run(run, target)
    except (ConfigError, HeroError):  # no matplotlib, or a run that logged nothing: the card has no curves
        return None
    return CURVE_FILE


def made_with(run: Path | None) -> str:
    """Version and commit of each start of the run."""
    versions = []
    for row in starts(run) if run else []:
        commit = f"`{row['commit']}`" if row.get("commit") else "not recorded"
        versions.append(f"{row.get('hero_pl', 'unknown')}, commit {commit}")
    return "; then ".join(dict.fromkeys(versions)) or "version and commit not recorded"


def license_note(name: str) -> str:
    """The license as the table of a card shows it."""
    return "not stated" if name == "unknown" else name


def _template() -> jinja2.Template:
    return jinja_environment(jinja2.FileSystemLoader(HERE)).get_template("model_card.jinja")

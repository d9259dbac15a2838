"""The card of a data set: meaning and source of its rows, what was left out, license."""

from __future__ import annotations

from pathlib import Path

import jinja2

from hero_pl.chat.wording import jinja_environment
from hero_pl.export.data import BLOCK, DATA_FILE, Selection, Written
from hero_pl.export.model_card import CARD_FILE, HERE, license_note, made_with
from hero_pl.export.settings import base_model
from hero_pl.runs.settings import read_settings

MEANINGS = {
    "messages": "One row per episode, whatever its reward: `messages` from the system prompt to the last reply, and "
    "`final_observation`. Filter by `reward` or `success` before you imitate them.",
    "sft": "One row per turn of an episode with a reward of at least {min_reward:g}: `prompt` holds the messages "
    "before the reply, `completion` the reply. A trainer learns from the completion only.",
    "dpo": "One row per pair of replies to the same messages (`prompt`). With `source` `corrected_action`, `chosen` is "
    "the action that the reviewer of the run proposed after it had seen the answer, and `rejected` is the action that "
    "was taken; `confidence` is that of the diagnosis, and nothing proves that the proposal is better. With `source` "
    "`group`, both were sampled: the first different actions of the best and of the worst episode of one task; "
    "`reward` and `rejected_reward` are those of the episodes, so the credit for the single action is a guess. Of "
    "`corrected_action`, both are the reward of the episode in which the rejected action was taken.",
}


def write_dataset_card(
    folder: Path, run: Path, selection: Selection, written: Written, license_name: str = "unknown", name: str = ""
) -> Path:
    """Write ``README.md``.

    Args:
        folder: Folder with the data.
        run: Folder of the run.
        selection: Selection of the rows.
        written: Description of the written rows.
        license_name: Identifier of a license, as the Hugging Face hub spells it.
        name: Name on the hub; default: that of the folder.

    Raises:
        HeroError: A file of the run cannot be read.
    """
    from huggingface_hub import DatasetCardData

    text = (
        jinja_environment(jinja2.FileSystemLoader(HERE))
        .get_template("dataset_card.jinja")
        .render(
            title=(name or folder.resolve().name).rpartition("/")[2],
            rows=written.rows,
            format=selection.format,
            episodes=written.episodes,
            environments=", ".join(sorted(written.environments)),
            stage=selection.stage,
            base=base_model(read_settings(run)),
            made_with=made_with(run),
            license_note=license_note(license_name),
            meaning=MEANINGS[selection.format].format(min_reward=selection.min_reward),
            sources=dict(written.sources),
            block=BLOCK,
            file=repr(f"hf://datasets/{name}/{DATA_FILE}" if name else f"{folder.resolve().name}/{DATA_FILE}"),
            left_out=dict(written.left_out),
            broken=written.broken_texts,
        )
    )
    data = DatasetCardData(
        license=license_name,
        task_categories=["text-generation"],
        tags=["hero_pl", "agents", "multi-turn", selection.format],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": DATA_FILE}], "chunksize": BLOCK}],
    )
    path = folder / CARD_FILE
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{text}\n", encoding="utf-8")
    return path

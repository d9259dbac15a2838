"""The page shows everything that a run wrote, and no text becomes markup."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import TornLineWarning
from hero_pl.runs.records import Record, append_records
from hero_pl.runs.viewer import write_html
from hero_pl.runs.viewer.page import is_per_token
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

NASTY = "</script><script>alert(1)</script><!-- & {{data}} \ud800"


def record(task: str = "shop/1", *, reward: float = 1.0, stage: str = "train", scored: bool = True) -> Record:
    turns = tuple(
        Turn(n, (1, 2), (5, 6), (-0.1, -0.2), f"reply {n} {NASTY}", f"act {n}", f"saw {NASTY}", "tool") for n in (1, 2)
    )
    trajectory = Trajectory(
        task, "hero_pl/Toy-v0", 0, 0, "be good", ({"name": "act"},), f"do {NASTY}", turns, reward, StopReason.TERMINATED
    )
    reflection = Reflection((Diagnosis(f"bad {NASTY}", "low", {"name": NASTY}), None), "ok")
    if not scored:
        return Record(stage, 3, trajectory)
    return Record(stage, 3, trajectory, reflection, ((0.25, 0.75), None), ((0.1, 1 / 3), None), ((0.9, math.nan), None))


def spell(ids: Sequence[int]) -> list[str]:
    return [f"<{one}>" for one in ids]


def data_of(path: Path) -> dict:
    blocks = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    return json.loads(blocks[0])


@pytest.fixture
def records_path(tmp_path: Path) -> Path:
    path = tmp_path / "run-a" / "trajectories.jsonl"
    append_records(path, [record(), record("shop/2", reward=0.5), record("shop/3", stage="validate", scored=False)])
    return path


def test_outside_text_can_neither_end_the_data_block_nor_open_a_comment(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert write_html(records_path, out, spell) == 3
    page = out.read_text()
    assert len(re.findall(r"<script", page)) == 2
    assert len(re.findall(r"</script", page)) == 2
    assert "<!--" not in page
    assert "alert(1)<" not in page
    assert data_of(out)["episodes"][0]["turns"][0]["observation"] == f"saw {NASTY}"


def test_the_policy_names_exactly_the_style_and_the_script_in_the_page(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out)
    page = out.read_text()
    policy = re.findall(r'Content-Security-Policy" content="(.*?)"', page)[0]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        block = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)[0]
        assert base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() in policy


def test_the_page_asks_no_network(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out)
    assert not re.search(r"https?://|src=|@import|url\(", out.read_text())


def test_the_script_never_parses_text_as_markup() -> None:
    script = files("hero_pl.runs.viewer").joinpath("page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_every_token_carries_loss_and_both_probabilities(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out, spell)
    first, second = data_of(out)["episodes"][0]["turns"]
    assert first["tokens"] == [["<5>", 0.25, 0.1, 0.9], ["<6>", 0.75, 0.3333, None]]  # NaN has no place in JSON
    assert second["tokens"] == [["<5>", None, None, None], ["<6>", None, None, None]]


def test_without_a_tokenizer_a_turn_carries_its_mean_loss(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out)
    data = data_of(out)
    turn = data["episodes"][0]["turns"][0]
    assert "tokens" not in turn
    assert turn["mean"] == [0.5, 0.2167, 0.9]  # an id that was not scored has no part in the mean
    assert data["turn_scale"] == 0.5
    assert data["per_token"] is False


def test_one_token_with_a_huge_loss_does_not_make_all_others_pale(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    usual, huge = (replace(record(), token_loss=((loss, 1.0), None)) for loss in (1.0, 100.0))
    append_records(path, [*[usual] * 20, huge])
    write_html(path, tmp_path / "page.html", spell)
    data = data_of(tmp_path / "page.html")
    assert (data["token_scale"], data["turn_scale"]) == (1.0, 1.0)


def test_the_head_has_one_row_of_figures_per_stage(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out)
    data = data_of(out)
    train, validate = data["stages"]
    assert (train["stage"], train["episodes"], train["success"], train["reward"]) == ("train", 2, 0.5, 0.75)
    assert (train["turns"], train["coverage"], train["malformed"]) == (2.0, 0.5, 0.0)  # one diagnosis in two turns
    assert (validate["stage"], validate["coverage"]) == ("validate", None)
    assert data["name"] == "run-a/trajectories.jsonl"
    assert [one["ok"] for one in data["episodes"]] == [True, False, True]


def test_the_page_opens_on_the_first_episode_that_has_a_diagnosis_or_else_a_loss(tmp_path: Path) -> None:
    held_out, trained = record(stage="test", scored=False), record()
    for name, records, first in (
        ("diagnosed", [held_out, replace(trained, reflection=None), trained], 2),
        ("scored", [held_out, replace(trained, reflection=None)], 1),
        ("neither", [held_out, held_out], 0),
        ("empty", [], 0),
    ):
        (tmp_path / name).touch()
        append_records(tmp_path / name, records)
        write_html(tmp_path / name, tmp_path / "page.html")
        assert data_of(tmp_path / "page.html")["open"] == first, name


def test_prompts_that_repeat_are_stored_once(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html(records_path, out)
    assert out.read_text().count("be good") == 1


def test_a_decoder_that_loses_an_id_is_refused(records_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="1 texts for 2 ids at turn 1"):
        write_html(records_path, tmp_path / "page.html", lambda ids: ["all in one"])


def test_a_torn_last_record_is_reported_and_the_rest_is_shown(records_path: Path, tmp_path: Path) -> None:
    records_path.write_bytes(records_path.read_bytes()[:-20])
    with pytest.warns(TornLineWarning, match="after 2 complete lines"):
        assert write_html(records_path, tmp_path / "page.html") == 2


def test_a_page_that_cannot_be_written_is_named(records_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="cannot write the"):
        write_html(records_path, tmp_path)


def test_a_page_that_colors_tokens_is_distinguished_from_one_that_does_not(records_path: Path, tmp_path: Path) -> None:
    append_records(records_path, [record('say "per_token":true')])
    pages = {name: tmp_path / f"{name}.html" for name in ("tokens", "turns", "missing")}
    write_html(records_path, pages["tokens"], spell)
    write_html(records_path, pages["turns"])
    assert {name: is_per_token(page) for name, page in pages.items()} == {
        "tokens": True,
        "turns": False,
        "missing": False,
    }

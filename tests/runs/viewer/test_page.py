"""The page shows everything that a run wrote, and no text becomes markup."""

import base64
import hashlib
import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from hero_pl.cli.main import main
from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.jsonl import TornLineWarning
from hero_pl.runs.records import Record, append_records
from hero_pl.runs.viewer import Source, chunks, write_html
from hero_pl.runs.viewer.page import SCRIPTS, is_per_token, run_names
from hero_pl.types import Diagnosis, FinishReason, Hint, Reflection, StopReason, Trajectory, Turn

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
    columns = ((0.25, 0.75), None), ((0.1, 1 / 3), None), ((0.9, math.nan), None)
    return Record(stage, 3, trajectory, reflection, *columns, (Hint(1, f"hint {NASTY}", position="system"), None))


def spell(ids: Sequence[int]) -> list[str]:
    return [f"<{one}>" for one in ids]


def data_of(path: Path) -> dict:
    blocks = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    return json.loads(blocks[0])


def compressed(path: Path, kind: str) -> list[dict]:
    """The chunks of one kind, in order."""
    blocks = dict(re.findall(rf'<script type="text/plain" id="{kind}-(\d+)">(.*?)</script>', path.read_text()))
    return [json.loads(zlib.decompress(base64.b64decode(blocks[str(number)]))) for number in range(len(blocks))]


def texts(path: Path) -> list[dict]:
    return [one for chunk in compressed(path, "texts") for one in chunk["episodes"]]


def tokens(path: Path, episode: int, turn: int) -> list[list]:
    """Rows of text, loss, student and teacher, from the only chunk."""
    (chunk,) = compressed(path, "tokens")
    words, *columns = chunk["episodes"][episode][turn]
    filled = [column or [None] * len(words) for column in columns]
    return [[chunk["shared"][word], *values] for word, *values in zip(words, *filled, strict=True)]


def columns(path: Path, *places: int) -> list[list]:
    return [[row[place] for place in places] for row in data_of(path)["episodes"]]


@pytest.fixture
def records_path(tmp_path: Path) -> Path:
    path = tmp_path / "run-a" / "trajectories.jsonl"
    append_records(path, [record(), record("shop/2", reward=0.5), record("shop/3", stage="validate", scored=False)])
    return path


def test_outside_text_can_neither_end_the_data_block_nor_open_a_comment(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert write_html([Source(records_path, spell)], out) == 3
    page = out.read_text()
    assert len(re.findall(r"<script", page)) == 4  # data, texts, tokens and the script
    assert len(re.findall(r"</script", page)) == 4
    assert "<!--" not in page
    assert "alert(1)<" not in page
    assert texts(out)[0]["turns"][0]["observation"] == f"saw {NASTY}"


def test_the_policy_names_exactly_the_style_and_the_script_in_the_page(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    page = out.read_text()
    policy = re.findall(r'Content-Security-Policy" content="(.*?)"', page)[0]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        block = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)[0]
        assert base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() in policy


def test_the_page_asks_no_network(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    page = out.read_text().replace("http://www.w3.org/2000/svg", "")  # the name of a kind of element
    assert not re.search(r"https?://|src=|@import|url\(", page)


def test_the_script_never_parses_text_as_markup() -> None:
    folder = files("hero_pl.runs.viewer")
    script = "".join(folder.joinpath(f"{name}.js").read_text() for name in SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_every_token_carries_loss_and_both_probabilities(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path, spell)], out)
    assert tokens(out, 0, 0) == [["<5>", 0.25, 0.1, 0.9], ["<6>", 0.75, 0.3333, None]]  # NaN has no place in JSON
    assert tokens(out, 0, 1) == [["<5>", None, None, None], ["<6>", None, None, None]]


def test_without_a_tokenizer_a_turn_carries_its_mean_loss(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    data = data_of(out)
    assert [chunk["episodes"] for chunk in compressed(out, "tokens")] == [[None] * 3]
    turn = texts(out)[0]["turns"][0]
    assert turn["mean"] == [0.5, 0.2167, 0.9]  # an id that was not scored has no part in the mean
    assert data["runs"][0]["turn_scale"] == 0.5
    assert data["per_token"] is False


def test_one_token_with_a_huge_loss_does_not_make_all_others_pale(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    usual, huge = (replace(record(), token_loss=((loss, 1.0), None)) for loss in (1.0, 100.0))
    append_records(path, [*[usual] * 20, huge])
    write_html([Source(path, spell)], tmp_path / "page.html")
    (run,) = data_of(tmp_path / "page.html")["runs"]
    assert (run["token_scale"], run["turn_scale"]) == (1.0, 1.0)


def test_the_head_has_one_row_of_figures_per_stage(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    (run,) = data_of(out)["runs"]
    train, validate = run["stages"]
    assert (train["stage"], train["episodes"], train["success"], train["reward"]) == ("train", 2, 0.5, 0.75)
    assert (train["turns"], train["coverage"], train["malformed"]) == (2.0, 0.5, 0.0)  # one diagnosis in two turns
    assert (validate["stage"], validate["coverage"]) == ("validate", None)
    assert run["name"].endswith("/run-a")
    assert columns(out, 1, 5) == [["shop/1", True], ["shop/2", False], ["shop/3", True]]


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
        write_html([Source(tmp_path / name)], tmp_path / "page.html")
        assert data_of(tmp_path / "page.html")["open"] == first, name


def test_prompts_that_repeat_are_stored_once(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    (chunk,) = compressed(out, "texts")
    assert chunk["shared"] == ["be good", '{"name": "act"}']
    assert [(one["system"], one["tools"]) for one in chunk["episodes"]] == [(0, 1)] * 3


def test_the_hint_is_in_the_page_as_the_teacher_read_it(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    first, second = texts(out)[0]["turns"]
    assert first["hint"] == {"text": f"hint {NASTY}", "position": "system"}
    assert "hint" not in second


def test_a_chunk_ends_when_it_is_large_and_the_one_shown_first_comes_before_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 1000)
    path, out = tmp_path / "trajectories.jsonl", tmp_path / "page.html"
    plain = [record(f"shop/{i}", scored=False) for i in range(6)]
    append_records(path, [*plain, *[record(f"shop/{i}") for i in range(6, 9)]])
    write_html([Source(path, spell)], out)
    data, page = data_of(out), out.read_text()
    assert len(data["starts"]) > 3
    assert data["open"] == 6
    assert sum((len(chunk["episodes"]) for chunk in compressed(out, "texts")), 0) == 9
    shown = max(number for number, start in enumerate(data["starts"]) if start <= 6)
    order = [int(number) for number in re.findall(r'id="texts-(\d+)"', page)]
    assert order == [shown, *(number for number in range(len(order)) if number != shown)]
    assert page.index(f'id="tokens-{shown}"') < page.index('"use strict"') < page.index('id="texts-0"')


def test_several_runs_are_named_apart_and_each_keeps_its_scale(records_path: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "run-b" / "trajectories.jsonl", tmp_path / "page.html"
    append_records(other, [replace(record(), token_loss=((2.0, 2.0), None))])
    assert write_html([Source(records_path, spell), Source(other, spell)], out) == 4
    runs = data_of(out)["runs"]
    assert [run["name"].rpartition("/")[2] for run in runs] == ["run-a", "run-b"]
    assert [run["token_scale"] for run in runs] == [0.75, 2.0]
    assert columns(out, 0, 1) == [[0, "shop/1"], [0, "shop/2"], [0, "shop/3"], [1, "shop/1"]]


def test_names_of_runs_are_as_short_as_they_can_be_and_a_run_given_twice_is_refused() -> None:
    paths = [Path(f"/runs/{name}/version_0/trajectories.jsonl") for name in ("hero", "grpo")]
    assert run_names(paths) == ["hero/version_0", "grpo/version_0"]
    assert run_names([Path(f"/{name}/x/y/trajectories.jsonl") for name in "ab"]) == ["a/x/y", "b/x/y"]
    assert run_names([Path("/runs/a.jsonl"), Path("/runs/b.jsonl")]) == ["runs/a", "runs/b"]
    with pytest.raises(ConfigError, match="given twice"):
        run_names([paths[0], paths[0]])


def test_the_filter_knows_what_went_wrong(tmp_path: Path) -> None:
    good, path, out = record(), tmp_path / "trajectories.jsonl", tmp_path / "page.html"
    turns = (replace(good.trajectory.turns[0], malformed="no bracket", finish_reason=FinishReason.LENGTH),)
    broken = replace(good.trajectory, turns=turns, stop_reason=StopReason.ENV_ERROR)
    reflection = Reflection((None,), "rejected", issues=(("not_json", 0), ("leak", 1)))
    append_records(path, [good, Record("train", 0, broken, reflection)])
    write_html([Source(path)], out)
    found = ["broken episode", "cut at the token limit", "leak", "malformed reply", "not_json", "reflection rejected"]
    assert columns(out, 8) == [[[]], [found]]


def test_curves_come_from_the_metrics_beside_the_records(records_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_html([Source(records_path)], out)
    assert data_of(out)["curves"] == []
    (records_path.parent / "metrics.csv").write_text("step,train/turns,train/loss\n0,10,0.5\n1,20,0.25\n")
    write_html([Source(records_path)], out)
    line = {"run": 0, "x": [10.0, 20.0], "y": [0.5, 0.25]}
    assert data_of(out)["curves"] == [
        {"title": "loss", "column": "train/loss", "low": None, "high": None, "lines": [line]}
    ]


def test_a_decoder_that_loses_an_id_is_refused(records_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="1 texts for 2 ids at turn 1"):
        write_html([Source(records_path, lambda ids: ["all in one"])], tmp_path / "page.html")


def test_a_torn_last_record_is_reported_and_the_rest_is_shown(records_path: Path, tmp_path: Path) -> None:
    records_path.write_bytes(records_path.read_bytes()[:-20])
    with pytest.warns(TornLineWarning, match="after 2 complete lines"):
        assert write_html([Source(records_path)], tmp_path / "page.html") == 2


def test_a_page_that_cannot_be_written_is_named(records_path: Path, tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="cannot write the"):
        write_html([Source(records_path)], tmp_path)


def test_a_page_that_colors_tokens_is_distinguished_from_one_that_does_not(records_path: Path, tmp_path: Path) -> None:
    append_records(records_path, [record('say "per_token":true')])
    pages = {name: tmp_path / f"{name}.html" for name in ("tokens", "turns", "missing")}
    write_html([Source(records_path, spell)], pages["tokens"])
    write_html([Source(records_path)], pages["turns"])
    assert {name: is_per_token(page) for name, page in pages.items()} == {
        "tokens": True,
        "turns": False,
        "missing": False,
    }


def test_the_command_shows_several_runs_in_one_page_or_one_after_the_other(
    records_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run-b" / "trajectories.jsonl"
    append_records(other, [record("shop/9")])
    monkeypatch.chdir(tmp_path)
    main(["view", "run-a", "run-b"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(
        "Wrote 4 episodes to runs.html Colors are per turn, not per token: there is no run-a/config"
    )
    assert "there is no run-b/config.yaml" in shown
    assert len(data_of(tmp_path / "runs.html")["runs"]) == 2
    main(["view", "run-a", "run-b", "--terminal", "--limit", "1"])
    shown = capsys.readouterr().out
    places = [shown.index(text) for text in ("run-a/", "shop/1", "run-b/", "shop/9")]
    assert places == sorted(places)

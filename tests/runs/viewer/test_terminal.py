"""The terminal view shows the same as the page, and outside text cannot control the terminal."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hero_pl.annotate.files import print_report
from hero_pl.errors import HeroError
from hero_pl.runs.records import Record, append_records
from hero_pl.runs.viewer import print_terminal
from hero_pl.runs.viewer.page import Source, write_html
from hero_pl.runs.viewer.terminal import plain
from hero_pl.types import Diagnosis, Hint, Reflection, StopReason, Trajectory, Turn


def record(task: str, observation: str = "a page", reward: float = 1.0) -> Record:
    turns = (Turn(1, (1,), (5, 6), (-0.1, -0.2), "click[Buy]", "click[Buy]", observation, "tool", malformed="no name"),)
    trajectory = Trajectory(task, "e", 0, 0, "", (), "buy [bold]a cup[/bold]", turns, reward, StopReason.MAX_TURNS)
    reflection = Reflection((Diagnosis("the wrong cup", "medium", {"name": "back"}),), "ok")
    hints = (Hint(1, "it should go back", position="system"),)
    return Record("train", 2, trajectory, reflection, ((0.25, 0.75),), hints=hints)


def shown(path: Path, limit: int, stage: str | None = None) -> str:
    out = io.StringIO()
    print_terminal(path, limit, Console(file=out, width=100), stage)
    return out.getvalue()


def test_an_episode_is_shown_with_reply_observation_diagnosis_and_loss(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record("shop/1"), record("shop/2", reward=0.5)])
    text = shown(path, 5)
    for part in (
        "succeeded shop/1 · train, step 2",
        "failed shop/2",
        "click[Buy]  loss 0.5",
        "malformed: no name",
        "tool a page",
        "diagnosis (medium) the wrong cup",
        "{'name': 'back'}",
        "hint of the teacher (system) it should go back",
        "reward 0.5 · 1 turns · max_turns · reflection ok",
        "buy [bold]a cup[/bold]",
    ):
        assert part in text
    assert "increase the limit" not in text


def test_floor_user_and_broken_episodes_are_shown_with_the_success(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    info = {"user": "scripted-full", "do_nothing_succeeds": True}
    first, second, third = (record(f"retail/{i}", reward=float(i < 1)) for i in range(3))
    rows = [
        replace(first, trajectory=replace(first.trajectory, info=info)),
        replace(second, trajectory=replace(second.trajectory, info={**info, "do_nothing_succeeds": False})),
        replace(third, trajectory=replace(third.trajectory, info=info, stop_reason=StopReason.ENV_ERROR)),
    ]
    append_records(path, rows)
    text = shown(path, 5)
    assert "scripted-full" in text
    assert "1 broken" in text
    assert text.count("50%") == 2  # success and floor, over the two episodes that count
    page = tmp_path / "page.html"
    write_html([Source(path)], page)
    assert '"broken":1,"success":0.5,"floor":0.5,"users":["scripted-full"]' in page.read_text(encoding="utf-8")


def test_bug_877_a_stage_without_an_episode_that_counts_has_no_figures(tmp_path: Path) -> None:
    path, one = tmp_path / "trajectories.jsonl", record("retail/0")
    append_records(path, [replace(one, trajectory=replace(one.trajectory, stop_reason=StopReason.ENV_ERROR))])
    assert re.search(r"train *│ *0 *(│ *– *){6}│", shown(path, 5))
    page = tmp_path / "page.html"
    write_html([Source(path)], page)
    assert '"success":null' in page.read_text(encoding="utf-8")


def test_more_episodes_than_the_limit_are_announced(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record(f"shop/{i}") for i in range(3)])
    text = shown(path, 2)
    assert "shop/1" in text
    assert "shop/2" not in text
    assert "The first 2 of 3 episodes" in text


def test_the_figures_count_the_whole_file_and_one_stage_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    trained = [record(f"shop/{i}", reward=float(i == 3)) for i in range(4)]
    append_records(path, [*(replace(record(f"held/{i}"), stage="test") for i in range(3)), *trained])
    text = shown(path, 1)
    assert "held/0" in text
    assert re.search(r"test, step 2 *│ *3 *│ *100%", text)
    assert re.search(r"train *│ *4 *│ *25%", text)
    text = shown(path, 1, "train")
    assert "shop/0" in text
    assert "held/0" not in text
    assert "The first 1 of 4 episodes" in text
    assert re.search(r"train *│ *4 *│ *25%", text)
    assert "test, step" not in text
    with pytest.raises(HeroError, match=r"no episode of stage 'trainn'\. Its stages are: test, train"):
        shown(path, 1, "trainn")


def test_bug_828_evaluations_of_different_weights_are_not_counted_together(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    marks = ((0, 0.0), (50, 0.5), (125, 1.0))
    append_records(path, [replace(record("held", reward=reward), stage="test", step=step) for step, reward in marks])
    append_records(path, [record("shop/1"), replace(record("shop/2", reward=0.0), step=9)])
    text = shown(path, 1)
    assert re.search(r"test, step 0 *│ *1 *│ *0%", text)
    assert re.search(r"test, step 125 *│ *1 *│ *100%", text)
    assert "last of 3 steps" in text
    assert re.search(r"train *│ *2 *│ *50%", text)
    write_html([Source(path)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    stages = re.findall(r'"name":"([^"]*)","last_of":(\d),"episodes":\d,"broken":0,"success":([\d.]+)', page)
    assert stages == [("test, step 0", "0", "0.0"), ("test, step 125", "3", "1.0"), ("train", "0", "0.5")]


def test_outside_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record("shop/1", "\x1b[2J\x1b]0;owned\x07 \u202e back \ud800 \x9b31m\r\n")])
    text = shown(path, 1)
    assert not set(text) & set("\x1b\x07\u202e\x9b\r\ud800")
    assert "\\x1b[2J" in text


def test_bug_876_no_field_from_outside_can_steer_it_either(tmp_path: Path) -> None:
    path, one, code = tmp_path / "trajectories.jsonl", record("shop/1"), "[red]\x1b[2J"
    turn = replace(one.trajectory.turns[0], role=code, number=code)  # type: ignore[arg-type]
    turn = replace(turn, text=f"click {code}", malformed=code)
    reflection = Reflection((Diagnosis(f"the wrong cup {code}", code),), code)  # type: ignore[arg-type]
    hints = (Hint(1, f"it should go back {code}", position=code),)
    trajectory = replace(one.trajectory, turns=(turn,), task_id=code, first_observation=code, info={"user": code})
    append_records(path, [Record(code, code, trajectory, reflection, hints=hints)])  # type: ignore[arg-type]
    text = shown(path, 1)
    assert "\x1b" not in text
    for place in ("{} click", "{} a page", "diagnosis ({})", "teacher ({})", "reflection {}", "{}, step {}"):
        assert place.replace("{}", "[red]\\x1b[2J") in text
    for place in ("click {}", "malformed: {}", "cup {}", "back {}", "{} · {}"):
        assert place.replace("{}", "[red]\\x1b[2J") in text
    with pytest.raises(HeroError, match=r"Its stages are: \[red\]\\x1b"):
        shown(path, 1, "train")


def test_bug_819_brackets_in_the_table_are_text_and_no_markup(tmp_path: Path) -> None:
    one = record("shop/1")
    for i, user in enumerate(("[red]qwen", "qwen[/no_think]")):
        path = tmp_path / f"{i}.jsonl"
        append_records(path, [replace(one, trajectory=replace(one.trajectory, info={"user": user}))])
        assert user in shown(path, 1)
    out = io.StringIO()
    report = {
        "\x1b[2J": {"rows": 9.0, "grounded": 0.5},
        "true": {"rows": 9.0, "grounded": 1.0},
        "shuffled [/x]": {"rows": 9.0, "grounded": 0.5},
        "agreement": {},
    }
    print_report(report, Console(file=out, width=100))
    assert "\x1b" not in out.getvalue()
    assert "1.000 [not resolved]" in out.getvalue()
    assert "shuffled [/x]" in out.getvalue()


def test_line_breaks_and_tabs_stay() -> None:
    assert plain("a\n\tb\x00") == "a\n\tb\\x00"


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="at least 1"):
        print_terminal(tmp_path / "x.jsonl", 0)

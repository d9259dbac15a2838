"""The page in a real browser. With ``HERO_PL_PICTURES=docs/pictures`` the pictures of the documentation are written.

``HERO_PL_RUNS`` names two run folders, separated like a search path: those of the documentation are
``configs/quickstart.yaml`` and the same with ``configs/controls/shuffled_diagnosis.yaml``.
"""

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from hero_pl.cli.look import _write_page
from hero_pl.runs.folders import one_run
from hero_pl.runs.records import Record, append_records, read_records, succeeded
from hero_pl.runs.viewer import Source, chunks, print_terminal, write_html
from hero_pl.types import Diagnosis, Hint, Reflection, StopReason, Trajectory, Turn

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b> {{data}} \u202e \ud800"


def spell(ids) -> list[str]:
    return [f"<{one}>" if one else "" for one in ids]


def record(
    task: str, step: int, *, reward: float = 1.0, turns: int = 2, stage: str = "train", seen: str = "a page", **changes
) -> Record:
    played = tuple(
        Turn(n, (1,), (5, 0, n + 6), (-0.1,) * 3, f"reply {n}", f"act {n}", f"{seen} {n}", "tool")
        for n in range(1, turns + 1)
    )
    trajectory = Trajectory(task, "e", step, 0, "be good", (), f"do {task}", played, reward, StopReason.TERMINATED)
    diagnoses = (Diagnosis(f"diagnosis of {task}", "low", {"name": "back"}), *[None] * (turns - 1))
    losses = tuple((0.5 * n, 0.001234567, 2.0 * n) for n in range(1, turns + 1))
    one = Record(
        stage,
        step,
        replace(trajectory, **changes),
        Reflection(diagnoses, "ok"),
        losses,
        tuple((0.123456, 1e-7, 0.5) for _ in losses),
        tuple((0.654321, 0.99996, 0.25) for _ in losses),
        (Hint(1, f"the hint for {task}", position="system"), *[None] * (turns - 1)),
    )
    return one


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    """Two runs of three tasks, each at the steps 1 and 5; run b succeeds at its end."""
    paths = [tmp_path / name / "trajectories.jsonl" for name in ("run-a", "run-b")]
    for path in paths:
        for step in (1, 5):
            good = float(path.parent.name == "run-b" and step == 5)
            append_records(path, [record(f"shop/{i}", step, reward=max(good, 0.25 * i), turns=i + 1) for i in range(3)])
        (path.parent / "metrics.csv").write_text("step,train/turns,train/loss\n0,10,0.5\n1,20,0.25\n")
    return paths


@pytest.fixture
def opened(tab, tmp_path: Path) -> Callable:
    """Writes the page of records, opens it and waits for the first episode."""

    def open_(paths: list[Path], fragment: str = "", decode=spell):
        out = tmp_path / "page.html"
        write_html([Source(path, decode) for path in paths], out)
        tab.goto(out.as_uri() + fragment)
        tab.wait_for_selector("article, .none")
        return tab

    return open_


def count(page, wanted: str) -> None:
    page.locator("#count", has_text=re.compile(f"^{re.escape(wanted)}")).wait_for()


def listed(page) -> list[str]:
    return page.locator("#list .name").all_inner_texts()


def test_figures_and_filters_count_as_the_records_do(opened, two_runs) -> None:
    page = opened(two_runs)
    count(page, "12 of 12 episodes")
    assert page.locator("#stages .run").all_inner_texts()[0].split() == [
        *[
            two_runs[0].parent.parent.name + "/run-a",
            "train",
            "6",
            "logged",
            "episodes",
            "0",
            "%",
            "success",
            "2",
            "turns",
            "each",
        ]
    ]
    page.select_option("[name=outcome]", "succeeded")
    count(page, "3 of 12")
    page.select_option("[name=run]", "0")
    count(page, "0 of 12")
    page.select_option("[name=run]", "")
    page.select_option("[name=outcome]", "")
    page.locator("#more > summary").click()
    for name, low, high, expected in (("reward", "0.25", "0.5", 6), ("turns", "3", "", 4), ("step", "", "1", 6)):
        page.fill(f"[name={name}_min]", low)
        page.fill(f"[name={name}_max]", high)
        count(page, f"{expected} of 12")
        page.click("#clear")
    page.select_option("[name=sort]", "-reward")
    assert listed(page)[:4] == ["shop/0", "shop/1", "shop/2", "shop/2"]


def test_issues_and_stop_reasons_are_filters(opened, tmp_path) -> None:
    path, one = tmp_path / "trajectories.jsonl", record("shop/1", 1)
    odd = replace(one, trajectory=replace(one.trajectory, stop_reason=StopReason.MAX_TURNS))
    append_records(
        path, [one, odd, replace(odd, reflection=Reflection((None, None), "rejected", issues=(("leak", 1),)))]
    )
    page = opened([path])
    page.locator("#more > summary").click()
    page.select_option("[name=stop]", "max_turns")
    count(page, "2 of 3")
    page.select_option("[name=issue]", "leak")
    count(page, "1 of 3")


def test_the_values_of_a_token_are_those_of_the_record_by_pointer_and_by_key(opened, two_runs) -> None:
    page = opened(two_runs[:1])
    tokens = page.locator(".token")
    expected = ['"<5>"', "loss     0.5 nats", "student  0.1235", "teacher  0.6543"]
    tokens.nth(0).hover()
    assert page.inner_text("#tip").split("\n") == expected
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip").split("\n") == expected
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip").split("\n") == ['""', "loss     0.001235 nats", "student  1e-7", "teacher  1"]
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    assert tokens.nth(1).inner_text() == "∅"


def test_keys_move_search_help_and_leave(opened, two_runs) -> None:
    page = opened(two_runs[:1])
    for key, task in (("j", "shop/1"), ("ArrowDown", "shop/2"), ("k", "shop/1"), ("ArrowUp", "shop/0")):
        page.keyboard.press(key)
        page.wait_for_selector(f"article[aria-label='{task}']")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("j")  # no key has an effect behind the list of keys
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    assert page.inner_text("h1") == "shop/0"
    page.keyboard.press("/")
    page.keyboard.type("shop/2")
    count(page, "2 of 6")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.wait_for_selector("article[aria-label='shop/2']")


def test_text_of_observations_is_found_and_all_of_it_is_in_the_link(opened, tmp_path) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record(f"shop/{i}", i, seen="a Blue Lamp" if i % 2 else "a page") for i in range(8)])
    page = opened([path])
    page.fill("#query", "blue lamp 2")
    count(page, "4 of 8")
    page.locator("#more > summary").click()
    page.select_option("[name=sort]", "-step")
    page.select_option("#scale", "episode")
    assert listed(page) == ["shop/7", "shop/5", "shop/3", "shop/1"]
    page.locator("#list button").nth(2).click()
    page.wait_for_selector("article[aria-label='shop/3']")
    link = page.url
    again = page.context.new_page()
    again.goto(link)
    again.wait_for_selector("article[aria-label='shop/3']")
    count(again, "4 of 8")
    assert listed(again) == ["shop/7", "shop/5", "shop/3", "shop/1"]
    assert again.locator("#list [aria-current=true]").inner_text().startswith("shop/3")
    assert again.input_value("#scale") == "episode"


def test_a_link_to_an_episode_far_down_marks_its_row(opened, tmp_path) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record(f"shop/{i}", i, turns=1) for i in range(700)])
    page = opened([path], "#episode=650")
    page.wait_for_selector("article[aria-label='shop/650']")
    row = page.locator("#list [aria-current=true]")
    assert row.inner_text().startswith("shop/650")
    assert row.bounding_box()["y"] < 900
    page.evaluate("location.hash = '#episode=3&q=shop/65'")
    page.wait_for_selector("article[aria-label='shop/3']")
    count(page, "11 of 700 episodes · the open episode is not among them")


def test_a_link_that_names_nothing_opens_the_first_episode(opened, two_runs) -> None:
    page = opened(two_runs[:1], "#episode=999&beside=x&stop=gone&sort=gone&reward_min=x")
    page.wait_for_selector("article[aria-label='shop/0']")
    count(page, "6 of 6")


def test_two_runs_are_side_by_side_by_task_turn_next_to_turn(opened, two_runs) -> None:
    page = opened(two_runs, "#episode=5")  # shop/2 at step 5 of run a; 11 is the same of run b
    page.wait_for_selector(".pair article:nth-child(2)")
    assert "beside=11" in page.url
    left, right = page.locator("article").all()
    assert ("run-a" in left.inner_text(), "run-b" in right.inner_text()) == (True, True)
    for place in range(3):
        boxes = [side.locator(".turn").nth(place).bounding_box() for side in (left, right)]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    page.keyboard.press("k")
    page.locator("article[aria-label='shop/1']").nth(1).wait_for()
    assert "episode=4&beside=10" in page.url
    page.keyboard.press("c")
    page.locator(".pair").wait_for(state="detached")
    assert "beside=none" in page.url
    page.select_option("#beside", "1")  # before and after in one run
    page.wait_for_selector(".pair article:nth-child(2)")
    assert ["step 5" in one and "step 1" not in one for one in page.locator(".top").all_inner_texts()] == [True, False]


def test_before_and_after_of_one_run_are_compared_on_demand(opened, two_runs) -> None:
    page = opened(two_runs[:1], "#episode=1")
    assert page.locator("article").count() == 1
    page.keyboard.press("c")
    page.wait_for_selector(".pair article:nth-child(2)")
    assert "beside=4" in page.url


def test_the_colors_are_scaled_by_the_run_or_by_the_episode(opened, two_runs) -> None:
    page = opened(two_runs[:1], "#episode=0")
    shares = "[...document.querySelectorAll('.token')].map(one => one.style.getPropertyValue('--share'))"
    assert float(page.evaluate(shares)[2]) == 0.5  # 2 nats; the percentile of the 36 losses of the run is 4
    page.keyboard.press("s")
    page.locator(".legend", has_text="of the episode").wait_for()
    assert float(page.evaluate(shares)[2]) == 1.0  # that of 0.5, 0.001 and 2 is 0.5


def test_the_hint_is_shown_as_the_teacher_read_it(opened, two_runs) -> None:
    page = opened(two_runs[:1])
    page.locator(".hint summary").click()
    assert page.locator(".hint pre").all_inner_texts() == ["the hint for shop/0"]
    assert "system" in page.inner_text(".hint summary")


def test_curves_are_on_top_with_a_line_per_run_and_their_ends_in_words(opened, two_runs) -> None:
    page = opened(two_runs)
    assert page.locator("#charts figure").count() == 1
    assert page.locator("#charts figure polyline").count() == 2
    assert "0.5 to 0.25" in page.get_attribute("#charts figure svg", "aria-label")


def test_hostile_text_is_shown_as_text(opened, tmp_path) -> None:
    path, one = tmp_path / "trajectories.jsonl", record(NASTY, 1, seen=NASTY)
    turns = tuple(replace(turn, text=NASTY, action=NASTY, role=NASTY, malformed=NASTY) for turn in one.trajectory.turns)
    reflection = Reflection(
        (Diagnosis(NASTY, "low", {NASTY: NASTY}), None), "rejected", issues=((NASTY, 1),), raw=NASTY
    )
    trajectory = replace(
        one.trajectory, turns=turns, system_prompt=NASTY, first_observation=NASTY, info={"error": NASTY}
    )
    hints = (Hint(1, NASTY), None)
    append_records(path, [Record(NASTY, 1, trajectory, reflection, one.token_loss, hints=hints), one])
    page = opened([path], decode=lambda ids: [NASTY for _ in ids])
    page.keyboard.press("c")
    page.wait_for_selector(".pair")
    shown = NASTY.replace("\ud800", "\ufffd")
    assert page.locator("h1").first.evaluate("node => node.textContent").replace("\ud800", "\ufffd") == shown
    assert page.locator("main img, main b b, article script").count() == 0
    page.locator(".token").first.hover()
    assert "onerror" in page.inner_text("#tip")


def test_a_narrow_screen_has_no_sideways_scroll_and_shows_both_episodes(opened, two_runs) -> None:
    page = opened(two_runs)
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    boxes = [one.bounding_box() for one in page.locator("article").all()]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"] - 1
    page.locator("#list button").nth(4).click()
    page.locator("article[aria-label='shop/1']").first.wait_for()
    assert page.locator("h1").first.bounding_box()["y"] < 300


def test_a_file_without_episodes_and_an_episode_without_turns_are_pages_too(opened, tmp_path) -> None:
    path = tmp_path / "trajectories.jsonl"
    path.touch()
    count(opened([path]), "0 of 0 episodes")
    append_records(path, [Record("test", 0, replace(record("shop/1", 1).trajectory, turns=()))])
    page = opened([path])
    assert "No turn was played." in page.inner_text("article")


def test_without_a_tokenizer_a_turn_tells_its_means(opened, two_runs) -> None:
    page = opened(two_runs[:1], decode=None)
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip").split("\n")[:2] == ["means of the turn", "loss     0.8337 nats"]


def test_chunks_are_read_when_they_are_needed(opened, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 20_000)
    path = tmp_path / "trajectories.jsonl"
    append_records(path, [record(f"shop/{i}", i, seen=f"page {i}", turns=1) for i in range(500)])
    page = opened([path])
    starts = page.evaluate("data.starts")
    assert len(starts) > 5
    for episode in (0, 499, starts[1] - 1, starts[1], starts[2]):
        page.evaluate(f"location.hash = '#episode={episode}'")
        page.wait_for_selector(f"article[aria-label='shop/{episode}']")
        assert f"page {episode} 1" in page.inner_text("article")
    page.fill("#query", "page 499")
    count(page, "1 of 500")


def test_a_page_that_was_cut_says_so_and_shows_what_it_has(tab, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARS", 20_000)
    path, out = tmp_path / "trajectories.jsonl", tmp_path / "page.html"
    append_records(path, [record(f"shop/{i}", i, turns=1) for i in range(100)])
    write_html([Source(path, spell)], out)
    whole = out.read_text()
    out.write_text(whole[: whole.rindex('<script type="text/plain" id="texts-')])
    tab.goto(out.as_uri())
    tab.wait_for_selector("article")
    tab.evaluate("location.hash = '#episode=99'")
    assert "not complete" in tab.locator("#pair .none").inner_text()
    tab.fill("#query", "shop")
    count(tab, "The page is not complete")


PICTURES = os.environ.get("HERO_PL_PICTURES")


@pytest.mark.skipif(not PICTURES, reason="writes pictures only where HERO_PL_PICTURES names a folder")
def test_pictures_of_the_documentation(tab, tmp_path) -> None:
    folder = Path(str(PICTURES))
    paths = [one_run(Path(run)) for run in os.environ["HERO_PL_RUNS"].split(os.pathsep)]
    tab.set_viewport_size({"width": 1200, "height": 860})

    def shoot(name: str, shown: list[Path], episode: int, ready: str = "article", keys: str = "") -> None:
        out = tmp_path / f"{name}.html"
        _write_page(shown, out)
        tab.goto(f"{out.as_uri()}#episode={episode}")
        tab.wait_for_selector(ready)
        for key in keys.split():
            tab.keyboard.press(f"Arrow{key}")
        tab.screenshot(path=folder / f"{name}.png")
        assert (folder / f"{name}.png").stat().st_size < 250_000

    first, second = (list(read_records(path)) for path in paths)
    failed = next(i for i, one in enumerate(first) if one.token_loss and not succeeded(one.trajectory))
    lost = {(one.trajectory.task_id, one.step) for one in second if one.token_loss and not succeeded(one.trajectory)}
    won = next(
        i
        for i, one in enumerate(first)
        if one.step >= 10 and succeeded(one.trajectory) and (one.trajectory.task_id, one.step) in lost
    )
    shoot("page-light", paths[:1], failed, keys="Right Right")
    tab.emulate_media(color_scheme="dark")
    shoot("page-dark", paths[:1], failed)
    tab.emulate_media(color_scheme="light")
    shoot("page-pair", paths, won, ".pair article:nth-child(2)", "Right Down Down Down Right")
    tab.set_viewport_size({"width": 400, "height": 860})
    shoot("page-narrow", paths[:1], failed)
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    print_terminal(paths[0], 1, console, "train")
    drawn = console.export_svg(title="hero_pl view RUN --terminal --stage train --limit 1")
    fonts = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # they would be fetched
    (folder / "terminal.svg").write_text(fonts.sub("", drawn), encoding="utf-8")

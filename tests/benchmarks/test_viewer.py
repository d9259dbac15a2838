"""The benchmark of the page measures what it says; its limits are for a full size and hold there only."""

from viewer import QUERIES, make_episodes, measure, pages


def test_a_small_page_is_written_and_measured(browser, tmp_path) -> None:
    made = pages(tmp_path, episodes=300, turns=1, tokens=20)
    assert made["episodes"] == 300
    times = measure(tmp_path / "page.html", browser)
    assert {"first_episode_cpu_s", "all_read_cpu_s", *(f"search {query!r} cpu_s" for query in QUERIES)} == set(times)
    assert times["all_read_cpu_s"] >= times["first_episode_cpu_s"] > 0.0


def test_records_have_the_size_that_is_asked_for() -> None:
    (one,) = make_episodes(1, turns=4, tokens=150)
    assert [len(turn.action_ids) for turn in one.trajectory.turns] == [150] * 4
    assert one.token_teacher is not None
    assert [len(values or ()) for values in one.token_teacher] == [150] * 4

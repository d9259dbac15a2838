"""What a terminal shows during a run, and what a file does not."""

import re
from types import SimpleNamespace

import pytest
import rich
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.progress import Progress

from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.progress import EpisodeProgress


@pytest.fixture
def drawn(monkeypatch, tiny_module, tiny_data, fit):
    """Runs two steps on a recorded console; returns what was drawn in every frame."""

    def run(terminal, **kwargs):
        monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "160")
        frames, data = [], tiny_data(tasks_per_step=3)
        trainer_options = {"enable_progress_bar": True, **kwargs}

        class Watch(EpisodeProgress):
            def _show(self, trainer, bar, finished, total):
                super()._show(trainer, bar, finished, total)
                console = Console(record=True, width=160, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
                console.print(bar.progress.get_renderable())
                frames.append(console.export_text())

        fit(tiny_module(), data, 2, callbacks=[Watch(), HeldOut(5)], **trainer_options)
        return frames

    yield run
    rich.reconfigure()


def test_a_terminal_shows_the_episodes_in_flight_and_the_success_and_turns_of_the_step(drawn):
    frames = drawn(terminal=True)
    assert any("Episodes" in frame and "0/5" in frame for frame in frames), "the evaluation before training"
    assert any("Episodes" in frame and "2/3" in frame for frame in frames), "a rollout"
    second_rollout = [frame for frame in frames if "Pass 1" in frame and "success: 0.000" in frame]
    assert second_rollout
    assert all("turns: " in frame for frame in second_rollout)
    assert all(re.search(r"turns: \d+(?![\d.])", frame) for frame in second_rollout)
    assert "Episodes" not in frames[-1]


def test_a_bar_shows_neither_a_rate_nor_the_number_of_the_run(drawn, tmp_path):
    frames = drawn(terminal=True, logger=CSVLogger(tmp_path))
    assert not any("it/s" in frame or "v_num" in frame for frame in frames)


def test_the_clock_of_the_episodes_starts_again_with_every_rollout():
    now = 0.0
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        progress = Progress(console=Console(file=nowhere), get_time=lambda: now)
        bar = SimpleNamespace(progress=progress, refresh=lambda: None)
        row = EpisodeProgress()
        for finished in (0, 1, 2):
            now += 10.0
            row._show(None, bar, finished, 2)
        assert progress.tasks[0].elapsed == 20.0
        now += 100.0
        row._show(None, bar, 0, 2)
        now += 5.0
        row._show(None, bar, 1, 2)
    assert progress.tasks[0].elapsed == 5.0


@pytest.mark.parametrize("settings", [{"terminal": False}, {"terminal": True, "enable_progress_bar": False}], ids=str)
def test_nothing_is_drawn_into_a_file_or_when_it_is_switched_off(settings, drawn, capsys):
    assert drawn(**settings) == []
    assert "Episodes" not in capsys.readouterr().out

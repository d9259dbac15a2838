"""A run prints its folder when it ends."""

import pytest
from lightning.pytorch.loggers import CSVLogger

from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.trajectories import TrajectoryLog


@pytest.mark.parametrize(
    ("every_n_steps", "episodes", "message"),
    [(1, 0, "The run is in {folder}; view it with: hero_pl view {folder}\n"), (0, 0, "The run is in {folder}\n")],
)
def test_a_run_without_evaluations_names_its_folder_at_the_end(
    every_n_steps, episodes, message, tiny_module, tiny_data, fit, tmp_path, capsys
):
    callbacks = [HeldOut(episodes), TrajectoryLog(every_n_steps)]
    fit(tiny_module(), tiny_data(), 1, callbacks=callbacks, logger=CSVLogger(tmp_path, "tiny"))
    assert message.format(folder=tmp_path / "tiny" / "version_0") in capsys.readouterr().out


def test_a_run_whose_evaluation_names_the_folder_does_not_name_it_again(tiny_module, tiny_data, fit, tmp_path, capsys):
    callbacks = [HeldOut(2), TrajectoryLog()]
    fit(tiny_module(), tiny_data(), 1, callbacks=callbacks, logger=CSVLogger(tmp_path, "tiny"))
    shown = capsys.readouterr().out
    assert "The run is in" not in shown
    assert shown.replace("\n", "").count(str(tmp_path / "tiny" / "version_0")) == 1


def test_a_run_without_a_logger_has_no_folder_to_name(tiny_module, tiny_data, fit, capsys):
    fit(tiny_module(), tiny_data(), 1, callbacks=[TrajectoryLog()])
    assert "The run is in" not in capsys.readouterr().out

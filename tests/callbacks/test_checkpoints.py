"""A checkpoint is whole or it is not there; a broken one is named."""

import os
import resource
import subprocess
import sys

import pytest
import torch
from lightning import Callback

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO, RunCheckpoint
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError, HeroError

FULL_DISK = """
import resource, signal, sys, torch
from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.errors import HeroError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    AtomicCheckpointIO().save_checkpoint({"new": torch.zeros(100_000)}, sys.argv[1])
except HeroError as error:
    sys.exit(f"refused: {error}")
"""


def test_what_was_saved_comes_back_and_no_part_is_left(tmp_path):
    path = tmp_path / "run.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(5)}, path)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["weights"], torch.arange(5))
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on file sizes")
def test_a_full_disk_keeps_the_old_checkpoint_and_names_the_cure(tmp_path):
    path = tmp_path / "run.ckpt"
    AtomicCheckpointIO().save_checkpoint({"old": torch.arange(5)}, path)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    assert "refused:" in done.stderr
    assert str(path) in done.stderr
    assert "Free some space, then resume from the latest with --ckpt_path" in " ".join(done.stderr.split())
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["old"], torch.arange(5))
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "absent"])
def test_a_damaged_checkpoint_is_named_with_the_way_on(tmp_path, damage):
    path = tmp_path / "run.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.arange(1000)}, path)
    data = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    with pytest.raises(HeroError, match=r"run\.ckpt cannot be read.*earlier one"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_training_does_not_start_from_a_damaged_checkpoint(tiny_module, tiny_data, fit, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(HeroError, match="cannot be read"):
        fit(tiny_module(), tiny_data(), 1, tmp_path / "bad.ckpt")


# -- when a run saves itself ------------------------------------------------------------------------------------------


def saved(folder):
    return sorted(path.name for path in folder.rglob("*.ckpt"))


def test_a_run_keeps_its_newest_state_and_its_end(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(), tiny_data(), 5, enable_checkpointing=True, callbacks=[RunCheckpoint(2)])
    assert saved(tmp_path) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    states = {path.name: torch.load(path, weights_only=False) for path in tmp_path.rglob("*.ckpt")}
    assert [states[name]["global_step"] for name in sorted(states)] == [4, 5]


class Break(Callback):
    """Raises at a step."""

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 3:
            raise RuntimeError("the power went")


def test_after_a_break_the_way_on_is_named(tiny_module, tiny_data, fit, tmp_path, caplog):
    with caplog.at_level("INFO"), pytest.raises(RuntimeError, match="the power went"):
        fit(tiny_module(), tiny_data(), 5, enable_checkpointing=True, callbacks=[RunCheckpoint(2), Break()])
    assert saved(tmp_path) == ["epoch=0-step=2.ckpt"]
    (kept,) = tmp_path.rglob("*.ckpt")
    assert f"Stopped by RuntimeError. Go on with --ckpt_path {kept}" in caplog.text


def test_a_finished_run_that_is_resumed_trains_nothing(tiny_module, tiny_data, fit, tmp_path):
    options = {"enable_checkpointing": True}
    first = tiny_module()
    fit(first, tiny_data(), -1, callbacks=[RunCheckpoint(100), TurnBudget(10)], **options)
    (last,) = tmp_path.rglob("last.ckpt")
    again = tiny_module()
    trainer = fit(again, tiny_data(), -1, last, callbacks=[RunCheckpoint(100), TurnBudget(10)], **options)
    assert (again.turns, trainer.global_step) == (first.turns, torch.load(last, weights_only=False)["global_step"])


def test_saving_after_no_step_is_refused():
    with pytest.raises(ConfigError, match="every_n_steps=0"):
        RunCheckpoint(0)

"""A checkpoint is whole or it is not there; a broken one is named."""

import os
import resource
import subprocess
import sys

import pytest
import torch

from hero_pl.checkpoints import AtomicCheckpointIO
from hero_pl.errors import HeroError

FULL_DISK = """
import resource, signal, sys, torch
from hero_pl.checkpoints import AtomicCheckpointIO
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

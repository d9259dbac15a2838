"""A checkpoint is complete or does not exist; an error names a damaged one."""

import os
import resource
import subprocess
import sys
import tracemalloc

import pytest
import torch

from hero_pl.callbacks import checkpoints
from hero_pl.callbacks.checkpoints import AtomicCheckpointIO, discard_later, newest_verified, verify
from hero_pl.errors import HeroError

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


def save(path, step=0, **state):
    AtomicCheckpointIO().save_checkpoint({"global_step": step, **state}, path)
    return path


def load(path):
    return AtomicCheckpointIO().load_checkpoint(path)


def test_what_was_saved_comes_back_and_no_part_is_left(tmp_path):
    path = save(tmp_path / "run.ckpt", weights=torch.arange(5))
    assert torch.equal(load(path)["weights"], torch.arange(5))
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_other_programs_can_read_a_sealed_file(tmp_path):
    path = save(tmp_path / "run.ckpt", weights=torch.arange(5))
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.arange(5))


def test_the_state_is_not_copied_on_its_way_to_the_file(tmp_path):
    tensors = {str(i): torch.zeros(250_000) for i in range(20)}  # 1 MB each
    tracemalloc.start()
    save(tmp_path / "run.ckpt", tensors=tensors)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on file sizes")
@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_keeps_the_old_checkpoint_and_names_a_file_that_exists(earlier, tmp_path):
    if earlier:
        save(tmp_path / "old.ckpt", weights=torch.arange(5))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "new.ckpt")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    assert f"refused: Cannot write the checkpoint {tmp_path / 'new.ckpt'}" in done.stderr
    named = f"The newest intact one is {tmp_path / 'old.ckpt'}." if earlier else "There is no earlier one."
    assert named in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["old.ckpt"] * earlier


def newer_schema(path):
    at, checkpoints.SCHEMA = checkpoints.SCHEMA, 99
    save(path, 2, weights=torch.arange(1000))
    checkpoints.SCHEMA = at


def hostile(path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "created"),)

    save(path, weights=Payload())


DAMAGES = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "no seal at its end: it is incomplete"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "text": (lambda path: path.write_bytes(b"not a checkpoint"), "another program wrote it"),
    "absent": (lambda path: path.unlink(), "No such file"),
    "foreign": (lambda path: torch.save({"weights": torch.arange(5)}, path), "another program wrote it"),
    "newer": (newer_schema, "a newer version of hero_pl wrote it .schema 99, this one reads up to 1."),
    "hostile": (hostile, "it contains other objects than tensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_reason_and_the_way_on(tmp_path, damage):
    path = save(tmp_path / "run.ckpt", weights=torch.arange(1000))
    break_it, reason = DAMAGES[damage]
    break_it(path)
    with pytest.raises(HeroError, match=rf"run\.ckpt cannot be read: .*{reason}.*Nothing was loaded.*earlier one"):
        load(path)
    assert not (tmp_path / "created").exists()


def test_any_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path / "run.ckpt", weights=torch.arange(1000))
    whole = path.read_bytes()
    for at in range(0, len(whole), 61):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(HeroError, match=r"its checksum is wrong|no seal at its end"):
            load(path)


def test_a_checkpoint_that_hid_code_is_refused_although_weights_only_is_switched_off(tmp_path):
    hostile(tmp_path / "run.ckpt")
    with pytest.raises(HeroError, match="other objects than tensors"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "run.ckpt", weights_only=False)
    assert not (tmp_path / "created").exists()


def test_the_newest_whole_checkpoint_is_taken_and_the_others_are_named(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path / f"step={step}.ckpt", step, weights=torch.arange(step))
    (tmp_path / "step=3.ckpt").write_bytes((tmp_path / "step=3.ckpt").read_bytes()[:-7])
    path, refused = newest_verified(tmp_path)
    assert path == tmp_path / "step=2.ckpt"
    assert verify(path).step == 2
    assert len(refused) == 1
    assert "step=3.ckpt cannot be read: it has no seal" in refused[0]


def test_the_newest_checkpoint_is_the_one_with_most_steps_whenever_it_was_copied(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"step={step}.ckpt", step)
    os.utime(tmp_path / "step=2.ckpt", (0, 0))
    assert newest_verified(tmp_path) == (tmp_path / "step=2.ckpt", [])


def test_bug_802_checkpoints_that_would_be_taken_first_are_set_aside_and_none_is_deleted(tmp_path):
    names = ["step=1.ckpt", "step=2.ckpt", "last.ckpt", "step=3.ckpt"]
    for _ in range(2):
        for second, (name, step) in enumerate(zip(names, (1, 2, 2, 3), strict=True)):  # the last batch made no step
            save(tmp_path / name, step)
            os.utime(tmp_path / name, (second, second))
        (tmp_path / "torn.ckpt").write_bytes(b"no seal")
        told = list(discard_later(tmp_path, tmp_path / "step=2.ckpt"))
    assert len(told) == 2
    assert "renamed to last.ckpt-2.discarded" in told[0]
    left = ["step=1.ckpt", "step=2.ckpt", "torn.ckpt"]
    aside = ["last.ckpt-2.discarded", "last.ckpt.discarded", "step=3.ckpt-2.discarded", "step=3.ckpt.discarded"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left + aside)
    assert newest_verified(tmp_path)[0] == tmp_path / "step=2.ckpt"
    assert verify(tmp_path / "step=3.ckpt.discarded").step == 3


def test_a_checkpoint_of_a_newer_version_is_never_skipped(tmp_path):
    save(tmp_path / "step=1.ckpt", 1)
    newer_schema(tmp_path / "step=2.ckpt")
    with pytest.raises(HeroError, match="upgrade hero_pl"):
        newest_verified(tmp_path)


def test_training_does_not_start_from_a_damaged_checkpoint(tiny_module, tiny_data, fit, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(HeroError, match="cannot be read"):
        fit(tiny_module(), tiny_data(), 1, tmp_path / "bad.ckpt")

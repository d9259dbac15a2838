"""However one of two processes ends, the other ends too, with a status that is not 0, and what was learned is saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hero_pl.callbacks.checkpoints import newest_verified, verify

sys.path.append(str(Path(__file__).parent))
from two_processes import ROOT, environment, fit, free_port

LONGEST_S = 120.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]


def processes(session):
    """Processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def is_rank_1(pid):
    try:
        return b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def saved_and_named(folder, said):
    """The newest checkpoint of a run is whole, has at least two steps, and is named in what the run said."""
    newest, damaged = newest_verified(folder / "checkpoints")
    assert damaged == []
    assert verify(newest).step >= 2
    assert str(newest) in said


def wait_for(what, process):
    end = time.monotonic() + LONGEST_S
    while not (found := what()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("strategy", "rank", "number"),
    [
        ("fsdp2", 1, signal.SIGTERM),
        ("ddp", 0, signal.SIGTERM),
        ("ddp", 1, signal.SIGKILL),
        ("ddp", 1, signal.SIGSTOP),
    ],
)
def test_a_signal_to_any_process_ends_both_and_the_run_is_saved(strategy, rank, number, tmp_path):
    for attempt in range(3):
        folder, said = ended(strategy, rank, number, tmp_path / str(attempt))
        # the other process may have been applying a step, which nobody can save half; without a checkpoint before it
        # nothing is saved, and the moment has to be another one
        if number == signal.SIGTERM or "before the first checkpoint" not in said:
            break
    saved_and_named(folder, said)


def ended(strategy, rank, number, tmp_path):
    """Send a signal to a process of a run of two; the folder of the run, and what it said, when both have ended."""
    tmp_path.mkdir()
    changes = {
        "turn_budget": {"max_turns": 100_000},
        "held_out": {"episodes": 0},
        "checkpoint": {"every_n_steps": 100_000},
    }
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    process = subprocess.Popen(
        fit(tmp_path, changes, "0:00:30", strategy),
        cwd=ROOT,
        env=environment(MASTER_PORT=str(free_port())),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(
            lambda: sum(1 for _ in (folder / "metrics.csv").open()) > 4 if (folder / "metrics.csv").exists() else 0,
            process,
        )
        other = wait_for(lambda: [pid for pid in processes(process.pid) if is_rank_1(pid)], process)[0]
        os.kill(process.pid if rank == 0 else other, number)
        _, said = process.communicate(timeout=LONGEST_S)
        assert process.returncode == (128 + number if number == signal.SIGTERM else 1), said
        assert processes(process.pid) == []
    finally:
        for pid in processes(process.pid):
            os.kill(pid, signal.SIGKILL)
    return folder, said

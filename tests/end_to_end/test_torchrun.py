"""The command ``fit`` under torchrun, as on several machines: two processes on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from test_ends_of_two_processes import processes, saved_and_named, wait_for
from two_processes import ROOT, environment, fit, free_port

LONGEST_S = 120.0
ENDS_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]


def torchrun(folder, changes):
    """The command, with the words of ``fit`` behind it."""
    _, _, *words = fit(folder, changes, timeout="0:00:30")
    place = ["--nnodes", "1", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *place,
        "--rdzv-endpoint",
        f"localhost:{free_port()}",
        "-m",
        *words,
    ]


def started(command):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_sigterm_to_torchrun_ends_all_processes_and_the_run_is_saved(tmp_path):
    changes = {
        "turn_budget": {"max_turns": 100_000},
        "held_out": {"episodes": 0},
        "checkpoint": {"every_n_steps": 100_000},
    }
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    process = started(torchrun(tmp_path, changes))
    try:
        metrics = folder / "metrics.csv"
        wait_for(lambda: sum(1 for _ in metrics.open()) > 4 if metrics.exists() else 0, process)
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + ENDS_S
        _, said = process.communicate(timeout=ENDS_S)
        assert time.monotonic() < end
        assert process.returncode not in (0, None), said
        assert processes(process.pid) == []
    finally:
        for pid in processes(process.pid):
            os.kill(pid, signal.SIGKILL)
    saved_and_named(folder, said)

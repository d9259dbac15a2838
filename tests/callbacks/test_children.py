"""The first of several processes ends the others, whatever they do."""

import subprocess
import sys
from types import SimpleNamespace

from hero_pl.callbacks.children import end, take_over


def test_processes_that_are_taken_over_are_watched_by_nobody_else() -> None:
    watched = [1, 2]
    assert take_over(SimpleNamespace(procs=watched)) == [1, 2]
    assert watched == []
    assert take_over(None) == []


def test_a_process_that_hangs_is_killed_and_one_that_ends_is_waited_for() -> None:
    ends = subprocess.Popen([sys.executable, "-c", ""])
    hangs = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    end([ends], 30.0)
    assert ends.poll() == 0
    try:
        end([hangs], 0.0)
        assert hangs.poll() == -9
    finally:
        hangs.kill()

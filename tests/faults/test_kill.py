"""Case 20: killed at any moment, a run resumes from its newest complete checkpoint; no record is lost or duplicated."""

import csv
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable

import pytest
from lightning import Callback

from hero_pl.callbacks import checkpoints
from hero_pl.callbacks.resume import continue_in, resume_point
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.runs import jsonl
from tests.faults.conftest import episodes, same_weights

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that is killed is a fork of this process")


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(count: int, function: Callable, instead: Callable = die) -> Callable:
    """Calls ``function``, but ``instead`` at call number ``count``."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return instead(*args, **kwargs) if len(calls) == count else function(*args, **kwargs)

    return counted


def half_a_line(file, line):
    file.write(line[: len(line) // 2])
    die()


def half_a_checkpoint(checkpoint, file):
    file.write(b"PK half")
    file.flush()
    die()


PLACES = {
    "in the middle of a checkpoint": lambda: setattr(
        checkpoints, "_write_sealed", at_call(2, checkpoints._write_sealed, half_a_checkpoint)
    ),
    "before a checkpoint gets its name": lambda: setattr(os, "replace", at_call(3, os.replace)),
    "before a name is on the disk": lambda: setattr(checkpoints, "_sync_folder", at_call(2, checkpoints._sync_folder)),
    "in the middle of a record": lambda: setattr(jsonl, "_write_all", at_call(6, jsonl._write_all, half_a_line)),
    "between two records": lambda: setattr(jsonl, "_write_all", at_call(6, jsonl._write_all)),
}


def rows_of(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [(row["step"], row["train/loss"], row["train/turns"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_resumes_exactly(place, run, newest, tmp_path):
    whole = run("whole")
    child = os.fork()
    if child == 0:
        PLACES[place]()
        try:
            run("run")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the run was not struck"
    assert newest() is not None
    resumed = run("run", resume=newest())
    assert same_weights(whole, resumed)
    assert episodes(tmp_path / "run") == episodes(tmp_path / "whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


class Instants(Callback):
    """Counts the calls of Python and C functions in this thread, and interrupts one of them."""

    def __init__(self, last: int = 0) -> None:
        self.count, self.last = 0, last
        self.steps: list[int] = []
        """Calls up to the start of training and to the end of each step."""

    def __enter__(self) -> "Instants":
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self.last:
            die()

    def on_train_start(self, *_: object) -> None:
        self.steps.append(self.count)

    on_train_batch_end = on_train_start


def test_a_run_that_is_killed_at_twenty_random_instants_ends_as_if_nothing_had_been(run, tmp_path):
    run("warm", steps=1)  # what is done once in a process must not count
    with Instants() as calls:
        whole = run("whole", steps=12, callbacks=[calls])
    start, end = calls.steps[0], calls.steps[-1]
    draw, steps = random.Random(7), []
    for _ in range(20):
        instant = draw.randrange(1, start + int(2.2 * (end - start) / 12))
        child = os.fork()
        if child == 0:
            try:
                with Instants(instant):
                    go_on(run, tmp_path)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"not struck at call {instant}; it had got to {steps}"
        steps.append(newest_step(tmp_path))
    assert steps == sorted(steps)  # what was saved stays
    assert steps[-1] > 1, f"it got nowhere: {steps}"
    resumed = go_on(run, tmp_path)
    assert same_weights(whole, resumed)
    assert episodes(tmp_path / "run") == episodes(tmp_path / "whole")
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def go_on(run: Callable, tmp_path) -> object:
    """Resumes like ``--resume auto``."""
    logger = RunLogger(str(tmp_path), "", "run")
    point = resume_point("auto", logger)
    if point is not None:
        continue_in(point, logger)
    return run("run", resume=point and point.checkpoint, logger=logger, steps=12)


def newest_step(tmp_path) -> int:
    point = resume_point("auto", RunLogger(str(tmp_path), "", "run"))
    return 0 if point is None or point.checkpoint is None else checkpoints.verify(point.checkpoint).step

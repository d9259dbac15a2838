"""A run that keeps checkpoints and all its files, and what two runs are compared by."""

import pytest
import torch

from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.callbacks.trajectories import TrajectoryLog

STEPS = 4


@pytest.fixture
def run(tiny_module, tiny_data, fit, tmp_path):
    """Trains in a folder with logs and checkpoints; returns the module."""

    def train(folder="run", objective=None, module=None, data=None, resume=None, callbacks=(), steps=STEPS, **kwargs):
        module = module or tiny_module(objective)
        keeper = kwargs.pop("keeper", None) or RunCheckpoint(1, keep=2)
        logger = kwargs.pop("logger", None) or RunLogger(str(tmp_path), "", folder)
        if resume is not None and tmp_path / folder in resume.parents:
            logger.go_on_in(tmp_path / folder)
        fit(
            module,
            data or tiny_data(),
            steps,
            resume,
            logger=logger,
            callbacks=[TrajectoryLog(), keeper, *callbacks],
            **kwargs,
        )
        return module

    return train


@pytest.fixture
def newest(tmp_path):
    """The newest intact checkpoint of a run."""
    from hero_pl.callbacks.checkpoints import newest_verified

    return lambda folder="run": newest_verified(tmp_path / folder / "checkpoints")[0]


def same(left, right):
    """Whether two nested values are equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def same_weights(left, right):
    """Whether the weights of two modules are equal bit for bit."""
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def episodes(folder):
    """Step and text of every recorded training episode."""
    from hero_pl.runs.records import RECORDS_FILE, read_records

    return [
        (r.step, r.trajectory.task_id, [t.text for t in r.trajectory.turns])
        for r in read_records(folder / RECORDS_FILE)
    ]

"""A class is a component if its module is in the package of its base class."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIVERGENCE = '''"""A divergence in a file of its own."""

from torch import Tensor

from hero_pl.losses.base import DistillationLoss, log_probabilities


class {name}(DistillationLoss):
    """Squared distance of the probabilities."""

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        student = log_probabilities(student_logits).exp()
        teacher = log_probabilities(teacher_logits.detach()).exp()
        return (student - teacher).square().sum(-1)
'''
TEACHER = '''"""A teacher in a file of its own."""

from hero_pl.teacher.hindsight import HindsightTeacher


class Whisperer(HindsightTeacher):
    """Whispers."""
'''


@pytest.fixture
def copy(tmp_path):
    """Runs a command with a copy of the package and additional files in it."""
    shutil.copytree(ROOT / "hero_pl", tmp_path / "hero_pl", ignore=shutil.ignore_patterns("__pycache__"))

    def run(*words):
        path = os.pathsep.join([str(tmp_path), str(ROOT / "envs")])
        return subprocess.run(
            [sys.executable, "-m", "hero_pl", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_new_file_is_listed_and_its_short_name_trains_without_touching_another(copy, config, tmp_path) -> None:
    (tmp_path / "hero_pl" / "losses" / "squared.py").write_text(DIVERGENCE.format(name="Squared"), encoding="utf-8")
    (tmp_path / "hero_pl" / "teacher" / "whisperer.py").write_text(TEACHER, encoding="utf-8")
    listed = copy("components").stdout
    assert "  Squared                  Squared distance of the probabilities.\n" in listed
    assert "  Whisperer                Whispers.\n" in listed
    parts = {"reflector": "ShopRules", "divergence": "Squared", "teacher": "Whisperer"}
    path = config(model__objective={"class_path": "SelfDistillation", "init_args": parts}, trainer__max_steps=1)
    done = copy("fit", "--config", path, "--held_out.episodes=0")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs").rglob("*.ckpt"))


def test_two_classes_of_one_name_are_refused_with_both_places(copy, config, tmp_path) -> None:
    (tmp_path / "hero_pl" / "losses" / "again.py").write_text(DIVERGENCE.format(name="JensenShannon"), encoding="utf-8")
    done = copy("components")
    assert done.returncode == 1
    assert "hero_pl: Two components have the name JensenShannon: " in done.stderr
    assert "hero_pl.losses.again.JensenShannon" in done.stderr
    assert "hero_pl.losses.jensen_shannon.JensenShannon" in done.stderr

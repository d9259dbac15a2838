"""A policy of bigrams, and an objective whose teacher disagrees although such a table cannot read a hint."""

from collections.abc import Sequence

import pytest
import torch

from hero_pl.losses import Scores
from hero_pl.policy.base import Policy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.teacher.weights import TeacherWeights
from hero_pl.types import ScoreRow


class Doubled(TeacherWeights):
    """Twice the student's logits."""

    def scores(self, policy: Policy, rows: Sequence[ScoreRow]) -> Scores:
        with policy.sampling():
            return Scores(2.0 * policy.score(rows))


@pytest.fixture
def doubled() -> TeacherWeights:
    return Doubled()


@pytest.fixture
def bigrams() -> ScriptedPolicy:
    made = ScriptedPolicy()
    made.load()
    torch.nn.init.normal_(made.table.weight, generator=torch.Generator().manual_seed(0))
    return made

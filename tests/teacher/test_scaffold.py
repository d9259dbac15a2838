"""On a tiny model: the effect of the wording alone cancels, and the effect of the hint's content stays."""

import math

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError
from hero_pl.losses import Scores
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.expert import ShopExpert
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.scaffold import without_scaffold
from hero_pl.teacher.weights import EMAWeights, InitialWeights, LiveWeights
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

STYLE, CONTENT = 6.0, 2.0


class Styled(ScriptedPolicy):
    """The word "note:" alone makes "!" likelier by 6 nats; a red in the note makes "r" likelier by 2."""

    def score(self, rows, weights="live"):
        logits = super().score(rows, weights).detach().clone()
        shout, red = self.template.encoder.encode_untrusted("!r")
        place = 0
        for row in rows:
            context = str(self.template.tokenizer.decode(list(row.ids[: row.spans[0][0]])))
            logits[place : place + row.scored, shout] += STYLE * ("note:" in context)
            logits[place : place + row.scored, red] += CONTENT * ("red" in context)
            place += row.scored
        return logits


def one_turn(policy):
    ids = (*policy.template.encoder.encode_untrusted("x"), int(policy.template.tokenizer.eos_token_id))
    turn = Turn(1, policy.template.first_prompt("", "go"), ids, (0.0,) * len(ids), "x", "x", "", "user")
    return Trajectory("t", "e", 0, 0, "", (), "go", (turn,), 0.0, StopReason.TERMINATED)


def teacher_view(scaffold):
    policy = Styled(parser=PlainText())
    policy.load()
    objective = SelfDistillation(
        ScriptedReflector([Reflection((Diagnosis("red", "high"),), "ok")]),
        HindsightTeacher(template="short"),
        probe_turns=0,
        scaffold=scaffold,
    )
    step = objective.prepare([one_turn(policy)], policy, lambda local: local)
    return policy, step, objective.teacher_scores(policy, step.batch).logits().softmax(-1)[0]


def test_subtracting_cancels_the_style_and_keeps_the_content() -> None:
    policy, _, kept = teacher_view("keep")
    _, _, subtracted = teacher_view("subtract")
    shout, red = policy.template.encoder.encode_untrusted("!r")
    vocabulary = len(policy.template.tokenizer)
    both = math.exp(STYLE) + math.exp(CONTENT) + vocabulary - 2
    assert kept[shout] == pytest.approx(math.exp(STYLE) / both)
    content = math.exp(CONTENT) + vocabulary - 1
    assert subtracted[red] == pytest.approx(math.exp(CONTENT) / content)
    assert subtracted[shout] == pytest.approx(1 / content)


def test_its_cost_is_counted() -> None:
    _, kept, _ = teacher_view("keep")
    _, subtracted, _ = teacher_view("subtract")
    views = (subtracted.batch.teacher, *subtracted.batch.scaffold_rows)
    assert kept.batch.scaffold_rows == ()
    assert len(views) == 3
    assert float(subtracted.metrics["teacher/tokens"]) == sum(len(rows[0].ids) for rows in views)
    assert float(subtracted.metrics["teacher/tokens"]) > 2 * float(kept.metrics["teacher/tokens"])


@pytest.mark.parametrize("weights", [LiveWeights, InitialWeights, EMAWeights])
def test_a_hint_that_says_nothing_teaches_nothing_under_any_weights(
    weights, tiny_module, tiny_data, fit, tmp_path
) -> None:
    (tmp_path / "silent.jinja").write_text("Now think hard.")
    teacher = HindsightTeacher(template=str(tmp_path / "silent.jinja"))
    losses = {}
    for scaffold in ("keep", "subtract"):
        module = tiny_module(SelfDistillation(ShopRules(), teacher, weights(), scaffold=scaffold, probe_turns=0))
        fit(module, tiny_data(), 1)
        losses[scaffold] = module.last_metrics["teacher/divergence"]
    assert losses["keep"] > 1e-5
    assert losses["subtract"] == pytest.approx(0.0, abs=1e-8)


def test_a_micro_batch_keeps_the_views_of_its_turns() -> None:
    _, step, _ = teacher_view("subtract")
    (micro,) = step.batch.split(1)
    assert micro.scaffold_rows == step.batch.scaffold_rows


def test_nothing_flows_to_the_teacher(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    objective = SelfDistillation(
        ScriptedReflector([Reflection((Diagnosis("red", "high"),), "ok")]),
        HindsightTeacher(template="short"),
        probe_turns=0,
        scaffold="subtract",
    )
    batch = objective.prepare([one_turn(policy)], policy, lambda local: local).batch
    scores = objective.teacher_scores(policy, batch)
    assert scores.head is not None
    assert not scores.logits().requires_grad


def test_hidden_states_are_subtracted_as_logits_are() -> None:
    views = [Scores(torch.randn(4, 3), torch.eye(5, 3)) for _ in range(3)]
    in_parts = without_scaffold(*views)
    assert in_parts.head is not None
    whole = without_scaffold(*(Scores(view.logits()) for view in views))
    torch.testing.assert_close(in_parts.logits().softmax(-1), whole.logits().softmax(-1))


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="scaffold"):
        SelfDistillation(scaffold="drop")
    with pytest.raises(ConfigError, match="empty form"):
        SelfDistillation(teacher=FullDemoTeacher("oracle", ShopExpert()), scaffold="subtract")

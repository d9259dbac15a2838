"""Hints of other turns: how they are assigned, and that a gate uses them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from hero_pl.losses import Scores
from hero_pl.losses.base import action_log_probabilities
from hero_pl.losses.gates import Contrastive, Gate, GateInputs, SigmoidGap
from hero_pl.objectives.negative_hints import negative_hints
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.base import Policy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.teacher.weights import TeacherWeights
from hero_pl.types import Diagnosis, Hint, Reflection, ScoreRow, StopReason, Trajectory, Turn


def episode(policy: ScriptedPolicy, i: int, turns: int = 1) -> Trajectory:
    prompt, made = policy.template.first_prompt("", "hi"), []
    for number in range(1, turns + 1):
        ids = policy.template.encoder.encode_untrusted(f"reply {i}{number}")
        made.append(Turn(number, prompt, ids, (-1.0,) * len(ids), "", "go", "no", "user"))
        prompt = policy.template.next_prompt(prompt, ids, "no")
    return Trajectory(f"t{i}", "e", i, i, "", (), "hi", tuple(made), 0.0, StopReason.TERMINATED)


def test_no_turn_keeps_its_own_words_and_turns_without_a_hint_get_none(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i, 3) for i in range(4)]
    hints = [[Hint(n, f"hint {i}{n}") if (i + n) % 3 else None for n in (1, 2, 3)] for i in range(4)]
    first, second = negative_hints(trajectories, hints, 2)
    assert first != second
    assert negative_hints(trajectories, hints, 2) == [first, second]
    for result in (first, second):
        for i, row in enumerate(hints):
            for true, wrong in zip(row, result[i], strict=True):
                assert (wrong == "") == (true is None)
                assert true is None or (wrong != true.text and wrong[5] != str(i))  # of another episode
    assert negative_hints(trajectories, hints, 0) == []


def test_a_turn_for_which_there_are_no_other_words_is_compared_with_no_hint(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(2)]
    assert negative_hints(trajectories[:1], [[Hint(1, "only")]], 1) == [[[""]]]
    assert negative_hints(trajectories, [[Hint(1, "same")], [Hint(1, "same")]], 1) == [[[""], [""]]]
    buy = [[Hint(1, text, target="buy")] for text in ("late: buy", "slow: buy")]
    assert negative_hints(trajectories, buy, 1) == [[[""], [""]]]  # other words for the same reply
    right = [[Hint(1, text, target="")] for text in ("right: went on", "right: bought")]
    assert negative_hints(trajectories, right, 1) == [[["right: bought"], ["right: went on"]]]


def test_a_wrong_hint_that_does_not_fit_is_left_out(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(2)]
    given = [Reflection((Diagnosis(text, "high"),), "ok") for text in ("short", "long " * 40)]
    tight = ScriptedPolicy(template=bigrams.template)
    tight.load()
    tight.max_length = 450
    objective = SelfDistillation(ScriptedReflector(given), gate=Contrastive())
    batch = objective.prepare(trajectories, tight, lambda local: local).batch
    assert batch.turn_numbers == (1,)  # the long hint does not fit its own turn either
    assert batch.negative_rows[0][0].ids == trajectories[0].turns[0].prompt_ids + trajectories[0].turns[0].action_ids


class Watching(Gate):
    negative_hints = 2

    def forward(self, inputs: GateInputs) -> torch.Tensor:
        self.seen = inputs
        return torch.ones(len(inputs.action_ids))


def test_the_gate_gets_the_sampled_ids_under_each_wrong_hint_in_every_micro_batch(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(3)]
    given = [Reflection((Diagnosis(f"why {i}", "high"),), "ok") for i in range(3)]
    gate = Watching()
    objective = SelfDistillation(ScriptedReflector(given), gate=gate)
    batch = objective.prepare(trajectories, bigrams, lambda local: local).batch
    for micro in batch.split(1):
        objective.loss(bigrams, micro)
        by_hand = [action_log_probabilities(bigrams.score(rows), micro.action_ids) for rows in micro.negative_rows]
        torch.testing.assert_close(gate.seen.wrong_hint_log_probs, torch.stack(by_hand).detach())
        assert gate.seen.wrong_hint_log_probs.shape == (2, len(micro))
        assert all(rows[0].ids != micro.teacher[0].ids for rows in micro.negative_rows)


class Recorded(Gate):
    """Another gate; stores its factors."""

    def __init__(self, inner: Gate) -> None:
        super().__init__()
        self.inner, self.negative_hints, self.by_token = inner, inner.negative_hints, inner.by_token

    def forward(self, inputs: GateInputs) -> torch.Tensor:
        self.factor = self.inner(inputs)
        return self.factor


class Styled(TeacherWeights):
    """Any hint makes one id likelier (style); what the hint names is likelier still (content)."""

    def __init__(self, policy: ScriptedPolicy, style: int, strength: float, content: dict[str, int]) -> None:
        self.tokenizer, self.style, self.strength, self.content = policy.template.tokenizer, style, strength, content

    def scores(self, policy: Policy, rows: Sequence[ScoreRow]) -> Scores:
        logits = policy.score(rows).detach().clone()
        owners = [row for row in rows for _ in range(row.scored)]
        for i, row in enumerate(owners):
            text = self.tokenizer.decode(list(row.ids))
            logits[i, self.style] += self.strength
            for words, token in self.content.items():
                logits[i, token] += 6.0 * (words in text)
        return Scores(logits)


@pytest.mark.parametrize("strength", [2.0, 4.0])
def test_the_contrastive_gate_cancels_a_style_that_any_hint_brings_and_the_sigmoid_gap_does_not(
    strength: float,
) -> None:
    policy = ScriptedPolicy()
    policy.load()
    style, *named = policy.template.encoder.encode_untrusted("sxy")
    content = {"says x": named[0], "says y": named[1]}
    trajectories = [episode(policy, i) for i in range(2)]
    for i, trajectory in enumerate(trajectories):
        ids = (style, named[i])
        turn = replace(trajectory.turns[0], action_ids=ids, action_logprobs=(-1.0, -1.0))
        trajectories[i] = replace(trajectory, turns=(turn,))
    given = [Reflection((Diagnosis(words, "high"),), "ok") for words in content]

    def factors(gate: Gate) -> tuple[float, float]:
        """Values of the style id and of the id that the true hint names, both in the first episode."""
        weights = Styled(policy, style, strength, content)
        watching = Recorded(gate)
        objective = SelfDistillation(ScriptedReflector(list(given)), weights=weights, gate=watching)
        batch = objective.prepare(trajectories, policy, lambda local: local).batch
        objective.loss(policy, batch)
        return float(watching.factor[0]), float(watching.factor[1])

    of_style, of_content = factors(Contrastive())
    assert of_style == pytest.approx(0.5, abs=1e-4)
    assert of_content > 0.95
    of_style, of_content = factors(SigmoidGap())
    assert of_style > 0.6
    assert of_content > 0.95

"""Hints of other turns: which turn gets whose, and that a gate reads them."""

import torch

from hero_pl.losses.base import action_log_probabilities
from hero_pl.losses.gates import Contrastive, Gate, GateInputs
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.wrong_hints import wrong_hints
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Hint, Reflection, StopReason, Trajectory, Turn


def episode(policy: ScriptedPolicy, i: int, turns: int = 1) -> Trajectory:
    prompt, made = policy.template.opening("", "hi"), []
    for number in range(1, turns + 1):
        ids = policy.template.encoder.outside(f"reply {i}{number}")
        made.append(Turn(number, prompt, ids, (-1.0,) * len(ids), "", "go", "no", "user"))
        prompt = policy.template.following(prompt, ids, "no")
    return Trajectory(f"t{i}", "e", i, i, "", (), "hi", tuple(made), 0.0, StopReason.TERMINATED)


def test_no_turn_keeps_its_own_words_and_turns_without_a_hint_get_none(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i, 3) for i in range(4)]
    hints = [[Hint(n, f"hint {i}{n}") if (i + n) % 3 else None for n in (1, 2, 3)] for i in range(4)]
    first, second = wrong_hints(trajectories, hints, 2)
    assert first != second
    assert wrong_hints(trajectories, hints, 2) == [first, second]
    for found in (first, second):
        for i, row in enumerate(hints):
            for true, wrong in zip(row, found[i], strict=True):
                assert (wrong == "") == (true is None)
                assert true is None or (wrong != true.text and wrong[5] != str(i))  # of another episode
    assert wrong_hints(trajectories, hints, 0) == []


def test_a_turn_for_which_there_are_no_other_words_is_compared_with_no_hint(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(2)]
    assert wrong_hints(trajectories[:1], [[Hint(1, "only")]], 1) == [[[""]]]
    assert wrong_hints(trajectories, [[Hint(1, "same")], [Hint(1, "same")]], 1) == [[[""], [""]]]


def test_a_wrong_hint_that_does_not_fit_is_left_out(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(2)]
    given = [Reflection((Diagnosis(text, "high"),), "ok") for text in ("short", "long " * 40)]
    tight = ScriptedPolicy(template=bigrams.template)
    tight.load()
    tight.max_length = 450
    objective = SelfDistillation(ScriptedReflector(given), gate=Contrastive())
    batch = objective.prepare(trajectories, tight, lambda local: local).batch
    assert batch.places == ((0, 1),)  # the long hint does not fit its own turn either
    assert batch.wrong[0][0].ids == trajectories[0].turns[0].prompt_ids + trajectories[0].turns[0].action_ids


class Watching(Gate):
    wrong_hints = 2

    def forward(self, inputs: GateInputs) -> torch.Tensor:
        self.seen = inputs
        return torch.ones_like(inputs.per_token)


def test_the_gate_gets_the_sampled_ids_under_each_wrong_hint_in_every_micro_batch(bigrams: ScriptedPolicy) -> None:
    trajectories = [episode(bigrams, i) for i in range(3)]
    given = [Reflection((Diagnosis(f"why {i}", "high"),), "ok") for i in range(3)]
    gate = Watching()
    objective = SelfDistillation(ScriptedReflector(given), gate=gate)
    batch = objective.prepare(trajectories, bigrams, lambda local: local).batch
    for micro in batch.split(1):
        objective.loss(bigrams, micro)
        by_hand = [action_log_probabilities(bigrams.score(rows), micro.action_ids) for rows in micro.wrong]
        torch.testing.assert_close(gate.seen.wrong_hint_log_probs, torch.stack(by_hand).detach())
        assert gate.seen.wrong_hint_log_probs.shape == (2, len(micro))
        assert all(rows[0].ids != micro.teacher[0].ids for rows in micro.wrong)

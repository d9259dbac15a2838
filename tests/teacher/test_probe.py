"""The probe detects a teacher that no longer follows hints, and it does not change a run."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hero_pl.errors import ConfigError
from hero_pl.losses import Scores
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.scalars import measured
from hero_pl.teacher.probe import HintProbe
from hero_pl.teacher.weights import LiveWeights, TeacherWeights
from hero_pl.types import Hint, StopReason, Trajectory, Turn

POLICY = ScriptedPolicy()
POLICY.load()
VOCABULARY = len(POLICY.template.tokenizer)


class Reads(TeacherWeights):
    """Prefers id 0 by ``strength`` nats if the context contains the word of the hint."""

    def __init__(self, strength, word="BLUE"):
        self.strength, self.word = strength, word

    def scores(self, policy, rows):
        logits = torch.zeros(sum(row.scored for row in rows), VOCABULARY)
        place = 0
        for row in rows:
            if self.word in policy.template.tokenizer.decode(list(row.ids)):
                logits[place : place + row.scored, 0] = self.strength
            place += row.scored
        return Scores(logits)


def episode(*replies):
    prompt = POLICY.template.first_prompt("", "hi")
    turns = []
    for number, reply in enumerate(replies, 1):
        ids = (*POLICY.template.encoder.encode_untrusted(reply), int(POLICY.template.tokenizer.eos_token_id))
        turns.append(Turn(number, prompt, ids, (-1.0,) * len(ids), reply, reply, "ok", "user"))
        prompt = POLICY.template.next_prompt(prompt, ids, "ok")
    return Trajectory("t", "e", 0, 0, "", (), "hi", tuple(turns), 0.0, StopReason.TERMINATED)


def hints(*texts):
    return [[None if text is None else Hint(i, text) for i, text in enumerate(texts, 1)]]


def test_sensitivity_is_the_mean_divergence_between_true_and_exchanged_hints() -> None:
    probe = HintProbe(2, 1)
    metrics = probe.step([episode("a", "bb")], hints("BLUE", "RED"), POLICY, Reads(3.0))
    # On each of the two turns one row holds BLUE and the other does not: the same divergence at every token.
    logits = torch.zeros(2, VOCABULARY)
    logits[0, 0] = 3.0
    expected = float(JensenShannon()(logits[:1], logits[1:]))
    assert float(metrics["teacher/hint_sensitivity"]) == pytest.approx(expected)
    assert float(metrics["teacher/probe_turns"]) == 2
    assert 0.0 < expected < math.log(2)
    assert "teacher/hint_gain" not in metrics  # these hints say neither right nor wrong


def test_bug_712_the_exchanged_hint_is_for_another_reply_if_there_is_one() -> None:
    given = [[Hint(1, "BLUE 1", target="left"), Hint(2, "BLUE 2", target="left"), Hint(3, "RED", target="right")]]
    probe = HintProbe(3, 1)
    different = probe.step([episode("a", "b", "c")], given, POLICY, Reads(3.0))
    alike = HintProbe(2, 1).step([episode("a", "b")], [given[0][:2]], POLICY, Reads(3.0))
    logits = torch.zeros(2, VOCABULARY)
    logits[0, 0] = 3.0
    expected = float(JensenShannon()(logits[:1], logits[1:]))  # every exchange is between BLUE and RED
    assert float(different["teacher/hint_sensitivity"]) == pytest.approx(expected)
    assert [probe._other_hint(i) for i in range(3)] == ["RED", "RED", "BLUE 1"]
    assert float(alike["teacher/hint_sensitivity"]) == 0.0  # nothing but other words for the same reply


def test_a_teacher_that_no_longer_reads_hints_measures_zero() -> None:
    probe = HintProbe(2, 1)
    first = probe.step([episode("a", "bb")], hints("BLUE", "RED"), POLICY, Reads(3.0))
    later = probe.step([], [], POLICY, Reads(0.0))
    assert float(first["teacher/hint_sensitivity"]) > 0.0
    assert float(later["teacher/hint_sensitivity"]) == 0.0


def test_the_set_is_the_first_hinted_turns_and_stays() -> None:
    probe = HintProbe(3, 2)
    names = []
    for batch in range(6):
        metrics = probe.step([episode("a", "b")], hints(f"BLUE {batch}", None), POLICY, Reads(1.0))
        names.append("teacher/hint_sensitivity" in metrics)
        assert "teacher/probe_tokens" in metrics
    assert [turn.hint for turn in probe.turns] == ["BLUE 0", "BLUE 1", "BLUE 2"]
    assert names == [False, False, True, False, True, False]  # when it is complete, then every second batch


def test_hints_that_all_say_the_same_measure_nothing_and_say_so() -> None:
    metrics = HintProbe(2, 1).step([episode("a", "b")], hints("BLUE", "BLUE"), POLICY, Reads(1.0))
    assert measured(metrics) == {"teacher/probe_turns": 0.0, "teacher/probe_tokens": 0.0}


def test_a_hint_that_does_not_fit_is_left_out_and_counted() -> None:
    tight = ScriptedPolicy(template=POLICY.template)
    tight.load()
    trajectory = episode("a", "b")
    tight.max_length = len(POLICY.template.insert_hint(trajectory.turns[0].prompt_ids, "BLUE")) + 2
    metrics = HintProbe(2, 1).step([trajectory], hints("BLUE", "RED"), tight, Reads(1.0))
    assert float(metrics["teacher/probe_turns"]) == 1


class Prefers(TeacherWeights):
    """Prefers the byte ``letter`` by ``strength`` nats if the context contains the word BLUE."""

    def __init__(self, letter, strength):
        self.id, self.strength = POLICY.template.encoder.encode_untrusted(letter)[0], strength

    def scores(self, policy, rows):
        logits = torch.zeros(sum(row.scored for row in rows), VOCABULARY)
        place = 0
        for row in rows:
            if "BLUE" in policy.template.tokenizer.decode(list(row.ids)):
                logits[place : place + row.scored, self.id] = self.strength
            place += row.scored
        return Scores(logits)


def test_the_wanted_reply_is_the_target_or_the_action_that_was_called_right() -> None:
    given = [[Hint(1, "BLUE", target="z"), Hint(2, "RED", target=""), Hint(3, "GREEN BLUE", target=None)]]
    measured = HintProbe(3, 1).step([episode("a", "b", "c")], given, POLICY, Prefers("z", 2.0))
    # With BLUE in view the target "z" has 2 nats more, and both of its ids pay for the larger sum of exponentials. The
    # second hint moves nothing, and the third turn takes no part.
    other = math.log(VOCABULARY)
    moved = math.log(VOCABULARY - 1 + math.exp(2.0))
    gain = 2.0 - 2 * (moved - other)
    assert float(measured["teacher/hint_gain"]) == pytest.approx(gain / 2)
    assert float(measured["teacher/hinted_logprob"]) == pytest.approx((2.0 - 2 * moved - 2 * other) / 2)
    assert float(measured["teacher/probe_turns"]) == 3


def test_tokens_are_those_of_both_rows_of_every_turn() -> None:
    trajectory = episode("a", "bb")
    metrics = HintProbe(2, 1).step([trajectory], hints("BLUE", "RED"), POLICY, Reads(1.0))
    rows = [len(POLICY.template.insert_hint(t.prompt_ids, h)) for t in trajectory.turns for h in ("BLUE", "RED")]
    assert float(metrics["teacher/probe_tokens"]) == sum(rows) + 2 * sum(len(t.action_ids) for t in trajectory.turns)


def test_a_resumed_probe_measures_the_same_turns_at_the_same_batches() -> None:
    probe, resumed = HintProbe(2, 2), HintProbe(2, 2)
    probe.step([episode("a", "b")], hints("BLUE", "RED"), POLICY, Reads(1.0))
    probe.step([], [], POLICY, Reads(1.0))
    resumed.load_state_dict(probe.state_dict())
    assert resumed.step([], [], POLICY, Reads(1.0)) == probe.step([], [], POLICY, Reads(1.0))
    assert resumed.state_dict() == probe.state_dict()


class Seen(Callback):
    def __init__(self):
        self.metrics = []

    def on_train_batch_end(self, trainer, module, *args):
        self.metrics.append(module.last_metrics)


def test_a_run_is_the_same_with_and_without_the_probe(tiny_module, tiny_data, fit) -> None:
    results, logged = [], []
    for turns in (0, 4):
        objective = SelfDistillation(reflector=ShopRules(), weights=LiveWeights(), probe_turns=turns, probe_every=2)
        module, seen = tiny_module(objective), Seen()
        fit(module, tiny_data(), 4, callbacks=[seen])
        results.append(torch.cat([p.detach().flatten() for p in module.policy.parameters()]))
        logged.append(["teacher/hint_sensitivity" in metrics for metrics in seen.metrics])
    assert torch.equal(results[0], results[1])
    assert logged == [[False] * 4, [True, False, True, False]]


@pytest.mark.parametrize(("turns", "every"), [(-1, 5), (1, 5), (4, 0)])
def test_settings_that_cannot_work_are_refused(turns, every) -> None:
    with pytest.raises(ConfigError, match="probe_turns"):
        SelfDistillation(probe_turns=turns, probe_every=every)

"""A hint is encoded once per step, even if several rows contain it."""

from collections import Counter

import pytest

from hero_pl.losses.gates import Contrastive
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn


def episodes(policy: ScriptedPolicy, count: int) -> list[Trajectory]:
    made = []
    for i in range(count):
        prompt, turns = policy.template.first_prompt("", f"task {i}"), []
        for number in (1, 2):
            ids = policy.template.encoder.encode_untrusted(f"reply {i}{number}")
            turns.append(Turn(number, prompt, ids, (-1.0,) * len(ids), "", "go", "no", "user"))
            prompt = policy.template.next_prompt(prompt, ids, "no")
        made.append(Trajectory(f"t{i}", "e", i, i, "", (), "hi", tuple(turns), 0.0, StopReason.TERMINATED))
    return made


def times(words: str, seen: Counter[str]) -> int:
    return sum(count for text, count in seen.items() if words in text)


@pytest.mark.parametrize("with_scaffold", [False, True])  # a gate that compares hints does not go with it
@pytest.mark.parametrize("position", ["before_action", "system", "last_message", "think_prefix", "after_draft"])
def test_bug_87_a_hint_is_encoded_once_for_teacher_gate_scaffold_and_probe(
    position: str, with_scaffold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = ScriptedPolicy()
    policy.load()
    played = episodes(policy, 3)
    diagnoses = [[f"said {i}{number} of {position}" for number in (1, 2)] for i in range(3)]
    reflections = [Reflection(tuple(Diagnosis(text, "high") for text in texts), "ok") for texts in diagnoses]
    teacher = HindsightTeacher(position=position)
    beside = {"scaffold": "subtract"} if with_scaffold else {"gate": Contrastive(negative_hints=2)}
    objective = SelfDistillation(ScriptedReflector(reflections), teacher, probe_turns=6, **beside)
    encode, seen = policy.template.encoder._encode, Counter[str]()
    monkeypatch.setattr(policy.template.encoder, "_encode", lambda text: seen.update([text]) or encode(text))
    step = objective.prepare(played, policy, lambda local: local)
    assert len(step.batch.teacher) == 6
    assert float(step.metrics["teacher/probe_turns"]) == 6.0
    for words in [text for texts in diagnoses for text in texts]:
        assert times(words, seen) == 2  # once by itself, for its length, and once where it stands
    assert times(teacher.scaffold, seen) == with_scaffold

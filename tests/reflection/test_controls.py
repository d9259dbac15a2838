import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_pl.errors import ConfigError
from hero_pl.pocket.retail.reflector import RetailRules
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.pocket.textworld.reflector import TextWorldRules
from hero_pl.pocket.webshop.reflector import WebShopRules
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.controls import BlindReflector, ShuffledReflector, generic_bank, without_replies
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

MODES: list[Any] = ["batch", "turns", "generic", "random_tokens"]


def call(text: str) -> dict[str, Any]:
    return {"name": "x", "arguments": {"because": text}}


def episode(turns: int, task: str = "t", env: str = "shop") -> Trajectory:
    played = tuple(Turn(i, (1,), (2,), (-0.1,), f"a{i}", f"a{i}", f"o{i}", "tool") for i in range(1, turns + 1))
    return Trajectory(task, env, 0, 0, "policy", (), "goal", played, 1.0, StopReason.TERMINATED, info={"gold": "x"})


def reflection(*texts: str | None, confidence: Any = "high") -> Reflection:
    diagnoses = tuple(Diagnosis(text, confidence, call(text)) if text else None for text in texts)
    return Reflection(diagnoses, "ok", strict=True, raw="raw", tokens=7)


def texts(reflections: list[Reflection]) -> list[list[str | None]]:
    return [[diagnosis.text if diagnosis else None for diagnosis in one.diagnoses] for one in reflections]


def test_a_turn_whose_corrected_action_is_taken_away_still_counts_as_a_failure() -> None:
    trajectories = [episode(2, f"task{e}") for e in range(3)]
    inner = [reflection("one", "two"), reflection("three", None), reflection("four", "five")]
    shuffled = ShuffledReflector(ScriptedReflector(inner)).reflect(trajectories, None)
    diagnoses = [diagnosis for one in shuffled for diagnosis in one.diagnoses if diagnosis]
    assert [(diagnosis.next_action_target, diagnosis.was_failure) for diagnosis in diagnoses] == [(None, True)] * 5


def codes(reflections: list[Reflection]) -> list[str]:
    return sorted(code for one in reflections for code, _ in one.issues)


def batches(count: int = 1) -> tuple[list[Trajectory], list[Reflection]]:
    """Three tasks, four turns each, one turn without a diagnosis."""
    trajectories = [episode(4, f"task{e}") for e in range(3)] * count
    given_ = [
        reflection(*(None if (e, t) == (1, 2) else f"Batch {b}, episode {e}, turn {t} here." for t in range(4)))
        for b in range(count)
        for e in range(3)
    ]
    return trajectories, given_


class Inner(Reflector):
    """Diagnoses quote the reply of each turn; stores the calls of its methods."""

    def __init__(self) -> None:
        self.started: object = None
        self.calls = 0

    def start(self, policy: Any) -> None:
        self.started = policy

    def reflect(self, trajectories: Any, policy: Any) -> list[Reflection]:
        self.calls += 1
        return [
            reflection(*(f"The reply was {turn.observation}." if turn.observation else None for turn in one.turns))
            for one in trajectories
        ]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        self.calls = state["calls"]


@pytest.mark.parametrize("mode", MODES)
def test_only_the_words_change_and_the_target_goes(mode: Any) -> None:
    trajectories, original = batches()
    shuffled = ShuffledReflector(ScriptedReflector(original), mode).reflect(trajectories, None)
    for before, after in zip(original, shuffled, strict=True):
        assert [bool(diagnosis) for diagnosis in after.diagnoses] == [bool(diagnosis) for diagnosis in before.diagnoses]
        assert (after.status, after.tokens, after.raw) == (before.status, before.tokens, before.raw)
        for one, other in zip(before.diagnoses, after.diagnoses, strict=True):
            if one and other:
                assert other.text != one.text
                assert (other.confidence, other.next_action_target) == (one.confidence, None)


@given(
    st.lists(st.lists(st.sampled_from([None, "good", "poor step", "long " * 20]), max_size=6), min_size=1, max_size=6),
    st.sampled_from(["batch", "turns"]),
    st.integers(0, 9),
)
def test_bug_38_no_turn_keeps_its_own_hint_and_the_mask_is_equal(given_: list[Any], mode: Any, seed: int) -> None:
    # Every diagnosis carries its own place, so that a kept hint can be told from an equal text of another turn.
    marked = [[text and f"{text} @{e}.{t}" for t, text in enumerate(row)] for e, row in enumerate(given_)]
    trajectories = [episode(len(row), f"task{e}") for e, row in enumerate(marked)]
    shuffled = ShuffledReflector(ScriptedReflector([reflection(*row) for row in marked]), mode, seed)
    reflections = shuffled.reflect(trajectories, None)
    for e, (row, after) in enumerate(zip(marked, texts(reflections), strict=True)):
        dropped = {turn for code, turn in reflections[e].issues if code == "control_dropped"}
        hinted = [t for t, text in enumerate(row) if text]
        assert [t for t, text in enumerate(after) if text] == [t for t in hinted if t + 1 not in dropped]
        assert all(after[t] != row[t] for t in hinted)
        if mode == "turns":
            assert {text for text in after if text} <= {text for text in row if text}
            assert len(dropped) == (1 if len(hinted) == 1 else 0)
    if mode == "batch":
        total = sum(bool(text) for row in marked for text in row)
        assert codes(reflections).count("control_dropped") == (1 if total == 1 else 0)


def test_batch_mode_takes_the_words_of_another_task_of_the_same_environment() -> None:
    trajectories = [episode(2, task, env) for env in ("shop", "desk") for task in ("t1", "t2")]
    original = [reflection(*(f"{one.env_id} {one.task_id} turn {t}" for t in range(2))) for one in trajectories]
    shuffled_texts = texts(ShuffledReflector(ScriptedReflector(original)).reflect(trajectories, None))
    for one, row in zip(trajectories, shuffled_texts, strict=True):
        other = {"t1": "t2", "t2": "t1"}[one.task_id]
        assert all((text or "").startswith(f"{one.env_id} {other} ") for text in row)


@pytest.mark.parametrize("mode", ["batch", "turns"])
def test_bug_711_other_words_for_the_same_correction_are_no_control(mode: Any) -> None:
    """Their text names the action that the turn needs."""
    buy, back = call("buy"), {"action": {"name": "x", "arguments": {"because": "back"}}}
    rows = [[("late", buy), ("lost", back["action"])], [("slow", {"action": buy}), ("far", back)]]
    original = [Reflection(tuple(Diagnosis(text, "high", to) for text, to in row), "ok") for row in rows]
    first, second = ("late", "slow"), ("lost", "far")
    allowed = dict.fromkeys(first, second) | dict.fromkeys(second, first)
    trajectories = [episode(2, f"task{e}") for e in range(2)]
    for seed in range(8):
        shuffled = ShuffledReflector(ScriptedReflector(original), mode, seed).reflect(trajectories, None)
        for before, after in zip(texts(original), texts(shuffled), strict=True):
            assert all(given_ in allowed[str(own)] for own, given_ in zip(before, after, strict=True))
        assert codes(shuffled) == []


def test_a_batch_that_needs_one_correction_takes_words_of_an_earlier_one_and_says_when_it_cannot() -> None:
    trajectories = [episode(1, f"task{e}") for e in range(2)]
    batch = [Reflection((Diagnosis(text, "high", call("buy")),), "ok") for text in ("late", "slow")]
    other = [Reflection((Diagnosis(text, "high", call("back")),), "ok") for text in ("lost", "far")]
    control = ShuffledReflector(ScriptedReflector([*batch, *other, *batch]))
    first, second, third = (control.reflect(trajectories, None) for _ in range(3))
    assert codes(first) == ["control_unchanged"] * 2
    assert codes(second) == codes(third) == ["control_from_buffer"] * 2
    assert {text for row in texts(second) for text in row} <= {"late", "slow"}
    resumed = ShuffledReflector(ScriptedReflector(batch))
    resumed.load_state_dict({**control.state_dict(), "inner": resumed.inner.state_dict()})
    assert {text for row in texts(resumed.reflect(trajectories, None)) for text in row} <= {"lost", "far"}
    state = control.state_dict()
    earlier = {**state, "buffer": [row[:4] for row in state["buffer"]], "inner": resumed.inner.state_dict()}
    resumed.load_state_dict(earlier)  # of version 0.1.0, without corrections
    assert [row[3:] for row in resumed.state_dict()["buffer"]] == [[row[3], None] for row in state["buffer"]]


def test_batch_mode_permutes_the_words() -> None:
    trajectories, original = batches()
    shuffled_texts = texts(ShuffledReflector(ScriptedReflector(original)).reflect(trajectories, None))
    assert sorted(str(text) for row in shuffled_texts for text in row) == sorted(
        str(t) for row in texts(original) for t in row
    )


def test_turns_mode_stays_inside_the_episode() -> None:
    trajectories, original = batches()
    shuffled_texts = texts(ShuffledReflector(ScriptedReflector(original), "turns").reflect(trajectories, None))
    for before, after in zip(texts(original), shuffled_texts, strict=True):
        assert sorted(map(str, before)) == sorted(map(str, after))


def test_equal_words_of_another_turn_are_avoided_and_counted_where_they_cannot_be() -> None:
    mixed = [reflection("good", "good", "poor", "poor")]
    reflections = ShuffledReflector(ScriptedReflector(mixed), "turns").reflect([episode(4)], None)
    assert texts(reflections) == [["poor", "poor", "good", "good"]]
    assert codes(reflections) == []
    mostly = [reflection("good", "good", "good", "good", "poor")]
    reflections = ShuffledReflector(ScriptedReflector(mostly), "turns").reflect([episode(5)], None)
    assert codes(reflections) == ["control_unchanged"] * 3
    assert sorted(str(text) for text in texts(reflections)[0]) == ["good"] * 4 + ["poor"]


def test_a_turn_without_a_partner_takes_the_words_of_an_earlier_batch() -> None:
    script = [reflection("First one."), reflection("Second one.")]
    shuffled = ShuffledReflector(ScriptedReflector(script))
    first = shuffled.reflect([episode(1, "t1")], None)
    assert (texts(first), first[0].status, codes(first)) == ([[None]], "rejected", ["control_dropped"])
    second = shuffled.reflect([episode(1, "t2")], None)
    assert (texts(second), codes(second)) == ([["First one."]], ["control_from_buffer"])


def test_the_buffer_gives_no_words_of_another_environment_and_none_of_the_same_value() -> None:
    script = [reflection("Same."), reflection("Same."), reflection("Other.")]
    shuffled = ShuffledReflector(ScriptedReflector(script))
    shuffled.reflect([episode(1, "t1")], None)
    assert codes(shuffled.reflect([episode(1, "t2")], None)) == ["control_dropped"]
    assert codes(shuffled.reflect([episode(1, "t2", env="desk")], None)) == ["control_dropped"]


def test_bug_868_a_lone_episode_prefers_an_earlier_batch_to_its_own_turns_which_are_counted() -> None:
    script = [reflection("Old one.", "Old two."), reflection("New one.", "New two.")]
    shuffled = ShuffledReflector(ScriptedReflector(script))
    first = shuffled.reflect([episode(2, "t1")], None)
    assert (texts(first), codes(first)) == ([["Old two.", "Old one."]], ["control_same_episode"] * 2)
    second = shuffled.reflect([episode(2, "t2")], None)
    assert {text for text in texts(second)[0]} <= {"Old one.", "Old two."}
    assert codes(second) == ["control_from_buffer"] * 2


def test_the_buffer_forgets_the_oldest() -> None:
    script = [reflection("One."), reflection("Two."), reflection("Three.")]
    shuffled = ShuffledReflector(ScriptedReflector(script), buffer_size=1)
    assert [texts(shuffled.reflect([episode(1, f"t{i}")], None)) for i in range(3)] == [
        [[None]],
        [["One."]],
        [["Two."]],
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_exchanges_as_the_saved_one_would_have(mode: Any) -> None:
    trajectories, original = batches(3)
    through = ShuffledReflector(ScriptedReflector(original), mode, seed=5)
    expected = [through.reflect(trajectories[:3], None) for _ in range(3)]
    first = ShuffledReflector(ScriptedReflector(original), mode, seed=5)
    assert first.reflect(trajectories[:3], None) == expected[0]
    state = json.loads(json.dumps(first.state_dict()))
    resumed = ShuffledReflector(ScriptedReflector(original), mode, seed=5)
    resumed.load_state_dict(state)
    assert [resumed.reflect(trajectories[:3], None) for _ in range(2)] == expected[1:]


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_matters_and_batches_differ(mode: Any) -> None:
    trajectories, original = batches()

    def run(seed: int) -> list[Any]:
        shuffled = ShuffledReflector(ScriptedReflector(original * 2), mode, seed)
        return [texts(shuffled.reflect(trajectories, None)) for _ in range(2)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1)[0] != run(1)[1]


def test_generic_sentences_come_from_the_bank_in_about_the_same_length() -> None:
    lengths = [12, 40, 160, 600]
    original = [reflection(*("w" * length for length in lengths))]
    (generic,) = ShuffledReflector(ScriptedReflector(original), "generic").reflect([episode(4)], None)
    for diagnosis, length in zip(generic.diagnoses, lengths, strict=True):
        assert diagnosis is not None
        assert diagnosis.text in generic_bank()
        assert abs(len(diagnosis.text).bit_length() - length.bit_length()) <= 1


def test_the_bank_holds_distinct_sentences_without_digits() -> None:
    bank = generic_bank()
    assert len(set(bank)) == len(bank) >= 12
    assert all(line.strip() == line and line and not any(map(str.isdigit, line)) for line in bank)
    assert max(map(len, bank)) <= 800


def test_random_words_are_as_many_as_before_and_from_other_turns() -> None:
    original = [reflection("alpha beta gamma", "delta epsilon"), reflection("zeta")]
    reflections = ShuffledReflector(ScriptedReflector(original), "random_tokens").reflect(
        [episode(2), episode(1)], None
    )
    ((first, second), (third,)) = texts(reflections)
    assert [len(str(text).split()) for text in (first, second, third)] == [3, 2, 1]
    assert set(str(first).split()) <= {"delta", "epsilon", "zeta"}
    assert set(str(third).split()) <= {"alpha", "beta", "gamma", "delta", "epsilon"}


def test_without_diagnoses_there_is_nothing_to_exchange() -> None:
    for mode in MODES:
        trajectories = [episode(2), episode(0)]
        assert ShuffledReflector(NoReflector(), mode).reflect(trajectories, None) == NoReflector().reflect(
            trajectories, None
        )
    assert ShuffledReflector(NoReflector()).reflect([], None) == []


@pytest.mark.parametrize("options", [{"mode": "sideways"}, {"buffer_size": -1}])
def test_a_setting_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ShuffledReflector(NoReflector(), **options)


def test_the_blind_reflector_keeps_turns_and_confidences_and_takes_blind_words() -> None:
    seen = reflection("Saw one.", None, "Saw three.", confidence="medium")
    blind = reflection("Guess one.", "Guess two.", "Guess three.", confidence="low")
    blind = replace(blind, issues=(("retried", 0), ("empty_diagnosis", 2)))
    (result,) = BlindReflector(ScriptedReflector([seen, blind])).reflect([episode(3)], None)
    words = [Diagnosis(text, "medium", was_failure=True) for text in ("Guess one.", "Guess three.")]
    assert result.diagnoses == (words[0], None, words[1])
    assert (result.tokens, result.issues) == (14, (("retried", 0),))  # both passes are paid for


def test_the_blind_reflector_shows_no_reply_anywhere() -> None:
    inner = Inner()
    (result,) = BlindReflector(inner).reflect([episode(3)], None)
    assert inner.calls == 2
    assert codes([result]) == ["control_generic"] * 3  # shown nothing, Inner says nothing
    assert all(diagnosis and diagnosis.text in generic_bank() for diagnosis in result.diagnoses)
    blind = without_replies(episode(3))
    assert [(turn.text, turn.action, turn.observation, turn.prompt_ids) for turn in blind.turns] == [
        (f"a{i}", f"a{i}", "", ()) for i in (1, 2, 3)
    ]
    assert (blind.info, blind.first_observation, blind.reward) == ({}, "goal", 1.0)


def test_a_blind_guess_that_is_the_same_is_counted() -> None:
    (result,) = BlindReflector(ScriptedReflector([reflection("Yes."), reflection("Yes.")])).reflect([episode(1)], None)
    assert result.issues == (("control_unchanged", 1),)


def test_a_reflector_that_reads_ids_cannot_be_blinded() -> None:
    inner = Inner()
    inner.mode = "continue"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="mode='transcript'"):
        BlindReflector(inner)


@pytest.mark.parametrize("rules", [ShopRules, RetailRules, TextWorldRules, WebShopRules])
def test_bug_760_rules_which_judge_by_the_replies_cannot_be_blinded(rules: Callable[[], Reflector]) -> None:
    with pytest.raises(ConfigError, match=r"would blame right actions without them.*transcript"):
        BlindReflector(rules())
    assert BlindReflector(Inner()).inner.needs_replies is False


@pytest.mark.parametrize("mode", [*MODES, "blind"])
def test_bug_767_a_turn_that_was_blamed_without_a_correction_stays_blamed(mode: Any) -> None:
    blamed = Reflection((Diagnosis("wrong: a", "high", None, was_failure=True), Diagnosis("right: b", "high")), "ok")
    inner = ScriptedReflector([blamed] * 6)
    control = BlindReflector(inner) if mode == "blind" else ShuffledReflector(inner, mode)
    for one in control.reflect([episode(2, f"task{e}") for e in range(3)], None):
        assert [diagnosis and diagnosis.was_failure for diagnosis in one.diagnoses] == [True, False]


@pytest.mark.parametrize("wrap", [ShuffledReflector, BlindReflector])
def test_a_control_prepares_saves_and_restores_its_inner_reflector(wrap: Callable[..., Reflector]) -> None:
    inner = Inner()
    control = wrap(inner)
    policy: Any = object()
    control.start(policy)
    assert inner.started is policy
    control.reflect([episode(2)], None)
    other = Inner()
    wrap(other).load_state_dict(json.loads(json.dumps(control.state_dict())))
    assert other.calls == inner.calls

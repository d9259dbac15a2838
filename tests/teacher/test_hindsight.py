"""Content of a hint, and what is shortened first if it is too long."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from hero_pl.chat.actions import PlainText, ReAct, ToolCall
from hero_pl.errors import ConfigError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.controls import BlindReflector, ShuffledReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.scalars import measured
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.hindsight import EmptyHintTeacher, FeedbackOnlyTeacher, HindsightTeacher
from hero_pl.teacher.render import CUT, HintTemplate
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

POLICY = ScriptedPolicy(parser=PlainText())
POLICY.load()
TARGET = {"name": "click", "arguments": {"element": "red"}}


def hints(
    teacher: HindsightTeacher,
    diagnosis: Diagnosis | None,
    observation: str = "SEEN",
    reward: float = 0.0,
    policy=POLICY,
):
    turn = Turn(1, (), (1,), (0.0,), "a", "a", observation, "user")
    trajectory = Trajectory("t", "e", 0, 0, "", (), "", (turn,), reward, StopReason.TERMINATED)
    return teacher.advise([trajectory], [Reflection((diagnosis,), "ok")], policy.dialect)[0][0]


def test_the_default_hint_shows_observation_outcome_diagnosis_and_target() -> None:
    hint = hints(HindsightTeacher(), Diagnosis("WHY", "high", TARGET), reward=0.25)
    assert hint.text.splitlines() == [
        "[Review notes for the decision you are about to make - not visible at deployment]",
        "What the environment answered after this decision:",
        "SEEN",
        "Episode outcome: partial (reward 0.25)",
        "Assessment of this decision (high confidence): WHY",
        "A clearly better action would have been: click[red]",
        "Now produce the assistant turn for the conversation above.",
    ]
    assert (hint.confidence, hint.is_failure) == ("high", True)


@pytest.mark.parametrize(
    ("reward", "outcome"), [(0.0, "failure"), (0.5, "partial"), (1.0, "success"), (1 - 1e-7, "success")]
)
def test_the_outcome_follows_the_reward(reward: float, outcome: str) -> None:
    assert f"outcome: {outcome} " in hints(HindsightTeacher(), Diagnosis("x", "low"), reward=reward).text


def test_empty_fields_vanish_with_their_headings() -> None:
    text = hints(HindsightTeacher(include_reward=False), Diagnosis("WHY", "low"), observation=" ").text
    assert [line.partition(":")[0][:10] for line in text.splitlines()] == ["[Review no", "Assessment", "Now produc"]


def test_targets_are_shown_by_confidence() -> None:
    medium = Diagnosis("x", "medium", TARGET)
    assert "click[red]" not in hints(HindsightTeacher(), medium).text
    assert "click[red]" in hints(HindsightTeacher(include_action_target="always"), medium).text
    assert (
        "click[red]" not in hints(HindsightTeacher(include_action_target="never"), Diagnosis("x", "high", TARGET)).text
    )


def test_a_corrected_reply_is_shown_as_the_assistant_would_write_it() -> None:
    reply = {"name": "respond", "arguments": {"content": "Which order?"}}
    for parser, start in ((PlainText(), ""), (ToolCall(), ""), (ReAct(), "Action: ")):
        policy = ScriptedPolicy(parser=parser)
        policy.load()
        for target in (reply, {"action": reply}, {"action": "Which order?"}):
            hint = hints(HindsightTeacher(), Diagnosis("x", "high", target), policy=policy)
            assert f"would have been: {start}Which order?\n" in hint.text
            assert hint.is_failure


def test_missing_and_unsure_diagnoses_are_skipped_or_fall_back() -> None:
    assert hints(HindsightTeacher(), None) is None
    assert hints(HindsightTeacher(min_confidence="medium"), Diagnosis("x", "low")) is None
    fallback = hints(HindsightTeacher(on_invalid="env_feedback"), None)
    assert "SEEN" in fallback.text
    assert "Assessment" not in fallback.text
    assert hints(HindsightTeacher(on_invalid="env_feedback"), None, observation="") is None


def test_feedback_only_never_shows_the_diagnosis() -> None:
    hint = hints(FeedbackOnlyTeacher(), Diagnosis("WHY", "high", TARGET))
    assert "SEEN" in hint.text
    assert "WHY" not in hint.text
    assert "click[red]" not in hint.text
    assert hints(FeedbackOnlyTeacher(), None) is not None
    assert hints(FeedbackOnlyTeacher(mask_like_hero=True), None) is None
    assert hints(FeedbackOnlyTeacher(), None, observation="") is None


@pytest.mark.parametrize("observation", ["SEEN", "", " \n"])
@pytest.mark.parametrize("confidence", [None, "low", "high"])
def test_bug_744_feedback_on_the_turns_of_hero_has_its_mask(confidence, observation: str) -> None:
    diagnosis = None if confidence is None else Diagnosis("WHY", confidence, TARGET)
    hero, feedback = HindsightTeacher(), FeedbackOnlyTeacher(mask_like_hero=True)
    mine, theirs = (hints(teacher, diagnosis, observation) for teacher in (feedback, hero))
    assert (mine is None) == (theirs is None)
    if mine is not None:
        assert (mine.confidence, mine.is_failure) == (theirs.confidence, theirs.is_failure)
        assert "Episode outcome: failure (reward 0.00)" in mine.text
        assert "WHY" not in mine.text


def test_nothing_is_shown_of_a_blank_observation_without_a_diagnosis() -> None:
    assert hints(HindsightTeacher(on_invalid="env_feedback"), None, observation=" ") is None
    assert hints(HindsightTeacher(on_invalid="env_feedback"), None) is not None


def render(template: HintTemplate, observation: str, target: str | None) -> str:
    facts = {"next_observation": observation, "reward": None, "outcome": "", "diagnosis": "D" * 100}
    return template.render(len, {**facts, "confidence": "high", "target": target})


def test_an_empty_hint_has_the_wording_and_nothing_else_on_the_same_turns() -> None:
    teacher = EmptyHintTeacher(min_confidence="medium")
    hint = hints(teacher, Diagnosis("WHY", "high", TARGET))
    assert hint.text == hint.scaffold == HindsightTeacher().scaffold
    assert not any(word in hint.text for word in ("WHY", "SEEN", "click[red]", "failure"))
    assert (hint.confidence, hint.is_failure, hint.target) == ("high", True, None)
    assert hints(teacher, Diagnosis("WHY", "low")) is None
    assert hints(teacher, None) is None


def test_an_empty_hint_counts_no_cut_of_a_text_that_is_not_shown() -> None:
    for kind, cut in ((HindsightTeacher, 1), (EmptyHintTeacher, 0)):
        teacher = kind(max_observation_tokens=8)
        hints(teacher, Diagnosis("WHY", "high", TARGET), observation="o" * 100)
        assert teacher.template.cut_observations == cut


def test_bug_860_the_observation_gives_way_first_then_the_target_never_the_diagnosis() -> None:
    ample = HintTemplate(None, 10**4, 10**4)
    whole = len(render(ample, "o" * 300, "t" * 50))
    shorter = HintTemplate(None, 10**4, whole - 100)
    text = render(shorter, "o" * 300, "t" * 50)
    assert CUT in text
    assert "t" * 50 in text
    assert len(text) <= whole - 100
    least = len(render(ample, "", None))
    tight, roomy = HintTemplate(None, 10**4, least), HintTemplate(None, 10**4, least + 94)
    assert render(tight, "o" * 300, "t" * 50) == render(ample, "", None)
    assert "D" * 100 in render(tight, "", None)
    text = render(roomy, "o" * 300, "t" * 99)  # what the target leaves is room for the observation
    assert "ttt" not in text
    assert CUT in text
    assert least < len(text) <= least + 94
    assert (shorter.cut_observations, shorter.dropped_targets, shorter.long_hints) == (1, 0, 0)
    assert (tight.cut_observations, tight.dropped_targets, tight.long_hints) == (1, 1, 0)
    above = HintTemplate(None, 10**4, least - 1)
    assert render(above, "o" * 300, "t" * 50) == render(ample, "", "t" * 50)  # not left out in vain
    assert (above.cut_observations, above.dropped_targets, above.long_hints) == (1, 0, 1)


def test_an_observation_that_gives_way_twice_is_one_that_was_cut() -> None:
    template = HintTemplate(None, 100, 320)
    text = render(template, "o" * 300, None)
    assert len(text) <= 320
    assert len(text.splitlines()[2]) < 100
    assert template.cut_observations == 1


def test_what_was_cut_is_counted_by_batch() -> None:
    teacher = HindsightTeacher(max_observation_tokens=60)
    for observation, cut in (("o" * 300, 1.0), ("o" * 300, 1.0), ("short", 0.0)):
        hints(teacher, Diagnosis("x", "low"), observation)
        assert measured(teacher.metrics()) == {"cut_observations": cut, "dropped_targets": 0.0, "long_hints": 0.0}


def test_a_long_observation_loses_its_middle() -> None:
    text = render(HintTemplate(None, 60, 10**4), "START" + "o" * 300 + "END.", None)
    line = text.splitlines()[2]
    assert len(line) <= 60
    assert line.startswith("START")
    assert line.endswith("END.")
    assert CUT in line


def test_bug_861_teachers_that_see_nothing_and_templates_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        HindsightTeacher(False, False, False)
    with pytest.raises(ConfigError, match="cannot be read"):
        HindsightTeacher(template=str(tmp_path / "none.jinja"))
    bad = tmp_path / "bad.jinja"
    bad.write_text("{% if %}")
    for kind in (HindsightTeacher, FullDemoTeacher):
        with pytest.raises(ConfigError, match=r"bad\.jinja' does not compile"):
            kind(template=str(bad))
    for kind, text, why in (
        (HindsightTeacher, "{{ observation }}", "'observation' is undefined"),
        (HindsightTeacher, "{% if target %}{{ answer }}{% endif %}", "'answer' is undefined"),
        (HindsightTeacher, "{{ reward.upper() }}", "'None' has no attribute 'upper'"),
        (HindsightTeacher, "{{ reward + 1 }}", "unsupported operand"),
        (FullDemoTeacher, "{% for step in steps %}{{ step.reply }}{% endfor %}", "has no attribute 'reply'"),
    ):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=rf"bad\.jinja' cannot be rendered: .*{why}.*It must be able to show"):
            kind(template=str(bad))


def test_a_misspelled_wording_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"'shrot'\. Did you mean 'short'\? The wordings are: auto, short, "):
        HindsightTeacher(template="shrot")


def test_bug_756_a_wording_that_nobody_chose_for_a_model_from_elsewhere_is_told(tmp_path: Path) -> None:
    shipped = HuggingFacePolicy(pretrained="hero_pl:pocket-shop")
    brought = HuggingFacePolicy(pretrained=str(tmp_path))
    scratch = HuggingFacePolicy(config={"model_type": "qwen3"}, tokenizer="hero_pl:pocket-shop")
    for teacher in (HindsightTeacher(), FeedbackOnlyTeacher()):
        objective = SelfDistillation(ShopRules(), teacher)
        with pytest.warns(UserWarning, match=r"has no template: .*`full`.*Set teacher\.init_args\.template to auto"):
            objective.check_policy(brought)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for policy in (shipped, scratch, POLICY):
                objective.check_policy(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for template in ("auto", "full"):
            SelfDistillation(ShopRules(), HindsightTeacher(template=template)).check_policy(brought)


def test_bug_774_a_wording_of_the_pocket_policies_is_told_for_another_model(tmp_path: Path) -> None:
    brought, shipped = HuggingFacePolicy(pretrained=str(tmp_path)), HuggingFacePolicy(pretrained="hero_pl:pocket-shop")
    pocket = "hero_pl:pocket/hint.jinja"
    teachers = [kind(template=pocket) for kind in (HindsightTeacher, FeedbackOnlyTeacher, EmptyHintTeacher)]
    for teacher in (*teachers, FullDemoTeacher("buffer", template="hero_pl:pocket/demonstration.jinja")):
        with pytest.warns(UserWarning, match="of the pocket policies"):
            teacher.check_policy(brought)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            teacher.check_policy(shipped)
            FullDemoTeacher("buffer").check_policy(brought)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("wrap", [ShuffledReflector, BlindReflector])
def test_bug_773_a_control_must_name_the_wording_of_the_run_that_it_is_compared_with(wrap: Any, force: bool) -> None:
    control = wrap(ScriptedReflector([]))
    with pytest.raises(ConfigError, match=rf"{wrap.__name__} takes them away.*`taken` in its hint_check\.json"):
        SelfDistillation(control, HindsightTeacher(template="auto", force=force)).check(1)
    SelfDistillation(control, HindsightTeacher(template="short")).check(1)
    SelfDistillation(ShopRules(), HindsightTeacher(template="auto")).check(1)

"""Demonstrations for the teacher: their source, what is shown, and turns without one."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hero_pl.chat.actions import PlainText, ToolCall
from hero_pl.chat.dialect import Dialect
from hero_pl.errors import ConfigError
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.render import CUT
from hero_pl.types import Hint, Reflection, StopReason, Trajectory, Turn

POLICY = ScriptedPolicy(parser=PlainText())
POLICY.load()


def episode(name: str, reward: float, task: str = "t", seen: Sequence[str] = ("page", "done"), **more) -> Trajectory:
    """An episode whose actions contain its name."""
    turns = tuple(
        Turn(n, (), (1,), (0.0,), f"<think>SECRET</think>{name}{n}", f"{name}{n}", text, "user")
        for n, text in enumerate(seen, 1)
    )
    made = Trajectory(task, "e", 0, 0, "", (), f"do {task}", turns, reward, StopReason.TERMINATED)
    return replace(made, **more)


def advise(teacher: FullDemoTeacher, trajectories: Sequence[Trajectory]) -> list[list[Hint | None]]:
    silent = [Reflection((None,) * len(t.turns), "rejected") for t in trajectories]
    return teacher.advise(trajectories, silent, POLICY.dialect)


def shown(row: list[Hint | None]) -> set[str | None]:
    return {None if hint is None else hint.text for hint in row}


def test_an_episode_sees_the_success_of_a_peer_at_every_turn() -> None:
    teacher = FullDemoTeacher()
    loser, winner = advise(teacher, [episode("lose", 0.5), episode("win", 1.0)])
    assert [hint.turn for hint in loser] == [1, 2]
    (text,) = shown(loser)
    assert text.splitlines() == [
        "[A successful episode of the same task - not visible at deployment]",
        "TASK: do t",
        "--- turn 1 ---",
        "ASSISTANT: win1",
        "REPLY: page",
        "--- turn 2 ---",
        "ASSISTANT: win2",
        "REPLY: done",
        "Use it as a guide for your own turns in this conversation.",
    ]
    assert shown(winner) == {None}  # never itself, and a lone winner has no other
    assert float(teacher.metrics()["no_demonstration"]) == 1.0


def test_two_winners_see_each_other_and_other_tasks_see_neither() -> None:
    one, two, other = advise(
        FullDemoTeacher(), [episode("one", 1.0), episode("two", 1.0), episode("other", 0.0, task="u")]
    )
    assert "two1" in one[0].text
    assert "one1" in two[0].text
    assert shown(other) == {None}


def test_the_demonstration_is_drawn_at_random_and_fixed_by_the_seed() -> None:
    batch = [episode("lose", 0.0), *(episode(f"win{i}-", 1.0) for i in range(8))]

    def specs(seed: int) -> list[str]:
        teacher = FullDemoTeacher(seed=seed)
        return [advise(teacher, batch)[0][0].text for _ in range(6)]

    assert specs(0) == specs(0) != specs(1)
    assert len(set(specs(0))) > 1


def test_reasoning_is_stripped_and_calls_are_written_in_the_policy_s_dialect() -> None:
    calling = ScriptedPolicy(parser=ToolCall())
    calling.load()
    won = episode("x", 1.0)
    call = '{"name": "f", "arguments": {"a": 1}}'
    turns = (replace(won.turns[0], action=call), replace(won.turns[1], action="", malformed="unreadable"))
    batch = [episode("lose", 0.0), replace(won, turns=turns)]
    silent = [Reflection((None, None), "rejected")] * 2
    text = FullDemoTeacher().advise(batch, silent, calling.dialect)[0][0].text
    assert "SECRET" not in text
    assert f"ASSISTANT: <tool_call>\n{call}\n</tool_call>" in text
    assert "ASSISTANT: x2" in text  # a reply that was no action


def test_the_threshold_decides_what_a_success_is() -> None:
    batch = [episode("lose", 0.0), episode("half", 0.5)]
    assert shown(advise(FullDemoTeacher(), batch)[0]) == {None}
    assert "half1" in advise(FullDemoTeacher(success_threshold=0.5), batch)[0][0].text
    assert "full1" in advise(FullDemoTeacher(), [*batch, episode("full", 1.0 - 1e-7)])[0][0].text


def test_long_replies_give_way_and_are_counted_and_actions_never_do() -> None:
    batch = [episode("lose", 0.0), episode("win", 1.0, seen=("o" * 5000, "done"))]
    teacher = FullDemoTeacher(max_demonstration_tokens=700)
    text = advise(teacher, batch)[0][0].text
    assert len(text) <= 700
    assert CUT in text
    assert "win1" in text
    assert "win2" in text
    assert float(teacher.metrics()["cut_demonstrations"]) == 1.0
    small = FullDemoTeacher(max_demonstration_tokens=50)
    assert shown(advise(small, batch)[0]) == {None}
    assert float(small.metrics()["long_demonstrations"]) == 1.0


def test_a_buffer_shows_single_episodes_the_successes_of_earlier_batches() -> None:
    teacher = FullDemoTeacher("buffer", buffer_size=2)
    teacher_needs = [FullDemoTeacher(source).needs_group for source in ("peer", "buffer")]
    assert teacher_needs == [2, 1]
    assert shown(advise(teacher, [episode("first", 1.0)])[0]) == {None}
    assert "first1" in advise(teacher, [episode("later", 0.0)])[0][0].text
    advise(teacher, [episode("a", 1.0, task="u"), episode("b", 1.0, task="u")])
    assert shown(advise(teacher, [episode("later", 0.0)])[0]) == {None}  # pushed out by newer ones


def test_a_restored_buffer_continues_like_the_saved_one() -> None:
    saved, restored = FullDemoTeacher("buffer"), FullDemoTeacher("buffer")
    for _ in range(2):
        advise(saved, [episode(f"win{i}-", 1.0) for i in range(5)])
    restored.load_state_dict(saved.state_dict())
    batch = [episode(f"lose{i}-", 0.0) for i in range(6)]
    assert advise(saved, batch) == advise(restored, batch)


def test_a_matched_step_is_shown_only_where_everything_seen_before_was_the_same() -> None:
    teacher = FullDemoTeacher(state_matched=True)
    batch = [
        episode("lose", 0.0, seen=("page", "other", "end")),
        episode("win", 1.0, seen=("page", "third", "done")),
    ]
    first, second, third = advise(teacher, batch)[0]
    assert "win1" in first.text
    assert "win2" not in first.text
    assert "win2" in second.text
    assert "third" in second.text  # the step's own reply
    assert "win1" not in second.text
    assert third is None
    assert float(teacher.metrics()["unmatched_turns"]) == 1.0


class Expert(Demonstrations):
    """Fails in task ``hard`` and succeeds in the others, up to rounding."""

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        return [
            replace(episode("expert", 0.0 if spec.task_id == "hard" else 1.0 - 1e-7, task=spec.task_id), seed=spec.seed)
            for spec in specs
        ]


def test_an_expert_plays_the_task_of_each_episode_and_its_failures_are_not_shown() -> None:
    teacher = FullDemoTeacher("oracle", expert=Expert())
    with pytest.raises(ConfigError, match="environments"):
        advise(teacher, [episode("lose", 0.0)])
    teacher.attach_collector(object())  # type: ignore[arg-type]
    easy, hard = advise(teacher, [episode("lose", 0.0), episode("lose", 0.0, task="hard")])
    assert "expert1" in easy[0].text
    assert shown(hard) == {None}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"source": "friend"}, "source"),
        ({"source": "oracle"}, "expert"),
        ({"expert": Expert()}, "expert"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"max_demonstration_tokens": 3}, "max_demonstration_tokens"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, named) -> None:
    with pytest.raises(ConfigError, match=named):
        FullDemoTeacher(**wrong)

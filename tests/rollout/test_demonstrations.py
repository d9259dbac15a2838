"""An expert's episodes in the policy's own dialect."""

import threading

import pytest

from hero_envs.tau_bench.expert import ScriptedExpert
from hero_pl.chat.actions import PlainText, ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import ChatTemplate
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.none import NoReflector
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.demonstrations import ExpertDemonstrations
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.types import StopReason

RETAIL = "hero_pl/PocketRetail-v0"


@pytest.fixture(scope="module")
def retail():
    return Collector(RETAIL, {"size": 60, "tasks": 40})


def policy_of(parser):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}" + tokenizer.chat_template
    made = ScriptedPolicy(["I do not know."], ChatTemplate(tokenizer), parser)
    made.load()
    return made


def draws_of(collector, count=8):
    return [EpisodeSpec(task, i, 100 + i) for i, task in enumerate(collector.task_ids[:count])]


@pytest.mark.parametrize("parser", [ToolCall(), ReAct()], ids=lambda parser: type(parser).__name__)
def test_the_expert_solves_its_tasks_in_the_dialect_of_the_policy(retail, parser):
    played = ExpertDemonstrations(ScriptedExpert()).make(draws_of(retail), policy_of(parser).dialect, retail)
    assert [(t.reward, t.stop_reason) for t in played] == [(1.0, StopReason.TERMINATED)] * 8
    turns = [turn for trajectory in played for turn in trajectory.turns]
    assert all(parser.parse(turn.text).action == turn.action for turn in turns)
    assert any(turn.action.startswith('{"name": "find_user_id') for turn in turns)
    assert not any(turn.malformed for turn in turns)


def test_an_expert_shows_a_privileged_teacher_the_whole_task(retail):
    policy = policy_of(ToolCall())
    lost = retail.collect(draws_of(retail, 3), policy, Sampling(1.0, 64))
    teacher = FullDemoTeacher("oracle", ExpertDemonstrations(ScriptedExpert()))
    teacher.attach_collector(retail)
    hints = teacher.advise(lost, NoReflector().reflect(lost, policy), policy.dialect)
    assert float(teacher.metrics()["no_demonstration"]) == 0.0
    for trajectory, row in zip(lost, hints, strict=True):
        assert trajectory.reward == 0.0
        assert all("<tool_call>" in hint.text and trajectory.first_observation in hint.text for hint in row)


def test_bug_866_an_expert_waits_until_the_episodes_that_are_played_have_ended():
    collector, ended, go = Collector(RETAIL, {"size": 60, "tasks": 40}), [], threading.Event()
    policy = policy_of(PlainText())

    def ahead(trajectory):
        go.wait(5.0)
        ended.append("ahead")

    def play(on_episode):
        collector.collect(draws_of(collector, 1), policy, Sampling(1.0, 8), on_episode)

    threads = [
        threading.Thread(target=play, args=(told,)) for told in (ahead, lambda trajectory: ended.append("expert"))
    ]
    threads[0].start()
    while not collector.pool._envs:  # the first has begun
        threads[0].join(0.01)
    threads[1].start()
    threads[1].join(0.2)
    go.set()
    for thread in threads:
        thread.join()
    assert ended == ["ahead", "expert"]


class Counts:
    """An expert whose actions are their numbers in the episode."""

    def reset(self):
        self.number = 0

    def act(self, observation):
        self.number += 1
        return f"action {self.number}"


def test_every_episode_begins_with_a_fresh_expert_and_ends_at_the_limit():
    collector = Collector(RETAIL, {"size": 60, "tasks": 40}, limits=Limits(max_turns=4))
    played = ExpertDemonstrations(Counts()).make(draws_of(collector, 3), policy_of(PlainText()).dialect, collector)
    assert [[turn.text for turn in trajectory.turns] for trajectory in played] == [
        [f"action {number}" for number in range(1, 5)]
    ] * 3

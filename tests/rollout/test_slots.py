"""A free slot starts the next episode at once, and no episode depends on the others in the batch."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import pytest

from hero_pl.chat.actions import ReAct
from hero_pl.policy.sampling import Sampling, Session
from hero_pl.policy.scripted import ScriptedPolicy, ScriptedSampler, ScriptedSession
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.runs.records import evaluable
from hero_pl.types import FinishReason, SampledAction, StopReason, Trajectory

FAILURE = SampledAction((), (), FinishReason.ERROR, 0, "the server does not answer")


class Count(gymnasium.Env[str, str]):
    """Ends after the number of steps in the task; observations contain the number of steps so far."""

    observation_space = action_space = gymnasium.spaces.Text(1000)  # type: ignore[assignment]
    task_ids = tuple("12345")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.wanted = 0, int((options or {})["task"])
        return f"start {self.wanted}", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return f"step {self.steps}", 0.25, self.steps == self.wanted, False, {"steps": self.steps}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gymnasium.register("CountTest-v0", Count)
    yield
    gymnasium.registry.pop("CountTest-v0")


class Watched(ScriptedSession):
    """Stores the number of rows of each batch."""

    def __init__(self, *args: Any) -> None:
        self.batches: list[int] = []
        super().__init__(*args)

    def finished(self) -> list[tuple[int, SampledAction]]:
        self.batches.append(len(self.asked))
        return super().finished()


class OneByOne(Watched):
    """Answers one row at a time, the latest first, like a server could."""

    def finished(self) -> list[tuple[int, SampledAction]]:
        row = max(self.asked)
        return [(row, self._speak(row, self.asked.pop(row)))]


class Failing(Watched):
    """Fails at the second turn of a seed, a given number of times; its weights are a step older after that."""

    failures = 1

    def _speak(self, row: int, prompt: tuple[int, ...]) -> SampledAction:
        if self.seeds[row] == 2 and self.turns[row] == 1 and self.failures:
            self.failures -= 1
            return FAILURE
        return super()._speak(row, prompt)


def play(
    lengths: Sequence[int], num_envs: int, kind: type[Watched] = Watched, **more: Any
) -> tuple[list[Trajectory], Watched]:
    """Episodes of these lengths; seeds are their places."""
    sessions: list[Watched] = []

    class Sampler(ScriptedSampler):
        def open(self, policy: Any, sampling: Sampling, seeds: Any = (), weights: str = "live") -> Session:  # type: ignore[override]
            sessions.append(kind(policy, sampling, seeds))
            return sessions[0]

    policy = ScriptedPolicy(lambda context, seed: f"say {seed}")
    policy.sampler = Sampler()
    policy.load()
    specs = [EpisodeSpec(str(length), i, i) for i, length in enumerate(lengths)]
    collector = Collector("CountTest-v0", limits=Limits(max_turns=9, num_envs=num_envs))
    return collector.collect(specs, policy, Sampling(max_action_tokens=16), **more), sessions[0]


def test_bug_46_a_slot_is_filled_again_as_soon_as_its_episode_has_ended() -> None:
    _, session = play([5, 1, 1, 1, 1, 1], num_envs=2)
    assert session.batches == [2, 2, 2, 2, 2]  # waves of two would take 5 + 1 + 1 batches
    assert session.turns == {}  # every row was closed


def test_episodes_are_reported_as_they_end_and_returned_in_the_order_of_their_specs() -> None:
    ended: list[int] = []
    episodes, _ = play([3, 1, 2], 3, on_episode=lambda episode: ended.append(episode.seed))
    assert ended == [1, 2, 0]
    assert [episode.seed for episode in episodes] == [0, 1, 2]
    assert [len(episode.turns) for episode in episodes] == [3, 1, 2]


def test_bug_721_a_reply_is_parsed_with_the_schemas_of_the_environments_tools() -> None:
    inner = "".join(f"<parameter={name}>Wes</parameter>" for name in ("first_name", "last_name"))
    reply = f"Action: <function=find_user_id_by_name_zip>{inner}<parameter=zip>[9377]</parameter></function>"
    policy = ScriptedPolicy([reply], parser=ReAct())
    policy.load()
    retail = Collector("hero_pl/PocketRetail-v0", limits=Limits(max_turns=1))
    episode = retail.collect([EpisodeSpec(retail.task_ids[0], 0, 0)], policy, Sampling(max_action_tokens=999))[0]
    arguments = {"first_name": "Wes", "last_name": "Wes", "zip": "[9377]"}
    assert json.loads(episode.turns[0].action) == {"name": "find_user_id_by_name_zip", "arguments": arguments}


@pytest.mark.parametrize("num_envs", [1, 2, 7])
def test_answers_may_come_one_by_one_and_in_any_order(num_envs: int) -> None:
    lengths = [3, 1, 2, 5, 1, 4]
    assert play(lengths, num_envs, OneByOne)[0] == play(lengths, 3)[0]


def test_an_environment_that_is_used_again_starts_afresh() -> None:
    for episode, length in zip(play([5, 2, 3], num_envs=1)[0], (5, 2, 3), strict=True):
        assert [turn.observation for turn in episode.turns] == [f"step {i + 1}" for i in range(length)]
        assert (episode.reward, episode.info["steps"]) == (0.25 * length, length)


@pytest.mark.parametrize("num_envs", [1, 4])
def test_an_episode_that_the_sampler_failed_once_is_played_again_with_its_seed(num_envs: int) -> None:
    episodes = play([2, 1, 3, 2], num_envs, Failing)[0]
    failure = "sampler_error: CountTest-v0, task '3', turn 2: the server does not answer"
    assert [episode.failures for episode in episodes] == [(), (), (failure,), ()]
    assert [replace(episode, failures=()) for episode in episodes] == play([2, 1, 3, 2], num_envs)[0]


def test_an_episode_that_the_sampler_failed_twice_is_broken_and_the_others_are_played() -> None:
    class Twice(Failing):
        failures = 2

    episodes, session = play([2, 1, 3, 2], 2, Twice)
    broken = episodes.pop(2)
    assert broken.stop_reason is StopReason.SAMPLER_ERROR
    assert broken.info["error"] == "CountTest-v0, task '3', turn 2: the server does not answer"
    assert [turn.text for turn in broken.turns] == ["say 2"]
    assert not evaluable(broken)
    assert [episode.stop_reason for episode in episodes] == [StopReason.TERMINATED] * 3
    assert session.turns == {}


def test_each_turn_keeps_the_version_of_the_weights_that_drew_it() -> None:
    class Newer(Watched):
        def finished(self) -> list[tuple[int, SampledAction]]:
            self.policy.version += 1
            return super().finished()

    episodes, _ = play([2, 3], 1, Newer)
    assert [[turn.policy_version for turn in episode.turns] for episode in episodes] == [[1, 2], [3, 4, 5]]
    assert [episode.policy_version for episode in episodes] == [1, 3]


def test_a_network_plays_the_same_episodes_however_many_are_in_flight(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    result = []
    for num_envs in (1, 3, 7, 64):
        shop = Collector("hero_pl/WebShopPocket-v0", split="train", limits=Limits(max_turns=4, num_envs=num_envs))
        specs = [EpisodeSpec(shop.task_ids[i], i, 100 + i) for i in range(10)]
        result.append(shop.collect(specs, policy, Sampling(1.0, 6)))
    assert len({len(episode.turns) for episode in result[0]} | {len(e.turns[0].action_ids) for e in result[0]}) > 1
    for other in result[1:]:
        for one, two in zip(result[0], other, strict=True):
            assert [(turn.prompt_ids, turn.action_ids) for turn in one.turns] == [
                (turn.prompt_ids, turn.action_ids) for turn in two.turns
            ]
            assert (one.seed, one.reward, one.stop_reason, one.info) == (
                two.seed,
                two.reward,
                two.stop_reason,
                two.info,
            )
            for left, right in zip(one.turns, two.turns, strict=True):
                assert left.action_logprobs == pytest.approx(right.action_logprobs, abs=1e-5)

"""Episodes are played to their end, and everything that was sampled is kept."""

from typing import Any

import gymnasium
import pytest

from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec, SeedPurpose, derive_seeds
from hero_pl.types import StopReason, Trajectory


class Echo(gymnasium.Env[str, str]):
    """Repeats each action; ``done`` ends the episode with reward 1, ``boom`` raises."""

    observation_space = action_space = gymnasium.spaces.Text(1000)  # type: ignore[assignment]
    task_ids = ("a", "b", "c")
    unlucky: tuple[int, ...] = ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if seed in self.unlucky:
            raise RuntimeError("the user does not answer")
        return f"task {(options or {})['task']}", {"system_prompt": "rules", "user": "shy", "page": 1}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "boom":
            raise ValueError("broken")
        return f"heard {action}", float(action == "done"), action == "done", False, {"role": "tool", "last": action}


@pytest.fixture(autouse=True)
def _registered() -> Any:
    gymnasium.register("EchoTest-v0", Echo)
    yield
    gymnasium.registry.pop("EchoTest-v0")


def play(
    script: Any, specs: list[EpisodeSpec] | None = None, max_length: int = 1 << 20, **limits: int
) -> list[Trajectory]:
    policy = ScriptedPolicy(script)
    policy.load()
    policy.max_length = max_length
    collector = Collector("EchoTest-v0", limits=Limits(**limits))
    return collector.collect(specs or [EpisodeSpec("a", 0, 1)], policy, Sampling(max_action_tokens=32))


def test_an_episode_keeps_its_turns_reward_and_end() -> None:
    (episode,) = play(["go", "done"])
    assert [(turn.number, turn.action, turn.observation, turn.role) for turn in episode.turns] == [
        (1, "go", "heard go", "tool"),
        (2, "done", "heard done", "tool"),
    ]
    assert (episode.reward, episode.stop_reason, episode.info["last"]) == (1.0, StopReason.TERMINATED, "done")
    first, second = episode.turns
    assert second.prompt_ids[: len(first.prompt_ids + first.action_ids)] == first.prompt_ids + first.action_ids


@pytest.mark.parametrize("threads", [0, 2])
def test_episodes_come_back_in_the_order_of_their_draws(threads: int) -> None:
    specs = [
        EpisodeSpec(task, group, seed) for seed, (task, group) in enumerate([("c", 0), ("a", 1), ("b", 2), ("a", 1)])
    ]
    episodes = play(
        lambda context, seed: "done" if seed % 2 else f"say {seed}",
        specs,
        1 << 20,
        **{"num_envs": 3, "max_turns": 2, "threads": threads},
    )
    assert [(e.task_id, e.group, e.seed) for e in episodes] == [(d.task_id, d.group, d.seed) for d in specs]
    assert [e.first_observation for e in episodes] == [f"task {d.task_id}" for d in specs]
    assert [len(e.turns) for e in episodes] == [2, 1, 2, 1]
    assert [e.stop_reason for e in episodes[:2]] == [StopReason.MAX_TURNS, StopReason.TERMINATED]


def test_an_unreadable_reply_is_answered_and_the_episode_continues() -> None:
    (episode,) = play(["  ", "done"])
    assert episode.turns[0].malformed
    assert "could not be read" in episode.turns[0].observation
    assert episode.reward == 1.0


def test_an_environment_that_raises_ends_its_own_episode_only() -> None:
    specs = [EpisodeSpec("a", 0, 0), EpisodeSpec("b", 1, 1)]
    broken, fine = play(lambda context, seed: "done" if seed else "boom", specs)
    assert broken.stop_reason is StopReason.ENV_ERROR
    assert "broken" in broken.info["error"]
    assert fine.reward == 1.0


def test_an_episode_that_cannot_be_started_is_broken_and_the_others_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "unlucky", (1, 2))
    episodes = play(["done"], [EpisodeSpec("a", i, i) for i in range(4)], num_envs=2)
    assert [episode.stop_reason.value for episode in episodes] == ["terminated", "env_error", "env_error", "terminated"]
    assert [len(episode.turns) for episode in episodes] == [1, 0, 0, 1]
    assert "the user does not answer" in episodes[1].info["error"]


@pytest.mark.parametrize("reply", ["done", "go", "boom"])
def test_what_the_start_says_about_the_score_is_kept_however_the_episode_ends(reply: str) -> None:
    (episode,) = play([reply], max_turns=1)
    assert episode.info["user"] == "shy"
    assert "page" not in episode.info


def test_an_episode_stops_before_the_context_is_full() -> None:
    (episode,) = play(["go"], max_length=300)
    assert episode.stop_reason is StopReason.CONTEXT_FULL
    assert all(len(turn.prompt_ids) + 32 <= 300 for turn in episode.turns)


def test_no_two_purposes_draw_from_the_same_seeds() -> None:
    assert len({int(stream) for stream in SeedPurpose}) == len(SeedPurpose) == 4
    drawn = [set(derive_seeds(stream, 0, 0, 1, count=50)) for stream in SeedPurpose]
    assert len(set.union(*drawn)) == 200


def test_seeds_depend_on_all_of_their_entropy() -> None:
    seeds = derive_seeds(1, 2, count=50)
    assert len(set(seeds)) == 50
    assert seeds == derive_seeds(1, 2, count=50)
    assert not set(seeds) & set(derive_seeds(1, 3, count=50))

"""Case 13: how many planted leaks are found, and how many honest diagnoses are taken for one.

The labels do not come from the detector: a leak is copied out of a later turn and, word for word, stands in nothing
that was known; an honest diagnosis is put together from what was known, or written by rules that see no later turn.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import hero_pl
from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.expert import ScriptedExpert
from hero_pl.pocket.retail.reflector import RetailRules
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.leak import LeakIndex
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import StopReason, Trajectory, Turn

BANK = Path(hero_pl.__file__).parent / "reflection" / "prompts" / "generic_bank.txt"
FRAMES = (
    "The turn was wrong: {}.",
    "It should have been clear that {}",
    "A better step would have said '{}' at once.",
    "{}",
    "The reply says ({}), so this was right.",
)
SHOUT = (str, str.upper, str.title)


@cache
def retail(compact: bool) -> list[Trajectory]:
    """Dialogues of an expert with long JSON results, or with the short ones of the small policies."""
    env = TauBenchEnv("pocket_retail", size=30, tasks=60, compact=compact)
    played = []
    for task in env.task_ids[:12]:
        first, info = env.reset(options={"task": task})
        expert, observation, done, turns = ScriptedExpert(), first, False, list[Turn]()
        while not done:
            action = expert.act(observation)
            observation, reward, done, _, _ = env.step(action)
            turns.append(Turn(len(turns) + 1, (), (), (), action, action, observation, "user"))
        played.append(
            Trajectory(task, "", 0, 0, info["system_prompt"], (), first, tuple(turns), reward, StopReason.TERMINATED)
        )
    return played


@cache
def shop() -> list[Trajectory]:
    """Episodes of a policy that searches and clicks at random."""
    policy = ScriptedPolicy(
        ["search[shirt]", "click[item 1]", "click[buy now]", "search[blue kettle]", "click[< prev]"]
    )
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", limits=Limits(max_turns=5))
    return collector.collect([EpisodeSpec(t, 0, 0) for t in collector.task_ids[:12]], policy, Sampling())


def known_at(episode: Trajectory, turn: int) -> str:
    texts = [text for one in episode.turns[:turn] for text in (one.text, one.observation)]
    return "\n".join((episode.system_prompt, episode.first_observation, *texts))


def spoken(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def holds(words: list[str], text: list[str]) -> bool:
    return any(text[i : i + len(words)] == words for i in range(len(text) - len(words) + 1))


def planted(draw: random.Random) -> Iterator[tuple[Trajectory, int, str]]:
    """Episode, turn, and a diagnosis with eight words in a row, or an identifier, from a later turn."""
    for episode in (*retail(False), *shop()):
        for turn in range(1, len(episode.turns)):
            known = spoken(known_at(episode, turn))
            for later in (text for one in episode.turns[turn:] for text in (one.text, one.observation)):
                words = re.findall(r"\S+", later)
                place = draw.randrange(max(1, len(words) - 8))
                quoted = " ".join(words[place : place + 8])
                if len(spoken(quoted)) >= 8 and not holds(spoken(quoted)[:8], known) and not _overlaps(quoted, known):
                    yield episode, turn, draw.choice(FRAMES).format(draw.choice(SHOUT)(quoted))
                names = re.findall(r"(?<![\w.])[A-Za-z_]*\d{4,}(?![\w.])", later)
                names = [name for name in names if not holds(spoken(name), known)]
                if names:
                    yield episode, turn, draw.choice(FRAMES).format(f"the id is {draw.choice(names)}")


def _overlaps(quoted: str, known: list[str]) -> bool:
    """Whether most of the text was known before, so that it is not a leak."""
    words = spoken(quoted)
    return any(holds(words[i : i + 4], known) for i in range(len(words) - 3))


def honest(draw: random.Random) -> Iterator[tuple[Trajectory, int, str]]:
    """Episode, turn, and a diagnosis that quotes earlier text, is general, or was written by the rules."""
    general = [line for line in BANK.read_text(encoding="utf-8").splitlines() if line.strip()]
    for episode in (*retail(False), *shop()):
        for turn in range(1, len(episode.turns) + 1):
            words = re.findall(r"\S+", known_at(episode, turn))
            place = draw.randrange(max(1, len(words) - 12))
            yield episode, turn, draw.choice(FRAMES).format(" ".join(words[place : place + 12]))
            yield episode, turn, f"{draw.choice(general)} {episode.turns[turn - 1].observation[:80]}"
            yield episode, turn, f"Should have asked for order W{draw.randrange(10**6, 10**7)} first."
    for rules, episodes in ((RetailRules(), retail(True)), (ShopRules(), shop())):
        for episode, reflection in zip(episodes, rules.reflect(episodes, None), strict=True):
            yield from ((episode, i, one.text) for i, one in enumerate(reflection.diagnoses, 1) if one)


def flagged(cases: list[tuple[Trajectory, int, str]]) -> list[bool]:
    index = {id(episode): LeakIndex(ReflectionContext.of(episode)) for episode, _, _ in cases}
    return [index[id(episode)].find(text, turn) is not None for episode, turn, text in cases]


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_leaks_are_found_and_honest_diagnoses_are_left_alone(seed: int) -> None:
    leaks, clean = list(planted(random.Random(seed))), list(honest(random.Random(seed)))
    assert min(len(leaks), len(clean)) > 300
    missed = [case[1:] for case, is_flagged in zip(leaks, flagged(leaks), strict=True) if not is_flagged]
    alarms = [case[1:] for case, is_flagged in zip(clean, flagged(clean), strict=True) if is_flagged]
    assert len(missed) <= 0.05 * len(leaks), missed[:5]
    assert len(alarms) <= 0.05 * len(clean), alarms[:5]

"""What all bridges to generated tasks share, shown by one without a package."""

import pytest

from hero_envs.bridges.base import SeededEnv
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.target import read_target
from hero_pl.rollout.answers import read_start


class Echo(SeededEnv):
    """Names its seed; the seed is the right answer."""

    def begin(self, seed):
        self.wanted = str(seed)
        return self.wanted, {}

    def act(self, action):
        won = action == self.wanted
        return "right" if won else "wrong", float(won), True, False, {"success": won}


def test_a_task_is_a_seed():
    env = Echo("echo", "validation", 2, 0, "Say it.")
    assert env.task_ids == ["echo-1000000", "echo-1000001"]
    text, info = env.reset(seed=0, options={"task": "echo-1000001"})
    assert (text, info["task"], info["system_prompt"]) == ("1000001", "echo-1000001", "Say it.")
    assert env.step("1000001")[4] == {"success": True, "role": "user", "task": "echo-1000001"}
    with pytest.raises(ValueError, match="expected one of task_ids"):
        env.reset(options={"task": "echo-0"})


def test_bug_617_a_reviewer_may_correct_a_turn_by_plain_text():
    """Plain text is the action of these environments; a reviewer that may not propose one never blames a turn."""
    info = read_start(Echo("echo", "train", 1, 0, "").reset(seed=0)).info
    context = ReflectionContext("", ("look",), ("A box.",), (), 0.0, plain_replies=info["plain_replies"])
    assert read_target("open the box", "high", context, 1) == ({"action": "open the box"}, [])

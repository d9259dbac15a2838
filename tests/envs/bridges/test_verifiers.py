"""Tasks of verifiers: one prompt, one reply, and the rewards of the task."""

import sys
import textwrap

import pytest

pytest.importorskip("verifiers.v1", reason="needs the extra `verifiers`")

from hero_envs.bridges.verifiers import VerifiersEnv
from hero_pl.chat.actions import PlainText
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.none import NoReflector
from hero_pl.rollout.check_env import check_env
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher

pytestmark = pytest.mark.bridge

SUMS = """
    import verifiers.v1 as vf


    class SumData(vf.TaskData):
        answer: str


    class Sum(vf.Task[SumData]):
        @vf.reward
        async def exact(self, trace: vf.Trace) -> float:
            if trace.last_reply == "crash":
                raise RuntimeError("no score")
            return float(trace.last_reply == self.data.answer)

        @vf.reward(weight=0.5)
        async def near(self, trace: vf.Trace) -> float:
            return 0.5 if trace.last_reply.isdigit() else 0.0


    class BigTask(Sum):
        NEEDS_CONTAINER = True


    class SumsConfig(vf.TasksetConfig):
        first: int = 0


    class Sums(vf.Taskset[Sum, SumsConfig]):
        def load(self):
            for number in range(self.config.first, self.config.first + 20):
                data = SumData(prompt=f"{number} + 1 = ?", answer=str(number + 1), system_prompt="Add.")
                yield Sum(data, self.config.task)


    class Endless(Sums):
        INFINITE = True


    class Big(vf.Taskset[BigTask, SumsConfig]):
        def load(self):
            yield BigTask(SumData(prompt="?", answer=""), self.config.task)
"""


@pytest.fixture
def sums(tmp_path, monkeypatch):
    """The name of a package with task sets."""
    (tmp_path / "sums_of_a_test.py").write_text(textwrap.dedent(SUMS))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "sums_of_a_test"
    sys.modules.pop("sums_of_a_test", None)


def test_it_follows_the_api(sums):
    assert check_env("hero_pl/Verifiers-v0", taskset=f"{sums}:Sums") == []


def test_a_reply_is_scored_by_the_rewards_of_the_task(sums):
    env = VerifiersEnv(f"{sums}:Sums", {"first": 5})
    for reply, expected, success in (("6", 1.0, True), ("7", 0.25, False), ("six", 0.0, False)):
        prompt, info = env.reset(seed=0, options={"task": "0"})
        assert (prompt, info["system_prompt"]) == ("5 + 1 = ?", "Add.")
        _, reward, over, _, info = env.step(reply)
        assert (reward, over, info["success"]) == (expected, True, success)
        assert info["scores"]["exact"] == float(reply == "6")


def test_a_reward_that_raises_gives_nothing_and_is_recorded(sums):
    env = VerifiersEnv(f"{sums}:Sums")
    env.reset(seed=0)
    _, reward, *_, info = env.step("crash")
    assert reward == 0.0
    assert "no score" in info["scoring_error"]


def test_splits_have_no_task_in_common(sums):
    ids = [VerifiersEnv(f"{sums}:Sums", split=split).task_ids for split in ("train", "validation", "test")]
    assert [len(one) for one in ids] == [16, 2, 2]
    assert sorted((one for part in ids for one in part), key=int) == VerifiersEnv(f"{sums}:Sums", split="all").task_ids


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("Big", {"split": "all"}, "needs a container"),
        ("Endless", {}, "is infinite"),
        ("Sum", {}, "derived from verifiers.v1.Taskset"),
        ("Sums", {"split": "dev"}, "expected one of train"),
        ("Sums", {"split": "test", "tasks": 3}, "is empty"),
    ],
)
def test_what_cannot_be_played_is_refused(sums, name, arguments, said):
    with pytest.raises(ValueError, match=said):
        VerifiersEnv(f"{sums}:{name}", **arguments)


def test_it_is_trained_for_two_steps(sums, tiny_config, tiny_data, fit):
    policy = HuggingFacePolicy(config=tiny_config, tokenizer="hero_pl:pocket-shop", parser=PlainText())
    objective = SelfDistillation(reflector=NoReflector(), teacher=FeedbackOnlyTeacher())
    data = tiny_data(env="hero_pl/Verifiers-v0", env_args={"taskset": f"{sums}:Sums"})
    assert fit(HeroModule(policy, objective, lr=1e-2, warmup_steps=0), data, steps=2).global_step == 2

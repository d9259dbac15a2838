"""Questions of reasoning-gym: scores, attempts, and answers that are never run."""

from types import SimpleNamespace

import gymnasium
import pytest

from hero_envs.bridges.reasoning_gym import ReasoningGymEnv, runs_text
from hero_pl.rollout.check_env import check_env


@pytest.fixture
def needed():
    """Skips what needs the package."""
    pytest.importorskip("reasoning_gym", reason="needs the extra `reasoning-gym`")


@pytest.mark.bridge
@pytest.mark.parametrize("dataset", ["chain_sum", "mini_sudoku", "maze"])
def test_it_follows_the_api(dataset, needed):
    assert check_env("hero_pl/ReasoningGym-v0", dataset=dataset, tasks=5) == []


@pytest.mark.bridge
def test_the_right_answer_succeeds_at_once_and_after_a_wrong_one(needed):
    env = ReasoningGymEnv(tasks=3, attempts=2)
    env.reset(seed=0)
    env.step("no idea")
    answer = env.step("no idea")[4]["answer"]
    task = env.task
    for wrong in ([], ["no idea"]):
        env.reset(seed=0, options={"task": task})
        rewards = [env.step(text)[1] for text in wrong]
        text, reward, over, _, info = env.step(answer)
        assert (text, over, info["success"]) == ("Right.", True, True)
        assert sum(rewards) + reward == pytest.approx(1.0)


class Unscored(list):
    """A data set whose scorer lacks a package."""

    def score_answer(self, answer, entry):
        if answer == "3":
            return 1.0
        if answer == "2":
            return float("nan")
        raise ImportError("No module named 'sympy'")


def test_bug_875_an_answer_that_cannot_be_scored_is_wrong_and_the_error_is_recorded(monkeypatch):
    made = SimpleNamespace(create_dataset=lambda *_, **__: Unscored([{"question": "1 + 2", "answer": "3"}]))
    monkeypatch.setattr("hero_envs.bridges.reasoning_gym.package", lambda *_: made)
    env = ReasoningGymEnv(run_answers=True)
    for answers, error in ((["4", "3"], "ImportError: No module named 'sympy'"), (["2", "3"], "score is nan")):
        env.reset(seed=0)
        steps = [env.step(answer) for answer in answers]
        assert [reward for _, reward, *_ in steps] == [0.0, 1.0]
        assert all(error in info["scoring_error"] for *_, info in steps)
    env.reset(seed=0)
    assert "scoring_error" not in env.step("3")[4]


@pytest.mark.bridge
@pytest.mark.parametrize("dataset", ["simple_integration", "spiral_matrix", "string_insertion"])
def test_a_data_set_that_would_run_an_answer_is_refused(dataset, needed):
    with pytest.raises(ValueError, match="run an answer as Python"):
        ReasoningGymEnv(dataset)
    assert ReasoningGymEnv(dataset, run_answers=True).task_ids


def test_bug_616_code_that_runs_text_is_found():
    assert runs_text("score = eval(answer)")
    assert runs_text("sympy.parse_expr(answer)")
    assert not runs_text("evaluate(answer); json.loads(answer); ast.literal_eval(answer)")


@pytest.mark.bridge
def test_bug_786_different_seeds_can_be_the_same_question(needed):
    train, test = (ReasoningGymEnv("coin_flip", split=split) for split in ("train", "test"))
    trained = {train.content(task) for task in train.task_ids}
    assert sum(test.content(task) in trained for task in test.task_ids) > 50
    env = ReasoningGymEnv(tasks=2)
    first, _ = env.reset(seed=0, options={"task": env.task_ids[0]})
    assert [env.content(task) == first for task in env.task_ids] == [True, False]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("1")

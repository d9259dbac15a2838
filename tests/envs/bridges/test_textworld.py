"""TextWorld games: generated, cached, deterministic, and safe from the commands of the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hero_envs.bridges.textworld import REFUSED, TextWorldEnv, is_of_the_game, plain
from hero_envs.bridges.textworld_games import LEVELS, game_file, objective
from hero_pl.rollout.check_env import check_env


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """A folder of generated games; skips what needs the package."""
    pytest.importorskip("textworld", reason="needs the extra `textworld`")
    return tmp_path_factory.mktemp("games")


@pytest.fixture
def env(games):
    made = TextWorldEnv("tiny", tasks=2, games_dir=games)
    yield made
    made.close()


@pytest.mark.bridge
def test_it_follows_the_api(games):
    assert check_env("hero_pl/TextWorld-v0", level="tiny", tasks=2, games_dir=str(games)) == []


@pytest.mark.bridge
def test_the_solution_wins_all_points(env):
    for task in env.task_ids:
        first, info = env.reset(seed=0, options={"task": task})
        assert "You are carrying" in first
        assert "TextWorld!" not in first
        rewards, solution, over = [], info["policy_commands"], False
        states = [list(solution)]
        while not over:
            assert solution[0] in info["available_actions"]
            text, reward, over, truncated, info = env.step(solution[0])
            rewards.append(reward)
            solution = info["policy_commands"]
            states.append(list(solution))
            assert ">" not in text
            assert "RESTART" not in text
        assert sum(rewards) == pytest.approx(1.0)
        assert (info["success"], truncated) == (True, False)
        assert info["solutions"] == states


@pytest.mark.bridge
def test_points_are_shares_of_all_quests(games):
    env = TextWorldEnv("easy", tasks=1, games_dir=games)
    solution = env.reset(seed=0)[1]["policy_commands"]
    assert [env.step(command)[1] for command in solution].count(0.5) == LEVELS["easy"].quests == 2
    env.close()


@pytest.mark.bridge
def test_an_episode_ends_at_the_limit_of_turns(env):
    env.reset(seed=0)
    steps = [env.step("dance") for _ in range(env.max_steps)]
    assert [step[3] for step in steps] == [False] * (env.max_steps - 1) + [True]
    assert steps[-1][4]["success"] is False
    assert len(steps[-1][4]["solutions"]) == env.max_steps + 1


@pytest.mark.parametrize(
    "command", ["save", "Restore", "script", "quit", "undo", "tw-print moves", "look. save", "look then save", "", "ü"]
)
def test_bug_614_commands_of_the_interpreter_do_not_reach_it(command):
    """They could write files, or take turns back."""
    assert not is_of_the_game(command)


def test_commands_of_the_game_reach_it():
    for command in ("look", "take Henderson's key from dish-pit", "unlock type 9 chest with type 9 keycard"):
        assert is_of_the_game(command)


@pytest.mark.bridge
def test_a_refused_command_costs_a_turn_and_changes_nothing(env):
    before = env.reset(seed=0)[1]
    text, reward, *_, info = env.step("restart")
    assert (text, reward) == (REFUSED, 0.0)
    assert info["policy_commands"] == before["policy_commands"]


@pytest.mark.bridge
def test_available_actions_are_shown_on_request(games):
    env = TextWorldEnv("tiny", tasks=1, games_dir=games, show_available_actions=True)
    first, info = env.reset(seed=0)
    assert first.endswith("Available actions: " + ", ".join(info["available_actions"]))
    env.close()


@pytest.mark.bridge
def test_a_game_is_generated_once_and_the_same_in_every_process(games, tmp_path):
    path = game_file(LEVELS["tiny"], 7, games)
    before = path.stat().st_mtime_ns
    assert game_file(LEVELS["tiny"], 7, games) == path
    assert path.stat().st_mtime_ns == before
    script = (
        "import sys; from pathlib import Path; from hero_envs.bridges.textworld_games import LEVELS, game_file\n"
        "print(game_file(LEVELS['tiny'], 7, Path(sys.argv[1])))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]  # at once, in one folder
    others = [Path(run.communicate()[0].decode().strip()) for run in runs]
    assert {run.returncode for run in runs} == {0}
    assert {other.name for other in others} == {path.name}
    one, other = (json.loads(file.with_suffix(".json").read_text()) for file in (path, others[0]))
    assert one["objective"] == other["objective"]
    assert one == other
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".z8"], "no temporary folder is left"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"level": "huge"}, "expected one of tiny, easy"),
        ({"level": {"rooms": 2}}, "fields of a Level"),
        ({"split": "dev"}, "expected one of train"),
        ({"tasks": 0}, "expected 1 to"),
        ({"world": 100}, "expected 0 to 99"),
        ({"max_steps": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said, monkeypatch):
    monkeypatch.setattr("hero_envs.bridges.textworld.check_package", lambda: None)
    with pytest.raises(ValueError, match=said):
        TextWorldEnv(**arguments)


def test_the_greeting_of_an_objective_is_left_out():
    text = "Welcome to TextWorld! Here is how to play! First stop, open the box. Then, take the hat. Got that? Good!"
    assert objective(text) == "First stop, open the box. Then, take the hat."
    assert objective("Hey, thanks for coming over to TextWorld! Please eat the pie.") == "Eat the pie."


def test_only_the_words_of_the_game_are_shown():
    end = (
        "*** The End ***\n\nYou scored 1 out of a possible 1, in 2 turns.\n\nWould you like to RESTART or QUIT?\n> -= A"
    )
    assert plain(f"You eat the pie.\n\n\nOne point.\n\n {end}") == "You eat the pie. One point."
    assert plain("You open the box.\n\n>       -= Attic =-0/2") == "You open the box."

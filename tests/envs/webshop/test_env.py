"""The Gymnasium class: API, limits, options, invalid actions."""

import json
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from hero_envs.spaces import UnicodeText

IDS = ("hero_pl/WebShop-v0", "hero_pl/WebShopPocket-v0")
TASK = "pine-shirt-red-large"
PATH = ("search[shirt]", "click[pine shirt]", "click[red]", "click[large]", "click[buy now]")


def pocket(**options):
    env = gym.make("hero_pl/WebShopPocket-v0", **options)
    env.reset(seed=0, options={"task": TASK})
    return env


def play(env, actions):
    return [env.step(action) for action in actions]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("observation", ["text", "text_rich", "compact"])
def test_gymnasiums_checker_passes_without_a_warning(env_id, observation):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, observation=observation).unwrapped)


def test_reset_tells_prompt_tools_role_and_task():
    env = pocket()
    text, info = env.reset(seed=0, options={"task": TASK})
    assert text == "find: buy a pine shirt with color: red, and size: large"
    assert (info["system_prompt"], info["role"], info["task"]) == ("shop", "user", TASK)
    assert info["plain_replies"] is False
    assert [tool["function"]["name"] for tool in info["tools"]] == ["search", "click"]
    assert "search[words]" in gym.make("hero_pl/WebShop-v0").reset(seed=0)[1]["system_prompt"]
    own = gym.make("hero_pl/WebShopPocket-v0", system_prompt="Buy it.")
    assert own.reset(seed=0)[1]["system_prompt"] == "Buy it."


def test_a_whole_episode_ends_with_success_and_every_component():
    last = play(pocket(), PATH)[-1]
    text, reward, terminated, truncated, info = last
    assert (text, reward, terminated, truncated, info["success"]) == ("done", 1.0, True, False, True)
    assert info["components"]["r_type"] == 1.0
    assert info["nouns"] == "last-word"
    assert info["price_seed"] == 0
    json.dumps(info)


def test_tool_calls_do_what_the_native_actions_do_and_are_answered_as_tools():
    calls = [
        {"name": "search", "arguments": {"query": "Shirt"}},
        *({"name": "click", "arguments": {"element": name}} for name in ("Pine Shirt", "red", "large", "Buy Now")),
    ]
    native, called = pocket(), pocket()
    for action, call in zip(PATH, calls, strict=True):
        one, other = native.step(action), called.step(json.dumps(call))
        assert one[:4] == other[:4]
        assert (one[4]["role"], other[4]["role"]) == ("user", "tool")


def test_the_same_seed_and_task_give_the_same_episode():
    assert play(pocket(), PATH) == play(pocket(), PATH)


def test_a_draw_without_options_is_seeded_and_stays_in_the_split():
    env = gym.make("hero_pl/WebShopPocket-v0", split="test")
    drawn = [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert drawn == [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert len(set(drawn)) > 20
    assert set(drawn) <= set(env.unwrapped.task_ids)


def test_the_step_limit_truncates_and_the_episode_is_closed():
    env = pocket(max_noops=None)
    steps = play(env, ["search[shirt]", "click[back to search]"] * 6)
    assert [step[3] for step in steps] == [False] * 11 + [True]
    assert steps[-1][4]["success"] is False
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step("search[shirt]")


def test_a_purchase_on_the_last_step_terminates_and_does_not_truncate():
    assert play(pocket(max_steps=5), PATH)[-1][2:4] == (True, False)


def test_the_third_action_that_changes_nothing_ends_the_episode_even_when_others_came_between():
    env = pocket()
    steps = play(env, ["buy it", "search[shirt]", "click[no]", "click[pine shirt]", "click[no]"])
    assert [step[3] for step in steps] == [False, False, False, False, True]
    assert [step[4]["changed"] for step in steps] == [False, True, False, True, False]
    assert steps[-1][4]["noops"] == 3


def test_mistakes_are_marked_and_repeat_the_page():
    env = pocket()
    env.step("search[shirt]")
    env.step("click[pine shirt]")
    text, reward, _, _, info = env.step("click[purple]")
    assert text == "error: " + env.render()
    assert (reward, info["legal"], info["changed"]) == (0.0, False, False)
    env.step("click[red]")
    _, _, _, _, again = env.step("click[red]")
    assert (again["legal"], again["changed"]) == (True, False)


@pytest.mark.parametrize(
    "action",
    [
        "{",
        "{}",
        '{"name": []}',
        '{"name": "click", "arguments": "x"}',
        '{"name": "click", "arguments": {"element": 3}}',
        '{"name": "click", "arguments": {"element": ""}}',
        '{"name": "buy", "arguments": {"element": "x"}}',
        '{"a":' * 100_000,
        "\x00\ud800",
        "x" * 1_000_000,
    ],
)
def test_unreadable_actions_are_observations(action):
    text, reward, terminated, truncated, info = pocket().step(action)
    assert text.startswith("error: find: ")
    assert (reward, terminated, truncated, info["legal"]) == (0.0, False, False, False)


def test_a_tool_call_may_search_for_brackets():
    assert pocket().step('{"name": "search", "arguments": {"query": "[shirt]"}}')[4]["legal"]


def test_available_actions_are_all_possible_and_hide_next_on_an_empty_page():
    env = gym.make("hero_pl/WebShop-v0", show_available_actions=True, max_steps=None)
    text, info = env.reset(seed=1)
    assert info["available_actions"] == ["search[<content>]"]
    assert text.endswith("\nAvailable actions: search[<content>]")
    info = env.step("search[zzz]")[4]
    assert info["available_actions"] == ["click[back to search]"]
    for _ in range(3):
        for action in env.step("search[tea]")[4]["available_actions"]:
            assert env.step(action)[4]["legal"]
            env.step("search[tea]")


def test_unknown_choices_name_what_there_is():
    for options, message in (
        (
            {"split": "dev"},
            "split='dev': expected one of warmup, train, validation, test, all for the generated catalog",
        ),
        ({"observation": "html"}, "observation='html': expected one of text, text_rich, compact"),
        ({"catalog": "amazon"}, "catalog='amazon': expected one of pocket, generated, official"),
        ({"catalog": "official"}, "needs data_dir"),
        ({"difficulty": "mean"}, "difficulty='mean': expected one of easy, medium, hard"),
        ({"products": 0}, "products=0: expected at least 1"),
        ({"nouns": "magic"}, "nouns='magic': expected"),
    ):
        with pytest.raises(ValueError, match=message):
            gym.make("hero_pl/WebShop-v0", **options)
    env = pocket()
    for options in ({"task": "x"}, {"task": ["x"]}, {"goal": -1}, {"goal": True}, {"goal": 10**6}, {"instruction": 3}):
        with pytest.raises(ValueError, match="expected"):
            env.reset(options=options)


def test_a_goal_a_session_name_and_an_instruction_can_be_given():
    env = pocket()
    assert env.reset(options={"goal": 7})[1]["goal"]["index"] == 7
    first = env.reset(options={"session": "anna"})[1]["task"]
    env.reset(options={"session": "bert"})
    assert env.reset(options={"session": "anna"})[1]["task"] == first
    assert env.reset(options={"instruction": "get me something"})[0] == "find: get me something"
    assert pocket(instruction="hello").reset(seed=0)[0] == "find: hello"
    assert env.reset(options={"task": TASK})[0].startswith("find: buy a pine shirt")


def test_environments_of_a_process_share_the_catalog_and_not_the_session():
    one, other = pocket(), pocket()
    assert one.unwrapped._tasks is other.unwrapped._tasks
    one.step("search[shirt]")
    assert other.render().startswith("find: ")


def test_special_tokens_in_titles_are_plain_text(tmp_path):
    entry = {"asin": "B1", "name": "Oak <|im_end|> \x1b[0m", "full_description": "", "small_description": ["x"]}
    entry |= {"pricing": None, "images": [], "product_category": "a", "query": "q", "category": "c"}
    (tmp_path / "items_shuffle.json").write_text(json.dumps([entry]))
    row = {"attributes": ["x"], "instruction": "find", "instruction_attributes": ["x"]}
    (tmp_path / "items_ins_v2.json").write_text(json.dumps({"B1": row}))
    env = gym.make("hero_pl/WebShop-v0", data_dir=tmp_path, nouns="rules", human_goals=False, split="all")
    env.reset(seed=0)
    assert "Oak <|im_end|> \x1b[0m" in env.step("search[oak]")[0]


def test_a_vector_environment_runs_the_shop():
    envs = gym.make_vec("hero_pl/WebShopPocket-v0", num_envs=3, vectorization_mode="sync")
    texts, _ = envs.reset(seed=[1, 2, 3])
    assert len(texts) == 3
    assert all(text.startswith("find: ") for text in texts)


def test_any_unicode_text_is_in_the_space_and_samples_are_seeded():
    space = UnicodeText(max_length=5)
    assert all(text in space for text in ("", "é\n🙂", "\x00"))
    assert "longer" not in space
    assert 3 not in space
    space.seed(1)
    first = [space.sample() for _ in range(5)]
    space.seed(1)
    assert [space.sample() for _ in range(5)] == first
    assert all(text in space for text in first)
    assert space == UnicodeText(5) != UnicodeText(6)


def test_only_numpy_gymnasium_and_the_standard_library_are_imported():
    code = """
import sys
import gymnasium as gym
before = {name.partition('.')[0] for name in sys.modules}
import hero_envs
for env_id in ('hero_pl/WebShop-v0', 'hero_pl/WebShopPocket-v0'):
    env = gym.make(env_id)
    env.reset(seed=0)
    env.step('search[shirt]')
    env.step('click[buy now]')
after = {name.partition('.')[0] for name in sys.modules}
print(sorted(after - before - sys.stdlib_module_names - {'hero_envs', 'numpy'}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_rewards_are_plain_numbers():
    reward = play(pocket(), PATH)[-1][1]
    assert type(reward) is float
    assert not isinstance(reward, np.floating)

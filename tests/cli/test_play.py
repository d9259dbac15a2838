"""``hero_pl play``: an environment is played by hand, with the lines as they were typed."""

import io
import json
import re
import shlex
from pathlib import Path

import pytest

from hero_pl.cli.configs import load_text
from hero_pl.cli.main import main
from hero_pl.cli.play import play_by_hand
from hero_pl.errors import ConfigError
from hero_pl.rollout.environments import make

PAGE = Path(__file__).resolve().parents[2] / "docs" / "environments.md"
SHOP = "hero_pl/WebShopPocket-v0"
TASK = "pine-mug-green-medium"
RIGHT = ("search[mug]", "click[pine mug]", "click[green]", "click[medium]", "click[buy now]")


def played(*lines: str, env: str = SHOP, task: str | None = None, **env_args: object) -> tuple[str, str]:
    """The result and everything that was shown."""
    given, shown = iter(lines), list[str]()

    def ask(question: str) -> str:
        shown.append(question)
        for line in given:
            return line
        raise EOFError

    return play_by_hand(env, env_args, task, ask=ask, say=shown.append), "\n".join(shown)


def test_a_task_is_solved_by_typing_the_actions_of_an_expert():
    result, shown = played(*RIGHT, task=TASK)
    assert result == f"success after {len(RIGHT)} turns; reward 1.000."
    assert "find: buy a pine mug" in shown
    assert "reward 1.000]" in shown


def test_an_episode_ends_with_quit_or_with_the_input():
    assert played(RIGHT[0], ":quit", *RIGHT[1:], task=TASK)[0] == "Stopped after 1 turns; reward 0.000."
    assert played(RIGHT[0], task=TASK)[0] == "Stopped after 1 turns; reward 0.000."


def test_tools_are_listed_with_arguments_and_an_example_and_cost_no_turn():
    result, shown = played(":tools", env="hero_pl/PocketRetail-v0", size=30, tasks=20)
    assert "cancel_pending_order(order_id, reason): " in shown
    assert json.dumps({"name": "NAME", "arguments": {"KEY": "VALUE"}}) in shown
    assert result == "Stopped after 0 turns; reward 0.000."


def test_control_characters_of_an_environment_are_shown_as_text(monkeypatch):
    monkeypatch.setattr("hero_envs.webshop.env.WebShopEnv._show", lambda self: "bell \a and \x1b[31mred")
    shown = played()[1]
    assert "bell \\x07 and \\x1b[31mred" in shown


def test_a_task_is_chosen_by_name_or_by_the_seed_and_an_unknown_one_is_refused(capsys, monkeypatch):
    tasks = make(SHOP).unwrapped.task_ids
    assert f"task {tasks[5]}\n" in played(task=tasks[5])[1]
    monkeypatch.setattr("sys.stdin", io.StringIO(":quit\n"))
    main(["play", SHOP, "--seed", str(len(tasks) + 2)])
    assert f"task {tasks[2]}\n" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--task=none: hero_pl/WebShopPocket-v0 has no such task\. Its first ones: "):
        played(task="none")


@pytest.mark.parametrize("block", re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_what_the_page_on_environments_shows_is_what_is_shown(block):
    _, _, env, *options = shlex.split(block.partition("\n")[0].removeprefix("$ "))
    if env == "hero_pl/TextWorld-v0":
        pytest.importorskip("textworld", reason="needs the extra textworld")
    given = dict(zip(options[::2], options[1::2], strict=True))
    lines = [line.removeprefix("> ") for line in block.splitlines() if line.startswith("> ")]
    result, shown = played(*lines, env=env, task=given.get("--task"), **load_text(given.get("--env_args", "{}")))
    whole = f"{shown}\n{result}"
    for line in lines:
        whole = whole.replace("> \n", f"> {line}\n", 1)
    assert whole == block.partition("\n")[2]

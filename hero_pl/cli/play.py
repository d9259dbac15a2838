"""Play an environment by hand: a person types the actions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hero_pl.errors import ConfigError
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.environments import begin, check_id, check_text, make, step, task_ids
from hero_pl.runs.viewer.terminal import plain

HELP = "Type an action and press Enter; :tools lists the tools, :quit ends the episode."


def play_by_hand(
    env_id: str,
    env_args: Mapping[str, Any],
    task: str | None = None,
    seed: int = 0,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> str:
    """Play one episode; the environment gets the typed lines as they are.

    Args:
        env_id: A registered id, or ``package:Id-v0``.
        env_args: Arguments of the environment.
        task: Task to play; default: the task at position ``seed``, counted round and round.
        seed: Seed of the episode.
        ask: Prints a question and returns the answer.
        say: Prints text.

    Returns:
        The result: how the episode ended, its turns and the sum of its rewards.

    Raises:
        ConfigError: The environment does not exist or cannot be created, or has no such task.
        EnvError: The environment raised, or answered wrongly.
    """
    check_id(env_id)
    env = make(env_id, **env_args)
    check_text(env)
    try:
        tasks = task_ids(env, seed + 1)
        if task is None:
            task = tasks[seed % len(tasks)]
        elif getattr(env.unwrapped, "task_ids", None) is not None and task not in tasks:
            raise ConfigError(f"--task={task}: {env_id} has no such task. Its first ones: {', '.join(tasks[:5])}.")
        answer = begin(env, task, seed)
        tools = tools_of(answer)
        say(plain(f"{env_id}, task {task}\n\n{answer.info.get('system_prompt', '')}".rstrip()))
        say(HELP if tools else HELP.replace(":tools lists the tools, ", ""))
        turns, reward = 0, 0.0
        while not (answer.terminated or answer.truncated):
            say(shown(answer, turns))
            action = _action(ask, say, tools)
            if action is None:
                return f"Stopped after {turns} turns; reward {reward:.3f}."
            answer = step(env, action)
            turns, reward = turns + 1, reward + answer.reward
        say(shown(answer, turns))
    finally:
        env.close()
    success = answer.info.get("success")
    ended = "success" if success else "no success" if success is not None else "ended"
    return f"{ended} after {turns} turns; reward {reward:.3f}{' (cut off)' if answer.truncated else ''}."


def shown(answer: Answer, turns: int) -> str:
    """One observation as text for the terminal: who says it, the reward if there is one, and possible actions."""
    reward = f", reward {answer.reward:.3f}" if turns else ""
    lines = [f"\n[{answer.role}{reward}]", answer.observation]
    actions = answer.info.get("available_actions")
    if isinstance(actions, list) and actions:
        lines.append("possible: " + " | ".join(map(str, actions)))
    return plain("\n".join(lines))


def tools_of(answer: Answer) -> list[str]:
    """The tools of an episode, one line each: name, arguments and description."""
    lines = []
    for tool in answer.info.get("tools") or []:
        function = tool.get("function", tool)
        arguments = ", ".join(function.get("parameters", {}).get("properties", {}))
        lines.append(f"{function.get('name')}({arguments}): {function.get('description', '')}")
    if lines:
        example = json.dumps({"name": "NAME", "arguments": {"KEY": "VALUE"}})
        lines.append(f"A call is typed as JSON: {example}")
    return lines


def _action(ask: Callable[[str], str], say: Callable[[str], None], tools: list[str]) -> str | None:
    """The next action; ``None`` at ``:quit`` or the end of the input."""
    while True:
        try:
            given = ask("> ")
        except EOFError:
            return None
        if given.strip() == ":quit":
            return None
        if given.strip() == ":tools" and tools:
            say(plain("\n".join(tools)))
        else:
            return given

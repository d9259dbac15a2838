"""Check that an environment follows the API that rollouts need, in addition to Gymnasium's own checker."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import gymnasium
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from hero_pl.rollout.answers import MAX_CHARS, Wrong, wrong_start, wrong_step, wrong_tool
from hero_pl.rollout.environments import Env, make

MAX_TASKS = 5
"""Tasks that are started: the first, the last and some between."""
_NO_SUCH_TASK = "no such task: \x00"
_MISTAKES: tuple[str, ...] = (
    "",
    " ",
    "\n",
    "I am not sure what to do next.",
    "{",
    "[]",
    "null",
    '{"name": 3, "arguments": {}}',
    '{"name": "no_such_tool", "arguments": {}}',
    '{"name": "no_such_tool"}',
    '{"arguments": {}}',
    "[" * 5_000,
    "bell \a, escape \x1b[31m, nul \x00, half a surrogate \ud800",
    "<|im_end|><|im_start|>system",
    "search[[[[]]]] click[]]]",
    "long " * 50_000,
)
"""Invalid replies of a model. The environment must answer each with an observation."""


_ENDS = (Exception, SystemExit)
"""Exceptions of an environment; a keyboard interrupt is not one."""
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Problem(NamedTuple):
    """A violation of the API."""

    where: str
    """The call that showed it; empty if there is none."""
    what: str
    kind: str = ""
    """Problems of one kind are reported once; default: those with the same text."""


def check_env(env_id: str, /, **kwargs: Any) -> list[str]:
    """All problems of an environment; an empty list if all checks pass.

    The API: text in and out; ``reset(seed=, options={"task": id})`` starts that task the same way every time,
    and an unknown one is refused; without options the seed draws it; ``info`` holds ``task`` (the id that was
    started), ``system_prompt`` and ``tools`` at reset, ``role`` with each observation, ``success`` at the end, and
    JSON values only; rewards lie in [0, 1]; mistakes of the model never raise. At reset ``info`` may also say how to
    read the score and the actions (``environments.KEPT``); ``user`` is the same for all tasks.

    Args:
        env_id: A registered id, or ``package:Id-v0``.
        kwargs: Arguments of the environment.

    Returns:
        One sentence per problem, in the order of the checks: where it occurred first, and how often again.

    Raises:
        ConfigError: The environment does not exist or cannot be created.
    """
    calls = [""]
    env, again = (_Watched(make(env_id, **kwargs), calls) for _ in range(2))
    problems = list(_spaces(env))
    checks: list[Callable[[], Iterator[Problem]]] = [lambda: _gymnasium_problems(make(env_id, **kwargs))]
    checks.append(lambda: _tasks(env, again))
    if not problems:
        checks += [lambda: _starts(env, again), lambda: _mistakes(env), lambda: _ends(env, again)]
    checks += [lambda: _closes(env), lambda: _closes(again)]
    for check in checks:
        try:
            for problem in check():
                problems.append(problem)
        except _ENDS as error:  # any error is one of the environment and belongs in the list
            text = f"raised {error!r} instead of returning an answer."
            problems.append(Problem(calls[-1], text, f"raised {error!r}"))
    return grouped(problems)


class _Watched(gymnasium.Wrapper[str, str, str, str]):
    """Records its calls, for the report if one of them raises."""

    def __init__(self, env: Env, calls: list[str]) -> None:
        super().__init__(env)
        self.calls = calls

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.calls.append(f"reset(seed={seed}, options={options})")
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        self.calls.append(f"step({action[:60]!r})")
        return super().step(action)


def grouped(problems: Iterable[Problem]) -> list[str]:
    """One sentence per kind: the first of that kind, and how many more there are."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind or problem.what, []).append(problem)
    lines = []
    for first, *more in kinds.values():
        text = f"{first.where}: {first.what}" if first.where else first.what
        others = len({problem.where for problem in more} - {first.where})
        lines.append(_COLOR.sub("", text) + (f" ... and {others} more" if others else ""))
    return lines


def _spaces(env: Env) -> Iterator[Problem]:
    """Check that both spaces are text; without that, other checks cannot run."""
    for name in ("action_space", "observation_space"):
        expected = f"{name} must be text (hero_envs.spaces.UnicodeText or gymnasium's Text)"
        try:
            space = getattr(env, name)
            sample = space.sample()
        except _ENDS as error:
            yield Problem("", f"{expected}; its sample() raised {error!r}.")
            continue
        if not isinstance(sample, str):
            given = " ".join(str(space).split())
            yield Problem("", f"{expected}, not {given}.")


def _gymnasium_problems(env: Env) -> Iterator[Problem]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gymnasium_check_env(env.unwrapped)
        except _ENDS as error:
            yield Problem("Gymnasium's check_env", repr(error))
    for warning in caught:
        yield Problem("Gymnasium's check_env warns", str(warning.message))
    yield from _closes(env)


def _closes(env: Env) -> Iterator[Problem]:
    try:
        env.close()
    except _ENDS as error:
        yield Problem("close()", f"raised {error!r}.")


def _tasks(env: Env, again: Env) -> Iterator[Problem]:
    ids = getattr(env.unwrapped, "task_ids", None)
    if not isinstance(ids, list) or not ids or not all(isinstance(task, str) and task for task in ids):
        yield Problem("", f"env.unwrapped.task_ids must be a list of task ids (non-empty text), not {str(ids)[:80]}.")
        return
    if len(set(ids)) != len(ids):
        yield Problem("", f"task_ids has {len(ids) - len(set(ids))} repeated ids; every task needs its own.")
    if ids != getattr(again.unwrapped, "task_ids", None):
        yield Problem(
            "", "task_ids differs between two environments with equal arguments; every process needs one order."
        )
    try:
        env.reset(seed=0, options={"task": _NO_SUCH_TASK})
    except Exception:
        return
    yield Problem(
        "", "reset(options={'task': ...}) accepted a task that does not exist; refuse it with an error that names it."
    )


def _starts(env: Env, again: Env) -> Iterator[Problem]:
    ids = _some_tasks(env)
    users: dict[str, str] = {}
    for task in ids:
        answer = env.reset(seed=1, options={"task": task})
        where = f"reset to task {task!r}"
        yield from _problems(wrong_start(answer), where)
        yield from _observation_problems(env, answer, where)
        if not isinstance(info := _info(answer), dict):
            continue
        if isinstance(answer[0], str) and len(answer[0]) > MAX_CHARS:
            yield Problem(where, f"the observation has more than {MAX_CHARS} characters; rollouts cut it.", "long")
        if info.get("task") != task:
            yield Problem(where, f"info['task'] is {info.get('task')!r}; expected the id passed to reset().", "task")
        for name in ("system_prompt", "tools"):
            if name not in info:
                yield Problem(where, f"info[{name!r}] is missing.")
        yield from _score_problems(info, where)
        users.setdefault(str(info.get("user", "")), task)
        if answer != again.reset(seed=1, options={"task": task}):
            yield Problem(where, "one seed gave two different starts.")
    if len(users) > 1:
        (one, first), (other, second), *_ = users.items()
        yield Problem(
            "",
            f"info['user'] is {one[:40]!r} for task {first!r} and {other[:40]!r} for task {second!r}. It names the "
            "kind of user simulator, one for all tasks; results with others are not compared. Give names another key.",
        )
    if ids and env.reset(seed=2) != again.reset(seed=2):
        yield Problem(
            "reset(seed=2) without options",
            "two different tasks were drawn; draw with self.np_random after super().reset(seed=seed).",
        )


def _score_problems(info: dict[str, Any], where: str) -> Iterator[Problem]:
    """Problems of the entries that say how to read the score."""
    for name, kind in (
        ("user", str),
        ("do_nothing_succeeds", bool),
        ("user_is_faithful", bool),
        ("plain_replies", bool),
    ):
        if name in info and not isinstance(info[name], kind):
            yield Problem(where, f"info[{name!r}] must be of type {kind.__name__}, not {info[name]!r}.", name)


def _mistakes(env: Env) -> Iterator[Problem]:
    if not (tasks := _some_tasks(env)):
        return
    task = tasks[0]
    info = _info(env.reset(seed=3, options={"task": task}))
    for action in [*_MISTAKES, *_tool_mistakes(info.get("tools") if isinstance(info, dict) else None)]:
        try:
            answer = env.step(action)
        except _ENDS as error:
            text = f"raised {error!r}; mistakes of the model must come back as observations."
            yield Problem(f"step({action[:60]!r})", text, f"raised {type(error).__name__}")
            env.reset(seed=3, options={"task": task})
            continue
        yield from _step_problems(env, answer, f"step({action[:60]!r})")
        if _over(answer):
            env.reset(seed=3, options={"task": task})


def _ends(env: Env, again: Env, steps: int = 200) -> Iterator[Problem]:
    """Random actions, the same in two environments, over several episodes."""
    if not (tasks := _some_tasks(env)):
        return
    task = tasks[-1]
    begin: dict[str, Any] = {"seed": 4, "options": {"task": task}}
    env.reset(**begin)
    again.reset(**begin)
    env.action_space.seed(4)
    for number in range(steps):
        action = env.action_space.sample()
        one, other = env.step(action), again.step(action)
        where = f"action {number + 1} ({action[:40]!r}) of task {task!r}"
        yield from _step_problems(env, one, where)
        if one != other:
            yield Problem(where, "one seed and the same actions gave two different answers.")
            return
        if _over(one):
            env.reset(**begin)
            again.reset(**begin)


def _step_problems(env: Env, answer: object, where: str) -> Iterator[Problem]:
    yield from _problems(wrong_step(answer), where)
    yield from _observation_problems(env, answer, where)
    if _over(answer):
        yield from _end_problems(_info(answer), where)


def _over(answer: Any) -> bool:
    return isinstance(answer, tuple) and len(answer) == 5 and bool(answer[2] or answer[3])


def _info(answer: Any) -> Any:
    return answer[-1] if isinstance(answer, tuple) and answer else None


def _problems(problems: Iterable[Wrong], where: str) -> Iterator[Problem]:
    """Problems that would break an episode; one kind per field, since the values differ."""
    for wrong in problems:
        yield Problem(where, str(wrong), wrong.field)


def _observation_problems(env: Env, answer: Any, where: str) -> Iterator[Problem]:
    """Problems that a rollout does not reject."""
    observation, info = answer[0] if isinstance(answer, tuple) and answer else None, _info(answer)
    if isinstance(observation, str) and observation not in env.observation_space:
        yield Problem(
            where, "the observation is not in observation_space; use hero_envs.spaces.UnicodeText for free text."
        )
    if isinstance(info, dict) and "role" not in info:
        yield Problem(where, "info['role'] is missing; expected 'user' or 'tool'.")


def _end_problems(info: object, where: str) -> Iterator[Problem]:
    success = info.get("success") if isinstance(info, dict) else None
    if not isinstance(success, bool):
        yield Problem(where, f"the episode ended; info['success'] must be a bool, not {success!r}.")


def _tool_mistakes(tools: object) -> Iterator[str]:
    """Calls of the environment's tools with invalid arguments."""
    for tool in tools if isinstance(tools, list) else []:
        if any(True for _ in wrong_tool(tool)):
            continue  # reported at the start
        name = tool["function"]["name"]
        keys = list(tool["function"]["parameters"].get("properties", {}))
        bad: list[object] = [None, "text", [], {}, {"no_such_argument": 1}]
        values: tuple[Any, ...] = (None, 10**400, -1.5, True, "", "\x00", ["a"], {"a": {"b": []}})
        bad += [dict.fromkeys(keys, value) for value in values]
        yield from (json.dumps({"name": name, "arguments": arguments}) for arguments in bad)


def _some_tasks(env: Env) -> list[str]:
    named = getattr(env.unwrapped, "task_ids", None)
    ids = named if isinstance(named, list) else []
    if not ids:
        return []
    step = max(1, (len(ids) - 1) // (MAX_TASKS - 1)) if len(ids) > 1 else 1
    return list(dict.fromkeys([*ids[::step][: MAX_TASKS - 1], ids[-1]]))

"""TauBench as a Gymnasium environment: text in, text out, a synchronous user.

``reset(seed=, options={"task": "test-12"})`` returns the user's first message and, in ``info``, the policy text and the
tool schemas. An action is plain text for the user, or ``{"name": ..., "arguments": {...}}`` for a tool. Any text of the
policy gets an observation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from hero_envs.chat_http import encodable
from hero_envs.spaces import UnicodeText
from hero_envs.tau_bench.compact import compact_observation
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.episode import RESPOND, Episode
from hero_envs.tau_bench.generate import pocket_retail
from hero_envs.tau_bench.goals import KINDS, Kind
from hero_envs.tau_bench.handles import Handles
from hero_envs.tau_bench.manifest import plays_faithfully
from hero_envs.tau_bench.official import load_official
from hero_envs.tau_bench.prompts import COMPACT_POLICY, LOOKUP_POLICY
from hero_envs.tau_bench.users.base import User
from hero_envs.tau_bench.users.chat import ChatUser
from hero_envs.tau_bench.users.endpoint import EndpointUser
from hero_envs.tau_bench.users.scripted import ScriptedUser

MAX_DEPTH = 64
"""Maximum nesting of arguments; deeper ones get an error text."""

_DEFAULT_SPLIT = {"retail": "test", "airline": "test", "pocket_retail": "train"}


class TauBenchEnv(gymnasium.Env[str, str]):
    """One dialogue with a user per episode; reward 1.0 at the end if the database has the expected state, else 0.0.

    Args:
        domain: ``retail`` or ``airline`` (official data, imported once), or ``pocket_retail`` (generated).
        split: retail: ``train``, ``dev``, ``test``; airline: ``test``; pocket_retail: ``warmup``, ``train``,
            ``validation``, ``test``. Selects ``task_ids``; ``reset`` accepts a task of any split.
        user: ``scripted`` (gives all information at once), ``scripted_on_demand``, the arguments of an ``EndpointUser``
            as a mapping (``{"url": ..., "model": ..., "strategy": ...}``), those of a ``ChatUser`` with your own model
            (``{"complete": ..., "strategy": ...}``), or a ``User`` that no other environment uses. If hero_pl creates
            the environment, ``{"pretrained": ..., "strategy": ...}`` loads a model into this process.
        data_dir: Folder of the imported data; default: ``HERO_TAU_BENCH_DATA`` or the user's data folder.
        compact: Short system prompt without schemas, short observations; for small policies, retail only.
        max_steps: Truncate after this many actions; ``None`` for no limit, as in the benchmark.
        size: Number of users of ``pocket_retail``.
        tasks: Number of tasks of ``pocket_retail`` over all splits.
        data_seed: Seed of ``pocket_retail``.
        kinds: Kinds of goals in ``pocket_retail``.
        max_goals: Maximum number of goals per task of ``pocket_retail``.
        lookups: Use tasks of ``pocket_retail`` that need a look-up with tools; some requests are not allowed, by rules
            in the compact prompt. Kinds are ``cancel`` and ``return``.
        handles: With ``compact``, show short names instead of ids; see :mod:`hero_envs.tau_bench.handles`.
        system_prompt: Replaces the domain's own policy text; an official score needs the latter.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by Gymnasium)

    def __init__(
        self,
        domain: str = "retail",
        split: str | None = None,
        user: str | Mapping[str, Any] | User = "scripted",
        data_dir: str | Path | None = None,
        compact: bool = False,
        max_steps: int | None = None,
        size: int = 240,
        tasks: int = 2000,
        data_seed: int = 0,
        kinds: Sequence[Kind] = KINDS,
        max_goals: int = 2,
        lookups: bool = False,
        handles: bool = False,
        system_prompt: str | None = None,
    ) -> None:
        super().__init__()
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText()
        if domain == "pocket_retail":
            self.domain: Domain = pocket_retail(size, tasks, data_seed, tuple(kinds), max_goals, lookups)
        else:
            self.domain = load_official(domain, data_dir)
        self.split = split or _DEFAULT_SPLIT[domain]
        if self.split not in self.domain.splits:
            raise ValueError(
                f"TauBenchEnv(domain={domain!r}, split={split!r}): unknown split; "
                f"expected one of {', '.join(self.domain.splits)}."
            )
        if compact and domain == "airline":
            raise ValueError("TauBenchEnv(domain='airline', compact=True): expected compact=False, except for retail.")
        self.user = _make_user(user)
        self.compact = compact
        if handles and not compact:
            raise ValueError("TauBenchEnv(handles=True) needs compact=True: the full form shows the ids.")
        self._with_handles = handles
        own_prompt = (LOOKUP_POLICY if lookups else COMPACT_POLICY) if compact else self.domain.policy
        self.system_prompt = own_prompt if system_prompt is None else system_prompt
        self._max_steps = max_steps
        self._episode: Episode | None = None
        self._steps = 0
        self._handles: Handles | None = None

    @property
    def task_ids(self) -> list[str]:
        """Task ids of the split, in file order, the same in every process."""
        return [task.id for task in self.domain.splits[self.split]]

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start a dialogue.

        Args:
            seed: Selects the task if ``options`` does not, and seeds the user model.
            options: ``{"task": id}``.

        Returns:
            The user's first message, and ``info`` with ``system_prompt``, ``tools``, ``role``, ``task``, ``user``
            (the label of the user simulator), ``plain_replies``, ``do_nothing_succeeds``, and for scripted users
            ``user_is_faithful``.

        Raises:
            ValueError: The task id does not exist.
            UserError: The user simulator failed. With an ``EndpointUser`` also the faults of
                :mod:`hero_envs.chat_endpoint`.
        """
        super().reset(seed=seed)
        ids = self.task_ids
        task_id = (options or {}).get("task", None)
        if task_id is None:
            task_id = ids[int(self.np_random.integers(len(ids)))]
        if not isinstance(task_id, str) or task_id not in self.domain.tasks:
            raise ValueError(
                f"No task {task_id!r} in TauBench {self.domain.name}; ids look like {ids[0]!r} "
                f"({', '.join(f'{name}: {len(tasks)}' for name, tasks in self.domain.splits.items())})."
            )
        task = self.domain.tasks[task_id]
        self._episode = Episode(self.domain, task, self.user)
        self._steps = 0
        self._handles = Handles() if self._with_handles else None
        if seed is not None:
            self.user.reseed(seed)
        info: dict[str, Any] = {
            "system_prompt": self.system_prompt,
            "tools": [] if self.compact else [dict(schema) for schema in self.domain.tool_schemas],
            "role": "user",
            "task": task_id,
            "user": self.user.label,
            "plain_replies": True,
            "do_nothing_succeeds": self.domain.solved_by_nothing(task),
        }
        if isinstance(self.user, ScriptedUser):
            info["user_is_faithful"] = plays_faithfully(task)
        opening = self._episode.start()
        return encodable(self._handles.shorten(opening) if self._handles else opening), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Execute one action.

        Args:
            action: Plain text, or ``{"name": ..., "arguments": {...}}``.

        Returns:
            Observation, reward, terminated, truncated, ``info`` with ``role`` and ``source``; at the end also
            ``success``, ``reward_info``, ``user`` and ``user_cost``.

        Raises:
            UserError: The user simulator failed; the episode cannot be evaluated. See ``reset``.
        """
        if self._episode is None:
            raise RuntimeError("TauBenchEnv.step() before reset(); call reset() first.")
        self._steps += 1
        name, kwargs, problem = read_action(action)
        if problem:
            result = None
            observation, reward, done, role = problem, 0.0, False, "tool"
        else:
            result = self._episode.step(name, self._expanded(name, kwargs))
            role = "user" if result.source == "user" else "tool"
            observation, reward, done = result.observation, result.reward, result.done
            if self.compact and role == "tool":
                observation = compact_observation(name, observation)
            if self._handles:
                observation = self._handles.shorten(observation)
        info: dict[str, Any] = {"role": role, "source": name}
        truncated = not done and self._max_steps is not None and self._steps >= self._max_steps
        if done or truncated:
            info["success"] = reward == 1.0
            info["reward_info"] = dict(result.reward_info) if result is not None and result.reward_info else None
            info["user"] = self.user.label
            info["user_cost"] = self.user.cost
        return encodable(observation), reward, done, truncated, info

    def cancel(self) -> None:
        """Called from another thread when the run is to end: a user that waits for a server gives up."""
        self.user.cancel()

    def _expanded(self, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments with ids in place of handles."""
        if self._handles is None:
            return kwargs
        if name == RESPOND and isinstance(kwargs.get("content"), str):
            return {**kwargs, "content": self._handles.say(kwargs["content"])}
        return {key: self._handles.expand(value) for key, value in kwargs.items()}


def read_action(action: str) -> tuple[str, dict[str, Any], str | None]:
    """Name, arguments and, if the call is invalid, the error text.

    Text that is not a JSON object with a ``name`` is a message to the user.

    Example:
        >>> read_action('{"name": "think", "arguments": {"thought": "x"}}')
        ('think', {'thought': 'x'}, None)
        >>> read_action("Hello {there}")
        ('respond', {'content': 'Hello {there}'}, None)
    """
    text = action if isinstance(action, str) else str(action)
    try:
        value = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or "name" not in value:
        return RESPOND, {"content": text}, None
    name, arguments = value["name"], value.get("arguments", {})
    if not isinstance(name, str):
        return "", {}, f"Error: the name of a tool must be text, not {type(name).__name__}"
    if not isinstance(arguments, dict):
        return name, {}, f"Error: the arguments of {name} must be a JSON object, not {type(arguments).__name__}"
    if _deeper_than(arguments, MAX_DEPTH):
        return name, {}, f"Error: the arguments of {name} are nested deeper than {MAX_DEPTH} levels"
    return name, arguments, None


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True


def _make_user(user: str | Mapping[str, Any] | User) -> User:
    if isinstance(user, User):
        return user
    if isinstance(user, Mapping):
        if "pretrained" in user:
            raise ValueError(
                f"TauBenchEnv(user={dict(user)!r}): this package loads no models. Create the environment with hero_pl "
                "(data.env_args), or give {'complete': a function from messages and a seed to text}."
            )
        return ChatUser(**user) if "complete" in user else EndpointUser(**user)
    if user == "scripted":
        return ScriptedUser("full")
    if user == "scripted_on_demand":
        return ScriptedUser("on_demand")
    raise ValueError(
        f"TauBenchEnv(user={user!r}): expected 'scripted', 'scripted_on_demand', "
        "the arguments of an EndpointUser or a ChatUser as a mapping, or a User."
    )

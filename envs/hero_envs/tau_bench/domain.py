"""A domain: its records, tools, policy text and tasks, shared by all environments of a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from hero_envs.tau_bench.database import BaseData, Database, Delta, copy_json
from hero_envs.tau_bench.tasks import Task
from hero_envs.tau_bench.tool import Tool

TABLES = {"retail": ("orders", "products", "users"), "airline": ("flights", "reservations", "users")}
SPLITS = {"retail": ("train", "dev", "test"), "airline": ("test",)}


class Domain:
    """The part of a domain that no episode changes.

    Args:
        name: ``retail``, ``airline`` or ``pocket_retail``.
        base: The records at the start of every episode.
        tools: Tools, in the order of their schemas.
        tool_schemas: OpenAI-style function schemas, in the order of ``tools``.
        policy: The policy text (system prompt).
        splits: Split name to tasks.
    """

    def __init__(
        self,
        name: str,
        base: BaseData,
        tools: Sequence[Tool],
        tool_schemas: Sequence[Mapping[str, Any]],
        policy: str,
        splits: Mapping[str, tuple[Task, ...]],
    ) -> None:
        self.name = name
        self.base = base
        self.tools = {tool.name: tool for tool in tools}
        self.tool_schemas = tuple(tool_schemas)
        self.policy = policy
        self.splits = dict(splits)
        self._end_states: dict[str, Delta] = {}
        self._end_hashes: dict[str, str] = {}

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Task id to task, over all splits."""
        return {task.id: task for tasks in self.splits.values() for task in tasks}

    def end_state(self, task: Task) -> Delta:
        """Changes made by the ground-truth calls; computed once per task."""
        if task.id not in self._end_states:
            self._end_states[task.id] = self._replay(task).delta()
        return self._end_states[task.id]

    def end_state_hash(self, task: Task) -> str:
        """The benchmark's own hash of the database after the ground-truth calls; computed once per task."""
        if task.id not in self._end_hashes:
            self._end_hashes[task.id] = self._replay(task).official_hash()
        return self._end_hashes[task.id]

    def _replay(self, task: Task) -> Database:
        """A new database after the ground-truth calls; changes made by a call before it fails are kept."""
        data = Database(self.base)
        for action in task.actions:
            tool = self.tools.get(action.name)
            if tool is not None and not tool.terminal:
                tool.call(data, copy_json(dict(action.kwargs)))
        return data

    def solved_by_nothing(self, task: Task) -> bool:
        """Whether doing nothing solves the task: unchanged end state, no required outputs."""
        return not task.outputs and not self.end_state(task)

    def do_nothing_ids(self, split: str) -> list[str]:
        """Tasks of a split that doing nothing solves; their fraction is the floor of every score."""
        return [task.id for task in self.splits[split] if self.solved_by_nothing(task)]

"""A domain: its records, tools, policy text and tasks, loaded once per process and shared by all environments."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hero_envs.tau_bench import airline_tools, retail_tools
from hero_envs.tau_bench.database import BaseData, Database, Delta, copy_json
from hero_envs.tau_bench.tasks import Task, tasks_from_json
from hero_envs.tau_bench.tool import Tool

DATA_VARIABLE = "HERO_TAU_BENCH_DATA"
"""Environment variable with the folder of the imported data."""

TABLES = {"retail": ("orders", "products", "users"), "airline": ("flights", "reservations", "users")}
SPLITS = {"retail": ("train", "dev", "test"), "airline": ("test",)}
TOOLS: dict[str, tuple[Tool, ...]] = {"retail": retail_tools.TOOLS, "airline": airline_tools.TOOLS}


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


def default_data_dir() -> Path:
    """Default folder of the imported data: the user's data folder."""
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE])
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    return base / "hero_pl" / "tau_bench"


def load_official(name: str, data_dir: str | Path | None = None) -> Domain:
    """Load a domain of the public benchmark that ``import_official`` stored.

    Args:
        name: ``retail`` or ``airline``.
        data_dir: Folder with ``retail/`` and ``airline/``; by default ``default_data_dir()``.

    Raises:
        FileNotFoundError: The data is missing; the message gives the import command.
        DataImportError: A file has changed since it was imported, or has unexpected contents.
    """
    if name not in TABLES:
        raise ValueError(f"No official TauBench domain {name!r}; expected one of: {', '.join(TABLES)}.")
    return _load(name, Path(data_dir or default_data_dir()).resolve())


@lru_cache(maxsize=8)
def _load(name: str, root: Path) -> Domain:
    folder = root / name
    needed = [f"{table}.json" for table in TABLES[name]] + [f"tasks_{split}.json" for split in SPLITS[name]]
    missing = [file for file in [*needed, "tools.json", "policy.md"] if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"TauBench {name}: {', '.join(missing)} missing in {folder}. The official data is not part of this "
            "package. Import it once from a checkout of github.com/sierra-research/tau-bench with: "
            f"hero_pl import-tau-bench PATH (or set {DATA_VARIABLE}, or pass data_dir). "
            "Without it, use hero_pl/PocketRetail-v0."
        )

    from hero_envs.tau_bench.importer import read_verified  # imports this module

    content = read_verified(name, folder)
    return Domain(
        name=name,
        base=BaseData({table: content[f"{table}.json"] for table in TABLES[name]}),
        tools=TOOLS[name],
        tool_schemas=content["tools.json"],
        policy=content["policy.md"],
        splits={split: tasks_from_json(split, content[f"tasks_{split}.json"]) for split in SPLITS[name]},
    )

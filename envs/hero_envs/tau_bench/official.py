"""Load the imported domains of the public benchmark, once per process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from hero_envs.tau_bench import airline_tools, retail_tools
from hero_envs.tau_bench.database import BaseData
from hero_envs.tau_bench.domain import SPLITS, TABLES, Domain
from hero_envs.tau_bench.importer import read_verified
from hero_envs.tau_bench.tasks import tasks_from_json
from hero_envs.tau_bench.tool import Tool
from hero_envs.user_folders import user_folder

DATA_VARIABLE = "HERO_TAU_BENCH_DATA"
"""Environment variable with the folder of the imported data."""

TOOLS: dict[str, tuple[Tool, ...]] = {"retail": retail_tools.TOOLS, "airline": airline_tools.TOOLS}


def default_data_dir() -> Path:
    """Default folder of the imported data: the user's data folder."""
    return user_folder("data", "tau_bench", DATA_VARIABLE)


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

    content = read_verified(name, folder)
    return Domain(
        name=name,
        base=BaseData({table: content[f"{table}.json"] for table in TABLES[name]}),
        tools=TOOLS[name],
        tool_schemas=content["tools.json"],
        policy=content["policy.md"],
        splits={split: tasks_from_json(split, content[f"tasks_{split}.json"]) for split in SPLITS[name]},
    )

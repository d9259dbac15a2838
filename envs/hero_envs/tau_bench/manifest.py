"""The manifest: ids and hashes of all official tasks, and facts that are needed to interpret a score.

The stored file contains hashes and ids, but no text of the benchmark. It is the same on every machine and for any
number of workers, because it depends only on the data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from hero_envs.tau_bench.database import Database
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.goals import parse_request
from hero_envs.tau_bench.tasks import Task

COMMIT = "59a200c6d575d595120f1cb70fea53cef0632f6b"
"""Commit of the original repository that the hashes belong to."""

_DEPENDS_ON_THE_AGENT = re.compile(
    r"\b(?:if|unless|when|until|agents?|ask(?:s|ed|ing)?|confirm\w*|mind|first|initially|before|after|later|then|once"
    r"|insist\w*|reactive|mention\w*|reveal\w*|suddenly|realiz\w*|pretend\w*|forg[eo]t\w*|remember\w*|sure|try|push\w*"
    r"|convinc\w*|refus\w*|only|instead|rather|otherwise|not possible|one (?:by|at)|step)\b",
    re.I,
)


def content_sha256(value: Any) -> str:
    """Hash (hex) of a JSON value that depends on the order of keys, but not on white space."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def plays_faithfully(task: Task) -> bool:
    """Whether the scripted user plays the task faithfully.

    True for requests in the sentence forms, and for free text without words that make the user's behavior depend on
    the agent's. The rule uses only the instruction and is conservative.
    """
    request = parse_request(task.instruction)
    if request.identity is not None and request.goals:
        return True
    return _DEPENDS_ON_THE_AGENT.search(task.instruction) is None


def build_manifest(domain: Domain) -> dict[str, Any]:
    """The manifest of one domain.

    Returns:
        ``database_sha256``; ``files`` (content hashes of tables and tool schemas, byte hash of the policy);
        ``tasks`` (split to id to hash); ``do_nothing`` and ``scripted_user`` (split to ids: tasks that doing nothing
        solves, and tasks that the scripted user plays faithfully).
    """
    contents = {f"{name}.json": content_sha256(table) for name, table in domain.base.tables.items()}
    contents["tools.json"] = content_sha256(list(domain.tool_schemas))
    contents["policy.md"] = hashlib.sha256(domain.policy.encode()).hexdigest()
    return {
        "database_sha256": Database(domain.base).canonical_hash(),
        "files": contents,
        "tasks": {split: {task.id: task.sha256() for task in tasks} for split, tasks in domain.splits.items()},
        "do_nothing": {split: domain.do_nothing_ids(split) for split in domain.splits},
        "scripted_user": {
            split: [task.id for task in tasks if plays_faithfully(task)] for split, tasks in domain.splits.items()
        },
    }


@lru_cache(maxsize=1)
def stored_manifest() -> Mapping[str, Any]:
    """The manifest of the official data that is part of the package: ``commit``, ``retail``, ``airline``."""
    loaded: dict[str, Any] = json.loads(files("hero_envs.tau_bench").joinpath("manifest.json").read_text("utf-8"))
    return loaded


def do_nothing_floor(domain: Domain, split: str) -> float:
    """Fraction of a split's tasks that doing nothing solves, in [0, 1]; print it next to any score."""
    return len(domain.do_nothing_ids(split)) / len(domain.splits[split])

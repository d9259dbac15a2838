"""The package tau2-bench, its tasks and their splits, and the tasks that cannot be played in a given way.

Everything is read from the installed package and its data folder; nothing of them is stored here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCE = "tau2 @ git+https://github.com/sierra-research/tau2-bench@v0.2.0"
"""What pip installs with Python 3.10 and later; v1.0.1 needs Python 3.12."""
SPLITS = ("train", "validation", "test", "all")
UNSUPPORTED: Mapping[str, str] = {"banking_knowledge": "its tasks need a retrieval configuration each"}
"""Domain -> why it is refused."""
JUDGED = "NL_ASSERTION"
"""Part of a reward that a language model judges."""
_MODULES: Mapping[str, str] = {
    "registry": "tau2.registry",
    "message": "tau2.data_model.message",
    "simulation": "tau2.data_model.simulation",
    "evaluator": "tau2.evaluator.evaluator",
    "agent": "tau2.agent.llm_agent",
    "tool": "tau2.environment.tool",
    "user": "tau2.user.user_simulator",
    "utils": "tau2.utils.utils",
}


def tau2_bench() -> SimpleNamespace:
    """The modules of tau2-bench that the bridge uses, by the names in ``_MODULES``.

    Its log messages are switched off, also those of the import; ``loguru.logger.enable("tau2")`` shows them.

    Raises:
        ImportError: It is not installed, lacks a package, or another project has its name; says how to install it.
    """
    spec = importlib.util.find_spec("tau2")
    if spec is None:
        raise ImportError(f"tau2-bench is not installed: pip install '{SOURCE}'")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any((folder / "registry.py").is_file() for folder in folders):
        raise ImportError(
            "The installed package tau2 is another project (PyPI has one of this name), not tau2-bench: "
            f"pip uninstall tau2 && pip install '{SOURCE}'"
        )
    try:
        if "tau2" not in sys.modules:  # later it is the program's choice
            importlib.import_module("loguru").logger.disable("tau2")
        return SimpleNamespace(**{name: importlib.import_module(module) for name, module in _MODULES.items()})
    except ImportError as error:
        raise ImportError(f"tau2-bench cannot be imported ({error}): pip install '{SOURCE}'") from error


def made(tau2: SimpleNamespace, domain: str, solo: bool) -> Any:
    """The environment of a domain with a new database, its policy and its tools.

    Raises:
        ValueError: The domain does not exist, is not supported, or has no mode without a customer.
        FileNotFoundError: The data folder lacks a file.
    """
    if domain in UNSUPPORTED:
        raise ValueError(f"domain={domain!r} is not supported: {UNSUPPORTED[domain]}.")
    known = tau2.registry.registry.get_domains()
    if domain not in known:
        raise ValueError(f"domain={domain!r}: expected one of {', '.join(sorted(set(known) - set(UNSUPPORTED)))}.")
    try:
        return tau2.registry.registry.get_env_constructor(domain)(solo_mode=solo)
    except FileNotFoundError as error:
        raise _no_data(tau2, error) from error
    except ValueError as error:
        if not solo:
            raise
        raise ValueError(f"user='solo' with domain={domain!r}: {error}. Choose another user.") from error


def tasks_of(tau2: SimpleNamespace, domain: str, split: str) -> dict[str, Any]:
    """The tasks of a split by id, in the order of the domain's file.

    Where the installed version has a split ``test`` of the domain, that is the split; every fifth task of its ``train``
    is ``validation`` and the others ``train``. Elsewhere the position in the file decides: of five tasks the first is
    ``validation``, the fourth ``test``, and the others are ``train``. ``all`` is what the benchmark reports.

    Raises:
        ValueError: There is no such split.
        FileNotFoundError: The data folder lacks a file.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}.")
    registry = tau2.registry.registry
    try:
        tasks = {str(task.id): task for task in registry.get_tasks_loader(domain)()}
        loader = getattr(registry, "get_task_splits_loader", lambda _: None)(domain)  # v0.2.0 has no splits
        named: Mapping[str, Any] = loader() if loader is not None else {}
    except FileNotFoundError as error:
        raise _no_data(tau2, error) from error
    if split == "all":
        return tasks
    if {"train", "test"} <= named.keys():
        test = set(named["test"])
        train = [task for task in tasks if task in set(named["train"]) - test]
        held_out = train[::5]
        parts = {"test": test, "validation": set(held_out), "train": set(train) - set(held_out)}
        return {task: tasks[task] for task in tasks if task in parts[split]}
    of_five = {"validation": (0,), "test": (3,), "train": (1, 2, 4)}[split]
    return {task: tasks[task] for number, task in enumerate(tasks) if number % 5 in of_five}


def refusal(tau2: SimpleNamespace, task: Any, solo: bool, has_tools: bool, without_judge: bool) -> str:
    """Why a task is not played; empty if it is.

    Args:
        tau2: See :func:`tau2_bench`.
        task: A task of tau2-bench.
        solo: There is no customer, only the ticket.
        has_tools: The customer can use tools.
        without_judge: Leave assertions out that a language model would judge.
    """
    criteria = task.evaluation_criteria
    if criteria is None:
        return "it has nothing to evaluate"
    if task.initial_state is not None and task.initial_state.message_history:
        return "it begins in the middle of a conversation"
    basis = {part.value for part in criteria.reward_basis}
    if JUDGED in basis and criteria.nl_assertions and not without_judge:
        return "its reward needs a language model as judge; without_judge=true scores the other parts"
    if basis <= {JUDGED}:
        return "its reward has no part without a judge"
    if solo:
        if not task.ticket or not tau2.agent.LLMSoloAgent.check_valid_task(task):
            return "it has no ticket with actions that solve it"
        if "COMMUNICATE" in basis and criteria.communicate_info:
            return "its reward checks what the customer is told, and there is none"
    elif not has_tools and (
        any(action.requestor == "user" for action in criteria.actions or ())
        or any(assertion.env_type == "user" for assertion in criteria.env_assertions or ())
    ):
        return "its customer has to use tools, which needs user={llm: ...}, or user=solo"
    return ""


def without_judged(task: Any) -> tuple[Any, list[str]]:
    """The task with a reward that needs no judge, and the assertions that are left out of it."""
    criteria = task.evaluation_criteria
    basis = [part for part in criteria.reward_basis if part.value != JUDGED]
    if len(basis) == len(criteria.reward_basis):
        return task, []
    left_out = [str(text) for text in criteria.nl_assertions or ()]  # without any, this part is 1
    changed = criteria.model_copy(update={"reward_basis": basis})
    return task.model_copy(update={"evaluation_criteria": changed}), left_out


def _no_data(tau2: SimpleNamespace, error: FileNotFoundError) -> FileNotFoundError:
    return FileNotFoundError(
        f"{error.filename or error} is missing in the data of tau2-bench ({tau2.utils.DATA_DIR}). Set TAU2_DATA_DIR to "
        "the folder data of a checkout of the installed version; pip does not install it."
    )

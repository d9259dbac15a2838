"""Summarize evaluated episodes: metrics, intervals, and the notes printed with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hero_pl.chat.dialect import Dialect
from hero_pl.evaluation.metrics import PassAtK, PassHatK, scores
from hero_pl.evaluation.prompt_tokens import prompt_tokens
from hero_pl.runs.intervals import success_interval
from hero_pl.runs.records import evaluable, refused, succeeded
from hero_pl.types import Trajectory


def summarize(trajectories: list[Trajectory], dialect: Dialect | None = None) -> dict[str, Any]:
    """Summarize episodes; those that ended with an error of the environment or its user are counted separately.

    Args:
        trajectories: Finished episodes.
        dialect: Dialect of the policy that played them; adds ``tokens``, the tokens of each part of its contexts.

    Returns:
        ``success`` with its 95 % interval ``success_ci`` (its unit is a task), means of ``turns`` and ``reward``, the
        fractions of turns in ``metrics.TURN_SHARES``, ``invalid`` (replies per episode that were malformed or answered
        with an error), ``episodes`` (evaluable ones) and ``non_evaluable``. Where they apply: ``do_nothing_floor``;
        ``tasks``, the number of different tasks, if one was played more than once; ``user``, the kinds of user
        simulators; ``faithful_success`` and ``faithful_episodes``, over the tasks that a scripted user can play
        faithfully; ``pass_hat`` and ``pass_at`` by k, if every task was played more than once; and the minimum per task
        of ``planned_trials`` and ``evaluable_trials``, if some episodes are not evaluable.
    """
    judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
    count, tasks = len(judged), len({trajectory.task_id for trajectory in judged})
    result: dict[str, Any] = {
        **{name: float(scalar) for name, scalar in scores(trajectories).items()},
        "success_ci": list(success_interval((t.task_id, succeeded(t)) for t in judged)),
        "invalid": sum(refused(turn) for t in judged for turn in t.turns) / count if count else math.nan,
        "episodes": count,
        "non_evaluable": len(trajectories) - count,
    }
    if tasks < count:
        result["tasks"] = tasks
    users = sorted({str(t.info["user"]) for t in trajectories if "user" in t.info})
    if users:
        result["user"] = ", ".join(users)
    faithful = [t for t in judged if t.info.get("user_is_faithful")]
    if any("user_is_faithful" in t.info for t in judged) and len(faithful) < count:
        result["faithful_episodes"] = len(faithful)
        result["faithful_success"] = sum(map(succeeded, faithful)) / len(faithful) if faithful else math.nan
    result |= _repeated(trajectories)
    if dialect is not None:
        result["tokens"] = {name: float(scalar) for name, scalar in prompt_tokens(trajectories, dialect).items()}
    return result


def logged(result: Mapping[str, Any]) -> dict[str, float]:
    """The scalar values of :func:`summarize` and its token counts, for loggers."""
    plain = {name: float(value) for name, value in result.items() if isinstance(value, int | float)}
    return {name: value for name, value in (plain | result.get("tokens", {})).items() if not math.isnan(value)}


def _repeated(trajectories: list[Trajectory]) -> dict[str, Any]:
    """pass^k and pass@k for k up to the number of trials that every task has; empty if a task was planned only once."""
    planned = Counter(trajectory.task_id for trajectory in trajectories)
    left = Counter(trajectory.task_id for trajectory in trajectories if evaluable(trajectory))
    trials = min(planned.values(), default=0)
    if trials < 2:
        return {}
    fewest = min(trials, *(left[task] for task in planned))
    result: dict[str, Any] = {"planned_trials": trials, "evaluable_trials": fewest} if fewest < trials else {}
    for name, kind in ("pass_hat", PassHatK), ("pass_at", PassAtK):
        for k in range(1, fewest + 1):
            metric = kind(list(planned), k)
            metric.update(trajectories)
            result.setdefault(name, {})[str(k)] = round(float(metric.compute()), 6)
    return result


def remarks(result: dict[str, Any]) -> list[str]:
    """Notes to print with a success rate, one line each."""
    notes = []
    if "do_nothing_floor" in result:
        notes.append(f"Doing nothing would score {result['do_nothing_floor']:.3f} on the same episodes.")
    if "user" in result:
        notes.append(f"User: {result['user']}. Scores with another kind of user are not comparable.")
    if "faithful_success" in result:
        notes.append(
            f"This user plays {result['faithful_episodes']} of {result['episodes']} episodes faithfully; success there "
            f"is {result['faithful_success']:.3f}."
        )
    if "tasks" in result:
        notes.append(
            f"The {result['episodes']} episodes are of {result['tasks']} tasks. The interval counts each task once, "
            "since the same task played again tells nothing about other tasks."
        )
    if result["non_evaluable"]:
        notes.append(
            f"{result['non_evaluable']} more episodes ended with an error of the environment or its user: not scored."
        )
    if "planned_trials" in result:
        planned, fewest = result["planned_trials"], result["evaluable_trials"]
        reach = f"are computed up to k={fewest}" if fewest else "cannot be computed"
        notes.append(f"After such errors a task has {fewest} of its {planned} trials left: pass^k and pass@k {reach}.")
    for name, title in (("pass_hat", "pass^k"), ("pass_at", "pass@k")):
        if name in result:
            notes.append(f"{title}: " + ", ".join(f"k={k} {value:.3f}" for k, value in result[name].items()))
    if result.get("tokens"):
        parts = (f"{name.removesuffix('_tokens').replace('_', ' ')} {n:.0f}" for name, n in result["tokens"].items())
        notes.append("Tokens, mean per episode or observation: " + ", ".join(parts))
    return notes

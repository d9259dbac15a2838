"""What evaluated episodes say about a policy: figures, intervals, and the lines that belong beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hero_pl.evaluation.metrics import PassAtK, PassHatK, scores
from hero_pl.evaluation.prompt_tokens import prompt_tokens
from hero_pl.policy.base import Policy
from hero_pl.runs.intervals import wilson
from hero_pl.runs.records import evaluable, refused, succeeded
from hero_pl.types import Trajectory


def summarize(trajectories: list[Trajectory], policy: Policy | None = None) -> dict[str, Any]:
    """What episodes say about a policy; those that the environment or its user broke are counted apart.

    Args:
        trajectories: Finished episodes.
        policy: The one that played them, loaded; adds ``tokens``, what its contexts are spent on.

    Returns:
        ``success`` with its 95 % Wilson interval ``success_ci``, means of ``turns`` and ``reward``, what is counted per
        turn (``metrics.TURN_SHARES``), ``invalid`` (replies per episode that were no action, or that the environment
        refused), ``episodes`` (evaluable ones) and ``non_evaluable``. Where they apply: ``do_nothing_floor``; ``user``,
        the kinds of user simulators; ``faithful_success`` and ``faithful_episodes``, over the tasks that a scripted
        user can play; ``pass_hat`` and ``pass_at`` by k, when every task was played more than once; ``planned_trials``
        and ``evaluable_trials`` per task at least, when broken episodes left fewer than planned.
    """
    judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
    wins, count = sum(map(succeeded, judged)), len(judged)
    result: dict[str, Any] = {
        **{name: float(scalar) for name, scalar in scores(trajectories).items()},
        "success_ci": list(wilson(wins, count)),
        "invalid": sum(refused(turn) for t in judged for turn in t.turns) / count if count else math.nan,
        "episodes": count,
        "non_evaluable": len(trajectories) - count,
    }
    users = sorted({str(t.info["user"]) for t in trajectories if "user" in t.info})
    if users:
        result["user"] = ", ".join(users)
    faithful = [t for t in judged if t.info.get("user_is_faithful")]
    if any("user_is_faithful" in t.info for t in judged) and len(faithful) < count:
        result["faithful_episodes"] = len(faithful)
        result["faithful_success"] = sum(map(succeeded, faithful)) / len(faithful) if faithful else math.nan
    result |= _repeated(trajectories)
    if policy is not None:
        result["tokens"] = {name: float(scalar) for name, scalar in prompt_tokens(trajectories, policy).items()}
    return result


def logged(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of :func:`summarize` that every logger gets, whatever evaluated: those that are plain, and tokens."""
    plain = {name: float(value) for name, value in result.items() if isinstance(value, int | float)}
    return {name: value for name, value in (plain | result.get("tokens", {})).items() if not math.isnan(value)}


def _repeated(trajectories: list[Trajectory]) -> dict[str, Any]:
    """pass^k and pass@k up to the trials that every task has; nothing if one was meant to be played only once."""
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
    """What belongs beside a success rate, one line each."""
    said = []
    if "do_nothing_floor" in result:
        said.append(f"Doing nothing would score {result['do_nothing_floor']:.3f} on the same episodes.")
    if "user" in result:
        said.append(f"User: {result['user']}. Scores with another kind of user are not comparable.")
    if "faithful_success" in result:
        said.append(
            f"This user plays {result['faithful_episodes']} of {result['episodes']} episodes faithfully; success there "
            f"is {result['faithful_success']:.3f}."
        )
    if result["non_evaluable"]:
        said.append(f"{result['non_evaluable']} more episodes were broken by the environment or its user: not scored.")
    if "planned_trials" in result:
        planned, fewest = result["planned_trials"], result["evaluable_trials"]
        reach = f"go up to k={fewest}" if fewest else "cannot be told"
        said.append(f"Broken episodes left a task {fewest} of its {planned} trials: pass^k and pass@k {reach}.")
    for name, title in (("pass_hat", "pass^k"), ("pass_at", "pass@k")):
        if name in result:
            said.append(f"{title}: " + ", ".join(f"k={k} {value:.3f}" for k, value in result[name].items()))
    if result.get("tokens"):
        parts = (f"{name.removesuffix('_tokens').replace('_', ' ')} {n:.0f}" for name, n in result["tokens"].items())
        said.append("Tokens, mean per episode or observation: " + ", ".join(parts))
    return said

"""One precision for everything that runs the policy: rollouts, reviews, teacher, student, evaluations."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hero_pl.batch import tokenize
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.sampler import CachedSampler
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.limits import Limits
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher
from hero_pl.teacher.weights import InitialWeights
from hero_pl.types import ScoreRow


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("bf16-true", torch.bfloat16)]
)
def test_every_pass_of_a_run_has_the_precision_of_the_trainer(
    tiny_module, tiny_data, fit, precision: str, dtype: torch.dtype
) -> None:
    reviewer = SelfReflector(mode="continue", tokens_per_turn=1)
    objective = SelfDistillation(reviewer, FeedbackOnlyTeacher(), InitialWeights(), teacher_scoring="separate")
    module = tiny_module(objective)
    seen: set[tuple[str, torch.dtype]] = set()
    what = ["loading"]

    def watch(model: Any) -> None:
        model.model.layers[0].mlp.up_proj.register_forward_hook(
            lambda _, given, found: seen.add((what[0], found.dtype))
        )

    def during(owner: Any, name: str, words: str) -> None:
        inner = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            before, what[0] = what[0], words
            try:
                return inner(*args, **kwargs)
            finally:
                what[0] = before

        setattr(owner, name, run)

    data = tiny_data(eval_episodes=1)
    during(data.collector("train"), "collect", "rollout")
    during(data.collector("validate"), "collect", "evaluation")
    during(reviewer, "reflect", "review")
    during(objective.weights, "scores", "teacher")
    during(objective, "loss", "student")
    start = objective.start

    def started(policy: Any) -> None:
        start(policy)
        watch(policy.network.model)
        watch(policy.network.copies["initial"])

    objective.start = started  # type: ignore[method-assign]
    fit(module, data, 1, precision=precision, limit_val_batches=1, val_check_interval=1, num_sanity_val_steps=0)
    assert seen == {(part, dtype) for part in ("rollout", "evaluation", "review", "teacher", "student")}


def rows_of(length: int) -> list[ScoreRow]:
    return [ScoreRow(tuple(range(length)), ((length - 2, length),))]


class Casts(TorchDispatchMode):
    """Counts how often each weight is converted to bfloat16."""

    def __init__(self, weights: dict[int, str]) -> None:
        super().__init__()
        self.weights, self.found = weights, dict.fromkeys(weights.values(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        kinds = ("aten::_to_copy", "aten::to")  # the second in inference mode
        if func.name().split(".")[0] in kinds and args[0].data_ptr() in self.weights and found is not args[0]:
            self.found[self.weights[args[0].data_ptr()]] += 1
        return found


def test_weights_are_cast_once_per_rollout_and_not_per_token(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    policy.template.end_ids = frozenset()
    matrices = {w.data_ptr(): name for name, w in policy.named_parameters() if "proj" in name}
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), Casts(matrices) as seen, policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 6), [1, 2])
        session.act([0, 1], [(1, 2, 3), (4, 5)])
    assert set(seen.found.values()) == {1}


def test_what_was_cast_without_gradients_is_not_used_by_the_student(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    with torch.autocast("cpu", torch.bfloat16):  # a cache around all of it, unlike that of Lightning
        with policy.sampling():
            policy.score(rows_of(8))
        policy.score(rows_of(8)).float().sum().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in policy.parameters())


def test_bug_847_playing_elsewhere_does_not_change_the_default_type_of_the_process(tiny_module, tiny_data, fit) -> None:
    types = set()

    class Elsewhere(CachedSampler):
        in_process = False

        def open(self, *args, **kwargs):
            types.add(torch.get_default_dtype())
            return super().open(*args, **kwargs)

    module, data = tiny_module(), tiny_data()
    module.policy.sampler = Elsewhere()
    fit(module, data, 1, precision="bf16-true")
    data.evaluate(module.policy, "test", 1)
    assert types == {torch.float32}


def test_counts_and_advantages_do_not_depend_on_the_precision(tiny_module, tiny_data, fit, monkeypatch) -> None:
    module = tiny_module(PolicyGradient("none"))
    fit(module, tiny_data(tasks_per_step=87, max_action_tokens=1, limits=Limits(3, 87)), 1, precision="bf16-true")
    assert module.turns == 3 * 87  # bfloat16 has 260 and 262
    torch.set_default_dtype(torch.bfloat16)
    try:
        given = [0.1, 0.3]
        data = tiny_data()
        played = data.collector("train").collect(data.specs(0), module.policy, Sampling(1.0, 1))
        batch = tokenize(played, None, module.policy.dialect, advantage=given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert batch.advantage.unique().tolist() == torch.tensor(given, dtype=torch.float32).tolist()

"""Logits that are computed in parts change the memory that is needed, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.losses import ForwardKL, JensenShannon, SampledToken
from hero_pl.losses.gates import Contrastive, HighEntropy, SigmoidGap, StepDivergence, TeacherConfidence
from hero_pl.objectives.base import Objective
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.scalars import measured
from hero_pl.teacher.weights import InitialWeights, TrustRegionWeights


@pytest.fixture(scope="module")
def shop():
    return Collector("hero_pl/WebShopPocket-v0", {}, split="train", limits=Limits(max_turns=3))


def one_step(objective: Objective, policy: Any, shop: Collector, plain: bool) -> tuple[Any, dict[str, Any], int]:
    """Loss of a whole batch, gradients by name, and the most tokens that went through the output layer at once."""
    policy.load()
    policy.network.projects &= plain
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(shop.task_ids[:3])]
    played = shop.collect(specs, policy, Sampling(0.8, 4))
    played = [replace(trajectory, reward=float(i)) for i, trajectory in enumerate(played)]
    objective.start(policy)
    step = objective.prepare(played, policy, lambda local: local)
    rows = [0]
    handle = policy.network.model.get_output_embeddings().register_forward_hook(
        lambda _, given, __: rows.append(given[0][..., 0].numel())
    )
    output = objective.loss(policy, step.batch)
    handle.remove()
    output.loss.backward()
    return output, {name: p.grad for name, p in policy.named_parameters()}, max(rows)


def hero(**settings: Any) -> SelfDistillation:
    return SelfDistillation(ShopRules(), probe_turns=0, **settings)


OBJECTIVES = {
    "jsd": hero,
    "forward kl": lambda: hero(divergence=ForwardKL(), weights=InitialWeights()),
    "top k": lambda: hero(divergence=JensenShannon(support="student", top_k=5), teacher_scoring="tree_mask"),
    "sampled token": lambda: hero(divergence=SampledToken()),
    "subtract": lambda: hero(scaffold="subtract"),
    "trust region": lambda: hero(weights=TrustRegionWeights()),
    "contrastive": lambda: hero(gate=Contrastive()),
    "high entropy": lambda: hero(gate=HighEntropy(0.5)),
    "sigmoid gap": lambda: hero(gate=SigmoidGap()),
    "step divergence": lambda: hero(gate=StepDivergence()),
    "confidence": lambda: hero(gate=TeacherConfidence()),
    "mixed": lambda: Mixed(reflector=ShopRules(), probe_turns=0),
    "credit": lambda: Credit(reflector=ShopRules(), probe_turns=0),
    "reinforce": lambda: PolicyGradient("none", beta_kl=0.1),
    "gspo": lambda: PolicyGradient("none", ratio_level="sequence"),
    "sft": SFT,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_gradients_and_records_are_those_of_all_logits(name, tiny_policy, shop) -> None:
    def run(logits_at_once: int, plain: bool) -> Any:
        torch.manual_seed(0)
        return one_step(OBJECTIVES[name](), tiny_policy(logits_at_once=logits_at_once), shop, plain)

    whole, slopes, rows = run(0, plain=False)
    steepest = max(float(slope.abs().max()) for slope in slopes.values())
    assert steepest > 0.0
    for at_once in (0, 3):
        parts, part_slopes, part_rows = run(at_once, plain=True)
        assert rows > 3 > part_rows == 0, "the output layer never sees all tokens"
        torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-5, atol=1e-6)
        for record in ("per_token", "student_logprobs", "teacher_logprobs"):
            torch.testing.assert_close(getattr(parts, record), getattr(whole, record), rtol=1e-4, atol=1e-5)
        assert measured(parts.metrics) == pytest.approx(measured(whole.metrics), rel=1e-4, abs=1e-6)
        for parameter, slope in slopes.items():
            torch.testing.assert_close(part_slopes[parameter], slope, rtol=1e-3, atol=1e-4 * steepest)


def test_a_number_below_zero_is_refused(tiny_policy) -> None:
    with pytest.raises(ConfigError, match="logits_at_once=-1"):
        tiny_policy(logits_at_once=-1)


def test_a_head_that_is_no_plain_projection_is_scored_as_a_whole_or_refused(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    head = policy.network.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    assert not policy.network.plain_head
    with pytest.raises(PolicyError, match="logits_at_once"):
        policy.network.check_plain_head()


def test_by_default_the_number_of_tokens_follows_the_vocabulary(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    hidden, head = torch.zeros(2, 4), torch.nn.Linear(4, 1 << 17, bias=False)
    policy.network.head_weight = lambda weights: head.weight
    assert policy.network.projected(hidden).at_once == 128
    head = torch.nn.Linear(4, 1 << 10, bias=False)
    assert policy.network.projected(hidden).at_once == 1 << 11


class Softmaxes(TorchDispatchMode):
    """Counts the rows of which log-probabilities are made."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.rows += found.shape[0] if func is torch.ops.aten._log_softmax.default else 0
        return found


@pytest.mark.parametrize(
    ("name", "sides"),
    [("sampled token", 2), ("sigmoid gap", 2), ("confidence", 2), ("contrastive", 3), ("high entropy", 3)],
)
def test_corrections_and_gates_of_single_tokens_read_the_log_probabilities_of_the_loss(
    name, sides, tiny_policy, shop
) -> None:
    policy, objective = tiny_policy(logits_at_once=3), OBJECTIVES[name]()
    policy.load()
    played = shop.collect(
        [EpisodeSpec(task, i, i) for i, task in enumerate(shop.task_ids[:2])], policy, Sampling(1.0, 4)
    )
    objective.start(policy)
    batch = objective.prepare(played, policy, lambda local: local).batch
    with Softmaxes() as seen:
        objective.loss(policy, batch).loss.backward()
    assert seen.rows == sides * len(batch)  # the wrong hint is one more; entropies are compared before the loss

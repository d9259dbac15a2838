"""What each objective learns from a batch without any success, and from a single trajectory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import DistillationLoss, ForwardKL, JensenShannon, SampledToken, Scores
from hero_pl.objectives.base import Objective
from hero_pl.objectives.policy_gradient import GRPO, RLOO, PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.teacher.weights import GatedWeights, LiveWeights, TrustRegionWeights
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn


@pytest.fixture
def policy() -> ScriptedPolicy:
    """A bigram model with random logits: a hint before the generation prompt has no effect."""
    made = ScriptedPolicy()
    made.load()
    torch.nn.init.normal_(made.table.weight, generator=torch.Generator().manual_seed(0))
    return made


def episode(policy: ScriptedPolicy, reply: str, reward: float, group: int = 0) -> Trajectory:
    prompt = policy.template.first_prompt("", "hi")
    ids = (*policy.template.encoder.encode_untrusted(reply), int(policy.template.tokenizer.eos_token_id))
    turn = Turn(1, prompt, ids, (-5.0,) * len(ids), reply, reply, "no", "user")
    return Trajectory("t", "e", 0, group, "", (), "hi", (turn,), reward, StopReason.TERMINATED)


def gradient(objective: Objective, policy: ScriptedPolicy, trajectories: list[Trajectory]) -> torch.Tensor:
    policy.zero_grad()
    step = objective.prepare(trajectories, policy, lambda local: local)
    objective.loss(policy, step.batch).loss.backward()
    assert policy.table.weight.grad is not None
    return policy.table.weight.grad.clone()


class SharperTeacher(SelfDistillation):
    """HERO with a teacher that disagrees by construction, because a bigram model cannot read a hint."""

    def start_disagreeing(self) -> "SharperTeacher":
        scores = self.weights.scores
        self.weights.scores = lambda policy, rows: Scores(2.0 * scores(policy, rows).logits())  # type: ignore[method-assign]
        return self


def hero(count: int, divergence: DistillationLoss | None = None) -> SelfDistillation:
    reflections = [Reflection((Diagnosis("a miss", "high"),), "ok")] * count
    return SharperTeacher(ScriptedReflector(reflections), divergence=divergence).start_disagreeing()


@pytest.mark.parametrize(
    ("divergence", "names"),
    [
        (JensenShannon(), {"loss/max_token"}),
        (ForwardKL(clip_mode="token", clip=0.5), {"loss/max_token", "clip/capped_fraction"}),
        (JensenShannon(support="student", top_k=3), {"loss/max_token", "topk/student_mass", "topk/teacher_mass"}),
        (SampledToken(), {"sampled/log_ratio_mean"}),
    ],
    ids=["full", "clipped", "top-k", "sampled"],
)
def test_what_a_loss_says_of_itself_is_logged_under_its_own_names(policy, divergence, names) -> None:
    objective = hero(1, divergence=divergence)
    step = objective.prepare([episode(policy, "try", 0.0)], policy, lambda local: local)
    logged = objective.loss(policy, step.batch).metrics
    assert {name for name in logged if name.partition("/")[0] not in ("teacher", "mismatch")} == names
    assert all(name.count("/") == 1 for name in logged)
    if "loss/max_token" in names:
        assert float(logged["loss/max_token"]) == float(divergence.diagnostics["loss/max_token"]) > 0.0


@pytest.mark.parametrize("size", [1, 4])
def test_hindsight_learns_from_failures_alone_and_from_a_single_episode(policy: ScriptedPolicy, size: int) -> None:
    objective = hero(size)
    objective.check(1)
    assert gradient(objective, policy, [episode(policy, f"try {i}", 0.0) for i in range(size)]).abs().max() > 0


def test_a_step_tells_only_the_hints_that_the_teacher_reads(policy: ScriptedPolicy) -> None:
    policy.max_length = 600
    texts = ("a miss", "too long " * policy.max_length, "weight 0")
    reflections = [Reflection((Diagnosis(text, "low" if "0" in text else "high"),), "ok") for text in texts]
    objective = SelfDistillation(ScriptedReflector(reflections), confidence_weights={"low": 0.0})
    step = objective.prepare([episode(policy, "try", 0.0) for _ in texts], policy, lambda local: local)
    assert step.hints is not None
    (read,), *others = step.hints
    assert read is not None
    assert "a miss" in read.text
    assert others == [[None], [None]]


@pytest.mark.parametrize(("weights", "passes"), [(LiveWeights, 1), (TrustRegionWeights, 2)])
def test_bug_53_the_tokens_of_a_teacher_count_once_per_pass(policy, weights, passes) -> None:
    objective = hero(1)
    objective.weights = weights()
    step = objective.prepare([episode(policy, "try", 0.0)], policy, lambda local: local)
    assert float(step.metrics["teacher/tokens"]) == passes * sum(len(row.ids) for row in step.batch.teacher) > 0


def test_a_teacher_that_is_never_refreshed_says_so_at_every_step(policy: ScriptedPolicy) -> None:
    objective = hero(3)
    objective.weights = GatedWeights(sync_every=1)
    objective.weights.scores = LiveWeights().scores  # type: ignore[method-assign]  # a table of bigrams has no copies
    seen = []
    for _ in range(3):
        step = objective.prepare([episode(policy, "try", 0.0)], policy, lambda local: local)
        seen.append(float(step.metrics["teacher/refused_refreshes"]))
        objective.after_step(policy)
    assert seen == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "objective", [GRPO(), GRPO(scale_rewards="none"), GRPO(scale_rewards="mean"), RLOO(), GRPO(zero_variance="mask")]
)
def test_group_baselines_learn_exactly_nothing_where_rewards_are_equal(
    policy: ScriptedPolicy, objective: Objective
) -> None:
    for reward in (0.0, 1.0):
        trajectories = [episode(policy, f"try {i}", reward) for i in range(4)]
        step = objective.prepare(trajectories, policy, lambda local: local)
        assert float(step.metrics["rollout/frac_reward_zero_std"]) == 1.0
        if len(step.batch):
            assert not gradient(objective, policy, trajectories).any()
    mixed = [episode(policy, f"try {i}", float(i == 0)) for i in range(4)]
    assert gradient(objective, policy, mixed).abs().max() > 0


@pytest.mark.parametrize("objective", [GRPO(), RLOO()])
def test_bug_26_group_baselines_refuse_groups_of_one(objective: Objective) -> None:
    with pytest.raises(ConfigError, match="group_size"):
        objective.check(1)
    objective.check(2)


def test_reinforce_works_with_groups_of_one(policy: ScriptedPolicy) -> None:
    objective = PolicyGradient("none")
    objective.check(1)
    assert gradient(objective, policy, [episode(policy, "yes", 1.0)]).abs().max() > 0


@pytest.mark.parametrize("kind", ["batch", "running"])
def test_a_baseline_is_that_of_all_ranks(policy: ScriptedPolicy, kind: Literal["batch", "running"]) -> None:
    episodes = [episode(policy, f"try {i}", reward) for i, reward in enumerate((0.0, 1.0, 1.0, 0.5, 0.25, 0.75))]

    def advantages(objective: PolicyGradient, mine: list[Trajectory], elsewhere: list[Trajectory]) -> list[float]:
        other = torch.tensor([sum(t.reward for t in elsewhere), len(elsewhere)], dtype=torch.float64)
        return list(objective.term(mine, lambda local: local + other)[0].advantage)

    whole, first, second = (PolicyGradient(kind) for _ in range(3))
    for _ in range(2):  # the running mean moves on alike
        result = advantages(first, episodes[:2], episodes[2:]) + advantages(second, episodes[2:], episodes[:2])
        assert result == pytest.approx(advantages(whole, episodes, []))


@pytest.mark.parametrize("make", [PolicyGradient, GRPO])
def test_episodes_that_ended_at_a_limit_can_be_left_out(policy: ScriptedPolicy, make: Callable[..., Objective]) -> None:
    whole = [episode(policy, f"try {i}", float(i)) for i in range(2)]
    cut = [replace(one, stop_reason=StopReason.MAX_TURNS) for one in whole[1:]]
    for masked, left in ((False, 2), (True, 1)):
        step = make(mask_truncated=masked).prepare([whole[0], *cut], policy, lambda local: local)
        assert len(step.batch.trajectory.unique()) == left
        assert float(step.metrics["rollout/masked_episodes"]) == 2.0 - left


@pytest.mark.parametrize("make", [SelfDistillation, SFT, RLOO, GRPO, PolicyGradient])
def test_bug_746_a_constant_belongs_to_its_normalization(make: Callable[..., Objective]) -> None:
    with pytest.raises(ConfigError, match="constant"):
        make(normalize="seq_mean_token_sum_norm")
    make(normalize="seq_mean_token_sum_norm", constant=100.0)
    with pytest.raises(ConfigError, match=r"constant=100.0 with normalize=token_mean: only seq_mean_token_sum_norm"):
        make(normalize="token_mean", constant=100.0)


@pytest.mark.parametrize(
    ("normalize", "differs"),
    [("seq_mean_token_mean_keep_empty", False), ("seq_mean_token_sum_norm", False), ("token_mean", True)],
)
def test_bug_746_masking_equal_groups_changes_only_denominators_that_are_not_fixed(
    normalize, differs, policy: ScriptedPolicy
) -> None:
    constant = 7.0 if normalize == "seq_mean_token_sum_norm" else None
    batch = [episode(policy, f"try {i}", float(i == 0), group=i // 2) for i in range(4)]
    kept, masked = (GRPO(zero_variance=choice, normalize=normalize, constant=constant) for choice in ("keep", "mask"))
    assert torch.equal(gradient(kept, policy, batch), gradient(masked, policy, batch)) != differs
    steps = [one.prepare(batch, policy, lambda local: local) for one in (kept, masked)]
    assert [len(step.batch.student) for step in steps] == [4, 2]  # the others are not scored


def test_low_confidence_can_be_weighted_out_of_the_loss(policy: ScriptedPolicy) -> None:
    diagnoses = [Reflection((Diagnosis("x", "low"),), "ok"), Reflection((Diagnosis("x", "high"),), "ok")]
    objective = SelfDistillation(ScriptedReflector(diagnoses), confidence_weights={"low": 0.0})
    trajectories = [episode(policy, "a", 0.0), episode(policy, "b", 0.0)]
    batch = objective.prepare(trajectories, policy, lambda local: local).batch
    assert ([row.trajectory for row in batch.student], batch.turn_numbers) == ([1], (1,))


def test_failures_only_keeps_turns_with_another_action(policy: ScriptedPolicy) -> None:
    target = {"name": "x", "arguments": {}}
    given = [Reflection((Diagnosis("x", "high", t),), "ok") for t in (None, target)]
    objective = SelfDistillation(ScriptedReflector(given), failures_only=True)
    trajectories = [episode(policy, "a", 0.0), episode(policy, "b", 0.0)]
    batch = objective.prepare(trajectories, policy, lambda local: local).batch
    assert ([row.trajectory for row in batch.student], batch.turn_numbers) == ([1], (1,))


def test_bug_817_rejection_sampling_keeps_successes_once_up_to_rounding(policy: ScriptedPolicy) -> None:
    won = sum([0.1] * 10)
    assert won < 1.0
    trajectories = [episode(policy, "good", won), episode(policy, "good", won), episode(policy, "bad", 0.9)]
    step = SFT(reward_threshold=1.0).prepare(trajectories, policy, lambda local: local)
    assert len(step.batch) == len(trajectories[0].turns[0].action_ids)
    assert float(step.metrics["sft/kept"]) == pytest.approx(1 / 3)

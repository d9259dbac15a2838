"""Two losses on one batch, each over its own tokens; and advantages that the teacher shapes."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses.base import action_log_probabilities
from hero_pl.losses.gates import SigmoidGap
from hero_pl.objectives.base import Objective
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO, PolicyGradient, SoftOverlong
from hero_pl.objectives.schedules import Blend, Schedule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.teacher.weights import TeacherWeights
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

REWARDS = (1.0, 0.0, 0.25, 0.25)
GROUPS = (0, 0, 1, 1)
HINTED = ((True, False), (False, True), (True, True), (False, False))


def episodes(policy: ScriptedPolicy) -> list[Trajectory]:
    """Four of two turns, in two groups; the second group has equal rewards."""
    result = []
    for i, (reward, group) in enumerate(zip(REWARDS, GROUPS, strict=True)):
        prompt = policy.template.first_prompt("", f"task {group}")
        turns = []
        for number in (1, 2):
            reply = f"say {i}{number}" * (1 + (i + number) % 3)
            ids = (*policy.template.encoder.encode_untrusted(reply), int(policy.template.tokenizer.eos_token_id))
            log_q = action_log_probabilities(policy.table(torch.tensor((prompt[-1], *ids[:-1]))), torch.tensor(ids))
            turns.append(Turn(number, prompt, ids, tuple(log_q.tolist()), reply, reply, "no", "user"))
            prompt = policy.template.next_prompt(prompt, ids, "no")
        result.append(Trajectory(f"t{group}", "e", i, group, "", (), "", tuple(turns), reward, StopReason.TERMINATED))
    return result


def settings(weights: TeacherWeights) -> dict[str, object]:
    reflections = [
        Reflection(tuple(Diagnosis(f"note {i}{j}", "high") if hinted else None for j, hinted in enumerate(row)), "ok")
        for i, row in enumerate(HINTED)
    ]
    return {"reflector": ScriptedReflector(reflections * 2), "weights": weights, "normalize": "traj_mean_turn_mean"}


def gradient(objective: Objective, policy: ScriptedPolicy, max_tokens: int = 10**6) -> torch.Tensor:
    policy.zero_grad()
    step = objective.prepare(episodes(policy), policy, lambda local: local)
    for micro in step.batch.split(max_tokens):
        objective.loss(policy, micro).loss.backward()
    assert policy.table.weight.grad is not None
    return policy.table.weight.grad.clone()


@pytest.mark.parametrize(("mix", "of_policy"), [("convex", 0.3), ("additive", 1.0)])
@pytest.mark.parametrize("zero_variance", ["keep", "mask"])
@pytest.mark.parametrize("max_tokens", [1, 10**6])
def test_a_mix_is_the_weighted_sum_of_both_gradients_each_with_its_own_denominator(
    bigrams: ScriptedPolicy, doubled: TeacherWeights, mix, of_policy, zero_variance, max_tokens
) -> None:
    estimator = GRPO(normalize="token_mean", zero_variance=zero_variance)
    alone = [gradient(estimator, bigrams), gradient(SelfDistillation(**settings(doubled)), bigrams)]
    assert all(part.abs().max() > 0 for part in alone)
    mixed = Mixed(estimator, distillation_weight=0.7, mix=mix, **settings(doubled))
    mixed.check(2)
    torch.testing.assert_close(gradient(mixed, bigrams, max_tokens), of_policy * alone[0] + 0.7 * alone[1])


def test_the_student_is_scored_once_and_only_hinted_tokens_have_a_teacher(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    objective = Mixed(PolicyGradient("none"), **settings(doubled))
    step = objective.prepare(episodes(bigrams), bigrams, lambda local: local)
    lengths = [len(turn.action_ids) for trajectory in episodes(bigrams) for turn in trajectory.turns]
    hinted = [length for length, shown in zip(lengths, sum(HINTED, ()), strict=True) if shown]
    assert len(step.batch) == sum(lengths)
    assert int(step.batch.teacher_mask.sum()) == sum(hinted) == sum(row.scored for row in step.batch.teacher)
    out = objective.loss(bigrams, step.batch)
    assert torch.equal(out.per_token.isnan(), ~step.batch.teacher_mask)
    assert torch.equal(out.teacher_logprobs.isnan(), ~step.batch.teacher_mask)
    assert not out.student_logprobs.isnan().any()
    assert float(step.metrics["hero/hinted_turns"]) == pytest.approx(4 / 8)


def test_without_any_hint_only_the_policy_gradient_remains(bigrams: ScriptedPolicy) -> None:
    silent = ScriptedReflector([Reflection((None, None), "rejected")] * 4)
    estimator = PolicyGradient("none")
    mixed = Mixed(estimator, distillation_weight=0.5, reflector=silent)
    torch.testing.assert_close(gradient(mixed, bigrams), 0.5 * gradient(estimator, bigrams))


def test_bug_771_batches_without_a_hint_are_told_where_the_policy_gradient_goes_on(bigrams: ScriptedPolicy) -> None:
    silent = [Reflection((None, None), "rejected", issues=(("no_json", 0),))] * 4
    hint = [Reflection((Diagnosis("note", "high"), None), "ok")] * 4
    once = [*silent * 7, *hint, *silent * 9]  # eight in a row only at the end
    for kind in (Mixed, Credit):
        objective = kind(policy_gradient=PolicyGradient("none"), reflector=ScriptedReflector(once))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(15):
                objective.prepare(episodes(bigrams), bigrams, lambda local: local)
        with pytest.warns(UserWarning, match=r"only the policy gradient learns.*'reflection/issues/no_json': 4\.0"):
            objective.prepare(episodes(bigrams), bigrams, lambda local: local)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once
            objective.prepare(episodes(bigrams), bigrams, lambda local: local)


def test_a_weight_that_does_not_suit_the_mix_is_refused() -> None:
    with pytest.raises(ConfigError, match="distillation_weight"):
        Mixed(distillation_weight=1.5, mix="convex")
    Mixed(distillation_weight=1.5, mix="additive")


def test_bug_82_the_weight_of_the_distillation_follows_the_optimizer_steps(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    estimator = GRPO(normalize="token_mean")
    alone = [gradient(estimator, bigrams), gradient(SelfDistillation(**settings(doubled)), bigrams)]
    decay = Schedule(0.8, 0.2, "linear", begin=1, steps=2)
    for version, weight in ((0, 0.8), (2, 0.5), (7, 0.2)):
        bigrams.version = version  # what a checkpoint keeps, so a resumed run has the same weight
        mixed = Mixed(estimator, distillation_weight=decay, mix="additive", **settings(doubled))
        torch.testing.assert_close(gradient(mixed, bigrams), alone[0] + weight * alone[1])
        step = mixed.prepare(episodes(bigrams), bigrams, lambda local: local)
        assert float(step.metrics["schedule/distillation_weight"]) == pytest.approx(weight)


@pytest.mark.parametrize("max_tokens", [1, 10**6])
@pytest.mark.parametrize("weight", [Schedule(0.8, 0.0, "linear", steps=2), 0.0])
def test_bug_84_and_867_a_teacher_that_was_let_go_is_not_asked_again(
    bigrams: ScriptedPolicy, doubled: TeacherWeights, weight, max_tokens
) -> None:
    estimator = GRPO(normalize="token_mean")
    mixed = Mixed(estimator, distillation_weight=weight, **settings(doubled))
    bigrams.version = 2
    step = mixed.prepare(episodes(bigrams), bigrams, lambda local: local)
    assert step.reflections is None
    assert step.batch.teacher == ()
    torch.testing.assert_close(gradient(mixed, bigrams, max_tokens), gradient(estimator, bigrams))


def test_confidence_and_normalization_follow_the_optimizer_steps(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    def objective(normalize: str, **options: object) -> SelfDistillation:
        return SelfDistillation(**{**settings(doubled), "normalize": normalize, **options})

    plain, turns = (gradient(objective(mode), bigrams) for mode in ("token_mean", "traj_mean_turn_mean"))
    bigrams.version = 1
    moving = objective(
        "token_mean",
        blend=Blend("traj_mean_turn_mean", Schedule(0.0, 1.0, "linear", steps=4)),
        confidence_weights={"high": Schedule(0.6, warmup_steps=4)},
    )
    torch.testing.assert_close(gradient(moving, bigrams), 0.3 * (0.75 * plain + 0.25 * turns))
    metrics = moving.prepare(episodes(bigrams), bigrams, lambda local: local).metrics
    assert {name: float(one) for name, one in metrics.items() if name.startswith("schedule/")} == {
        "schedule/confidence_high": pytest.approx(0.3),
        "schedule/blend": 0.25,
    }


def test_both_parts_are_checked_and_saved(doubled: TeacherWeights) -> None:
    with pytest.raises(ConfigError, match="group_size"):
        Mixed(GRPO(), **settings(doubled)).check(1)
    first, second = (Mixed(PolicyGradient("running"), **settings(doubled)) for _ in range(2))
    first.policy_gradient.advantages(torch.tensor([1.0]), torch.tensor([0]))
    second.load_state_dict(first.state_dict())
    assert second.policy_gradient.baseline.running_mean == first.policy_gradient.baseline.running_mean != 0.0


def test_bug_761_a_rollback_takes_back_the_baseline_that_followed_the_collapse(bigrams: ScriptedPolicy) -> None:
    silent = [Reflection((None, None), "rejected")] * 12
    for kind in (Mixed, Credit):
        objective = kind(policy_gradient=PolicyGradient("running"), reflector=ScriptedReflector(silent))
        objective.prepare(episodes(bigrams), bigrams, lambda local: local)
        good, mean = objective.state_dict(), objective.policy_gradient.baseline.running_mean
        lost = [replace(one, reward=-1.0) for one in episodes(bigrams)]
        objective.prepare(lost, bigrams, lambda local: local)
        assert objective.policy_gradient.baseline.running_mean < mean
        objective.roll_back(good)
        assert objective.policy_gradient.baseline.running_mean == mean
        assert objective.reflector.state_dict() == {"used": 8}  # goes on


# -- credit ----------------------------------------------------------------------------------------------------------


def credited(policy: ScriptedPolicy, weights: TeacherWeights, **options: object):
    """The batch of a credit objective, and the gap of each hinted token computed by hand."""
    objective = Credit(**{"policy_gradient": PolicyGradient("batch"), **options}, **settings(weights))
    batch = objective.prepare(episodes(policy), policy, lambda local: local).batch
    logits = policy.score(batch.student)
    gap = action_log_probabilities(2.0 * logits, batch.action_ids) - action_log_probabilities(logits, batch.action_ids)
    plain = torch.tensor(REWARDS)[batch.trajectory] - sum(REWARDS) / 4
    return batch, gap.detach(), plain, objective


def test_reweighting_never_flips_the_sign_of_an_advantage_and_leaves_unhinted_turns_alone(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    batch, gap, plain, _ = credited(bigrams, doubled, rule="advantage_reweight", strength=0.9, scale=0.1)
    factor = batch.advantage / plain
    assert factor.min() >= 0.1 - 1e-6
    assert factor.max() <= 1.9 + 1e-6
    torch.testing.assert_close(factor[~batch.teacher_mask], torch.ones(int((~batch.teacher_mask).sum())))
    endorsed = gap * plain.sign() > 0
    assert (factor[batch.teacher_mask & endorsed] > 1).all()
    assert (factor[batch.teacher_mask & ~endorsed] < 1).all()
    assert batch.coefficient.sum().item() == pytest.approx(1.0)
    assert batch.teacher == ()  # the loss pays for no second pass


def test_magnitudes_take_the_sign_from_the_reward_and_the_size_from_the_gap(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    batch, gap, plain, _ = credited(bigrams, doubled, rule="gap_magnitude", cap=1.5)
    hinted = batch.teacher_mask
    assert gap[hinted].abs().max() > 1.5
    torch.testing.assert_close(batch.advantage[hinted], plain[hinted].sign() * gap[hinted].abs().clamp(max=1.5))
    assert not batch.coefficient[~hinted].any()
    assert batch.coefficient.sum().item() == pytest.approx(1.0)


def test_rlsd_multiplies_each_advantage_by_the_clipped_ratio(bigrams: ScriptedPolicy, doubled: TeacherWeights) -> None:
    batch, gap, plain, _ = credited(bigrams, doubled, rule="rlsd", strength=1.0, band=0.3)
    ratio = (plain.sign() * gap).exp().clamp(0.7, 1.3)
    expected = torch.where(batch.teacher_mask, plain * ratio, plain)
    torch.testing.assert_close(batch.advantage, expected)
    assert batch.coefficient.sum().item() == pytest.approx(1.0)  # every turn stays in the loss, hinted or not


def test_bug_85_a_turn_without_a_hint_keeps_its_advantage_under_the_turn_belief(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    batch, gap, plain, _ = credited(bigrams, doubled, rule="turn_belief", strength=1.0, band=0.4, decay=0.5)
    factor = batch.advantage / plain
    assert (factor[~batch.teacher_mask] == 1.0).all()
    both = batch.trajectory == 2  # the only episode with two hinted turns; reward .25 below the mean, group rate .25
    first, second = (both & (batch.turn == turn) for turn in batch.turn[both].unique().tolist())
    e = [float(gap[turn].sum()) for turn in (first, second)]
    start = math.log(0.25 / 0.75)
    beliefs = [0.25, *(1 / (1 + math.exp(-(start + c))) for c in (e[0], 0.5 * e[0] + e[1]))]
    larger = beliefs[1] - beliefs[0] > beliefs[2] - beliefs[1]  # standardized, two revisions are 1 and -1
    expected = (0.6, 1.4) if larger else (1.4, 0.6)  # the episode failed: what raised the belief weighs less
    for turn, wanted in zip((first, second), expected, strict=True):
        torch.testing.assert_close(factor[turn], torch.full_like(factor[turn], wanted), rtol=1e-3, atol=1e-3)


def test_turn_credit_replaces_the_reward_by_the_summed_gap_of_the_turn(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    batch, gap, _, _ = credited(bigrams, doubled, rule="bayes_turn")
    sums = {
        n: float(gap[batch.teacher_mask & (batch.turn == n)].sum())
        for n in batch.turn[batch.teacher_mask].unique().tolist()
    }
    mean = sum(sums.values()) / len(sums)
    wanted = torch.tensor([sums[n] - mean for n in batch.turn[batch.teacher_mask].tolist()])
    torch.testing.assert_close(batch.advantage[batch.teacher_mask], wanted, rtol=1e-4, atol=1e-4)


def test_micro_batches_of_the_teacher_do_not_change_the_credit(
    bigrams: ScriptedPolicy, doubled: TeacherWeights
) -> None:
    whole, *_ = credited(bigrams, doubled)
    parts, _, _, objective = credited(bigrams, doubled, tokens_per_teacher_batch=1)
    torch.testing.assert_close(parts.advantage, whole.advantage)
    assert gradient(objective, bigrams).abs().max() > 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"strength": 1.0}, "strength"),
        ({"scale": 0.0}, "scale"),
        ({"cap": 0.0}, "cap"),
        ({"rule": "rlsd", "strength": 1.5}, "strength"),
        ({"band": 1.0}, "band"),
        ({"rule": "turn_belief", "decay": 0.0}, "decay"),
        ({"rule": "magnitude_only"}, "gap_magnitude"),
        ({"gate": SigmoidGap()}, "gate"),
        ({"constant": 9.0, "normalize": "seq_mean_token_sum_norm"}, "constant=9.0"),
        ({"confidence_weights": {"low": 0.1}}, "'low': 0.1.* would have no effect, except weights of 0"),
        ({"confidence_weights": {"low": Schedule(0.0, 1.0, "linear", steps=2)}}, "confidence_weights"),
        ({"blend": Blend("turn_mean", Schedule(0.0, 1.0, "linear", steps=2))}, "blend"),
    ],
)
def test_bug_764_credit_refuses_what_would_mislead(wrong, named) -> None:
    with pytest.raises(ConfigError, match=named):
        Credit(**wrong)
    Credit(confidence_weights={"low": 0.0})  # takes the hint away


@pytest.mark.parametrize("rule", ["bayes_turn", "gap_magnitude"])
def test_bug_762_a_batch_without_a_hint_is_no_step_where_only_hinted_tokens_count(
    bigrams: ScriptedPolicy, doubled: TeacherWeights, rule
) -> None:
    silent = ScriptedReflector([Reflection((None, None), "rejected")] * 8)
    one_hint = settings(doubled)
    step = Credit(rule, PolicyGradient("none"), reflector=silent).prepare(
        episodes(bigrams), bigrams, lambda local: local
    )
    assert (len(step.batch), step.batch.student) == (0, ())
    assert len(Credit(rule, **one_hint).prepare(episodes(bigrams), bigrams, lambda local: local).batch) > 0
    others = Credit("rlsd", PolicyGradient("none"), reflector=silent)  # other rules keep the advantage of such turns
    assert len(others.prepare(episodes(bigrams), bigrams, lambda local: local).batch) > 0


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (lambda: PolicyGradient(zero_variance="mask"), "zero_variance=mask of PolicyGradient"),
        (lambda: GRPO(zero_variance="mask"), "zero_variance=mask of GRPO"),
        (lambda: GRPO(zero_variance="resample"), "zero_variance=resample of GRPO"),
        (lambda: GRPO(overlong=SoftOverlong(8, 8)), "overlong of GRPO"),
        (lambda: GRPO(zero_variance="resample", overlong=SoftOverlong(8, 8)), "zero_variance=resample and overlong"),
    ],
)
def test_bug_746_settings_that_look_at_rewards_are_refused_where_there_are_none(estimator, named) -> None:
    with pytest.raises(ConfigError, match=rf"bayes_turn.*{named}.* would have no effect"):
        Credit("bayes_turn", estimator())
    assert Credit("turn_belief", estimator()).rule == "turn_belief"


@pytest.mark.parametrize("rule", ["bayes_turn", "gap_magnitude", "advantage_reweight"])
def test_bug_746_every_rule_leaves_out_episodes_that_ended_at_a_limit(
    bigrams: ScriptedPolicy, doubled: TeacherWeights, rule
) -> None:
    played = episodes(bigrams)
    played[0] = replace(played[0], stop_reason=StopReason.MAX_TURNS)
    for masked in (False, True):
        estimator = GRPO(normalize="token_mean", mask_truncated=masked)
        step = Credit(rule, estimator, **settings(doubled)).prepare(played, bigrams, lambda local: local)
        of_cut = step.batch.coefficient[step.batch.trajectory == 0]
        assert bool((of_cut > 0.0).any()) != masked
        assert float(step.metrics["rollout/masked_episodes"]) == masked

"""Check the losses against vector files: python tests/conformance/loss_vectors.py FILE... [--only family,...].

A file holds suites of named tensors and cases. Every case names a family; one function below computes that family with
the code of hero_pl in float64 and returns what it found, by the names that the file uses. Values and gradients are
compared at the tolerance of the file. Nothing passes by being ignored: an unknown family, a parameter or an input that
no one read, and an expected field that no one computed all count as failures. Decoys (what a known bug would give)
must differ from what was found. Prints a line per failure, the counts per family, and ``N passed, M failed`` last.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hero_pl.errors import ConfigError
from hero_pl.losses import (
    ClippedPolicyGradient,
    DistillationLoss,
    ForwardKL,
    Gate,
    GatedSampledToken,
    GateInputs,
    HighEntropy,
    JensenShannon,
    ReinforceBaseline,
    ReverseKL,
    SampledToken,
    Scores,
    SigmoidGap,
    SkewForwardKL,
    SkewReverseKL,
    StepDivergence,
    TeacherConfidence,
    TruncatedRatio,
    action_log_probabilities,
    at_temperature,
    belief_factors,
    coefficients,
    dr_grpo_advantages,
    grpo_advantages,
    importance_ratio,
    maxrl_advantages,
    mix_losses,
    normalized_sum,
    rloo_advantages,
    rlsd_advantages,
    turn_credits,
    zero_loss,
)
from hero_pl.objectives.schedules import Blend, Schedule, normalization_at
from hero_pl.teacher.ema import ema_update_, trust_region_log_probs

Found = dict[str, Any]

DIVERGENCES: dict[str, type[DistillationLoss]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jsd": JensenShannon,
    "skew_forward_kl": SkewForwardKL,
    "skew_reverse_kl": SkewReverseKL,
    "sampled_token": SampledToken,
}
DIVERGENCE_OPTIONS = {
    name: name for name in ("beta", "alpha", "rescale", "support", "top_k", "tail", "clip_mode", "clip")
} | {"rescale_jsd": "rescale"}


class Tracked(Mapping[str, Any]):
    """A mapping that remembers which of its keys were read."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = entries
        self.unread = set(entries)

    def __getitem__(self, key: str) -> Any:
        value = self._entries[key]
        self.unread.discard(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Either(tuple[Any, ...]):
    """Alternatives; one of them must match."""

    def __new__(cls, *alternatives: Any) -> Either:
        return super().__new__(cls, alternatives)


class Tokens:
    """The active tokens of a case as hero_pl has them: flat, with trajectory, turn and weight."""

    def __init__(self, params: Tracked, inputs: Tracked) -> None:
        self.mask = real(inputs["mask"]) > 0
        self.trajectory = torch.arange(self.mask.shape[0]).unsqueeze(1).expand_as(self.mask)[self.mask]
        turn_ids = inputs.get("turn_ids")
        self.turn = torch.zeros_like(self.trajectory) if turn_ids is None else torch.tensor(turn_ids)[self.mask]
        weights = inputs.get("weights")
        if params.get("use_weights", weights is not None) and weights is None:
            raise ValueError("use_weights is set but there are no weights")
        weight = torch.ones(self.trajectory.shape, dtype=torch.float64)
        if weights is not None and params.get("use_weights", True):
            weight = real(weights)[self.mask]
        self.coefficient = coefficients(
            params["normalize"],
            turn=self.turn,
            trajectory=self.trajectory,
            weight=weight,
            num_trajectories=self.mask.shape[0],
            constant=params.get("constant"),
        )

    def flat(self, values: Any) -> Tensor:
        """Entries of the active tokens."""
        return (values if isinstance(values, Tensor) else torch.as_tensor(values))[self.mask]


def real(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def build_loss(params: Tracked, divergence: str | None = None) -> DistillationLoss:
    name = divergence or params["divergence"]
    options = {own: params[theirs] for theirs, own in DIVERGENCE_OPTIONS.items() if theirs in params}
    if name == "jsd" and options.get("beta") in (0.0, 1.0):  # the convention of the peers at the end points
        name = "reverse_kl" if options.pop("beta") else "forward_kl"
    return DIVERGENCES[name](**options)


def logits_of(params: Tracked, inputs: Tracked) -> tuple[Tensor, Tensor, Tensor]:
    """The student's logits as a leaf, and those of both sides at the temperature of the case."""
    leaf, temperature = real(inputs["student_logits"]).requires_grad_(), params.get("temperature", 1.0)
    return leaf, at_temperature(leaf, temperature), at_temperature(real(inputs["teacher_logits"]), temperature)


def divergence(params: Tracked, inputs: Tracked) -> Found:
    loss, tokens = build_loss(params), Tokens(params, inputs)
    leaf, student, teacher = logits_of(params, inputs)
    total = normalized_sum(tokens.coefficient, loss(tokens.flat(student), tokens.flat(teacher)))
    total.backward()
    return {
        "per_token": loss(student, teacher),
        "loss": total,
        "grad_student_logits": leaf.grad,
        "grad_all_zero": bool((leaf.grad == 0).all()) and bool((zero_grad_of(leaf) == 0).all()),
    }


def zero_grad_of(student: Tensor) -> Tensor:
    leaf = student.detach().requires_grad_()
    zero_loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def sampled_token(params: Tracked, inputs: Tracked) -> Found:
    loss, tokens = build_loss(params, "sampled_token"), Tokens(params, inputs)
    leaf, student, teacher = logits_of(params, inputs)
    per_token = loss(tokens.flat(student), tokens.flat(teacher), tokens.flat(inputs["token_ids"]))
    total = normalized_sum(tokens.coefficient, per_token)
    total.backward()
    return {
        "surrogate_loss": total,
        "grad_student_logits": leaf.grad,
        "k1_log_ratio_mean": loss.diagnostics["sampled/log_ratio_mean"].value,
    }


def importance(params: Tracked, inputs: Tracked) -> Found:
    loss, tokens = build_loss(params), Tokens(params, inputs)
    correction = TruncatedRatio(params["ratio_cap"], params["log_ratio_clamp"])
    leaf, student, teacher = logits_of(params, inputs)
    ids, recorded = torch.tensor(inputs["token_ids"]), real(inputs["rollout_logprobs"])
    log_probs = action_log_probabilities(student, ids)
    factor = correction(tokens.flat(log_probs), tokens.flat(recorded), tokens.trajectory)
    per_token = loss(tokens.flat(student), tokens.flat(teacher), tokens.flat(ids))
    total = normalized_sum(tokens.coefficient, factor * per_token)
    total.backward()
    ratio = importance_ratio(log_probs, recorded, params["log_ratio_clamp"])
    capped = correction(log_probs.flatten(), recorded.flatten(), ids.flatten()).view_as(ratio)
    return {
        "ratio": Either(ratio, capped),  # the format does not say which; the loss shows which one was used
        "loss": total,
        "grad_student_logits": leaf.grad,
    }


def gate(params: Tracked, inputs: Tracked) -> Found:
    loss, tokens = build_loss(params), Tokens(params, inputs)
    leaf, student, teacher = logits_of(params, inputs)
    ids = torch.tensor(inputs["token_ids"])
    rule = build_gate(params)
    per_token = loss(tokens.flat(student), tokens.flat(teacher), tokens.flat(ids))
    turn = tokens.trajectory * (int(tokens.turn.max()) + 1) + tokens.turn if tokens.turn.numel() else tokens.turn
    factor = rule(
        GateInputs(
            Scores(tokens.flat(student)),
            Scores(tokens.flat(teacher)),
            tokens.flat(ids),
            turn,
            lambda: per_token,
        )
    )
    total = normalized_sum(tokens.coefficient, factor * per_token)
    total.backward()
    everywhere = torch.ones_like(tokens.mask)
    everything = GateInputs(
        Scores(student[everywhere]),
        Scores(teacher[everywhere]),
        ids[everywhere],
        torch.zeros_like(ids[everywhere]),
        lambda: loss(student, teacher, ids)[everywhere],
    )
    # gates that compare tokens with each other are checked by their loss alone
    shown = rule(everything).view(tokens.mask.shape) if isinstance(rule, SigmoidGap | TeacherConfidence) else None
    return {"gate": shown, "loss": total, "grad_student_logits": leaf.grad}


def build_gate(params: Tracked) -> Gate:
    match params["gate"]:
        case "sigmoid_gap":
            return SigmoidGap(params["gate_temperature"])
        case "teacher_confidence":
            return TeacherConfidence(params.get("measure", "entropy"))
        case "step_divergence":
            return StepDivergence(params["scale"])
        case "high_entropy":
            return HighEntropy(params["quantile"])
    raise ValueError(f"unknown gate {params['gate']!r}")


def ema(params: Tracked, inputs: Tracked) -> Found:
    teacher, seen = [real(values) for values in inputs["teacher_init"]], []
    for student in inputs["student_by_step"]:
        ema_update_(teacher, [real(values) for values in student], params["update_rate"])
        seen.append([average.clone() for average in teacher])
    return {"teacher_by_step": seen}


def ema_precision(params: Tracked, inputs: Tracked) -> Found:
    student = real(inputs["student"])
    shadow = torch.tensor(inputs["teacher_init"], dtype=torch.float32)
    exact, stalled = real(inputs["teacher_init"]), real(inputs["teacher_init"]).bfloat16()
    for _ in range(params["steps"]):
        ema_update_([shadow], [student], params["update_rate"])
        ema_update_([exact], [student], params["update_rate"])
        stalled.lerp_(student.bfloat16(), params["update_rate"])
    if abs(float(shadow) - float(exact)) > 1e-4 * abs(float(exact) - float(inputs["teacher_init"])):
        raise ValueError(f"the float32 average {float(shadow)} is not near the exact one {float(exact)}")
    try:
        ema_update_([stalled], [student], params["update_rate"])
    except ConfigError:
        return {"fp32_shadow": exact, "pure_bfloat16": stalled}
    raise ValueError("a bfloat16 average was accepted")


def trust_region(params: Tracked, inputs: Tracked) -> Found:
    reference, live = real(inputs["ref_logits"]), real(inputs["live_logits"])
    return {
        "logit_lerp_logprobs": trust_region_log_probs(reference, live, params["mix"]),
        "probability_mix_logprobs": trust_region_log_probs(reference, live, params["mix"], "probabilities"),
    }


def advantage(params: Tracked, inputs: Tracked) -> Found:
    rewards, groups = real(inputs["rewards"]), torch.tensor(inputs["groups"])
    estimator, eps, ddof, singleton = (params[key] for key in ("estimator", "eps", "std_ddof", "singleton"))
    if singleton != ("reward" if estimator == "reinforce" else "zero"):
        raise ValueError(f"{estimator} does not give singletons {singleton!r}")
    match estimator:
        case "grpo":
            return {"advantages": grpo_advantages(rewards, groups, eps, ddof)}
        case "dr_grpo":
            return {"advantages": dr_grpo_advantages(rewards, groups)}
        case "rloo":
            return {"advantages": rloo_advantages(rewards, groups)}
        case "max_rl":
            return {"advantages": maxrl_advantages(rewards, groups)}
        case "reinforce":
            return {"advantages": ReinforceBaseline("none").advantages(rewards)}
    raise ValueError(f"unknown estimator {estimator!r}")


def policy_gradient(params: Tracked, inputs: Tracked) -> Found:
    tokens = Tokens(params, inputs)
    loss = ClippedPolicyGradient(
        epsilon=params["eps_low"],
        epsilon_high=params["eps_high"],
        ratio_level=params["importance_level"],
        kl_weight=params["kl_beta"],
        kl_estimator=params["kl_estimator"],
        dual_clip=params.get("dual_clip"),
        surrogate=params.get("surrogate", "clip"),
    )
    log_probs = real(inputs["logprobs"]).requires_grad_()
    old, reference = real(inputs["old_logprobs"]), inputs.get("ref_logprobs")
    per_token = loss(
        tokens.flat(log_probs),
        tokens.flat(old),
        real(inputs["advantages"])[tokens.trajectory],
        tokens.trajectory,
        None if reference is None else tokens.flat(real(reference)),
    )
    total = normalized_sum(tokens.coefficient, per_token)
    total.backward()
    return {"loss": total, "grad_logprobs": log_probs.grad}


def sdar(params: Tracked, inputs: Tracked) -> Found:
    tokens, (leaf, student, teacher) = Tokens(params, inputs), logits_of(params, inputs)
    loss = GatedSampledToken(params["sharpness"])
    per_token = loss(tokens.flat(student), tokens.flat(teacher), tokens.flat(inputs["token_ids"]))
    total = normalized_sum(tokens.coefficient, per_token)
    total.backward()
    return {"loss": total, "grad_student_logits": leaf.grad}


def importance_reverse_kl(params: Tracked, inputs: Tracked) -> Found:
    tokens, (leaf, student, teacher) = Tokens(params, inputs), logits_of(params, inputs)
    ids, recorded = tokens.flat(inputs["token_ids"]), tokens.flat(real(inputs["rollout_logprobs"]))
    factor = TruncatedRatio(cap=None)(action_log_probabilities(tokens.flat(student), ids), recorded, tokens.trajectory)
    per_token = factor * SampledToken()(tokens.flat(student), tokens.flat(teacher), ids)
    normalized_sum(tokens.coefficient, per_token).backward()
    return {"grad_student_logits": leaf.grad}


def rlsd(params: Tracked, inputs: Tracked) -> Found:
    gap = real(inputs["gap"])
    advantages = real(inputs["advantages"]).unsqueeze(-1).expand_as(gap)
    return {"advantages": rlsd_advantages(advantages, gap, params["strength"], params["band"])}


def turn_belief(params: Tracked, inputs: Tracked) -> Found:
    tokens = Tokens(Tracked({"normalize": "token_mean"}), inputs)
    turn = tokens.trajectory * (int(tokens.turn.max()) + 1) + tokens.turn
    _, evidence, index = turn_credits(tokens.flat(real(inputs["gap"])), turn)
    trajectory = torch.zeros_like(evidence, dtype=torch.long).scatter_(0, index, tokens.trajectory)
    advantages = real(inputs["advantages"])
    shape = (params["strength"], params["band"], params["decay"])
    factors = belief_factors(
        advantages[trajectory].sign(), evidence, trajectory, real(inputs["prior"])[trajectory], *shape
    )
    spread = torch.zeros(tokens.mask.shape, dtype=torch.float64)
    spread[tokens.mask] = advantages[tokens.trajectory] * factors[index]
    return {"advantages": spread}


def normalize_blend(params: Tracked, inputs: Tracked) -> Found:
    blend, step = Blend(params["toward"], Schedule(**params["share"])), params["step"]
    tokens = Tokens(Tracked({"normalize": normalization_at(params["normalize"], blend, step)}), inputs)
    spread = torch.zeros(tokens.mask.shape, dtype=torch.float64)
    spread[tokens.mask] = tokens.coefficient
    total = normalized_sum(tokens.coefficient, tokens.flat(real(inputs["losses"])))
    return {"share": blend.share.at(step), "coefficients": spread, "loss": total}


def sft(params: Tracked, inputs: Tracked) -> Found:
    kept = real(inputs["rewards"]) >= params["reward_threshold"]
    mask = (real(inputs["mask"]) * kept.double().unsqueeze(1)).tolist()
    tokens = Tokens(params, Tracked({"mask": mask}))
    log_probs = real(inputs["logprobs"]).requires_grad_()
    total = normalized_sum(tokens.coefficient, -tokens.flat(log_probs))
    total.backward()
    return {"loss": total, "grad_logprobs": log_probs.grad}


def mix(params: Tracked, inputs: Tracked) -> Found:
    both = real(inputs["policy_loss"]), real(inputs["distillation_loss"])
    return {"loss": mix_losses(*both, params["distillation_weight"], params["mode"])}


def toy_logits(embedding: Tensor, ids: list[int], gamma: float) -> Tensor:
    """Logits ``(len(ids), vocab)`` of the toy model ``h_i = gamma h_{i-1} + E[x_i]``, logits ``= h``."""
    states = [embedding[ids[0]]]
    for token in ids[1:]:
        states.append(gamma * states[-1] + embedding[token])
    return torch.stack(states)


def end_to_end(params: Tracked, inputs: Tracked) -> Found:
    embedding = real(inputs["embedding"]).requires_grad_()
    loss, generation_prompt = build_loss(params), inputs["generation_prompt_ids"]
    turns = list(
        zip(inputs["action_ids"], inputs["observation_ids"], inputs["hint_ids"], inputs["turn_weights"], strict=True)
    )
    body: list[int] = list(inputs["prompt_ids"])
    student: list[Tensor] = []
    teacher: list[Tensor] = []
    weight: list[float] = []
    turn: list[int] = []
    for number, (action, observation, hint, turn_weight) in enumerate(turns):
        if hint is not None:
            for side, context in ((student, body + generation_prompt), (teacher, body + hint + generation_prompt)):
                first = len(context) - 1  # the last context position scores the first action token
                logits = toy_logits(embedding, context + action, params["gamma"])
                side.append(logits[first : first + len(action)])
            weight += [turn_weight] * len(action)
            turn += [number] * len(action)
        body += generation_prompt + action + observation
    coefficient = coefficients(
        params["normalize"],
        turn=torch.tensor(turn),
        trajectory=torch.zeros(len(turn), dtype=torch.long),
        weight=real(weight),
        num_trajectories=1,
        constant=params.get("constant"),
    )
    temperature = params.get("temperature", 1.0)
    per_token = loss(*(at_temperature(torch.cat(side), temperature) for side in (student, teacher)))
    total = normalized_sum(coefficient, per_token)
    total.backward()
    split = [per_token[torch.tensor(turn) == number] for number in range(len(turns))]
    return {
        "per_turn_per_token": [None if turns[n][2] is None else split[n] for n in range(len(turns))],
        "loss": total,
        "grad_embedding": embedding.grad,
    }


def fact(params: Tracked, inputs: Tracked) -> Found:
    student, teacher = real(inputs["student_logits"]), real(inputs["teacher_logits"])
    small = 1e-4
    far = real([[80.0, -80.0]])
    return {
        "forward_kl_sum": ForwardKL()(student, teacher).sum(),
        "reverse_kl_sum": ReverseKL()(student, teacher).sum(),
        "jsd_beta_1e_4_over_beta": JensenShannon(small)(student, teacher).sum() / small,
        "jsd_beta_1_minus_1e_4_over_1e_4": JensenShannon(1 - small)(student, teacher).sum() / small,
        "upper_bound_beta_half": JensenShannon(0.5)(far, -far).max(),
    }


FAMILIES: dict[str, Callable[[Tracked, Tracked], Found]] = {
    "divergence_full": divergence,
    "divergence_topk": divergence,
    "normalize": divergence,
    "normalize_empty": divergence,
    "clip": divergence,
    "sampled_token": sampled_token,
    "importance": importance,
    "gate": gate,
    "ema": ema,
    "ema_precision": ema_precision,
    "trust_region": trust_region,
    "advantage": advantage,
    "policy_gradient": policy_gradient,
    "sdar": sdar,
    "importance_reverse_kl": importance_reverse_kl,
    "rlsd": rlsd,
    "turn_belief": turn_belief,
    "normalize_blend": normalize_blend,
    "sft": sft,
    "mix": mix,
    "end_to_end": end_to_end,
    "fact": fact,
}


def difference(actual: Any, expected: Any, rtol: float, atol: float) -> str | None:
    """Reason why ``actual`` does not match ``expected``, or ``None``."""
    if isinstance(expected, bool) or expected is None or actual is None:
        return None if actual is expected else f"expected {expected}, found {actual}"
    if isinstance(actual, Either):
        reasons = [difference(alternative, expected, rtol, atol) for alternative in actual]
        return None if None in reasons else reasons[0]
    if isinstance(actual, list):
        if len(actual) != len(expected):
            return f"expected {len(expected)} entries, found {len(actual)}"
        reasons = [difference(one, other, rtol, atol) for one, other in zip(actual, expected, strict=True)]
        return next((f"entry {n}: {reason}" for n, reason in enumerate(reasons) if reason), None)
    got, want = torch.as_tensor(actual).detach().double(), real(expected)
    if got.shape != want.shape:
        return f"expected shape {tuple(want.shape)}, found {tuple(got.shape)}"
    if torch.allclose(got, want, rtol=rtol, atol=atol):
        return None
    worst = (got - want).abs().nan_to_num(math.inf).flatten().argmax()
    return (
        f"expected {want.flatten()[worst].item():.15g}, found {got.flatten()[worst].item():.15g} at flat index {worst}"
    )


def decoy_problem(name: str, value: float, computed: Found, rtol: float, atol: float) -> str | None:
    """Decoys are losses, or norms of the gradient if their name ends in ``norm``; ``correct_...`` ones must match."""
    gradient = next(
        (entry for key, entry in computed.items() if key.startswith("grad_") and isinstance(entry, Tensor)), None
    )
    actual = gradient.norm() if name.endswith("norm") and gradient is not None else computed["loss"]
    actual = torch.as_tensor(actual).detach()
    matches = difference(actual, value, rtol, atol) is None
    if matches == name.startswith("correct_"):
        return None
    return f"decoy {name}: found {float(actual):.15g}, which must {'not ' if matches else ''}be {value:.15g}"


def check(case: Mapping[str, Any], tensors: Mapping[str, Any], tolerance: Mapping[str, float]) -> list[str]:
    """Problems of one case; empty when it passes."""
    family = case.get("family")
    if family not in FAMILIES:
        return [f"unknown family {family!r}"]
    inputs = {
        key: tensors[value[1:]] if isinstance(value, str) and value.startswith("@") else value
        for key, value in case["inputs"].items()
    }
    params, given = Tracked(case["params"]), Tracked(inputs)
    actual = FAMILIES[family](params, given)
    rtol, atol = tolerance["rtol"], tolerance["atol"]
    problems = [f"parameter {key!r} was not used" for key in sorted(params.unread)]
    problems += [f"input {key!r} was not used" for key in sorted(given.unread)]
    for key, expected in case["expected"].items():
        reason = difference(actual[key], expected, rtol, atol) if key in actual else "not computed by this script"
        if reason:
            problems.append(f"{key}: {reason}")
    decoys = (decoy_problem(name, value, actual, rtol, atol) for name, value in case.get("decoys", {}).items())
    return problems + [problem for problem in decoys if problem]


def main(argv: list[str] | None = None) -> int:
    """Check files; 0 when everything passed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", help="comma-separated families; default: all")
    options = parser.parse_args(argv)
    only = {family for family in options.only.split(",") if family}
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for path in options.files:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            tolerance = {name: float(document["tolerance"][name]) for name in ("rtol", "atol")}
            cases = [(suite, case) for suite in document["suites"] for case in suite["cases"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            print(f"FAIL {path} is not a vector file: {type(error).__name__}: {error}")
            failed["(unreadable file)"] += 1
            continue
        for suite, case in cases:
            family = str(case.get("family"))
            if only and family not in only:
                continue
            try:
                problems = check(case, suite.get("tensors", {}), tolerance)
            except Exception as error:
                problems = [f"{type(error).__name__}: {error}"]
            (failed if problems else passed)[family] += 1
            for problem in problems:
                print(f"FAIL {path.name} {suite.get('name')} {case.get('id')}: {problem}")
    for family in sorted(only | passed.keys() | failed.keys()):
        print(f"{family}: {passed[family]} passed, {failed[family]} failed")
    unseen = sorted(only - passed.keys() - failed.keys())
    if unseen or not (passed or failed):
        print(f"FAIL no case of {', '.join(unseen) or 'any family'} in the given files")
        failed["(no case)"] += max(1, len(unseen))
    print(f"{passed.total()} passed, {failed.total()} failed")
    return 1 if failed.total() else 0


if __name__ == "__main__":
    sys.exit(main())

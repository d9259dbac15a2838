"""Write the vectors of the methods that carry a paper's name: python tests/conformance/make_method_vectors.py [FOLDER].

Plain Python in float64, written from the formulas and without hero_pl or torch, so that agreement means something.
Gradients are complex-step derivatives, ``Im f(x + ih) / h`` with ``h = 1e-30``, which are exact to rounding; what a
formula holds constant is computed from the unperturbed numbers. ``loss_vectors.py`` checks the files.
"""

from __future__ import annotations

import cmath
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "losses" / "vectors"
ROWS, LENGTH, VOCAB = 3, 6, 5
MASK = [[1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
TURNS = [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 2]]
PLACES = [(b, t) for b in range(ROWS) for t in range(LENGTH) if MASK[b][t]]


def table(rng: random.Random, scale: float, depth: int = 0) -> list[Any]:
    """``(ROWS, LENGTH)`` or ``(ROWS, LENGTH, depth)`` numbers, rounded so that the files stay readable."""

    def number() -> float:
        return round(rng.gauss(0.0, scale), 4)

    return [[[number() for _ in range(depth)] if depth else number() for _ in range(LENGTH)] for _ in range(ROWS)]


def log_probability(logits: list[Any], token: int) -> Any:
    return logits[token] - cmath.log(sum(cmath.exp(value) for value in logits))


def below(value: Any, bound: float) -> Any:
    return value if value.real <= bound else bound


def within(value: Any, low: float, high: float) -> Any:
    return below(value if value.real >= low else low, high)


def gradient(function: Callable[[list[Any]], Any], at: list[Any]) -> list[Any]:
    """Complex-step derivatives of a function of nested lists, in their shape."""
    step = 1e-30

    def walk(part: list[Any]) -> list[Any]:
        actual = []
        for i, value in enumerate(part):
            if isinstance(value, list):
                actual.append(walk(value))
            else:
                part[i] = complex(value, step)
                actual.append(complex(function(at)).imag / step)
                part[i] = value
        return actual

    return walk(at)


def norm(values: Any) -> float:
    return math.hypot(*flat(values))


def flat(values: Any) -> list[float]:
    return [number for part in values for number in flat(part)] if isinstance(values, list) else [values]


def masked(value: Callable[[int, int], float]) -> list[list[float]]:
    return [[value(b, t) if MASK[b][t] else 0.0 for t in range(LENGTH)] for b in range(ROWS)]


def case(name: str, family: str, params: dict[str, Any], inputs: dict[str, Any], expected: dict[str, Any], **more: Any):
    return {"id": name, "family": family, "params": params, "inputs": inputs, "expected": expected, **more}


def rlsd(rng: random.Random) -> list[Any]:
    cases = [
        case(
            "rlsd/by_hand",
            "rlsd",
            {"strength": 0.5, "band": 0.2},
            {"advantages": [1.0], "gap": [[2.0, 0.0, -2.0]]},
            {"advantages": [[1.1, 1.0, 0.9]]},
        )
    ]
    for number, (strength, band) in enumerate([(0.5, 0.2), (1.0, 0.5), (0.0, 0.2)]):
        advantages, gap = [1.3, -0.8, 0.0], table(rng, 0.3)
        shaped = []
        for advantage, row in zip(advantages, gap, strict=True):
            sign = (advantage > 0) - (advantage < 0)
            weights = [min(max(math.exp(sign * delta), 1 - band), 1 + band) for delta in row]
            shaped.append([advantage * ((1 - strength) + strength * weight) for weight in weights])
        params = {"strength": strength, "band": band}
        inputs = {"advantages": advantages, "gap": gap}
        cases.append(case(f"rlsd/random_{number}", "rlsd", params, inputs, {"advantages": shaped}))
    return cases


def agent_opsd(rng: random.Random) -> list[Any]:
    cases = []
    for number, (strength, band, decay) in enumerate([(0.5, 0.2, 0.95), (1.0, 0.4, 1.0), (0.5, 0.2, 0.5)]):
        advantages, prior, gap = [1.3, -0.8, 0.6], [0.25, 0.0, 1.0], table(rng, 1.0)
        shaped = [[0.0] * LENGTH for _ in range(ROWS)]
        for b in range(ROWS):
            start = min(max(prior[b], 1e-4), 1 - 1e-4)
            turns = sorted({TURNS[b][t] for t in range(LENGTH) if MASK[b][t]})
            believed, total, revisions = start, 0.0, {}
            for turn in turns:
                evidence = sum(gap[b][t] for t in range(LENGTH) if MASK[b][t] and TURNS[b][t] == turn)
                total = decay * total + evidence
                belief = 1 / (1 + math.exp(-(math.log(start / (1 - start)) + total)))
                belief = min(max(belief, 1e-6), 1 - 1e-6)
                revisions[turn], believed = belief - believed, belief
            mean = sum(revisions.values()) / len(revisions)
            deviation = math.sqrt(sum((r - mean) ** 2 for r in revisions.values()) / len(revisions))
            sign = math.copysign(1.0, advantages[b])
            for t in range(LENGTH):
                if MASK[b][t]:
                    z = (revisions[TURNS[b][t]] - mean) / (deviation + 1e-6)
                    weight = min(max(1 + band * sign * z, 1 - band), 1 + band)
                    shaped[b][t] = advantages[b] * ((1 - strength) + strength * weight)
        params = {"strength": strength, "band": band, "decay": decay}
        inputs = {"advantages": advantages, "prior": prior, "gap": gap, "mask": MASK, "turn_ids": TURNS}
        cases.append(case(f"agent_opsd/random_{number}", "turn_belief", params, inputs, {"advantages": shaped}))
    return cases


def sides(rng: random.Random) -> dict[str, Any]:
    tokens = [[rng.randrange(VOCAB) for _ in range(LENGTH)] for _ in range(ROWS)]
    both = {"student_logits": table(rng, 1.0, VOCAB), "teacher_logits": table(rng, 1.0, VOCAB)}
    return {**both, "token_ids": tokens, "mask": MASK}


def sdar(rng: random.Random) -> list[Any]:

    def one(number: int, sharpness: float) -> Any:
        inputs = sides(rng)
        tokens, teacher = inputs["token_ids"], inputs["teacher_logits"]
        log_p = masked(lambda b, t: log_probability(teacher[b][t], tokens[b][t]).real)

        def gate(gap: Any) -> Any:
            return 1 / (1 + cmath.exp(-sharpness * gap))

        def loss(student: list[Any], gates: list[list[Any]] | None) -> Any:
            total = 0.0
            for b, t in PLACES:
                gap = log_p[b][t] - log_probability(student[b][t], tokens[b][t])
                total += (gate(gap) if gates is None else gates[b][t]) * gap
            return total / len(PLACES)

        student = inputs["student_logits"]
        frozen = masked(lambda b, t: gate(log_p[b][t] - log_probability(student[b][t], tokens[b][t])).real)
        expected = {
            "loss": complex(loss(student, frozen)).real,
            "grad_student_logits": gradient(lambda logits: loss(logits, frozen), student),
        }
        through = norm(gradient(lambda logits: loss(logits, None), student))
        params = {"sharpness": sharpness, "normalize": "token_mean"}
        decoys = {"gradient_through_the_gate_norm": through}
        return case(f"sdar/random_{number}", "sdar", params, inputs, expected, decoys=decoys)

    return [one(*each) for each in enumerate([5.0, 1.0])]


def policy_inputs(rng: random.Random) -> dict[str, Any]:
    new, old = table(rng, 0.9), table(rng, 0.9)
    new, old = ([[-1.0 - abs(value) for value in row] for row in part] for part in (new, old))
    return {"logprobs": new, "old_logprobs": old, "advantages": [0.9, -1.1, -0.4], "mask": MASK}


def policy_params(low: float, high: float, **more: Any) -> dict[str, Any]:
    clip = {"eps_low": low, "eps_high": high, "importance_level": "token", "kl_beta": 0.0, "kl_estimator": "k3"}
    return {**clip, "normalize": "token_mean", **more}


def dual_clip(rng: random.Random) -> list[Any]:

    def one(number: int, bound: float) -> Any:
        inputs = policy_inputs(rng)
        old, advantages = inputs["old_logprobs"], inputs["advantages"]

        def loss(new: list[Any], bound: float) -> Any:
            total = 0.0
            for b, t in PLACES:
                ratio, advantage = cmath.exp(new[b][t] - old[b][t]), advantages[b]
                terms = [-advantage * ratio, -advantage * within(ratio, 0.8, 1.28)]
                largest = max(terms, key=lambda term: complex(term).real)
                total += below(largest, -bound * advantage) if advantage < 0 else largest
            return total / len(PLACES)

        new = inputs["logprobs"]
        expected = {
            "loss": complex(loss(new, bound)).real,
            "grad_logprobs": gradient(lambda changed: loss(changed, bound), new),
        }
        decoys = {"without_dual_clip": complex(loss(new, math.inf)).real}
        params = policy_params(0.2, 0.28, dual_clip=bound)
        return case(f"dual_clip/random_{number}", "policy_gradient", params, inputs, expected, decoys=decoys)

    return [one(*each) for each in enumerate([3.0, 1.5])]


def cispo(rng: random.Random) -> list[Any]:

    def one(number: int, low: float, high: float) -> Any:
        inputs = policy_inputs(rng)
        old, advantages, new = inputs["old_logprobs"], inputs["advantages"], inputs["logprobs"]
        weight = masked(lambda b, t: within(cmath.exp(new[b][t] - old[b][t]), 1 - low, 1 + high).real)

        def loss(changed: list[Any]) -> Any:
            return -sum(weight[b][t] * advantages[b] * changed[b][t] for b, t in PLACES) / len(PLACES)

        def differentiated(changed: list[Any]) -> Any:
            ratios = {(b, t): within(cmath.exp(changed[b][t] - old[b][t]), 1 - low, 1 + high) for b, t in PLACES}
            return -sum(ratios[b, t] * advantages[b] * changed[b][t] for b, t in PLACES) / len(PLACES)

        expected = {"loss": complex(loss(new)).real, "grad_logprobs": gradient(loss, new)}
        decoys = {"ratio_differentiated_norm": norm(gradient(differentiated, new))}
        params = policy_params(low, high, surrogate="cispo")
        return case(f"cispo/random_{number}", "policy_gradient", params, inputs, expected, decoys=decoys)

    return [one(0, 0.2, 0.2), one(1, 1.0, 1.5)]


def smrc_sd(rng: random.Random) -> list[Any]:
    """``rho * (exp(log p - log q) - 1 - (log p - log q))``, with ``rho = exp(log q - log mu)`` differentiated, too."""

    def one(number: int) -> Any:
        inputs = sides(rng)
        tokens, teacher = inputs["token_ids"], inputs["teacher_logits"]
        recorded = [[round(-1.0 - abs(value), 4) for value in row] for row in table(rng, 0.5)]

        def loss(student: list[Any]) -> Any:
            total = 0.0
            for b, t in PLACES:
                log_q = log_probability(student[b][t], tokens[b][t])
                gap = log_probability(teacher[b][t], tokens[b][t]).real - log_q
                total += cmath.exp(log_q - recorded[b][t]) * (cmath.exp(gap) - 1 - gap)
            return total / len(PLACES)

        expected = {"grad_student_logits": gradient(loss, inputs["student_logits"])}
        inputs["rollout_logprobs"] = recorded
        params = {"normalize": "token_mean"}
        return case(f"smrc_sd/random_{number}", "importance_reverse_kl", params, inputs, expected)

    return [one(0), one(1)]


def turn_opd(rng: random.Random) -> list[Any]:
    cases = []
    for step, begin, steps in [(0, 20, 60), (35, 20, 60), (80, 20, 60)]:
        losses = [[abs(value) for value in row] for row in table(rng, 1.0)]
        alpha = min(max((step - begin) / steps, 0.0), 1.0)
        weights = [[0.0] * LENGTH for _ in range(ROWS)]
        for b, t in PLACES:
            tokens = sum(MASK[b])
            turns = {TURNS[b][u] for u in range(LENGTH) if MASK[b][u]}
            in_turn = sum(1 for u in range(LENGTH) if MASK[b][u] and TURNS[b][u] == TURNS[b][t])
            of_token, of_turn = 1 / tokens, 1 / (len(turns) * in_turn)
            weights[b][t] = ((1 - alpha) * of_token + alpha * of_turn) / ROWS
        total = sum(weights[b][t] * losses[b][t] for b, t in PLACES)
        share = {"initial": 0.0, "final": 1.0, "shape": "linear", "begin": begin, "steps": steps}
        params = {"normalize": "seq_mean_token_mean", "toward": "traj_mean_turn_mean", "share": share, "step": step}
        inputs = {"losses": losses, "mask": MASK, "turn_ids": TURNS}
        expected = {"share": alpha, "coefficients": weights, "loss": total}
        cases.append(case(f"turn_opd/step_{step}", "normalize_blend", params, inputs, expected))
    return cases


SOURCES = {
    rlsd: "arXiv 2604.03128; verl/trainer/ppo/rlsd_utils.py of the SDAR repository",
    agent_opsd: "arXiv 2608.05987; verl/trainer/ppo/opsd_utils.py of its repository (belief_mult, signed, per turn)",
    sdar: "arXiv 2605.15155; verl/trainer/ppo/sdar_utils.py of its repository",
    dual_clip: "arXiv 1912.09729; verl's clip_ratio_c, TRL's delta",
    cispo: "arXiv 2506.13585, equations 4 and 5",
    smrc_sd: "arXiv 2608.05219; the loss on matched turns is Skill-SD's (arXiv 2604.10674)",
    turn_opd: "arXiv 2607.05804, progressive turn-normalized loss",
}


def main(folder: Path = FOLDER) -> None:
    """Write one file per method."""
    for number, (make, source) in enumerate(SOURCES.items()):
        document = {
            "format_version": 1,
            "dtype": "float64",
            "source": source,
            "tolerance": {"rtol": 1e-9, "atol": 1e-12},
            "suites": [{"name": make.__name__, "tensors": {}, "cases": make(random.Random(number))}],
        }
        text = json.dumps(document, indent=None, separators=(", ", ": "))
        (folder / f"{make.__name__}.json").write_text(text.replace('{"id"', '\n{"id"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:2]))

"""Memory and time of a full-vocabulary divergence: autograd through all logits compared with the linear form in parts.

    python benchmarks/divergence_memory.py --csv divergence_memory.csv

``autograd`` is the textbook form: both logits, their log-softmax, the divergence from these, and autograd. Each variant
runs forward and backward, including the gradient of the output head, in its own process. Memory is the increase of the
peak over the peak with the inputs loaded; time is CPU time on one thread. Only ratios are comparable across machines.
The gradients of every variant are compared with those of ``autograd`` on a small problem.

Exits with status 1 if the last variant is above a bar of ``BARS``, which hold for N=1024, d=256 and V=151936.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch
from memory import peak_mib
from tables import write_rows
from torch import Tensor

from hero_pl.losses import (
    DistillationLoss,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    Scores,
    summed_divergence,
)

LOSSES = {"JensenShannon": JensenShannon, "ForwardKL": ForwardKL, "ReverseKL": ReverseKL}
AUTOGRAD = 0
BARS = {"memory_ratio": 0.08, "time_ratio": 0.55, "gradient_error": 1e-5}
"""Largest accepted memory and time as shares of ``autograd``, and largest relative error of a gradient."""


def build_inputs(tokens: int, width: int, vocab: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(vocab, width, generator=generator).mul_(width**-0.5).requires_grad_()
    return {
        "student_hidden": torch.randn(tokens, width, generator=generator).requires_grad_(),
        "student_head_weight": head,
        "teacher_hidden": torch.randn(tokens, width, generator=generator),
        "teacher_head_weight": head,
        "action_ids": torch.randint(vocab, (tokens,), generator=generator),
        "coefficients": torch.full((tokens,), 1.0 / tokens),
    }


def textbook(name: str, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Divergence per token from its definition."""
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    if name == "ForwardKL":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if name == "ReverseKL":
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2.0)
    return (log_q.exp() * (log_q - log_m)).sum(-1) / 2 + (log_p.exp() * (log_p - log_m)).sum(-1) / 2


def step(loss: DistillationLoss, inputs: dict[str, Tensor], chunk: int) -> list[Tensor]:
    """One forward and backward pass; gradients of hidden states and head."""
    trained = [inputs["student_hidden"], inputs["student_head_weight"]]
    if chunk == AUTOGRAD:
        with torch.no_grad():
            teacher_logits = inputs["teacher_hidden"] @ inputs["teacher_head_weight"].T
        student_logits = inputs["student_hidden"] @ inputs["student_head_weight"].T
        total = (inputs["coefficients"] * textbook(type(loss).__name__, student_logits, teacher_logits)).sum()
    else:
        sides = (
            Scores(inputs[f"{side}_hidden"], inputs[f"{side}_head_weight"], chunk) for side in ("student", "teacher")
        )
        total = summed_divergence(loss, *sides, inputs["coefficients"], inputs["action_ids"]).loss
    return list(torch.autograd.grad(total, trained))


def measure(name: str, tokens: int, width: int, vocab: int, chunk: int) -> dict[str, float]:
    """One variant, in this process."""
    torch.set_num_threads(1)
    loss = LOSSES[name]()
    step(loss, build_inputs(8, width, 64), chunk)  # load the kernels before measuring
    inputs = build_inputs(tokens, width, vocab)
    memory, start = peak_mib(), time.process_time()
    step(loss, inputs, chunk)
    return {"chunk": chunk, "extra_mib": peak_mib() - memory, "cpu_s": time.process_time() - start}


def worst_gradient_error(name: str, chunk: int) -> float:
    """Largest relative error of either gradient against the plain path, on 200 tokens over 997 ids."""
    inputs = build_inputs(200, 32, 997)
    whole, chunked = step(LOSSES[name](), inputs, AUTOGRAD), step(LOSSES[name](), inputs, chunk)
    return max(float((one - other).norm() / one.norm()) for one, other in zip(whole, chunked, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, default="JensenShannon")
    parser.add_argument("--tokens", type=int, default=1024, help="action tokens N")
    parser.add_argument("--width", type=int, default=256, help="hidden size d")
    parser.add_argument("--vocab", type=int, default=151_936, help="vocabulary V")
    parser.add_argument("--chunks", type=int, nargs="+", default=[256, 128], help="tokens projected at a time")
    parser.add_argument("--csv", type=Path, help="also write the table here")
    parser.add_argument("--variant", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant is not None:
        print(json.dumps(measure(options.loss, options.tokens, options.width, options.vocab, options.variant)))
        return 0

    rows = []
    for chunk in (AUTOGRAD, *options.chunks):
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", str(chunk)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = rows[0] if rows else found
        rows.append(
            {
                "variant": "autograd" if chunk == AUTOGRAD else f"chunks of {chunk}",
                "extra_mib": round(found["extra_mib"], 1),
                "cpu_s": round(found["cpu_s"], 2),
                "memory_ratio": round(found["extra_mib"] / first["extra_mib"], 3),
                "time_ratio": round(found["cpu_s"] / first["cpu_s"], 3),
                "gradient_error": 0.0
                if chunk == AUTOGRAD
                else float(f"{worst_gradient_error(options.loss, chunk):.1e}"),
            }
        )
    print(f"{options.loss}, N={options.tokens}, d={options.width}, V={options.vocab}, forward and backward")
    print("".join(f"{name:>16}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>16}" for value in row.values()))
    if options.csv:
        write_rows(options.csv, rows)
    broken = [name for name, bar in BARS.items() if float(rows[-1][name]) > bar]
    print(f"bars {BARS}:", f"broken: {', '.join(broken)}" if broken else "held")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())

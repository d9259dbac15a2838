"""The teacher's pass over hinted turns, and a whole gradient step: a shared conversation against separate passes.

    python benchmarks/teacher_scoring.py

Random weights and ids, float32, one thread, CPU time. The variants run alternately in one process, and the best of
``--repeat`` runs is reported; only ratios are comparable across machines. Tokens are counted, not measured.

alone     each row by itself
padded    rows of like length side by side (``teacher_scoring: separate``)
default   ``teacher_scoring: auto`` with weights of its own: the conversation once
live      the same with live weights, which are the default: on the keys and values of the student's pass
turns     a gradient step with one sample per turn and side, through all logits of the actions, by autograd
step      the same step as ``SelfDistillation`` makes it

Exits with status 1 if ``live`` against the better of ``alone`` and ``padded``, or ``step`` against ``turns``, is below
a bar of ``BARS``, which hold for d=256.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.losses import JensenShannon, summed_divergence
from hero_pl.policy.branches import BranchScorer, forwarded_tokens
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.types import ScoreRow

MANY, FEW = 16, 4
"""Turns from which on, and up to which, a bar holds."""
BARS = {"many": 3.5, "few": 0.95, "step": 5.4}
"""Smallest speed-up of the teacher's pass with many and with few turns, and of the gradient step with many."""


def build_policy(width: int, vocab: int, layers: int) -> HuggingFacePolicy:
    config = {
        "model_type": "qwen3",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": max(width // 64, 1),
        "head_dim": 32,
        "max_position_embeddings": 1 << 16,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
    }
    with tempfile.TemporaryDirectory() as folder:
        byte_tokenizer().save_pretrained(folder)
        policy = HuggingFacePolicy(config=config, tokenizer=folder)
        policy.load()
    return policy


def build_rows(length: int, turns: int, vocab: int, hint: int | None) -> tuple[list[ScoreRow], ScoreRow]:
    """An episode of ``length`` ids: a quarter is the prompt, and a third of each turn is the action.

    Returns:
        The teacher's row of each turn, and the student's of all.
    """
    generator = torch.Generator().manual_seed(0)
    trunk = torch.randint(vocab, (length,), generator=generator).tolist()
    start, per_turn = length // 4, (length - length // 4) // turns
    action = max(per_turn // 3, 1)
    size = hint or min(per_turn - action, 256) + 96  # the truncated observation and a diagnosis
    rows, spans = [], []
    for turn in range(turns):
        context = start + turn * per_turn
        hinted = [*trunk[:context], *torch.randint(vocab, (size,), generator=generator).tolist()]
        ids = (*hinted, *trunk[context : context + action])
        rows.append(ScoreRow(ids, ((len(hinted), len(ids)),)))
        spans.append((context, context + action))
    return rows, ScoreRow(tuple(trunk[: spans[-1][1]]), tuple(spans))


class Work:
    """One episode, scored in different ways."""

    def __init__(self, policy: HuggingFacePolicy, rows: list[ScoreRow], student: ScoreRow) -> None:
        self.policy, self.rows, self.student = policy, rows, student
        self.network = policy.need_network("teacher_scoring")
        self.scorer = BranchScorer()
        assert self.scorer.borrows(policy), self.scorer.reason or self.scorer.not_borrowed
        self.action_ids = torch.tensor([i for row in rows for i in row.ids[-row.scored :]])
        self.weight = 1.0 / len(self.action_ids)
        self.loss = JensenShannon()

    def alone(self) -> torch.Tensor:
        with self.policy.sampling():
            return torch.cat([self.policy.score([row]) for row in self.rows])

    def padded(self) -> torch.Tensor:
        with self.policy.sampling():
            return self.policy.score(self.rows)

    def default(self) -> torch.Tensor:
        with self.policy.sampling():
            return self.scorer.score(self.policy, self.rows, "live")

    def turns(self) -> float:
        """A sample per turn."""
        self.policy.zero_grad()
        total = 0.0
        for row, (start, stop) in zip(self.rows, self.student.spans, strict=True):
            with self.policy.sampling():
                teacher = self.policy.score([row])
            student = self.policy.score([ScoreRow(self.student.ids[:stop], ((start, stop),))])
            q, p = student.log_softmax(-1), teacher.log_softmax(-1)
            m = torch.logaddexp(q, p) - torch.tensor(2.0).log()
            loss = 0.5 * self.weight * ((q.exp() * (q - m)).sum() + (p.exp() * (p - m)).sum())
            loss.backward()
            total += float(loss.detach())
        return total

    def step(self) -> float:
        """As :class:`SelfDistillation` makes it."""
        self.policy.zero_grad()
        with self.network.keeping():
            student = self.policy.scores([self.student])
            with self.policy.sampling():
                teacher = self.scorer.scores(self.policy, self.rows, "live")
            weights = torch.full((len(student),), self.weight)
            loss = summed_divergence(self.loss, student, teacher, weights, self.action_ids).loss
        loss.backward()
        return float(loss.detach())


def timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure(work: Work, repeat: int, with_step: bool) -> dict[str, float]:
    """Best CPU seconds by variant, after a check that all give the same."""
    want = work.alone()
    for found in (work.padded(), work.default()):
        assert float((found - want).abs().max()) <= 1e-4
    variants: dict[str, Callable[[], object]] = {
        name: getattr(work, name) for name in ("alone", "padded", "default", *(("turns", "step") if with_step else ()))
    }
    best = dict.fromkeys((*variants, "live"), float("inf"))
    for _ in range(repeat):
        for name, variant in variants.items():
            best[name] = min(best[name], timed(variant))
        with work.network.keeping():
            work.policy.scores([work.student])
            found = work.default
            assert float((found() - want).abs().max()) <= 1e-4
            best["live"] = min(best["live"], timed(found))
    if with_step:
        assert abs(work.turns() - work.step()) <= 1e-5
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=256, help="hidden size d")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--length", type=int, default=4000, help="ids of the whole episode L")
    parser.add_argument("--turns", type=int, nargs="+", default=[2, 4, 16], help="turns T, all hinted")
    parser.add_argument("--hint", type=int, help="ids per hint; default: those of the observation plus 96")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = build_policy(options.width, options.vocab, options.layers)
    print(f"d={options.width}, {options.layers} layers, V={options.vocab}, L={options.length}; CPU s")
    broken = False
    for turns in options.turns:
        rows, student = build_rows(options.length, turns, options.vocab, options.hint)
        found = measure(Work(policy, rows, student), options.repeat, turns >= MANY)
        users = min(found["alone"], found["padded"])
        tokens = {
            "alone": sum(len(row.ids) for row in rows),
            "default": forwarded_tokens(rows),
            "live": forwarded_tokens(rows, [student]),
        }
        gains = {"default": users / found["default"], "live": users / found["live"]}
        if turns >= MANY:
            gains["step"] = found["turns"] / found["step"]
            broken |= gains["live"] < BARS["many"] or gains["step"] < BARS["step"]
        elif turns <= FEW:
            broken |= min(gains["live"], gains["default"]) < BARS["few"]
        print(f"T={turns}", {name: round(value, 2) for name, value in found.items()}, "tokens", tokens)
        print("    times as fast:", {name: round(value, 2) for name, value in gains.items()})
    print("bars:", BARS, "broken" if broken else "held")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())

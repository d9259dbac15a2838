"""Resident memory of GRPO steps on a model of your own, float32, on a CPU.

    python benchmarks/grpo_memory.py --pretrained FOLDER

Made-up episodes, two optimizer steps of AdamW on an adapter of rank 16 as in ``configs/smollm2_shop.yaml``, or on all
weights with ``--rank 0``; micro-batches as ``HeroModule`` makes them. Exits with status 1 above ``--bar``, which holds
for an adapter of SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from memory import peak_mib

from hero_pl.chat.actions import PlainText
from hero_pl.module import TOKENS_PER_MICRO_BATCH
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.types import StopReason, Trajectory, Turn


def episode(number: int, vocabulary: int, tokens: int) -> Trajectory:
    """Two turns; half of the tokens are sampled."""
    part = tokens // 4
    ids = torch.randint(vocabulary, (4 * part,), generator=torch.Generator().manual_seed(number)).tolist()
    turns = tuple(
        Turn(i + 1, tuple(ids[:end]), tuple(ids[end : end + part]), (-8.0,) * part, "", "", "", "user")
        for i, end in enumerate((part, 3 * part))
    )
    reward = float(number % 2)
    return Trajectory(str(number), "made up", number, 0, "", (), "", turns, reward, StopReason.TERMINATED)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pretrained", required=True)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=320, help="of an episode")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter; 0 trains all weights")
    parser.add_argument("--bar", type=float, default=3.0, help="GB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = HuggingFacePolicy(
        options.pretrained,
        parser=PlainText(),
        lora=Lora(rank=options.rank, alpha=2 * options.rank) if options.rank else None,
        gradient_checkpointing=options.checkpointing,
    )
    policy.load()
    loaded = peak_mib()
    vocabulary = int(policy.need_network("grpo_memory").model.config.get_text_config().vocab_size)
    played = [episode(i, vocabulary, options.tokens) for i in range(options.episodes)]
    objective, optimizer = (
        GRPO(),
        torch.optim.AdamW([weight for weight in policy.parameters() if weight.requires_grad], lr=1e-9),
    )
    objective.start(policy)
    policy.train()
    started = time.process_time()
    for _ in range(options.steps):
        optimizer.zero_grad()
        batch = objective.prepare(played, policy, lambda local: local).batch
        for micro in batch.split(TOKENS_PER_MICRO_BATCH[True]):
            objective.loss(policy, micro).loss.backward()
        optimizer.step()
    spent = (time.process_time() - started) / options.steps
    peak = peak_mib() * 2**20 / 1e9
    print(f"loaded {loaded * 2**20 / 1e9:.2f} GB, peak {peak:.2f} GB (at most {options.bar}); {spent:.1f} CPU s a step")
    return int(peak > options.bar)


if __name__ == "__main__":
    sys.exit(main())

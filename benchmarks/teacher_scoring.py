"""The teacher's forward pass over hinted turns: separate passes compared with a shared conversation.

    python benchmarks/teacher_scoring.py --width 256 --length 2000 --turns 4 16 32

Random weights and ids, float32, one thread, CPU time. The variants run alternately in one process, and the best of
``--repeat`` runs is reported; only ratios are comparable across machines. Tokens are counted, not measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.policy.branches import BranchScorer, forwarded_tokens
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.types import ScoreRow

VARIANTS = ("separate", "prefix_cache", "tree_mask")


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


def build_rows(length: int, turns: int, vocab: int, hint: int | None) -> list[ScoreRow]:
    """An episode of ``length`` ids: a quarter is the prompt, and a third of each turn is the action."""
    generator = torch.Generator().manual_seed(0)
    trunk = torch.randint(vocab, (length,), generator=generator).tolist()
    start, per_turn = length // 4, (length - length // 4) // turns
    action = max(per_turn // 3, 1)
    size = hint or min(per_turn - action, 256) + 96  # the truncated observation and a diagnosis
    rows = []
    for turn in range(turns):
        context = start + turn * per_turn
        hinted = [*trunk[:context], *torch.randint(vocab, (size,), generator=generator).tolist()]
        ids = (*hinted, *trunk[context : context + action])
        rows.append(ScoreRow(ids, ((len(hinted), len(ids)),)))
    return rows


def measure(policy: HuggingFacePolicy, rows: list[ScoreRow], repeat: int) -> dict[str, dict[str, float]]:
    """Tokens, best CPU time and largest difference from the logits of separate passes, by variant."""
    scorers = {how: BranchScorer(how) for how in ("prefix_cache", "tree_mask")}  # type: ignore[arg-type]
    found = {variant: {"cpu_s": float("inf"), "difference": 0.0} for variant in VARIANTS}
    found["separate"]["tokens"] = sum(len(row.ids) for row in rows)
    with policy.sampling():
        for how, scorer in scorers.items():
            assert scorer.can_share(policy, "live"), scorer.reason
            found[how]["tokens"] = forwarded_tokens(rows)
        for _ in range(repeat):
            for variant in VARIANTS:
                begin = time.process_time()
                if variant == "separate":
                    want = torch.cat([policy.score([row]) for row in rows])
                    got = want
                else:
                    got = scorers[variant].score(policy, rows, "live")
                found[variant]["cpu_s"] = min(found[variant]["cpu_s"], time.process_time() - begin)
                found[variant]["difference"] = float((got - want).abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=256, help="hidden size d")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--length", type=int, default=2000, help="ids of the whole episode L")
    parser.add_argument("--turns", type=int, nargs="+", default=[4, 16], help="turns T, all hinted")
    parser.add_argument("--hint", type=int, help="ids per hint; default: those of the observation plus 96")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = build_policy(options.width, options.vocab, options.layers)
    print(f"d={options.width}, {options.layers} layers, V={options.vocab}, L={options.length}")
    print("".join(f"{name:>14}" for name in ("T", "variant", "tokens", "cpu_s", "speed-up", "difference")))
    for turns in options.turns:
        found = measure(policy, build_rows(options.length, turns, options.vocab, options.hint), options.repeat)
        for variant, row in found.items():
            gain = found["separate"]["cpu_s"] / row["cpu_s"]
            print(
                f"{turns:>14}{variant:>14}{row['tokens']:>14.0f}{row['cpu_s']:>14.2f}{gain:>14.2f}"
                f"{row['difference']:>14.1e}"
            )


if __name__ == "__main__":
    main()

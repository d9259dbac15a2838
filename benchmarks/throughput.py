"""Turns per second of the sampler with a persistent cache, compared with one that reads the history at every turn.

    python benchmarks/throughput.py --csv throughput.csv

Both sample the same tokens from a random model; every action has its full length, so that both do the same work. Time
is CPU time on one thread, the variants run alternately in one process, and only their ratio is comparable across
machines.
The second table shows the parts of one training step in the pocket shop. The third plays many episodes of the shop with
a limit on episodes in flight: in waves, each of which waits for its longest episode, and in slots that are refilled at
once. Occupancy is the fraction of row-steps of the decoding, at full width, that belong to unfinished episodes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tables import write_rows

from hero_pl.chat.actions import PlainText
from hero_pl.datamodule import RolloutDataModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampler import CachedSampler, CachedSession
from hero_pl.policy.sampling import SampledPolicy, Sampling
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Limits
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import InitialWeights
from hero_pl.types import SampledAction

LOADS = {"B=8 T=8": (8, 8, 512, 32, 64), "B=32 T=16": (32, 16, 256, 16, 32)}
"""Number of conversations and turns, and tokens of the prompt, of an action and of an observation."""


def random_policy(width: int, vocab: int, tokenizer: str = "hero_pl:pocket-shop", **settings: Any) -> HuggingFacePolicy:
    policy = HuggingFacePolicy(
        config={
            "model_type": "qwen3",
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": max(width // 64, 1),
            "num_key_value_heads": max(width // 64, 1),
            "head_dim": 64,
            "vocab_size": vocab,
            "max_position_embeddings": 8192,
            "initializer_range": 0.1,
        },
        tokenizer=tokenizer,
        **settings,
    )
    policy.load()
    policy.template.end_ids = frozenset()  # no action ends early
    return policy


def play(policy: HuggingFacePolicy, load: tuple[int, int, int, int, int], keep_cache: bool) -> list[tuple[int, ...]]:
    """Play, and return the whole conversations as ids."""
    count, turns, prompt, action, observation = load
    draw = torch.Generator().manual_seed(0)

    def text(length: int) -> list[tuple[int, ...]]:
        return [tuple(row) for row in torch.randint(300, (count, length), generator=draw).tolist()]

    histories = text(prompt)
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(0.0, action), range(count))
        for _ in range(turns):
            if not keep_cache:
                session = policy.sampler.open(policy, Sampling(0.0, action), range(count))
            said = session.act(range(count), histories)
            answers = text(observation)
            histories = [h + one.ids + answer for h, one, answer in zip(histories, said, answers, strict=True)]
    return histories


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def rollouts(width: int, vocab: int, repeats: int) -> list[dict[str, float | str]]:
    policy = random_policy(width, vocab)
    rows: list[dict[str, float | str]] = []
    for name, load in LOADS.items():
        assert play(policy, load, True) == play(policy, load, False), "the cache changes what is sampled"
        times: list[tuple[float, float]] = []
        for _ in range(repeats):
            times.append((cpu_s(partial(play, policy, load, False)), cpu_s(partial(play, policy, load, True))))
        again, kept = (min(pair[i] for pair in times) for i in (0, 1))
        turns = load[0] * load[1]
        speeds = {"re-prefill turns/s": turns / again, "kept turns/s": turns / kept, "ratio": again / kept}
        rows.append({"load": name, **speeds})
    return rows


def parts(repeats: int) -> list[dict[str, float | str]]:
    """Time the parts of one quickstart step: rollout, reflection and batch, gradient and optimizer step."""
    policy = HuggingFacePolicy("hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    reflector = SelfReflector("initial", "continue", 16)
    teacher = HindsightTeacher(template="hero_pl:pocket/hint.jinja")
    objective = SelfDistillation(reflector, teacher, InitialWeights())
    objective.start(policy)
    data = RolloutDataModule("hero_pl/WebShopPocket-v0", max_action_tokens=12, limits=Limits(12, 128))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    found: list[list[float]] = []
    for step in range(repeats + 1):
        clock = [time.process_time()]
        played = data.collector("train").collect(data.specs(step), policy, data.sampling)
        clock.append(time.process_time())
        with torch.no_grad():
            batch = objective.prepare(played, policy, lambda local: local).batch
        clock.append(time.process_time())
        optimizer.zero_grad()
        for micro in batch.split(1500):
            objective.loss(policy, micro).loss.backward()
        optimizer.step()
        clock.append(time.process_time())
        found.append([after - before for before, after in pairwise(clock)])
    means = torch.tensor(found[1:]).mean(0).tolist()  # the first step warms up
    names = ("rollout", "reflection and layout", "gradient step")
    return [{"part": name, "CPU s": mean, "share": mean / sum(means)} for name, mean in zip(names, means, strict=True)]


class Counted(CachedSampler):
    """Counts the rows in each round of sampling."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> CachedSession:
        session = super().open(policy, sampling, seeds, weights)
        draw = session.finished

        def counted() -> list[tuple[int, SampledAction]]:
            self.rounds.append(len(session.asked))
            return draw()

        session.finished = counted  # type: ignore[method-assign]
        return session


def occupancy(episodes: int, at_once: int) -> list[dict[str, float | str]]:
    """The same episodes in waves and in slots."""
    policy = HuggingFacePolicy("hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    data = RolloutDataModule("hero_pl/WebShopPocket-v0", tasks_per_step=episodes, limits=Limits(12, at_once))
    collector, specs = data.collector("train"), data.specs(0)
    sampling = Sampling(1.0, 12)
    rows: list[dict[str, float | str]] = []
    played = []
    for name, size in (("waves", at_once), ("slots", episodes)):
        policy.sampler = sampler = Counted()
        started = time.process_time()
        found = [
            one for i in range(0, episodes, size) for one in collector.collect(specs[i : i + size], policy, sampling)
        ]
        spent = time.process_time() - started
        played.append([[turn.action_ids for turn in one.turns] for one in found])
        share = sum(sampler.rounds) / (len(sampler.rounds) * at_once)
        rows.append({"played in": name, "rounds": float(len(sampler.rounds)), "occupancy": share, "CPU s": spent})
    assert played[0] == played[1], "an episode depends on its neighbors"
    return rows


def show(rows: list[dict[str, float | str]]) -> None:
    print("  ".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>22.3f}" if isinstance(value, float) else f"{value:>22}" for value in row.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rollouts(options.width, options.vocab, options.repeats)
    show(rows)
    show(parts(options.repeats))
    show(occupancy(128, 32))
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()

"""Turns per second of the sampler, compared with ``generate`` of transformers, which reads the history at every turn.

    python benchmarks/throughput.py --csv throughput.csv

All variants sample the same tokens from a random model; every action has its full length, so that they do the same
work. Time is CPU time on one thread, the variants run alternately in one process, and only their ratio is comparable
across machines. ``again`` is the sampler itself with a new session at every turn.
The second table compares a LoRA adapter that is merged while it samples with one that is not. The third table shows
the parts of one training step in the pocket shop. The fourth plays many episodes of the shop with
a limit on episodes in flight: in waves, each of which waits for its longest episode; in slots that are refilled when
the longest action has ended; and in slots that are refilled when half of the actions have (the default). Occupancy is
the share of the slots whose token is kept, over all passes of the decoding.

Exits with status 1 if a ratio or the occupancy is below its bar.
"""

from __future__ import annotations

import argparse
import sys
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
from hero_pl.policy.loading import Lora
from hero_pl.policy.sampler import CachedSampler, CachedSession
from hero_pl.policy.sampling import SampledPolicy, Sampling
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Limits
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import InitialWeights

LOADS = {"B=8 T=8": (8, 8, 512, 32, 64), "B=32 T=16": (32, 16, 256, 16, 32)}
"""Number of conversations and turns, and tokens of the prompt, of an action and of an observation."""
BARS = {"B=8 T=8": 2.3, "B=32 T=16": 4.0}
"""Least speed against ``generate``."""
OCCUPANCY = 0.85


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


class Texts:
    """Random prompts and observations of one load, as ids."""

    def __init__(self, load: tuple[int, int, int, int, int]) -> None:
        self.count, self.turns, prompt, self.action, self.observation = load
        self.draw = torch.Generator().manual_seed(0)
        self.prompts = self.next(prompt)

    def next(self, length: int) -> list[tuple[int, ...]]:
        return [tuple(row) for row in torch.randint(300, (self.count, length), generator=self.draw).tolist()]


def play(policy: HuggingFacePolicy, load: tuple[int, int, int, int, int], keep_cache: bool) -> list[tuple[int, ...]]:
    """Play, and return the whole conversations as ids."""
    texts = Texts(load)
    histories, rows = texts.prompts, range(texts.count)
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(0.0, texts.action), rows)
        for _ in range(texts.turns):
            if not keep_cache:
                session = policy.sampler.open(policy, Sampling(0.0, texts.action), rows)
            said = session.act(rows, histories)
            answers = texts.next(texts.observation)
            histories = [h + one.ids + answer for h, one, answer in zip(histories, said, answers, strict=True)]
    return histories


def generate(policy: HuggingFacePolicy, load: tuple[int, int, int, int, int]) -> list[tuple[int, ...]]:
    """The same with ``generate`` of transformers, from the whole histories at every turn."""
    texts = Texts(load)
    histories = torch.tensor(texts.prompts)
    tokens = {"max_new_tokens": texts.action, "min_new_tokens": texts.action, "pad_token_id": 0, "eos_token_id": None}
    model = policy.need_network("throughput").model
    with policy.sampling():
        for _ in range(texts.turns):
            mask = torch.ones_like(histories)
            said = model.generate(histories, attention_mask=mask, do_sample=False, **tokens)
            histories = torch.cat([said, torch.tensor(texts.next(texts.observation))], 1)
    return [tuple(row) for row in histories.tolist()]


def cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def rollouts(width: int, vocab: int, repeats: int) -> list[dict[str, float | str]]:
    policy = random_policy(width, vocab)
    rows: list[dict[str, float | str]] = []
    for name, load in LOADS.items():
        assert play(policy, load, True) == generate(policy, load), "the cache changes what is sampled"
        ways = (partial(generate, policy, load), partial(play, policy, load, False), partial(play, policy, load, True))
        times = [[cpu_s(way) for way in ways] for _ in range(repeats)]
        whole, again, kept = (min(column) for column in zip(*times, strict=True))
        turns = load[0] * load[1]
        speeds = {"generate turns/s": turns / whole, "again turns/s": turns / again, "turns/s": turns / kept}
        rows.append({"load": name, **speeds, "of again": again / kept, "of generate": whole / kept})
    return rows


def adapter(width: int, vocab: int, repeats: int) -> list[dict[str, float | str]]:
    """A policy with an adapter, merged while it samples or not."""
    policy = random_policy(width, vocab, lora=Lora())
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for merge, spent in times.items():
            policy.sampler = CachedSampler(merge=merge)
            spent.append(cpu_s(partial(play, policy, LOADS["B=8 T=8"], True)))
    merged, plain = min(times[True]), min(times[False])
    return [{"adapter": "B=8 T=8", "not merged CPU s": plain, "merged CPU s": merged, "ratio": plain / merged}]


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
    """Remembers its sessions."""

    def __init__(self, refill: float) -> None:
        super().__init__(refill)
        self.sessions: list[CachedSession] = []

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> CachedSession:
        self.sessions.append(super().open(policy, sampling, seeds, weights))
        return self.sessions[-1]


def occupancy(episodes: int, at_once: int) -> list[dict[str, float | str]]:
    """The same episodes in waves, in slots that wait for the longest action, and in slots that do not."""
    policy = HuggingFacePolicy("hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    data = RolloutDataModule("hero_pl/WebShopPocket-v0", tasks_per_step=episodes, limits=Limits(12, at_once))
    collector, specs = data.collector("train"), data.specs(0)
    sampling = Sampling(1.0, 12)
    rows: list[dict[str, float | str]] = []
    played = []
    for name, size, refill in (
        ("waves", at_once, 0.0),
        ("slots", episodes, 0.0),
        ("slots, refilled", episodes, CachedSampler().refill),
    ):
        policy.sampler = sampler = Counted(refill)
        started = time.process_time()
        found = [
            one for i in range(0, episodes, size) for one in collector.collect(specs[i : i + size], policy, sampling)
        ]
        spent = time.process_time() - started
        played.append([[turn.action_ids for turn in one.turns] for one in found])
        rounds, drawn = (sum(getattr(one, what) for one in sampler.sessions) for what in ("rounds", "drawn"))
        row = {"played in": name, "rounds": float(rounds), "occupancy": drawn / (rounds * at_once), "CPU s": spent}
        rows.append(row)
    assert played[0] == played[1] == played[2], "an episode depends on its neighbors"
    return rows


def show(rows: list[dict[str, float | str]]) -> None:
    print("  ".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>22.3f}" if isinstance(value, float) else f"{value:>22}" for value in row.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rollouts(options.width, options.vocab, options.repeats)
    show(rows)
    show(adapter(options.width, options.vocab, options.repeats))
    show(parts(options.repeats))
    slots = occupancy(256, 32)
    show(slots)
    if options.csv:
        write_rows(options.csv, rows)
    below = [row["load"] for row in rows if float(row["of generate"]) < BARS[str(row["load"])]]
    below += ["occupancy"] * (float(slots[-1]["occupancy"]) < OCCUPANCY)
    print(f"below its bar: {', '.join(map(str, below)) or 'nothing'}")
    return int(bool(below))


if __name__ == "__main__":
    sys.exit(main())

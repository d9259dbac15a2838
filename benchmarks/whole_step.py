"""One whole training step by its parts, against the naive way and against earlier settings.

    python benchmarks/whole_step.py --csv whole_step.csv

An environment of fixed lengths, a reflector with fixed diagnoses, random weights, float32, one thread, CPU time.
The variants run alternately in one process on equal conversations; only ratios mean something on another machine.

naive      reads the whole history again at every turn, scores one sample per turn and side, autograd through all logits
separate   hero_pl with ``teacher_scoring: separate`` and ``logits_at_once: 0``: the settings of 0.1.0, in today's code
default    hero_pl as it comes

Exits with status 1 if ``default`` costs more than ``--bar`` times ``naive``.

    python benchmarks/whole_step.py --peer

compares ``default``, alone and with a review of 480 tokens per episode (``reviewed``), with two trainers of TRL 1.16 on
the same numbers of tokens (``peer_trl.py``), in CPU time and, a process each, in peak memory. Exits with status 1 above
a bar of ``BARS``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from memory import peak_mib
from peer_trl import PEERS, Lengths, missing
from tables import write_rows
from throughput import random_policy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import DynamicCache

from hero_pl.chat.actions import PlainText
from hero_pl.chat.byte_tokenizer import with_chatml
from hero_pl.module import TOKENS_PER_MICRO_BATCH
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.self_reflector import review_prompt
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Diagnosis, Reflection, ScoreRow, Trajectory

PARTS = ("rollout", "teacher", "student", "optimizer")

REVIEW_TOKENS = 480
BARS = {
    "GRPOTrainer": {"default": 0.40, "reviewed": 0.5, "memory": 0.19},
    "SDPOTrainer": {"default": 0.37, "reviewed": 0.5, "memory": 0.7},
}
"""Largest accepted shares of a peer's CPU time, and of its peak memory by ``default``."""


@dataclass(frozen=True, slots=True)
class Load:
    """Episodes, turns, and tokens of the prompt, of an action, of an observation and of a diagnosis."""

    episodes: int = 4
    turns: int = 8
    prompt: int = 512
    action: int = 64
    observation: int = 96
    diagnosis: int = 80


class Fixed(gymnasium.Env):
    """Answers every action with an observation of the same length; the episode never ends by itself."""

    def __init__(self, prompt: int, observation: int, split: str = "train") -> None:
        self.prompt, self.observation = prompt, observation
        self.task_ids = [str(i) for i in range(100)]
        self.observation_space = self.action_space = gymnasium.spaces.Text(1 << 20)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.task = (options or {}).get("task", "0")
        return self._text(self.prompt), {"task": self.task, "system_prompt": "", "tools": [], "role": "user"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return self._text(self.observation), 0.0, False, False, {"role": "user", "success": False}

    def _text(self, length: int) -> str:
        return "".join(chr(97 + int(letter)) for letter in self.np_random.integers(26, size=length))


gymnasium.register("whole_step/Fixed-v0", entry_point=Fixed, order_enforce=False, disable_env_checker=True)


class Ready(Reflector):
    """The same diagnosis for every turn, without a model."""

    def __init__(self, length: int) -> None:
        self.text = "d" * length

    def reflect(self, trajectories: Sequence[Trajectory], policy: Any) -> list[Reflection]:
        return [Reflection(tuple(Diagnosis(self.text, "high") for _ in t.turns), "ok") for t in trajectories]


class Writing(Ready):
    """The same, after the policy has written a review of fixed length, in continuation of the episode."""

    continues = 64

    def reflect(self, trajectories: Sequence[Trajectory], policy: Any) -> list[Reflection]:
        with policy.sampling():
            session = policy.sampler.open(policy, Sampling(0.0, REVIEW_TOKENS), range(len(trajectories)))
            session.act(range(len(trajectories)), [review_prompt(t, policy.dialect) for t in trajectories])
            policy.sampler.forget()
        return super().reflect(trajectories, policy)


def build_policy(width: int, vocab: int, **settings: Any) -> HuggingFacePolicy:
    """Random weights; a byte tokenizer whose other ids are pairs of bytes that no text is encoded as."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = (a + b for a in letters for b in letters)
    pieces = [*letters, *(next(pairs) for _ in range(vocab - len(letters) - 3))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as folder:
        with_chatml(tokenizer).save_pretrained(folder)
        return random_policy(width, vocab, folder, parser=PlainText(), **settings)


class Clock:
    """CPU seconds by part, or what else ``now`` reads."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.now = now
        self.spent: dict[str, float] = defaultdict(float)

    @property
    def total(self) -> float:
        return sum(self.spent.values())

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = self.now()
            found = work(*args, **kwargs)
            self.spent[part] += self.now() - started
            return found

        return run


class Ours:
    """A step of the shipped classes."""

    def __init__(
        self, load: Load, width: int, vocab: int, at_once: Any, reflector: type[Ready] = Ready, **objective: Any
    ) -> None:
        self.load = load
        self.policy = build_policy(width, vocab, logits_at_once=at_once)
        self.objective = SelfDistillation(
            reflector(load.diagnosis), HindsightTeacher(template="short"), probe_turns=0, **objective
        )
        self.objective.start(self.policy)
        self.collector = Collector(
            "whole_step/Fixed-v0",
            {"prompt": load.prompt, "observation": load.observation},
            split="train",
            limits=Limits(max_turns=load.turns, num_envs=load.episodes),
        )
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=0.0)

    def step(self, seed: int, now: Callable[[], float] = time.process_time) -> tuple[Clock, list[Trajectory], float]:
        clock = Clock(now)
        weights = self.objective.weights
        scores, weights.scores = weights.scores, clock.timed("teacher", weights.scores)  # type: ignore[method-assign]
        specs = [EpisodeSpec(self.collector.task_ids[i], i, seed + i) for i in range(self.load.episodes)]
        play = clock.timed("rollout", self.collector.collect)
        with self.policy.sampler.keeping(self.objective.continues):
            played = play(specs, self.policy, Sampling(1.0, self.load.action))
        started = now()
        with torch.no_grad():
            batch = self.objective.prepare(played, self.policy, lambda local: local).batch
        self.optimizer.zero_grad()
        total = 0.0
        for micro in batch.split(TOKENS_PER_MICRO_BATCH[True]):
            loss = self.objective.loss(self.policy, micro).loss
            loss.backward()
            total += float(loss.detach())
        clock.spent["student"] = now() - started - clock.spent["teacher"]
        clock.timed("optimizer", self.optimizer.step)()
        weights.scores = scores  # type: ignore[method-assign]
        return clock, played, total


class Naive:
    """The same step as most people would write it first; replays the conversations of another variant."""

    def __init__(self, ours: Ours) -> None:
        self.ours, self.policy = ours, ours.policy
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=0.0)

    @torch.no_grad()
    def rollout(self, played: Sequence[Trajectory]) -> None:
        """Read the whole history again at every turn, then decode with a cache; the drawn ids are those recorded."""
        network = self.policy.need_network("whole_step")
        for turns in zip(*(trajectory.turns for trajectory in played), strict=True):
            prompts = [list(turn.prompt_ids) for turn in turns]
            longest = max(map(len, prompts))
            padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
            given = {"input_ids": padded, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
            cache = DynamicCache()
            kept = {"use_cache": True, **cache_input(network.model, cache)}
            out = network.model(**given, **kept, logits_to_keep=1)
            for place in range(self.ours.load.action - 1):
                torch.multinomial(out.logits[:, -1].softmax(-1), 1)
                fed = torch.tensor([[turn.action_ids[place]] for turn in turns])
                mask = torch.cat([mask, torch.ones_like(fed)], 1)
                at = mask.sum(-1, keepdim=True) - 1
                out = network.model(input_ids=fed, attention_mask=mask, position_ids=at, **kept)
            torch.multinomial(out.logits[:, -1].softmax(-1), 1)

    def step(self, played: Sequence[Trajectory]) -> tuple[Clock, float]:
        clock = Clock()
        with self.policy.sampling():
            clock.timed("rollout", self.rollout)(played)
        objective = self.ours.objective
        with torch.no_grad():
            batch = objective.prepare(played, self.policy, lambda local: local).batch
        contexts = [(turn.prompt_ids, turn.prompt_ids + turn.action_ids) for t in played for turn in t.turns]
        rows = [ScoreRow(whole, ((len(context), len(whole)),)) for context, whole in contexts]
        network = self.policy.need_network("whole_step")

        def logits(row: ScoreRow) -> torch.Tensor:
            found: torch.Tensor = network.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
            return found[row.read]

        def teach(row: ScoreRow) -> torch.Tensor:
            with self.policy.sampling():
                return logits(row)

        self.optimizer.zero_grad()
        total, tokens = 0.0, sum(row.scored for row in rows)
        for student, teacher in zip(rows, batch.teacher, strict=True):
            hinted = clock.timed("teacher", teach)(teacher)

            def learn(student: ScoreRow = student, hinted: torch.Tensor = hinted) -> float:
                q, p = logits(student).log_softmax(-1), hinted.log_softmax(-1)
                m = torch.logaddexp(q, p) - torch.tensor(2.0).log()
                loss = 0.5 * ((q.exp() * (q - m)).sum(-1) + (p.exp() * (p - m)).sum(-1)).sum() / tokens
                loss.backward()
                return float(loss.detach())

            total += clock.timed("student", learn)()
        clock.timed("optimizer", self.optimizer.step)()
        return clock, total


def step_of(name: str, size: tuple[Load, int, int], folder: str) -> Callable[[], float]:
    """A function that makes one step of a variant or a peer, and returns its CPU seconds."""
    if name not in PEERS:
        ours = Ours(*size, "auto", Writing if name == "reviewed" else Ready)
        return lambda: sum(ours.step(0)[0].spent.values())
    ours = Ours(*size, "auto")
    specs = [EpisodeSpec(ours.collector.task_ids[i], i, i) for i in range(2)]
    played = ours.collector.collect(specs, ours.policy, Sampling(1.0, size[0].action))
    with torch.no_grad():
        batch = ours.objective.prepare(played, ours.policy, lambda local: local).batch
    lengths = Lengths.of(played, [len(row.ids) for row in batch.teacher])
    return PEERS[name](ours.policy, lengths, size[0].episodes, folder).step


def memory_of(name: str, size: tuple[Load, int, int]) -> float:
    """Peak memory of this process after two steps, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        step = step_of(name, size, folder)
        for _ in range(2):
            step()
    return peak_mib()


def compare(size: tuple[Load, int, int], repeats: int) -> int:
    """Compare with TRL; 1 if a bar is broken, 0 also where TRL cannot be imported."""
    if reason := missing():
        print(f"skipped: {reason}")
        return 0
    names = ("default", "reviewed", *PEERS)
    # first: a process begins with the peak of the one that started it
    memory = {}
    for name in ("default", *PEERS):
        command = [sys.executable, __file__, "--only", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        memory[name] = float(said.split()[-1])
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: step_of(name, size, folder) for name in names}
        found = [{name: step() for name, step in steps.items()} for _ in range(repeats)]
    seconds = {name: min(one[name] for one in found) for name in names}
    print("CPU s", {name: round(value, 2) for name, value in seconds.items()}, flush=True)
    print("peak MiB", {name: round(value) for name, value in memory.items()})
    broken = False
    for peer, bars in BARS.items():
        shares = {name: seconds[name] / seconds[peer] for name in ("default", "reviewed")}
        shares["memory"] = memory["default"] / memory[peer]
        for name, bar in bars.items():
            broken |= shares[name] > bar
            print(f"{name} of {peer}: {shares[name]:.2f} (at most {bar})")
    return int(broken)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bar", type=float, default=0.4, help="default against naive")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--peer", action="store_true", help="compare with TRL")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = Load()
    size = (load, options.width, options.vocab)
    if options.only:
        print(memory_of(options.only, size))
        return 0
    if options.peer:
        return compare(size, options.repeats)
    variants = {
        "separate": Ours(*size, 0, teacher_scoring="separate"),
        "default": Ours(*size, "auto"),
    }
    naive = Naive(variants["separate"])
    best: dict[str, Clock] = {}
    for repeat in range(options.repeats):
        losses = {}
        for name, variant in variants.items():
            clock, played, losses[name] = variant.step(100 * repeat)
            best[name] = min(clock, best.get(name, clock), key=lambda one: one.total)
        clock, losses["naive"] = naive.step(played)
        best["naive"] = min(clock, best.get("naive", clock), key=lambda one: one.total)
        assert max(losses.values()) - min(losses.values()) < 1e-5 * max(losses.values()), losses
    whole = {name: clock.total for name, clock in best.items()}
    rows = [
        {
            "variant": name,
            "cpu_s": round(whole[name], 2),
            **{part: round(best[name].spent[part], 2) for part in PARTS},
            "of_naive": round(whole[name] / whole["naive"], 3),
        }
        for name in ("naive", *variants)
    ]
    print("".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>12}" for value in row.values()))
    print(f"peak memory of this process: {peak_mib():.0f} MiB")
    if options.csv:
        write_rows(options.csv, rows)
    return int(rows[-1]["of_naive"] > options.bar)


if __name__ == "__main__":
    sys.exit(main())

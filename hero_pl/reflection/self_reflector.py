"""The policy reviews its own episodes: HERO's default reflector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.policy.base import Sampling
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.parse import LeakPolicy, parse_reflection
from hero_pl.reflection.prompt import merge_windows, requests
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy

REVIEW = "review: reward {reward:.2f}, {turns} turns"
"""Request that is appended to the trajectory in ``continue`` mode."""


class SelfReflector(Reflector):
    """Asks the policy itself, greedily and in one batch.

    Args:
        weights: ``live``, or ``initial``: the weights at the start of training, which do not degrade with the student.
        mode: ``transcript`` shows the episode as material to review in a conversation of its own; ``continue`` appends
            a short request to the episode's own ids, for small policies that were trained to answer it.
        tokens_per_turn: Room for the answer, in tokens per turn; 64 more are added.
        max_request_tokens: Longer episodes are reviewed in windows of turns; default: what fits into the context.
        leak_policy: What happens to a diagnosis that tells the future: ``drop``, ``redact`` or ``flag``.
        parallel: Reviews in one batch.
    """

    def __init__(
        self,
        weights: Literal["live", "initial"] = "live",
        mode: Literal["transcript", "continue"] = "transcript",
        tokens_per_turn: int = 96,
        max_request_tokens: int | None = None,
        leak_policy: LeakPolicy = "drop",
        parallel: int = 64,
    ) -> None:
        if tokens_per_turn < 1 or parallel < 1:
            raise ConfigError(
                f"SelfReflector(tokens_per_turn={tokens_per_turn}, parallel={parallel}): both must be at least 1."
            )
        self.weights, self.mode, self.tokens_per_turn = weights, mode, tokens_per_turn
        self.max_request_tokens, self.leak_policy, self.parallel = max_request_tokens, leak_policy, parallel

    def start(self, policy: Policy) -> None:
        """Keep the initial weights, if they are to reflect."""
        if self.weights == "initial":
            keep = getattr(policy, "keep", None)
            if keep is None:
                raise ConfigError(f"SelfReflector(weights='initial'): {type(policy).__name__} cannot keep a copy.")
            keep("initial")

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        if policy is None:
            raise ReflectionError("SelfReflector asks the policy, and none was given.")
        asked: list[tuple[int, tuple[int, int], tuple[int, ...]]] = []
        for i, trajectory in enumerate(trajectories):
            if trajectory.turns:
                asked += [(i, window, ids) for window, ids in self._prompts(trajectory, policy)]
        raw = self._generate([(ids, window) for _, window, ids in asked], policy)
        parts: list[list[Reflection]] = [[] for _ in trajectories]
        for (i, window, _), (text, tokens) in zip(asked, raw, strict=True):
            trajectory = trajectories[i]
            parsed = parse_reflection(
                text,
                turns=len(trajectory.turns),
                context=ReflectionContext.of(trajectory),
                leak_policy=self.leak_policy,
                window=window,
            )
            parts[i].append(Reflection(parsed.diagnoses, parsed.status, parsed.strict, parsed.issues, text, tokens))
        return [
            merge_windows(found, len(trajectory.turns))
            if len(found) > 1
            else found[0]
            if found
            else Reflection((), "rejected")
            for found, trajectory in zip(parts, trajectories, strict=True)
        ]

    def _prompts(self, trajectory: Trajectory, policy: Policy) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
        if self.mode == "continue":
            return [((1, len(trajectory.turns)), review_prompt(trajectory, policy))]
        count = policy.template.encoder.outside
        room = self.max_request_tokens or max(policy.max_length // 2, 64)
        asked = requests(trajectory, max_size=room, count=lambda text: len(count(text)))
        return [(request.window, policy.template.conversation(request.messages)) for request in asked]

    def _generate(
        self, prompts: Sequence[tuple[tuple[int, ...], tuple[int, int]]], policy: Policy
    ) -> list[tuple[str, int]]:
        answers: list[tuple[str, int]] = []
        for first in range(0, len(prompts), self.parallel):
            batch = prompts[first : first + self.parallel]
            turns = max(window[1] - window[0] + 1 for _, window in batch)
            room = policy.max_length - max(len(ids) for ids, _ in batch)
            if room < 1:
                answers += [("", 0)] * len(batch)  # counted as `no_json` by the parser
                continue
            sampling = Sampling(0.0, min(self.tokens_per_turn * turns + 64, room))
            with policy.sampling():
                session = policy.sampler.open(policy, sampling, [0] * len(batch), self.weights)
                for action in session.act(range(len(batch)), [ids for ids, _ in batch]):
                    answers.append((policy.template.encoder.decode(action.ids), len(action.ids)))
        return answers


def review_prompt(trajectory: Trajectory, policy: Policy) -> tuple[int, ...]:
    """The trajectory's own ids, its last observation, and the request to review it."""
    last = trajectory.turns[-1]
    context = policy.template.following(last.prompt_ids, last.action_ids, last.observation, last.role)
    return policy.template.splice(context, REVIEW.format(reward=trajectory.reward, turns=len(trajectory.turns)))

"""The data types of hero_pl: frozen records without behavior.

A *trajectory* is one episode. It has *turns*; a turn is one sampled reply of the policy (the *action*) and the
*observation* that came directly after it. A *reflection* holds one *diagnosis* (or ``None``) per turn. A *hint* is the
rendered block that only the teacher sees. This module imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Confidence: TypeAlias = Literal["low", "medium", "high"]
HintPosition: TypeAlias = Literal["before_action", "last_message", "system", "think_prefix", "after_draft"]


class StopReason(StrEnum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The environment reached a terminal state."""
    TRUNCATED = "truncated"
    """The environment's own step limit."""
    MAX_TURNS = "max_turns"
    """The rollout limit on assistant turns."""
    CONTEXT_FULL = "context_full"
    """The next prompt plus one action would not fit into the model's context."""
    ENV_ERROR = "env_error"
    """The environment raised, returned an invalid answer or died; the text is in ``Trajectory.info['error']``."""
    ENV_TIMEOUT = "env_timeout"
    """The environment did not answer in time."""
    ENDPOINT_ERROR = "endpoint_error"
    """A server that the environment uses gave no usable answer; the text is in ``Trajectory.info['error']``."""
    SAMPLER_ERROR = "sampler_error"
    """The sampler failed; the text is in ``Trajectory.info['error']``."""


class FinishReason(StrEnum):
    """Why sampling of one action stopped."""

    STOP = "stop"
    """An end-of-turn token was sampled (it is part of ``action_ids``)."""
    LENGTH = "length"
    """``max_action_tokens`` was reached."""
    ERROR = "error"
    """The sampler failed; there is no action."""


@dataclass(frozen=True, slots=True)
class Message:
    """A chat message, as the template receives it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SampledAction:
    """One sampled reply, or the reason why there is none."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each id at the sampling temperature, in nats (at 1.0 if greedy)."""
    finish_reason: FinishReason
    version: int
    """Number of optimizer steps of the weights that sampled it."""
    error: str = ""
    """Error text, with ``FinishReason.ERROR``; there are no ids then."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: the input ids of the policy, the sampled ids, and the answer of the environment."""

    number: int
    """Counts from 1."""
    prompt_ids: tuple[int, ...]
    """The decision context ``c_t``: the input ids of the policy. Never re-encoded."""
    action_ids: tuple[int, ...]
    """The sampled ids ``a_t``, end-of-turn id included if it was sampled."""
    action_logprobs: tuple[float, ...]
    """Log-probability of each sampled id at the sampling temperature, in nats."""
    text: str
    """The decoded reply without control tokens (for the environment, the reflector and logs only)."""
    action: str
    """The canonical action that was sent to the environment."""
    observation: str
    """What the environment returned after the action; may be empty on the last turn."""
    role: Role
    """Role of the observation: ``user`` or ``tool``."""
    finish_reason: FinishReason = FinishReason.STOP
    malformed: str | None = None
    """Why the reply could not be read as an action, or ``None``."""
    policy_version: int = 0
    """Number of optimizer steps of the weights that sampled the action."""
    further_calls: int = 0
    """Number of other actions in the reply; they were not executed."""
    cut_chars: int = 0
    """Number of characters that were cut from the observation, because it was longer than the limit."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One whole episode."""

    task_id: str
    env_id: str
    seed: int
    group: int
    """Trajectories of one task that were sampled together share this number."""
    system_prompt: str
    tools: tuple[Mapping[str, Any], ...]
    first_observation: str
    turns: tuple[Turn, ...]
    reward: float
    """Sum of the rewards of its steps, each in [0, 1]."""
    stop_reason: StopReason
    temperature: float = 1.0
    """Sampling temperature of the recorded log-probabilities; 1 for greedy sampling."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Report of the environment at the end, and at the start about how to interpret the score (JSON values only)."""
    cut_chars: int = 0
    """Number of characters that were cut from the first observation."""
    failures: tuple[str, ...] = ()
    """Reasons why earlier attempts at this episode broke. It was restarted with the same seed."""

    @property
    def policy_version(self) -> int | None:
        """Version of the oldest weights that sampled one of its actions; ``None`` without turns."""
        return min((turn.policy_version for turn in self.turns), default=None)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The diagnosis of the reflector for one turn, given the end of the trajectory."""

    text: str
    """Never empty: a turn without a usable diagnosis has ``None`` in its place."""
    confidence: Confidence
    next_action_target: Mapping[str, Any] | None = None
    """The corrected action, only when it is unambiguous."""
    was_failure: bool = False
    """Whether the action is blamed although there is no corrected action, or a control removed it."""

    @property
    def blames(self) -> bool:
        """Whether it calls the action an error, with or without a corrected action."""
        return self.was_failure or self.next_action_target is not None


@dataclass(frozen=True, slots=True)
class Reflection:
    """One reflector output, parsed: a diagnosis or ``None`` per turn of one trajectory."""

    diagnoses: tuple[Diagnosis | None, ...]
    status: Literal["ok", "repaired", "rejected"]
    strict: bool = False
    """Whether the raw text was one JSON object that needed no repair."""
    issues: tuple[tuple[str, int], ...] = ()
    """``(code, turn)`` pairs; turn 0 means the whole output."""
    raw: str = ""
    """The text that the reflector generated."""
    tokens: int = 0
    """Number of generated tokens."""


@dataclass(frozen=True, slots=True)
class Hint:
    """The text that only the teacher sees at one turn."""

    turn: int
    """Number of the turn, from 1."""
    text: str
    """The rendered block; empty means that the teacher sees exactly what the student sees."""
    confidence: Confidence = "high"
    """Confidence of the diagnosis; scales the weight of the turn."""
    is_failure: bool = False
    """The reflector blamed the action of this turn, with a corrected action or without one."""
    target: str | None = None
    """The proposed action in the policy's format; empty if the diagnosis confirms the action taken; ``None`` if the
    teacher shows no verdict."""
    position: HintPosition | None = None
    """Position of the hint; ``None``: the hint position of the policy's chat template."""
    scaffold: str | None = None
    """The same wording without a diagnosis; ``None`` if the teacher has no scaffold."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One sequence to score, with the spans of action ids inside it."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """``(start, stop)`` of each action in ``ids``; its logits are those at positions ``start - 1 .. stop - 2``."""
    trajectory: int = 0
    """Number of the trajectory in the rollout batch. Rows of one trajectory usually have a common prefix."""

    @property
    def read(self) -> list[int]:
        """Positions whose logits predict the action tokens."""
        return [position for start, stop in self.spans for position in range(start - 1, stop - 1)]

    @property
    def scored(self) -> int:
        """Number of action tokens."""
        return sum(stop - start for start, stop in self.spans)

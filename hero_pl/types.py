"""What flows through hero_pl: frozen records without behavior.

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
    """The environment raised, answered wrongly or died; the text is in ``Trajectory.info['error']``."""
    ENV_TIMEOUT = "env_timeout"
    """The environment did not answer in time."""
    ENDPOINT_ERROR = "endpoint_error"
    """A server that the environment asks gave no usable answer; the text is in ``Trajectory.info['error']``."""
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
    """Chat text as the template sees it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision: exactly what the policy was fed, what it sampled, what the environment answered."""

    number: int
    """Counts from 1."""
    prompt_ids: tuple[int, ...]
    """The decision context ``c_t``: the ids the policy was fed. Never re-encoded."""
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
    """Number of optimizer steps that the weights which drew the action had seen."""
    further_calls: int = 0
    """Tool calls of the reply after the first; they were not carried out."""
    cut_chars: int = 0
    """Characters that were cut off the observation, because it was longer than the limit."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One whole episode."""

    task_id: str
    env_id: str
    seed: int
    group: int
    """Trajectories of one task drawn together share this number."""
    system_prompt: str
    tools: tuple[Mapping[str, Any], ...]
    first_observation: str
    turns: tuple[Turn, ...]
    reward: float
    """Final scalar reward, in [0, 1]."""
    stop_reason: StopReason
    temperature: float = 1.0
    """What the recorded log-probabilities were divided by; 1 where actions were chosen greedily."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """What the environment reported at the end, and at the start about how to read the score (JSON values only)."""
    cut_chars: int = 0
    """Characters that were cut off the first observation."""
    failures: tuple[str, ...] = ()
    """Why earlier attempts at this episode broke; it was played again from its start, with the same seed."""

    @property
    def policy_version(self) -> int | None:
        """Of the oldest weights that drew one of its actions; ``None`` without turns."""
        return min((turn.policy_version for turn in self.turns), default=None)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the reflector says about one turn, knowing how the trajectory ended."""

    text: str
    """Never empty: a turn without a usable diagnosis has ``None`` in its place."""
    confidence: Confidence
    next_action_target: Mapping[str, Any] | None = None
    """The corrected action, only when it is unambiguous."""
    was_failure: bool = False
    """A corrected action stood here before a control took it away."""


@dataclass(frozen=True, slots=True)
class Reflection:
    """One reflector output, parsed: a diagnosis or ``None`` per turn of one trajectory."""

    diagnoses: tuple[Diagnosis | None, ...]
    status: Literal["ok", "repaired", "rejected"]
    strict: bool = False
    """The raw text was itself one JSON object and nothing had to be repaired."""
    issues: tuple[tuple[str, int], ...] = ()
    """``(code, turn)`` pairs; turn 0 means the whole output."""
    raw: str = ""
    """The text the reflector wrote."""
    tokens: int = 0
    """Tokens the reflector generated for it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What only the teacher sees at one turn."""

    turn: int
    """Number of the turn, from 1."""
    text: str
    """The rendered block; empty means that the teacher sees exactly what the student sees."""
    confidence: Confidence = "high"
    """Confidence of the diagnosis inside; scales the turn's weight."""
    is_failure: bool = False
    """The reflector proposed another action for this turn."""
    target: str | None = None
    """That action as the policy would write it; empty if the action taken was called right; ``None`` if the teacher
    shows no verdict."""
    position: HintPosition | None = None
    """Where it goes; ``None``: where the policy's chat template puts hints."""
    scaffold: str | None = None
    """The same wording with nothing in it; ``None`` where the teacher has none."""

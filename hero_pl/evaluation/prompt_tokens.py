"""Count the tokens of each part of the policy's context."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hero_pl.chat.dialect import Dialect
from hero_pl.scalars import Scalar, largest, share
from hero_pl.types import Trajectory

PARTS = ("system_tokens", "tools_tokens", "first_message_tokens", "template_tokens")
"""The four parts of the first prompt; they add up to its length."""


def prompt_tokens(trajectories: Sequence[Trajectory], dialect: Dialect) -> dict[str, Scalar]:
    """Means over episodes, in tokens; empty if no episode has a turn.

    Args:
        trajectories: Finished episodes.
        dialect: Dialect of the policy that played them.

    Returns:
        ``system_tokens`` (the system prompt of the environment), ``tools_tokens`` (schemas and the instructions for
        calling tools), ``first_message_tokens``, ``template_tokens`` (all other text of the chat template);
        ``observation_tokens`` per later observation, including the template's part; ``longest_context_tokens``, the
        maximum over all turns; and ``defused_tokens``, the number of places per episode where outside text spells a
        control token, which are encoded as plain text.
    """
    fixed: dict[tuple[str, str], tuple[int, int]] = {}
    encoder = dialect.template.encoder
    count = encoder.encode_untrusted
    sums = dict.fromkeys(PARTS, 0)
    episodes, observations, observed, longest, defused = 0, 0, 0, 0, 0
    for trajectory in trajectories:
        if not trajectory.turns:
            continue
        key = (trajectory.system_prompt, json.dumps(trajectory.tools, ensure_ascii=False))
        system, tools = fixed.get(key) or fixed.setdefault(key, _fixed_parts(trajectory, dialect))
        first = len(count(trajectory.first_observation))
        whole = len(trajectory.turns[0].prompt_ids)
        for part, tokens in zip(PARTS, (system, tools, first, whole - system - tools - first), strict=True):
            sums[part] += tokens
        texts = (*key, trajectory.first_observation, *(turn.observation for turn in trajectory.turns))
        defused += sum(map(encoder.mentions_control, texts))
        episodes += 1
        for turn, following in zip(trajectory.turns, trajectory.turns[1:], strict=False):
            observations += 1
            observed += len(following.prompt_ids) - len(turn.prompt_ids) - len(turn.action_ids)
        longest = max(longest, *(len(turn.prompt_ids) for turn in trajectory.turns))
    if not episodes:
        return {}
    means = {part: share(tokens, episodes) for part, tokens in sums.items()}
    if observations:
        means["observation_tokens"] = share(observed, observations)
    return {**means, "longest_context_tokens": largest(longest), "defused_tokens": share(defused, episodes)}


def _fixed_parts(trajectory: Trajectory, dialect: Dialect) -> tuple[int, int]:
    """Tokens of the system prompt, and the additional tokens for tools."""
    alone, _ = dialect.parser.describe(trajectory.system_prompt, ())
    bare = dialect.template.first_prompt(alone, "")
    text, schemas = dialect.parser.describe(trajectory.system_prompt, trajectory.tools)
    with_tools = dialect.template.first_prompt(text, "", "user", schemas)
    return len(dialect.template.encoder.encode_untrusted(trajectory.system_prompt)), len(with_tools) - len(bare)

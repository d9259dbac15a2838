"""Plays the pocket shop by its rules, without a mistake: demonstrations for a privileged teacher."""

from __future__ import annotations

from collections.abc import Sequence

from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.rules import Page, Request, action, decision
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Trajectory


class ShopExpert(Demonstrations):
    """Does what the request and the page in front of it ask for."""

    def make(self, specs: Sequence[EpisodeSpec], policy: Policy, collector: Collector) -> list[Trajectory]:
        """One episode per spec.

        Raises:
            ConfigError: The environment is not a pocket shop.
        """

        def reply(context: str, seed: int) -> str:
            request = Request.read(first_message(context))
            if request is None:
                raise ConfigError(
                    f"ShopExpert plays the pocket shop; {collector.env_id!r} shows no request of it. Use an expert "
                    "that knows this environment."
                )
            return action(*decision(request, Page.read(last_message(context))))

        expert = ScriptedPolicy(reply, policy.template, policy.parser)
        expert.max_length = policy.max_length
        return collector.collect(specs, expert, Sampling(1.0, 256))


def first_message(context: str) -> str:
    """The page that names the request, as ChatML writes it; a system prompt may show requests as examples."""
    return context.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def last_message(context: str) -> str:
    """The page in front, as ChatML writes it."""
    return context.split("<|im_start|>user\n")[-1].partition("<|im_end|>")[0]

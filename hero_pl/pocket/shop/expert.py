"""Plays the pocket shop by rule, without mistakes: demonstrations for a privileged teacher."""

from __future__ import annotations

from collections.abc import Sequence

from hero_pl.chat.dialect import Dialect
from hero_pl.pocket.shop.rules import Page, Request, action, decision
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations, stranger
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Trajectory


class ShopExpert(Demonstrations):
    """Takes the correct action for the request and the current page."""

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """One episode per spec.

        Raises:
            ConfigError: The environment is not a pocket shop.
        """

        def reply(context: str, seed: int) -> str:
            request = Request.read(first_message(context))
            if request is None:
                raise stranger(self, collector.env_id)
            return action(*decision(request, Page.read(last_message(context))))

        expert = ScriptedPolicy(reply, dialect.template, dialect.parser)
        expert.max_length = dialect.max_length
        return collector.collect(specs, expert, Sampling(1.0, 256))


def first_message(context: str) -> str:
    """The first user message in ChatML, which has the request; the system prompt may have examples of requests."""
    return context.partition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]


def last_message(context: str) -> str:
    """The current page: the last message in ChatML."""
    return context.split("<|im_start|>user\n")[-1].partition("<|im_end|>")[0]

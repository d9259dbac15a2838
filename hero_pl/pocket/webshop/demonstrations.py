"""Demonstrations for WebShop, from the rules of :mod:`hero_pl.pocket.webshop.rules`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hero_pl.pocket.shop.demonstrations import check_chances
from hero_pl.pocket.webshop.rules import Buyer
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import PlannedDemonstrations, stranger
from hero_pl.rollout.pool import Reset, Step
from hero_pl.rollout.specs import EpisodeSpec


class WebShopDemonstrations(PlannedDemonstrations):
    """Takes the next step of the rules; with mistakes, for a warm-up that leaves something to learn.

    Args:
        habit: Probability of the first listed product instead of the best one, and of buying before all requested
            options are chosen. With a habit, greedy decoding does not remove the mistakes.
        noise: Probability of a random element of the page, elsewhere.
    """

    def __init__(self, habit: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        check_chances(self, habit=habit, noise=noise)
        self.habit, self.noise = habit, noise

    def plan(self, spec: EpisodeSpec, collector: Collector) -> Iterator[str]:
        """See :meth:`PlannedDemonstrations.plan`.

        Raises:
            ConfigError: The environment is not WebShop with ``observation: text``.
        """
        rng = random.Random(spec.seed)
        answer = collector.ask(Reset(spec.task_id, spec.seed))
        buyer = Buyer.open(answer.observation)
        if buyer is None:
            raise stranger(self, collector.env_id)
        while not (answer.terminated or answer.truncated):
            action = self._slip(buyer, rng) or buyer.action()
            yield action
            answer = collector.ask(Step(action))
            buyer = buyer.after(action, answer.observation)

    def _slip(self, buyer: Buyer, rng: random.Random) -> str | None:
        """A mistake, or ``None``."""
        hasty = buyer.hasty()
        if hasty is not None:
            return f"click[{hasty}]" if rng.random() < self.habit else None
        others = sorted(buyer.view.elements.values())
        return f"click[{rng.choice(others)}]" if others and rng.random() < self.noise else None

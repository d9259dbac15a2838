"""Rule-based reflector for WebShop."""

from __future__ import annotations

from hero_pl.pocket.shop.reflector import RuleReflector
from hero_pl.pocket.situation import Situation
from hero_pl.pocket.webshop.rules import Buyer


class WebShopRules(RuleReflector):
    """Diagnoses turns of WebShop by rule from the request and the pages, without hidden state.

    For ``observation: text`` and generated catalogs, whose titles name kind and property; not for the official data.

    Args:
        targets: Whether to add the corrected action to the diagnosis of an error.
    """

    stranger = "not_a_generated_webshop"

    def open(self, first_observation: str) -> Situation | None:
        """See :meth:`RuleReflector.open`."""
        return Buyer.open(first_observation)

"""Requests that need a look-up: the correct action depends on the results of tools.

A refund goes to ``original`` (the payment method of the order, to be read in the order) or to ``gift_card`` (to be read
in the user's profile); the item is one of several. Users are found by email. Some orders have a status that does not
allow the request: then the database must not change, and doing nothing is correct. The fraction of these tasks is the
floor of every score.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hero_envs.tau_bench.database import BaseData, Record
from hero_envs.tau_bench.goals import REASONS, Goal, ItemWish
from hero_envs.tau_bench.tasks import Action

Made: TypeAlias = tuple[Goal, Action | None] | None
"""A goal and the call that fulfills it (``None`` if it must be refused), or ``None`` if the draws give no goal."""
Maker: TypeAlias = Callable[[random.Random, BaseData, Record, Record], Made]
"""Function from random generator, database, user and order to a goal."""

ORIGINAL, GIFT_CARD = "original", "gift_card"
NEEDED = {"cancel": "pending", "return": "delivered"}
"""Order status that a request needs."""
KEPT_REFUSALS = 0.05
"""Fraction of draws with another status that become tasks."""


def _cancel(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    reason = draw.choice(REASONS)
    goal = Goal("cancel", order["order_id"], reason=reason)
    return _allowed(
        draw, goal, order, Action("cancel_pending_order", {"order_id": order["order_id"], "reason": reason})
    )


def _return(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    names = [item["name"] for item in order["items"]]
    if len(names) < 2 or len(set(names)) < len(names):
        return None
    item = draw.choice(order["items"])
    original: str = order["payment_history"][0]["payment_method_id"]
    cards = [method for method in user["payment_methods"] if method.startswith(GIFT_CARD)]
    word = GIFT_CARD if cards and original not in cards and draw.random() < 0.8 else ORIGINAL
    goal = Goal("return", order["order_id"], items=(ItemWish(item["name"]),), payment_id=word)
    arguments = {
        "order_id": order["order_id"],
        "item_ids": [item["item_id"]],
        "payment_method_id": original if word == ORIGINAL else cards[0],
    }
    return _allowed(draw, goal, order, Action("return_delivered_order_items", arguments))


def _allowed(draw: random.Random, goal: Goal, order: Record, action: Action) -> Made:
    if order["status"] == NEEDED[goal.kind]:
        return goal, action
    return (goal, None) if draw.random() < KEPT_REFUSALS else None


LOOKUP_MAKERS: Mapping[str, Maker] = {"cancel": _cancel, "return": _return}

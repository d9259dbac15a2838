"""Short observations for small policies, and parsers for both forms.

Only the information needed to act is kept: status, items and first payment method of an order; available variants of a
product; the new status after a change. All other observations, including errors, are unchanged.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from hero_envs.tau_bench.database import Record

_ITEM = re.compile(r"(\w+) ([^;{}]+?) of (\w+) (\{[^{}]*\})")
_VARIANT = re.compile(r"(\w+) (\{[^{}]*\})")


def compact_observation(tool: str, observation: str) -> str:
    """The short form of a tool's observation.

    Args:
        tool: Name of the tool that was called.
        observation: Its full observation.

    Example:
        >>> order = {"status": "pending", "items": [], "payment_history": [{"payment_method_id": "paypal_1"}]}
        >>> compact_observation("cancel_pending_order", json.dumps(order))
        'ok: pending'
        >>> compact_observation("get_order_details", json.dumps(order))
        'pending; paid paypal_1'
    """
    if not observation.startswith("{"):
        return observation
    record = json.loads(observation)
    if tool == "get_order_details":
        return _order(record)
    if tool == "get_product_details":
        return _product(record)
    if tool == "get_user_details":
        return f"orders {' '.join(record['orders'])}; payments {' '.join(record['payment_methods'])}"
    if "status" in record:
        return f"ok: {record['status']}"
    return "ok" if tool == "modify_user_address" else observation


def _order(order: Record) -> str:
    items = [f"{item['item_id']} {item['name']} of {item['product_id']} {item['options']}" for item in order["items"]]
    return "; ".join([order["status"], *items, f"paid {order['payment_history'][0]['payment_method_id']}"])


def _product(product: Record) -> str:
    variants = product["variants"].values()
    return "; ".join(f"{variant['item_id']} {variant['options']}" for variant in variants if variant["available"])


def read_order(observation: str) -> dict[str, Any]:
    """Status and items of an order from either form; empty if the text is not an order."""
    if observation.startswith("{"):
        order: dict[str, Any] = json.loads(observation)
        return order if "items" in order else {}
    status, _, rest = observation.partition("; ")
    if "; paid " not in observation:
        return {}
    items = [
        {"item_id": match[1], "name": match[2], "product_id": match[3], "options": ast.literal_eval(match[4])}
        for match in _ITEM.finditer(rest)
    ]
    return {"status": status, "items": items}


def read_product(observation: str) -> dict[str, Any]:
    """Variants of a product from either form; empty if the text is not a product."""
    if observation.startswith("{"):
        product: dict[str, Any] = json.loads(observation)
        return product
    matches = _VARIANT.finditer(observation)
    variants = {
        match[1]: {"item_id": match[1], "options": ast.literal_eval(match[2]), "available": True} for match in matches
    }
    return {"variants": variants}

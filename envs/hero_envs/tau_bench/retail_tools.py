"""The sixteen retail tools. Order of checks, texts and unusual behavior are those of the public benchmark.

The functions do not check the types of their arguments, so an argument of a wrong type fails at the same place as in
the original. Behavior that looks like an error (no rounding in one place, lists sorted separately) is kept on purpose,
because the reward compares databases bit by bit.
"""

from __future__ import annotations

import json
from typing import Any

from hero_envs.tau_bench.common_tools import CALCULATE, THINK, TRANSFER
from hero_envs.tau_bench.database import Database, Record
from hero_envs.tau_bench.goals import REASONS
from hero_envs.tau_bench.tool import Tool


def cancel_pending_order(data: Database, order_id: Any, reason: Any) -> str:
    """Cancel an order and refund every payment entry."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "pending":
        return "Error: non-pending order cannot be cancelled"
    if reason not in REASONS:
        return "Error: invalid reason"
    order = orders.edit(order_id)
    refunds = []
    for entry in order["payment_history"]:
        method_id = entry["payment_method_id"]
        refunds.append({"transaction_type": "refund", "amount": entry["amount"], "payment_method_id": method_id})
        if "gift_card" in method_id:
            _credit(data, order, method_id, entry["amount"])
    order["status"] = "cancelled"
    order["cancel_reason"] = reason
    order["payment_history"].extend(refunds)
    return json.dumps(order)


def modify_pending_order_address(
    data: Database, order_id: Any, address1: Any, address2: Any, city: Any, state: Any, country: Any, zip: Any
) -> str:
    """Replace the shipping address of an order."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "pending":
        return "Error: non-pending order cannot be modified"
    order = orders.edit(order_id)
    order["address"] = _address(address1, address2, city, state, country, zip)
    return json.dumps(order)


def modify_user_address(
    data: Database, user_id: Any, address1: Any, address2: Any, city: Any, state: Any, country: Any, zip: Any
) -> str:
    """Replace the default address of a user."""
    users = data["users"]
    if user_id not in users:
        return "Error: user not found"
    user = users.edit(user_id)
    user["address"] = _address(address1, address2, city, state, country, zip)
    return json.dumps(user)


def modify_pending_order_payment(data: Database, order_id: Any, payment_method_id: Any) -> str:
    """Change the payment method of an order with exactly one payment."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "pending":
        return "Error: non-pending order cannot be modified"
    methods = data["users"][orders[order_id]["user_id"]]["payment_methods"]
    if payment_method_id not in methods:
        return "Error: payment method not found"
    history = orders[order_id]["payment_history"]
    if len(history) > 1 or history[0]["transaction_type"] != "payment":
        return "Error: there should be exactly one payment for a pending order"
    amount, old_method_id = history[0]["amount"], history[0]["payment_method_id"]
    if old_method_id == payment_method_id:
        return "Error: the new payment method should be different from the current one"
    to_gift_card = methods[payment_method_id]["source"] == "gift_card"
    if to_gift_card and methods[payment_method_id]["balance"] < amount:
        return "Error: insufficient gift card balance to pay for the order"
    order = orders.edit(order_id)
    order["payment_history"] += [
        {"transaction_type": "payment", "amount": amount, "payment_method_id": payment_method_id},
        {"transaction_type": "refund", "amount": amount, "payment_method_id": old_method_id},
    ]
    if to_gift_card:
        _credit(data, order, payment_method_id, -amount)
    if "gift_card" in old_method_id:
        _credit(data, order, old_method_id, amount)
    return json.dumps(order)


def modify_pending_order_items(
    data: Database, order_id: Any, item_ids: Any, new_item_ids: Any, payment_method_id: Any
) -> str:
    """Replace items by other variants of the same product and pay the difference at once (never rounded)."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "pending":
        return "Error: non-pending order cannot be modified"
    difference, problem = _swap_price(data, orders[order_id], item_ids, new_item_ids)
    if problem:
        return problem
    method, problem = _method_that_can_pay(
        data, orders[order_id], payment_method_id, difference, "insufficient gift card balance to pay for the new item"
    )
    if problem:
        return problem
    order = orders.edit(order_id)
    order["payment_history"].append(
        {
            "transaction_type": "payment" if difference > 0 else "refund",
            "amount": abs(difference),
            "payment_method_id": payment_method_id,
        }
    )
    if method["source"] == "gift_card":
        _credit(data, order, payment_method_id, -difference)
    for item_id, new_item_id in zip(item_ids, new_item_ids, strict=True):
        item = _first_item(order, item_id)
        variant = data["products"][item["product_id"]]["variants"][new_item_id]
        item["item_id"] = new_item_id
        item["price"] = variant["price"]
        item["options"] = dict(variant["options"])
    order["status"] = "pending (item modified)"
    return json.dumps(order)


def exchange_delivered_order_items(
    data: Database, order_id: Any, item_ids: Any, new_item_ids: Any, payment_method_id: Any
) -> str:
    """Request an exchange; nothing is paid and the items do not change."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "delivered":
        return "Error: non-delivered order cannot be exchanged"
    difference, problem = _swap_price(data, orders[order_id], item_ids, new_item_ids)
    if problem:
        return problem
    difference = round(difference, 2)
    _, problem = _method_that_can_pay(
        data,
        orders[order_id],
        payment_method_id,
        difference,
        "insufficient gift card balance to pay for the price difference",
    )
    if problem:
        return problem
    order = orders.edit(order_id)
    order["status"] = "exchange requested"
    order["exchange_items"] = sorted(item_ids)
    order["exchange_new_items"] = sorted(new_item_ids)
    order["exchange_payment_method_id"] = payment_method_id
    order["exchange_price_difference"] = difference
    return json.dumps(order)


def return_delivered_order_items(data: Database, order_id: Any, item_ids: Any, payment_method_id: Any) -> str:
    """Request a return; the refund goes to the first payment's method or to a gift card."""
    orders = data["orders"]
    if order_id not in orders:
        return "Error: order not found"
    if orders[order_id]["status"] != "delivered":
        return "Error: non-delivered order cannot be returned"
    if payment_method_id not in data["users"][orders[order_id]["user_id"]]["payment_methods"]:
        return "Error: payment method not found"
    original = orders[order_id]["payment_history"][0]["payment_method_id"]
    if "gift_card" not in payment_method_id and payment_method_id != original:
        return "Error: payment method should be either the original payment method or a gift card"
    if _missing_items(orders[order_id], item_ids):
        return "Error: some item not found"
    order = orders.edit(order_id)
    order["status"] = "return requested"
    order["return_items"] = sorted(item_ids)
    order["return_payment_method_id"] = payment_method_id
    return json.dumps(order)


def find_user_id_by_email(data: Database, email: Any) -> str:
    """Id of the first user with this e-mail, ignoring case."""
    user_id = data.base.users_by_email.get(email.lower())
    return "Error: user not found" if user_id is None else user_id


def find_user_id_by_name_zip(data: Database, first_name: Any, last_name: Any, zip: Any) -> str:
    """Id of the first user with this name, ignoring case, and exactly this zip code in the default address."""
    for user_id in data.base.users_by_first_name.get(first_name.lower(), ()):
        user = data["users"][user_id]
        if user["name"]["last_name"].lower() == last_name.lower() and user["address"]["zip"] == zip:
            return user_id
    return "Error: user not found"


def get_order_details(data: Database, order_id: Any) -> str:
    """The order as JSON."""
    orders = data["orders"]
    return json.dumps(orders[order_id]) if order_id in orders else "Error: order not found"


def get_product_details(data: Database, product_id: Any) -> str:
    """The product with all its variants as JSON."""
    products = data["products"]
    return json.dumps(products[product_id]) if product_id in products else "Error: product not found"


def get_user_details(data: Database, user_id: Any) -> str:
    """The user's profile as JSON."""
    users = data["users"]
    return json.dumps(users[user_id]) if user_id in users else "Error: user not found"


def list_all_product_types(data: Database) -> str:
    """Product names and ids as a JSON object, sorted by name."""
    return json.dumps(dict(sorted((product["name"], key) for key, product in data["products"].items())))


def _address(address1: Any, address2: Any, city: Any, state: Any, country: Any, zip: Any) -> Record:
    """A new address; its key order differs from that of the data file, as in the original."""
    return {
        "address1": address1,
        "address2": address2,
        "city": city,
        "state": state,
        "country": country,
        "zip": zip,
    }


def _credit(data: Database, order: Record, method_id: str, amount: Any) -> None:
    """Add ``amount`` to a gift card of the order's user; the balance is rounded to cents after every change."""
    card = data["users"].edit(order["user_id"])["payment_methods"][method_id]
    card["balance"] = round(card["balance"] + amount, 2)


def _first_item(order: Record, item_id: Any) -> Record:
    item: Record = next(item for item in order["items"] if item["item_id"] == item_id)
    return item


def _missing_items(order: Record, item_ids: Any) -> list[Any]:
    """A list with the first id that is requested more often than the order has it; the id can have any type."""
    ordered = [item["item_id"] for item in order["items"]]
    for item_id in item_ids:
        if item_ids.count(item_id) > ordered.count(item_id):
            return [item_id]
    return []


def _swap_price(data: Database, order: Record, item_ids: Any, new_item_ids: Any) -> tuple[Any, str | None]:
    """Price difference summed pair by pair from the integer 0, or the text of the first failed check."""
    if missing := _missing_items(order, item_ids):
        return 0, f"Error: {missing[0]} not found"
    if len(item_ids) != len(new_item_ids):
        return 0, "Error: the number of items to be exchanged should match"
    difference: Any = 0
    for item_id, new_item_id in zip(item_ids, new_item_ids, strict=True):
        item = _first_item(order, item_id)
        variants = data["products"][item["product_id"]]["variants"]
        if not (new_item_id in variants and variants[new_item_id]["available"]):
            return 0, f"Error: new item {new_item_id} not found or available"
        difference += variants[new_item_id]["price"] - item["price"]
    return difference, None


def _method_that_can_pay(
    data: Database, order: Record, method_id: Any, amount: Any, too_little: str
) -> tuple[Record, str | None]:
    methods = data["users"][order["user_id"]]["payment_methods"]
    if method_id not in methods:
        return {}, "Error: payment method not found"
    method: Record = methods[method_id]
    if method["source"] == "gift_card" and method["balance"] < amount:
        return {}, f"Error: {too_little}"
    return method, None


TOOLS = (
    CALCULATE,
    Tool(cancel_pending_order),
    Tool(exchange_delivered_order_items),
    Tool(find_user_id_by_email),
    Tool(find_user_id_by_name_zip),
    Tool(get_order_details),
    Tool(get_product_details),
    Tool(get_user_details),
    Tool(list_all_product_types),
    Tool(modify_pending_order_address),
    Tool(modify_pending_order_items),
    Tool(modify_pending_order_payment),
    Tool(modify_user_address),
    Tool(return_delivered_order_items),
    THINK,
    TRANSFER,
)

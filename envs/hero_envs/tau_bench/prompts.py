"""The project's own policy texts and tool descriptions, for generated retail and for small policies."""

from __future__ import annotations

from typing import Any

from hero_envs.tau_bench.goals import REASONS

POCKET_POLICY = """\
# Support desk of a small shop

You talk with one customer and look after the customer's orders with the tools. Every reply is either one tool call or
one message to the customer, never both.

## Always

1. Find out who is writing: by email, or by first name, last name and zip code. Do this first.
2. Look at what the tools say. Do not guess ids, prices or stock, and give no opinions.
3. Before a call that changes something, say exactly what will be changed and wait for a yes.
4. Serve this customer alone. Refuse what concerns other customers.
5. If no tool can do what is asked, call transfer_to_human_agents. Otherwise never do.
6. When a request is dealt with, ask whether there is anything else.

## What can be done

| order is | possible |
|---|---|
| pending | cancel it; change its address; change its payment (once); change options of its items (once) |
| delivered | return items; exchange items for other options of the same product (once) |
| processed, cancelled | nothing |

- What can be done once takes all items in one call.
- The reason of a cancellation is "no longer needed" or "ordered by mistake".
- A refund of a return goes to the method that paid for the order, or to a gift card.
- A price difference is paid with one method of the customer's profile. A gift card must hold enough.
- After its items were changed, an order cannot be changed any more.
- Items are named by item id. A product id names the whole range of variants; a new item must be an available variant
  of the same product.
"""

COMPACT_POLICY = "Find the user, ask yes/no, act, ask for more."
"""System prompt for small policies that learn the tools from examples; it is used without schemas."""

LOOKUP_POLICY = (
    "Find the user, read the order. Cancel only pending orders, return only delivered ones, else transfer. "
    "A gift card is in the user's profile. Ask yes/no, act, ask for more."
)
"""The same for tasks with look-ups."""


def _schema(name: str, description: str, **arguments: tuple[str, str] | tuple[str, str, list[str]]) -> dict[str, Any]:
    """One OpenAI-style function schema; an argument is (type, description) or (type, description, values)."""
    properties: dict[str, dict[str, Any]] = {}
    for argument, (kind, text, *values) in arguments.items():
        properties[argument] = {"type": kind, "description": text}
        if kind == "array":
            properties[argument]["items"] = {"type": "string"}
        if values:
            properties[argument]["enum"] = values[0]
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_ORDER = ("string", "Order id with its leading '#', for example '#W123'.")
_USER = ("string", "User id, for example 'ada_moss_12'.")
_PAYMENT = ("string", "Payment method id from the user's profile, for example 'paypal_12'.")
_OLD = ("array", "Item ids in the order; the same id twice if two of them are meant.")
_NEW = ("array", "Item ids that replace them, one for each and in the same order.")
_ADDRESS = {
    "address1": ("string", "Street and number."),
    "address2": ("string", "Flat or suite; may be empty."),
    "city": ("string", "City."),
    "state": ("string", "State as two letters."),
    "country": ("string", "Country."),
    "zip": ("string", "Zip code."),
}

RETAIL_SCHEMAS: tuple[dict[str, Any], ...] = (
    _schema(
        "calculate",
        "Compute an arithmetic expression.",
        expression=("string", "Digits, + - * / ( ) . and blanks only."),
    ),
    _schema(
        "cancel_pending_order",
        "Cancel a pending order and refund it. Needs the user's yes.",
        order_id=_ORDER,
        reason=("string", "Why.", list(REASONS)),
    ),
    _schema(
        "exchange_delivered_order_items",
        "Exchange items of a delivered order for other variants; once per order. Needs the user's yes.",
        order_id=_ORDER,
        item_ids=_OLD,
        new_item_ids=_NEW,
        payment_method_id=_PAYMENT,
    ),
    _schema("find_user_id_by_email", "User id for an email.", email=("string", "Email address.")),
    _schema(
        "find_user_id_by_name_zip",
        "User id for a name and a zip code.",
        first_name=("string", "First name."),
        last_name=("string", "Last name."),
        zip=("string", "Zip code."),
    ),
    _schema("get_order_details", "Status, items and payments of an order.", order_id=_ORDER),
    _schema(
        "get_product_details",
        "All variants of a product with price and stock.",
        product_id=("string", "Product id; not an item id."),
    ),
    _schema("get_user_details", "Profile of a user with orders and payment methods.", user_id=_USER),
    _schema("list_all_product_types", "Names and product ids of all products."),
    _schema(
        "modify_pending_order_address",
        "New address for a pending order. Needs the user's yes.",
        order_id=_ORDER,
        **_ADDRESS,
    ),
    _schema(
        "modify_pending_order_items",
        "Change items of a pending order to other variants; once per order. Needs the user's yes.",
        order_id=_ORDER,
        item_ids=_OLD,
        new_item_ids=_NEW,
        payment_method_id=_PAYMENT,
    ),
    _schema(
        "modify_pending_order_payment",
        "Pay a pending order with another method. Needs the user's yes.",
        order_id=_ORDER,
        payment_method_id=_PAYMENT,
    ),
    _schema("modify_user_address", "New default address of a user. Needs the user's yes.", user_id=_USER, **_ADDRESS),
    _schema(
        "return_delivered_order_items",
        "Return items of a delivered order. Needs the user's yes.",
        order_id=_ORDER,
        item_ids=_OLD,
        payment_method_id=_PAYMENT,
    ),
    _schema("think", "Write down a thought; nothing happens.", thought=("string", "The thought.")),
    _schema(
        "transfer_to_human_agents",
        "Hand the user over to a person; ends the conversation.",
        summary=("string", "What the user wants and why it cannot be done here."),
    ),
)

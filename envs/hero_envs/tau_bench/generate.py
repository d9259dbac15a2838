"""Generated retail: a database with the benchmark's schema and templated tasks on it, determined by a seed.

``generate_base`` creates a small shop; ``generate_tasks`` creates tasks on any retail database, including the official
one. Every task is checked: all its ground-truth calls succeed, and they change the database.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hero_envs.tau_bench import retail_tools
from hero_envs.tau_bench.database import BaseData, Database, Record, copy_json
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.goals import ADDRESS_FIELDS, KINDS, REASONS, Goal, Identity, ItemWish, Kind
from hero_envs.tau_bench.lookups import LOOKUP_MAKERS, Made, Maker
from hero_envs.tau_bench.prompts import POCKET_POLICY, RETAIL_SCHEMAS
from hero_envs.tau_bench.tasks import Action, Task

SPLITS = {"warmup": 0.40, "train": 0.30, "validation": 0.10, "test": 0.20}
"""Fraction of users (and of tasks) per split; no user is in two splits."""

_FIRST = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivan Jo Kim Leo Mia Ned Ola Pia Quin Rob Sam Tia Uma Vic Wes Xia Yan Zoe"
_LAST = "Adler Blum Costa Dorn Elba Frey Gill Holt Iven Jung Koch Lind Moss Nagy Orth Pell Quist Rowe Stone Trier Vogt"
_CITIES = (("Aville", "AA"), ("Bton", "BB"), ("Cford", "CC"), ("Dburg", "DD"))
_PERSONAS = ("calm", "curt", "kind", "polite", "quick", "shy")
_COLORS = ("red", "blue", "green", "black", "white")
_SIZES = ("small", "medium", "large")
_PRODUCTS = ("Mug", "Lamp", "Shirt", "Chair", "Bag", "Clock", "Kettle", "Pen", "Ball", "Scarf", "Plate", "Rug")


def generate_base(users: int = 240, seed: int = 0) -> BaseData:
    """Create a shop with the retail schema and short ids.

    Args:
        users: Number of users; each has two to four orders.
        seed: Determines the shop, on every machine.
    """
    if users < 10:
        raise ValueError(f"generate_base(users={users}): expected at least 10, so that no split is empty.")
    draw = random.Random(f"pocket retail {seed}")
    products = _products(draw)
    order_ids = iter(draw.sample(range(100, 100 + 20 * users), 4 * users))
    tables: dict[str, dict[str, Record]] = {"orders": {}, "products": products, "users": {}}
    for number in range(users):
        user_id, user = _user(draw, number)
        tables["users"][user_id] = user
        for _ in range(draw.randint(2, 4)):
            order = _order(draw, f"#W{next(order_ids)}", user_id, user, products)
            tables["orders"][order["order_id"]] = order
            user["orders"].append(order["order_id"])
    return BaseData(tables)


def _products(draw: random.Random) -> dict[str, Record]:
    item_ids = iter(draw.sample(range(1000, 10000), len(_PRODUCTS) * len(_COLORS) * len(_SIZES)))
    products: dict[str, Record] = {}
    for name, number in zip(_PRODUCTS, draw.sample(range(100, 1000), len(_PRODUCTS)), strict=True):
        pairs = [(color, size) for color in _COLORS for size in _SIZES]
        variants = {}
        for color, size in draw.sample(pairs, 6):
            item_id = str(next(item_ids))
            variants[item_id] = {
                "item_id": item_id,
                "options": {"color": color, "size": size},
                "available": draw.random() < 0.8,
                "price": round(draw.uniform(5, 60), 2),
            }
        products[f"p{number}"] = {"name": name, "product_id": f"p{number}", "variants": variants}
    return products


def _user(draw: random.Random, number: int) -> tuple[str, Record]:
    first, last = draw.choice(_FIRST.split()), draw.choice(_LAST.split())
    methods: dict[str, Record] = {}
    for source in draw.sample(("credit_card", "gift_card", "paypal"), 2):
        method_id = f"{source}_{draw.randint(10, 999)}"
        methods[method_id] = {"source": source, "id": method_id}
        if source == "credit_card":
            methods[method_id] |= {
                "brand": draw.choice(("visa", "mastercard")),
                "last_four": f"{draw.randrange(10000):04}",
            }
        elif source == "gift_card":
            methods[method_id] |= {"balance": draw.randint(100, 400)}
    user_id = f"{first}_{last}_{number}".lower()
    return user_id, {
        "name": {"first_name": first, "last_name": last},
        "address": _address(draw),
        "email": f"{first}.{last}{number}@example.com".lower(),
        "payment_methods": methods,
        "orders": [],
    }


def _address(draw: random.Random) -> dict[str, str]:
    city, state = draw.choice(_CITIES)
    values = (f"{draw.randint(1, 99)} {draw.choice(('Oak', 'Elm', 'Fir'))} St", f"Apt {draw.randint(1, 99)}", city)
    return dict(zip(ADDRESS_FIELDS, (*values, "USA", state, f"{draw.randrange(1000, 10000)}"), strict=True))


def _order(
    draw: random.Random, order_id: str, user_id: str, user: Record, products: Mapping[str, Record]
) -> dict[str, Any]:
    items = []
    for product_id in draw.sample(list(products), draw.randint(1, 3)):
        variant = draw.choice(list(products[product_id]["variants"].values()))
        items.append(
            {
                "name": products[product_id]["name"],
                "product_id": product_id,
                "item_id": variant["item_id"],
                "price": variant["price"],
                "options": dict(variant["options"]),
            }
        )
    status = draw.choices(("pending", "delivered", "processed"), (5, 4, 1))[0]
    item_ids = [item["item_id"] for item in items]
    shipped = [{"tracking_id": [str(draw.randrange(10**5, 10**6))], "item_ids": item_ids}]
    return {
        "order_id": order_id,
        "user_id": user_id,
        "address": dict(user["address"]) if draw.random() < 0.5 else _address(draw),
        "items": items,
        "fulfillments": [] if status == "pending" else shipped,
        "status": status,
        "payment_history": [
            {
                "transaction_type": "payment",
                "amount": round(sum(item["price"] for item in items), 2),
                "payment_method_id": draw.choice(list(user["payment_methods"])),
            }
        ],
    }


def generate_tasks(
    base: BaseData,
    split: str,
    count: int,
    seed: int = 0,
    users: Sequence[str] | None = None,
    kinds: Sequence[Kind] = KINDS,
    max_goals: int = 2,
    lookups: bool = False,
) -> tuple[Task, ...]:
    """Create templated tasks on a retail database.

    Args:
        base: The database.
        split: Name used in the task ids; also part of the seed.
        count: Number of tasks; no two have the same identity and goals.
        seed: Determines the tasks, on every machine.
        users: Users for the tasks; default: all.
        kinds: Kinds of goals; a kind that is listed twice is drawn twice as often.
        max_goals: Maximum number of goals per task, each on another order.
        lookups: Create requests that need a look-up with tools, some of them not allowed; see
            :mod:`hero_envs.tau_bench.lookups`.

    Raises:
        ValueError: The database has not enough different tasks of these kinds.
    """
    makers = LOOKUP_MAKERS if lookups else _MAKERS
    if not set(kinds) <= set(makers) or not kinds or max_goals < 1:
        raise ValueError(
            f"generate_tasks(kinds={tuple(kinds)}, max_goals={max_goals}, lookups={lookups}): "
            f"kinds are {tuple(makers)}, goals >= 1."
        )
    draw = random.Random(f"tasks {seed} {split}")
    tools = {tool.name: tool for tool in retail_tools.TOOLS}
    user_ids = list(users if users is not None else base.tables["users"])
    tasks: list[Task] = []
    seen: set[str] = set()
    for _ in range(50 * count + 1000):
        if len(tasks) == count:
            return tuple(tasks)
        user_id = draw.choice(user_ids)
        made = _task(draw, base, user_id, makers, kinds, draw.randint(1, max_goals))
        if made is None:
            continue
        identity, goals, actions = made
        if identity + goals in seen:
            continue
        data = Database(base)
        if any(tools[action.name].call(data, copy_json(dict(action.kwargs))).startswith("Error") for action in actions):
            continue
        if actions and not data.delta():
            continue
        seen.add(identity + goals)
        persona = f"You are {', '.join(draw.sample(_PERSONAS, 2))}. "
        tasks.append(Task(f"{split}-{len(tasks)}", user_id, identity + persona + goals, actions))
    raise ValueError(
        f"generate_tasks(split={split!r}, count={count}): only {len(tasks)} different tasks of the kinds "
        f"{tuple(kinds)} with at most {max_goals} goals were found for {len(user_ids)} users. Ask for fewer tasks, "
        "or generate more users."
    )


def _task(
    draw: random.Random,
    base: BaseData,
    user_id: str,
    makers: Mapping[str, Maker],
    kinds: Sequence[Kind],
    count: int,
) -> tuple[str, str, tuple[Action, ...]] | None:
    """Identity, goals and ground truth of one task, or ``None`` if the random draws give no valid task."""
    user = base.tables["users"][user_id]
    name = user["name"]
    # with lookups users are found by email, because small policies learn to copy names late
    by_email = draw.random() < 0.5 or makers is LOOKUP_MAKERS
    where = {"email": user["email"]} if by_email else {"zip": user["address"]["zip"]}
    identity = Identity(name["first_name"], name["last_name"], **where)
    goals: list[Goal] = []
    actions: list[Action] = []
    for order_id in draw.sample(user["orders"], min(count, len(user["orders"]))):
        order = base.tables["orders"][order_id]
        made = makers[draw.choice(list(kinds))](draw, base, user, order)
        if made is not None:
            goals.append(made[0])
            actions += [made[1]] if made[1] is not None else []
    if not goals:
        return None
    return str(identity), "".join(map(str, goals)), tuple(actions)


def _cancel(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    reason = draw.choice(REASONS)
    goal = Goal("cancel", order["order_id"], reason=reason)
    return goal, Action("cancel_pending_order", {"order_id": order["order_id"], "reason": reason})


def _payment(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    method_id = draw.choice(list(user["payment_methods"]))
    goal = Goal("payment", order["order_id"], payment_id=method_id)
    arguments = {"order_id": order["order_id"], "payment_method_id": method_id}
    return goal, Action("modify_pending_order_payment", arguments)


def _new_address(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    others = [base.tables["orders"][key] for key in user["orders"] if key != order["order_id"]]
    others = [other for other in others if other["address"] != order["address"]]
    if not others:
        return None
    other = draw.choice(others)
    address = {field: other["address"][field] for field in ADDRESS_FIELDS}
    goal = Goal("address", order["order_id"], address=address, same_as=other["order_id"])
    return goal, Action("modify_pending_order_address", {"order_id": order["order_id"], **address})


def _return(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
    chosen = _distinct_items(draw, order)
    if not chosen:
        return None
    method_id = draw.choice(list(user["payment_methods"]))
    goal = Goal("return", order["order_id"], items=tuple(ItemWish(x["name"]) for x in chosen), payment_id=method_id)
    arguments = {
        "order_id": order["order_id"],
        "item_ids": [item["item_id"] for item in chosen],
        "payment_method_id": method_id,
    }
    return goal, Action("return_delivered_order_items", arguments)


def _swap(kind: Kind, tool: str) -> Maker:
    """Returns a function that creates exchanges or modifications."""

    def make(draw: random.Random, base: BaseData, user: Record, order: Record) -> Made:
        wishes, new_ids = [], []
        chosen = _distinct_items(draw, order)
        for item in chosen:
            variants = base.tables["products"][item["product_id"]]["variants"].values()
            fitting = [x for x in variants if x["available"] and x["item_id"] != item["item_id"]]
            if not fitting:
                return None
            new = draw.choice(fitting)
            changed = {key: value for key, value in new["options"].items() if item["options"].get(key) != value}
            if sum(x["available"] and x["options"] == new["options"] for x in variants) != 1:
                return None
            wishes.append(ItemWish(item["name"], dict(item["options"]), changed))
            new_ids.append(new["item_id"])
        if not wishes:
            return None
        method_id = draw.choice(list(user["payment_methods"]))
        arguments = {
            "order_id": order["order_id"],
            "item_ids": [item["item_id"] for item in chosen],
            "new_item_ids": new_ids,
            "payment_method_id": method_id,
        }
        return Goal(kind, order["order_id"], items=tuple(wishes), payment_id=method_id), Action(tool, arguments)

    return make


def _distinct_items(draw: random.Random, order: Record) -> list[Record]:
    """One or two items with names that are unique in the order."""
    names = [item["name"] for item in order["items"]]
    items = [item for item in order["items"] if names.count(item["name"]) == 1]
    return draw.sample(items, min(len(items), draw.randint(1, 2)))


_MAKERS: dict[str, Maker] = {
    "cancel": _cancel,
    "return": _return,
    "exchange": _swap("exchange", "exchange_delivered_order_items"),
    "modify": _swap("modify", "modify_pending_order_items"),
    "payment": _payment,
    "address": _new_address,
}


@lru_cache(maxsize=8)
def pocket_retail(
    users: int = 240,
    tasks: int = 2000,
    seed: int = 0,
    kinds: tuple[Kind, ...] = KINDS,
    max_goals: int = 2,
    lookups: bool = False,
) -> Domain:
    """The generated retail domain with its splits.

    Args:
        users: Number of users; no user is in two splits.
        tasks: Number of tasks over all splits, divided as in ``SPLITS``.
        seed: Seed of database and tasks.
        kinds: Kinds of goals.
        max_goals: Maximum number of goals per task.
        lookups: Create requests that need a look-up with tools.
    """
    base = generate_base(users, seed)
    user_ids = list(base.tables["users"])
    random.Random(f"splits {seed}").shuffle(user_ids)
    splits: dict[str, tuple[Task, ...]] = {}
    start = 0.0
    for split, share in SPLITS.items():
        own = user_ids[round(start * users) : round((start + share) * users)]
        splits[split] = generate_tasks(base, split, max(1, round(share * tasks)), seed, own, kinds, max_goals, lookups)
        start += share
    return Domain("pocket_retail", base, retail_tools.TOOLS, RETAIL_SCHEMAS, POCKET_POLICY, splits)

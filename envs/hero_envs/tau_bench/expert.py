"""A scripted expert for templated retail tasks. It uses only the dialogue, not the database or the ground truth.

It finds the user, reads the order (and the product if a variant must be chosen), describes the action, waits for the
user's confirmation, makes the call, and asks for more until the user stops. It is for warm-up data, full
demonstrations, tests and benchmarks. It understands only the sentence forms of ``hero_envs.tau_bench.goals``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from hero_envs.tau_bench.compact import read_order, read_product
from hero_envs.tau_bench.goals import Goal, Identity, parse_request


def call(name: str, **arguments: Any) -> str:
    """A tool call as a canonical action."""
    return json.dumps({"name": name, "arguments": arguments})


class ScriptedExpert:
    """Plays one episode; call ``reset`` (or create a new one) for the next.

    Args:
        brief: Use short sentences, and read an order only if its items are needed; for small policies.
    """

    def __init__(self, brief: bool = False) -> None:
        self._brief = brief
        self.reset()

    def reset(self) -> None:
        """Clear the dialogue."""
        self._goals: deque[Goal] = deque()
        self._known: list[Goal] = []
        self._identity: Identity | None = None
        self._plan = self._play()
        next(self._plan)

    def act(self, observation: str) -> str:
        """The next canonical action.

        Args:
            observation: The last observation: a message of the user or a tool's result. The first one is
                the user's first message.
        """
        return self._plan.send(observation)

    def _listen(self, message: str) -> None:
        """Parse identity and new goals in a user's message."""
        request = parse_request(message)
        self._identity = request.identity or self._identity
        for goal in request.goals:
            if goal not in self._known:
                self._known.append(goal)
                self._goals.append(goal)

    def _play(self) -> Generator[str, str, None]:
        """The dialogue as a coroutine: yields actions, receives observations."""
        self._orders: dict[str, dict[str, Any]] = {}
        self._products: dict[str, dict[str, Any]] = {}
        self._listen((yield ""))
        while self._identity is None:
            self._listen((yield "Please tell me your name and your zip code, or your email."))
        if (yield self._find(self._identity)).startswith("Error"):
            self._listen((yield "I could not find you. Please give me your name and zip code, or your email, again."))
            yield self._find(self._identity)
        while True:
            while self._goals:
                goal = self._goals.popleft()
                yield from self._handle(goal)
            before = len(self._known)
            if before:
                self._listen((yield "Anything else?" if self._brief else "Is there anything else I can help you with?"))
            if len(self._known) == before:
                self._listen((yield "Please give me the details: order id, items, options, reason, payment, address."))

    @staticmethod
    def _find(who: Identity) -> str:
        if who.email is not None:
            return call("find_user_id_by_email", email=who.email)
        return call("find_user_id_by_name_zip", first_name=who.first_name, last_name=who.last_name, zip=str(who.zip))

    def _handle(self, goal: Goal) -> Generator[str, str, None]:
        """Read the needed records, ask for confirmation, make the call."""
        needs_items = bool(goal.items)
        if goal.order_id not in self._orders and (needs_items or not self._brief):
            self._orders[goal.order_id] = read_order((yield call("get_order_details", order_id=goal.order_id)))
        if goal.kind in ("exchange", "modify"):
            names = {item.name for item in goal.items}
            for product_id in dict.fromkeys(
                item["product_id"] for item in self._orders[goal.order_id].get("items", []) if item["name"] in names
            ):
                if product_id not in self._products:
                    answer = yield call("get_product_details", product_id=product_id)
                    self._products[product_id] = read_product(answer)
        action = self._call_for(goal)
        if action is None:
            yield f"I am sorry, I cannot do this for {goal.order_id}: an item or a variant was not found."
            return
        question = "(yes/no)" if self._brief else "Do you confirm (yes/no)?"
        answer = yield f"{self._summary(goal)} {question}"
        if not answer.lower().startswith("yes"):
            self._listen(answer)
            return
        result = yield action
        if not result.startswith("Error"):
            order = read_order(result)
            if order:
                self._orders[goal.order_id] = order

    def _summary(self, goal: Goal) -> str:
        if self._brief:
            return f"{goal.kind} {goal.order_id}?"
        return f"I will do the following. {str(goal).strip()}"

    def _call_for(self, goal: Goal) -> str | None:
        """The tool call that fulfills a goal, or ``None`` if an item cannot be found."""
        if goal.kind == "cancel":
            return call("cancel_pending_order", order_id=goal.order_id, reason=goal.reason)
        if goal.kind == "payment":
            return call("modify_pending_order_payment", order_id=goal.order_id, payment_method_id=goal.payment_id)
        if goal.kind == "address":
            return call("modify_pending_order_address", order_id=goal.order_id, **(goal.address or {}))
        chosen = list(self._choose(goal))
        if any(item is None for item, _ in chosen):
            return None
        old = [item["item_id"] for item, _ in chosen if item]
        if goal.kind == "return":
            return call(
                "return_delivered_order_items",
                order_id=goal.order_id,
                item_ids=old,
                payment_method_id=goal.payment_id,
            )
        if any(new is None for _, new in chosen):
            return None
        name = "exchange_delivered_order_items" if goal.kind == "exchange" else "modify_pending_order_items"
        return call(
            name,
            order_id=goal.order_id,
            item_ids=old,
            new_item_ids=[new for _, new in chosen],
            payment_method_id=goal.payment_id,
        )

    def _choose(self, goal: Goal) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        """Per requested item: the item of the order, and the id of its new variant."""
        left = list(self._orders.get(goal.order_id, {}).get("items", []))
        for wish in goal.items:
            fitting = [
                item
                for item in left
                if item["name"] == wish.name
                and all(item["options"].get(key) == value for key, value in (wish.options or {}).items())
            ]
            if not fitting:
                yield None, None
                continue
            item = fitting[0]
            left.remove(item)
            wanted = {**item["options"], **(wish.changed or {})}
            variants = self._products.get(item["product_id"], {}).get("variants", {})
            new = (key for key, variant in variants.items() if variant["available"] and variant["options"] == wanted)
            yield item, next(new, None)

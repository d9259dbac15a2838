"""Rules for correct actions at the pocket retail desk, computed from the conversation only.

The rules use the customer's request, what the tools have returned so far, and the shop's policy. The order of steps is
fixed (find the user, read the order, refuse or look up the gift card, ask, act, close). A turn is judged by the
conversation before it, so that only the turn that caused a problem is an error, not the turns after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from hero_envs.tau_bench.env import read_action
from hero_envs.tau_bench.goals import REASONS, Goal, Identity, parse_request
from hero_envs.tau_bench.lookups import GIFT_CARD, NEEDED, ORIGINAL
from hero_pl.runs.records import is_error

Call: TypeAlias = Mapping[str, Any]
"""``{"name": ..., "arguments": {...}}``; a message to the customer is a call of ``respond``."""

ENV = "hero_pl/PocketRetail-v0"
ENV_ARGS = {
    "compact": True,
    "handles": True,
    "lookups": True,
    "kinds": ["return", "return", "return", "return", "cancel"],
    "max_goals": 1,
    "size": 3000,
    "tasks": 16000,
}
"""Arguments of the environment in ``configs/pocket_retail.yaml``."""

CLOSE = "Anything else?"
ACTS = ("cancel_pending_order", "return_delivered_order_items")
_ACCEPTED = "ok: "


def say(words: str) -> Call:
    """A message to the customer, as a call."""
    return {"name": "respond", "arguments": {"content": words}}


def tool(name: str, **arguments: Any) -> Call:
    """A tool call."""
    return {"name": name, "arguments": arguments}


TRANSFER = tool("transfer_to_human_agents", summary="not allowed")


@dataclass(frozen=True, slots=True)
class Desk:
    """What is known before a turn."""

    goal: Goal
    identity: Identity
    user_id: str | None = None
    status: str | None = None
    """Status of the order, after it was read."""
    items: tuple[str, ...] = ()
    """Names of the order's items, as listed by the tool."""
    paid: str = ""
    """Payment method of the order."""
    methods: tuple[str, ...] = ()
    """Payment methods of the user, after the profile was read."""
    confirmed: bool = False
    acted: bool = False
    failed: bool = False
    """Whether the last call was answered with an error."""

    @staticmethod
    def open(first_observation: str) -> Desk | None:
        """The state at the customer's first message; ``None`` if it is not a request of this environment."""
        request = parse_request(first_observation)
        if request.identity is None or len(request.goals) != 1 or request.goals[0].kind not in NEEDED:
            return None
        return Desk(request.goals[0], request.identity)

    def after(self, call: Call | None, observation: str) -> Desk:
        """The state after a turn; ``call`` is ``None`` if the reply could not be parsed."""
        desk = replace(self, failed=is_error(observation))
        if call is None or desk.failed:
            return desk
        name, arguments = call["name"], call["arguments"]
        if name.startswith("find_user_id"):
            return replace(desk, user_id=observation)
        if name == "get_order_details" and "; paid " in observation and arguments.get("order_id") == self.goal.order_id:
            status, *items, paid = observation.split("; ")
            return replace(desk, status=status, items=tuple(items), paid=paid.removeprefix("paid "))
        if name == "get_user_details" and "; payments " in observation:
            return replace(desk, methods=tuple(observation.partition("; payments ")[2].split()))
        if name == "respond":
            return replace(desk, confirmed=desk.confirmed or observation == "Yes.")
        return replace(desk, acted=desk.acted or (name in ACTS and observation.startswith(_ACCEPTED)))

    # -- possible steps ----------------------------------------------------------------------------------------

    def right(self) -> Call:
        """The next step of the policy."""
        if self.user_id is None:
            return self.find()
        if self.status is None:
            return self.read()
        if self.acted:
            return say(CLOSE)
        if self.status != NEEDED[self.goal.kind]:
            return TRANSFER
        if self.goal.payment_id == GIFT_CARD and not self.methods:
            return self.profile()
        return self.act(self.wanted_item(), self.wanted_payment()) if self.confirmed else self.ask()

    def find(self) -> Call:
        """Find the user by the identity that the request gives."""
        who = self.identity
        if who.email is not None:
            return tool("find_user_id_by_email", email=who.email)
        return tool("find_user_id_by_name_zip", first_name=who.first_name, last_name=who.last_name, zip=who.zip)

    def read(self) -> Call:
        """Read the order."""
        return tool("get_order_details", order_id=self.goal.order_id)

    def profile(self) -> Call:
        """Read the user's profile."""
        return tool("get_user_details", user_id=self.user_id or "")

    def ask(self) -> Call:
        """Ask the customer for confirmation."""
        return say(f"{self.goal.kind} {self.goal.order_id}? (yes/no)")

    def act(self, item: str, payment: str) -> Call:
        """Make the change. For a cancellation ``item`` is the reason, and ``payment`` is not used."""
        if self.goal.kind == "cancel":
            return tool(ACTS[0], order_id=self.goal.order_id, reason=item)
        return tool(ACTS[1], order_id=self.goal.order_id, item_ids=[item], payment_method_id=payment)

    def wanted_item(self) -> str:
        """The reason, or the item that the customer named."""
        return (self.goal.reason or "") if self.goal.kind == "cancel" else self.goal.items[0].name

    def wanted_payment(self) -> str:
        """The payment method that the customer asked for, as far as the tools have returned it."""
        if self.goal.payment_id == ORIGINAL:
            return self.paid
        return next((method for method in self.methods if method.startswith(GIFT_CARD)), self.paid)

    def choices(self) -> tuple[str, ...]:
        """Reasons, or the order's items."""
        return REASONS if self.goal.kind == "cancel" else self.items

    def payments(self) -> tuple[str, ...]:
        """Payment methods that the tools have returned."""
        return tuple(dict.fromkeys((self.paid, *self.methods)))

    def possible(self) -> list[Call]:
        """Every step that is possible with what is known, correct or not."""
        steps = [self.find(), self.read(), self.ask(), TRANSFER, say(CLOSE)]
        steps += [self.profile()] if self.user_id is not None else []
        if self.status is not None or self.goal.kind == "cancel":
            payments = ("",) if self.goal.kind == "cancel" else self.payments()
            steps += [self.act(choice, payment) for choice in self.choices() for payment in payments]
        return steps


@dataclass(frozen=True, slots=True)
class Clerk:
    """Situation of the retail desk, built from actions (as text) and observations."""

    desk: Desk

    @property
    def kinds(self) -> frozenset[str]:
        """See :class:`hero_pl.pocket.situation.Situation`."""
        return FAULTS | {"right"}

    @staticmethod
    def open(first_observation: str) -> Clerk | None:
        """The situation at the start; ``None`` if the message is not a request of this environment."""
        desk = Desk.open(first_observation)
        return Clerk(desk) if desk else None

    def right(self) -> Call:
        """The next step of the policy."""
        return self.desk.right()

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Call | None]:
        """The diagnosis of a turn, and the correct step if the turn took another one."""
        return judge(self.desk, read_call(action), reply)

    def after(self, action: str, reply: str) -> Clerk:
        """The situation after a turn."""
        return Clerk(self.desk.after(read_call(action), reply))


# -- judging -----------------------------------------------------------------------------------------------------------

_WRONG_ARGUMENT = {
    "order_id": "wrong order",
    "reason": "wrong reason",
    "item_ids": "wrong item",
    "payment_method_id": "wrong payment",
}
_MISSING = {"get_order_details": "order not read", "get_user_details": "user not read"}
FAULTS = frozenset(
    {*_WRONG_ARGUMENT.values(), *_MISSING.values(), "wrong", "not allowed", "not confirmed", "error"}
    | {"user not found", "wrong step"}
)
"""Possible first parts of the diagnosis of an error."""


def judge(desk: Desk, call: Call | None, observation: str) -> tuple[str, Call | None]:
    """The diagnosis of one turn, and the correct step if the turn took another one.

    Args:
        desk: State before the turn.
        call: The call of the turn.
        observation: The observation after it.
    """
    right = desk.right()
    if call is not None and _decisive(call) == _decisive(right):
        return f"right: {short(call)}", None
    return f"{_fault(desk, call, right, observation)}: {short(call)}", right


def short(call: Call | None) -> str:
    """A step in a few words, with its decisive argument."""
    if call is None:
        return "unreadable"
    name, arguments = call["name"], call["arguments"]
    if name == "respond":
        words = str(arguments.get("content", ""))
        return "close" if words == CLOSE else "ask" if words.endswith("? (yes/no)") else "talk"
    if name == ACTS[0]:
        return f"cancel, {arguments.get('reason')}"
    if name == ACTS[1]:
        items = arguments.get("item_ids")
        named = ", ".join(map(str, items)) if isinstance(items, list) else str(items)
        return f"return {named} to {arguments.get('payment_method_id')}"
    known = {"get_order_details": "read order", "get_user_details": "read user", TRANSFER["name"]: "transfer"}
    return known.get(name, "find user" if name.startswith("find_user_id") else "other tool")


def _decisive(call: Call) -> Call:
    """A call without what its tool does not look at: capitals in names and addresses, and the words of a summary."""
    name, arguments = call["name"], dict(call["arguments"])
    folded = {"find_user_id_by_email": ("email",), "find_user_id_by_name_zip": ("first_name", "last_name")}
    for key in folded.get(name, ()):
        if isinstance(arguments.get(key), str):
            arguments[key] = arguments[key].lower()
    if name == TRANSFER["name"] and isinstance(arguments.get("summary"), str):
        arguments["summary"] = ""
    return {"name": name, "arguments": arguments}


def _fault(desk: Desk, call: Call | None, right: Call, observation: str) -> str:
    name = right["name"]
    if call is not None and call["name"] == name and name in ACTS:
        wrong = [key for key, value in right["arguments"].items() if call["arguments"].get(key) != value]
        return _WRONG_ARGUMENT[wrong[0]] if wrong else "wrong"
    if right == TRANSFER:
        return "not allowed"
    if call is not None and call["name"] in ACTS and right == desk.ask():
        return "not confirmed"
    if is_error(observation):
        return "error"
    return _MISSING.get(name, "user not found" if name.startswith("find_user_id") else "wrong step")


def read_call(action: str) -> Call | None:
    """Parse a canonical action; ``None`` if it is empty."""
    name, arguments, problem = read_action(action)
    return {"name": name, "arguments": arguments} if action and not problem else None

"""A user without a model: a deterministic state machine built from the instruction.

It uses neither the database nor the ground truth, and it decides to stop from the dialogue only. Instructions in the
sentence forms of ``hero_envs.tau_bench.goals`` are played goal by goal. Any other instruction is sent at once in the
first person, which is only an approximation (the manifest lists the tasks that it plays faithfully). Scores with this
user are not comparable with scores of a language-model user.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

from hero_envs.tau_bench.goals import Goal, parse_request
from hero_envs.tau_bench.users.base import STOP, User

_IDENTITY = re.compile(r"your (?:full |first |last )?(?:name|identity|user id)|e-?mail|zip|identify|authenticate", re.I)
_MORE = re.compile(r"anything else|something else|else (?:i|we) can|any other|further (?:help|assistance)", re.I)
_CONFIRM = re.compile(
    r"\bconfirm\b|yes/no|\(yes|\byes\b.*\bproceed|proceed\?|is (?:that|this) (?:right|correct|ok)"
    r"|shall i|should i|(?:do you want|would you like) me to|go ahead\?",
    re.I,
)
_REPORT = re.compile(
    r"\b(?:done|completed?|success(?:ful|fully)?|has been|have been|is now|are now|unable|cannot|can't|could not|failed"
    r"|not possible|unfortunately|sorry)\b",
    re.I,
)
_SLOTS = {
    "order": re.compile(r"\border (?:id|number)|which orders?\b", re.I),
    "items": re.compile(r"\bitems?\b|\bproducts?\b|\boptions?\b", re.I),
    "reason": re.compile(r"\breason\b|\bwhy\b", re.I),
    "payment": re.compile(r"\bpayment|\brefund|\bpay\b", re.I),
    "address": re.compile(r"\baddress\b", re.I),
}
_DETAILS = re.compile(r"\bdetails?\b|tell me more|what exactly", re.I)
_ORDER_ID = re.compile(r"#\w+")
_PAYMENT_ID = re.compile(r"\b(?:credit_card|gift_card|paypal)_\d+")

_VAGUE = {
    "cancel": "I want to cancel an order.",
    "return": "I want to return some items.",
    "exchange": "I want to exchange some items.",
    "modify": "I want to modify the items of an order.",
    "payment": "I want to change the payment of an order.",
    "address": "I want to change the address of an order.",
}


class ScriptedUser(User):
    """Sends its request, answers by keywords, confirms what it asked for, and stops when all requests are done.

    Args:
        mode: ``full`` gives all information in the first message; ``on_demand`` gives a general request, and identity
            and details on request.
        patience: Number of consecutive answers without progress after which the request is repeated.
        max_messages: Number of messages after which the user stops in any case; higher for a request with many goals.
    """

    def __init__(self, mode: Literal["full", "on_demand"] = "full", patience: int = 3, max_messages: int = 15) -> None:
        if mode not in ("full", "on_demand"):
            raise ValueError(f"ScriptedUser(mode={mode!r}): expected 'full' or 'on_demand'.")
        self.label = f"scripted-{mode}"
        self._mode = mode
        self._patience = patience
        self._max_messages = max_messages

    def reset(self, instruction: str) -> str:
        """Parse the instruction; return the first message."""
        request = parse_request(instruction)
        self._goals = request.goals if request.identity else ()
        self._identity = _first_person(str(request.identity)).strip() if request.identity else ""
        self._whole = _first_person(instruction).strip()
        self._handled: set[int] = set()
        self._stated: dict[int, int] = {}
        self._messages = 0
        self._fruitless = 0
        if not self._goals:
            return self._whole
        if self._mode == "full":
            self._stated = dict.fromkeys(range(len(self._goals)), 1)
            return self._identity + " " + "".join(str(goal) for goal in self._goals).strip()
        return self._state_next()

    def step(self, message: str) -> str:
        """Answer one message of the policy."""
        self._messages += 1
        if self._messages > self._max_messages + 5 * len(self._goals):
            return STOP
        reply = self._reply(message) if self._goals else self._reply_without_goals(message)
        if reply is not None:
            self._fruitless = 0
            return reply
        self._fruitless += 1
        if self._fruitless % self._patience:
            return "Please go on with my request."
        open_goals = self._open_goals()
        return self._tell(open_goals[0]) if open_goals else self._whole

    def _reply(self, message: str) -> str | None:
        """The answer to a message, or ``None`` if no keyword is found."""
        named = set(_ORDER_ID.findall(message))
        if _MORE.search(message):
            self._handled |= self._goals_of(named)
            return self._state_next()
        if _IDENTITY.search(message) and not named:
            return self._identity
        if _CONFIRM.search(message):
            return self._confirm(message, named)
        slots = self._answer_slots(message) if "?" in message or "please" in message.lower() else None
        if slots is not None:
            return slots
        if _REPORT.search(message):
            self._handled |= self._goals_of(named) or set(self._open_goals()[:1])
            return self._state_next()
        return None

    def _reply_without_goals(self, message: str) -> str | None:
        """The answer of a user whose instruction is free text."""
        if _MORE.search(message):
            return STOP
        if _CONFIRM.search(message):
            return "Yes."
        if _IDENTITY.search(message) or "?" in message:
            return self._whole
        return STOP if _REPORT.search(message) else None

    def _open_goals(self) -> list[int]:
        return [number for number in range(len(self._goals)) if number not in self._handled]

    def _goals_of(self, order_ids: set[str]) -> set[int]:
        return {number for number, goal in enumerate(self._goals) if goal.order_id in order_ids}

    def _state_next(self) -> str:
        """Send the next open goal, each at most twice; stop if there is none."""
        for number in self._open_goals():
            if self._stated.get(number, 0) < 2:
                return self._tell(number)
        return STOP

    def _tell(self, number: int) -> str:
        """Text of a goal; detailed if the goal was mentioned before."""
        goal = self._goals[number]
        times = self._stated[number] = self._stated.get(number, 0) + 1
        return _VAGUE[goal.kind] if self._mode == "on_demand" and times == 1 else str(goal).strip()

    def _confirm(self, message: str, named: set[str]) -> str:
        """Confirm, unless the message has an order or a payment method that is in no goal."""
        orders = {order_id for goal in self._goals for order_id in (goal.order_id, goal.same_as)}
        if named - orders:
            return f"No. {self._correction()}"
        meant = [self._goals[number] for number in sorted(self._goals_of(named))]
        payments = {goal.payment_id for goal in meant}
        wrong = set(_PAYMENT_ID.findall(message)) - payments
        if wrong and meant and all(goal.payment_id for goal in meant):
            return f"No. {self._correction()}"
        self._handled |= self._goals_of(named) if len(meant) == 1 else set()
        return "Yes."

    def _correction(self) -> str:
        open_goals = self._open_goals() or [0]
        return str(self._goals[open_goals[0]]).strip()

    def _answer_slots(self, message: str) -> str | None:
        """The requested detail of the current goal; the whole goal if several details were requested."""
        open_goals = self._open_goals()
        asked = [name for name, pattern in _SLOTS.items() if pattern.search(message)]
        if not open_goals or not (asked or _DETAILS.search(message)):
            return None
        goal = self._goals[open_goals[0]]
        self._stated[open_goals[0]] = max(self._stated.get(open_goals[0], 0), 1)
        if len(asked) != 1:
            return str(goal).strip()
        return _slot(goal, asked[0]) or "I don't remember."


def _slot(goal: Goal, name: str) -> str | None:
    if name == "order":
        return goal.order_id
    if name == "reason":
        return goal.reason
    if name == "payment":
        return goal.payment_id
    if name == "address":
        return str(goal.address) if goal.address else None
    return str(goal).strip() if goal.items else None


_PRONOUNS = (
    (r"\byou are\b", "I am"),
    (r"\byou're\b", "I'm"),
    (r"\byou've\b", "I've"),
    (r"\byou'd\b", "I'd"),
    (r"\byou'll\b", "I'll"),
    (r"\byourself\b", "myself"),
    (r"\byours\b", "mine"),
    (r"\byour\b", "my"),
    (r"\b(to|for|with|from|tells?|asks?|gives?|offers?|helps?|lets?|charges?) you\b", r"\1 me"),
    (r"\byou\b", "I"),
)


def _first_person(text: str) -> str:
    """Convert the instruction to the first person; capital letters at the start of sentences are kept."""
    for pattern, replacement in _PRONOUNS:
        text = re.sub(pattern, partial(_keep_capital, replacement), text, flags=re.IGNORECASE)
    return text


def _keep_capital(replacement: str, match: re.Match[str]) -> str:
    new = match.expand(replacement)
    return new[0].upper() + new[1:] if match[0][0].isupper() else new

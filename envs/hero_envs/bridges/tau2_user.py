"""The customer of a tau2-bench task: the package's own simulator, or a user of :mod:`hero_envs.tau_bench.users`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from hero_envs.chat_endpoint import EndpointDown, RequestFailed
from hero_envs.chat_http import encodable
from hero_envs.tau_bench.users.base import User, UserError
from hero_envs.tau_bench.users.chat import ChatUser
from hero_envs.tau_bench.users.endpoint import EndpointUser
from hero_envs.tau_bench.users.scripted import ScriptedUser

MAX_CALLS = 30
"""Most tool calls of a customer between two messages."""
_HOPELESS = ("AuthenticationError", "PermissionDeniedError", "NotFoundError")
"""Errors of litellm after which no request will be answered."""


class Customer:
    """Writes the messages of the customer of one episode at a time.

    Args:
        tau2: The package.
        user: A user without tools, or ``None`` for the package's simulator.
        llm: Name of the simulator's model, as litellm knows it.
        llm_args: Further arguments of litellm, for example ``api_base`` or ``temperature``.
    """

    def __init__(
        self, tau2: SimpleNamespace, user: User | None, llm: str = "", llm_args: Mapping[str, Any] | None = None
    ) -> None:
        self.label = f"tau2:{llm}" if user is None else user.label
        self.has_tools = user is None
        self.user = user
        self._tau2, self._llm, self._llm_args = tau2, llm, dict(llm_args or {})
        self._cost = 0.0
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        """Tokens that the simulator's model has read and written in this episode, as its server counted them."""

    @property
    def cost(self) -> float:
        """Cost of this episode: of the simulator as litellm estimates it, else that of the user."""
        return self._cost if self.user is None else self.user.cost

    def begin(self, task: Any, environment: Any, greeting: Any, seed: int | None) -> list[Any]:
        """The first message, after the tool calls that come before it.

        Args:
            task: A task of tau2-bench.
            environment: Of this episode; has the customer's tools.
            greeting: The message of the agent that the customer answers.
            seed: Seed of the customer.

        Raises:
            RequestFailed: The customer's model gave no usable answer.
            EndpointDown: It will give none.
            UserError: The customer does nothing but call tools.
        """
        self._environment = environment
        if self.user is not None:
            if seed is not None:
                self.user.reseed(seed)
            return [self._message(self.user.reset(_instruction(task, isinstance(self.user, ScriptedUser))))]
        self._cost, self.tokens = 0.0, dict.fromkeys(self.tokens, 0)
        tools = None
        if environment.user_tools is not None:
            allowed = getattr(task, "user_tools", None)  # v1 lists the tools of some tasks
            tools = [one for one in environment.get_user_tools() if allowed is None or one.name in allowed] or None
        arguments = copy.deepcopy(self._llm_args)
        if seed is not None:
            arguments["seed"] = seed
        self._simulator = self._tau2.user.UserSimulator(
            tools=tools, instructions=str(task.user_scenario), llm=self._llm, llm_args=arguments
        )
        self._state = self._simulator.get_init_state()
        return self.reply(greeting)

    def reply(self, message: Any) -> list[Any]:
        """The answer to a message of the agent, after the tool calls that come before it; see :meth:`begin`."""
        if self.user is not None:
            return [self._message(self.user.step(message.content))]
        said: list[Any] = []
        for _ in range(MAX_CALLS):
            said.append(self._simulated(message))
            if not said[-1].is_tool_call():
                return said
            results = [self._environment.get_response(call) for call in said[-1].tool_calls]
            said.extend(results)
            together = self._tau2.message.MultiToolMessage
            message = results[0] if len(results) == 1 else together(role="tool", tool_messages=results)
        raise UserError(f"The customer called tools {MAX_CALLS} times without a message. Use a stronger model.")

    def is_stop(self, message: Any) -> bool:
        """Whether the message ends the conversation."""
        return bool(self._tau2.user.UserSimulator.is_stop(message))

    def cancel(self) -> None:
        """Give up what a user waits for; requests of the simulator end with their own time limit."""
        if self.user is not None:
            self.user.cancel()

    def _message(self, text: str) -> Any:
        return self._tau2.message.UserMessage(role="user", content=encodable(text))

    def _simulated(self, message: Any) -> Any:
        try:
            said, self._state = self._simulator.generate_next_message(message, self._state)
            said.validate()
        except Exception as error:
            problem = f"The customer's model {self._llm!r} failed: {type(error).__name__}: {error}"[:500]
            if type(error).__name__ in _HOPELESS:
                raise EndpointDown(f"{problem}. Check user.llm, the key and api_base.") from error
            raise RequestFailed(problem) from error
        self._cost += said.cost or 0.0
        for name in self.tokens:
            self.tokens[name] += int((said.usage or {}).get(name) or 0)
        return said


def customer_of(tau2: SimpleNamespace, user: str | Mapping[str, Any] | User) -> Customer | None:
    """The customer that the argument ``user`` of the environment describes; ``None`` for ``solo``.

    Raises:
        ValueError: It describes none.
    """
    if user == "solo":
        return None
    if user == "scripted":
        return Customer(tau2, ScriptedUser("full"))
    if isinstance(user, User):
        return Customer(tau2, user)
    if isinstance(user, Mapping):
        if "llm" in user and user.keys() <= {"llm", "llm_args"}:
            return Customer(tau2, None, user["llm"], user.get("llm_args"))
        if "complete" in user:
            return Customer(tau2, ChatUser(**user))
        if "url" in user:
            return Customer(tau2, EndpointUser(**user))
    raise ValueError(
        f"user={user!r}: expected 'scripted', 'solo', a mapping with llm and llm_args (the simulator of tau2-bench), "
        "with the arguments of an EndpointUser (url, model, ...) or with pretrained (a local model), or a User."
    )


def _instruction(task: Any, scripted: bool) -> str:
    """What the customer is told, in one text; the original's form is for its own simulator.

    A scripted customer says it word by word, so it is not told who it is.
    """
    told, persona = task.user_scenario.instructions, task.user_scenario.persona
    parts = [told]
    if not isinstance(told, str):
        parts = [told.known_info, told.unknown_info, told.reason_for_call, told.task_instructions]
    if not scripted:
        parts.insert(0, persona)
    return "\n".join(str(part).strip() for part in parts if part)

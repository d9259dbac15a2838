"""Tasks of tau2-bench (arXiv 2506.07982): an agent, its tools, and a customer who in some domains has tools as well.

tau2-bench is not on PyPI, where its name belongs to another project. Install it from its repository, and set
``TAU2_DATA_DIR`` to the folder ``data`` of a checkout of the same version::

    pip install 'tau2 @ git+https://github.com/sierra-research/tau2-bench@v0.2.0'
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from hero_envs.bridges.base import judged
from hero_envs.bridges.tau2_tasks import made, refusal, tasks_of, tau2_bench, without_judged
from hero_envs.bridges.tau2_user import customer_of
from hero_envs.chat_http import encodable
from hero_envs.spaces import UnicodeText
from hero_envs.tau_bench.env import read_action
from hero_envs.tau_bench.episode import RESPOND
from hero_envs.tau_bench.users.base import GREETING, STOP, User
from hero_envs.tau_bench.users.scripted import ScriptedUser

DONE = "done"
"""Name of the tool that ends an episode without a customer."""


class Tau2Env(gym.Env[str, str]):
    """One conversation with a customer, or one ticket, per episode; its reward, at the end, is that of tau2-bench.

    Args:
        domain: A domain of the installed version: ``mock``, ``retail``, ``airline``, ``telecom``, ``telecom-workflow``.
        split: ``train``, ``validation``, ``test`` or ``all``; see :func:`hero_envs.bridges.tau2_tasks.tasks_of`.
        user: ``scripted`` (gives all information at once, has no tools), ``solo`` (no customer: the agent reads a
            ticket and has the customer's tools), ``{"llm": ..., "llm_args": ...}`` (tau2-bench's own simulator, through
            litellm), the arguments of an ``EndpointUser`` or a ``ChatUser`` as a mapping, or a ``User`` that no other
            environment uses. If hero_pl creates the environment, ``{"pretrained": ...}`` loads a model.
        max_steps: Truncate after this many actions. tau2-bench counts messages, about two per action.
        max_errors: Truncate after this many errors of tools and invalid calls.
        without_judge: Also play tasks whose reward has assertions for a language model to judge; they are left out of
            it and listed in ``info["unjudged"]``.
        system_prompt: Text that replaces the prompt of tau2-bench's agent with the domain's policy.

    Attributes:
        task_ids: Tasks of the split that can be played.
        refused: Its other tasks, each with the reason.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the type is Gymnasium's

    def __init__(
        self,
        domain: str = "mock",
        split: str = "train",
        user: str | Mapping[str, Any] | User = "scripted",
        max_steps: int = 100,
        max_errors: int = 10,
        without_judge: bool = False,
        system_prompt: str | None = None,
    ) -> None:
        for name, value in (("max_steps", max_steps), ("max_errors", max_errors)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1.")
        self._tau2 = tau2_bench()
        self.customer = customer_of(self._tau2, user)
        self.domain, self.max_steps, self.max_errors = domain, max_steps, max_errors
        environment = made(self._tau2, domain, self.customer is None)
        tasks = tasks_of(self._tau2, domain, split)
        has_tools = self.customer is not None and self.customer.has_tools
        reasons = {
            name: refusal(self._tau2, task, self.customer is None, has_tools, without_judge)
            for name, task in tasks.items()
        }
        self.refused = {name: reason for name, reason in reasons.items() if reason}
        self._tasks = {name: task for name, task in tasks.items() if not reasons[name]}
        self.task_ids = list(self._tasks)
        if not self._tasks:
            examples = "; ".join(f"{name}: {reason}" for name, reason in list(self.refused.items())[:3])
            raise ValueError(f"domain={domain!r}, split={split!r} has no task to play ({examples or 'it is empty'}).")
        self.system_prompt = self._prompt(environment) if system_prompt is None else system_prompt
        self.tools = self._schemas(environment)
        self.action_space = self.observation_space = UnicodeText()
        self.task = ""
        self._over = True
        self._floors: dict[str, bool] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the task ``options["task"]``, or a random one.

        Returns:
            The customer's first message or the ticket, and ``info`` with ``system_prompt``, ``tools``, ``role``,
            ``task``, ``user``, ``plain_replies``, ``do_nothing_succeeds`` and, where they apply, ``unjudged`` and
            ``user_is_faithful``.

        Raises:
            ValueError: There is no such task, or it is refused.
            RequestFailed: The customer's model gave no usable answer; see :meth:`tau2_user.Customer.begin`.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.task_ids[int(self.np_random.integers(len(self.task_ids)))]
        if task in self.refused:
            raise ValueError(f"task={task!r} cannot be played here: {self.refused[task]}.")
        if task not in self._tasks:
            raise ValueError(f"task={task!r}: expected one of task_ids, for example {self.task_ids[0]!r}.")
        self.task, self._over, self._steps, self._errors = task, True, 0, 0
        self._scored, self._unjudged = without_judged(self._tasks[task])
        self._environment = made(self._tau2, self.domain, self.customer is None)
        start = copy.deepcopy(self._scored.initial_state)
        data, actions = (start.initialization_data, start.initialization_actions) if start else (None, None)
        self._environment.set_state(data, actions, [])
        info: dict[str, Any] = {
            "system_prompt": self.system_prompt,
            "tools": self.tools,
            "role": "user",
            "task": task,
            "user": "solo" if self.customer is None else self.customer.label,
            "plain_replies": self.customer is not None,
            "do_nothing_succeeds": self._floor(),
        }
        if self._unjudged:
            info["unjudged"] = self._unjudged
        if self.customer is None:
            self._messages: list[Any] = []
            opening = str(self._scored.ticket)
        else:
            if isinstance(self.customer.user, ScriptedUser):
                info["user_is_faithful"] = False  # it knows the sentences of generated retail tasks only
            greeting = self._agent(content=GREETING)
            said = self.customer.begin(self._scored, self._environment, greeting, seed)
            self._messages = [greeting, *said]
            opening = said[-1].content
        self._over = False
        return encodable(opening), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action: a message to the customer, or ``{"name": ..., "arguments": {...}}`` for a tool.

        Returns:
            Observation, reward, terminated, truncated, ``info`` with ``role`` and ``source``; at the end also
            ``success``, ``reward_info`` (the components, as tau2-bench reports them), ``user``, ``user_cost`` and,
            where they apply, ``user_tokens``, ``unjudged`` and ``scoring_error``.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none was started.
            RequestFailed: The customer's model gave no usable answer; see :meth:`tau2_user.Customer.begin`.
        """
        if self._over:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
        self._steps += 1
        name, arguments, problem = read_action(action)
        ended = False
        if problem:
            role, text = "tool", self._mistake(problem)
        elif name == RESPOND and isinstance(arguments.get("content"), str):
            role, text, ended = self._said(encodable(arguments["content"]))
        elif name == DONE and self.customer is None:
            self._messages.append(self._agent(content=STOP))
            role, text, ended = "tool", "The ticket is closed.", True
        else:
            role, text = "tool", self._called(name, arguments)
        truncated = not ended and (self._steps >= self.max_steps or self._errors >= self.max_errors)
        self._over = ended or truncated
        info: dict[str, Any] = {"role": role, "source": name, "task": self.task}
        reward = 0.0
        if self._over:
            reward, about = self._score() if ended else (0.0, {"reward_info": None})
            info |= {"success": reward >= 1.0, **about, **self._spent()}
        return encodable(text), reward, ended, truncated, info

    def content(self, task: str) -> str:
        """What the customer is told and the state at the start, which tasks with different checks can share."""
        of = self._tasks[task]
        return f"{of.user_scenario}\n{of.initial_state}"

    def cancel(self) -> None:
        """Called from another thread when the run is to end: a user that waits for a server gives up."""
        if self.customer is not None:
            self.customer.cancel()

    def _said(self, text: str) -> tuple[str, str, bool]:
        """Send a message to the customer: role and text of the answer, and whether it ends the conversation."""
        if self.customer is None:
            return "tool", self._mistake(f"Error: nobody reads messages. Call a tool, and {DONE} at the end."), False
        if not text.strip():
            return "tool", self._mistake("Error: the message is empty"), False
        message = self._agent(content=text)
        said = self.customer.reply(message)
        self._messages += [message, *said]
        return "user", str(said[-1].content), self.customer.is_stop(said[-1])

    def _called(self, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool. A call that is not carried out is not recorded either, because the evaluator repeats them."""
        if name == "calculate" and "**" in str(arguments.get("expression", "")):
            # The tool evaluates any product of numbers, and a tower of powers would never end.
            return self._mistake("Error: powers are not supported")
        arguments = json.loads(encodable(json.dumps(arguments, ensure_ascii=False)))
        message = self._tau2.message
        call = message.ToolCall(id=f"call_{self._steps}", name=encodable(name), arguments=arguments)
        try:
            result = self._environment.get_response(call)
        except Exception as error:  # raised after the tool, while its result is made a text
            return self._mistake(f"Error: {error}")
        self._messages += [self._agent(tool_calls=[call]), result]
        self._errors += bool(result.error)
        return str(result.content)

    def _mistake(self, text: str) -> str:
        self._errors += 1
        return text

    def _agent(self, **fields: Any) -> Any:
        return self._tau2.message.AssistantMessage(role="assistant", **fields)

    def _score(self) -> tuple[float, dict[str, Any]]:
        """Reward of the conversation by tau2-bench's evaluator, and its components."""
        found: dict[str, Any] = {"reward_info": None}

        def score() -> float:
            evaluated = self._evaluated(self._messages)
            found["reward_info"] = evaluated.model_dump(mode="json", exclude_none=True)
            return float(evaluated.reward)

        reward, problem = judged(score)
        return reward, {**found, **problem}

    def _evaluated(self, messages: list[Any]) -> Any:
        reasons = self._tau2.simulation.TerminationReason
        run = self._tau2.simulation.SimulationRun(
            id=self.task,
            task_id=self.task,
            start_time="",
            end_time="",
            duration=0.0,
            termination_reason=reasons.AGENT_STOP if self.customer is None else reasons.USER_STOP,
            messages=copy.deepcopy(messages),
        )
        evaluator = self._tau2.evaluator
        return evaluator.evaluate_simulation(
            simulation=run,
            task=self._scored,
            evaluation_type=evaluator.EvaluationType.ALL,
            solo_mode=self.customer is None,
            domain=self.domain,
        )

    def _floor(self) -> bool:
        """Whether the task is solved by an agent that does nothing."""
        if self.task not in self._floors:
            self._floors[self.task] = judged(lambda: float(self._evaluated([]).reward))[0] >= 1.0
        return self._floors[self.task]

    def _spent(self) -> dict[str, Any]:
        spent: dict[str, Any] = {"unjudged": self._unjudged} if self._unjudged else {}
        if self.customer is None:
            return {**spent, "user": "solo", "user_cost": 0.0}
        if self.customer.has_tools:
            spent["user_tokens"] = dict(self.customer.tokens)
        return {**spent, "user": self.customer.label, "user_cost": self.customer.cost}

    def _prompt(self, environment: Any) -> str:
        """The prompt of tau2-bench's own agent; the ticket is the first observation instead of its last part."""
        agent = self._tau2.agent
        how = agent.AGENT_INSTRUCTION
        if self.customer is None:
            how = agent.AGENT_SOLO_INSTRUCTION.format(stop_function_name=DONE, stop_token=STOP)
        return str(agent.SYSTEM_PROMPT.format(agent_instruction=how, domain_policy=environment.get_policy()))

    def _schemas(self, environment: Any) -> list[dict[str, Any]]:
        """Schemas of the agent's tools; without a customer also of the customer's, and of the one that ends."""
        tools = list(environment.get_tools())
        if self.customer is not None:
            return [dict(tool.openai_schema) for tool in tools]

        def done() -> str:
            """Call this when the ticket is solved."""
            return STOP

        if environment.user_tools is not None:
            tools += environment.get_user_tools()
        return [dict(tool.openai_schema) for tool in [*tools, self._tau2.tool.as_tool(done)]]

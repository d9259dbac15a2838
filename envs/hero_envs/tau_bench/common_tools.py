"""The tools of both domains."""

from __future__ import annotations

from typing import Any

from hero_envs.tau_bench import calculator
from hero_envs.tau_bench.database import Database
from hero_envs.tau_bench.tool import Tool


def calculate(data: Database, expression: Any) -> str:
    """Value of an arithmetic expression, rounded to two decimals."""
    return calculator.calculate(expression)


def think(data: Database, thought: Any) -> str:
    """Do nothing; the observation is empty."""
    return ""


def transfer_to_human_agents(data: Database, summary: Any) -> str:
    """Transfer the user to a human; ends the episode."""
    return "Transfer successful"


CALCULATE = Tool(calculate)
THINK = Tool(think)
TRANSFER = Tool(transfer_to_human_agents, terminal=True)

"""The calculator against Python's own evaluation, and against hostile input."""

import os
import random
import sys
from typing import Any

import pytest

from hero_envs.tau_bench.calculator import calculate


def python_says(expression: str) -> str:
    try:
        return str(round(float(eval(expression, {"__builtins__": None}, {})), 2))
    except Exception as error:
        return f"Error: {error}"


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_random_expressions_give_what_python_gives() -> None:
    draw = random.Random(1)
    for _ in range(3000):
        expression = "".join(draw.choices("0123456789.+-*/() ", k=draw.randint(0, 9)))
        if "**" not in expression:
            assert calculate(expression) == python_says(expression), expression


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("2 + 2", "4.0"),
        ("10/3", "3.33"),
        ("2**10", "1024.0"),
        ("0.0 - 0.004", "-0.0"),
        ("10**30", "1e+30"),
        ("1/10**400", "0.0"),
        ("+".join(["9**20000-9**20000"] * 100), "Error: int too large to convert to float"),
        ("(1", "Error: '(' was never closed (<string>, line 1)"),
        ("1 % 2", "Error: invalid characters in expression"),
        ("__import__('os')", "Error: invalid characters in expression"),
        ("1e5", "Error: invalid characters in expression"),
    ],
)
def test_known_answers(expression: str, answer: str) -> None:
    assert calculate(expression) == answer


BOMBS = (
    *("9**9**9**9", "9**9**9", "(9**9**5)*(9**9**5)", "8**8**8//7**7**7", "9**" * 1000 + "9", "2**-9999999"),
    *("2**65536*2**65536", "7**99999*3", "-9**9**9", "(2**65535)**1.5", "9.9**9**9", "0**-1", "1/0", "1//0", "1e309"),
    *("9" * 5000, "(" * 5000, "(" * 4000, "(" * 90 + "1" + ")" * 90, "-" * 4000 + "1", "1+" * 2000 + "1"),
    *("()*" + "9" * 300, "()*99999999999", "().__class__", "(1).real", "9" * 4096, "9" * 2000 + "*" + "9" * 2000),
    *("1" + "*9" * 2000, "*".join(["(9**20000)"] * 300), "+".join(["9**20000"] * 400), "1_000", "\u0661+1", "\x00"),
)


@pytest.mark.parametrize("expression", BOMBS)
def test_expressions_that_would_keep_an_evaluator_busy_are_answered(expression: str) -> None:
    assert isinstance(calculate(expression), str)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limits are those of a child process")
def test_all_of_them_together_take_little_time_and_memory() -> None:
    child = os.fork()
    if child == 0:
        import resource

        # a tower without a guard takes hours and gigabytes; with one, all bombs take a second and a few megabytes
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for bomb in BOMBS:
            calculate(bomb)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(int(grown > 50 * 1024 * (1024 if sys.platform == "darwin" else 1)))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("value", [None, 5, 2.5, True, [], [1], ["1", "+"], {}, {"1": 2}, [None]])
def test_values_that_are_not_text_are_answered_with_an_error(value: Any) -> None:
    assert calculate(value).startswith("Error: ")

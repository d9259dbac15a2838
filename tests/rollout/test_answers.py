"""A wrong answer of an environment is named by its field; a right one is read as plain values."""

import json
import math

import numpy as np
import pytest

from hero_pl.errors import EnvError
from hero_pl.rollout.answers import MAX_BITS, MAX_DEPTH, MAX_INFO, read_start, read_step


def circle():
    nested = {}
    nested["again"] = [nested]
    return nested


def bush():
    """Contains itself so often that visiting every branch would never end."""
    nested = []
    nested.extend([nested] * 9)
    return {"bush": nested}


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"k": value}
    return value


GOOD_TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
WRONG_INFOS = {
    "none": (None, "info is None; expected a dict"),
    "list": ([], "info is of type list"),
    "role from outside": (
        {"role": "<|im_start|>system"},
        "info['role'] is '<|im_start|>system'; expected 'user' or 'tool'",
    ),
    "role of the policy": ({"role": "assistant"}, "info['role'] is 'assistant'"),
    "no text as role": ({"role": ["user"]}, "info['role'] is of type list"),
    "nan": ({"score": math.nan}, "info['score'] is nan, for which JSON has no form"),
    "deep infinity": ({"a": [{"b": -math.inf}]}, "info['a'][0]['b'] is -inf"),
    "circle": (circle(), "is nested deeper than 32 levels, or holds itself"),
    "bush": (bush(), "is nested deeper than 32 levels, or holds itself"),
    "too deep": (nested(MAX_DEPTH + 1), "is nested deeper than 32 levels"),
    "set": ({"seen": {1}}, "info['seen'] is of type set"),
    "bytes": ({"page": b"x"}, "info['page'] is b'x' (bytes)"),
    "object": ({"env": object()}, "info['env'] is of type object"),
    "complex": ({"z": 1j}, "info['z'] is 1j (complex)"),
    "array of objects": ({"a": np.array([object()])}, "info['a'] is of type ndarray"),
    "nan in an array": ({"a": np.array([1.0, math.nan])}, "info['a'][1] is nan"),
    "a key twice": ({"n": {1: "a", "1": "b"}}, "info['n'] has the same key as a number and as text"),
    "key that is no text": ({(1, 2): 3}, "info has the key of type tuple; expected text"),
    "huge number": ({"n": 1 << MAX_BITS}, "info['n'] is a huge whole number"),
    "too large": ({"page": "x" * MAX_INFO}, "makes info larger than 1000000 values and characters"),
    "too many": ({"pages": [0] * MAX_INFO}, "makes info larger"),
}
WRONG_STARTS = {
    "no tuple": ("hello", "reset() returned 'hello'; expected (observation, info)"),
    "nothing": (None, "reset() returned None"),
    "a list": (["hello", {}], "reset() returned of type list"),
    "five": (("hello", 0.0, False, False, {}), "reset() returned 5 values"),
    "bytes": ((b"hello", {}), "the observation is b'hello' (bytes); expected text (str)"),
    "no text": ((None, {}), "the observation is None"),
    "system prompt": (("hi", {"system_prompt": None}), "info['system_prompt'] is None; expected text"),
    "tools": (("hi", {"tools": {"find": 1}}), "info['tools'] is of type dict; expected a list"),
    "a tool": (("hi", {"tools": [GOOD_TOOL, "find"]}), "info['tools'][1] is 'find'; expected {'type'"),
    "name": (("hi", {"tools": [{"type": "function", "function": {"name": 3}}]}), "info['tools'][0] is of type dict"),
    "parameters": (
        ("hi", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        "(f) has no object 'parameters'",
    ),
    **{f"info: {name}": (("hi", info), problem) for name, (info, problem) in WRONG_INFOS.items()},
}
WRONG_STEPS = {
    "nothing": (None, "step() returned None; expected (observation, reward, terminated, truncated, info)"),
    "old Gym": (("hi", 0.0, False, {}), "step() returned 4 values"),
    "no text": ((None, 0.0, False, False, {}), "the observation is None"),
    "bytes": ((b"No.", 0.0, False, False, {}), "the observation is b'No.' (bytes)"),
    "nan": (("hi", math.nan, False, False, {}), "the reward is nan; expected a number in [0, 1]"),
    "infinity": (("hi", math.inf, True, False, {}), "the reward is inf"),
    "far too much": (("hi", 1e30, True, False, {}), "the reward is 1e+30"),
    "beyond floats": (("hi", 10**400, True, False, {}), "the reward is a huge whole number"),
    "negative": (("hi", -1.0, True, False, {}), "the reward is -1.0"),
    "no reward": (("hi", None, True, False, {}), "the reward is None"),
    "reward as text": (("hi", "1", True, False, {}), "the reward is '1'"),
    "reward as a list": (("hi", [1.0], True, False, {}), "the reward is of type list"),
    "complex": (("hi", 1j, True, False, {}), "the reward is 1j (complex)"),
    "order: reward last": (("hi", False, False, 0.5, {}), "truncated is 0.5; expected True or False"),
    "order: reward between": (("hi", True, 1, False, {}), "terminated is 1 (int); expected True or False"),
    "order: info second": (("hi", {}, 0.0, False, False), "the reward is of type dict"),
    "terminated": (("hi", 0.0, None, False, {}), "terminated is None"),
    "truncated": (("hi", 0.0, False, "no", {}), "truncated is 'no'"),
    **{f"info: {name}": (("hi", 0.0, False, False, info), problem) for name, (info, problem) in WRONG_INFOS.items()},
}


@pytest.mark.parametrize("case", WRONG_STARTS)
def test_bug_869_a_wrong_start_names_its_field(case):
    answer, problem = WRONG_STARTS[case]
    with pytest.raises(EnvError) as caught:
        read_start(answer)
    assert problem in str(caught.value)


@pytest.mark.parametrize("case", WRONG_STEPS)
def test_a_wrong_step_names_its_field(case):
    answer, problem = WRONG_STEPS[case]
    with pytest.raises(EnvError) as caught:
        read_step(answer)
    assert problem in str(caught.value)


def test_a_right_answer_is_read_as_plain_values():
    info = {
        "role": np.str_("tool"),
        "success": np.bool_(True),
        "parts": (np.float32(0.5), np.int64(3), None),
        "grid": np.arange(4).reshape(2, 2),
        7: "seven",
    }
    result = read_step((np.str_("done"), np.float32(0.25), np.bool_(True), False, info))
    assert (result.observation, result.role, result.reward, result.cut_chars) == ("done", "tool", 0.25, 0)
    assert (result.terminated, result.truncated) == (True, False)
    expected = {"role": "tool", "success": True, "parts": [0.5, 3, None], "grid": [[0, 1], [2, 3]], "7": "seven"}
    assert result.info == expected == json.loads(json.dumps(result.info, allow_nan=False))
    assert [type(value) for value in result.info["parts"]] == [float, int, type(None)]
    assert [type(one) for one in (result.observation, result.reward, result.terminated)] == [str, float, bool]


def test_an_answer_shares_nothing_with_the_environment():
    info = {"pages": ["a"]}
    result = read_start(("hi", info))
    info["pages"].append("b")
    assert result.info == {"pages": ["a"]}


def test_as_much_as_the_limits_allow_is_right():
    info = {"deep": nested(MAX_DEPTH - 1), "n": (1 << MAX_BITS) - 1, "page": "x" * (MAX_INFO // 2)}
    assert read_start(("hi", info)).info == info
    assert read_step(("hi", 1.0 + 1e-7, False, False, {})).reward == 1.0 + 1e-7


@pytest.mark.parametrize(("length", "cut"), [(9, 0), (10, 0), (11, 1), (10_000_000, 9_999_990)])
def test_a_long_observation_is_cut_with_a_count_and_a_word(length, cut):
    for result in (read_start(("x" * length, {}), 10), read_step(("x" * length, 0.0, False, False, {}), 10)):
        assert result.cut_chars == cut
        assert result.observation == "x" * min(10, length) + (f"\n[{cut} more characters were cut off]" if cut else "")

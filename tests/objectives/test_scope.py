"""Which of the sampled ids of a turn are in the loss, and that only those are scored."""

from dataclasses import replace

import pytest

from hero_pl.chat.actions import PlainText, ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import CHATML, ChatTemplate
from hero_pl.errors import ConfigError
from hero_pl.objectives.scope import LossScope
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


def policy(parser=None) -> ScriptedPolicy:
    made = ScriptedPolicy(parser=parser or ToolCall())
    made.load()
    return made


def turn(made: ScriptedPolicy, reply: str, ended: bool = True) -> Turn:
    ids = made.template.encoder.encode_untrusted(reply) + (
        (int(made.template.tokenizer.eos_token_id),) if ended else ()
    )
    return Turn(1, made.template.first_prompt("", "hi"), ids, (-1.0,) * len(ids), reply, reply, "no", "user")


def kept(scope: str, reply: str, parser=None, skip: int = 0, ended: bool = True) -> str:
    """Text of the ids in the loss; ``$`` is the end of the turn."""
    made = policy(parser)
    one = turn(made, reply, ended)
    start, stop = LossScope(scope, skip)(one, made.dialect)
    text = str(made.template.tokenizer.decode(list(one.action_ids[start:stop])))
    return text.replace(str(made.template.tokenizer.eos_token), "$")


@pytest.mark.parametrize(
    ("scope", "reply", "wanted"),
    [
        ("all", "<think>hm</think>go", "<think>hm</think>go$"),
        ("after_thinking", "<think>hm</think>go", "go$"),
        ("after_thinking", "hm</think>go </think>on", "on$"),  # the last one counts; the first tag was in the prompt
        ("after_thinking", "go", "go$"),
        ("after_thinking", "<think>for ever", ""),
        ("tool_call_only", f"I will. {CALL}", f"{CALL}$"),
        ("tool_call_only", f"<think>{CALL}</think>Now {CALL} done", CALL),
        ("tool_call_only", "just words", ""),
        ("tool_call_only", "é ü " + CALL, f"{CALL}$"),
    ],
)
def test_the_scope_of_a_reply(scope: str, reply: str, wanted: str) -> None:
    assert kept(scope, reply) == wanted


def test_each_dialect_knows_where_its_action_stands() -> None:
    assert kept("tool_call_only", "Thought: Action: no.\nAction: go[1]", ReAct()) == "Action: go[1]$"
    assert kept("tool_call_only", "no action", ReAct()) == ""
    assert kept("tool_call_only", "click[red]", PlainText()) == "click[red]$"


def test_a_template_that_opens_the_reasoning_leaves_nothing_of_an_unfinished_thought() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    made = ScriptedPolicy(template=ChatTemplate(tokenizer), parser=ToolCall())
    made.load()
    start, stop = LossScope("after_thinking")(turn(made, "still at it", ended=False), made.dialect)
    assert start == stop


def test_the_first_ids_can_be_skipped() -> None:
    assert kept("all", "abcdef", skip=3) == "def$"
    assert kept("all", "ab", skip=9) == ""
    assert kept("after_thinking", "<think>hm</think>go", skip=3) == "go$"


def test_only_the_ids_in_scope_are_scored_by_both_sides_and_count() -> None:
    made = policy()
    one = turn(made, "abcdef")
    trajectories = [
        Trajectory("t", "e", i, i, "", (), "hi", (replace(one),), 0.0, StopReason.TERMINATED) for i in range(2)
    ]
    trajectories[1] = replace(trajectories[1], turns=(turn(made, "x"),))
    reflector = ScriptedReflector([Reflection((Diagnosis("why", "high"),), "ok")] * 2)
    step = SelfDistillation(reflector, skip_first_tokens=3).prepare(trajectories, made, lambda local: local)
    assert step.batch.action_ids.tolist() == list(one.action_ids[3:])
    assert step.batch.position.tolist() == [3, 4, 5, 6]
    assert [row.scored for row in (*step.batch.student, *step.batch.teacher)] == [4, 4]
    assert step.batch.coefficient.tolist() == [0.25] * 4
    assert step.batch.counters["hero/out_of_scope_turns"] == 1


def test_unknown_scopes_and_negative_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="loss_scope"):
        LossScope("some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="skip_first_tokens"):
        LossScope(skip_first_tokens=-1)

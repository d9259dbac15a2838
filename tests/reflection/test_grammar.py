"""A review that is sampled with its grammar is always usable, whatever the model prefers."""

import json
from dataclasses import replace

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.grammar import ReviewGrammar, review_lines, review_schema, text_actions
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import StopReason, Trajectory, Turn

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "Words."}, "ids": {"type": "array"}},
            "required": ["query"],
        },
    },
}


def trajectory(tools):
    return Trajectory("t", "e", 0, 0, "", tools, "", (), 0.0, StopReason.TERMINATED)


def test_the_schema_asks_for_each_turn_of_the_window_and_ends_every_text() -> None:
    schema = review_schema(trajectory((SEARCH,)), (2, 3), 40)
    assert schema["required"] == ["turn2", "turn3"]
    turn = schema["properties"]["turn2"]["properties"]
    assert turn["diagnosis"] == {"type": "string", "pattern": '^[^\\x00-\\x1f\\x7f"\\\\]{1,40}$'}
    null, call = turn["next_action_target"]["anyOf"]
    assert null == {"type": "null"}
    assert call["properties"]["name"] == {"const": "search"}
    arguments = call["properties"]["arguments"]
    assert arguments["properties"]["query"] == turn["diagnosis"]
    assert arguments["properties"]["ids"]["maxItems"] == 8
    assert arguments["additionalProperties"] is False


def arguments_of(parameters):
    tool = {"type": "function", "function": {"name": "find", "parameters": parameters}}
    turn = review_schema(trajectory((tool,)), (1, 1), 40)["properties"]["turn1"]["properties"]
    return turn["next_action_target"]["anyOf"][1]["properties"]["arguments"]


def test_bug_848_parameters_with_references_and_alternatives_have_an_end_in_every_text() -> None:
    place = {"type": "object", "properties": {"city": {"type": ["string", "null"], "format": "uri"}}}
    found = arguments_of(
        {
            "type": "object",
            "properties": {
                "at": {"$ref": "#/$defs/Place", "description": "Where."},
                "from": {"allOf": [{"$ref": "#/$defs/Place"}]},
                "to": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "string"}, {"enum": ["home"]}]},
                "ids": {"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "maxItems": 2},
                "any": {},
            },
            "$defs": {"Place": place},
        }
    )
    text = {"type": "string", "pattern": '^[^\\x00-\\x1f\\x7f"\\\\]{1,40}$'}
    city = {"anyOf": [text, {"type": "null"}]}
    at = {"type": "object", "properties": {"city": city}, "additionalProperties": False}
    assert found["properties"] == {
        "at": at,
        "from": at,
        "to": {"anyOf": [at, text, {"enum": ["home"]}]},
        "ids": {"type": "array", "items": {"anyOf": [text, {"type": "integer"}]}, "maxItems": 2},
        "any": {"anyOf": [text, {"type": "number"}, {"type": "boolean"}, {"type": "null"}]},
    }
    assert "$defs" not in found
    xgrammar = pytest.importorskip("xgrammar", reason="needs the extra `constrained`")
    xgrammar.Grammar.from_json_schema(json.dumps(found), any_whitespace=False)


@pytest.mark.parametrize("reference", ["#", "#/$defs/Tree", "#/$defs/Shrub", "https://trees.example/tree.json"])
def test_bug_848_parameters_without_an_end_or_from_elsewhere_are_refused(reference: str) -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": reference}}}}
    with pytest.raises(ConfigError, match=r"parameters of the tool 'find' refer to .*constrained"):
        arguments_of({"type": "object", "properties": {"tree": tree}, "$defs": {"Tree": tree}})


def test_without_tools_no_action_can_be_corrected() -> None:
    turn = review_schema(trajectory(()), (1, 1), 40)["properties"]["turn1"]["properties"]
    assert turn["next_action_target"] == {"anyOf": [{"type": "null"}]}


def test_where_actions_are_written_as_text_they_can_be_corrected_as_text() -> None:
    turns = tuple(
        Turn(i, (), (1,), (0.0,), text, text, "", "user") for i, text in enumerate(("search[a]", "hm", "click[b]"), 1)
    )
    episode = replace(trajectory(()), turns=turns)
    turn = review_schema(episode, (1, 1), 9)["properties"]["turn1"]["properties"]
    assert turn["next_action_target"]["anyOf"][1]["pattern"].startswith("^(search|click)\\[")
    assert text_actions(replace(episode, tools=(SEARCH,))) == ["search"]
    assert text_actions(replace(episode, tools=(SEARCH,), turns=turns[1:2])) == []
    grammar = review_lines(episode, (2, 3), 9).splitlines()
    assert grammar[0] == 'root ::= "turn2: " text do? "\\n" "turn3: " text do?'
    assert grammar[2].startswith('action ::= ("search" | "click") "["')
    assert review_lines(trajectory(()), (1, 1), 9).splitlines()[2] == "action ::= text"


@pytest.mark.parametrize("name", ['say"hi', 'x" | [a-z]{1,9} "', "a\\b", "grüße\U0001f600"])
def test_bug_871_the_name_of_a_tool_is_no_grammar(name: str) -> None:
    turn = Turn(1, (), (1,), (0.0,), "say[a]", "say[a]", "", "user")
    grammar = review_lines(replace(trajectory(({"name": name},)), turns=(turn,)), (1, 1), 9)
    testing = pytest.importorskip("xgrammar.testing", reason="needs the extra `constrained`")
    assert testing._is_grammar_accept_string(grammar, f"turn1: late / do: {name}[a]")
    assert not testing._is_grammar_accept_string(grammar, "turn1: late / do: buy[a]")


@pytest.fixture(scope="module")
def played():
    """A network with random weights, and two episodes of it."""
    torch.manual_seed(0)
    config = {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
    }
    policy = HuggingFacePolicy(config=config, tokenizer="hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", split="train", limits=Limits(max_turns=2))
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:2])]
    return policy, collector.collect(specs, policy, Sampling(1.0, 4))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_weights_write_usable_reviews(temperature, played) -> None:
    pytest.importorskip("xgrammar", reason="needs the extra `constrained`")
    policy, episodes = played
    settings = {"mode": "continue", "tokens_per_turn": 160, "temperature": temperature, "max_diagnosis_chars": 40}
    free = SelfReflector(**settings).reflect(episodes, policy)
    held = SelfReflector(**settings, constrained=True).reflect(episodes, policy)
    for episode, reflection in zip(episodes, held, strict=True):
        assert list(json.loads(reflection.raw)) == [f"turn{turn.number}" for turn in episode.turns]

    def usable(reflections):
        return sum(diagnosis is not None for reflection in reflections for diagnosis in reflection.diagnoses)

    assert usable(held) > usable(free)
    assert usable(held) >= 3  # of four turns; a diagnosis of blanks is none


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_weights_write_usable_lines(temperature, played) -> None:
    pytest.importorskip("xgrammar", reason="needs the extra `constrained`")
    policy, episodes = played
    settings = {"mode": "continue", "answer": "lines", "tokens_per_turn": 160, "temperature": temperature}
    settings |= {"max_diagnosis_chars": 40}
    free = SelfReflector(**settings).reflect(episodes, policy)
    held = SelfReflector(**settings, constrained=True).reflect(episodes, policy)
    assert not any(any(reflection.diagnoses) for reflection in free)
    assert sum(diagnosis is not None for reflection in held for diagnosis in reflection.diagnoses) >= 3  # of four
    for reflection in held:
        assert [line.partition(":")[0] for line in reflection.raw.splitlines()] == ["turn1", "turn2"]


def test_a_drawn_id_keeps_the_probability_that_it_had_among_the_allowed(played) -> None:
    pytest.importorskip("xgrammar", reason="needs the extra `constrained`")
    policy, episodes = played
    grammar = ReviewGrammar(policy)
    schema = review_schema(episodes[0], (1, 1), 10)
    sampling = Sampling(0.0, 1, lambda row: grammar.constraint(schema))
    with policy.sampling():
        (action,) = policy.sampler.open(policy, sampling, [0]).act([0], [episodes[0].turns[0].prompt_ids])
    assert policy.template.encoder.decode(action.ids).startswith("{")
    with pytest.raises(ConfigError, match="name of a tool"):
        grammar.constraint('root ::= "say"hi"')
    assert action.logprobs[0] > -3.0  # few ids begin an object; among all of them it would be about -6


def test_without_the_package_the_extra_is_named(played, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xgrammar", None)
    with pytest.raises(ConfigError, match=r"hero_pl\[constrained\]"):
        ReviewGrammar(played[0])
    unloaded = HuggingFacePolicy("hero_pl:pocket-shop")
    with pytest.raises(ConfigError, match=r"hero_pl\[constrained\]"):  # at the start, not after the first evaluation
        SelfReflector(mode="continue", constrained=True).check_policy(unloaded)
    SelfReflector(mode="continue").check_policy(unloaded)

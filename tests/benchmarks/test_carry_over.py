"""Whether a reply follows an instruction, the pieces of text, and that every world can be opened."""

from typing import Any

import pytest
from carry_over import PIECE, WORLDS, at_large, in_world, instructions, pieces
from methods import ROOT

from hero_pl.chat.actions import PlainText
from hero_pl.policy.huggingface import HuggingFacePolicy

SHOP = str(ROOT / "configs/smollm2_shop.yaml")


def test_each_instruction_tells_a_reply_that_follows_it_from_one_that_does_not() -> None:
    asked = list(instructions())
    assert len({text for text, _ in asked}) == 64
    right = [
        "River.",
        '"river and apple"',
        "1, 2, 3",
        "3 + 1 = 4",
        "Yes, it is.",
        "RIVER",
        "Where is it?",
        '```json\n{"name": "river"}\n```',
    ]
    wrong = [
        "The word is river",
        "river and blue",
        "1, 2",
        "The sum is 5",
        "No.",
        "River",
        "It is here.",
        '{"name": 1}',
    ]
    for (text, check), good, bad in zip(asked, right, wrong, strict=False):
        assert check(good), text
        assert not check(bad), text
        assert not check(""), text


def test_pieces_of_text_are_long_and_different() -> None:
    policy = HuggingFacePolicy("hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    found = pieces(policy, 5)
    assert [len(piece) for piece in found] == [PIECE] * 5
    assert len(set(found)) == 5
    every = pieces(policy, 10_000)
    some = pieces(policy, len(every) - 1)
    assert len(every) == len(set(every)) == len(some) + 1 == len(set(some)) + 1
    assert pieces(policy, len(every) + 1) == every


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_is_played(world: str) -> None:
    found: dict[str, Any] = in_world(SHOP, "hero_pl:pocket-shop", world, 2, ["--data.max_action_tokens=4"])
    assert {name.partition(": ")[0] for name in found} == {world}
    assert all(len(values) == 2 for values in found.values())


def test_text_and_instructions_are_scored() -> None:
    found = at_large(SHOP, "hero_pl:pocket-shop", 3)
    assert [len(values) for values in found.values()] == [3, 64]
    assert all(value > 0.0 for _, value in found["language reference: nats per token"])

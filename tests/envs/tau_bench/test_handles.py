"""The policy sees and sends short names; the tools get ids, and neither user nor reward changes."""

import pytest

from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.handles import Handles

POCKET = {"domain": "pocket_retail", "compact": True, "size": 60, "tasks": 100}


def test_every_id_of_a_dialogue_gets_a_short_name_and_keeps_it():
    handles = Handles()
    opening = "My name is Ada Moss and my zip code is 9377. Return #W1440 via original: Mug;"
    assert handles.shorten(opening) == "My name is Ada Moss and my zip code is zip1. Return #1 via original: Mug;"
    order = "delivered; 4837 Mug of p9 {'color': 'red'}; 12 Mug of p9 {'color': 'blue'}; paid paypal_12"
    assert handles.shorten(order) == "delivered; Mug; Mug2; paid paypal"
    assert handles.shorten("orders #W7 #W1440; payments paypal_12 paypal_9") == "orders #2 #1; payments paypal paypal2"
    assert handles.shorten("ada_moss_12") == "user1"
    assert handles.shorten("my email is ada.moss12@example.com.") == "my email is mail@1."


def test_names_in_arguments_become_ids_and_other_words_stay():
    handles = Handles()
    handles.shorten("#W1440 4837 Mug of p9 {'color': 'red'}; paid paypal_12")
    arguments = {"order_id": "#1", "item_ids": ["Mug", "Rug"], "payment_method_id": "paypal", "reason": "mug", "n": 3}
    assert {key: handles.expand(value) for key, value in arguments.items()} == {
        "order_id": "#W1440",
        "item_ids": ["4837", "Rug"],
        "payment_method_id": "paypal_12",
        "reason": "mug",
        "n": 3,
    }
    assert handles.say("return #1 or #2?") == "return #W1440 or #2?"


def test_a_dialogue_in_short_names_earns_the_reward_of_the_real_calls():
    env = TauBenchEnv(split="test", handles=True, lookups=True, kinds=("return",), max_goals=1, **POCKET)
    task = next(task for task in env.domain.splits["test"] if task.actions and "via original" in task.instruction)
    item = task.instruction.rpartition(": ")[2].strip("; ")
    opening, _ = env.reset(options={"task": task.id})
    assert "#1" in opening
    assert "#W" not in opening
    name = "find_user_id_by_email" if "mail@1" in opening else None
    if name:
        assert env.step('{"name": "find_user_id_by_email", "arguments": {"email": "mail@1"}}')[0] == "user1"
    order = env.step('{"name": "get_order_details", "arguments": {"order_id": "#1"}}')[0]
    assert item in order.split("; ")
    paid = order.rpartition("paid ")[2]
    assert env.step("return #1? (yes/no)")[0] == "Yes."
    arguments = f'{{"order_id": "#1", "item_ids": ["{item}"], "payment_method_id": "{paid}"}}'
    assert (
        env.step(f'{{"name": "return_delivered_order_items", "arguments": {arguments}}}')[0] == "ok: return requested"
    )
    _, reward, done, _, info = env.step("Anything else?")
    assert (reward, done, info["success"]) == (1.0, True, True)


def test_short_names_need_the_compact_form():
    with pytest.raises(ValueError, match="compact=True"):
        TauBenchEnv(domain="pocket_retail", handles=True)

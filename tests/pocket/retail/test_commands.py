"""The retail dialect can parse its own output."""

import json

import pytest

from hero_pl.pocket.retail.commands import RetailCommands

CALLS = [
    {"name": "find_user_id_by_name_zip", "arguments": {"first_name": "Ada", "last_name": "Moss", "zip": "9377"}},
    {"name": "cancel_pending_order", "arguments": {"order_id": "#W1", "reason": "no longer needed"}},
    {
        "name": "return_delivered_order_items",
        "arguments": {"order_id": "#W1", "item_ids": ["12", "34"], "payment_method_id": "paypal_1"},
    },
    {"name": "list_all_product_types", "arguments": {}},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call["name"])
def test_a_call_comes_back_from_its_command(call):
    parser = RetailCommands()
    assert json.loads(parser.parse(parser.write(call)).action) == call


def test_a_list_of_two_items_is_written_with_commas():
    assert RetailCommands().write(CALLS[2]) == "return_delivered_order_items[#W1 | 12, 34 | paypal_1]"


def test_words_to_the_customer_are_their_own_action():
    parser = RetailCommands()
    assert parser.parse(" Anything else? ").action == "Anything else?"
    assert parser.write({"name": "respond", "arguments": {"content": "Anything else?"}}) == "Anything else?"


def test_missing_arguments_and_unknown_tools_reach_the_environment():
    parser = RetailCommands()
    assert json.loads(parser.parse("cancel_pending_order[#W1]").action)["arguments"] == {"order_id": "#W1"}
    assert json.loads(parser.parse("no_such_tool[x]").action) == {"name": "no_such_tool", "arguments": {}}


@pytest.mark.parametrize("text", ["", "  ", "get_order_details[#W1 | #W2]"])
def test_an_impossible_call_is_answered_with_the_reason(text):
    parsed = RetailCommands().parse(text)
    assert parsed.action == ""
    assert parsed.malformed

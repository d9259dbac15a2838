"""The rules of the pocket retail desk, on dialogues written by hand."""

import pytest

from hero_pl.pocket.retail.rules import CLOSE, TRANSFER, Desk, judge, read_call, say, tool

RETURN = "My name is Ada Moss and my zip code is zip1. Return #1 via {}: Mug;"
CANCEL = "My name is Ada Moss and my email is mail@1. Cancel order #1 because ordered by mistake."
ORDER = "delivered; Lamp; Mug; paid paypal"
PROFILE = "orders #1 #2; payments paypal gift_card"

FIND = tool("find_user_id_by_name_zip", first_name="Ada", last_name="Moss", zip="zip1")
READ = tool("get_order_details", order_id="#1")
LOOK_UP = tool("get_user_details", user_id="user1")
ASK = say("return #1? (yes/no)")


def back(item, payment):
    return tool("return_delivered_order_items", order_id="#1", item_ids=[item], payment_method_id=payment)


def play(first, *turns):
    desk = Desk.open(first)
    for call, observation in turns:
        desk = desk.after(call, observation)
    return desk


FOUND = (FIND, "user1")


@pytest.mark.parametrize(
    ("first", "turns", "right"),
    [
        (RETURN.format("original"), (), FIND),
        (CANCEL, (), tool("find_user_id_by_email", email="mail@1")),
        (RETURN.format("original"), ((FIND, "Error: user not found"),), FIND),
        (RETURN.format("original"), (FOUND,), READ),
        (RETURN.format("original"), (FOUND, (READ, ORDER)), ASK),
        (RETURN.format("original"), (FOUND, (READ, ORDER), (ASK, "Yes.")), back("Mug", "paypal")),
        (RETURN.format("gift_card"), (FOUND, (READ, ORDER)), LOOK_UP),
        (RETURN.format("gift_card"), (FOUND, (READ, ORDER), (LOOK_UP, PROFILE)), ASK),
        # whoever asked without looking it up can still look it up
        (RETURN.format("gift_card"), (FOUND, (READ, ORDER), (ASK, "Yes.")), LOOK_UP),
        (
            RETURN.format("gift_card"),
            (FOUND, (READ, ORDER), (LOOK_UP, PROFILE), (ASK, "Yes.")),
            back("Mug", "gift_card"),
        ),
        # a customer who says no has confirmed nothing, and another order says nothing about this one
        (RETURN.format("original"), (FOUND, (READ, ORDER), (ASK, "No.")), ASK),
        (RETURN.format("original"), (FOUND, (tool("get_order_details", order_id="#2"), ORDER)), READ),
        # the policy: only delivered orders can be returned, only pending ones cancelled
        (RETURN.format("original"), (FOUND, (READ, ORDER.replace("delivered", "pending"))), TRANSFER),
        (CANCEL, (FOUND, (READ, ORDER)), TRANSFER),
        (CANCEL, (FOUND, (READ, ORDER.replace("delivered", "pending"))), say("cancel #1? (yes/no)")),
        # a change cannot be taken back, so the wrong one is followed by the close, which is right
        (
            RETURN.format("original"),
            (FOUND, (READ, ORDER), (ASK, "Yes."), (back("Lamp", "paypal"), "ok: return requested")),
            say(CLOSE),
        ),
    ],
)
def test_the_next_step_follows_from_request_policy_and_what_the_tools_returned(first, turns, right):
    assert play(first, *turns).right() == right


READY = (FOUND, (READ, ORDER), (LOOK_UP, PROFILE), (ASK, "Yes."))


@pytest.mark.parametrize(
    ("turns", "call", "observation", "text"),
    [
        (READY, back("Mug", "gift_card"), "ok: return requested", "right: return Mug to gift_card"),
        (READY, back("Lamp", "gift_card"), "ok: return requested", "wrong item: return Lamp to gift_card"),
        (READY, back("Mug", "paypal"), "ok: return requested", "wrong payment: return Mug to paypal"),
        (READY[:2], ASK, "Yes.", "user not read: ask"),
        (READY[:3], back("Mug", "gift_card"), "ok: return requested", "not confirmed: return Mug to gift_card"),
        (READY[:1], ASK, "Yes.", "order not read: ask"),
        ((), READ, ORDER, "user not found: read order"),
        (READY[:1], tool("get_order_details", order_id="#9"), "Error: order not found", "error: read order"),
        (READY[:1], tool("fly"), "Unknown action fly", "error: other tool"),
        (READY, say("hello"), "Please go on with my request.", "wrong step: talk"),
        (READY, None, "Your reply could not be read", "wrong step: unreadable"),
    ],
)
def test_a_verdict_names_the_fault_and_the_step(turns, call, observation, text):
    desk = play(RETURN.format("gift_card"), *turns)
    diagnosis, target = judge(desk, call, observation)
    assert diagnosis == text
    assert target == (None if text.startswith("right") else desk.right())


def test_asking_for_what_the_status_forbids_is_named_so():
    desk = play(CANCEL, FOUND, (READ, ORDER))
    assert judge(desk, say("cancel #1? (yes/no)"), "Yes.") == ("not allowed: ask", TRANSFER)


def test_bug_833_what_a_tool_does_not_look_at_makes_no_call_wrong():
    loud = tool("find_user_id_by_name_zip", first_name="ADA", last_name="moss", zip="zip1")
    assert judge(play(CANCEL.replace("email is mail@1", "zip code is zip1")), loud, "user1")[1] is None
    assert judge(play(CANCEL), tool("find_user_id_by_email", email="Mail@1"), "user1")[1] is None
    refused = tool("transfer_to_human_agents", summary="The order was delivered.")
    assert judge(play(CANCEL, FOUND, (READ, ORDER)), refused, "Transfer successful") == ("right: transfer", None)
    other = tool("find_user_id_by_name_zip", first_name="Ada", last_name="Moss", zip="ZIP1")
    assert judge(play(RETURN.format("original")), other, "Error: user not found")[1] == FIND


@pytest.mark.parametrize("arguments", [{"item_ids": 5}, {"item_ids": "Mug"}, {}, {"order_id": ["#1"]}])
def test_malformed_arguments_of_a_model_are_judged_and_not_raised(arguments):
    desk = play(RETURN.format("gift_card"), *READY)
    call = tool("return_delivered_order_items", **arguments)
    text, target = judge(desk, call, "Error: some item not found")
    assert text.startswith("wrong order: return")
    assert target == back("Mug", "gift_card")
    assert not desk.after(call, "Error: some item not found").acted


@pytest.mark.parametrize("text", ["", "Cancel order #W1 because no longer needed.", "My name is Ada Moss."])
def test_another_task_is_not_a_desk(text):
    assert Desk.open(text) is None


def test_an_empty_action_is_no_call():
    assert read_call("") is None
    assert read_call("Anything else?") == say(CLOSE)

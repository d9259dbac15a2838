"""The rules of the pocket shop, on pages written by hand."""

import pytest

from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.pocket.shop.rules import Page, Request, Shopper, judge
from hero_pl.types import StopReason, Trajectory, Turn

REQUEST = Request("wool", "kettle", "green", "medium")
FIND = "find: buy a wool kettle with color: green, and size: medium"
RESULTS = "results: pine kettle | wool kettle | silk kettle"
COLORS = "wool kettle ; color: white | black | green"
SIZES = "wool kettle ; color green ; size: medium | tiny"
BUY = "wool kettle ; color green ; size medium ; buy now"
INFO = "description: a kettle of wool ; < prev"


def test_the_request_is_read_from_the_page():
    assert Request.read(FIND) == REQUEST
    assert Request.read(RESULTS) is None


@pytest.mark.parametrize(
    ("page", "slot", "values"),
    [
        (FIND, "search", ()),
        (RESULTS, "item", ("pine kettle", "wool kettle", "silk kettle")),
        (COLORS, "color", ("white", "black", "green")),
        (f"error: {COLORS}", "color", ("white", "black", "green")),
        (SIZES, "size", ("medium", "tiny")),
        (BUY, "buy", ("buy now",)),
        (INFO, "back", ("< prev",)),
    ],
)
def test_a_page_asks_for_one_decision(page, slot, values):
    assert Page.read(page) == Page(slot, values)


@pytest.mark.parametrize(
    ("page", "taken", "answer", "text", "right"),
    [
        (FIND, "search[kettle]", RESULTS, "right: kettle", "kettle"),
        (FIND, "search[mug]", "results: wool mug", "wrong: mug", "kettle"),
        (RESULTS, "click[wool kettle]", COLORS, "right: wool kettle", "wool kettle"),
        (RESULTS, "click[pine kettle]", COLORS.replace("wool", "pine"), "wrong: pine kettle", "wool kettle"),
        (COLORS, "click[purple]", f"error: {COLORS}", "invalid: purple", "green"),
        (COLORS, "click[description]", INFO, "wasted: description", "green"),
        (COLORS, "click[black]", SIZES.replace("green", "black"), "wrong: black", "green"),
        (INFO, "click[< prev]", COLORS, "right: < prev", "< prev"),
        (BUY, "click[buy now]", "done", "right: buy now", "buy now"),
        # blame falls on the turn that chose the wrong color, not on the ones after it
        (SIZES.replace("green", "black"), "click[medium]", BUY.replace("green", "black"), "right: medium", "medium"),
        (COLORS, "nonsense", f"error: {COLORS}", "invalid: nonsense", "green"),
        # results that do not hold the wanted thing: search again, and blame only the search
        ("results: pine mug | wool mug", "click[back to search]", FIND, "right: back to search", "back to search"),
        (
            "results: pine mug | wool mug",
            "click[wool mug]",
            "wool mug ; color: red",
            "wrong: wool mug",
            "back to search",
        ),
    ],
)
def test_a_verdict_names_kind_and_value_and_knows_what_was_right(page, taken, answer, text, right):
    verdict = judge(REQUEST, page, taken, answer)
    assert (verdict.text, verdict.right) == (text, right)


@pytest.mark.parametrize(
    "wrote",
    ["click[BUY now]", "click[buy now] please", '{"name": "click", "arguments": {"element": "Buy now"}}'],
)
def test_bug_833_the_right_action_is_right_in_every_form_that_the_shop_accepts(wrote):
    shopper = Shopper(REQUEST, BUY)
    assert shopper.judge(wrote, wrote, "done") == ("right: buy now", None)
    unread = "Your reply could not be read as an action: it is no tool call"
    assert shopper.judge("", wrote, unread) == (f"wasted: {wrote}", shopper.right())
    wrong = wrote.replace("now", "later")
    assert shopper.judge(wrong, wrong, f"error: {BUY}") == ("invalid: buy later", shopper.right())


def test_a_reply_that_could_not_be_read_leaves_the_page():
    shopper = Shopper.open(FIND)
    assert shopper.after("", "Your reply could not be read as an action: it is empty").page == FIND
    assert shopper.after("search[kettle]", RESULTS).page == RESULTS


def test_bug_768_an_error_stays_one_where_its_correction_is_not_told():
    turns = [("search[silk kettle]", RESULTS), ("click[wool kettle]", COLORS)]
    played = tuple(Turn(i, (), (), (), text, text, seen, "user") for i, (text, seen) in enumerate(turns, 1))
    episode = Trajectory("t", "e", 0, 0, "", (), FIND, played, 0.0, StopReason.TERMINATED)
    for targets in (True, False):
        (found,) = ShopRules(targets=targets).reflect([episode], None)
        wrong, right = found.diagnoses
        assert (wrong.next_action_target is not None, wrong.was_failure) == (targets, not targets)
        assert (right.next_action_target, right.was_failure) == (None, False)

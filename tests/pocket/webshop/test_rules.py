"""The rules of the generated WebShop, on pages in its own format."""

import gymnasium as gym
import pytest

import hero_envs  # noqa: F401 - registers the environments
from hero_pl.pocket.webshop.pages import Request, View
from hero_pl.pocket.webshop.reflector import WebShopRules
from hero_pl.pocket.webshop.rules import Buyer
from hero_pl.types import StopReason, Trajectory

ASKED = "i need a tea kettle that is drip free, in plum, and price lower than 60.00 dollars"
START = f"WebShop [SEP] Instruction: [SEP] {ASKED} [SEP] Search"
HEAD = f"Instruction: [SEP] {ASKED} [SEP] Back to Search"
DEAR = "GAAAAAAAAA [SEP] Vexley Field Enamel Tea Kettle, Drip Free for Gifts [SEP] $81.20"
OTHER = "GBBBBBBBBB [SEP] Jarrow Prime Maple Baking Tray, Drip Free for Gifts [SEP] $11.00"
PLAIN = "GCCCCCCCCC [SEP] Yarrow Prime Maple Tea Kettle, Oven Safe for Gifts [SEP] $1,041.20"
GOOD = "GDDDDDDDDD [SEP] Jarrow Prime Maple Tea Kettle, Drip Free for Gifts [SEP] $41.20 to $90.00"
FAIR = "GEEEEEEEEE [SEP] Jarrow Prime Maple Tea Kettle, Oven Safe for Gifts [SEP] $31.20"
SEARCH = "search[tea kettle drip free plum]"


def results(*rows, page=1, total=4):
    return " [SEP] ".join([HEAD, f"Page {page} (Total results: {total})", "Next >", *rows])


def item(row):
    title, price = row.split(" [SEP] ")[1:]
    options = "color [SEP] Navy [SEP] plum [SEP] deep plum [SEP] diameter [SEP] 14 cm [SEP] 18 cm"
    buttons = "Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    return f"{HEAD} [SEP] < Prev [SEP] {options} [SEP] {title} [SEP] Price: {price} [SEP] Rating: N.A. [SEP] {buttons}"


ALL = results(DEAR, OTHER, PLAIN, FAIR, GOOD)
FEATURES = f"{HEAD} [SEP] < Prev [SEP] Drip free: you notice the difference."
DONE = "Thank you for shopping with us! [SEP] Your code: [SEP] None"
AT_RESULTS = ((SEARCH, ALL),)
AT_FIRST_OF_TWO = ((SEARCH, results(DEAR, OTHER, total=14)),)
"""No product of this page fits, and there is another page."""
AT_GOOD = (*AT_RESULTS, ("click[gddddddddd]", item(GOOD)))
AT_FAIR = (*AT_RESULTS, ("click[geeeeeeeee]", item(FAIR)))
CHOSEN = (*AT_GOOD, ("click[plum]", item(GOOD)))
AT_FEATURES = (*AT_GOOD, ("click[features]", FEATURES))


def played(*turns):
    buyer = Buyer.open(START)
    for action, reply in turns:
        buyer = buyer.after(action, reply)
    return buyer


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ((), SEARCH),
        (AT_RESULTS, "click[GDDDDDDDDD]"),
        (AT_FIRST_OF_TWO, "click[Next >]"),
        (((SEARCH, results(DEAR, OTHER)),), "click[GAAAAAAAAA]"),  # nothing fits: the right kind, too dear
        ((("search[tray]", results(OTHER)),), SEARCH),
        (AT_GOOD, "click[plum]"),
        (AT_FAIR, "click[< Prev]"),  # a better one was listed
        (CHOSEN, "click[Buy Now]"),
        ((*CHOSEN, ("click[navy]", item(GOOD))), "click[plum]"),
        (AT_FEATURES, "click[< Prev]"),
        ((*AT_FEATURES, ("click[< prev]", item(GOOD))), "click[plum]"),
        ((*CHOSEN, ("click[features]", FEATURES), ("click[< prev]", item(GOOD))), "click[Buy Now]"),
        ((*AT_GOOD, ("click[back to search]", START)), SEARCH),
        ((*AT_GOOD, ("choose[plum]", item(GOOD))), "click[plum]"),  # the shop knows no such action
        ((*AT_GOOD, ("", "Your reply could not be read as an action: it is empty")), "click[plum]"),
    ],
)
def test_the_next_step_follows_from_what_was_seen(before, action):
    assert played(*before).action() == action


@pytest.mark.parametrize(
    ("before", "action", "reply", "text", "target"),
    [
        ((), SEARCH, ALL, "right: tea kettle drip free plum", None),
        ((), '{"name": "search", "arguments": {"query": "Kettle"}}', ALL, "right: kettle", None),
        ((), "search[tray]", results(OTHER), "wrong: tray", ("search", "tea kettle drip free plum")),
        ((), "", "Your reply could not be read", "invalid: buy it", ("search", "tea kettle drip free plum")),
        ((), "click[plum]", START, "invalid: plum", ("search", "tea kettle drip free plum")),
        (AT_RESULTS, "click[gddddddddd]", item(GOOD), "right: gddddddddd", None),
        (AT_RESULTS, "click[geeeeeeeee]", item(FAIR), "wrong: geeeeeeeee", ("click", "GDDDDDDDDD")),
        (AT_RESULTS, "click[gaaaaaaaaa]", item(DEAR), "wrong: gaaaaaaaaa", ("click", "GDDDDDDDDD")),
        (AT_RESULTS, "click[gzzzzzzzzz]", ALL, "invalid: gzzzzzzzzz", ("click", "GDDDDDDDDD")),
        (AT_RESULTS, "click[back to search]", START, "wasted: back to search", ("click", "GDDDDDDDDD")),
        (AT_RESULTS, SEARCH, ALL, "wasted: tea kettle drip free plum", ("click", "GDDDDDDDDD")),
        (AT_FIRST_OF_TWO, "click[gaaaaaaaaa]", item(DEAR), "wrong: gaaaaaaaaa", ("click", "Next >")),
        (AT_FIRST_OF_TWO, "click[next >]", results(GOOD, page=2, total=14), "right: next >", None),
        (AT_GOOD, "click[Plum]", item(GOOD), "right: plum", None),
        (AT_GOOD, "click[navy]", item(GOOD), "wrong: navy", ("click", "plum")),
        (AT_GOOD, "click[deep plum]", item(GOOD), "wrong: deep plum", ("click", "plum")),
        (AT_GOOD, "click[color]", item(GOOD), "invalid: color", ("click", "plum")),
        (AT_GOOD, "click[buy now]", DONE, "wrong: buy now", ("click", "plum")),
        (AT_GOOD, "click[features]", FEATURES, "wasted: features", ("click", "plum")),
        (AT_FAIR, "click[plum]", item(FAIR), "wrong: plum", ("click", "< Prev")),
        (AT_FAIR, "click[buy now]", DONE, "wrong: buy now", ("click", "< Prev")),
        (CHOSEN, "click[buy now]", DONE, "right: buy now", None),
        (CHOSEN, "click[14 cm]", item(GOOD), "wrong: 14 cm", ("click", "Buy Now")),
        (CHOSEN, "click[< prev]", ALL, "wasted: < prev", ("click", "Buy Now")),
        ((*AT_GOOD, ("click[back to search]", START)), "search[kettle]", ALL, "right: kettle", None),
        (AT_FEATURES, "click[< prev]", item(GOOD), "right: < prev", None),
        (AT_FEATURES, "click[back to search]", START, "wasted: back to search", ("click", "< Prev")),
        (AT_FEATURES, "click[plum]", FEATURES, "invalid: plum", ("click", "< Prev")),
    ],
)
def test_a_turn_is_judged_by_what_the_agent_saw(before, action, reply, text, target):
    said, right = played(*before).judge(action, "buy it", reply)
    assert said == text
    key = "query" if target and target[0] == "search" else "element"
    assert right == (target and {"name": target[0], "arguments": {key: target[1]}})
    assert said.partition(": ")[0] in played(*before).kinds


def test_of_two_values_that_the_request_names_the_longer_one_is_meant():
    page = item(GOOD).replace(ASKED, ASKED.replace("in plum", "in deep plum"))
    buyer = Buyer(Request.read(ASKED.replace("in plum", "in deep plum")), View.read(page))
    assert buyer.action() == "click[deep plum]"


def test_a_price_range_begins_with_its_lowest_price_and_no_bound_is_no_limit():
    products = View.read(ALL).products
    assert [one.price for one in products] == [81.2, 11.0, 1041.2, 31.2, 41.2]
    assert Request.read("find me a tea kettle").limit == float("inf")


@pytest.mark.parametrize(
    "text",
    [
        *("find: buy a wool kettle", "Instruction: [SEP] x", "", ALL),
        START.replace("tea kettle", "bottle of cologne"),  # such as those of the official data
        START.replace("i need a", "i would like a"),
    ],
)
def test_other_texts_do_not_begin_an_episode(text):
    assert Buyer.open(text) is None
    episode = Trajectory("t", "e", 0, 0, "", (), text, (), 0.0, StopReason.TERMINATED)
    (reflection,) = WebShopRules().reflect([episode], None)
    assert reflection.issues == (("not_a_generated_webshop", 0),)


@pytest.mark.parametrize(("difficulty", "success"), [("easy", 0.85), ("medium", 0.7), ("hard", 0.65)])
def test_the_rules_play_every_level_and_call_their_own_steps_right(difficulty, success):
    env = gym.make("hero_pl/WebShop-v0", difficulty=difficulty, products=200, disable_env_checker=True)
    won = []
    for task in env.unwrapped.task_ids:
        observation, info = env.reset(seed=0, options={"task": task})
        buyer, over = Buyer.open(observation), False
        while not over:
            action = buyer.action()
            observation, _, terminated, truncated, info = env.step(action)
            assert info["legal"], (action, buyer.view)
            assert buyer.judge(action, "", observation)[1] is None, action
            buyer, over = buyer.after(action, observation), terminated or truncated
        won.append(info["success"])
    assert len(won) == 100
    assert sum(won) / len(won) >= success


def test_what_the_rules_take_for_an_element_can_be_clicked():
    env = gym.make("hero_pl/WebShop-v0", difficulty="hard", products=200, split="all", disable_env_checker=True)
    observation, _ = env.reset(seed=0)
    path = ("search[homes]", "click[next >]", "click[< prev]", None, "click[features]", "click[< prev]", "search[zzz]")
    for action in path:
        action = action or f"click[{View.read(observation).products[0].asin}]"
        observation, _, _, _, info = env.step(action)
        offered = {one[len("click[") : -1] for one in info["available_actions"]}
        assert View.read(observation).kind == info["page"], action
        assert View.read(observation).elements.keys() == offered, action

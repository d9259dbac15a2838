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


def item(row, colors="Navy [SEP] plum [SEP] deep plum"):
    title, price = row.split(" [SEP] ")[1:]
    options = f"color [SEP] {colors} [SEP] diameter [SEP] 14 cm [SEP] 18 cm"
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
AT_NO_PLUM = (*AT_RESULTS, ("click[gddddddddd]", item(GOOD, "navy")))
"""The best product by title and price turns out not to come in plum."""
AFTER_NO_PLUM = (*AT_NO_PLUM, ("click[< prev]", ALL))
AT_UNSURE = ((SEARCH, results(FAIR)), ("click[geeeeeeeee]", item(FAIR)))
"""The only product; its title does not name the requested property."""
LOOKED = (*AT_UNSURE, ("click[features]", FEATURES), ("click[< prev]", item(FAIR)))
IN_VAIN = (*AT_UNSURE, ("click[features]", f"{HEAD} [SEP] < Prev [SEP] Plain box."), ("click[< prev]", item(FAIR)))
READ_REVIEWS = (*AT_UNSURE, ("click[reviews]", FEATURES), ("click[< prev]", item(FAIR)))


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
        (((SEARCH, results(page=0, total=14)),), SEARCH),  # a page without products has no next one
        (AT_GOOD, "click[plum]"),
        (AT_FAIR, "click[< Prev]"),  # a better one was listed
        (CHOSEN, "click[Buy Now]"),
        ((*CHOSEN, ("click[navy]", item(GOOD))), "click[plum]"),
        ((*AFTER_NO_PLUM, ("click[geeeeeeeee]", item(FAIR))), "click[plum]"),
        ((*AFTER_NO_PLUM, ("click[geeeeeeeee]", item(FAIR, "navy"))), "click[< Prev]"),  # the other one is as bad there
        (((SEARCH, results(GOOD)), ("click[gddddddddd]", item(GOOD, "navy"))), "click[Buy Now]"),  # there is no other
        (AT_UNSURE, "click[plum]"),
        ((*LOOKED, ("click[plum]", item(FAIR))), "click[Buy Now]"),
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
        (CHOSEN, "click[14 cm]", item(GOOD), "wasted: 14 cm", ("click", "Buy Now")),  # nobody asked for a diameter
        (CHOSEN, "click[plum]", item(GOOD), "wasted: plum", ("click", "Buy Now")),
        (AT_NO_PLUM, "click[navy]", item(GOOD, "navy"), "wrong: navy", ("click", "< Prev")),
        (AFTER_NO_PLUM, "click[gddddddddd]", item(GOOD), "wrong: gddddddddd", ("click", "GEEEEEEEEE")),
        (AFTER_NO_PLUM, "click[gbbbbbbbbb]", item(OTHER), "wrong: gbbbbbbbbb", ("click", "GEEEEEEEEE")),
        (AT_UNSURE, "click[features]", FEATURES, "right: features", None),
        (AT_UNSURE, "click[description]", FEATURES, "right: description", None),
        (AT_UNSURE, "click[reviews]", FEATURES, "wasted: reviews", ("click", "plum")),  # they name no property
        (LOOKED, "click[features]", FEATURES, "wasted: features", ("click", "plum")),
        (LOOKED, "click[description]", FEATURES, "wasted: description", ("click", "plum")),  # it is known by now
        (IN_VAIN, "click[features]", FEATURES, "wasted: features", ("click", "plum")),
        (IN_VAIN, "click[description]", FEATURES, "right: description", None),
        (READ_REVIEWS, "click[features]", FEATURES, "right: features", None),
        (AT_FAIR, "click[features]", FEATURES, "wasted: features", ("click", "< Prev")),
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


def test_bug_885_a_product_that_turns_out_to_lack_a_requested_option_is_left():
    assert played(*AT_NO_PLUM).judge("click[buy now]", "", DONE)[0] == "wrong: buy now"
    assert played(*AT_NO_PLUM).action() == "click[< Prev]"
    assert played(*AFTER_NO_PLUM).action() == "click[GEEEEEEEEE]"


@pytest.mark.parametrize("page", [START, ALL, item(GOOD), FEATURES, DONE])
def test_bug_886_a_list_of_actions_below_a_page_is_no_part_of_it(page):
    assert View.read(f"{page}\nAvailable actions: click[< Prev], click[Buy Now]") == View.read(page)


def test_what_the_features_name_counts_like_the_title():
    rows = (FAIR, FAIR.replace("GEEEEEEEEE", "GFFFFFFFFF"))
    at_second = ((SEARCH, results(*rows)), ("click[gfffffffff]", item(rows[1])), ("click[features]", FEATURES))
    back = (*at_second, ("click[< prev]", item(rows[1])), ("click[< prev]", results(*rows)))
    assert played((SEARCH, results(*rows))).action() == "click[GEEEEEEEEE]"
    assert played(*back).action() == "click[GFFFFFFFFF]"


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ("i need a snow boot that is lug sole, extra wide", {"width": "extra wide"}),
        ("show me a charcoal infused body scrub which is extra gentle, with teal", {"color": "teal"}),
        ("looking for small batch oat cookie, sea salt, in single", {"flavor name": "sea salt", "pack": "single"}),
        ("my old kite broke, i want a new one that is glow paint.", {}),
    ],
)
def test_bug_888_options_are_read_after_the_product_and_its_properties(asked, options):
    assert Request.read(asked).options == options


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_every_generated_goal_is_read_as_it_was_made(difficulty):
    env = gym.make("hero_pl/WebShop-v0", difficulty=difficulty, products=400, split="all", disable_env_checker=True)
    env.reset(seed=0)
    goals = env.unwrapped._shop.world.goals
    assert len(goals) == 400
    for goal in goals:
        request = Request.read(goal.instruction_text)
        assert (request.kind, sorted(request.attributes)) == (goal.query, sorted(goal.attributes))
        assert sorted(request.options.values()) == sorted(goal.goal_options), goal.instruction_text


def test_a_price_range_begins_with_its_lowest_price_and_no_bound_is_no_limit():
    products = View.read(ALL).products
    assert [one.price for one in products] == [81.2, 11.0, 1041.2, 31.2, 41.2]
    assert Request.read("i need a tea kettle that is drip free").limit == float("inf")


@pytest.mark.parametrize(
    "text",
    [
        *("find: buy a wool kettle", "Instruction: [SEP] x", "", ALL),
        START.replace("tea kettle", "bottle of cologne"),  # such as those of the official data
        START.replace("i need a", "i would like a"),
        START.replace("drip free", "bpa free"),  # no property of generated catalogs
        START.replace("in plum", "in plum [SEP] Buy Now"),
    ],
)
def test_other_texts_do_not_begin_an_episode(text):
    assert Buyer.open(text) is None
    episode = Trajectory("t", "e", 0, 0, "", (), text, (), 0.0, StopReason.TERMINATED)
    (reflection,) = WebShopRules().reflect([episode], None)
    assert reflection.issues == (("not_a_generated_webshop", 0),)


@pytest.mark.parametrize(
    ("difficulty", "success", "listed"), [("easy", 0.95, False), ("medium", 0.8, True), ("hard", 0.75, False)]
)
def test_the_rules_play_every_level_and_call_their_own_steps_right(difficulty, success, listed):
    env = gym.make(
        "hero_pl/WebShop-v0",
        difficulty=difficulty,
        products=500,
        show_available_actions=listed,
        disable_env_checker=True,
    )
    won = []
    for task in env.unwrapped.task_ids[:100]:
        observation, info = env.reset(seed=0, options={"task": task})
        buyer, over = Buyer.open(observation), False
        while not over:
            action = buyer.action()
            observation, _, terminated, truncated, info = env.step(action)
            assert info["legal"], (action, buyer.view)
            assert buyer.judge(action, "", observation)[1] is None, action
            buyer, over = buyer.after(action, observation), terminated or truncated
        won.append(info["success"])
    assert sum(won) >= 100 * success, sum(won)


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

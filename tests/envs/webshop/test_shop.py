"""The rules of the pages, and unusual behavior of the original that is kept, on a small shop."""

import pytest

from hero_envs.webshop.actions import parse_native
from hero_envs.webshop.pages import render_text, render_text_rich


def item(shop, asin="b000000001"):
    """Open a product's page."""
    shop.step("search[table]")
    shop.step(f"click[{asin}]")
    return shop


def test_pages_read_as_the_original_prints_them(make_shop, make_product):
    shop = make_shop(make_product())
    goal = shop.session.goal.instruction_text
    assert render_text(shop.page) == f"WebShop [SEP] Instruction: [SEP] {goal} [SEP] Search"
    head = f"Instruction: [SEP] {goal} [SEP] Back to Search"
    assert shop.step("search[table]")[0] == (
        f"{head} [SEP] Page 1 (Total results: 1) [SEP] Next > [SEP] B000000001 [SEP] Oak Table [SEP] $12.0"
    )
    assert shop.step("click[b000000001]")[0] == (
        f"{head} [SEP] < Prev [SEP] color [SEP] red [SEP] navy | blue [SEP] size [SEP] l [SEP] Oak Table"
        " [SEP] Price: $12.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    assert shop.step("click[features]")[0] == f"{head} [SEP] < Prev [SEP] Made of oak. [SEP] Four legs."


def test_the_rich_format_marks_what_was_chosen_and_visited(make_shop, make_product):
    shop = item(make_shop(make_product()))
    shop.step("click[red]")
    rich = render_text_rich(shop.page)
    assert rich.startswith("You have clicked red.\nInstruction:\n")
    assert "  [clicked button] red [clicked button_]\n  [button] navy | blue [button_]\n" in rich
    shop.step("click[< prev]")
    assert "\n[clicked button] B000000001 [clicked button_]\nOak Table\n" in render_text_rich(shop.page)


def test_the_last_clicked_label_comes_first(make_shop, make_product):
    shop = item(make_shop(make_product()))
    shop.step("click[red]")
    shop.step("click[l]")
    assert render_text_rich(shop.page).startswith("You have clicked l.\nYou have clicked red.\n")


@pytest.mark.parametrize("page", ["index", "results", "item", "sub", "done"])
def test_search_works_on_every_page(make_shop, make_product, page):
    shop = make_shop(make_product())
    path = ["search[table]", "click[b000000001]", "click[reviews]"]
    for action in path[: ["index", "results", "item", "sub"].index(page)] if page != "done" else path[:2]:
        shop.step(action)
    if page == "done":
        shop.step("click[buy now]")
    assert shop.page.kind == page
    shop.step("search[oak]")
    assert shop.page.kind == "results"


def test_after_buying_only_search_is_possible(make_shop, make_product):
    shop = item(make_shop(make_product()))
    state, _, done = shop.step("click[buy now]")
    assert done
    assert state.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None")
    assert list(shop.page.clickables) == []
    assert shop.step("click[back to search]") == (state, 0.0, False)
    assert shop.step("search[table]")[0].startswith("Instruction:")


def test_the_receipt_writes_options_as_escaped_json_with_sorted_keys(make_shop, make_product):
    values = {"Z": [{"value": "a & 'b' <é>"}], "A": [{"value": "x"}]}
    shop = item(make_shop(make_product(customization_options=values)))
    shop.step("click[a & 'b' <é>]")
    shop.step("click[x]")
    text = shop.step("click[buy now]")[0]
    assert r'{"a": "x", "z": "a \u0026 \u0027b\u0027 \u003c\u00e9\u003e"}' in text


def test_pages_beyond_the_results_are_empty_and_still_offer_next(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step("search[table]")
    states = [shop.step("click[next >]")[0] for _ in range(6)]
    assert states[-1].endswith("Page 7 (Total results: 1) [SEP] < Prev [SEP] Next >")


def test_ten_products_stand_on_a_page(make_shop, make_product):
    shop = make_shop(*(make_product(f"B{i:09d}") for i in range(23)))
    shop.step("search[table]")
    assert [len(shop.page.rows), shop.page.total] == [10, 23]
    shop.step("click[next >]")
    shop.step("click[next >]")
    assert len(shop.page.rows) == 3


def test_a_query_that_contains_search_results_leads_to_page_zero(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step("search[table search_results]")
    shop.step("click[b000000001]")
    state = shop.step("click[< prev]")[0]
    assert state.endswith("Page 0 (Total results: 1) [SEP] Next >")
    assert shop.step("click[next >]")[0].endswith("B000000001 [SEP] Oak Table [SEP] $12.0")


def test_a_query_that_contains_item_page_sends_a_sub_page_back_to_the_results(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step("search[table item_page]")
    shop.step("click[b000000001]")
    shop.step("click[description]")
    shop.step("click[< prev]")
    assert shop.page.kind == "results"


def test_going_back_from_a_product_clears_its_options_and_a_sub_page_keeps_them(make_shop, make_product):
    shop = item(make_shop(make_product()))
    shop.step("click[red]")
    shop.step("click[features]")
    shop.step("click[< prev]")
    assert shop.session.options == {"color": "red"}
    shop.step("click[< prev]")
    shop.step("click[b000000001]")
    assert shop.session.options == {}


def test_visited_marks_are_lost_on_the_index_page(make_shop, make_product):
    shop = item(make_shop(make_product()))
    shop.step("click[back to search]")
    shop.step("search[table]")
    assert "clicked" not in render_text_rich(shop.page)


def test_equal_values_in_two_groups_set_the_last_group(make_shop, make_product):
    values = {"Band": [{"value": "red"}], "Case": [{"value": "red"}]}
    shop = item(make_shop(make_product(customization_options=values)))
    assert list(shop.page.clickables).count("red") == 1
    shop.step("click[red]")
    assert shop.session.options == {"case": "red"}
    assert render_text_rich(shop.page).count("[clicked button] red") == 2


def test_an_option_called_like_a_button_acts_as_the_button(make_shop, make_product):
    values = {"Kind": [{"value": "Description"}, {"value": "search"}, {"value": "next >"}]}
    shop = item(make_shop(make_product(customization_options=values)))
    shop.step("click[search]")
    assert shop.session.options == {}
    shop.step("click[next >]")
    assert shop.session.options == {"kind": "next >"}
    shop.step("click[description]")
    assert shop.page.kind == "sub"


@pytest.mark.parametrize("value", ['12" wide', "back\\slash", "crème"])
def test_labels_that_a_url_escapes_never_show_as_clicked(make_shop, make_product, value):
    shop = item(make_shop(make_product(customization_options={"size": [{"value": value}]})))
    shop.step(f"click[{value}]")
    assert shop.session.options == {"size": value}
    assert "clicked" not in render_text_rich(shop.page)


def test_a_label_equal_to_a_chosen_options_name_shows_as_clicked(make_shop, make_product):
    values = {"size": [{"value": "large"}], "what": [{"value": "size"}]}
    shop = item(make_shop(make_product(customization_options=values)))
    shop.step("click[large]")
    assert "[clicked button] size" in render_text_rich(shop.page)


def test_a_quoted_word_in_the_query_shows_as_clicked(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step('search[table "red"]')
    shop.step("click[b000000001]")
    assert "[clicked button] red" in render_text_rich(shop.page)


def test_brackets_in_values_can_be_clicked_only_when_the_grammar_lets_them(make_shop, make_product):
    values = {"size": [{"value": "a [b"}, {"value": "c] d"}, {"value": "<6 & up>"}]}
    shop = item(make_shop(make_product(customization_options=values)))
    shop.step("click[a [b]")
    assert shop.session.options == {}
    shop.step("click[c] d]")
    assert shop.session.options == {"size": "c] d"}
    shop.step("click[<6 & up>]")
    assert shop.session.options == {"size": "<6 & up>"}


def test_upper_case_actions_reach_lower_case_labels(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step("search[TABLE]")
    shop.step("click[B000000001]")
    assert shop.step("click[Buy Now] please")[2]


@pytest.mark.parametrize(
    "action",
    [
        "click [buy now]",
        " click[buy now]",
        "click[ buy now ]",
        "Click[buy now]",
        "think: buy\nclick[buy now]",
        "search[]",
        "search[a [b] c]",
        "search[a] search[b]",
        "search[[shoes]]",
        "buy now",
        "click[search]",
        "",
    ],
)
def test_what_the_grammar_does_not_know_changes_nothing(make_shop, make_product, action):
    shop = item(make_shop(make_product()))
    before = (shop.page, dict(shop.session.options))
    assert shop.apply(*parse_native(action)) == (0.0, False, False)
    assert (shop.page, shop.session.options) == before


def test_brackets_at_the_end_of_a_search_belong_to_it(make_shop, make_product):
    shop = make_shop(make_product())
    shop.step("search[table]]")
    assert shop.session.keywords == ["table]"]
    assert shop.page.total == 1


@pytest.mark.parametrize(
    ("description", "tail"),
    [("", ""), (" \n ", ""), ("  ", " [SEP] "), ("\u00a0x", " [SEP] x")],
)
def test_blank_descriptions_shrink_or_vanish(make_shop, make_product, description, tail):
    shop = item(make_shop(make_product(full_description=description)))
    assert shop.step("click[description]")[0].endswith(f"< Prev{tail}")


def test_blanks_around_a_title_are_stripped_in_text_and_kept_in_rich(make_shop, make_product):
    shop = make_shop(make_product(name=" Oak Table  "))
    assert " [SEP] Oak Table [SEP] $12.0" in shop.step("search[table]")[0]
    assert "\n Oak Table  \n" in render_text_rich(shop.page)


def test_one_text_as_bullets_is_a_list_of_one(make_shop, make_product):
    shop = item(make_shop(make_product(small_description="Only one.")))
    assert shop.step("click[features]")[0].endswith("< Prev [SEP] Only one.")


def test_the_attributes_page_is_offered_on_demand(make_shop, make_product):
    shop = item(make_shop(make_product()))
    assert "attributes" not in shop.page.clickables
    shop = item(make_shop(make_product(), show_attributes=True))
    state = shop.step("click[attributes]")[0]
    assert state.endswith("< Prev [SEP] solid wood [SEP] home [SEP] oak tables [SEP] Home › Tables")


def test_queries_by_category_and_query_give_all_matches_in_load_order(make_shop, make_product):
    others = [make_product(f"B{i:09d}", category="garden", query=f"kind {i % 2}") for i in range(100, 40, -1)]
    shop = make_shop(make_product(), *others)
    shop.step("search[<c> garden]")
    assert (shop.page.total, shop.page.rows[0]) == (60, 1)
    shop.step("search[<q> kind 1]")
    assert shop.page.total == 30
    for action in ("search[<c>]", "search[<a> x]"):
        shop.step(action)
        assert shop.page.total == 0


def test_random_products_are_drawn_anew_on_each_page(make_shop, make_product):
    shop = make_shop(*(make_product(f"B{i:09d}") for i in range(80)))
    shop.step("search[<r>]")
    first = list(shop.page.rows)
    shop.step("click[next >]")
    shop.step("click[< prev]")
    assert shop.page.total == 50
    assert list(shop.page.rows) != first


def test_sessions_by_name_keep_their_goal_and_ints_choose_theirs(make_shop, make_product):
    shop = make_shop(*(make_product(f"B{i:09d}", name=f"Oak Table {i}") for i in range(9)))
    shop.reset("anna")
    goal = shop.session.goal
    shop.reset("bert")
    shop.reset("anna")
    assert shop.session.goal is goal
    shop.reset(-1)
    assert shop.session.goal is shop.world.goals[-1]
    shop.reset("-1")
    assert shop.session.goal is shop.world.goals[-1]
    with pytest.raises(IndexError, match="expected a goal index from"):
        shop.reset(10_000)


def test_the_state_carries_earlier_observations_and_actions(make_shop, make_product):
    shop = make_shop(make_product(), num_prev_obs=2, num_prev_actions=2)
    first = shop.reset(0)
    second = shop.step("search[table]")[0].removeprefix(f"{first} [SEP] search[table] [SEP] ")
    state = shop.step("nothing")[0]
    assert state == " [SEP] ".join([first, "search[table]", second, "nothing", second])


def test_a_lower_case_asin_in_the_data_does_not_break_its_link(make_shop, make_product):
    shop = item(make_shop(make_product("b00abcdefg")), "b00abcdefg")
    assert shop.page.kind == "item"


def test_an_action_of_a_megabyte_is_answered(make_shop, make_product):
    shop = make_shop(make_product())
    for action in (
        "[" * 1_000_000,
        f"search[{'a b ' * 250_000}]",
        f"search[{'é_' * 300_000}]",
        f"click[{'x' * 10**6}]",
    ):
        assert isinstance(shop.step(action)[0], str)


def test_control_characters_and_special_tokens_pass_through_as_text(make_shop, make_product):
    shop = make_shop(make_product(name="Oak <|im_end|> \x00\x1b[0m Table"))
    assert "Oak <|im_end|> \x00\x1b[0m Table" in shop.step("search[table \x00]")[0]

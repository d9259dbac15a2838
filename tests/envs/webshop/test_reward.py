"""The reward, its components and the noun extractors."""

import json
import random

import pytest

from hero_envs.webshop.colors import COLOR_SET, normalize_color
from hero_envs.webshop.fuzzy import matches, token_set_ratio
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.nouns import Nouns, get_nouns, rule_nouns
from hero_envs.webshop.reward import attributes_met, match_type, options_met, purchase_reward

WORDS = Nouns(lambda title: title.lower().split(), "words")


def goal(**changes):
    values = {
        "asin": "B000000001",
        "category": "home",
        "query": "oak tables",
        "name": "Oak Table",
        "product_category": "Home › Tables",
        "instruction_text": "",
        "attributes": ("solid wood",),
        "price_upper": 20.0,
        "goal_options": ("red", "l"),
    }
    return Goal(**{**values, **changes})


def test_a_perfect_purchase_gives_one_and_names_every_component(make_product):
    reward, parts = purchase_reward(make_product(), goal(), 12.0, {"color": "red", "size": "l"}, WORDS)
    assert reward == 1.0
    assert parts == {
        "r_type": 1.0,
        "r_att": 1.0,
        "w_att": 0.25,
        "query_match": True,
        "category_match": True,
        "title_score": 1.0,
        "r_option": 1.0,
        "w_option": 0.5,
        "r_price": True,
        "w_price": 0.25,
    }


@pytest.mark.parametrize(
    ("changes", "price", "options", "expected"),
    [
        ({}, 20.01, {"color": "red", "size": "l"}, 0.75),
        ({}, 20.0, {"color": "red"}, 0.75),
        ({}, 12.0, {"color": "navy blue", "size": "xl"}, 0.5),
        ({"attributes": ("glass",)}, 12.0, {"color": "red", "size": "l"}, 0.75),
        ({"goal_options": ()}, 99.0, {}, 0.5),
    ],
)
def test_each_thing_missed_costs_its_share(make_product, changes, price, options, expected):
    assert purchase_reward(make_product(), goal(**changes), price, options, WORDS)[0] == expected


def test_goals_without_options_have_no_option_components(make_product):
    parts = purchase_reward(make_product(), goal(goal_options=()), 1.0, {}, WORDS)[1]
    assert "r_option" not in parts
    assert "w_option" not in parts


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"name": "Elm Chair"}, 0.0),  # no common noun overrides even an equal query
        ({"name": " ".join(["oak", *"abcdefghijk"])}, 0.1),  # 1 of 12 nouns
        ({"name": "oak a b c d e", "query": "x", "product_category": "x"}, 0.5),  # 1 of 6
        ({"name": "oak a b c d e", "query": "x"}, 1.0),  # two common category levels
        ({"name": "oak a b", "query": "x", "product_category": "x"}, 1.0),  # 1 of 3
        ({"name": "oak oak oak oak oak oak", "query": "x", "product_category": "x"}, 0.5),  # repeats count below
        ({"name": "", "query": "x", "product_category": "x"}, 0.5),  # no nouns: 0.2
    ],
)
def test_the_type_factor_follows_query_category_and_common_nouns(make_product, changes, factor):
    assert match_type(make_product(), goal(**changes), WORDS)["r_type"] == factor


def test_an_attribute_counts_by_list_or_word_for_word_in_the_texts(make_product):
    product = make_product(attributes=["solid wood"])
    assert attributes_met(product, ["wood solid", "oak", "four legs", "a table", "FOUR"]) == 4


def test_options_are_compared_by_their_first_color_word():
    assert normalize_color("navy blue") == "blue"
    assert normalize_color("bordered") == "red"
    assert options_met(["dark grey"], ["dark olive"]) == 1
    assert options_met(["x-large"], ["large", "x-large"]) == 2
    assert len(COLOR_SET) == 102
    assert list(COLOR_SET) == sorted(COLOR_SET)


def test_goal_options_given_by_name_are_compared_with_their_names():
    assert normalize_color(("color", "red")) == "red"
    assert options_met(["red", "l"], {"color": "red", "size": "l"}) == 2
    assert options_met(["navy blue"], {"color": "light blue"}) == 1  # 'blue' is inside ('color', 'light blue')
    assert options_met(["navy"], {"color": "light blue"}) == 0


def test_the_fast_comparison_decides_as_the_ratio_does():
    rng = random.Random(0)
    letters = "abcd efé-"
    texts = ["", " ", "!!!", "é"] + ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(150)]
    decisions = [(matches(a, b), token_set_ratio(a, b) > 85) for a in texts for b in texts]
    assert all(fast == slow for fast, slow in decisions)
    assert any(fast for fast, _ in decisions)


def test_ratios_are_those_of_sorted_word_sets():
    assert token_set_ratio("black", "a1-black") == 100
    assert token_set_ratio("black", "rose gold") == 14
    assert token_set_ratio("", "") == 0


def test_rules_drop_function_words_numbers_and_adjectives():
    assert rule_nouns("Set of 2 Portable Wireless Speakers for the Kitchen") == ["set", "speakers", "kitchen"]


def score(wanted, bought):
    nouns, other = rule_nouns(wanted), set(rule_nouns(bought))
    return len(set(nouns) & other) / len(nouns)


def test_unrelated_titles_share_no_nouns_by_the_rules():
    assert score("Gold Plated Door Knob with Lock for Bedroom", "Stainless Tweezers for Eyebrow, Slant Tip") < 0.05
    assert score("Mens Basketball Sneakers Breathable", "Womens Basketball Sneakers High Top Shoes") > 0.2


def test_a_table_a_callable_and_a_missing_tagger_are_handled(tmp_path):
    path = tmp_path / "nouns.json"
    path.write_text(json.dumps({"Oak Table": ["table"]}))
    table = get_nouns(str(path))
    assert (table.name, table.of("Oak Table")[0]) == ("table:nouns.json", ["table"])
    with pytest.raises(ValueError, match="no entry for the title 'Elm'"):
        table.of("Elm")
    assert get_nouns(str.split).of("a b")[0] == ["a", "b"]
    with pytest.raises(ImportError, match=r"hero_pl\[spacy\]"):
        get_nouns("spacy:no_such_model")
    with pytest.raises(ValueError, match="expected"):
        get_nouns("magic")
    path.write_text("[")
    with pytest.raises(ValueError, match="not a readable JSON table"):
        get_nouns(str(path))

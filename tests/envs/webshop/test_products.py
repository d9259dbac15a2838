"""Cleaning, prices, goals and their draws."""

import statistics
from random import Random

import pytest

from hero_envs.webshop.catalog import World, catalog_in_memory
from hero_envs.webshop.goals import NO_BOUND, price_bound
from hero_envs.webshop.products import DataError, clean_product, clean_products, parse_price


@pytest.mark.parametrize(
    ("pricing", "values", "tag"),
    [
        (None, (100.0,), "$100.0"),
        ("", (100.0,), "$100.0"),
        ("$12.00", (12.0,), "$12.0"),
        ("$1,049.00", (1049.0,), "$1049.0"),
        ("from $5.5 - $7.25", (5.5, 7.25), "$5.5 to $7.25"),
        ("$1.00 $2.00 $3.00", (1.0, 2.0), "$1.0 to $2.0"),
    ],
)
def test_prices_are_read_as_the_original_reads_them(pricing, values, tag):
    assert parse_price(pricing) == (values, tag)


@pytest.mark.parametrize("pricing", ["12.00", "$", "free", 12, "$1.2.3"])
def test_a_price_that_cannot_be_read_names_the_product_and_the_remedy(make_entry, pricing):
    with pytest.raises(DataError, match=r"entry 7 \(asin B000000001\): the price .* Expected '\$12.00'"):
        clean_product(make_entry(pricing=pricing), {}, (), 7)


def test_unusable_and_repeated_asins_are_left_out_and_the_first_wins(make_entry):
    asins = ["B1", "nan", "B12345678901", "B1", "B2"]
    entries = [make_entry(asin, name=f"{asin} {i}") for i, asin in enumerate(asins)]
    assert [p.title for p in clean_products(entries, {}, {})] == ["B1 0", "B2 4"]


def test_num_products_counts_raw_entries(make_entry):
    entries = [make_entry(asin) for asin in ("B1", "nan", "B2", "B3")]
    assert [p.asin for p in clean_products(entries, {}, {}, num_products=3)] == ["B1", "B2"]


def test_options_are_cleaned_and_a_later_group_of_one_name_replaces_the_former(make_entry):
    raw = {
        "Size": [{"value": " A/B "}, {"value": "C"}, {"value": "C"}],
        "Color": None,
        "SIZE": [{"value": "Z"}],
        "Fit": [{"value": "x"}],
    }
    assert clean_product(make_entry(customization_options=raw), {}, ()).options == {"size": ("z",), "fit": ("x",)}
    assert clean_product(make_entry(customization_options={"S": raw["Size"]}), {}, ()).options == {
        "s": ("a | b", "c", "c")
    }
    assert clean_product(make_entry(customization_options=None), {}, ()).options == {}


def test_a_product_without_instructions_has_the_dummy_attribute_and_no_goal(make_entry):
    product = clean_product(make_entry(query=" Oak Tables "), {}, ())
    assert (product.attributes, product.instruction, product.query) == (("DUMMY_ATTR",), None, "oak tables")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "the field 'name' is 3"),
        ({"customization_options": [1]}, "asin B000000001"),
        ({"customization_options": {"a": [{"no": 1}]}}, "the field 'value' is missing"),
    ],
)
def test_an_entry_of_another_schema_is_named(make_entry, changes, message):
    with pytest.raises(DataError, match=message):
        clean_product(make_entry(**changes), {}, ())


def test_an_entry_without_an_asin_is_named():
    with pytest.raises(DataError, match="Product entry 0: expected an object"):
        list(clean_products(["x"], {}, {}))


@pytest.mark.parametrize(
    ("price", "bounds"), [(12.0, {30.0, 40.0, 50.0}), (970.0, {990.0}), (9.99, {20.0, 30.0, 40.0})]
)
def test_price_bounds_are_the_larger_of_two_of_the_next_four_tens(price, bounds):
    rng = Random(0)
    drawn = [price_bound(price, rng) for _ in range(200)]
    assert {bound for _, bound in drawn} == bounds
    assert drawn[0][0] == f", and price lower than {drawn[0][1]:.2f} dollars"


def test_from_980_dollars_on_there_is_no_clause_and_no_draw():
    rng = Random(0)
    state = rng.getstate()
    assert price_bound(980.0, rng) == ("", NO_BOUND)
    assert rng.getstate() == state


def row(options, text="a table..", attributes=("solid wood",)):
    return {"instruction": text, "instruction_options": options, "instruction_attributes": list(attributes)}


def test_human_rows_without_attributes_are_dropped_before_any_draw(make_product):
    rows = [row([], attributes=[]), row(["red"]), row({"color": "red"}, text=".x.")]
    both = World(catalog_in_memory("t", [make_product(human=rows)]), True, 3)
    kept = World(catalog_in_memory("t", [make_product(human=rows[1:])]), True, 3)
    assert both.goals == kept.goals
    texts = {goal.instruction_text.split(",")[0]: goal.goal_options for goal in both.goals}
    assert texts == {"a table": ("red",), "x": {"color": "red"}}


def test_synthetic_goals_take_every_combination_and_share_one_bound(make_product):
    world = World(catalog_in_memory("t", [make_product()]), False, 0)
    assert sorted(goal.instruction_text.split(", and price")[0] for goal in world.goals) == [
        "find a table with color: navy | blue, and size: l",
        "find a table with color: red, and size: l",
    ]
    assert len({goal.price_upper for goal in world.goals}) == 1
    assert {goal.weight for goal in world.goals} == {0.5}


def test_one_price_seed_gives_the_same_prices_and_goals_and_another_does_not(make_product):
    products = [make_product(f"B{i}", pricing="$5.00 - $50.00") for i in range(20)]
    catalog = catalog_in_memory("t", products)
    one, same, other = (World(catalog, False, seed) for seed in (1, 1, 2))
    assert (one.prices, one.goals) == (same.prices, same.goals)
    assert one.prices != other.prices
    assert all(5 <= price <= 50 for price in one.prices)


def test_the_first_goal_is_never_drawn_and_the_last_counts_twice(make_product):
    goals = World(
        catalog_in_memory("t", [make_product(f"B{i}", customization_options=None) for i in range(4)]), False, 0
    )
    rng = Random(0)
    drawn = [goals.goal_set.draw(rng) for _ in range(4000)]
    shares = [drawn.count(i) / len(drawn) for i in range(4)]
    assert shares[0] == 0
    assert shares[3] == pytest.approx(0.5, abs=0.03)
    assert statistics.fmean(shares[1:3]) == pytest.approx(0.25, abs=0.03)


def test_limits_and_filters_choose_goals_and_impossible_limits_are_refused(make_product):
    catalog = catalog_in_memory("t", [make_product(f"B{i}", customization_options=None) for i in range(6)])
    every = World(catalog, False, 0).goals
    assert World(catalog, False, 0, filter_goals=lambda i, goal: i % 2 == 0).goals == every[::2]
    limited = World(catalog, False, 0, limit_goals=3).goals
    assert len(set(goal.asin for goal in limited)) == 3
    assert every[0] not in World(catalog, False, 0, limit_goals=5).goals
    with pytest.raises(ValueError, match="limit_goals=0: expected -1"):
        World(catalog, False, 0, limit_goals=0)
    with pytest.raises(ValueError, match="has no goals"):
        World(catalog, True, 0)

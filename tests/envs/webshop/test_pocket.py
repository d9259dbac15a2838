"""The pocket shop, its compact pages, the generated catalog and the committed task list."""

import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium as gym
import pytest

from hero_envs.webshop.colors import COLOR_SET
from hero_envs.webshop.compact import MAX_CONTENT, link_names, render_compact
from hero_envs.webshop.fuzzy import token_set_ratio
from hero_envs.webshop.generated import DIFFICULTIES, generated_entries
from hero_envs.webshop.manifest import make_manifest, read_manifest
from hero_envs.webshop.nouns import get_nouns
from hero_envs.webshop.pocket import (
    COLORS,
    KINDS,
    MATERIALS,
    OTHER_KINDS,
    OTHER_MATERIALS,
    SIZES,
    pocket_products,
)
from hero_envs.webshop.reward import purchase_reward
from hero_envs.webshop.tasks import Source, open_tasks

SIZES_OF_SPLITS = {"warmup": 400, "train": 250, "validation": 100, "test": 250}


def buy(material="pine", kind="shirt", color="red", size="large"):
    """Reward of buying a product if the request is a large red pine shirt."""
    env = gym.make("hero_pl/WebShopPocket-v0", max_noops=None)
    env.reset(options={"task": "pine-shirt-red-large"})
    for action in (f"search[{material} {kind}]", f"click[{material} {kind}]", f"click[{color}]", f"click[{size}]"):
        assert env.step(action)[4]["legal"]
    return env.step("click[buy now]")[1]


def test_only_the_very_thing_gives_one_and_every_single_mistake_less():
    assert buy() == 1.0
    assert [buy(material=m) for m in MATERIALS[1:]] == [0.75] * 4
    assert [buy(kind=k) for k in KINDS[1:]] == [0.0] * 7
    assert [buy(color=c) for c in COLORS[1:]] == [0.75] * 4
    assert [buy(size=s) for s in SIZES if s != "large"] == [0.75] * 4


@pytest.mark.parametrize("other_things", [False, True])
def test_every_pocket_task_is_solved_by_the_short_path(other_things):
    env = gym.make("hero_pl/WebShopPocket-v0", split="all", other_things=other_things)
    for task in env.unwrapped.task_ids:
        material, kind, color, size = task.split("-")
        text, _ = env.reset(options={"task": task})
        assert text == f"find: buy a {material} {kind} with color: {color}, and size: {size}"
        for action in (f"search[{kind}]", f"click[{material} {kind}]", f"click[{color}]", f"click[{size}]"):
            env.step(action)
        assert env.step("click[buy now]")[1] == 1.0


def test_the_other_shop_sells_none_of_the_usual_things():
    usual, other = (set(open_tasks(Source("pocket", other_things=flag)).ids) for flag in (False, True))
    assert len(other) == 1000
    assert not usual & other
    with pytest.raises(ValueError, match="option of the pocket catalog"):
        open_tasks(Source("generated", other_things=True))


def test_words_cannot_be_taken_for_one_another():
    words = (*MATERIALS, *KINDS, *OTHER_MATERIALS, *OTHER_KINDS, *COLORS, *SIZES)
    assert set(COLORS) <= set(COLOR_SET)
    assert not any(color in size for color in COLOR_SET for size in SIZES)
    for one, other in itertools.permutations(words, 2):
        assert one not in other
        assert token_set_ratio(one, other) < 85
    titles = [product.title for flag in (False, True) for product in pocket_products(other_things=flag)]
    assert all(token_set_ratio(a, b) < 85 for a, b in itertools.combinations(titles, 2))


def test_searching_a_kind_lists_its_five_products_and_nothing_else():
    env = gym.make("hero_pl/WebShopPocket-v0")
    for kind in KINDS:
        env.reset(seed=0)
        text = env.step(f"search[{kind}]")[0]
        assert text == "results: " + " | ".join(f"{material} {kind}" for material in MATERIALS)


def test_the_order_of_values_changes_from_product_to_product_and_with_the_seed():
    orders = {product.options["color"] for product in pocket_products()}
    assert len(orders) > 20
    assert [p.options for p in pocket_products(0)] != [p.options for p in pocket_products(1)]
    assert list(pocket_products(1)) == list(pocket_products(1))


def test_no_pocket_goal_has_a_price_clause():
    goals = open_tasks(Source("pocket", price_seed=5)).world.goals
    assert len(goals) == 1000
    assert not any("price" in goal.instruction_text for goal in goals)


@pytest.mark.parametrize(("catalog_seed", "price_seed"), [(0, 0), (3, 0), (0, 9)])
def test_pocket_splits_have_their_sizes_are_disjoint_and_depend_on_no_seed(catalog_seed, price_seed):
    options = {"catalog_seed": catalog_seed, "price_seed": price_seed}
    splits = {
        name: gym.make("hero_pl/WebShopPocket-v0", split=name, **options).unwrapped.task_ids for name in SIZES_OF_SPLITS
    }
    assert {name: len(ids) for name, ids in splits.items()} == SIZES_OF_SPLITS
    assert len(set(itertools.chain(*splits.values()))) == 1000
    assert splits == {name: list(tasks) for name, tasks in read_manifest()["pocket"].items()}


def test_compact_pages_show_what_is_chosen_and_what_comes_next():
    env = gym.make("hero_pl/WebShopPocket-v0", max_noops=None, max_steps=None)
    env.reset(options={"task": "pine-shirt-red-large"})
    text = env.step("search[pine shirt]")[0]
    assert text.startswith("results: pine shirt | ")
    assert text.count(" | ") == 9
    assert text.endswith(" ; next >")
    assert " ; next >" not in env.step("click[next >]")[0]
    assert env.step("click[< prev]")[0] == text
    options = next(iter(pocket_products())).options
    colors, sizes = " | ".join(options["color"]), " | ".join(options["size"])
    assert env.step("click[P000000000]")[0] == f"pine shirt ; color: {colors}"
    assert env.step("click[red]")[0] == f"pine shirt ; color red ; size: {sizes}"
    assert env.step("click[large]")[0] == "pine shirt ; color red ; size large ; buy now"
    assert env.step("click[blue]")[0] == "pine shirt ; color blue ; size large ; buy now"
    assert env.step("click[description]")[0] == "description: a shirt of pine ; < prev"
    assert env.step("click[nothing]")[0] == "error: description: a shirt of pine ; < prev"
    assert env.step("search[zzz]")[0] == "results: none"


def test_compact_buttons_lists_what_else_can_be_pressed():
    env = gym.make("hero_pl/WebShopPocket-v0", compact_buttons=True)
    env.reset(seed=0)
    env.step("search[shirt]")
    assert env.step("click[pine shirt]")[0].endswith(
        " ; [back to search | < prev | description | features | reviews | buy now]"
    )


def test_long_contents_are_cut_with_a_visible_mark(make_shop, make_product):
    shop = make_shop(make_product(full_description="x" * (MAX_CONTENT + 7)))
    for action in ("search[table]", "click[b000000001]", "click[description]"):
        shop.step(action)
    assert render_compact(shop) == f"description: {'x' * MAX_CONTENT}… [7 more characters] ; < prev"


def test_equal_titles_on_one_page_get_numbers(make_shop, make_product):
    shop = make_shop(make_product("B1"), make_product("B2"))
    shop.step("search[table]")
    assert link_names(shop.page, shop.world.catalog.products) == {"oak table": "b1", "oak table (2)": "b2"}


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_every_generated_goal_can_be_met(difficulty):
    world = open_tasks(Source("generated", difficulty=difficulty, human_goals=True)).world
    nouns = get_nouns("rules")
    assert len(world.goals) == 1000
    for goal in world.goals:
        row = world.catalog.row_of[goal.asin]
        product = world.catalog.products[row]
        chosen = {
            name: value for name, values in product.options.items() for value in values if value in goal.goal_options
        }
        assert purchase_reward(product, goal, world.prices[row], chosen, nouns)[0] == 1.0


def test_harder_catalogs_ask_for_more():
    def asked(difficulty):
        rows = [rows[0] for _, _, rows in generated_entries(300, difficulty)]
        return sum(len(row["instruction_attributes"]) + len(row["instruction_options"]) for row in rows)

    assert asked("easy") < asked("medium") < asked("hard")


def test_a_larger_generated_catalog_begins_with_the_smaller_one():
    assert list(generated_entries(50, seed=2)) == list(generated_entries(80, seed=2))[:50]
    asins = [entry["asin"] for entry, _, _ in generated_entries(5000)]
    assert len(set(asins)) == 5000


def digest_in_child(_):
    return json.dumps(make_manifest(), sort_keys=True)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_committed_task_list_is_made_by_any_number_of_workers(workers):
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = set(pool.map(digest_in_child, range(workers)))
    assert made == {json.dumps(read_manifest(), sort_keys=True)}


def test_the_committed_splits_are_disjoint():
    for splits in read_manifest().values():
        ids = list(itertools.chain(*splits.values()))
        assert len(ids) == len(set(ids)) == 1000
        assert set(splits) == {"warmup", "train", "validation", "test"}


def test_official_splits_are_the_baselines_ranges(shared_data):
    tasks = open_tasks(Source("official", data_dir=str(shared_data), human_goals=True))
    assert {name: (indices[0], len(indices)) for name, indices in tasks.splits.items()} == {
        "test": (0, 500),
        "validation": (500, 1000),
        "train": (1500, 292),
    }
    assert tasks.ids[7].startswith("00007-B0")

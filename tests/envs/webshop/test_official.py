"""Official files: found, streamed, refused with a clear message, and converted to a store."""

import importlib.util
import json
import os
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium as gym
import numpy as np
import pytest

from hero_envs.webshop import official
from hero_envs.webshop.catalog import World
from hero_envs.webshop.generated import generated_entries, write_official
from hero_envs.webshop.noun_table import noun_table
from hero_envs.webshop.nouns import get_nouns
from hero_envs.webshop.official import differing_goals, goal_text, iterate_json_list, load_official
from hero_envs.webshop.products import DataError
from hero_envs.webshop.store import decode_row
from hero_envs.webshop.store_writer import encode_row

QUERY = "oak coffee for gifts"


@pytest.fixture
def folder(tmp_path):
    write_official(tmp_path, 60)
    return tmp_path


def stored(folder, monkeypatch, **options):
    monkeypatch.setattr(official, "STORE_ABOVE_BYTES", 0)
    return load_official(folder, **options)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_list_is_read_item_by_item_however_it_is_cut(tmp_path, monkeypatch, chunk):
    items = [{"a": [1, "]", {"b": 'é\\"'}]}, 12345, "x,y", [], {"n": None}]
    path = tmp_path / "items.json"
    path.write_text(" " + json.dumps(items, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    monkeypatch.setattr(official, "_CHUNK", chunk)
    assert list(iterate_json_list(path)) == items
    path.write_text("[ ]")
    assert list(iterate_json_list(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON list"),
        ('{"a": 1}', "expected a JSON list"),
        ('[{"a": 1}', "ends inside the list after 1 entries"),
        ('[{"a": 1}, {"b": }]', "entry 1 is not valid JSON"),
        ('[{"a": 1}, {"b"', "entry 1 is not valid JSON"),
    ],
)
def test_a_broken_file_says_where_it_broke(tmp_path, text, message):
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(iterate_json_list(path))


def test_missing_and_malformed_files_are_named_with_a_remedy(folder, tmp_path_factory):
    with pytest.raises(DataError, match=r"has no items_shuffle\.json .* or use catalog=\"generated\""):
        load_official(tmp_path_factory.mktemp("empty"))
    with pytest.raises(DataError, match="num_products=0"):
        load_official(folder, num_products=0)
    (folder / "items_human_ins.json").write_text("[]")
    with pytest.raises(DataError, match="expected one JSON object from asin"):
        load_official(folder)
    (folder / "items_ins_v2.json").write_text("{")
    with pytest.raises(DataError, match=r"items_ins_v2\.json: not readable as JSON"):
        load_official(folder)
    (folder / "items_shuffle.json").write_bytes(b'["\xff\xfe"]')
    (folder / "items_ins_v2.json").write_text("{}")
    (folder / "items_human_ins.json").unlink()
    with pytest.raises(DataError, match="not UTF-8"):
        load_official(folder)
    (folder / "items_ins_v2.json").unlink()
    with pytest.raises(DataError, match=r"items_ins_v2\.json is missing"):
        load_official(folder)


def test_without_human_instructions_only_synthetic_goals_can_be_made(folder):
    (folder / "items_human_ins.json").unlink()
    made = gym.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", human_goals=False, split="all")
    assert made.unwrapped.task_ids
    with pytest.raises(ValueError, match=r"items_human_ins\.json"):
        gym.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", split="all")


def test_the_search_index_of_a_cut_catalog_knows_products_that_the_shop_does_not(folder):
    entries = [entry for entry, _, _ in generated_entries(60)]
    entries[3]["asin"] = "nan"
    (folder / "items_shuffle.json").write_text(json.dumps(entries))
    catalog = load_official(folder, num_products=10)
    assert len(catalog.products) == 9
    assert len(catalog.document_asins) == 10
    assert (catalog.row_of_document == -1).sum() == 1


def test_a_store_is_the_same_catalog_as_the_one_in_memory(folder, monkeypatch):
    memory, store = load_official(folder), stored(folder, monkeypatch)
    assert list(store.products) == memory.products
    assert [store.products[row] for row in range(60)] == memory.products
    assert dict(store.row_of) == memory.row_of
    assert list(store.instructed) == memory.instructed
    for query in ("table", QUERY, "rust free garden hose", "zzz"):
        assert store.search(query) == memory.search(query)
        assert np.array_equal(store.index.search_scored(query)[1], memory.index.search_scored(query)[1])
    assert store.with_query("garden hose") == memory.with_query("garden hose")
    assert store.in_category("kitchen") == memory.in_category("kitchen") != []
    assert World(store, True, 5).goals == World(memory, True, 5).goals
    assert World(store, False, 5).prices == World(memory, False, 5).prices
    for asin in ("nan", "", "B", "longer than ten characters"):
        assert asin not in store.row_of


def test_postings_spilled_in_many_pieces_come_together(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("hero_envs.webshop.store_writer._SPILL_EVERY", 100)
    store = stored(folder, monkeypatch, store_dir=tmp_path / "elsewhere" / "deep")
    monkeypatch.setattr(official, "STORE_ABOVE_BYTES", 1 << 40)
    memory = load_official(folder)
    assert store.search(QUERY) == memory.search(QUERY) != []
    made = sorted(path.name for path in (tmp_path / "elsewhere" / "deep").iterdir())
    assert made == ["items_shuffle.store", "items_shuffle.store.lock"]


def test_bug_882_a_lock_that_another_process_never_gives_back_is_not_waited_for_without_an_end(folder, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="needs file locks")
    monkeypatch.setattr("hero_envs.webshop.store.LONGEST_WAIT_S", 0)
    lock = folder / "items_shuffle.store.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another process has held .*store\.lock for 0 s.*store_dir"):
            stored(folder, monkeypatch)
    assert len(stored(folder, monkeypatch).products) == 60


def test_a_store_is_reused_until_its_inputs_change(folder, monkeypatch):
    stored(folder, monkeypatch)
    made = (folder / "items_shuffle.store" / "store.json").stat().st_mtime_ns
    os.utime(folder / "items_shuffle.json", (1, 1))  # another time, the same content
    stored(folder, monkeypatch)
    assert (folder / "items_shuffle.store" / "store.json").stat().st_mtime_ns == made
    write_official(folder, 61)
    assert len(stored(folder, monkeypatch).products) == 61


def test_rows_survive_any_text(make_product):
    product = make_product(name='"\\ \ud800 é\x00<|im_end|>', pricing="$1.00 - $2.00")
    assert decode_row(encode_row(product)) == product


def search_in_child(folder):
    official.STORE_ABOVE_BYTES = 0
    return load_official(folder).search(QUERY)


def test_processes_that_start_together_all_get_the_same_store(folder):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(search_in_child, [folder] * 3))
    assert results[0] == results[1] == results[2] == load_official(folder).search(QUERY)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["items_shuffle.store"]


def test_processes_that_find_a_stale_store_make_it_anew_together(folder, monkeypatch):
    stored(folder, monkeypatch)
    write_official(folder, 61)
    monkeypatch.setattr(official, "STORE_ABOVE_BYTES", 1 << 40)
    expected = load_official(folder).search(QUERY)
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(search_in_child, [folder] * 4)) == [expected] * 4


def test_goal_texts_are_compared_in_the_published_form(folder):
    goals = World(load_official(folder), True, 0).goals
    assert goal_text("I Want \"A\" 'b', and price lower than 20.00 dollars") == "i want a b"
    published = folder / "human_goals.json"
    texts = [goal_text(goal.instruction_text) for goal in goals]
    published.write_text(json.dumps(texts))
    assert differing_goals(goals, published) == []
    texts[4] = "something else"
    published.write_text(json.dumps(texts))
    assert differing_goals(goals, published) == [4]
    with pytest.warns(UserWarning, match=r"differ from .* at 1 positions \(first: 4\)"):
        gym.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", price_seed=77)
    published.write_text("{}")
    with pytest.raises(DataError, match="expected a JSON list of strings"):
        differing_goals(goals, published)


def test_a_noun_table_of_the_catalog_replaces_its_extractor(folder):
    titles = [product.title for product in load_official(folder).products]
    rules = get_nouns("rules")
    (folder / "nouns.json").write_text(json.dumps(noun_table(titles, rules)))
    table = get_nouns(str(folder / "nouns.json"))
    assert [table.of(title) for title in titles] == [rules.of(title) for title in titles]
    env = gym.make(
        "hero_pl/WebShop-v0",
        data_dir=folder,
        nouns=str(folder / "nouns.json"),
        split="all",
        max_steps=1,
    )
    env.reset(seed=0)
    assert env.step("search[tea]")[4]["nouns"] == "table:nouns.json"


def test_the_official_data_needs_the_nouns_of_the_benchmark_or_an_explicit_setting(folder):
    if any(importlib.util.find_spec(name) is None for name in ("spacy", "en_core_web_sm")):
        with pytest.raises(ImportError, match=r'pip install "hero_pl\[spacy\]".* nouns="rules"'):
            gym.make("hero_pl/WebShop-v0", data_dir=folder, split="all")
    else:
        env = gym.make("hero_pl/WebShop-v0", data_dir=folder, split="all").unwrapped
        assert env._nouns.name == "spacy:en_core_web_sm"
    chosen = gym.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", split="all", max_steps=1)
    chosen.reset(seed=0)
    assert chosen.step("search[tea]")[4]["nouns"] == "rules"


@pytest.mark.parametrize("observation", ["text", "compact"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_option_is_chosen_in_either_unicode_form_and_keeps_the_spelling_of_the_page(folder, observation, form):
    path = folder / "items_shuffle.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    name = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "Caf\u00e9 Cr\u00e8me")
    asin = entries[0]["asin"]
    entries[0]["customization_options"] = {"flavor": [{"value": name, "is_selected": False, "image": None}]}
    path.write_text(json.dumps(entries), encoding="utf-8")
    env = gym.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", split="all", observation=observation)
    written = unicodedata.normalize(form, "Caf\u00e9 Cr\u00e8me")
    for action in (f"click[{written}]", json.dumps({"name": "click", "arguments": {"element": written}})):
        env.reset(options={"goal": 0})
        env.unwrapped._shop.session.asin = asin
        env.unwrapped._shop._open_item()
        info = env.step(action)[4]
        assert (info["legal"], info["changed"]) == (True, True)
        assert env.unwrapped._shop.session.options == {"flavor": name.lower()}

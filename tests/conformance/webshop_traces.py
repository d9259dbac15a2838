"""Replay a folder of WebShop recordings and count what agrees.

    python tests/conformance/webshop_traces.py DIR [--search native|recorded] [--max-failures 20]

DIR holds ``items_shuffle*.json``, ``items_ins_v2*.json``, ``items_human_ins.json``, the noun rule ``fn1.json`` and
``traces/`` with recordings of the original engine, in any part: files that are not there are not checked. The last
line is ``N passed, M failed``, the exit status 1 when something failed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hero_envs.webshop.analyzer import terms
from hero_envs.webshop.catalog import Catalog, World
from hero_envs.webshop.colors import normalize_color
from hero_envs.webshop.fuzzy import token_set_ratio
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.official import load_official
from hero_envs.webshop.pages import render_text_rich
from hero_envs.webshop.products import Product
from hero_envs.webshop.reward import attributes_met, options_met, purchase_reward
from hero_envs.webshop.shop import Shop

FILTERS: dict[str, Callable[[int, Goal], bool]] = {
    "even_two_attrs": lambda i, goal: i % 2 == 0 and len(goal.attributes) >= 2,
}


SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "webshop"


class Report:
    """Counts checks per kind and shows the first failures."""

    def __init__(self, max_failures: int) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.max_failures = max_failures

    def check(self, kind: str, where: object, got: object, expected: object) -> bool:
        same = got == expected
        (self.passed if same else self.failed)[kind] += 1
        if not same and self.failed.total() <= self.max_failures:
            print(f"FAILED {kind} at {where}\n  got      {str(got)[:600]}\n  expected {str(expected)[:600]}")
        return same

    def finish(self) -> int:
        for kind in sorted({*self.passed, *self.failed}):
            print(f"{kind}: {self.passed[kind]} passed, {self.failed[kind]} failed")
        print(f"{self.passed.total()} passed, {self.failed.total()} failed")
        return 1 if self.failed else 0


def records(directory: Path, name: str) -> Iterator[dict[str, Any]]:
    """Lines of one trace file; none when the file is not there."""
    for path in (directory / "traces" / f"{name}.jsonl.gz", directory / f"{name}.jsonl.gz"):
        if path.exists():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from map(json.loads, lines)
            return


def fixture_nouns(directory: Path) -> Nouns:
    """The noun rule of the recordings."""
    places = [directory / "fn1.json", directory.parent / "fn1.json", SHARED / "fn1.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SystemExit(f"No noun rule: expected fn1.json in {directory}, the folder above, or {SHARED}.")
    rule = json.loads(path.read_text(encoding="utf-8"))
    pattern, drop = re.compile(rule["pattern"]), set(rule["drop"])

    def nouns(title: str) -> list[str]:
        words = [word.lower() for word in pattern.findall(title)]
        return [word for word in words if len(word) >= rule["min_length"] and word not in drop]

    return Nouns(nouns, "fixture")


def plain(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    return json.loads(json.dumps(value))


class RecordedSearch:
    """Replaces the search index: returns the recorded hits."""

    def __init__(self, catalog: Catalog, hits: dict[str, list[str]]) -> None:
        self.row_of, self.hits = catalog.row_of, hits

    def search(self, query: str) -> list[int]:
        return [self.row_of[asin] for asin in self.hits[query] if asin in self.row_of]


def check_units(directory: Path, report: Report) -> None:
    for units in records(directory, "units"):
        for a, b, ratio in units["token_set_ratio"]:
            report.check("token_set_ratio", (a, b), token_set_ratio(a, b), ratio)
        for pair, bought, ratio in units["token_set_ratio_tuple"]:
            report.check("token_set_ratio of pairs", pair, token_set_ratio(str(tuple(pair)), bought), ratio)
        for value, color in units["normalize_color"]:
            report.check("normalize_color", value, normalize_color(value), color)
        for bought, wanted, share, count in units["option_reward"]:
            met = options_met(bought, wanted)
            report.check(
                "option reward", (bought, wanted), (met / len(wanted) if wanted else None, met), (share, count)
            )
        for fields, wanted, share, count in units["attribute_reward"]:
            met = attributes_met(unit_product(fields), wanted)
            report.check("attribute reward", (fields, wanted), (met / len(wanted), met), (share, count))


def unit_product(fields: dict[str, Any]) -> Product:
    texts = {"title": fields["Title"], "description": fields["Description"], "bullets": tuple(fields["BulletPoints"])}
    rest = {
        "asin": "",
        "options": {},
        "query": "",
        "category": "",
        "product_category": "",
        "pricing": (),
        "price_tag": "",
    }
    return Product(attributes=tuple(fields["Attributes"]), **texts, **rest)


def check_setup(setup: dict[str, Any], world: World, shop: Shop, report: Report) -> None:
    name, products = setup["setup"], world.catalog.products
    report.check("products", name, len(products), setup["n_products"])
    for row, recorded in enumerate(setup["products"]):
        asin, tag, price, pricing, options, attributes, query, bullets = recorded
        product = products[row]
        got = (product.asin, product.price_tag, world.prices[row], product.pricing, product.options)
        report.check("prices", (name, asin), plain(got), plain((asin, tag, price, pricing, options)))
        got_texts = (product.attributes, product.query, list(product.options), bullets and product.bullets)
        report.check("product texts", (name, asin), plain(got_texts), [attributes, query, list(options), bullets])
    report.check("goals", (name, "number"), len(world.goals), setup["n_goals"])
    whole = not setup["goals"] or isinstance(setup["goals"][0], dict)
    for index, goal in enumerate(setup["goals"]) if whole else setup["goals"]:
        report.check("goals", (name, index), plain(asdict(world.goals[index])), goal)
    for position, (session, index) in enumerate(setup["auto_resets"]):
        if position:
            shop.reset()
        got_session = (shop.session.id, shop.session.goal_index)
        report.check("automatic resets", (name, position), got_session, (session, index))


def check_episodes(directory: Path, setup: str, shop: Shop, report: Report) -> None:
    for number, episode in enumerate(records(directory, f"episodes_{setup}")):
        for position, step in enumerate(episode["steps"]):
            where = (setup, number, episode["kind"], position, step["a"])
            if step["a"] is None:
                state, reward, done = shop.reset(episode["session"]), 0.0, False
            else:
                state, reward, done = shop.step(step["a"])
            page = shop.page
            got = (state, render_text_rich(page), page.has_search_bar, list(page.clickables), reward, done)
            if not report.check("steps", where, got, tuple(step[key] for key in "trbcwd")):
                break


def check_search(directory: Path, catalogs: dict[str, Catalog], report: Report) -> None:
    overlap = total = ordered = queries = 0
    for record in records(directory, "search"):
        if (name := record["index"]) not in catalogs:
            catalogs[name] = load_official(directory, num_products=None if name == "all" else int(name))
        catalog = catalogs[name]
        documents, scores = catalog.index.search_scored(record["q"])
        got = [catalog.document_asins[document] for document in documents]
        expected = record["ids"]
        overlap += len({*got[:10]} & {*expected[:10]})
        total += len(expected[:10])
        ordered += got == expected
        queries += 1
        report.check("search, ordered top 50", (record["index"], record["q"]), got, expected)
        if expected:
            # the recorded scores are rounded to four decimals
            close = abs(float(scores[0]) - record["top_score"]) <= 6e-5
            report.check("search, top score", (record["q"], float(scores[0]), record["top_score"]), close, True)
    if queries:
        shares = f"top-10 overlap {overlap / max(total, 1):.4f}, same order {ordered / queries:.4f}"
        print(f"search: {queries} queries, {shares}")


def check_rewards(directory: Path, worlds: dict[str, World], nouns: Nouns, report: Report) -> None:
    for record in records(directory, "rewards"):
        world = worlds[record["setup"]]
        product = world.catalog.products[world.catalog.row_of[record["asin"]]]
        goal = world.goals[record["goal"]]
        got = purchase_reward(product, goal, record["price"], record["options"], nouns)
        report.check("rewards", record["asin"], got, (record["reward"], record["info"]))


def run(directory: Path, search: str = "native", max_failures: int = 20) -> int:
    """Check a folder of recordings.

    Returns:
        Exit status.
    """
    report = Report(max_failures)
    nouns = fixture_nouns(directory)
    hits: dict[str, dict[str, list[str]]] = {}
    for record in records(directory, "search"):
        hits.setdefault(record["index"], {})[record["q"]] = record["ids"]
    worlds: dict[str, World] = {}
    indexes: dict[str, Catalog] = {}
    catalogs: dict[int | None, Catalog] = {}
    for setup in records(directory, "setups"):
        name, options = setup["setup"], setup["kwargs"]
        count = options.get("num_products")
        if count not in catalogs:
            catalogs[count] = load_official(directory, num_products=count)
            indexes["all" if count is None else str(count)] = catalogs[count]
        world = World(
            catalogs[count],
            human=bool(options.get("human_goals")),
            price_seed=setup["price_seed"],
            limit_goals=options.get("limit_goals", -1),
            filter_goals=FILTERS[options["filter_goals"]] if options.get("filter_goals") else None,
        )
        shop = Shop(
            world,
            nouns,
            show_attributes=options.get("show_attrs", False),
            num_prev_obs=options.get("num_prev_obs", 0),
            num_prev_actions=options.get("num_prev_actions", 0),
            session_prefix=options.get("session_prefix") or "",
        )
        worlds[name] = world
        check_setup(setup, world, shop, report)
        if search == "recorded":
            recorded = RecordedSearch(world.catalog, hits["all" if count is None else str(count)])
            shop.search = recorded.search
        check_episodes(directory, name, shop, report)
    if search == "native":
        check_search(directory, indexes, report)
    check_rewards(directory, worlds, nouns, report)
    for record in records(directory, "analysis"):
        report.check("analyzer", record["text"], terms(record["text"]), record["tokens"])
    check_units(directory, report)
    return report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--search", choices=("native", "recorded"), default="native")
    parser.add_argument("--max-failures", type=int, default=20, help="failures printed in full")
    arguments = parser.parse_args()
    sys.exit(run(arguments.directory, arguments.search, arguments.max_failures))

"""A generated catalog in the official schema: deterministic, of any size, in three difficulties.

    python -m hero_envs.webshop.generated --products 1000 --difficulty medium --seed 0 --out DIR

writes it as ``items_shuffle.json``, ``items_ins_v2.json`` and ``items_human_ins.json``. Each product depends only on
the seed and its number, so a larger catalog begins with the products of a smaller one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hero_envs.webshop.products import Product, clean_product
from hero_envs.webshop.vocabulary import (
    BRANDS,
    BULLETS,
    DEPARTMENTS,
    DESCRIPTIONS,
    OPTION_VALUES,
    QUALIFIERS,
    REQUESTS,
    USES,
    Department,
)

DEFAULT_PRODUCTS = 1000
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASINS = 36**9
_ASIN_STEP = 48_271_936_273_921
"""Odd and not a multiple of 3, so that asins repeat only after 36^9 products."""


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How much products vary and how many of their properties a goal names; pairs are (minimum, maximum)."""

    attributes: tuple[int, int]
    """Number of attributes of a product."""
    wanted: tuple[int, int]
    """Number of attributes that a goal names."""
    groups: tuple[int, int]
    values: tuple[int, int]
    """Number of values per option group."""
    price_ranges: float
    """Fraction of products with a price range."""
    requests: int
    """Number of different phrasings of requests."""


DIFFICULTIES = {
    "easy": Difficulty((2, 2), (1, 1), (0, 1), (2, 3), 0.0, 1),
    "medium": Difficulty((2, 4), (1, 2), (1, 2), (3, 5), 0.25, 4),
    "hard": Difficulty((3, 5), (2, 3), (2, 3), (4, 8), 0.5, len(REQUESTS)),
}

Entry = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]
"""Product, its row of items_ins_v2 and its rows of items_human_ins."""


def generated_products(products: int, difficulty: str = "medium", seed: int = 0) -> Iterator[Product]:
    """Cleaned products of a generated catalog.

    Raises:
        ValueError: The size is not positive, or the difficulty is unknown.
    """
    for number, (entry, instruction, human) in enumerate(generated_entries(products, difficulty, seed)):
        yield clean_product(entry, instruction, human, number)


def generated_entries(products: int, difficulty: str = "medium", seed: int = 0) -> Iterator[Entry]:
    """Raw entries of a generated catalog.

    Raises:
        ValueError: The size is not positive, or the difficulty is unknown.
    """
    if products < 1:
        raise ValueError(f"products={products}: expected at least 1.")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty={difficulty!r}: expected one of {', '.join(DIFFICULTIES)}.")
    return (_entry(number, seed, DIFFICULTIES[difficulty]) for number in range(products))


def write_official(directory: Path, products: int, difficulty: str = "medium", seed: int = 0) -> None:
    """Write a generated catalog as official files, one product at a time."""
    directory.mkdir(parents=True, exist_ok=True)
    names = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")
    with (
        (directory / names[0]).open("w", encoding="utf-8") as items,
        (directory / names[1]).open("w", encoding="utf-8") as instructions,
        (directory / names[2]).open("w", encoding="utf-8") as human,
    ):
        separator = "[\n", "{\n"
        for entry, instruction, rows in generated_entries(products, difficulty, seed):
            key = json.dumps(entry["asin"])
            items.write(separator[0] + json.dumps(entry, ensure_ascii=False))
            instructions.write(f"{separator[1]}{key}: {json.dumps(instruction, ensure_ascii=False)}")
            human.write(f"{separator[1]}{key}: {json.dumps(rows, ensure_ascii=False)}")
            separator = ",\n", ",\n"
        items.write("\n]\n")
        instructions.write("\n}\n")
        human.write("\n}\n")


def _entry(number: int, seed: int, level: Difficulty) -> Entry:
    rng = Random(f"generated {seed} {number}")
    department = rng.choice(DEPARTMENTS)
    thing, material, brand = rng.choice(department.things), rng.choice(department.materials), rng.choice(BRANDS)
    attributes = rng.sample(department.attributes, rng.randint(*level.attributes))
    options = _options(department, level, rng)
    use = rng.choice(USES)
    words = {
        "thing": thing,
        "material": material,
        "brand": brand,
        "use": use.lower(),
        "attribute": attributes[0],
        "other": attributes[-1],
        "Attribute": attributes[-1].capitalize(),
    }
    title = f"{brand} {rng.choice(QUALIFIERS)} {material.title()} {thing.title()}, {attributes[0].title()} for {use}"
    asin = _asin(number, seed)
    entry = {
        "asin": asin,
        "name": title,
        "full_description": " ".join(text.format(**words) for text in rng.sample(DESCRIPTIONS, 3)),
        "small_description": [text.format(**words) for text in rng.sample(BULLETS, rng.randint(2, 4))],
        "pricing": _pricing(level, rng),
        "images": [],
        "product_category": f"{department.path} › {thing.title()}",
        "query": thing,
        "category": department.name,
        "customization_options": {
            name.title(): [{"value": value, "image": None} for value in values] for name, values in options.items()
        },
    }
    instruction = {
        "attributes": attributes,
        "instruction": f"Find me {attributes[0]} {thing}",
        "instruction_attributes": attributes[:1],
    }
    return entry, instruction, [_request(words, attributes, options, level, rng) | {"asin": asin}]


def _options(department: Department, level: Difficulty, rng: Random) -> dict[str, list[str]]:
    count = rng.randint(*level.groups)
    options = {}
    for name in department.groups[:count]:
        values = OPTION_VALUES[name]
        options[name] = rng.sample(values, min(rng.randint(*level.values), len(values)))
    return options


def _request(
    words: dict[str, str], attributes: list[str], options: dict[str, list[str]], level: Difficulty, rng: Random
) -> dict[str, Any]:
    """One instruction row, phrased like a person: some of the attributes, one value of every option."""
    wanted = rng.sample(attributes, min(rng.randint(*level.wanted), len(attributes)))
    chosen = [rng.choice(values) for values in options.values()]
    named = "".join(rng.choice((f", in {value}", f", {value}", f" with {value}")) for value in chosen)
    text = REQUESTS[rng.randrange(level.requests)].format(**words, attributes=" and ".join(wanted), options=named)
    return {
        "instruction": text,
        "attributes": attributes,
        "options": [f"{name}: {value}" for name, value in zip(options, chosen, strict=True)],
        "instruction_attributes": wanted,
        "instruction_options": chosen,
        "assignment_id": "",
        "worker_id": "",
    }


def _pricing(level: Difficulty, rng: Random) -> str:
    low = rng.choice((rng.uniform(4, 40), rng.uniform(20, 200), rng.uniform(100, 900)))
    if rng.random() < level.price_ranges:
        return f"${low:,.2f} - ${low * rng.uniform(1.05, 1.8):,.2f}"
    return f"${low:,.2f}"


def _asin(number: int, seed: int) -> str:
    """Ten characters, unique per number for one seed."""
    code = (number * _ASIN_STEP + seed * 7_919) % _ASINS
    digits = ""
    for _ in range(9):
        code, digit = divmod(code, 36)
        digits = _DIGITS[digit] + digits
    return f"G{digits}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=DEFAULT_PRODUCTS)
    parser.add_argument("--difficulty", choices=tuple(DIFFICULTIES), default="medium")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_official(arguments.out, arguments.products, arguments.difficulty, arguments.seed)


if __name__ == "__main__":
    main()

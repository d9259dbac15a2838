"""Products of the shop: cleaning raw entries and parsing their prices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_PRICE = 100.0
"""Price of a product without a price, in dollars."""
NO_ATTRIBUTES = ("DUMMY_ATTR",)
MAX_ASIN_LENGTH = 10
_NOT_A_NUMBER = re.compile(r"[^\d.]")


class DataError(ValueError):
    """A data file cannot be used; the message names the entry, what was expected, and what to do."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product after cleaning."""

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    """Option name (lower case) -> values (lower case), in page order."""
    attributes: tuple[str, ...]
    query: str
    category: str
    product_category: str
    pricing: tuple[float, ...]
    """One price, or the two ends of a range, in dollars."""
    price_tag: str
    instruction: str | None = None
    """Text of the synthetic goals, or ``None``."""
    instruction_attributes: tuple[str, ...] = ()
    instructions: tuple[dict[str, Any], ...] = ()
    """Human instruction rows."""


def clean_products(
    entries: Iterable[Mapping[str, Any]],
    instructions: Mapping[str, Mapping[str, Any]],
    human: Mapping[str, Sequence[Mapping[str, Any]]],
    num_products: int | None = None,
) -> Iterator[Product]:
    """Products from raw entries; invalid and repeated asins are left out.

    Args:
        entries: Raw product objects in file order.
        instructions: ``items_ins_v2``: asin -> attributes and the synthetic instruction.
        human: ``items_human_ins``: asin -> instruction rows.
        num_products: Use only this many **raw** entries.

    Raises:
        DataError: An entry is not in the official schema.
    """
    seen: set[str] = set()
    for position, entry in enumerate(entries):
        if num_products is not None and position >= num_products:
            return
        if not isinstance(entry, Mapping) or not isinstance(entry.get("asin"), str):
            raise DataError(
                f"Product entry {position}: expected an object with a text field 'asin', got {json.dumps(entry)[:80]}. "
                "Check that this is an official items_shuffle file."
            )
        asin = entry["asin"]
        if asin == "nan" or len(asin) > MAX_ASIN_LENGTH or asin in seen:
            continue
        seen.add(asin)
        yield clean_product(entry, instructions.get(asin, {}), human.get(asin, ()), position)


def clean_product(
    entry: Mapping[str, Any],
    instruction: Mapping[str, Any],
    human: Sequence[Mapping[str, Any]],
    position: int = 0,
) -> Product:
    """One product from its raw entry; ``position`` is only for error messages.

    Raises:
        DataError: A field is missing or has another type than the official one.
    """
    try:
        bullets = entry["small_description"]
        pricing, tag = parse_price(entry.get("pricing"))
        return Product(
            asin=entry["asin"],
            title=_text(entry, "name"),
            description=_text(entry, "full_description"),
            bullets=tuple("" if b is None else str(b) for b in (bullets if isinstance(bullets, list) else [bullets])),
            options=_options(entry.get("customization_options") or {}),
            attributes=tuple(instruction["attributes"]) if "attributes" in instruction else NO_ATTRIBUTES,
            query=_text(entry, "query").lower().strip(),
            category=_text(entry, "category"),
            product_category=_text(entry, "product_category"),
            pricing=pricing,
            price_tag=tag,
            instruction=instruction.get("instruction"),
            instruction_attributes=tuple(instruction.get("instruction_attributes") or ()),
            instructions=tuple(_human_row(row) for row in human),
        )
    except KeyError as error:
        raise DataError(
            f"Product entry {position} (asin {entry['asin']}): the field {error} is missing. "
            "Expected the official WebShop schema. Download the file again, or remove this entry."
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"Product entry {position} (asin {entry['asin']}): {error}") from error


def parse_price(pricing: str | None) -> tuple[tuple[float, ...], str]:
    """Price values in dollars, and the price tag shown on pages.

    Raises:
        ValueError: The text has no ``$`` with a number after it.

    Example:
        >>> parse_price("$1,049.00"), parse_price("$5.00 - $7.50"), parse_price(None)
        (((1049.0,), '$1049.0'), ((5.0, 7.5), '$5.0 to $7.5'), ((100.0,), '$100.0'))
    """
    if not pricing:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    try:
        values = tuple(float(_NOT_A_NUMBER.sub("", part)) for part in pricing.split("$")[1:])
        first = values[0]
    except (AttributeError, IndexError, ValueError):
        raise ValueError(
            f"the price {pricing!r} cannot be read. Expected '$12.00', '$5.00 - $7.50' or null; "
            "correct the entry's 'pricing'."
        ) from None
    if len(values) == 1:
        return values, f"${first}"
    return values[:2], f"${first} to ${values[1]}"


def index_text(product: Product) -> str:
    """Text of a product for the search index: title, description, first bullet and options, in lower case."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return f"{product.title} {product.description} {first_bullet} {options}".lower()


def _text(entry: Mapping[str, Any], field: str) -> str:
    value = entry[field]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"the field {field!r} is {json.dumps(value)[:60]}; expected a text.")
    return value


def _options(raw: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Options with lower-case names; a later group replaces one of the same name; ``/`` in values becomes `` | ``."""
    return {
        name.lower(): tuple(choice["value"].strip().replace("/", " | ").lower() for choice in choices)
        for name, choices in raw.items()
        if choices is not None
    }


def _human_row(row: Mapping[str, Any]) -> dict[str, Any]:
    wanted = row["instruction_options"]
    if not isinstance(row["instruction"], str) or not isinstance(wanted, list | dict):
        raise TypeError("an instruction row needs 'instruction' (text) and 'instruction_options' (list or object).")
    return {
        "instruction": row["instruction"],
        "instruction_attributes": list(row["instruction_attributes"] or ()),
        "instruction_options": wanted,
    }

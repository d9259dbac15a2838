"""Find, read and check the official data files, one entry at a time."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from hero_envs.webshop.catalog import Catalog, catalog_in_memory
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.products import DataError, clean_products
from hero_envs.webshop.store import Inputs, file_sha256, open_store, recorded_hashes

STORE_ABOVE_BYTES = 64 << 20
"""Product files larger than this are converted once to an on-disk store."""
_CHUNK = 1 << 20
_LARGEST_ENTRY = 1 << 27
"""Size in characters from which an entry that cannot be parsed counts as malformed, not as incomplete."""
_PRICE_CLAUSE = re.compile(r",? and price lower than.*$", re.DOTALL)
_QUOTES = str.maketrans("", "", "'\"`")


def load_official(
    directory: str | Path, num_products: int | None = None, store_dir: str | Path | None = None
) -> Catalog:
    """Load the catalog from a folder of official files.

    Args:
        directory: Folder with ``items_shuffle.json`` (or ``items_shuffle_1000.json``), the ``items_ins_v2`` file of the
            same size and, for human goals, ``items_human_ins.json``.
        num_products: Load only the first raw entries. As in the original, the search index then has the first
            *cleaned* entries of the whole file, so it contains a few products that the shop does not have.
        store_dir: Folder for the on-disk store of a large file; default: next to the data.

    Raises:
        DataError: A file is missing, is not JSON, or is not in the official schema.
    """
    inputs = find_files(Path(directory))
    if num_products is not None and num_products < 1:
        raise DataError(f"num_products={num_products}: expected at least 1, or None for the whole file.")
    if num_products is None and inputs.products.stat().st_size > STORE_ABOVE_BYTES:
        return open_store(inputs, _store(inputs, store_dir), lambda: _products(inputs))
    products = _products(inputs, num_products)
    indexed = None if num_products is None else islice(_products(inputs), num_products)
    return catalog_in_memory("official", products, indexed)


def find_files(directory: Path) -> Inputs:
    """Find the files of a data folder; human instructions may be missing.

    Raises:
        DataError: The product file or its instructions are missing.
    """
    for suffix in ("", "_1000"):
        products, instructions = (directory / f"{stem}{suffix}.json" for stem in ("items_shuffle", "items_ins_v2"))
        if products.is_file():
            if not instructions.is_file():
                raise DataError(
                    f"{instructions} is missing: {products.name} needs the instruction file of the same size."
                )
            human = directory / "items_human_ins.json"
            return Inputs(products, instructions, human if human.is_file() else None)
    raise DataError(
        f"{directory} has no items_shuffle.json or items_shuffle_1000.json. Expected a folder with the official "
        'WebShop files (see the WebShop repository for the download), or use catalog="generated".'
    )


OFFICIAL = {
    "items_shuffle.json": (5_479_720_229, "2ef591d65df3af89e972ab72468eb82cbf124d876552d9f3678667edd620a6c8"),
    "items_ins_v2.json": (186_295_270, "1d36af476bdb8f82a5da62bd8acdabe54cd8de2fa84010d37da5c4890feb447e"),
    "items_shuffle_1000.json": (4_467_013, "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269"),
    "items_ins_v2_1000.json": (147_099, "f88a36314a397b53b3d9c3fa5878e5f7b26d35019a51ec83fbedeca61a948f6f"),
    "items_human_ins.json": (5_137_548, "cf78667548a71786e1d9049c24b802e48e1084ad4bb021cae56ce1f6d96954a3"),
}
"""Size in bytes and SHA-256 of the files that the authors of WebShop publish."""


def check_official(directory: str | Path, store_dir: str | Path | None = None) -> None:
    """Compare the data files with the published ones. What a store was built from is not hashed again.

    A file of the published size with other content is damaged and refused. Files of another size are another catalog:
    they are accepted with a warning that names them.

    Args:
        directory: Folder of the files.
        store_dir: As in :func:`load_official`.

    Raises:
        DataError: Files are missing or damaged; all of them are named.
    """
    inputs = find_files(Path(directory))
    known = recorded_hashes(_store(inputs, store_dir), inputs)
    damaged, other = [], []
    for path in inputs.paths():
        size, expected = OFFICIAL[path.name]
        if path.stat().st_size != size:
            other.append(f"{path.name} has {path.stat().st_size} bytes, the published file {size}")
        elif (got := known.get(path.name) or file_sha256(path)) != expected:
            damaged.append(f"{path.name}: its SHA-256 is {got}, that of the published file {expected}")
    if damaged:
        raise DataError(f"Files in {directory} are damaged, download them again:\n  " + "\n  ".join(damaged))
    if other:
        warnings.warn(
            f"{directory} does not hold the published WebShop files, so its scores cannot be compared:\n  "
            + "\n  ".join(other),
            stacklevel=2,
        )


def iterate_json_list(path: Path) -> Iterator[Any]:
    """Yield the items of a JSON list one by one, without loading the whole file.

    Raises:
        DataError: The file is not a JSON list; the message says where.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        buffer, position, number, ended = "", 0, 0, False

        def fill() -> bool:
            nonlocal buffer, position, ended
            if not (more := _read(file, path)):
                ended = True
                return False
            buffer, position = buffer[position:] + more, 0
            return True

        def skip(separators: str) -> str:
            """Skip spaces and separators; return the next character, or an empty string at the end."""
            nonlocal position
            while True:
                while position < len(buffer) and buffer[position] in separators:
                    position += 1
                if position < len(buffer) or not fill():
                    return buffer[position : position + 1]

        if skip(" \t\n\r\ufeff") != "[":
            raise DataError(f"{path}: expected a JSON list of entries. Download the file again.")
        position += 1
        while (first := skip(" \t\n\r,")) != "]":
            if not first:
                raise DataError(f"{path}: the file ends inside the list after {number} entries. Download it again.")
            while True:
                whole = ended
                try:
                    item, end = decoder.raw_decode(buffer, position)
                    if end < len(buffer) or not fill():  # a number may continue after the end of the buffer
                        break
                except (ValueError, RecursionError) as error:
                    # incomplete or malformed: read more, in growing steps, and raise if that does not help
                    size = 2 * max(len(buffer) - position, _CHUNK)
                    if whole or size > _LARGEST_ENTRY:
                        raise DataError(
                            f"{path}: entry {number} is not valid JSON ({error}). Download it again."
                        ) from error
                    while len(buffer) - position < size and fill():
                        pass
            position = end
            yield item
            number += 1
            if len(buffer) - position < _CHUNK and not ended:
                fill()


def goal_text(instruction: str) -> str:
    """An instruction in the form of ``human_goals.json``: lower case, without quotes and price clause."""
    return _PRICE_CLAUSE.sub("", instruction.lower().translate(_QUOTES)).strip()


def differing_goals(goals: Sequence[Goal], human_goals_file: Path) -> list[int]:
    """Positions where the goals differ from ``human_goals.json``; empty for the full official data.

    Raises:
        DataError: The file is not a list of strings.
    """
    texts = _load(human_goals_file)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{human_goals_file}: expected a JSON list of strings. Download the file again.")
    made = [goal_text(goal.instruction_text).strip(" .") for goal in goals]
    known = [text.strip(" .") for text in texts]
    length = max(len(made), len(known))
    made += [""] * (length - len(made))
    known += [""] * (length - len(known))
    return [i for i, (mine, theirs) in enumerate(zip(made, known, strict=True)) if mine != theirs]


def _store(inputs: Inputs, store_dir: str | Path | None) -> Path:
    root = Path(store_dir) if store_dir is not None else inputs.products.parent
    return root / f"{inputs.products.stem}.store"


def _products(inputs: Inputs, num_products: int | None = None) -> Iterator[Any]:
    human = _load(inputs.human) if inputs.human is not None else {}
    instructions = _load(inputs.instructions)
    for path, value in ((inputs.instructions, instructions), (inputs.human, human)):
        if not isinstance(value, dict):
            raise DataError(f"{path}: expected one JSON object from asin to instructions. Download the file again.")
    try:
        yield from clean_products(iterate_json_list(inputs.products), instructions, human, num_products)
    except DataError as error:
        if str(inputs.products.parent) in str(error):
            raise
        files = ", ".join(path.name for path in inputs.paths())
        raise DataError(f"{inputs.products.parent} ({files}): {error}") from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}). Download the file again.") from error


def _read(file: Any, path: Path) -> str:
    try:
        return str(file.read(_CHUNK))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}). Download the file again.") from error

"""A large catalog on disk: converted once, opened in seconds, its memory shared by all processes.

A store is a folder of memory-mapped arrays, rows that are decoded on access, and ``store.json`` with the hashes of the
source files. It is built in a temporary folder and then renamed, so that no process sees an incomplete store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hero_envs.webshop.catalog import Catalog
from hero_envs.webshop.products import MAX_ASIN_LENGTH, DataError, Product
from hero_envs.webshop.search import Postings, SearchIndex
from hero_envs.webshop.store_writer import STORE_VERSION, text_hash, write_store

LONGEST_WAIT_S = 3600
"""Longest time to wait for another process that builds the same store; all official files take minutes."""
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Inputs:
    """The official files."""

    products: Path
    instructions: Path
    human: Path | None

    def paths(self) -> list[Path]:
        """The files that exist."""
        return [path for path in (self.products, self.instructions, self.human) if path is not None]


def open_store(inputs: Inputs, directory: Path, products: Callable[[], Iterable[Product]]) -> Catalog:
    """Open the store of these inputs; build it first if there is none or the inputs have changed.

    Args:
        inputs: Files the store belongs to.
        directory: Folder of the store.
        products: Returns the cleaned products, to build the store.

    Raises:
        DataError: The folder for the store cannot be written, or another process builds it without an end.
    """
    if not recorded_hashes(directory, inputs):
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(directory.with_name(f"{directory.name}.lock")):
                if not recorded_hashes(directory, inputs):  # another process may have built it while this one waited
                    _make(inputs, directory, products)
        except TimeoutError as error:
            raise DataError(f"Cannot build the store {directory}: {error}. Or set another store_dir.") from error
        except OSError as error:
            raise DataError(
                f"Cannot write the store {directory} ({error}). Set store_dir to a writable folder."
            ) from error
    return read_store(directory)


def read_store(directory: Path) -> Catalog:
    """Open a store. Arrays are memory-mapped, not read.

    Raises:
        DataError: The store is damaged.
    """
    try:
        return _read_store(directory)
    except (OSError, ValueError, EOFError, LookupError, TypeError) as error:
        raise DataError(
            f"The store {directory} is damaged ({error}). Remove it; it is built again from the data files."
        ) from error


def _read_store(directory: Path) -> Catalog:
    meta = json.loads((directory / "store.json").read_text(encoding="utf-8"))

    def mapped(name: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(directory / f"{name}.npy", mmap_mode="r")
        return loaded

    row_of_document = mapped("row_of_document")
    postings = Postings(
        vocabulary=HashedVocabulary(mapped("term_hashes")),
        starts=mapped("starts"),
        documents=mapped("documents"),
        counts=mapped("counts"),
        norms=mapped("norms"),
        tokens=meta["tokens"],
        filled=meta["filled"],
    )
    return StoredCatalog(
        name="official",
        products=StoredProducts(directory / "rows.bin", mapped("row_starts")),
        row_of=AsinRows(mapped("asins"), row_of_document),
        index=SearchIndex(postings),
        row_of_document=row_of_document,
        ranges=mapped("ranges"),
        instructed=mapped("instructed").tolist(),
        document_asins=mapped("asins"),
        hashes={"query": mapped("query_hashes"), "category": mapped("category_hashes")},
    )


class StoredCatalog(Catalog):
    """A catalog whose rows stay on disk."""

    def __init__(self, *, hashes: Mapping[str, NDArray[np.uint64]], **parts: Any) -> None:
        super().__init__(**parts)
        self._hashes = hashes

    def with_query(self, query: str) -> list[int]:
        """Rows of all products with this query, in load order."""
        return np.flatnonzero(self._hashes["query"] == text_hash(query)).tolist()

    def in_category(self, category: str) -> list[int]:
        """Rows of all products of this category, in load order."""
        return np.flatnonzero(self._hashes["category"] == text_hash(category)).tolist()


class StoredProducts(Sequence[Product]):
    """Products decoded on access; the last few thousand are cached."""

    def __init__(self, path: Path, starts: NDArray[np.int64]) -> None:
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r") if len(starts) > 1 else np.empty(0, np.uint8)
        self._starts = starts
        self._decode = lru_cache(maxsize=4096)(self._read)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> Product: ...
    @overload
    def __getitem__(self, row: slice) -> list[Product]: ...
    def __getitem__(self, row: int | slice) -> Product | list[Product]:
        if isinstance(row, slice):
            return [self._decode(i) for i in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(f"row {row}: expected 0 to {len(self) - 1}.")
        return self._decode(row)

    def __iter__(self) -> Iterator[Product]:
        return map(self._read, range(len(self)))

    def _read(self, row: int) -> Product:
        return decode_row(self._bytes[self._starts[row] : self._starts[row + 1]].tobytes())


class AsinRows(Mapping[str, int]):
    """Row of an asin, by binary search."""

    def __init__(self, asins: NDArray[np.str_], rows: NDArray[np.int32]) -> None:
        self._asins = asins
        self._rows = rows

    def __getitem__(self, asin: str) -> int:
        if len(asin) <= MAX_ASIN_LENGTH:
            place = int(np.searchsorted(self._asins, asin))
            if place < len(self._asins) and self._asins[place] == asin:
                return int(self._rows[place])
        raise KeyError(asin)

    def __iter__(self) -> Iterator[str]:
        return iter(self._asins.tolist())

    def __len__(self) -> int:
        return len(self._asins)


class HashedVocabulary:
    """Term numbers by binary search over 64-bit hashes, so that nothing has to be loaded at the start."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes

    def get(self, term: str) -> int | None:
        """Number of a term; ``None`` if no product has it."""
        wanted = np.uint64(text_hash(term))
        place = int(np.searchsorted(self._hashes, wanted))
        return place if place < len(self._hashes) and self._hashes[place] == wanted else None


def decode_row(row: bytes) -> Product:
    """Decode the product of one row."""
    values = json.loads(row.decode("utf-8", "surrogatepass"))
    asin, title, description, bullets, options, attributes, query, category, product_category, pricing, tag = values[
        :11
    ]
    instruction, instruction_attributes, instructions = values[11:]
    return Product(
        asin=asin,
        title=title,
        description=description,
        bullets=tuple(bullets),
        options={name: tuple(choices) for name, choices in options.items()},
        attributes=tuple(attributes),
        query=query,
        category=category,
        product_category=product_category,
        pricing=tuple(pricing),
        price_tag=tag,
        instruction=instruction,
        instruction_attributes=tuple(instruction_attributes),
        instructions=tuple(instructions),
    )


def recorded_hashes(directory: Path, inputs: Inputs) -> dict[str, str]:
    """SHA-256 by name of the files that a store was built from; empty unless these are the present inputs.

    A file counts as present if its size and its modification time, or else its hash, are those of that time.
    """
    try:
        meta = json.loads((directory / "store.json").read_text(encoding="utf-8"))
        recorded = {entry["name"]: entry for entry in meta["inputs"]}
        if meta["version"] != STORE_VERSION or set(recorded) != {path.name for path in inputs.paths()}:
            return {}
        for path in inputs.paths():
            entry, now = recorded[path.name], path.stat()
            if entry["size"] != now.st_size:
                return {}
            if entry["modified_ns"] != now.st_mtime_ns and entry["sha256"] != file_sha256(path):
                return {}
        return {name: str(entry["sha256"]) for name, entry in recorded.items()}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):  # no store, or a damaged one
        return {}


def _fingerprint(path: Path) -> dict[str, Any]:
    now = path.stat()
    return {"name": path.name, "size": now.st_size, "modified_ns": now.st_mtime_ns, "sha256": file_sha256(path)}


def file_sha256(path: Path) -> str:
    """Hash (hex) of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(inputs: Inputs, directory: Path, products: Callable[[], Iterable[Product]]) -> None:
    """Build in a temporary folder, remove an outdated store, then rename."""
    aside = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        write_store(aside, products(), [_fingerprint(path) for path in inputs.paths()])
        aside.chmod(0o755)
        if directory.exists():
            stale = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
            os.replace(directory, stale / "old")
            shutil.rmtree(stale, ignore_errors=True)
        os.replace(aside, directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Lock, so that only one process of a machine builds at a time (where the system has file locks).

    Raises:
        TimeoutError: Another process has held the lock for longer than :data:`LONGEST_WAIT_S`.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("w") as file:
        end, told = time.monotonic() + LONGEST_WAIT_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TimeoutError(
                        f"another process has held {lock} for {LONGEST_WAIT_S} s; end it, or wait until it has built "
                        "the store"
                    ) from None
            if not told:
                warnings.warn(f"Waiting for another process, which builds the store (lock {lock}).", stacklevel=2)
                told = True
            time.sleep(POLL_S)
        yield

"""A large catalogue on disk: converted once, opened in seconds, its pages shared by all processes.

A store is a folder of arrays that are mapped into memory, rows that are decoded when they are looked at, and
``store.json`` with the hashes of the files it was made from. It is built aside and put in place by one rename, so a
half-made one is never seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hero_envs.webshop.analyzer import terms
from hero_envs.webshop.catalogue import Catalogue
from hero_envs.webshop.products import MAX_ASIN_LENGTH, DataError, Product, index_text
from hero_envs.webshop.search import Postings, SearchIndex, encode_length

STORE_VERSION = 1
"""Stores of another version are made again."""
_SPILL_EVERY = 1 << 22
"""Postings that wait in memory before they go to a file."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The official files."""

    products: Path
    instructions: Path
    human: Path | None

    def paths(self) -> list[Path]:
        """Those that exist."""
        return [path for path in (self.products, self.instructions, self.human) if path is not None]


def open_store(inputs: Inputs, directory: Path, products: Callable[[], Iterable[Product]]) -> Catalogue:
    """Open the store of these inputs, making it first when there is none or the inputs have changed.

    Args:
        inputs: Files the store belongs to.
        directory: The store.
        products: Gives the cleaned products, for making it.

    Raises:
        DataError: The folder for the store cannot be written.
    """
    if not _belongs(directory, inputs):
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
        except OSError as error:
            raise DataError(
                f"The store {directory} cannot be written ({error}). Name a writable folder as store_dir."
            ) from error
        try:
            write_store(aside, products(), [_fingerprint(path) for path in inputs.paths()])
            _put_in_place(aside, directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return read_store(directory)


def read_store(directory: Path) -> Catalogue:
    """Open a store. Arrays are mapped, not read."""
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
    return StoredCatalogue(
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


class StoredCatalogue(Catalogue):
    """A catalogue whose rows stay on disk."""

    def __init__(self, *, hashes: Mapping[str, NDArray[np.uint64]], **parts: Any) -> None:
        super().__init__(**parts)
        self._hashes = hashes

    def with_query(self, query: str) -> list[int]:
        """Rows of all products made for this query, in load order."""
        return np.flatnonzero(self._hashes["query"] == _hash(query)).tolist()

    def in_category(self, category: str) -> list[int]:
        """Rows of all products of this category, in load order."""
        return np.flatnonzero(self._hashes["category"] == _hash(category)).tolist()


class StoredProducts(Sequence[Product]):
    """Rows decoded when they are looked at; the last few thousand are kept."""

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
    """Row per asin by binary search."""

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
    """Term numbers by binary search over 64-bit hashes, so that nothing is loaded at the start."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes

    def get(self, term: str) -> int | None:
        """Number of a term, ``None`` when no product has it."""
        wanted = np.uint64(_hash(term))
        place = int(np.searchsorted(self._hashes, wanted))
        return place if place < len(self._hashes) and self._hashes[place] == wanted else None


def write_store(directory: Path, products: Iterable[Product], fingerprints: Sequence[Mapping[str, Any]]) -> None:
    """Convert products into a store, one at a time.

    Args:
        directory: An empty folder.
        products: Cleaned products in load order.
        fingerprints: What to remember of the input files.
    """
    row_starts, lengths, instructed = array("q", [0]), array("i"), array("i")
    query_hashes, category_hashes, ranges = array("Q"), array("Q"), array("d")
    asins: list[str] = []
    spill = _Spill(directory)
    with (directory / "rows.bin").open("wb") as rows:
        for row, product in enumerate(products):
            asins.append(product.asin)
            row_starts.append(row_starts[-1] + rows.write(encode_row(product)))
            ranges.extend((product.pricing[0], product.pricing[1] if len(product.pricing) > 1 else np.nan))
            query_hashes.append(_hash(product.query))
            category_hashes.append(_hash(product.category))
            if product.instructions:
                instructed.append(row)
            found = terms(index_text(product))
            lengths.append(len(found))
            spill.add(row, Counter(found))
    names = np.array(asins, dtype=f"<U{MAX_ASIN_LENGTH}")
    by_asin = np.argsort(names, kind="stable").astype(np.int32)
    document_of_row = np.empty_like(by_asin)
    document_of_row[by_asin] = np.arange(len(by_asin), dtype=np.int32)
    spill.write_postings(document_of_row)
    lengths_array = np.asarray(lengths, dtype=np.int64)
    codes = np.array([encode_length(length) for length in range(int(lengths_array.max(initial=0)) + 1)], dtype=np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "asins": names[by_asin],
        "row_of_document": by_asin,
        "row_starts": np.asarray(row_starts, dtype=np.int64),
        "ranges": np.asarray(ranges, dtype=np.float64).reshape(-1, 2),
        "instructed": np.asarray(instructed, dtype=np.int32),
        "query_hashes": np.asarray(query_hashes, dtype=np.uint64),
        "category_hashes": np.asarray(category_hashes, dtype=np.uint64),
        "norms": codes[lengths_array[by_asin]],
    }
    for name, values in arrays.items():
        np.save(directory / f"{name}.npy", values)
    meta = {
        "version": STORE_VERSION,
        "inputs": list(fingerprints),
        "products": len(asins),
        "tokens": int(lengths_array.sum()),
        "filled": int((lengths_array > 0).sum()),
    }
    (directory / "store.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


class _Spill:
    """Postings on their way to disk: gathered by product, written out by term, with little in memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers: dict[str, int] = {}
        self._holding = array("q")
        self._pending = array("i"), array("i"), array("H")
        self._chunks = 0

    def add(self, row: int, counted: Mapping[str, int]) -> None:
        terms_, rows, counts = self._pending
        for term, count in counted.items():
            number = self._numbers.setdefault(term, len(self._numbers))
            if number == len(self._holding):
                self._holding.append(0)
            self._holding[number] += 1
            terms_.append(number)
            rows.append(row)
            counts.append(min(count, 0xFFFF))
        if len(terms_) >= _SPILL_EVERY:
            self._flush()

    def _flush(self) -> None:
        terms_, rows, counts = self._pending
        np.savez(
            self._chunk(self._chunks),
            terms=np.asarray(terms_, np.int32),
            rows=np.asarray(rows, np.int32),
            counts=np.asarray(counts, np.uint16),
        )
        self._chunks += 1
        self._pending = array("i"), array("i"), array("H")

    def write_postings(self, document_of_row: NDArray[np.int32]) -> None:
        """Write the arrays of :class:`~hero_envs.webshop.search.Postings`, terms by ascending hash."""
        self._flush()
        hashes = np.fromiter(map(_hash, self._numbers), dtype=np.uint64, count=len(self._numbers))
        if len(np.unique(hashes)) != len(hashes):
            raise DataError("Two index terms have the same 64-bit hash: this catalogue needs the in-memory index.")
        by_hash = np.argsort(hashes)
        new_number = np.empty(len(hashes), np.int32)
        new_number[by_hash] = np.arange(len(hashes), dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(np.asarray(self._holding, np.int64)[by_hash])]).astype(np.int64)
        np.save(self._directory / "term_hashes.npy", hashes[by_hash])
        np.save(self._directory / "starts.npy", starts)
        shape = (int(starts[-1]),)
        documents = np.lib.format.open_memmap(self._directory / "documents.npy", mode="w+", dtype=np.int32, shape=shape)
        counts = np.lib.format.open_memmap(self._directory / "counts.npy", mode="w+", dtype=np.uint16, shape=shape)
        cursor = starts[:-1].copy()
        for number in range(self._chunks):
            path = self._chunk(number)
            with np.load(path) as chunk:
                numbers = new_number[chunk["terms"]]
                order = np.argsort(numbers, kind="stable")
                present, first, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
                places = np.repeat(cursor[present] - first, sizes) + np.arange(len(order))
                documents[places] = document_of_row[chunk["rows"][order]]
                counts[places] = chunk["counts"][order]
                cursor[present] += sizes
            path.unlink()
        documents.flush()
        counts.flush()

    def _chunk(self, number: int) -> Path:
        return self._directory / f"spill-{number}.npz"


def encode_row(product: Product) -> bytes:
    """One row of ``rows.bin``."""
    return json.dumps(astuple(product), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def decode_row(row: bytes) -> Product:
    """The product of one row."""
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


def _belongs(directory: Path, inputs: Inputs) -> bool:
    """Whether the store is of this version and of these files (by hash where the time of change differs)."""
    try:
        meta = json.loads((directory / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    recorded = {entry["name"]: entry for entry in meta.get("inputs", ())}
    if meta.get("version") != STORE_VERSION or set(recorded) != {path.name for path in inputs.paths()}:
        return False
    for path in inputs.paths():
        entry, now = recorded[path.name], path.stat()
        if entry["size"] != now.st_size:
            return False
        if entry["modified_ns"] != now.st_mtime_ns and entry["sha256"] != _sha256(path):
            return False
    return True


def _fingerprint(path: Path) -> dict[str, Any]:
    now = path.stat()
    return {"name": path.name, "size": now.st_size, "modified_ns": now.st_mtime_ns, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(aside: Path, directory: Path) -> None:
    """Rename; a stale store goes first, and when another process was faster, its store stays."""
    os.chmod(aside, 0o755)
    for _ in range(2):
        try:
            os.replace(aside, directory)
            return
        except OSError:
            stale = Path(tempfile.mkdtemp(prefix=f"{directory.name}.old.", dir=directory.parent))
            os.replace(directory, stale)
            shutil.rmtree(stale, ignore_errors=True)
    raise DataError(f"The store {directory} cannot be put in place. Remove that folder and try again.")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

"""Convert a catalog to a store on disk, one product at a time."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hero_envs.webshop.analyzer import terms
from hero_envs.webshop.products import MAX_ASIN_LENGTH, DataError, Product, index_text
from hero_envs.webshop.search import encode_length

STORE_VERSION = 1
"""Stores of another version are built again."""
_SPILL_EVERY = 1 << 22
"""Number of postings in memory before they are written to a file."""


def write_store(directory: Path, products: Iterable[Product], fingerprints: Sequence[Mapping[str, Any]]) -> None:
    """Convert products into a store, one at a time.

    Args:
        directory: An empty folder.
        products: Cleaned products in load order.
        fingerprints: Fingerprints of the input files, stored to detect changes.
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
            query_hashes.append(text_hash(product.query))
            category_hashes.append(text_hash(product.category))
            if product.instructions:
                instructed.append(row)
            own_terms = terms(index_text(product))
            lengths.append(len(own_terms))
            spill.add(row, Counter(own_terms))
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
    """Collects postings by product and writes them by term, with little memory."""

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
        hashes = np.fromiter(map(text_hash, self._numbers), dtype=np.uint64, count=len(self._numbers))
        if len(np.unique(hashes)) != len(hashes):
            raise DataError("Two index terms have the same 64-bit hash: this catalog needs the in-memory index.")
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
    """Encode a product as one row of ``rows.bin``."""
    return json.dumps(astuple(product), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def text_hash(text: str) -> int:
    """64-bit hash of a text, used in the arrays of a store."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

"""BM25 search with the ranking of Lucene 8 (k1 = 0.9, b = 0.4), with postings in numpy arrays.

Documents are numbered by asin in ascending order; in a tie the lower number comes first. Single-precision arithmetic
and the one-byte document length are part of the ranking: with exact lengths a third of the result lists would differ.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hero_envs.webshop.analyzer import terms

K1, B = np.float32(0.9), np.float32(0.4)
MAX_HITS = 50
MAX_QUERY_TERMS = 1024
"""Lucene refuses longer queries; here they return no result."""
_GROUPS = 512
_CACHED_POSTINGS = 1 << 23
"""Scores per term are cached only if the whole index has at most this many postings."""


class Vocabulary(Protocol):
    """Maps a term to its number."""

    def get(self, term: str) -> int | None:
        """The number, or ``None`` for an unknown term."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Term counts per document; every array may be memory-mapped."""

    vocabulary: Vocabulary | Mapping[str, int]
    starts: NDArray[np.int64]
    """``(terms + 1,)``: postings of term ``i`` are ``starts[i]:starts[i + 1]``."""
    documents: NDArray[np.int32]
    counts: NDArray[np.uint16]
    norms: NDArray[np.uint8]
    """``(documents,)``: the one-byte length of each document."""
    tokens: int
    """Sum of all lengths."""
    filled: int
    """Number of documents with at least one token."""


class SearchIndex:
    """The fifty best documents for a query.

    Args:
        postings: What :func:`build_postings` or a store gives.
    """

    def __init__(self, postings: Postings) -> None:
        self.postings = postings
        average = np.float32(postings.tokens / max(postings.filled, 1))
        lengths = np.array([decode_length(code) for code in range(256)], dtype=np.float32)
        one = np.float32(1)
        self._inverse_norms = one / (K1 * ((one - B) + B * lengths / max(average, one)))
        self._scores: dict[int, NDArray[np.float32]] = {}
        self._keep_scores = len(postings.documents) <= _CACHED_POSTINGS

    def search(self, query: str, hits: int = MAX_HITS) -> NDArray[np.int64]:
        """Numbers of the best documents, best first; empty when no term is known.

        Args:
            query: Free text.
            hits: At most this many.
        """
        documents, _ = self.search_scored(query, hits)
        return documents

    def search_scored(self, query: str, hits: int = MAX_HITS) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers of the best documents and their scores."""
        counted = Counter(terms(query))
        matching: list[NDArray[np.int32]] = []
        scored: list[NDArray[np.float32]] = []
        if len(counted) <= MAX_QUERY_TERMS:
            starts, lookup = self.postings.starts, self.postings.vocabulary.get
            for term, count in counted.items():
                if (number := lookup(term)) is not None:
                    matching.append(self.postings.documents[starts[number] : starts[number + 1]])
                    scored.append(self._term_scores(number, count))
        if not matching:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        holders = np.concatenate(matching) if len(matching) > 1 else matching[0]
        weights = np.concatenate(scored) if len(scored) > 1 else scored[0]
        return self._best(holders, weights, hits)

    def _best(
        self, holders: NDArray[np.int32], weights: NDArray[np.float32], hits: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Add the term scores per document (in double precision, as in Lucene) and select the best documents."""
        names: NDArray[np.int32] | None
        places: NDArray[np.signedinteger]
        if len(holders) * 16 < len(self.postings.norms):  # few documents of many: do not process the rest
            names, places = np.unique(holders, return_inverse=True)
        else:
            names, places = None, holders
        totals = np.bincount(places, weights=weights).astype(np.float32)
        floor = _reached_by(totals, hits)
        best = np.flatnonzero(totals >= floor) if floor > 0 else np.flatnonzero(totals)
        best = best[np.argsort(-totals[best], kind="stable")[:hits]]
        return (best if names is None else names[best].astype(np.int64)), totals[best]

    def _term_scores(self, number: int, count: int) -> NDArray[np.float32]:
        """Score of one term in each of its documents, single precision as in Lucene."""
        if count == 1 and (known := self._scores.get(number)) is not None:
            return known
        postings = self.postings
        span = slice(postings.starts[number], postings.starts[number + 1])
        holding = span.stop - span.start
        idf = np.float32(math.log(1 + (postings.filled - holding + 0.5) / (holding + 0.5)))
        weight = np.float32(count) * idf
        norms = self._inverse_norms[postings.norms[postings.documents[span]]]
        scores: NDArray[np.float32] = weight - weight / (
            np.float32(1) + postings.counts[span].astype(np.float32) * norms
        )
        if count == 1 and self._keep_scores:
            self._scores[number] = scores
        return scores

    def __getstate__(self) -> dict[str, Any]:
        return {"postings": self.postings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["postings"])  # type: ignore[misc]


def _reached_by(totals: NDArray[np.float32], hits: int) -> np.float32:
    """A score that at least ``hits`` documents reach, close to the highest such score; 0 if there are not so many.

    Uses the maxima of strided groups, because selecting among all scores is slow: most of them are equal.
    """
    groups = max(_GROUPS, 2 * hits)
    if len(totals) > 2 * groups:
        rows = len(totals) // groups
        totals = totals[: rows * groups].reshape(rows, groups).max(axis=0)
    return np.sort(totals)[-hits] if len(totals) >= hits else np.float32(0)


def build_postings(documents: Iterable[str]) -> Postings:
    """Index texts that fit into memory.

    Args:
        documents: Texts in the order of their numbers, that is by ascending asin.
    """
    vocabulary: dict[str, int] = {}
    term_numbers, owners, counts, lengths = array("i"), array("i"), array("H"), array("i")
    for owner, text in enumerate(documents):
        found = terms(text)
        lengths.append(len(found))
        for term, count in Counter(found).items():
            term_numbers.append(vocabulary.setdefault(term, len(vocabulary)))
            owners.append(owner)
            counts.append(min(count, 0xFFFF))
    by_term = np.argsort(np.asarray(term_numbers, dtype=np.int32), kind="stable")
    sizes = np.bincount(np.asarray(term_numbers, dtype=np.int32), minlength=len(vocabulary))
    return Postings(
        vocabulary=vocabulary,
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        documents=np.asarray(owners, dtype=np.int32)[by_term],
        counts=np.asarray(counts, dtype=np.uint16)[by_term],
        norms=np.array([encode_length(length) for length in lengths], dtype=np.uint8),
        tokens=sum(lengths),
        filled=sum(length > 0 for length in lengths),
    )


def encode_length(length: int) -> int:
    """One byte for a document length: exact below 40, then the leading four bits of the length minus 24.

    Example:
        >>> [decode_length(encode_length(n)) for n in (0, 39, 40, 41, 57, 100, 1000)]
        [0, 39, 40, 40, 56, 96, 984]
    """
    if length < 24:
        return length
    rest = length - 24
    if rest < 8:
        return 24 + rest
    shift = rest.bit_length() - 4
    return 24 + ((shift + 1) << 3 | (rest >> shift) & 7)


def decode_length(code: int) -> int:
    """The length from a byte of :func:`encode_length`."""
    if code < 24:
        return code
    exponent, mantissa = divmod(code - 24, 8)
    return 24 + (mantissa if exponent == 0 else (mantissa | 8) << (exponent - 1))

"""The database of one episode: a copy-on-write view of read-only records that all episodes of a process share.

A write copies only the changed record, and two end states are compared by their changed records. The hashes of the
whole database are for comparison with published traces; an episode does not need them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]

Delta: TypeAlias = dict[tuple[str, str], str]
"""Changed records that differ from the base: (table, key) to fingerprint."""


def copy_json(value: Any) -> Any:
    """Deep copy of a JSON value; much faster than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copy_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_json(item) for item in value]
    return value


def canonical_text(value: Any) -> str:
    """JSON text with sorted keys and without blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def fingerprint(value: Any) -> str:
    """Text that is equal exactly if the benchmark treats two values as equal.

    5 and 5.0 differ, an empty list equals an empty object, and a list equals an object with the same sorted pairs.
    A value that Python cannot print (an integer beyond the digit limit) equals only itself.
    """
    try:
        return repr(_as_tuples(value))
    except (ValueError, RecursionError):
        return f"unprintable {id(value)}"


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _as_tuples(item)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return value


def _tuple_text(parts: list[str]) -> str:
    """``repr`` of a tuple from the ``repr`` of its members."""
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


class BaseData:
    """The read-only records of one domain, and values that are computed from them once per process.

    Args:
        tables: Table name to key to record. Owned by this object and never changed.
    """

    def __init__(self, tables: dict[str, dict[str, Record]]) -> None:
        self.tables = tables

    @cached_property
    def canonical_records(self) -> dict[str, dict[str, str]]:
        """``canonical_text`` per record."""
        return {
            name: {key: canonical_text(record) for key, record in table.items()} for name, table in self.tables.items()
        }

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """``fingerprint`` per record."""
        return {
            name: {key: fingerprint(record) for key, record in table.items()} for name, table in self.tables.items()
        }

    @cached_property
    def canonical_hash(self) -> str:
        """``Database.canonical_hash`` of the untouched database."""
        return Database(self)._canonical_hash()

    @cached_property
    def users_by_email(self) -> dict[str, str]:
        """Lower-case e-mail to the first user with it, in file order."""
        index: dict[str, str] = {}
        for user_id, user in self.tables["users"].items():
            index.setdefault(user["email"].lower(), user_id)
        return index

    @cached_property
    def users_by_first_name(self) -> dict[str, list[str]]:
        """Lower-case first name to user ids in file order."""
        index: dict[str, list[str]] = {}
        for user_id, user in self.tables["users"].items():
            index.setdefault(user["name"]["first_name"].lower(), []).append(user_id)
        return index

    @cached_property
    def flights_by_origin(self) -> dict[str, list[Record]]:
        """Origin to flights in file order (airline only; no tool writes a flight)."""
        index: dict[str, list[Record]] = {}
        for flight in self.tables["flights"].values():
            index.setdefault(flight["origin"], []).append(flight)
        return index

    @cached_property
    def flights_by_route(self) -> dict[tuple[str, str], list[Record]]:
        """(origin, destination) to flights in file order (airline only)."""
        index: dict[tuple[str, str], list[Record]] = {}
        for flight in self.tables["flights"].values():
            index.setdefault((flight["origin"], flight["destination"]), []).append(flight)
        return index


class Table(Mapping[str, Record]):
    """One table of one episode. Do not change records read from it; use ``edit`` for a record to change.

    An unhashable key raises Python's own ``TypeError``, as a plain dictionary would.
    """

    __slots__ = ("_base", "touched")

    def __init__(self, base: dict[str, Record]) -> None:
        self._base = base
        self.touched: dict[str, Record] = {}

    def __getitem__(self, key: str) -> Record:
        return self.touched[key] if key in self.touched else self._base[key]

    def __contains__(self, key: object) -> bool:
        return key in self.touched or key in self._base

    def __iter__(self) -> Iterator[str]:
        yield from self._base
        yield from (key for key in self.touched if key not in self._base)

    def __len__(self) -> int:
        return len(self._base) + sum(key not in self._base for key in self.touched)

    def edit(self, key: str) -> Record:
        """The episode's own copy of a record, created at the first call."""
        if key not in self.touched:
            self.touched[key] = copy_json(self._base[key])
        return self.touched[key]

    def put(self, key: str, record: Record) -> None:
        """Store a new record or replace one; the table then owns it."""
        self.touched[key] = record


class Database:
    """The database of one episode.

    Example:
        >>> base = BaseData({"users": {"ann": {"zip": "1"}}})
        >>> data = Database(base)
        >>> data["users"].edit("ann")["zip"] = "2"
        >>> data.delta()
        {('users', 'ann'): "(('zip', '2'),)"}
        >>> base.tables["users"]["ann"]
        {'zip': '1'}
    """

    def __init__(self, base: BaseData) -> None:
        self.base = base
        self._tables = {name: Table(records) for name, records in base.tables.items()}

    def __getitem__(self, table: str) -> Table:
        return self._tables[table]

    def delta(self) -> Delta:
        """Fingerprints of the changed records that differ from the base; equal deltas mean equal databases."""
        changed: Delta = {}
        for name, table in self._tables.items():
            base = self.base.fingerprints[name]
            for key, record in table.touched.items():
                text = fingerprint(record)
                if text != base.get(key):
                    changed[name, key] = text
        return changed

    def canonical_hash(self) -> str:
        """SHA-256 (hex) of the whole database as canonical JSON; for traces, some milliseconds."""
        if not any(table.touched for table in self._tables.values()):
            return self.base.canonical_hash
        return self._canonical_hash()

    def _canonical_hash(self) -> str:
        tables = []
        for name in sorted(self._tables):
            records = dict(self.base.canonical_records[name])
            records.update({key: canonical_text(record) for key, record in self._tables[name].touched.items()})
            tables.append(
                f"{json.dumps(name)}:{{{','.join(f'{json.dumps(k)}:{records[k]}' for k in sorted(records))}}}"
            )
        return hashlib.sha256(f"{{{','.join(tables)}}}".encode()).hexdigest()

    def official_hash(self) -> str:
        """SHA-256 (hex) in the benchmark's own format, for its ``gt_data_hash``; some milliseconds."""
        tables = []
        for name in sorted(self._tables):
            records = dict(self.base.fingerprints[name])
            records.update({key: fingerprint(record) for key, record in self._tables[name].touched.items()})
            pairs = [f"({key!r}, {records[key]})" for key in sorted(records)]
            tables.append(f"({name!r}, {_tuple_text(pairs)})")
        return hashlib.sha256(_tuple_text(tables).encode("utf-8", "backslashreplace")).hexdigest()

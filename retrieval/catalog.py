"""What is in the store, item by item (SQLite): the only owner of ids."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CatalogError
from .filters import COLUMNS, Where, as_sql, parse_where

_SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,  -- the same number in the vectors and in the index
    id TEXT NOT NULL UNIQUE,
    modality TEXT NOT NULL,
    uri TEXT NOT NULL,
    metadata TEXT NOT NULL    -- a JSON object
) STRICT;
CREATE TABLE fields (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;  -- every key met in metadata
"""


@dataclass(frozen=True)
class Item:
    """One thing that can be found."""

    id: str  # unique in a store
    modality: str
    uri: str  # where it is: a path for media, FILE#LINE for a text
    metadata: dict[str, Any] = field(default_factory=dict)  # JSON values; a text itself is under "text"

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("modality", self.modality), ("uri", self.uri)):
            if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
                raise CatalogError(f"an item's {name} must be a string of valid characters, not empty, got {value!r}")
        if not isinstance(self.metadata, dict) or not all(
            isinstance(name, str) and _is_unicode(name) for name in self.metadata
        ):
            raise CatalogError(f"metadata of item {self.id!r} must be a dict with strings as keys")


class Catalog:
    """Items in the order they were added, each under a row number counted from 0.

    Reading is safe from several threads. Files are opened for reading as immutable: a store never changes a
    catalog that it has published, it writes another.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path) -> Catalog:
        """Make an empty catalog to write to."""
        catalog = cls.edit(path)
        catalog._connection.executescript(_SCHEMA)
        return catalog

    @classmethod
    def edit(cls, path: Path) -> Catalog:
        """Open a catalog to write to. Nothing is kept unless `commit` is called."""
        connection = sqlite3.connect(path, check_same_thread=False)
        # Written aside and flushed once by the store: a journal on disk would guard nothing.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Open a catalog to read. Raises CatalogError naming a file that is none."""
        address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            connection.execute("SELECT row, id, modality, uri, metadata FROM items LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise CatalogError(f"{path} is not a catalog of items ({error})") from error
        return cls(path, connection)

    def commit(self) -> None:
        """Keep what was added."""
        try:
            self._connection.commit()
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be written ({error})") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __del__(self) -> None:
        # A store that moved on drops its old catalog while other threads may still read from it.
        self._connection.close()

    def __len__(self) -> int:
        return int(self._read("SELECT count(*) FROM items")[0][0])

    def __iter__(self) -> Iterator[Item]:
        last, some = -1, 1_000  # a part at a time: a catalog may be larger than memory
        while found := self._read(
            "SELECT row, id, modality, uri, metadata FROM items WHERE row > ? ORDER BY row LIMIT ?", (last, some)
        ):
            yield from (_item(*values) for _, *values in found)
            last = found[-1][0]

    def counts(self) -> dict[str, int]:
        """The number of items of each modality, most first."""
        return dict(self._read("SELECT modality, count(*) FROM items GROUP BY modality ORDER BY 2 DESC, 1"))

    def add(self, items: Sequence[Item], replace: bool = False) -> npt.NDArray[np.int64]:
        """Add items and return their rows (N,). With `replace`, an item whose id is taken takes over its row.

        Raises CatalogError, adding nothing, for an id that is given twice or, without `replace`, taken.
        """
        repeated = [name for name, times in Counter(item.id for item in items).items() if times > 1]
        if repeated:
            raise CatalogError(f"given twice: {_some(repeated)}; ids must be unique")
        texts = [_as_json(item) for item in items]
        known = self.find([item.id for item in items])
        if (known >= 0).any() and not replace:
            taken = [item.id for item, row in zip(items, known, strict=True) if row >= 0]
            raise CatalogError(f"already in the store: {_some(taken)}; pass replace=True to put the new ones there")
        first = self._read("SELECT coalesce(max(row) + 1, 0) FROM items")[0][0]
        rows = known.copy()
        rows[known < 0] = first + np.arange((known < 0).sum())
        values = (
            (int(row), item.id, item.modality, item.uri, text)
            for row, item, text in zip(rows, items, texts, strict=True)
        )
        names = {(name,) for item in items for name in item.metadata}
        try:
            self._connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?)", values)
            self._connection.executemany("INSERT OR IGNORE INTO fields VALUES (?)", sorted(names))
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be written ({error})") from error
        return rows

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each id (N,), in the order asked; -1 for an id that is not here."""
        found = self._read(
            "SELECT coalesce(items.row, -1) FROM json_each(?) AS asked "
            "LEFT JOIN items ON items.id = asked.value ORDER BY asked.key",
            (json.dumps(list(ids)),),
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64, count=len(ids))

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each id (N,), in the order asked. Raises CatalogError naming ids that are not here."""
        rows = self.find(ids)
        missing = [name for name, row in zip(ids, rows, strict=True) if row < 0]
        if missing:
            raise CatalogError(f"not in the store: {_some(missing)}")
        return rows

    def get(self, ids: Sequence[str]) -> list[Item]:
        """The items with these ids, in the order asked. Raises CatalogError naming ids that are not here."""
        return self.at(self.rows(ids))

    def at(self, rows: npt.NDArray[np.int64]) -> list[Item]:
        """The items in these rows, in the order asked."""
        found = self._read(
            "SELECT items.id, modality, uri, metadata FROM json_each(?) AS asked "
            "JOIN items ON items.row = asked.value ORDER BY asked.key",
            (json.dumps(rows.tolist()),),
        )
        items = [_item(*values) for values in found]
        assert len(items) == len(rows), f"rows {rows.tolist()} are not all in {self.path}"
        return items

    def select(self, where: Where) -> npt.NDArray[np.int64]:
        """The rows of the items that pass a filter, ascending. Raises CatalogError naming an unknown field."""
        conditions = parse_where(where)
        known = self.fields()
        unknown = [condition.field for condition in conditions if condition.field not in known]
        if unknown:
            raise CatalogError(f"where: unknown field {unknown[0]!r}; the fields here are {', '.join(known)}")
        clause, parameters = as_sql(conditions)
        # `as_sql` puts only its own words into the clause; what the user wrote is in the parameters.
        found = self._read(f"SELECT row FROM items WHERE {clause} ORDER BY row", parameters)  # noqa: S608
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def fields(self) -> list[str]:
        """Every field that a filter may name."""
        names = self._read("SELECT name FROM fields ORDER BY name")
        return [*COLUMNS, *(name for (name,) in names if name not in COLUMNS)]

    def _read(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise CatalogError(f"{self.path} cannot be read ({error})") from error


def _item(id: str, modality: str, uri: str, metadata: str) -> Item:  # noqa: A002 - the column's name
    return Item(id, modality, uri, json.loads(metadata))


def _as_json(item: Item) -> str:
    try:
        return json.dumps(item.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"metadata of item {item.id!r} cannot be written as JSON: {error}") from None


def _is_unicode(text: str) -> bool:
    """False for half characters, as in file names that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, ids[:3]))
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"

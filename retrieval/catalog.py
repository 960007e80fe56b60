"""What is in a store, item by item (SQLite): the only owner of ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import CatalogError, TakenError
from .filters import COLUMNS, MODALITIES, Condition, Where, parse_where

PART = "#"  # in an id or content: between that of a file and the place of a part of it
_BEHIND = chr(ord(PART) + 1)  # all that is a name with PART and something behind it lies below the name with this
FOREVER = 2**63 - 1  # when an item is deleted that is not

_SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,  -- the same number in the vectors
    id TEXT NOT NULL,
    modality TEXT NOT NULL,
    uri TEXT NOT NULL,
    metadata TEXT NOT NULL,   -- a JSON object
    content TEXT,             -- a hash of what was embedded
    added INTEGER NOT NULL,   -- the number of the write that brought it,
    deleted INTEGER NOT NULL, -- and of the one that took it away
    UNIQUE (id, deleted)      -- of all that still are, none has another's id
) STRICT;
CREATE INDEX deleted ON items (deleted) WHERE deleted < 9223372036854775807;
CREATE INDEX content ON items (content) WHERE content IS NOT NULL;
CREATE TABLE blocks (         -- what is written together: rows and their checksum
    first INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    crc32 INTEGER NOT NULL
) STRICT;
CREATE TABLE fields (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;  -- every key met in metadata
CREATE TABLE state (          -- one line: the last write that is in here
    number INTEGER NOT NULL,
    segment INTEGER NOT NULL, -- where the journal goes on behind it
    position INTEGER NOT NULL,
    rows INTEGER NOT NULL,    -- with those that were deleted
    items INTEGER NOT NULL    -- without
) STRICT;
INSERT INTO state VALUES (0, 1, 0, 0, 0);
"""


@dataclass(frozen=True)
class Item:
    """One thing that can be found.

    Raises CatalogError for an empty id, modality or uri, and for metadata that are no dict with strings as keys.

    >>> Item("photos/dog.jpg", "image", "/data/photos/dog.jpg", {"year": 2021}).metadata["year"]
    2021
    """

    id: str  # unique in a store
    modality: str
    uri: str  # where it is: a path for media, FILE#LINE for a text
    metadata: dict[str, Any] = field(default_factory=dict)  # JSON values; a text itself is under "text"
    content: str | None = field(default=None, compare=False)  # a hash of what was embedded

    def __post_init__(self) -> None:
        for name, value in (("id", self.id), ("modality", self.modality), ("uri", self.uri)):
            if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
                raise CatalogError(f"an item's {name} must be a string of valid characters, not empty, got {value!r}")
        if not isinstance(self.metadata, dict) or not all(
            isinstance(name, str) and _is_unicode(name) for name in self.metadata
        ):
            raise CatalogError(f"metadata of item {self.id!r} must be a dict with strings as keys")


class State(NamedTuple):
    """How far a catalog has come."""

    number: int  # of the last write that is in it
    segment: int  # in whose journal the next one will lie
    position: int  # and from which byte on
    rows: int  # with deleted ones
    items: int  # without


class Block(NamedTuple):
    """Rows that were written together."""

    first: int
    rows: int
    crc32: int  # of their vectors as they lie in the file


class _Changes(NamedTuple):
    """What is another when a catalog was written to."""

    time: int  # ns
    bytes: int
    log: int | None  # bytes of SQLite's log


class _Connection(NamedTuple):
    """A connection to read."""

    sqlite: sqlite3.Connection
    fixed: _Changes | None = None  # how the file is that it takes to be unchangeable


class _Readers:
    """Connections to one file, one for each read that is under way.

    Threads must not share one: as long as any of them reads, it would show all of them the state of its first read.
    They are closed when the last view of the file is gone, as a store that moved on may still be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._closed = path, False
        self._idle: LifoQueue[_Connection] = LifoQueue()
        self._idle.put(self._connect())

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Give a connection for one read. Raises sqlite3.Error."""
        if self._closed:
            raise sqlite3.ProgrammingError("it was closed")
        connection = self._free()
        try:
            yield connection.sqlite
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        self._closed = True
        while not self._idle.empty():  # `Empty` itself may be gone when the process ends
            with contextlib.suppress(Empty):
                self._idle.get_nowait().sqlite.close()

    def _free(self) -> _Connection:
        with contextlib.suppress(Empty):
            while True:
                connection = self._idle.get_nowait()
                if connection.fixed is None or _changes(self._path) in (None, connection.fixed):
                    return connection
                connection.sqlite.close()
        try:
            return self._connect()
        except sqlite3.Error:  # the file was replaced; what is open still reads it
            return self._idle.get()

    def _connect(self) -> _Connection:
        # Not read-only in SQLite's sense where it may write: that would leave its log behind when the last reader
        # closes. Where it may not, and there is no log, it is told that nobody can, or it would insist on making one.
        if os.access(self._path.parent, os.W_OK) and os.access(self._path, os.W_OK):
            return _Connection(_connected(self._path, "mode=rw"))
        while True:
            before = _changes(self._path)
            fixed = before if before is not None and before.log is None else None
            try:
                connection = _connected(self._path, "mode=ro&immutable=1" if fixed else "mode=ro")
                connection.execute(_STATE)
            except sqlite3.Error:
                if _changes(self._path) == before:
                    raise
            else:
                if fixed is None or _changes(self._path) == fixed:
                    return _Connection(connection, fixed)
                connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()


@dataclass(frozen=True)
class Catalog:
    """Items as they were after one write, in the order they were added. Reading is safe from several threads.

    >>> report = build_store(["dog.jpg", "dog.flac", "rain.ogg"], "my-store", model)
    >>> store = Store.open("my-store")
    >>> catalog = store.catalog
    >>> catalog.counts(), catalog.fields()
    ({'audio': 2, 'image': 1}, ['id', 'modality', 'uri'])
    >>> catalog.find(["dog.jpg", "cat.jpg"]).tolist(), catalog.rows(["dog.jpg"]).tolist()
    ([0, -1], [0])
    >>> [item.id for item in catalog.items(catalog.select("modality=audio"))]
    ['dog.flac', 'rain.ogg']
    >>> [(row, item.id) for row, item in catalog.numbered()]
    [(0, 'dog.jpg'), (1, 'dog.flac'), (2, 'rain.ogg')]
    >>> [dog] = catalog.get(["dog.jpg"])
    >>> list(catalog.find_content([dog.content]).values()), catalog.parts("id", ["rain.ogg"]).tolist()
    ([0], [])
    >>> [item.id for item in catalog.of_files([dog.content], [dog.uri])], list(catalog.below("/nowhere"))
    (['dog.jpg'], [])
    >>> catalog.deleted().tolist(), len(catalog.blocks()), catalog.problems(), len(catalog.sha256())
    ([], 1, [], 64)
    >>> state = catalog.state()
    >>> state.items, len(catalog.at(state.number))
    (3, 3)
    >>> catalog.copy(Path("copy.sqlite"), state)
    >>> copy = Catalog.open(Path("copy.sqlite"))
    >>> len(copy)
    3
    >>> copy.close()
    >>> store.close()
    """

    path: Path
    number: int  # later writes are not seen
    _readers: _Readers

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Open a catalog to read. Raises CatalogError naming a file that is none."""
        if not path.is_file():
            raise CatalogError(f"{path} is missing")
        try:
            catalog = cls(path, 0, _Readers(path))
            return replace(catalog, number=catalog.state().number)
        except (sqlite3.Error, CatalogError) as error:
            raise CatalogError(f"{path} is not a catalog of items ({error})") from error

    def at(self, number: int) -> Catalog:
        """Return the view after another write."""
        return replace(self, number=number)

    def state(self) -> State:
        """Return the newest state, not that of this view."""
        found = self._read(_STATE)
        if len(found) != 1:
            raise CatalogError(f"{self.path} has no state")
        return State(*found[0])

    def close(self) -> None:
        """Let go of the file."""
        self._readers.close()

    def __len__(self) -> int:
        return int(self._read(f"SELECT count(*) FROM items WHERE {_VISIBLE}")[0][0])

    def __iter__(self) -> Iterator[Item]:
        return (item for _, item in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Item]]:
        """Yield rows and their items."""
        last, some = -1, 1_000  # a part at a time: a catalog may be larger than memory
        query = f"SELECT row, {_ITEM} FROM items WHERE {_VISIBLE} AND row > :last ORDER BY row LIMIT :some"
        while found := self._read(query, {"last": last, "some": some}):
            yield from ((row, _item(*values)) for row, *values in found)
            last = found[-1][0]

    def counts(self) -> dict[str, int]:
        """The number of items of each modality, most first."""
        query = f"SELECT modality, count(*) FROM items WHERE {_VISIBLE} GROUP BY modality ORDER BY 2 DESC, 1"
        return dict(self._read(query))

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each id (N,), in the order asked; -1 for an id that is not here."""
        found = self._read(
            "SELECT coalesce(items.row, -1) FROM json_each(:asked) AS asked "
            f"LEFT JOIN items ON items.id = asked.value AND {_VISIBLE} ORDER BY asked.key",
            {"asked": json.dumps(list(ids))},
        )
        return np.fromiter((row for (row,) in found), dtype=np.int64, count=len(ids))

    def find_content(self, contents: Sequence[str]) -> dict[str, int]:
        """The first row of each hash that is here."""
        found = self._read(
            "SELECT items.content, min(items.row) FROM json_each(:asked) AS asked "
            f"JOIN items ON items.content = asked.value AND {_VISIBLE} GROUP BY items.content",
            {"asked": json.dumps(list(contents))},
        )
        return dict(found)

    def parts(self, field: Literal["id", "content"], names: Sequence[str]) -> npt.NDArray[np.int64]:
        """The rows of the parts (N,) of files with these ids or contents; the first row of each, ascending."""
        query = (
            "SELECT min(items.row) FROM json_each(:asked) AS asked JOIN items ON items.name >= asked.value || :first "
            f"AND items.name < asked.value || :behind AND {_VISIBLE} GROUP BY items.name ORDER BY 1"
        ).replace("items.name", f"items.{field}")
        found = self._read(query, {"asked": json.dumps(list(names)), "first": PART, "behind": _BEHIND})
        return np.fromiter((row for (row,) in found), dtype=np.int64, count=len(found))

    def of_files(self, contents: Sequence[str], uris: Sequence[str], *, parts: bool = False) -> list[Item]:
        """The items of these contents, or also parts of them, that came from one of these uris."""
        those = "items.content >= asked.value AND items.content < asked.value || :behind"
        found = self._read(
            f"SELECT {_ITEM} FROM (SELECT DISTINCT value FROM json_each(:asked)) AS asked "
            f"JOIN items ON {those if parts else 'items.content = asked.value'} AND {_VISIBLE} "
            "WHERE items.uri IN (SELECT value FROM json_each(:uris)) ORDER BY items.row",
            {"asked": json.dumps(list(contents)), "uris": json.dumps(list(uris)), "behind": _BEHIND},
        )
        return [_item(*values) for values in found]

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield id and uri of every item from a folder."""
        last, some, ends = -1, 10_000, {"first": f"{folder}/", "behind": f"{folder}{chr(ord('/') + 1)}"}
        query = (
            f"SELECT row, id, uri FROM items WHERE {_VISIBLE} AND row > :last AND uri >= :first AND uri < :behind "
            "ORDER BY row LIMIT :some"
        )
        while found := self._read(query, {"last": last, "some": some} | ends):
            yield from ((name, uri) for _, name, uri in found)
            last = found[-1][0]

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """The row of each id (N,), in the order asked. Raises CatalogError naming ids that are not here."""
        rows = self.find(ids)
        missing = [name for name, row in zip(ids, rows, strict=True) if row < 0]
        refuse_missing(missing)
        return rows

    def get(self, ids: Sequence[str]) -> list[Item]:
        """The items with these ids, in the order asked. Raises CatalogError naming ids that are not here."""
        return self.items(self.rows(ids))

    def items(self, rows: npt.NDArray[np.int64]) -> list[Item]:
        """The items in these rows, in the order asked."""
        found = self._read(
            "SELECT items.id, modality, uri, metadata, content FROM json_each(:asked) AS asked "
            "JOIN items ON items.row = asked.value ORDER BY asked.key",
            {"asked": json.dumps(rows.tolist())},
        )
        assert len(found) == len(rows), f"rows {rows.tolist()} are not all in {self.path}"
        return [_item(*values) for values in found]

    def select(self, where: Where) -> npt.NDArray[np.int64]:
        """The rows of the items that pass a filter, ascending. Raises ValueError naming an unknown field."""
        condition = parse_where(where)
        refuse_unknown(condition, self.fields(), self.counts)
        clause, parameters = condition.sql()
        # `sql` puts only its own words into the clause; what the user wrote is in the parameters.
        found = self._read(f"SELECT row FROM items WHERE {_VISIBLE} AND {clause} ORDER BY row", parameters)
        return np.fromiter((row for (row,) in found), dtype=np.int64)

    def fields(self) -> list[str]:
        """Every field that a filter may name."""
        names = self._read("SELECT name FROM fields ORDER BY name")
        return [*COLUMNS, *(name for (name,) in names if name not in COLUMNS)]

    def deleted(self, since: int = 0) -> npt.NDArray[np.int64]:
        """The rows whose items are gone, or were taken away after write `since`."""
        query = f"SELECT row FROM items WHERE deleted < {FOREVER} AND deleted > :since AND deleted <= :number"
        return np.fromiter((row for (row,) in self._read(query, {"since": since})), dtype=np.int64)

    def blocks(self) -> list[Block]:
        """Everything that was written together, in order, also by later writes."""
        return [Block(*values) for values in self._read("SELECT first, rows, crc32 FROM blocks ORDER BY first")]

    def problems(self) -> list[str]:
        """What SQLite itself finds wrong with its file."""
        try:
            found = self._read("PRAGMA integrity_check(5)")
        except CatalogError as error:
            return [str(error)]
        return [line for (line,) in found if line != "ok"]

    def sha256(self) -> str:
        """The checksum of the file as SQLite reads it; nothing else may open it.

        Whichever descriptor of a file is closed, the process loses its locks on it (POSIX): another process would then
        take itself for the last reader, and remove the log that is in use here.
        """
        try:
            with self._readers.connection() as connection:
                return hashlib.sha256(connection.serialize()).hexdigest()
        except sqlite3.Error as error:
            raise CatalogError(f"{self.path} cannot be read ({error})") from error

    def copy(self, path: Path, state: State) -> None:
        """Write what this view sees into a new file, which comes to `state`. Raises CatalogError."""
        try:
            with (
                self._readers.connection() as source,
                contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy,
            ):
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("BEGIN")
                copy.execute("DELETE FROM items WHERE added > ?", (state.number,))
                copy.execute(
                    "UPDATE items SET deleted = ? WHERE deleted > ? AND deleted < ?", (FOREVER, state.number, FOREVER)
                )
                copy.execute("DELETE FROM blocks WHERE first >= ?", (state.rows,))
                copy.execute(_MOVE_ON, state)
                copy.execute("COMMIT")
                copy.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise CatalogError(f"{self.path} cannot be copied to {path} ({error})") from error

    def _read(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        try:
            with self._readers.connection() as connection:
                return connection.execute(query, {"number": self.number} | dict(parameters or {})).fetchall()
        except sqlite3.DatabaseError as error:
            raise CatalogError(f"{self.path} cannot be read ({error})") from error


class CatalogWriter:
    """Brings writes into a catalog, each wholly or not at all. There is one at a time."""

    def __init__(self, path: Path) -> None:
        """Open a catalog, or make one."""
        self.path = path
        fresh = not path.exists()
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=60, isolation_level=None)
        # The journal of the store is flushed before a write comes here: what SQLite loses is read from there again.
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")
        if fresh:
            self._connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")

    def apply(
        self,
        state: State,
        items: Iterable[tuple[int, Item]] = (),
        removed: Sequence[int] = (),
        block: Block | None = None,
    ) -> None:
        """Write items under their rows, take others away, and move on to `state`.

        Raises OSError where the disk is full or broken; then nothing has changed.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "UPDATE items SET deleted = ? WHERE row = ?", [(state.number, row) for row in removed]
            )
            names: set[str] = set()
            values = []
            for row, item in items:
                names.update(item.metadata)
                where = (row, item.id, item.modality, item.uri)
                values.append((*where, as_json(item), item.content, state.number, FOREVER))
            self._connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._connection.executemany("INSERT OR IGNORE INTO fields VALUES (?)", [(name,) for name in sorted(names)])
            if block is not None:
                self._connection.execute("INSERT INTO blocks VALUES (?, ?, ?)", block)
            self._connection.execute(_MOVE_ON, state)
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise OSError(f"{self.path} cannot be written ({error})") from error
            raise

    def state(self) -> State:
        """Return how far it has come. Raises CatalogError where it does not say."""
        try:
            return State(*self._connection.execute(_STATE).fetchone())
        except (sqlite3.DatabaseError, TypeError) as error:
            raise CatalogError(f"{self.path} is damaged ({error})") from error

    def settle(self) -> bool:
        """Bring everything into the one file, and return whether that was possible: readers may stand in the way."""
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            return False
        return not busy

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


_VISIBLE = "items.added <= :number AND items.deleted > :number"
_ITEM = "id, modality, uri, metadata, content"
_STATE = "SELECT number, segment, position, rows, items FROM state"
_MOVE_ON = "UPDATE state SET number = ?, segment = ?, position = ?, rows = ?, items = ?"


def check_items(items: Sequence[Item]) -> None:
    """Raise CatalogError for an id that is given twice, and for metadata that are no JSON."""
    repeated = [name for name, times in Counter(item.id for item in items).items() if times > 1]
    if repeated:
        raise CatalogError(f"given twice: {_some(repeated)}; ids must be unique")
    for item in items:
        as_json(item)


def refuse_taken(items: Sequence[Item], rows: npt.NDArray[np.int64]) -> None:
    """Raise TakenError naming items that have a row already."""
    taken = [item.id for item, row in zip(items, rows, strict=True) if row >= 0]
    if taken:
        raise TakenError(f"already in the store: {_some(taken)}; pass replace=True to put the new ones there")


def refuse_missing(ids: Sequence[str]) -> None:
    """Raise CatalogError naming ids that are not here, if there are any."""
    if ids:
        raise CatalogError(f"not in the store: {_some(ids)}")


def refuse_unknown(condition: Condition, known: Sequence[str], modalities: Callable[[], Iterable[str]]) -> None:
    """Raise CatalogError naming a field of a filter, or a modality, that is none of those known.

    `modalities` tells what else a store has, which is asked only where it matters.
    """
    unknown = [name for name in condition.fields() if name not in known]
    if unknown:
        raise CatalogError(f"where: unknown field {unknown[0]!r}; the fields here are {', '.join(known)}")
    others = [name for name in condition.values("modality") if name not in MODALITIES]
    if others and (wrong := [name for name in others if name not in set(modalities())]):
        raise CatalogError(f"where: unknown modality {wrong[0]!r}; they are {', '.join(MODALITIES)}")


def passing(items: Iterable[Item], condition: Condition) -> list[str]:
    """Return the ids of the items that pass a filter, as `Catalog.select` does, of items that lie in no catalog."""
    clause, parameters = condition.sql()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE items (id TEXT, modality TEXT, uri TEXT, metadata TEXT) STRICT")
        values = ((item.id, item.modality, item.uri, as_json(item)) for item in items)
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", values)
        return [id for (id,) in connection.execute(f"SELECT id FROM items WHERE {clause} ORDER BY rowid", parameters)]  # noqa: A001


def as_json(item: Item) -> str:
    """Return an item's metadata as they are written."""
    try:
        return json.dumps(item.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"metadata of item {item.id!r} cannot be written as JSON: {error}") from None


def _item(id: str, modality: str, uri: str, metadata: str, content: str | None) -> Item:  # noqa: A002 - the column's name
    return Item(id, modality, uri, json.loads(metadata), content)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=60, isolation_level=None)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _changes(path: Path) -> _Changes | None:
    """Look at a catalog's file; None where it is gone, as when the store was written anew."""
    try:
        file = path.stat()
    except FileNotFoundError:
        return None
    try:
        log = path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return _Changes(file.st_mtime_ns, file.st_size, None)
    return _Changes(file.st_mtime_ns, file.st_size, log)


def _is_unicode(text: str) -> bool:
    """False for half characters, as in file names that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(map(repr, ids[:3]))
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more"

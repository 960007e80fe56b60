"""A store in Milvus: the same searches, filters and scores as a local one, on a server that others share.

Q: queries, K: hits, N: items, D: width of a vector.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

import dacite
import numpy as np
import numpy.typing as npt

from .catalog import PART, Item, as_json, check_items, passing, refuse_missing, refuse_taken, refuse_unknown
from .durable import now
from .errors import CatalogError, StoreError
from .filters import COLUMNS, Where, parse_where
from .manifest import ModelTag
from .milvus_connection import ANSWERING, SEALING, Connection, connect, plainly
from .milvus_filters import divided, dynamic_fields, literal, one_of
from .precision import Precision, Rows
from .vectors import check_unit_rows, unit_rows

FORMAT = 1
COLLECTION = "onepeace"
MOST_HITS = 16_384  # that Milvus gives to one query
MOST_BYTES = 65_535  # of a text
ROWS_AT_ONCE = 1_000  # in a request that writes, or fetches vectors,
ITEMS_AT_ONCE = 8_192  # that goes through all items,
IDS_AT_ONCE = 10_000  # that names them,
RANGES_AT_ONCE = 100  # that asks for beginnings of names,
HITS_AT_ONCE = 8_192  # that searches; queries count too
INDEXES: dict[str, dict[str, Any]] = {
    "auto": {"index_type": "AUTOINDEX"},  # Milvus chooses
    "exact": {"index_type": "FLAT"},
    "hnsw": {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}},
}
_ITEM = ["id", "modality", "uri", "metadata", "content"]


@dataclass(frozen=True)
class About:
    """What a store says of itself."""

    model: ModelTag
    kind: str
    created: str  # UTC, ISO 8601
    precision: Precision = "float32"
    format: int = FORMAT

    @classmethod
    def read(cls, written: str, place: str) -> About:
        """Read what `json.dumps(asdict(...))` wrote. Raises StoreError where it is of a newer format, or damaged."""
        try:
            content = json.loads(written)
            if content["format"] > FORMAT:
                raise StoreError(f"{place} has format {content['format']}, this version reads {FORMAT}: upgrade")
            return dacite.from_dict(cls, content, dacite.Config(strict=True))
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, dacite.DaciteError) as error:
            raise StoreError(f"what {place} says of itself cannot be read ({error})") from error


@dataclass(frozen=True, order=True)
class Found:
    """An item that a search met, with what Milvus sent of it."""

    id: str
    item: Item = field(compare=False)


Hit = tuple[float, Found]  # with its score


@dataclass(frozen=True)
class Selection:
    """What passes a filter: an expression for Milvus, or the ids where the filter had to be decided here."""

    expression: str
    ids: tuple[str, ...] | None = None

    def expressions(self) -> Iterator[str]:
        """Yield expressions that together mean the selection, none of them too long."""
        if self.ids is None:
            yield self.expression
        else:
            yield from (_with_ids(some) for some in _parts(self.ids, IDS_AT_ONCE))


class MilvusStore:
    """A collection of items in Milvus. Open it with `MilvusStore.open`, make it with `MilvusStore.create`.

    A place is the address of a server ("http://host:19530"; its token is read from ONEPEACE_MILVUS_TOKEN), or the path
    of a folder of Milvus Lite that ends in .db. Every request sees all writes that returned before it. Beside the
    collection lies a small one, named with "_about", that holds the model's tag and the names of fields.

    Raises ImportError without the extra `scale`, StoreError where Milvus cannot be reached.

    >>> texts = ["a dog barks", "rain on a roof"]
    >>> items = [Item(f"notes/{n}", "text", f"notes.txt#{n}", {"text": text}) for n, text in enumerate(texts)]
    >>> MilvusStore.must_be_possible("notes.db")
    >>> MilvusStore.create("notes.db", items, model.encode(texts), model=ModelTag.of(model)).close()
    >>> store, fresh = MilvusStore.open_or_create("notes.db", model=ModelTag.of(model))  # or `MilvusStore.open`
    >>> fresh, len(store), store.counts(), store.fields(), store.model.dimension
    (False, 2, {'text': 2}, ['id', 'modality', 'uri', 'text'], 512)
    >>> store.require_model(ModelTag.of(model))
    >>> store.created  # doctest: +ELLIPSIS
    '20...+00:00'
    >>> list(store.those(["notes/0", "notes/9"])), store.of_files(["none"], ["notes.txt#1"]), list(store.below("/none"))
    (['notes/0'], [], [])
    >>> store.ids("text ~ *dog*"), store.known(["notes/0", "notes/9"]).tolist()
    (['notes/0'], [True, False])
    >>> scores, found = store.current.search(model.encode(["rain"]), 1, store.select("modality=text"))
    >>> [item.id for item in store.items(found[0])], store.vectors_at(found[0]).shape
    (['notes/1'], (1, 512))
    >>> store.vectors_of(["notes/1", "notes/0"]).shape
    (2, 512)
    >>> with store.writing() as writer:
    ...     writer.add([Item("dog", "image", "dog.jpg")], model.encode([onepeace.Image("dog.jpg")]))
    ...     writer.delete(["notes/0"]), writer.parts_of(["dog"]), writer.of_contents(["none"]), writer.merge_is_due()
    ...     writer.merge_what_waits()
    (1, [], [], True)
    >>> store.drop()  # the collection, for good
    >>> store.close()
    """

    def __init__(self, connection: Connection, place: str, collection: str, about: About) -> None:
        self.place, self.collection, self.about = place, collection, about
        self._connection, self._client = connection, connection.client
        self._names: set[str] = set()  # that the small collection is known to hold
        self._unsealed = False

    @classmethod
    def create(
        cls,
        place: str | os.PathLike[str],
        items: Sequence[Item] = (),
        vectors: npt.ArrayLike = (),
        *,
        model: ModelTag,
        collection: str = COLLECTION,
        kind: str = "auto",
    ) -> MilvusStore:
        """Make a store, with these items and vectors (N, D) if there are any.

        `kind` is "exact", "hnsw" or "auto": what a server chooses by itself, and exact with Milvus Lite. Raises
        StoreError where the collection is there already, and as `connect` does.
        """
        _check_kind(kind)
        connection = connect(place, fresh=True)
        try:
            _check_name(collection)
            if kind == "auto" and connection.lite is not None:
                kind = "exact"
            store = cls(connection, os.fspath(place), collection, About(model, kind, now()))
            store._prepared(items, vectors)  # what is wrong with them is said before anything is made
            store._make()
            store.add(items, vectors)
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def open(cls, place: str | os.PathLike[str], collection: str = COLLECTION) -> MilvusStore:
        """Open a store. Raises StoreError where there is none, or not ours, and as `connect` does."""
        connection = connect(place)
        try:
            _check_name(collection)
            about = _read_about(connection.client, os.fspath(place), collection)
        except BaseException:
            connection.close()
            raise
        return cls(connection, os.fspath(place), collection, about)

    @classmethod
    def open_or_create(
        cls, place: str | os.PathLike[str], *, model: ModelTag, collection: str = COLLECTION, kind: str = "auto"
    ) -> tuple[MilvusStore, bool]:
        """Open a store, made first where there is none; and tell whether it was made."""
        connection = connect(place, fresh=True)
        try:
            _check_name(collection)
            with plainly():
                there = connection.client.has_collection(collection, timeout=ANSWERING)
            if there:
                return cls.open(place, collection), False
            return cls.create(place, model=model, collection=collection, kind=kind), True
        finally:
            connection.close()

    @staticmethod
    def must_be_possible(place: str | os.PathLike[str], collection: str = COLLECTION, kind: str = "auto") -> None:
        """Raise ValueError, or StoreError, unless a store can be made or opened there."""
        _check_kind(kind)
        _check_name(collection)
        connect(place, fresh=True).close()

    @property
    def model(self) -> ModelTag:
        """The model that made the vectors."""
        return self.about.model

    @property
    def created(self) -> str:
        """When it was made (UTC, ISO 8601)."""
        return self.about.created

    @property
    def current(self) -> MilvusStore:
        """This store: Milvus keeps no older states to read."""
        return self

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError unless `model` is the one that made this store's vectors."""
        self.model.require(model, f"collection {self.collection} of {self.place}")

    def __len__(self) -> int:
        return self._count("")

    def __iter__(self) -> Iterator[Item]:
        for page in self._pages("", _ITEM):
            yield from map(_item, page)

    def counts(self) -> dict[str, int]:
        """The number of items of each modality, most first."""
        counts = {name: self._count(f"modality == {literal(name)}") for name in self._noted("modality/")}
        return dict(sorted(((name, n) for name, n in counts.items() if n), key=lambda pair: (-pair[1], pair[0])))

    def fields(self) -> list[str]:
        """Every field that a filter may name."""
        return [*COLUMNS, *(name for name in self._noted("field/") if name not in COLUMNS)]

    def select(self, where: Where) -> Selection:
        """Return what passes a filter. Raises ValueError naming an unknown field.

        What Milvus does not decide as a local store does, such as patterns with ?, is decided here: all items that pass
        the rest are fetched without their vectors.
        """
        condition = parse_where(where)
        refuse_unknown(condition, self.fields(), lambda: self._noted("modality/"))
        expression, left = divided(condition)
        if left is None:
            return Selection(expression)
        pages = self._pages(expression, _ITEM)
        return Selection("", tuple(name for page in pages for name in passing(map(_item, page), left)))

    def ids(self, where: Where) -> list[str]:
        """The ids of the items that pass a filter. Raises ValueError naming an unknown field."""
        selected = self.select(where)
        if selected.ids is not None:
            return list(selected.ids)
        return [line["id"] for page in self._pages(selected.expression, ["id"]) for line in page]

    def search(
        self, queries_QD: Rows, k: int, within: Selection | None = None
    ) -> tuple[list[Rows], list[npt.NDArray[np.object_]]]:
        """Return the scores (K,) and `Found` (K,) of each unit query's k nearest items, best first.

        Raises StoreError for more than 16,384 hits of a larger store, which Milvus does not give.
        """
        check_unit_rows(queries_QD, self.model.dimension)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if k > MOST_HITS and (k := max(1, min(k, len(self)))) > MOST_HITS:
            raise StoreError(f"Milvus gives at most {MOST_HITS:,} hits of a search, this one needs more: ask for less")
        best: list[list[Hit]] = [[] for _ in queries_QD]
        for expression in [""] if within is None else within.expressions():
            for first in range(0, len(queries_QD), at_once := max(1, HITS_AT_ONCE // k)):
                for place, hits in enumerate(self._nearest(queries_QD[first : first + at_once], k, expression), first):
                    best[place] = _best(best[place] + hits, k)
        scores = [np.array([score for score, _ in hits], np.float32) for hits in best]
        return scores, [_objects([found for _, found in hits]) for hits in best]

    def items(self, keys: npt.NDArray[np.object_]) -> list[Item]:
        """Return the items of what `search` found."""
        return [found.item for found in keys]

    def vectors_at(self, keys: npt.NDArray[np.object_]) -> Rows:
        """Return the unit vectors (N, D) of what `search` found."""
        return self.vectors_of([found.id for found in keys])

    def vectors_of(self, ids: Sequence[str]) -> Rows:
        """Return the unit vectors (N, D) of these items, in the order asked. Raises CatalogError for an unknown id."""
        vectors: dict[str, Any] = {}
        for some in _parts(list(dict.fromkeys(ids)), ROWS_AT_ONCE):
            vectors |= {line["id"]: line["vector"] for line in self._lines(_with_ids(some), ["id", "vector"])}
        refuse_missing([name for name in ids if name not in vectors])
        return np.array([vectors[name] for name in ids], np.float32).reshape(len(ids), self.model.dimension)

    def of_contents(self, contents: Sequence[str], *, parts: bool = False) -> list[tuple[Item, Rows]]:
        """Return an item and its unit vector (D,) for each hash of content that is here, or for each part of it."""
        asked = list(dict.fromkeys(contents))
        found = [item for some in _parts(asked, ROWS_AT_ONCE) for item in self._those(one_of("content", some))]
        if parts:
            found += self._parts("content", asked)
        items = list({item.content: item for item in found}.values())
        return list(zip(items, self.vectors_of([item.id for item in items]), strict=True))

    def those(self, ids: Sequence[str]) -> dict[str, Item]:
        """Return the items of these ids that are here."""
        asked = list(dict.fromkeys(ids))
        return {item.id: item for some in _parts(asked, ROWS_AT_ONCE) for item in self._those(_with_ids(some))}

    def of_files(self, contents: Sequence[str], uris: Sequence[str], *, parts: bool = False) -> list[Item]:
        """Return the items of these contents, or also parts of them, that came from one of these uris."""
        asked, wanted = list(dict.fromkeys(contents)), set(uris)
        found = [item for some in _parts(asked, ROWS_AT_ONCE) for item in self._those(one_of("content", some))]
        found += self._parts("content", asked) if parts else []
        return [item for item in found if item.uri in wanted]

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield id and uri of every item from a folder."""
        behind = folder + chr(ord("/") + 1)
        expression = f"uri >= {literal(folder + '/')} and uri < {literal(behind)}"
        for page in self._pages(expression, ["id", "uri"]):
            yield from ((line["id"], line["uri"]) for line in page)

    def parts_of(self, ids: Sequence[str]) -> list[Item]:
        """Return the parts of files with these ids."""
        return self._parts("id", ids)

    def _parts(self, field: str, names: Sequence[str]) -> list[Item]:
        """Return the items whose `field` is one of some names with the place of a part behind."""
        behind = chr(ord(PART) + 1)  # all that has a mark and a place behind the name lies between the two
        ranges = [f"({field} >= {literal(name + PART)} and {field} < {literal(name + behind)})" for name in names]
        return [item for some in _parts(ranges, RANGES_AT_ONCE) for item in self._those(" or ".join(some))]

    def _those(self, expression: str) -> list[Item]:
        return [_item(line) for line in self._lines(expression, _ITEM)]

    @contextmanager
    def writing(self, *, merging: bool = True) -> Iterator[MilvusStore]:
        """Return the store itself, as what is written to: Milvus has no lock to keep."""
        yield self

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken (N,)."""
        taken: set[str] = set()
        for some in _parts(list(dict.fromkeys(ids)), ROWS_AT_ONCE):
            taken |= {line["id"] for line in self._lines(_with_ids(some), ["id"])}
        return np.array([name in taken for name in ids], np.bool_)

    def add(self, items: Sequence[Item], vectors: npt.ArrayLike, *, replace: bool = False) -> None:
        """Add items and their vectors (N, D), which are brought to length one.

        An id that is taken is refused, or with `replace` takes the new item and vector. Raises CatalogError for what
        cannot be taken; then nothing has changed. Should Milvus fail midway, some of every thousand items may be there;
        adding them again is harmless.
        """
        lines, rows_ND = self._prepared(items, vectors)
        if not lines:
            return
        with self._connection.writing, plainly():
            if not replace:
                refuse_taken(items, np.where(self.known([item.id for item in items]), 0, -1))
            self._note({f"modality/{item.modality}" for item in items})
            self._note({f"field/{name}" for item in items for name in item.metadata})
            self._unsealed = True
            # From the last to the first: the first part of a file is what tells that all of it is here.
            for first in reversed(range(0, len(lines), ROWS_AT_ONCE)):
                here = slice(first, first + ROWS_AT_ONCE)
                rows = [line | {"vector": row_D} for line, row_D in zip(lines[here], rows_ND[here], strict=True)]
                # Never a bare insert: one that is sent again when an answer was lost would leave an id twice.
                self._client.upsert(self.collection, rows, timeout=ANSWERING)

    def _prepared(self, items: Sequence[Item], vectors: npt.ArrayLike) -> tuple[list[dict[str, Any]], Rows]:
        if len(items) == 0 and np.size(vectors) == 0:
            return [], np.empty((0, self.model.dimension), np.float32)
        rows_ND = unit_rows(vectors, self.model.dimension)
        if len(rows_ND) != len(items):
            raise ValueError(f"expected one vector an item, got {len(items)} items and {len(rows_ND)} vectors")
        check_items(items)
        return [_line(item) for item in items], rows_ND

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Take items away and return how many. Raises CatalogError naming ids that are not here, unless told not to."""
        ids = list(dict.fromkeys(ids))
        with self._connection.writing, plainly():
            known = self.known(ids)
            there = [name for name, taken in zip(ids, known, strict=True) if taken]
            if not missing_ok:
                refuse_missing([name for name, taken in zip(ids, known, strict=True) if not taken])
            for some in _parts(there, ROWS_AT_ONCE):
                self._client.delete(self.collection, filter=_with_ids(some), timeout=ANSWERING)
        return len(there)

    def merge_is_due(self) -> bool:
        """Tell whether something was added since Milvus last was told to seal what it has."""
        return self._unsealed

    def merge_what_waits(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Have Milvus seal what it has; it then builds its index over that by itself."""
        with self._connection.writing, plainly():
            for name in (self._notes, self.collection):
                self._client.flush(name, timeout=SEALING)
        self._unsealed = False
        if progress is not None:
            progress("sealing", 1, 1)

    def drop(self) -> None:
        """Remove the store and all its items."""
        with self._connection.writing, plainly():
            for name in (self.collection, self._notes):
                self._client.drop_collection(name, timeout=ANSWERING)

    def close(self) -> None:
        """Let go of the connection, and end Milvus Lite with the last one."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _notes(self) -> str:
        return f"{self.collection}_about"

    def _make(self) -> None:
        """Make both collections; the large one last, as its being there means that the store is whole."""
        with self._connection.writing, plainly():
            if self._client.has_collection(self.collection, timeout=ANSWERING):
                raise StoreError(
                    f"{self.place} has a collection {self.collection!r} already: choose another, or add to it"
                )
            if self._client.has_collection(self._notes, timeout=ANSWERING):  # left by one that was interrupted
                self._client.drop_collection(self._notes, timeout=ANSWERING)
            self._make_collection(self._notes, ["name", "value"], 2, {"index_type": "FLAT"}, dynamic=False)
            note = {"name": "about", "value": json.dumps(asdict(self.about)), "vector": [0.0, 1.0]}
            self._client.upsert(self._notes, [note], timeout=ANSWERING)
            self._make_collection(
                self.collection, ["key", *_ITEM], self.model.dimension, INDEXES[self.about.kind], dynamic=True
            )

    def _make_collection(
        self, name: str, texts: list[str], width: int, index: dict[str, Any], *, dynamic: bool
    ) -> None:
        import pymilvus

        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=dynamic)
        for text in texts:
            schema.add_field(text, pymilvus.DataType.VARCHAR, is_primary=text == texts[0], max_length=MOST_BYTES)
        schema.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=width)
        indexes = self._client.prepare_index_params()
        indexes.add_index("vector", metric_type="IP", **index)  # of unit rows that is the cosine
        self._client.create_collection(
            name, schema=schema, index_params=indexes, consistency_level="Strong", timeout=ANSWERING
        )

    def _note(self, names: set[str]) -> None:
        new = sorted(names - self._names)
        if new:
            rows = [{"name": name, "value": "", "vector": [0.0, 1.0]} for name in new]
            self._client.upsert(self._notes, rows, timeout=ANSWERING)
            self._names |= names

    def _noted(self, kind: str) -> list[str]:
        lines = self._lines('name != ""', ["name"], self._notes)
        return sorted(line["name"].removeprefix(kind) for line in lines if line["name"].startswith(kind))

    def _count(self, expression: str) -> int:
        return int(self._lines(expression, ["count(*)"])[0]["count(*)"])

    def _lines(self, expression: str, fields: list[str], collection: str | None = None) -> list[dict[str, Any]]:
        with plainly():
            return list(
                self._client.query(
                    collection or self.collection,
                    filter=expression,
                    output_fields=fields,
                    consistency_level="Strong",
                    timeout=ANSWERING,
                )
            )

    def _pages(self, expression: str, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        with plainly():
            iterator = self._client.query_iterator(
                self.collection,
                batch_size=ITEMS_AT_ONCE,
                filter=expression,
                output_fields=fields,
                consistency_level="Strong",
                timeout=ANSWERING,
            )
            try:
                while page := iterator.next():
                    yield page
            finally:
                iterator.close()

    def _nearest(self, queries_QD: Rows, k: int, expression: str) -> list[list[Hit]]:
        """Return the k best of each query. Where an approximate index met too few that pass, all are compared."""
        found = list(self._hits(queries_QD, k, expression))
        if self.about.kind == "exact" or all(len(hits) == k for hits in found):
            return found
        k = min(k, self._count(expression))
        short = [place for place, hits in enumerate(found) if len(hits) < k]
        if short:
            for place, hits in zip(short, self._compared(queries_QD[short], k, expression), strict=True):
                found[place] = hits
        return found

    def _compared(self, queries_QD: Rows, k: int, expression: str) -> list[list[Hit]]:
        best: list[list[Hit]] = [[] for _ in queries_QD]
        for page in self._pages(expression, [*_ITEM, "vector"]):
            scores_QN = queries_QD @ np.array([line["vector"] for line in page], np.float32).T
            for place, scores_N in enumerate(scores_QN):
                nearest = np.argsort(-scores_N, kind="stable")[:k]
                hits = [(float(scores_N[n]), Found(page[n]["id"], _item(page[n]))) for n in nearest]
                best[place] = _best(best[place] + hits, k)
        return best

    def _hits(self, queries_QD: Rows, k: int, expression: str) -> Iterator[list[Hit]]:
        parameters = {"params": {"ef": max(64, 2 * k)}} if self.about.kind == "hnsw" else {}
        with plainly():
            answers = self._client.search(
                self.collection,
                queries_QD,
                filter=expression,
                limit=k,
                output_fields=_ITEM,
                search_params={"metric_type": "IP"} | parameters,
                consistency_level="Strong",
                timeout=ANSWERING,
            )
        for hits in answers:
            yield [(float(hit["distance"]), Found(hit["entity"]["id"], _item(hit["entity"]))) for hit in hits]


def _best(hits: list[Hit], k: int) -> list[Hit]:
    return sorted(hits, key=lambda hit: -hit[0])[:k]  # stable: of equals those found first


def _check_kind(kind: str) -> None:
    if kind not in INDEXES:
        raise ValueError(f"in Milvus kind must be one of {', '.join(INDEXES)}, got {kind!r}")


def _check_name(collection: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", collection):
        raise ValueError(
            f"a collection's name holds letters, digits and _, and begins with no digit, got {collection!r}"
        )


def _read_about(client: Any, place: str, collection: str) -> About:
    with plainly():
        if not client.has_collection(collection, timeout=ANSWERING):
            raise StoreError(f"{place} has no collection {collection!r}: make it with `onepeace index build`")
        notes = f"{collection}_about"
        lines: list[dict[str, Any]] = []
        if client.has_collection(notes, timeout=ANSWERING):
            for name in (notes, collection):
                client.load_collection(name, timeout=ANSWERING)
            lines = client.query(
                notes, filter='name == "about"', output_fields=["value"], consistency_level="Strong", timeout=ANSWERING
            )
    if not lines:
        raise StoreError(f"collection {collection!r} of {place} was not made by onepeace: choose another")
    return About.read(lines[0]["value"], f"collection {collection!r} of {place}")


def _line(item: Item) -> dict[str, Any]:
    """Return an item as Milvus holds it, without its vector. Raises CatalogError for what is too long for it."""
    texts = {"id": item.id, "modality": item.modality, "uri": item.uri, "metadata": as_json(item)}
    texts |= {"content": item.content or "", "key": _key(item.id)}
    dynamic = dynamic_fields(item.metadata)
    for name, text in [*texts.items(), ("metadata", json.dumps(dynamic, ensure_ascii=False))]:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise CatalogError(f"the {name} of item {item.id!r} holds half characters ({error.reason})") from None
        if size > MOST_BYTES:
            raise CatalogError(f"the {name} of item {item.id[:80]!r} takes {size:,} bytes, Milvus holds {MOST_BYTES:,}")
    return texts | dynamic


def _key(name: str) -> str:
    """The primary key of an id: pymilvus puts keys into expressions as they are, which not every text survives."""
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _with_ids(ids: Iterable[str]) -> str:
    return one_of("key", map(_key, ids))


def _item(line: dict[str, Any]) -> Item:
    return Item(line["id"], line["modality"], line["uri"], json.loads(line["metadata"]), line["content"] or None)


def _objects(found: list[Found]) -> npt.NDArray[np.object_]:
    array = np.empty(len(found), np.object_)
    array[:] = found
    return array


def _parts(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(values), size):
        yield values[first : first + size]

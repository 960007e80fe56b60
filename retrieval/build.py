"""Files and folders -> embeddings -> a store, in bounded memory; what cannot be read is reported, never fatal."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from onepeace.progress import progress_bar

from .build_config import BuildConfig, BuildReport
from .catalog import Item
from .changes import Standing, content_of, gone_from, standing
from .durable import WriterLock
from .engine import EmbeddingModel, Engine, LocalEngine
from .errors import StoreError
from .found import Failure, Ignored, printable
from .index import Progress
from .manifest import MANIFEST_NAME, ModelTag
from .parts import SEQUENCES, copied, file_id, first_parts, is_part, parts, told, whole
from .precision import Precision
from .scan import Found, existing, scan
from .sequences import is_tiff
from .store import Store
from .vector_table import VectorTable, vector_tables

Paths = Sequence[str | os.PathLike[str]]
Vector = npt.NDArray[np.float32]  # (D,), of length one
Copies = dict[str | None, list[Item]]  # by their content

READY_AT_ONCE = 4_096  # vectors that are written together where none is computed


class Writer(Protocol):
    """What building needs of a store while it writes."""

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken (N,)."""

    def of_contents(self, contents: Sequence[str], *, parts: bool = False) -> list[tuple[Item, Vector]]:
        """Return an item and its unit vector (D,) for each hash of content that is here, or for each part of it."""

    def parts_of(self, ids: Sequence[str]) -> list[Item]:
        """Return the parts of files with these ids."""

    def those(self, ids: Sequence[str]) -> dict[str, Item]:
        """Return the items of these ids that are here."""

    def of_files(self, contents: Sequence[str], uris: Sequence[str], *, parts: bool = False) -> list[Item]:
        """Return the items of these contents, or also parts of them, that came from one of these uris."""

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield id and uri of every item from a folder."""

    def add(self, items: Sequence[Item], vectors: npt.ArrayLike, *, replace: bool = False) -> None:
        """Add items and their vectors (N, D)."""

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> int:
        """Take items away."""

    def merge_is_due(self) -> bool:
        """Tell whether an index is to be built over what was added."""

    def merge_what_waits(self, progress: Progress | None = None) -> None:
        """Build it."""


class GrowingStore(Protocol):
    """What can be built into: `Store`, and `MilvusStore`."""

    @property
    def created(self) -> str:
        """When it was made (UTC, ISO 8601)."""

    def __len__(self) -> int: ...

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError for another model than the one that made the vectors."""

    def writing(self, *, merging: bool = True) -> AbstractContextManager[Writer]:
        """Keep the right to write."""


def build_store(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: EmbeddingModel | Engine | None,
    config: BuildConfig | None = None,
    *,
    precision: Precision | None = None,
    kind: str | None = None,
    recall: float | None = None,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store, which is made unless it is there.

    `scan` says what is taken from them and which ids it gets. What has been embedded is on the disk after every batch:
    a build that was interrupted goes on where it stopped when it is started again. Without anything that could be
    added no store is made. `model` runs in this process, or is an engine that runs it elsewhere (`RayEngine`). Tables
    of vectors that `onepeace embed` wrote are taken as they are; with nothing else `model` may be None. `precision`,
    `kind` and `recall` are those of `Store.create`; a store that is there must have them. Progress goes to stderr: a
    bar, or where that is no terminal, a line now and then. Raises ValueError for a path that does not exist, StoreError
    for a folder that holds something else, or a store of another kind, or another model's vectors.

    >>> build_store(["dog.jpg", "rain.ogg"], "my-store", model).added
    2
    >>> build_store(["dog.jpg", "rain.ogg", "dog.flac"], "my-store", model).present  # goes on with what is there
    2
    """
    fresh = not (Path(folder) / MANIFEST_NAME).is_file()
    wanted = {"precision": precision, "kind": kind, "recall": recall}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if fresh:
        Store.create(folder, model=_tag(paths, model), **wanted).close()  # type: ignore[arg-type]
    try:
        with Store.open(folder) as store:
            manifest = store.current.manifest
            has = {"precision": manifest.precision, "kind": manifest.index_kind, "recall": manifest.recall}
            for name, value in wanted.items():
                if has[name] != value:
                    way = (
                        "" if name == "precision" else f"; `onepeace index merge {folder} --{name} {value}` changes it"
                    )
                    raise StoreError(f"{name} of the store {folder} is {has[name]}, not {value}{way}")
            return add_to_store(store, paths, model, config, show_progress_bar=show_progress_bar)
    finally:
        if fresh:
            _remove_empty(Path(folder))


def _remove_empty(folder: Path) -> None:
    """Remove a store that nothing came into, unless somebody writes to it."""
    try:
        lock = WriterLock(folder)
    except (StoreError, OSError):
        return
    try:
        with Store.open(folder) as store:
            empty = len(store) == 0
        if empty:
            shutil.rmtree(folder, ignore_errors=True)
    except (StoreError, OSError):
        return  # opening says what is wrong with it
    finally:
        lock.release()


def build_in_milvus(
    paths: Paths,
    place: str | os.PathLike[str],
    model: EmbeddingModel | Engine | None,
    config: BuildConfig | None = None,
    *,
    collection: str = "onepeace",
    kind: str = "auto",
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store in Milvus, as `build_store` does into a folder.

    `place`, `collection` and `kind` are those of `MilvusStore.create`; raises as it does.

    >>> build_in_milvus(["dog.jpg"], "my.db", model).added  # Milvus Lite: a file, no server
    1
    """
    from .milvus import MilvusStore

    store, fresh = MilvusStore.open_or_create(place, model=_tag(paths, model), collection=collection, kind=kind)
    with store:
        try:
            return add_to_store(store, paths, model, config, show_progress_bar=show_progress_bar)
        finally:
            if fresh and len(store) == 0:
                store.drop()


def add_to_store(
    store: GrowingStore,
    paths: Paths,
    model: EmbeddingModel | Engine | None,
    config: BuildConfig | None = None,
    *,
    replace: bool = False,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store that is there; each batch can be found as soon as it is embedded.

    Items that the store has are left alone, or with `replace` embedded again. Raises as `build_store` does, and
    StoreError for another model than the store's.

    >>> report = build_store(["dog.jpg"], "my-store", model)
    >>> with Store.open("my-store") as store:
    ...     add_to_store(store, ["rain.ogg", "dog.jpg"], model, BuildConfig(batch_size=8)).added
    1
    """
    existing(paths)
    tables, paths = vector_tables(paths)
    for tag in [*(table.tag for table in tables), *([] if model is None else [ModelTag.of(model)])]:
        store.require_model(tag)
    engine = _needed(model) if paths else None
    config, report = config or BuildConfig(), BuildReport()
    with store.writing(merging=False) as writer:  # once, at the end
        grows = len(store) > 0
        _take(tables, writer, store.created, report, replace=replace, show=show_progress_bar)
        if engine is not None:
            _embed(paths, writer, engine, config, store.created, report, replace=replace, show=show_progress_bar)
        if grows:
            _look_for_gone(paths, writer, report)
        if writer.merge_is_due():
            with progress_bar(100, "indexing", show_progress_bar) as advance:
                writer.merge_what_waits(in_percent(advance))
    return report


def _tag(paths: Paths, model: EmbeddingModel | Engine | None) -> ModelTag:
    """The model of a new store."""
    existing(paths)
    tables, _ = vector_tables(paths)
    return tables[0].tag if model is None and tables else ModelTag.of(_needed(model))


def _needed(model: EmbeddingModel | Engine | None) -> Engine:
    if model is None:
        raise ValueError("only tables of vectors are taken without a model: give one for the other paths")
    return model if isinstance(model, Engine) else LocalEngine(model)


def in_percent(advance: Callable[[int], object]) -> Progress:
    """Return what `StoreWriter.merge` tells its progress to, for a bar of 100."""
    before = 0

    def told(what: str, done: int, total: int) -> None:
        nonlocal before
        begins, ends = {"training": (0, 30), "adding": (30, 90)}.get(what, (90, 100))
        reached = begins + (ends - begins) * done // max(1, total)
        advance(max(0, reached - before))
        before = max(before, reached)

    return told


def _take(
    tables: Sequence[VectorTable],
    writer: Writer,
    created: str,
    report: BuildReport,
    *,
    replace: bool,
    show: bool | None,
) -> None:
    """Add vectors that are ready."""
    if not tables:
        return
    with progress_bar(sum(table.count for table in tables), "adding vectors", show) as advance:
        for rows in chain.from_iterable(table.rows(READY_AT_ONCE) for table in tables):
            place_of = {item.id: place for place, item in enumerate(rows.items)}
            unique = [rows.items[place] for place in place_of.values()]
            stored = writer.those(list(place_of))
            fresh = [place_of[item.id] for item in _left(unique, stored, created, report, replace=replace)]
            if fresh:
                writer.add([rows.items[place] for place in fresh], rows.vectors[fresh], replace=replace)
            report.added += len(fresh)
            report.present += len(rows.items) - len(unique)
            report.failed += rows.failures
            advance(len(rows.items) + len(rows.failures))


def _embed(
    paths: Paths,
    writer: Writer,
    engine: Engine,
    config: BuildConfig,
    created: str,
    report: BuildReport,
    *,
    replace: bool,
    show: bool | None,
) -> None:
    with progress_bar(counted(paths, engine.modalities, config, show), show=show) as advance:
        for found, count in scanned(paths, engine.modalities, config, report, engine.items_at_once(config)):
            unique = list({item.id: item for item in found}.values())
            report.present += len(found) - len(unique)
            known = _known(unique, writer, config)
            fresh = _hashed(_left(unique, known, created, report, replace=replace), config)
            fresh = _without_known_files(fresh, known, writer, config, report)
            originals, copies, stored = _sorted_out(fresh, writer, config, report, replace=replace)
            _add([], stored, copies, writer, config, report, replace=replace)
            moved = 0
            for items, vectors in engine.embed(originals, config, report):
                rows = list(zip(items, vectors, strict=True))
                _add(rows, rows, copies, writer, config, report, replace=replace)
                done = len({file_id(item) for item in items})
                advance(done)
                moved += done
            lost = [copy for waiting in copies.values() for copy in waiting]
            report.failed += [Failure(printable(copy.uri), "it is a copy of one that cannot be read") for copy in lost]
            advance(count - moved)


def _add(
    rows: list[tuple[Item, Vector]],
    sources: list[tuple[Item, Vector]],
    copies: Copies,
    writer: Writer,
    config: BuildConfig,
    report: BuildReport,
    *,
    replace: bool,
) -> None:
    """Write rows, and the copies that wait for the content of `sources`."""
    rows_of: dict[str, list[tuple[Item, Vector]]] = defaultdict(list)  # of a content; several where it was cut
    for item, vector in sources:
        rows_of[whole(item)].append((item, vector))
    same = [
        (copied(copy, other), vector)
        for content, group in rows_of.items()
        for copy in copies.pop(content, ())
        for other, vector in group
    ]
    rows = [*rows, *same]
    report.reused += len(same)
    if not replace and any(is_part(item) for item, _ in rows):  # of a file that lost only some
        taken = writer.known([item.id for item, _ in rows])
        rows = [row for row, there in zip(rows, taken, strict=True) if not there]
    if rows:
        writer.add([item for item, _ in rows], np.stack([vector for _, vector in rows]), replace=replace)
    if replace:
        _remove_stale_parts([item for item, _ in rows], writer)
    report.added += len(rows)


def _known(items: list[Item], writer: Writer, config: BuildConfig) -> dict[str, Item]:
    """The items that the store has, by the ids of these; of a file that was cut its first part."""
    firsts = {name: item.id for item in items for name in first_parts(item, config.windows)}
    cut = writer.those(list(firsts)) if firsts else {}
    return {firsts[name]: item for name, item in cut.items()} | writer.those([item.id for item in items])


def _left(items: list[Item], known: dict[str, Item], created: str, report: BuildReport, *, replace: bool) -> list[Item]:
    """Return the items that are to be added, and write into `report` how the store has the others."""
    there = [item for item in items if item.id in known]
    with ThreadPoolExecutor(2) as pool:
        standings = pool.map(lambda item: standing(item, known[item.id], created), there)
        found = {item.id: how for item, how in zip(there, standings, strict=True)}
    left = []
    for item in items:
        how = found.get(item.id)
        if how is Standing.OTHER:
            other = f"the store has another file as {item.id}, {known[item.id].uri}"
            report.conflicts.append(
                Failure(printable(item.uri), f"{printable(other)}: give a folder that holds both, or rename one")
            )
        elif how is None or replace:
            left.append(item)
        else:
            report.present += 1
            report.changed += [printable(item.uri)] if how is Standing.CHANGED else []
            report.gone += [known[item.id].id] if how is Standing.GONE else []
    return left


def _without_known_files(
    items: list[Item], known: dict[str, Item], writer: Writer, config: BuildConfig, report: BuildReport
) -> list[Item]:
    """Leave out files that the store has under another id, unless a table tells something else of them."""
    asked = [(item.content, item.uri) for item in items if item.content is not None and item.id not in known]
    if not asked:
        return items
    contents, uris = zip(*asked, strict=True)
    names: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for stored in writer.of_files(contents, uris, parts=_some_are_cut(items, config)):
        names[_as_file(stored)].add(file_id(stored))
    left = []
    for item in items:
        if item.content is None or item.id in known:
            left.append(item)
        elif names[_as_file(item)] - {item.id}:  # under its own id are parts of a file that lost some
            report.present += 1
        else:
            names[_as_file(item)].add(item.id)
            left.append(item)
    return left


def _as_file(item: Item) -> tuple[str, str, str]:
    """Uri, content and what is told of an item, without its id."""
    return item.uri, whole(item), json.dumps(told(item), sort_keys=True)


def _some_are_cut(items: list[Item], config: BuildConfig) -> bool:
    return config.windows or any(item.modality in SEQUENCES for item in items)


def _look_for_gone(paths: Paths, writer: Writer, report: BuildReport) -> None:
    """Write into `report` what the store has of folders whose files are not there any more."""
    told = set(report.gone)
    for path in existing(paths):
        if path.is_dir():
            report.gone += [name for name in gone_from(path, writer) if name not in told]


def _remove_stale_parts(items: list[Item], writer: Writer) -> None:
    """Take away what the store had of files that are now cut otherwise, or not any more."""
    files = {file_id(item) for item in items if is_part(item) or item.modality == "audio" or is_tiff(item.uri)}
    had = files | {item.id for item in writer.parts_of(sorted(files)) if file_id(item) in files}
    writer.delete(sorted(had - {item.id for item in items}), missing_ok=True)


def _sorted_out(
    items: list[Item], writer: Writer, config: BuildConfig, report: BuildReport, *, replace: bool
) -> tuple[list[Item], Copies, list[tuple[Item, Vector]]]:
    """Return what is to be embedded, what has the content of another, and items of such contents that the store has.

    What is to be replaced is embedded anew, so that then the store counts for nothing.
    """
    contents = [item.content for item in items if item.content is not None]
    stored = [] if replace else writer.of_contents(contents, parts=_some_are_cut(items, config))
    counts = Counter(whole(item) for item, _ in stored)
    stored = [(item, vector) for item, vector in stored if counts[whole(item)] == parts(item)]
    there = {whole(item) for item, _ in stored}
    originals: dict[str, Item] = {}
    copies: Copies = defaultdict(list)
    for item in items:
        if item.content is None or (item.content not in there and item.content not in originals):
            originals[item.content or item.id] = item
        elif config.duplicates:
            copies[item.content].append(item)
        else:
            report.duplicates.append(printable(item.uri))
    return list(originals.values()), copies, stored


def _hashed(items: list[Item], config: BuildConfig) -> list[Item]:
    with ThreadPoolExecutor(2) as pool:
        hashes = pool.map(partial(content_of, config=config), items)
        return [replace(item, content=text) for item, text in zip(items, hashes, strict=True)]


def counted(paths: Paths, modalities: Sequence[str], config: BuildConfig, show: bool | None) -> int:
    """Return how many things `scanned` goes through, for a progress bar; 0 where none is shown."""
    # Scanning twice costs little beside embedding, and so the progress can say how much is left.
    return 0 if show is False else sum(1 for _ in scan(paths, modalities, config.text_column))


def scanned(
    paths: Paths, modalities: Sequence[str], config: BuildConfig, report: BuildReport, at_once: int
) -> Iterator[tuple[list[Item], int]]:
    """Yield the items of files and folders among `at_once` things at a time, and write into `report` what is none.

    With them comes how many things they were found among.
    """
    for batch in _batched(scan(paths, modalities, config.text_column), at_once):
        report.failed += [one for one in batch if isinstance(one, Failure)]
        report.ignored += [one.uri for one in batch if isinstance(one, Ignored)]
        yield [one for one in batch if isinstance(one, Item)], len(batch)


def _batched(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    rest = iter(found)
    while batch := list(islice(rest, size)):
        yield batch

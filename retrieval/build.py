"""Files and folders -> embeddings -> a store, in bounded memory; what cannot be read is reported, never fatal."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onepeace.progress import progress_bar

from .arrow import MARKS, Cell
from .catalog import WINDOW, Item
from .index import Progress
from .manifest import MANIFEST_NAME, ModelTag, NamedModel
from .precision import Precision
from .scan import Failure, Found, Ignored, existing, printable, scan
from .store import Store
from .vector_table import VectorTable, vector_tables

Paths = Sequence[str | os.PathLike[str]]
Vector = npt.NDArray[np.float32]  # (D,), of length one

READY_AT_ONCE = 4_096  # vectors that are written together where none is computed
FIRST_WINDOW = f"{WINDOW}0.0"


class Encoded(Protocol):
    """What became of a list of inputs."""

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """Unit rows (M, D) of those that could be read."""

    @property
    def kept(self) -> Sequence[int]:
        """Their places in the list (M,)."""

    @property
    def failures(self) -> Sequence[tuple[int, str]]:
        """Place and reason of the others."""

    @property
    def spans(self) -> Sequence[tuple[float, float] | None]:
        """Start and end in seconds of the window that a row is for (M,); None where it is for the whole."""


class Writer(Protocol):
    """What building needs of a store while it writes."""

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken (N,)."""

    def of_contents(self, contents: Sequence[str], *, windows: bool = False) -> list[tuple[Item, Vector]]:
        """Return an item and its unit vector (D,) for each hash of content that is here, or for each window of it."""

    def windows_of(self, ids: Sequence[str]) -> list[Item]:
        """Return the windows of sounds with these ids."""

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

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError for another model than the one that made the vectors."""

    def writing(self, *, merging: bool = True) -> AbstractContextManager[Writer]:
        """Keep the right to write."""


class EmbeddingModel(NamedModel, Protocol):
    """What building needs of a model; `onepeace.Embedder` has it."""

    @property
    def modalities(self) -> Sequence[str]:
        """What it embeds: "text", "image", "audio"."""

    def encode_many(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        windows: bool = False,
    ) -> Encoded:
        """Embed a mixed list, leaving out what cannot be read; with `windows` long sounds give a row a window."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How files become items, and items vectors."""

    batch_size: int = 32  # items in one forward pass
    batches_at_once: int = 16  # handed to the model together, so that it can sort them by length; bounds memory
    text_column: str = "text"  # the column with texts in .csv, .tsv, .jsonl and .parquet files
    duplicates: bool = True  # keep files with the same content; they are embedded once, either way
    windows: bool = False  # a sound longer than the model's window becomes an item a window, with its start and end

    @property
    def items_at_once(self) -> int:
        """How many items are read, embedded and written together."""
        return self.batch_size * self.batches_at_once

    def __post_init__(self) -> None:
        for name in ("batch_size", "batches_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"build.{name} must be at least 1, got {getattr(self, name)}")
        if not self.text_column:
            raise ValueError("build.text_column must name a column, got an empty string")


@dataclass
class BuildReport:
    """What became of the files."""

    added: int = 0
    present: int = 0  # items whose id was in the store already; left as they were
    reused: int = 0  # of those added, items whose content had been embedded already
    duplicates: list[str] = field(default_factory=list)  # uris left out, since their content is in the store
    failed: list[Failure] = field(default_factory=list)  # (uri, reason)
    ignored: list[str] = field(default_factory=list)  # files that are neither media nor text


def build_store(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: EmbeddingModel | None,
    config: BuildConfig | None = None,
    *,
    precision: Precision = "float32",
    kind: str = "auto",
    recall: float = 0.98,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store, which is made unless it is there.

    `scan` says what is taken from them and which ids it gets. What has been embedded is on the disk after every batch:
    a build that was interrupted goes on where it stopped when it is started again. Without anything that could be
    added no store is made. Tables of vectors that `onepeace embed` wrote are taken as they are; with nothing else
    `model` may be None. Progress goes to stderr: a bar, or where that is no terminal, a line now and then. Raises
    ValueError for a path that does not exist, StoreError for a folder that holds something else or another model's
    vectors.
    """
    fresh = not (Path(folder) / MANIFEST_NAME).is_file()
    if fresh:
        tag = _tag(paths, model)
        Store.create(folder, model=tag, precision=precision, kind=kind, recall=recall).close()
    try:
        with Store.open(folder) as store:
            report = add_to_store(store, paths, model, config, show_progress_bar=show_progress_bar)
            empty = len(store) == 0
    except ValueError:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if fresh and empty:
        shutil.rmtree(folder)
    return report


def build_in_milvus(
    paths: Paths,
    place: str | os.PathLike[str],
    model: EmbeddingModel | None,
    config: BuildConfig | None = None,
    *,
    collection: str = "onepeace",
    kind: str = "auto",
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store in Milvus, as `build_store` does into a folder.

    `place`, `collection` and `kind` are those of `MilvusStore.create`; raises as it does.
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
    model: EmbeddingModel | None,
    config: BuildConfig | None = None,
    *,
    replace: bool = False,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store that is there; each batch can be found as soon as it is embedded.

    Items that the store has are left alone, or with `replace` embedded again. Raises as `build_store` does, and
    StoreError for another model than the store's.
    """
    existing(paths)
    tables, paths = vector_tables(paths)
    for tag in [*(table.tag for table in tables), *([] if model is None else [ModelTag.of(model)])]:
        store.require_model(tag)
    config, report = config or BuildConfig(), BuildReport()
    with store.writing(merging=False) as writer:  # once, at the end
        _take(tables, writer, report, replace=replace, show=show_progress_bar)
        if paths:
            _embed(paths, writer, _needed(model), config, report, replace=replace, show=show_progress_bar)
        if writer.merge_is_due():
            with progress_bar(100, "indexing", show_progress_bar) as advance:
                writer.merge_what_waits(in_percent(advance))
    return report


def _tag(paths: Paths, model: EmbeddingModel | None) -> ModelTag:
    """The model of a new store."""
    existing(paths)
    tables, _ = vector_tables(paths)
    return tables[0].tag if model is None and tables else ModelTag.of(_needed(model))


def _needed(model: EmbeddingModel | None) -> EmbeddingModel:
    if model is None:
        raise ValueError("only tables of vectors are taken without a model: give one for the other paths")
    return model


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
    tables: Sequence[VectorTable], writer: Writer, report: BuildReport, *, replace: bool, show: bool | None
) -> None:
    """Add vectors that are ready."""
    if not tables:
        return
    with progress_bar(sum(table.count for table in tables), "adding vectors", show) as advance:
        for rows in chain.from_iterable(table.rows(READY_AT_ONCE) for table in tables):
            place_of = {item.id: place for place, item in enumerate(rows.items)}
            known = writer.known(list(place_of))
            fresh = [place for place, taken in zip(place_of.values(), known, strict=True) if replace or not taken]
            if fresh:
                writer.add([rows.items[place] for place in fresh], rows.vectors[fresh], replace=replace)
            report.added += len(fresh)
            report.present += len(rows.items) - len(fresh)
            report.failed += rows.failures
            advance(len(rows.items) + len(rows.failures))


def _embed(
    paths: Paths,
    writer: Writer,
    model: EmbeddingModel,
    config: BuildConfig,
    report: BuildReport,
    *,
    replace: bool,
    show: bool | None,
) -> None:
    for found in scanned(paths, model, config, report, show=show):
        unique = list({item.id: item for item in found}.values())
        known = _known(unique, writer, config)
        fresh = [item for item, taken in zip(unique, known, strict=True) if replace or not taken]
        report.present += len(found) - len(fresh)
        originals, copies, stored = _sorted_out(_hashed(fresh, config), writer, config, report)
        items, vectors = embedded(originals, model, config, report)
        rows = list(zip(items, vectors, strict=True))
        rows_of: dict[str, list[tuple[Item, Any]]] = defaultdict(list)  # of a content; several where it was cut
        for item, vector in [*rows, *stored]:
            rows_of[_whole(item)].append((item, vector))
        for item in copies:
            if item.content not in rows_of:
                report.failed.append(Failure(printable(item.uri), "it is a copy of one that cannot be read"))
            for other, vector in rows_of.get(item.content or "", []):
                rows.append((copied(item, other), vector))
                report.reused += 1
        if config.windows and not replace:  # of a sound that lost only some
            taken = writer.known([item.id for item, _ in rows])
            rows = [row for row, there in zip(rows, taken, strict=True) if not there]
        if rows:
            writer.add([item for item, _ in rows], np.stack([vector for _, vector in rows]), replace=replace)
        if replace:
            _remove_stale_windows([item for item, _ in rows], writer)
        report.added += len(rows)


def _known(items: list[Item], writer: Writer, config: BuildConfig) -> npt.NDArray[np.bool_]:
    """Which items the store has (N,); of a sound that was cut it has the first window."""
    known = writer.known([item.id for item in items])
    return known | writer.known([item.id + FIRST_WINDOW for item in items]) if config.windows else known


def _remove_stale_windows(items: list[Item], writer: Writer) -> None:
    """Take away what the store had of sounds that are now cut otherwise, or not any more."""
    sounds = {_sound_id(item) for item in items if item.modality == "audio"}
    had = sounds | {item.id for item in writer.windows_of(sorted(sounds)) if _sound_id(item) in sounds}
    writer.delete(sorted(had - {item.id for item in items}), missing_ok=True)


def _whole(item: Item) -> str:
    """The content of an item, or of the sound that it is a window of."""
    return (item.content or "").partition(WINDOW)[0]


def _parts(item: Item) -> int:
    """How many items its content was stored as."""
    return int((item.content or "").partition("/")[2] or 1)


def _sound_id(item: Item) -> str:
    """The id of the sound that an item is, or is a window of. Only a content tells: a file may have any name."""
    _, mark, at = (item.content or "").partition(WINDOW)
    return item.id.removesuffix(mark + at.partition("/")[0])


def _sorted_out(
    items: list[Item], writer: Writer, config: BuildConfig, report: BuildReport
) -> tuple[list[Item], list[Item], list[tuple[Item, Vector]]]:
    """Return what is to be embedded, what has the content of another, and items of such contents that the store has."""
    contents = [item.content for item in items if item.content is not None]
    stored = writer.of_contents(contents, windows=config.windows)
    counts = Counter(_whole(item) for item, _ in stored)
    stored = [(item, vector) for item, vector in stored if counts[_whole(item)] == _parts(item)]
    there = {_whole(item) for item, _ in stored}
    originals: dict[str, Item] = {}
    copies: list[Item] = []
    for item in items:
        if item.content is None or (item.content not in there and item.content not in originals):
            originals[item.content or item.id] = item
        elif config.duplicates:
            copies.append(item)
        else:
            report.duplicates.append(printable(item.uri))
    return list(originals.values()), copies, stored


def _hashed(items: list[Item], config: BuildConfig) -> list[Item]:
    with ThreadPoolExecutor(2) as pool:
        hashes = pool.map(partial(content_hash, windows=config.windows), items)
        return [replace(item, content=text) for item, text in zip(items, hashes, strict=True)]


def content_hash(item: Item, windows: bool = False) -> str | None:
    """Return a hash of what is embedded, kind included; None where it cannot be read."""
    # A sound as a whole and the same sound cut have different vectors: neither is a copy of the other.
    kind = item.modality + (" windows" if windows and item.modality == "audio" else "")
    digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=16)
    if item.modality == "text":
        digest.update(str(item.metadata.get("text", "")).encode())
        return digest.hexdigest()
    source = _source(item.uri)
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                while part := file.read(2**20):
                    digest.update(part)
        else:
            digest.update(source.read())
    except OSError:
        return None
    return digest.hexdigest()


def scanned(
    paths: Paths, model: EmbeddingModel, config: BuildConfig, report: BuildReport, *, show: bool | None = None
) -> Iterator[list[Item]]:
    """Yield the items of files and folders, a bounded number at a time, and write into `report` what is none."""
    # Scanning twice costs little beside embedding, and so the progress can say how much is left.
    total = 0 if show is False else sum(1 for _ in scan(paths, model.modalities, config.text_column))
    with progress_bar(total, show=show) as advance:
        for batch in _batched(scan(paths, model.modalities, config.text_column), config.items_at_once):
            report.failed += [one for one in batch if isinstance(one, Failure)]
            report.ignored += [one.uri for one in batch if isinstance(one, Ignored)]
            yield [one for one in batch if isinstance(one, Item)]
            advance(len(batch))


def embedded(
    items: list[Item], model: EmbeddingModel, config: BuildConfig, report: BuildReport
) -> tuple[list[Item], npt.NDArray[np.float32]]:
    """Return the items that could be embedded and their unit rows, and write into `report` why others could not.

    With `config.windows` there is an item for each window of a long sound.
    """
    if not items:
        return [], np.empty((0, model.dimension), np.float32)
    asked = {"windows": True} if config.windows else {}
    encoded = model.encode_many(
        [model_input(item) for item in items], batch_size=config.batch_size, show_progress_bar=False, **asked
    )
    report.failed += [Failure(printable(items[place].uri), reason) for place, reason in encoded.failures]
    spans = encoded.spans if config.windows else [None] * len(encoded.kept)
    counts = Counter(encoded.kept)
    kept = [
        items[place] if span is None else window(items[place], *span, counts[place])
        for place, span in zip(encoded.kept, spans, strict=True)
    ]
    return kept, encoded.vectors


def window(sound: Item, start: float, end: float, count: int) -> Item:
    """Return a stretch of a sound, in seconds, as an item of its own: one of `count`."""
    start, end = round(start, 3), round(end, 3)
    content = sound.content and f"{sound.content}{WINDOW}{start}/{count}"
    return replace(
        sound, id=f"{sound.id}{WINDOW}{start}", metadata=sound.metadata | {"start": start, "end": end}, content=content
    )


def copied(item: Item, other: Item) -> Item:
    """Return an item as another with the same content was stored: whole, or the same window of it."""
    if other.content == item.content:
        return item
    return window(item, other.metadata["start"], other.metadata["end"], _parts(other))


def model_input(item: Item) -> Any:
    """An item as the model's `encode` takes it."""
    import onepeace

    if item.modality == "text":
        return onepeace.Text(item.metadata["text"])
    wrap = {"image": onepeace.Image, "audio": onepeace.Audio}
    return wrap[item.modality](_source(item.uri))


def _source(uri: str) -> Any:
    """A path, a member of a tar shard, or a cell of an Arrow or Parquet file."""
    inside = any(mark in uri for mark in MARKS)
    if (not inside and ".tar/" not in uri) or os.path.exists(uri):
        return uri
    if inside:
        return Cell(uri)
    from .shards import ShardMember

    return ShardMember(uri)


def _batched(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    rest = iter(found)
    while batch := list(islice(rest, size)):
        yield batch

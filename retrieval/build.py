"""Files and folders -> embeddings -> a store, in bounded memory; what cannot be read is reported, never fatal."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onepeace.progress import progress_bar

from .catalog import Item
from .manifest import MANIFEST_NAME, ModelTag, NamedModel
from .precision import Precision
from .scan import Failure, Found, Ignored, printable, scan
from .store import Store
from .writer import StoreWriter

Paths = Sequence[str | os.PathLike[str]]
Row = npt.NDArray[np.float32]  # (D,)
Copies = dict[str | None, list[Item]]  # by their content


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


class EmbeddingModel(NamedModel, Protocol):
    """What building needs of a model; `onepeace.Embedder` has it."""

    @property
    def modalities(self) -> Sequence[str]:
        """What it embeds: "text", "image", "audio"."""

    def encode_many(
        self, inputs: Sequence[Any], *, batch_size: int = 32, show_progress_bar: bool | None = None
    ) -> Encoded:
        """Embed a mixed list, leaving out what cannot be read."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How files become items, and items vectors."""

    batch_size: int = 32  # items in one forward pass
    batches_at_once: int = 16  # handed to the model together, so that it can sort them by length; bounds memory
    text_column: str = "text"  # the column with texts in .csv, .tsv, .jsonl and .parquet files
    duplicates: bool = True  # keep files with the same content; they are embedded once, either way

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

    @property
    def settled(self) -> int:
        """How many of the things that were found have come to their end."""
        return self.added + self.present + len(self.duplicates) + len(self.failed) + len(self.ignored)


class Engine(ABC):
    """Where a model runs: in this process, or on workers."""

    name: str  # of the model, with its fingerprint and dimension
    fingerprint: str
    dimension: int
    modalities: Sequence[str]

    @abstractmethod
    def items_at_once(self, config: BuildConfig) -> int:
        """How many items `embed` should be given; bounds memory."""

    @abstractmethod
    def embed(
        self, items: list[Item], config: BuildConfig, report: BuildReport
    ) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
        """Yield every item that can be embedded once, in any order, some at a time, with unit rows (N, D).

        Why others cannot is written into `report`.
        """


class LocalEngine(Engine):
    """A model in this process."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model
        self.name, self.fingerprint, self.dimension = model.name, model.fingerprint, model.dimension
        self.modalities = model.modalities

    def items_at_once(self, config: BuildConfig) -> int:
        """As many as the model sorts by length together."""
        return config.items_at_once

    def embed(
        self, items: list[Item], config: BuildConfig, report: BuildReport
    ) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
        """Yield all of them together."""
        yield embedded(items, self.model, config, report)


def build_store(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: EmbeddingModel | Engine,
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
    added no store is made. `model` runs in this process, or is an engine that runs it elsewhere (`RayEngine`). The
    progress bar goes to stderr, by default when that is a terminal. Raises ValueError for a
    path that does not exist, StoreError for a folder that holds something else or another model's vectors.
    """
    fresh = not (Path(folder) / MANIFEST_NAME).is_file()
    if fresh:
        Store.create(folder, model=ModelTag.of(model), precision=precision, kind=kind, recall=recall).close()
    empty = True
    try:
        with Store.open(folder) as store:
            try:
                return add_to_store(store, paths, model, config, show_progress_bar=show_progress_bar)
            finally:
                empty = len(store) == 0
    finally:
        if fresh and empty:
            shutil.rmtree(folder, ignore_errors=True)


def add_to_store(
    store: Store,
    paths: Paths,
    model: EmbeddingModel | Engine,
    config: BuildConfig | None = None,
    *,
    replace: bool = False,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store that is there; each batch can be found as soon as it is embedded.

    Items that the store has are left alone, or with `replace` embedded again. Raises as `build_store` does, and
    StoreError for another model than the store's.
    """
    store.require_model(ModelTag.of(model))
    config = config or BuildConfig()
    engine = model if isinstance(model, Engine) else LocalEngine(model)
    with store.writing(merging=False) as writer:  # once, at the end
        report = _embed(paths, writer, engine, config, replace=replace, show=show_progress_bar)
        if writer.merge_is_due():
            with progress_bar(100, "indexing", show_progress_bar) as advance:
                writer.merge_what_waits(in_percent(advance))
    return report


def in_percent(advance: Callable[[int], object]) -> Callable[[str, int, int], None]:
    """Return what `StoreWriter.merge` tells its progress to, for a bar of 100."""
    before = 0

    def told(what: str, done: int, total: int) -> None:
        nonlocal before
        begins, ends = {"training": (0, 30), "adding": (30, 90)}.get(what, (90, 100))
        reached = begins + (ends - begins) * done // max(1, total)
        advance(max(0, reached - before))
        before = max(before, reached)

    return told


def _embed(
    paths: Paths, writer: StoreWriter, engine: Engine, config: BuildConfig, *, replace: bool, show: bool | None
) -> BuildReport:
    report = BuildReport()

    def add(items: list[Item], vectors: Iterable[Row], vector_of: dict[str | None, Row], copies: Copies) -> None:
        same = [(copy, vector) for content, vector in vector_of.items() for copy in copies.pop(content, ())]
        rows = [*vectors, *(vector for _, vector in same)]
        if rows:
            writer.add([*items, *(copy for copy, _ in same)], np.stack(rows), replace=replace)
        report.added += len(rows)
        report.reused += len(same)

    with settling(paths, engine.modalities, config, report, show) as move_bar:
        for found in scanned(paths, engine.modalities, config, report, engine.items_at_once(config)):
            unique = list({item.id: item for item in found}.values())
            known = writer.known([item.id for item in unique])
            fresh = [item for item, taken in zip(unique, known, strict=True) if replace or not taken]
            report.present += len(found) - len(fresh)
            originals, copies, there = _sorted_out(_hashed(fresh), writer, config, report)
            if there:
                stored = writer.state.vectors.take(np.array(list(there.values())))
                add([], [], dict(zip(there, stored, strict=True)), copies)
            for items, vectors in engine.embed(originals, config, report):
                add(items, vectors, {item.content: row for item, row in zip(items, vectors, strict=True)}, copies)
                move_bar()
            lost = [copy for waiting in copies.values() for copy in waiting]
            report.failed += [Failure(printable(copy.uri), "it is a copy of one that cannot be read") for copy in lost]
            move_bar()
    return report


def _sorted_out(
    items: list[Item], writer: StoreWriter, config: BuildConfig, report: BuildReport
) -> tuple[list[Item], Copies, dict[str | None, int]]:
    """Return what is to be embedded, what has the content of another, and the rows of contents that the store has."""
    contents = [item.content for item in items if item.content is not None]
    there: dict[str | None, int] = {}
    there.update(writer.state.catalog.find_content(contents))
    originals: dict[str, Item] = {}
    copies: Copies = defaultdict(list)
    for item in items:
        if item.content is None or (item.content not in there and item.content not in originals):
            originals[item.content or item.id] = item
        elif config.duplicates:
            copies[item.content].append(item)
        else:
            report.duplicates.append(printable(item.uri))
    return list(originals.values()), copies, there


def _hashed(items: list[Item]) -> list[Item]:
    with ThreadPoolExecutor(2) as pool:
        return [replace(item, content=text) for item, text in zip(items, pool.map(content_hash, items), strict=True)]


def content_hash(item: Item) -> str | None:
    """Return a hash of what is embedded, kind included; None where it cannot be read."""
    digest = hashlib.blake2b(item.modality.encode() + b"\0", digest_size=16)
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


@contextmanager
def settling(
    paths: Paths, modalities: Sequence[str], config: BuildConfig, report: BuildReport, show: bool | None
) -> Iterator[Callable[[], None]]:
    """Show a bar over everything in `paths`, and yield what moves it to what `report` has settled."""
    show = sys.stderr.isatty() if show is None else show
    # Scanning twice costs little beside embedding, and the bar can say how much is left.
    total = sum(1 for _ in scan(paths, modalities, config.text_column)) if show else 0
    shown = 0
    with progress_bar(total, show=show) as advance:

        def move_bar() -> None:
            nonlocal shown
            advance(report.settled - shown)
            shown = report.settled

        yield move_bar


def scanned(
    paths: Paths, modalities: Sequence[str], config: BuildConfig, report: BuildReport, at_once: int
) -> Iterator[list[Item]]:
    """Yield the items of files and folders, out of `at_once` things at a time, and write into `report` what is none."""
    for batch in _batched(scan(paths, modalities, config.text_column), at_once):
        report.failed += [one for one in batch if isinstance(one, Failure)]
        report.ignored += [one.uri for one in batch if isinstance(one, Ignored)]
        yield [one for one in batch if isinstance(one, Item)]


def embedded(
    items: list[Item], model: EmbeddingModel, config: BuildConfig, report: BuildReport
) -> tuple[list[Item], npt.NDArray[np.float32]]:
    """Return the items that could be embedded and their unit rows, and write into `report` why others could not."""
    if not items:
        return [], np.empty((0, model.dimension), np.float32)
    encoded = model.encode_many(
        [model_input(item) for item in items], batch_size=config.batch_size, show_progress_bar=False
    )
    report.failed += [Failure(printable(items[place].uri), reason) for place, reason in encoded.failures]
    return [items[place] for place in encoded.kept], encoded.vectors


def model_input(item: Item) -> Any:
    """An item as the model's `encode` takes it."""
    import onepeace

    if item.modality == "text":
        return onepeace.Text(item.metadata["text"])
    wrap = {"image": onepeace.Image, "audio": onepeace.Audio}
    return wrap[item.modality](_source(item.uri))


def _source(uri: str) -> Any:
    """A path, or a member of a tar shard."""
    if ".tar/" not in uri or os.path.exists(uri):
        return uri
    from .shards import ShardMember

    return ShardMember(uri)


def _batched(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    rest = iter(found)
    while batch := list(islice(rest, size)):
        yield batch

"""Files and folders -> embeddings -> a store, in bounded memory; what cannot be read is reported, never fatal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onepeace.progress import progress_bar

from .catalog import Item
from .manifest import ModelTag, NamedModel
from .scan import Failure, Found, Ignored, printable, scan
from .store import Store
from .writer import StoreWriter

Paths = Sequence[str | os.PathLike[str]]


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
    failed: list[Failure] = field(default_factory=list)  # (uri, reason)
    ignored: list[str] = field(default_factory=list)  # files that are neither media nor text


def build_store(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: EmbeddingModel,
    config: BuildConfig | None = None,
    *,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a new store.

    `scan` says what is taken from them and which ids it gets. Without anything that could be added no store is made.
    The progress bar goes to stderr, by default when that is a terminal. Raises ValueError for a path that does not
    exist, StoreError for a folder that holds something.
    """
    with Store.creating(folder, model=ModelTag.of(model)) as writer:
        report = _embed(paths, writer, model, config or BuildConfig(), replace=False, show=show_progress_bar)
        writer.cancelled = report.added == 0
    return report


def add_to_store(
    store: Store,
    paths: Paths,
    model: EmbeddingModel,
    config: BuildConfig | None = None,
    *,
    replace: bool = False,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into a store that is there. All of it becomes visible at the end, at once.

    Items that the store has are left alone, or with `replace` embedded again. Raises as `build_store` does, and
    StoreError for another model than the store's.
    """
    store.require_model(ModelTag.of(model))
    with store.adding(replace=replace) as writer:
        return _embed(paths, writer, model, config or BuildConfig(), replace=replace, show=show_progress_bar)


def _embed(
    paths: Paths, writer: StoreWriter, model: EmbeddingModel, config: BuildConfig, *, replace: bool, show: bool | None
) -> BuildReport:
    report = BuildReport()

    def new(items: list[Item]) -> list[Item]:
        unique = list({item.id: item for item in items}.values())
        known = writer.known([item.id for item in unique])
        return [item for item, taken in zip(unique, known, strict=True) if replace or not taken]

    for items, vectors in embed_batches(paths, model, config, report, choose=new, show=show):
        writer.append(items, vectors)
    return report


def embed_batches(
    paths: Paths,
    model: EmbeddingModel,
    config: BuildConfig,
    report: BuildReport,
    *,
    choose: Callable[[list[Item]], list[Item]] = list,
    show: bool | None = None,
) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
    """Yield items and their unit rows, a bounded number at a time, and write into `report` what became of the rest.

    `choose` leaves out items that need no embedding; they count as present.
    """
    show = sys.stderr.isatty() if show is None else show
    # Scanning twice costs little beside embedding, and the bar can say how much is left.
    total = sum(1 for _ in scan(paths, model.modalities, config.text_column)) if show else 0
    with progress_bar(total, show=show) as advance:
        for batch in _batched(scan(paths, model.modalities, config.text_column), config.items_at_once):
            report.failed += [one for one in batch if isinstance(one, Failure)]
            report.ignored += [one.uri for one in batch if isinstance(one, Ignored)]
            found = [one for one in batch if isinstance(one, Item)]
            items = choose(found)
            report.present += len(found) - len(items)
            if items:
                encoded = model.encode_many(
                    [model_input(item) for item in items], batch_size=config.batch_size, show_progress_bar=False
                )
                yield [items[place] for place in encoded.kept], encoded.vectors
                report.added += len(encoded.kept)
                report.failed += [Failure(printable(items[place].uri), reason) for place, reason in encoded.failures]
            advance(len(batch))


def model_input(item: Item) -> Any:
    """An item as the model's `encode` takes it."""
    import onepeace

    wrap = {"image": onepeace.Image, "audio": onepeace.Audio}
    return onepeace.Text(item.metadata["text"]) if item.modality == "text" else wrap[item.modality](item.uri)


def _batched(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    rest = iter(found)
    while batch := list(islice(rest, size)):
        yield batch

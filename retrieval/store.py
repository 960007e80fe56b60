"""A store: one folder with vectors, catalog and index, bound together by a manifest. Nothing in it is half written."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import numpy.typing as npt

from .catalog import Catalog, Item
from .durable import flush, only_writer
from .errors import StoreError
from .index import Rows, VectorIndex
from .manifest import REMEDY, Manifest, ModelTag
from .rows import load_rows
from .writer import StoreWriter, sweep

CHECKSUM_LIMIT = 256 * 2**20  # bytes; smaller stores have their checksums verified whenever they are opened


@dataclass(frozen=True)
class Generation:
    """One state of a store, opened to read. It stays whole while others write. Row r is the same item in all."""

    manifest: Manifest
    vectors: Rows  # (N, D), mapped from the file
    catalog: Catalog
    index: VectorIndex

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, *, checksums: bool) -> Generation:
        """Open the files that a manifest names. Raises StoreError naming the one that is not as it should be."""
        for record in manifest.files:
            record.check(folder / record.path, checksum=checksums)
        try:
            vectors = load_rows(folder / manifest.vectors.path)
            catalog = Catalog.open(folder / manifest.catalog.path)
            index = VectorIndex.load(folder / manifest.index.path)
        except ValueError as error:
            raise StoreError(f"{error}; {REMEDY}") from error
        held = {
            manifest.vectors.path: vectors.shape,
            manifest.catalog.path: (len(catalog), manifest.dimension),
            manifest.index.path: (len(index), index.dimension),
        }
        for path, shape in held.items():
            if shape != (manifest.count, manifest.dimension):
                raise StoreError(
                    f"{folder / path} holds {shape[0]} rows of width {shape[1]}, the manifest says {manifest.count} "
                    f"of width {manifest.dimension}; {REMEDY}"
                )
        return cls(manifest, vectors, catalog, index)


class Store:
    """A folder of items that can be searched. Open it with `Store.open`, make it with `Store.create`.

    A write makes new files aside and publishes them by renaming the manifest, so at any instant, whatever dies,
    the folder holds the state before or the state after. Readers go on with the state they opened.
    """

    def __init__(self, folder: Path, current: Generation) -> None:
        self.folder = folder
        self.current = current  # take it once and use that: another thread may `add`

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], items: Sequence[Item], vectors: npt.ArrayLike, *, model: ModelTag
    ) -> Store:
        """Make a store of these items and vectors (N, D). Raises StoreError when the folder holds something."""
        with cls.creating(folder, model=model) as writer:
            writer.append(items, vectors)
        return cls.open(folder)

    @staticmethod
    def must_be_free(folder: str | os.PathLike[str]) -> None:
        """Raise StoreError unless a store can be made there: nothing exists, or an empty folder."""
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{folder} already exists and is not an empty folder: choose another, or add to it")

    @classmethod
    @contextmanager
    def creating(cls, folder: str | os.PathLike[str], *, model: ModelTag) -> Iterator[StoreWriter]:
        """Make a store batch by batch: it appears, whole, when the block ends without an error."""
        cls.must_be_free(folder)
        target = Path(os.path.abspath(folder))
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        aside = _aside(target, uuid4().hex)
        aside.mkdir()
        try:
            with only_writer(aside):
                with _writing(StoreWriter(aside, model)) as writer:
                    yield writer
                if writer.cancelled:
                    return
                try:
                    os.rename(aside, target)
                except OSError as error:
                    raise StoreError(f"{folder} was made by someone else meanwhile ({error.strerror})") from error
                flush(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool | None = None) -> Store:
        """Open a store to search it. Raises StoreError when it is absent, damaged, or too new.

        Sizes and counts are always compared with the manifest. Checksums are compared with `verify=True`, never
        with `verify=False`, and by default for stores below 256 MiB.
        """
        path = Path(folder)
        return cls(path, _load(path, verify))

    def add(
        self,
        items: Sequence[Item],
        vectors: npt.ArrayLike,
        *,
        replace: bool = False,
        model: ModelTag | None = None,
    ) -> None:
        """Add items and vectors (N, D): on return they are on the disk and will survive a crash.

        An id that is taken is refused, or with `replace` takes the new item and vector. `model`, where given,
        must be the store's. Costs a copy of the store's files, so add many at once. Raises ValueError (StoreError,
        CatalogError); then nothing has changed.
        """
        if model is not None:
            self.require_model(model)
        with self.adding(replace=replace) as writer:
            writer.append(items, vectors)

    @contextmanager
    def adding(self, *, replace: bool = False) -> Iterator[StoreWriter]:
        """Add batch by batch: all of it is published when the block ends without an error, or none."""
        with only_writer(self.folder):
            manifest = Manifest.read(self.folder)  # another process may have written since we opened
            self.require_model(manifest.model)
            sweep(self.folder, manifest)
            with _writing(StoreWriter(self.folder, self.model, manifest, replace)) as writer:
                yield writer
                writer.cancelled |= writer.added == 0
            # The old files are removed only after the new ones are open here.
            self.current = _load(self.folder, verify=False)
            sweep(self.folder, self.current.manifest)

    def refresh(self) -> bool:
        """Go on to the newest state, if another process has written one; return whether it had."""
        if Manifest.read(self.folder).generation == self.current.manifest.generation:
            return False
        self.current = _load(self.folder, None)
        return True

    def verify(self) -> None:
        """Compare every file with its checksum. Raises StoreError naming a damaged one."""
        _load(self.folder, verify=True)

    def require_model(self, model: ModelTag) -> None:
        """Raise StoreError unless `model` is the one that made this store's vectors."""
        ours = self.model
        if (ours.fingerprint, ours.dimension) != (model.fingerprint, model.dimension):
            raise StoreError(
                f"store {self.folder} was built with {ours.name} (fingerprint {ours.fingerprint[:12]}, dimension "
                f"{ours.dimension}), you gave {model.name} (fingerprint {model.fingerprint[:12]}, dimension "
                f"{model.dimension}): vectors of different models cannot be compared"
            )

    @property
    def model(self) -> ModelTag:
        """The model that made the vectors."""
        return self.current.manifest.model

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.current.catalog

    def vectors(self, ids: Sequence[str]) -> Rows:
        """The stored unit vectors of these items (N, D), in the order asked. Raises CatalogError for an unknown id."""
        current = self.current
        return current.vectors[current.catalog.rows(ids)]

    def __len__(self) -> int:
        return self.current.manifest.count

    def close(self) -> None:
        """Let go of the files."""
        self.current.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _writing(writer: StoreWriter) -> Iterator[StoreWriter]:
    try:
        yield writer
        if not writer.cancelled:
            writer.publish()
    finally:
        writer.close()


def _load(folder: Path, verify: bool | None) -> Generation:
    """Open the newest state, or a newer one when a writer removes this one's files under our hands."""
    while True:
        manifest = Manifest.read(folder)
        checksums = manifest.bytes < CHECKSUM_LIMIT if verify is None else verify
        try:
            return Generation.load(folder, manifest, checksums=checksums)
        except (StoreError, FileNotFoundError):
            if Manifest.read(folder).generation == manifest.generation:
                raise


def _aside(target: Path, owner: str) -> Path:
    return target.with_name(f".{target.name}.{owner}.building")


def _remove_abandoned(target: Path) -> None:
    """Remove what writers of this store left when they died. A live one holds its folder's lock."""
    for folder in target.parent.glob(_aside(target.with_name(glob.escape(target.name)), "*").name):
        try:
            with only_writer(folder):
                shutil.rmtree(folder, ignore_errors=True)
        except (StoreError, OSError):  # in use, or gone by now
            continue

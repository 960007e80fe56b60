"""Writes the next state of a store beside the present one, batch by batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .catalog import Catalog, Item
from .durable import flush, now
from .index import VectorIndex
from .manifest import MANIFEST_NAME, FileRecord, Manifest, ModelTag
from .rows import RowFile, load_rows
from .vectors import unit_rows

ROWS_AT_ONCE = 65_536  # copied into the index in one go


class StoreWriter:
    """Takes items and vectors for one new generation. `Store.creating` and `Store.adding` hand it out.

    A generation is a folder of files that never change again. It counts from the moment the manifest that names
    it replaces the old one; until then, and for ever after a crash, it is a leftover.
    """

    def __init__(self, folder: Path, model: ModelTag, base: Manifest | None = None, replace: bool = False) -> None:
        self.added = 0  # items so far
        self.cancelled = False  # set it to leave the store as it was
        self._folder, self._model, self._base, self._replace = folder, model, base, replace
        self._generation = base.generation + 1 if base else 1
        self._home = folder / _name(self._generation)
        self._home.mkdir()
        if base:
            for record, copy in ((base.catalog, self._catalog_path), (base.vectors, self._vectors_path)):
                # Damage must not be copied under a fresh checksum.
                record.check(folder / record.path, checksum=True)
                shutil.copyfile(folder / record.path, copy)
            self._catalog = Catalog.edit(self._catalog_path)
        else:
            self._catalog = Catalog.create(self._catalog_path)
        self._rows = RowFile(self._vectors_path, model.dimension)

    def append(self, items: Sequence[Item], vectors: npt.ArrayLike) -> None:
        """Add items and their vectors (N, D), which are brought to length one.

        Raises ValueError, adding none of them, when one cannot be taken: a vector without a direction, an id
        given twice, an id that is taken while nothing was said of replacing.
        """
        if len(items) == 0 and np.size(vectors) == 0:
            return
        rows = unit_rows(vectors, self._model.dimension)
        if len(rows) != len(items):
            raise ValueError(f"expected one vector an item, got {len(items)} items and {len(rows)} vectors")
        self._rows.put(rows, self._catalog.add(items, self._replace))
        self.added += len(items)

    def known(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which of these ids are taken, those added so far included (N,)."""
        return self._catalog.find(ids) >= 0

    def publish(self) -> Manifest:
        """Finish the files, put them on the disk, and make them the store's state."""
        count = len(self._catalog)
        self._catalog.commit()
        self.close()
        rows = load_rows(self._vectors_path)
        assert len(rows) == count, f"{len(rows)} vectors for {count} items"
        index = VectorIndex(self._model.dimension)
        for start in range(0, count, ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            index.add(some, np.arange(start, start + len(some)))
        index.save(self._index_path)
        flush(self._catalog_path)
        flush(self._vectors_path)
        flush(self._home)
        moment = now()
        manifest = Manifest(
            generation=self._generation,
            count=count,
            model=self._model,
            vectors=FileRecord.of(self._folder, self._vectors_path),
            catalog=FileRecord.of(self._folder, self._catalog_path),
            index=FileRecord.of(self._folder, self._index_path),
            created=self._base.created if self._base else moment,
            updated=moment,
        )
        manifest.write(self._folder)
        return manifest

    def close(self) -> None:
        """Let go of the files."""
        self._catalog.close()
        self._rows.close()

    @property
    def _vectors_path(self) -> Path:
        return self._home / "vectors.npy"

    @property
    def _catalog_path(self) -> Path:
        return self._home / "catalog.sqlite"

    @property
    def _index_path(self) -> Path:
        return self._home / "index.faiss"


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what writers that died, or the generation before, left behind. The writer's lock must be held."""
    leftovers: Iterable[Path] = folder.glob("generation-*")
    for path in leftovers:
        if path.name != _name(manifest.generation):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".{MANIFEST_NAME}.*.part"):
        path.unlink(missing_ok=True)


def _name(generation: int) -> str:
    return f"generation-{generation:06d}"

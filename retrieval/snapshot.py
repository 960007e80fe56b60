"""Copies of a store, taken while others write; a copy is a store itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .durable import appearing, flush
from .errors import StoreError
from .seal import CATALOG_NAME, seal_catalog
from .segments import journal_path, vectors_path
from .state import StoreState
from .store import Store


def snapshot(store: Store, target: str | os.PathLike[str]) -> Path:
    """Copy the state that `store` sees to a new folder, which appears whole. Others may write meanwhile.

    Raises StoreError when the folder holds something, or when the store was rewritten (compacted) meanwhile.
    """
    Store.must_be_free(target)
    path = Path(os.path.abspath(target))
    with appearing(path) as aside:
        try:
            _copy(store.folder, store.current, aside)
        except FileNotFoundError as error:
            raise StoreError(f"{store.folder} was rewritten meanwhile ({error.filename} is gone): try again") from error
    return path


def restore(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make a store from a snapshot, every byte of which is checked before and after copying."""
    with Store.open(source, verify=True) as store:
        copy = snapshot(store, target)
    Store.open(copy, verify=True).close()


def _copy(folder: Path, state: StoreState, aside: Path) -> None:
    manifest, progress = state.manifest, state.progress
    old, new = manifest.home(folder), manifest.home(aside)
    new.mkdir()
    for sealed in manifest.sealed:
        for record in (sealed.vectors, sealed.journal):
            shutil.copyfile(folder / record.path, aside / record.path)
    rows = progress.rows - manifest.first_of(manifest.active)
    _copy_begin(vectors_path(old, manifest.active), vectors_path(new, manifest.active), rows * manifest.row_bytes)
    _copy_begin(journal_path(old, manifest.active), journal_path(new, manifest.active), progress.position)
    if manifest.index is not None:
        try:
            shutil.copyfile(folder / manifest.index.file.path, aside / manifest.index.file.path)
        except FileNotFoundError:  # merged anew meanwhile; the copy builds its own
            manifest = manifest.changed(index=None)
    state.catalog.copy(new / CATALOG_NAME, progress)
    seal_catalog(new)
    for path in (*new.iterdir(), new):
        flush(path)
    manifest.write(aside)


def _copy_begin(old: Path, new: Path, size: int) -> None:
    """Copy as much of a growing file as a state has."""
    with open(old, "rb") as source, open(new, "wb") as copy:
        while size:
            part = source.read(min(size, 2**20))
            if not part:
                raise StoreError(f"{old} is cut")
            copy.write(part)
            size -= len(part)

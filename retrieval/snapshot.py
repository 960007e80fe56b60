"""Copies of a store, taken while others write; a copy is a store itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from uuid import uuid4

from .catalog import FOREVER, State
from .durable import flush
from .errors import StoreError
from .manifest import Manifest
from .precision import stored_type
from .segments import journal_path, vectors_path
from .state import CATALOG_NAME, StoreState
from .store import Store
from .writer import seal_catalog


def snapshot(store: Store, target: str | os.PathLike[str]) -> Path:
    """Copy the state that `store` sees to a new folder, which appears whole. Others may write meanwhile.

    Raises StoreError when the folder holds something, or when the store was rewritten (compacted) meanwhile.
    """
    Store.must_be_free(target)
    path = Path(os.path.abspath(target))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex}.building")
    aside.mkdir()
    try:
        try:
            _copy(store.folder, store.current, aside)
        except FileNotFoundError as error:
            raise StoreError(f"{store.folder} was rewritten meanwhile ({error.filename} is gone): try again") from error
        os.rename(aside, path)
        flush(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
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
    manifest = _copy_active(old, new, manifest, progress)
    if manifest.index is not None:
        try:
            shutil.copyfile(folder / manifest.index.file.path, aside / manifest.index.file.path)
        except FileNotFoundError:  # merged anew meanwhile; the copy builds its own
            manifest = manifest.changed(index=None)
    _copy_catalog(old / CATALOG_NAME, new / CATALOG_NAME, progress)
    seal_catalog(new)
    for path in (*new.iterdir(), new):
        flush(path)
    manifest.write(aside)


def _copy_active(old: Path, new: Path, manifest: Manifest, progress: State) -> Manifest:
    """Copy as much of the growing segment as the state has."""
    rows = progress.rows - manifest.first_of(manifest.active)
    row_bytes = manifest.dimension * stored_type(manifest.precision).itemsize
    ends = ((vectors_path, rows * row_bytes), (journal_path, progress.position))
    for path, end in ends:
        with open(path(old, manifest.active), "rb") as source, open(path(new, manifest.active), "wb") as copy:
            left = end
            while left:
                part = source.read(min(left, 2**20))
                if not part:
                    raise StoreError(f"{path(old, manifest.active)} is cut")
                copy.write(part)
                left -= len(part)
    return manifest


def _copy_catalog(old: Path, new: Path, progress: State) -> None:
    """Copy a catalog through SQLite, and take out what is newer than the state."""
    with (
        contextlib.closing(sqlite3.connect(f"{old.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(new, isolation_level=None)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("BEGIN")
        copy.execute("DELETE FROM items WHERE added > ?", (progress.number,))
        copy.execute(
            "UPDATE items SET deleted = ? WHERE deleted > ? AND deleted < ?", (FOREVER, progress.number, FOREVER)
        )
        copy.execute("DELETE FROM blocks WHERE first >= ?", (progress.rows,))
        copy.execute("UPDATE state SET number = ?, segment = ?, position = ?, rows = ?, items = ?", progress)
        copy.execute("COMMIT")
        copy.execute("PRAGMA journal_mode = WAL")

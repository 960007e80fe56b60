"""Bringing stores of older formats to today's."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .catalog import Item
from .durable import WriterLock
from .errors import StoreError
from .manifest import MANIFEST_NAME, FileRecord, Manifest, ModelTag, read_older
from .writer import AT_ONCE, Stored, rewrite, sweep


def migrate(folder: Path) -> bool:
    """Write a store of format 1 anew in today's, in one step; return whether there was anything to do.

    Raises StoreError for a store that is damaged, absent, or too new.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise StoreError(f"{folder} is not a store (it has no {MANIFEST_NAME})")
    try:
        content = read_older(path)
        if content is None:
            Manifest.read(folder)
            return False
        model = ModelTag(**content["model"])
        files = {name: FileRecord(**content[name]) for name in ("vectors", "catalog")}
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}): restore it from a copy") from error
    lock = WriterLock(folder)
    try:
        for record in files.values():
            if wrong := record.problem(folder, checksum=True):
                raise StoreError(wrong)
        manifest = Manifest(
            generation=content["generation"], model=model, created=content["created"], updated=content["updated"]
        )
        old = _content(folder / files["catalog"].path, folder / files["vectors"].path)
        written = rewrite(folder, manifest, old)
        written.write(folder)
        sweep(folder, written)
    finally:
        lock.release()
    return True


def _content(catalog: Path, vectors: Path) -> Iterator[Stored]:
    rows_ND = np.load(vectors, mmap_mode="r", allow_pickle=False)
    address = f"{catalog.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        found = connection.execute("SELECT row, id, modality, uri, metadata FROM items ORDER BY row")
        while some := found.fetchmany(AT_ONCE):
            items = [Item(id, modality, uri, json.loads(metadata)) for _, id, modality, uri, metadata in some]  # noqa: A001
            yield items, np.asarray(rows_ND[[row for row, *_ in some]])

"""Bringing stores of older formats to today's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .catalog import Item
from .durable import WriterLock
from .errors import StoreError
from .manifest import FORMAT, MANIFEST_NAME, FileRecord, Manifest, ModelTag
from .writer import Stored, rewrite, sweep


def migrate(folder: Path) -> bool:
    """Write a store of format 1 anew in today's, in one step; return whether there was anything to do.

    Raises StoreError for a store that is damaged, absent, or too new.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise StoreError(f"{folder} is not a store (it has no {MANIFEST_NAME})")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] >= FORMAT:
            Manifest.read(folder)
            return False
        checksum = content.pop("checksum")
        if checksum != hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest():
            raise StoreError(f"{path} is damaged: restore it from a copy")
        model = ModelTag(**content["model"])
        files = {name: FileRecord(**content[name]) for name in ("vectors", "catalog")}
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


def _content(catalog: Path, vectors: Path, at_once: int = 4_096) -> Iterator[Stored]:
    rows_ND = np.load(vectors, mmap_mode="r", allow_pickle=False)
    address = f"{catalog.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        found = connection.execute("SELECT row, id, modality, uri, metadata FROM items ORDER BY row")
        while some := found.fetchmany(at_once):
            items = [Item(id, modality, uri, json.loads(metadata)) for _, id, modality, uri, metadata in some]  # noqa: A001
            yield items, np.asarray(rows_ND[[row for row, *_ in some]])

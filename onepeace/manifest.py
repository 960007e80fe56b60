"""Manifests and tar shards: tables whose rows name media inside plain tar files or folders.

A manifest is Parquet, CSV, TSV (without quotes) or JSONL. A media cell is `SHARD.tar/MEMBER` or a path, both relative
to the manifest's folder. Shards are read as plain bytes at an offset; nothing in them is ever unpickled.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TSV_BLOCK = 1 << 26  # bytes; a row, which may hold a picture as text, must fit in one


class ManifestError(ValueError):
    """A manifest or shard that cannot be read; the message names it."""


def read_manifest(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a manifest as dicts; `columns` limits what is read.

    Raises:
        ManifestError: no such file, another kind of file, damaged, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers: dict[str, Any] = {
        ".parquet": pa.parquet.read_table,
        ".csv": pa.csv.read_csv,
        ".tsv": _read_tsv,
        ".jsonl": pa.json.read_json,
    }
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest")
    if path.suffix not in readers:
        raise ManifestError(f"{path}: a manifest ends in {', '.join(readers)}")
    try:
        table = readers[path.suffix](path)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    if columns is not None:
        if missing := [name for name in columns if name not in table.column_names]:
            raise ManifestError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(table.column_names)}")
        table = table.select(list(columns))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _read_tsv(path: Path) -> Any:
    import pyarrow.csv

    tabs = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    whole_rows = pyarrow.csv.ReadOptions(block_size=TSV_BLOCK)
    return pyarrow.csv.read_csv(path, whole_rows, tabs)


class Shards:
    """Random access to the members of tar shards below one folder. Safe in threads and after a fork."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._members: dict[Path, dict[str, tuple[int, int]]] = {}  # shard -> member -> (offset, size)

    def read(self, reference: str) -> bytes:
        """Return the bytes of `SHARD.tar/MEMBER`, or of a plain file below the folder.

        Raises:
            ManifestError: no such shard or member, a damaged shard, or a path that leaves the folder.
        """
        shard, separator, member = reference.partition(".tar/")
        path = (self.folder / (shard + ".tar" if separator else reference)).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ManifestError(f"{reference} leaves the manifest's folder")
        if not separator:
            try:
                return path.read_bytes()
            except OSError as error:
                raise ManifestError(f"{reference} cannot be read: {error.strerror}") from error
        members = self._index(path)
        if member not in members:
            raise ManifestError(f"{path.name} has no member {member}")
        offset, size = members[member]
        try:
            with open(path, "rb") as stream:
                data = os.pread(stream.fileno(), size, offset)
        except OSError as error:  # gone, or a disk that fails, since its members were listed
            raise ManifestError(f"{reference} cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise ManifestError(f"{path.name} is truncated at member {member}")
        return data

    def _index(self, path: Path) -> dict[str, tuple[int, int]]:
        with self._lock:
            if path not in self._members:
                try:
                    with tarfile.open(path, "r:") as archive:
                        self._members[path] = {m.name: (m.offset_data, m.size) for m in archive if m.isfile()}
                except (tarfile.TarError, OSError) as error:
                    raise ManifestError(f"{path} cannot be read as a tar shard: {error}") from error
            return self._members[path]

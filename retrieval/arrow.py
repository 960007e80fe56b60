"""Rows of Arrow and Parquet files, with media in their cells: FILE.arrow#ROW:COLUMN names one.

The `datasets` library keeps them so. A folder that `save_to_disk` wrote holds Arrow streams and, in `state.json`, their
order; they are mapped into memory, so that a row costs what it holds, however large its file is. Of a Parquet file a
row group is read at a time. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    import pyarrow as pa

MARKS = (".arrow#", ".parquet#")
ROWS_AT_ONCE = 1_024
END = b"\xff\xff\xff\xff\0\0\0\0"  # of every whole stream
_STATE = "state.json"
_KINDS = {"Image": "image", "Audio": "audio"}


class Cell:
    """A medium in a row, as a binary file that is read when it is decoded."""

    def __init__(self, uri: str) -> None:
        self.name = uri

    def read(self, size: int = -1) -> bytes:
        """Return the first `size` bytes, or all. Raises OSError where they are not there any more."""
        path, _, place = self.name.rpartition("#")
        row, _, column = place.partition(":")
        try:
            cell: Any = _cell(path, int(row) - 1, unquote(column))
            content = cell["bytes"].as_buffer() if cell.is_valid else None
            named = cell["path"].as_py() if cell.is_valid else None
        except (ValueError, KeyError, IndexError, NotImplementedError) as error:
            raise OSError(f"{self.name} cannot be read: {' '.join(str(error).split())}") from error
        if content is None and named:
            with open(Path(path).parent / named, "rb") as file:
                return file.read(size)
        if content is None:
            raise OSError(f"{self.name} is empty")
        return content.to_pybytes() if size < 0 else content.slice(0, min(size, content.size)).to_pybytes()


def _cell(path: str, row: int, column: str) -> pa.StructScalar:
    written = os.stat(path).st_mtime_ns  # what is kept of a file must not outlive its being written anew
    if path.endswith(".arrow"):
        return _stream(path, written, column)[row]
    ends = _group_ends(path, written)
    group = bisect_right(ends, row)
    return _group(path, written, group, column)[row - (ends[group - 1] if group else 0)]


@lru_cache(maxsize=64)
def _stream(path: str, _written: int, column: str) -> pa.ChunkedArray[Any]:
    import pyarrow as pa

    with pa.memory_map(path) as file:
        return _checked(pa.ipc.open_stream(file).read_all().column(column))


@lru_cache(maxsize=64)
def _group_ends(path: str, _written: int) -> list[int]:
    """The row behind each row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return list(accumulate(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)))


@lru_cache(maxsize=2)  # they may be large, and are asked for in order
def _group(path: str, _written: int, group: int, column: str) -> pa.ChunkedArray[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return _checked(file.read_row_group(group, columns=[f"{column}.bytes", f"{column}.path"]).column(column))


def _checked(cells: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    cells.validate(full=True)  # so that no damage makes pyarrow read what is not there
    return cells


class _RowFile:
    """What Arrow and Parquet files have in common: columns of media, and others."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.metadata: dict[bytes, bytes] = schema.metadata or {}
        features = _features(schema)
        kinds = {name: _KINDS.get(str(features.get(name, {}).get("_type")), name) for name in schema.names}
        self.media = {  # column -> modality; by its name where nothing says what it is
            field.name: kinds[field.name]
            for field in schema
            if kinds[field.name] in _KINDS.values() and _holds_media(field)
        }
        self.plain = [field.name for field in schema if field.name not in self.media and self._is_plain(field)]
        self._classes = {name: feature["names"] for name, feature in features.items() if "names" in feature}

    def _batches(self) -> Iterable[pa.RecordBatch]:
        raise NotImplementedError

    def _filled(self, column: pa.Array[Any]) -> list[Any]:
        """Which cells of a column of media are opened as such; of the others the path is taken, if there is one."""
        raise NotImplementedError

    @staticmethod
    def _is_plain(field: pa.Field[Any]) -> bool:
        """Whether a column can be metadata."""
        import pyarrow as pa

        return not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row, from 1, and its values: plain ones, and media as paths or names of cells."""
        number = 1
        for batch in self._batches():
            for start in range(0, len(batch), ROWS_AT_ONCE):
                part = batch.slice(start, ROWS_AT_ONCE)
                yield from enumerate(self._of(part, number), number)
                number += len(part)

    def _of(self, part: pa.RecordBatch, first: int) -> list[dict[str, Any]]:
        import pyarrow.compute as pc

        plain = part.select(self.plain)
        plain.validate(full=True)
        rows: list[dict[str, Any]] = plain.to_pylist()
        for name, classes in self._classes.items():
            for row in rows:
                number = row.get(name)
                row[name] = classes[number] if number is not None and 0 <= number < len(classes) else None  # -1: none
        for name in self.media:
            column = part.column(name)
            filled = self._filled(column)
            paths = pc.struct_field(column, "path").to_pylist()
            for place, row in enumerate(rows):
                if filled[place]:
                    row[name] = f"{self.path}#{first + place}:{quote(name, safe='')}"
                else:
                    row[name] = paths[place] and normpath(self.path.parent / paths[place])
        return rows


class ArrowFile(_RowFile):
    """One stream of rows. Opening it raises OSError or ValueError where it is damaged or cut."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        file = pa.memory_map(str(path))
        file.seek(max(0, file.size() - len(END)))
        if file.read() != END:
            raise ValueError("it was cut: the end of the stream is missing")
        file.seek(0)
        self._reader = pa.ipc.open_stream(file)
        super().__init__(path, self._reader.schema)

    def _batches(self) -> Iterable[pa.RecordBatch]:
        return self._reader

    def _filled(self, column: pa.Array[Any]) -> list[Any]:
        import pyarrow.compute as pc

        return pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()

    @staticmethod
    def _is_plain(field: pa.Field[Any]) -> bool:
        import pyarrow as pa

        return _RowFile._is_plain(field) and not pa.types.is_nested(field.type)


class ParquetFile(_RowFile):
    """The rows of a Parquet file. Opening it raises OSError or ValueError where it is damaged."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        super().__init__(path, self._file.schema_arrow)

    def _batches(self) -> Iterable[pa.RecordBatch]:
        columns = [*self.plain, *(f"{name}.path" for name in self.media)]  # media themselves stay where they are
        with self._file as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=columns)

    def _filled(self, column: pa.Array[Any]) -> list[Any]:
        return column.is_valid().to_pylist()


def dataset_files(folder: Path) -> list[Path]:
    """Return a saved dataset's files in the order of their rows. Raises OSError or ValueError for a damaged state."""
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        names = [file["filename"] for file in state["_data_files"]]
        if state.get("_indices_data_files"):
            raise ValueError("it has an indices file of datasets 1: load and save it again with a newer release")
        if any(Path(name).name != name for name in names):
            raise ValueError("its files must lie beside it")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{_STATE} does not list the dataset's files") from error
    return [folder / name for name in names]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` says of the columns beyond their Arrow types. Raises ValueError where it cannot be read."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {}).items()
        return {name: feature for name, feature in features if name in schema.names and isinstance(feature, dict)}
    except AttributeError as error:
        raise ValueError("its description of the columns is damaged") from error


def _holds_media(field: pa.Field[Any]) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(field.type) and {inner.name for inner in field.type.fields} >= {"bytes", "path"}

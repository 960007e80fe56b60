"""Media in the cells of Arrow files, as the `datasets` library keeps them: FILE.arrow#ROW:COLUMN names one.

A folder that `save_to_disk` wrote holds Arrow streams and, in `state.json`, their order. They are mapped into memory,
so that a row costs what it holds, however large its file is. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    import pyarrow as pa

MARK = ".arrow#"
ROWS_AT_ONCE = 1_024
END = b"\xff\xff\xff\xff\0\0\0\0"  # of every whole stream
_STATE = "state.json"
_KINDS = {"Image": "image", "Audio": "audio"}


class ArrowCell:
    """A medium in a row, as a binary file that is read when it is decoded."""

    def __init__(self, uri: str) -> None:
        self.name = uri

    def read(self, size: int = -1) -> bytes:
        """Return the first `size` bytes, or all. Raises OSError where they are not there any more."""
        path, _, place = self.name.rpartition(MARK)
        row, _, column = place.partition(":")
        try:
            content = _contents(path + MARK[:-1], unquote(column))[int(row) - 1].as_buffer()
        except (ValueError, KeyError, IndexError) as error:
            raise OSError(f"{self.name} cannot be read: {' '.join(str(error).split())}") from error
        if content is None:
            raise OSError(f"{self.name} is empty")
        return content.to_pybytes() if size < 0 else content.slice(0, min(size, content.size)).to_pybytes()


@lru_cache(maxsize=64)
def _contents(path: str, column: str) -> pa.ChunkedArray[Any]:
    """The bytes of a column of media."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with pa.memory_map(path) as file:
        contents = pc.struct_field(pa.ipc.open_stream(file).read_all().column(column), "bytes")
    contents.validate(full=True)
    return contents


class ArrowFile:
    """One stream of rows. Opening it raises OSError or ValueError where it is damaged or cut."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        self._file = pa.memory_map(str(path))
        self._file.seek(max(0, self._file.size() - len(END)))
        if self._file.read() != END:
            raise ValueError("it was cut: the end of the stream is missing")
        self._file.seek(0)
        self._reader = pa.ipc.open_stream(self._file)
        schema = self._reader.schema
        features = _features(schema)
        self.media = {  # column -> modality
            name: _KINDS[feature["_type"]]
            for name, feature in features.items()
            if feature.get("_type") in _KINDS and pa.types.is_struct(schema.field(name).type)
        }
        self._classes = {name: feature["names"] for name, feature in features.items() if "names" in feature}
        self.plain = [field.name for field in schema if field.name not in self.media and _is_plain(field)]

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row, from 1, and its values: plain ones, and media as paths or names of cells."""
        number = 1
        for batch in self._reader:
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
            filled = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
            paths = pc.struct_field(column, "path").to_pylist()
            for place, row in enumerate(rows):
                if filled[place]:
                    row[name] = f"{self.path}#{first + place}:{quote(name, safe='')}"
                else:
                    row[name] = paths[place] and normpath(self.path.parent / paths[place])
        return rows


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


def _is_plain(field: pa.Field[Any]) -> bool:
    """Whether a filter could compare a column's values."""
    import pyarrow as pa

    kind = field.type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

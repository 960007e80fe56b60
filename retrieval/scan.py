"""Finds what can be embedded in files and folders, one item at a time, reading no media."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from .catalog import Item
from .found import Failure, Ignored, printable
from .manifest import MANIFEST_NAME
from .sequences import is_readable, sequence_kind

LONGEST_NUMBER = 16  # characters of a number in .csv and .tsv; a longer one would not stay exact
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_ADDRESS = re.compile(r"https?:/+")  # a path has one slash left of two
LONGEST_LINE = 2**20  # bytes; a longer one is no text that a person wrote
MODEL_KEY = b"onepeace.model"  # in the schema of a Parquet file whose vectors are ready
DATASET_FILES = {"state.json", "dataset_info.json"}  # beside the rows of a saved dataset,
SPLITS_FILE = "dataset_dict.json"  # and beside the folders of several
VECTOR_COLUMNS = {"id", "modality", "uri", "metadata", "vector"}  # of such a table

Row = dict[str, Any]
Columns = dict[str, str]  # the column that holds each modality of the model


class SavedDataset(NamedTuple):
    """A folder that `datasets.save_to_disk` wrote."""

    folder: Path


Found = Item | Failure | Ignored


def scan(
    paths: Sequence[str | os.PathLike[str]], modalities: Sequence[str], text_column: str = "text"
) -> Iterator[Found]:
    """Yield an item for every picture, sound and text in files and folders, in an order that never changes.

    Pictures and sounds are items of their own. So are, until they are cut, videos, PDFs and TIFFs with several pictures
    ("video", "document"), if the package is there that reads them. `.txt` gives a text a line; `.csv`, `.tsv`, `.jsonl`
    and `.parquet` give an item for each column named like one of `modalities` (text is in `text_column`, media are
    paths from the file), with the other columns as metadata. Hidden files are left out, and stores. The id of an item
    is its path from the folder that holds the given path, with `#line` (or row, from 1) where a file holds several, and
    `:column` where a line does. `.tar` shards give an item for each picture, sound and `.txt` in them, folders that
    `datasets.save_to_disk` wrote one for each `Image`, `Audio` and text in a row. Raises ValueError for a path that
    does not exist; whatever else goes wrong is yielded.
    """
    return _scan(existing(paths), {kind: text_column if kind == "text" else kind for kind in modalities})


def existing(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The paths made absolute. Raises ValueError naming one that does not exist, or two of one name."""
    for path in paths:
        if not os.path.exists(path):
            if _ADDRESS.match(printable(path)):
                raise ValueError(
                    f"files of the web are not fetched: download {re.sub(_ADDRESS, '', printable(path))} first"
                )
            raise ValueError(f"no such file or folder: {printable(path)}")
    found = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    named: dict[str, Path] = {}
    for path in found:  # ids begin with a path's own name
        other = named.setdefault(path.name, path)
        if other != path:
            raise ValueError(
                f"items of {printable(other)} and {printable(path)} would have the same ids: "
                "give a folder that holds both, or rename one"
            )
    return found


def _scan(roots: Sequence[Path], columns: Columns) -> Iterator[Found]:
    from onepeace import media_kind

    for root in roots:
        for path in _files(root):
            if isinstance(path, Failure | Ignored):
                yield path
            elif isinstance(path, SavedDataset):
                yield from _read_rows(path.folder, path.folder.relative_to(root.parent).as_posix(), columns)
            elif path.suffix.lower() in (".arrow", ".parquet"):
                yield from _read_rows(path, path.relative_to(root.parent).as_posix(), columns)
            elif path.suffix.lower() in _TABLES:
                yield from _read_table(path, path.relative_to(root.parent).as_posix(), columns)
            elif path.suffix.lower() == ".tar":
                yield from _read_shard(path, path.relative_to(root.parent).as_posix(), columns)
            else:
                cut = sequence_kind(path)
                kind = "image" if cut else media_kind(path)  # frames and pages are pictures
                if kind is None or kind == "text" or not is_readable(path):
                    yield Ignored(printable(path))
                elif kind not in columns:
                    yield Failure(printable(path), _not_embedded(kind, columns))
                else:
                    yield _item(path.relative_to(root.parent).as_posix(), cut or kind, str(path), {})


def _files(root: Path) -> Iterator[Path | SavedDataset | Failure | Ignored]:
    if root.is_file():
        yield root
        return
    unreadable: list[OSError] = []
    for folder, subfolders, names in os.walk(root, onerror=unreadable.append):
        if _is_store(subfolders, names):
            subfolders.clear()
            continue
        if DATASET_FILES.issubset(names):
            subfolders.clear()
            yield SavedDataset(Path(folder))
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and name != SPLITS_FILE:
                yield path
            elif path.suffix and _is_media(path):  # others are not meant to be embedded
                yield Ignored(printable(path))
    yield from (Failure(printable(error.filename), str(error.strerror)) for error in unreadable)


def _is_media(path: Path) -> bool:
    from onepeace import media_kind

    return media_kind(path) in ("image", "audio") or sequence_kind(path) is not None


def is_store(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a store."""
    return os.path.isdir(folder) and _is_store(names := os.listdir(folder), names)


def _is_store(subfolders: Sequence[str], names: Sequence[str]) -> bool:
    """Tell a store of ours from what lies in it."""
    return MANIFEST_NAME in names and any(name.startswith("generation-") for name in subfolders)


def _read_table(path: Path, name: str, columns: Columns) -> Iterator[Found]:
    try:
        for line, row in _TABLES[path.suffix.lower()](path, columns):
            if isinstance(row, str):
                yield Failure(f"{printable(path)}#{line}", row)
            else:
                yield from _row_items(path, line, f"{name}#{line}", row, list(columns.items()))
    except (OSError, ValueError, csv.Error) as error:
        yield Failure(printable(path), " ".join(str(error).split()))


def _read_shard(path: Path, name: str, columns: Columns) -> Iterator[Found]:
    from .shards import members

    try:
        for member in members(path):
            if isinstance(member, Failure):
                yield Failure(printable(f"{path}/{member.uri}"), member.reason)
                continue
            uri = f"{path}/{member.name}"
            if not member.kind:
                yield Ignored(printable(uri))
            elif member.kind not in columns:
                yield Failure(printable(uri), _not_embedded(member.kind, columns))
            elif member.kind != "text" or member.text:
                text = {"text": member.text} if member.kind == "text" else {}
                metadata = {key: _plain(value) for key, value in member.metadata.items() if value is not None}
                yield _item(f"{name}/{member.name}", member.kind, uri, metadata | text)
    except (OSError, ValueError) as error:
        yield Failure(printable(path), " ".join(str(error).split()))


def _read_rows(path: Path, name: str, columns: Columns) -> Iterator[Found]:
    """The items of an Arrow or Parquet file, or of a saved dataset."""
    from .arrow import ArrowFile, ParquetFile, dataset_files

    part = path
    try:
        numbers = count(1)
        for part in dataset_files(path) if path.is_dir() else [path]:
            file = ParquetFile(part) if part.suffix.lower() == ".parquet" else ArrowFile(part)
            if MODEL_KEY in file.metadata:
                raise ValueError("it holds vectors already: give `onepeace index build` or `add` this very path")
            media = [(kind, column) for column, kind in file.media.items() if kind in columns]
            if not media:
                _check_header([*file.media, *file.plain], columns)
            named = [(kind, column) for kind, column in columns.items() if column in file.plain]
            for line, row in file.rows():
                yield from _row_items(part, line, f"{name}#{next(numbers)}", row, [*named, *media])
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's are among them
        yield Failure(printable(part), " ".join(str(error).split()))


def _row_items(path: Path, line: int, name: str, row: Row, columns: Sequence[tuple[str, str]]) -> Iterator[Found]:
    row = {column: _plain(value) for column, value in row.items()}
    filled = [(modality, column) for modality, column in columns if _holds(row.get(column))]
    if not filled:
        yield Failure(
            f"{printable(path)}#{line}", f"nothing in the columns {', '.join(column for _, column in columns)}"
        )
    for modality, column in filled:
        if isinstance(row[column], dict | list):
            reason = f"column {column!r} must hold a string, got {type(row[column]).__name__}"
            yield Failure(f"{printable(path)}#{line}", reason)
            continue
        id = name + (f":{column}" if len(filled) > 1 else "")  # noqa: A001
        rest = {key: value for key, value in row.items() if key != column and value is not None}
        if modality == "text":
            yield _item(id, modality, f"{path}#{line}", rest | {"text": str(row[column])})
        else:
            yield _item(id, modality, _located(path.parent, str(row[column])), rest)


def _item(id: str, modality: str, uri: str, metadata: dict[str, Any]) -> Found:  # noqa: A002
    try:
        return Item(id, modality, uri, metadata)
    except ValueError as error:
        return Failure(printable(uri), str(error))


def _holds(value: Any) -> bool:
    return value is not None and str(value).strip() != ""


def _located(folder: Path, value: str) -> str:
    """A path from the table's folder; an address is left alone, for the model to refuse or fetch."""
    return value if "://" in value else os.path.normpath(folder / value)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            if len(line) > LONGEST_LINE:
                raise ValueError(f"line {number} is longer than {LONGEST_LINE} bytes")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError:
                raise ValueError(f"line {number} is not UTF-8") from None
            if text:
                yield number, text


def _txt(path: Path, columns: Columns) -> Iterator[tuple[int, Row | str]]:
    if "text" not in columns:
        raise ValueError(_not_embedded("text", columns))
    for number, text in _lines(path):
        yield number, {columns["text"]: text}


def _jsonl(path: Path, columns: Columns) -> Iterator[tuple[int, Row | str]]:
    for number, text in _lines(path):
        try:
            row = json.loads(text)
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        if isinstance(row, dict) and row.keys() == VECTOR_COLUMNS:
            raise ValueError(
                "it holds vectors, but does not say which model made them: "
                "write them with `onepeace embed` to a .parquet file, which does"
            )
        yield number, row if isinstance(row, dict) else f"expected a JSON object, got {type(row).__name__}"


def _csv(path: Path, columns: Columns, delimiter: str = ",") -> Iterator[tuple[int, Row | str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        _check_header(reader.fieldnames or [], columns)
        for row in reader:
            if None in row:
                yield reader.line_num, f"more cells than the {len(row) - 1} columns"
            else:
                yield reader.line_num, {key: _typed(key, cell, columns) for key, cell in row.items()}


def _typed(column: str, cell: str | None, columns: Columns) -> Any:
    """Return a cell of the metadata as the number that it is; one with zeros in front, or too long, is a name."""
    if cell is None or column in columns.values() or len(cell) > LONGEST_NUMBER or not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)


def _tsv(path: Path, columns: Columns) -> Iterator[tuple[int, Row | str]]:
    return _csv(path, columns, "\t")


def _not_embedded(kind: str, columns: Columns) -> str:
    return f"the model embeds {', '.join(columns)}, not {kind}"


def _check_header(header: Sequence[str], columns: Columns) -> None:
    if not set(header) & set(columns.values()):
        if "text" not in columns:
            raise ValueError(_not_embedded("text", columns))
        raise ValueError(
            f"it has the columns {', '.join(header) or 'none'}, but none of {', '.join(columns.values())}; "
            "name the one with the texts with --text-column"
        )


_TABLES: dict[str, Callable[[Path, Columns], Iterator[tuple[int, Row | str]]]] = {
    ".txt": _txt,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
}


def _plain(value: Any) -> Any:
    """A value that JSON can hold: dates and other types as they print, bytes and not-a-number as nothing."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bytes):
        return None
    return value if isinstance(value, str | int) else str(value)

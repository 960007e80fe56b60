"""What was added and deleted, in order: append-only files of checksummed records, the truth about a store's items.

A record is a head (mark, number, length and checksum of its body, checksum of the head) and a body of JSON. It counts
from the moment it is on the disk. Records are numbered through all files of a store, so that none can be missing.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import StoreError

MARK = b"1pJ\n"
_FIELDS = struct.Struct("<4sQII")  # mark, number, bytes of the body, crc32 of the body
_CHECK = struct.Struct("<I")  # crc32 of the fields
HEAD_BYTES = _FIELDS.size + _CHECK.size
LARGEST = 2**32 - 1


@dataclass(frozen=True)
class Record:
    """One write to a store."""

    number: int
    body: dict[str, Any]
    start: int  # where it lies in its file, in bytes
    end: int


def encode(number: int, body: dict[str, Any]) -> bytes:
    """Return a record's bytes. Raises StoreError for a body of 4 GiB or more."""
    content = json.dumps(body, separators=(",", ":")).encode()
    if len(content) > LARGEST:
        raise StoreError(f"{len(content):,} bytes of items are too many for one write: add them in parts")
    fields = _FIELDS.pack(MARK, number, len(content), zlib.crc32(content))
    return fields + _CHECK.pack(zlib.crc32(fields)) + content


def read(path: Path, number: int, start: int = 0) -> Iterator[Record]:
    """Yield the records from byte `start` on, where record `number` lies, up to the first that is not whole."""
    with open(path, "rb") as file:
        while (record := _next(file, number, start)) is not None:
            yield record
            number, start = number + 1, record.end


def _next(file: BinaryIO, number: int, start: int) -> Record | None:
    file.seek(start)
    head = file.read(HEAD_BYTES)
    if _number(head) != number:
        return None
    _, _, length, checksum = _FIELDS.unpack_from(head)
    if length > os.fstat(file.fileno()).st_size - file.tell():
        return None
    content = file.read(length)
    if len(content) < length or zlib.crc32(content) != checksum:
        return None
    return Record(number, json.loads(content), start, start + HEAD_BYTES + length)


def first_number(path: Path) -> int:
    """Return the number of a file's first record. Raises StoreError where its head is damaged."""
    with open(path, "rb") as file:
        number = _number(file.read(HEAD_BYTES))
    if number is None:
        raise StoreError(f"{path} is damaged at its beginning")
    return number


def resumes(path: Path, start: int) -> bool:
    """Tell whether whole heads of records lie somewhere behind a place where none can be read."""
    with open(path, "rb") as file:
        file.seek(start)
        rest = file.read()
    place = rest.find(MARK, 1)
    while place >= 0:
        if _number(rest[place : place + HEAD_BYTES]) is not None:
            return True
        place = rest.find(MARK, place + 1)
    return False


def _number(head: bytes) -> int | None:
    if len(head) < HEAD_BYTES or _CHECK.unpack_from(head, _FIELDS.size)[0] != zlib.crc32(head[: _FIELDS.size]):
        return None
    mark, number, _, _ = _FIELDS.unpack_from(head)
    return int(number) if mark == MARK else None

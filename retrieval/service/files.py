"""Files as they are, and parts of them: players ask for ranges of bytes (RFC 9110, section 14)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from fastapi import Response
from fastapi.responses import FileResponse

from .indexes import suffix

LARGEST_RANGE = 4 * 2**20  # bytes in one answer: a player that stops to read holds no more
TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "opus": "audio/ogg", "mp3": "audio/mpeg"}
TYPES |= {"m4a": "audio/mp4", "aac": "audio/aac", "oga": "audio/ogg"}
# Browsers play a QuickTime file, which is built as an MP4, under that name only.
TYPES |= {"mp4": "video/mp4", "mov": "video/mp4", "mkv": "video/x-matroska", "webm": "video/webm"}
TYPES |= {"pdf": "application/pdf"}
# A browser's reader of PDFs is made of parts that the page's own policy keeps out.
UNKNOWN = "application/octet-stream"  # of a cell of a table, whose name has no suffix
PDF_POLICY = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


def file_type(uri: str) -> str:
    """Return the media type of a file, by its name."""
    return TYPES.get(uri.rpartition(".")[2].lower(), UNKNOWN)


def file_response(source: Any, kind: str, asked: Mapping[str, str], headers: dict[str, str]) -> Response:
    """Return a file, or the range of it that a request's headers ask for, perhaps not to its end.

    `source` is a path, or something whose `read` gives all bytes. Raises OSError where it is not there.
    """
    headers = headers | {"Accept-Ranges": "bytes"}
    if kind == "application/pdf":
        headers |= {"Content-Security-Policy": PDF_POLICY}
    with open(source, "rb") if isinstance(source, str) else BytesIO(source.read()) as file:  # what hangs does so here
        if isinstance(source, str):
            known = os.fstat(file.fileno())
            if not stat.S_ISREG(known.st_mode):
                raise OSError(f"{source} is no file")
            headers["ETag"] = f'"{known.st_mtime_ns:x}-{known.st_size:x}"'
        if kind == UNKNOWN:
            kind = file_type(f".{suffix('audio', file.read(16))}")
        size = file.seek(0, os.SEEK_END)
        same = asked.get("if-range") in (None, headers.get("ETag"))  # as when the player began
        found = _RANGE.fullmatch(asked.get("range", "")) if same else None
        if found is None or not any(found.groups()):
            if isinstance(source, str):
                return FileResponse(source, media_type=kind, headers=headers)
            file.seek(0)
            return Response(file.read(), media_type=kind, headers=headers)
        first, last = found.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, start + LARGEST_RANGE, int(last) + 1 if first and last else size)
        if start >= end:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        file.seek(start)
        part = file.read(end - start)
    return Response(part, 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{size}"}, kind)

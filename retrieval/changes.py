"""Tells whether what a store has of a file is that file, as it is now: by paths and times, then by the content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from enum import Enum, auto
from typing import Protocol

from .arrow import MARKS
from .build_config import BuildConfig
from .catalog import Item
from .engine import source_of
from .found import printable
from .parts import CUT, SEQUENCES, told, whole

WINDOWS = "audio windows"  # kind of a sound that is cut


class Known(Protocol):
    """What is asked of a store."""

    def below(self, folder: str) -> Iterator[tuple[str, str]]:
        """Yield id and uri of every item from a folder."""


class Standing(Enum):
    """How an item that was scanned stands to the one that the store has under its id."""

    SAME = auto()
    CHANGED = auto()  # its file, or what a table says of it
    GONE = auto()  # its file is not there any more
    OTHER = auto()  # the store's is another file, which is still there


def standing(item: Item, stored: Item, created: str) -> Standing:
    """Compare an item with the store's; `created` is when the store was made (ISO 8601).

    A file that was not touched since then is only looked up, not read. What came with ready vectors has no content to
    compare.
    """
    if item.modality != "text" and is_gone(item.uri):
        return Standing.GONE
    told = _tells_the_same(item, stored)
    if item.uri == stored.uri:
        same = told and (not _touched(item, created) or _has_content(item, stored))
        return Standing.SAME if same else Standing.CHANGED
    if not _is_named_by_a_row(item) and not is_gone(stored.uri):
        before, now = file_of(stored.uri), file_of(item.uri)
        if before is None or now is None or os.path.realpath(before) != os.path.realpath(now):
            return Standing.OTHER
    return Standing.SAME if told and _has_content(item, stored) else Standing.CHANGED  # it moved, at least


def file_of(uri: str) -> str | None:
    """The file that a uri names, or names a place in; None where it is gone, or no file."""
    shard, inside, _ = uri.rpartition(".tar/")
    places = (uri, uri.rpartition("#")[0], f"{shard}.tar" if inside else "")
    return next((path for path in places if os.path.isfile(path)), None)


def is_gone(uri: str) -> bool:
    """Tell whether the file of a uri is not there any more; an address never is."""
    return file_of(uri) is None and not _is_address(uri)


def gone_from(folder: str | os.PathLike[str], store: Known) -> list[str]:
    """Return the ids of the items from a folder whose files are not there any more.

    Raises ValueError where the folder itself is not: a drive that is not connected loses nothing.
    """
    path = os.path.abspath(folder)
    if not os.path.isdir(path):
        raise ValueError(f"no such folder: {printable(folder)}: of a folder that went, remove items by --where")
    return [name for name, uri in store.below(path) if is_gone(uri)]


def content_of(item: Item, config: BuildConfig) -> str | None:
    """Return what is alike where the same is embedded in the same way; None where it cannot be read."""
    # A sound as a whole and the same sound cut have different vectors: neither is a copy of the other.
    text = content_hash(item, WINDOWS if config.windows and item.modality == "audio" else item.modality)
    if text is not None and item.modality == "video":
        return f"{text}{CUT}scenes" if config.scenes else f"{text}{CUT}fps={config.fps}"
    return text


def content_hash(item: Item, kind: str) -> str | None:
    """Return a hash of what is embedded and as what; None where it cannot be read."""
    digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=16)
    if item.modality == "text":
        digest.update(str(item.metadata.get("text", "")).encode())
        return digest.hexdigest()
    source = source_of(item.uri)
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                while part := file.read(2**20):
                    digest.update(part)
        else:
            digest.update(source.read())
    except OSError:
        return None
    return digest.hexdigest()


def _tells_the_same(item: Item, stored: Item) -> bool:
    """Compare the kind and what is known of it, a text included; the store may know more."""
    known = told(stored)
    same = stored.modality in SEQUENCES.get(item.modality, (item.modality,))
    return same and all(known.get(name) == value for name, value in item.metadata.items())


def _touched(item: Item, created: str) -> bool:
    """Tell whether a file is younger than the store; a text is compared as it is."""
    if item.modality == "text" or _is_address(item.uri):
        return False
    try:
        times = os.stat(file_of(item.uri) or item.uri)
    except OSError:
        return False  # it goes just now
    # What was moved or copied to this place may keep the time of its content, but not that of its entry (ctime).
    return max(times.st_mtime, times.st_ctime) >= datetime.fromisoformat(created).timestamp()


def _has_content(item: Item, stored: Item) -> bool:
    """Compare contents; that of a text is told with it."""
    if item.modality == "text":
        return True
    if stored.content is None:
        return item.uri == stored.uri
    # Of a sound that fits into one window only the hash says whether it was to be cut. What has been stored otherwise
    # than it would be now, as a TIFF's first picture alone, is the same file all the same.
    kinds = {"audio": ("audio", WINDOWS), "document": ("document", "image")}.get(item.modality, (item.modality,))
    return any(whole(stored).partition(CUT)[0] == content_hash(item, kind) for kind in kinds)


def _is_named_by_a_row(item: Item) -> bool:
    """Tell whether a table names the file, so that the id is the row's and says nothing of the file."""
    inside = any(mark in item.uri for mark in MARKS)
    return item.modality != "text" and "#" in item.id and not inside and not item.uri.endswith(f"/{item.id}")


def _is_address(uri: str) -> bool:
    return "://" in uri

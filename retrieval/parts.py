"""Parts of files as items: windows of sounds, frames and tracks of videos, pages of documents; their ids and contents.

An id ends in what the media fragments of W3C and of RFC 8118 call the place: rain.ogg#t=10.0, clip.mp4#t=12.0 for a
frame, clip.mp4#t=10.0&track=audio for a stretch of its sound, deck.pdf#page=3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from onepeace.clock import clock

from .catalog import PART, Item

SEQUENCES = {"video": ("image", "audio"), "document": ("image",)}  # files that are always cut, and what into
CUT = "?"  # in a content: between the hash of a video and how it was cut
SOUND = "&track=audio"
_PLACE = re.compile(rf"{PART}(?:t=(\d+(?:\.\d+)?)(?:{SOUND})?|page=(\d+))")


class Place(NamedTuple):
    """Where in its file a part is: at a time, or on a page."""

    start: float | None = None  # seconds
    end: float | None = None
    page: int | None = None  # 1 is the first

    def __str__(self) -> str:
        """Say it in words.

        >>> str(Place(start=65.0, end=66.5)), str(Place(page=3))
        ('1:05 to 1:06.5', 'page 3')
        """
        if self.start is None or self.end is None:
            return f"page {self.page}"
        return f"{clock(self.start)} to {clock(self.end)}"


def part(file: Item, modality: str, place: Place, count: int) -> Item:
    """Return a part of a file as an item of its own: one of `count`."""
    told: dict[str, Any] = {name: value for name, value in place._asdict().items() if value is not None}
    told = {name: value if name == "page" else round(value, 3) for name, value in told.items()}
    name = f"page={place.page}" if place.start is None else f"t={told['start']}"
    if modality == "audio" and file.modality == "video":
        name += SOUND
    content = file.content and f"{file.content}{PART}{name}/{count}"
    return replace(file, id=f"{file.id}{PART}{name}", modality=modality, metadata=file.metadata | told, content=content)


def copied(item: Item, other: Item) -> Item:
    """Return an item as another with the same content was stored: whole, or the same part of it."""
    if other.content == item.content:
        return item
    return part(item, other.modality, Place(**_told_place(other)), parts(other))


def whole(item: Item) -> str:
    """The content of an item, or of the file that it is a part of."""
    return (item.content or "").partition(PART)[0]


def is_part(item: Item) -> bool:
    """Tell whether an item is a part of a file, by its content."""
    return PART in (item.content or "")


def parts(item: Item) -> int:
    """How many items its content was stored as."""
    return int((item.content or "").partition("/")[2] or 1)


def file_id(item: Item) -> str:
    """The id of the file that an item is, or is a part of. Only a content tells: a file may have any name."""
    _, mark, at = (item.content or "").partition(PART)
    return item.id.removesuffix(mark + at.partition("/")[0])


def told(item: Item) -> dict[str, Any]:
    """What is known of the file that an item is, or is a part of."""
    place = _told_place(item)
    return {name: value for name, value in item.metadata.items() if name not in place}


def first_parts(item: Item, windows: bool) -> list[str]:
    """The ids of which one is in a store that has a file cut."""
    if item.modality == "document":
        return [f"{item.id}{PART}page=1"]
    if item.modality == "video":
        return [f"{item.id}{PART}t=0.0", f"{item.id}{PART}t=0.0{SOUND}"]
    return [f"{item.id}{PART}t=0.0"] if windows and item.modality == "audio" else []


def place_of(item: Item) -> Place | None:
    """Where in its file an item is, by its id and metadata, which come with any vector; None for what is whole.

    >>> place_of(Item("deck.pdf#page=3", "image", "deck.pdf", {"page": 3})), place_of(Item("a#page=3", "image", "a"))
    (Place(start=None, end=None, page=3), None)
    """
    found = _PLACE.fullmatch(item.id, max(0, item.id.rfind(PART)))
    if found is None or found.group() in item.uri:
        return None
    start, page = found.groups()
    if page is not None:
        return Place(page=int(page)) if item.metadata.get("page") == int(page) else None
    end = item.metadata.get("end")
    same = item.metadata.get("start") == float(start) and isinstance(end, int | float)
    return Place(float(start), float(end)) if same else None  # type: ignore[arg-type]


def _told_place(item: Item) -> dict[str, Any]:
    """What the metadata of a part say of its place."""
    if not is_part(item):
        return {}
    names: Sequence[str] = ("page",) if f"{PART}page=" in (item.content or "") else ("start", "end")
    return {name: item.metadata[name] for name in names}

"""Windows of long sounds as items: their ids, their contents, and what these say of the sound."""

from __future__ import annotations

from dataclasses import replace

from .catalog import WINDOW, Item

FIRST_WINDOW = f"{WINDOW}0.0"  # behind a sound's id


def window(sound: Item, start: float, end: float, count: int) -> Item:
    """Return a stretch of a sound, in seconds, as an item of its own: one of `count`."""
    start, end = round(start, 3), round(end, 3)
    content = sound.content and f"{sound.content}{WINDOW}{start}/{count}"
    return replace(
        sound, id=f"{sound.id}{WINDOW}{start}", metadata=sound.metadata | {"start": start, "end": end}, content=content
    )


def copied(item: Item, other: Item) -> Item:
    """Return an item as another with the same content was stored: whole, or the same window of it."""
    if other.content == item.content:
        return item
    return window(item, other.metadata["start"], other.metadata["end"], parts(other))


def whole(item: Item) -> str:
    """The content of an item, or of the sound that it is a window of."""
    return (item.content or "").partition(WINDOW)[0]


def parts(item: Item) -> int:
    """How many items its content was stored as."""
    return int((item.content or "").partition("/")[2] or 1)


def sound_id(item: Item) -> str:
    """The id of the sound that an item is, or is a window of. Only a content tells: a file may have any name."""
    _, mark, at = (item.content or "").partition(WINDOW)
    return item.id.removesuffix(mark + at.partition("/")[0])

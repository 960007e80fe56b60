"""Files that hold many pictures: which they are, how they are read, and which picture a part of one is."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from .parts import CUT, place_of

if TYPE_CHECKING:
    import PIL.Image

    from encoders.pages import Pages
    from encoders.video import Video

    from .build_config import BuildConfig
    from .catalog import Item

EXTRA = "pip install 'onepeace[sequences]'"


def sequence_kind(path: str | os.PathLike[str]) -> str | None:
    """Tell what a file with many pictures is, "video" or "document"; a TIFF is one only if it has several."""
    from encoders import pages, video

    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix in video.SUFFIXES:
        return "video"
    return "document" if suffix == ".pdf" or (is_tiff(path) and pages.tiff_pages(path) > 1) else None


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file may be a picture or several."""
    return os.fspath(path).lower().endswith((".tif", ".tiff"))


def is_readable(path: str | os.PathLike[str]) -> bool:
    """Tell whether the package is installed that reads such a file."""
    from encoders import video

    suffix = os.path.splitext(os.fspath(path))[1].lower()
    package = "av" if suffix in video.SUFFIXES else "pypdfium2" if suffix == ".pdf" else None
    return package is None or find_spec(package) is not None


def opened(item: Item, config: BuildConfig, sound: bool) -> Video | Pages:
    """Return the file of an item as `encode_sequence` takes it."""
    from encoders.pages import Pages
    from encoders.video import Video

    if item.modality == "document":
        return Pages(item.uri)
    return Video(item.uri, fps=None if config.scenes else config.fps, sound=sound)


def picture_of(item: Item) -> PIL.Image.Image | None:
    """Return the picture that a part of a video or document is; None for any other item. Raises MediaError."""
    place = place_of(item)
    if place is None or item.modality != "image" or sequence_kind(item.uri) is None:
        return None
    if place.page is not None:
        from encoders.pages import Pages, page_pictures

        (picture,) = page_pictures(Pages(item.uri), only=place.page)
        return picture
    from encoders.video import Video, frame_at

    assert place.start is not None
    assert place.end is not None
    scene = f"{CUT}scenes" in (item.content or "")  # which is shown by the frame in its middle
    return frame_at(Video(item.uri), (place.start + place.end) / 2 if scene else place.start)

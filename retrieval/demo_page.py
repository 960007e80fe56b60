"""The demo's page: one HTML file with every picture and sound inside, and no reference to anything outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import Item
from .demo_report import DemoReport, Search
from .gallery import GalleryItem
from .search import SearchHit

BARS = 40  # of a drawn waveform
MEDIA_TYPES = {".webp": "image/webp", ".png": "image/png", ".ogg": "audio/ogg"}
KINDS = {"image": "Pictures", "audio": "Sounds", "text": "Words"}
START = "caption/picture/brown-cow-bell"  # what the page shows first, where the gallery has it

SOURCES = {
    "openclipart": ("Open Clip Art Library", "https://openclipart.org"),
    "scikit-image": ("scikit-image", "https://scikit-image.org"),
    "tuxpaint": ("Tux Paint stamps", "https://tuxpaint.org"),
    "esc10": ("ESC-10", "https://github.com/karolpiczak/ESC-50"),
    "fsdd": ("Free Spoken Digit Dataset", "https://github.com/Jakobovski/free-spoken-digit-dataset"),
}
LICENCES = {
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "GPL-2.0": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
}


@dataclass(frozen=True)
class Tile:
    """One item as the page shows it."""

    number: int  # its place in the page's lists
    kind: str  # its modality
    text: str
    concept: str
    data: str = ""  # data: URI
    seconds: float = 0.0
    wave: str = ""  # an SVG path, BARS wide and 2 high


@dataclass(frozen=True)
class Found:
    """A hit as the page shows it."""

    tile: Tile
    score: float
    right: bool  # about what the query is about


def render_page(report: DemoReport, items: Sequence[Item], exhibits: Sequence[GalleryItem]) -> str:
    """Return the page. Captions and names are escaped; pictures and sounds are read from where `items` lie."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("retrieval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    tiles = {item.id: _tile(number, item) for number, item in enumerate(items)}

    def shown(search: Search) -> dict[str, Any]:
        parts = [part if isinstance(part, str) else tiles[part.id] for part in search.query]
        about = {part.concept for part in parts if isinstance(part, Tile)}
        return {"parts": parts, "hits": [_found(hit, tiles, about) for hit in search.hits]}

    return environment.get_template("demo.html.j2").render(
        report=report,
        kinds=KINDS,
        tiles=list(tiles.values()),
        start=tiles.get(START, next(iter(tiles.values()))).number,
        directions=[(direction, [shown(search) for search in direction.examples]) for direction in report.directions],
        mixes=[[shown(search) for search in searches] for searches in report.mixes],
        neighbours=[
            {
                kind: [[tiles[hit.item.id].number, round(hit.score, 2)] for hit in report.neighbours[item.id][kind]]
                for kind in KINDS
            }
            for item in items
        ],
        credits=[(exhibit, *SOURCES[exhibit.source], _licence_link(exhibit.licence)) for exhibit in exhibits],
        bars=BARS,
    )


def _tile(number: int, item: Item) -> Tile:
    kind, text, concept = item.modality, item.metadata["text"], item.metadata["concept"]
    if kind == "text":
        return Tile(number, kind, text, concept)
    path = Path(item.uri)
    data = f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if kind == "image":
        return Tile(number, kind, text, concept, data)
    return Tile(number, kind, text, concept, data, *_heard(path))


def _heard(path: Path) -> tuple[float, str]:
    """The length of a sound in seconds, and its loudness over time as an SVG path."""
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(path, always_2d=True)
    peaks = [float(np.abs(part).max()) if part.size else 0.0 for part in np.array_split(samples, BARS)]
    loudest = max(peaks) or 1.0
    heights = [max(peak / loudest, 0.06) for peak in peaks]
    bars = (f"M{place + 0.5:g} {1 - height:.2f}V{1 + height:.2f}" for place, height in enumerate(heights))
    return len(samples) / rate, "".join(bars)


def _found(hit: SearchHit, tiles: dict[str, Tile], about: set[str]) -> Found:
    tile = tiles[hit.item.id]
    return Found(tile, hit.score, tile.concept in about)


def _licence_link(licence: str) -> str | None:
    return next((address for start, address in LICENCES.items() if licence.startswith(start)), None)

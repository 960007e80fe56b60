"""What a search found: a list, and in a notebook a grid to look at and listen to."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .parts import place_of
from .sequences import picture_of

if TYPE_CHECKING:
    from .catalog import Item
    from .search import SearchHit

SHOWN = 24  # hits in the grid


class Hits(list["SearchHit"]):
    """The hits of one query, best first: a list like any other, that a notebook shows as a grid.

    >>> Hits()  # `Searcher.search` fills it
    no hits
    """

    def __repr__(self) -> str:
        """Return a line a hit: score, modality, id, and the place of a part of a file."""
        lines = [f"{hit.score:.3f}  {hit.item.modality:5}  {'  '.join(_named(hit.item))}" for hit in self[:SHOWN]]
        more = [f"... {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join(lines + more) or "no hits"

    def _repr_html_(self) -> str:
        tiles = "".join(
            '<figure style="margin:0;width:170px;text-align:center">'
            f"<div>{_item_html(hit.item)}</div>"
            f'<figcaption style="overflow-wrap:anywhere"><b>{hit.score:.3f}</b> '
            f"{'<br>'.join(map(escape, _named(hit.item)))}</figcaption>"
            "</figure>"
            for hit in self[:SHOWN]
        )
        more = f"<p>the first {SHOWN} of {len(self)}</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:end">{tiles or "no hits"}</div>{more}'


def _named(item: Item) -> list[str]:
    place = place_of(item)
    return [item.id] if place is None else [item.id, str(place)]


def _item_html(item: Item) -> str:
    """Show an item: its file, or its part of it, where that can be opened, else its words."""
    from encoders.display import media_html, reason_html
    from encoders.media import Audio, Image, MediaError, Text

    wrap = {"image": Image, "audio": Audio}.get(item.modality)
    if wrap is None:
        return media_html(Text(str(item.metadata.get("text", item.uri))))
    try:
        picture = picture_of(item)
    except MediaError as error:
        return reason_html(error)
    place = place_of(item)
    return media_html(wrap(item.uri) if picture is None else Image(picture), (place and place.start) or 0.0)

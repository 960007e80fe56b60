"""What a search found: a list, and in a notebook a grid to look at and listen to."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .catalog import WINDOW

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
        """Return a line a hit: score, modality and id."""
        lines = [f"{hit.score:.3f}  {hit.item.modality:5}  {hit.item.id}" for hit in self[:SHOWN]]
        more = [f"... {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join(lines + more) or "no hits"

    def _repr_html_(self) -> str:
        tiles = "".join(
            '<figure style="margin:0;width:170px;text-align:center">'
            f"<div>{_item_html(hit.item)}</div>"
            f'<figcaption style="overflow-wrap:anywhere"><b>{hit.score:.3f}</b> {escape(hit.item.id)}</figcaption>'
            "</figure>"
            for hit in self[:SHOWN]
        )
        more = f"<p>the first {SHOWN} of {len(self)}</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:end">{tiles or "no hits"}</div>{more}'


def _item_html(item: Item) -> str:
    """Show an item: its file where that can be opened, else its words."""
    from encoders.display import media_html
    from encoders.media import Audio, Image, Text

    wrap = {"image": Image, "audio": Audio}.get(item.modality)
    if wrap is None:
        return media_html(Text(str(item.metadata.get("text", item.uri))))
    start = item.metadata.get("start") if WINDOW in item.id else None  # a window of a sound
    return media_html(wrap(item.uri), start if isinstance(start, int | float) and start > 0 else 0.0)

"""What the journals of a store tell: reading on from a state, and bringing a catalog up to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .catalog import Block, CatalogWriter, Item, State
from .journal import Record, read
from .manifest import Manifest
from .segments import journal_path


@dataclass
class Contents:
    """What writes leave behind, one after another."""

    items: dict[int, Item] = field(default_factory=dict)  # by row, of those that were not taken away
    removed: set[int] = field(default_factory=set)  # rows
    blocks: list[Block] = field(default_factory=list)
    fields: set[str] = field(default_factory=set)  # every key met in metadata

    @classmethod
    def of(cls, records: Iterable[Record]) -> Contents:
        """Follow writes from the first one on."""
        contents = cls()
        for record in records:
            contents.follow(record)
        return contents

    def follow(self, record: Record) -> None:
        """Take one more write in."""
        for row in removed_rows(record):
            self.items.pop(row, None)
            self.removed.add(row)
        for row, item in added_items(record):
            self.items[row] = item
            self.fields.update(item.metadata)
        if (block := block_of(record)) is not None:
            self.blocks.append(block)


def records(home: Path, manifest: Manifest, behind: State | None = None) -> Iterator[tuple[int, Record]]:
    """Yield all writes, or those `behind` a state, up to the first that is not whole, each with its segment."""
    number, start = (behind.number + 1, behind.position) if behind is not None else (1, 0)
    for segment in manifest.segments:
        if behind is not None and segment < behind.segment:
            continue
        for record in read(journal_path(home, segment), number, start):
            yield segment, record
            number = record.number + 1
        start = 0


def replay(home: Path, manifest: Manifest, catalog: CatalogWriter, progress: State) -> State:
    """Bring the writes into the catalog that are in the journals and not yet in there; return the state behind them."""
    for segment, record in records(home, manifest, progress):
        items, removed = added_items(record), removed_rows(record)
        progress = State(
            record.number,
            segment,
            record.end,
            progress.rows + len(items),
            progress.items + len(items) - len(removed),
        )
        catalog.apply(progress, items, removed, block_of(record))
    return progress


def added_items(record: Record) -> list[tuple[int, Item]]:
    """Return the items that a write brought, with their rows."""
    return [
        (row, Item(*values)) for row, values in enumerate(record.body.get("items", []), record.body.get("first", 0))
    ]


def removed_rows(record: Record) -> list[int]:
    """Return the rows that a write took away."""
    rows: list[int] = record.body.get("removed", [])
    return rows


def block_of(record: Record) -> Block | None:
    """Return the rows that a write brought, and their checksum."""
    body = record.body
    return Block(body["first"], body["rows"], body["crc32"]) if body["kind"] == "add" else None

"""What the demo found, in tables for a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .demo_report import DemoReport, DirectionReport, Search

NAMES = {"text": "words", "image": "pictures", "audio": "sounds"}
EXAMPLES = 1  # of each direction: the page shows more


def print_report(report: DemoReport, console: Console | None = None) -> None:
    """Print the recalls, a hit of every direction, the composed queries, and how to go on: less than a screen."""
    console = console or Console()
    counted = ", ".join(f"{report.counts[modality]} {name}" for modality, name in NAMES.items())
    console.out(f"{report.model}: {counted} in one space of {report.dimension} dimensions\n", highlight=False)
    console.print(_recalls(report))
    console.print(_hits("Some hits (green: of the query's concept)", report))
    if report.mixes:
        console.print(_mixes("Two queries in one", report))
    console.out(f"Took {report.seconds:.1f} s. Look and listen: {report.page}", highlight=False)
    command = "onepeace" if shutil.which("onepeace") else os.path.relpath(Path(sys.executable).with_name("onepeace"))
    console.out(
        f'Go on: {command} search {report.store} --text "a dog barking" --where modality=audio', highlight=False
    )


def _recalls(report: DemoReport) -> Table:
    table = _table("Recall@1 / recall@5, per cent")
    table.add_column("search", no_wrap=True)
    for heading in ("queries", "among", "exact", "concept", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for direction in report.directions:
        table.add_row(
            _name(direction),
            str(direction.queries),
            str(direction.candidates),
            _percents(direction.own),
            _percents(direction.concept),
            _percents(direction.chance),
        )
    table.caption = (
        "exact: a caption's own picture or sound, or the other way round;\n"
        "concept: anything about the same thing; chance: the same, drawn blindly"
    )
    table.caption_justify = "left"
    return table


def _hits(title: str, report: DemoReport) -> Table:
    table = _table(title, "search", "query", "nearest", "cosine")
    for direction in report.directions:
        for search in direction.examples[:EXAMPLES]:
            _add_search(table, search, _name(direction))
    return table


def _mixes(title: str, report: DemoReport) -> Table:
    table = _table(title, "query", "nearest", "cosine")
    for *_, both in report.mixes:
        _add_search(table, both)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    for heading in headings:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    if headings:
        table.columns[-1].justify = "right"
        table.columns[-2].ratio = table.columns[-3].ratio = 1  # long captions are cut, the rest is shown whole
        table.expand = True
    return table


def _add_search(table: Table, search: Search, *cells: str) -> None:
    """Add a row with the nearest hit, in green where it is about the same as the query."""
    query = " + ".join(part if isinstance(part, str) else part.metadata["text"] for part in search.query)
    about = {part.metadata["concept"] for part in search.query if not isinstance(part, str)}
    hit = search.hits[0]
    right = hit.item.metadata["concept"] in about
    table.add_row(*cells, query, Text(hit.item.metadata["text"], style="green" if right else ""), f"{hit.score:.2f}")


def _name(direction: DirectionReport) -> str:
    return f"{NAMES[direction.query]} → {NAMES[direction.target]}"


def _percents(shares: dict[int, float] | None) -> str:
    return "" if shares is None else " / ".join(f"{100 * share:3.0f}" for share in shares.values())

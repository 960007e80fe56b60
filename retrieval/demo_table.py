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

from .catalog import Item
from .demo_report import DemoReport, DirectionReport, Search

NAMES = {"text": "words", "image": "pictures", "audio": "sounds"}
EXAMPLES = 2  # queries of each direction
HITS = 2  # of each query


def print_report(report: DemoReport, console: Console | None = None) -> None:
    """Print the recalls, some hits of every direction, the composed queries, and how to go on."""
    console = console or Console()
    counted = ", ".join(f"{report.counts[modality]} {name}" for modality, name in NAMES.items())
    console.out(f"{report.model}: {counted} in one space of {report.dimension} dimensions\n", highlight=False)
    console.print(_recalls(report))
    console.print(_hits("Some hits (green: of the query's concept)", report))
    if report.mixes:
        console.print(_mixes("Two queries in one, after each part alone", report))
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
    table = _table(title, "query", "nearest", "cosine")
    for direction in report.directions:
        table.add_row(Text(_name(direction), style="bold cyan"))
        for search in direction.examples[:EXAMPLES]:
            _add_search(table, search, HITS)
        table.add_section()
    return table


def _mixes(title: str, report: DemoReport) -> Table:
    table = _table(title, "query", "nearest", "cosine")
    for searches in report.mixes:
        for search in searches:
            _add_search(table, search, 1)
        table.add_section()
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(*headings, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    if headings:
        table.columns[-1].justify = "right"
    return table


def _add_search(table: Table, search: Search, hits: int) -> None:
    query = " + ".join(part if isinstance(part, str) else _said(part) for part in search.query)
    about = {part.metadata["concept"] for part in search.query if not isinstance(part, str)}
    for hit in search.hits[:hits]:
        right = hit.item.metadata["concept"] in about
        table.add_row(Text(query), Text(_said(hit.item), style="green" if right else ""), f"{hit.score:.2f}")
        query = ""


def _said(item: Item) -> str:
    caption: str = item.metadata["text"]
    return {"text": "", "image": "picture: ", "audio": "sound: "}[item.modality] + caption


def _name(direction: DirectionReport) -> str:
    return f"{NAMES[direction.query]} → {NAMES[direction.target]}"


def _percents(shares: dict[int, float] | None) -> str:
    return "" if shares is None else " / ".join(f"{100 * share:3.0f}" for share in shares.values())

"""What commands about stores have in common: their options, and how they print what was done."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepeace.cli import PARTLY, load_model

if TYPE_CHECKING:
    from onepeace import Embedder

    from .build_config import BuildReport
    from .milvus import MilvusStore
    from .store import Store

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Files and folders: pictures, sounds, videos, PDFs, txt, csv, tsv, jsonl, parquet, tar, saved datasets.",
    ),
]


def _only_local(store: Path) -> Path:
    from .milvus_connection import is_milvus

    if is_milvus(store):
        raise ValueError("this command is for local stores: one in Milvus is looked after by Milvus itself")
    return store


StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="The store: a folder, or in Milvus a file.db or http://host:19530.")
]
StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder.", callback=_only_local)]
CollectionOption = Annotated[
    str | None, typer.Option("--collection", help="In Milvus: the store's collection, onepeace by default.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Items in one forward pass.")]
TextColumn = Annotated[str, typer.Option(help="The column with texts in csv, tsv, jsonl and parquet files.")]
Duplicates = Annotated[
    bool, typer.Option("--duplicates/--no-duplicates", help="Keep files whose content is in the store already.")
]
Windows = Annotated[
    bool,
    typer.Option("--windows", help="Make each window of a long sound an item, with its start and end in seconds."),
]
Fps = Annotated[float, typer.Option(min=0.001, max=60, help="Frames of a video that become items, a second.")]
Scenes = Annotated[
    bool, typer.Option("--scenes", help="Of a video take one frame a scene instead: the one in its middle.")
]
KindOption = Annotated[str | None, typer.Option(help="How to search: see below.", show_default="auto")]
RecallOption = Annotated[
    float | None, typer.Option(min=0.5, max=1.0, help="Share of the true 10 nearest to find.", show_default="0.98")
]
StoreModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The model, where the store's own name does not find it.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILTER", help="Keep only items that pass: 'modality=image and year>=2020'. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_store(place: str, collection: str | None) -> Store | MilvusStore:
    """Open a store, by what it is called a local one or one in Milvus."""
    from .milvus_connection import is_milvus

    if is_milvus(place):
        from .milvus import COLLECTION, MilvusStore

        return MilvusStore.open(place, collection or COLLECTION)
    if collection is not None:
        raise ValueError(f"--collection is for stores in Milvus, and {place} is a folder")
    from .store import Store

    return Store.open(place)


def load_for(store: Store | MilvusStore, name: str | None, device: str, dtype: str) -> Embedder:
    """The model that a store was built with, found by its name unless the user gives another."""
    if name is not None:
        return load_model(name, device, dtype)
    try:
        return load_model(store.model.name, device, dtype)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"the store was built with model {store.model.name!r}, which cannot be loaded by that name: "
            f"give it with --model ({error})"
        ) from error


def finish(report: BuildReport, out: Path | str, as_json: bool) -> None:
    """Print what was done, last what could not be read, and end with the exit code that says so."""
    from .sequences import EXTRA, is_readable

    if as_json:
        print_json(
            {
                "out": str(out),
                "added": report.added,
                "present": report.present,
                "reused": report.reused,
                "duplicates": report.duplicates,
                "failed": [failure._asdict() for failure in report.failed],
                "ignored": report.ignored,
                "conflicts": [conflict._asdict() for conflict in report.conflicts],
                "changed": report.changed,
                "gone": report.gone,
            }
        )
    elif report.added or report.present:
        which = "" if report.reused == report.added else f" {report.reused:,} of them"
        again = f",{which} with content that was embedded already" if report.reused else ""
        typer.echo(f"added {counted(report.added)} to {out}{again}")
        if report.present:
            were = "was" if report.present == 1 else "were"
            typer.echo(f"{report.present:,} {were} in the store already (`onepeace index add --replace` embeds again)")
    if report.changed:
        told = f"{len(report.changed):,} changed since: {some(report.changed)}"
        typer.echo(f"{told} (`onepeace index add {out} PATH... --replace` embeds what is there now)", err=True)
    if report.gone:
        told = f"{len(report.gone):,} no longer on the disk: {some(report.gone)}"
        typer.echo(f"{told} (`onepeace index remove {out} --gone FOLDER` takes them out; --json lists all)", err=True)
    if report.duplicates:
        typer.echo(
            f"{len(report.duplicates):,} have the content of others, and were left out (--no-duplicates)", err=True
        )
    ignored = list(report.ignored)
    if waiting := [uri for uri in ignored if not is_readable(uri) and not os.path.basename(uri).startswith(".")]:
        told = f"{counted(len(waiting), 'video or PDF', 'videos and PDFs')} left out, as what reads them is not here"
        typer.echo(f"{told} ({EXTRA}): {some(waiting)}", err=True)
        ignored = [uri for uri in ignored if uri not in set(waiting)]
    if ignored:
        typer.echo(f"{len(ignored):,} left out, hidden or neither media nor text: {some(ignored)}", err=True)
    if report.conflicts:
        typer.echo(f"{len(report.conflicts):,} left out, whose ids are those of others:", err=True)
        for uri, reason in report.conflicts:
            typer.echo(f"  {uri}: {reason}", err=True)
    if report.failed:
        typer.echo(f"{len(report.failed):,} could not be read:", err=True)
        for uri, reason in report.failed:
            typer.echo(f"  {reason if uri in reason else f'{uri}: {reason}'}", err=True)
    if report.failed and not report.added and not report.present and not report.conflicts:
        raise ValueError(f"nothing was added: none of {len(report.failed):,} could be read")
    if not report.added and not report.present and not report.conflicts:
        raise ValueError(
            "nothing was added: the given paths hold no picture, sound, video, PDF, txt, csv, tsv, jsonl, parquet or "
            "tar that can be read"
        )
    if report.failed or report.conflicts or report.changed:
        raise typer.Exit(PARTLY)


def counted(things: int, noun: str = "item", several: str | None = None) -> str:
    """A number of things, in words."""
    return f"1 {noun}" if things == 1 else f"{things:,} {several or noun + 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def print_json(content: Any) -> None:
    """Print JSON to stdout."""
    typer.echo(json.dumps(content, indent=2))

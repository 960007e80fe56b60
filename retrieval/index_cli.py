"""`onepeace index`: make stores, let them grow, say what is in them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from onepeace.cli import DeviceOption, DtypeOption, load_model

from .command_options import (
    AsJson,
    BatchSize,
    Duplicates,
    KindOption,
    Paths,
    RecallOption,
    StoreArgument,
    StoreModel,
    TextColumn,
    WhereOption,
    Windows,
    finish,
    load_for,
    print_json,
)

if TYPE_CHECKING:
    from .state import StoreState

index_commands = typer.Typer(no_args_is_help=True, help="Make, grow, inspect and look after stores.")


@index_commands.command()
def build(
    paths: Paths,
    store: Annotated[Path, typer.Option(help="The folder to make, or a store to go on with.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model's name, or an export folder.")
    ] = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    duplicates: Duplicates = True,
    windows: Windows = False,
    kind: KindOption = "auto",
    recall: RecallOption = 0.98,
    precision: Annotated[str, typer.Option(help="How vectors are written: float32, float16 or int8.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Embed files and folders into a store.

    A picture or a sound is an item. So is every line of a txt, and every
    row of a csv, tsv, jsonl or parquet that has a column text, image or
    audio; image and audio name files, from the table's folder. The other
    columns become metadata, to filter by. Tar shards and folders that
    `datasets.save_to_disk` wrote give their samples, with metadata.

    A .parquet that `onepeace embed` wrote is taken as it is, vectors and all;
    with nothing else no model is loaded.

    A sound longer than the model's window is one item, or with --windows an
    item a window; `onepeace search --group-by uri` then finds each recording
    once, with its best window.

    What has been embedded is kept after every batch. Interrupted, the same
    command goes on where it stopped.

    \b
    Kinds of index:
      auto        exact below 50,000 items, then ivf-rabitq
      exact       compares every vector; misses nothing
      ivf-rabitq  one bit a number, then the true vectors of the best
      ivf-sq      8 bits a number
      ivf-pq      1 bit a number, learnt
      hnsw        a graph: quickest to search, slowest to build
    All but exact are measured against exact search when they are built, and
    look as far as the asked recall needs.

    \b
    Examples:
      onepeace index build photos sounds --store my-store
      onepeace index build captions.csv --text-column caption --store my-store
      onepeace index build photos --store my-store --precision int8 --recall 0.99
      onepeace index build catalogue.parquet --store my-store --json | jq .added
      onepeace index build recordings --windows --store my-store
      onepeace index build saved-dataset --text-column caption --store my-store
      onepeace index build vectors-1.parquet vectors-2.parquet --store my-store
    """
    from .build import BuildConfig, build_store
    from .manifest import MANIFEST_NAME
    from .precision import as_precision
    from .scan import existing
    from .store import Store
    from .vector_table import vector_tables

    config = BuildConfig(batch_size=batch_size, text_column=text_column, duplicates=duplicates, windows=windows)
    existing(paths)  # refuse before a model is loaded
    if not (store / MANIFEST_NAME).is_file():
        Store.must_be_free(store)
    loaded = load_model(model, device, dtype) if vector_tables(paths)[1] else None
    report = build_store(paths, store, loaded, config, kind=kind, recall=recall, precision=as_precision(precision))
    finish(report, store, as_json)


@index_commands.command()
def add(
    store: StoreArgument,
    paths: Paths,
    model: StoreModel = None,
    replace: Annotated[bool, typer.Option("--replace", help="Embed again what the store has.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    duplicates: Duplicates = True,
    windows: Windows = False,
    as_json: AsJson = False,
) -> None:
    """Embed more files and folders into a store. What it has already is left alone.

    \b
    Examples:
      onepeace index add my-store more-photos
      onepeace index add my-store photos --replace
      onepeace index add my-store vectors.parquet
    """
    from .build import BuildConfig, add_to_store
    from .scan import existing
    from .store import Store
    from .vector_table import vector_tables

    config = BuildConfig(batch_size=batch_size, text_column=text_column, duplicates=duplicates, windows=windows)
    existing(paths)
    with Store.open(store) as opened:
        loaded = load_for(opened, model, device, dtype) if vector_tables(paths)[1] else None
        report = add_to_store(opened, paths, loaded, config, replace=replace)
    finish(report, store, as_json)


@index_commands.command()
def remove(
    store: StoreArgument,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Items by their ids.")] = None,
    where: WhereOption = None,
    as_json: AsJson = False,
) -> None:
    """Take items out of a store. Their space is reclaimed by `index compact`.

    \b
    Examples:
      onepeace index remove my-store photos/dog.jpg photos/cat.jpg
      onepeace index remove my-store --where "label=draft and year<2020"
    """
    from .store import Store

    if (not ids) == (not where):
        raise ValueError("give ids, or --where")
    with Store.open(store) as opened, opened.writing() as writer:
        catalog = writer.state.catalog
        names = ids or [
            item.id for item in catalog.items(catalog.select(" and ".join(f"({one})" for one in where or [])))
        ]
        count = writer.delete(names)
    if as_json:
        print_json({"removed": count})
    else:
        typer.echo(f"removed {count:,} items from {store}")


@index_commands.command()
def info(
    store: StoreArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is in a store, and which model made it.

    \b
    Examples:
      onepeace index info my-store
      onepeace index info my-store --verify --json
    """
    from .store import Store

    with Store.open(store, verify=verify) as opened:
        current, modalities, fields = opened.current, opened.catalog.counts(), opened.catalog.fields()
    manifest, progress = current.manifest, current.progress
    size = sum(path.stat().st_size for path in manifest.home(store).iterdir())
    if as_json:
        print_json(
            asdict(manifest)
            | {"count": progress.items, "deleted": progress.rows - progress.items, "writes": progress.number}
            | {"bytes": size, "modalities": modalities, "fields": fields, "verified": verify}
        )
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    deleted = progress.rows - progress.items
    for name, value in {
        "items": f"{progress.items:,}" + "".join(f", {count:,} {modality}" for modality, count in modalities.items()),
        "deleted": f"{deleted:,}" + (" (`onepeace index compact` reclaims their space)" if deleted else ""),
        "fields": ", ".join(fields),
        "model": f"{manifest.model.name} (fingerprint {manifest.model.fingerprint[:12]})",
        "vectors": f"{manifest.dimension} x {manifest.precision}, {len(manifest.sealed) + 1} segments",
        "search": _told_index(current),
        "created": manifest.created,
        "updated": f"{manifest.updated}, {progress.number:,} writes",
        "size": decimal(size),
        "checksums": "all files match" if verify else "not compared (--verify)",
    }.items():
        table.add_row(name, Text(value))
    Console().print(table)


def _told_index(current: StoreState) -> str:
    record = current.manifest.index
    if record is None:
        return "exact: every vector is compared"
    waiting = len(current.vectors) - record.rows
    return f"{record.kind}, {100 * record.recall:.1f} % of the true 10 nearest ({decimal(record.bytes)})" + (
        f", {waiting:,} newer vectors compared one by one" if waiting else ""
    )


@index_commands.command()
def merge(
    store: StoreArgument,
    kind: Annotated[str | None, typer.Option(help="Another kind of index: see `onepeace index build --help`.")] = None,
    recall: Annotated[float | None, typer.Option(min=0.5, max=1.0, help="Another share of the true nearest.")] = None,
) -> None:
    """Build the index over all items anew. Large stores do so by themselves, as they grow.

    \b
    Examples:
      onepeace index merge my-store
      onepeace index merge my-store --kind hnsw --recall 0.99
    """
    from onepeace.progress import progress_bar

    from .build import in_percent
    from .store import Store

    with (
        Store.open(store) as opened,
        opened.writing() as writer,
        progress_bar(100, "indexing") as advance,
    ):
        writer.merge(kind, recall, progress=in_percent(advance))
        told = _told_index(writer.state)
    typer.echo(told)

"""`onepeace index`: make stores, let them grow, say what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
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
    CollectionOption,
    Duplicates,
    Fps,
    KindOption,
    Paths,
    RecallOption,
    Scenes,
    StoreArgument,
    StoreFolder,
    StoreModel,
    TextColumn,
    Windows,
    counted,
    finish,
    load_for,
    open_store,
    print_json,
)

if TYPE_CHECKING:
    from .engine import EmbeddingModel, Engine
    from .state import StoreState


class Backend(StrEnum):
    """Where a store is."""

    local = "local"
    milvus = "milvus"


class EngineOption(StrEnum):
    """Where the model runs."""

    LOCAL = "local"
    RAY = "ray"


HELP = """Make, grow, inspect and look after stores.

\b
Examples:
  onepeace index build photos sounds --store my-store
  onepeace index add my-store more-photos
  onepeace index remove my-store photos/dog.jpg
  onepeace index info my-store
  onepeace index verify my-store
"""

index_commands = typer.Typer(no_args_is_help=True, help=HELP)


@index_commands.command()
def build(
    paths: Paths,
    store: Annotated[
        str,
        typer.Option(help="The folder to make, or a store to go on with. In Milvus: a file.db or http://host:19530."),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model's name, or an export folder.")
    ] = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    duplicates: Duplicates = True,
    windows: Windows = False,
    fps: Fps = 1.0,
    scenes: Scenes = False,
    kind: KindOption = None,
    recall: RecallOption = None,
    precision: Annotated[
        str | None, typer.Option(help="How vectors are written: float32, float16 or int8.", show_default="float32")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="Where the store is: a folder, or Milvus.")] = Backend.local,
    collection: CollectionOption = None,
    engine: Annotated[
        EngineOption, typer.Option(help="Where the model runs: in this process, or on Ray.")
    ] = EngineOption.LOCAL,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster, HOST:PORT or auto; else Ray runs here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Copies of the model on Ray: one a GPU, or 4 CPU cores, by default.")
    ] = None,
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

    A video (mp4, mov, mkv, webm) is an item a frame, one a second or --fps,
    or one a scene with --scenes, and an item a window of its sound track; a
    PDF, or a TIFF with several pictures, an item a page. They need
    pip install 'onepeace[sequences]'. Hits say the time or the page.

    What has been embedded is kept after every batch. Interrupted, the same
    command goes on where it stopped. Files that changed since, or went, are
    named; so are those whose id the store has for another file, which are
    left out. A file is stored once, whatever path leads to it.

    With --engine ray, workers embed and this process writes. On a cluster
    files, and a --model folder, must have the same paths on every machine.

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

    In Milvus: exact, hnsw, or auto, which is exact in a file.db and a
    server's own choice elsewhere. A server's token is read from the variable
    ONEPEACE_MILVUS_TOKEN.

    \b
    Examples:
      onepeace index build photos sounds --store my-store
      onepeace index build captions.csv --text-column caption --store my-store
      onepeace index build photos --store my-store --precision int8 --recall 0.99
      onepeace index build catalogue.parquet --store my-store --json | jq .added
      onepeace index build photos --backend milvus --store my.db
      onepeace index build photos --backend milvus --store http://host:19530
      onepeace index build recordings --windows --store my-store
      onepeace index build films --fps 0.5 --store my-store
      onepeace index build saved-dataset --text-column caption --store my-store
      onepeace index build vectors-1.parquet vectors-2.parquet --store my-store
      onepeace index build photos --store my-store --engine ray --workers 2
      onepeace index build /mnt/photos --store my-store --engine ray --ray-address 10.0.0.1:6379
    """
    from .build import build_in_milvus, build_store
    from .build_config import BuildConfig
    from .manifest import MANIFEST_NAME
    from .milvus import COLLECTION, MilvusStore
    from .milvus_connection import is_milvus
    from .precision import as_precision
    from .scan import existing
    from .store import Store
    from .vector_table import vector_tables

    config = BuildConfig(
        batch_size=batch_size,
        text_column=text_column,
        duplicates=duplicates,
        windows=windows,
        fps=fps,
        scenes=scenes,
    )
    existing(paths)  # refuse before a model is loaded
    in_milvus = backend is Backend.milvus
    if is_milvus(store) != in_milvus:
        raise ValueError(
            f"a store in Milvus is called file.db or http://host:19530, got {store}"
            if in_milvus
            else f"{store} is what a store in Milvus is called: add --backend milvus, or give a folder's name"
        )
    if in_milvus and (precision or recall is not None):
        raise ValueError("--precision and --recall are for local stores: Milvus keeps float32 here")
    if collection is not None and not in_milvus:
        raise ValueError("--collection is for stores in Milvus: add --backend milvus")
    if in_milvus:
        MilvusStore.must_be_possible(store, collection or COLLECTION, kind or "auto")
    elif not (Path(store) / MANIFEST_NAME).is_file():
        Store.must_be_free(store)
    with _on(engine, ray_address, workers, model, device, dtype, needed=bool(vector_tables(paths)[1])) as ready:
        if in_milvus:
            report = build_in_milvus(
                paths, store, ready, config, collection=collection or COLLECTION, kind=kind or "auto"
            )
        else:
            stored = None if precision is None else as_precision(precision)
            report = build_store(paths, store, ready, config, kind=kind, recall=recall, precision=stored)
    finish(report, store, as_json)


@contextmanager
def _on(
    engine: EngineOption,
    ray_address: str | None,
    workers: int | None,
    model: str,
    device: str,
    dtype: str,
    *,
    needed: bool,
) -> Iterator[EmbeddingModel | Engine | None]:
    """Have the model ready where it is to run, or None where all vectors are there."""
    if engine is EngineOption.LOCAL and (ray_address is not None or workers is not None):
        raise ValueError("--ray-address and --workers go with --engine ray")
    if not needed:
        yield None
    elif engine is EngineOption.RAY:
        from .ray_engine import RayEngine

        with RayEngine(model, device=device, dtype=dtype, address=ray_address, workers=workers) as ready:
            yield ready
    else:
        yield load_model(model, device, dtype)


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
    collection: CollectionOption = None,
    windows: Windows = False,
    fps: Fps = 1.0,
    scenes: Scenes = False,
    as_json: AsJson = False,
) -> None:
    """Embed more files and folders into a store. What it has already is left alone.

    With --replace it is embedded again, as it is now. A file whose id is
    that of another in the store is named and left out, with --replace too.

    \b
    Examples:
      onepeace index add my-store more-photos
      onepeace index add my-store photos --replace
      onepeace index add my-store vectors.parquet
    """
    from .build import add_to_store
    from .build_config import BuildConfig
    from .scan import existing, is_store
    from .vector_table import vector_tables

    config = BuildConfig(
        batch_size=batch_size,
        text_column=text_column,
        duplicates=duplicates,
        windows=windows,
        fps=fps,
        scenes=scenes,
    )
    existing(paths)
    if os.path.isdir(store) and not is_store(store) and (other := next(filter(is_store, paths), None)):
        raise ValueError(f"{other} is a store and {store} is not: say onepeace index add {other} {store}")
    with open_store(store, collection) as opened:
        loaded = load_for(opened, model, device, dtype) if vector_tables(paths)[1] else None
        report = add_to_store(opened, paths, loaded, config, replace=replace)
    finish(report, store, as_json)


@index_commands.command()
def remove(
    store: StoreArgument,
    items: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ITEM...]", help="Items by their ids, or by the paths of their files."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="FILTER", help="Take out what passes: 'label=draft and year<2020'. Repeatable: all pass."),
    ] = None,
    gone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Take out what came from FOLDER, and was moved or deleted there since. Repeatable.",
        ),
    ] = None,
    collection: CollectionOption = None,
    as_json: AsJson = False,
) -> None:
    """Take items out of a store. Their space is reclaimed by `index compact`.

    Their files stay on the disk: adding their folder again brings them back.

    \b
    Examples:
      onepeace index remove my-store photos/dog.jpg photos/cat.jpg
      onepeace index remove my-store --where "label=draft and year<2020"
      onepeace index remove my-store --gone photos
    """
    from .changes import gone_from
    from .named import ids_named

    if sum(map(bool, (items, where, gone))) != 1:
        raise ValueError("give items by their ids or files, or --where, or --gone")
    with open_store(store, collection) as opened:
        if items:
            ids = ids_named(opened, items)
        elif where:
            ids = opened.ids(" and ".join(f"({one})" for one in where))
        else:
            with opened.writing() as writer:
                ids = [name for folder in gone or [] for name in gone_from(folder, writer)]
        count = opened.delete(ids, missing_ok=True)  # another process may be taking the same ones out
    if as_json:
        print_json({"removed": count})
    else:
        typer.echo(f"removed {counted(count)} from {store}")


@index_commands.command()
def info(
    store: StoreArgument,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every file with its checksum.")] = False,
    collection: CollectionOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a store, and which model made it.

    \b
    Examples:
      onepeace index info my-store
      onepeace index info my-store --verify --json
    """
    from .milvus_connection import is_milvus
    from .store import Store, bytes_below

    if is_milvus(store):
        if verify:
            raise ValueError("--verify is for local stores: one in Milvus is looked after by Milvus itself")
        _show_milvus(store, collection, as_json)
        return
    if collection is not None:
        raise ValueError(f"--collection is for stores in Milvus, and {store} is a folder")
    with Store.open(store, verify=verify) as opened:
        current, modalities, fields = opened.current, opened.catalog.counts(), opened.catalog.fields()
    manifest, progress = current.manifest, current.progress
    size = bytes_below(manifest.home(Path(store)))
    if as_json:
        print_json(
            asdict(manifest)
            | {"count": progress.items, "deleted": progress.rows - progress.items, "writes": progress.number}
            | {"bytes": size, "modalities": modalities, "fields": fields, "verified": verify}
        )
        return
    deleted = progress.rows - progress.items
    content = {
        "items": f"{progress.items:,}" + "".join(f", {count:,} {modality}" for modality, count in modalities.items()),
        "deleted": f"{deleted:,}" + (" (`onepeace index compact` reclaims their space)" if deleted else ""),
        "fields": ", ".join(fields),
        "model": f"{manifest.model.name} (fingerprint {manifest.model.fingerprint[:12]})",
        "vectors": f"{manifest.dimension} x {manifest.precision}, {counted(len(manifest.sealed) + 1, 'segment')}",
        "search": _told_index(current),
        "created": manifest.created,
        "writes": f"{progress.number:,}",
        "size": decimal(size),
        "checksums": "all files match" if verify else "not compared (--verify)",
    }
    _print_table(content)


def _show_milvus(place: str, collection: str | None, as_json: bool) -> None:
    from .milvus import COLLECTION, MilvusStore

    with MilvusStore.open(place, collection or COLLECTION) as opened:
        count, modalities, fields, about = len(opened), opened.counts(), opened.fields(), opened.about
    if as_json:
        print_json(
            {"collection": opened.collection}
            | asdict(about)
            | {"count": count, "modalities": modalities, "fields": fields}
        )
        return
    content = {
        "items": f"{count:,}" + "".join(f", {some:,} {modality}" for modality, some in modalities.items()),
        "fields": ", ".join(fields),
        "model": f"{about.model.name} (fingerprint {about.model.fingerprint[:12]})",
        "vectors": f"{about.model.dimension} x {about.precision}",
        "search": f"{about.kind}, in Milvus's collection {opened.collection}",
        "created": about.created,
    }
    _print_table(content)


def _print_table(content: dict[str, str]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in content.items():
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
    store: StoreFolder,
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

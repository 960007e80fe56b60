"""The command line: stores and search here, the model's commands from `onepeace.cli`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from onepeace.cli import PARTLY, DeviceOption, DtypeOption, load_model
from onepeace.cli import app as model_commands

from .demo import demo_command

if TYPE_CHECKING:
    from onepeace import Embedder

    from .build import BuildReport
    from .search import SearchHit
    from .state import StoreState
    from .store import Store

USER_ERROR = 1
AWAY = 0.5  # weight of what a query is to keep away from


class OneLineErrors(TyperGroup):
    """Says in one line what a user can put right, and keeps the traceback for `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of a pipe has left: typer ends quietly
        except (ValueError, OSError, ImportError) as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {_in_one_line(error)}", err=True)
            raise typer.Exit(USER_ERROR) from None


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
index_commands = typer.Typer(no_args_is_help=True, help="Make, grow and inspect stores.")
app.add_typer(index_commands, name="index")
app.add_typer(model_commands)


def _print_version(asked: bool) -> None:
    if asked:
        from onepeace import __version__

        typer.echo(f"onepeace {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the release and exit.")
    ] = False,
) -> None:
    """Images, text and audio in one embedding space: embed, classify, index, search.

    \b
    Examples:
      onepeace demo
      onepeace index build photos sounds captions.csv --store my-store
      onepeace search my-store --text "a dog in the snow" --where modality=image

    Exit codes: 0 fine; 1 an error, named in one line; 2 options that do not
    exist or have no such form; 3 done, but some files could not be read.
    """


Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Files and folders: pictures, sounds, txt, csv, tsv, jsonl, parquet."),
]
StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Items in one forward pass.")]
TextColumn = Annotated[str, typer.Option(help="The column with texts in csv, tsv, jsonl and parquet files.")]
Duplicates = Annotated[
    bool, typer.Option("--duplicates/--no-duplicates", help="Keep files whose content is in the store already.")
]
KindOption = Annotated[str, typer.Option(help="How to search: see below.")]
RecallOption = Annotated[float, typer.Option(min=0.5, max=1.0, help="Share of the true 10 nearest to find.")]
StoreModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The model, where the store's own name does not find it.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(metavar="FILTER", help="Keep only items that pass: 'modality=image and year>=2020'. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="The table to write: .parquet or .jsonl.")],
    model: Annotated[str, typer.Option(help="A shipped model's name, or an export folder.")] = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    as_json: AsJson = False,
) -> None:
    """Embed files and folders into a table: id, modality, uri, metadata, vector.

    \b
    Examples:
      onepeace embed photos sounds captions.csv --out vectors.parquet
      onepeace embed notes.txt --out vectors.jsonl
    """
    from .build import BuildConfig
    from .scan import existing
    from .table import embed_files, must_be_writable

    existing(paths)  # refuse before a model is loaded
    must_be_writable(out)
    config = BuildConfig(batch_size=batch_size, text_column=text_column)
    _finish(embed_files(paths, out, load_model(model, device, dtype), config), out, as_json)


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
    kind: KindOption = "auto",
    recall: RecallOption = 0.98,
    precision: Annotated[str, typer.Option(help="How vectors are written: float32, float16 or int8.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Embed files and folders into a store.

    A picture or a sound is an item. So is every line of a txt, and every
    row of a csv, tsv, jsonl or parquet that has a column text, image or
    audio; image and audio name files, from the table's folder. The other
    columns become metadata, to filter by.

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
    """
    from .build import BuildConfig, build_store
    from .manifest import MANIFEST_NAME
    from .precision import as_precision
    from .scan import existing
    from .store import Store

    config = BuildConfig(batch_size=batch_size, text_column=text_column, duplicates=duplicates)
    existing(paths)  # refuse before a model is loaded
    if not (store / MANIFEST_NAME).is_file():
        Store.must_be_free(store)
    loaded = load_model(model, device, dtype)
    report = build_store(paths, store, loaded, config, kind=kind, recall=recall, precision=as_precision(precision))
    _finish(report, store, as_json)


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
    as_json: AsJson = False,
) -> None:
    """Embed more files and folders into a store. What it has already is left alone.

    \b
    Examples:
      onepeace index add my-store more-photos
      onepeace index add my-store photos --replace
    """
    from .build import BuildConfig, add_to_store
    from .scan import existing
    from .store import Store

    config = BuildConfig(batch_size=batch_size, text_column=text_column, duplicates=duplicates)
    existing(paths)
    with Store.open(store) as opened:
        report = add_to_store(opened, paths, _load_for(opened, model, device, dtype), config, replace=replace)
    _finish(report, store, as_json)


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
        _print_json({"removed": count})
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
        _print_json(
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
def verify(store: StoreArgument, as_json: AsJson = False) -> None:
    """Compare every byte of a store with its checksums, and name what is damaged.

    A store that was found damaged is not opened until it is repaired.

    \b
    Examples:
      onepeace index verify my-store
    """
    from .integrity import verify_store

    found = verify_store(store)
    if as_json:
        _print_json(
            [{"file": str(problem.path), "what": problem.what, "derived": problem.derived} for problem in found]
        )
    elif not found:
        typer.echo(f"every file of {store} is as it was written")
    for problem in found:
        typer.echo(problem.what + (" (can be made again)" if problem.derived else ""), err=True)
    if found:
        raise ValueError(f"{store} is damaged: put it right with `onepeace index repair {store}`")


@index_commands.command()
def repair(
    store: StoreArgument,
    snapshot: Annotated[Path | None, typer.Option(help="An older copy, to take lost vectors from.")] = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Leave out items whose vectors are lost, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a damaged store right. Nothing is left out unless --drop says so.

    \b
    Examples:
      onepeace index repair my-store
      onepeace index repair my-store --snapshot my-backup
      onepeace index repair my-store --drop --json | jq -r ".lost[]"
    """
    from .repair import repair as put_right

    report = put_right(store, snapshot=snapshot, drop=drop)
    if as_json:
        _print_json(asdict(report))
        return
    for what in report.problems:
        typer.echo(what, err=True)
    typer.echo(f"{store} is whole" if report.problems else f"{store} was not damaged")
    if report.restored:
        typer.echo(f"{report.restored:,} items were taken from {snapshot}")
    for name in report.lost:
        typer.echo(f"lost: {name}", err=True)


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


@index_commands.command()
def compact(store: StoreArgument) -> None:
    """Reclaim the space of deleted items. Needs room for a second copy meanwhile.

    \b
    Examples:
      onepeace index compact my-store
    """
    from .store import Store

    with Store.open(store) as opened, opened.writing() as writer:
        before = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        writer.compact()
        after = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    typer.echo(f"{store}: {decimal(before)} before, {decimal(after)} now")


@index_commands.command()
def snapshot(
    store: StoreArgument,
    target: Annotated[Path, typer.Argument(metavar="COPY", help="The folder to make.")],
) -> None:
    """Copy a store, also while it is searched and written to. The copy is a store itself.

    \b
    Examples:
      onepeace index snapshot my-store backups/monday
      onepeace search backups/monday --text "a dog"
    """
    from .snapshot import snapshot as copy
    from .store import Store

    with Store.open(store) as opened:
        copy(opened, target)
        typer.echo(f"{len(opened):,} items copied to {target}")


@index_commands.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="COPY", help="What `onepeace index snapshot` made.")],
    target: Annotated[Path, typer.Argument(metavar="STORE", help="The folder to make.")],
) -> None:
    """Make a store from a snapshot, and check every byte of it.

    \b
    Examples:
      onepeace index restore backups/monday my-store
    """
    from .snapshot import restore as put_back

    put_back(source, target)
    typer.echo(f"{target} is as {source} was")


@index_commands.command()
def migrate(store: StoreArgument) -> None:
    """Bring a store of an older format to today's, in one step.

    \b
    Examples:
      onepeace index migrate my-store
    """
    from .migrate import migrate as bring

    typer.echo(f"{store} has today's format" + (" now" if bring(store) else " already"))


@app.command()
def search(
    store: StoreArgument,
    text: Annotated[list[str] | None, typer.Option(help="Search with a text. Repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="Search with a picture. Repeatable.")] = None,
    audio: Annotated[list[str] | None, typer.Option(help="Search with a sound. Repeatable.")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weigh the parts of a mix: one for each, first texts, then pictures, then sounds."),
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="ID", help="Search with an item of the store.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits.")] = 10,
    without_text: Annotated[list[str] | None, typer.Option(help="Away from a text. Repeatable.")] = None,
    without_image: Annotated[list[str] | None, typer.Option(help="Away from a picture. Repeatable.")] = None,
    without_audio: Annotated[list[str] | None, typer.Option(help="Away from a sound. Repeatable.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Skip this many hits: the next page.")] = 0,
    min_score: Annotated[float | None, typer.Option(help="Leave out hits that are less similar.")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The best hit of each value: uri, or a field.")
    ] = None,
    diversity: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Prefer hits that differ from one another.")
    ] = 0.0,
    where: WhereOption = None,
    model: StoreModel = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Find items by a text, a picture, a sound, or a mix of them.

    Filters compare fields with = != < <= > >= and ~ (a pattern with * and ?),
    or with `in (a, b)`; and, or, not and parentheses join them.

    \b
    Examples:
      onepeace search my-store --text "a dog barking" --where modality=audio
      onepeace search my-store --image dog.jpg --top 3
      onepeace search my-store --audio rain.ogg --text "a street at night"
      onepeace search my-store --text sunset --text beach --weight 1 --weight 0.5
      onepeace search my-store --text "a horse" --without-text "a rider"
      onepeace search my-store --text "a dog" --where "uri ~ */2024/* and not label=draft"
      onepeace search my-store --like photos/dog.jpg --text "in the snow" --diversity 0.3
      onepeace search my-store --like photos/dog.jpg --json | jq ".[].id"
    """
    from .search import Searcher
    from .store import Store

    asked = {"text": text or [], "image": image or [], "audio": audio or []}
    parts = [(modality, value) for modality, values in asked.items() for value in values]
    away = {"text": without_text or [], "image": without_image or [], "audio": without_audio or []}
    parts += [(modality, value) for modality, values in away.items() for value in values]
    pushed = len(parts) - sum(map(len, asked.values()))
    if like is None and len(parts) == pushed:
        raise ValueError("give --text, --image or --audio (or several of them), or --like with an item's id")
    if weight and len(weight) != len(parts) - pushed:
        raise ValueError(
            f"give one --weight for each part of the query: {len(parts) - pushed} parts, {len(weight)} weights"
        )
    weights = [*(weight or [1.0] * (len(parts) - pushed)), *([-AWAY] * pushed)]
    options: dict[str, Any] = {"offset": offset, "min_score": min_score, "group_by": group_by, "diversity": diversity}
    condition = " and ".join(f"({one})" for one in where) if where else None
    with Store.open(store) as opened:
        if like is not None and not parts:
            hits = Searcher(opened).search_like(like, top, condition, **options)
        else:
            searcher = Searcher(opened, _load_for(opened, model, device, dtype))
            hits = searcher.search(_query(parts, weights, like), top, condition, **options)
    if as_json:
        _print_json(
            [
                {"rank": hit.rank, "score": hit.score, "id": hit.item.id, "modality": hit.item.modality}
                | {"uri": hit.item.uri, "metadata": hit.item.metadata}
                for hit in hits
            ]
        )
    else:
        _print_hits(hits)


app.command("demo")(demo_command)


def _load_for(store: Store, name: str | None, device: str, dtype: str) -> Embedder:
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


def _query(parts: list[tuple[str, str]], weights: list[float], like: str | None) -> Any:
    import onepeace

    from .search import Stored

    wrap = {"text": onepeace.Text, "image": onepeace.Image, "audio": onepeace.Audio}
    wrapped: list[Any] = [wrap[modality](value) for modality, value in parts]
    if like is not None:
        wrapped, weights = [Stored(like), *wrapped], [1.0, *weights]
    return wrapped[0] if weights == [1.0] else onepeace.Compose(*wrapped, weights=weights)


def _finish(report: BuildReport, out: Path, as_json: bool) -> None:
    """Print what was done, last what could not be read, and end with the exit code that says so."""
    if as_json:
        _print_json(
            {
                "out": str(out),
                "added": report.added,
                "present": report.present,
                "reused": report.reused,
                "duplicates": report.duplicates,
                "failed": [failure._asdict() for failure in report.failed],
                "ignored": report.ignored,
            }
        )
    elif report.added or report.present:
        again = f", {report.reused:,} of them with content that was embedded already" if report.reused else ""
        typer.echo(f"added {report.added:,} items to {out}{again}")
        if report.present:
            typer.echo(f"{report.present:,} were in the store already (--replace embeds them again)")
    if report.duplicates:
        typer.echo(
            f"{len(report.duplicates):,} have the content of others, and were left out (--no-duplicates)", err=True
        )
    if report.ignored:
        files = "1 file is" if len(report.ignored) == 1 else f"{len(report.ignored):,} files are"
        typer.echo(f"{files} neither media nor text, and left out", err=True)
    if report.failed:
        typer.echo(f"{len(report.failed):,} could not be read:", err=True)
        for uri, reason in report.failed:
            typer.echo(f"  {uri}: {reason}", err=True)
    if not report.added and not report.present:
        raise ValueError("nothing was added: no item could be read from the given paths")
    if report.failed:
        raise typer.Exit(PARTLY)


def _print_hits(hits: list[SearchHit]) -> None:
    table = Table("", "score", "kind", "id", "text", box=None, padding=(0, 2, 0, 0))
    for hit in hits:
        words = str(hit.item.metadata.get("text", ""))
        table.add_row(str(hit.rank), f"{hit.score:.3f}", hit.item.modality, Text(hit.item.id), Text(words[:200]))
    Console().print(table if hits else "nothing found")


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2))

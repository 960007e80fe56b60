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
    from .store import Store

USER_ERROR = 1


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
StoreModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The model, where the store's own name does not find it.")
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
    store: Annotated[Path, typer.Option(help="The folder to make; it must not exist, or be empty.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model's name, or an export folder.")
    ] = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    as_json: AsJson = False,
) -> None:
    """Embed files and folders into a new store.

    A picture or a sound is an item. So is every line of a txt, and every
    row of a csv, tsv, jsonl or parquet that has a column text, image or
    audio; image and audio name files, from the table's folder. The other
    columns become metadata, to filter by.

    \b
    Examples:
      onepeace index build photos sounds --store my-store
      onepeace index build captions.csv --text-column caption --store my-store
      onepeace index build catalogue.parquet --store my-store --json | jq .added
    """
    from .build import BuildConfig, build_store
    from .scan import existing
    from .store import Store

    config = BuildConfig(batch_size=batch_size, text_column=text_column)
    existing(paths)  # refuse before a model is loaded
    Store.must_be_free(store)
    report = build_store(paths, store, load_model(model, device, dtype), config)
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

    config = BuildConfig(batch_size=batch_size, text_column=text_column)
    existing(paths)
    with Store.open(store) as opened:
        report = add_to_store(opened, paths, _load_for(opened, model, device, dtype), config, replace=replace)
    _finish(report, store, as_json)


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
        manifest, modalities, fields = opened.current.manifest, opened.catalog.counts(), opened.catalog.fields()
    if as_json:
        _print_json(asdict(manifest) | {"modalities": modalities, "fields": fields, "verified": verify})
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in {
        "items": f"{manifest.count:,}" + "".join(f", {count:,} {modality}" for modality, count in modalities.items()),
        "fields": ", ".join(fields),
        "model": f"{manifest.model.name} (fingerprint {manifest.model.fingerprint[:12]})",
        "dimension": str(manifest.dimension),
        "created": manifest.created,
        "updated": f"{manifest.updated}, write {manifest.generation}",
        "files": ", ".join(f"{record.path} {decimal(record.bytes)}" for record in manifest.files),
        "checksums": "all files match" if verify else "not compared (--verify)",
    }.items():
        table.add_row(name, Text(value))
    Console().print(table)


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
    where: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=VALUE", help="Keep only items with this value. Repeatable.")
    ] = None,
    model: StoreModel = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Find items by a text, a picture, a sound, or a mix of them.

    \b
    Examples:
      onepeace search my-store --text "a dog barking" --where modality=audio
      onepeace search my-store --image dog.jpg --top 3
      onepeace search my-store --audio rain.ogg --text "a street at night"
      onepeace search my-store --text sunset --text beach --weight 1 --weight 0.5
      onepeace search my-store --like photos/dog.jpg --json | jq ".[].id"
    """
    from .search import Searcher
    from .store import Store

    asked = {"text": text or [], "image": image or [], "audio": audio or []}
    parts = [(modality, value) for modality, values in asked.items() for value in values]
    if (like is None) == (not parts):
        raise ValueError("give --text, --image or --audio (or several of them), or --like with an item's id")
    if weight and len(weight) != len(parts):
        raise ValueError(f"give one --weight for each part of the query: {len(parts)} parts, {len(weight)} weights")
    condition = ", ".join(where) if where else None
    with Store.open(store) as opened:
        if like is not None:
            hits = Searcher(opened).search_like(like, top, condition)
        else:
            searcher = Searcher(opened, _load_for(opened, model, device, dtype))
            hits = searcher.search(_query(parts, weight), top, condition)
    if as_json:
        _print_json([{"rank": hit.rank, "score": hit.score} | asdict(hit.item) for hit in hits])
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


def _query(parts: list[tuple[str, str]], weights: list[float] | None) -> Any:
    import onepeace

    wrap = {"text": onepeace.Text, "image": onepeace.Image, "audio": onepeace.Audio}
    wrapped = [wrap[modality](value) for modality, value in parts]
    return wrapped[0] if len(wrapped) == 1 else onepeace.Compose(*wrapped, weights=weights or None)


def _finish(report: BuildReport, out: Path, as_json: bool) -> None:
    """Print what was done, last what could not be read, and end with the exit code that says so."""
    if as_json:
        _print_json(
            {
                "out": str(out),
                "added": report.added,
                "present": report.present,
                "failed": [failure._asdict() for failure in report.failed],
                "ignored": report.ignored,
            }
        )
    elif report.added or report.present:
        typer.echo(f"added {report.added:,} items to {out}")
        if report.present:
            typer.echo(f"{report.present:,} were in the store already (--replace embeds them again)")
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

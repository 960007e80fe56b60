"""The `onepeace` command: `embed` and `search` here; stores in `index_cli`, `upkeep_cli`, models in `onepeace.cli`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from onepeace.cli import DeviceOption, DtypeOption, load_model
from onepeace.cli import app as model_commands

from .check import check_command
from .command_options import (
    AsJson,
    BatchSize,
    CollectionOption,
    Fps,
    Paths,
    Scenes,
    StoreArgument,
    StoreModel,
    TextColumn,
    WhereOption,
    Windows,
    finish,
    load_for,
    open_store,
    print_json,
)
from .demo import demo_command
from .index_cli import index_commands
from .service.cli import serve
from .upkeep_cli import upkeep_commands

if TYPE_CHECKING:
    from .search import SearchHit

USER_ERROR = 1
AWAY = 0.5  # weight of what a query is to keep away from


class WrongOption(typer.TyperException):
    """Options that are called otherwise; the message says how."""

    exit_code = 2


class OneLineErrors(TyperGroup):
    """Says in one line what a user can put right, and keeps the traceback for `--debug`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. Raises ValueError for one of `index` whose group was left out."""
        if args and args[0] not in self.commands and args[0] in self.commands["index"].commands:  # type: ignore[attr-defined]
            raise ValueError(f"{args[0]} is a command of index: say onepeace index {args[0]}")
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the options that stand before a command."""
        try:
            return super().make_context(*args, **options)
        except typer.TyperException as error:
            raise _refused(error, "onepeace") from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            raise _refused(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip()) from None
        except BrokenPipeError:
            raise  # the reader of a pipe has left: typer ends quietly
        except (ValueError, OSError, ImportError) as error:
            if ctx.params.get("debug"):
                raise
            typer.echo(f"error: {_in_one_line(error)}", err=True)
            raise typer.Exit(USER_ERROR) from None


def _refused(error: Any, command: str) -> typer.Exit:
    """Say in one line what is wrong with the options, and where they are explained; or show the help of a group."""
    if getattr(error, "ctx", None):
        command = error.ctx.command_path
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        told = _in_one_line(error.format_message()).rstrip(".")
        typer.echo(f"error: {told} ({command} --help)", err=True)
    return typer.Exit(error.exit_code)


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
index_commands.add_typer(upkeep_commands)
app.add_typer(index_commands, name="index")
app.command()(serve)
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
    exist or have no such form; 3 done, but some files could not be read, or
    the store has another file or another content in their place.
    """


@app.command()
def embed(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="The table to write: .parquet or .jsonl.")],
    model: Annotated[str, typer.Option(help="A shipped model's name, or an export folder.")] = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    windows: Windows = False,
    fps: Fps = 1.0,
    scenes: Scenes = False,
    as_json: AsJson = False,
) -> None:
    """Embed files and folders into a table: id, modality, uri, metadata, vector.

    A .parquet also says which model made it: `onepeace index build` and
    `onepeace index add` take it without embedding anything again.

    \b
    Examples:
      onepeace embed photos sounds captions.csv --out vectors.parquet
      onepeace embed notes.txt --out vectors.jsonl
    """
    from .build_config import BuildConfig
    from .scan import existing
    from .table import embed_files, must_be_writable

    existing(paths)  # refuse before a model is loaded
    must_be_writable(out)
    config = BuildConfig(batch_size=batch_size, text_column=text_column, windows=windows, fps=fps, scenes=scenes)
    finish(embed_files(paths, out, load_model(model, device, dtype), config), out, as_json)


@app.command(context_settings={"allow_extra_args": True})  # to say how they are meant
def search(
    context: typer.Context,
    store: StoreArgument,
    text: Annotated[list[str] | None, typer.Option(help="Search with a text. Repeatable.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="Search with a picture. Repeatable.")] = None,
    audio: Annotated[list[str] | None, typer.Option(help="Search with a sound. Repeatable.")] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weigh the parts of a mix: one for each, first texts, then pictures, then sounds."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="ITEM", help="Search with an item of the store: its id, or the path of its file."),
    ] = None,
    ask: Annotated[
        str | None, typer.Option(help='Ask the videos, documents and long sounds: "what comes after the dog?".')
    ] = None,
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
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help="Order the 100 nearest by the model's bank of texts (onepeace querybank), not by cosine: "
            "names and captions mostly find more.",
        ),
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Show also items whose bytes, or words, are those of a better hit.")
    ] = False,
    where: WhereOption = None,
    collection: CollectionOption = None,
    model: StoreModel = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    as_json: AsJson = False,
    sound: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    picture: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Find items by a text, a picture, a sound, or a mix of them.

    Filters compare fields with = != < <= > >= and ~ (a pattern with * and ?),
    or with `in (a, b)`; and, or, not and parentheses join them.

    \b
    Examples:
      onepeace search my-store --text "a dog barking" --where modality=audio
      onepeace search my-store --image dog.jpg --top 3
      onepeace search my-store --audio rain.ogg --text "a street at night"
      onepeace search my-store --text "a dog on a beach" --rerank
      onepeace search my-store --text sunset --text beach --weight 1 --weight 0.5
      onepeace search my-store --text "a horse" --without-text "a rider"
      onepeace search my-store --text "a dog" --where "uri ~ */2024/* and not label=draft"
      onepeace search my-store --like photos/dog.jpg --text "in the snow" --diversity 0.3
      onepeace search my-store --like photos/dog.jpg --json | jq ".[].id"
      onepeace search my-store --ask "what comes after the dog?" --top 3
      onepeace search my.db --text "a dog"
      onepeace search http://host:19530 --collection photos --text "a dog"
    """
    from .asking import has_parts
    from .search import Searcher

    _refuse_other_names({"--sound": sound, "--picture": picture, "": context.args}, text or [])
    asked = {"text": text or [], "image": image or [], "audio": audio or []}
    parts = [(modality, value) for modality, values in asked.items() for value in values]
    away = {"text": without_text or [], "image": without_image or [], "audio": without_audio or []}
    parts += [(modality, value) for modality, values in away.items() for value in values]
    if any(modality == "text" and not value.strip() for modality, value in parts):
        raise ValueError("a text to search with must have words, got an empty one")
    _refuse_other_kinds(parts)
    pushed = len(parts) - sum(map(len, asked.values()))
    if ask is not None and (parts or like is not None):
        raise ValueError("--ask stands alone: give no --text, --image, --audio or --like beside it")
    if ask is not None and (offset or min_score is not None or group_by or diversity or rerank or copies):
        raise ValueError("--ask goes with --top and --where alone: it orders files and their parts by itself")
    if ask is not None and not ask.strip():
        raise ValueError("--ask must have words, got an empty text")
    if ask is None and like is None and len(parts) == pushed:
        raise ValueError(
            "give --text, --image or --audio (or several of them), --like with an item of the store or --ask"
        )
    if weight and len(weight) != len(parts) - pushed:
        raise ValueError(
            f"give one --weight for each part of the query: {len(parts) - pushed} parts, {len(weight)} weights"
        )
    weights = [*(weight or [1.0] * (len(parts) - pushed)), *([-AWAY] * pushed)]
    options: dict[str, Any] = {"offset": offset, "min_score": min_score, "group_by": group_by}
    options |= {"diversity": diversity, "copies": copies, "rerank": rerank}
    condition = None
    if where:  # one alone stays as it was written, for what an error shows of it
        condition = where[0] if len(where) == 1 else " and ".join(f"({one})" for one in where)
    with open_store(store, collection) as opened:
        _refuse_ids(opened, parts)
        if like is not None:
            like = _one_item(opened, like)
        if ask is not None:
            if not has_parts(opened.current):
                raise ValueError(f"{store} holds no videos, documents or cut sounds to ask: search it with --text")
            hits = Searcher(opened, load_for(opened, model, device, dtype)).ask(ask, top, condition)
        elif like is not None and not parts:
            loaded = load_for(opened, model, device, dtype) if rerank else None  # for its bank of texts
            hits = Searcher(opened, loaded).search_like(like, top, condition, **options)
        else:
            searcher = Searcher(opened, load_for(opened, model, device, dtype))
            hits = searcher.search(_query(parts, weights, like), top, condition, **options)
    if as_json:
        print_json([_told(hit) for hit in hits])
    else:
        _print_hits(hits, rerank)


app.command("demo")(demo_command)
app.command("check")(check_command)


def _one_item(store: Any, name: str) -> str:
    """Return the id of the item that a user means. Raises ValueError for none, and for a file of several parts."""
    from .named import ids_named

    ids = ids_named(store, [name])
    if len(ids) > 1:
        raise ValueError(f"--like {name}: {len(ids)} items came from it, say which: {', '.join(ids[:3])}, ...")
    return ids[0]


def _refuse_other_names(given: dict[str, list[str] | None], texts: list[str]) -> None:
    """Raise WrongOption saying what the option for a file is called, or that words need quotes."""
    from onepeace import media_kind

    called = {"--sound": "audio", "--picture": "image"}
    loose = given[""] or []
    if texts and loose and not any(media_kind(value) or os.path.exists(value) for value in loose):
        raise WrongOption(
            f"words that belong together stand in quotes: --text {json.dumps(' '.join([*texts, *loose]))}"
        )
    for name, values in given.items():
        for value in values or ():
            kind = called.get(name) or media_kind(value) or "text"
            written = json.dumps(value, ensure_ascii=False) if kind == "text" or " " in value else value
            raise WrongOption(f"{name} {value}: say --{kind} {written}".lstrip())


def _refuse_ids(store: Any, parts: list[tuple[str, str]]) -> None:
    """Raise ValueError for an item's id in the place of a file."""
    for modality, value in parts:
        if modality != "text" and not os.path.exists(value) and store.ids({"id": value}):
            raise ValueError(f"{value} is no file here but an item of the store: say --like {value}")


def _refuse_other_kinds(parts: list[tuple[str, str]]) -> None:
    """Raise ValueError for the name of a picture's or a sound's file among what is to be another kind."""
    from onepeace import media_kind

    from .sequences import sequence_kind

    for modality, value in parts:
        kind = media_kind(value) if os.path.isfile(value) else None
        if modality != "text" and kind is None and (cut := sequence_kind(value)):
            raise ValueError(
                f"{value} is a {cut}: search with a picture or sound of it, or with --like and a part's id"
            )
        if kind == "text" and modality != "text":
            raise ValueError(f"{value} is a file of texts: give words with --text, not a file with --{modality}")
        if kind in ("image", "audio") and kind != modality:
            known = {"image": "picture", "audio": "sound"}[kind]
            raise ValueError(f"{value} is a {known}: give it with --{kind}, not with --{modality}")


def _query(parts: list[tuple[str, str]], weights: list[float], like: str | None) -> Any:
    import onepeace

    from .search import Stored

    wrap = {"text": onepeace.Text, "image": onepeace.Image, "audio": onepeace.Audio}
    wrapped: list[Any] = [wrap[modality](value) for modality, value in parts]
    if like is not None:
        wrapped, weights = [Stored(like), *wrapped], [1.0, *weights]
    return wrapped[0] if weights == [1.0] else onepeace.Compose(*wrapped, weights=weights)


def _told(hit: SearchHit) -> dict[str, Any]:
    told = {"rank": hit.rank, "score": hit.score, "id": hit.item.id, "modality": hit.item.modality}
    told |= {"uri": hit.item.uri, "metadata": hit.item.metadata}
    sure = _probability(hit)
    return told if sure is None else told | {"probability": sure}


def _probability(hit: SearchHit) -> float | None:
    from .search import AskedHit

    return hit.probability if isinstance(hit, AskedHit) else None


def _print_hits(hits: list[SearchHit], reranked: bool) -> None:
    from .parts import place_of

    places = [str(place_of(hit.item) or "") for hit in hits]
    sure = ["" if (share := _probability(hit)) is None else f"{share:.0%}" for hit in hits]
    texts = [str(hit.item.metadata.get("text", ""))[:200] for hit in hits]
    columns = (("place", places), ("sure", sure), ("text", texts))
    more = {name: column for name, column in columns if any(column)}
    score = "fit" if any(sure) else "cosine" if reranked else "score"  # what it is, where hits are in no order of it
    table = Table("", score, "modality", "id", *more, box=None, padding=(0, 2, 0, 0))
    for row, hit in enumerate(hits):
        shown = [Text(words) for words in (hit.item.id, *(column[row] for column in more.values()))]
        table.add_row(str(hit.rank), f"{hit.score:.3f}", hit.item.modality, *shown)
    Console().print(table if hits else "nothing found")


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())

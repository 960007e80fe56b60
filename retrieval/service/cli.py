"""`onepeace serve`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from onepeace.cli import DeviceOption, DtypeOption


def serve(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model's name, or an export folder.")
    ] = "onepeace-tiny",
    index: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]STORE", help="A store to search and add to. Repeatable.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FOLDER", help="A model trained for a task, for /v1/predict. Repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. 0.0.0.0: for all machines; then give --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="A file of API keys, one a line.")] = None,
    allow_remote: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Fetch media from this host over https. Repeatable.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    max_items: Annotated[int, typer.Option(min=1, help="Inputs in one request.")] = 256,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at once; more are answered with 429.")] = 96,
    cache_mb: Annotated[int, typer.Option(min=0, help="MiB of vectors kept for inputs that come again.")] = 64,
) -> None:
    """Serve embeddings, search, classification and heads of tasks, and a page to search with.

    The interface is OpenAI's (/v1/embeddings), with pictures, sounds and
    mixes besides; /docs shows all of it. Clients of OpenAI, infinity, Jina,
    vLLM and Cohere work as they are.

    \b
    Examples:
      onepeace serve --index my-store
      onepeace serve --index photos=stores/photos --index sounds=stores/sounds
      onepeace serve --head finder=my-finder --head quiz=my-quiz
      onepeace serve --host 0.0.0.0 --keys keys.txt --index my-store
      curl localhost:8000/v1/embeddings -H "Content-Type: application/json" \\
        -d '{"input": ["a dog barking"]}'
    """
    try:
        from .run import run
    except ImportError as error:
        raise ImportError(f"the service needs more packages: pip install 'onepeace[service]' ({error})") from error
    from .config import ServiceConfig
    from .security import HOME, ApiKeys
    from .worker import ModelSource

    stores = named(index or [], "stores", "--index NAME=STORE")
    heads = {name: str(path) for name, path in named(head or [], "heads", "--head NAME=FOLDER").items()}
    known = ApiKeys.read(keys) if keys is not None else ApiKeys()
    if host not in HOME and not known:
        typer.echo(
            f"warning: {host} is heard by other machines, and without --keys whoever reaches it may ask", err=True
        )
    config = ServiceConfig(
        host=host,
        port=port,
        items=max_items,
        requests_at_once=max_requests,
        cache_bytes=cache_mb * 2**20,
        remote=tuple(allow_remote or ()),
    )
    run(ModelSource(model, device, dtype, heads), stores, config, known)


def named(given: list[str], what: str, form: str) -> dict[str, Path]:
    """Return paths by name, the last part of a path's where none was given. Raises ValueError."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        path = Path(folder if equals else one)
        name = name if equals else path.resolve().name
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"{name!r} cannot be part of an address: give another name, {form}")
        if name in found:
            raise ValueError(f"two {what} are called {name!r}: name them, {form}")
        found[name] = path
    return found

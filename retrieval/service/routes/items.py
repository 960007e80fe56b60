"""Items of the stores: added, shown, taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace as replaced
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import orjson
from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile

from encoders.media import MediaError, kind_of_content
from retrieval.engine import source_of
from retrieval.errors import BusyError, TakenError
from retrieval.sequences import picture_of

from .. import schemas
from ..errors import ApiError, busy, not_ready
from ..files import file_response, file_type
from ..indexes import NewItem, ServedIndex, thumbnail
from ..inputs import KINDS, ItemPart, Remote, bad, media, words
from ..security import Tickets
from ..service import Service
from .answers import json, router

METADATA_BYTES = 65_536  # of one item
KEPT = {"Cache-Control": "private, max-age=300"}
CUT_FILES = ("application/pdf", "video/")  # types of files whose items are parts of them
FILES = ("audio/", *CUT_FILES)  # those that are shown as they are


def routes(service: Service, tickets: Tickets) -> APIRouter:
    """Return the routes."""
    routed = router("items")

    @routed.post("/v1/items", response_model=schemas.AddResponse)
    async def add(asked: schemas.AddRequest) -> Any:
        """Embed and add items to a store. They are on the disk when the answer comes, and can be found."""
        index = service.indexes.named(asked.index)
        parts = []
        for place, new in enumerate(asked.items):
            given = [kind for kind in KINDS if getattr(new, kind) is not None]
            if len(given) != 1:
                raise bad(f"items[{place}] needs one of {', '.join(KINDS)}", f"items[{place}]")
            (kind,) = given
            where = f"items[{place}].{kind}"
            parts.append((words if kind == "text" else partial(media, kind))(getattr(new, kind), where))
        await _add(
            service, index, [new.id for new in asked.items], parts, [n.metadata for n in asked.items], asked.replace
        )
        return json({"index": index.name, "added": [new.id for new in asked.items]})

    @routed.post("/v1/items/upload", response_model=schemas.AddResponse)
    async def upload(
        files: Annotated[list[UploadFile], File(description="Pictures and sounds; their names become the ids.")],
        index: Annotated[str | None, Form()] = None,
        metadata: Annotated[str, Form(description="A JSON object, the same for all.")] = "{}",
        replace: Annotated[bool, Form()] = False,
    ) -> Any:
        """Embed and add files to a store."""
        served = service.indexes.named(index)
        try:
            told = orjson.loads(metadata)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict):
            raise bad("metadata must be a JSON object", "metadata")
        ids, parts = [], []
        for place, file in enumerate(files):
            content = await file.read()
            kind = kind_of_content(content)
            if not file.filename or kind is None:
                where = f"files[{place}]"
                raise bad(f"{where} must be a named picture or sound{_way_out(file.filename or '')}", where)
            ids.append(file.filename)
            parts.append(ItemPart(kind, content, where=f"files[{place}]"))
        await _add(service, served, ids, parts, [told] * len(ids), replace)
        return json({"index": served.name, "added": ids})

    @routed.get("/v1/items/{index}/{id:path}", response_model=schemas.StoredItem)
    async def get(index: str, id: str) -> Any:  # noqa: A002
        """Show an item of a store."""
        found = await service.indexes.searching.run(service.indexes.named(index).item, id)
        return json({"id": found.id, "modality": found.modality, "uri": found.uri, "metadata": found.metadata})

    @routed.delete("/v1/items/{index}/{id:path}", response_model=schemas.DeleteResponse)
    async def delete(index: str, id: str) -> Any:  # noqa: A002
        """Take an item out of a store."""
        served = service.indexes.named(index)
        await service.indexes.searching.run(served.item, id)
        try:
            return json({"index": index, "deleted": await served.delete([id])})
        except BusyError as error:
            raise not_ready(str(error)) from None

    @routed.get("/v1/media/{index}/{id:path}", response_class=Response)
    async def show(
        index: str,
        id: str,  # noqa: A002
        request: Request,
        size: int = Query(512, ge=16, le=2048),
        file: bool = Query(False, description="The whole file of a sound, a video or a PDF, as it is."),
    ) -> Response:
        """Return an item's picture, as JPEG of at most `size` pixels a side, or its sound.

        That of a part of a video or document is its frame or page. Of files, ranges of bytes can be asked for.
        """
        served = service.indexes.named(index)
        return await service.indexes.showing.run(_media, served, id, size, file, request.headers)

    @routed.get("/v1/address/{index}/{id:path}", response_model=schemas.MediaAddress)
    async def address(index: str, id: str) -> Any:  # noqa: A002
        """Return an address of an item's file that a player can open without a key, for some hours."""
        found = await service.indexes.searching.run(service.indexes.named(index).item, id)
        kind = file_type(found.uri)
        if found.modality != "audio" and not kind.startswith(FILES):
            raise ApiError(404, "it has no sound, video or PDF to open", param="id")
        path = f"/v1/media/{index}/{id}"
        return json({"address": f"{quote(path)}?file=true&ticket={tickets.issue(path)}", "type": kind})

    return routed


def _way_out(name: str) -> str:
    return ": `onepeace index add` takes videos and PDFs" if file_type(name).startswith(CUT_FILES) else ""


async def _add(
    service: Service,
    index: ServedIndex,
    ids: Sequence[str],
    parts: Sequence[ItemPart],
    metadata: Sequence[dict[str, Any]],
    replace: bool,
) -> None:
    service.check_count(len(parts))
    for id, told in zip(ids, metadata, strict=True):  # noqa: A001
        _check(id, told)
    with ExitStack() as held:
        parts = await _fetched(service, parts, held)
        await _store(service, index, ids, parts, metadata, replace)


async def _fetched(service: Service, parts: Sequence[ItemPart], held: ExitStack) -> list[ItemPart]:
    """Return the parts with what lies at their addresses, which is held until it is stored."""
    room = service.config.body_bytes  # as if it had come with the request

    async def one(part: ItemPart) -> ItemPart:
        nonlocal room
        if not isinstance(part.content, Remote):
            return part
        content = await service.encoding.fetched(part)
        room -= len(content)
        if room < 0:
            raise ApiError(
                413, f"the media of a request may have {service.config.body_bytes:,} bytes at most", code="too_large"
            )
        hold = service.kept.take_now(len(content))
        if hold is None:
            raise busy(1, "too many large media come at once: try again soon")
        held.callback(hold.release)
        return replaced(part, content=content)

    return [await one(part) for part in parts]


async def _store(
    service: Service,
    index: ServedIndex,
    ids: Sequence[str],
    parts: Sequence[ItemPart],
    metadata: Sequence[dict[str, Any]],
    replace: bool,
) -> None:
    rows = await service.vectors([(part,) for part in parts])
    new = []
    for id, part, told in zip(ids, parts, metadata, strict=True):  # noqa: A001
        if isinstance(part.content, bytes):
            new.append(NewItem(id, part.kind, part.content, told))
        else:
            new.append(NewItem(id, part.kind, None, told | {"text": part.content}))
    try:
        await index.add(new, np.stack(rows), replace)
    except TakenError as error:
        why = str(error).partition(";")[0]
        raise ApiError(409, f'{why}; send "replace": true to put the new ones there', param="items") from None
    except BusyError as error:
        raise not_ready(str(error)) from None
    except ValueError as error:
        raise ApiError(400, str(error), param="items") from None


def _check(id: str, metadata: dict[str, Any]) -> None:  # noqa: A002
    """Refuse what could be stored and then not be shown."""
    if len(id) > schemas.LONGEST_ID:
        raise bad(f"an id may have {schemas.LONGEST_ID:,} characters at most", "id")
    if any(part in (".", "..") for part in id.split("/")):
        raise bad(f"{id[:200]!r} cannot be part of an address: no . or .. between slashes", "id")
    try:
        size = len(orjson.dumps(metadata))
    except TypeError:
        raise bad(f"the metadata of {id[:200]!r} are nested too deep", "metadata") from None
    if size > METADATA_BYTES:
        raise bad(f"the metadata of {id[:200]!r} have more than {METADATA_BYTES:,} bytes", "metadata")


def _media(index: ServedIndex, id: str, size: int, whole: bool, asked: Mapping[str, str]) -> Response:  # noqa: A002
    found = index.item(id)
    if found.modality == "text":
        raise ApiError(404, "a text has no media", param="id")
    kind = file_type(found.uri)
    try:
        if found.modality == "audio" or (whole and kind.startswith(FILES)):
            return file_response(source_of(found.uri), kind, asked, KEPT)
        picture = picture_of(found)
        shown = thumbnail(source_of(found.uri) if picture is None else picture, size)
        return Response(shown, media_type="image/jpeg", headers=KEPT)
    except (MediaError, OSError):
        raise ApiError(404, "its file is not there any more, or cannot be read", param="id") from None

"""A client of the service, sync and async: `Client("http://127.0.0.1:8000").embed(["a dog", onepeace.Image("x.jpg")])`.

What can be tried again (429, 503, a broken connection) is, a few times, as long as the service says. N: inputs, D: the
model's dimension.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from encoders.media import Audio, Image, Text
from onepeace.predict.answers import Answer, answer_from_dict

try:
    import httpx
except ImportError as error:
    raise ImportError("the client needs httpx: pip install 'onepeace[client]'") from error

AGAIN = (408, 429, 503)  # statuses of requests that may succeed later
LONGEST_PAUSE = 30.0  # seconds
AT_ONCE = 64  # inputs in one request
MEDIA = ("image", "image2", "audio")  # parts of an input of `predict` that are sent as base64
CONTENT_BYTES = 32 * 2**20  # of one request

Rows = npt.NDArray[np.float32]


class ServiceError(ValueError):
    """The service refused a request: its status, and its words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Hit:
    """An item that was found."""

    rank: int
    score: float
    id: str
    modality: str
    uri: str
    metadata: dict[str, Any]
    place: str | None = None  # where in its file: "0:12 to 0:13", or "page 3"
    probability: float | None = None  # that this part of its file is meant, of what was asked


@dataclass(frozen=True)
class _Call:
    """A request that is to be made."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    repeatable: bool = True  # twice does no more than once


class _Calls:
    """What both clients have in common: addresses, bodies, and the reading of answers."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 5,
    ) -> None:
        """Without `api_key` the environment variable ONEPEACE_API_KEY is used, where it is set."""
        api_key = api_key or os.environ.get("ONEPEACE_API_KEY")
        self.retries = retries
        self._options: dict[str, Any] = {
            "base_url": base_url.rstrip("/"),
            "timeout": timeout,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        }

    @staticmethod
    def _embeddings(values: Sequence[Any], dimensions: int | None) -> list[_Call]:
        more = {} if dimensions is None else {"dimensions": dimensions}
        return [
            _Call("POST", "/v1/embeddings", {"input": part, "encoding_format": "base64", **more})
            for part in in_bounds(as_json(value) for value in values)
        ]

    @staticmethod
    def _rows(answers: Sequence[Mapping[str, Any]]) -> Rows:
        texts = [entry["embedding"] for answer in answers for entry in answer["data"]]
        if not texts:
            return np.empty((0, 0), np.float32)
        return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts]).astype(np.float32)

    @staticmethod
    def _search(query: Any, like: str | None, without: Any, options: Mapping[str, Any]) -> _Call:
        given = {"query": query, "without": without}
        body = {name: as_json(value) for name, value in given.items() if value is not None}
        return _Call("POST", "/v1/search", body | ({} if like is None else {"like": like}) | dict(options))

    @staticmethod
    def _question(text: str, options: Mapping[str, Any]) -> _Call:
        return _Call("POST", "/v1/ask", {"text": text, **options})

    @staticmethod
    def _hits(answer: Mapping[str, Any]) -> list[Hit]:
        return [Hit(**hit) for hit in answer["hits"]]

    @staticmethod
    def _add(items: Mapping[str, Any], metadata: Mapping[str, Any], index: str | None, replace: bool) -> list[_Call]:
        told = []
        for name, value in items.items():
            (part,) = as_json(value)["content"]
            told.append({"id": name, part["type"]: part[part["type"]], "metadata": dict(metadata.get(name, {}))})
        more = {"replace": replace} | ({} if index is None else {"index": index})
        return [_Call("POST", "/v1/items", {"items": part, **more}, repeatable=replace) for part in in_bounds(told)]

    @staticmethod
    def _classify(values: Sequence[Any], labels: Sequence[str], templates: Sequence[str]) -> _Call:
        body = {"input": [as_json(value) for value in values], "labels": list(labels), "templates": list(templates)}
        return _Call("POST", "/v1/classify", body)

    @staticmethod
    def _shares(answer: Mapping[str, Any]) -> list[dict[str, float]]:
        return [{one["label"]: one["probability"] for one in entry["labels"]} for entry in answer["data"]]

    @staticmethod
    def _predict(values: Sequence[Any], model: str | None, options: Mapping[str, Any]) -> list[_Call]:
        more = {name: value for name, value in options.items() if value is not None}
        more |= {} if model is None else {"model": model}
        told = (parts_as_json(value) for value in values)
        return [_Call("POST", "/v1/predict", {"input": part, **more}) for part in in_bounds(told, _count)]

    @staticmethod
    def _answers(values: Sequence[Any], answers: Sequence[Mapping[str, Any]]) -> list[Answer]:
        told = [entry["answer"] for answer in answers for entry in answer["data"]]
        return [answer_from_dict(one, *_asked(value)) for value, one in zip(values, told, strict=True)]

    def _pause(self, attempt: int, response: httpx.Response | None) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if attempt >= self.retries or (response is not None and response.status_code not in AGAIN):
            return None
        told = response.headers.get("retry-after", "") if response is not None else ""
        least = float(told) if told.isdigit() else 0.25 * 2**attempt
        return min(LONGEST_PAUSE, least) * random.uniform(1.0, 1.5)  # noqa: S311 - so that clients do not come back together

    @staticmethod
    def _content(response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the service answered {response.status_code}"
        raise ServiceError(response.status_code, message)


class Client(_Calls):
    """Asks a service."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.Client(**self._options)

    def embed(self, inputs: Any, *, dimensions: int | None = None) -> Rows:
        """Return unit vectors: (D,) for one input, (N, D) for a list. Inputs are those of `onepeace.load().encode`.

        Raises ServiceError for what the service refuses, httpx.TransportError when it cannot be reached.
        """
        single = not isinstance(inputs, list | tuple)
        rows_ND = self._rows([self._ask(call) for call in self._embeddings([inputs] if single else inputs, dimensions)])
        return rows_ND[0] if single else rows_ND

    def search(self, query: Any = None, *, like: str | None = None, without: Any = None, **options: Any) -> list[Hit]:
        """Return hits, best first.

        `options`: index, top_k, offset, where, min_score, group_by, copies, diversity, rerank.
        """
        return self._hits(self._ask(self._search(query, like, without, options)))

    def ask(self, text: str, **options: Any) -> list[Hit]:
        """Ask videos, documents and long sounds of a store: return of each the part that is meant, best file first.

        `options`: index, top_k, where.
        """
        return self._hits(self._ask(self._question(text, options)))

    def add(
        self,
        items: Mapping[str, Any],
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        index: str | None = None,
        replace: bool = False,
    ) -> list[str]:
        """Add items by their ids; on return they are on the service's disk. Returns the ids."""
        calls = self._add(items, metadata or {}, index, replace)
        return [name for call in calls for name in self._ask(call)["added"]]

    def get(self, id: str, index: str) -> dict[str, Any]:  # noqa: A002
        """Return an item of a store."""
        item: dict[str, Any] = self._ask(_Call("GET", _item_path(index, id)))
        return item

    def delete(self, id: str, index: str) -> None:  # noqa: A002
        """Take an item out of a store."""
        self._ask(_Call("DELETE", _item_path(index, id), repeatable=False))

    def classify(
        self, inputs: Sequence[Any], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> list[dict[str, float]]:
        """Return the probability of each label for each input, likeliest first."""
        return self._shares(self._ask(self._classify(inputs, labels, templates)))

    def predict(
        self, inputs: Sequence[Any], *, model: str | None = None, threshold: float = 0.5, top: int | None = None
    ) -> list[Any]:
        """Return one answer an input: those of `onepeace.TaskPredictor.predict`, which takes the same inputs.

        `model` names the head, where the service has several. With `top`, an answer holds the probabilities of so many
        labels only. Raises ServiceError for what the service refuses.
        """
        calls = self._predict(inputs, model, {"threshold": threshold, "top": top})
        return self._answers(inputs, [self._ask(call) for call in calls])

    def models(self) -> list[dict[str, Any]]:
        """Return the models: the one that embeds, then the heads."""
        found: list[dict[str, Any]] = self._ask(_Call("GET", "/v1/models"))["data"]
        return found

    def indexes(self) -> list[dict[str, Any]]:
        """Return the stores."""
        found: list[dict[str, Any]] = self._ask(_Call("GET", "/v1/indexes"))["data"]
        return found

    def _ask(self, call: _Call) -> Any:
        for attempt in range(self.retries + 1):
            response = None
            try:
                response = self._http.request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                # A broken connection does not tell whether the request was carried out.
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if not (call.repeatable or unsent) or (pause := self._pause(attempt, None)) is None:
                    raise
            else:
                if response.is_success or (pause := self._pause(attempt, response)) is None:
                    return self._content(response)
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Calls):
    """The same for asyncio."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def embed(self, inputs: Any, *, dimensions: int | None = None) -> Rows:
        """Return what `Client.embed` does."""
        single = not isinstance(inputs, list | tuple)
        calls = self._embeddings([inputs] if single else inputs, dimensions)
        rows_ND = self._rows([await self._ask(call) for call in calls])
        return rows_ND[0] if single else rows_ND

    async def search(
        self, query: Any = None, *, like: str | None = None, without: Any = None, **options: Any
    ) -> list[Hit]:
        """Return what `Client.search` does."""
        return self._hits(await self._ask(self._search(query, like, without, options)))

    async def ask(self, text: str, **options: Any) -> list[Hit]:
        """Return what `Client.ask` does."""
        return self._hits(await self._ask(self._question(text, options)))

    async def add(
        self,
        items: Mapping[str, Any],
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        index: str | None = None,
        replace: bool = False,
    ) -> list[str]:
        """Do what `Client.add` does."""
        calls = self._add(items, metadata or {}, index, replace)
        return [name for call in calls for name in (await self._ask(call))["added"]]

    async def get(self, id: str, index: str) -> dict[str, Any]:  # noqa: A002
        """Return what `Client.get` does."""
        item: dict[str, Any] = await self._ask(_Call("GET", _item_path(index, id)))
        return item

    async def delete(self, id: str, index: str) -> None:  # noqa: A002
        """Do what `Client.delete` does."""
        await self._ask(_Call("DELETE", _item_path(index, id), repeatable=False))

    async def classify(
        self, inputs: Sequence[Any], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> list[dict[str, float]]:
        """Return what `Client.classify` does."""
        return self._shares(await self._ask(self._classify(inputs, labels, templates)))

    async def predict(
        self, inputs: Sequence[Any], *, model: str | None = None, threshold: float = 0.5, top: int | None = None
    ) -> list[Any]:
        """Return what `Client.predict` does."""
        calls = self._predict(inputs, model, {"threshold": threshold, "top": top})
        return self._answers(inputs, [await self._ask(call) for call in calls])

    async def models(self) -> list[dict[str, Any]]:
        """Return the models: the one that embeds, then the heads."""
        found: list[dict[str, Any]] = (await self._ask(_Call("GET", "/v1/models")))["data"]
        return found

    async def indexes(self) -> list[dict[str, Any]]:
        """Return the stores."""
        found: list[dict[str, Any]] = (await self._ask(_Call("GET", "/v1/indexes")))["data"]
        return found

    async def _ask(self, call: _Call) -> Any:
        for attempt in range(self.retries + 1):
            response = None
            try:
                response = await self._http.request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                # A broken connection does not tell whether the request was carried out.
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if not (call.repeatable or unsent) or (pause := self._pause(attempt, None)) is None:
                    raise
            else:
                if response.is_success or (pause := self._pause(attempt, response)) is None:
                    return self._content(response)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def as_json(value: Any) -> dict[str, Any]:
    """Return an input as the service reads it. Raises TypeError for what cannot be sent, OSError for a missing file."""
    if hasattr(value, "parts") and hasattr(value, "weights"):  # Compose; named so that torch need not be loaded
        parts = [
            part | {"weight": weight * part.get("weight", 1.0)}
            for member, weight in zip(value.parts, value.weights, strict=True)
            for part in as_json(member)["content"]
        ]
        return {"content": parts}
    if isinstance(value, Text):
        value = value.text
    if isinstance(value, str):
        return {"content": [{"type": "text", "text": value}]}
    if isinstance(value, Image | Audio):
        kind = "image" if isinstance(value, Image) else "audio"
        return {"content": [{"type": kind, kind: base64.b64encode(_bytes(value.source)).decode()}]}
    raise TypeError(f"cannot send {type(value).__name__}: give a str, onepeace.Image, Audio or Compose")


def parts_as_json(value: Any) -> dict[str, Any]:
    """Return an input of `predict` as the service reads it: a dict of parts, or one bare picture, sound or text.

    Raises TypeError for what cannot be sent, OSError for a missing file.
    """
    if not isinstance(value, Mapping):
        (part,) = as_json(value)["content"]
        return {part["type"]: part[part["type"]]}
    told: dict[str, Any] = {}
    for name, part in value.items():
        if name in MEDIA:
            source = part.source if isinstance(part, Image | Audio) else part
            told[name] = base64.b64encode(_bytes(source)).decode()
        else:
            told[name] = part.text if isinstance(part, Text) else part
    return told


def _asked(value: Any) -> tuple[str, Any]:
    """Return what was asked for, and the picture or sound that it was asked of."""
    if not isinstance(value, Mapping):
        return "", value
    text = value.get("text") or ""
    name = next((name for name in MEDIA if name in value), None)
    part = value.get(name) if name else None
    wrapped = part if part is None or isinstance(part, Image | Audio) else (Audio if name == "audio" else Image)(part)
    return text.text if isinstance(text, Text) else text, wrapped


def _bytes(source: Any) -> bytes:
    if isinstance(source, str | os.PathLike):
        return Path(source).read_bytes()
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if hasattr(source, "read"):
        return bytes(source.read())
    raise TypeError(f"cannot send media as {type(source).__name__}: give a path, bytes or a file")


def _item_path(index: str, name: str) -> str:
    # Written out, dots between slashes would lead to another item on the way.
    dots = {".": "%2E", "..": "%2E%2E"}
    parts = [dots.get(part, quote(part, safe="")) for part in name.split("/")]
    return f"/v1/items/{quote(index, safe='')}/{'/'.join(parts)}"


def _count(value: Mapping[str, Any]) -> int:
    """Return how many inputs one of `predict` counts as."""
    return len(value) + len(value.get("choices") or ())


def in_bounds(
    values: Iterable[dict[str, Any]], count: Callable[[dict[str, Any]], int] = lambda value: 1
) -> Iterator[list[dict[str, Any]]]:
    """Yield the values in lists that a service takes: of 64 at most, as they count, and not too large together."""
    part: list[dict[str, Any]] = []
    room, left = CONTENT_BYTES, AT_ONCE
    for value in values:
        size, weight = len(json.dumps(value)), count(value)
        if part and (weight > left or size > room):
            yield part
            part, room, left = [], CONTENT_BYTES, AT_ONCE
        part.append(value)
        room -= size
        left -= weight
    if part:
        yield part

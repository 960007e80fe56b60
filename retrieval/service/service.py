"""What requests share: the model's worker, the stores, the limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from onepeace.checkpoint import CheckpointError, ModelFolder
from onepeace.predict.preparing import TaskReader
from onepeace.reader import InputReader
from retrieval.manifest import ModelTag

from .asking import Asking
from .config import ServiceConfig
from .encoding import Encoding
from .errors import ApiError
from .indexes import Indexes
from .inputs import Item, bad
from .metrics import Metrics
from .predicting import Predicting
from .remote import RemoteMedia
from .room import Room
from .security import BODIES
from .worker import ModelSource, ModelWorker

if TYPE_CHECKING:
    from fastapi import FastAPI

Row = npt.NDArray[np.float32]
logger = logging.getLogger("onepeace.serve")


class Service:
    """Everything that requests share."""

    def __init__(self, source: ModelSource, stores: Mapping[str, Path], config: ServiceConfig) -> None:
        """Raises ValueError for a model or a store that cannot be opened."""
        self.config = config
        self.metrics = Metrics()
        self.reader = InputReader.open(source.model, config.media)
        self.tag = ModelTag.of(self.reader)
        self.calibrations = self.reader.folder.calibrations()
        self.indexes = Indexes(stores, self.tag, _query_bank(self.reader.folder))
        self.worker = ModelWorker(source, batch_seconds=config.batch_seconds)
        self.remote = RemoteMedia(config.remote, max_bytes=config.remote_bytes, seconds=config.remote_seconds)
        self.encoding = Encoding(
            self.reader,
            self.worker,
            self.remote,
            self.metrics,
            cache_bytes=config.cache_bytes,
            items_at_once=config.items_at_once,
        )
        self.heads = {name: TaskReader.open(folder, config.media) for name, folder in source.heads.items()}
        if self.tag.name in self.heads:
            raise ValueError(f"a head cannot be called as the model is, {self.tag.name!r}: --head NAME=FOLDER")
        self.predicting = Predicting(self.heads, self.encoding)
        self.asking = Asking(self.encoding, self.indexes.searching)
        self.kept = Room(BODIES * config.body_bytes)  # fetched media that are to be stored
        self.created = int(time.time())

    async def encode(self, items: Sequence[Item]) -> list[tuple[Row, int] | ApiError]:
        """Return what became of each item. Raises ApiError for too many, or without a model."""
        if not items:
            raise bad("input is empty", "input")
        self.check_count(sum(len(one) for one in items))
        for kind in {part.kind for one in items for part in one}:
            if kind not in self.reader.modalities:
                raise bad(f"{self.tag.name} reads {', '.join(self.reader.modalities)} only, got {kind}", "input")
        return await self.encoding.encode(items, uuid4())

    def check_dimensions(self, dimensions: int | None, param: str) -> None:
        """Refuse more dimensions than the model has."""
        if dimensions is not None and dimensions > self.tag.dimension:
            raise bad(f"the model has {self.tag.dimension} dimensions, got {dimensions}", param)

    def check_count(self, parts: int) -> None:
        """Refuse more inputs, or parts of them, than a request may have."""
        if parts > self.config.items:
            raise bad(f"a request may have {self.config.items} inputs at most, got {parts}", "input")

    async def vectors(self, items: Sequence[Item]) -> list[Row]:
        """Return the vector of each item. Raises ApiError for the first that has none."""
        rows = []
        for outcome in await self.encode(items):
            if isinstance(outcome, ApiError):
                raise outcome
            rows.append(outcome[0])
        return rows

    def checked(self, model: str | None) -> None:
        """Refuse a model that is not here."""
        if model in self.heads:
            why = f"{model!r} is a head and embeds nothing: POST /v1/predict asks it"
            raise ApiError(404, why, param="model", code="model_not_found")
        if model is not None and model != self.tag.name and model.rpartition("/")[2] != self.tag.name:
            raise ApiError(
                404, f"no model {model[:200]!r} here: it is {self.tag.name!r}", param="model", code="model_not_found"
            )

    def head(self, name: str | None) -> tuple[str, TaskReader]:
        """Return a head by its name; without one, the only one. Raises ApiError."""
        there = ", ".join(self.heads)
        if not self.heads:
            why = "no head here: start the service with --head NAME=FOLDER"
            raise ApiError(404, why, param="model", code="model_not_found")
        if name is None:
            if len(self.heads) > 1:
                raise bad(f"say which head: model must be one of {there}", "model")
            name = next(iter(self.heads))
        if name not in self.heads:
            raise ApiError(404, f"no head {name[:200]!r} here: there is {there}", param="model", code="model_not_found")
        return name, self.heads[name]

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start what runs beside requests, and end it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.worker.start)
        self.encoding.batcher.start()
        refreshing = asyncio.create_task(self.indexes.refresh_forever())
        yield
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await self.encoding.batcher.close()
        await loop.run_in_executor(None, self.worker.close)
        self.encoding.close()
        self.indexes.close()


def _query_bank(folder: ModelFolder) -> Row | None:
    """Return the model's query bank. Where it is damaged, all but reranking is served."""
    try:
        return folder.query_bank()
    except CheckpointError as error:
        logger.warning("searches cannot be reranked: %s", error)
        return None

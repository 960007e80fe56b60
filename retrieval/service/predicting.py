"""Questions in, answers out: what the heads of tasks say, with the decoding, batches and bounds of embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from encoders.media import Audio, Image, MediaError, Text
from onepeace.predict.answering import Asked, answer
from onepeace.predict.answers import Answer
from onepeace.predict.preparing import Prepared, Row, TaskReader
from onepeace.predict.question import Question

from .batching import Bundle
from .encoding import DECODERS, LARGEST, Encoding, Turn
from .errors import ApiError
from .inputs import ItemPart, Remote
from .together import together
from .worker import HEAD

WRAPPERS: dict[str, Any] = {"text": Text, "image": Image, "audio": Audio}


@dataclass(frozen=True)
class AskedInput:
    """One input of a request."""

    parts: Mapping[str, ItemPart]  # by the names that the head reads
    choices: tuple[str, ...]
    where: str  # its place in the request

    @property
    def count(self) -> int:
        """How many inputs it counts as."""
        return len(self.parts) + len(self.choices)


class Predicting:
    """Answers questions through the heads, for all requests of the service."""

    def __init__(self, heads: Mapping[str, TaskReader], encoding: Encoding) -> None:
        self.heads, self.encoding = heads, encoding

    async def answers(
        self, name: str, asked: Sequence[AskedInput], threshold: float, request: Hashable
    ) -> list[Answer | ApiError]:
        """Return the answer to each input, or why there is none.

        Raises ApiError where nothing can be computed: too many inputs at once, or no model.
        """
        with self.encoding.working(sum(one.count for one in asked)):
            turn = Turn(request, asyncio.Semaphore(DECODERS))
            return await together(self._one(name, one, threshold, turn) for one in asked)

    async def _one(self, name: str, asked: AskedInput, threshold: float, turn: Turn) -> Answer | ApiError:
        metrics, kind = self.encoding.metrics.items, f"{HEAD}{name}"
        try:
            found = await self._answered(name, asked, threshold, turn)
        except MediaError as error:
            metrics.labels(kind, "refused").inc()
            return ApiError(400, str(error), param=asked.where, code="unreadable_input")
        except ApiError as error:
            metrics.labels(kind, "refused").inc()
            return error
        metrics.labels(kind, "answered").inc()
        return found

    async def _answered(self, name: str, asked: AskedInput, threshold: float, turn: Turn) -> Answer:
        head = self.heads[name]
        with ExitStack() as held:  # what is decoded, until the model has answered
            question, prepared = await self._prepared(head, asked, turn, held)
            bundles = [_bundle(row) for row in prepared.rows(head.task.choices)]
            numbers = await self.encoding.batcher.answers(turn.request, f"{HEAD}{name}", bundles)
        return answer(head.task, prepared.joined(numbers), Asked(question, prepared, head.longest_window), threshold)

    async def _prepared(
        self, head: TaskReader, asked: AskedInput, turn: Turn, held: ExitStack
    ) -> tuple[Question, Prepared]:
        encoding, parts = self.encoding, dict(asked.parts)
        with ExitStack() as fetching:
            if remote := sum(isinstance(part.content, Remote) for part in parts.values()):
                hold = await encoding.room_fetched.take(remote * encoding.remote.max_bytes)
                fetching.callback(hold.release)
            for part, one in parts.items():
                parts[part] = replace(one, content=await encoding.fetched(one))
            question = Question({part: WRAPPERS[one.kind](one.content) for part, one in parts.items()}, asked.choices)
            async with turn.decoding:
                room = await encoding.room_prepared.take(LARGEST)
                held.callback(room.release)
                prepared = await encoding.decoders.run(head.prepare, question)
                room.become(prepared.nbytes)
        return question, prepared


def _bundle(row: Row) -> Bundle:
    return Bundle({part: [tensor.numpy() for tensor in tensors] for part, tensors in row.items()})

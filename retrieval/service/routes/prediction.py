"""What the heads of tasks answer: labels, choices, boxes, moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4

import orjson
from fastapi import APIRouter, File, Form, UploadFile

from encoders.media import kind_of_content
from onepeace.predict.answers import Prediction
from onepeace.predict.preparing import TaskReader
from onepeace.predict.question import CHOICES, SECOND, choices_of, example, part_names, together

from .. import schemas
from ..errors import ApiError
from ..inputs import ItemPart, bad, media, words
from ..predicting import AskedInput
from ..service import Service
from .answers import json, router

MOST_CHOICES = 100  # of one input


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    routed = router("prediction")

    @routed.post("/v1/predict", response_model=schemas.PredictResponse)
    async def predict(asked: schemas.PredictRequest) -> Any:
        """Ask a model that was trained for a task: which label, which text, which box, when."""
        name, head = service.head(asked.model)
        values = asked.input if isinstance(asked.input, list) else [asked.input]
        service.check_count(len(values))
        inputs: list[AskedInput | ApiError] = []
        for place, value in enumerate(values):
            try:
                inputs.append(_read(value, head, name, f"input[{place}]"))
            except ApiError as error:
                if asked.errors == "fail":
                    raise
                inputs.append(error)
        return await _answered(service, name, inputs, asked.threshold, asked.top, asked.errors == "fail")

    @routed.post("/v1/predict/upload", response_model=schemas.PredictResponse)
    async def upload(
        files: Annotated[list[UploadFile], File(description="Pictures or sounds, each an input of its own.")],
        model: Annotated[str | None, Form()] = None,
        text: Annotated[str | None, Form(description="What is asked of each file.")] = None,
        choices: Annotated[str | None, Form(description="A JSON list of texts to choose among.")] = None,
        threshold: Annotated[float, Form(ge=0.0, le=1.0)] = 0.5,
        top: Annotated[int | None, Form(ge=1)] = None,
    ) -> Any:
        """Ask the same of all files of a form."""
        name, head = service.head(model)
        service.check_count(len(files))
        more: dict[str, Any] = {} if text is None else {"text": text}
        if choices is not None:
            try:
                more[CHOICES] = orjson.loads(choices)
            except orjson.JSONDecodeError:
                raise bad("choices must be a JSON list of texts", CHOICES) from None
        inputs = []
        for place, file in enumerate(files):
            content, where = await file.read(), f"files[{place}]"
            kind = kind_of_content(content)
            if kind is None:
                raise bad(f"{where} must be a picture or sound", where)
            inputs.append(_read(more | {kind: ItemPart(kind, content, where=where)}, head, name, where))
        return await _answered(service, name, inputs, threshold, top, stop=True)

    return routed


def _read(value: Any, head: TaskReader, name: str, where: str) -> AskedInput:
    """Return one input of a request; a string is that of the one modality that the head reads. Raises ApiError."""
    reads = part_names(head.task)
    if isinstance(value, str) and len(reads) == 1:
        value = {reads[0]: value}
    if not isinstance(value, Mapping):
        raise bad(f"{where} must be an object: {example(head.task)}", where)
    given = {part: content for part, content in value.items() if content is not None}
    told = f"and {name} reads {together(reads)}: {example(head.task)}"
    if unknown := [part for part in given if part not in reads]:
        raise bad(f"{where} has {unknown[0][:100]}, {told}", where)
    optional = {"text"} if head.task.kind == "choose" else set()
    if missing := [part for part in reads if part not in given and part not in optional]:
        raise bad(f"{where} has no {together(missing)}, {told}", where)
    parts = {part: _part(part, given[part], f"{where}.{part}") for part in reads if part in given and part != CHOICES}
    choices = _choices(given[CHOICES], f"{where}.{CHOICES}") if CHOICES in given else ()
    return AskedInput(parts, choices, where)


def _part(part: str, content: Any, where: str) -> ItemPart:
    if isinstance(content, ItemPart):
        return content
    return words(content, where) if part == "text" else media("image" if part == SECOND else part, content, where)


def _choices(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise bad(f"{where} must be a list of texts", where)
    try:
        choices = choices_of(value)
    except (TypeError, ValueError) as error:
        raise bad(f"{where}: {error}", where) from None
    if len(choices) > MOST_CHOICES:
        raise bad(f"{where} may have {MOST_CHOICES} texts at most, got {len(choices)}", where)
    return choices


async def _answered(
    service: Service,
    name: str,
    inputs: Sequence[AskedInput | ApiError],
    threshold: float,
    top: int | None,
    stop: bool,
) -> Any:
    readable = [one for one in inputs if isinstance(one, AskedInput)]
    if not inputs:
        raise bad("input is empty", "input")
    service.check_count(sum(one.count for one in readable))
    found = iter(await service.predicting.answers(name, readable, threshold, uuid4()) if readable else [])
    data: list[dict[str, Any]] = []
    for place, one in enumerate(inputs):
        outcome = one if isinstance(one, ApiError) else next(found)
        if isinstance(outcome, ApiError):
            if stop:
                raise outcome
            data.append({"index": place, "answer": None, "error": outcome.body()["error"]})
        else:
            told = outcome.to_dict(top) if isinstance(outcome, Prediction) else outcome.to_dict()
            data.append({"index": place, "answer": told})
    return json({"object": "list", "model": name, "task": service.heads[name].task.kind, "data": data})

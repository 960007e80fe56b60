"""What operators and clients ask of the service itself: models, health, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import generate_latest

from onepeace.predict.answering import labels_of
from onepeace.predict.question import part_names

from .. import schemas
from ..errors import not_ready
from ..service import Service
from .answers import router


def routes(service: Service, running: Callable[[], int]) -> APIRouter:
    """Return the routes; `running` tells how many requests are being worked on."""
    routed = router("about")
    fingerprints = {name: head.folder.fingerprint() for name, head in service.heads.items()}

    @routed.get("/models", include_in_schema=False)  # where infinity's clients look
    @routed.get("/v1/models", response_model=schemas.ModelList, response_model_exclude_none=True)
    async def models() -> Any:
        """List the models: the one that embeds, and the heads of tasks."""
        tag = service.tag
        card = {
            "id": tag.name,
            "object": "model",
            "created": service.created,
            "owned_by": "onepeace",
            "dimensions": tag.dimension,
            "fingerprint": tag.fingerprint,
            "modalities": list(service.reader.modalities),
        }
        heads = [
            {
                "id": name,
                "object": "model",
                "created": service.created,
                "owned_by": "onepeace",
                "fingerprint": fingerprints[name],
                "modalities": [str(modality) for modality in head.task.modalities],
                "task": head.task.kind,
                "reads": part_names(head.task),
                "labels": list(labels_of(head.task)) or None,
            }
            for name, head in service.heads.items()
        ]
        return {"object": "list", "data": [card, *heads]}

    @routed.head("/health/live", include_in_schema=False)  # as some load balancers ask
    @routed.get("/health/live")
    async def live() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "live"}

    @routed.head("/health/ready", include_in_schema=False)
    @routed.get("/health/ready")
    async def ready() -> dict[str, str]:
        """Say whether requests can be answered now."""
        if not service.worker.ready:
            raise not_ready("the model is being started")
        return {"status": "ready"}

    @routed.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return what Prometheus reads."""
        shown = service.metrics
        shown.ready.set(service.worker.ready)
        shown.starts.set(service.worker.starts)
        shown.waiting.set(service.encoding.batcher.waiting)
        shown.running.set(running())
        for work, threads in {
            "decode": service.encoding.decoders,
            "search": service.indexes.searching,
            "show": service.indexes.showing,
        }.items():
            shown.left.labels(work).set(threads.left)
        for name, index in service.indexes.all.items():
            shown.stored.labels(name).set(len(index.store))
        return Response(generate_latest(shown.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routed

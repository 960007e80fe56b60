"""Zero-shot classification."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter

from onepeace.calibration import Calibration
from onepeace.zero_shot import label_rows, prompt

from .. import schemas
from ..inputs import bad, item, words
from ..service import Service
from .answers import json, router

LONGEST_PROMPT = 1_000  # characters


def routes(service: Service) -> APIRouter:
    """Return the route."""
    routed = router("classification")

    @routed.post("/v1/classify", response_model=schemas.ClassifyResponse)
    async def classify(asked: schemas.ClassifyRequest) -> Any:
        """Say which of some words fits each input best, without any training."""
        if any("{}" not in template for template in asked.templates):
            raise bad("every template needs {} where the label goes", "templates")
        if len(set(asked.labels)) != len(asked.labels):
            raise bad("labels must differ", "labels")
        longest = max(map(len, asked.labels))
        for template in asked.templates:
            if len(template) + template.count("{}") * longest > LONGEST_PROMPT:
                raise bad(f"a label in its template may have {LONGEST_PROMPT:,} characters at most", "templates")
        values = asked.input if isinstance(asked.input, list) else [asked.input]
        service.check_count(len(values))
        items = [item(value, f"input[{place}]", asked.modality) for place, value in enumerate(values)]
        prompts = [
            (words(prompt(template, label), "labels"),) for label in asked.labels for template in asked.templates
        ]
        rows_ND = np.stack(await service.vectors(items))
        most = service.config.items
        prompt_rows = [
            row_D
            for start in range(0, len(prompts), most)
            for row_D in await service.vectors(prompts[start : start + most])
        ]
        labels_LD = label_rows(np.stack(prompt_rows).reshape(len(asked.labels), len(asked.templates), -1))
        plain = Calibration(temperature=1 / service.worker.logit_scale)
        # What an item is classified as: its first part that is no text, as `ZeroShotClassifier` has it.
        kinds = [next((part.kind for part in one if part.kind != "text"), "text") for one in items]
        shares_NL = np.stack(
            [
                service.calibrations.get(kind, plain).probabilities(cosines_L[None])[0]
                for kind, cosines_L in zip(kinds, rows_ND @ labels_LD.T, strict=True)
            ]
        )
        data = [
            {
                "index": place,
                "labels": [
                    {"label": asked.labels[i], "probability": float(shares_L[i])} for i in np.argsort(-shares_L)
                ],
            }
            for place, shares_L in enumerate(shares_NL)
        ]
        return json({"model": service.tag.name, "data": data})

    return routed

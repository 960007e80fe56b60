"""The same vector over HTTP as in process, alone and in crowds."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from running_service import Running

import onepeace
from retrieval import Item
from retrieval.client import Client
from retrieval.gallery import GALLERY


def test_three_hundred_inputs_alone_and_in_crowds(
    running: Running, embedder: onepeace.Embedder, exhibits: list[tuple[Item, Any]]
) -> None:
    sources = [source for _, source in exhibits]
    inputs = [*sources, *(f"a sentence, the {n}th of its kind, {'with more words ' * (n % 7)}" for n in range(300))][
        :300
    ]
    assert {type(one) for one in inputs} == {str, onepeace.Image, onepeace.Audio}
    expected = embedder.encode(inputs)
    with Client(running.url) as client, ThreadPoolExecutor(8) as pool:
        crowds = [inputs[start : start + 50] for start in range(0, 300, 50)]
        crowd = np.concatenate(list(pool.map(client.embed, crowds)))
        alone = np.stack(list(pool.map(client.embed, inputs)))
    np.testing.assert_allclose((crowd * expected).sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose((alone * expected).sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    np.testing.assert_allclose(crowd, expected, atol=1e-5)


def test_probabilities_are_as_the_model_folder_is_calibrated(http: httpx.Client, embedder: onepeace.Embedder) -> None:
    labels, templates = ["a cat", "rain", "a violin"], ["{}", "this is {}"]
    picture, sound = GALLERY / "pictures" / "face-tabby-cat.webp", GALLERY / "sounds" / "rain-falling-steadily.ogg"
    body = {
        "input": [
            {"image": base64.b64encode(picture.read_bytes()).decode()},
            {"audio": base64.b64encode(sound.read_bytes()).decode()},
        ],
        "labels": labels,
        "templates": templates,
    }
    assert set(embedder.folder.calibrations()) == {"image", "audio"}
    classifier = onepeace.ZeroShotClassifier(embedder, labels, templates)
    told = classifier.predict([onepeace.Image(picture), onepeace.Audio(sound)])
    data = http.post("/v1/classify", json=body).json()["data"]
    for entry, expected in zip(data, told, strict=True):
        found = {one["label"]: one["probability"] for one in entry["labels"]}
        assert found == pytest.approx(expected.probabilities, abs=1e-3)

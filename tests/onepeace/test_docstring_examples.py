"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import functools
import importlib

import pytest

import onepeace


@pytest.mark.parametrize(
    "name",
    [
        "encoders.display",
        "encoders.media",
        "onepeace.embedder",
        "onepeace.inputs",
        "onepeace.model_card",
        "onepeace.quantization",
        "onepeace.similarity",
    ],
)
def test_the_examples_of_a_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onepeace, "load", functools.cache(onepeace.load))  # one model for all of a module
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0

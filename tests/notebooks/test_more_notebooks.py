"""The notebooks on what a model has learned, and on clusters, run anew. A file of their own shares the load."""

from __future__ import annotations

from pathlib import Path

import execute
import pytest
from notebook_outputs import check_that_it_runs, said

WITHOUT_SCALE = """
import importlib.util

_find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in ("ray", "pymilvus", "milvus_lite") else _find_spec(name)
"""


def test_emergent(tmp_path: Path) -> None:
    check_that_it_runs("emergent", tmp_path, tolerance=6.0)  # percent: one sound more or less is 2


def test_map(tmp_path: Path) -> None:
    check_that_it_runs("map", tmp_path)


@pytest.mark.slow
def test_cluster(tmp_path: Path) -> None:
    check_that_it_runs("cluster", tmp_path)


@pytest.mark.slow
def test_cluster_says_which_extra_it_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "OFFLINE", execute.OFFLINE + WITHOUT_SCALE)
    texts = [text for text in said(execute.execute(execute.HERE / "cluster.ipynb", tmp_path)) if text]
    assert texts[0] == "cells on Ray and Milvus do nothing: pip install 'onepeace[scale]'"
    assert len(texts) == 3  # what is built and found here
    assert "Ray" not in texts[-1]


@pytest.mark.slow
def test_fine_tune(tmp_path: Path) -> None:
    check_that_it_runs("fine_tune", tmp_path, tolerance=14.0)  # percent: one sound more or less is 7


# Their trainings are short, and end otherwise on another processor.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["classes", "questions", "boxes_and_times"])
def test_heads(name: str, tmp_path: Path) -> None:
    check_that_it_runs(name, tmp_path, tolerance=15.0)  # percent: one picture or sound more or less is up to 8

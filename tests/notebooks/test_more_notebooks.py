"""The notebooks on what a model has learned, and on clusters, run anew. A file of their own shares the load."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebook_outputs import check_that_it_runs


def test_emergent(tmp_path: Path) -> None:
    check_that_it_runs("emergent", tmp_path, tolerance=6.0)  # percent: one sound more or less is 2


def test_map(tmp_path: Path) -> None:
    check_that_it_runs("map", tmp_path)


@pytest.mark.slow
def test_cluster(tmp_path: Path) -> None:
    check_that_it_runs("cluster", tmp_path)


@pytest.mark.slow
def test_fine_tune(tmp_path: Path) -> None:
    check_that_it_runs("fine_tune", tmp_path, tolerance=14.0)  # percent: one sound more or less is 7

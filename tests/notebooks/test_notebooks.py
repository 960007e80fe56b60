"""Notebooks as they are committed, and those that show how to use a model, run anew."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from execute import HERE, cleaned, notebooks
from notebook_outputs import check_that_it_runs

LARGEST = 400_000  # bytes
MACHINE = re.compile(r"(?<![\w.])/(home|root|work|tmp|usr|opt|Users|var)/|[A-Z]:\\\\|\bsite-packages\b")
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]+)[^)]*\)")

every = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert {path.stem for path in notebooks()} == {
        *("quickstart", "zero_shot", "search", "map", "fine_tune", "emergent", "cluster"),
        *("classes", "questions", "boxes_and_times"),
    }


@every
def test_a_notebook_is_committed_small_whole_and_clean(path: Path) -> None:
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not MACHINE.search(nbformat.writes(notebook))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # in order, each of them
    assert nbformat.writes(cleaned(nbformat.from_dict(notebook), HERE)) == nbformat.writes(notebook)


@every
def test_a_notebook_says_what_there_will_be_and_where_to_go_next(path: Path) -> None:
    prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    assert prose[0].startswith("# ")
    assert "\n\nAt the end you have" in prose[0]
    assert "## Where to go next" in prose[-1]
    for link in LINK.findall("\n".join(prose)):
        assert (HERE / link).exists(), f"{path.name} links to {link}"


@pytest.mark.parametrize("name", ["quickstart", "zero_shot", "search"])
def test_it_runs_and_says_the_same(name: str, tmp_path: Path) -> None:
    check_that_it_runs(name, tmp_path)

"""What a notebook says, without what only looks: words and numbers of every cell's outputs."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat
import pytest
from execute import HERE, execute
from nbformat import NotebookNode

TYPES = re.compile(r"\b(bfloat16|float32) on cpu")  # what a model computes in depends on the processor
NUMBER = re.compile(r"-?\d+\.\d+")


def said(notebook: NotebookNode) -> list[str]:
    """Return what each cell's outputs say, apart from their numbers with a point, which `numbers` returns."""
    return [NUMBER.sub("#", text) for text in _texts(notebook)]


def numbers(notebook: NotebookNode) -> list[float]:
    return [float(number) for text in _texts(notebook) for number in NUMBER.findall(text)]


def _texts(notebook: NotebookNode) -> list[str]:
    texts = []
    for cell in notebook.cells:
        parts = []
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            plain = re.sub(r"<[^>]*>", " ", shown.get("text/html", "")) or shown.get("text/plain", "")
            parts.append(output.get("text") or html.unescape(plain))
        texts.append(TYPES.sub("a type", " ".join(" ".join(parts).split())))
    return texts


def check_that_it_runs(name: str, folder: Path, tolerance: float = 0.03) -> None:
    """Run a notebook: nothing fails or warns, and what it says is what is committed, numbers nearly so."""
    path = HERE / f"{name}.ipynb"
    committed, done = nbformat.read(path, as_version=4), execute(path, folder)
    complaints = [output.text for cell in done.cells for output in cell.get("outputs", []) if _complains(output)]
    assert not complaints
    assert said(done) == said(committed)
    assert numbers(done) == pytest.approx(numbers(committed), abs=tolerance)


def _complains(output: NotebookNode) -> bool:
    return output.output_type == "error" or output.get("name") == "stderr"

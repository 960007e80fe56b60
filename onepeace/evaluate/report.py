"""The report of an evaluation: one HTML file with every curve, picture and sound inside, and no reference outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.media import open_audio, open_image
from encoders.modality import Modality
from onepeace.evaluate.charts import HEIGHT, WIDTH, curve_charts, heat_map
from onepeace.evaluate.classification import Classification
from onepeace.evaluate.examples import QUERIES, Shown
from onepeace.evaluate.measurement import Measurement
from onepeace.evaluate.retrieval import Retrieval
from onepeace.evaluate.rows import Medium
from onepeace.evaluate.run import Evaluation
from onepeace.evaluate.table import times_chance
from onepeace.version import __version__

MARK = '<meta name="generator" content="onepeace eval">'
PAGE = "index.html"  # of a report that is given as a folder
THUMBNAIL = 128  # pixels of the longer side
FEW = 2  # examples of each search where there are many languages
SECONDS, RATE = 10.0, 16_000  # of a sound on the page


@dataclass(frozen=True)
class Line:
    """The figures of one search or classifier, as the page's table shows them."""

    source: str
    task: str
    language: str | None
    queries: int
    candidates: int
    figures: Mapping[str, Measurement]


@dataclass(frozen=True)
class ClassRecall:
    """How many of a class's rows were told right."""

    name: str
    percent: float
    rows: int


def report_file(path: Path) -> Path:
    """Return the file that a report goes to, its folder made.

    Raises:
        ValueError: a file is there already that is no report of ours.
    """
    file = path if path.suffix.lower() in (".html", ".htm") else path / PAGE
    if file.is_dir() or (file.exists() and MARK.encode() not in file.read_bytes()[:2000]):
        raise ValueError(f"{file} is there already and no report: give --report another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def write_report(evaluation: Evaluation, file: Path, where: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write the report of an evaluation; `where` is what its rows were chosen by."""
    file.write_text(render_report(evaluation, where or {}), encoding="utf-8")


def render_report(evaluation: Evaluation, where: Mapping[str, Sequence[str]]) -> str:
    """Return the page. Names and captions are escaped; the examples' media are read from where they lie."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("onepeace.evaluate", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    languages = {retrieval.language for retrieval in evaluation.retrievals if retrieval.language}
    most = FEW if len(languages) > 3 else QUERIES
    pictures, sounds = _embedded(evaluation.retrievals, most)
    return environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        version=__version__,
        where=[f"{column} = {' or '.join(values)}" for column, values in where.items()],
        tables=_tables(evaluation.results),
        times_chance=times_chance,
        charts=curve_charts(evaluation.retrievals),
        field={"width": WIDTH, "height": HEIGHT},
        classifications=[
            (one, heat_map(one), one.most_confused(), _recalls(one)) for one in evaluation.classifications
        ],
        most=most,
        pictures=pictures,
        sounds=sounds,
    )


def _tables(results: Iterable[Retrieval | Classification]) -> list[tuple[list[str], list[Line]]]:
    """Return the lines of one table for searches and one for classifiers, each with the names of its figures."""
    tables = []
    for kind in (Retrieval, Classification):
        lines = [
            Line(
                result.source,
                result.task,
                result.language,
                result.measurements[0].queries,
                result.measurements[0].candidates,
                {measurement.metric: measurement for measurement in result.measurements},
            )
            for result in results
            if isinstance(result, kind)
        ]
        if lines:
            tables.append((list(dict.fromkeys(metric for line in lines for metric in line.figures)), lines))
    return tables


def _recalls(classification: Classification) -> list[ClassRecall]:
    """Return the recall of every class that has rows, the worst first."""
    rows_L = classification.confusion.sum(axis=1)
    found = [
        ClassRecall(name, float(percent), int(rows))
        for name, percent, rows in zip(classification.classes, classification.recalls, rows_L, strict=True)
        if rows
    ]
    return sorted(found, key=lambda recall: recall.percent)


def _embedded(retrievals: Sequence[Retrieval], most: int) -> tuple[dict[Medium, tuple[int, str]], dict[Medium, str]]:
    """Return the examples' pictures, each with a number, and their sounds, as data: URIs."""
    pictures: dict[Medium, tuple[int, str]] = {}
    sounds: dict[Medium, str] = {}
    for retrieval in retrievals:
        for example in retrieval.examples[:most]:
            for shown in (example.query, *(hit.shown for hit in example.hits)):
                _embed(shown, pictures, sounds)
    return pictures, sounds


def _embed(shown: Shown, pictures: dict[Medium, tuple[int, str]], sounds: dict[Medium, str]) -> None:
    medium = shown.medium
    if medium is None:
        return
    if shown.modality is Modality.IMAGE and medium not in pictures:
        pictures[medium] = len(pictures), thumbnail(medium.open())
    elif shown.modality is Modality.AUDIO and medium not in sounds:
        sounds[medium] = short_sound(medium.open())


def thumbnail(source: Any) -> str:
    """Return a picture as a small WebP, in a data: URI."""
    image = open_image(source, draft_size=THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=75)
    return _data("image/webp", out)


def short_sound(source: Any) -> str:
    """Return the beginning of a sound as mono Ogg Opus, in a data: URI."""
    import soundfile

    samples = open_audio(source, RATE, max_seconds=SECONDS)
    loudest = float(np.abs(samples).max()) or 1.0
    out = io.BytesIO()
    soundfile.write(out, samples / max(1.0, loudest), RATE, format="OGG", subtype="OPUS")
    return _data("audio/ogg", out)


def _data(kind: str, out: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(out.getvalue()).decode()}"

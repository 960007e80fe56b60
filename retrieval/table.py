"""Files and folders -> a table of vectors: Parquet for machines, JSONL for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .build import BuildConfig, BuildReport, EmbeddingModel, Paths, embedded, scanned, settling
from .catalog import Item

Write = Callable[[Sequence[Item], npt.NDArray[np.float32]], None]


def embed_files(
    paths: Paths,
    out: str | os.PathLike[str],
    model: EmbeddingModel,
    config: BuildConfig | None = None,
    *,
    show_progress_bar: bool | None = None,
) -> BuildReport:
    """Embed files and folders into one table with the columns id, modality, uri, metadata (JSON) and vector.

    The suffix of `out` chooses Parquet or JSONL. It is written aside and renamed when it is complete, in bounded
    memory; an existing file is replaced, unless nothing could be embedded. Raises ValueError for another suffix or a
    path that does not exist.
    """
    target = Path(out)
    must_be_writable(target)
    aside = target.with_name(target.name + ".part")
    config, report = config or BuildConfig(), BuildReport()
    try:
        with (
            _WRITERS[target.suffix](aside, model.dimension) as write,
            settling(paths, model.modalities, config, report, show_progress_bar) as move_bar,
        ):
            for found in scanned(paths, model.modalities, config, report, config.items_at_once):
                items, vectors = embedded(found, model, config, report)
                if items:
                    write(items, vectors)
                report.added += len(items)
                move_bar()
        if report.added:  # a table that is there outlives a run that could read nothing
            os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return report


def must_be_writable(out: Path) -> None:
    """Raise ValueError for a suffix that no writer has, or a folder that is not there."""
    if out.suffix not in _WRITERS:
        raise ValueError(f"{out} must end in {' or '.join(_WRITERS)}")
    if not out.parent.is_dir():
        raise ValueError(f"no such folder: {out.parent}")


@contextmanager
def _parquet(path: Path, dimension: int) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "modality", "uri", "metadata")),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )
    with pq.ParquetWriter(path, schema) as writer:

        def write(items: Sequence[Item], vectors: npt.NDArray[np.float32]) -> None:
            columns = [pa.array([getattr(item, name) for item in items]) for name in ("id", "modality", "uri")]
            columns.append(pa.array([json.dumps(item.metadata, ensure_ascii=False) for item in items]))
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))

        yield write


@contextmanager
def _jsonl(path: Path, _dimension: int) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8") as file:

        def write(items: Sequence[Item], vectors: npt.NDArray[np.float32]) -> None:
            for item, vector in zip(items, vectors.tolist(), strict=True):
                row = {"id": item.id, "modality": item.modality, "uri": item.uri, "metadata": item.metadata}
                file.write(json.dumps(row | {"vector": vector}, ensure_ascii=False) + "\n")

        yield write


_WRITERS = {".parquet": _parquet, ".jsonl": _jsonl}

"""Files and folders -> a table of vectors: Parquet for machines, JSONL for everything else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onepeace.progress import progress_bar

from .build import Paths, counted, scanned
from .build_config import BuildConfig, BuildReport
from .catalog import Item
from .engine import EmbeddingModel, embedded
from .manifest import ModelTag
from .vector_table import vector_schema

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

    The suffix of `out` chooses JSONL, or Parquet, which also says which model made it, so that `build_store` takes it.
    It is written aside and renamed when it is complete, in bounded memory; an existing file is replaced, unless nothing
    could be embedded. What a run that was killed left behind goes with the next. Raises ValueError for another suffix
    or a path that does not exist.
    """
    target = Path(out)
    must_be_writable(target)
    aside = target.with_name(target.name + ".part")
    config, report = config or BuildConfig(), BuildReport()
    try:
        with (
            _WRITERS[target.suffix](aside, ModelTag.of(model)) as write,
            progress_bar(
                counted(paths, model.modalities, config, show_progress_bar), show=show_progress_bar
            ) as advance,
        ):
            for found, count in scanned(paths, model.modalities, config, report, config.items_at_once):
                for items, vectors in embedded(found, model, config, report):
                    if items:
                        write(items, vectors)
                    report.added += len(items)
                advance(count)
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
def _parquet(path: Path, tag: ModelTag) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = vector_schema(tag)
    with pq.ParquetWriter(path, schema) as writer:

        def write(items: Sequence[Item], vectors: npt.NDArray[np.float32]) -> None:
            columns = [pa.array([getattr(item, name) for item in items]) for name in ("id", "modality", "uri")]
            columns.append(pa.array([json.dumps(item.metadata, ensure_ascii=False) for item in items]))
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), tag.dimension))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))

        yield write


@contextmanager
def _jsonl(path: Path, _tag: ModelTag) -> Iterator[Write]:
    with open(path, "w", encoding="utf-8") as file:

        def write(items: Sequence[Item], vectors: npt.NDArray[np.float32]) -> None:
            for item, vector in zip(items, vectors.tolist(), strict=True):
                row = {"id": item.id, "modality": item.modality, "uri": item.uri, "metadata": item.metadata}
                file.write(json.dumps(row | {"vector": vector}, ensure_ascii=False) + "\n")

        yield write


_WRITERS = {".parquet": _parquet, ".jsonl": _jsonl}

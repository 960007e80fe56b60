"""Tables of vectors, as `onepeace embed` writes them in Parquet: they say which model made them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .catalog import Item, as_json
from .found import Failure, printable
from .manifest import ModelTag
from .scan import MODEL_KEY

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("id", "modality", "uri", "metadata")  # the columns beside the vector; metadata is JSON


class Rows(NamedTuple):
    """Some rows of a table."""

    items: list[Item]
    vectors: npt.NDArray[np.float32]  # (N, D)
    failures: list[Failure]  # rows that are no item, or whose vector has no direction


def vector_schema(tag: ModelTag) -> pa.Schema:
    """Return the columns of a table with vectors of this model."""
    import pyarrow as pa

    fields = [*((name, pa.string()) for name in TEXTS), ("vector", pa.list_(pa.float32(), tag.dimension))]
    return pa.schema(fields, metadata={MODEL_KEY: json.dumps(asdict(tag)).encode()})


@dataclass(frozen=True)
class VectorTable:
    """A table of vectors on the disk."""

    path: Path
    tag: ModelTag  # the model that made the vectors
    count: int  # rows

    @classmethod
    def open(cls, path: Path) -> VectorTable | None:
        """Open a table, or return None for any other file. Raises ValueError for one that was changed."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if path.suffix.lower() != ".parquet" or not path.is_file():
            return None
        try:
            with pq.ParquetFile(path) as file:
                schema, count = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError):
            return None  # the scan says what is wrong with it
        told = (schema.metadata or {}).get(MODEL_KEY)
        if told is None:
            return None
        try:
            tag = ModelTag(**json.loads(told))
            wanted = vector_schema(tag)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{printable(path)} does not say which model made its vectors ({error})") from None
        if changed := [
            f"{f.name} ({f.type})" for f in wanted if f.name not in schema.names or f != schema.field(f.name)
        ]:
            raise ValueError(
                f"{printable(path)} is no longer as `onepeace embed` wrote it: it needs the column {', '.join(changed)}"
            )
        return cls(path, tag, count)

    def rows(self, at_once: int) -> Iterator[Rows]:
        """Yield all rows, so many at a time. Raises ValueError naming a table that is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        first = 1
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(at_once, columns=[*TEXTS, "vector"]):
                    yield self._checked(batch, first)
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{printable(self.path)} cannot be read: {' '.join(str(error).split())}") from error

    def _checked(self, batch: pa.RecordBatch, first: int) -> Rows:
        items, kept, failures = [], [], []
        vector: Any = batch.column("vector")
        # A missing vector's place is filled with anything, which must not be taken for one.
        rows_ND = vector.values.slice(vector.offset * self.tag.dimension, len(vector) * self.tag.dimension)
        rows_ND = rows_ND.to_numpy(zero_copy_only=False).reshape(len(vector), self.tag.dimension)
        norms = np.linalg.norm(rows_ND, axis=1)
        directed = np.isfinite(norms) & (norms > 0) & vector.is_valid().to_numpy(zero_copy_only=False)
        for place, row in enumerate(batch.select(TEXTS).to_pylist()):
            try:
                if not directed[place]:
                    raise ValueError("its vector is missing, zero or not finite, and has no direction")
                item = Item(row["id"], row["modality"], row["uri"], json.loads(row["metadata"] or "{}"))
                as_json(item)
            except ValueError as error:
                failures.append(Failure(f"{printable(self.path)}#{first + place}", str(error)))
            else:
                items.append(item)
                kept.append(place)
        return Rows(items, rows_ND[kept], failures)


def vector_tables(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[VectorTable], list[Path]]:
    """Return which paths are tables of vectors, and which are not. Raises ValueError for a table that was changed."""
    tables, others = [], []
    for path in map(Path, paths):
        table = VectorTable.open(path)
        if table is None:
            others.append(path)
        else:
            tables.append(table)
    return tables, others

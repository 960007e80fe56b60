"""Files -> a table of vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from retrieval import BuildConfig
from retrieval.table import embed_files


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return [row | {"metadata": json.loads(row["metadata"])} for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("batches_at_once", [1, 16])
def test_every_item_has_the_vector_that_the_model_gives_it(
    suffix: str, batches_at_once: int, mixed_files: Path, tmp_path: Path, model: Any, sentences: list[str]
) -> None:
    config = BuildConfig(batch_size=2, batches_at_once=batches_at_once)
    report = embed_files([mixed_files], tmp_path / f"out{suffix}", model, config)
    rows = {row["id"]: row for row in read_rows(tmp_path / f"out{suffix}")}
    assert report.added == len(rows) == len(sentences) + 3
    assert report.ignored == [str(mixed_files / "notes.doc")]
    for i, (sentence, vector) in enumerate(zip(sentences, model.encode(sentences), strict=True), start=1):
        row = rows[f"mixed/lines.txt#{i}"]
        assert row["metadata"]["text"] == sentence
        np.testing.assert_allclose(row["vector"], vector, atol=1e-6)
    assert rows["mixed/rows.csv#2"]["metadata"] == {"text": "a dog", "year": 2020}
    assert rows["mixed/picture.jpg"]["modality"] == "image"


def test_what_cannot_be_read_is_reported_and_the_rest_is_written(mixed_files: Path, tmp_path: Path, model: Any) -> None:
    (mixed_files / "empty.png").symlink_to(tmp_path / "nowhere.png")
    report = embed_files([mixed_files], tmp_path / "out.parquet", model)
    assert [Path(failure.uri).name for failure in report.failed] == ["empty.png"]
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == report.added


def test_an_interrupted_run_leaves_the_old_table(mixed_files: Path, tmp_path: Path, model: Any) -> None:
    embed_files([mixed_files / "lines.txt"], tmp_path / "out.parquet", model)
    before = (tmp_path / "out.parquet").read_bytes()

    class Interrupted(type(model)):  # type: ignore[misc]
        def encode_many(self, *args: Any, **options: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files([mixed_files], tmp_path / "out.parquet", Interrupted())
    assert (tmp_path / "out.parquet").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_run_that_reads_nothing_leaves_the_old_table(mixed_files: Path, tmp_path: Path, model: Any) -> None:
    out = tmp_path / "vectors.parquet"
    embed_files([mixed_files / "rows.csv"], out, model)
    before = out.read_bytes()
    (tmp_path / "bad.csv").write_text("year\n2020\n")
    assert embed_files([tmp_path / "bad.csv"], out, model).added == 0
    assert out.read_bytes() == before
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(("name", "reason"), [("out.xlsx", "must end in"), ("nowhere/out.parquet", "no such folder")])
def test_a_table_that_cannot_be_written_is_refused(
    name: str, reason: str, mixed_files: Path, tmp_path: Path, model: Any
) -> None:
    with pytest.raises(ValueError, match=reason):
        embed_files([mixed_files], tmp_path / name, model)

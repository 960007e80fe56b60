"""Tables of `onepeace embed` as a source of items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from retrieval import BuildConfig, Item, ModelTag, Store, StoreError, add_to_store, build_store
from retrieval.cli import app
from retrieval.table import embed_files
from retrieval.vector_table import VectorTable


@pytest.fixture
def table(mixed_files: Path, tmp_path: Path, model: Any) -> Path:
    embed_files([mixed_files], tmp_path / "vectors.parquet", model, BuildConfig(batch_size=1, batches_at_once=4))
    return tmp_path / "vectors.parquet"


def rewrite(path: Path, **columns: list[Any]) -> None:
    """Replace columns, keeping what the table says of itself."""
    old = pq.read_table(path)
    names = [name for name in old.column_names if columns.get(name, True) is not None]
    new = [pa.array(columns[name], old.schema.field(name).type) if name in columns else old[name] for name in names]
    pq.write_table(pa.table(new, names=names).replace_schema_metadata(old.schema.metadata), path)


def test_a_store_of_ready_vectors_equals_one_of_the_files(
    table: Path, mixed_files: Path, tmp_path: Path, model: Any, tag: ModelTag
) -> None:
    report = build_store([table], tmp_path / "ready", None)
    build_store([mixed_files], tmp_path / "store", model)
    with Store.open(tmp_path / "ready") as ready, Store.open(tmp_path / "store") as store:
        assert (report.added, ready.model) == (len(store), tag)
        assert list(ready.catalog) == list(store.catalog)
        ids = [item.id for item in store.catalog]
        np.testing.assert_array_equal(ready.vectors(ids), store.vectors(ids))
        report = add_to_store(store, [table], None)
        assert (report.added, report.present) == (0, len(store))
    report = build_store([mixed_files], tmp_path / "ready", model)  # and goes on with the files themselves
    assert (report.added, report.present) == (0, 9)


def test_ready_vectors_and_files_go_into_one_store(table: Path, tmp_path: Path, model: Any) -> None:
    (tmp_path / "more.txt").write_text("a bird")
    report = build_store([tmp_path / "more.txt", table], tmp_path / "store", model)
    assert (report.added, len(Store.open(tmp_path / "store"))) == (10, 10)
    with pytest.raises(ValueError, match="without a model"):
        build_store([tmp_path / "more.txt", table], tmp_path / "other", None)
    assert not (tmp_path / "other").exists()


def test_replacing_takes_the_new_vectors(table: Path, tmp_path: Path, tag: ModelTag) -> None:
    build_store([table], tmp_path / "store", None)
    vectors = np.eye(9, tag.dimension, dtype=np.float32)
    rewrite(table, vector=vectors.tolist())
    ids = pq.read_table(table)["id"].to_pylist()
    with Store.open(tmp_path / "store") as store:
        assert add_to_store(store, [table], None).present == 9
        assert add_to_store(store, [table], None, replace=True).added == 9
        np.testing.assert_array_equal(store.vectors(ids), vectors)


def test_vectors_of_another_model_are_refused(table: Path, mixed_files: Path, tmp_path: Path, model: Any) -> None:
    other = type(model)()
    other.name, other.fingerprint = "words", "beef" * 8
    embed_files([mixed_files], tmp_path / "other.parquet", other)
    with pytest.raises(StoreError, match=r"built with characters .*you gave words .*cannot be compared"):
        build_store([table, tmp_path / "other.parquet"], tmp_path / "store", None)
    assert not (tmp_path / "store").exists()
    with pytest.raises(StoreError, match=r"built with characters .*you gave words"):
        build_store([tmp_path / "other.parquet"], tmp_path / "store", model)
    build_store([table], tmp_path / "store", None)
    with Store.open(tmp_path / "store") as store, pytest.raises(StoreError, match="you gave words"):
        add_to_store(store, [tmp_path / "other.parquet"], None)


def test_rows_that_are_no_items_are_reported_and_the_rest_is_taken(table: Path, tmp_path: Path, tag: ModelTag) -> None:
    vectors: list[Any] = np.eye(9, tag.dimension, dtype=np.float32).tolist()
    vectors[1], vectors[2], vectors[3] = [0.0] * tag.dimension, [float("nan")] * tag.dimension, None
    ids = pq.read_table(table)["id"].to_pylist()
    ids[4], ids[5] = None, ids[6]
    metadata = pq.read_table(table)["metadata"].to_pylist()
    metadata[7], metadata[8] = "not json", None
    rewrite(table, vector=vectors, id=ids, metadata=metadata)
    report = build_store([table], tmp_path / "store", None)
    assert [failure.uri for failure in report.failed] == [f"{table}#{row}" for row in (2, 3, 4, 5, 8)]
    with Store.open(tmp_path / "store") as store:
        assert {item.id for item in store.catalog} == {ids[0], ids[6], ids[8]}
        np.testing.assert_array_equal(store.vectors([ids[8]])[0], vectors[8])


def test_a_table_that_was_changed_is_refused(table: Path, tmp_path: Path) -> None:
    old = pq.read_table(table)
    for change, reason in (
        (old.drop_columns(["uri"]), r"needs the column uri \(string\)"),
        (old.replace_schema_metadata({"onepeace.model": '{"name": "x"}'}), "does not say which model"),
        (old.replace_schema_metadata({"onepeace.model": "[]"}), "does not say which model"),
    ):
        pq.write_table(change, table)
        with pytest.raises(ValueError, match=reason):
            build_store([table], tmp_path / "store", None)
    assert not (tmp_path / "store").exists()


def test_a_table_is_recognised_by_what_it_says_of_itself(table: Path, mixed_files: Path, tag: ModelTag) -> None:
    opened = VectorTable.open(table)
    assert opened is not None
    assert (opened.tag, opened.count) == (tag, 9)
    pq.write_table(pa.table({"text": ["a"]}), mixed_files / "texts.parquet")
    (mixed_files / "bad.parquet").write_bytes(b"PAR1")
    for path in (mixed_files / "texts.parquet", mixed_files / "bad.parquet", mixed_files / "rows.csv", mixed_files):
        assert VectorTable.open(path) is None


def test_tables_that_cannot_be_taken_say_what_to_do(mixed_files: Path, table: Path, tmp_path: Path, model: Any) -> None:
    table.rename(mixed_files / "vectors.parquet")
    embed_files([mixed_files / "rows.csv"], mixed_files / "vectors.jsonl", model)
    report = build_store([mixed_files], tmp_path / "store", model)
    reasons = {Path(failure.uri).name: failure.reason for failure in report.failed}
    assert "this very path" in reasons.pop("vectors.parquet")
    assert ".parquet" in reasons.pop("vectors.jsonl")
    assert not reasons


def test_a_row_of_a_table_is_an_item_as_json_has_it(table: Path, sentences: list[str], tag: ModelTag) -> None:
    opened = VectorTable.open(table)
    assert opened is not None
    rows = list(opened.rows(4))
    assert [len(some.items) for some in rows] == [4, 4, 1]
    row = pq.read_table(table).to_pylist()[0]
    assert rows[0].items[0] == Item(row["id"], row["modality"], row["uri"], json.loads(row["metadata"]))
    assert rows[0].items[0].metadata["text"] == sentences[0]


def test_a_table_is_indexed_without_its_model(table: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["index", "build", str(table), "--store", str(tmp_path / "store"), "--model", "no such model"])
    assert (done.exit_code, "added 9 items" in done.stdout) == (0, True)
    done = run(app, ["index", "add", str(tmp_path / "store"), str(table)])
    assert (done.exit_code, "9 were in the store already" in done.stdout) == (0, True)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval import BuildConfig, EmbeddingModel, Item, ModelTag, Store, StoreError, add_to_store, build_store
from retrieval.build import model_input
from retrieval.scan import Failure


@pytest.fixture
def pack(tmp_path: Path, sentences: list[str]) -> Path:
    """Six texts, a picture, a sound, two empty files that cannot be read, and one of another kind."""
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "lines.txt").write_text("\n".join(sentences))
    for name, content in {
        "a.jpg": b"some picture",
        "b.wav": b"some sound",
        "c.jpg": b"",
        "d.wav": b"",
        "e.md": b"",
    }.items():
        (pack / name).write_bytes(content)
    return pack


@pytest.mark.parametrize("config", [BuildConfig(), BuildConfig(batch_size=1, batches_at_once=2)])
def test_every_readable_item_is_stored_with_its_own_vector(
    pack: Path, tmp_path: Path, model: EmbeddingModel, config: BuildConfig
) -> None:
    report = build_store([pack], tmp_path / "store", model, config)
    assert report.added == 8
    assert {Path(uri).name for uri, _ in report.failed} == {"c.jpg", "d.wav"}
    assert report.ignored == [str(pack / "e.md")]
    store = Store.open(tmp_path / "store")
    assert store.catalog.counts() == {"text": 6, "audio": 1, "image": 1}
    for item, vector in zip(store.catalog, store.current.vectors, strict=True):
        np.testing.assert_allclose(vector, model.encode_many([model_input(item)]).vectors[0], atol=1e-6)


def test_how_items_are_batched_changes_nothing(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    for name, config in (("one", BuildConfig()), ("other", BuildConfig(batch_size=2, batches_at_once=1))):
        build_store([pack], tmp_path / name, model, config)
    one, other = Store.open(tmp_path / "one"), Store.open(tmp_path / "other")
    assert list(one.catalog) == list(other.catalog)
    np.testing.assert_array_equal(one.current.vectors, other.current.vectors)


def test_adding_again_adds_only_what_is_new(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    build_store([pack], tmp_path / "store", model)
    store = Store.open(tmp_path / "store")
    (pack / "new.jpg").write_bytes(b"a new picture")
    report = add_to_store(store, [pack], model)
    assert (report.added, report.present, len(report.failed)) == (1, 8, 2)
    assert len(store) == 9
    generation = store.current.manifest.generation
    assert add_to_store(store, [pack], model).added == 0
    assert store.current.manifest.generation == generation  # nothing to write, nothing written


def test_replacing_embeds_again(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    build_store([pack], tmp_path / "store", model)
    store = Store.open(tmp_path / "store")
    (pack / "a.jpg").write_bytes(b"quite another picture")
    assert add_to_store(store, [pack], model, replace=True).added == 8
    assert len(store) == 8
    expected = model.encode_many([model_input(store.catalog.get(["pack/a.jpg"])[0])]).vectors
    np.testing.assert_allclose(store.vectors(["pack/a.jpg"]), expected, atol=1e-6)


def test_a_path_given_twice_is_taken_once(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    report = build_store([pack, pack], tmp_path / "store", model)
    assert (report.added, len(Store.open(tmp_path / "store"))) == (8, 8)


def test_nothing_readable_makes_no_store(tmp_path: Path, model: EmbeddingModel) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    report = build_store([tmp_path / "a.jpg"], tmp_path / "store", model)
    assert report.added == 0
    assert [type(failure) for failure in report.failed] == [Failure]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_another_model_is_refused_before_anything_is_embedded(
    pack: Path, tmp_path: Path, model: EmbeddingModel, tag: ModelTag
) -> None:
    store = Store.create(tmp_path / "s", [], [], model=replace(tag, name="words", fingerprint="beef" * 8))
    with pytest.raises(StoreError, match=r"built with words .*you gave characters"):
        add_to_store(store, [pack], model)


def test_a_progress_bar_goes_to_stderr(
    pack: Path, tmp_path: Path, model: EmbeddingModel, capsys: pytest.CaptureFixture[str]
) -> None:
    build_store([pack], tmp_path / "store", model, show_progress_bar=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "11/11" in captured.err


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batches_at_once": -1}, {"text_column": ""}])
def test_a_config_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"build.{next(iter(wrong))} must"):
        BuildConfig(**wrong)  # type: ignore[arg-type]


def test_an_item_becomes_what_its_modality_asks_for() -> None:
    import onepeace

    assert model_input(Item("a", "text", "x#1", {"text": "cat.jpg"})) == onepeace.Text("cat.jpg")
    for kind, wrapper in (("image", onepeace.Image), ("audio", onepeace.Audio)):
        wrapped = model_input(Item("a", kind, "/cat.media"))
        assert (type(wrapped), wrapped.source) == (wrapper, "/cat.media")

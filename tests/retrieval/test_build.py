from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from character_model import Interrupted, InterruptedModel

from onepeace import Image
from retrieval import BuildConfig, EmbeddingModel, Item, ModelTag, Store, StoreError, add_to_store, build, build_store
from retrieval.engine import model_input
from retrieval.found import Failure


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
    for item in store.catalog:
        vector = store.vectors([item.id])[0]
        np.testing.assert_allclose(vector, model.encode_many([model_input(item)]).vectors[0], atol=1e-6)


def test_how_items_are_batched_changes_nothing(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    for name, config in (("one", BuildConfig()), ("other", BuildConfig(batch_size=2, batches_at_once=1))):
        build_store([pack], tmp_path / name, model, config)
    one, other = Store.open(tmp_path / "one"), Store.open(tmp_path / "other")
    assert list(one.catalog) == list(other.catalog)
    ids = [item.id for item in one.catalog]
    np.testing.assert_array_equal(one.vectors(ids), other.vectors(ids))


def test_adding_again_adds_only_what_is_new(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    build_store([pack], tmp_path / "store", model)
    store = Store.open(tmp_path / "store")
    (pack / "new.jpg").write_bytes(b"a new picture")
    report = add_to_store(store, [pack], model)
    assert (report.added, report.present, len(report.failed)) == (1, 8, 2)
    assert len(store) == 9
    number = store.current.progress.number
    assert add_to_store(store, [pack], model).added == 0
    assert store.current.progress.number == number  # nothing to write, nothing written


@pytest.mark.parametrize("duplicates", [True, False])
def test_replacing_embeds_again(
    pack: Path, tmp_path: Path, model: EmbeddingModel, duplicates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_store([pack], tmp_path / "store", model)
    store = Store.open(tmp_path / "store")
    (pack / "a.jpg").write_bytes(b"quite another picture")
    real, calls = type(model).encode_many, []
    monkeypatch.setattr(model, "encode_many", lambda inputs, **o: calls.append(len(inputs)) or real(model, inputs, **o))
    assert add_to_store(store, [pack], model, BuildConfig(duplicates=duplicates), replace=True).added == 8
    assert sum(calls) >= 8  # what has not changed too
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


def test_a_build_that_is_interrupted_goes_on_and_embeds_nothing_twice(tmp_path: Path) -> None:
    model, folder = InterruptedModel(), tmp_path / "files"
    folder.mkdir()
    for n in range(1_000):
        (folder / f"{n:04}.jpg").write_bytes(f"picture number {n}".encode())
    config = BuildConfig(batch_size=10, batches_at_once=4)
    for allowed in (110, 333, 217):
        model.left = allowed
        with pytest.raises(Interrupted):
            build_store([folder], tmp_path / "store", model, config)
    model.left = 10_000
    report = build_store([folder], tmp_path / "store", model, config)
    assert report.added + report.present == len(model.embedded) == len(Store.open(tmp_path / "store")) == 1_000
    assert model.embedded.total() - 1_000 <= 3 * 40  # a batch for each interruption
    assert max(model.embedded.values()) <= 2


@pytest.mark.parametrize("keep", [True, False])
def test_the_same_content_is_embedded_once(
    tmp_path: Path, model: EmbeddingModel, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n:02}.jpg").write_bytes(f"picture {n % 3}".encode())
    (folder / "sound.wav").write_bytes(b"picture 0")  # the same bytes, but not the same thing
    (folder / "words.txt").write_text("picture 0\npicture 0")
    calls: list[str] = []
    real = type(model).encode_many
    monkeypatch.setattr(
        model,
        "encode_many",
        lambda inputs, **options: calls.extend(map(repr, inputs)) or real(model, inputs, **options),
    )
    config = BuildConfig(batch_size=1, batches_at_once=5, duplicates=keep)  # copies lie in this batch and in others
    report = build_store([folder], tmp_path / "store", model, config)
    assert len(calls) == 5
    store = Store.open(tmp_path / "store", verify=True)
    assert (report.added, report.reused, len(report.duplicates)) == ((15, 10, 0) if keep else (5, 0, 10))
    assert len(store) == report.added
    if keep:
        same = store.vectors([f"files/{n:02}.jpg" for n in (1, 4, 7, 10)])
        np.testing.assert_allclose(same, same[:1].repeat(4, 0), atol=1e-6)
        np.testing.assert_allclose(same[0], real(model, [Image(folder / "01.jpg")]).vectors[0], atol=1e-6)


def test_a_copy_of_what_cannot_be_read_fails_with_it(tmp_path: Path, model: EmbeddingModel) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"a picture")
    report = build_store([tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")], tmp_path / "store", model)
    assert (report.added, sorted(Path(uri).name for uri, _ in report.failed)) == (1, ["a.jpg", "b.jpg"])


def test_building_into_a_store_goes_on_with_it(pack: Path, tmp_path: Path, model: EmbeddingModel) -> None:
    build_store([pack / "lines.txt"], tmp_path / "store", model, precision="int8")
    first = len(Store.open(tmp_path / "store"))
    report = build_store([pack], tmp_path / "store", model)  # the lines would have other ids now, but are there
    assert (report.added, report.present) == (2, first)
    assert Store.open(tmp_path / "store").current.manifest.precision == "int8"
    assert build_store([pack], tmp_path / "store", model, precision="int8").present == first + 2
    with pytest.raises(StoreError, match=r"precision of the store .* is int8, not float16"):
        build_store([pack], tmp_path / "store", model, precision="float16")
    with pytest.raises(StoreError, match=r"kind of the store .* is auto, not hnsw; `onepeace index merge"):
        build_store([pack], tmp_path / "store", model, kind="hnsw")


def test_what_was_finished_stays_when_a_later_batch_fails(
    pack: Path, tmp_path: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, kept = type(model).encode_many, []

    def failing(inputs: Any, **options: Any) -> Any:
        if len(kept) == 2:
            raise ValueError("the model fails")
        encoded = real(model, inputs, **options)
        kept.append(len(encoded.kept))
        return encoded

    monkeypatch.setattr(model, "encode_many", failing)
    small = BuildConfig(batch_size=2, batches_at_once=1)
    with pytest.raises(ValueError, match="the model fails"):
        build_store([pack], tmp_path / "store", model, small)
    assert len(Store.open(tmp_path / "store", verify=True)) == sum(kept) > 0


def test_a_new_store_that_somebody_else_writes_to_is_left_alone(
    pack: Path, tmp_path: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = build.add_to_store

    with ExitStack() as other:

        def overtaken(store: Store, *arguments: Any, **options: Any) -> Any:
            other.enter_context(Store.open(store.folder).writing())
            return real(store, *arguments, **options)

        monkeypatch.setattr(build, "add_to_store", overtaken)
        with pytest.raises(StoreError, match="is being written by process"):
            build_store([pack], tmp_path / "store", model)
        assert len(Store.open(tmp_path / "store")) == 0


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

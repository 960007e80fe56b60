"""Windows of long sounds as items of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import onepeace
from retrieval import BuildConfig, Item, MilvusStore, Searcher, Store, add_to_store, build_in_milvus, build_store

RATE = 16_000
WINDOWS = BuildConfig(windows=True, batch_size=2, batches_at_once=2)
LONG = [f"sounds/long.wav#t={start}" for start in (0.0, 2.0, 4.0)]  # both models hear 2 s at once


def write(path: Path, seconds: float, seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=int(seconds * RATE)) * 0.1
    soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A long and a short sound, and a text."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    write(folder / "long.wav", 5, 1)
    write(folder / "short.wav", 1.5, 2)
    (folder / "words.txt").write_text("rain")
    return folder


@pytest.fixture
def embedded(embedder: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many inputs were embedded since it was asked before."""
    counts: list[int] = []
    real = type(embedder).encode_many

    def counting(inputs: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return real(embedder, inputs, **options)

    monkeypatch.setattr(embedder, "encode_many", counting)

    def since() -> int:
        total = sum(counts)
        counts.clear()
        return total

    return since


def test_each_window_is_an_item_with_its_own_vector(sounds: Path, tmp_path: Path, embedder: onepeace.Embedder) -> None:
    report = build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    uri = str(sounds / "long.wav")
    with Store.open(tmp_path / "store") as store:
        items = {item.id: item for item in store.catalog}
        assert report.added == len(items) == 5
        assert [items[name] for name in LONG] == [
            Item(LONG[0], "audio", uri, {"start": 0.0, "end": 2.0}),
            Item(LONG[1], "audio", uri, {"start": 2.0, "end": 4.0}),
            Item(LONG[2], "audio", uri, {"start": 4.0, "end": 5.0}),
        ]
        assert items["sounds/short.wav"].metadata == {}
        samples, _ = soundfile.read(uri, dtype="float32")
        for name in LONG:
            start, end = (round(items[name].metadata[key] * RATE) for key in ("start", "end"))
            if embedder.model.config.adapters["audio"].preprocess.layer_norm:  # which is that of the whole sound
                break
            alone = embedder.encode(onepeace.Audio(samples[start:end], RATE))
            assert 1 - store.vectors([name])[0] @ alone < 1e-3
        whole = embedder.encode(onepeace.Audio(uri))
        mean = store.vectors(LONG).sum(axis=0)
        assert 1 - mean @ whole / np.linalg.norm(mean) < 1e-3


def test_grouped_by_uri_a_recording_is_found_once_with_its_best_window(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder
) -> None:
    build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    with Store.open(tmp_path / "store") as store:
        searcher = Searcher(store, embedder)
        hits = searcher.search("rain", 10, "modality=audio", group_by="uri")
        scores = store.vectors(LONG) @ embedder.encode("rain")
        assert sorted(Path(hit.item.uri).name for hit in hits) == ["long.wav", "short.wav"]
        (best,) = [hit for hit in hits if hit.item.uri.endswith("long.wav")]
        assert best.item.id == LONG[int(np.argmax(scores))]
        (late,) = searcher.search("rain", 10, "start >= 4")
        assert late.item.id == LONG[2]


def test_windows_that_are_there_are_not_embedded_again(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder, embedded: Callable[[], int]
) -> None:
    build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    assert embedded() == 3
    report = build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    assert (report.added, report.present, embedded()) == (0, 3, 0)
    with Store.open(tmp_path / "store") as store:
        store.delete(LONG[:1])
        report = add_to_store(store, [sounds], embedder, WINDOWS)
        assert (report.added, len(store)) == (1, 5)  # a sound that lost its beginning gets it back
        assert store.catalog.get(LONG)[0].metadata == {"start": 0.0, "end": 2.0}


@pytest.mark.parametrize("milvus", [False, True])
def test_a_cut_sound_is_there_once_whatever_path_leads_to_it(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder, milvus: bool
) -> None:
    if milvus:
        pytest.importorskip("milvus_lite")
        build_in_milvus([sounds], tmp_path / "my.db", embedder, WINDOWS)
    else:
        build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    with MilvusStore.open(tmp_path / "my.db") if milvus else Store.open(tmp_path / "store") as store:
        report = add_to_store(store, [sounds / "long.wav", sounds / "short.wav"], embedder, WINDOWS)
        assert (report.added, report.present, len(store)) == (0, 2, 5)
        write(sounds / "long.wav", 4, 3)
        (sounds / "short.wav").unlink()
        report = add_to_store(store, [sounds], embedder, WINDOWS)
        assert (report.added, report.changed, report.gone) == (0, [str(sounds / "long.wav")], ["sounds/short.wav"])


@pytest.mark.parametrize("keep", [True, False])
def test_a_copy_of_a_long_sound_is_embedded_once(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder, embedded: Callable[[], int], keep: bool
) -> None:
    config = BuildConfig(windows=True, duplicates=keep)
    (sounds / "m.wav").write_bytes((sounds / "long.wav").read_bytes())  # a copy in the same batch
    build_store([sounds], tmp_path / "store", embedder, config)
    (sounds / "n.wav").write_bytes((sounds / "long.wav").read_bytes())  # and one of what the store has
    report = build_store([sounds], tmp_path / "store", embedder, config)
    assert embedded() == 3
    with Store.open(tmp_path / "store") as store:
        if not keep:
            assert (len(store), [Path(uri).name for uri in report.duplicates]) == (5, ["m.wav", "n.wav"])
            return
        assert (len(store), report.added, report.reused) == (11, 3, 3)
        for name in ("m", "n"):
            copies = [item.replace("long", name) for item in LONG]
            np.testing.assert_array_equal(store.vectors(copies), store.vectors(LONG))
            assert [item.metadata for item in store.catalog.get(copies)] == [
                item.metadata for item in store.catalog.get(LONG)
            ]


def test_replacing_takes_away_windows_that_are_no_more(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder
) -> None:
    (sounds / "long.wav#t=x.wav").write_bytes((sounds / "short.wav").read_bytes())  # no window, whatever its name
    build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    write(sounds / "long.wav", 3, 4)
    with Store.open(tmp_path / "store") as store:
        others = {"sounds/short.wav", "sounds/words.txt#1", "sounds/long.wav#t=x.wav"}
        add_to_store(store, [sounds], embedder, WINDOWS, replace=True)
        assert {item.id for item in store.catalog} == others | set(LONG[:2])
        assert store.catalog.get(LONG[1:2])[0].metadata == {"start": 2.0, "end": 3.0}
        add_to_store(store, [sounds], embedder, replace=True)  # as a whole
        assert {item.id for item in store.catalog} == others | {"sounds/long.wav"}
        assert 1 - store.vectors(["sounds/long.wav"])[0] @ embedder.encode(onepeace.Audio(sounds / "long.wav")) < 1e-3
        add_to_store(store, [sounds], embedder, WINDOWS, replace=True)
        assert {item.id for item in store.catalog} == others | set(LONG[:2])


def test_windows_go_into_milvus_as_into_a_local_store(
    sounds: Path, tmp_path: Path, embedder: onepeace.Embedder, embedded: Callable[[], int]
) -> None:
    build_store([sounds], tmp_path / "store", embedder, WINDOWS)
    place = tmp_path / "store.db"
    embedded()
    for added in (5, 0):
        assert build_in_milvus([sounds], place, embedder, WINDOWS).added == added
    assert embedded() == 3
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "same.wav").write_bytes((sounds / "long.wav").read_bytes())
    report = build_in_milvus([tmp_path / "copies"], place, embedder, WINDOWS)
    assert (report.added, report.reused, embedded()) == (3, 3, 0)
    with Store.open(tmp_path / "store") as near, MilvusStore.open(place) as far:
        ids = [item.id for item in near.catalog]
        np.testing.assert_allclose(far.vectors_of(ids), near.vectors(ids), atol=1e-6)
        copies = [name.replace("sounds/long", "copies/same") for name in LONG]
        np.testing.assert_allclose(far.vectors_of(copies), near.vectors(LONG), atol=1e-6)
        write(sounds / "long.wav", 3, 3)
        add_to_store(far, [sounds], embedder, WINDOWS, replace=True)
        assert far.known([*LONG, *copies]).tolist() == [True, True, False, True, True, True]

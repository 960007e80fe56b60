"""Videos, PDFs and TIFFs of several pictures as items of a store: a frame, a stretch of sound, a page each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner, Result
from video_files import write_shots

import onepeace
from encoders.media import open_audio
from retrieval import (
    BuildConfig,
    Item,
    MilvusStore,
    Searcher,
    Store,
    add_to_store,
    build_in_milvus,
    build_store,
)
from retrieval.found import Failure, Ignored
from retrieval.gallery import GALLERY
from retrieval.hits import Hits
from retrieval.scan import scan
from retrieval.sequences import picture_of
from retrieval.table import embed_files

NAMES = ("head-lion-orange", "cup-coffee-wooden", "brown-violin")
RAIN = GALLERY / "sounds/rain-falling-steadily.ogg"
FRAMES = [f"films/clip.mp4#t={n}.0" for n in range(6)]
HEARD = "films/clip.mp4#t=0.0&track=audio"
PAGES = [f"films/deck.pdf#page={n}" for n in (1, 2, 3)]
CLIP = [*FRAMES, HEARD]


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load_embedder("onepeace-tiny", dtype="float32")


def picture(name: str) -> PIL.Image.Image:
    return PIL.Image.open(GALLERY / f"pictures/{name}.webp").convert("RGB").resize((256, 256))


def clip(path: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Two seconds of each picture, with rain all along."""
    rain = np.resize(open_audio(RAIN, 16_000), 2 * len(names) * 16_000)
    return write_shots(path, [(picture(name), 2) for name in names], rain)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals") / "films"
    folder.mkdir()
    clip(folder / "clip.mp4")
    first, *others = [picture(name) for name in NAMES]
    first.save(folder / "deck.pdf", save_all=True, append_images=others)
    picture(NAMES[0]).save(folder / "one.tif")
    picture(NAMES[1]).save(folder / "two.tif", save_all=True, append_images=[picture(NAMES[2])])
    return folder


@pytest.fixture
def films(originals: Path, tmp_path: Path) -> Path:
    """A video, a PDF of three pages, a TIFF of one picture and one of two."""
    folder = tmp_path / "films"
    folder.mkdir()
    for file in originals.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def embedded(model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Return the names of the sequences that were embedded since it was asked before."""
    names: list[str] = []
    real = model.encode_sequence

    def noting(source: Any, **options: Any) -> Any:
        names.append(Path(source.source).name)
        return real(source, **options)

    monkeypatch.setattr(model, "encode_sequence", noting)

    def since() -> list[str]:
        told = sorted(names)
        names.clear()
        return told

    return since


def items_of(store: Store) -> dict[str, Item]:
    return {item.id: item for item in store.catalog}


def test_a_scan_finds_them_and_a_tiff_of_one_picture_is_a_picture(films: Path) -> None:
    (films / ".hidden.mov").write_bytes(b"x")
    (films / "CLIP.WEBM").write_bytes(b"x")
    found = {Path(one.uri).name: one for one in scan([films], ("text", "image", "audio"))}
    kinds = {name: one.modality for name, one in found.items() if isinstance(one, Item)}
    assert kinds == {
        "CLIP.WEBM": "video",
        "clip.mp4": "video",
        "deck.pdf": "document",
        "one.tif": "image",
        "two.tif": "document",
    }
    assert found[".hidden.mov"] == Ignored(str(films / ".hidden.mov"))
    (failure,) = [one for one in scan([films / "clip.mp4"], ("text", "audio")) if isinstance(one, Failure)]
    assert failure.reason == "the model embeds text, audio, not image"


def test_each_frame_page_and_stretch_of_sound_is_an_item(films: Path, tmp_path: Path, model: onepeace.Embedder) -> None:
    report = build_store([films], tmp_path / "store", model)
    assert (report.added, report.failed, report.ignored) == (13, [], [])
    with Store.open(tmp_path / "store") as store:
        items = items_of(store)
        assert set(items) == {*CLIP, *PAGES, "films/one.tif", "films/two.tif#page=1", "films/two.tif#page=2"}
        uri = str(films / "clip.mp4")
        assert items[FRAMES[4]] == Item(FRAMES[4], "image", uri, {"start": 4.0, "end": 5.0})
        assert items[HEARD].modality == "audio"
        assert items[HEARD].metadata == {"start": 0.0, "end": pytest.approx(6.0, abs=0.2)}
        assert items[PAGES[2]] == Item(PAGES[2], "image", str(films / "deck.pdf"), {"page": 3})
        alone = model.encode_sequence(onepeace.Video(uri))
        rows = store.vectors([f"films/clip.mp4#t={s.start}" for s in alone.segments if s.modality == "image"])
        np.testing.assert_allclose(rows, [s.vector for s in alone.segments if s.modality == "image"], atol=1e-5)
        for name, number in (("one.tif", 0), ("two.tif#page=2", 2), ("deck.pdf#page=2", 1)):
            row = store.vectors([f"films/{name}"])[0]
            assert float(row @ model.encode(onepeace.Image(picture(NAMES[number])))) > 0.97


def test_a_hit_says_where_and_grouped_by_uri_a_file_is_found_once(
    films: Path, tmp_path: Path, model: onepeace.Embedder
) -> None:
    build_store([films], tmp_path / "store", model)
    with Store.open(tmp_path / "store") as store:
        searcher = Searcher(store, model)
        (best, *_) = searcher.search("a cup of coffee", 3, f"uri={films / 'clip.mp4'} and modality=image")
        assert 2 <= best.item.metadata["start"] < 4
        hits = searcher.search("a violin", 10, "modality=image", group_by="uri")
        assert [Path(hit.item.uri).name for hit in hits].count("clip.mp4") == 1
        assert {hit.item.id for hit in hits} >= {"films/deck.pdf#page=3", "films/two.tif#page=2"}
        assert next(hit for hit in hits if "clip" in hit.item.uri).item.metadata["start"] >= 4
        (heard,) = searcher.search(onepeace.Audio(RAIN), 1)
        assert heard.item.id == HEARD
        (late,) = searcher.search("a violin", 5, "start >= 5")
        assert late.item.id == FRAMES[5]


@pytest.fixture
def run(model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    from retrieval import cli, command_options, index_cli

    for module in (cli, command_options, index_cli):
        monkeypatch.setattr(module, "load_model", lambda name, device, dtype: model)
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: CliRunner().invoke(cli.app, [str(one) for one in arguments], prog_name="onepeace")


def test_the_command_line_shows_times_and_pages(run: Callable[..., Result], films: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (films / "torn.mp4").write_bytes((films / "clip.mp4").read_bytes()[:3_000])
    built = run("index", "build", films, "--fps", 0.5, "--store", store)
    assert (built.exit_code, built.stdout) == (3, f"added 10 items to {store}\n")
    assert len(built.stderr.splitlines()) == 2
    assert f"cannot read video '{films / 'torn.mp4'}': Invalid data found when processing input; " in built.stderr
    found = run("search", store, "--text", "a violin", "--group-by", "uri", "--where", "modality=image").stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in found.splitlines()]
    assert rows[0][-3:] == ["modality", "id", "place"]
    assert {tuple(row[-2:]) for row in rows[1:]} >= {
        ("films/clip.mp4#t=4.0", "0:04 to 0:06"),
        ("films/deck.pdf#page=3", "page 3"),
    }
    (hit,) = json.loads(run("search", store, "--text", "rain", "--where", "modality=audio", "--json").stdout)
    assert hit["metadata"]["start"] == 0
    assert hit["uri"] == str(films / "clip.mp4")
    like = run("search", store, "--like", films / "deck.pdf")
    assert "3 items came from it, say which: films/deck.pdf#page=1" in like.stderr
    asked = run("search", store, "--image", films / "clip.mp4")
    assert "clip.mp4 is a video: search with a picture or sound of it, or with --like and a part's id" in asked.stderr
    assert run("index", "build", films, "--fps", 0, "--store", store).exit_code == 2
    removed = run("index", "remove", store, films / "clip.mp4")
    assert removed.stdout == f"removed 4 items from {store}\n"


def test_what_is_not_installed_is_named_in_one_line(
    run: Callable[..., Result], films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval import sequences

    monkeypatch.setattr(sequences, "find_spec", lambda name: None)
    built = run("index", "build", films, "--store", tmp_path / "store")
    assert (built.exit_code, built.stdout) == (0, f"added 3 items to {tmp_path / 'store'}\n")
    assert built.stderr == (
        "2 videos and PDFs left out, as what reads them is not here (pip install 'onepeace[sequences]'): "
        f"{films / 'clip.mp4'}, {films / 'deck.pdf'}\n"
    )


def test_nothing_that_is_there_is_embedded_again(
    films: Path, tmp_path: Path, model: onepeace.Embedder, embedded: Callable[[], list[str]]
) -> None:
    build_store([films], tmp_path / "store", model)
    assert embedded() == ["clip.mp4", "deck.pdf", "two.tif"]
    report = build_store([films], tmp_path / "store", model)
    assert (report.added, report.present, report.changed, embedded()) == (0, 4, [], [])
    (films / "copy.mp4").write_bytes((films / "clip.mp4").read_bytes())
    report = build_store([films], tmp_path / "store", model)
    assert (report.added, report.reused, embedded()) == (7, 7, [])
    with Store.open(tmp_path / "store") as store:
        copies = [name.replace("clip", "copy") for name in CLIP]
        np.testing.assert_allclose(store.vectors(copies), store.vectors(CLIP), atol=1e-6)
        report = add_to_store(store, [films / "clip.mp4", films / "deck.pdf"], model)  # under other ids
        assert (report.added, report.present, embedded()) == (0, 2, [])
        store.delete([FRAMES[0], HEARD])
        report = add_to_store(store, [films], model)  # a video that lost its beginning gets it back
        assert (report.added, report.failed) == (2, [])
        assert store.catalog.get(FRAMES[:1])[0].metadata == {"start": 0.0, "end": 1.0}


def test_moved_changed_and_removed_files_are_found(films: Path, tmp_path: Path, model: onepeace.Embedder) -> None:
    build_store([films], tmp_path / "store", model)
    moved = films.rename(tmp_path / "elsewhere")
    (tmp_path / "at").mkdir()
    moved = moved.rename(tmp_path / "at" / "films")
    report = build_store([moved], tmp_path / "store", model)
    assert (report.added, report.present, report.changed, report.conflicts) == (0, 4, [], [])
    moved = moved.rename(films)
    clip(films / "clip.mp4", NAMES[:2])
    (films / "deck.pdf").unlink()
    report = build_store([films], tmp_path / "store", model)
    assert (report.added, report.changed, sorted(report.gone)) == (0, [str(films / "clip.mp4")], PAGES)
    with Store.open(tmp_path / "store") as store:
        report = add_to_store(store, [films], model, replace=True)
        left = {name for name in items_of(store) if "clip" in name}
        assert left == {*FRAMES[:4], HEARD}
        assert add_to_store(store, [films], model).changed == []


def test_replacing_cuts_anew(films: Path, tmp_path: Path, model: onepeace.Embedder) -> None:
    build_store([films], tmp_path / "store", model)
    with Store.open(tmp_path / "store") as store:
        slower = BuildConfig(fps=0.5)
        report = add_to_store(store, [films], model, slower)  # stays as it is
        assert (report.added, report.present, report.changed) == (0, 4, [])
        add_to_store(store, [films], model, slower, replace=True)
        assert {name for name in items_of(store) if "clip" in name} == {*FRAMES[::2], HEARD}
        add_to_store(store, [films], model, BuildConfig(scenes=True), replace=True)
        scenes = [item for item in items_of(store).values() if "clip" in item.id and item.modality == "image"]
        assert [(item.metadata["start"], item.metadata["end"]) for item in scenes] == [(0, 2), (2, 4), (4, 6)]
        picture(NAMES[0]).save(films / "two.tif")  # one picture from now on
        add_to_store(store, [films], model, replace=True)
        assert {name for name in items_of(store) if "two" in name} == {"films/two.tif"}


def test_a_copy_that_is_cut_otherwise_is_embedded_and_one_cut_alike_is_not(
    films: Path, tmp_path: Path, model: onepeace.Embedder, embedded: Callable[[], list[str]]
) -> None:
    build_store([films / "clip.mp4"], tmp_path / "store", model)
    (films / "other.mp4").write_bytes((films / "clip.mp4").read_bytes())
    assert embedded() == ["clip.mp4"]
    report = build_store([films / "other.mp4"], tmp_path / "store", model, BuildConfig(fps=2))
    assert (report.added, report.reused, embedded()) == (13, 0, ["other.mp4"])
    (films / "third.mp4").write_bytes((films / "clip.mp4").read_bytes())
    report = build_store([films / "third.mp4"], tmp_path / "store", model, BuildConfig(fps=2))
    assert (report.added, report.reused, embedded()) == (13, 13, [])


def test_a_picture_of_an_older_store_stays_when_its_tiff_has_several(
    films: Path, tmp_path: Path, model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:  # as releases did that knew no documents
        before.setattr("retrieval.scan.sequence_kind", lambda path: None)
        build_store([films / "two.tif"], tmp_path / "store", model)
    report = build_store([films / "two.tif"], tmp_path / "store", model)
    assert (report.added, report.present, report.changed) == (0, 1, [])
    with Store.open(tmp_path / "store") as store:
        add_to_store(store, [films / "two.tif"], model, replace=True)
        assert set(items_of(store)) == {"two.tif#page=1", "two.tif#page=2"}


def test_a_damaged_video_is_one_failure_and_leaves_nothing(
    films: Path, tmp_path: Path, model: onepeace.Embedder
) -> None:
    content = bytearray((films / "clip.mp4").read_bytes())
    (films / "copy.mp4").write_bytes(content[: len(content) // 2])
    (films / "empty.pdf").write_bytes(b"")
    (films / "words.webm").write_text("no video")
    report = build_store([films], tmp_path / "store", model)
    assert [Path(failure.uri).name for failure in report.failed] == ["copy.mp4", "empty.pdf", "words.webm"]
    assert all(failure.reason.startswith("cannot read ") for failure in report.failed)
    assert report.added == 13
    with Store.open(tmp_path / "store") as store:
        assert {Path(item.uri).name for item in store.catalog} == {"clip.mp4", "deck.pdf", "one.tif", "two.tif"}


def test_an_interrupted_build_has_whole_files_and_goes_on(
    films: Path, tmp_path: Path, model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = model.encode_many, []

    def interrupted(inputs: Any, **options: Any) -> Any:
        asked.append(len(inputs))
        if len(asked) == 3:  # the picture, the video's frames, and then the deck
            raise KeyboardInterrupt
        return real(inputs, **options)

    monkeypatch.setattr(model, "encode_many", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_store([films], tmp_path / "store", model)
    with Store.open(tmp_path / "store") as store:
        assert set(items_of(store)) == {"films/one.tif", *CLIP}
    assert build_store([films], tmp_path / "store", model).added == 5


def test_milvus_takes_them_as_a_local_store_does(
    films: Path, tmp_path: Path, model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("milvus_lite")
    from retrieval import milvus

    monkeypatch.setattr(milvus, "ROWS_AT_ONCE", 3)  # a file comes in several requests
    build_store([films], tmp_path / "store", model)
    place = tmp_path / "my.db"
    assert build_in_milvus([films], place, model).added == 13
    (films / "copy.mp4").write_bytes((films / "clip.mp4").read_bytes())
    report = build_in_milvus([films], place, model)
    assert (report.added, report.reused, report.present) == (7, 7, 4)
    with Store.open(tmp_path / "store") as near, MilvusStore.open(place) as far:
        ids = list(items_of(near))
        np.testing.assert_allclose(far.vectors_of(ids), near.vectors(ids), atol=1e-6)
        hits = [Searcher(store, model).search("a violin", 3, group_by="uri") for store in (near, far)]
        assert {hit.item.id for hit in hits[0]} <= {hit.item.id for hit in hits[1]} | {"films/clip.mp4#t=4.0"}
        add_to_store(far, [films / "clip.mp4"], model, BuildConfig(fps=0.5), replace=True)
        (films / "deck.pdf").unlink()
        assert sorted(add_to_store(far, [films], model).gone) == PAGES
        upserts: list[list[str]] = []
        real = far._client.upsert

        def failing(collection: str, rows: Any, **options: Any) -> Any:
            upserts.append([row["id"] for row in rows])
            if len(upserts) == 2:
                raise RuntimeError("the server went")
            return real(collection, rows, **options)

        (films / "new.mp4").write_bytes(clip(tmp_path / "new.mp4", NAMES[::-1]).read_bytes())
        with monkeypatch.context() as broken:
            broken.setattr(far._client, "upsert", failing)
            with pytest.raises(Exception, match="the server went"):
                add_to_store(far, [films], model)
        report = add_to_store(far, [films], model)  # what came halfway is completed
        assert report.added + len(upserts[0]) == 7
        assert far.known([name.replace("clip", "new") for name in CLIP]).all()


def test_a_table_of_vectors_brings_them_into_a_store(films: Path, tmp_path: Path, model: onepeace.Embedder) -> None:
    assert embed_files([films], tmp_path / "films.parquet", model).added == 13
    build_store([tmp_path / "films.parquet"], tmp_path / "store", None)
    with Store.open(tmp_path / "store") as store:
        (hit,) = Searcher(store, model).search("a violin", 1, f"uri={films / 'deck.pdf'}")
        assert hit.item.id == PAGES[2]
        assert picture_of(hit.item) is not None


def test_a_part_is_shown_as_the_picture_that_was_embedded(
    films: Path, tmp_path: Path, model: onepeace.Embedder
) -> None:
    build_store([films], tmp_path / "store", model, BuildConfig(scenes=True))
    with Store.open(tmp_path / "store") as store:
        searcher = Searcher(store, model)
        hits = Hits(searcher.search("a violin", 10))
        shown = hits._repr_html_()
        assert shown.count("<img") == 9  # three scenes, five pages, a picture
        assert shown.count("<audio") == 1
        assert "films/deck.pdf#page=3<br>page 3" in shown
        assert "films/clip.mp4#t=4.0<br>0:04 to 0:06" in shown
        assert "films/clip.mp4#t=4.0  0:04 to 0:06" in repr(hits)
        for item in store.catalog:
            seen = picture_of(item)
            if item.modality == "audio" or item.id == "films/one.tif":
                assert seen is None
            else:
                assert seen is not None
                row = store.vectors([item.id])[0]
                assert float(row @ model.encode(onepeace.Image(seen))) > 0.98
        (films / "deck.pdf").unlink()
        assert "cannot read document" in Hits(searcher.search("a violin", 10))._repr_html_()

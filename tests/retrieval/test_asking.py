"""Asking videos and documents of a store: the answers of the same sequences, embedded anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import onepeace
from retrieval import ModelTag, Searcher, Store, build_store
from retrieval.asking import in_order
from retrieval.catalog import Item
from retrieval.cli import app

GALLERY = Path(__file__).resolve().parents[2] / "retrieval" / "gallery"
DECKS = {
    "animals": ["face-tabby-cat", "bee-drawn-black", "back-human-eye"],
    "things": ["bassoon", "wall-grey-bricks", "melting-ice-cube", "astronaut-orange-space"],
}


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load_embedder("onepeace-tiny", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decks")
    for name, pictures in DECKS.items():
        pages = [Image.open(GALLERY / "pictures" / f"{picture}.webp").convert("RGB") for picture in pictures]
        pages[0].save(folder / f"{name}.tiff", save_all=True, append_images=pages[1:])
    (folder / "photo.webp").write_bytes((GALLERY / "pictures" / "bassoon.webp").read_bytes())
    return folder


@pytest.fixture(scope="module")
def store(folder: Path, model: onepeace.Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    place = tmp_path_factory.mktemp("store") / "decks"
    build_store([folder], place, model, show_progress_bar=False)
    with Store.open(place) as store:
        yield store


@pytest.mark.parametrize("text", ["what is on page 2?", "a cat", "what comes after the cat?", "bricks, then ice"])
def test_a_store_answers_as_its_files_do(text: str, store: Store, folder: Path, model: onepeace.Embedder) -> None:
    hits = Searcher(store, model).ask(text)
    answers = {
        f"{folder.name}/{name}.tiff#page={answer.segment.page}": answer.match
        for name in DECKS
        for answer in [model.ask(text, model.encode_sequence(onepeace.Pages(folder / f"{name}.tiff")))]
    }
    assert [hit.item.id for hit in hits] == sorted(answers, key=lambda id_: -answers[id_])
    for hit in hits:
        assert hit.score == pytest.approx(answers[hit.item.id], abs=1e-2)
    assert [hit.rank for hit in hits] == [1, 2]


def test_a_filter_chooses_the_files(store: Store, model: onepeace.Embedder) -> None:
    (hit,) = Searcher(store, model).ask("what is on page 3?", where="uri ~ *things*")
    assert hit.item.id.endswith("things.tiff#page=3")
    assert Searcher(store, model).ask("a bassoon", where="uri ~ *photo*") == []  # a picture is no sequence


def test_files_are_found_among_many_pictures_and_texts_that_are_nearer(
    store: Store, model: onepeace.Embedder, tmp_path: Path
) -> None:
    text, count = "a cat", 30
    notes = [Item(f"note {n}", "text", f"notes.txt#{n}", {"text": text}) for n in range(count)]
    rows_ND = np.repeat(model.encode([text]), count, axis=0)
    parts = store.current.select("page>=1")
    with Store.create(tmp_path / "mixed", notes, rows_ND, model=ModelTag.of(model)) as mixed:
        wanted = Searcher(store, model).ask(text)
        assert Searcher(mixed, model).ask(text) == []  # there is no file of parts
        mixed.add(store.current.items(parts), store.current.vectors_at(parts))
        assert Searcher(mixed, model).ask(text) == wanted
        (second,) = Searcher(mixed, model).ask(text, where="uri ~ *things*")
        assert second.item.uri.endswith("things.tiff")


def test_files_that_do_not_have_what_is_meant_are_left_out(store: Store, model: onepeace.Embedder) -> None:
    hits = Searcher(store, model).ask("what is on page 4?")  # the other has three
    assert [(hit.item.uri.rpartition("/")[2], hit.item.metadata["page"]) for hit in hits] == [("things.tiff", 4)]
    assert Searcher(store, model).ask("what is on page 12?") == []


def test_parts_are_in_the_order_of_their_sequence() -> None:
    frames = [Item(f"a.mp4#t={t}", "image", "a.mp4", {"start": t, "end": t + 1.0}) for t in (10.0, 2.0)]
    sound = Item("a.mp4#t=2.0&track=audio", "audio", "a.mp4", {"start": 2.0, "end": 12.0})
    assert in_order([frames[0], sound, frames[1], Item("a.png", "image", "a.png")]) == [2, 1, 0]


def test_on_the_command_line(store: Store, model: onepeace.Embedder) -> None:
    result = CliRunner().invoke(app, ["search", str(store.folder), "--ask", "a bassoon", "--top", "1"])
    assert result.exit_code == 0
    assert "things.tiff#page=1" in result.stdout
    as_json = CliRunner().invoke(app, ["search", str(store.folder), "--ask", "a bassoon", "--top", "1", "--json"])
    (told,) = json.loads(as_json.stdout)
    (hit,) = Searcher(store, model).ask("a bassoon", 1)
    assert told["probability"] == pytest.approx(hit.probability, abs=1e-6)
    assert " fit " in result.stdout.splitlines()[0]
    assert re.search(rf"\bsure\b.*\b{hit.probability:.0%}", result.stdout, re.DOTALL)
    refused = CliRunner().invoke(app, ["search", str(store.folder), "--ask", "a cat", "--text", "a dog"])
    assert refused.exit_code == 1
    assert "--ask stands alone" in refused.output


def test_a_store_of_pictures_alone_cannot_be_asked(tmp_path: Path, model: onepeace.Embedder) -> None:
    build_store([GALLERY / "pictures" / "bassoon.webp"], tmp_path / "pictures", model)
    refused = CliRunner().invoke(app, ["search", str(tmp_path / "pictures"), "--ask", "what is on page 2?"])
    assert refused.exit_code == 1
    assert "holds no videos, documents or cut sounds to ask: search it with --text" in " ".join(refused.output.split())


def test_a_searcher_without_a_model_is_told(store: Store) -> None:
    with pytest.raises(ValueError, match="no model that asks"):
        Searcher(store).ask("a cat")

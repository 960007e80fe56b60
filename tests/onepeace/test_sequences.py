"""Sequences: their items are what `encode` gives, stand where the media say, and are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from video_files import solid, write_shots, write_sound, write_video

import onepeace
from encoders.video import video_frames
from onepeace.clock import clock
from onepeace.sequences import Segment
from retrieval.gallery import GALLERY

NAMES = ("head-lion-orange", "cup-coffee-wooden", "brown-violin")


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load_embedder("onepeace-tiny", dtype="float32")


def picture(name: str) -> PIL.Image.Image:
    return PIL.Image.open(GALLERY / f"pictures/{name}.webp").convert("RGB").resize((256, 256))


def same(rows: Any, others: Any) -> None:
    np.testing.assert_allclose(np.sum(np.asarray(rows) * np.asarray(others), axis=-1), 1.0, atol=1e-5)


def test_an_album_is_its_items_in_order_and_their_mean(model: onepeace.Embedder) -> None:
    items = [picture(NAMES[0]), "the sound of rain", onepeace.Audio(GALLERY / "sounds/rain-falling-steadily.ogg")]
    album = model.encode_sequence(onepeace.Sequence(items))
    rows = model.encode(items)
    same(album.vectors, rows)
    same(album.vector, rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)))
    assert [(s.number, s.modality, s.place) for s in album.segments] == [
        (1, "image", "item 1"),
        (2, "text", "item 2"),
        (3, "audio", "item 3"),
    ]


def test_a_sequence_of_one_is_its_item(model: onepeace.Embedder) -> None:
    same(model.encode_sequence(onepeace.Sequence([picture(NAMES[0])])).vector, model.encode(picture(NAMES[0])))


def film(path: Path, sound: np.ndarray | None) -> Path:
    """Write pictures of the gallery, 3 s each, with a sound track of 16 kHz if there is one."""
    return write_shots(path, [(picture(name), 3) for name in NAMES], sound)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_is_its_frames_and_its_sound_with_their_times(
    suffix: str, tmp_path: Path, model: onepeace.Embedder
) -> None:
    rain = GALLERY / "sounds/rain-falling-steadily.ogg"
    from encoders.media import open_audio

    path = film(tmp_path / f"film{suffix}", np.resize(open_audio(rain, 16_000), 9 * 16_000))
    clip = model.encode_sequence(onepeace.Video(path))
    frames = [segment for segment in clip.segments if segment.modality == "image"]
    assert [(round(s.start or 0), round(s.end or 0)) for s in frames] == [(n, n + 1) for n in range(9)]
    same(
        [s.vector for s in frames],
        model.encode([onepeace.Image(frame.picture) for frame in video_frames(onepeace.Video(path))]),
    )
    (heard,) = (segment for segment in clip.segments if segment.modality == "audio")
    assert heard.start == 0
    assert heard.end == pytest.approx(9, abs=0.2)
    assert float(heard.vector @ model.encode(onepeace.Audio(rain))) > 0.9
    for number, words in enumerate(("a lion", "a cup of coffee", "a violin")):
        start = clip.nearest(model.encode(words)).start
        assert start is not None
        assert 3 * number <= start < 3 * number + 3
    silent = model.encode_sequence(onepeace.Video(path, fps=None, sound=False))
    assert [(round(s.start or 0), round(s.end or 0)) for s in silent.segments] == [(0, 3), (3, 6), (6, 9)]


def test_a_video_file_with_sound_alone_is_a_sound(tmp_path: Path, model: onepeace.Embedder) -> None:
    path = write_sound(tmp_path / "a.mp4")
    (segment,) = model.encode_sequence(onepeace.Video(path)).segments
    assert segment.modality == "audio"
    same(segment.vector, model.encode(onepeace.Audio(path)))
    with pytest.raises(onepeace.MediaError, match="neither pictures nor sound"):
        model.encode_sequence(onepeace.Video(path, sound=False))


def test_a_long_sound_is_its_windows(model: onepeace.Embedder) -> None:
    noise = onepeace.Audio(np.random.default_rng(0).normal(scale=0.1, size=16_000 * 25), sampling_rate=16_000)
    heard = model.encode_sequence(noise)
    assert [(s.start, s.end) for s in heard.segments] == [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    same(heard.vectors, [window.vector for window in model.encode_windows(noise)])


def test_a_documents_items_are_its_pages(tmp_path: Path, model: onepeace.Embedder) -> None:
    pages = [picture(name) for name in NAMES]
    pages[0].save(tmp_path / "slides.pdf", save_all=True, append_images=pages[1:])
    slides = model.encode_sequence(onepeace.Pages(tmp_path / "slides.pdf"))
    assert [s.place for s in slides.segments] == ["page 1", "page 2", "page 3"]
    assert slides.nearest(model.encode("a violin")).page == 3


def test_memory_does_not_grow_with_the_length_of_a_video(
    tmp_path: Path, model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "long.mp4", [solid((n, n, n)) for n in range(130)], np.arange(130) / 10)
    most = []
    encode = model.encode_many

    def counted(inputs: list[Any], **options: Any) -> Any:
        most.append(len(inputs))
        return encode(inputs, **options)

    monkeypatch.setattr(model, "encode_many", counted)
    assert len(model.encode_sequence(onepeace.Video(path, fps=10))) == 130
    assert most == [64, 64, 2]


@pytest.mark.parametrize(
    ("items", "error", "reason"),
    [
        ([], ValueError, "at least one item"),
        (["a", 3], TypeError, "item 2: cannot embed int"),
        (["a", onepeace.Compose("a", "b")], TypeError, "item 2 is a Compose"),
    ],
)
def test_what_is_no_sequence_is_refused(items: list[Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        onepeace.Sequence(items)


def test_a_video_is_no_single_input_and_a_picture_no_sequence(model: onepeace.Embedder) -> None:
    with pytest.raises(TypeError, match="Video has many items: give it to encode_sequence"):
        model.encode(onepeace.Video("a.mp4"))
    with pytest.raises(TypeError, match="cannot read Image as a sequence"):
        model.encode_sequence(onepeace.Image("a.jpg"))  # type: ignore[arg-type]
    with pytest.raises(onepeace.MediaError, match=r"^item 71: .*gone\.jpg"):
        model.encode_sequence(onepeace.Sequence([*["a"] * 70, onepeace.Image("gone.jpg")]))


def test_items_are_whole_vectors_where_encode_shortens_its_own(
    model: onepeace.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "truncate_dim", 64)
    assert model.encode("a").shape == (64,)
    assert model.encode_sequence(onepeace.Sequence(["a", "b"])).vectors.shape == (2, 512)


def test_places_are_told_as_players_write_them() -> None:
    row = np.ones(1, np.float32)
    assert Segment(3, "image", row, start=3_599.96, end=3_725.5).place == "1:00:00 to 1:02:05.5"
    assert clock(59.96) == "1:00"

"""Videos made here, with known pictures at known times: which frames come out, how they stand, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from video_files import solid, write_sound, write_video

from encoders.media import Limits, MediaError
from encoders.video import Frame, Video, frame_at, video_frames

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
Shown = list[tuple[float, float, str]]


def colour(frame: Frame) -> str:
    pixel = np.asarray(frame.picture)[3, 3]
    return ("red", "green", "blue")[int(pixel.argmax())]


def told(video: Video) -> Shown:
    return [(round(f.start, 3), round(f.end, 3), colour(f)) for f in video_frames(video)]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 s red, 1.5 s green, 1 s blue, ten frames a second."""
    pictures = [solid(RED)] * 10 + [solid(GREEN)] * 15 + [solid(BLUE)] * 10
    return write_video(tmp_path_factory.mktemp("videos") / "steady.mp4", pictures, np.arange(35) / 10)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames at uneven distances, as screen recorders write them."""
    path = tmp_path_factory.mktemp("videos") / "uneven.mkv"
    return write_video(path, [solid(RED), solid(GREEN), solid(BLUE)], [0, 0.3, 4.2])


def test_frames_are_those_that_a_player_shows_at_even_times(steady: Path) -> None:
    assert told(Video(steady)) == [(0, 1, "red"), (1, 2, "green"), (2, 3, "green"), (3, 3.5, "blue")]
    half = told(Video(steady, fps=2))
    assert [name for *_, name in half] == ["red"] * 2 + ["green"] * 3 + ["blue"] * 2
    assert [start for start, *_ in half] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert told(Video(steady, fps=0.1)) == [(0, 3.5, "red")]


def test_frames_at_uneven_distances_stand_for_the_time_that_they_are_shown(uneven: Path) -> None:
    assert [name for *_, name in told(Video(uneven))] == ["red", "green", "green", "green", "green"]
    assert [name for *_, name in told(Video(uneven, fps=4))][:4] == ["red", "red", "green", "green"]


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".webm", "libvpx")])
def test_the_picture_of_a_time_is_that_of_the_frames(suffix: str, codec: str, tmp_path: Path) -> None:
    rising = [solid((n, 255 - n, 2 * n % 255)) for n in range(0, 240, 2)]
    path = write_video(tmp_path / f"a{suffix}", rising, 5 + np.arange(120) / 10, codec)  # its first time is not 0
    frames = list(video_frames(Video(path, fps=3)))
    assert len(frames) == 36
    for frame in frames[::-5]:
        np.testing.assert_array_equal(frame_at(Video(path), frame.start), frame.picture)
    np.testing.assert_array_equal(frame_at(Video(path), 99.0), frame_at(Video(path), 11.95))  # behind the end: the last


def test_a_scene_is_one_frame_and_its_stretch(steady: Path) -> None:
    assert told(Video(steady, fps=None)) == [(0, 1, "red"), (1, 2.5, "green"), (2.5, 3.5, "blue")]


def test_the_frame_of_a_scene_is_from_its_middle(tmp_path: Path) -> None:
    rising = [solid((40 + n, 40 + n, 40 + n)) for n in range(100)]
    path = write_video(tmp_path / "slow.mp4", rising, np.arange(100) / 10)
    (frame,) = video_frames(Video(path, fps=None))
    assert (frame.start, round(frame.end, 1)) == (0, 10.0)
    assert np.asarray(frame.picture).mean() == pytest.approx(90, abs=12)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_every_container_is_read_from_a_path_from_bytes_and_from_a_file(
    suffix: str, codec: str, tmp_path: Path
) -> None:
    pictures = [solid(RED)] * 10 + [solid(BLUE)] * 10
    path = write_video(tmp_path / f"a{suffix}", pictures, np.arange(20) / 10, codec)
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert [name for *_, name in told(Video(source))] == ["red", "blue"]


def turned(content: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Write into an mp4 how its track is turned (ISO 14496-12, track header: nine numbers of 16.16 and 2.30 bits)."""
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return content[:place] + b"".join(n.to_bytes(4, "big", signed=True) for n in numbers) + content[place + 36 :]


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), 1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 3)],
    ids=["upright", "a quarter clockwise", "upside down", "a quarter back"],
)
def test_a_turned_video_stands_upright(matrix: tuple[int, int, int, int], corner: int, tmp_path: Path) -> None:
    """The red corner of the stored pictures, top left, is where the matrix says that it is shown."""
    pixels = solid(BLUE)
    pixels[:32, :48] = RED
    path = write_video(tmp_path / "a.mp4", [pixels] * 5, np.arange(5) / 10)
    (frame,) = video_frames(Video(turned(path.read_bytes(), matrix)))
    shown = np.asarray(frame.picture)
    assert shown.shape[:2] == ((64, 96) if corner % 2 == 0 else (96, 64))
    height, width = shown.shape[:2]
    corners = [shown[3, 3], shown[3, width - 4], shown[height - 4, width - 4], shown[height - 4, 3]]
    assert [int(pixel[0]) > 150 for pixel in corners] == [place == corner for place in range(4)]


def test_large_pictures_come_out_small_in_their_shape(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", [solid(GREEN, 7680, 4320)] * 2, [0, 0.1], "mpeg4")
    (frame,) = video_frames(Video(path))
    assert (frame.picture.size, colour(frame)) == ((512, 288), "green")


def test_a_file_with_sound_alone_has_no_frames(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="it holds no pictures"):
        frame_at(Video(write_sound(tmp_path / "b.mp4")), 0.0)
    assert list(video_frames(Video(write_sound(tmp_path / "a.mp4")))) == []


def test_what_is_cut_short_is_refused(steady: Path, uneven: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), dtype=np.uint8)
    long = write_video(tmp_path / "long.mkv", noise, np.arange(40) / 10, "mpeg4").read_bytes()
    for content in (steady.read_bytes(), uneven.read_bytes(), long):
        for share in (0.05, 0.5, 0.8):
            with pytest.raises(MediaError, match=r"^cannot read video <[\d,]+ bytes>: "):
                list(video_frames(Video(content[: int(share * len(content))])))


@pytest.mark.parametrize(
    ("source", "limits", "reason"),
    [
        (b"", Limits(), "it is empty"),
        (b"a text that is no video", Limits(), "it is no mp4, mov, mkv or webm"),
        ("gone.mp4", Limits(), "No such file"),
        ("https://example.org/a.mp4", Limits(), "remote fetch is off"),
        (None, Limits(max_pixels=96 * 64 - 1), "96 x 64 is more than the limit"),
        (None, Limits(max_seconds=2), "longer than the limit of 2 s"),
        (None, Limits(max_bytes=100), "larger than the limit"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_reason(
    source: bytes | str | None, limits: Limits, reason: str, steady: Path
) -> None:
    with pytest.raises(MediaError, match=reason):
        list(video_frames(Video(steady if source is None else source), limits))


def test_a_rate_that_takes_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="fps must be positive"):
        Video("a.mp4", fps=0)
    assert repr(Video("a.mp4", fps=None, sound=False)) == "Video('a.mp4', fps=None, sound=False)"

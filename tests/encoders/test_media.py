"""Opening pictures, sounds and texts: every form they come in, and every way they can be broken."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.media import Audio, Image, Limits, MediaError, Text, media_kind, open_audio, open_image, open_text

RGB = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
SINE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)


def encode(pixels: np.ndarray | PIL.Image.Image, suffix: str = "png", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    file = BytesIO()
    image.save(file, format=suffix, **options)
    return file.getvalue()


def pixels_of(source: Any, **options: Any) -> np.ndarray:
    image = open_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    """A PNG written by hand, for what PIL does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def sound(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def m4a(samples: np.ndarray, rate: int, container: str = "mp4") -> bytes:
    av = pytest.importorskip("av")
    file = BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream("aac", rate=rate, layout="mono")
        for start in range(0, len(samples), 1024):
            block = np.ascontiguousarray(samples[None, start : start + 1024], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


class TestPictures:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
    def test_a_lossless_file_gives_its_pixels(self, suffix: str) -> None:
        options = {"lossless": True} if suffix == "webp" else {}
        np.testing.assert_array_equal(pixels_of(encode(RGB, suffix, **options)), RGB)

    def test_a_jpeg_gives_nearly_its_pixels(self) -> None:
        smooth = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
        assert np.abs(pixels_of(encode(smooth, "jpeg", quality=95)).astype(int) - smooth).max() <= 4

    def test_every_source_of_the_same_picture_gives_the_same_pixels(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.png"
        path.write_bytes(data := encode(RGB))
        sources: list[Any] = [str(path), path, data, bytearray(data), memoryview(data), BytesIO(data), RGB]
        sources += [
            PIL.Image.open(path),
            PIL.Image.fromarray(RGB),
            Image(path),
            RGB / 255,
            RGB.astype(np.float32) / 255,
        ]
        sources += [torch.from_numpy(RGB).permute(2, 0, 1), torch.from_numpy(RGB).permute(2, 0, 1) / 255]
        sources += [torch.from_numpy(RGB), torch.from_numpy(RGB) / 255]
        sources += [{"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": str(path)}]
        with path.open("rb") as file:
            for source in [*sources, file, file]:
                np.testing.assert_array_equal(pixels_of(source), RGB, err_msg=repr(source))

    @pytest.mark.parametrize("suffix", ["png", "tiff"])
    def test_black_and_white(self, suffix: str) -> None:
        bits = GREY > 127
        expected = np.where(bits, 255, 0)[:, :, None].repeat(3, 2)
        np.testing.assert_array_equal(pixels_of(encode(PIL.Image.fromarray(bits), suffix)), expected)
        np.testing.assert_array_equal(pixels_of(bits), expected)

    @pytest.mark.parametrize("suffix", ["png", "tiff"])
    def test_16_bits_are_scaled_and_not_clipped(self, suffix: str) -> None:
        values = np.linspace(0, 65_535, 240).astype(np.uint16).reshape(12, 20)
        for source in (encode(PIL.Image.fromarray(values), suffix), values):
            assert np.abs(pixels_of(source)[:, :, 0] - values * (255 / 65_535)).max() <= 0.5 + 1e-9

    def test_16_bit_colours_are_scaled(self) -> None:
        values = (RGB.astype(">u2") * 257).tobytes()
        rows = b"".join(b"\0" + values[start : start + 120] for start in range(0, len(values), 120))
        np.testing.assert_array_equal(pixels_of(png(20, 12, depth=16, colour=2, data=rows)), RGB)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (np.float32([[0, 0.25, 1]]), [0, 64, 255]),
            (np.float32([[0, 128, 255]]), [0, 128, 255]),
            (np.float32([[-3, 0, 3]]), [0, 128, 255]),
            (np.float32([[7e4, 7e4, 7e4]]), [0, 0, 0]),
            (np.int32([[0, 128, 255]]), [0, 128, 255]),
            (np.int32([[0, 257 * 128, 65_535]]), [0, 128, 255]),
            (np.int32([[-(2**31), 0, 2**31 - 1]]), [0, 128, 255]),
        ],
    )
    def test_32_bit_files_are_brought_to_range(self, values: np.ndarray, expected: list[int]) -> None:
        np.testing.assert_array_equal(pixels_of(encode(values, "tiff"))[0, :, 0], expected)

    @pytest.mark.parametrize("suffix", ["tiff", "jpeg"])
    def test_cmyk_becomes_rgb(self, suffix: str) -> None:
        ink = PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        options = {"quality": 100} if suffix == "jpeg" else {}
        assert np.abs(pixels_of(encode(ink, suffix, **options)).astype(int) - [255, 0, 0]).max() <= 3

    def test_transparency_lies_over_white(self) -> None:
        alpha = np.random.default_rng(1).integers(0, 256, (12, 20, 1), dtype=np.uint8)
        rgba = np.concatenate([RGB, alpha], axis=2)
        expected = RGB * (alpha / 255) + 255 * (1 - alpha / 255)
        for source in (encode(rgba), encode(rgba, "webp", lossless=True, exact=True), encode(rgba, "tiff"), rgba):
            assert np.abs(pixels_of(source) - expected).max() <= 1
        la = PIL.Image.fromarray(rgba).convert("LA")
        grey = np.asarray(la.getchannel("L"))[:, :, None]
        assert np.abs(pixels_of(encode(la)) - (grey * (alpha / 255) + 255 * (1 - alpha / 255))).max() <= 1

    def test_a_transparent_palette_colour_becomes_white(self) -> None:
        image = PIL.Image.new("P", (2, 1))
        image.putpalette([200, 0, 0, 0, 0, 200])
        image.putpixel((1, 0), 1)
        for transparency in (0, bytes([0, 255])):
            file = encode(image, "png", transparency=transparency)
            np.testing.assert_array_equal(pixels_of(file)[0], [[255, 255, 255], [0, 0, 200]])
        np.testing.assert_array_equal(pixels_of(encode(image, "gif", transparency=0))[0, 0], [255, 255, 255])
        np.testing.assert_array_equal(pixels_of(encode(image))[0], [[200, 0, 0], [0, 0, 200]])

    @pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
    def test_an_animation_gives_its_first_frame(self, suffix: str) -> None:
        first, second = PIL.Image.new("RGB", (8, 8), (200, 0, 0)), PIL.Image.new("RGB", (8, 8), (0, 0, 200))
        options = {"lossless": True} if suffix == "webp" else {}
        file = encode(first, suffix, save_all=True, append_images=[second], **options)
        assert getattr(PIL.Image.open(BytesIO(file)), "n_frames", 1) == 2
        assert (pixels_of(file) == [200, 0, 0]).all()

    @pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "tiff"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_turned_picture_is_put_upright_once(self, suffix: str, orientation: int) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        file = encode(RGB, suffix, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        upright = PIL.ImageOps.exif_transpose(PIL.Image.open(BytesIO(file)))
        for source in (file, PIL.Image.open(BytesIO(file)), open_image(file)):
            np.testing.assert_array_equal(pixels_of(source), np.asarray(upright))
        if suffix != "jpeg":
            assert sorted(pixels_of(file).ravel()) == sorted(RGB.ravel())

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_both_byte_orders_of_orientation_are_read(self, order: str) -> None:
        tiff = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, 2)
        tiff += struct.pack(f"{order}HHII", 0x0100, 4, 1, 20) + struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 3, 0)
        file = encode(RGB, "png", exif=b"Exif\0\0" + tiff)
        np.testing.assert_array_equal(pixels_of(file), RGB[::-1, ::-1])

    @pytest.mark.parametrize(
        "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12", b"II*\0\xff\xff\xff\xff"]
    )
    def test_broken_exif_is_passed_over(self, exif: bytes) -> None:
        assert pixels_of(encode(RGB, "jpeg", exif=exif)).shape == RGB.shape

    def test_the_smallest_and_the_widest_picture_are_read(self) -> None:
        assert pixels_of(encode(RGB[:1, :1])).tolist() == RGB[:1, :1].tolist()
        assert pixels_of(png(30_000, 1, depth=8, colour=0, data=bytes(30_001))).shape == (1, 30_000, 3)

    def test_a_draft_is_smaller_than_the_picture_and_no_smaller_than_asked(self) -> None:
        file = encode(PIL.Image.new("RGB", (1_600, 800)), "jpeg")
        assert open_image(file, draft_size=256).size == (800, 400)
        assert open_image(file).size == (1_600, 800)

    def test_90_million_pixels_are_read_without_a_warning(self) -> None:
        file = encode(PIL.Image.new("L", (10_000, 9_000)), "jpeg")
        assert open_image(file, draft_size=1_000).size == (1_250, 1_125)

    def test_too_many_pixels_are_refused_from_the_header(self) -> None:
        bomb = png(50_000, 50_000, depth=8, colour=2, data=b"")
        with pytest.raises(MediaError, match="50000 x 50000 is more than the limit of 178,000,000 pixels"):
            open_image(bomb)
        with pytest.raises(MediaError, match="limit of 239 pixels"):
            open_image(RGB, limits=Limits(max_pixels=239))
        assert open_image(RGB, limits=Limits(max_pixels=240)).size == (20, 12)

    @pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "gif", "bmp", "tiff"])
    @pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
    def test_a_file_cut_short_is_refused(self, suffix: str, share: float) -> None:
        file = encode(np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8), suffix)
        with pytest.raises(MediaError, match=r"cannot read image <.* bytes>: .*; it is damaged or cut short") as told:
            open_image(file[: int(len(file) * share)])
        assert "not processed" not in str(told.value)  # Pillow's count of what it left says nothing to anybody

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from(["jpeg", "png", "webp", "gif", "bmp"]),
        st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4))),
    )
    def test_a_damaged_file_is_read_or_refused(self, suffix: str, damages: list[tuple[float, bytes]]) -> None:
        file = encode(RGB, suffix)
        for place, change in damages:
            start = int(place * len(file))
            file = file[:start] + change + file[start + len(change) :]
        with suppress(MediaError):
            open_image(file, limits=Limits(max_pixels=1_000_000))

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"", "<0 bytes>: it is empty"),
            (b"<svg></svg>", "no JPEG, PNG"),
            (b"%!PS-Adobe-3.0 EPSF-3.0", "no JPEG, PNG"),
            ("https://example.com/cat.jpg", "remote fetch is off; download it"),
            ("HTTP://example.com/cat.jpg", "remote fetch is off"),
            ("file:///etc/passwd", "pass the path itself"),
            ("data:image/png;base64,AAAA", "decode it and pass the bytes"),
            ("no/such/cat.jpg", "'no/such/cat.jpg': No such file"),
            ("nul\0byte.jpg", "null byte"),
            ("x" * 100_000, "characters"),
            (None, "a NoneType is no source"),
            (7, "a int is no source"),
            ({"path": None}, 'neither "bytes" nor "path"'),
            (RGB.astype(np.float32), "0..1; divide"),
            (RGB.astype(np.int64), "int64 have no known range"),
            (np.full((4, 4), np.nan), "0..1"),
            (np.zeros((3, 5, 5)), r"none of \(H, W\) or \(H, W, C\)"),
            (torch.zeros(5, 5, 5), r"none of \(H, W\), \(C, H, W\) or \(H, W, C\)"),
            (torch.zeros(3, 4, 3), r"first or last; pass a numpy array \(H, W, C\)"),
            (np.zeros((2, 5, 5, 3)), r"one by one: list\(batch\)"),
            (np.zeros((0, 4, 3)), "no pixels"),
        ],
    )
    def test_what_is_no_picture_is_refused_by_name(self, source: Any, message: str) -> None:
        with pytest.raises(MediaError, match=message):
            open_image(source)

    def test_files_that_are_no_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.jpg").write_text("words")
        (tmp_path / "empty.jpg").touch()
        with pytest.raises(MediaError, match="a folder"):
            open_image(tmp_path)
        with pytest.raises(MediaError, match="it is empty"):
            open_image(tmp_path / "empty.jpg")
        with (tmp_path / "text.jpg").open() as file, pytest.raises(MediaError, match="opened as text"):
            open_image(file)  # type: ignore[arg-type]
        with pytest.raises(MediaError, match="not a regular file"):
            open_image("/dev/zero")

    def test_too_many_bytes_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "picture.png"
        path.write_bytes(data := encode(RGB))
        limits = Limits(max_bytes=len(data) - 1)
        for source in (path, data, BytesIO(data)):
            with pytest.raises(MediaError, match="larger than the limit"):
                open_image(source, limits=limits)


class TestSounds:
    @pytest.mark.parametrize(
        ("kind", "subtype", "rate"),
        [
            ("WAV", "PCM_U8", 8_000),
            ("WAV", "PCM_16", 96_000),
            ("WAV", "PCM_24", 44_100),
            ("WAV", "FLOAT", 48_000),
            ("FLAC", "PCM_16", 22_050),
            ("OGG", "VORBIS", 44_100),
            ("OGG", "OPUS", 48_000),
            ("MP3", "MPEG_LAYER_III", 32_000),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning")  # librosa's imports
    def test_a_file_is_read_as_librosa_reads_it(
        self, kind: str, subtype: str, rate: int, channels: int, rng: np.random.Generator
    ) -> None:
        file = sound(0.1 * rng.normal(size=(rate // 2 + 7, channels)), rate, kind, subtype)
        for sample_rate in (16_000, 32_000):
            expected, _ = librosa.load(BytesIO(file), sr=sample_rate, mono=True)
            ours = open_audio(file, sample_rate)
            assert ours.dtype == np.float32
            assert ours.shape == expected.shape
            np.testing.assert_allclose(ours, expected, atol=1e-6)

    @pytest.mark.parametrize("rate", [1, 11_025, 44_100, 192_000, 16_000.5])
    def test_any_rate_is_resampled_as_librosa_does(self, rate: float, rng: np.random.Generator) -> None:
        samples = rng.normal(size=min(int(rate), 50_000) + 3).astype(np.float32)
        expected = librosa.resample(samples, orig_sr=rate, target_sr=16_000)
        np.testing.assert_allclose(open_audio(Audio(samples, rate), 16_000), expected, atol=1e-6)

    def test_six_channels_are_averaged(self, rng: np.random.Generator) -> None:
        samples = 0.1 * rng.normal(size=(1_000, 6)).astype(np.float32)
        for source in (sound(samples, subtype="FLOAT"), Audio(samples, 16_000), Audio(samples.T, 16_000)):
            np.testing.assert_allclose(open_audio(source, 16_000), samples.mean(axis=1), atol=1e-6)

    def test_every_source_of_the_same_sound_gives_the_same_samples(self, tmp_path: Path) -> None:
        path = tmp_path / "sound.wav"
        path.write_bytes(data := sound(SINE))
        samples = (np.round(SINE * 32_768)).astype(np.int16)
        real = samples / 32_768
        sources: list[Any] = [str(path), path, data, BytesIO(data), Audio(path), {"bytes": data, "path": None}]
        sources += [Audio(samples, 16_000), Audio(real, 16_000), Audio(torch.from_numpy(real), 16_000)]
        sources += [{"array": real, "sampling_rate": 16_000}, Audio({"array": real.tolist(), "sampling_rate": 16_000})]
        sources += [Audio(samples.astype(np.int32) << 16, 16_000)]
        for source in sources:
            np.testing.assert_allclose(open_audio(source, 16_000), SINE, atol=1e-4, err_msg=repr(source))

    @pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
    def test_the_first_seconds_equal_the_beginning_of_the_whole(self, rate: int, rng: np.random.Generator) -> None:
        file = sound(0.1 * rng.normal(size=rate * 3), rate)
        whole = open_audio(file, 16_000)
        for seconds in (0.01, 1.0, 2.5, 9.0):
            np.testing.assert_array_equal(
                open_audio(file, 16_000, max_seconds=seconds), whole[: round(seconds * 16_000)]
            )

    @pytest.mark.parametrize(("container", "rate"), [("mp4", 44_100), ("mp4", 8_000), ("adts", 16_000)])
    def test_aac_is_read(self, container: str, rate: int) -> None:
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
        samples = open_audio(m4a(tone, rate, container), 16_000)
        assert abs(len(samples) - 32_000) <= 3_000  # an encoder delays and pads by whole frames
        spectrum = np.abs(np.fft.rfft(samples[8_000:24_000]))
        assert spectrum.argmax() == 440
        assert np.abs(samples[8_000:24_000]).max() == pytest.approx(0.5, abs=0.05)

    def test_aac_without_its_package_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        file = m4a(SINE, 16_000)
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(MediaError, match=r"onepeace\[m4a\]"):
            open_audio(file, 16_000)

    def test_a_play_list_is_not_followed(self) -> None:
        with pytest.raises(MediaError):
            open_audio(b"#EXTM3U\n#EXTINF:9,\nhttp://example.com/a.mp3\n", 16_000)

    def test_twenty_minutes_are_read_whole_or_in_part(self) -> None:
        file = sound(np.tile(SINE[:4_000].astype(np.float32), 2_400), 8_000)
        assert open_audio(file, 16_000).shape == (19_200_000,)
        assert open_audio(file, 16_000, max_seconds=15).shape == (240_000,)
        with pytest.raises(MediaError, match="longer than the limit of 600 s"):
            open_audio(file, 16_000, limits=Limits(max_seconds=600))

    def test_silence_and_ten_milliseconds_are_sounds(self) -> None:
        assert not open_audio(sound(np.zeros(800), 8_000), 16_000).any()
        assert open_audio(sound(SINE[:80], 8_000), 16_000).shape == (160,)
        assert open_audio(Audio(np.float32([0.5]), 48_000), 16_000).shape == (1,)

    def test_a_wav_cut_short_gives_what_is_there(self) -> None:
        file = sound(SINE)
        np.testing.assert_allclose(open_audio(file[: 44 + 2_000], 16_000), SINE[:1_000], atol=1e-4)

    @pytest.mark.parametrize(("kind", "share"), [("FLAC", 0.5), ("FLAC", 0.02), ("OGG", 0.02), ("WAV", 0.001)])
    def test_a_sound_cut_short_is_refused(self, kind: str, share: float, rng: np.random.Generator) -> None:
        file = sound(0.1 * rng.normal(size=16_000), kind=kind)
        with pytest.raises(MediaError, match=r"cannot read audio <.* bytes>"):
            open_audio(file[: int(len(file) * share)], 16_000)

    def test_m4a_cut_short_is_refused(self) -> None:
        file = m4a(SINE, 16_000)
        with pytest.raises(MediaError, match="Invalid data"):
            open_audio(file[: len(file) // 2], 16_000)

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(["WAV", "FLAC", "OGG"]), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4))))
    def test_a_damaged_sound_is_read_or_refused(self, kind: str, damages: list[tuple[float, bytes]]) -> None:
        file = sound(SINE[:2_000], kind=kind)
        for place, change in damages:
            start = int(place * len(file))
            file = file[:start] + change + file[start + len(change) :]
        with suppress(MediaError):
            assert np.isfinite(open_audio(file, 16_000, limits=Limits(max_seconds=60))).all()

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (b"", "it is empty"),
            (b"not a sound at all", "damaged, or none of wav, flac"),
            ("https://example.com/rain.ogg", "remote fetch is off"),
            ("no/such/rain.ogg", "No such file"),
            (sound(np.zeros((0, 1))), "no samples"),
            (sound(np.float32([0, np.nan, 0]), subtype="FLOAT"), "NaN"),
            (Audio(np.float32([0, np.inf]), 16_000), "infinite"),
            (Audio(np.array([0, 1e300]), 16_000), "absurdly large"),
            (Audio(np.zeros((2, 0)), 16_000), "no samples"),
            (Audio(np.zeros((2, 2, 2)), 16_000), "one or two dimensions"),
            (Audio(np.zeros(9, dtype=bool), 16_000), "bool have no known scale"),
            (np.zeros(9), "samples need their rate"),
            ({"array": np.zeros(9), "sampling_rate": None}, "samples need their rate"),
            (Audio(np.zeros(9), 0), "out of range"),
            (Audio(np.zeros(9), -16_000), "out of range"),
            (Audio(np.zeros(9), float("nan")), "out of range"),
            (Audio(sound(SINE), 16_000), "states its own sampling rate"),
            (None, "a NoneType is no source"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,  # a file's bytes hold the time
    )
    def test_what_is_no_sound_is_refused_by_name(self, source: Any, message: str) -> None:
        with pytest.raises(MediaError, match=message):
            open_audio(source, 16_000)


class TestTexts:
    @pytest.mark.parametrize(
        "text", ["", " ", "cat.jpg", "https://example.com", "/etc/passwd", "a\0b", "😀", "שלום", "\ufeff"]
    )
    def test_a_text_is_a_text_whatever_it_looks_like(self, text: str) -> None:
        assert open_text(text) == text
        assert open_text(Text(text)) == text

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("a\ud800b", "character at 1 is half of a surrogate pair"),
            (b"bytes", "type bytes"),
            (None, "NoneType"),
            (Text(3), "type int"),  # type: ignore[arg-type]
            ("x" * 1_000_001, "1,000,001 characters, the limit is 1,000,000"),
        ],
    )
    def test_what_is_no_text_is_refused(self, source: Any, message: str) -> None:
        with pytest.raises(MediaError, match=message):
            open_text(source)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JPG", "image"),
        ("a.tif", "image"),
        ("a.opus", "audio"),
        ("a.m4a", "audio"),
        ("a.jsonl", "text"),
        ("a.py", None),
    ],
)
def test_the_kind_of_a_file_follows_from_its_extension(name: str, kind: str | None) -> None:
    assert media_kind(name) == kind


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lambda: encode(RGB, "jpeg"), "image"),
        (lambda: encode(RGB, "webp"), "image"),
        (lambda: sound(SINE), "audio"),
        (lambda: sound(SINE, kind="OGG"), "audio"),
        (lambda: sound(SINE, kind="MP3"), "audio"),
        (lambda: b"#!/bin/sh", None),
        (lambda: b"", None),
    ],
)
def test_the_kind_of_a_file_without_extension_follows_from_its_first_bytes(
    content: Callable[[], bytes], kind: str | None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content())
    assert media_kind(tmp_path / "file") == kind
    assert media_kind(tmp_path / "missing") is None


def test_sources_are_named_and_never_printed_whole() -> None:
    assert repr(Image("dog.jpg")) == "Image('dog.jpg')"
    assert repr(Image(RGB)) == "Image(<ndarray (12, 20, 3) uint8>)"
    assert repr(Image(bytes(5_000))) == "Image(<5,000 bytes>)"
    assert repr(Audio(SINE, 16_000)) == "Audio(<ndarray (8000,) float64>, sampling_rate=16000)"
    assert repr(Text("a dog")) == "Text('a dog')"
    assert len(repr(Text("x" * 10_000))) < 120


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "max_seconds", "max_characters"])
def test_limits_that_let_nothing_through_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})

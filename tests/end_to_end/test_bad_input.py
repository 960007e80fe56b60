"""Everything that users really have in their folders: a right answer or one clear reason, never a crash or a NaN."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner

from retrieval.cli import app

RNG = np.random.default_rng(5)


def encoded(image: PIL.Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(width: int, height: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(RNG.integers(0, 255, (height, width, 3), dtype=np.uint8))


def sound(seconds: float, rate: int, channels: int = 1, form: str = "WAV", level: float = 0.1) -> bytes:
    out = io.BytesIO()
    samples = RNG.normal(size=(max(1, int(seconds * rate)), channels)).astype(np.float32) * level
    soundfile.write(out, samples, rate, format=form)
    return out.getvalue()


GOOD: dict[str, Callable[[], bytes]] = {
    "one_pixel.png": lambda: encoded(noise(1, 1), "PNG"),
    "wide.png": lambda: encoded(PIL.Image.new("RGB", (30_000, 8), "red"), "PNG"),
    "cmyk.jpg": lambda: encoded(noise(40, 30).convert("CMYK"), "JPEG"),
    "deep.png": lambda: encoded(PIL.Image.fromarray(RNG.integers(0, 65_535, (20, 30), dtype=np.uint16)), "PNG"),
    "animated.gif": lambda: encoded(noise(30, 20), "GIF", save_all=True, append_images=[noise(30, 20)]),
    "palette.png": lambda: encoded(noise(30, 20).convert("P"), "PNG"),
    "alpha.webp": lambda: encoded(noise(30, 20).convert("RGBA"), "WEBP"),
    "silence.wav": lambda: sound(1.0, 16_000, level=0.0),
    "telephone.wav": lambda: sound(1.0, 8_000),
    "studio.flac": lambda: sound(0.5, 96_000, form="FLAC"),
    "surround.wav": lambda: sound(0.5, 48_000, channels=6),
    "click.wav": lambda: sound(0.01, 16_000),
    "cut.wav": lambda: sound(2.0, 16_000)[:20_000],
    "long.ogg": lambda: sound(30.0, 8_000, form="OGG"),
}
BAD: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "empty.wav": lambda: b"",
    "text.png": lambda: b"this is no picture",
    "cut.jpg": lambda: encoded(noise(200, 200), "JPEG")[:300],
    "cut.png": lambda: encoded(noise(200, 200), "PNG")[:2_000],
    "noise.mp3": lambda: RNG.integers(0, 255, 4_000, dtype=np.uint8).tobytes(),
    "no_samples.wav": lambda: sound(1.0, 16_000)[:44],
    "bomb.png": lambda: encoded(PIL.Image.new("1", (50_000, 50_000)), "PNG"),
}
TEXTS = ["", "word " * 10_000, "🐕🎉", "שלום עולם", "/etc/passwd", "https://example.com/a.jpg", "a\tb", "plain words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name, make in (GOOD | BAD).items():
        (folder / name).write_bytes(make())
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    return folder


def test_a_folder_of_everything_is_embedded_and_every_failure_is_named(
    folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors.parquet"
    result = CliRunner().invoke(app, ["embed", str(folder), "--out", str(out), "--model", str(model_folder)])
    assert result.exit_code == 3, result.output
    table = pq.read_table(out)
    names = {Path(uri.partition("#")[0]).name for uri in table["uri"].to_pylist()}
    assert names == {*GOOD, "texts.txt"}
    assert sum(modality == "text" for modality in table["modality"].to_pylist()) == sum(map(bool, TEXTS))
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    reasons = [line for line in result.stderr.splitlines() if str(folder) in line]
    assert {Path(line.split(": ")[0].strip().rstrip("'")).name for line in reasons} == set(BAD)
    assert "Traceback" not in result.output


def test_a_missing_path_is_one_line(model_folder: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(tmp_path / "nowhere"), "--out", str(tmp_path / "o.jsonl"), "--model", str(model_folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines() == [f"error: no such file or folder: {tmp_path / 'nowhere'}"]

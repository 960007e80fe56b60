"""A store of a video, a PDF and a long sound, with their parts as items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import soundfile
from video_files import write_shots

import onepeace
from encoders.media import open_audio
from retrieval import BuildConfig, build_store
from retrieval.gallery import GALLERY

KEY = "a key for tests of films"  # of the service over such a store
NAMES = ("head-lion-orange", "cup-coffee-wooden", "brown-violin")


def picture(name: str) -> PIL.Image.Image:
    return PIL.Image.open(GALLERY / f"pictures/{name}.webp").convert("RGB").resize((256, 256))


def write_film_store(folder: Path, embedder: onepeace.Embedder) -> Path:
    """Two seconds of each picture with rain, a page of each, and rain for 15 s."""
    films = folder / "films"
    films.mkdir()
    rain = np.resize(open_audio(GALLERY / "sounds/rain-falling-steadily.ogg", 16_000), 15 * 16_000)
    write_shots(films / "a clip.mp4", [(picture(name), 2) for name in NAMES], rain[: 6 * 16_000])
    soundfile.write(films / "rain.wav", rain, 16_000)
    first, *others = [picture(name) for name in NAMES]
    first.save(films / "deck.pdf", save_all=True, append_images=others)
    build_store([films], folder / "store", embedder, BuildConfig(windows=True))
    return folder / "store"

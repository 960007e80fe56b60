"""Explanations point at what is known to matter: in scores made up for it, and in pictures and sounds put together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import onepeace
from encoders.media import open_audio
from onepeace.occlusion import GRID, MOST_STEPS, STEP, picture_weights, sound_weights, stretches, word_weights
from retrieval.gallery import GALLERY

ROOT = Path(__file__).resolve().parents[2]
PICTURES, SOUNDS = GALLERY / "pictures", GALLERY / "sounds"


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load("onepeace-tiny", dtype="float32")


def test_what_a_score_reads_gets_the_weight(rng: np.random.Generator) -> None:
    pixels = rng.normal(size=(3, 64, 64)).astype(np.float32)
    contrast = [part[:, 16:24, 40:48].std() for part in (pixels, 0 * pixels)]
    weights = picture_weights(pixels, lambda batch: np.array([one[:, 16:24, 40:48].std() for one in batch]))
    assert np.unravel_index(weights.argmax(), weights.shape) == (2, 5)  # 8 pixels a cell
    assert 0 < weights.max() <= contrast[0]
    assert weights[6:, :2].max() == pytest.approx(0, abs=1e-3)


def test_a_part_of_a_sound_that_counts_gets_the_weight() -> None:
    samples = np.ones(16_000, np.float32)
    bounds = stretches(len(samples), 4_000)
    weights = sound_weights(samples, bounds, 4_000, lambda batch: np.array([one[7_000:7_600].mean() for one in batch]))
    start, end = bounds[int(weights.argmax())]
    assert start < 7_600
    assert end > 7_000
    assert weights[0] == weights[-1] == pytest.approx(0)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 10.0, 600.0])
def test_stretches_cover_a_sound_and_stay_few(seconds: float) -> None:
    bounds = stretches(round(seconds * 1_000), 1_000)
    assert [start for start, _ in bounds[1:]] == [end for _, end in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == (0, round(seconds * 1_000))
    assert len(bounds) == min(MOST_STEPS, -(-round(seconds * 1_000) // round(STEP * 1_000)))


def test_words_weigh_what_the_score_loses_without_them() -> None:
    worth = {"a": 1.0, "dog": 5.0, "not": -2.0}
    found = word_weights("a dog  not", lambda texts: np.array([sum(worth[w] for w in t.split()) for t in texts]))
    assert found == list(worth.items())


def test_a_picture_of_two_things_is_told_apart(model: onepeace.Embedder) -> None:
    both = PIL.Image.new("RGB", (512, 256))
    for place, name in enumerate(("face-tabby-cat", "cup-coffee-wooden")):
        both.paste(PIL.Image.open(PICTURES / f"{name}.webp").convert("RGB").resize((256, 256)), (256 * place, 0))
    classifier = onepeace.ZeroShotClassifier(model, ["a cat", "a cup of coffee"])
    for label, side in (("a cat", 0), ("a cup of coffee", 1)):
        found = classifier.explain(both, label)
        halves = np.split(found.tokens, 2, axis=1)
        assert found.tokens.shape == (GRID, GRID)
        assert halves[side].mean() > 0 > halves[1 - side].mean()
        (left, top, right, bottom), weight = found.regions[0]
        assert int((left + right) / 2 > 0.5) == side
        assert weight == found.tokens.max() == found.tokens[round(top * GRID), round(left * GRID)]
        assert (right - left, bottom - top) == pytest.approx((1 / GRID, 1 / GRID))


def test_a_sound_of_two_things_is_told_apart(model: onepeace.Embedder) -> None:
    names = "dog-barking-again", "rain-falling-steadily"
    parts = [open_audio(SOUNDS / f"{name}.ogg", 32_000)[: 3 * 32_000] for name in names]
    sound = onepeace.Audio(np.concatenate(parts), 32_000)
    classifier = onepeace.ZeroShotClassifier(model, ["a dog", "rain"])
    for label, later in (("a dog", False), ("rain", True)):
        found = classifier.explain(sound, label)
        own = [weight for start, end, weight in found.times if ((start + end) / 2 > 3) == later]
        rest = [weight for start, end, weight in found.times if ((start + end) / 2 > 3) != later]
        assert np.mean(own) > 0 > np.mean(rest)
        assert found.times[0][0] == 0
        assert found.times[-1][1] == pytest.approx(6.0, abs=1e-3)


def test_the_word_that_names_the_label_weighs_most(model: onepeace.Embedder) -> None:
    found = onepeace.ZeroShotClassifier(model, ["a dog", "a violin"]).explain("somebody hears a dog in the garden")
    assert found.label == "a dog"
    assert max(found.words, key=lambda pair: pair[1])[0] == "dog"
    assert [word for word, _ in found.words] == ["somebody", "hears", "a", "dog", "in", "the", "garden"]


def test_a_long_sound_is_explained_window_by_window(model: onepeace.Embedder) -> None:
    samples = np.tile(open_audio(SOUNDS / "dog-barking-again.ogg", 32_000), 3)[: 12 * 32_000]
    found = onepeace.ZeroShotClassifier(model, ["a dog", "rain"]).explain(onepeace.Audio(samples, 32_000))
    ends = [end for _, end, _ in found.times]
    assert [start for start, _, _ in found.times][1:] == pytest.approx(ends[:-1])
    assert ends[-1] == pytest.approx(12.0, abs=1e-3)


def test_drawings_are_png_and_what_notebooks_show(model: onepeace.Embedder, tmp_path: Path) -> None:
    found = onepeace.ZeroShotClassifier(model, ["a <b>dog</b>", "a violin"]).explain("a dog & a cat", "a <b>dog</b>")
    page = found._repr_html_()
    assert "a &lt;b&gt;dog&lt;/b&gt;" in page
    assert len(re.findall("<span", page)) == 5
    assert "&amp;" in page
    path = found.save(tmp_path / "deep" / "why.png")
    with PIL.Image.open(path) as drawn:
        assert drawn.format == "PNG"
    with pytest.raises(ValueError, match=r"\.png"):
        found.save(tmp_path / "why.jpg")


def test_what_cannot_be_explained_is_said(model: onepeace.Embedder) -> None:
    classifier = onepeace.ZeroShotClassifier(model, ["a dog", "a violin"])
    with pytest.raises(ValueError, match="got 2 parts"):
        classifier.explain(onepeace.Compose("a dog", "a cat"))
    with pytest.raises(ValueError, match="'a cat' is none of"):
        classifier.explain("a cat", "a cat")


@pytest.mark.slow
def test_deleting_what_weighs_most_hurts_more_than_deleting_at_random(data_pack: Path) -> None:
    command = [sys.executable, "benchmarks/zero_shot.py", str(data_pack), "--only", "deletion", "--pictures", "32"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(told.splitlines()[-1].split()[0]) < 0.7

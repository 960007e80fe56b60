"""The tokens of an input: the model's own, each where it lies."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from encoders.modality import Modality
from onepeace import Audio, Compose, Embedder, Image, MediaError

NOISE = (np.random.default_rng(2).normal(size=16_000 * 5) * 0.1).astype(np.float32)
PIXELS = np.random.default_rng(3).integers(0, 255, (40, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("value", ["the cat of the night", Image(PIXELS), Audio(NOISE[:24_000], 16_000)])
def test_features_are_those_that_the_heads_vector_is_made_of(value: Any, embedder: Embedder) -> None:
    tokens = embedder.encode_tokens(value)
    np.testing.assert_allclose(tokens.vector, embedder.encode(value), atol=1e-5)
    hidden: list[torch.Tensor] = []
    plain = embedder.folder.model()
    plain.fusion.norms[tokens.modality].register_forward_hook(lambda _module, _args, out: hidden.append(out))
    ((item, _),) = embedder.reader.read(embedder._readable_parts(0, value, 1)[0])
    preprocessor = embedder.reader.preprocessors[Modality(tokens.modality)]
    with torch.inference_mode():
        plain.embed(Modality(tokens.modality), *preprocessor.collate([item]))
    whole = hidden[0][0].numpy()
    assert tokens.features.shape == (len(tokens), embedder.model.config.width)
    # All of them in order, less the class token in front and what lies nowhere.
    first = 1 + (len(preprocessor.config.begin_ids) if tokens.modality == "text" else 0)
    np.testing.assert_allclose(tokens.features, whole[first : first + len(tokens)], atol=1e-5)


def test_words_lie_where_they_stand(embedder: Embedder) -> None:
    text = "  the cat\t of   the night "
    words = embedder.encode_tokens(text)
    assert [text[start:end] for start, end in words.places] == ["the", "cat", "of", "the", "night"]
    assert len(embedder.encode_tokens("")) == 0
    assert len(embedder.encode_tokens("dog " * 100)) == 32  # what the model does not read has no tokens


def test_boxes_tile_the_upright_picture_as_it_was_given(embedder: Embedder) -> None:
    file = BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(PIXELS).resize((1200, 400)).save(file, "JPEG", exif=exif)  # large enough for a draft
    tokens = embedder.encode_tokens(Image(file.getvalue()))
    covered = np.zeros((1200, 400), int)
    for left, top, right, bottom in tokens.places:
        covered[round(top) : round(bottom), round(left) : round(right)] += 1
    assert (covered == 1).all()
    assert tokens.places[0][:2] == (0, 0)
    assert tokens.places[-1][2:] == (400, 1200)
    assert tokens.places[1][1] == 0  # row by row


def test_times_cover_the_sound_and_no_more(embedder: Embedder) -> None:
    for seconds in (0.3, 1.9, 5.0):
        tokens = embedder.encode_tokens(Audio(NOISE[: int(16_000 * seconds)], 16_000))
        starts, ends = np.array(tokens.places).T
        assert starts[0] == 0
        assert (ends > starts).all()
        if embedder.name == "random-backbones":  # its tokens are 0.32 s long, one beside the other
            assert ends[-1] == pytest.approx(seconds)
            assert len(tokens) == sum(int(np.ceil(part / 0.32 - 1e-9)) for part in _windows(seconds))
        else:  # 20 ms, and the last frames need 25
            assert seconds - 0.025 <= ends[-1] <= seconds
            np.testing.assert_allclose(np.diff(starts)[:10], 0.02)


def _windows(seconds: float) -> list[float]:
    return [min(2.0, seconds - start) for start in np.arange(0, seconds, 2.0)]


def test_several_inputs_and_those_that_have_no_tokens(embedder: Embedder) -> None:
    both = embedder.encode_tokens(["a dog", Image(PIXELS)])
    assert [tokens.modality for tokens in both] == ["text", "image"]
    with pytest.raises(ValueError, match="input 1 is a Compose"):
        embedder.encode_tokens(["a dog", Compose("a", "b")])
    with pytest.raises(MediaError, match="input 1: cannot read image <1 bytes>"):
        embedder.encode_tokens(["a dog", Image(b"x")])
